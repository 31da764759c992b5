//! What is going to happen in the simulated world, in an order that does not depend on the heap.

use std::cmp::Ordering;

use super::Fault;
use super::frames::{Arriving, Frame};
use crate::proto::Input;
use crate::types::{Bandwidth, ChannelId, Time};
use crate::wire::facts::is_gossip;

/// Something that the world does next.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a message is the common one")]
pub(super) enum Happening {
    Dial {
        wire: usize,
    },
    Attach {
        wire: usize,
        side: usize,
        connection: u64,
        life: u32,
    },
    Detach {
        wire: usize,
        side: usize,
        connection: u64,
    },
    Deliver {
        wire: usize,
        side: usize,
        connection: u64,
        bytes: bytes::Bytes,
    },
    Wake {
        peer: usize,
        life: u32,
    },
    /// What the peer's engine or sockets answer.
    Told {
        peer: usize,
        life: u32,
        input: Input,
    },
    Configure {
        peer: usize,
        wire: usize,
        capacity: Bandwidth,
    },
    Strike(Fault),
    /// A peer that left ends.
    Gone {
        peer: usize,
        life: u32,
    },
    /// The peer goes on after it was stopped.
    Resume {
        peer: usize,
        life: u32,
    },
    /// The next frame of a stream.
    Enter {
        peer: usize,
        channel: ChannelId,
    },
    Frame {
        arriving: Arriving,
        frame: Box<Frame>,
    },
}

impl Happening {
    /// Whoever waits for rest waits for it.
    pub(super) fn is_work(&self) -> bool {
        match self {
            Self::Wake { .. } | Self::Enter { .. } | Self::Frame { .. } => false,
            Self::Deliver { bytes, .. } => !is_gossip(bytes),
            Self::Dial { .. }
            | Self::Attach { .. }
            | Self::Detach { .. }
            | Self::Told { .. }
            | Self::Configure { .. }
            | Self::Gone { .. }
            | Self::Resume { .. }
            | Self::Strike(_) => true,
        }
    }
}

/// Earlier ones first; at the same time, in the order in which they were scheduled.
#[derive(Debug)]
pub(super) struct Scheduled {
    pub(super) at: Time,
    pub(super) sequence: u64,
    pub(super) happening: Happening,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}
