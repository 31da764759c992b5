//! Super-buffers through the engine: what the kernel hands over as one receive is many datagrams, and
//! leaves as one send where it can.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Command as Program, Stdio};
use std::sync::atomic::AtomicBool;

use spanway::engine::pool::Pool;
use spanway::engine::table::SocketId;
use spanway::net::{Batch, EventFd, Net, WORKER_SOCKET, Wait};

use super::*;
use crate::options::{cut, set_option};

/// Datagrams of one length, the last perhaps shorter, with one call.
pub(super) fn send_super(socket: &UdpSocket, to: SocketAddr, datagrams: &[Vec<u8>]) {
    cut(socket, datagrams[0].len());
    let sent = socket.send_to(&datagrams.concat(), to).unwrap();
    assert_eq!(sent, datagrams.iter().map(Vec::len).sum::<usize>());
    cut(socket, 0);
}

/// A payload that says its number.
fn numbered(number: u32, bytes: usize) -> Vec<u8> {
    let mut payload = vec![number as u8; bytes.max(4)];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    payload
}

fn number_of(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

/// Frames `numbers` with this label, in their payloads 40 bytes with their number.
fn frames(label: u64, numbers: std::ops::Range<u32>) -> Vec<Vec<u8>> {
    numbers.map(|number| data_frame(label, 9, &numbered(number, 40))).collect()
}

/// The label and number of the next frame that is not a heartbeat.
fn next_numbered(at: &UdpSocket) -> (u64, u32) {
    let mut buffer = [0; 2_048];
    loop {
        let size = at.recv_from(&mut buffer).unwrap().0;
        let header = frame::parse(&buffer[..size]).unwrap();
        if header.frame_type == FrameType::Data {
            return (header.label.0, number_of(frame::payload(&header, &buffer[..size])));
        }
    }
}

/// A small stream of numbers without order, the same in every run.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (self.0 >> 33) as usize % below
    }
}

/// One engine with one link to a program that plays the neighbour.
fn relay(backend: BackendChoice, neighbour: &UdpSocket) -> Engine {
    let mut engine = engine(backend);
    let there = neighbour.local_addr().unwrap();
    engine.send(WorkerId(0), Command::SetLink(link(1, true, there, 1)));
    engine
}

/// The same with a label 5 whose frames go back there as 6.
fn relay_back(backend: BackendChoice, neighbour: &UdpSocket) -> (Engine, Arc<ChannelStats>) {
    let mut relay = relay(backend, neighbour);
    let stats: Arc<ChannelStats> = Arc::default();
    let port = neighbour.local_addr().unwrap().port();
    let to = Target::Hop { link: LinkId(1), label: Label(6), port };
    add_label(&mut relay, 5, 1, to, &stats);
    settle(&mut relay);
    (relay, stats)
}

mod checks {
    use super::*;

    pub(super) fn a20_every_datagram_of_a_super_buffer_crosses_the_overlay(backend: BackendChoice) {
        let path = path(backend);
        let [_, b, _] = &path.engines;
        let mut count = 0;
        for (segment, datagrams) in
            [(4, 64), (200, 33), (1_316, 40), (500, 2), (7_000, 9), (300, 1)]
        {
            for last in [segment, segment - 1, 1].map(|last| last.max(4)) {
                let sizes = (1..=datagrams).map(|n| if n == datagrams { last } else { segment });
                let sent: Vec<Vec<u8>> =
                    (count..).zip(sizes).map(|(n, b)| numbered(n, b)).collect();
                count += datagrams;
                send_super(&path.opener, path.at_a, &sent);
                let mut buffer = vec![0; 8_192];
                for expected in &sent {
                    let (size, from) = path.service.recv_from(&mut buffer).unwrap();
                    assert!(buffer[..size] == *expected, "{size} bytes of {segment}");
                    assert_eq!(from, path.at_c);
                }
            }
        }
        assert_books_balance(&path.stats, count.into());
        assert_eq!(load(&path.stats[0].bytes_in), load(&path.stats[2].bytes_out));
        let (receives, datagrams) =
            (load(&worker_stats(b).receives), load(&worker_stats(b).datagrams));
        let heard = load(&worker_stats(b).heartbeats_heard);
        assert!((receives - heard) * 8 < datagrams - heard, "{receives} carried {datagrams}");
    }

