//! What the facts mean: facts in, findings out. Pure.

use serde::Serialize;

use super::facts::{Daemon, Facts, Folder, Limit, Neighbour, Peer, Unreached, files_wanted};
use crate::api::dto::{LinkRow, StatusReply};
use crate::limits;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) check: String,
    pub(super) state: State,
    pub(super) found: String,
    /// What to do.
    pub(super) advice: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Ok,
    /// It works, but not as well as it could, or not yet.
    Warn,
    /// It does not work.
    Fail,
}

/// Free space below which a state folder is looked at, and below which nothing can be kept there.
const FREE_LOW: u64 = 64 << 20;
const FREE_MIN: u64 = 1 << 20;
/// Part of the patience with a silent neighbour after which its silence is remarkable.
const SILENT_PART: u32 = 2;

/// In the order in which a person should mend things.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let peer = facts.peer.as_ref().and_then(|peer| peer.as_ref().ok());
    let status = peer.and_then(|peer| match &peer.daemon {
        Daemon::Running(status) => Some(&**status),
        Daemon::NotRunning | Daemon::Strange(_) => None,
    });
    let mut findings = vec![
        kernel(facts),
        backend(facts, status),
        buffer(facts, status),
        open_files(facts, peer),
        locked_memory(facts.locked_memory),
        cpus(facts, peer),
        clock(facts),
        configuration(facts),
    ];
    if let Some(peer) = peer {
        findings.extend([key(peer), folder(&peer.state), daemon(&peer.daemon)]);
        findings.extend(peer.links.iter().map(|link| neighbour(link, peer)));
    }
    findings
}

fn ok(check: &str, found: impl Into<String>) -> Finding {
    Finding { check: check.to_owned(), state: State::Ok, found: found.into(), advice: None }
}

fn warn(check: &str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { state: State::Warn, advice: Some(advice.into()), ..ok(check, found) }
}

fn fail(check: &str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { state: State::Fail, ..warn(check, found, advice) }
}

fn kernel(facts: &Facts) -> Finding {
    let kernel = facts.kernel.as_deref().unwrap_or("of unknown version");
    let linux = format!("Linux {kernel}");
    match facts.uring_disabled {
        Some(0) => ok("kernel", format!("{linux}; io_uring is allowed (io_uring_disabled = 0)")),
        Some(disabled) => warn(
            "kernel",
            format!("{linux}; io_uring is switched off (kernel.io_uring_disabled = {disabled})"),
            "sysctl -w kernel.io_uring_disabled=0, or leave it: the plain back end does the same work \
             for more CPU",
        ),
        None => ok("kernel", format!("{linux}; it has no switch for io_uring")),
    }
}

fn backend(facts: &Facts, status: Option<&StatusReply>) -> Finding {
    let (used, (backend, why)) = match (status, &facts.backend) {
        (Some(status), _) => ("the daemon uses", (&status.backend, &status.backend_why)),
        (None, Ok((backend, why))) => ("a daemon would use", (backend, why)),
        (None, Err(why)) => {
            let advice = "set `[engine] backend` to \"auto\", or allow io_uring";
            return fail("back end", format!("what is configured cannot work: {why}"), advice);
        }
    };
    let found = format!("{used} {backend}: {why}");
    let chosen = why.contains("chosen");
    if backend == "uring" || chosen {
        return ok("back end", found);
    }
    let advice = "nothing if the CPUs are fast enough; io_uring needs Linux 6.0 or later, and in a \
                  container a seccomp profile that allows it";
    warn("back end", found, advice)
}

fn buffer(facts: &Facts, status: Option<&StatusReply>) -> Finding {
    let asked = limits::SOCKET_BUFFER_BYTES;
    let of_workers = status
        .and_then(|status| status.workers.iter().map(|worker| worker.receive_buffer_bytes).min());
    let granted = match (of_workers, &facts.buffer) {
        (Some(granted), _) => granted,
        (None, Ok(granted)) => *granted,
        (None, Err(error)) => {
            let advice = "see whether this user may open UDP sockets";
            return fail("socket buffer", format!("no socket: {error}"), advice);
        }
    };
    let most =
        facts.buffer_max.map_or_else(String::new, |most| format!(" (net.core.rmem_max = {most})"));
    let found = format!("{} KiB granted, {} asked{most}", granted >> 10, asked >> 10);
    if granted >= asked {
        return ok("socket buffer", found);
    }
    let advice = format!(
        "sysctl -w net.core.rmem_max={asked} and restart the daemon; until then the kernel drops \
         frames of short bursts"
    );
    warn("socket buffer", found, advice)
}

