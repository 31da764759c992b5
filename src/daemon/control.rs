//! The control loop: one task that owns the node, the engine and the links, and makes them meet.
//!
//! ```text
//!  connections ──┐                                    ┌─► connections (Send, CloseLink)
//!  local clients ┼─► one input at a time ─► Node ─► actions ─► engine (commands)
//!  engine events ┤      (feed)                        └─► local clients, log
//!  timers ───────┘
//! ```
//!
//! Actions are carried out in order. Once a batch has given the engine a command, what others will
//! see (messages, answers) waits until the workers have applied it: a message may tell a neighbour
//! that frames can come ([`Control::settle`]).
//!
//! Order of the loop, local work before new remote work: 1. stop and reload, 2. what the engine saw,
//! 3. timers, 4. local clients, 5. neighbours. Nothing here waits for a neighbour or a client.

#![expect(clippy::disallowed_methods, reason = "the control loop is where the time comes from")]

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;

use crate::api::dto::EventLine;
use crate::api::server::{Answers, Ask, Clients};
use crate::config::{Config, LinkIds};
use crate::daemon::actions::{Channels, Later};
use crate::daemon::asks::{Asking, Receiver};
use crate::daemon::connection::{Arrival, Connection};
use crate::daemon::counters::Counters;
use crate::daemon::idempotency::Idempotency;
use crate::daemon::identity::Identity;
use crate::daemon::inviting::Inviting;
use crate::daemon::kept::{Kept, Save};
use crate::daemon::lane::Lane;
use crate::daemon::latency::ChannelWatch;
use crate::daemon::neighbours::{Dial, Neighbours};
use crate::daemon::notify::Manager;
use crate::daemon::seal::Seals;
use crate::daemon::views;
use crate::engine::probes::ProbeCounts;
use crate::engine::{self, DataPlane, LinkSpec, Silence};
use crate::limits;
use crate::proto::node::Node;
use crate::proto::view::LinkState;
use crate::proto::{Input, NodeConfig, Request, ServiceKind, measure};
use crate::stats::histogram::{InsideHistogram, inside_histogram};
use crate::types::{LinkId, PeerName, RequestId, ServiceName, Time};

/// Inputs of neighbours that are handled before actions behind a route change are let go together.
const ARRIVALS_PER_TURN: usize = 64;
/// Requests of local clients, in the same way: each that opens a channel has a socket made.
const ASKS_PER_TURN: usize = 16;

/// What the control loop listens to.
pub(crate) struct Inbound {
    pub(crate) arrivals: mpsc::Receiver<Arrival>,
    pub(crate) asks: mpsc::UnboundedReceiver<Ask>,
    pub(crate) signals: Signals,
}

/// The signals of the process; made before anything that a person could want to stop.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

/// All state of the control lane.
pub(crate) struct Control {
    pub(super) node: Node,
    /// The engine, or what the program of this peer brought instead.
    pub(super) engine: Box<dyn DataPlane>,
    pub(super) config: Config,
    pub(super) facts: Facts,
    pub(super) links: BTreeMap<LinkId, Slot>,
    pub(super) channels: Channels,
    pub(super) seals: Seals,
    pub(super) asking: BTreeMap<RequestId, Asking>,
    pub(super) receivers: BTreeMap<ServiceName, Receiver>,
    /// Clients of `events`, by their number.
    pub(super) watchers: BTreeMap<u64, Answers>,
    /// Clients of `watch`, by their number.
    pub(super) watches: BTreeMap<u64, ChannelWatch>,
    /// When the entries of channels are looked at next, if there are any.
    pub(super) entry_look: Option<Time>,
    pub(super) counters: Counters,
    /// From the reading of a message until it was handled and what follows was sent.
    pub(super) inside: InsideHistogram,
    /// When the messages of this turn had been read.
    read: Vec<Instant>,
    /// What waits for the engine; empty while nothing does.
    pub(super) later: VecDeque<Later>,
    /// The engine was given commands it may not have applied yet.
    pub(super) unsettled: bool,
    pub(super) inputs: VecDeque<Input>,
    pub(super) stage: Stage,
    pub(super) neighbours: Rc<Neighbours>,
    pub(super) ids: LinkIds,
    /// Whoever started this process and wants to know how it fares.
    pub(super) manager: Manager,
    connections: u64,
    pub(super) requests: u64,
    pub(super) kept: Kept,
    pub(super) inviting: Inviting,
    pub(super) idempotency: Idempotency,
    pub(super) saves: UnboundedSender<Save>,
    closing: Vec<JoinHandle<()>>,
}

