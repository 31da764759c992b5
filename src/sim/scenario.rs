//! Random overlays with faults out of a seed, run to rest and judged: what `tests/simulation.rs` runs by
//! the thousand and `cargo xtask sim` one by one.
//!
//! Even seeds are left in peace, odd ones get cuts, crashes, joins, hung neighbours and capacity
//! changes, most of them while the first sessions run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use super::{Fault, Plan, Sim, Strike, Traffic, check};
use crate::limits;
use crate::proto::node::Node;
use crate::types::{Bandwidth, EdgeKey, PeerName, SessionId, Time};
use crate::wire::control;

/// More events than any run of this size needs; a run that reaches it does not converge.
const EVENTS_MAX: u64 = 2_000_000;
/// Faults begin when the first sessions run. They take some ten hops, so the first fault of a scenario
/// strikes within this many hops and the others within the time that the longest of them need.
const FIRST_FAULT_HOPS: u64 = 5;
const FAULTS_FROM_MS: u64 = 50;
const FAULTS_FOR_MS: u64 = 400;

/// What to run.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub plan: Plan,
    pub faults: Vec<(Time, Fault)>,
    /// Faults besides joins of peers that were planned from the start.
    pub faulty: bool,
}

/// A run that came to rest with a correct forest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub peers: usize,
    pub links: usize,
    pub components: usize,
    pub strikes: Vec<Strike>,
    /// From the last fault (or start) to the last commit.
    pub settled: Duration,
    /// From rest until all pictures were equal and true.
    pub pictures: Duration,
    pub hash: u64,
}

impl Outcome {
    /// A fault changed something while a session it concerned had no COMMIT.
    pub fn struck_before_commit(&self) -> bool {
        self.faults().any(|strike| strike.before_commit)
    }

    /// A fault changed something.
    pub fn hit(&self) -> bool {
        self.faults().any(|strike| strike.hit)
    }

    /// Peers that start at the beginning are no faults; those that join later are.
    fn faults(&self) -> impl Iterator<Item = &Strike> {
        let early = |strike: &Strike| matches!(strike.fault, Fault::Start(_)) && strike.at < JOINS;
        self.strikes.iter().filter(move |strike| !early(strike))
    }
}

/// Starts from here on are joins.
const JOINS: Time = Time(30_000);

impl Scenario {
    /// The scenario of a seed.
    pub fn new(seed: u64) -> Self {
        let mut draw = Draw(ChaCha20Rng::seed_from_u64(seed ^ 0x5041_4e57_4159));
        let faulty = seed % 2 == 1;
        let count = if faulty { 4 + draw.below(21) } else { 1 + draw.below(24) };
        let peers = usize::try_from(count).expect("at most 24");
        // A peer without links commits at once: nothing strikes it before.
        let density = if faulty { 20 } else { 5 } + draw.below(80);
        let plan = random_plan(&mut draw, peers, density);
        let late = if faulty { draw.below(3) } else { 0 };
        let mut faults = Vec::new();
        for peer in 0..peers {
            let joins = (peer as u64) < late;
            let at = if joins { JOINS.0 + draw.ms(400) } else { draw.ms(29) };
            faults.push((Time(at), Fault::Start(peer)));
        }
        if faulty {
            // The first is of a kind that cannot miss: a peer that runs, or a whole wire.
            let first = usize::try_from(late).expect("at most 2");
            let hop_ms = u64::try_from(plan.delay.1.as_millis()).expect("short");
            let hops_ms = FIRST_FAULT_HOPS * (1 + hop_ms);
            let at = draw.ms(hops_ms);
            random_fault(&mut draw, &plan, (at, first, 8), &mut faults);
            for _ in 0..draw.below(7) {
                let at = draw.ms(FAULTS_FOR_MS);
                random_fault(&mut draw, &plan, (at, 0, 10), &mut faults);
            }
        }
        // Facts about the overlay cost most of the time and change nothing about the tree.
        let talks = seed.is_multiple_of(25);
        let plan = Plan { version: if talks { control::VERSIONS.1 } else { 2 }, ..plan };
        Self { seed, plan, faults, faulty }
    }

    /// Runs it to rest and judges; the error says what is wrong.
    pub fn run(&self) -> Result<Outcome, String> {
        let mut sim = self.sim();
        self.judge(&mut sim)
    }

    /// The world before anything happened.
    pub fn sim(&self) -> Sim {
        let mut sim = Sim::new(self.seed, &self.plan);
        for (at, fault) in &self.faults {
            sim.schedule(*at, *fault);
        }
        sim
    }

