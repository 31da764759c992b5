//! Frames in the simulated world: what enters at the ends of channels, hop by hop through the tables that
//! the peers installed, until it leaves or is dropped by name.
//!
//! The ends put paths together with the product's own [`Merge`]. Judges on the way: a frame meets a peer
//! at most twice and never runs out of hops, leaves at the other end of its own channel, in order, once
//! (I6); what entered is delivered, dropped by name or under way (I7). A channel that no fault has
//! touched loses nothing.
//!
//! Does not police, and knows no buffers: a wire takes any number of frames.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::queue::Happening;
use super::{Fault, Sim};
use crate::engine::merge::{Fate, Held, Merge, Via};
use crate::limits::HOP_LIMIT_START;
use crate::proto::Target;
use crate::types::{ChannelId, Label, LinkId, PeerName, Time};
use crate::wire::control::{Message, Release, ReleaseCause};

/// Frames of one end that may wait for those of the older path.
const WAITING_MAX: u32 = 256;

/// A frame under way.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    channel: ChannelId,
    /// The peer it entered at, and in which life.
    from: (usize, u32),
    sequence: u64,
    hops: u8,
    /// Peers it has met.
    met: Vec<usize>,
}

/// Where frames are on a wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arriving {
    pub(super) wire: usize,
    pub(super) side: usize,
    pub(super) label: Label,
    /// Lives of both ends when it was sent, so that no frame outlives a peer.
    lives: [u32; 2],
}

/// One direction of a channel: a source of frames at an end.
#[derive(Debug)]
struct Stream {
    life: u32,
    interval: Duration,
    next: u64,
    until: Time,
}

/// What comes out at an end.
#[derive(Debug)]
struct Out {
    merge: Merge,
    held: Held<Frame>,
    vias: BTreeMap<Label, Via>,
    count: u32,
    /// One more than the highest sequence that left.
    next: u64,
}

/// What became of frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrameBooks {
    pub entered: u64,
    pub delivered: u64,
    pub dropped: BTreeMap<&'static str, u64>,
    /// Of channels that no fault had touched.
    pub innocent: Vec<String>,
    /// What no frame may do.
    pub wrong: Vec<String>,
}

impl FrameBooks {
    pub fn under_way(&self) -> u64 {
        self.entered - self.delivered - self.dropped.values().sum::<u64>()
    }
}

#[derive(Debug, Default)]
pub(super) struct Frames {
    streams: BTreeMap<(usize, ChannelId), Stream>,
    outs: BTreeMap<(usize, ChannelId), Out>,
    /// Nothing arrives at a side of a wire before this.
    arrival: BTreeMap<(usize, usize), Time>,
    /// A fault struck one of their paths, or an end was closed.
    touched: BTreeSet<ChannelId>,
    pub(super) books: FrameBooks,
}

impl Sim {
    /// What became of all frames so far.
    pub fn frame_books(&self) -> &FrameBooks {
        &self.frames.books
    }

    /// Frames enter at this end of the channel from now on, until then.
    pub fn stream(&mut self, peer: usize, channel: &ChannelId, interval: Duration, until: Time) {
        let stream = Stream { life: self.peers[peer].life, interval, next: 0, until };
        self.frames.streams.insert((peer, channel.clone()), stream);
        let channel = channel.clone();
        self.push(self.now, Happening::Enter { peer, channel });
    }

