//! How the kernel schedules the calling thread: where it may run, how long a turn it asks for, how
//! much it gives way, and how much time it has used.
//!
//! Assumes Linux's threads, each of which has its own policy, nice value and CPUs. What is inherited
//! from whoever started the process (a policy, a nice value, a set of CPUs) is narrowed here, never
//! widened. Decides nothing: the figures are in `limits`.

use std::io;
use std::time::Duration;

use super::message::to_u32;

/// What a thread asked of the scheduler, and what it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slice {
    /// The kernel cuts this thread's time into turns of this length (Linux 6.12 or later).
    Granted(Duration),
    /// The kernel takes no such request; it chooses the turns itself.
    Unsupported,
    /// Somebody gave this thread another policy than the normal one, which was left as it is.
    OtherPolicy,
}

impl Slice {
    pub fn granted(self) -> Option<Duration> {
        match self {
            Self::Granted(slice) => Some(slice),
            Self::Unsupported | Self::OtherPolicy => None,
        }
    }
}

/// Asks for turns of `slice` on the CPU for the calling thread, and makes it `gives_way` steps of the
/// nice scale politer than it is. A thread with a short slice that wakes up goes before a running one
/// with a long slice.
pub fn request_slice(slice: Duration, gives_way: i32) -> io::Result<Slice> {
    let mut attributes = attributes()?;
    if attributes.sched_policy != to_policy(libc::SCHED_OTHER) {
        return Ok(Slice::OtherPolicy);
    }
    let nanos = u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX);
    attributes.sched_runtime = nanos;
    attributes.sched_nice = (attributes.sched_nice + gives_way).min(NICE_MAX);
    attributes.sched_flags = 0;
    let wanted = &raw const attributes;
    // SAFETY: `wanted` points to a `sched_attr` that says its own size and lives through the call; 0 is
    // the calling thread.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, wanted, 0) } {
        0 => {}
        _ => return Err(io::Error::last_os_error()),
    }
    // Older kernels take the call and forget the slice.
    match self::attributes()?.sched_runtime {
        0 => Ok(Slice::Unsupported),
        granted => Ok(Slice::Granted(Duration::from_nanos(granted))),
    }
}

/// The CPUs that the calling thread may run on, in ascending order.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    let mut set = no_cpus();
    let bytes = size_of::<libc::cpu_set_t>();
    // SAFETY: `set` is as large as `bytes` says and lives through the call; 0 is the calling thread.
    match unsafe { libc::sched_getaffinity(0, bytes, &raw mut set) } {
        0 => {}
        _ => return Err(io::Error::last_os_error()),
    }
    // SAFETY: `cpu` is below the number of bits of the set.
    let contains = |cpu: &usize| unsafe { libc::CPU_ISSET(*cpu, &set) };
    Ok((0..bytes * 8).filter(contains).collect())
}

/// Keeps the calling thread, and those it starts from now on, on these CPUs. An empty set, or one
/// without any CPU that exists, is an error.
pub fn stay_on(cpus: &[usize]) -> io::Result<()> {
    let mut set = no_cpus();
    let bytes = size_of::<libc::cpu_set_t>();
    for &cpu in cpus {
        if cpu >= bytes * 8 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // SAFETY: `cpu` is below the number of bits of the set, checked above.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: the set lives through the call and the size is its own; 0 is the calling thread.
    match unsafe { libc::sched_setaffinity(0, bytes, &raw const set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// CPU time that the calling thread has used; other threads' turns in between do not count.
pub fn thread_time() -> Duration {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// The host's monotonic clock as a number, which other processes of the host can compare.
pub fn monotonic_time() -> Duration {
    clock(libc::CLOCK_MONOTONIC)
}

fn clock(which: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` lives through the call; every kernel has the two clocks, so it cannot fail.
    unsafe { libc::clock_gettime(which, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// The politest nice value.
const NICE_MAX: i32 = 19;

fn attributes() -> io::Result<libc::sched_attr> {
    let bytes = to_u32(size_of::<libc::sched_attr>());
    // SAFETY: a `sched_attr` is numbers; all zero is one.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    attributes.size = bytes;
    let out = &raw mut attributes;
    // SAFETY: `out` points to `bytes` writable bytes that live through the call; 0 is the calling thread.
    match unsafe { libc::syscall(libc::SYS_sched_getattr, 0, out, bytes, 0) } {
        0 => Ok(attributes),
        _ => Err(io::Error::last_os_error()),
    }
}

fn no_cpus() -> libc::cpu_set_t {
    // SAFETY: `cpu_set_t` is a bit array; all zero is the empty set.
    unsafe { std::mem::zeroed() }
}

fn to_policy(policy: libc::c_int) -> u32 {
    u32::try_from(policy).expect("policies are small numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a thread of its own: what it asks for ends with it.
    fn on_a_thread<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(run).join().expect("no panic")
    }

    #[test]
    fn a20_a_slice_is_requested_where_the_kernel_has_it() {
        for (asked, gives_way) in [(100, 0), (10_000, 3)] {
            let asked = Duration::from_micros(asked);
            let (got, nice) = on_a_thread(move || {
                let before = attributes().expect("readable").sched_nice;
                let got = request_slice(asked, gives_way).expect("it asks for nothing privileged");
                (got, attributes().expect("readable").sched_nice - before)
            });
            assert_eq!(nice, gives_way, "it gives way as much as it was told, not less");
            assert!(matches!(got, Slice::Granted(_) | Slice::Unsupported), "{got:?}");
            if kernel() >= (6, 12) {
                assert_eq!(got, Slice::Granted(asked));
            }
        }
    }

    #[test]
    fn a_thread_stays_where_it_is_told_and_so_do_those_it_starts() {
        let all = allowed_cpus().expect("readable");
        let last = *all.last().expect("a CPU");
        let (mine, child) = on_a_thread(move || {
            stay_on(&[last]).expect("a CPU that is allowed");
            (allowed_cpus(), on_a_thread(allowed_cpus))
        });
        assert_eq!(mine.expect("readable"), [last]);
        assert_eq!(child.expect("readable"), [last]);
        assert_eq!(on_a_thread(|| stay_on(&[])).map_err(|e| e.raw_os_error()), Err(Some(22)));
        assert_eq!(allowed_cpus().expect("readable"), all, "others are not touched");
    }

    #[test]
    fn time_that_was_slept_does_not_count() {
        let used = on_a_thread(|| {
            let before = thread_time();
            std::thread::park_timeout(Duration::from_millis(30));
            thread_time() - before
        });
        assert!(used < Duration::from_millis(20), "{used:?}");
    }

    fn kernel() -> (u32, u32) {
        let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel");
        let mut parts = text.split('.').map_while(|part| part.parse().ok());
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }
}