/// What never changes while the daemon runs.
pub(crate) struct Facts {
    pub(crate) origin: Instant,
    pub(crate) key: String,
    pub(crate) runtime: &'static str,
    pub(crate) lane: Lane,
    /// How many this process may have open.
    pub(crate) files: u64,
}

/// One link: its connection if there is one, and who dials.
pub(crate) struct Slot {
    pub(super) peer: PeerName,
    pub(super) connection: Option<Connection>,
    /// What the engine was told while the link is up, and since when.
    pub(super) spec: Option<(LinkSpec, Time)>,
    /// While the link is measured.
    pub(super) probes: Option<Arc<ProbeCounts>>,
    connected: watch::Sender<bool>,
    dialler: Option<(Dial, AbortHandle)>,
}

impl Slot {
    fn new(peer: PeerName) -> Self {
        let connected = watch::Sender::new(false);
        Self { peer, connection: None, spec: None, probes: None, connected, dialler: None }
    }

    /// The configured address.
    pub(super) fn dial_address(&self) -> Option<SocketAddr> {
        self.dialler.as_ref().map(|(dial, _)| dial.address)
    }
}

impl Slot {
    /// How long messages of this connection had to wait for their share.
    pub(super) fn paced(&self) -> Duration {
        let connection = self.connection.as_ref();
        connection.map_or(Duration::ZERO, |connection| connection.share.borrow().waited())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Running,
    /// Asked to leave; over when the node says so, or at this time.
    Leaving(Time),
    Ended(Result<(), String>),
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.hang_up.recv() => Told::Reload,
        }
    }
}

enum Told {
    Stop,
    Reload,
}

