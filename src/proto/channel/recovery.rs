//! What a channel does when its path breaks or shall be left, at the end that asked for it: which path it
//! takes next, when, and what it keeps ready (2.9 rule 7, 2.10; A17).
//!
//! ```text
//!  the path broke ─► standby path? ─► frames take it at once
//!                        └► Moving: second path ─► widest on the picture ─► tree
//!  a relay leaves ─► another path is set up beside ─► frames take it ─► the old one drains, is given back
//! ```
//!
//! A failure that is known (the link that broke, a hop that refused) is steered around at once, whatever
//! the picture still says. Does not send anything itself: `attempt.rs` does.

use std::ops::Bound;
use std::time::Duration;

use super::attempt::{Attempt, Trying, crosses};
use super::opening::clear_of;
use super::source::{Moving, Protection, Source, Stage};
use super::{Channels, Paths};
use crate::limits;
use crate::mutant::{self, Mutant};
use crate::proto::graph::Wanted;
use crate::proto::{Action, Event, Purpose, Recovery, Rejection};
use crate::types::{ChannelId, PeerName, Reject, Time};
use crate::wire::control::{Nack, ReleaseCause};

/// Failures that the channel steers around; at most [`limits::AVOID_MAX`].
#[derive(Clone, Debug, Default)]
pub(super) struct Avoid {
    links: Vec<(PeerName, PeerName)>,
    relays: Vec<PeerName>,
}

/// Where a path broke.
pub(super) type FailedLink = (PeerName, PeerName);

impl Avoid {
    pub(super) fn len(&self) -> usize {
        self.links.len() + self.relays.len()
    }

    pub(super) fn links(&self) -> &[FailedLink] {
        &self.links
    }

    pub(super) fn relays(&self) -> &[PeerName] {
        &self.relays
    }

    pub(super) fn link(&mut self, link: FailedLink) {
        if !self.links.contains(&link) && !self.is_full() {
            self.links.push(link);
        }
    }

    pub(super) fn relay(&mut self, relay: PeerName) {
        if !self.relays.contains(&relay) && !self.is_full() {
            self.relays.push(relay);
        }
    }

    fn is_full(&self) -> bool {
        self.len() >= limits::AVOID_MAX
    }

    pub(super) fn allows(&self, path: &[PeerName]) -> bool {
        let relays = path.get(1..path.len() - 1).unwrap_or_default();
        !self.links.iter().any(|link| crosses(path, link))
            && !self.relays.iter().any(|relay| relays.contains(relay))
    }

    /// What a refusal says about the way it came.
    pub(super) fn learn(&mut self, nack: &Nack, path: &[PeerName]) {
        let at = path.iter().position(|peer| *peer == nack.at);
        let next = at.and_then(|at| path.get(at + 1));
        match (nack.reason, next) {
            // Its host is short.
            (Reject::NoRoom, Some(_)) if nack.towards.as_ref() == Some(&nack.at) => {
                self.relay(nack.at.clone());
            }
            (Reject::NoRoom, _) if nack.towards.as_ref() == Some(&nack.at) => {}
            (Reject::NoRoom, next) => {
                let towards = nack.towards.as_ref().or(next);
                towards.into_iter().for_each(|to| self.link((nack.at.clone(), to.clone())));
            }
            (Reject::Unreachable, Some(next)) => self.link((nack.at.clone(), next.clone())),
            (Reject::Timeout, Some(next)) if Some(next) != path.last() => self.relay(next.clone()),
            (Reject::ShuttingDown | Reject::Busy | Reject::NotAllowed, Some(_)) => {
                self.relay(nack.at.clone());
            }
            _ => {}
        }
    }
}

/// A look for the second paths of all channels, some at a time.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) at: Time,
    /// It and those before it had their turn.
    behind: Option<ChannelId>,
    /// Something changed since the first of them had theirs.
    again: bool,
}

impl Look {
    fn new(now: Time) -> Self {
        Self { at: now + limits::SECOND_WAIT, behind: None, again: false }
    }
}

