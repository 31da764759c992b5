//! Whether what happened is what was promised: histories of all channels against the faults there were.
//!
//! A datagram may be missing only if it was sent while a fault on its channel's path was at work, or
//! healing. All others arrive once, in order, at their own receiver, byte for byte.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::nemesis::Strike;
use super::world::{Path_, World};

/// A datagram that is on its way when the fault strikes was sent up to so long before.
const ON_ITS_WAY: Duration = Duration::from_millis(100);
/// Missing datagrams that are shown.
const SHOWN: usize = 5;

/// One fault, and what it touched.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) strike: Strike,
    from: Instant,
    /// All was well again.
    until: Instant,
    /// By channel: every path it has had meanwhile.
    paths: Vec<Vec<Path_>>,
    /// Links that were declared dead and were not struck, in words.
    pub(crate) alarms: Vec<String>,
    /// Their ends.
    dead: Vec<[String; 2]>,
    /// Channels that ended meanwhile, and why.
    told: BTreeMap<usize, String>,
}

impl Step {
    pub(crate) fn new(
        strike: Strike,
        before: Vec<Path_>,
        told: BTreeMap<usize, String>,
        (from, until): (Instant, Instant),
    ) -> Self {
        let paths = before.into_iter().map(|path| vec![path]).collect();
        Self { strike, from, until, paths, alarms: Vec::new(), dead: Vec::new(), told }
    }

    /// Finds out from what the daemons said which paths there were, and which links died for nothing.
    pub(crate) fn touch(&mut self, world: &World) {
        for (paths, after) in self.paths.iter_mut().zip(world.paths()) {
            paths.push(after);
        }
        for told in world.told(self.from) {
            match told.event.as_str() {
                "channel_open" => {
                    let Some((channel, path)) = told.text.split_once(": ") else { continue };
                    let id = channel.trim_start_matches("channel ");
                    let at = world.channels.iter().position(|one| one.id.as_deref() == Some(id));
                    let path = path.split(" - ").map(str::to_owned).collect();
                    if let Some(at) = at {
                        self.paths[at].push(path);
                    }
                }
                "link_down" => {
                    let to = told.text.trim_start_matches("link to ");
                    let other = to.split(':').next().unwrap_or_default().to_owned();
                    let ends = [told.peer.clone(), other];
                    if !self.explains(&ends) {
                        self.alarms.push(format!("{}: {}", told.peer, told.text));
                        self.dead.push(ends);
                    }
                }
                _ => {}
            }
        }
    }

    fn explains(&self, ends: &[String; 2]) -> bool {
        ends.iter().any(|end| self.strike.peers.contains(end))
            || self.strike.is_link(&ends[0], &ends[1])
    }

    /// How many channels it touched.
    pub(crate) fn touched(&self) -> usize {
        (0..self.paths.len()).filter(|&channel| self.is_on(channel)).count()
    }

    fn is_on(&self, channel: usize) -> bool {
        let died = |path: &Path_| {
            path.windows(2).any(|pair| {
                let is = |ends: &[String; 2]| ends.iter().all(|end| pair.contains(end));
                self.dead.iter().any(is)
            })
        };
        self.paths[channel].iter().any(|path| self.strike.is_on(path) || died(path))
    }

    /// Whether it explains that a datagram of this channel, sent then, is missing.
    fn excuses(&self, channel: usize, sent: Instant) -> bool {
        (self.from - ON_ITS_WAY..=self.until).contains(&sent) && self.is_on(channel)
    }
}

/// Datagrams that may come out of order in one run, each while a fault strikes its channel's link: one
/// that flaps may hold a frame back, and the end keeps the order between paths, not on one. An end that
/// did not put two paths together would show many at each move.
const OVERTAKEN_MAX: usize = 3;

