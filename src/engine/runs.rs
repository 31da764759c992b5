//! Frames to runs: what one call to the kernel can send.
//!
//! ```text
//! frames of a batch    a1 a2 b1 a3 c1 a4'            (to next hops a, b, c; a4' shorter than a3)
//! runs                 [a1 a2 a3 a4'] [b1] [c1]      one send each, cut by the kernel at `segment`
//! ```
//!
//! A run has one socket and one destination, frames of one length (only the last may be shorter), at
//! most [`RUN_SEGMENTS_MAX`] of them and [`RUN_BYTES_MAX`] bytes. A destination has at most one run that
//! still takes frames, and its runs are sent in the order they were begun: frames to one destination are
//! never reordered, those to different ones may be.
//!
//! A run does not hold bytes: it is a list of [`Piece`]s, ranges of the buffers of the batch. Ranges
//! that lie behind each other become one, so a super-buffer that goes one way untouched is one piece.
//! Beside the pieces lies what its frames mean to the books ([`Stretch`]).
//!
//! Pure, and everything is allocated at the start. When something is full, [`Runs::push`] says so; the
//! caller sends what there is and starts again. Work per frame is bounded whatever the number of
//! destinations: looking one up tries at most [`PROBES`] places.

use core::net::{IpAddr, SocketAddr};
use core::ops::Range;

use super::table::{Account, SocketId};
use crate::limits::{NOTES_MAX, PIECES_MAX, RUN_BYTES_MAX, RUN_SEGMENTS_MAX, RUNS_MAX};

/// A part of one buffer of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Number of the buffer in the batch.
    pub buffer: u16,
    /// From the start of what the buffer's handle says was received.
    pub start: u32,
    pub bytes: u32,
}

impl Piece {
    #[inline]
    pub fn new(buffer: u16, range: Range<usize>) -> Self {
        let bytes = u32::try_from(range.len()).expect("a range of one buffer");
        Self { buffer, start: u32::try_from(range.start).expect("inside a buffer"), bytes }
    }

    #[inline]
    pub fn range(self) -> Range<usize> {
        self.start as usize..(self.start + self.bytes) as usize
    }
}

/// What a frame means to the books.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    pub account: Account,
    /// `None`: sent to a neighbour. Otherwise it leaves the overlay, and this many of its bytes are not
    /// payload.
    pub delivered: Option<u16>,
}

/// Frames behind each other that mean the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    pub note: Note,
    pub frames: u32,
    pub bytes: u64,
    next: u32,
}

/// A frame to be sent: where to, and its bytes as pieces, at most [`FRAME_PIECES_MAX`].
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    pub socket: SocketId,
    pub to: SocketAddr,
    pub pieces: &'a [Piece],
    pub note: Note,
    /// Not to be merged with others, whatever the sizes.
    pub alone: bool,
}

/// Datagrams that lie behind each other in one buffer and go the same way: a super-buffer as it came.
#[derive(Clone, Copy, Debug)]
pub struct Train {
    pub socket: SocketId,
    pub to: SocketAddr,
    pub piece: Piece,
    /// Bytes of each; the last may have fewer.
    pub segment: u16,
    pub note: Note,
}

impl Train {
    fn skip(&mut self, bytes: u32) {
        self.piece.start += bytes;
        self.piece.bytes -= bytes;
    }
}

/// Header, payload and tag of a frame may lie in different places.
pub const FRAME_PIECES_MAX: usize = 3;

/// Frames that are sent with one call.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub socket: SocketId,
    pub to: SocketAddr,
    /// Bytes of each frame; the last may have fewer.
    pub segment: u16,
    pub segments: u16,
    pub bytes: u32,
    /// 0, or the errno the kernel refused it with; the back end sets it.
    pub errno: i32,
    /// Whether it still takes frames.
    open: bool,
    /// First and last, in `pieces` and in `stretches`.
    pieces: (u32, u32),
    stretches: (u32, u32),
}

