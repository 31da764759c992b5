//! The daemon's end of the local socket: reads one request line per client, writes its answer lines.
//!
//! Bounded: [`limits::CLIENTS_MAX`] clients, one request each, of at most
//! [`limits::REQUEST_BYTES_MAX`]; a client that does not read its lines is told and let go. Knows
//! nothing of what a request does: the daemon's control loop takes each [`Ask`] and fills its
//! [`Answers`]. Runs on the control thread; nothing here is shared with another.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{sleep, timeout};

use super::dto::{Failure, FailureKind, Reply, Request};
use crate::limits;
use crate::types::Reject;

/// One thing a client wants.
#[derive(Debug)]
pub struct Ask {
    /// Counts the clients of this run.
    pub client: u64,
    pub what: What,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are requests")]
pub enum What {
    Request(Request, Answers),
    /// The client of an unfinished `receive`, `events` or `watch` went away.
    Gone,
}

/// Where the answer lines of one client go. Dropping it ends the answer.
#[derive(Debug)]
pub struct Answers {
    lines: Rc<Lines>,
    /// A line that it stands in line is wanted, too.
    told: bool,
}

#[derive(Debug, Default)]
struct Lines {
    waiting: RefCell<Waiting>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<String>,
    ended: bool,
    slow: bool,
}

impl Answers {
    /// One line with a value.
    pub fn ok<T: Serialize>(&self, value: &T) {
        self.push(&Reply::Ok(value));
    }

    /// One line with what is wrong.
    pub fn failed(&self, kind: FailureKind, message: impl Into<String>) {
        self.push(&failure(kind, message));
    }

    pub fn refused(&self, failure: Failure) {
        self.push(&Reply::<()>::Error(failure));
    }

    /// Whether more than the last line of an `open` is wanted.
    pub fn told(&self) -> bool {
        self.told
    }

    fn push<T: Serialize>(&self, reply: &Reply<T>) {
        let mut waiting = self.lines.waiting.borrow_mut();
        if waiting.lines.len() < limits::CLIENT_LINES_MAX {
            waiting.lines.push_back(line(reply));
        } else {
            waiting.slow = true;
        }
        drop(waiting);
        self.lines.changed.notify_one();
    }
}

#[cfg(test)]
impl Answers {
    /// Answers of a client, and what it has of them by now.
    pub(crate) fn of_test() -> (Self, impl Fn() -> Vec<String>) {
        let lines = Rc::new(Lines::default());
        let read = Rc::clone(&lines);
        (Self { lines, told: false }, move || read.waiting.borrow().lines.iter().cloned().collect())
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.lines.waiting.borrow_mut().ended = true;
        self.lines.changed.notify_one();
    }
}

impl Lines {
    /// The next line; `None` after the last.
    async fn next(&self) -> Option<String> {
        loop {
            {
                let mut waiting = self.waiting.borrow_mut();
                if let Some(line) = waiting.lines.pop_front() {
                    return Some(line);
                }
                if std::mem::take(&mut waiting.slow) {
                    waiting.ended = true;
                    let lost = "lines were lost: this client reads too slowly";
                    return Some(line(&failure(FailureKind::Failed, lost)));
                }
                if waiting.ended {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }
}

/// The clients of one daemon.
#[derive(Clone)]
pub struct Clients {
    permits: Arc<Semaphore>,
    ask: Rc<dyn Fn(Ask)>,
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients").field("permits", &self.permits).finish_non_exhaustive()
    }
}

impl Clients {
    /// `ask` takes what clients want, in the order in which it came.
    pub fn new(ask: impl Fn(Ask) + 'static) -> Self {
        Self { permits: Arc::new(Semaphore::new(limits::CLIENTS_MAX)), ask: Rc::new(ask) }
    }

    /// Takes clients for as long as the daemon runs.
    #[expect(clippy::infinite_loop, reason = "its task is aborted when the daemon stops")]
    pub async fn serve(self, listener: UnixListener) {
        let mut client = 0;
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors: some client or link has to end first.
                    tracing::warn!(%error, "cannot accept a local client");
                    sleep(limits::REDIAL.0).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
                let text = format!("{} clients are connected already", limits::CLIENTS_MAX);
                // One short line into an empty socket buffer: it fits, or the client is gone.
                let busy = Failure {
                    kind: FailureKind::Failed,
                    message: text,
                    reason: Some(Reject::Busy),
                };
                let _ = stream.try_write(line(&Reply::<()>::Error(busy)).as_bytes());
                continue;
            };
            client += 1;
            let ask = Rc::clone(&self.ask);
            tokio::task::spawn_local(async move {
                serve_one(stream, client, &*ask).await;
                drop(permit);
            });
        }
    }

