//! What world to build.

use std::time::Duration;

use crate::proto::policy::Rule;
use crate::proto::{Budgets, ServiceConfig};
use crate::types::{Bandwidth, PeerName};
use crate::wire::control;

/// An overlay to be built: peers by position, and the links between them.
#[derive(Clone, Debug)]
pub struct Plan {
    pub peers: Vec<PeerName>,
    /// Two positions and the configured capacity.
    pub links: Vec<(usize, usize, Bandwidth)>,
    /// What the hosts of these peers may carry in all; the others as much as their links.
    pub budgets: Vec<(usize, Budgets)>,
    /// Rules that peers may have ...
    pub rules: Vec<Vec<Rule>>,
    /// ... and do, by position.
    pub ruled: Vec<(usize, usize)>,
    /// Services of every peer.
    pub services: Vec<ServiceConfig>,
    /// One hop takes between these.
    pub delay: (Duration, Duration),
    /// One hop in a hundred takes fifty times as long.
    pub tails: bool,
    /// Messages under way in one direction of a link; one more costs the connection, as a full send queue
    /// does.
    pub queue: Option<usize>,
    /// The highest control version that peers speak: lower ones know no facts about the overlay.
    pub version: u16,
}

impl Default for Plan {
    /// Nobody, and hops that take a millisecond.
    fn default() -> Self {
        Self {
            peers: Vec::new(),
            links: Vec::new(),
            budgets: Vec::new(),
            rules: Vec::new(),
            ruled: Vec::new(),
            services: Vec::new(),
            delay: (Duration::from_millis(1), Duration::from_millis(1)),
            tails: false,
            queue: None,
            version: control::VERSIONS.1,
        }
    }
}
