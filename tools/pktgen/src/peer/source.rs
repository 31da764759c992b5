//! Frames of all flows in turn, each on its own channel, grouped into runs that one send carries.
//!
//! Pure: the time is handed in, runs come out. A flow begins with an *opening frame*, which is sent as soon
//! as the channel is open and stamped with the time when `open` returned: what it shows is how long a
//! stream waits for its first frame. It has a trial number of its own ([`OPENING`]), so that it does not
//! count among the frames of the run.
//!
//! A frame that cannot be sent (the channel moves, the payload is too large) keeps its number, as at any
//! entry into the overlay: the far end sees the gap.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use spanway::limits::HOP_LIMIT_START;
use spanway::stats::{DropReason, bump};
use spanway::types::Time;
use spanway::wire::frame::{self, END_TAG_BYTES, FrameType, HEADER_BYTES, OVERHEAD_BYTES};

use super::table::{EndId, Table};
use crate::latency::Latency;
use crate::payload::{Header, Train};
use crate::port::{TRAIN_BYTES_MAX, TRAIN_SEGMENTS_MAX};
use crate::schedule::{Pacer, Rate, Sizes, Stretches};

/// This bit of a trial number marks the opening frames.
pub const OPENING: u32 = 1 << 31;

/// What is to be sent.
#[derive(Clone, Debug)]
pub struct Load {
    /// Told apart from other runs by this; the highest bit is not used.
    pub trial: u32,
    /// Of all flows together.
    pub rate: Rate,
    pub sizes: Sizes,
    /// Frames that leave together.
    pub burst: usize,
    pub duration: Duration,
    /// Runs of several frames.
    pub gso: bool,
    /// Of the bytes behind the payload headers.
    pub seed: u64,
}

/// Frames of equal length for one port, one behind the other.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) to: SocketAddr,
    pub(super) frame_bytes: usize,
    pub(super) bytes: Vec<u8>,
    /// Whose each of them is.
    pub(super) ends: Vec<EndId>,
}

#[derive(Debug)]
struct Flow {
    number: u32,
    end: EndId,
    /// Of the next payload.
    sequence: u64,
}

#[derive(Debug)]
pub(super) struct Source {
    load: Load,
    stretches: Stretches,
    trains: BTreeMap<usize, Train>,
    flows: Vec<Flow>,
    numbers: u32,
    /// The flow whose turn it is.
    turn: usize,
    running: Option<Running>,
    runs: Vec<Run>,
    spare: Vec<Run>,
    /// From the return of `open` to the hand-over of the first frame.
    pub(super) to_first: Latency,
    pub(super) unsent: u64,
    /// Frames the schedule gave up, once the run is over.
    pub(super) skipped: u64,
    /// Flows whose channel was closed before the end.
    pub(super) gone: u64,
}

#[derive(Debug)]
struct Running {
    pacer: Pacer,
    until_ns: u64,
}

impl Source {
    pub(super) fn new(load: Load) -> Self {
        let slots = load.burst.max(1);
        let train = |&size: &usize| (size, Train::new(size, slots, load.seed));
        Self {
            stretches: Stretches::new(load.sizes.clone()),
            trains: load.sizes.pattern().iter().map(train).collect(),
            flows: Vec::new(),
            numbers: 0,
            turn: 0,
            running: None,
            runs: Vec::new(),
            spare: Vec::new(),
            to_first: Latency::new(),
            unsent: 0,
            skipped: 0,
            gone: 0,
            load,
        }
    }

    /// A channel is open: its opening frame is due.
    pub(super) fn add_flow(&mut self, end: EndId, opened_ns: u64, now_ns: u64, table: &mut Table) {
        let flow = Flow { number: self.numbers, end, sequence: 0 };
        self.numbers += 1;
        let trial = self.load.trial | OPENING;
        let header = Header { trial, flow: flow.number, sequence: 0, sent_ns: opened_ns };
        let size = self.load.sizes.pattern()[0];
        self.put(end, 0, size, &header, now_ns, table);
        self.to_first.record(opened_ns, now_ns);
        self.flows.push(flow);
    }

