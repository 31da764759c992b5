//! A channel that crosses this peer, and the checks of every RESERVE that comes in.
//!
//! A relay keeps one leg towards the asker and one towards the service. Two attempts of one channel
//! may cross at the same time; they know nothing of each other.

use super::queue::Turn;
use super::{Channels, Handled, Key, Leg, NOT_OWNER, UNKNOWN, wake};
use crate::limits;
use crate::mutant::{self, Mutant};
use crate::proto::proof::Ends;
use crate::proto::reservation::{Crossing, Dead, Rates, Short};
use crate::proto::view::{ChannelState, ChannelView};
use crate::proto::{Action, Target, Timer};
use crate::types::{
    Bandwidth, ChannelId, LinkId, PeerName, PublicKey, Reject, ServiceName, Time, TxId, Way,
};
use crate::wire::control::{Accept, FACTS_VERSION, Message, Nack, Release, ReleaseCause, Reserve};
use crate::wire::proof;
use crate::wire::queue::Scarce;

#[derive(Clone, Debug)]
pub(super) struct Relay {
    pub(super) tx: TxId,
    pub(super) path: Vec<PeerName>,
    /// Links from the asker to here.
    hop: u8,
    /// Towards the asker; its label is for the frames forward.
    pub(super) prev: Leg,
    /// Towards the service; its label is for the frames back.
    pub(super) next: Leg,
    pub(super) wake: (Time, Timer),
    name: ServiceName,
    service: ServiceName,
    rate: Bandwidth,
    rate_back: Bandwidth,
    max_payload: u16,
    /// Who signed the request, and the far end's key as the asker knows it.
    pub(super) asker: Option<PublicKey>,
    to_key: Option<PublicKey>,
    pub(super) accepted: bool,
}

/// Why a RESERVE is refused here; becomes a NACK.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reason: Reject,
    pub(super) free: Bandwidth,
    pub(super) detail: String,
    /// Where room was short: a neighbour for the link to it, this peer for its host.
    towards: Option<PeerName>,
}

impl Refusal {
    pub(super) fn new(reason: Reject, detail: impl Into<String>) -> Self {
        Self { reason, free: Bandwidth::ZERO, detail: detail.into(), towards: None }
    }

    pub(super) fn no_room(me: &PeerName, of: &Scarce, asked: Bandwidth, short: Short) -> Self {
        let detail = format!("{asked} do not fit {of}, {short}");
        let towards = Some(towards(me, of));
        Self { reason: Reject::NoRoom, free: short.free, detail, towards }
    }

    /// There may be room, but an earlier request waits for it.
    pub(super) fn behind(me: &PeerName, of: &Scarce, before: &ChannelId, free: Bandwidth) -> Self {
        let detail = format!("{before} asked before for {of}, where {free} are free");
        let towards = Some(towards(me, of));
        Self { reason: Reject::NoRoom, free, detail, towards }
    }
}

/// What a NACK names as short: a neighbour for the link to it, the peer itself for its host.
fn towards(me: &PeerName, of: &Scarce) -> PeerName {
    match of {
        Scarce::Link(peer) => peer.clone(),
        Scarce::Host(_) => me.clone(),
    }
}

impl Relay {
    pub(super) fn view(&self) -> ChannelView {
        ChannelView {
            id: self.tx.channel.clone(),
            name: self.name.clone(),
            peer: self.path.last().expect("a path has two ends").clone(),
            service: self.service.clone(),
            side: None,
            state: if self.accepted { ChannelState::Open } else { ChannelState::Opening },
            path: self.path.clone(),
            rate: self.rate,
            rate_back: self.rate_back,
            max_payload: self.max_payload,
            standby: None,
            second: None,
            reserved: vec![self.path.clone()],
            sealed: self.to_key,
        }
    }

    pub(super) fn larger_rate(&self) -> Bandwidth {
        self.rate.max(self.rate_back)
    }