fn open_files(facts: &Facts, peer: Option<&Peer>) -> Finding {
    let wanted = peer.map_or(limits::CHANNELS_MAX as u64, |peer| files_wanted(&peer.config));
    let Some(Limit { soft, hard }) = facts.open_files else {
        return ok("open files", "limit unknown");
    };
    let found = format!("{} now, at most {}, {wanted} wanted", shown(soft), shown(hard));
    if hard.is_none_or(|hard| hard >= wanted) {
        return ok("open files", format!("{found}; a daemon raises it by itself"));
    }
    let advice = format!(
        "fewer channels can end here than the {} of the bound: LimitNOFILE={wanted} in its systemd unit, \
         or `ulimit -Hn {wanted}`",
        limits::CHANNELS_MAX
    );
    warn("open files", found, advice)
}

fn locked_memory(limit: Option<Limit>) -> Finding {
    let Some(Limit { soft, .. }) = limit else { return ok("locked memory", "limit unknown") };
    let kib = soft.map(|bytes| bytes >> 10);
    let words = "rings of io_uring do not count from Linux 5.12 on";
    ok("locked memory", format!("{} KiB may be locked; {words}", shown(kib)))
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}

fn cpus(facts: &Facts, peer: Option<&Peer>) -> Finding {
    let allowed = match &facts.cpus {
        Ok(allowed) => allowed,
        Err(error) => return warn("CPUs", format!("unknown: {error}"), "see `nproc`"),
    };
    let count = format!("{} may be used", allowed.len());
    let Some(peer) = peer else { return ok("CPUs", count) };
    let (engine, control) = (&peer.config.engine.cpus, &peer.config.control.cpus);
    let missing = |cpus: &[usize]| {
        let missing: Vec<String> =
            cpus.iter().filter(|cpu| !allowed.contains(cpu)).map(ToString::to_string).collect();
        missing.join(", ")
    };
    let (no_engine, no_control) = (missing(engine), missing(control));
    for (key, none) in [("[engine] cpus", no_engine), ("[control] cpus", no_control)] {
        if !none.is_empty() {
            let found = format!("{count}; {key} names {none}, which may not be used here");
            return fail("CPUs", found, format!("choose others for `{key}`; `nproc` counts them"));
        }
    }
    let workers = peer.config.engine_workers().len();
    let found = format!("{count}, {workers} for workers");
    if workers >= allowed.len() && control.is_empty() && !engine.is_empty() {
        let advice =
            "leave one CPU out of `[engine] cpus`: the control thread needs a place as well";
        return warn("CPUs", format!("{found}, none is left for control"), advice);
    }
    ok("CPUs", found)
}

fn clock(facts: &Facts) -> Finding {
    match facts.clock {
        None => ok("clock", "unknown: the kernel may not be asked here"),
        Some(clock) if clock.synchronised => {
            let most = clock.error_max.as_micros();
            ok(
                "clock",
                format!("synchronised, at most {}.{:03} ms off", most / 1_000, most % 1_000),
            )
        }
        Some(_) => warn(
            "clock",
            "not synchronised",
            "run chrony or systemd-timesyncd; until then `latency` shows one-way times as variation",
        ),
    }
}

fn configuration(facts: &Facts) -> Finding {
    match &facts.peer {
        None => warn(
            "configuration",
            "none was named",
            "add --config FILE, or set SPANWAY_CONFIG, to have the rest looked at",
        ),
        Some(Err(error)) => fail("configuration", error, "mend the file; `config check` reads it"),
        Some(Ok(Peer { config, .. })) => ok(
            "configuration",
            format!(
                "valid: {} with {} links and {} services",
                config.name,
                config.links.len(),
                config.services.len()
            ),
        ),
    }
}

fn key(peer: &Peer) -> Finding {
    match &peer.key {
        Ok(fingerprint) => {
            ok("key", format!("{fingerprint}, mode 0600: {}", peer.config.key_file.display()))
        }
        Err(error) => fail(
            "key",
            error,
            "`chmod 600` if only the mode is wrong; `spanway key --new FILE` makes another identity",
        ),
    }
}

