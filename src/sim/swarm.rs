//! Random overlays with channels, frames and every kind of fault out of a seed: first faults and safety,
//! then the world heals and has to come to order (liveness).
//!
//! Each seed draws which kinds of faults it has at all, so that combinations come about that a fixed mix
//! would never try. One seed in four is calm: channels come and go, peers leave as planned, and not one
//! frame may be lost.
//!
//! A failure is a script: what was struck when. [`Swarm::shrink`] leaves out what it does not need.

use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use super::answers::judge_at_rest;
use super::scenario::{judge_honesty, judge_rest, settle_pictures};
use super::{Fault, Plan, Sim, check, rules};
use crate::limits;
use crate::proto::policy::{Rule, Which, Who};
use crate::proto::view::{ChannelState, ChannelView};
use crate::proto::{Budgets, Request, ServiceConfig, ServiceKind};
use crate::types::{Bandwidth, PeerName, ServiceName, Time};
use crate::wire::control;

/// Peers have started and agreed by then.
const OPENS_FROM: Time = Time(1_000_000);
const FAULTS_FROM: Time = Time(1_600_000);
/// Frames enter for so long after the last fault.
const FRAMES_AFTER: Duration = Duration::from_millis(1_500);
/// What is broken is given up, and leases run out, within this.
const ORDER_MIN: Duration = Duration::from_secs(14);
/// No session waits longer than this.
const ORDER_MAX: Duration = Duration::from_secs(60);
/// More events than a swarm needs between two faults; one that reaches it goes round in circles.
const EVENTS_MAX: u64 = 2_000_000;
/// Events between two looks of the judges that look at everybody.
const JUDGE_EVERY: u64 = 40;
/// Requests of the end, when nothing changes any more.
const QUESTIONS_AT_REST: usize = 6;
/// Events at the end of a failure that are shown.
const LAST_EVENTS: usize = 200;
/// Runs that shrinking may take.
const SHRINK_RUNS: usize = 120;

/// What to run.
#[derive(Clone, Debug)]
pub struct Swarm {
    pub seed: u64,
    pub plan: Plan,
    pub script: Vec<(Time, Fault)>,
    /// Nothing fails: no frame may be lost.
    pub calm: bool,
    heal: Time,
}

/// A run that was right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub channels: usize,
    pub delivered: u64,
    pub lost: u64,
    pub hits: usize,
    pub hash: u64,
}

impl Swarm {
    /// The swarm of a seed.
    pub fn new(seed: u64) -> Self {
        let mut draw = Draw(ChaCha20Rng::seed_from_u64(seed ^ 0x7377_6172_6d21));
        let calm = draw.below(4) == 0;
        let most = if draw.below(8) == 0 { 14 } else { 7 };
        let count = 3 + draw.index(most);
        let mut plan = random_plan(&mut draw, count, calm);
        plan.budgets = random_budgets(seed, &plan, calm);
        let reloads = random_rules(seed, &mut plan, calm);
        let mut script = Vec::new();
        for peer in 0..count {
            script.push((Time(draw.below(29_000)), Fault::Start(peer)));
        }
        let channels = 2 + draw.below(7);
        for _ in 0..channels {
            let at = Time(OPENS_FROM.0 + draw.below(500_000));
            script.push((at, random_open(&mut draw, count, calm)));
        }
        let span = 400_000 + draw.below(2_600_000);
        let heal = Time(FAULTS_FROM.0 + span);
        let kinds: Vec<u64> = (0..12).filter(|_| draw.below(2) == 0).collect();
        let faults = if calm { 1 + draw.below(4) } else { 1 + draw.below(10) };
        for _ in 0..faults {
            let at = Time(FAULTS_FROM.0 + draw.below(span));
            if calm {
                calm_deed(&mut draw, at, count, &mut script);
            } else if let Some(kind) = kinds.get(draw.index(kinds.len().max(1))) {
                random_fault(&mut draw, *kind, &plan, at, &mut script);
            }
        }
        script.extend(reloads.into_iter().map(|(at, fault)| {
            let at = FAULTS_FROM.0 + at % span;
            (Time(at), fault)
        }));
        // Last, so that what seeds drew before is what they always drew.
        if !calm && draw.below(2) == 0 {
            come_and_go(&mut draw, span, count, &mut script);
        }
        Self { seed, plan, script, calm, heal }
    }

    /// The world before anything happened.
    pub fn sim(&self) -> Sim {
        let mut sim = Sim::new(self.seed, &self.plan);
        sim.calm = self.calm;
        sim.frames_until = self.heal + FRAMES_AFTER;
        for (at, fault) in &self.script {
            sim.schedule(*at, *fault);
        }
        sim
    }

