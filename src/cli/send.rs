//! `spanway send`: a byte stream in, datagrams at the pace of a channel out, an honest end.
//!
//! The pace counts what the reservation counts: whole IP packets of the frames. What was handed to the
//! daemon's socket is compared with what the daemon counted, so a datagram that this host lost is
//! reported here and not mistaken for one the overlay lost. `demo` sends by the same [`transmit`].

use std::io::{self, IsTerminal, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::open::{millis, verdict};
use super::screen::{CliError, Daemon, print, say, to_json};
use super::watch::Watch;
use super::{SendArgs, answer_time, clock, interrupt};
use crate::api::dto::{self, ChannelRow, OpenReply, Request};
use crate::limits;
use crate::stats::DropReason;
use crate::types::Bandwidth;
use crate::wire::frame;

pub(super) fn send(args: SendArgs) -> Result<(), CliError> {
    let daemon = Daemon::of(&args.target)?;
    let rate = args.rates.bandwidth;
    let reply = open_for_stream(
        &daemon,
        dto::Open {
            peer: args.destination.peer,
            service: args.destination.service,
            bandwidth_bps: rate,
            bandwidth_back_bps: args.rates.back(),
            name: None,
            listen: None,
            deliver: None,
            from: None,
            path: dto::PathChoice::default(),
            avoid: Vec::new(),
            deadline_ms: millis(OPEN_DEADLINE),
            wait: false,
            protect: false,
            shape: args.shape,
            keep: false,
            plain: args.plain,
            idempotency_key: None,
        },
    )?;
    let entry = Entry::of(&reply, rate, args.size)?;
    if entry.size < usize::from(args.size) {
        say(&format!("this channel carries at most {} bytes a datagram", entry.size));
    }
    close_on_interrupt(&daemon, &entry.channel);
    let watch = Watch::start(&daemon, &entry.channel, args.target.json);
    let progress = io::stderr().is_terminal();
    let mut input = io::stdin().lock();
    let sent = transmit(&entry, &mut input, &mut |sent| {
        if progress {
            eprint_progress(sent);
        }
        true
    });
    if progress {
        say("");
    }
    watch.into_iter().for_each(Watch::stop);
    let outcome = sent.and_then(|sent| Ok((sent, finish(&daemon, &entry, &sent)?)));
    if outcome.is_ok() {
        wait_until_taken(&daemon, &entry.channel);
    }
    close(&daemon, &entry.channel);
    let (sent, local) = outcome?;
    if args.target.json {
        let json = to_json(&serde_json::json!({
            "channel": entry.channel,
            "frames": sent.frames,
            "bytes": sent.bytes,
            "elapsed_ms": millis(sent.elapsed),
            "lost_here": local.lost,
            "lost_moving": local.moving,
            "policed": local.policed,
        }))?;
        print(|out, _| writeln!(out, "{json}"))?;
    }
    judge(&entry, &sent, local)
}

/// Whether this host did its part.
fn judge(entry: &Entry, sent: &Sent, local: Local) -> Result<(), CliError> {
    if local.moving > 0 {
        say(&format!(
            "{} of {} frames were dropped while the channel moved to another path",
            local.moving, sent.frames
        ));
    }
    if local.policed > 0 {
        return Err(CliError::failure(format!(
            "{} of {} frames were policed: more came for channel {} than the {} it was opened with; \
             this stream takes {} as it was sent",
            local.policed,
            sent.frames,
            entry.channel,
            entry.rate,
            about(sent.packet_rate(entry.overhead))
        )));
    }
    if local.lost > 0 {
        return Err(CliError::failure(format!(
            "{} of {} frames were lost on this host before they entered the overlay: its receive \
             buffers are too small or it is too busy (`spanway channels` shows where)",
            local.lost, sent.frames
        )));
    }
    Ok(())
}

/// Time for the far end to say yes before a stream.
const OPEN_DEADLINE: Duration = Duration::from_secs(30);

/// The entry of an open channel, ready to send to.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) channel: String,
    pub(super) listen: SocketAddr,
    pub(super) rate: Bandwidth,
    /// Payload bytes of each datagram but the last.
    pub(super) size: usize,
    /// What is added to each payload on its way.
    pub(super) overhead: usize,
}

impl Entry {
    /// The entry of the channel `reply` opened with `rate`.
    pub(super) fn of(reply: &OpenReply, rate: Bandwidth, size: u16) -> Result<Self, CliError> {
        let (Some(channel), Some(listen)) = (&reply.channel, reply.listen) else {
            return Err(CliError::failure("the daemon opened a channel nobody can send to"));
        };
        let size = usize::from(size.min(reply.max_payload_bytes)).max(1);
        let v4 = frame::OVERHEAD_BYTES + frame::ip_overhead_bytes(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let v6 = frame::OVERHEAD_BYTES + frame::ip_overhead_bytes(IpAddr::V6(Ipv6Addr::LOCALHOST));
        // The daemon knows which IP the hops speak; its payload rate tells.
        let told = reply.payload_1316_bps;
        let overhead = if rate.payload_rate(1316, v4 as u64) == told { v4 } else { v6 };
        Ok(Self { channel: channel.clone(), listen, rate, size, overhead })
    }
}

/// What has been sent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) frames: u64,
    /// Payload bytes.
    pub(super) bytes: u64,
    pub(super) elapsed: Duration,
}

