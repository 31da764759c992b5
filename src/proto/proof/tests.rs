//! Rows 22 and 23 of the misuse table: what a liar says of the channels of others changes nothing.

use super::*;
use crate::types::{Bandwidth, Label, LinkId, ServiceName, TxId};
use crate::wire::control::{Manner, Nack, Offer, Reserve};
use crate::wire::queue::Claim;

const NOW: Time = Time(1_000_000);

fn identity(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn key(seed: u8) -> PublicKey {
    PublicKey(identity(seed).verifying_key().to_bytes())
}

fn name(text: &str) -> PeerName {
    PeerName::new(text).expect("a name")
}

/// The peer of that name, whose key is made from its first letter.
fn proofs(text: &str) -> Proofs {
    Proofs::new(name(text), identity(text.as_bytes()[0]))
}

fn tx() -> TxId {
    TxId { channel: ChannelId { source: name("asker"), boot: 1, count: 2 }, attempt: 3 }
}

fn reserve() -> Reserve {
    let service = ServiceName::new("video").expect("a name");
    Reserve {
        tx: tx(),
        name: service.clone(),
        service,
        path: vec![name("asker"), name("relay"), name("far")],
        position: 1,
        rate: Bandwidth::from_bps(5),
        rate_back: Bandwidth::from_bps(6),
        ticket: 7,
        deadline_ms: 8,
        max_payload: 9,
        back_label: Label(10),
        back_port: 11,
        manner: Manner::Beside,
        opened: true,
        seal: Some(Offer { key: key(b'f'), message: Bytes::from_static(b"offer") }),
        proof: None,
    }
}

fn claim() -> Message {
    let Reserve { path, position, rate, rate_back, ticket, .. } = reserve();
    let claim = Claim { path, position, rate, rate_back, ticket, proof: None };
    Message::Queue(Queue { tx: tx(), body: QueueBody::Claim(claim) })
}

fn finish() -> Message {
    Message::Finish { tx: tx(), frames: 12, proof: None }
}

fn closed(at: &str) -> Message {
    let (tx, at) = (tx(), name(at));
    Message::Release(Release {
        tx,
        cause: ReleaseCause::Closed,
        at,
        failed: None,
        why: None,
        proof: None,
    })
}

fn cancelled(at: &str) -> Message {
    Message::Nack(Nack {
        tx: tx(),
        at: name(at),
        reason: Reject::Cancelled,
        free: Bandwidth::ZERO,
        detail: String::new(),
        towards: None,
        proof: None,
    })
}

/// As `by` sends it.
fn signed(by: &str, message: Message) -> Message {
    let mut out = [Action::Send { link: LinkId(0), message }];
    proofs(by).sign(&mut out);
    let [Action::Send { message, .. }] = out else { unreachable!("it is there") };
    message
}

/// As a relay hands it on.
fn passed_on(message: Message) -> Message {
    signed("relay", message)
}

fn known(peer: &PeerName) -> Option<PublicKey> {
    Some(key(peer.as_str().as_bytes()[0]))
}

fn nobody(_: &PeerName) -> Option<PublicKey> {
    None
}

fn ends() -> Ends {
    Ends { asker: Some(key(b'a')), to: name("far"), to_key: None }
}

fn judged(message: &mut Message) -> Result<(), Unproven> {
    proofs("relay").judge(NOW, message, Some(&ends()), known)
}

fn why(message: &mut Message) -> &'static str {
    judged(message).expect_err("refused").why
}

#[test]
fn what_the_asker_signed_goes_on_unchanged() {
    for message in [Message::Reserve(reserve()), claim(), finish(), closed("asker")] {
        let mut signed = signed("asker", message.clone());
        assert_ne!(signed, message, "it is signed");
        let before = signed.clone();
        assert_eq!(judged(&mut signed), Ok(()), "{message:?}");
        assert_eq!(signed, before);
        // Passed on by a relay it is still the asker's.
        assert_eq!(passed_on(signed), before);
    }
}

#[test]
fn relays_change_what_they_must_and_nothing_else() {
    let Message::Reserve(asked) = signed("asker", Message::Reserve(reserve())) else { panic!() };
    let onward = Reserve {
        position: 2,
        deadline_ms: 1,
        max_payload: 2,
        back_label: Label(3),
        back_port: 4,
        ..asked.clone()
    };
    assert_eq!(judged(&mut Message::Reserve(onward)), Ok(()));
    let lies: [fn(&mut Reserve); 13] = [
        |r| r.tx.channel.boot += 1,
        |r| r.tx.channel.count += 1,
        |r| r.tx.attempt += 1,
        |r| r.service = ServiceName::new("other").expect("a name"),
        |r| r.name = ServiceName::new("other").expect("a name"),
        |r| r.path[2] = name("friend"),
        |r| r.rate = Bandwidth::from_bps(50),
        |r| r.rate_back = Bandwidth::from_bps(60),
        |r| r.ticket = 0,
        |r| r.manner = Manner::Replace,
        |r| r.opened = false,
        |r| r.seal = None,
        |r| r.seal.as_mut().expect("an offer").message = Bytes::from_static(b"other"),
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let mut changed = asked.clone();
        lie(&mut changed);
        assert_eq!(why(&mut Message::Reserve(changed)), FORGED, "lie {number}");
    }
}

