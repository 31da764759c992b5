//! What strangers and lying neighbours do to a peer: nothing. Real daemons with a checked stream through the
//! one that is attacked; rows are those of the table of bad inputs in the threat model.
//!
//! ```text
//! program ══► a ══════════ r ══════════ z ══► program        every datagram arrives, in order
//!                        ↑   ↑
//!               strangers     a neighbour that lies
//! ```

#![allow(clippy::print_stdout, reason = "a test tells what it measured, or that it is skipped")]
#![expect(clippy::disallowed_methods, reason = "real daemons live in real time")]

mod common;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use common::liar::{Identity, Liar};
use common::overlay::{Overlay, Peer, Plan};
use common::program::{pass, wait_for};
use common::stream::{Collector, Pacer};
use common::wiring::data_frame;
use ed25519_dalek::Signer as _;
use serde_json::{Value, json};
use spanway::api::client::Client;
use spanway::api::dto::Request;
use spanway::proto::start::Signed;
use spanway::types::{
    Bandwidth, ChannelId, Label, PeerName, PublicKey, ServiceName, SessionId, TxId,
};
use spanway::wire::control::{Ghs, Hello, Manner, Message, Release, ReleaseCause, Reserve, Start};
use spanway::wire::facts::{Fact, Gossip, LinkFact, PeerFact, Told};
use spanway::wire::heartbeat::{Heartbeat, HeartbeatKey};
use spanway::wire::measure::Probe;
use spanway::wire::proof::{Proof, closed_statement, reserve_statement};

const PATIENCE: Duration = Duration::from_secs(20);

/// The overlay of the picture, with a stream through it.
struct Scene {
    overlay: Overlay,
    sink: Collector,
    stream: Pacer,
    tx: TxId,
}

impl Scene {
    fn start(more: &str) -> Self {
        let sink = Collector::start();
        let service = format!("[service.video]\ndeliver = \"{}\"", sink.address);
        let mut plan = Plan::new(&["a", "r", "z"])
            .link("a", "r", "100 Mbit/s")
            .link("r", "z", "100 Mbit/s")
            .section("z", &service);
        plan = plan.section("r", &known_liar());
        for peer in ["a", "r", "z"] {
            plan = plan.section(peer, more);
        }
        let overlay = plan.on_loopback();
        let opened = overlay.peer("a").open("z/video", "4 Mbit/s", &[]);
        let listen = opened["listen"].as_str().and_then(|at| at.parse().ok()).expect("an address");
        let tx = tx_of(opened["channel"].as_str().expect("its id"));
        let stream = Pacer::start(listen, 1, 500);
        Self { overlay, sink, stream, tx }
    }

    fn relay(&self) -> &Peer {
        self.overlay.peer("r")
    }

    /// Where the relay takes connections, and frames.
    fn address(&self) -> SocketAddr {
        let status = self.relay().ask(&["status"]);
        status["listen"].as_str().and_then(|at| at.parse().ok()).expect("an address")
    }

    /// The drops of the relay's worker, by reason, and all its datagrams.
    fn counters(&self) -> (BTreeMap<String, u64>, u64) {
        let status = self.relay().ask(&["status"]);
        let worker = &status["workers"][0];
        let dropped = worker["dropped"].as_object().expect("counters").iter();
        let dropped = dropped.map(|(reason, n)| (reason.clone(), n.as_u64().expect("a count")));
        (dropped.collect(), worker["datagrams"].as_u64().expect("a count"))
    }

    /// All that must be the same behind a lie. The tree comes again a moment later, as after every link.
    fn state(&self) -> Value {
        let of = |peer: &Peer| {
            let links = peer.ask(&["links"]);
            let links =
                links.as_array().into_iter().flatten().filter(|link| link["peer"] != "liar");
            let links: Vec<Value> = links
                .map(|link| {
                    let [state, capacity, out, back] =
                        ["state", "capacity_bps", "free_out_bps", "free_in_bps"]
                            .map(|key| &link[key]);
                    json!([link["peer"], state, capacity, out, back])
                })
                .collect();
            let channels = peer.ask(&["channels"]);
            let channels = channels.as_array().into_iter().flatten();
            let channels: Vec<Value> =
                channels.map(|row| json!([row["id"], row["path"], row["state"]])).collect();
            json!([links, channels])
        };
        self.overlay.peers().iter().map(of).collect()
    }

