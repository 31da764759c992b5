//! Pinning the calling thread to a CPU.

use spanway::net::{self, sched};

/// Pins this thread, if a CPU is named. One that does not exist is found by [`check`] before.
pub fn pin(cpu: Option<usize>) {
    if let Some(cpu) = cpu {
        // Checked where the argument was read; a CPU that is taken away meanwhile only costs speed.
        let _ = net::pin_to_cpu(cpu);
    }
}

/// Whether this process may run on a CPU. Leaves the thread as it was.
pub fn check(cpu: usize) -> Result<(), String> {
    let allowed = sched::allowed_cpus().map_err(|error| error.to_string())?;
    if allowed.contains(&cpu) {
        return Ok(());
    }
    let usable: Vec<String> = allowed.iter().map(ToString::to_string).collect();
    Err(format!("CPU {cpu} is not for this process: it may use {}", usable.join(", ")))
}
