//! How this peer and its neighbours met: over which connection, what went wrong last, and what their
//! heartbeats tell. For people; nothing is decided by it.
//!
//! Bounded by the neighbours: others are not remembered.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::control::Control;
use super::views;
use crate::api::dto::LinkRow;
use crate::engine::{LinkSpec, Pulse};
use crate::proto::view::LinkState;
use crate::types::{PeerName, Time};

/// By the neighbour's name.
#[derive(Debug, Default)]
pub(crate) struct Contacts(RefCell<BTreeMap<PeerName, Contact>>);

#[derive(Clone, Debug, Default)]
pub(crate) struct Contact {
    /// The other end of the last connection, and whether this peer dialled.
    connection: Option<(SocketAddr, bool)>,
    /// Why the last attempt or connection ended.
    failure: Option<String>,
    pulse: Option<Arc<Pulse>>,
}

impl Contacts {
    pub(crate) fn met(&self, peer: &PeerName, remote: SocketAddr, dialled: bool) {
        self.change(peer, |contact| contact.connection = Some((remote, dialled)));
    }

    /// The text may come from the other end: nothing in it may move a terminal's cursor.
    pub(crate) fn failed(&self, peer: &PeerName, why: &str) {
        let why = why.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.change(peer, |contact| contact.failure = Some(why));
    }

    pub(crate) fn linked(&self, peer: &PeerName, pulse: &Arc<Pulse>) {
        self.change(peer, |contact| contact.pulse = Some(Arc::clone(pulse)));
    }

    /// Forgets everybody that `known` does not know: trusted peers choose their names.
    pub(crate) fn retain(&self, known: impl Fn(&PeerName) -> bool) {
        self.0.borrow_mut().retain(|peer, _| known(peer));
    }

    fn change(&self, peer: &PeerName, change: impl FnOnce(&mut Contact)) {
        change(self.0.borrow_mut().entry(peer.clone()).or_default());
    }

    fn of(&self, peer: &PeerName) -> Contact {
        self.0.borrow().get(peer).cloned().unwrap_or_default()
    }
}

impl Control {
    pub(super) fn link_rows(&self) -> Vec<LinkRow> {
        let now = self.now();
        let row = |view: crate::proto::view::LinkView| {
            let slot = self.links.get(&view.link);
            let dialled = slot.and_then(|slot| slot.dial_address());
            let used = slot.and_then(|slot| slot.spec.as_ref()).map(|(spec, _)| spec.address);
            let contact = self.neighbours.contacts.of(&view.peer);
            let tags = |(spec, _): &(LinkSpec, Time)| spec.tags.is_some();
            let hop_tag = slot.and_then(|slot| slot.spec.as_ref()).is_some_and(tags);
            let paced = slot.map_or(Duration::ZERO, |slot| slot.paced());
            let paced_ms = u64::try_from(paced.as_millis()).unwrap_or(u64::MAX);
            let by_trust = self.is_by_trust(&view.peer);
            let row = filled(views::link_row(view), &contact, used.or(dialled), now);
            let hop_tag = hop_tag && row.state == LinkState::Up.as_str();
            LinkRow { hop_tag, paced_ms, by_trust, ..row }
        };
        self.node.links().into_iter().map(row).collect()
    }
}

fn filled(row: LinkRow, contact: &Contact, address: Option<SocketAddr>, now: Time) -> LinkRow {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let pulse = contact.pulse.as_deref();
    let up = row.state == LinkState::Up.as_str();
    let connected = row.state != LinkState::Down.as_str();
    let by = contact.connection.filter(|_| connected).map(|(_, dialled)| dialled);
    let remote = contact.connection.map(|(remote, _)| remote);
    let address = address.or(remote);
    LinkRow {
        rtt_us: pulse.and_then(Pulse::rtt).filter(|_| up).map(micros),
        heard_ms: pulse.and_then(Pulse::heard).map(|heard| micros(now.since(heard)) / 1_000),
        address: address.map(|a| SocketAddr::new(a.ip().to_canonical(), a.port())),
        connection: by.map(|dialled| if dialled { "dialled" } else { "accepted" }.to_owned()),
        last_failure: contact.failure.clone(),
        ..row
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Bandwidth;

    fn row(state: LinkState) -> LinkRow {
        LinkRow {
            peer: PeerName::new("b").expect("a name"),
            state: state.as_str().to_owned(),
            capacity_bps: Bandwidth::ZERO,
            free_out_bps: Bandwidth::ZERO,
            free_in_bps: Bandwidth::ZERO,
            tree: false,
            rtt_us: None,
            heard_ms: None,
            address: None,
            connection: None,
            last_failure: None,
            hop_tag: false,
            paced_ms: 0,
            by_trust: false,
        }
    }

    #[test]
    fn a_link_shows_how_it_was_made_and_what_went_wrong_before() {
        let (contacts, peer) = (Contacts::default(), PeerName::new("b").expect("a name"));
        let address = "127.0.0.1:7016".parse().expect("an address");
        let now = Time::default() + Duration::from_secs(9);
        contacts.failed(&peer, "Connection refused\x1b[2J");
        let down = filled(row(LinkState::Down), &contacts.of(&peer), Some(address), now);
        assert_eq!((down.connection, down.heard_ms), (None, None));
        assert_eq!(down.last_failure.as_deref(), Some("Connection refused [2J"));
        assert_eq!(down.address, Some(address));
        contacts.met(&peer, "127.0.0.1:40000".parse().expect("an address"), false);
        let pulse = Arc::<Pulse>::default();
        contacts.linked(&peer, &pulse);
        pulse.note(Time::default() + Duration::from_secs(8), Some(Duration::from_micros(250)));
        let up = filled(row(LinkState::Up), &contacts.of(&peer), Some(address), now);
        assert_eq!(up.connection.as_deref(), Some("accepted"));
        assert_eq!((up.rtt_us, up.heard_ms), (Some(250), Some(1_000)));
    }
}
