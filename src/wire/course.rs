//! What a peer tells of its part in one tree computation, for pictures of it: an optional field of LINKS
//! that ASK_LINKS asks for. A peer that does not know it answers without.
//!
//! Pure. Nothing is decided by it.

use super::ParseError;
use super::codec::{Reader, Writer};
use crate::limits;
use crate::types::{EdgeKey, PeerName, SessionId};

/// The steps of one peer in one session, or a piece of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Course {
    pub session: SessionId,
    /// Its tree is in use at this peer.
    pub complete: bool,
    /// In their order; a peer with very many branches tells the first of them.
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Since the peer adopted the session.
    pub at_us: u32,
    pub what: StepKind,
    /// Level and fragment of the peer behind the step; no fragment at level 0.
    pub level: u8,
    pub fragment: Option<EdgeKey>,
    /// At the other end of the edge that became a branch.
    pub neighbour: Option<PeerName>,
}

/// What happened at a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// All neighbours take part: the algorithm begins.
    Woke,
    /// Its fragment takes the edge to this neighbour: the best that leads out.
    Chose,
    /// Two fragments became one of the next level, with their core at this peer.
    Merged,
    /// Its fragment has become part of another one.
    Joined,
    /// The fragment behind this neighbour, of a lower level, has become part of its own.
    Absorbed,
    /// The forest is complete.
    Done,
}

impl StepKind {
    /// The code on the wire is the position.
    pub const ALL: [Self; 6] =
        [Self::Woke, Self::Chose, Self::Merged, Self::Joined, Self::Absorbed, Self::Done];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Woke => "woke",
            Self::Chose => "chose",
            Self::Merged => "merged",
            Self::Joined => "joined",
            Self::Absorbed => "absorbed",
            Self::Done => "done",
        }
    }
}

impl Course {
    pub(super) fn emit(&self, w: &mut Writer) {
        w.session(&self.session);
        w.bool(self.complete);
        w.list(&self.steps, |w, step| {
            w.u32(step.at_us);
            w.u8(step.what as u8);
            w.u8(step.level);
            w.option(step.fragment.as_ref(), Writer::edge);
            w.option(step.neighbour.as_ref(), Writer::peer);
        });
    }

    pub(super) fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(Self {
            session: r.session("course session")?,
            complete: r.bool("course complete")?,
            steps: r.list(limits::STEPS_PER_PIECE, "course steps", |r| {
                Ok(Step {
                    at_us: r.u32("step time")?,
                    what: kind(r)?,
                    level: level(r)?,
                    fragment: r.option("step fragment", |r| r.edge("step fragment"))?,
                    neighbour: r.option("step neighbour", |r| r.peer("step neighbour"))?,
                })
            })?,
        })
    }
}

fn kind(r: &mut Reader<'_>) -> Result<StepKind, ParseError> {
    let code = usize::from(r.u8("step kind")?);
    StepKind::ALL.get(code).copied().ok_or_else(|| r.error("step kind"))
}

fn level(r: &mut Reader<'_>) -> Result<u8, ParseError> {
    match r.u8("step level")? {
        level if level <= limits::LEVEL_MAX => Ok(level),
        _ => Err(r.error("step level")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_a_step_is_its_position_in_the_closed_list() {
        for (code, kind) in StepKind::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(kind as u8), code, "{}", kind.as_str());
        }
    }
}