    /// The run begins now. Times of the pacer are nanoseconds of any clock that never goes back.
    pub(super) fn begin(&mut self, tick_ns: u64) {
        let pacer = Pacer::new(self.load.rate.per_second(&self.load.sizes), tick_ns);
        let duration = u64::try_from(self.load.duration.as_nanos()).unwrap_or(u64::MAX);
        self.running = Some(Running { pacer, until_ns: tick_ns.saturating_add(duration) });
    }

    pub(super) fn end(&mut self) {
        if let Some(running) = self.running.take() {
            self.skipped = running.pacer.skipped();
        }
    }

    /// When [`Source::fill`] has something to do.
    pub(super) fn next_ns(&self) -> Option<u64> {
        let running = self.running.as_ref()?;
        Some(running.pacer.next_ns(self.load.burst as u64).min(running.until_ns))
    }

    /// Makes the frames that are due, at most one burst. `true` when the run is over with this.
    pub(super) fn fill(&mut self, tick_ns: u64, now_ns: u64, table: &mut Table) -> bool {
        let burst = self.load.burst;
        let Some(running) = &mut self.running else { return false };
        if tick_ns >= running.until_ns {
            return true;
        }
        let due = running.pacer.due(tick_ns, burst as u64);
        let mut left = usize::try_from(due).unwrap_or(burst).min(burst);
        running.pacer.sent(left as u64);
        while left > 0 {
            let (size, count) = self.stretches.next(left);
            for slot in 0..count {
                if !self.next_frame(slot, size, now_ns, table) {
                    return true;
                }
            }
            left -= count;
        }
        false
    }

    /// The runs that were made since the last call; to be given back with [`Source::reuse`].
    pub(super) fn take_runs(&mut self) -> Vec<Run> {
        std::mem::take(&mut self.runs)
    }

    pub(super) fn reuse(&mut self, mut runs: Vec<Run>) {
        for mut run in runs.drain(..) {
            run.bytes.clear();
            run.ends.clear();
            self.spare.push(run);
        }
        if self.runs.is_empty() {
            self.runs = runs;
        }
    }

    /// `false`: no flow has a channel any more.
    fn next_frame(&mut self, slot: usize, size: usize, now_ns: u64, table: &mut Table) -> bool {
        loop {
            if self.turn >= self.flows.len() {
                self.turn = 0;
            }
            let Some(flow) = self.flows.get_mut(self.turn) else { return false };
            if table.end(flow.end).is_none() {
                self.gone += 1;
                self.flows.remove(self.turn);
                continue;
            }
            let (end, number, sequence) = (flow.end, flow.number, flow.sequence);
            flow.sequence += 1;
            self.turn += 1;
            let trial = self.load.trial;
            let header = Header { trial, flow: number, sequence, sent_ns: now_ns };
            self.put(end, slot, size, &header, now_ns, table);
            return true;
        }
    }

