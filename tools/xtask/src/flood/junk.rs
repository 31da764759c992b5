//! Junk datagrams, as many as the generator can send, at a relay that carries half of what it can: at the
//! port of the worker that carries it, and at that of the other one.
//!
//! ```text
//!   a (generator) ---- r (two workers) ---- b (sink)
//!   junk      ┘        worker with the channel, or the other one
//! ```
//! On a machine with two CPUs generator, sink, junk and the second worker share one; what the generator
//! could not send is not lost.

#![expect(clippy::disallowed_methods, reason = "measures in real time")]
#![expect(clippy::print_stdout, reason = "its output is for the developer at the terminal")]

use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use spanway::api::client::Client;
use spanway::api::dto::Request;

use super::resident_kib;
use crate::perf::failure::{Failure, Outcome};
use crate::perf::load::Ends;
use crate::perf::net::{Network, ReceiveBuffers};
use crate::perf::overlay::Overlay;
use crate::perf::plan::FLOOD;
use crate::perf::process::{Invocation, Place, Running};
use crate::perf::run::Scratch;
use crate::perf::search::{Criterion, Effort, highest};
use crate::perf::trial::{LOAD_CPU, RELAY_CPU};
use crate::recovery::stream::socket;
use crate::recovery::world::Tools;

const PORT: u16 = 20_000;
/// Of a relay without a flood: RFC 2544 with the harness's tolerance.
const CRITERION: Criterion = Criterion { loss_max: 0.001, p99_us_max: 50_000.0 };
const EFFORT: Effort = Effort { probes_max: 6, resolution: 0.03 };
const LOAD: Duration = Duration::from_millis(1_000);
/// The flood is there before the load and behind it.
const AROUND: Duration = Duration::from_millis(2_500);
/// The least a datagram has that is none of ours.
const JUNK_BYTES: u32 = 47;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Junk {
    /// Frames a second without a loss.
    pub(crate) no_drop_rate: f64,
    pub(crate) trials: Vec<Trial>,
    /// Of the relay, before the first flood and behind the last.
    pub(crate) resident_kib: [u64; 2],
    /// Datagrams that came back to a stranger that sent junk all the time.
    pub(crate) replies: u64,
}

/// Where the junk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Aim {
    Nowhere,
    OtherWorker,
    SameWorker,
}

impl Aim {
    pub(crate) const ALL: [Self; 3] = [Self::Nowhere, Self::OtherWorker, Self::SameWorker];

    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Nowhere => "no junk",
            Self::OtherWorker => "junk at the other worker's port",
            Self::SameWorker => "junk at the same worker's port",
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Trial {
    pub(crate) aim: Aim,
    pub(crate) round: u32,
    pub(crate) sent: u64,
    pub(crate) delivered: u64,
    pub(crate) sent_rate: f64,
    pub(crate) p99_us: f64,
    /// Junk datagrams a second.
    pub(crate) junk_rate: f64,
}

impl Trial {
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 frames")]
    pub(crate) fn loss(&self) -> f64 {
        1.0 - (self.delivered as f64 / self.sent.max(1) as f64).min(1.0)
    }
}

struct Stage<'a> {
    ends: Ends<'a>,
    relay: Running,
    tools: &'a Tools,
}

pub(super) fn measure(rounds: u32, tools: &Tools) -> Outcome<Junk> {
    let _buffers = ReceiveBuffers::enlarge()?;
    let (network, scratch) = (Network::new(&FLOOD, RELAY_CPU)?, Scratch::new()?);
    let overlay = Overlay::below(&scratch.0, PORT);
    let cpus = format!("cpus = [{RELAY_CPU}, {LOAD_CPU}]\n");
    overlay.write(&network, PORT, &cpus)?;
    let relay = start_relay(&overlay, &network, tools)?;
    let at = |ip| SocketAddr::new(ip, PORT);
    let ends = Ends {
        pktgen: &tools.pktgen,
        network: &network,
        scenario: &FLOOD,
        relay_cpu: RELAY_CPU,
        load_cpu: LOAD_CPU,
        to: at(network.relay_ip),
        from: at(network.source_ip),
        sink: at(network.sink_ip),
        prefix: None,
        overlay: Some(overlay),
        folder: &scratch.0,
        interrupt: &tools.interrupt,
    };
    let mut stage = Stage { ends, relay, tools };
    stage.relay.wait_for_socket(at(network.relay_ip), &tools.interrupt)?;
    stage.wait_for_answers()?;
    let same = stage.worker_of_the_channel()?;
    let no_drop_rate = stage.no_drop_rate()?;
    println!("no-drop rate {:.0} frames/s, through worker {same}", no_drop_rate);
    let stranger = Stranger::start(network.source(), at(network.relay_ip))?;
    let before = resident_kib(stage.relay.id())?;
    let mut trials = Vec::new();
    for round in 0..rounds {
        for turn in 0..Aim::ALL.len() {
            let aim = Aim::ALL[(turn + round as usize) % Aim::ALL.len()];
            let worker = if aim == Aim::SameWorker { same } else { 1 - same };
            let trial = stage.trial(aim, round, no_drop_rate / 2.0, worker)?;
            println!(
                "{round:>3}  lost {:>6.2} %  of {:>8.0}/s  junk {:>9.0}/s  {}",
                100.0 * trial.loss(),
                trial.sent_rate,
                trial.junk_rate,
                aim.words()
            );
            trials.push(trial);
        }
    }
    let resident_kib = [before, resident_kib(stage.relay.id())?];
    if stage.relay.ended()? {
        return Err(stage.relay.failure("ended under the flood"));
    }
    Ok(Junk { no_drop_rate, trials, resident_kib, replies: stranger.stop()? })
}

