//! The life of a channel at one peer: as the end that asked for it ([`source`], with its paths in
//! [`attempt`], which comes next in [`opening`] and [`recovery`], and waiting for room in [`queue`]), as
//! the end that offers the service ([`service`]), and in between ([`relay`]); what keeps a reservation
//! alive ([`lease`]), and how its two ends come to keys ([`sealing`]). What rules allow is [`allowed`]'s. 2.9
//! of the specification.
//!
//! ```text
//!  source                    relay                     service end
//!  OpenEnd, hold out
//!    ── RESERVE (label back) ─► hold both sides
//!                               ── RESERVE ──────────► OpenEnd, hold back
//!                               ◄── ACCEPT (label) ─── entry, label
//!    ◄── ACCEPT (label) ─────── label
//!  entry, answer "open"
//! ```
//!
//! The label forward is told in ACCEPT and the label back in RESERVE, each by the peer that will
//! receive the frames. Bandwidth is held on the way there, so nobody waits while holding, and made firm
//! on the way back.
//!
//! Assumes that links are FIFO and that a link that went down stays so until `link_up`. It does not
//! know how paths come about ([`Paths`]), and changes the path of a channel that works only when a relay on
//! it asks for that.

mod allowed;
mod attempt;
mod balance;
mod lease;
mod opening;
mod queue;
mod recovery;
mod relay;
mod sealing;
mod service;
mod source;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use self::balance::{Balance, Step};
use self::recovery::Look;
use self::relay::{Refusal, Relay};
use self::service::Served;
use self::source::Source;
use super::budget::HostLedger;
use super::claims::Claims;
use super::graph::Wanted;
use super::policy::Policy;
use super::proof::Ends;
use super::reservation::{Ledger, Tombstones};
use super::view::ChannelView;
use super::{
    Action, Answer, Budgets, Event, Narrowest, Recovery, Rejection, ServiceConfig, ServiceKind,
    Timer,
};
use crate::types::{
    Bandwidth, ChannelId, Label, LinkId, PeerName, PublicKey, Reject, RequestId, ServiceName,
    SessionId, Time, TxId, Way, WorkerId,
};
use crate::wire::control::{Message, Nack, Proof, Release, ReleaseCause, ServiceInfo};

/// What is known about the way to other peers.
pub trait Paths {
    /// All peers on the way to `to` as the committed tree has it, this peer first; `None` if it has
    /// none.
    fn path(&self, to: &PeerName) -> Option<Vec<PeerName>>;
    /// The widest path on the picture of the overlay that fits, this peer first; none without one.
    fn widest(&self, _wanted: &Wanted<'_>) -> Option<Vec<PeerName>> {
        None
    }
    /// The narrowest links of a path on the picture; none if one of its links is not there.
    fn narrowest(&self, _path: &[PeerName]) -> Option<Narrowest> {
        None
    }
    /// Which tree is in use: the epoch of what is said about the overlay.
    fn session(&self) -> Option<SessionId> {
        None
    }
    /// The peer said that it leaves: it takes nothing new.
    fn leaves(&self, _peer: &PeerName) -> bool {
        false
    }
    /// The peer is configured or was seen in a tree, whether or not a way leads there now.
    fn knows(&self, peer: &PeerName) -> bool;
    /// Its identity, as configured or as it says in the picture.
    fn key(&self, _peer: &PeerName) -> Option<PublicKey> {
        None
    }
}

