//! `open`, `close`, and the small requests that change something: `reload`, `recompute`, `leave`.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::Value;

use super::progress::Progress;
use super::screen::{CliError, Daemon, Fail, Style, print, say, show, to_json};
use super::table::wrap;
use super::{ChannelArgs, LeaveArgs, OpenArgs, Target, answer_time, fit, watch};
use crate::api::dto::{self, OpenReply, Request};
use crate::limits;
use crate::types::{PeerName, Reject};

pub(super) fn open(args: OpenArgs) -> Result<(), CliError> {
    let daemon = Daemon::of(&args.target)?;
    let deadline = args.wait.unwrap_or(limits::OPEN_DEADLINE);
    let asked = dto::Open {
        peer: args.destination.peer,
        service: args.destination.service,
        bandwidth_bps: args.rates.bandwidth,
        bandwidth_back_bps: args.rates.back(),
        name: args.name,
        listen: args.listen,
        deliver: args.deliver,
        from: args.from,
        path: args.way.path,
        avoid: args.way.avoid,
        deadline_ms: millis(deadline),
        wait: args.wait.is_some(),
        protect: args.protect,
        shape: args.shape,
        keep: args.keep,
        plain: args.plain,
        idempotency_key: args.idempotency_key.clone(),
    };
    if let (Some(wait), false) = (args.wait, args.target.json) {
        say(&format!(
            "waits up to {wait:?} if there is no room now; `spanway queue` says where it stands"
        ));
    }
    let lines = args.watch.then(|| watch::events(&daemon)).transpose()?;
    let waits = args.wait.is_some() && !args.target.json;
    let progress = if waits { Progress::start(&daemon, &asked) } else { None };
    let reply = daemon.ask_for(answer_time(deadline), &Request::Open(asked));
    if let Some(progress) = progress {
        progress.stop();
    }
    let reply: OpenReply = reply?;
    let answer = verdict(&reply);
    if args.target.json || answer.is_ok() {
        // A channel's id is there to be copied: no part of it may be missing.
        show(&Target { wide: true, ..args.target.clone() }, &reply, opened)?;
    }
    if args.explain && !args.target.json {
        print(|out, _| fit::explain(&reply, out))?;
    }
    match answer {
        // The JSON says it already.
        Err(error) if args.target.json => Err(CliError::said(error.code)),
        Err(error) => Err(error),
        Ok(()) => match (lines, &reply.channel) {
            (Some(lines), Some(channel)) => watch::follow(lines, channel, args.target.json),
            _ => Ok(()),
        },
    }
}

/// The exit code of an answer, with its words.
pub(super) fn verdict(reply: &OpenReply) -> Result<(), CliError> {
    match (reply.outcome.as_str(), reply.reason) {
        ("open", _) => Ok(()),
        ("queued", _) => Err(CliError::new(Fail::Later, format!("queued: {}", reply.detail))),
        (_, Some(Reject::Timeout)) => {
            Err(CliError::new(Fail::Later, format!("timeout: {}", reply.detail)))
        }
        (_, reason) => {
            let reason = reason.map_or("rejected", Reject::as_str);
            Err(CliError::new(Fail::Rejected, format!("rejected ({reason}): {}", reply.detail)))
        }
    }
}

pub(super) fn close(args: &ChannelArgs) -> Result<(), CliError> {
    let request = Request::Close { channel: args.channel.clone() };
    act(&args.target, &request, &format!("closed {}", args.channel))
}

pub(super) fn reload(target: &Target) -> Result<(), CliError> {
    act(target, &Request::Reload, "the new configuration is in use")
}

pub(super) fn recompute(target: &Target) -> Result<(), CliError> {
    act(target, &Request::Recompute, "a new computation of the tree has started")
}

pub(super) fn leave(args: &LeaveArgs) -> Result<(), CliError> {
    let timeout = if args.now { Duration::ZERO } else { args.timeout };
    let request = Request::Leave { timeout_ms: millis(timeout) };
    let _: Value = Daemon::of(&args.target)?.ask_for(answer_time(timeout), &request)?;
    done(&args.target, "the peer has left the overlay, its daemon stops")
}

/// Milliseconds as the contract wants them.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// `a > b > c`.
pub(super) fn path_text(path: &[PeerName], indent: usize) -> String {
    let names: Vec<String> = path.iter().map(ToString::to_string).collect();
    wrap(&names, " > ", indent)
}

/// Asks for something whose answer has no shape of its own.
fn act(target: &Target, request: &Request, done: &str) -> Result<(), CliError> {
    let _: Value = Daemon::of(target)?.ask(request)?;
    self::done(target, done)
}

fn done(target: &Target, done: &str) -> Result<(), CliError> {
    if target.json {
        let json = to_json(&serde_json::json!({ "done": done }))?;
        return print(|out, _| writeln!(out, "{json}"));
    }
    print(|out, _| writeln!(out, "{done}"))
}

fn opened(reply: &OpenReply, out: &mut dyn Write, style: Style) -> io::Result<()> {
    let id = reply.channel.as_deref().unwrap_or("-");
    writeln!(out, "{}     {}", style.green("open"), style.bold(id))?;
    writeln!(out, "path     {}", path_text(&reply.path, 9))?;
    writeln!(out, "width    {} was free on it", reply.width_bps)?;
    match &reply.peer_key {
        Some(key) => {
            writeln!(out, "sealed   only this peer and the one with key {key} can read it")?
        }
        None => writeln!(out, "sealed   no: every relay can read it")?,
    }
    if let Some(listen) = reply.listen {
        writeln!(out, "send to  {listen}, at most {} bytes a datagram", reply.max_payload_bytes)?;
    }
    writeln!(
        out,
        "payload  {} in datagrams of 1316 bytes, {} in 200",
        reply.payload_1316_bps, reply.payload_200_bps
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Bandwidth;

    fn reply(outcome: &str, reason: Option<Reject>) -> OpenReply {
        OpenReply {
            outcome: outcome.to_owned(),
            reason,
            detail: "why".to_owned(),
            channel: None,
            path: Vec::new(),
            width_bps: Bandwidth::ZERO,
            max_payload_bytes: 0,
            sealed: true,
            peer_key: None,
            listen: None,
            payload_1316_bps: Bandwidth::ZERO,
            payload_200_bps: Bandwidth::ZERO,
            refused: Vec::new(),
            waited_ms: None,
            limit: None,
        }
    }

    #[test]
    fn a11_each_answer_has_its_exit_code() {
        let code = |outcome, reason| verdict(&reply(outcome, reason)).map_err(|error| error.code);
        assert_eq!(code("open", None), Ok(()));
        assert_eq!(code("queued", None), Err(Fail::Later));
        for reason in Reject::ALL {
            let expected = if reason == Reject::Timeout { Fail::Later } else { Fail::Rejected };
            assert_eq!(code("rejected", Some(reason)), Err(expected), "{reason}");
        }
    }

    #[test]
    fn a_rejection_names_its_reason() {
        let error = verdict(&reply("rejected", Some(Reject::NoRoom))).expect_err("rejected");
        assert_eq!(error.text, "rejected (no_room): why");
    }
}
