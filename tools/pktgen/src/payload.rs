//! What stands in every payload: who sent it, which one it is, when, and sums that tell damage.
//!
//! ```text
//!  0      4        8      12    16        24    32      34        36          40
//!  +------+--------+------+-----+---------+-----+-------+---------+-----------+---------
//!  |magic | header |trial |flow |sequence |sent |length |version  |filler sum | filler
//!  |"SPGN"| sum    |      |     |         |     |       |         |           | from a seed
//!  +------+--------+------+-----+---------+-----+-------+---------+-----------+---------
//! ```
//!
//! Integers are big-endian. The *header sum* covers bytes 8 to 40, so also the *filler sum*, which covers
//! the rest: the first is always checked and is cheap, the second is as dear as the payload is long and
//! may be sampled. *Length* is that of the whole payload: a relay that cuts or joins datagrams is found.
//! *Sent* is wall-clock time in nanoseconds: on one host it is the receiver's clock too, between hosts it
//! is only as good as their synchronisation (see `latency`).
//!
//! Pure: no clock and no socket. Sums are XXH3, cut to 32 bit: one damaged payload in 4 * 10^9 passes.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use twox_hash::XxHash3_64;

/// What a payload needs at least: the header, no filler.
pub const PAYLOAD_MIN: usize = 40;
/// The largest payload of UDP over IPv4.
pub const PAYLOAD_MAX: usize = 65_507;

const MAGIC: u32 = u32::from_be_bytes(*b"SPGN");
const VERSION: u16 = 1;
const SUMMED_FROM: usize = 8;

/// The fields of a payload that its sender chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// One run of a generator: what is left of an earlier one in some queue is not taken for this one.
    pub trial: u32,
    pub flow: u32,
    /// From 0, per flow, without gaps.
    pub sequence: u64,
    /// Nanoseconds since 1970.
    pub sent_ns: u64,
}

/// What is wrong with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No magic: somebody else's datagram.
    Foreign,
    /// The magic is there and the rest is not as it was sent.
    Corrupted,
}

impl Header {
    /// Writes the header. `slot` is the whole payload, `filler_sum` that of the bytes behind the header.
    ///
    /// # Panics
    /// If `slot` is shorter than [`PAYLOAD_MIN`]; sizes are checked where they are read.
    pub fn put(&self, slot: &mut [u8], filler_sum: u32) {
        let length = u16::try_from(slot.len()).unwrap_or(u16::MAX);
        let Some((header, _)) = slot.split_first_chunk_mut::<PAYLOAD_MIN>() else {
            panic!("a payload of {length} bytes has no room for its header");
        };
        header[0..4].copy_from_slice(&MAGIC.to_be_bytes());
        header[8..12].copy_from_slice(&self.trial.to_be_bytes());
        header[12..16].copy_from_slice(&self.flow.to_be_bytes());
        header[16..24].copy_from_slice(&self.sequence.to_be_bytes());
        header[24..32].copy_from_slice(&self.sent_ns.to_be_bytes());
        header[32..34].copy_from_slice(&length.to_be_bytes());
        header[34..36].copy_from_slice(&VERSION.to_be_bytes());
        header[36..40].copy_from_slice(&filler_sum.to_be_bytes());
        let sum = sum(&header[SUMMED_FROM..]);
        header[4..8].copy_from_slice(&sum.to_be_bytes());
    }

    /// Reads a payload. `verify_filler` also sums the bytes behind the header.
    pub fn parse(payload: &[u8], verify_filler: bool) -> Result<Self, Fault> {
        let Some((header, filler)) = payload.split_first_chunk::<PAYLOAD_MIN>() else {
            let ours = payload.starts_with(&MAGIC.to_be_bytes());
            return Err(if ours { Fault::Corrupted } else { Fault::Foreign });
        };
        if u32_at(header, 0) != MAGIC {
            return Err(Fault::Foreign);
        }
        let length = u16::from_be_bytes([header[32], header[33]]);
        let version = u16::from_be_bytes([header[34], header[35]]);
        let whole = u32_at(header, 4) == sum(&header[SUMMED_FROM..])
            && usize::from(length) == payload.len()
            && version == VERSION
            && (!verify_filler || u32_at(header, 36) == sum(filler));
        if !whole {
            return Err(Fault::Corrupted);
        }
        Ok(Self {
            trial: u32_at(header, 8),
            flow: u32_at(header, 12),
            sequence: u64_at(header, 16),
            sent_ns: u64_at(header, 24),
        })
    }
}

/// Room for a train of equal payloads, filled once: a send only writes headers.
///
/// Each slot has a filler of its own, so that a relay that mixes two payloads of a train is found.
#[derive(Debug)]
pub struct Train {
    bytes: Vec<u8>,
    size: usize,
    /// Bytes in front of every payload.
    prefix: usize,
    filler_sums: Vec<u32>,
}

impl Train {
    /// `slots` payloads of `size` bytes, which is at least [`PAYLOAD_MIN`].
    pub fn new(size: usize, slots: usize, seed: u64) -> Self {
        Self::behind(&[], size, slots, seed)
    }

