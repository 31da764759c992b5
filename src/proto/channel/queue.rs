//! A request that waits for room: it stands in line on the links of its path that are short, and tries
//! again when one of them says that there is room (A14; decision 5 of the control-plane specification).
//!
//! ```text
//!  refused for lack of room ─► CLAIM along the tree's path ─► waits ──► ROOM: tries its paths again
//!                                    ▲   every few seconds      │            └► refused: CLAIM again
//!                                    └──────────────────────────┘            └► open: LEAVE
//! ```
//!
//! Order is kept by the hops: [`Channels::hold`] gives nothing to a request while an earlier one stands
//! in line on that link. Who stands where is [`crate::proto::claims`]'s.

use std::time::Duration;

use super::opening::{clear_of, may_fit_elsewhere, widest_of_any_rate};
use super::relay::Refusal;
use super::source::{Source, Stage};
use super::{Channels, Handled, NOT_OWNER, Paths, STALE, UNKNOWN};
use crate::limits;
use crate::proto::claims::{Claim, Place, Spot};
use crate::proto::reservation::{Crossing, Hold, Promise, Rates};
use crate::proto::view::WaitingView;
use crate::proto::{Action, Choice, Event, Rejection};
use crate::types::{Bandwidth, ChannelId, LinkId, PeerName, Reject, Time, TxId, Way};
use crate::wire::control::{Message, Reserve};
use crate::wire::queue::{self as wire, Claimed, Queue, QueueBody, Scarce, Shortage};

/// Whose turn a RESERVE is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) ticket: u64,
    /// It is open already: it waits behind nobody.
    pub(super) opened: bool,
}

impl Turn {
    pub(super) fn of(reserve: &Reserve) -> Self {
        Self { ticket: reserve.ticket, opened: reserve.opened }
    }
}

/// Where a claim was handed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Onward {
    GoesOn,
    /// Nobody further on can be told: what is short is known here.
    Ends,
}

/// What the asker knows of its place.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    since: Time,
    /// Of the path it claims.
    number: u32,
    path: Vec<PeerName>,
    /// CLAIM is sent again then.
    pub(super) refresh: Time,
    /// What was short when it last heard of it.
    short: Vec<Shortage>,
}

impl Source {
    /// Its next attempt begins from the start, then.
    fn try_again(&mut self, at: Time) {
        let idle = self.trying.is_none();
        if let (Stage::Reserving(reserving), true) = (&mut self.stage, idle) {
            reserving.refused.clear();
            reserving.held.clear();
            reserving.next = reserving.next.min(at);
            self.avoid = super::recovery::Avoid::default();
        }
    }

    pub(super) fn waited(&self, now: Time) -> Option<Duration> {
        self.waiting.as_ref().map(|waiting| now.since(waiting.since))
    }

    /// Why it still waits, in words.
    pub(super) fn blocked(&self) -> Option<String> {
        let short = &self.waiting.as_ref()?.short;
        let on = |short: &Shortage| {
            let Shortage { at, of, free, ahead, .. } = short;
            format!("at {at}, {of} has {free} free and {ahead} requests in line before this one")
        };
        let all: Vec<_> = short.iter().map(on).collect();
        Some(if all.is_empty() { "it waited for room".to_owned() } else { all.join("; ") })
    }

    pub(super) fn waiting_view(&self, now: Time) -> Option<WaitingView> {
        let Waiting { since, path, short, .. } = self.waiting.as_ref()?;
        let Stage::Reserving(reserving) = &self.stage else { return None };
        Some(WaitingView {
            request: reserving.request,
            id: self.id.clone(),
            name: self.name.clone(),
            peer: self.peer.clone(),
            service: self.service.clone(),
            rate: self.rate,
            rate_back: self.rate_back,
            path: path.clone(),
            waited: now.since(*since),
            left: reserving.deadline.since(now),
            position: 1 + short.iter().map(|short| short.ahead).max().unwrap_or(0),
            short: short.clone(),
        })
    }
}

