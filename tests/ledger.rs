//! Every frame is in one counter: five engines in a row and everything that can happen to a frame,
//! added up to the last one; and two daemons of which one sleeps until its kernel drops frames.
//!
//! ```text
//!            1          2          3          4
//! program ═► A ═══════► B ═══════► C ═══════► D ═══════► E ═► program
//!                                  ▲ 9
//!                              intruder
//! ```

#![allow(clippy::cast_possible_truncation, reason = "small numbers made here")]
#![allow(clippy::print_stdout, reason = "a test tells what it measured, or that it is skipped")]
#![expect(clippy::disallowed_methods, reason = "real threads and sockets live in real time")]

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::overlay::Plan;
use common::program::{pass, wait_for};
use common::stream::{Collector, Pacer};
use common::wiring::{data_frame, link, load};
use spanway::engine::seal::Seal;
use spanway::engine::{
    AllowedFrom, BackendChoice, Command, Deliver, EndSpec, Engine, EngineConfig, EntrySpec, Target,
};
use spanway::stats::{ChannelStats, DropReason, WorkerStats};
use spanway::types::{Bandwidth, ChannelId, Label, LinkId, PeerName, WorkerId};

const PATIENCE: Duration = Duration::from_secs(20);
const PEERS: usize = 5;
const MAX_PAYLOAD: u16 = 8_000;
const FAST: Bandwidth = Bandwidth::from_bps(100_000_000_000);
const SLOW: Bandwidth = Bandwidth::from_bps(64_000);
/// The relay that somebody sends crafted frames to, over a link of its own.
const C: usize = 2;
const INTRUDER: u16 = 9;

#[test]
fn a20_every_frame_of_five_peers_is_in_one_counter_with_io_uring() {
    match spanway::net::probe(BackendChoice::Uring) {
        Ok(_) => every_frame_is_in_one_counter(BackendChoice::Uring),
        Err(why) => println!("skipped: {why}"),
    }
}

#[test]
fn a20_every_frame_of_five_peers_is_in_one_counter_without_io_uring() {
    every_frame_is_in_one_counter(BackendChoice::Mmsg);
}

fn every_frame_is_in_one_counter(backend: BackendChoice) {
    let (sink, opener, foreigner, intruder) = (socket(), socket(), socket(), socket());
    let mut row = Row::new(backend, address(&intruder));
    let only = AllowedFrom::Only(address(&opener));
    let whole = row.channel(1, FAST, only, Deliver::To(address(&sink)));
    let slow = row.channel(2, SLOW, AllowedFrom::Loopback, Deliver::To(address(&sink)));
    let mute = row.channel(3, FAST, AllowedFrom::Loopback, Deliver::LastSender);
    row.let_in(901, &whole);
    row.settle();

    send(&opener, whole.entry, &[1; 200], 1_500);
    send(&opener, whole.entry, &[1; 9_000], 50);
    send(&foreigner, whole.entry, &[1; 200], 40);
    send(&opener, slow.entry, &[2; 200], 1_000);
    send(&opener, mute.entry, &[3; 200], 300);
    let c = row.engines[C].workers()[0].address;
    for (label, hop_limit, count) in
        [(901, 1, 30), (901, 2, 20), (901, 64, 600), (12_345, 64, 10), (label(1, C), 64, 11)]
    {
        send(&intruder, c, &data_frame(label, hop_limit, &[0; 200]), count);
    }
    send(&intruder, c, b"no frame", 12);

    row.assert_adds_up([&whole, &slow, &mute], 30 + 20 + 600);
    let dropped = |channel: &Channel, peer: usize, reason| channel.stats[peer].dropped(reason);
    assert_eq!(load(&whole.stats[0].entered), 1_590);
    assert_eq!(dropped(&whole, 0, DropReason::TooBig), 50);
    assert_eq!(dropped(&whole, 0, DropReason::ForeignSender), 40);
    assert_eq!(load(&whole.stats[0].sent), 1_500);
    assert_eq!(dropped(&whole, C, DropReason::HopLimit), 30);
    assert_eq!(dropped(&whole, C + 1, DropReason::HopLimit), 20);
    // 128 KiB in packets of 292 bytes, and what the rate gives while they come.
    let policed = dropped(&whole, C, DropReason::Policed);
    assert!((50..=650 - 448).contains(&policed), "{policed}");
    assert_eq!(load(&whole.stats[4].delivered), 1_500 + 600 - policed);
    // 64 KiB at the entry, and nothing behind it.
    let policed = dropped(&slow, 0, DropReason::Policed);
    assert!((600..=1_000 - 224).contains(&policed), "{policed}");
    assert_eq!(load(&slow.stats[4].delivered), 1_000 - policed);
    assert_eq!(dropped(&mute, 4, DropReason::NoReceiver), 300);
    let at_c = |reason| row.worker(C).dropped(reason);
    assert_eq!(at_c(DropReason::UnknownLabel), 10);
    assert_eq!(at_c(DropReason::ForeignLabel), 11);
    assert_eq!(at_c(DropReason::Malformed), 12);
}

