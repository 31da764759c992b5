//! The frames of a batch: every segment of every super-buffer is judged and edited where it lies, and
//! what is to be sent goes to the outbox.
//!
//! Counters are written per stretch of equal frames, not per frame. Does not wait, send or read clocks:
//! the loop in `worker.rs` does.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;

use super::Worker;
use super::passing::Strays;
use crate::engine::Event;
use crate::engine::forward::{self, Admitted, Judged, Part, Verdict};
use crate::engine::outbox::HEADERS;
use crate::engine::runs::{FRAME_PIECES_MAX, Note, Outgoing, Piece};
use crate::engine::seal::Seal;
use crate::engine::table::{Account, End, EndSlot, Table, Way};
use crate::limits::BATCH_MAX;
use crate::net::{Received, WORKER_SOCKET};
use crate::stats::{DropReason, bump};
use crate::types::{LinkId, Time};
use crate::wire::frame::{END_TAG_BYTES, HEADER_BYTES, Header, OVERHEAD_BYTES};

/// Of a frame that leaves with its header and tag.
#[expect(clippy::cast_possible_truncation, reason = "far below 65,536")]
const FRAMED_OVERHEAD: u16 = OVERHEAD_BYTES as u16;

/// A frame that is on its way through the worker.
pub(super) struct Passing {
    pub(super) account: Account,
    pub(super) sequence: u64,
    /// Where its bytes are: in one place, or header, payload and tag.
    pieces: [Piece; FRAME_PIECES_MAX],
    count: usize,
    payload: Piece,
}

impl Passing {
    /// A whole frame at `range` of a buffer.
    pub(super) fn whole(account: Account, sequence: u64, buffer: u16, range: Range<usize>) -> Self {
        let payload = range.start + HEADER_BYTES..range.end - END_TAG_BYTES;
        let (whole, payload) = (Piece::new(buffer, range), Piece::new(buffer, payload));
        Self { account, sequence, pieces: [whole; FRAME_PIECES_MAX], count: 1, payload }
    }

    /// Of a frame that came from a neighbour.
    pub(super) fn whole_piece(&self) -> Piece {
        debug_assert!(self.count == 1, "a frame that came is in one place");
        self.pieces[0]
    }

    fn pieces(&self) -> &[Piece] {
        &self.pieces[..self.count]
    }
}

/// Frames behind each other of one channel with one stamp, not in the books yet.
#[derive(Debug, Default)]
pub(super) struct Tally {
    of: Option<(Account, u32)>,
    from: Option<LinkId>,
    frames: u32,
}

impl Worker {
    pub(super) fn forward_batch(&mut self) -> io::Result<()> {
        let mut received = std::mem::take(&mut self.batch.received);
        bump(&self.stats.batches, 1);
        bump(&self.stats.receives, received.len() as u64);
        self.full_batches = if received.len() >= BATCH_MAX { self.full_batches + 1 } else { 0 };
        let mut datagrams = 0;
        for received in received.drain(..) {
            let segments = received.datagrams() as u64;
            self.stats.relay.receive_segments.record(segments, 1);
            datagrams += segments;
            if self.proxied.is_some() {
                self.on_proxied(received)?;
            } else if received.socket == WORKER_SOCKET {
                self.on_frames(received)?;
            } else {
                self.on_datagrams(received)?;
            }
        }
        bump(&self.stats.datagrams, datagrams);
        if datagrams > 0 {
            self.stats.relay.batch.record(datagrams, 1);
        }
        bump(&self.stats.wakeups, u64::from(datagrams > 0));
        self.waiter.woke(self.now, datagrams);
        self.stats.set_wait_mode(self.waiter.mode());
        self.batch.received = received;
        Ok(())
    }

    // --- From neighbours ---

    fn on_frames(&mut self, received: Received) -> io::Result<()> {
        if let Some(reason) = damage(&received) {
            self.stats.drop_frames(reason, received.datagrams() as u64);
            self.net.release(received.buffer);
            return Ok(());
        }
        let (source, segment) = (received.source, received.segment);
        let (came_ns, frames) = (received.received_ns, received.datagrams());
        let segments = Segments::of(&received);
        let buffer = self.outbox.hold(received.buffer);
        let mut strays = Strays::default();
        for (index, range) in segments.enumerate() {
            self.on_frame(buffer, index, range, source, &mut strays)?;
        }
        // All of it came from one address: one neighbour's.
        let from = self.tally.from;
        self.count_received();
        if let Some(from) = from {
            self.inside.came(from, came_ns, frames);
        }
        let visits = 2 * u8::try_from(self.rings.workers()).unwrap_or(u8::MAX / 2);
        self.pass_on(&strays, buffer, source, segment, visits);
        Ok(())
    }

