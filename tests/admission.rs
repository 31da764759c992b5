//! Admission seen from the command line, with real daemons on loopback: which path is taken, who waits
//! for room and in which order (A12, A13, A14).
//!
//! ```text
//!   a ──── r ──── z      10 Mbit/s each, 9.5 of it for channels
//!   │     ╱ ╲     │      b and c are behind r
//!   └────── d ────┘      4 Mbit/s each, 3.8 of it for channels
//! ```

mod common;

use std::io::Read;
use std::process::{Child, Stdio};
use std::time::Duration;

use common::overlay::{Overlay, Peer, Plan};
use common::program::wait_for;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);

fn overlay() -> Overlay {
    Plan::new(&["a", "b", "c", "d", "r", "z"])
        .link("a", "r", "10 Mbit/s")
        .link("b", "r", "10 Mbit/s")
        .link("c", "r", "10 Mbit/s")
        .link("r", "z", "10 Mbit/s")
        .link("a", "d", "4 Mbit/s")
        .link("d", "z", "4 Mbit/s")
        .section("z", "[service.video]\ndeliver = \"127.0.0.1:9\"\n")
        .on_loopback()
}

/// Asks for a path on the tree and waits in line; the answer is read later.
fn stand(peer: &Peer, name: &str, rate: &str) -> Child {
    let tree = ["--path", "tree", "--wait=60s", "--json"];
    let request = [&["open", "z/video", "--bandwidth", rate, "--name", name][..], &tree].concat();
    let mut command = peer.client(&request);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let child = child.expect("spanway starts");
    wait_for("a place in line", SOON, || waits(peer, name));
    child
}

fn waits(peer: &Peer, name: &str) -> Option<Value> {
    let rows = peer.ask(&["queue"]);
    rows.as_array()?.iter().find(|row| row["name"] == name).cloned()
}

fn answer(mut child: Child) -> Value {
    let mut text = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
    child.wait().expect("our own child");
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"))
}

#[test]
fn a13_a_request_that_the_tree_has_no_room_for_takes_the_way_around() {
    let overlay = overlay();
    let a = overlay.peer("a");
    let fit = |rate: &str| a.answer(&["would-fit", "z", "--bandwidth", rate]);
    assert_eq!(fit("9 Mbit/s").1["answer"], "now");
    assert_eq!(a.open("z/video", "9 Mbit/s", &[])["path"], serde_json::json!(["a", "r", "z"]));
    let around = a.open("z/video", "3 Mbit/s", &[]);
    assert_eq!(around["path"], serde_json::json!(["a", "d", "z"]));
    let refused = around["refused"].as_array().expect("a list");
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0]["path"], serde_json::json!(["a", "r", "z"]));
    let (code, later) = fit("3 Mbit/s");
    assert_eq!((code, &later["answer"]), (Some(4), &Value::from("later")));
    let (code, never) = fit("9.6 Mbit/s");
    assert_eq!((code, &never["answer"]), (Some(3), &Value::from("never")));
    assert_eq!(never["limit"]["width_bps"], 9_500_000);
    let (_, shunned) = a.answer(&["would-fit", "z", "--bandwidth", "4Mbit/s", "--avoid", "r"]);
    assert_eq!(
        (&shunned["answer"], &shunned["limit"]["width_bps"]),
        (&"never".into(), &3_800_000.into())
    );
}

#[test]
fn a14_requests_of_several_peers_are_served_in_the_order_they_came() {
    let overlay = overlay();
    let [a, b, c] = ["a", "b", "c"].map(|name| overlay.peer(name));
    b.open("z/video", "9 Mbit/s", &["--name", "holder"]);
    let first = stand(c, "first", "6 Mbit/s");
    let second = stand(b, "second", "5 Mbit/s");
    // 500 kbit/s are free between r and z, and two wait for more; a has a way around.
    let around = a.open("z/video", "400 kbit/s", &[]);
    assert_eq!(around["path"], serde_json::json!(["a", "d", "z"]));
    let third = stand(c, "third", "400 kbit/s");
    let row = waits(c, "third").expect("it waits");
    assert_eq!(row["position"], 3, "{row}");
    let short = &row["short"][0];
    assert_eq!((&short["at"], &short["towards"]), (&"r".into(), &"z".into()), "{row}");
    assert_eq!((&short["ahead"], &short["free_bps"]), (&2.into(), &500_000.into()), "{row}");
    b.ask(&["close", "holder"]);
    assert_eq!(answer(first)["outcome"], "open");
    // 3.5 Mbit/s are left: not enough for the second, and nobody overtakes it.
    assert!(waits(b, "second").is_some() && waits(c, "third").is_some());
    c.ask(&["close", "first"]);
    assert_eq!(answer(second)["outcome"], "open");
    let third = answer(third);
    assert_eq!(third["outcome"], "open");
    assert!(third["waited_ms"].as_u64() > Some(0), "{third}");
}

#[test]
fn a14_an_asker_that_is_gone_or_closes_gives_its_place_up() {
    let overlay = overlay();
    let [b, c] = ["b", "c"].map(|name| overlay.peer(name));
    b.open("z/video", "9 Mbit/s", &["--name", "holder"]);
    let mut gone = stand(c, "gone", "9 Mbit/s");
    let closed = stand(c, "closed", "9 Mbit/s");
    let last = stand(b, "last", "400 kbit/s");
    gone.kill().and_then(|()| gone.wait()).expect("our own child");
    wait_for("the place of a client that is gone", SOON, || {
        waits(c, "gone").is_none().then_some(())
    });
    c.ask(&["close", "closed"]);
    assert_eq!(answer(closed)["reason"], "cancelled");
    assert_eq!(answer(last)["outcome"], "open", "nobody is before it any more");
}
