//! Control messages, and what a COMMIT is made of.

use std::collections::BTreeSet;

use spanway::proto::overlay::Overlay;
use spanway::types::{Bandwidth, EdgeKey, PeerName, SessionId};
use spanway::wire::control::Message;

use super::bytes::Choices;

pub(crate) fn codec(data: &[u8]) {
    let Ok(message) = Message::parse(data) else { return };
    let emitted = message.emit();
    assert_eq!(Message::parse(&emitted).as_ref(), Ok(&message), "{message:?}");
    // A longer one has fields that this version does not know.
    assert!(emitted.len() <= data.len() + ROUNDED, "{message:?}");
}

/// Optional fields that are left out when they say nothing may be said by nothing, too.
const ROUNDED: usize = 64;

pub(crate) fn tree(data: &[u8]) {
    let mut choices = Choices::new(data);
    let name = |number: usize| PeerName::new(&format!("p{number}")).expect("a name");
    let peers = 1 + choices.below(24);
    let session = SessionId { counter: 1, initiator: name(0) };
    let mut edges = Vec::new();
    while !choices.is_empty() && edges.len() < 64 {
        let (one, other) = (choices.below(peers + 2), choices.below(peers + 2));
        if one != other {
            let capacity = Bandwidth::from_bps(choices.u64());
            edges.push(EdgeKey::new(capacity, name(one), name(other)));
        }
    }
    let mut reached = BTreeSet::from([name(0)]);
    // Slow and obvious: what is reached grows until it does not.
    loop {
        let before = reached.len();
        for edge in &edges {
            let ends = [&edge.lower, &edge.higher];
            if ends.iter().any(|end| reached.contains(*end)) {
                reached.extend(ends.map(Clone::clone));
            }
        }
        if reached.len() == before {
            break;
        }
    }
    let Ok(overlay) = Overlay::new(session, &name(0), None, edges.clone()) else { return };
    assert_eq!(overlay.peers(), reached.len());
    assert_eq!(edges.len() + 1, reached.len(), "a tree over all of them");
    for peer in &reached {
        let path = overlay.path(peer).expect("reached");
        assert_eq!((path.first(), path.last()), (Some(&name(0)), Some(peer)));
        for hop in path.windows(2) {
            let joins = |edge: &EdgeKey| edge.other_end(&hop[0]) == Some(&hop[1]);
            assert!(edges.iter().any(joins), "{hop:?}");
        }
    }
}
