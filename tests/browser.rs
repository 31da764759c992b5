//! The two pages in a headless Chromium: with real daemons for what a person does, with a stand-in
//! for what no honest daemon says.
//!
//! Without `chromium` and `chromedriver` the tests say loudly that they skip; with
//! `SPANWAY_REQUIRE_BROWSER=1` they fail then. `SPANWAY_WRITE_PICTURES=1` writes README's pictures.

#![allow(clippy::print_stdout, reason = "a test tells what it skips")]

mod common;
#[path = "browser/driver.rs"]
mod driver;
#[path = "browser/pictures.rs"]
mod pictures;
#[path = "browser/stand_in.rs"]
mod stand_in;
#[path = "browser/texts.rs"]
mod texts;

use std::process::Command;

use serde_json::{Value, json};

use common::overlay::{Overlay, Peer, Plan};
use common::program::{output, wait_for};
use common::stream::{Collector, Pacer};
use driver::{Browser, LONG, free_port};
use stand_in::{Says, StandIn, TOKEN};

const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";
const SPACE: &str = "\u{e00d}";
/// Longest that a page may leave its user without an answer: a tenth of this is good, and a busy
/// machine of tests gets ten times as long.
const FREEZE_MAX_MS: f64 = 2_000.0;

#[test]
fn a24_a_channel_is_opened_watched_and_closed_in_the_page() {
    let Some(browser) = Browser::start() else { return };
    let film = Collector::start();
    let overlay = three_peers(&film);
    let a = overlay.peer("a");
    browser.open(&page(a, "peer"));
    browser.reads("#state", |text| text == "live");
    assert!(!browser.address().contains("token"), "the token stays in the address bar");

    browser.pick("#peer", "c");
    browser.pick("#service", "film");
    browser.fill("#bandwidth", "4");
    browser.click("#fit");
    browser.reads("#said", |text| text.contains("It fits now.") && text.contains("a → b → c"));
    assert_eq!(a.ask(&["channels"]), json!([]), "the question opened a channel");

    browser.click("#open");
    let said = browser.reads("#said", |text| text.contains("Open: channel"));
    assert!(said.contains("a → b → c"), "{said}");
    let row = a.ask(&["channels"])[0].clone();
    let listen = row["listen"].as_str().expect("an address");
    assert!(said.contains(listen), "{said} does not say where to send: {listen}");
    let key = row["peer_key"].as_str().expect("it is sealed");
    assert!(said.contains(key) && said.contains("can read it"), "{said}");
    browser.reads("#channels tbody", |text| text.contains("c/film") && text.contains("4 Mbit/s"));

    let pacer = Pacer::start(listen.parse().expect("an address"), 1, 500);
    // 500 datagrams of 200 bytes a second are 800 kbit/s.
    let rate = |text: &str| text.contains("kbit/s") && !text.starts_with('0');
    browser.reads("#channels tbody td:nth-child(5)", rate);
    browser.click("#channels tbody button");
    browser
        .reads("#chosen", |text| text.contains("a → b → c") && text.contains("Programs send to"));
    browser.reads("#chosen", |text| text.contains("only its two ends"));
    browser.reads("#chosen .plot", |text| text.contains("Payload in and out"));
    pacer.stop();
    browser.reads("#channels tbody td:nth-child(5)", |text| text == "0 bit/s");

    browser.click("#channels tbody tr td:last-child button");
    browser.click("dialog button[value=yes]");
    browser.reads("#said", |text| text.contains("Closed:"));
    browser.reads("#channels .empty", |text| text.contains("No channel"));
    assert_eq!(a.ask(&["channels"]), json!([]));

    browser.click("#plain");
    browser.click("#open");
    browser.reads("#said", |text| text.contains("every relay can read it"));
    assert_eq!(a.ask(&["channels"])[0]["sealed"], false);
    // It may end while the page asks for its latency.
    let closed = row["id"].as_str().expect("an id").replace(':', "%3A");
    let late = |text: &String| text.contains(&format!("{closed}/latency")) && text.contains("404");
    let errors: Vec<String> = browser.errors().into_iter().filter(|text| !late(text)).collect();
    assert_eq!(errors, Vec::<String>::new());
}

