//! The end that asked for a channel: checks the request, tries a path, answers once, and looks for
//! another path when an open channel breaks.
//!
//! ```text
//!  OpeningEnd ─► Reserving ─► Open ◄──► Moving
//!       └────────────┴──────────┴─────────┴──► closed
//! ```

use super::relay::{add_label, hops, shortened};
use super::{Channels, Handled, Key, Leg, NOT_OWNER, Paths, STALE, UNKNOWN, rejected, wake};
use crate::limits;
use crate::proto::reservation::Rates;
use crate::proto::view::{ChannelState, ChannelView};
use crate::proto::{
    Action, Answer, Entry, Event, OpenRequest, Opened, Rejection, Side, Target, Timer,
};
use crate::types::{
    Bandwidth, ChannelId, LinkId, PeerName, Reject, RequestId, ServiceName, Time, TxId,
};
use crate::wire::control::{Accept, Message, Nack, Release, ReleaseCause, Reserve};

#[derive(Debug)]
pub(super) struct Source {
    pub(super) id: ChannelId,
    /// The attempt in use, or about to be made with the next number.
    pub(super) leg: Option<Leg>,
    pub(super) wake: (Time, Timer),
    attempt: u32,
    /// The path of the attempt; empty without one.
    path: Vec<PeerName>,
    pub(super) name: ServiceName,
    peer: PeerName,
    service: ServiceName,
    rate: Bandwidth,
    rate_back: Bandwidth,
    max_payload: u16,
    ticket: u64,
    stage: Stage,
    finish: Option<Finish>,
}

#[derive(Debug)]
enum Stage {
    /// Waits for its local socket.
    OpeningEnd {
        request: RequestId,
        deadline: Time,
    },
    /// The first attempt is on its way.
    Reserving {
        request: RequestId,
        deadline: Time,
    },
    Open,
    /// `next`: when the attempt under way is given up, or the next one is made.
    Moving {
        give_up: Time,
        next: Time,
        why: String,
    },
}

/// The local stream ended; the far end does not know it yet.
#[derive(Clone, Copy, Debug)]
struct Finish {
    request: RequestId,
    frames: u64,
    /// When FINISH is sent again.
    next: Time,
}

impl Source {
    pub(super) fn tx(&self) -> TxId {
        TxId { channel: self.id.clone(), attempt: self.attempt }
    }

    pub(super) fn uses(&self, link: LinkId) -> bool {
        self.leg.is_some_and(|leg| leg.link == link)
    }

    pub(super) fn view(&self) -> ChannelView {
        ChannelView {
            id: self.id.clone(),
            name: self.name.clone(),
            peer: self.peer.clone(),
            service: self.service.clone(),
            side: Some(Side::Source),
            state: match self.stage {
                Stage::OpeningEnd { .. } | Stage::Reserving { .. } => ChannelState::Opening,
                Stage::Open => ChannelState::Open,
                Stage::Moving { .. } => ChannelState::Moving,
            },
            path: self.path.clone(),
            rate: self.rate,
            rate_back: self.rate_back,
            max_payload: self.max_payload,
        }
    }

    /// Its leg, while it carries frames and nothing about it changes.
    pub(super) fn settled_leg(&self) -> Option<&Leg> {
        self.leg.as_ref().filter(|_| matches!(self.stage, Stage::Open))
    }
}

