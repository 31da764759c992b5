//! The end that offers the service: takes a channel if the service can, keeps its socket while the
//! asker looks for another path, and gives up by itself when none comes.
//!
//! ```text
//!  OpeningEnd ─► Attached ◄──► Detached
//!       └───────────┴────────────┴──► closed
//! ```

use std::ops::Bound;

use super::relay::{Refusal, add_label, hold_time, hops};
use super::{Channels, Handled, Key, Leg, NOT_OWNER, STALE, UNKNOWN, wake};
use crate::limits;
use crate::proto::reservation::Rates;
use crate::proto::view::{ChannelState, ChannelView};
use crate::proto::{Action, Entry, Event, ServiceConfig, ServiceKind, Side, Target, Timer};
use crate::types::{Bandwidth, ChannelId, LinkId, PeerName, Reject, ServiceName, Time, TxId};
use crate::wire::control::{Accept, Message, Release, ReleaseCause, Reserve};

#[derive(Debug)]
pub(super) struct Served {
    /// The attempt in use, asked about, or used last.
    pub(super) tx: TxId,
    pub(super) service: ServiceName,
    pub(super) wake: (Time, Timer),
    name: ServiceName,
    /// Empty while nothing is reserved here.
    path: Vec<PeerName>,
    rate: Bandwidth,
    rate_back: Bandwidth,
    max_payload: u16,
    stage: Stage,
    /// The asker's stream ended after this many frames.
    finished: Option<u64>,
}

#[derive(Debug)]
enum Stage {
    /// Waits for its local socket. `asked` is the RESERVE to answer then; none if its link broke.
    OpeningEnd {
        asked: Option<(LinkId, Box<Reserve>)>,
        give_up: Time,
    },
    Attached {
        leg: Leg,
    },
    /// The path broke; the socket stays.
    Detached {
        give_up: Time,
    },
}

impl Served {
    pub(super) fn id(&self) -> &ChannelId {
        &self.tx.channel
    }

    pub(super) fn leg(&self) -> Option<&Leg> {
        match &self.stage {
            Stage::Attached { leg } => Some(leg),
            Stage::OpeningEnd { .. } | Stage::Detached { .. } => None,
        }
    }

    /// The link the current attempt came over.
    pub(super) fn link(&self) -> Option<LinkId> {
        match &self.stage {
            Stage::Attached { leg } => Some(leg.link),
            Stage::OpeningEnd { asked, .. } => asked.as_ref().map(|(link, _)| *link),
            Stage::Detached { .. } => None,
        }
    }

    pub(super) fn uses(&self, link: LinkId) -> bool {
        self.link() == Some(link)
    }

