//! `spanway-pktgen`: sends datagrams that can be told apart, says what became of them, and searches the
//! highest rate that something between sender and receiver carries.
//!
//! | module | what | |
//! | --- | --- | --- |
//! | [`payload`] | the bytes: flow, sequence, stamp, sums | pure |
//! | [`schedule`] | rates, sizes, the pacer | pure |
//! | [`check`] | received, lost, duplicated, reordered, corrupted | pure |
//! | [`latency`] | the HDR histogram of the stamps | pure |
//! | [`search`] | the binary search of RFC 2544 | pure |
//! | [`port`] | a UDP socket: trains out, super-buffers in | |
//! | [`generate`], [`collect`], [`echo`] | the loops that send, receive and answer | |
//! | [`control`] | a sink at another host | |
//! | [`ndr`] | generator, sink and search together | |
//! | [`peer`] | the same as a peer of an overlay, over channels | |
//! | [`documents`] | the JSON of all of them | |
//! | [`report`], [`charts`] | that JSON as HTML with plots | |
//! | [`clock`], [`live`], [`affinity`] | time, progress, CPUs | |
//! | [`cli`] | the commands | |

#![deny(unsafe_code)]

pub mod affinity;
pub mod charts;
pub mod check;
pub mod cli;
pub mod clock;
pub mod collect;
pub mod control;
pub mod documents;
pub mod echo;
pub mod generate;
pub mod latency;
pub mod live;
pub mod ndr;
pub mod payload;
pub mod peer;
pub mod port;
pub mod report;
pub mod schedule;
pub mod search;
