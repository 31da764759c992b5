//! How a peer goes: it asks the channels that cross it to move, waits for them, says Bye. [`super::node`]
//! does it; this is how far it is.

use crate::types::{RequestId, Time};

/// How far this peer is gone.
#[derive(Debug)]
pub(super) enum Leaving {
    No,
    /// Channels that cross it move away, until then.
    Draining {
        until: Time,
        again: Time,
        asked: Vec<RequestId>,
    },
    Gone,
}
