//! The ledger of one link: what its capacity is promised to, per direction, and the tombstones of what
//! ended (2.9).
//!
//! The unit is one transaction on one link: a rate out (towards the neighbour) and a rate in. The end
//! that sends in a direction decides what is admitted there, so only `out` can be refused here; `in` is
//! booked to be shown. If both ends could refuse both directions, two requests that meet on a link
//! could refuse each other for ever.
//!
//! Transactions of one channel that cross the link the same way share: its frames take one path at a
//! time, so the largest of them is what counts (2.9 rule 7; RSVP-TE calls it shared explicit). Those that
//! cross it in opposite directions add up: the two directions of a channel change paths at different
//! moments.
//!
//! Assumes that it is told the time; it acts on none. It knows nothing of paths, labels or messages.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Bound;

use crate::limits;
use crate::types::{Bandwidth, ChannelId, Time, TxId};

/// What one transaction takes of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Towards the neighbour.
    pub out: Bandwidth,
    /// From the neighbour.
    pub back: Bandwidth,
}

impl Rates {
    const NONE: Self = Self { out: Bandwidth::ZERO, back: Bandwidth::ZERO };

    /// The larger one each way.
    fn max(self, other: Self) -> Self {
        Self { out: self.out.max(other.out), back: self.back.max(other.back) }
    }
}

/// How firm a promise is, and until when it stands without another word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmness {
    /// The path is not accepted yet.
    Held(Time),
    /// Accepted; the lease, which each refresh prolongs.
    Committed(Time),
}

/// Which way a path crosses the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crossing {
    /// The neighbour is the next hop towards the service.
    There,
    /// The neighbour is the next hop towards the asker.
    Back,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    pub rates: Rates,
    pub crossing: Crossing,
    pub firmness: Firmness,
    /// When the channel was asked for: of two the larger is the younger.
    pub ticket: u64,
}

impl Promise {
    pub fn until(&self) -> Time {
        match self.firmness {
            Firmness::Held(until) | Firmness::Committed(until) => until,
        }
    }
}

/// What is asked for a transaction.
#[derive(Clone, Copy, Debug)]
pub struct Hold {
    pub rates: Rates,
    pub crossing: Crossing,
    pub until: Time,
    pub ticket: u64,
}

/// There is not enough room: this much is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    pub free: Bandwidth,
}

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} are free", self.free)
    }
}

/// The ledger of one link.
///
/// Invariant: when something is admitted, the sum out is at most the usable capacity, and each sum is
/// that of its entries, those that share counted once. A capacity that falls later leaves nothing free;
/// it breaks no promise here.
#[derive(Clone, Debug)]
pub struct Ledger {
    usable: Bandwidth,
    promises: BTreeMap<TxId, Promise>,
    out: Bandwidth,
    back: Bandwidth,
}

impl Ledger {
    pub fn new(usable: Bandwidth) -> Self {
        Self { usable, promises: BTreeMap::new(), out: Bandwidth::ZERO, back: Bandwidth::ZERO }
    }

    pub fn usable(&self) -> Bandwidth {
        self.usable
    }

    pub fn set_usable(&mut self, usable: Bandwidth) {
        self.usable = usable;
    }

    pub fn free_out(&self) -> Bandwidth {
        self.usable.saturating_sub(self.out)
    }

    /// What would be free if this channel had nothing here.
    pub fn free_without(&self, channel: &ChannelId) -> Bandwidth {
        self.usable.saturating_sub(self.out.saturating_sub(self.of_channel(channel).out))
    }

    /// What a channel has here, crossing either way.
    pub fn of_channel(&self, channel: &ChannelId) -> Rates {
        let ways = [Crossing::There, Crossing::Back].map(|way| self.shared(channel, way));
        let sum = |one: Bandwidth, other| one.checked_add(other).expect("a part of the sums");
        ways.into_iter().flatten().fold(Rates::NONE, |all, rates| Rates {
            out: sum(all.out, rates.out),
            back: sum(all.back, rates.back),
        })
    }

    pub fn free_in(&self) -> Bandwidth {
        self.usable.saturating_sub(self.back)
    }

    pub fn is_empty(&self) -> bool {
        self.promises.is_empty()
    }

    /// What is promised in all.
    pub fn promised(&self) -> Rates {
        Rates { out: self.out, back: self.back }
    }