#[test]
fn a24_the_keyboard_alone_opens_a_channel() {
    let Some(browser) = Browser::start() else { return };
    let film = Collector::start();
    let overlay = three_peers(&film);
    browser.open(&page(overlay.peer("a"), "peer"));
    browser.reads("#peer", |text| text.contains('b') && text.contains('c'));

    tab_to(&browser, "peer");
    browser.press("c");
    browser.reads("#service", |text| text.contains("film"));
    tab_to(&browser, "bandwidth");
    browser.press("3");
    tab_to(&browser, "wait");
    browser.press(SPACE);
    tab_to(&browser, "deadline");
    tab_to(&browser, "open");
    browser.press(ENTER);
    browser.reads("#said", |text| text.contains("Open: channel"));
    let rows = overlay.peer("a").ask(&["channels"]);
    assert_eq!(rows[0]["peer"], "c", "{rows}");

    browser.reads("#channels tbody", |text| text.contains("c/film"));
    tab_until(&browser, "return document.activeElement.textContent === 'Close'");
    browser.press(ENTER);
    // The button that changes nothing has the focus first.
    let focused = "return document.activeElement.value === 'no'";
    wait_for("the question", LONG, || browser.run(focused).as_bool()?.then_some(()));
    browser.press(TAB);
    browser.press(ENTER);
    browser.reads("#said", |text| text.contains("Closed:"));
}

#[test]
fn a24_a_request_in_line_says_what_blocks_it_and_can_be_taken_back() {
    let Some(browser) = Browser::start() else { return };
    let film = Collector::start();
    let overlay = three_peers(&film);
    let a = overlay.peer("a");
    a.open("c/second", "90Mbit/s", &["--name", "large"]);
    browser.open(&page(a, "peer"));
    browser.pick("#peer", "c");
    browser.pick("#service", "film");
    browser.fill("#bandwidth", "50");
    browser.click("#fit");
    browser.reads("#said", |text| text.contains("Not now"));
    browser.click("#open");
    browser.reads("#said", |text| text.contains("Rejected") && text.contains("not enough room"));
    browser.click("#wait");
    browser.click("#open");
    browser.reads("#said", |text| text.contains("stands in line"));
    browser.reads("#queue", |text| text.contains("held by large") && text.contains("a → b"));

    browser.click("#queue button");
    browser.reads("#queue", |text| text.contains("Nothing waits"));
    assert_eq!(a.ask(&["queue"]), json!([]));

    browser.fill("#bandwidth", "5000");
    browser.click("#fit");
    browser.reads("#said", |text| text.contains("never"));
}

#[test]
fn a25_links_are_added_and_removed_and_a_killed_peer_is_seen() {
    let Some(browser) = Browser::start() else { return };
    let film = Collector::start();
    let mut overlay = three_peers(&film);
    overlay.peer("a").open("c/film", "20Mbit/s", &["--name", "show"]);
    browser.open(&page(overlay.peer("a"), ""));
    // Three nodes, their links with the load in words, and the path of the channel when it is chosen.
    let nodes =
        |class: &str| format!("return document.querySelectorAll('#overlay .node{class}').length");
    let edges =
        |class: &str| format!("return document.querySelectorAll('#overlay .edge{class}').length");
    let becomes = |what: &str, script: &str, number: u64| {
        wait_for(what, LONG, || (browser.run(script) == number).then_some(()));
    };
    becomes("three peers", &nodes(".here"), 3);
    becomes("this peer", &nodes(".self"), 1);
    becomes("two edges of the tree", &edges(".tree"), 2);
    browser.reads("#links tbody", |text| text.contains("a – b") && text.contains("21 %"));
    browser.click("#channels tbody button");
    becomes("the path", &edges(".lit"), 2);

    add_link(&browser, &overlay);
    becomes("the new link", &edges(":not(.gone)"), 3);
    browser.click("button[aria-label='Remove the link to c']");
    browser.click("dialog button[value=yes]");
    browser.reads("#said", |text| text.contains("Removed: the link to c"));
    becomes("the links as before", &edges(":not(.gone)"), 2);

    overlay.kill("b");
    becomes("the killed peer", &nodes(".gone"), 2);
    browser.reads("#overlay .node.gone", |text| text.contains("unreachable"));
    browser.reads("#log", |text| text.contains("link_down"));
    browser.fill("#log-filter", "no line has this");
    browser.reads("#log", |text| text.contains("No line matches"));
    assert_eq!(browser.errors(), Vec::<String>::new());
}

