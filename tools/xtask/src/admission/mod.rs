//! `cargo xtask admission`: how many requests get a channel, by each way to choose a path, and how long they
//! wait if they may. The product's own peers, in the deterministic world, beside a model that knows
//! everything at once. With `--rate` how fast real daemons answer ([`rate`]).

#![allow(clippy::print_stdout, reason = "its output is for the developer at the terminal")]

mod line;
mod model;
mod rate;

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use spanway::proto::{Answer, Choice, OpenRequest, Request, ServiceConfig, ServiceKind};
use spanway::sim::{Fault, Plan, Sim};
use spanway::types::{Bandwidth, PeerName, RequestId, ServiceName, Time};

use crate::perf::statistics::Random;
use crate::recovery::plan::below;
use model::{Ask, Model, Strategy};

const MBIT: u64 = 1_000_000;
/// The overlay has agreed on its tree and its picture.
const SETTLED: Time = Time(3_000_000);

#[derive(Args)]
pub(crate) struct Arguments {
    /// Random overlays.
    #[arg(long, default_value_t = 600)]
    overlays: u64,
    #[arg(long, default_value_t = 16)]
    peers: usize,
    /// Of each overlay.
    #[arg(long, default_value_t = 40)]
    requests: usize,
    /// Percent of all possible links, besides those that join everybody.
    #[arg(long, default_value_t = 30)]
    density: usize,
    /// Between two requests. What is free is told twice a second.
    #[arg(long, default_value_t = 500)]
    spacing_ms: u64,
    /// Of the first overlay.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Overlays with departures and waiting requests, for the second table.
    #[arg(long, default_value_t = 20)]
    lines: u64,
    /// Where admission.md and admission.json go, or rate.md and rate.json.
    #[arg(long, default_value = "target/admission")]
    out: PathBuf,
    #[command(flatten)]
    lab: rate::Lab,
}

/// One way to choose a path.
#[derive(Serialize)]
struct Row {
    strategy: &'static str,
    asked: u64,
    admitted: u64,
    /// By the model that knows everything, with the same strategy.
    model: u64,
}

#[derive(Serialize)]
struct Results {
    overlays: u64,
    peers: usize,
    requests: usize,
    spacing_ms: u64,
    rows: Vec<Row>,
    lines: Vec<line::Row>,
}

/// An overlay, and what is asked for in it.
struct Scene {
    seed: u64,
    plan: Plan,
    asks: Vec<Ask>,
}

pub(crate) fn run(arguments: &Arguments) -> bool {
    if arguments.lab.rate {
        return rate::run(&arguments.lab, &arguments.out);
    }
    if arguments.peers < 2 || arguments.spacing_ms == 0 {
        println!("--peers must be at least 2 and --spacing-ms at least 1");
        return false;
    }
    let mut rows: Vec<Row> = Strategy::ALL.iter().map(|strategy| Row::of(*strategy)).collect();
    for overlay in 0..arguments.overlays {
        let scene = Scene::new(arguments.seed + overlay, arguments, arguments.requests);
        for (row, strategy) in rows.iter_mut().zip(Strategy::ALL) {
            row.asked += scene.asks.len() as u64;
            row.admitted += scene.admitted(strategy, arguments.spacing_ms);
            row.model += scene.possible(strategy);
        }
        if (overlay + 1).is_multiple_of(50) {
            println!("{} of {} overlays", overlay + 1, arguments.overlays);
        }
    }
    let lines = Strategy::ALL.map(|strategy| line::measure(strategy, arguments)).into();
    let Arguments { overlays, peers, requests, spacing_ms, .. } = *arguments;
    let results = Results { overlays, peers, requests, spacing_ms, rows, lines };
    let text = document(&results);
    println!("{text}");
    let json = serde_json::to_string_pretty(&results).expect("plain numbers");
    let write = |name: &str, text: &str| fs::write(arguments.out.join(name), text);
    let written = fs::create_dir_all(&arguments.out)
        .and_then(|()| write("admission.md", &text))
        .and_then(|()| write("admission.json", &json));
    if let Err(error) = written {
        println!("{}: {error}", arguments.out.display());
    }
    goals_met(&results)
}

/// The goals of part 4: 95 % of the model, and 1.4 times the tree alone.
fn goals_met(results: &Results) -> bool {
    let [tree, widest, both] = &results.rows[..] else { unreachable!("one row a strategy") };
    let near = |row: &Row| row.admitted * 100 >= row.model * 95;
    let orderly = results.lines.iter().all(|line| line.violations == 0);
    [tree, widest, both].into_iter().all(near)
        && both.admitted * 10 >= tree.admitted * 14
        && orderly
}

