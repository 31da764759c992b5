//! The facts a peer has: which of two wins, how long they live, and what they come to as one number.
//!
//! Merging is a maximum over (version, bytes), one cell for each origin's own fact and one for each of its
//! links, so it does not matter in which order, how often and by which way facts come. Facts of an
//! origin live as long as its peer fact does. Then they are remembered a while, out of sight: the peer
//! fact must not return, and if the origin lives after all, what it said of its links still stands.
//!
//! An origin that starts again counts from anywhere, so two of its lives do not say the same under one
//! version, and may be refused where facts of its earlier life are remembered. No age and no clock
//! decides then, or a copy that was on its way for long would bring back what is dead: the higher version
//! stands, dead or not, and its origin goes above it as soon as it hears of it. So who refuses a fact as
//! old tells its sender the newer one; and a newer one that is dead enters nowhere, but is passed on among
//! those to whom its origin lives ([`Verdict::EarlierLife`]), once for each time that the origin says so:
//! that way it comes to the origin, and what is lost on the way is said again.
//!
//! Assumes that its caller has checked signatures ([`Store::judge`] says with which key). Knows nothing
//! of links and messages.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use blake2::{Blake2s256, Digest};

use super::route::Picture;
use crate::limits;
use crate::types::{PeerName, PublicKey, Time};
use crate::wire::facts::{Fact, LinkFact, OriginDigest, PeerFact, Told};

/// Why a fact does not enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// The signature is not its origin's.
    Forged,
    /// The name is configured with another key, or somebody who lives has it with another.
    AnotherKey,
    /// A link fact of a peer that is not known, or that is known to be gone.
    UnknownOrigin,
    /// There is, or was until lately, a newer one.
    Old,
    /// Nobody has heard from its origin for too long.
    Expired,
    /// Its origin has too many links.
    TooManyLinks,
    /// There are too many peers or facts.
    Full,
    /// Its origin says too much.
    TooFast,
}

impl Refusal {
    pub const ALL: [Self; 8] = [
        Self::Forged,
        Self::AnotherKey,
        Self::UnknownOrigin,
        Self::Old,
        Self::Expired,
        Self::TooManyLinks,
        Self::Full,
        Self::TooFast,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Forged => "forged",
            Self::AnotherKey => "another_key",
            Self::UnknownOrigin => "unknown_origin",
            Self::Old => "old",
            Self::Expired => "expired",
            Self::TooManyLinks => "too_many_links",
            Self::Full => "full",
            Self::TooFast => "too_fast",
        }
    }
}

/// What is to be done with a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may enter if this key signed it.
    New(PublicKey),
    /// It does not enter, but if this key signed it, its origin must hear it: the origin lives, and said
    /// this in an earlier life, under a version that it has not come to again.
    EarlierLife(PublicKey),
    Duplicate,
    Refused(Refusal),
}

/// A fact and how old it was when it was heard.
#[derive(Clone, Debug)]
pub struct Held<T> {
    pub fact: T,
    digest: u64,
    heard: Time,
    age: Duration,
}

impl<T> Held<T> {
    /// Since its origin told it.
    pub fn age(&self, now: Time) -> Duration {
        self.age + now.since(self.heard)
    }

    /// When it has this age.
    fn reaches(&self, age: Duration) -> Time {
        self.heard + age.saturating_sub(self.age)
    }
}

/// Everything one peer said.
#[derive(Clone, Debug)]
pub struct Origin {
    pub peer: Held<PeerFact>,
    pub links: BTreeMap<PeerName, Held<LinkFact>>,
    /// Nobody has heard from it for too long: it is only remembered.
    dormant: bool,
    /// Highest version of an earlier life that was passed on since the origin last said that it lives.
    earlier_life: u64,
    digest: u64,
    newest: u64,
    bucket: Bucket,
}

impl Origin {
    pub fn key(&self) -> &PublicKey {
        &self.peer.fact.key
    }

