//! Links that running daemons gain and lose: two overlays become one and two again, the files say so,
//! and whoever is refused has changed nothing.

mod common;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use common::overlay::{Overlay, Peer, Plan, SPANWAY};
use common::program::{output, wait_for};
use common::stream::{Collector, Pacer};
use serde_json::{Value, json};

/// A peer that was refused dials again after ten seconds.
const SOON: Duration = Duration::from_secs(30);

#[test]
fn a25_a26_two_overlays_joined_by_link_add_carry_a_channel_also_after_a_restart() {
    let sink = Collector::start();
    let service = format!("# Films.\n[service.video]\ndeliver = \"{}\"", sink.address);
    let west = Plan::new(&["a", "b"]).link("a", "b", "20 Mbit/s").on_loopback();
    let mut east =
        Plan::new(&["c", "d"]).link("c", "d", "20 Mbit/s").section("d", &service).on_loopback();
    let before = [file(&west, "b"), file(&east, "c")].map(read);
    assert_eq!(add(west.peer("b"), east.peer("c"))["change"], "added");
    assert_eq!(add(east.peer("c"), west.peer("b"))["change"], "added");
    assert_eq!(add(west.peer("b"), east.peer("c"))["change"], "unchanged");
    wait_for("one overlay", SOON, || peers_of(&west, "a", 4));
    carries(west.peer("a"), east.peer("d"), "live");
    let after = read(file(&west, "b"));
    assert!(after.starts_with(&before[0]) && after.contains("\n[[link]]\npeer = \"c\""), "{after}");

    east.kill("c");
    wait_for("its end noticed", SOON, || peers_of(&west, "a", 2));
    // A flag of the command is no change of the file: links still come and go.
    let mut with_flag = east.peer("c").command("sh");
    with_flag.args(["-c", "exec \"$0\" \"$@\" --latency", SPANWAY]);
    east.run_command("c", with_flag);
    wait_for("one overlay again", SOON, || peers_of(&west, "a", 4));
    carries(west.peer("a"), east.peer("d"), "again");

    let removed = west.peer("b").ask(&["link", "remove", "c"]);
    assert_eq!(removed, json!({ "peer": "c", "change": "removed" }));
    wait_for("two overlays", SOON, || peers_of(&west, "a", 2));
    wait_for("the far end was told", SOON, || {
        let log = east.peer("c").log();
        log.contains("removed from the configuration").then_some(())
    });
    east.peer("c").ask(&["link", "remove", "b"]);
    assert_eq!(before, [file(&west, "b"), file(&east, "c")].map(read), "as if nothing had been");
    assert!(sink.stop().len() >= 100, "both streams came to their program");
}

#[test]
fn a25_a_link_that_is_refused_changes_neither_the_file_nor_the_peer() {
    let overlay = Plan::new(&["a", "b"]).link("a", "b", "20 Mbit/s").on_loopback();
    let a = overlay.peer("a");
    let key = overlay.peer("b").ask(&["key"])["key"].as_str().expect("a key").to_owned();
    let (other, listen) = ("7".repeat(64), a.ask(&["status"])["listen"].clone());
    let listen = listen.as_str().expect("an address");
    let path = file(&overlay, "a");
    let (text, links) = (read(path.clone()), still(a));
    let rate = "5Mbit/s";
    for (arguments, code, expected) in [
        (vec!["add", "a", "--key", &other, "--capacity", rate], 2, "this peer itself"),
        (vec!["add", "b", "--key", &other, "--capacity", rate], 2, "one link to a peer is enough"),
        (vec!["add", "c", "--key", &key, "--capacity", rate], 2, "each neighbour has its own"),
        (vec!["add", "c", "--key", "77", "--capacity", rate], 2, "not a public key"),
        (vec!["add", "c", "--key", &other, "--capacity", "9kbit/s"], 2, "leaves nothing"),
        (vec!["add", "c", "--key", &other, "--capacity", rate, "--mtu", "9"], 2, "1280"),
        (
            vec!["add", "c", "--key", &other, "--capacity", rate, "--address", listen],
            2,
            "this peer's own",
        ),
        (vec!["remove", "c"], 1, "this peer has links to b"),
    ] {
        let out = link(a, &arguments);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!((out.status.code(), said.contains(expected)), (Some(code), true), "{said}");
        assert_eq!((read(path.clone()), still(a)), (text.clone(), links.clone()));
    }

    // A folder that nothing can be written to: what the new file would be called is a folder.
    let taken = overlay.folder().join(".a.toml.new");
    fs::create_dir(&taken).expect("a folder");
    let out = link(a, &["add", "c", "--key", &other, "--capacity", rate]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(1) && said.contains("a.toml cannot be written"), "{said}");
    assert_eq!((read(path.clone()), still(a)), (text.clone(), links));
    fs::remove_dir(&taken).expect("empty");

    // What a person has written meanwhile is kept, and what he got wrong is told first.
    let by_hand = format!("{text}\n# By hand.\n[service.extra]\n");
    fs::write(&path, format!("{by_hand}colour = 7\n")).expect("written");
    let out = raw(&overlay, &json!({ "request": "remove_link", "peer": "b" }));
    let said = out["error"]["message"].as_str().unwrap_or_default();
    assert!(said.contains("colour"), "{out}");
    assert_eq!(read(path.clone()), format!("{by_hand}colour = 7\n"));
    fs::write(&path, &by_hand).expect("written");
    a.ask(&["link", "remove", "b"]);
    assert!(read(path).ends_with("# By hand.\n[service.extra]\n"));
    assert_eq!(
        (still(a), a.ask(&["services", "a"])[0]["name"].clone()),
        (json!([]), json!("extra"))
    );
}

