//! Connections without end from one network, and messages without end from one neighbour: what the others
//! notice in their streams and in the answers to their questions.
//!
//! ```text
//!   p00 ─── p01 ─── p02        a stream over p01; p00 asks p01 one question after the other
//!            │
//!           p03                no daemon: strangers of its network, and a neighbour with its key
//! ```
//! A trial is shorter than the time after which p01 would miss the neighbour's heartbeats.

#![expect(clippy::disallowed_methods, reason = "measures in real time")]
#![expect(clippy::print_stdout, reason = "its output is for the developer at the terminal")]

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use spanway::api::dto::Request;
use spanway::daemon::identity::Identity as Keys;
use spanway::types::{ChannelId, PeerName, PublicKey, TxId};
use spanway::wire::control::Message;
use spanway::wire::facts::{Fact, Gossip, PeerFact, Told};

use super::liar::Identity;
use super::resident_kib;
use crate::perf::failure::{Failure, Outcome};
use crate::perf::net::run;
use crate::recovery::plan::{Link, Plan, address, name};
use crate::recovery::stream::{Route, Stream, now};
use crate::recovery::variant::Variant;
use crate::recovery::world::{Tools, World, interface};

const CAPACITY_MBPS: u64 = 1_000;
/// The wire of the strangers, and the end of it that they have.
const WIRE: usize = 2;
const CONTROL_PORT: u16 = 7_000;
const FLOODED: Duration = Duration::from_millis(900);
const CONNECTING: Duration = Duration::from_secs(3);
const THREADS: u32 = 2;
/// Facts of one message, each with a signature to be looked at.
const FACTS: usize = 30;

/// What floods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Case {
    Quiet,
    /// A message that costs little.
    Refresh,
    /// One that costs much: forged facts.
    Facts,
    Connects,
}

