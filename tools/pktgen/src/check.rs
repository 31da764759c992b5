//! What became of the datagrams: per flow received, lost, duplicated, out of order; in all corrupted and
//! foreign; and their latency.
//!
//! Pure: bytes and a time in, numbers out. Memory is bounded: [`FLOWS_MAX`] flows with a bitmap of at most
//! [`WINDOW`] sequence numbers each; a datagram of one flow more is counted as untracked.
//!
//! * *received*: the first copy of a sequence number.
//! * *lost*: sequence numbers below the highest seen that are missing. What is missing behind the highest
//!   only the sender knows: see [`Totals::lost_of`].
//! * *reordered*: received after a higher number (RFC 4737). *Duplicated*: received again.
//! * *stale*: so far behind that it may be late or a duplicate; it stays lost.
//! * *corrupted* and *foreign* belong to no flow; a corrupted one is also lost.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::latency::{Latency, LatencySummary};
use crate::payload::{Fault, Header};

/// Flows that are told apart: as many as a peer may have channels.
pub const FLOWS_MAX: usize = spanway::limits::CHANNELS_MAX;
/// How far behind the highest number a datagram may come and still be told from a duplicate: 65 ms at a
/// million per second, 8 KiB per flow. A flow that had fewer has a smaller bitmap.
pub const WINDOW: u64 = 65_536;
/// Of so many datagrams one has its filler summed with [`Verify::Sample`].
pub const SAMPLE_EVERY: u64 = 16;

/// Whose filler is summed. Headers always are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    All,
    /// One in [`SAMPLE_EVERY`].
    #[default]
    Sample,
    None,
}

/// One flow of one trial.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowTotals {
    pub trial: u32,
    pub flow: u32,
    pub received: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub stale: u64,
    /// The first sequence number that counts: 0 unless the receiver came late.
    pub first: u64,
    pub highest: u64,
}

/// All flows together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Every datagram that came, whatever it was.
    pub datagrams: u64,
    pub bytes: u64,
    pub received: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub stale: u64,
    pub corrupted: u64,
    pub foreign: u64,
    /// Of flows above [`FLOWS_MAX`].
    pub untracked: u64,
    /// Of another trial than the one that was asked for.
    pub other_trial: u64,
    /// Whose filler was summed.
    pub verified: u64,
    pub flows: u64,
    /// Super-buffers and single datagrams that the kernel handed over.
    pub receives: u64,
}

impl Totals {
    /// What is missing of `sent` datagrams, with those behind the highest number.
    pub fn lost_of(&self, sent: u64) -> u64 {
        sent.saturating_sub(self.received)
    }

    /// Nothing is wrong with what came.
    pub fn clean(&self) -> bool {
        self.lost == 0
            && self.duplicated == 0
            && self.reordered == 0
            && self.stale == 0
            && self.corrupted == 0
            && self.untracked == 0
    }
}

/// Judges datagrams.
#[derive(Debug)]
pub struct Checker {
    verify: Verify,
    trial: Option<u32>,
    flows: Vec<Flow>,
    index: HashMap<(u32, u32), usize>,
    /// Where the previous datagram belonged: trains are of one flow.
    latest: usize,
    totals: Totals,
    latency: Latency,
}

impl Checker {
    pub fn new(verify: Verify) -> Self {
        Self {
            verify,
            trial: None,
            flows: Vec::new(),
            index: HashMap::new(),
            latest: 0,
            totals: Totals::default(),
            latency: Latency::new(),
        }
    }

    /// Counts only datagrams of one trial; others are leftovers of an earlier one.
    #[must_use]
    pub fn of_trial(mut self, trial: u32) -> Self {
        self.trial = Some(trial);
        self
    }

    /// One super-buffer: datagrams of `stride` bytes, the last may be shorter. `now_ns` is wall clock.
    pub fn receive(&mut self, now_ns: u64, buffer: &[u8], stride: usize) {
        self.totals.receives += 1;
        if buffer.is_empty() {
            self.datagram(now_ns, buffer);
        }
        for payload in buffer.chunks(stride.max(1)) {
            self.datagram(now_ns, payload);
        }
    }

