//! Bytes of frames that have to wait: copied out of their buffers, so that buffers go home with their
//! batch, and copied back into the outbox when their turn comes.
//!
//! One arena of equal blocks, made once; memory comes with the first use of each page. Knows nothing of why
//! frames wait ([`super::merging`], [`super::shaping`]).

use crate::limits::BLOCK_BYTES;

/// Where the bytes of a frame are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    first: u16,
    pub(super) bytes: u16,
}

/// Bytes in chains of blocks, so that frames of all sizes find room as long as there is any.
#[derive(Debug)]
pub(super) struct Blocks {
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

impl Blocks {
    pub(super) fn new(blocks: u16) -> Self {
        let bytes = vec![0; usize::from(blocks) * BLOCK_BYTES].into();
        let next = vec![END; usize::from(blocks)].into();
        Self { bytes, next, free: END, free_count: blocks, fresh: 0 }
    }

    /// Whether it was made with any.
    pub(super) fn has_room(&self) -> bool {
        !self.next.is_empty()
    }

    /// Nothing if there are too few free ones.
    pub(super) fn store(&mut self, frame: &[u8]) -> Option<Stored> {
        if frame.len().div_ceil(BLOCK_BYTES) > usize::from(self.free_count) {
            return None;
        }
        let bytes = u16::try_from(frame.len()).ok()?;
        let mut first = END;
        // The last part first: each block is put in front of the chain.
        for part in frame.chunks(BLOCK_BYTES).rev() {
            let block = self.pop();
            self.bytes[range(block, part.len())].copy_from_slice(part);
            self.next[usize::from(block)] = first;
            first = block;
        }
        Some(Stored { first, bytes })
    }

    /// Copies a frame out and frees its blocks. `into` has its length.
    pub(super) fn take(&mut self, stored: Stored, into: &mut [u8]) {
        let mut block = stored.first;
        for part in into.chunks_mut(BLOCK_BYTES) {
            part.copy_from_slice(&self.bytes[range(block, part.len())]);
            block = self.next[usize::from(block)];
        }
        self.free(stored);
    }

    pub(super) fn free(&mut self, stored: Stored) {
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
    let start = usize::from(block) * BLOCK_BYTES;
    start..start + bytes
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
