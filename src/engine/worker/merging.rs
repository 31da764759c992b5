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
use crate::engine::merge::{Fate, Held, Via};
use crate::engine::outbox::HEADERS;
use crate::engine::table::{EndSlot, Table};
use crate::limits::{
    MERGE_BLOCK_BYTES, MERGE_BLOCKS_MAX, MERGE_FRAMES_MAX, MERGE_WORKER_FRAMES_MAX,
};
use crate::stats::DropReason;
use crate::types::{ChannelId, Label};

/// The frames of this worker's ends that wait.
#[derive(Debug)]
pub(super) struct Waiting {
    frames: Held<Stored>,
    blocks: Blocks,
}

/// Where the bytes of a frame are.
#[derive(Clone, Copy, Debug)]
struct Stored {
    first: u16,
    bytes: u16,
}

/// Bytes in chains of blocks, so that frames of all sizes find room as long as there is any.
#[derive(Debug)]
struct Blocks {
    bytes: Box<[u8]>,
    /// The next one of the same frame, or of the free ones.
    next: Box<[u16]>,
    free: u16,
    free_count: u16,
    /// Those from here on have never been used.
    fresh: u16,
}

/// No block.
const END: u16 = u16::MAX;

impl Default for Waiting {
    /// Without any room.
    fn default() -> Self {
        Self { frames: Held::new(0, 0), blocks: Blocks::new(0) }
    }
}

impl Waiting {
    /// There may be something to wait for from now on.
    pub(super) fn make_room(&mut self) {
        if self.blocks.next.is_empty() {
            self.frames = Held::new(MERGE_WORKER_FRAMES_MAX, MERGE_FRAMES_MAX);
            self.blocks = Blocks::new(MERGE_BLOCKS_MAX);
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

impl Blocks {
    fn new(blocks: u16) -> Self {
        let bytes = vec![0; usize::from(blocks) * MERGE_BLOCK_BYTES].into();
        let next = vec![END; usize::from(blocks)].into();
        Self { bytes, next, free: END, free_count: blocks, fresh: 0 }
    }

    fn store(&mut self, frame: &[u8]) -> Option<Stored> {
        if frame.len().div_ceil(MERGE_BLOCK_BYTES) > usize::from(self.free_count) {
            return None;
        }
        let bytes = u16::try_from(frame.len()).ok()?;
        let mut first = END;
        // The last part first: each block is put in front of the chain.
        for part in frame.chunks(MERGE_BLOCK_BYTES).rev() {
            let block = self.pop();
            self.bytes[range(block, part.len())].copy_from_slice(part);
            self.next[usize::from(block)] = first;
            first = block;
        }
        Some(Stored { first, bytes })
    }

    /// Copies a frame out and frees its blocks. `into` has its length.
    fn take(&mut self, stored: Stored, into: &mut [u8]) {
        let mut block = stored.first;
        for part in into.chunks_mut(MERGE_BLOCK_BYTES) {
            part.copy_from_slice(&self.bytes[range(block, part.len())]);
            block = self.next[usize::from(block)];
        }
        self.free(stored);
    }

    fn free(&mut self, stored: Stored) {
        let mut block = stored.first;
        while block != END {
            let next = std::mem::replace(&mut self.next[usize::from(block)], self.free);
            (self.free, block) = (block, next);
            self.free_count += 1;
        }
    }

    /// There is one. Those used last come first: their memory is there.
    fn pop(&mut self) -> u16 {
        self.free_count -= 1;
        if self.free == END {
            self.fresh += 1;
            return self.fresh - 1;
        }
        let block = self.free;
        self.free = self.next[usize::from(block)];
        block
    }
}

fn range(block: u16, bytes: usize) -> std::ops::Range<usize> {
    let start = usize::from(block) * MERGE_BLOCK_BYTES;
    start..start + bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::merge::Merge;

    fn frame(number: usize, bytes: usize) -> Vec<u8> {
        (0..bytes).map(|index| u8::try_from((index * 7 + number) % 251).unwrap()).collect()
    }

    fn take(blocks: &mut Blocks, stored: Stored) -> Vec<u8> {
        let mut bytes = vec![0; usize::from(stored.bytes)];
        blocks.take(stored, &mut bytes);
        bytes
    }

    #[test]
    fn frames_of_all_sizes_come_back_as_they_were_in_any_order() {
        let mut blocks = Blocks::new(400);
        let sizes = [64, 511, 512, 513, 1_380, 1_536, 9_000, 65_535];
        for round in 0..5 {
            let mut stored: Vec<_> = (0..)
                .zip(sizes)
                .map(|(number, bytes)| (number, bytes, blocks.store(&frame(number, bytes))))
                .collect();
            stored.rotate_left(round);
            for (number, bytes, stored) in stored {
                assert!(take(&mut blocks, stored.unwrap()) == frame(number, bytes), "{bytes}");
            }
            assert_eq!(blocks.free_count, 400);
        }
        assert!(blocks.fresh < 200, "blocks are used again: {}", blocks.fresh);
    }

    #[test]
    fn a_frame_is_stored_as_a_whole_or_not_at_all() {
        let mut blocks = Blocks::new(4);
        let first = blocks.store(&frame(1, 1_000)).unwrap();
        assert!(blocks.store(&frame(2, 1_025)).is_none());
        assert_eq!(blocks.free_count, 2);
        let second = blocks.store(&frame(3, 1_024)).unwrap();
        assert!(blocks.store(&frame(4, 1)).is_none());
        blocks.free(first);
        assert!(blocks.store(&frame(5, 1_024)).is_some());
        assert_eq!(take(&mut blocks, second), frame(3, 1_024));
    }

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
