//! What a host that runs Spanway as a service relies on: what the daemon tells its service manager, and
//! the files of `tools/package/`.
//!
//! The manager is a socket of the test. `cargo xtask package --check` unpacks the Debian package and runs
//! what is in it.

mod common;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::time::Duration;

use common::overlay::{Overlay, Plan};
use common::program::{now, output, pass, wait_for};
use serde_json::Value;
use spanway::limits;

const SOON: Duration = Duration::from_secs(20);

/// Stands where systemd would: hears what one daemon says.
struct Manager {
    socket: UnixDatagram,
    heard: String,
}

impl Manager {
    /// Listens at a name without a file, as systemd in a container does.
    fn start(name: &str) -> (Self, String) {
        let name = format!("spanway-test-{name}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        let socket = UnixDatagram::bind_addr(&address).expect("nobody else has this name");
        socket.set_nonblocking(true).expect("an option");
        (Self { socket, heard: String::new() }, format!("@{name}"))
    }

    fn listen(&mut self) {
        let mut bytes = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut bytes) {
            self.heard.push_str(std::str::from_utf8(&bytes[..length]).expect("text"));
        }
    }

    /// Waits for a line that begins so, and forgets it and all before it.
    fn hears(&mut self, begin: &str) -> String {
        wait_for(&format!("{begin:?} for the service manager"), SOON, || {
            self.listen();
            let lines: Vec<&str> = self.heard.split_inclusive('\n').collect();
            let at = lines.iter().position(|line| line.starts_with(begin))?;
            let (found, rest) = (lines[at].trim_end().to_owned(), lines[at + 1..].concat());
            self.heard = rest;
            Some(found)
        })
    }
}

/// One daemon of the overlay, started again as a service of this manager.
fn served(overlay: &mut Overlay, peer: &str, variables: &[(&str, &str)]) {
    overlay.kill(peer);
    let mut command = Command::new(common::overlay::SPANWAY);
    command.envs(variables.iter().map(|(name, value)| (OsStr::new(name), OsStr::new(value))));
    overlay.run_command(peer, command);
}

#[test]
fn a_service_says_when_it_is_ready_reloads_and_stops_and_what_its_state_is() {
    let mut overlay = Plan::new(&["a", "b"]).link("a", "b", "10 Mbit/s").on_loopback();
    let (mut manager, name) = Manager::start("states");
    served(&mut overlay, "a", &[("NOTIFY_SOCKET", &name)]);
    manager.hears("READY=1");
    // Whoever waits for READY can ask at once.
    overlay.peer("a").ask(&["status"]);
    manager.hears("STATUS=1 of 1 links up, 2 peers, 0 channels");

    overlay.signal("a", "-HUP");
    manager.hears("RELOADING=1");
    let at = manager.hears("MONOTONIC_USEC=");
    assert!(at.split_once('=').expect("it is there").1.parse::<u64>().is_ok_and(|us| us > 0));
    manager.hears("READY=1");

    overlay.terminate("a");
    manager.hears("STOPPING=1");
    manager.hears("EXTEND_TIMEOUT_USEC=14000000");
    overlay.ended("a");
    manager.listen();
    assert!(!manager.heard.contains("WATCHDOG"), "nobody asked for signs of life");
}

#[test]
fn a_daemon_that_hangs_gives_its_service_manager_no_sign_of_life() {
    let mut overlay = Plan::new(&["a"]).on_loopback();
    let (mut manager, name) = Manager::start("watchdog");
    let bound = Duration::from_millis(400);
    let micros = bound.as_micros().to_string();
    served(&mut overlay, "a", &[("NOTIFY_SOCKET", &name), ("WATCHDOG_USEC", &micros)]);
    manager.hears("READY=1");
    let start = now();
    (0..10).for_each(|_| drop(manager.hears("WATCHDOG=1")));
    // Twice within the bound, and not all the time.
    let took = start.elapsed();
    assert!(took >= bound * 3, "ten signs of life within {took:?}");

    overlay.freeze("a");
    pass(bound);
    manager.listen();
    manager.heard.clear();
    pass(bound * 3);
    manager.listen();
    assert_eq!(manager.heard, "", "from a daemon that hangs");
    overlay.thaw("a");
    manager.hears("WATCHDOG=1");

    // The watchdog of somebody else whose environment was inherited.
    let (mut manager, name) = Manager::start("other");
    let others = [("NOTIFY_SOCKET", &*name), ("WATCHDOG_USEC", "400000"), ("WATCHDOG_PID", "1")];
    served(&mut overlay, "a", &others);
    manager.hears("STATUS=");
    pass(bound * 2);
    manager.listen();
    assert!(!manager.heard.contains("WATCHDOG"), "{}", manager.heard);
}

