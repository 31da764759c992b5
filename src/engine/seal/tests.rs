//! Seals against a wire that loses, repeats, reorders and bends.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::limits::{HOP_LIMIT_START, REPLAY_FRAMES};
use crate::types::Label;
use crate::wire::frame::{END_TAG_BYTES, FrameType, Header, relabel, set_hop_tag};

const T: Time = Time(1_000_000);

fn keys(of: u8) -> Keys {
    Keys::new([of; KEY_BYTES], [of + 1; KEY_BYTES])
}

/// The two ends of a channel.
fn ends() -> (Sealed, Sealed) {
    let Keys { send, receive } = keys(1);
    let end =
        |send: &_, receive: &_| Sealed { sealer: Sealer::new(send), opener: Opener::new(receive) };
    (end(&send, &receive), end(&receive, &send))
}

fn frame_of(sealer: &mut Sealer, sequence: u64, payload: &[u8], now: Time) -> Vec<u8> {
    let header = Header {
        frame_type: FrameType::Data,
        flags: 0,
        hop_limit: HOP_LIMIT_START,
        payload_length: u16::try_from(payload.len()).unwrap(),
        label: Label(7),
        sequence,
        stamp: 99,
    };
    let mut bytes = vec![0; header.frame_bytes()];
    header.emit(&mut bytes);
    bytes[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(payload);
    let (head, rest) = bytes.split_at_mut(HEADER_BYTES);
    let (body, tag) = rest.split_at_mut(payload.len());
    sealer.seal(head, body, tag, now);
    bytes
}

/// What is in it for this end.
fn opened(opener: &mut Opener, frame: &[u8], now: Time) -> Result<Vec<u8>, DropReason> {
    let mut bytes = frame.to_vec();
    let header = frame::parse(&bytes).map_err(|_| DropReason::Malformed)?;
    opener.open(&mut bytes, header.sequence, now)?;
    Ok(frame::payload(&header, &bytes).to_vec())
}

#[test]
fn what_one_end_seals_the_other_opens_and_nobody_else() {
    let (mut here, mut there) = ends();
    for size in [0, 1, 15, 16, 200, 1_408] {
        let payload = vec![0x5a; size];
        let sequence = size as u64;
        let frame = frame_of(&mut here.sealer, sequence, &payload, T);
        let inside = frame.windows(8).any(|part| part == [0x5a; 8]);
        assert!(!inside, "the payload is not in the frame");
        assert_eq!(
            opened(&mut here.opener, &frame, T),
            Err(DropReason::BadSeal),
            "its own way back"
        );
        let mut stranger = Opener::new(&keys(9).receive);
        assert_eq!(opened(&mut stranger, &frame, T), Err(DropReason::BadSeal));
        assert_eq!(opened(&mut there.opener, &frame, T), Ok(payload));
    }
}

#[test]
fn a_relay_may_change_label_hop_limit_and_hop_tag() {
    let (mut here, mut there) = ends();
    let mut frame = frame_of(&mut here.sealer, 3, b"picture", T);
    relabel(&mut frame, Label(8), 3);
    set_hop_tag(&mut frame, [7; 16]);
    assert_eq!(opened(&mut there.opener, &frame, T), Ok(b"picture".to_vec()));
}

#[test]
fn every_other_bit_that_is_changed_is_noticed_and_moves_nothing() {
    let (mut here, mut there) = ends();
    let frame = frame_of(&mut here.sealer, 70_000, b"picture", T);
    let free = |byte: usize| matches!(byte, 2 | 3 | 6 | 7 | 8..16 | 32..48);
    for bit in (0..frame.len() * 8).filter(|bit| !free(bit / 8)) {
        let mut bent = frame.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        let result = opened(&mut there.opener, &bent, T);
        assert!(
            matches!(result, Err(DropReason::BadSeal | DropReason::Malformed)),
            "bit {bit}: {result:?}"
        );
    }
    assert_eq!((there.opener.epoch, there.opener.seen.is_new(1)), (0, true));
    assert!(opened(&mut there.opener, &frame, T).is_ok());
}

#[test]
fn a_frame_opens_once() {
    let (mut here, mut there) = ends();
    let frames: Vec<_> = (0..3).map(|n| frame_of(&mut here.sealer, n, b"x", T)).collect();
    for frame in [&frames[2], &frames[0], &frames[1]] {
        assert!(opened(&mut there.opener, frame, T).is_ok());
    }
    for frame in &frames {
        assert_eq!(opened(&mut there.opener, frame, T), Err(DropReason::Replayed));
    }
    let far = frame_of(&mut here.sealer, 10 * REPLAY_FRAMES, b"x", T);
    assert!(opened(&mut there.opener, &far, T).is_ok());
    let old = frame_of(&mut here.sealer, 5, b"x", T);
    assert_eq!(opened(&mut there.opener, &old, T), Err(DropReason::Replayed), "too old to tell");
}

#[test]
fn a_key_is_left_after_its_time_and_after_its_frames() {
    let (mut here, mut there) = ends();
    let mut sequence = 0;
    let mut epoch = |here: &mut Sealed, there: &mut Sealed, now| {
        sequence += 1;
        let frame = frame_of(&mut here.sealer, sequence, b"x", now);
        assert!(opened(&mut there.opener, &frame, now).is_ok());
        frame::epoch(&frame)
    };
    assert_eq!(epoch(&mut here, &mut there, T), 0);
    assert_eq!(epoch(&mut here, &mut there, T + (SEAL_KEY_LIFE - Duration::from_micros(1))), 0);
    let later = T + SEAL_KEY_LIFE;
    assert_eq!(epoch(&mut here, &mut there, later), 1);
    here.sealer.left = 1;
    assert_eq!(epoch(&mut here, &mut there, later), 1);
    assert_eq!(epoch(&mut here, &mut there, later), 2);
    assert_eq!(here.sealer.left, SEAL_FRAMES_MAX - 1);
    // A pause of a year is one change.
    let year = T + Duration::from_secs(31_536_000);
    assert_eq!((epoch(&mut here, &mut there, year), there.opener.epoch), (3, 3));
}

#[test]
fn a_change_of_keys_costs_no_frame_that_is_lost_or_late() {
    let (mut here, mut there) = ends();
    let life = SEAL_KEY_LIFE;
    let (one, two, three) = (T, T + life, T + life * 2);
    let times = [one, one, two, two, two, three, three];
    let frames: Vec<_> = (0_u8..)
        .zip(times)
        .map(|(n, now)| frame_of(&mut here.sealer, n.into(), &[n], now))
        .collect();
    assert_eq!(frame::epoch(&frames[6]), 2);
    // Of the second key one comes before the last of the first, and the last of it behind the third's.
    for number in [0_u8, 3, 1, 2, 6, 4] {
        let frame = &frames[usize::from(number)];
        assert_eq!(opened(&mut there.opener, frame, three), Ok(vec![number]));
    }
    assert_eq!(there.opener.epoch, 2);
    let mut slow = ends().1;
    assert!(opened(&mut slow.opener, &frames[6], three).is_ok(), "all before it was lost");
    assert_eq!(
        opened(&mut slow.opener, &frames[1], three),
        Err(DropReason::BadSeal),
        "two keys ago"
    );
}

#[test]
fn keys_far_ahead_are_looked_for_once_a_batch() {
    let (mut here, mut there) = ends();
    let mut now = T;
    let mut late = Vec::new();
    for number in 0..=u64::from(SEAL_AHEAD_MAX) + 1 {
        late.push(frame_of(&mut here.sealer, number, b"x", now));
        now = now + SEAL_KEY_LIFE;
    }
    let (too_far, last) = (late.pop().unwrap(), late.pop().unwrap());
    assert_eq!(opened(&mut there.opener, &too_far, now), Err(DropReason::BadSeal));
    let mut forged = last.clone();
    forged[HEADER_BYTES] ^= 1;
    assert_eq!(opened(&mut there.opener, &forged, now), Err(DropReason::BadSeal));
    assert_eq!(opened(&mut there.opener, &last, now), Err(DropReason::BadSeal), "the same batch");
    assert!(opened(&mut there.opener, &last, now + Duration::from_micros(1)).is_ok());
    assert_eq!(there.opener.epoch, SEAL_AHEAD_MAX);
    assert!(opened(&mut there.opener, &too_far, now).is_ok(), "the next one by then");
}

#[test]
fn an_end_without_keys_lets_nothing_in_or_out() {
    let (mut header, mut payload, mut tag) = ([0; HEADER_BYTES], *b"secret", [0; END_TAG_BYTES]);
    let mut seal = Seal::Awaited;
    let entered = seal.enter(&mut header, &mut payload, &mut tag, T);
    assert_eq!((entered, payload), (Err(DropReason::Early), *b"secret"));
    assert_eq!(seal.leave(&mut [0; 70], 1, T), Err(DropReason::Early));
    let mut plain = Seal::Plain;
    assert_eq!(plain.enter(&mut header, &mut payload, &mut tag, T), Ok(()));
    assert_eq!((payload, tag), (*b"secret", [0; END_TAG_BYTES]));
    assert_eq!(plain.leave(&mut [0; 70], 1, T), Ok(()));
}

#[test]
fn secrets_are_not_shown() {
    let shown = format!("{:?} {:?}", keys(0x77), Seal::with(&keys(0x77)));
    assert!(!shown.contains("77") && !shown.contains("119"), "{shown}");
}

/// What a wire does with the frames behind it.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Comes,
    Lost,
    /// Comes this much later.
    Late(usize),
    Twice,
    Bent(usize),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Comes),
        1 => Just(Fate::Lost),
        2 => (1..40_usize).prop_map(Fate::Late),
        1 => Just(Fate::Twice),
        1 => any::<usize>().prop_map(Fate::Bent),
    ]
}

