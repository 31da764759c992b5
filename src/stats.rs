//! Counters and latency of the data plane: one writer each (the worker), relaxed atomics, any reader.
//!
//! Every drop has a name ([`DropReason`]) with a sentence; the same table feeds the command line,
//! metrics and pages. Counters never go back within a run of the daemon. Histograms are in
//! [`histogram`].

pub mod histogram;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Acquire, Ordering::Relaxed, fence};

use self::histogram::{OneWay, RelayHistograms};

macro_rules! drop_reasons {
    ($($name:ident $text:literal $sentence:literal),* $(,)?) => {
        /// Why a frame or datagram was not passed on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum DropReason { $(#[doc = $sentence] $name),* }

        impl DropReason {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name in JSON, metrics and documents.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// One sentence for people.
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence),* }
            }
        }
    };
}

drop_reasons! {
    Malformed "malformed" "Not a frame: too short, wrong version or type, or the length field is not the datagram's.",
    UnknownLabel "unknown_label" "No channel has this label here: closed, never opened, or guessed.",
    ForeignLabel "foreign_label" "The label is known, but the frame did not come from the link it was given to.",
    BadHeartbeat "bad_heartbeat" "A heartbeat whose MAC or label is wrong, an old one again, or from an address that frames may not go to.",
    BadProbe "bad_probe" "A probe whose MAC or label is wrong, or that nobody measures with here.",
    BadTag "bad_tag" "The link has hop tags, and the frame's is not the neighbour's.",
    Replayed "replayed" "A frame that was seen before, or one too old to tell.",
    HopLimit "hop_limit" "The frame had no hops left.",
    TooBig "too_big" "A local datagram larger than the channel's largest payload.",
    Policed "policed" "Above the channel's bandwidth: sent faster than was asked for.",
    ForeignSender "foreign_sender" "A datagram at a channel's local socket from an address that may not send there.",
    Moving "moving" "The channel had no path while it moved.",
    Late "late" "It came over the channel's old path after frames of the new one had been delivered, or twice.",
    Closed "closed" "It came to the local socket of a channel that was being closed.",
    NoReceiver "no_receiver" "Nobody has sent from the local side yet, so nobody is known to deliver to.",
    NoLink "no_link" "The link to the next hop is down.",
    SocketFull "socket_full" "The kernel could not take the datagram at once.",
    SendError "send_error" "The kernel refused the datagram.",
    KernelReceive "kernel_receive" "The kernel dropped it because the socket's receive buffer was full; a super-buffer counts as one.",
    Truncated "truncated" "A datagram larger than any buffer.",
    ControlTruncated "control_truncated" "The kernel had no room to say where one datagram ends and the next begins.",
    ClientLimit "client_limit" "A datagram of a new client when the proxy had as many as it may have.",
    ClientSocket "client_socket" "A datagram of a new client the kernel gave the proxy no socket for.",
    ForeignAnswer "foreign_answer" "A datagram at a client's socket of the proxy that did not come from its server.",
    RingFull "ring_full" "The ring to the worker that owns the way out was full.",
    BadSeal "bad_seal" "A frame of a sealed channel that the other end did not seal, or that was changed on the way.",
    Early "early" "A frame of a sealed channel that came before both its ends had the keys.",
}

const REASONS: usize = DropReason::ALL.len();

/// Counters of one channel at one peer. Entered + received = sent + delivered + drops, once nothing
/// is in flight. One cache line of its own at least: neighbours in memory belong to other workers.
#[derive(Debug)]
#[repr(align(64))]
pub struct ChannelStats {
    /// Datagrams that entered the overlay here.
    pub entered: AtomicU64,
    /// Frames received from a neighbour.
    pub received: AtomicU64,
    /// Frames sent to a neighbour.
    pub sent: AtomicU64,
    /// Frames that left the overlay here.
    pub delivered: AtomicU64,
    /// Payload bytes entered and delivered.
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    /// One more than the highest sequence seen on frames for this end.
    pub next_sequence: AtomicU64,
    /// The sequence the next datagram that enters here gets. Those that are dropped after they were
    /// allowed in count too, so that the far end sees the gap.
    pub entry_sequence: AtomicU64,
    drops: [AtomicU64; REASONS],
    /// From the stamp (entry into the overlay) to the arrival here.
    pub one_way: OneWay,
}

impl Default for ChannelStats {
    fn default() -> Self {
        Self {
            entered: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            next_sequence: AtomicU64::new(0),
            entry_sequence: AtomicU64::new(0),
            drops: [const { AtomicU64::new(0) }; REASONS],
            one_way: OneWay::default(),
        }
    }
}

/// Adds to a counter that only this thread writes: a plain load and store, no locked instruction.
#[inline]
pub fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

impl ChannelStats {
    #[inline]
    pub fn drop_frames(&self, reason: DropReason, frames: u64) {
        bump(&self.drops[reason as usize], frames);
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].load(Relaxed)
    }

    /// A reading of everything that came and went. What went is read first: a frame that passes
    /// meanwhile is in flight, never missing.
    pub fn books(&self) -> Books {
        let dropped = self.drops();
        let (sent, delivered) = (self.sent.load(Relaxed), self.delivered.load(Relaxed));
        fence(Acquire);
        let (entered, received) = (self.entered.load(Relaxed), self.received.load(Relaxed));
        Books { entered, received, sent, delivered, dropped }
    }

    /// Reasons with a count above zero.
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        let all = DropReason::ALL.iter().map(|&reason| (reason, self.dropped(reason)));
        all.filter(|&(_, count)| count > 0).collect()
    }
}

