#![allow(unsafe_code, reason = "io_uring_enter and the registration of the ring by number")]
//! The ring itself: its set-up with what this kernel offers, and the one system call of its worker.
//!
//! Every entry asks for events, also one that does not wait: with DEFER_TASKRUN the kernel does its
//! work for us (receives, above all) only then, and a poll without it would find idle sockets.
//!
//! Assumes that one thread makes, uses and drops it. Knows nothing of sockets and buffers.

use std::io;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{CompletionQueue, EnterFlags, IoUring, Parameters, SubmissionQueue, Submitter};

/// Requests between two submissions: a full set of runs.
pub(super) const REQUESTS: u32 = 512;
/// Completions between two collections: every buffer, and thousands of sockets at once.
pub(super) const COMPLETIONS: u32 = 8_192;

const _: () = assert!(REQUESTS as usize >= crate::limits::RUNS_MAX);

pub(super) struct Ring {
    ring: IoUring,
    /// Its number in the thread's table of rings: saves the look-up of its descriptor at each entry.
    number: Option<u32>,
    /// Which of the optional flags this kernel took.
    flags: &'static str,
}

/// How long an entry waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Completions that end it.
    pub(super) want: u32,
    /// `None`: for ever.
    pub(super) timeout: Option<Duration>,
    /// After this long one completion is enough.
    pub(super) gather: Option<Duration>,
}

impl Patience {
    /// What is there already.
    pub(super) const NONE: Self = Self { want: 0, timeout: Some(Duration::ZERO), gather: None };

    /// For one completion.
    pub(super) fn one(timeout: Option<Duration>) -> Self {
        Self { want: u32::from(timeout != Some(Duration::ZERO)), timeout, gather: None }
    }
}

impl Ring {
    /// The ring, with the most of the flags that this kernel takes.
    pub(super) fn set_up() -> io::Result<Self> {
        let (ring, flags) = build()?;
        let number = register(&ring);
        Ok(Self { ring, number, flags })
    }

    /// Its features in a few words.
    pub(super) fn describe(&self) -> String {
        let registered = if self.number.is_some() { ", registered ring" } else { "" };
        let gather =
            if self.ring.params().is_feature_min_timeout() { ", gathering waits" } else { "" };
        format!("{}{registered}{gather}", self.flags)
    }

    pub(super) fn params(&self) -> &Parameters {
        self.ring.params()
    }

    pub(super) fn submitter(&self) -> Submitter<'_> {
        self.ring.submitter()
    }

    pub(super) fn submission(&mut self) -> SubmissionQueue<'_> {
        self.ring.submission()
    }

    pub(super) fn completion(&mut self) -> CompletionQueue<'_> {
        self.ring.completion()
    }

    /// Submits what is queued, does the kernel's deferred work, and waits.
    pub(super) fn enter(&mut self, patience: Patience) -> io::Result<()> {
        let submit = self.ring.submission().len();
        let timeout = patience.timeout.filter(|_| patience.want > 0).map(Timespec::from);
        let mut args = SubmitArgs::new();
        if let Some(timeout) = &timeout {
            args = args.timespec(timeout);
        }
        let mut want = patience.want;
        match patience.gather.map(|gather| u32::try_from(gather.as_micros()).unwrap_or(u32::MAX)) {
            Some(micros) if self.ring.params().is_feature_min_timeout() => {
                args = args.min_wait_usec(micros);
            }
            // Without it a wait for many could last until the time-out.
            _ => want = want.min(1),
        }
        let events = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        let (fd, flags) = match self.number {
            Some(number) => (libc::c_long::from(number), events | EnterFlags::REGISTERED_RING),
            None => (libc::c_long::from(self.descriptor()), events),
        };
        let (args, bytes) = ((&raw const args).cast::<libc::c_void>(), size_of_val(&args));
        // SAFETY: `fd` is this ring, as a descriptor or as its number as the flag says. `args` is the
        // kernel's `io_uring_getevents_arg` (the type is a transparent wrapper of it) and, like the time
        // it points to, lives through the call. What the queued requests point to was promised when
        // they were pushed.
        let entered = unsafe {
            libc::syscall(libc::SYS_io_uring_enter, fd, submit, want, flags.bits(), args, bytes)
        };
        if entered >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // The time passed, a signal came, or completions must be collected first.
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(error),
        }
    }

    fn descriptor(&self) -> i32 {
        self.ring.as_raw_fd()
    }
}

impl Drop for Ring {
    /// Otherwise the thread would keep the ring, and the ring its sockets.
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let mut update = RingUpdate { offset: number, reserved: 0, data: 0 };
            let _ = call_register(&self.ring, UNREGISTER_RING_FDS, &mut update);
        }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("number", &self.number).finish_non_exhaustive()
    }
}

fn build() -> io::Result<(IoUring, &'static str)> {
    let builder = || {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(COMPLETIONS).setup_submit_all();
        builder
    };
    let mut newest = builder();
    newest.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_no_sqarray();
    let mut newer = builder();
    newer.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    let mut older = builder();
    older.setup_coop_taskrun().setup_taskrun_flag();
    let tries = [
        (newest, "SINGLE_ISSUER, DEFER_TASKRUN and NO_SQARRAY"),
        (newer, "SINGLE_ISSUER and DEFER_TASKRUN"),
        (older, "COOP_TASKRUN"),
    ];
    for (builder, flags) in tries {
        match builder.build(REQUESTS) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            ring => return Ok((ring?, flags)),
        }
    }
    Ok((builder().build(REQUESTS)?, "no task flags"))
}

/// `io_uring_rsrc_update`, as the registration of rings reads and writes it.
#[derive(Debug)]
#[repr(C)]
struct RingUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

const REGISTER_RING_FDS: u32 = 20;
const UNREGISTER_RING_FDS: u32 = 21;

/// Enters the ring into the thread's table; `None` where the kernel has none (before 5.18).
fn register(ring: &IoUring) -> Option<u32> {
    let descriptor = u64::try_from(ring.as_raw_fd()).ok()?;
    // Any free place; the kernel writes which one over it.
    let mut update = RingUpdate { offset: u32::MAX, reserved: 0, data: descriptor };
    call_register(ring, REGISTER_RING_FDS, &mut update).then_some(update.offset)
}

fn call_register(ring: &IoUring, operation: u32, update: &mut RingUpdate) -> bool {
    let (fd, update) = (ring.as_raw_fd(), std::ptr::from_mut(update));
    // SAFETY: `fd` is a ring of this thread and `update` is one entry, as the count says, that lives
    // through the call; the kernel writes nothing but its fields.
    let done = unsafe { libc::syscall(libc::SYS_io_uring_register, fd, operation, update, 1) };
    done == 1
}
