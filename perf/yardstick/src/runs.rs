//! Which received bytes leave together. Pure: lengths in, ranges out.
//!
//! A run is what one send with UDP_SEGMENT may carry: datagrams of one length, of which only the last
//! may be shorter, at most `SEGMENTS_MAX` of them and at most `BYTES_MAX` together. There is one
//! destination, so one run is open at a time and the order of all datagrams is kept.

use std::ops::Range;

/// Kernels before 6.9 refuse more.
pub(crate) const SEGMENTS_MAX: usize = 64;
/// What one IPv6 send can carry at most; over IPv4 20 bytes more would do.
pub(crate) const BYTES_MAX: usize = 65_487;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Every datagram by itself, without UDP_SEGMENT.
    Single,
    /// One run for each received message.
    AsReceived,
    /// Runs of as many datagrams as one send takes.
    Merge,
}

/// Bytes of one received message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) message: usize,
    pub(crate) bytes: Range<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) segment: usize,
    pub(crate) segments: usize,
    pub(crate) bytes: usize,
    /// Indices into the pieces.
    pub(crate) pieces: Range<usize>,
    /// Its last datagram is shorter than the others: nothing may follow.
    closed: bool,
}

/// The runs of one batch. Push the messages in order, read `runs` and `pieces`, clear, again.
#[derive(Debug)]
pub(crate) struct Runs {
    policy: Policy,
    pub(crate) runs: Vec<Run>,
    pub(crate) pieces: Vec<Piece>,
}

impl Runs {
    pub(crate) fn new(policy: Policy) -> Self {
        Self { policy, runs: Vec::new(), pieces: Vec::new() }
    }

    pub(crate) fn clear(&mut self) {
        self.runs.clear();
        self.pieces.clear();
    }

    /// A message of `len` bytes that holds datagrams of `segment` bytes each.
    pub(crate) fn push(&mut self, message: usize, len: usize, segment: usize) {
        let segment = if segment == 0 { len } else { segment.min(len) };
        let per_run = match self.policy {
            Policy::Single => 1,
            Policy::AsReceived | Policy::Merge => most(segment),
        };
        let mut at = 0_usize;
        loop {
            let end = len.min(at.saturating_add(segment * per_run));
            self.append(Piece { message, bytes: at..end }, segment, per_run);
            at = end;
            if at >= len {
                return;
            }
        }
    }

    fn append(&mut self, piece: Piece, segment: usize, per_run: usize) {
        let bytes = piece.bytes.len();
        let segments = if segment == 0 { 1 } else { bytes.div_ceil(segment) };
        let shorter = bytes < segments * segment;
        let index = self.pieces.len();
        self.pieces.push(piece);
        if let (Policy::Merge, Some(open)) = (self.policy, self.runs.last_mut()) {
            // A train fits behind its equals, a single datagram also behind longer ones.
            let fits = open.segment == segment || (segments == 1 && bytes < open.segment);
            let room = open.segments + segments <= most(open.segment);
            if fits && room && !open.closed && bytes > 0 && open.segment > 0 {
                open.closed = shorter || segment < open.segment;
                open.segments += segments;
                open.bytes += bytes;
                open.pieces.end = index + 1;
                return;
            }
        }
        let closed = shorter || per_run == 1;
        self.runs.push(Run { segment, segments, bytes, pieces: index..index + 1, closed });
    }
}

/// How many datagrams of this length one send may carry.
fn most(segment: usize) -> usize {
    (BYTES_MAX / segment.max(1)).clamp(1, SEGMENTS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(segment, segments, bytes, pieces)` of every run.
    fn shapes(policy: Policy, messages: &[(usize, usize)]) -> Vec<(usize, usize, usize, usize)> {
        let mut runs = Runs::new(policy);
        for (index, &(len, segment)) in messages.iter().enumerate() {
            runs.push(index, len, segment);
        }
        let total: usize = runs.pieces.iter().map(|piece| piece.bytes.len()).sum();
        assert_eq!(total, messages.iter().map(|&(len, _)| len).sum::<usize>(), "nothing is lost");
        let order: Vec<_> = runs.pieces.iter().map(|p| (p.message, p.bytes.start)).collect();
        assert!(order.is_sorted(), "{order:?}");
        let shape = |run: &Run| (run.segment, run.segments, run.bytes, run.pieces.len());
        runs.runs.iter().map(shape).collect()
    }

    #[test]
    fn equal_datagrams_leave_as_one_run_of_at_most_64() {
        assert_eq!(shapes(Policy::Merge, &[(200, 0); 3]), [(200, 3, 600, 3)]);
        let many = shapes(Policy::Merge, &[(200, 0); 65]);
        assert_eq!(many, [(200, 64, 12_800, 64), (200, 1, 200, 1)]);
    }

    #[test]
    fn a_run_is_never_larger_than_one_send_can_be() {
        assert_eq!(shapes(Policy::Merge, &[(8900, 0); 8])[0], (8900, 7, 62_300, 7));
        assert_eq!(shapes(Policy::Merge, &[(65_507, 0)]), [(65_507, 1, 65_507, 1)]);
    }

    #[test]
    fn a_shorter_datagram_ends_a_run_and_a_longer_one_begins_the_next() {
        let runs = shapes(Policy::Merge, &[(200, 0), (100, 0), (100, 0), (200, 0)]);
        assert_eq!(runs, [(200, 2, 300, 2), (100, 1, 100, 1), (200, 1, 200, 1)]);
    }

    #[test]
    fn a_train_joins_trains_of_the_same_length_only() {
        let trains = [(6_400, 200), (1_900, 200), (400, 200)];
        assert_eq!(shapes(Policy::Merge, &trains), [(200, 42, 8_300, 2), (200, 2, 400, 1)]);
        assert_eq!(shapes(Policy::Merge, &[(400, 200), (300, 150)]).len(), 2);
    }

    #[test]
    fn a_train_longer_than_a_send_is_cut() {
        let runs = shapes(Policy::AsReceived, &[(100 * 200, 200)]);
        assert_eq!(runs, [(200, 64, 12_800, 1), (200, 36, 7_200, 1)]);
    }

    #[test]
    fn the_plain_loop_sends_every_datagram_by_itself() {
        assert_eq!(shapes(Policy::Single, &[(200, 0); 2]), [(200, 1, 200, 1); 2]);
    }

    #[test]
    fn an_empty_datagram_is_a_run_of_its_own() {
        let runs = shapes(Policy::Merge, &[(200, 0), (0, 0), (0, 0), (200, 0)]);
        assert_eq!(runs, [(200, 1, 200, 1), (0, 1, 0, 1), (0, 1, 0, 1), (200, 1, 200, 1)]);
    }
}