    pub(super) fn ends(&self) -> Ends {
        let to = self.path.last().expect("a path has two ends").clone();
        Ends { asker: self.asker, to, to_key: self.to_key }
    }

    /// Hands a message that came from one leg to the other.
    pub(super) fn pass(
        &self,
        link: LinkId,
        from: Leg,
        to: Leg,
        message: Message,
        out: &mut Vec<Action>,
    ) -> Handled {
        match () {
            () if link != from.link => Err(NOT_OWNER),
            () if !self.accepted => Err("the path is not accepted yet"),
            () => {
                out.push(Action::Send { link: to.link, message });
                Ok(())
            }
        }
    }
}

impl Channels {
    /// RESERVE: refused with a NACK, or held here and asked for further on.
    pub(super) fn reserve(
        &mut self,
        now: Time,
        link: LinkId,
        reserve: Reserve,
        out: &mut Vec<Action>,
    ) -> Handled {
        self.clock = self.clock.max(reserve.ticket);
        let relayed = self.relays.get(&reserve.tx).map(|relay| relay.prev.link);
        let served = self.served.get(&reserve.tx.channel);
        let served = served.and_then(|served| served.link_of(&reserve.tx));
        match relayed.or(served) {
            Some(owner) if owner == link => return Err("reserved already"),
            Some(_) => return Err(NOT_OWNER),
            None => {}
        }
        let tx = reserve.tx.clone();
        if let Err(refusal) = self.admit(now, link, reserve, out) {
            self.send_nack(link, tx, refusal, out);
        }
        Ok(())
    }

    pub(super) fn send_nack(
        &self,
        link: LinkId,
        tx: TxId,
        refusal: Refusal,
        out: &mut Vec<Action>,
    ) {
        let Refusal { reason, free, detail, towards } = refusal;
        let nack = Nack { tx, at: self.me.clone(), reason, free, detail, towards, proof: None };
        out.push(Action::Send { link, message: Message::Nack(nack) });
    }

    fn admit(
        &mut self,
        now: Time,
        link: LinkId,
        reserve: Reserve,
        out: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        let asker = &reserve.tx.channel.source;
        self.check_path(link, &reserve.path, reserve.position, asker)?;
        if self.leaving {
            return Err(Refusal::new(Reject::ShuttingDown, "this peer leaves the overlay"));
        }
        match self.tombstones.dead(now, &reserve.tx) {
            // The asker takes this as the last word.
            Some(Dead::Channel) => {
                return Err(Refusal::new(Reject::Cancelled, "the other end closed the channel"));
            }
            Some(Dead::Attempt) => {
                return Err(Refusal::new(Reject::Broken, "this attempt was released before"));
            }
            None => {}
        }
        let by = self.ends_of(&reserve.tx.channel).and_then(|ends| ends.asker);
        if by.is_some() && by != reserve.proof.map(|proof| proof.key) {
            return Err(Refusal::new(Reject::NotAllowed, "the channel is another peer's"));
        }
        if reserve.rate == Bandwidth::ZERO {
            return Err(Refusal::new(Reject::NotAllowed, "a rate must be at least 1 bit/s"));
        }
        let known = self.served.contains_key(&reserve.tx.channel);
        if self.channels() >= limits::CHANNELS_MAX && !known {
            return Err(Refusal::new(Reject::Busy, "as many channels as this peer may have"));
        }
        self.allow(&reserve)?;
        match reserve.path.get(usize::from(reserve.position) + 1) {
            None => self.serve(now, link, reserve, out),
            Some(next) => {
                let next = next.clone();
                self.relay(now, link, &next, reserve, out)
            }
        }
    }