    /// Waits until every client has its lines: the daemon ends only then, or when `bound` is over.
    pub async fn finished(&self, bound: std::time::Duration) {
        let all = u32::try_from(limits::CLIENTS_MAX).unwrap_or(u32::MAX);
        // Whatever came of it, the daemon goes on to stop.
        let _ = timeout(bound, self.permits.acquire_many(all)).await;
    }
}

async fn serve_one(stream: UnixStream, client: u64, ask: &dyn Fn(Ask)) {
    let (mut read, mut write) = stream.into_split();
    let request = match timeout(limits::CLIENT_REQUEST_MAX, read_request(&mut read)).await {
        Ok(Ok(request)) => request,
        Ok(Err(Unread::Gone)) => return,
        Ok(Err(Unread::Wrong(failure))) => {
            // A client that is gone needs no answer.
            let _ = write.write_all(line(&Reply::<()>::Error(failure)).as_bytes()).await;
            return;
        }
        Err(_) => return,
    };
    let lasting =
        matches!(request, Request::Receive { .. } | Request::Events | Request::Watch { .. });
    let told = matches!(request, Request::OpenTold(_));
    // Who stands in line for somebody that is gone keeps others waiting.
    let waits = matches!(&request, Request::Open(open) | Request::OpenTold(open) if open.wait);
    let lines = Rc::new(Lines::default());
    let answers = Answers { lines: Rc::clone(&lines), told };
    ask(Ask { client, what: What::Request(request, answers) });
    tokio::select! {
        () = write_lines(&lines, &mut write) => {}
        () = until_gone(&mut read, lasting) => {}
    }
    if lasting || waits {
        ask(Ask { client, what: What::Gone });
    }
}

async fn write_lines(lines: &Lines, write: &mut OwnedWriteHalf) {
    while let Some(line) = lines.next().await {
        if write.write_all(line.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Whatever else the client sends is thrown away. Its end of writing is its end for requests that
/// last; for others it may still wait for the answer, until it closes the socket.
async fn until_gone(read: &mut OwnedReadHalf, lasting: bool) {
    let mut bytes = [0; 256];
    while read.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
    if lasting {
        return;
    }
    // Ready, but not closed, is what a client is that still waits for its answer.
    while let Ok(ready) = read.as_ref().ready(Interest::WRITABLE).await {
        if ready.is_write_closed() {
            return;
        }
        sleep(limits::CLIENT_LOOK_INTERVAL).await;
    }
}

enum Unread {
    Gone,
    Wrong(Failure),
}

async fn read_request(read: &mut OwnedReadHalf) -> Result<Request, Unread> {
    let usage = |message: String| {
        Unread::Wrong(Failure { kind: FailureKind::Usage, message, reason: None })
    };
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4_096];
        let count = read.read(&mut piece).await.map_err(|_| Unread::Gone)?;
        bytes.extend_from_slice(&piece[..count]);
        let end = bytes.iter().position(|&byte| byte == b'\n');
        if end.unwrap_or(bytes.len()) > limits::REQUEST_BYTES_MAX {
            return Err(usage(format!("a request is at most {} bytes", limits::REQUEST_BYTES_MAX)));
        }
        match end {
            Some(end) => return parse_request(&bytes[..end]).map_err(usage),
            None if count == 0 && bytes.is_empty() => return Err(Unread::Gone),
            None if count == 0 => return parse_request(&bytes).map_err(usage),
            None => {}
        }
    }
}

fn parse_request(line: &[u8]) -> Result<Request, String> {
    // First as JSON of any kind: its errors have a position, those of a tagged enum have none.
    let value: serde_json::Value = serde_json::from_slice(line)
        .map_err(|error| format!("the request is not JSON: {error}"))?;
    serde_json::from_value(value).map_err(|error| {
        let text = error.to_string();
        let word = text.split('`').nth(1).unwrap_or_default();
        let place = std::str::from_utf8(line).ok().and_then(|line| line.find(word));
        let place = place.filter(|_| !word.is_empty());
        let place = place.map(|at| format!(" at column {}", at + 1)).unwrap_or_default();
        format!("the request is not known: {text}{place}")
    })
}

fn failure(kind: FailureKind, message: impl Into<String>) -> Reply<()> {
    Reply::Error(Failure { kind, message: message.into(), reason: None })
}

fn line<T: Serialize>(reply: &Reply<T>) -> String {
    let mut line = serde_json::to_string(reply).expect("answers have text keys only");
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_is_none_is_refused_with_its_position() {
        for (text, expected) in [
            ("", "line 1 column 0"),
            ("{\"request\":\"status\"", "line 1 column 19"),
            ("{\"request\":\"dance\"}", "`dance`"),
            ("{\"request\":\"dance\"}", "at column 13"),
            ("{\"request\":\"close\",\"channel\":\"a\",\"x\":1}", "`x`"),
            ("{\"request\":\"services\",\"peer\":\"a/b\"}", "is not a name"),
            (&format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)), "recursion"),
        ] {
            let error = parse_request(text.as_bytes()).expect_err(text);
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(parse_request(b"{\"request\":\"status\"}"), Ok(Request::Status));
    }

    fn talk(request: &[u8], answer: impl Fn(Ask) + 'static) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime.expect("a runtime"), async {
            let (mut here, there) = UnixStream::pair().expect("a pair");
            let served = tokio::task::spawn_local(async move {
                serve_one(there, 1, &answer).await;
            });
            here.write_all(request).await.expect("written");
            let mut text = String::new();
            here.read_to_string(&mut text).await.expect("read");
            served.await.expect("no panic");
            text
        })
    }

    #[test]
    fn a26_one_line_in_and_the_answer_lines_out() {
        let text = talk(b"{\"request\":\"peers\"}\n", |ask| {
            let What::Request(Request::Peers, answers) = ask.what else { panic!("not that") };
            answers.ok(&[1, 2]);
            answers.failed(FailureKind::Failed, "and no more");
        });
        let expected = "{\"ok\":[1,2]}\n\
                        {\"error\":{\"kind\":\"failed\",\"message\":\"and no more\"}}\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_request_without_an_end_is_cut_off_at_its_bound() {
        let long = vec![b' '; limits::REQUEST_BYTES_MAX + 4_096];
        let text = talk(&long, |_| panic!("nothing was asked"));
        assert!(text.contains("usage") && text.contains("at most 65536 bytes"), "{text}");
    }

    #[test]
    fn a_client_that_goes_away_before_its_answer_frees_its_place() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime.expect("a runtime"), async {
            let (mut here, there) = UnixStream::pair().expect("a pair");
            let kept = RefCell::new(None);
            let keep = |ask: Ask| {
                kept.replace(Some(ask));
            };
            let served = serve_one(there, 1, &keep);
            let client = async {
                here.write_all(b"{\"request\":\"verify\"}\n").await.expect("written");
                here.shutdown().await.expect("shut down");
                drop(here);
            };
            timeout(limits::CLIENT_REQUEST_MAX, async { tokio::join!(served, client) })
                .await
                .expect("it is noticed");
            assert!(kept.borrow().is_some(), "nothing was asked");
        });
    }

    #[test]
    fn a_client_that_does_not_read_is_told_and_let_go() {
        let text = talk(b"{\"request\":\"events\"}\n", |ask| {
            if let What::Request(_, answers) = ask.what {
                (0..limits::CLIENT_LINES_MAX + 9).for_each(|number| answers.ok(&number));
            }
        });
        assert_eq!(text.lines().count(), limits::CLIENT_LINES_MAX + 1);
        assert!(text.lines().last().is_some_and(|last| last.contains("too slowly")), "{text}");
    }
}
