//! The interfaces of a daemon. [`dto`] has the shapes of all of them.
//!
//! Local: one JSON line in, JSON lines out, over a Unix socket in the state directory that only its owner
//! may open; [`server`] and [`client`] are its two ends. Web: [`http`], REST and pages, which is itself a
//! client of the local one.

pub mod client;
pub mod dto;
pub mod http;
mod schema;
pub mod server;