    pub fn run(&self) -> Result<Outcome, String> {
        self.judge(&mut self.sim())
    }

    /// Runs the world to its end and judges it on the way; the error says what is wrong.
    pub fn judge(&self, sim: &mut Sim) -> Result<Outcome, String> {
        self.safely_until(sim, self.heal)?;
        if !self.calm {
            (0..self.plan.links.len()).for_each(|wire| sim.strike(Fault::Restore(wire)));
            (0..self.plan.peers.len()).for_each(|peer| sim.strike(Fault::Start(peer)));
        }
        self.safely_until(sim, self.heal + ORDER_MIN)?;
        let mut until = self.heal + ORDER_MIN;
        while !in_order(sim) && until < self.heal + ORDER_MAX {
            until = until + Duration::from_secs(1);
            self.safely_until(sim, until)?;
        }
        judge_honesty(sim)?;
        judge_rest(sim)?;
        if self.plan.version >= control::FACTS_VERSION {
            settle_pictures(sim)?;
        }
        let channels = judge_channels(sim)?;
        // A rule may forbid a second path for ever.
        if self.plan.version >= control::FACTS_VERSION && self.plan.rules.is_empty() {
            settle_protection(sim)?;
        }
        self.judge_frames(sim)?;
        if self.plan.version >= control::FACTS_VERSION && self.plan.rules.is_empty() {
            self.ask_at_rest(sim)?;
        }
        let hits = sim.strikes().iter().filter(|strike| strike.hit).count();
        self.close_all(sim)?;
        let books = sim.frame_books();
        let lost = books.dropped.values().sum();
        Ok(Outcome { channels, delivered: books.delivered, lost, hits, hash: sim.hash() })
    }

    /// The same failure with less: events that it does not need are left out.
    pub fn shrink(&self) -> Self {
        let mut small = self.clone();
        let mut runs = 0;
        let mut at = small.script.len();
        while at > 0 && runs < SHRINK_RUNS {
            at -= 1;
            let mut less = small.clone();
            less.script.remove(at);
            runs += 1;
            if less.run().is_err() {
                small = less;
            }
        }
        small
    }

    /// Steps with the judges looking: what a frame does is judged at each step, what the ledgers and
    /// tables of everybody say now and then.
    fn safely_until(&self, sim: &mut Sim, until: Time) -> Result<(), String> {
        let mut events = 0;
        while sim.next_at().is_some_and(|at| at <= until) {
            sim.happen();
            events += 1;
            if events > EVENTS_MAX {
                return Err(format!("time stands still at {:?}: {EVENTS_MAX} events", sim.now()));
            }
            let books = sim.frame_books();
            if let Some(wrong) = books.wrong.first() {
                return Err(format!("I6: {wrong}"));
            }
            if let (Some(lost), false) = (books.innocent.first(), self.plan.tails) {
                return Err(format!("I7: no fault touched the channel: {lost}"));
            }
            if events % JUDGE_EVERY == 0 {
                self.look(sim)?;
            }
        }
        sim.run_until(until);
        self.look(sim)
    }

    fn look(&self, sim: &Sim) -> Result<(), String> {
        let peers = sim.peers();
        let oversold = check::oversold(peers);
        let wrong = oversold.into_iter().map(|text| format!("I4: {text}"));
        let misrouted = check::misrouted(peers).into_iter().map(|text| format!("a22: {text}"));
        let late = sim.late_answers().into_iter().map(|text| format!("I5: {text}"));
        let answers = sim.wrong_answers().iter().map(|text| format!("I5: {text}"));
        let broken = rules::broken(peers).into_iter().map(|text| format!("rules: {text}"));
        wrong.chain(misrouted).chain(broken).chain(answers).chain(late).next().map_or(Ok(()), Err)
    }

    /// I5 where nothing changes any more: more and more is asked for, until answers say that it is too much.
    fn ask_at_rest(&self, sim: &mut Sim) -> Result<(), String> {
        let mut draw = Draw(ChaCha20Rng::seed_from_u64(self.seed ^ 0x7265_7374));
        if sim.hung().next().is_some() {
            return Ok(());
        }
        for _ in 0..QUESTIONS_AT_REST {
            let count = self.plan.peers.len();
            let from = draw.index(count);
            let to = (from + 1 + draw.index(count - 1)) % count;
            let of_width = [1_001, 1_000, 400, 150][draw.index(4)];
            if [from, to].iter().all(|peer| sim.node(*peer).is_some()) {
                judge_at_rest(sim, from, to, of_width).map_err(|wrong| format!("I5: {wrong}"))?;
                self.look(sim)?;
                settle_pictures(sim)?;
            }
        }
        Ok(())
    }

