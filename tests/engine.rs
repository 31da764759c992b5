//! The engine over loopback, both back ends: two or three engines in one process, wired by hand.
//!
//! ```text
//! program ─► end A ═► engine A ═► engine B ═► engine C ═► end C ─► program
//! program ◄─ end A ◄═ engine A ◄═ engine B ◄═ engine C ◄═ end C ◄─ program
//! ```
//!
//! Every test waits for a state, never for a time to pass; time-outs are generous and only end a test
//! that has failed. Tests run one after the other: one of them counts the workers' allocations.

#![expect(clippy::disallowed_methods, reason = "real threads and sockets live in real time")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::cast_possible_truncation, reason = "small numbers made here")]
#![allow(clippy::print_stdout, reason = "a skipped test says so")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::wiring::{INTERVAL, data_frame, link, load};
use spanway::engine::seal::Seal;
use spanway::engine::{
    AllowedFrom, BackendChoice, Command, Deliver, EndSpec, Engine, EngineConfig, EntrySpec, Event,
    LinkSpec, Silence, Target,
};
use spanway::stats::histogram::{FullHistogram, Reading};
use spanway::stats::{ChannelStats, DropReason, WorkerStats};
use spanway::types::{Bandwidth, ChannelId, Dscp, Label, LinkId, PeerName, WorkerId};
use spanway::wire::frame::{self, FrameType, Header, OVERHEAD_BYTES};
use spanway::wire::heartbeat::{HEARTBEAT_BYTES, Heartbeat, HeartbeatKey};

// --- Allocations of worker threads ---

struct CountingAllocator;

static WORKER_ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

fn count_if_worker() {
    let mut name = [0u8; 16];
    // SAFETY: PR_GET_NAME writes at most 16 bytes.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    if name.starts_with(b"spanway-w") {
        WORKER_ALLOCATIONS.fetch_add(1, Relaxed);
    }
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count_if_worker();
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn one_at_a_time() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

// --- Wiring ---

const PATIENCE: Duration = Duration::from_secs(20);
const MAX_PAYLOAD: u16 = 8_000;
/// More than any test here sends.
const FAST: Bandwidth = Bandwidth::from_bps(100_000_000_000);

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < give_up, "waited in vain: {what}");
        std::thread::sleep(Duration::from_micros(300));
    }
}

fn engine_at(listen: &str, workers: usize, backend: BackendChoice) -> Engine {
    let (listen, cpus, origin) = (listen.parse().unwrap(), vec![None; workers], Instant::now());
    let engine = Engine::start(EngineConfig {
        listen,
        cpus,
        backend,
        dscp: Dscp::default(),
        origin,
        latency: false,
    })
    .unwrap();
    match backend {
        BackendChoice::Auto => {}
        BackendChoice::Uring => assert_eq!(engine.backend().0, "uring"),
        BackendChoice::Mmsg => assert_eq!(engine.backend().0, "mmsg"),
    }
    engine
}

fn engine(backend: BackendChoice) -> Engine {
    engine_at("127.0.0.1:0", 1, backend)
}

fn address(engine: &Engine) -> SocketAddr {
    engine.workers()[0].address
}

fn settle(engine: &mut Engine) {
    wait_until("commands applied", || engine.applied());
}

fn channel() -> ChannelId {
    ChannelId { source: PeerName::new("peer-1").unwrap(), boot: 1, count: 1 }
}

fn connect(number: u16, lower: &mut Engine, higher: &mut Engine) {
    let (low, high) = (address(lower), address(higher));
    let workers = |engine: &Engine| engine.workers().len() as u8;
    let (low_workers, high_workers) = (workers(lower), workers(higher));
    lower.broadcast(|| Command::SetLink(link(number, true, high, high_workers)));
    higher.broadcast(|| Command::SetLink(link(number, false, low, low_workers)));
}

fn add_label(engine: &mut Engine, label: u64, from: u16, to: Target, stats: &Arc<ChannelStats>) {
    let (label, from, stats) = (Label(label), LinkId(from), Arc::clone(stats));
    let (rate, hop) = (FAST, 1);
    engine.send(label.worker(), Command::AddLabel { label, from, to, rate, hop, stats });
}

fn hop(number: u16, label: u64, to: &Engine) -> Target {
    let port = to.workers()[usize::from(Label(label).worker().0)].port;
    Target::Hop { link: LinkId(number), label: Label(label), port }
}

fn add_end(
    engine: &mut Engine,
    worker: u8,
    channel: ChannelId,
    from: AllowedFrom,
    deliver: Deliver,
    stats: &Arc<ChannelStats>,
) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let (gso, shape, stats) = (false, false, Arc::clone(stats));
    let seal = Seal::Plain;
    let spec = EndSpec { channel, socket, from, deliver, gso, shape, seal, stats };
    engine.send(WorkerId(worker), Command::AddEnd(spec));
    address
}

fn set_entry(engine: &mut Engine, worker: u8, channel: ChannelId, to: Target, max_payload: u16) {
    let to = Some(EntrySpec { to, rate: FAST, max_payload });
    engine.send(WorkerId(worker), Command::SetEntry { channel, to });
}

/// A program with a socket.
fn program() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Three engines and one channel from A over B to C and back.
struct Path {
    engines: [Engine; 3],
    stats: [Arc<ChannelStats>; 3],
    /// The local sockets of the two ends.
    at_a: SocketAddr,
    at_c: SocketAddr,
    opener: UdpSocket,
    service: UdpSocket,
}

