//! Datagrams that wait at the entry of a shaped channel, and leave from here.
//!
//! [`Shaping`] decides which, and until when. Their payloads are copied out of the buffers they came in, and
//! copied back into the outbox when they are due, where they get their header: they take the path that the
//! channel has then. One line for all ends of the worker, the earliest first; dues of one end ascend, so its
//! order holds. Room for it is made by the command that first opens a shaped end. A worker without one pays
//! a comparison a turn.
//!
//! What waits has entered, and is neither sent nor dropped: in flight. Does not decide anything about
//! frames.
//!
//! [`Shaping`]: crate::engine::shaper::Shaping

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::io;
use std::ops::Range;

use super::Worker;
use super::batch::{Passing, seal};
use super::blocks::{Blocks, Stored};
use crate::engine::forward;
use crate::engine::outbox::HEADERS;
use crate::engine::table::{EndSlot, Way};
use crate::limits::{BLOCKS_MAX, SHAPE_TICK, SHAPE_WORKER_FRAMES_MAX};
use crate::stats::DropReason;
use crate::types::{ChannelId, Time};
use crate::wire::frame::{HEADER_BYTES, OVERHEAD_BYTES};

/// What waits at the entries of this worker.
#[derive(Debug)]
pub(super) struct Line {
    first: BinaryHeap<Reverse<Place>>,
    blocks: Blocks,
    /// Of the next place.
    number: u64,
    /// Nobody leaves before.
    closed_until: Time,
}

/// A datagram that waits.
#[derive(Clone, Copy, Debug)]
struct Place {
    until: Time,
    /// Of those that leave at the same time, the one that came first does first.
    number: u64,
    of: Waits,
    payload: Stored,
}

/// All there is to know of it but its bytes.
#[derive(Clone, Copy, Debug)]
struct Waits {
    slot: EndSlot,
    sequence: u64,
    /// Of its arrival: the time here is part of its way.
    stamp: u32,
}

/// A datagram that goes over to another worker with its end.
#[derive(Debug)]
pub(in crate::engine) struct Kept {
    until: Time,
    sequence: u64,
    stamp: u32,
    payload: Vec<u8>,
}

impl Default for Line {
    /// Without any room.
    fn default() -> Self {
        let (first, blocks) = (BinaryHeap::new(), Blocks::new(0));
        Self { first, blocks, number: 0, closed_until: Time::default() }
    }
}

impl Line {
    /// There may be something to wait for from now on.
    pub(super) fn make_room(&mut self) {
        if !self.blocks.has_room() {
            self.first.reserve_exact(SHAPE_WORKER_FRAMES_MAX);
            self.blocks = Blocks::new(BLOCKS_MAX);
        }
    }

    /// When the next one leaves.
    #[inline]
    pub(super) fn next(&self) -> Option<Time> {
        self.first.peek().map(|Reverse(place)| place.until.max(self.closed_until))
    }

    #[inline]
    pub(super) fn is_due(&self, now: Time) -> bool {
        self.next().is_some_and(|at| at <= now)
    }

    /// Whether there was room.
    fn push(&mut self, of: Waits, until: Time, payload: &[u8]) -> bool {
        if self.first.len() >= SHAPE_WORKER_FRAMES_MAX {
            return false;
        }
        let Some(payload) = self.blocks.store(payload) else { return false };
        self.first.push(Reverse(Place { until, number: self.number, of, payload }));
        self.number += 1;
        true
    }

    fn pop_due(&mut self, now: Time) -> Option<Place> {
        let Reverse(place) = self.first.peek()?;
        (place.until <= now).then(|| self.first.pop())?.map(|Reverse(place)| place)
    }

    /// All of one end, in order.
    fn take_all(&mut self, slot: EndSlot) -> Vec<Place> {
        let mut taken = Vec::new();
        self.first.retain(|Reverse(place)| {
            let stays = place.of.slot != slot;
            if !stays {
                taken.push(*place);
            }
            stays
        });
        taken.sort_unstable();
        taken
    }
}

impl Worker {
    /// Keeps the datagram that the end has just taken a sequence for, or drops it.
    #[cold]
    pub(super) fn keep_waiting(
        &mut self,
        slot: EndSlot,
        buffer: u16,
        payload: Range<usize>,
        until: Time,
    ) {
        let end = self.table.end_mut(slot).expect("it has just admitted");
        let of = Waits { slot, sequence: end.sequence - 1, stamp: self.stamp };
        let frame_bytes = payload.len() + OVERHEAD_BYTES;
        let bytes = &self.net.pool().bytes(self.outbox.buffer(buffer))[payload];
        match &mut end.shaping {
            Some(shaping) if self.line.push(of, until, bytes) => shaping.wait(until, frame_bytes),
            Some(_) | None => {
                let account = end.account;
                self.table.stats(account).drop_frames(DropReason::Policed, 1);
            }
        }
    }