// --- Five engines in a row ---

struct Row {
    engines: Vec<Engine>,
}

struct Channel {
    id: ChannelId,
    stats: [Arc<ChannelStats>; PEERS],
    /// Where programs send to.
    entry: SocketAddr,
}

impl Row {
    fn new(backend: BackendChoice, intruder: SocketAddr) -> Self {
        let engine = |_| {
            let listen = "127.0.0.1:0".parse().expect("an address");
            let (dscp, origin) = (spanway::types::Dscp::default(), Instant::now());
            let (cpus, latency) = (vec![None], false);
            let config = EngineConfig { listen, cpus, backend, dscp, origin, latency };
            Engine::start(config).expect("it starts")
        };
        let mut engines: Vec<Engine> = (0..PEERS).map(engine).collect();
        let at: Vec<SocketAddr> = engines.iter().map(|e| e.workers()[0].address).collect();
        for lower in 0..PEERS - 1 {
            let number = lower as u16 + 1;
            engines[lower].broadcast(|| Command::SetLink(link(number, true, at[lower + 1], 1)));
            engines[lower + 1].broadcast(|| Command::SetLink(link(number, false, at[lower], 1)));
        }
        engines[C].broadcast(|| Command::SetLink(link(INTRUDER, true, intruder, 1)));
        Self { engines }
    }

    /// Opens channel `number` from A to E.
    fn channel(
        &mut self,
        number: u64,
        rate: Bandwidth,
        from: AllowedFrom,
        deliver: Deliver,
    ) -> Channel {
        let source = PeerName::new("a").expect("a name");
        let id = ChannelId { source, boot: 1, count: number };
        let stats: [Arc<ChannelStats>; PEERS] = Default::default();
        let mut ends = Vec::new();
        for (peer, from) in [(0, from), (PEERS - 1, AllowedFrom::Loopback)] {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
            ends.push(address(&socket));
            let (channel, deliver) = (id.clone(), deliver.clone());
            let stats = Arc::clone(&stats[peer]);
            let spec = EndSpec {
                channel,
                socket,
                from,
                deliver,
                gso: false,
                shape: false,
                seal: Seal::Plain,
                stats,
            };
            self.engines[peer].send(WorkerId(0), Command::AddEnd(spec));
        }
        for (peer, stats) in stats.iter().enumerate().skip(1) {
            let to = match peer {
                4 => Target::Local(id.clone()),
                _ => self.hop(number, peer + 1),
            };
            let add = Command::AddLabel {
                label: Label(label(number, peer)),
                from: LinkId(peer as u16),
                to,
                rate,
                hop: peer as u8,
                stats: Arc::clone(stats),
            };
            self.engines[peer].send(WorkerId(0), add);
        }
        let to = Some(EntrySpec { to: self.hop(number, 1), rate, max_payload: MAX_PAYLOAD });
        self.engines[0].send(WorkerId(0), Command::SetEntry { channel: id.clone(), to });
        Channel { id, stats, entry: ends[0] }
    }

    /// To peer `to`, over the link before it.
    fn hop(&self, number: u64, to: usize) -> Target {
        let port = self.engines[to].workers()[0].port;
        Target::Hop { link: LinkId(to as u16), label: Label(label(number, to)), port }
    }

    /// The intruder may send frames of `channel` to C, slowly.
    fn let_in(&mut self, label: u64, channel: &Channel) {
        let to = self.hop(channel.id.count, C + 1);
        let (label, from, stats) = (Label(label), LinkId(INTRUDER), Arc::clone(&channel.stats[C]));
        let add = Command::AddLabel { label, from, to, rate: SLOW, hop: 1, stats };
        self.engines[C].send(WorkerId(0), add);
    }

    fn settle(&mut self) {
        wait("commands applied", || self.engines.iter_mut().all(Engine::applied));
    }

    fn worker(&self, peer: usize) -> &WorkerStats {
        &self.engines[peer].workers()[0].stats
    }

