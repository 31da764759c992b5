//! Two paths of one channel at its end: whatever arrives first, the program gets the frames in order.
//!
//! ```text
//! program "old" ══ link 1, label 5 ══╗
//!                                    ╠══ engine ─► end ─► service
//! program "new" ══ link 2, label 6 ══╝
//! ```

use std::os::fd::AsFd as _;

use spanway::limits::{HOP_LIMIT_START, MERGE_FRAMES_MAX};

use super::*;

const OLD: u64 = 5;
const NEW: u64 = 6;

/// The last hops of two paths, and the end they lead to.
struct Ends {
    engine: Engine,
    stats: Arc<ChannelStats>,
    old: UdpSocket,
    new: UdpSocket,
    service: UdpSocket,
}

fn ends(backend: BackendChoice) -> Ends {
    ends_of(1, backend)
}

fn ends_of(workers: usize, backend: BackendChoice) -> Ends {
    let mut engine = engine_at("127.0.0.1:0", workers, backend);
    let (old, new, service) = (program(), program(), program());
    // Room for all that waits and then comes at once.
    spanway::net::enlarge_receive_buffer(service.as_fd()).unwrap();
    for (number, neighbour) in [(1, &old), (2, &new)] {
        let there = neighbour.local_addr().unwrap();
        engine.broadcast(|| Command::SetLink(link(number, true, there, 1)));
    }
    let stats: Arc<ChannelStats> = Arc::default();
    let deliver = Deliver::To(service.local_addr().unwrap());
    add_end(&mut engine, 0, channel(), AllowedFrom::Loopback, deliver, &stats);
    let mut ends = Ends { engine, stats, old, new, service };
    ends.add_label(OLD);
    ends.add_label(NEW);
    ends
}

fn sequenced(label: u64, sequence: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = data_frame(label, HOP_LIMIT_START, payload);
    let mut header = frame::parse(&bytes).unwrap();
    header.sequence = sequence;
    header.emit(&mut bytes);
    bytes
}

/// Of a size that depends on the number; begins with it.
fn numbered(number: u64) -> Vec<u8> {
    payload(u32::try_from(number).unwrap())
}

impl Ends {
    fn add_label(&mut self, label: u64) {
        let from = if label == OLD { 1 } else { 2 };
        add_label(&mut self.engine, label, from, Target::Local(channel()), &self.stats);
        settle(&mut self.engine);
    }

    fn remove_label(&mut self, label: u64) {
        self.engine.broadcast(|| Command::RemoveLabel(Label(label)));
        settle(&mut self.engine);
    }

    /// Over the path of this label.
    fn send(&self, label: u64, sequence: u64) {
        let neighbour = if label == OLD { &self.old } else { &self.new };
        let frame = sequenced(label, sequence, &numbered(sequence));
        neighbour.send_to(&frame, address(&self.engine)).unwrap();
    }

    fn wait_for(&self, received: u64) {
        wait_until("received", || load(&self.stats.received) == received);
    }

    fn expect(&self, sequences: impl IntoIterator<Item = u64>) {
        let mut buffer = vec![0; 8_192];
        for sequence in sequences {
            let size = self.service.recv_from(&mut buffer).unwrap().0;
            assert!(buffer[..size] == numbered(sequence), "not {sequence}: {:?}", &buffer[..4]);
        }
    }

    /// What came and has neither left nor been dropped.
    fn in_flight(&self) -> i64 {
        self.stats.books().in_flight()
    }

    fn assert_late(&self, late: u64) {
        wait_until("late", || self.stats.dropped(DropReason::Late) >= late);
        assert_eq!(self.stats.dropped(DropReason::Late), late);
    }
}

mod checks {
    use super::*;