    /// I7: every frame is in one place.
    fn judge_frames(&self, sim: &Sim) -> Result<(), String> {
        let books = sim.frame_books();
        if books.under_way() != 0 {
            return Err(format!("I7: {} frames are nowhere: {books:?}", books.under_way()));
        }
        Ok(())
    }

    /// Nothing stays reserved when the last channel is closed (I4).
    fn close_all(&self, sim: &mut Sim) -> Result<(), String> {
        for peer in 0..self.plan.peers.len() {
            let views = sim.node(peer).map(super::Node::channels).unwrap_or_default();
            for view in views.into_iter().filter(|view| view.side.is_some()) {
                sim.request(peer, Request::Close { channel: view.id });
            }
        }
        let later = sim.now() + Duration::from_secs(3);
        sim.run_until(later);
        for peer in sim.peers() {
            let Some(node) = &peer.node else { continue };
            for link in node.links() {
                if (link.free_out, link.free_in) != (link.capacity, link.capacity) {
                    return Err(format!("I4: {} keeps something of {link:?}", peer.name));
                }
            }
            if node.claims() > 0 {
                return Err(format!("A14: {} knows claims of nobody", peer.name));
            }
            if !(peer.labels.is_empty() && peer.ends.is_empty()) {
                return Err(format!("{} keeps {:?} {:?}", peer.name, peer.labels, peer.ends));
            }
        }
        Ok(())
    }
}

/// A failure for people: the smallest script that shows it, and what happened last.
pub fn report(swarm: &Swarm, wrong: &str) -> String {
    let small = swarm.shrink();
    let mut sim = small.sim();
    sim.keep_log();
    let wrong = small.judge(&mut sim).err().unwrap_or_else(|| wrong.to_owned());
    let log = sim.log();
    let last = &log[log.len().saturating_sub(LAST_EVENTS)..];
    let links: Vec<_> = small.plan.links.iter().map(|link| format!("{link:?}")).collect();
    let script: Vec<_> =
        small.script.iter().map(|(at, fault)| format!("{at:?} {fault:?}")).collect();
    format!(
        "{}\nlinks: {}\nscript ({} of {} events):\n{}\nseed {}: {wrong}",
        last.join("\n"),
        links.join(" "),
        script.len(),
        swarm.script.len(),
        script.join("\n"),
        swarm.seed,
    )
}

/// No session runs or waits, no channel looks for a path.
fn in_order(sim: &Sim) -> bool {
    let nodes = || sim.peers().iter().filter_map(|peer| peer.node.as_ref());
    nodes().all(|node| node.tree().complete && node.nothing_held())
        && nodes().flat_map(super::Node::channels).all(|view| view.state == ChannelState::Open)
}

/// Each channel is open at both ends, on one path, and carries both ways; each request has its answer.
fn judge_channels(sim: &Sim) -> Result<usize, String> {
    let mut ends: Vec<(usize, ChannelView)> = Vec::new();
    for (at, peer) in sim.peers().iter().enumerate() {
        let views = peer.node.as_ref().map(super::Node::channels).unwrap_or_default();
        ends.extend(views.into_iter().filter(|view| view.side.is_some()).map(|view| (at, view)));
    }
    for (at, view) in &ends {
        let other = ends.iter().find(|(there, other)| there != at && other.id == view.id);
        let Some((there, other)) = other else {
            return Err(format!("only {at} has {view:?}"));
        };
        if view.state != ChannelState::Open || other.path != view.path {
            return Err(format!("{at} and {there} do not agree: {view:?} {other:?}"));
        }
        let out = check::follow(sim.peers(), *at, &view.id)?;
        if out != Some((*there, view.id.clone())) {
            return Err(format!("frames of {view:?} from {at} come out at {out:?}"));
        }
    }
    if let Some(wrong) = sim.wrong_seals().first() {
        return Err(format!("seals: {wrong}"));
    }
    match sim.unanswered() {
        0 => Ok(ends.len() / 2),
        count => Err(format!("I5: {count} requests have no answer")),
    }
}