    fn a_stream_of_any_sizes(listen: &str, backend: BackendChoice) {
        let path = path_of(listen, 1, backend);
        // Room for all that is under way: a loss here would look like a gap.
        spanway::net::enlarge_receive_buffer(path.service.as_fd()).unwrap();
        let (mut dice, mut sent, mut seen) = (Dice(7), 0u32, 0u32);
        let mut buffer = vec![0; 16_384];
        while seen < 20_000 {
            while sent - seen < 100 {
                let segment = [60, 60, 60, 200, 1_000, 1_316][dice.roll(6)];
                let datagrams = 1 + dice.roll(30) as u32;
                let last = 4 + dice.roll(segment - 4);
                let size = |n| if n == datagrams { last } else { segment };
                let datagrams: Vec<_> =
                    (1..=datagrams).map(|n| numbered(sent + n - 1, size(n))).collect();
                send_super(&path.opener, path.at_a, &datagrams);
                sent += datagrams.len() as u32;
            }
            let (size, _) = path.service.recv_from(&mut buffer).unwrap();
            assert_eq!(number_of(&buffer[..size]), seen, "frames of one channel out of order");
            seen += 1;
        }
    }

    pub(super) fn a20_frames_of_one_channel_are_never_reordered(backend: BackendChoice) {
        a_stream_of_any_sizes("127.0.0.1:0", backend);
    }

    pub(super) fn a20_frames_of_one_channel_are_never_reordered_on_ipv6(backend: BackendChoice) {
        a_stream_of_any_sizes("[::1]:0", backend);
    }

    pub(super) fn a_super_buffer_of_128_segments_leaves_as_runs_of_64(backend: BackendChoice) {
        let neighbour = program();
        let (relay, stats) = relay_back(backend, &neighbour);
        let frames = frames(5, 0..128);
        cut(&neighbour, frames[0].len());
        match neighbour.send_to(&frames.concat(), address(&relay)) {
            Ok(_) => cut(&neighbour, 0),
            Err(error) => {
                // Before Linux 6.9 no sender can make one.
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
                return println!("SKIPPED: this kernel takes no 128 segments");
            }
        }
        for number in 0..128 {
            assert_eq!(next_numbered(&neighbour), (6, number));
        }
        assert_books_balance(&[stats], 128);
        assert_eq!(load(&worker_stats(&relay).sends), 2);
    }

    pub(super) fn frames_of_two_channels_in_one_super_buffer_part(backend: BackendChoice) {
        let (neighbour, other) = (program(), program());
        let mut relay = relay(backend, &neighbour);
        let there = other.local_addr().unwrap();
        relay.send(WorkerId(0), Command::SetLink(link(2, true, there, 1)));
        let stats: [Arc<ChannelStats>; 2] = Default::default();
        let port = neighbour.local_addr().unwrap().port();
        let back = Target::Hop { link: LinkId(1), label: Label(6), port };
        let on = Target::Hop { link: LinkId(2), label: Label(8), port: there.port() };
        add_label(&mut relay, 5, 1, back, &stats[0]);
        add_label(&mut relay, 7, 1, on, &stats[1]);
        settle(&mut relay);
        let mut dice = Dice(1);
        let mut expected: [Vec<u32>; 2] = Default::default();
        for round in 0..50 {
            let datagrams: Vec<_> = (round * 60..round * 60 + 60)
                .map(|number| {
                    let which = dice.roll(2);
                    expected[which].push(number);
                    data_frame([5, 7][which], 9, &numbered(number, 40))
                })
                .collect();
            send_super(&neighbour, address(&relay), &datagrams);
            for number in expected[0].drain(..) {
                assert_eq!(next_numbered(&neighbour), (6, number));
            }
            for number in expected[1].drain(..) {
                assert_eq!(next_numbered(&other), (8, number));
            }
        }
        wait_until("all in the books", || load(&stats[0].sent) + load(&stats[1].sent) == 3_000);
        // Two runs for each super-buffer, and not one for each frame.
        assert_eq!(load(&worker_stats(&relay).sends), 100);
    }

