//! The end that offers the service: takes a channel if the service can, keeps its socket while the
//! asker looks for another path, and gives up by itself when none comes.
//!
//! ```text
//!  OpeningEnd ─► Attached ◄──► Detached
//!       └───────────┴────────────┴──► closed
//! ```

use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;

use super::queue::Turn;
use super::relay::{Refusal, add_label, hold_time, hops};
use super::sealing::{Answered, not_opened};
use super::{Channels, Handled, Key, Leg, NOT_OWNER, STALE, UNKNOWN, wake};
use crate::limits;
use crate::proto::reservation::{Crossing, Rates};
use crate::proto::view::{ChannelState, ChannelView};
use crate::proto::{
    Action, Entry, Event, Rejection, ServiceConfig, ServiceKind, Side, Target, Timer,
};
use crate::types::{
    Bandwidth, ChannelId, Label, LinkId, PeerName, PublicKey, Reject, ServiceName, Time, TxId,
};
use crate::wire::control::{Accept, Manner, Message, Release, ReleaseCause, Reserve};

#[derive(Clone, Debug)]
pub(super) struct Served {
    id: ChannelId,
    pub(super) service: ServiceName,
    pub(super) wake: (Time, Timer),
    pub(super) name: ServiceName,
    rate: Bandwidth,
    rate_back: Bandwidth,
    /// Of the path in use, or used last.
    max_payload: u16,
    /// Who signed its requests.
    pub(super) key: Option<PublicKey>,
    /// None: it is plain.
    seal: Option<Answered>,
    /// It had a path once.
    opened: bool,
    stage: Stage,
    /// The asker's stream ended after this many frames.
    finished: Option<u64>,
}

#[derive(Clone, Debug)]
enum Stage {
    /// Waits for its local socket. `asked` is the RESERVE to answer then; none if its link broke.
    OpeningEnd { asked: Option<(LinkId, Box<Reserve>)>, give_up: Time },
    /// Paths that lead here, at least one; frames go back on the first.
    Attached(Vec<Taken>),
    /// The path broke; the socket stays.
    Detached { give_up: Time },
}

/// A path that was accepted.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) tx: TxId,
    pub(super) leg: Leg,
    path: Vec<PeerName>,
    max_payload: u16,
    /// Where frames go back to: the label and port of the hop before.
    back: (Label, u16),
    standby: bool,
}

impl Served {
    pub(super) fn id(&self) -> &ChannelId {
        &self.id
    }

    pub(super) fn taken(&self) -> std::slice::Iter<'_, Taken> {
        match &self.stage {
            Stage::Attached(taken) => taken.iter(),
            Stage::OpeningEnd { .. } | Stage::Detached { .. } => [].iter(),
        }
    }

    pub(super) fn larger_rate(&self) -> Bandwidth {
        self.rate.max(self.rate_back)
    }

    /// Its leg, while it has one path and nothing changes.
    pub(super) fn settled_leg(&self) -> Option<&Leg> {
        match &self.stage {
            Stage::Attached(taken) if taken.len() == 1 => Some(&taken[0].leg),
            Stage::OpeningEnd { .. } | Stage::Attached(_) | Stage::Detached { .. } => None,
        }
    }

    /// The link that this attempt came over, if it is here.
    pub(super) fn link_of(&self, tx: &TxId) -> Option<LinkId> {
        let taken = self.taken().find(|taken| taken.tx == *tx).map(|taken| taken.leg.link);
        taken.or_else(|| match &self.stage {
            Stage::OpeningEnd { asked: Some((link, asked)), .. } if asked.tx == *tx => Some(*link),
            Stage::OpeningEnd { .. } | Stage::Attached(_) | Stage::Detached { .. } => None,
        })
    }

    pub(super) fn uses(&self, link: LinkId) -> bool {
        let asked = match &self.stage {
            Stage::OpeningEnd { asked, .. } => asked.as_ref().map(|(link, _)| *link),
            Stage::Attached(_) | Stage::Detached { .. } => None,
        };
        asked == Some(link) || self.taken().any(|taken| taken.leg.link == link)
    }

    pub(super) fn view(&self) -> ChannelView {
        ChannelView {
            id: self.id.clone(),
            name: self.name.clone(),
            peer: self.id.source.clone(),
            service: self.service.clone(),
            side: Some(Side::Service),
            state: match self.stage {
                Stage::OpeningEnd { .. } => ChannelState::Opening,
                Stage::Attached(_) => ChannelState::Open,
                Stage::Detached { .. } => ChannelState::Moving,
            },
            path: self.taken().next().map(|taken| taken.path.clone()).unwrap_or_default(),
            rate: self.rate,
            rate_back: self.rate_back,
            max_payload: self.max_payload,
            standby: self.taken().find(|taken| taken.standby).map(|taken| taken.path.clone()),
            second: None,
            reserved: self.taken().map(|taken| taken.path.clone()).collect(),
            sealed: self.seal.as_ref().map(|seal| seal.key),
        }
    }
}

