//! Facts about the overlay as peers tell them on (decision 9): values, bytes, and the bytes that are
//! signed; and the messages that carry and compare them.
//!
//! ```text
//! FACTS           facts, each with its age             passed on once, to all other links
//! GRAPH_HASH      digest of the whole picture          when a link comes up, then on a schedule
//! GRAPH_SUMMARY   digest of each origin, in pieces     "here is what I have: what do I lack?"
//! GRAPH_COMPARED  how far the last piece was compared  behind the FACTS that answer it
//! ```
//!
//! A *peer fact* says that its origin lives. A *link fact* is one half of a link: what its origin says of
//! the way to one neighbour. The version orders the facts of one origin and nothing else; no clock does.
//! Here a fact is only read and written: whether its signature is right and whether it counts is the
//! machine's business (`proto::graph`).
//!
//! Since control version 3. Panic contract: as in [`super::control`].

use bytes::Bytes;

use super::ParseError;
use super::codec::{Reader, Writer};
use crate::limits;
use crate::types::{Bandwidth, PeerName, PublicKey};

/// "I am a member, and this is my key."
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerFact {
    pub origin: PeerName,
    pub key: PublicKey,
    pub version: u64,
    /// It still relays what crosses it, and wants nothing new.
    pub leaving: bool,
    /// What all links of its host together may carry, if there is a limit.
    pub egress: Option<Bandwidth>,
    pub ingress: Option<Bandwidth>,
    pub signature: [u8; 64],
}

/// One half of a link, as its origin sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkFact {
    pub origin: PeerName,
    pub neighbour: PeerName,
    /// The key that the origin talks to.
    pub neighbour_key: PublicKey,
    pub version: u64,
    /// False withdraws the link; the numbers below then mean nothing.
    pub up: bool,
    /// Usable capacity (decision 2).
    pub capacity: Bandwidth,
    /// What the origin can still reserve towards the neighbour; never above the capacity.
    pub free_out: Bandwidth,
    /// Largest payload of a frame on the link.
    pub max_payload: u16,
    pub signature: [u8; 64],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    Peer(PeerFact),
    Link(LinkFact),
}

/// A fact on its way, with the time that passed since its origin told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub age_ms: u32,
    pub fact: Fact,
}

/// What the sender of a summary has of one origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginDigest {
    pub origin: PeerName,
    pub digest: u64,
    /// The highest version that it has heard: only what is above it is sent, if everything below is equal.
    pub newest: u64,
}

/// What neighbours say about the picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gossip {
    Facts(Vec<Told>),
    Hash {
        digest: u64,
    },
    /// The origins behind `after` in the order of names, up to the last one listed or, with `last`, to
    /// the end. Answered with facts that the sender lacks and COMPARED.
    Summary {
        after: Option<PeerName>,
        origins: Vec<OriginDigest>,
        last: bool,
    },
    /// The last summary was compared up to this origin; without one, to its end.
    Compared {
        up_to: Option<PeerName>,
    },
}

/// Type numbers on the wire. Never reused.
mod kind {
    pub(super) const FACTS: u16 = 80;
    pub(super) const HASH: u16 = 81;
    pub(super) const SUMMARY: u16 = 82;
    pub(super) const COMPARED: u16 = 83;
}

/// Before what is signed, so that a signature is good for nothing else.
const PEER_DOMAIN: &[u8] = b"spanway PEER FACT 1\0";
const LINK_DOMAIN: &[u8] = b"spanway LINK FACT 1\0";

impl Fact {
    pub fn origin(&self) -> &PeerName {
        match self {
            Self::Peer(fact) => &fact.origin,
            Self::Link(fact) => &fact.origin,
        }
    }

    pub fn version(&self) -> u64 {
        match self {
            Self::Peer(fact) => fact.version,
            Self::Link(fact) => fact.version,
        }
    }

    pub fn signature(&self) -> &[u8; 64] {
        match self {
            Self::Peer(fact) => &fact.signature,
            Self::Link(fact) => &fact.signature,
        }
    }

    /// The bytes that the origin signs: all of the fact but the signature.
    pub fn signed_bytes(&self) -> Bytes {
        match self {
            Self::Peer(fact) => fact.signed_bytes(),
            Self::Link(fact) => fact.signed_bytes(),
        }
    }
}

impl PeerFact {
    pub fn signed_bytes(&self) -> Bytes {
        let mut w = Writer::new();
        w.raw(PEER_DOMAIN);
        self.emit_signed(&mut w);
        w.finish()
    }

    fn emit_signed(&self, w: &mut Writer) {
        w.peer(&self.origin);
        w.raw(&self.key.0);
        w.u64(self.version);
        w.bool(self.leaving);
        w.option(self.egress.as_ref(), |w, rate| w.bandwidth(*rate));
        w.option(self.ingress.as_ref(), |w, rate| w.bandwidth(*rate));
    }

    fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(Self {
            origin: r.peer("fact origin")?,
            key: PublicKey(r.array("peer fact key")?),
            version: version(r)?,
            leaving: r.bool("peer fact leaving")?,
            egress: r.option("peer fact egress", |r| r.bandwidth("peer fact egress"))?,
            ingress: r.option("peer fact ingress", |r| r.bandwidth("peer fact ingress"))?,
            signature: r.array("fact signature")?,
        })
    }
}

impl LinkFact {
    pub fn signed_bytes(&self) -> Bytes {
        let mut w = Writer::new();
        w.raw(LINK_DOMAIN);
        self.emit_signed(&mut w);
        w.finish()
    }

    fn emit_signed(&self, w: &mut Writer) {
        w.peer(&self.origin);
        w.peer(&self.neighbour);
        w.raw(&self.neighbour_key.0);
        w.u64(self.version);
        w.bool(self.up);
        w.bandwidth(self.capacity);
        w.bandwidth(self.free_out);
        w.u16(self.max_payload);
    }

    fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let fact = Self {
            origin: r.peer("fact origin")?,
            neighbour: r.peer("link fact neighbour")?,
            neighbour_key: PublicKey(r.array("link fact key")?),
            version: version(r)?,
            up: r.bool("link fact state")?,
            capacity: r.bandwidth("link fact capacity")?,
            free_out: r.bandwidth("link fact free capacity")?,
            max_payload: r.u16("link fact payload")?,
            signature: r.array("fact signature")?,
        };
        if fact.origin == fact.neighbour {
            return Err(r.error("link fact of a peer with itself"));
        }
        if fact.free_out > fact.capacity {
            return Err(r.error("link fact free capacity"));
        }
        Ok(fact)
    }
}

impl Gossip {
    pub(super) fn emit(&self, w: &mut Writer) {
        match self {
            Self::Facts(facts) => {
                w.u16(kind::FACTS);
                w.list(facts, emit_told);
            }
            Self::Hash { digest } => {
                w.u16(kind::HASH);
                w.u64(*digest);
            }
            Self::Summary { after, origins, last } => {
                w.u16(kind::SUMMARY);
                w.option(after.as_ref(), Writer::peer);
                w.list(origins, |w, entry| {
                    w.peer(&entry.origin);
                    w.u64(entry.digest);
                    w.u64(entry.newest);
                });
                w.bool(*last);
            }
            Self::Compared { up_to } => {
                w.u16(kind::COMPARED);
                w.option(up_to.as_ref(), Writer::peer);
            }
        }
    }

    /// `None`: the kind is another's.
    pub(super) fn parse(kind: u16, r: &mut Reader<'_>) -> Option<Result<Self, ParseError>> {
        (kind::FACTS..=kind::COMPARED).contains(&kind).then(|| parse_body(kind, r))
    }
}

/// Is this an encoded message about the picture?
pub fn is_gossip(message: &[u8]) -> bool {
    let kind = message.first_chunk().map(|kind| u16::from_be_bytes(*kind));
    kind.is_some_and(|kind| (kind::FACTS..=kind::COMPARED).contains(&kind))
}

fn parse_body(kind: u16, r: &mut Reader<'_>) -> Result<Gossip, ParseError> {
    Ok(match kind {
        kind::FACTS => Gossip::Facts(r.list(limits::FACTS_PER_MESSAGE, "facts", parse_told)?),
        kind::HASH => Gossip::Hash { digest: r.u64("graph digest")? },
        kind::SUMMARY => parse_summary(r)?,
        _ => {
            Gossip::Compared { up_to: r.option("compared origin", |r| r.peer("compared origin"))? }
        }
    })
}

/// Its origins ascend, so that both ends mean the same part of all names.
fn parse_summary(r: &mut Reader<'_>) -> Result<Gossip, ParseError> {
    let after = r.option("summary start", |r| r.peer("summary start"))?;
    let origins = r.list(limits::ORIGINS_PER_SUMMARY, "summary", |r| {
        Ok(OriginDigest {
            origin: r.peer("summary origin")?,
            digest: r.u64("summary digest")?,
            newest: r.u64("summary version")?,
        })
    })?;
    let names = after.iter().chain(origins.iter().map(|entry| &entry.origin));
    if !names.is_sorted_by(|one, next| one < next) {
        return Err(r.error("summary order"));
    }
    Ok(Gossip::Summary { after, origins, last: r.bool("summary last")? })
}

fn emit_told(w: &mut Writer, told: &Told) {
    w.u32(told.age_ms);
    match &told.fact {
        Fact::Peer(fact) => {
            w.u8(0);
            fact.emit_signed(w);
        }
        Fact::Link(fact) => {
            w.u8(1);
            fact.emit_signed(w);
        }
    }
    w.raw(told.fact.signature());
}

fn parse_told(r: &mut Reader<'_>) -> Result<Told, ParseError> {
    let age_ms = r.u32("fact age")?;
    let fact = match r.u8("fact kind")? {
        0 => Fact::Peer(PeerFact::parse(r)?),
        1 => Fact::Link(LinkFact::parse(r)?),
        _ => return Err(r.error("fact kind")),
    };
    Ok(Told { age_ms, fact })
}

