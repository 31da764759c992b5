//! An overlay of real daemons: planned peer by peer and link by link, then started on loopback or in
//! one network namespace each, asked by the real command line.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use spanway::limits::PORTS_PER_PEER;

use super::netns::{self, Namespace};
use super::ports::free_ports;
use super::program::{Program, output, wait_for};

pub(crate) const SPANWAY: &str = env!("CARGO_BIN_EXE_spanway");
/// Long enough for a tree on a busy machine of two cores.
pub(crate) const SETTLED: Duration = Duration::from_secs(20);
/// Every peer of a namespace has the same.
const PORT: u16 = 7_000;

/// Who is there and who is linked to whom.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    peers: Vec<(String, String)>,
    links: Vec<Wire>,
}

#[derive(Debug)]
struct Wire {
    one: usize,
    other: usize,
    capacity: String,
    /// Only `other` knows where the first one is.
    one_way: bool,
}

/// A link between two hosts: at either end a peer and, in its namespace, an interface.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) ends: [(String, String); 2],
}

impl Plan {
    pub(crate) fn new(peers: &[&str]) -> Self {
        let peers = peers.iter().map(|&name| (name.to_owned(), String::new())).collect();
        Self { peers, links: Vec::new() }
    }

    pub(crate) fn link(self, one: &str, other: &str, capacity: &str) -> Self {
        self.wire(one, other, capacity, false)
    }

    /// A link that only `other` can dial.
    pub(crate) fn one_way_link(self, one: &str, other: &str, capacity: &str) -> Self {
        self.wire(one, other, capacity, true)
    }

    fn wire(mut self, one: &str, other: &str, capacity: &str, one_way: bool) -> Self {
        let at = |name| self.peers.iter().position(|peer| peer.0 == name).expect("a planned peer");
        let (one, other) = (at(one), at(other));
        self.links.push(Wire { one, other, capacity: capacity.to_owned(), one_way });
        self
    }

    /// Appends sections of the configuration file of one peer.
    pub(crate) fn section(mut self, peer: &str, toml: &str) -> Self {
        let found = self.peers.iter_mut().find(|planned| planned.0 == peer);
        let _ = writeln!(found.expect("a planned peer").1, "\n{toml}");
        self
    }

    /// All daemons on 127.0.0.1.
    pub(crate) fn on_loopback(self) -> Overlay {
        let base = free_ports(self.peers.len());
        let port = |peer: usize| base + PORTS_PER_PEER * u16::try_from(peer).expect("few peers");
        let listen = (0..self.peers.len()).map(|peer| format!("127.0.0.1:{}", port(peer)));
        let listen: Vec<String> = listen.collect();
        let address = |_: usize, peer: usize| listen[peer].clone();
        self.start(&listen, address, |_| None)
    }

    /// A namespace for each daemon, a wire for each link: 198.18.LINK.0/24 or fd00:5a:0:LINK::/64.
    pub(crate) fn in_namespaces(self, ipv6: bool) -> Overlay {
        let namespaces: Vec<Namespace> = self.peers.iter().map(|_| Namespace::new()).collect();
        let ip = |link: usize, end: usize| match ipv6 {
            true => format!("fd00:5a:0:{link}::{end}"),
            false => format!("198.18.{link}.{end}"),
        };
        let bits = if ipv6 { 64 } else { 24 };
        let mut links = Vec::new();
        for (link, wire) in self.links.iter().enumerate() {
            let ends = [1, 2].map(|end| format!("{}/{bits}", ip(link, end)));
            let [near, far] = netns::wire([
                (&namespaces[wire.one], &ends[0]),
                (&namespaces[wire.other], &ends[1]),
            ]);
            let name = |peer: usize| self.peers[peer].0.clone();
            links.push(Link { ends: [(name(wire.one), near), (name(wire.other), far)] });
        }
        let any = if ipv6 { format!("[::]:{PORT}") } else { format!("0.0.0.0:{PORT}") };
        let ends: Vec<usize> = self.links.iter().map(|link| link.one).collect();
        let address = |link: usize, peer: usize| {
            let end = if ends[link] == peer { 1 } else { 2 };
            let ip: IpAddr = ip(link, end).parse().expect("an address");
            std::net::SocketAddr::new(ip, PORT).to_string()
        };
        let listen = vec![any; self.peers.len()];
        let mut namespaces = namespaces.into_iter();
        let overlay = self.start(&listen, address, |_| namespaces.next());
        Overlay { links, ..overlay }
    }