/// A17: what was asked to be protected is, if there is room for it. A relay that heard an end of the channel
/// close it, and did not see it come back, refuses it for as long as it remembers.
fn settle_protection(sim: &mut Sim) -> Result<(), String> {
    let give_up = sim.now() + limits::TOMBSTONE + limits::PROTECT_RETRY * 10;
    loop {
        let bare = check::unprotected(sim);
        if bare.is_empty() {
            return Ok(());
        }
        if sim.now() >= give_up {
            return Err(format!("A17: could be protected and is not: {}", bare.join("; ")));
        }
        sim.run_until(sim.now() + limits::PROTECT_RETRY);
    }
}

fn random_plan(draw: &mut Draw, count: usize, calm: bool) -> Plan {
    let density = 15 + draw.below(70);
    let mut links = Vec::new();
    for one in 0..count {
        let parent = if one > 0 { draw.index(one) } else { 0 };
        for other in 0..one {
            if other == parent || draw.below(100) < density {
                let mbit = if calm { 1_000 } else { [10, 20, 40, 100][draw.index(4)] };
                links.push((other, one, Bandwidth::from_bps(mbit * 1_000_000)));
            }
        }
    }
    let service = ServiceName::new("deliver").expect("a name");
    let least = Duration::from_micros(50 + draw.below(3_000));
    Plan {
        peers: (0..count).map(|at| PeerName::new(&format!("p{at:02}")).expect("a name")).collect(),
        links,
        budgets: Vec::new(),
        services: vec![ServiceConfig { name: service, kind: ServiceKind::Deliver, plain: true }],
        rules: Vec::new(),
        ruled: Vec::new(),
        delay: (least, least + Duration::from_micros(draw.below(12_000))),
        tails: !calm && draw.below(5) == 0,
        queue: (!calm && draw.below(6) == 0).then(|| 60 + draw.index(100)),
        version: if !calm && draw.below(5) == 0 { 2 } else { control::VERSIONS.1 },
    }
}

/// Of every third seed; drawn apart, so that seeds of old mean what they meant.
fn random_budgets(seed: u64, plan: &Plan, calm: bool) -> Vec<(usize, Budgets)> {
    let mut draw = Draw(ChaCha20Rng::seed_from_u64(seed ^ 0x0062_7564_6765_7473));
    if calm || draw.below(3) > 0 {
        return Vec::new();
    }
    let mut budget = || {
        let mbit = [15, 30, 60][draw.index(3)];
        (draw.below(2) == 0).then(|| Bandwidth::from_bps(mbit * 1_000_000))
    };
    (0..plan.peers.len())
        .map(|peer| (peer, Budgets { egress: budget(), ingress: budget() }))
        .collect()
}

/// Of every fourth seed with failures, drawn apart as well: a few sets of rules, who has which, and who
/// reads another one while faults strike.
fn random_rules(seed: u64, plan: &mut Plan, calm: bool) -> Vec<(u64, Fault)> {
    let mut draw = Draw(ChaCha20Rng::seed_from_u64(seed ^ 0x7275_6c65_7300));
    if calm || draw.below(4) > 0 {
        return Vec::new();
    }
    let count = plan.peers.len();
    plan.rules = (0..3).map(|_| random_set(&mut draw, &plan.peers)).collect();
    plan.rules.push(Vec::new());
    plan.ruled =
        (0..count).map(|peer| (peer, draw.index(6))).filter(|(_, rules)| *rules < 3).collect();
    let reloads = draw.below(4);
    (0..reloads)
        .map(|_| (draw.below(1 << 40), Fault::Rules(draw.index(count), draw.index(4))))
        .collect()
}

fn random_set(draw: &mut Draw, peers: &[PeerName]) -> Vec<Rule> {
    let mbit = |mbit: u64| Bandwidth::from_bps(mbit * 1_000_000);
    let mut rules = Vec::new();
    for _ in 0..1 + draw.below(3) {
        let some = |draw: &mut Draw| draw.below(2) == 0;
        let named = |draw: &mut Draw| Who::Name(peers[draw.index(peers.len())].clone());
        let who = if some(draw) { vec![Who::Anybody] } else { vec![named(draw), named(draw)] };
        let to = if draw.below(3) > 0 { vec![Which::Any] } else { Vec::new() };
        let rate = some(draw).then(|| mbit([3, 8][draw.index(2)]));
        let total = some(draw).then(|| mbit([8, 16][draw.index(2)]));
        let channels = some(draw).then(|| [1, 2][draw.index(2)]);
        let requests = some(draw).then(|| [0, 1][draw.index(2)]);
        let everybody = some(draw).then(|| mbit([16, 30][draw.index(2)]));
        let through = to.is_empty() || draw.below(3) > 0;
        rules.push(Rule { peers: who, to, through, rate, total, channels, requests, everybody });
    }
    rules
}

