//! The local interface of a daemon: one JSON line in, JSON lines out, over a Unix socket in the state
//! directory that only its owner may open. [`dto`] has the shapes, [`server`] and [`client`] the two ends.

pub mod client;
pub mod dto;
pub mod server;