impl Channels {
    /// Asks for a channel. The answer comes now or within the deadline, exactly one.
    pub fn open(
        &mut self,
        now: Time,
        id: RequestId,
        request: OpenRequest,
        paths: &dyn Paths,
        out: &mut Vec<Action>,
    ) {
        if let Err(rejection) = self.check_open(&request, paths) {
            out.push(Action::Answer { id, answer: Answer::Rejected(rejection) });
            return;
        }
        self.count += 1;
        self.clock = self.clock.saturating_add(1);
        let deadline = now + request.deadline.min(limits::HOLD);
        let id_of = ChannelId { source: self.me.clone(), boot: self.boot, count: self.count };
        let key = Key::Source(id_of.clone());
        let worker = self.balance.employ(key, [request.rate, request.rate_back]);
        let source = Source {
            id: id_of,
            leg: None,
            wake: (deadline, Timer::Request),
            attempt: 0,
            path: Vec::new(),
            name: request.name.unwrap_or_else(|| self.free_name()),
            peer: request.peer,
            service: request.service,
            rate: request.rate,
            rate_back: request.rate_back,
            max_payload: 0,
            ticket: self.clock,
            stage: Stage::OpeningEnd { request: id, deadline },
            finish: None,
        };
        out.push(Action::OpenEnd {
            channel: source.id.clone(),
            side: Side::Source,
            service: source.service.clone(),
            worker,
        });
        self.names.insert(source.name.clone(), source.id.clone());
        self.put_source(source);
    }

    /// The local stream of a channel ended; answered when the far end knows, or never will.
    pub fn finish(
        &mut self,
        now: Time,
        id: RequestId,
        channel: &ChannelId,
        frames: u64,
        out: &mut Vec<Action>,
    ) {
        let state = self.sources.get(channel).map(|source| (&source.stage, source.finish));
        let refused = match state {
            None => Some((Reject::NotAllowed, format!("no channel {channel} was asked for here"))),
            Some((Stage::OpeningEnd { .. } | Stage::Reserving { .. }, _)) => {
                Some((Reject::NotAllowed, format!("{channel} is not open yet")))
            }
            Some((_, Some(_))) => {
                Some((Reject::Duplicate, format!("the end of {channel} is being told already")))
            }
            Some((Stage::Open | Stage::Moving { .. }, None)) => None,
        };
        if let Some((reason, detail)) = refused {
            out.push(rejected(id, reason, detail));
            return;
        }
        let mut source = self.take_source(channel).expect("just seen");
        source.finish = Some(Finish { request: id, frames, next: now });
        send_finish(now, &mut source, out);
        self.put_source(source);
    }

    /// A new tree is in use: channels that wait for a path try it.
    pub fn tree_committed(&mut self, now: Time, paths: &dyn Paths, out: &mut Vec<Action>) {
        let moving = |source: &&Source| matches!(source.stage, Stage::Moving { .. });
        let ids: Vec<_> =
            self.sources.values().filter(moving).map(|source| source.id.clone()).collect();
        for id in ids {
            let mut source = self.take_source(&id).expect("listed above");
            if source.leg.is_some() {
                if paths.path(&source.peer).as_ref() == Some(&source.path) {
                    self.put_source(source);
                    continue;
                }
                self.give_up_attempt(&mut source, ReleaseCause::Moved, out);
            }
            self.attempt(now, source, paths, out);
        }
    }

    pub(super) fn source_end_opened(
        &mut self,
        now: Time,
        channel: &ChannelId,
        result: Result<(), String>,
        paths: &dyn Paths,
        out: &mut Vec<Action>,
    ) {
        let Some(mut source) = self.take_source(channel) else { return };
        let Stage::OpeningEnd { request, deadline } = source.stage else {
            return self.put_source(source);
        };
        if let Err(detail) = result {
            self.names.remove(&source.name);
            self.dismiss(&Key::Source(source.id), out);
            out.push(rejected(request, Reject::Busy, detail));
            return;
        }
        source.stage = Stage::Reserving { request, deadline };
        self.attempt(now, source, paths, out);
    }

