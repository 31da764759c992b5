//! Whether the kernel believes that the host's clock is right. Asks, and changes nothing.

use std::time::Duration;

/// What the kernel was told by whoever keeps the clock (chrony, systemd-timesyncd, ntpd).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostClock {
    pub synchronised: bool,
    /// At most so far from the right time, as the keeper says.
    pub error_max: Duration,
}

/// `None` where the kernel may not be asked, as in some containers.
pub fn host_clock() -> Option<HostClock> {
    // SAFETY: a `timex` is integers only, for which zero is valid; `modes` 0 changes nothing.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `timex` lives through the call and is the structure it fills.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    let error_max = Duration::from_micros(u64::try_from(timex.maxerror).unwrap_or_default());
    let synchronised = state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0;
    (state >= 0).then_some(HostClock { synchronised, error_max })
}