#[test]
fn a25_a_new_computation_is_shown_and_can_be_played() {
    let Some(browser) = Browser::start() else { return };
    let film = Collector::start();
    let overlay = three_peers(&film);
    let a = overlay.peer("a");
    let before = a.ask(&["tree"])["session"].clone();
    browser.open(&page(a, ""));
    browser.reads("#state", |text| text == "live");
    browser.click("#recompute");
    browser.reads("#said", |text| text.contains("new computation"));
    wait_for("a new session", LONG, || (a.ask(&["tree"])["session"] != before).then_some(()));
    browser.reads("#log", |text| text.contains("tree_committed"));
    browser.click("#play");
    browser.reads("#course-words", |text| text.contains("fragment") && text.contains("level"));
    browser.click("#course-stop");
    // What is shown live while a computation runs may go on for a second.
    let drawn = "return document.querySelector('#overlay').classList.contains('course')";
    wait_for("the overlay as it was", LONG, || (browser.run(drawn) == false).then_some(()));
}

#[test]
fn a25_texts_of_others_do_not_execute() {
    let Some(browser) = Browser::start() else { return };
    let hostile: Vec<String> = texts::HOSTILE.iter().map(|&text| text.to_owned()).collect();
    let long: Vec<String> = vec!["x".repeat(5_000), "\u{1f600}".repeat(3_000), " ".repeat(4_000)];
    let seed = texts::seed();
    let mut all = vec![hostile, long];
    all.extend((0..2).map(|n| texts::made_up(seed.wrapping_add(n))));
    let stand_in = StandIn::start(Says::default());
    for (at, texts) in all.iter().enumerate() {
        stand_in.says(texts::overlay_of(texts));
        for name in ["", "peer"] {
            browser.open("about:blank");
            browser.open(&stand_in.page(name));
            browser.reads("#state", |text| text == "live");
            wait_for("the channels", LONG, || {
                browser.run("document.querySelector('#channels tbody button')?.click(); return 1");
                (browser.text("#chosen").contains("If it breaks")).then_some(())
            });
            browser.run("document.querySelector('#play')?.click(); return 1");
            common::program::pass(std::time::Duration::from_millis(600));
            let context = format!("texts {at} of seed {seed} on /{name}");
            assert_eq!(browser.run("return window.hurt ?? null"), Value::Null, "{context}");
            let foreign = "return document.querySelectorAll('img, iframe, object, embed, [onerror], \
                           [onload], \
                           [onmouseover], body script').length";
            assert_eq!(browser.run(foreign), 0, "{context}: elements made of texts");
            let wide = browser.run("return document.documentElement.scrollWidth - innerWidth");
            assert!(wide.as_i64().is_some_and(|wide| wide <= 1), "{context}: {wide} too wide");
            let script: Vec<String> = browser.errors();
            let script = script.iter().filter(|line| !line.contains("Failed to load resource"));
            assert_eq!(script.collect::<Vec<_>>(), Vec::<&String>::new(), "{context}");
        }
    }
}

