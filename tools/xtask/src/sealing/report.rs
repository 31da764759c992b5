//! The table of a record: CPU time a frame, plain and sealed, and ratios within each round. Pure.

use std::fmt::Write as _;

use super::{Record, Trial};
use crate::perf::statistics::{Summary, ratios, summarize};

const PLACES: [&str; 3] = ["where it enters", "at the relay", "where it leaves"];

pub(super) fn markdown(record: &Record) -> String {
    let mut text = String::from("# What sealing costs\n");
    let _ = write!(
        text,
        "\n{} {} ms a case, {} datagrams a second. CPU time of the \
         workers, ns a frame: median of the rounds; ratios within a round, with their 95 % interval.\n\n\
         | payload | | rounds | plain | sealed | sealed to plain | dropped |\n\
         | ---: | --- | ---: | ---: | ---: | ---: | ---: |\n",
        record.facts.sentence(),
        record.milliseconds,
        record.rate,
    );
    let mut sizes: Vec<u16> = record.trials.iter().map(|trial| trial.size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for size in sizes {
        let trials: Vec<&Trial> = record.trials.iter().filter(|trial| trial.size == size).collect();
        let dropped: u64 = trials.iter().map(|trial| trial.dropped).sum();
        for (place, words) in PLACES.into_iter().enumerate() {
            let [plain, sealed] = [false, true].map(|sealed| values(&trials, sealed, place));
            let _ = writeln!(
                text,
                "| {size} | {words} | {} | {} | {} | {} | {dropped} |",
                plain.len(),
                median(&plain),
                median(&sealed),
                summarize(&ratios(&sealed, &plain)).map_or_else(|| "-".to_owned(), in_words),
            );
        }
    }
    text
}

fn values(trials: &[&Trial], sealed: bool, place: usize) -> Vec<(u32, f64)> {
    let of = trials.iter().filter(|trial| trial.sealed == sealed);
    of.map(|trial| (trial.round, trial.worker_ns[place])).collect()
}

fn median(values: &[(u32, f64)]) -> String {
    let values: Vec<f64> = values.iter().map(|&(_, value)| value).collect();
    summarize(&values).map_or_else(|| "-".to_owned(), |summary| format!("{:.0}", summary.median))
}

fn in_words(Summary { median, low, high, .. }: Summary) -> String {
    format!("{median:.2} [{low:.2}, {high:.2}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_a_round() {
        let trial = |round, sealed, ns: f64| {
            let worker_ns = [ns, 100.0, ns];
            Trial { round, size: 200, sealed, frames: 10, dropped: 0, worker_ns }
        };
        // The second round is twice as slow for both.
        let trials =
            [(0, false, 1_000.0), (0, true, 1_100.0), (1, true, 2_200.0), (1, false, 2_000.0)];
        let trials = trials.map(|(round, sealed, ns)| trial(round, sealed, ns));
        let trials: Vec<&Trial> = trials.iter().collect();
        let [plain, sealed] = [false, true].map(|sealed| values(&trials, sealed, 0));
        let ratio = summarize(&ratios(&sealed, &plain)).map(in_words);
        assert_eq!(ratio.as_deref(), Some("1.10 [1.10, 1.10]"));
        assert_eq!((median(&plain), median(&sealed)), ("1500".to_owned(), "1650".to_owned()));
    }
}
