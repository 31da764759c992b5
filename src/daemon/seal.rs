//! The handshake in which the two ends of a channel agree on keys: Noise KK, its first message in RESERVE
//! and its second in ACCEPT.
//!
//! ```text
//! who asks    e, es, ss ──────►  its first message can be made by nobody else, and read by nobody else
//!             ◄──── e, ee, se    who answers has the key that the asker expects
//! ```
//!
//! Both ends know each other's key before (the picture, a `[[link]]`, the proof of RESERVE), so nothing is
//! sent but two ephemeral keys. The static keys are the X25519 forms of the peers' Ed25519 identities, which
//! is as safe as two keys (Thormarker, ePrint 2021/509). Channel, ends, service and rates go into the
//! prologue: ends that see them differently come to no keys. Randomness is the operating system's.
//!
//! Does no cryptography of its own, and does not know when a handshake is due: the node does.

use std::collections::BTreeMap;

use bytes::Bytes;
use ed25519_dalek::{SigningKey, VerifyingKey};
use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use crate::engine::seal::Keys;
use crate::limits::SEAL_MESSAGE_BYTES_MAX;
use crate::types::{ChannelId, PublicKey};

const PATTERN: &str = "Noise_KK_25519_ChaChaPoly_BLAKE2s";

/// The handshakes of this peer.
pub(crate) struct Seals {
    /// The X25519 form of the identity.
    secret: Zeroizing<[u8; 32]>,
    /// Offers that are not answered yet: one a channel at most.
    offers: BTreeMap<ChannelId, HandshakeState>,
}

impl Seals {
    pub(crate) fn new(identity: &SigningKey) -> Self {
        Self { secret: Zeroizing::new(identity.to_scalar_bytes()), offers: BTreeMap::new() }
    }

    /// The first message, for the peer with this key. An earlier one of the channel is forgotten.
    pub(crate) fn offer(
        &mut self,
        channel: &ChannelId,
        key: &PublicKey,
        terms: &[u8],
    ) -> Result<Bytes, String> {
        let made =
            self.handshake(key, terms, |noise| noise.build_initiator()).and_then(|mut noise| {
                let message = write(&mut noise)?;
                Ok((noise, message))
            });
        let (noise, message) =
            made.map_err(|error| format!("the channel cannot be sealed: {error}"))?;
        self.offers.insert(channel.clone(), noise);
        Ok(message)
    }

    /// The second message and the keys of this end; the offer was made by the peer with this key, or it is
    /// an error.
    pub(crate) fn answer(
        &self,
        key: &PublicKey,
        terms: &[u8],
        offer: &[u8],
    ) -> Result<(Keys, Bytes), String> {
        let answered =
            self.handshake(key, terms, |noise| noise.build_responder()).and_then(|mut noise| {
                read(&mut noise, offer)?;
                let message = write(&mut noise)?;
                let (theirs, ours) = noise.dangerously_get_raw_split();
                Ok((Keys::new(ours, theirs), message))
            });
        answered.map_err(|error| {
            format!(
                "the seal was not made for this peer, channel and service by its asker: {error}"
            )
        })
    }

    /// The keys of this end, once the far end has answered the last offer.
    pub(crate) fn finish(&mut self, channel: &ChannelId, answer: &[u8]) -> Result<Keys, String> {
        let noise = self.offers.remove(channel);
        let mut noise = noise.ok_or("the far end answered a seal that was not offered")?;
        read(&mut noise, answer).map_err(|error| {
            format!(
                "what came back was not made by the far end, whose key is known here: a peer on the way may \
                 have put itself in its place ({error})"
            )
        })?;
        let (ours, theirs) = noise.dangerously_get_raw_split();
        Ok(Keys::new(ours, theirs))
    }

    /// The channel is over.
    pub(crate) fn forget(&mut self, channel: &ChannelId) {
        self.offers.remove(channel);
    }

