//! The ledger of a host: what its links carry together, each way (`[host] egress`, `ingress`; decision 2
//! and 2.8 of the control-plane specification). The links of a host often share one network card.
//!
//! ```text
//!  channel from prev to next, 20 there, 1 back    egress  20 (to next) + 1 (to prev)
//!                                                 ingress 20 (from prev) + 1 (from next)
//! ```
//!
//! Here the host itself decides both ways: nobody else knows its budgets. Transactions of one channel
//! share as they do on a link, whichever link they take. Assumes that every hold and release of a link's
//! [`Ledger`] is told to this one too.

use super::Budgets;
use super::reservation::{Crossing, Hold, Ledger, Promise, Rates, Short};
use crate::types::{Bandwidth, ChannelId, TxId, Way};

#[derive(Clone, Debug)]
pub struct HostLedger {
    /// After the control share; without a limit as much as can be said.
    usable: Rates,
    there: Ledger,
    back: Ledger,
}

impl HostLedger {
    pub fn new(budgets: Budgets) -> Self {
        let boundless = Ledger::new(Bandwidth::MAX);
        Self { usable: usable(budgets), there: boundless.clone(), back: boundless }
    }

    pub fn set_budgets(&mut self, budgets: Budgets) {
        self.usable = usable(budgets);
    }

    pub fn usable(&self, way: Way) -> Bandwidth {
        along(way, self.usable)
    }

    pub fn free(&self, way: Way) -> Bandwidth {
        self.usable(way).saturating_sub(self.promised(way))
    }

    /// What would be free if the channel held nothing.
    pub fn free_without(&self, way: Way, channel: &ChannelId) -> Bandwidth {
        let own = [&self.there, &self.back];
        let own = own.map(|ledger| along(way, ledger.of_channel(channel)));
        let others = own.into_iter().fold(self.promised(way), Bandwidth::saturating_sub);
        self.usable(way).saturating_sub(others)
    }

    fn promised(&self, way: Way) -> Bandwidth {
        let [there, back] = [&self.there, &self.back].map(|ledger| along(way, ledger.promised()));
        there.checked_add(back).unwrap_or(Bandwidth::MAX)
    }

    /// Holds what a transaction takes of the host on one of its links, or says which way is short.
    pub fn hold(&mut self, tx: &TxId, hold: Hold) -> Result<(), (Way, Bandwidth, Short)> {
        let more = self.side(hold.crossing).more(tx, hold.rates, hold.crossing);
        for way in Way::BOTH {
            let (asked, free) = (along(way, more), self.free(way));
            if asked > Bandwidth::ZERO && asked > free {
                // A relay that got one direction and not the other is short of both together.
                let both = |rate: Bandwidth| rate.checked_add(self.has(tx, way)).unwrap_or(rate);
                return Err((way, both(asked), Short { free: both(free) }));
            }
        }
        let held = self.side(hold.crossing).hold(tx, hold);
        assert!(held.is_ok(), "a ledger without a bound");
        for way in Way::BOTH {
            assert!(
                along(way, more) == Bandwidth::ZERO || self.promised(way) <= self.usable(way),
                "a12"
            );
        }
        Ok(())
    }

    /// Gives back what a transaction has of the host where it crosses a link this way.
    pub fn release(&mut self, tx: &TxId, crossing: Crossing) {
        assert!(self.side(crossing).release(tx), "a16: every hold on a link is one on its host");
    }

    /// While more is promised than can be kept: what goes first, the youngest channel.
    pub fn surplus(&self) -> Option<&TxId> {
        let over = Way::BOTH.into_iter().find(|way| self.promised(*way) > self.usable(*way))?;
        let takes =
            self.promises().filter(|(_, promise)| along(over, promise.rates) > Bandwidth::ZERO);
        takes.max_by_key(|(tx, promise)| (promise.ticket, *tx)).map(|(tx, _)| tx)
    }

    pub fn promises(&self) -> impl Iterator<Item = (&TxId, &Promise)> {
        self.there.promises().chain(self.back.promises())
    }

    /// Panics if a sum is not that of its entries.
    pub fn invariants(&self) {
        self.there.invariants();
        self.back.invariants();
    }