    /// The fault may cost frames of the channels that use what it strikes.
    pub(super) fn touch(&mut self, fault: Fault) {
        let names = |peer: usize| self.peers[peer].name.clone();
        let wire_ends = |wire: usize| self.wires[wire].ends.map(|(peer, _)| names(peer));
        let (peer, wire) = match fault {
            Fault::Cut(wire)
            | Fault::Mute(wire)
            | Fault::Deaf(wire, _)
            | Fault::OneWay(wire, _, _)
            | Fault::Stall(wire, _) => (None, Some(wire_ends(wire))),
            Fault::Crash(peer)
            | Fault::Leave(peer)
            | Fault::Stop(peer, _)
            | Fault::Rules(peer, _) => (Some(names(peer)), None),
            Fault::Drain(peer, _) => return self.touch_ends_of(peer),
            Fault::Restore(_)
            | Fault::Start(_)
            | Fault::Capacity(..)
            | Fault::CapacityAtOneEnd(..)
            | Fault::Open { .. }
            | Fault::Close(_) => return,
        };
        let mut touched = Vec::new();
        for node in self.peers.iter().filter_map(|peer| peer.node.as_ref()) {
            for view in node.channels() {
                let hit = view.reserved.iter().chain([&view.path]).any(|path| {
                    let meets = peer.as_ref().is_some_and(|peer| path.contains(peer));
                    let crosses = wire.as_ref().is_some_and(|ends| {
                        path.windows(2).any(|hop| ends.iter().all(|end| hop.contains(end)))
                    });
                    meets || crosses
                });
                touched.extend(hit.then_some(view.id));
            }
        }
        self.frames.touched.extend(touched);
    }

    /// Channels that end at a peer that leaves are closed; those that cross it lose nothing, unless they
    /// have nowhere to go.
    fn touch_ends_of(&mut self, peer: usize) {
        let name = self.peers[peer].name.clone();
        let nodes = self.peers.iter().filter_map(|peer| peer.node.as_ref());
        let views = nodes.flat_map(super::Node::channels);
        let ends = views
            .filter(|view| view.path.first() == Some(&name) || view.path.last() == Some(&name));
        let touched: Vec<_> = ends.map(|view| view.id).collect();
        self.frames.touched.extend(touched);
    }

    /// The channel tries a path over a link that a fault holds up, which an end of it has not noticed: what
    /// gets lost there is the fault's. The far end sends back on a path before the asker knows it whole.
    pub(super) fn touch_if_hurt(&mut self, channel: &ChannelId, path: &[PeerName]) {
        let hurt = (0..self.wires.len()).any(|at| {
            let wire = &self.wires[at];
            let ends = wire.ends.map(|(peer, _)| &self.peers[peer].name);
            let crosses = path.windows(2).any(|hop| ends.iter().all(|end| hop.contains(end)));
            let believes =
                |(peer, link): &(usize, LinkId)| self.peers[*peer].data_links.contains_key(link);
            let whole = self.carries_frames(at) && wire.at == [Some(wire.newest); 2];
            crosses && !whole && wire.ends.iter().any(believes)
        });
        if hurt {
            self.touch_channel(channel);
        }
    }

    /// A peer breaks the channel because a link of its own, which is up, has become too narrow for it.
    pub(super) fn touch_if_narrow(&mut self, at: usize, message: &Message) {
        let Message::Release(Release { tx, cause: ReleaseCause::Broken, failed, .. }) = message
        else {
            return;
        };
        let Some((_, far)) = failed.as_ref().filter(|(near, _)| *near == self.peers[at].name)
        else {
            return;
        };
        let mut links = self.peers[at].config.links.iter();
        let link = links.find(|link| link.peer == *far).map(|link| link.link);
        if link.is_some_and(|link| self.peers[at].data_links.contains_key(&link)) {
            self.touch_channel(&tx.channel);
        }
    }

    pub(super) fn is_touched(&self, channel: &ChannelId) -> bool {
        self.frames.touched.contains(channel)
    }

    /// Frames of this channel may be lost from now on.
    pub(super) fn touch_channel(&mut self, channel: &ChannelId) {
        self.frames.touched.insert(channel.clone());
    }

