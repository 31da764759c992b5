//! Payloads that know their number: what the demo streams if it is given no file.

use std::io::{self, Read};
use std::time::Duration;

use crate::cli::clock;

/// Numbered payloads for a time. One read gives one payload, as large as the buffer.
#[derive(Debug)]
pub(super) struct Pattern {
    number: u64,
    duration: Duration,
    start: Option<std::time::Instant>,
}

impl Pattern {
    pub(super) fn new(duration: Duration) -> Self {
        Self { number: 0, duration, start: None }
    }
}

impl Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let start = *self.start.get_or_insert_with(clock::now);
        if start.elapsed() >= self.duration {
            return Ok(0);
        }
        fill(self.number, buffer);
        self.number += 1;
        Ok(buffer.len())
    }
}

/// Checks payloads as they come.
#[derive(Debug, Default)]
pub(super) struct Check {
    next: u64,
    corrupt: u64,
}

impl Check {
    /// Each payload must be one that was made, and a later one than the last.
    pub(super) fn on_payload(&mut self, payload: &[u8]) {
        let number = number_of(payload);
        let mut made = vec![0; payload.len()];
        fill(number, &mut made);
        if made == payload && number >= self.next {
            self.next = number + 1;
        } else {
            self.corrupt += 1;
        }
    }

    pub(super) fn corrupt(&self) -> u64 {
        self.corrupt
    }
}

/// The number, then a sequence that depends on all of it (splitmix64).
fn fill(number: u64, payload: &mut [u8]) {
    let mut state = number;
    for (index, word) in payload.chunks_mut(8).enumerate() {
        let bytes = if index == 0 { number.to_be_bytes() } else { next(&mut state) };
        word.copy_from_slice(&bytes[..word.len()]);
    }
}

fn next(state: &mut u64) -> [u8; 8] {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ mixed >> 31).to_be_bytes()
}

fn number_of(payload: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let kept = payload.len().min(8);
    bytes[..kept].copy_from_slice(&payload[..kept]);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_checked_to_the_last_bit_and_in_order() {
        let mut pattern = Pattern::new(Duration::from_secs(60));
        let mut payload = vec![0; 1_316];
        let mut check = Check::default();
        for _ in 0..3 {
            assert_eq!(pattern.read(&mut payload).expect("a payload"), 1_316);
            check.on_payload(&payload);
        }
        assert_eq!(check.corrupt(), 0);
        check.on_payload(&payload);
        assert_eq!(check.corrupt(), 1, "the same again");
        assert_eq!(pattern.read(&mut payload).expect("a payload"), 1_316);
        payload[1_315] ^= 1;
        check.on_payload(&payload);
        assert_eq!(check.corrupt(), 2, "a bit changed");
    }
}
