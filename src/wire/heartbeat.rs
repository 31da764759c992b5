//! The heartbeat: a frame that each end of a link sends at a fixed interval and never answers.
//!
//! It says "I live, and I last heard your number n so long ago", so that each end sees its own
//! direction through the other's eyes and one-way loss shows. Header: type HEARTBEAT, label = the one
//! the receiver gave in its Hello for this link, sequence = the sender's count, hop tag = MAC.
//! Payload, 16 bytes: last sequence heard (u64, 0 = none), its age in microseconds (u32, saturating),
//! reserved (u32). Flag 1 says that the sender's socket overflows: it may not have heard what did come.
//!
//! The MAC is keyed BLAKE2s-128 over the whole frame with the hop tag zeroed, keyed by the secret the
//! sender gave in its Hello. It is always there: the heartbeat is what moves frames to a new address.

use blake2::digest::{KeyInit, Mac};
use subtle::ConstantTimeEq;

use super::frame::{self, FrameType, HEADER_BYTES, Header};
use crate::types::Label;

/// Secret of one direction of a link, chosen by the sender, told in its Hello.
#[derive(Clone, PartialEq, Eq)]
pub struct HeartbeatKey(pub [u8; 32]);

impl std::fmt::Debug for HeartbeatKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HeartbeatKey(..)")
    }
}

/// Flag of a sender whose socket drops what comes to it.
const OVERLOADED: u8 = 1;
/// Bytes behind the header.
pub const PAYLOAD_BYTES: u16 = 16;
/// Bytes of a whole heartbeat.
pub const HEARTBEAT_BYTES: usize = HEADER_BYTES + PAYLOAD_BYTES as usize;

/// The content of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The receiver's label for this link.
    pub label: Label,
    /// Counts this end's heartbeats of this incarnation, from 1.
    pub sequence: u64,
    /// Highest sequence heard from the other end; 0 if none.
    pub heard: u64,
    /// How long ago that was, in microseconds.
    pub heard_age_us: u32,
    /// The kernel dropped datagrams at the sender's socket lately: heartbeats may be among them.
    pub overloaded: bool,
}

impl Heartbeat {
    pub fn emit(&self, key: &HeartbeatKey) -> [u8; HEARTBEAT_BYTES] {
        let mut bytes = [0; HEARTBEAT_BYTES];
        let header = Header {
            frame_type: FrameType::Heartbeat,
            flags: if self.overloaded { OVERLOADED } else { 0 },
            hop_limit: 1,
            payload_length: PAYLOAD_BYTES,
            label: self.label,
            sequence: self.sequence,
            stamp: 0,
        };
        header.emit(&mut bytes);
        bytes[HEADER_BYTES..HEADER_BYTES + 8].copy_from_slice(&self.heard.to_be_bytes());
        bytes[HEADER_BYTES + 8..HEADER_BYTES + 12]
            .copy_from_slice(&self.heard_age_us.to_be_bytes());
        let tag = mac(&bytes, key);
        frame::set_hop_tag(&mut bytes, tag);
        bytes
    }

    /// The heartbeat in a datagram that parsed as `header`; `None` if it is not `key`'s.
    pub fn verify(header: &Header, datagram: &[u8], key: &HeartbeatKey) -> Option<Self> {
        let mut bytes: [u8; HEARTBEAT_BYTES] = datagram.try_into().ok()?;
        let tag = frame::hop_tag(&bytes);
        frame::set_hop_tag(&mut bytes, [0; 16]);
        if !bool::from(mac(&bytes, key).ct_eq(&tag)) {
            return None;
        }
        let heard = bytes[HEADER_BYTES..HEADER_BYTES + 8].try_into().ok()?;
        let age = bytes[HEADER_BYTES + 8..HEADER_BYTES + 12].try_into().ok()?;
        Some(Self {
            label: header.label,
            sequence: header.sequence,
            heard: u64::from_be_bytes(heard),
            heard_age_us: u32::from_be_bytes(age),
            overloaded: header.flags & OVERLOADED != 0,
        })
    }
}

fn mac(bytes: &[u8], key: &HeartbeatKey) -> [u8; 16] {
    let key = blake2::digest::Key::<blake2::Blake2sMac<blake2::digest::consts::U16>>::from(key.0);
    let mut mac = <blake2::Blake2sMac<blake2::digest::consts::U16> as KeyInit>::new(&key);
    mac.update(bytes);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Heartbeat = Heartbeat {
        label: Label(5),
        sequence: 3,
        heard: 2,
        heard_age_us: 25_000,
        overloaded: true,
    };

    #[test]
    fn a_heartbeat_is_believed_with_its_key_only() {
        let key = HeartbeatKey([7; 32]);
        let bytes = BEAT.emit(&key);
        let header = frame::parse(&bytes).expect("a frame");
        assert_eq!(Heartbeat::verify(&header, &bytes, &key), Some(BEAT));
        assert_eq!(Heartbeat::verify(&header, &bytes, &HeartbeatKey([8; 32])), None);
    }

    #[test]
    fn no_bit_of_a_heartbeat_can_be_changed() {
        let key = HeartbeatKey([7; 32]);
        let bytes = BEAT.emit(&key);
        for bit in 0..HEARTBEAT_BYTES * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            let verified =
                frame::parse(&bytes).ok().and_then(|h| Heartbeat::verify(&h, &bytes, &key));
            assert_eq!(verified, None, "bit {bit}");
        }
    }
}