/// All channels that end at this peer or cross it.
///
/// Kinds of methods: what happened (`link_up`, `message`, `end_opened`, ...), what a person wants
/// (`open`, `close`, `finish`, `leave`), time (`poll_timeout`, `handle_timeout`) and views. Each appends
/// to `out`; actions are to be carried out in order. `now` never goes backwards.
#[derive(Clone, Debug)]
pub struct Channels {
    me: PeerName,
    boot: u64,
    rng: ChaCha20Rng,
    data_port: u16,
    services: Vec<ServiceConfig>,
    /// Services that a local `spanway recv` waits at.
    receiving: BTreeSet<ServiceName>,
    /// Links that are up.
    links: BTreeMap<LinkId, Neighbour>,
    host: HostLedger,
    sources: BTreeMap<ChannelId, Source>,
    /// Names of the sources, to tell at once whether one is free.
    names: BTreeMap<ServiceName, ChannelId>,
    served: BTreeMap<ChannelId, Served>,
    relays: BTreeMap<TxId, Relay>,
    /// Labels this peer gave out.
    labels: BTreeSet<Label>,
    balance: Balance,
    tombstones: Tombstones,
    claims: Claims,
    policy: Policy,
    /// Of who asks in the message at hand.
    asker: Option<PublicKey>,
    /// When each channel has to be looked at. A lease that was prolonged leaves its entry where it
    /// is: being woken early once a lease is cheaper than moving an entry at every refresh.
    wakes: BTreeSet<(Time, Timer, Key)>,
    /// Channels asked for by this life of the peer.
    count: u64,
    recovery: Recovery,
    seconds: Option<Look>,
    /// Time of requests, the ticket in RESERVE: the host's clock, or one more than any ticket seen here
    /// (a hybrid logical clock). Whoever asks later gets a later ticket, at other peers as well as
    /// their clocks agree.
    clock: u64,
    /// The host's clock at time zero, in microseconds since 1970.
    epoch: u64,
    leaving: bool,
}

/// What both ends of a link agreed on when they greeted.
#[derive(Clone, Debug)]
pub struct Terms {
    pub peer: PeerName,
    pub usable: Bandwidth,
    /// Largest payload that fits the link.
    pub max_payload: u16,
    /// Control version.
    pub version: u16,
}

#[derive(Clone, Debug)]
struct Neighbour {
    peer: PeerName,
    version: u16,
    ledger: Ledger,
    /// Largest payload that fits the link.
    max_payload: u16,
    /// When the channels that end here are refreshed next; `None` if there are none on this link.
    refresh_at: Option<Time>,
    /// The last that was, while there are more of them.
    refreshed: Option<TxId>,
    /// Refreshed from their other side, to be passed on here ...
    pass: BTreeSet<TxId>,
    /// ... at this time.
    pass_at: Option<Time>,
}

/// One side of a channel at this peer: a link, and the label this peer gave out for it.
#[derive(Clone, Copy, Debug)]
struct Leg {
    link: LinkId,
    label: Label,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Source(ChannelId),
    Served(ChannelId),
    Relay(TxId),
}

/// What comes of a message: carried out, or ignored for this reason.
type Handled = Result<(), &'static str>;

const UNKNOWN: &str = "no such channel here";
const STALE: &str = "not the current attempt of the channel";
const NOT_OWNER: &str = "the channel does not use this link";

impl Channels {
    pub fn new(
        me: PeerName,
        boot: u64,
        seed: [u8; 32],
        workers: u8,
        data_port: u16,
        services: Vec<ServiceConfig>,
    ) -> Self {
        Self {
            me,
            boot,
            rng: ChaCha20Rng::from_seed(seed),
            data_port,
            services,
            receiving: BTreeSet::new(),
            links: BTreeMap::new(),
            host: HostLedger::new(Budgets::default()),
            sources: BTreeMap::new(),
            names: BTreeMap::new(),
            served: BTreeMap::new(),
            relays: BTreeMap::new(),
            labels: BTreeSet::new(),
            balance: Balance::new(workers),
            tombstones: Tombstones::default(),
            claims: Claims::default(),
            policy: Policy::default(),
            asker: None,
            wakes: BTreeSet::new(),
            count: 0,
            recovery: Recovery::default(),
            seconds: None,
            clock: 0,
            epoch: 0,
            leaving: false,
        }
    }

