//! Worker 0's part in measuring a link: the probes that it sends between its batches, and what it
//! counts of those that come.
//!
//! Frames go first: a turn of the worker sends at most [`PROBES_PER_TURN`] probes, after everything of
//! its batch. A train that cannot keep its pace becomes slower, it does not catch up in one burst.
//! Counted is only what the control thread asked to count. Pure but for the counters, which have one
//! writer and any reader; sockets and clocks are the worker's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::LinkSpec;
use crate::limits::PROBES_PER_TURN;
use crate::types::{LinkId, Time};
use crate::wire::frame::Header;
use crate::wire::measure::{Arrived, Probe, Train};

/// What worker 0 counts on a link while it is measured.
#[derive(Debug, Default)]
pub struct ProbeCounts {
    train: AtomicU32,
    frames: AtomicU32,
    tail_frames: AtomicU32,
    tail_us: AtomicU64,
    /// Last round trip of a heartbeat, 0 before there was one.
    rtt_us: AtomicU32,
}

impl ProbeCounts {
    /// What came of a train; nothing of one that is not the last.
    pub fn arrived(&self, train: u32) -> Arrived {
        if self.train.load(Relaxed) != train {
            return Arrived::default();
        }
        Arrived {
            frames: self.frames.load(Relaxed),
            tail_frames: self.tail_frames.load(Relaxed),
            tail_us: u32::try_from(self.tail_us.load(Relaxed)).unwrap_or(u32::MAX),
        }
    }

    pub fn rtt(&self) -> Option<Duration> {
        match self.rtt_us.load(Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros.into())),
        }
    }
}

/// The links that are measured.
#[derive(Debug, Default)]
pub(super) struct Probes {
    watches: Vec<Watch>,
    trains: Vec<Leaving>,
}

#[derive(Debug)]
struct Watch {
    link: LinkId,
    counts: Arc<ProbeCounts>,
    /// Of the train that comes.
    train: u32,
    frames: u32,
    /// One more than the highest position seen.
    next: u32,
    tail_since: Option<Time>,
}

/// A train on its way out.
#[derive(Debug)]
struct Leaving {
    link: LinkId,
    train: Train,
    packet_bits: u64,
    began: Time,
    position: u32,
}

/// A train that left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) link: LinkId,
    pub(super) number: u32,
    pub(super) frames: u32,
    pub(super) took: Duration,
}

/// Probes to be sent now, all of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Burst {
    pub(super) link: LinkId,
    pub(super) train: Train,
    pub(super) first: u32,
    pub(super) count: u32,
}

impl Burst {
    /// Writes the probes behind each other, each of the train's size; how many bytes that are.
    pub(super) fn emit(&self, spec: &LinkSpec, bytes: &mut [u8]) -> usize {
        let size = usize::from(self.train.frame_bytes);
        let (number, of) = (self.train.number, self.train.frames);
        let positions = self.first..self.first + self.count;
        for (position, probe) in positions.zip(bytes.chunks_exact_mut(size)) {
            let what = Probe { label: spec.send_label, train: number, position, of };
            what.emit(&spec.send_key, probe);
        }
        size * self.count as usize
    }
}

impl Probes {
    /// Counts what comes over the link, or no more; then nothing is sent any more either.
    pub(super) fn count(&mut self, link: LinkId, counts: Option<Arc<ProbeCounts>>) {
        self.watches.retain(|watch| watch.link != link);
        self.trains.retain(|train| train.link != link);
        self.watches.extend(counts.map(|counts| Watch {
            link,
            counts,
            train: 0,
            frames: 0,
            next: 0,
            tail_since: None,
        }));
    }

    pub(super) fn send(&mut self, link: LinkId, train: Train, header_bytes: u16, now: Time) {
        let packet_bits = (u64::from(train.frame_bytes) + u64::from(header_bytes)) * 8;
        self.trains.retain(|leaving| leaving.link != link);
        self.trains.push(Leaving { link, train, packet_bits, began: now, position: 0 });
    }

    /// When [`Probes::poll`] has something to send.
    pub(super) fn next(&self) -> Option<Time> {
        self.trains.iter().map(|train| train.due_at(train.position)).min()
    }

    /// What is due now, one train after the other; `Err` tells of a train that has left.
    pub(super) fn poll(&mut self, now: Time) -> Option<Result<Burst, Left>> {
        let done = |train: &Leaving| train.position == train.train.frames;
        if let Some(at) = self.trains.iter().position(|train| done(train) && train.is_over(now)) {
            let Leaving { link, train, began, .. } = self.trains.swap_remove(at);
            let took = now.since(began);
            return Some(Err(Left { link, number: train.number, frames: train.frames, took }));
        }
        let due = |train: &&mut Leaving| !done(train) && train.due_at(train.position) <= now;
        let train = self.trains.iter_mut().find(due)?;
        let count = train.due_by(now).saturating_sub(train.position).clamp(1, PROBES_PER_TURN);
        let first = train.position;
        train.position += count;
        Some(Ok(Burst { link: train.link, train: train.train, first, count }))
    }

