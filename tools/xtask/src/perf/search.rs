//! The highest rate without loss, by halving a bracket (RFC 2544, section 26.1, with a bracket that
//! begins where a blast says it should). Pure: a probe is a function of the rate.
//!
//! A relay passes a rate if it loses little *and* delays little: queues alone could otherwise carry a
//! short probe through an overload. The generator is the limit where it does not reach the rate that
//! was asked for; then the relay can do at least what was sent.

use serde::{Deserialize, Serialize};

/// What one probe saw.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Probe {
    /// Frames per second: asked for, and really sent.
    pub(crate) asked: f64,
    pub(crate) sent: f64,
    /// Part of the frames that did not arrive, 0 to 1.
    pub(crate) loss: f64,
    pub(crate) p99_us: f64,
    /// Most of what was lost was lost behind the relay, by the sink.
    pub(crate) lost_by_sink: bool,
}

/// What passes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Criterion {
    pub(crate) loss_max: f64,
    pub(crate) p99_us_max: f64,
}

/// How much a search may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) probes_max: usize,
    /// The bracket is narrow enough when it is this part of its upper end.
    pub(crate) resolution: f64,
}

/// The generator kept up if it sent this part of what was asked for.
const KEPT_UP: f64 = 0.95;
/// The bracket around the rate that a blast delivered: an overloaded relay delivers less than it can.
const ABOVE_BLAST: f64 = 1.25;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Highest {
    /// 0 if nothing passed.
    pub(crate) rate: f64,
    /// The generator could not send more, or the sink not take it: the relay does at least this.
    pub(crate) harness_limited: bool,
    /// The highest probe that lost nothing at all.
    pub(crate) zero_loss_rate: f64,
    pub(crate) probes: Vec<Probe>,
}

/// Searches around `blast`, the rate that the relay delivered when it was sent more than it can do.
pub(crate) fn highest<E>(
    blast: f64,
    criterion: Criterion,
    effort: Effort,
    mut probe: impl FnMut(f64) -> Result<Probe, E>,
) -> Result<Highest, E> {
    let mut found = Highest::default();
    let (mut low, mut high, mut high_failed) = (0.0, blast * ABOVE_BLAST, false);
    let mut next = blast * 0.95;
    let mut limited_by_sink = false;
    while found.probes.len() < effort.probes_max && next > 0.0 {
        let seen = probe(next)?;
        found.probes.push(seen);
        let in_time = seen.p99_us <= criterion.p99_us_max;
        if in_time && seen.loss <= 0.0 {
            found.zero_loss_rate = found.zero_loss_rate.max(seen.sent);
        }
        if in_time && seen.loss <= criterion.loss_max {
            found.rate = found.rate.max(seen.sent);
            low = next;
            if seen.sent < KEPT_UP * next {
                found.harness_limited = true;
                break;
            }
        } else {
            // What a slow generator could not send did not fail.
            (high, high_failed) = (next.min(seen.sent.max(next * KEPT_UP)), true);
            limited_by_sink = seen.lost_by_sink;
        }
        let narrow = high - low <= effort.resolution * high;
        if narrow && high_failed {
            break;
        }
        if narrow {
            high *= ABOVE_BLAST;
        }
        // Nothing passed yet: the blast said too much, so go down quickly.
        next = if low > 0.0 { f64::midpoint(low, high) } else { high * 0.7 };
    }
    found.harness_limited |= limited_by_sink && found.rate > 0.0;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const CRITERION: Criterion = Criterion { loss_max: 0.001, p99_us_max: 50_000.0 };
    const EFFORT: Effort = Effort { probes_max: 20, resolution: 0.02 };

    /// A relay that loses what is above its capacity, behind a generator with a limit.
    fn relay(capacity: f64, generator: f64) -> impl FnMut(f64) -> Result<Probe, Infallible> {
        move |asked: f64| {
            let sent = asked.min(generator);
            let loss = (1.0 - capacity / sent).max(0.0);
            Ok(Probe { asked, sent, loss, p99_us: 200.0, lost_by_sink: false })
        }
    }

    #[test]
    fn a_simulated_relay_is_found_within_the_resolution() {
        for (capacity, blast) in [
            (88_000.0, 107_000.0),
            (506_000.0, 480_000.0),
            (9_000.0, 90_000.0),
            (400_000.0, 150_000.0),
        ] {
            let found = highest(blast, CRITERION, EFFORT, relay(capacity, 1e7)).unwrap();
            assert!(found.rate <= capacity * 1.001, "{found:?}");
            assert!(found.rate >= capacity * 0.975, "{found:?}");
            assert!(!found.harness_limited);
        }
    }

    #[test]
    fn a_slow_generator_is_said_to_be_the_limit() {
        let found = highest(500_000.0, CRITERION, EFFORT, relay(1e9, 400_000.0)).unwrap();
        assert!(found.harness_limited);
        assert_eq!(found.rate, 400_000.0);
        assert_eq!(found.probes.len(), 1, "no rate above it can be tried");
    }

    #[test]
    fn a_sink_that_does_not_keep_up_is_said_to_be_the_limit() {
        let mut simulated = relay(300_000.0, 1e7);
        let slow_sink = |asked| simulated(asked).map(|seen| Probe { lost_by_sink: true, ..seen });
        let found = highest(400_000.0, CRITERION, EFFORT, slow_sink).unwrap();
        assert!(found.harness_limited && found.rate > 290_000.0, "{found:?}");
    }

    #[test]
    fn queues_that_hide_an_overload_do_not_pass() {
        let bloated = |asked: f64| {
            let late = if asked > 100_000.0 { 400_000.0 } else { 300.0 };
            Ok::<_, Infallible>(Probe {
                asked,
                sent: asked,
                loss: 0.0,
                p99_us: late,
                lost_by_sink: false,
            })
        };
        let found = highest(200_000.0, CRITERION, EFFORT, bloated).unwrap();
        assert!((97_000.0..=100_000.0).contains(&found.rate), "{found:?}");
        assert_eq!(found.zero_loss_rate, found.rate);
    }

    #[test]
    fn little_loss_is_told_from_none() {
        let leaky = |asked: f64| {
            let loss = if asked > 50_000.0 { 0.0005 } else { 0.0 };
            let loss = if asked > 100_000.0 { 0.5 } else { loss };
            Ok::<_, Infallible>(Probe {
                asked,
                sent: asked,
                loss,
                p99_us: 300.0,
                lost_by_sink: false,
            })
        };
        let found = highest(60_000.0, CRITERION, EFFORT, leaky).unwrap();
        assert!(found.rate > 57_000.0 && found.zero_loss_rate < 50_001.0, "{found:?}");
    }

    #[test]
    fn a_relay_that_never_passes_ends_the_search_with_nothing() {
        let dead = |asked: f64| {
            Ok::<_, Infallible>(Probe {
                asked,
                sent: asked,
                loss: 1.0,
                p99_us: 0.0,
                lost_by_sink: false,
            })
        };
        let found = highest(1_000.0, CRITERION, EFFORT, dead).unwrap();
        assert_eq!((found.rate, found.probes.len()), (0.0, 20));
        assert_eq!(highest(0.0, CRITERION, EFFORT, dead).unwrap(), Highest::default());
    }

    #[test]
    fn a_probe_that_fails_ends_the_search() {
        let broken = |_| Err("the generator is gone");
        assert_eq!(highest(1.0, CRITERION, EFFORT, broken), Err("the generator is gone"));
    }
}
