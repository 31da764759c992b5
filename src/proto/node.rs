//! The root machine of a peer: owns the others, routes inputs to them, and is the only place where
//! they meet.
//!
//! Assumes its driver follows the contract of [`super`]: actions in their order, no input of a
//! connection after it was closed or replaced, time that never goes backwards. What people may see is
//! `views`'s.

mod believed;
mod views;

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use super::channel::{Channels, Terms};
use super::graph::{self, Graph};
use super::leaving::Leaving;
use super::link::{Greeting, Link, Misconduct, MyEnd};
use super::measure::{Facts, Measurements};
use super::overlay::Overlay;
use super::proof::Proofs;
use super::query::{Here, Queries};
use super::session::{Counters, LinkFacts, Sessions};
use super::survey::Surveys;
use super::view::LinkState;
use super::ways::Ways;
use super::{
    Action, Answer, Choice, Event, Input, LinkConfig, MeasureRequest, NodeConfig, Rejection,
    Request, Timer,
};
use crate::limits;
use crate::types::{
    Bandwidth, ChannelId, Incarnation, Label, LinkId, PeerName, Reject, RequestId, SessionId, Time,
    WorkerId,
};
use crate::wire::control::{Hello, LinkInfo, Message, RoutedBody, ServiceInfo};
use crate::wire::course::Course;
use crate::wire::heartbeat::HeartbeatKey;

/// What the queries may see while they are borrowed themselves.
macro_rules! myself {
    ($node:expr) => {
        Myself {
            config: &$node.config,
            links: &$node.links,
            sessions: &$node.sessions,
            channels: &$node.channels,
        }
    };
}

/// What the channels may know of the way to other peers.
macro_rules! ways {
    ($node:expr) => {
        Ways { sessions: &$node.sessions, links: &$node.links, graph: &$node.graph }
    };
}

/// One peer's control plane.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    rng: ChaCha20Rng,
    boot: u64,
    links: BTreeMap<LinkId, Link>,
    sessions: Sessions,
    queries: Queries,
    surveys: Surveys,
    channels: Channels,
    measurements: Measurements,
    leaving: Leaving,
    proofs: Proofs,
    /// The highest session that the channels were told of.
    told: Option<SessionId>,
    graph: Graph,
    /// The picture that the channels were told of.
    pictured: u64,
    last: Time,
}