impl Channels {
    /// Holds what a request asks of a link and of the host, unless an earlier one stands in line there.
    pub(super) fn hold(
        &mut self,
        link: LinkId,
        tx: &TxId,
        (rates, crossing): (Rates, Crossing),
        until: Time,
        Turn { ticket, opened }: Turn,
    ) -> Result<(), Refusal> {
        let place = Place { ticket, channel: tx.channel.clone() };
        let (egress, ingress) = (Spot::Host(Way::Egress), Spot::Host(Way::Ingress));
        let asks = [(Spot::Link(link), rates.out), (egress, rates.out), (ingress, rates.back)];
        for (spot, _) in asks.iter().filter(|(_, rate)| !opened && *rate > Bandwidth::ZERO) {
            if let (_, Some(before)) = self.claims.before(*spot, &place) {
                return Err(Refusal::behind(
                    &self.me,
                    &self.scarce(*spot),
                    before,
                    self.room(*spot),
                ));
            }
        }
        let hold = Hold { rates, crossing, until, ticket };
        let neighbour = self.links.get_mut(&link).expect("the caller saw the link");
        let held = neighbour.ledger.hold(tx, hold);
        held.map_err(|short| {
            let scarce = Scarce::Link(neighbour.peer.clone());
            Refusal::no_room(&self.me, &scarce, rates.out, short)
        })?;
        self.host.hold(tx, hold).map_err(|(way, asked, short)| {
            self.neighbour(link).ledger.release(tx);
            Refusal::no_room(&self.me, &Scarce::Host(way), asked, short)
        })
    }

    /// Gives back what [`Channels::hold`] held.
    pub(super) fn release_hold(&mut self, link: LinkId, tx: &TxId) {
        let ledger = &mut self.neighbour(link).ledger;
        let promise = ledger.promise(tx).copied().expect("every leg has a promise");
        ledger.release(tx);
        self.host.release(tx, promise.crossing);
    }

    /// How much is free there.
    fn room(&self, spot: Spot) -> Bandwidth {
        match spot {
            Spot::Link(link) => {
                self.links.get(&link).map_or(Bandwidth::ZERO, |n| n.ledger.free_out())
            }
            Spot::Host(way) => self.host.free(way),
        }
    }

    /// How much would be free there if the channel held nothing.
    fn room_without(&self, spot: Spot, channel: &ChannelId) -> Bandwidth {
        match spot {
            Spot::Link(link) => {
                self.links.get(&link).map_or(Bandwidth::ZERO, |n| n.ledger.free_without(channel))
            }
            Spot::Host(way) => self.host.free_without(way, channel),
        }
    }

    fn scarce(&self, spot: Spot) -> Scarce {
        match spot {
            Spot::Link(link) => Scarce::Link(self.links[&link].peer.clone()),
            Spot::Host(way) => Scarce::Host(way),
        }
    }

    /// No path is left to try: the request waits if it may, or has its answer.
    pub(super) fn no_way(
        &mut self,
        now: Time,
        mut source: Source,
        paths: &dyn Paths,
        out: &mut Vec<Action>,
    ) {
        let Stage::Reserving(reserving) = &mut source.stage else { unreachable!("not answered") };
        let Rejection { reason, detail, .. } = reserving.why.clone();
        let tried = !reserving.refused.is_empty();
        reserving.next = reserving.deadline;
        let may_wait = match reason {
            Reject::NoRoom => source.waits,
            // Where a rule let it through, there may be room later.
            Reject::NotAllowed => source.waits && source.is_barred(),
            // What it waits on may break, and heal.
            Reject::Unreachable | Reject::Timeout | Reject::ShuttingDown | Reject::Broken => {
                source.waiting.is_some()
            }
            Reject::NoSuchPeer
            | Reject::NoSuchService
            | Reject::ServiceBusy
            | Reject::Never
            | Reject::Duplicate
            | Reject::Busy
            | Reject::Cancelled => false,
        };
        let way = self.path_of_wait(&source, paths).filter(|_| may_wait);
        let carries = |path: &Vec<PeerName>| {
            let narrow = paths.narrowest(path);
            narrow.is_none_or(|narrow| source.rate.max(source.rate_back) <= narrow.capacity)
        };
        let way = way.filter(|path| reason != Reject::NotAllowed || carries(path));
        let Some(path) = way else {
            return self.end_source(source, Some(reason), &detail, out);
        };
        let waiting = self.sources.values().filter(|source| source.waiting.is_some()).count();
        if source.waiting.is_none() && waiting >= limits::WAITING_PER_ASKER {
            let most = limits::WAITING_PER_ASKER;
            let detail = format!("{most} requests of {} wait already: {BUSY}", self.me);
            return self.end_source(source, Some(Reject::Busy), &detail, out);
        }
        // In line already, and there is no path to try: a new tree or the next CLAIM brings news.
        if source.waiting.is_none() || tried {
            self.claim(now, &mut source, path, out);
        }
        self.put_source(source);
    }

