//! Where the relay's CPU goes under blast: `perf record` of that CPU, and of it the samples of the relay
//! and of the kernel's thread that receives for it; all samples if the relay is no process. Folded to one
//! line for each stack (`program;outermost;...;innermost count`), which flame graph viewers read.

#![expect(clippy::print_stdout, reason = "its output is for the developer at the terminal")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::candidates::Candidate;
use super::failure::{Failure, Outcome};
use super::net::{Network, ReceiveBuffers, available, find_program, output, remove_leftovers};
use super::process::Running;
use super::report::number;
use super::run::{Bench, Entry, Scratch};
use super::trial::{RELAY_CPU, Stage};

/// Off the beat of a kernel that ticks 250 or 1,000 times a second.
const SAMPLES_PER_SECOND: &str = "997";
/// Lines of the list that is printed.
const TOP: usize = 20;

/// Profiles every candidate of a scenario; writes `SCENARIO-CANDIDATE.folded`.
pub(crate) fn profile(bench: &Bench, entry: &Entry, duration: Duration, out: &Path) -> Outcome<()> {
    available()?;
    if find_program("perf").is_none() {
        return Err(Failure::new("no `perf`: apt-get install linux-perf"));
    }
    remove_leftovers();
    let _buffers = ReceiveBuffers::enlarge()?;
    let scratch = Scratch::new()?;
    let network = Network::new(entry.scenario, RELAY_CPU)?;
    let stage = Stage {
        scenario: entry.scenario,
        settings: &bench.settings,
        network: &network,
        pktgen: &bench.pktgen,
        folder: &scratch.0,
        interrupt: &bench.interrupt,
    };
    fs::create_dir_all(out).map_err(Failure::of(out.display()))?;
    for (count, candidate) in (0..).zip(&entry.candidates) {
        let folded = record(&stage, candidate, count, duration, &scratch.0)?;
        let file = out.join(format!("{}-{}.folded", entry.scenario.name, candidate.name));
        let lines: Vec<String> =
            folded.iter().map(|(stack, count)| format!("{stack} {count}\n")).collect();
        fs::write(&file, lines.concat()).map_err(Failure::of(file.display()))?;
        println!("{} under blast, by the innermost function ({})", candidate.name, file.display());
        for (function, share) in innermost(&folded).into_iter().take(TOP) {
            println!("{:6.1} %  {function}", share * 100.0);
        }
    }
    Ok(())
}

fn record(
    stage: &Stage<'_>,
    candidate: &Candidate,
    count: u32,
    duration: Duration,
    folder: &Path,
) -> Outcome<BTreeMap<String, u64>> {
    let (job, ends) = stage.places(candidate, count)?;
    let relay = stage.start(candidate, &job)?;
    let data = folder.join("perf.data");
    let seconds = duration.as_secs_f64().to_string();
    let mut perf = Command::new("perf");
    perf.args(["record", "--quiet", "-g", "-F", SAMPLES_PER_SECOND]);
    // Of the CPU and not of the process: a timer that sleeps with it misses most of a relay that wakes
    // up ten thousand times a second.
    perf.args(["-C", &RELAY_CPU.to_string()]);
    perf.arg("-o").arg(&data).args(["--", "sleep", &seconds]);
    let mut perf = perf.spawn().map_err(Failure::of("perf record"))?;
    // A little longer, so that no sample is of an idle relay.
    let load = ends.run(relay.as_ref(), None, duration + Duration::from_millis(200));
    let status = perf.wait().map_err(Failure::of("perf record"))?;
    let load = load?;
    let (rate, cpu) =
        (number(load.delivered_rate), load.cpu_ns.map_or_else(|| "-".to_owned(), number));
    println!("{}: {rate} frames/s delivered, {cpu} ns of CPU each", candidate.name);
    if !status.success() {
        return Err(Failure::new(format!("perf record: {status}")));
    }
    let data = data.display().to_string();
    let processes = relay.iter().map(Running::id).chain(stage.network.receivers.iter().copied());
    let processes: Vec<String> = processes.map(|id| id.to_string()).collect();
    let processes = processes.join(",");
    let mut script = vec!["perf", "script", "-i", &data];
    if !processes.is_empty() {
        script.extend(["--pid", &processes]);
    }
    Ok(fold(&output(&script)?))
}

/// Counts equal stacks of the output of `perf script`: a head line, frames from the innermost out, each
/// `address function+offset (file)`, and an empty line.
fn fold(script: &str) -> BTreeMap<String, u64> {
    let mut folded = BTreeMap::new();
    for sample in script.split("\n\n") {
        let mut lines = sample.lines().filter(|line| !line.trim().is_empty());
        let Some(head) = lines.next() else { continue };
        // The name may contain spaces; the process id is the last word before the time.
        let program = head.split_whitespace().next().unwrap_or("?");
        let mut frames: Vec<String> = lines.filter_map(function).collect();
        frames.push(program.to_owned());
        frames.reverse();
        *folded.entry(frames.join(";")).or_insert(0) += 1;
    }
    folded
}

/// Without its semicolons, which separate functions.
fn function(line: &str) -> Option<String> {
    let (_, rest) = line.trim().split_once(' ')?;
    let name = rest.rsplit_once(" (").map_or(rest, |(name, _)| name);
    let name = name.rsplit_once("+0x").map_or(name, |(name, _)| name);
    Some(name.replace(';', ","))
}

/// Functions by the share of samples that were in themselves, largest first.
fn innermost(folded: &BTreeMap<String, u64>) -> Vec<(&str, f64)> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for (stack, count) in folded {
        *counts.entry(stack.rsplit(';').next().unwrap_or(stack)).or_insert(0) += count;
    }
    let all: u64 = counts.values().sum();
    #[expect(clippy::cast_precision_loss, reason = "samples of some seconds")]
    let mut shares: Vec<(&str, f64)> =
        counts.into_iter().map(|(name, count)| (name, count as f64 / all as f64)).collect();
    shares.sort_by(|one, other| other.1.total_cmp(&one.1));
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "relay 12 [000] 1.5: 1003009 cpu-clock:ppp: \n\
        \tffffffff81 memcpy+0x10 ([kernel.kallsyms])\n\
        \tffffffff82 udp_sendmsg+0x2f ([kernel.kallsyms])\n\
        \t    55d0aa <a::b as c::D<[u8; 4]>>::run+0x4 (/bin/relay)\n\n\
        relay 12 [000] 1.6: 1003009 cpu-clock:ppp: \n\
        \tffffffff81 memcpy+0x18 ([kernel.kallsyms])\n\
        \tffffffff82 udp_sendmsg+0x2f ([kernel.kallsyms])\n\
        \t    55d0aa <a::b as c::D<[u8; 4]>>::run+0x4 (/bin/relay)\n\n\
        swapper 0 [000] 1.7: 1003009 cpu-clock:ppp: \n\
        \tffffffff99 pv_native_safe_halt+0xb ([kernel.kallsyms])\n\n";

    #[test]
    fn equal_stacks_become_one_line_from_the_outermost_in() {
        let folded = fold(SCRIPT);
        let stack = "relay;<a::b as c::D<[u8, 4]>>::run;udp_sendmsg;memcpy";
        assert_eq!(folded.len(), 2);
        assert_eq!(folded[stack], 2);
        assert_eq!(folded["swapper;pv_native_safe_halt"], 1);
    }

    #[test]
    fn the_list_is_of_innermost_functions_largest_first() {
        let folded = fold(SCRIPT);
        let names: Vec<&str> = innermost(&folded).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["memcpy", "pv_native_safe_halt"]);
    }
}