    fn start(
        self,
        listen: &[String],
        address: impl Fn(usize, usize) -> String,
        mut namespace: impl FnMut(usize) -> Option<Namespace>,
    ) -> Overlay {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let file = |name: &str| folder.path().join(format!("{name}.toml"));
        let keys: Vec<String> =
            self.peers.iter().map(|(name, _)| new_key(&folder.path().join(name))).collect();
        let mut peers = Vec::new();
        for (at, (name, sections)) in self.peers.iter().enumerate() {
            let mut text = format!("name = \"{name}\"\nlisten = \"{}\"\n", listen[at]);
            for (link, wire) in self.links.iter().enumerate() {
                let neighbour = match at {
                    at if at == wire.one => wire.other,
                    at if at == wire.other => wire.one,
                    _ => continue,
                };
                let (peer, key) = (&self.peers[neighbour].0, &keys[neighbour]);
                let _ = writeln!(text, "\n[[link]]\npeer = \"{peer}\"\nkey = \"{key}\"");
                let _ = writeln!(text, "capacity = \"{}\"", wire.capacity);
                if !(wire.one_way && at == wire.one) {
                    let _ = writeln!(text, "address = \"{}\"", address(link, neighbour));
                }
            }
            text.push_str(sections);
            fs::write(file(name), text).expect("the scratch folder is writable");
            let (name, config, namespace) = (name.clone(), file(name), namespace(at));
            peers.push(Peer { name, config, namespace, daemon: None });
        }
        let mut overlay = Overlay { peers, links: Vec::new(), folder };
        for name in self.peers.iter().map(|peer| &peer.0) {
            overlay.run(name);
        }
        overlay.settle();
        overlay
    }
}

/// Running daemons; everything is ended and removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Overlay {
    // Daemons end before their namespaces and their files go.
    peers: Vec<Peer>,
    /// Those between namespaces, in the order of the plan.
    pub(crate) links: Vec<Link>,
    folder: TempDir,
}

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: String,
    config: PathBuf,
    daemon: Option<Program>,
    namespace: Option<Namespace>,
}

impl Overlay {
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn peers(&self) -> &[Peer] {
        &self.peers
    }

    pub(crate) fn peer(&self, name: &str) -> &Peer {
        self.peers.iter().find(|peer| peer.name == name).expect("a planned peer")
    }

    /// Starts the daemon of `name`, or starts it again.
    pub(crate) fn run(&mut self, name: &str) {
        let command = self.peer(name).command(SPANWAY);
        self.run_as(name, command);
    }

    /// The same with a hard limit of open files.
    pub(crate) fn run_with_files(&mut self, name: &str, files: u64) {
        let mut command = self.peer(name).command("sh");
        command.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &files.to_string(), SPANWAY]);
        self.run_as(name, command);
    }

    /// The same with a command that is the program, in an environment of its own.
    pub(crate) fn run_command(&mut self, name: &str, command: Command) {
        self.run_as(name, command);
    }

    fn run_as(&mut self, name: &str, mut command: Command) {
        let folder = self.folder.path().to_owned();
        let peer = self.peers.iter_mut().find(|peer| peer.name == name).expect("a planned peer");
        command.args(["run", "--while-stdin", "--config"]).arg(&peer.config);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        peer.daemon = Some(Program::start(name, &folder, &mut command));
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, name: &str) {
        self.take_daemon(name).kill();
    }

    /// SIGTERM: please leave.
    pub(crate) fn terminate(&self, name: &str) {
        self.peer(name).daemon.as_ref().expect("a running daemon").terminate();
    }

    /// Sends a signal, written as `kill` wants it.
    pub(crate) fn signal(&self, name: &str, signal: &str) {
        self.peer(name).daemon.as_ref().expect("a running daemon").signal(signal);
    }

    /// SIGSTOP: alive, and does nothing.
    pub(crate) fn freeze(&self, name: &str) {
        self.peer(name).daemon.as_ref().expect("a running daemon").signal("-STOP");
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self, name: &str) {
        self.peer(name).daemon.as_ref().expect("a running daemon").signal("-CONT");
    }

    /// Waits for a daemon that was told to go.
    pub(crate) fn ended(&mut self, name: &str) {
        let status = self.take_daemon(name).join(SETTLED);
        assert!(status.success(), "{name}: {status}");
    }

    fn take_daemon(&mut self, name: &str) -> Program {
        let peer = self.peers.iter_mut().find(|peer| peer.name == name).expect("a planned peer");
        peer.daemon.take().expect("a running daemon")
    }

    /// Writes other ports of loopback into the configuration of a peer that does not run.
    pub(crate) fn move_to_other_ports(&self, name: &str) {
        let file = &self.peer(name).config;
        let text = fs::read_to_string(file).expect("its configuration");
        let moved = text.lines().map(|line| match line.starts_with("listen = ") {
            true => format!("listen = \"127.0.0.1:{}\"\n", free_ports(1)),
            false => format!("{line}\n"),
        });
        fs::write(file, moved.collect::<String>()).expect("the scratch folder is writable");
    }

    /// Waits until all links between running peers are up, all of them use the tree of the same
    /// session, and it is the right one.
    pub(crate) fn settle(&self) {
        let running: Vec<&Peer> = self.peers.iter().filter(|peer| peer.daemon.is_some()).collect();
        let is_running = |name: &Value| running.iter().any(|peer| name == peer.name.as_str());
        wait_for("one right tree over all peers", SETTLED, || {
            for peer in &running {
                let links = peer.try_ask(&["links"])?;
                let mut links = links.as_array()?.iter().filter(|link| is_running(&link["peer"]));
                links.all(|link| link["state"] == "up").then_some(())?;
            }
            let verdict = running.first()?.try_ask(&["verify"])?;
            (verdict["correct"] == true && verdict["peers"] == running.len()).then_some(())?;
            let trees: Vec<Value> =
                running.iter().map(|peer| peer.try_ask(&["tree"])).collect::<Option<_>>()?;
            let same =
                |tree: &Value| tree["complete"] == true && tree["session"] == trees[0]["session"];
            trees.iter().all(same).then_some(())
        });
    }
}

