//! Probes in the simulated world: what a wire lets through of a train, and who counts it.
//!
//! An extension of [`Sim`]. A wire carries what its ends are configured for, or what [`Sim::carries`]
//! said; it has no buffer, so what is too fast is lost evenly and the rest arrives at the wire's pace.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Happening, Sim};
use crate::proto::{Input, measure};
use crate::types::{Bandwidth, LinkId};
use crate::wire::control::Routed;
use crate::wire::measure::{Arrived, Train};

/// What a peer counts on its links, while it does.
#[derive(Debug, Default)]
pub(super) struct Counts(BTreeMap<LinkId, BTreeMap<u32, Arrived>>);

/// Round trip of every wire, for those that ask.
const RTT: Duration = Duration::from_millis(3);

impl Counts {
    pub(super) fn set(&mut self, link: LinkId, on: bool) {
        if on {
            self.0.insert(link, BTreeMap::new());
        } else {
            self.0.remove(&link);
        }
    }
}

impl Sim {
    /// What a wire carries in truth, whatever its ends are configured for.
    pub fn carries(&mut self, wire: usize, capacity: Bandwidth) {
        self.wires[wire].carries = Some(capacity);
    }

    /// Whether a peer counts probes on any link.
    pub fn counts_probes(&self, peer: usize) -> bool {
        !self.peers[peer].counts.0.is_empty()
    }

    pub(super) fn send_train(&mut self, at: usize, link: LinkId, train: Train, header_bytes: u16) {
        let (wire, side) = self.wire_of(at, link);
        let wire = &self.wires[wire];
        let (other, there) = wire.ends[1 - side];
        let configured = wire.capacities[0].min(wire.capacities[1]);
        let carries = wire.carries.unwrap_or(configured).bps().max(1);
        let passes = wire.at[1 - side].is_some() && !wire.cut;
        let bits = u64::from(train.frame_bytes + header_bytes) * 8;
        let micros = |frames: u32, rate: u64| {
            let micros = u128::from(frames) * u128::from(bits) * 1_000_000 / u128::from(rate);
            u64::try_from(micros).expect("a short train")
        };
        let rate = train.rate.bps();
        let through = rate.min(carries);
        let frames = u128::from(train.frames) * u128::from(through) / u128::from(rate);
        let frames = u32::try_from(frames).expect("at most what was sent");
        if let Some(counted) = self.peers[other].counts.0.get_mut(&there)
            && passes
        {
            let tail_frames = frames / 4 * 3;
            let tail_us = u32::try_from(micros(tail_frames, through)).expect("a short train");
            counted.insert(train.number, Arrived { frames, tail_frames, tail_us });
        }
        let took = Duration::from_micros(micros(train.frames, rate));
        let sent = measure::Sent { number: train.number, frames: train.frames, took };
        let input = Input::TrainSent { link, sent, rtt: Some(RTT) };
        let happening = Happening::Told { peer: at, life: self.peers[at].life, input };
        self.push(self.now + took, happening);
    }

    pub(super) fn count_train(&mut self, at: usize, link: LinkId, number: u32) {
        let counted = self.peers[at].counts.0.get(&link);
        let arrived = counted.and_then(|trains| trains.get(&number)).copied().unwrap_or_default();
        let input = Input::TrainCounted { link, number, arrived, rtt: Some(RTT) };
        let happening = Happening::Told { peer: at, life: self.peers[at].life, input };
        self.push(self.now, happening);
    }

    pub(super) fn wire_of(&self, peer: usize, link: LinkId) -> (usize, usize) {
        self.peers[peer].wires[usize::from(link.0)]
    }

    /// Frames are judged one by one here, and not counted.
    pub(super) fn read_hop(&mut self, at: usize, question: Box<Routed>) {
        let (now, life) = (self.now, self.peers[at].life);
        let input = Input::HopRead { question, facts: Some(Box::default()) };
        self.push(now, Happening::Told { peer: at, life, input });
    }
}
