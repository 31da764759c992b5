//! Offers and answers, whatever is in them: who gets them, who goes without, and what a channel does then.

use bytes::Bytes;

use super::*;
use crate::wire::control::{Offer, Proof};

const KEY: PublicKey = PublicKey([2; 32]);
const ASKER: PublicKey = PublicKey([1; 32]);

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// As [`Line`], and the far end's key is known.
struct Known;

impl Paths for Known {
    fn path(&self, to: &PeerName) -> Option<Vec<PeerName>> {
        Line.path(to)
    }

    fn knows(&self, to: &PeerName) -> bool {
        Line.knows(to)
    }

    fn key(&self, peer: &PeerName) -> Option<PublicKey> {
        (*peer == self::peer(2)).then_some(KEY)
    }
}

/// Asked for a sealed channel; its socket is there.
fn asking(paths: &dyn Paths) -> (Channels, Vec<Action>) {
    let mut source = machine(0);
    let request = OpenRequest { plain: false, ..open_request("film") };
    let out = did(&mut source, |m, out| m.open(NOW, RequestId(1), request, paths, out));
    assert!(matches!(&out[..], [Action::OpenEnd { sealing: Sealing::Awaited, .. }]), "{out:?}");
    let channel = tx(1, 1).channel;
    let out = did(&mut source, |m, out| m.end_opened(NOW, &channel, Ok(None), paths, out));
    (source, out)
}

/// Its RESERVE is on the way, with the offer.
fn offered() -> Channels {
    let (mut source, out) = asking(&Known);
    assert!(matches!(&out[..], [Action::OfferSeal { key: KEY, .. }]), "{out:?}");
    let (channel, offer) = (tx(1, 1).channel, Ok(bytes("offer")));
    let out = did(&mut source, |m, out| m.seal_offered(NOW, &channel, offer, &Known, out));
    let asked = reserves(&out);
    assert_eq!(asked.len(), 1, "{out:?}");
    assert_eq!(asked[0].seal, Some(Offer { key: KEY, message: bytes("offer") }));
    source
}

fn reserves(out: &[Action]) -> Vec<Reserve> {
    let reserve = |action: &Action| {
        let Action::Send { message: Message::Reserve(reserve), .. } = action else { return None };
        Some(reserve.clone())
    };
    out.iter().filter_map(reserve).collect()
}

fn answered(attempt: u32, answer: Option<&'static str>) -> Message {
    Message::Accept(Accept { seal: answer.map(bytes), ..accept(1, attempt) })
}

fn opened(out: &[Action]) -> Option<Option<PublicKey>> {
    out.iter().find_map(|action| {
        let Action::Answer { answer: Answer::Open(opened), .. } = action else { return None };
        Some(opened.sealed)
    })
}

fn refused(out: &[Action]) -> Option<(Reject, &str)> {
    out.iter().find_map(|action| {
        let Action::Answer { answer: Answer::Rejected(why), .. } = action else { return None };
        Some((why.reason, &*why.detail))
    })
}

/// Open, with keys at both ends.
fn sealed() -> Channels {
    let mut source = offered();
    let out = did(&mut source, |m, out| m.message(NOW, NEXT, answered(1, Some("answer")), out));
    let (channel, answer) = (tx(1, 1).channel, bytes("answer"));
    assert_eq!(out, [Action::SealEnd { channel: channel.clone(), answer }], "nothing else yet");
    assert_eq!(source.views()[0].state, ChannelState::Opening);
    let out = did(&mut source, |m, out| m.end_sealed(NOW, &channel, Ok(()), out));
    assert!(matches!(out[0], Action::SetEntry { to: Some(_), .. }), "{out:?}");
    assert_eq!(opened(&out), Some(Some(KEY)));
    source
}

#[test]
fn a_sealed_channel_opens_once_its_end_has_the_keys() {
    let mut source = sealed();
    assert_eq!(source.views()[0].sealed, Some(KEY));
    let out = did(&mut source, |m, out| m.message(NOW, NEXT, answered(1, Some("answer")), out));
    assert_eq!(out, [ignored(1, "accept", "accepted already")]);
}

#[test]
fn a_second_accept_while_the_end_takes_its_keys_is_ignored() {
    let mut source = offered();
    did(&mut source, |m, out| m.message(NOW, NEXT, answered(1, Some("answer")), out));
    let out = did(&mut source, |m, out| m.message(NOW, NEXT, answered(1, Some("other")), out));
    assert_eq!(out, [ignored(1, "accept", "accepted already")]);
}

