//! The hop tag: proof that the neighbour of a link wrote a frame's header, for links that ask for it.
//!
//! SipHash-2-4 with 128 bits over the first [`TAGGED_BYTES`] of the header as it is on this wire: label,
//! sequence, stamp, length, hop limit, flags. A relay need not look at the payload. It is a keyed function
//! without a nonce: nothing has to be kept in step, and the same header has the same tag. Each direction of a
//! link has a key of its own, derived from the Noise handshake of the connection, so a connection later the
//! same header has another one. Whether a frame is an old one again is told by
//! [`crate::wire::frame`]'s sequence and the receiver's window, not here.
//!
//! Panic contract: as [`super::frame`]'s: on a slice shorter than a header, a mistake of the caller.

use blake2::digest::{KeyInit, Mac};
use siphasher::sip128::SipHasher24;
use subtle::ConstantTimeEq;

use super::frame::{self, TAGGED_BYTES};

/// What keys of this purpose and version are derived with, and no others.
const PURPOSE: &[u8] = b"spanway hop tag 1";

type Derive = blake2::Blake2sMac<blake2::digest::consts::U16>;

/// Key of one direction of a link, ready for use.
#[derive(Clone, PartialEq)]
pub struct HopKey {
    of: [u8; 16],
    ready: Ready,
}

#[derive(Clone)]
struct Ready(SipHasher24);

impl PartialEq for Ready {
    /// Made from the key, which is compared.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl std::fmt::Debug for HopKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HopKey(..)")
    }
}

/// Both directions of a link, as one end sees them.
#[derive(Clone, Debug, PartialEq)]
pub struct HopKeys {
    pub send: HopKey,
    pub receive: HopKey,
}

impl HopKeys {
    /// From the secret of each direction that only the two ends of a connection have.
    pub fn derive(send: &[u8; 32], receive: &[u8; 32]) -> Self {
        Self { send: HopKey::derive(send), receive: HopKey::derive(receive) }
    }
}

impl HopKey {
    fn derive(secret: &[u8; 32]) -> Self {
        let secret = blake2::digest::Key::<Derive>::from(*secret);
        let mut derived = <Derive as KeyInit>::new(&secret);
        derived.update(PURPOSE);
        let of = derived.finalize().into_bytes().into();
        Self { of, ready: Ready(SipHasher24::new_with_key(&of)) }
    }

    /// Fills the tag of a frame whose header is complete.
    #[inline]
    pub fn write(&self, header: &mut [u8]) {
        let tag = self.tag(header);
        frame::set_hop_tag(header, tag);
    }

    /// Whether the frame's tag is this key's, in a time that does not depend on it.
    #[inline]
    pub fn wrote(&self, header: &[u8]) -> bool {
        self.tag(header).ct_eq(&frame::hop_tag(header)).into()
    }

    #[inline]
    fn tag(&self, header: &[u8]) -> [u8; 16] {
        self.ready.0.hash(&header[..TAGGED_BYTES]).as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Label;
    use crate::wire::frame::{FrameType, HEADER_BYTES, Header};

    fn keys() -> HopKeys {
        HopKeys::derive(&[1; 32], &[2; 32])
    }

    fn header() -> [u8; HEADER_BYTES] {
        let header = Header {
            frame_type: FrameType::Data,
            flags: 0,
            hop_limit: 64,
            payload_length: 1_316,
            label: Label(0x0102_0304_0506_0708),
            sequence: 9,
            stamp: 77,
        };
        let mut bytes = [0; HEADER_BYTES];
        header.emit(&mut bytes);
        bytes
    }

    #[test]
    fn no_bit_of_header_or_tag_can_be_changed() {
        let mut bytes = header();
        keys().send.write(&mut bytes);
        assert!(keys().send.wrote(&bytes));
        assert!(!keys().receive.wrote(&bytes), "another direction's key");
        for bit in 0..HEADER_BYTES * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!keys().send.wrote(&bytes), "bit {bit}");
        }
    }

    #[test]
    fn an_empty_tag_is_no_tag() {
        assert!(!keys().send.wrote(&header()));
    }

    /// The format is the wire's: both ends derive and compute the same in every version of this code.
    #[test]
    fn the_tag_is_siphash_of_the_first_32_bytes_with_the_derived_key() {
        let mut bytes = header();
        keys().send.write(&mut bytes);
        let hasher = SipHasher24::new_with_key(&keys().send.of);
        assert_eq!(frame::hop_tag(&bytes), hasher.hash(&bytes[..32]).as_bytes());
        // From the reference implementation: key 00..0f, 15 bytes 00..0e.
        let key: [u8; 16] = std::array::from_fn(|i| u8::try_from(i).expect("below 16"));
        let tag = SipHasher24::new_with_key(&key).hash(&key[..15]).as_bytes();
        assert_eq!(
            tag,
            [
                0x54, 0x93, 0xe9, 0x99, 0x33, 0xb0, 0xa8, 0x11, 0x7e, 0x08, 0xec, 0x0f, 0x97, 0xcf,
                0xc3, 0xd9
            ]
        );
    }
}
