//! The command line as a person and as a program meets it: real daemons on loopback, made by `init`,
//! asked by the binary itself.
//!
//! What is wrong in a configuration is proved key by key in `tests/config.rs`; here it is the exit
//! code, the text on standard error, and that a running stream does not notice.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use spanway::api::dto::{
    ChannelRow, EventLine, Latency, LedgerReply, LinkRow, OpenReply, PeerRow, RelayTimes,
    ServiceRow, StatusReply, TreeReply, VerifyReply,
};
use spanway::types::Reject;
use tempfile::TempDir;

mod common;

use common::ports::free_ports;
use common::program::{Program, pass, poll, wait_for};

const SPANWAY: &str = env!("CARGO_BIN_EXE_spanway");
/// For anything that two busy cores have to get done.
const LONG: Duration = Duration::from_secs(30);

/// Daemons of an overlay that `init` wrote: peer-01, peer-02, ...
struct Overlay {
    folder: TempDir,
    daemons: Vec<Program>,
}

impl Overlay {
    fn start(peers: u16, edges: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let base = free_ports(usize::from(peers));
        let (count, port) = (peers.to_string(), base.to_string());
        let dir = folder.path().join("overlay");
        let arguments = ["init", "--peers", &count, "--edges", edges, "--seed", "3"];
        let mut init = command(&arguments);
        ok(init.args(["--listen-base", &port, "--dir"]).arg(&dir));
        let mut overlay = Self { folder, daemons: Vec::new() };
        for number in 1..=peers {
            overlay.daemons.push(overlay.daemon(usize::from(number)));
        }
        overlay.settle(peers);
        overlay
    }

    /// Until every peer has its links up and the same right tree.
    fn settle(&self, peers: u16) {
        wait_for("one right tree over all peers", LONG, || {
            for number in 1..=usize::from(peers) {
                let links: Vec<LinkRow> = self.try_ask(number, &["links"])?;
                links.iter().all(|row| row.state == "up").then_some(())?;
                let tree: TreeReply = self.try_ask(number, &["tree"])?;
                let edges = tree.edges.len() + 1;
                (tree.complete && edges == usize::from(peers)).then_some(())?;
            }
            let verify: VerifyReply = self.try_ask(1, &["verify"])?;
            (verify.correct && verify.peers == usize::from(peers)).then_some(())
        });
    }

    fn daemon(&self, number: usize) -> Program {
        let name = format!("peer-{number:02}");
        let mut command = command(&["run", "--config"]);
        command.arg(self.config(number)).stdin(Stdio::null()).stdout(Stdio::null());
        Program::start(&name, self.folder.path(), &mut command)
    }

    fn config(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("overlay/peer-{number:02}.toml"))
    }

    fn client(&self, number: usize, arguments: &[&str]) -> Command {
        let mut command = command(arguments);
        command.arg("--config").arg(self.config(number));
        command
    }

    /// The JSON answer of peer `number` in its shape of the contract: no field more, none less.
    fn ask<T: DeserializeOwned + serde::Serialize>(&self, number: usize, arguments: &[&str]) -> T {
        let text = ok(self.client(number, arguments).arg("--json"));
        let value: T = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments:?}: {e}"));
        let plain: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(serde_json::to_value(&value).expect("JSON"), plain, "{arguments:?}");
        value
    }

    /// Nothing while the peer has no such answer yet.
    fn try_ask<T: DeserializeOwned>(&self, number: usize, arguments: &[&str]) -> Option<T> {
        let out = self.client(number, arguments).arg("--json").output().expect("it starts");
        serde_json::from_slice(&out.stdout).ok()
    }

    /// What must be the same before and after somebody got something wrong.
    fn snapshot(&self) -> (Vec<PeerRow>, Vec<LinkRow>, TreeReply, Vec<String>) {
        let channels: Vec<ChannelRow> = self.ask(1, &["channels"]);
        let channels = channels.into_iter().map(|row| format!("{} {}", row.id, row.state));
        let mut links: Vec<LinkRow> = self.ask(1, &["links"]);
        for link in &mut links {
            // Every heartbeat changes them.
            (link.rtt_us, link.heard_ms) = (None, None);
        }
        (self.ask(1, &["peers"]), links, self.ask(1, &["tree"]), channels.collect())
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(SPANWAY);
    command.args(arguments).env_remove("SPANWAY_CONFIG").env_remove("RUST_LOG");
    command
}