    /// By how much the sums grow if this is held: transactions of one channel share.
    pub fn more(&self, tx: &TxId, rates: Rates, crossing: Crossing) -> Rates {
        if self.promises.contains_key(tx) {
            return Rates::NONE;
        }
        let before = self.shared(&tx.channel, crossing).unwrap_or(Rates::NONE);
        let more = |after: Bandwidth, before| after.saturating_sub(before);
        Rates { out: more(rates.out, before.out), back: more(rates.back, before.back) }
    }

    /// Holds something for `tx`. The same transaction again changes nothing.
    pub fn hold(&mut self, tx: &TxId, hold: Hold) -> Result<(), Short> {
        let Hold { rates, crossing, until, ticket } = hold;
        if self.promises.contains_key(tx) {
            return Ok(());
        }
        let shared = self.shared(&tx.channel, crossing);
        let before = shared.unwrap_or(Rates::NONE);
        let after = before.max(rates);
        if after.out > before.out || shared.is_none() {
            // Not `rates.out > free`: after the capacity fell, a rate of zero must not pass either.
            let out = self.out.saturating_sub(before.out).checked_add(after.out);
            let out = out.filter(|out| *out <= self.usable);
            self.out = out.ok_or_else(|| Short { free: self.free_out() })?;
            assert!(self.out <= self.usable, "a12: the link is oversold: {self:?}");
        }
        self.back = self.back.saturating_sub(before.back);
        self.back =
            self.back.checked_add(after.back).expect("channels are bounded, and so are rates");
        let firmness = Firmness::Held(until);
        self.promises.insert(tx.clone(), Promise { rates, crossing, firmness, ticket });
        Ok(())
    }

    /// Turns what is held for `tx` into a promise with a lease. `false`: there is nothing.
    pub fn commit(&mut self, tx: &TxId, lease: Time) -> bool {
        self.promises
            .get_mut(tx)
            .map(|promise| promise.firmness = Firmness::Committed(lease))
            .is_some()
    }

    /// Prolongs the lease of a committed transaction. `false`: there is none.
    pub fn refresh(&mut self, tx: &TxId, lease: Time) -> bool {
        match self.promises.get_mut(tx) {
            Some(Promise { firmness: Firmness::Committed(until), .. }) => {
                *until = lease.max(*until);
                true
            }
            _ => false,
        }
    }

    /// Gives back what `tx` has. `false`: it had nothing.
    pub fn release(&mut self, tx: &TxId) -> bool {
        let Some(Promise { crossing, .. }) = self.promises.get(tx).copied() else { return false };
        let before = self.shared(&tx.channel, crossing).expect("it is one of them");
        self.promises.remove(tx);
        let after = self.shared(&tx.channel, crossing).unwrap_or(Rates::NONE);
        let left = |sum: Bandwidth, before, after| {
            sum.saturating_sub(before).checked_add(after).expect("less than before")
        };
        self.out = left(self.out, before.out, after.out);
        self.back = left(self.back, before.back, after.back);
        true
    }

    /// While more is promised than can be kept: what goes first, the youngest channel.
    pub fn surplus(&self) -> Option<&TxId> {
        let over = self.out > self.usable;
        let sends = |(_, promise): &(&TxId, &Promise)| promise.rates.out > Bandwidth::ZERO;
        let youngest = self.promises.iter().filter(sends);
        let youngest = youngest.max_by_key(|(tx, promise)| (promise.ticket, *tx));
        youngest.filter(|_| over).map(|(tx, _)| tx)
    }

    pub fn promise(&self, tx: &TxId) -> Option<&Promise> {
        self.promises.get(tx)
    }

    pub fn promises(&self) -> impl Iterator<Item = (&TxId, &Promise)> {
        self.promises.iter()
    }

    /// Those behind this one, in the order of [`Ledger::promises`]; all without one.
    pub fn promises_after(&self, tx: Option<&TxId>) -> impl Iterator<Item = (&TxId, &Promise)> {
        let from = tx.map_or(Bound::Unbounded, Bound::Excluded);
        self.promises.range::<TxId, _>((from, Bound::Unbounded))
    }

    /// Panics if a sum is not that of its entries.
    pub fn invariants(&self) {
        let mut shares: BTreeMap<(&ChannelId, bool), Rates> = BTreeMap::new();
        for (tx, promise) in &self.promises {
            let there = promise.crossing == Crossing::There;
            let share = shares.entry((&tx.channel, there)).or_insert(Rates::NONE);
            *share = share.max(promise.rates);
        }
        let sum = |rate: fn(&Rates) -> Bandwidth| -> u128 {
            shares.values().map(|share| u128::from(rate(share).bps())).sum()
        };
        assert_eq!(sum(|rates| rates.out), u128::from(self.out.bps()), "sum of promises out");
        assert_eq!(sum(|rates| rates.back), u128::from(self.back.bps()), "sum of promises in");
    }

