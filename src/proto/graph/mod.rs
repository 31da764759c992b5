//! The picture of the overlay that every peer keeps: peers, links, capacity and free capacity (A9, A17,
//! B3; decision 9 of the control-plane specification).
//!
//! ```text
//!  own links, own ledgers ──► own facts, signed ─┐
//!  FACTS of a neighbour ──► judge, verify ───────┴─► store ──► all other links, once
//!                                                     ├─► picture ──► widest path, views
//!                                                     └─► digest ──► GRAPH_HASH, GRAPH_SUMMARY
//! ```
//!
//! Every fact is applied once and passed on once; what a lost link or a bound swallowed is repaired by
//! comparing digests ([`compare`]). Versions of a peer's facts come from one counter that starts anywhere
//! with every life: who hears an own fact of an earlier life jumps above it and tells what is true now,
//! so neither a clock nor a disk is needed ([`store`] says who tells it).
//!
//! Assumes authenticated links that deliver in order, and a time that never goes backwards. Does not
//! choose who may be a member: who has a link is one.

mod compare;
pub mod route;
pub mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use self::compare::Comparing;
pub use self::route::Picture;
use self::store::{Bucket, Store, Verdict, told};
pub use self::store::{Origin, Refusal};
use super::view::{GraphLinkView, GraphPeerView, GraphView};
use super::{Action, Budgets, Narrowest, Timer};
use crate::limits;
use crate::types::{Bandwidth, LinkId, PeerName, PublicKey, Time};
use crate::wire::control::{FACTS_VERSION, Message};
use crate::wire::facts::{Fact, Gossip, LinkFact, PeerFact, Told};

/// A path that somebody looks for on the picture.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub to: &'a PeerName,
    /// Must be free on every link in the direction of the path, and against it.
    pub rate: Bandwidth,
    pub rate_back: Bandwidth,
    /// Links with a smaller largest payload are used only if there is no path without them.
    pub max_payload: u16,
    /// The path that the same channel has reserved now: what it has on a link of it counts as free
    /// there, each way.
    pub own: &'a [PeerName],
    /// As if nothing were reserved: all capacity counts as free.
    pub idle: bool,
    /// Links that must not be used, by their ends in any order.
    pub without_links: &'a [(PeerName, PeerName)],
    /// Peers that must not relay.
    pub without_relays: &'a [PeerName],
}

/// An own link that came up.
#[derive(Clone, Debug)]
pub struct End {
    pub peer: PeerName,
    pub key: PublicKey,
    /// Highest control version that both ends speak.
    pub version: u16,
    /// Usable capacity as both ends agreed, and what of it can still be reserved towards the neighbour.
    pub usable: Bandwidth,
    pub free_out: Bandwidth,
    pub max_payload: u16,
}

/// What happened to facts so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Of others, new to this peer.
    pub applied: u64,
    pub duplicates: u64,
    /// By the position of the reason in [`Refusal::ALL`].
    pub refused: [u64; Refusal::ALL.len()],
    /// Own facts told, and those of them told because an earlier life had said something else.
    pub told: u64,
    pub retold: u64,
    /// Messages sent, and the facts in them.
    pub messages: u64,
    pub facts: u64,
    /// Digests of neighbours that differed, and summaries sent because of them.
    pub differed: u64,
    pub summaries: u64,
}

impl Counters {
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused[reason as usize]
    }
}

/// Is this signature over these bytes right? A pure function; the simulator's remembers its answers.
pub type Check = fn(&PublicKey, &[u8], &[u8; 64]) -> bool;

/// The picture of one peer.
///
/// Kinds of methods: what happened to own links (`link_up`, `link_down`, `link_changed`), what neighbours
/// say (`message`), time (`poll_timeout`, `handle_timeout`), questions (`picture`, `widest`, `view`). What is
/// to be said is collected; [`Graph::flush`] says it, once after everything else was handled.
#[derive(Debug)]
pub struct Graph {
    me: PeerName,
    identity: SigningKey,
    key: PublicKey,
    rng: ChaCha20Rng,
    check: Check,
    store: Store,
    /// Highest version this peer has used, in this life or, as far as it heard, in earlier ones.
    newest: u64,
    leaving: bool,
    budgets: Budgets,
    links: BTreeMap<LinkId, Side>,
    outbox: Vec<Outgoing>,
    /// A link went down: the outbox waits, so that its channels move first.
    quiet_until: Option<Time>,
    /// While there is a neighbour to say it to: when all of them hear the digest, and when this peer says
    /// again that it lives.
    digest_at: Option<Time>,
    alive_at: Option<Time>,
    /// The digest is due.
    digest_now: bool,
    /// Changes of free capacity that may still be told; down and up do not wait for it.
    free_changes: Bucket,
    counters: Counters,
}

