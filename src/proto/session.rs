//! Sessions: when a tree computation starts, who takes part, what ends it (2.7, A8).
//!
//! Owns the gate in front of [`super::ghs`] and the [`super::wave`] behind it, and the committed tree,
//! which stays in use until the next one is complete (A18). Told by [`super::node`] which links are
//! up; never opens or closes one, but says which to close.
//!
//! Why it converges: each end of a changed link starts a session above every one whose snapshot lacked
//! the change. An adoption takes a new snapshot, so it serves all events before it; an event after it
//! leaves a trigger behind that fires. So the highest session of a component was adopted by each of
//! its peers after that peer's last event. Nothing on the way may drop a START for good: one that must
//! wait is kept, one that is refused costs its link, and the new connection's Hello clears it.

mod course;
mod outline;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use self::course::Steps;
use super::ghs::Computation;
use super::link::Misconduct;
use super::overlay::Overlay;
use super::start::{Guard, Signed, Verdict};
use super::wave::{Progress, Wave};
use super::{Action, Event, Timer};
use crate::limits;
use crate::mutant::{self, Mutant};
use crate::types::{Bandwidth, EdgeKey, Incarnation, LinkId, PeerName, PublicKey, SessionId, Time};
use crate::wire::control::{Ghs, Message, Start};

/// What happened so far, for `status` and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub started: u64,
    pub adopted: u64,
    pub committed: u64,
    /// Messages of older sessions, dropped.
    pub stale: u64,
    /// STARTs refused: signature, key, counter.
    pub refused: u64,
    /// STARTs that had to wait because their initiator is too fast.
    pub coalesced: u64,
    /// Sessions that were not committed in time. Should stay 0.
    pub watchdog: u64,
    /// Trees that were complete and wrong. Should stay 0.
    pub alarms: u64,
}

/// A link that is up.
#[derive(Clone, Debug)]
struct Live {
    peer: PeerName,
    incarnation: Incarnation,
    /// This end's usable capacity.
    capacity: Bandwidth,
    /// Longest time that one hop was seen to take here.
    hop: Duration,
    /// Since when the neighbour owes an answer to a START; survives newer sessions, so that a silent
    /// neighbour cannot hide behind them.
    owes_since: Option<Time>,
}

/// A link in a session's snapshot.
#[derive(Clone, Debug, Hash)]
struct Edge {
    peer: PeerName,
    incarnation: Incarnation,
    /// What our START said.
    capacity: Bandwidth,
    /// Frozen when the neighbour's START came.
    key: Option<EdgeKey>,
    /// The link went down since: nothing is sent on it any more.
    dead: bool,
}

#[derive(Clone, Debug)]
enum Phase {
    /// STARTs are missing; messages that came before, at most one an edge.
    Gate(Vec<(LinkId, Ghs)>),
    Computing(Computation),
    Wave(Box<Wave>, Computation),
    Committed,
    /// The tree was wrong; the next session is on its way.
    Failed,
}

/// The session this peer is in.
#[derive(Clone, Debug)]
struct Run {
    signed: Signed,
    adopted: Time,
    watchdog: Time,
    edges: BTreeMap<LinkId, Edge>,
    phase: Phase,
    /// For people.
    steps: Steps,
}

/// When the next session of our own starts, and how quickly they may follow each other (rule 8).
#[derive(Clone, Debug, Default)]
struct Throttle {
    due: Option<(Time, String)>,
    doublings: u32,
    last: Option<Time>,
}

/// The session layer of one peer.
#[derive(Clone, Debug)]
pub struct Sessions {
    me: PeerName,
    identity: SigningKey,
    rng: ChaCha20Rng,
    guard: Guard,
    links: BTreeMap<LinkId, Live>,
    run: Option<Run>,
    committed: Option<Overlay>,
    /// Keys of the snapshot that the committed tree was computed from.
    frozen: BTreeMap<LinkId, (Incarnation, EdgeKey)>,
    fresh: bool,
    throttle: Throttle,
    /// STARTs that came too soon after their initiator's last one; the newest of each link.
    waiting: BTreeMap<LinkId, (Time, Start)>,
    /// Sessions in a row that ran into their watchdog's time.
    strikes: u32,
    counters: Counters,
}

impl Sessions {
    /// A peer that just started: its first session is on its way.
    pub fn new(me: PeerName, identity: SigningKey, rng: ChaCha20Rng, now: Time) -> Self {
        let mut sessions = Self {
            guard: Guard::new(me.clone(), now),
            me,
            identity,
            rng,
            links: BTreeMap::new(),
            run: None,
            committed: None,
            frozen: BTreeMap::new(),
            fresh: false,
            throttle: Throttle::default(),
            waiting: BTreeMap::new(),
            strikes: 0,
            counters: Counters::default(),
        };
        sessions.trigger(now, "this peer started");
        sessions
    }

