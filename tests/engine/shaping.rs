//! What waits at the entry of a shaped channel: leaves in order, is in flight until then, goes with its end.
//!
//! Counts, never times: how much passes at once and how much may wait are sizes of a bucket.

use std::os::fd::AsFd as _;

use super::*;

/// 64 KiB pass at once, 25 KB may wait for at most 50 ms.
const RATE: Bandwidth = Bandwidth::from_bps(4_000_000);
/// Packets of 1,000 bytes with 92 of headers and tag around the payload.
const PAYLOAD: usize = 908;
/// That pass or wait if they come at once; more if the sender takes its time.
const FIT: u64 = 65 + 25;

/// An engine with the entry of a shaped channel, and the neighbour it sends to.
struct Shaped {
    engine: Engine,
    stats: Arc<ChannelStats>,
    neighbour: UdpSocket,
    program: UdpSocket,
    entry: SocketAddr,
}

fn shaped(workers: usize, backend: BackendChoice) -> Shaped {
    let mut engine = engine_at("127.0.0.1:0", workers, backend);
    let (neighbour, program) = (program(), program());
    // Room for all that comes before it is taken.
    spanway::net::enlarge_receive_buffer(neighbour.as_fd()).unwrap();
    let there = neighbour.local_addr().unwrap();
    engine.broadcast(|| Command::SetLink(link(1, true, there, 1)));
    let stats: Arc<ChannelStats> = Arc::default();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let entry = socket.local_addr().unwrap();
    let spec = EndSpec {
        channel: channel(),
        socket,
        from: AllowedFrom::Loopback,
        deliver: Deliver::LastSender,
        gso: false,
        shape: true,
        seal: Seal::Plain,
        stats: Arc::clone(&stats),
    };
    engine.send(WorkerId(0), Command::AddEnd(spec));
    let mut shaped = Shaped { engine, stats, neighbour, program, entry };
    shaped.lead_to(Some(RATE));
    shaped
}

impl Shaped {
    fn lead_to(&mut self, rate: Option<Bandwidth>) {
        let port = self.neighbour.local_addr().unwrap().port();
        let hop = Target::Hop { link: LinkId(1), label: Label(9), port };
        let to = rate.map(|rate| EntrySpec { to: hop, rate, max_payload: MAX_PAYLOAD });
        self.engine.send(WorkerId(0), Command::SetEntry { channel: channel(), to });
        settle(&mut self.engine);
    }

    fn send(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let mut bytes = [7; PAYLOAD];
            bytes[..8].copy_from_slice(&number.to_be_bytes());
            self.program.send_to(&bytes, self.entry).unwrap();
        }
    }

    /// Takes `count` frames; each is newer than the one before, and what it was made of. Returns their
    /// sequences.
    fn take(&self, count: u64) -> Vec<u64> {
        let mut buffer = [0; 2_048];
        let mut sequences = Vec::new();
        while (sequences.len() as u64) < count {
            let (size, _) = self.neighbour.recv_from(&mut buffer).unwrap();
            let header = frame::parse(&buffer[..size]).unwrap();
            if header.frame_type != FrameType::Data {
                continue;
            }
            let payload = frame::payload(&header, &buffer[..size]);
            assert_eq!(payload.len(), PAYLOAD);
            assert_eq!(payload[..8], header.sequence.to_be_bytes(), "another one's header");
            assert!(payload[8..].iter().all(|&byte| byte == 7), "changed on its way");
            sequences.push(header.sequence);
        }
        assert!(sequences.is_sorted_by(|one, next| one < next), "{sequences:?}");
        sequences
    }

    /// All that entered is in one counter; returns how many were sent.
    fn at_rest(&self, entered: u64) -> u64 {
        wait_until("nothing waits", || {
            load(&self.stats.entered) == entered && self.stats.books().in_flight() == 0
        });
        load(&self.stats.sent)
    }
}

mod checks {
    use super::*;