    /// Those whose time has come go to the outbox.
    #[cold]
    pub(super) fn let_due_go(&mut self) -> io::Result<()> {
        self.line.closed_until = self.now + SHAPE_TICK;
        while let Some(place) = self.line.pop_due(self.now) {
            match self.way_of(&place) {
                Ok(way) => self.let_enter(&place, way)?,
                Err(reason) => self.drop_place(&place, reason),
            }
        }
        Ok(())
    }

    /// Where it goes by now. If it goes it has paid.
    fn way_of(&mut self, place: &Place) -> Result<Way, DropReason> {
        let end = self.table.end_mut(place.of.slot).expect("what waits goes with its end");
        let payload_bytes = usize::from(place.payload.bytes);
        let way = match &end.entry {
            None => Err(DropReason::Moving),
            Some(entry) if payload_bytes > usize::from(entry.max_payload) => {
                Err(DropReason::TooBig)
            }
            Some(entry) => Ok(entry.way),
        };
        let policer = end.policer.as_mut().expect("set with the first entry");
        let shaping = end.shaping.as_mut().expect("something waited here");
        shaping.left(policer, self.now, payload_bytes + OVERHEAD_BYTES, way.is_ok());
        way
    }

    fn let_enter(&mut self, place: &Place, way: Way) -> io::Result<()> {
        let Waits { slot, sequence, stamp } = place.of;
        let payload_bytes = usize::from(place.payload.bytes);
        let room = self.room(payload_bytes + OVERHEAD_BYTES)?;
        let bytes = &mut self.net.pool().bytes_mut(self.outbox.buffer_mut(HEADERS))[room.clone()];
        let (header, rest) = bytes.split_at_mut(HEADER_BYTES);
        let (payload, tag) = rest.split_at_mut(payload_bytes);
        self.line.blocks.take(place.payload, payload);
        let entered = forward::enter(header, tag, payload_bytes, way, sequence, stamp, &self.table);
        let verdict = seal(&mut self.table, (slot, way), entered, [header, payload, tag], self.now);
        let account = self.table.end(slot).expect("it was there just now").account;
        self.carry_out(&Passing::whole(account, sequence, HEADERS, room), verdict)
    }

    fn drop_place(&mut self, place: &Place, reason: DropReason) {
        self.line.blocks.free(place.payload);
        let end = self.table.end(place.of.slot).expect("what waits goes with its end");
        self.table.stats(end.account).drop_frames(reason, 1);
    }

    /// The channel's end closes: what waits there goes nowhere.
    pub(super) fn drop_waiting(&mut self, channel: &ChannelId) {
        for place in self.waiting_of(channel) {
            self.drop_place(&place, DropReason::Closed);
        }
    }

    /// The channel's end goes to another worker, and takes with it what waits.
    pub(super) fn take_waiting(&mut self, channel: &ChannelId) -> Vec<Kept> {
        let places = self.waiting_of(channel).into_iter();
        let keep = |Place { until, of, payload, .. }: Place| {
            let mut bytes = vec![0; usize::from(payload.bytes)];
            self.line.blocks.take(payload, &mut bytes);
            Kept { until, sequence: of.sequence, stamp: of.stamp, payload: bytes }
        };
        places.map(keep).collect()
    }

    /// The end has come from another worker with what waited there.
    pub(super) fn put_waiting(&mut self, slot: EndSlot, waiting: Vec<Kept>) {
        let Some(end) = self.table.end_mut(slot) else { return };
        let Some(shaping) = &mut end.shaping else { return };
        self.line.make_room();
        // Without one nothing has ever entered.
        let Some(policer) = &mut end.policer else { return };
        let mut dropped = 0;
        for Kept { until, sequence, stamp, payload } in waiting {
            let frame_bytes = payload.len() + OVERHEAD_BYTES;
            if !self.line.push(Waits { slot, sequence, stamp }, until, &payload) {
                shaping.left(policer, self.now, frame_bytes, false);
                dropped += 1;
            }
        }
        let account = end.account;
        self.table.stats(account).drop_frames(DropReason::Policed, dropped);
    }

    fn waiting_of(&mut self, channel: &ChannelId) -> Vec<Place> {
        let slot = self.table.end_slot(channel);
        let Some((slot, end)) = slot.and_then(|slot| Some((slot, self.table.end(slot)?))) else {
            return Vec::new();
        };
        match &end.shaping {
            Some(shaping) if shaping.waiting() > 0 => self.line.take_all(slot),
            Some(_) | None => Vec::new(),
        }
    }
}

impl Place {
    fn key(&self) -> (Time, u64) {
        (self.until, self.number)
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Place {}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}