fn random_open(draw: &mut Draw, count: usize, calm: bool) -> Fault {
    let from = draw.index(count);
    let to = (from + 1 + draw.index(count - 1)) % count;
    let mbit = if calm { 1 } else { [1, 3, 8, 20][draw.index(4)] };
    let rate = Bandwidth::from_bps(mbit * 1_000_000);
    Fault::Open { from, to, rate, protect: draw.below(3) == 0 }
}

/// Something that happens in the best of worlds.
fn calm_deed(draw: &mut Draw, at: Time, count: usize, script: &mut Vec<(Time, Fault)>) {
    let deed = match draw.below(4) {
        0 => random_open(draw, count, true),
        1 => Fault::Close(draw.index(64)),
        _ => Fault::Drain(draw.index(count), Duration::from_secs(5)),
    };
    script.push((at, deed));
}

/// Requests while faults strike, and channels that are closed: who waits may find room.
fn come_and_go(draw: &mut Draw, span: u64, count: usize, script: &mut Vec<(Time, Fault)>) {
    for _ in 0..2 + draw.below(8) {
        let at = Time(FAULTS_FROM.0 + draw.below(span));
        let more = draw.below(3) > 0;
        let deed =
            if more { random_open(draw, count, false) } else { Fault::Close(draw.index(64)) };
        script.push((at, deed));
    }
}

fn random_fault(
    draw: &mut Draw,
    kind: u64,
    plan: &Plan,
    at: Time,
    script: &mut Vec<(Time, Fault)>,
) {
    let count = plan.peers.len();
    let (peer, wire) = (draw.index(count), draw.index(plan.links.len()));
    let side = draw.index(2);
    let again = at + Duration::from_micros(draw.below(900_000));
    let while_ms =
        |draw: &mut Draw, most: u64| Duration::from_micros(1_000 + draw.below(most * 1_000));
    match kind {
        0 => script.push((at, Fault::Cut(wire))),
        1 => script.extend([(at, Fault::Cut(wire)), (again, Fault::Restore(wire))]),
        2 => script.push((at, Fault::Crash(peer))),
        3 => script.extend([(at, Fault::Crash(peer)), (again, Fault::Start(peer))]),
        4 => script.push((at, Fault::Leave(peer))),
        5 => script.push((at, Fault::Drain(peer, while_ms(draw, 3_000)))),
        6 => {
            let capacity = Bandwidth::from_bps([7, 15, 30, 60, 120][draw.index(5)] * 1_000_000);
            let one = Fault::CapacityAtOneEnd(wire, capacity);
            script.push((at, if side == 0 { one } else { Fault::Capacity(wire, capacity) }));
        }
        7 => script.push((at, Fault::Deaf(wire, side))),
        8 => script.push((at, Fault::OneWay(wire, side, while_ms(draw, 2_000)))),
        9 => script.push((at, Fault::Stall(wire, while_ms(draw, 3_000)))),
        10 => script.push((at, Fault::Stop(peer, while_ms(draw, 3_000)))),
        // A partition: everything between two halves is cut, and comes back.
        _ => {
            let half = 1 + draw.index(count - 1);
            for (wire, (one, other, _)) in plan.links.iter().enumerate() {
                if (*one < half) != (*other < half) {
                    script.extend([(at, Fault::Cut(wire)), (again, Fault::Restore(wire))]);
                }
            }
        }
    }
}

/// Seeded draws.
struct Draw(ChaCha20Rng);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound
    }

    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("an index")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;

    #[test]
    fn swarms_of_the_first_seeds_are_right() {
        for seed in 0..30 {
            if let Err(wrong) = Swarm::new(seed).run() {
                panic!("seed {seed}: {wrong}");
            }
        }
    }

    #[test]
    fn a_script_shrinks_to_what_its_failure_needs() {
        // A peer that stands still for an hour: the others do not come to order with it.
        let mut swarm = (0..).map(Swarm::new).find(|swarm| swarm.calm).expect("one in four");
        let whole = swarm.script.len();
        swarm.script.push((FAULTS_FROM, Fault::Stop(0, Duration::from_secs(3_600))));
        assert!(swarm.run().is_err());
        let small = swarm.shrink();
        assert!(small.run().is_err() && small.script.len() < whole, "{:?}", small.script);
    }

    const _: () = assert!(ORDER_MIN.as_secs() > limits::LEASE.as_secs() + 1);
}