impl Sent {
    /// The payload rate so far.
    pub(super) fn rate(&self) -> Bandwidth {
        rate_of(self.bytes, self.elapsed)
    }

    /// What a reservation has to hold for it, with `overhead` bytes around each payload.
    fn packet_rate(&self, overhead: usize) -> Bandwidth {
        rate_of(self.bytes + self.frames * overhead as u64, self.elapsed)
    }
}

/// Asks for a channel; anything but `open` is an error.
pub(super) fn open_for_stream(daemon: &Daemon, open: dto::Open) -> Result<OpenReply, CliError> {
    let deadline = Duration::from_millis(open.deadline_ms);
    let reply: OpenReply = daemon.ask_for(answer_time(deadline), &Request::Open(open))?;
    verdict(&reply)?;
    Ok(reply)
}

/// Sends `input` in datagrams until it ends or `watch`, called after each, says `false`.
pub(super) fn transmit(
    entry: &Entry,
    input: &mut dyn Read,
    watch: &mut dyn FnMut(&Sent) -> bool,
) -> Result<Sent, CliError> {
    let local: IpAddr = match entry.listen.ip() {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let socket = UdpSocket::bind((local, 0))
        .and_then(|socket| socket.connect(entry.listen).map(|()| socket))
        .map_err(|error| {
            CliError::failure(format!("{} cannot be sent to: {error}", entry.listen))
        })?;
    let start = clock::now();
    let mut pace = Pace::new(entry.rate);
    let mut sent = Sent::default();
    let mut datagram = vec![0; entry.size];
    loop {
        let bytes = fill(input, &mut datagram)
            .map_err(|error| CliError::failure(format!("the input cannot be read: {error}")))?;
        if bytes == 0 {
            break;
        }
        let wait = pace.wait(since(start));
        if wait > limits::PACE_BATCH {
            clock::sleep(wait);
        }
        socket.send(&datagram[..bytes]).map_err(|error| refused(entry, &error))?;
        pace.count((bytes + entry.overhead) as u64);
        sent.frames += 1;
        sent.bytes += bytes as u64;
        sent.elapsed = since(start);
        if !watch(&sent) {
            break;
        }
    }
    sent.elapsed = since(start);
    Ok(sent)
}

/// What became of a stream on this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Local {
    /// Datagrams that were lost before they entered the overlay.
    pub(super) lost: u64,
    /// Datagrams that came while the channel had no path.
    pub(super) moving: u64,
    /// Datagrams above the channel's bandwidth.
    pub(super) policed: u64,
}

/// Waits until the daemon has counted what was sent and tells the far end that the stream is over.
pub(super) fn finish(daemon: &Daemon, entry: &Entry, sent: &Sent) -> Result<Local, CliError> {
    let local = wait_until_counted(daemon, entry, sent.frames)?;
    let request = Request::Finish { channel: entry.channel.clone(), frames: sent.frames };
    let _: Value = daemon.ask(&request)?;
    Ok(local)
}

/// The last frames may still be on their way, and a close would overtake them: a receiver that has all of
/// them closes the channel itself. Where none does, they get that long to arrive.
fn wait_until_taken(daemon: &Daemon, channel: &str) {
    let start = clock::now();
    let is_there = |rows: Vec<ChannelRow>| rows.iter().any(|row| row.id == channel);
    while start.elapsed() < limits::SEND_TAIL_MAX
        && daemon.ask(&Request::Channels).is_ok_and(is_there)
    {
        clock::sleep(COUNT_POLL);
    }
}

/// Closes a channel whose work is done; that it is gone already is no news.
pub(super) fn close(daemon: &Daemon, channel: &str) {
    let _ = daemon.ask::<Value>(&Request::Close { channel: channel.to_owned() });
}

/// The rate of `bytes` in `time`.
pub(super) fn rate_of(bytes: u64, time: Duration) -> Bandwidth {
    let micros = time.as_micros().max(1);
    let bps = u128::from(bytes) * 8 * 1_000_000 / micros;
    Bandwidth::from_bps(u64::try_from(bps).unwrap_or(u64::MAX))
}