/// Runs to a good end and gives standard output.
fn ok(command: &mut Command) -> String {
    common::program::output(command)
}

/// Runs to any end; one that does not come is ended and is no exit code.
fn run(command: &mut Command) -> (Option<i32>, String) {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    if poll(LONG, || child.try_wait().expect("our child")).is_none() {
        child.kill().expect("our child");
    }
    let Output { status, stderr, .. } = child.wait_with_output().expect("our child");
    (status.code(), String::from_utf8(stderr).expect("text"))
}

/// A stream over the overlay that has to be whole at the end.
struct LiveStream {
    sender: Program,
    receiver: Program,
    stop: Arc<AtomicBool>,
    feeder: thread::JoinHandle<Vec<u8>>,
    received: PathBuf,
}

impl LiveStream {
    /// From peer-01 to `inbox` of the peer with the number `to`, about 1 Mbit/s.
    fn start(overlay: &Overlay, to: usize) -> Self {
        let received = overlay.folder.path().join("received");
        let mut recv = overlay.client(to, &["recv", "inbox"]);
        recv.stdout(File::create(&received).expect("a file"));
        let receiver = Program::start("recv", overlay.folder.path(), &mut recv);
        wait_for("somebody who receives", LONG, || {
            let rows: Vec<ServiceRow> = overlay.ask(1, &["services", &format!("peer-{to:02}")]);
            rows.iter().any(|row| row.name.as_str() == "inbox" && !row.busy).then_some(())
        });
        let destination = format!("peer-{to:02}/inbox");
        let mut send = overlay.client(1, &["send", &destination, "--bandwidth", "2Mbit/s"]);
        let mut sender = Program::start("send", overlay.folder.path(), send.stdin(Stdio::piped()));
        let mut input = sender.child().stdin.take().expect("piped");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let feeder = thread::spawn(move || {
            let mut sent = Vec::new();
            for number in 0_u64.. {
                let piece: Vec<u8> = number.to_be_bytes().repeat(158);
                if stopped.load(Ordering::Relaxed) || input.write_all(&piece).is_err() {
                    break;
                }
                sent.extend(piece);
                pass(Duration::from_millis(10));
            }
            sent
        });
        wait_for("a running stream", LONG, || {
            fs::metadata(&received).is_ok_and(|file| file.len() > 0).then_some(())
        });
        Self { sender, receiver, stop, feeder, received }
    }

    /// Ends it and checks every byte.
    fn finish(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.feeder.join().expect("a feeder");
        let (sender, receiver) = (self.sender.join(LONG), self.receiver.join(LONG));
        assert!(sender.success(), "send: {sender}: {}", self.sender.log());
        assert!(receiver.success(), "recv: {receiver}: {}", self.receiver.log());
        let received = fs::read(&self.received).expect("the output");
        assert!(received == sent, "{} of {} bytes came", received.len(), sent.len());
    }
}

/// One wrong input: arguments, exit code, what standard error says.
type Row<'a> = (&'a [&'a str], i32, &'a str);

