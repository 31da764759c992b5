//! What a run of the harness leaves behind: facts about the machine and every single trial. Tables
//! and charts are made from this alone, so that they can be made again from a stored `perf.json`.
//!
//! Rates are frames per second, times say their unit; a value that a candidate cannot have (the CPU of
//! a kernel without a process) is absent, never 0.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::search::{Highest, Probe};

/// Of the layout of `perf.json`.
pub(crate) const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    pub(crate) facts: Facts,
    pub(crate) settings: Settings,
    pub(crate) scenarios: Vec<ScenarioRecord>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u64,
    pub(crate) virtual_machine: bool,
    pub(crate) compiler: String,
    /// Of every hole that the kernel knows on this CPU.
    pub(crate) mitigations: BTreeMap<String, String>,
    pub(crate) sysctls: BTreeMap<String, String>,
}

impl Facts {
    /// In one sentence.
    pub(crate) fn sentence(&self) -> String {
        let Self { commit, date, cpus, cpu, kernel, .. } = self;
        format!("Commit {commit}, {date}, {cpus} CPUs ({cpu}), kernel {kernel}.")
    }
}

/// How long and how often; the same for all candidates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) rounds: u32,
    /// Frames per second while CPU per frame is measured.
    pub(crate) fixed_rate: f64,
    pub(crate) fixed_ms: u64,
    pub(crate) blast_ms: u64,
    pub(crate) probe_ms: u64,
    pub(crate) probes_max: usize,
    pub(crate) latency_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ScenarioRecord {
    pub(crate) name: String,
    pub(crate) title: String,
    /// Bytes of UDP payload as generated.
    pub(crate) size: u32,
    pub(crate) mtu: u32,
    /// Features of the interfaces, as `ethtool` says them.
    pub(crate) offloads: BTreeMap<String, String>,
    pub(crate) candidates: Vec<CandidateRecord>,
    /// Names of candidates that the others are compared with.
    pub(crate) references: Vec<String>,
    /// Asked for, but not there, and why.
    pub(crate) absent: Vec<Absent>,
    pub(crate) trials: Vec<Trial>,
    pub(crate) failures: Vec<Failure>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CandidateRecord {
    pub(crate) name: String,
    pub(crate) version: String,
    /// As it is started, with placeholders for addresses.
    pub(crate) command: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Absent {
    pub(crate) name: String,
    pub(crate) why: String,
}

/// A trial that gave no numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) candidate: String,
    pub(crate) round: u32,
    pub(crate) error: String,
}

/// One candidate in one round, in a process of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Trial {
    pub(crate) candidate: String,
    pub(crate) round: u32,
    /// At the fixed rate.
    pub(crate) fixed: Load,
    /// As fast as the generator goes.
    pub(crate) blast: Load,
    pub(crate) highest: Highest,
    /// At half of the highest rate; absent where nothing passed.
    pub(crate) half: Option<Load>,
}

/// What one load saw, end to end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Load {
    /// Frames.
    pub(crate) sent: u64,
    pub(crate) delivered: u64,
    /// Frames per second while the generator ran.
    pub(crate) sent_rate: f64,
    pub(crate) delivered_rate: f64,
    pub(crate) duplicates: u64,
    pub(crate) reordered: u64,
    pub(crate) corrupt: u64,
    /// Lost in the socket of the sink: not the relay's fault.
    pub(crate) sink_drops: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    /// CPU time of the relay (and of the kernel thread that receives for it, where there is one) for
    /// each delivered frame.
    pub(crate) cpu_ns: Option<f64>,
    /// Part of the time that the relay's CPU and the generator's CPU were not idle, 0 to 1.
    pub(crate) relay_cpu_busy: f64,
    pub(crate) load_cpu_busy: f64,
}

impl Record {
    /// Both in one: scenarios of the later replace those of the same name. Only records of one commit,
    /// machine and plan may stand in one table.
    pub(crate) fn join(mut self, later: Self) -> Result<Self, &'static str> {
        if self.version != VERSION || later.version != VERSION {
            return Err("made by another version of this tool");
        }
        let of = |record: &Self| (record.facts.commit.clone(), record.facts.kernel.clone());
        if of(&self) != of(&later) {
            return Err("of another commit or kernel than the records before it");
        }
        if self.settings != later.settings {
            return Err("measured with other rounds or durations than the records before it");
        }
        let replaced = |name: &str| later.scenarios.iter().any(|scenario| scenario.name == name);
        self.scenarios.retain(|scenario| !replaced(&scenario.name));
        self.scenarios.extend(later.scenarios);
        Ok(self)
    }
}

impl Load {
    /// Part of the frames that did not arrive.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 frames")]
    pub(crate) fn loss(&self) -> f64 {
        1.0 - (self.delivered as f64 / self.sent.max(1) as f64).min(1.0)
    }

    /// Whether more was lost by the sink than on the way to it.
    pub(crate) fn lost_by_sink(&self) -> bool {
        let lost = self.sent.saturating_sub(self.delivered);
        lost > 0 && self.sink_drops * 2 > lost
    }

    /// As a probe that asked for so many frames a second.
    pub(crate) fn probe(&self, asked: f64) -> Probe {
        let (loss, lost_by_sink) = (self.loss(), self.lost_by_sink());
        Probe { asked, sent: self.sent_rate, loss, p99_us: self.p99_us, lost_by_sink }
    }
}