    pub(super) fn a17_frames_of_a_faster_path_wait_for_the_slower_one(backend: BackendChoice) {
        let mut ends = ends(backend);
        (0..3).for_each(|sequence| ends.send(OLD, sequence));
        ends.expect(0..3);
        (6..10).for_each(|sequence| ends.send(NEW, sequence));
        ends.wait_for(7);
        assert_silence(&ends.service);
        assert_eq!((ends.in_flight(), load(&ends.stats.next_sequence)), (4, 3));
        (3..6).for_each(|sequence| ends.send(OLD, sequence));
        ends.expect(3..10);
        // The old path is at its end; what is left of it goes without a trace.
        ends.send(NEW, 10);
        ends.expect([10]);
        ends.remove_label(OLD);
        ends.send(NEW, 11);
        ends.expect([11]);
        assert_books_balance(&[Arc::clone(&ends.stats)], 12);
        assert_eq!(load(&ends.stats.delivered), 12);
        let bytes: usize = (0..12).map(|number| numbered(number).len()).sum();
        assert_eq!(load(&ends.stats.bytes_out), bytes as u64);
        assert_eq!(ends.stats.one_way.read().reading().count(), 12);
    }

    pub(super) fn a17_a_removed_label_is_not_waited_for(backend: BackendChoice) {
        let mut ends = ends(backend);
        ends.send(OLD, 0);
        ends.expect([0]);
        // The last ones of the old path are lost.
        (3..8).for_each(|sequence| ends.send(NEW, sequence));
        ends.wait_for(6);
        assert_eq!(ends.in_flight(), 5);
        ends.remove_label(OLD);
        // They left before the command was done.
        assert_eq!(ends.in_flight(), 0);
        ends.expect(3..8);
        ends.send(NEW, 9);
        ends.expect([9]);
        assert_books_balance(&[Arc::clone(&ends.stats)], 7);
    }

    pub(super) fn a17_what_comes_too_late_is_dropped_by_name(backend: BackendChoice) {
        let mut ends = ends(backend);
        (0..4).for_each(|sequence| ends.send(OLD, sequence));
        ends.expect(0..4);
        (4..6).for_each(|sequence| ends.send(NEW, sequence));
        ends.expect(4..6);
        [1, 5].into_iter().for_each(|sequence| ends.send(OLD, sequence));
        ends.assert_late(2);
        assert_silence(&ends.service);
        // One that waits already is none the second time.
        ends.add_label(7);
        for _ in 0..2 {
            ends.send(7, 8);
        }
        ends.assert_late(3);
        ends.remove_label(NEW);
        ends.expect([8]);
        assert_books_balance(&[Arc::clone(&ends.stats)], 10);
    }