    pub(super) fn bad_frames_in_a_super_buffer_harm_no_other(backend: BackendChoice) {
        let neighbour = program();
        let (relay, stats) = relay_back(backend, &neighbour);
        let mut datagrams = frames(5, 0..10);
        datagrams[3].fill(0);
        datagrams[4] = frames(99, 4..5).remove(0);
        datagrams[9].truncate(90);
        send_super(&neighbour, address(&relay), &datagrams);
        for number in [0, 1, 2, 5, 6, 7, 8] {
            assert_eq!(next_numbered(&neighbour), (6, number));
        }
        wait_for_drops(&relay, DropReason::Malformed, 2);
        wait_for_drops(&relay, DropReason::UnknownLabel, 1);
        assert_books_balance(&[stats], 7);
    }

    pub(super) fn headers_of_datagrams_that_go_nowhere_need_no_room(backend: BackendChoice) {
        let neighbour = program();
        let mut engine = relay(backend, &neighbour);
        let stats: Arc<ChannelStats> = Arc::default();
        let (from, deliver) = (AllowedFrom::Loopback, Deliver::LastSender);
        let at = add_end(&mut engine, 0, channel(), from, deliver, &stats);
        // The link to the next hop is down.
        let to = Target::Hop { link: LinkId(9), label: Label(8), port: 1 };
        set_entry(&mut engine, 0, channel(), to, 100);
        settle(&mut engine);
        let (sender, datagrams) = (program(), vec![vec![7; 100]; 60]);
        for round in 1..=40 {
            send_super(&sender, at, &datagrams);
            wait_until("dropped", || stats.dropped(DropReason::NoLink) == round * 60);
        }
        let port = neighbour.local_addr().unwrap().port();
        let to = Target::Hop { link: LinkId(1), label: Label(6), port };
        set_entry(&mut engine, 0, channel(), to, 100);
        settle(&mut engine);
        send_super(&sender, at, &datagrams);
        (0..60).for_each(|_| assert_eq!(next_frame(&neighbour).label, Label(6)));
    }

    pub(super) fn a_program_that_takes_super_buffers_gets_them(backend: BackendChoice) {
        let (neighbour, service) = (program(), program());
        set_option(&service, libc::SOL_UDP, libc::UDP_GRO, 1);
        let mut engine = relay(backend, &neighbour);
        let stats: Arc<ChannelStats> = Arc::default();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        add_gso_end(&mut engine, socket, service.local_addr().unwrap(), &stats);
        add_label(&mut engine, 5, 1, Target::Local(channel()), &stats);
        settle(&mut engine);
        send_super(&neighbour, address(&engine), &frames(5, 0..30));
        let mut buffer = [0; 4_096];
        // Headers and tags are left out, the payloads are one send.
        assert_eq!(service.recv_from(&mut buffer).unwrap().0, 30 * 40);
        for (number, payload) in (0..30).zip(buffer.chunks(40)) {
            assert_eq!(payload, numbered(number, 40));
        }
        wait_until("counted", || load(&stats.delivered) == 30);
        assert_eq!((load(&stats.bytes_out), load(&worker_stats(&engine).sends)), (1_200, 1));
    }

    pub(super) fn a_segment_larger_than_the_mtu_goes_alone(backend: BackendChoice) {
        if !in_own_network(1_500, &|| a_segment_of_1600_bytes(backend)) {
            println!("SKIPPED: this user may not make network namespaces");
        }
    }

    fn a_segment_of_1600_bytes(backend: BackendChoice) {
        let (neighbour, service) = (program(), program());
        let mut engine = relay(backend, &neighbour);
        let stats: Arc<ChannelStats> = Arc::default();
        // Without DF: one datagram is sent in fragments, but segments are refused.
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        add_gso_end(&mut engine, socket, service.local_addr().unwrap(), &stats);
        add_label(&mut engine, 5, 1, Target::Local(channel()), &stats);
        settle(&mut engine);
        let refused = || load(&worker_stats(&engine).gso_refused);
        let mut buffer = [0; 2_048];
        let mut sent = 0;
        // Until a batch had two of them.
        while refused() == 0 || sent < 640 {
            for number in sent..sent + 32 {
                let frame = data_frame(5, 9, &numbered(number, 1_600));
                neighbour.send_to(&frame, address(&engine)).unwrap();
            }
            for number in sent..sent + 32 {
                let size = service.recv_from(&mut buffer).unwrap().0;
                assert_eq!((size, number_of(&buffer)), (1_600, number));
            }
            sent += 32;
            assert!(sent < 100_000, "no batch had two frames");
        }
        assert_eq!(refused(), 1, "once is enough to know the destination");
        assert_books_balance(&[stats], sent.into());
    }

