//! Real daemons on loopback and what is done to them: wrong keys, garbage on their ports, wrong
//! requests, reloads, signals. Nothing of it may disturb what runs.
//!
//! ```text
//!   a ─── b      a and b are on io_uring where the host allows it, c never is
//!    ╲   ╱
//!      c
//! ```

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::overlay::{Overlay, Peer, Plan, SPANWAY};
use common::program::{Program, output, wait_for};
use common::stream::{Collector, Pacer};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a1_a4_daemons_on_either_runtime_agree_on_a_tree_and_a_lone_one_is_its_own() {
    let mut overlay = triangle("");
    for (peer, runtime) in [("a", &["tokio-uring", "tokio"][..]), ("c", &["tokio"])] {
        let status = overlay.peer(peer).ask(&["status"]);
        assert!(runtime.iter().any(|runtime| status["runtime"] == *runtime), "{status}");
        assert_eq!((&status["links_up"], &status["peers"]), (&json!(2), &json!(3)), "{status}");
        assert!(status["backend_why"].is_string(), "{status}");
    }
    overlay.kill("b");
    overlay.kill("c");
    overlay.settle();
}

#[test]
fn a_wrong_key_is_refused_with_both_fingerprints_and_disturbs_nobody() {
    let mut overlay = triangle("");
    let right = overlay.peer("c").ask(&["status"])["key"].clone();
    overlay.kill("c");
    let key = overlay.folder().join("c.key");
    fs::remove_file(&key).expect("removed");
    output(Command::new(SPANWAY).args(["key", "--new"]).arg(&key));
    overlay.run("c");
    let wrong = wait_for("c", SOON, || status(overlay.peer("c")))["key"].clone();
    for peer in ["a", "b"] {
        wait_for("both fingerprints", SOON, || {
            let log = overlay.peer(peer).log();
            let line = log.lines().find(|line| line.contains("another key"))?.to_owned();
            let both = [&right, &wrong].map(|key| line.contains(&fingerprint(key)));
            (both == [true, true]).then_some(())
        });
        // No storm: the dialler was told, or sees it itself, and waits ten seconds.
        let log = overlay.peer(peer).log();
        assert!(log.matches("another key").count() <= 3, "{log}");
    }
    let links = overlay.peer("a").ask(&["links"]);
    let state = |peer: &str| find(&links, "peer", peer)["state"].clone();
    assert_eq!((state("b"), state("c")), (json!("up"), json!("down")));
}

#[test]
fn a28_garbage_on_the_ports_is_counted_and_disturbs_no_stream() {
    let sink = Collector::start();
    let service = format!("[service.video]\ndeliver = \"{}\"", sink.address);
    let overlay = triangle(&service);
    let (a, b) = (overlay.peer("a"), overlay.peer("b"));
    let opened = a.open("b/video", "4 Mbit/s", &["--name", "live"]);
    let pacer = Pacer::start(address(&opened["listen"]), 1, 500);
    let before = a.ask(&["status"]);
    let port = address(&before["listen"]);

    for bytes in [&b""[..], b"\0\0", b"\xff\xff\xff\xff", b"\0\x28abc", &[7; 4_000]] {
        let mut stream = TcpStream::connect(port).expect("the port is open");
        stream.write_all(bytes).expect("written");
        // The other end may have closed already.
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"", "{bytes:?} was answered");
    }
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_nonblocking(true).expect("an option");
    for bytes in [0, 1, 15, 48, 65_507].map(|length| vec![0x5a; length]) {
        socket.send_to(&bytes, port).expect("sent");
    }
    wait_for("five drops with a name", SOON, || {
        let worker = a.ask(&["status"])["workers"][0].clone();
        let drops = worker["dropped"].as_object()?.values().filter_map(Value::as_u64).sum::<u64>();
        (drops >= 5).then_some(())
    });
    assert!(socket.recv_from(&mut [0; 100]).is_err(), "a stranger got an answer");

    let after = a.ask(&["status"]);
    for same in ["session", "links_up", "channels", "pid"] {
        assert_eq!(before[same], after[same], "{same}");
    }
    let sent = pacer.stop();
    wait_for("every frame", SOON, || (b.channel("live")?["rx_frames"] == sent).then_some(()));
    let got: Vec<u64> = sink.stop().into_iter().map(|(_, number)| number).collect();
    assert!(got.iter().copied().eq(0..sent), "{} of {sent}", got.len());
}

