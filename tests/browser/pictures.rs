//! Writes the pictures of the pages that README shows, when asked for: an overlay with some life in it.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::common::overlay::{Overlay, Peer, Plan};
use super::common::program::pass;
use super::common::stream::{Collector, Pacer};
use super::driver::{Browser, free_port};

/// Time for the plots to have something to show.
const LIFE: Duration = Duration::from_secs(75);
const MOMENT: Duration = Duration::from_secs(2);

/// Nothing, unless `SPANWAY_WRITE_PICTURES` is set.
pub(crate) fn write() {
    if std::env::var_os("SPANWAY_WRITE_PICTURES").is_none() {
        return;
    }
    let browser = Browser::start().expect("a browser");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/pictures");
    fs::create_dir_all(&folder).expect("the folder");
    let film = Collector::start();
    let overlay = cities(&film);
    let berlin = overlay.peer("berlin");
    let (pacers, mut waiting) = life(berlin);
    of_overlay(&browser, berlin, &folder);
    of_channels(&browser, &overlay, &folder);
    // It waits for as long as it takes.
    let _ = waiting.kill();
    let _ = waiting.wait();
    for pacer in pacers {
        pacer.stop();
    }
    film.stop();
}

fn of_overlay(browser: &Browser, berlin: &Peer, folder: &Path) {
    browser.size(1280, 860);
    browser.open(&super::page(berlin, ""));
    browser.click("#channels tbody button");
    pass(MOMENT);
    browser.run("scrollTo(0, 0); return 1");
    browser.write_picture(&folder.join("overlay.png"));
    browser.dark(true);
    pass(MOMENT);
    browser.write_picture(&folder.join("overlay-dark.png"));
    browser.dark(false);
    browser.size(360, 740);
    pass(MOMENT);
    let to_picture =
        "scrollTo(0, document.querySelector('#overlay').closest('.card').offsetTop - 8); return 1";
    browser.run(to_picture);
    browser.write_picture(&folder.join("phone.png"));
}

fn of_channels(browser: &Browser, overlay: &Overlay, folder: &Path) {
    browser.size(1280, 1250);
    browser.open(&super::page(overlay.peer("vienna"), "peer"));
    browser.click("#channels tbody button");
    pass(LIFE);
    browser.write_picture(&folder.join("channel.png"));
    browser.size(1280, 860);
    browser.open(&super::page(overlay.peer("berlin"), "peer"));
    browser.pick("#peer", "vienna");
    browser.pick("#service", "film");
    browser.fill("#bandwidth", "60");
    browser.click("#fit");
    browser.reads("#said", |text| text.contains("Not now"));
    pass(MOMENT);
    browser.run("scrollTo(0, 0); return 1");
    browser.write_picture(&folder.join("channels.png"));
}

fn cities(film: &Collector) -> Overlay {
    let links = [
        ("berlin", "prague", "100Mbit/s"),
        ("berlin", "hamburg", "50Mbit/s"),
        ("prague", "vienna", "200Mbit/s"),
        ("prague", "brno", "40Mbit/s"),
        ("brno", "vienna", "100Mbit/s"),
        ("vienna", "zurich", "1Gbit/s"),
        ("zurich", "milan", "400Mbit/s"),
        ("hamburg", "zurich", "30Mbit/s"),
        ("vienna", "milan", "60Mbit/s"),
    ];
    let mut plan = Plan::new(&["berlin", "brno", "hamburg", "milan", "prague", "vienna", "zurich"]);
    for (one, other, capacity) in links {
        plan = plan.link(one, other, capacity);
    }
    for (peer, port) in [("berlin", free_port()), ("vienna", free_port())] {
        plan = plan.section(peer, &format!("[api]\nlisten = \"127.0.0.1:{port}\""));
    }
    let to = film.address;
    let service = format!("[service.film]\ndeliver = \"{to}\"\n[service.show]\ndeliver = \"{to}\"");
    plan.section("vienna", &service).section("milan", &service).on_loopback()
}

/// Channels with streams in them, and a request that waits for room.
fn life(berlin: &Peer) -> (Vec<Pacer>, Child) {
    let mut pacers = Vec::new();
    for (name, to, rate, per_second) in [
        ("camera", "vienna/film", "40Mbit/s", 2_000),
        ("game", "milan/film", "12Mbit/s", 700),
        ("backup", "milan/show", "35Mbit/s", 300),
    ] {
        let opened = berlin.open(to, rate, &["--name", name]);
        let listen = opened["listen"].as_str().expect("an address").parse().expect("an address");
        pacers.push(Pacer::start(listen, 1, per_second));
    }
    let arguments =
        ["open", "vienna/show", "--bandwidth", "45Mbit/s", "--name", "archive", "--wait=10m"];
    let mut waiting = berlin.client(&arguments);
    let waiting = waiting.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    (pacers, waiting.expect("spanway starts"))
}