    #[inline]
    pub(super) fn on_frame(
        &mut self,
        buffer: u16,
        index: usize,
        segment: Range<usize>,
        source: SocketAddr,
        strays: &mut Strays,
    ) -> io::Result<()> {
        let bytes = self.net.pool().bytes_mut(self.outbox.buffer_mut(buffer));
        match forward::forward(&mut bytes[segment.clone()], source, &mut self.table, self.now) {
            Err(DropReason::UnknownLabel)
                if self.is_stray(buffer, &segment, index, source, strays) => {}
            Err(reason) => self.stats.drop_frames(reason, 1),
            Ok(Judged::Heartbeat { link, header }) => {
                self.on_heartbeat(link, &header, buffer, segment, source);
            }
            Ok(Judged::Probe { link, header }) => {
                self.on_probe(link, &header, buffer, segment);
            }
            Ok(Judged::Frame { account, from, header, verdict }) => {
                if let Some(liveness) = &mut self.liveness {
                    liveness.on_frame(from, self.now);
                }
                self.tally(account, header.stamp, from);
                let verdict = match verdict {
                    Verdict::Deliver(slot) => self.open_seal(slot, buffer, &segment, &header),
                    Verdict::Relay(_) | Verdict::Drop(_) => verdict,
                };
                let frame = Passing::whole(account, header.sequence, buffer, segment);
                self.carry_out(&frame, verdict)?;
            }
        }
        Ok(())
    }

    /// Before anything else learns of a frame that arrived: one that its other end did not seal is none.
    #[inline]
    fn open_seal(
        &mut self,
        slot: EndSlot,
        buffer: u16,
        segment: &Range<usize>,
        header: &Header,
    ) -> Verdict {
        let seal = match self.table.end_mut(slot) {
            None | Some(End { seal: Seal::Plain, .. }) => return Verdict::Deliver(slot),
            Some(end) => &mut end.seal,
        };
        let bytes = self.net.pool().bytes_mut(self.outbox.buffer_mut(buffer));
        match seal.leave(&mut bytes[segment.clone()], header.sequence, self.now) {
            Ok(()) => Verdict::Deliver(slot),
            Err(reason) => Verdict::Drop(reason),
        }
    }

    /// One more frame received of this channel.
    #[inline]
    fn tally(&mut self, account: Account, stamp: u32, from: LinkId) {
        if self.tally.of != Some((account, stamp)) {
            self.count_received();
            self.tally.of = Some((account, stamp));
            self.tally.from = Some(from);
        }
        self.tally.frames += 1;
    }

    pub(super) fn count_received(&mut self) {
        let Tally { of, frames, .. } = std::mem::take(&mut self.tally);
        let Some((account, stamp)) = of else { return };
        let stats = self.table.stats(account);
        bump(&self.stats.frames, frames.into());
        bump(&stats.received, frames.into());
        self.watches.record(stats, self.stamp, stamp, frames.into());
    }

    fn on_heartbeat(
        &mut self,
        link: LinkId,
        header: &Header,
        buffer: u16,
        segment: Range<usize>,
        source: SocketAddr,
    ) {
        let bytes = &self.net.pool().bytes(self.outbox.buffer(buffer))[segment];
        let heard = self
            .liveness
            .as_mut()
            .and_then(|liveness| liveness.on_heartbeat(link, header, bytes, source, self.now));
        let Some(moved) = heard else {
            return self.stats.drop_frames(DropReason::BadHeartbeat, 1);
        };
        bump(&self.stats.heartbeats_heard, 1);
        self.note_rtt(link);
        // Without room for the event the link stays where it is: its next heartbeat tries again.
        if moved && self.shared.tell(Event::LinkMoved { link, address: source }) {
            self.table.move_link(link, source);
            self.outbox.forget(WORKER_SOCKET);
            if let Some(liveness) = &mut self.liveness {
                liveness.moved(link, source);
            }
        }
    }

    // --- From local programs ---