/// Each row as a client of peer-01.
fn judge(overlay: &Overlay, rows: &[Row<'_>]) {
    for &(arguments, code, fragment) in rows {
        let mut command = match arguments {
            ["init", ..] => command(arguments),
            _ => overlay.client(1, arguments),
        };
        let (got, text) = run(&mut command);
        assert_eq!(got, Some(code), "{arguments:?}: {text}");
        assert!(text.starts_with("error: "), "{arguments:?}: {text}");
        assert!(text.contains(fragment), "{arguments:?}: no {fragment:?} in {text}");
    }
}

#[test]
fn bad_input_on_the_command_line_has_its_code_and_its_words_and_disturbs_nothing() {
    let overlay = Overlay::start(3, "100");
    let stream = LiveStream::start(&overlay, 3);
    let before = overlay.snapshot();
    let video = "peer-03/video";
    let huge = "99999999999999999999 bit/s";
    judge(
        &overlay,
        &[
            // 1: unknown flag, misspelt sub-command.
            (&["opne", video], 2, "'open'"),
            (&["peers", "--jsn"], 2, "'--json'"),
            (&["open", video, "--bandwith", "1Mbit/s"], 2, "'--bandwidth'"),
            // 2: ports.
            (&["init", "--dir", "x", "--listen-base", "0"], 2, "1..=65535"),
            (&["init", "--dir", "x", "--listen-base", "70000"], 2, "1..=65535"),
            (&["init", "--dir", "x", "--listen-base", "abc"], 2, "'abc'"),
            (
                &["open", video, "--bandwidth", "1Mbit/s", "--listen", "127.0.0.1:70000"],
                2,
                "--listen",
            ),
            (
                &["open", video, "--bandwidth", "1Mbit/s", "--listen", "127.0.0.1:abc"],
                2,
                "--listen",
            ),
            // 3 and 14: bandwidths.
            (&["open", video, "--bandwidth", "-5"], 2, "25 Mbit/s"),
            (&["open", video, "--bandwidth", "1e99"], 2, "Mbit/s"),
            (&["open", video, "--bandwidth", "10"], 2, "25 Mbit/s"),
            (&["open", video, "--bandwidth", "NaN"], 2, "25 Mbit/s"),
            (&["open", video, "--bandwidth", "0 Mbit/s"], 2, "at least 1 bit/s"),
            (&["open", video, "--bandwidth", huge], 2, "too large"),
            (&["send", "peer-03/inbox", "--bandwidth", "10"], 2, "25 Mbit/s"),
            (&["open", video, "--bandwidth", "9 Tbit/s"], 2, "Gbit/s"),
            (&["open", video, "--bandwidth", "9999 Gbit/s"], 3, "never"),
            // 15: to itself.
            (&["open", "peer-01/video", "--bandwidth", "1Mbit/s"], 2, "peer-01"),
            // Names that are nobody's.
            (&["open", "peer-09/video", "--bandwidth", "1Mbit/s"], 3, "no_such_peer"),
            (&["open", "peer-03/film", "--bandwidth", "1Mbit/s"], 3, "no_such_service"),
            (&["open", "peer-03/inbox", "--bandwidth", "1Mbit/s"], 3, "service_busy"),
            (&["open", "peer-03", "--bandwidth", "1Mbit/s"], 2, "PEER/SERVICE"),
            (&["close", "nothing"], 1, "nothing"),
            (&["latency", "nothing"], 1, "nothing"),
            (&["latency", "nothing", "--watch", "1"], 1, "nothing"),
            (&["latency", "--watch", "1"], 2, "CHANNEL"),
            (&["latency", "nothing", "--watch", "0"], 2, "1..=3600"),
            (&["latency", "nothing", "--watch", "3601"], 2, "1..=3600"),
            (&["latency", "--hgrm", "/nowhere/x"], 1, "/nowhere/x cannot be written"),
            (&["services", "peer-09"], 3, "peer-09"),
            (&["recv", "video"], 1, "video"),
            (&["open", video, "--bandwidth", "1Mbit/s", "--listen", "0.0.0.0:0"], 2, "--from"),
        ],
    );
    assert_eq!(overlay.snapshot(), before);
    stream.finish();
}

#[test]
fn bad_input_in_files_keeps_a_daemon_from_starting_and_a_running_one_as_it_is() {
    let overlay = Overlay::start(2, "100");
    let stream = LiveStream::start(&overlay, 2);
    let before = overlay.snapshot();
    let good = fs::read_to_string(overlay.config(1)).expect("a configuration");
    let own = good.lines().find(|line| line.starts_with("listen = ")).expect("listen").to_owned();
    let scratch = overlay.folder.path().join("scratch");
    fs::create_dir(&scratch).expect("a folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = format!("listen = \"{}\"", taken.local_addr().expect("an address"));
    let free = format!("listen = \"127.0.0.1:{}\"", free_ports(1));
    let elsewhere = good.replace(&own, &free);
    let rows: [(&str, Vec<u8>, &str); 12] = [
        ("2: port 0", good.replace(&own, "listen = \"127.0.0.1:0\"").into(), "1 to 65535"),
        ("2: port 70000", good.replace(&own, "listen = \"127.0.0.1:70000\"").into(), "1 to 65535"),
        ("2: no port", good.replace(&own, "listen = \"127.0.0.1:abc\"").into(), "1 to 65535"),
        (
            "3: no unit",
            replace_line(&good, "capacity = ", "capacity = \"10\"").into(),
            "link.capacity: \"10\" has no unit",
        ),
        (
            "3: negative",
            replace_line(&good, "capacity = ", "capacity = \"-5 Mbit/s\"").into(),
            "link.capacity",
        ),
        ("4: not UTF-8", [good.as_bytes(), b"\xff\xfe"].concat(), "is not UTF-8"),
        ("4: syntax", format!("{good}\n[service.x\n").into(), "bad.toml:"),
        ("5: unknown key", format!("liten = \"x\"\n{good}").into(), "listen"),
        (
            "6: no key file",
            elsewhere.replace("peer-01.key", "nobody.key").into(),
            "nobody.key is missing",
        ),
        (
            "7: read-only",
            elsewhere.replace("peer-01.state", "/proc/spanway").into(),
            "/proc/spanway",
        ),
        ("8: second daemon", elsewhere.clone().into(), ""),
        ("9: in use", elsewhere.replace(&free, &taken).into(), "in use"),
    ];
    let pid: StatusReply = overlay.ask(1, &["status"]);
    for (title, content, fragment) in rows {
        let folder = overlay.config(1).parent().expect("a folder").to_owned();
        let file = folder.join("bad.toml");
        let content = if title.starts_with('9') {
            String::from_utf8(content).expect("text").replace("peer-01.state", "other.state").into()
        } else {
            content
        };
        fs::write(&file, content).expect("written");
        let (code, text) = run(command(&["run", "--config"]).arg(&file));
        assert_eq!(code, Some(1), "{title}: {text}");
        assert!(text.contains("error: "), "{title}: {text}");
        assert!(text.contains(fragment), "{title}: no {fragment:?} in {text}");
        if title.starts_with('8') {
            assert!(text.contains(&pid.pid.to_string()), "{title}: no pid in {text}");
        }
    }
    key_files(&overlay, &elsewhere);
    assert_eq!(overlay.snapshot(), before);
    stream.finish();
}

/// Row 6: key files that are none are named, refused and left alone.
fn key_files(overlay: &Overlay, good: &str) {
    let folder = overlay.config(1).parent().expect("a folder").to_owned();
    let (file, key) = (folder.join("bad.toml"), folder.join("bad.key"));
    fs::write(&file, good.replace("peer-01.key", "bad.key")).expect("written");
    let real = fs::read(folder.join("peer-01.key")).expect("a key");
    for (content, mode, fragment) in [
        (real[..10].to_vec(), 0o600, "truncated"),
        (real.clone(), 0o644, "mode 0644"),
        (b"-----BEGIN PRIVATE KEY-----\nnonsense\n".to_vec(), 0o600, "not a Spanway key file"),
    ] {
        fs::write(&key, &content).expect("written");
        fs::set_permissions(&key, Permissions::from_mode(mode)).expect("a mode");
        for arguments in [["run"].as_slice(), &["config", "check"], &["key"]] {
            let (code, text) = run(command(arguments).arg("--config").arg(&file));
            assert_eq!(code, Some(1), "{fragment}: {text}");
            assert!(text.contains(fragment) && text.contains("bad.key"), "{fragment}: {text}");
        }
        assert_eq!(fs::read(&key).expect("the key"), content, "left as it was");
        let (code, text) = run(command(&["key", "--new"]).arg(&key));
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("never overwritten"), "{text}");
    }
}

