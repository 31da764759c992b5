//! Pinning the calling thread to a CPU.

use rustix::thread::{CpuSet, sched_setaffinity};

/// CPUs that can be named.
pub const CPUS_MAX: usize = CpuSet::MAX_CPU;

/// Pins this thread, if a CPU is named. One that does not exist is found by [`check`] before.
pub fn pin(cpu: Option<usize>) {
    if let Some(cpu) = cpu {
        let mut set = CpuSet::new();
        set.set(cpu);
        // Checked where the argument was read; a CPU that is taken away meanwhile only costs speed.
        let _ = sched_setaffinity(None, &set);
    }
}

/// Whether this process may run on a CPU. Leaves the thread as it was.
pub fn check(cpu: usize) -> Result<(), String> {
    let allowed = rustix::thread::sched_getaffinity(None).map_err(|error| error.to_string())?;
    if cpu < CPUS_MAX && allowed.is_set(cpu) {
        return Ok(());
    }
    let usable: Vec<String> =
        (0..CPUS_MAX).filter(|&cpu| allowed.is_set(cpu)).map(|cpu| cpu.to_string()).collect();
    Err(format!("CPU {cpu} is not for this process: it may use {}", usable.join(", ")))
}
