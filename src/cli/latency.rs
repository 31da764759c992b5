//! `spanway latency`: how long frames are on the way and inside this peer, as percentiles and bars.
//!
//! The daemon counts; this draws. `--watch` asks it to count with three digits for a while: the
//! connection that asked is the watch, so a client that dies ends it. `--hgrm` writes the percentile
//! distribution as HdrHistogram's plotter reads it. Numbers are never better than the buckets: those
//! of a channel that nobody watches are powers of two.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::screen::{CliError, Daemon, Style, say, show};
use super::table::{Table, WIDTH};
use super::{LatencyArgs, clock};
use crate::api::client::{ClientError, Lines};
use crate::api::dto::{Distribution, Latency, RelayTimes, Request, Watching, WorkerTimes};
use crate::limits;
use crate::stats::histogram::Reading;

/// Rows of a plot, if its resolution lets us choose.
const ROWS_WANTED: u32 = 20;
/// Steps of the percentile lines of an .hgrm file for each halving of what is left: the usual number.
const TICKS_PER_HALF: u32 = 5;

pub(super) fn latency(args: LatencyArgs) -> Result<(), CliError> {
    let daemon = Daemon::of(&args.target)?;
    let Some(channel) = args.channel else {
        let reply: RelayTimes = daemon.ask(&Request::RelayTimes)?;
        if let Some(file) = &args.hgrm {
            let data = reply.lanes.iter().find(|lane| lane.lane == "data");
            let data = data.map(|lane| lane.inside_ns.clone()).unwrap_or_default();
            write_hgrm(file, &data, Unit::Micros)?;
        }
        return show(&args.target, &reply, relay_text);
    };
    let reply = match args.watch {
        Some(seconds) => watch(&daemon, &channel, seconds)?,
        None => daemon.ask(&Request::Latency { channel, watch: None })?,
    };
    if let Some(file) = &args.hgrm {
        write_hgrm(file, &reply.one_way_us, Unit::Millis)?;
    }
    show(&args.target, &reply, channel_text)
}

// --- Watching ---

/// A watch of one channel: it ends when this is dropped, however that comes about.
#[derive(Debug)]
pub(super) struct Watch {
    number: u64,
    channel: String,
    _connection: Lines<Watching>,
}

impl Watch {
    pub(super) fn begin(daemon: &Daemon, channel: &str, seconds: u32) -> Result<Self, CliError> {
        let request = Request::Watch { channel: channel.to_owned(), seconds };
        let mut lines = daemon.lines::<Watching>(&request)?;
        lines.wait(Some(limits::CLIENT_ANSWER_MAX))?;
        let Watching { watch } = lines.next().unwrap_or(Err(ClientError::Ended))?;
        Ok(Self { number: watch, channel: channel.to_owned(), _connection: lines })
    }

    /// What was counted since it began.
    pub(super) fn read(&self, daemon: &Daemon) -> Result<Latency, CliError> {
        daemon.ask(&Request::Latency { channel: self.channel.clone(), watch: Some(self.number) })
    }
}

fn watch(daemon: &Daemon, channel: &str, seconds: u32) -> Result<Latency, CliError> {
    let watch = Watch::begin(daemon, channel, seconds)?;
    let progress = io::stderr().is_terminal();
    let (start, whole) = (clock::now(), Duration::from_secs(u64::from(seconds)));
    loop {
        let passed = clock::now().saturating_duration_since(start);
        if progress {
            let line = progress_line(passed, seconds, &watch.read(daemon)?.one_way_us);
            let _ = write!(io::stderr().lock(), "\r{line}");
        }
        let Some(left) = whole.checked_sub(passed).filter(|left| !left.is_zero()) else { break };
        clock::sleep(left.min(Duration::from_secs(1)));
    }
    if progress {
        say("");
    }
    watch.read(daemon)
}

