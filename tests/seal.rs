//! Sealed channels with real daemons: what a wire and a relay see, what they can change, and that a channel
//! keeps its keys wherever it goes. Ids: A15, A17, A22.
//!
//! ```text
//!   a ─── b ─── c       b is watched, and lies
//!   a ─── e ─── c       where a channel goes that leaves b
//! ```

#![expect(clippy::disallowed_methods, reason = "these tests live in real time")]

mod common;

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use common::netns;
use common::overlay::{Overlay, Plan, path_of};
use common::program::wait_for;
use common::stream::{Collector, Pacer};
use serde_json::Value;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use spanway::wire::frame;

const SOON: Duration = Duration::from_secs(20);
/// In every payload; long enough to be nowhere by chance.
const SECRET: &[u8] = b"nobody on the way may read this";
/// Every packet of every protocol, in the byte order of the wire.
const ETH_P_ALL: i32 = 0x0300;
const IP_HEADER: usize = 20;
const HEADERS: usize = IP_HEADER + 8;

fn line(service: &str) -> Overlay {
    let plan = Plan::new(&["a", "b", "c"]).link("a", "b", "20 Mbit/s").link("b", "c", "20 Mbit/s");
    let overlay = plan.section("c", service).in_namespaces(false);
    overlay.peers().iter().for_each(|peer| peer.namespace().no_super_buffers());
    overlay
}

/// A program in the namespace of a peer.
fn program(overlay: &Overlay, peer: &str, at: &str) -> UdpSocket {
    let at: SocketAddr = at.parse().expect("an address");
    netns::socket(overlay.peer(peer).namespace().name(), at, None)
}

/// IPv4 packets of UDP that pass the host of a peer, from now on.
struct Tap(Socket);

impl Tap {
    fn new(overlay: &Overlay, peer: &str) -> Self {
        let protocol = Some(Protocol::from(ETH_P_ALL));
        let make = move || Socket::new(Domain::PACKET, Type::DGRAM, protocol);
        let socket = netns::inside(overlay.peer(peer).namespace().name(), make);
        let socket = socket.expect("root may watch");
        socket.set_nonblocking(true).expect("a socket");
        let _ = socket.set_recv_buffer_size(8 << 20);
        Self(socket)
    }

    fn packets(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut bytes = vec![0; 1 << 16];
        while let Ok(length) = self.0.read(&mut bytes) {
            if length > HEADERS && bytes[0] == 0x45 && bytes[9] == 17 {
                packets.push(bytes[..length].to_vec());
            }
        }
        packets
    }
}

/// Data frames among packets, as they lie in them.
fn frames(packets: &[Vec<u8>], to: Ipv4Addr) -> Vec<Vec<u8>> {
    let is_frame = |packet: &&Vec<u8>| {
        let header = frame::parse(&packet[HEADERS..]);
        let data = header.is_ok_and(|header| header.frame_type == frame::FrameType::Data);
        data && packet[16..20] == to.octets()
    };
    packets.iter().filter(is_frame).cloned().collect()
}

fn has_secret(packets: &[Vec<u8>]) -> bool {
    packets.iter().any(|packet| packet.windows(SECRET.len()).any(|part| part == SECRET))
}

/// Sends `count` numbered payloads into the channel and returns what the service got within a while.
fn exchange(from: &UdpSocket, entry: &str, to: &UdpSocket, count: u32) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    let mut bytes = [0; 2_048];
    let mut take = |got: &mut Vec<Vec<u8>>| {
        while let Ok(length) = to.recv(&mut bytes) {
            got.push(bytes[..length].to_vec());
        }
    };
    for number in 0..count {
        from.send_to(&payload(number), entry).expect("sent");
        thread::sleep(Duration::from_millis(2));
        take(&mut got);
    }
    let end = Instant::now() + SOON;
    while got.len() < count as usize && Instant::now() < end {
        thread::sleep(Duration::from_millis(5));
        take(&mut got);
    }
    got
}

fn payload(number: u32) -> Vec<u8> {
    [SECRET, &number.to_be_bytes()].concat()
}