    fn handshake(
        &self,
        key: &PublicKey,
        terms: &[u8],
        build: impl FnOnce(Builder<'_>) -> Result<HandshakeState, snow::Error>,
    ) -> Result<HandshakeState, snow::Error> {
        // Keys that are none were refused with the fact or the request they came with.
        let theirs = VerifyingKey::from_bytes(&key.0).map_err(|_| snow::Error::Input)?;
        let theirs = theirs.to_montgomery().to_bytes();
        let builder = Builder::new(PATTERN.parse()?);
        let builder = builder.local_private_key(&*self.secret)?.remote_public_key(&theirs)?;
        build(builder.prologue(terms)?)
    }
}

fn write(noise: &mut HandshakeState) -> Result<Bytes, snow::Error> {
    let mut message = [0; SEAL_MESSAGE_BYTES_MAX];
    let length = noise.write_message(&[], &mut message)?;
    Ok(Bytes::copy_from_slice(&message[..length]))
}

fn read(noise: &mut HandshakeState, message: &[u8]) -> Result<(), snow::Error> {
    let mut payload = [0; SEAL_MESSAGE_BYTES_MAX];
    noise.read_message(message, &mut payload).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::seal::Seal;
    use crate::types::{PeerName, Time};
    use crate::wire::frame::{self, END_TAG_BYTES, FrameType, HEADER_BYTES, Header};

    fn peer(seed: u8) -> (Seals, PublicKey) {
        let identity = SigningKey::from_bytes(&[seed; 32]);
        (Seals::new(&identity), PublicKey(identity.verifying_key().to_bytes()))
    }

    fn channel(count: u64) -> ChannelId {
        ChannelId { source: PeerName::new("a").expect("a name"), boot: 1, count }
    }

    /// Whether a frame sealed with `here` opens with `there`.
    fn meet(here: &Keys, there: &Keys) -> bool {
        let header = Header {
            frame_type: FrameType::Data,
            flags: 0,
            hop_limit: 9,
            payload_length: 5,
            label: crate::types::Label(1),
            sequence: 1,
            stamp: 2,
        };
        let mut bytes = [7; HEADER_BYTES + 5 + END_TAG_BYTES];
        header.emit(&mut bytes);
        let (head, rest) = bytes.split_at_mut(HEADER_BYTES);
        let (payload, tag) = rest.split_at_mut(5);
        Seal::with(here).enter(head, payload, tag, Time(1)).expect("sealed");
        let opened = Seal::with(there).leave(&mut bytes, 1, Time(1)).is_ok();
        opened && frame::payload(&header, &bytes) == [7; 5]
    }

    #[test]
    fn two_ends_come_to_the_same_keys_one_a_direction() {
        let ((mut a, key_a), (b, key_b)) = (peer(1), peer(2));
        let offer = a.offer(&channel(1), &key_b, b"terms").expect("made");
        let (theirs, answer) = b.answer(&key_a, b"terms", &offer).expect("answered");
        let ours = a.finish(&channel(1), &answer).expect("finished");
        assert!(meet(&ours, &theirs) && meet(&theirs, &ours));
        assert!(!meet(&ours, &ours), "each direction has its own");
        assert!(a.finish(&channel(1), &answer).is_err(), "an offer is answered once");
        // The same again comes to other keys: sequences may begin anew.
        let offer = a.offer(&channel(1), &key_b, b"terms").expect("made");
        let (again, _) = b.answer(&key_a, b"terms", &offer).expect("answered");
        assert!(!meet(&theirs, &again));
    }

    #[test]
    fn who_stands_between_cannot_answer_and_cannot_offer() {
        let ((mut a, key_a), (b, key_b), (mut m, key_m)) = (peer(1), peer(2), peer(3));
        let offer = a.offer(&channel(1), &key_b, b"terms").expect("made");
        assert!(m.answer(&key_a, b"terms", &offer).is_err(), "it is for another");
        let (own, key_own) = peer(4);
        let to_m = a.offer(&channel(2), &key_own, b"terms").expect("made");
        let (_, answer) = own.answer(&key_a, b"terms", &to_m).expect("answered");
        assert!(a.finish(&channel(1), &answer).is_err(), "of another handshake");
        let forged = m.offer(&channel(1), &key_b, b"terms").expect("made");
        assert!(b.answer(&key_a, b"terms", &forged).is_err(), "in another's name");
        assert!(b.answer(&key_m, b"terms", &forged).is_ok(), "in its own");
    }

    #[test]
    fn every_bit_of_both_messages_and_of_the_terms_counts() {
        let ((mut a, key_a), (b, key_b)) = (peer(1), peer(2));
        let offer = a.offer(&channel(1), &key_b, b"terms").expect("made");
        assert!(b.answer(&key_a, b"other", &offer).is_err());
        // The highest bit of an X25519 key is not used.
        for bit in (0..offer.len() * 8).filter(|&bit| bit != 255) {
            let mut bent = offer.to_vec();
            bent[bit / 8] ^= 1 << (bit % 8);
            assert!(b.answer(&key_a, b"terms", &bent).is_err(), "bit {bit} of the offer");
        }
        for cut in 0..offer.len() {
            assert!(b.answer(&key_a, b"terms", &offer[..cut]).is_err());
        }
        let (_, answer) = b.answer(&key_a, b"terms", &offer).expect("answered");
        for bit in (0..answer.len() * 8).step_by(5).filter(|&bit| bit != 255) {
            let mut bent = answer.to_vec();
            bent[bit / 8] ^= 1 << (bit % 8);
            let fresh = a.offer(&channel(1), &key_b, b"terms").expect("made");
            let (_, mut answer) =
                b.answer(&key_a, b"terms", &fresh).map(|(k, m)| (k, m.to_vec())).expect("answered");
            answer[bit / 8] ^= 1 << (bit % 8);
            assert!(a.finish(&channel(1), &answer).is_err(), "bit {bit} of the answer");
        }
    }

    #[test]
    fn a_key_that_is_none_is_an_error() {
        let (mut a, _) = peer(1);
        let mut none = [0; 32];
        none[0] = 2;
        assert!(VerifyingKey::from_bytes(&none).is_err());
        assert!(a.offer(&channel(1), &PublicKey(none), b"").is_err());
        // A point of small order takes part in no secret.
        let mut weak = [0; 32];
        weak[0] = 1;
        let offered = a.offer(&channel(1), &PublicKey(weak), b"");
        assert!(offered.is_err() || VerifyingKey::from_bytes(&weak).is_ok_and(|key| key.is_weak()));
    }
}