#[test]
fn ten_thousand_channels_and_a_thousand_peers_do_not_freeze_the_page() {
    let Some(browser) = Browser::start() else { return };
    let stand_in = StandIn::start(crowd());
    for name in ["", "peer"] {
        browser.open("about:blank");
        browser.open(&stand_in.page(name));
        browser.reads("#channels", |text| text.contains("100 of 10,000 are shown"));
        let worst = browser.run(
            "let last = performance.now(), worst = 0; \
             window.beat = setInterval(() => { worst = Math.max(worst, performance.now() - last); \
             last = performance.now(); window.worst = worst; }, 20); return 0",
        );
        assert_eq!(worst, 0);
        browser.fill("#channels input[type=search]", "channel-09999");
        browser.reads("#channels tbody", |text| {
            text.contains("channel-09999") && !text.contains("channel-00001")
        });
        common::program::pass(std::time::Duration::from_secs(2));
        let worst = browser.run("return window.worst").as_f64().unwrap_or(f64::MAX);
        println!("/{name}: longest time without an answer {worst:.0} ms");
        assert!(worst < FREEZE_MAX_MS, "/{name} did not answer for {worst} ms");
        let drawn = browser.run("return document.querySelectorAll('*').length").as_u64();
        assert!(drawn.is_some_and(|drawn| drawn < 8_000), "/{name} has {drawn:?} elements");
        if name.is_empty() {
            browser.reads("#overlay-note", |text| text.contains("150 of 1,000 peers"));
            browser.fill("#overlay-filter", "peer-0777");
            browser.reads("#overlay", |text| text.contains("peer-0777"));
        }
    }
}

#[test]
fn a_page_that_loses_its_daemon_says_so_and_comes_back() {
    let Some(browser) = Browser::start() else { return };
    let stand_in = StandIn::start(texts::overlay_of(&["one".to_owned(), "two".to_owned()]));
    browser.open(&stand_in.page(""));
    browser.reads("#state", |text| text == "live");
    stand_in.silent(true);
    browser.reads("#state", |text| text.contains("connection lost, retrying"));
    stand_in.silent(false);
    browser.reads("#state", |text| text == "live");
}

#[test]
fn a_page_without_the_right_token_asks_for_it() {
    let Some(browser) = Browser::start() else { return };
    let stand_in = StandIn::start(texts::overlay_of(&["one".to_owned(), "two".to_owned()]));
    browser.open(&stand_in.page_without_token("peer"));
    browser.reads("#door", |text| text.contains("spanway page"));
    assert_eq!(browser.text("#page"), "");
    browser.fill("#token", "wrong");
    browser.click("#token-form button");
    browser.reads("#door", |text| text.contains("does not know the token"));
    // What `spanway page` prints, as a whole.
    browser.fill("#token", &format!("http://127.0.0.1:7080/#token={TOKEN}"));
    browser.click("#token-form button");
    browser.reads("#state", |text| text == "live");
    browser.reads("#channels", |text| text.contains("two"));
    assert_eq!(browser.text("#door"), "");
}

#[test]
fn pages_fit_a_phone_and_everything_that_can_be_used_has_a_name() {
    let Some(browser) = Browser::start() else { return };
    let stand_in = StandIn::start(texts::overlay_of(&["one".to_owned(), "two".to_owned()]));
    for name in ["", "peer"] {
        for width in [360, 1280] {
            browser.size(width, 740);
            browser.open("about:blank");
            browser.open(&stand_in.page(name));
            browser.reads("#channels tbody", |text| text.contains("two"));
            browser.run(
                "for (const one of document.querySelectorAll('details')) one.open = true; return 1",
            );
            let wide = browser.run("return document.documentElement.scrollWidth");
            assert!(
                wide.as_u64().is_some_and(|wide| wide <= u64::from(width)),
                "/{name} at {width}: {wide}"
            );
            let nameless = browser.run(
                "return [...document.querySelectorAll('button, input, select, a, summary')].filter((one) => \
                 !(one.getAttribute('aria-label') || one.labels?.length || one.textContent.trim())) \
                 .map((one) => one.outerHTML)",
            );
            assert_eq!(nameless, json!([]), "/{name}");
            let twice = browser.run(
                "const ids = [...document.querySelectorAll('[id]')].map((one) => one.id); \
                 return ids.filter((id, at) => ids.indexOf(id) !== at)",
            );
            assert_eq!(twice, json!([]), "/{name}");
            let headless = browser.run(
                "return [...document.querySelectorAll('table')].filter((one) => \
                 !one.querySelector('thead th[scope=col]') || \
                 !one.querySelector('tbody th[scope=row]')).length",
            );
            assert_eq!(headless, 0, "/{name}");
        }
    }
}

