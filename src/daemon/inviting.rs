//! The inviter's side of invitations: what it gave out, and the newcomer that comes with one.
//!
//! ```text
//!              invitations.json                 configuration file      in use
//!  Open ───1─► Taken by KEY ──────────────2──►  [trust] has KEY ──3──►  Joined ──► the newcomer is told
//! ```
//!
//! Each step is on disk before the next one begins. A crash before 1 leaves the invitation as it was; after
//! it the invitation is that key's and nobody else's, and the next start does the rest ([`finish`]). The
//! file has no secret: an invitation is known by a hash of its id. Expired ones are forgotten, because the
//! expiry is signed in the invitation itself.
//!
//! An extension of [`Control`]. Written with the control loop waiting, as configuration files are:
//! people invite rarely, and a newcomer costs as many writes as it has invitations.

use std::fmt;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::api::dto::{self, FailureKind, InvitationRow, InviteReply};
use crate::config::{Config, Trusted, edit};
use crate::daemon::control::{Control, Stage, unix_millis};
use crate::daemon::handshake::Newcomer;
use crate::daemon::identity::Identity;
use crate::daemon::invitation::{Invitation, Signed};
use crate::daemon::relink::{failed, usage};
use crate::daemon::store;
use crate::limits;
use crate::types::{Bandwidth, LinkId, PeerName, PublicKey, address};

/// Name of the file in the state folder.
pub(crate) const FILE: &str = "invitations.json";
/// Digits that people know an invitation by.
const SHOWN_DIGITS: usize = 12;

/// What this peer gave out.
pub(crate) struct Inviting {
    identity: Identity,
    path: PathBuf,
    given: Given,
}

/// As the file has it.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    invitations: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Hash of the id, in hexadecimal digits.
    id: String,
    name: Option<PeerName>,
    capacity_bps: Bandwidth,
    /// Seconds since 1970.
    expires: u64,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum State {
    Open,
    /// By this newcomer, which is not in the configuration for certain.
    Taken {
        key: String,
        name: PeerName,
    },
    Joined {
        name: PeerName,
    },
    Revoked,
}

impl Entry {
    fn shown(&self) -> &str {
        &self.id[..SHOWN_DIGITS.min(self.id.len())]
    }

    fn row(&self, now: u64) -> InvitationRow {
        let (state, peer) = match &self.state {
            State::Open => ("open", None),
            State::Taken { name, .. } | State::Joined { name } => ("used", Some(name.clone())),
            State::Revoked => ("revoked", None),
        };
        InvitationRow {
            id: self.shown().to_owned(),
            state: state.to_owned(),
            name: self.name.clone(),
            capacity_bps: self.capacity_bps,
            left_ms: self.expires.saturating_sub(now).saturating_mul(1_000),
            peer,
        }
    }
}

impl Given {
    fn read(path: &Path) -> Result<Self, String> {
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error.to_string()),
        };
        let mut bytes = Vec::new();
        let most = limits::INVITATIONS_BYTES_MAX as u64;
        file.take(most + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        if bytes.len() as u64 > most {
            return Err(format!("it is over {most} bytes"));
        }
        serde_json::from_slice(&bytes).map_err(|error| error.to_string())
    }

    fn write(&self, path: &Path) -> Result<(), String> {
        let bytes = serde_json::to_vec_pretty(self).map_err(io::Error::other);
        bytes
            .and_then(|bytes| store::write_atomic(path, &bytes))
            .map_err(|error| format!("{} cannot be written: {error}", path.display()))
    }

    /// What has expired is told by the invitation itself. What is half done stays.
    fn forget(&mut self, now: u64) {
        let taken = |entry: &Entry| matches!(entry.state, State::Taken { .. });
        self.invitations.retain(|entry| entry.expires > now || taken(entry));
    }

    fn of(&mut self, id: &str) -> Option<&mut Entry> {
        self.invitations.iter_mut().find(|entry| entry.id == id)
    }
}

