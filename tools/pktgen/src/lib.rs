//! `spanway-pktgen`: sends datagrams that can be told apart, says what became of them, and searches the
//! highest rate that something between sender and receiver carries.
//!
//! | module | what | |
//! | --- | --- | --- |
//! | [`payload`] | the bytes: flow, sequence, stamp, sums | pure |
//! | [`schedule`] | rates, sizes, the pacer | pure |
//! | [`check`] | received, lost, duplicated, reordered, corrupted | pure |
//! | [`latency`] | the HDR histogram of the stamps | pure |

#![deny(unsafe_code)]

pub mod check;
pub mod cli;
pub mod latency;
pub mod payload;
pub mod schedule;
