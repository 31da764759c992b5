//! What there is to see: the kernel, the limits of this process, files, a running daemon, neighbours.
//!
//! Everything is bounded in time; what cannot be found out is left open, never guessed.

use std::fs;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::api::client::{Client, ClientError};
use crate::api::dto::{LinkRow, Request, StatusReply};
use crate::config::Config;
use crate::daemon::identity::Identity;
use crate::daemon::{other_files, store};
use crate::engine::BackendChoice;
use crate::net::clock::HostClock;
use crate::{limits, net};

/// For one attempt to connect to a neighbour, and how many there are at a time.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(2);
const CONNECTS_AT_ONCE: usize = 64;

/// All of it.
#[derive(Debug)]
pub(super) struct Facts {
    /// As `uname -r`.
    pub(super) kernel: Option<String>,
    /// `kernel.io_uring_disabled`: 0, 1 (only for some) or 2.
    pub(super) uring_disabled: Option<u64>,
    /// What would be chosen, and why; an error if that which is configured cannot work.
    pub(super) backend: Result<(String, String), String>,
    /// Of a worker's socket, in bytes.
    pub(super) buffer: Result<usize, String>,
    pub(super) buffer_max: Option<u64>,
    pub(super) open_files: Option<Limit>,
    pub(super) locked_memory: Option<Limit>,
    pub(super) cpus: Result<Vec<usize>, String>,
    pub(super) clock: Option<HostClock>,
    pub(super) peer: Option<Result<Peer, String>>,
}

/// Soft and hard; `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) soft: Option<u64>,
    pub(super) hard: Option<u64>,
}

/// What a valid configuration leads to.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) config: Config,
    /// The fingerprint.
    pub(super) key: Result<String, String>,
    pub(super) state: Folder,
    pub(super) daemon: Daemon,
    pub(super) links: Vec<Neighbour>,
}

#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    /// Missing if there is none yet.
    pub(super) mode: Option<u32>,
    pub(super) writable: Result<(), String>,
    pub(super) free_bytes: Option<u64>,
}

#[derive(Debug)]
pub(super) enum Daemon {
    NotRunning,
    Running(Box<StatusReply>),
    /// It is there and does not answer as it should.
    Strange(String),
}

#[derive(Debug)]
pub(super) struct Neighbour {
    pub(super) peer: String,
    /// As a running daemon sees it.
    pub(super) row: Option<LinkRow>,
    /// A connection to its configured address, tried if the link is not up.
    pub(super) tried: Option<(SocketAddr, Result<(), Unreached>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unreached {
    Refused,
    NoAnswer,
    NoRoute,
    Other(String),
}

/// Looks around, for the peer of `config` if there is one.
pub(super) fn gather(config: Option<&Path>) -> Facts {
    let peer = config.map(|file| Config::load(file).map(peer).map_err(|error| error.to_string()));
    let choice = peer.as_ref().and_then(|peer| peer.as_ref().ok());
    let choice = choice.map_or(BackendChoice::Auto, |peer| peer.config.engine.backend);
    let text = |file: &str| fs::read_to_string(file).ok().map(|text| text.trim().to_owned());
    let number = |file: &str| text(file)?.parse().ok();
    let limits = text("/proc/self/limits").unwrap_or_default();
    Facts {
        kernel: text("/proc/sys/kernel/osrelease"),
        uring_disabled: number("/proc/sys/kernel/io_uring_disabled"),
        backend: net::probe(choice).map(|(backend, why)| (backend.as_str().to_owned(), why)),
        buffer: granted_buffer().map_err(|error| error.to_string()),
        buffer_max: number("/proc/sys/net/core/rmem_max"),
        open_files: limit(&limits, "Max open files"),
        locked_memory: limit(&limits, "Max locked memory"),
        cpus: net::sched::allowed_cpus().map_err(|error| error.to_string()),
        clock: net::clock::host_clock(),
        peer,
    }
}

/// As a worker asks for it.
fn granted_buffer() -> std::io::Result<usize> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    net::enlarge_receive_buffer(socket.as_fd())
}

/// A line of `/proc/self/limits`.
fn limit(text: &str, name: &str) -> Option<Limit> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let mut words = line.split_whitespace().map(|word| match word {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    });
    Some(Limit { soft: words.next()??, hard: words.next()?? })
}