    /// The keys of the configured neighbours.
    pub fn configure(&mut self, mut neighbours: BTreeMap<PeerName, PublicKey>) {
        let own = PublicKey(self.identity.verifying_key().to_bytes());
        neighbours.insert(self.me.clone(), own);
        self.guard.configure(neighbours);
    }

    /// The highest session adopted here.
    pub fn highest(&self) -> Option<&SessionId> {
        self.run.as_ref().map(|run| &run.signed.session)
    }

    /// The tree in use.
    pub fn committed(&self) -> Option<&Overlay> {
        self.committed.as_ref()
    }

    /// True once after each commit.
    pub fn take_fresh(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }

    /// No newer session is running or waiting.
    pub fn complete(&self) -> bool {
        let committed = |run: &Run| matches!(run.phase, Phase::Committed);
        self.run.as_ref().is_some_and(committed) && self.throttle.due.is_none()
    }

    /// The usable capacity that the committed tree's session froze for this connection of a link.
    pub fn frozen(&self, link: LinkId, incarnation: Incarnation) -> Option<Bandwidth> {
        let (of, key) = self.frozen.get(&link)?;
        (*of == incarnation).then_some(key.capacity)
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Most messages that the computation had to defer at the same time.
    pub fn deferred_max(&self) -> usize {
        self.computation().map_or(0, Computation::deferred_max)
    }

    /// No message is held back here: not by the gate, the algorithm or the limits.
    pub fn nothing_held(&self) -> bool {
        let gate = match self.run.as_ref().map(|run| &run.phase) {
            Some(Phase::Gate(held)) => held.is_empty(),
            _ => true,
        };
        gate && self.waiting.is_empty() && self.computation().is_none_or(|c| c.nothing_deferred())
    }

    pub fn link_up(&mut self, now: Time, link: LinkId, peer: PeerName, up: LinkFacts) {
        if let Some(session) = &up.session {
            self.guard.on_hello(session);
        }
        self.trigger(now, &format!("the link to {peer} came up"));
        let LinkFacts { incarnation, capacity, hop, session: _ } = up;
        let live = Live { peer, incarnation, capacity, hop, owes_since: None };
        self.links.insert(link, live);
    }

    pub fn link_down(&mut self, now: Time, link: LinkId) {
        let Some(live) = self.links.remove(&link) else { return };
        if !mutant::on(Mutant::WaitingOutlivesLink) {
            self.waiting.remove(&link);
        }
        if let Some(edge) = self.run.as_mut().and_then(|run| run.edges.get_mut(&link)) {
            edge.dead = true;
        }
        let wave = self.run.as_ref().is_some_and(|run| matches!(run.phase, Phase::Wave(..)));
        if mutant::on(Mutant::WaveIgnoresDeath) && wave {
            return;
        }
        self.trigger(now, &format!("the link to {} went down", live.peer));
    }

    /// This end's usable capacity changed.
    pub fn capacity_changed(&mut self, now: Time, link: LinkId, capacity: Bandwidth) {
        let Some(live) = self.links.get_mut(&link) else { return };
        live.capacity = capacity;
        let why = format!("the capacity of the link to {} changed", live.peer);
        let said = self.run.as_ref().and_then(|run| run.edges.get(&link)).map(|e| e.capacity);
        if said == Some(capacity) {
            return;
        }
        if said.is_some_and(|said| is_small(said, capacity)) {
            let due = now + limits::CAPACITY_CHANGE_WAIT;
            self.throttle.due.get_or_insert((due, why));
        } else {
            self.trigger(now, &why);
        }
    }

    /// An operator wants a computation now.
    pub fn recompute(&mut self, now: Time, out: &mut Vec<Action>) -> SessionId {
        self.start(now, "an operator asked for it".into(), out)
    }

    /// START from the neighbour on a link that is up.
    pub fn handle_start(
        &mut self,
        now: Time,
        link: LinkId,
        start: Start,
        out: &mut Vec<Action>,
    ) -> Result<(), Misconduct> {
        let order = Some(&start.session).cmp(&self.highest());
        if order != Ordering::Greater {
            return self.on_known_start(now, link, &start, order, out);
        }
        let highest = self.run.as_ref().map(|run| &run.signed.session);
        match self.guard.judge(now, &start, highest) {
            Verdict::Drop(why) => {
                self.counters.refused += 1;
                let peer = self.links[&link].peer.clone();
                out.push(Action::Event(Event::Ignored { peer, what: "START", why }));
                Ok(())
            }
            Verdict::Later(at) => {
                self.counters.coalesced += 1;
                let newest =
                    self.waiting.get(&link).is_none_or(|(_, old)| old.session < start.session);
                if newest {
                    self.waiting.insert(link, (at, start));
                }
                Ok(())
            }
            Verdict::Adopt => {
                self.adopt(now, Signed::from(&start), out);
                self.on_known_start(now, link, &start, Ordering::Equal, out)
            }
        }
    }

    /// Any other message of a session.
    pub fn handle(
        &mut self,
        now: Time,
        link: LinkId,
        message: Message,
        out: &mut Vec<Action>,
    ) -> Result<(), Misconduct> {
        let (Message::Ghs { session, .. }
        | Message::Done { session }
        | Message::Members { session, .. }
        | Message::Commit { session, .. }) = &message
        else {
            unreachable!("node.rs passes only messages of sessions")
        };
        match Some(session).cmp(&self.highest()) {
            Ordering::Less if !mutant::on(Mutant::StaleHandled) => {
                self.counters.stale += 1;
                return Ok(());
            }
            Ordering::Greater => {
                return Err(Misconduct { link, why: "a message of a session without its START" });
            }
            Ordering::Less | Ordering::Equal => {}
        }
        let run = self.run.as_mut().expect("a session is the highest");
        let incarnation = self.links.get(&link).map(|live| live.incarnation);
        let answered = |edge: &&Edge| edge.key.is_some() && Some(edge.incarnation) == incarnation;
        if run.edges.get(&link).filter(answered).is_none() {
            return Err(Misconduct { link, why: "a message on a link outside the session" });
        }
        self.on_message(now, link, message, out)
    }

    pub fn poll_timeout(&self) -> Option<(Time, Timer)> {
        self.timers().min()
    }

    /// All that it waits for.
    pub fn timers(&self) -> impl Iterator<Item = (Time, Timer)> {
        let waiting = self.waiting.values().map(|(at, _)| *at).min();
        let throttle = self.throttle.due.as_ref().map(|(at, _)| *at);
        [
            (self.answer_deadline(), Timer::StartAnswer),
            (waiting, Timer::Interval),
            (throttle, Timer::Throttle),
            (self.watchdog_deadline(), Timer::Watchdog),
        ]
        .into_iter()
        .filter_map(|(at, timer)| Some((at?, timer)))
    }

    /// Does what is due; returns the links whose neighbours owe an answer for too long.
    pub fn handle_timeout(
        &mut self,
        now: Time,
        out: &mut Vec<Action>,
    ) -> Result<Vec<LinkId>, Misconduct> {
        let late = self.late(now);
        if !late.is_empty() {
            return Ok(late);
        }
        self.admit_waiting(now, out)?;
        if self.watchdog_deadline().is_some_and(|at| at <= now) {
            self.counters.watchdog += 1;
            let why = format!("the session was not committed in time ({})", self.describe());
            self.start(now, why, out);
        }
        if self.throttle.due.as_ref().is_some_and(|(at, _)| *at <= now) {
            self.start_due(now, out);
        }
        Ok(Vec::new())
    }

    /// STARTs that waited for long enough are judged again.
    pub fn admit_waiting(&mut self, now: Time, out: &mut Vec<Action>) -> Result<(), Misconduct> {
        let due: Vec<LinkId> =
            self.waiting.iter().filter(|(_, (at, _))| *at <= now).map(|(link, _)| *link).collect();
        for link in due {
            if let Some((_, start)) = self.waiting.remove(&link) {
                self.handle_start(now, link, start, out)?;
            }
        }
        Ok(())
    }

    /// Starts the session that the throttle holds back, if any, whether or not its time has come.
    pub fn start_due(&mut self, now: Time, out: &mut Vec<Action>) {
        if let Some((_, why)) = self.throttle.due.take() {
            self.start(now, why, out);
        }
    }

    /// Panics if this machine broke its own rules.
    pub fn invariants(&self) {
        if let Some(computation) = self.computation() {
            computation.invariants();
        }
        if let Some(run) = &self.run {
            let open = run.edges.values().any(|edge| edge.key.is_none());
            assert_eq!(open, matches!(run.phase, Phase::Gate(_)) && !run.edges.is_empty());
            for (link, edge) in &run.edges {
                let live = self.links.get(link).is_some_and(|l| l.incarnation == edge.incarnation);
                assert_eq!(edge.dead, !live, "an edge lives as long as its connection");
            }
        }
        let covered = |(link, live): (&LinkId, &Live)| {
            self.throttle.due.is_some()
                || self.run.as_ref().and_then(|run| run.edges.get(link)).is_some_and(|edge| {
                    edge.incarnation == live.incarnation && edge.capacity == live.capacity
                })
        };
        assert!(self.links.iter().all(covered), "an event without a session to come");
    }

    /// A session must start: after the throttle, unless one that is adopted earlier serves as well.
    fn trigger(&mut self, now: Time, why: &str) {
        let recent = |last: Time| now.since(last) < limits::THROTTLE_WINDOW;
        if !self.throttle.last.is_some_and(recent) {
            self.throttle.doublings = 0;
        }
        if self.throttle.due.as_ref().is_some_and(|(due, _)| *due <= now + limits::THROTTLE_MAX) {
            return;
        }
        let (least, most) = limits::THROTTLE_FIRST;
        let span = u64::try_from((most - least).as_micros()).expect("milliseconds");
        let wait = least + Duration::from_micros(self.rng.next_u64() % (span + 1));
        let wait = (wait * (1 << self.throttle.doublings.min(16))).min(limits::THROTTLE_MAX);
        self.throttle.due = Some((now + wait, why.to_owned()));
    }

    /// The neighbour waits for a START that only our next session can bring: it must come before
    /// the neighbour gives the link up, however long the throttle is.
    fn hasten(&mut self, now: Time) {
        let latest = now + limits::START_ANSWER_MAX / 2;
        self.trigger(now, "a neighbour waits for a session");
        if let Some((at, _)) = &mut self.throttle.due {
            *at = (*at).min(latest);
        }
    }

    /// Starts a session above the one this peer is in.
    fn start(&mut self, now: Time, why: String, out: &mut Vec<Action>) -> SessionId {
        let counter = self.highest().map_or(0, |session| session.counter).saturating_add(1);
        let session = SessionId { counter, initiator: self.me.clone() };
        self.counters.started += 1;
        self.throttle.doublings += 1;
        self.throttle.last = Some(now);
        out.push(Action::Event(Event::SessionStarted { session: session.clone(), why }));
        self.adopt(now, Signed::sign(session.clone(), &self.identity), out);
        session
    }

    /// 2.7 `adopt(S')`: forgets the old computation, takes a snapshot, says START on each link.
    fn adopt(&mut self, now: Time, signed: Signed, out: &mut Vec<Action>) {
        assert!(Some(&signed.session) > self.highest(), "sessions only grow");
        self.guard.on_adopted(now, &signed, self.run.as_ref().map(|run| &run.signed.session));
        self.note_strike(now);
        self.counters.adopted += 1;
        self.throttle.due = None;
        let session = signed.session.clone();
        out.push(Action::Event(Event::SessionAdopted { session }));
        let mut edges = BTreeMap::new();
        for (&link, live) in &mut self.links {
            out.push(Action::Send { link, message: Message::Start(signed.start(live.capacity)) });
            live.owes_since.get_or_insert(now);
            let Live { peer, incarnation, capacity, .. } = live.clone();
            let key = mutant::on(Mutant::NoGate)
                .then(|| EdgeKey::new(capacity, self.me.clone(), peer.clone()));
            edges.insert(link, Edge { peer, incarnation, capacity, key, dead: false });
        }
        let watchdog = now + self.watchdog_time();
        let (phase, steps) = (Phase::Gate(Vec::new()), Steps::default());
        self.run = Some(Run { signed, adopted: now, watchdog, edges, phase, steps });
        if self.links.is_empty() || mutant::on(Mutant::NoGate) {
            self.pass_gate(now, out).expect("nothing was held");
        }
        self.settle_waiting(now, out);
    }

    /// STARTs that waited and that the session just adopted overtakes or equals: their neighbours
    /// may send what follows them at once.
    fn settle_waiting(&mut self, now: Time, out: &mut Vec<Action>) {
        let highest = self.highest().cloned();
        let reached =
            |(_, (_, start)): &(&LinkId, &(Time, Start))| Some(&start.session) <= highest.as_ref();
        let reached: Vec<LinkId> =
            self.waiting.iter().filter(reached).map(|(link, _)| *link).collect();
        for link in reached {
            let (_, start) = self.waiting.remove(&link).expect("found just now");
            let order = Some(&start.session).cmp(&highest.as_ref());
            self.on_known_start(now, link, &start, order, out)
                .expect("the first START of a session on its link");
        }
    }

    /// START of the session this peer is in, or of an older one.
    fn on_known_start(
        &mut self,
        now: Time,
        link: LinkId,
        start: &Start,
        order: Ordering,
        out: &mut Vec<Action>,
    ) -> Result<(), Misconduct> {
        let live = self.links.get_mut(&link).expect("node.rs passes messages of live links only");
        let run = self.run.as_mut().expect("a session is the highest");
        let edge = run.edges.get_mut(&link).filter(|edge| edge.incarnation == live.incarnation);
        let Some(edge) = edge else {
            self.hasten(now);
            return Ok(());
        };
        if order == Ordering::Less {
            // It lives and will see our START: its time starts anew.
            live.owes_since = live.owes_since.map(|_| now);
            return Ok(());
        }
        if edge.key.is_some() && mutant::on(Mutant::NoGate) {
            live.owes_since = None;
            return Ok(());
        }
        if edge.key.is_some() {
            return Err(Misconduct { link, why: "a second START of one session" });
        }
        live.owes_since = None;
        live.hop = live.hop.max(now.since(run.adopted));
        let mut capacity = edge.capacity.min(start.capacity);
        if mutant::on(Mutant::EndsDisagree) && self.rng.next_u64().is_multiple_of(20) {
            capacity = Bandwidth::from_bps(capacity.bps() + 1);
        }
        edge.key = Some(EdgeKey::new(capacity, self.me.clone(), edge.peer.clone()));
        if run.edges.values().all(|edge| edge.key.is_some()) {
            self.pass_gate(now, out)?;
        }
        Ok(())
    }

    /// The gate is open: wake the algorithm, then hand it what came early, in order.
    fn pass_gate(&mut self, now: Time, out: &mut Vec<Action>) -> Result<(), Misconduct> {
        let run = self.run.as_mut().expect("a session is running");
        let key = |edge: &Edge| edge.key.clone().expect("all STARTs came");
        let edges: Vec<_> = run.edges.iter().map(|(link, edge)| (*link, key(edge))).collect();
        let mut computation = Computation::new(self.me.clone(), edges);
        let mut sent = Vec::new();
        computation.wake(&mut sent);
        run.steps.woke(now.since(run.adopted));
        run.steps.look(now.since(run.adopted), &self.me, &computation, &sent);
        let phase = std::mem::replace(&mut run.phase, Phase::Computing(computation));
        let Phase::Gate(held) = phase else { unreachable!("only a gate is passed") };
        run.send_ghs(sent, out);
        for (link, body) in held {
            self.on_ghs(now, link, body, out)?;
        }
        self.check_halt(now, out);
        Ok(())
    }

    fn on_message(
        &mut self,
        now: Time,
        link: LinkId,
        message: Message,
        out: &mut Vec<Action>,
    ) -> Result<(), Misconduct> {
        if let Message::Ghs { body, .. } = message {
            self.on_ghs(now, link, body, out)?;
            self.check_halt(now, out);
            Ok(())
        } else if let Message::Members { edges, last, .. } = message {
            self.on_wave(now, link, out, |wave, me, sent| {
                wave.on_members(me, link, &edges, last, sent)
            })
        } else if let Message::Commit { peers, edges, last, .. } = message {
            self.on_wave(now, link, out, |wave, me, sent| {
                wave.on_commit(me, link, peers, &edges, last, sent)
            })
        } else {
            self.on_done(now, link, out)
        }
    }

    fn on_ghs(
        &mut self,
        now: Time,
        link: LinkId,
        body: Ghs,
        out: &mut Vec<Action>,
    ) -> Result<(), Misconduct> {
        let run = self.run.as_mut().expect("a session is running");
        match &mut run.phase {
            Phase::Gate(held) => {
                if held.iter().any(|(other, _)| *other == link) {
                    return Err(Misconduct { link, why: "a second message before our START" });
                }
                held.push((link, body));
                Ok(())
            }
            Phase::Computing(computation) => {
                let mut sent = Vec::new();
                computation.handle(link, body, &mut sent)?;
                run.steps.look(now.since(run.adopted), &self.me, computation, &sent);
                run.send_ghs(sent, out);
                Ok(())
            }
            Phase::Wave(..) | Phase::Committed | Phase::Failed => {
                Err(Misconduct { link, why: "a GHS message after DONE" })
            }
        }
    }

    /// HALT at the leader begins the wave; the other core peer waits for DONE like everybody.
    fn check_halt(&mut self, now: Time, out: &mut Vec<Action>) {
        let run = self.run.as_mut().expect("a session is running");
        if let Phase::Computing(computation) = &run.phase
            && computation.leads()
        {
            self.begin_wave(now, None, out);
        }
    }

    fn on_done(
        &mut self,
        now: Time,
        link: LinkId,
        out: &mut Vec<Action>,
    ) -> Result<(), Misconduct> {
        let run = self.run.as_mut().expect("a session is running");
        let Phase::Computing(computation) = &mut run.phase else {
            return Err(Misconduct { link, why: "DONE before its time, or twice" });
        };
        computation.finish(link)?;
        self.begin_wave(now, Some(link), out);
        Ok(())
    }

    fn begin_wave(&mut self, now: Time, parent: Option<LinkId>, out: &mut Vec<Action>) {
        let run = self.run.as_mut().expect("a session is running");
        let Phase::Computing(computation) = std::mem::replace(&mut run.phase, Phase::Failed) else {
            unreachable!("a wave follows a computation")
        };
        let branches: Vec<_> =
            computation.branches().map(|(link, key)| (link, key.clone())).collect();
        let mut sent = Vec::new();
        run.steps.done(now.since(run.adopted));
        let session = run.signed.session.clone();
        let (wave, progress) = Wave::begin(session, &self.me, parent, branches, &mut sent);
        run.phase = Phase::Wave(Box::new(wave), computation);
        run.send(sent, out);
        self.on_progress(now, progress, out);
    }

    fn on_wave(
        &mut self,
        now: Time,
        link: LinkId,
        out: &mut Vec<Action>,
        step: impl FnOnce(
            &mut Wave,
            &PeerName,
            &mut Vec<(LinkId, Message)>,
        ) -> Result<Progress, &'static str>,
    ) -> Result<(), Misconduct> {
        let run = self.run.as_mut().expect("a session is running");
        let Phase::Wave(wave, _) = &mut run.phase else {
            return Err(Misconduct { link, why: "MEMBERS or COMMIT outside the wave" });
        };
        let mut sent = Vec::new();
        let progress = step(wave, &self.me, &mut sent).map_err(|why| Misconduct { link, why })?;
        run.send(sent, out);
        self.on_progress(now, progress, out);
        Ok(())
    }

    fn on_progress(&mut self, now: Time, progress: Progress, out: &mut Vec<Action>) {
        let run = self.run.as_mut().expect("a session is running");
        match progress {
            Progress::Waiting => {}
            Progress::Wrong(why) => {
                self.counters.alarms += 1;
                run.phase = Phase::Failed;
                let peer = run.signed.session.initiator.clone();
                out.push(Action::Event(Event::Ignored { peer, what: "a complete tree", why }));
                self.trigger(now, why);
            }
            Progress::Committed(overlay) => {
                run.phase = Phase::Committed;
                self.frozen = run
                    .edges
                    .iter()
                    .filter_map(|(link, edge)| Some((*link, (edge.incarnation, edge.key.clone()?))))
                    .collect();
                out.push(Action::Event(Event::TreeCommitted {
                    session: overlay.session().clone(),
                    peers: overlay.peers(),
                    edges: overlay.edges().to_vec(),
                }));
                self.committed = Some(*overlay);
                self.counters.committed += 1;
                self.fresh = true;
                self.strikes = 0;
            }
        }
    }

    /// When the neighbour that owes an answer for the longest time is given up.
    fn answer_deadline(&self) -> Option<Time> {
        let since = self.links.values().filter_map(|live| live.owes_since).min()?;
        Some(since + limits::START_ANSWER_MAX)
    }

    fn late(&self, now: Time) -> Vec<LinkId> {
        let late = |live: &Live| {
            live.owes_since.is_some_and(|since| since + limits::START_ANSWER_MAX <= now)
        };
        self.links.iter().filter(|(_, live)| late(live)).map(|(link, _)| *link).collect()
    }

    /// Rule 9. While a session of our own is to come anyway, nobody watches this one.
    fn watchdog_deadline(&self) -> Option<Time> {
        let run = self.run.as_ref()?;
        let over = matches!(run.phase, Phase::Committed) || mutant::on(Mutant::WatchdogUnarmed);
        (!over && self.throttle.due.is_none()).then_some(run.watchdog)
    }

    /// max(2 s, 50 hops x log2 of the most peers a tree may have), doubled for each session in a row
    /// that ran into it: a long chain of peers must get its tree, however slow.
    fn watchdog_time(&self) -> Duration {
        let hop = self.links.values().map(|live| live.hop).max().unwrap_or_default();
        let hops = 50 * (limits::PEERS_MAX.ilog2() + 1);
        (hop * hops).max(limits::WATCHDOG_MIN) * (1 << self.strikes)
    }

    /// A session is given up for a newer one: was it stuck, or only overtaken?
    fn note_strike(&mut self, now: Time) {
        let Some(run) = &self.run else { return };
        let half = run.watchdog.since(run.adopted) / 2;
        if !matches!(run.phase, Phase::Committed) && now.since(run.adopted) >= half {
            self.strikes = (self.strikes + 1).min(limits::WATCHDOG_DOUBLINGS_MAX);
        }
    }

    fn computation(&self) -> Option<&Computation> {
        match &self.run.as_ref()?.phase {
            Phase::Computing(computation) | Phase::Wave(_, computation) => Some(computation),
            Phase::Gate(_) | Phase::Committed | Phase::Failed => None,
        }
    }

    /// The state of the session in words, for the log.
    fn describe(&self) -> String {
        let Some(run) = &self.run else { return "none".into() };
        match &run.phase {
            Phase::Gate(_) => {
                let missing = run.edges.values().filter(|edge| edge.key.is_none());
                let missing: Vec<_> = missing.map(|edge| edge.peer.as_str()).collect();
                format!("START missing from {}", missing.join(", "))
            }
            Phase::Computing(computation) => computation.describe(),
            Phase::Wave(wave, _) => wave.describe(),
            Phase::Committed => "committed".into(),
            Phase::Failed => "failed".into(),
        }
    }
}

/// What a greeting told about a link.
#[derive(Clone, Debug)]
pub struct LinkFacts {
    pub incarnation: Incarnation,
    /// This end's usable capacity.
    pub capacity: Bandwidth,
    /// About the time of one hop.
    pub hop: Duration,
    /// The neighbour's highest session.
    pub session: Option<SessionId>,
}

impl Run {
    /// Messages leave only on the connections that the session was started on (rule 2).
    fn send(&self, messages: Vec<(LinkId, Message)>, out: &mut Vec<Action>) {
        for (link, message) in messages {
            if !self.edges[&link].dead || mutant::on(Mutant::NewerIncarnation) {
                out.push(Action::Send { link, message });
            }
        }
    }