    /// Waits until nothing moves; then every frame is in one counter of its peer, and what one peer
    /// sent the next one received or its kernel dropped. C received `more` from elsewhere.
    fn assert_adds_up(&self, channels: [&Channel; 3], more: u64) {
        let sum = |peer: usize, of: fn(&ChannelStats) -> u64| -> u64 {
            channels.iter().map(|channel| of(&channel.stats[peer])).sum()
        };
        let at_rest = || {
            let books = channels.iter().flat_map(|channel| &channel.stats);
            books.clone().all(|stats| stats.books().in_flight() == 0)
                && (0..PEERS - 1).all(|peer| {
                    let sent = sum(peer, |stats| load(&stats.sent));
                    let more = if peer + 1 == C { more } else { 0 };
                    let by_kernel = self.worker(peer + 1).dropped(DropReason::KernelReceive);
                    sent + more == sum(peer + 1, |stats| load(&stats.received)) + by_kernel
                })
                && (0..PEERS).all(|peer| {
                    let stats = self.worker(peer);
                    let drops: u64 = stats.drops().iter().map(|(_, frames)| frames).sum();
                    let arrived = load(&stats.datagrams) + stats.dropped(DropReason::KernelReceive);
                    arrived == load(&stats.frames) + load(&stats.heartbeats_heard) + drops
                })
        };
        let lines = || -> Vec<String> {
            let line = |peer: usize| {
                let books: Vec<_> = channels.iter().map(|c| c.stats[peer].books()).collect();
                format!("{peer}: {books:?} {:?}", self.worker(peer))
            };
            (0..PEERS).map(line).collect()
        };
        // Nothing more can come: what everybody sent has been taken.
        let deadline = Instant::now() + PATIENCE;
        let mut before = None;
        loop {
            let come: Vec<u64> = (0..PEERS)
                .map(|p| sum(p, |stats| load(&stats.entered) + load(&stats.received)))
                .collect();
            if at_rest() && before.as_ref() == Some(&come) && come.iter().all(|&come| come > 0) {
                return;
            }
            assert!(Instant::now() < deadline, "it does not add up:\n{}", lines().join("\n"));
            before = Some(come);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The label of channel `number` at `peer`.
fn label(number: u64, peer: usize) -> u64 {
    number * 100 + peer as u64
}

fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").expect("a port")
}

fn address(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().expect("it is bound")
}

fn send(from: &UdpSocket, to: SocketAddr, bytes: &[u8], count: usize) {
    for _ in 0..count {
        from.send_to(bytes, to).expect("loopback takes it");
    }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    wait_for(what, PATIENCE, || done().then_some(()));
}

// --- Real daemons ---

#[test]
fn a20_what_the_kernel_dropped_is_in_the_ledger_of_the_peer_that_slept() {
    for backend in ["uring", "mmsg"] {
        if backend == "uring" && spanway::net::probe(BackendChoice::Uring).is_err() {
            println!("skipped: no io_uring here");
            continue;
        }
        let sink = Collector::start();
        let engine = format!("[engine]\nbackend = \"{backend}\"\n\n[control]\nheartbeat = \"10s\"");
        let service = format!("[service.video]\ndeliver = \"{}\"\n", sink.address);
        let overlay = Plan::new(&["a", "r", "z"])
            .link("a", "r", "1 Gbit/s")
            .link("r", "z", "1 Gbit/s")
            .section("a", &engine)
            .section("r", &engine)
            .section("z", &engine)
            .section("z", &service)
            .on_loopback();
        let [a, r, z] = ["a", "r", "z"].map(|name| overlay.peer(name));
        let listen = a.open("z/video", "400 Mbit/s", &[])["listen"].clone();
        let listen: SocketAddr = listen.as_str().and_then(|l| l.parse().ok()).expect("open");
        overlay.freeze("r");
        let flood = Pacer::start(listen, 1, 50_000);
        pass(Duration::from_millis(600));
        let mut sent = flood.stop();
        overlay.thaw("r");
        // What comes next tells what did not.
        let rest = Pacer::start(listen, 2, 1_000);
        pass(Duration::from_millis(100));
        sent += rest.stop();

        let dropped = wait_for("a ledger that adds up along the path", PATIENCE, || {
            let ledgers = [a, r, z].map(|peer| peer.answer(&["channels", "--ledger"]).1);
            ledgers.iter().all(|ledger| ledger["adds_up"] == true).then_some(())?;
            let count = |at: usize, what: &str| ledgers[at]["channels"][0][what].as_u64();
            let by_kernel = |at: usize| {
                let dropped = &ledgers[at]["workers"][0]["dropped"]["kernel_receive"];
                dropped.as_u64().unwrap_or_default()
            };
            // The kernel counts a super-buffer of up to 64 frames as one.
            let explained = |at: usize| {
                let lost = count(at - 1, "sent")?.checked_sub(count(at, "received")?)?;
                Some((by_kernel(at)..=64 * by_kernel(at)).contains(&lost))
            };
            let all = count(0, "entered")? == sent && count(2, "delivered")? > 0;
            (all && explained(1)? && explained(2)?).then(|| by_kernel(1))
        });
        println!("{backend}: {dropped} drops of the kernel at a peer that slept");
        assert!(dropped > 0, "a peer that sleeps for 600 ms loses frames");
    }
}
