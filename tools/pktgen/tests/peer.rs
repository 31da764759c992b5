//! Real processes on loopback: two generators that are peers, and a relay as `spanway run` is between.

#![allow(dead_code, reason = "the shared file offers more than is used here")]
#![allow(clippy::print_stdout, reason = "a test tells what the programs said")]

#[path = "../../../tests/common/ports.rs"]
mod ports;
#[path = "../../../tests/common/program.rs"]
mod program;

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ports::free_ports;
use program::{Program, now, pass, wait_for};
use serde::de::DeserializeOwned;
use serde_json::Value;
use spanway::api::client::{Client, ClientError};
use spanway::api::dto::{ChannelRow, FailureKind, Open, OpenReply, PathChoice, Request};
use spanway::daemon::identity::Identity;
use spanway::limits::PORTS_PER_PEER;
use spanway::types::Bandwidth;
use tempfile::TempDir;

const PKTGEN: &str = env!("CARGO_BIN_EXE_spanway-pktgen");
/// Long enough for a run on a busy machine of two cores.
const SETTLED: Duration = Duration::from_secs(30);

/// Names the configuration file of a relay to the process that becomes it.
const RELAY: &str = "SPANWAY_TEST_RELAY";

/// What `spanway run` does, in a process of its own: a test cannot name the program of another package.
#[test]
#[ignore = "becomes a relay: started by the other tests"]
fn relay() {
    if let Some(config) = std::env::var_os(RELAY) {
        spanway::daemon::run(Path::new(&config), false, "info").expect("the relay leaves in order");
    }
}

/// A chain of peers, by their names, each linked to the next; the last one offers `sink`.
struct Chain {
    folder: TempDir,
    relays: Vec<Program>,
}

impl Chain {
    fn new(names: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let base = free_ports(names.len());
        let address = |at: usize| {
            format!("127.0.0.1:{}", base + PORTS_PER_PEER * u16::try_from(at).expect("few"))
        };
        let keys: Vec<String> =
            names.iter().map(|name| new_key(&folder.path().join(format!("{name}.key")))).collect();
        for (at, name) in names.iter().enumerate() {
            let mut text = format!("name = \"{name}\"\nlisten = \"{}\"\n", address(at));
            for other in [at.wrapping_sub(1), at + 1].into_iter().filter(|&n| n < names.len()) {
                let (peer, key, address) = (names[other], &keys[other], address(other));
                let _ = writeln!(text, "\n[[link]]\npeer = \"{peer}\"\nkey = \"{key}\"");
                let _ = writeln!(text, "address = \"{address}\"\ncapacity = \"40 Gbit/s\"");
            }
            if at + 1 == names.len() {
                text.push_str("\n[service.sink]\n");
            }
            fs::write(folder.path().join(format!("{name}.toml")), text).expect("written");
        }
        let mut chain = Self { folder, relays: Vec::new() };
        for name in &names[1..names.len() - 1] {
            let mut command = Command::new(std::env::current_exe().expect("this program"));
            command.args(["--exact", "relay", "--ignored", "--nocapture"]);
            command.env(RELAY, chain.config(name)).stdin(Stdio::null()).stdout(Stdio::null());
            // Not the log of a generator that a test starts in its place.
            let log = format!("relay-{name}");
            chain.relays.push(Program::start(&log, chain.folder.path(), &mut command));
        }
        chain
    }

    fn config(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.toml"))
    }

    fn start(&self, name: &str, arguments: &[&str]) -> Running {
        let out = self.folder.path().join(format!("{name}.json"));
        let file = fs::File::create(&out).expect("the scratch folder is writable");
        let mut command = Command::new(PKTGEN);
        command.args(arguments).arg("--config").arg(self.config(name)).arg("--json");
        command.stdin(Stdio::null()).stdout(file);
        Running { program: Program::start(name, self.folder.path(), &mut command), out }
    }

    fn sink(&self) -> Running {
        self.start("b", &["sink", "--once", "--verify", "all"])
    }

    fn generate(&self, arguments: &[&str]) -> Running {
        let all = ["gen", "--to", "b/sink", "--bandwidth", "1Mbit/s"];
        self.start("a", &[&all, arguments].concat())
    }

