//! Measuring a link: what its two ends say about it on the control connection, and the probes that go
//! over the data path.
//!
//! ```text
//! asker                        neighbour
//!   Ask            ──────►     counts probes from now on
//!                  ◄──────     Ready, or Refused
//!   (probes)       ══════►     one way: the asker sends a train and asks what arrived
//!   Count          ──────►
//!                  ◄──────     Counted
//!   Train          ──────►     the other way: the asker wants a train and counts itself
//!                  ◄══════     (probes)
//!                  ◄──────     Sent
//!   End            ──────►     counts no more
//! ```
//!
//! A probe is a frame of type PROBE: label and key are those of the heartbeats of its direction. Its
//! sequence is the number of its train (upper half) and its position in it (lower half). Payload: how
//! many probes the train has (u32), reserved (u32), padding. The MAC covers header and these 8 bytes, hop
//! tag zero: padding decides nothing, so its bytes are not worth the time.
//!
//! Since control version 2. Panic contract: as in [`super::control`] and [`super::frame`].

use blake2::digest::{KeyInit, Mac};
use subtle::ConstantTimeEq;

use super::codec::{Reader, Writer};
use super::frame::{self, FrameType, HEADER_BYTES, Header};
use super::heartbeat::HeartbeatKey;
use super::{ParseError, control};
use crate::limits;
use crate::types::{Bandwidth, Label};

/// First control version that has these messages.
pub const VERSION: u16 = 2;

/// One message about a measurement; `id` is the asker's, drawn for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measure {
    pub id: u64,
    pub body: MeasureBody,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeasureBody {
    Ask,
    Ready,
    /// The text says why.
    Refused(String),
    /// "Send me these probes."
    Train(Train),
    /// The train left: so many probes were sent in this time.
    Sent {
        number: u32,
        frames: u32,
        took_us: u32,
    },
    /// "How many probes of the train arrived?"
    Count {
        number: u32,
    },
    Counted {
        number: u32,
        arrived: Arrived,
    },
    End,
}

/// Probes behind each other at one rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Train {
    /// Counts the trains of a measurement from 1, both directions together.
    pub number: u32,
    pub frames: u32,
    /// Bytes of each as a UDP payload.
    pub frame_bytes: u16,
    /// Of IP packets.
    pub rate: Bandwidth,
}

/// What arrived of a train.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    pub frames: u32,
    /// Of those behind the first quarter, which a full bucket on the way may have let pass faster: how
    /// many came after the first of them, and in which time.
    pub tail_frames: u32,
    pub tail_us: u32,
}

impl Measure {
    pub(super) fn emit(&self, w: &mut Writer) {
        let mut head = |kind| {
            w.u16(kind);
            w.u64(self.id);
        };
        match &self.body {
            MeasureBody::Ask => head(kind::ASK),
            MeasureBody::Ready => head(kind::READY),
            MeasureBody::Refused(why) => {
                head(kind::REFUSED);
                w.text(why);
            }
            MeasureBody::Train(train) => {
                head(kind::TRAIN);
                w.u32(train.number);
                w.u32(train.frames);
                w.u16(train.frame_bytes);
                w.bandwidth(train.rate);
            }
            MeasureBody::Sent { number, frames, took_us } => {
                head(kind::SENT);
                w.u32(*number);
                w.u32(*frames);
                w.u32(*took_us);
            }
            MeasureBody::Count { number } => {
                head(kind::COUNT);
                w.u32(*number);
            }
            MeasureBody::Counted { number, arrived } => {
                head(kind::COUNTED);
                w.u32(*number);
                w.u32(arrived.frames);
                w.u32(arrived.tail_frames);
                w.u32(arrived.tail_us);
            }
            MeasureBody::End => head(kind::END),
        }
    }

    /// `None`: not a type of these.
    pub(super) fn parse(kind: u16, r: &mut Reader<'_>) -> Option<Result<Self, ParseError>> {
        (kind::ASK..=kind::END).contains(&kind).then(|| {
            let id = r.u64("measure id")?;
            Ok(Self { id, body: parse_body(kind, r)? })
        })
    }
}

/// Type numbers on the wire, beside those of [`control`]. Never reused.
mod kind {
    pub(super) const ASK: u16 = 64;
    pub(super) const READY: u16 = 65;
    pub(super) const REFUSED: u16 = 66;
    pub(super) const TRAIN: u16 = 67;
    pub(super) const SENT: u16 = 68;
    pub(super) const COUNT: u16 = 69;
    pub(super) const COUNTED: u16 = 70;
    pub(super) const END: u16 = 71;
}

fn parse_body(kind: u16, r: &mut Reader<'_>) -> Result<MeasureBody, ParseError> {
    Ok(match kind {
        kind::ASK => MeasureBody::Ask,
        kind::READY => MeasureBody::Ready,
        kind::REFUSED => MeasureBody::Refused(r.text("measure refused")?),
        kind::TRAIN => MeasureBody::Train(parse_train(r)?),
        kind::SENT => MeasureBody::Sent {
            number: r.u32("train number")?,
            frames: r.u32("train sent")?,
            took_us: r.u32("train time")?,
        },
        kind::COUNT => MeasureBody::Count { number: r.u32("train number")? },
        kind::COUNTED => MeasureBody::Counted {
            number: r.u32("train number")?,
            arrived: Arrived {
                frames: r.u32("train arrived")?,
                tail_frames: r.u32("train tail")?,
                tail_us: r.u32("train tail time")?,
            },
        },
        _ => MeasureBody::End,
    })
}