    /// The neighbour greeted; both ends agreed on what the link carries.
    pub fn link_up(&mut self, now: Time, link: LinkId, terms: Terms, out: &mut Vec<Action>) {
        self.link_down(now, link, out);
        let Terms { peer, usable, max_payload, version } = terms;
        let neighbour = Neighbour {
            peer,
            version,
            ledger: Ledger::new(usable),
            max_payload,
            refresh_at: None,
            refreshed: None,
            pass: BTreeSet::new(),
            pass_at: None,
        };
        self.links.insert(link, neighbour);
    }

    /// Frees at once everything the link had, and tells the other side of each channel.
    pub fn link_down(&mut self, now: Time, link: LinkId, out: &mut Vec<Action>) {
        if !self.links.contains_key(&link) {
            return;
        }
        let crossing = |relay: &&Relay| relay.prev.link == link || relay.next.link == link;
        let relays: Vec<_> =
            self.relays.values().filter(crossing).map(|relay| relay.tx.clone()).collect();
        let sources: Vec<_> =
            self.sources.values().filter(|s| s.uses(link)).map(|s| s.id.clone()).collect();
        let served: Vec<_> =
            self.served.values().filter(|s| s.uses(link)).map(|s| s.id().clone()).collect();
        for tx in relays {
            self.relay_link_down(now, link, &tx, out);
        }
        for id in sources {
            self.source_link_down(now, link, &id, out);
        }
        for id in served {
            self.served_link_down(now, link, &id, out);
        }
        self.lines_link_down(link, out);
        let neighbour = self.links.remove(&link).expect("it was there at the start");
        assert!(neighbour.ledger.is_empty(), "a16: {:?} keeps a promise", neighbour.ledger);
    }

    /// Both ends agreed on another usable capacity. What no longer fits loses its path over this link, the
    /// youngest channels first; they move if another path has room (2.9 rule 8).
    pub fn capacity_changed(
        &mut self,
        now: Time,
        link: LinkId,
        usable: Bandwidth,
        out: &mut Vec<Action>,
    ) {
        let Some(neighbour) = self.links.get_mut(&link) else { return };
        neighbour.ledger.set_usable(usable);
        while let Some(tx) = self.links[&link].ledger.surplus().cloned() {
            self.break_for_room(now, link, &tx, out);
        }
    }

    /// What the links of this host may carry together. Less than is promised costs the youngest channels.
    pub fn set_budgets(&mut self, now: Time, budgets: Budgets, out: &mut Vec<Action>) {
        self.host.set_budgets(budgets);
        while let Some(tx) = self.host.surplus().cloned() {
            let mut links = self.links.iter();
            let taken = links.find(|(_, neighbour)| neighbour.ledger.promise(&tx).is_some());
            let (link, _) = taken.expect("what the host has promised is promised on a link");
            self.break_for_room(now, *link, &tx, out);
        }
    }

    fn break_for_room(&mut self, now: Time, link: LinkId, tx: &TxId, out: &mut Vec<Action>) {
        let peer = self.links[&link].peer.clone();
        let why = format!("the link to {peer} has become too narrow");
        let failed = Some((self.me.clone(), peer));
        let broken = ReleaseCause::Broken;
        if let Some(relay) = self.take_relay(tx) {
            self.free_relay(now, &relay, false, out);
            for leg in [relay.prev, relay.next] {
                self.send_release(leg.link, tx, broken, failed.clone(), out);
            }
            return;
        }
        self.send_release(link, tx, broken, failed.clone(), out);
        if let Some(source) = self.take_source(&tx.channel) {
            self.attempt_gone(now, source, tx.attempt, failed, why, out);
        } else {
            self.served_without_room(now, tx, &why, out);
        }
    }