/// A rate as people read it while it changes: one decimal.
pub(super) fn about(rate: Bandwidth) -> String {
    match rate.bps() {
        bps if bps >= 1_000_000_000 => format!("{:.1} Gbit/s", bps as f64 / 1e9),
        bps if bps >= 1_000_000 => format!("{:.1} Mbit/s", bps as f64 / 1e6),
        bps => format!("{:.1} kbit/s", bps as f64 / 1e3),
    }
}

fn close_on_interrupt(daemon: &Daemon, channel: &str) {
    let (daemon, channel) = (daemon.clone(), channel.to_owned());
    interrupt::on_interrupt(move || {
        close(&daemon, &channel);
        std::process::exit(interrupt::INTERRUPTED);
    });
}

fn wait_until_counted(daemon: &Daemon, entry: &Entry, frames: u64) -> Result<Local, CliError> {
    let mut counted = 0;
    let mut progress_at = clock::now();
    loop {
        let rows: Vec<ChannelRow> = daemon.ask(&Request::Channels)?;
        let row = rows.into_iter().find(|row| row.id == entry.channel).ok_or_else(|| {
            CliError::failure(format!(
                "channel {} was closed before the stream ended; the daemon's log says why",
                entry.channel
            ))
        })?;
        let (taken, local) = account(&row, frames);
        if taken > counted {
            counted = taken;
            progress_at = clock::now();
        }
        if counted >= frames || progress_at.elapsed() > limits::SEND_STALL_MAX {
            return Ok(local);
        }
        clock::sleep(COUNT_POLL);
    }
}

/// How many of `frames` datagrams the daemon has seen (each took a sequence number, whether it was
/// sent on or not), and what became of those that did not go on; the unseen ones count as lost.
fn account(row: &ChannelRow, frames: u64) -> (u64, Local) {
    let sum = |reasons: &[DropReason]| -> u64 {
        reasons.iter().filter_map(|reason| row.dropped.get(reason.as_str())).sum()
    };
    let moving = sum(&[DropReason::Moving, DropReason::NoLink]);
    let policed = sum(&[DropReason::Policed]);
    let dropped = sum(&[
        DropReason::KernelReceive,
        DropReason::Truncated,
        DropReason::TooBig,
        DropReason::SocketFull,
        DropReason::SendError,
        DropReason::RingFull,
    ]);
    let taken = (row.tx_frames + moving + policed + dropped).min(frames);
    (taken, Local { lost: dropped + (frames - taken), moving, policed })
}

/// How often the daemon's counter is read at the end.
const COUNT_POLL: Duration = Duration::from_millis(20);

fn refused(entry: &Entry, error: &io::Error) -> CliError {
    let closed = error.kind() == io::ErrorKind::ConnectionRefused;
    let what = if closed { "it was closed" } else { "the datagram was refused" };
    CliError::failure(format!(
        "channel {} takes no more datagrams: {what} ({error}); the daemon's log says why",
        entry.channel
    ))
}

