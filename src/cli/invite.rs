//! `spanway invite` and `spanway invitations`: what an operator gives a newcomer, and takes back.

use std::time::Duration;

use super::open::millis;
use super::screen::{CliError, Daemon, say, show};
use super::table::Table;
use super::{InvitationsArgs, InviteArgs};
use crate::api::dto::{InvitationRow, Invite, InviteReply, Request};

pub(super) fn invite(args: InviteArgs) -> Result<(), CliError> {
    let daemon = Daemon::of(&args.target)?;
    let asked = Invite {
        name: args.name,
        capacity_bps: args.capacity,
        expires_ms: args.expires.map(millis),
        addresses: args.address,
    };
    let reply: InviteReply = daemon.ask(&Request::Invite(asked))?;
    if !args.target.json {
        let who =
            reply.name.as_ref().map_or_else(|| "one newcomer".to_owned(), ToString::to_string);
        let addresses: Vec<String> = reply.addresses.iter().map(ToString::to_string).collect();
        let (left, capacity) = (left(reply.left_ms), reply.capacity_bps);
        // Standard output has the line alone, for a pipe.
        say(&format!(
            "for {who}, a link of {capacity}, to dial {}; good for {left}, once",
            addresses.join(" or ")
        ));
        say(&format!("take it back: spanway invitations --revoke {}", reply.id));
        say("on the new host: spanway join, and this line:");
    }
    // A token is there to be copied: no part of it may be missing.
    let target = super::Target { wide: true, ..args.target };
    show(&target, &reply, |reply, out, _| writeln!(out, "{}", reply.token))
}

pub(super) fn invitations(args: InvitationsArgs) -> Result<(), CliError> {
    let daemon = Daemon::of(&args.target)?;
    if let Some(id) = args.revoke {
        let row: InvitationRow = daemon.ask(&Request::Revoke { id })?;
        return show(&args.target, &row, |row, out, _| {
            writeln!(out, "invitation {} is revoked: nobody can use it any more", row.id)
        });
    }
    let rows: Vec<InvitationRow> = daemon.ask(&Request::Invitations)?;
    show(&args.target, &rows, |rows, out, style| {
        if rows.is_empty() {
            return writeln!(out, "no invitations");
        }
        let mut table = Table::new()
            .column("ID")
            .column("STATE")
            .elastic("FOR")
            .number("CAPACITY")
            .number("GOOD FOR");
        for row in rows {
            let name = row.peer.as_ref().or(row.name.as_ref());
            table.row(vec![
                row.id.clone(),
                row.state.clone(),
                name.map_or_else(|| "anybody".to_owned(), ToString::to_string),
                row.capacity_bps.to_string(),
                left(row.left_ms),
            ]);
        }
        table.write(out, style)
    })
}

/// In the largest unit that says it well enough.
pub(super) fn left(ms: u64) -> String {
    let seconds = Duration::from_millis(ms).as_secs();
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_is_said_in_a_unit_for_people() {
        let all = [9_999, 3_600_000, 36_000_000, 864_000_000].map(left);
        assert_eq!(all, ["9 s", "60 min", "10 h", "10 days"]);
    }
}