#[test]
fn row_23_nobody_asks_claims_or_finishes_in_anothers_name() {
    for message in [Message::Reserve(reserve()), claim(), finish()] {
        assert_eq!(why(&mut message.clone()), UNSIGNED, "{message:?}");
        // Signed by somebody else, whatever key it shows.
        let mut liar = Proofs::new(name("asker"), identity(b'l'));
        let mut out = [Action::Send { link: LinkId(0), message: message.clone() }];
        liar.sign(&mut out);
        let [Action::Send { message: mut forged, .. }] = out else { unreachable!() };
        assert_eq!(why(&mut forged), ANOTHER_KEY);
        liar.key = key(b'a');
        let mut out = [Action::Send { link: LinkId(0), message }];
        liar.sign(&mut out);
        let [Action::Send { message: mut forged, .. }] = out else { unreachable!() };
        assert_eq!(why(&mut forged), FORGED);
    }
}

#[test]
fn a_name_nobody_knows_is_believed_until_the_picture_contradicts() {
    let mut relay = proofs("relay");
    let mut asked = signed("asker", Message::Reserve(reserve()));
    assert_eq!(relay.judge(NOW, &mut asked, None, nobody), Ok(()));
    // Another key for the same name, before anybody knows better.
    let liar = Proofs::new(name("asker"), identity(b'l'));
    let mut out = [Action::Send { link: LinkId(0), message: Message::Reserve(reserve()) }];
    liar.sign(&mut out);
    let [Action::Send { message: mut forged, .. }] = out else { unreachable!() };
    let refused = relay.judge(NOW, &mut forged, None, nobody).expect_err("refused");
    assert_eq!((refused.why, refused.what), (ANOTHER_KEY, "reserve"));
    assert_eq!(relay.contradicted(NOW, nobody), [], "nothing is known yet");
    let other = |_: &PeerName| Some(key(b'x'));
    assert_eq!(relay.contradicted(NOW, other), [(name("asker"), key(b'a'))]);
    assert_eq!(relay.contradicted(NOW, other), [], "told once");
    // One that the picture confirms, and one that it never hears of.
    assert_eq!(relay.judge(NOW, &mut asked, None, nobody), Ok(()));
    assert_eq!((relay.contradicted(NOW, known), relay.believed.len()), (vec![], 0));
    assert_eq!(relay.judge(NOW, &mut asked, None, nobody), Ok(()));
    relay.contradicted(NOW + limits::FACT_LIFE, nobody);
    assert!(relay.believed.is_empty(), "not for ever");
}

#[test]
fn row_23_only_an_end_closes_and_a_relay_can_only_break_its_path() {
    let cause = |message: &Message| {
        let Message::Release(release) = message else { panic!("{message:?}") };
        release.cause
    };
    for end in ["asker", "far"] {
        let mut honest = signed(end, closed(end));
        assert_eq!(judged(&mut honest), Ok(()));
        assert_eq!(cause(&honest), ReleaseCause::Closed, "{end}");
    }
    let by_relay = signed("relay", closed("relay"));
    let mut in_anothers_name = closed("far");
    let Message::Release(release) = &mut in_anothers_name else { panic!() };
    let Message::Release(own) = &by_relay else { panic!() };
    release.proof = own.proof;
    for mut lie in [by_relay, in_anothers_name, closed("asker")] {
        assert_eq!(judged(&mut lie), Ok(()));
        assert_eq!(cause(&lie), ReleaseCause::Broken, "{lie:?}");
    }
    // The same of a NACK, which ends a channel that moves.
    let reason = |mut message: Message| match (judged(&mut message), message) {
        (Ok(()), Message::Nack(nack)) => nack.reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(signed("far", cancelled("far"))), Reject::Cancelled);
    assert_eq!(reason(signed("relay", cancelled("relay"))), Reject::Broken);
    assert_eq!(reason(cancelled("far")), Reject::Broken);
}

#[test]
fn the_key_of_the_seal_counts_more_than_the_picture() {
    let ends = Ends { to_key: Some(key(b'f')), ..ends() };
    let mut honest = signed("far", closed("far"));
    let other = |_: &PeerName| Some(key(b'x'));
    assert_eq!(proofs("relay").judge(NOW, &mut honest, Some(&ends), other), Ok(()));
    assert!(matches!(honest, Message::Release(r) if r.cause == ReleaseCause::Closed));
}

#[test]
fn nothing_of_others_is_signed() {
    for message in [Message::Reserve(reserve()), claim(), finish(), closed("far")] {
        assert_eq!(signed("relay", message.clone()), message);
    }
    let broken = Message::Release(Release {
        tx: tx(),
        cause: ReleaseCause::Broken,
        at: name("relay"),
        failed: None,
        why: None,
        proof: None,
    });
    assert_eq!(signed("relay", broken.clone()), broken);
}