    pub(super) fn source_accepted(
        &mut self,
        now: Time,
        link: LinkId,
        accept: &Accept,
        out: &mut Vec<Action>,
    ) -> Handled {
        let leg = self.check_source(link, &accept.tx)?;
        if matches!(self.sources[&accept.tx.channel].stage, Stage::Open) {
            return Err("accepted already");
        }
        let mut source = self.take_source(&accept.tx.channel).expect("just checked");
        let width = accept.width.min(self.width(leg, source.rate));
        let neighbour = self.neighbour(link);
        neighbour.ledger.commit(&accept.tx, now + limits::LEASE);
        source.max_payload = accept.max_payload.min(neighbour.max_payload);
        let entry = Entry {
            to: Target::Hop { link, label: accept.label, port: accept.port },
            rate: source.rate,
            max_payload: source.max_payload,
        };
        out.push(Action::SetEntry { channel: source.id.clone(), to: Some(entry) });
        if let Stage::Reserving { request, .. } = source.stage {
            let opened = Opened {
                channel: source.id.clone(),
                path: source.path.clone(),
                width,
                max_payload: source.max_payload,
            };
            out.push(Action::Answer { id: request, answer: Answer::Open(opened) });
        }
        source.stage = Stage::Open;
        out.push(Action::Event(Event::ChannelOpen {
            channel: source.id.clone(),
            path: source.path.clone(),
        }));
        send_finish(now, &mut source, out);
        self.put_source(source);
        self.begin_refreshes(now, link);
        Ok(())
    }

    pub(super) fn source_refused(
        &mut self,
        now: Time,
        link: LinkId,
        nack: &Nack,
        out: &mut Vec<Action>,
    ) -> Handled {
        let leg = self.check_source(link, &nack.tx)?;
        if matches!(self.sources[&nack.tx.channel].stage, Stage::Open) {
            return Err("accepted already");
        }
        let mut source = self.take_source(&nack.tx.channel).expect("just checked");
        self.drop_attempt(&mut source, leg, out);
        let detail = format!("at {}: {}", nack.at, nack.detail);
        self.attempt_failed(now, source, nack.reason, &detail, out);
        Ok(())
    }

    pub(super) fn source_released(
        &mut self,
        now: Time,
        link: LinkId,
        release: &Release,
        out: &mut Vec<Action>,
    ) -> Handled {
        let leg = self.check_source(link, &release.tx)?;
        let mut source = self.take_source(&release.tx.channel).expect("just checked");
        self.drop_attempt(&mut source, leg, out);
        let at = &release.at;
        match release.cause {
            ReleaseCause::Closed => {
                self.end_source(source, None, &format!("closed at {at}"), out);
            }
            ReleaseCause::Expired => {
                let why = format!("at {at}: nobody refreshed the path");
                self.attempt_failed(now, source, Reject::Timeout, &why, out);
            }
            ReleaseCause::Moved | ReleaseCause::Broken => {
                let why = format!("the path broke at {at}");
                self.attempt_failed(now, source, Reject::Unreachable, &why, out);
            }
        }
        Ok(())
    }

    pub(super) fn source_finish_known(
        &mut self,
        link: LinkId,
        tx: &TxId,
        out: &mut Vec<Action>,
    ) -> Handled {
        self.check_source(link, tx)?;
        let mut source = self.take_source(&tx.channel).expect("just checked");
        let finish = source.finish.take();
        self.put_source(source);
        let finish = finish.ok_or("the far end knew already")?;
        out.push(Action::Answer { id: finish.request, answer: Answer::Finished });
        Ok(())
    }

    pub(super) fn source_link_down(
        &mut self,
        now: Time,
        channel: &ChannelId,
        out: &mut Vec<Action>,
    ) {
        let Some(mut source) = self.take_source(channel) else { return };
        let leg = source.leg.expect("it uses the link");
        let why = format!("the link to {} is down", self.neighbour(leg.link).peer);
        self.drop_attempt(&mut source, leg, out);
        self.attempt_failed(now, source, Reject::Unreachable, &why, out);
    }

