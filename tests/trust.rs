//! Peers that no `[[link]]` names: trusted by their key, and newcomers with an invitation. Real daemons on
//! loopback; what a stranger, a second newcomer and one that was cut off are told.

mod common;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::overlay::{Overlay, Peer, Plan, SPANWAY};
use common::ports::free_ports;
use common::program::{Program, now, output, pass, wait_for};
use common::stream::{Collector, Pacer};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A peer that was refused dials again after ten seconds.
const SOON: Duration = Duration::from_secs(30);

#[test]
fn a1_a_trusted_key_links_by_dialling_and_is_cut_off_at_once_when_it_is_taken_out() {
    let sink = Collector::start();
    let service = format!("[service.video]\ndeliver = \"{}\"", sink.address);
    let west = Plan::new(&["a", "b"])
        .link("a", "b", "40 Mbit/s")
        .section("b", "[trust]\n# Nobody yet.\npeers = []\ncapacity = \"9 Mbit/s\"")
        .section("a", &service)
        .on_loopback();
    let east = Plan::new(&["c"]).on_loopback();
    let (b, c) = (west.peer("b"), east.peer("c"));
    add_link(c, b);
    wait_for("the stranger was refused", SOON, || {
        let why = link_of(c, "b")?["last_failure"].as_str()?.to_owned();
        why.contains("does not trust its key").then_some(())
    });
    assert_eq!(link_of(b, "c"), None);

    let untrusted = read(&file(&west, "b"));
    let trusted = untrusted.replace("peers = []", &format!("peers = [\"{}\"]", key_of(c)));
    fs::write(file(&west, "b"), &trusted).expect("written");
    b.ask(&["reload"]);
    wait_for("one overlay", SOON, || peers_of(west.peer("a"), 3));
    let row = link_of(b, "c").expect("a link");
    assert_eq!((&row["by_trust"], &row["connection"]), (&json!(true), &json!("accepted")));
    assert_eq!(row["capacity_bps"], json!(8_550_000), "9 Mbit/s less the control share");
    assert_eq!(link_of(b, "a").expect("a link")["by_trust"], json!(false));
    let table = output(&mut b.client(&["links"]));
    assert!(table.contains("by trust"), "{table}");
    let text = output(&mut b.client(&["config", "check", "--show"]));
    assert!(text.contains("trust.capacity"), "{text}");
    assert_eq!(b.ask(&["status"])["warnings"], json!([]), "nobody needs its address");
    let refused = failure(b, &["link", "remove", "c"]);
    assert!(refused.contains("take its key out of [trust]"), "{refused}");

    // It is cut off; the stream of the two others does not notice.
    let beside = stream(b, "beside", 1);
    let over = stream(c, "over", 2);
    pass(Duration::from_millis(500));
    fs::write(file(&west, "b"), &untrusted).expect("written");
    let cut = now();
    b.ask(&["reload"]);
    wait_for("its end noticed", SOON, || (link_of(c, "b")?["state"] == "down").then_some(()));
    assert!(cut.elapsed() < Duration::from_secs(1), "{:?}", cut.elapsed());
    assert_eq!(link_of(b, "c"), None);
    wait_for("refused again", SOON, || {
        let why = link_of(c, "b")?["last_failure"].as_str()?.to_owned();
        why.contains("does not trust its key").then_some(())
    });
    wait_for("two overlays", SOON, || peers_of(west.peer("a"), 2));
    over.stop();
    let sent = beside.stop();
    let a = west.peer("a");
    wait_for("every frame", SOON, || (a.channel("beside")?["rx_frames"] == sent).then_some(()));
    assert_eq!(b.channel("beside").expect("open")["dropped"], json!({}));
}

#[test]
fn a_name_that_somebody_else_has_is_refused_to_a_trusted_key() {
    let west = Plan::new(&["a", "b"])
        .link("a", "b", "40 Mbit/s")
        .section("b", "[trust]\npeers = []")
        .on_loopback();
    let b = west.peer("b");
    // Another peer of the same name, an entry that says another name, a name of the overlay.
    for (name, entry, expected) in [
        ("a", "\"KEY\"", "another neighbour of it is called a already"),
        ("c", "{ key = \"KEY\", name = \"d\" }", "calls this key d"),
    ] {
        let east = Plan::new(&[name]).on_loopback();
        let dialler = east.peer(name);
        let text = read(&file(&west, "b"));
        let entry = entry.replace("KEY", &key_of(dialler));
        fs::write(file(&west, "b"), text.replace("peers = []", &format!("peers = [{entry}]")))
            .expect("written");
        b.ask(&["reload"]);
        add_link(dialler, b);
        wait_for("refused", SOON, || {
            let why = link_of(dialler, "b")?["last_failure"].as_str()?.to_owned();
            why.contains(expected).then_some(())
        });
        assert_eq!(b.ask(&["links"]).as_array().map(Vec::len), Some(1));
        fs::write(file(&west, "b"), text).expect("written");
    }
}

