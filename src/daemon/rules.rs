//! What `[[allow]]` lets others do, as the rows of the local interface. Values in, values out.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::api::dto::{AllowReply, AllowRow, AllowUser};
use crate::limits;
use crate::proto::policy::{self, Policy, Rule, RuleUse};
use crate::types::PeerName;

/// Refusals of others' requests; every limit is there, also those that refused nothing.
pub(crate) fn forbidden(policy: &Policy) -> BTreeMap<String, u64> {
    let count = |limit: policy::Limit| (limit.as_str().to_owned(), policy.refused(limit));
    policy::Limit::ALL.map(count).into()
}

pub(crate) fn allow_reply(policy: &Policy) -> AllowReply {
    let rules = policy.rules().iter().zip(policy.uses()).enumerate();
    let rules: Vec<_> = rules.map(|(at, (rule, used))| allow_row(at + 1, rule, used)).collect();
    let otherwise = if rules.is_empty() { "allowed" } else { "refused" };
    AllowReply { otherwise: otherwise.to_owned(), rules, refused: forbidden(policy) }
}

fn allow_row(number: usize, rule: &Rule, used: &RuleUse) -> AllowRow {
    let user = |(peer, used): (&PeerName, &policy::Use)| AllowUser {
        peer: peer.clone(),
        channels: used.channels,
        rate_bps: used.rate,
    };
    let mut users: Vec<_> = used.peers.iter().map(user).collect();
    let used_channels = users.iter().map(|user| user.channels).sum();
    users.sort_by_key(|user| Reverse(user.rate_bps));
    users.truncate(limits::RULE_USERS_SHOWN);
    AllowRow {
        rule: number,
        peers: rule.peers.iter().map(ToString::to_string).collect(),
        to: rule.to.iter().map(ToString::to_string).collect(),
        through: rule.through,
        rate_bps: rule.rate,
        total_bps: rule.total,
        channels: rule.channels,
        requests: rule.requests,
        everybody_bps: rule.everybody,
        used_bps: used.rate,
        used_channels,
        users,
        refused: used.refused,
    }
}