/// Detached ends are given up this long after their path broke.
#[expect(clippy::cast_possible_truncation, reason = "seconds")]
const LEASE_US: u64 = limits::LEASE.as_micros() as u64;

impl Channels {
    /// A RESERVE that ends here.
    pub(super) fn serve(
        &mut self,
        now: Time,
        link: LinkId,
        reserve: Reserve,
        out: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        match self.served.get(&reserve.tx.channel) {
            None => self.serve_first(now, link, reserve, out),
            Some(served) if served.is_later_than(&reserve) => {
                Err(Refusal::new(Reject::Broken, "a later attempt came before this one"))
            }
            Some(_) => self.serve_again(now, link, reserve, out),
        }
    }

    /// What keeps a service from taking another channel: words for the asker.
    pub(super) fn service_busy(&self, service: &ServiceConfig) -> Option<&'static str> {
        let taken = || self.served.values().any(|served| served.service == service.name);
        match service.kind {
            ServiceKind::Deliver => None,
            ServiceKind::Receive if !self.receiving.contains(&service.name) => {
                Some("nobody receives there (`spanway recv` does)")
            }
            ServiceKind::Receive | ServiceKind::Source if taken() => {
                Some("it serves one channel at a time and has one")
            }
            ServiceKind::Receive | ServiceKind::Source => None,
        }
    }

    pub(super) fn served_end_opened(
        &mut self,
        now: Time,
        channel: &ChannelId,
        result: Result<Option<Bytes>, Rejection>,
        out: &mut Vec<Action>,
    ) {
        let Some(mut served) = self.take_served(channel) else { return };
        let (asked, give_up) = match served.stage {
            Stage::OpeningEnd { asked, give_up } => (asked, give_up),
            Stage::Attached(_) | Stage::Detached { .. } => return self.put_served(served),
        };
        served.stage = Stage::Detached { give_up };
        let result = result.map(|answer| {
            served.seal.iter_mut().for_each(|seal| seal.with(answer.clone()));
        });
        match (result, asked) {
            (Ok(()), None) => self.put_served(served),
            (Ok(()), Some((link, reserve))) => {
                let tx = reserve.tx.clone();
                if let Err(refusal) = self.attach(now, &mut served, link, *reserve, out) {
                    self.dismiss(&Key::Served(served.id().clone()), out);
                    out.push(Action::CloseEnd { channel: channel.clone() });
                    self.send_nack(link, tx, refusal, out);
                } else {
                    self.put_served(served);
                }
            }
            (Err(why), asked) => {
                self.dismiss(&Key::Served(served.id().clone()), out);
                if let Some((link, reserve)) = asked {
                    self.send_nack(link, reserve.tx, not_opened(why), out);
                }
            }
        }
    }

    pub(super) fn served_released(
        &mut self,
        now: Time,
        link: LinkId,
        release: &Release,
        out: &mut Vec<Action>,
    ) -> Handled {
        self.check_served(link, &release.tx)?;
        let mut served = self.take_served(&release.tx.channel).expect("just checked");
        if release.cause == ReleaseCause::Closed {
            if let Some(gone) = served.remove(&release.tx) {
                self.let_go_of(now, &gone, out);
            }
            if let Stage::OpeningEnd { asked, .. } = &mut served.stage {
                *asked = None;
            }
            let why = format!("closed at {}", release.at);
            self.end_served(now, served, None, &why, out);
            return Ok(());
        }
        let why = match &release.failed {
            Some((here, there)) => format!("the link of {here} to {there} failed"),
            None => format!("the path broke at {}", release.at),
        };
        self.lose(now, &mut served, &release.tx, &why, out);
        self.put_served(served);
        Ok(())
    }

    pub(super) fn served_finished(
        &mut self,
        link: LinkId,
        tx: &TxId,
        frames: u64,
        out: &mut Vec<Action>,
    ) -> Handled {
        self.check_served(link, tx)?;
        let served = self.served.get_mut(&tx.channel).expect("just checked");
        if served.taken().next().is_none() {
            return Err("the path is not accepted yet");
        }
        if served.finished.is_none() {
            served.finished = Some(frames);
            let channel = tx.channel.clone();
            out.push(Action::Event(Event::StreamFinished { channel, frames }));
        }
        out.push(Action::Send { link, message: Message::FinishAck { tx: tx.clone() } });
        Ok(())
    }

    pub(super) fn served_link_down(
        &mut self,
        now: Time,
        link: LinkId,
        channel: &ChannelId,
        out: &mut Vec<Action>,
    ) {
        let Some(mut served) = self.take_served(channel) else { return };
        let why = format!("the link to {} is down", self.neighbour(link).peer);
        if let Stage::OpeningEnd { asked, .. } = &mut served.stage
            && let Some((_, asked)) = asked.take_if(|(of, _)| *of == link)
        {
            self.tombstones.bury(now, &asked.tx, false);
        }
        let over = |taken: &&Taken| taken.leg.link == link;
        let lost: Vec<_> = served.taken().filter(over).map(|taken| taken.tx.clone()).collect();
        for tx in lost {
            self.lose(now, &mut served, &tx, &why, out);
        }
        self.put_served(served);
    }

    pub(super) fn served_due(&mut self, now: Time, channel: &ChannelId, out: &mut Vec<Action>) {
        let Some(mut served) = self.take_served(channel) else { return };
        match &mut served.stage {
            Stage::OpeningEnd { asked, give_up } if *give_up <= now => {
                if let Some((link, reserve)) = asked.take() {
                    let detail = "the socket of the service was not opened in time";
                    let refusal = Refusal::new(Reject::Timeout, detail);
                    self.send_nack(link, reserve.tx, refusal, out);
                }
                self.dismiss(&Key::Served(served.id().clone()), out);
                out.push(Action::CloseEnd { channel: channel.clone() });
                return;
            }
            Stage::Detached { give_up } if *give_up <= now => {
                let why = format!("no new path came within {:?}", limits::LEASE);
                return self.end_served(now, served, Some(Reject::Broken), &why, out);
            }
            Stage::OpeningEnd { .. } | Stage::Attached(_) | Stage::Detached { .. } => {}
        }
        let expired = |taken: &&Taken| self.until(&taken.leg, &taken.tx) <= now;
        let expired: Vec<_> = served.taken().filter(expired).cloned().collect();
        for Taken { tx, leg, .. } in expired {
            let why = format!("{} stopped refreshing the path", self.links[&leg.link].peer);
            self.send_release(leg.link, &tx, ReleaseCause::Expired, None, out);
            self.lose(now, &mut served, &tx, &why, out);
        }
        self.put_served(served);
    }

    /// Ends a channel for good. `reason`: none if an end wanted it so.
    pub(super) fn end_served(
        &mut self,
        now: Time,
        mut served: Served,
        reason: Option<Reject>,
        why: &str,
        out: &mut Vec<Action>,
    ) {
        let asked = match &mut served.stage {
            Stage::OpeningEnd { asked, .. } => asked.take(),
            Stage::Attached(_) | Stage::Detached { .. } => None,
        };
        if let Some((link, asked)) = asked {
            self.send_release(link, &asked.tx, ReleaseCause::Closed, None, out);
        }
        // An end that closes it says so; that rules do is news.
        let told = (reason == Some(Reject::NotAllowed)).then_some(why);
        for taken in served.remove_all() {
            self.let_go_of(now, &taken, out);
            let (link, cause) = (taken.leg.link, ReleaseCause::Closed);
            self.send_release_why(link, &taken.tx, cause, told, out);
        }
        self.dismiss(&Key::Served(served.id().clone()), out);
        // No attempt of this channel may come back, whatever its number.
        let last = TxId { channel: served.id.clone(), attempt: 0 };
        self.tombstones.bury(now, &last, true);
        let channel = served.id;
        out.push(Action::CloseEnd { channel: channel.clone() });
        if !matches!(served.stage, Stage::OpeningEnd { .. }) {
            out.push(Action::Event(Event::ChannelClosed { channel, reason, why: why.to_owned() }));
        }
    }

    pub(super) fn take_served(&mut self, channel: &ChannelId) -> Option<Served> {
        let served = self.served.remove(channel)?;
        self.wakes.remove(&wake(served.wake, Key::Served(channel.clone())));
        Some(served)
    }

    fn put_served(&mut self, mut served: Served) {
        served.wake = match &served.stage {
            Stage::OpeningEnd { give_up, .. } => (*give_up, Timer::Request),
            Stage::Attached(taken) => {
                let until = |taken: &Taken| self.until(&taken.leg, &taken.tx);
                (taken.iter().map(until).min().expect("at least one"), Timer::Lease)
            }
            Stage::Detached { give_up } => (*give_up, Timer::Move),
        };
        self.wakes.insert(wake(served.wake, Key::Served(served.id().clone())));
        self.served.insert(served.id().clone(), served);
    }

    fn serve_first(
        &mut self,
        now: Time,
        link: LinkId,
        reserve: Reserve,
        out: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        let name = &reserve.service;
        let Some(service) = self.services.iter().find(|s| s.name == *name).cloned() else {
            let detail = format!("{} offers no service {name}", self.me);
            return Err(Refusal::new(Reject::NoSuchService, detail));
        };
        self.end_orphans(now, &reserve.tx.channel, out);
        if let Some(why) = self.service_busy(&service) {
            return Err(Refusal::new(Reject::ServiceBusy, format!("{}: {why}", service.name)));
        }
        let (seal, sealing) = self.answered(&reserve, &service)?;
        self.let_in(&reserve);
        let key = Key::Served(reserve.tx.channel.clone());
        let worker = self.balance.employ(key, [reserve.rate, reserve.rate_back]);
        out.push(Action::OpenEnd {
            channel: reserve.tx.channel.clone(),
            side: Side::Service,
            service: service.name.clone(),
            worker,
            sealing,
        });
        self.put_served(Served {
            id: reserve.tx.channel.clone(),
            service: service.name,
            wake: (now, Timer::Request),
            name: reserve.name.clone(),
            rate: reserve.rate,
            rate_back: reserve.rate_back,
            max_payload: 0,
            key: reserve.proof.map(|proof| proof.key),
            seal,
            opened: false,
            stage: Stage::OpeningEnd {
                give_up: now + hold_time(&reserve),
                asked: Some((link, Box::new(reserve))),
            },
            finished: None,
        });
        Ok(())
    }

    /// A later attempt of a channel that has its end here: the socket is used again.
    fn serve_again(
        &mut self,
        now: Time,
        link: LinkId,
        reserve: Reserve,
        out: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        let mut served = self.take_served(&reserve.tx.channel).expect("the caller saw it");
        if let Err(refusal) = Self::keeps_seal(served.seal.as_ref(), &reserve) {
            self.put_served(served);
            return Err(refusal);
        }
        if (served.rate, served.rate_back) != (reserve.rate, reserve.rate_back) {
            self.put_served(served);
            return Err(Refusal::new(Reject::NotAllowed, "a channel cannot change its rate"));
        }
        if let Stage::OpeningEnd { asked, give_up } = &mut served.stage {
            *give_up = now + hold_time(&reserve);
            if let Some((link, old)) = asked.replace((link, Box::new(reserve))) {
                self.tombstones.bury(now, &old.tx, false);
                self.send_release(link, &old.tx, ReleaseCause::Moved, None, out);
            }
            self.put_served(served);
            return Ok(());
        }
        let attached = served.taken().next().is_some();
        let given_up = match reserve.manner {
            Manner::Replace => served.remove_all(),
            Manner::Beside | Manner::Standby => served.make_room(),
        };
        for taken in given_up {
            self.let_go_of(now, &taken, out);
            self.send_release(taken.leg.link, &taken.tx, ReleaseCause::Moved, None, out);
        }
        let attempt = self.attach(now, &mut served, link, reserve, out);
        if attempt.is_err() {
            self.after_loss(now, &mut served, attached, out);
        }
        self.put_served(served);
        attempt
    }

    /// Ends broken channels of an earlier life of the asker: nobody will come back for them, and a
    /// service that takes one channel at a time must not wait for their lease.
    fn end_orphans(&mut self, now: Time, asked: &ChannelId, out: &mut Vec<Action>) {
        let of = |boot, count| ChannelId { source: asked.source.clone(), boot, count };
        let earlier = self.served.range(of(0, 0)..of(asked.boot, 0));
        let later =
            (Bound::Excluded(of(asked.boot, u64::MAX)), Bound::Included(of(u64::MAX, u64::MAX)));
        // A boot of another number; which of the two came first does not show.
        let others = earlier.chain(self.served.range(later)).map(|(_, served)| served);
        let orphan = |served: &&Served| matches!(served.stage, Stage::Detached { .. });
        let orphans: Vec<_> = others.filter(orphan).map(|served| served.id().clone()).collect();
        for id in orphans {
            let served = self.take_served(&id).expect("listed above");
            let why = format!("{} has restarted", id.source);
            self.end_served(now, served, Some(Reject::Broken), &why, out);
        }
    }

    /// Holds the way back and accepts. On an error nothing has changed.
    fn attach(
        &mut self,
        now: Time,
        served: &mut Served,
        link: LinkId,
        reserve: Reserve,
        out: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        let turn = Turn::of(&reserve);
        let seal = served.seal.as_ref().and_then(|seal| seal.to(&reserve));
        let tx = reserve.tx;
        let lease = now + limits::LEASE;
        let rates = Rates { out: served.rate_back, back: served.rate };
        self.hold(link, &tx, (rates, Crossing::Back), lease, turn)?;
        let neighbour = self.neighbour(link);
        neighbour.ledger.commit(&tx, lease);
        let max_payload = reserve.max_payload.min(neighbour.max_payload);
        let worker = self.balance.worker(&Key::Served(served.id().clone()));
        let leg = self.leg(link, worker);
        let rate = (served.rate, false);
        out.push(add_label(&tx, leg, Target::Local, rate, hops(&reserve.path)));
        let back = (reserve.back_label, reserve.back_port);
        let standby = reserve.manner == Manner::Standby;
        let taken = Taken { tx: tx.clone(), leg, path: reserve.path, max_payload, back, standby };
        let event = Self::take(now, served, taken, out);
        let accept = Accept {
            tx,
            label: leg.label,
            port: self.port(worker),
            max_payload,
            // Each hop lowers it to what it has.
            width: Bandwidth::MAX,
            seal,
        };
        out.push(Action::Send { link, message: Message::Accept(accept) });
        out.push(Action::Event(event));
        self.begin_refreshes(now, link);
        Ok(())
    }

    /// One more path; frames go back on it unless it only stands by.
    fn take(now: Time, served: &mut Served, taken: Taken, out: &mut Vec<Action>) -> Event {
        let channel = served.id.clone();
        let path = taken.path.clone();
        match &mut served.stage {
            Stage::Attached(others) if taken.standby => {
                others.push(taken);
                Event::ChannelProtected { channel, path }
            }
            Stage::Attached(others) => {
                let seamless = !others.is_empty();
                others.insert(0, taken);
                go_back_on_first(served, (Duration::ZERO, seamless), out)
            }
            Stage::Detached { give_up } if served.opened => {
                let took = now.since(Time(give_up.0.saturating_sub(LEASE_US)));
                served.stage = Stage::Attached(vec![Taken { standby: false, ..taken }]);
                go_back_on_first(served, (took, false), out)
            }
            Stage::OpeningEnd { .. } | Stage::Detached { .. } => {
                served.opened = true;
                served.stage = Stage::Attached(vec![Taken { standby: false, ..taken }]);
                go_back_on_first(served, (Duration::ZERO, false), out);
                Event::ChannelOpen { channel, path }
            }
        }
    }

    /// One path is gone: frames go back on another one if there is one, else the socket waits.
    fn lose(
        &mut self,
        now: Time,
        served: &mut Served,
        tx: &TxId,
        why: &str,
        out: &mut Vec<Action>,
    ) {
        if let Stage::OpeningEnd { asked, .. } = &mut served.stage
            && asked.take_if(|(_, asked)| asked.tx == *tx).is_some()
        {
            return self.tombstones.bury(now, tx, false);
        }
        let in_use = served.taken().next().is_some_and(|taken| taken.tx == *tx);
        let Some(gone) = served.remove(tx) else { return };
        self.let_go_of(now, &gone, out);
        if !in_use {
            return;
        }
        if let Stage::Attached(taken) = &mut served.stage {
            // The asker goes over to the path that stands by, not to one that it has left.
            let next = taken.iter().position(|taken| taken.standby).unwrap_or(0);
            if let Some(first) = (!taken.is_empty()).then(|| taken.remove(next)) {
                taken.insert(0, Taken { standby: false, ..first });
            }
        }
        self.after_loss(now, served, true, out);
        if served.taken().next().is_none() {
            let (channel, why) = (served.id.clone(), why.to_owned());
            out.push(Action::Event(Event::ChannelMoving { channel, why }));
        }
    }

    /// A link has no room for this path any more; the asker is told by the caller.
    pub(super) fn served_without_room(
        &mut self,
        now: Time,
        tx: &TxId,
        why: &str,
        out: &mut Vec<Action>,
    ) {
        let Some(mut served) = self.take_served(&tx.channel) else { return };
        self.lose(now, &mut served, tx, why, out);
        self.put_served(served);
    }

    /// Paths are gone: another one is used, or the end waits for one.
    fn after_loss(&self, now: Time, served: &mut Served, attached: bool, out: &mut Vec<Action>) {
        if served.taken().next().is_some() {
            let event = go_back_on_first(served, (Duration::ZERO, false), out);
            return out.push(Action::Event(event));
        }
        if let Stage::Attached(_) = served.stage {
            served.stage = Stage::Detached { give_up: now + limits::LEASE };
        }
        if attached {
            out.push(Action::SetEntry { channel: served.id.clone(), to: None });
        }
    }

    /// Gives back what a path has here.
    fn let_go_of(&mut self, now: Time, taken: &Taken, out: &mut Vec<Action>) {
        out.push(Action::RemoveLabel { label: taken.leg.label });
        self.free_leg(&taken.tx, taken.leg);
        self.tombstones.bury(now, &taken.tx, false);
    }

    /// Whether a message about `tx` may come from `link`.
    fn check_served(&self, link: LinkId, tx: &TxId) -> Handled {
        let served = self.served.get(&tx.channel).ok_or(UNKNOWN)?;
        match served.link_of(tx) {
            Some(own) if own == link => Ok(()),
            Some(_) => Err(NOT_OWNER),
            None => Err(STALE),
        }
    }
}