#[test]
fn a1_a_newcomer_is_in_a_running_overlay_with_one_command_and_opens_a_channel() {
    let sink = Collector::start();
    let service = format!("[service.video]\ndeliver = \"{}\"", sink.address);
    let overlay = Plan::new(&["a", "b", "c"])
        .link("a", "b", "40 Mbit/s")
        .link("b", "c", "40 Mbit/s")
        .section("c", &service)
        .on_loopback();
    let a = overlay.peer("a");
    let invited = a.ask(&["invite", "--name", "oslo", "--capacity", "12Mbit/s"]);
    let before = read(&file(&overlay, "a"));
    let host = Host::new();
    let mut daemon = host.join(&token(&invited), &[]);
    wait_for("four peers", SOON, || peers_of(a, 4));
    let opened = host.ask("oslo", &["open", "c/video", "--bandwidth", "4Mbit/s", "--name", "film"]);
    let listen: SocketAddr = opened["listen"].as_str().and_then(|l| l.parse().ok()).expect("one");
    let pacer = Pacer::start(listen, 1, 500);
    let c = overlay.peer("c");
    wait_for("frames", SOON, || (c.channel("film")?["rx_frames"].as_u64()? >= 50).then_some(()));
    pacer.stop();

    let said = wait_for("all said", SOON, || {
        let said = read(&host.path("joined.out"));
        said.contains("joined").then_some(said)
    });
    for part in ["invited   by a (key ", "dialling  a at 127.0.0.1:", "accepted"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(said.contains("linked    a, 11.4 Mbit/s"), "{said}");
    assert!(said.contains("joined    a tree of 4 peers: a, b, c, oslo"), "{said}");
    let secret = token(&invited);
    let all_logs = [said, a.log(), read(&host.path("oslo.log"))].concat();
    assert!(!all_logs.contains(&secret[9..40]), "the invitation is in a log");

    // Both files say so; comments and order of the inviter's are its operator's.
    let after = read(&file(&overlay, "a"));
    assert!(after.starts_with(&before) && after.contains("[trust]\npeers = ["), "{after}");
    assert!(after.contains("name = \"oslo\", capacity = \"12 Mbit/s\""), "{after}");
    let own = read(&host.path("oslo.toml"));
    assert!(own.contains("[[link]]\npeer = \"a\"\naddress = \"127.0.0.1:"), "{own}");
    assert_eq!(mode(&host.path("oslo.key")), 0o600);
    let rows = a.ask(&["invitations"]);
    let used = (&rows[0]["state"], &rows[0]["peer"]);
    assert_eq!(used, (&json!("used"), &json!("oslo")), "{rows}");

    // A restart of either needs no invitation.
    daemon.kill();
    wait_for("its end noticed", SOON, || peers_of(a, 3));
    let _again = host.run("oslo");
    wait_for("four peers again", SOON, || peers_of(a, 4));

    // The same line a second time, for somebody else.
    let other = Host::new();
    let (code, _, said) = other.try_join(&secret, &["--no-run", "--name", "oslo"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("a refused: another neighbour of it is called oslo already"), "{said}");
    assert!(!other.path("oslo.key").exists() && !other.path("oslo.toml").exists());
}

#[test]
fn what_an_invitation_is_not_good_for_is_told_in_words() {
    let mut overlay = Plan::new(&["a", "b"]).link("a", "b", "40 Mbit/s").on_loopback();
    let a = overlay.peer("a");
    let invite = |more: &[&str]| token(&a.ask(&[&["invite"], more].concat()));
    let expired = invite(&["--expires", "10s"]);
    let host = Host::new();
    let refused = |token: &str, more: &[&str], code: i32, words: &str| {
        let (status, out, said) = host.try_join(token, &[&["--no-run"], more].concat());
        assert_eq!(status, Some(code), "{words}: {out}{said}");
        assert!(said.contains(words), "{words}: {said}");
        let left: Vec<_> = fs::read_dir(host.folder.path()).expect("listed").collect();
        assert!(left.is_empty(), "{words}: {left:?}");
    };
    // Names.
    let fixed = invite(&["--name", "oslo"]);
    refused(&fixed, &["--name", "bonn"], 3, "for a peer called oslo: join with --name oslo");
    let free = invite(&[]);
    refused(&free, &["--name", "a"], 3, "the peer that was dialled is called a already");
    refused(&free, &["--name", "b"], 3, "another neighbour of it is called b already");
    refused(&free, &["--name", "no name"], 2, "is not a name");
    // Copies.
    refused("spanway9-abc", &[], 2, "made by another version");
    refused("hello", &[], 2, "this is no invitation");
    refused(&free.replace(&free[60..64], "AAAA"), &["--name", "x"], 2, "copy the whole line");
    // Taken back.
    let reply = a.ask(&["invite"]);
    let id = reply["id"].as_str().expect("an id");
    assert_eq!(a.ask(&["invitations", "--revoke", id])["state"], "revoked");
    refused(&token(&reply), &["--name", "x"], 3, "the invitation was revoked");
    assert!(failure(a, &["invitations", "--revoke", "77"]).contains("no invitation 77"));
    // Somebody else's: b's key at a's address.
    let of_b = overlay.peer("b").ask(&["invite", "--address", &listen_of(a)]);
    refused(&token(&of_b), &["--name", "x"], 1, "peer a answered where b was expected");
    // An address that nobody may name, and one where nobody is.
    let port = free_ports(1);
    let nowhere =
        invite(&["--address", "169.254.169.254:80", "--address", &format!("127.0.0.1:{port}")]);
    refused(&nowhere, &["--name", "x"], 1, "169.254.169.254:80 is not used: it is link-local");
    refused(&nowhere, &["--name", "x"], 1, "Connection refused");
    // This host itself, for who listens elsewhere.
    let here = format!("0.0.0.0:{}", free_ports(1));
    let elsewhere = ["--name", "x", "--config", "x.toml", "--listen", &here];
    refused(&nowhere, &elsewhere, 1, "on this very host, add --listen 127.0.0.1:");
    // What may not even be made.
    for (more, words) in [
        (vec!["--expires", "9s"], "expires: 9s is out of range: 10 s to 30 days"),
        (vec!["--name", "b"], "name: another neighbour of it is called b"),
        (vec!["--capacity", "9kbit/s"], "capacity: 9 kbit/s is none of a link"),
        (vec!["--address", "0.0.0.0:7000"], "is not used"),
    ] {
        let said = failure(a, &[&["invite"], &more[..]].concat());
        assert!(said.contains(words), "{said}");
    }
    // A state that is lost makes them void; the daemon says what to do about one that is broken.
    let path = overlay.folder().join("a.state/invitations.json");
    overlay.kill("a");
    fs::write(&path, "{").expect("written");
    let broken = overlay.peer("a").client(&["run"]).stdin(Stdio::null()).output().expect("starts");
    let said = String::from_utf8_lossy(&broken.stderr).into_owned();
    assert!(said.contains("invitations.json") && said.contains("move it away"), "{said}");
    fs::remove_file(&path).expect("there");
    overlay.run("a");
    overlay.settle();
    refused(&free, &["--name", "x"], 3, "not known here any more");
    pass(Duration::from_secs(10));
    refused(&expired, &["--name", "x"], 3, "ago: ask for another one");
}

#[test]
fn a27_an_invitation_outlives_a_restart_and_a_peer_that_is_there_gains_the_link() {
    let mut overlay = Plan::new(&["a", "b"]).link("a", "b", "40 Mbit/s").on_loopback();
    let invited = token(&overlay.peer("a").ask(&["invite"]));
    let second = token(&overlay.peer("b").ask(&["invite"]));
    let text = fs::read_to_string(overlay.folder().join("a.state/invitations.json"));
    assert!(text.is_ok_and(|text| text.contains("\"open\"") && !text.contains(&invited[9..30])));
    overlay.kill("a");
    overlay.run("a");
    overlay.settle();

    // Without a daemon, then into the configuration that is there, then into the daemon that runs.
    let host = Host::new();
    let (code, said, wrong) = host.try_join(&invited, &["--no-run", "--name", "oslo"]);
    assert_eq!(code, Some(0), "{wrong}");
    assert!(said.contains("start it with spanway run --config oslo.toml"), "{said}");
    let once = read(&host.path("oslo.toml"));
    let (code, _, wrong) = host.try_join(&invited, &["--no-run", "--name", "oslo"]);
    assert_eq!(code, Some(0), "the same command again goes on: {wrong}");
    assert_eq!(read(&host.path("oslo.toml")), once);
    let (code, _, wrong) = host.try_join(&second, &["--config", "oslo.toml", "--name", "bonn"]);
    assert!(code == Some(2) && wrong.contains("there already, of oslo"), "{wrong}");
    let _daemon = host.run("oslo");
    wait_for("three peers", SOON, || peers_of(overlay.peer("b"), 3));
    let (code, said, wrong) = host.try_join(&second, &["--config", "oslo.toml"]);
    assert_eq!(code, Some(0), "{said}{wrong}");
    assert!(said.contains("linked    b") && said.contains("a tree of 3 peers"), "{said}");
    assert_eq!(read(&host.path("oslo.toml")).matches("[[link]]").count(), 2);
    assert!(overlay.peer("b").ask(&["links"])[1]["by_trust"] == true);
}

/// 2.: a crash leaves either a token that is as good as before, or a newcomer that is in.
#[test]
fn a27_a_crash_at_any_step_of_joining_leaves_a_good_token_or_a_member() {
    let mut overlay = Plan::new(&["a", "b"]).link("a", "b", "40 Mbit/s").on_loopback();
    let (config, given) = (file(&overlay, "a"), overlay.folder().join("a.state/invitations.json"));
    let invited = token(&overlay.peer("a").ask(&["invite"]));
    let before = read(&config);
    let host = Host::new();
    let joins = |host: &Host| host.try_join(&invited, &["--no-run", "--name", "oslo"]);
    assert_eq!(joins(&host).0, Some(0));
    let (after, done) = (read(&config), read(&given));
    let key = key_in(&after);
    // As the files are behind each step, and the newcomer has heard nothing.
    let taken = done.replace("\"joined\": {", &format!("\"taken\": {{ \"key\": \"{key}\","));
    assert_ne!(taken, done);
    for (what, config_text, given_text) in [
        ("taken", &before, &taken),
        ("in the configuration", &after, &taken),
        ("joined", &after, &done),
    ] {
        overlay.kill("a");
        fs::write(&config, config_text).expect("written");
        fs::write(&given, given_text).expect("written");
        overlay.run("a");
        overlay.settle();
        assert_eq!(read(&config), after, "{what}: it is a member after the restart");
        assert!(read(&given).contains("\"joined\""), "{what}");
        assert_eq!(joins(&host).0, Some(0), "{what}: its own command goes on");
        let (code, _, said) = Host::new().try_join(&invited, &["--no-run", "--name", "thief"]);
        assert!(code == Some(3) && said.contains("was used already, by oslo"), "{what}: {said}");
    }
    // Taken out of the file, it does not come back with the same line.
    fs::write(&config, &before).expect("written");
    overlay.peer("a").ask(&["reload"]);
    let (code, _, said) = joins(&host);
    assert!(code == Some(3) && said.contains("was used already"), "{said}");

    // At random moments.
    for round in 0..12_u64 {
        let name = format!("n{round}");
        let invited = token(&overlay.peer("a").ask(&["invite", "--name", &name]));
        let host = Host::new();
        let mut command = host.command(&["join", &invited, "--no-run"]);
        let mut joining = Program::start("joining", host.folder.path(), &mut command);
        pass(Duration::from_micros(7_000 * round));
        overlay.kill("a");
        joining.join(SOON);
        overlay.run("a");
        overlay.settle();
        let (code, out, said) = host.try_join(&invited, &["--no-run"]);
        assert_eq!(code, Some(0), "round {round}: {out}{said}");
        let thief = Host::new().try_join(&invited, &["--no-run"]);
        assert_eq!(thief.0, Some(3), "round {round}: {thief:?}");
        assert_eq!(read(&config).matches(&format!("\"{name}\"")).count(), 1, "round {round}");
    }
}

#[test]
fn a_state_folder_that_cannot_be_written_refuses_the_newcomer_and_keeps_its_invitation() {
    let overlay = Plan::new(&["a", "b"]).link("a", "b", "40 Mbit/s").on_loopback();
    let a = overlay.peer("a");
    let invited = token(&a.ask(&["invite", "--name", "oslo"]));
    // What the new file would be called is a folder.
    let taken = overlay.folder().join(".a.toml.new");
    fs::create_dir(&taken).expect("a folder");
    let host = Host::new();
    let (code, _, said) = host.try_join(&invited, &["--no-run"]);
    assert!(code == Some(3) && said.contains("a.toml cannot be written"), "{said}");
    assert_eq!(a.ask(&["invitations"])[0]["state"], "open");
    fs::remove_dir(&taken).expect("empty");
    let (code, _, said) = host.try_join(&invited, &["--no-run"]);
    assert_eq!(code, Some(0), "{said}");
}

/// A host with nothing but the program.
struct Host {
    folder: TempDir,
    port: u16,
}

impl Host {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a scratch folder"), port: free_ports(1) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(SPANWAY);
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        if arguments.first() == Some(&"join") && !arguments.contains(&"--config") {
            command.args(["--listen", &format!("127.0.0.1:{}", self.port)]);
        }
        command
    }

    /// Joins with a line on standard input, and goes on as the daemon; what it says is in `joined.out`.
    fn join(&self, token: &str, more: &[&str]) -> Program {
        fs::write(self.path("token"), format!("{token}\n")).expect("written");
        let said = fs::File::create(self.path("joined.out")).expect("a file");
        let mut command = self.command(&[&["join", "-"], more].concat());
        command.stdin(fs::File::open(self.path("token")).expect("there")).stdout(said);
        Program::start("oslo", self.folder.path(), &mut command)
    }

    fn try_join(&self, token: &str, more: &[&str]) -> (Option<i32>, String, String) {
        let Output { status, stdout, stderr } =
            self.command(&[&["join", token], more].concat()).output().expect("spanway starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (status.code(), text(&stdout), text(&stderr))
    }

    fn run(&self, name: &str) -> Program {
        let mut command = self.command(&["run", "--while-stdin", "--config"]);
        command.arg(self.path(&format!("{name}.toml"))).stdin(Stdio::piped());
        Program::start(name, self.folder.path(), &mut command)
    }

    fn ask(&self, name: &str, arguments: &[&str]) -> Value {
        let mut command = self.command(arguments);
        command.args(["--json", "--config", &format!("{name}.toml")]);
        serde_json::from_str(&output(&mut command)).expect("JSON")
    }
}

fn token(reply: &Value) -> String {
    reply["token"].as_str().expect("a token").to_owned()
}

fn key_of(peer: &Peer) -> String {
    peer.ask(&["key"])["key"].as_str().expect("a key").to_owned()
}

/// Of the one trusted peer of a configuration.
fn key_in(config: &str) -> String {
    let after = config.split("{ key = \"").nth(1).expect("a trusted peer");
    after.split('"').next().expect("a key").to_owned()
}

fn listen_of(peer: &Peer) -> String {
    peer.ask(&["status"])["listen"].as_str().expect("an address").to_owned()
}

fn add_link(here: &Peer, there: &Peer) {
    let (key, listen) = (key_of(there), listen_of(there));
    let link = ["link", "add", &there.name, "--key", &key, "--capacity", "30Mbit/s"];
    here.ask(&[&link[..], &["--address", &listen]].concat());
}

fn link_of(peer: &Peer, neighbour: &str) -> Option<Value> {
    let rows = peer.ask(&["links"]);
    rows.as_array()?.iter().find(|row| row["peer"] == neighbour).cloned()
}

/// A stream to a/video.
fn stream(from: &Peer, name: &str, mark: u8) -> Pacer {
    let opened = from.open("a/video", "4 Mbit/s", &["--name", name]);
    let listen: SocketAddr = opened["listen"].as_str().and_then(|l| l.parse().ok()).expect("one");
    Pacer::start(listen, mark, 500)
}

fn peers_of(peer: &Peer, count: usize) -> Option<()> {
    let tree = peer.ask(&["tree"]);
    let edges = tree["edges"].as_array()?.len();
    (tree["complete"] == true && edges + 1 == count).then_some(())
}

/// What a command that fails says.
fn failure(peer: &Peer, arguments: &[&str]) -> String {
    let out = peer.client(arguments).stdin(Stdio::null()).output().expect("spanway starts");
    assert!(!out.status.success(), "{arguments:?}");
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn file(overlay: &Overlay, peer: &str) -> PathBuf {
    overlay.folder().join(format!("{peer}.toml"))
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

fn mode(file: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(file).expect("a file").permissions().mode() & 0o777
}