/// Room is left above every version that is told, so that a peer can always go above an earlier life.
fn version(r: &mut Reader<'_>) -> Result<u64, ParseError> {
    match r.u64("fact version")? {
        version @ 1..=limits::FACT_VERSION_MAX => Ok(version),
        _ => Err(r.error("fact version")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::control::Message;

    fn name(text: &str) -> PeerName {
        PeerName::new(text).unwrap()
    }

    fn peer_fact() -> PeerFact {
        PeerFact {
            origin: name("a"),
            key: PublicKey([1; 32]),
            version: 7,
            leaving: false,
            egress: Some(Bandwidth::from_bps(9)),
            ingress: None,
            signature: [2; 64],
        }
    }

    fn link_fact() -> LinkFact {
        LinkFact {
            origin: name("a"),
            neighbour: name("b"),
            neighbour_key: PublicKey([3; 32]),
            version: 8,
            up: true,
            capacity: Bandwidth::from_bps(10),
            free_out: Bandwidth::from_bps(9),
            max_payload: 1_400,
            signature: [2; 64],
        }
    }

    fn read(gossip: Gossip) -> Result<Message, ParseError> {
        Message::parse(&Message::Gossip(gossip).emit())
    }

    fn facts(fact: Fact) -> Gossip {
        Gossip::Facts(vec![Told { age_ms: 5, fact }])
    }

    #[test]
    fn a_fact_that_no_honest_peer_tells_is_not_even_read() {
        type Spoil = fn(&mut LinkFact);
        let spoilt: [(&str, Spoil); 4] = [
            ("with itself", |fact| fact.neighbour = fact.origin.clone()),
            ("free capacity", |fact| fact.free_out = Bandwidth::from_bps(11)),
            ("version", |fact| fact.version = 0),
            ("version", |fact| fact.version = limits::FACT_VERSION_MAX + 1),
        ];
        assert!(read(facts(Fact::Link(link_fact()))).is_ok());
        for (text, spoil) in spoilt {
            let mut fact = link_fact();
            spoil(&mut fact);
            let error = read(facts(Fact::Link(fact))).expect_err(text);
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn every_field_but_the_signature_is_signed() {
        let peer = peer_fact();
        let changes: [fn(&mut PeerFact); 6] = [
            |fact| fact.origin = name("b"),
            |fact| fact.key.0[31] ^= 1,
            |fact| fact.version += 1,
            |fact| fact.leaving = true,
            |fact| fact.egress = None,
            |fact| fact.ingress = Some(Bandwidth::ZERO),
        ];
        for change in changes {
            let mut other = peer.clone();
            change(&mut other);
            assert_ne!(peer.signed_bytes(), other.signed_bytes(), "{other:?}");
        }
        let link = link_fact();
        let changes: [fn(&mut LinkFact); 8] = [
            |fact| fact.origin = name("c"),
            |fact| fact.neighbour = name("c"),
            |fact| fact.neighbour_key.0[0] ^= 1,
            |fact| fact.version += 1,
            |fact| fact.up = false,
            |fact| fact.capacity = Bandwidth::from_bps(11),
            |fact| fact.free_out = Bandwidth::ZERO,
            |fact| fact.max_payload += 1,
        ];
        for change in changes {
            let mut other = link.clone();
            change(&mut other);
            assert_ne!(link.signed_bytes(), other.signed_bytes(), "{other:?}");
        }
    }

    #[test]
    fn a_summary_out_of_order_is_refused() {
        let entry = |text: &str| OriginDigest { origin: name(text), digest: 1, newest: 1 };
        let summary = |after: Option<&str>, origins: &[&str]| Gossip::Summary {
            after: after.map(name),
            origins: origins.iter().map(|text| entry(text)).collect(),
            last: false,
        };
        assert!(read(summary(Some("a"), &["b", "c"])).is_ok());
        for wrong in [summary(None, &["b", "a"]), summary(Some("b"), &["b"])] {
            assert!(read(wrong).is_err());
        }
    }

    #[test]
    fn the_longest_pieces_fit_a_message() {
        let long = |at: usize| name(&format!("{at:063}"));
        let fact = LinkFact { origin: long(1), neighbour: long(2), ..link_fact() };
        let told = Told { age_ms: u32::MAX, fact: Fact::Link(fact) };
        let facts = Gossip::Facts(vec![told; limits::FACTS_PER_MESSAGE]);
        let entry = |at| OriginDigest { origin: long(at), digest: 1, newest: 1 };
        let summary = Gossip::Summary {
            after: Some(long(0)),
            origins: (1..=limits::ORIGINS_PER_SUMMARY).map(entry).collect(),
            last: false,
        };
        for gossip in [facts, summary] {
            let message = Message::Gossip(gossip);
            assert_eq!(Message::parse(&message.emit()), Ok(message));
        }
    }
}
