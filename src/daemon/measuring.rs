//! Measuring a link: what the node wants of worker 0, and what worker 0 answers.
//!
//! An extension of [`Control`]. The counters of a link live as long as its measurement.

use std::sync::Arc;
use std::time::Duration;

use crate::daemon::control::Control;
use crate::engine::Command;
use crate::engine::probes::ProbeCounts;
use crate::proto::{Input, measure};
use crate::types::{LinkId, WorkerId};
use crate::wire::measure::Train;

/// The worker that has heartbeats and probes.
const FIRST: WorkerId = WorkerId(0);

impl Control {
    pub(super) fn count_probes(&mut self, link: LinkId, on: bool) {
        let counts = on.then(Arc::<ProbeCounts>::default);
        if let Some(slot) = self.links.get_mut(&link) {
            slot.probes = counts.clone();
        }
        self.command(FIRST, Command::CountProbes { link, counts });
    }

    pub(super) fn send_train(&mut self, link: LinkId, train: Train, header_bytes: u16) {
        self.command(FIRST, Command::SendTrain { link, train, header_bytes });
    }

    pub(super) fn count_train(&mut self, link: LinkId, number: u32) {
        let counts = self.probes(link);
        let arrived = counts.map(|counts| counts.arrived(number)).unwrap_or_default();
        let rtt = self.rtt(link);
        self.inputs.push_back(Input::TrainCounted { link, number, arrived, rtt });
    }

    pub(super) fn train_sent(&mut self, link: LinkId, sent: measure::Sent) {
        let rtt = self.rtt(link);
        self.feed(Input::TrainSent { link, sent, rtt });
    }

    fn rtt(&self, link: LinkId) -> Option<Duration> {
        self.probes(link).and_then(ProbeCounts::rtt)
    }

    fn probes(&self, link: LinkId) -> Option<&ProbeCounts> {
        self.links.get(&link)?.probes.as_deref()
    }
}
