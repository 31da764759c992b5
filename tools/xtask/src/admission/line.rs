//! Requests that may wait: they come and go by chance, and nobody may be overtaken.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use spanway::proto::{Answer, Request};
use spanway::sim::Sim;
use spanway::types::{PeerName, RequestId, Time};
use spanway::wire::queue::Scarce;

use super::model::{Ask, Strategy};
use super::{Arguments, Scene, open};
use crate::perf::statistics::Random;

/// Mean time between two requests of the whole overlay, and mean life of a channel.
const ARRIVALS_S: f64 = 1.0;
const LIVES_S: f64 = 40.0;
const PATIENCE: Duration = Duration::from_secs(60);
const REQUESTS: usize = 200;
const LOOK: Duration = Duration::from_millis(50);

#[derive(Serialize)]
pub(super) struct Row {
    strategy: &'static str,
    asked: u64,
    open: u64,
    never: u64,
    late: u64,
    /// Of those that waited and got their channel, in seconds.
    waited: Vec<f64>,
    /// A later request got room on a link where an earlier one stood in line.
    pub(super) violations: u64,
}

/// A request that has no final answer, or a channel that will be closed.
struct Life {
    id: RequestId,
    ask: Ask,
    asked: Time,
    ends: Option<Time>,
}

/// Where a request stood in line a moment ago.
struct Place {
    id: RequestId,
    asked: Time,
    link: (PeerName, PeerName),
}

pub(super) fn measure(strategy: Strategy, arguments: &Arguments) -> Row {
    let (asked, open, never, late, violations) = (0, 0, 0, 0, 0);
    let waited = Vec::new();
    let mut row = Row { strategy: strategy.as_str(), asked, open, never, late, waited, violations };
    for overlay in 0..arguments.lines {
        let scene = Scene::new(arguments.seed + overlay, arguments, REQUESTS);
        one(&scene, strategy, &mut row);
    }
    row
}

fn one(scene: &Scene, strategy: Strategy, row: &mut Row) {
    let mut sim = scene.started();
    let mut random = Random(scene.seed ^ 0x006c_696e_6573);
    let mut exponential = |mean: f64| {
        let uniform = (random.next() >> 11) as f64 / (1_u64 << 53) as f64;
        Duration::from_secs_f64(-(1.0 - uniform).ln() * mean)
    };
    let mut asks = scene.asks.iter();
    let mut next = sim.now();
    let mut lives: Vec<Life> = Vec::new();
    let mut more = true;
    while more || !lives.is_empty() {
        while more && next <= sim.now() {
            let Some(ask) = asks.next() else {
                more = false;
                break;
            };
            let id = open(&mut sim, *ask, strategy, Some(PATIENCE));
            row.asked += 1;
            lives.push(Life { id, ask: *ask, asked: sim.now(), ends: None });
            next = next + exponential(ARRIVALS_S);
        }
        let lines = in_line(&sim, &lives);
        sim.run_until(sim.now() + LOOK);
        let now = sim.now();
        let mut left = Vec::new();
        for mut life in lives {
            match (life.ends, sim.answer(life.id)) {
                (Some(ends), Some(Answer::Open(opened))) if ends <= now => {
                    let channel = opened.channel.clone();
                    sim.request(life.ask.from, Request::Close { channel });
                }
                (None, Some(Answer::Open(opened))) => {
                    row.open += 1;
                    row.waited.extend(opened.explanation.waited.map(|waited| waited.as_secs_f64()));
                    row.violations += overtaken(&sim, &lines, &life, &opened.path);
                    life.ends = Some(now + exponential(LIVES_S));
                    left.push(life);
                }
                (None, Some(Answer::Rejected(why))) => {
                    let never = why.reason == spanway::types::Reject::Never;
                    *(if never { &mut row.never } else { &mut row.late }) += 1;
                }
                _ => left.push(life),
            }
        }
        lives = left;
    }
}

/// Who stands in line now, since when, and from which peer to which.
fn in_line(sim: &Sim, lives: &[Life]) -> Vec<Place> {
    let mut lines = Vec::new();
    for life in lives.iter().filter(|life| life.ends.is_none()) {
        let Some(node) = sim.node(life.ask.from) else { continue };
        let waiting = node.waiting(sim.now()).into_iter();
        // The request of this life is the one for as much that has waited since it was asked.
        let age = sim.now().since(life.asked);
        let own = waiting.filter(|view| {
            let near = age.abs_diff(view.waited) < Duration::from_millis(200);
            near && [view.rate.bps(), view.rate_back.bps()] == [life.ask.rate, life.ask.rate_back]
        });
        for short in own.flat_map(|view| view.short) {
            if let Scarce::Link(far) = short.of {
                lines.push(Place { id: life.id, asked: life.asked, link: (short.at, far) });
            }
        }
    }
    lines
}

/// Places of earlier requests that still wait, on links of a path that a later one got.
fn overtaken(sim: &Sim, lines: &[Place], life: &Life, path: &[PeerName]) -> u64 {
    let earlier = |place: &&Place| place.asked + LOOK * 2 < life.asked;
    let waits = |place: &&Place| sim.answer(place.id).is_none();
    let on = |place: &&Place| {
        path.windows(2).any(|hop| (&hop[0], &hop[1]) == (&place.link.0, &place.link.1))
    };
    lines.iter().filter(earlier).filter(waits).filter(on).count() as u64
}

pub(super) fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "Requests that wait for up to {} s, one a second (Poisson), channels that last {LIVES_S} s in the mean; \
         {REQUESTS}\nrequests an overlay.\n\n\
         | path | asked | open | never | out of time | waited | mean wait s | longest | overtaken |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        PATIENCE.as_secs()
    );
    for Row { strategy, asked, open, never, late, waited, violations } in rows {
        let many = waited.len();
        let mean = waited.iter().fold(0.0, |sum, waited| sum + waited) / many.max(1) as f64;
        let longest = waited.iter().copied().fold(0.0, f64::max);
        let _ = writeln!(
            text,
            "| `{strategy}` | {asked} | {open} | {never} | {late} | {many} | {mean:.1} | {longest:.1} | {violations} |"
        );
    }
    text
}
