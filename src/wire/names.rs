//! What control messages are called in statistics.

use super::control::Message;

impl Message {
    /// The name of its kind: the same at both ends, with the same meaning in every version.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Bye(_) => "bye",
            Self::Capacity(_) => "capacity",
            Self::Start(_) => "start",
            Self::Ghs { .. } => "ghs",
            Self::Done { .. } => "done",
            Self::Members { .. } => "members",
            Self::Commit { .. } => "commit",
            Self::Reserve(_) => "reserve",
            Self::Accept(_) => "accept",
            Self::Nack(_) => "nack",
            Self::Release(_) => "release",
            Self::Refresh(_) => "refresh",
            Self::Finish { .. } => "finish",
            Self::FinishAck { .. } => "finish_ack",
            Self::Move { .. } => "move",
            Self::Routed(_) => "routed",
            Self::Queue(_) => "queue",
            Self::Measure(_) => "measure",
            Self::Gossip(_) => "gossip",
        }
    }
}
