//! `spanway join`: a host with nothing but an invitation is a peer of a running overlay.
//!
//! ```text
//!  token read ─► key ─► shown to the inviter ─► configuration with a [[link]] to it ─► daemon
//! ```
//!
//! In this order whatever ends it in between can be done again with the same command: until the configuration
//! is there the key waits for it, and the inviter knows the key. Nothing that exists is overwritten.

use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::invite::left;
use super::screen::{CliError, Fail, Style, print, say, shell_word};
use super::{JoinArgs, clock, setup};
use crate::api::client::Client;
use crate::api::dto::{AddLink, LinkReply, LinkRow, PeerRow, Request, StatusReply};
use crate::config::{Config, Link, edit};
use crate::daemon::identity::{Identity, IdentityError};
use crate::daemon::invitation::{Invitation, Signed};
use crate::daemon::joining::{self, JoinError};
use crate::daemon::{self, store};
use crate::limits;
use crate::types::{Bandwidth, PeerName};

/// Longest token that is read from standard input.
const INPUT_BYTES_MAX: u64 = 4_096;
/// Port of a newcomer that names none.
const PORT: u16 = 7_000;
/// How often the daemon that was started is asked how far it is, and for how long.
const LOOK: Duration = Duration::from_millis(100);
const LOOKS_MAX: u32 = 600;

pub(super) fn join(args: JoinArgs) -> Result<(), CliError> {
    let signed = read(&args.token)?;
    let invitation = &signed.invitation;
    progress("invited", &about(invitation))?;
    let plan = Plan::new(&args, invitation)?;
    let (identity, is_new) = plan.identity()?;
    let dials = |address| {
        // Not worth an error: the next line says what came of it.
        let _ = progress("dialling", &format!("{} at {address}", invitation.inviter));
    };
    let presented = joining::present(&identity, &plan.name, plan.listen, &signed, dials);
    let address = presented.map_err(|error| {
        if !matches!(error, JoinError::Undecided { .. }) && is_new {
            // Made for this, and worth nothing to anybody.
            let _ = std::fs::remove_file(&plan.key_file);
        }
        refused(&error)
    })?;
    let running = plan.gain_link(address, invitation)?;
    let (name, file) = (&plan.name, plan.file.display());
    progress(
        "accepted",
        &format!("this peer is {name}; {file} has a link to {}", invitation.inviter),
    )?;
    if running {
        return reached(&plan.socket()?, invitation);
    }
    if args.no_run {
        let start = format!("spanway run --config {}", shell_word(&plan.file));
        return progress("joined", &format!("start it with {start}"));
    }
    if args.while_stdin {
        setup::stop_with_stdin();
    }
    watch(plan.socket()?, invitation.clone());
    let level = if args.verbose { "debug" } else { "warn" };
    daemon::run(&plan.file, false, level).map_err(|error| CliError::failure(error.to_string()))
}

/// `-` is standard input: there it is in no list of processes.
fn read(token: &str) -> Result<Signed, CliError> {
    let mut text = token.to_owned();
    if token == "-" {
        text.clear();
        let read = io::stdin().lock().take(INPUT_BYTES_MAX).read_to_string(&mut text);
        read.map_err(|error| CliError::failure(format!("standard input cannot be read: {error}")))?;
    }
    let wrong = |error: daemon::invitation::InvitationError| {
        CliError::new(Fail::Usage, format!("TOKEN: {error}"))
    };
    Signed::from_text(&text).map_err(wrong)
}

fn about(of: &Invitation) -> String {
    let (inviter, key, capacity) = (&of.inviter, of.key.fingerprint(), of.capacity);
    let now = clock::unix_seconds();
    let end = match of.expires.checked_sub(now).filter(|left| *left > 0) {
        Some(seconds) => format!("good for {}", left(seconds.saturating_mul(1_000))),
        // Its clock decides, not this one.
        None => "expired by this host's clock".to_owned(),
    };
    format!("by {inviter} (key {key}), a link of {capacity}, {end}")
}

/// What will be where.
struct Plan {
    name: PeerName,
    file: PathBuf,
    key_file: PathBuf,
    listen: SocketAddr,
    /// What this end of the link says that it carries.
    capacity: Bandwidth,
    /// The configuration that is there already, and its text.
    there: Option<(String, Config)>,
    /// A daemon runs with it.
    running: bool,
}

