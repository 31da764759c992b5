//! The search of RFC 2544 for the highest rate with no more than so much loss and latency.
//!
//! Pure: something else runs a step at a rate and says what came of it. A first step as fast as the
//! generator goes bounds the search; then the interval between the lowest rate that failed and the highest
//! below it that passed is halved, in ratio while the two are far apart. A rate fails only if it fails
//! each of `1 + retries` times, so that a hiccup of the machine does not cut the result. Steps are shared
//! between goals. What is reported has passed.

use serde::{Deserialize, Serialize};

use crate::latency::LatencySummary;

/// Steps of one search, over all goals.
pub const STEPS_MAX: usize = 100;
/// Below this rate nothing is searched.
const RATE_MIN: f64 = 10.0;
/// The first rates that are tried, as shares of what came through when overloaded: a little less, which
/// should pass, and a little more, which should fail.
const GUESSES: [f64; 2] = [0.9, 1.05];

/// What a rate has to fulfil.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Goal {
    pub loss_percent: f64,
    pub p99_max_ns: u64,
}

/// One rate, tried.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Datagrams per second; absent: as fast as the generator goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered: Option<f64>,
    /// What the generator sent per second.
    pub rate: f64,
    pub sent: u64,
    pub received: u64,
    pub loss_percent: f64,
    pub duplicated: u64,
    pub reordered: u64,
    pub corrupted: u64,
    /// The generator sent what was offered.
    pub reached: bool,
    /// Lost in the socket of the sink, about: the kernel counts super-buffers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink_drops: Option<u64>,
    pub latency: LatencySummary,
}

/// What kept the rate from being higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// What is being measured.
    Device,
    /// The generator sent no more: the device may carry more than this.
    Generator,
    /// The sink's own socket lost datagrams: the device may carry more than this.
    Sink,
}

/// The answer for one goal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    pub goal: Goal,
    /// The highest rate that passed; absent if none did.
    pub rate: Option<f64>,
    pub limit: Limit,
}

/// Runs steps.
pub trait Bench {
    type Error;
    /// Tries a rate, or the highest possible one. Queues are empty before and after.
    fn step(&mut self, rate: Option<f64>) -> Result<Step, Self::Error>;
}

impl Step {
    pub fn passes(&self, goal: &Goal) -> bool {
        self.received > 0
            && self.loss_percent <= goal.loss_percent
            && self.latency.p99_ns <= goal.p99_max_ns
    }

    /// More than half of what is missing was lost in the sink.
    fn sink_is_the_limit(&self) -> bool {
        let lost = self.sent.saturating_sub(self.received);
        self.sink_drops.is_some_and(|drops| drops > 0 && drops * 2 >= lost)
    }
}

/// How to search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Method {
    /// Share of a rate that may remain between passed and failed.
    pub precision: f64,
    /// How often a rate that failed is tried again.
    pub retries: u32,
}

/// Searches for each goal, strictest first; gives the answers and all steps in the order they ran.
pub fn search<B: Bench>(
    bench: &mut B,
    goals: &[Goal],
    method: Method,
) -> Result<(Vec<Found>, Vec<Step>), B::Error> {
    let mut steps = vec![bench.step(None)?];
    let mut found = Vec::new();
    for goal in goals {
        while let Some(rate) = next_rate(&steps, goal, method.precision) {
            for _ in 0..=method.retries {
                let step = bench.step(Some(rate))?;
                let passed = step.passes(goal);
                steps.push(step);
                if passed {
                    break;
                }
            }
        }
        found.push(answer(&steps, goal));
    }
    Ok((found, steps))
}

/// The interval that holds the answer: the lowest that failed and the highest that passed below it.
fn interval<'a>(steps: &'a [Step], goal: &Goal) -> (Option<&'a Step>, Option<&'a Step>) {
    let by_rate = |one: &&Step, other: &&Step| one.rate.total_cmp(&other.rate);
    let passed = || steps.iter().filter(|step| step.passes(goal));
    let in_the_end = |step: &&Step| passed().all(|passed| passed.offered != step.offered);
    let failed = steps.iter().filter(|step| !step.passes(goal)).filter(in_the_end).min_by(by_rate);
    let below = |step: &&Step| failed.is_none_or(|failed| step.rate < failed.rate);
    (passed().filter(below).max_by(by_rate), failed)
}