fn progress_line(passed: Duration, seconds: u32, seen: &Distribution) -> String {
    let at = |value: Option<u64>| Unit::Millis.text(value);
    let (p50, p99) = (at(seen.p50), at(seen.p99));
    let line =
        format!("{}/{seconds} s  {} frames  p50 {p50}  p99 {p99} ms", passed.as_secs(), seen.count);
    format!("{line:<width$}", width = WIDTH - 1)
}

// --- Text ---

/// A unit for people; the daemon counts in thousandths of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// Counted in microseconds.
    Millis,
    /// Counted in nanoseconds.
    Micros,
    /// Counted one by one.
    Frames,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Millis => "ms",
            Self::Micros => "us",
            Self::Frames => "frames",
        }
    }

    fn scale(self) -> f64 {
        match self {
            Self::Millis | Self::Micros => 1_000.0,
            Self::Frames => 1.0,
        }
    }

    fn text(self, value: Option<u64>) -> String {
        let Some(value) = value else { return "-".to_owned() };
        let (whole, rest) = (value / 1_000, value % 1_000);
        match (self, whole) {
            (Self::Frames, _) => value.to_string(),
            (Self::Millis, ..100) => format!("{whole}.{rest:03}"),
            (_, ..10_000) => format!("{whole}.{}", rest / 100),
            _ => whole.to_string(),
        }
    }
}

fn channel_text(reply: &Latency, out: &mut dyn Write, style: Style) -> io::Result<()> {
    let seen = &reply.one_way_us;
    if seen.count == 0 {
        let (channel, peer) = (&reply.channel, &reply.peer);
        writeln!(out, "no frame of {channel} has come to {peer} yet")?;
        return writeln!(out, "what it sends is timed on its way: spanway why {channel}");
    }
    let since = if reply.resolution == "full" { "while watched" } else { "since it came here" };
    writeln!(out, "{}, from its entry to {}, {since}", style.bold(&reply.channel), reply.peer)?;
    if reply.clocks_differ {
        writeln!(out, "clocks differ: only the variation is shown, the times above the least")?;
    }
    let mut table = percentile_table("TIME");
    let what = if reply.clocks_differ { "variation, ms" } else { "one way, ms" };
    percentile_row(&mut table, what.to_owned(), seen, Unit::Millis);
    for hop in &reply.hops {
        let what = format!("from {}, us", hop.from);
        percentile_row(&mut table, what, &hop.inside_ns, Unit::Micros);
    }
    table.write(out, style)?;
    if !reply.hops.is_empty() {
        let note = "from NEIGHBOUR: time inside this peer, of all channels";
        writeln!(out, "{}", style.dim(note))?;
    }
    let finest = if reply.resolution == "full" { 2 } else { 0 };
    bars(out, style, seen, Unit::Millis, finest)?;
    if reply.resolution != "full" {
        let note = "buckets are powers of two; --watch SECONDS counts with three digits";
        writeln!(out, "{}", style.dim(note))?;
    }
    Ok(())
}

fn relay_text(reply: &RelayTimes, out: &mut dyn Write, style: Style) -> io::Result<()> {
    writeln!(out, "time inside {}, us", style.bold(reply.peer.as_str()))?;
    let mut times = percentile_table("LANE");
    for lane in &reply.lanes {
        percentile_row(&mut times, lane.lane.clone(), &lane.inside_ns, Unit::Micros);
    }
    for hop in &reply.hops {
        percentile_row(&mut times, format!("from {}", hop.from), &hop.inside_ns, Unit::Micros);
    }
    for worker in &reply.workers {
        let what = format!("port {}", worker.port);
        percentile_row(&mut times, what, &worker.inside_ns, Unit::Micros);
    }
    times.write(out, style)?;
    writeln!(out, "\nframes at a time")?;
    let mut sizes = percentile_table("PORT");
    type Part = fn(&WorkerTimes) -> &Distribution;
    let parts: [(&str, Part); 3] = [
        ("a batch", |worker| &worker.batch),
        ("a receive", |worker| &worker.receive_segments),
        ("a send", |worker| &worker.send_segments),
    ];
    for worker in &reply.workers {
        for (what, part) in parts {
            let what = format!("{}, {what}", worker.port);
            percentile_row(&mut sizes, what, part(worker), Unit::Frames);
        }
    }
    sizes.write(out, style)?;
    for lane in reply.lanes.iter().filter(|lane| lane.inside_ns.count > 0) {
        writeln!(out, "\n{} lane", lane.lane)?;
        bars(out, style, &lane.inside_ns, Unit::Micros, 2)?;
    }
    Ok(())
}