impl Control {
    pub(crate) fn new(
        config: Config,
        identity: &Identity,
        mut engine: Box<dyn DataPlane>,
        neighbours: Rc<Neighbours>,
        (kept, saves, inviting): (Kept, UnboundedSender<Save>, Inviting),
        facts: Facts,
    ) -> io::Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        let ids = LinkIds::default().after(&config).map_err(io::Error::other)?;
        let node_config = node_config(&config, &ids, engine.own_ends().is_some());
        let now = time_since(facts.origin);
        let mut node = Node::new(node_config, identity.signing_key().clone(), seed, now);
        node.set_epoch(unix_micros().saturating_sub(now.0));
        let mut control = Self {
            node,
            engine,
            config,
            facts,
            links: BTreeMap::new(),
            channels: Channels::default(),
            seals: Seals::new(identity.signing_key()),
            asking: BTreeMap::new(),
            receivers: BTreeMap::new(),
            watchers: BTreeMap::new(),
            watches: BTreeMap::new(),
            entry_look: None,
            counters: Counters::default(),
            inside: inside_histogram(),
            read: Vec::with_capacity(ARRIVALS_PER_TURN),
            later: VecDeque::new(),
            unsettled: false,
            inputs: VecDeque::new(),
            stage: Stage::Running,
            ids,
            neighbours,
            manager: Manager::of_environment(),
            connections: 0,
            requests: 0,
            kept,
            inviting,
            idempotency: Idempotency::default(),
            saves,
            closing: Vec::new(),
        };
        control.keep_links();
        Ok(control)
    }

    /// Until the daemon leaves or cannot go on.
    pub(crate) async fn run(
        mut self,
        mut inbound: Inbound,
        clients: &Clients,
    ) -> Result<(), String> {
        let event_fd = watch_readable(self.engine.event_fd())
            .map_err(|error| format!("cannot watch the engine: {error}"))?;
        self.manager.ready();
        loop {
            let wake = self.wake();
            tokio::select! {
                biased;
                told = inbound.signals.next() => self.told(&told),
                ready = event_fd.readable() => {
                    let mut ready = ready.map_err(|error| format!("the engine's events: {error}"))?;
                    ready.clear_ready();
                    self.engine_events();
                }
                () = until(self.facts.origin, wake) => self.timed_out(),
                Some(ask) = inbound.asks.recv() => {
                    self.asked(ask);
                    for _ in 1..ASKS_PER_TURN {
                        let Ok(ask) = inbound.asks.try_recv() else { break };
                        self.asked(ask);
                    }
                }
                Some(arrival) = inbound.arrivals.recv() => {
                    self.arrived(arrival);
                    for _ in 1..ARRIVALS_PER_TURN {
                        let Ok(arrival) = inbound.arrivals.try_recv() else { break };
                        self.arrived(arrival);
                    }
                }
            }
            self.settle(&event_fd).await;
            self.record_inside();
            self.tell_manager();
            if let Stage::Ended(result) = &self.stage {
                let result = result.clone();
                self.stop(clients).await;
                return result;
            }
        }
    }

    pub(super) fn now(&self) -> Time {
        time_since(self.facts.origin)
    }

    /// One input, and everything that follows from it here.
    pub(super) fn feed(&mut self, input: Input) {
        self.inputs.push_back(input);
        self.feed_waiting();
    }

    /// What carrying out actions led to: an end that was opened, a link that does not take more.
    fn feed_waiting(&mut self) {
        let mut actions = Vec::new();
        while let Some(input) = self.inputs.pop_front() {
            let now = self.now();
            self.node.handle(now, input, &mut actions);
            self.apply(&mut actions);
        }
    }

    pub(super) fn next_request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId(self.requests)
    }

    // --- 1. Stop and reload ---

    fn told(&mut self, told: &Told) {
        match (told, &self.stage) {
            (Told::Reload, _) => {
                self.manager.reloading();
                if let Err(why) = self.reload() {
                    tracing::error!(why, "reload refused; the old configuration stays");
                }
                self.manager.ready();
            }
            (Told::Stop, Stage::Running) => self.leave(None, limits::LEAVE_TIMEOUT),
            (Told::Stop, Stage::Leaving(_)) if !self.node.is_gone() => {
                tracing::warn!("told to stop again; leaving at once");
                self.leave(None, Duration::ZERO);
            }
            (Told::Stop, Stage::Leaving(_) | Stage::Ended(_)) => {
                tracing::warn!("told to stop again; stopping at once");
                self.stage = Stage::Ended(Ok(()));
            }
        }
    }

    /// Waits for the channels that cross this peer to move, closes those that end here and says Bye;
    /// `answers` is told when that is done. A second one with less time shortens the wait.
    pub(super) fn leave(&mut self, answers: Option<Answers>, timeout: Duration) {
        let relayed = self.node.channels().iter().filter(|view| view.side.is_none()).count();
        tracing::info!(relayed, ?timeout, "leaving");
        let until = self.now() + timeout + limits::LEAVE_MAX;
        // Leaving, and then as long again for the neighbours to read it.
        self.manager.stopping(timeout + 2 * limits::LEAVE_MAX);
        self.stage = match self.stage {
            Stage::Leaving(before) => Stage::Leaving(before.min(until)),
            Stage::Running | Stage::Ended(_) => Stage::Leaving(until),
        };
        let id = self.next_request();
        self.asking.insert(id, Asking::Leave(answers));
        self.feed(Input::Request { id, request: Request::Leave { timeout } });
    }

    /// Makes slots, diallers and the list of known neighbours those of the configuration.
    pub(super) fn keep_links(&mut self) {
        let (mut known, mut configured) = (BTreeMap::new(), BTreeMap::new());
        let trusted = self.config.trust.peers.iter().map(|trusted| trusted.key).collect();
        *self.neighbours.trusted.borrow_mut() = trusted;
        for link in &self.config.links {
            configured.extend(link.address.map(|address| (link.peer.clone(), address.ip())));
            let id = self.ids.of(link).expect("ids know every link of the configuration");
            known.insert(link.peer.clone(), (id, link.key));
            let slot = self.links.entry(id).or_insert_with(|| Slot::new(link.peer.clone()));
            if slot.peer != link.peer {
                // Only one made by trust: it has no dialler.
                *slot = Slot::new(link.peer.clone());
            }
            let dial = link.address.map(|address| Dial {
                link: id,
                peer: link.peer.clone(),
                key: link.key,
                address,
                patient: self.config.name > link.peer,
            });
            if slot.dialler.as_ref().map(|(dial, _)| dial) != dial.as_ref() {
                if let Some((_, task)) = slot.dialler.take() {
                    task.abort();
                }
                let connected = slot.connected.subscribe();
                slot.dialler = dial.map(|dial| {
                    let task = self.neighbours.dial(dial.clone(), connected);
                    (dial, task)
                });
            }
        }
        // One made by trust may have its id and another name.
        let is = |id: &LinkId, slot: &Slot| known.get(&slot.peer).is_some_and(|(of, _)| of == id);
        let gone = self.links.extract_if(.., |id, slot| !is(id, slot));
        for (_, slot) in gone {
            if let Some((_, task)) = slot.dialler {
                task.abort();
            }
        }
        self.neighbours.addresses.retain(|peer| known.contains_key(peer));
        self.neighbours.contacts.retain(|peer| known.contains_key(peer));
        *self.neighbours.reach.borrow_mut() = self.config.reach();
        *self.neighbours.known.borrow_mut() = known;
        self.neighbours.expect(configured);
    }

    /// Everything that was promised is sent within a bound; then the workers stop.
    async fn stop(&mut self, clients: &Clients) {
        self.watchers.clear();
        self.watches.clear();
        self.receivers.clear();
        for (_, asking) in std::mem::take(&mut self.asking) {
            asking.stopped();
        }
        for slot in self.links.values_mut() {
            if let Some((_, task)) = slot.dialler.take() {
                task.abort();
            }
            let connection = slot.connection.take();
            self.closing.extend(connection.map(|open| open.close(limits::CONNECTION_DRAIN_MAX)));
        }
        for task in self.closing.drain(..) {
            // Each is bounded by itself; a task that panicked has nothing left to send.
            let _ = task.await;
        }
        clients.finished(limits::CONNECTION_DRAIN_MAX).await;
        self.engine.stop();
        tracing::info!("stopped");
    }

    // --- 2. What the engine saw ---

    fn engine_events(&mut self) {
        let mut events = Vec::new();
        self.engine.poll_events(&mut events);
        for event in events {
            match event {
                engine::Event::LinkSilent { link, why } => self.link_silent(link, why),
                engine::Event::LinkMoved { link, address } => {
                    let Some(slot) = self.links.get_mut(&link) else { continue };
                    let Some((spec, _)) = slot.spec.as_mut() else { continue };
                    self.neighbours.learn(&slot.peer, address);
                    let before = std::mem::replace(&mut spec.address, address);
                    tracing::info!(link = link.0, %before, %address, "neighbour moved");
                    let spec = Arc::new(spec.clone());
                    self.engine.broadcast(&|| engine::Command::SetLink(Arc::clone(&spec)));
                }
                engine::Event::TrainSent { link, number, frames, took } => {
                    self.train_sent(link, measure::Sent { number, frames, took });
                }
                engine::Event::Failed(why) => self.stage = Stage::Ended(Err(why)),
            }
        }
    }

    fn link_silent(&mut self, link: LinkId, why: Silence) {
        let now = self.now();
        let Some((spec, since)) = self.links.get(&link).and_then(|slot| slot.spec.as_ref()) else {
            return;
        };
        // Said of the connection before: the one now was not up long enough to be silent.
        if now.since(*since) < spec.interval * spec.missed_max.saturating_sub(1) {
            return;
        }
        self.disconnect(
            link,
            match why {
                Silence::NotHeard => "no heartbeat was heard",
                Silence::NotHearing => "the neighbour hears no heartbeat of ours",
            },
        );
    }

    /// Closes the connection of a link and tells the node.
    pub(super) fn disconnect(&mut self, link: LinkId, why: &str) {
        if self.close_connection(link) {
            if let Some(slot) = self.links.get(&link) {
                self.neighbours.contacts.failed(&slot.peer, why);
            }
            self.feed(Input::Disconnected { link, why: why.to_owned() });
        }
    }

    /// Takes the connection out of its slot; what it still has to send goes out behind what waits for
    /// the engine.
    pub(super) fn close_connection(&mut self, link: LinkId) -> bool {
        let Some(slot) = self.links.get_mut(&link) else { return false };
        let Some(connection) = slot.connection.take() else { return false };
        connection.stop_reading();
        slot.connected.send_replace(false);
        self.later(Later::Close(connection));
        true
    }

    pub(super) fn closes(&mut self, connection: Connection) {
        self.closing.retain(|task| !task.is_finished());
        // Others must have read of every channel that ends before they miss our heartbeats.
        let bound = match self.stage {
            Stage::Leaving(_) | Stage::Ended(_) => limits::LEAVE_MAX,
            Stage::Running => limits::CONNECTION_DRAIN_MAX,
        };
        self.closing.push(connection.close(bound));
    }

    // --- 3. Timers ---

    fn wake(&self) -> Option<Time> {
        let node = self.node.poll_timeout().map(|(at, _)| at);
        let watch = self.watches.values().map(|watch| watch.until).min();
        let leaving = match self.stage {
            Stage::Leaving(until) => Some(until),
            Stage::Running | Stage::Ended(_) => None,
        };
        let kept = self.kept.next().filter(|_| self.stage == Stage::Running);
        let ours = [watch, leaving, self.entry_look, kept, self.manager.due()];
        ours.into_iter().chain([node]).flatten().min()
    }

    fn timed_out(&mut self) {
        let now = self.now();
        self.end_watches(now);
        self.look_at_entries(now);
        if self.stage == Stage::Running || matches!(self.stage, Stage::Leaving(at) if now < at) {
            let mut actions = Vec::new();
            self.node.handle_timeout(now, &mut actions);
            self.apply(&mut actions);
            self.feed_waiting();
        } else {
            tracing::warn!("leaving took too long; stopping");
            self.stage = Stage::Ended(Ok(()));
        }
        if self.stage == Stage::Running {
            self.ask_for_kept(now);
        }
    }

    // --- 5. Neighbours ---

    fn arrived(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Message { link, number, message, read, place }
                if self.is_current(link, number) =>
            {
                self.read.push(read);
                self.counters.received(&message);
                let begun = Instant::now();
                self.feed(Input::Message { link, message });
                self.charge(link, begun);
                drop(place);
            }
            Arrival::Ended { link, number, why } if self.is_current(link, number) => {
                self.disconnect(link, &why);
            }
            // Of a connection that was replaced or closed meanwhile.
            Arrival::Message { .. } | Arrival::Ended { .. } => {}
            Arrival::Asks { newcomer, answer } => self.newcomer(newcomer, answer),
            Arrival::Joined { link, stream, secured, remote } => {
                self.disconnect(link, "replaced by a newer connection");
                let Some(slot) = self.links.get_mut(&link) else { return };
                if matches!(self.stage, Stage::Leaving(_)) {
                    return;
                }
                self.connections += 1;
                let (number, arrivals) = (self.connections, &self.neighbours.arrivals);
                tracing::debug!(peer = %slot.peer, %remote, number, "connected");
                slot.connection =
                    Some(Connection::start(number, link, stream, remote, secured, arrivals));
                slot.connected.send_replace(true);
                let ipv6 = remote.ip().to_canonical().is_ipv6();
                self.feed(Input::Connected { link, ipv6 });
            }
        }
    }

    /// What came of a message of this link took from then until now.
    fn charge(&self, link: LinkId, begun: Instant) {
        let connection = self.links.get(&link).and_then(|slot| slot.connection.as_ref());
        if let Some(connection) = connection {
            let now = Instant::now();
            connection.share.borrow_mut().charge(now, now.saturating_duration_since(begun));
        }
    }

    fn is_current(&self, link: LinkId, number: u64) -> bool {
        let connection = self.links.get(&link).and_then(|slot| slot.connection.as_ref());
        connection.is_some_and(|connection| connection.number == number)
    }

    /// The messages of this turn are done with.
    fn record_inside(&mut self) {
        if self.read.is_empty() {
            return;
        }
        let now = Instant::now();
        for read in self.read.drain(..) {
            let nanos = now.saturating_duration_since(read).as_nanos();
            self.inside.record(u64::try_from(nanos).unwrap_or(u64::MAX), 1);
        }
    }

    // --- What waits for the engine ---

    /// Lets go what waits, once the workers have applied everything they were told.
    async fn settle(&mut self, event_fd: &AsyncFd<OwnedFd>) {
        while !self.later.is_empty() {
            if self.unsettled {
                let applied = applied(&mut *self.engine, event_fd);
                if timeout(limits::APPLY_MAX, applied).await.is_err() {
                    let bound = limits::APPLY_MAX;
                    tracing::error!(?bound, "a worker does not apply what it was told");
                }
                self.unsettled = false;
            }
            while let Some(later) = self.later.pop_front() {
                self.release(later);
            }
            // Waiting took the sign that there are events.
            self.engine_events();
            self.feed_waiting();
        }
        self.unsettled = self.unsettled && !self.engine.applied();
    }

    // --- Views ---

    /// Things a person should look at.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let states: BTreeMap<_, _> =
            self.node.links().into_iter().map(|view| (view.link, view.state)).collect();
        for (link, slot) in &self.links {
            if slot.dialler.is_none()
                && !self.is_by_trust(&slot.peer)
                && states.get(link) != Some(&LinkState::Up)
            {
                warnings.push(format!(
                    "link to {}: this peer has no address for it and {} has not connected; one end \
                     needs the other's address",
                    slot.peer, slot.peer
                ));
            }
        }
        warnings.extend(self.config.api.iter().flat_map(views::open_api));
        let workers = self.engine.workers().iter();
        warnings.extend(workers.filter_map(|w| views::clipped_buffer(w.port, w.receive_buffer)));
        warnings.extend(self.kept.missing());
        warnings
    }

    pub(super) fn event_line(&self, event: &crate::proto::Event) -> EventLine {
        views::event_line(unix_millis(), event)
    }

    /// Where frames to a neighbour go, in the family of the engine's sockets.
    pub(super) fn data_address(&self, remote: SocketAddr, port: u16) -> SocketAddr {
        let mut address = remote;
        address.set_port(port);
        match (self.config.listen, address) {
            (SocketAddr::V6(_), SocketAddr::V4(v4)) => {
                SocketAddr::new(v4.ip().to_ipv6_mapped().into(), port)
            }
            (SocketAddr::V4(_), SocketAddr::V6(_)) => {
                SocketAddr::new(address.ip().to_canonical(), port)
            }
            (SocketAddr::V4(_), SocketAddr::V4(_)) | (SocketAddr::V6(_), SocketAddr::V6(_)) => {
                address
            }
        }
    }
}

