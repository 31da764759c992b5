//! `would-fit`, and what `open --explain` prints: why a request was opened, refused, or would be.

use std::io::{self, Write};

use super::open::path_text;
use super::screen::{CliError, Daemon, Fail, Style, show};
use super::{FitArgs, Target};
use crate::api::dto::{self, FitReply, LimitReply, OpenReply, Request};

pub(super) fn would_fit(args: FitArgs) -> Result<(), CliError> {
    let daemon = Daemon::of(&args.target)?;
    let FitArgs { peer, rates, way, target } = args;
    let (bandwidth_bps, bandwidth_back_bps) = (rates.bandwidth, rates.back());
    let (path, avoid) = (way.path, way.avoid);
    let request = dto::WouldFit { peer, bandwidth_bps, bandwidth_back_bps, path, avoid };
    let reply: FitReply = daemon.ask(&Request::WouldFit(request))?;
    // Sentences, no table: none is cut.
    show(&Target { wide: true, ..target }, &reply, fit)?;
    match reply.answer {
        dto::FitAnswer::Now => Ok(()),
        dto::FitAnswer::Later => Err(CliError::said(Fail::Later)),
        dto::FitAnswer::Never => Err(CliError::said(Fail::Rejected)),
    }
}

fn fit(reply: &FitReply, out: &mut dyn Write, style: Style) -> io::Result<()> {
    match reply.answer {
        dto::FitAnswer::Now => {
            writeln!(out, "{}      it would be opened", style.green("now"))?;
        }
        dto::FitAnswer::Later => {
            writeln!(out, "{}    {}", style.bold("later"), reply.detail)?;
        }
        dto::FitAnswer::Never => {
            writeln!(out, "{}    {}", style.red("never"), reply.detail)?;
        }
    }
    if !reply.path.is_empty() {
        writeln!(out, "path     {}", path_text(&reply.path, 9))?;
    }
    if let Some([near, far]) = &reply.bottleneck {
        writeln!(
            out,
            "free     {} on it, least at {near} - {far}; {} back",
            reply.free_bps, reply.free_back_bps
        )?;
    }
    limit(reply.limit.as_ref(), out)
}

/// What was tried before the answer came, in the order of the attempts.
pub(super) fn explain(reply: &OpenReply, out: &mut dyn Write) -> io::Result<()> {
    if let Some(waited) = reply.waited_ms {
        writeln!(out, "waited   {waited} ms in line for room")?;
    }
    for (number, refused) in reply.refused.iter().enumerate() {
        let label = if number == 0 && reply.waited_ms.is_none() { "first" } else { "then" };
        writeln!(out, "{label:<8} {}", path_text(&refused.path, 9))?;
        writeln!(out, "         refused {}", refused.why)?;
    }
    if reply.channel.is_some() && !reply.refused.is_empty() {
        writeln!(out, "then     the path above, which had room")?;
    }
    if reply.channel.is_some() && reply.refused.is_empty() {
        writeln!(out, "why      the path had room on every link")?;
    }
    limit(reply.limit.as_ref(), out)
}

fn limit(limit: Option<&LimitReply>, out: &mut dyn Write) -> io::Result<()> {
    let Some(LimitReply { width_bps, link: [near, far], session }) = limit else { return Ok(()) };
    writeln!(
        out,
        "limit    {width_bps} if nothing were reserved, at {near} - {far} (tree {session})"
    )
}