#[test]
fn a_reload_is_all_or_nothing() {
    let overlay = Overlay::start(2, "100");
    let before = overlay.snapshot();
    let good = fs::read_to_string(overlay.config(1)).expect("a configuration");
    let added = "\n[service.extra]\ndeliver = \"127.0.0.1:9\"\n";
    fs::write(overlay.config(1), format!("{good}{added}\n[service.bad]\nunknown = 1\n"))
        .expect("written");
    // The client reads the same file; where the daemon listens is in the copy.
    let copy = overlay.config(1).with_file_name("copy.toml");
    fs::write(&copy, &good).expect("written");
    let (code, text) = run(command(&["reload", "--config"]).arg(&copy));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("peer-01.toml:") && text.contains("unknown"), "{text}");
    let services: Vec<ServiceRow> = overlay.ask(2, &["services", "peer-01"]);
    assert_eq!(services.len(), 2, "nothing of the bad file: {services:?}");
    fs::write(overlay.config(1), format!("{good}{added}")).expect("written");
    ok(&mut overlay.client(1, &["reload"]));
    let services: Vec<ServiceRow> = overlay.ask(2, &["services", "peer-01"]);
    assert!(services.iter().any(|row| row.name.as_str() == "extra"), "{services:?}");
    assert_eq!(overlay.snapshot(), before);
}