    pub(super) fn a_refusal_of_an_earlier_datagram_costs_no_later_one(backend: BackendChoice) {
        let neighbour = program();
        let mut engine = relay(backend, &neighbour);
        let stats: Arc<ChannelStats> = Arc::default();
        let service = program();
        let to = service.local_addr().unwrap();
        // Only a connected socket is told that nobody listens.
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(to).unwrap();
        add_gso_end(&mut engine, socket, to, &stats);
        add_label(&mut engine, 5, 1, Target::Local(channel()), &stats);
        settle(&mut engine);
        drop(service);
        for number in 0..100 {
            send_super(&neighbour, address(&engine), &frames(5, number..number + 2));
            // One run at a time: of two in one batch the later one must not go first.
            assert_books_balance(&[Arc::clone(&stats)], 2 * u64::from(number + 1));
        }
        assert_eq!(load(&stats.delivered), 200, "{:?}", stats.drops());
        let service = UdpSocket::bind(to).unwrap();
        service.set_read_timeout(Some(PATIENCE)).unwrap();
        send_super(&neighbour, address(&engine), &frames(5, 7..8));
        let mut buffer = [0; 64];
        assert_eq!(service.recv_from(&mut buffer).unwrap().0, 40);
        assert_eq!(number_of(&buffer), 7);
    }