    /// Runs the world to rest and judges it.
    pub fn judge(&self, sim: &mut Sim) -> Result<Outcome, String> {
        sim.run_to_rest(EVENTS_MAX).map_err(|restless| restless.to_string())?;
        judge_honesty(sim)?;
        let components = judge_rest(sim)?;
        let talks = self.plan.version >= control::FACTS_VERSION;
        let pictures = if talks { settle_pictures(sim)? } else { Duration::ZERO };
        let last = sim.strikes().iter().map(|strike| strike.at).max().unwrap_or_default();
        let commit = sim.commits().iter().map(|(at, _, _)| *at).max().unwrap_or_default();
        let (peers, links) = sim.truth();
        Ok(Outcome {
            peers: peers.len(),
            links: links.len(),
            components,
            strikes: sim.strikes().to_vec(),
            settled: commit.since(last),
            pictures,
            hash: sim.hash(),
        })
    }
}

/// Where nobody lies nobody is taken for a liar.
pub fn judge_honesty(sim: &Sim) -> Result<(), String> {
    let accused = |accusation: &String| format!("an honest peer is accused: {accusation}");
    sim.accusations().first().map(accused).map_or(Ok(()), Err)
}

/// I1, I2 and I3 for a world at rest: the forest is Kruskal's, each component agrees on its session
/// and tree, branches are two-sided, nothing is held back, the messages stay below their bound.
/// Returns the number of components.
pub fn judge_rest(sim: &Sim) -> Result<usize, String> {
    let (peers, links) = sim.truth();
    let forest = check::maximum_forest(&links);
    let nodes: BTreeMap<&PeerName, &Node> =
        sim.peers().iter().filter_map(|peer| Some((&peer.name, peer.node.as_ref()?))).collect();
    let components = check::components(&peers, &links);
    // Heartbeats are not simulated, so only the watchdog notices who falls silent in a session.
    let silent = |fault: Fault| {
        matches!(
            fault,
            Fault::Mute(_)
                | Fault::Stall(..)
                | Fault::OneWay(..)
                | Fault::Stop(..)
                | Fault::Deaf(..)
        )
    };
    let muted = sim.tails || sim.strikes().iter().any(|strike| silent(strike.fault));
    let barked = nodes.values().map(|node| node.counters().watchdog).sum::<u64>();
    if barked > 0 && !muted {
        return Err(format!("{barked} watchdogs barked"));
    }
    for members in &components {
        let inside = |edge: &&EdgeKey| members.contains(&edge.lower);
        let tree: BTreeSet<EdgeKey> = forest.iter().filter(inside).cloned().collect();
        let nodes: Vec<(&PeerName, &Node)> =
            members.iter().map(|name| (name, nodes[name])).collect();
        let session = judge_component(&nodes, &tree)?;
        let edges = links.iter().filter(inside).count();
        judge_traffic(sim.traffic(&session, members), members.len(), edges)?;
    }
    Ok(components.len())
}

/// I9: within ten rounds of comparing digests all pictures are equal and true. Returns how long it took.
pub fn settle_pictures(sim: &mut Sim) -> Result<Duration, String> {
    const ROUNDS: u32 = 10;
    const LOOK: Duration = Duration::from_millis(20);
    let since = sim.now();
    loop {
        let wrong = check::wrong_pictures(sim);
        let waited = sim.now().since(since);
        if wrong.is_empty() {
            return Ok(waited);
        }
        if waited >= limits::DIGEST_INTERVAL.1 * ROUNDS {
            let nodes = sim.peers().iter().filter_map(|peer| peer.node.as_ref());
            let counts: Vec<_> = nodes.map(|node| node.graph().counters()).collect();
            let wrong = wrong.join("; ");
            return Err(format!("pictures after {waited:?}: {wrong}; {counts:?}"));
        }
        sim.run_until(sim.now() + LOOK);
    }
}

/// I2 for one component; returns its session.
fn judge_component(
    nodes: &[(&PeerName, &Node)],
    tree: &BTreeSet<EdgeKey>,
) -> Result<SessionId, String> {
    let (_, first) = nodes[0];
    let session = first.session().cloned().ok_or("a peer without a session")?;
    let mut leaders = 0;
    for (name, node) in nodes {
        let view = node.tree();
        let wrong = |what: &str| Err(format!("{name}: {what}; {view:?}"));
        if node.session() != Some(&session) || view.session.as_ref() != Some(&session) {
            return wrong(&format!("is in session {:?}, not {session}", node.session()));
        }
        if !view.complete || !node.nothing_held() {
            return wrong("is not at rest");
        }
        let edges: BTreeSet<EdgeKey> = view.edges.iter().cloned().collect();
        if edges != *tree {
            return wrong(&format!("Kruskal has {tree:?}"));
        }
        let mine: BTreeSet<&PeerName> =
            tree.iter().filter_map(|edge| edge.other_end(name)).collect();
        let links = node.links();
        let branches: BTreeSet<&PeerName> =
            links.iter().filter(|link| link.tree).map(|link| &link.peer).collect();
        if mine != branches {
            return wrong("its links and its tree differ");
        }
        if node.counters().alarms > 0 {
            return wrong("complete trees were wrong");
        }
        leaders += usize::from(view.parent.is_none());
        judge_next_hops(nodes, name)?;
    }
    if leaders == 1 { Ok(session) } else { Err(format!("{leaders} leaders in {session}")) }
}

