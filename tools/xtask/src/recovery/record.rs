//! Every number of a run, as it is stored. Pure.

use serde::{Deserialize, Serialize};

use super::flow::quantile;
use super::strike::Event;
use crate::perf::record::Facts;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) facts: Facts,
    pub(crate) settings: Settings,
    pub(crate) rows: Vec<Row>,
    pub(crate) alarms: Vec<Alarm>,
    /// What could not be measured here, and why.
    pub(crate) absent: Vec<String>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) peers: usize,
    pub(crate) trials: u32,
    pub(crate) seed: u64,
    /// Of the overlay, before each trial.
    pub(crate) quiet_ms: u64,
}

/// One event under one way to recover, or of one rival.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) event: Event,
    /// The name of a variant, or of a rival.
    pub(crate) who: String,
    pub(crate) trials: Vec<Trial>,
    /// Trials that could not be finished, in words.
    pub(crate) failures: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Trial {
    pub(crate) seed: u64,
    /// What struck where, and how that is known.
    pub(crate) struck: String,
    pub(crate) path: String,
    pub(crate) path_after: String,
    pub(crate) flow: FlowRecord,
    pub(crate) bystanders: Vec<Bystander>,
    pub(crate) steal_ms: f64,
    pub(crate) run_queue_ms: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FlowRecord {
    /// None: it did not come back.
    pub(crate) gap_ms: Option<f64>,
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) reordered: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bystander {
    pub(crate) path: String,
    pub(crate) flow: FlowRecord,
    pub(crate) before_p50_us: Option<f64>,
    pub(crate) after_p50_us: Option<f64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Alarm {
    pub(crate) who: String,
    pub(crate) seconds: u64,
    pub(crate) received_per_second: f64,
    /// Of all CPUs.
    pub(crate) busy: f64,
    /// In words, with the peer that said so.
    pub(crate) link_downs: Vec<String>,
    pub(crate) steal_ms: f64,
    pub(crate) run_queue_ms: f64,
}

impl Row {
    pub(crate) fn new(event: Event, who: &str) -> Self {
        Self { event, who: who.to_owned(), trials: Vec::new(), failures: Vec::new() }
    }

    /// Gaps in ms; one that did not end is longer than any.
    pub(crate) fn gap(&self, at: f64) -> Option<f64> {
        let gap = |trial: &Trial| trial.flow.gap_ms.unwrap_or(f64::INFINITY);
        quantile(self.trials.iter().map(gap).collect(), at)
    }

    /// Flows that the row is about: of a bystander row those beside the failure.
    pub(crate) fn flows(&self) -> impl Iterator<Item = &FlowRecord> {
        let beside = self.event == Event::Bystander;
        self.trials.iter().flat_map(move |trial| {
            let own = (!beside).then_some(&trial.flow);
            let others = trial.bystanders.iter().filter(move |_| beside);
            own.into_iter().chain(others.map(|bystander| &bystander.flow))
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "frames of a few seconds")]
    pub(crate) fn lost(&self, at: f64) -> Option<f64> {
        quantile(self.flows().map(|flow| flow.lost as f64).collect(), at)
    }

    /// Latency after the event over that before it: the median of the bystanders.
    pub(crate) fn latency_ratio(&self) -> Option<f64> {
        let bystanders = self.trials.iter().flat_map(|trial| &trial.bystanders);
        let ratios = bystanders.filter_map(|one| Some(one.after_p50_us? / one.before_p50_us?));
        quantile(ratios.collect(), 0.5)
    }
}
