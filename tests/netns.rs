//! Hosts of their own: one daemon in each network namespace, real programs at both ends of a channel.
//!
//! ```text
//! line (IPv4, 198.18.N.0/24)            ring (IPv6, fd00:5a:0:N::/64)
//!
//!   a ───────── b ───────── c             a ═══ b ═══ c        ═ 100 Mbit/s: the tree
//!     100 Mbit/s  100 Mbit/s              │           ║        ─  50 Mbit/s
//!                                         e ───────── d
//!
//!                                         a to d over b and c; over e when one of them is dead
//! ```
//!
//! Needs root, ffmpeg, srt-tools and iproute2. Without them every test says once that it is skipped
//! and passes; with `SPANWAY_REQUIRE_NETNS=1` it fails instead.

#![allow(clippy::print_stdout, reason = "a test tells what it measured")]

mod common;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::netns;
use common::overlay::{Overlay, Peer, Plan, path_of};
use common::program::{Program, now, output, pass, poll, wait_for};
use common::transport_stream::inspect;
use serde_json::Value;

const FRAME_RATE: u32 = 25;
const PICTURES: u32 = 10 * FRAME_RATE;
/// Pictures of one group: what a lost packet can make undecodable.
const GROUP: u32 = 12;
const ENTRY: &str = "127.0.0.1:5000";
const SERVICE: &str = "[service.video]\ndeliver = \"127.0.0.1:5004\"";
/// Payload of an SRT datagram: seven packets of a transport stream.
const SRT_BYTES: usize = 1_316;
/// What the SRT program keeps before it writes.
const SINK_BUFFER_BYTES: u64 = 16 << 10;
/// The receiver's host has delivered everything if nothing comes for this long, in microseconds.
const SILENCE: &str = "2000000";

#[test]
fn a19_a_film_crosses_three_hosts_over_ipv4_and_every_picture_arrives() {
    if !netns::available() {
        return;
    }
    let overlay = Plan::new(&["a", "b", "c"])
        .link("a", "b", "100 Mbit/s")
        .link("b", "c", "100 Mbit/s")
        .section("c", SERVICE)
        .in_namespaces(false);
    let film = stream(&overlay, ("a", "c"), |_| {});
    assert_eq!(film.path, ["a", "b", "c"]);
    assert_whole(&film);
}

#[test]
fn a19_a_film_crosses_two_relays_over_ipv6_and_every_picture_arrives() {
    if !netns::available() {
        return;
    }
    let overlay = ring();
    let film = stream(&overlay, ("a", "d"), |_| {});
    assert_eq!(film.path, ["a", "b", "c", "d"]);
    assert_whole(&film);
}

#[test]
fn a17_a_film_goes_on_when_a_relay_is_killed() {
    if !netns::available() {
        return;
    }
    let mut overlay = ring();
    let mut gap = Duration::ZERO;
    let film = {
        let mut running = Streaming::start(&overlay, ("a", "d"));
        assert_eq!(running.path, ["a", "b", "c", "d"]);
        pass(Duration::from_secs(4));
        let killed = now();
        overlay.kill("b");
        wait_for("the channel on its new path", Duration::from_secs(10), || {
            let row = overlay.peer("a").channel("film")?;
            (row["state"] == "open" && path_of(&row) == ["a", "e", "d"]).then_some(())
        });
        gap += killed.elapsed();
        running.finish(&overlay)
    };
    let missing = PICTURES.saturating_sub(film.decoded);
    let rate = f64::from(FRAME_RATE);
    let allowed = f64::from(GROUP) + gap.as_secs_f64() * rate;
    println!("gap {gap:?}, {missing} of {PICTURES} pictures missing, {allowed:.1} allowed");
    assert!(gap < Duration::from_secs(2), "the channel was gone for {gap:?}");
    assert!(f64::from(missing) <= allowed, "{missing} pictures missing, {allowed} allowed");
}

#[test]
fn a19_srt_runs_unchanged_through_a_channel_in_both_directions() {
    if !netns::available() {
        return;
    }
    let overlay = Plan::new(&["a", "b", "c"])
        .link("a", "b", "100 Mbit/s")
        .link("b", "c", "100 Mbit/s")
        .section("c", SERVICE)
        .in_namespaces(false);
    let (a, c) = (overlay.peer("a"), overlay.peer("c"));
    let more = ["--name", "srt", "--listen", ENTRY, "--bandwidth-back", "same"];
    a.open("c/video", "20 Mbit/s", &more);
    let (caller, listener) = ("srt://127.0.0.1:5000", "srt://127.0.0.1:5004?mode=listener");
    let (folder, film) = (overlay.folder(), srt_film(overlay.folder()));

    let there = folder.join("there.ts");
    let sink = srt_sink(c, listener, &there);
    assert_carried(srt_source(a, caller, folder), sink, &there, &film);
    // The same two ends, and the listener is the one that sends.
    let back = folder.join("back.ts");
    let source = srt_source(c, listener, folder);
    assert_carried(source, srt_sink(a, caller, &back), &back, &film);
}