impl Inviting {
    /// What was given out before, if there is anything; otherwise why it cannot be used.
    pub(crate) fn load(identity: Identity, path: PathBuf) -> Result<Self, String> {
        let given = Given::read(&path)?;
        Ok(Self { identity, path, given })
    }

    /// Changes the file and then what is in use, or nothing.
    fn change(&mut self, change: impl FnOnce(&mut Given)) -> Result<(), String> {
        let mut given = Given { invitations: self.given.invitations.clone() };
        given.forget(unix_secs());
        change(&mut given);
        given.write(&self.path)?;
        self.given = given;
        Ok(())
    }

    fn set(&mut self, id: &str, state: State) -> Result<(), String> {
        self.change(|given| {
            if let Some(entry) = given.of(id) {
                entry.state = state;
            }
        })
    }

    /// The invitation is its bearer's from now on. Otherwise why not, for the newcomer.
    fn take(&mut self, invitation: &Invitation, newcomer: &Newcomer) -> Result<(), String> {
        let id = hex(&invitation.id_hash());
        let state = self.given.of(&id).map(|entry| entry.state.clone());
        match state {
            Some(State::Open) => {}
            // It was cut off in the middle, and comes again.
            Some(State::Taken { key, name })
                if key == newcomer.key.to_string() && name == newcomer.name =>
            {
                return Ok(());
            }
            Some(State::Taken { name, .. } | State::Joined { name }) => {
                let text = format!("the invitation was used already, by {name}");
                return Err(format!("{text}: {ANOTHER}"));
            }
            Some(State::Revoked) => return Err(format!("the invitation was revoked: {ANOTHER}")),
            None => {
                return Err(format!("the invitation is not known here any more: {ANOTHER}"));
            }
        }
        let (key, name) = (newcomer.key.to_string(), newcomer.name.clone());
        self.set(&id, State::Taken { key, name })
    }
}

const ANOTHER: &str = "ask for another one";

/// Before a daemon starts: newcomers whose invitation was taken when the last one died get into its
/// configuration. Whether there were any. One that cannot is left as it is: it may come again.
pub(crate) fn finish(config: &Config, path: &Path) -> Result<bool, String> {
    let mut given = Given::read(path)?;
    let taken = |entry: &&mut Entry| matches!(entry.state, State::Taken { .. });
    let mut changed = false;
    for entry in given.invitations.iter_mut().filter(taken) {
        let State::Taken { key, name } = entry.state.clone() else { continue };
        let key = key.parse().map_err(|error| format!("{error}"))?;
        let trusted = Trusted { key, name: Some(name.clone()), capacity: Some(entry.capacity_bps) };
        if let Err(error) = trust_in_file(&config.file, &trusted) {
            tracing::error!(peer = %name, error, "a newcomer that was cut off cannot join");
            continue;
        }
        tracing::info!(peer = %name, "a newcomer that was cut off has joined");
        entry.state = State::Joined { name };
        changed = true;
    }
    if changed {
        given.write(path)?;
    }
    Ok(changed)
}

/// Unless it is there.
fn trust_in_file(file: &Path, trusted: &Trusted) -> Result<(), String> {
    let text = Config::read(file).map_err(|error| error.to_string())?;
    let config = Config::parse(file, &text).map_err(|error| error.to_string())?;
    let linked = config.links.iter().any(|link| link.key == trusted.key);
    if linked || config.trust.of(&trusted.key).is_some() {
        return Ok(());
    }
    let added = edit::add_trusted(file, &text, trusted);
    let (text, _) = added.map_err(|error| error.to_string())?;
    store::rewrite(file, text.as_bytes()).map_err(|error| error.to_string())
}