fn path(backend: BackendChoice) -> Path {
    path_of("127.0.0.1:0", 1, backend)
}

/// All of the channel at worker 0 of each.
fn path_of(listen: &str, workers: usize, backend: BackendChoice) -> Path {
    let mut engines = [(); 3].map(|()| engine_at(listen, workers, backend));
    let stats: [Arc<ChannelStats>; 3] = Default::default();
    let (opener, service) = (program(), program());
    let [a, b, c] = &mut engines;
    connect(1, a, b);
    connect(2, b, c);
    let to_service = Deliver::To(service.local_addr().unwrap());
    let from = AllowedFrom::Loopback;
    let at_a = add_end(a, 0, channel(), from.clone(), Deliver::LastSender, &stats[0]);
    let at_c = add_end(c, 0, channel(), from, to_service, &stats[2]);
    add_label(b, 101, 1, hop(2, 102, c), &stats[1]);
    add_label(c, 102, 2, Target::Local(channel()), &stats[2]);
    add_label(b, 202, 2, hop(1, 201, a), &stats[1]);
    add_label(a, 201, 1, Target::Local(channel()), &stats[0]);
    set_entry(a, 0, channel(), hop(1, 101, b), MAX_PAYLOAD);
    set_entry(c, 0, channel(), hop(2, 202, b), MAX_PAYLOAD);
    engines.iter_mut().for_each(settle);
    Path { engines, stats, at_a, at_c, opener, service }
}

/// Payload `number`, of a size that depends on it.
fn payload(number: u32) -> Vec<u8> {
    let sizes = [4, 64, 200, 1_316, 5, 1_400, 7_999, 188];
    let mut bytes = vec![number as u8; sizes[number as usize % sizes.len()]];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// Sends `count` payloads, at most 32 ahead of the receiver, and checks that each arrives equal, once
/// and in order.
fn stream(from: &UdpSocket, to: SocketAddr, at: &UdpSocket, count: u32) {
    let mut expected = VecDeque::new();
    let mut buffer = vec![0; 8_192];
    for number in 0..count {
        let bytes = payload(number);
        from.send_to(&bytes, to).unwrap();
        expected.push_back(bytes);
        while expected.len() >= 32 || (number + 1 == count && !expected.is_empty()) {
            let (size, _) = at.recv_from(&mut buffer).unwrap();
            let bytes = expected.pop_front().unwrap();
            assert!(buffer[..size] == bytes, "not the next datagram: {size} bytes at {number}");
        }
    }
}

/// (in, out, drops) of a channel at a peer.
fn books(stats: &ChannelStats) -> (u64, u64, u64) {
    let drops = stats.drops().iter().map(|(_, count)| count).sum();
    let come = load(&stats.entered) + load(&stats.received);
    (come, load(&stats.sent) + load(&stats.delivered), drops)
}

/// Entered + received = sent + delivered + drops = `each`, to the last frame.
fn assert_books_balance(stats: &[Arc<ChannelStats>], each: u64) {
    for (peer, stats) in stats.iter().enumerate() {
        wait_until(&format!("{each} frames in the books of peer {peer}"), || {
            let (come, gone, drops) = books(stats);
            come == each && gone + drops == each
        });
    }
}

fn worker_stats(engine: &Engine) -> &WorkerStats {
    &engine.workers()[0].stats
}

fn wait_for_drops(engine: &Engine, reason: DropReason, count: u64) {
    let stats = worker_stats(engine);
    wait_until(reason.as_str(), || stats.dropped(reason) >= count);
    assert_eq!(stats.dropped(reason), count, "{}", reason.as_str());
}

/// The next frame that is not a heartbeat.
fn next_frame(at: &UdpSocket) -> Header {
    let mut buffer = [0; 2_048];
    loop {
        let size = at.recv_from(&mut buffer).unwrap().0;
        let header = frame::parse(&buffer[..size]).unwrap();
        if header.frame_type == FrameType::Data {
            return header;
        }
    }
}

fn assert_silence(socket: &UdpSocket) {
    socket.set_nonblocking(true).unwrap();
    let error = socket.recv_from(&mut [0; 16]).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "something was answered");
    socket.set_nonblocking(false).unwrap();
}

fn next_event(engine: &mut Engine) -> Event {
    let mut events = Vec::new();
    wait_until("an event", || {
        engine.poll_events(&mut events);
        !events.is_empty()
    });
    events.remove(0)
}

fn beat(spec: &LinkSpec, sequence: u64) -> [u8; HEARTBEAT_BYTES] {
    let beat = Heartbeat {
        label: spec.receive_label,
        sequence,
        heard: 0,
        heard_age_us: 0,
        overloaded: false,
    };
    beat.emit(&spec.receive_key)
}

// --- The tests, once for each back end ---

mod checks {
    use super::*;