    pub(super) fn source_due(
        &mut self,
        now: Time,
        channel: &ChannelId,
        paths: &dyn Paths,
        out: &mut Vec<Action>,
    ) {
        let Some(mut source) = self.take_source(channel) else { return };
        match &source.stage {
            Stage::OpeningEnd { deadline, .. } if *deadline <= now => {
                let why = "the local socket was not opened in time";
                self.end_source(source, Some(Reject::Timeout), why, out);
            }
            Stage::Reserving { deadline, .. } if *deadline <= now => {
                let why = format!("no answer from {}", source.path[1]);
                self.end_source(source, Some(Reject::Timeout), &why, out);
            }
            Stage::Open if self.until(&source.leg.expect("it is open"), &source.tx()) <= now => {
                let why = format!("{} stopped refreshing the path", source.path[1]);
                self.give_up_attempt(&mut source, ReleaseCause::Expired, out);
                self.attempt_failed(now, source, Reject::Timeout, &why, out);
            }
            Stage::Moving { give_up, why, .. } if *give_up <= now => {
                let why = format!("no other path within {:?}: {why}", limits::MOVE_DEADLINE);
                self.end_source(source, Some(Reject::Broken), &why, out);
            }
            Stage::Moving { next, .. } if *next <= now => {
                self.give_up_attempt(&mut source, ReleaseCause::Moved, out);
                self.attempt(now, source, paths, out);
            }
            Stage::Open
            | Stage::OpeningEnd { .. }
            | Stage::Reserving { .. }
            | Stage::Moving { .. } => {
                if source.finish.is_some_and(|finish| finish.next <= now) {
                    send_finish(now, &mut source, out);
                }
                self.put_source(source);
            }
        }
    }

    /// Ends a channel for good: what it holds, its socket, its open questions. `reason`: none if an
    /// end wanted it so.
    pub(super) fn end_source(
        &mut self,
        mut source: Source,
        reason: Option<Reject>,
        why: &str,
        out: &mut Vec<Action>,
    ) {
        self.give_up_attempt(&mut source, ReleaseCause::Closed, out);
        self.names.remove(&source.name);
        self.dismiss(&Key::Source(source.id.clone()), out);
        let channel = source.id;
        out.push(Action::CloseEnd { channel: channel.clone() });
        let rejection =
            Rejection { reason: reason.unwrap_or(Reject::Cancelled), detail: why.to_owned() };
        if let Some(finish) = source.finish {
            let answer = Answer::Rejected(rejection.clone());
            out.push(Action::Answer { id: finish.request, answer });
        }
        match source.stage {
            Stage::OpeningEnd { request, .. } | Stage::Reserving { request, .. } => {
                out.push(Action::Answer { id: request, answer: Answer::Rejected(rejection) });
            }
            Stage::Open | Stage::Moving { .. } => {
                out.push(Action::Event(Event::ChannelClosed {
                    channel,
                    reason,
                    why: why.to_owned(),
                }));
            }
        }
    }

    pub(super) fn take_source(&mut self, channel: &ChannelId) -> Option<Source> {
        let source = self.sources.remove(channel)?;
        self.wakes.remove(&wake(source.wake, Key::Source(channel.clone())));
        Some(source)
    }

    fn put_source(&mut self, mut source: Source) {
        let lease = |leg: &Leg| (self.until(leg, &source.tx()), Timer::Lease);
        let stage = match &source.stage {
            Stage::OpeningEnd { deadline, .. } | Stage::Reserving { deadline, .. } => {
                (*deadline, Timer::Request)
            }
            Stage::Open => lease(source.leg.as_ref().expect("it is open")),
            Stage::Moving { give_up, next, .. } => ((*next).min(*give_up), Timer::Move),
        };
        let finish = source.finish.filter(|_| matches!(source.stage, Stage::Open));
        let finish = finish.map(|finish| (finish.next, Timer::Finish));
        source.wake = finish.map_or(stage, |finish| stage.min(finish));
        self.wakes.insert(wake(source.wake, Key::Source(source.id.clone())));
        self.sources.insert(source.id.clone(), source);
    }