/// Counters of a plain UDP proxy at one worker. Each direction is a channel whose both ends are here:
/// what the worker received entered, what it sent was delivered.
#[derive(Debug, Default)]
pub struct ProxyStats {
    pub to_server: Arc<ChannelStats>,
    pub to_clients: Arc<ChannelStats>,
    /// Clients that got a socket, ever, and those that went after the idle time.
    pub admitted: AtomicU64,
    pub expired: AtomicU64,
}

/// The frames of one channel at one peer, each in one place: entered + received = sent + delivered +
/// dropped + in flight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Books {
    pub entered: u64,
    pub received: u64,
    pub sent: u64,
    pub delivered: u64,
    /// Reasons with a count above zero.
    pub dropped: Vec<(DropReason, u64)>,
}

impl Books {
    /// Adds those of other frames of the same channel.
    pub fn add(&mut self, other: Self) {
        self.entered += other.entered;
        self.received += other.received;
        self.sent += other.sent;
        self.delivered += other.delivered;
        for (reason, frames) in other.dropped {
            match self.dropped.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, sum)) => *sum += frames,
                None => self.dropped.push((reason, frames)),
            }
        }
    }

    /// Frames that came and have not gone. Zero when nothing moves; anything else is a frame that was
    /// counted twice or not at all.
    pub fn in_flight(&self) -> i64 {
        let dropped: u64 = self.dropped.iter().map(|(_, frames)| frames).sum();
        let gone = self.sent + self.delivered + dropped;
        (self.entered + self.received).wrapping_sub(gone).cast_signed()
    }
}

/// Counters of a worker: drops that belong to no channel, and sign of life. Datagrams = frames +
/// heartbeats and probes heard + drops, but those of the kernel.
#[derive(Debug)]
#[repr(align(64))]
pub struct WorkerStats {
    drops: [AtomicU64; REASONS],
    pub batches: AtomicU64,
    pub datagrams: AtomicU64,
    /// Datagrams that belong to a channel: the rest are heartbeats and drops.
    pub frames: AtomicU64,
    /// Receives and sends: each carries one datagram or many.
    pub receives: AtomicU64,
    pub sends: AtomicU64,
    /// Sends with segmentation offload that the kernel refused; their frames went one by one.
    pub gso_refused: AtomicU64,
    /// Completions the kernel had no room for: held back, or lost.
    pub cq_overflows: AtomicU64,
    /// Frames passed to other workers, and taken over from them.
    pub passed: AtomicU64,
    pub ring_in: AtomicU64,
    pub heartbeats_sent: AtomicU64,
    pub heartbeats_heard: AtomicU64,
    /// Probes that came while a link was measured.
    pub probes_heard: AtomicU64,
    /// Waits that ended with datagrams.
    pub wakeups: AtomicU64,
    /// How the worker waits now: the number of a [`WaitMode`].
    wait_mode: AtomicU8,
    /// Times inside this worker, and sizes.
    pub relay: RelayHistograms,
}

impl Default for WorkerStats {
    fn default() -> Self {
        Self {
            drops: [const { AtomicU64::new(0) }; REASONS],
            batches: AtomicU64::new(0),
            datagrams: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            receives: AtomicU64::new(0),
            sends: AtomicU64::new(0),
            gso_refused: AtomicU64::new(0),
            cq_overflows: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            ring_in: AtomicU64::new(0),
            heartbeats_sent: AtomicU64::new(0),
            heartbeats_heard: AtomicU64::new(0),
            probes_heard: AtomicU64::new(0),
            wakeups: AtomicU64::new(0),
            wait_mode: AtomicU8::new(0),
            relay: RelayHistograms::default(),
        }
    }
}

impl WorkerStats {
    #[inline]
    pub fn drop_frames(&self, reason: DropReason, frames: u64) {
        bump(&self.drops[reason as usize], frames);
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].load(Relaxed)
    }

    /// Reasons with a count above zero.
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        let all = DropReason::ALL.iter().map(|&reason| (reason, self.dropped(reason)));
        all.filter(|&(_, count)| count > 0).collect()
    }

    pub fn set_wait_mode(&self, mode: WaitMode) {
        self.wait_mode.store(mode as u8, Relaxed);
    }

    pub fn wait_mode(&self) -> WaitMode {
        WaitMode::ALL[usize::from(self.wait_mode.load(Relaxed))]
    }
}

/// How a worker waits for datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum WaitMode {
    /// Until there is anything.
    #[default]
    Immediate = 0,
    /// For more of them, at most 50 us; then until there is anything.
    Short = 1,
    /// The same with 100 us.
    Long = 2,
}

impl WaitMode {
    pub const ALL: [Self; 3] = [Self::Immediate, Self::Short, Self::Long];

    /// The name in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Immediate => "immediate",
            Self::Short => "gather_50us",
            Self::Long => "gather_100us",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_of_a_channel_take_less_than_a_kibibyte() {
        assert!(size_of::<ChannelStats>() <= 1_024, "{}", size_of::<ChannelStats>());
    }

    #[test]
    fn drops_are_counted_by_name_and_books_say_what_is_missing() {
        let stats = ChannelStats::default();
        stats.drop_frames(DropReason::TooBig, 2);
        assert_eq!(stats.drops(), vec![(DropReason::TooBig, 2)]);
        stats.drop_frames(DropReason::Policed, 1);
        bump(&stats.entered, 5);
        bump(&stats.received, 4);
        bump(&stats.sent, 3);
        bump(&stats.delivered, 2);
        assert_eq!(stats.books().in_flight(), 1);
        bump(&stats.sent, 2);
        assert_eq!(stats.books().in_flight(), -1);
        let names: std::collections::BTreeSet<_> =
            DropReason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