/// Panics if anything is not as it was promised.
pub(crate) fn judge(world: &World, steps: &[Step]) {
    let mut wrong = world.flows.wrong();
    let (mut sent, mut missing) = (0, 0);
    let mut overtaken = Vec::new();
    for (channel, lives) in world.flows.lives().iter().enumerate() {
        for (at, life) in lives.iter().enumerate() {
            let name = format!("c{channel:02}, life {at}");
            let mut came = vec![0_u32; life.sent.len()];
            life.got.iter().for_each(|&number| came[number] += 1);
            let twice: Vec<usize> = (0..came.len()).filter(|&number| came[number] > 1).collect();
            if !twice.is_empty() {
                wrong.push(format!("{name}: came more than once: {}", few(&twice)));
            }
            let late = life.got.windows(2).filter(|pair| pair[1] < pair[0]).map(|pair| pair[1]);
            let late: Vec<usize> = late.collect();
            let struck =
                |&number: &usize| steps.iter().any(|step| step.excuses(channel, life.sent[number]));
            let (excused, unexplained): (Vec<usize>, Vec<usize>) =
                late.into_iter().partition(struck);
            if !unexplained.is_empty() {
                wrong.push(format!("{name}: out of order: {}", few(&unexplained)));
            }
            overtaken.extend(excused.iter().map(|number| format!("{name}: {number}")));
            // What was sent last may still be on its way.
            let settled = life.got.iter().max().map_or(0, |last| last + 1);
            let lost: Vec<usize> = (0..settled).filter(|&number| came[number] == 0).collect();
            let excused =
                |&number: &usize| steps.iter().any(|step| step.excuses(channel, life.sent[number]));
            let unexplained: Vec<usize> =
                lost.iter().copied().filter(|number| !excused(number)).collect();
            if !unexplained.is_empty() {
                let lost = unexplained.len();
                wrong.push(format!("{name}: lost {lost} without a fault: {}", few(&unexplained)));
            }
            sent += life.sent.len();
            missing += lost.len();
        }
    }
    for step in steps {
        let what = &step.strike.what;
        wrong.extend(
            step.alarms.iter().map(|alarm| format!("dead without a fault: {what}: {alarm}")),
        );
        for (channel, why) in step.told.iter().filter(|(channel, _)| !step.is_on(**channel)) {
            wrong.push(format!("c{channel:02} ended beside {what}, which did not touch it: {why}"));
        }
    }
    if overtaken.len() > OVERTAKEN_MAX {
        wrong.push(format!("out of order under faults: {}", overtaken.join(", ")));
    }
    println!("{sent} datagrams, {missing} missing, all but {} explained", wrong.len());
    println!("out of order under a fault that struck their link: {overtaken:?}");
    assert!(wrong.is_empty(), "not as promised:\n{}", wrong.join("\n"));
}

fn few(numbers: &[usize]) -> String {
    let shown = &numbers[..numbers.len().min(SHOWN)];
    let more = if numbers.len() > SHOWN { ", ..." } else { "" };
    format!("{shown:?}{more}")
}

/// What was done, for the one who has to find out why it failed.
#[derive(Debug)]
pub(crate) struct Script {
    seed: u64,
    planned: usize,
    lines: Vec<String>,
    steps: Vec<Step>,
    over: bool,
}

impl Script {
    pub(crate) fn new(seed: u64, planned: usize) -> Self {
        println!("seed {seed}, {planned} steps");
        Self { seed, planned, lines: Vec::new(), steps: Vec::new(), over: false }
    }

    pub(crate) fn line(&mut self, line: String) {
        println!("{line}");
        self.lines.push(line);
    }

    pub(crate) fn add(&mut self, step: Step) {
        self.steps.push(step);
    }

    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps
    }

    pub(crate) fn finish(mut self) {
        self.over = true;
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        println!("--- the script of seed {}\n{}", self.seed, self.lines.join("\n"));
        println!(
            "--- again: SPANWAY_CHAOS_SEED={} SPANWAY_CHAOS_STEPS={} cargo test --test chaos -- --nocapture",
            self.seed, self.planned
        );
    }
}
