//! What shows that a message about a channel is its owner's: a signature over what no relay changes.
//!
//! ```text
//! RESERVE   channel, attempt, service, name, path, rates, ticket, manner, opened, seal   by who asks
//! CLAIM     channel, number, path, rates, ticket                                         by who asks
//! FINISH    channel, frames                                                              by who asks
//! RELEASE   "this channel is closed"                                          by the end that closed it
//! NACK      the same, where the reason is that it was closed                  by the end that closed it
//! ```
//!
//! Here a proof is only read and written; whether it holds is the machine's business (`proto::proof`).
//!
//! Since control version 6. Panic contract: as in [`super::control`].

use bytes::Bytes;

use super::ParseError;
use super::codec::{Reader, Writer};
use super::control::{Reserve, emit_path, manner_code};
use super::queue::Claim;
use crate::limits;
use crate::types::{Bandwidth, ChannelId, PeerName, PublicKey, ServiceName, TxId};

/// First control version whose requests are signed: without, no channel crosses a link.
pub const VERSION: u16 = 6;

/// An identity, and its signature over a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    pub key: PublicKey,
    pub signature: [u8; 64],
}

/// The asker's half of the handshake in which the two ends of a channel agree on keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The far end's, as the asker knows it: nobody else can answer.
    pub key: PublicKey,
    /// For the far end; empty while the asker has no new one, because both ends have keys.
    pub message: Bytes,
}

/// Before what is signed, so that a signature is good for nothing else.
const RESERVE: &[u8] = b"spanway RESERVE 1\0";
const CLAIM: &[u8] = b"spanway CLAIM 1\0";
const FINISH: &[u8] = b"spanway FINISH 1\0";
const CLOSED: &[u8] = b"spanway CLOSED 1\0";
/// Before what both ends of a channel must see alike, or their keys differ.
const SEAL: &[u8] = b"spanway SEAL 1\0";

impl Proof {
    pub(super) fn emit(&self, w: &mut Writer) {
        w.raw(&self.key.0);
        w.raw(&self.signature);
    }

    pub(super) fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(Self { key: PublicKey(r.array("proof key")?), signature: r.array("proof signature")? })
    }
}

impl Offer {
    pub(super) fn emit(&self, w: &mut Writer) {
        w.raw(&self.key.0);
        w.raw(&self.message);
    }

    pub(super) fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(Self { key: PublicKey(r.array("seal key")?), message: seal_message(r)? })
    }
}

/// The rest of a field is a message of the handshake.
pub(super) fn seal_message(r: &mut Reader<'_>) -> Result<Bytes, ParseError> {
    let length = r.remaining();
    if length > limits::SEAL_MESSAGE_BYTES_MAX {
        return Err(r.error("seal message"));
    }
    Ok(Bytes::copy_from_slice(r.take(length, "seal message")?))
}

/// What the asker of a channel signs in RESERVE.
pub fn reserve_statement(reserve: &Reserve) -> Bytes {
    let mut w = Writer::new();
    w.raw(RESERVE);
    w.tx(&reserve.tx);
    w.service(&reserve.service);
    w.service(&reserve.name);
    emit_path(&mut w, &reserve.path, 0);
    w.bandwidth(reserve.rate);
    w.bandwidth(reserve.rate_back);
    w.u64(reserve.ticket);
    w.u8(manner_code(reserve.manner));
    w.bool(reserve.opened);
    w.option(reserve.seal.as_ref(), |w, offer| offer.emit(w));
    w.finish()
}

/// What it signs in CLAIM.
pub fn claim_statement(tx: &TxId, claim: &Claim) -> Bytes {
    let mut w = Writer::new();
    w.raw(CLAIM);
    w.tx(tx);
    emit_path(&mut w, &claim.path, 0);
    w.bandwidth(claim.rate);
    w.bandwidth(claim.rate_back);
    w.u64(claim.ticket);
    w.finish()
}

/// What it signs in FINISH.
pub fn finish_statement(channel: &ChannelId, frames: u64) -> Bytes {
    let mut w = Writer::new();
    w.raw(FINISH);
    w.channel(channel);
    w.u64(frames);
    w.finish()
}

/// What an end signs that closes a channel. It is never open again.
pub fn closed_statement(channel: &ChannelId) -> Bytes {
    let mut w = Writer::new();
    w.raw(CLOSED);
    w.channel(channel);
    w.finish()
}

/// What both ends of a channel put into their handshake.
pub fn seal_terms(terms: &SealTerms<'_>) -> Bytes {
    let mut w = Writer::new();
    w.raw(SEAL);
    w.channel(terms.channel);
    w.peer(terms.to);
    w.service(terms.service);
    w.service(terms.name);
    w.bandwidth(terms.rate);
    w.bandwidth(terms.rate_back);
    w.finish()
}

/// A channel as both its ends know it.
#[derive(Clone, Copy, Debug)]
pub struct SealTerms<'a> {
    pub channel: &'a ChannelId,
    pub to: &'a PeerName,
    pub service: &'a ServiceName,
    pub name: &'a ServiceName,
    pub rate: Bandwidth,
    pub rate_back: Bandwidth,
}
