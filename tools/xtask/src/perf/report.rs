//! A record as Markdown: what the machine is, the goals, then three tables for each scenario. Pure.
//!
//! Every number is a median over rounds with its 95 % bootstrap interval in brackets; `IQR` is the range
//! between the quartiles of the rounds themselves. Ratios are medians of ratios within a round.

use std::fmt::Write as _;

use super::goals::{Judgement, Verdict, judge};
use super::metric::Metric;
use super::record::{Facts, Record, ScenarioRecord, Settings};
use super::statistics::Summary;

/// Metrics that have a chart.
pub(crate) const CHARTS: [Metric; 3] = [Metric::HighestRate, Metric::FixedCpu, Metric::HalfP99];

pub(crate) fn markdown(record: &Record) -> String {
    let mut text = String::from("# Performance\n\n");
    text += "Made by `cargo xtask perf`; method and limits: `perf/README.md`.\n\n";
    text += &facts(&record.facts);
    text += &settings(&record.settings);
    text += &goals(&judge(record));
    for scenario in &record.scenarios {
        text += &section(scenario);
    }
    text
}

/// The file of a chart, beside the Markdown.
pub(crate) fn chart_file(scenario: &ScenarioRecord, metric: Metric) -> String {
    format!("{}-{}.svg", scenario.name, metric.id())
}

pub(crate) fn facts(facts: &Facts) -> String {
    let machine = if facts.virtual_machine { "virtual machine" } else { "no hypervisor" };
    let mut text = format!(
        "| fact | value |\n| --- | --- |\n| date | {} |\n| commit | {} |\n| kernel | {} |\n\
         | CPU | {} x {} ({machine}) |\n| memory | {} MiB |\n| compiler | {} |\n",
        facts.date,
        facts.commit,
        facts.kernel,
        facts.cpus,
        facts.cpu,
        facts.memory_mib,
        facts.compiler
    );
    for (name, value) in facts.mitigations.iter().chain(&facts.sysctls) {
        let _ = writeln!(text, "| {name} | {value} |");
    }
    text + "\n"
}

fn settings(settings: &Settings) -> String {
    let Settings { rounds, fixed_rate, fixed_ms, blast_ms, probe_ms, probes_max, latency_ms } =
        settings;
    let doubt = if *rounds < 8 { " **Too few rounds: the intervals mean nothing.**" } else { "" };
    format!(
        "{rounds} rounds, every candidate once in each, in rotating order, in a process of its own. \
         Fixed rate: {fixed_rate} frames/s for {fixed_ms} ms. Blast: {blast_ms} ms. Search: at most \
         {probes_max} probes of {probe_ms} ms. Latency: {latency_ms} ms.{doubt}\n\n"
    )
}

fn goals(judgements: &[Judgement]) -> String {
    let mut text = String::from(
        "## Goals\n\nMet: the median reaches the goal. Within the interval: only the 95 % interval \
         does.\n\n| id | goal | at | measured | verdict |\n| --- | --- | ---: | ---: | --- |\n",
    );
    for Judgement { goal, summary, verdict } in judgements {
        let measured = summary.as_ref().map_or_else(|| "-".to_owned(), with_interval);
        let verdict = match verdict {
            Verdict::Met => "met",
            Verdict::WithinInterval => "within the interval",
            Verdict::Missed => "**missed**",
            Verdict::NotMeasured => "not measured",
        };
        let (id, sentence, bound) = (goal.id, goal.sentence(), goal.bound());
        let _ = writeln!(text, "| {id} | {sentence} | {bound} | {measured} | {verdict} |");
    }
    text + "\n"
}

