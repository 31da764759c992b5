//! Whose a message about a channel is: what this peer says of its own channels is signed here, and what
//! neighbours pass on is believed only if the channel's owner signed it (reliability, rows 22 and 23).
//!
//! ```text
//! a neighbour's message ─► judge: right key for the name? right signature? ─► Channels
//!                            └► RESERVE: refused, CLAIM, FINISH: dropped; "closed" by nobody: a broken path
//! Channels ─► actions ─► sign: own RESERVE, CLAIM, FINISH, "closed"
//! ```
//!
//! The key of a name is that of its `[[link]]` or of the picture. A name that neither knows is believed with
//! the key in its message, until the picture says otherwise; then its channels here end. What a peer on a
//! channel's own path says of that path (RELEASE of a broken one, REFRESH, MOVE, ACCEPT) needs no proof: it
//! can break the path by doing nothing, and the channels check that it is on it.

use std::collections::BTreeMap;

use bytes::Bytes;
use ed25519_dalek::{Signer, SigningKey};

use super::Action;
use super::graph::{self, Check};
use crate::limits;
use crate::types::{ChannelId, PeerName, PublicKey, Reject, Time};
use crate::wire::control::{Message, Proof, Release, ReleaseCause};
use crate::wire::proof::{claim_statement, closed_statement, finish_statement, reserve_statement};
use crate::wire::queue::{Queue, QueueBody};

/// The two ends of a channel that is here, and the keys they were let in with.
#[derive(Clone, Debug)]
pub(super) struct Ends {
    pub(super) asker: Option<PublicKey>,
    pub(super) to: PeerName,
    pub(super) to_key: Option<PublicKey>,
}

/// Why a message is nobody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unproven {
    pub(super) channel: ChannelId,
    pub(super) what: &'static str,
    pub(super) why: &'static str,
}

/// The channel of a message whose judgement needs to know its ends.
#[expect(clippy::wildcard_enum_match_arm, reason = "the rest is judged by itself")]
pub(super) fn channel_of(message: &Message) -> Option<&ChannelId> {
    match message {
        Message::Release(release) if release.cause == ReleaseCause::Closed => {
            Some(&release.tx.channel)
        }
        Message::Nack(nack) if nack.reason == Reject::Cancelled => Some(&nack.tx.channel),
        _ => None,
    }
}

const UNSIGNED: &str = "it is not signed by its asker";
const FORGED: &str = "its signature is wrong";
const ANOTHER_KEY: &str = "its asker is known with another key";
const TOO_MANY: &str = "too many peers that nobody knows";

#[derive(Debug)]
pub(super) struct Proofs {
    me: PeerName,
    identity: SigningKey,
    key: PublicKey,
    check: Check,
    /// Names that neither a link nor the picture knew, with the key they are believed with, and since when.
    believed: BTreeMap<PeerName, (PublicKey, Time)>,
}

impl Proofs {
    pub(super) fn new(me: PeerName, identity: SigningKey) -> Self {
        let key = PublicKey(identity.verifying_key().to_bytes());
        Self { me, identity, key, check: graph::right, believed: BTreeMap::new() }
    }

    pub(super) fn check_with(&mut self, check: Check) {
        self.check = check;
    }

    // --- What this peer says ---

    /// Signs what is this peer's own among these.
    pub(super) fn sign(&self, out: &mut [Action]) {
        for action in out {
            let Action::Send { message, .. } = action else { continue };
            if let Some((proof, statement)) = self.own(message) {
                let signature = self.identity.sign(&statement).to_bytes();
                *proof = Some(Proof { key: self.key, signature });
            }
        }
    }