/// No room: what there is must be sent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

#[derive(Debug)]
pub struct Runs {
    runs: Vec<Run>,
    pieces: Vec<Link>,
    stretches: Vec<Stretch>,
    /// The newest run of each destination, found by its hash.
    places: Box<[Place]>,
    /// Places of earlier generations are empty.
    generation: u32,
    /// The run the last frame went to.
    last: usize,
}

/// A piece of a run and the next one's number.
#[derive(Clone, Copy, Debug)]
struct Link {
    piece: Piece,
    next: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    generation: u32,
    run: u32,
}

const END: u32 = u32::MAX;
/// Twice the runs, so that most destinations are found at once; a power of two.
const PLACES: usize = 2 * RUNS_MAX;
/// Whoever chooses addresses with equal hashes fills these and gets smaller batches, no slower ones.
const PROBES: usize = 8;

impl Default for Runs {
    fn default() -> Self {
        Self {
            runs: Vec::with_capacity(RUNS_MAX),
            pieces: Vec::with_capacity(PIECES_MAX),
            stretches: Vec::with_capacity(NOTES_MAX),
            places: vec![Place::default(); PLACES].into_boxed_slice(),
            generation: 1,
            last: 0,
        }
    }
}

impl Runs {
    /// Adds a frame behind the others to the same destination.
    #[inline]
    pub fn push(&mut self, frame: &Outgoing<'_>) -> Result<(), Full> {
        debug_assert!(frame.pieces.len() <= FRAME_PIECES_MAX, "a frame has few pieces");
        let room = self.pieces.len() + frame.pieces.len() <= PIECES_MAX;
        if !room || self.stretches.len() == NOTES_MAX {
            return Err(Full);
        }
        let bytes = frame.pieces.iter().map(|piece| piece.bytes).sum();
        // Most frames go where the one before went.
        let near = self.runs.get(self.last).is_some_and(|run| run.goes(frame.socket, frame.to));
        if !near {
            match self.find(frame.socket, frame.to).ok_or(Full)? {
                Ok(run) => self.last = run,
                Err(place) => return self.begin(frame, bytes, Some(place)),
            }
        }
        if frame.alone || !self.runs[self.last].takes(bytes) {
            return self.begin(frame, bytes, None);
        }
        self.append(frame, bytes);
        Ok(())
    }

    /// Adds datagrams that lie behind each other in one buffer: as [`Runs::push`] for each of them, but
    /// at the price of one for each run they fill. When it is `Full`, `train` has what found no room.
    pub fn push_train(&mut self, train: &mut Train, alone: bool) -> Result<(), Full> {
        loop {
            let segment = u32::from(train.segment).min(train.piece.bytes);
            let first = [Piece { bytes: segment, ..train.piece }];
            let Train { socket, to, note, .. } = *train;
            self.push(&Outgoing { socket, to, pieces: &first, note, alone })?;
            train.skip(segment);
            if !alone {
                self.extend(train);
            }
            if train.piece.bytes == 0 {
                return Ok(());
            }
        }
    }

    /// Adds as much of the train as the run takes to which its last datagram went.
    fn extend(&mut self, train: &mut Train) {
        let run = &mut self.runs[self.last];
        let segment = u32::from(train.segment);
        if !run.open || u32::from(run.segment) != segment {
            return;
        }
        let room = u32::from(RUN_SEGMENTS_MAX - run.segments)
            .min(RUN_BYTES_MAX.saturating_sub(run.bytes) / segment);
        let bytes = train.piece.bytes.min(room * segment);
        let segments = bytes.div_ceil(segment);
        run.segments += u16::try_from(segments).expect("no more than fit");
        run.bytes += bytes;
        run.open = bytes % segment == 0;
        // The first of them is the last in both lists.
        self.pieces[run.pieces.1 as usize].piece.bytes += bytes;
        let stretch = &mut self.stretches[run.stretches.1 as usize];
        stretch.frames += segments;
        stretch.bytes += u64::from(bytes);
        train.skip(bytes);
    }

    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// In the order in which they are to be sent.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The kernel refused this run with `errno`, or took it after all with 0.
    pub fn set_errno(&mut self, run: usize, errno: i32) {
        self.runs[run].errno = errno;
    }