#[test]
fn a26_every_command_prints_the_shapes_of_the_contract_as_json() {
    let overlay = Overlay::start(3, "100");
    let status: StatusReply = overlay.ask(1, &["status"]);
    assert_eq!((status.name.as_str(), status.peers, status.links_up), ("peer-01", 3, 2));
    let peers: Vec<PeerRow> = overlay.ask(1, &["peers"]);
    let states: Vec<&str> = peers.iter().map(|row| row.state.as_str()).collect();
    assert_eq!(states, ["self", "reachable", "reachable"]);
    let links: Vec<LinkRow> = overlay.ask(1, &["links"]);
    assert!(links.iter().all(|row| row.state == "up"), "{links:?}");
    let tree: TreeReply = overlay.ask(1, &["tree"]);
    assert_eq!((tree.edges.len(), tree.next_hops.len()), (2, 2));
    let verify: VerifyReply = overlay.ask(1, &["verify"]);
    assert_eq!((verify.correct, verify.peers, verify.links), (true, 3, 3));
    let services: Vec<ServiceRow> = overlay.ask(1, &["services", "peer-03"]);
    assert_eq!(services.len(), 2, "{services:?}");
    let open = ["open", "peer-03/video", "--bandwidth", "1Mbit/s", "--name", "film"];
    let reply: OpenReply = overlay.ask(1, &open);
    assert_eq!((reply.outcome.as_str(), reply.reason), ("open", None));
    let listen = reply.listen.expect("an address to send to");
    let channels: Vec<ChannelRow> = overlay.ask(1, &["channels"]);
    assert_eq!(Some(&channels[0].id), reply.channel.as_ref());
    assert_eq!((channels[0].state.as_str(), channels[0].listen), ("open", Some(listen)));
    let latency: Latency = overlay.ask(3, &["latency", &channels[0].id]);
    assert_eq!((latency.channel.as_str(), latency.peer.as_str()), (&*channels[0].id, "peer-03"));
    assert_eq!((latency.resolution.as_str(), latency.one_way_us.count), ("log2", 0));
    let watched: Latency = overlay.ask(3, &["latency", &channels[0].id, "--watch", "1"]);
    assert_eq!((watched.resolution.as_str(), watched.clocks_differ), ("full", false));
    let times: RelayTimes = overlay.ask(2, &["latency"]);
    let lanes: Vec<&str> = times.lanes.iter().map(|lane| lane.lane.as_str()).collect();
    assert_eq!((lanes, times.workers.len()), (vec!["data", "control"], 1));
    let hops: Vec<&str> = times.hops.iter().map(|hop| hop.from.as_str()).collect();
    assert_eq!(hops, ["peer-01", "peer-03"]);
    assert!(times.lanes[1].inside_ns.count > 0, "control messages took no time: {times:?}");
    let ledger: LedgerReply = overlay.ask(2, &["channels", "--ledger"]);
    assert!(ledger.adds_up && ledger.workers.len() == 1, "{ledger:?}");
    let ledger: LedgerReply = overlay.ask(1, &["channels", "--ledger"]);
    assert_eq!((ledger.channels.len(), &ledger.channels[0].id), (1, &channels[0].id));
    let events = overlay.folder.path().join("events");
    let mut watch = overlay.client(1, &["events", "--json"]);
    watch.stdout(File::create(&events).expect("a file"));
    let _watching = Program::start("events", overlay.folder.path(), &mut watch);
    wait_for("an event for a new computation", LONG, || {
        ok(&mut overlay.client(1, &["recompute", "--json"]));
        let text = fs::read_to_string(&events).expect("events");
        let line = text.lines().next()?;
        serde_json::from_str::<EventLine>(line).ok()
    });
    let rejected =
        overlay.client(1, &[&open[..], &["--json"]].concat()).output().expect("it starts");
    let again: OpenReply = serde_json::from_slice(&rejected.stdout).expect("an answer");
    assert_eq!((rejected.status.code(), again.reason), (Some(3), Some(Reject::Duplicate)));
    assert!(rejected.stderr.is_empty(), "the JSON says it");
    let closed: Value = overlay.ask(1, &["close", "film"]);
    assert_eq!(closed["done"], "closed film");
    let channels: Vec<ChannelRow> = overlay.ask(1, &["channels"]);
    assert!(channels.is_empty(), "{channels:?}");
}

