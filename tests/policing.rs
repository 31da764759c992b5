//! Who keeps to the bandwidth of a channel is never policed, who does not harms only itself.
//!
//! The first is a model: ten million frames through the policers of an entry, five relays and the far
//! end, whose workers hold frames up and let them go at once. The second is real daemons; there who sends
//! too much is told so, and at which rate to send.

#![allow(clippy::print_stdout, reason = "a test tells what it measured")]

mod common;

use std::fs::{self, File};
use std::net::{SocketAddr, UdpSocket};
use std::process::Stdio;
use std::time::Duration;

use common::overlay::{Peer, Plan};
use common::program::{Program, now, pass, wait_for};
use common::stream::{Collector, Pacer};
use serde_json::Value;
use spanway::engine::shaper::{PACKET_OVERHEAD_BYTES, Policer};
use spanway::limits::{POLICE_BURST, POLICE_SLACK_BYTES, SHAPE_DELAY_MAX};
use spanway::types::{Bandwidth, Time};

// --- The model ---

const PATIENCE: Duration = Duration::from_secs(20);
/// Frames of the model, over all cases.
const FRAMES: u64 = 10_000_000;
/// Five relays and the far end.
const HOPS: u8 = 6;
/// Frame sizes of a stream that is no two the same: header, tag and payload.
const SIZES: [usize; 5] = [264, 1_380, 80, 1_380, 712];

/// Numbers without a pattern, the same in each run.
struct Dice(u64);

impl Dice {
    /// 0 to `most`.
    fn up_to(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % (most + 1)
    }
}

/// A worker that takes what has come now and then, at most `hold_us` after it came, all of it at once.
/// Its clock began some time ago and, unless it is the sender's, is wrong by one part in some thousands.
struct Worker {
    policer: Policer,
    hold_us: u64,
    wakes_at: u64,
    policed: u64,
    slow_by: u64,
}

impl Worker {
    fn new(policer: Policer, hold_us: u64, number: u8) -> Self {
        let slow_by = if number == 0 { u64::MAX } else { 5_000 + 1_000 * u64::from(number) };
        Self { policer, hold_us, wakes_at: 0, policed: 0, slow_by }
    }

    /// When the frame leaves, if it does.
    fn pass(&mut self, came: u64, frame_bytes: usize, dice: &mut Dice) -> Option<u64> {
        if came > self.wakes_at {
            self.wakes_at = came + dice.up_to(self.hold_us);
        }
        let mine = Time(self.wakes_at - self.wakes_at / self.slow_by + 123_456_789);
        let admitted = self.policer.admit(mine, frame_bytes);
        self.policed += u64::from(!admitted);
        admitted.then_some(self.wakes_at)
    }
}

/// How a program sends at a rate of `rate` bit/s; times are microseconds.
#[derive(Clone, Copy, Debug)]
enum Sender {
    /// Each packet when its time has come.
    Even,
    /// All packets of 25 ms at once.
    Bursts,
    /// Three times as much as it may.
    Greedy,
}

impl Sender {
    /// When the packet is sent before which `bits` were sent.
    fn due(self, bits: u128, rate: u64) -> u64 {
        let even = bits * 1_000_000 / u128::from(rate);
        let even = u64::try_from(even).expect("a short stream");
        match self {
            Self::Even => even + 1,
            Self::Bursts => (even / 25_000 + 1) * 25_000,
            Self::Greedy => even / 3,
        }
    }
}

/// Frames policed at the entry and behind it.
fn policed(sender: Sender, rate: u64, frames: u64, dice: &mut Dice) -> (u64, u64) {
    let promise = Bandwidth::from_bps(rate);
    // What waits at a hop is at most what one hop is allowed for.
    let hold_us = POLICE_SLACK_BYTES * 8 * 1_000_000 / rate;
    let mut entry = Worker::new(Policer::at_entry(promise), hold_us.min(10_000), 0);
    let relay = |hop| Worker::new(Policer::at_hop(promise, hop), hold_us, hop);
    let mut behind: Vec<Worker> = (1..=HOPS).map(relay).collect();
    let mut bits = 0;
    for (_, frame_bytes) in (0..frames).zip(SIZES.iter().copied().cycle()) {
        let mut at = entry.pass(sender.due(bits, rate), frame_bytes, dice);
        bits += (frame_bytes + PACKET_OVERHEAD_BYTES) as u128 * 8;
        for worker in &mut behind {
            let Some(came) = at else { break };
            at = worker.pass(came, frame_bytes, dice);
        }
    }
    (entry.policed, behind.iter().map(|worker| worker.policed).sum())
}