fn percentile_table(title: &'static str) -> Table {
    let names = ["COUNT", "MIN", "P50", "P90", "P99", "P99.9", "MAX"];
    names.into_iter().fold(Table::new().elastic(title), Table::number)
}

fn percentile_row(table: &mut Table, what: String, seen: &Distribution, unit: Unit) {
    let Distribution { min, p50, p90, p99, p999, max, .. } = *seen;
    let values = [min, p50, p90, p99, p999, max].map(|value| unit.text(value));
    table.row([what, seen.count.to_string()].into_iter().chain(values).collect());
}

/// One row an octave, or 2^`finest` of them if there are few: how many values lie up to its label.
fn bars(
    out: &mut dyn Write,
    style: Style,
    seen: &Distribution,
    unit: Unit,
    finest: u32,
) -> io::Result<()> {
    let (Some(&(least, _)), Some(&(most, _))) = (seen.buckets.first(), seen.buckets.last()) else {
        return Ok(());
    };
    let span = |bits| row_of(most, bits) - row_of(least, bits);
    let bits = (0..=finest).rev().find(|&bits| span(bits) < ROWS_WANTED).unwrap_or(0);
    let first = row_of(least, bits);
    let mut rows = vec![0_u64; span(bits) as usize + 1];
    for &(value, count) in &seen.buckets {
        rows[(row_of(value, bits) - first) as usize] += count;
    }
    let label = |row: u32| unit.text(Some(top_of(row, bits)));
    let wide = (first..).take(rows.len()).map(|row| label(row).len()).max().unwrap_or(0);
    let numbers = rows.iter().map(|count| count.to_string().len()).max().unwrap_or(0);
    let longest = rows.iter().max().copied().unwrap_or(1).max(1);
    let width = WIDTH.saturating_sub(3 + wide + 1 + unit.name().len() + 2 + numbers + 1);
    for (row, &count) in (first..).zip(&rows) {
        let bar = bar(count, longest, width);
        let (label, name) = (label(row), unit.name());
        let line = format!("<= {label:>wide$} {name}  {count:>numbers$} {}", style.green(&bar));
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// `width` characters for the longest; at least a sliver for what is there at all.
fn bar(count: u64, longest: u64, width: usize) -> String {
    const EIGHTHS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let scaled = u128::from(count) * width as u128 * 8 / u128::from(longest);
    let eighths = usize::try_from(scaled).unwrap_or(0).max(usize::from(count > 0));
    let rest = eighths % 8;
    let mut bar = "█".repeat(eighths / 8);
    bar.extend(rest.checked_sub(1).map(|rest| EIGHTHS[rest]));
    bar
}

/// Rows of 2^`bits` steps an octave.
fn row_of(value: u64, bits: u32) -> u32 {
    let shift = (63 - (value | 1).leading_zeros()).saturating_sub(bits);
    let step = u32::try_from(value >> shift).unwrap_or(u32::MAX);
    (shift << bits) + step
}

/// The largest value of a row.
fn top_of(row: u32, bits: u32) -> u64 {
    let shift = (row >> bits).saturating_sub(1);
    ((u64::from(row - (shift << bits)) + 1) << shift) - 1
}

// --- .hgrm ---

fn write_hgrm(file: &Path, seen: &Distribution, unit: Unit) -> Result<(), CliError> {
    let written = std::fs::File::create(file).and_then(|file| {
        let mut out = io::BufWriter::new(file);
        hgrm(&mut out, seen, unit)?;
        out.flush()
    });
    let shown = file.display();
    written.map_err(|error| CliError::failure(format!("{shown} cannot be written: {error}")))?;
    say(&format!("percentiles in {} are in {shown}", unit.name()));
    Ok(())
}

/// The percentile distribution as HdrHistogram prints it; the unit is in a comment.
fn hgrm(out: &mut dyn Write, seen: &Distribution, unit: Unit) -> io::Result<()> {
    let (histogram, most) = (histogram(&seen.buckets), seen.max.unwrap_or(0));
    let scaled = |value: u64| value as f64 / unit.scale();
    writeln!(
        out,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    )?;
    let mut count = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF) {
        count += step.count_since_last_iteration();
        let value = scaled(step.value_iterated_to().min(most));
        let quantile = step.quantile_iterated_to();
        write!(out, "{value:12.3} {quantile:14.12} {count:10}")?;
        if quantile < 1.0 {
            write!(out, " {:14.2}", 1.0 / (1.0 - quantile))?;
        }
        writeln!(out)?;
    }
    let (mean, deviation) = (histogram.mean() / unit.scale(), histogram.stdev() / unit.scale());
    let (max, count) = (scaled(most), histogram.len());
    let (buckets, steps) = (histogram.buckets(), histogram.distinct_values());
    writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]")?;
    writeln!(out, "#[Max     = {max:12.3}, Total count    = {count:12}]")?;
    writeln!(out, "#[Buckets = {buckets:12}, SubBuckets     = {steps:12}]")?;
    writeln!(out, "#[Unit    = {:>12}]", unit.name())
}