    /// The path must be one that the asker can have sent through this neighbour to here.
    pub(super) fn check_path(
        &self,
        link: LinkId,
        path: &[PeerName],
        position: u8,
        asker: &PeerName,
    ) -> Result<(), Refusal> {
        let wrong = |detail| Err(Refusal::new(Reject::NotAllowed, detail));
        let position = usize::from(position);
        let mut names: Vec<_> = path.iter().collect();
        names.sort();
        names.dedup();
        let before = position.checked_sub(1).and_then(|before| path.get(before));
        match () {
            () if path.len() > limits::PATH_PEERS_MAX => wrong("the path is too long"),
            () if names.len() != path.len() => wrong("the path has a loop"),
            () if path.get(position) != Some(&self.me) => {
                wrong("this peer is not next on the path")
            }
            () if before != self.links.get(&link).map(|neighbour| &neighbour.peer) => {
                wrong("the path came from another peer than it says")
            }
            () if path.first() != Some(asker) => wrong("the path does not begin at the asker"),
            () => Ok(()),
        }
    }

    fn relay(
        &mut self,
        now: Time,
        link: LinkId,
        next: &PeerName,
        mut reserve: Reserve,
        out: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        let Some(next_link) = self.link_to(next) else {
            return Err(Refusal::new(Reject::Unreachable, format!("no link to {next} is up")));
        };
        self.speaks_proof(next_link).map_err(|why| Refusal::new(Reject::Unreachable, why))?;
        let until = now + hold_time(&reserve);
        let forward = Rates { out: reserve.rate, back: reserve.rate_back };
        let back = Rates { out: reserve.rate_back, back: reserve.rate };
        let tx = reserve.tx.clone();
        let turn = Turn::of(&reserve);
        self.hold(next_link, &tx, (forward, Crossing::There), until, turn)?;
        if let Err(refusal) = self.hold(link, &tx, (back, Crossing::Back), until, turn) {
            if tx.attempt == 1 || !mutant::on(Mutant::HalfHeldKept) {
                self.release_hold(next_link, &tx);
            }
            return Err(refusal);
        }
        self.let_in(&reserve);
        let worker = self.employ_relay(&tx, [reserve.rate, reserve.rate_back]);
        let relay = Relay {
            prev: self.leg(link, worker),
            next: self.leg(next_link, worker),
            path: reserve.path.clone(),
            hop: reserve.position,
            name: reserve.name.clone(),
            service: reserve.service.clone(),
            rate: reserve.rate,
            rate_back: reserve.rate_back,
            max_payload: reserve.max_payload.min(self.neighbour(next_link).max_payload),
            asker: reserve.proof.map(|proof| proof.key),
            to_key: reserve.seal.as_ref().map(|offer| offer.key),
            accepted: false,
            wake: (until, Timer::Lease),
            tx,
        };
        let to = Target::Hop { link, label: reserve.back_label, port: reserve.back_port };
        let hop = hops(&relay.path) - relay.hop;
        out.push(add_label(&relay.tx, relay.next, to, (reserve.rate_back, true), hop));
        reserve.position += 1;
        reserve.deadline_ms = shortened(reserve.deadline_ms);
        reserve.max_payload = relay.max_payload;
        reserve.back_label = relay.next.label;
        reserve.back_port = self.port(worker);
        out.push(Action::Send { link: next_link, message: Message::Reserve(reserve) });
        self.put_relay(relay);
        Ok(())
    }

    pub(super) fn relay_accepted(
        &mut self,
        now: Time,
        link: LinkId,
        accept: &Accept,
        out: &mut Vec<Action>,
    ) -> Handled {
        let relay = self.relays.get(&accept.tx).ok_or(UNKNOWN)?;
        match () {
            () if relay.next.link != link => return Err(NOT_OWNER),
            () if relay.accepted => return Err("accepted already"),
            () => {}
        }
        let mut relay = self.take_relay(&accept.tx).expect("just seen");
        let lease = now + limits::LEASE;
        for leg in [relay.prev, relay.next] {
            self.neighbour(leg.link).ledger.commit(&relay.tx, lease);
        }
        relay.accepted = true;
        relay.max_payload = relay.max_payload.min(accept.max_payload);
        let to = Target::Hop { link, label: accept.label, port: accept.port };
        out.push(add_label(&relay.tx, relay.prev, to, (relay.rate, false), relay.hop));
        let accept = Accept {
            tx: relay.tx.clone(),
            label: relay.prev.label,
            port: self.port(relay.prev.label.worker()),
            max_payload: relay.max_payload,
            width: accept.width.min(self.width(relay.next, relay.rate)),
            seal: accept.seal.clone(),
        };
        out.push(Action::Send { link: relay.prev.link, message: Message::Accept(accept) });
        self.put_relay(relay);
        Ok(())
    }