#[test]
fn doctor_says_that_all_is_well_and_what_to_do_when_a_neighbour_is_gone() {
    let mut overlay = Overlay::start(2, "100");
    let report = |overlay: &Overlay| -> (Option<i32>, Value) {
        let out = overlay.client(1, &["doctor", "--json"]).output().expect("it starts");
        (out.status.code(), serde_json::from_slice(&out.stdout).expect("JSON"))
    };
    let finding = |report: &Value, check: &str| {
        let findings = report["findings"].as_array().expect("a list").iter();
        let mut found = findings.filter(|finding| finding["check"] == check);
        found.next().unwrap_or_else(|| panic!("{check}: {report}")).clone()
    };
    let (code, well) = report(&overlay);
    assert_eq!((code, &well["ok"]), (Some(0), &Value::Bool(true)), "{well}");
    for check in ["configuration", "key", "state folder", "daemon", "link peer-02"] {
        assert_eq!(finding(&well, check)["state"], "ok", "{well}");
    }
    let found = finding(&well, "link peer-02")["found"].to_string();
    assert!(found.contains("round trip") && !found.contains("unknown"), "{found}");
    assert!(found.contains("ms ago"), "{found}");
    overlay.daemons[1].kill();
    let gone = wait_for("the link is missed", LONG, || {
        let (code, report) = report(&overlay);
        (code == Some(1)).then_some(report)
    });
    let link = finding(&gone, "link peer-02");
    assert_eq!(link["state"], "fail", "{link}");
    assert!(link["found"].to_string().contains("nothing listens there"), "{link}");
    assert!(link["advice"].to_string().contains("start the daemon of peer-02"), "{link}");
    let text = ok(&mut command(&["doctor"]));
    assert!(text.contains("kernel") && text.contains("add --config"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn top_draws_on_a_terminal_waits_for_its_daemon_and_puts_the_terminal_back() {
    let (code, error) = run(&mut command(&["top", "--config", "x.toml"]));
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("channels --json"), "{error}");
    let mut overlay = Overlay::start(1, "100");
    // `script` gives it a terminal, and what is written to it.
    let typed = overlay.folder.path().join("typed");
    let mut script = Command::new("script");
    let config = overlay.config(1);
    let top = format!("stty cols 80 rows 24; {SPANWAY} top --config {}", config.display());
    script.args(["-qefc", &top]).arg(&typed).env("TERM", "xterm");
    script.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut script = Program::start("script", overlay.folder.path(), &mut script);
    let shown = || fs::read(&typed).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    wait_for("the first screen", LONG, || {
        let text = shown().ok()?;
        // Blanks are not written but jumped over, except where they have a style.
        (text.contains("q quit") && text.contains("CHANNEL")).then_some(())
    });
    overlay.daemons[0].kill();
    wait_for("the daemon is missed", LONG, || shown().ok()?.contains("waiting").then_some(()));
    script.child().stdin.as_mut().expect("piped").write_all(b"q").expect("written");
    assert!(script.join(LONG).success(), "{}", script.log());
    let text = shown().expect("readable");
    assert!(text.contains("\x1b[?1049h") && text.contains("\x1b[?1049l"), "the screen is back");
}

#[test]
fn events_are_followed_over_a_restart_and_only_those_that_were_asked_for() {
    let mut overlay = Overlay::start(1, "100");
    let events = overlay.folder.path().join("events");
    let mut follow =
        overlay.client(1, &["events", "--json", "--follow", "--kind", "tree_committed"]);
    follow.stdout(File::create(&events).expect("a file"));
    let follow = Program::start("follow", overlay.folder.path(), &mut follow);
    let lines = || fs::read_to_string(&events).expect("events").lines().count();
    let recompute = |overlay: &Overlay| {
        let before = lines();
        wait_for("an event", LONG, || {
            run(&mut overlay.client(1, &["recompute"]));
            (lines() > before).then_some(())
        });
    };
    recompute(&overlay);
    overlay.daemons[0].kill();
    overlay.daemons[0] = overlay.daemon(1);
    recompute(&overlay);
    assert!(follow.log().contains("waiting for it") && follow.log().contains("is back"));
    let text = fs::read_to_string(&events).expect("events");
    for line in text.lines() {
        let line: EventLine = serde_json::from_str(line).expect("an event");
        assert_eq!(line.event, "tree_committed");
    }
    let (code, error) = run(&mut overlay.client(1, &["events", "--kind", "tree_comitted"]));
    assert_eq!(code, Some(2));
    assert!(error.contains("tree_committed"), "{error}");
}

#[test]
fn who_waits_for_room_is_told_where_it_stands_while_it_waits() {
    let overlay = Overlay::start(2, "100");
    let links: Vec<LinkRow> = overlay.ask(1, &["links"]);
    let most = links[0].free_out_bps.min(links[0].free_in_bps).to_string().replace(' ', "");
    let open = ["open", "peer-02/video", "--bandwidth", &most, "--one-way"];
    ok(&mut overlay.client(1, &open));
    let (code, said) = run(&mut overlay.client(1, &[&open[..], &["--wait=4s"]].concat()));
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("position 1, peer-01 - peer-02 has "), "{said}");
    assert_eq!(said.matches("position 1").count(), 1, "once while nothing changes: {said}");
}

#[test]
fn a6_a_person_needs_names_only() {
    let overlay = Overlay::start(3, "60");
    let text = ok(&mut overlay.client(1, &["open", "peer-03/video", "--bandwidth", "1Mbit/s"]));
    assert!(text.contains("peer-01 > ") && text.contains("send to  127.0.0.1:"), "{text}");
    let peers = ok(&mut overlay.client(1, &["peers"]));
    let tree = ok(&mut overlay.client(1, &["tree"]));
    let channels = ok(&mut overlay.client(1, &["channels"]));
    for (text, port) in [(&peers, "127.0.0.1"), (&tree, "127.0.0.1")] {
        assert!(text.contains("peer-03") && !text.contains(port), "{text}");
    }
    for line in [&peers, &tree, &channels].into_iter().flat_map(|text| text.lines()) {
        assert!(line.chars().count() <= 80 && !line.contains('\x1b'), "{line}");
    }
}

#[test]
fn a2_a_peer_that_leaves_at_once_stops_and_the_others_go_on() {
    let mut overlay = Overlay::start(3, "100");
    ok(&mut overlay.client(2, &["leave"]));
    let status = overlay.daemons[1].join(LONG);
    assert!(status.success(), "{status}");
    wait_for("a tree of the others", LONG, || {
        let tree: TreeReply = overlay.ask(1, &["tree"]);
        (tree.complete && tree.edges.len() == 1).then_some(())
    });
    let (code, text) = run(&mut overlay.client(2, &["peers"]));
    assert_eq!(code, Some(1));
    assert!(text.contains("control.sock") && text.contains("spanway run --config"), "{text}");
}

#[test]
fn a22_a_sender_is_told_that_its_channel_was_closed() {
    let overlay = Overlay::start(2, "100");
    let mut stream = LiveStream::start(&overlay, 2);
    let channels: Vec<ChannelRow> = overlay.ask(1, &["channels"]);
    ok(&mut overlay.client(1, &["close", &channels[0].id]));
    let (sender, receiver) = (stream.sender.join(LONG), stream.receiver.join(LONG));
    assert_eq!(sender.code(), Some(1), "{}", stream.sender.log());
    assert!(stream.sender.log().contains("closed"), "{}", stream.sender.log());
    assert_eq!(receiver.code(), Some(1), "{}", stream.receiver.log());
    assert!(stream.receiver.log().contains("closed"), "{}", stream.receiver.log());
}

#[test]
fn a28_the_log_of_a_peer_is_lines_a_program_can_read() {
    let overlay = Overlay::start(2, "100");
    ok(&mut overlay.client(1, &["open", "peer-02/video", "--bandwidth", "1Mbit/s"]));
    let log = overlay.daemons[0].log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    assert!(lines.iter().all(|line| line["timestamp"].is_string() && line["level"].is_string()));
    for (message, field) in
        [("link up", "peer"), ("tree committed", "session"), ("channel open", "channel")]
    {
        let line = lines.iter().find(|line| line["message"] == message);
        let line = line.unwrap_or_else(|| panic!("no {message:?} in {log}"));
        assert!(line.get(field).is_some(), "{line}");
    }
}

#[test]
fn a5_init_writes_what_run_starts_and_check_approves() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("overlay");
    ok(command(&["init", "--dir"]).arg(&dir));
    let configs: Vec<PathBuf> = fs::read_dir(&dir)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .collect();
    assert_eq!(configs.len(), 10, "ten peers by default");
    for config in &configs {
        let text = ok(command(&["config", "check", "--config"]).arg(config));
        assert!(text.contains("valid"), "{text}");
    }
    let (code, text) = run(command(&["init", "--dir"]).arg(&dir));
    assert_eq!(code, Some(1), "a second time: {text}");
    let template = ok(&mut command(&["config", "print-default"]));
    assert!(template.contains("[[link]]"), "{template}");
}

