//! Takes down what one computation does at this peer, for people who look: it sees the machine after each
//! message and notes what is new. Decides nothing, and no machine looks at it.
//!
//! Pure; the time comes with what happened. Bounded by [`limits::COURSE_STEPS_MAX`].

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Phase, Sessions};
use crate::limits;
use crate::proto::ghs::Computation;
use crate::types::{EdgeKey, LinkId, PeerName, Time};
use crate::wire::control::{FragmentName, Ghs};
use crate::wire::course::{Course, Step, StepKind};

/// The steps of one session so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Steps {
    steps: Vec<Step>,
    level: u8,
    fragment: Option<FragmentName>,
    branches: BTreeSet<LinkId>,
}

impl Sessions {
    /// What this peer did in its session so far, and when it adopted it.
    pub fn course(&self) -> Option<(Course, Time)> {
        let run = self.run.as_ref()?;
        let course = Course {
            session: run.signed.session.clone(),
            complete: matches!(run.phase, Phase::Committed),
            steps: run.steps.steps.clone(),
        };
        Some((course, run.adopted))
    }
}

impl Steps {
    pub(super) fn woke(&mut self, at: Duration) {
        self.note(at, StepKind::Woke, None);
    }

    pub(super) fn done(&mut self, at: Duration) {
        self.note(at, StepKind::Done, None);
    }

    /// What changed at `me` with a message, and what it sent because of it.
    pub(super) fn look(
        &mut self,
        at: Duration,
        me: &PeerName,
        computation: &Computation,
        sent: &[(LinkId, Ghs)],
    ) {
        let fragment = computation.fragment();
        if (self.level, self.fragment.as_ref()) != (computation.level(), fragment) {
            self.level = computation.level();
            self.fragment = fragment.cloned();
            let core = fragment.is_some_and(|core| core.lower == *me || core.higher == *me);
            self.note(at, if core { StepKind::Merged } else { StepKind::Joined }, None);
        }
        if computation.branches().count() == self.branches.len() {
            return;
        }
        for (link, key) in computation.branches() {
            if self.branches.insert(link) {
                let connect = |(to, message): &(LinkId, Ghs)| {
                    *to == link && matches!(message, Ghs::Connect { .. })
                };
                let chose = sent.iter().any(connect);
                let kind = if chose { StepKind::Chose } else { StepKind::Absorbed };
                self.note(at, kind, Some(other(key, me)));
            }
        }
    }

    fn note(&mut self, at: Duration, what: StepKind, neighbour: Option<&PeerName>) {
        // The last place is kept for the end.
        let room = limits::COURSE_STEPS_MAX - usize::from(what != StepKind::Done);
        if self.steps.len() < room {
            self.steps.push(Step {
                at_us: u32::try_from(at.as_micros()).unwrap_or(u32::MAX),
                what,
                level: self.level,
                fragment: self.fragment.clone(),
                neighbour: neighbour.cloned(),
            });
        }
    }
}

fn other<'a>(key: &'a EdgeKey, me: &PeerName) -> &'a PeerName {
    if key.lower == *me { &key.higher } else { &key.lower }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Bandwidth;

    fn name(text: &str) -> PeerName {
        PeerName::new(text).unwrap()
    }

    fn key(bps: u64, one: &str, other: &str) -> EdgeKey {
        EdgeKey::new(Bandwidth::from_bps(bps), name(one), name(other))
    }

    #[test]
    fn a24_the_steps_of_a_peer_tell_how_its_fragment_grew() {
        let (me, core) = (name("b"), key(9, "a", "b"));
        let edges = [(LinkId(0), core.clone()), (LinkId(1), key(5, "b", "c"))];
        let mut peer = Computation::new(me.clone(), edges);
        let (mut steps, mut sent) = (Steps::default(), Vec::new());
        steps.woke(Duration::ZERO);
        peer.wake(&mut sent);
        steps.look(Duration::ZERO, &me, &peer, &sent);
        let messages = [
            (0, Ghs::Connect { level: 0 }),
            (0, Ghs::Initiate { level: 1, fragment: core.clone(), find: true }),
            (1, Ghs::Connect { level: 0 }),
        ];
        for (at, (link, message)) in messages.into_iter().enumerate() {
            sent.clear();
            peer.handle(LinkId(link), message, &mut sent).unwrap();
            steps.look(Duration::from_millis(at as u64), &me, &peer, &sent);
        }
        let told = steps.steps.iter().map(|step| {
            let neighbour = step.neighbour.as_ref().map_or("-", PeerName::as_str);
            (step.what.as_str(), step.level, step.at_us, neighbour.to_owned())
        });
        let expected = [
            ("woke", 0, 0, "-"),
            ("chose", 0, 0, "a"),
            ("merged", 1, 1_000, "-"),
            ("absorbed", 1, 2_000, "c"),
        ];
        let expected = expected.map(|(what, level, at, peer)| (what, level, at, peer.to_owned()));
        assert_eq!(told.collect::<Vec<_>>(), expected);
        assert_eq!(steps.steps[2].fragment, Some(core));
    }

    #[test]
    fn a_peer_with_very_many_branches_tells_the_first_and_the_end() {
        let mut steps = Steps::default();
        (0..2 * limits::COURSE_STEPS_MAX).for_each(|_| steps.woke(Duration::MAX));
        steps.done(Duration::ZERO);
        steps.done(Duration::ZERO);
        assert_eq!(steps.steps.len(), limits::COURSE_STEPS_MAX);
        assert_eq!(
            (steps.steps[0].at_us, steps.steps.last().unwrap().what),
            (u32::MAX, StepKind::Done)
        );
    }
}
