//! The daemon of one peer: where the control plane, the data plane and the outside meet.
//!
//! Who runs where:
//!
//! | thread | runs | waits in |
//! | --- | --- | --- |
//! | main | control lane: [`control`] loop, connections of links, local clients, signals | the runtime's epoll |
//! | `spanway-api` | web API, if configured: a client of the local socket ([`crate::api::http`]) | its epoll |
//! | `spanway-wN` | worker N of the engine, pinned if configured; forwards frames | its io_uring or epoll |
//! | blocking pool | file writes where io_uring is not allowed | - |
//!
//! Start: configuration, key, state folder (lock), TCP and UDP ports, local socket, runtime, loop. What
//! is wrong is said before anything joins the overlay. What is needed to start only (capabilities, core
//! dumps, on request most system calls) is given up before the loop begins. Stop: Leave (channels closed,
//! Bye said), answers of local clients, workers, local socket, lock.
//!
//! All clocks of the program are read here and in the workers.

mod actions;
mod addresses;
mod asks;
pub(crate) mod connection;
mod contacts;
pub(crate) mod control;
mod counters;
mod door;
mod ends;
mod excess;
pub(crate) mod handshake;
mod idempotency;
pub mod identity;
pub mod invitation;
mod inviting;
pub(crate) mod joining;
mod kept;
mod lane;
mod latency;
mod measuring;
mod neighbours;
mod notify;
mod opens;
mod relink;
mod rules;
pub(crate) mod runtime;
mod seal;
mod share;
pub mod store;
mod survey;
mod totals;
mod trust;
mod views;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;

use self::addresses::Addresses;
pub(crate) use self::ends::{in_words, other_files};
pub(crate) use crate::net::confine::give_up_privileges;

use self::control::{Control, Facts, Inbound, Signals};
use self::handshake::{Credentials, HandshakeError};
use self::identity::{Identity, IdentityError};
use self::inviting::Inviting;
use self::kept::Kept;
use self::lane::Lane;
use self::neighbours::Neighbours;
use self::runtime::{Files, Runtime};
use self::store::{StateDir, StoreError};
use crate::api::http::{Bound, Http, HttpError};
use crate::api::server::Clients;
use crate::config::{ApiSection, Config, ConfigError};
use crate::engine::{BackendChoice, DataPlane, Engine, EngineConfig, EngineError};
use crate::types::Dscp;
use crate::{limits, net, trace};

/// Connections the kernel may hold until the listener takes them.
const BACKLOG: i32 = 128;

/// Why a daemon did not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nothing of the file is lost: the daemon does not start.
    #[error("{path}: {why}: it lists the channels to ask for again; mend it, or move it away", path = .path.display())]
    Kept { path: PathBuf, why: String },
    #[error("{path}: {why}: it lists the invitations that were given out; mend it, or move it away: then they are void", path = .path.display())]
    Invitations { path: PathBuf, why: String },
    #[error("cannot listen on {protocol} {address}: {why}")]
    Listen { protocol: &'static str, address: SocketAddr, why: String },
    #[error(transparent)]
    Engine(EngineError),
    #[error("cannot make the local socket {path}: {error}", path = .path.display())]
    LocalSocket { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Web(HttpError),
    #[error("cannot start the control lane: {0}")]
    Runtime(io::Error),
    #[error(
        "the control thread cannot run on CPUs {cpus:?}: {error}; choose `[control] cpus` that exist"
    )]
    Place { cpus: Vec<usize>, error: io::Error },
    #[error(
        "cannot give up what a running peer does not need: {0}; `[security] seccomp = false` does without a filter"
    )]
    Confine(io::Error),
    #[error("cannot make the key of this run: {0}")]
    Credentials(String),
    #[error("the daemon had to stop: {0}")]
    Stopped(String),
}

/// Runs a peer until it leaves. Everything that may fail at the start fails before it joins.
/// `latency` switches gathering waits off, as `[engine] latency` does; `level` is the log's where
/// `RUST_LOG` says nothing.
pub fn run(config_file: &Path, latency: bool, level: &str) -> Result<(), DaemonError> {
    trace::start_at(level);
    let config = Config::load(config_file)?;
    // Not in the configuration, which a reload compares with the file.
    run_with(config, |engine| {
        let latency = latency | engine.latency;
        Ok(Box::new(Engine::start(EngineConfig { latency, ..engine })?))
    })
}