/// The ring of the drawing. The tree leaves out `a`-`e`, whose names are smaller than those of `d`-`e`.
fn ring() -> Overlay {
    Plan::new(&["a", "b", "c", "d", "e"])
        .link("a", "b", "100 Mbit/s")
        .link("b", "c", "100 Mbit/s")
        .link("c", "d", "100 Mbit/s")
        .link("d", "e", "50 Mbit/s")
        .link("e", "a", "50 Mbit/s")
        .section("d", SERVICE)
        .in_namespaces(true)
}

/// What came out of a film that went through a channel.
#[derive(Debug)]
struct Film {
    path: Vec<String>,
    captured: Vec<u8>,
    decoded: u32,
    took: Duration,
    /// The channel as its opener saw it at the end.
    row: Value,
}

/// ffmpeg on the opener's host is sending, ffmpeg on the service's host is receiving.
struct Streaming {
    path: Vec<String>,
    opener: String,
    encoder: Program,
    receiver: Program,
    capture: PathBuf,
    started: std::time::Instant,
}

fn stream(overlay: &Overlay, ends: (&str, &str), midway: impl FnOnce(&Overlay)) -> Film {
    let mut running = Streaming::start(overlay, ends);
    midway(overlay);
    running.finish(overlay)
}

impl Streaming {
    fn start(overlay: &Overlay, (from, to): (&str, &str)) -> Self {
        let (opener, service) = (overlay.peer(from), overlay.peer(to));
        let capture = overlay.folder().join("film.ts");
        let receiver = receive_udp(service, overlay.folder(), &capture);
        let more = ["--name", "film", "--listen", ENTRY];
        let reply = opener.open(&format!("{to}/video"), "10 Mbit/s", &more);
        let path = path_of(&reply).into_iter().map(str::to_owned).collect();
        let started = now();
        let encoder = encode_to(opener, overlay.folder());
        Self { path, opener: from.to_owned(), encoder, receiver, capture, started }
    }

    fn finish(&mut self, overlay: &Overlay) -> Film {
        let status = self.encoder.join(Duration::from_secs(60));
        assert!(status.success(), "the encoder ended with {status}: {}", self.encoder.log());
        let took = self.started.elapsed();
        let row = overlay.peer(&self.opener).channel("film").expect("the channel is still there");
        self.receiver.join(Duration::from_secs(30));
        let captured = fs::read(&self.capture).expect("the receiver wrote a file");
        let path = std::mem::take(&mut self.path);
        Film { path, decoded: pictures_in(&self.capture), captured, took, row }
    }
}

/// Nothing is missing, and it was as much as the test wanted.
fn assert_whole(film: &Film) {
    let report = inspect(&film.captured);
    assert_eq!(film.decoded, PICTURES, "decoded pictures; {report:?}; {}", film.row);
    assert_eq!((report.breaks, report.out_of_sync), (0, 0), "{report:?}; {}", film.row);
    let bits = film.captured.len() as f64 * 8.0;
    let seconds = f64::from(PICTURES) / f64::from(FRAME_RATE);
    let rate = bits / seconds / 1e6;
    assert!(rate >= 5.0, "{rate:.2} Mbit/s");
    assert!(film.took.as_secs_f64() > seconds * 0.9, "not in real time: {:?}", film.took);
    assert_eq!(film.row["dropped"], serde_json::json!({}), "{}", film.row);
}

/// A test picture for ten seconds in real time, into the channel.
fn encode_to(peer: &Peer, logs: &Path) -> Program {
    let mut command = peer.command("ffmpeg");
    command.args(["-nostdin", "-v", "warning", "-re", "-f", "lavfi", "-i"]);
    command.arg(format!("testsrc2=size=640x480:rate={FRAME_RATE}"));
    command.args(["-frames:v", &PICTURES.to_string(), "-c:v", "mpeg2video"]);
    command.args(["-g", &GROUP.to_string()]);
    command.args(["-b:v", "6M", "-minrate", "6M", "-maxrate", "6M", "-bufsize", "2M"]);
    command.args(["-f", "mpegts"]);
    command.arg(format!("udp://{ENTRY}?pkt_size=1316&bitrate=8000000&burst_bits=100000"));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Program::start("encoder", logs, &mut command)
}