impl Channels {
    /// A relay of one of the channel's paths is about to leave.
    pub(super) fn source_asked_to_move(
        &mut self,
        now: Time,
        source: &mut Source,
        number: u32,
        relay: PeerName,
        out: &mut Vec<Action>,
    ) {
        source.forget_failures();
        source.offer_again(out);
        let asked_before = source.avoid.relays.contains(&relay);
        source.avoid.relay(relay.clone());
        let stands_by = |attempt: &mut Attempt| attempt.number == number;
        if let Some(standby) = source.standby.take_if(stands_by) {
            if !mutant::on(Mutant::StandbyKept) {
                self.give_up(source, &standby, ReleaseCause::Moved, out);
            }
            self.protect_again(now, source);
        }
        if source.current.as_ref().is_some_and(|current| current.number == number) {
            source.away.get_or_insert((now, now));
            if !asked_before {
                let why = format!("{relay} leaves");
                out.push(Action::Event(Event::ChannelMoving { channel: source.id.clone(), why }));
            }
        }
    }

    /// The path in use is gone and given back: frames go over to the standby path, or wait.
    pub(super) fn broken(
        &mut self,
        now: Time,
        source: &mut Source,
        was: Attempt,
        failed: Option<FailedLink>,
        why: String,
        out: &mut Vec<Action>,
    ) {
        let channel = source.id.clone();
        let moving = Event::ChannelMoving { channel: channel.clone(), why: why.clone() };
        out.push(Action::Event(moving));
        source.offer_again(out);
        source.forget_failures();
        source.away = None;
        if let Some(link) = failed {
            self.suspect(source, &link);
            source.avoid.link(link);
        }
        let stands = |attempt: &mut Attempt| source.avoid.links.iter().all(|l| !attempt.crosses(l));
        if let Some(standby) = source.standby.take_if(stands) {
            let path = standby.path.clone();
            let smaller_payload = smaller(source, &standby);
            self.take_path(now, source, standby, Duration::ZERO, out);
            self.protect_again(now, source);
            let (took, seamless) = (Duration::ZERO, false);
            out.push(Action::Event(Event::ChannelMoved {
                channel,
                path,
                took,
                seamless,
                smaller_payload,
            }));
            return;
        }
        out.push(Action::SetEntry { channel, to: None });
        let everything = self.recovery == Recovery::Everything;
        let give_up = now + limits::MOVE_DEADLINE;
        if let Some(trying) = &mut source.trying {
            trying.purpose = Purpose::Use;
        }
        let next = if everything { give_up } else { now };
        source.stage = Stage::Moving(Moving { since: now, give_up, next, why, was: was.path });
        if let Some(finish) = &mut source.finish {
            finish.next = now;
        }
    }

    /// The peer behind a link that failed may be dead itself.
    fn suspect(&self, source: &mut Source, (near, far): &FailedLink) {
        let ends = [&self.me, &source.peer];
        for peer in [far, near] {
            if !ends.contains(&peer) && *peer != self.me {
                source.avoid.relay(peer.clone());
                break;
            }
        }
    }

    /// A session was adopted that will close everything and compute again ([`Recovery::Everything`]).
    pub fn tear_down(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.recovery != Recovery::Everything {
            return;
        }
        let open = |source: &&Source| source.current.is_some();
        let ids: Vec<_> = self.sources.values().filter(open).map(|s| s.id.clone()).collect();
        for id in ids {
            let mut source = self.take_source(&id).expect("listed above");
            self.give_up_but_current(&mut source, ReleaseCause::Moved, out);
            let current = source.current.take().expect("listed above");
            self.give_up(&source, &current, ReleaseCause::Moved, out);
            self.broken(now, &mut source, current, None, "a session began".into(), out);
            self.put_source(source);
        }
    }

    /// A new tree is in use: channels that wait for a path try it.
    pub fn tree_committed(&mut self, now: Time, paths: &dyn Paths, out: &mut Vec<Action>) {
        self.claim_along_new_tree(now);
        let waiting =
            |source: &&Source| matches!(source.stage, Stage::Moving(_)) && source.trying.is_none();
        let ids: Vec<_> = self.sources.values().filter(waiting).map(|s| s.id.clone()).collect();
        for id in ids {
            let mut source = self.take_source(&id).expect("listed above");
            source.avoid = Avoid::default();
            self.move_on(now, &mut source, paths, out);
            self.put_source(source);
        }
    }

    /// The next attempt of a channel without a path.
    pub(super) fn move_on(
        &mut self,
        now: Time,
        source: &mut Source,
        paths: &dyn Paths,
        out: &mut Vec<Action>,
    ) {
        let path = self.way_on(source, paths);
        let Stage::Moving(moving) = &source.stage else { return };
        let until = moving.give_up.min(now + limits::HOLD);
        let sent = match path {
            Some(path) => self.send_reserve(now, source, path, Purpose::Use, until, out),
            None => {
                let detail = format!("no path to {} is known", source.peer);
                Err(Rejection::new(Reject::Unreachable, detail))
            }
        };
        if let Err(Rejection { detail, .. }) = sent {
            self.try_later(now, source, detail);
        }
    }

