//! Facts about the overlay: merging is commutative, associative and idempotent.

use std::time::Duration;

use spanway::proto::graph::store::{Refusal, Store, Verdict};
use spanway::types::{Bandwidth, PeerName, PublicKey, Time};
use spanway::wire::facts::{Fact, LinkFact, PeerFact, Told};

use super::bytes::Choices;

/// Below what one origin may say at once.
const FACTS: usize = 16;

fn name(number: usize) -> PeerName {
    PeerName::new(&format!("p{number}")).expect("a name")
}

fn fact(choices: &mut Choices<'_>) -> Fact {
    let (origin, version) = (choices.below(4), u64::from(choices.u8()));
    let (flag, signature) = (choices.u8().is_multiple_of(2), [choices.u8(); 64]);
    if choices.below(3) == 0 {
        return Fact::Peer(PeerFact {
            origin: name(origin),
            key: PublicKey([origin as u8; 32]),
            version,
            leaving: flag,
            egress: None,
            ingress: None,
            signature,
        });
    }
    let rate = Bandwidth::from_bps(choices.u8().into());
    Fact::Link(LinkFact {
        origin: name(origin),
        neighbour: name(choices.below(4)),
        neighbour_key: PublicKey([choices.u8() % 4; 32]),
        version,
        up: flag,
        capacity: rate,
        free_out: rate,
        max_payload: 1_400,
        signature,
    })
}

/// As a peer does that has checked every signature; those of unknown origins come again later.
fn tell<'a>(store: &mut Store, facts: impl Iterator<Item = &'a Fact> + Clone) {
    for round in 0..3 {
        for fact in facts.clone() {
            let told = Told { age_ms: 0, fact: fact.clone() };
            let now = Time::default() + Duration::from_secs(round);
            match store.judge(now, &told) {
                Verdict::New(_) => store.insert(now, fact.clone(), Duration::ZERO),
                Verdict::Refused(why) => assert_ne!(why, Refusal::TooFast, "few enough"),
                Verdict::Duplicate | Verdict::EarlierLife(_) => {}
            }
            store.invariants();
        }
    }
}

pub(crate) fn facts(data: &[u8]) {
    let mut choices = Choices::new(data);
    let turn = choices.below(FACTS);
    let mut facts = Vec::new();
    while !choices.is_empty() && facts.len() < FACTS {
        facts.push(fact(&mut choices));
    }
    let mut stores = [(); 3].map(|()| Store::new(name(9)));
    tell(&mut stores[0], facts.iter());
    tell(&mut stores[1], facts.iter().rev());
    let turn = turn.min(facts.len());
    // Two peers that heard different ones first, and then all.
    tell(&mut stores[2], facts[turn..].iter().chain(&facts[..turn]).chain(&facts));
    let digests = stores.each_ref().map(Store::digest);
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{facts:?}");
}
