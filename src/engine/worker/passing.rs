//! What a worker passes to others, and takes over from them: buffers with frames that belong elsewhere,
//! and channels that move.
//!
//! A frame belongs to the worker that has its label. One that arrives elsewhere, because its sender
//! does not know that the channel moved or took another port, is judged there: the buffer goes over
//! with the set of its segments that are still to be judged, after the sends of this batch are done.
//!
//! A channel moves in three steps, so that no frame is lost or overtakes another:
//!
//! ```text
//! 1 its socket is not read any more; what came before goes its way (a turn or two)
//! 2 labels, end and socket are handed to the other worker; frames that come here are passed from now on
//! 3 the other worker takes them over before the first of those frames, and before its next command
//! ```

use std::io;
use std::net::SocketAddr;
use std::ops::Range;

use super::batch::Segments;
use super::shaping::Kept;
use super::{EndSlot, Worker};
use crate::engine::Event;
use crate::engine::ring::Todo;
use crate::engine::table::{MovedEnd, MovedLabel};
use crate::limits::PASSED_PER_TURN;
use crate::net::{Detached, Received};
use crate::stats::{DropReason, bump};
use crate::types::{ChannelId, Label, WorkerId};
use crate::wire::frame;

/// A buffer on its way to another worker.
#[derive(Debug)]
pub(in crate::engine) struct Passed {
    received: Received,
    todo: Todo,
    /// Workers it may still visit: labels that lead in a circle end here.
    visits: u8,
}

/// A channel on its way to another worker.
#[derive(Debug)]
pub(in crate::engine) struct MovedChannel {
    labels: Vec<MovedLabel>,
    end: Option<(MovedEnd, Detached, Vec<Kept>)>,
}

/// A move this worker has been told to make.
#[derive(Debug)]
pub(super) struct Moving {
    pub(super) channel: ChannelId,
    pub(super) labels: Vec<Label>,
    pub(super) end: bool,
    pub(super) to: WorkerId,
}

/// The segments of one buffer that belong to other workers.
#[derive(Debug, Default)]
pub(super) struct Strays {
    todo: Todo,
    /// The worker of the first.
    to: Option<WorkerId>,
    /// Whether its sender is a neighbour: others cannot make workers busy with each other.
    known: Option<bool>,
}

/// A buffer of this batch that goes on to another worker.
#[derive(Debug)]
pub(super) struct Leaving {
    buffer: u16,
    to: WorkerId,
    todo: Todo,
    source: SocketAddr,
    segment: u16,
    visits: u8,
}

impl Worker {
    // --- Frames ---

    /// Whether a segment whose label is not known here belongs to another worker; then it is noted.
    pub(super) fn is_stray(
        &self,
        buffer: u16,
        segment: &Range<usize>,
        index: usize,
        source: SocketAddr,
        strays: &mut Strays,
    ) -> bool {
        let bytes = &self.net.pool().bytes(self.outbox.buffer(buffer))[segment.clone()];
        let Some(to) = frame::parse(bytes).ok().and_then(|header| self.owner(header.label)) else {
            return false;
        };
        if !*strays.known.get_or_insert_with(|| self.table.is_neighbour(source)) {
            return false;
        }
        strays.to.get_or_insert(to);
        strays.todo.add(index)
    }

    /// The other worker that has the label, as far as can be told here.
    fn owner(&self, label: Label) -> Option<WorkerId> {
        let drawn_by = label.worker();
        let other = usize::from(drawn_by.0) < self.rings.workers() && drawn_by != self.number;
        self.table.passed_to(label).or_else(|| other.then_some(drawn_by))
    }

    /// Once a buffer has been walked through: what of it belongs to others goes on after this batch.
    pub(super) fn pass_on(
        &mut self,
        strays: &Strays,
        buffer: u16,
        source: SocketAddr,
        segment: u16,
        visits: u8,
    ) {
        let Some(to) = strays.to else { return };
        let todo = strays.todo;
        if visits == 0 {
            return self.stats.drop_frames(DropReason::UnknownLabel, todo.len());
        }
        let visits = visits - 1;
        self.leaving.push(Leaving { buffer, to, todo, source, segment, visits });
    }

    /// Frames that came from other workers.
    pub(super) fn take_passed(&mut self) -> io::Result<()> {
        self.take_arrivals();
        for _ in 0..PASSED_PER_TURN {
            let Some(passed) = self.rings.next(self.number) else { break };
            // It was handed over before the frame was passed.
            self.take_arrivals();
            self.on_passed(passed)?;
        }
        Ok(())
    }

