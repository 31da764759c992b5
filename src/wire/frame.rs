//! The header of a frame: fixed size, fixed offsets, rewritten in place at every hop.
//!
//! ```text
//!  0               1               2               3
//!  0 1 2 3 4 5 6 7 0 1 2 3 4 5 6 7 0 1 2 3 4 5 6 7 0 1 2 3 4 5 6 7
//! +-------+-------+---------------+---------------+---------------+
//! |version| type  |     flags     |   hop limit   |   reserved    |   0
//! +-------+-------+---------------+---------------+---------------+
//! |        payload length         |           reserved            |   4
//! +-------------------------------+-------------------------------+
//! |                                                               |   8
//! +           label (chosen by the receiving hop, swapped)        +
//! |                                                               |  12
//! +---------------------------------------------------------------+
//! |                                                               |  16
//! +           sequence (end to end, never rewritten)              +
//! |                                                               |  20
//! +---------------------------------------------------------------+
//! |     stamp (microseconds of CLOCK_REALTIME mod 2^32)           |  24
//! +---------------------------------------------------------------+
//! |     epoch of the channel's keys (sealed frames; else zero)    |  28
//! +---------------------------------------------------------------+
//! |                                                               |  32
//! +           hop tag (16 bytes; zero when off)                   +
//! |                                                               |  44
//! +---------------------------------------------------------------+
//! |     payload (payload length bytes) ...                        |  48
//! +---------------------------------------------------------------+
//! |     end-to-end tag (16 bytes, DATA only; zero when plain)     |
//! +---------------------------------------------------------------+
//! ```
//!
//! Numbers are big-endian. Reserved fields and unknown flags are zero when sent, carried unchanged by
//! relays and ignored by receivers, so a later version can use them without a new format. The layout
//! is final: later work fills fields, it does not move them (`tests/golden.rs` holds it).
//!
//! Panic contract: [`parse`] reads any bytes without a panic. Once it returned a [`Header`] for a
//! datagram, [`payload`] and the `set_` functions on the same bytes do not panic. They do panic on a
//! slice shorter than [`HEADER_BYTES`]: that is a mistake of the caller, never of a peer.

use std::net::IpAddr;

use super::ParseError;
use crate::types::Label;

/// Version of the frame format in the first four bits.
pub const VERSION: u8 = 1;
/// Bytes in front of the payload: a multiple of 8 that leaves the header in one cache line.
pub const HEADER_BYTES: usize = 48;
/// Bytes behind the payload of every DATA frame, reserved for the end-to-end tag.
pub const END_TAG_BYTES: usize = 16;
/// What the hop tag covers: all that is in front of it.
pub const TAGGED_BYTES: usize = at::HOP_TAG;
/// What Spanway adds to each datagram of a stream.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + END_TAG_BYTES;

/// Offsets of the fields.
mod at {
    pub(super) const VERSION_TYPE: usize = 0;
    pub(super) const FLAGS: usize = 1;
    pub(super) const HOP_LIMIT: usize = 2;
    pub(super) const PAYLOAD_LENGTH: usize = 4;
    pub(super) const LABEL: usize = 8;
    pub(super) const SEQUENCE: usize = 16;
    pub(super) const STAMP: usize = 24;
    pub(super) const EPOCH: usize = 28;
    pub(super) const HOP_TAG: usize = 32;
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameType {
    /// A datagram of a stream.
    Data = 1,
    /// Sign of life of a link: see [`super::heartbeat`].
    Heartbeat = 2,
    /// One of a train that measures a link: see [`super::measure`].
    Probe = 3,
}

/// The fields of a header as values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub frame_type: FrameType,
    pub flags: u8,
    /// Hops the frame may still take; a relay lowers it and drops the frame at zero.
    pub hop_limit: u8,
    pub payload_length: u16,
    pub label: Label,
    pub sequence: u64,
    /// Microseconds of CLOCK_REALTIME mod 2^32 when the frame entered the overlay.
    pub stamp: u32,
}

impl Header {
    /// Bytes of the whole frame on the wire.
    pub fn frame_bytes(&self) -> usize {
        HEADER_BYTES + usize::from(self.payload_length) + self.tail_bytes()
    }

    fn tail_bytes(&self) -> usize {
        match self.frame_type {
            FrameType::Data => END_TAG_BYTES,
            FrameType::Heartbeat | FrameType::Probe => 0,
        }
    }

    /// Writes the header over the first [`HEADER_BYTES`] of `bytes`; reserved fields and the hop tag
    /// become zero.
    pub fn emit(&self, bytes: &mut [u8]) {
        bytes[..HEADER_BYTES].fill(0);
        bytes[at::VERSION_TYPE] = VERSION << 4 | self.frame_type as u8;
        bytes[at::FLAGS] = self.flags;
        bytes[at::HOP_LIMIT] = self.hop_limit;
        put(bytes, at::PAYLOAD_LENGTH, self.payload_length.to_be_bytes());
        put(bytes, at::LABEL, self.label.0.to_be_bytes());
        put(bytes, at::SEQUENCE, self.sequence.to_be_bytes());
        put(bytes, at::STAMP, self.stamp.to_be_bytes());
    }
}