#[test]
fn a_reload_is_taken_whole_or_not_at_all() {
    let overlay = triangle("");
    let a = overlay.peer("a");
    let file = overlay.folder().join("a.toml");
    let good = fs::read_to_string(&file).expect("a configuration");
    // Not asked at `a`: its command line would read the file that is being broken.
    let services = |peer: &str| overlay.peer(peer).ask(&["services", "a"]);

    fs::write(&file, format!("{good}\n[service.extra]\n")).expect("written");
    assert!(run(a, &["reload"]).status.success());
    assert_eq!(services("b")[0]["name"], "extra");

    let before = a.ask(&["status"]);
    for (text, expected) in [
        (format!("{good}\n[service.more]\ndeliver = 7\n"), "service.more"),
        (format!("{good}\n[service.more]\ncolour = \"red\"\n"), "colour"),
        (good.replace("listen = \"127.0.0.1:", "listen = \"127.0.0.2:"), "listen"),
        ("name = ".to_owned(), ".toml:1:"),
    ] {
        fs::write(&file, text).expect("written");
        let answer = ask_raw(&overlay, "{\"request\":\"reload\"}");
        let said = answer["error"]["message"].to_string();
        assert!(said.contains(expected), "{expected}: {answer}");
        assert_eq!(services("c")[0]["name"], "extra", "the old configuration was lost");
    }
    fs::write(&file, &good).expect("written");
    assert_eq!(a.ask(&["status"])["session"], before["session"]);

    // The same by signal; a link that is taken out goes down at both ends.
    let (head, links) = good.split_once("[[link]]").expect("links");
    let (_, last) = links.split_once("[[link]]").expect("two links");
    fs::write(&file, format!("{head}[[link]]{last}")).expect("written");
    signal(&before, "HUP");
    wait_for("one link less", SOON, || {
        let links = a.ask(&["links"]);
        let there = overlay.peer("b").ask(&["links"]);
        let down = find(&there, "peer", "a")["state"] == "down";
        (links.as_array()?.len() == 1 && down).then_some(())
    });
}

#[test]
fn wrong_requests_are_refused_in_words_and_leave_nothing_behind() {
    let overlay = triangle("[service.video]\ndeliver = \"127.0.0.1:9\"");
    let a = overlay.peer("a");
    let holder = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let taken = holder.local_addr().expect("an address").to_string();
    let open = |more: &[&str]| {
        let mut arguments = vec!["open", "b/video", "--bandwidth", "1 Mbit/s"];
        arguments.extend(more);
        run(a, &arguments)
    };
    for (answer, code, expected) in [
        (run(a, &["open", "a/video", "--bandwidth", "1 Mbit/s"]), 2, "source and destination"),
        (open(&["--listen", "0.0.0.0:0"]), 2, "--from"),
        (open(&["--listen", "192.0.2.1:99", "--from", "192.0.2.0/24"]), 1, "not one of this host"),
        (open(&["--listen", &taken]), 1, "in use"),
        (run(a, &["close", "nobody"]), 1, "no channel nobody"),
        (run(a, &["open", "b/nothing", "--bandwidth", "1 Mbit/s"]), 3, "no_such_service"),
        (run(a, &["open", "nobody/x", "--bandwidth", "1 Mbit/s"]), 3, "no_such_peer"),
    ] {
        let said = String::from_utf8_lossy(&answer.stderr).into_owned()
            + &String::from_utf8_lossy(&answer.stdout);
        assert_eq!(answer.status.code(), Some(code), "{said}");
        assert!(said.contains(expected), "{expected}: {said}");
    }
    for (line, expected) in [
        ("dance", "not JSON: expected value at line 1 column 1"),
        ("{\"request\":\"dance\"}", "`dance`"),
        ("{\"request\":\"close\"}", "channel"),
        (&zero_bandwidth(), "bandwidth 0"),
    ] {
        let answer = ask_raw(&overlay, line);
        assert_eq!(answer["error"]["kind"], "usage", "{answer}");
        assert!(answer["error"]["message"].to_string().contains(expected), "{answer}");
    }
    assert_eq!(a.ask(&["channels"]), json!([]));
}