    /// A message of the reservation protocol. One that its sender has no right to changes nothing.
    pub fn message(&mut self, now: Time, link: LinkId, message: Message, out: &mut Vec<Action>) {
        // The node hands on messages of links that are up, and of no others.
        let Some(peer) = self.links.get(&link).map(|neighbour| neighbour.peer.clone()) else {
            return;
        };
        let (what, handled) = match message {
            Message::Reserve(reserve) => ("reserve", self.reserve(now, link, reserve, out)),
            Message::Accept(accept) => ("accept", self.accept(now, link, accept, out)),
            Message::Nack(nack) => ("nack", self.nack(now, link, nack, out)),
            Message::Release(release) => ("release", self.release(now, link, release, out)),
            Message::Refresh(txs) => ("refresh", self.refreshed(now, link, &txs)),
            Message::Finish { tx, frames, proof } => {
                ("finish", self.finished(link, &tx, (frames, proof), out))
            }
            Message::FinishAck { tx } => ("finish_ack", self.finish_known(link, &tx, out)),
            Message::Move { tx, at } => ("move", self.asked_to_move(now, link, tx, at, out)),
            Message::Queue(queue) => ("queue", self.queued(now, link, queue, out)),
            Message::Hello(_)
            | Message::Bye(_)
            | Message::Capacity(_)
            | Message::Start(_)
            | Message::Ghs { .. }
            | Message::Done { .. }
            | Message::Members { .. }
            | Message::Commit { .. }
            | Message::Routed(_)
            | Message::Measure(_)
            | Message::Gossip(_) => ("other", Err("not a message of channels")),
        };
        if let Err(why) = handled {
            out.push(Action::Event(Event::Ignored { peer, what, why }));
        }
    }

    /// Answer to [`Action::OpenEnd`].
    pub fn end_opened(
        &mut self,
        now: Time,
        channel: &ChannelId,
        result: Result<Option<Bytes>, Rejection>,
        paths: &dyn Paths,
        out: &mut Vec<Action>,
    ) {
        if self.sources.contains_key(channel) {
            self.source_end_opened(now, channel, result.map(|_| ()), paths, out);
        } else if self.served.contains_key(channel) {
            self.served_end_opened(now, channel, result, out);
        }
        // Else it was closed while its socket was being opened; CloseEnd is on its way.
    }

    /// Closes a channel that ends here, whichever end this is.
    pub fn close(&mut self, now: Time, id: RequestId, channel: &ChannelId, out: &mut Vec<Action>) {
        let why = format!("closed at {}", self.me);
        if let Some(source) = self.take_source(channel) {
            self.end_source(source, None, &why, out);
        } else if let Some(served) = self.take_served(channel) {
            self.end_served(now, served, None, &why, out);
        } else {
            let crosses = self.relays.values().find(|relay| relay.tx.channel == *channel);
            let detail = match crosses {
                Some(relay) => format!(
                    "{channel} only crosses this peer; close it at {} or {}",
                    relay.tx.channel.source,
                    relay.path.last().unwrap_or(&self.me)
                ),
                None => format!("no channel {channel} ends here; `spanway channels` lists them"),
            };
            out.push(rejected(id, Reject::NotAllowed, detail));
            return;
        }
        out.push(Action::Answer { id, answer: Answer::Closed });
    }

    /// A local `spanway recv` came to or left a service; without one its channels have no receiver.
    pub fn receiving(&mut self, now: Time, service: &ServiceName, on: bool, out: &mut Vec<Action>) {
        if on {
            self.receiving.insert(service.clone());
            return;
        }
        self.receiving.remove(service);
        if self.kind(service) != Some(ServiceKind::Receive) {
            return;
        }
        let of_service = |served: &&Served| served.service == *service;
        let ended: Vec<_> =
            self.served.values().filter(of_service).map(|s| s.id().clone()).collect();
        for id in ended {
            let served = self.take_served(&id).expect("listed above");
            self.end_served(now, served, None, &format!("the receiver at {} left", self.me), out);
        }
    }

    /// The configuration was reloaded. Open channels stay; a service that is gone takes no new ones.
    pub fn services_changed(&mut self, services: Vec<ServiceConfig>) {
        self.services = services;
    }

