#![allow(unsafe_code, reason = "hands out slices of one mapping that the kernel writes into")]
//! The frame buffers of an engine: a fixed number, made at start, never more, in one mapping.
//!
//! ```text
//! the mapping:  | buffers of worker 0 | buffers of worker 1 | ...      one Pool each: its home buffers
//!
//! one buffer:   | 128 bytes headroom | datagrams, up to 65,535 bytes | 385 bytes spare |
//!                 ▲ 4: io_uring's       ▲ start of what was received    ▲ end-to-end tag of a
//!                 recvmsg_out, address, control data                    datagram that enters
//!                 ▲ 80: header of a datagram that enters
//! ```
//!
//! What was received, one datagram or several of equal size behind each other (a *super-buffer*), stays
//! where the kernel wrote it: headers are edited there and it is sent from there. Every buffer has
//! exactly one handle, and the handle's type says what may be done with it:
//!
//! ```text
//! Unfilled ──filled()──► Filled ──released()──► Unfilled        (recvmmsg)
//!     └──lend()──► the kernel ──reclaim()──► Unfilled ─...        (io_uring's buffer ring)
//! ```
//!
//! A handle names its buffer in the whole mapping, so a `Filled` may be moved to another worker of the
//! same engine, read and sent there; only its home worker may lend it to the kernel again
//! ([`Pool::is_home`], [`Pool::home_of`]).
//!
//! Memory of a worker: 512 buffers x 66,048 B = 32.3 MiB if every buffer once held a large datagram
//! (pages never touched cost nothing), plus less than 1 MiB of message headers and rings. 64 of them,
//! 4 MiB, have memory from the start and are used again and again; the others are for peaks.
//!
//! Does not decide who gets a buffer: that is the back end's.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use crate::wire::frame::{END_TAG_BYTES, HEADER_BYTES};

/// Bytes in front of a received datagram.
pub const HEADROOM: usize = 128;
/// Bytes a datagram may have: the largest a UDP length field can say. Larger cannot exist.
pub const DATAGRAM_ROOM: usize = 65_535;
/// Least bytes of a page. Where pages are larger, memory comes with the first touch.
const PAGE_BYTES: usize = 4_096;
/// Bytes of one buffer: not a multiple of a page, so that headers spread over the cache's sets.
pub const BUFFER_BYTES: usize = 66_048;

const _: () = {
    assert!(HEADROOM >= HEADER_BYTES);
    assert!(HEADROOM + DATAGRAM_ROOM + END_TAG_BYTES <= BUFFER_BYTES);
    assert!(BUFFER_BYTES.is_multiple_of(64) && HEADROOM.is_multiple_of(64));
};

/// A buffer without a datagram.
#[derive(Debug)]
#[must_use = "a handle that is dropped is a buffer lost for good"]
pub struct Unfilled {
    index: u32,
    pool: u32,
}

/// A buffer with a datagram: bytes `start .. start + bytes` of it.
#[derive(Debug)]
#[must_use = "a handle that is dropped is a buffer lost for good"]
pub struct Filled {
    index: u32,
    pool: u32,
    start: u32,
    bytes: u32,
}

/// The buffers of one worker, and sight of those of the others.
#[derive(Debug)]
pub struct Pool {
    memory: Arc<Memory>,
    /// The worker's own buffers begin here.
    first: u32,
    /// Of each worker.
    buffers: u16,
}

/// The mapping that all workers of an engine share.
#[derive(Debug)]
struct Memory {
    base: NonNull<u8>,
    buffers: u32,
    /// Unique in this process: a handle of one engine is useless at another.
    id: u32,
    /// The kernel may still write into it: never unmap.
    leaked: AtomicBool,
}

// SAFETY: `base` is the address of a mapping that belongs to no thread. It is only turned into slices
// by `Pool::bytes` and `Pool::bytes_mut`, which need the one handle of a buffer, wherever that is.
unsafe impl Send for Memory {}
// SAFETY: as above: through a shared reference nothing is reached without the handle of the buffer.
unsafe impl Sync for Memory {}

