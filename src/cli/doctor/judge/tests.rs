//! The verdicts of `doctor`, one trouble at a time.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::cli::fixtures::{link as row, status};
use crate::config::Config;
use crate::net::clock::HostClock;

const CONFIG: &str = "name = \"a\"\nlisten = \"127.0.0.1:7000\"\n[[link]]\npeer = \"b\"\n\
    address = \"127.0.0.1:7016\"\ncapacity = \"10 Mbit/s\"\n\
    key = \"0202020202020202020202020202020202020202020202020202020202020202\"\n";

/// A host without any trouble, and a daemon that runs on it.
fn well() -> Facts {
    let config = Config::parse(Path::new("a.toml"), CONFIG).expect("valid");
    let state = Folder {
        path: "a.state".into(),
        mode: Some(0o700),
        writable: Ok(()),
        free_bytes: Some(1 << 30),
    };
    let links = vec![Neighbour { peer: "b".to_owned(), row: Some(row("up")), tried: None }];
    let peer = Peer {
        config,
        key: Ok("0123456789abcdef".to_owned()),
        state,
        daemon: Daemon::Running(Box::new(status())),
        links,
    };
    Facts {
        kernel: Some("6.12.1".to_owned()),
        uring_disabled: Some(0),
        backend: Ok(("uring".to_owned(), "it works".to_owned())),
        buffer: Ok(limits::SOCKET_BUFFER_BYTES),
        buffer_max: Some(1 << 30),
        open_files: Some(Limit { soft: Some(1_024), hard: Some(1 << 20) }),
        locked_memory: Some(Limit { soft: Some(8 << 20), hard: Some(8 << 20) }),
        cpus: Ok(vec![0, 1]),
        clock: Some(HostClock { synchronised: true, error_max: Duration::from_micros(1_500) }),
        peer: Some(Ok(peer)),
    }
}

fn peer(facts: &mut Facts) -> &mut Peer {
    facts.peer.as_mut().expect("there is one").as_mut().expect("valid")
}

fn link(facts: &mut Facts, state: &str, tried: Option<Result<(), Unreached>>) {
    let address = "127.0.0.1:7016".parse().expect("an address");
    let link = &mut peer(facts).links[0];
    link.row = Some(LinkRow { last_failure: Some("it was cut".to_owned()), ..row(state) });
    link.tried = tried.map(|tried| (address, tried));
}

#[test]
fn a_host_without_trouble_has_only_good_findings() {
    let findings = judge(&well());
    assert!(
        findings.iter().all(|one| one.state == State::Ok && one.advice.is_none()),
        "{findings:?}"
    );
    let link = findings.iter().find(|one| one.check == "link b").expect("looked at");
    assert_eq!(link.found, "up at 127.0.0.1:7016, round trip 0.34 ms, heard 12 ms ago");
}

type Spoil = fn(&mut Facts);