/// The rate to try next, or none if the answer is known.
fn next_rate(steps: &[Step], goal: &Goal, precision: f64) -> Option<f64> {
    if steps.len() >= STEPS_MAX {
        return None;
    }
    let (passed, failed) = interval(steps, goal);
    // Without a failure, everything up to the highest rate of the generator passed.
    let failed = failed?;
    let (low, high) = (passed.map_or(0.0, |passed| passed.rate), failed.rate);
    if high - low <= high * precision || high < RATE_MIN {
        return None;
    }
    // A generator that got stuck below what it was asked gets nowhere if asked for the same again.
    let is_new = |rate: f64| {
        let near = |step: &Step| step.offered.is_some_and(|offered| (offered - rate).abs() < 1.0);
        !steps.iter().any(near)
    };
    let inside = |guess: &f64| {
        let lowest = (low * (1.0 + precision)).max(RATE_MIN);
        *guess > lowest && *guess < high * (1.0 - precision) && is_new(*guess)
    };
    let came_through = failed.rate * (1.0 - failed.loss_percent / 100.0);
    let guesses = GUESSES.map(|share| share * came_through);
    let rate = match guesses.into_iter().find(inside) {
        Some(guess) if tried(steps) <= GUESSES.len() => guess,
        _ if low > 0.0 && high > 2.0 * low => (low * high).sqrt(),
        _ => f64::midpoint(low, high),
    };
    is_new(rate).then_some(rate)
}

/// Different rates so far, the highest possible one among them.
fn tried(steps: &[Step]) -> usize {
    let again = |at: usize| at > 0 && steps[at].offered == steps[at - 1].offered;
    (0..steps.len()).filter(|&at| !again(at)).count()
}