    /// A moving channel's attempt failed: another way at once if there is one that was not tried yet.
    pub(super) fn tried_in_vain(
        &mut self,
        now: Time,
        source: &mut Source,
        nack: Option<&Nack>,
        path: &[PeerName],
        detail: String,
    ) {
        let before = source.avoid.len();
        if let Some(nack) = nack {
            source.avoid.learn(nack, path);
        }
        let learnt = source.avoid.len() > before;
        match &mut source.stage {
            Stage::Moving(moving) if learnt => {
                moving.next = now;
                moving.why = detail;
            }
            Stage::Moving(_) => self.try_later(now, source, detail),
            // It is only asked to leave its path: it stays if there is no other.
            Stage::OpeningEnd { .. } | Stage::Reserving(_) | Stage::Open => {
                source.away = source.away.filter(|_| learnt).map(|(since, _)| (since, now));
            }
        }
    }

    fn try_later(&mut self, now: Time, source: &mut Source, detail: String) {
        source.avoid = Avoid::default();
        source.second = None;
        let next = now + self.between(limits::MOVE_RETRY.0, limits::MOVE_RETRY.1);
        if let Stage::Moving(moving) = &mut source.stage {
            moving.next = next;
            moving.why = detail;
        }
    }

    /// Leaves a path whose relay asked for it, if there is another: make before break.
    pub(super) fn move_away(
        &mut self,
        now: Time,
        source: &mut Source,
        paths: &dyn Paths,
        out: &mut Vec<Action>,
    ) {
        let path = self.widest(source, paths, &source.avoid.links, &source.avoid.relays);
        let until = now + limits::HOLD;
        let sent = path
            .filter(|path| source.avoid.allows(path))
            .map(|path| self.send_reserve(now, source, path, Purpose::Use, until, out));
        if !matches!(sent, Some(Ok(()))) {
            source.away = None;
        }
    }

    /// Looks for a path to keep ready, if the channel is protected.
    pub(super) fn protect(
        &mut self,
        now: Time,
        source: &mut Source,
        paths: &dyn Paths,
        out: &mut Vec<Action>,
    ) {
        self.protect_again(now, source);
        let until = now + limits::HOLD;
        match self.beside(source, paths, &source.refused) {
            // Refused here: tried again later, like a refusal from elsewhere.
            Some(path) => {
                let _ = self.send_reserve(now, source, path, Purpose::Standby, until, out);
            }
            // The picture is true within 5 %: what refused once may have room by now.
            None => source.refused = Avoid::default(),
        }
    }

    /// The channel took another path: one that stands by must not break with it.
    pub(super) fn stand_apart(&mut self, now: Time, source: &mut Source, out: &mut Vec<Action>) {
        let kept = mutant::on(Mutant::StandbyTogether);
        let Some(current) = source.current.as_ref().filter(|_| !kept) else { return };
        let mut hops = current.path.windows(2).map(|hop| (hop[0].clone(), hop[1].clone()));
        let shares = |standby: &mut Attempt| hops.any(|hop| standby.crosses(&hop));
        if let Some(standby) = source.standby.take_if(shares) {
            self.give_up(source, &standby, ReleaseCause::Moved, out);
            self.protect_again(now, source);
        }
    }

    pub(super) fn protect_again(&mut self, now: Time, source: &mut Source) {
        if source.protection != Protection::None {
            let retry = limits::PROTECT_RETRY;
            source.protection = Protection::Wanted(now + self.between(retry / 2, retry * 3 / 2));
        }
    }

    /// The picture changed: second paths are looked for again soon.
    pub fn picture_changed(&mut self, now: Time) {
        if !self.sources.is_empty() {
            self.look_soon(now);
        }
    }

    pub(super) fn look_soon(&mut self, now: Time) {
        match &mut self.seconds {
            Some(look) => look.again |= look.behind.is_some(),
            none => *none = Some(Look::new(now)),
        }
    }