#[test]
fn a20_five_relays_police_not_one_of_ten_million_frames_that_keep_to_the_promise() {
    let start = now();
    let mut dice = Dice(0x5eed_5eed_5eed_5eed);
    let senders = [Sender::Even, Sender::Bursts, Sender::Greedy];
    let rates = [1_000_000, 20_000_000, 1_000_000_000, 40_000_000_000];
    let each = FRAMES.div_ceil((senders.len() * rates.len()) as u64);
    for rate in rates {
        for sender in senders {
            let (at_entry, behind) = policed(sender, rate, each, &mut dice);
            assert_eq!(behind, 0, "{sender:?} at {rate} bit/s: what the entry let in, all let in");
            match sender {
                Sender::Even | Sender::Bursts => assert_eq!(at_entry, 0, "{sender:?} at {rate}"),
                // Short streams at high rates are mostly burst.
                Sender::Greedy => assert!(at_entry > each / 4, "{at_entry} of {each} at {rate}"),
            }
        }
    }
    println!("{FRAMES} frames through {HOPS} hops in {:?}", start.elapsed());
}

#[test]
fn a20_the_model_polices_a_relay_that_holds_frames_longer_than_it_is_allowed_for() {
    // Or the test above could not fail.
    let rate = 20_000_000;
    let mut dice = Dice(7);
    let mut relay = Worker::new(Policer::at_hop(Bandwidth::from_bps(rate), 1), 0, 1);
    relay.hold_us = 5 * u64::try_from(POLICE_BURST.as_micros()).expect("milliseconds");
    let mut bits = 0;
    for _ in 0..100_000 {
        relay.pass(Sender::Even.due(bits, rate), 1_380, &mut dice);
        bits += (1_380 + PACKET_OVERHEAD_BYTES as u128) * 8;
    }
    assert!(relay.policed > 0);
}

// --- Real daemons ---

#[test]
fn a20_a_channel_at_three_times_its_share_harms_only_itself() {
    beside_a_greedy_one(&[], 0);
}

#[test]
fn a21_a_shaped_channel_at_three_times_its_share_harms_only_itself_and_keeps_its_order() {
    beside_a_greedy_one(&["--shape"], u64::try_from(SHAPE_DELAY_MAX.as_millis()).expect("short"));
}

/// Two channels on one link; what the greedy one does not lose it may have sent up to `waits_ms` later.
fn beside_a_greedy_one(greedy_options: &[&str], waits_ms: u64) {
    let sink = Collector::start();
    let service = format!("[service.video]\ndeliver = \"{}\"", sink.address);
    let overlay = Plan::new(&["a", "r", "z"])
        .link("a", "r", "10 Mbit/s")
        .link("r", "z", "10 Mbit/s")
        .section("z", &service)
        .on_loopback();
    let [a, r, z] = ["a", "r", "z"].map(|name| overlay.peer(name));
    // Packets of 200 + 64 + 28 bytes: 4 Mbit/s are 1,712 a second.
    let [modest, greedy] = [("modest", &[][..]), ("greedy", greedy_options)].map(|(name, more)| {
        let reply = a.open("z/video", "4 Mbit/s", &[&["--name", name], more].concat());
        listen_of(&reply)
    });
    let start = now();
    let modest = Pacer::start(modest, 1, 1_600);
    let greedy = Pacer::start(greedy, 2, 3 * 1_712);
    pass(Duration::from_secs(2));
    let sent = [modest.stop(), greedy.stop()];
    let elapsed = start.elapsed();

    let ours = settled([a, r, z], "modest", sent[0]);
    let theirs = settled([a, r, z], "greedy", sent[1]);
    assert_eq!(ours, Went { policed: 0, passed: sent[0] }, "the modest one loses nothing");
    // The largest burst and the rate, and not much less.
    let elapsed_ms = u64::try_from(elapsed.as_millis()).expect("seconds");
    let most = (64 << 10) + 4_000_000 / 8 * (elapsed_ms + waits_ms + 1) / 1_000;
    assert!(theirs.passed * 292 <= most, "{theirs:?} in {elapsed:?}");
    assert!(theirs.passed >= sent[1] / 4, "{theirs:?} in {elapsed:?}");
    println!("modest {ours:?}, greedy {theirs:?} in {elapsed:?}");

    let got = sink.stop();
    let of = |mark| got.iter().filter(move |got| got.0 == mark).map(|got| got.1);
    assert!(of(1).eq(0..sent[0]), "the modest stream is whole and in order");
    assert_eq!(of(2).count() as u64, theirs.passed);
    assert!(of(2).is_sorted());
}