fn answer(steps: &[Step], goal: &Goal) -> Found {
    let (passed, failed) = interval(steps, goal);
    let stuck = passed.is_some_and(|passed| !passed.reached);
    let limit = match failed {
        None => Limit::Generator,
        Some(_) if stuck => Limit::Generator,
        Some(failed) if failed.sink_is_the_limit() => Limit::Sink,
        Some(_) => Limit::Device,
    };
    Found { goal: *goal, rate: passed.map(|step| step.rate), limit }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXACT: Method = Method { precision: 0.01, retries: 0 };

    /// Carries `capacity`, drops the rest; the generator goes up to `generator`.
    struct Model {
        capacity: f64,
        generator: f64,
        /// Above this share of the capacity everything waits too long.
        slow_above: f64,
        sink_drops: bool,
        steps: usize,
    }

    impl Model {
        fn new(capacity: f64, generator: f64) -> Self {
            Self { capacity, generator, slow_above: 2.0, sink_drops: false, steps: 0 }
        }

        fn search(&mut self, losses: &[f64]) -> (Vec<Found>, Vec<Step>) {
            let goal = |&loss_percent: &f64| Goal { loss_percent, p99_max_ns: 1_000 };
            let goals: Vec<_> = losses.iter().map(goal).collect();
            match search(self, &goals, EXACT) {
                Ok(result) => result,
                Err(never) => match never {},
            }
        }
    }

    impl Bench for Model {
        type Error = std::convert::Infallible;

        fn step(&mut self, offered: Option<f64>) -> Result<Step, Self::Error> {
            self.steps += 1;
            let rate = offered.unwrap_or(f64::MAX).min(self.generator);
            let lost = (rate - self.capacity).max(0.0);
            let latency = if rate > self.capacity * self.slow_above { 2_000 } else { 500 };
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a model")]
            let (sent, lost_count) = (rate as u64, lost.ceil() as u64);
            Ok(Step {
                offered,
                rate,
                sent,
                received: sent - lost_count.min(sent),
                loss_percent: lost / rate * 100.0,
                reached: offered.is_none_or(|offered| rate >= offered * 0.98),
                sink_drops: Some(if self.sink_drops { lost_count } else { 0 }),
                latency: LatencySummary { p99_ns: latency, ..LatencySummary::default() },
                ..Step::default()
            })
        }
    }

    fn rate(found: &Found) -> f64 {
        found.rate.expect("a rate passed")
    }

    #[test]
    fn the_capacity_is_found_from_below_within_the_precision() {
        for capacity in [150.0, 1_000.0, 77_777.0, 999_000.0] {
            let mut model = Model::new(capacity, 1e6);
            let (found, steps) = model.search(&[0.0]);
            let rate = rate(&found[0]);
            assert!(rate <= capacity && rate > capacity * 0.985, "{rate} of {capacity}");
            assert_eq!(found[0].limit, Limit::Device);
            assert!(steps.len() < 20, "{}", steps.len());
        }
    }

    #[test]
    fn goals_with_loss_allow_more_and_share_steps() {
        let mut model = Model::new(100_000.0, 1e6);
        let (found, steps) = model.search(&[0.0, 5.0, 20.0]);
        let rates: Vec<f64> = found.iter().map(rate).collect();
        for (rate, loss) in rates.iter().zip([0.0, 0.05, 0.2]) {
            let capacity = 100_000.0 / (1.0 - loss);
            assert!(*rate <= capacity && *rate > capacity * 0.985, "{rate} of {capacity}");
        }
        assert!(steps.len() < 30, "{}", steps.len());
    }

    #[test]
    fn a_queue_that_hides_the_overload_fails_by_its_latency() {
        let mut model = Model { slow_above: 0.5, ..Model::new(100_000.0, 1e6) };
        let (found, _) = model.search(&[0.0]);
        assert!((49_000.0..=50_000.0).contains(&rate(&found[0])), "{found:?}");
    }

    #[test]
    fn a_generator_that_is_the_limit_is_named() {
        let mut model = Model::new(1e6, 1e5);
        let (found, steps) = model.search(&[0.0]);
        assert_eq!((found[0].rate, found[0].limit), (Some(1e5), Limit::Generator));
        assert_eq!(steps.len(), 1);
    }

    #[test]
    fn a_generator_that_falls_a_little_short_does_not_end_the_search() {
        struct Short(Model);
        impl Bench for Short {
            type Error = std::convert::Infallible;
            fn step(&mut self, offered: Option<f64>) -> Result<Step, Self::Error> {
                let step = self.0.step(offered.map(|offered| offered * 0.95))?;
                Ok(Step { offered, reached: offered.is_none(), ..step })
            }
        }
        let goal = Goal { loss_percent: 0.0, p99_max_ns: 1_000 };
        let Ok((found, steps)) = search(&mut Short(Model::new(1e5, 2e5)), &[goal], EXACT);
        assert!((97_000.0..=100_000.0).contains(&rate(&found[0])), "{found:?} {}", steps.len());
    }

    #[test]
    fn a_sink_that_is_the_limit_is_named() {
        let mut model = Model { sink_drops: true, ..Model::new(1e5, 1e6) };
        let (found, _) = model.search(&[0.0]);
        assert_eq!(found[0].limit, Limit::Sink);
    }

    #[test]
    fn a_path_that_carries_nothing_ends_with_no_rate() {
        let mut model = Model::new(0.0, 1e6);
        let (found, steps) = model.search(&[0.0, 0.1]);
        assert_eq!((found[0].rate, found[1].rate), (None, None));
        assert!(steps.len() < 25, "{}", steps.len());
    }

    #[test]
    fn a_hiccup_is_tried_again_and_does_not_cut_the_result() {
        struct Hiccup(Model);
        impl Bench for Hiccup {
            type Error = std::convert::Infallible;
            fn step(&mut self, offered: Option<f64>) -> Result<Step, Self::Error> {
                let mut step = self.0.step(offered)?;
                if self.0.steps.is_multiple_of(2) {
                    step.loss_percent = 50.0;
                }
                Ok(step)
            }
        }
        let goal = Goal { loss_percent: 0.0, p99_max_ns: 1_000 };
        let mut bench = Hiccup(Model::new(100_000.0, 1e6));
        let Ok((found, _)) = search(&mut bench, &[goal], Method { retries: 1, ..EXACT });
        assert!((98_500.0..=100_000.0).contains(&rate(&found[0])), "{found:?}");
    }

    #[test]
    fn noise_cannot_make_it_run_for_ever() {
        struct Noise(u64);
        impl Bench for Noise {
            type Error = std::convert::Infallible;
            fn step(&mut self, offered: Option<f64>) -> Result<Step, Self::Error> {
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let bad = self.0 >> 63 == 1;
                let rate = offered.unwrap_or(1e6);
                let loss_percent = if bad { 1.0 } else { 0.0 };
                Ok(Step { offered, rate, sent: 100, received: 99, loss_percent, ..Step::default() })
            }
        }
        for seed in 0..50 {
            let goal = Goal { loss_percent: 0.0, p99_max_ns: 1 };
            let Ok((_, steps)) = search(&mut Noise(seed), &[goal], EXACT);
            assert!(steps.len() < STEPS_MAX, "{}", steps.len());
        }
    }
}
