//! Handshakes of channel ends in the simulated world: who offered what to whom, who answered, and whether
//! each word came to the end it was for, unchanged.
//!
//! An extension of [`Sim`]. What a daemon makes with keys is here a number: an offer names the channel it was
//! made for, an answer the offer and who made it. The machines carry both without looking inside.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::{Happening, Sim};
use crate::proto::{Input, Rejection, Sealing};
use crate::types::{ChannelId, PublicKey, Reject};

/// Everything that was offered and answered.
#[derive(Debug, Default)]
pub(super) struct Seals {
    offers: Vec<Offer>,
    /// Which offer the keys of an end come from; void for an earlier life of its peer.
    keys: BTreeMap<(usize, ChannelId), (u32, u64)>,
    wrong: Vec<String>,
}

#[derive(Debug)]
struct Offer {
    by: usize,
    life: u32,
    channel: ChannelId,
    /// For the peer with this key.
    to: PublicKey,
    terms: Bytes,
}

impl Sim {
    /// What came to an end that it was not for, was changed, or came twice; and channels that are open whose
    /// ends have different keys.
    pub fn wrong_seals(&self) -> Vec<String> {
        let mut wrong = self.seals.wrong.clone();
        for (at, peer) in self.peers.iter().enumerate() {
            let views = peer.node.as_ref().map(super::Node::channels).unwrap_or_default();
            for view in views.iter().filter(|view| view.side.is_some() && view.sealed.is_some()) {
                let Some(there) = self.peers.iter().position(|other| other.name == view.peer)
                else {
                    continue;
                };
                let here = self.keys_of(at, &view.id);
                if let Some(theirs) = self.keys_of(there, &view.id)
                    && here.is_some_and(|here| here != theirs)
                {
                    wrong.push(format!("{at} and {there} have different keys for {}", view.id));
                }
            }
        }
        wrong
    }

    /// How many ends have keys.
    pub fn sealed_ends(&self) -> usize {
        self.seals.keys.len()
    }

    fn keys_of(&self, at: usize, channel: &ChannelId) -> Option<u64> {
        let (life, offer) = self.seals.keys.get(&(at, channel.clone()))?;
        (*life == self.peers[at].life).then_some(*offer)
    }

    pub(super) fn open_end(&mut self, at: usize, channel: ChannelId, sealing: &Sealing) {
        self.peers[at].ends.insert(channel.clone());
        let result = self.answer_seal(at, &channel, sealing);
        let life = self.peers[at].life;
        let opened = self.now + self.between((Duration::ZERO, self.delay.0));
        let input = Input::EndOpened { channel, result };
        self.push(opened, Happening::Told { peer: at, life, input });
    }

    pub(super) fn offer_seal(
        &mut self,
        at: usize,
        channel: ChannelId,
        to: PublicKey,
        terms: Bytes,
    ) {
        let number = self.seals.offers.len() as u64;
        let life = self.peers[at].life;
        self.seals.offers.push(Offer { by: at, life, channel: channel.clone(), to, terms });
        let offer = Bytes::copy_from_slice(&[&number.to_be_bytes()[..], b"offer"].concat());
        self.tell(at, Input::SealOffered { channel, result: Ok(offer) });
    }

    /// What the end of a service makes of the offer that came with its channel.
    fn answer_seal(
        &mut self,
        at: usize,
        channel: &ChannelId,
        sealing: &Sealing,
    ) -> Result<Option<Bytes>, Rejection> {
        let Sealing::Answer { key, terms, offer } = sealing else { return Ok(None) };
        let mine = PublicKey(self.peers[at].identity.verifying_key().to_bytes());
        let number = offer.strip_suffix(b"offer").and_then(number);
        let known = number.and_then(|number| self.seals.offers.get(usize::try_from(number).ok()?));
        let fits = known.is_some_and(|known| {
            let by = PublicKey(self.peers[known.by].identity.verifying_key().to_bytes());
            (&known.channel, &known.to, &known.terms, &by) == (channel, &mine, terms, key)
        });
        let (true, Some(number)) = (fits, number) else {
            let name = &self.peers[at].name;
            self.seals.wrong.push(format!("{name} got {offer:?} for {channel}, of {known:?}"));
            return Err(Rejection::new(Reject::NotAllowed, "no offer"));
        };
        self.seals.keys.insert((at, channel.clone()), (self.peers[at].life, number));
        let answer = [&number.to_be_bytes()[..], &at.to_be_bytes(), b"answer"].concat();
        Ok(Some(answer.into()))
    }

    /// What the asker's end makes of the answer.
    pub(super) fn seal_end(&mut self, at: usize, channel: ChannelId, answer: &Bytes) {
        let parts = answer.strip_suffix(b"answer").filter(|parts| parts.len() == 16);
        let parts = parts.and_then(|parts| Some((number(&parts[..8])?, number(&parts[8..])?)));
        let fits = parts.is_some_and(|(offer, by)| {
            let offered = usize::try_from(offer).ok().and_then(|at| self.seals.offers.get(at));
            offered.is_some_and(|offered| {
                let by = usize::try_from(by).ok().and_then(|by| self.peers.get(by));
                let by = by.map(|by| PublicKey(by.identity.verifying_key().to_bytes()));
                let mine = (offered.by, offered.life) == (at, self.peers[at].life);
                mine && offered.channel == channel && Some(offered.to) == by
            })
        });
        let result = match parts.filter(|_| fits) {
            Some((offer, _)) => {
                let life = self.peers[at].life;
                self.seals.keys.insert((at, channel.clone()), (life, offer));
                Ok(())
            }
            None => {
                let name = &self.peers[at].name;
                self.seals.wrong.push(format!("{name} got {answer:?} for {channel}"));
                Err("no answer to an offer".to_owned())
            }
        };
        self.tell(at, Input::EndSealed { channel, result });
    }

    fn tell(&mut self, peer: usize, input: Input) {
        let life = self.peers[peer].life;
        self.push(self.now, Happening::Told { peer, life, input });
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}
