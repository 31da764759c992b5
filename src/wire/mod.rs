//! Bytes and values: what Spanway puts on a wire, and nothing about when.
//!
//! Pure: no clock, no socket, and no heap for frames. [`frame`] is the data plane's header,
//! [`heartbeat`] the sign of life between neighbours, [`control`] the messages of a link's TCP
//! connection, [`queue`] those of requests that wait for room, [`measure`] what both ends say about the
//! capacity of a link, [`routed`] questions along a path, [`course`] what a peer did in a tree computation,
//! [`hop`] what it knows of a channel, [`tag`] the proof that a neighbour wrote a header, [`facts`] what
//! peers tell each other about the whole overlay, [`codec`] the small reader and writer the control
//! messages share.
//!
//! Versions: a frame carries the format version in its first four bits; a link agrees in Hello on one
//! control version that both ends speak. Unknown frame versions are dropped and counted, unknown
//! message types close the link with an error that names both versions.

pub mod codec;
pub mod control;
pub mod course;
pub mod facts;
pub mod frame;
pub mod heartbeat;
pub mod hop;
pub mod measure;
mod names;
pub mod proof;
pub mod queue;
pub mod routed;
pub mod tag;

/// What could not be read, and at which byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is not valid (at byte {at})")]
pub struct ParseError {
    pub what: &'static str,
    pub at: usize,
}

impl ParseError {
    pub const fn new(what: &'static str, at: usize) -> Self {
        Self { what, at }
    }
}