    pub(super) fn a_full_receive_buffer_is_counted_and_segments_stay_right(backend: BackendChoice) {
        let mut engine = engine(backend);
        let stats: Arc<ChannelStats> = Arc::default();
        let (from, deliver) = (AllowedFrom::Loopback, Deliver::LastSender);
        let at = add_end(&mut engine, 0, channel(), from, deliver, &stats);
        settle(&mut engine);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let (sender, datagrams) = (program(), vec![vec![7; 1_000]; 60]);
                    while !done.load(Relaxed) {
                        send_super(&sender, at, &datagrams);
                    }
                });
            }
            let give_up = Instant::now() + PATIENCE;
            while stats.dropped(DropReason::KernelReceive) == 0 && Instant::now() < give_up {
                std::thread::sleep(Duration::from_millis(1));
            }
            done.store(true, Relaxed);
        });
        assert!(stats.dropped(DropReason::KernelReceive) > 0, "nothing overflowed");
        let mut quiet = 0;
        wait_until("all is read", || {
            std::thread::sleep(Duration::from_millis(20));
            std::mem::replace(&mut quiet, load(&stats.entered)) == load(&stats.entered)
        });
        // The count of drops stands in front of the segment's size in the control data from now on.
        let before = (load(&stats.entered), load(&stats.bytes_in));
        let lost = stats.dropped(DropReason::KernelReceive);
        send_super(&program(), at, &vec![vec![1; 120]; 30]);
        wait_until("the next super-buffer", || load(&stats.bytes_in) == before.1 + 30 * 120);
        // What the kernel dropped last is told with it.
        let late = stats.dropped(DropReason::KernelReceive) - lost;
        assert_eq!(load(&stats.entered), before.0 + late + 30);
    }

    pub(super) fn what_no_buffer_can_take_is_dropped_by_name(backend: BackendChoice) {
        let mut engine = engine(backend);
        let stats: Arc<ChannelStats> = Arc::default();
        // UDP cannot be that large: a local socket of another family plays the end.
        let (here, there) = UnixDatagram::pair().unwrap();
        let to = address(&engine);
        add_gso_end(&mut engine, OwnedFd::from(here).into(), to, &stats);
        settle(&mut engine);
        there.send(&vec![1; 70_000]).unwrap();
        wait_until("truncated", || stats.dropped(DropReason::Truncated) == 1);
        there.send(&vec![1; 65_535]).unwrap();
        wait_until("whole", || stats.dropped(DropReason::ForeignSender) == 1);
        assert_eq!((load(&stats.entered), load(&stats.bytes_in)), (2, 2 * 65_535));
    }

    pub(super) fn datagrams_whose_ends_are_not_known_are_dropped_by_name(backend: BackendChoice) {
        let mut engine = engine(backend);
        let stats: Arc<ChannelStats> = Arc::default();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = socket.local_addr().unwrap();
        // Two kinds of time stamps leave no room for the size of a segment.
        set_option(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1);
        let software = libc::SOF_TIMESTAMPING_SOFTWARE | libc::SOF_TIMESTAMPING_RX_SOFTWARE;
        set_option(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPING, software as i32);
        let to = address(&engine);
        add_gso_end(&mut engine, socket, to, &stats);
        settle(&mut engine);
        send_super(&program(), at, &vec![vec![1; 100]; 5]);
        wait_until("by name", || stats.dropped(DropReason::ControlTruncated) > 0);
        assert_eq!(load(&stats.bytes_in), 500);
        assert_eq!(load(&stats.entered), stats.dropped(DropReason::ControlTruncated));
    }

    pub(super) fn without_a_free_buffer_nothing_is_lost(backend: BackendChoice) {
        let (mut net, socket, at) = small_net(backend, 8);
        let sender = program();
        let mut batch = Batch::default();
        for number in 0..30u32 {
            sender.send_to(&number.to_be_bytes(), at).unwrap();
        }
        let mut expected = 0;
        while expected < 30 {
            reap_until(&mut net, &mut batch, 1);
            assert!(batch.received.len() <= 8, "more than there are buffers");
            // All buffers in hand: the receive ends and what waits stays in the socket.
            let soon = Wait { timeout: Some(Duration::from_millis(5)), min: None };
            net.reap(soon, &mut batch).unwrap();
            for received in batch.received.drain(..) {
                assert_eq!((received.socket, received.datagrams()), (socket, 1));
                assert_eq!(number_of(net.pool().bytes(&received.buffer)), expected);
                expected += 1;
                net.release(received.buffer);
            }
        }
        assert!(batch.given_up.is_empty() && batch.overflows.is_empty());
    }

    pub(super) fn a_wait_gathers_what_comes_soon(backend: BackendChoice) {
        let (mut net, _, at) = small_net(backend, 64);
        let sender = program();
        let mut batch = Batch::default();
        // Arms the receives.
        net.reap(Wait { timeout: Some(Duration::ZERO), min: None }, &mut batch).unwrap();
        sender.send_to(&[1], at).unwrap();
        reap_until(&mut net, &mut batch, 1);
        let thread = std::thread::spawn(move || {
            for _ in 0..4 {
                std::thread::sleep(Duration::from_millis(5));
                sender.send_to(&[1], at).unwrap();
            }
        });
        let started = Instant::now();
        let min = Some((Duration::from_millis(300), 4));
        net.reap(Wait { timeout: Some(PATIENCE), min }, &mut batch).unwrap();
        assert!(started.elapsed() >= Duration::from_millis(20), "it did not wait for four");
        assert_eq!(batch.received.len(), 5);
        thread.join().unwrap();
        // Too few: the time ends it, and the first after that.
        let started = Instant::now();
        let min = Some((Duration::from_millis(5), 4));
        net.reap(Wait { timeout: Some(Duration::from_millis(30)), min }, &mut batch).unwrap();
        assert!(started.elapsed() >= Duration::from_millis(29) && batch.received.len() == 5);
        net.release_all(batch.received.drain(..).map(|received| received.buffer));
    }

    pub(super) fn a_length_and_a_segment_that_are_equal_are_one_datagram(backend: BackendChoice) {
        let (mut net, _, at) = small_net(backend, 8);
        let sender = program();
        let mut batch = Batch::default();
        let mut next = |expected: (usize, u16, usize)| {
            reap_until(&mut net, &mut batch, 1);
            let received = batch.received.pop().unwrap();
            let told = (received.buffer.len(), received.segment, received.datagrams());
            assert_eq!(told, expected);
            net.release(received.buffer);
        };
        for bytes in [500, 400] {
            cut(&sender, 500);
            sender.send_to(&vec![1; bytes], at).unwrap();
            next((bytes, bytes as u16, 1));
        }
        sender.send_to(&vec![1; 501], at).unwrap();
        next((501, 500, 2));
        cut(&sender, 0);
        sender.send_to(&[], at).unwrap();
        next((0, 0, 1));
    }

    pub(super) fn a20_a_million_frames_allocate_nothing(backend: BackendChoice) {
        let path = path(backend);
        stream(&path.opener, path.at_a, &path.service, 500);
        let before = (WORKER_ALLOCATIONS.load(Relaxed), load(&path.stats[1].received));
        assert!(before.0 > 0, "the counter sees the workers");
        let flood = Flood::start(&path.opener, path.at_a, &path.stats[2]);
        wait_until("a million frames", || load(&path.stats[1].received) - before.1 >= 1_000_000);
        drop(flood);
        assert_eq!(WORKER_ALLOCATIONS.load(Relaxed) - before.0, 0);
    }
}

