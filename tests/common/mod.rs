//! What the integration tests share. Each test program uses a part of it.

#![allow(dead_code, reason = "each test program uses another part")]
#![allow(clippy::print_stdout, reason = "a test tells what it skips and what the programs said")]

pub(crate) mod http;
pub(crate) mod liar;
pub(crate) mod netns;
pub(crate) mod overlay;
pub(crate) mod ports;
pub(crate) mod program;
pub(crate) mod seeds;
pub(crate) mod source;
pub(crate) mod stream;
pub(crate) mod transport_stream;
pub(crate) mod wiring;