#[test]
fn the_unit_for_several_peers_differs_from_the_other_in_the_name_only() {
    let lines = |unit: &str| {
        let text = packaged(unit);
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let one = lines("spanway.service");
    let several = lines("spanway@.service");
    let named = several.iter().map(|line| {
        line.replace("/%i.toml", "/spanway.toml").replace("Spanway peer %i", "Spanway peer")
    });
    assert_eq!(named.collect::<Vec<_>>(), one);
    assert!(several.iter().filter(|line| line.contains("%i")).count() >= 4, "{several:#?}");
}

#[test]
fn the_unit_gives_a_daemon_what_its_bounds_ask_for() {
    let unit = packaged("spanway.service");
    let value = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {key}")).to_owned()
    };
    let seconds = |key: &str| Duration::from_secs(value(key).parse().expect("seconds"));
    let files: usize = value("LimitNOFILE").parse().expect("a number");
    assert!(files > limits::CHANNELS_MAX + limits::LINKS_MAX * 2 + limits::CLIENTS_MAX);
    assert!(seconds("TimeoutStopSec") > limits::LEAVE_TIMEOUT + limits::LEAVE_MAX * 2);
    // Twice within the bound, and what one turn of the loop may wait for between.
    assert!(seconds("WatchdogSec") > (limits::STATUS_EVERY + limits::APPLY_MAX) * 2);
    assert_eq!((&*value("Type"), &*value("NoNewPrivileges")), ("notify", "yes"));
    for family in ["AF_INET", "AF_INET6", "AF_UNIX"] {
        assert!(value("RestrictAddressFamilies").split(' ').any(|has| has == family), "{family}");
    }
    let sysctl = packaged("60-spanway.conf");
    for key in ["net.core.rmem_max", "net.core.wmem_max"] {
        let line = format!("{key} = {}", limits::SOCKET_BUFFER_BYTES);
        assert!(sysctl.lines().any(|has| has == line), "no line {line:?}");
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("skipped: no systemd-analyze");
        return;
    }
    let folder = tempfile::tempdir().expect("a scratch folder");
    let program = common::overlay::SPANWAY;
    for unit in ["spanway.service", "spanway@.service"] {
        let text = packaged(unit).replace("/usr/bin/spanway", program);
        fs::write(folder.path().join(unit), text).expect("written");
    }
    for unit in ["spanway.service", "spanway@one.service"] {
        let verify = ["verify", "--man=no", "--recursive-errors=no"];
        let out = Command::new("systemd-analyze")
            .args(verify)
            .arg(folder.path().join(unit))
            .output()
            .expect("it was there before");
        let said = String::from_utf8_lossy(&out.stderr);
        // What is wrong elsewhere on this host is none of ours.
        let ours: Vec<&str> = said.lines().filter(|line| line.contains("spanway")).collect();
        assert!(ours.is_empty(), "{unit}: {ours:#?}");
    }
}

#[test]
fn the_filter_of_containers_lets_io_uring_through_and_is_a_list_of_what_is_allowed() {
    let profile: Value = serde_json::from_str(&packaged("seccomp.json")).expect("JSON");
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let mut allowed = BTreeSet::new();
    for rule in profile["syscalls"].as_array().expect("rules") {
        assert_eq!(rule["action"], "SCMP_ACT_ALLOW", "{rule}");
        for name in rule["names"].as_array().expect("names") {
            let name = name.as_str().expect("a name").to_owned();
            assert!(allowed.insert(name.clone()), "{name} is there twice");
        }
    }
    for needed in ["io_uring_setup", "io_uring_enter", "io_uring_register", "sched_setattr"] {
        assert!(allowed.contains(needed), "{needed} is not allowed");
    }
    for dangerous in ["ptrace", "mount", "bpf", "init_module", "unshare", "setns", "keyctl"] {
        assert!(!allowed.contains(dangerous), "{dangerous} is allowed");
    }
}

#[test]
fn the_first_configuration_is_one_that_a_daemon_starts_with() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let (file, key) = (folder.path().join("spanway.toml"), folder.path().join("spanway.key"));
    output(Command::new(common::overlay::SPANWAY).args(["key", "--new"]).arg(&key));
    let text = packaged("spanway.toml");
    let text = text.replace("/etc/spanway/spanway.key", &key.to_string_lossy());
    // What the scripts of the package do with it.
    assert_eq!(text.lines().filter(|line| line.starts_with("name = ")).count(), 1);
    fs::write(&file, &text).expect("written");
    let check = ["config", "check", "--config"];
    output(Command::new(common::overlay::SPANWAY).args(check).arg(&file));
    // Its examples are right, too.
    let example = text.replace("# [[", "[[").replace("# [s", "[s");
    let keys = ["peer", "address", "capacity", "key", "deliver"];
    let example = keys
        .iter()
        .fold(example, |text, key| text.replace(&format!("# {key} = "), &format!("{key} = ")));
    fs::write(&file, example).expect("written");
    let shown = output(Command::new(common::overlay::SPANWAY).args(check).arg(&file).arg("--json"));
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!((&shown["links"], &shown["services"]), (&Value::from(1), &Value::from(1)));
}

fn packaged(file: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/package").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