    pub(super) fn a17_without_room_frames_leave_in_order(backend: BackendChoice) {
        let ends = ends(backend);
        ends.send(OLD, 0);
        ends.expect([0]);
        let held = u64::from(MERGE_FRAMES_MAX);
        let mut received = 1;
        for first in (2..held + 2).step_by(64) {
            for sequence in first..first + 64 {
                let frame = sequenced(NEW, sequence, &sequence.to_be_bytes());
                ends.new.send_to(&frame, address(&ends.engine)).unwrap();
                received += 1;
            }
            ends.wait_for(received);
        }
        assert_eq!(ends.in_flight(), i64::from(MERGE_FRAMES_MAX));
        assert_silence(&ends.service);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut buffer = [0; 16];
                for sequence in 2..held + 2 {
                    assert_eq!(ends.service.recv_from(&mut buffer).unwrap().0, 8);
                    assert_eq!(buffer[..8], sequence.to_be_bytes());
                }
            });
            ends.send(NEW, held + 2);
            reader.join().unwrap();
        });
        ends.expect([held + 2]);
        ends.send(OLD, 1);
        ends.assert_late(1);
        ends.send(NEW, held + 3);
        ends.expect([held + 3]);
        assert_books_balance(&[Arc::clone(&ends.stats)], held + 4);
    }

    pub(super) fn a17_any_mixture_of_two_paths_arrives_in_order(backend: BackendChoice) {
        const EACH: u64 = 30;
        let mut ends = ends(backend);
        let mut dice = super_buffers::Dice(3);
        let (mut sent, mut late) = (0, 0);
        for round in 0..60u64 {
            let (old, new) = if round % 2 == 0 { (OLD, NEW) } else { (NEW, OLD) };
            let (first, switch) = (round * 2 * EACH, round * 2 * EACH + EACH);
            let lossy = dice.roll(3) == 0;
            let mut on_old: VecDeque<u64> =
                (first..switch).filter(|_| !lossy || dice.roll(4) > 0).collect();
            let mut on_new: VecDeque<u64> = (switch..switch + EACH).collect();
            let expected: Vec<u64> = on_old.iter().chain(&on_new).copied().collect();
            while !(on_old.is_empty() && on_new.is_empty()) {
                let from_old = on_new.is_empty() || !on_old.is_empty() && dice.roll(2) == 0;
                let (label, queue) = if from_old { (old, &mut on_old) } else { (new, &mut on_new) };
                ends.send(label, queue.pop_front().unwrap());
            }
            sent += expected.len() as u64;
            if !lossy {
                // One more of the old path, which was under way for long.
                ends.send(old, first);
                (sent, late) = (sent + 1, late + 1);
            }
            ends.wait_for(sent);
            ends.remove_label(old);
            ends.expect(expected);
            ends.add_label(old);
        }
        assert!(late > 20 && late < 60, "{late} rounds without loss");
        ends.assert_late(late);
        assert_books_balance(&[Arc::clone(&ends.stats)], sent);
    }

    pub(super) fn a17_segments_of_super_buffers_are_judged_one_by_one(backend: BackendChoice) {
        let ends = ends(backend);
        let frames = |label: u64, sequences: std::ops::Range<u64>| -> Vec<Vec<u8>> {
            let bytes = |sequence: u64| sequenced(label, sequence, &sequence.to_be_bytes());
            sequences.map(bytes).collect()
        };
        let to = address(&ends.engine);
        super_buffers::send_super(&ends.old, to, &frames(OLD, 0..20));
        super_buffers::send_super(&ends.new, to, &frames(NEW, 38..70));
        // The first of them are the last ones that were waited for, the others are late.
        let mut last = frames(OLD, 20..38);
        last.extend(frames(OLD, 30..34));
        super_buffers::send_super(&ends.old, to, &last);
        super_buffers::send_super(&ends.new, to, &frames(NEW, 70..100));
        let mut buffer = [0; 16];
        for sequence in 0..100u64 {
            assert_eq!(ends.service.recv_from(&mut buffer).unwrap().0, 8);
            assert_eq!(buffer[..8], sequence.to_be_bytes());
        }
        ends.assert_late(4);
        assert_books_balance(&[Arc::clone(&ends.stats)], 104);
    }

    pub(super) fn a17_waiting_costs_no_allocation(backend: BackendChoice) {
        let ends = ends(backend);
        let mut next = 0;
        let mut round = |old: u64, new: u64| {
            (next + 4..next + 8).for_each(|sequence| ends.send(new, sequence));
            ends.wait_for(next + 4);
            (next..next + 4).for_each(|sequence| ends.send(old, sequence));
            ends.expect(next..next + 8);
            next += 8;
        };
        round(OLD, NEW);
        let before = WORKER_ALLOCATIONS.load(Relaxed);
        assert!(before > 0, "the counter sees the workers");
        for _ in 0..50 {
            round(NEW, OLD);
            round(OLD, NEW);
        }
        assert_eq!(WORKER_ALLOCATIONS.load(Relaxed) - before, 0);
    }

    pub(super) fn a17_what_waits_at_an_end_that_closes_leaves_first(backend: BackendChoice) {
        let mut ends = ends(backend);
        ends.send(OLD, 0);
        ends.expect([0]);
        (2..6).for_each(|sequence| ends.send(NEW, sequence));
        ends.wait_for(5);
        ends.engine.send(WorkerId(0), Command::RemoveEnd(channel()));
        settle(&mut ends.engine);
        ends.expect(2..6);
        assert_books_balance(&[Arc::clone(&ends.stats)], 5);
        // Frames of both labels find nobody now, and harm nobody.
        [(OLD, 1), (NEW, 6)].into_iter().for_each(|(label, sequence)| ends.send(label, sequence));
        wait_until("unknown", || ends.stats.dropped(DropReason::UnknownLabel) == 2);
    }

    pub(super) fn a17_the_new_path_may_go_before_the_old_one(backend: BackendChoice) {
        let mut ends = ends(backend);
        ends.send(OLD, 0);
        ends.expect([0]);
        (2..4).for_each(|sequence| ends.send(NEW, sequence));
        ends.wait_for(3);
        // It broke; what came over it is still good.
        ends.remove_label(NEW);
        ends.add_label(7);
        ends.send(7, 4);
        ends.wait_for(4);
        assert_silence(&ends.service);
        ends.send(OLD, 1);
        ends.expect(1..5);
        // Told again, a label is the one it was.
        ends.add_label(7);
        ends.send(7, 6);
        ends.expect([6]);
        assert_books_balance(&[Arc::clone(&ends.stats)], 6);
    }

    pub(super) fn a17_recv_sees_the_whole_frame_that_waited(backend: BackendChoice) {
        let mut ends = ends(backend);
        let deliver = Deliver::Framed(ends.service.local_addr().unwrap());
        ends.send(OLD, 0);
        ends.expect([0]);
        ends.send(NEW, 2);
        ends.wait_for(2);
        // Who gets it is decided when it leaves.
        let command = Command::SetDeliver { channel: channel(), deliver };
        ends.engine.send(WorkerId(0), command);
        settle(&mut ends.engine);
        ends.send(OLD, 1);
        let mut buffer = vec![0; 8_192];
        for (label, sequence) in [(OLD, 1), (NEW, 2)] {
            let size = ends.service.recv_from(&mut buffer).unwrap().0;
            let sent = sequenced(label, sequence, &numbered(sequence));
            assert!(buffer[..size] == sent, "{size} bytes of {}", sent.len());
        }
        let payloads: usize = (0..3).map(|number| numbered(number).len()).sum();
        wait_until("bytes", || load(&ends.stats.bytes_out) == payloads as u64);
    }

    pub(super) fn a17_a20_an_end_with_two_labels_moves_between_workers(backend: BackendChoice) {
        let mut ends = ends_of(2, backend);
        ends.send(OLD, 0);
        ends.expect([0]);
        (2..5).for_each(|sequence| ends.send(NEW, sequence));
        ends.wait_for(4);
        // Only the old one is named: what leads to the end goes with it.
        let (labels, to) = (vec![Label(OLD)], WorkerId(1));
        let command = Command::MoveChannel { channel: channel(), labels, end: true, to };
        ends.engine.send(WorkerId(0), command);
        settle(&mut ends.engine);
        ends.expect(2..5);
        ends.send(OLD, 1);
        ends.assert_late(1);
        ends.send(NEW, 5);
        ends.expect([5]);
        // It is current there: a loss is no reason to wait.
        ends.send(NEW, 7);
        ends.expect([7]);
        ends.remove_label(OLD);
        ends.remove_label(NEW);
        ends.send(NEW, 8);
        wait_until("unknown", || {
            let workers = ends.engine.workers().iter();
            workers.map(|info| info.stats.dropped(DropReason::UnknownLabel)).sum::<u64>() == 1
        });
        assert_books_balance(&[Arc::clone(&ends.stats)], 7);
    }
}

for_both_backends! {
    a17_frames_of_a_faster_path_wait_for_the_slower_one,
    a17_a_removed_label_is_not_waited_for,
    a17_what_comes_too_late_is_dropped_by_name,
    a17_without_room_frames_leave_in_order,
    a17_any_mixture_of_two_paths_arrives_in_order,
    a17_segments_of_super_buffers_are_judged_one_by_one,
    a17_waiting_costs_no_allocation,
    a17_what_waits_at_an_end_that_closes_leaves_first,
    a17_the_new_path_may_go_before_the_old_one,
    a17_recv_sees_the_whole_frame_that_waited,
    a17_a20_an_end_with_two_labels_moves_between_workers,
}