#[test]
fn a_channel_that_came_back_without_its_seal_is_not_opened() {
    let mut source = offered();
    let out = did(&mut source, |m, out| m.message(NOW, NEXT, answered(1, None), out));
    let (reason, detail) = refused(&out).expect("an answer");
    assert_eq!(reason, Reject::NotAllowed);
    assert!(detail.contains("peer-02 did not seal") && detail.contains("plain"), "{detail}");
    assert!(out.contains(&send(NEXT, release(1, 1, ReleaseCause::Closed, 0))), "{out:?}");
    assert_eq!((source.views(), source.free(NEXT)), (vec![], Some((bps(100), bps(100)))));
}

#[test]
fn an_answer_that_is_not_the_far_ends_opens_nothing() {
    let mut source = offered();
    did(&mut source, |m, out| m.message(NOW, NEXT, answered(1, Some("forged")), out));
    let channel = tx(1, 1).channel;
    let wrong = Err("forged".to_owned());
    let out = did(&mut source, |m, out| m.end_sealed(NOW, &channel, wrong, out));
    assert_eq!(refused(&out), Some((Reject::NotAllowed, "forged")));
    assert_eq!(source.views(), []);
}

#[test]
fn a_key_that_nobody_knows_yet_is_waited_for_and_then_missed_in_words() {
    let (mut source, out) = asking(&Line);
    assert_eq!(out, []);
    let look = NOW + limits::SEAL_KEY_LOOK;
    assert_eq!(source.poll_timeout(), Some((look, Timer::Request)));
    let out = did(&mut source, |m, out| m.handle_timeout(look, &Line, out));
    assert_eq!(
        (out, source.poll_timeout().map(|(at, _)| at)),
        (vec![], Some(look + limits::SEAL_KEY_LOOK))
    );
    let mut known = asking(&Line).0;
    let out = did(&mut known, |m, out| m.handle_timeout(look, &Known, out));
    assert!(matches!(&out[..], [Action::OfferSeal { .. }]), "{out:?}");
    let late = NOW + Duration::from_secs(5);
    let out = did(&mut source, |m, out| m.handle_timeout(late, &Line, out));
    let (reason, detail) = refused(&out).expect("an answer");
    assert_eq!(reason, Reject::Timeout);
    assert!(detail.contains("key of peer-02 is not known"), "{detail}");
}

#[test]
fn a_channel_that_moves_keeps_its_keys_and_offers_new_ones() {
    let mut source = sealed();
    let channel = tx(1, 1).channel;
    let out = did(&mut source, |m, out| m.message(NOW, NEXT, failed(1, 1, [1, 2]), out));
    assert!(out.iter().any(|action| matches!(action, Action::OfferSeal { .. })), "{out:?}");
    let offer = Ok(bytes("second"));
    did(&mut source, |m, out| m.seal_offered(NOW, &channel, offer, &Known, out));
    // The tree's path again: the failure is forgotten by then.
    let out = did(&mut source, |m, out| {
        m.tree_committed(NOW, &Known, out);
    });
    let asked = reserves(&out);
    assert_eq!(asked.len(), 1, "{out:?}");
    assert!(asked[0].opened && asked[0].seal.as_ref().is_some_and(|o| o.message == "second"));
    // The far end has the keys.
    let mut same = source.clone();
    let out = did(&mut same, |m, out| m.message(NOW, NEXT, answered(2, None), out));
    assert!(out.iter().any(|a| matches!(a, Action::SetEntry { to: Some(_), .. })), "{out:?}");
    // Or it has forgotten them, and makes new ones.
    let out = did(&mut source, |m, out| m.message(NOW, NEXT, answered(2, Some("new")), out));
    assert_eq!(out, [Action::SealEnd { channel: channel.clone(), answer: bytes("new") }]);
    let out = did(&mut source, |m, out| m.end_sealed(NOW, &channel, Ok(()), out));
    assert!(out.iter().any(|a| matches!(a, Action::SetEntry { to: Some(_), .. })), "{out:?}");
}

// --- At the service's end ---

fn asked_for(attempt: u32, offer: &'static str) -> Reserve {
    let proof = Some(Proof { key: ASKER, signature: [0; 64] });
    let seal = Some(Offer { key: KEY, message: bytes(offer) });
    Reserve { seal, proof, ..reserve(1, attempt, 2) }
}

fn hears(machine: &mut Channels, reserve: Reserve) -> Vec<Action> {
    did(machine, |m, out| m.message(NOW, PREV, Message::Reserve(reserve), out))
}

fn accepted(out: &[Action]) -> Option<Option<Bytes>> {
    out.iter().find_map(|action| {
        let Action::Send { message: Message::Accept(accept), .. } = action else { return None };
        Some(accept.seal.clone())
    })
}

fn nacked(out: &[Action]) -> Option<(Reject, &str)> {
    out.iter().find_map(|action| {
        let Action::Send { message: Message::Nack(nack), .. } = action else { return None };
        Some((nack.reason, &*nack.detail))
    })
}

