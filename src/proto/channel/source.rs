//! The end that asked for a channel: checks the request, tries a path, answers once, and keeps the
//! channel on a path as long as there is one.
//!
//! ```text
//!  OpeningEnd ─► Reserving ─► Open ◄──► Moving
//!       └────────────┴──────────┴─────────┴──► closed
//! ```
//!
//! Paths are made and left in `attempt.rs`; which one comes next is `recovery.rs`'s.

use super::attempt::{Attempt, Trying};
use super::opening::Reserving;
use super::queue::Waiting;
use super::recovery::{Avoid, smaller};
use super::sealing::Seal;
use super::{Channels, Handled, Key, Leg, NOT_OWNER, Paths, STALE, UNKNOWN, rejected, wake};
use crate::limits;
use crate::proto::view::{ChannelState, ChannelView};
use crate::proto::{
    Action, Answer, Choice, Event, Explanation, Limit, OpenRequest, Opened, Purpose, Rejection,
    Side, Timer,
};
use crate::types::{
    Bandwidth, ChannelId, LinkId, PeerName, Reject, RequestId, ServiceName, Time, TxId,
};
use crate::wire::control::{Accept, Message, Nack, Release, ReleaseCause};

#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) id: ChannelId,
    pub(super) wake: (Time, Timer),
    pub(super) name: ServiceName,
    pub(super) peer: PeerName,
    pub(super) service: ServiceName,
    pub(super) rate: Bandwidth,
    pub(super) rate_back: Bandwidth,
    pub(super) ticket: u64,
    pub(super) choice: Choice,
    /// Peers its asker wants no path to cross ...
    pub(super) shun: Vec<PeerName>,
    /// ... so many of them; behind these are relays whose rules forbid it, until it is open.
    pub(super) shunned: usize,
    /// What one path could carry, as it was when the channel was asked for.
    limit: Option<Limit>,
    /// It may stand in line for room until its deadline.
    pub(super) waits: bool,
    pub(super) waiting: Option<Waiting>,
    pub(super) seal: Seal,
    pub(super) stage: Stage,
    /// Number of the last attempt.
    pub(super) attempts: u32,
    /// The path that frames enter.
    pub(super) current: Option<Attempt>,
    pub(super) trying: Option<Trying>,
    /// Reserved for the moment the one in use breaks.
    pub(super) standby: Option<Attempt>,
    /// Left; frames may still be on their way on it until then.
    pub(super) old: Option<(Attempt, Time)>,
    /// What would be tried first if the one in use broke; nothing is reserved on it.
    pub(super) second: Option<Vec<PeerName>>,
    pub(super) protection: Protection,
    /// A relay asked the channel to leave its path: since when, and when that is tried next.
    pub(super) away: Option<(Time, Time)>,
    pub(super) avoid: Avoid,
    /// What refused to stand by since a path last did: the next one is looked for around it.
    pub(super) refused: Avoid,
    /// Of the path in use, or used last.
    pub(super) max_payload: u16,
    pub(super) finish: Option<Finish>,
}

#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// Waits for its local socket.
    OpeningEnd {
        request: RequestId,
        deadline: Time,
    },
    Reserving(Reserving),
    Open,
    Moving(Moving),
}

/// Without a path.
#[derive(Clone, Debug)]
pub(super) struct Moving {
    pub(super) since: Time,
    pub(super) give_up: Time,
    /// When the next attempt is made.
    pub(super) next: Time,
    pub(super) why: String,
    /// The path that broke: what is left of it is still reserved for this channel.
    pub(super) was: Vec<PeerName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protection {
    None,
    /// A second path is looked for at this time, unless there is one.
    Wanted(Time),
}

/// The local stream ended; the far end does not know it yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finish {
    request: RequestId,
    frames: u64,
    /// When FINISH is sent again.
    pub(super) next: Time,
}

