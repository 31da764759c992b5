//! Links to peers that no `[[link]]` names: whoever proves a key of `[trust]` gets one when it dials.
//!
//! An extension of [`Control`]. Such a link is in no file: it lives in the configuration in use, beside
//! those of the file, for as long as the key is trusted. What the other end calls itself is believed if
//! nobody else has that name; who has an invitation is `inviting.rs`'s.

use tokio::sync::oneshot;

use crate::config::{Config, Link};
use crate::daemon::control::{Control, Stage};
use crate::daemon::handshake::Newcomer;
use crate::limits;
use crate::types::{LinkId, PeerName, PublicKey};

impl Control {
    /// Somebody without a link dials, and its key is its own.
    pub(super) fn newcomer(
        &mut self,
        newcomer: Newcomer,
        answer: oneshot::Sender<Result<LinkId, String>>,
    ) {
        let admitted = self.admit(&newcomer);
        // Nobody waits any more: it has closed the connection, and may dial again.
        let _ = answer.send(admitted);
    }

    fn admit(&mut self, newcomer: &Newcomer) -> Result<LinkId, String> {
        if self.stage != Stage::Running {
            return Err("it leaves the overlay".to_owned());
        }
        let Newcomer { name, key, invitation } = newcomer;
        if let (Some(shown), None) = (invitation, self.config.trust.of(key)) {
            return self.invited(newcomer, shown);
        }
        self.may_have_name(name, key)?;
        let Some(link) = self.config.trust.link(key, name) else {
            return Err(match self.config.trust.of(key).and_then(|of| of.name.as_ref()) {
                Some(of) => format!("its [trust] calls this key {of}: take that name"),
                None => format!("it has no [[link]] to {name} and does not trust its key"),
            });
        };
        self.link_by_trust(link)
    }

    /// A name belongs to one key: here, and as far as the overlay is known.
    pub(super) fn may_have_name(&self, name: &PeerName, key: &PublicKey) -> Result<(), String> {
        let taken = |by: &str| {
            Err(format!(
                "{by} is called {name} already: choose another name, unique in the overlay"
            ))
        };
        if *name == self.config.name {
            return taken("the peer that was dialled");
        }
        let is_live = |link: &&Link| !link.by_trust || self.is_connected(link);
        let links = &self.config.links;
        if links.iter().filter(is_live).any(|link| link.peer == *name && link.key != *key) {
            return taken("another neighbour of it");
        }
        if let Some(link) = links.iter().find(|link| !link.by_trust && link.key == *key)
            && link.peer != *name
        {
            return Err(format!("its [[link]] to {} has this key: take that name", link.peer));
        }
        let origin = self.node.graph().origin(name);
        if origin.is_some_and(|origin| origin.lives() && origin.key() != key) {
            return taken("another peer of the overlay");
        }
        Ok(())
    }

    /// In use from now on, until its key is no longer trusted.
    pub(super) fn link_by_trust(&mut self, link: Link) -> Result<LinkId, String> {
        let mut config = self.config.clone();
        // Under the name it had before, or of somebody who had that name and is not there.
        let old =
            |other: &Link| other.by_trust && (other.key == link.key || other.peer == link.peer);
        config.links.retain(|other| !old(other));
        if config.links.len() >= limits::LINKS_MAX {
            let away = |other: &Link| other.by_trust && !self.is_connected(other);
            let Some(at) = config.links.iter().position(away) else {
                return Err(format!("it has {} links, as many as it may", limits::LINKS_MAX));
            };
            config.links.remove(at);
        }
        config.links.push(link.clone());
        let ids = self.ids.after(&config).map_err(|error| error.text)?;
        let id = ids.of(&link).expect("it was just added");
        self.use_config((config, ids));
        let (peer, capacity) = (&link.peer, link.capacity);
        tracing::info!(%peer, %capacity, key = link.key.fingerprint(), "link to a trusted peer");
        Ok(id)
    }

    pub(super) fn is_by_trust(&self, peer: &PeerName) -> bool {
        self.config.links.iter().any(|link| link.by_trust && link.peer == *peer)
    }

    fn is_connected(&self, link: &Link) -> bool {
        let slot = self.ids.of(link).and_then(|id| self.links.get(&id));
        slot.is_some_and(|slot| slot.connection.is_some())
    }
}

/// Puts those of `links` that were made by trust into a configuration that comes into use, as far as it still
/// trusts them and has no other peer of that name.
pub(super) fn keep_links(links: &[Link], config: &mut Config) {
    for link in links.iter().filter(|link| link.by_trust) {
        let same = |other: &Link| other.peer == link.peer || other.key == link.key;
        let room = config.links.len() < limits::LINKS_MAX;
        let kept = config.trust.link(&link.key, &link.peer);
        config.links.extend(kept.filter(|_| room && !config.links.iter().any(same)));
    }
}
