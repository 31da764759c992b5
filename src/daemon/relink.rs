//! How a running peer takes another configuration: the file again, or one link more or less of it.
//!
//! An extension of [`Control`]. A link that is added or removed here goes into the configuration file, so
//! that it is there after a restart, and then the very way of a reload. Everything is checked before the
//! file is touched, and the file is written before anything is applied: whoever is refused has changed
//! nothing. Only this peer is told; the other end of a link is its own operator's.

use std::path::Path;
use std::{fmt, io};

use crate::api::dto::{self, FailureKind, LinkReply};
use crate::config::values;
use crate::config::{Config, ConfigError, Link, LinkIds, edit};
use crate::daemon::control::{Control, Stage, node_config};
use crate::daemon::{store, trust};
use crate::limits;
use crate::proto::Input;
use crate::types::PeerName;

impl Control {
    /// Takes over the configuration file: all of it, or nothing and a text with the reason.
    pub(super) fn reload(&mut self) -> Result<(), String> {
        let config = Config::load(&self.config.file).map_err(|error| error.to_string())?;
        let taken = self.takes(config).map_err(|error| error.to_string())?;
        self.take_over(taken);
        Ok(())
    }

    /// A link more. One that is there already, word for word, stays as it is.
    pub(super) fn add_link(
        &mut self,
        asked: &dto::AddLink,
    ) -> Result<LinkReply, (FailureKind, String)> {
        let link = link(asked).map_err(usage)?;
        let (text, current) = self.current_file()?;
        if current.links.contains(&link) {
            let known = self.config.links.contains(&link);
            let taken = self.takes(current).map_err(failed)?;
            self.take_over(taken);
            return Ok(reply(&link.peer, if known { "unchanged" } else { "added" }));
        }
        let (text, config) = edit::add_link(&self.config.file, &text, &link).map_err(usage)?;
        self.write_and_take(&text, config)?;
        tracing::info!(peer = %link.peer, capacity = %link.capacity, "link added");
        Ok(reply(&link.peer, "added"))
    }

    /// A link less: the neighbour is told Bye, and channels that cross the link move.
    pub(super) fn remove_link(
        &mut self,
        peer: &PeerName,
    ) -> Result<LinkReply, (FailureKind, String)> {
        let (text, _) = self.current_file()?;
        if self.is_by_trust(peer) {
            let file = self.config.file.display();
            return Err(failed(format!(
                "{peer} has no [[link]]: it is trusted; take its key out of [trust] in {file} and run `spanway reload`"
            )));
        }
        let (text, config) = edit::remove_link(&self.config.file, &text, peer).map_err(failed)?;
        self.write_and_take(&text, config)?;
        tracing::info!(%peer, "link removed");
        Ok(reply(peer, "removed"))
    }

    /// The file as it is now: a person may have changed it since it was read.
    pub(super) fn current_file(&self) -> Result<(String, Config), (FailureKind, String)> {
        if self.stage != Stage::Running {
            return Err(failed("this peer is leaving: its links stay as they are"));
        }
        let file = &self.config.file;
        let text = Config::read(file).map_err(failed)?;
        let config = Config::parse(file, &text).map_err(failed)?;
        Ok((text, config))
    }

    pub(super) fn write_and_take(
        &mut self,
        text: &str,
        config: Config,
    ) -> Result<(), (FailureKind, String)> {
        let taken = self.takes(config).map_err(failed)?;
        let file = &self.config.file;
        store::rewrite(file, text.as_bytes()).map_err(|error| failed(not_written(file, &error)))?;
        self.take_over(taken);
        Ok(())
    }

    /// `config` with the links that were made by trust and still may be, and what all of them are called; if
    /// this peer can take it without a restart.
    fn takes(&self, mut config: Config) -> Result<(Config, LinkIds), ConfigError> {
        self.config.reload(&config)?;
        trust::keep_links(&self.config.links, &mut config);
        let ids = self.ids.after(&config)?;
        Ok((config, ids))
    }

    fn take_over(&mut self, taken: (Config, LinkIds)) {
        self.use_config(taken);
        let (links, services) = (self.config.links.len(), self.config.services.len());
        tracing::info!(links, services, "configuration reloaded");
    }

    pub(super) fn use_config(&mut self, (config, ids): (Config, LinkIds)) {
        self.config = config;
        self.ids = ids;
        // The node says Bye on links that are gone, while they still have their connections.
        let own_ends = self.engine.own_ends().is_some();
        let node_config = node_config(&self.config, &self.ids, own_ends);
        self.feed(Input::Configured(node_config));
        self.keep_links();
    }
}

/// As the file would have it; its other rules are the parser's.
fn link(asked: &dto::AddLink) -> Result<Link, String> {
    let dto::AddLink { peer, address, key, capacity_bps, mtu } = asked;
    let address = address.map(|address| values::address(&address.to_string())).transpose();
    Ok(Link {
        peer: peer.clone(),
        address: address.map_err(|text| format!("link.address: {text}"))?,
        capacity: *capacity_bps,
        key: key.parse().map_err(|error| format!("link.key: {error}"))?,
        mtu: mtu.unwrap_or(limits::MTU_DEFAULT),
        hop_tag: None,
        by_trust: false,
    })
}

fn reply(peer: &PeerName, change: &str) -> LinkReply {
    LinkReply { peer: peer.clone(), change: change.to_owned() }
}

pub(super) fn usage(error: impl fmt::Display) -> (FailureKind, String) {
    (FailureKind::Usage, error.to_string())
}

pub(super) fn failed(error: impl fmt::Display) -> (FailureKind, String) {
    (FailureKind::Failed, error.to_string())
}

fn not_written(file: &Path, error: &io::Error) -> String {
    let file = file.display();
    format!(
        "{file} cannot be written ({error}), so nothing was changed: the daemon must be able to write the file \
         and its folder; or change the file by hand and run `spanway reload`"
    )
}