    fn on_passed(&mut self, passed: Passed) -> io::Result<()> {
        let Passed { received, todo, visits } = passed;
        bump(&self.stats.ring_in, todo.len());
        let (source, segment) = (received.source, received.segment);
        let segments = Segments::of(&received);
        let buffer = self.outbox.hold(received.buffer);
        let mut strays = Strays::default();
        for (index, range) in segments.enumerate().filter(|(index, _)| todo.has(*index)) {
            self.on_frame(buffer, index, range, source, &mut strays)?;
        }
        self.count_received();
        self.pass_on(&strays, buffer, source, segment, visits);
        Ok(())
    }

    /// The batch is over: its buffers go home, or on to where they still have to be.
    pub(super) fn finish_batch(&mut self) {
        if self.rings.workers() == 1 {
            return self.outbox.finish(&mut self.net);
        }
        let mut leaving = self.leaving.drain(..).peekable();
        for (number, buffer) in (1..).zip(self.outbox.take_buffers()) {
            let refused = match leaving.next_if(|leaving| leaving.buffer == number) {
                None => buffer,
                Some(leaving) => {
                    let Leaving { to, todo, source, segment, visits, .. } = leaving;
                    let received = Received::passed(source, buffer, segment);
                    match self.rings.pass(to, Passed { received, todo, visits }) {
                        Ok(()) => {
                            bump(&self.stats.passed, todo.len());
                            continue;
                        }
                        Err(back) => {
                            self.stats.drop_frames(DropReason::RingFull, todo.len());
                            back.received.buffer
                        }
                    }
                }
            };
            if self.net.pool().is_home(&refused) {
                self.net.release(refused);
            } else {
                self.rings.send_home(self.net.pool().home_of(&refused), refused);
            }
        }
    }

    /// Before a wait: buffers that came home are free again. False if there is something to do.
    pub(super) fn may_wait(&mut self) -> bool {
        if self.rings.workers() == 1 {
            return true;
        }
        while let Some(buffer) = self.rings.next_home(self.number) {
            self.net.release(buffer);
        }
        self.rings.may_wait(self.number)
    }

    // --- Channels ---

    /// One more step of a move; what is left of it, if it is not done.
    pub(super) fn move_channel(&mut self, moving: Moving) -> io::Result<Option<Moving>> {
        let socket = moving.end.then(|| self.table.end_socket(&moving.channel)).flatten();
        if let Some(socket) = socket {
            self.net.pause(socket);
            if !self.net.is_drained(socket) {
                return Ok(Some(moving));
            }
        }
        if !self.rings.has_room_for_channel(moving.to) {
            return Ok(Some(moving));
        }
        self.let_all_go(&moving.channel)?;
        let labels = self.take_labels(&moving)?;
        let end = socket.and_then(|socket| {
            let waiting = self.take_waiting(&moving.channel);
            let end = self.table.take_end(&moving.channel)?;
            self.owners[socket.0 as usize] = None;
            self.outbox.forget(socket);
            let detached = self.net.detach(socket);
            Some((end, self.or_fail("keep the socket of a moving channel", detached)?, waiting))
        });
        self.rings.send_channel(moving.to, Box::new(MovedChannel { labels, end }));
        Ok(None)
    }

    /// Those that were named, and all that lead to the end, if that goes.
    fn take_labels(&mut self, moving: &Moving) -> io::Result<Vec<MovedLabel>> {
        let mut labels = moving.labels.clone();
        if moving.end {
            labels.extend(self.table.labels_of(&moving.channel));
        }
        let mut taken = Vec::with_capacity(labels.len());
        for label in labels {
            let led = self.table.leads_to(label);
            // One that has been taken is not there a second time.
            taken.extend(self.table.take_label(label, moving.to));
            self.removed(led)?;
        }
        Ok(taken)
    }

    /// Channels that other workers handed over.
    pub(super) fn take_arrivals(&mut self) {
        while let Some(moved) = self.rings.next_channel(self.number) {
            if let Some((end, detached, waiting)) = moved.end {
                let socket = self.net.take_over(detached);
                if let Some(socket) = self.or_fail("take over the socket of a channel", socket) {
                    let slot = self.table.put_end(end, socket);
                    self.own_socket(socket, slot);
                    self.put_waiting(slot, waiting);
                }
            }
            for label in moved.labels {
                if self.table.put_label(label) {
                    self.waiting.make_room();
                }
            }
        }
    }

    pub(super) fn own_socket(&mut self, socket: crate::engine::table::SocketId, slot: EndSlot) {
        let index = socket.0 as usize;
        if self.owners.len() <= index {
            self.owners.resize(index + 1, None);
        }
        self.owners[index] = Some(slot);
    }

    fn or_fail<T>(&self, what: &str, result: io::Result<T>) -> Option<T> {
        let failed = |error| self.shared.tell(Event::Failed(format!("cannot {what}: {error}")));
        result.map_err(failed).ok()
    }
}