    fn ask<T: DeserializeOwned>(&self, name: &str, request: &Request) -> Result<T, ClientError> {
        let socket = self.folder.path().join(format!("{name}.state/control.sock"));
        Client::connect(&socket)?.request(request)
    }
}

struct Running {
    program: Program,
    out: PathBuf,
}

impl Running {
    /// Its exit code, its JSON and what it said besides.
    fn end(mut self) -> (Option<i32>, Value, String) {
        let status = self.program.join(SETTLED);
        let json = fs::read(&self.out).expect("its output");
        let said = self.program.log();
        (status.code(), serde_json::from_slice(&json).unwrap_or(Value::Null), said)
    }
}

fn new_key(file: &Path) -> String {
    let identity = Identity::create(file).expect("a key");
    identity.public_key().to_string()
}

fn number(of: &Value, path: &str) -> u64 {
    of.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path} in {of}"))
}

/// Frames in and out of all channels that cross a relay.
fn crossing(chain: &Chain, relay: &str) -> Option<(u64, u64, usize)> {
    let rows: Vec<ChannelRow> = chain.ask(relay, &Request::Channels).ok()?;
    let received = rows.iter().map(|row| row.rx_frames).sum();
    Some((received, rows.iter().map(|row| row.tx_frames).sum(), rows.len()))
}

#[test]
fn a20_fifty_channels_through_a_relay_lose_nothing_and_all_three_count_the_same() {
    let chain = Chain::new(&["a", "r", "b"]);
    let sink = chain.sink();
    let mut generator =
        chain.generate(&["--channels", "50", "--rate", "2000", "--size", "64:200:1200"]);
    let (mut seen, mut channels) = ((0, 0), 0);
    while generator.program.is_running() {
        if let Some((received, sent, count)) = crossing(&chain, "r") {
            seen = seen.max((received, sent));
            channels = channels.max(count);
        }
        pass(Duration::from_millis(20));
    }
    let (code, sent, said) = generator.end();
    assert_eq!(code, Some(0), "{said}");
    let (code, taken, said) = sink.end();
    assert_eq!(code, Some(0), "{said}");
    let frames = number(&sent, "/sent");
    assert!(frames > 5_000, "{frames}");
    assert_eq!((number(&sent, "/unsent"), number(&sent, "/finished")), (0, 50));
    let found = &taken["outcome"]["taken"];
    let received = number(found, "/totals/received") + number(found, "/opening_frames");
    assert_eq!((received, number(found, "/sent"), number(found, "/lost")), (frames, frames, 0));
    for what in ["duplicated", "reordered", "corrupted", "foreign"] {
        assert_eq!(number(found, &format!("/totals/{what}")), 0, "{what}: {found}");
    }
    assert_eq!(number(found, "/opening_frames"), 50);
    assert_eq!(number(found, "/latency/count"), frames - 50);
    assert_eq!((seen, channels), ((frames, frames), 50), "the relay counted otherwise");
    let per_channel = found["per_channel"].as_array().expect("a list");
    let by_channel: u64 = per_channel.iter().map(|row| number(row, "/frames")).sum();
    assert_eq!((per_channel.len(), by_channel), (50, frames));
}

#[test]
fn a_relay_that_is_killed_is_said_and_the_answer_is_bad() {
    let mut chain = Chain::new(&["a", "r", "b"]);
    let sink = chain.sink();
    let generator = chain.generate(&["--channels", "5", "--rate", "500", "--duration", "60s"]);
    let carries = || crossing(&chain, "r").filter(|&(_, sent, _)| sent > 100);
    wait_for("frames through the relay", SETTLED, carries);
    let before = now();
    chain.relays[0].kill();
    let (code, sent, said) = generator.end();
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("5 of 5 channels have no path"), "{said}");
    assert!(said.contains("link to the neighbour was lost"), "{said}");
    assert!(number(&sent, "/unsent") > 0);
    assert!(before.elapsed() < Duration::from_secs(20), "it waited for {:?}", before.elapsed());
    let (code, taken, said) = sink.end();
    assert_eq!(code, Some(3), "{said}");
    assert_eq!(number(&taken, "/outcome/taken/unfinished"), 5);
}