static NEXT_ID: AtomicU32 = AtomicU32::new(0);

impl Pool {
    /// One pool, with the handle of every buffer.
    pub fn new(buffers: u16) -> io::Result<(Self, Vec<Unfilled>)> {
        let mut pools = Self::shared(1, buffers)?;
        Ok(pools.pop().expect("one was asked for"))
    }

    /// The pools of `workers` workers in one mapping, with the handles of each one's own buffers.
    pub fn shared(workers: usize, buffers: u16) -> io::Result<Vec<(Self, Vec<Unfilled>)>> {
        let each = u32::from(buffers);
        let all = u32::try_from(workers).unwrap_or(u32::MAX).saturating_mul(each);
        let memory = Arc::new(Memory::map(all)?);
        let id = memory.id;
        let pool = |first: u32| {
            let handles = (first..first + each).map(|index| Unfilled { index, pool: id });
            (Self { memory: Arc::clone(&memory), first, buffers }, handles.collect())
        };
        Ok((0..all).step_by(usize::from(buffers)).map(pool).collect())
    }

    /// Number of its own buffers.
    pub fn buffers(&self) -> u16 {
        self.buffers
    }

    /// What was received.
    #[inline]
    pub fn bytes<'a>(&'a self, filled: &'a Filled) -> &'a [u8] {
        let start = self.address(filled.index, filled.pool, filled.start);
        // SAFETY: `address` checked that the handle is of this mapping, and `Filled` keeps start + bytes
        // inside its buffer, so the range is inside the mapping, which lives as long as `self` and was
        // zeroed by the kernel. Only the one handle of a buffer reaches its bytes, it is borrowed
        // here for as long as the slice lives, and the kernel writes only into buffers without a
        // `Filled`.
        unsafe { std::slice::from_raw_parts(start, filled.bytes as usize) }
    }

    /// What was received, to be edited in place.
    #[inline]
    pub fn bytes_mut<'a>(&'a self, filled: &'a mut Filled) -> &'a mut [u8] {
        let start = self.address(filled.index, filled.pool, filled.start);
        // SAFETY: as in `bytes`, and the handle is borrowed exclusively for as long as the slice lives:
        // no other slice of this buffer exists. Buffers do not overlap.
        unsafe { std::slice::from_raw_parts_mut(start, filled.bytes as usize) }
    }

    /// Where the kernel may write a datagram: [`DATAGRAM_ROOM`] bytes behind the headroom.
    pub fn datagram_address(&self, buffer: &Unfilled) -> *mut u8 {
        self.address(buffer.index, buffer.pool, to_u32(HEADROOM))
    }

    /// Gives these buffers their memory now, so that no frame waits for it. Where the kernel cannot
    /// (before Linux 5.14), frames wait.
    pub fn prefault(&self, buffers: &[Unfilled]) {
        for buffer in buffers {
            let start = self.address(buffer.index, buffer.pool, 0);
            let into_page = start.addr() % PAGE_BYTES;
            let page = start.wrapping_sub(into_page).cast();
            let bytes = into_page + BUFFER_BYTES;
            // SAFETY: from the start of the page in which the buffer begins, which is part of the
            // mapping as its first page is, to the buffer's end. The call changes no byte.
            unsafe { libc::madvise(page, bytes, libc::MADV_POPULATE_WRITE) };
        }
    }

    /// Whether the buffer is one of this worker's own.
    #[inline]
    pub fn is_home(&self, filled: &Filled) -> bool {
        filled.pool == self.memory.id
            && (self.first..self.first + u32::from(self.buffers)).contains(&filled.index)
    }

    /// The number of the worker whose buffer it is.
    #[inline]
    pub fn home_of(&self, filled: &Filled) -> usize {
        (filled.index / u32::from(self.buffers)) as usize
    }

