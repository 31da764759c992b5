//! `spanway allow`: the rules for channels of others, and what others have by them.

use std::io::{self, Write};

use super::Target;
use super::screen::{CliError, Daemon, Style, show};
use super::table::{Table, wrap};
use crate::api::dto::{AllowReply, AllowRow, Request};

/// Users of a rule that are named in the table; `--json` has more.
const USERS_SHOWN: usize = 8;

pub(super) fn allow(target: &Target) -> Result<(), CliError> {
    let reply: AllowReply = Daemon::of(target)?.ask(&Request::Allow)?;
    show(target, &reply, text)
}

fn text(reply: &AllowReply, out: &mut dyn Write, style: Style) -> io::Result<()> {
    if reply.rules.is_empty() {
        return writeln!(out, "no rules: everybody may open channels to this peer and through it");
    }
    let mut table = Table::new()
        .number("RULE")
        .elastic("PEERS")
        .elastic("TO")
        .column("THROUGH")
        .number("CHANNELS")
        .number("IN USE")
        .number("REFUSED");
    for row in &reply.rules {
        table.row(vec![
            row.rule.to_string(),
            row.peers.join(", "),
            if row.to.is_empty() { "-".to_owned() } else { row.to.join(", ") },
            if row.through { "yes" } else { "no" }.to_owned(),
            row.used_channels.to_string(),
            row.used_bps.to_string(),
            row.refused.to_string(),
        ]);
        notes(row, &mut table);
    }
    table.write(out, style)?;
    let counts = reply.refused.iter().filter(|(_, count)| **count > 0);
    let counts: Vec<String> = counts.map(|(limit, count)| format!("{limit} {count}")).collect();
    if !counts.is_empty() {
        writeln!(out, "refused since the start: {}", wrap(&counts, ", ", 2))?;
    }
    writeln!(out, "what no rule fits is {}", reply.otherwise)
}

fn notes(row: &AllowRow, table: &mut Table) {
    let limits: Vec<String> = [
        row.rate_bps.map(|rate| format!("{rate} a channel")),
        row.total_bps.map(|rate| format!("{rate} a peer")),
        row.channels.map(|count| format!("{count} channels a peer")),
        row.requests.map(|count| format!("{count} waiting requests a peer")),
        row.everybody_bps.map(|rate| format!("{rate} in all")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !limits.is_empty() {
        table.note(format!("at most {}", wrap(&limits, ", ", 4)));
    }
    let user = |user: &crate::api::dto::AllowUser| format!("{} {}", user.peer, user.rate_bps);
    let mut users: Vec<String> = row.users.iter().take(USERS_SHOWN).map(user).collect();
    if row.users.len() > USERS_SHOWN {
        users.push("...".to_owned());
    }
    if !users.is_empty() {
        table.note(wrap(&users, ", ", 4));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::api::dto::AllowUser;
    use crate::types::{Bandwidth, PeerName};

    #[test]
    fn rules_are_shown_with_their_limits_and_who_uses_them() {
        let mbit = |rate: u64| Bandwidth::from_bps(rate * 1_000_000);
        let user = |name: &str| AllowUser {
            peer: PeerName::new(name).expect("a name"),
            channels: 1,
            rate_bps: mbit(4),
        };
        let row = AllowRow {
            rule: 1,
            peers: vec!["*".to_owned()],
            to: Vec::new(),
            through: true,
            rate_bps: Some(mbit(5)),
            total_bps: None,
            channels: Some(2),
            requests: None,
            everybody_bps: Some(mbit(200)),
            used_bps: mbit(8),
            used_channels: 2,
            users: vec![user("berlin"), user("oslo")],
            refused: 3,
        };
        let refused = BTreeMap::from([("rate".to_owned(), 3), ("total".to_owned(), 0)]);
        let reply = AllowReply { otherwise: "refused".to_owned(), rules: vec![row], refused };
        let mut out = Vec::new();
        text(&reply, &mut out, Style { colour: false, wide: false }).expect("written");
        let said = String::from_utf8(out).expect("text");
        for part in [
            "at most 5 Mbit/s a channel, 2 channels a peer, 200 Mbit/s in all",
            "berlin 4 Mbit/s, oslo 4 Mbit/s",
            "refused since the start: rate 3",
            "what no rule fits is refused",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    }
}
