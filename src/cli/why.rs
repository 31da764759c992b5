//! `why`: one channel at every peer of its path, and in words where it is slow, dropped or lost.

use std::io::{self, Write};

use super::screen::{CliError, Daemon, Style, show};
use super::table::{Table, wrap};
use super::{ChannelArgs, clock};
use crate::api::dto::{Request, SurveyHop, SurveyReply, SurveyWay, WhyReply};
use crate::api::why;

pub(super) fn why(args: &ChannelArgs) -> Result<(), CliError> {
    let daemon = Daemon::of(&args.target)?;
    let request = Request::Survey { channel: args.channel.clone() };
    let first: SurveyReply = daemon.ask(&request)?;
    clock::sleep(why::BETWEEN);
    let reply = why::why(&first, daemon.ask(&request)?);
    show(&args.target, &reply, words)
}

fn words(reply: &WhyReply, out: &mut dyn Write, style: Style) -> io::Result<()> {
    let survey = &reply.survey;
    writeln!(
        out,
        "{} {} to {}/{}",
        style.bold(&survey.channel),
        survey.name,
        survey.peer,
        survey.service
    )?;
    for text in &reply.findings {
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        writeln!(out, "- {}", wrap(&words, " ", 2))?;
    }
    writeln!(out)?;
    way("from the asker", survey.hops.iter().map(|hop| (hop, &hop.there)), out, style)?;
    let back: Vec<_> = survey.hops.iter().rev().map(|hop| (hop, &hop.back)).collect();
    match back.iter().any(|(_, way)| way.entered + way.received > 0) {
        true => way("from the service", back.into_iter(), out, style),
        false => Ok(()),
    }
}

fn way<'a>(
    title: &str,
    hops: impl Iterator<Item = (&'a SurveyHop, &'a SurveyWay)>,
    out: &mut dyn Write,
    style: Style,
) -> io::Result<()> {
    writeln!(out, "{title}")?;
    let mut table = Table::new()
        .elastic("PEER")
        .number("IN")
        .number("OUT")
        .number("DROPPED")
        .number("UNTIL HERE")
        .number("P99")
        .number("INSIDE")
        .number("P99");
    for (hop, way) in hops {
        let (until, inside) = (way.one_way_us, way.inside_ns);
        let or_dash = |value: Option<u64>| match value {
            Some(nanos) => format!("{:.1} us", nanos as f64 / 1_000.0),
            None => "-".to_owned(),
        };
        table.row(vec![
            hop.peer.to_string(),
            (way.entered + way.received).to_string(),
            (way.sent + way.delivered).to_string(),
            way.dropped.values().sum::<u64>().to_string(),
            or_dash(until.map(|times| times.p50 * 1_000)),
            or_dash(until.map(|times| times.p99 * 1_000)),
            or_dash(inside.map(|times| times.p50)),
            or_dash(inside.map(|times| times.p99)),
        ]);
    }
    table.write(out, style)
}