/// Runs a peer with another data plane than the engine, for programs that are a peer themselves.
///
/// `start` makes it; by then the state folder is locked and the control port is bound. A program
/// asks its peer for channels as everybody does: with [`crate::api::client`] at the local socket of the
/// state folder. Blocks until the peer leaves; the caller starts the log.
pub fn run_with(
    config: Config,
    start: impl FnOnce(EngineConfig) -> Result<Box<dyn DataPlane>, EngineError>,
) -> Result<(), DaemonError> {
    let identity = Identity::load(&config.key_file)?;
    let state = StateDir::open(&config.state_dir)?;
    let (config, inviting) = finish_invitations(config, &identity, &state)?;
    #[expect(clippy::disallowed_methods, reason = "the origin of the daemon's clock")]
    let origin = Instant::now();
    let files = raise_open_files(&config);
    let links = listen_tcp(config.listen, config.control.dscp)?;
    let engine = start_data_plane(&config, origin, start)?;
    let web = config.api.clone().map(listen_http).transpose()?;
    let lane = enter_lane(&config)?;
    let clients = listen_local(state.socket_path())?;
    let uring = config.engine.backend != BackendChoice::Mmsg;
    let runtime = Runtime::start(uring).map_err(DaemonError::Runtime)?;
    let key = identity.public_key().to_string();
    let facts = Facts { origin, key, runtime: runtime.kind(), lane, files };
    confine(config.seccomp)?;
    // Behind the local socket, which it asks, and on the CPUs of the control lane.
    let web = web.map(|bound| start_http(bound, state.socket_path())).transpose()?;
    let learned = (runtime.files(), [addresses::FILE, kept::FILE].map(|name| state.file(name)));
    let serving = serve(config, &identity, engine, (links, clients), (learned, inviting), facts);
    let result = runtime.block_on(serving);
    drop(web);
    // The lock is still held, so the socket is this daemon's.
    let _ = std::fs::remove_file(state.socket_path());
    result
}

/// What an earlier daemon of this peer began with newcomers is done before this one starts.
fn finish_invitations(
    mut config: Config,
    identity: &Identity,
    state: &StateDir,
) -> Result<(Config, Inviting), DaemonError> {
    let path = state.file(inviting::FILE);
    let wrong = |why| DaemonError::Invitations { path: path.clone(), why };
    if inviting::finish(&config, &path).map_err(wrong)? {
        config.trust = Config::load(&config.file)?.trust;
    }
    let inviting = Inviting::load(identity.clone(), path.clone()).map_err(wrong)?;
    Ok((config, inviting))
}

async fn serve(
    config: Config,
    identity: &Identity,
    engine: Box<dyn DataPlane>,
    (links, clients): (TcpListener, UnixListener),
    ((files, [learned, kept_file]), inviting): ((Files, [PathBuf; 2]), Inviting),
    facts: Facts,
) -> Result<(), DaemonError> {
    let signals = Signals::new().map_err(DaemonError::Runtime)?;
    let links = tokio::net::TcpListener::from_std(links).map_err(DaemonError::Runtime)?;
    let listener = tokio::net::UnixListener::from_std(clients).map_err(DaemonError::Runtime)?;
    let no_key = |error: HandshakeError| DaemonError::Credentials(error.to_string());
    let credentials = Credentials::new(config.name.clone(), identity).map_err(no_key)?;
    let (arrivals_in, arrivals) = mpsc::channel(limits::ARRIVALS_MAX);
    // Bounded by the number of clients, each of which asks once and goes once.
    let (asks_in, asks) = mpsc::unbounded_channel();
    let addresses = Addresses::load(files, &learned).await;
    let kept = Kept::load(files, &kept_file).await;
    let kept = kept.map_err(|why| DaemonError::Kept { path: kept_file.clone(), why })?;
    // Bounded by the clients: each has one request at a time.
    let (saves, to_write) = mpsc::unbounded_channel();
    let neighbours = Rc::new(Neighbours::new(
        credentials,
        (config.listen.ip(), config.control.dscp),
        (addresses, config.reach()),
        arrivals_in,
    ));
    let clients = Clients::new(move |ask| {
        // The loop that would take it has ended: so will the client's connection.
        let _ = asks_in.send(ask);
    });
    log_start(&config, identity, &*engine, &facts);
    let neighbours_of = Rc::clone(&neighbours);
    let remembered = (kept, saves, inviting);
    let control = Control::new(config, identity, engine, neighbours_of, remembered, facts)
        .map_err(DaemonError::Runtime)?;
    let writing = lane::spawn(kept::write(files, kept_file, to_write));
    let keeping = Rc::clone(&neighbours);
    let keeping = lane::spawn(async move { keeping.addresses.keep(files, learned).await });
    let accepting = lane::spawn(neighbours.accept(links));
    let serving = lane::spawn(clients.clone().serve(listener));
    let inbound = Inbound { arrivals, asks, signals };
    let result = lane::timed(control.run(inbound, &clients)).await;
    keeping.abort();
    accepting.abort();
    serving.abort();
    // What was told is written: nobody tells it more by now.
    let _ = writing.await;
    result.map_err(DaemonError::Stopped)
}