#[test]
fn a_key_is_printed_as_the_other_end_writes_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("new.key");
    let made = ok(command(&["key", "--json", "--new"]).arg(&file));
    let made: Value = serde_json::from_str(&made).expect("JSON");
    assert_eq!(made["key"].as_str().map(str::len), Some(64));
    assert_eq!(fs::metadata(&file).expect("the file").permissions().mode() & 0o777, 0o600);
    let config = folder.path().join("peer.toml");
    let text = "name = \"p\"\nlisten = \"127.0.0.1:7000\"\nkey_file = \"new.key\"\n";
    fs::write(&config, text).expect("written");
    let shown = ok(command(&["key", "--config"]).arg(&config));
    assert_eq!(shown.lines().next(), made["key"].as_str());
}

#[test]
fn without_a_configuration_the_command_says_what_it_needs() {
    let (code, text) = run(&mut command(&["peers"]));
    assert_eq!(code, Some(2));
    assert!(text.contains("--config FILE") && text.contains("SPANWAY_CONFIG"), "{text}");
    let (code, text) = run(command(&["peers"]).env("SPANWAY_CONFIG", "/nowhere/peer.toml"));
    assert_eq!(code, Some(1));
    assert!(text.contains("/nowhere/peer.toml"), "{text}");
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let mut child = command(&["config", "print-default"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    let mut text = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut text).expect("text");
    assert!(child.wait().expect("our child").success(), "{text}");
    assert_eq!(text, "");
}

#[test]
fn a19_the_demo_carries_a_file_unchanged_over_two_relays() {
    let folder = tempfile::tempdir().expect("a folder");
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    // Not a whole number of datagrams.
    let bytes: Vec<u8> =
        (0..1_000_003_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    fs::write(&input, &bytes).expect("written");
    let summary = demo(&["--no-kill", "--input"], &input, Some(&output));
    assert_eq!(summary["ok"], Value::Bool(true), "{summary}");
    assert!(summary["path_before"].as_array().is_some_and(|path| path.len() >= 4), "{summary}");
    assert!(fs::read(&output).expect("the output") == bytes, "not the same bytes");
}

#[test]
fn a17_the_demo_survives_the_death_of_a_relay() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("out");
    let summary = demo(&["--duration", "4s", "--output"], &output, None);
    let killed = summary["killed"].as_str().expect("a relay was killed");
    let path = |key: &str| summary[key].as_array().cloned().unwrap_or_default();
    assert!(path("path_before").contains(&Value::from(killed)), "{summary}");
    assert!(!path("path_after").contains(&Value::from(killed)), "{summary}");
    assert_eq!(summary["corrupt_payloads"], 0, "{summary}");
    let number = |key: &str| summary[key].as_u64().expect("a number");
    // It came back: most of the second half is there.
    assert!(number("arrived_frames") * 10 > number("sent_frames") * 7, "{summary}");
}

/// Runs a demo at a rate that a busy machine carries; its summary.
fn demo(arguments: &[&str], file: &Path, output: Option<&Path>) -> Value {
    let mut command = command(&["demo", "--json", "--bandwidth", "8Mbit/s"]);
    command.args(arguments).arg(file);
    if let Some(output) = output {
        command.arg("--output").arg(output);
    }
    let out = command.stdin(Stdio::null()).output().expect("it starts");
    let text = String::from_utf8_lossy(&out.stderr);
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn replace_line(text: &str, begin: &str, line: &str) -> String {
    let replaced = text.lines().map(|old| if old.starts_with(begin) { line } else { old });
    replaced.collect::<Vec<_>>().join("\n")
}
