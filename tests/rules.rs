//! `[[allow]]` between real daemons: who may open what, through whom and how much, what a refusal
//! says, and what other rules do to channels that are open.
//!
//! ```text
//!    ╔═ b ═╗        ═ 40 Mbit/s, the tree
//!   a       c       ─ 20 Mbit/s
//!    ╰─ d ─╯
//! ```

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use common::http::Site;
use common::overlay::{Overlay, Peer, Plan, path_of};
use common::ports::free_ports;
use common::program::{output, wait_for};
use serde_json::json;

const SOON: Duration = Duration::from_secs(15);
const VIDEO: &str = "[service.video]\ndeliver = \"127.0.0.1:9\"\n[service.inbox]";

#[test]
fn a11_what_a_rule_does_not_allow_is_refused_with_the_rule_and_the_limit() {
    let overlay = Plan::new(&["a", "b", "c"])
        .link("a", "b", "40 Mbit/s")
        .link("b", "c", "40 Mbit/s")
        .section("a", VIDEO)
        .section(
            "b",
            "[[allow]]\npeers = [\"a\"]\nthrough = true\nrate = \"5 Mbit/s\"\ntotal = \"9 Mbit/s\"\n\
             channels = 2",
        )
        .section("b", &api())
        .section("c", VIDEO)
        .section("c", "[[allow]]\npeers = [\"*\"]\nto = [\"video\"]")
        .on_loopback();
    let [a, b, c] = ["a", "b", "c"].map(|name| overlay.peer(name));
    let said = |from: &Peer, to: &str, rate: &str| {
        let (code, reply) = from.answer(&["open", to, "--bandwidth", rate, "--explain"]);
        assert_eq!((code, &reply["reason"]), (Some(3), &json!("not_allowed")), "{reply}");
        reply["detail"].as_str().expect("words").to_owned()
    };
    assert_eq!(
        said(a, "c/video", "6Mbit/s"),
        "at b: rule 1 of [[allow]] lets a channel have at most 5 Mbit/s: 6 Mbit/s are too much"
    );
    a.open("c/video", "5 Mbit/s", &["--name", "one"]);
    assert_eq!(
        said(a, "c/video", "5Mbit/s"),
        "at b: rule 1 of [[allow]] lets all channels of a have 9 Mbit/s together, of which 4 Mbit/s are \
         left: 5 Mbit/s are too much"
    );
    a.open("c/video", "2 Mbit/s", &["--name", "two"]);
    assert_eq!(
        said(a, "c/video", "1Mbit/s"),
        "at b: rule 1 of [[allow]] lets a have 2 channels at a time, and it has them"
    );
    a.ask(&["close", "two"]);
    assert_eq!(
        said(a, "c/inbox", "1Mbit/s"),
        "at c: no [[allow]] here lets a open channels to inbox"
    );
    assert_eq!(
        said(c, "a/video", "1Mbit/s"),
        "at b: no [[allow]] here lets channels of c cross this peer"
    );
    // Who has the rules asks whom it likes.
    b.open("c/video", "9 Mbit/s", &[]);
    b.open("a/video", "9 Mbit/s", &[]);

    let shown = b.ask(&["allow"]);
    let rule = &shown["rules"][0];
    assert_eq!((&rule["used_channels"], &rule["used_bps"]), (&json!(1), &json!(5_000_000)));
    assert_eq!(rule["users"], json!([{ "peer": "a", "channels": 1, "rate_bps": 5_000_000 }]));
    assert_eq!((&rule["refused"], &shown["otherwise"]), (&json!(3), &json!("refused")));
    let refused = &shown["refused"];
    let counts = ["no_rule", "rate", "total", "channels", "requests", "everybody"]
        .map(|limit| refused[limit].as_u64());
    assert_eq!(counts, [1, 1, 1, 1, 0, 0].map(Some), "{refused}");
    assert_eq!(b.ask(&["statistics"])["forbidden"], *refused);
    let site = Site::of(&b.ask(&["page"]));
    assert_eq!(site.get("/api/allow").json(), shown);
    let table = output(&mut b.client(&["allow"]));
    assert!(table.contains("at most 5 Mbit/s a channel, 9 Mbit/s a peer"), "{table}");
    assert_eq!(a.ask(&["allow"])["otherwise"], "allowed");
    let checked = output(&mut b.client(&["config", "check", "--show"]));
    assert!(checked.contains("allow.1.total"), "{checked}");
}

