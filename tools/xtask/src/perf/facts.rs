//! What the machine is: without it no number means anything. Names of hosts and users are left out.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::net::output;
use super::record::Facts;

const SYSCTLS: [&str; 5] = [
    "kernel/io_uring_disabled",
    "net/core/netdev_budget",
    "net/core/netdev_max_backlog",
    "net/core/rmem_default",
    "net/core/rmem_max",
];

/// Reads all of it; what a kernel does not say is left empty.
pub(crate) fn gather() -> Facts {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let sysctls = SYSCTLS.map(|name| (name.replace('/', "."), file(&format!("/proc/sys/{name}"))));
    Facts {
        date: said(&["date", "--utc", "+%Y-%m-%d %H:%M UTC"]),
        commit: commit(),
        kernel: kernel(),
        cpu: cpuinfo_value(&cpuinfo, "model name").unwrap_or_default(),
        cpus: u32::try_from(cpuinfo.matches("\nprocessor").count() + 1).unwrap_or(u32::MAX),
        memory_mib: memory_mib(&file("/proc/meminfo")),
        virtual_machine: cpuinfo_value(&cpuinfo, "flags")
            .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
        compiler: said(&["rustc", "--version"]),
        mitigations: mitigations(Path::new("/sys/devices/system/cpu/vulnerabilities")),
        sysctls: sysctls.into_iter().filter(|(_, value)| !value.is_empty()).collect(),
    }
}

pub(crate) fn kernel() -> String {
    let words = ["/proc/sys/kernel/osrelease", "/proc/sys/kernel/version"].map(file);
    words.join(" ")
}

/// With `+` if the work tree differs from it.
pub(crate) fn commit() -> String {
    let commit = said(&["git", "rev-parse", "--short=12", "HEAD"]);
    let changed = !said(&["git", "status", "--porcelain", "--untracked-files=no"]).is_empty();
    if changed { format!("{commit}+") } else { commit }
}

fn said(words: &[&str]) -> String {
    output(words).map_or_else(|_| String::new(), |text| text.trim().to_owned())
}

fn file(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| String::new(), |text| text.trim().to_owned())
}

fn cpuinfo_value(cpuinfo: &str, key: &str) -> Option<String> {
    let pairs = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let mut values = pairs.filter(|(name, _)| name.trim() == key).map(|(_, value)| value.trim());
    values.next().map(str::to_owned)
}

fn memory_mib(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

fn mitigations(folder: &Path) -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeMap::new() };
    let entries = entries.filter_map(Result::ok);
    let entries = entries.map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        (name, file(&entry.path().to_string_lossy()))
    });
    entries.filter(|(_, state)| state != "Not affected").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_and_the_memory_are_read_as_the_kernel_writes_them() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some CPU 3000\nflags\t\t: fpu hypervisor\n";
        assert_eq!(cpuinfo_value(cpuinfo, "model name").unwrap(), "Some CPU 3000");
        assert_eq!(memory_mib("MemTotal:       24567808 kB\nMemFree: 1 kB\n"), 23_992);
    }
}