impl Case {
    pub(crate) const ALL: [Self; 4] = [Self::Quiet, Self::Refresh, Self::Facts, Self::Connects];

    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Quiet => "nothing",
            Self::Refresh => "a neighbour: REFRESH of channels that are not there",
            Self::Facts => "a neighbour: forged facts, 30 a message",
            Self::Connects => "one network: connections",
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Trial {
    pub(crate) case: Case,
    pub(crate) round: u32,
    /// Messages or connections a second that were sent, and connections that p01 did not answer.
    pub(crate) sent_rate: f64,
    pub(crate) refused: u64,
    /// Of questions of p00 to p01.
    pub(crate) answers: usize,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Of the stream.
    pub(crate) frames_p50_us: f64,
    pub(crate) frames: u64,
    pub(crate) lost: u64,
    /// Links of p01 to its honest neighbours that are up behind it, and that went down meanwhile.
    pub(crate) links_up: u64,
    pub(crate) links_lost: u64,
    /// Growth of p01.
    pub(crate) grown_kib: i64,
}

pub(super) fn measure(
    rounds: u32,
    connects: u32,
    tools: &Tools,
    trials: &mut Vec<Trial>,
) -> Outcome<()> {
    let ends = [[0, 1], [1, 2], [1, 3]];
    let links = ends.map(|ends| Link { ends, capacity_mbps: CAPACITY_MBPS });
    let plan = Plan { peers: 4, links: links.to_vec() };
    let mut world = World::start(plan, Variant::Channels, &[3], tools)?;
    world.settle()?;
    add_strangers(&world)?;
    let liar = neighbour(&world)?;
    for round in 0..rounds {
        for turn in 0..Case::ALL.len() {
            let case = Case::ALL[(turn + round as usize) % Case::ALL.len()];
            world.settle()?;
            tools.interrupt.pause(Duration::from_secs(1))?;
            let trial = one(&world, case, round, connects, &liar, tools)?;
            println!(
                "{round:>3}  p50 {:>6.0} us  p99 {:>7.0} us  lost {}  {:>8.0}/s  {}",
                trial.p50_us,
                trial.p99_us,
                trial.lost,
                trial.sent_rate,
                case.words()
            );
            trials.push(trial);
        }
    }
    Ok(())
}

/// Addresses of the same network that are nobody's; what leaves without choosing has the first.
fn add_strangers(world: &World) -> Outcome<()> {
    let (namespace, wire) = (world.namespace(3), interface(WIRE));
    let [a, b, c, _] = address(WIRE, 1).octets();
    let (stranger, network) = (format!("{a}.{b}.{c}.77"), format!("{a}.{b}.{c}.0/24"));
    let own = format!("{stranger}/24");
    run(&["ip", "-n", namespace, "address", "add", &own, "dev", &wire])?;
    run(&["ip", "-n", namespace, "route", "replace", &network, "dev", &wire, "src", &stranger])
}

/// p03, which p01 has a link to.
fn neighbour(world: &World) -> Outcome<Identity> {
    let file = world.hosts[3].config.with_extension("key");
    let keys = Keys::load(&file).map_err(Failure::of(file.display()))?;
    let name = PeerName::new(&name(3)).map_err(Failure::of("a name"))?;
    Ok(Identity { name, key: keys.signing_key().clone() })
}

fn one(
    world: &World,
    case: Case,
    round: u32,
    connects: u32,
    liar: &Identity,
    tools: &Tools,
) -> Outcome<Trial> {
    let relay = world.daemon_ids().nth(1).ok_or_else(|| Failure::new("p01 does not run"))?;
    let channel = world.open([0, 2], 0, "3Mbit/s", &[])?;
    let channel = channel.ok_or_else(|| Failure::new("the overlay has no room"))?;
    let route = Route {
        from_namespace: world.namespace(0).to_owned(),
        to: channel.listen,
        into_namespace: world.namespace(2).to_owned(),
        at: World::receiver(0),
    };
    let before = (resident_kib(relay)?, refused(world)?, downs(world)?);
    let stream = Stream::start(&route, 1)?;
    let flood = Sending::start(world.namespace(3), case, connects, liar)?;
    tools.interrupt.pause(Duration::from_millis(100))?;
    let from = now();
    let asked = ask(world, if case == Case::Connects { CONNECTING } else { FLOODED })?;
    let until = now();
    let sent_rate = flood.stop()?;
    let grown = resident_kib(relay)?.cast_signed() - before.0.cast_signed();
    let (refused, links_lost) = (refused(world)? - before.1, downs(world)? - before.2);
    let flow = stream.stop()?;
    world.close(&channel)?;
    let at = |part: f64| quantile(&asked, part);
    Ok(Trial {
        case,
        round,
        sent_rate,
        refused,
        answers: asked.len(),
        p50_us: at(0.5),
        p99_us: at(0.99),
        frames_p50_us: flow.latency_p50_us(from, until).unwrap_or_default(),
        frames: flow.sent.len() as u64,
        lost: flow.lost(),
        links_up: links(world)?.iter().filter(|link| link["state"] == "up").count() as u64,
        links_lost,
        grown_kib: grown,
    })
}

/// One question after the other, a moment apart; how long each took.
fn ask(world: &World, time: Duration) -> Outcome<Vec<Duration>> {
    let (begun, mut took) = (Instant::now(), Vec::new());
    let peer = PeerName::new(&name(1)).map_err(Failure::of("a name"))?;
    while begun.elapsed() < time {
        let at = Instant::now();
        world.ask(0, &Request::Services { peer: peer.clone() })?;
        took.push(at.elapsed());
        thread::sleep(Duration::from_micros(500));
    }
    took.sort();
    Ok(took)
}

fn quantile(sorted: &[Duration], part: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a position in a list"
    )]
    let at = (sorted.len() as f64 * part) as usize;
    sorted.get(at).map_or(0.0, |took| took.as_secs_f64() * 1e6)
}

/// Of p01, to its honest neighbours.
fn links(world: &World) -> Outcome<Vec<Value>> {
    let rows = world.ask(1, &Request::Links)?;
    let rows = rows.as_array().cloned().unwrap_or_default();
    Ok(rows.into_iter().filter(|row| row["peer"] != name(3)).collect())
}

/// Connections of theirs that ended.
fn downs(world: &World) -> Outcome<u64> {
    Ok(links(world)?.iter().filter(|link| !link["last_failure"].is_null()).count() as u64)
}