    /// What has to be signed, and where the signature goes.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the rest says nothing for others to believe"
    )]
    fn own<'a>(&self, message: &'a mut Message) -> Option<(&'a mut Option<Proof>, Bytes)> {
        let (proof, by, statement) = match message {
            Message::Reserve(reserve) if reserve.proof.is_none() => {
                let statement = reserve_statement(reserve);
                (&mut reserve.proof, &reserve.tx.channel.source, statement)
            }
            Message::Queue(Queue { tx, body: QueueBody::Claim(claim) })
                if claim.proof.is_none() =>
            {
                let statement = claim_statement(tx, claim);
                (&mut claim.proof, &tx.channel.source, statement)
            }
            Message::Finish { tx, frames, proof } if proof.is_none() => {
                let statement = finish_statement(&tx.channel, *frames);
                (proof, &tx.channel.source, statement)
            }
            Message::Release(release) if release.cause == ReleaseCause::Closed => {
                let statement = closed_statement(&release.tx.channel);
                (&mut release.proof, &release.at, statement)
            }
            Message::Nack(nack) if nack.reason == Reject::Cancelled => {
                let statement = closed_statement(&nack.tx.channel);
                (&mut nack.proof, &nack.at, statement)
            }
            _ => return None,
        };
        (*by == self.me && proof.is_none()).then_some((proof, statement))
    }

    // --- What neighbours say ---

    /// May the message go on as it is? What says that a channel is closed, and not by one of its ends, goes
    /// on as the word of a relay that its path is broken.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the rest needs no proof")]
    pub(super) fn judge(
        &mut self,
        now: Time,
        message: &mut Message,
        ends: Option<&Ends>,
        known: impl Fn(&PeerName) -> Option<PublicKey>,
    ) -> Result<(), Unproven> {
        let (channel, what, proof, statement) = match message {
            Message::Reserve(reserve) => {
                let statement = reserve_statement(reserve);
                (reserve.tx.channel.clone(), "reserve", reserve.proof, statement)
            }
            Message::Queue(Queue { tx, body: QueueBody::Claim(claim) }) => {
                (tx.channel.clone(), "claim", claim.proof, claim_statement(tx, claim))
            }
            Message::Finish { tx, frames, proof } => {
                (tx.channel.clone(), "finish", *proof, finish_statement(&tx.channel, *frames))
            }
            Message::Release(release) if release.cause == ReleaseCause::Closed => {
                return self.judge_closed(release, ends, known);
            }
            Message::Nack(nack) if nack.reason == Reject::Cancelled => {
                let key = ends.and_then(|ends| ends.to_key.or_else(|| known(&ends.to)));
                let statement = closed_statement(&nack.tx.channel);
                if !self.holds(nack.proof, key, &statement) {
                    nack.reason = Reject::Broken;
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        let why = self.judge_asker(now, &channel, proof, &statement, known).err();
        why.map_or(Ok(()), |why| Err(Unproven { channel, what, why }))
    }

    fn judge_asker(
        &mut self,
        now: Time,
        channel: &ChannelId,
        proof: Option<Proof>,
        statement: &[u8],
        known: impl Fn(&PeerName) -> Option<PublicKey>,
    ) -> Result<(), &'static str> {
        let proof = proof.ok_or(UNSIGNED)?;
        let source = &channel.source;
        let certain = known(source);
        let believed = self.believed.get(source).map(|(key, _)| *key);
        match certain.or(believed) {
            Some(key) if key != proof.key => return Err(ANOTHER_KEY),
            None if self.believed.len() >= limits::PEERS_MAX => return Err(TOO_MANY),
            Some(_) | None => {}
        }
        if !(self.check)(&proof.key, statement, &proof.signature) {
            return Err(FORGED);
        }
        if certain.is_none() {
            self.believed.insert(source.clone(), (proof.key, now));
        }
        Ok(())
    }

    fn judge_closed(
        &self,
        release: &mut Release,
        ends: Option<&Ends>,
        known: impl Fn(&PeerName) -> Option<PublicKey>,
    ) -> Result<(), Unproven> {
        let channel = &release.tx.channel;
        // Who is nobody's channel is ignored for that.
        let Some(ends) = ends else { return Ok(()) };
        let held = match () {
            () if release.at == channel.source => ends.asker,
            () if release.at == ends.to => ends.to_key,
            () => None,
        };
        let is_end = release.at == channel.source || release.at == ends.to;
        let key = held.or_else(|| known(&release.at)).filter(|_| is_end);
        if !self.holds(release.proof, key, &closed_statement(channel)) {
            (release.cause, release.proof) = (ReleaseCause::Broken, None);
        }
        Ok(())
    }

    fn holds(&self, proof: Option<Proof>, key: Option<PublicKey>, statement: &[u8]) -> bool {
        let right = |proof: &Proof| (self.check)(&proof.key, statement, &proof.signature);
        proof.is_some_and(|proof| key == Some(proof.key) && right(&proof))
    }

    /// The picture changed: names that were believed with a key that is not theirs.
    pub(super) fn contradicted(
        &mut self,
        now: Time,
        known: impl Fn(&PeerName) -> Option<PublicKey>,
    ) -> Vec<(PeerName, PublicKey)> {
        let mut wrong = Vec::new();
        self.believed.retain(|name, (key, since)| {
            let Some(right) = known(name) else { return now < *since + limits::FACT_LIFE };
            if right != *key {
                wrong.push((name.clone(), *key));
            }
            false
        });
        wrong
    }
}

#[cfg(test)]
mod tests;