impl Control {
    /// A new invitation: on disk when it is told.
    pub(super) fn invite(
        &mut self,
        asked: &dto::Invite,
    ) -> Result<InviteReply, (FailureKind, String)> {
        if self.stage != Stage::Running {
            return Err(failed("this peer is leaving: it invites nobody"));
        }
        let now = unix_secs();
        let given = &self.inviting.given.invitations;
        if given.iter().filter(|entry| entry.expires > now).count() >= limits::INVITATIONS_MAX {
            let most = limits::INVITATIONS_MAX;
            return Err(failed(format!(
                "{most} invitations are known already, and no more may be: wait until some have expired"
            )));
        }
        let life = life(asked.expires_ms).map_err(usage)?;
        let capacity = asked.capacity_bps.unwrap_or(self.config.trust.capacity);
        if capacity.usable() == Bandwidth::ZERO || capacity > Bandwidth::MAX {
            let text = format!("capacity: {capacity} is none of a link: at least 65 kbit/s");
            return Err(usage(text));
        }
        if let Some(name) = &asked.name {
            self.is_free_name(name).map_err(|text| usage(format!("name: {text}")))?;
        }
        let addresses = self.addresses_for_newcomers(&asked.addresses).map_err(usage)?;
        let me = (self.config.name.clone(), self.inviting.identity.public_key());
        let expires = now + life.as_secs();
        let invitation =
            Invitation::new(me, addresses.clone(), asked.name.clone(), capacity, expires)
                .map_err(failed)?;
        let entry = Entry {
            id: hex(&invitation.id_hash()),
            name: asked.name.clone(),
            capacity_bps: capacity,
            expires,
            state: State::Open,
        };
        let id = entry.shown().to_owned();
        self.inviting.change(|given| given.invitations.push(entry)).map_err(failed)?;
        tracing::info!(id, name = ?asked.name, %capacity, ?life, "invited");
        Ok(InviteReply {
            token: invitation.sign(&self.inviting.identity).text(),
            id,
            name: asked.name.clone(),
            capacity_bps: capacity,
            left_ms: u64::try_from(life.as_millis()).unwrap_or(u64::MAX),
            addresses,
        })
    }

    /// Those that have not expired.
    pub(super) fn invitations(&self) -> Vec<InvitationRow> {
        let now = unix_secs();
        let given = self.inviting.given.invitations.iter();
        given.filter(|entry| entry.expires > now).map(|entry| entry.row(now)).collect()
    }

    /// Nobody can use it any more.
    pub(super) fn revoke(&mut self, id: &str) -> Result<InvitationRow, (FailureKind, String)> {
        let now = unix_secs();
        let is = |entry: &&Entry| entry.shown() == id && entry.expires > now;
        let Some(entry) = self.inviting.given.invitations.iter().find(is).cloned() else {
            let text = format!(
                "no invitation {id:.20} is known here: `spanway invitations` lists them; they are forgotten when \
                 they expire"
            );
            return Err((FailureKind::Unknown, text));
        };
        if let State::Taken { name, .. } | State::Joined { name } = &entry.state {
            return Err(failed(format!(
                "invitation {id} was used by {name}: to cut it off, take its key out of [trust] and run \
                 `spanway reload`"
            )));
        }
        self.inviting.set(&entry.id, State::Revoked).map_err(failed)?;
        tracing::info!(id, "invitation revoked");
        Ok(Entry { state: State::Revoked, ..entry }.row(now))
    }

    /// A newcomer with an invitation: in the configuration file and in use when this is told.
    pub(super) fn invited(&mut self, newcomer: &Newcomer, shown: &[u8]) -> Result<LinkId, String> {
        let signed = Signed::from_bytes(shown).map_err(|error| error.to_string())?;
        let invitation = &signed.invitation;
        if invitation.key != self.inviting.identity.public_key() {
            return Err(format!(
                "the invitation is one of {}, not of this peer",
                invitation.inviter
            ));
        }
        let now = unix_secs();
        if invitation.expires <= now {
            let ago = Duration::from_secs(now - invitation.expires);
            return Err(format!("the invitation expired {ago:?} ago: {ANOTHER}"));
        }
        if let Some(name) = invitation.name.as_ref().filter(|name| **name != newcomer.name) {
            return Err(format!(
                "the invitation is for a peer called {name}: join with --name {name}"
            ));
        }
        self.may_have_name(&newcomer.name, &newcomer.key)?;
        self.inviting.take(invitation, newcomer)?;
        let id = hex(&invitation.id_hash());
        let trusted = Trusted {
            key: newcomer.key,
            name: Some(newcomer.name.clone()),
            capacity: Some(invitation.capacity),
        };
        if let Err(why) = self.trust_from_now_on(&trusted) {
            // As if it had not come. Should this fail, too, the invitation stays its own.
            let undone = self.inviting.set(&id, State::Open);
            tracing::error!(peer = %newcomer.name, why, ?undone, "a newcomer could not join");
            return Err(why);
        }
        let name = newcomer.name.clone();
        if let Err(error) = self.inviting.set(&id, State::Joined { name: name.clone() }) {
            // The next start does it: the key is in the configuration.
            tracing::error!(error, "cannot write which invitations were used");
        }
        tracing::info!(peer = %name, key = newcomer.key.fingerprint(), "joined by invitation");
        let link = self.config.trust.link(&newcomer.key, &name).expect("it was just added");
        self.link_by_trust(link)
    }