fn parse_train(r: &mut Reader<'_>) -> Result<Train, ParseError> {
    let number = r.u32("train number")?;
    let frames = r.u32("train frames")?;
    if frames == 0 || frames > limits::TRAIN_FRAMES_MAX {
        return Err(r.error("train frames"));
    }
    let frame_bytes = r.u16("train frame bytes")?;
    if !limits::PROBE_BYTES.contains(&frame_bytes) {
        return Err(r.error("train frame bytes"));
    }
    let rate = r.bandwidth("train rate")?;
    if rate == Bandwidth::ZERO {
        return Err(r.error("train rate"));
    }
    Ok(Train { number, frames, frame_bytes, rate })
}

/// Payload that the MAC covers, and that every probe has.
const COVERED_BYTES: usize = HEADER_BYTES + 8;

/// What a probe says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The receiver's heartbeat label for this link.
    pub label: Label,
    pub train: u32,
    /// From 0.
    pub position: u32,
    /// Probes of the train.
    pub of: u32,
}

impl Probe {
    /// Writes the probe over all of `bytes`, at least [`limits::PROBE_BYTES`]' first of them.
    pub fn emit(&self, key: &HeartbeatKey, bytes: &mut [u8]) {
        let payload = bytes.len() - HEADER_BYTES;
        let header = Header {
            frame_type: FrameType::Probe,
            flags: 0,
            hop_limit: 1,
            payload_length: u16::try_from(payload).expect("a probe fits a datagram"),
            label: self.label,
            sequence: u64::from(self.train) << 32 | u64::from(self.position),
            stamp: 0,
        };
        header.emit(bytes);
        bytes[HEADER_BYTES..].fill(0);
        bytes[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(&self.of.to_be_bytes());
        let tag = mac(&bytes[..COVERED_BYTES], key);
        frame::set_hop_tag(bytes, tag);
    }

    /// The probe in a datagram that parsed as `header`; `None` if it is not `key`'s.
    pub fn verify(header: &Header, datagram: &[u8], key: &HeartbeatKey) -> Option<Self> {
        let mut covered: [u8; COVERED_BYTES] = *datagram.first_chunk()?;
        let tag = frame::hop_tag(&covered);
        frame::set_hop_tag(&mut covered, [0; 16]);
        if header.frame_type != FrameType::Probe || !bool::from(mac(&covered, key).ct_eq(&tag)) {
            return None;
        }
        let of = covered[HEADER_BYTES..HEADER_BYTES + 4].try_into().ok()?;
        let (train, position) = (header.sequence >> 32, header.sequence & u64::from(u32::MAX));
        Some(Self {
            label: header.label,
            train: u32::try_from(train).ok()?,
            position: u32::try_from(position).ok()?,
            of: u32::from_be_bytes(of),
        })
    }
}

fn mac(bytes: &[u8], key: &HeartbeatKey) -> [u8; 16] {
    type Keyed = blake2::Blake2sMac<blake2::digest::consts::U16>;
    let mut mac = <Keyed as KeyInit>::new(&blake2::digest::Key::<Keyed>::from(key.0));
    mac.update(bytes);
    mac.finalize().into_bytes().into()
}

const _: () = {
    assert!(control::VERSIONS.1 >= VERSION);
    assert!(*limits::PROBE_BYTES.start() as usize >= COVERED_BYTES);
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: HeartbeatKey = HeartbeatKey([7; 32]);
    const PROBE: Probe = Probe { label: Label(5), train: 3, position: 9, of: 40 };

    fn probe(bytes: usize) -> Vec<u8> {
        let mut datagram = vec![0xee; bytes];
        PROBE.emit(&KEY, &mut datagram);
        datagram
    }

    fn read(datagram: &[u8], key: &HeartbeatKey) -> Option<Probe> {
        Probe::verify(&frame::parse(datagram).ok()?, datagram, key)
    }

    #[test]
    fn a_probe_of_any_size_is_believed_with_its_key_only() {
        for bytes in [*limits::PROBE_BYTES.start(), 300, *limits::PROBE_BYTES.end()] {
            let datagram = probe(bytes.into());
            assert_eq!(read(&datagram, &KEY), Some(PROBE), "{bytes} bytes");
            assert_eq!(read(&datagram, &HeartbeatKey([8; 32])), None);
        }
    }

    #[test]
    fn no_bit_of_a_probe_that_means_something_can_be_changed() {
        let datagram = probe(100);
        for bit in 0..COVERED_BYTES * 8 {
            let mut changed = datagram.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&changed, &KEY), None, "bit {bit}");
        }
        assert_eq!(read(&datagram[..99], &KEY), None);
    }

    #[test]
    fn a_heartbeat_is_no_probe() {
        let beat = super::super::heartbeat::Heartbeat {
            label: Label(5),
            sequence: 3 << 32,
            heard: 0,
            heard_age_us: 0,
            overloaded: false,
        };
        assert_eq!(read(&beat.emit(&KEY), &KEY), None);
    }

    #[test]
    fn a_train_that_nobody_could_mean_is_refused() {
        let train =
            Train { number: 1, frames: 10, frame_bytes: 1_000, rate: Bandwidth::from_bps(1_000) };
        let parsed = |train| {
            let message = Measure { id: 1, body: MeasureBody::Train(train) };
            control::Message::parse(&control::Message::Measure(message).emit())
        };
        assert!(parsed(train).is_ok());
        assert!(parsed(Train { frames: 0, ..train }).is_err());
        assert!(parsed(Train { frames: limits::TRAIN_FRAMES_MAX + 1, ..train }).is_err());
        assert!(parsed(Train { frame_bytes: 10, ..train }).is_err());
        assert!(parsed(Train { frame_bytes: 9_000, ..train }).is_err());
        assert!(parsed(Train { rate: Bandwidth::ZERO, ..train }).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 48..200)) {
            prop_assert_eq!(read(&bytes, &KEY), None);
        }
    }
}
