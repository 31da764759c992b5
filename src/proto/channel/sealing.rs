//! How the two ends of a channel come to keys: an offer in RESERVE, its answer in ACCEPT. The bytes of both
//! are made and read by the daemon; here is when, and what becomes of a channel without them.
//!
//! ```text
//!  source                                          service end
//!  key of the far end? ─► OfferSeal
//!    ── RESERVE (offer) ─────────────────────────► OpenEnd (offer)
//!    ◄──────────────────────── ACCEPT (answer) ─── the end has its keys
//!  SealEnd (answer) ─► the end has its keys ─► open
//! ```
//!
//! One handshake for all paths of a channel. When a path breaks or shall be left another offer is made and
//! goes with the RESERVEs from then on: a service end that lost its memory answers it, one that has keys does
//! not. Nobody gets a channel that is plain who asked for a sealed one.

use bytes::Bytes;

use super::relay::Refusal;
use super::source::{Source, Stage};
use super::{Channels, Handled, Paths};
use crate::limits;
use crate::proto::{Action, Rejection, Sealing, ServiceConfig};
use crate::types::{ChannelId, PublicKey, Reject, Time};
use crate::wire::control::{Accept, Offer, Reserve};
use crate::wire::proof::{SealTerms, seal_terms};

/// Of a channel, at the end that asked for it.
#[derive(Clone, Debug)]
pub(super) enum Seal {
    Plain,
    /// The far end's key is looked for.
    Wanted,
    With(Box<Handshake>),
}

#[derive(Clone, Debug)]
pub(super) struct Handshake {
    /// The far end's.
    key: PublicKey,
    /// Not answered yet; none while the daemon makes one.
    offer: Option<Bytes>,
    /// Both ends have keys.
    agreed: bool,
    /// A path that is taken once the end here has the keys that came with it.
    accepted: Option<Accept>,
}

/// What an ACCEPT says of the seal.
enum Said {
    /// Nothing that is needed.
    Enough,
    Keys(Bytes),
    /// The channel would be plain.
    TooLittle,
}

impl Seal {
    /// The far end's key, if the channel is sealed.
    pub(super) fn key(&self) -> Option<PublicKey> {
        match self {
            Self::With(handshake) => Some(handshake.key),
            Self::Plain | Self::Wanted => None,
        }
    }

    pub(super) fn of_end(&self) -> Sealing {
        match self {
            Self::Plain => Sealing::Plain,
            Self::Wanted | Self::With(_) => Sealing::Awaited,
        }
    }

    /// For the next RESERVE.
    pub(super) fn offer(&self) -> Option<Offer> {
        let Self::With(handshake) = self else { return None };
        let message = handshake.offer.clone().unwrap_or_default();
        Some(Offer { key: handshake.key, message })
    }

    fn said(&mut self, accept: &Accept) -> Result<Said, &'static str> {
        let handshake = match self {
            Self::Plain => return Ok(Said::Enough),
            Self::Wanted => return Ok(Said::TooLittle),
            Self::With(handshake) => handshake,
        };
        match &accept.seal {
            _ if handshake.accepted.is_some() => Err("accepted already"),
            Some(answer) => {
                handshake.accepted = Some(accept.clone());
                Ok(Said::Keys(answer.clone()))
            }
            None if handshake.agreed => Ok(Said::Enough),
            None => Ok(Said::TooLittle),
        }
    }
}

/// Of a channel, at the end that offers the service.
#[derive(Clone, Debug)]
pub(super) struct Answered {
    /// The asker's.
    pub(super) key: PublicKey,
    offer: Bytes,
    /// None until the end is open.
    answer: Option<Bytes>,
}

impl Answered {
    pub(super) fn with(&mut self, answer: Option<Bytes>) {
        self.answer = answer;
    }

    /// What the asker has to know: nothing, if it has the keys.
    pub(super) fn to(&self, reserve: &Reserve) -> Option<Bytes> {
        let same = reserve.seal.as_ref().is_some_and(|offer| offer.message == self.offer);
        self.answer.clone().filter(|_| same)
    }
}

impl Source {
    fn terms(&self) -> Bytes {
        seal_terms(&SealTerms {
            channel: &self.id,
            to: &self.peer,
            service: &self.service,
            name: &self.name,
            rate: self.rate,
            rate_back: self.rate_back,
        })
    }

    fn ask_for_offer(&self, key: PublicKey, out: &mut Vec<Action>) {
        out.push(Action::OfferSeal { channel: self.id.clone(), key, terms: self.terms() });
    }

    /// The channel is about to look for another path, which may lead to an end that has lost its keys.
    pub(super) fn offer_again(&self, out: &mut Vec<Action>) {
        if let Seal::With(handshake) = &self.seal
            && handshake.offer.is_none()
        {
            self.ask_for_offer(handshake.key, out);
        }
    }

    /// Why it is not asked for yet.
    pub(super) fn lacks_key(&self) -> Option<String> {
        let peer = &self.peer;
        matches!(self.seal, Seal::Wanted).then(|| {
            format!(
                "the key of {peer} is not known here yet, so the channel cannot be sealed: is {peer} up, and \
                 does it run this version? Or open it plain"
            )
        })
    }
}