fn folder(folder: &Folder) -> Finding {
    let path = folder.path.display();
    if let Some(mode) = folder.mode.filter(|mode| mode & 0o077 != 0) {
        let found = format!("{path} has mode {mode:04o}: others could use the local socket");
        return fail("state folder", found, format!("chmod 700 {path}"));
    }
    if let Err(error) = &folder.writable {
        let found = format!("{path} cannot be written: {error}");
        return fail("state folder", found, "give it to the user that runs the daemon");
    }
    let free = folder.free_bytes;
    let words = free
        .map_or_else(|| "free space unknown".to_owned(), |free| format!("{} MiB free", free >> 20));
    let there = if folder.mode.is_some() { "" } else { " (made at the first start)" };
    let found = format!("{path}{there}, {words}");
    match free {
        Some(free) if free < FREE_MIN => fail("state folder", found, "make room on its disk"),
        Some(free) if free < FREE_LOW => warn("state folder", found, "make room on its disk"),
        Some(_) | None => ok("state folder", found),
    }
}

fn daemon(daemon: &Daemon) -> Finding {
    match daemon {
        Daemon::NotRunning => {
            warn("daemon", "not running", "`spanway run --config FILE` starts it")
        }
        Daemon::Strange(error) => {
            fail("daemon", error, "its log says more; the same user must ask")
        }
        Daemon::Running(status) => ok(
            "daemon",
            format!(
                "running for {} s as process {}, {} of {} links up, {} channels",
                status.uptime_ms / 1_000,
                status.pid,
                status.links_up,
                status.links,
                status.channels
            ),
        ),
    }
}

fn neighbour(neighbour: &Neighbour, peer: &Peer) -> Finding {
    let check = format!("link {}", neighbour.peer);
    match &neighbour.row {
        Some(row) if row.state == "up" => alive(&check, row, peer),
        Some(row) => {
            let last = row.last_failure.as_ref().map(|why| format!("; last: {why}"));
            let found = format!("{}{}", row.state, last.unwrap_or_default());
            let (reached, advice) = attempt(neighbour, true);
            fail(&check, format!("{found}{reached}"), advice)
        }
        None => {
            let (reached, advice) = attempt(neighbour, false);
            let found = reached.trim_start_matches("; ").to_owned();
            match &neighbour.tried {
                Some((_, Ok(()))) => ok(&check, found),
                // Nothing is wrong yet: no daemon runs here.
                Some((_, Err(_))) => warn(&check, found, advice),
                None => ok(&check, "no address here: the neighbour dials"),
            }
        }
    }
}

fn alive(check: &str, row: &LinkRow, peer: &Peer) -> Finding {
    let control = &peer.config.control;
    let patience = (control.heartbeat * control.heartbeats_missed).as_millis();
    let rtt = row.rtt_us.map_or_else(
        || "unknown".to_owned(),
        |us| format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10),
    );
    let heard = row.heard_ms.map_or_else(|| "never".to_owned(), |ms| format!("{ms} ms ago"));
    let address = row.address.map_or(String::new(), |address| format!(" at {address}"));
    let found = format!("up{address}, round trip {rtt}, heard {heard}");
    let late = row.heard_ms.is_none_or(|ms| u128::from(ms) * u128::from(SILENT_PART) > patience);
    if late {
        let advice = format!(
            "it is given up after {patience} ms of silence: look for loss or a busy CPU on the way, or \
             raise `[control] heartbeat`"
        );
        return warn(check, found, advice);
    }
    ok(check, found)
}

/// What became of an attempt to connect, and what that means for a link that is down.
fn attempt(neighbour: &Neighbour, running: bool) -> (String, String) {
    let Neighbour { peer, tried, .. } = neighbour;
    let Some((address, result)) = tried else {
        let advice = format!(
            "see whether {peer} runs and has this peer's address, or give its `[[link]]` an `address` here"
        );
        return ("; no address here, and it has not connected".to_owned(), advice);
    };
    let (what, advice) = match result {
        Ok(()) if running => (
            "takes connections".to_owned(),
            format!(
                "compare keys and names of both ends: `spanway key` at {peer}, `[[link]] key` here"
            ),
        ),
        Ok(()) => ("takes connections".to_owned(), "start the daemon".to_owned()),
        Err(Unreached::Refused) => (
            "refuses: nothing listens there".to_owned(),
            format!("start the daemon of {peer}, or correct its `address`"),
        ),
        Err(Unreached::NoAnswer) => (
            "does not answer".to_owned(),
            format!("see whether the host of {peer} is up and no firewall drops TCP to that port"),
        ),
        Err(Unreached::NoRoute) => (
            "has no route".to_owned(),
            format!("`ip route get {}` shows what is missing", address.ip()),
        ),
        Err(Unreached::Other(error)) => (
            format!("cannot be connected to: {error}"),
            "see whether the address is that of the neighbour".to_owned(),
        ),
    };
    (format!("; {address} {what}"), advice)
}

#[cfg(test)]
mod tests;
