//! What the control lane counts since its start: how channels recovered, how requests were answered, and
//! how many messages of which kind went by.
//!
//! One writer, the control thread, which also reads them; so no lock and no atomics. It learns everything
//! from what passes through the daemon anyway: events, answers and messages. Never goes back.

use std::collections::BTreeMap;

use crate::api::dto::{self, StatisticsReply};
use crate::daemon::views;
use crate::proto::session;
use crate::proto::{Answer, Event};
use crate::stats::histogram::LogLinear;
use crate::types::{PeerName, Reject};
use crate::wire::control::Message;

/// Longer gaps and waits count as this: an hour, in the finer of both units.
const TIME_MAX: u64 = 3_600_000_000;
/// At most 1.6 % high.
const FINE: u32 = 6;

/// All of them.
pub(crate) struct Counters {
    moved: u64,
    protected: u64,
    seamless: u64,
    broken: u64,
    gap_us: LogLinear<FINE>,
    open: u64,
    queued: u64,
    unproven: u64,
    rejected: BTreeMap<Reject, u64>,
    waited_ms: LogLinear<FINE>,
    received: BTreeMap<&'static str, u64>,
    sent: BTreeMap<&'static str, u64>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            moved: 0,
            protected: 0,
            seamless: 0,
            broken: 0,
            gap_us: LogLinear::new(TIME_MAX),
            open: 0,
            queued: 0,
            unproven: 0,
            rejected: BTreeMap::new(),
            waited_ms: LogLinear::new(TIME_MAX),
            received: BTreeMap::new(),
            sent: BTreeMap::new(),
        }
    }
}