proptest! {
    /// Whatever happens on the way: what opens is what was sealed, once, and all that came in time opens.
    #[test]
    fn what_opens_was_sealed_and_opens_once(
        fates in proptest::collection::vec((fate(), 0..3_u32), 1..200)
    ) {
        let (mut here, mut there) = ends();
        let mut now = T;
        let mut arrivals: Vec<(usize, u64, Vec<u8>, bool)> = Vec::new();
        for (place, (fate, tenths)) in fates.iter().enumerate() {
            now = now + SEAL_KEY_LIFE / 20 * *tenths;
            let sequence = place as u64;
            let frame = frame_of(&mut here.sealer, sequence, &sequence.to_be_bytes(), now);
            let honest = |at: usize| (at, sequence, frame.clone(), true);
            match *fate {
                Fate::Comes => arrivals.push(honest(place)),
                Fate::Lost => {}
                Fate::Late(by) => arrivals.push(honest(place + by)),
                Fate::Twice => arrivals.extend([honest(place), honest(place + 3)]),
                Fate::Bent(bit) => {
                    let mut bent = frame.clone();
                    let bit = HEADER_BYTES * 8 + bit % ((frame.len() - HEADER_BYTES) * 8);
                    bent[bit / 8] ^= 1 << (bit % 8);
                    arrivals.push((place, sequence, bent, false));
                }
            }
        }
        arrivals.sort_by_key(|(at, ..)| *at);
        let mut delivered = std::collections::BTreeSet::new();
        for (step, (_, sequence, frame, honest)) in arrivals.into_iter().enumerate() {
            let epoch = frame::epoch(&frame);
            let behind = there.opener.epoch.wrapping_sub(epoch);
            let at = now + Duration::from_micros(step as u64);
            match opened(&mut there.opener, &frame, at) {
                Ok(payload) => {
                    prop_assert!(honest);
                    prop_assert_eq!(payload, sequence.to_be_bytes().to_vec());
                    prop_assert!(delivered.insert(sequence), "{} came out twice", sequence);
                }
                Err(DropReason::Replayed) => prop_assert!(delivered.contains(&sequence)),
                // Older than the key before the one in use.
                Err(_) => prop_assert!(!honest || (behind > 1 && behind < 1_000), "{}", behind),
            }
        }
    }
}