    /// What a transaction holds.
    fn has(&self, tx: &TxId, way: Way) -> Bandwidth {
        let promises = [&self.there, &self.back].map(|ledger| ledger.promise(tx));
        let rates = promises.into_iter().flatten().map(|promise| along(way, promise.rates));
        rates.max().unwrap_or(Bandwidth::ZERO)
    }

    fn side(&mut self, crossing: Crossing) -> &mut Ledger {
        match crossing {
            Crossing::There => &mut self.there,
            Crossing::Back => &mut self.back,
        }
    }
}

fn along(way: Way, rates: Rates) -> Bandwidth {
    match way {
        Way::Egress => rates.out,
        Way::Ingress => rates.back,
    }
}

fn usable(Budgets { egress, ingress }: Budgets) -> Rates {
    let usable = |budget: Option<Bandwidth>| budget.map_or(Bandwidth::MAX, Bandwidth::usable);
    Rates { out: usable(egress), back: usable(ingress) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{PeerName, Time};

    /// Usable: what is left of the budgets when the control share is taken off.
    const EGRESS: u64 = 38_000_000;

    fn host() -> HostLedger {
        let egress = Some(Bandwidth::from_bps(40_000_000));
        HostLedger::new(Budgets { egress, ingress: None })
    }

    fn tx(count: u64, attempt: u32) -> TxId {
        let source = PeerName::new("a").expect("name");
        TxId { channel: ChannelId { source, boot: 1, count }, attempt }
    }

    /// Of a rate in Mbit/s.
    fn bps(rate: u64) -> Bandwidth {
        Bandwidth::from_bps(rate * 1_000_000)
    }

    /// In Mbit/s.
    fn hold(out: u64, back: u64, crossing: Crossing) -> Hold {
        let rates = Rates { out: bps(out), back: bps(back) };
        Hold { rates, crossing, until: Time(9), ticket: out }
    }

    fn free(host: &HostLedger) -> u64 {
        host.free(Way::Egress).bps() / 1_000_000
    }

    #[test]
    fn a12_both_directions_of_a_channel_leave_a_relay() {
        let mut host = host();
        assert_eq!(host.usable(Way::Egress).bps(), EGRESS);
        assert_eq!(host.hold(&tx(1, 1), hold(20, 3, Crossing::There)), Ok(()));
        assert_eq!(host.hold(&tx(1, 1), hold(3, 20, Crossing::Back)), Ok(()));
        assert_eq!(free(&host), 15);
        let short = (Way::Egress, bps(16), Short { free: bps(15) });
        assert_eq!(host.hold(&tx(2, 1), hold(16, 0, Crossing::There)), Err(short));
        assert_eq!(host.hold(&tx(2, 1), hold(15, 999, Crossing::There)), Ok(()));
        host.release(&tx(1, 1), Crossing::There);
        assert_eq!(free(&host), 20);
        host.invariants();
    }

    #[test]
    fn a12_two_paths_of_one_channel_count_once_whichever_links_they_take() {
        let mut host = host();
        assert_eq!(host.hold(&tx(1, 1), hold(30, 0, Crossing::There)), Ok(()));
        assert_eq!(host.hold(&tx(1, 2), hold(30, 0, Crossing::There)), Ok(()));
        assert_eq!(free(&host), 8);
        host.release(&tx(1, 1), Crossing::There);
        assert_eq!(free(&host), 8);
    }

    #[test]
    fn a12_a_smaller_budget_costs_the_youngest_channel() {
        let mut host = host();
        for (count, rate) in [(1, 12), (2, 11), (3, 10)] {
            assert_eq!(host.hold(&tx(count, 1), hold(rate, 5, Crossing::There)), Ok(()));
        }
        assert_eq!(host.surplus(), None);
        host.set_budgets(Budgets { egress: Some(Bandwidth::from_bps(30_000_000)), ingress: None });
        assert_eq!(host.surplus(), Some(&tx(1, 1)), "its ticket is the latest");
        host.release(&tx(1, 1), Crossing::There);
        assert_eq!(host.surplus(), None);
    }
}
