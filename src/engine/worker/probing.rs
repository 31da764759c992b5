//! Probes on their way: those that come are counted, those that are due leave behind everything else
//! of a turn.
//!
//! An extension of [`Worker`]; pace and counts are [`Probes`]'. A probe that the kernel does not take is
//! as lost as one on the wire.

use std::ops::Range;
use std::sync::Arc;

use super::Worker;
use crate::engine::Event;
use crate::engine::probes::{Burst, Left, ProbeCounts, Probes};
use crate::limits::{PROBE_BYTES, PROBES_PER_TURN};
use crate::net::WORKER_SOCKET;
use crate::stats::{DropReason, bump};
use crate::types::{LinkId, Time};
use crate::wire::frame::Header;
use crate::wire::measure::Train;

/// Bytes of the largest burst.
const BURST_BYTES: usize = *PROBE_BYTES.end() as usize * PROBES_PER_TURN as usize;

/// What a worker needs to measure.
#[derive(Debug, Default)]
pub(super) struct Probing {
    probes: Probes,
    /// Room for a burst, made for the first one.
    room: Vec<u8>,
    /// Trains that left, not told yet.
    left: Vec<Left>,
}

impl Probing {
    pub(super) fn count(&mut self, link: LinkId, counts: Option<Arc<ProbeCounts>>) {
        self.left.retain(|left| left.link != link);
        self.probes.count(link, counts);
    }

    pub(super) fn send(&mut self, link: LinkId, train: Train, header_bytes: u16, now: Time) {
        self.room.resize(BURST_BYTES, 0);
        self.probes.send(link, train, header_bytes, now);
    }

    /// When there is something to send.
    pub(super) fn next(&self) -> Option<Time> {
        self.probes.next()
    }
}

impl Worker {
    pub(super) fn on_probe(
        &mut self,
        link: LinkId,
        header: &Header,
        buffer: u16,
        segment: Range<usize>,
    ) {
        let bytes = &self.net.pool().bytes(self.outbox.buffer(buffer))[segment];
        let spec = self.liveness.as_ref().and_then(|liveness| liveness.link(link));
        let counted = spec
            .is_some_and(|(spec, _)| self.probing.probes.on_probe(spec, header, bytes, self.now));
        if counted {
            bump(&self.stats.probes_heard, 1);
        } else {
            self.stats.drop_frames(DropReason::BadProbe, 1);
        }
    }

    /// A heartbeat of the link was heard.
    pub(super) fn note_rtt(&self, link: LinkId) {
        if let Some(rtt) = self.liveness.as_ref().and_then(|liveness| liveness.rtt(link)) {
            self.probing.probes.on_rtt(link, rtt);
        }
    }

    /// One burst a turn.
    pub(super) fn send_probes(&mut self) {
        while let Some(polled) = self.probing.probes.poll(self.now) {
            match polled {
                Err(left) => self.probing.left.push(left),
                Ok(burst) => {
                    self.send_burst(&burst);
                    break;
                }
            }
        }
        let shared = &self.shared;
        self.probing.left.retain(|&Left { link, number, frames, took }| {
            !shared.tell(Event::TrainSent { link, number, frames, took })
        });
    }

    fn send_burst(&mut self, burst: &Burst) {
        let link = self.liveness.as_ref().and_then(|liveness| liveness.link(burst.link));
        let Some((spec, to)) = link else { return };
        let length = burst.emit(spec, &mut self.probing.room);
        let (bytes, size) = (&self.probing.room[..length], burst.train.frame_bytes);
        let one_call = burst.count > 1
            && match self.net.send_segments(WORKER_SOCKET, to, bytes, size) {
                Ok(()) => true,
                // Full: they are lost. Otherwise segmentation was refused, and they can go alone.
                Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
            };
        if !one_call {
            for probe in bytes.chunks(size.into()) {
                // Lost, like one on the wire.
                let _ = self.net.send_now(WORKER_SOCKET, to, probe);
            }
        }
    }
}