    /// A datagram that names `link` as a probe; false if it is none, or nobody asked for it.
    pub(super) fn on_probe(
        &mut self,
        spec: &LinkSpec,
        header: &Header,
        datagram: &[u8],
        now: Time,
    ) -> bool {
        let Some(watch) = self.watches.iter_mut().find(|watch| watch.link == spec.link) else {
            return false;
        };
        let Some(probe) = Probe::verify(header, datagram, &spec.receive_key) else { return false };
        if probe.train < watch.train || probe.position >= probe.of {
            // Of a train that was counted already.
            return false;
        }
        watch.take(&probe, now);
        true
    }

    /// A round trip of the link's heartbeats.
    pub(super) fn on_rtt(&self, link: LinkId, rtt: Duration) {
        if let Some(watch) = self.watches.iter().find(|watch| watch.link == link) {
            let micros = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
            watch.counts.rtt_us.store(micros.max(1), Relaxed);
        }
    }
}

impl Watch {
    fn take(&mut self, probe: &Probe, now: Time) {
        if probe.train > self.train {
            (self.train, self.frames, self.next, self.tail_since) = (probe.train, 0, 0, None);
            self.counts.tail_frames.store(0, Relaxed);
            self.counts.tail_us.store(0, Relaxed);
            self.counts.train.store(probe.train, Relaxed);
        }
        if probe.position >= self.next {
            self.next = probe.position + 1;
        } else if self.frames >= self.next {
            // There is no gap that it could fill: a copy.
            return;
        }
        self.frames += 1;
        self.counts.frames.store(self.frames, Relaxed);
        if probe.position < probe.of / 4 {
            return;
        }
        match self.tail_since {
            None => self.tail_since = Some(now),
            // What came together with the first one says nothing about time.
            Some(since) if now > since => {
                let tail = self.counts.tail_frames.load(Relaxed);
                self.counts.tail_frames.store(tail + 1, Relaxed);
                let micros = u64::try_from(now.since(since).as_micros()).unwrap_or(u64::MAX);
                self.counts.tail_us.store(micros, Relaxed);
            }
            Some(_) => {}
        }
    }
}

