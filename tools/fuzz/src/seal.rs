//! Both ends of a sealed channel, with somebody between them who changes, keeps, repeats and invents frames.

use std::collections::HashSet;
use std::time::Duration;

use spanway::engine::seal::{KEY_BYTES, Keys, Seal};
use spanway::limits::{REPLAY_FRAMES, SEAL_AHEAD_MAX};
use spanway::stats::DropReason;
use spanway::types::{Label, Time};
use spanway::wire::frame::{self, FrameType, HEADER_BYTES, Header};

use super::bytes::Choices;

/// More are not kept under way.
const UNDER_WAY: usize = 64;

struct Sent {
    frame: Vec<u8>,
    payload: Vec<u8>,
    epoch: u32,
}

struct World {
    here: Seal,
    there: Seal,
    now: Time,
    sent: Vec<Sent>,
    sequence: u64,
    /// What opened, and one more than the highest of it.
    seen: HashSet<u64>,
    next: u64,
    /// Of the last frame that opened under a later key.
    epoch: u32,
}

pub(crate) fn ends(data: &[u8]) {
    let mut choices = Choices::new(data);
    let (one, other) = ([1; KEY_BYTES], [2; KEY_BYTES]);
    let mut world = World {
        here: Seal::with(&Keys::new(one, other)),
        there: Seal::with(&Keys::new(other, one)),
        now: Time(1_000_000),
        sent: Vec::new(),
        sequence: 0,
        seen: HashSet::new(),
        next: 0,
        epoch: 0,
    };
    while !choices.is_empty() {
        match choices.below(6) {
            0 | 1 => world.send(&mut choices),
            2 | 3 => world.arrive(&mut choices),
            4 => world.change(&mut choices),
            _ => world.now = world.now + Duration::from_secs(choices.u8().into()),
        }
    }
}

impl World {
    fn send(&mut self, choices: &mut Choices<'_>) {
        // Some are lost before they are anything, or the stream pauses.
        self.sequence += u64::from(choices.u8()) * u64::from(choices.u8());
        let payload = choices.piece().to_vec();
        let header = Header {
            frame_type: FrameType::Data,
            flags: 0,
            hop_limit: 64,
            payload_length: payload.len().try_into().expect("two bytes say how long it is"),
            label: Label(choices.u8().into()),
            sequence: self.sequence,
            stamp: choices.u16().into(),
        };
        self.sequence += 1;
        let mut frame = vec![0; header.frame_bytes()];
        let (head, rest) = frame.split_at_mut(HEADER_BYTES);
        let (body, tag) = rest.split_at_mut(payload.len());
        header.emit(head);
        body.copy_from_slice(&payload);
        self.here.enter(head, body, tag, self.now).expect("it has its keys");
        let epoch = frame::epoch(&frame);
        if self.sent.len() == UNDER_WAY {
            self.sent.remove(0);
        }
        self.sent.push(Sent { frame, payload, epoch });
    }

    /// As it was sent, over whatever relays: now, and perhaps again later.
    fn arrive(&mut self, choices: &mut Choices<'_>) {
        if self.sent.is_empty() {
            return;
        }
        let sent = &self.sent[choices.below(self.sent.len())];
        let (mut frame, payload, epoch) = (sent.frame.clone(), sent.payload.clone(), sent.epoch);
        frame::relabel(&mut frame, Label(choices.u8().into()), choices.u8());
        frame::set_hop_tag(&mut frame, [choices.u8(); 16]);
        let header = frame::parse(&frame).expect("as it was sent");
        let came = self.there.leave(&mut frame, header.sequence, self.now);
        let old = self.next > REPLAY_FRAMES && header.sequence < self.next - REPLAY_FRAMES;
        if old || self.seen.contains(&header.sequence) {
            assert_eq!(came, Err(DropReason::Replayed), "{header:?}");
            return;
        }
        let near = epoch.abs_diff(self.epoch) <= 1;
        let far = epoch + 1 < self.epoch || epoch > self.epoch + SEAL_AHEAD_MAX;
        assert!(!(near && came.is_err()), "epoch {epoch} at {}: {came:?}", self.epoch);
        assert!(!(far && came.is_ok()), "epoch {epoch} at {}", self.epoch);
        if came.is_ok() {
            assert_eq!(frame::payload(&header, &frame), payload);
            self.seen.insert(header.sequence);
            self.next = self.next.max(header.sequence + 1);
            self.epoch = self.epoch.max(epoch);
        }
    }

    /// Something that nobody sealed so.
    fn change(&mut self, choices: &mut Choices<'_>) {
        let mut frame = match self.sent.len() {
            0 => choices.piece().to_vec(),
            many => self.sent[choices.below(many)].frame.clone(),
        };
        let Ok(before) = frame::parse(&frame) else { return };
        let (at, bits) = (usize::from(choices.u16()) % frame.len(), choices.u8().max(1));
        let ours = !self.sent.is_empty();
        frame[at] ^= bits;
        let Ok(header) = frame::parse(&frame) else { return };
        // Not covered: what relays write, which are hop limit, label and the hop's tag, and what is reserved.
        let bare = matches!(at, 2 | 3 | 6 | 7 | 8..16 | 32..48);
        if header.frame_type != before.frame_type || (ours && bare) {
            return;
        }
        let came = self.there.leave(&mut frame, header.sequence, self.now);
        assert!(matches!(came, Err(DropReason::BadSeal | DropReason::Replayed)), "{at}: {came:?}");
    }
}
