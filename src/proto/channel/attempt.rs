//! One path of a channel as the end that asked for it has it: made, used, left, given back.
//!
//! A channel may have several at a time: the one in use, one that is being tried, one that stands by, one
//! that was just left. Which path to try is `recovery.rs`'s.

use std::time::Duration;

use super::queue::Turn;
use super::relay::{add_label, hops, shortened};
use super::source::{Source, Stage};
use super::{Channels, Key, Leg};
use crate::limits;
use crate::mutant::{self, Mutant};
use crate::proto::reservation::{Crossing, Rates};
use crate::proto::{Action, Entry, Event, Purpose, Rejection, Target};
use crate::types::{Label, LinkId, PeerName, Reject, Time, TxId};
use crate::wire::control::{Accept, Manner, Message, ReleaseCause, Reserve};

#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) number: u32,
    pub(super) leg: Leg,
    pub(super) path: Vec<PeerName>,
    /// Zero until it is accepted.
    pub(super) max_payload: u16,
    /// Label and port of the next hop; none until it is accepted.
    to: Option<(Label, u16)>,
}

/// An attempt that is not answered yet.
#[derive(Clone, Debug)]
pub(super) struct Trying {
    pub(super) attempt: Attempt,
    pub(super) purpose: Purpose,
    pub(super) since: Time,
    /// It is given up then.
    pub(super) until: Time,
}

impl Attempt {
    /// Both ends of a link of the path.
    pub(super) fn crosses(&self, link: &(PeerName, PeerName)) -> bool {
        crosses(&self.path, link)
    }

    pub(super) fn accept(&mut self, accept: &Accept, max_payload: u16) {
        self.max_payload = accept.max_payload.min(max_payload);
        self.to = Some((accept.label, accept.port));
    }

    fn target(&self) -> Target {
        let (label, port) = self.to.expect("only an accepted path is used");
        Target::Hop { link: self.leg.link, label, port }
    }
}

/// Whether the path takes the link, in either direction.
pub(super) fn crosses(path: &[PeerName], (one, other): &(PeerName, PeerName)) -> bool {
    path.windows(2).any(|hop| [(one, other), (other, one)].contains(&(&hop[0], &hop[1])))
}

impl Source {
    pub(super) fn tx(&self, attempt: &Attempt) -> TxId {
        TxId { channel: self.id.clone(), attempt: attempt.number }
    }

    fn turn(&self) -> Turn {
        let opened = matches!(self.stage, Stage::Open | Stage::Moving(_));
        Turn { ticket: self.ticket, opened }
    }

    /// Every path it has.
    pub(super) fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        let trying = self.trying.iter().map(|trying| &trying.attempt);
        let old = self.old.iter().map(|(attempt, _)| attempt);
        self.current.iter().chain(trying).chain(&self.standby).chain(old)
    }

    pub(super) fn attempt(&self, number: u32) -> Option<&Attempt> {
        self.attempts().find(|attempt| attempt.number == number)
    }
}

impl Channels {
    /// Reserves `path`, or says why it cannot even be asked for.
    pub(super) fn send_reserve(
        &mut self,
        now: Time,
        source: &mut Source,
        path: Vec<PeerName>,
        purpose: Purpose,
        until: Time,
        out: &mut Vec<Action>,
    ) -> Result<(), Rejection> {
        let link = self.first_link(&path)?;
        source.attempts += 1;
        let tx = TxId { channel: source.id.clone(), attempt: source.attempts };
        let rates = Rates { out: source.rate, back: source.rate_back };
        let turn = source.turn();
        let held = self.hold(link, &tx, (rates, Crossing::There), until, turn);
        held.map_err(|refusal| {
            Rejection::new(refusal.reason, format!("at {}: {}", self.me, refusal.detail))
        })?;
        let worker = self.balance.worker(&Key::Source(source.id.clone()));
        let leg = self.leg(link, worker);
        let rate_back = (source.rate_back, true);
        out.push(add_label(&tx, leg, Target::Local, rate_back, hops(&path)));
        let wait_ms = u32::try_from(until.since(now).as_millis()).unwrap_or(u32::MAX);
        let reserve = Reserve {
            tx,
            service: source.service.clone(),
            name: source.name.clone(),
            path: path.clone(),
            position: 1,
            rate: source.rate,
            rate_back: source.rate_back,
            ticket: turn.ticket,
            deadline_ms: shortened(wait_ms),
            max_payload: self.neighbour(link).max_payload,
            back_label: leg.label,
            back_port: self.port(worker),
            manner: manner(source, purpose),
            opened: turn.opened,
            seal: source.seal.offer(),
            proof: None,
        };
        if source.attempts > 1 {
            let (channel, path) = (source.id.clone(), path.clone());
            out.push(Action::Event(Event::ChannelTrying { channel, path, purpose }));
        }
        out.push(Action::Send { link, message: Message::Reserve(reserve) });
        let attempt = Attempt { number: source.attempts, leg, path, max_payload: 0, to: None };
        source.trying = Some(Trying { attempt, purpose, since: now, until });
        Ok(())
    }

    /// Frames take this path from now on; one they took before is left.
    pub(super) fn take_path(
        &mut self,
        now: Time,
        source: &mut Source,
        attempt: Attempt,
        drain: Duration,
        out: &mut Vec<Action>,
    ) {
        let to = attempt.target();
        let entry = Entry { to, rate: source.rate, max_payload: attempt.max_payload };
        out.push(Action::SetEntry { channel: source.id.clone(), to: Some(entry) });
        source.max_payload = attempt.max_payload;
        if let Some(left) = source.current.replace(attempt) {
            let drain = drain.clamp(limits::DRAIN_MIN, limits::DRAIN_MAX);
            let cut = mutant::on(Mutant::OldPathCutShort) && left.path.len() > 3;
            let drain = if cut { Duration::ZERO } else { drain };
            if let Some((older, _)) = source.old.replace((left, now + drain)) {
                self.give_up(source, &older, ReleaseCause::Moved, out);
            }
        }
    }

    /// Lets go of an attempt and tells the next hop.
    pub(super) fn give_up(
        &mut self,
        source: &Source,
        attempt: &Attempt,
        cause: ReleaseCause,
        out: &mut Vec<Action>,
    ) {
        self.let_go(source, attempt, out);
        self.send_release(attempt.leg.link, &source.tx(attempt), cause, None, out);
    }

    /// The attempt is over, and its path knows.
    pub(super) fn let_go(&mut self, source: &Source, attempt: &Attempt, out: &mut Vec<Action>) {
        self.free_leg(&source.tx(attempt), attempt.leg);
        out.push(Action::RemoveLabel { label: attempt.leg.label });
    }

    /// The link that a path begins with, if it is up.
    pub(super) fn first_link(&self, path: &[PeerName]) -> Result<LinkId, Rejection> {
        let unreachable = |detail| Rejection::new(Reject::Unreachable, detail);
        let [_, first, ..] = path else {
            return Err(unreachable("a path has at least two peers".to_owned()));
        };
        if path.len() > limits::PATH_PEERS_MAX {
            return Err(unreachable(format!("the path has {} peers", path.len())));
        }
        let down = || unreachable(format!("the link to {first} is down"));
        let link = self.link_to(first).ok_or_else(down)?;
        self.speaks_proof(link).map_err(unreachable)?;
        Ok(link)
    }
}

/// What the far end shall do with the paths it has.
fn manner(source: &Source, purpose: Purpose) -> Manner {
    match purpose {
        Purpose::Standby => Manner::Standby,
        Purpose::Use if source.current.is_some() => Manner::Beside,
        Purpose::Use => Manner::Replace,
    }
}
