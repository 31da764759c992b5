//! M1: the algorithm alone ([`Computation`], the product's own), every order of deliveries and of waking.
//!
//! A state is what the peers know and what is under way on each direction of each link, in order. Two
//! kinds of steps: a sleeping peer wakes, the first message of a direction arrives. Every state also
//! counts the messages sent, so no state comes again, and the bound on that number is the proof
//! that every run ends.

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use spanway::proto::ghs::Computation;
use spanway::types::{EdgeKey, LinkId};
use spanway::wire::control::Ghs;
use stateright::{Model, Property};

use crate::graphs::{Case, name};

/// The overlays to check, all in one run.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) cases: Vec<Case>,
    /// Planted: messages of one direction may overtake each other.
    pub(crate) overtaking: bool,
}

/// The peers of one overlay and what is between them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Net {
    case: u16,
    peers: Vec<Arc<Computation>>,
    asleep: Vec<bool>,
    /// Two directions of each link: towards its second end, towards its first.
    wires: Vec<VecDeque<Ghs>>,
    sent: usize,
    /// What no honest peer may do.
    wrong: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Wake(usize),
    Arrive { wire: usize, position: usize },
}

impl Model for Tree {
    type State = Net;
    type Action = Step;

    fn init_states(&self) -> Vec<Net> {
        (0..).zip(&self.cases).map(|(at, case)| Net::new(at, case)).collect()
    }

    fn actions(&self, net: &Net, steps: &mut Vec<Step>) {
        if net.wrong.is_some() {
            return;
        }
        let sleeping = net.asleep.iter().enumerate().filter(|(_, asleep)| **asleep);
        steps.extend(sleeping.map(|(peer, _)| Step::Wake(peer)));
        for (wire, queue) in net.wires.iter().enumerate() {
            let positions = if self.overtaking { queue.len() } else { queue.len().min(1) };
            steps.extend((0..positions).map(|position| Step::Arrive { wire, position }));
        }
    }

    fn next_state(&self, net: &Net, step: Step) -> Option<Net> {
        let mut net = net.clone();
        net.take(self.case(&net), step);
        Some(net)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("honest peers keep the rules", |_, net: &Net| net.wrong.is_none()),
            Property::always(
                "messages and levels are within their bounds",
                |model: &Self, net: &Net| {
                    let case = model.case(net);
                    let level_max = case.peers.ilog2();
                    let levels = net.peers.iter().map(|peer| u32::from(peer.level()));
                    net.sent <= case.messages_max() && levels.max() <= Some(level_max)
                },
            ),
            Property::always("at rest the forest is Kruskal's", |model: &Self, net: &Net| {
                !net.at_rest() || net.complete(model.case(net))
            }),
            Property::sometimes("a computation ends", |_, net: &Net| net.at_rest()),
        ]
    }
}

impl Tree {
    fn case(&self, net: &Net) -> &Case {
        &self.cases[usize::from(net.case)]
    }
}

impl Net {
    fn new(at: u16, case: &Case) -> Self {
        let peer = |peer: usize| {
            let edges = (0..).zip(&case.links).filter(|(_, (a, b, _))| *a == peer || *b == peer);
            let edges = edges.map(|(link, (_, _, key))| (LinkId(link), key.clone()));
            Arc::new(Computation::new(name(peer), edges))
        };
        Self {
            case: at,
            peers: (0..case.peers).map(peer).collect(),
            asleep: vec![true; case.peers],
            wires: vec![VecDeque::new(); 2 * case.links.len()],
            sent: 0,
            wrong: None,
        }
    }

    fn take(&mut self, case: &Case, step: Step) {
        let (at, arrived) = match step {
            Step::Wake(peer) => (peer, None),
            Step::Arrive { wire, position } => {
                let (one, other, _) = case.links[wire / 2];
                let to = if wire % 2 == 0 { other } else { one };
                let message = self.wires[wire].remove(position).expect("it is under way");
                let link = LinkId(u16::try_from(wire / 2).expect("a small overlay"));
                (to, Some((link, message)))
            }
        };
        self.asleep[at] = false;
        let peer = Arc::make_mut(&mut self.peers[at]);
        let mut out = Vec::new();
        let done = catch_unwind(AssertUnwindSafe(|| {
            let done = match arrived {
                None => {
                    peer.wake(&mut out);
                    Ok(())
                }
                Some((link, message)) => peer.handle(link, message, &mut out),
            };
            peer.invariants();
            done.map_err(|misconduct| misconduct.to_string())
        }));
        self.wrong = done.unwrap_or_else(|_| Err("a peer panics".into())).err();
        self.sent += out.len();
        for (link, message) in out {
            let link = usize::from(link.0);
            let towards_second = case.links[link].0 == at;
            self.wires[2 * link + usize::from(!towards_second)].push_back(message);
        }
    }

    fn at_rest(&self) -> bool {
        !self.asleep.contains(&true) && self.wires.iter().all(VecDeque::is_empty)
    }

    /// The forest is two-sided and the maximum one, both core peers of each component have halted, one
    /// of them leads it, nothing is deferred.
    fn complete(&self, case: &Case) -> bool {
        let branches: Vec<EdgeKey> = self
            .peers
            .iter()
            .flat_map(|peer| peer.branches().map(|(_, key)| key.clone()))
            .collect();
        let lone = |peer: usize| !case.links.iter().any(|(a, b, _)| *a == peer || *b == peer);
        let lone = (0..case.peers).filter(|peer| lone(*peer)).count();
        let count =
            |of: fn(&Computation) -> bool| self.peers.iter().filter(|peer| of(peer)).count();
        branches.len() == 2 * case.forest.len()
            && branches.into_iter().collect::<BTreeSet<_>>() == case.forest
            && count(Computation::halted) == 2 * (case.components() - lone) + lone
            && count(Computation::leads) == case.components()
            && self.peers.iter().all(|peer| peer.nothing_deferred())
    }
}