    /// Into the configuration file, and in use.
    fn trust_from_now_on(&mut self, trusted: &Trusted) -> Result<(), String> {
        let (text, current) = self.current_file().map_err(|(_, text)| text)?;
        if current.trust.of(&trusted.key).is_some() {
            // Somebody wrote it by hand meanwhile.
            return self.write_and_take(&text, current).map_err(|(_, text)| text);
        }
        let added = edit::add_trusted(&self.config.file, &text, trusted);
        let (text, config) = added.map_err(|error| error.to_string())?;
        self.write_and_take(&text, config).map_err(|(_, text)| text)
    }

    fn is_free_name(&self, name: &PeerName) -> Result<(), String> {
        // Nobody has this key.
        self.may_have_name(name, &PublicKey([0; 32]))
    }

    /// Where a newcomer shall dial: what was asked for, where this peer listens, or the addresses
    /// under which its neighbours know it.
    fn addresses_for_newcomers(&self, asked: &[SocketAddr]) -> Result<Vec<SocketAddr>, String> {
        let most = limits::INVITATION_ADDRESSES_MAX;
        if asked.len() > most {
            return Err(format!("{} addresses are too many: at most {most}", asked.len()));
        }
        if !asked.is_empty() {
            let written = asked.iter().map(|asked| address::written(*asked));
            let written: Result<_, _> = written.collect();
            return written.map_err(|refusal: address::Refusal| format!("address: {refusal}"));
        }
        let listen = self.config.listen;
        if !listen.ip().is_unspecified() {
            return Ok(vec![listen]);
        }
        let remotes = self.links.values().filter_map(|slot| slot.connection.as_ref());
        let mut own: Vec<IpAddr> =
            remotes.filter_map(|connection| own_address(connection.remote)).collect();
        own.sort();
        own.dedup();
        own.retain(|ip| !ip.is_loopback());
        if own.is_empty() {
            return Err(format!(
                "address: this peer listens on all addresses and knows none that a newcomer can reach: add \
                 --address ADDRESS:{}",
                listen.port()
            ));
        }
        Ok(own.into_iter().take(most).map(|ip| SocketAddr::new(ip, listen.port())).collect())
    }
}

/// From where this host would send to `remote`. Connecting such a socket sends nothing.
fn own_address(remote: SocketAddr) -> Option<IpAddr> {
    let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
    let any: SocketAddr = if remote.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(remote).ok()?;
    socket.local_addr().ok().map(|local| local.ip())
}

fn life(asked_ms: Option<u64>) -> Result<Duration, String> {
    let life = asked_ms.map_or(limits::INVITATION_LIFE_DEFAULT, Duration::from_millis);
    let (least, most) = limits::INVITATION_LIFE;
    if life < least || life > most {
        return Err(format!(
            "expires: {life:?} is out of range: {} s to {} days",
            least.as_secs(),
            most.as_secs() / (24 * 3_600)
        ));
    }
    Ok(life)
}

fn unix_secs() -> u64 {
    unix_millis() / 1_000
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl fmt::Debug for Inviting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} invitations in {}", self.given.invitations.len(), self.path.display())
    }
}