    fn send_ghs(&self, messages: Vec<(LinkId, Ghs)>, out: &mut Vec<Action>) {
        let session = &self.signed.session;
        let wrap = |(link, body)| (link, Message::Ghs { session: session.clone(), body });
        self.send(messages.into_iter().map(wrap).collect(), out);
    }
}

/// A change of capacity that can wait.
fn is_small(before: Bandwidth, now: Bandwidth) -> bool {
    let percent = u128::from(limits::CAPACITY_CHANGE_PERCENT);
    u128::from(before.bps().abs_diff(now.bps())) * 100 < u128::from(before.bps()) * percent
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng;

    use super::*;

    const ONE: LinkId = LinkId(1);
    const OTHER: LinkId = LinkId(2);

    fn name(text: &str) -> PeerName {
        PeerName::new(text).unwrap()
    }

    fn start(counter: u64) -> Start {
        let session = SessionId { counter, initiator: name("far") };
        let capacity = Bandwidth::from_bps(5);
        Signed::sign(session, &SigningKey::from_bytes(&[1; 32])).start(capacity)
    }

    /// A peer "a" with links to "b" and "c".
    fn sessions() -> Sessions {
        let identity = SigningKey::from_bytes(&[9; 32]);
        let rng = ChaCha20Rng::from_seed([0; 32]);
        let mut sessions = Sessions::new(name("a"), identity, rng, Time(0));
        for (link, peer) in [(ONE, "b"), (OTHER, "c")] {
            let facts = LinkFacts {
                incarnation: Incarnation(u64::from(link.0)),
                capacity: Bandwidth::from_bps(10),
                hop: Duration::from_millis(1),
                session: None,
            };
            sessions.link_up(Time(0), link, name(peer), facts);
        }
        sessions
    }

    fn ghs(counter: u64, body: Ghs) -> Message {
        let session = SessionId { counter, initiator: name("far") };
        Message::Ghs { session, body }
    }

    /// What follows a START that waits may come before the timer that ends the wait is served.
    #[test]
    fn a8_a_start_that_waits_counts_from_the_moment_its_session_is_adopted() {
        let (mut sessions, mut out) = (sessions(), Vec::new());
        sessions.handle_start(Time(0), ONE, start(1), &mut out).unwrap();
        let soon = Time(1);
        sessions.handle_start(soon, OTHER, start(2), &mut out).unwrap();
        assert_eq!(sessions.highest().unwrap().counter, 1, "too soon after the first");
        assert!(!sessions.nothing_held());
        let later = Time(0) + limits::SESSION_INTERVAL_MIN;
        sessions.handle_start(later, ONE, start(2), &mut out).unwrap();
        let connect = ghs(2, Ghs::Connect { level: 0 });
        sessions.handle(later, OTHER, connect, &mut out).unwrap();
        sessions.invariants();
        assert!(sessions.handle_start(later, OTHER, start(2), &mut out).is_err(), "a second START");
    }

    #[test]
    fn a8_before_the_gate_one_message_an_edge_is_held_and_no_more() {
        let (mut sessions, mut out) = (sessions(), Vec::new());
        sessions.handle_start(Time(0), ONE, start(1), &mut out).unwrap();
        sessions.handle(Time(0), ONE, ghs(1, Ghs::Connect { level: 0 }), &mut out).unwrap();
        assert!(!sessions.nothing_held());
        let early = sessions.handle(Time(0), OTHER, ghs(1, Ghs::Accept), &mut out);
        assert!(early.is_err(), "a message before its START");
        let second = sessions.handle(Time(0), ONE, ghs(1, Ghs::Accept), &mut out);
        assert!(second.is_err(), "a second message");
    }

    #[test]
    fn a8_messages_of_an_older_session_are_dropped_and_counted() {
        let (mut sessions, mut out) = (sessions(), Vec::new());
        sessions.handle_start(Time(0), ONE, start(5), &mut out).unwrap();
        out.clear();
        sessions.handle(Time(0), ONE, ghs(4, Ghs::Accept), &mut out).unwrap();
        sessions.handle_start(Time(0), ONE, start(4), &mut out).unwrap();
        assert!(out.is_empty());
        assert_eq!(sessions.counters().stale, 1);
        let future = sessions.handle(Time(0), ONE, ghs(6, Ghs::Accept), &mut out);
        assert!(future.is_err(), "no START came for it");
    }

    #[test]
    fn a8_events_close_together_are_one_session_and_sessions_get_rarer() {
        let (mut sessions, mut out) = (sessions(), Vec::new());
        let mut now = Time(0);
        let mut waits = Vec::new();
        for round in 0..9 {
            sessions.capacity_changed(now, ONE, Bandwidth::from_bps(1 + round));
            sessions.capacity_changed(now, OTHER, Bandwidth::from_bps(20 - round));
            let due = sessions.throttle.due.clone().unwrap().0;
            waits.push(due.since(now));
            now = due;
            // The neighbours are silent here, but not for long enough to matter.
            for live in sessions.links.values_mut() {
                live.owes_since = None;
            }
            sessions.handle_timeout(now, &mut out).unwrap();
        }
        assert_eq!(sessions.counters().started, 9);
        assert!(limits::THROTTLE_FIRST.0 <= waits[0] && waits[0] <= limits::THROTTLE_FIRST.1);
        assert!(waits[3] >= limits::THROTTLE_FIRST.0 * 8, "{waits:?}");
        assert_eq!(waits[8], limits::THROTTLE_MAX);
        now = now + limits::THROTTLE_WINDOW;
        sessions.capacity_changed(now, ONE, Bandwidth::from_bps(30));
        let due = sessions.throttle.due.clone().unwrap().0;
        assert!(due.since(now) <= limits::THROTTLE_FIRST.1, "ten quiet seconds reset it");
    }

    #[test]
    fn a3_a_capacity_that_flutters_costs_one_session_in_a_long_time() {
        let (mut sessions, mut out) = (sessions(), Vec::new());
        sessions.links.get_mut(&ONE).unwrap().capacity = Bandwidth::from_bps(1_000);
        let start = sessions.poll_timeout().unwrap().0;
        sessions.handle_timeout(start, &mut out).unwrap();
        let change = |sessions: &mut Sessions, now: Time, bps| {
            sessions.capacity_changed(now, ONE, Bandwidth::from_bps(bps));
            sessions.throttle.due.as_ref().map(|(at, _)| at.since(now))
        };
        assert_eq!(change(&mut sessions, start, 1_000), None, "as the session has it");
        let wait = limits::CAPACITY_CHANGE_WAIT;
        assert_eq!(change(&mut sessions, start, 901), Some(wait));
        let later = start + wait / 2;
        assert_eq!(change(&mut sessions, later, 1_099), Some(wait / 2), "the first one's time");
        let soon = change(&mut sessions, later, 900).unwrap();
        assert!(soon <= limits::THROTTLE_FIRST.1 * 4, "{soon:?}: a tenth less is an event");
        sessions.invariants();
    }

    #[test]
    fn a8_who_does_not_answer_start_is_named_after_two_seconds_whatever_came_since() {
        let (mut sessions, mut out) = (sessions(), Vec::new());
        sessions.handle_start(Time(0), ONE, start(1), &mut out).unwrap();
        let newer = Time(0) + limits::START_ANSWER_MAX / 2;
        sessions.handle_start(newer, ONE, start(2), &mut out).unwrap();
        let late = Time(0) + limits::START_ANSWER_MAX;
        assert_eq!(sessions.poll_timeout(), Some((late, Timer::StartAnswer)));
        assert_eq!(sessions.handle_timeout(late, &mut out), Ok(vec![OTHER]));
    }
}