fn log_start(config: &Config, identity: &Identity, engine: &dyn DataPlane, facts: &Facts) {
    config.api.iter().flat_map(views::open_api).for_each(|what| tracing::warn!("{what}"));
    let (backend, why) = engine.backend();
    tracing::info!(
        name = %config.name,
        fingerprint = identity.public_key().fingerprint(),
        listen = %config.listen,
        workers = engine.workers().len(),
        backend,
        why,
        runtime = facts.runtime,
        open_files = facts.files,
        control_cpus = ?facts.lane.cpus,
        control_slice = ?facts.lane.slice,
        shared = facts.lane.shared,
        "peer is running"
    );
    for worker in engine.workers() {
        tracing::info!(
            port = worker.port,
            cpu = worker.cpu,
            buffer_asked = limits::SOCKET_BUFFER_BYTES,
            buffer_granted = worker.receive_buffer,
            "worker is running"
        );
        if let Some(what) = views::clipped_buffer(worker.port, worker.receive_buffer) {
            tracing::warn!("{what}");
        }
    }
}

/// Everything is bound: from here on the daemon can do less, and the threads that it starts. The workers gave
/// their privileges up when they were ready.
fn confine(seccomp: bool) -> Result<(), DaemonError> {
    give_up_privileges()
        .and_then(|()| net::confine::forbid_core_dumps())
        .and_then(|()| if seccomp { net::confine::filter_system_calls() } else { Ok(()) })
        .map_err(DaemonError::Confine)
}

/// Room for as many channels as may end here, if the system allows it; most allow a process 1,024 open
/// files until it asks for more. Before the workers, whose rings have tables of that size.
fn raise_open_files(config: &Config) -> u64 {
    let (workers, links) = (config.engine_workers().len(), config.links.len());
    let others = other_files(workers, links, config.api.is_some());
    net::raise_open_files(others + limits::CHANNELS_MAX as u64)
}

/// Behind the workers' start: those that are not pinned keep all CPUs.
fn enter_lane(config: &Config) -> Result<Lane, DaemonError> {
    let cpus = &config.control.cpus;
    Lane::enter(cpus, &config.engine.cpus)
        .map_err(|error| DaemonError::Place { cpus: cpus.clone(), error })
}

fn listen_tcp(address: SocketAddr, dscp: Dscp) -> Result<TcpListener, DaemonError> {
    let listen = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            // As the workers' ports: the unspecified address takes IPv4 neighbours too.
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        // A restarted daemon must not wait for the old connections' TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        // Connections that are accepted here have it from their first packet.
        net::mark::mark(socket.as_fd(), dscp)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    listen().map_err(|error| DaemonError::Listen {
        protocol: "TCP",
        address,
        why: in_words(&error),
    })
}

fn start_data_plane(
    config: &Config,
    origin: Instant,
    start: impl FnOnce(EngineConfig) -> Result<Box<dyn DataPlane>, EngineError>,
) -> Result<Box<dyn DataPlane>, DaemonError> {
    let engine = EngineConfig {
        listen: config.listen,
        cpus: config.engine_workers(),
        backend: config.engine.backend,
        dscp: config.engine.dscp,
        origin,
        latency: config.engine.latency,
    };
    start(engine).map_err(|error| match error {
        EngineError::Bind { address, source } => {
            DaemonError::Listen { protocol: "UDP", address, why: in_words(&source) }
        }
        EngineError::Workers { .. }
        | EngineError::Backend(_)
        | EngineError::Start { .. }
        | EngineError::Files { .. } => DaemonError::Engine(error),
    })
}

fn listen_http(section: ApiSection) -> Result<Bound, DaemonError> {
    Bound::new(section).map_err(|error| match error {
        HttpError::Listen { address, source } => {
            DaemonError::Listen { protocol: "TCP", address, why: in_words(&source) }
        }
        HttpError::Token(_) | HttpError::Thread(_) => DaemonError::Web(error),
    })
}

fn start_http(bound: Bound, local_socket: &Path) -> Result<Http, DaemonError> {
    bound.start(local_socket.to_owned()).map_err(DaemonError::Web)
}

/// The socket for local clients; a dead daemon's is replaced (the lock says that it is dead).
fn listen_local(path: &Path) -> Result<UnixListener, DaemonError> {
    let wrong = |error| DaemonError::LocalSocket { path: path.to_owned(), error };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(wrong(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(wrong)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).map_err(wrong)?;
    listener.set_nonblocking(true).map_err(wrong)?;
    Ok(listener)
}