impl Row {
    fn of(strategy: Strategy) -> Self {
        Self { strategy: strategy.as_str(), asked: 0, admitted: 0, model: 0 }
    }
}

impl Scene {
    /// Capacities of 1 to 1,000 Mbit/s, requests of 20 to 200 each way between any two: so a link has one
    /// account, as in the model of the specification (2.8).
    fn new(seed: u64, arguments: &Arguments, requests: usize) -> Self {
        let (mut random, peers) = (Random(seed), arguments.peers);
        let mut below = |bound: usize| below(&mut random, bound);
        let mut links = Vec::new();
        for one in 1..peers {
            let parent = below(one);
            for other in 0..one {
                if other == parent || below(100) < arguments.density {
                    let mbit = 1 + below(1_000) as u64;
                    links.push((other, one, Bandwidth::from_bps(mbit * MBIT)));
                }
            }
        }
        let asks = (0..requests).map(|_| {
            let from = below(peers);
            let to = (from + 1 + below(peers - 1)) % peers;
            let rate = (20 + below(181) as u64) * MBIT;
            Ask { from, to, rate, rate_back: rate }
        });
        let asks = asks.collect();
        let service = ServiceName::new("deliver").expect("a name");
        let plan = Plan {
            peers: (0..peers).map(name).collect(),
            links,
            services: vec![ServiceConfig {
                name: service,
                kind: ServiceKind::Deliver,
                plain: true,
            }],
            ..Plan::default()
        };
        Self { seed, plan, asks }
    }

    fn started(&self) -> Sim {
        let mut sim = Sim::new(self.seed, &self.plan);
        (0..self.plan.peers.len()).for_each(|peer| sim.strike(Fault::Start(peer)));
        sim.run_until(SETTLED);
        sim
    }

    /// How many the product admits, one after the other.
    fn admitted(&self, strategy: Strategy, spacing_ms: u64) -> u64 {
        let mut sim = self.started();
        let mut admitted = 0;
        for ask in &self.asks {
            let id = open(&mut sim, *ask, strategy, None);
            sim.run_until(sim.now() + Duration::from_millis(spacing_ms));
            admitted += u64::from(matches!(sim.answer(id), Some(Answer::Open(_))));
        }
        admitted
    }

    fn possible(&self, strategy: Strategy) -> u64 {
        let usable = |&(a, b, rate): &(usize, usize, Bandwidth)| (a, b, rate.usable().bps());
        let links: Vec<_> = self.plan.links.iter().map(usable).collect();
        let mut model = Model::new(self.plan.peers.len(), &links);
        self.asks.iter().map(|ask| u64::from(model.admit(strategy, *ask))).sum()
    }
}

fn name(at: usize) -> PeerName {
    PeerName::new(&format!("p{at:02}")).expect("a name")
}

fn open(sim: &mut Sim, ask: Ask, strategy: Strategy, wait: Option<Duration>) -> RequestId {
    let choice = match strategy {
        Strategy::Tree => Choice::Tree,
        Strategy::Widest => Choice::Widest,
        Strategy::TreeThenWidest => Choice::TreeThenWidest,
    };
    let request = OpenRequest {
        peer: name(ask.to),
        service: ServiceName::new("deliver").expect("a name"),
        name: None,
        rate: Bandwidth::from_bps(ask.rate),
        rate_back: Bandwidth::from_bps(ask.rate_back),
        choice,
        avoid: Vec::new(),
        deadline: wait.unwrap_or(spanway::limits::OPEN_DEADLINE),
        wait: wait.is_some(),
        protect: false,
        plain: true,
    };
    sim.request(ask.from, Request::Open(request))
}

fn document(results: &Results) -> String {
    let Results { overlays, peers, requests, spacing_ms, rows, lines } = results;
    let mut text = format!(
        "# Admission, simulated\n\n{overlays} random overlays of {peers} peers, links of 1 to 1,000 Mbit/s, \
         {requests} requests each of 20 to\n200 Mbit/s both ways, one every {spacing_ms} ms; nobody leaves and nobody \
         waits. The model knows what is free everywhere.\n\n\
         | path | admitted | of those asked | the model, same strategy | of the model |\n\
         | --- | ---: | ---: | ---: | ---: |\n"
    );
    let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole.max(1) as f64;
    for Row { strategy, asked, admitted, model } in rows {
        let (share, near) = (percent(*admitted, *asked), percent(*admitted, *model));
        let _ =
            writeln!(text, "| `{strategy}` | {admitted} | {share:.1} % | {model} | {near:.1} % |");
    }
    let ratio = rows[2].admitted as f64 / rows[0].admitted.max(1) as f64;
    let _ = writeln!(text, "\n`tree-then-widest` admits {ratio:.2} times what `tree` does.\n");
    text + &line::table(lines)
}