    /// The path on which it stands in line: that of the tree, the widest one where the tree's crosses a
    /// peer to be avoided, or the one that was asked for. Without a tree for a moment it keeps the place
    /// it has.
    fn path_of_wait(&self, source: &Source, paths: &dyn Paths) -> Option<Vec<PeerName>> {
        let tree = || paths.path(&source.peer).filter(|path| clear_of(path, &source.shun));
        let path = match &source.choice {
            Choice::Given(given) => Some(self.given(given)),
            Choice::Tree => tree(),
            Choice::Widest | Choice::TreeThenWidest => {
                tree().or_else(|| widest_of_any_rate(source, paths))
            }
        };
        let before = source.waiting.as_ref().map(|waiting| waiting.path.clone());
        path.or_else(|| before.filter(|path| clear_of(path, &source.shun)))
    }

    /// Stands in line, or says that it still does.
    fn claim(
        &mut self,
        now: Time,
        source: &mut Source,
        path: Vec<PeerName>,
        out: &mut Vec<Action>,
    ) {
        let refresh = now + self.refresh_wait();
        let waiting = match source.waiting.take() {
            Some(waiting) if waiting.path == path => Waiting { refresh, ..waiting },
            Some(Waiting { since, number, .. }) => {
                self.leave_line(&source.id, out);
                let number = number + 1;
                Waiting { since, number, path: path.clone(), refresh, short: Vec::new() }
            }
            None => {
                let (channel, path) = (source.id.clone(), path.clone());
                out.push(Action::Event(Event::ChannelQueued { channel, path: path.clone() }));
                Waiting { since: now, number: 1, path, refresh, short: Vec::new() }
            }
        };
        let number = waiting.number;
        source.waiting = Some(waiting);
        let (rate, rate_back, ticket) = (source.rate, source.rate_back, source.ticket);
        let claim = wire::Claim { path, position: 0, rate, rate_back, ticket, proof: None };
        let tx = TxId { channel: source.id.clone(), attempt: number };
        if self.stand(now, None, &tx, claim, out) == Onward::Ends {
            let claim = self.claims.get(&source.id).expect("just noted");
            let claimed = self.with_own(claim, Claimed::default());
            self.learn_line(now, source, claimed);
        }
    }

    /// The time has come to say again that it waits, along the tree of today.
    pub(super) fn claim_again(
        &mut self,
        now: Time,
        source: &mut Source,
        paths: &dyn Paths,
        out: &mut Vec<Action>,
    ) {
        let Some(path) = self.path_of_wait(source, paths) else {
            // Every way there is crosses a peer whose rules forbid it; another may come.
            let refresh = now + self.refresh_wait();
            if let Some(waiting) = &mut source.waiting {
                waiting.refresh = refresh;
            }
            return;
        };
        self.claim(now, source, path, out);
        if may_fit_elsewhere(source, paths) {
            source.try_again(now);
        }
    }

    /// A new tree is in use: who waits stands in line along it.
    pub(super) fn claim_along_new_tree(&mut self, now: Time) {
        let waiting = |source: &&Source| source.waiting.is_some();
        let ids: Vec<_> = self.sources.values().filter(waiting).map(|s| s.id.clone()).collect();
        for id in ids {
            let mut source = self.take_source(&id).expect("listed above");
            source.waiting.as_mut().expect("it waits").refresh = now;
            source.try_again(now);
            self.put_source(source);
        }
    }