impl Node {
    /// A peer that just started. `seed` must be unpredictable: labels and incarnations come from it.
    pub fn new(config: NodeConfig, identity: SigningKey, seed: [u8; 32], now: Time) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let name = config.name.clone();
        let boot = rng.next_u64();
        let mut node = Self {
            boot,
            sessions: Sessions::new(name.clone(), identity.clone(), fork(&mut rng), now),
            queries: Queries::new(fork(&mut rng)),
            surveys: Surveys::new(apart(&rng)),
            channels: Channels::new(
                name.clone(),
                boot,
                seed_of(&mut rng),
                config.workers,
                config.data_port,
                config.services.clone(),
            ),
            measurements: Measurements::new(fork(&mut rng)),
            proofs: Proofs::new(name.clone(), identity.clone()),
            graph: Graph::new(name, identity, fork(&mut rng), now, config.budgets),
            rng,
            links: BTreeMap::new(),
            leaving: Leaving::No,
            told: None,
            pictured: 0,
            last: now,
            config,
        };
        node.channels.set_recovery(node.config.recovery);
        node.channels.set_budgets(now, node.config.budgets, &mut Vec::new());
        node.channels.set_rules(now, &node.config.allow, |_| None, &mut Vec::new());
        for link in node.config.links.clone() {
            node.add_link(link);
        }
        node.configure_keys();
        node
    }

    /// Drawn when this peer started: part of the ids of its channels.
    pub fn boot(&self) -> u64 {
        self.boot
    }

    /// Handles one thing that happened.
    pub fn handle(&mut self, now: Time, input: Input, out: &mut Vec<Action>) {
        self.advance(now);
        match input {
            Input::Connected { link, ipv6 } => self.on_connected(now, link, ipv6, out),
            Input::Disconnected { link, why } => self.take_down(now, link, &why, out),
            Input::Message { link, message } => self.on_message(now, link, message, out),
            Input::Request { id, request } => self.on_request(now, id, request, out),
            Input::Configured(config) => self.on_configured(now, config, out),
            Input::EndOpened { channel, result } => {
                let ways = ways!(self);
                self.channels.end_opened(now, &channel, result, &ways, out);
            }
            Input::SealOffered { channel, result } => {
                let ways = ways!(self);
                self.channels.seal_offered(now, &channel, result, &ways, out);
            }
            Input::EndSealed { channel, result } => {
                self.channels.end_sealed(now, &channel, result, out);
            }
            Input::TrainSent { link, sent, rtt } => {
                self.measurements.train_sent(now, link, sent, rtt, out);
            }
            Input::TrainCounted { link, number, arrived, rtt } => {
                self.measurements.train_counted(now, link, number, arrived, rtt, out);
            }
            Input::HopRead { question, facts } => {
                self.surveys.read(&question, facts.map(|facts| *facts), &myself!(self), out);
            }
            Input::Receiving { service, on } => self.channels.receiving(now, &service, on, out),
        }
        self.settle(now, out);
    }

    /// When to call [`Node::handle_timeout`], and what for.
    pub fn poll_timeout(&self) -> Option<(Time, Timer)> {
        let talks = !self.is_gone() || self.links.values().any(|l| l.state() == LinkState::Up);
        let gossip = if talks { self.graph.poll_timeout() } else { None };
        self.work_timeout().into_iter().chain(gossip).min()
    }

    /// Nothing is going on here but gossip, which goes on for ever.
    pub fn at_rest(&self) -> bool {
        self.work_timeout().is_none()
    }

    fn work_timeout(&self) -> Option<(Time, Timer)> {
        let greeting = self.links.values().filter_map(Link::greeting_deadline).min();
        // Who leaves computes no tree of one.
        let sessions = if self.is_gone() { None } else { self.sessions.poll_timeout() };
        let leave = match &self.leaving {
            Leaving::Draining { until, again, .. } => Some(((*until).min(*again), Timer::Leave)),
            Leaving::No | Leaving::Gone => None,
        };
        [
            greeting.map(|at| (at, Timer::Greeting)),
            leave,
            sessions,
            self.queries.poll_timeout(),
            self.surveys.poll_timeout(),
            self.channels.poll_timeout(),
            self.measurements.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does everything that is due.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Vec<Action>) {
        self.advance(now);
        let late = |link: &&Link| link.greeting_deadline().is_some_and(|at| at <= now);
        let silent: Vec<LinkId> =
            self.links.values().filter(late).map(|link| link.config().link).collect();
        for link in silent {
            self.close(now, link, "the other end did not greet in time", out);
        }
        while !self.is_gone() {
            match self.sessions.handle_timeout(now, out) {
                Ok(late) if late.is_empty() => break,
                Ok(late) => {
                    for link in late {
                        self.close(now, link, "the other end did not answer START in time", out);
                    }
                }
                Err(misconduct) => self.punish(now, &misconduct, out),
            }
        }
        self.queries.handle_timeout(now, &myself!(self), out);
        self.surveys.handle_timeout(now, out);
        let ways = ways!(self);
        self.channels.handle_timeout(now, &ways, out);
        self.measurements.handle_timeout(now, out);
        if let Leaving::Draining { until, again, .. } = &mut self.leaving {
            if *until <= now {
                self.depart(now, out);
            } else if *again <= now {
                *again = now + limits::LEAVE_ASK_AGAIN;
                self.channels.drain(out);
            }
        }
        self.graph.handle_timeout(now);
        self.settle(now, out);
    }

    /// Panics if a machine broke its own rules.
    pub fn invariants(&self) {
        self.sessions.invariants();
        self.queries.invariants();
        self.channels.invariants();
        self.measurements.invariants();
        self.graph.invariants();
    }

    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// See [`Graph::check_with`].
    pub fn check_signatures_with(&mut self, check: graph::Check) {
        self.proofs.check_with(check);
        self.graph.check_with(check);
    }

    /// The host's clock at time zero, in microseconds since 1970.
    pub fn set_epoch(&mut self, micros: u64) {
        self.channels.set_epoch(micros);
    }

    /// The committed tree.
    pub fn overlay(&self) -> Option<&Overlay> {
        self.sessions.committed()
    }

    /// The highest session adopted here; its tree may not be committed yet.
    pub fn session(&self) -> Option<&SessionId> {
        self.sessions.highest()
    }

    pub fn counters(&self) -> Counters {
        self.sessions.counters()
    }

    /// A computation is under way whose tree is not committed here.
    pub fn computing(&self) -> bool {
        self.session() != self.overlay().map(Overlay::session)
    }

    /// No message waits inside this peer.
    pub fn nothing_held(&self) -> bool {
        self.sessions.nothing_held()
    }

    /// A new connection: the older one is down first, then both ends greet.
    fn on_connected(&mut self, now: Time, id: LinkId, ipv6: bool, out: &mut Vec<Action>) {
        if self.is_gone() || !self.links.contains_key(&id) {
            let why = if self.is_gone() { "this peer leaves" } else { "the link was removed" };
            out.push(Action::CloseLink { link: id, why: why.into() });
            return;
        }
        self.take_down(now, id, "a newer connection replaced it", out);
        let mut key = [0; 32];
        self.rng.fill_bytes(&mut key);
        let greeting = Greeting {
            incarnation: Incarnation(self.rng.next_u64()),
            heartbeat_label: Label::new(WorkerId(0), self.rng.next_u64()),
            heartbeat_key: HeartbeatKey(key),
            ipv6,
        };
        let mine = MyEnd {
            name: self.config.name.clone(),
            data_port: self.config.data_port,
            workers: self.config.workers,
            session: self.sessions.highest().cloned(),
        };
        let link = self.links.get_mut(&id).expect("checked above");
        let hello = link.connect(now, greeting, mine);
        out.push(Action::Send { link: id, message: Message::Hello(hello) });
    }

    fn on_message(&mut self, now: Time, id: LinkId, message: Message, out: &mut Vec<Action>) {
        let Some(link) = self.links.get(&id) else { return };
        let misconduct = |why| Misconduct { link: id, why };
        let result = match (link.state(), message) {
            // The last words of a connection that was given up here.
            (LinkState::Down, _) => Ok(()),
            (_, Message::Hello(hello)) => return self.on_hello(now, id, &hello, out),
            (_, Message::Bye(why)) => return self.close(now, id, &format!("it left: {why}"), out),
            (LinkState::Greeting, _) => Err(misconduct("a message before Hello")),
            (LinkState::Up, message) => self.on_neighbour(now, id, message, out),
        };
        if let Err(misconduct) = result {
            self.punish(now, &misconduct, out);
        }
    }

    /// A message of a neighbour that greeted.
    fn on_neighbour(
        &mut self,
        now: Time,
        id: LinkId,
        message: Message,
        out: &mut Vec<Action>,
    ) -> Result<(), Misconduct> {
        let link = self.links.get_mut(&id).expect("the link is up");
        match message {
            Message::Capacity(capacity) => {
                link.on_capacity(capacity)?;
                self.channels.capacity_changed(now, id, link.capacity(), out);
                Ok(())
            }
            Message::Start(start) => self.sessions.handle_start(now, id, start, out),
            Message::Ghs { .. }
            | Message::Done { .. }
            | Message::Members { .. }
            | Message::Commit { .. } => self.sessions.handle(now, id, message, out),
            Message::Routed(routed) => {
                let from = link.config().peer.clone();
                let here = myself!(self);
                let result = match routed.body {
                    RoutedBody::AskHop(_) | RoutedBody::Hop(_) => {
                        self.surveys.handle(&from, routed, &here, out)
                    }
                    RoutedBody::Unanswered(_) if self.surveys.waits_for(routed.id) => {
                        self.surveys.handle(&from, routed, &here, out)
                    }
                    RoutedBody::AskServices
                    | RoutedBody::Services(_)
                    | RoutedBody::AskLinks { .. }
                    | RoutedBody::Links { .. }
                    | RoutedBody::Unanswered(_) => {
                        self.queries.handle(now, &from, routed, &here, out)
                    }
                };
                result.map_err(|why| Misconduct { link: id, why })
            }
            Message::Reserve(_)
            | Message::Accept(_)
            | Message::Nack(_)
            | Message::Release(_)
            | Message::Refresh(_)
            | Message::Finish { .. }
            | Message::FinishAck { .. }
            | Message::Move { .. }
            | Message::Queue(_) => {
                self.on_channel(now, id, message, out);
                Ok(())
            }
            Message::Measure(measure) => {
                let facts = self.measure_facts(id).expect("the link is up");
                if facts.version < crate::wire::measure::VERSION {
                    return Err(Misconduct { link: id, why: "a message of a later version" });
                }
                self.measurements.message(now, id, measure, facts, out);
                Ok(())
            }
            Message::Gossip(gossip) => {
                let result = self.graph.message(now, id, gossip, out);
                result.map_err(|why| Misconduct { link: id, why })
            }
            Message::Hello(_) | Message::Bye(_) => unreachable!("handled by on_message"),
        }
    }

    fn on_hello(&mut self, now: Time, id: LinkId, hello: &Hello, out: &mut Vec<Action>) {
        let link = self.links.get_mut(&id).expect("the link is known");
        match link.on_hello(now, hello) {
            Err(why) => self.close(now, id, &why, out),
            Ok(greeted) => {
                let peer = link.config().peer.clone();
                let capacity = link.capacity();
                let up = link.established().expect("it just greeted");
                let terms = Terms {
                    peer: peer.clone(),
                    usable: capacity,
                    max_payload: up.max_payload,
                    version: up.version,
                };
                let end = graph::End {
                    peer: peer.clone(),
                    key: link.config().key,
                    version: up.version,
                    usable: capacity,
                    free_out: capacity,
                    max_payload: up.max_payload,
                };
                let facts = LinkFacts {
                    incarnation: greeted.incarnation,
                    capacity: link.capacity_ours(),
                    hop: greeted.hop,
                    session: greeted.session,
                };
                out.push(Action::LinkUp { link: id, data: greeted.data });
                out.push(Action::Event(Event::LinkUp { peer: peer.clone(), capacity }));
                self.graph.link_up(now, id, end);
                self.channels.link_up(now, id, terms, out);
                self.sessions.link_up(now, id, peer, facts);
            }
        }
    }

    fn on_request(&mut self, now: Time, id: RequestId, request: Request, out: &mut Vec<Action>) {
        let rejection = |reason, detail: &str| Answer::Rejected(Rejection::new(reason, detail));
        let answer = match request {
            Request::Leave { timeout } => return self.leave(now, id, now + timeout, out),
            _ if !matches!(self.leaving, Leaving::No) => {
                rejection(Reject::ShuttingDown, "this peer leaves")
            }
            Request::Recompute => Answer::Recomputing(self.sessions.recompute(now, out)),
            Request::Services { peer } => return self.ask_services(now, id, &peer, out),
            Request::Survey { channel } => return self.survey(now, id, &channel, out),
            Request::Measure(wanted) => return self.ask_measure(now, id, &wanted, out),
            Request::CollectLinks { course } => {
                return self.queries.collect(now, id, course, &myself!(self), out);
            }
            Request::Open(request) => match self.whole(&request.choice) {
                Ok(()) => return self.channels.open(now, id, request, &ways!(self), out),
                Err(why) => Answer::Rejected(why),
            },
            Request::WouldFit(request) => {
                let whole = self.whole(&request.choice);
                let fit = whole.and_then(|()| self.channels.would_fit(&request, &ways!(self)));
                fit.map_or_else(Answer::Rejected, |fit| Answer::Fit(Box::new(fit)))
            }
            Request::Withdraw { open } => return self.channels.withdraw(open, out),
            Request::Close { channel } => return self.channels.close(now, id, &channel, out),
            Request::Finish { channel, frames } => {
                return self.channels.finish(now, id, &channel, frames, out);
            }
        };
        out.push(Action::Answer { id, answer });
    }

    /// A path that somebody chose consists of live links.
    fn whole(&self, choice: &Choice) -> Result<(), Rejection> {
        let Choice::Given(path) = choice else { return Ok(()) };
        let Some((one, other)) = self.graph.broken_hop(path) else { return Ok(()) };
        let detail = format!("{one} and {other} have no live link");
        Err(Rejection::new(Reject::Unreachable, detail))
    }

    fn ask_measure(
        &mut self,
        now: Time,
        id: RequestId,
        wanted: &MeasureRequest,
        out: &mut Vec<Action>,
    ) {
        let peer = &wanted.peer;
        let mut links = self.links.values().map(Link::config);
        let (reason, detail) = match links.find(|link| link.peer == *peer).map(|link| link.link) {
            None => {
                let detail = format!("{peer} is no neighbour: only own links can be measured");
                (Reject::NoSuchPeer, detail)
            }
            Some(link) => match self.measure_facts(link) {
                Some(facts) => {
                    return self.measurements.ask(now, id, wanted, link, facts, out);
                }
                None => (Reject::Unreachable, format!("the link to {peer} is down")),
            },
        };
        let answer = Answer::Rejected(Rejection::new(reason, detail));
        out.push(Action::Answer { id, answer });
    }

    /// What measuring has to know of a link that is up.
    fn measure_facts(&self, id: LinkId) -> Option<Facts> {
        let link = self.links.get(&id)?;
        let up = link.established()?;
        let usable = link.capacity();
        let (free_out, free_in) = self.channels.free(id).unwrap_or((usable, usable));
        Some(Facts {
            peer: link.config().peer.clone(),
            version: up.version,
            configured: link.config().capacity,
            usable,
            packet_bytes: up.packet_bytes,
            header_bytes: up.header_bytes,
            reserved_out: usable.saturating_sub(free_out),
            reserved_back: usable.saturating_sub(free_in),
        })
    }

    fn ask_services(&mut self, now: Time, id: RequestId, peer: &PeerName, out: &mut Vec<Action>) {
        let answer = if *peer == self.config.name {
            Answer::Services(self.channels.services())
        } else if let Some(path) = self.sessions.committed().and_then(|tree| tree.path(peer)) {
            return self.queries.ask_services(now, id, path, &myself!(self), out);
        } else if self.links.values().any(|link| link.config().peer == *peer) {
            let detail = format!("{peer} is a neighbour, but no path leads there now");
            Answer::Rejected(Rejection::new(Reject::Unreachable, detail))
        } else {
            let detail = format!("no peer {peer} is in this component of the overlay");
            Answer::Rejected(Rejection::new(Reject::NoSuchPeer, detail))
        };
        out.push(Action::Answer { id, answer });
    }

    fn survey(&mut self, now: Time, id: RequestId, channel: &ChannelId, out: &mut Vec<Action>) {
        let path = self.channels.path_of(channel).unwrap_or_default();
        self.surveys.ask(now, id, channel, &path, &myself!(self), out);
    }

    /// Asks the channels that cross this peer to move, and departs when they have or at that time.
    fn leave(&mut self, now: Time, id: RequestId, until: Time, out: &mut Vec<Action>) {
        match &mut self.leaving {
            Leaving::No => {
                let again = now + limits::LEAVE_ASK_AGAIN;
                self.leaving = Leaving::Draining { until, again, asked: vec![id] };
                self.graph.set_leaving(now);
                self.channels.drain(out);
            }
            Leaving::Draining { until: before, asked, .. } => {
                *before = until.min(*before);
                asked.push(id);
            }
            Leaving::Gone => out.push(Action::Answer { id, answer: Answer::Left }),
        }
        if until <= now {
            self.depart(now, out);
        }
    }

    /// Closes what ends here and says Bye everywhere; this machine accepts no connection any more.
    fn depart(&mut self, now: Time, out: &mut Vec<Action>) {
        let Leaving::Draining { asked, .. } = std::mem::replace(&mut self.leaving, Leaving::Gone)
        else {
            return;
        };
        self.channels.leave(now, out);
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            self.dismiss(now, id, "this peer leaves", out);
        }
        out.extend(asked.into_iter().map(|id| Action::Answer { id, answer: Answer::Left }));
    }

    /// This peer has said Bye: nothing begins here any more.
    pub fn is_gone(&self) -> bool {
        matches!(self.leaving, Leaving::Gone)
    }

    /// A reload: links that are gone say Bye, changed ones say so, new ones wait for a connection.
    fn on_configured(&mut self, now: Time, config: NodeConfig, out: &mut Vec<Action>) {
        assert_eq!(config.name, self.config.name, "a reload keeps the name");
        self.config.budgets = config.budgets;
        self.graph.set_budgets(now, config.budgets);
        self.channels.set_budgets(now, config.budgets, out);
        let wanted: BTreeMap<LinkId, &LinkConfig> =
            config.links.iter().map(|link| (link.link, link)).collect();
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            let old = self.links[&id].config();
            let same = |new: &&&LinkConfig| new.peer == old.peer && new.key == old.key;
            match wanted.get(&id).filter(same) {
                None => {
                    self.dismiss(now, id, "the link was removed from the configuration", out);
                    self.links.remove(&id);
                }
                Some(new) => self.reconfigure(now, (*new).clone(), out),
            }
        }
        for link in config.links.clone() {
            self.add_link(link);
        }
        self.channels.services_changed(config.services.clone());
        self.channels.set_recovery(config.recovery);
        let graph = &self.graph;
        let key_of = |peer: &PeerName| graph.origin(peer).map(|origin| *origin.key());
        self.channels.set_rules(now, &config.allow, key_of, out);
        self.config = config;
        self.configure_keys();
    }

    /// The link stays; its capacity or mtu may differ.
    fn reconfigure(&mut self, now: Time, new: LinkConfig, out: &mut Vec<Action>) {
        let id = new.link;
        let link = self.links.get_mut(&id).expect("the link is known");
        let old = link.config();
        let changed = [("mtu", new.mtu != old.mtu), ("hop_tag", new.hop_tag != old.hop_tag)];
        if let Some((key, _)) = changed.iter().find(|(_, changed)| *changed) {
            // Agreed in Hello, so both ends must greet again.
            if link.state() != LinkState::Down {
                self.close(now, id, &format!("its {key} was changed"), out);
            }
            self.links.insert(id, Link::new(new, self.config.budgets.bound()));
            return;
        }
        let before = link.capacity_ours();
        link.set_capacity(new.capacity, self.config.budgets.bound());
        self.channels.capacity_changed(now, id, link.capacity(), out);
        let capacity = link.capacity_ours();
        if capacity == before {
            return;
        }
        match link.state() {
            LinkState::Down => {}
            // Our Hello said the old capacity; the neighbour may not have greeted yet.
            LinkState::Greeting => {
                out.push(Action::Send { link: id, message: Message::Capacity(capacity) });
            }
            LinkState::Up => {
                out.push(Action::Send { link: id, message: Message::Capacity(capacity) });
                self.sessions.capacity_changed(now, id, capacity);
            }
        }
    }

    fn add_link(&mut self, config: LinkConfig) {
        let budget = self.config.budgets.bound();
        self.links.entry(config.link).or_insert_with(|| Link::new(config, budget));
    }

    fn configure_keys(&mut self) {
        let key = |link: &Link| (link.config().peer.clone(), link.config().key);
        let keys: BTreeMap<_, _> = self.links.values().map(key).collect();
        self.graph.configure(keys.clone());
        self.sessions.configure(keys);
    }

    /// Bye, then closed.
    fn dismiss(&mut self, now: Time, id: LinkId, why: &str, out: &mut Vec<Action>) {
        if self.links[&id].state() != LinkState::Down {
            out.push(Action::Send { link: id, message: Message::Bye(why.to_owned()) });
            self.close(now, id, why, out);
        }
    }

    fn punish(&mut self, now: Time, misconduct: &Misconduct, out: &mut Vec<Action>) {
        self.close(now, misconduct.link, &misconduct.to_string(), out);
    }

    /// Closes the connection of a link from this end.
    fn close(&mut self, now: Time, id: LinkId, why: &str, out: &mut Vec<Action>) {
        out.push(Action::CloseLink { link: id, why: why.to_owned() });
        self.take_down(now, id, why, out);
    }

    /// The connection of a link is gone: everybody who relied on it learns so.
    fn take_down(&mut self, now: Time, id: LinkId, why: &str, out: &mut Vec<Action>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let before = link.disconnect();
        if before == LinkState::Down {
            return;
        }
        let peer = link.config().peer.clone();
        if before == LinkState::Up {
            out.push(Action::LinkDown { link: id });
            // First, so that what moves now does not move to this link again.
            self.graph.link_down(now, id);
            self.channels.link_down(now, id, out);
            self.measurements.link_down(id, out);
            self.sessions.link_down(now, id);
        }
        out.push(Action::Event(Event::LinkDown { peer, why: why.to_owned() }));
    }

    /// What one machine did that the others must know.
    fn settle(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.sessions.highest() != self.told.as_ref() {
            self.told = self.sessions.highest().cloned();
            self.channels.tear_down(now, out);
        }
        if self.sessions.take_fresh() {
            let ways = ways!(self);
            self.channels.tree_committed(now, &ways, out);
        }
        if matches!(self.leaving, Leaving::Draining { .. }) && self.channels.crossing() == 0 {
            self.depart(now, out);
        }
        if self.graph.version() != self.pictured {
            self.pictured = self.graph.version();
            self.channels.picture_changed(now);
            let known = |peer: &PeerName| self.graph.key_of(peer);
            for (name, key) in self.proofs.contradicted(now, known) {
                self.channels.disown(now, &name, &key, out);
            }
        }
        self.channels.tell_room(now, out);
        for link in self.links.values().filter(|link| link.state() == LinkState::Up) {
            let id = link.config().link;
            let free_out = self.channels.free(id).map_or(Bandwidth::ZERO, |(out, _)| out);
            self.graph.link_changed(now, id, link.capacity(), free_out);
        }
        self.graph.flush(now, out);
        self.proofs.sign(out);
    }

    fn advance(&mut self, now: Time) {
        assert!(now >= self.last, "time goes backwards");
        self.last = now;
    }
}

