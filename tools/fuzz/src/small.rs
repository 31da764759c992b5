//! Small machines against slow obvious ones.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, LazyLock};

use spanway::engine::replay::Replay;
use spanway::engine::ring::Rings;
use spanway::limits::{ARRIVING_MAX, INBOX_MAX, REPLAY_FRAMES};
use spanway::net::EventFd;
use spanway::types::WorkerId;

use super::bytes::Choices;

pub(crate) fn replay(data: &[u8]) {
    let mut choices = Choices::new(data);
    let (mut replay, mut seen, mut next) = (Replay::default(), HashSet::new(), 0_u64);
    while !choices.is_empty() {
        let sequence = match choices.below(4) {
            0 => next.saturating_add(choices.u16().into()),
            1 => next.saturating_sub(choices.u16().into()),
            2 => choices.u64(),
            _ => next.saturating_sub(REPLAY_FRAMES).saturating_add(u64::from(choices.u8()) / 8),
        };
        let old = next > REPLAY_FRAMES && sequence < next - REPLAY_FRAMES;
        let new = sequence != u64::MAX && !old && seen.insert(sequence);
        assert_eq!(replay.is_new(sequence), new, "{sequence} of {next}");
        if new {
            replay.mark(sequence);
            next = next.max(sequence + 1);
        }
    }
}

static WAKES: LazyLock<[Arc<EventFd>; 3]> =
    LazyLock::new(|| [(); 3].map(|()| Arc::new(EventFd::new().expect("a descriptor"))));

pub(crate) fn ring(data: &[u8]) {
    let mut choices = Choices::new(data);
    let rings: Rings<u64, u64> = Rings::new(WAKES.iter().cloned());
    let mut frames: BTreeMap<u8, VecDeque<u64>> = BTreeMap::new();
    let mut channels: BTreeMap<u8, VecDeque<u64>> = BTreeMap::new();
    let mut count = 0;
    while !choices.is_empty() {
        let (what, to) = (choices.below(5), choices.below(3) as u8);
        let (worker, frames) = (WorkerId(to), frames.entry(to).or_default());
        let channels = channels.entry(to).or_default();
        match what {
            0 => {
                for _ in 0..choices.u16() % 700 {
                    count += 1;
                    let room = frames.len() < INBOX_MAX;
                    assert_eq!(rings.pass(worker, count).is_ok(), room);
                    if room {
                        frames.push_back(count);
                    }
                }
            }
            1 => assert_eq!(rings.next(worker), frames.pop_front()),
            2 => {
                let room = channels.len() < ARRIVING_MAX;
                assert_eq!(rings.has_room_for_channel(worker), room);
                if room {
                    count += 1;
                    channels.push_back(count);
                    rings.send_channel(worker, Box::new(count));
                }
            }
            3 => {
                assert_eq!(rings.next_channel(worker).map(|channel| *channel), channels.pop_front())
            }
            _ => {
                let empty = frames.is_empty() && channels.is_empty();
                assert_eq!(rings.may_wait(worker), empty);
                rings.woke(worker);
            }
        }
    }
}