    /// The request has its answer: nobody waits behind it any more.
    pub(super) fn end_wait(&mut self, source: &mut Source, out: &mut Vec<Action>) {
        if source.waiting.take().is_some() {
            self.leave_line(&source.id, out);
        }
    }

    /// Queue messages: a neighbour's claim, or news of one.
    pub(super) fn queued(
        &mut self,
        now: Time,
        link: LinkId,
        Queue { tx, body }: Queue,
        out: &mut Vec<Action>,
    ) -> Handled {
        if let QueueBody::Claim(claim) = body {
            return self.claimed_by_neighbour(now, link, &tx, claim, out);
        }
        let claim = self.claims.get(&tx.channel).ok_or(UNKNOWN)?.clone();
        let side = if body == QueueBody::Leave { claim.prev } else { claim.next };
        match () {
            () if claim.number != tx.attempt => return Err(STALE),
            () if side != Some(link) => return Err(NOT_OWNER),
            () => {}
        }
        match body {
            QueueBody::Claim(_) => unreachable!("handled above"),
            QueueBody::Leave => self.leave_line(&tx.channel, out),
            QueueBody::Room => self.pass_room(now, &claim, out),
            QueueBody::Claimed(claimed) => self.pass_claimed(now, &claim, claimed, out),
        }
        Ok(())
    }

    fn claimed_by_neighbour(
        &mut self,
        now: Time,
        link: LinkId,
        tx: &TxId,
        claim: wire::Claim,
        out: &mut Vec<Action>,
    ) -> Handled {
        self.clock = self.clock.max(claim.ticket);
        let known = self.claims.get(&tx.channel).map(|known| known.number);
        if known.is_some_and(|known| known > tx.attempt) {
            return Err(STALE);
        }
        let source = &tx.channel.source;
        let checked = self.check_path(link, &claim.path, claim.position, source);
        if self.leaving || checked.is_err() || *source == self.me {
            return Err("a claim on a path that cannot be");
        }
        if let Err(denied) = self.allow_claim(tx, &claim) {
            self.leave_line(&tx.channel, out);
            let (busy, refused) = (Some(self.me.clone()), Some(denied.words));
            let body = QueueBody::Claimed(Claimed { short: Vec::new(), busy, refused });
            out.push(Action::Send {
                link,
                message: Message::Queue(Queue { tx: tx.clone(), body }),
            });
            return Ok(());
        }
        let full = self.claims.of_asker(source) >= limits::WAITING_PER_ASKER
            || self.claims.count() >= limits::WAITING_MAX;
        if full && known.is_none() {
            let busy = Some(self.me.clone());
            let body = QueueBody::Claimed(Claimed { busy, ..Claimed::default() });
            let message = Message::Queue(Queue { tx: tx.clone(), body });
            out.push(Action::Send { link, message });
            return Ok(());
        }
        if self.stand(now, Some(link), tx, claim, out) == Onward::Ends {
            let claim = self.claims.get(&tx.channel).expect("just noted").clone();
            self.pass_claimed(now, &claim, Claimed::default(), out);
        }
        Ok(())
    }

    /// Takes the places of a claim here and hands it on.
    fn stand(
        &mut self,
        now: Time,
        prev: Option<LinkId>,
        tx: &TxId,
        claim: wire::Claim,
        out: &mut Vec<Action>,
    ) -> Onward {
        let place = Place { ticket: claim.ticket, channel: tx.channel.clone() };
        let next = claim.path.get(usize::from(claim.position) + 1);
        let next = next.and_then(|peer| self.link_to(peer));
        let (number, until) = (tx.attempt, now + limits::LEASE);
        let noted = Claim { number, place: place.clone(), prev, next, until };
        let asks = asks(&noted, claim.rate, claim.rate_back);
        self.claims.note(noted);
        for (spot, rate) in asks {
            if rate > self.room(spot) || self.claims.before(spot, &place).1.is_some() {
                self.claims.wait(spot, &place, rate);
            }
        }
        let speaks = |link: &LinkId| self.links[link].version >= wire::VERSION;
        let Some(link) = next.filter(speaks) else { return Onward::Ends };
        let onward = wire::Claim { position: claim.position + 1, ..claim };
        let body = QueueBody::Claim(onward);
        out.push(Action::Send { link, message: Message::Queue(Queue { tx: tx.clone(), body }) });
        Onward::GoesOn
    }