    /// The same with these bytes in front of each: a header that somebody on the way takes off.
    pub fn behind(prefix: &[u8], size: usize, slots: usize, seed: u64) -> Self {
        assert!((PAYLOAD_MIN..=PAYLOAD_MAX).contains(&size), "a payload of {size} bytes");
        let stride = prefix.len() + size;
        let mut bytes = vec![0; stride * slots];
        ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
        let mut filler_sums = Vec::with_capacity(slots);
        for slot in bytes.chunks_exact_mut(stride) {
            let (front, payload) = slot.split_at_mut(prefix.len());
            front.copy_from_slice(prefix);
            filler_sums.push(sum(&payload[PAYLOAD_MIN..]));
        }
        Self { bytes, size, prefix: prefix.len(), filler_sums }
    }

    /// Bytes of one payload.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Bytes of one datagram: the payload and what is in front of it.
    pub fn stride(&self) -> usize {
        self.prefix + self.size
    }

    /// How many payloads fit.
    pub fn slots(&self) -> usize {
        self.filler_sums.len()
    }

    /// Writes a payload into a slot, over what was there.
    pub fn put(&mut self, slot: usize, header: &Header) {
        let at = slot * self.stride() + self.prefix;
        header.put(&mut self.bytes[at..at + self.size], self.filler_sums[slot]);
    }

    /// The first `count` datagrams, one behind the other.
    pub fn bytes(&self, count: usize) -> &[u8] {
        &self.bytes[..count * self.stride()]
    }
}

fn sum(bytes: &[u8]) -> u32 {
    let (_, low) = halves(XxHash3_64::oneshot(bytes));
    low
}

fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}

fn u32_at(header: &[u8; PAYLOAD_MIN], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&header[at..at + 4]);
    u32::from_be_bytes(bytes)
}

fn u64_at(header: &[u8; PAYLOAD_MIN], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&header[at..at + 8]);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header { trial: 7, flow: 3, sequence: 1 << 40, sent_ns: 1 << 60 };

    #[test]
    fn what_was_put_is_parsed() {
        for size in [PAYLOAD_MIN, PAYLOAD_MIN + 1, 200, 1_472, PAYLOAD_MAX] {
            let mut train = Train::new(size, 1, 1);
            train.put(0, &HEADER);
            assert_eq!(Header::parse(train.bytes(1), true), Ok(HEADER), "{size}");
        }
    }

    #[test]
    fn a_prefix_stands_in_front_of_every_payload_and_is_no_part_of_it() {
        let mut train = Train::behind(&[0x40, 1, 0, 200], 200, 2, 1);
        train.put(0, &HEADER);
        train.put(1, &HEADER);
        for datagram in train.bytes(2).chunks(204) {
            assert_eq!(datagram[..4], [0x40, 1, 0, 200]);
            assert_eq!(Header::parse(&datagram[4..], true), Ok(HEADER));
        }
        assert_eq!((train.bytes(2).len(), train.size(), train.stride()), (408, 200, 204));
    }

    #[test]
    fn every_damaged_bit_is_found() {
        let mut train = Train::new(64, 1, 1);
        train.put(0, &HEADER);
        for bit in 0..64 * 8 {
            let mut payload = train.bytes(1).to_vec();
            payload[bit / 8] ^= 1 << (bit % 8);
            let fault = if bit < 32 { Fault::Foreign } else { Fault::Corrupted };
            assert_eq!(Header::parse(&payload, true), Err(fault), "bit {bit}");
        }
    }

    #[test]
    fn without_its_sum_only_the_filler_may_be_damaged() {
        let mut train = Train::new(64, 1, 1);
        train.put(0, &HEADER);
        let mut payload = train.bytes(1).to_vec();
        payload[63] ^= 1;
        assert_eq!(Header::parse(&payload, false), Ok(HEADER));
        payload[36] ^= 1;
        assert_eq!(Header::parse(&payload, false), Err(Fault::Corrupted));
    }

    #[test]
    fn a_cut_or_joined_datagram_is_corrupted() {
        let mut train = Train::new(64, 2, 1);
        train.put(0, &HEADER);
        train.put(1, &HEADER);
        for length in [8, 40, 63, 65, 128] {
            let payload = &train.bytes(2)[..length];
            assert_eq!(Header::parse(payload, false), Err(Fault::Corrupted), "{length}");
        }
        assert_eq!(Header::parse(b"hello", false), Err(Fault::Foreign));
        assert_eq!(Header::parse(b"", false), Err(Fault::Foreign));
    }

    #[test]
    fn a_filler_in_the_wrong_payload_is_found() {
        let mut train = Train::new(200, 2, 1);
        train.put(0, &HEADER);
        train.put(1, &HEADER);
        let mut mixed = train.bytes(2)[..200].to_vec();
        mixed[100..].copy_from_slice(&train.bytes(2)[300..]);
        assert_eq!(Header::parse(&mixed, true), Err(Fault::Corrupted));
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let bytes = |seed| Train::new(100, 3, seed).bytes(3).to_vec();
        assert_eq!(bytes(5), bytes(5));
        assert_ne!(bytes(5), bytes(6));
    }
}
