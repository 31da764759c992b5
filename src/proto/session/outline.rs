//! What a session layer will do next, without how it came there: two machines with the same outline
//! answer whatever comes alike, but for how long they wait before they do.
//!
//! For `tests/model.rs`, which takes machines with the same outline for one. Lengths of waits are left out
//! because there every timer may fire at any time, and with them the figures that only those lengths
//! and the log depend on. Assumes what holds there: names keep their keys, and counters stay far below
//! the limits of [`crate::proto::start`].

use std::hash::{Hash, Hasher};

use super::{Live, Phase, Run, Sessions, Throttle};
use crate::proto::overlay::Overlay;
use crate::types::Time;

impl Sessions {
    /// Adds the outline at `now` to a digest.
    pub fn outline(&self, now: Time, into: &mut impl Hasher) {
        // No `..`: whoever adds a field decides here whether it belongs to the outline.
        let Self {
            me: _,
            identity: _,
            rng: _,
            guard,
            links,
            run,
            committed,
            frozen: _,
            fresh: _,
            throttle: Throttle { due, doublings: _, last: _ },
            waiting,
            strikes: _,
            counters: _,
        } = self;
        guard.recent(now).for_each(|recent| recent.hash(into));
        for (link, live) in links {
            let Live { peer: _, incarnation, capacity, hop: _, owes_since } = live;
            (link, incarnation, capacity, owes_since.is_some()).hash(into);
        }
        run.is_some().hash(into);
        if let Some(run) = run {
            run.outline(committed.as_ref(), into);
        }
        due.is_some().hash(into);
        for (link, (at, start)) in waiting {
            (link, at.since(now), &start.session, start.capacity).hash(into);
        }
    }
}

impl Run {
    fn outline(&self, committed: Option<&Overlay>, into: &mut impl Hasher) {
        let Self { signed, adopted: _, watchdog: _, edges, phase, steps: _ } = self;
        (&signed.session, edges).hash(into);
        match phase {
            Phase::Gate(held) => (0, held).hash(into),
            Phase::Computing(computation) => (1, computation).hash(into),
            Phase::Wave(wave, _) => (2, wave).hash(into),
            Phase::Committed => (3, committed).hash(into),
            Phase::Failed => 4.hash(into),
        }
    }
}
