//! What a batch sends: its buffers, the runs made of them, and what became of each frame.
//!
//! ```text
//! hold(buffer) ─► number      push(frame) ─► runs ─► submit: net sends, the books are written
//!                                                    finish: all buffers go home
//! ```
//!
//! A batch owns its buffers until everything it sends has been sent: pieces of one buffer may leave in
//! several runs, and several submissions if there are too many for one. Headers of datagrams that came
//! as a super-buffer from a local program, and have no room of their own in front, are written into
//! one buffer kept for them.
//!
//! A run that the kernel refuses because of its segmentation is sent again frame by frame, and its
//! destination is remembered: frames to it go alone from then on ([`GSO_OFF_MAX`]).
//!
//! Does not judge frames and does not know which system calls are used.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::Range;

use super::pool::{Filled, Unfilled};
use super::runs::{FRAME_PIECES_MAX, Full, Note, Outgoing, Run, Runs, Train};
use super::table::{SocketId, Table};
use crate::limits::{BATCH_MAX, GSO_OFF_MAX, PASSED_PER_TURN};
use crate::net::Net;
use crate::stats::{DropReason, WorkerStats, bump};

/// The number of the buffer for headers.
pub(super) const HEADERS: u16 = 0;

#[derive(Debug)]
pub(super) struct Outbox {
    runs: Runs,
    /// The first is the one for headers; the others are the batch's.
    buffers: Vec<Filled>,
    /// Bytes of the first that hold headers of this submission.
    headers: usize,
    gso_off: GsoOff,
}

impl Outbox {
    /// `headers` is a buffer of the worker's that it keeps for ever.
    pub(super) fn new(headers: Unfilled) -> Self {
        let mut buffers = Vec::with_capacity(1 + BATCH_MAX + PASSED_PER_TURN);
        buffers.push(headers.all_from(0));
        Self { runs: Runs::default(), buffers, headers: 0, gso_off: GsoOff::default() }
    }

    /// The batch has this buffer from now on; the number under which pieces name it.
    pub(super) fn hold(&mut self, buffer: Filled) -> u16 {
        let number = u16::try_from(self.buffers.len()).expect("few buffers in a batch");
        self.buffers.push(buffer);
        number
    }

    #[inline]
    pub(super) fn buffer(&self, number: u16) -> &Filled {
        &self.buffers[usize::from(number)]
    }

    #[inline]
    pub(super) fn buffer_mut(&mut self, number: u16) -> &mut Filled {
        &mut self.buffers[usize::from(number)]
    }

    /// The buffer [`HEADERS`] and another one.
    pub(super) fn with_headers(&mut self, number: u16) -> (&mut Filled, &mut Filled) {
        let (headers, others) =
            self.buffers.split_first_mut().expect("the first is there for ever");
        (headers, &mut others[usize::from(number) - 1])
    }

    /// Room in the buffer [`HEADERS`], for the header of a frame and, behind it, its tag, or for a frame
    /// that waited. `None` if it is used up until the next submission.
    pub(super) fn room(&mut self, bytes: usize) -> Option<Range<usize>> {
        let room = self.headers..self.headers + bytes;
        if room.end > self.buffers[usize::from(HEADERS)].len() {
            return None;
        }
        // The next one lies right behind: a tag and the header after it are one piece of a run.
        self.headers = room.end;
        Some(room)
    }

    /// `Full`: what there is must be submitted first.
    #[inline]
    pub(super) fn push(&mut self, frame: Outgoing<'_>) -> Result<(), Full> {
        let alone = frame.alone || self.gso_off.contains(frame.socket, frame.to);
        self.runs.push(&Outgoing { alone, ..frame })
    }

    /// As [`Outbox::push`], after the submission of what was in its way: the frame's own room is still in
    /// use.
    pub(super) fn push_again(&mut self, frame: Outgoing<'_>) -> Result<(), Full> {
        for piece in frame.pieces.iter().filter(|piece| piece.buffer == HEADERS) {
            self.headers = self.headers.max(piece.range().end);
        }
        self.push(frame)
    }

    /// Datagrams as they came. `Full`: what there is must be submitted first; `train` is the rest.
    #[inline]
    pub(super) fn push_train(&mut self, train: &mut Train) -> Result<(), Full> {
        let alone = self.gso_off.contains(train.socket, train.to);
        self.runs.push_train(train, alone)
    }

    /// Sends what there is and writes the books.
    pub(super) fn submit(
        &mut self,
        net: &mut Net,
        table: &Table,
        stats: &WorkerStats,
    ) -> io::Result<()> {
        if self.runs.is_empty() {
            // Frames that had room and were dropped do not need it any more.
            self.headers = 0;
            return Ok(());
        }
        net.submit(&mut self.runs, &self.buffers)?;
        bump(&stats.sends, self.runs.len() as u64);
        for (index, run) in self.runs.runs().iter().enumerate() {
            stats.relay.send_segments.record(run.segments.into(), 1);
            if run.segments > 1 && refuses_segments(run.errno) {
                bump(&stats.gso_refused, 1);
                self.gso_off.insert(run.socket, run.to);
                if !self.runs.overtaken(index) {
                    self.send_singly(run, net, table);
                    continue;
                }
            }
            for stretch in self.runs.stretches(run) {
                let frames = u64::from(stretch.frames);
                enter_books(stretch.note, frames, stretch.bytes, run.errno, table);
            }
        }
        self.runs.clear();
        self.headers = 0;
        Ok(())
    }