/// The check, its verdict, pieces of what was found and of what to do, and the trouble.
const TROUBLES: &[(&str, State, &str, &str, Spoil)] = &[
    ("kernel", State::Warn, "io_uring_disabled = 2", "sysctl", |f| f.uring_disabled = Some(2)),
    ("back end", State::Warn, "uses mmsg", "seccomp", |f| {
        let Daemon::Running(status) = &mut peer(f).daemon else { panic!("it runs") };
        status.backend = "mmsg".to_owned();
    }),
    ("socket buffer", State::Warn, "208 KiB granted, 4096", "net.core.rmem_max=4194304", |f| {
        let Daemon::Running(status) = &mut peer(f).daemon else { panic!("it runs") };
        status.workers[0].receive_buffer_bytes = 212_992;
    }),
    ("open files", State::Warn, "at most 4096", "LimitNOFILE", |f| {
        f.open_files = Some(Limit { soft: Some(1_024), hard: Some(4_096) });
    }),
    ("CPUs", State::Fail, "[engine] cpus names 7", "choose", |f| {
        peer(f).config.engine.cpus = vec![0, 7];
    }),
    ("CPUs", State::Fail, "[control] cpus names 9", "choose", |f| {
        peer(f).config.control.cpus = vec![9];
    }),
    ("CPUs", State::Warn, "none is left", "leave one CPU", |f| {
        peer(f).config.engine.cpus = vec![0, 1];
    }),
    ("clock", State::Warn, "not synchronised", "chrony", |f| {
        f.clock = Some(HostClock { synchronised: false, error_max: Duration::ZERO });
    }),
    ("key", State::Fail, "mode 0644", "chmod 600", |f| {
        peer(f).key = Err("a.key has mode 0644".to_owned());
    }),
    ("state folder", State::Fail, "0755", "chmod 700", |f| peer(f).state.mode = Some(0o755)),
    ("state folder", State::Fail, "read-only", "give it", |f| {
        peer(f).state.writable = Err("read-only".to_owned());
    }),
    ("state folder", State::Fail, "0 MiB free", "make room", |f| {
        peer(f).state.free_bytes = Some(9);
    }),
    ("state folder", State::Warn, "9 MiB free", "make room", |f| {
        peer(f).state.free_bytes = Some(9 << 20);
    }),
    ("daemon", State::Fail, "version", "log", |f| {
        peer(f).daemon = Daemon::Strange("another version".to_owned());
    }),
    ("link b", State::Warn, "heard 100 ms ago", "after 125 ms", |f| {
        peer(f).links[0].row = Some(LinkRow { heard_ms: Some(100), ..row("up") });
    }),
    ("link b", State::Fail, "last: it was cut; 127.0.0.1:7016 refuses", "start the daemon", |f| {
        link(f, "down", Some(Err(Unreached::Refused)));
    }),
    ("link b", State::Fail, "takes connections", "compare keys", |f| {
        link(f, "greeting", Some(Ok(())));
    }),
    ("link b", State::Fail, "does not answer", "firewall", |f| {
        link(f, "down", Some(Err(Unreached::NoAnswer)));
    }),
    ("link b", State::Fail, "has no route", "ip route get 127.0.0.1", |f| {
        link(f, "down", Some(Err(Unreached::NoRoute)));
    }),
    ("link b", State::Fail, "has not connected", "this peer's address", |f| {
        link(f, "down", None);
    }),
];

#[test]
fn every_trouble_is_found_alone_and_says_what_to_do() {
    for (check, state, found, advice, spoil) in TROUBLES {
        let mut facts = well();
        spoil(&mut facts);
        let findings = judge(&facts);
        let bad: Vec<&Finding> = findings.iter().filter(|one| one.state != State::Ok).collect();
        let [bad] = bad[..] else { panic!("{check}, {found}: {bad:?}") };
        assert_eq!((bad.check.as_str(), bad.state), (*check, *state), "{bad:?}");
        assert!(bad.found.contains(found), "{found}: {bad:?}");
        assert!(bad.advice.as_ref().is_some_and(|text| text.contains(advice)), "{advice}: {bad:?}");
    }
}

#[test]
fn before_the_first_start_there_is_something_to_do_and_nothing_has_failed() {
    let mut facts = well();
    let address = "127.0.0.1:7016".parse().expect("an address");
    let peer = peer(&mut facts);
    peer.daemon = Daemon::NotRunning;
    peer.state.mode = None;
    peer.links[0].row = None;
    peer.links[0].tried = Some((address, Err(Unreached::Refused)));
    let findings = judge(&facts);
    let bad: Vec<_> = findings.iter().filter(|one| one.state != State::Ok).collect();
    let checks: Vec<_> = bad.iter().map(|one| (one.check.as_str(), one.state)).collect();
    assert_eq!(checks, [("daemon", State::Warn), ("link b", State::Warn)], "{bad:?}");
}

#[test]
fn without_a_valid_configuration_the_host_is_judged_all_the_same() {
    for (given, state) in [(None, State::Warn), (Some("a.toml:1: no"), State::Fail)] {
        let facts = Facts { peer: given.map(|error| Err(error.to_owned())), ..well() };
        let findings = judge(&facts);
        let bad: Vec<_> = findings.iter().filter(|one| one.state != State::Ok).collect();
        assert_eq!((bad.len(), bad[0].state), (1, state), "{bad:?}");
        assert!(findings.len() >= 8, "{findings:?}");
    }
    let facts = Facts { backend: Err("no".to_owned()), peer: None, ..well() };
    assert!(judge(&facts).iter().any(|one| one.check == "back end" && one.state == State::Fail));
}