    pub(super) fn enter(&mut self, peer: usize, channel: ChannelId) {
        let (life, now) = (self.peers[peer].life, self.now);
        let key = (peer, channel.clone());
        let alive = self.peers[peer].ends.contains(&channel);
        let Some(stream) = self.frames.streams.get_mut(&key) else { return };
        if stream.life != life || !alive || now >= stream.until {
            self.frames.streams.remove(&key);
            return;
        }
        let (sequence, next) = (stream.next, now + stream.interval);
        stream.next += 1;
        self.push(next, Happening::Enter { peer, channel: channel.clone() });
        self.frames.books.entered += 1;
        let frame =
            Frame { channel, from: (peer, life), sequence, hops: HOP_LIMIT_START, met: vec![peer] };
        match self.peers[peer].entries.get(&frame.channel).cloned() {
            Some(Some(entry)) => self.go(peer, &entry.to, frame),
            Some(None) | None => self.lose(frame, "moving"),
        }
    }

    /// Sends a frame on from a peer.
    fn go(&mut self, at: usize, to: &Target, frame: Frame) {
        let Target::Hop { link, label, .. } = to else {
            return self.arrive_at_end(at, None, frame);
        };
        if !self.peers[at].data_links.contains_key(link) {
            return self.lose(frame, "no_link");
        }
        let (wire, side) = self.wire_of(at, *link);
        if !self.carries_frames(wire) {
            return self.lose(frame, "wire");
        }
        let side = 1 - side;
        let before = self.frames.arrival.get(&(wire, side)).copied().unwrap_or_default();
        let arrival = (self.now + self.hop()).max(before);
        self.frames.arrival.insert((wire, side), arrival);
        let lives = self.wires[wire].ends.map(|(peer, _)| self.peers[peer].life);
        let arriving = Arriving { wire, side, label: *label, lives };
        self.push(arrival, Happening::Frame { arriving, frame: Box::new(frame) });
    }

    pub(super) fn frame_arrives(&mut self, arriving: Arriving, mut frame: Frame) {
        let Arriving { wire, side, label, lives } = arriving;
        let ends = self.wires[wire].ends;
        let (at, link) = ends[side];
        let same_lives = ends.map(|(peer, _)| self.peers[peer].life) == lives;
        if !self.carries_frames(wire) || !same_lives || self.peers[at].node.is_none() {
            return self.lose(frame, "wire");
        }
        frame.met.push(at);
        if frame.met.iter().filter(|peer| **peer == at).count() > 2 {
            self.frames.books.wrong.push(format!("a loop: {frame:?}"));
        }
        let known = self.peers[at].labels.get(&label).cloned();
        let Some((channel, from, to)) = known else { return self.lose(frame, "unknown_label") };
        if from != link || channel != frame.channel {
            self.frames.books.wrong.push(format!("a foreign label: {frame:?} at {at}"));
        }
        match to {
            Target::Local => self.arrive_at_end(at, Some(label), frame),
            Target::Hop { .. } => {
                frame.hops -= 1;
                if frame.hops == 0 {
                    self.frames.books.wrong.push(format!("out of hops: {frame:?}"));
                }
                self.go(at, &to, frame);
            }
        }
    }

    fn carries_frames(&self, wire: usize) -> bool {
        let ends = self.wires[wire].ends;
        let alive = |&(peer, _): &(usize, LinkId)| {
            self.peers[peer].node.is_some() && self.peers[peer].stopped.is_none()
        };
        let wire = &self.wires[wire];
        !wire.cut
            && wire.deaf.iter().all(Option::is_none)
            && wire.newest > wire.lost
            && ends.iter().all(alive)
    }

    fn arrive_at_end(&mut self, at: usize, label: Option<Label>, frame: Frame) {
        let key = (at, frame.channel.clone());
        let open = self.peers[at].ends.contains(&frame.channel);
        let Some(label) = label.filter(|_| open && at != frame.from.0) else {
            self.frames.books.wrong.push(format!("no end for {frame:?} at {at}"));
            return;
        };
        let Some(out) = self.frames.outs.get_mut(&key) else {
            return self.lose(frame, "unknown_label");
        };
        let via = out.vias[&label];
        let (sequence, next) = (frame.sequence, out.next);
        match out.merge.offer(&mut out.held, via, sequence, next, || Some(frame.clone())) {
            Fate::Leaves => {
                self.leave(&key, frame);
                self.let_go(&key);
            }
            Fate::Waits => {}
            Fate::Late => self.lose(frame, "late"),
            Fate::NoRoom => {
                self.let_go(&key);
                self.arrive_at_end(at, Some(label), frame);
            }
        }
    }