    /// Looks for second paths of some channels; the others have their turn a little later.
    pub(super) fn look_for_seconds(&mut self, now: Time, paths: &dyn Paths) {
        let Some(look) = self.seconds.take_if(|look| look.at <= now) else { return };
        let from = look.behind.map_or(Bound::Unbounded, Bound::Excluded);
        let ids: Vec<ChannelId> = self
            .sources
            .range((from, Bound::Unbounded))
            .take(limits::SECONDS_PER_TURN)
            .map(|(id, _)| id.clone())
            .collect();
        for id in &ids {
            let second = {
                let source = &self.sources[id];
                source.current.as_ref().and_then(|_| self.beside(source, paths, &Avoid::default()))
            };
            self.sources.get_mut(id).expect("listed above").second = second;
        }
        self.seconds = if ids.len() == limits::SECONDS_PER_TURN {
            let behind = ids.last().cloned();
            Some(Look { at: now + limits::SECOND_PAUSE, behind, again: look.again })
        } else {
            look.again.then(|| Look::new(now))
        };
    }

    /// Where a channel without a path goes next.
    fn way_on(&self, source: &Source, paths: &dyn Paths) -> Option<Vec<PeerName>> {
        let tree = || paths.path(&source.peer).filter(|path| clear_of(path, &source.shun));
        if self.recovery == Recovery::Everything {
            return tree();
        }
        let Avoid { links, relays } = &source.avoid;
        let usable = |path: &Vec<PeerName>| {
            source.avoid.links.iter().all(|link| !crosses(path, link))
                && self.first_link(path).is_ok()
        };
        let second = source.second.clone().filter(|path| source.avoid.allows(path));
        second
            .filter(usable)
            .or_else(|| self.widest(source, paths, links, relays))
            .or_else(|| self.widest(source, paths, links, &[]))
            .or_else(tree)
            .filter(usable)
    }

    /// A path that shares no relay with the one in use, or at least no link. There is time, so the
    /// picture knows of every failure by then, and of what has come back.
    fn beside(&self, source: &Source, paths: &dyn Paths, refused: &Avoid) -> Option<Vec<PeerName>> {
        let current = &source.current.as_ref()?.path;
        let hops = current.windows(2).map(|hop| (hop[0].clone(), hop[1].clone()));
        let past = Some(&source.avoid).filter(|_| mutant::on(Mutant::AvoidKept));
        let past = past.into_iter().chain([refused]);
        let links: Vec<FailedLink> = hops.chain(past.flat_map(|past| past.links.clone())).collect();
        let relays = [&current[1..current.len() - 1], &refused.relays].concat();
        let disjoint = self.widest(source, paths, &links, &relays);
        disjoint.or_else(|| self.widest(source, paths, &links, &refused.relays))
    }

    fn widest(
        &self,
        source: &Source,
        paths: &dyn Paths,
        without_links: &[FailedLink],
        without_relays: &[PeerName],
    ) -> Option<Vec<PeerName>> {
        let own = match (&source.current, &source.stage) {
            (Some(current), _) => &current.path[..],
            (None, Stage::Moving(moving)) => &moving.was,
            _ => &[],
        };
        let without_relays: Vec<_> = without_relays.iter().chain(&source.shun).cloned().collect();
        paths.widest(&Wanted {
            to: &source.peer,
            rate: source.rate,
            rate_back: source.rate_back,
            max_payload: source.max_payload,
            own,
            idle: false,
            without_links,
            without_relays: &without_relays,
        })
    }

    /// Gives back everything but the path in use.
    pub(super) fn give_up_but_current(
        &mut self,
        source: &mut Source,
        cause: ReleaseCause,
        out: &mut Vec<Action>,
    ) {
        let trying = source.trying.take().map(|Trying { attempt, .. }| attempt);
        let old = source.old.take().map(|(attempt, _)| attempt);
        let old = old.filter(|_| !mutant::on(Mutant::CloseKeepsOld));
        for attempt in [trying, source.standby.take(), old].into_iter().flatten() {
            self.give_up(source, &attempt, cause, out);
        }
    }
}

impl Source {
    /// Failures of the past are no reason to steer around anything once the channel has come to rest.
    fn forget_failures(&mut self) {
        if matches!(self.stage, Stage::Open) && self.away.is_none() {
            self.avoid = Avoid::default();
        }
    }
}

/// The largest payload of a new path, if it is smaller than before.
pub(super) fn smaller(source: &Source, attempt: &Attempt) -> Option<u16> {
    (attempt.max_payload < source.max_payload).then_some(attempt.max_payload)
}
