//! Which worker of this peer carries which channel.
//!
//! A channel belongs to one worker for both directions: the one with the least promised bandwidth when
//! it comes. When channels go and leave the workers uneven, one channel is moved for each that went: the
//! largest whose move makes the fullest worker emptier without filling the emptiest above it. Moving
//! costs frames a way through a ring between workers until the channel's path changes, so nothing is
//! moved for less than a quarter of the load.
//!
//! Pure; the engine moves a channel without losing or reordering frames.

use std::collections::{BTreeMap, BTreeSet};

use super::Key;
use crate::types::{Bandwidth, WorkerId};

/// Channels looked at for one that can be moved.
const CANDIDATES: usize = 8;

#[derive(Clone, Debug)]
pub(super) struct Balance {
    workers: Vec<Load>,
    here: BTreeMap<Key, (WorkerId, u64)>,
}

#[derive(Clone, Debug, Default)]
struct Load {
    /// Bit/s promised, both directions together.
    promised: u64,
    channels: BTreeSet<(u64, Key)>,
}

/// A channel that should belong to another worker.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) key: Key,
    pub(super) from: WorkerId,
    pub(super) to: WorkerId,
}

impl Balance {
    pub(super) fn new(workers: u8) -> Self {
        let workers = (0..workers.max(1)).map(|_| Load::default()).collect();
        Self { workers, here: BTreeMap::new() }
    }

    /// The worker with the least promised bandwidth takes the channel, both directions of it.
    pub(super) fn employ(&mut self, key: Key, rates: [Bandwidth; 2]) -> WorkerId {
        self.employ_beside(key, rates, None)
    }

    /// Where its sibling is, if it has one here.
    pub(super) fn employ_beside(
        &mut self,
        key: Key,
        rates: [Bandwidth; 2],
        beside: Option<WorkerId>,
    ) -> WorkerId {
        let worker = beside.unwrap_or_else(|| self.emptiest());
        self.put(key, worker, rates[0].bps() + rates[1].bps());
        worker
    }

    pub(super) fn dismiss(&mut self, key: &Key) {
        self.take(key);
    }

    pub(super) fn worker(&self, key: &Key) -> WorkerId {
        self.here.get(key).expect("employed when it came").0
    }

    /// The next step to even workers, among channels that can be moved now; it counts as done.
    pub(super) fn step(&mut self, movable: impl Fn(&Key, WorkerId) -> bool) -> Option<Step> {
        let (from, to) = (self.fullest(), self.emptiest());
        let full = &self.workers[usize::from(from.0)];
        let uneven = full.promised - self.workers[usize::from(to.0)].promised;
        if uneven <= full.promised / 4 {
            return None;
        }
        let smaller = full.channels.iter().rev().skip_while(|(rate, _)| *rate >= uneven);
        let (rate, key) = smaller.take(CANDIDATES).find(|(_, key)| movable(key, from))?.clone();
        self.take(&key);
        self.put(key.clone(), to, rate);
        Some(Step { key, from, to })
    }

    fn put(&mut self, key: Key, worker: WorkerId, rate: u64) {
        let load = &mut self.workers[usize::from(worker.0)];
        load.promised += rate;
        load.channels.insert((rate, key.clone()));
        self.here.insert(key, (worker, rate));
    }

    fn take(&mut self, key: &Key) {
        let (worker, rate) = self.here.remove(key).expect("employed when it came");
        let load = &mut self.workers[usize::from(worker.0)];
        load.promised -= rate;
        load.channels.remove(&(rate, key.clone()));
    }

    fn emptiest(&self) -> WorkerId {
        let least = self.workers.iter().enumerate().min_by_key(|(_, load)| load.promised);
        number(least.map(|(worker, _)| worker))
    }

    fn fullest(&self) -> WorkerId {
        let most = self.workers.iter().enumerate().max_by_key(|(_, load)| load.promised);
        number(most.map(|(worker, _)| worker))
    }
}

fn number(worker: Option<usize>) -> WorkerId {
    let worker = worker.expect("there is at least one worker");
    WorkerId(u8::try_from(worker).expect("workers are counted in a u8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ChannelId, PeerName};

    fn key(count: u64) -> Key {
        Key::Source(ChannelId { source: PeerName::new("peer-1").expect("a name"), boot: 1, count })
    }

    fn employ(balance: &mut Balance, count: u64, mbit: u64) -> u8 {
        let rates = [Bandwidth::from_bps(mbit * 1_000_000), Bandwidth::ZERO];
        balance.employ(key(count), rates).0
    }

    #[test]
    fn a20_the_worker_with_the_least_promised_bandwidth_takes_a_channel() {
        let mut balance = Balance::new(2);
        let workers: Vec<u8> = [(1, 10), (2, 4), (3, 4), (4, 4)]
            .map(|(count, mbit)| employ(&mut balance, count, mbit))
            .to_vec();
        assert_eq!(workers, [0, 1, 1, 1]);
        balance.dismiss(&key(1));
        assert_eq!(employ(&mut balance, 5, 1), 0);
        assert_eq!(balance.worker(&key(5)), WorkerId(0));
    }

    #[test]
    fn a20_uneven_workers_become_even_by_moving_channels() {
        let mut balance = Balance::new(2);
        for count in 0..8 {
            employ(&mut balance, count, 10);
        }
        for count in (0..8).step_by(2) {
            balance.dismiss(&key(count));
        }
        let step = balance.step(|_, _| true).expect("one side is empty");
        assert_eq!((step.from, step.to), (WorkerId(1), WorkerId(0)));
        assert_eq!(balance.worker(&step.key), WorkerId(0));
        assert!(balance.step(|_, _| true).is_some());
        assert_eq!(balance.step(|_, _| true), None, "two and two");
    }

    #[test]
    fn a_move_never_makes_the_other_worker_the_fuller_one_by_as_much() {
        let mut balance = Balance::new(2);
        employ(&mut balance, 1, 100);
        assert_eq!(balance.step(|_, _| true), None, "one channel is nowhere better");
        employ(&mut balance, 2, 1);
        assert_eq!(balance.step(|_, _| true), None);
    }

    #[test]
    fn a_channel_that_cannot_be_moved_now_stays() {
        let mut balance = Balance::new(2);
        for count in 0..4 {
            employ(&mut balance, count, 10);
        }
        balance.dismiss(&key(0));
        balance.dismiss(&key(2));
        assert_eq!(balance.step(|_, _| false), None);
        assert_eq!(balance.step(|moved, _| *moved == key(3)).expect("movable").key, key(3));
    }
}