    fn check_open(&self, request: &OpenRequest, paths: &dyn Paths) -> Result<(), Rejection> {
        let no = |reason, detail| Err(Rejection { reason, detail });
        let peer = &request.peer;
        if self.leaving {
            return no(Reject::ShuttingDown, format!("{} leaves the overlay", self.me));
        }
        if *peer == self.me {
            return no(Reject::Duplicate, format!("source and destination are both {peer}"));
        }
        if let Some((name, same)) =
            request.name.as_ref().and_then(|name| self.names.get_key_value(name))
        {
            let detail = format!("{same} has the name {name} already");
            return no(Reject::Duplicate, detail);
        }
        if !paths.knows(peer) {
            let detail = format!("no peer {peer} is known; `spanway peers` lists them");
            return no(Reject::NoSuchPeer, detail);
        }
        if self.channels() >= limits::CHANNELS_MAX {
            let detail = format!("{} has {} channels already", self.me, limits::CHANNELS_MAX);
            return no(Reject::Busy, detail);
        }
        let (_, link) = self.way(peer, paths)?;
        let usable = self.links[&link].ledger.usable();
        if request.rate > usable {
            let detail = format!(
                "at {}: {} do not fit the link to {}, channels can have {usable} of it",
                self.me, request.rate, self.links[&link].peer,
            );
            return no(Reject::NoRoom, detail);
        }
        Ok(())
    }

    /// The path to a peer as the tree has it, and its first link if that is up.
    fn way(
        &self,
        peer: &PeerName,
        paths: &dyn Paths,
    ) -> Result<(Vec<PeerName>, LinkId), Rejection> {
        let unreachable = |detail| Rejection { reason: Reject::Unreachable, detail };
        let path = paths.path(peer);
        let path = path.ok_or_else(|| unreachable(format!("no path leads to {peer} now")))?;
        if path.len() > limits::PATH_PEERS_MAX {
            return Err(unreachable(format!("the path to {peer} has {} peers", path.len())));
        }
        let link = path.get(1).and_then(|first| self.link_to(first));
        let down = || unreachable(format!("the link towards {peer} is down"));
        Ok((path, link.ok_or_else(down)?))
    }

    /// A name no channel from here has.
    fn free_name(&self) -> ServiceName {
        (self.count..)
            .map(|count| ServiceName::new(&format!("channel-{count}")).expect("a valid name"))
            .find(|name| !self.names.contains_key(name))
            .expect("there are fewer channels than numbers")
    }

    /// Makes the next attempt and keeps the channel, or deals with the failure.
    fn attempt(&mut self, now: Time, mut source: Source, paths: &dyn Paths, out: &mut Vec<Action>) {
        match self.send_reserve(now, &mut source, paths, out) {
            Ok(()) => self.put_source(source),
            Err(Rejection { reason, detail }) => {
                self.attempt_failed(now, source, reason, &detail, out);
            }
        }
    }

    fn send_reserve(
        &mut self,
        now: Time,
        source: &mut Source,
        paths: &dyn Paths,
        out: &mut Vec<Action>,
    ) -> Result<(), Rejection> {
        let (path, link) = self.way(&source.peer, paths)?;
        let deadline = match &mut source.stage {
            Stage::Reserving { deadline, .. } => *deadline,
            Stage::Moving { give_up, next, .. } => {
                *next = (*give_up).min(now + limits::HOLD);
                *next
            }
            Stage::OpeningEnd { .. } | Stage::Open => panic!("no attempt is due: {source:?}"),
        };
        source.attempt += 1;
        let tx = source.tx();
        let rates = Rates { out: source.rate, back: source.rate_back };
        let held = self.neighbour(link).ledger.hold(&tx, rates, deadline);
        held.map_err(|short| Rejection {
            reason: Reject::NoRoom,
            detail: format!(
                "at {}: {} do not fit the link to {}, {} are free",
                self.me, source.rate, path[1], short.free
            ),
        })?;
        let worker = self.balance.worker(&Key::Source(source.id.clone()));
        let leg = self.leg(link, worker);
        source.leg = Some(leg);
        source.path = path;
        out.push(add_label(&tx, leg, Target::Local, source.rate_back, hops(&source.path)));
        let wait_ms = u32::try_from(deadline.since(now).as_millis()).unwrap_or(u32::MAX);
        let reserve = Reserve {
            tx,
            service: source.service.clone(),
            name: source.name.clone(),
            path: source.path.clone(),
            position: 1,
            rate: source.rate,
            rate_back: source.rate_back,
            ticket: source.ticket,
            deadline_ms: shortened(wait_ms),
            max_payload: self.neighbour(link).max_payload,
            back_label: leg.label,
            back_port: self.port(worker),
        };
        out.push(Action::Send { link, message: Message::Reserve(reserve) });
        Ok(())
    }