#[test]
fn a15_a_channel_of_one_way_carries_nothing_back_and_promises_nothing_for_it() {
    let video = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = video.local_addr().expect("bound");
    let overlay = Plan::new(&["a", "z"])
        .link("a", "z", "10 Mbit/s")
        .section("z", &format!("[service.video]\ndeliver = \"{address}\""))
        .on_loopback();
    let [a, z] = ["a", "z"].map(|name| overlay.peer(name));
    let listen = a.open("z/video", "4 Mbit/s", &["--name", "film", "--one-way"])["listen"].clone();
    assert_eq!(z.answer(&["links"]).1[0]["free_out_bps"], 9_500_000);
    let program = UdpSocket::bind("127.0.0.1:0").expect("a port");
    program.send_to(b"there", listen.as_str().expect("open")).expect("sent");
    let mut bytes = [0; 16];
    video.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let (length, from) = video.recv_from(&mut bytes).expect("the way there is open");
    assert_eq!(&bytes[..length], b"there");
    video.send_to(b"back", from).expect("sent");
    wait_for("the drop", Duration::from_secs(5), || {
        let row = z.answer(&["channels"]).1[0].clone();
        (row["dropped"]["policed"] == 1 && row["bandwidth_back_bps"] == 0).then_some(())
    });
}