    fn pass_claimed(&mut self, now: Time, claim: &Claim, claimed: Claimed, out: &mut Vec<Action>) {
        let claimed = self.with_own(claim, claimed);
        let channel = &claim.place.channel;
        if let Some(link) = claim.prev {
            let tx = TxId { channel: channel.clone(), attempt: claim.number };
            let message = Message::Queue(Queue { tx, body: QueueBody::Claimed(claimed) });
            return out.push(Action::Send { link, message });
        }
        let Some(mut source) = self.take_source(channel) else { return };
        if let (Some(peer), Some(words)) = (&claimed.busy, &claimed.refused) {
            let detail = format!("at {peer}: {words}");
            return self.claim_refused(now, source, peer, detail, out);
        }
        if let Some(peer) = &claimed.busy {
            let detail = format!("at {peer}: as many requests wait as may: {BUSY}");
            return self.end_source(source, Some(Reject::Busy), &detail, out);
        }
        self.learn_line(now, &mut source, claimed);
        self.put_source(source);
    }

    /// A rule of a peer on the path it waits on forbids it: it looks for another path, if there may be one.
    fn claim_refused(
        &mut self,
        now: Time,
        mut source: Source,
        peer: &PeerName,
        detail: String,
        out: &mut Vec<Action>,
    ) {
        let waiting = source.waiting.as_ref();
        let on_path = waiting.is_some_and(|w| w.path.contains(peer)) && *peer != self.me;
        if !on_path || !source.bar(peer) {
            return self.end_source(source, Some(Reject::NotAllowed), &detail, out);
        }
        if let Stage::Reserving(reserving) = &mut source.stage {
            reserving.why = Rejection::new(Reject::NotAllowed, detail);
        }
        source.try_again(now);
        self.put_source(source);
    }

    /// Puts what is short here before what is short further on.
    fn with_own(&self, claim: &Claim, claimed: Claimed) -> Claimed {
        let spots = asks(claim, Bandwidth::ZERO, Bandwidth::ZERO).into_iter().map(|(spot, _)| spot);
        let own = spots.filter_map(|spot| self.shortage(spot, &claim.place));
        let short = own.chain(claimed.short).take(limits::SHORT_LINKS_MAX).collect();
        Claimed { short, ..claimed }
    }

    fn shortage(&self, spot: Spot, place: &Place) -> Option<Shortage> {
        let asked = self.claims.waits(spot, place)?;
        let (ahead, before) = self.claims.before(spot, place);
        let mut holders: Vec<ChannelId> = Vec::new();
        let mut show = |(tx, _): (&TxId, &Promise)| {
            if holders.len() < limits::HOLDERS_SHOWN && !holders.contains(&tx.channel) {
                holders.push(tx.channel.clone());
            }
        };
        match spot {
            Spot::Link(link) => self.links[&link].ledger.promises().for_each(&mut show),
            Spot::Host(_) => self.host.promises().for_each(&mut show),
        }
        Some(Shortage {
            at: self.me.clone(),
            of: self.scarce(spot),
            asked,
            free: self.room(spot),
            ahead: u32::try_from(ahead).unwrap_or(u32::MAX),
            before: before.cloned(),
            holders,
        })
    }