impl Plan {
    fn new(args: &JoinArgs, invitation: &Invitation) -> Result<Self, CliError> {
        let capacity = args.capacity.unwrap_or(invitation.capacity);
        if let Some(file) = args.config.as_ref().filter(|file| file.exists()) {
            return Self::of_file(args, file.clone(), capacity);
        }
        let name = name_of(args, invitation)?;
        let folder = args.dir.clone().unwrap_or_default();
        let file = args.config.clone().unwrap_or_else(|| folder.join(format!("{name}.toml")));
        if file.exists() {
            return Self::of_file(args, file, capacity);
        }
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder {
            std::fs::create_dir_all(folder).map_err(|error| {
                CliError::failure(format!("{} cannot be made: {error}", folder.display()))
            })?;
        }
        let key_file = file.with_file_name(format!("{name}.key"));
        let listen = args.listen.unwrap_or_else(|| listen_for(invitation));
        joining::can_listen(listen).map_err(|text| {
            CliError::failure(format!("{text}; name another one with --listen ADDRESS:PORT"))
        })?;
        Ok(Self { name, file, key_file, listen, capacity, there: None, running: false })
    }

    /// A peer that is there gains a link.
    fn of_file(args: &JoinArgs, file: PathBuf, capacity: Bandwidth) -> Result<Self, CliError> {
        let wrong = |error: crate::config::ConfigError| CliError::failure(error.to_string());
        let text = Config::read(&file).map_err(wrong)?;
        let config = Config::parse(&file, &text).map_err(wrong)?;
        let shown = file.display();
        if let Some(name) = args.name.as_ref().filter(|name| **name != config.name) {
            let text = format!(
                "--name {name}: {shown} is there already, of {}: leave --name out, or choose another --config",
                config.name
            );
            return Err(CliError::new(Fail::Usage, text));
        }
        if let Some(listen) = args.listen.filter(|listen| *listen != config.listen) {
            let text = format!(
                "--listen {listen}: {shown} is there already and listens on {}: leave --listen out",
                config.listen
            );
            return Err(CliError::new(Fail::Usage, text));
        }
        let (name, key_file, listen) =
            (config.name.clone(), config.key_file.clone(), config.listen);
        let socket = store::socket_path(&config.state_dir);
        let running = socket.is_ok_and(|socket| Client::connect(&socket).is_ok());
        if !running && !args.no_run {
            joining::can_listen(listen).map_err(CliError::failure)?;
        }
        Ok(Self { name, file, key_file, listen, capacity, there: Some((text, config)), running })
    }

    /// The key of this peer, and whether it was made for this.
    fn identity(&self) -> Result<(Identity, bool), CliError> {
        let wrong = |error: IdentityError| CliError::failure(error.to_string());
        match Identity::load(&self.key_file) {
            Err(IdentityError::Missing { .. }) if self.there.is_none() => {
                Ok((Identity::create(&self.key_file).map_err(wrong)?, true))
            }
            loaded => Ok((loaded.map_err(wrong)?, false)),
        }
    }

    fn link(&self, address: SocketAddr, invitation: &Invitation) -> Link {
        Link {
            peer: invitation.inviter.clone(),
            address: Some(address),
            capacity: self.capacity,
            key: invitation.key,
            mtu: limits::MTU_DEFAULT,
            hop_tag: None,
            by_trust: false,
        }
    }

    /// The configuration has the link; whether a daemon that runs has it, too.
    fn gain_link(&self, address: SocketAddr, invitation: &Invitation) -> Result<bool, CliError> {
        let link = self.link(address, invitation);
        let file = self.file.display();
        let unwritten = |error: io::Error| {
            CliError::failure(format!(
                "{file} cannot be written: {error}; {} has accepted this peer, so mend that and run the same \
                 command again",
                invitation.inviter
            ))
        };
        let wrong = |error: crate::config::ConfigError| CliError::failure(error.to_string());
        let Some((text, config)) = &self.there else {
            let (text, _) = edit::add_link(&self.file, &self.text(), &link).map_err(wrong)?;
            store::write_once(&self.file, text.as_bytes()).map_err(unwritten)?;
            return Ok(false);
        };
        let same = |other: &Link| other.peer == link.peer && other.key == link.key;
        if config.links.iter().any(same) {
            return Ok(self.running);
        }
        if self.running {
            let asked = AddLink {
                peer: link.peer,
                address: link.address,
                key: link.key.to_string(),
                capacity_bps: link.capacity,
                mtu: None,
            };
            let client = Client::connect(&self.socket()?)?;
            let _: LinkReply = client.request(&Request::AddLink(asked))?;
            return Ok(true);
        }
        let (text, _) = edit::add_link(&self.file, text, &link).map_err(wrong)?;
        store::rewrite(&self.file, text.as_bytes()).map_err(unwritten)?;
        Ok(false)
    }