/// This end of a link that is up.
#[derive(Debug)]
struct Side {
    end: End,
    /// The free capacity that was told, and no change of it alone is told again before this.
    free_told: Bandwidth,
    free_at: Time,
    /// The neighbour has not heard our digest yet.
    greet: bool,
    comparing: Comparing,
    /// Facts with wrong signatures that may still come.
    forgeries: Bucket,
}

/// A fact to be passed on.
#[derive(Debug)]
struct Outgoing {
    told: Told,
    /// The link it came from.
    from: Option<LinkId>,
    /// Only this neighbour needs it.
    only: Option<LinkId>,
}

const FORGED: &str = "a peer fact with a wrong signature";

impl Graph {
    pub fn new(
        me: PeerName,
        identity: SigningKey,
        mut rng: ChaCha20Rng,
        now: Time,
        budgets: Budgets,
    ) -> Self {
        let newest = rng.next_u64() % limits::FIRST_VERSION_MAX;
        let mut graph = Self {
            store: Store::new(me.clone()),
            key: PublicKey(identity.verifying_key().to_bytes()),
            me,
            identity,
            rng,
            check: right,
            newest,
            leaving: false,
            budgets,
            links: BTreeMap::new(),
            outbox: Vec::new(),
            quiet_until: None,
            digest_at: None,
            alive_at: None,
            digest_now: false,
            free_changes: Bucket::new(now, limits::FACTS_BURST, limits::FACTS_PER_SECOND),
            counters: Counters::default(),
        };
        graph.tell_alive(now);
        // Nobody is there to hear it.
        graph.outbox.clear();
        graph
    }

    /// Has signatures checked by another implementation of the same function.
    pub fn check_with(&mut self, check: Check) {
        self.check = check;
    }

    /// The keys of the configured neighbours: their names have no other.
    pub fn configure(&mut self, mut keys: BTreeMap<PeerName, PublicKey>) {
        keys.insert(self.me.clone(), self.key);
        self.store.configure(keys);
    }

    /// A reload may change what the host allows.
    pub fn set_budgets(&mut self, now: Time, budgets: Budgets) {
        if std::mem::replace(&mut self.budgets, budgets) != budgets {
            self.tell_alive(now);
        }
    }

    /// Nothing new shall cross this peer.
    pub fn set_leaving(&mut self, now: Time) {
        if !std::mem::replace(&mut self.leaving, true) {
            self.tell_alive(now);
        }
    }

    pub fn link_up(&mut self, now: Time, link: LinkId, end: End) {
        let mine = self.store.origin(&self.me).expect("it is always there");
        if mine.peer.age(now) >= limits::ALIVE_INTERVAL.0 {
            self.tell_alive(now);
        }
        let peer = end.peer.clone();
        let side = Side {
            free_told: end.free_out,
            end,
            free_at: now,
            greet: true,
            comparing: Comparing::new(now),
            forgeries: Bucket::new(now, limits::FORGERIES_BURST, limits::FORGERIES_PER_SECOND),
        };
        self.links.insert(link, side);
        let mine = self.store.origin(&self.me).expect("it is always there");
        let fact = Fact::Peer(mine.peer.fact.clone());
        let told = told(fact, mine.peer.age(now));
        self.outbox.push(Outgoing { told, from: None, only: Some(link) });
        self.tell_link(now, &peer);
    }

    pub fn link_down(&mut self, now: Time, link: LinkId) {
        if let Some(side) = self.links.remove(&link) {
            self.tell_link(now, &side.end.peer);
            self.quiet_until.get_or_insert(now + limits::DOWN_QUIET);
        }
    }