    fn on_datagrams(&mut self, received: Received) -> io::Result<()> {
        let owner = self.owners[received.socket.0 as usize];
        let Some((slot, end)) = owner.and_then(|slot| Some((slot, self.table.end(slot)?))) else {
            self.stats.drop_frames(DropReason::Closed, received.datagrams() as u64);
            self.net.release(received.buffer);
            return Ok(());
        };
        let (account, count) = (end.account, received.datagrams());
        let stats = self.table.stats(account);
        bump(&self.stats.frames, count as u64);
        bump(&stats.entered, count as u64);
        bump(&stats.bytes_in, received.buffer.len() as u64);
        if let Some(reason) = damage(&received) {
            stats.drop_frames(reason, count as u64);
            self.net.release(received.buffer);
            return Ok(());
        }
        let source = received.source;
        if count == 1 {
            // There is room for a header in front of it, and for the tag behind.
            let payload_bytes = received.buffer.len();
            let buffer = self.outbox.hold(received.buffer.widened());
            self.on_datagram(slot, source, buffer, HEADER_BYTES..HEADER_BYTES + payload_bytes)?;
        } else {
            let segments = Segments::of(&received);
            let buffer = self.outbox.hold(received.buffer);
            for segment in segments {
                self.on_datagram(slot, source, buffer, segment)?;
            }
        }
        if let Some(end) = self.table.end(slot) {
            let stats = self.table.stats(end.account);
            stats.entry_sequence.store(end.sequence, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(())
    }

    fn on_datagram(
        &mut self,
        slot: EndSlot,
        source: SocketAddr,
        buffer: u16,
        payload: Range<usize>,
    ) -> io::Result<()> {
        let end = self.table.end_mut(slot).expect("looked at for the whole super-buffer");
        let account = end.account;
        match forward::admit(payload.len(), source, end, self.now) {
            // It took the sequence before the end's next one.
            Ok(Admitted::Enter(way)) => {
                let sequence = end.sequence - 1;
                self.enter((slot, account), buffer, payload, way, sequence)
            }
            Ok(Admitted::Wait(until)) => {
                self.keep_waiting(slot, buffer, payload, until);
                Ok(())
            }
            Err(reason) => {
                self.table.stats(account).drop_frames(reason, 1);
                Ok(())
            }
        }
    }

    /// Sends an admitted datagram on its way.
    fn enter(
        &mut self,
        (slot, account): (EndSlot, Account),
        buffer: u16,
        payload: Range<usize>,
        way: Way,
        sequence: u64,
    ) -> io::Result<()> {
        let payload_bytes = payload.len();
        let alone = self.outbox.buffer(buffer).len() == payload_bytes + OVERHEAD_BYTES;
        let (frame, verdict);
        if alone && payload.start == HEADER_BYTES {
            let bytes = self.net.pool().bytes_mut(self.outbox.buffer_mut(buffer));
            let (header, rest) = bytes.split_at_mut(HEADER_BYTES);
            let (body, tag) = rest.split_at_mut(payload_bytes);
            let (table, stamp) = (&self.table, self.stamp);
            let entered = forward::enter(header, tag, payload_bytes, way, sequence, stamp, table);
            verdict = seal(&mut self.table, (slot, way), entered, [header, body, tag], self.now);
            let range = 0..payload_bytes + OVERHEAD_BYTES;
            frame = Passing::whole(account, sequence, buffer, range);
        } else {
            let room = self.room(OVERHEAD_BYTES)?;
            let (headers, with_payload) = self.outbox.with_headers(buffer);
            let bytes = self.net.pool().bytes_mut(headers);
            let (header, tag) = bytes[room.clone()].split_at_mut(HEADER_BYTES);
            let (table, stamp) = (&self.table, self.stamp);
            let entered = forward::enter(header, tag, payload_bytes, way, sequence, stamp, table);
            let body = &mut self.net.pool().bytes_mut(with_payload)[payload.clone()];
            verdict = seal(&mut self.table, (slot, way), entered, [header, body, tag], self.now);
            let payload = Piece::new(buffer, payload);
            let header = Piece::new(HEADERS, room.start..room.start + HEADER_BYTES);
            let tag = Piece::new(HEADERS, room.start + HEADER_BYTES..room.end);
            let pieces = [header, payload, tag];
            frame = Passing { account, sequence, pieces, count: pieces.len(), payload };
        }
        self.carry_out(&frame, verdict)
    }

    /// Room for so many bytes in the buffer [`HEADERS`].
    pub(super) fn room(&mut self, bytes: usize) -> io::Result<Range<usize>> {
        if let Some(room) = self.outbox.room(bytes) {
            return Ok(room);
        }
        self.submit()?;
        Ok(self.outbox.room(bytes).expect("empty after a submission"))
    }

    // --- To neighbours and local programs ---

    #[inline]
    pub(super) fn carry_out(&mut self, frame: &Passing, verdict: Verdict) -> io::Result<()> {
        match verdict {
            Verdict::Relay(to) => {
                let note = Note { account: frame.account, delivered: None };
                let pieces = frame.pieces();
                self.send(Outgoing { socket: WORKER_SOCKET, to, pieces, note, alone: false })
            }
            Verdict::Deliver(slot) => self.deliver(frame, slot),
            Verdict::Drop(reason) => {
                self.table.stats(frame.account).drop_frames(reason, 1);
                Ok(())
            }
        }
    }

    #[inline]
    fn deliver(&mut self, frame: &Passing, slot: EndSlot) -> io::Result<()> {
        match self.table.end(slot) {
            Some(end) if end.merge.goes_straight(frame.account.via()) => {
                match outgoing(frame, end, &self.table) {
                    Some(outgoing) => self.send(outgoing),
                    None => Ok(()),
                }
            }
            Some(_) | None => self.put_together(frame, slot),
        }
    }

    /// Whatever else comes or waits at this end, this frame leaves there now.
    pub(super) fn leave(&mut self, frame: &Passing, slot: EndSlot) -> io::Result<()> {
        let end = self.table.end(slot).expect("there as long as frames leave");
        match outgoing(frame, end, &self.table) {
            Some(outgoing) => self.send(outgoing),
            None => Ok(()),
        }
    }

    #[inline]
    fn send(&mut self, frame: Outgoing<'_>) -> io::Result<()> {
        if self.outbox.push(frame).is_err() {
            self.submit()?;
            assert!(self.outbox.push_again(frame).is_ok(), "empty after a submission");
        }
        Ok(())
    }
}

/// Seals a frame that leaves this peer, if its channel is sealed: header, payload and tag. Behind that
/// comes the tag of its first hop, because the epoch of the seal is in the header.
#[inline]
pub(super) fn seal(
    table: &mut Table,
    (slot, way): (EndSlot, Way),
    verdict: Verdict,
    [header, payload, tag]: [&mut [u8]; 3],
    now: Time,
) -> Verdict {
    match (verdict, table.end_mut(slot)) {
        (Verdict::Relay(_), Some(end)) => match end.seal.enter(header, payload, tag, now) {
            Ok(()) => {
                forward::tag(header, way, table);
                verdict
            }
            Err(reason) => Verdict::Drop(reason),
        },
        (Verdict::Relay(_) | Verdict::Deliver(_) | Verdict::Drop(_), _) => verdict,
    }
}

/// What is to be sent so that a frame leaves at `end`; if there is nobody to send it to, it has been
/// dropped.
#[inline]
fn outgoing<'a>(frame: &'a Passing, end: &End, table: &Table) -> Option<Outgoing<'a>> {
    let stats = table.stats(frame.account);
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    let seen = stats.next_sequence.load(relaxed);
    stats.next_sequence.store(seen.max(frame.sequence.saturating_add(1)), relaxed);
    let (to, overhead, pieces) = match forward::leave(end) {
        Ok((to, Part::Payload)) => (to, 0, std::slice::from_ref(&frame.payload)),
        Ok((to, Part::Frame)) => (to, FRAMED_OVERHEAD, frame.pieces()),
        Err(reason) => {
            stats.drop_frames(reason, 1);
            return None;
        }
    };
    let note = Note { account: frame.account, delivered: Some(overhead) };
    Some(Outgoing { socket: end.socket, to, pieces, note, alone: !end.gso })
}

/// Why nothing of it can be used.
pub(super) fn damage(received: &Received) -> Option<DropReason> {
    if received.control_truncated {
        return Some(DropReason::ControlTruncated);
    }
    received.truncated.then_some(DropReason::Truncated)
}

/// The datagrams of a super-buffer, as ranges of it.
#[derive(Debug)]
pub(super) struct Segments {
    next: usize,
    segment: usize,
    bytes: usize,
    left: usize,
}

impl Segments {
    pub(super) fn of(received: &Received) -> Self {
        let (segment, bytes) = (usize::from(received.segment), received.buffer.len());
        Self { next: 0, segment, bytes, left: received.datagrams() }
    }
}

impl Iterator for Segments {
    type Item = Range<usize>;

    #[inline]
    fn next(&mut self) -> Option<Range<usize>> {
        self.left = self.left.checked_sub(1)?;
        let start = self.next;
        self.next = (start + self.segment).min(self.bytes);
        Some(start..self.next)
    }
}