    /// Stops the stream: every datagram arrived once and in order, and the books add up.
    fn end(self) {
        let sent = self.stream.stop();
        pass(Duration::from_millis(300));
        let got = self.sink.stop();
        let expected: Vec<(u8, u64)> = (0..sent).map(|number| (1, number)).collect();
        let first = got.iter().zip(&expected).position(|(got, expected)| got != expected);
        assert_eq!((got.len(), first), (expected.len(), None), "the stream has a gap");
        for peer in self.overlay.peers() {
            let ledger = wait_for("books that add up", PATIENCE, || {
                let (_, ledger) = peer.answer(&["channels", "--ledger"]);
                (ledger["adds_up"] == true).then_some(ledger)
            });
            assert!(ledger["channels"].is_array(), "{ledger}");
        }
    }
}

fn liar() -> Identity {
    Identity::new("liar", 0x51)
}

/// A link of the relay that only the liar can dial.
fn known_liar() -> String {
    let key = liar().public_key();
    format!("[[link]]\npeer = \"liar\"\ncapacity = \"100 Mbit/s\"\nkey = \"{key}\"")
}

fn tx_of(id: &str) -> TxId {
    let mut parts = id.split(':');
    let source = PeerName::new(parts.next().expect("a peer")).expect("a name");
    let boot = u64::from_str_radix(parts.next().expect("a boot"), 16).expect("hexadecimal");
    let count = parts.next().expect("a count").parse().expect("a number");
    TxId { channel: ChannelId { source, boot, count }, attempt: 1 }
}

fn name(text: &str) -> PeerName {
    PeerName::new(text).expect("a name")
}

// --- Strangers: datagrams ---

/// Rows 25 to 27, as far as somebody without a link can send them.
#[test]
fn rows_25_to_27_a_stranger_hears_nothing_and_moves_nothing() {
    strangers_datagrams("");
    // Two workers where there are CPUs for them: tags are checked where a label lives.
    let two = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() >= 2);
    let cpus = if two { "cpus = [0, 1]" } else { "" };
    strangers_datagrams(&format!("[engine]\nhop_tag = true\n{cpus}"));
}

fn strangers_datagrams(more: &str) {
    let scene = Scene::start(more);
    let to = scene.address();
    let (mut expected, _) = scene.counters();
    let sockets: Vec<UdpSocket> = (0..3).map(|_| stranger()).collect();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = |bytes: usize| -> Vec<u8> {
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random.to_be_bytes()[0]
        };
        (0..bytes).map(|_| next()).collect()
    };
    let mut send = |bytes: &[u8], reason: &str, times: u64| {
        for (_, socket) in (0..times).zip(sockets.iter().cycle()) {
            socket.send_to(bytes, to).expect("loopback takes it");
            // A socket's buffer is not the thing that is tested.
            pass(Duration::from_micros(200));
        }
        *expected.entry(reason.to_owned()).or_default() += times;
    };
    for bytes in [0, 1, 15, 47, 65_507] {
        send(&vec![0x5a; bytes], "malformed", 20);
    }
    for _ in 0..50 {
        let mut bytes = noise(200);
        // No frame by its first byte.
        bytes[0] |= 0xf0;
        send(&bytes, "malformed", 1);
    }
    for _ in 0..50 {
        let label = u64::from_be_bytes(noise(8).try_into().expect("eight")) >> 8;
        send(&data_frame(label, 64, &[0; 200]), "unknown_label", 1);
    }
    send(&data_frame(0, 0, b"no hops left"), "unknown_label", 5);
    let mut longer = data_frame(9, 64, &[0; 200]);
    longer.push(0);
    send(&longer, "malformed", 5);
    let beat = Heartbeat {
        label: Label(9),
        sequence: u64::MAX,
        heard: 0,
        heard_age_us: 0,
        overloaded: false,
    };
    send(&beat.emit(&HeartbeatKey([9; 32])), "bad_heartbeat", 20);
    let mut probe = [0; 100];
    Probe { label: Label(9), train: 1, position: 0, of: 20 }
        .emit(&HeartbeatKey([9; 32]), &mut probe);
    send(&probe, "bad_probe", 20);
    lone_fragment(to);
    let counted = wait_for("all of it counted by reason", PATIENCE, || {
        let (dropped, datagrams) = scene.counters();
        let sum = |of: &BTreeMap<String, u64>| of.values().sum::<u64>();
        (sum(&dropped) >= sum(&expected)).then_some((dropped, datagrams))
    });
    assert_eq!(counted.0, expected);
    for socket in &sockets {
        let heard = socket.recv(&mut [0; 2_048]);
        let nothing = heard.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(nothing, "a stranger was answered: {heard:?}");
    }
    scene.end();
}