    pub(super) fn a21_what_fits_the_bound_waits_and_leaves_in_order(backend: BackendChoice) {
        let shaped = shaped(1, backend);
        shaped.send(0..200);
        // In between what waits is in flight: never missing, never counted twice.
        let most = i64::from(spanway::limits::SHAPE_FRAMES_MAX);
        wait_until("all have entered", || {
            let in_flight = shaped.stats.books().in_flight();
            assert!((0..=most).contains(&in_flight), "{in_flight}");
            load(&shaped.stats.entered) == 200 && in_flight == 0
        });
        let sent = shaped.at_rest(200);
        assert_eq!(shaped.stats.drops(), [(DropReason::Policed, 200 - sent)]);
        assert!((FIT..200).contains(&sent), "{sent}: the bucket, what may wait and not all");
        let sequences = shaped.take(sent);
        assert!(sequences.iter().copied().take(FIT as usize).eq(0..FIT), "{sequences:?}");
        // What came later found the line as short as at the beginning.
        shaped.send(200..220);
        assert!(shaped.at_rest(220) > sent);
    }

    pub(super) fn a21_an_end_that_closes_or_lost_its_path_drops_what_waits_by_name(
        backend: BackendChoice,
    ) {
        let mut shaped = shaped(1, backend);
        // So slow that what waits does so for as long as it may.
        let slow = Bandwidth::from_bps(64_000);
        shaped.lead_to(Some(slow));
        let mut entered = 0;
        let mut send = |shaped: &Shaped, count| {
            shaped.send(entered..entered + count);
            entered += count;
            wait_until("entered", || load(&shaped.stats.entered) == entered);
        };
        send(&shaped, 100);
        shaped.lead_to(None);
        send(&shaped, 1);
        let sent = shaped.at_rest(101);
        assert!(shaped.stats.dropped(DropReason::Moving) >= 1);
        shaped.take(sent);
        shaped.lead_to(Some(slow));
        send(&shaped, 50);
        shaped.engine.send(WorkerId(0), Command::RemoveEnd(channel()));
        settle(&mut shaped.engine);
        assert_eq!(shaped.stats.books().in_flight(), 0, "{:?}", shaped.stats);
    }

    pub(super) fn a21_what_waits_moves_to_another_worker_with_its_end(backend: BackendChoice) {
        let mut shaped = shaped(2, backend);
        let mut entered = 0;
        for round in 0..20_u8 {
            shaped.send(entered..entered + 100);
            entered += 100;
            let (from, to) = (WorkerId(round % 2), WorkerId(1 - round % 2));
            let command =
                Command::MoveChannel { channel: channel(), labels: vec![], end: true, to };
            shaped.engine.send(from, command);
            settle(&mut shaped.engine);
            shaped.send(entered..entered + 10);
            entered += 10;
        }
        let sent = shaped.at_rest(entered);
        assert_eq!(shaped.stats.drops(), [(DropReason::Policed, entered - sent)]);
        assert!(sent >= FIT, "{sent}");
        shaped.take(sent);
    }

    pub(super) fn a21_waiting_costs_no_allocation(backend: BackendChoice) {
        let shaped = shaped(1, backend);
        shaped.send(0..200);
        let sent = shaped.at_rest(200);
        shaped.take(sent);
        let before = WORKER_ALLOCATIONS.load(Relaxed);
        shaped.send(200..400);
        let more = shaped.at_rest(400);
        assert_eq!(WORKER_ALLOCATIONS.load(Relaxed), before, "frames that wait allocate nothing");
        assert_eq!(shaped.take(more - sent).len() as u64, more - sent);
    }
}

for_both_backends! {
    a21_what_fits_the_bound_waits_and_leaves_in_order,
    a21_an_end_that_closes_or_lost_its_path_drops_what_waits_by_name,
    a21_what_waits_moves_to_another_worker_with_its_end,
    a21_waiting_costs_no_allocation,
}