/// Who refused is neither end of the path.
fn is_relay(nack: Option<&Nack>, path: &[PeerName]) -> bool {
    let relays = path.get(1..path.len() - 1).unwrap_or_default();
    nack.is_some_and(|nack| relays.contains(&nack.at))
}

impl Source {
    /// No path of this request may cross the relay any more. `false`: as many as may be do already, or it
    /// is its far end.
    pub(super) fn bar(&mut self, relay: &PeerName) -> bool {
        let many = self.shun.len() - self.shunned;
        let bars = *relay != self.peer && many < limits::BARRED_MAX && !self.shun.contains(relay);
        if bars {
            self.shun.push(relay.clone());
        }
        bars
    }

    /// Some relay's rules forbid it.
    pub(super) fn is_barred(&self) -> bool {
        self.shun.len() > self.shunned
    }

    pub(super) fn uses(&self, link: LinkId) -> bool {
        self.attempts().any(|attempt| attempt.leg.link == link)
    }

    pub(super) fn view(&self) -> ChannelView {
        let path = |attempt: &Attempt| attempt.path.clone();
        let shown = match &self.trying {
            Some(trying) if self.current.is_none() => Some(&trying.attempt),
            _ => self.current.as_ref(),
        };
        ChannelView {
            id: self.id.clone(),
            name: self.name.clone(),
            peer: self.peer.clone(),
            service: self.service.clone(),
            side: Some(Side::Source),
            state: match self.stage {
                Stage::Reserving(_) if self.waiting.is_some() => ChannelState::Queued,
                Stage::OpeningEnd { .. } | Stage::Reserving(_) => ChannelState::Opening,
                Stage::Open => ChannelState::Open,
                Stage::Moving(_) => ChannelState::Moving,
            },
            path: shown.map(path).unwrap_or_default(),
            rate: self.rate,
            rate_back: self.rate_back,
            max_payload: self.max_payload,
            standby: self.standby.as_ref().map(path),
            second: self.second.clone(),
            reserved: self.attempts().map(path).collect(),
            sealed: self.seal.key(),
        }
    }