#[test]
fn a13_a_channel_goes_around_who_forbids_it_and_a_reload_moves_or_ends_what_is_open() {
    let overlay = Plan::new(&["a", "b", "c", "d"])
        .link("a", "b", "40 Mbit/s")
        .link("b", "c", "40 Mbit/s")
        .link("a", "d", "20 Mbit/s")
        .link("d", "c", "20 Mbit/s")
        .section("b", "[[allow]]\npeers = [\"z\"]\nthrough = true")
        .section("c", VIDEO)
        .section("c", "[[allow]]\npeers = [\"KEY\"]\nto = [\"*\"]".replace("KEY", "a").as_str())
        .on_loopback();
    let [a, c] = ["a", "c"].map(|name| overlay.peer(name));
    // By key, which the picture of the overlay tells.
    let key = a.ask(&["key"])["key"].as_str().expect("a key").to_owned();
    change(&overlay, "c", "peers = [\"a\"]", &format!("peers = [\"{key}\"]"));
    let film = a.open("c/video", "4 Mbit/s", &["--name", "film"]);
    assert_eq!(path_of(&film), ["a", "d", "c"], "b is on the tree and forbids it: {film}");
    let refused = film["refused"].as_array().expect("a list");
    assert!(refused[0]["why"].as_str().is_some_and(|why| why.contains("cross this peer")));

    // b allows it, d does not any more: the channel that is open moves.
    change(&overlay, "b", "peers = [\"z\"]", "peers = [\"a\"]");
    let path = overlay.folder().join("d.toml");
    let text = fs::read_to_string(&path).expect("a configuration");
    fs::write(&path, format!("{text}\n[[allow]]\npeers = [\"z\"]\nthrough = true\n"))
        .expect("written");
    overlay.peer("d").ask(&["reload"]);
    wait_for("it moved", SOON, || {
        let row = a.channel("film")?;
        (row["state"] == "open" && path_of(&row) == ["a", "b", "c"]).then_some(())
    });

    // Its destination does not want it: it ends, with words at both ends.
    change(&overlay, "c", &format!("peers = [\"{key}\"]"), "peers = [\"b\"]");
    wait_for("it ended", SOON, || a.channel("film").is_none().then_some(()));
    assert_eq!(c.channel("film"), None);
    let words = "no [[allow]] here lets a open channels to video";
    wait_for("a knows why", SOON, || {
        a.log().contains(&format!("closed at c: {words}")).then_some(())
    });
    assert!(c.log().contains(words) && c.log().contains("not_allowed"), "{}", c.log());

    // What a person gets wrong changes nothing.
    let wrong = reload_with(&overlay, "c", "peers = [\"b\"]", "peers = []");
    assert!(wrong.contains("allow.peers: is empty, which fits nobody"), "{wrong}");
}

#[test]
fn a14_requests_that_wait_have_a_number_of_their_own() {
    let overlay = Plan::new(&["a", "b", "c"])
        .link("a", "b", "40 Mbit/s")
        .link("b", "c", "10 Mbit/s")
        .section("b", "[[allow]]\npeers = [\"*\"]\nthrough = true\nrequests = 1")
        .section("c", VIDEO)
        .on_loopback();
    let a = overlay.peer("a");
    a.open("c/video", "8 Mbit/s", &["--name", "full"]);
    let mut waits = a.client(&["open", "c/video", "--bandwidth", "4Mbit/s", "--wait=30s"]);
    let mut first = waits.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    wait_for("it waits", SOON, || (a.ask(&["queue"]).as_array()?.len() == 1).then_some(()));
    let (code, reply) = a.answer(&["open", "c/video", "--bandwidth", "4Mbit/s", "--wait=30s"]);
    assert_eq!((code, &reply["reason"]), (Some(3), &json!("not_allowed")), "{reply}");
    let detail = reply["detail"].as_str().unwrap_or_default();
    assert!(
        detail.contains("at b: rule 1 of [[allow]] lets a have 1 requests wait here"),
        "{reply}"
    );
    a.ask(&["close", "full"]);
    assert!(first.wait().expect("our child").success(), "the first one gets the room");
}

fn api() -> String {
    format!("[api]\nlisten = \"127.0.0.1:{}\"", free_ports(1) + 14)
}

fn file(overlay: &Overlay, peer: &str) -> PathBuf {
    overlay.folder().join(format!("{peer}.toml"))
}

fn change(overlay: &Overlay, peer: &str, from: &str, to: &str) {
    let said = reload_with(overlay, peer, from, to);
    assert_eq!(said, "", "{peer} does not take {to}");
}

/// What a reload says on standard error.
fn reload_with(overlay: &Overlay, peer: &str, from: &str, to: &str) -> String {
    let path = file(overlay, peer);
    let text = fs::read_to_string(&path).expect("a configuration");
    assert!(text.contains(from), "{text}");
    fs::write(&path, text.replace(from, to)).expect("written");
    let out = overlay.peer(peer).client(&["reload"]).stdin(Stdio::null()).output();
    String::from_utf8_lossy(&out.expect("spanway starts").stderr).into_owned()
}