    /// Whether frames behind those of this run have reached the same destination. To send it now would
    /// put frames of one channel out of order.
    pub fn overtaken(&self, run: usize) -> bool {
        let (run, behind) = (&self.runs[run], &self.runs[run + 1..]);
        behind.iter().any(|later| later.errno == 0 && later.goes(run.socket, run.to))
    }

    /// The bytes of a run, in order.
    pub fn pieces(&self, run: &Run) -> impl Iterator<Item = Piece> {
        let mut next = run.pieces.0;
        std::iter::from_fn(move || {
            let link = self.pieces.get(next as usize)?;
            next = link.next;
            Some(link.piece)
        })
    }

    /// What the frames of a run mean, in order.
    pub fn stretches(&self, run: &Run) -> impl Iterator<Item = Stretch> {
        let mut next = run.stretches.0;
        std::iter::from_fn(move || {
            let stretch = self.stretches.get(next as usize)?;
            next = stretch.next;
            Some(*stretch)
        })
    }

    /// The frames of a run one by one, to be sent on their own.
    pub fn frames(&self, run: &Run) -> impl Iterator<Item = Single> {
        let (segment, mut left) = (u32::from(run.segment), run.bytes);
        let mut pieces = self.pieces(run);
        let mut stretches = self.stretches(run);
        let (mut rest, mut stretch) = (None::<Piece>, None::<Stretch>);
        (0..run.segments).map(move |_| {
            let mut frame = Single::new(segment.min(left));
            left -= frame.bytes;
            while frame.missing() > 0 {
                let whole =
                    rest.take().or_else(|| pieces.next()).expect("as many bytes as counted");
                rest = frame.take(whole);
            }
            let mut now = stretch.take().or_else(|| stretches.next()).expect("each is noted");
            frame.note = Some(now.note);
            now.frames -= 1;
            stretch = (now.frames > 0).then_some(now);
            frame
        })
    }

    pub fn clear(&mut self) {
        self.runs.clear();
        self.pieces.clear();
        self.stretches.clear();
        self.last = 0;
        self.generation = self.generation.wrapping_add(1);
        if self.generation == 0 {
            self.places.fill(Place::default());
            self.generation = 1;
        }
    }

    /// The newest run to this destination, or the place for the number of one; `None` if too many
    /// others lie in the way.
    fn find(&self, socket: SocketId, to: SocketAddr) -> Option<Result<usize, usize>> {
        let start = hash(socket, to);
        for probe in 0..PROBES {
            let place = (start + probe) % PLACES;
            let Place { generation, run } = self.places[place];
            if generation != self.generation {
                return Some(Err(place));
            }
            if self.runs[run as usize].goes(socket, to) {
                return Some(Ok(self.places[place].run as usize));
            }
        }
        None
    }

    /// A new run, found from now on at `place`, or where the one before it was.
    fn begin(
        &mut self,
        frame: &Outgoing<'_>,
        bytes: u32,
        place: Option<usize>,
    ) -> Result<(), Full> {
        if self.runs.len() == RUNS_MAX {
            return Err(Full);
        }
        let place = match place {
            Some(place) => place,
            None => self.place_of(frame.socket, frame.to),
        };
        self.last = self.runs.len();
        let run = number(self.last);
        self.places[place] = Place { generation: self.generation, run };
        self.runs.push(Run {
            socket: frame.socket,
            to: frame.to,
            // What is longer than any datagram goes alone, to be refused.
            segment: u16::try_from(bytes).unwrap_or(u16::MAX),
            segments: 0,
            bytes: 0,
            errno: 0,
            // Nothing can follow an empty datagram: it has no length to cut at.
            open: !frame.alone && bytes > 0,
            pieces: (END, END),
            stretches: (END, END),
        });
        self.append(frame, bytes);
        Ok(())
    }