#[test]
fn a26_a27_the_local_socket_is_the_owners_and_goes_with_the_daemon() {
    let mut overlay = triangle("");
    let socket = local_socket(&overlay);
    let mode = fs::metadata(&socket).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let status = overlay.peer("a").ask(&["status"]);

    // A second daemon on the same folder, and on the same address, says so and disturbs nothing.
    let same = overlay.peer("a").client(&["run"]).stdin(Stdio::null()).output().expect("starts");
    let said = String::from_utf8_lossy(&same.stderr).into_owned();
    assert_eq!(same.status.code(), Some(1), "{said}");
    assert!(said.contains(&status["pid"].to_string()), "{said}");
    let file = overlay.folder().join("a.toml");
    let text = fs::read_to_string(&file).expect("a configuration");
    fs::write(overlay.folder().join("d.toml"), format!("{text}\n").replace("\"a\"", "\"d\""))
        .expect("written");
    fs::copy(overlay.folder().join("a.key"), overlay.folder().join("d.key")).expect("copied");
    let config = overlay.folder().join("d.toml");
    let second = Command::new(SPANWAY).args(["run", "--config"]).arg(config).output();
    let second = second.expect("starts");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{said}");
    let listen = status["listen"].as_str().expect("an address");
    assert!(said.contains(listen) && said.contains("in use"), "{said}");
    assert_eq!(overlay.peer("a").ask(&["status"])["session"], status["session"]);

    let learned = overlay.folder().join("a.state/addresses.json");
    wait_for("addresses", SOON, || {
        fs::read_to_string(&learned).ok()?.contains("\"c\"").then_some(())
    });
    signal(&status, "TERM");
    overlay.ended("a");
    assert!(!socket.exists(), "the socket was left behind");
    let log = fs::read_to_string(overlay.folder().join("b.log")).expect("a log");
    assert!(log.contains("it left"), "no Bye was heard: {log}");
    overlay.settle();
}

#[test]
fn a3_a_peer_that_hangs_is_missed_and_taken_back() {
    let overlay = triangle("");
    let hung = overlay.peer("c").ask(&["status"]);
    signal(&hung, "STOP");
    wait_for("c is missed", SOON, || {
        let links = overlay.peer("a").ask(&["links"]);
        (find(&links, "peer", "c")["state"] == "down").then_some(())
    });
    signal(&hung, "CONT");
    overlay.settle();
}

#[test]
fn a_newer_connection_of_the_same_identity_replaces_the_older() {
    let mut overlay = triangle("");
    let text = fs::read_to_string(overlay.folder().join("c.toml")).expect("a configuration");
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let elsewhere = format!("state_dir = \"twin.state\"\nlisten = \"{}\"", free.expect("a port"));
    let moved = text.lines().map(|line| match line.starts_with("listen") {
        true => format!("{elsewhere}\n"),
        false => format!("{line}\n"),
    });
    let config = overlay.folder().join("twin.toml");
    fs::write(&config, moved.collect::<String>()).expect("written");
    let mut command = Command::new(SPANWAY);
    command.args(["run", "--config"]).arg(&config).stdin(Stdio::null());
    let twin = Program::start("twin", overlay.folder(), &mut command);
    for peer in ["a", "b"] {
        wait_for("the older connection is closed", SOON, || {
            let log = overlay.peer(peer).log();
            log.contains("replaced by a newer connection").then_some(())
        });
    }
    drop(twin);
    // Whoever is alone again has the links.
    overlay.kill("c");
    overlay.run("c");
    overlay.settle();
}

#[test]
fn status_warns_of_a_link_that_nobody_dials() {
    let mut overlay = Plan::new(&["a", "b"]).one_way_link("a", "b", "10 Mbit/s").on_loopback();
    let warnings = |overlay: &Overlay| overlay.peer("a").ask(&["status"])["warnings"].to_string();
    assert!(!warnings(&overlay).contains("link to b"), "{}", warnings(&overlay));
    overlay.kill("b");
    wait_for("a warning", SOON, || warnings(&overlay).contains("link to b").then_some(()));
}

