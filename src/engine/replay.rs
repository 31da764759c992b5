//! Which sequences of one sender have been seen: each frame counts once, and late ones still count.
//!
//! A window of bits behind the highest sequence, as in RFC 6479: bits lie in a ring of words, so moving
//! the window clears words and shifts nothing.
//!
//! Pure. Invariant: only a sequence that was authenticated is marked, so what strangers send never moves
//! the window.

use crate::limits::REPLAY_FRAMES;

const WORD: u64 = u64::BITS as u64;
/// One word more than the window: the highest one is filled while the lowest is still asked.
const WORDS: u64 = REPLAY_FRAMES / WORD + 1;
#[expect(clippy::cast_possible_truncation, reason = "a hundred or so")]
const LENGTH: usize = WORDS as usize;

#[derive(Clone, Debug)]
pub struct Replay {
    /// One more than the highest sequence marked.
    next: u64,
    words: [u64; LENGTH],
}

impl Default for Replay {
    fn default() -> Self {
        Self { next: 0, words: [0; LENGTH] }
    }
}

impl Replay {
    /// Neither marked nor too old to tell. The last number there is counts as seen: nothing comes after it.
    #[inline]
    pub fn is_new(&self, sequence: u64) -> bool {
        if sequence >= self.next {
            return sequence != u64::MAX;
        }
        let in_window = self.next - sequence <= REPLAY_FRAMES;
        in_window && self.words[word(sequence)] & bit(sequence) == 0
    }

    /// Marks a sequence that is new and was authenticated.
    #[inline]
    pub fn mark(&mut self, sequence: u64) {
        if sequence >= self.next {
            let highest = self.next.saturating_sub(1) / WORD;
            let ahead = (sequence / WORD - highest).min(WORDS);
            for step in 1..=ahead {
                self.words[word((highest + step) * WORD)] = 0;
            }
            self.next = sequence + 1;
        }
        self.words[word(sequence)] |= bit(sequence);
    }
}

fn word(sequence: u64) -> usize {
    let number = sequence / WORD % WORDS;
    usize::try_from(number).unwrap_or_default()
}

fn bit(sequence: u64) -> u64 {
    1 << (sequence % WORD)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn accept(replay: &mut Replay, sequence: u64) -> bool {
        let new = replay.is_new(sequence);
        if new {
            replay.mark(sequence);
        }
        new
    }

    #[test]
    fn each_sequence_counts_once_also_when_it_is_late() {
        let mut replay = Replay::default();
        let order = [0, 1, 5, 3, 2, 4, 6 + REPLAY_FRAMES / 2, 6];
        assert!(order.iter().all(|&sequence| accept(&mut replay, sequence)));
        assert!(order.iter().all(|&sequence| !accept(&mut replay, sequence)));
    }

    #[test]
    fn what_is_older_than_the_window_is_refused() {
        let mut replay = Replay::default();
        assert!(accept(&mut replay, 10 * REPLAY_FRAMES));
        assert!(!accept(&mut replay, 9 * REPLAY_FRAMES));
        assert!(accept(&mut replay, 9 * REPLAY_FRAMES + 1));
        assert!(accept(&mut replay, u64::MAX - 1));
        assert!(!accept(&mut replay, 9 * REPLAY_FRAMES + 2));
        assert!(!accept(&mut replay, u64::MAX));
    }

    /// The slow obvious version: everything ever seen, and the highest.
    #[derive(Default)]
    struct Model {
        seen: HashSet<u64>,
        next: u64,
    }

    impl Model {
        fn accept(&mut self, sequence: u64) -> bool {
            let old = self.next > REPLAY_FRAMES && sequence < self.next - REPLAY_FRAMES;
            self.next = self.next.max(sequence.saturating_add(1));
            !old && self.seen.insert(sequence)
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_set_of_all_that_was_seen(
            steps in proptest::collection::vec((any::<bool>(), 0..3 * REPLAY_FRAMES), 0..2_000)
        ) {
            let (mut replay, mut model) = (Replay::default(), Model::default());
            for (ahead, by) in steps {
                let sequence = if ahead { model.next + by / 64 } else { model.next.saturating_sub(by) };
                prop_assert_eq!(accept(&mut replay, sequence), model.accept(sequence), "{}", sequence);
            }
        }
    }
}