    /// Its leg, while it carries frames and nothing about it changes.
    pub(super) fn settled_leg(&self) -> Option<&Leg> {
        let alone = self.attempts().count() == 1;
        self.current.as_ref().filter(|_| alone).map(|attempt| &attempt.leg)
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
        let limit = match self.check_open(&request, paths) {
            Ok(limit) => limit,
            Err(why) => {
                return out.push(Action::Answer { id, answer: Answer::Rejected(why) });
            }
        };
        self.count += 1;
        self.clock = self.clock.saturating_add(1).max(self.epoch.saturating_add(now.0));
        let longest = if request.wait { request.deadline } else { limits::HOLD };
        let deadline = now + request.deadline.min(longest);
        let id_of = ChannelId { source: self.me.clone(), boot: self.boot, count: self.count };
        let key = Key::Source(id_of.clone());
        let worker = self.balance.employ(key, [request.rate, request.rate_back]);
        let source = Source {
            id: id_of,
            wake: (deadline, Timer::Request),
            name: request.name.unwrap_or_else(|| self.free_name()),
            peer: request.peer,
            service: request.service,
            rate: request.rate,
            rate_back: request.rate_back,
            ticket: self.clock,
            choice: request.choice,
            shunned: request.avoid.len(),
            shun: request.avoid,
            limit,
            waits: request.wait,
            waiting: None,
            seal: if request.plain { Seal::Plain } else { Seal::Wanted },
            stage: Stage::OpeningEnd { request: id, deadline },
            attempts: 0,
            current: None,
            trying: None,
            standby: None,
            old: None,
            second: None,
            protection: if request.protect { Protection::Wanted(now) } else { Protection::None },
            away: None,
            avoid: Avoid::default(),
            refused: Avoid::default(),
            max_payload: 0,
            finish: None,
        };
        out.push(Action::OpenEnd {
            channel: source.id.clone(),
            side: Side::Source,
            service: source.service.clone(),
            worker,
            sealing: source.seal.of_end(),
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
            Some((Stage::OpeningEnd { .. } | Stage::Reserving(_), _)) => {
                Some((Reject::NotAllowed, format!("{channel} is not open yet")))
            }
            Some((_, Some(_))) => {
                Some((Reject::Duplicate, format!("the end of {channel} is being told already")))
            }
            Some((Stage::Open | Stage::Moving(_), None)) => None,
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

    pub(super) fn source_end_opened(
        &mut self,
        now: Time,
        channel: &ChannelId,
        result: Result<(), Rejection>,
        paths: &dyn Paths,
        out: &mut Vec<Action>,
    ) {
        let Some(mut source) = self.take_source(channel) else { return };
        let Stage::OpeningEnd { request, deadline } = source.stage else {
            return self.put_source(source);
        };
        if let Err(why) = result {
            self.names.remove(&source.name);
            self.dismiss(&Key::Source(source.id), out);
            out.push(Action::Answer { id: request, answer: Answer::Rejected(why) });
            return;
        }
        let carries = source.limit.is_some();
        source.stage = Stage::Reserving(Reserving::new(now, request, deadline, carries));
        self.open_next(now, source, paths, out);
    }

    pub(super) fn source_accepted(
        &mut self,
        now: Time,
        link: LinkId,
        accept: &Accept,
        out: &mut Vec<Action>,
    ) -> Handled {
        self.check_source(link, &accept.tx)?;
        let source = &self.sources[&accept.tx.channel];
        let awaited = |trying: &Trying| trying.attempt.number == accept.tx.attempt;
        if !source.trying.as_ref().is_some_and(awaited) {
            return Err("accepted already");
        }
        self.accepted_here(now, accept, out)
    }

    /// The attempt that is tried has a path, and the channel what it needs to use it.
    pub(super) fn path_accepted(&mut self, now: Time, accept: &Accept, out: &mut Vec<Action>) {
        let mut source = self.take_source(&accept.tx.channel).expect("the caller saw it");
        let Some(Trying { mut attempt, purpose, since, .. }) = source.trying.take() else {
            return self.put_source(source);
        };
        let link = attempt.leg.link;
        let width = accept.width.min(self.width(attempt.leg, source.rate));
        let neighbour = self.neighbour(link);
        neighbour.ledger.commit(&accept.tx, now + limits::LEASE);
        attempt.accept(accept, neighbour.max_payload);
        match purpose {
            Purpose::Standby => {
                let (channel, path) = (source.id.clone(), attempt.path.clone());
                out.push(Action::Event(Event::ChannelProtected { channel, path }));
                source.standby = Some(attempt);
                source.refused = Avoid::default();
            }
            Purpose::Use => self.opened(now, &mut source, attempt, since, width, out),
        }
        self.put_source(source);
        self.begin_refreshes(now, link);
    }

    /// The far end's answer did not fit the offer, and the channel has keys from before.
    pub(super) fn seal_broke(
        &mut self,
        now: Time,
        mut source: Source,
        why: String,
        out: &mut Vec<Action>,
    ) {
        let Some(Trying { attempt, purpose, .. }) = source.trying.take() else {
            return self.put_source(source);
        };
        self.give_up(&source, &attempt, ReleaseCause::Moved, out);
        self.refused(now, source, purpose, None, &attempt.path, why, out);
    }

    /// The channel has a path, its first or another one.
    fn opened(
        &mut self,
        now: Time,
        source: &mut Source,
        attempt: Attempt,
        since: Time,
        width: Bandwidth,
        out: &mut Vec<Action>,
    ) {
        let (channel, path) = (source.id.clone(), attempt.path.clone());
        let smaller_payload = smaller(source, &attempt);
        let waited = source.waited(now);
        self.end_wait(source, out);
        self.take_path(now, source, attempt, now.since(since) * 2, out);
        let seamless = matches!(source.stage, Stage::Open);
        let began = source.away.take().map_or(since, |(began, _)| began);
        let event = match std::mem::replace(&mut source.stage, Stage::Open) {
            Stage::OpeningEnd { .. } => unreachable!("nothing is reserved yet"),
            Stage::Reserving(Reserving { request, refused, .. }) => {
                let max_payload = source.max_payload;
                let (channel, path) = (channel.clone(), path.clone());
                let limit = source.limit.take();
                let explanation = Box::new(Explanation { refused, waited, limit });
                let sealed = source.seal.key();
                let opened = Opened { channel, path, width, max_payload, sealed, explanation };
                out.push(Action::Answer { id: request, answer: Answer::Open(opened) });
                None
            }
            Stage::Open => Some(now.since(began)),
            Stage::Moving(moving) => Some(now.since(moving.since)),
        };
        out.push(Action::Event(match event {
            None => Event::ChannelOpen { channel, path },
            Some(took) => Event::ChannelMoved { channel, path, took, seamless, smaller_payload },
        }));
        source.avoid = Avoid::default();
        source.shun.truncate(source.shunned);
        source.second = None;
        self.stand_apart(now, source, out);
        self.look_soon(now);
        send_finish(now, source, out);
    }

    pub(super) fn source_refused(
        &mut self,
        now: Time,
        link: LinkId,
        nack: &Nack,
        out: &mut Vec<Action>,
    ) -> Handled {
        self.check_source(link, &nack.tx)?;
        let mut source = self.take_source(&nack.tx.channel).expect("just checked");
        let awaited = |trying: &mut Trying| trying.attempt.number == nack.tx.attempt;
        let Some(Trying { attempt, purpose, .. }) = source.trying.take_if(awaited) else {
            self.put_source(source);
            return Err("accepted already");
        };
        self.let_go(&source, &attempt, out);
        let detail = format!("at {}: {}", nack.at, nack.detail);
        self.refused(now, source, purpose, Some(nack), &attempt.path, detail, out);
        Ok(())
    }

    /// An attempt came to nothing: what that means depends on what it was for.
    #[expect(clippy::too_many_arguments, reason = "what was tried, and what became of it")]
    fn refused(
        &mut self,
        now: Time,
        mut source: Source,
        purpose: Purpose,
        nack: Option<&Nack>,
        path: &[PeerName],
        detail: String,
        out: &mut Vec<Action>,
    ) {
        let reason = nack.map_or(Reject::Timeout, |nack| nack.reason);
        match (purpose, &source.stage) {
            (Purpose::Standby, _) => {
                if let Some(nack) = nack {
                    source.refused.learn(nack, path);
                }
            }
            (Purpose::Use, Stage::OpeningEnd { .. } | Stage::Reserving(_)) => {
                let why = Rejection::new(reason, detail);
                if !Self::learn_refusal(now, &mut source, nack, path, &why) {
                    return self.end_source(source, Some(reason), &why.detail, out);
                }
            }
            (Purpose::Use, _) => match reason {
                Reject::Cancelled => return self.end_source(source, None, &detail, out),
                Reject::NotAllowed if is_relay(nack, path) => {
                    self.tried_in_vain(now, &mut source, nack, path, detail);
                }
                Reject::NoSuchService | Reject::NotAllowed => {
                    return self.end_source(source, Some(Reject::Broken), &detail, out);
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
                | Reject::Broken => self.tried_in_vain(now, &mut source, nack, path, detail),
            },
        }
        self.put_source(source);
    }

    pub(super) fn source_released(
        &mut self,
        now: Time,
        link: LinkId,
        release: &Release,
        out: &mut Vec<Action>,
    ) -> Handled {
        self.check_source(link, &release.tx)?;
        let source = self.take_source(&release.tx.channel).expect("just checked");
        let at = &release.at;
        let why = match (release.cause, &release.failed) {
            (ReleaseCause::Closed, _) => {
                let mut source = source;
                let gone = source.take_attempt(release.tx.attempt).expect("just checked");
                self.let_go(&source, &gone, out);
                // Rules of the far end do not want it any more.
                let reason = release.why.as_ref().map(|_| Reject::NotAllowed);
                let why = release.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
                self.end_source(source, reason, &format!("closed at {at}{why}"), out);
                return Ok(());
            }
            (ReleaseCause::Expired, _) => format!("at {at}: nobody refreshed the path"),
            (_, Some((here, there))) => format!("the link of {here} to {there} failed"),
            (_, None) => match &release.why {
                Some(why) => format!("at {at}: {why}"),
                None => format!("the path broke at {at}"),
            },
        };
        let failed = release.failed.clone();
        self.attempt_gone(now, source, release.tx.attempt, failed, why, out);
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

    pub(super) fn source_move(
        &mut self,
        now: Time,
        link: LinkId,
        tx: &TxId,
        relay: PeerName,
        out: &mut Vec<Action>,
    ) -> Handled {
        self.check_source(link, tx)?;
        let mut source = self.take_source(&tx.channel).expect("just checked");
        self.source_asked_to_move(now, &mut source, tx.attempt, relay, out);
        self.put_source(source);
        Ok(())
    }

    pub(super) fn source_link_down(
        &mut self,
        now: Time,
        link: LinkId,
        channel: &ChannelId,
        out: &mut Vec<Action>,
    ) {
        let neighbour = self.neighbour(link).peer.clone();
        let over = |attempt: &&Attempt| attempt.leg.link == link;
        // The one in use last: it may go over to another one, if that is left.
        let mut numbers: Vec<u32> =
            self.sources[channel].attempts().filter(over).map(|attempt| attempt.number).collect();
        numbers.reverse();
        for number in numbers {
            let Some(source) = self.take_source(channel) else { return };
            let why = format!("the link to {neighbour} is down");
            let failed = (self.me.clone(), neighbour.clone());
            self.attempt_gone(now, source, number, Some(failed), why, out);
        }
    }

    /// One of the paths is gone, and the others on it know.
    pub(super) fn attempt_gone(
        &mut self,
        now: Time,
        mut source: Source,
        number: u32,
        failed: Option<(PeerName, PeerName)>,
        why: String,
        out: &mut Vec<Action>,
    ) {
        let current = source.current.take_if(|attempt| attempt.number == number);
        if let Some(current) = current {
            self.let_go(&source, &current, out);
            self.broken(now, &mut source, current, failed, why, out);
            return self.put_source(source);
        }
        let trying = source.trying.take_if(|trying| trying.attempt.number == number);
        if let Some(Trying { attempt, purpose, .. }) = trying {
            self.let_go(&source, &attempt, out);
            if let Some(link) = failed {
                source.avoid.link(link);
            }
            return self.refused(now, source, purpose, None, &attempt.path, why, out);
        }
        let gone = source.take_attempt(number).expect("it is one of them");
        self.let_go(&source, &gone, out);
        self.protect_again(now, &mut source);
        self.put_source(source);
    }

    /// Does what is due for a channel that was asked for here.
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
                return self.end_source(source, Some(Reject::Timeout), why, out);
            }
            Stage::Reserving(Reserving { deadline, .. }) if *deadline <= now => {
                let next = source.trying.as_ref().map_or(&self.me, |t| &t.attempt.path[1]);
                let why = source.blocked().or_else(|| source.lacks_key());
                let why = why.unwrap_or_else(|| format!("no answer from {next}"));
                return self.end_source(source, Some(Reject::Timeout), &why, out);
            }
            Stage::Moving(Moving { give_up, why, .. }) if *give_up <= now => {
                let why = format!("no other path within {:?}: {why}", limits::MOVE_DEADLINE);
                return self.end_source(source, Some(Reject::Broken), &why, out);
            }
            Stage::OpeningEnd { .. } | Stage::Reserving(_) | Stage::Open | Stage::Moving(_) => {}
        }
        if let Some((old, _)) = source.old.take_if(|(_, until)| *until <= now) {
            self.give_up(&source, &old, ReleaseCause::Moved, out);
        }
        let late = source.trying.take_if(|trying| trying.until <= now);
        if let Some(Trying { attempt, purpose, .. }) = late {
            self.give_up(&source, &attempt, ReleaseCause::Moved, out);
            let why = format!("no answer from {}", attempt.path[1]);
            return self.refused(now, source, purpose, None, &attempt.path, why, out);
        }
        if let Some(attempt) = self.expired(now, &source) {
            let why = format!("{} stopped refreshing the path", attempt.path[1]);
            self.send_release(
                attempt.leg.link,
                &source.tx(&attempt),
                ReleaseCause::Expired,
                None,
                out,
            );
            return self.attempt_gone(now, source, attempt.number, None, why, out);
        }
        if source.waiting.as_ref().is_some_and(|waiting| waiting.refresh <= now) {
            self.claim_again(now, &mut source, paths, out);
        }
        if source.trying.is_none() {
            match &source.stage {
                Stage::Reserving(reserving) if reserving.next <= now => {
                    return self.open_next(now, source, paths, out);
                }
                Stage::Moving(moving) if moving.next <= now => {
                    self.move_on(now, &mut source, paths, out);
                }
                Stage::Open if source.away.is_some_and(|(_, next)| next <= now) => {
                    self.move_away(now, &mut source, paths, out);
                }
                Stage::Open if source.protects(now) => self.protect(now, &mut source, paths, out),
                Stage::OpeningEnd { .. } | Stage::Reserving(_) | Stage::Open | Stage::Moving(_) => {
                }
            }
        }
        if source.finish.is_some_and(|finish| finish.next <= now) {
            send_finish(now, &mut source, out);
        }
        self.put_source(source);
    }

    /// An accepted path that nobody refreshed.
    fn expired(&self, now: Time, source: &Source) -> Option<Attempt> {
        let trying = source.trying.as_ref().map(|trying| trying.attempt.number);
        let firm = source.attempts().filter(|attempt| Some(attempt.number) != trying);
        firm.into_iter()
            .find(|attempt| self.until(&attempt.leg, &source.tx(attempt)) <= now)
            .cloned()
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
        self.end_wait(&mut source, out);
        self.give_up_but_current(&mut source, ReleaseCause::Closed, out);
        if let Some(current) = source.current.take() {
            self.give_up(&source, &current, ReleaseCause::Closed, out);
        }
        self.names.remove(&source.name);
        self.dismiss(&Key::Source(source.id.clone()), out);
        let channel = source.id;
        out.push(Action::CloseEnd { channel: channel.clone() });
        let rejection = Rejection::new(reason.unwrap_or(Reject::Cancelled), why);
        if let Some(finish) = source.finish {
            let answer = Answer::Rejected(rejection.clone());
            out.push(Action::Answer { id: finish.request, answer });
        }
        match source.stage {
            Stage::OpeningEnd { request, .. } => {
                out.push(Action::Answer { id: request, answer: Answer::Rejected(rejection) });
            }
            Stage::Reserving(Reserving { request, refused, .. }) => {
                let mut rejection = rejection;
                *rejection.explanation = Explanation { refused, waited: None, limit: source.limit };
                out.push(Action::Answer { id: request, answer: Answer::Rejected(rejection) });
            }
            Stage::Open | Stage::Moving(_) => {
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

    pub(super) fn put_source(&mut self, mut source: Source) {
        source.wake = self.source_wake(&source);
        self.wakes.insert(wake(source.wake, Key::Source(source.id.clone())));
        self.sources.insert(source.id.clone(), source);
    }

    /// When the channel has to be looked at next.
    fn source_wake(&self, source: &Source) -> (Time, Timer) {
        let mut wakes = Vec::with_capacity(8);
        let idle = source.trying.is_none();
        match &source.stage {
            Stage::OpeningEnd { deadline, .. } => wakes.push((*deadline, Timer::Request)),
            Stage::Reserving(Reserving { deadline, next, .. }) => {
                wakes.push((*deadline, Timer::Request));
                wakes.extend(idle.then_some((*next, Timer::Request)));
                wakes.extend(source.waiting.as_ref().map(|w| (w.refresh, Timer::Queue)));
            }
            Stage::Open if idle => {
                wakes.extend(source.away.map(|(_, next)| (next, Timer::Move)));
                if let (Protection::Wanted(at), None) = (source.protection, &source.standby) {
                    wakes.push((at, Timer::Move));
                }
            }
            Stage::Open => {}
            Stage::Moving(moving) => {
                wakes.push((moving.give_up, Timer::Move));
                wakes.extend(idle.then_some((moving.next, Timer::Move)));
            }
        }
        wakes.extend(source.trying.as_ref().map(|trying| (trying.until, Timer::Request)));
        wakes.extend(source.old.as_ref().map(|(_, until)| (*until, Timer::Drain)));
        let trying = source.trying.as_ref().map(|trying| trying.attempt.number);
        let firm = source.attempts().filter(|attempt| Some(attempt.number) != trying);
        let lease = |attempt: &Attempt| self.until(&attempt.leg, &source.tx(attempt));
        wakes.extend(firm.map(|attempt| (lease(attempt), Timer::Lease)));
        let finish = source.finish.filter(|_| source.current.is_some());
        wakes.extend(finish.map(|finish| (finish.next, Timer::Finish)));
        wakes.into_iter().min().expect("a stage or a lease")
    }

    /// A name no channel from here has.
    fn free_name(&self) -> ServiceName {
        (self.count..)
            .map(|count| ServiceName::new(&format!("channel-{count}")).expect("a valid name"))
            .find(|name| !self.names.contains_key(name))
            .expect("there are fewer channels than numbers")
    }

    /// Whether a message about `tx` may come from `link`.
    fn check_source(&self, link: LinkId, tx: &TxId) -> Handled {
        let source = self.sources.get(&tx.channel).ok_or(UNKNOWN)?;
        match source.attempt(tx.attempt) {
            Some(attempt) if attempt.leg.link == link => Ok(()),
            Some(_) => Err(NOT_OWNER),
            None => Err(STALE),
        }
    }
}

impl Source {
    fn take_attempt(&mut self, number: u32) -> Option<Attempt> {
        let this = |attempt: &mut Attempt| attempt.number == number;
        let trying = self.trying.take_if(|trying| trying.attempt.number == number);
        let old = self.old.take_if(|(attempt, _)| attempt.number == number);
        let others = trying.map(|trying| trying.attempt);
        let others = others.or_else(|| old.map(|(attempt, _)| attempt));
        others.or_else(|| self.current.take_if(this)).or_else(|| self.standby.take_if(this))
    }

    fn protects(&self, now: Time) -> bool {
        let wanted = matches!(self.protection, Protection::Wanted(at) if at <= now);
        wanted && self.standby.is_none()
    }
}

/// Tells the far end that the stream ended, if the channel can carry it now.
fn send_finish(now: Time, source: &mut Source, out: &mut Vec<Action>) {
    let (Some(finish), Some(current)) = (&mut source.finish, &source.current) else { return };
    finish.next = now + limits::FINISH_RETRY;
    let (channel, link) = (source.id.clone(), current.leg.link);
    let tx = TxId { channel, attempt: current.number };
    let message = Message::Finish { tx, frames: finish.frames, proof: None };
    out.push(Action::Send { link, message });
}