    pub fn lives(&self) -> bool {
        !self.dormant
    }

    /// The digest of a peer that has heard nothing above this version, and all that still stands below.
    pub fn digest_up_to(&self, version: u64) -> u64 {
        let heard = |held: &&Held<LinkFact>| held.fact.version <= version;
        let links = self.links.values().filter(heard);
        links.fold(self.peer.digest, |sum, held| sum.wrapping_add(held.digest))
    }

    /// Its facts above this version.
    pub fn facts(&self, now: Time, above: u64) -> impl Iterator<Item = Told> {
        let links = self.links.values();
        let links = links.map(move |held| (Fact::Link(held.fact.clone()), held.age(now)));
        let peer = (Fact::Peer(self.peer.fact.clone()), self.peer.age(now));
        let facts = std::iter::once(peer).chain(links);
        facts.filter(move |(fact, _)| fact.version() > above).map(|(fact, age)| told(fact, age))
    }
}

/// A fact as it is passed on.
pub fn told(fact: Fact, age: Duration) -> Told {
    Told { age_ms: u32::try_from(age.as_millis()).unwrap_or(u32::MAX), fact }
}

/// The replicated picture.
///
/// Invariant: digest, version and what is visible depend on the live facts alone, not on the way they
/// came. The peer's own facts are in it like all others, and do not expire.
#[derive(Debug)]
pub struct Store {
    me: PeerName,
    origins: BTreeMap<PeerName, Origin>,
    /// Keys of this peer and its configured neighbours: these names have no other key.
    configured: BTreeMap<PeerName, PublicKey>,
    /// All facts, remembered ones included.
    held: usize,
    /// Of the visible facts of live origins.
    digest: u64,
    version: u64,
    /// When a peer fact or a withdrawn link must be looked at; an entry may be early or for nothing.
    due: BTreeSet<(Time, PeerName, Option<PeerName>)>,
    picture: OnceCell<Picture>,
}

impl Store {
    pub fn new(me: PeerName) -> Self {
        Self {
            me,
            origins: BTreeMap::new(),
            configured: BTreeMap::new(),
            held: 0,
            digest: 0,
            version: 0,
            due: BTreeSet::new(),
            picture: OnceCell::new(),
        }
    }

    /// The keys of this peer and of its configured neighbours. They outweigh what was heard.
    pub fn configure(&mut self, keys: BTreeMap<PeerName, PublicKey>) {
        for (name, key) in &keys {
            if self.origins.get(name).is_some_and(|origin| origin.key() != key) {
                self.remove(name);
            }
        }
        self.configured = keys;
    }

    /// May the fact enter, and with whose signature?
    pub fn judge(&mut self, now: Time, told: &Told) -> Verdict {
        let age = Duration::from_millis(told.age_ms.into());
        match &told.fact {
            Fact::Peer(fact) => self.judge_peer(now, fact, age),
            Fact::Link(fact) => self.judge_link(now, fact, age),
        }
    }

    /// Takes in a fact that [`Store::judge`] calls new and that its origin has signed, or an own one.
    pub fn insert(&mut self, now: Time, fact: Fact, age: Duration) {
        let digest = digest(&fact);
        match fact {
            Fact::Peer(fact) => self.insert_peer(Held { fact, digest, heard: now, age }),
            Fact::Link(fact) => self.insert_link(now, Held { fact, digest, heard: now, age }),
        }
    }

    /// A fact that [`Store::judge`] calls one of an earlier life is passed on.
    pub fn passed_on(&mut self, fact: &Fact) {
        let origin = self.origins.get_mut(fact.origin()).expect("judged before");
        origin.earlier_life = fact.version();
    }