#[test]
fn a21_who_sends_too_much_is_told_how_much_is_dropped_and_which_rate_to_use() {
    let sink = Collector::start();
    let service = format!("[service.video]\ndeliver = \"{}\"", sink.address);
    let overlay =
        Plan::new(&["a", "z"]).link("a", "z", "10 Mbit/s").section("z", &service).on_loopback();
    let a = overlay.peer("a");
    let told = overlay.folder().join("told");
    let mut watch = a.client(&["open", "z/video", "--bandwidth", "4 Mbit/s", "--name", "greedy"]);
    watch.args(["--watch", "--json"]).stdout(File::create(&told).expect("a scratch folder"));
    let mut watch = Program::start("watch", overlay.folder(), &mut watch);
    let row = wait_for("the channel", PATIENCE, || {
        a.channel("greedy").filter(|row| row["state"] == "open")
    });
    assert_eq!((&row["shape"], &row["entry_bps"]), (&false.into(), &4_000_000.into()));
    let greedy = Pacer::start(listen_of(&row), 2, 3 * 1_712);
    let events = || -> Vec<Value> {
        let text = fs::read_to_string(&told).unwrap_or_default();
        // In front of them stands the answer, of many lines.
        let lines = text.lines().filter(|line| line.starts_with("{\"at_ms\""));
        lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let of = |events: &[Value], name: &str| -> Vec<Value> {
        events.iter().filter(|line| line["event"] == name).cloned().collect()
    };
    let lines = wait_for("to be told three times", PATIENCE, || {
        let lines = of(&events(), "channel_policed");
        (lines.len() >= 3).then_some(lines)
    });
    let row = a.channel("greedy").expect("it is open");
    greedy.stop();
    let offered = row["offered_bps"].as_u64().expect("it was looked at");
    assert!(offered > 4_000_000, "{row}");
    assert!(sum_of(&lines) <= row["dropped"]["policed"].as_u64().expect("it is too fast"), "{row}");
    for line in &lines {
        let excess = &line["excess"];
        let of = |name: &str| excess[name].as_u64().unwrap_or_else(|| panic!("{name}: {line}"));
        assert_eq!((of("bandwidth_bps"), &line["channel"]), (4_000_000, &row["id"]), "{line}");
        assert!(of("dropped") > 0 && of("ask_bps") >= of("offered_bps"), "{line}");
        // 200 of 292 bytes are payload.
        assert_eq!(of("payload_bps"), 4_000_000 * 200 / 292, "{line}");
        let text = excess["text"].as_str().unwrap_or_default();
        assert!(text.contains("the channel has 4 Mbit/s; send at most 2.73 Mbit/s"), "{text}");
    }
    // At most once a second: the clock of the lines may be set, but not often.
    let times: Vec<u64> = lines.iter().filter_map(|line| line["at_ms"].as_u64()).collect();
    assert!(times.windows(2).all(|two| two[1].saturating_sub(two[0]) >= 900), "{times:?}");
    a.ask(&["close", "greedy"]);
    assert!(watch.join(PATIENCE).success(), "the watch ends with the channel");
    assert_eq!(of(&events(), "channel_closed").len(), 1);
    sink.stop();
}

#[test]
fn a21_send_says_on_its_screen_that_another_program_takes_its_rate() {
    let sink = Collector::start();
    let service = format!("[service.video]\ndeliver = \"{}\"", sink.address);
    let overlay =
        Plan::new(&["a", "z"]).link("a", "z", "10 Mbit/s").section("z", &service).on_loopback();
    let a = overlay.peer("a");
    let mut send = a.client(&["send", "z/video", "--bandwidth", "4 Mbit/s", "--shape"]);
    // It waits for its input all the time.
    send.stdin(Stdio::piped()).stdout(Stdio::null());
    let send = Program::start("send", overlay.folder(), &mut send);
    let row = wait_for("the channel", PATIENCE, || {
        a.ask(&["channels"]).as_array()?.iter().find(|row| row["state"] == "open").cloned()
    });
    assert_eq!(row["shape"], true);
    let other = Pacer::start(listen_of(&row), 2, 3 * 1_712);
    let said = wait_for("a line", PATIENCE, || {
        send.log()
            .lines()
            .find(|line| line.contains("dropped in the last second"))
            .map(str::to_owned)
    });
    other.stop();
    assert!(said.contains("the channel has 4 Mbit/s"), "{said}");
    sink.stop();
}

fn sum_of(lines: &[Value]) -> u64 {
    lines.iter().filter_map(|line| line["excess"]["dropped"].as_u64()).sum()
}

/// Where programs send to, of an answer or a row.
fn listen_of(reply: &Value) -> SocketAddr {
    reply["listen"].as_str().and_then(|text| text.parse().ok()).expect("an address")
}

#[derive(Debug, PartialEq, Eq)]
struct Went {
    policed: u64,
    /// At every hop.
    passed: u64,
}

/// What became of `sent` datagrams, once all three peers have the same idea of it: at the entry each
/// was policed or passed, and behind it all of them pass.
fn settled([a, r, z]: [&Peer; 3], name: &str, sent: u64) -> Went {
    wait_for("all frames in the ledgers", Duration::from_secs(10), || {
        let id = a.channel(name)?["id"].clone();
        let row = |peer: &Peer| -> Option<Value> {
            let (_, ledger) = peer.answer(&["channels", "--ledger"]);
            ledger["channels"].as_array()?.iter().find(|row| row["id"] == id).cloned()
        };
        let (a, r, z) = (row(a)?, row(r)?, row(z)?);
        let none = serde_json::json!({});
        (r["dropped"] == none && z["dropped"] == none).then_some(())?;
        let passed = [&a["sent"], &r["received"], &r["sent"], &z["received"], &z["delivered"]];
        let passed: Vec<u64> = passed.iter().filter_map(|count| count.as_u64()).collect();
        passed.iter().all(|count| *count == passed[0]).then_some(())?;
        let (policed, passed) = (a["dropped"]["policed"].as_u64().unwrap_or_default(), passed[0]);
        (a["entered"] == sent && policed + passed == sent).then_some(Went { policed, passed })
    })
}
