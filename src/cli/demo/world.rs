//! The overlay of the demo: a ring of daemons on loopback, each a child process of this one.
//!
//! Nothing outlives it: children are ended by their process ids when the world is dropped, and they
//! end by themselves when their standard input closes, so that even a killed demo leaves none behind.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::api::dto::{EdgeRow, Request, TreeReply};
use crate::cli::clock;
use crate::cli::screen::{CliError, Daemon, Fail};
use crate::config::{Config, init};
use crate::daemon::store;
use crate::limits;
use crate::types::{Bandwidth, PeerName};

/// How long the peers may take to agree on a tree.
const TREE_WAIT_MAX: Duration = Duration::from_secs(20);
const TREE_POLL: Duration = Duration::from_millis(20);
/// Ports are looked for from here on, below those the kernel gives to everybody.
const PORT_FIRST: u16 = 20_000;
const PORT_LAST: u16 = 32_000;
/// All peers share this machine, and whatever else it does may hold them up for longer than the usual
/// 125 ms; that must not look like a dead link. A killed daemon shows at once: its connections end.
const PATIENCE: &str = "\n[control]\nheartbeats_missed = 32\n";
/// Bytes of a log that are read for its last lines.
const LOG_TAIL_BYTES: u64 = 4_096;
const LOG_TAIL_LINES: usize = 5;

/// Set by Ctrl-C.
pub(super) static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Ends the demo early if somebody asked for it.
pub(super) fn check_interrupt() -> Result<(), CliError> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        return Err(CliError::new(Fail::Failure, "interrupted"));
    }
    Ok(())
}

/// What ring to make.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) peers: usize,
    pub(super) bandwidth: Bandwidth,
}

impl Plan {
    /// The stream goes from peer 0 to this one: over at least two relays on the tree, and over one
    /// the other way round where the ring is large enough.
    pub(super) fn destination(self) -> usize {
        (self.peers - 2).max(3)
    }

    /// The ring. Its weakest edge is the one behind the destination, so the tree path from the first
    /// peer crosses all relays in between; both ways have room for the stream.
    fn edges(self) -> Vec<(usize, usize, Bandwidth)> {
        let (weak, strong) = (self.room(2), self.room(4));
        let edge = |at: usize| {
            let capacity = if at == self.destination() { weak } else { strong };
            (at, (at + 1) % self.peers, capacity)
        };
        (0..self.peers).map(edge).collect()
    }

    /// A capacity with room for so many streams and the control lane.
    fn room(self, streams: u64) -> Bandwidth {
        let bps = self.bandwidth.bps() + limits::CONTROL_SHARE_BPS_MIN;
        Bandwidth::from_bps(bps.saturating_mul(streams).min(Bandwidth::MAX.bps()))
    }
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) folder: PathBuf,
    pub(super) peers: Vec<Peer>,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: PeerName,
    pub(super) daemon: Daemon,
    log: PathBuf,
    /// `None` once it was ended.
    child: Option<Child>,
}

impl World {
    /// Writes the configurations and starts the daemons.
    pub(super) fn start(plan: Plan) -> Result<Self, CliError> {
        let folder = make_folder()
            .map_err(|error| CliError::failure(format!("no temporary folder: {error}")))?;
        let mut world = Self { folder, peers: Vec::new() };
        let files = world.configure(plan)?;
        for file in files {
            let peer = Peer::start(&file)?;
            world.peers.push(peer);
        }
        Ok(world)
    }

    pub(super) fn names(&self) -> Vec<PeerName> {
        self.peers.iter().map(|peer| peer.name.clone()).collect()
    }

