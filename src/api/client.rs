//! The client's end of the local interface: a blocking connection to the daemon of this host.
//!
//! One connection carries one request, so [`Client::request`] and [`Client::lines`] take the client.
//! Assumes that whoever may open the socket is trusted; still bounds what one answer may weigh. Does
//! not retry, and knows nothing of configuration files or terminals.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::marker::PhantomData;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::api::dto::{Failure, Reply, Request};
use crate::limits;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no daemon is running: nothing listens at {}", .socket.display())]
    NotRunning { socket: PathBuf, source: io::Error },
    #[error(
        "{} may not be opened by this user: run the command as the user that runs the daemon",
        .socket.display()
    )]
    NotAllowed { socket: PathBuf, source: io::Error },
    #[error("the daemon did not answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    #[error("the daemon closed the connection before it answered; its log says why")]
    Ended,
    #[error("the daemon's answer is not understood ({0}): are both of the same version?")]
    Malformed(serde_json::Error),
    #[error("{}", .0.message)]
    Refused(Failure),
    #[error("talking to the daemon failed: {0}")]
    Io(io::Error),
}

/// A connection to a daemon, before its one request.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    timeout: Duration,
}

impl Client {
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket).map_err(|source| {
            let socket = socket.to_path_buf();
            if source.kind() == io::ErrorKind::PermissionDenied {
                ClientError::NotAllowed { socket, source }
            } else {
                ClientError::NotRunning { socket, source }
            }
        })?;
        Ok(Self { stream, timeout: limits::CLIENT_ANSWER_MAX })
    }

    /// Waits this long for an answer that the overlay needs time for.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Asks and waits for the one answer.
    pub fn request<T: DeserializeOwned>(self, request: &Request) -> Result<T, ClientError> {
        let timeout = self.timeout;
        let mut lines = self.lines(request)?;
        lines.wait(Some(timeout))?;
        match lines.next() {
            Some(answer) => answer,
            None => Err(ClientError::Ended),
        }
    }

    /// Asks and hands out the answers as they come; waits for each without a bound.
    pub fn lines<T: DeserializeOwned>(self, request: &Request) -> Result<Lines<T>, ClientError> {
        let mut stream = self.stream;
        let mut line = serde_json::to_vec(request).map_err(ClientError::Malformed)?;
        line.push(b'\n');
        stream.set_write_timeout(Some(self.timeout)).map_err(ClientError::Io)?;
        stream.write_all(&line).map_err(ClientError::Io)?;
        Ok(Lines { reader: BufReader::new(stream), timeout: None, shape: PhantomData })
    }
}

/// The answers to one request, in order; ends when the daemon closes the connection.
#[derive(Debug)]
pub struct Lines<T> {
    reader: BufReader<UnixStream>,
    timeout: Option<Duration>,
    shape: PhantomData<T>,
}

impl<T> Lines<T> {
    /// From now on waits at most this long for each line.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<(), ClientError> {
        self.timeout = timeout;
        self.reader.get_ref().set_read_timeout(timeout).map_err(ClientError::Io)
    }

    /// A handle that ends the wait of another thread in `next`.
    pub fn hang_up(&self) -> Result<HangUp, ClientError> {
        self.reader.get_ref().try_clone().map(HangUp).map_err(ClientError::Io)
    }
}

impl<T: DeserializeOwned> Iterator for Lines<T> {
    type Item = Result<T, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        let bound = limits::REPLY_BYTES_MAX as u64;
        match self.reader.by_ref().take(bound).read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) => Some(match serde_json::from_slice::<Reply<T>>(&line) {
                Ok(Reply::Ok(value)) => Ok(value),
                Ok(Reply::Error(failure)) => Err(ClientError::Refused(failure)),
                Err(error) => Err(ClientError::Malformed(error)),
            }),
            Err(error) => Some(Err(match (error.kind(), self.timeout) {
                (io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut, Some(after)) => {
                    ClientError::TimedOut(after)
                }
                _ => ClientError::Io(error),
            })),
        }
    }
}

/// Closes a connection whose lines another thread waits for.
#[derive(Debug)]
pub struct HangUp(UnixStream);

impl HangUp {
    pub fn close(&self) {
        // The connection may be closed already: then there is nothing to do.
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::api::dto::{FailureKind, Received};

    /// A daemon that answers one connection with `answer` and closes it.
    fn daemon(answer: &'static str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("control.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut line = String::new();
            let mut reader = BufReader::new(stream.try_clone().expect("a handle"));
            reader.read_line(&mut line).expect("a request");
            serde_json::from_str::<Request>(&line).expect("a request of the contract");
            stream.write_all(answer.as_bytes()).expect("an answer");
        });
        (folder, socket)
    }

    #[test]
    fn an_answer_is_read_into_its_shape() {
        let (_folder, socket) = daemon("{\"ok\":[1,2]}\n");
        let client = Client::connect(&socket).expect("connected");
        assert_eq!(client.request::<Vec<u8>>(&Request::Peers).expect("an answer"), [1, 2]);
    }

    #[test]
    fn a_refusal_keeps_its_kind_and_its_text() {
        let (_folder, socket) =
            daemon("{\"error\":{\"kind\":\"usage\",\"message\":\"no such channel\"}}\n");
        let client = Client::connect(&socket).expect("connected");
        let error = client.request::<u8>(&Request::Peers).expect_err("refused");
        assert_eq!(error.to_string(), "no such channel");
        assert!(matches!(error, ClientError::Refused(f) if f.kind == FailureKind::Usage));
    }

    #[test]
    fn lines_come_one_by_one_until_the_daemon_closes() {
        let (_folder, socket) = daemon(
            "{\"ok\":{\"event\":\"waiting\"}}\n{\"ok\":{\"event\":\"finished\",\"frames\":3}}\n",
        );
        let client = Client::connect(&socket).expect("connected");
        let lines: Vec<Received> = client
            .lines(&Request::Events)
            .expect("asked")
            .collect::<Result<_, _>>()
            .expect("two lines");
        assert_eq!(lines, [Received::Waiting, Received::Finished { frames: 3 }]);
    }

    #[test]
    fn a_socket_nobody_listens_at_is_named() {
        let error = Client::connect(Path::new("/nowhere/control.sock")).expect_err("no daemon");
        assert!(error.to_string().contains("/nowhere/control.sock"), "{error}");
    }

    #[test]
    fn an_answer_cut_short_is_not_an_answer() {
        let (_folder, socket) = daemon("");
        let client = Client::connect(&socket).expect("connected");
        assert!(matches!(client.request::<u8>(&Request::Peers), Err(ClientError::Ended)));
    }
}
