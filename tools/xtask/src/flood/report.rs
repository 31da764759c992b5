//! The tables of a record, and whether the goals are met. Pure.

use std::fmt::Write as _;

use super::Record;
use super::junk::{Aim, Junk};
use super::overlay::{Case, Trial};

/// Goodput that may be lost, in percent.
const OTHER_WORKER_GOAL: f64 = 5.0;
const SAME_WORKER_GOAL: f64 = 20.0;
const GROWTH_GOAL_KIB: i64 = 16 << 10;
/// The median answer, to that without a flood.
const P50_GOAL: f64 = 1.2;

pub(super) fn markdown(record: &Record) -> String {
    let mut text = format!("# Floods\n\n{}\n", record.facts.sentence());
    if let Some(junk) = &record.junk {
        junk_table(junk, &mut text);
    }
    if !record.control.is_empty() {
        control_table(&record.control, &mut text);
    }
    text += "\n## Goals\n\n| | is | goal | |\n| --- | ---: | ---: | --- |\n";
    for Goal { what, is, most, unit } in goals(record) {
        let met = if is <= most { "met" } else { "missed" };
        let _ = writeln!(text, "| {what} | {is:.2}{unit} | <= {most}{unit} | {met} |");
    }
    text
}

pub(super) fn goals_met(record: &Record) -> bool {
    goals(record).iter().all(|goal| goal.is <= goal.most)
}

struct Goal {
    what: String,
    is: f64,
    most: f64,
    unit: &'static str,
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn goals(record: &Record) -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut goal =
        |what: &str, is, most, unit| goals.push(Goal { what: what.to_owned(), is, most, unit });
    if let Some(junk) = &record.junk {
        let loss = |aim| 100.0 * median(of(junk, aim).map(super::junk::Trial::loss));
        goal(
            "goodput lost, junk at the other worker",
            loss(Aim::OtherWorker),
            OTHER_WORKER_GOAL,
            " %",
        );
        goal(
            "goodput lost, junk at the same worker",
            loss(Aim::SameWorker),
            SAME_WORKER_GOAL,
            " %",
        );
        let [before, after] = junk.resident_kib.map(|kib| kib as f64);
        goal("growth under junk", after - before, GROWTH_GOAL_KIB as f64, " KiB");
        goal("answers to a stranger", junk.replies as f64, 0.0, "");
    }
    let trials = &record.control;
    if trials.is_empty() {
        return goals;
    }
    for (case, what) in [
        (Case::Refresh, "beside REFRESH, to without"),
        (Case::Facts, "beside forged facts, to without"),
    ] {
        let frames = ratio(trials, case, |trial| trial.frames_p50_us);
        goal(&format!("p50 of frames {what}"), frames, P50_GOAL, "");
        let answers = ratio(trials, case, |trial| trial.p50_us);
        goal(&format!("p50 of an answer {what}"), answers, P50_GOAL, "");
    }
    let most = |value: fn(&Trial) -> i64| trials.iter().map(value).max().unwrap_or(0) as f64;
    goal("growth in a trial", most(|trial| trial.grown_kib), GROWTH_GOAL_KIB as f64, " KiB");
    let sum = |value: fn(&Trial) -> u64| trials.iter().map(value).sum::<u64>() as f64;
    goal("frames of the stream lost", sum(|trial| trial.lost), 0.0, "");
    goal("links of honest neighbours lost", sum(|trial| trial.links_lost), 0.0, "");
    goals
}

fn of(junk: &Junk, aim: Aim) -> impl Iterator<Item = &super::junk::Trial> {
    junk.trials.iter().filter(move |trial| trial.aim == aim)
}

fn junk_table(junk: &Junk, text: &mut String) {
    let _ = write!(
        text,
        "\n## Junk datagrams\n\nHalf of {:.0} frames/s without a loss; {} -> {} KiB resident; {} answers.\n\n\
         | | rounds | junk a second | frames a second | lost, % | p99, us |\n\
         | --- | ---: | ---: | ---: | ---: | ---: |\n",
        junk.no_drop_rate, junk.resident_kib[0], junk.resident_kib[1], junk.replies
    );
    for aim in Aim::ALL {
        let value = |value: fn(&super::junk::Trial) -> f64| median(of(junk, aim).map(value));
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} | {:.0} | {:.2} | {:.0} |",
            aim.words(),
            of(junk, aim).count(),
            value(|trial| trial.junk_rate),
            value(|trial| trial.sent_rate),
            100.0 * value(super::junk::Trial::loss),
            value(|trial| trial.p99_us)
        );
    }
}