/// The host's clock, in microseconds since 1970.
fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn unix_millis() -> u64 {
    unix_micros() / 1_000
}

/// What the node is told. A program that has the ends of its channels itself takes any number of them at
/// every service, whatever address the configuration has for it.
pub(super) fn node_config(config: &Config, ids: &LinkIds, own_ends: bool) -> NodeConfig {
    let mut node = config.node_config_after(ids);
    if own_ends {
        node.services.iter_mut().for_each(|service| service.kind = ServiceKind::Deliver);
    }
    node
}

/// A descriptor of our own for the engine's eventfd, so that it lives as long as it is watched.
fn watch_readable(fd: BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
    let fd = fd.try_clone_to_owned()?;
    #[expect(
        deprecated,
        reason = "an OwnedFd keeps its descriptor, which is what the new form asks"
    )]
    AsyncFd::with_interest(fd, Interest::READABLE)
}

fn time_since(origin: Instant) -> Time {
    Time::default() + origin.elapsed()
}

async fn until(origin: Instant, at: Option<Time>) {
    match at {
        // A sleep is rounded up to the next millisecond, even one that is over.
        Some(at) if at <= time_since(origin) => {}
        Some(at) => tokio::time::sleep_until((origin + at.since(Time::default())).into()).await,
        None => std::future::pending().await,
    }
}

/// Waits until the workers have applied everything; each tells when it has applied something.
async fn applied(engine: &mut dyn DataPlane, event_fd: &AsyncFd<OwnedFd>) {
    while !engine.applied() {
        // Within microseconds as a rule. A timer goes by milliseconds: it is for what has been missed.
        let told = event_fd.readable();
        if let Ok(Ok(mut told)) = timeout(limits::APPLY_LOOK, told).await {
            told.clear_ready();
        }
    }
}