/// Buckets of the contract as a histogram, for percentiles as everybody prints them.
pub(super) fn histogram(buckets: &[(u64, u64)]) -> Histogram<u64> {
    let most = buckets.last().map_or(0, |&(most, _)| most);
    Reading { least: 0, most, cells: buckets.to_vec() }.histogram()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::dto::{HopTimes, LaneTimes};
    use crate::types::PeerName;

    fn seen(buckets: &[(u64, u64)]) -> Distribution {
        let reading = Reading {
            least: buckets.first().map_or(0, |first| first.0),
            most: buckets.last().map_or(0, |last| last.0),
            cells: buckets.to_vec(),
        };
        let [p50, p90, p99, p999] = reading.percentiles([50.0, 90.0, 99.0, 99.9]).map(Some);
        let (min, max) = (Some(reading.least), Some(reading.most));
        let count = reading.count();
        Distribution { count, min, p50, p90, p99, p999, max, buckets: reading.cells }
    }

    fn peer(name: &str) -> PeerName {
        PeerName::new(name).expect("a name")
    }

    fn reply(one_way_us: Distribution) -> Latency {
        Latency {
            channel: "film".to_owned(),
            peer: peer("peer-03"),
            resolution: "log2".to_owned(),
            clocks_differ: false,
            one_way_us,
            hops: vec![HopTimes {
                peer: peer("peer-03"),
                from: peer(&"p".repeat(63)),
                inside_ns: seen(&[(12_345, 7), (68_719_476_735, 1)]),
            }],
        }
    }

    fn text(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).expect("written");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a23_a_channel_is_shown_in_eighty_columns() {
        let style = Style { colour: false, wide: false };
        let mut reply = reply(seen(&[(127, 990), (4_095, 9), (2_000_000_000, 10_000_000_000)]));
        let plain = text(|out| channel_text(&reply, out, style));
        assert!(plain.lines().all(|line| line.chars().count() <= WIDTH), "{plain}");
        assert!(plain.contains("0.127") && plain.contains("powers of two"), "{plain}");
        assert!(!plain.contains("clocks differ"));
        reply.clocks_differ = true;
        let plain = text(|out| channel_text(&reply, out, style));
        assert!(plain.contains("clocks differ") && plain.contains("variation"), "{plain}");
        reply.one_way_us = Distribution::default();
        let plain = text(|out| channel_text(&reply, out, style));
        let lines = "no frame of film has come to peer-03 yet\n\
                     what it sends is timed on its way: spanway why film\n";
        assert_eq!(plain, lines);
    }

    #[test]
    fn a23_a_relay_is_shown_by_lane_hop_and_worker() {
        let lane = |lane: &str, inside_ns| LaneTimes { lane: lane.to_owned(), inside_ns };
        let times = seen(&[(9_000, 100), (11_000, 50), (70_000, 1)]);
        let reply = RelayTimes {
            peer: peer("peer-02"),
            lanes: vec![lane("data", times.clone()), lane("control", Distribution::default())],
            hops: reply(Distribution::default()).hops,
            workers: vec![WorkerTimes {
                port: 7_000,
                inside_ns: times,
                batch: seen(&[(1, 3), (64, 1)]),
                receive_segments: seen(&[(1, 4)]),
                send_segments: Distribution::default(),
            }],
        };
        let plain = text(|out| relay_text(&reply, out, Style { colour: false, wide: false }));
        assert!(plain.lines().all(|line| line.chars().count() <= WIDTH), "{plain}");
        for part in ["data", "control", "port 7000", "7000, a receive", "data lane", "█"] {
            assert!(plain.contains(part), "no {part:?} in {plain}");
        }
    }

    #[test]
    fn bars_are_as_long_as_their_counts() {
        let plain = text(|out| {
            let style = Style { colour: false, wide: false };
            bars(out, style, &seen(&[(100, 50), (127, 50), (500, 1)]), Unit::Millis, 0)
        });
        let lines: Vec<&str> = plain.lines().collect();
        assert_eq!(lines.len(), 3, "{plain}");
        assert!(lines[0].starts_with("<= 0.127 ms  100 ████"), "{plain}");
        assert_eq!(lines[1].trim_end(), "<= 0.255 ms    0");
        assert!(lines[2].starts_with("<= 0.511 ms    1 ▋"), "{plain}");
        for bits in 0..4 {
            for row in 0..60 << bits {
                assert_eq!(row_of(top_of(row, bits), bits), row);
                assert_eq!(row_of(top_of(row, bits) + 1, bits), row + 1);
            }
        }
    }

    #[test]
    fn a23_an_hgrm_file_has_the_lines_the_plotter_reads() {
        let plain = text(|out| hgrm(out, &seen(&[(100, 990), (5_000, 10)]), Unit::Millis));
        let mut lines = plain.lines();
        let head: Vec<&str> = lines.next().expect("a head").split_whitespace().collect();
        assert_eq!(head, ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]);
        assert_eq!(lines.next(), Some(""));
        let (comments, rows): (Vec<&str>, Vec<&str>) = lines.partition(|l| l.starts_with("#["));
        let rows: Vec<Vec<f64>> = rows
            .iter()
            .map(|row| row.split_whitespace().map(|n| n.parse().expect(row)).collect())
            .collect();
        assert!(rows[..rows.len() - 1].iter().all(|row| row.len() == 4 && row[1] < 1.0));
        assert_eq!(rows[0], [0.1, 0.0, 990.0, 1.0]);
        assert_eq!(rows[rows.len() - 1], [5.0, 1.0, 1_000.0]);
        assert!(rows.windows(2).all(|pair| pair[0][0] <= pair[1][0] && pair[0][1] <= pair[1][1]));
        assert!(comments.iter().any(|line| line.contains("Unit") && line.contains("ms")));
        let empty = text(|out| hgrm(out, &Distribution::default(), Unit::Micros));
        assert!(empty.contains("Total count    =            0"), "{empty}");
    }

    #[test]
    fn values_are_written_in_their_unit() {
        assert_eq!(Unit::Millis.text(Some(1_234)), "1.234");
        assert_eq!(Unit::Millis.text(Some(123_456)), "123.4");
        assert_eq!(Unit::Micros.text(Some(1_299)), "1.2");
        assert_eq!(Unit::Micros.text(Some(12_345_678)), "12345");
        assert_eq!(Unit::Frames.text(Some(64)), "64");
        assert_eq!(Unit::Millis.text(None), "-");
    }
}