    /// A neighbour that does not know signatures would take them off, and nobody behind it could tell whose
    /// the channel is.
    pub(in crate::proto) fn speaks_proof(&self, link: LinkId) -> Result<(), String> {
        let Some(neighbour) = self.links.get(&link) else { return Ok(()) };
        let (peer, version) = (&neighbour.peer, neighbour.version);
        if version >= proof::VERSION {
            return Ok(());
        }
        Err(format!(
            "{peer} speaks control version {version} and cannot carry signed requests ({}): update it",
            proof::VERSION
        ))
    }

    /// What was free on the way forward before a channel of this rate took its share.
    pub(super) fn width(&self, next: Leg, rate: Bandwidth) -> Bandwidth {
        let ledger = &self.links[&next.link].ledger;
        let free = ledger.free_out().min(self.host.free(Way::Egress));
        let before = free.checked_add(rate).unwrap_or(Bandwidth::MAX);
        before.min(ledger.usable())
    }

    pub(super) fn relay_refused(
        &mut self,
        now: Time,
        link: LinkId,
        nack: Nack,
        out: &mut Vec<Action>,
    ) -> Handled {
        let relay = self.relays.get(&nack.tx).ok_or(UNKNOWN)?;
        match () {
            () if relay.next.link != link => return Err(NOT_OWNER),
            () if relay.accepted => return Err("accepted already"),
            () => {}
        }
        let relay = self.take_relay(&nack.tx).expect("just seen");
        self.free_relay(now, &relay, false, out);
        out.push(Action::Send { link: relay.prev.link, message: Message::Nack(nack) });
        Ok(())
    }

    pub(super) fn relay_released(
        &mut self,
        now: Time,
        link: LinkId,
        release: Release,
        out: &mut Vec<Action>,
    ) -> Handled {
        let relay = self.relays.get(&release.tx).ok_or(UNKNOWN)?;
        let onward = match link {
            link if link == relay.prev.link => relay.next,
            link if link == relay.next.link => relay.prev,
            _ => return Err(NOT_OWNER),
        };
        let relay = self.take_relay(&release.tx).expect("just seen");
        self.free_relay(now, &relay, release.cause == ReleaseCause::Closed, out);
        out.push(Action::Send { link: onward.link, message: Message::Release(release) });
        Ok(())
    }

    pub(super) fn relay_link_down(
        &mut self,
        now: Time,
        link: LinkId,
        tx: &TxId,
        out: &mut Vec<Action>,
    ) {
        let Some(relay) = self.take_relay(tx) else { return };
        self.free_relay(now, &relay, false, out);
        let other = if relay.prev.link == link { relay.next } else { relay.prev };
        let failed = (self.me.clone(), self.neighbour(link).peer.clone());
        self.send_release(other.link, &relay.tx, ReleaseCause::Broken, Some(failed), out);
    }

    /// Asks for every channel that crosses this peer to be moved to another path.
    pub(super) fn ask_to_move(&self, out: &mut Vec<Action>) {
        for relay in self.relays.values() {
            let link = relay.prev.link;
            if self.links.get(&link).is_some_and(|n| n.version >= FACTS_VERSION) {
                let message = Message::Move { tx: relay.tx.clone(), at: self.me.clone() };
                out.push(Action::Send { link, message });
            }
        }
    }