    pub(super) fn a19_a20_a_stream_crosses_a_relay_byte_for_byte(backend: BackendChoice) {
        let path = path(backend);
        stream(&path.opener, path.at_a, &path.service, 20_000);
        assert_books_balance(&path.stats, 20_000);
        let [a, b, c] = &path.stats;
        assert_eq!((load(&a.entered), load(&a.sent)), (20_000, 20_000));
        assert_eq!((load(&b.received), load(&b.sent)), (20_000, 20_000));
        assert_eq!((load(&c.received), load(&c.delivered)), (20_000, 20_000));
        assert_eq!(load(&a.bytes_in), load(&c.bytes_out));
        assert_eq!((load(&a.entry_sequence), load(&c.next_sequence)), (20_000, 20_000));
        let measured: u64 = c.one_way.read().reading().count();
        assert_eq!(measured, 20_000);

        // Back: to the last sender, from the socket it sent to.
        stream(&path.service, path.at_c, &path.opener, 2_000);
        assert_books_balance(&path.stats, 22_000);
        path.service.send_to(b"who?", path.at_c).unwrap();
        let mut buffer = [0; 16];
        let (size, from) = path.opener.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..size], from), (b"who?".as_slice(), path.at_a));
    }

    pub(super) fn a19_an_empty_datagram_is_a_datagram(backend: BackendChoice) {
        let path = path(backend);
        path.opener.send_to(&[], path.at_a).unwrap();
        let (size, from) = path.service.recv_from(&mut [0; 16]).unwrap();
        assert_eq!((size, from), (0, path.at_c));
    }

    pub(super) fn answers_go_to_whoever_sent_last(backend: BackendChoice) {
        let path = path(backend);
        path.service.send_to(b"early", path.at_c).unwrap();
        let stats = &path.stats[0];
        wait_until("nobody to deliver to", || stats.dropped(DropReason::NoReceiver) == 1);
        let second = program();
        for program in [&path.opener, &second, &path.opener] {
            program.send_to(b"ask", path.at_a).unwrap();
            path.service.recv_from(&mut [0; 16]).unwrap();
            path.service.send_to(b"answer", path.at_c).unwrap();
            assert_eq!(program.recv_from(&mut [0; 16]).unwrap().0, 6);
        }
        assert_silence(&second);
        assert_books_balance(&path.stats, 7);
    }

    pub(super) fn recv_sees_the_whole_frame(backend: BackendChoice) {
        let mut path = path(backend);
        let deliver = Deliver::Framed(path.service.local_addr().unwrap());
        let command = Command::SetDeliver { channel: channel(), deliver };
        path.engines[2].send(WorkerId(0), command);
        settle(&mut path.engines[2]);
        for number in 0..3 {
            path.opener.send_to(b"hello", path.at_a).unwrap();
            let mut buffer = [0; 256];
            let (size, _) = path.service.recv_from(&mut buffer).unwrap();
            let header = frame::parse(&buffer[..size]).unwrap();
            assert_eq!((header.sequence, size), (number, OVERHEAD_BYTES + 5));
            assert_eq!(frame::payload(&header, &buffer[..size]), b"hello");
        }
    }

    pub(super) fn what_may_not_enter_is_dropped_by_name(backend: BackendChoice) {
        let mut path = path(backend);
        let [a, ..] = &path.stats;
        path.opener.send_to(&vec![1; usize::from(MAX_PAYLOAD) + 1], path.at_a).unwrap();
        path.opener.send_to(&vec![1; 65_507], path.at_a).unwrap();
        wait_until("too big", || a.dropped(DropReason::TooBig) == 2);
        path.engines[0].send(WorkerId(0), Command::SetEntry { channel: channel(), to: None });
        settle(&mut path.engines[0]);
        path.opener.send_to(b"while it moves", path.at_a).unwrap();
        wait_until("moving", || a.dropped(DropReason::Moving) == 1);
        let to = hop(1, 101, &path.engines[1]);
        set_entry(&mut path.engines[0], 0, channel(), to, 100);
        settle(&mut path.engines[0]);
        path.opener.send_to(&[1; 100], path.at_a).unwrap();
        assert_eq!(path.service.recv_from(&mut [0; 200]).unwrap().0, 100);
        // Three of the stream are missing at the far end, and its counter says so.
        assert_eq!(load(&path.stats[2].next_sequence), 4);
        assert_books_balance(&path.stats[..1], 4);
        assert_books_balance(&path.stats[1..], 1);
    }

    pub(super) fn senders_that_are_not_allowed_change_nothing(backend: BackendChoice) {
        let mut engine = engine(backend);
        let stats: Arc<ChannelStats> = Arc::default();
        let (friend, stranger) = (program(), program());
        let from = AllowedFrom::Only(friend.local_addr().unwrap());
        let local = add_end(&mut engine, 0, channel(), from, Deliver::LastSender, &stats);
        settle(&mut engine);
        stranger.send_to(b"x", local).unwrap();
        wait_until("foreign sender", || stats.dropped(DropReason::ForeignSender) == 1);
        friend.send_to(b"x", local).unwrap();
        wait_until("moving", || stats.dropped(DropReason::Moving) == 1);
        assert_eq!(load(&stats.entry_sequence), 1);
        assert_silence(&stranger);
    }

    pub(super) fn a22_bad_frames_are_counted_and_never_answered(backend: BackendChoice) {
        let mut path = path(backend);
        let b = address(&path.engines[1]);
        let attacker = program();
        let mut sent = 0;
        for size in [0, 1, 15, 47, 48, 100, 1_400, 65_507] {
            for fill in [0u8, 0x11, 0x5a, 0xff] {
                attacker.send_to(&vec![fill; size], b).unwrap();
                sent += 1;
            }
        }
        wait_for_drops(&path.engines[1], DropReason::Malformed, sent);
        for cut in [frame::HEADER_BYTES, 70] {
            attacker.send_to(&data_frame(101, 64, &[1; 20])[..cut], b).unwrap();
        }
        wait_for_drops(&path.engines[1], DropReason::Malformed, sent + 2);
        for label in [0, 1, 102, u64::MAX, 11 << 16] {
            attacker.send_to(&data_frame(label, 64, b"guess"), b).unwrap();
        }
        wait_for_drops(&path.engines[1], DropReason::UnknownLabel, 5);
        // The right label from the wrong address: learnt by listening, worthless elsewhere.
        attacker.send_to(&data_frame(101, 64, b"inject"), b).unwrap();
        wait_for_drops(&path.engines[1], DropReason::ForeignLabel, 1);
        // One of A's may have come before B knew the link.
        let early = worker_stats(&path.engines[1]).dropped(DropReason::BadHeartbeat);
        let label = Label(11 << 16);
        let forged =
            Heartbeat { label, sequence: 1 << 40, heard: 0, heard_age_us: 0, overloaded: false };
        attacker.send_to(&forged.emit(&HeartbeatKey([9; 32])), b).unwrap();
        wait_for_drops(&path.engines[1], DropReason::BadHeartbeat, early + 1);
        assert_silence(&attacker);
        assert_silence(&path.service);
        // The stream beside it goes on; once its label is gone it reaches nobody.
        stream(&path.opener, path.at_a, &path.service, 100);
        path.engines[1].send(WorkerId(0), Command::RemoveLabel(Label(101)));
        settle(&mut path.engines[1]);
        path.opener.send_to(b"closed", path.at_a).unwrap();
        wait_for_drops(&path.engines[1], DropReason::UnknownLabel, 6);
        assert_silence(&path.service);
        assert_books_balance(&path.stats[1..], 100);
    }

    pub(super) fn a22_frames_without_hops_left_stop(backend: BackendChoice) {
        let mut relay = engine(backend);
        let neighbour = program();
        let stats: Arc<ChannelStats> = Arc::default();
        let there = neighbour.local_addr().unwrap();
        relay.send(WorkerId(0), Command::SetLink(link(1, false, there, 1)));
        let to = Target::Hop { link: LinkId(1), label: Label(6), port: there.port() };
        add_label(&mut relay, 5, 1, to, &stats);
        settle(&mut relay);
        for hop_limit in [0, 1, 2] {
            neighbour.send_to(&data_frame(5, hop_limit, b"x"), address(&relay)).unwrap();
        }
        let header = next_frame(&neighbour);
        assert_eq!((header.label, header.hop_limit), (Label(6), 1));
        assert_eq!(stats.dropped(DropReason::HopLimit), 2);
        assert_books_balance(&[stats], 3);
    }

    pub(super) fn a20_no_frame_allocates(backend: BackendChoice) {
        let path = path(backend);
        stream(&path.opener, path.at_a, &path.service, 2_000);
        stream(&path.service, path.at_c, &path.opener, 2_000);
        let before = WORKER_ALLOCATIONS.load(Relaxed);
        assert!(before > 0, "the counter sees the workers");
        stream(&path.opener, path.at_a, &path.service, 3_000);
        stream(&path.service, path.at_c, &path.opener, 3_000);
        for _ in 0..100 {
            path.opener.send_to(b"garbage", address(&path.engines[1])).unwrap();
        }
        wait_for_drops(&path.engines[1], DropReason::Malformed, 100);
        assert_eq!(WORKER_ALLOCATIONS.load(Relaxed) - before, 0);
    }

    pub(super) fn a23_times_are_counted_without_an_allocation(backend: BackendChoice) {
        let mut path = path(backend);
        stream(&path.opener, path.at_a, &path.service, 1_000);
        let (full, stats) = (Arc::<FullHistogram>::default(), Arc::clone(&path.stats[2]));
        let watch = Command::Watch { watch: 7, stats, full: Arc::clone(&full) };
        path.engines[2].send(WorkerId(0), watch);
        settle(&mut path.engines[2]);
        let before = WORKER_ALLOCATIONS.load(Relaxed);
        stream(&path.opener, path.at_a, &path.service, 3_000);
        // The kernel tells its times a part of the time.
        let worker = Arc::clone(&path.engines[1].workers()[0].stats);
        let relay = &worker.relay;
        let mut sent = 3_000_u64;
        wait_until("times inside the relay", || {
            stream(&path.opener, path.at_a, &path.service, 100);
            sent += 100;
            relay.inside_ns.read().count() > 50
        });
        assert_eq!(WORKER_ALLOCATIONS.load(Relaxed) - before, 0);
        path.engines[2].send(WorkerId(0), Command::Unwatch(7));
        settle(&mut path.engines[2]);
        stream(&path.opener, path.at_a, &path.service, 100);
        let watched = full.read().reading();
        assert_eq!(watched.count(), sent);
        assert!(watched.most > 0 && watched.most < 1_000_000, "{} us", watched.most);
        let inside = relay.inside_ns.read();
        assert!(inside.least > 0 && inside.most < 1_000_000_000, "{inside:?}");
        assert_eq!(relay.read_hop(LinkId(1)).count(), inside.count(), "all came from A");
        let counted =
            |sizes: &Reading| sizes.cells.iter().map(|&(value, n)| value * n).sum::<u64>();
        wait_until("every datagram in the sizes", || {
            let datagrams = load(&worker.datagrams);
            let sizes = [relay.batch.read(), relay.receive_segments.read()];
            sizes.iter().all(|sizes| counted(sizes) == datagrams)
        });
        assert_eq!(counted(&relay.send_segments.read()), load(&path.stats[1].sent));
    }

    pub(super) fn a_neighbour_that_stops_is_silent(backend: BackendChoice) {
        let (mut a, mut b) = (engine(backend), engine(backend));
        connect(1, &mut a, &mut b);
        wait_until("heartbeats both ways", || {
            let heard = |engine| load(&worker_stats(engine).heartbeats_heard);
            heard(&a) > 3 && heard(&b) > 3
        });
        let mut events = Vec::new();
        a.poll_events(&mut events);
        assert_eq!(events, []);
        let address = address(&b);
        drop(b);
        // The port is free as soon as the engine is gone.
        UdpSocket::bind(address).unwrap();
        let silent = Event::LinkSilent { link: LinkId(1), why: Silence::NotHeard };
        assert_eq!(next_event(&mut a), silent);
    }

    pub(super) fn a_neighbour_that_does_not_hear_us_is_told_apart(backend: BackendChoice) {
        let mut a = engine(backend);
        let neighbour = program();
        let spec = link(1, true, neighbour.local_addr().unwrap(), 1);
        a.send(WorkerId(0), Command::SetLink(Arc::clone(&spec)));
        settle(&mut a);
        let mut events = Vec::new();
        let mut sequence = 0;
        wait_until("silence", || {
            sequence += 1;
            neighbour.send_to(&beat(&spec, sequence), address(&a)).unwrap();
            a.poll_events(&mut events);
            !events.is_empty()
        });
        assert_eq!(events, [Event::LinkSilent { link: LinkId(1), why: Silence::NotHearing }]);
    }

    pub(super) fn frames_follow_a_neighbour_that_moved(backend: BackendChoice) {
        let mut a = engine(backend);
        let (old, new) = (program(), program());
        let spec = link(1, true, old.local_addr().unwrap(), 1);
        a.send(WorkerId(0), Command::SetLink(Arc::clone(&spec)));
        let stats: Arc<ChannelStats> = Arc::default();
        let to = Target::Hop { link: LinkId(1), label: Label(6), port: 1 };
        add_label(&mut a, 5, 1, to, &stats);
        settle(&mut a);
        let to = address(&a);
        old.send_to(&beat(&spec, 5), to).unwrap();
        wait_until("heard", || load(&worker_stats(&a).heartbeats_heard) == 1);
        // Somebody repeats it from elsewhere: nothing moves.
        new.send_to(&beat(&spec, 5), to).unwrap();
        wait_for_drops(&a, DropReason::BadHeartbeat, 1);
        new.send_to(&beat(&spec, 6), to).unwrap();
        let address = new.local_addr().unwrap();
        assert_eq!(next_event(&mut a), Event::LinkMoved { link: LinkId(1), address });
        assert_eq!(new.recv_from(&mut [0; 128]).unwrap().0, HEARTBEAT_BYTES);
        // Its frames are its own from there, and no longer from where it was.
        new.send_to(&data_frame(5, 9, b"x"), to).unwrap();
        assert_books_balance(&[stats], 1);
        old.send_to(&data_frame(5, 9, b"x"), to).unwrap();
        wait_for_drops(&a, DropReason::ForeignLabel, 1);
        // News of the same life keeps what was heard: 6 is old still.
        let news = Arc::new(LinkSpec { address, ..(*spec).clone() });
        a.broadcast(|| Command::SetLink(Arc::clone(&news)));
        settle(&mut a);
        new.send_to(&beat(&spec, 6), to).unwrap();
        wait_for_drops(&a, DropReason::BadHeartbeat, 2);
    }

    pub(super) fn a20_each_worker_has_its_own_port(backend: BackendChoice) {
        let mut two = engine_at("127.0.0.1:0", 2, backend);
        let mut one = engine(backend);
        let ports: Vec<u16> = two.workers().iter().map(|worker| worker.port).collect();
        assert_eq!(ports[1], ports[0] + 1);
        assert!(two.workers().iter().all(|worker| worker.receive_buffer >= 200_000));
        connect(1, &mut one, &mut two);
        let stats: [Arc<ChannelStats>; 2] = Default::default();
        let (opener, service) = (program(), program());
        // The channel belongs to worker 1 of the second engine: frames go there and come from there.
        let label = Label::new(WorkerId(1), 300).0;
        let loopback = AllowedFrom::Loopback;
        let to_service = Deliver::To(service.local_addr().unwrap());
        let at_one =
            add_end(&mut one, 0, channel(), loopback.clone(), Deliver::LastSender, &stats[0]);
        let at_two = add_end(&mut two, 1, channel(), loopback, to_service, &stats[1]);
        add_label(&mut one, 301, 1, Target::Local(channel()), &stats[0]);
        add_label(&mut two, label, 1, Target::Local(channel()), &stats[1]);
        set_entry(&mut two, 1, channel(), hop(1, 301, &one), MAX_PAYLOAD);
        set_entry(&mut one, 0, channel(), hop(1, label, &two), MAX_PAYLOAD);
        settle(&mut one);
        settle(&mut two);
        stream(&opener, at_one, &service, 500);
        stream(&service, at_two, &opener, 500);
        assert_books_balance(&stats, 1_000);
        assert!(load(&two.workers()[1].stats.datagrams) >= 1_000);
    }

    pub(super) fn many_local_ends_work_side_by_side(backend: BackendChoice) {
        let mut engine = engine(backend);
        let neighbour = program();
        let there = neighbour.local_addr().unwrap();
        engine.send(WorkerId(0), Command::SetLink(link(1, true, there, 1)));
        let channel = |count| ChannelId { count, ..channel() };
        let stats: Arc<ChannelStats> = Arc::default();
        let mut ends = Vec::new();
        for count in 0..300 {
            let (from, deliver) = (AllowedFrom::Loopback, Deliver::LastSender);
            ends.push(add_end(&mut engine, 0, channel(count), from, deliver, &stats));
            let to = Target::Hop { link: LinkId(1), label: Label(count + 1), port: there.port() };
            set_entry(&mut engine, 0, channel(count), to, 100);
        }
        settle(&mut engine);
        let sender = program();
        for (label, &end) in (1..).zip(&ends) {
            sender.send_to(b"x", end).unwrap();
            assert_eq!(next_frame(&neighbour).label, Label(label));
        }
        for count in 0..300 {
            engine.send(WorkerId(0), Command::RemoveEnd(channel(count)));
        }
        settle(&mut engine);
        // Closed means closed: every port can be bound again at once.
        ends.iter().for_each(|&end| drop(UdpSocket::bind(end).unwrap()));
        let again =
            add_end(&mut engine, 0, channel(1), AllowedFrom::Loopback, Deliver::LastSender, &stats);
        let to = Target::Hop { link: LinkId(1), label: Label(9), port: there.port() };
        set_entry(&mut engine, 0, channel(1), to, 100);
        settle(&mut engine);
        sender.send_to(b"x", again).unwrap();
        assert_eq!(next_frame(&neighbour).label, Label(9));
    }

    pub(super) fn frames_cross_ipv6_and_mapped_addresses(backend: BackendChoice) {
        let mut dual = engine_at("[::]:0", 1, backend);
        let neighbour = program();
        let there = neighbour.local_addr().unwrap();
        let stats: Arc<ChannelStats> = Arc::default();
        dual.send(WorkerId(0), Command::SetLink(link(1, false, there, 1)));
        let to = Target::Hop { link: LinkId(1), label: Label(6), port: there.port() };
        add_label(&mut dual, 5, 1, to, &stats);
        settle(&mut dual);
        let port = dual.workers()[0].port;
        neighbour.send_to(&data_frame(5, 9, b"x"), ("127.0.0.1", port)).unwrap();
        assert_eq!(next_frame(&neighbour).label, Label(6));
        let six = UdpSocket::bind("[::1]:0").unwrap();
        six.send_to(&data_frame(5, 9, b"x"), ("::1", port)).unwrap();
        wait_for_drops(&dual, DropReason::ForeignLabel, 1);
        let there = six.local_addr().unwrap();
        dual.send(WorkerId(0), Command::SetLink(link(1, false, there, 1)));
        let to = Target::Hop { link: LinkId(1), label: Label(7), port: there.port() };
        add_label(&mut dual, 5, 1, to, &stats);
        settle(&mut dual);
        six.send_to(&data_frame(5, 9, b"x"), ("::1", port)).unwrap();
        six.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(next_frame(&six).label, Label(7));
    }

    pub(super) fn a_send_the_kernel_refuses_is_counted_and_stops_no_other(backend: BackendChoice) {
        let mut engine = engine(backend);
        let (neighbour, good) = (program(), program());
        let there = neighbour.local_addr().unwrap();
        engine.send(WorkerId(0), Command::SetLink(link(1, true, there, 1)));
        let stats: [Arc<ChannelStats>; 2] = Default::default();
        // Broadcast needs an option that the socket does not have.
        let nowhere = "255.255.255.255:9".parse().unwrap();
        let receivers = [good.local_addr().unwrap(), nowhere];
        for (count, (stats, to)) in (0..).zip(stats.iter().zip(receivers)) {
            let channel = ChannelId { count, ..channel() };
            let deliver = Deliver::To(to);
            add_end(&mut engine, 0, channel.clone(), AllowedFrom::Loopback, deliver, stats);
            add_label(&mut engine, count + 1, 1, Target::Local(channel), stats);
        }
        settle(&mut engine);
        for number in 0..200u32 {
            let payload = number.to_be_bytes();
            neighbour.send_to(&data_frame(1, 9, &payload), address(&engine)).unwrap();
            neighbour.send_to(&data_frame(2, 9, &payload), address(&engine)).unwrap();
            if number % 10 == 9 {
                for expected in number - 9..=number {
                    let mut buffer = [0; 16];
                    assert_eq!(good.recv_from(&mut buffer).unwrap().0, 4);
                    assert_eq!(buffer[..4], expected.to_be_bytes());
                }
            }
        }
        assert_books_balance(&stats, 200);
        assert_eq!(load(&stats[0].delivered), 200);
        assert_eq!(stats[1].dropped(DropReason::SendError), 200);
    }

    pub(super) fn what_the_kernel_drops_is_counted(backend: BackendChoice) {
        let mut engine = engine(backend);
        let stats: Arc<ChannelStats> = Arc::default();
        let (from, deliver) = (AllowedFrom::Loopback, Deliver::LastSender);
        let at = add_end(&mut engine, 0, channel(), from, deliver, &stats);
        settle(&mut engine);
        let done = std::sync::atomic::AtomicBool::new(false);
        let sent = AtomicU64::new(0);
        // Two senders beat one worker. The kernel tells its count with a datagram it kept, so a small
        // one is sent now and then until the books are complete.
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let (sender, payload) = (program(), vec![7; 30_000]);
                    while !done.load(Relaxed) {
                        let taken = sender.send_to(&payload, at).is_ok();
                        sent.fetch_add(u64::from(taken), Relaxed);
                    }
                });
            }
            let give_up = Instant::now() + PATIENCE;
            while stats.dropped(DropReason::KernelReceive) == 0 && Instant::now() < give_up {
                std::thread::sleep(Duration::from_millis(1));
            }
            done.store(true, Relaxed);
        });
        let sender = program();
        wait_until("all in the books", || {
            sent.fetch_add(u64::from(sender.send_to(b"last", at).is_ok()), Relaxed);
            std::thread::sleep(Duration::from_millis(1));
            let (come, _, drops) = books(&stats);
            come == drops && come == load(&sent)
        });
        assert!(stats.dropped(DropReason::KernelReceive) > 0);
        assert_eq!(load(&stats.entry_sequence), load(&sent), "each of them is a gap");
    }

    pub(super) fn a20_frames_at_the_wrong_worker_cross_the_ring(backend: BackendChoice) {
        let test = || frames_at_the_wrong_worker(backend);
        if !super_buffers::in_own_network(65_536, &test) {
            // This user may not make namespaces: the loopback of this host does as well.
            test();
        }
    }

    /// The neighbour sends to worker 0 what belongs to worker 1: it crosses the ring and arrives.
    fn frames_at_the_wrong_worker(backend: BackendChoice) {
        const FRAMES: u32 = 5_000;
        let mut relay = engine_at("127.0.0.1:0", 2, backend);
        let (before, behind) = (program(), program());
        let neighbour = |socket: &UdpSocket| socket.local_addr().unwrap();
        relay.broadcast(|| Command::SetLink(link(1, false, neighbour(&before), 1)));
        relay.broadcast(|| Command::SetLink(link(2, true, neighbour(&behind), 1)));
        let (mine, theirs): (u64, u64) = (5, 1 << 56 | 5);
        let stats: [Arc<ChannelStats>; 2] = Default::default();
        for (label, stats) in [mine, theirs].into_iter().zip(&stats) {
            let port = neighbour(&behind).port();
            let to = Target::Hop { link: LinkId(2), label: Label(label + 1), port };
            add_label(&mut relay, label, 1, to, stats);
        }
        settle(&mut relay);
        let worker_0 = relay.workers()[0].address;
        let mut sequences = [0; 2];
        for _ in 0..FRAMES / 20 {
            for number in 0..20 {
                let label = if number % 2 == 0 { mine } else { theirs };
                before.send_to(&data_frame(label, 9, b"payload"), worker_0).unwrap();
            }
            for _ in 0..20 {
                let header = next_frame(&behind);
                sequences[usize::from(header.label.worker().0)] += 1;
                assert!([mine + 1, theirs + 1].contains(&header.label.0));
            }
        }
        assert_eq!(sequences, [FRAMES / 2; 2]);
        let (first, second) = (&relay.workers()[0].stats, &relay.workers()[1].stats);
        let half = u64::from(FRAMES / 2);
        wait_until("the books", || load(&stats[1].sent) == half);
        assert_eq!((load(&first.passed), load(&second.ring_in)), (half, half));
        assert_eq!((load(&second.passed), load(&first.ring_in)), (0, 0));
        // Nobody who is not a neighbour can make one worker busy through another.
        program().send_to(&data_frame(theirs, 9, b"x"), worker_0).unwrap();
        wait_for_drops(&relay, DropReason::UnknownLabel, 1);
        // A label of the other worker that it does not know ends there.
        before.send_to(&data_frame(theirs + 7, 9, b"x"), worker_0).unwrap();
        wait_until("the drop", || second.dropped(DropReason::UnknownLabel) == 1);
    }

    pub(super) fn a20_a_channel_moves_between_workers_without_loss_or_reordering(
        backend: BackendChoice,
    ) {
        const FRAMES: u32 = 1_000;
        for _ in 0..8 {
            let Path { mut engines, stats, at_a, at_c, opener, service } =
                path_of("127.0.0.1:0", 2, backend);
            let begun = Arc::new(AtomicU64::new(0));
            let at = Arc::clone(&begun);
            let streaming = std::thread::spawn(move || {
                // The opener is known to its end before that moves.
                stream(&opener, at_a, &service, 100);
                at.store(1, Relaxed);
                stream(&opener, at_a, &service, FRAMES - 100);
                service.send_to(b"back", at_c).unwrap();
                assert_eq!(opener.recv_from(&mut [0; 16]).unwrap().0, 4);
            });
            wait_until("the stream", || load(&begun) == 1 || streaming.is_finished());
            let labels: [&[u64]; 3] = [&[201], &[101, 202], &[102]];
            for (engine, labels) in engines.iter_mut().zip(labels) {
                let (channel, end) = (channel(), !labels.contains(&101));
                let (labels, to) =
                    (labels.iter().map(|&label| Label(label)).collect(), WorkerId(1));
                engine.send(WorkerId(0), Command::MoveChannel { channel, labels, end, to });
                settle(engine);
            }
            streaming.join().unwrap();
            assert_books_balance(&stats, u64::from(FRAMES) + 1);
            for engine in &engines {
                let [first, second] = engine.workers() else { panic!("two workers") };
                wait_until("the rings", || {
                    load(&first.stats.passed) == load(&second.stats.ring_in)
                });
                // The last of each direction came to the first worker's port.
                assert!(load(&second.stats.ring_in) > 0);
            }
        }
    }
}

