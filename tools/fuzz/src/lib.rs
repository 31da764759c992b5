//! What is fuzzed: one function for each target, which takes any bytes, panics when something is wrong and
//! returns otherwise. `cargo xtask fuzz` runs them with coverage and AddressSanitizer; `tests/fuzz.rs`
//! includes this file and replays the corpus with the stable compiler.

mod bytes;
mod config;
mod control;
mod frames;
mod graph;
mod liar;
mod seal;
mod small;
mod stranger;
mod web;

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

pub type Target = fn(&[u8]);

/// By name, with what each one asserts.
pub const TARGETS: &[(&str, Target, &str)] = &[
    ("frame", frames::frame, "F1: a header that parses is emitted as it was"),
    (
        "link",
        frames::link,
        "F2: any datagrams on a worker's port: in place, never over the end, counted",
    ),
    (
        "seal",
        seal::ends,
        "F2: what arrives at a sealed end opens once and as it was sent, or moves nothing",
    ),
    ("control", control::codec, "F3: a message that parses is emitted as it was"),
    ("liar", liar::liar, "F4: a neighbour that lies harms neither the node nor others' channels"),
    ("facts", graph::facts, "F5: facts come to the same in any order and any number of times"),
    ("web", web::web, "F7: requests to the web API: no error of the server"),
    (
        "config",
        config::file,
        "F8: a configuration is taken or refused with a place; an edit keeps it valid",
    ),
    ("cli", config::arguments, "F9: arguments are taken or refused"),
    ("tree", control::tree, "F13: edges of a COMMIT are a tree with every next hop, or refused"),
    ("address", stranger::address, "F14: what others name is what a table of networks says"),
    ("invite", stranger::invitation, "an invitation reads back as it was, or is refused"),
    ("replay", small::replay, "F15: the replay window agrees with a set"),
    ("ring", small::ring, "F16: the rings between workers agree with queues"),
];

pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, ..)| *known == name).map(|(_, target, _)| *target)
}

/// The longest any input may take, of a CPU.
const LONGEST: Duration = Duration::from_millis(100);

/// Of this process, so that what else runs on the machine does not count.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap_or_default()
}

/// Fails if an input takes too long three times in a row: one that is merely unlucky does not.
pub fn in_time(target: Target, data: &[u8]) {
    let mut took = Duration::MAX;
    for _ in 0..3 {
        let began = cpu_time();
        target(data);
        took = took.min(cpu_time().saturating_sub(began));
        if took <= LONGEST {
            return;
        }
    }
    panic!("an input of {} bytes takes {took:?}; {LONGEST:?} are allowed", data.len());
}
