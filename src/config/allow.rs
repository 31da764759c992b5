//! `[[allow]]`: who may open channels that end here or cross this peer, and how much.
//!
//! Pure. What the rules mean for a request is [`crate::proto::policy`]'s.

use super::document::{Item, Section};
use super::error::ConfigError;
use crate::limits;
use crate::proto::policy::{Rule, Which, Who};
use crate::types::{PeerName, ServiceName};

/// The rules of a file, in its order.
pub(super) fn rules(root: &Section<'_>) -> Result<Vec<Rule>, ConfigError> {
    let sections = root.sections("allow")?;
    if let Some(surplus) = sections.get(limits::RULES_MAX) {
        let max = limits::RULES_MAX;
        return Err(surplus.error(format!("is one too many: a peer has at most {max} rules")));
    }
    sections.iter().map(rule).collect()
}

fn rule(section: &Section<'_>) -> Result<Rule, ConfigError> {
    section.only(&[
        "peers",
        "to",
        "through",
        "rate",
        "total",
        "channels",
        "requests",
        "everybody",
    ])?;
    let peers = section.required("peers", "peers = [\"*\"], for everybody")?;
    let to = section.item("to");
    let through = section.item("through").map(|item| item.flag()).transpose()?.unwrap_or(false);
    let rate = |key| section.item(key).map(|item| item.rate()).transpose();
    let number =
        |key, most: usize| section.item(key).map(|item| item.number(0, most as u64)).transpose();
    let rule = Rule {
        peers: list(&peers, "\"berlin\", a public key, or \"*\"", who)?,
        to: to
            .as_ref()
            .map(|to| list(to, "\"video\", or \"*\"", which))
            .transpose()?
            .unwrap_or_default(),
        through,
        rate: rate("rate")?,
        total: rate("total")?,
        channels: number("channels", limits::CHANNELS_MAX)?,
        requests: number("requests", limits::WAITING_PER_ASKER)?,
        everybody: rate("everybody")?,
    };
    if rule.to.is_empty() && !rule.through {
        return Err(section.error(
            "allows nothing: write to = [\"SERVICE\"] for services here, through = true for channels that cross, \
             or both",
        ));
    }
    for (key, less, more) in
        [("total", rule.rate, rule.total), ("everybody", rule.total.or(rule.rate), rule.everybody)]
    {
        if let (Some(less), Some(more), Some(item)) = (less, more, section.item(key))
            && more < less
        {
            let text = format!(
                "{} is less than the {less} of one channel or peer: write at least that",
                item.written()
            );
            return Err(item.error(text));
        }
    }
    Ok(rule)
}

fn list<T>(
    item: &Item<'_>,
    example: &str,
    parse: impl Fn(&Item<'_>, &str) -> Result<T, ConfigError>,
) -> Result<Vec<T>, ConfigError> {
    let entries = item.list()?;
    if entries.is_empty() {
        return Err(item.error(format!("is empty, which fits nobody: write {example}")));
    }
    if let Some(surplus) = entries.get(limits::RULE_NAMES_MAX) {
        let max = limits::RULE_NAMES_MAX;
        return Err(surplus.error(format!("is one too many: at most {max}; write another rule")));
    }
    entries.iter().map(|entry| parse(entry, example)).collect()
}

/// A key has more characters than a name may have.
fn who(entry: &Item<'_>, example: &str) -> Result<Who, ConfigError> {
    match entry.text(example)? {
        "*" => Ok(Who::Anybody),
        text if text.len() > limits::NAME_BYTES_MAX => entry.parse(example).map(Who::Key),
        _ => entry.parse::<PeerName>(example).map(Who::Name),
    }
}

fn which(entry: &Item<'_>, example: &str) -> Result<Which, ConfigError> {
    match entry.text(example)? {
        "*" => Ok(Which::Any),
        _ => entry.parse::<ServiceName>(example).map(Which::Service),
    }
}