#[test]
fn local_programs_have_no_place_at_a_peer_that_is_a_program() {
    let chain = Chain::new(&["a", "r", "b"]);
    let sink = chain.sink();
    let generator = chain.generate(&["--channels", "1", "--rate", "100", "--duration", "60s"]);
    wait_for("a channel", SETTLED, || crossing(&chain, "r").filter(|seen| seen.2 == 1));
    let mut open = Open {
        wait: false,
        protect: false,
        shape: false,
        keep: false,
        plain: true,
        idempotency_key: None,
        peer: "b".parse().expect("a name"),
        service: "sink".parse().expect("a name"),
        bandwidth_bps: Bandwidth::from_bps(1_000_000),
        bandwidth_back_bps: None,
        name: None,
        listen: Some(SocketAddr::from(([127, 0, 0, 1], 9))),
        deliver: None,
        from: None,
        path: PathChoice::default(),
        avoid: Vec::new(),
        deadline_ms: 5_000,
    };
    match chain.ask::<OpenReply>("a", &Request::Open(open.clone())) {
        Err(ClientError::Refused(failure)) => {
            assert_eq!(failure.kind, FailureKind::Usage);
            assert!(failure.message.contains("leave out listen"), "{}", failure.message);
        }
        other => panic!("{other:?}"),
    }
    let (service, address) = (open.service.clone(), SocketAddr::from(([127, 0, 0, 1], 9)));
    let receive = Request::Receive { service, address };
    let refused = chain.ask::<Value>("b", &receive).expect_err("refused").to_string();
    assert!(refused.contains("by itself"), "{refused}");
    // A channel somebody else opened here is there, and carries nothing.
    open.listen = None;
    let opened: OpenReply = chain.ask("a", &Request::Open(open)).expect("an answer");
    assert_eq!((opened.outcome.as_str(), opened.listen), ("open", None));
    // Both end in order when they are told to.
    generator.program.terminate();
    let (code, _, said) = generator.end();
    assert_eq!(code, Some(3), "no stream was finished: {said}");
    let (_, taken, _) = sink.end();
    assert_eq!(number(&taken, "/outcome/taken/channels"), 2);
    assert_eq!(number(&taken, "/outcome/taken/totals/duplicated"), 0);
}

#[test]
fn what_cannot_work_is_said_with_what_to_do() {
    let chain = Chain::new(&["a", "r", "b"]);
    let generate = |config: &str, more: &[&str]| {
        let all = ["gen", "--to", "b/inbox", "--bandwidth", "1Mbit/s", "--duration", "1s"];
        chain.start(config, &[&all, more].concat()).end()
    };
    let (code, _, said) = generate("r", &[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("keep one [[link]]"), "{said}");
    let (code, _, said) = generate("a", &["--patience", "500ms"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no path leads to b"), "{said}");
    let sink = chain.sink();
    let (code, _, said) = generate("a", &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no service inbox") && said.contains("sink"), "{said}");
    sink.program.terminate();
    let (_, _, said) = sink.end();
    assert!(!said.contains("error"), "{said}");
}

#[test]
#[ignore = "half a minute and most of two CPUs; run by name"]
fn ten_thousand_channels_open_in_thirty_seconds_and_lose_nothing() {
    let chain = Chain::new(&["a", "r", "b"]);
    let sink = chain.sink();
    let generator = chain.generate(&[
        "--channels",
        "10000",
        "--rate",
        "20k",
        "--size",
        "200",
        "--duration",
        "5s",
    ]);
    let (code, sent, said) = generator.end();
    assert_eq!(code, Some(0), "{said}");
    let (code, taken, said) = sink.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(number(&sent, "/opening/set_up_ms") <= 30_000, "{}", sent["opening"]);
    let found = &taken["outcome"]["taken"];
    assert_eq!((number(found, "/channels"), number(found, "/lost")), (10_000, 0));
    assert_eq!(number(found, "/sent"), number(&sent, "/sent"));
}
