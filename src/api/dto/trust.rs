//! JSON shapes of what an operator lets others do: invitations, and the rules of `[[allow]]`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::types::{Bandwidth, PeerName};

/// What a newcomer is promised.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Invite {
    /// What it has to call itself; missing: any name that is free.
    pub name: Option<PeerName>,
    /// Of the link to it, each way; missing: `[trust] capacity`.
    pub capacity_bps: Option<Bandwidth>,
    /// Missing: an hour.
    pub expires_ms: Option<u64>,
    /// Where it shall dial; none: where this peer listens.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<SocketAddr>,
}

/// An invitation that was just made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InviteReply {
    /// For `spanway join`. Secret: whoever has it may join, once.
    pub token: String,
    /// To revoke it by.
    pub id: String,
    pub name: Option<PeerName>,
    pub capacity_bps: Bandwidth,
    pub left_ms: u64,
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<SocketAddr>,
}

impl fmt::Debug for InviteReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invitation {}", self.id)
    }
}

/// An invitation that has not expired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InvitationRow {
    pub id: String,
    /// `open`, `used` or `revoked`.
    pub state: String,
    /// What the newcomer has to call itself.
    pub name: Option<PeerName>,
    pub capacity_bps: Bandwidth,
    /// Until it expires.
    pub left_ms: u64,
    /// Who used it.
    pub peer: Option<PeerName>,
}

/// What `[[allow]]` lets others do, and what they have of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AllowReply {
    /// What happens to a request that no rule fits: `allowed` if there are none, `refused` otherwise.
    pub otherwise: String,
    pub rules: Vec<AllowRow>,
    /// Requests of others that were refused since this peer started, by the limit: `no_rule`, `rate`,
    /// `total`, `channels`, `requests` or `everybody`.
    pub refused: BTreeMap<String, u64>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AllowRow {
    /// Its place in the file, from 1.
    pub rule: usize,
    pub peers: Vec<String>,
    pub to: Vec<String>,
    pub through: bool,
    /// Most of one channel.
    pub rate_bps: Option<Bandwidth>,
    /// Most of all channels of one peer.
    pub total_bps: Option<Bandwidth>,
    pub channels: Option<u32>,
    pub requests: Option<u32>,
    /// Most of all channels of all peers.
    pub everybody_bps: Option<Bandwidth>,
    /// What it lets in at present.
    pub used_bps: Bandwidth,
    pub used_channels: u32,
    /// By whom, the largest first, at most 64 of them.
    pub users: Vec<AllowUser>,
    /// Since the rules were read.
    pub refused: u64,
}

/// What a peer has by a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AllowUser {
    pub peer: PeerName,
    pub channels: u32,
    pub rate_bps: Bandwidth,
}
