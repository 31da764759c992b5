//! `report`: the documents of the other commands as one HTML file that needs nothing else, with the raw
//! JSON beside it.
//!
//! Plots: loss against rate, latency over load, percentile curves. Each is drawn twice, for light and for
//! dark paper; the browser shows the one its reader prefers. No scripts, no fonts, nothing from outside.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::charts::{ChartError, Paper, Plot, Series, svg};
use crate::documents::{Document, GenDocument, SinkDocument, VERSION};
use crate::latency::LatencySummary;
use crate::ndr::Ndr;
use crate::schedule::per_second;
use crate::search::Limit;

/// Documents of one report: what a reader can still tell apart in a plot.
pub const DOCUMENTS_MAX: usize = 32;
/// A document of many flows has some MiB.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// The raw JSON of a report, which is not a document of its own.
const REPORT: &str = "report";

/// A document and the file it came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Named {
    /// The name of the file, without folder and ending.
    pub name: String,
    #[serde(flatten)]
    pub document: Document,
}

/// The JSON beside the HTML.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Raw {
    pub kind: String,
    pub version: u32,
    pub documents: Vec<Named>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("{} cannot be read: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is larger than {FILE_BYTES_MAX} bytes: it is no output of this program", .path.display())]
    TooLarge { path: PathBuf },
    #[error("{} is not what --json prints: {reason}", .path.display())]
    NotADocument { path: PathBuf, reason: String },
    #[error(
        "there is nothing to report: write `gen`, `sink` or `ndr` output with --json into files first"
    )]
    Nothing,
    #[error("{count} documents are too many for one report: at most {DOCUMENTS_MAX}")]
    TooMany { count: usize },
    #[error("{} is an input: choose another name for the report", .path.display())]
    WouldOverwrite { path: PathBuf },
    #[error("{} cannot be written: {source}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Chart(#[from] ChartError),
    #[error(transparent)]
    Format(#[from] std::fmt::Error),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// Reads files, and every `.json` of folders. In a folder, JSON of other programs is passed over.
pub fn load(paths: &[PathBuf]) -> Result<(Vec<Named>, BTreeSet<PathBuf>), ReportError> {
    let (mut documents, mut files) = (Vec::new(), BTreeSet::new());
    for path in paths {
        if !path.is_dir() {
            documents.push(read(path)?);
            files.insert(path.clone());
            continue;
        }
        let cannot = |source| ReportError::Read { path: path.clone(), source };
        let entries: Result<Vec<_>, _> = fs::read_dir(path).map_err(cannot)?.collect();
        let inside = entries.map_err(cannot)?.into_iter().map(|entry| entry.path());
        let json = inside.filter(|path| path.extension().is_some_and(|end| end == "json"));
        for file in json.collect::<BTreeSet<_>>() {
            match read(&file) {
                Err(ReportError::NotADocument { .. }) => {}
                document => {
                    documents.push(document?);
                    files.insert(file);
                }
            }
        }
    }
    match documents.len() {
        0 => Err(ReportError::Nothing),
        count if count > DOCUMENTS_MAX => Err(ReportError::TooMany { count }),
        _ => Ok((documents, files)),
    }
}

/// Writes the report to `out` and the JSON beside it; gives the path of the JSON.
pub fn write(
    documents: Vec<Named>,
    inputs: &BTreeSet<PathBuf>,
    out: &Path,
) -> Result<PathBuf, ReportError> {
    // An input called as the report is is the usual case, and is left alone.
    let json = out.with_extension("report.json");
    for path in [out, &json] {
        if inputs.iter().any(|input| same(input, path)) {
            return Err(ReportError::WouldOverwrite { path: path.to_owned() });
        }
    }
    let raw = Raw { kind: REPORT.to_owned(), version: VERSION, documents };
    let page = html(&raw.documents, &json)?;
    let store = |path: &Path, text: &str| {
        fs::write(path, text).map_err(|source| ReportError::Write { path: path.to_owned(), source })
    };
    store(out, &page)?;
    store(&json, &serde_json::to_string_pretty(&raw)?)?;
    Ok(json)
}

fn same(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

fn read(path: &Path) -> Result<Named, ReportError> {
    let cannot = |source| ReportError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(cannot)?.len() > FILE_BYTES_MAX {
        return Err(ReportError::TooLarge { path: path.to_owned() });
    }
    let text = fs::read(path).map_err(cannot)?;
    let document = serde_json::from_slice(&text).map_err(|error| ReportError::NotADocument {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Named { name, document })
}

const HEAD: &str = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width\"><title>Datagrams: rate, loss, latency</title>
<style>
:root { color-scheme: light dark; --paper: #fff; --ink: #202020; --grid: #ddd; }
body { font: 15px/1.5 sans-serif; background: var(--paper); color: var(--ink); margin: 2em auto;
  max-width: 900px; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0; display: block; overflow-x: auto; }
th, td { text-align: right; padding: .25em .8em; border-bottom: 1px solid var(--grid); }
th:first-child, td:first-child { text-align: left; }
svg { max-width: 100%; height: auto; }
.dark { display: none; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #181a1b; --ink: #e0e0e0; --grid: #3e4244; }
  .light { display: none; } .dark { display: block; }
}
</style></head><body>
<h1>Datagrams: rate, loss, latency</h1>
";

fn html(documents: &[Named], json: &Path) -> Result<String, ReportError> {
    let mut page = HEAD.to_owned();
    let file = json.file_name().unwrap_or_default().to_string_lossy();
    writeln!(
        page,
        "<p>All numbers: <a href=\"{0}\">{0}</a>. Bits are of UDP payload.</p>",
        escaped(&file)
    )?;
    searches(&mut page, documents)?;
    plots(&mut page, documents)?;
    latencies(&mut page, documents)?;
    runs(&mut page, documents)?;
    page.push_str("</body></html>\n");
    Ok(page)
}

fn plots(page: &mut String, documents: &[Named]) -> Result<(), ReportError> {
    let rate = |rate: &f64| per_second(*rate);
    let percent = |percent: &f64| format!("{percent} %");
    let micros = |micros: &f64| time(*micros);
    let nines = |nines: &f64| nines_label(*nines);
    let plain = Plot {
        x_title: "datagrams per second",
        y_title: "loss in per cent",
        x_label: &rate,
        y_label: &percent,
        y_log: false,
        series: &[],
    };
    let loss = loss_series(documents);
    section(page, "Loss against rate", "", &Plot { series: &loss, ..plain })?;
    let loads = load_series(documents);
    let load = Plot {
        x_title: "load in per cent of the highest rate",
        y_title: "latency",
        x_label: &percent,
        y_label: &micros,
        y_log: true,
        series: &loads,
    };
    section(page, "Latency over load", "", &load)?;
    let curves = curve_series(documents);
    let curve = Plot { x_title: "percentile", x_label: &nines, series: &curves, ..load };
    let differ = curved(documents).any(|(_, latency)| latency.clocks_differ);
    let note = if differ { "Where clocks differ: time above the fastest datagram." } else { "" };
    section(page, "Latency percentiles", note, &curve)
}

fn section(page: &mut String, title: &str, note: &str, plot: &Plot<'_>) -> Result<(), ReportError> {
    let Some(light) = svg(plot, Paper::Light)? else { return Ok(()) };
    let dark = svg(plot, Paper::Dark)?.unwrap_or_default();
    writeln!(page, "<h2>{title}</h2>")?;
    if !note.is_empty() {
        writeln!(page, "<p>{note}</p>")?;
    }
    let (light, dark) = (light.trim_end(), dark.trim_end());
    writeln!(page, "<div class=\"light\">{light}</div><div class=\"dark\">{dark}</div>")?;
    Ok(())
}

fn ndrs(documents: &[Named]) -> impl Iterator<Item = (&str, &Ndr)> {
    documents.iter().filter_map(|named| match &named.document {
        Document::Ndr(ndr) => Some((named.name.as_str(), ndr)),
        Document::Gen(_)
        | Document::Sink(_)
        | Document::Echo(_)
        | Document::GenPeer(_)
        | Document::SinkPeer(_) => None,
    })
}

fn loss_series(documents: &[Named]) -> Vec<Series> {
    let points = |ndr: &Ndr| {
        let mut points: Vec<_> =
            ndr.steps.iter().map(|step| (step.rate, step.loss_percent)).collect();
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        points
    };
    ndrs(documents)
        .map(|(name, ndr)| Series { name: name.to_owned(), points: points(ndr) })
        .collect()
}

fn load_series(documents: &[Named]) -> Vec<Series> {
    let mut series = Vec::new();
    for (name, ndr) in ndrs(documents) {
        for (which, ns) in [
            ("p50", (|latency| latency.p50_ns) as fn(&LatencySummary) -> u64),
            ("p99", |latency| latency.p99_ns),
        ] {
            let point =
                |load: &crate::ndr::Load| (f64::from(load.percent), micros(ns(&load.step.latency)));
            let points: Vec<_> = ndr.loads.iter().map(point).collect();
            series.push(Series { name: format!("{name} {which}"), points });
        }
    }
    series
}

/// Every latency that has a curve, with its name.
fn curved(documents: &[Named]) -> impl Iterator<Item = (String, &LatencySummary)> {
    documents.iter().flat_map(|named| match &named.document {
        Document::Sink(sink) => vec![(named.name.clone(), &sink.collected.latency)],
        Document::Gen(sent) => match &sent.echo {
            Some(echo) => vec![(format!("{} round trip", named.name), &echo.round_trip)],
            None => Vec::new(),
        },
        Document::Ndr(ndr) => {
            let name = |percent: u32| format!("{} at {percent} %", named.name);
            ndr.loads.iter().map(|load| (name(load.percent), &load.step.latency)).collect()
        }
        Document::SinkPeer(sink) => match &sink.outcome.taken {
            Some(taken) => vec![(named.name.clone(), &taken.latency)],
            None => Vec::new(),
        },
        Document::Echo(_) | Document::GenPeer(_) => Vec::new(),
    })
}

fn curve_series(documents: &[Named]) -> Vec<Series> {
    let points = |latency: &LatencySummary| {
        let below_all = latency.curve.iter().filter(|point| point.percentile < 100.0);
        // 90 % at 1, 99 % at 2, 99.9 % at 3.
        let nines = |percentile: f64| -(1.0 - percentile / 100.0).log10();
        below_all.map(|point| (nines(point.percentile), micros(point.ns))).collect()
    };
    curved(documents).map(|(name, latency)| Series { name, points: points(latency) }).collect()
}

fn searches(page: &mut String, documents: &[Named]) -> Result<(), ReportError> {
    if ndrs(documents).next().is_none() {
        return Ok(());
    }
    page.push_str(
        "<h2>Highest rates</h2>\n<table><tr><th>measured</th><th>bytes</th><th>loss allowed</th>\
         <th>rate</th><th>Mbit/s</th><th>the limit was</th></tr>\n",
    );
    for (name, ndr) in ndrs(documents) {
        for found in &ndr.found {
            let limit = match found.limit {
                Limit::Device => "what was measured",
                Limit::Generator => "the generator",
                Limit::Sink => "the sink",
            };
            let rate = found.rate.map_or_else(|| "none passed".to_owned(), per_second);
            let mbit = found.rate.unwrap_or(0.0) * ndr.mean_bytes * 8.0 / 1e6;
            writeln!(
                page,
                "<tr><td>{}</td><td>{}</td><td>{} %</td><td>{rate}</td><td>{mbit:.1}</td><td>{limit}</td></tr>",
                escaped(name),
                escaped(&ndr.size),
                found.goal.loss_percent
            )?;
        }
    }
    page.push_str("</table>\n");
    Ok(())
}

fn latencies(page: &mut String, documents: &[Named]) -> Result<(), ReportError> {
    if curved(documents).next().is_none() {
        return Ok(());
    }
    page.push_str(
        "<table><tr><th>latency</th><th>datagrams</th><th>min</th><th>p50</th><th>p90</th>\
         <th>p99</th><th>p99.9</th><th>max</th></tr>\n",
    );
    for (name, latency) in curved(documents) {
        write!(page, "<tr><td>{}</td><td>{}</td>", escaped(&name), latency.count)?;
        for ns in [
            latency.min_ns,
            latency.p50_ns,
            latency.p90_ns,
            latency.p99_ns,
            latency.p999_ns,
            latency.max_ns,
        ] {
            write!(page, "<td>{}</td>", time(micros(ns)))?;
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n");
    Ok(())
}

/// A rate, from a count and the milliseconds it took.
#[expect(clippy::cast_precision_loss, reason = "for people")]
fn per(count: u64, run_ms: u64) -> f64 {
    count as f64 * 1_000.0 / run_ms.max(1) as f64
}

/// Single runs: one row each, what a sender and a receiver have in common in the same columns.
fn runs(page: &mut String, documents: &[Named]) -> Result<(), ReportError> {
    let mut rows = String::new();
    for named in documents {
        let name = escaped(&named.name);
        match &named.document {
            Document::Gen(GenDocument { sent, .. }) => writeln!(
                rows,
                "<tr><td>{name}</td><td>sent</td><td>{}</td><td>{}</td><td></td><td></td><td></td><td></td></tr>",
                sent.datagrams,
                per_second(sent.per_second)
            )?,
            Document::Sink(SinkDocument { collected, .. }) => {
                let totals = &collected.totals;
                writeln!(
                    rows,
                    "<tr><td>{name}</td><td>received</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
                     <td>{}</td><td>{}</td></tr>",
                    totals.received,
                    per_second(collected.per_second),
                    totals.lost,
                    totals.duplicated,
                    totals.reordered,
                    totals.corrupted
                )?;
            }
            Document::GenPeer(report) => writeln!(
                rows,
                "<tr><td>{name}</td><td>sent over channels</td><td>{}</td><td>{}</td><td></td><td></td><td></td><td></td></tr>",
                report.sent,
                per_second(per(report.sent, report.run_ms))
            )?,
            Document::SinkPeer(report) => {
                let taken = report.outcome.taken.clone().unwrap_or_default();
                let totals = &taken.totals;
                writeln!(
                    rows,
                    "<tr><td>{name}</td><td>received over channels</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
                     <td>{}</td><td>{}</td></tr>",
                    totals.received,
                    per_second(per(totals.received, report.run_ms)),
                    taken.lost,
                    totals.duplicated,
                    totals.reordered,
                    totals.corrupted
                )?;
            }
            Document::Echo(_) | Document::Ndr(_) => {}
        }
    }
    if !rows.is_empty() {
        page.push_str(
            "<h2>Single runs</h2>\n<table><tr><th>run</th><th></th><th>datagrams</th><th>rate</th>\
             <th>lost</th><th>duplicated</th><th>reordered</th><th>corrupted</th></tr>\n",
        );
        page.push_str(&rows);
        page.push_str("</table>\n");
    }
    Ok(())
}

fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}

fn time(micros: f64) -> String {
    match micros {
        micros if micros < 1e3 => format!("{micros:.1} us"),
        micros if micros < 1e6 => format!("{:.2} ms", micros / 1e3),
        micros => format!("{:.2} s", micros / 1e6),
    }
}

/// 0 %, 90 %, 99 %, 99.9 %; nothing between.
fn nines_label(nines: f64) -> String {
    if (nines - nines.round()).abs() > 1e-6 {
        return String::new();
    }
    let percent = 100.0 * (1.0 - 10_f64.powf(-nines));
    let digits = if nines > 2.0 { nines - 2.0 } else { 0.0 };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 5")]
    let digits = digits as usize;
    format!("{percent:.digits$} %")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Latency;
    use crate::ndr::Load;
    use crate::search::{Found, Goal, Step};

    fn latency(micros: u64) -> LatencySummary {
        let mut latency = Latency::new();
        for n in 1..=1_000 {
            latency.record(0, micros * 1_000 + n * 100);
        }
        latency.summary()
    }

    fn ndr() -> Document {
        let step = |rate: f64, loss_percent, micros| Step {
            rate,
            loss_percent,
            sent: 1_000,
            received: 999,
            latency: latency(micros),
            ..Step::default()
        };
        let goal = Goal { loss_percent: 0.0, p99_max_ns: 1_000_000 };
        Document::Ndr(Ndr {
            version: VERSION,
            to: "127.0.0.1:5000".to_owned(),
            size: "200".to_owned(),
            mean_bytes: 200.0,
            flows: 1,
            burst: 32,
            gso: true,
            step_s: 1.0,
            found: vec![Found { goal, rate: Some(50_000.0), limit: Limit::Device }],
            loads: vec![Load { percent: 10, step: step(5_000.0, 0.0, 20) }],
            steps: vec![step(90_000.0, 40.0, 300), step(50_000.0, 0.0, 30)],
        })
    }

    fn sink() -> Document {
        let collected = crate::collect::Collected { latency: latency(100), ..Default::default() };
        Document::Sink(SinkDocument { version: VERSION, listen: "[::1]:9".to_owned(), collected })
    }

    #[test]
    fn the_page_has_every_plot_on_both_papers_and_the_json_reads_back() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, document) in [("relay <1>", ndr()), ("plain", sink())] {
            let text = serde_json::to_string(&document).expect("JSON");
            fs::write(folder.path().join(format!("{name}.json")), text).expect("written");
        }
        fs::write(folder.path().join("other.json"), "{\"kind\":\"recipe\"}").expect("written");
        let (documents, inputs) = load(&[folder.path().to_owned()]).expect("loaded");
        assert_eq!(documents.len(), 2);
        let out = folder.path().join("page.html");
        let json = write(documents.clone(), &inputs, &out).expect("a report");
        let page = fs::read_to_string(&out).expect("readable");
        assert_eq!(page.matches("<svg").count(), 6);
        for text in [
            "Loss against rate",
            "Latency over load",
            "Latency percentiles",
            "relay &lt;1&gt; p99",
            "relay &lt;1&gt; at 10 %",
            "50.0 k/s",
            "99.9 %",
            "prefers-color-scheme: dark",
        ] {
            assert!(page.contains(text), "{text}");
        }
        for outside in ["<script", "<link", "@import", "src=", "<1>"] {
            assert!(!page.contains(outside), "{outside}");
        }
        let raw: Raw =
            serde_json::from_slice(&fs::read(json).expect("readable")).expect("a report");
        assert_eq!((raw.kind.as_str(), raw.documents), ("report", documents));
        // A second report of the folder does not take the first for a document.
        assert_eq!(load(&[folder.path().to_owned()]).expect("loaded").0.len(), 2);
    }

    #[test]
    fn inputs_are_never_overwritten_and_bad_ones_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.json");
        fs::write(&file, serde_json::to_string(&sink()).expect("JSON")).expect("written");
        let (documents, inputs) = load(std::slice::from_ref(&file)).expect("loaded");
        let error = write(documents.clone(), &inputs, &file);
        assert!(matches!(error, Err(ReportError::WouldOverwrite { .. })), "{error:?}");
        let json = write(documents, &inputs, &folder.path().join("a.html")).expect("written");
        assert_eq!(json, folder.path().join("a.report.json"));
        fs::remove_file(json).expect("removed");
        fs::write(&file, "{}").expect("written");
        let error = load(&[file]).expect_err("no document").to_string();
        assert!(error.contains("a.json") && error.contains("kind"), "{error}");
        let empty = load(&[folder.path().to_owned()]).expect_err("nothing there");
        assert!(matches!(empty, ReportError::Nothing));
    }

    #[test]
    fn percentiles_are_labelled_by_their_nines() {
        let labels: Vec<String> =
            [0.0, 1.0, 2.0, 3.0, 4.0, 0.5].iter().map(|&nines| nines_label(nines)).collect();
        assert_eq!(labels, ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", ""]);
    }
}