    /// What the transactions of a channel that cross this way take together.
    fn shared(&self, channel: &ChannelId, crossing: Crossing) -> Option<Rates> {
        let first = TxId { channel: channel.clone(), attempt: 0 };
        let of_channel = self.promises.range(first..).take_while(|(tx, _)| tx.channel == *channel);
        let same_way = of_channel.filter(|(_, promise)| promise.crossing == crossing);
        same_way.map(|(_, promise)| promise.rates).reduce(Rates::max)
    }
}

/// What ended lately: a late RESERVE must not bring it back (2.9 rule 4).
///
/// Attempts of a channel only grow, so one number a channel is enough: attempts up to it are dead.
#[derive(Clone, Debug, Default)]
pub struct Tombstones {
    graves: BTreeMap<ChannelId, Grave>,
    /// In the order they run out; an entry that its channel has outlived is skipped.
    order: VecDeque<(Time, ChannelId)>,
}

#[derive(Clone, Copy, Debug)]
struct Grave {
    attempt: u32,
    closed: bool,
    until: Time,
}

/// What a tombstone says of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dead {
    /// This attempt ended; a later one may come.
    Attempt,
    /// An end closed the channel.
    Channel,
}

impl Tombstones {
    /// Remembers that `tx` ended, or with `closed` its whole channel.
    pub fn bury(&mut self, now: Time, tx: &TxId, closed: bool) {
        self.forget(now);
        let until = now + limits::TOMBSTONE;
        let grave = self.graves.entry(tx.channel.clone()).or_insert(Grave {
            attempt: tx.attempt,
            closed,
            until,
        });
        grave.attempt = grave.attempt.max(tx.attempt);
        grave.closed |= closed;
        grave.until = until;
        self.order.push_back((until, tx.channel.clone()));
        if self.order.len() > limits::TOMBSTONES_MAX {
            self.remove_first();
        }
    }

    pub fn dead(&self, now: Time, tx: &TxId) -> Option<Dead> {
        let grave = self.graves.get(&tx.channel).filter(|grave| grave.until > now)?;
        match grave {
            Grave { closed: true, .. } => Some(Dead::Channel),
            Grave { attempt, .. } if tx.attempt <= *attempt => Some(Dead::Attempt),
            Grave { .. } => None,
        }
    }

    fn forget(&mut self, now: Time) {
        while self.order.front().is_some_and(|(until, _)| *until <= now) {
            self.remove_first();
        }
    }