/// Sends into an end as fast as it goes until it is dropped, at most so far ahead of what is delivered
/// that most frames go all the way.
struct Flood {
    done: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

const AHEAD_MAX: u64 = 4_000;

impl Flood {
    fn start(from: &UdpSocket, to: SocketAddr, delivered: &Arc<ChannelStats>) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let (stop, from, delivered) =
            (Arc::clone(&done), from.try_clone().unwrap(), Arc::clone(delivered));
        let thread = std::thread::spawn(move || {
            let datagrams = vec![vec![5; 200]; 40];
            let mut sent = load(&delivered.delivered);
            while !stop.load(Relaxed) {
                send_super(&from, to, &datagrams);
                sent += datagrams.len() as u64;
                for patience in (0..10_000).rev() {
                    if sent <= load(&delivered.delivered) + AHEAD_MAX {
                        break;
                    }
                    if patience == 0 {
                        // Some were dropped.
                        sent = load(&delivered.delivered);
                    }
                    std::thread::yield_now();
                }
            }
        });
        Self { done, thread: Some(thread) }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.done.store(true, Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// An end that delivers super-buffers to `to`.
fn add_gso_end(engine: &mut Engine, socket: UdpSocket, to: SocketAddr, stats: &Arc<ChannelStats>) {
    let (from, deliver, stats) = (AllowedFrom::Loopback, Deliver::To(to), Arc::clone(stats));
    let spec = EndSpec {
        channel: channel(),
        socket,
        from,
        deliver,
        gso: true,
        shape: false,
        seal: Seal::Plain,
        stats,
    };
    engine.send(WorkerId(0), Command::AddEnd(spec));
}

/// A back end by itself, with few buffers and one socket.
fn small_net(backend: BackendChoice, buffers: u16) -> (Net, SocketId, SocketAddr) {
    let backend = spanway::net::probe(backend).unwrap().0;
    let (pool, free) = Pool::new(buffers).unwrap();
    let mut net = Net::open(backend, &EventFd::new().unwrap(), pool, free).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = socket.local_addr().unwrap();
    let id = net.add_socket(socket.into()).unwrap();
    assert_eq!(id, WORKER_SOCKET);
    (net, id, at)
}

fn reap_until(net: &mut Net, batch: &mut Batch, receives: usize) {
    let give_up = Instant::now() + PATIENCE;
    while batch.received.len() < receives {
        assert!(Instant::now() < give_up, "nothing came");
        net.reap(Wait { timeout: Some(INTERVAL), min: None }, batch).unwrap();
    }
}

/// Runs `test` on a thread whose network is a loopback device of its own with this MTU. False if this
/// user may not make one.
pub(super) fn in_own_network(mtu: u32, test: &(dyn Fn() + Sync)) -> bool {
    let own_network = move || {
        // SAFETY: no pointers are passed. Only this thread, which ends soon, leaves its network.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return false;
        }
        // A child is in the network of the thread that starts it.
        let mtu = mtu.to_string();
        let set_up = Program::new("ip").args(["link", "set", "lo", "up", "mtu", &mtu]).status();
        assert!(set_up.unwrap().success());
        test();
        true
    };
    std::thread::scope(|scope| scope.spawn(own_network).join().unwrap())
}

/// Lines of what `strace` saw a thread do in a second.
fn system_calls(thread: &str) -> Option<Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("calls");
    let mut strace = Program::new("strace");
    strace.args(["-q", "-p", thread, "-o"]).arg(&file).stdin(Stdio::null());
    let mut strace = strace.stderr(Stdio::null()).spawn().ok()?;
    std::thread::sleep(Duration::from_millis(1_500));
    // SAFETY: no pointers are passed; the process is our own child and not waited for yet.
    unsafe { libc::kill(strace.id() as i32, libc::SIGINT) };
    strace.wait().unwrap();
    let calls = std::fs::read_to_string(&file).unwrap_or_default();
    Some(calls.lines().map(str::to_owned).collect())
}

/// The number of this process's thread of that name.
fn thread_number(name: &str) -> String {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap().path());
    let named = |folder: &std::path::PathBuf| {
        std::fs::read_to_string(folder.join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    let mut found = threads.filter(named);
    let folder = found.next().expect("a thread of this name");
    folder.file_name().unwrap().to_str().unwrap().to_owned()
}

/// Worker 1 has no heartbeats to send: all it does for a second at full load is to enter its ring.
#[test]
fn a20_a_saturated_worker_only_enters_its_ring() {
    let _guard = one_at_a_time();
    if !possible(BackendChoice::Uring) {
        return;
    }
    let mut two = engine_at("127.0.0.1:0", 2, BackendChoice::Uring);
    let (neighbour, service) = (program(), program());
    let there = neighbour.local_addr().unwrap();
    two.broadcast(|| Command::SetLink(link(1, true, there, 1)));
    let stats: Arc<ChannelStats> = Arc::default();
    let to = Deliver::To(service.local_addr().unwrap());
    let at = add_end(&mut two, 1, channel(), AllowedFrom::Loopback, to, &stats);
    // What enters leaves at once: an entry, and the way to a local program.
    set_entry(&mut two, 1, channel(), Target::Local(channel()), MAX_PAYLOAD);
    settle(&mut two);
    let sender = program();
    let flood = Flood::start(&sender, at, &stats);
    wait_until("load", || load(&stats.delivered) > 10_000);
    let before = load(&stats.delivered);
    let calls = system_calls(&thread_number("spanway-w1"));
    let frames = load(&stats.delivered) - before;
    drop(flood);
    let Some(calls) = calls.filter(|calls| !calls.is_empty()) else {
        return println!("SKIPPED: strace is missing, or may not watch this process");
    };
    let other: Vec<_> = calls.iter().filter(|call| !call.starts_with("io_uring_enter(")).collect();
    assert!(
        other.is_empty(),
        "{} of {}: {:?}",
        other.len(),
        calls.len(),
        &other[..other.len().min(5)]
    );
    assert!(frames > 10_000, "no load: {frames} frames");
    assert!((calls.len() as u64) < frames, "{} calls for {frames} frames", calls.len());
}

for_both_backends! {
    a20_every_datagram_of_a_super_buffer_crosses_the_overlay,
    a20_frames_of_one_channel_are_never_reordered,
    a20_frames_of_one_channel_are_never_reordered_on_ipv6,
    a_super_buffer_of_128_segments_leaves_as_runs_of_64,
    frames_of_two_channels_in_one_super_buffer_part,
    bad_frames_in_a_super_buffer_harm_no_other,
    headers_of_datagrams_that_go_nowhere_need_no_room,
    a_program_that_takes_super_buffers_gets_them,
    a_segment_larger_than_the_mtu_goes_alone,
    a_refusal_of_an_earlier_datagram_costs_no_later_one,
    a_full_receive_buffer_is_counted_and_segments_stay_right,
    what_no_buffer_can_take_is_dropped_by_name,
    datagrams_whose_ends_are_not_known_are_dropped_by_name,
    without_a_free_buffer_nothing_is_lost,
    a_wait_gathers_what_comes_soon,
    a_length_and_a_segment_that_are_equal_are_one_datagram,
    a20_a_million_frames_allocate_nothing,
}