impl Counters {
    /// What the node says that happened.
    pub(super) fn event(&mut self, event: &Event) {
        match event {
            Event::ChannelMoved { seamless: true, .. } => self.seamless += 1,
            Event::ChannelMoved { took, .. } => {
                self.moved += 1;
                // A path stood by: frames took it in the moment in which the other one was known broken.
                self.protected += u64::from(took.is_zero());
                self.gap_us.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), 1);
            }
            Event::ChannelClosed { reason: Some(Reject::Broken), .. } => self.broken += 1,
            Event::ChannelQueued { .. } => self.queued += 1,
            Event::Unproven { .. } => self.unproven += 1,
            Event::ChannelClosed { .. }
            | Event::LinkUp { .. }
            | Event::LinkDown { .. }
            | Event::SessionStarted { .. }
            | Event::SessionAdopted { .. }
            | Event::TreeCommitted { .. }
            | Event::ChannelOpen { .. }
            | Event::ChannelMoving { .. }
            | Event::ChannelTrying { .. }
            | Event::ChannelProtected { .. }
            | Event::StreamFinished { .. }
            | Event::Ignored { .. } => {}
        }
    }

    /// The final answer to an `open` of this peer.
    pub(super) fn answered(&mut self, answer: &Answer) {
        let waited = match answer {
            Answer::Open(opened) => {
                self.open += 1;
                opened.explanation.waited
            }
            Answer::Rejected(rejection) => {
                *self.rejected.entry(rejection.reason).or_default() += 1;
                rejection.explanation.waited
            }
            Answer::Fit(_)
            | Answer::Closed
            | Answer::Finished
            | Answer::Services(_)
            | Answer::Links(_)
            | Answer::Recomputing(_)
            | Answer::Hops(_)
            | Answer::Measured(_)
            | Answer::Left => None,
        };
        if let Some(waited) = waited {
            self.waited_ms.record(u64::try_from(waited.as_millis()).unwrap_or(u64::MAX), 1);
        }
    }

    pub(super) fn received(&mut self, message: &Message) {
        *self.received.entry(message.name()).or_default() += 1;
    }

    pub(super) fn sent(&mut self, message: &Message) {
        *self.sent.entry(message.name()).or_default() += 1;
    }

    /// Everything that is counted here, with what the node counts of its sessions.
    pub(super) fn reply(
        &self,
        peer: PeerName,
        uptime_ms: u64,
        sessions: session::Counters,
    ) -> StatisticsReply {
        let messages = |counts: &BTreeMap<&'static str, u64>| {
            counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        let rejected = self.rejected.iter();
        StatisticsReply {
            peer,
            uptime_ms,
            frames: dto::FrameTotals::default(),
            unproven: self.unproven,
            channels: BTreeMap::new(),
            waiting: 0,
            recoveries: dto::Recoveries {
                moved: self.moved,
                protected: self.protected,
                seamless: self.seamless,
                broken: self.broken,
                gap_us: views::distribution(&self.gap_us.read()),
            },
            answers: dto::Answers {
                open: self.open,
                queued: self.queued,
                rejected: rejected.map(|(reason, n)| (reason.as_str().to_owned(), *n)).collect(),
                waited_ms: views::distribution(&self.waited_ms.read()),
            },
            forbidden: BTreeMap::new(),
            sessions: dto::SessionCounts {
                started: sessions.started,
                adopted: sessions.adopted,
                committed: sessions.committed,
                stale: sessions.stale,
                refused: sessions.refused,
                coalesced: sessions.coalesced,
                watchdog: sessions.watchdog,
                alarms: sessions.alarms,
            },
            messages_received: messages(&self.received),
            messages_sent: messages(&self.sent),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::proto::{Explanation, Opened, Rejection};
    use crate::types::{Bandwidth, ChannelId};

    fn channel() -> ChannelId {
        ChannelId { source: PeerName::new("a").expect("a name"), boot: 1, count: 1 }
    }

    fn moved(took: Duration, seamless: bool) -> Event {
        let (channel, path, smaller_payload) = (channel(), Vec::new(), None);
        Event::ChannelMoved { channel, path, took, seamless, smaller_payload }
    }

    fn closed(reason: Option<Reject>) -> Event {
        Event::ChannelClosed { channel: channel(), reason, why: String::new() }
    }

    fn reply(counters: &Counters) -> StatisticsReply {
        let name = PeerName::new("a").expect("a name");
        counters.reply(name, 1, session::Counters { started: 3, ..Default::default() })
    }

    #[test]
    fn a14_gaps_are_those_of_paths_that_broke_and_each_kind_is_told_apart() {
        let mut counters = Counters::default();
        counters.event(&moved(Duration::from_micros(1_100), false));
        counters.event(&moved(Duration::ZERO, false));
        counters.event(&moved(Duration::from_secs(9), true));
        counters.event(&closed(Some(Reject::Broken)));
        counters.event(&closed(None));
        let told = reply(&counters);
        let dto::Recoveries { moved, protected, seamless, broken, gap_us } = told.recoveries;
        assert_eq!((moved, protected, seamless, broken), (2, 1, 1, 1));
        assert_eq!((gap_us.count, gap_us.min), (2, Some(0)));
        assert!(gap_us.max.is_some_and(|max| (1_100..1_120).contains(&max)), "{gap_us:?}");
        assert_eq!(told.sessions.started, 3);
    }

    #[test]
    fn a16_answers_are_counted_by_their_outcome_with_the_time_in_line() {
        let mut counters = Counters::default();
        let waited = Some(Duration::from_millis(250));
        counters.event(&Event::ChannelQueued { channel: channel(), path: Vec::new() });
        counters.answered(&Answer::Open(Opened {
            channel: channel(),
            path: Vec::new(),
            width: Bandwidth::ZERO,
            max_payload: 0,
            sealed: None,
            explanation: Box::new(Explanation { waited, ..Explanation::default() }),
        }));
        counters.answered(&Answer::Rejected(Rejection::new(Reject::NoRoom, "full")));
        counters.answered(&Answer::Closed);
        let answers = reply(&counters).answers;
        assert_eq!((answers.open, answers.queued, answers.waited_ms.count), (1, 1, 1));
        assert_eq!(answers.rejected, BTreeMap::from([("no_room".to_owned(), 1)]));
    }

    #[test]
    fn messages_are_counted_by_kind_each_way() {
        let mut counters = Counters::default();
        counters.received(&Message::Bye(String::new()));
        counters.received(&Message::Bye(String::new()));
        counters.sent(&Message::Refresh(Vec::new()));
        let told = reply(&counters);
        assert_eq!(told.messages_received, BTreeMap::from([("bye".to_owned(), 2)]));
        assert_eq!(told.messages_sent, BTreeMap::from([("refresh".to_owned(), 1)]));
    }
}