#[test]
fn a24_every_peer_tells_its_steps_of_the_last_computation_and_what_it_counted() {
    let plan = Plan::new(&["a", "b", "c"]);
    let overlay = plan.link("a", "b", "20 Mbit/s").link("b", "c", "9 Mbit/s").on_loopback();
    let a = overlay.peer("a");
    let courses = a.ask(&["tree", "--course"]);
    let session = a.ask(&["tree"])["session"].clone();
    for (peer, last) in [("a", "merged"), ("b", "absorbed"), ("c", "joined")] {
        let course = &courses[peer];
        assert_eq!((&course["session"], &course["complete"]), (&session, &json!(true)), "{course}");
        let steps = course["steps"].as_array().expect("steps");
        let whats: Vec<&str> = steps.iter().filter_map(|step| step["what"].as_str()).collect();
        assert_eq!((whats.first(), whats.last()), (Some(&"woke"), Some(&"done")), "{whats:?}");
        assert!(whats.contains(&last), "{peer}: {whats:?}");
        let done = steps.last().expect("steps");
        assert_eq!((&done["level"], &done["fragment"]), (&json!(1), &json!(["a", "b"])));
    }
    let computation = a.ask(&["status"])["computation"].clone();
    assert_eq!((&computation["running"], &computation["level"]), (&json!(false), &json!(1)));
    let counted = overlay.peer("b").ask(&["statistics"]);
    assert!(counted["sessions"]["committed"].as_u64() >= Some(1), "{counted}");
    assert!(counted["messages_received"]["ghs"].as_u64() >= Some(1), "{counted}");
    for arguments in [&["tree", "--course"][..], &["statistics"]] {
        let text = output(&mut a.client(arguments));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}

/// Opens a channel to d/video, sends until frames have come, and closes it.
fn carries(from: &Peer, to: &Peer, name: &str) {
    let opened = from.open("d/video", "4 Mbit/s", &["--name", name]);
    let listen: SocketAddr = opened["listen"].as_str().and_then(|l| l.parse().ok()).expect("one");
    let pacer = Pacer::start(listen, 1, 500);
    wait_for("frames", SOON, || (to.channel(name)?["rx_frames"].as_u64()? >= 50).then_some(()));
    pacer.stop();
    from.ask(&["close", name]);
}

/// `link add` at `here`, with what `there` says of itself.
fn add(here: &Peer, there: &Peer) -> Value {
    let key = there.ask(&["key"])["key"].clone();
    let status = there.ask(&["status"]);
    let [key, listen] = [&key, &status["listen"]].map(|text| text.as_str().expect("text"));
    let arguments =
        ["link", "add", &there.name, "--key", key, "--capacity", "9Mbit/s", "--address", listen];
    here.ask(&arguments)
}

fn link(peer: &Peer, arguments: &[&str]) -> Output {
    let mut command = peer.client(&[&["link"], arguments].concat());
    command.stdin(Stdio::null()).output().expect("spanway starts")
}

fn raw(overlay: &Overlay, request: &Value) -> Value {
    use std::io::{Read as _, Write as _};
    let mut socket =
        std::os::unix::net::UnixStream::connect(overlay.peer("a").socket()).expect("a daemon");
    socket.write_all(format!("{request}\n").as_bytes()).expect("asked");
    socket.shutdown(std::net::Shutdown::Write).expect("an end");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("answered");
    serde_json::from_str(answer.lines().next().unwrap_or_default()).expect("JSON")
}

fn peers_of(overlay: &Overlay, peer: &str, count: usize) -> Option<()> {
    let tree = overlay.peer(peer).ask(&["tree"]);
    let edges = tree["edges"].as_array()?.len();
    (tree["complete"] == true && edges + 1 == count).then_some(())
}

fn file(overlay: &Overlay, peer: &str) -> PathBuf {
    overlay.folder().join(format!("{peer}.toml"))
}

fn read(file: PathBuf) -> String {
    fs::read_to_string(file).expect("a configuration")
}

/// Its links without what heartbeats change all the time.
fn still(peer: &Peer) -> Value {
    let mut links = peer.ask(&["links"]);
    for link in links.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        link.remove("rtt_us");
        link.remove("heard_ms");
    }
    links
}