    /// The batch is over: its buffers are free again.
    pub(super) fn finish(&mut self, net: &mut Net) {
        net.release_all(self.buffers.drain(1..));
    }

    /// As [`Outbox::finish`], for one who sends some of them elsewhere: those held, in order.
    pub(super) fn take_buffers(&mut self) -> impl Iterator<Item = Filled> {
        self.buffers.drain(1..)
    }

    /// What was learnt about sends through this socket may be wrong now.
    pub(super) fn forget(&mut self, socket: SocketId) {
        self.gso_off.forget(socket);
    }

    fn send_singly(&self, run: &Run, net: &Net, table: &Table) {
        for frame in self.runs.frames(run) {
            let mut bytes = [IoSlice::new(&[]); FRAME_PIECES_MAX];
            for (bytes, piece) in bytes.iter_mut().zip(frame.pieces()) {
                let buffer = net.pool().bytes(self.buffer(piece.buffer));
                *bytes = IoSlice::new(&buffer[piece.range()]);
            }
            let bytes = &bytes[..frame.pieces().len()];
            let mut sent = net.send_gathered(run.socket, run.to, bytes);
            if sent.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ECONNREFUSED)) {
                sent = net.send_gathered(run.socket, run.to, bytes);
            }
            let errno = sent.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0);
            enter_books(frame.note(), 1, frame.bytes.into(), errno, table);
        }
    }
}

/// Sent, delivered or dropped by name: each frame once.
fn enter_books(note: Note, frames: u64, bytes: u64, errno: i32, table: &Table) {
    let stats = table.stats(note.account);
    match (errno, note.delivered) {
        (0, None) => bump(&stats.sent, frames),
        (0, Some(overhead)) => {
            bump(&stats.delivered, frames);
            bump(&stats.bytes_out, bytes - u64::from(overhead) * frames);
        }
        (libc::EAGAIN | libc::ENOBUFS, _) => stats.drop_frames(DropReason::SocketFull, frames),
        _ => stats.drop_frames(DropReason::SendError, frames),
    }
}

/// What kernels say to a send whose segments they or the device cannot make, or that are larger than
/// the MTU: EIO without checksum offload, EINVAL or, of late, EMSGSIZE for the size.
fn refuses_segments(errno: i32) -> bool {
    matches!(errno, libc::EIO | libc::EINVAL | libc::EMSGSIZE)
}

/// Destinations to which frames go one by one, oldest first.
#[derive(Debug)]
struct GsoOff(Vec<(SocketId, SocketAddr)>);

impl Default for GsoOff {
    fn default() -> Self {
        Self(Vec::with_capacity(GSO_OFF_MAX))
    }
}

impl GsoOff {
    #[inline]
    fn contains(&self, socket: SocketId, to: SocketAddr) -> bool {
        !self.0.is_empty() && self.0.contains(&(socket, to))
    }

    fn insert(&mut self, socket: SocketId, to: SocketAddr) {
        if self.0.contains(&(socket, to)) {
            return;
        }
        if self.0.len() == GSO_OFF_MAX {
            self.0.remove(0);
        }
        self.0.push((socket, to));
    }

    fn forget(&mut self, socket: SocketId) {
        self.0.retain(|&(of, _)| of != socket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::pool::Pool;
    use crate::engine::runs::Piece;

    #[test]
    fn room_of_a_frame_that_had_to_wait_for_a_submission_is_not_given_away() {
        let (_pool, mut free) = Pool::new(1).unwrap();
        let mut outbox = Outbox::new(free.pop().unwrap());
        let first = outbox.room(100).unwrap();
        let room = outbox.room(64).unwrap();
        assert_eq!((first, room.clone()), (0..100, 100..164));
        // As a submission leaves it.
        outbox.headers = 0;
        let mut table = Table::default();
        let note = Note { account: table.open_account(std::sync::Arc::default()), delivered: None };
        let to = SocketAddr::from(([127, 0, 0, 1], 1));
        let pieces = &[Piece::new(5, 0..9), Piece::new(HEADERS, room)];
        let frame = Outgoing { socket: SocketId(0), to, pieces, note, alone: false };
        assert_eq!(outbox.push_again(frame), Ok(()));
        assert_eq!(outbox.room(64), Some(164..228));
        assert_eq!(outbox.room(66_000), None);
    }

    #[test]
    fn destinations_without_gso_are_few_and_the_oldest_is_forgotten() {
        let mut off = GsoOff::default();
        let to = |port| SocketAddr::from(([127, 0, 0, 1], port));
        for port in 1..=64 {
            off.insert(SocketId(0), to(port));
        }
        off.insert(SocketId(0), to(1));
        assert!(off.contains(SocketId(0), to(1)) && !off.contains(SocketId(1), to(1)));
        off.insert(SocketId(1), to(65));
        assert!(!off.contains(SocketId(0), to(1)) && off.contains(SocketId(0), to(2)));
        off.forget(SocketId(0));
        assert_eq!(off.0, [(SocketId(1), to(65))]);
    }
}