    fn remove_first(&mut self) {
        let Some((until, channel)) = self.order.pop_front() else { return };
        if self.graves.get(&channel).is_some_and(|grave| grave.until == until) {
            self.graves.remove(&channel);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::PeerName;

    fn tx(count: u64, attempt: u32) -> TxId {
        let source = PeerName::new("a").expect("name");
        TxId { channel: ChannelId { source, boot: 1, count }, attempt }
    }

    fn rates(out: u64, back: u64) -> Rates {
        Rates { out: Bandwidth::from_bps(out), back: Bandwidth::from_bps(back) }
    }

    fn hold(ledger: &mut Ledger, tx: &TxId, rates: Rates, until: Time) -> Result<(), Short> {
        let crossing = Crossing::There;
        ledger.hold(tx, Hold { rates, crossing, until, ticket: tx.channel.count })
    }

    fn free(ledger: &Ledger) -> (u64, u64) {
        (ledger.free_out().bps(), ledger.free_in().bps())
    }

    #[test]
    fn what_is_released_is_free_again() {
        let mut ledger = Ledger::new(Bandwidth::from_bps(100));
        assert_eq!(hold(&mut ledger, &tx(1, 1), rates(60, 10), Time(5)), Ok(()));
        assert_eq!(free(&ledger), (40, 90));
        assert!(ledger.commit(&tx(1, 1), Time(9)));
        assert!(ledger.release(&tx(1, 1)));
        assert_eq!(free(&ledger), (100, 100));
        assert!(!ledger.release(&tx(1, 1)) && !ledger.commit(&tx(1, 1), Time(9)));
    }

    #[test]
    fn the_same_transaction_again_changes_nothing() {
        let mut ledger = Ledger::new(Bandwidth::from_bps(100));
        assert_eq!(hold(&mut ledger, &tx(1, 1), rates(60, 10), Time(5)), Ok(()));
        assert_eq!(hold(&mut ledger, &tx(1, 1), rates(60, 10), Time(7)), Ok(()));
        assert_eq!(free(&ledger), (40, 90));
        assert_eq!(ledger.promise(&tx(1, 1)).map(Promise::until), Some(Time(5)));
    }

    #[test]
    fn a12_what_no_longer_fits_goes_the_youngest_first() {
        let mut ledger = Ledger::new(Bandwidth::from_bps(100));
        for (count, out) in [(2, 30), (3, 0), (1, 50), (4, 20)] {
            assert_eq!(hold(&mut ledger, &tx(count, 1), rates(out, 1), Time(5)), Ok(()));
        }
        assert_eq!(ledger.surplus(), None);
        ledger.set_usable(Bandwidth::from_bps(60));
        let mut gone = Vec::new();
        while let Some(tx) = ledger.surplus().cloned() {
            gone.push(tx.channel.count);
            assert!(ledger.release(&tx));
        }
        assert_eq!(gone, [4, 2], "the third takes nothing of this direction");
        ledger.invariants();
    }

    #[test]
    fn only_the_sending_end_of_a_direction_refuses() {
        let mut ledger = Ledger::new(Bandwidth::from_bps(100));
        assert_eq!(hold(&mut ledger, &tx(1, 1), rates(60, 1_000), Time(5)), Ok(()));
        let short = Short { free: Bandwidth::from_bps(40) };
        assert_eq!(hold(&mut ledger, &tx(2, 1), rates(41, 0), Time(5)), Err(short));
        assert_eq!(free(&ledger), (40, 0));
    }

    #[test]
    fn a_capacity_that_falls_leaves_nothing_free_and_breaks_no_promise() {
        let mut ledger = Ledger::new(Bandwidth::from_bps(100));
        assert_eq!(hold(&mut ledger, &tx(1, 1), rates(60, 60), Time(5)), Ok(()));
        ledger.set_usable(Bandwidth::from_bps(50));
        assert_eq!(free(&ledger), (0, 0));
        assert!(hold(&mut ledger, &tx(2, 1), rates(1, 0), Time(5)).is_err());
        ledger.invariants();
        assert!(ledger.release(&tx(1, 1)));
        assert_eq!(free(&ledger), (50, 50));
    }

    #[test]
    fn a17_two_paths_of_a_channel_count_once_where_they_cross_a_link_the_same_way() {
        let mut ledger = Ledger::new(Bandwidth::from_bps(100));
        let there = |ledger: &mut Ledger, attempt, out, back| {
            hold(ledger, &tx(1, attempt), rates(out, back), Time(5))
        };
        assert_eq!(there(&mut ledger, 1, 60, 10), Ok(()));
        assert_eq!(there(&mut ledger, 2, 60, 10), Ok(()));
        assert_eq!((free(&ledger), there(&mut ledger, 3, 90, 5)), ((40, 90), Ok(())));
        assert_eq!(free(&ledger), (10, 90));
        // Another channel, and the other way, share nothing.
        let short = Err(Short { free: Bandwidth::from_bps(10) });
        assert_eq!(hold(&mut ledger, &tx(2, 1), rates(11, 0), Time(5)), short);
        let back = |out| Hold {
            rates: rates(out, 0),
            crossing: Crossing::Back,
            until: Time(5),
            ticket: 1,
        };
        assert_eq!(ledger.hold(&tx(1, 4), back(11)), short);
        assert_eq!(ledger.hold(&tx(1, 5), back(10)), Ok(()));
        ledger.invariants();
        for (attempt, left) in [(3, (30, 90)), (1, (30, 90)), (5, (40, 90)), (2, (100, 100))] {
            assert!(ledger.release(&tx(1, attempt)));
            assert_eq!(free(&ledger), left, "after {attempt}");
        }
        // What shares adds nothing, even where the capacity fell meanwhile.
        assert_eq!(there(&mut ledger, 6, 60, 10), Ok(()));
        ledger.set_usable(Bandwidth::from_bps(50));
        assert_eq!(there(&mut ledger, 7, 60, 10), Ok(()));
        assert!(there(&mut ledger, 8, 61, 0).is_err());
        ledger.invariants();
    }

    #[test]
    fn a_refresh_prolongs_leases_and_revives_nothing() {
        let mut ledger = Ledger::new(Bandwidth::from_bps(100));
        assert_eq!(hold(&mut ledger, &tx(1, 1), rates(60, 10), Time(5)), Ok(()));
        assert!(!ledger.refresh(&tx(1, 1), Time(20)), "held, not committed");
        assert!(ledger.commit(&tx(1, 1), Time(9)));
        assert!(ledger.refresh(&tx(1, 1), Time(20)));
        assert!(ledger.refresh(&tx(1, 1), Time(15)));
        assert_eq!(ledger.promise(&tx(1, 1)).map(Promise::until), Some(Time(20)));
        assert!(!ledger.refresh(&tx(2, 1), Time(20)));
    }

    #[test]
    fn a_tombstone_covers_earlier_attempts_and_a_closed_channel_all() {
        let mut tombstones = Tombstones::default();
        tombstones.bury(Time(0), &tx(1, 3), false);
        assert_eq!(tombstones.dead(Time(1), &tx(1, 2)), Some(Dead::Attempt));
        assert_eq!(tombstones.dead(Time(1), &tx(1, 3)), Some(Dead::Attempt));
        assert_eq!(tombstones.dead(Time(1), &tx(1, 4)), None);
        assert_eq!(tombstones.dead(Time(1), &tx(2, 1)), None);
        tombstones.bury(Time(2), &tx(1, 3), true);
        tombstones.bury(Time(3), &tx(1, 2), false);
        assert_eq!(tombstones.dead(Time(4), &tx(1, 9)), Some(Dead::Channel));
        let late = Time(3) + limits::TOMBSTONE;
        assert_eq!(tombstones.dead(late - limits::HOLD, &tx(1, 9)), Some(Dead::Channel));
        assert_eq!(tombstones.dead(late, &tx(1, 1)), None);
    }

    #[test]
    fn tombstones_are_bounded_and_the_oldest_goes_first() {
        let mut tombstones = Tombstones::default();
        for count in 0..=limits::TOMBSTONES_MAX as u64 {
            tombstones.bury(Time(count), &tx(count, 1), false);
        }
        assert_eq!(tombstones.graves.len(), limits::TOMBSTONES_MAX);
        let now = Time(limits::TOMBSTONES_MAX as u64);
        assert_eq!(tombstones.dead(now, &tx(0, 1)), None);
        assert_eq!(tombstones.dead(now, &tx(1, 1)), Some(Dead::Attempt));
        tombstones.bury(now + limits::TOMBSTONE, &tx(1, 1), false);
        assert_eq!((tombstones.graves.len(), tombstones.order.len()), (1, 1));
    }

    proptest! {
        /// Against a model that recounts everything at each step.
        #[test]
        fn a12_a_ledger_admits_exactly_what_fits(
            steps in proptest::collection::vec(
                (0u8..5, 0u64..8, 1u32..4, any::<bool>(), 0u64..60, 0u64..60), 1..200)
        ) {
            type Model = BTreeMap<(u64, u32), (bool, u64)>;
            let sum = |model: &Model| -> u64 {
                let share = |count: u64, there: bool| {
                    let of = model.iter().filter(|((c, _), (t, _))| (*c, *t) == (count, there));
                    of.map(|(_, (_, out))| *out).max().unwrap_or(0)
                };
                (0..8).map(|count| share(count, true) + share(count, false)).sum()
            };
            let mut usable = 100;
            let mut ledger = Ledger::new(Bandwidth::from_bps(usable));
            let mut model = Model::new();
            for (kind, count, attempt, there, out, back) in steps {
                let id = (count, attempt);
                match kind {
                    0 | 1 => {
                        let way = if there { Crossing::There } else { Crossing::Back };
                        let tx = tx(count, attempt);
                        let rates = rates(out, back);
                        let hold = Hold { rates, crossing: way, until: Time(9), ticket: 1 };
                        let held = ledger.hold(&tx, hold).is_ok();
                        let known = model.contains_key(&id);
                        let before = sum(&model);
                        let shares = model.iter().any(|((c, _), (t, _))| (*c, *t) == (count, there));
                        let mut with = model.clone();
                        with.entry(id).or_insert((there, out));
                        let nothing_more = shares && sum(&with) == before;
                        prop_assert_eq!(held, known || nothing_more || sum(&with) <= usable);
                        if held {
                            model = with;
                        }
                    }
                    2 => prop_assert_eq!(
                        ledger.release(&tx(count, attempt)), model.remove(&id).is_some()),
                    3 => prop_assert_eq!(
                        ledger.commit(&tx(count, attempt), Time(30)), model.contains_key(&id)),
                    _ => {
                        usable = out * 3;
                        ledger.set_usable(Bandwidth::from_bps(usable));
                    }
                }
                prop_assert_eq!(ledger.free_out().bps(), usable.saturating_sub(sum(&model)));
                ledger.invariants();
            }
        }
    }
}
