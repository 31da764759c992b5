//! One peer in one session of the Gallager-Humblet-Spira algorithm, for a maximum tree (A7).
//!
//! The rules are those of section 2.3 of the control-plane specification; each function says which.
//! Assumes what 2.1 demands: distinct keys that both ends of an edge know alike, links that deliver in
//! order, and a gate in front ([`super::session`]), so that every peer of the session knows its edges.
//! Does not know about sessions, time or routes. What an honest peer cannot send is [`Misconduct`].

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;

use super::link::Misconduct;
use crate::limits;
use crate::mutant::{self, Mutant};
use crate::types::{EdgeKey, LinkId, PeerName};
use crate::wire::control::{FragmentName, Ghs};

/// SE of 2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum EdgeState {
    Basic,
    Branch,
    Rejected,
}

/// SN of 2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    Sleeping,
    Find,
    Found,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Edge {
    link: LinkId,
    key: EdgeKey,
    state: EdgeState,
    /// A Connect came on it: there is at most one per direction (2.4).
    connected: bool,
    /// We sent Initiate(Find) on it and wait for the Report.
    awaited: bool,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Handled,
    Defer,
}

type Out = Vec<(LinkId, Ghs)>;

/// The state of one peer (2.2). Edges are referred to by their position in `edges`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Computation {
    me: PeerName,
    /// Best first, so that "best Basic edge" is the first one.
    edges: Vec<Edge>,
    positions: BTreeMap<LinkId, usize>,
    state: State,
    level: u8,
    fragment: Option<FragmentName>,
    in_branch: Option<usize>,
    best_edge: Option<usize>,
    best_key: Option<EdgeKey>,
    test_edge: Option<usize>,
    /// All edges before this one are known not to be Basic; they never become it again.
    first_basic: usize,
    find_count: usize,
    /// In order of arrival, at most one an edge.
    deferred: Vec<(usize, Ghs)>,
    deferred_max: usize,
    halted: bool,
}

impl Computation {
    pub fn new(me: PeerName, edges: impl IntoIterator<Item = (LinkId, EdgeKey)>) -> Self {
        let mut edges: Vec<Edge> = edges
            .into_iter()
            .map(|(link, key)| Edge {
                link,
                key,
                state: EdgeState::Basic,
                connected: false,
                awaited: false,
            })
            .collect();
        edges.sort_by(|a, b| b.key.cmp(&a.key));
        if mutant::on(Mutant::TiesWithoutNames) {
            edges.sort_by_key(|edge| (Reverse(edge.key.capacity), edge.link));
        }
        let positions = edges.iter().enumerate().map(|(at, edge)| (edge.link, at)).collect();
        Self {
            me,
            edges,
            positions,
            state: State::Sleeping,
            level: 0,
            fragment: None,
            in_branch: None,
            best_edge: None,
            best_key: None,
            test_edge: None,
            first_basic: 0,
            find_count: 0,
            deferred: Vec::new(),
            deferred_max: 0,
            halted: false,
        }
    }

    /// 2.3 `wake`: Connect(0) on the best edge; without edges, a tree of one is done.
    pub fn wake(&mut self, out: &mut Out) {
        if self.state != State::Sleeping {
            return;
        }
        self.state = State::Found;
        if self.edges.is_empty() {
            self.halted = true;
            return;
        }
        self.edges[0].state = EdgeState::Branch;
        out.push((self.edges[0].link, Ghs::Connect { level: 0 }));
    }

    /// Handles one message, then retries the deferred ones (2.3, last paragraph).
    pub fn handle(&mut self, link: LinkId, message: Ghs, out: &mut Out) -> Result<(), Misconduct> {
        let misconduct = |why| Misconduct { link, why };
        let at = *self.positions.get(&link).ok_or_else(|| misconduct("no edge of the session"))?;
        if self.halted {
            return Err(misconduct("a GHS message after the end of the computation"));
        }
        self.wake(out);
        match self.step(at, &message, out)? {
            Step::Handled => self.retry(out),
            Step::Defer if self.deferred.iter().any(|(other, _)| *other == at) => {
                Err(misconduct("a second message that must be deferred"))
            }
            Step::Defer => {
                self.deferred.push((at, message));
                self.deferred_max = self.deferred_max.max(self.deferred.len());
                Ok(())
            }
        }
    }