    pub(super) fn view(&self) -> ChannelView {
        ChannelView {
            id: self.id().clone(),
            name: self.name.clone(),
            peer: self.id().source.clone(),
            service: self.service.clone(),
            side: Some(Side::Service),
            state: match self.stage {
                Stage::OpeningEnd { .. } => ChannelState::Opening,
                Stage::Attached { .. } => ChannelState::Open,
                Stage::Detached { .. } => ChannelState::Moving,
            },
            path: self.path.clone(),
            rate: self.rate,
            rate_back: self.rate_back,
            max_payload: self.max_payload,
        }
    }
}

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
            Some(served) if reserve.tx.attempt < served.tx.attempt => {
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
        result: Result<(), String>,
        out: &mut Vec<Action>,
    ) {
        let Some(mut served) = self.take_served(channel) else { return };
        let (asked, give_up) = match served.stage {
            Stage::OpeningEnd { asked, give_up } => (asked, give_up),
            Stage::Attached { .. } | Stage::Detached { .. } => return self.put_served(served),
        };
        served.stage = Stage::Detached { give_up };
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
            (Err(detail), asked) => {
                self.dismiss(&Key::Served(served.id().clone()), out);
                if let Some((link, reserve)) = asked {
                    self.send_nack(link, reserve.tx, Refusal::new(Reject::Busy, detail), out);
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
            self.drop_leg(now, &mut served, out);
            if let Stage::OpeningEnd { asked, .. } = &mut served.stage {
                *asked = None;
            }
            let why = format!("closed at {}", release.at);
            self.end_served(now, served, None, &why, out);
        } else {
            self.detach(now, served, &format!("the path broke at {}", release.at), out);
        }
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
        if served.leg().is_none() {
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
        channel: &ChannelId,
        out: &mut Vec<Action>,
    ) {
        let Some(served) = self.take_served(channel) else { return };
        let link = served.link().expect("it uses the link");
        let why = format!("the link to {} is down", self.neighbour(link).peer);
        self.detach(now, served, &why, out);
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
            }
            Stage::Detached { give_up } if *give_up <= now => {
                let why = format!("no new path came within {:?}", limits::LEASE);
                self.end_served(now, served, Some(Reject::Broken), &why, out);
            }
            Stage::Attached { leg } if self.until(leg, &served.tx) <= now => {
                let link = leg.link;
                let why = format!("{} stopped refreshing the path", self.links[&link].peer);
                self.send_release(link, &served.tx, ReleaseCause::Expired, out);
                self.detach(now, served, &why, out);
            }
            Stage::OpeningEnd { .. } | Stage::Attached { .. } | Stage::Detached { .. } => {
                self.put_served(served);
            }
        }
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
        let link = served.link();
        self.drop_leg(now, &mut served, out);
        if let Some(link) = link {
            self.send_release(link, &served.tx, ReleaseCause::Closed, out);
        }
        self.dismiss(&Key::Served(served.id().clone()), out);
        self.tombstones.bury(now, &served.tx, true);
        let channel = served.tx.channel;
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
            Stage::Attached { leg } => (self.until(leg, &served.tx), Timer::Lease),
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
        let key = Key::Served(reserve.tx.channel.clone());
        let worker = self.balance.employ(key, [reserve.rate, reserve.rate_back]);
        out.push(Action::OpenEnd {
            channel: reserve.tx.channel.clone(),
            side: Side::Service,
            service: service.name.clone(),
            worker,
        });
        self.put_served(Served {
            tx: reserve.tx.clone(),
            service: service.name,
            wake: (now, Timer::Request),
            name: reserve.name.clone(),
            path: Vec::new(),
            rate: reserve.rate,
            rate_back: reserve.rate_back,
            max_payload: 0,
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
        if (served.rate, served.rate_back) != (reserve.rate, reserve.rate_back) {
            self.put_served(served);
            return Err(Refusal::new(Reject::NotAllowed, "a channel cannot change its rate"));
        }
        let old = served.link();
        let attached = served.leg().is_some();
        self.drop_leg(now, &mut served, out);
        if let Some(old) = old {
            self.send_release(old, &served.tx, ReleaseCause::Moved, out);
        }
        if let Stage::OpeningEnd { asked, give_up } = &mut served.stage {
            served.tx = reserve.tx.clone();
            *give_up = now + hold_time(&reserve);
            *asked = Some((link, Box::new(reserve)));
            self.put_served(served);
            return Ok(());
        }
        let attempt = self.attach(now, &mut served, link, reserve, out);
        if attempt.is_err() && attached {
            let channel = served.id().clone();
            out.push(Action::SetEntry { channel, to: None });
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

    /// Holds the way back and accepts. On an error nothing has changed but the attempt's number.
    fn attach(
        &mut self,
        now: Time,
        served: &mut Served,
        link: LinkId,
        reserve: Reserve,
        out: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        served.tx = reserve.tx;
        let lease = now + limits::LEASE;
        let rates = Rates { out: served.rate_back, back: served.rate };
        let neighbour = self.neighbour(link);
        let held = neighbour.ledger.hold(&served.tx, rates, lease);
        held.map_err(|short| Refusal::no_room(&neighbour.peer, rates.out, short))?;
        neighbour.ledger.commit(&served.tx, lease);
        served.max_payload = reserve.max_payload.min(neighbour.max_payload);
        served.path = reserve.path;
        let worker = self.balance.worker(&Key::Served(served.id().clone()));
        let leg = self.leg(link, worker);
        served.stage = Stage::Attached { leg };
        let hop = hops(&served.path);
        out.push(add_label(&served.tx, leg, Target::Local, served.rate, hop));
        let entry = Entry {
            to: Target::Hop { link, label: reserve.back_label, port: reserve.back_port },
            rate: served.rate_back,
            max_payload: served.max_payload,
        };
        out.push(Action::SetEntry { channel: served.id().clone(), to: Some(entry) });
        let accept = Accept {
            tx: served.tx.clone(),
            label: leg.label,
            port: self.port(worker),
            max_payload: served.max_payload,
            // Each hop lowers it to what it has.
            width: Bandwidth::MAX,
        };
        out.push(Action::Send { link, message: Message::Accept(accept) });
        out.push(Action::Event(Event::ChannelOpen {
            channel: served.id().clone(),
            path: served.path.clone(),
        }));
        self.begin_refreshes(now, link);
        Ok(())
    }

    /// The path is gone; the socket stays for a while.
    fn detach(&mut self, now: Time, mut served: Served, why: &str, out: &mut Vec<Action>) {
        if let Stage::OpeningEnd { asked, .. } = &mut served.stage {
            *asked = None;
            self.tombstones.bury(now, &served.tx, false);
            return self.put_served(served);
        }
        self.drop_leg(now, &mut served, out);
        let channel = served.id().clone();
        out.push(Action::SetEntry { channel: channel.clone(), to: None });
        out.push(Action::Event(Event::ChannelMoving { channel, why: why.to_owned() }));
        self.put_served(served);
    }

    /// Gives back what the current attempt has here, if anything.
    fn drop_leg(&mut self, now: Time, served: &mut Served, out: &mut Vec<Action>) {
        if let Stage::Attached { leg } = served.stage {
            out.push(Action::RemoveLabel { label: leg.label });
            self.free_leg(&served.tx, leg);
            self.tombstones.bury(now, &served.tx, false);
            served.stage = Stage::Detached { give_up: now + limits::LEASE };
            served.path = Vec::new();
        }
    }

    /// Whether a message about `tx` may come from `link`.
    fn check_served(&self, link: LinkId, tx: &TxId) -> Handled {
        let served = self.served.get(&tx.channel).ok_or(UNKNOWN)?;
        match served.link() {
            Some(own) if served.tx == *tx && own == link => Ok(()),
            Some(_) if served.tx == *tx => Err(NOT_OWNER),
            _ => Err(STALE),
        }
    }
}
