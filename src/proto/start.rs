//! Which START may begin a session here (2.7 rule 7, decision 8): its signature, the key of its
//! initiator, how far its counter runs ahead, how often its initiator starts.
//!
//! Pure; the caller adopts or drops. Assumes that links are authenticated, so a Hello's session is
//! what that neighbour really said.

use std::collections::BTreeMap;
use std::time::Duration;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::limits;
use crate::types::{Bandwidth, PeerName, PublicKey, SessionId, Time};
use crate::wire::control::Start;

/// The part of a START that its initiator made; every peer passes it on unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    pub session: SessionId,
    key: PublicKey,
    signature: [u8; 64],
}

impl Signed {
    /// A session of our own.
    pub fn sign(session: SessionId, identity: &SigningKey) -> Self {
        let key = PublicKey(identity.verifying_key().to_bytes());
        let signature = identity.sign(&signed_bytes(&session)).to_bytes();
        Self { session, key, signature }
    }

    /// START as this peer says it on a link.
    pub fn start(&self, capacity: Bandwidth) -> Start {
        Start {
            session: self.session.clone(),
            capacity,
            initiator_key: self.key,
            signature: self.signature,
        }
    }
}

impl From<&Start> for Signed {
    fn from(start: &Start) -> Self {
        let session = start.session.clone();
        Self { session, key: start.initiator_key, signature: start.signature }
    }
}

/// May this START be adopted?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Adopt,
    /// Its initiator started another one a moment ago: ask again then.
    Later(Time),
    Drop(&'static str),
}

/// What a peer remembers to judge a START.
#[derive(Clone, Debug)]
pub struct Guard {
    me: PeerName,
    /// Keys of this peer and its configured neighbours: these names have no other key.
    configured: BTreeMap<PeerName, PublicKey>,
    /// Keys first seen in valid STARTs for other names; at most [`limits::PEERS_MAX`].
    seen: BTreeMap<PeerName, PublicKey>,
    /// Parsed keys of the last sessions, by name; a cache of the two above.
    parsed: BTreeMap<PeerName, (PublicKey, VerifyingKey)>,
    /// Highest counter a neighbour named in its Hello: exempt from the limit.
    greeted: u64,
    /// How far counters may still jump ahead; refilled every minute.
    allowance: u64,
    refilled: Time,
    /// When each initiator's last session was adopted, while that matters.
    adopted: BTreeMap<PeerName, Time>,
}

impl Guard {
    pub fn new(me: PeerName, now: Time) -> Self {
        Self {
            me,
            configured: BTreeMap::new(),
            seen: BTreeMap::new(),
            parsed: BTreeMap::new(),
            greeted: 0,
            allowance: limits::COUNTER_AHEAD_MAX,
            refilled: now,
            adopted: BTreeMap::new(),
        }
    }

    /// The keys of this peer and of its neighbours, by name. They outweigh keys seen earlier.
    pub fn configure(&mut self, keys: BTreeMap<PeerName, PublicKey>) {
        self.seen.retain(|name, _| !keys.contains_key(name));
        self.configured = keys;
    }

    /// A neighbour named its highest session in its Hello. Capped, so that one liar cannot use up
    /// the counters of everybody.
    pub fn on_hello(&mut self, session: &SessionId) {
        if session.counter <= limits::COUNTER_GREETED_MAX {
            self.greeted = self.greeted.max(session.counter);
        }
    }

    /// Judges a START above `highest`, the session this peer is in.
    pub fn judge(&mut self, now: Time, start: &Start, highest: Option<&SessionId>) -> Verdict {
        let session = &start.session;
        self.refill(now);
        if self.ahead(session, highest) > self.allowance {
            return Verdict::Drop("its counter runs too far ahead");
        }
        let known = self.configured.get(&session.initiator);
        let known = known.or_else(|| self.seen.get(&session.initiator));
        match known {
            Some(key) if *key != start.initiator_key => {
                return Verdict::Drop("its initiator has another key");
            }
            None if self.seen.len() >= limits::PEERS_MAX => {
                return Verdict::Drop("too many initiators");
            }
            _ => {}
        }
        if let Some(last) = self.adopted.get(&session.initiator) {
            let next = *last + limits::SESSION_INTERVAL_MIN;
            if session.initiator != self.me && now < next {
                return Verdict::Later(next);
            }
        }
        if !self.verify(start) {
            return Verdict::Drop("its signature is wrong");
        }
        Verdict::Adopt
    }

    /// The session is adopted, whoever started it.
    pub fn on_adopted(&mut self, now: Time, signed: &Signed, highest: Option<&SessionId>) {
        self.refill(now);
        let ahead = self.ahead(&signed.session, highest);
        self.allowance = self.allowance.saturating_sub(ahead);
        let initiator = &signed.session.initiator;
        if !self.configured.contains_key(initiator) && *initiator != self.me {
            self.seen.insert(initiator.clone(), signed.key);
        }
        self.adopted.retain(|_, at| now < *at + limits::SESSION_INTERVAL_MIN);
        self.adopted.insert(initiator.clone(), now);
    }

    /// Initiators whose next session would have to wait, and how long ago their last one was adopted.
    pub fn recent(&self, now: Time) -> impl Iterator<Item = (&PeerName, Duration)> {
        let ages = self.adopted.iter().map(move |(name, at)| (name, now.since(*at)));
        ages.filter(|(name, age)| **name != self.me && *age < limits::SESSION_INTERVAL_MIN)
    }