    /// Lets go of what nobody has confirmed for too long.
    pub fn expire(&mut self, now: Time) {
        while let Some((at, origin, neighbour)) = self.due.pop_first() {
            if at > now {
                self.due.insert((at, origin, neighbour));
                return;
            }
            match neighbour {
                Some(neighbour) => self.expire_link(now, &origin, &neighbour),
                None => self.expire_origin(now, origin),
            }
        }
    }

    /// When [`Store::expire`] has something to do.
    pub fn next_due(&self) -> Option<Time> {
        self.due.first().map(|(at, _, _)| *at)
    }

    pub fn origin(&self, name: &PeerName) -> Option<&Origin> {
        self.origins.get(name).filter(|origin| origin.lives())
    }

    pub fn key_of(&self, name: &PeerName) -> Option<PublicKey> {
        let configured = self.configured.get(name).copied();
        configured.or_else(|| self.origin(name).map(|origin| *origin.key()))
    }

    /// The fact in the same cell, also one that is only remembered.
    pub fn held(&self, now: Time, fact: &Fact) -> Option<Told> {
        let origin = self.origins.get(fact.origin())?;
        Some(match fact {
            Fact::Peer(_) => told(Fact::Peer(origin.peer.fact.clone()), origin.peer.age(now)),
            Fact::Link(fact) => {
                let held = origin.links.get(&fact.neighbour)?;
                told(Fact::Link(held.fact.clone()), held.age(now))
            }
        })
    }

    /// Every peer that lives, in the order of names.
    pub fn live(&self) -> impl Iterator<Item = (&PeerName, &Origin)> {
        self.origins.iter().filter(|(_, origin)| origin.lives())
    }

