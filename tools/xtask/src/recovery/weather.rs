//! What the machine did to a trial: time that the hypervisor took (steal), and time that threads of the
//! daemons were ready to run and did not (run-queue wait).

use std::collections::BTreeMap;
use std::fs;

use super::flow::ms;

/// One tick of `/proc/stat`.
const TICK_MS: f64 = 10.0;

#[derive(Clone, Debug, Default)]
pub(crate) struct Weather {
    steal_ticks: u64,
    /// By thread: nanoseconds.
    waits: BTreeMap<u32, u64>,
}

impl Weather {
    /// The state of the counters now, of the threads of these processes.
    pub(crate) fn read(processes: impl Iterator<Item = u32>) -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let waits = processes.flat_map(threads).filter_map(|(process, thread)| {
            let path = format!("/proc/{process}/task/{thread}/schedstat");
            // The second number: nanoseconds on a run queue.
            let text = fs::read_to_string(path).ok()?;
            Some((thread, text.split_whitespace().nth(1)?.parse().ok()?))
        });
        Self { steal_ticks: steal(&stat).unwrap_or(0), waits: waits.collect() }
    }

    /// Steal and run-queue wait in ms since `before`, of threads that were there at both times.
    #[expect(clippy::cast_precision_loss, reason = "ticks of one trial")]
    pub(crate) fn since(&self, before: &Self) -> [f64; 2] {
        let steal = self.steal_ticks.saturating_sub(before.steal_ticks) as f64 * TICK_MS;
        let waited = self.waits.iter().filter_map(|(thread, wait)| {
            before.waits.get(thread).map(|before| wait.saturating_sub(*before))
        });
        [steal, ms(waited.sum())]
    }
}

fn threads(process: u32) -> Vec<(u32, u32)> {
    let Ok(entries) = fs::read_dir(format!("/proc/{process}/task")) else { return Vec::new() };
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.map(|thread| (process, thread)).collect()
}

/// Of all CPUs together: the eighth number.
fn steal(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    line.split_whitespace().nth(7)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steal_is_the_eighth_number_of_all_cpus() {
        assert_eq!(steal("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 0 0 0 0 0 0 0 3 0 0\n"), Some(8));
        assert_eq!(steal("cpu  1 2 3\n"), None);
    }

    #[test]
    fn only_threads_that_were_there_before_have_waited() {
        let weather = |ticks, waits: &[(u32, u64)]| Weather {
            steal_ticks: ticks,
            waits: waits.iter().copied().collect(),
        };
        let before = weather(10, &[(1, 1_000_000), (2, 5_000_000)]);
        let after = weather(12, &[(1, 4_000_000), (3, 9_000_000)]);
        assert_eq!(after.since(&before), [20.0, 3.0]);
    }
}