/// A9: from `from`, the next hops of each peer on the way lead to everybody.
fn judge_next_hops(nodes: &[(&PeerName, &Node)], from: &PeerName) -> Result<(), String> {
    let tree = |name: &PeerName| {
        let at = nodes.binary_search_by_key(&name, |(name, _)| name).ok()?;
        nodes[at].1.overlay()
    };
    let start = tree(from).ok_or("a peer without a tree")?;
    for (to, _) in nodes {
        let mut way = vec![from.clone()];
        while way.last() != Some(to) && way.len() <= nodes.len() {
            let here = way.last().expect("it has a start");
            let next = tree(here).and_then(|tree| tree.next_hop(to));
            way.push(next.ok_or_else(|| format!("{here} has no next hop to {to}"))?.clone());
        }
        if start.path(to).as_ref() != Some(&way) {
            return Err(format!("{from} to {to}: next hops lead {way:?}"));
        }
    }
    Ok(())
}

/// I3 (2.4): 2E + 5N log2 N for the algorithm, 4E + 3N around it.
fn judge_traffic(traffic: Traffic, peers: usize, links: usize) -> Result<(), String> {
    let log = peers.next_power_of_two().ilog2() as usize;
    let ghs_max = 2 * links + 5 * peers * log;
    let around_max = 4 * links + 3 * peers;
    if traffic.ghs > ghs_max || traffic.around > around_max {
        return Err(format!("{traffic:?} is over {ghs_max} and {around_max}"));
    }
    Ok(())
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

    /// A time in microseconds below so many milliseconds.
    fn ms(&mut self, bound: u64) -> u64 {
        self.below(bound * 1_000)
    }
}

/// Peers in one to four groups without links between them, each link of the complete graph with
/// `density` percent, few different capacities.
fn random_plan(draw: &mut Draw, count: usize, density: u64) -> Plan {
    let groups = if draw.below(3) == 0 { 1 + draw.below(4) } else { 1 };
    let group: Vec<u64> = (0..count).map(|_| draw.below(groups)).collect();
    let different = 1 + draw.below(5);
    let mut links = Vec::new();
    for one in 0..count {
        for other in one + 1..count {
            if group[one] == group[other] && draw.below(100) < density {
                let capacity = Bandwidth::from_bps((1 + draw.below(different)) * 10_000_000);
                let turned = draw.below(2) == 0;
                links.push(if turned { (other, one, capacity) } else { (one, other, capacity) });
            }
        }
    }
    let least = Duration::from_micros(100 + draw.ms(4));
    Plan {
        peers: (0..count).map(|at| PeerName::new(&format!("p{at:02}")).expect("a name")).collect(),
        links,
        services: Vec::new(),
        delay: (least, least + Duration::from_micros(draw.ms(15))),
        ..Plan::default()
    }
}

/// One fault of the first `kinds` kinds, of a peer from `first` on or of any wire, `at` microseconds
/// after the first sessions began.
fn random_fault(
    draw: &mut Draw,
    plan: &Plan,
    (at, first, kinds): (u64, usize, u64),
    faults: &mut Vec<(Time, Fault)>,
) {
    let at = FAULTS_FROM_MS * 1_000 + at;
    let again = Time(at + draw.ms(600));
    let at = Time(at);
    let peer = first + draw.index(plan.peers.len() - first);
    if plan.links.is_empty() {
        faults.push((at, Fault::Crash(peer)));
        return;
    }
    let wire = draw.index(plan.links.len());
    match draw.below(kinds) {
        0 | 1 => faults.push((at, Fault::Cut(wire))),
        2 | 3 => faults.extend([(at, Fault::Cut(wire)), (again, Fault::Restore(wire))]),
        4 => faults.push((at, Fault::Crash(peer))),
        5 | 6 => faults.extend([(at, Fault::Crash(peer)), (again, Fault::Start(peer))]),
        7 => faults.push((at, Fault::Leave(peer))),
        8 => {
            // Never what the wire had before.
            let capacity = Bandwidth::from_bps(5_000_000 + draw.below(6) * 10_000_000);
            let both = draw.below(2) == 0;
            let one = Fault::CapacityAtOneEnd(wire, capacity);
            faults.push((at, if both { Fault::Capacity(wire, capacity) } else { one }));
        }
        _ => faults.push((at, Fault::Mute(wire))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_of_the_first_seeds_come_to_a_correct_rest() {
        for seed in 0..40 {
            if let Err(wrong) = Scenario::new(seed).run() {
                panic!("seed {seed}: {wrong}");
            }
        }
    }
}
