//! A record as Markdown, with the goals beside. Pure.

use std::fmt::Write as _;

use super::record::{Alarm, Record, Row};
use super::strike::Event;
use crate::perf::report::facts;

/// What is promised, by event and variant: a measure, its name and its highest value.
type Goal = (Event, &'static str, &'static str, fn(&Row) -> Option<f64>, f64);

const GOALS: [Goal; 8] = [
    (Event::Kill, "channels", "gap p50 in ms", |row| row.gap(0.5), 10.0),
    (Event::Kill, "channels", "gap p99 in ms", |row| row.gap(0.99), 60.0),
    (Event::Kill, "protect", "gap p50 in ms", |row| row.gap(0.5), 3.0),
    (Event::Blackhole, "channels", "gap p50 in ms", |row| row.gap(0.5), 140.0),
    (Event::Blackhole, "channels", "gap p99 in ms", |row| row.gap(0.99), 200.0),
    (Event::Leave, "channels", "frames lost, max", |row| row.lost(1.0), 0.0),
    (Event::Bystander, "channels", "frames lost, max", |row| row.lost(1.0), 0.0),
    (Event::Bystander, "channels", "latency p50, after / before", Row::latency_ratio, 1.1),
];
/// The goals are those of this many peers.
const GOAL_PEERS: usize = 12;

pub(crate) fn markdown(record: &Record) -> String {
    let settings = &record.settings;
    let mut text =
        String::from("# Recovery\n\nMade by `cargo xtask recovery`; method: `perf/README.md`.\n\n");
    text += &facts(&record.facts);
    let _ = writeln!(
        text,
        "{} peers, a datagram each ms, {} trials each, overlays from seed {}; {} ms of quiet before \
         each trial. The gap is the longest silence at the receiver around the event, less 1 ms. Steal \
         and run-queue wait (of all threads of all daemons together) are of one trial.\n",
        settings.peers, settings.trials, settings.seed, settings.quiet_ms
    );
    text += &goals(record);
    text += "## Rows\n\n| event | who | trials | gap p50 ms | p99 | max | lost p50 | max | again | \
             out of order | latency after / before | steal ms p50, max | run-queue wait ms p50, max |\n\
             | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
    for row in &record.rows {
        text += &line(row);
    }
    for alarm in &record.alarms {
        text += &alarm_words(alarm);
    }
    let failed = record.rows.iter().flat_map(|row| {
        row.failures.iter().map(move |why| format!("{}, {}: {why}", row.event.words(), row.who))
    });
    let missing: Vec<String> = record.absent.iter().cloned().chain(failed).collect();
    if !missing.is_empty() {
        text += "\n## Not measured\n\n";
        for why in missing {
            let _ = writeln!(text, "- {why}");
        }
    }
    text
}

fn goals(record: &Record) -> String {
    if record.settings.peers != GOAL_PEERS {
        return format!("The goals are those of {GOAL_PEERS} peers; these figures have none.\n\n");
    }
    let mut text = String::from(
        "## Goals\n\n| event | who | measure | measured | goal | |\n\
         | --- | --- | --- | ---: | ---: | --- |\n",
    );
    for (event, who, measure, value, goal) in GOALS {
        let row = record.rows.iter().find(|row| row.event == event && row.who == who);
        let Some(value) = row.and_then(value) else { continue };
        let verdict = if value <= goal { "met" } else { "**missed**" };
        let (event, value, goal) = (event.words(), number(value), number(goal));
        let _ = writeln!(text, "| {event} | {who} | {measure} | {value} | {goal} | {verdict} |");
    }
    for alarm in &record.alarms {
        let (count, minutes) = (alarm.link_downs.len(), alarm.seconds / 60);
        let verdict = if count == 0 { "met" } else { "**missed**" };
        let _ = writeln!(
            text,
            "| {} for {minutes} min | {} | links declared dead | {count} | 0 | {verdict} |",
            Event::Alarm.words(),
            alarm.who
        );
    }
    text + "\n"
}

fn line(row: &Row) -> String {
    let of = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
    let gap = |at| if row.event == Event::Bystander { None } else { row.gap(at) };
    let sum = |count: fn(&super::record::FlowRecord) -> u64| row.flows().map(count).sum::<u64>();
    let weather = |of: fn(&super::record::Trial) -> f64, at| {
        super::flow::quantile(row.trials.iter().map(of).collect(), at)
    };
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {}, {} | {}, {} |\n",
        row.event.words(),
        row.who,
        row.trials.len(),
        of(gap(0.5)),
        of(gap(0.99)),
        of(gap(1.0)),
        of(row.lost(0.5)),
        of(row.lost(1.0)),
        sum(|flow| flow.repeated),
        sum(|flow| flow.reordered),
        of(row.latency_ratio()),
        of(weather(|trial| trial.steal_ms, 0.5)),
        of(weather(|trial| trial.steal_ms, 1.0)),
        of(weather(|trial| trial.run_queue_ms, 0.5)),
        of(weather(|trial| trial.run_queue_ms, 1.0)),
    )
}

fn alarm_words(alarm: &Alarm) -> String {
    let mut text = format!(
        "\nFull load, {}: {} s, {:.0} frames/s arrived, every CPU at least {:.1} % busy, steal {:.0} ms, \
         run-queue wait {:.0} ms, {} links declared dead.\n",
        alarm.who,
        alarm.seconds,
        alarm.received_per_second,
        alarm.busy * 100.0,
        alarm.steal_ms,
        alarm.run_queue_ms,
        alarm.link_downs.len()
    );
    for down in &alarm.link_downs {
        let _ = writeln!(text, "- {down}");
    }
    text
}

/// Three digits are more than trials differ by.
pub(crate) fn number(value: f64) -> String {
    match value {
        value if value.is_infinite() => "never".to_owned(),
        value if value >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}
