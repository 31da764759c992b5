//! What a daemon cannot do once it runs, and what still works where a kernel or a container forbids more:
//! one without io_uring, and one with a list of system calls, carry a stream as any other.

#![expect(clippy::disallowed_methods, reason = "these tests live in real time")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use common::overlay::{Overlay, Peer, Plan, SPANWAY};
use common::program::wait_for;
use common::stream::{Collector, Pacer};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

const SOON: Duration = Duration::from_secs(20);

fn three(sink: &Collector, sections: &str) -> Overlay {
    let service = format!("[service.video]\ndeliver = \"{}\"", sink.address);
    let names = ["a", "b", "c"];
    let plan = Plan::new(&names).link("a", "b", "20 Mbit/s").link("b", "c", "20 Mbit/s");
    let plan = names.iter().fold(plan, |plan, name| plan.section(name, sections));
    plan.section("c", &service).on_loopback()
}

/// A kept channel over the relay, a stream on it, a reload, and the end of the channel: control lane, files,
/// workers and local ends.
fn carries(overlay: &Overlay, sink: Collector) {
    let a = overlay.peer("a");
    let opened = a.open("c/video", "2 Mbit/s", &["--name", "film", "--keep"]);
    let listen = opened["listen"].as_str().and_then(|text| text.parse().ok()).expect("it");
    let pacer = Pacer::start(listen, 1, 500);
    std::thread::sleep(Duration::from_millis(500));
    a.ask(&["reload"]);
    let sent = pacer.stop();
    let delivered = || overlay.peer("c").ask(&["statistics"])["frames"]["delivered"].as_u64();
    wait_for("every datagram", SOON, || (delivered() >= Some(sent)).then_some(()));
    a.ask(&["close", "film"]);
    assert_eq!(sink.stop().len() as u64, sent, "all of them came, and once");
}

/// The fields of `/proc/PID/task/*/status` of every thread, by the thread's name and number.
fn threads(peer: &Peer) -> Vec<BTreeMap<String, String>> {
    let tasks =
        fs::read_dir(format!("/proc/{}/task", peer.process().expect("it runs"))).expect("it runs");
    let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status"));
    let texts = tasks.filter_map(|task| status(task.ok()?).ok());
    let field = |line: &str| {
        line.split_once(':').map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
    };
    texts.map(|text| text.lines().filter_map(field).collect()).collect()
}

#[test]
fn a_running_daemon_has_no_capabilities_and_gains_none_in_any_thread() {
    let sink = Collector::start();
    let api = format!("[api]\nlisten = \"127.0.0.1:{}\"", common::ports::free_ports(1));
    let service = format!("[service.video]\ndeliver = \"{}\"", sink.address);
    let plan = Plan::new(&["a", "b", "c"]).link("a", "b", "20 Mbit/s").link("b", "c", "20 Mbit/s");
    let plan = plan.section("a", &format!("{api}\n[engine]\ncpus = [0, 1]"));
    let overlay = plan.section("c", &service).on_loopback();
    carries(&overlay, sink);
    let threads = threads(overlay.peer("a"));
    let named: Vec<&str> = threads.iter().map(|thread| &*thread["Name"]).collect();
    for expected in ["spanway-w0", "spanway-w1", "spanway-api"] {
        assert!(named.contains(&expected), "{named:?}");
    }
    for thread in threads {
        for set in ["CapEff", "CapPrm", "CapInh"] {
            assert_eq!(thread[set], "0000000000000000", "{set} of {}", thread["Name"]);
        }
        assert_eq!(thread["NoNewPrivs"], "1", "{}", thread["Name"]);
        assert_eq!(thread["Seccomp"], "0", "only on request");
    }
    let limits = fs::read_to_string(format!(
        "/proc/{}/limits",
        overlay.peer("a").process().expect("it runs")
    ));
    let limits = limits.expect("it runs");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("it");
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
}

#[test]
fn a_daemon_that_forbids_itself_system_calls_carries_streams_all_the_same() {
    let sink = Collector::start();
    let overlay = three(&sink, "[security]\nseccomp = true");
    for name in ["a", "b", "c"] {
        for thread in threads(overlay.peer(name)) {
            assert_eq!(thread["Seccomp"], "2", "{name}: {}", thread["Name"]);
        }
    }
    carries(&overlay, sink);
    // Threads that were started since then have it too, and nothing went missing.
    for thread in threads(overlay.peer("a")) {
        assert_eq!(thread["Seccomp"], "2", "{}", thread["Name"]);
    }
}

/// A filter as containers have it: `io_uring_setup` fails with EPERM, all else is allowed.
fn without_io_uring() -> BpfProgram {
    let arch = TargetArch::try_from(std::env::consts::ARCH).expect("one that Spanway runs on");
    let rules = BTreeMap::from([(libc_io_uring_setup(), Vec::new())]);
    let eperm = SeccompAction::Errno(1);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, eperm, arch).expect("a filter");
    filter.try_into().expect("a program")
}

/// The same number on every architecture, as all system calls since 2019.
fn libc_io_uring_setup() -> i64 {
    425
}

#[test]
fn a20_where_io_uring_is_forbidden_the_other_back_end_and_plain_tokio_serve_everything() {
    // Filters belong to threads and are inherited: the daemons are started by one that has it.
    let test = std::thread::spawn(|| {
        apply_filter(&without_io_uring()).expect("as root or with no_new_privs");
        let sink = Collector::start();
        let overlay = three(&sink, "");
        let status = overlay.peer("a").ask(&["status"]).to_string();
        assert!(status.contains("mmsg") && status.contains("not permitted"), "{status}");
        assert!(status.contains("\"tokio\""), "{status}");
        carries(&overlay, sink);
    });
    test.join().expect("carried");
}

#[test]
fn a_daemon_that_must_have_io_uring_and_may_not_says_so_before_it_joins() {
    let test = std::thread::spawn(|| {
        apply_filter(&without_io_uring()).expect("as root or with no_new_privs");
        let folder = tempfile::tempdir().expect("a scratch folder");
        let (config, key) = (folder.path().join("a.toml"), folder.path().join("a.key"));
        let port = common::ports::free_ports(1);
        let text =
            format!("name = \"a\"\nlisten = \"127.0.0.1:{port}\"\n[engine]\nbackend = \"uring\"\n");
        fs::write(&config, text).expect("written");
        assert!(Command::new(SPANWAY).args(["key", "--new"]).arg(&key).status().is_ok());
        let out = Command::new(SPANWAY).args(["run", "--config"]).arg(&config).output();
        let out = out.expect("it ends by itself");
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && said.contains("io_uring"), "{said}");
    });
    test.join().expect("said");
}
