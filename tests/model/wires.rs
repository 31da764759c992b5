//! The control connection of a link between two modelled peers: a queue of each direction, in order, and
//! the end of a connection that each end reads at its own time, as TCP shows it.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use spanway::types::SessionId;
use spanway::wire::control::Message;

/// The connections of one link, newest last in each queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Wire {
    pub(crate) cut: bool,
    pub(crate) newest: u64,
    /// Connections up to this one carry nothing any more.
    pub(crate) lost: u64,
    /// The connection that each end sends on.
    pub(crate) at: [Option<u64>; 2],
    /// Towards each end.
    pub(crate) queues: [VecDeque<Item>; 2],
    /// Planted: for the next connection.
    leftovers: [VecDeque<Item>; 2],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Item {
    /// The other end's greeting on this connection, with its highest session.
    Hello(u64, Option<SessionId>),
    Message(Parcel),
    /// The end of that connection.
    End(u64),
}

/// A message, compared by its bytes on the wire.
#[derive(Clone, Debug)]
pub(crate) struct Parcel(pub(crate) Arc<(Message, bytes::Bytes)>);

/// What becomes of what a peer sent before it crashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Arrives,
    Lost,
}

impl Wire {
    pub(crate) fn new() -> Self {
        let none = || [VecDeque::new(), VecDeque::new()];
        Self { cut: false, newest: 0, lost: 0, at: [None; 2], queues: none(), leftovers: none() }
    }

    pub(crate) fn needs_dialling(&self) -> bool {
        !self.cut && self.newest == self.lost
    }

    /// A new connection: each end greets, saying its highest session.
    pub(crate) fn dial(&mut self, said: [Option<SessionId>; 2]) {
        self.newest += 1;
        for (side, said) in said.into_iter().enumerate() {
            self.queues[side].push_back(Item::Hello(self.newest, said));
            self.queues[side].append(&mut self.leftovers[side]);
        }
    }

    /// From this end, if what it believes to be connected is.
    pub(crate) fn send(&mut self, side: usize, message: Message) {
        if self.at[side].is_some_and(|connection| connection > self.lost) {
            let bytes = message.emit();
            self.queues[1 - side].push_back(Item::Message(Parcel(Arc::new((message, bytes)))));
        }
    }

    pub(crate) fn cut(&mut self, leftovers: bool) {
        self.cut = true;
        for side in 0..2 {
            let lost = self.lose(side);
            if leftovers {
                let messages = |item: &Item| matches!(item, Item::Message(_));
                self.leftovers[side].extend(lost.into_iter().filter(messages));
            }
            self.end(side);
        }
        self.lost = self.newest;
    }

    /// The peer at this end is gone.
    pub(crate) fn crash(&mut self, side: usize, sent: Sent) {
        self.queues[side].clear();
        self.at[side] = None;
        if sent == Sent::Lost {
            self.lose(1 - side);
        }
        self.end(1 - side);
        self.lost = self.newest;
    }

    /// What is under way on the newest connection towards this end arrives never; returns it.
    fn lose(&mut self, side: usize) -> VecDeque<Item> {
        if self.newest == self.lost {
            return VecDeque::new();
        }
        let queue = &mut self.queues[side];
        let earlier = queue.iter().rposition(|item| matches!(item, Item::End(_)));
        queue.split_off(earlier.map_or(0, |at| at + 1))
    }

    fn end(&mut self, side: usize) {
        if self.newest > self.lost {
            self.queues[side].push_back(Item::End(self.newest));
        }
    }
}

impl PartialEq for Parcel {
    fn eq(&self, other: &Self) -> bool {
        self.0.1 == other.0.1
    }
}

impl Eq for Parcel {}

impl Hash for Parcel {
    fn hash<H: Hasher>(&self, into: &mut H) {
        self.0.1.hash(into);
    }
}