#[test]
fn pictures_of_readme() {
    pictures::write();
}

/// `a - b - c`, and the pages of `a`.
fn three_peers(film: &Collector) -> Overlay {
    Plan::new(&["a", "b", "c"])
        .link("a", "b", "100Mbit/s")
        .link("b", "c", "100Mbit/s")
        .section("a", &format!("[api]\nlisten = \"127.0.0.1:{}\"", free_port()))
        .section("c", &services(film))
        .on_loopback()
}

/// Two that deliver to the same program.
fn services(film: &Collector) -> String {
    let service = |name| format!("[service.{name}]\ndeliver = \"{}\"\n", film.address);
    service("film") + &service("second")
}

/// What `spanway page` prints, for one of the pages.
fn page(peer: &Peer, name: &str) -> String {
    let printed = output(&mut peer.client(&["page"]));
    let (address, token) = printed.trim().split_once('#').expect("an address with a token");
    format!("{address}{name}#{token}")
}

/// From `a` to `c`: in the page of the one, by the command of the other.
fn add_link(browser: &Browser, overlay: &Overlay) {
    let (a, c) = (overlay.peer("a").ask(&["status"]), overlay.peer("c").ask(&["status"]));
    let text = |status: &Value, field: &str| status[field].as_str().expect("a text").to_owned();
    browser.click("#add summary");
    browser.fill("#link-peer", "c");
    browser.fill("#link-key", &text(&c, "key"));
    browser.fill("#link-address", &text(&c, "listen"));
    browser.fill("#link-capacity", "40");
    browser.click("#add-form button");
    browser.reads("#said", |text| text.contains("Added: a link to c"));
    let arguments = ["link", "add", "a", "--capacity", "40Mbit/s"];
    let mut other: Command = overlay.peer("c").client(&arguments);
    output(other.args(["--key", &text(&a, "key"), "--address", &text(&a, "listen")]));
}

fn tab_to(browser: &Browser, id: &str) {
    for _ in 0..60 {
        if browser.focus() == id {
            return;
        }
        browser.press(TAB);
    }
    panic!("no way to {id} by the keyboard");
}

fn tab_until(browser: &Browser, script: &str) {
    for _ in 0..80 {
        if browser.run(script) == true {
            return;
        }
        browser.press(TAB);
    }
    panic!("no way by the keyboard to: {script}");
}

/// A thousand peers in a ring with chords, ten thousand channels.
fn crowd() -> Says {
    let name = |n: usize| format!("peer-{:04}", n % 1_000);
    let peers: Vec<Value> = (0..1_000).map(|n| texts::peer(&name(n), false)).collect();
    let links: Vec<Value> = (0..1_000)
        .flat_map(|n| [1, 7, 31].map(|step| texts::link(&name(n), &name(n + step), step == 1)))
        .collect();
    let mut says = texts::overlay_of(&[name(0), name(1)]);
    let channels = says.live.iter().find(|(kind, _)| kind == "channels").expect("channels");
    let like = channels.1[1].clone();
    let channels: Vec<Value> = (0..10_000)
        .map(|n| {
            let mut row = like.clone();
            row["id"] = json!(format!("{}:{n}", name(n)));
            row["name"] = json!(format!("channel-{n:05}"));
            row
        })
        .collect();
    let rows: Vec<Value> =
        (0..1_000).map(|n| json!({"name": name(n), "state": "reachable"})).collect();
    for (kind, value) in &mut says.live {
        match kind.as_str() {
            "graph" => *value = texts::graph(&peers, &links),
            "channels" => *value = json!(channels),
            _ => {}
        }
    }
    says.routes.insert("peers".to_owned(), json!(rows));
    says
}
