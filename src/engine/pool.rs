#![allow(unsafe_code, reason = "hands out slices of one mapping that the kernel writes into")]
//! The frame buffers of one worker: a fixed number, made at start, never more.
//!
//! ```text
//! one buffer:   | 128 bytes headroom | datagram, up to 65,535 bytes | 385 bytes spare |
//!                 ▲ 4: io_uring's       ▲ start of what was received   ▲ end-to-end tag of a
//!                 recvmsg_out, address, control data                   datagram that enters
//!                 ▲ 80: header of a datagram that enters
//! ```
//!
//! A received datagram stays where the kernel wrote it: its header is edited there and it is sent from
//! there. Every buffer has exactly one handle, and the handle's type says what may be done with it:
//!
//! ```text
//! Unfilled ──filled()──► Filled ──released()──► Unfilled        (recvmmsg)
//!     └──lend()──► the kernel ──reclaim()──► Unfilled ─...        (io_uring's buffer ring)
//! ```
//!
//! Memory of a worker: 512 buffers x 66,048 B = 32.3 MiB if every buffer once held a large datagram
//! (pages never touched cost nothing), plus less than 1 MiB of message headers and rings.
//!
//! Assumes one thread per pool. Does not decide who gets a buffer: that is the back end's.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::wire::frame::{END_TAG_BYTES, HEADER_BYTES};

/// Bytes in front of a received datagram.
pub const HEADROOM: usize = 128;
/// Bytes a datagram may have: the largest a UDP length field can say. Larger cannot exist.
pub const DATAGRAM_ROOM: usize = 65_535;
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
    index: u16,
    pool: u32,
}

/// A buffer with a datagram: bytes `start .. start + bytes` of it.
#[derive(Debug)]
#[must_use = "a handle that is dropped is a buffer lost for good"]
pub struct Filled {
    index: u16,
    pool: u32,
    start: u32,
    bytes: u32,
}

/// The memory of all buffers of one worker.
#[derive(Debug)]
pub struct Pool {
    base: NonNull<u8>,
    buffers: u16,
    /// Unique in this process: a handle of one pool is useless at another.
    id: u32,
    /// The kernel may still write into it: never unmap.
    leaked: bool,
}

static NEXT_ID: AtomicU32 = AtomicU32::new(0);

impl Pool {
    /// Maps the memory and returns the handle of every buffer.
    pub fn new(buffers: u16) -> io::Result<(Self, Vec<Unfilled>)> {
        let bytes = usize::from(buffers) * BUFFER_BYTES;
        // SAFETY: a fresh anonymous mapping at an address the kernel chooses touches nothing of ours.
        let mapped = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(mapped.cast::<u8>()).ok_or_else(io::Error::last_os_error)?;
        let id = NEXT_ID.fetch_add(1, Relaxed);
        let handles = (0..buffers).map(|index| Unfilled { index, pool: id }).collect();
        Ok((Self { base, buffers, id, leaked: false }, handles))
    }

    pub fn buffers(&self) -> u16 {
        self.buffers
    }

    /// The datagram.
    pub fn bytes(&self, filled: &Filled) -> &[u8] {
        let start = self.address(filled.index, filled.pool, filled.start);
        // SAFETY: `address` checked that the handle is this pool's, and `Filled` keeps start + bytes
        // inside its buffer, so the range is inside the mapping, which lives as long as `self` and was
        // zeroed by the kernel. Only the one handle of a buffer reaches its bytes and it is borrowed
        // here; the kernel writes only into buffers without a `Filled`.
        unsafe { std::slice::from_raw_parts(start, filled.bytes as usize) }
    }

    /// The datagram, to be edited in place.
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

    /// Gives a buffer to the kernel: its number, and the address `offset` bytes into it.
    pub fn lend(&self, buffer: Unfilled, offset: u32) -> (u16, *mut u8) {
        (buffer.index, self.address(buffer.index, buffer.pool, offset))
    }

    /// Takes a buffer back that was lent.
    ///
    /// # Safety
    /// `index` came from [`Pool::lend`] of this pool, the kernel has finished with that buffer, and it
    /// was not reclaimed since.
    pub unsafe fn reclaim(&self, index: u16) -> Unfilled {
        assert!(index < self.buffers, "the kernel returned a buffer that does not exist");
        Unfilled { index, pool: self.id }
    }

    /// Keeps the memory mapped for ever: for a kernel that would not finish with lent buffers.
    pub fn leak(&mut self) {
        self.leaked = true;
    }

    fn address(&self, index: u16, pool: u32, offset: u32) -> *mut u8 {
        assert!(pool == self.id && index < self.buffers, "a buffer of another pool");
        let at = usize::from(index) * BUFFER_BYTES + offset as usize;
        // SAFETY: index < buffers and offset < BUFFER_BYTES (handles keep it so), hence `at` is inside
        // the mapping of buffers x BUFFER_BYTES bytes.
        unsafe { self.base.as_ptr().add(at) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        let bytes = usize::from(self.buffers) * BUFFER_BYTES;
        // SAFETY: exactly the mapping made in `new`; slices of it borrow `self`, so none is left, and
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
    #[should_panic(expected = "a buffer of another pool")]
    fn a_handle_of_another_pool_is_refused() {
        let (_one, mut handles) = Pool::new(1).unwrap();
        let (other, _handles) = Pool::new(1).unwrap();
        let _ = other.bytes(&handles.pop().unwrap().filled(1));
    }
}
