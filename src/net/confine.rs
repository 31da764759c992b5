//! What a daemon gives up once everything is bound: capabilities, new privileges, core dumps and, if the
//! configuration says so, every system call that is not on a list.
//!
//! Capabilities and `no_new_privs` belong to a thread and are inherited by those it starts: each
//! long-lived thread calls [`give_up_privileges`] for itself. The filter of system calls is set for
//! all threads at once. Neither can be undone, and operations of io_uring pass beside the filter: they
//! are bounded by what the ring of a worker is given, its own sockets.

use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
use seccompiler::{BpfMap, TargetArch, apply_filter_all_threads, compile_from_json};
use serde_json::{Value, json};

/// The list of the container's profile, of which a running daemon needs all but one rule.
const PROFILE: &str = include_str!("../../tools/package/seccomp.json");
/// What is needed only to start a program: that rule has it.
const ONLY_TO_START: &str = "execve";

/// For the calling thread, and those it starts later.
pub fn give_up_privileges() -> io::Result<()> {
    set_no_new_privs(true)?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(())
}

/// Keys and frames are in no core file.
pub fn forbid_core_dumps() -> io::Result<()> {
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
}

/// From now on a system call that is not on the list fails with EPERM, in every thread.
pub fn filter_system_calls() -> io::Result<()> {
    let wrong = |error: &dyn std::fmt::Display| io::Error::other(format!("seccomp: {error}"));
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| wrong(&error))?;
    let filter = filter().to_string();
    let mut programs: BpfMap =
        compile_from_json(filter.as_bytes(), arch).map_err(|error| wrong(&error))?;
    let program = programs.remove("all").expect("the only one");
    apply_filter_all_threads(&program).map_err(|error| wrong(&error))
}

/// The profile in the words of seccompiler.
fn filter() -> Value {
    let profile: Value = serde_json::from_str(PROFILE).expect("a test reads it, too");
    let rules = profile["syscalls"].as_array().into_iter().flatten();
    let names = rules.map(|rule| rule["names"].as_array().map_or(&[][..], Vec::as_slice));
    let names = names.filter(|names| !names.contains(&json!(ONLY_TO_START))).flatten();
    let allowed: Vec<Value> = names
        // Other architectures never had these.
        .filter(|name| {
            cfg!(target_arch = "x86_64") || !OF_X86.contains(&name.as_str().unwrap_or(""))
        })
        .map(|name| json!({ "syscall": name }))
        .collect();
    json!({ "all": {
        "mismatch_action": { "errno": libc::EPERM },
        "match_action": "allow",
        "filter": allowed,
    }})
}

const OF_X86: [&str; 20] = [
    "access",
    "arch_prctl",
    "chmod",
    "dup2",
    "epoll_wait",
    "getpgrp",
    "lstat",
    "mkdir",
    "open",
    "pipe",
    "poll",
    "readlink",
    "rename",
    "select",
    "stat",
    "time",
    "unlink",
    "chown",
    "lchown",
    "renameat",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_names_system_calls_that_exist_and_leaves_out_what_starts_programs() {
        let filter = filter();
        for (arch, here) in [(TargetArch::x86_64, "x86_64"), (TargetArch::aarch64, "aarch64")] {
            if std::env::consts::ARCH == here {
                let compiled = compile_from_json(filter.to_string().as_bytes(), arch);
                assert!(compiled.is_ok(), "{compiled:?}");
            }
        }
        let text = filter.to_string();
        assert!(text.contains("\"io_uring_enter\"") && !text.contains("\"execve\""), "{text}");
        assert!(!text.contains("setuid"), "{text}");
    }

    /// In a process of its own: nothing of it can be taken back. See `tests/confined.rs`.
    #[test]
    fn a_thread_has_no_capabilities_afterwards() {
        let thread = std::thread::spawn(|| {
            give_up_privileges().expect("always allowed");
            let status = std::fs::read_to_string("/proc/thread-self/status").expect("proc");
            assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
            assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        });
        thread.join().expect("no panic");
    }
}