    /// One datagram.
    pub fn datagram(&mut self, now_ns: u64, payload: &[u8]) {
        let verify = match self.verify {
            Verify::All => true,
            Verify::Sample => self.totals.datagrams.is_multiple_of(SAMPLE_EVERY),
            Verify::None => false,
        };
        self.totals.datagrams += 1;
        self.totals.bytes += payload.len() as u64;
        self.totals.verified += u64::from(verify);
        match Header::parse(payload, verify) {
            Ok(header) => self.judge(now_ns, &header),
            Err(Fault::Corrupted) => self.totals.corrupted += 1,
            Err(Fault::Foreign) => self.totals.foreign += 1,
        }
    }

    /// Datagrams of the trial received so far, each once.
    pub fn received(&self) -> u64 {
        self.totals.received
    }

    /// Everything that came so far: datagrams and bytes.
    pub fn seen(&self) -> (u64, u64) {
        (self.totals.datagrams, self.totals.bytes)
    }

    /// The sums over all flows.
    pub fn totals(&self) -> Totals {
        let mut totals = self.totals.clone();
        totals.flows = self.flows.len() as u64;
        for flow in &self.flows {
            totals.lost += flow.lost();
            totals.duplicated += flow.duplicated;
            totals.reordered += flow.reordered;
            totals.stale += flow.stale;
        }
        totals
    }

    /// Every flow, in the order they appeared.
    pub fn flows(&self) -> Vec<FlowTotals> {
        self.flows.iter().map(Flow::totals).collect()
    }

    pub fn latency(&mut self) -> LatencySummary {
        self.latency.summary()
    }

    /// The histogram itself, for its file.
    pub fn histogram(&mut self) -> &mut Latency {
        &mut self.latency
    }

    fn judge(&mut self, now_ns: u64, header: &Header) {
        if self.trial.is_some_and(|trial| trial != header.trial) {
            self.totals.other_trial += 1;
            return;
        }
        let Some(flow) = self.flow(header) else {
            self.totals.untracked += 1;
            return;
        };
        if flow.take(header.sequence) {
            self.totals.received += 1;
            self.latency.record(header.sent_ns, now_ns);
        }
    }

    fn flow(&mut self, header: &Header) -> Option<&mut Flow> {
        let key = (header.trial, header.flow);
        if self.flows.get(self.latest).is_none_or(|flow| flow.key != key) {
            self.latest = match self.index.get(&key) {
                Some(&at) => at,
                None if self.flows.len() == FLOWS_MAX => return None,
                None => {
                    self.flows.push(Flow::new(key, header.sequence));
                    self.index.insert(key, self.flows.len() - 1);
                    self.flows.len() - 1
                }
            };
        }
        self.flows.get_mut(self.latest)
    }
}

/// The sequence numbers of one flow: a ring of bits behind the highest. It grows with the flow, so that
/// many short flows are small.
#[derive(Debug)]
struct Flow {
    key: (u32, u32),
    first: u64,
    /// One above the highest seen.
    next: u64,
    received: u64,
    duplicated: u64,
    reordered: u64,
    stale: u64,
    seen: Box<[u64]>,
}

impl Flow {
    fn new(key: (u32, u32), sequence: u64) -> Self {
        // Far above 0 the receiver was started in the middle of a run.
        let first = if sequence < WINDOW { 0 } else { sequence };
        let seen = vec![0].into_boxed_slice();
        Self { key, first, next: first, received: 0, duplicated: 0, reordered: 0, stale: 0, seen }
    }

    /// Whether this is the first copy of a number.
    fn take(&mut self, sequence: u64) -> bool {
        if sequence >= self.next {
            self.make_room((sequence - self.first).saturating_add(1).min(WINDOW));
            self.forget(self.next, sequence);
            self.next = sequence + 1;
        } else if sequence < self.first || self.next - sequence > WINDOW {
            self.stale += 1;
            return false;
        } else if self.is_seen(sequence) {
            self.duplicated += 1;
            return false;
        } else {
            self.reordered += 1;
        }
        let (word, bit) = place(sequence, self.room());
        self.seen[word] |= bit;
        self.received += 1;
        true
    }