    /// At the asker: what its path is short of. Nothing any more: it tries again.
    fn learn_line(&mut self, now: Time, source: &mut Source, claimed: Claimed) {
        let Some(waiting) = &mut source.waiting else { return };
        let fits = |short: &Shortage| short.ahead == 0 && short.asked <= short.free;
        let room = claimed.short.iter().all(fits);
        waiting.short = claimed.short;
        if room {
            let retry = self.between(limits::MOVE_RETRY.0, limits::MOVE_RETRY.1);
            source.try_again(now + retry);
        }
    }

    /// Tells those who are first in line where there is room for them. To be called after every input:
    /// much of what happens gives room back.
    pub fn tell_room(&mut self, now: Time, out: &mut Vec<Action>) {
        let mut claims = std::mem::take(&mut self.claims);
        let admitted = claims.admitted(|spot, channel| self.room_without(spot, channel));
        self.claims = claims;
        for channel in admitted {
            let claim = self.claims.get(&channel).expect("it stands in line").clone();
            self.pass_room(now, &claim, out);
        }
    }

    fn pass_room(&mut self, now: Time, claim: &Claim, out: &mut Vec<Action>) {
        let channel = &claim.place.channel;
        if let Some(link) = claim.prev {
            let tx = TxId { channel: channel.clone(), attempt: claim.number };
            let message = Message::Queue(Queue { tx, body: QueueBody::Room });
            return out.push(Action::Send { link, message });
        }
        if let Some(mut source) = self.take_source(channel) {
            source.try_again(now);
            self.put_source(source);
        }
    }

    /// Gives the places of a request up, here and further on.
    fn leave_line(&mut self, channel: &ChannelId, out: &mut Vec<Action>) {
        let Some(claim) = self.claims.remove(channel) else { return };
        let Some(link) = claim.next else { return };
        if self.links.get(&link).is_some_and(|n| n.version >= wire::VERSION) {
            let tx = TxId { channel: channel.clone(), attempt: claim.number };
            let message = Message::Queue(Queue { tx, body: QueueBody::Leave });
            out.push(Action::Send { link, message });
        }
    }

    /// Who came over the link cannot be told anything any more; who goes on over it waits for a tree.
    pub(super) fn lines_link_down(&mut self, link: LinkId, out: &mut Vec<Action>) {
        let (came, go) = self.claims.over(link);
        came.iter().for_each(|channel| self.leave_line(channel, out));
        go.iter().for_each(|channel| self.claims.cut(channel));
    }

    /// Forgets who has not said for a lease that it waits, here and further on: its LEAVE would find no way
    /// there any more.
    pub(super) fn forget_claims(&mut self, now: Time, out: &mut Vec<Action>) {
        for channel in self.claims.expired(now) {
            self.leave_line(&channel, out);
        }
    }

    /// The requests of this peer that wait, in their order.
    pub fn waiting(&self, now: Time) -> Vec<WaitingView> {
        let mut waiting: Vec<_> =
            self.sources.values().filter(|source| source.waiting.is_some()).collect();
        waiting.sort_by_key(|source| source.ticket);
        waiting.into_iter().filter_map(|source| source.waiting_view(now)).collect()
    }

    /// Requests that stand in line here, whoever asked.
    pub fn claims(&self) -> usize {
        self.claims.count()
    }
}

/// What a request takes of a peer on its path.
fn asks(claim: &Claim, rate: Bandwidth, rate_back: Bandwidth) -> Vec<(Spot, Bandwidth)> {
    let none = Bandwidth::ZERO;
    let both = |one: bool, other: bool| {
        let [there, back] =
            [(one, rate), (other, rate_back)].map(|(has, r)| if has { r } else { none });
        there.checked_add(back).unwrap_or(Bandwidth::MAX)
    };
    let (prev, next) = (claim.prev.is_some(), claim.next.is_some());
    let links = [(claim.prev, rate_back), (claim.next, rate)];
    let mut asks: Vec<_> =
        links.into_iter().filter_map(|(link, rate)| Some((Spot::Link(link?), rate))).collect();
    asks.push((Spot::Host(Way::Egress), both(next, prev)));
    asks.push((Spot::Host(Way::Ingress), both(prev, next)));
    asks
}

const BUSY: &str = "try again in 5 s";
