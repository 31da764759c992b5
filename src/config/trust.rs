//! `[trust]`: peers that may dial this one although no `[[link]]` names them.
//!
//! Pure. What becomes of a trusted peer that dials is the daemon's (`daemon/trust.rs`).

use std::collections::BTreeMap;

use super::Link;
use super::document::{Item, Section};
use super::error::ConfigError;
use super::file::{Seen, capacity};
use crate::limits;
use crate::types::{Bandwidth, PeerName, PublicKey};

/// What a link made by trust carries where nothing else is said: a stream in HD and its control traffic.
/// The smaller of both ends holds, and the other end has a `[[link]]` that knows its wire.
pub const CAPACITY_DEFAULT: Bandwidth = Bandwidth::from_bps(25_000_000);

/// Who is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustSection {
    pub peers: Vec<Trusted>,
    /// Of links whose entry has none of its own.
    pub capacity: Bandwidth,
}

/// One entry: a key, or a table with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trusted {
    pub key: PublicKey,
    /// It has to call itself so; without it any name that is free will do.
    pub name: Option<PeerName>,
    pub capacity: Option<Bandwidth>,
}

impl Default for TrustSection {
    fn default() -> Self {
        Self { peers: Vec::new(), capacity: CAPACITY_DEFAULT }
    }
}

impl TrustSection {
    pub fn of(&self, key: &PublicKey) -> Option<&Trusted> {
        self.peers.iter().find(|trusted| trusted.key == *key)
    }

    /// The link to a trusted peer that calls itself `peer`; none if it may not.
    pub fn link(&self, key: &PublicKey, peer: &PeerName) -> Option<Link> {
        let trusted = self.of(key)?;
        trusted.name.as_ref().is_none_or(|name| name == peer).then(|| Link {
            peer: peer.clone(),
            address: None,
            capacity: trusted.capacity.unwrap_or(self.capacity),
            key: *key,
            mtu: limits::MTU_DEFAULT,
            hop_tag: None,
            by_trust: true,
        })
    }
}

/// The section of a file; `own` is this peer's name, `links` those that stand in the same file.
pub(super) fn section(
    root: &Section<'_>,
    own: &PeerName,
    links: &[Link],
) -> Result<TrustSection, ConfigError> {
    let Some(section) = root.section("trust")? else { return Ok(TrustSection::default()) };
    section.only(&["peers", "capacity"])?;
    let default = section.item("capacity").as_ref().map(capacity).transpose()?;
    let mut trust =
        TrustSection { peers: Vec::new(), capacity: default.unwrap_or(CAPACITY_DEFAULT) };
    let Some(item) = section.item("peers") else { return Ok(trust) };
    let list = item.list()?;
    if let Some(surplus) = list.get(limits::PEERS_MAX) {
        let max = limits::PEERS_MAX;
        return Err(surplus.error(format!("is one too many: at most {max} keys")));
    }
    let (mut keys, mut names) = (BTreeMap::new(), BTreeMap::new());
    for entry in &list {
        trust.peers.push(trusted(entry, own, links, (&mut keys, &mut names))?);
    }
    Ok(trust)
}

fn trusted(
    entry: &Item<'_>,
    own: &PeerName,
    links: &[Link],
    (keys, names): (&mut BTreeMap<PublicKey, usize>, &mut BTreeMap<PeerName, usize>),
) -> Result<Trusted, ConfigError> {
    let Some(table) = entry.table() else {
        let key = entry.parse("a public key, or a table as in { key = \"...\" }")?;
        Seen::once(keys, key, entry, "once is enough")?;
        return Ok(Trusted { key, name: None, capacity: None });
    };
    table.only(&["key", "name", "capacity"])?;
    let key_item = table.required("key", "key = \"64 hexadecimal digits\"")?;
    let key = key_item.parse("its public key")?;
    Seen::once(keys, key, &key_item, "once is enough")?;
    let name_item = table.item("name");
    let name: Option<PeerName> =
        name_item.as_ref().map(|item| item.parse("a name, as in \"peer-02\"")).transpose()?;
    if let (Some(item), Some(name)) = (&name_item, &name) {
        if name == own {
            return Err(item.error(format!("\"{name}\" is this peer itself: name the other one")));
        }
        if links.iter().any(|link| link.peer == *name && link.key != key) {
            let text = "is a [[link]] with another key: a name belongs to one peer";
            return Err(item.error(format!("{} {text}", item.written())));
        }
        Seen::once(names, name.clone(), item, "a name belongs to one peer")?;
    }
    let capacity = table.item("capacity").as_ref().map(capacity).transpose()?;
    Ok(Trusted { key, name, capacity })
}