fn control_table(trials: &[Trial], text: &mut String) {
    *text += "\n## Connections and messages\n\n\
         | flood | rounds | a second | not answered | answers | p50, us | to without | p99, us | to without \
         | frames' p50, us | to without | lost of the stream | growth, KiB |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
    for case in Case::ALL {
        let of: Vec<&Trial> = trials.iter().filter(|trial| trial.case == case).collect();
        let value = |value: fn(&Trial) -> f64| median(of.iter().map(|trial| value(trial)));
        let sum = |value: fn(&Trial) -> u64| of.iter().map(|trial| value(trial)).sum::<u64>();
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} | {} | {} | {:.0} | {:.2} | {:.0} | {:.2} | {:.0} | {:.2} | {} of {} | {} |",
            case.words(),
            of.len(),
            value(|trial| trial.sent_rate),
            sum(|trial| trial.refused),
            of.iter().map(|trial| trial.answers).sum::<usize>(),
            value(|trial| trial.p50_us),
            ratio(trials, case, |trial| trial.p50_us),
            value(|trial| trial.p99_us),
            ratio(trials, case, |trial| trial.p99_us),
            value(|trial| trial.frames_p50_us),
            ratio(trials, case, |trial| trial.frames_p50_us),
            sum(|trial| trial.lost),
            sum(|trial| trial.frames),
            of.iter().map(|trial| trial.grown_kib).max().unwrap_or(0)
        );
    }
}

/// The median over the rounds of one case to the quiet one of the same round.
fn ratio(trials: &[Trial], case: Case, value: fn(&Trial) -> f64) -> f64 {
    let quiet = |round| {
        let mut quiet = trials.iter().filter(|trial| trial.case == Case::Quiet);
        quiet.find(|trial| trial.round == round).map(value)
    };
    let of = trials.iter().filter(|trial| trial.case == case);
    median(of.filter_map(|trial| Some(value(trial) / quiet(trial.round)?.max(1e-9))))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::perf::record::Facts;

    fn trial(round: u32, case: Case, p50_us: f64) -> Trial {
        Trial {
            case,
            round,
            sent_rate: 1.0,
            refused: 0,
            answers: 100,
            p50_us,
            p99_us: 3.0 * p50_us,
            frames_p50_us: p50_us,
            frames: 900,
            lost: 0,
            links_up: 2,
            links_lost: 0,
            grown_kib: 12,
        }
    }

    fn record(loss: u64, beside: f64) -> Record {
        let junk = |aim, lost| super::super::junk::Trial {
            aim,
            round: 0,
            sent: 100,
            delivered: 100 - lost,
            sent_rate: 1e5,
            p99_us: 90.0,
            junk_rate: 1e6,
        };
        let trials =
            vec![junk(Aim::Nowhere, 0), junk(Aim::OtherWorker, loss), junk(Aim::SameWorker, loss)];
        Record {
            facts: Facts::default(),
            junk: Some(Junk { no_drop_rate: 2e5, trials, resident_kib: [9, 10], replies: 0 }),
            control: vec![
                trial(0, Case::Quiet, 100.0),
                trial(0, Case::Facts, beside),
                trial(1, Case::Quiet, 200.0),
                trial(1, Case::Facts, 2.0 * beside),
            ],
        }
    }

    #[test]
    fn ratios_are_taken_within_a_round_and_goals_judged() {
        let good = record(4, 110.0);
        assert!(goals_met(&good));
        let text = markdown(&good);
        assert!(text.contains("| 1.10 |") && !text.contains("missed"), "{text}");
        assert!(!goals_met(&record(6, 110.0)), "6 % lost at the other worker");
        let slow = record(4, 130.0);
        assert!(!goals_met(&slow) && markdown(&slow).contains("missed"));
    }

    #[test]
    fn every_table_has_as_many_cells_in_each_row() {
        let text = markdown(&record(4, 110.0));
        let mut columns = None;
        for line in text.lines() {
            let cells = line.starts_with('|').then(|| line.matches('|').count());
            assert!(columns.is_none() || cells.is_none() || cells == columns, "{line}");
            columns = cells;
        }
    }
}