/// Reads and checks the header of one datagram: version, type and that the length field is exactly
/// the datagram's. The label may still be unknown and the hop limit zero: that is the caller's to judge.
pub fn parse(datagram: &[u8]) -> Result<Header, ParseError> {
    if datagram.len() < HEADER_BYTES {
        return Err(ParseError::new("frame header", datagram.len()));
    }
    if datagram[at::VERSION_TYPE] >> 4 != VERSION {
        return Err(ParseError::new("frame version", at::VERSION_TYPE));
    }
    let frame_type = match datagram[at::VERSION_TYPE] & 0x0f {
        1 => FrameType::Data,
        2 => FrameType::Heartbeat,
        3 => FrameType::Probe,
        _ => return Err(ParseError::new("frame type", at::VERSION_TYPE)),
    };
    let header = Header {
        frame_type,
        flags: datagram[at::FLAGS],
        hop_limit: datagram[at::HOP_LIMIT],
        payload_length: u16::from_be_bytes(take(datagram, at::PAYLOAD_LENGTH)),
        label: Label(u64::from_be_bytes(take(datagram, at::LABEL))),
        sequence: u64::from_be_bytes(take(datagram, at::SEQUENCE)),
        stamp: u32::from_be_bytes(take(datagram, at::STAMP)),
    };
    if header.frame_bytes() != datagram.len() {
        return Err(ParseError::new("frame payload length", at::PAYLOAD_LENGTH));
    }
    Ok(header)
}

/// The payload of a datagram that [`parse`] accepted as `header`.
pub fn payload<'a>(header: &Header, datagram: &'a [u8]) -> &'a [u8] {
    &datagram[HEADER_BYTES..HEADER_BYTES + usize::from(header.payload_length)]
}

/// Swaps the label and lowers the hop limit: all that a relay changes.
pub fn relabel(datagram: &mut [u8], label: Label, hop_limit: u8) {
    put(datagram, at::LABEL, label.0.to_be_bytes());
    datagram[at::HOP_LIMIT] = hop_limit;
}

/// The hop-tag field.
#[inline]
pub fn hop_tag(datagram: &[u8]) -> [u8; 16] {
    take(datagram, at::HOP_TAG)
}

/// Fills the hop-tag field.
#[inline]
pub fn set_hop_tag(datagram: &mut [u8], tag: [u8; 16]) {
    put(datagram, at::HOP_TAG, tag);
}

/// Under which keys of its channel the payload is sealed: counts up from zero.
pub fn epoch(datagram: &[u8]) -> u32 {
    u32::from_be_bytes(take(datagram, at::EPOCH))
}

pub fn set_epoch(datagram: &mut [u8], epoch: u32) {
    put(datagram, at::EPOCH, epoch.to_be_bytes());
}

/// What no relay rewrites and a seal is bound to: version and type, flags, payload length, stamp, and the
/// sequence.
pub fn end_to_end(datagram: &[u8]) -> [u8; 16] {
    let mut fields = [0; 16];
    fields[0] = datagram[at::VERSION_TYPE];
    fields[1] = datagram[at::FLAGS];
    fields[2..4].copy_from_slice(&datagram[at::PAYLOAD_LENGTH..at::PAYLOAD_LENGTH + 2]);
    fields[4..8].copy_from_slice(&datagram[at::STAMP..at::STAMP + 4]);
    fields[8..].copy_from_slice(&datagram[at::SEQUENCE..at::SEQUENCE + 8]);
    fields
}

/// Bytes of IP and UDP header around a frame that is sent to `to`.
pub fn ip_overhead_bytes(to: IpAddr) -> usize {
    match to.to_canonical() {
        IpAddr::V4(_) => 20 + 8,
        IpAddr::V6(_) => 40 + 8,
    }
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, field: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&field);
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data(payload: usize) -> (Header, Vec<u8>) {
        let header = Header {
            frame_type: FrameType::Data,
            flags: 0,
            hop_limit: 64,
            payload_length: u16::try_from(payload).expect("small"),
            label: Label(0x0102_0304_0506_0708),
            sequence: 9,
            stamp: 77,
        };
        let mut frame = vec![0xee; header.frame_bytes()];
        header.emit(&mut frame);
        (header, frame)
    }

    #[test]
    fn what_was_emitted_is_parsed() {
        for payload_bytes in [0, 1, 200, 1_408] {
            let (header, frame) = data(payload_bytes);
            assert_eq!(parse(&frame), Ok(header));
            assert_eq!(payload(&header, &frame).len(), payload_bytes);
        }
    }

    #[test]
    fn a_length_that_is_not_the_datagrams_is_refused_either_way() {
        let (_, mut frame) = data(200);
        frame.push(0);
        assert_eq!(parse(&frame).map_err(|e| e.what), Err("frame payload length"));
        frame.truncate(frame.len() - 2);
        assert_eq!(parse(&frame).map_err(|e| e.what), Err("frame payload length"));
    }

    #[test]
    fn relabel_changes_label_and_hop_limit_only() {
        let (header, mut frame) = data(20);
        let before = frame.clone();
        relabel(&mut frame, Label(42), 63);
        assert_eq!(parse(&frame), Ok(Header { label: Label(42), hop_limit: 63, ..header }));
        let changed: Vec<_> = (0..frame.len()).filter(|&i| frame[i] != before[i]).collect();
        assert!(changed.iter().all(|&i| i == 2 || (8..16).contains(&i)), "{changed:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_parse_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(header) = parse(&bytes) {
                prop_assert_eq!(header.frame_bytes(), bytes.len());
                let _ = payload(&header, &bytes);
            }
        }
    }
}