    fn put(
        &mut self,
        end_id: EndId,
        slot: usize,
        size: usize,
        header: &Header,
        now_ns: u64,
        table: &mut Table,
    ) {
        let Some(end) = table.end_mut(end_id) else { return };
        let (sequence, leads) = (end.sequence, end.way);
        end.sequence += 1;
        bump(&end.stats.entered, 1);
        bump(&end.stats.bytes_in, size as u64);
        let drop = match leads {
            None => DropReason::Moving,
            Some(way) if size > usize::from(way.max_payload) => DropReason::TooBig,
            Some(way) => match table.address(way) {
                None => DropReason::NoLink,
                Some(to) => {
                    let frame = frame::Header {
                        frame_type: FrameType::Data,
                        flags: 0,
                        hop_limit: HOP_LIMIT_START,
                        payload_length: u16::try_from(size).unwrap_or(u16::MAX),
                        label: way.label,
                        sequence,
                        stamp: stamp(now_ns),
                    };
                    let train = self.trains.get_mut(&size).expect("one for each size");
                    train.put(slot, header);
                    let payload = &train.bytes(slot + 1)[slot * size..];
                    let run = run_for(&mut self.runs, &mut self.spare, to, size, self.load.gso);
                    let start = run.bytes.len();
                    run.bytes.resize(start + HEADER_BYTES, 0);
                    frame.emit(&mut run.bytes[start..]);
                    run.bytes.extend_from_slice(payload);
                    run.bytes.extend_from_slice(&[0; END_TAG_BYTES]);
                    let (head, rest) = run.bytes[start..].split_at_mut(HEADER_BYTES);
                    let (body, tag) = rest.split_at_mut(size);
                    let end = table.end_mut(end_id).expect("looked at above");
                    match end.seal.enter(head, body, tag, Time(now_ns / 1_000)) {
                        Ok(()) => {
                            // Behind the seal, whose epoch is in the header.
                            table.tag(way, head);
                            return run.ends.push(end_id);
                        }
                        Err(reason) => {
                            run.bytes.truncate(start);
                            reason
                        }
                    }
                }
            },
        };
        self.unsent += 1;
        if let Some(end) = table.end(end_id) {
            end.stats.drop_frames(drop, 1);
        }
    }
}

/// The open run to this port that takes another frame of this size, or a new one.
fn run_for<'a>(
    runs: &'a mut Vec<Run>,
    spare: &mut Vec<Run>,
    to: SocketAddr,
    size: usize,
    gso: bool,
) -> &'a mut Run {
    let frame_bytes = size + OVERHEAD_BYTES;
    let frames_max = if gso { TRAIN_SEGMENTS_MAX.min(TRAIN_BYTES_MAX / frame_bytes) } else { 1 };
    // Only the last run to a port is open: frames to one port keep their order.
    let last = runs.iter().rposition(|run| run.to == to);
    let fits = |run: &Run| run.frame_bytes == frame_bytes && run.ends.len() < frames_max;
    match last {
        Some(at) if fits(&runs[at]) => &mut runs[at],
        Some(_) | None => {
            let (bytes, ends) =
                spare.pop().map_or_else(Default::default, |run| (run.bytes, run.ends));
            runs.push(Run { to, frame_bytes, bytes, ends });
            runs.last_mut().expect("just pushed")
        }
    }
}