fn peer(config: Config) -> Peer {
    let key = Identity::load(&config.key_file);
    let daemon = daemon(&config);
    let rows: Vec<LinkRow> = match daemon {
        Daemon::Running(_) => ask(&config, &Request::Links).unwrap_or_default(),
        Daemon::NotRunning | Daemon::Strange(_) => Vec::new(),
    };
    Peer {
        key: key.map(|key| key.fingerprint()).map_err(|error| error.to_string()),
        state: folder(&config.state_dir),
        links: neighbours(&config, &rows),
        daemon,
        config,
    }
}

fn ask<T: serde::de::DeserializeOwned>(
    config: &Config,
    request: &Request,
) -> Result<T, ClientError> {
    let socket =
        store::socket_path(&config.state_dir).map_err(|error| ClientError::NotRunning {
            socket: config.state_dir.clone(),
            source: std::io::Error::other(error.to_string()),
        })?;
    Client::connect(&socket)?.request(request)
}

fn daemon(config: &Config) -> Daemon {
    match ask(config, &Request::Status) {
        Ok(status) => Daemon::Running(Box::new(status)),
        Err(ClientError::NotRunning { .. }) => Daemon::NotRunning,
        Err(error) => Daemon::Strange(error.to_string()),
    }
}

fn folder(path: &Path) -> Folder {
    let there = fs::metadata(path);
    // What is not there yet is made in the folder above.
    let made_in = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let looked_at = if there.is_ok() { path } else { made_in.unwrap_or_else(|| Path::new(".")) };
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    let writable = rustix::fs::access(looked_at, access);
    let free = rustix::fs::statvfs(looked_at).ok();
    Folder {
        path: path.to_owned(),
        mode: there.ok().map(|metadata| metadata.mode() & 0o7777),
        writable: writable.map_err(|error| std::io::Error::from(error).to_string()),
        free_bytes: free.map(|free| free.f_bavail.saturating_mul(free.f_frsize)),
    }
}

/// Connects to those whose link is not up, many at a time.
fn neighbours(config: &Config, rows: &[LinkRow]) -> Vec<Neighbour> {
    let one = |link: &crate::config::Link| {
        let row = rows.iter().find(|row| row.peer == link.peer).cloned();
        let up = row.as_ref().is_some_and(|row| row.state == "up");
        let tried = link.address.filter(|_| !up).map(|address| (address, reach(address)));
        Neighbour { peer: link.peer.to_string(), row, tried }
    };
    let mut all = Vec::with_capacity(config.links.len());
    for some in config.links.chunks(CONNECTS_AT_ONCE) {
        thread::scope(|scope| {
            let tried: Vec<_> = some.iter().map(|link| scope.spawn(move || one(link))).collect();
            all.extend(tried.into_iter().filter_map(|tried| tried.join().ok()));
        });
    }
    all
}

fn reach(address: SocketAddr) -> Result<(), Unreached> {
    use std::io::ErrorKind;
    match TcpStream::connect_timeout(&address, CONNECT_MAX) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Err(Unreached::Refused),
        Err(error) if error.kind() == ErrorKind::TimedOut => Err(Unreached::NoAnswer),
        Err(error)
            if [ErrorKind::HostUnreachable, ErrorKind::NetworkUnreachable]
                .contains(&error.kind()) =>
        {
            Err(Unreached::NoRoute)
        }
        Err(error) => Err(Unreached::Other(error.to_string())),
    }
}

/// Files that a daemon with all its channels needs; it asks for them itself, up to the hard limit.
pub(super) fn files_wanted(config: &Config) -> u64 {
    let others =
        other_files(config.engine_workers().len(), config.links.len(), config.api.is_some());
    others + limits::CHANNELS_MAX as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_the_kernel_writes_them() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
                    Max locked memory         8388608              unlimited            bytes\n\
                    Max open files            1024                 524288               files\n";
        let files = Limit { soft: Some(1_024), hard: Some(524_288) };
        assert_eq!(limit(text, "Max open files"), Some(files));
        let memory = Limit { soft: Some(8_388_608), hard: None };
        assert_eq!(limit(text, "Max locked memory"), Some(memory));
        assert_eq!(limit(text, "Max dreams"), None);
    }

    #[test]
    fn a_port_where_nobody_listens_is_told_from_one_where_somebody_does() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        assert_eq!(reach(address), Ok(()));
        drop(listener);
        assert_eq!(reach(address), Err(Unreached::Refused));
    }

    #[test]
    fn this_host_has_facts_without_any_configuration() {
        let facts = gather(None);
        assert!(facts.peer.is_none());
        assert!(facts.kernel.is_some_and(|kernel| kernel.contains('.')));
        assert!(facts.open_files.is_some() && facts.buffer.is_ok());
        assert!(facts.backend.is_ok(), "auto always finds one: {:?}", facts.backend);
    }
}
