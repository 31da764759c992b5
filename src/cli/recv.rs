//! `spanway recv`: the frames of one channel in, its payloads in order out, an honest end.
//!
//! ```text
//! daemon ── framed datagrams ──► reader thread ─┐
//!        ── lines of `receive` ─► lines thread ─┴─► spool (bounded) ─► reorder ─► standard output
//! ```
//!
//! The reader does nothing but empty the socket, so a slow standard output does not lose frames until
//! the spool is full; what is dropped then is counted and named. Only this host can send to the
//! socket, and the first sender of a frame is the only one that is listened to. `demo` receives by the
//! same [`receive`].

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::reorder::{Ordered, Reorder, ranges_count, ranges_text};
use super::screen::{CliError, Daemon, Fail, say};
use super::{RecvArgs, clock};
use crate::api::client::{HangUp, Lines};
use crate::api::dto::{Received, Request};
use crate::limits;
use crate::types::ServiceName;
use crate::wire::frame::{self, FrameType};

pub(super) fn recv(args: RecvArgs) -> Result<(), CliError> {
    let daemon = Daemon::of(&args.target)?;
    let mut sink = Output { out: io::BufWriter::with_capacity(OUTPUT_BYTES, io::stdout().lock()) };
    let report = receive(&daemon, &args.service, &mut sink)?;
    if args.target.json {
        say(&report.json());
    }
    match report.problem() {
        Some(problem) => Err(CliError::failure(problem)),
        None => Ok(()),
    }
}

/// Bytes written to standard output at once while there is more.
const OUTPUT_BYTES: usize = 64 << 10;

/// Who takes a stream.
pub(super) trait Sink {
    /// The daemon waits for a channel.
    fn on_waiting(&mut self) {}

    /// A frame has come; out of order, as the network gave it.
    fn on_arrival(&mut self, _at: Instant, _sequence: u64) {}

    /// A payload, in order.
    fn on_payload(&mut self, sequence: u64, payload: &[u8]) -> io::Result<()>;

    /// Nothing more is there now.
    fn on_idle(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How a stream came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// Frames that were sent.
    pub(super) frames: u64,
    pub(super) arrived: u64,
    pub(super) missing: Vec<RangeInclusive<u64>>,
    /// Frames this process dropped because nobody took them in time.
    pub(super) overflowed: u64,
    /// The channel ended without an end of the stream, and why.
    pub(super) closed: Option<String>,
}

impl Report {
    /// What is wrong with it, if anything.
    pub(super) fn problem(&self) -> Option<String> {
        let mut problems = Vec::new();
        if let Some(why) = &self.closed {
            problems.push(format!("the channel was closed before the stream ended: {why}"));
        }
        if !self.missing.is_empty() {
            problems.push(format!(
                "missing frames {} ({} of {})",
                ranges_text(&self.missing),
                ranges_count(&self.missing),
                self.frames
            ));
        }
        if self.overflowed > 0 {
            problems.push(format!(
                "{} of them came, but standard output was too slow to take them",
                self.overflowed
            ));
        }
        (!problems.is_empty()).then(|| problems.join("; "))
    }

    fn json(&self) -> String {
        let missing: Vec<_> =
            self.missing.iter().map(|range| [*range.start(), *range.end()]).collect();
        serde_json::json!({
            "frames": self.frames,
            "arrived": self.arrived,
            "missing": missing,
            "overflowed": self.overflowed,
            "closed": self.closed,
        })
        .to_string()
    }
}

/// Waits for a channel of `service` and takes its stream to the end.
pub(super) fn receive(
    daemon: &Daemon,
    service: &ServiceName,
    sink: &mut dyn Sink,
) -> Result<Report, CliError> {
    let socket = open_socket()
        .map_err(|error| CliError::failure(format!("no socket to receive on: {error}")))?;
    let address = socket
        .local_addr()
        .map_err(|error| CliError::failure(format!("no address to receive on: {error}")))?;
    let request = Request::Receive { service: service.clone(), address };
    let lines = daemon.lines::<Received>(&request)?;
    let spool = Arc::new(Spool::default());
    let _reading = Reading::start(socket, lines, &spool)?;
    Stream { spool: &spool, start: clock::now(), reorder: Reorder::default(), closed: None }
        .run(sink)
}

/// The work of one `receive`.
struct Stream<'a> {
    spool: &'a Spool,
    start: Instant,
    reorder: Reorder,
    closed: Option<String>,
}