    /// What the link can carry now; tells others what they must know of it (decision 9).
    pub fn link_changed(
        &mut self,
        now: Time,
        link: LinkId,
        usable: Bandwidth,
        free_out: Bandwidth,
    ) {
        let Some(side) = self.links.get_mut(&link) else { return };
        let end = &mut side.end;
        if (end.usable, end.free_out) == (usable, free_out) {
            return;
        }
        let capacity_changed = end.usable != usable;
        (end.usable, end.free_out) = (usable, free_out);
        let peer = end.peer.clone();
        let due = side.free_due().is_some_and(|at| at <= now);
        if capacity_changed || (due && self.free_changes.ready(now)) {
            self.tell_link(now, &peer);
        }
    }

    /// A neighbour's word; the error is what no honest neighbour does.
    pub fn message(
        &mut self,
        now: Time,
        link: LinkId,
        gossip: Gossip,
        out: &mut Vec<Action>,
    ) -> Result<(), &'static str> {
        let Some(side) = self.links.get_mut(&link) else { return Ok(()) };
        if !side.speaks() {
            return Err("a message of a later version");
        }
        let question = match gossip {
            Gossip::Facts(facts) => {
                return facts.into_iter().try_for_each(|told| self.heard(now, link, told));
            }
            Gossip::Hash { digest } => {
                self.counters.differed += u64::from(digest != self.store.digest());
                side.comparing.digest(now, digest, &self.store)
            }
            Gossip::Compared { up_to } => side.comparing.compared(now, up_to, &self.store),
            Gossip::Summary { after, origins, last } => {
                if side.comparing.may_answer(now) {
                    let store = &self.store;
                    let (facts, up_to) =
                        compare::answer(now, store, after.as_ref(), &origins, last);
                    self.say_facts(link, &facts, out);
                    self.say(link, Gossip::Compared { up_to }, out);
                }
                None
            }
        };
        if let Some(question) = question {
            self.counters.summaries += 1;
            self.say(link, question, out);
        }
        Ok(())
    }

    pub fn poll_timeout(&self) -> Option<(Time, Timer)> {
        let free = self.links.values().filter_map(Side::free_due).min();
        let digest = self.digest_at.map(|at| self.quiet_until.map_or(at, |quiet| at.max(quiet)));
        let times = [digest, self.alive_at, self.store.next_due(), free, self.quiet_until];
        times.into_iter().flatten().min().map(|at| (at, Timer::Gossip))
    }

    pub fn handle_timeout(&mut self, now: Time) {
        self.store.expire(now);
        if self.alive_at.is_some_and(|at| at <= now) {
            self.tell_alive(now);
        }
        if self.digest_at.is_some_and(|at| at <= now) {
            self.digest_now = true;
        }
        let due = self.links.iter().filter(|(_, side)| side.free_due().is_some_and(|at| at <= now));
        for link in due.map(|(link, _)| *link).collect::<Vec<_>>() {
            if self.free_changes.ready(now) {
                let peer = self.links[&link].end.peer.clone();
                self.tell_link(now, &peer);
            } else {
                let side = self.links.get_mut(&link).expect("listed above");
                side.free_at = now + limits::FREE_INTERVAL;
            }
        }
    }

    /// Says what was collected: facts first, then the digest where it is due.
    pub fn flush(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.quiet_until.is_some_and(|until| now < until) {
            return;
        }
        self.quiet_until = None;
        let timed = self.digest_at.is_some() && self.alive_at.is_some();
        if self.outbox.is_empty() && !self.digest_now && timed {
            return;
        }
        let outbox = std::mem::take(&mut self.outbox);
        let speaking = self.links.iter().filter(|(_, side)| side.speaks());
        let speaking: Vec<(LinkId, bool)> =
            speaking.map(|(link, side)| (*link, side.greet)).collect();
        if speaking.is_empty() {
            (self.digest_at, self.alive_at, self.digest_now) = (None, None, false);
            return;
        }
        if self.alive_at.is_none() {
            self.alive_at = Some(now + self.between(limits::ALIVE_INTERVAL));
        }
        let digest = self.store.digest();
        for (link, greet) in speaking {
            let here = |item: &&Outgoing| {
                item.from != Some(link) && item.only.is_none_or(|only| only == link)
            };
            let facts_of_link: Vec<Told> =
                outbox.iter().filter(here).map(|item| item.told.clone()).collect();
            self.say_facts(link, &facts_of_link, out);
            if greet || self.digest_now {
                self.say(link, Gossip::Hash { digest }, out);
                self.links.get_mut(&link).expect("listed above").greet = false;
            }
        }
        if self.digest_now || self.digest_at.is_none() {
            self.digest_now = false;
            self.digest_at = Some(now + self.between(limits::DIGEST_INTERVAL));
        }
    }

    /// Peers and links as a graph.
    pub fn picture(&self) -> &Picture {
        self.store.picture()
    }

    /// The widest path that fits, this peer first.
    pub fn widest(&self, wanted: &Wanted<'_>) -> Option<Vec<PeerName>> {
        let near = self.links.values().map(|side| (side.end.peer.clone(), side.end.free_out));
        self.picture().widest(&self.me, &near.collect::<Vec<_>>(), wanted)
    }

    /// The narrowest links of a path from here; none if one of its links is not there.
    pub fn narrowest(&self, path: &[PeerName]) -> Option<Narrowest> {
        let near = self.links.values().map(|side| (side.end.peer.clone(), side.end.free_out));
        self.picture().narrowest(&near.collect::<Vec<_>>(), path)
    }

    /// The first two peers on the way from here over `path` that no live link joins.
    pub fn broken_hop(&self, path: &[PeerName]) -> Option<(PeerName, PeerName)> {
        let mut before = &self.me;
        for peer in path {
            if !self.picture().linked(before, peer) {
                return Some((before.clone(), peer.clone()));
            }
            before = peer;
        }
        None
    }

    /// The peer is in the picture.
    pub fn knows(&self, peer: &PeerName) -> bool {
        self.store.origin(peer).is_some()
    }

    /// The identity of this peer, of a configured neighbour, or of a peer that is in the picture.
    pub fn key_of(&self, peer: &PeerName) -> Option<PublicKey> {
        self.store.key_of(peer)
    }

    /// A digest of the picture: equal pictures have equal ones.
    pub fn digest(&self) -> u64 {
        self.store.digest()
    }

    /// Grows with every change of the picture.
    pub fn version(&self) -> u64 {
        self.store.version()
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What one peer said of itself, while it lives.
    pub fn origin(&self, peer: &PeerName) -> Option<&Origin> {
        self.store.origin(peer)
    }

    /// No comparison is under way, and nobody's digest has differed lately.
    pub fn calm(&self) -> bool {
        !self.links.values().any(|side| side.comparing.busy())
    }

    /// The picture as values; `is_branch` says which links are edges of the tree.
    pub fn view(&self, now: Time, is_branch: impl Fn(&PeerName, &PeerName) -> bool) -> GraphView {
        let peer = |(name, origin): (&PeerName, &Origin)| GraphPeerView {
            name: name.clone(),
            age: origin.peer.age(now),
            leaving: origin.peer.fact.leaving,
            egress: origin.peer.fact.egress,
            ingress: origin.peer.fact.ingress,
        };
        let age = |one: &PeerName, other: &PeerName| {
            let half = self.store.origin(one).and_then(|origin| origin.links.get(other));
            half.map_or(Duration::ZERO, |held| held.age(now))
        };
        let link = |link: route::PictureLink<'_>| GraphLinkView {
            lower: link.lower.clone(),
            higher: link.higher.clone(),
            capacity: link.capacity,
            free_up: link.free_up,
            free_down: link.free_down,
            max_payload: link.max_payload,
            age: age(link.lower, link.higher).min(age(link.higher, link.lower)),
            tree: is_branch(link.lower, link.higher),
        };
        GraphView {
            digest: self.digest(),
            version: self.version(),
            peers: self.store.live().map(peer).collect(),
            links: self.picture().links().map(link).collect(),
        }
    }

    /// Panics if the machine has made a mistake.
    pub fn invariants(&self) {
        self.store.invariants();
        let said = self.outbox.is_empty() || self.quiet_until.is_some();
        assert!(said, "flushed after everything that was handled");
        let mine = self.store.origin(&self.me).expect("a peer knows itself");
        assert!(mine.links.values().all(|held| held.fact.version <= self.newest));
        for side in self.links.values() {
            let told = &mine.links[&side.end.peer].fact;
            assert!(told.up && told.capacity == side.end.usable, "{told:?}");
        }
    }

    // --- Own facts ---

    /// Says that this peer lives, and what it says of itself.
    fn tell_alive(&mut self, now: Time) {
        let mut fact = PeerFact {
            origin: self.me.clone(),
            key: self.key,
            version: self.next_version(),
            leaving: self.leaving,
            egress: self.budgets.egress,
            ingress: self.budgets.ingress,
            signature: [0; 64],
        };
        fact.signature = self.identity.sign(&fact.signed_bytes()).to_bytes();
        self.alive_at = None;
        self.tell(now, Fact::Peer(fact));
    }

    /// Says how the link to a neighbour is; without one, that there is none.
    fn tell_link(&mut self, now: Time, peer: &PeerName) {
        let next_free = now + limits::FREE_INTERVAL;
        let side = self.links.values_mut().find(|side| side.end.peer == *peer);
        let end = side.map(|side| {
            (side.free_told, side.free_at) = (side.end.free_out, next_free);
            side.end.clone()
        });
        let held = self.store.origin(&self.me).and_then(|origin| origin.links.get(peer));
        let known = held.map(|held| held.fact.neighbour_key);
        let end = end.as_ref();
        let zero = Bandwidth::ZERO;
        let capacity = end.map_or(zero, |end| end.usable);
        let mut fact = LinkFact {
            origin: self.me.clone(),
            neighbour: peer.clone(),
            neighbour_key: end.map(|end| end.key).or(known).unwrap_or(PublicKey([0; 32])),
            version: self.next_version(),
            up: end.is_some(),
            capacity,
            free_out: end.map_or(zero, |end| end.free_out).min(capacity),
            max_payload: end.map_or(0, |end| end.max_payload),
            signature: [0; 64],
        };
        fact.signature = self.identity.sign(&fact.signed_bytes()).to_bytes();
        self.free_changes.take(now);
        self.tell(now, Fact::Link(fact));
    }

    fn tell(&mut self, now: Time, fact: Fact) {
        self.counters.told += 1;
        let told = told(fact.clone(), Duration::ZERO);
        self.store.insert(now, fact, Duration::ZERO);
        self.outbox.push(Outgoing { told, from: None, only: None });
    }

    fn next_version(&mut self) -> u64 {
        self.newest = (self.newest + 1).min(limits::FACT_VERSION_MAX);
        self.newest
    }

    // --- Facts of others ---

    fn heard(&mut self, now: Time, link: LinkId, told: Told) -> Result<(), &'static str> {
        if *told.fact.origin() == self.me {
            return self.heard_own(now, link, &told.fact);
        }
        match self.store.judge(now, &told) {
            Verdict::Duplicate => self.counters.duplicates += 1,
            Verdict::Refused(reason) => {
                self.refuse(reason);
                if reason == Refusal::Old {
                    self.answer_old(now, link, &told.fact);
                }
            }
            Verdict::EarlierLife(key) => {
                self.refuse(Refusal::Expired);
                if self.signed(now, link, &key, &told.fact)? {
                    self.store.passed_on(&told.fact);
                    self.outbox.push(Outgoing { told, from: Some(link), only: None });
                }
            }
            Verdict::New(key) => {
                if !self.signed(now, link, &key, &told.fact)? {
                    return Ok(());
                }
                self.counters.applied += 1;
                let age = Duration::from_millis(told.age_ms.into());
                self.store.insert(now, told.fact.clone(), age);
                self.outbox.push(Outgoing { told, from: Some(link), only: None });
            }
        }
        Ok(())
    }

    /// Who says something old hears what is newer, dead or not: it, or the origin, must go above that. Of
    /// two facts one is newer for everybody, so this comes to an end.
    fn answer_old(&mut self, now: Time, link: LinkId, old: &Fact) {
        if let Some(told) = self.store.held(now, old).filter(|held| held.fact != *old) {
            self.outbox.push(Outgoing { told, from: None, only: Some(link) });
        }
    }

    /// An own fact comes back. If it is not what this life said, an earlier one did: go above it, and say
    /// what is true.
    fn heard_own(&mut self, now: Time, link: LinkId, fact: &Fact) -> Result<(), &'static str> {
        let mine = self.store.origin(&self.me).expect("a peer knows itself");
        let known = match fact {
            Fact::Peer(fact) if *fact == mine.peer.fact => None,
            Fact::Peer(_) => Some(mine.peer.fact.version),
            Fact::Link(fact) => match mine.links.get(&fact.neighbour) {
                Some(held) if held.fact == *fact => None,
                Some(held) => Some(held.fact.version),
                None => Some(0),
            },
        };
        let Some(known) = known else {
            self.counters.duplicates += 1;
            return Ok(());
        };
        if fact.version() < known {
            self.refuse(Refusal::Old);
            return Ok(());
        }
        let full = mine.links.len() >= limits::LINK_FACTS_MAX;
        if !self.signed(now, link, &self.key.clone(), fact)? {
            return Ok(());
        }
        self.newest = self.newest.max(fact.version());
        match fact {
            Fact::Peer(_) => self.tell_alive(now),
            // What was withdrawn needs no second word, and what is not known here none at all.
            Fact::Link(fact) if known == 0 && (!fact.up || full) => return Ok(()),
            Fact::Link(fact) => self.tell_link(now, &fact.neighbour),
        }
        self.counters.retold += 1;
        Ok(())
    }

    /// Is the fact signed with this key? A neighbour has checked every fact that it passes on. A peer fact
    /// has its key with it, so a wrong signature is the neighbour's; the key of a link fact may be another
    /// one there, so it is only counted, and looked at less and less.
    fn signed(
        &mut self,
        now: Time,
        link: LinkId,
        key: &PublicKey,
        fact: &Fact,
    ) -> Result<bool, &'static str> {
        let side = self.links.get_mut(&link).expect("only links that are up say something");
        if !side.forgeries.ready(now) {
            self.refuse(Refusal::TooFast);
            return Ok(false);
        }
        if (self.check)(key, &fact.signed_bytes(), fact.signature()) {
            return Ok(true);
        }
        side.forgeries.take(now);
        self.refuse(Refusal::Forged);
        match fact {
            Fact::Peer(_) => Err(FORGED),
            Fact::Link(_) => Ok(false),
        }
    }

    fn refuse(&mut self, reason: Refusal) {
        self.counters.refused[reason as usize] += 1;
    }

    // --- Saying ---

    fn say_facts(&mut self, link: LinkId, facts: &[Told], out: &mut Vec<Action>) {
        for piece in facts.chunks(limits::FACTS_PER_MESSAGE) {
            self.counters.facts += piece.len() as u64;
            self.say(link, Gossip::Facts(piece.to_vec()), out);
        }
    }

    fn say(&mut self, link: LinkId, gossip: Gossip, out: &mut Vec<Action>) {
        self.counters.messages += 1;
        out.push(Action::Send { link, message: Message::Gossip(gossip) });
    }

    fn between(&mut self, (least, most): (Duration, Duration)) -> Duration {
        let span = u64::try_from((most - least).as_micros()).unwrap_or(u64::MAX);
        least + Duration::from_micros(self.rng.next_u64() % span.max(1))
    }
}

impl Side {
    fn speaks(&self) -> bool {
        self.end.version >= FACTS_VERSION
    }

    /// When the free capacity must be told, if it must.
    fn free_due(&self) -> Option<Time> {
        let changed = self.free_told.bps().abs_diff(self.end.free_out.bps());
        let threshold = self.end.usable.bps() / 100 * limits::FREE_CHANGE_PERCENT;
        (changed > threshold).then_some(self.free_at)
    }
}

/// Checks a signature with Ed25519, strictly: every honest peer comes to the same answer.
pub fn right(key: &PublicKey, bytes: &[u8], signature: &[u8; 64]) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(&key.0) else { return false };
    key.verify_strict(bytes, &Signature::from_bytes(signature)).is_ok()
}
