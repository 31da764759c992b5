//! What the daemon knows of times: one-way times of channels, time inside this peer, and who watches.
//!
//! An extension of [`Control`]. A watch gives every worker a histogram of its own for the channel and
//! takes it away when the client goes, when its time is over, or when the daemon stops; the workers
//! allocate nothing. What a watch counted can be read until then, also of a channel that has ended.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::api::dto::{
    Distribution, Failure, FailureKind, HopTimes, LaneTimes, Latency, RelayTimes, Watching,
    WorkerTimes,
};
use crate::api::server::Answers;
use crate::daemon::actions::Later;
use crate::daemon::control::Control;
use crate::daemon::views::distribution;
use crate::engine::Command;
use crate::limits;
use crate::stats::ChannelStats;
use crate::stats::histogram::{FullHistogram, OneWayReading, Reading, RelayHistograms};
use crate::types::{ChannelId, PeerName, Time};

/// A client that watches a channel.
pub(crate) struct ChannelWatch {
    channel: ChannelId,
    /// One for each worker.
    full: Vec<Arc<FullHistogram>>,
    pub(super) until: Time,
    /// Dropping it closes the client's connection.
    answers: Answers,
}

impl Control {
    pub(super) fn latency(&self, channel: &str, watch: Option<u64>, answers: &Answers) {
        let found = match watch {
            Some(watch) => self.watched(watch),
            None => self.counted(channel),
        };
        let (id, resolution, one_way) = match found {
            Ok(found) => found,
            Err(failure) => return answers.refused(failure),
        };
        answers.ok(&Latency {
            channel: channel.to_owned(),
            peer: self.config.name.clone(),
            resolution: resolution.to_owned(),
            clocks_differ: one_way.clocks_differ(),
            one_way_us: distribution(&one_way.reading()),
            hops: self.hops_of(&id),
        });
    }

    fn watched(&self, number: u64) -> Result<(ChannelId, &'static str, OneWayReading), Failure> {
        let Some(watch) = self.watches.get(&number) else {
            return Err(unknown(format!("there is no watch {number} (any more)")));
        };
        let mut sum = OneWayReading::default();
        watch.full.iter().for_each(|full| sum.merge(&full.read()));
        Ok((watch.channel.clone(), "full", sum))
    }

    fn counted(&self, channel: &str) -> Result<(ChannelId, &'static str, OneWayReading), Failure> {
        let (id, stats) = self.stats_of(channel)?;
        Ok((id, "log2", stats.one_way.read()))
    }

    fn stats_of(&self, channel: &str) -> Result<(ChannelId, Arc<ChannelStats>), Failure> {
        let id = self.channel_of(channel)?;
        match self.channels.of(&id) {
            Some(here) => Ok((id, Arc::clone(&here.stats))),
            None => Err(unknown(format!("no channel {channel} ends here or crosses this peer"))),
        }
    }

    /// Time inside this peer for frames of the neighbours that the channel comes from.
    fn hops_of(&self, channel: &ChannelId) -> Vec<HopTimes> {
        let views = self.node.channels();
        let Some(view) = views.iter().find(|view| view.id == *channel) else { return Vec::new() };
        let Some(at) = view.path.iter().position(|peer| *peer == self.config.name) else {
            return Vec::new();
        };
        let before = at.checked_sub(1).and_then(|before| view.path.get(before));
        before.into_iter().chain(view.path.get(at + 1)).map(|from| self.hop_times(from)).collect()
    }

    fn hop_times(&self, from: &PeerName) -> HopTimes {
        let links = self.links.iter().filter(|(_, slot)| slot.peer == *from);
        let links: Vec<_> = links.map(|(link, _)| *link).collect();
        let inside = self.of_workers(|relay| {
            let mut sum = Reading::default();
            links.iter().for_each(|link| sum.merge(&relay.read_hop(*link)));
            sum
        });
        HopTimes { peer: self.config.name.clone(), from: from.clone(), inside_ns: inside }
    }

    pub(super) fn relay_times(&self) -> RelayTimes {
        let lane = |lane: &str, inside_ns| LaneTimes { lane: lane.to_owned(), inside_ns };
        let workers = self.engine.workers().iter().map(|worker| {
            let relay = &worker.stats.relay;
            WorkerTimes {
                port: worker.port,
                inside_ns: distribution(&relay.inside_ns.read()),
                batch: distribution(&relay.batch.read()),
                receive_segments: distribution(&relay.receive_segments.read()),
                send_segments: distribution(&relay.send_segments.read()),
            }
        });
        let peers: BTreeMap<&PeerName, ()> =
            self.links.values().map(|slot| (&slot.peer, ())).collect();
        RelayTimes {
            peer: self.config.name.clone(),
            lanes: vec![
                lane("data", self.of_workers(|relay| relay.inside_ns.read())),
                lane("control", distribution(&self.inside.read())),
            ],
            hops: peers.into_keys().map(|peer| self.hop_times(peer)).collect(),
            workers: workers.collect(),
        }
    }

    /// What all workers counted, together.
    fn of_workers(&self, read: impl Fn(&RelayHistograms) -> Reading) -> Distribution {
        let mut sum = Reading::default();
        self.engine.workers().iter().for_each(|worker| sum.merge(&read(&worker.stats.relay)));
        distribution(&sum)
    }

    // --- Who watches ---

    pub(super) fn watch(&mut self, client: u64, channel: &str, seconds: u32, answers: Answers) {
        let time = Duration::from_secs(u64::from(seconds));
        if time.is_zero() || time > limits::WATCH_MAX {
            let most = limits::WATCH_MAX.as_secs();
            let text = format!("a watch of {seconds} s is not possible: 1 to {most} are");
            return answers.failed(FailureKind::Usage, text);
        }
        if self.watches.len() >= limits::WATCHES_MAX {
            let text = format!("{} watches are running already", limits::WATCHES_MAX);
            return answers.failed(FailureKind::Failed, text);
        }
        let (channel, stats) = match self.stats_of(channel) {
            Ok(found) => found,
            Err(failure) => return answers.refused(failure),
        };
        let made = RefCell::new(Vec::new());
        self.broadcast(|| {
            let full = Arc::<FullHistogram>::default();
            made.borrow_mut().push(Arc::clone(&full));
            Command::Watch { watch: client, stats: Arc::clone(&stats), full }
        });
        let until = self.now() + time + limits::WATCH_TAIL;
        tracing::debug!(%channel, client, seconds, "watch begins");
        let full = made.into_inner();
        self.watches.insert(client, ChannelWatch { channel, full, until, answers });
        self.later(Later::Watching(client));
    }

    pub(super) fn tell_watching(&self, client: u64) {
        if let Some(watch) = self.watches.get(&client) {
            watch.answers.ok(&Watching { watch: client });
        }
    }

    /// Nothing happens if the client watches nothing (any more).
    pub(super) fn unwatch(&mut self, client: u64) {
        if let Some(watch) = self.watches.remove(&client) {
            tracing::debug!(channel = %watch.channel, client, "watch ends");
            self.broadcast(|| Command::Unwatch(client));
        }
    }

    pub(super) fn end_watches(&mut self, now: Time) {
        let over = self.watches.iter().filter(|(_, watch)| watch.until <= now);
        for client in over.map(|(client, _)| *client).collect::<Vec<_>>() {
            self.unwatch(client);
        }
    }
}

fn unknown(message: String) -> Failure {
    Failure { kind: FailureKind::Unknown, message, reason: None }
}