#[test]
fn a22_a_wire_sees_payloads_of_plain_channels_only() {
    if !netns::available_with(&["ip"]) {
        return;
    }
    let overlay = line("[service.video]\ndeliver = \"127.0.0.1:5004\"");
    let (here, there) =
        (program(&overlay, "a", "127.0.0.1:0"), program(&overlay, "c", "127.0.0.1:5004"));
    let a = overlay.peer("a");
    let expected: Vec<_> = (0..50).map(payload).collect();
    for (name, more, shown) in [("closed", &[][..], false), ("open", &["--plain"][..], true)] {
        let opened = a.open("c/video", "1 Mbit/s", &[&["--name", name], more].concat());
        assert_eq!(opened["sealed"], !shown, "{opened}");
        let mut tap = Tap::new(&overlay, "b");
        let entry = opened["listen"].as_str().expect("an address");
        assert_eq!(exchange(&here, entry, &there, 50), expected, "{name}");
        let packets = tap.packets();
        let relayed = frames(&packets, Ipv4Addr::new(198, 18, 1, 2));
        assert!(relayed.len() >= 50, "{} frames of {} packets", relayed.len(), packets.len());
        assert_eq!(has_secret(&packets), shown, "{name}");
        // Both ends say so, with the key of the other.
        for (peer, other) in [("a", "c"), ("c", "a")] {
            let row = overlay.peer(peer).channel(name).expect("its row");
            let key = overlay.peer(other).ask(&["status"])["key"].as_str().map(fingerprint);
            assert_eq!(row["sealed"], !shown);
            assert_eq!(row["peer_key"].as_str(), key.filter(|_| !shown).as_deref(), "{row}");
        }
        a.ask(&["close", name]);
    }
}

#[test]
fn a22_a_relay_that_changes_or_repeats_frames_delivers_nothing() {
    if !netns::available_with(&["ip"]) {
        return;
    }
    let overlay = line("[service.video]\ndeliver = \"127.0.0.1:5004\"");
    let (here, there) =
        (program(&overlay, "a", "127.0.0.1:0"), program(&overlay, "c", "127.0.0.1:5004"));
    let opened = overlay.peer("a").open("c/video", "10 Mbit/s", &["--name", "live"]);
    let entry = opened["listen"].as_str().expect("an address");
    let mut tap = Tap::new(&overlay, "b");
    assert_eq!(exchange(&here, entry, &there, 20).len(), 20);
    let to = Ipv4Addr::new(198, 18, 1, 2);
    // Once as it leaves the relay; whoever else saw it does not count.
    let mut sent = frames(&tap.packets(), to);
    sent.dedup();
    assert_eq!(sent.len(), 20);

    let raw = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)));
    let raw = netns::inside(overlay.peer("b").namespace().name(), raw).expect("root may");
    let inject = |packet: &[u8]| {
        let mut packet = packet.to_vec();
        // No checksum of UDP: it would not fit what was changed.
        packet[26..28].fill(0);
        raw.send_to(&packet, &SockAddr::from(SocketAddr::from((to, 0)))).expect("sent");
        thread::sleep(Duration::from_millis(1));
    };
    let (mut bent, mut repeated) = (0_u64, 0_u64);
    for packet in &sent {
        inject(packet);
        repeated += 1;
    }
    // In the stamp, the epoch, the payload and the tag, under a sequence that is still to come.
    let last = sent.last().expect("twenty");
    for byte in
        [24, 27, 28, 31, frame::HEADER_BYTES, frame::HEADER_BYTES + 10, last.len() - HEADERS - 1]
    {
        let mut packet = last.clone();
        packet[HEADERS + 16..HEADERS + 24].copy_from_slice(&(1_000 + bent).to_be_bytes());
        packet[HEADERS + byte] ^= 0x10;
        inject(&packet);
        bent += 1;
    }
    wait_for("every forgery in a counter", SOON, || {
        let dropped = overlay.peer("c").channel("live")?["dropped"].clone();
        let counted = [&dropped["bad_seal"], &dropped["replayed"]].map(Value::as_u64);
        (counted == [Some(bent), Some(repeated)]).then_some(())
    });
    // Nothing of it came out or moved anything: the stream goes on where it was.
    assert_eq!(exchange(&here, entry, &there, 20), (0..20).map(payload).collect::<Vec<_>>());
    let row = overlay.peer("c").channel("live").expect("its row");
    assert_eq!((&row["rx_frames"], &row["lost_frames"]), (&40.into(), &0.into()), "{row}");
}

