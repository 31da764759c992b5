//! Writes the pictures of the pages that README shows, when asked for: an overlay with some life in it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::common::overlay::Plan;
use super::common::program::pass;
use super::common::stream::{Collector, Pacer};
use super::driver::{Browser, free_port};

/// Time for the plots to have something to show.
const LIFE: Duration = Duration::from_secs(75);

/// Nothing, unless `SPANWAY_WRITE_PICTURES` is set.
pub(crate) fn write() {
    if std::env::var_os("SPANWAY_WRITE_PICTURES").is_none() {
        return;
    }
    let browser = Browser::start().expect("a browser");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/pictures");
    fs::create_dir_all(&folder).expect("the folder");
    let film = Collector::start();
    let service = format!("[service.film]\ndeliver = \"{}\"\n[service.inbox]", film.address);
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
    let overlay = plan.section("vienna", &service).section("milan", &service).on_loopback();
    let berlin = overlay.peer("berlin");
    let mut pacers = Vec::new();
    for (name, to, rate, per_second) in [
        ("camera", "vienna/film", "40Mbit/s", 2_000),
        ("game", "milan/film", "12Mbit/s", 700),
        ("backup", "milan/inbox", "35Mbit/s", 50),
    ] {
        let opened = berlin.open(to, rate, &["--name", name]);
        let listen = opened["listen"].as_str().expect("an address").parse().expect("an address");
        pacers.push(Pacer::start(listen, 1, per_second));
    }
    let mut waiting = berlin.client(&[
        "open",
        "vienna/inbox",
        "--bandwidth",
        "45Mbit/s",
        "--name",
        "archive",
        "--wait=10m",
    ]);
    let mut waiting = waiting.stdout(std::process::Stdio::null()).spawn().expect("spanway starts");

    browser.size(1280, 860);
    browser.open(&super::page(berlin, ""));
    browser.reads("#queue, #figures", |text| text.contains('1'));
    browser.click("#channels tbody button");
    pass(Duration::from_secs(3));
    browser.write_picture(&folder.join("overlay.png"));
    browser.dark(true);
    pass(Duration::from_secs(2));
    browser.write_picture(&folder.join("overlay-dark.png"));
    browser.dark(false);
    browser.open("about:blank");
    browser.open(&super::page(overlay.peer("vienna"), "peer"));
    browser.click("#channels tbody button");
    pass(LIFE);
    browser.size(1280, 1250);
    pass(Duration::from_secs(2));
    browser.write_picture(&folder.join("channel.png"));
    browser.open("about:blank");
    browser.open(&super::page(berlin, "peer"));
    browser.pick("#peer", "vienna");
    browser.pick("#service", "film");
    browser.fill("#bandwidth", "60");
    browser.click("#fit");
    browser.reads("#said", |text| text.contains("Not now"));
    browser.size(1280, 860);
    pass(Duration::from_secs(3));
    browser.write_picture(&folder.join("channels.png"));
    browser.size(360, 740);
    browser.open("about:blank");
    browser.open(&super::page(berlin, ""));
    browser.click("#channels tbody button");
    pass(Duration::from_secs(2));
    browser.run(
        "scrollTo(0, document.querySelector('#overlay').closest('.card').offsetTop - 8); return 1",
    );
    pass(Duration::from_secs(1));
    browser.write_picture(&folder.join("phone.png"));
    let _ = waiting.kill();
    let _ = waiting.wait();
    for pacer in pacers {
        pacer.stop();
    }
    film.stop();
}