/// Fills `buffer` as far as `input` goes.
fn fill(input: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn eprint_progress(sent: &Sent) {
    // About ten times a second is enough for eyes, and cheap.
    if sent.frames.is_multiple_of(PROGRESS_EVERY) {
        let seconds = sent.elapsed.as_secs_f64();
        let megabytes = sent.bytes as f64 / 1e6;
        let line = format!("\r{seconds:6.1} s  {megabytes:9.1} MB  {:>12} ", about(sent.rate()));
        let _ = io::Write::write_all(&mut io::stderr().lock(), line.as_bytes());
    }
}

const PROGRESS_EVERY: u64 = 200;

fn since(start: Instant) -> Duration {
    clock::now().saturating_duration_since(start)
}

/// When the next datagram is due.
#[derive(Debug)]
struct Pace {
    rate: Bandwidth,
    /// Bits sent since `origin`.
    bits: u128,
    origin: Duration,
}

impl Pace {
    fn new(rate: Bandwidth) -> Self {
        Self { rate, bits: 0, origin: Duration::ZERO }
    }

    fn count(&mut self, packet_bytes: u64) {
        self.bits += u128::from(packet_bytes) * 8;
    }

    /// How long the next datagram has to wait. Somebody held up for long starts afresh: what was
    /// missed is not sent in a burst.
    fn wait(&mut self, now: Duration) -> Duration {
        let due = self.due();
        let late = now.saturating_sub(due);
        if late > limits::PACE_LATE_MAX {
            self.origin += late - limits::PACE_LATE_MAX;
        }
        due.saturating_sub(now)
    }

    fn due(&self) -> Duration {
        let nanos = self.bits * 1_000_000_000 / u128::from(self.rate.bps().max(1));
        self.origin + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a20_the_pace_keeps_to_the_bandwidth() {
        let mut pace = Pace::new(Bandwidth::from_bps(8_000_000));
        let mut now = Duration::ZERO;
        for _ in 0..1_000 {
            now += pace.wait(now);
            pace.count(1_000);
        }
        now += pace.wait(now);
        // A thousand packets of a thousand bytes at 8 Mbit/s take a second.
        assert_eq!(now, Duration::from_secs(1));
    }

    #[test]
    fn a_held_up_sender_does_not_catch_up_in_a_burst() {
        let mut pace = Pace::new(Bandwidth::from_bps(8_000_000));
        let now = Duration::from_secs(5);
        let mut at_once = 0;
        while pace.wait(now).is_zero() {
            pace.count(1_000);
            at_once += 1;
        }
        let allowed = limits::PACE_LATE_MAX.as_millis() + 1;
        assert!(at_once <= allowed, "{at_once} datagrams at once");
    }

    #[test]
    fn datagrams_are_filled_whatever_the_reads_give() {
        struct Dribble(u8);
        impl Read for Dribble {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if self.0 == 0 {
                    return Ok(0);
                }
                self.0 -= 1;
                buffer[0] = self.0;
                Ok(1)
            }
        }
        let mut input = Dribble(5);
        let mut buffer = [0; 3];
        assert_eq!(fill(&mut input, &mut buffer).expect("read"), 3);
        assert_eq!(fill(&mut input, &mut buffer).expect("read"), 2);
        assert_eq!(fill(&mut input, &mut buffer).expect("read"), 0);
    }

    #[test]
    fn frames_the_daemon_did_not_pass_on_are_told_apart() {
        let name = |text: &str| text.parse().expect("a name");
        let row = |tx_frames, dropped: &[(DropReason, u64)]| ChannelRow {
            id: "a:1:1".to_owned(),
            name: "x".parse().expect("a name"),
            peer: name("b"),
            service: "inbox".parse().expect("a name"),
            role: "source".to_owned(),
            state: "open".to_owned(),
            path: Vec::new(),
            standby: None,
            second: None,
            bandwidth_bps: Bandwidth::ZERO,
            bandwidth_back_bps: Bandwidth::ZERO,
            payload_bps: Bandwidth::ZERO,
            max_payload_bytes: 1_408,
            listen: None,
            deliver: None,
            tx_frames,
            rx_frames: 0,
            entered_bytes: 0,
            delivered_bytes: 0,
            lost_frames: 0,
            dropped: dropped.iter().map(|&(why, count)| (why.as_str().to_owned(), count)).collect(),
            offered_bps: None,
            entry_bps: None,
            shape: false,
            keep: false,
            sealed: true,
            peer_key: None,
        };
        let moved = row(90, &[(DropReason::Moving, 10), (DropReason::ForeignSender, 5)]);
        let moving = Local { moving: 10, ..Local::default() };
        assert_eq!(account(&moved, 100), (100, moving));
        let lost = row(90, &[(DropReason::KernelReceive, 4)]);
        let lost = account(&lost, 100);
        assert_eq!(lost, (94, Local { lost: 10, ..Local::default() }));
        let policed = account(&row(90, &[(DropReason::Policed, 10)]), 100);
        assert_eq!(policed, (100, Local { policed: 10, ..Local::default() }));
        let entry = entry(Bandwidth::from_bps(64_000));
        assert!(judge(&entry, &Sent::default(), lost.1).is_err());
        assert!(judge(&entry, &Sent::default(), moving).is_ok());
        // 1,000 packets of 100 bytes in a second.
        let sent = Sent { frames: 1_000, bytes: 8_000, elapsed: Duration::from_secs(1) };
        let text = judge(&entry, &sent, policed.1).expect_err("frames are gone").text;
        assert!(text.contains("10 of 1000 frames were policed"), "{text}");
        assert!(text.contains("64 kbit/s") && text.contains("800.0 kbit/s"), "{text}");
    }

    fn entry(rate: Bandwidth) -> Entry {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 5_000));
        Entry { channel: "a:1:1".to_owned(), listen, rate, size: 8, overhead: 92 }
    }

    #[test]
    fn the_overhead_is_that_of_the_hops() {
        let rate = Bandwidth::from_bps(10_000_000);
        let reply = |overhead| OpenReply {
            outcome: "open".to_owned(),
            reason: None,
            detail: String::new(),
            channel: Some("a:1:1".to_owned()),
            path: Vec::new(),
            width_bps: rate,
            max_payload_bytes: 1_000,
            sealed: true,
            peer_key: None,
            listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 5_000))),
            payload_1316_bps: rate.payload_rate(1316, overhead),
            payload_200_bps: rate,
            refused: Vec::new(),
            waited_ms: None,
            limit: None,
        };
        for overhead in [92, 112] {
            let entry = Entry::of(&reply(overhead), rate, 1316).expect("an entry");
            assert_eq!((entry.overhead as u64, entry.size), (overhead, 1_000));
        }
    }
}