/// Not held to one CPU: each worker has its own.
fn start_relay(overlay: &Overlay, network: &Network, tools: &Tools) -> Outcome<Running> {
    let log = overlay.relay().with_extension("log");
    let errors = std::fs::File::create(log.with_extension("err"));
    let mut command = Command::new("ip");
    command.args(["netns", "exec", network.relay()]).arg(&tools.spanway);
    command.args(["run", "--while-stdin", "--config"]).arg(overlay.relay());
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    command.stderr(errors.map_err(Failure::of(log.display()))?);
    let child = command.spawn().map_err(Failure::of("ip netns exec"))?;
    Ok(Running::of(child, "spanway", &log))
}

impl Stage<'_> {
    /// The relay's local socket comes after those of its workers.
    fn wait_for_answers(&self) -> Outcome<()> {
        for _ in 0..100 {
            if self.datagrams().is_ok() {
                return Ok(());
            }
            self.tools.interrupt.pause(Duration::from_millis(50))?;
        }
        self.datagrams().map(drop)
    }

    /// Which worker the frames come to: also sees that any do.
    fn worker_of_the_channel(&self) -> Outcome<u16> {
        for _ in 0..10 {
            let before = self.datagrams()?;
            let load =
                self.ends.run(Some(&self.relay), Some(2_000.0), Duration::from_millis(300))?;
            let after = self.datagrams()?;
            let more = after.iter().zip(&before).map(|(after, before)| after - before);
            let most = (0..).zip(more).max_by_key(|(_, more)| *more);
            if let Some((worker, _)) = most.filter(|_| load.delivered > 0) {
                return Ok(worker);
            }
        }
        Err(self.relay.failure("nothing that is sent to it arrives at the sink"))
    }

    fn datagrams(&self) -> Outcome<Vec<u64>> {
        let overlay = self.ends.overlay.as_ref().expect("there is one");
        let socket = overlay.relay().with_extension("state").join("control.sock");
        let client = Client::connect(&socket).map_err(Failure::of("the relay"))?;
        let status: Value = client.request(&Request::Status).map_err(Failure::of("the relay"))?;
        let workers = status["workers"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(workers.iter().filter_map(|worker| worker["datagrams"].as_u64()).collect())
    }

    fn no_drop_rate(&self) -> Outcome<f64> {
        let blast = self.ends.run(Some(&self.relay), None, Duration::from_millis(400))?;
        let found = highest(blast.delivered_rate, CRITERION, EFFORT, |rate| {
            let load = self.ends.run(Some(&self.relay), Some(rate), Duration::from_millis(500))?;
            Ok::<_, Failure>(load.probe(rate))
        })?;
        if found.rate > 0.0 {
            return Ok(found.rate);
        }
        Err(Failure::new("the relay passes no rate without loss"))
    }

    fn trial(&self, aim: Aim, round: u32, rate: f64, worker: u16) -> Outcome<Trial> {
        let junk = (aim != Aim::Nowhere).then(|| self.flood(worker)).transpose()?;
        // Behind the first of it.
        self.tools.interrupt.pause(Duration::from_millis(300))?;
        let load = self.ends.run(Some(&self.relay), Some(rate), LOAD)?;
        let junk_rate = junk.map(|junk| self.rate_of(junk)).transpose()?.unwrap_or(0.0);
        Ok(Trial {
            aim,
            round,
            sent: load.sent,
            delivered: load.delivered,
            sent_rate: load.sent_rate,
            p99_us: load.p99_us,
            junk_rate,
        })
    }

    fn flood(&self, worker: u16) -> Outcome<Running> {
        let network = self.ends.network;
        let namespace = network.source().to_owned();
        let place = Place { namespace, cpu: LOAD_CPU, nice: 0 };
        let (to, from) = (PORT + worker, PORT + 1_000);
        let line = format!(
            "gen --to {} --from {} --rate max --size {JUNK_BYTES} --burst 64 --gso on \
             --duration {}ms --json",
            SocketAddr::new(network.relay_ip, to),
            SocketAddr::new(network.source_ip, from),
            (LOAD + AROUND).as_millis(),
        );
        let arguments = line.split_whitespace().map(str::to_owned).collect();
        let program = self.tools.pktgen.clone();
        place.start(&Invocation { program, arguments }, &self.ends.folder.join("junk"))
    }

    fn rate_of(&self, junk: Running) -> Outcome<f64> {
        let said = junk.finish(Duration::from_secs(20), &[0, 3], &self.tools.interrupt)?;
        let said: Value = serde_json::from_str(&said).map_err(Failure::of("the junk's JSON"))?;
        said["per_second"].as_f64().ok_or_else(|| Failure::new("the junk has no rate"))
    }
}

/// Sends a little junk all the time and listens for any answer.
struct Stranger {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Stranger {
    fn start(namespace: &str, to: SocketAddr) -> Outcome<Self> {
        let socket = socket(namespace, || {
            let socket = UdpSocket::bind("0.0.0.0:0").map_err(Failure::of("a socket"))?;
            socket.set_nonblocking(true).map_err(Failure::of("a socket"))?;
            Ok(socket)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut replies = 0;
            while !told.load(Ordering::Relaxed) {
                // Without a length, too short, and a header with a label that nobody gave out.
                for bytes in [&[][..], &[0x11; 15], &[0x11; 64]] {
                    let _ = socket.send_to(bytes, to);
                }
                thread::sleep(Duration::from_millis(5));
                while socket.recv(&mut [0; 2_048]).is_ok() {
                    replies += 1;
                }
            }
            replies
        });
        Ok(Self { stop, thread })
    }

    fn stop(self) -> Outcome<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| Failure::new("the stranger panicked"))
    }
}
