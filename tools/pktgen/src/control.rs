//! A sink at another host: JSON lines over one TCP connection, a request and its answer at a time.
//!
//! ```text
//! {"do":"start","trial":7,"verify":"sample"}      -> {"ok":null}
//! {"do":"finish","sent":50000}                    -> {"ok":{...what was received...}}
//! ```
//!
//! `start` drains the socket and begins to count one trial; `finish` waits until all of it is there or no
//! more comes. Lines are bounded, a silent client is left after [`SILENCE_MAX`]. There is no authentication:
//! whoever reaches the address can make the sink count, and nothing else.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::check::{Checker, Verify};
use crate::collect::{Collected, DRAIN_MAX, Enough, collect, drain};
use crate::live::Live;
use crate::port::{Port, PortError};

/// Longest line: what was received, without its flows.
const LINE_MAX: u64 = 64 << 10;
/// A step and its drains take less.
const SILENCE_MAX: Duration = Duration::from_secs(300);
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Above `DRAIN_MAX`, which the other end may wait before it answers.
const ANSWER_MAX: Duration = DRAIN_MAX.saturating_mul(3);
/// How often a sink without a client looks whether it is still wanted.
const ACCEPT_EVERY: Duration = Duration::from_millis(100);

/// What is wrong between `ndr` and its sink.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(
        "no sink answers at {address}: {source}. Start `spanway-pktgen sink --listen ADDR --control \
         {address}` there first"
    )]
    Connect { address: SocketAddr, source: io::Error },
    #[error("{address} cannot be opened for control: {source}. Choose another port or address")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("the connection to the sink broke: {0}")]
    Broken(#[from] io::Error),
    #[error("the sink's answer is not one: {0}. Is it a sink, of the same version?")]
    Malformed(String),
    #[error("the sink says: {0}")]
    Refused(String),
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
enum Request {
    Start { trial: u32, verify: Verify },
    Finish { sent: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Ok(Option<Box<Collected>>),
    Error(String),
}

/// The end of `ndr`.
#[derive(Debug)]
pub struct Far {
    lines: BufReader<TcpStream>,
}

impl Far {
    pub fn connect(address: SocketAddr) -> Result<Self, ControlError> {
        let open = || {
            let stream = TcpStream::connect_timeout(&address, CONNECT_MAX)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(ANSWER_MAX))?;
            Ok(Self { lines: BufReader::new(stream) })
        };
        open().map_err(|source| ControlError::Connect { address, source })
    }

    /// The sink's queues are empty and it counts this trial.
    pub fn start(&mut self, trial: u32, verify: Verify) -> Result<(), ControlError> {
        self.ask(Request::Start { trial, verify }).map(|_| ())
    }

    /// What the sink has received.
    pub fn finish(&mut self, sent: u64) -> Result<Collected, ControlError> {
        let answer = self.ask(Request::Finish { sent })?;
        let collected = answer.ok_or_else(|| ControlError::Malformed("nothing".to_owned()))?;
        Ok(*collected)
    }

    fn ask(&mut self, request: Request) -> Result<Option<Box<Collected>>, ControlError> {
        write_line(self.lines.get_mut(), &request)?;
        let ended = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let line = read_line(&mut self.lines)?.ok_or_else(ended)?;
        let shown = |_| ControlError::Malformed(line.chars().take(80).collect());
        match serde_json::from_str(&line).map_err(shown)? {
            Answer::Ok(answer) => Ok(answer),
            Answer::Error(error) => Err(ControlError::Refused(error)),
        }
    }
}

/// The end of `sink`: serves one `ndr` after the other until `stop`. Says in `tell` who comes and goes.
pub fn serve(
    port: &Port,
    listener: &TcpListener,
    stop: &AtomicBool,
    tell: &dyn Fn(&str),
) -> Result<(), ControlError> {
    listener.set_nonblocking(true)?;
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, from)) => {
                tell(&format!("{from} measures"));
                match attend(port, stream, stop) {
                    Ok(()) => tell(&format!("{from} is done")),
                    Err(error) => tell(&format!("{from} is gone: {error}")),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::park_timeout(ACCEPT_EVERY);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Opens the address for [`serve`].
pub fn listen(address: SocketAddr) -> Result<TcpListener, ControlError> {
    TcpListener::bind(address).map_err(|source| ControlError::Listen { address, source })
}

fn attend(port: &Port, stream: TcpStream, stop: &AtomicBool) -> Result<(), ControlError> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let mut lines = BufReader::new(stream);
    while !stop.load(Ordering::Relaxed) {
        let Some(request) = read_request(&mut lines)? else { break };
        let answer = match request {
            Request::Start { trial, verify } => match measure(port, &mut lines, trial, verify)? {
                Some(answer) => answer,
                None => break,
            },
            Request::Finish { .. } => Answer::Error("finish without start".to_owned()),
        };
        write_line(lines.get_mut(), &answer)?;
    }
    Ok(())
}

/// From `start` to `finish`: collects in a thread of its own. None if the client left meanwhile.
fn measure(
    port: &Port,
    lines: &mut BufReader<TcpStream>,
    trial: u32,
    verify: Verify,
) -> Result<Option<Answer>, ControlError> {
    let refused = |error: PortError| Answer::Error(error.to_string());
    match drain(port) {
        Ok(true) => {}
        Ok(false) => return Ok(Some(Answer::Error("datagrams keep coming here".to_owned()))),
        Err(error) => return Ok(Some(refused(error))),
    }
    let (live, mut checker) = (Live::default(), Checker::new(verify).of_trial(trial));
    thread::scope(|scope| {
        let collecting = scope.spawn(|| collect(port, &mut checker, Enough::default(), &live));
        let next =
            write_line(lines.get_mut(), &Answer::Ok(None)).and_then(|()| read_request(lines));
        match next {
            Ok(Some(Request::Finish { sent })) => live.finish(Some(sent)),
            Ok(None | Some(Request::Start { .. })) | Err(_) => live.stop(),
        }
        let collected = collecting.join();
        let answer = match (next?, collected) {
            (None, _) => return Ok(None),
            (Some(Request::Start { .. }), _) => Answer::Error("start after start".to_owned()),
            (_, Err(_)) => Answer::Error("the sink's thread died".to_owned()),
            (_, Ok(Err(error))) => refused(error),
            (_, Ok(Ok(mut collected))) => {
                collected.flows.clear();
                Answer::Ok(Some(Box::new(collected)))
            }
        };
        Ok(Some(answer))
    })
}

fn read_request(lines: &mut BufReader<TcpStream>) -> Result<Option<Request>, ControlError> {
    let Some(line) = read_line(lines)? else { return Ok(None) };
    let shown = |_| ControlError::Malformed(line.chars().take(80).collect());
    serde_json::from_str(&line).map(Some).map_err(shown)
}

/// A line without its end; none at the end of the stream.
fn read_line(lines: &mut BufReader<TcpStream>) -> Result<Option<String>, ControlError> {
    let mut line = String::new();
    if lines.by_ref().take(LINE_MAX).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    match line.pop() {
        Some('\n') => Ok(Some(line)),
        _ => Err(ControlError::Malformed(format!("a line without end in {LINE_MAX} bytes"))),
    }
}

fn write_line<T: Serialize>(stream: &mut TcpStream, value: &T) -> Result<(), ControlError> {
    let mut line = serde_json::to_vec(value).map_err(io::Error::from)?;
    line.push(b'\n');
    Ok(stream.write_all(&line)?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::generate::{Plan, Until, generate};
    use crate::schedule::Rate;

    /// A sink with its control address, until dropped.
    struct There {
        to: SocketAddr,
        control: SocketAddr,
        stop: Arc<AtomicBool>,
        thread: Option<thread::JoinHandle<()>>,
    }

    impl There {
        fn start() -> Self {
            let port = Port::bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
            let listener = listen("127.0.0.1:0".parse().expect("an address")).expect("a listener");
            let (to, control) = (port.local(), listener.local_addr().expect("an address"));
            let stop = Arc::new(AtomicBool::new(false));
            let stopped = Arc::clone(&stop);
            let serve = move || serve(&port, &listener, &stopped, &|_| {}).expect("served");
            Self { to, control, stop, thread: Some(thread::spawn(serve)) }
        }
    }

    impl Drop for There {
        fn drop(&mut self) {
            self.stop.store(true, Ordering::Relaxed);
            self.thread.take().map(thread::JoinHandle::join);
        }
    }

    #[test]
    fn a_sink_elsewhere_counts_each_trial_by_itself() {
        let there = There::start();
        let mut far = Far::connect(there.control).expect("connected");
        let ports = Port::bind_flows(there.to, None, 2).expect("ports");
        for trial in 1..=2 {
            far.start(trial, Verify::All).expect("started");
            let plan = Plan {
                prefix: Vec::new(),
                to: there.to,
                rate: Rate::PerSecond(20_000.0),
                sizes: "64:200".parse().expect("sizes"),
                burst: 8,
                gso: true,
                until: Until::Count(500),
                seed: 1,
                trial,
            };
            let sent = generate(&ports, &plan, &Live::default()).expect("sent");
            let collected = far.finish(sent.datagrams).expect("finished");
            assert_eq!((sent.datagrams, collected.totals.received), (500, 500));
            assert!(collected.totals.clean() && collected.flows.is_empty());
        }
    }

    #[test]
    fn nonsense_is_answered_or_cut_off_and_the_next_client_is_served() {
        let there = There::start();
        let mut far = Far::connect(there.control).expect("connected");
        let error = far.finish(1).expect_err("nothing was started").to_string();
        assert!(error.contains("finish without start"), "{error}");
        far.lines.get_mut().write_all(b"GET / HTTP/1.1\r\n\r\n").expect("written");
        assert!(far.start(1, Verify::None).is_err());
        let mut endless = TcpStream::connect(there.control).expect("connected");
        // The sink hangs up when the line is too long, possibly in the middle of this write.
        let _ = endless.write_all(&vec![b'x'; 200_000]);
        drop(endless);
        let mut far = Far::connect(there.control).expect("connected");
        far.start(1, Verify::None).expect("started");
        assert_eq!(far.finish(0).expect("finished").totals.received, 0);
    }

    #[test]
    fn without_a_sink_the_error_says_how_to_start_one() {
        let listener = listen("127.0.0.1:0".parse().expect("an address")).expect("a listener");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let error = Far::connect(address).expect_err("nobody listens").to_string();
        assert!(error.contains("sink --listen ADDR --control"), "{error}");
    }
}