/// Whether this machine can run the back end; says so if not.
fn possible(backend: BackendChoice) -> bool {
    match spanway::net::probe(backend) {
        Ok(_) => true,
        Err(why) => {
            println!("SKIPPED: {why}");
            false
        }
    }
}

macro_rules! for_both_backends {
    ($($test:ident),* $(,)?) => {
        mod mmsg {
            $(#[test] fn $test() {
                let _guard = crate::one_at_a_time();
                super::checks::$test(crate::BackendChoice::Mmsg);
            })*
        }
        mod uring {
            $(#[test] fn $test() {
                let _guard = crate::one_at_a_time();
                if crate::possible(crate::BackendChoice::Uring) {
                    super::checks::$test(crate::BackendChoice::Uring);
                }
            })*
        }
    };
}

#[path = "engine/merging.rs"]
mod merging;
#[path = "engine/options.rs"]
mod options;
#[path = "engine/sealing.rs"]
mod sealing;
#[path = "engine/shaping.rs"]
mod shaping;
#[path = "engine/super_buffers.rs"]
mod super_buffers;

for_both_backends! {
    a19_a20_a_stream_crosses_a_relay_byte_for_byte,
    a19_an_empty_datagram_is_a_datagram,
    answers_go_to_whoever_sent_last,
    recv_sees_the_whole_frame,
    what_may_not_enter_is_dropped_by_name,
    senders_that_are_not_allowed_change_nothing,
    a22_bad_frames_are_counted_and_never_answered,
    a22_frames_without_hops_left_stop,
    a20_no_frame_allocates,
    a23_times_are_counted_without_an_allocation,
    a_neighbour_that_stops_is_silent,
    a_neighbour_that_does_not_hear_us_is_told_apart,
    frames_follow_a_neighbour_that_moved,
    a20_each_worker_has_its_own_port,
    many_local_ends_work_side_by_side,
    frames_cross_ipv6_and_mapped_addresses,
    a_send_the_kernel_refuses_is_counted_and_stops_no_other,
    what_the_kernel_drops_is_counted,
    a20_frames_at_the_wrong_worker_cross_the_ring,
    a20_a_channel_moves_between_workers_without_loss_or_reordering,
}

