//! `spanway link add` and `link remove`: links of a running peer.

use super::screen::{CliError, Daemon, show};
use super::{LinkAction, LinkAddArgs};
use crate::api::dto::{AddLink, LinkReply, Request};

pub(super) fn link(action: LinkAction) -> Result<(), CliError> {
    let (target, request) = match action {
        LinkAction::Add(LinkAddArgs { peer, address, key, capacity, mtu, target }) => {
            let link = AddLink { peer, address, key, capacity_bps: capacity, mtu };
            (target, Request::AddLink(link))
        }
        LinkAction::Remove { peer, target } => (target, Request::RemoveLink { peer }),
    };
    let daemon = Daemon::of(&target)?;
    let reply: LinkReply = daemon.ask(&request)?;
    show(&target, &reply, |LinkReply { peer, change }, out, _| {
        let file = daemon.config.display();
        match change.as_str() {
            "added" => writeln!(out, "the link to {peer} is in use and in {file}"),
            "removed" => writeln!(out, "the link to {peer} is closed and no longer in {file}"),
            _ => writeln!(out, "the link to {peer} is there already, just so"),
        }
    })
}
