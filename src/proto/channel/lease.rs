//! What keeps reservations alive, and what wakes the machine (2.9 rule 5).
//!
//! Both ends of a channel name it in a REFRESH to their neighbour at every interval; one message lists
//! all channels of that neighbour. A relay passes on to one side only what it was refreshed on from the
//! other since it last did, so a dead end starves the whole path in both directions.

use super::{Channels, Handled, Key, Leg, NOT_OWNER, Paths, UNKNOWN};
use crate::limits;
use crate::proto::reservation::Firmness;
use crate::proto::{Action, Timer};
use crate::types::{LinkId, Time, TxId};
use crate::wire::control::Message;

impl Channels {
    pub fn poll_timeout(&self) -> Option<(Time, Timer)> {
        let wake = self.wakes.first().map(|(at, timer, _)| (*at, *timer));
        let links = self.links.values().flat_map(|n| [n.refresh_at, n.pass_at]).flatten();
        let refresh = links.min().map(|at| (at, Timer::Refresh));
        let seconds = self.seconds.as_ref().map(|look| (look.at, Timer::Second));
        let claims = self.claims.next_until().map(|at| (at, Timer::Queue));
        wake.into_iter().chain(refresh).chain(seconds).chain(claims).min()
    }

    pub fn handle_timeout(&mut self, now: Time, paths: &dyn Paths, out: &mut Vec<Action>) {
        while let Some((at, _, key)) = self.wakes.first() {
            if *at > now {
                break;
            }
            match key.clone() {
                Key::Source(id) => self.source_due(now, &id, paths, out),
                Key::Served(id) => self.served_due(now, &id, out),
                Key::Relay(tx) => self.relay_due(now, &tx, out),
            }
        }
        self.forget_claims(now, out);
        self.look_for_seconds(now, paths);
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        let links: Vec<_> = self
            .links
            .iter()
            .filter(|(_, n)| due(n.refresh_at) || due(n.pass_at))
            .map(|(link, _)| *link)
            .collect();
        for link in links {
            self.refresh(now, link, out);
        }
    }

    /// The channels that end here and use `link` have to be refreshed from now on.
    pub(super) fn begin_refreshes(&mut self, now: Time, link: LinkId) {
        let at = now + self.refresh_wait();
        self.neighbour(link).refresh_at.get_or_insert(at);
    }

    /// REFRESH: the neighbour still wants these.
    pub(super) fn refreshed(&mut self, now: Time, link: LinkId, txs: &[TxId]) -> Handled {
        let lease = now + limits::LEASE;
        let mut handled = Ok(());
        for tx in txs {
            let neighbour = self.neighbour(link);
            let prolonged = neighbour.ledger.refresh(tx, lease);
            match self.relays.get(tx).map(|relay| (relay.prev, relay.next)) {
                Some((prev, next)) if prolonged => {
                    let onward = if link == prev.link { next } else { prev };
                    self.pass_later(now, onward, tx);
                }
                Some((prev, next)) if [prev.link, next.link].contains(&link) => {
                    handled = Err("the path is not accepted yet");
                }
                Some(_) => handled = Err(NOT_OWNER),
                None if prolonged => {}
                None => handled = Err(UNKNOWN),
            }
        }
        handled
    }

    fn pass_later(&mut self, now: Time, onward: Leg, tx: &TxId) {
        let neighbour = self.neighbour(onward.link);
        neighbour.pass.insert(tx.clone());
        neighbour.pass_at.get_or_insert(now + limits::REFRESH_PASS);
    }

    fn refresh(&mut self, now: Time, link: LinkId, out: &mut Vec<Action>) {
        let wait = self.refresh_wait();
        let relays = &self.relays;
        let neighbour = self.links.get_mut(&link).expect("just listed");
        let mut txs: Vec<TxId> = Vec::new();
        neighbour.pass_at = None;
        let passed = std::mem::take(&mut neighbour.pass).into_iter();
        txs.extend(passed.filter(|tx| relays.contains_key(tx)));
        if neighbour.refresh_at.is_some_and(|at| at <= now) {
            let before = neighbour.refreshed.take();
            let firm = neighbour
                .ledger
                .promises_after(before.as_ref())
                .filter(|(_, promise)| matches!(promise.firmness, Firmness::Committed(_)));
            let own = firm.map(|(tx, _)| tx).filter(|tx| !relays.contains_key(tx));
            let own: Vec<TxId> = own.take(limits::REFRESH_AT_ONCE).cloned().collect();
            let any = before.is_some() || !own.is_empty();
            neighbour.refresh_at = if own.len() == limits::REFRESH_AT_ONCE {
                neighbour.refreshed = own.last().cloned();
                Some(now + limits::REFRESH_PAUSE)
            } else {
                any.then_some(now + wait)
            };
            txs.extend(own);
        }
        for piece in txs.chunks(limits::REFRESH_TXS_MAX) {
            out.push(Action::Send { link, message: Message::Refresh(piece.to_vec()) });
        }
    }

    pub(super) fn refresh_wait(&mut self) -> std::time::Duration {
        let interval = limits::REFRESH_INTERVAL;
        self.between(interval / 2, interval * 3 / 2)
    }
}