    /// Takes nothing new, and asks for what crosses to be moved to other paths.
    pub fn drain(&mut self, out: &mut Vec<Action>) {
        self.leaving = true;
        self.ask_to_move(out);
    }

    /// Channels that cross this peer.
    pub fn crossing(&self) -> usize {
        self.relays.len()
    }

    /// The host's clock at time zero, in microseconds since 1970: only the order of requests hangs on it.
    pub fn set_epoch(&mut self, micros: u64) {
        self.epoch = micros;
    }

    /// What a failure or a new session does to the channels that were asked for here.
    pub fn set_recovery(&mut self, recovery: Recovery) {
        self.recovery = recovery;
    }

    /// Closes everything that ends here and gives back everything that crosses; takes nothing new.
    pub fn leave(&mut self, now: Time, out: &mut Vec<Action>) {
        self.leaving = true;
        self.seconds = None;
        let why = format!("{} leaves", self.me);
        while let Some(id) = self.sources.keys().next().cloned() {
            let source = self.take_source(&id).expect("just seen");
            self.end_source(source, Some(Reject::ShuttingDown), &why, out);
        }
        while let Some(id) = self.served.keys().next().cloned() {
            let served = self.take_served(&id).expect("just seen");
            self.end_served(now, served, Some(Reject::ShuttingDown), &why, out);
        }
        while let Some(tx) = self.relays.keys().next().cloned() {
            let relay = self.take_relay(&tx).expect("just seen");
            self.end_relay(now, &relay, ReleaseCause::Broken, out);
        }
    }

    /// Free usable capacity of a link, (out, in), whatever the host has; `None` while it is down.
    pub fn free(&self, link: LinkId) -> Option<(Bandwidth, Bandwidth)> {
        let ledger = &self.links.get(&link)?.ledger;
        Some((ledger.free_out(), ledger.free_in()))
    }

    /// What the host may send or receive in all, and what is free of that; none without a budget.
    pub fn budget(&self, way: Way) -> Option<(Bandwidth, Bandwidth)> {
        let usable = Some(self.host.usable(way)).filter(|usable| *usable < Bandwidth::MAX)?;
        Some((usable, self.host.free(way)))
    }

    /// Sorted by id, then by attempt. A path is shown while this peer keeps bandwidth for it.
    pub fn views(&self) -> Vec<ChannelView> {
        let sources = self.sources.values().map(Source::view);
        let served = self.served.values().map(Served::view);
        let mut views: Vec<_> = sources.chain(served).collect();
        views.extend(self.relays.values().map(Relay::view));
        views.sort_by(|a, b| a.id.cmp(&b.id));
        views
    }

    /// The path on which this peer keeps bandwidth for a channel, or did last.
    pub fn path_of(&self, channel: &ChannelId) -> Option<Vec<PeerName>> {
        let source = self.sources.get(channel).map(Source::view);
        let served = || self.served.get(channel).map(Served::view);
        let relays = self.relays.range(TxId { channel: channel.clone(), attempt: 0 }..);
        let relay = || relays.take_while(|(tx, _)| tx.channel == *channel).last();
        let view = source.or_else(served).or_else(|| relay().map(|(_, relay)| relay.view()))?;
        Some(view.path)
    }

    /// The two ends of a channel that ends here or crosses, as it was let in.
    pub(in crate::proto) fn ends_of(&self, channel: &ChannelId) -> Option<Ends> {
        if let Some(source) = self.sources.get(channel) {
            let (to, to_key) = (source.peer.clone(), source.seal.key());
            return Some(Ends { asker: None, to, to_key });
        }
        if let Some(served) = self.served.get(channel) {
            return Some(Ends { asker: served.key, to: self.me.clone(), to_key: None });
        }
        relays_of(&self.relays, channel).next().map(Relay::ends)
    }

