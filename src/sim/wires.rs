//! The wires of the simulated world: connections that come and go, messages on them in order.

use std::time::Duration;

use super::queue::Happening;
use super::{Fault, Sim, Wire};
use crate::limits;
use crate::mutant::{self, Mutant};
use crate::proto::Input;
use crate::types::{EdgeKey, LinkId};
use crate::wire::control::Message;
use crate::wire::facts::is_gossip;

impl Sim {
    /// The wire as a link: its usable capacity and its ends.
    pub(super) fn edge(&self, wire: &Wire) -> EdgeKey {
        let [one, other] = wire.ends.map(|(peer, _)| &self.peers[peer]);
        let bound = one.config.budgets.bound().min(other.config.budgets.bound());
        let capacity = wire.capacities[0].min(wire.capacities[1]).min(bound).usable();
        EdgeKey::new(capacity, one.name.clone(), other.name.clone())
    }

    /// Heartbeats take a while to miss somebody.
    pub(super) fn detach_later(&mut self, wire: usize, side: usize, connection: u64) {
        let noticed = self.now + self.between((Duration::ZERO, Duration::from_millis(125)));
        let at = noticed.max(self.wires[wire].arrival[side]);
        self.push(at, Happening::Detach { wire, side, connection });
    }

    pub(super) fn redial(&mut self, wire: usize) {
        let first = limits::REDIAL.0;
        let at = self.now + self.between((first, first * 2));
        self.push(at, Happening::Dial { wire });
    }

    pub(super) fn dial(&mut self, at: usize) {
        let ends = self.wires[at].ends;
        let lives = ends.map(|(peer, _)| self.peers[peer].life);
        let wire = &self.wires[at];
        let alive = |(peer, _): &(usize, LinkId)| {
            self.peers[*peer].node.is_some() && self.peers[*peer].stopped.is_none()
        };
        let alive = ends.iter().all(alive);
        let whole = wire.newest > wire.lost
            && (wire.attaching != [false; 2] || wire.at == [Some(wire.newest); 2]);
        let barred = self.now < wire.barred;
        if wire.cut || !alive || whole || barred {
            return;
        }
        self.wires[at].newest += 1;
        self.wires[at].deaf = [None; 2];
        self.wires[at].under_way = [0; 2];
        self.wires[at].attaching = [true; 2];
        let connection = self.wires[at].newest;
        for (side, life) in lives.into_iter().enumerate() {
            let arrival = self.now + self.hop();
            let arrival = arrival.max(self.wires[at].arrival[side]);
            self.wires[at].arrival[side] = arrival;
            self.push(arrival, Happening::Attach { wire: at, side, connection, life });
        }
    }

    pub(super) fn attach(&mut self, at: usize, side: usize, connection: u64, life: u32) {
        let wire = &mut self.wires[at];
        let (peer, link) = wire.ends[side];
        if wire.newest == connection {
            wire.attaching[side] = false;
        }
        let void = connection <= wire.lost || wire.at[side] >= Some(connection);
        if void || self.peers[peer].node.is_none() {
            return;
        }
        if self.peers[peer].life != life {
            // Dialled for an earlier life, which held off the dialling of this one.
            wire.lost = connection;
            self.detach_later(at, 1 - side, connection);
            return self.redial(at);
        }
        wire.at[side] = Some(connection);
        self.input(peer, Input::Connected { link, ipv6: at.is_multiple_of(2) });
    }

    pub(super) fn detach(&mut self, at: usize, side: usize, connection: u64) {
        let wire = &mut self.wires[at];
        if wire.at[side] == Some(connection) {
            wire.at[side] = None;
            let (peer, link) = wire.ends[side];
            self.redial(at);
            self.input(peer, Input::Disconnected { link, why: "the connection ended".into() });
        }
    }

    pub(super) fn deliver(&mut self, at: usize, side: usize, connection: u64, bytes: &[u8]) {
        let wire = &mut self.wires[at];
        if connection == wire.newest {
            wire.under_way[side] = wire.under_way[side].saturating_sub(1);
        }
        let heard = wire.deaf[side].is_none_or(|deaf| connection > deaf);
        if wire.at[side] == Some(connection) && connection > wire.lost && heard {
            let (peer, link) = wire.ends[side];
            let mut message = Message::parse(bytes).expect("what a peer emits can be parsed");
            if let (Message::Hello(hello), Some(highest)) = (&mut message, self.peers[peer].speaks)
            {
                // It would find no later version in common.
                hello.versions.1 = hello.versions.1.min(highest);
            }
            let name = self.peers[peer].name.clone();
            self.digest(name.as_str(), bytes);
            if self.lines.is_some() {
                self.line(&format!("{name} <- {link:?} {message:?}"));
            }
            self.feed(peer, Input::Message { link, message });
        }
    }

    pub(super) fn send(&mut self, at: usize, link: LinkId, message: &Message) {
        self.count(at, message);
        let (wire, side) = self.wire_of(at, link);
        let bytes = message.emit();
        assert!(bytes.len() <= limits::MESSAGE_BYTES_MAX, "{message:?}");
        if is_gossip(&bytes) {
            self.gossiped.messages += 1;
            self.gossiped.bytes += bytes.len() as u64;
        }
        let Some(connection) = self.wires[wire].at[side] else { return };
        let to = 1 - side;
        if connection == self.wires[wire].newest {
            let under_way = &mut self.wires[wire].under_way[to];
            *under_way += 1;
            if self.queue.is_some_and(|queue| *under_way > queue) {
                self.overflow(wire);
            }
        }
        let mut arrival = self.now + self.hop();
        if !mutant::on(Mutant::LinksNotFifo) {
            arrival = arrival.max(self.wires[wire].arrival[to]);
        }
        self.wires[wire].arrival[to] = arrival;
        self.push(arrival, Happening::Deliver { wire, side: to, connection, bytes });
    }

    /// A send queue is full: the connection is given up by both ends.
    pub(super) fn overflow(&mut self, at: usize) {
        let newest = self.wires[at].newest;
        if newest > self.wires[at].lost {
            self.touch(Fault::Cut(at));
            self.wires[at].lost = newest;
            self.push(self.now, Happening::Detach { wire: at, side: 0, connection: newest });
            self.push(self.now, Happening::Detach { wire: at, side: 1, connection: newest });
        }
    }

    pub(super) fn close(&mut self, at: usize, link: LinkId) {
        let (wire, side) = self.wire_of(at, link);
        self.touch(Fault::Cut(wire));
        if let Some(connection) = self.wires[wire].at[side].take() {
            let arrival = (self.now + self.hop()).max(self.wires[wire].arrival[1 - side]);
            self.push(arrival, Happening::Detach { wire, side: 1 - side, connection });
            self.redial(wire);
        }
    }
}
