//! What may happen to the simulated world from outside, and what it does there.

use std::collections::BTreeSet;
use std::time::Duration;

use rand_core::Rng;

use super::queue::Happening;
use super::{Node, Sim, Strike, check, memo};
use crate::limits;
use crate::proto::view::ChannelState;
use crate::proto::{Action, Answer, Choice, Input, OpenRequest, Request, Side};
use crate::types::{Bandwidth, ChannelId, EdgeKey, PeerName};
use crate::wire::control::{Message, ReleaseCause};

/// A channel that is asked to leave a relay, and asked again, is away within this in a calm world.
const TIME_TO_MOVE: Duration = Duration::from_secs(1);

/// Something that happens to the world from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The wire carries nothing any more; both ends notice after a while.
    Cut(usize),
    Restore(usize),
    /// The connection stays, its messages vanish: a hung neighbour.
    Mute(usize),
    /// The peer is gone, with all its state.
    Crash(usize),
    /// The peer joins, or starts again knowing nothing.
    Start(usize),
    /// The peer leaves with Bye.
    Leave(usize),
    /// Both ends of the wire are configured anew, a moment apart.
    Capacity(usize, Bandwidth),
    /// Only the first end is; the smaller of both counts.
    CapacityAtOneEnd(usize, Bandwidth),
    /// This end of the wire misses heartbeats that were sent, and gives the link up.
    Deaf(usize, usize),
    /// Nothing comes through towards this end for so long; both notice.
    OneWay(usize, usize, Duration),
    /// The wire's connection stands still for so long; its heartbeats go on.
    Stall(usize, Duration),
    /// The peer does nothing for so long (SIGSTOP).
    Stop(usize, Duration),
    /// The peer leaves once its channels have moved, or after so long.
    Drain(usize, Duration),
    /// Somebody asks for a channel, and frames enter at both ends of it.
    Open {
        from: usize,
        to: usize,
        rate: Bandwidth,
        protect: bool,
    },
    /// One of the channels that there are is closed.
    Close(usize),
    /// The peer reads other rules, those of this number in the plan.
    Rules(usize, usize),
}