    /// The forest is complete, as far as this peer can see: both core peers, or a lone one.
    pub fn halted(&self) -> bool {
        self.halted
    }

    /// HALT, and this peer is the one that ends the session: of the two core peers the smaller name.
    pub fn leads(&self) -> bool {
        self.halted && self.fragment.as_ref().is_none_or(|core| core.lower == self.me)
    }

    /// The link towards the leader; `None` at the leader itself.
    pub fn parent(&self) -> Option<LinkId> {
        if self.leads() { None } else { self.in_branch.map(|at| self.edges[at].link) }
    }

    /// The peers beyond say that the computation is over (DONE from `link`): is that possible?
    pub fn finish(&mut self, link: LinkId) -> Result<(), Misconduct> {
        let misconduct = |why| Misconduct { link, why };
        if self.parent() != Some(link) {
            return Err(misconduct("DONE that does not come from the leader's side"));
        }
        let core = self.in_branch.map(|at| &self.edges[at].key) == self.fragment.as_ref();
        let searching = self.state != State::Found || !self.deferred.is_empty();
        if searching || (core && !self.halted) {
            return Err(misconduct("DONE while the computation still runs here"));
        }
        self.halted = true;
        Ok(())
    }

    /// Links that are branches of the tree, with their keys, best first.
    pub fn branches(&self) -> impl Iterator<Item = (LinkId, &EdgeKey)> {
        let branch = |edge: &&Edge| edge.state == EdgeState::Branch;
        self.edges.iter().filter(branch).map(|edge| (edge.link, &edge.key))
    }

    pub fn level(&self) -> u8 {
        self.level
    }

    /// None below level 1.
    pub fn fragment(&self) -> Option<&FragmentName> {
        self.fragment.as_ref()
    }

    /// Most messages that were deferred at the same time: at most one an edge.
    pub fn deferred_max(&self) -> usize {
        self.deferred_max
    }

    /// Nothing waits here.
    pub fn nothing_deferred(&self) -> bool {
        self.deferred.is_empty()
    }

    /// In words, for the log of a stuck session.
    pub fn describe(&self) -> String {
        let link = |at: Option<usize>| at.map(|at| self.edges[at].key.clone());
        format!(
            "{:?} level {} fragment {:?} testing {:?} reports missing {} deferred {}",
            self.state,
            self.level,
            self.fragment,
            link(self.test_edge),
            self.find_count,
            self.deferred.len()
        )
    }

    /// Panics if this machine broke its own rules.
    pub fn invariants(&self) {
        let awaited = self.edges.iter().filter(|edge| edge.awaited).count();
        assert_eq!(awaited, self.find_count, "reports missing");
        assert!(self.deferred.len() <= self.edges.len(), "more than one deferred message an edge");
        assert!(!self.halted || self.deferred.is_empty(), "deferred messages after the end");
        assert!(self.level <= limits::LEVEL_MAX);
    }