fn section(scenario: &ScenarioRecord) -> String {
    let mut text = format!("## `{}`: {}\n\n", scenario.name, scenario.title);
    let offloads = scenario.offloads.iter().map(|(name, state)| format!("{name} {state}"));
    let offloads: Vec<String> = offloads.collect();
    let _ = writeln!(text, "MTU {}; {}.\n", scenario.mtu, offloads.join(", "));
    for metric in CHARTS {
        let _ = writeln!(text, "![{}]({})", metric.title(), chart_file(scenario, metric));
    }
    text += "\n";
    text += &rates(scenario);
    text += &table(scenario, &[Metric::FixedCpu, Metric::BlastCpu], "CPU");
    text += &table(scenario, &[Metric::HalfP50, Metric::HalfP99, Metric::HalfP999], "Latency");
    text += "| candidate | version | command |\n| --- | --- | --- |\n";
    for candidate in &scenario.candidates {
        let (name, version, command) = (&candidate.name, &candidate.version, &candidate.command);
        let _ = writeln!(text, "| {name} | {version} | `{command}` |");
    }
    text += "\n";
    for absent in &scenario.absent {
        let _ = writeln!(text, "Not measured: {}: {}\n", absent.name, absent.why);
    }
    for failure in &scenario.failures {
        let (name, round, error) = (&failure.candidate, failure.round, &failure.error);
        let _ = writeln!(text, "Failed: {name} in round {}: {error}\n", round + 1);
    }
    text
}

fn rates(scenario: &ScenarioRecord) -> String {
    let metrics = [Metric::HighestRate, Metric::ZeroLossRate, Metric::BlastRate, Metric::BlastBits];
    let mut text = table(scenario, &metrics, "Rates");
    let limited = scenario.candidates.iter().filter_map(|candidate| {
        let own = scenario.trials.iter().filter(|trial| trial.candidate == candidate.name);
        let (limited, all) = own.fold((0, 0), |(limited, all), trial| {
            (limited + u32::from(trial.highest.harness_limited), all + 1)
        });
        (limited > 0).then(|| format!("{} ({limited} of {all} rounds)", candidate.name))
    });
    let limited: Vec<String> = limited.collect();
    if !limited.is_empty() {
        text += "The generator was the limit, the relay can do more: ";
        text += &limited.join(", ");
        text += ".\n\n";
    }
    text
}

/// One row for each candidate: each metric with its spread and its ratios to the references.
fn table(scenario: &ScenarioRecord, metrics: &[Metric], title: &str) -> String {
    let references = &scenario.references;
    let mut text = format!("### {title}\n\n| candidate |");
    for metric in metrics {
        let _ = write!(text, " {} | IQR |", metric.title());
        for reference in references {
            let _ = write!(text, " / {reference} |");
        }
    }
    text += "\n| --- |";
    text += &" ---: |".repeat(metrics.len() * (2 + references.len()));
    text += "\n";
    for candidate in &scenario.candidates {
        let name = &candidate.name;
        let _ = write!(text, "| {name} |");
        for metric in metrics {
            text += &cells(metric.summary(scenario, name));
            for reference in references {
                let ratio = metric.ratio(scenario, name, reference);
                let ratio = ratio.filter(|_| name != reference);
                let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| with_interval(&ratio));
                let _ = write!(text, " {ratio} |");
            }
        }
        text += "\n";
    }
    text + "\n"
}

fn cells(summary: Option<Summary>) -> String {
    let Some(summary) = summary else { return " - | - |".to_owned() };
    let [first, third] = summary.quartiles.map(number);
    format!(" {} | {first} to {third} |", with_interval(&summary))
}

fn with_interval(summary: &Summary) -> String {
    let [median, low, high] = [summary.median, summary.low, summary.high].map(number);
    format!("{median} [{low}, {high}]")
}

/// Three digits that mean something; thousands as such.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        1e6.. => format!("{:.2} M", value / 1e6),
        1e4.. => format!("{:.0} k", value / 1e3),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let numbers = [2_345_678.0, 506_178.0, 1_713.4, 99.96, 17.25, 0.944].map(number);
        assert_eq!(numbers, ["2.35 M", "506 k", "1713", "100.0", "17.2", "0.94"]);
    }
}