impl Stream<'_> {
    fn run(mut self, sink: &mut dyn Sink) -> Result<Report, CliError> {
        let mut out = Ordered::new();
        while !self.reorder.is_done() && self.closed.is_none() {
            let item = match self.spool.pop(Duration::ZERO) {
                Some(item) => Some(item),
                None => {
                    sink.on_idle().map_err(write_error)?;
                    self.spool.pop(self.patience())
                }
            };
            match item {
                Some(Item::Frame(frame)) => {
                    sink.on_arrival(frame.at, frame.sequence);
                    let at = frame.at.saturating_duration_since(self.start);
                    self.reorder.on_frame(at, frame.sequence, frame.payload, &mut out);
                }
                Some(Item::Line(line)) => self.on_line(line, sink),
                Some(Item::Gone(error)) => return Err(error),
                None => {}
            }
            self.reorder.on_time(self.now(), &mut out);
            hand_out(&mut out, sink)?;
        }
        // Nothing more will come for a channel that was closed: what is held goes out.
        self.reorder.on_end(Duration::ZERO, self.reorder.frames());
        self.reorder.on_time(Duration::MAX, &mut out);
        hand_out(&mut out, sink)?;
        sink.on_idle().map_err(write_error)?;
        Ok(Report {
            frames: self.reorder.frames(),
            arrived: self.reorder.arrived(),
            missing: self.reorder.missing().to_vec(),
            overflowed: self.spool.overflowed(),
            closed: self.closed,
        })
    }

    fn on_line(&mut self, line: Received, sink: &mut dyn Sink) {
        match line {
            Received::Waiting => sink.on_waiting(),
            Received::Open { .. } => {}
            Received::Finished { frames } => self.reorder.on_end(self.now(), frames),
            Received::Closed { why } => self.closed = Some(why),
        }
    }

    fn now(&self) -> Duration {
        clock::now().saturating_duration_since(self.start)
    }

    /// How long nothing may happen before a gap is given up.
    fn patience(&self) -> Duration {
        let deadline = self.reorder.deadline().map(|at| at.saturating_sub(self.now()));
        deadline.unwrap_or(IDLE_WAIT).min(IDLE_WAIT)
    }
}

/// Longest wait for the spool.
const IDLE_WAIT: Duration = Duration::from_millis(200);

fn hand_out(out: &mut Ordered, sink: &mut dyn Sink) -> Result<(), CliError> {
    out.drain(..).try_for_each(|(sequence, payload)| {
        sink.on_payload(sequence, &payload).map_err(write_error)
    })
}

fn write_error(error: io::Error) -> CliError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        // Whoever read the stream has gone; they know.
        return CliError::said(Fail::Failure);
    }
    CliError::failure(format!("the stream cannot be written: {error}"))
}

/// Standard output as a sink.
struct Output<W: Write> {
    out: W,
}

impl<W: Write> Sink for Output<W> {
    fn on_payload(&mut self, _sequence: u64, payload: &[u8]) -> io::Result<()> {
        self.out.write_all(payload)
    }