    /// A configuration of its own, without links.
    fn text(&self) -> String {
        let Self { name, listen, .. } = self;
        let file = self.file.file_name().unwrap_or_default().display();
        let key_file = self.key_file.file_name().unwrap_or_default().display();
        format!(
            "# A peer that joined by invitation; `spanway config print-default` explains every key.\n\
             # Start it with `spanway run --config {file}`.\n\
             name = \"{name}\"\n\
             listen = \"{listen}\"\n\
             key_file = \"{key_file}\"\n\
             \n\
             # Taken by `spanway recv inbox --config {file}`.\n\
             [service.inbox]\n"
        )
    }

    fn socket(&self) -> Result<PathBuf, CliError> {
        let config =
            Config::load(&self.file).map_err(|error| CliError::failure(error.to_string()))?;
        store::socket_path(&config.state_dir).map_err(|error| CliError::failure(error.to_string()))
    }
}

/// What the operator says, what the invitation says, what the host is called.
fn name_of(args: &JoinArgs, invitation: &Invitation) -> Result<PeerName, CliError> {
    if let Some(name) = args.name.as_ref().or(invitation.name.as_ref()) {
        return Ok(name.clone());
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    PeerName::new(host.trim()).map_err(|error| {
        let text =
            format!("the name of this host will not do for a peer ({error}): add --name NAME");
        CliError::new(Fail::Usage, text)
    })
}

/// All addresses of the host, of the families that the inviter may be reached by.
fn listen_for(invitation: &Invitation) -> SocketAddr {
    let is_v6 = |address: &SocketAddr| address.is_ipv6();
    match invitation.addresses.iter().any(is_v6) {
        true => SocketAddr::from(([0; 16], PORT)),
        false => SocketAddr::from(([0; 4], PORT)),
    }
}

fn refused(error: &JoinError) -> CliError {
    let code = match error {
        JoinError::Refused { .. } => Fail::Rejected,
        JoinError::NotReached { .. } | JoinError::Undecided { .. } | JoinError::Here(_) => {
            Fail::Failure
        }
    };
    CliError::new(code, error.to_string())
}

fn progress(what: &str, text: &str) -> Result<(), CliError> {
    print(|out, style| line(out, style, what, text))
}

fn line(out: &mut dyn io::Write, style: Style, what: &str, text: &str) -> io::Result<()> {
    writeln!(out, "{} {text}", style.green(&format!("{what:<9}")))
}

/// Says how far the daemon of this process is, beside it.
fn watch(socket: PathBuf, invitation: Invitation) {
    let watching = move || {
        // The daemon says itself what is wrong with it.
        let _ = reached(&socket, &invitation);
    };
    if let Err(error) = thread::Builder::new().name("join".to_owned()).spawn(watching) {
        say(&format!("how far it is cannot be shown: {error}"));
    }
}

/// Until the link is up and the tree has more than this peer.
fn reached(socket: &Path, invitation: &Invitation) -> Result<(), CliError> {
    let inviter = &invitation.inviter;
    let (mut linked, mut last) = (false, None);
    for _ in 0..LOOKS_MAX {
        let rows: Vec<LinkRow> = ask(socket, &Request::Links).unwrap_or_default();
        if let Some(row) = rows.iter().find(|row| row.peer == *inviter) {
            if row.state == "up" && !linked {
                linked = true;
                progress("linked", &format!("{inviter}, {} for channels", row.capacity_bps))?;
            }
            last.clone_from(&row.last_failure);
        }
        let status: Option<StatusReply> = ask(socket, &Request::Status);
        if linked && status.is_some_and(|status| status.tree_complete && status.peers > 1) {
            let peers: Vec<PeerRow> = ask(socket, &Request::Peers).unwrap_or_default();
            let names: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
            let shown = names[..names.len().min(8)].join(", ");
            let more = if names.len() > 8 { ", ..." } else { "" };
            return progress("joined", &format!("a tree of {} peers: {shown}{more}", names.len()));
        }
        clock::sleep(LOOK);
    }
    let why = last.map_or_else(String::new, |why| format!("; last: {why}"));
    Err(CliError::new(Fail::Later, format!("the link to {inviter} is not up yet{why}")))
}

fn ask<T: serde::de::DeserializeOwned>(socket: &Path, request: &Request) -> Option<T> {
    Client::connect(socket).ok()?.request(request).ok()
}