fn refused(world: &World) -> Outcome<u64> {
    let status = world.ask(1, &Request::Status)?;
    let counts = &status["control"]["handshakes"];
    let of = |result: &str| counts[result].as_u64().unwrap_or(0);
    Ok(of("refused_rate") + of("refused_at_once"))
}

/// A flood that goes on until it is stopped.
struct Sending {
    stop: Arc<AtomicBool>,
    begun: Instant,
    threads: Vec<JoinHandle<Outcome<u64>>>,
}

/// What a thread sends until it is told to stop: how much.
type Work = Box<dyn FnOnce(&AtomicBool) -> Outcome<u64> + Send>;

impl Sending {
    fn start(namespace: &str, case: Case, connects: u32, liar: &Identity) -> Outcome<Self> {
        let (stop, begun) = (Arc::new(AtomicBool::new(false)), Instant::now());
        let to = SocketAddr::from((address(WIRE, 0), CONTROL_PORT));
        let mut threads = Vec::new();
        let mut spawn = |work: Work| {
            let (path, told) = (format!("/run/netns/{namespace}"), Arc::clone(&stop));
            threads.push(thread::spawn(move || {
                let file = File::open(&path).map_err(Failure::of(&path))?;
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(std::io::Error::from)
                    .map_err(Failure::of(&path))?;
                work(&told)
            }));
        };
        match case {
            Case::Quiet => {}
            Case::Connects => {
                let pause = Duration::from_secs(1) / (connects / THREADS).max(1);
                for _ in 0..THREADS {
                    spawn(Box::new(move |told| Ok(connect(to, pause, told))));
                }
            }
            Case::Refresh | Case::Facts => {
                let (name, key) = (liar.name.clone(), liar.key.clone());
                let message = message(case, liar.public_key());
                spawn(Box::new(move |told| say(&Identity { name, key }, to, &message, told)));
            }
        }
        Ok(Self { stop, begun, threads })
    }

    /// How much a second.
    #[expect(clippy::cast_precision_loss, reason = "few")]
    fn stop(self) -> Outcome<f64> {
        self.stop.store(true, Ordering::Relaxed);
        let seconds = self.begun.elapsed().as_secs_f64();
        let mut sent = 0;
        for thread in self.threads {
            sent += thread.join().map_err(|_| Failure::new("a flood panicked"))??;
        }
        Ok(sent as f64 / seconds)
    }
}

fn connect(to: SocketAddr, pause: Duration, told: &AtomicBool) -> u64 {
    let (begun, mut tried) = (Instant::now(), 0_u32);
    while !told.load(Ordering::Relaxed) {
        thread::sleep((pause * tried).saturating_sub(begun.elapsed()));
        // Refused, reset or let in and dropped: all the same to a flood.
        let _ = TcpStream::connect_timeout(&to, Duration::from_millis(100));
        tried += 1;
    }
    tried.into()
}

fn say(liar: &Identity, to: SocketAddr, message: &Message, told: &AtomicBool) -> Outcome<u64> {
    let mut link = liar.link(to).map_err(Failure::new)?;
    let most = Some(Duration::from_millis(50));
    link.stream.set_write_timeout(most).map_err(Failure::of("the neighbour's socket"))?;
    let mut said = 0;
    // Where p01 reads no more for now the write waits; a part that was written ends the connection.
    while !told.load(Ordering::Relaxed) && link.say(message).is_ok() {
        said += 1;
    }
    while !told.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(5));
    }
    Ok(said)
}

fn message(case: Case, key: PublicKey) -> Message {
    let peer = |at: usize| PeerName::new(&format!("ghost-{at}")).expect("a name");
    if case == Case::Refresh {
        let channel = ChannelId { source: peer(0), boot: 1, count: 1 };
        return Message::Refresh(vec![TxId { channel, attempt: 1 }]);
    }
    let fact = |at| PeerFact {
        origin: peer(at),
        key,
        version: 1,
        leaving: false,
        egress: None,
        ingress: None,
        signature: [7; 64],
    };
    let told = |at| Told { age_ms: 0, fact: Fact::Peer(fact(at)) };
    Message::Gossip(Gossip::Facts((0..FACTS).map(told).collect()))
}