    /// The attempt is over and given back: the first one answers the request, later ones are followed
    /// by another.
    fn attempt_failed(
        &mut self,
        now: Time,
        mut source: Source,
        reason: Reject,
        detail: &str,
        out: &mut Vec<Action>,
    ) {
        let next = now + self.between(limits::MOVE_RETRY.0, limits::MOVE_RETRY.1);
        match &mut source.stage {
            Stage::OpeningEnd { .. } | Stage::Reserving { .. } => {
                return self.end_source(source, Some(reason), detail, out);
            }
            Stage::Open => {
                let (channel, why) = (source.id.clone(), detail.to_owned());
                out.push(Action::SetEntry { channel: channel.clone(), to: None });
                out.push(Action::Event(Event::ChannelMoving { channel, why: why.clone() }));
                source.stage = Stage::Moving { give_up: now + limits::MOVE_DEADLINE, next, why };
                if let Some(finish) = &mut source.finish {
                    finish.next = now;
                }
            }
            Stage::Moving { next: at, why, .. } => match reason {
                Reject::Cancelled => return self.end_source(source, None, detail, out),
                Reject::NoSuchService | Reject::NotAllowed => {
                    return self.end_source(source, Some(Reject::Broken), detail, out);
                }
                Reject::NoSuchPeer
                | Reject::ServiceBusy
                | Reject::Unreachable
                | Reject::Never
                | Reject::NoRoom
                | Reject::Duplicate
                | Reject::Timeout
                | Reject::ShuttingDown
                | Reject::Busy
                | Reject::Broken => {
                    *at = next;
                    detail.clone_into(why);
                }
            },
        }
        self.put_source(source);
    }

    /// Lets go of the attempt under way, if any, and tells the next hop.
    fn give_up_attempt(&mut self, source: &mut Source, cause: ReleaseCause, out: &mut Vec<Action>) {
        let Some(leg) = source.leg else { return };
        self.drop_attempt(source, leg, out);
        self.send_release(leg.link, &source.tx(), cause, out);
    }

    fn drop_attempt(&mut self, source: &mut Source, leg: Leg, out: &mut Vec<Action>) {
        self.free_leg(&source.tx(), leg);
        out.push(Action::RemoveLabel { label: leg.label });
        source.leg = None;
        source.path = Vec::new();
    }

    /// Whether a message about `tx` may come from `link`.
    fn check_source(&self, link: LinkId, tx: &TxId) -> Result<Leg, &'static str> {
        let source = self.sources.get(&tx.channel).ok_or(UNKNOWN)?;
        match source.leg {
            Some(leg) if source.attempt == tx.attempt && leg.link == link => Ok(leg),
            Some(_) if source.attempt == tx.attempt => Err(NOT_OWNER),
            _ => Err(STALE),
        }
    }
}

/// Tells the far end that the stream ended, if the channel can carry it now.
fn send_finish(now: Time, source: &mut Source, out: &mut Vec<Action>) {
    let tx = source.tx();
    let (Some(finish), Some(leg), Stage::Open) = (&mut source.finish, source.leg, &source.stage)
    else {
        return;
    };
    finish.next = now + limits::FINISH_RETRY;
    let message = Message::Finish { tx, frames: finish.frames };
    out.push(Action::Send { link: leg.link, message });
}
