//! `[[allow]]` for the channels that end here or cross this peer: what the rules let in is taken
//! note of, what they refuse is told with the rule. What they say is [`crate::proto::policy`]'s.
//!
//! Other rules hold for what is there already: it is asked about again, in the order in which it
//! was asked for, and what is not let in any more ends.

use super::Channels;
use super::relay::Refusal;
use crate::proto::Action;
use crate::proto::policy::{Asked, Denied, Policy, Rule};
use crate::types::{
    Bandwidth, ChannelId, LinkId, PeerName, PublicKey, Reject, ServiceName, Time, TxId,
};
use crate::wire::control::{Message, Release, ReleaseCause, Reserve};
use crate::wire::queue as wire;

/// A channel that is here, as the rules see it.
struct Here {
    ticket: u64,
    tx: TxId,
    /// It ends here.
    service: Option<ServiceName>,
    rate: Bandwidth,
}

impl Channels {
    /// A message of somebody whose key is known: rules may name it.
    pub fn message_from(
        &mut self,
        now: Time,
        link: LinkId,
        (message, key): (Message, Option<PublicKey>),
        out: &mut Vec<Action>,
    ) {
        self.asker = key;
        self.message(now, link, message, out);
        self.asker = None;
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Before anything is held.
    pub(super) fn allow(&mut self, reserve: &Reserve) -> Result<(), Refusal> {
        if self.policy.rules().is_empty() {
            return Ok(());
        }
        let tx = unit(reserve);
        let checked = self.policy.check(asked(&tx, reserve, self.asker));
        checked.map_err(|denied| Refusal::new(Reject::NotAllowed, denied.words))
    }

    /// What was allowed has come about.
    pub(super) fn let_in(&mut self, reserve: &Reserve) {
        if self.policy.rules().is_empty() {
            return;
        }
        let tx = unit(reserve);
        let taken = self.policy.take(asked(&tx, reserve, self.asker));
        assert!(taken.is_ok(), "it was allowed a moment ago: {taken:?}");
    }

    /// Whether a neighbour's claim may stand in line here.
    pub(super) fn allow_claim(&mut self, tx: &TxId, claim: &wire::Claim) -> Result<(), Denied> {
        let source = &tx.channel.source;
        let ends = claim.path.len() == usize::from(claim.position) + 1;
        let known = usize::from(self.claims.get(&tx.channel).is_some());
        let waiting = self.claims.of_asker(source).saturating_sub(known);
        let rate = claim.rate.max(claim.rate_back);
        self.policy.check_claim(source, self.asker, ends, (rate, waiting))
    }

    /// A reload. `key_of`: the keys of peers, as far as they are known.
    pub fn set_rules(
        &mut self,
        now: Time,
        rules: &[Rule],
        key_of: impl Fn(&PeerName) -> Option<PublicKey>,
        out: &mut Vec<Action>,
    ) {
        if rules == self.policy.rules() {
            return;
        }
        self.policy.set_rules(rules.to_vec());
        let mut all = self.all_here();
        all.sort_by(|one, other| (one.ticket, &one.tx).cmp(&(other.ticket, &other.tx)));
        for Here { tx, service, rate, .. } in all {
            let (key, service) = (key_of(&tx.channel.source), service.as_ref());
            if let Err(denied) = self.policy.take(Asked { tx: &tx, key, service, rate }) {
                self.end_not_allowed(now, &tx, service.is_some(), &denied.words, out);
            }
        }
    }

    fn all_here(&self) -> Vec<Here> {
        let ticket = |link: LinkId, tx: &TxId| {
            let promise = self.links.get(&link).and_then(|n| n.ledger.promise(tx));
            promise.map_or(0, |promise| promise.ticket)
        };
        let relays = self.relays.values().map(|relay| Here {
            ticket: ticket(relay.prev.link, &relay.tx),
            tx: relay.tx.clone(),
            service: None,
            rate: relay.larger_rate(),
        });
        let served = self.served.values().map(|served| Here {
            ticket: served.taken().next().map_or(0, |taken| ticket(taken.leg.link, &taken.tx)),
            tx: end_of(served.id()),
            service: Some(served.service.clone()),
            rate: served.larger_rate(),
        });
        relays.chain(served).collect()
    }

    fn end_not_allowed(
        &mut self,
        now: Time,
        tx: &TxId,
        ends: bool,
        why: &str,
        out: &mut Vec<Action>,
    ) {
        if ends {
            let served = self.take_served(&tx.channel).expect("it was listed");
            return self.end_served(now, served, Some(Reject::NotAllowed), why, out);
        }
        // Its asker looks for a way around this peer.
        let relay = self.take_relay(tx).expect("it was listed");
        self.free_relay(now, &relay, false, out);
        for leg in [relay.prev, relay.next] {
            self.send_release_why(leg.link, tx, ReleaseCause::Broken, Some(why), out);
        }
    }

    pub(super) fn send_release_why(
        &self,
        link: LinkId,
        tx: &TxId,
        cause: ReleaseCause,
        why: Option<&str>,
        out: &mut Vec<Action>,
    ) {
        let (tx, at, why) = (tx.clone(), self.me.clone(), why.map(str::to_owned));
        let release = Release { tx, cause, at, failed: None, why, proof: None };
        out.push(Action::Send { link, message: Message::Release(release) });
    }

    /// Panics if the rules were asked about something else than what is here.
    pub(super) fn policy_invariants(&self) {
        self.policy.invariants();
        let all = self.all_here();
        let noted = if self.policy.rules().is_empty() { 0 } else { all.len() };
        assert_eq!(self.policy.taken(), noted);
        for here in all.iter().take(noted) {
            assert!(self.policy.knows(&here.tx), "{} was let in by no rule", here.tx);
        }
    }
}

/// A channel counts by each path that crosses, and once at its end.
fn unit(reserve: &Reserve) -> TxId {
    match ends_here(reserve) {
        true => end_of(&reserve.tx.channel),
        false => reserve.tx.clone(),
    }
}

/// No attempt has this number.
pub(super) fn end_of(channel: &ChannelId) -> TxId {
    TxId { channel: channel.clone(), attempt: 0 }
}

fn ends_here(reserve: &Reserve) -> bool {
    reserve.path.len() == usize::from(reserve.position) + 1
}

fn asked<'a>(tx: &'a TxId, reserve: &'a Reserve, key: Option<PublicKey>) -> Asked<'a> {
    let service = ends_here(reserve).then_some(&reserve.service);
    Asked { tx, key, service, rate: reserve.rate.max(reserve.rate_back) }
}