impl Peer {
    /// `program` on the host of this peer.
    pub(crate) fn command(&self, program: &str) -> Command {
        match &self.namespace {
            Some(namespace) => namespace.command(program),
            None => Command::new(program),
        }
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        self.namespace.as_ref().expect("a peer with a host of its own")
    }

    /// The process of its daemon.
    pub(crate) fn process(&self) -> Option<u32> {
        self.daemon.as_ref().map(Program::id)
    }

    /// Where its daemon listens for local clients.
    pub(crate) fn socket(&self) -> PathBuf {
        self.config.with_extension("state").join("control.sock")
    }

    /// The command line of this peer, as a client of its daemon.
    pub(crate) fn client(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(SPANWAY);
        command.args(arguments).arg("--config").arg(&self.config);
        command
    }

    /// The JSON answer; panics if the command fails.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Value {
        let text = output(self.client(arguments).arg("--json"));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {text}"))
    }

    /// The JSON answer of a command that may fail, with its exit code.
    pub(crate) fn answer(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let mut command = self.client(arguments);
        let out = command.arg("--json").stdin(Stdio::null()).output().expect("spanway starts");
        (out.status.code(), serde_json::from_slice(&out.stdout).unwrap_or(Value::Null))
    }

    fn try_ask(&self, arguments: &[&str]) -> Option<Value> {
        let (code, value) = self.answer(arguments);
        (code == Some(0)).then_some(value)
    }

    /// Opens a channel and returns the answer; panics unless it is open.
    pub(crate) fn open(&self, destination: &str, rate: &str, more: &[&str]) -> Value {
        let mut arguments = vec!["open", destination, "--bandwidth", rate];
        arguments.extend(more);
        let reply = self.ask(&arguments);
        assert_eq!(reply["outcome"], "open", "{reply}");
        reply
    }

    /// The channel called `name` as this peer lists it.
    pub(crate) fn channel(&self, name: &str) -> Option<Value> {
        let listed = self.ask(&["channels"]);
        listed.as_array()?.iter().find(|row| row["name"] == name).cloned()
    }

    /// What the daemon wrote to its log so far.
    pub(crate) fn log(&self) -> String {
        self.daemon.as_ref().map(Program::log).unwrap_or_default()
    }
}

/// The names on the path of an answer or a row.
pub(crate) fn path_of(row: &Value) -> Vec<&str> {
    let path = row["path"].as_array().map(Vec::as_slice).unwrap_or_default();
    path.iter().filter_map(Value::as_str).collect()
}

/// Makes `NAME.key` and returns the public key.
fn new_key(stem: &Path) -> String {
    let file = stem.with_extension("key");
    let text = output(Command::new(SPANWAY).args(["key", "--new"]).arg(&file));
    let is_key = |word: &&str| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let key = text.split_whitespace().find(is_key);
    key.unwrap_or_else(|| panic!("`spanway key --new` printed no key: {text}")).to_owned()
}