impl Channels {
    /// Whether a request has all that its RESERVE needs; what it lacks is asked for.
    pub(super) fn may_ask(
        &self,
        now: Time,
        source: &mut Source,
        paths: &dyn Paths,
        out: &mut Vec<Action>,
    ) -> bool {
        let has_it = match &source.seal {
            Seal::Plain => true,
            Seal::With(handshake) => handshake.offer.is_some(),
            Seal::Wanted => false,
        };
        let Stage::Reserving(reserving) = &mut source.stage else { return true };
        if has_it {
            return true;
        }
        // It goes on when the seal is there: looking again sooner finds nothing new.
        reserving.next = reserving.deadline;
        if let Seal::Wanted = source.seal {
            let Some(key) = paths.key(&source.peer) else {
                reserving.next = now + limits::SEAL_KEY_LOOK;
                return false;
            };
            let (offer, accepted) = (None, None);
            source.seal = Seal::With(Box::new(Handshake { key, offer, agreed: false, accepted }));
            source.ask_for_offer(key, out);
        }
        false
    }

    /// Answer to [`Action::OfferSeal`].
    pub fn seal_offered(
        &mut self,
        now: Time,
        channel: &ChannelId,
        result: Result<Bytes, String>,
        paths: &dyn Paths,
        out: &mut Vec<Action>,
    ) {
        let Some(mut source) = self.take_source(channel) else { return };
        if let (Ok(offer), Seal::With(handshake)) = (&result, &mut source.seal) {
            handshake.offer = Some(offer.clone());
        }
        match (&source.stage, result) {
            (Stage::Reserving(_), Ok(_)) if source.trying.is_none() => {
                self.open_next(now, source, paths, out);
            }
            (Stage::Reserving(_), Err(why)) => {
                self.end_source(source, Some(Reject::NotAllowed), &why, out);
            }
            // Without an offer a later path leads to an end that has the keys, or to none.
            (
                Stage::OpeningEnd { .. } | Stage::Reserving(_) | Stage::Open | Stage::Moving(_),
                _,
            ) => {
                self.put_source(source);
            }
        }
    }

    /// An ACCEPT of the attempt that is tried: the path is taken, now or once the end here has its keys.
    pub(super) fn accepted_here(
        &mut self,
        now: Time,
        accept: &Accept,
        out: &mut Vec<Action>,
    ) -> Handled {
        let source = self.sources.get_mut(&accept.tx.channel).expect("the caller saw it");
        match source.seal.said(accept)? {
            Said::Enough => self.path_accepted(now, accept, out),
            Said::Keys(answer) => {
                out.push(Action::SealEnd { channel: source.id.clone(), answer });
            }
            Said::TooLittle => {
                let source = self.take_source(&accept.tx.channel).expect("just seen");
                let peer = &source.peer;
                let why = format!(
                    "{peer} did not seal the channel: it runs an older version, or a peer on the way took the \
                     seal off; update it, or open the channel plain"
                );
                self.end_source(source, Some(Reject::NotAllowed), &why, out);
            }
        }
        Ok(())
    }

    /// Answer to [`Action::SealEnd`].
    pub fn end_sealed(
        &mut self,
        now: Time,
        channel: &ChannelId,
        result: Result<(), String>,
        out: &mut Vec<Action>,
    ) {
        let Some(mut source) = self.take_source(channel) else { return };
        let Seal::With(handshake) = &mut source.seal else { return self.put_source(source) };
        let Some(accept) = handshake.accepted.take() else { return self.put_source(source) };
        handshake.offer = None;
        handshake.agreed |= result.is_ok();
        let agreed = handshake.agreed;
        let awaited = |number| number == accept.tx.attempt;
        let tried = source.trying.as_ref().is_some_and(|trying| awaited(trying.attempt.number));
        match result {
            _ if !tried => self.put_source(source),
            Ok(()) => {
                self.put_source(source);
                self.path_accepted(now, &accept, out);
            }
            Err(why) if agreed => self.seal_broke(now, source, why, out),
            Err(why) => self.end_source(source, Some(Reject::NotAllowed), &why, out),
        }
    }

    // --- At the service's end ---

    /// What the end of a channel that is new here is to be opened with.
    pub(super) fn answered(
        &self,
        reserve: &Reserve,
        service: &ServiceConfig,
    ) -> Result<(Option<Answered>, Sealing), Refusal> {
        let no = |reason, detail: String| Err(Refusal::new(reason, detail));
        let Some(offer) = &reserve.seal else {
            if service.plain {
                return Ok((None, Sealing::Plain));
            }
            let name = &service.name;
            return no(Reject::NotAllowed, format!("{name} takes sealed channels only"));
        };
        let Some(key) = reserve.proof.map(|proof| proof.key) else {
            return no(Reject::NotAllowed, "the request is not signed".into());
        };
        if offer.message.is_empty() {
            return no(Reject::Broken, format!("{} has lost the channel's keys", self.me));
        }
        let terms = seal_terms(&SealTerms {
            channel: &reserve.tx.channel,
            to: &self.me,
            service: &reserve.service,
            name: &reserve.name,
            rate: reserve.rate,
            rate_back: reserve.rate_back,
        });
        let offer = offer.message.clone();
        let answered = Answered { key, offer: offer.clone(), answer: None };
        Ok((Some(answered), Sealing::Answer { key, terms, offer }))
    }

    /// A later path of a channel keeps its seal.
    pub(super) fn keeps_seal(
        answered: Option<&Answered>,
        reserve: &Reserve,
    ) -> Result<(), Refusal> {
        let no = |detail: &str| Err(Refusal::new(Reject::NotAllowed, detail));
        match (answered, &reserve.seal) {
            (None, None) => Ok(()),
            (Some(answered), Some(offer)) if reserve.opened || offer.message == answered.offer => {
                Ok(())
            }
            (Some(_), Some(_)) => no("the channel has another seal"),
            (None, Some(_)) | (Some(_), None) => no("a channel cannot change its seal"),
        }
    }
}

/// Why an end could not be opened, for the asker.
pub(super) fn not_opened(why: Rejection) -> Refusal {
    Refusal::new(why.reason, why.detail)
}