    fn place_of(&self, socket: SocketId, to: SocketAddr) -> usize {
        let start = hash(socket, to);
        let mut places = (0..PROBES).map(|probe| (start + probe) % PLACES);
        let holds = |place: &usize| {
            let Place { generation, run } = self.places[*place];
            generation == self.generation && self.runs[run as usize].goes(socket, to)
        };
        places.find(holds).expect("a destination with a run has a place")
    }

    #[inline]
    fn append(&mut self, frame: &Outgoing<'_>, bytes: u32) {
        let run = &mut self.runs[self.last];
        run.segments += 1;
        run.bytes += bytes;
        if bytes < u32::from(run.segment) {
            run.open = false;
        }
        for &piece in frame.pieces {
            let last = self.pieces.get_mut(run.pieces.1 as usize);
            if let Some(Link { piece: last, .. }) = last
                && last.buffer == piece.buffer
                && last.start + last.bytes == piece.start
            {
                last.bytes += piece.bytes;
                continue;
            }
            let number = number(self.pieces.len());
            self.pieces.push(Link { piece, next: END });
            match self.pieces.get_mut(run.pieces.1 as usize) {
                Some(last) => last.next = number,
                None => run.pieces.0 = number,
            }
            run.pieces.1 = number;
        }
        let number = number(self.stretches.len());
        match self.stretches.get_mut(run.stretches.1 as usize) {
            Some(last) if last.note == frame.note => {
                last.frames += 1;
                last.bytes += u64::from(bytes);
                return;
            }
            Some(last) => last.next = number,
            None => run.stretches.0 = number,
        }
        run.stretches.1 = number;
        let note = frame.note;
        self.stretches.push(Stretch { note, frames: 1, bytes: bytes.into(), next: END });
    }
}

impl Run {
    #[inline]
    fn goes(&self, socket: SocketId, to: SocketAddr) -> bool {
        self.to == to && self.socket == socket
    }

    #[inline]
    fn takes(&self, bytes: u32) -> bool {
        self.open
            && bytes > 0
            && bytes <= u32::from(self.segment)
            && self.segments < RUN_SEGMENTS_MAX
            && self.bytes + bytes <= RUN_BYTES_MAX
    }
}

/// A frame of a run by itself.
#[derive(Clone, Copy, Debug)]
pub struct Single {
    pub bytes: u32,
    pieces: [Piece; FRAME_PIECES_MAX],
    count: usize,
    note: Option<Note>,
}

impl Single {
    fn new(bytes: u32) -> Self {
        let none = Piece { buffer: 0, start: 0, bytes: 0 };
        Self { bytes, pieces: [none; FRAME_PIECES_MAX], count: 0, note: None }
    }

    pub fn pieces(&self) -> &[Piece] {
        &self.pieces[..self.count]
    }

    pub fn note(&self) -> Note {
        self.note.expect("set when it was made")
    }

    fn missing(&self) -> u32 {
        self.bytes - self.pieces().iter().map(|piece| piece.bytes).sum::<u32>()
    }

    /// Takes of `piece` what it lacks and returns the rest.
    fn take(&mut self, piece: Piece) -> Option<Piece> {
        let bytes = piece.bytes.min(self.missing());
        self.pieces[self.count] = Piece { bytes, ..piece };
        self.count += 1;
        let rest = piece.bytes - bytes;
        (rest > 0).then_some(Piece { start: piece.start + bytes, bytes: rest, ..piece })
    }
}

