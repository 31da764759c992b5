//! Why a run of the harness ends early: one sentence that names what was tried and what to do, or the
//! operator's Ctrl-C.

use std::fmt::{self, Display};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// SIGINT, SIGTERM or SIGHUP: not worth a sentence.
    Interrupted,
    Failed(String),
}

pub(crate) type Outcome<T> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }

    /// For `map_err`: `what: error`.
    pub(crate) fn of<E: Display>(what: impl Display) -> impl FnOnce(E) -> Self {
        move |error| Self::Failed(format!("{what}: {error}"))
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupted => f.write_str("interrupted"),
            Self::Failed(text) => f.write_str(text),
        }
    }
}