    /// Those of them behind `after`.
    pub fn live_after(
        &self,
        after: Option<&PeerName>,
    ) -> impl Iterator<Item = (&PeerName, &Origin)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.origins.range((from, Bound::Unbounded));
        behind.filter(|(_, origin)| origin.lives())
    }

    /// What stands in a summary for an origin.
    pub fn summary(name: &PeerName, origin: &Origin) -> OriginDigest {
        OriginDigest { origin: name.clone(), digest: origin.digest, newest: origin.newest }
    }

    pub fn digest(&self) -> u64 {
        self.digest
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// The live facts as a graph.
    pub fn picture(&self) -> &Picture {
        self.picture.get_or_init(|| Picture::new(self))
    }

    /// Panics if a sum is not that of its parts or a fact has nobody to look after it.
    pub fn invariants(&self) {
        let (mut held, mut digest) = (0, 0_u64);
        for (name, origin) in &self.origins {
            held += 1 + origin.links.len();
            let sum = origin
                .links
                .values()
                .fold(origin.peer.digest, |sum, held| sum.wrapping_add(held.digest));
            assert_eq!(origin.digest, sum, "digest of {name}");
            if origin.lives() {
                digest = digest.wrapping_add(origin.digest);
            }
        }
        assert_eq!((self.held, self.digest), (held, digest));
        assert!(self.held <= limits::FACTS_MAX + limits::LINK_FACTS_MAX, "own facts come on top");
    }

    // --- Facts of peers ---

    fn judge_peer(&mut self, now: Time, fact: &PeerFact, age: Duration) -> Verdict {
        let refused = Verdict::Refused;
        if self.configured.get(&fact.origin).is_some_and(|key| *key != fact.key) {
            return refused(Refusal::AnotherKey);
        }
        let room = self.origins.len() < limits::PEERS_MAX && self.held < limits::FACTS_MAX;
        let Some(origin) = self.origins.get_mut(&fact.origin) else {
            return match (age >= limits::FACT_LIFE, room) {
                (true, _) => refused(Refusal::Expired),
                (false, false) => refused(Refusal::Full),
                (false, true) => Verdict::New(fact.key),
            };
        };
        let held = &origin.peer.fact;
        if held.key != fact.key {
            // A name goes to another key only when nobody has used it for a while.
            return match (origin.dormant, age >= limits::FACT_LIFE) {
                (true, false) => Verdict::New(fact.key),
                (true, true) => refused(Refusal::Expired),
                (false, _) => refused(Refusal::AnotherKey),
            };
        }
        if *held == *fact && origin.lives() {
            return Verdict::Duplicate;
        }
        let newer = wins(fact.version, held.version, || {
            (fact.signed_bytes(), fact.signature) > (held.signed_bytes(), held.signature)
        });
        match newer {
            false => refused(Refusal::Old),
            true if age >= limits::FACT_LIFE => {
                let unheard = origin.lives() && fact.version > origin.earlier_life;
                if unheard { Verdict::EarlierLife(fact.key) } else { refused(Refusal::Expired) }
            }
            true if !origin.bucket.ready(now) => refused(Refusal::TooFast),
            true => Verdict::New(fact.key),
        }
    }

    fn insert_peer(&mut self, held: Held<PeerFact>) {
        let name = held.fact.origin.clone();
        if self.origins.get(&name).is_some_and(|origin| *origin.key() != held.fact.key) {
            self.remove(&name);
        }
        let (dies, now) = (held.reaches(limits::FACT_LIFE), held.heard);
        let Some(origin) = self.origins.get_mut(&name) else {
            self.held += 1;
            self.digest = self.digest.wrapping_add(held.digest);
            self.due.insert((dies, name.clone(), None));
            let origin = Origin {
                digest: held.digest,
                newest: held.fact.version,
                peer: held,
                links: BTreeMap::new(),
                dormant: false,
                earlier_life: 0,
                bucket: Bucket::new(now, limits::FACTS_BURST, limits::FACTS_PER_SECOND),
            };
            self.origins.insert(name, origin);
            return self.touch();
        };
        origin.bucket.take(now);
        origin.earlier_life = 0;
        origin.newest = origin.newest.max(held.fact.version);
        let (before, awakes) = (origin.peer.digest, std::mem::take(&mut origin.dormant));
        if awakes {
            self.digest = self.digest.wrapping_add(origin.digest);
        }
        let change = held.digest.wrapping_sub(before);
        origin.digest = origin.digest.wrapping_add(change);
        self.digest = self.digest.wrapping_add(change);
        origin.peer = held;
        if awakes || change != 0 {
            self.touch();
        }
    }

    // --- Facts of links ---

    fn judge_link(&mut self, now: Time, fact: &LinkFact, age: Duration) -> Verdict {
        let refused = Verdict::Refused;
        let full = self.held >= limits::FACTS_MAX;
        let Some(origin) = self.origins.get_mut(&fact.origin).filter(|origin| origin.lives())
        else {
            return refused(Refusal::UnknownOrigin);
        };
        match origin.links.get(&fact.neighbour) {
            Some(held) if held.fact == *fact => return Verdict::Duplicate,
            Some(held) => {
                let held = &held.fact;
                let newer = wins(fact.version, held.version, || {
                    (fact.signed_bytes(), fact.signature) > (held.signed_bytes(), held.signature)
                });
                if !newer {
                    return refused(Refusal::Old);
                }
            }
            None if !fact.up && age >= limits::FACT_MEMORY => return refused(Refusal::Old),
            None if origin.links.len() >= limits::LINK_FACTS_MAX => {
                return refused(Refusal::TooManyLinks);
            }
            None if full => return refused(Refusal::Full),
            None => {}
        }
        if origin.bucket.ready(now) {
            Verdict::New(*origin.key())
        } else {
            refused(Refusal::TooFast)
        }
    }

    fn insert_link(&mut self, now: Time, held: Held<LinkFact>) {
        let name = held.fact.origin.clone();
        let neighbour = held.fact.neighbour.clone();
        if !held.fact.up {
            let forget = held.reaches(limits::FACT_MEMORY);
            self.due.insert((forget, name.clone(), Some(neighbour.clone())));
        }
        let origin = self.origins.get_mut(&name).expect("judged before");
        origin.bucket.take(now);
        origin.newest = origin.newest.max(held.fact.version);
        let digest = held.digest;
        let before = origin.links.insert(neighbour, held);
        let old = before.as_ref().map_or(0, |old| old.digest);
        self.held += usize::from(before.is_none());
        let change = digest.wrapping_sub(old);
        origin.digest = origin.digest.wrapping_add(change);
        self.digest = self.digest.wrapping_add(change);
        if change != 0 {
            self.touch();
        }
    }

    // --- Time ---

    fn expire_origin(&mut self, now: Time, name: PeerName) {
        let Some(origin) = self.origins.get_mut(&name).filter(|_| name != self.me) else { return };
        let dies = origin.peer.reaches(limits::FACT_LIFE);
        let forgotten = origin.peer.reaches(limits::FACT_MEMORY);
        if dies > now {
            self.due.insert((dies, name, None));
        } else if forgotten <= now {
            self.remove(&name);
        } else {
            if !std::mem::replace(&mut origin.dormant, true) {
                self.digest = self.digest.wrapping_sub(origin.digest);
                self.touch();
            }
            self.due.insert((forgotten, name, None));
        }
    }

    fn expire_link(&mut self, now: Time, name: &PeerName, neighbour: &PeerName) {
        let Some(origin) = self.origins.get_mut(name) else { return };
        let gone =
            |held: &Held<LinkFact>| !held.fact.up && held.reaches(limits::FACT_MEMORY) <= now;
        if origin.links.get(neighbour).is_some_and(gone) {
            origin.links.remove(neighbour);
            self.held -= 1;
        }
    }

    fn remove(&mut self, name: &PeerName) {
        let Some(origin) = self.origins.remove(name) else { return };
        self.held -= 1 + origin.links.len();
        if origin.lives() {
            self.digest = self.digest.wrapping_sub(origin.digest);
            self.touch();
        }
    }

    fn touch(&mut self) {
        self.version += 1;
        self.picture.take();
    }
}