#[test]
fn a17_a_channel_that_moves_keeps_its_keys_and_loses_no_frame() {
    let sink = Collector::start();
    let service = format!("[service.video]\ndeliver = \"{}\"", sink.address);
    let mut overlay = Plan::new(&["a", "b", "c", "e"])
        .link("a", "b", "20 Mbit/s")
        .link("b", "c", "20 Mbit/s")
        .link("a", "e", "10 Mbit/s")
        .link("e", "c", "10 Mbit/s")
        .section("c", &service)
        .on_loopback();
    let opened = overlay.peer("a").open("c/video", "4 Mbit/s", &["--name", "live"]);
    assert_eq!((path_of(&opened), &opened["sealed"]), (vec!["a", "b", "c"], &true.into()));
    let listen = opened["listen"].as_str().and_then(|text| text.parse().ok()).expect("it");
    let pacer = Pacer::start(listen, 1, 500);
    thread::sleep(Duration::from_millis(500));
    overlay.terminate("b");
    overlay.ended("b");
    wait_for("the other path", SOON, || {
        let row = overlay.peer("a").channel("live")?;
        (path_of(&row) == ["a", "e", "c"] && row["sealed"] == true).then_some(())
    });
    thread::sleep(Duration::from_millis(500));
    let sent = pacer.stop();
    wait_for("every frame", SOON, || {
        (overlay.peer("c").channel("live")?["rx_frames"] == sent).then_some(())
    });
    let got: Vec<u64> = sink.stop().into_iter().map(|(_, number)| number).collect();
    assert_eq!(got, (0..sent).collect::<Vec<_>>(), "all of them, in order, once");
    let dropped = overlay.peer("c").channel("live").expect("its row")["dropped"].clone();
    assert_eq!(dropped, serde_json::json!({}));
}

#[test]
fn a17_a_service_that_restarts_gets_new_keys() {
    let sink = Collector::start();
    let service = format!("[service.video]\ndeliver = \"{}\"", sink.address);
    let mut overlay = Plan::new(&["a", "b", "c"])
        .link("a", "b", "20 Mbit/s")
        .link("b", "c", "20 Mbit/s")
        .section("c", &service)
        .on_loopback();
    let opened = overlay.peer("a").open("c/video", "4 Mbit/s", &["--name", "live"]);
    let listen = opened["listen"].as_str().and_then(|text| text.parse().ok()).expect("it");
    let pacer = Pacer::start(listen, 1, 200);
    thread::sleep(Duration::from_millis(200));
    overlay.kill("c");
    overlay.run("c");
    // The same channel, at an end that knows nothing of it: frames come out there again.
    wait_for("frames at the new end", SOON, || {
        let (_, rows) = overlay.peer("c").answer(&["channels"]);
        let row = rows.as_array()?.iter().find(|row| row["name"] == "live")?;
        (row["rx_frames"].as_u64() > Some(50)).then_some(())
    });
    assert_eq!(overlay.peer("a").channel("live").expect("its row")["sealed"], true);
    pacer.stop();
    sink.stop();
}

#[test]
fn a_service_may_refuse_what_is_not_sealed() {
    let service = "[service.video]\ndeliver = \"127.0.0.1:9\"\nplain = false";
    let overlay = Plan::new(&["a", "b", "c"])
        .link("a", "b", "20 Mbit/s")
        .link("b", "c", "20 Mbit/s")
        .section("c", service)
        .on_loopback();
    let a = overlay.peer("a");
    let (code, answer) = a.answer(&["open", "c/video", "--bandwidth", "1 Mbit/s", "--plain"]);
    assert_ne!(code, Some(0));
    assert_eq!(answer["reason"], "not_allowed", "{answer}");
    let detail = answer["detail"].as_str().expect("words");
    assert!(detail.contains("video takes sealed channels only"), "{detail}");
    assert_eq!(a.open("c/video", "1 Mbit/s", &[])["sealed"], true);
}

/// As people compare keys.
fn fingerprint(key: &str) -> String {
    let groups: Vec<&str> = (0..4).map(|at| &key[at * 4..at * 4 + 4]).collect();
    groups.join("-")
}
