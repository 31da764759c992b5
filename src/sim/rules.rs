//! A judge of `[[allow]]`: what is open is allowed by a rule, and nobody has more than his rule says. Shares
//! no code with the machine that keeps the rules: it looks at the channels that a peer shows.

use std::collections::BTreeMap;

use super::Peer;
use crate::proto::Side;
use crate::proto::node::Node;
use crate::proto::policy::{Rule, Which, Who};
use crate::proto::view::ChannelView;
use crate::types::{ChannelId, PeerName};

/// What is wrong.
pub fn broken(peers: &[Peer]) -> Vec<String> {
    let nodes = peers.iter().filter_map(|peer| Some((peer, peer.node.as_ref()?)));
    let ruled = nodes.filter(|(peer, _)| !peer.config().allow.is_empty());
    ruled.flat_map(|(peer, node)| broken_at(&peer.name, &peer.config().allow, node)).collect()
}

fn broken_at(name: &PeerName, rules: &[Rule], node: &Node) -> Vec<String> {
    let mut wrong = Vec::new();
    // Of each rule and peer its channels, each with the most that one of its paths takes.
    let mut taken: BTreeMap<(usize, PeerName), BTreeMap<ChannelId, u64>> = BTreeMap::new();
    for view in node.channels().into_iter().filter(|view| view.side != Some(Side::Source)) {
        let Some(at) = rules.iter().position(|rule| is_about(rule, &view)) else {
            wrong.push(format!("{name} has {} which no rule allows", view.id));
            continue;
        };
        let rate = view.rate.max(view.rate_back).bps();
        let of_peer = taken.entry((at, view.id.source.clone())).or_default();
        let most = of_peer.entry(view.id).or_default();
        *most = rate.max(*most);
    }
    for ((at, source), channels) in &taken {
        let rule = &rules[*at];
        let sum: u64 = channels.values().sum();
        let over = [
            rule.rate.is_some_and(|most| channels.values().any(|rate| *rate > most.bps())),
            rule.total.is_some_and(|most| sum > most.bps()),
            rule.channels.is_some_and(|most| channels.len() > most as usize),
        ];
        if over.contains(&true) {
            wrong.push(format!("{source} has {channels:?} at {name}, by {rule:?}"));
        }
    }
    for (at, rule) in rules.iter().enumerate() {
        let of_rule = taken.iter().filter(|((of, _), _)| *of == at);
        let sum: u64 = of_rule.flat_map(|(_, channels)| channels.values()).sum();
        if rule.everybody.is_some_and(|most| sum > most.bps()) {
            wrong.push(format!("{sum} bit/s at {name}, by {rule:?}"));
        }
    }
    wrong
}

/// Rules of the simulator name no keys.
fn is_about(rule: &Rule, view: &ChannelView) -> bool {
    let source = &view.id.source;
    let who = |who: &Who| *who == Who::Anybody || *who == Who::Name(source.clone());
    let to = |which: &Which| *which == Which::Any || *which == Which::Service(view.service.clone());
    let what = if view.side.is_none() { rule.through } else { rule.to.iter().any(to) };
    rule.peers.iter().any(who) && what
}

/// Refused by a rule although no peer has any.
pub(super) fn has_none(peers: &[Peer]) -> bool {
    peers.iter().all(|peer| peer.config().allow.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{ServiceConfig, ServiceKind};
    use crate::sim::{Fault, Plan, Sim};
    use crate::types::{Bandwidth, ServiceName, Time};

    fn mbit(rate: u64) -> Bandwidth {
        Bandwidth::from_bps(rate * 1_000_000)
    }

    /// p0 - p1 - p2 with two channels of 3 Mbit/s from end to end, and no rules.
    fn chain() -> Sim {
        let name = ServiceName::new("tv").expect("a name");
        let peers = (0..3).map(|at| PeerName::new(&format!("p{at}")).expect("a name"));
        let plan = Plan {
            peers: peers.collect(),
            links: vec![(0, 1, mbit(100)), (1, 2, mbit(100))],
            services: vec![ServiceConfig { name, kind: ServiceKind::Deliver, plain: true }],
            rules: vec![vec![Rule { total: Some(mbit(5)), ..through() }]],
            ..Plan::default()
        };
        let mut sim = Sim::new(1, &plan);
        (0..3).for_each(|peer| sim.strike(Fault::Start(peer)));
        sim.run_until(Time(2_000_000));
        for _ in 0..2 {
            sim.strike(Fault::Open { from: 0, to: 2, rate: mbit(3), protect: false });
            sim.run_until(sim.now() + std::time::Duration::from_millis(200));
        }
        sim
    }

    fn through() -> Rule {
        Rule { peers: vec![Who::Anybody], through: true, ..Rule::default() }
    }

    #[test]
    fn the_judge_sees_what_no_rule_allows_and_each_limit_that_is_passed() {
        let mut sim = chain();
        let crossing = |sim: &Sim| sim.node(1).map(Node::channel_count);
        assert_eq!((crossing(&sim), broken(sim.peers())), (Some(2), Vec::new()));
        // The judge reads rules that the peer was not told of.
        for (rule, wrong) in [
            (through(), 0),
            (Rule { through: false, to: vec![Which::Any], ..through() }, 2),
            (Rule { peers: vec![Who::Name(sim.peers()[2].name.clone())], ..through() }, 2),
            (Rule { rate: Some(mbit(2)), ..through() }, 1),
            (Rule { total: Some(mbit(5)), ..through() }, 1),
            (Rule { channels: Some(1), ..through() }, 1),
            (Rule { everybody: Some(mbit(5)), ..through() }, 1),
            (Rule { total: Some(mbit(6)), channels: Some(2), ..through() }, 0),
        ] {
            sim.peers[1].config.allow = vec![rule];
            let found = broken(sim.peers());
            assert_eq!(found.len(), wrong, "{:?}: {found:?}", sim.peers()[1].config().allow);
        }
        // Told of them, the peer ends the younger channel.
        sim.peers[1].config.allow.clear();
        sim.strike(Fault::Rules(1, 0));
        assert_eq!((crossing(&sim), broken(sim.peers())), (Some(1), Vec::new()));
    }
}