    /// Gives everything back and tells both sides.
    pub(super) fn end_relay(
        &mut self,
        now: Time,
        relay: &Relay,
        cause: ReleaseCause,
        out: &mut Vec<Action>,
    ) {
        self.free_relay(now, relay, false, out);
        self.send_release(relay.prev.link, &relay.tx, cause, None, out);
        self.send_release(relay.next.link, &relay.tx, cause, None, out);
    }

    /// A promise of one side ran out, unless it was prolonged since the wake was set.
    pub(super) fn relay_due(&mut self, now: Time, tx: &TxId, out: &mut Vec<Action>) {
        let Some(relay) = self.take_relay(tx) else { return };
        if self.relay_until(&relay) > now {
            self.put_relay(relay);
        } else if relay.accepted {
            self.end_relay(now, &relay, ReleaseCause::Expired, out);
        } else {
            self.free_relay(now, &relay, false, out);
            let silent = &self.neighbour(relay.next.link).peer;
            let refusal = Refusal::new(Reject::Timeout, format!("no answer from {silent}"));
            self.send_nack(relay.prev.link, relay.tx.clone(), refusal, out);
            self.send_release(relay.next.link, &relay.tx, ReleaseCause::Expired, None, out);
        }
    }

    pub(super) fn take_relay(&mut self, tx: &TxId) -> Option<Relay> {
        let relay = self.relays.remove(tx)?;
        self.wakes.remove(&wake(relay.wake, Key::Relay(tx.clone())));
        Some(relay)
    }

    fn put_relay(&mut self, mut relay: Relay) {
        relay.wake = (self.relay_until(&relay), Timer::Lease);
        self.wakes.insert(wake(relay.wake, Key::Relay(relay.tx.clone())));
        self.relays.insert(relay.tx.clone(), relay);
    }

    fn relay_until(&self, relay: &Relay) -> Time {
        self.until(&relay.prev, &relay.tx).min(self.until(&relay.next, &relay.tx))
    }

    pub(super) fn free_relay(
        &mut self,
        now: Time,
        relay: &Relay,
        closed: bool,
        out: &mut Vec<Action>,
    ) {
        if relay.accepted {
            out.push(Action::RemoveLabel { label: relay.prev.label });
        }
        out.push(Action::RemoveLabel { label: relay.next.label });
        self.free_leg(&relay.tx, relay.prev);
        self.free_leg(&relay.tx, relay.next);
        self.dismiss(&Key::Relay(relay.tx.clone()), out);
        self.tombstones.bury(now, &relay.tx, closed);
    }
}

/// The rate of a direction, and whether it is the way back.
pub(super) fn add_label(
    tx: &TxId,
    leg: Leg,
    to: Target,
    (rate, back): (Bandwidth, bool),
    hop: u8,
) -> Action {
    let Leg { link, label } = leg;
    Action::AddLabel { channel: tx.channel.clone(), label, from: link, to, rate, hop, back }
}

/// Links between the two ends of a path.
pub(super) fn hops(path: &[PeerName]) -> u8 {
    u8::try_from(path.len() - 1).expect("a path is bounded")
}

/// How long a hop waits for the answer to a RESERVE that it passed on.
pub(super) fn hold_time(reserve: &Reserve) -> std::time::Duration {
    limits::HOLD.min(std::time::Duration::from_millis(u64::from(reserve.deadline_ms)))
}

/// The deadline told to the next hop: earlier, so that the hop next to the silence is the one that
/// says so, and its word still comes back in time.
pub(super) fn shortened(deadline_ms: u32) -> u32 {
    deadline_ms - (deadline_ms / 16).min(limits::HOLD_STEP_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hop_next_to_the_silence_waits_least() {
        let hold = u32::try_from(limits::HOLD.as_millis()).expect("seconds");
        let mut deadlines = vec![hold];
        for _ in 2..limits::PATH_PEERS_MAX {
            deadlines.push(shortened(*deadlines.last().expect("one")));
        }
        assert!(deadlines.is_sorted_by(|a, b| a > b));
        assert!(deadlines.last() > Some(&(hold / 4)), "{deadlines:?}");
    }
}
