//! The rates of admission as Markdown, with the goals beside. Pure.

use std::fmt::Write as _;

use super::{Held, Load, Record, Round};
use crate::perf::report::facts;
use crate::recovery::report::number;

/// What is promised: in words, how it is measured in a round, and its bound.
struct Goal {
    words: &'static str,
    of: fn(&Round) -> f64,
    bound: Bound,
}

enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

const GOALS: [Goal; 3] = [
    Goal {
        words: "answer over 3 links on an idle overlay, p99 in ms",
        of: |round| round.alone.open_ms.p99,
        bound: Bound::AtMost(10.0),
    },
    Goal {
        words: "admissions a second through one relay, each closed again",
        of: |round| round.together.per_second(),
        bound: Bound::AtLeast(1_000.0),
    },
    Goal {
        words: "10,000 channels set up, in s",
        of: |round| round.many.seconds * 10_000.0 / f64::from(round.many.asked),
        bound: Bound::AtMost(10.0),
    },
];

pub(super) fn goals_met(record: &Record) -> bool {
    let held = record.rounds.iter().all(Round::kept_all);
    held && GOALS.iter().all(|goal| goal.bound.allows(median(record, goal.of)))
}

pub(super) fn words(load: &Load) -> String {
    let Load { asked, seconds, open_ms, .. } = load;
    format!(
        "{asked} in {seconds:.2} s, {:.0} a second, answered in {:.2} ms (p50), {:.2} ms (p99), {:.2} ms (max)",
        load.per_second(),
        open_ms.p50,
        open_ms.p99,
        open_ms.max
    )
}

pub(super) fn markdown(record: &Record) -> String {
    let mut text = String::from(
        "# Rate of admission\n\nMade by `cargo xtask admission --rate`; method: `perf/README.md`.\n\n",
    );
    text += &facts(&record.facts);
    text += "## Goals\n\nMedians of the rounds.\n\n\
             | what | measured | goal | |\n| --- | ---: | ---: | --- |\n";
    for Goal { words, of, bound } in &GOALS {
        let value = median(record, *of);
        let verdict = if bound.allows(value) { "met" } else { "**missed**" };
        let _ = writeln!(text, "| {words} | {} | {} | {verdict} |", number(value), bound.words());
    }
    text += "\n## Rounds\n\nTimes in ms but where it says otherwise; CPU time of each daemon in us for one \
             request, in the order of the\npath. Steal and run-queue wait (of all threads of all daemons) are of \
             the whole load.\n\n\
             | round | load | requests | at once | took s | open p50 | p99 | max | close p50 | p99 | CPU us | \
             steal ms | run-queue wait ms |\n\
             | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: |\n";
    for (number, round) in (1..).zip(&record.rounds) {
        let Round { alone, together, many, beside, .. } = round;
        let loads = [
            ("3 links", alone),
            ("one relay", together),
            ("one relay, kept", many),
            ("beside those", beside),
        ];
        loads.into_iter().for_each(|(name, load)| text += &line(number, name, load));
    }
    text += "\n## Left alone\n\nChannels that are open at each peer after longer than a lease, and what keeping \
             them takes of a CPU.\n\n\
             | round | for s | channels | CPU | closed in s |\n| ---: | ---: | --- | --- | ---: |\n";
    for (number, round) in (1..).zip(&record.rounds) {
        let Held { seconds, channels, cpu, close_seconds } = &round.held;
        let cpu = list(cpu, |share| format!("{:.1} %", share * 100.0));
        let channels = list(channels, ToString::to_string);
        let _ =
            writeln!(text, "| {number} | {seconds:.1} | {channels} | {cpu} | {close_seconds:.2} |");
    }
    text
}

fn line(round: i32, name: &str, load: &Load) -> String {
    let Load { asked, in_flight, seconds, open_ms, close_ms, cpu_us, steal_ms, run_queue_ms } =
        load;
    format!(
        "| {round} | {name} | {asked} | {in_flight} | {seconds:.2} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
        number(open_ms.p50),
        number(open_ms.p99),
        number(open_ms.max),
        number(close_ms.p50),
        number(close_ms.p99),
        list(cpu_us, |us| format!("{us:.0}")),
        number(*steal_ms),
        number(*run_queue_ms)
    )
}

fn list<T>(items: &[T], words: impl Fn(&T) -> String) -> String {
    items.iter().map(words).collect::<Vec<_>>().join(", ")
}

fn median(record: &Record, of: fn(&Round) -> f64) -> f64 {
    let values = record.rounds.iter().map(of).collect();
    crate::recovery::flow::quantile(values, 0.5).unwrap_or(f64::NAN)
}

impl Load {
    fn per_second(&self) -> f64 {
        f64::from(self.asked) / self.seconds
    }
}

impl Round {
    /// Every channel was still open at every peer.
    fn kept_all(&self) -> bool {
        self.held.channels.iter().all(|&count| count == self.many.asked as usize)
    }
}

impl Bound {
    /// What is not a number is no success.
    fn allows(&self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= *most,
            Self::AtLeast(least) => value >= *least,
        }
    }

    fn words(&self) -> String {
        match self {
            Self::AtMost(most) => format!("<= {}", number(*most)),
            Self::AtLeast(least) => format!(">= {}", number(*least)),
        }
    }
}