/// The stamp of a frame: microseconds of wall-clock time, modulo 2^32.
pub(super) fn stamp(now_ns: u64) -> u32 {
    u32::try_from((now_ns / 1_000) & u64::from(u32::MAX)).expect("masked")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use spanway::engine::seal::Seal;
    use spanway::engine::{EntrySpec, Target};
    use spanway::types::{Bandwidth, Label, LinkId};

    use super::super::table::samples::{channel, table};
    use super::*;

    fn load(sizes: &str, burst: usize) -> Load {
        Load {
            trial: 5,
            rate: Rate::PerSecond(1_000.0),
            sizes: sizes.parse().expect("sizes"),
            burst,
            duration: Duration::from_secs(1),
            gso: true,
            seed: 1,
        }
    }

    /// A flow on a channel with an entry at the neighbour's worker 0 or 1.
    fn add(source: &mut Source, table: &mut Table, count: u64, worker: u16) -> EndId {
        let end = table.add_end(channel(count), Seal::Plain, Arc::default());
        let to = Target::Hop { link: LinkId(0), label: Label(count), port: 7_000 + worker };
        let entry = EntrySpec { to, rate: Bandwidth::ZERO, max_payload: 1_000 };
        table.set_entry(&channel(count), Some(entry));
        source.add_flow(end, 1_000, 3_000, table);
        end
    }

    fn frames(run: &Run) -> Vec<(u64, u64, Header)> {
        let frame = |bytes: &[u8]| {
            let header = frame::parse(bytes).expect("a frame");
            let payload = frame::payload(&header, bytes);
            (header.label.0, header.sequence, Header::parse(payload, true).expect("whole"))
        };
        run.bytes.chunks(run.frame_bytes).map(frame).collect()
    }

    #[test]
    fn the_opening_frame_carries_the_time_when_open_returned() {
        let (mut source, mut table) = (Source::new(load("200", 8)), table());
        add(&mut source, &mut table, 9, 0);
        let runs = source.take_runs();
        let expected = Header { trial: 5 | OPENING, flow: 0, sequence: 0, sent_ns: 1_000 };
        assert_eq!(frames(&runs[0]), [(9, 0, expected)]);
        assert_eq!(source.to_first.summary().max_ns, 2_000);
    }

    #[test]
    fn flows_take_turns_and_share_runs_by_port() {
        let (mut source, mut table) = (Source::new(load("200", 8)), table());
        for count in 0..4 {
            add(&mut source, &mut table, count, u16::try_from(count % 2).expect("small"));
        }
        let opening = source.take_runs();
        assert_eq!(opening.len(), 2);
        source.reuse(opening);
        source.begin(0);
        assert!(!source.fill(8_000_000, 10_000, &mut table));
        let runs = source.take_runs();
        let labels: Vec<Vec<u64>> =
            runs.iter().map(|run| frames(run).iter().map(|f| f.0).collect()).collect();
        assert_eq!(labels, [[0, 2, 0, 2], [1, 3, 1, 3]]);
        let sequences: Vec<_> = frames(&runs[0]).iter().map(|f| (f.1, f.2.sequence)).collect();
        assert_eq!(sequences, [(1, 0), (1, 0), (2, 1), (2, 1)]);
        assert!(source.fill(1_000_000_000, 0, &mut table), "over after its duration");
    }

    #[test]
    fn frames_of_one_port_stay_in_order_when_sizes_change() {
        let (mut source, mut table) = (Source::new(load("200:300:200", 6)), table());
        add(&mut source, &mut table, 1, 0);
        source.take_runs();
        source.begin(0);
        source.fill(6_000_000, 0, &mut table);
        let runs = source.take_runs();
        let sizes: Vec<_> =
            runs.iter().map(|r| (r.frame_bytes - OVERHEAD_BYTES, r.ends.len())).collect();
        assert_eq!(sizes, [(200, 1), (300, 1), (200, 2), (300, 1), (200, 1)]);
        let all: Vec<u64> = runs.iter().flat_map(frames).map(|frame| frame.1).collect();
        assert_eq!(all, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_frame_that_cannot_be_sent_keeps_its_number_and_is_counted_by_name() {
        let (mut source, mut table) = (Source::new(load("200", 1)), table());
        let end = add(&mut source, &mut table, 1, 0);
        source.take_runs();
        source.begin(0);
        table.set_entry(&channel(1), None);
        source.fill(1_000_000, 0, &mut table);
        assert!(source.take_runs().is_empty());
        let stats = Arc::clone(&table.end(end).expect("open").stats);
        assert_eq!((source.unsent, stats.dropped(DropReason::Moving)), (1, 1));
        assert_eq!(table.end(end).expect("open").sequence, 2);
    }

    #[test]
    fn a_run_without_channels_is_over() {
        let (mut source, mut table) = (Source::new(load("200", 1)), table());
        add(&mut source, &mut table, 1, 0);
        source.begin(0);
        table.remove_end(&channel(1));
        assert!(source.fill(1_000_000, 0, &mut table));
        assert_eq!(source.gone, 1);
    }

    #[test]
    fn a_run_never_exceeds_what_one_send_takes() {
        let (mut source, mut table) = (Source::new(load("1000", 256)), table());
        add(&mut source, &mut table, 1, 0);
        source.begin(0);
        source.fill(1_000_000_000 - 1, 0, &mut table);
        let runs = source.take_runs();
        assert!(runs.len() > 4);
        assert!(runs.iter().all(|r| r.bytes.len() <= TRAIN_BYTES_MAX && r.ends.len() <= 64));
    }
}