fn stranger() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_nonblocking(true).expect("an option");
    socket
}

/// The first fragment of a datagram of which no second one comes.
fn lone_fragment(to: SocketAddr) {
    let (domain, kind) = (socket2::Domain::IPV4, socket2::Type::RAW);
    let raw = socket2::Socket::new(domain, kind, Some(socket2::Protocol::UDP))
        .and_then(|raw| raw.set_header_included_v4(true).map(|()| raw));
    let Ok(raw) = raw else { return println!("skipped: the fragment needs a raw socket") };
    let payload = [0x11; 64];
    let port = to.port().to_be_bytes();
    let udp = [&[0x30, 0x39][..], &port, &[0x10, 0, 0, 0], &payload].concat();
    let length = u16::try_from(20 + udp.len()).expect("short").to_be_bytes();
    let loopback = Ipv4Addr::LOCALHOST.octets();
    // More fragments follow, says its flag.
    let ip = [&[0x45, 0][..], &length, &[0x12, 0x34, 0x20, 0, 64, 17, 0, 0], &loopback, &loopback];
    let packet = [&ip.concat()[..], &udp].concat();
    let sent = raw.send_to(&packet, &to.into());
    println!("a lone fragment: {sent:?}");
}

// --- Strangers: connections ---

#[test]
fn a_stranger_that_connects_gets_no_byte_and_no_time() {
    let scene = Scene::start("");
    let to = scene.address();
    let speeches: [&[u8]; 5] = [
        b"",
        b"GET / HTTP/1.1\r\nHost: spanway\r\n\r\n",
        &[0, 0],
        &[0xff; 2_000],
        // The length of a first message, and nothing of its kind behind it.
        &[&[0, 64][..], &[7; 64]].concat(),
    ];
    let begun = Instant::now();
    for speech in speeches {
        let mut stream = TcpStream::connect(to).expect("it listens");
        stream.write_all(speech).expect("written");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time above zero");
        let mut heard = Vec::new();
        // An end or a reset: the daemon did not read all of it.
        let _ = stream.read_to_end(&mut heard);
        assert_eq!(heard, b"", "{speech:?} was answered");
    }
    assert!(begun.elapsed() < Duration::from_secs(5 + 5), "five seconds for the silent one");
    scene.end();
}

#[test]
fn one_network_cannot_lock_out_the_neighbours() {
    let mut scene = Scene::start("");
    let to = scene.address();
    let from = Ipv4Addr::new(127, 0, 0, 9);
    let idle: Vec<TcpStream> = (0..60).filter_map(|_| connect_from(from, to).ok()).collect();
    assert!(idle.len() > 16, "the kernel takes them");
    let refused = |scene: &Scene, result: &str| {
        scene.relay().ask(&["status"])["control"]["handshakes"][result].as_u64().expect("a count")
    };
    wait_for("those above the bound refused", PATIENCE, || {
        (refused(&scene, "refused_at_once") >= 60 - 16 - 4).then_some(())
    });
    // A neighbour behind the same network that has just lost its link.
    scene.overlay.kill("a");
    let begun = Instant::now();
    scene.overlay.run("a");
    wait_for("the neighbour back", PATIENCE, || {
        let links = scene.relay().ask(&["links"]);
        let a = links.as_array()?.iter().find(|link| link["peer"] == "a")?.clone();
        (a["state"] == "up" && a["connection"].is_string()).then_some(())
    });
    println!("a neighbour was back after {:?}", begun.elapsed());
    drop(idle);
    // Nor by the second.
    for _ in 0..200 {
        drop(connect_from(from, to));
    }
    wait_for("too many a second refused", PATIENCE, || {
        (refused(&scene, "refused_rate") > 0).then_some(())
    });
    assert!(scene.relay().log().contains("too many connections"), "it says so");
    let lines = scene.relay().log().matches("too many connections").count();
    assert!(lines <= 4, "{lines} lines of the same complaint");
    let text =
        String::from_utf8(scene.relay().client(&["status"]).output().expect("it runs").stdout);
    assert!(text.expect("text").contains("not answered"), "status says so too");
}