/// What the queries may know of this peer.
struct Myself<'a> {
    config: &'a NodeConfig,
    links: &'a BTreeMap<LinkId, Link>,
    sessions: &'a Sessions,
    channels: &'a Channels,
}

impl Here for Myself<'_> {
    fn name(&self) -> &PeerName {
        &self.config.name
    }

    fn link_to(&self, neighbour: &PeerName) -> Option<LinkId> {
        let up = |link: &&Link| link.state() == LinkState::Up && link.config().peer == *neighbour;
        self.links.values().find(up).map(|link| link.config().link)
    }

    fn services(&self) -> Vec<ServiceInfo> {
        self.channels.services()
    }

    fn links(&self) -> Vec<LinkInfo> {
        let tree = self.sessions.committed();
        let info = |link: &Link| {
            let up = link.established()?;
            let peer = link.config().peer.clone();
            let frozen: Option<Bandwidth> =
                self.sessions.frozen(link.config().link, up.incarnation);
            Some(LinkInfo {
                capacity: frozen.unwrap_or_else(|| link.capacity()),
                branch: tree.is_some_and(|tree| tree.is_branch(&peer)),
                peer,
            })
        };
        self.links.values().filter_map(info).collect()
    }

    fn course(&self) -> Option<Course> {
        self.sessions.course().map(|(course, _)| course)
    }

    fn speaks(&self, link: LinkId, version: u16) -> bool {
        let up = self.links.get(&link).and_then(Link::established);
        up.is_some_and(|up| up.version >= version)
    }

    fn is_on_path(&self, channel: &ChannelId, peer: &PeerName) -> bool {
        self.channels.path_of(channel).is_some_and(|path| path.contains(peer))
    }
}