/// Frames go back on the first path from now on; `moved` says how long there was none, and whether the
/// one before still carries.
fn go_back_on_first(served: &mut Served, moved: (Duration, bool), out: &mut Vec<Action>) -> Event {
    let first = served.taken().next().expect("it has a path");
    let (label, port) = first.back;
    let (path, max_payload) = (first.path.clone(), first.max_payload);
    let to = Target::Hop { link: first.leg.link, label, port };
    let entry = Entry { to, rate: served.rate_back, max_payload };
    let channel = served.id.clone();
    out.push(Action::SetEntry { channel: channel.clone(), to: Some(entry) });
    let smaller_payload = (max_payload < served.max_payload).then_some(max_payload);
    served.max_payload = max_payload;
    let (took, seamless) = moved;
    Event::ChannelMoved { channel, path, took, seamless, smaller_payload }
}

impl Served {
    /// An attempt that replaces everything came too late: a later one is here.
    fn is_later_than(&self, reserve: &Reserve) -> bool {
        let asked = match &self.stage {
            Stage::OpeningEnd { asked, .. } => asked.as_ref().map(|(_, asked)| asked.tx.attempt),
            Stage::Attached(_) | Stage::Detached { .. } => None,
        };
        let latest = self.taken().map(|taken| taken.tx.attempt).max().max(asked);
        reserve.manner == Manner::Replace && latest > Some(reserve.tx.attempt)
    }

    fn remove(&mut self, tx: &TxId) -> Option<Taken> {
        let Stage::Attached(taken) = &mut self.stage else { return None };
        let at = taken.iter().position(|taken| taken.tx == *tx)?;
        Some(taken.remove(at))
    }

    fn remove_all(&mut self) -> Vec<Taken> {
        match &mut self.stage {
            Stage::Attached(taken) => std::mem::take(taken),
            Stage::OpeningEnd { .. } | Stage::Detached { .. } => Vec::new(),
        }
    }

    /// Paths that are one too many for another one: never the one in use.
    fn make_room(&mut self) -> Vec<Taken> {
        match &mut self.stage {
            Stage::Attached(taken) if taken.len() >= limits::ATTEMPTS_MAX => {
                taken.split_off(limits::ATTEMPTS_MAX - 1)
            }
            Stage::OpeningEnd { .. } | Stage::Attached(_) | Stage::Detached { .. } => Vec::new(),
        }
    }
}