    fn on_idle(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A frame as it came.
struct Arrival {
    at: Instant,
    sequence: u64,
    payload: Vec<u8>,
}

enum Item {
    Frame(Arrival),
    Line(Received),
    /// The daemon hung up.
    Gone(CliError),
}

/// Between the two threads that listen and the one that works.
#[derive(Default)]
struct Spool {
    inner: Mutex<SpoolInner>,
    filled: Condvar,
}

#[derive(Default)]
struct SpoolInner {
    items: VecDeque<Item>,
    bytes: usize,
    overflowed: u64,
    stopped: bool,
}

impl Spool {
    fn push(&self, item: Item) {
        let mut inner = self.lock();
        if let Item::Frame(frame) = &item {
            if inner.bytes + frame.payload.len() > limits::RECV_HELD_BYTES_MAX {
                inner.overflowed += 1;
                return;
            }
            inner.bytes += frame.payload.len();
        }
        inner.items.push_back(item);
        self.filled.notify_one();
    }

    fn pop(&self, patience: Duration) -> Option<Item> {
        let inner = self.lock();
        let (mut inner, _) = self
            .filled
            .wait_timeout_while(inner, patience, |inner| inner.items.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        let item = inner.items.pop_front();
        if let Some(Item::Frame(frame)) = &item {
            inner.bytes -= frame.payload.len();
        }
        item
    }

    fn overflowed(&self) -> u64 {
        self.lock().overflowed
    }

    fn stop(&self) {
        self.lock().stopped = true;
    }

    fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    fn lock(&self) -> MutexGuard<'_, SpoolInner> {
        // A thread that panicked left plain data behind; there is nothing to repair.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The two threads; they end when this is dropped.
struct Reading {
    spool: Arc<Spool>,
    hang_up: HangUp,
}

impl Reading {
    fn start(
        socket: UdpSocket,
        lines: Lines<Received>,
        spool: &Arc<Spool>,
    ) -> Result<Self, CliError> {
        let hang_up = lines.hang_up()?;
        let reading = Self { spool: Arc::clone(spool), hang_up };
        let (frames, answers) = (Arc::clone(spool), Arc::clone(spool));
        let thread = |name: &str| thread::Builder::new().name(name.to_owned());
        let started = thread("frames")
            .spawn(move || read_frames(&socket, &frames))
            .and_then(|_| thread("lines").spawn(move || read_lines(lines, &answers)));
        match started {
            Ok(_) => Ok(reading),
            Err(error) => Err(CliError::failure(format!("no thread to receive with: {error}"))),
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.spool.stop();
        self.hang_up.close();
    }
}

fn open_socket() -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    // The kernel gives what it allows; the reader thread has to do with it.
    let _ = socket.set_recv_buffer_size(limits::SOCKET_BUFFER_BYTES);
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(STOP_POLL))?;
    Ok(socket)
}

/// How often the reader looks whether it shall stop.
const STOP_POLL: Duration = Duration::from_millis(100);

fn read_frames(socket: &UdpSocket, spool: &Spool) {
    let mut buffer = vec![0; limits::DATAGRAM_BYTES_MAX];
    let mut sender: Option<SocketAddr> = None;
    while !spool.is_stopped() {
        // Errors are timeouts, or of one datagram only: the next one may be fine.
        let Ok((bytes, from)) = socket.recv_from(&mut buffer) else { continue };
        let at = clock::now();
        let datagram = &buffer[..bytes];
        let Ok(header) = frame::parse(datagram) else { continue };
        if header.frame_type != FrameType::Data || *sender.get_or_insert(from) != from {
            continue;
        }
        let payload = frame::payload(&header, datagram).to_vec();
        spool.push(Item::Frame(Arrival { at, sequence: header.sequence, payload }));
    }
}

fn read_lines(lines: Lines<Received>, spool: &Spool) {
    for line in lines {
        match line {
            Ok(line) => spool.push(Item::Line(line)),
            Err(error) => return spool.push(Item::Gone(error.into())),
        }
    }
    spool.push(Item::Gone(CliError::failure("the daemon has stopped; its log says why")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Kept(Vec<(u64, Vec<u8>)>);

    impl Sink for Kept {
        fn on_payload(&mut self, sequence: u64, payload: &[u8]) -> io::Result<()> {
            self.0.push((sequence, payload.to_vec()));
            Ok(())
        }
    }

    fn run(items: Vec<Item>) -> (Report, Kept) {
        let spool = Spool::default();
        items.into_iter().for_each(|item| spool.push(item));
        let mut kept = Kept::default();
        let stream = Stream {
            spool: &spool,
            start: clock::now(),
            reorder: Reorder::default(),
            closed: None,
        };
        (stream.run(&mut kept).expect("an end"), kept)
    }

    fn arrival(sequence: u64) -> Item {
        Item::Frame(Arrival { at: clock::now(), sequence, payload: vec![7; 3] })
    }

    #[test]
    fn a_whole_stream_has_no_problem() {
        let (report, kept) = run(vec![
            Item::Line(Received::Waiting),
            arrival(0),
            arrival(2),
            Item::Line(Received::Finished { frames: 3 }),
            arrival(1),
        ]);
        assert_eq!(report.problem(), None);
        assert_eq!(kept.0.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn a_channel_closed_without_an_end_is_a_problem_and_keeps_what_came() {
        let closed = Item::Line(Received::Closed { why: "the lease ran out".to_owned() });
        let (report, kept) = run(vec![arrival(0), arrival(2), closed]);
        let problem = report.problem().expect("a problem");
        assert!(problem.contains("the lease ran out"), "{problem}");
        assert!(problem.contains("missing frames 1 (1 of 3)"), "{problem}");
        assert_eq!(kept.0.len(), 2);
    }

    #[test]
    fn missing_frames_are_named_as_ranges() {
        let report = Report {
            frames: 1_200,
            arrived: 1_195,
            missing: vec![17..=20, 44..=44],
            overflowed: 0,
            closed: None,
        };
        assert_eq!(report.problem().as_deref(), Some("missing frames 17-20, 44 (5 of 1200)"));
    }

    #[test]
    fn the_spool_is_bounded_and_counts_what_it_drops() {
        let spool = Spool::default();
        let big =
            || Item::Frame(Arrival { at: clock::now(), sequence: 0, payload: vec![0; 1 << 20] });
        let fits = limits::RECV_HELD_BYTES_MAX >> 20;
        (0..fits + 3).for_each(|_| spool.push(big()));
        assert_eq!(spool.overflowed(), 3);
        assert!(spool.pop(Duration::ZERO).is_some());
        spool.push(big());
        assert_eq!(spool.overflowed(), 3);
    }
}
