//! What two neighbours do when their pictures may differ: one summary after the other, each answered with
//! facts, until all names are compared.
//!
//! Each end asks for itself. A piece of a summary goes out only when the one before it was answered, and
//! an answer is bounded, so no queue fills however large the pictures are. Asked is when a link comes up,
//! then only when digests differ for longer than facts are under way.

use super::store::{Bucket, Store};
use crate::limits;
use crate::types::{PeerName, Time};
use crate::wire::facts::{Gossip, OriginDigest, Told};

/// One end's part in comparing pictures over one link.
#[derive(Clone, Debug)]
pub(super) struct Comparing {
    asked: Option<Asked>,
    /// The neighbour's digest and our own when it came last.
    last: Option<(u64, u64)>,
    /// Digests in a row that differed.
    differed: u32,
    /// Digests to wait before the next question, and how many it will be after that one.
    wait: u32,
    patience: u32,
    /// Questions of the neighbour that are answered.
    answers: Bucket,
}

/// A question under way.
#[derive(Clone, Debug)]
struct Asked {
    since: Time,
    /// End of the piece that waits for its answer; without one it was the last.
    end: Option<PeerName>,
}

impl Comparing {
    pub(super) fn new(now: Time) -> Self {
        Self {
            asked: None,
            last: None,
            differed: 0,
            wait: 0,
            patience: 1,
            answers: Bucket::new(now, limits::ANSWERS_BURST, limits::ANSWERS_PER_SECOND),
        }
    }

    /// A question is under way or about to be asked.
    pub(super) fn busy(&self) -> bool {
        self.asked.is_some() || self.differed > 0
    }

    /// The neighbour's digest: what to ask, if anything.
    pub(super) fn digest(&mut self, now: Time, theirs: u64, store: &Store) -> Option<Gossip> {
        let ours = store.digest();
        let first = self.last.is_none();
        let unmoved = self.last.replace((theirs, ours)) == Some((theirs, ours));
        let late = |asked: &Asked| now.since(asked.since) >= limits::COMPARE_MAX;
        if self.asked.as_ref().is_some_and(late) {
            self.asked = None;
        }
        if theirs == ours {
            (self.differed, self.wait, self.patience) = (0, 0, 1);
            return None;
        }
        if self.asked.is_some() {
            return None;
        }
        if first {
            return Some(self.ask(now, None, store));
        }
        self.differed += 1;
        self.wait = self.wait.saturating_sub(1);
        let lasts = unmoved || self.differed >= limits::DIGESTS_DIFFER_MAX;
        if !lasts || self.wait > 0 {
            return None;
        }
        (self.differed, self.wait) = (0, self.patience);
        self.patience = (self.patience * 2).min(limits::COMPARE_PATIENCE_MAX);
        Some(self.ask(now, None, store))
    }

    /// The neighbour compared the last piece up to there: the next one, if there is one.
    pub(super) fn compared(
        &mut self,
        now: Time,
        up_to: Option<PeerName>,
        store: &Store,
    ) -> Option<Gossip> {
        let asked = self.asked.take()?;
        let after = up_to.or(asked.end)?;
        Some(self.ask(now, Some(after), store))
    }

    /// May another question of the neighbour be answered?
    pub(super) fn may_answer(&mut self, now: Time) -> bool {
        let may = self.answers.ready(now);
        self.answers.take(now);
        may
    }

    fn ask(&mut self, now: Time, after: Option<PeerName>, store: &Store) -> Gossip {
        let mut origins: Vec<OriginDigest> = store
            .live_after(after.as_ref())
            .take(limits::ORIGINS_PER_SUMMARY + 1)
            .map(|(name, origin)| Store::summary(name, origin))
            .collect();
        let last = origins.len() <= limits::ORIGINS_PER_SUMMARY;
        origins.truncate(limits::ORIGINS_PER_SUMMARY);
        let end = if last { None } else { origins.last().map(|entry| entry.origin.clone()) };
        self.asked = Some(Asked { since: now, end });
        Gossip::Summary { after, origins, last }
    }
}

/// What a neighbour with this summary lacks, and how far it was compared.
pub(super) fn answer(
    now: Time,
    store: &Store,
    after: Option<&PeerName>,
    origins: &[OriginDigest],
    last: bool,
) -> (Vec<Told>, Option<PeerName>) {
    let end = origins.last().map(|entry| &entry.origin).filter(|_| !last);
    let mut facts = Vec::new();
    for (name, origin) in store.live_after(after) {
        if end.is_some_and(|end| name > end) {
            break;
        }
        let theirs = origins.binary_search_by(|entry| entry.origin.cmp(name));
        let above = match theirs.map(|at| &origins[at]) {
            Ok(theirs) if theirs.digest == Store::summary(name, origin).digest => continue,
            // It has all that we have up to there, so what is newer is enough.
            Ok(theirs) if theirs.digest == origin.digest_up_to(theirs.newest) => theirs.newest,
            Ok(_) | Err(_) => 0,
        };
        facts.extend(origin.facts(now, above));
        if facts.len() >= limits::FACTS_PER_ANSWER {
            return (facts, Some(name.clone()));
        }
    }
    (facts, None)
}
