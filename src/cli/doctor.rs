//! `doctor`: what a daemon finds on this host, whether that is well, and what to do if not.
//!
//! [`facts`] looks, [`judge`] says what it means: the second is pure, so that every verdict can be
//! tested on hosts that have no such trouble. Works without a configuration and without a daemon;
//! then there is less to say. Changes nothing.

mod facts;
mod judge;

use std::io::{self, Write};

use serde::Serialize;

use self::judge::{Finding, State};
use super::Target;
use super::screen::{CliError, Fail, Style, show};
use super::table::wrap;

#[derive(Debug, Serialize)]
struct Report {
    /// Nothing failed.
    ok: bool,
    findings: Vec<Finding>,
}

pub(super) fn doctor(target: &Target) -> Result<(), CliError> {
    let findings = judge::judge(&facts::gather(target.config.as_deref()));
    let ok = findings.iter().all(|finding| finding.state != State::Fail);
    show(target, &Report { ok, findings }, text)?;
    if ok { Ok(()) } else { Err(CliError::said(Fail::Failure)) }
}

/// Columns before what was found.
const INDENT: usize = 24;

fn text(report: &Report, out: &mut dyn Write, style: Style) -> io::Result<()> {
    let lines = |text: &str| {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        wrap(&words, " ", INDENT)
    };
    for Finding { check, state, found, advice } in &report.findings {
        let state = match state {
            State::Ok => style.green("ok  "),
            State::Warn => style.yellow("warn"),
            State::Fail => style.red("fail"),
        };
        writeln!(out, "{state}  {:<17} {}", super::table::cut(check, 17), lines(found))?;
        if let Some(advice) = advice {
            writeln!(out, "{:>23} {}", "do:", lines(advice))?;
        }
    }
    let count = |state| report.findings.iter().filter(|finding| finding.state == state).count();
    let (warned, failed) = (count(State::Warn), count(State::Fail));
    writeln!(out, "{} checks: {warned} to look at, {failed} failed", report.findings.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_fits_a_terminal_and_says_what_to_do() {
        let finding = Finding {
            check: "link with-a-rather-long-name".to_owned(),
            state: State::Fail,
            found: "word ".repeat(40),
            advice: Some("start it again ".repeat(9)),
        };
        let mut out = Vec::new();
        let report = Report { ok: false, findings: vec![finding] };
        text(&report, &mut out, Style { colour: false, wide: false }).expect("written");
        let text = String::from_utf8(out).expect("text");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("do: start") && text.contains("1 failed"), "{text}");
    }
}