    pub(super) fn peer(&self, name: &PeerName) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.name == *name)
    }

    /// Waits until all peers have the same, complete tree: the ring without its weakest edge.
    pub(super) fn wait_for_tree(&mut self, plan: Plan) -> Result<Vec<EdgeRow>, CliError> {
        let start = clock::now();
        loop {
            check_interrupt()?;
            self.check_children()?;
            // On a busy machine a link may come late; the tree without it is not the one to show.
            if let Some(edges) = self.agreed_tree().filter(|edges| self.is_planned(plan, edges)) {
                return Ok(edges);
            }
            if start.elapsed() > TREE_WAIT_MAX {
                return Err(self.no_tree());
            }
            clock::sleep(TREE_POLL);
        }
    }

    /// Ends one daemon without a word; tells when.
    pub(super) fn kill(&mut self, name: &PeerName) -> Result<Instant, CliError> {
        let peer = self.peers.iter_mut().find(|peer| peer.name == *name);
        let child = peer.and_then(|peer| peer.child.take());
        let mut child = child.ok_or_else(|| CliError::failure(format!("{name} does not run")))?;
        let at = clock::now();
        child
            .kill()
            .and_then(|()| child.wait())
            .map_err(|error| CliError::failure(format!("{name} cannot be killed: {error}")))?;
        Ok(at)
    }

    fn configure(&self, plan: Plan) -> Result<Vec<PathBuf>, CliError> {
        let wrong = |error: init::InitError| CliError::failure(error.to_string());
        let base = free_ports(plan.peers)?;
        let peers = init::explicit(plan.peers, &plan.edges(), base).map_err(wrong)?;
        let files = init::write(&self.folder, &peers).map_err(wrong)?;
        for file in &files {
            let patient = OpenOptions::new().append(true).open(file);
            patient.and_then(|mut file| file.write_all(PATIENCE.as_bytes())).map_err(|error| {
                CliError::failure(format!("{} cannot be written: {error}", file.display()))
            })?;
        }
        Ok(files)
    }

    fn is_planned(&self, plan: Plan, edges: &[EdgeRow]) -> bool {
        let weakest = [plan.destination(), (plan.destination() + 1) % plan.peers];
        let [one, other] = weakest.map(|at| &self.peers[at].name);
        let is_it =
            |edge: &EdgeRow| [&edge.a, &edge.b].iter().all(|end| [one, other].contains(end));
        !edges.iter().any(is_it)
    }

    /// The tree, if everybody who lives has the same.
    pub(super) fn agreed_tree(&self) -> Option<Vec<EdgeRow>> {
        let running = self.peers.iter().filter(|peer| peer.child.is_some());
        let trees: Vec<TreeReply> =
            running.map(|peer| peer.daemon.ask(&Request::Tree).ok()).collect::<Option<_>>()?;
        let first = trees.first()?;
        let agreed = trees.iter().all(|tree| {
            tree.complete && tree.session == first.session && tree.edges == first.edges
        });
        (agreed && first.edges.len() + 1 == trees.len()).then(|| first.edges.clone())
    }

    /// An error if a daemon ended by itself.
    pub(super) fn check_children(&mut self) -> Result<(), CliError> {
        for peer in &mut self.peers {
            let Some(child) = &mut peer.child else { continue };
            if let Ok(Some(status)) = child.try_wait() {
                return Err(CliError::failure(format!(
                    "the daemon of {} ended ({status}); its last words:\n{}",
                    peer.name,
                    peer.last_words()
                )));
            }
        }
        Ok(())
    }

    fn no_tree(&self) -> CliError {
        let words: Vec<String> = self
            .peers
            .iter()
            .map(|peer| format!("{}:\n{}", peer.name, peer.last_words()))
            .collect();
        CliError::failure(format!(
            "the peers did not agree on a tree within {} s; their last words:\n{}",
            TREE_WAIT_MAX.as_secs(),
            words.join("\n")
        ))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in self.peers.iter_mut().filter_map(|peer| peer.child.as_mut()) {
            // It may have ended by itself: then there is nothing to do.
            let _ = child.kill();
        }
        for child in self.peers.iter_mut().filter_map(|peer| peer.child.as_mut()) {
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Peer {
    pub(super) fn runs(&self) -> bool {
        self.child.is_some()
    }

    fn start(file: &Path) -> Result<Self, CliError> {
        let wrong = |error: &dyn std::fmt::Display| {
            CliError::failure(format!("{} cannot be run: {error}", file.display()))
        };
        let config = Config::load(file).map_err(|error| wrong(&error))?;
        let socket = store::socket_path(&config.state_dir).map_err(|error| wrong(&error))?;
        let log = file.with_extension("log");
        let child = spawn(file, &log).map_err(|error| wrong(&error))?;
        let daemon = Daemon { config: file.to_owned(), socket };
        Ok(Self { name: config.name, daemon, log, child: Some(child) })
    }

    fn last_words(&self) -> String {
        let tail = || -> io::Result<String> {
            let mut file = File::open(&self.log)?;
            let long = file.metadata()?.len();
            file.seek(SeekFrom::Start(long.saturating_sub(LOG_TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = tail().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        last.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
    }
}

fn spawn(file: &Path, log: &Path) -> io::Result<Child> {
    let output = File::create(log)?;
    Command::new(std::env::current_exe()?)
        .args(["run", "--while-stdin", "--config"])
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(output.try_clone()?)
        .stderr(output)
        // Ctrl-C is for the demo, which then ends its daemons itself.
        .process_group(0)
        .spawn()
}

fn make_folder() -> io::Result<PathBuf> {
    let base = std::env::temp_dir();
    let mut last = None;
    for number in 0..100 {
        let folder = base.join(format!("spanway-demo-{}-{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = Some(error),
            Err(error) => {
                return Err(io::Error::new(error.kind(), format!("{}: {error}", folder.display())));
            }
        }
    }
    Err(last.unwrap_or_else(|| io::Error::other("every name is taken")))
}

/// The first of enough free ports for so many peers. Somebody else could take one before the daemons
/// do; then the demo says so and is started again.
fn free_ports(peers: usize) -> Result<u16, CliError> {
    let span = limits::PORTS_PER_PEER * u16::try_from(peers).unwrap_or(u16::MAX / 16);
    let candidates = (PORT_LAST - PORT_FIRST) / span;
    // Two demos that start together should not look at the same ports.
    let first = u16::try_from(std::process::id() % u32::from(candidates)).unwrap_or(0);
    for step in 0..candidates {
        let base = PORT_FIRST + (first + step) % candidates * span;
        let ports = (0..span).step_by(usize::from(limits::PORTS_PER_PEER)).map(|at| base + at);
        let held: io::Result<Vec<_>> = ports
            .map(|port| {
                let address = (Ipv4Addr::LOCALHOST, port);
                Ok((TcpListener::bind(address)?, UdpSocket::bind(address)?))
            })
            .collect();
        if held.is_ok() {
            return Ok(base);
        }
    }
    Err(CliError::failure(format!(
        "no {peers} free ports between {PORT_FIRST} and {PORT_LAST} on 127.0.0.1: end a program that \
         listens there"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_leads_the_stream_over_two_relays_and_has_room_both_ways() {
        for peers in 4..=32 {
            for bps in [64_000, 20_000_000, 1_000_000_000] {
                let plan = Plan { peers, bandwidth: Bandwidth::from_bps(bps) };
                assert!(plan.destination() >= 3, "fewer than two relays");
                let edges = plan.edges();
                let weakest = edges.iter().min_by_key(|edge| edge.2).expect("an edge");
                assert_eq!(weakest.0, plan.destination(), "the tree must go the other way");
                let needed = bps + (bps / 50).max(limits::BANDWIDTH_BACK_BPS_MIN);
                assert!(weakest.2.usable().bps() >= needed, "{peers} peers, {bps} bit/s");
            }
        }
    }

    #[test]
    fn free_ports_are_free() {
        let base = free_ports(4).expect("ports");
        assert!((PORT_FIRST..PORT_LAST).contains(&base));
    }
}