impl Sim {
    pub(super) fn apply(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::Cut(wire) => self.cut(wire),
            Fault::Restore(wire) => {
                let was_cut = std::mem::take(&mut self.wires[wire].cut);
                self.redial(wire);
                was_cut
            }
            Fault::Mute(wire) => {
                let wire = &mut self.wires[wire];
                let whole = wire.newest > wire.lost && wire.at == [Some(wire.newest); 2];
                if whole {
                    wire.lost = wire.newest;
                }
                whole
            }
            Fault::Crash(peer) => {
                let alive = self.peers[peer].node.is_some();
                let keeps = self.draw(2) == 0;
                if alive {
                    self.stop(peer, keeps);
                }
                alive
            }
            Fault::Start(peer) => self.start(peer),
            Fault::Leave(peer) => {
                let alive = self.peers[peer].node.is_some();
                if alive {
                    self.request(peer, Request::Leave { timeout: Duration::ZERO });
                    self.stop(peer, true);
                }
                alive
            }
            Fault::Capacity(wire, capacity) => {
                for (peer, _) in self.wires[wire].ends {
                    let at = self.now + self.between((Duration::ZERO, Duration::from_millis(30)));
                    self.push(at, Happening::Configure { peer, wire, capacity });
                }
                self.wires[wire].capacities[0] != capacity
            }
            Fault::CapacityAtOneEnd(wire, capacity) => {
                let (peer, _) = self.wires[wire].ends[0];
                self.push(self.now, Happening::Configure { peer, wire, capacity });
                self.wires[wire].capacities[0] != capacity
            }
            Fault::Deaf(wire, side) => self.misses_heartbeats(wire, side),
            Fault::OneWay(wire, side, time) => self.one_way(wire, side, time),
            Fault::Stall(wire, time) => {
                let until = self.now + time;
                self.wire_changed(wire, until);
                let wire = &mut self.wires[wire];
                wire.arrival = wire.arrival.map(|at| at.max(until));
                wire.newest > wire.lost
            }
            Fault::Stop(peer, time) => self.freeze(peer, time),
            Fault::Drain(peer, timeout) => {
                let alive = self.peers[peer].node.is_some();
                if alive {
                    self.request(peer, Request::Leave { timeout });
                }
                alive
            }
            Fault::Open { from, to, rate, protect } => self.open(from, to, rate, protect),
            Fault::Close(which) => self.close_some(which),
            Fault::Rules(peer, rules) => self.other_rules(peer, rules),
        }
    }

    /// One end gives the link up and closes it; the other end reads that.
    pub(super) fn misses_heartbeats(&mut self, at: usize, side: usize) -> bool {
        let wire = &self.wires[at];
        let newest = wire.newest;
        let up = newest > wire.lost && wire.at[side] == Some(newest);
        if up {
            let other = (self.now + self.hop()).max(self.wires[at].arrival[1 - side]);
            self.push(self.now, Happening::Detach { wire: at, side, connection: newest });
            self.push(other, Happening::Detach { wire: at, side: 1 - side, connection: newest });
        }
        up
    }

    pub(super) fn one_way(&mut self, at: usize, side: usize, time: Duration) -> bool {
        let wire = &mut self.wires[at];
        let up = !wire.cut && wire.newest > wire.lost;
        if up {
            let newest = wire.newest;
            wire.deaf[side] = Some(newest);
            wire.barred = wire.barred.max(self.now + time);
            let again = wire.barred;
            self.wire_changed(at, again);
            self.detach_later(at, 0, newest);
            self.detach_later(at, 1, newest);
            self.push(again, Happening::Dial { wire: at });
        }
        up
    }

    pub(super) fn freeze(&mut self, at: usize, time: Duration) -> bool {
        let peer = &mut self.peers[at];
        if peer.node.is_none() || peer.stopped.is_some() {
            return false;
        }
        let until = self.now + time;
        peer.stopped = Some(until);
        let life = peer.life;
        self.excuse_until(at, until);
        self.wires_of(at).into_iter().for_each(|wire| self.wire_changed(wire, until));
        if time > Duration::from_millis(125) {
            for wire in self.wires_of(at) {
                let side = usize::from(self.wires[wire].ends[0].0 != at);
                let connection = self.wires[wire].newest;
                self.detach_later(wire, 1 - side, connection);
                // It reads that its connections were closed when it goes on.
                self.push(until, Happening::Detach { wire, side, connection });
            }
        }
        // Behind what was scheduled for that moment before, so that it is read first.
        self.push(until, Happening::Resume { peer: at, life });
        true
    }

    pub(super) fn resume(&mut self, at: usize, life: u32) {
        if self.peers[at].life != life || self.peers[at].stopped.is_none() {
            return;
        }
        self.peers[at].stopped = None;
        self.peers[at].wake = None;
        self.schedule_wake(at);
        for wire in self.wires_of(at) {
            self.redial(wire);
        }
    }

    pub(super) fn open(&mut self, from: usize, to: usize, rate: Bandwidth, protect: bool) -> bool {
        let service = self.peers[to].config.services.first().map(|service| service.name.clone());
        let (Some(service), true) = (service, self.peers[from].node.is_some()) else {
            return false;
        };
        let request = OpenRequest {
            peer: self.peers[to].name.clone(),
            service,
            name: None,
            rate,
            rate_back: Bandwidth::from_bps(rate.bps() / 10 + 64_000),
            choice: Choice::default(),
            avoid: Vec::new(),
            deadline: limits::OPEN_DEADLINE,
            // Every other one, without a draw more.
            wait: (rate.bps() / 1_000_000).is_multiple_of(2),
            protect,
            plain: (rate.bps() / 1_000_000).is_multiple_of(3),
        };
        let id = self.request(from, Request::Open(request));
        self.opened.insert(id, (to, protect));
        true
    }

    pub(super) fn close_some(&mut self, which: usize) -> bool {
        let mut ends = Vec::new();
        for (at, peer) in self.peers.iter().enumerate() {
            let node = peer.node.as_ref().filter(|_| peer.stopped.is_none());
            let views = node.map(Node::channels).unwrap_or_default();
            let own = views.into_iter().filter(|view| view.side.is_some());
            ends.extend(own.map(|view| (at, view.id)));
        }
        let Some((at, channel)) = ends.get(which % ends.len().max(1)).cloned() else {
            return false;
        };
        self.touch_channel(&channel);
        self.request(at, Request::Close { channel });
        true
    }

    fn other_rules(&mut self, at: usize, rules: usize) -> bool {
        let rules = self.rules.get(rules).cloned().unwrap_or_default();
        let peer = &mut self.peers[at];
        let news = peer.config.allow != rules;
        peer.config.allow = rules;
        let config = peer.config.clone();
        if peer.node.is_some() {
            self.input(at, Input::Configured(config));
        }
        news
    }

    /// A peer that will notice the fault is in a session without COMMIT.
    pub(super) fn computing_around(&self, fault: Fault) -> bool {
        let computing = |peer: usize| self.node(peer).is_some_and(Node::computing);
        let of_wire = |wire: usize| self.wires[wire].ends.iter().any(|(peer, _)| computing(*peer));
        match fault {
            Fault::Cut(wire)
            | Fault::Restore(wire)
            | Fault::Mute(wire)
            | Fault::Capacity(wire, _)
            | Fault::CapacityAtOneEnd(wire, _) => of_wire(wire),
            Fault::Deaf(wire, _) | Fault::OneWay(wire, _, _) | Fault::Stall(wire, _) => {
                of_wire(wire)
            }
            Fault::Crash(peer)
            | Fault::Start(peer)
            | Fault::Leave(peer)
            | Fault::Stop(peer, _)
            | Fault::Drain(peer, _) => self.wires_of(peer).into_iter().any(of_wire),
            Fault::Open { .. } | Fault::Close(_) | Fault::Rules(..) => false,
        }
    }

    pub(super) fn start(&mut self, at: usize) -> bool {
        if self.peers[at].node.is_some() {
            return false;
        }
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let peer = &mut self.peers[at];
        // It lost its counter, so it may use the ids of its earlier life again.
        self.traffic.retain(|(session, _), _| session.initiator != peer.name);
        peer.life += 1;
        let mut node = Node::new(peer.config.clone(), peer.identity.clone(), seed, self.now);
        node.check_signatures_with(memo::right);
        peer.node = Some(node);
        self.schedule_wake(at);
        for wire in self.wires_of(at) {
            let at = self.now + self.between((Duration::ZERO, Duration::from_millis(20)));
            self.push(at, Happening::Dial { wire });
        }
        true
    }

    /// The peer's process ends. What it sent before still arrives if `keeps`.
    pub(super) fn stop(&mut self, at: usize, keeps: bool) {
        self.peer_gone(at);
        let peer = &mut self.peers[at];
        peer.node = None;
        peer.wake = None;
        peer.stopped = None;
        peer.data_links.clear();
        peer.ends.clear();
        peer.entries.clear();
        peer.labels.clear();
        for wire in self.wires_of(at) {
            let side = usize::from(self.wires[wire].ends[0].0 != at);
            self.wire_changed(wire, self.now);
            self.wires[wire].at[side] = None;
            if !keeps {
                self.wires[wire].lost = self.wires[wire].newest;
            }
            self.detach_later(wire, 1 - side, self.wires[wire].newest);
        }
    }

    pub(super) fn cut(&mut self, wire: usize) -> bool {
        if self.wires[wire].cut {
            return false;
        }
        self.wires[wire].cut = true;
        self.wire_changed(wire, self.now);
        let newest = self.wires[wire].newest;
        self.wires[wire].lost = newest;
        self.detach_later(wire, 0, newest);
        self.detach_later(wire, 1, newest);
        true
    }

    /// In a world without failures: a channel that could go another way is not left on a relay, and one
    /// that is being opened is not broken there. Another way leads over peers that stay: one that
    /// began to leave before the channel had time to move is none. A RESERVE that is still on its way to
    /// the relay, or its refusal on its way back, is nobody's loss; neither is a channel that its
    /// destination has closed.
    pub(super) fn judge_departure(&mut self, at: usize, actions: &[Action]) {
        let left = |action: &Action| matches!(action, Action::Answer { answer: Answer::Left, .. });
        if !self.calm || !actions.iter().any(left) {
            return;
        }
        let name = self.peers[at].name.clone();
        let began = |peer: usize| {
            let drain =
                |strike: &&Strike| matches!(strike.fault, Fault::Drain(of, _) if of == peer);
            self.strikes.iter().find(drain).map(|strike| strike.at)
        };
        let settled = began(at).unwrap_or(self.now) + TIME_TO_MOVE;
        let leaves = |peer: usize| peer == at || began(peer).is_some_and(|began| began <= settled);
        let (peers, links) = self.truth();
        let leaving = (0..self.peers.len()).filter(|peer| leaves(*peer));
        let leaving: BTreeSet<_> = leaving.map(|peer| &self.peers[peer].name).collect();
        let broken: BTreeSet<_> = actions.iter().filter_map(broken).collect();
        let mut wrong = Vec::new();
        let nodes = self.peers.iter().filter_map(|peer| Some((peer, peer.node.as_ref()?)));
        let views =
            nodes.flat_map(|(peer, node)| node.channels().into_iter().map(move |v| (peer, v)));
        for (asker, view) in views.filter(|(_, view)| view.side == Some(Side::Source)) {
            let [first, relays @ .., last] = &view.path[..] else { continue };
            let refused = view.state == ChannelState::Opening && !broken.contains(&view.id);
            let closed = view.state == ChannelState::Open && !self.is_end(last, &view.id);
            if refused || closed || !relays.contains(&name) {
                continue;
            }
            let ends = [first, last];
            let stays = |peer: &PeerName| ends.contains(&peer) || !leaving.contains(peer);
            let others: Vec<_> = peers.iter().filter(|peer| stays(peer)).cloned().collect();
            let usable = |link: &&EdgeKey| stays(&link.lower) && stays(&link.higher);
            let links: Vec<_> = links.iter().filter(usable).cloned().collect();
            let parts = check::components(&others, &links);
            if parts.iter().any(|part| ends.iter().all(|end| part.contains(end))) {
                let picture = asker.node.as_ref().map(|node| node.graph_view(self.now));
                wrong
                    .push(format!("{name} left, and {view:?} was on it; its picture: {picture:?}"));
            }
        }
        self.frames.books.wrong.extend(wrong);
    }

    /// Whether a peer knows itself as the destination of a channel.
    fn is_end(&self, name: &PeerName, channel: &ChannelId) -> bool {
        let peer = self.peers.iter().find(|peer| peer.name == *name);
        let node = peer.and_then(|peer| peer.node.as_ref());
        node.is_some_and(|node| node.channels().iter().any(|view| view.id == *channel))
    }
}

/// The channel that a peer cuts in two by this.
fn broken(action: &Action) -> Option<&ChannelId> {
    let Action::Send { message: Message::Release(release), .. } = action else { return None };
    (release.cause == ReleaseCause::Broken).then_some(&release.tx.channel)
}
