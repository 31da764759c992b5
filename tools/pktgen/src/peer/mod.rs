//! This program as a peer of an overlay: it asks for channels as everybody does and sends and takes the
//! frames itself.
//!
//! ```text
//! program ── api::client ─► daemon (a thread: spanway::daemon::run_with)
//!    │                        │ commands                ▲ events
//!    └── orders ──────► worker (a thread: UDP, heartbeats, frames) ── Plane is its handle
//! ```
//!
//! The control half is the library's, unchanged: keys, links, tree, reservations. Only what the engine
//! would do is done here, so a relay between two such peers is measured without local programs, their
//! sockets and the engines of the ends. No door of the daemon is used that others have not.
//!
//! A peer of this kind has one link and one worker and relays for nobody.

mod arrivals;
mod opens;
mod plane;
mod run;
mod source;
mod table;
mod worker;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use spanway::api::client::{Client, ClientError};
use spanway::api::dto::Request;
use spanway::config::{Config, ConfigError};
use spanway::daemon::store::{self, StoreError};
use spanway::daemon::{self, DaemonError};
use spanway::types::PeerName;

pub use self::arrivals::{ChannelTaken, Taken};
pub use self::opens::Opening;
pub use self::run::{GenOptions, GenReport, Progress, SinkOptions, SinkReport, generate, sink};
pub use self::source::{Load, OPENING};

use self::plane::{Plane, Shared};
use crate::check::Verify;
use crate::latency::LatencySummary;

/// How often something is looked at that cannot be waited for.
const POLL: Duration = Duration::from_millis(5);

/// What the peer does with frames.
#[derive(Clone, Debug)]
pub enum Role {
    Source(Load),
    Sink(Verify),
}

/// Why this program cannot be a peer, or not any longer.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "{file} has {links} links: a peer that generates or counts frames relays for nobody, keep one [[link]]",
        file = .file.display()
    )]
    Links { file: PathBuf, links: usize },
    #[error(
        "{file}: engine.cpus names {workers} CPUs: a peer that generates or counts frames has one worker, keep one",
        file = .file.display()
    )]
    Workers { file: PathBuf, workers: usize },
    #[error("{0}: the peer has left the overlay")]
    Ended(String),
    #[error("no path leads to {peer} after {} ms: {why}", .waited.as_millis())]
    NoPath { peer: PeerName, waited: Duration, why: String },
    #[error("{0}")]
    Rejected(String),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot start: {0}")]
    Start(io::Error),
}

impl PeerError {
    /// Whether the operator's arguments or configuration are what is wrong.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Config(_) | Self::Links { .. } | Self::Workers { .. })
    }
}

/// What the thread that moved the frames found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub source: Option<SourceOutcome>,
    pub taken: Option<Taken>,
    /// Datagrams that belong to no channel, by the reason they were dropped for.
    pub drops: BTreeMap<String, u64>,
    /// Receives the kernel threw away because this peer did not keep up.
    pub kernel_drops: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceOutcome {
    /// From the return of `open` to the hand-over of the opening frame to the kernel.
    pub to_first: LatencySummary,
    /// Frames the schedule gave up because this machine stalled.
    pub skipped: u64,
    /// Channels that were closed during the run.
    pub gone: u64,
}

/// A running peer; leaves the overlay when it is dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    shared: Arc<Shared>,
    socket: PathBuf,
    daemon: Option<JoinHandle<Result<(), DaemonError>>>,
}

impl Peer {
    /// Starts the peer of this configuration and waits until it has its ports and its local socket.
    fn start(file: &Path, role: Role) -> Result<Self, PeerError> {
        let config = Config::load(file)?;
        if config.links.len() > 1 {
            return Err(PeerError::Links { file: file.to_owned(), links: config.links.len() });
        }
        if config.engine_workers().len() > 1 {
            let workers = config.engine_workers().len();
            return Err(PeerError::Workers { file: file.to_owned(), workers });
        }
        let shared = Arc::new(Shared::new().map_err(PeerError::Start)?);
        let socket = store::socket_path(&config.state_dir)?;
        let theirs = Arc::clone(&shared);
        let daemon = thread::Builder::new().name("spanway-control".to_owned()).spawn(move || {
            daemon::run_with(config, |engine| Ok(Box::new(Plane::start(&engine, role, theirs)?)))
        });
        let daemon = Some(daemon.map_err(PeerError::Start)?);
        let mut peer = Self { shared, socket, daemon };
        // Before it has its lock, the socket may be another daemon's.
        while !peer.shared.board.started.load(Ordering::Acquire) {
            peer.check_alive()?;
            wait(POLL);
        }
        loop {
            match Client::connect(&peer.socket) {
                Ok(_) => return Ok(peer),
                Err(ClientError::NotRunning { .. }) => peer.check_alive()?,
                Err(error) => return Err(error.into()),
            }
            wait(POLL);
        }
    }

    fn client(&self, timeout: Duration) -> Result<Client, ClientError> {
        Ok(Client::connect(&self.socket)?.timeout(timeout))
    }

    /// An error once the daemon has ended.
    fn check_alive(&mut self) -> Result<(), PeerError> {
        let ended = self.daemon.as_ref().is_none_or(JoinHandle::is_finished);
        if !ended {
            return Ok(());
        }
        self.join()?;
        Err(PeerError::Ended("stopped by a signal or a request".to_owned()))
    }

    fn is_alive(&self) -> bool {
        self.daemon.as_ref().is_some_and(|daemon| !daemon.is_finished())
    }

    /// Leaves the overlay; what was found.
    fn leave(mut self) -> Result<Outcome, PeerError> {
        self.ask_to_leave();
        self.join()?;
        self.shared
            .board
            .take_outcome()
            .ok_or_else(|| PeerError::Ended("nothing was counted".to_owned()))
    }

    fn ask_to_leave(&self) {
        if self.is_alive() {
            // It may end by itself at this moment.
            let _ = Client::connect(&self.socket)
                .and_then(|client| client.request::<()>(&Request::Leave { timeout_ms: 0 }));
        }
    }

    fn join(&mut self) -> Result<(), PeerError> {
        match self.daemon.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => Ok(result?),
            Some(Err(_)) => Err(PeerError::Ended("its control thread failed".to_owned())),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.ask_to_leave();
        // Who drops it has an error to tell already.
        let _ = self.join();
    }
}

#[expect(clippy::disallowed_methods, reason = "nothing tells when a daemon is ready or has ended")]
fn wait(time: Duration) {
    thread::sleep(time);
}