    /// The peer of that name has another key: what was let in with this one ends.
    pub fn disown(&mut self, now: Time, name: &PeerName, key: &PublicKey, out: &mut Vec<Action>) {
        let why = format!("the request was not signed by {name}, whose key is known by now");
        let is_its = |channel: &ChannelId, by: Option<PublicKey>| {
            channel.source == *name && by == Some(*key)
        };
        let relays = self.relays.values().filter(|relay| is_its(&relay.tx.channel, relay.asker));
        for tx in relays.map(|relay| relay.tx.clone()).collect::<Vec<_>>() {
            let relay = self.take_relay(&tx).expect("listed above");
            self.end_relay(now, &relay, ReleaseCause::Broken, out);
        }
        let served = self.served.values().filter(|served| is_its(served.id(), served.key));
        for id in served.map(|served| served.id().clone()).collect::<Vec<_>>() {
            let served = self.take_served(&id).expect("listed above");
            self.end_served(now, served, Some(Reject::NotAllowed), &why, out);
        }
    }

    /// A RESERVE that its source did not sign.
    pub fn refuse(&self, link: LinkId, tx: TxId, detail: String, out: &mut Vec<Action>) {
        if self.links.contains_key(&link) {
            self.send_nack(link, tx, Refusal::new(Reject::NotAllowed, detail), out);
        }
    }

    /// How many [`Channels::views`] has.
    pub fn channels(&self) -> usize {
        self.sources.len() + self.served.len() + self.relays.len()
    }

    /// The same, asked for here, served and relayed.
    pub fn roles(&self) -> [usize; 3] {
        [self.sources.len(), self.served.len(), self.relays.len()]
    }

    /// Channels with this name that end here.
    pub fn ends_named(&self, name: &str) -> Vec<ChannelId> {
        let sources = self.sources.values().map(|source| (&source.name, &source.id));
        let served = self.served.values().map(|served| (&served.name, served.id()));
        let named = sources.chain(served).filter(|(of, _)| of.as_str() == name);
        named.map(|(_, id)| id.clone()).collect()
    }

    /// The services as another peer may see them.
    pub fn services(&self) -> Vec<ServiceInfo> {
        let info = |service: &ServiceConfig| ServiceInfo {
            name: service.name.clone(),
            source: service.kind == ServiceKind::Source,
            busy: self.service_busy(service).is_some(),
        };
        self.services.iter().map(info).collect()
    }

    /// Panics if the machine has made a mistake: a promise nobody has, a leg without one, a label that
    /// stayed, a channel that is never woken.
    pub fn invariants(&self) {
        let mut legs = BTreeSet::new();
        let mut labels = BTreeSet::new();
        let mut note = |tx: &TxId, leg: &Leg| {
            assert!(legs.insert((leg.link, tx.clone())), "two legs of {tx} on one link");
            assert!(labels.insert(leg.label), "a22: a label given out twice");
        };
        for source in self.sources.values() {
            source.attempts().for_each(|attempt| note(&source.tx(attempt), &attempt.leg));
            assert!(self.wakes.contains(&wake(source.wake, Key::Source(source.id.clone()))));
        }
        let named = self.sources.values().map(|s| (s.name.clone(), s.id.clone()));
        assert_eq!(named.collect::<BTreeMap<_, _>>(), self.names);
        for served in self.served.values() {
            served.taken().for_each(|taken| note(&taken.tx, &taken.leg));
            assert!(self.wakes.contains(&wake(served.wake, Key::Served(served.id().clone()))));
        }
        for relay in self.relays.values() {
            note(&relay.tx, &relay.prev);
            note(&relay.tx, &relay.next);
            assert!(self.wakes.contains(&wake(relay.wake, Key::Relay(relay.tx.clone()))));
        }
        let promises: BTreeSet<_> = self
            .links
            .iter()
            .flat_map(|(link, n)| n.ledger.promises().map(|(tx, _)| (*link, tx.clone())))
            .collect();
        assert_eq!(legs, promises, "a promise for every leg, and no other");
        assert_eq!(labels, self.labels);
        let channels = self.sources.len() + self.served.len() + self.relays.len();
        assert_eq!(self.wakes.len(), channels);
        self.links.values().for_each(|neighbour| neighbour.ledger.invariants());
        self.host.invariants();
        let held = |n: &Neighbour| n.ledger.promises().count();
        assert_eq!(self.host.promises().count(), self.links.values().map(held).sum::<usize>());
        self.claims.invariants();
        self.policy_invariants();
    }

