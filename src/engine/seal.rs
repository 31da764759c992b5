//! What makes a frame unreadable and unchangeable between the two ends of its channel: AES-256-GCM over the
//! payload and over all of the header that no relay rewrites, with the sequence as nonce.
//!
//! ```text
//! keys of a direction   chain 0 ──► chain 1 ──► chain 2 ──► ...     each wiped when the next is there
//!                          └► key 0    └► key 1    └► key 2         the epoch in the header says which
//! sender                takes the next key by frames or by time, when it seals
//! receiver              keeps the one before, the one in use and the next; goes on when a frame of a
//!                       later one opens, so loss and reordering around a change cost nothing
//! ```
//!
//! A key seals no two frames with one sequence: an end counts its sequences up and never goes back, and
//! every handshake makes other keys. What does not open moves nothing: neither the key nor the window of
//! sequences that were seen.
//!
//! Pure: the time is an argument. No heap per frame, and none for a new key. Does not agree on keys: the
//! daemon does, with the other end.

use core::fmt;
use core::hint::black_box;

use blake2::digest::{KeyInit, Mac};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::{Zeroize, Zeroizing};

use super::replay::Replay;
use crate::limits::{SEAL_AHEAD_MAX, SEAL_FRAMES_MAX, SEAL_KEY_LIFE};
use crate::stats::DropReason;
use crate::types::Time;
use crate::wire::frame::{self, HEADER_BYTES};

/// Of a key and of what keys are made from.
pub const KEY_BYTES: usize = 32;

/// What both ends of a channel agreed on, as one of them uses it. Never shown; wiped when dropped.
#[derive(Clone)]
pub struct Keys {
    send: Zeroizing<[u8; KEY_BYTES]>,
    receive: Zeroizing<[u8; KEY_BYTES]>,
}