/// The order of facts in one cell: the version, and if an origin says two things under one version, the
/// bytes, so that everybody keeps the same.
fn wins(version: u64, held: u64, more_bytes: impl FnOnce() -> bool) -> bool {
    version > held || (version == held && more_bytes())
}

/// What a fact adds to the digest of the picture: nothing if it withdraws a link. When a peer last said
/// that it lives is no part of it, or no two pictures of a large overlay would ever be equal.
fn digest(fact: &Fact) -> u64 {
    let mut hash = Blake2s256::new();
    match fact {
        Fact::Peer(fact) => hash.update(PeerFact { version: 0, ..fact.clone() }.signed_bytes()),
        Fact::Link(LinkFact { up: false, .. }) => return 0,
        Fact::Link(fact) => hash.update(fact.signed_bytes()),
    }
    let bytes: [u8; 32] = hash.finalize().into();
    u64::from_be_bytes(*bytes.first_chunk().expect("32 bytes"))
}

/// So many at once, and so many a second.
#[derive(Clone, Debug)]
pub struct Bucket {
    tokens: u32,
    burst: u32,
    per_second: u32,
    filled: Time,
}

impl Bucket {
    pub fn new(now: Time, burst: u32, per_second: u32) -> Self {
        Self { tokens: burst, burst, per_second, filled: now }
    }

    /// One more may be taken now.
    pub fn ready(&mut self, now: Time) -> bool {
        let per_token = 1_000_000 / u64::from(self.per_second);
        let more = now.0.saturating_sub(self.filled.0) / per_token;
        self.filled = self.filled + Duration::from_micros(more * per_token);
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        self.tokens = self.tokens.saturating_add(more).min(self.burst);
        self.tokens > 0
    }

    pub fn take(&mut self, now: Time) {
        self.ready(now);
        self.tokens = self.tokens.saturating_sub(1);
    }
}
