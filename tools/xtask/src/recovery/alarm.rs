//! No false alarm: a generator that sends as fast as it can over all peers in a row, everybody on the
//! same CPUs; no link may be taken for dead.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use spanway::api::client::HangUp;

use super::plan::{Plan, name};
use super::record::Alarm;
use super::stream::wait_while;
use super::variant::Variant;
use super::weather::Weather;
use super::world::{Tools, World};
use crate::perf::failure::{Failure, Outcome};
use crate::perf::process::{Running, Ticks};

/// Far above what two CPUs carry, so that nothing is policed.
const CAPACITY_MBPS: u64 = 1_000_000;
const CHANNELS: &str = "8";
const BANDWIDTH: &str = "5Gbit/s";
/// The generator opens its channels and the sink counts the rest meanwhile.
const AROUND: Duration = Duration::from_secs(30);
/// The generator says with 3 that something was not perfect; at full load it never is.
const ENDS_WELL: [i32; 2] = [0, 3];

/// Loads the overlay for so long.
pub(crate) fn alarm(
    peers: usize,
    variant: Variant,
    duration: Duration,
    tools: &Tools,
) -> Outcome<Alarm> {
    let (generator, sink) = (0, peers + 1);
    let plan = Plan::line(peers + 2, CAPACITY_MBPS);
    let mut world = World::start(plan, variant, &[generator, sink], tools)?;
    world.settle()?;
    let folder = world.hosts[sink].config.with_extension("sink");
    let words = ["sink", "--once", "--verify", "none", "--json", "--config"];
    let taking = start(&world, sink, &words, &folder, tools)?;
    let to = format!("{}/s0", name(sink));
    let milliseconds = format!("{}ms", duration.as_millis());
    let words = [
        "gen",
        "--to",
        &to,
        "--channels",
        CHANNELS,
        "--bandwidth",
        BANDWIDTH,
        "--rate",
        "max",
        "--size",
        "200",
        "--duration",
        &milliseconds,
        "--json",
        "--config",
    ];
    let watch = Watch::start(&world)?;
    let folder = world.hosts[generator].config.with_extension("generator");
    let sending = start(&world, generator, &words, &folder, tools)?;
    // The first and the last link come up now; from then on none may go.
    wait_while(&tools.interrupt, AROUND, || Ok(watch.ups() < 2))?;
    let (before, busy) = (Weather::read(world.daemon_ids()), cpus()?);
    tools.interrupt.pause(duration)?;
    let busy_now = cpus()?;
    let [steal_ms, run_queue_ms] = Weather::read(world.daemon_ids()).since(&before);
    let mut link_downs = watch.downs();
    let generated = sending.finish(AROUND, &ENDS_WELL, &tools.interrupt)?;
    let sunk = taking.finish(AROUND, &ENDS_WELL, &tools.interrupt)?;
    watch.stop();
    let generated: Value = serde_json::from_str(&generated).map_err(Failure::of("gen"))?;
    let sunk: Value = serde_json::from_str(&sunk).map_err(Failure::of("sink"))?;
    let received = number(&sunk, "/outcome/taken/totals/received")?;
    let run_ms = number(&generated, "/run_ms")?;
    for (who, report) in [("generator", &generated), ("sink", &sunk)] {
        let lost = number(report, "/links_lost")?;
        if lost > 0.0 {
            link_downs.push(format!("{who}: its link was lost {lost} times"));
        }
    }
    let busy = busy_now.iter().zip(&busy).map(|(now, then)| now.busy_since(*then));
    Ok(Alarm {
        who: variant.name().to_owned(),
        seconds: duration.as_secs(),
        received_per_second: received / run_ms * 1e3,
        busy: busy.fold(1.0, f64::min),
        link_downs,
        steal_ms,
        run_queue_ms,
    })
}

/// Every CPU's ticks so far.
fn cpus() -> Outcome<Vec<Ticks>> {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    (0..u32::try_from(count).unwrap_or(1)).map(Ticks::read).collect()
}

fn start(
    world: &World,
    peer: usize,
    words: &[&str],
    log: &std::path::Path,
    tools: &Tools,
) -> Outcome<Running> {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", world.namespace(peer)]).arg(&tools.pktgen).args(words);
    command.arg(&world.hosts[peer].config).stdin(Stdio::null());
    let file = |extension| {
        let path: PathBuf = log.with_extension(extension);
        fs::File::create(&path).map_err(Failure::of(path.display()))
    };
    command.stdout(file("out")?).stderr(file("err")?);
    let child = command.spawn().map_err(Failure::of("ip netns exec"))?;
    Ok(Running::of(child, words[0], log))
}

fn number(document: &Value, pointer: &str) -> Outcome<f64> {
    let number = document.pointer(pointer).and_then(Value::as_f64);
    number.ok_or_else(|| Failure::new(format!("no {pointer} in {document}")))
}

/// Threads that take down what happens at every daemon.
struct Watch {
    seen: Arc<Mutex<Seen>>,
    connections: Vec<HangUp>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    ups: usize,
    downs: Vec<String>,
}

impl Watch {
    fn start(world: &World) -> Outcome<Self> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (mut connections, mut threads) = (Vec::new(), Vec::new());
        for peer in world.running() {
            let lines = world.events(peer)?;
            connections.push(lines.hang_up().map_err(Failure::of(name(peer)))?);
            let seen = Arc::clone(&seen);
            threads.push(std::thread::spawn(move || {
                for line in lines.map_while(Result::ok) {
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    match line["event"].as_str() {
                        Some("link_up") => seen.ups += 1,
                        Some("link_down") => {
                            seen.downs.push(format!("{}: {}", name(peer), line["text"]));
                        }
                        _ => {}
                    }
                }
            }));
        }
        Ok(Self { seen, connections, threads })
    }

    fn ups(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).ups
    }

    fn downs(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).downs.clone()
    }

    fn stop(self) {
        self.connections.iter().for_each(HangUp::close);
        for thread in self.threads {
            // One that panicked has printed why.
            let _ = thread.join();
        }
    }
}