    /// Clears the bits of `from..=to`, which stand for numbers one window earlier.
    fn forget(&mut self, from: u64, to: u64) {
        let room = self.room();
        if to - from >= room {
            self.seen.fill(0);
            return;
        }
        for sequence in from..=to {
            let (word, bit) = place(sequence, room);
            self.seen[word] &= !bit;
        }
    }

    fn is_seen(&self, sequence: u64) -> bool {
        let (word, bit) = place(sequence, self.room());
        self.seen[word] & bit != 0
    }

    /// How many numbers have a bit.
    fn room(&self) -> u64 {
        self.seen.len() as u64 * 64
    }

    /// Bits for at least so many numbers, a power of two; those of the latest numbers stay.
    fn make_room(&mut self, numbers: u64) {
        let (old, new) = (self.room(), numbers.next_power_of_two());
        if new <= old {
            return;
        }
        let mut seen = vec![0; usize::try_from(new / 64).unwrap_or(1)].into_boxed_slice();
        for sequence in self.first.max(self.next.saturating_sub(old))..self.next {
            if self.is_seen(sequence) {
                let (word, bit) = place(sequence, new);
                seen[word] |= bit;
            }
        }
        self.seen = seen;
    }

    fn lost(&self) -> u64 {
        self.next - self.first - self.received
    }

    fn totals(&self) -> FlowTotals {
        FlowTotals {
            trial: self.key.0,
            flow: self.key.1,
            received: self.received,
            lost: self.lost(),
            duplicated: self.duplicated,
            reordered: self.reordered,
            stale: self.stale,
            first: self.first,
            highest: self.next.saturating_sub(1),
        }
    }
}