/// Where the search for a destination starts.
#[inline]
fn hash(socket: SocketId, to: SocketAddr) -> usize {
    let (high, low) = match to.ip() {
        IpAddr::V4(ip) => (0, u64::from(ip.to_bits())),
        IpAddr::V6(ip) => {
            let [a, b, c, d, e, f, g, h, rest @ ..] = ip.octets();
            (u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes(rest))
        }
    };
    let ends = u64::from(socket.0) << 16 | u64::from(to.port());
    let mixed = (low ^ ends.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ (high ^ ends).wrapping_mul(0xc2b2_ae3d_27d4_eb4f).rotate_left(29);
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as usize % PLACES
}

fn number(index: usize) -> u32 {
    u32::try_from(index).expect("arrays here are small")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::engine::Target;
    use crate::engine::shaper::Policer;
    use crate::engine::table::Table;
    use crate::types::{Bandwidth, Label, LinkId};

    /// Accounts can only be had from a table.
    fn accounts(count: u64) -> Vec<Account> {
        let mut table = Table::default();
        let hop = Target::Hop { link: LinkId(1), label: Label(1), port: 1 };
        (0..count)
            .map(|number| {
                let policer = Policer::at_hop(Bandwidth::MAX, 1);
                table.add_label(Label(number), LinkId(0), hop.clone(), policer, Arc::default());
                table.route(Label(number)).unwrap().account
            })
            .collect()
    }

    fn note(account: Account) -> Note {
        Note { account, delivered: None }
    }

    fn to(port: u16) -> SocketAddr {
        SocketAddr::from(([198, 18, 0, 1], port))
    }

    fn push(runs: &mut Runs, port: u16, piece: Piece, note: Note) -> Result<(), Full> {
        let (socket, pieces) = (SocketId(0), &[piece]);
        runs.push(&Outgoing { socket, to: to(port), pieces, note, alone: false })
    }

    #[test]
    fn an_untouched_super_buffer_is_one_piece_of_one_run() {
        let note = note(accounts(1)[0]);
        let mut runs = Runs::default();
        for index in 0..10 {
            push(&mut runs, 1, Piece::new(3, index * 200..index * 200 + 200), note).unwrap();
        }
        push(&mut runs, 1, Piece::new(3, 2_000..2_150), note).unwrap();
        let [run] = runs.runs() else { panic!("{:?}", runs.runs()) };
        assert_eq!((run.segment, run.segments, run.bytes), (200, 11, 2_150));
        assert_eq!(runs.pieces(run).collect::<Vec<_>>(), [Piece::new(3, 0..2_150)]);
        let stretch = runs.stretches(run).next().unwrap();
        assert_eq!((stretch.frames, stretch.bytes), (11, 2_150));
        // The last was shorter: nothing follows it.
        push(&mut runs, 1, Piece::new(3, 2_150..2_300), note).unwrap();
        assert_eq!(runs.len(), 2);
    }

    #[test]
    fn a_super_buffer_of_128_segments_is_split_into_runs_of_64() {
        let note = note(accounts(1)[0]);
        let mut runs = Runs::default();
        for index in 0..128 {
            push(&mut runs, 1, Piece::new(0, index * 100..index * 100 + 100), note).unwrap();
        }
        assert_eq!(runs.runs().iter().map(|run| run.segments).collect::<Vec<_>>(), [64, 64]);
    }

    #[test]
    fn a_thousand_destinations_cost_a_bounded_look_up_each() {
        let note = note(accounts(1)[0]);
        let (mut runs, mut sent) = (Runs::default(), 0);
        for round in 0..4 {
            for port in 1..=1_000 {
                if push(&mut runs, port, Piece::new(round, 0..100), note) == Err(Full) {
                    sent += runs.len();
                    assert!(runs.len() > 100, "batches stay large: {}", runs.len());
                    runs.clear();
                    push(&mut runs, port, Piece::new(round, 0..100), note).unwrap();
                }
            }
        }
        assert!(sent + runs.len() <= 4_000);
    }

    #[test]
    fn frames_of_several_pieces_come_apart_again() {
        let accounts = accounts(2);
        let mut runs = Runs::default();
        // As at an entry: header and tag in buffer 0, payload in buffer 7.
        for index in 0..5 {
            let header = index * 64;
            let pieces = [
                Piece::new(0, header..header + 48),
                Piece::new(7, index * 100..index * 100 + 100),
                Piece::new(0, header + 48..header + 64),
            ];
            let note = note(accounts[index / 3]);
            let frame =
                Outgoing { socket: SocketId(0), to: to(1), pieces: &pieces, note, alone: false };
            runs.push(&frame).unwrap();
        }
        let run = runs.runs()[0];
        assert_eq!((run.segments, run.bytes), (5, 5 * 164));
        assert_eq!(runs.pieces(&run).count(), 11, "a tag and the next header are one piece");
        for (index, frame) in runs.frames(&run).enumerate() {
            let header = index * 64;
            assert_eq!(
                frame.pieces(),
                [
                    Piece::new(0, header..header + 48),
                    Piece::new(7, index * 100..index * 100 + 100),
                    Piece::new(0, header + 48..header + 64),
                ]
            );
            assert_eq!(frame.note(), note(accounts[index / 3]));
        }
    }

    #[derive(Clone, Debug)]
    struct Input {
        port: u16,
        bytes: u32,
        account: usize,
        alone: bool,
        adjacent: bool,
    }

    fn inputs() -> impl Strategy<Value = Vec<Input>> {
        let bytes = prop_oneof![Just(0u32), Just(200), 1..2_000u32, 60_000..65_507u32];
        let one = (0..6u16, bytes, 0..3usize, prop::bool::weighted(0.1), any::<bool>());
        let input = one.prop_map(|(port, bytes, account, alone, adjacent)| Input {
            port,
            bytes,
            account,
            alone,
            adjacent,
        });
        prop::collection::vec(input, 0..600)
    }

    /// (port, bytes, account) of every frame sent.
    type Sent = BTreeMap<u16, Vec<(u32, Note)>>;

    fn check_and_clear(runs: &mut Runs, sent: &mut Sent) {
        assert!(runs.len() <= RUNS_MAX);
        for run in runs.runs() {
            assert!(run.segments <= RUN_SEGMENTS_MAX);
            assert!(run.segments == 1 || run.bytes <= RUN_BYTES_MAX);
            let lengths: Vec<u32> = runs.frames(run).map(|frame| frame.bytes).collect();
            assert_eq!(lengths.len(), usize::from(run.segments));
            let (last, others) = lengths.split_last().unwrap();
            assert!(others.iter().all(|&bytes| bytes == u32::from(run.segment)));
            assert!(*last <= u32::from(run.segment));
            assert_eq!(runs.pieces(run).map(|piece| piece.bytes).sum::<u32>(), run.bytes);
            let noted: u32 = runs.stretches(run).map(|stretch| stretch.frames).sum();
            assert_eq!(noted, u32::from(run.segments));
            let frames = runs.frames(run).map(|frame| (frame.bytes, frame.note()));
            sent.entry(run.to.port()).or_default().extend(frames);
        }
        runs.clear();
    }

    proptest! {
        #[test]
        fn a20_frames_to_one_destination_are_all_sent_once_in_their_order(inputs in inputs()) {
            let accounts = accounts(3);
            let (mut runs, mut sent, mut expected) = (Runs::default(), Sent::new(), Sent::new());
            let mut start = 0;
            for input in inputs {
                start += u32::from(!input.adjacent);
                let piece = Piece { buffer: 1, start, bytes: input.bytes };
                start += input.bytes;
                let note = note(accounts[input.account]);
                let pieces = &[piece];
                let (socket, to, alone) = (SocketId(0), to(input.port), input.alone);
                let frame = Outgoing { socket, to, pieces, note, alone };
                if runs.push(&frame).is_err() {
                    check_and_clear(&mut runs, &mut sent);
                    runs.push(&frame).unwrap();
                }
                expected.entry(input.port).or_default().push((input.bytes, note));
            }
            check_and_clear(&mut runs, &mut sent);
            prop_assert_eq!(sent, expected);
        }

        #[test]
        fn a20_a_train_makes_the_runs_that_its_datagrams_one_by_one_would(trains in trains()) {
            let accounts = accounts(3);
            let (mut whole, mut singly) = (Runs::default(), Runs::default());
            for (buffer, (port, segment, bytes, account)) in (1..).zip(trains) {
                let (socket, to, note) = (SocketId(0), to(port), note(accounts[account]));
                let piece = Piece { buffer, start: 0, bytes };
                let mut train = Train { socket, to, piece, segment, note };
                whole.push_train(&mut train, false).unwrap();
                prop_assert_eq!(train.piece.bytes, 0);
                let mut start = 0;
                while start < bytes || bytes == 0 {
                    let bytes = u32::from(segment).min(bytes - start);
                    let pieces = &[Piece { buffer, start, bytes }];
                    singly.push(&Outgoing { socket, to, pieces, note, alone: false }).unwrap();
                    start += bytes;
                    if bytes == 0 {
                        break;
                    }
                }
            }
            let shape = |runs: &Runs| -> Vec<_> {
                let of = |run: &Run| {
                    let pieces: Vec<Piece> = runs.pieces(run).collect();
                    let stretches: Vec<_> =
                        runs.stretches(run).map(|s| (s.note, s.frames, s.bytes)).collect();
                    (run.to, run.segment, run.segments, run.bytes, run.open, pieces, stretches)
                };
                runs.runs().iter().map(of).collect()
            };
            prop_assert_eq!(shape(&whole), shape(&singly));
        }
    }

    #[test]
    fn a20_a_train_that_finds_no_room_goes_on_where_it_stopped() {
        let note = note(accounts(1)[0]);
        let mut runs = Runs::default();
        let pieces = &[Piece { buffer: 1, start: 0, bytes: 10 }];
        for port in 0..RUNS_MAX - 1 {
            let to = to(u16::try_from(port).unwrap());
            let socket = SocketId(0);
            // As long as every place that is tried is found.
            let _ = runs.push(&Outgoing { socket, to, pieces, note, alone: true });
        }
        while runs.len() < RUNS_MAX - 1 {
            let (socket, to) = (SocketId(1), to(1));
            runs.push(&Outgoing { socket, to, pieces, note, alone: true }).unwrap();
        }
        // Two runs of it, and room for one.
        let piece = Piece { buffer: 2, start: 0, bytes: 100 * 50 + 7 };
        let (socket, to) = (SocketId(1), to(1));
        let mut train = Train { socket, to, piece, segment: 50, note };
        assert_eq!(runs.push_train(&mut train, false), Err(Full));
        let taken = u32::from(RUN_SEGMENTS_MAX) * 50;
        assert_eq!(train.piece, Piece { buffer: 2, start: taken, bytes: 100 * 50 + 7 - taken });
        assert_eq!(runs.runs().last().unwrap().bytes, taken);
        runs.clear();
        runs.push_train(&mut train, false).unwrap();
        let last = runs.runs().last().unwrap();
        assert_eq!((last.segments, last.bytes), (101 - RUN_SEGMENTS_MAX, 5_007 - taken));
    }

    /// Port, segment, bytes, account: from an empty datagram to 128 of them and to the largest.
    fn trains() -> impl Strategy<Value = Vec<(u16, u16, u32, usize)>> {
        let train = (0..3u16, 1..1_500u16, 0..129u32, 0..1_500u32, 0..3usize).prop_map(
            |(port, segment, datagrams, last, account)| {
                let whole = u32::from(segment) * datagrams.saturating_sub(1);
                let last = if datagrams == 0 { 0 } else { last.min(u32::from(segment)) };
                (port, segment, (whole + last).min(65_507), account)
            },
        );
        prop::collection::vec(train, 1..12)
    }
}