fn serving() -> Channels {
    let mut service = machine(2);
    let out = hears(&mut service, asked_for(1, "offer"));
    let [Action::OpenEnd { sealing: Sealing::Answer { key, offer, .. }, .. }] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!((*key, &offer[..]), (ASKER, &b"offer"[..]));
    let (channel, answer) = (tx(1, 1).channel, Ok(Some(bytes("answer"))));
    let out = did(&mut service, |m, out| m.end_opened(NOW, &channel, answer, &Line, out));
    assert_eq!(accepted(&out), Some(Some(bytes("answer"))));
    assert_eq!(service.views()[0].sealed, Some(ASKER));
    service
}

#[test]
fn a_service_end_answers_an_offer_once_and_repeats_its_answer_to_who_missed_it() {
    let mut service = serving();
    let out = hears(&mut service, asked_for(2, "offer"));
    assert_eq!(accepted(&out), Some(Some(bytes("answer"))), "the first ACCEPT was lost");
    let later = Reserve { opened: true, ..asked_for(3, "another") };
    assert_eq!(accepted(&hears(&mut service, later)), Some(None), "its asker has the keys");
    let spare = Reserve { opened: true, ..asked_for(4, "") };
    assert_eq!(accepted(&hears(&mut service, spare)), Some(None));
}

#[test]
fn a_channel_keeps_its_seal_and_its_owner() {
    for (change, words) in [
        (Reserve { seal: None, ..asked_for(2, "offer") }, "cannot change its seal"),
        (asked_for(2, "another"), "another seal"),
        (
            Reserve {
                proof: Some(Proof { key: PublicKey([9; 32]), signature: [0; 64] }),
                ..asked_for(2, "offer")
            },
            "another peer's",
        ),
        (Reserve { proof: None, ..asked_for(2, "offer") }, "another peer's"),
    ] {
        let mut service = serving();
        let before = (service.views(), service.free(PREV));
        let out = hears(&mut service, change);
        let (reason, detail) = nacked(&out).expect("refused");
        assert_eq!((reason, out.len()), (Reject::NotAllowed, 1));
        assert!(detail.contains(words), "{detail}");
        assert_eq!((service.views(), service.free(PREV)), before);
    }
}

#[test]
fn an_end_that_lost_its_memory_needs_a_new_offer() {
    let mut service = machine(2);
    let out = hears(&mut service, Reserve { opened: true, ..asked_for(5, "") });
    assert_eq!(nacked(&out).map(|(reason, _)| reason), Some(Reject::Broken));
    let out = hears(&mut service, Reserve { opened: true, ..asked_for(6, "offer") });
    assert!(matches!(&out[..], [Action::OpenEnd { .. }]), "{out:?}");
}

#[test]
fn a_service_may_take_sealed_channels_only() {
    let mut service = machine(2);
    let mut services = service.services.clone();
    services.iter_mut().for_each(|service| service.plain = false);
    service.services_changed(services);
    let out = hears(&mut service, reserve(1, 1, 2));
    assert_eq!(nacked(&out), Some((Reject::NotAllowed, "deliver takes sealed channels only")));
    assert!(matches!(&hears(&mut service, asked_for(2, "o"))[..], [Action::OpenEnd { .. }]));
}

#[test]
fn no_channel_crosses_a_neighbour_that_would_take_its_proof_off() {
    let mut relay = machine(1);
    let old = Terms { version: 5, ..terms(2, 1_300) };
    relay.link_up(NOW, NEXT, old, &mut Vec::new());
    let out =
        did(&mut relay, |m, out| m.message(NOW, PREV, Message::Reserve(reserve(1, 1, 1)), out));
    let (reason, detail) = nacked(&out).expect("refused");
    assert_eq!(reason, Reject::Unreachable);
    assert!(detail.contains("peer-02 speaks control version 5") && detail.contains("update it"));
    assert_eq!(relay.free(PREV), Some((bps(100), bps(100))));
}

#[test]
fn what_came_under_a_key_that_was_not_the_askers_ends() {
    let mut service = serving();
    let mut out = Vec::new();
    service.disown(NOW, &peer(0), &PublicKey([7; 32]), &mut out);
    assert_eq!(out, [], "another key");
    service.disown(NOW, &peer(0), &ASKER, &mut out);
    service.invariants();
    assert!(out.contains(&Action::CloseEnd { channel: tx(1, 1).channel }), "{out:?}");
    assert_eq!(service.views(), []);
    let mut relay = machine(1);
    let asked = Reserve { position: 1, ..asked_for(1, "offer") };
    did(&mut relay, |m, out| m.message(NOW, PREV, Message::Reserve(asked), out));
    assert_eq!(relay.views()[0].sealed, Some(KEY));
    let mut out = Vec::new();
    relay.disown(NOW, &peer(0), &ASKER, &mut out);
    relay.invariants();
    assert_eq!(relay.views(), []);
}
