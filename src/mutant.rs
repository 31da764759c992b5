//! Bugs planted on purpose, to see that the tests find them: the faults that others made (2.5 of the
//! control-plane specification) and some of our own that only simulation can find.
//!
//! Without `--cfg mutants` the question [`on`] is the constant `false`, so the product has not one
//! instruction of this. With it, one bug is chosen for the whole process by [`VARIABLE`] or `plant`.
//! `cargo xtask mutants` builds that and runs the simulator on each.

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutant {
    AbsorbUncounted,
    TestAnswered,
    CoreReportEarly,
    HaltFirst,
    ConnectAccepted,
    TiesWithoutNames,
    LinksNotFifo,
    EndsDisagree,
    NoGate,
    StaleHandled,
    NewerIncarnation,
    WaveIgnoresDeath,
    WatchdogUnarmed,
    WaitingOutlivesLink,
    OldPathCutShort,
    StandbyKept,
    AvoidKept,
    StandbyTogether,
    CloseKeepsOld,
    HalfHeldKept,
}

/// Names the bug to plant, in a build with `--cfg mutants`.
pub const VARIABLE: &str = "SPANWAY_MUTANT";

impl Mutant {
    /// Each with its name, where it is and what it does wrong; in the order of their numbers.
    const FACTS: [(Self, &str, &str, &str); 20] = [
        (
            Self::AbsorbUncounted,
            "absorb-uncounted",
            "ghs",
            "a fragment absorbed while searching is not waited for",
        ),
        (
            Self::TestAnswered,
            "test-answered",
            "ghs",
            "a Test of a higher level is answered at once",
        ),
        (
            Self::CoreReportEarly,
            "core-report-early",
            "ghs",
            "the other core peer's Report counts while searching",
        ),
        (Self::HaltFirst, "halt-first", "ghs", "a leaf's empty Report ends the computation"),
        (
            Self::ConnectAccepted,
            "connect-accepted",
            "ghs",
            "a Connect of the own level is accepted at once",
        ),
        (
            Self::TiesWithoutNames,
            "ties-without-names",
            "ghs",
            "edges and fragments are compared by capacity only",
        ),
        (Self::LinksNotFifo, "links-not-fifo", "sim", "messages of a link overtake each other"),
        (
            Self::EndsDisagree,
            "ends-disagree",
            "session",
            "one end of every tenth link is off by one bit/s",
        ),
        (Self::NoGate, "no-gate", "session", "the algorithm does not wait for all STARTs"),
        (
            Self::StaleHandled,
            "stale-handled",
            "session",
            "messages of an older session are not dropped",
        ),
        (
            Self::NewerIncarnation,
            "newer-incarnation",
            "session",
            "a session's messages leave on a later connection of the link",
        ),
        (
            Self::WaveIgnoresDeath,
            "wave-ignores-death",
            "session",
            "a link that goes down during the echo wave starts no session",
        ),
        (
            Self::WatchdogUnarmed,
            "watchdog-unarmed",
            "session",
            "nobody notices a session that does not end",
        ),
        (
            Self::WaitingOutlivesLink,
            "waiting-outlives-link",
            "session",
            "a START that waits is not forgotten when its link goes down",
        ),
        (
            Self::OldPathCutShort,
            "old-path-cut-short",
            "attempt",
            "a path of several relays is given back before its last frames have come",
        ),
        (
            Self::StandbyKept,
            "standby-kept",
            "recovery",
            "a standby path through a relay that leaves is not given back",
        ),
        (
            Self::AvoidKept,
            "avoid-kept",
            "recovery",
            "a channel that went over to its standby path steers around that failure for ever",
        ),
        (
            Self::StandbyTogether,
            "standby-together",
            "recovery",
            "a channel that moves onto links of its standby path keeps that one standing by",
        ),
        (
            Self::CloseKeepsOld,
            "close-keeps-old",
            "recovery",
            "a channel closed just after it moved keeps its old path",
        ),
        (
            Self::HalfHeldKept,
            "half-held-kept",
            "relay",
            "a relay without room on the way back keeps what it held for a channel that moves",
        ),
    ];

    pub fn all() -> impl Iterator<Item = Self> + Clone {
        Self::FACTS.iter().map(|fact| fact.0)
    }

    /// The faults of 2.5, which unit tests may find, too; the others are our own.
    pub fn is_of_the_table(self) -> bool {
        self as u8 <= Self::NewerIncarnation as u8
    }

    /// It shows in one overlay of hundreds, or of thousands.
    pub fn is_rare(self) -> bool {
        matches!(self, Self::NewerIncarnation)
    }

    /// It shows where there are channels.
    pub fn is_of_channels(self) -> bool {
        self as u8 > Self::WaitingOutlivesLink as u8
    }

    pub fn as_str(self) -> &'static str {
        self.facts().1
    }

    /// Where it is.
    pub fn place(self) -> &'static str {
        self.facts().2
    }

    /// What it does wrong.
    pub fn sentence(self) -> &'static str {
        self.facts().3
    }

    fn facts(self) -> (Self, &'static str, &'static str, &'static str) {
        Self::FACTS[self as usize]
    }
}

/// Is this bug planted?
#[cfg(not(mutants))]
#[inline(always)]
pub const fn on(_: Mutant) -> bool {
    false
}

#[cfg(mutants)]
pub use planted::{on, plant};

#[cfg(mutants)]
mod planted {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::{Mutant, VARIABLE};

    /// Its number, or [`NONE`].
    static PLANTED: OnceLock<AtomicU8> = OnceLock::new();
    const NONE: u8 = u8::MAX;

    pub fn on(mutant: Mutant) -> bool {
        PLANTED.get_or_init(from_environment).load(Ordering::Relaxed) == mutant as u8
    }

    /// Plants this bug in the whole process, and no other.
    pub fn plant(mutant: Option<Mutant>) {
        let number = mutant.map_or(NONE, |mutant| mutant as u8);
        PLANTED.get_or_init(from_environment).store(number, Ordering::Relaxed);
    }

    fn from_environment() -> AtomicU8 {
        let Ok(name) = std::env::var(VARIABLE) else { return AtomicU8::new(NONE) };
        let mutant = Mutant::all().find(|mutant| mutant.as_str() == name);
        AtomicU8::new(mutant.expect("SPANWAY_MUTANT names a planted bug") as u8)
    }
}
