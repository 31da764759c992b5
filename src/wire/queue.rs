//! Waiting in line for room: what a request that waits and the peers on its path say to each other
//! (decision 5 of the control-plane specification).
//!
//! ```text
//! asker          relay          destination
//!   Claim  ──────► Claim ──────►    each takes its place in line on its links that are short
//!          ◄────── Claimed ◄─────   what is short, and who is first there
//!          ◄────── Room             a link that was short has room for the first in its line
//!   Leave  ──────► Leave ──────►    the request has its answer
//! ```
//!
//! The asker sends CLAIM again before its lease runs out. Since control version 4. Panic contract: as
//! in [`super::control`].

use std::fmt;

use super::codec::{Reader, Writer};
use super::control::{emit_path, parse_path};
use super::proof::Proof;
use super::{ParseError, control};
use crate::limits;
use crate::types::{Bandwidth, ChannelId, PeerName, TxId, Way};

/// First control version that has these messages.
pub const VERSION: u16 = 4;

/// Tag of the optional field of CLAIMED.
const REFUSED: u16 = 1;

/// One message about a request that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// The channel that was asked for, and the number of the path on which it waits: a later path
    /// replaces an earlier one.
    pub tx: TxId,
    pub body: QueueBody,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueBody {
    Claim(Claim),
    Claimed(Claimed),
    Room,
    Leave,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// All peers of the path, asker first.
    pub path: Vec<PeerName>,
    /// Position of the receiver of this message in `path`.
    pub position: u8,
    pub rate: Bandwidth,
    pub rate_back: Bandwidth,
    /// As in RESERVE: with the channel the order of arrival.
    pub ticket: u64,
    /// Since version 6, and always there.
    pub proof: Option<Proof>,
}

/// Where the path is short of room, from the receiver's side to the destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claimed {
    pub short: Vec<Shortage>,
    /// A peer that has as many waiting requests as it may have.
    pub busy: Option<PeerName>,
    /// Since version 6: it is not that many; a rule of that peer forbids this one, in words.
    pub refused: Option<String>,
}

/// What a request waits for at one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub at: PeerName,
    pub of: Scarce,
    /// What the request takes of it.
    pub asked: Bandwidth,
    pub free: Bandwidth,
    /// How many requests are before it in line.
    pub ahead: u32,
    /// The one right before it.
    pub before: Option<ChannelId>,
    /// Some of the channels that have the rest.
    pub holders: Vec<ChannelId>,
}

/// What a peer has too little of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scarce {
    /// The link to this neighbour, in the direction towards it.
    Link(PeerName),
    /// What all links of its host may carry together, one way.
    Host(Way),
}

impl fmt::Display for Scarce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(peer) => write!(f, "the link to {peer}"),
            Self::Host(way) => write!(f, "the {way} of this host"),
        }
    }
}

/// Tag of an optional field of CLAIM.
const PROOF: u16 = 1;

mod kind {
    pub(super) const CLAIM: u16 = 56;
    pub(super) const CLAIMED: u16 = 57;
    pub(super) const ROOM: u16 = 58;
    pub(super) const LEAVE: u16 = 59;
}

impl Queue {
    pub(super) fn emit(&self, w: &mut Writer) {
        w.u16(match &self.body {
            QueueBody::Claim(_) => kind::CLAIM,
            QueueBody::Claimed(_) => kind::CLAIMED,
            QueueBody::Room => kind::ROOM,
            QueueBody::Leave => kind::LEAVE,
        });
        w.tx(&self.tx);
        match &self.body {
            QueueBody::Claim(claim) => {
                emit_path(w, &claim.path, claim.position);
                w.bandwidth(claim.rate);
                w.bandwidth(claim.rate_back);
                w.u64(claim.ticket);
                if let Some(proof) = &claim.proof {
                    w.optional_field(PROOF, |w| proof.emit(w));
                }
            }
            QueueBody::Claimed(Claimed { short, busy, refused }) => {
                w.list(short, emit_short);
                w.option(busy.as_ref(), Writer::peer);
                if let Some(refused) = refused {
                    w.optional_field(REFUSED, |w| w.text(refused));
                }
            }
            QueueBody::Room | QueueBody::Leave => {}
        }
    }

    /// `None`: not a type of these.
    pub(super) fn parse(kind: u16, r: &mut Reader<'_>) -> Option<Result<Self, ParseError>> {
        (kind::CLAIM..=kind::LEAVE).contains(&kind).then(|| {
            let tx = r.tx("queue tx")?;
            let body = match kind {
                kind::CLAIM => {
                    let (path, position) = parse_path(r)?;
                    QueueBody::Claim(Claim {
                        path,
                        position,
                        rate: r.bandwidth("claim rate")?,
                        rate_back: r.bandwidth("claim rate back")?,
                        ticket: r.u64("claim ticket")?,
                        proof: r.optional_field(PROOF, "claim proof", Proof::parse)?,
                    })
                }
                kind::CLAIMED => QueueBody::Claimed(Claimed {
                    short: r.list(limits::SHORT_LINKS_MAX, "claimed", parse_short)?,
                    busy: r.option("claimed busy", |r| r.peer("claimed busy"))?,
                    refused: r.optional_field(REFUSED, "claimed refusal", |r| {
                        r.text("claimed refusal")
                    })?,
                }),
                kind::ROOM => QueueBody::Room,
                _ => QueueBody::Leave,
            };
            Ok(Self { tx, body })
        })
    }
}

fn emit_short(w: &mut Writer, short: &Shortage) {
    w.peer(&short.at);
    match &short.of {
        Scarce::Link(peer) => w.option(Some(peer), Writer::peer),
        Scarce::Host(way) => {
            w.option(None, Writer::peer);
            w.bool(*way == Way::Egress);
        }
    }
    w.bandwidth(short.asked);
    w.bandwidth(short.free);
    w.u32(short.ahead);
    w.option(short.before.as_ref(), Writer::channel);
    w.list(&short.holders, Writer::channel);
}

fn parse_short(r: &mut Reader<'_>) -> Result<Shortage, ParseError> {
    let at = r.peer("claimed peer")?;
    let of = match r.option("claimed towards", |r| r.peer("claimed towards"))? {
        Some(peer) => Scarce::Link(peer),
        None if r.bool("claimed way")? => Scarce::Host(Way::Egress),
        None => Scarce::Host(Way::Ingress),
    };
    Ok(Shortage {
        at,
        of,
        asked: r.bandwidth("claimed rate")?,
        free: r.bandwidth("claimed free capacity")?,
        ahead: r.u32("claimed ahead")?,
        before: r.option("claimed before", |r| r.channel("claimed before"))?,
        holders: r
            .list(limits::HOLDERS_SHOWN, "claimed holders", |r| r.channel("claimed holder"))?,
    })
}

const _: () = assert!(VERSION <= control::VERSIONS.1);