fn place(sequence: u64, room: u64) -> (usize, u64) {
    let at = sequence % room;
    (usize::try_from(at / 64).unwrap_or(0), 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Train;

    fn sent(flow: u32, sequence: u64) -> Vec<u8> {
        let mut train = Train::new(64, 1, 1);
        train.put(0, &Header { trial: 1, flow, sequence, sent_ns: 1_000 });
        train.bytes(1).to_vec()
    }

    fn judged(sequences: &[u64]) -> Totals {
        let mut checker = Checker::new(Verify::All);
        for &sequence in sequences {
            checker.datagram(2_000, &sent(0, sequence));
        }
        checker.totals()
    }

    fn counts(totals: &Totals) -> (u64, u64, u64, u64, u64) {
        let Totals { received, lost, duplicated, reordered, stale, .. } = *totals;
        (received, lost, duplicated, reordered, stale)
    }

    #[test]
    fn in_order_and_complete_is_clean() {
        let totals = judged(&[0, 1, 2, 3]);
        assert_eq!(counts(&totals), (4, 0, 0, 0, 0));
        assert!(totals.clean());
        assert_eq!((totals.lost_of(4), totals.lost_of(6)), (0, 2));
    }

    #[test]
    fn gaps_copies_and_late_ones_are_told_apart() {
        assert_eq!(counts(&judged(&[0, 2, 3])), (3, 1, 0, 0, 0));
        assert_eq!(counts(&judged(&[3])), (1, 3, 0, 0, 0));
        assert_eq!(counts(&judged(&[0, 1, 1, 0, 2])), (3, 0, 2, 0, 0));
        assert_eq!(counts(&judged(&[0, 3, 1, 2, 4, 1])), (5, 0, 1, 2, 0));
    }

    #[test]
    fn behind_the_window_nothing_is_claimed() {
        let totals = judged(&[0, 1, WINDOW + 1, 1, 2]);
        assert_eq!(counts(&totals), (4, WINDOW - 2, 0, 1, 1));
        // The bit of 1 and of 1 + WINDOW is the same one.
        assert_eq!(counts(&judged(&[1, 1 + WINDOW, 1 + 3 * WINDOW])).0, 3);
        assert_eq!(counts(&judged(&[0, 1, 2, WINDOW + 2, 3 + WINDOW, 3 + WINDOW])).2, 1);
    }

    #[test]
    fn a_receiver_that_comes_late_counts_from_there() {
        let totals = judged(&[WINDOW, WINDOW + 2]);
        assert_eq!(counts(&totals), (2, 1, 0, 0, 0));
        assert_eq!(counts(&judged(&[WINDOW, WINDOW - 1])), (1, 0, 0, 0, 1));
    }

    #[test]
    fn the_window_agrees_with_a_set_on_random_orders() {
        use std::collections::BTreeSet;
        let (mut state, mut received, mut copies) = (1_u64, BTreeSet::new(), 0);
        let mut checker = Checker::new(Verify::None);
        for step in 0..5_000_u64 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let sequence = step * 40 + (state >> 33) % 1_000;
            copies += u64::from(!received.insert(sequence));
            checker.datagram(0, &sent(0, sequence));
        }
        let totals = checker.totals();
        let highest = received.last().expect("some");
        assert_eq!(totals.received, received.len() as u64);
        assert_eq!(totals.duplicated, copies);
        assert_eq!(totals.lost, highest + 1 - received.len() as u64);
    }

    #[test]
    fn flows_and_trials_are_apart_and_others_are_left_out() {
        let mut checker = Checker::new(Verify::All).of_trial(1);
        for (flow, sequence) in [(0, 0), (5, 0), (0, 1), (5, 2)] {
            checker.datagram(0, &sent(flow, sequence));
        }
        let mut other = Train::new(64, 1, 1);
        other.put(0, &Header { trial: 2, flow: 0, sequence: 9, sent_ns: 0 });
        checker.datagram(0, other.bytes(1));
        let lost: Vec<_> = checker.flows().iter().map(|flow| (flow.flow, flow.lost)).collect();
        assert_eq!(lost, [(0, 0), (5, 1)]);
        assert_eq!(checker.totals().other_trial, 1);
    }

    #[test]
    fn damage_and_strangers_are_counted_and_belong_to_no_flow() {
        let mut checker = Checker::new(Verify::All);
        let mut payload = sent(0, 0);
        payload[50] ^= 4;
        checker.datagram(0, &payload);
        checker.datagram(0, b"DNS?");
        checker.receive(0, b"", 0);
        let totals = checker.totals();
        assert_eq!((totals.corrupted, totals.foreign, totals.flows), (1, 2, 0));
        assert_eq!(totals.datagrams, 3);
    }

    #[test]
    fn sampling_sums_one_filler_in_sixteen_and_every_header() {
        let mut checker = Checker::new(Verify::Sample);
        for sequence in 0..160 {
            let mut payload = sent(0, sequence);
            payload[60] ^= 1;
            checker.datagram(0, &payload);
        }
        assert_eq!(checker.totals().corrupted, 10);
        let mut payload = sent(0, 161);
        payload[20] ^= 1;
        checker.datagram(0, &payload);
        assert_eq!(checker.totals().corrupted, 11);
    }

    #[test]
    fn a_super_buffer_is_its_segments() {
        let mut checker = Checker::new(Verify::All);
        let mut train = Train::new(64, 3, 1);
        for slot in 0..3 {
            train.put(slot, &Header { trial: 1, flow: 0, sequence: slot as u64, sent_ns: 0 });
        }
        checker.receive(0, train.bytes(3), 64);
        checker.receive(0, &[0; 10], 64);
        let totals = checker.totals();
        assert_eq!((totals.received, totals.foreign, totals.receives), (3, 1, 2));
    }

    #[test]
    fn flows_above_the_bound_are_untracked() {
        let mut checker = Checker::new(Verify::None);
        for flow in 0..=u32::try_from(FLOWS_MAX).expect("small") {
            checker.datagram(0, &sent(flow, 0));
        }
        let totals = checker.totals();
        assert_eq!((totals.flows, totals.untracked), (FLOWS_MAX as u64, 1));
    }
}
