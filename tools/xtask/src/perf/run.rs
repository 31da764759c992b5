//! A run: the scenarios one after the other, their candidates in turn within each round, every trial
//! into the record; and the files that a record becomes.

use std::fs;
use std::path::{Path, PathBuf};

use super::candidates::{Candidate, Programs};
use super::failure::{Failure, Outcome};
use super::net::{Network, ReceiveBuffers, available, remove_leftovers};
use super::plan::{Kind, Scenario, rotated};
use super::process::Interrupt;
use super::progress::Progress;
use super::record::{Absent, Record, ScenarioRecord, Settings, Trial, VERSION};
use super::report::{CHARTS, chart_file, markdown, number};
use super::search::Highest;
use super::trial::{RELAY_CPU, Stage};
use super::{chart, facts, record};

/// One scenario with those candidates that are there.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) scenario: &'static Scenario,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) absent: Vec<Absent>,
    /// Whom the others are compared with.
    pub(crate) references: Vec<String>,
}

impl Entry {
    /// Finds the candidates of a scenario; of those only these kinds, if any are named.
    pub(crate) fn new(scenario: &'static Scenario, only: &[Kind], programs: &Programs) -> Self {
        let kinds = if only.is_empty() { scenario.candidates } else { only };
        let fits = |kind: &Kind| scenario.channels > 0 || !kind.is_overlay();
        let (mut candidates, mut absent) = (Vec::new(), Vec::new());
        for kind in kinds.iter().copied().filter(fits) {
            match Candidate::find(kind, programs) {
                Ok(candidate) => candidates.push(candidate),
                Err(why) => {
                    absent.push(Absent { name: kind.name().to_owned(), why: why.to_string() });
                }
            }
        }
        let references = ["yardstick", "nginx"].map(str::to_owned).into_iter();
        let there = |name: &String| candidates.iter().any(|candidate| candidate.name == *name);
        let references = references.filter(there).collect();
        Self { scenario, candidates, absent, references }
    }
}

/// What a run needs besides its scenarios.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) settings: Settings,
    pub(crate) pktgen: PathBuf,
    pub(crate) interrupt: Interrupt,
}

impl Bench {
    /// Measures all; a record with what there is if the operator interrupts it.
    pub(crate) fn run(&self, entries: &[Entry]) -> Outcome<Record> {
        available()?;
        remove_leftovers();
        let _buffers = ReceiveBuffers::enlarge()?;
        let scratch = Scratch::new()?;
        let trials = entries.iter().map(|entry| entry.candidates.len()).sum::<usize>();
        let trials = u32::try_from(trials).map_err(Failure::of("trials"))? * self.settings.rounds;
        let mut progress = Progress::new(trials);
        let mut record = Record {
            version: VERSION,
            facts: facts::gather(),
            settings: self.settings,
            scenarios: Vec::new(),
        };
        for entry in entries {
            let mut scenario = start_of(entry);
            let result = self.scenario(entry, &scratch.0, &mut scenario, &mut progress);
            record.scenarios.push(scenario);
            match result {
                Err(Failure::Interrupted) => break,
                other => other?,
            }
        }
        Ok(record)
    }

    fn scenario(
        &self,
        entry: &Entry,
        folder: &Path,
        record: &mut ScenarioRecord,
        progress: &mut Progress,
    ) -> Outcome<()> {
        let network = Network::new(entry.scenario, RELAY_CPU)?;
        record.offloads.clone_from(&network.offloads);
        let stage = Stage {
            scenario: entry.scenario,
            settings: &self.settings,
            network: &network,
            pktgen: &self.pktgen,
            folder,
            interrupt: &self.interrupt,
        };
        for round in 0..self.settings.rounds {
            for candidate in rotated(&entry.candidates, round) {
                let head = format!("{} round {} {}", record.name, round + 1, candidate.name);
                let note = |what: &str| progress.note(&format!("{head}: {what}"));
                match stage.trial(candidate, round, progress.done(), note) {
                    Ok(trial) => {
                        progress.trial(&format!("{head}: {}", line(&trial)));
                        record.trials.push(trial);
                    }
                    Err(Failure::Interrupted) => return Err(Failure::Interrupted),
                    Err(Failure::Failed(error)) => {
                        progress.trial(&format!("{head}: FAILED: {error}"));
                        let candidate = candidate.name.clone();
                        record.failures.push(record::Failure { candidate, round, error });
                    }
                }
            }
        }
        Ok(())
    }
}

/// Writes `perf.json`, `perf.md` and the charts.
pub(crate) fn write(record: &Record, folder: &Path) -> Outcome<()> {
    fs::create_dir_all(folder).map_err(Failure::of(folder.display()))?;
    for (name, content) in files(record)? {
        let file = folder.join(name);
        fs::write(&file, content).map_err(Failure::of(file.display()))?;
    }
    Ok(())
}

/// Names and contents.
pub(crate) fn files(record: &Record) -> Outcome<Vec<(String, String)>> {
    let json = serde_json::to_string(record).map_err(Failure::of("perf.json"))?;
    let mut files =
        vec![("perf.json".to_owned(), json + "\n"), ("perf.md".to_owned(), markdown(record))];
    for scenario in &record.scenarios {
        for metric in CHARTS {
            if let Some(svg) = chart::svg(scenario, metric) {
                files.push((chart_file(scenario, metric), svg));
            }
        }
    }
    Ok(files)
}

fn start_of(entry: &Entry) -> ScenarioRecord {
    ScenarioRecord {
        name: entry.scenario.name.to_owned(),
        title: entry.scenario.title.to_owned(),
        size: entry.scenario.size,
        mtu: entry.scenario.mtu,
        offloads: std::collections::BTreeMap::new(),
        candidates: entry.candidates.iter().map(Candidate::record).collect(),
        references: entry.references.clone(),
        absent: entry.absent.clone(),
        trials: Vec::new(),
        failures: Vec::new(),
    }
}

/// A trial in one line.
fn line(trial: &Trial) -> String {
    let Highest { rate, harness_limited, .. } = &trial.highest;
    let limited = if *harness_limited { " or more" } else { "" };
    let cpu = trial.fixed.cpu_ns.map_or_else(|| "-".to_owned(), number);
    let p99 = trial.half.as_ref().map_or_else(|| "-".to_owned(), |half| number(half.p99_us));
    format!("{} frames/s{limited}, {cpu} ns a frame, p99 {p99} us", number(*rate))
}

/// A folder for files of trials, removed when dropped.
#[derive(Debug)]
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Outcome<Self> {
        let folder = std::env::temp_dir().join(format!("spanway-perf-{}", std::process::id()));
        fs::create_dir_all(&folder).map_err(Failure::of(folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
