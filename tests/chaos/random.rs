//! Random choices that are the same for the same seed.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};

#[derive(Debug)]
pub(crate) struct Random(ChaCha8Rng);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A number below `count`, which is not 0. The bias of the remainder does not matter here.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.0.next_u64() % count as u64).expect("below a usize")
    }

    pub(crate) fn of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

/// Bytes that say which channel, which life of it and which number they belong to: 24 to 1,223 of them.
pub(crate) fn payload(channel: usize, life: usize, number: usize) -> Vec<u8> {
    let words = [channel, life, number].map(|word| word as u64);
    let mut state = words.iter().fold(0, |state, word| mix(state ^ word));
    let length = 24 + usize::try_from(state % 1_200).expect("small");
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    while bytes.len() < length {
        state = mix(state);
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Channel, life and number, if these are the bytes that were sent with them.
pub(crate) fn parse(bytes: &[u8]) -> Option<[usize; 3]> {
    let word = |at: usize| {
        let word = bytes.get(at * 8..at * 8 + 8)?.try_into().ok()?;
        usize::try_from(u64::from_be_bytes(word)).ok()
    };
    let [channel, life, number] = [word(0)?, word(1)?, word(2)?];
    (payload(channel, life, number) == bytes).then_some([channel, life, number])
}

/// One step of SplitMix64.
fn mix(state: u64) -> u64 {
    let mut mixed = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