    fn ahead(&self, session: &SessionId, highest: Option<&SessionId>) -> u64 {
        let own = highest.map_or(0, |session| session.counter).max(self.greeted);
        session.counter.saturating_sub(own)
    }

    fn refill(&mut self, now: Time) {
        let minutes = now.since(self.refilled).as_secs() / 60;
        self.refilled = self.refilled + Duration::from_secs(minutes * 60);
        let more = minutes.saturating_mul(limits::COUNTER_AHEAD_PER_MINUTE);
        self.allowance = self.allowance.saturating_add(more);
    }

    fn verify(&mut self, start: &Start) -> bool {
        let initiator = &start.session.initiator;
        let cached = self.parsed.get(initiator).filter(|(key, _)| *key == start.initiator_key);
        let key = match cached {
            Some((_, key)) => *key,
            None => match VerifyingKey::from_bytes(&start.initiator_key.0) {
                Ok(key) => key,
                Err(_) => return false,
            },
        };
        let signature = Signature::from_bytes(&start.signature);
        let right = key.verify_strict(&signed_bytes(&start.session), &signature).is_ok();
        if right && self.parsed.len() < limits::PEERS_MAX {
            self.parsed.insert(initiator.clone(), (start.initiator_key, key));
        }
        right
    }
}

/// What the initiator signs: a fixed text, so that the signature is good for nothing else.
fn signed_bytes(session: &SessionId) -> Vec<u8> {
    let mut bytes = b"spanway START 1\0".to_vec();
    bytes.extend_from_slice(&session.counter.to_be_bytes());
    bytes.extend_from_slice(session.initiator.as_str().as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> PeerName {
        PeerName::new(text).unwrap()
    }

    fn start(counter: u64, initiator: &str, secret: u8) -> Start {
        let session = SessionId { counter, initiator: name(initiator) };
        Signed::sign(session, &SigningKey::from_bytes(&[secret; 32])).start(Bandwidth::ZERO)
    }

    fn guard() -> Guard {
        let mut guard = Guard::new(name("me"), Time(0));
        let key = PublicKey(SigningKey::from_bytes(&[1; 32]).verifying_key().to_bytes());
        guard.configure([(name("a"), key)].into());
        guard
    }

    fn adopt(guard: &mut Guard, now: Time, start: &Start) -> Verdict {
        let verdict = guard.judge(now, start, None);
        if verdict == Verdict::Adopt {
            guard.on_adopted(now, &Signed::from(start), None);
        }
        verdict
    }

    #[test]
    fn a8_a_start_needs_its_initiators_signature() {
        let mut forged = start(1, "a", 1);
        forged.session.counter = 2;
        assert_eq!(guard().judge(Time(0), &forged, None), Verdict::Drop("its signature is wrong"));
        assert_eq!(guard().judge(Time(0), &start(1, "a", 1), None), Verdict::Adopt);
    }

    #[test]
    fn a8_a_name_has_the_configured_key_or_the_first_one_seen() {
        let mut guard = guard();
        let other = Verdict::Drop("its initiator has another key");
        assert_eq!(adopt(&mut guard, Time(0), &start(1, "a", 2)), other);
        assert_eq!(adopt(&mut guard, Time(0), &start(1, "far", 3)), Verdict::Adopt);
        let later = Time(0) + Duration::from_secs(1);
        assert_eq!(adopt(&mut guard, later, &start(2, "far", 4)), other);
        assert_eq!(adopt(&mut guard, later, &start(2, "far", 3)), Verdict::Adopt);
    }

    #[test]
    fn a8_a_counter_far_ahead_is_dropped_unless_an_authenticated_hello_named_it() {
        let mut guard = guard();
        let far = start(u64::MAX, "a", 1);
        let dropped = Verdict::Drop("its counter runs too far ahead");
        assert_eq!(guard.judge(Time(0), &far, None), dropped);
        let limit = limits::COUNTER_AHEAD_MAX;
        assert_eq!(guard.judge(Time(0), &start(limit + 1, "a", 1), None), dropped);
        assert_eq!(adopt(&mut guard, Time(0), &start(limit, "a", 1)), Verdict::Adopt);
        let minute = Time(0) + Duration::from_secs(60);
        let next = start(1 + limits::COUNTER_AHEAD_PER_MINUTE, "a", 1);
        assert_eq!(guard.judge(minute, &next, None), dropped, "the first one used it up");

        let session = SessionId { counter: 1 << 40, initiator: name("x") };
        guard.on_hello(&session);
        assert_eq!(guard.judge(minute, &start((1 << 40) + 1, "a", 1), None), Verdict::Adopt);
        guard.on_hello(&SessionId { counter: u64::MAX - 1, initiator: name("x") });
        assert_eq!(guard.judge(minute, &far, None), dropped, "a Hello cannot end all counters");
    }

    #[test]
    fn a8_sessions_of_one_initiator_are_200_ms_apart() {
        let mut guard = guard();
        assert_eq!(adopt(&mut guard, Time(0), &start(1, "a", 1)), Verdict::Adopt);
        let next = Time(0) + limits::SESSION_INTERVAL_MIN;
        assert_eq!(adopt(&mut guard, Time(1), &start(2, "a", 1)), Verdict::Later(next));
        assert_eq!(adopt(&mut guard, Time(1), &start(2, "b", 2)), Verdict::Adopt);
        assert_eq!(adopt(&mut guard, next, &start(2, "a", 1)), Verdict::Adopt);
    }
}