fn connect_from(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect_timeout(&to.into(), Duration::from_secs(1))?;
    Ok(socket.into())
}

// --- A neighbour that lies ---

/// What becomes of a lie.
enum Fate {
    /// The link is closed, and the log says why.
    Closed(&'static str),
    /// It is let in, and nothing comes of it; the link stays until its heartbeats are missed.
    Ignored,
    /// A refusal is answered, with these words of it.
    Answered(&'static str),
}

type Lie = fn(&Scene, &mut Liar);

/// Rows 17 to 24.
const LIES: &[(&str, Lie, Fate)] = &[
    ("18 zero length", |_, liar| raw(liar, &[0, 0]), Fate::Closed("0 bytes")),
    ("18 largest length", |_, liar| raw(liar, &[0xff; 6]), Fate::Closed("65535 bytes")),
    ("18 cut in the middle", |_, liar| raw(liar, &[0, 100, 1, 2, 3]), Fate::Closed("was cut")),
    (
        "18 not sealed",
        |_, liar| raw(liar, &[&[0, 40][..], &[1; 40]].concat()),
        Fate::Closed("decrypt"),
    ),
    ("19 unknown type", |_, liar| bytes(liar, &[0xee, 0xee]), Fate::Closed("control versions 1-6")),
    (
        "19 trailing bytes",
        |_, liar| bytes(liar, &[0, 3, 0, 0, 0, 0, 0, 0, 0, 1, 9]),
        Fate::Closed("not understood"),
    ),
    (
        "20 a second Hello",
        |_, liar| say(liar, Message::Hello(self::liar().hello())),
        Fate::Closed("second Hello"),
    ),
    (
        "20 Accept without its START",
        |_, liar| ghs(liar, 1 << 40, Ghs::Accept),
        Fate::Closed("without its START"),
    ),
    (
        "20 level 200",
        |_, liar| ghs(liar, 1 << 40, Ghs::Connect { level: 200 }),
        Fate::Closed("level is not valid"),
    ),
    (
        "20 Accept without a Test",
        |scene, liar| in_session(scene, liar, Ghs::Accept),
        Fate::Closed("protocol error"),
    ),
    (
        "20 Report of no branch",
        |scene, liar| in_session(scene, liar, Ghs::Report { best: None }),
        Fate::Closed("protocol error"),
    ),
    (
        "20 ChangeRoot of no branch",
        |scene, liar| in_session(scene, liar, Ghs::ChangeRoot),
        Fate::Closed("protocol error"),
    ),
    ("21 stale session", |_, liar| say(liar, start(0)), Fate::Ignored),
    ("21 counter + 2^40", |_, liar| say(liar, start(1 << 40)), Fate::Ignored),
    ("21 counter at its end", |_, liar| say(liar, start(u64::MAX)), Fate::Ignored),
    ("21 bad signature", |scene, liar| say(liar, forged_start(scene)), Fate::Ignored),
    (
        "22 a path with a loop",
        |scene, liar| say(liar, reserve(scene, &["liar", "r", "z", "r"], 1)),
        Fate::Closed("path with a loop"),
    ),
    (
        "22 a non-neighbour",
        |scene, liar| say(liar, reserve(scene, &["liar", "r", "q", "z"], 1)),
        Fate::Answered("no link to q is up"),
    ),
    (
        "22 not its receiver",
        |scene, liar| say(liar, reserve(scene, &["liar", "z", "r"], 1)),
        Fate::Answered("this peer is not next"),
    ),
    (
        "22 1,000 hops",
        |scene, liar| say(liar, long_reserve(scene)),
        Fate::Closed("path is not valid"),
    ),
    ("22 an expired one", |scene, liar| say(liar, late_reserve(scene)), Fate::Ignored),
    ("23 RELEASE of another's channel", release, Fate::Ignored),
    (
        "23 REFRESH of another's channel",
        |scene, liar| say(liar, Message::Refresh(vec![scene.tx.clone()])),
        Fate::Ignored,
    ),
    (
        "24 a fact without its signature",
        |_, liar| say(liar, facts(vec![peer_fact("a")])),
        Fate::Ignored,
    ),
    ("24 a link of others", |_, liar| say(liar, facts(vec![link_fact("a", "z")])), Fate::Ignored),
    (
        "24 a link to itself",
        |_, liar| say(liar, facts(vec![link_fact("liar", "liar")])),
        Fate::Ignored,
    ),
];

#[test]
fn rows_18_to_24_a_lie_of_a_neighbour_changes_nothing() {
    let scene = Scene::start("");
    let to = scene.address();
    let before = scene.state();
    for (lie, tell, fate) in LIES {
        let said_before = scene.relay().log().len();
        let mut liar = linked(to);
        tell(&scene, &mut liar);
        match fate {
            Fate::Closed(text) => {
                let heard = liar.hear_all(PATIENCE);
                assert!(heard.is_some(), "{lie}: the link was not closed");
                wait_for(lie, PATIENCE, || {
                    scene.relay().log()[said_before..].contains(text).then_some(())
                });
            }
            Fate::Ignored => {
                let heard = liar.hear_all(Duration::from_millis(300));
                let refused = heard.iter().flatten().any(|m| matches!(m, Message::Bye(_)));
                assert!(!refused, "{lie}: {heard:?}");
            }
            Fate::Answered(text) => {
                let nack = std::iter::from_fn(|| liar.hear().ok()).find_map(|message| {
                    if let Message::Nack(nack) = message { Some(nack) } else { None }
                });
                let nack = nack.unwrap_or_else(|| panic!("{lie}: no NACK"));
                assert_eq!(nack.at, name("r"), "{lie}: which hop refused");
                assert!(nack.detail.contains(text), "{lie}: {nack:?}");
            }
        }
        drop(liar);
        wait_for(lie, PATIENCE, || gone(&scene).then_some(()));
        let after = wait_for(lie, PATIENCE, || {
            let after = scene.state();
            (after == before).then_some(after)
        });
        assert_eq!(after, before, "{lie}");
    }
    // The liar's last words are no part of the picture, nor of the tree.
    scene.overlay.settle();
    let names = scene.relay().ask(&["peers"]);
    assert!(
        !names.to_string().contains("ghost") && !names.to_string().contains("\"q\""),
        "{names}"
    );
    scene.end();
}

/// Row 17: the other end's key is not the one that was written down.
#[test]
fn row_17_a_wrong_key_is_refused_by_name_and_does_not_storm() {
    let scene = Scene::start("");
    let to = scene.address();
    let other = Identity::new("liar", 0x52);
    let mut refused = 0;
    for _ in 0..100 {
        match other.dial(to) {
            Err(why) if why.contains("another key") => refused += 1,
            Err(_) => {}
            Ok(_) => panic!("let in with a wrong key"),
        }
    }
    // The door counts them as strangers of their address; loopback has two neighbours of this peer.
    assert!((1..=60 + 20).contains(&refused), "{refused}");
    let log = scene.relay().log();
    let (a, b) = (other.public_key().fingerprint(), liar().public_key().fingerprint());
    assert!(log.contains(&a) && log.contains(&b), "both fingerprints: {log}");
    assert!(log.matches("handshake refused").count() <= 3, "said once in a while");
    scene.end();
}

/// Its frames and heartbeats would go round in the peer for ever.
#[test]
fn a_neighbour_cannot_point_a_peer_at_its_own_ports() {
    let scene = Scene::start("");
    let to = scene.address();
    let mut liar = wait_for("let in", PATIENCE, || liar().dial(to).ok());
    let hello = Hello { data_port: to.port(), ..self::liar().hello() };
    say(&mut liar, Message::Hello(hello));
    assert!(liar.hear_all(PATIENCE).is_some(), "the link is closed");
    let links = wait_for("the reason", PATIENCE, || {
        let links = scene.relay().ask(&["links"]).to_string();
        links.contains("this peer's own").then_some(links)
    });
    assert!(links.contains("the neighbour wants frames at"), "{links}");
    assert!(gone(&scene));
    scene.end();
}

/// At most one session of an initiator in 200 ms, whatever it asks for; the streams notice none of them.
#[test]
fn row_21_a_storm_of_sessions_is_five_a_second() {
    let scene = Scene::start("");
    let before = scene.relay().ask(&["statistics"])["sessions"].clone();
    let begun = Instant::now();
    let mut liar = linked(scene.address());
    let mut told = 0;
    while begun.elapsed() < Duration::from_millis(900) {
        told += 1;
        let _ = liar.say(&start(session_now(&scene) + 1_000 + told));
    }
    drop(liar);
    wait_for("the link gone", PATIENCE, || gone(&scene).then_some(()));
    let after = scene.relay().ask(&["statistics"])["sessions"].clone();
    let more = |key: &str| after[key].as_u64().unwrap_or(0) - before[key].as_u64().unwrap_or(0);
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{told} calls in {seconds:.1} s: {} adopted, {} coalesced",
        more("adopted"),
        more("coalesced")
    );
    // Those of others come on top: two links that went up and down, each end's word.
    assert!(more("adopted") as f64 <= 5.0 * seconds + 8.0, "{after}");
    assert_eq!((more("alarms"), more("watchdog")), (0, 0));
    scene.overlay.settle();
    scene.end();
}

/// One neighbour that says as much as it can: the others' questions are answered as before.
#[test]
fn a_flood_of_messages_costs_the_neighbour_that_sends_them() {
    let scene = Scene::start("");
    let quiet = asked(scene.overlay.peer("a"), 200);
    let mut liar = linked(scene.address());
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let flood = std::thread::spawn(move || {
        // Thirty signatures to look at in each.
        let message = facts((0..30).map(|at| peer_fact(&format!("ghost-{at}"))).collect());
        let mut said = 0_u64;
        while !told.load(Relaxed) && liar.say(&message).is_ok() {
            said += 1;
        }
        said
    });
    pass(Duration::from_millis(100));
    let loud = asked(scene.overlay.peer("a"), 200);
    stop.store(true, Relaxed);
    let links = scene.relay().ask(&["links"]);
    let said = flood.join().expect("no panic");
    println!("{said} messages; a question took {quiet:?} before and {loud:?} meanwhile");
    // Two cores for all of it: figures are those of `cargo xtask flood`.
    assert!(loud < quiet * 10 + Duration::from_millis(5), "{quiet:?} before, {loud:?} meanwhile");
    assert!(links.as_array().is_some_and(|links| links.len() == 3), "{links}");
    scene.end();
}

/// The median of questions over one hop.
fn asked(peer: &Peer, times: usize) -> Duration {
    let mut took: Vec<Duration> = (0..times)
        .map(|_| {
            let begun = Instant::now();
            let client = Client::connect(&peer.socket()).expect("it runs");
            let request = Request::Services { peer: name("r") };
            let answer: Result<Value, _> = client.request(&request);
            assert!(answer.is_ok(), "{answer:?}");
            begun.elapsed()
        })
        .collect();
    took.sort();
    took[times / 2]
}

/// A link that is up, of which nothing was read yet; tried again while the door has no place.
fn linked(to: SocketAddr) -> Liar {
    wait_for("a link of the liar", PATIENCE, || liar().link(to).ok())
}

fn gone(scene: &Scene) -> bool {
    let links = scene.relay().ask(&["links"]);
    let state = links.as_array().into_iter().flatten().find(|link| link["peer"] == "liar");
    state.is_some_and(|link| link["state"] == "down")
}

fn raw(liar: &mut Liar, bytes: &[u8]) {
    liar.stream.write_all(bytes).expect("written");
    liar.stream.shutdown(Shutdown::Write).expect("shut down");
}

fn bytes(liar: &mut Liar, plain: &[u8]) {
    liar.say_bytes(plain).expect("written");
}

#[expect(clippy::needless_pass_by_value, reason = "made for it")]
fn say(liar: &mut Liar, message: Message) {
    liar.say(&message).expect("written");
}

fn ghs(liar: &mut Liar, counter: u64, body: Ghs) {
    let session = SessionId { counter, initiator: name("liar") };
    say(liar, Message::Ghs { session, body });
}

/// Said in a session that the relay has joined; the one that the new link began is left behind first.
fn in_session(scene: &Scene, liar: &mut Liar, body: Ghs) {
    let heard = liar.hear_all(Duration::from_millis(300)).unwrap_or_default();
    assert!(heard.is_empty(), "the relay closed the link: {heard:?}");
    // Above what earlier lies began, which no tree was made of.
    static LIES_TOLD: AtomicU64 = AtomicU64::new(0);
    let counter = session_now(scene) + 10_000 * LIES_TOLD.fetch_add(1, Relaxed) + 10_000;
    liar.stream.set_read_timeout(Some(PATIENCE)).expect("a time above zero");
    say(liar, start(counter));
    let joined = std::iter::from_fn(|| liar.hear().ok()).any(
        |message| matches!(message, Message::Start(start) if start.session.counter >= counter),
    );
    assert!(joined, "the relay answers START");
    ghs(liar, counter, body);
}

fn session_now(scene: &Scene) -> u64 {
    let session = scene.relay().ask(&["status"])["session"].as_str().unwrap_or("0").to_owned();
    let digits: String = session.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a session begins with its counter")
}

fn start(counter: u64) -> Message {
    let session = SessionId { counter, initiator: name("liar") };
    let signed = Signed::sign(session, &liar().key);
    Message::Start(signed.start(Bandwidth::from_bps(90_000_000)))
}

/// In the name of a peer that did not start it.
fn forged_start(scene: &Scene) -> Message {
    let session = SessionId { counter: session_now(scene) + 5, initiator: name("q") };
    let capacity = Bandwidth::from_bps(90_000_000);
    let initiator_key = liar().public_key();
    Message::Start(Start { session, capacity, initiator_key, signature: [7; 64] })
}

fn reserve(scene: &Scene, path: &[&str], position: u8) -> Message {
    reserve_by(scene, path.iter().map(|peer| name(peer)).collect(), position, 5_000)
}

fn long_reserve(scene: &Scene) -> Message {
    let path = (0..200).map(|at| name(&format!("p{at}")));
    reserve_by(scene, ["liar", "r"].map(name).into_iter().chain(path).collect(), 1, 5_000)
}

fn late_reserve(scene: &Scene) -> Message {
    reserve_by(scene, ["liar", "r", "z"].map(name).to_vec(), 1, 0)
}

fn reserve_by(scene: &Scene, path: Vec<PeerName>, position: u8, deadline_ms: u32) -> Message {
    let channel = ChannelId { source: name("liar"), boot: 1, ..scene.tx.channel.clone() };
    let mut reserve = Reserve {
        tx: TxId { channel, attempt: 1 },
        service: ServiceName::new("video").expect("a name"),
        name: ServiceName::new("lie").expect("a name"),
        path,
        position,
        rate: Bandwidth::from_bps(10_000_000),
        rate_back: Bandwidth::from_bps(64_000),
        ticket: 1,
        deadline_ms,
        max_payload: 1_400,
        back_label: Label(5),
        back_port: 9,
        manner: Manner::Replace,
        opened: false,
        seal: None,
        proof: None,
    };
    reserve.proof = Some(proof(&reserve_statement(&reserve)));
    Message::Reserve(reserve)
}

/// The liar's own signature, which is right.
fn proof(statement: &[u8]) -> Proof {
    let signature = liar().key.sign(statement).to_bytes();
    Proof { key: liar().public_key(), signature }
}

fn release(scene: &Scene, liar: &mut Liar) {
    for attempt in 0..4 {
        let tx = TxId { attempt, ..scene.tx.clone() };
        let signed = proof(&closed_statement(&tx.channel));
        let (cause, at) = (ReleaseCause::Closed, name("liar"));
        let release = Release { tx, cause, at, failed: None, why: None, proof: None };
        say(liar, Message::Release(Release { proof: Some(signed), ..release.clone() }));
        say(liar, Message::Release(release));
    }
}

fn facts(facts: Vec<Fact>) -> Message {
    let told = facts.into_iter().map(|fact| Told { age_ms: 0, fact }).collect();
    Message::Gossip(Gossip::Facts(told))
}

fn peer_fact(origin: &str) -> Fact {
    Fact::Peer(PeerFact {
        origin: name(origin),
        key: PublicKey(liar().public_key().0),
        version: u64::MAX,
        leaving: true,
        egress: None,
        ingress: None,
        signature: [7; 64],
    })
}

fn link_fact(origin: &str, neighbour: &str) -> Fact {
    Fact::Link(LinkFact {
        origin: name(origin),
        neighbour: name(neighbour),
        neighbour_key: liar().public_key(),
        version: u64::MAX,
        up: false,
        capacity: Bandwidth::from_bps(1),
        free_out: Bandwidth::ZERO,
        max_payload: 1,
        signature: [7; 64],
    })
}