    // --- What the roles share ---

    fn accept(
        &mut self,
        now: Time,
        link: LinkId,
        accept: crate::wire::control::Accept,
        out: &mut Vec<Action>,
    ) -> Handled {
        if accept.tx.channel.source == self.me {
            self.source_accepted(now, link, &accept, out)
        } else {
            self.relay_accepted(now, link, &accept, out)
        }
    }

    fn nack(&mut self, now: Time, link: LinkId, nack: Nack, out: &mut Vec<Action>) -> Handled {
        if nack.tx.channel.source == self.me {
            self.source_refused(now, link, &nack, out)
        } else {
            self.relay_refused(now, link, nack, out)
        }
    }

    fn release(
        &mut self,
        now: Time,
        link: LinkId,
        release: Release,
        out: &mut Vec<Action>,
    ) -> Handled {
        if release.tx.channel.source == self.me {
            self.source_released(now, link, &release, out)
        } else if self.relays.contains_key(&release.tx) {
            self.relay_released(now, link, release, out)
        } else {
            self.served_released(now, link, &release, out)
        }
    }

    fn finished(
        &mut self,
        link: LinkId,
        tx: &TxId,
        (frames, proof): (u64, Option<Proof>),
        out: &mut Vec<Action>,
    ) -> Handled {
        if let Some(relay) = self.relays.get(tx) {
            let message = Message::Finish { tx: tx.clone(), frames, proof };
            return relay.pass(link, relay.prev, relay.next, message, out);
        }
        self.served_finished(link, tx, frames, out)
    }

    fn finish_known(&mut self, link: LinkId, tx: &TxId, out: &mut Vec<Action>) -> Handled {
        if let Some(relay) = self.relays.get(tx) {
            let message = Message::FinishAck { tx: tx.clone() };
            return relay.pass(link, relay.next, relay.prev, message, out);
        }
        self.source_finish_known(link, tx, out)
    }

    fn asked_to_move(
        &mut self,
        now: Time,
        link: LinkId,
        tx: TxId,
        at: PeerName,
        out: &mut Vec<Action>,
    ) -> Handled {
        if let Some(relay) = self.relays.get(&tx) {
            let message = Message::Move { tx, at };
            return relay.pass(link, relay.next, relay.prev, message, out);
        }
        self.source_move(now, link, &tx, at, out)
    }

    fn kind(&self, service: &ServiceName) -> Option<ServiceKind> {
        self.services.iter().find(|s| s.name == *service).map(|s| s.kind)
    }

    fn link_to(&self, peer: &PeerName) -> Option<LinkId> {
        self.links.iter().find(|(_, neighbour)| neighbour.peer == *peer).map(|(link, _)| *link)
    }

    fn neighbour(&mut self, link: LinkId) -> &mut Neighbour {
        self.links.get_mut(&link).expect("legs are on links that are up")
    }

    fn until(&self, leg: &Leg, tx: &TxId) -> Time {
        let promise = self.links.get(&leg.link).and_then(|n| n.ledger.promise(tx));
        promise.expect("every leg has a promise").until()
    }

    /// A new leg; its label belongs to `worker` and is in no other use.
    fn leg(&mut self, link: LinkId, worker: WorkerId) -> Leg {
        loop {
            let label = Label::new(worker, self.rng.next_u64());
            if self.labels.insert(label) {
                return Leg { link, label };
            }
        }
    }

    /// Gives back what `tx` had on one side.
    fn free_leg(&mut self, tx: &TxId, leg: Leg) {
        self.release_hold(leg.link, tx);
        assert!(self.labels.remove(&leg.label), "every leg has a label");
    }

