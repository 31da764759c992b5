//! The picture of the overlay that every peer keeps: peers, links, capacity and free capacity (A9, A17,
//! B3; decision 9 of the control-plane specification).

use crate::types::{Bandwidth, PeerName};

/// A path that somebody looks for on the picture.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub to: &'a PeerName,
    /// Must be free on every link in the direction of the path, and against it.
    pub rate: Bandwidth,
    pub rate_back: Bandwidth,
    /// Links with a smaller largest payload are used only if there is no path without them.
    pub max_payload: u16,
    /// The path that the same channel has reserved now: what it has on a link of it counts as free
    /// there.
    pub own: &'a [PeerName],
    /// Links that must not be used, by their ends in any order.
    pub without_links: &'a [(PeerName, PeerName)],
    /// Peers that must not relay.
    pub without_relays: &'a [PeerName],
}