#[test]
fn a16_a_receiver_that_goes_away_takes_its_channel_with_it() {
    let overlay = triangle("[service.inbox]");
    let (a, b) = (overlay.peer("a"), overlay.peer("b"));
    let socket = overlay.folder().join("b.state/control.sock");
    let receiver = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    receiver.set_read_timeout(Some(SOON)).expect("an option");
    let address_text = receiver.local_addr().expect("an address");
    let mut client = UnixStream::connect(&socket).expect("connected");
    let request = json!({"request": "receive", "service": "inbox", "address": address_text});
    writeln!(client, "{request}").expect("written");
    let opened = wait_for("a receiver", SOON, || {
        let (code, reply) =
            a.answer(&["open", "b/inbox", "--bandwidth", "1 Mbit/s", "--name", "post"]);
        (code == Some(0)).then_some(reply)
    });
    let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    sender.send_to(b"hello", address(&opened["listen"])).expect("sent");
    let mut frame = [0; 200];
    let (length, _) = receiver.recv_from(&mut frame).expect("a frame");
    assert_eq!((length, &frame[48..53]), (48 + 5 + 16, &b"hello"[..]), "with header and tag");
    drop(client);
    wait_for("no channel", SOON, || {
        (a.channel("post").is_none() && b.channel("post").is_none()).then_some(())
    });
}

#[test]
fn a11_where_no_open_file_is_left_for_a_channel_it_is_said_and_the_daemon_still_answers() {
    let service = "[service.inbox]\ndeliver = \"127.0.0.1:9\"";
    let mut overlay = triangle(service);
    // What a daemon with one worker and two links keeps for itself, and two more.
    let a_link = 2 + spanway::limits::HALF_OPEN_PER_NEIGHBOUR_MAX as u64;
    let files = 64 + 8 + 2 * a_link + 128 + 256 + 2;
    for name in ["a", "b"] {
        overlay.kill(name);
        overlay.run_with_files(name, files);
        overlay.settle();
        let a = overlay.peer("a");
        for channel in ["one", "two"] {
            a.open("b/inbox", "1 Mbit/s", &["--name", channel]);
        }
        let more = run(a, &["open", "b/inbox", "--bandwidth", "1 Mbit/s", "--name", "three"]);
        let said =
            [more.stdout, more.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(!more.status.success() && said.concat().contains("ulimit -n"), "{name}: {said:?}");
        assert!(run(a, &["close", "one"]).status.success());
        a.open("b/inbox", "1 Mbit/s", &["--name", "three"]);
        overlay.kill(name);
        overlay.run(name);
    }
}

/// Three peers in a triangle; `sections` are those of `b`.
fn triangle(sections: &str) -> Overlay {
    Plan::new(&["a", "b", "c"])
        .link("a", "b", "100 Mbit/s")
        .link("a", "c", "50 Mbit/s")
        .link("b", "c", "50 Mbit/s")
        .section("b", sections)
        .section("c", "[engine]\nbackend = \"mmsg\"")
        .on_loopback()
}

fn run(peer: &Peer, arguments: &[&str]) -> Output {
    peer.client(arguments).stdin(Stdio::null()).output().expect("spanway starts")
}

fn status(peer: &Peer) -> Option<Value> {
    let (code, status) = peer.answer(&["status"]);
    (code == Some(0)).then_some(status)
}

fn find<'a>(rows: &'a Value, key: &str, value: &str) -> &'a Value {
    let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
    rows.iter().find(|row| row[key] == value).unwrap_or(&Value::Null)
}

fn address(value: &Value) -> SocketAddr {
    value.as_str().expect("an address").parse().expect("an address")
}

/// As [`spanway::types::PublicKey::fingerprint`] shows it.
fn fingerprint(key: &Value) -> String {
    let key: spanway::types::PublicKey = key.as_str().expect("a key").parse().expect("a key");
    key.fingerprint()
}

fn signal(status: &Value, name: &str) {
    let pid = status["pid"].to_string();
    output(Command::new("kill").args(["-s", name, &pid]));
}

fn local_socket(overlay: &Overlay) -> PathBuf {
    overlay.folder().join("a.state/control.sock")
}

/// What the daemon of `a` answers to a line that no client would send.
fn ask_raw(overlay: &Overlay, line: &str) -> Value {
    let mut stream = UnixStream::connect(local_socket(overlay)).expect("connected");
    writeln!(stream, "{line}").expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{line}: {e}: {answer}"))
}

fn zero_bandwidth() -> String {
    json!({"request": "open", "peer": "b", "service": "video", "bandwidth_bps": 0,
        "bandwidth_back_bps": null, "name": null, "listen": null, "deliver": null, "from": null,
        "deadline_ms": 1_000})
    .to_string()
}