    fn retry(&mut self, out: &mut Out) -> Result<(), Misconduct> {
        let mut at = 0;
        while at < self.deferred.len() {
            let (edge, message) = self.deferred[at].clone();
            match self.step(edge, &message, out)? {
                Step::Defer => at += 1,
                Step::Handled => {
                    self.deferred.remove(at);
                    at = 0;
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, at: usize, message: &Ghs, out: &mut Out) -> Result<Step, Misconduct> {
        match message {
            Ghs::Connect { level } => self.on_connect(at, *level, out),
            Ghs::Initiate { level, fragment, find } => {
                self.on_initiate(at, *level, fragment, *find, out)
            }
            Ghs::Test { level, fragment } => self.on_test(at, *level, fragment, out),
            Ghs::Accept => self.on_accept(at, out),
            Ghs::Reject => self.on_reject(at, out),
            Ghs::Report { best } => self.on_report(at, best.as_ref(), out),
            Ghs::ChangeRoot => self.on_change_root(at, out),
        }
    }

    fn misconduct<T>(&self, at: usize, why: &'static str) -> Result<T, Misconduct> {
        Err(Misconduct { link: self.edges[at].link, why })
    }

    /// 2.3 `Connect(L) on j`.
    fn on_connect(&mut self, at: usize, level: u8, out: &mut Out) -> Result<Step, Misconduct> {
        if self.edges[at].connected {
            return self.misconduct(at, "a second Connect");
        }
        let basic = self.edges[at].state == EdgeState::Basic;
        if level < self.level {
            // Absorb at once. The other fragment chose this edge, so we cannot have.
            if !basic {
                return self.misconduct(at, "Connect of a lower level on an edge that is settled");
            }
            self.edges[at].connected = true;
            self.edges[at].state = EdgeState::Branch;
            self.initiate(at, out);
            if mutant::on(Mutant::AbsorbUncounted) && std::mem::take(&mut self.edges[at].awaited) {
                self.find_count -= 1;
            }
            return Ok(Step::Handled);
        }
        if basic && mutant::on(Mutant::ConnectAccepted) && level == self.level {
            self.edges[at].state = EdgeState::Branch;
        } else if basic {
            return Ok(Step::Defer);
        }
        if level > self.level || self.edges[at].state == EdgeState::Rejected {
            return self.misconduct(at, "Connect on an edge that cannot become the core");
        }
        if level == limits::LEVEL_MAX {
            return self.misconduct(at, "a level above the bound");
        }
        // Both chose it: the new core. The other end does the same.
        self.edges[at].connected = true;
        let fragment = self.edges[at].key.clone();
        let initiate = Ghs::Initiate { level: level + 1, fragment, find: true };
        out.push((self.edges[at].link, initiate));
        Ok(Step::Handled)
    }

    /// Sends our own level, fragment and state to the peers beyond a branch.
    fn initiate(&mut self, at: usize, out: &mut Out) {
        let find = self.state == State::Find;
        let fragment = self.fragment.clone().expect("a peer above level 0 has a fragment");
        out.push((self.edges[at].link, Ghs::Initiate { level: self.level, fragment, find }));
        if find {
            self.edges[at].awaited = true;
            self.find_count += 1;
        }
    }

    /// 2.3 `Initiate(L,F,S) on j`: always from the core's side, so it is obeyed.
    fn on_initiate(
        &mut self,
        at: usize,
        level: u8,
        fragment: &FragmentName,
        find: bool,
        out: &mut Out,
    ) -> Result<Step, Misconduct> {
        if self.edges[at].state != EdgeState::Branch {
            return self.misconduct(at, "Initiate on an edge that is no branch");
        }
        if level <= self.level || level > limits::LEVEL_MAX {
            return self.misconduct(at, "Initiate that does not raise the level");
        }
        if self.state == State::Find || self.find_count > 0 {
            return self.misconduct(at, "Initiate while this fragment still searches");
        }
        self.level = level;
        self.fragment = Some(fragment.clone());
        self.state = if find { State::Find } else { State::Found };
        self.in_branch = Some(at);
        self.best_edge = None;
        self.best_key = None;
        self.test_edge = None;
        for other in 0..self.edges.len() {
            if other != at && self.edges[other].state == EdgeState::Branch {
                self.initiate(other, out);
            }
        }
        if find {
            self.test(out);
        }
        Ok(Step::Handled)
    }

    /// 2.3 `test()`: one at a time, best first.
    fn test(&mut self, out: &mut Out) {
        let basic = |edge: &Edge| edge.state == EdgeState::Basic;
        let from = self.first_basic;
        self.first_basic =
            self.edges[from..].iter().position(basic).map_or(self.edges.len(), |at| from + at);
        if let Some(edge) = self.edges.get(self.first_basic) {
            let fragment = self.fragment.clone().expect("only a peer with a fragment tests");
            self.test_edge = Some(self.first_basic);
            out.push((edge.link, Ghs::Test { level: self.level, fragment }));
        } else {
            self.test_edge = None;
            self.report(out);
        }
    }

    /// 2.3 `Test(L,F) on j`.
    fn on_test(
        &mut self,
        at: usize,
        level: u8,
        fragment: &FragmentName,
        out: &mut Out,
    ) -> Result<Step, Misconduct> {
        if level > limits::LEVEL_MAX {
            return self.misconduct(at, "a level above the bound");
        }
        if level > self.level && !mutant::on(Mutant::TestAnswered) {
            return Ok(Step::Defer);
        }
        if !same(self.fragment.as_ref(), Some(fragment)) {
            out.push((self.edges[at].link, Ghs::Accept));
            return Ok(Step::Handled);
        }
        if self.edges[at].state == EdgeState::Basic {
            self.edges[at].state = EdgeState::Rejected;
        }
        if self.test_edge == Some(at) {
            // Crossing Tests: each is the other's Reject.
            self.test(out);
        } else {
            out.push((self.edges[at].link, Ghs::Reject));
        }
        Ok(Step::Handled)
    }

    /// 2.3 `Accept on j`.
    fn on_accept(&mut self, at: usize, out: &mut Out) -> Result<Step, Misconduct> {
        if self.test_edge != Some(at) {
            return self.misconduct(at, "Accept without a Test");
        }
        self.test_edge = None;
        self.offer(at, Some(self.edges[at].key.clone()));
        self.report(out);
        Ok(Step::Handled)
    }

    /// 2.3 `Reject on j`.
    fn on_reject(&mut self, at: usize, out: &mut Out) -> Result<Step, Misconduct> {
        if self.test_edge != Some(at) {
            return self.misconduct(at, "Reject without a Test");
        }
        if self.edges[at].state == EdgeState::Basic {
            self.edges[at].state = EdgeState::Rejected;
        }
        self.test(out);
        Ok(Step::Handled)
    }

    /// Keeps the better of what was found so far and `key`, found beyond `at`. None is the worst.
    fn offer(&mut self, at: usize, key: Option<EdgeKey>) {
        if compare(key.as_ref(), self.best_key.as_ref()).is_gt() {
            self.best_edge = Some(at);
            self.best_key = key;
        }
    }

    /// 2.3 `report()`.
    fn report(&mut self, out: &mut Out) {
        if self.state == State::Find && self.find_count == 0 && self.test_edge.is_none() {
            self.state = State::Found;
            let at = self.in_branch.expect("a searching peer was told to by its in-branch");
            out.push((self.edges[at].link, Ghs::Report { best: self.best_key.clone() }));
        }
    }

    /// 2.3 `Report(k) on j`.
    fn on_report(
        &mut self,
        at: usize,
        best: Option<&EdgeKey>,
        out: &mut Out,
    ) -> Result<Step, Misconduct> {
        if mutant::on(Mutant::HaltFirst) && best.is_none() && self.best_key.is_none() {
            self.halted = true;
            return Ok(Step::Handled);
        }
        if self.in_branch != Some(at) {
            if !self.edges[at].awaited {
                return self.misconduct(at, "Report that nobody asked for");
            }
            self.edges[at].awaited = false;
            self.find_count -= 1;
            self.offer(at, best.cloned());
            self.report(out);
            return Ok(Step::Handled);
        }
        if !same(self.fragment.as_ref(), Some(&self.edges[at].key)) {
            return self.misconduct(at, "Report towards the leaves");
        }
        if self.state == State::Find && !mutant::on(Mutant::CoreReportEarly) {
            return Ok(Step::Defer);
        }
        if compare(best, self.best_key.as_ref()).is_lt() {
            self.change_root(at, out)?;
        } else if best.is_none() && self.best_key.is_none() {
            // Both core peers see this: HALT.
            self.halted = true;
        }
        Ok(Step::Handled)
    }

    /// 2.3 `change_root()`; `at` is where the message came from that caused it.
    fn change_root(&mut self, at: usize, out: &mut Out) -> Result<(), Misconduct> {
        let Some(best) = self.best_edge.take() else {
            return self.misconduct(at, "ChangeRoot towards a peer that found no edge");
        };
        if self.edges[best].state == EdgeState::Branch {
            out.push((self.edges[best].link, Ghs::ChangeRoot));
        } else {
            out.push((self.edges[best].link, Ghs::Connect { level: self.level }));
            self.edges[best].state = EdgeState::Branch;
        }
        Ok(())
    }

    /// 2.3 `ChangeRoot on j`.
    fn on_change_root(&mut self, at: usize, out: &mut Out) -> Result<Step, Misconduct> {
        if self.in_branch != Some(at) || self.state != State::Found {
            return self.misconduct(at, "ChangeRoot that does not come from the core's side");
        }
        self.change_root(at, out)?;
        Ok(Step::Handled)
    }
}

/// None is the worst.
fn compare(one: Option<&EdgeKey>, other: Option<&EdgeKey>) -> Ordering {
    if mutant::on(Mutant::TiesWithoutNames) {
        return one.map(|key| key.capacity).cmp(&other.map(|key| key.capacity));
    }
    one.cmp(&other)
}

/// The name of the same fragment.
fn same(one: Option<&FragmentName>, other: Option<&FragmentName>) -> bool {
    compare(one, other).is_eq()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use rand_chacha::ChaCha20Rng;
    use rand_core::{Rng, SeedableRng};

    use super::*;
    use crate::sim::check;
    use crate::types::Bandwidth;

    fn name(at: usize) -> PeerName {
        PeerName::new(&format!("p{at:02}")).unwrap()
    }

    fn key(bps: u64, a: usize, b: usize) -> EdgeKey {
        EdgeKey::new(Bandwidth::from_bps(bps), name(a), name(b))
    }

    /// Peers and in-order edges without gate, sessions or time: only the rules of 2.3.
    struct Bare {
        peers: Vec<Computation>,
        ends: Vec<(usize, usize)>,
        /// Per edge, towards its second and its first end.
        queues: Vec<[VecDeque<Ghs>; 2]>,
        sent: usize,
    }

    impl Bare {
        fn new(count: usize, edges: &[(u64, usize, usize)]) -> Self {
            let of = |peer: usize| {
                edges.iter().enumerate().filter(move |(_, (_, a, b))| *a == peer || *b == peer).map(
                    |(at, (bps, a, b))| (LinkId(u16::try_from(at).unwrap()), key(*bps, *a, *b)),
                )
            };
            Self {
                peers: (0..count).map(|peer| Computation::new(name(peer), of(peer))).collect(),
                ends: edges.iter().map(|(_, a, b)| (*a, *b)).collect(),
                queues: edges.iter().map(|_| Default::default()).collect(),
                sent: 0,
            }
        }

        fn queue(&mut self, from: usize, out: Out) {
            for (link, message) in out {
                let edge = usize::from(link.0);
                let side = usize::from(self.ends[edge].0 != from);
                self.queues[edge][side].push_back(message);
                self.sent += 1;
            }
        }

        /// Any order between edges, the given order on each.
        fn run(&mut self, rng: &mut ChaCha20Rng) {
            for peer in 0..self.peers.len() {
                let mut out = Vec::new();
                self.peers[peer].wake(&mut out);
                self.queue(peer, out);
            }
            loop {
                let full: Vec<(usize, usize)> = (0..self.queues.len())
                    .flat_map(|edge| [(edge, 0), (edge, 1)])
                    .filter(|(edge, side)| !self.queues[*edge][*side].is_empty())
                    .collect();
                if full.is_empty() {
                    return;
                }
                let (edge, side) = full[rng.next_u32() as usize % full.len()];
                let message = self.queues[edge][side].pop_front().unwrap();
                let to = if side == 0 { self.ends[edge].1 } else { self.ends[edge].0 };
                let mut out = Vec::new();
                let link = LinkId(u16::try_from(edge).unwrap());
                self.peers[to].handle(link, message, &mut out).unwrap();
                self.peers[to].invariants();
                self.queue(to, out);
            }
        }
    }

    /// I1 and I3 for the bare algorithm: any delivery order, ties, several components.
    #[test]
    fn a7_the_forest_is_the_maximum_one_within_the_message_bound() {
        for seed in 0..400 {
            let mut rng = ChaCha20Rng::seed_from_u64(seed);
            let count = 1 + rng.next_u32() as usize % 16;
            let dense = 1 + rng.next_u32() % 9;
            let mut edges = Vec::new();
            for a in 0..count {
                for b in a + 1..count {
                    if rng.next_u32() % 10 < dense {
                        edges.push((u64::from(rng.next_u32() % 3), a, b));
                    }
                }
            }
            let mut bare = Bare::new(count, &edges);
            bare.run(&mut rng);

            let keys: Vec<EdgeKey> = edges.iter().map(|(bps, a, b)| key(*bps, *a, *b)).collect();
            let forest = check::maximum_forest(&keys);
            let mut branches: Vec<EdgeKey> = Vec::new();
            for peer in &bare.peers {
                assert!(peer.nothing_deferred(), "seed {seed}");
                assert!(u32::from(peer.level()) <= count.ilog2(), "seed {seed}");
                branches.extend(peer.branches().map(|(_, key)| key.clone()));
            }
            assert_eq!(branches.len(), 2 * forest.len(), "seed {seed}: one-sided branches");
            assert_eq!(branches.into_iter().collect::<BTreeSet<_>>(), forest, "seed {seed}");
            let leaders = bare.peers.iter().filter(|peer| peer.leads()).count();
            assert_eq!(leaders, count - forest.len(), "seed {seed}: one leader a component");
            let log = count.next_power_of_two().ilog2() as usize;
            assert!(bare.sent <= 2 * edges.len() + 5 * count * log, "seed {seed}: {}", bare.sent);
        }
    }

    #[test]
    fn a4_a_peer_without_links_is_a_tree_of_one() {
        let mut alone = Computation::new(name(0), []);
        let mut out = Vec::new();
        alone.wake(&mut out);
        assert!(alone.halted() && alone.leads() && out.is_empty());
        assert_eq!(alone.parent(), None);
    }

    #[test]
    fn what_no_honest_peer_sends_is_misconduct_and_changes_no_tree() {
        let core = key(1, 0, 1);
        let connect = |level| Ghs::Connect { level };
        let test = |level| Ghs::Test { level, fragment: key(9, 8, 9) };
        let initiate = |level| Ghs::Initiate { level, fragment: core.clone(), find: true };
        let cases: Vec<(Vec<Ghs>, &str)> = vec![
            (vec![Ghs::Accept], "Accept without a Test"),
            (vec![Ghs::Reject], "Reject without a Test"),
            (vec![Ghs::Report { best: None }], "Report that nobody asked for"),
            (vec![Ghs::ChangeRoot], "ChangeRoot"),
            (vec![connect(0), connect(0)], "a second Connect"),
            (vec![connect(3)], "cannot become the core"),
            (vec![initiate(0)], "does not raise"),
            (vec![initiate(200)], "does not raise"),
            (vec![test(200)], "above the bound"),
            (vec![test(9), test(9)], "a second message that must be deferred"),
        ];
        for (messages, text) in cases {
            let mut peer = Computation::new(name(0), [(LinkId(0), core.clone())]);
            let mut out = Vec::new();
            peer.wake(&mut out);
            let mut last = Ok(());
            for message in messages {
                last = peer.handle(LinkId(0), message, &mut out);
            }
            assert!(last.as_ref().unwrap_err().why.contains(text), "{text}: {last:?}");
            peer.invariants();
        }
        let mut peer = Computation::new(name(0), [(LinkId(0), core)]);
        assert!(peer.handle(LinkId(1), Ghs::Accept, &mut Vec::new()).is_err());
        assert!(peer.finish(LinkId(0)).is_err(), "DONE before anything was done");
    }
}