// --- Starting ---

fn start(listen: SocketAddr, cpus: Vec<Option<usize>>) -> Result<Engine, String> {
    let backend = BackendChoice::Auto;
    let (dscp, origin) = (Dscp::default(), Instant::now());
    let config = EngineConfig { listen, cpus, backend, dscp, origin, latency: false };
    Engine::start(config).map_err(|error| error.to_string())
}

#[test]
fn an_address_in_use_is_named_in_words() {
    let _guard = one_at_a_time();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = start(address, vec![None]).unwrap_err();
    assert!(error.contains(&address.to_string()) && error.contains("in use"), "{error}");
}

#[test]
fn an_address_that_is_free_again_soon_is_waited_for() {
    let _guard = one_at_a_time();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let thread = std::thread::spawn(move || start(address, vec![None]));
    std::thread::sleep(Duration::from_millis(100));
    drop(taken);
    assert_eq!(thread.join().unwrap().unwrap().workers()[0].address, address);
}

#[test]
fn an_address_of_another_host_and_a_cpu_that_is_not_there_are_named() {
    let _guard = one_at_a_time();
    let error = start("192.0.2.1:4000".parse().unwrap(), vec![None]).unwrap_err();
    assert!(error.contains("192.0.2.1:4000"), "{error}");
    let error = start("127.0.0.1:0".parse().unwrap(), vec![Some(1_000)]).unwrap_err();
    assert!(error.contains("CPU 1000") && error.contains("[engine] cpus"), "{error}");
    let error = start("127.0.0.1:65535".parse().unwrap(), vec![None, None]).unwrap_err();
    assert!(error.contains("65535"), "{error}");
}

#[test]
fn commands_beyond_the_ring_are_applied_in_order() {
    let _guard = one_at_a_time();
    let mut engine = engine(BackendChoice::Auto);
    assert!(!engine.backend().1.is_empty());
    let neighbour = program();
    let there = neighbour.local_addr().unwrap();
    engine.send(WorkerId(0), Command::SetLink(link(1, true, there, 1)));
    let stats: Arc<ChannelStats> = Arc::default();
    for number in 0..5_000 {
        let to = Target::Hop { link: LinkId(1), label: Label(number + 1), port: there.port() };
        add_label(&mut engine, 77, 1, to, &stats);
    }
    settle(&mut engine);
    neighbour.send_to(&data_frame(77, 9, b"x"), address(&engine)).unwrap();
    assert_eq!(next_frame(&neighbour).label, Label(5_000));
}