    /// Gives one of its own buffers to the kernel: the number by which [`Pool::reclaim`] knows it, and
    /// the address `offset` bytes into it.
    pub fn lend(&self, buffer: Unfilled, offset: u32) -> (u16, *mut u8) {
        let number = buffer.index.wrapping_sub(self.first);
        let number = u16::try_from(number).ok().filter(|&number| number < self.buffers);
        let number = number.expect("only the home worker lends a buffer");
        (number, self.address(buffer.index, buffer.pool, offset))
    }

    /// Takes a buffer back that was lent.
    ///
    /// # Safety
    /// `number` came from [`Pool::lend`] of this pool, the kernel has finished with that buffer, and it
    /// was not reclaimed since.
    pub unsafe fn reclaim(&self, number: u16) -> Unfilled {
        assert!(number < self.buffers, "the kernel returned a buffer that does not exist");
        Unfilled { index: self.first + u32::from(number), pool: self.memory.id }
    }

    /// Keeps the memory mapped for ever: for a kernel that would not finish with lent buffers.
    pub fn leak(&self) {
        self.memory.leaked.store(true, Relaxed);
    }

    #[inline]
    fn address(&self, index: u32, pool: u32, offset: u32) -> *mut u8 {
        let memory = &*self.memory;
        assert!(pool == memory.id && index < memory.buffers, "a buffer of another pool");
        let at = index as usize * BUFFER_BYTES + offset as usize;
        // SAFETY: index < buffers and offset < BUFFER_BYTES (handles keep it so), hence `at` is inside
        // the mapping of buffers x BUFFER_BYTES bytes.
        unsafe { memory.base.as_ptr().add(at) }
    }
}

impl Memory {
    fn map(buffers: u32) -> io::Result<Self> {
        // Miri knows no more of it than this.
        let sparing = if cfg!(miri) { 0 } else { libc::MAP_NORESERVE };
        // SAFETY: a fresh anonymous mapping at an address the kernel chooses touches nothing of ours.
        let mapped = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                buffers as usize * BUFFER_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | sparing,
                -1,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(mapped.cast::<u8>()).ok_or_else(io::Error::last_os_error)?;
        let id = NEXT_ID.fetch_add(1, Relaxed);
        Ok(Self { base, buffers, id, leaked: AtomicBool::new(false) })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if *self.leaked.get_mut() {
            return;
        }
        let bytes = self.buffers as usize * BUFFER_BYTES;
        // SAFETY: exactly the mapping made in `map`. The last pool is gone, and with it every slice;
        // whoever lent buffers to the kernel has them back or called `leak`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), bytes) };
    }
}

impl Unfilled {
    /// The kernel wrote a datagram of `bytes` at [`Pool::datagram_address`].
    pub fn filled(self, bytes: usize) -> Filled {
        assert!(bytes <= DATAGRAM_ROOM, "the kernel wrote past the buffer");
        self.part(to_u32(HEADROOM), to_u32(bytes))
    }

    /// All of the buffer from `start` on, for what the kernel wrote in front of a datagram.
    pub fn all_from(self, start: u32) -> Filled {
        assert!((start as usize) < BUFFER_BYTES);
        self.part(start, to_u32(BUFFER_BYTES) - start)
    }

    fn part(self, start: u32, bytes: u32) -> Filled {
        Filled { index: self.index, pool: self.pool, start, bytes }
    }
}

impl Filled {
    /// Adds room for a header in front and the end-to-end tag behind a datagram that enters.
    #[must_use = "the handle is the buffer"]
    pub fn widened(self) -> Self {
        let (front, back) = (to_u32(HEADER_BYTES), to_u32(END_TAG_BYTES));
        assert!(self.start >= front, "no room for a header");
        assert!((self.start + self.bytes + back) as usize <= BUFFER_BYTES, "no room for the tag");
        Self { start: self.start - front, bytes: self.bytes + front + back, ..self }
    }