impl Keys {
    /// Of what this end sends, and of what it receives.
    pub fn new(send: [u8; KEY_BYTES], receive: [u8; KEY_BYTES]) -> Self {
        Self { send: Zeroizing::new(send), receive: Zeroizing::new(receive) }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// What a channel end does with payloads.
#[derive(Debug, Default)]
pub enum Seal {
    /// Nothing: they travel as they are.
    #[default]
    Plain,
    /// It will seal; until the keys come no frame enters or leaves.
    Awaited,
    Sealed(Box<Sealed>),
}

/// Both directions of a sealed channel at one end.
#[derive(Debug)]
pub struct Sealed {
    pub sealer: Sealer,
    pub opener: Opener,
}

impl Seal {
    pub fn with(keys: &Keys) -> Self {
        let sealer = Sealer::new(&keys.send);
        let opener = Opener::new(&keys.receive);
        Self::Sealed(Box::new(Sealed { sealer, opener }))
    }

    /// Seals what enters, if this channel is sealed; `header` is complete but for the epoch.
    #[inline]
    pub fn enter(
        &mut self,
        header: &mut [u8],
        payload: &mut [u8],
        tag: &mut [u8],
        now: Time,
    ) -> Result<(), DropReason> {
        match self {
            Self::Plain => Ok(()),
            Self::Awaited => Err(DropReason::Early),
            Self::Sealed(sealed) => {
                sealed.sealer.seal(header, payload, tag, now);
                Ok(())
            }
        }
    }

    /// Opens a whole frame that arrived, if this channel is sealed.
    #[inline]
    pub fn leave(
        &mut self,
        datagram: &mut [u8],
        sequence: u64,
        now: Time,
    ) -> Result<(), DropReason> {
        match self {
            Self::Plain => Ok(()),
            Self::Awaited => Err(DropReason::Early),
            Self::Sealed(sealed) => sealed.opener.open(datagram, sequence, now),
        }
    }
}

/// The sending half.
pub struct Sealer {
    chain: Chain,
    key: FrameKey,
    epoch: u32,
    /// Frames the key may still seal, and until when; from its first frame on.
    left: u64,
    until: Option<Time>,
}

impl Sealer {
    fn new(secret: &[u8; KEY_BYTES]) -> Self {
        let mut chain = Chain::new(secret);
        let key = chain.next();
        Self { chain, key, epoch: 0, left: SEAL_FRAMES_MAX, until: None }
    }

    /// Seals `payload` where it lies, writes the epoch into `header` and the tag into `tag`.
    #[inline]
    pub fn seal(&mut self, header: &mut [u8], payload: &mut [u8], tag: &mut [u8], now: Time) {
        let until = *self.until.get_or_insert_with(|| now + SEAL_KEY_LIFE);
        if self.left == 0 || until <= now {
            self.take_next_key(now);
        }
        self.left -= 1;
        frame::set_epoch(header, self.epoch);
        let fields = frame::end_to_end(header);
        let made = self.key.seal(nonce(self.epoch, &fields), &fields, payload);
        tag.copy_from_slice(&made);
    }

    #[cold]
    fn take_next_key(&mut self, now: Time) {
        self.key = self.chain.next();
        // Nobody lives to see it wrap, and then keys still differ.
        self.epoch = self.epoch.wrapping_add(1);
        (self.left, self.until) = (SEAL_FRAMES_MAX, Some(now + SEAL_KEY_LIFE));
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer(epoch {})", self.epoch)
    }
}

/// The receiving half.
pub struct Opener {
    /// Of the key behind `next`.
    chain: Chain,
    /// None before the first change.
    previous: Option<FrameKey>,
    current: FrameKey,
    next: FrameKey,
    epoch: u32,
    seen: Replay,
    /// When it looked for a key further ahead and found none that opens.
    looked: Option<Time>,
}

impl Opener {
    fn new(secret: &[u8; KEY_BYTES]) -> Self {
        let mut chain = Chain::new(secret);
        let (current, next) = (chain.next(), chain.next());
        let (epoch, seen, looked) = (0, Replay::default(), None);
        Self { chain, previous: None, current, next, epoch, seen, looked }
    }

    /// Opens the payload of a whole frame where it lies. `sequence` is the header's.
    #[inline]
    pub fn open(
        &mut self,
        datagram: &mut [u8],
        sequence: u64,
        now: Time,
    ) -> Result<(), DropReason> {
        if !self.seen.is_new(sequence) {
            return Err(DropReason::Replayed);
        }
        let epoch = frame::epoch(datagram);
        let fields = frame::end_to_end(datagram);
        let (nonce, body) = (nonce(epoch, &fields), &mut datagram[HEADER_BYTES..]);
        let ahead = epoch.wrapping_sub(self.epoch);
        let opens = match (ahead, &self.previous) {
            (0, _) => self.current.open(nonce, &fields, body),
            (1, _) => self.next.open(nonce, &fields, body),
            (u32::MAX, Some(previous)) => previous.open(nonce, &fields, body),
            (2..=SEAL_AHEAD_MAX, _) if self.looked != Some(now) => {
                let mut chain = self.chain.clone();
                (2..ahead).for_each(|_| drop(chain.next()));
                let opens = chain.next().open(nonce, &fields, body);
                self.looked = (!opens).then_some(now);
                opens
            }
            _ => false,
        };
        if !opens {
            return Err(DropReason::BadSeal);
        }
        self.seen.mark(sequence);
        if (1..=SEAL_AHEAD_MAX).contains(&ahead) {
            (0..ahead).for_each(|_| self.go_on());
        }
        Ok(())
    }

    #[cold]
    fn go_on(&mut self) {
        let next = std::mem::replace(&mut self.next, self.chain.next());
        self.previous = Some(std::mem::replace(&mut self.current, next));
        self.epoch = self.epoch.wrapping_add(1);
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opener(epoch {})", self.epoch)
    }
}

/// Makes one key after the other; what it was before cannot be told from what it is.
#[derive(Clone)]
struct Chain(Zeroizing<[u8; KEY_BYTES]>);

impl Chain {
    fn new(secret: &[u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(*secret))
    }

    fn next(&mut self) -> FrameKey {
        let mut key = Zeroizing::new(derive(&self.0, b"spanway seal key"));
        let mut next = derive(&self.0, b"spanway seal chain");
        self.0.copy_from_slice(&next);
        next.zeroize();
        let made = FrameKey::new(&key);
        key.zeroize();
        made
    }
}

/// Keyed BLAKE2s as a function that nobody can tell from a random one.
fn derive(secret: &[u8; KEY_BYTES], what: &[u8]) -> [u8; KEY_BYTES] {
    let mut mac = blake2::Blake2sMac256::new_from_slice(secret).expect("a key of the right length");
    mac.update(what);
    mac.finalize().into_bytes().into()
}

/// A key of one epoch. ring does not wipe its keys: another one is written over it when it is dropped.
struct FrameKey(LessSafeKey);

impl FrameKey {
    fn new(key: &[u8; KEY_BYTES]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("a key of the right length");
        Self(LessSafeKey::new(key))
    }

    #[inline]
    fn seal(&self, nonce: [u8; 12], fields: &[u8; 16], payload: &mut [u8]) -> [u8; 16] {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(fields), payload);
        let tag = tag.expect("a payload of less than 64 GiB");
        tag.as_ref().try_into().expect("a tag of 16 bytes")
    }

    /// `body`: the sealed payload and its tag.
    #[inline]
    fn open(&self, nonce: [u8; 12], fields: &[u8; 16], body: &mut [u8]) -> bool {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0.open_in_place(nonce, Aad::from(fields), body).is_ok()
    }
}

impl Drop for FrameKey {
    fn drop(&mut self) {
        let blank = UnboundKey::new(&AES_256_GCM, &[0; KEY_BYTES]);
        self.0 = LessSafeKey::new(blank.expect("a key of the right length"));
        // Or the compiler may think that nobody looks.
        black_box(&self.0);
    }
}

/// Epoch and sequence; `fields` ends with the sequence.
#[inline]
fn nonce(epoch: u32, fields: &[u8; 16]) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&epoch.to_be_bytes());
    nonce[4..].copy_from_slice(&fields[8..]);
    nonce
}

#[cfg(test)]
mod tests;