    fn let_go(&mut self, key: &(usize, ChannelId)) {
        while let Some(out) = self.frames.outs.get_mut(key) {
            let Some(freed) = out.merge.next_out(&mut out.held, out.next) else { return };
            if freed.late {
                self.lose(freed.what, "late");
            } else {
                self.leave(key, freed.what);
            }
        }
    }

    /// I6.
    fn leave(&mut self, key: &(usize, ChannelId), frame: Frame) {
        let out = self.frames.outs.get_mut(key).expect("it came out here");
        if frame.sequence < out.next {
            // Within one path the wire keeps the order, so this is never the wire's doing.
            self.frames.books.wrong.push(format!("twice or out of order: {frame:?}"));
        }
        let out = self.frames.outs.get_mut(key).expect("it came out here");
        out.next = out.next.max(frame.sequence + 1);
        self.frames.books.delivered += 1;
    }

    fn lose(&mut self, frame: Frame, why: &'static str) {
        *self.frames.books.dropped.entry(why).or_default() += 1;
        if !self.frames.touched.contains(&frame.channel) && self.frames.books.innocent.len() < 5 {
            let Frame { channel, sequence, met, .. } = frame;
            let text =
                format!("{channel}: frame {sequence} met {met:?}, then {why}, {:?}", self.now);
            self.frames.books.innocent.push(text);
        }
    }

    // --- What the engine would do with what the node says ---

    pub(super) fn label_added(&mut self, at: usize, label: Label) {
        let Some((channel, _, Target::Local)) = self.peers[at].labels.get(&label).cloned() else {
            return;
        };
        let out = self.frames.outs.entry((at, channel)).or_insert_with(|| Out {
            merge: Merge::default(),
            held: Held::new(WAITING_MAX, WAITING_MAX),
            vias: BTreeMap::new(),
            count: 0,
            next: 0,
        });
        let via = Via::new(out.count);
        out.count += 1;
        out.vias.insert(label, via);
        if out.vias.len() == 1 {
            out.merge.follow(via);
        }
    }

    pub(super) fn label_removed(&mut self, at: usize, channel: &ChannelId, label: Label) {
        let key = (at, channel.clone());
        let Some(out) = self.frames.outs.get_mut(&key) else { return };
        let Some(via) = out.vias.remove(&label) else { return };
        out.merge.removed(&mut out.held, via);
        self.let_go(&key);
        let Some(out) = self.frames.outs.get_mut(&key) else { return };
        let straight = out.vias.values().any(|via| out.merge.goes_straight(*via));
        if let (1, 0, false) = (out.vias.len(), out.merge.waiting(), straight) {
            let only = *out.vias.values().next().expect("one is left");
            out.merge.follow(only);
        }
    }

    /// The end is closed, or the peer is gone: what waits there is lost.
    pub(super) fn end_closed(&mut self, at: usize, channel: &ChannelId) {
        self.touch_channel(channel);
        let key = (at, channel.clone());
        let Some(mut out) = self.frames.outs.remove(&key) else { return };
        out.merge.stop_waiting();
        while let Some(freed) = out.merge.next_out(&mut out.held, out.next) {
            self.lose(freed.what, "closed");
        }
    }

    pub(super) fn peer_gone(&mut self, at: usize) {
        let of_peer = |(peer, _): &&(usize, ChannelId)| *peer == at;
        let keys: Vec<_> = self.frames.outs.keys().filter(of_peer).cloned().collect();
        keys.iter().for_each(|(at, channel)| self.end_closed(*at, channel));
    }
}
