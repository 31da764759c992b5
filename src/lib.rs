//! Spanway: guaranteed-rate channels for live UDP streams over an overlay of Linux hosts.
//!
//! # The two routes
//!
//! ```text
//! FRAME    UDP ─► net (reap a batch) ─► wire::frame::parse ─► engine::table look-up ─► engine::forward
//!                                                                      verdict per frame
//!                    Relay: relabel in place ─► net (submit)      Local ─► local socket
//!                    Drop(reason) ─► stats
//!
//! MESSAGE  TCP ─► daemon::connection (Noise) ─► wire::control::parse ─► daemon::control
//!             ─► proto::node::handle(now, Input, &mut actions)
//!                   ├─ link ─ session ─ ghs ─ overlay        greeting, tree
//!                   └─ channel ─ reservation ─ query         reservations, questions
//!          Send(link, Message) ─► daemon::connection       Answer(request) ─► api
//!          OpenEnd / SetEntry / AddLabel ─► engine::Command   Event ─► log, waiting clients
//! ```
//!
//! # Layers, from the bottom
//!
//! | module | what | pure |
//! | --- | --- | --- |
//! | [`types`], [`limits`] | words of the glossary, every bound | yes |
//! | [`wire`] | bytes to values and back | yes |
//! | [`proto`] | control plane: one machine, `handle` and `poll_timeout` | yes |
//! | [`engine`] | data plane; `forward`, `table` pure, `worker` and `pool` not | half |
//! | [`net`] | the only code that knows the kernel's frame sockets | no |
//! | [`sim`] | a deterministic world for `proto`, and its judges | yes |
//! | [`daemon`] | where the two halves meet; clocks, files, TCP | no |
//! | [`api`], [`cli`] | local clients: typed requests in, answers out | no |
//!
//! `proto` and `engine` never import each other; `tests/tidy.rs` checks every direction.

#![deny(unsafe_code)]

pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod engine;
pub mod limits;
pub mod mutant;
pub mod net;
pub mod proto;
pub mod sim;
pub mod stats;
pub mod trace;
pub mod types;
pub mod wire;
