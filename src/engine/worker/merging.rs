//! Frames of two paths at a channel's end: what waits is copied here, and leaves from here.
//!
//! [`Merge`] decides. A frame that has to wait is copied out of its buffer, so that buffers go home with
//! their batch, and copied back into the outbox when its turn comes; one that leaves as it came is never
//! copied. The room for them is one for all ends of the worker: most ends have a second label only for
//! moments, or for a protected path that carries nothing. It is made by the command that first adds a
//! second label to an end, and memory comes with the first use of each page.  Does not decide anything
//! about frames.
//!
//! [`Merge`]: crate::engine::merge::Merge

use std::io;

use super::Worker;
use super::batch::Passing;
use super::blocks::{Blocks, Stored};
use crate::engine::merge::{Fate, Held, Via};
use crate::engine::outbox::HEADERS;
use crate::engine::table::{EndSlot, Table};
use crate::limits::{BLOCKS_MAX, MERGE_FRAMES_MAX, MERGE_WORKER_FRAMES_MAX};
use crate::stats::DropReason;
use crate::types::{ChannelId, Label};

/// The frames of this worker's ends that wait.
#[derive(Debug)]
pub(super) struct Waiting {
    frames: Held<Stored>,
    blocks: Blocks,
}

impl Default for Waiting {
    /// Without any room.
    fn default() -> Self {
        Self { frames: Held::new(0, 0), blocks: Blocks::new(0) }
    }
}

impl Waiting {
    /// There may be something to wait for from now on.
    pub(super) fn make_room(&mut self) {
        if !self.blocks.has_room() {
            self.frames = Held::new(MERGE_WORKER_FRAMES_MAX, MERGE_FRAMES_MAX);
            self.blocks = Blocks::new(BLOCKS_MAX);
        }
    }
}

impl Worker {
    /// A frame for an end that does not simply leave.
    #[cold]
    pub(super) fn put_together(&mut self, frame: &Passing, slot: EndSlot) -> io::Result<()> {
        let stats = self.table.stats(frame.account);
        let Some(end) = self.table.end(slot) else {
            stats.drop_frames(DropReason::UnknownLabel, 1);
            return Ok(());
        };
        if frame.account == end.account {
            // It entered at this very end.
            return self.leave(frame, slot);
        }
        let next = self.table.next_sequence(end);
        let whole = frame.whole_piece();
        let bytes = &self.net.pool().bytes(self.outbox.buffer(whole.buffer))[whole.range()];
        let Waiting { frames, blocks } = &mut self.waiting;
        let merge = self.table.merge_mut(slot).expect("the end was there just now");
        let keep = || blocks.store(bytes);
        match merge.offer(frames, frame.account.via(), frame.sequence, next, keep) {
            Fate::Leaves => {
                self.leave(frame, slot)?;
                self.let_go(slot)
            }
            Fate::Waits => Ok(()),
            Fate::Late => {
                self.table.stats(frame.account).drop_frames(DropReason::Late, 1);
                Ok(())
            }
            Fate::NoRoom => {
                self.let_go(slot)?;
                // Now there is room, or nothing to wait for.
                self.put_together(frame, slot)
            }
        }
    }

    /// What waited at the end and may leave now leaves.
    fn let_go(&mut self, slot: EndSlot) -> io::Result<()> {
        loop {
            let Some(end) = self.table.end(slot) else { return Ok(()) };
            let (account, next) = (end.account, self.table.next_sequence(end));
            let merge = self.table.merge_mut(slot).expect("the end was there just now");
            let Some(out) = merge.next_out(&mut self.waiting.frames, next) else { return Ok(()) };
            if out.late {
                self.waiting.blocks.free(out.what);
                self.table.stats(account).drop_frames(DropReason::Late, 1);
                continue;
            }
            let room = self.room(usize::from(out.what.bytes))?;
            let bytes = self.net.pool().bytes_mut(self.outbox.buffer_mut(HEADERS));
            self.waiting.blocks.take(out.what, &mut bytes[room.clone()]);
            self.leave(&Passing::whole(account, out.sequence, HEADERS, room), slot)?;
        }
    }

    /// Whatever waits at the channel's end leaves, and has left when this returns.
    pub(super) fn let_all_go(&mut self, channel: &ChannelId) -> io::Result<()> {
        let Some(slot) = self.table.end_slot(channel) else { return Ok(()) };
        match self.table.merge_mut(slot) {
            Some(merge) if merge.waiting() > 0 => merge.stop_waiting(),
            Some(_) | None => return Ok(()),
        }
        self.let_go(slot)?;
        self.submit()
    }

    /// `add` says whether another label leads to the same end.
    pub(super) fn add_label(
        &mut self,
        label: Label,
        add: impl FnOnce(&mut Table) -> bool,
    ) -> io::Result<()> {
        let led = self.table.leads_to(label);
        if add(&mut self.table) {
            self.waiting.make_room();
        }
        // One that is told again is the same one.
        let leads = self.table.leads_to(label);
        self.removed(led.filter(|_| led != leads))
    }

    pub(super) fn remove_label(&mut self, label: Label) -> io::Result<()> {
        let led = self.table.leads_to(label);
        self.table.remove_label(label);
        self.removed(led)
    }

    /// What a label led to, which does not exist any more.
    pub(super) fn removed(&mut self, led: Option<(EndSlot, Via)>) -> io::Result<()> {
        let Some((slot, via)) = led else { return Ok(()) };
        if let Some(merge) = self.table.merge_mut(slot) {
            merge.removed(&mut self.waiting.frames, via);
        }
        self.let_go(slot)?;
        self.table.follow_only(slot);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::merge::Merge;

    #[test]
    fn there_is_no_room_before_there_is_a_second_label() {
        let mut waiting = Waiting::default();
        let mut merge = Merge::default();
        merge.follow(Via::new(1));
        let Waiting { frames, blocks } = &mut waiting;
        let keep = || blocks.store(&[1]);
        let two = Via::new(2);
        assert_eq!(merge.offer(frames, two, 9, 5, keep), Fate::NoRoom);
        waiting.make_room();
        let Waiting { frames, blocks } = &mut waiting;
        merge.follow(Via::new(1));
        assert_eq!(merge.offer(frames, two, 9, 5, || blocks.store(&[1])), Fate::Waits);
        waiting.make_room();
        assert_eq!(merge.waiting(), 1);
        assert!(merge.next_out(&mut waiting.frames, 9).is_some(), "what waits is kept");
    }
}