/// What arrives for the service, byte for byte, until nothing comes for two seconds.
fn receive_udp(peer: &Peer, logs: &Path, file: &Path) -> Program {
    let mut command = peer.command("ffmpeg");
    command.args(["-nostdin", "-v", "warning", "-y", "-f", "data", "-i"]);
    command.arg(format!("udp://127.0.0.1:5004?timeout={SILENCE}&fifo_size=100000"));
    command.args(["-map", "0", "-c", "copy", "-f", "data"]).arg(file);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let program = Program::start("receiver", logs, &mut command);
    wait_for("the receiver's socket", Duration::from_secs(10), || bound(peer, 5004));
    program
}

fn bound(peer: &Peer, port: u16) -> Option<()> {
    let mut command = peer.command("ss");
    let sockets = output(command.args(["--udp", "--listening", "--numeric", "--no-header"]));
    sockets.contains(&format!(":{port} ")).then_some(())
}

/// How many pictures Debian's ffmpeg finds in a file.
fn pictures_in(file: &Path) -> u32 {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "quiet", "-i"]).arg(file);
    command.args(["-fps_mode", "passthrough", "-f", "null", "-progress", "-", "-"]);
    let progress = output(&mut command);
    let mut frames = progress.lines().filter_map(|line| line.strip_prefix("frame="));
    frames.next_back().and_then(|frame| frame.trim().parse().ok()).unwrap_or(0)
}

/// An SRT program that writes what it gets to `file`.
fn srt_sink(peer: &Peer, url: &str, file: &Path) -> Program {
    let mut command = peer.command("srt-live-transmit");
    command.args(["-loglevel:warning", "-chunk:1316", url, "file://con"]);
    let out = fs::File::create(file).expect("the scratch folder is writable");
    command.stdin(Stdio::null()).stdout(out);
    let folder = file.parent().expect("a file in a folder");
    Program::start("srt-sink", folder, &mut command)
}

/// An SRT program that sends what it is fed.
fn srt_source(peer: &Peer, url: &str, logs: &Path) -> Program {
    let mut command = peer.command("srt-live-transmit");
    command.args(["-loglevel:warning", "-chunk:1316", "file://con", url]);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    Program::start("srt-source", logs, &mut command)
}

/// Three seconds of a film at 4 Mbit/s go from one SRT program to the other, byte for byte. Neither
/// ends by itself: they wait for the next film.
fn assert_carried(mut source: Program, mut sink: Program, file: &Path, film: &[u8]) {
    let mut input = source.child().stdin.take().expect("it is piped");
    wait_for("both programs to know each other", Duration::from_secs(20), || {
        source.log().contains("connect").then_some(())
    });
    for chunk in film.chunks(4 * SRT_BYTES) {
        input.write_all(chunk).expect("the program reads");
        pass(Duration::from_secs(1) * u32::try_from(chunk.len() * 8).expect("small") / 4_000_000);
    }
    // The source reads in blocks; the end of its input is the end of the last one.
    drop(input);
    // The rest of it is in the sink's buffer until that is told to end.
    let length = || fs::metadata(file).map_or(0, |file| file.len());
    let nearly = film.len() as u64 - SINK_BUFFER_BYTES;
    poll(Duration::from_secs(10), || (length() >= nearly).then_some(()));
    pass(Duration::from_secs(1));
    sink.terminate();
    sink.join(Duration::from_secs(10));
    source.kill();
    let arrived = fs::read(file).expect("the sink has a file");
    let report = inspect(&arrived);
    let from = film.windows(188).position(|packet| arrived.starts_with(packet));
    assert_eq!(arrived.len(), film.len(), "bytes that arrived, from {from:?}; {report:?}");
    assert!(arrived == film, "changed on its way; {report:?}");
}

/// A film whose length is a whole number of SRT payloads.
fn srt_film(folder: &Path) -> Vec<u8> {
    let file = folder.join("srt-film.ts");
    let mut encode = Command::new("ffmpeg");
    encode.args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", "testsrc2=rate=25"]);
    encode.args(["-frames:v", "75", "-c:v", "mpeg2video", "-b:v", "4M", "-f", "mpegts"]);
    output(encode.arg(&file));
    let mut film = fs::read(&file).expect("the film");
    film.truncate(film.len() / SRT_BYTES * SRT_BYTES);
    film
}