    /// Only `part` of the datagram.
    #[must_use = "the handle is the buffer"]
    pub fn narrowed(self, part: Range<usize>) -> Self {
        assert!(
            part.start <= part.end && part.end <= self.bytes as usize,
            "not inside the datagram"
        );
        let bytes = to_u32(part.end - part.start);
        Self { start: self.start + to_u32(part.start), bytes, ..self }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.bytes as usize
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub fn released(self) -> Unfilled {
        Unfilled { index: self.index, pool: self.pool }
    }
}

const fn to_u32(bytes: usize) -> u32 {
    assert!(bytes <= BUFFER_BYTES);
    #[expect(clippy::cast_possible_truncation, reason = "at most BUFFER_BYTES")]
    {
        bytes as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_widened_in_place_and_its_payload_found_again() {
        let (pool, mut free) = Pool::new(2).unwrap();
        let mut filled = free.pop().unwrap().filled(5);
        pool.bytes_mut(&mut filled).copy_from_slice(b"hello");
        let mut frame = filled.widened();
        assert_eq!(frame.len(), HEADER_BYTES + 5 + END_TAG_BYTES);
        pool.bytes_mut(&mut frame)[..HEADER_BYTES].fill(0xff);
        let payload = frame.narrowed(HEADER_BYTES..HEADER_BYTES + 5);
        assert_eq!(pool.bytes(&payload), b"hello");
        free.push(payload.released());
        assert_eq!(free.len(), 2);
    }

    #[test]
    fn the_largest_datagram_has_room_for_header_and_tag() {
        let (pool, mut free) = Pool::new(1).unwrap();
        let mut frame = free.pop().unwrap().filled(DATAGRAM_ROOM).widened();
        pool.bytes_mut(&mut frame).fill(1);
        assert_eq!(pool.bytes(&frame).len(), DATAGRAM_ROOM + HEADER_BYTES + END_TAG_BYTES);
    }

    #[test]
    fn buffers_do_not_overlap() {
        let (pool, mut free) = Pool::new(3).unwrap();
        let mut filled: Vec<Filled> = free.drain(..).map(|b| b.all_from(0)).collect();
        for (value, buffer) in (1u8..).zip(&mut filled) {
            pool.bytes_mut(buffer).fill(value);
        }
        for (value, buffer) in (1u8..).zip(&filled) {
            assert!(pool.bytes(buffer).iter().all(|&b| b == value));
        }
    }

    #[test]
    fn a_buffer_moves_to_another_worker_and_is_lent_at_home_only() {
        let mut pools = Pool::shared(2, 2).unwrap();
        let (other, _handles) = pools.pop().unwrap();
        let (home, mut handles) = pools.pop().unwrap();
        let mut filled = handles.pop().unwrap().filled(3);
        home.bytes_mut(&mut filled).copy_from_slice(b"abc");
        assert_eq!(other.bytes(&filled), b"abc");
        assert!(home.is_home(&filled) && !other.is_home(&filled));
        assert_eq!((home.home_of(&filled), other.home_of(&filled)), (0, 0));
        let (number, _) = home.lend(filled.released(), 0);
        // SAFETY: lent just now, and no kernel has it.
        let again = unsafe { home.reclaim(number) };
        assert_eq!(home.bytes(&again.filled(3)), b"abc");
        let foreign = std::panic::catch_unwind(move || other.lend(handles.pop().unwrap(), 0).0);
        assert!(foreign.is_err());
    }

    #[test]
    #[should_panic(expected = "a buffer of another pool")]
    fn a_handle_of_another_pool_is_refused() {
        let (_one, mut handles) = Pool::new(1).unwrap();
        let (other, _handles) = Pool::new(1).unwrap();
        let _ = other.bytes(&handles.pop().unwrap().filled(1));
    }
}