    /// The UDP port of a worker here.
    fn port(&self, worker: WorkerId) -> u16 {
        self.data_port.saturating_add(u16::from(worker.0))
    }

    /// The worker of a relay: that of another attempt of the same channel if there is one.
    fn employ_relay(&mut self, tx: &TxId, rates: [Bandwidth; 2]) -> WorkerId {
        let other = relays_of(&self.relays, &tx.channel).next();
        let beside = other.map(|relay| self.balance.worker(&Key::Relay(relay.tx.clone())));
        self.balance.employ_beside(Key::Relay(tx.clone()), rates, beside)
    }

    /// The channel is gone; its worker may take over another one.
    fn dismiss(&mut self, key: &Key, out: &mut Vec<Action>) {
        self.balance.dismiss(key);
        match key {
            Key::Relay(tx) => self.policy.forget(tx),
            Key::Served(id) => self.policy.forget(&allowed::end_of(id)),
            Key::Source(_) => {}
        }
        let (relays, sources, served) = (&self.relays, &self.sources, &self.served);
        // Another attempt of the channel shares its counters: both stay with one worker.
        let alone = |tx: &TxId| relays_of(relays, &tx.channel).count() == 1;
        let movable = |key: &Key, worker: WorkerId| {
            let leg = match key {
                Key::Relay(tx) => {
                    relays.get(tx).filter(|relay| relay.accepted && alone(tx)).map(|r| &r.prev)
                }
                Key::Source(id) => sources.get(id).and_then(Source::settled_leg),
                Key::Served(id) => served.get(id).and_then(Served::settled_leg),
            };
            // A label is moved once: see the engine's `MoveChannel`.
            leg.is_some_and(|leg| leg.label.worker() == worker)
        };
        let Some(Step { key, from, to }) = self.balance.step(movable) else { return };
        let (channel, labels, end) = match key {
            Key::Relay(tx) => {
                let relay = &self.relays[&tx];
                (tx.channel.clone(), vec![relay.prev.label, relay.next.label], false)
            }
            Key::Source(id) => {
                let labels = self.sources[&id].attempts().map(|attempt| attempt.leg.label);
                (id.clone(), labels.collect(), true)
            }
            Key::Served(id) => {
                let labels = self.served[&id].taken().map(|taken| taken.leg.label);
                (id.clone(), labels.collect(), true)
            }
        };
        out.push(Action::MoveChannel { channel, labels, end, from, to });
    }

    fn between(&mut self, low: Duration, high: Duration) -> Duration {
        let span = u64::try_from((high - low).as_micros()).unwrap_or(u64::MAX);
        low + Duration::from_micros(self.rng.next_u64() % span.max(1))
    }

    fn send_release(
        &self,
        link: LinkId,
        tx: &TxId,
        cause: ReleaseCause,
        failed: Option<(PeerName, PeerName)>,
        out: &mut Vec<Action>,
    ) {
        let (tx, at) = (tx.clone(), self.me.clone());
        let release = Release { tx, cause, at, failed, why: None, proof: None };
        out.push(Action::Send { link, message: Message::Release(release) });
    }
}

/// The attempts of a channel that are relayed here, over all of them if need be.
fn relays_of<'a>(
    relays: &'a BTreeMap<TxId, Relay>,
    channel: &ChannelId,
) -> impl Iterator<Item = &'a Relay> {
    let first = TxId { channel: channel.clone(), attempt: 0 };
    relays
        .range(first..)
        .map(|(_, relay)| relay)
        .take_while(move |relay| relay.tx.channel == *channel)
}

fn wake(at: (Time, Timer), key: Key) -> (Time, Timer, Key) {
    (at.0, at.1, key)
}

fn rejected(id: RequestId, reason: Reject, detail: String) -> Action {
    Action::Answer { id, answer: Answer::Rejected(Rejection::new(reason, detail)) }
}
