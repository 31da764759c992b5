//! The harness as a whole: from a stored record to every file it becomes, and one short real run.

use super::build::{self, Given, Profile};
use super::failure::Outcome;
use super::goals::{Verdict, judge};
use super::plan::{Kind, SCENARIOS};
use super::process::Interrupt;
use super::record::{Record, Settings};
use super::run::{Bench, Entry, files};
use super::{chart, metric::Metric, net};

/// Set by CI: a skipped test fails.
const REQUIRED: &str = "SPANWAY_REQUIRE_NETNS";

/// Three quick rounds as a real run wrote them.
fn sample() -> Record {
    serde_json::from_str(include_str!("../../sample/perf.json")).expect("the sample is a record")
}

#[test]
fn a_record_becomes_json_markdown_and_charts() {
    let record = sample();
    let files = files(&record).unwrap();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    let charts = ["nic-highest-rate.svg", "nic-fixed-cpu.svg", "nic-half-p99.svg"];
    assert_eq!(names, [&["perf.json", "perf.md"], &charts[..]].concat());
    let again: Record = serde_json::from_str(&files[0].1).unwrap();
    assert_eq!(again, record, "nothing is lost on the way to a file and back");
    let markdown = &files[1].1;
    for expected in ["| kernel |", "| P1 |", "| yardstick |", "| plain |", "### Latency", charts[0]]
    {
        assert!(markdown.contains(expected), "{expected} is missing in:\n{markdown}");
    }
    assert!(markdown.contains("Too few rounds"), "three rounds say little");
}

#[test]
fn every_table_has_as_many_cells_in_each_row() {
    let files = files(&sample()).unwrap();
    let mut columns = None;
    for line in files[1].1.lines() {
        let cells = line.starts_with('|').then(|| line.matches('|').count());
        assert!(columns.is_none() || cells.is_none() || cells == columns, "{line}");
        columns = cells;
    }
}

#[test]
fn a_chart_is_well_formed_and_follows_dark_mode() {
    let record = sample();
    let svg = chart::svg(&record.scenarios[0], Metric::HighestRate).unwrap();
    let (mut open, mut rest) = (Vec::new(), svg.as_str());
    while let Some((_, tag)) = rest.split_once('<') {
        let (tag, after) = tag.split_once('>').expect("a tag ends");
        let name = tag.split([' ', '/']).next().unwrap();
        match tag.strip_prefix('/') {
            Some(closed) => assert_eq!(open.pop(), Some(closed)),
            None if tag.ends_with('/') => {}
            None => open.push(name),
        }
        rest = after;
    }
    assert_eq!(open, Vec::<&str>::new());
    assert!(svg.contains("prefers-color-scheme:dark"));
    let dots = svg.matches("<circle").count();
    assert_eq!(dots, record.scenarios[0].trials.len(), "every round is a dot");
}

#[test]
fn a_goal_whose_candidates_were_not_there_is_not_measured() {
    let verdicts: Vec<Verdict> = judge(&sample()).iter().map(|judged| judged.verdict).collect();
    assert!(verdicts.iter().all(|&verdict| verdict == Verdict::NotMeasured), "{verdicts:?}");
}

#[test]
fn records_of_one_commit_and_plan_become_one_table() {
    let (one, mut other) = (sample(), sample());
    other.scenarios[0].name = "lo".to_owned();
    let both = one.clone().join(other.clone()).unwrap();
    assert_eq!(both.scenarios.len(), 2);
    assert_eq!(both.join(other.clone()).unwrap().scenarios.len(), 2, "measured again: replaced");
    other.facts.commit.push('x');
    assert!(one.clone().join(other).is_err());
    let mut shorter = sample();
    shorter.settings.probe_ms = 1;
    assert!(one.join(shorter).is_err());
}

/// One round of the yardstick in real namespaces: the numbers are those of a debug build and mean
/// nothing, that there are any means that every part works.
#[test]
fn one_quick_round_of_the_yardstick_gives_every_number() {
    if let Err(missing) = net::available() {
        assert!(std::env::var_os(REQUIRED).is_none(), "{REQUIRED} is set, but: {missing}");
        let text = format!("\n##### THE SMOKE TEST OF PERF IS SKIPPED: {missing} #####\n\n");
        // Past the test runner, which would keep what a passing test prints.
        std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes()).unwrap();
        return;
    }
    let record = quick_round().unwrap();
    let scenario = &record.scenarios[0];
    assert_eq!(scenario.failures, []);
    let trial = &scenario.trials[0];
    assert!(trial.fixed.delivered > 0 && trial.fixed.cpu_ns.unwrap() > 0.0, "{trial:?}");
    assert!(trial.blast.delivered > 0 && !trial.highest.probes.is_empty(), "{trial:?}");
    assert_eq!((trial.fixed.corrupt, trial.fixed.duplicates, trial.fixed.reordered), (0, 0, 0));
    assert_eq!(scenario.offloads["tx-udp-segmentation"], "off");
    let left = net::output(&["ip", "netns", "list"]).unwrap();
    let own = format!("spanway-perf-{}-", std::process::id());
    assert!(!left.contains(&own), "namespaces are left behind:\n{left}");
}

fn quick_round() -> Outcome<Record> {
    let programs = build::programs(&[Kind::Yardstick], &Given::default(), Profile::Dev)?;
    let entry = Entry::new(&SCENARIOS[0], &[Kind::Yardstick], &programs);
    let short = 100;
    let settings = Settings {
        rounds: 1,
        // What a debug build can do on a busy machine.
        fixed_rate: 2_000.0,
        fixed_ms: short,
        blast_ms: short,
        probe_ms: short,
        probes_max: 3,
        latency_ms: short,
    };
    let interrupt = Interrupt::default();
    Bench { settings, pktgen: programs.pktgen, interrupt }.run(&[entry])
}