/// One that takes no draw from `rng`: machines that came later must not change the runs of old seeds.
fn apart(rng: &ChaCha20Rng) -> ChaCha20Rng {
    let mut apart = rng.clone();
    apart.set_stream(1);
    apart
}

/// A generator of its own for a machine, so that machines do not disturb each other's draws.
fn fork(rng: &mut ChaCha20Rng) -> ChaCha20Rng {
    ChaCha20Rng::from_seed(seed_of(rng))
}

fn seed_of(rng: &mut ChaCha20Rng) -> [u8; 32] {
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    seed
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::proto::{Budgets, Recovery};
    use crate::types::{PublicKey, TxId};
    use crate::wire::control::{Ghs, Manner, Proof, Reserve};

    const T: Time = Time(0);
    const LINK: LinkId = LinkId(0);

    fn name(text: &str) -> PeerName {
        PeerName::new(text).unwrap()
    }

    fn config() -> NodeConfig {
        let link = LinkConfig {
            link: LINK,
            peer: name("b"),
            key: PublicKey([0; 32]),
            capacity: Bandwidth::from_bps(10_000_000),
            mtu: 1_500,
            hop_tag: false,
        };
        NodeConfig {
            name: name("a"),
            links: vec![link],
            services: Vec::new(),
            data_port: 7_000,
            workers: 1,
            recovery: Recovery::default(),
            budgets: Budgets::default(),
            allow: Vec::new(),
        }
    }

    fn node() -> Node {
        Node::new(config(), SigningKey::from_bytes(&[1; 32]), [2; 32], T)
    }

    fn hello() -> Message {
        // A neighbour that knows no facts, so that none are among the actions.
        Message::Hello(Hello {
            versions: (1, 2),
            name: name("b"),
            incarnation: Incarnation(1),
            capacity: Bandwidth::from_bps(5_000_000),
            mtu: 1_400,
            data_port: 7_100,
            workers: 1,
            heartbeat_label: Label(1),
            heartbeat_key: HeartbeatKey([3; 32]),
            session: None,
            hop_tag: false,
        })
    }

    fn does(node: &mut Node, input: Input) -> Vec<Action> {
        let mut out = Vec::new();
        node.handle(T, input, &mut out);
        node.invariants();
        out
    }

    fn hears(node: &mut Node, message: Message) -> Vec<Action> {
        does(node, Input::Message { link: LINK, message })
    }

    fn up() -> Node {
        let mut node = node();
        does(&mut node, Input::Connected { link: LINK, ipv6: false });
        hears(&mut node, hello());
        assert_eq!(node.links()[0].state, LinkState::Up);
        node
    }

    fn closed(out: &[Action], text: &str) -> bool {
        out.iter()
            .any(|action| matches!(action, Action::CloseLink { why, .. } if why.contains(text)))
    }

    #[test]
    fn a1_a_link_is_up_only_when_the_neighbour_greeted() {
        let mut node = node();
        let out = does(&mut node, Input::Connected { link: LINK, ipv6: false });
        assert!(matches!(out[..], [Action::Send { message: Message::Hello(_), .. }]));
        assert_eq!(node.links()[0].state, LinkState::Greeting);
        let out = hears(&mut node, hello());
        assert!(matches!(out[..], [Action::LinkUp { .. }, Action::Event(Event::LinkUp { .. })]));
        assert_eq!(node.links()[0].capacity.bps(), 5_000_000);
    }

    #[test]
    fn a_neighbour_that_does_not_greet_in_five_seconds_is_cut_off() {
        let mut node = node();
        does(&mut node, Input::Connected { link: LINK, ipv6: false });
        let mut out = Vec::new();
        node.handle_timeout(T + Duration::from_secs(5), &mut out);
        assert!(closed(&out, "did not greet"));
        assert_eq!(node.links()[0].state, LinkState::Down);
    }

    #[test]
    fn a_newer_connection_replaces_the_older_which_goes_down_first() {
        let mut node = up();
        let out = does(&mut node, Input::Connected { link: LINK, ipv6: false });
        assert!(matches!(
            out[..],
            [
                Action::LinkDown { .. },
                Action::Event(Event::LinkDown { .. }),
                Action::Send { message: Message::Hello(_), .. }
            ]
        ));
    }

    /// Rows 20 and 21 of the misuse table, and what comes before its time.
    #[test]
    fn a8_what_no_honest_neighbour_sends_closes_the_link_and_nothing_else() {
        let session = SessionId { counter: 9, initiator: name("b") };
        let cases = [
            (hello(), "second Hello"),
            (Message::Ghs { session: session.clone(), body: Ghs::Accept }, "without its START"),
            (Message::Done { session }, "without its START"),
        ];
        for (message, text) in cases {
            let mut node = up();
            assert!(closed(&hears(&mut node, message), text), "{text}");
            assert_eq!(node.links()[0].state, LinkState::Down);
        }
        let mut node = node();
        does(&mut node, Input::Connected { link: LINK, ipv6: false });
        assert!(closed(&hears(&mut node, Message::Capacity(Bandwidth::ZERO)), "before Hello"));
    }

    #[test]
    fn a2_after_leave_all_links_said_bye_and_no_connection_is_taken() {
        let mut node = up();
        let out = does(
            &mut node,
            Input::Request {
                id: RequestId(1),
                request: Request::Leave { timeout: Duration::ZERO },
            },
        );
        assert!(matches!(out[0], Action::Send { message: Message::Bye(_), .. }));
        assert_eq!(out.last(), Some(&Action::Answer { id: RequestId(1), answer: Answer::Left }));
        assert!(closed(&does(&mut node, Input::Connected { link: LINK, ipv6: false }), "leaves"));
        assert_eq!(node.poll_timeout(), None);
    }

    #[test]
    fn a3_a_reload_tells_the_neighbour_a_new_capacity_and_bye_to_a_removed_link() {
        let mut node = up();
        let mut changed = config();
        changed.links[0].capacity = Bandwidth::from_bps(4_000_000);
        let out = does(&mut node, Input::Configured(changed.clone()));
        let capacity = Bandwidth::from_bps(4_000_000).usable();
        assert_eq!(out, [Action::Send { link: LINK, message: Message::Capacity(capacity) }]);
        assert_eq!(node.links()[0].capacity, capacity);
        changed.links.clear();
        let out = does(&mut node, Input::Configured(changed));
        assert!(matches!(out[0], Action::Send { message: Message::Bye(_), .. }));
        assert!(closed(&out, "removed"));
        assert!(node.links().is_empty());
    }

    /// Rows 22 and 23: whoever is on the link, a channel is its source's.
    #[test]
    fn a_request_that_its_source_did_not_sign_is_refused_and_holds_nothing() {
        let reserve = Reserve {
            tx: TxId { channel: ChannelId { source: name("b"), boot: 1, count: 1 }, attempt: 1 },
            service: "video".parse().unwrap(),
            name: "video".parse().unwrap(),
            path: vec![name("b"), name("a")],
            position: 1,
            rate: Bandwidth::from_bps(1_000),
            rate_back: Bandwidth::from_bps(1_000),
            ticket: 1,
            deadline_ms: 1_000,
            max_payload: 1_000,
            back_label: Label(5),
            back_port: 7_100,
            manner: Manner::Replace,
            opened: false,
            seal: None,
            proof: None,
        };
        let key = PublicKey(SigningKey::from_bytes(&[9; 32]).verifying_key().to_bytes());
        let forged = Some(Proof { key, signature: [0; 64] });
        for (version, proof, words) in [
            (2, None, "b speaks control version 2 and cannot carry signed requests (6): update it"),
            (6, None, "from b: it is not signed by its asker"),
            (6, forged, "from b: its asker is known with another key"),
        ] {
            let mut node = node();
            does(&mut node, Input::Connected { link: LINK, ipv6: false });
            let Message::Hello(greeting) = hello() else { unreachable!() };
            hears(&mut node, Message::Hello(Hello { versions: (1, version), ..greeting }));
            let asked = Message::Reserve(Reserve { proof, ..reserve.clone() });
            let out = hears(&mut node, asked);
            let refused = out.iter().find_map(|action| {
                let Action::Send { message: Message::Nack(nack), .. } = action else { return None };
                Some(nack)
            });
            let refused = refused.expect("an answer");
            assert_eq!((refused.reason, &*refused.detail), (Reject::NotAllowed, words));
            let told = |action: &Action| matches!(action, Action::Event(Event::Unproven { .. }));
            assert!(out.iter().any(told), "{out:?}");
            assert_eq!(node.channels(), []);
            assert_eq!(node.links()[0].state, LinkState::Up, "the link stays");
        }
    }

    #[test]
    fn services_of_a_peer_nobody_knows_and_of_one_that_cannot_be_reached_are_told_apart() {
        let mut node = node();
        let mut reason = |peer| {
            let request = Request::Services { peer: name(peer) };
            match &does(&mut node, Input::Request { id: RequestId(1), request })[..] {
                [Action::Answer { answer: Answer::Rejected(rejection), .. }] => rejection.reason,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(reason("b"), Reject::Unreachable);
        assert_eq!(reason("nobody"), Reject::NoSuchPeer);
    }
}
