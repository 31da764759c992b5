//! `spanway tree --course`: how the last tree computation went, step by step, over all peers.

use std::collections::BTreeMap;

use super::Target;
use super::answer_time;
use super::screen::{CliError, Daemon, show};
use super::table::Table;
use super::values::millis;
use crate::api::dto::{Course, Request};
use crate::limits;
use crate::types::PeerName;

pub(super) fn course(target: &Target) -> Result<(), CliError> {
    let daemon = Daemon::of(target)?;
    let request = Request::Computation { all: true };
    let courses: BTreeMap<PeerName, Course> =
        daemon.ask_for(answer_time(limits::COLLECT_DEADLINE), &request)?;
    show(target, &courses, |courses, out, style| {
        table(courses).write(out, style)?;
        let silent: Vec<&str> = courses
            .iter()
            .filter(|(_, course)| course.session.is_none())
            .map(|(peer, _)| peer.as_str())
            .collect();
        if !silent.is_empty() {
            writeln!(out, "of a version that cannot tell: {}", silent.join(", "))?;
        }
        writeln!(out, "times are those since the session began at each peer")
    })
}

/// Every step of every peer, in the order of their times.
fn table(courses: &BTreeMap<PeerName, Course>) -> Table {
    let mut steps: Vec<_> = courses
        .iter()
        .flat_map(|(peer, course)| course.steps.iter().map(move |step| (peer, course, step)))
        .collect();
    steps.sort_by_key(|(peer, course, step)| (&course.session, step.at_us, *peer));
    let mut table = Table::new()
        .number("MS")
        .elastic("PEER")
        .column("STEP")
        .number("LEVEL")
        .elastic("FRAGMENT")
        .elastic("NEIGHBOUR");
    let dash = || "-".to_owned();
    for (peer, _, step) in steps {
        let fragment = step.fragment.as_ref().map(|[one, other]| format!("{one}-{other}"));
        table.row(vec![
            millis(step.at_us.into()),
            peer.to_string(),
            step.what.clone(),
            step.level.to_string(),
            fragment.unwrap_or_else(dash),
            step.neighbour.as_ref().map_or_else(dash, ToString::to_string),
        ]);
    }
    table
}