impl Leaving {
    /// When this position is due.
    fn due_at(&self, position: u32) -> Time {
        let micros = u128::from(position) * u128::from(self.packet_bits) * 1_000_000
            / u128::from(self.train.rate.bps().max(1));
        self.began + Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// How many are due by now.
    fn due_by(&self, now: Time) -> u32 {
        let bits = u128::from(self.train.rate.bps()) * now.since(self.began).as_micros();
        let packets = bits / u128::from(self.packet_bits.max(1)) / 1_000_000 + 1;
        u32::try_from(packets).unwrap_or(u32::MAX).min(self.train.frames)
    }

    /// The last one has had its own time too: a rate is as many packets as intervals.
    fn is_over(&self, now: Time) -> bool {
        self.due_at(self.train.frames) <= now
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::types::address::Reach;
    use crate::types::{Bandwidth, Label};
    use crate::wire::frame;
    use crate::wire::heartbeat::HeartbeatKey;

    const LINK: LinkId = LinkId(3);
    const HEADERS: u16 = 28;

    fn at(us: u64) -> Time {
        Time(1_000_000 + us)
    }

    fn spec(send: u8, receive: u8) -> LinkSpec {
        LinkSpec {
            link: LINK,
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            workers: 1,
            send_label: Label(send.into()),
            send_key: HeartbeatKey([send; 32]),
            receive_label: Label(receive.into()),
            receive_key: HeartbeatKey([receive; 32]),
            interval: Duration::from_millis(25),
            missed_max: 5,
            tags: None,
            reach: Reach::new(([127, 0, 0, 1], 1).into(), 1..=1, []),
            pulse: Arc::default(),
        }
    }

    /// 1,000 bits a millisecond in packets of 1,000 bits: one a millisecond.
    fn train(number: u32, frames: u32) -> Train {
        Train { number, frames, frame_bytes: 97, rate: Bandwidth::from_bps(1_000_000) }
    }

    fn bursts(probes: &mut Probes, now: Time) -> (u32, Option<Left>) {
        let mut count = 0;
        loop {
            match probes.poll(now) {
                Some(Ok(burst)) => {
                    assert!(burst.count <= PROBES_PER_TURN);
                    count += burst.count;
                }
                Some(Err(left)) => return (count, Some(left)),
                None => return (count, None),
            }
        }
    }

    #[test]
    fn a_train_keeps_its_pace_and_says_when_it_has_left() {
        let mut probes = Probes::default();
        assert_eq!(probes.next(), None);
        probes.send(LINK, train(7, 10), HEADERS, at(0));
        for ms in 0..10 {
            assert_eq!(probes.next(), Some(at(ms * 1_000)));
            assert_eq!(bursts(&mut probes, at(ms * 1_000)), (1, None), "{ms} ms");
        }
        assert_eq!(bursts(&mut probes, at(9_999)), (0, None));
        assert_eq!(probes.next(), Some(at(10_000)));
        let left = Left { link: LINK, number: 7, frames: 10, took: Duration::from_millis(10) };
        assert_eq!(bursts(&mut probes, at(10_000)), (0, Some(left)));
        assert_eq!((probes.poll(at(20_000)), probes.next()), (None, None));
    }

    #[test]
    fn a_worker_that_was_held_up_sends_a_bounded_burst_a_turn() {
        let mut probes = Probes::default();
        probes.send(LINK, train(1, 1_000), HEADERS, at(0));
        let late = at(500_000);
        let Some(Ok(burst)) = probes.poll(late) else { panic!("nothing is due") };
        assert_eq!((burst.first, burst.count), (0, PROBES_PER_TURN));
    }

    fn come(probes: &mut Probes, burst: Burst, now: Time, lost: impl Fn(u32) -> bool) -> usize {
        let mut bytes = vec![0; 1 << 16];
        let length = burst.emit(&spec(1, 2), &mut bytes);
        let all = bytes[..length].chunks(97).zip(burst.first..);
        let heard = all.filter(|(datagram, position)| {
            let header = frame::parse(datagram).unwrap();
            !lost(*position) && probes.on_probe(&spec(2, 1), &header, datagram, now)
        });
        heard.count()
    }

    fn burst(train: Train, first: u32, count: u32) -> Burst {
        Burst { link: LINK, train, first, count }
    }

    #[test]
    fn what_arrives_is_counted_with_the_time_of_its_tail() {
        let (mut probes, counts) = (Probes::default(), Arc::<ProbeCounts>::default());
        probes.count(LINK, Some(Arc::clone(&counts)));
        for ms in 0..40 {
            let one = burst(train(1, 40), u32::try_from(ms).unwrap(), 1);
            come(&mut probes, one, at(ms * 1_000), |position| position == 20);
        }
        let arrived = Arrived { frames: 39, tail_frames: 28, tail_us: 29_000 };
        assert_eq!(counts.arrived(1), arrived);
        assert_eq!(counts.arrived(2), Arrived::default());
        // The next train begins anew, and the old one is over.
        assert_eq!(come(&mut probes, burst(train(2, 40), 0, 1), at(50_000), |_| false), 1);
        assert_eq!(counts.arrived(2), Arrived { frames: 1, ..Arrived::default() });
        assert_eq!(come(&mut probes, burst(train(1, 40), 39, 1), at(50_000), |_| false), 0);
    }

    #[test]
    fn a_late_probe_counts_and_a_copy_does_not() {
        let (mut probes, counts) = (Probes::default(), Arc::<ProbeCounts>::default());
        probes.count(LINK, Some(Arc::clone(&counts)));
        for position in [0, 1, 4, 4, 2, 3, 3, 0] {
            come(&mut probes, burst(train(1, 40), position, 1), at(0), |_| false);
        }
        assert_eq!(counts.arrived(1).frames, 5);
    }

    #[test]
    fn what_nobody_asked_for_or_another_key_made_is_not_counted() {
        let mut probes = Probes::default();
        assert_eq!(come(&mut probes, burst(train(1, 40), 0, 1), at(0), |_| false), 0);
        let counts = Arc::<ProbeCounts>::default();
        probes.count(LINK, Some(Arc::clone(&counts)));
        let mut bytes = [0; 97];
        burst(train(1, 40), 0, 1).emit(&spec(9, 9), &mut bytes);
        let header = frame::parse(&bytes).unwrap();
        assert!(!probes.on_probe(&spec(2, 1), &header, &bytes, at(0)));
        assert_eq!(counts.arrived(1), Arrived::default());
    }

    #[test]
    fn a_measurement_that_is_over_counts_and_sends_nothing() {
        let (mut probes, counts) = (Probes::default(), Arc::<ProbeCounts>::default());
        probes.count(LINK, Some(Arc::clone(&counts)));
        probes.send(LINK, train(1, 40), HEADERS, at(0));
        probes.on_rtt(LINK, Duration::from_micros(300));
        assert_eq!(counts.rtt(), Some(Duration::from_micros(300)));
        probes.count(LINK, None);
        assert_eq!((probes.poll(at(0)), probes.next()), (None, None));
        assert_eq!(come(&mut probes, burst(train(2, 40), 0, 1), at(0), |_| false), 0);
    }
}
