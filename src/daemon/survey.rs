//! What this peer knows of a channel that crosses it, for `why` at any peer of its path.
//!
//! An extension of [`Control`]: counters and histograms are the engine's, so the node asks here when another
//! peer's question comes ([`Action::ReadHop`](crate::proto::Action::ReadHop)).

use crate::api::dto::{Distribution, FailureKind, Summary, SurveyHop, SurveyReply, SurveyWay};
use crate::api::server::Answers;
use crate::daemon::actions::ChannelHere;
use crate::daemon::asks::Asking;
use crate::daemon::control::Control;
use crate::daemon::views::{channel_role, distribution};
use crate::proto::{Hop, Input, Request};
use crate::stats::{Books, ChannelStats, DropReason};
use crate::types::{ChannelId, EdgeKey, PeerName};
use crate::wire::control::Routed;
use crate::wire::hop::{HopFacts, LinkRoom, Times, WayFacts};

impl Control {
    pub(super) fn survey(&mut self, channel: &str, answers: Answers) {
        match self.channel_of(channel) {
            Ok(channel) => {
                let request = Request::Survey { channel: channel.clone() };
                self.ask(Asking::Survey(answers, channel), request);
            }
            Err(failure) => answers.refused(failure),
        }
    }

    /// Another peer on the path asks.
    pub(super) fn read_hop(&mut self, question: Box<Routed>) {
        let crate::wire::control::RoutedBody::AskHop(channel) = &question.body else { return };
        let facts = self.hop_facts(channel).map(Box::new);
        self.inputs.push_back(Input::HopRead { question, facts });
    }

    /// All peers of the path have answered, or their time is over.
    pub(super) fn surveyed(&self, channel: &ChannelId, hops: Vec<Hop>, answers: &Answers) {
        let views = self.node.channels();
        let Some(view) = views.into_iter().find(|view| view.id == *channel) else {
            let why = format!("channel {channel} has ended meanwhile");
            return answers.failed(FailureKind::Failed, why);
        };
        let mut hops: Vec<SurveyHop> = hops.into_iter().map(hop).collect();
        let mine = hops.iter_mut().find(|hop| hop.peer == self.config.name);
        if let (Some(mine), Some(facts)) = (mine, self.hop_facts(channel)) {
            *mine = hop(Hop { peer: mine.peer.clone(), facts: Ok(facts) });
        }
        let end = self.channels.of(channel).and_then(|here| here.end.as_ref());
        let story = end.and_then(|end| end.story.as_deref().cloned());
        let tree = self.node.tree().edges;
        let in_tree = |pair: &[PeerName]| tree.iter().any(|edge| joins(edge, pair));
        answers.ok(&SurveyReply {
            channel: channel.to_string(),
            tree: view.path.windows(2).all(in_tree),
            name: view.name,
            peer: view.peer,
            service: view.service,
            role: channel_role(view.side).to_owned(),
            state: view.state.as_str().to_owned(),
            path: view.path,
            bandwidth_bps: view.rate,
            bandwidth_back_bps: view.rate_back,
            story,
            hops,
        });
    }

    fn hop_facts(&self, channel: &ChannelId) -> Option<HopFacts> {
        let here = self.channels.of(channel)?;
        let path = self.node.path_of(channel)?;
        let at = path.iter().position(|peer| *peer == self.config.name)?;
        let before = at.checked_sub(1).and_then(|at| path.get(at));
        let after = path.get(at + 1);
        let (mut there, mut back) = match (&here.end, &here.back) {
            (Some(_), _) => self.at_an_end(here, before.is_none()),
            (None, back) => {
                let back = back.as_deref().map(passed).unwrap_or_default();
                (passed(&here.stats), back)
            }
        };
        there.link = after.and_then(|peer| self.room_to(peer));
        there.inside = before.and_then(|peer| summary(&self.inside_from(peer)));
        back.link = before.and_then(|peer| self.room_to(peer));
        back.inside = after.and_then(|peer| summary(&self.inside_from(peer)));
        Some(HopFacts { there, back })
    }

    /// One block counts what enters and what leaves; a drop belongs to the side that misses a frame.
    fn at_an_end(&self, here: &ChannelHere, source: bool) -> (WayFacts, WayFacts) {
        let Books { entered, received, sent, delivered, dropped } = here.stats.books();
        let mut missing = entered.saturating_sub(sent);
        let (mut in_drops, mut out_drops) = (Vec::new(), Vec::new());
        for (reason, frames) in dropped {
            let entering = match reason {
                reason if only_entering(reason) => frames,
                reason if only_leaving(reason) => 0,
                _ => frames.min(missing),
            };
            missing = missing.saturating_sub(entering);
            let name = || reason.as_str().to_owned();
            in_drops.extend((entering > 0).then(|| (name(), entering)));
            out_drops.extend((frames > entering).then(|| (name(), frames - entering)));
        }
        let enters = WayFacts { entered, sent, dropped: in_drops, ..WayFacts::default() };
        let (one_way, clocks_differ) = one_way(&here.stats);
        let leaves = WayFacts {
            received,
            delivered,
            dropped: out_drops,
            one_way,
            clocks_differ,
            ..WayFacts::default()
        };
        if source { (enters, leaves) } else { (leaves, enters) }
    }

    fn room_to(&self, peer: &PeerName) -> Option<LinkRoom> {
        let link = self.node.links().into_iter().find(|link| link.peer == *peer)?;
        Some(LinkRoom { usable: link.capacity, free: link.free_out })
    }
}

/// One direction at a relay.
fn passed(stats: &ChannelStats) -> WayFacts {
    let Books { entered, received, sent, delivered, dropped } = stats.books();
    let dropped = dropped.into_iter().map(|(reason, n)| (reason.as_str().to_owned(), n)).collect();
    let (one_way, clocks_differ) = one_way(stats);
    let counts = WayFacts { entered, received, sent, delivered, ..WayFacts::default() };
    WayFacts { dropped, one_way, clocks_differ, ..counts }
}

fn one_way(stats: &ChannelStats) -> (Option<Times>, bool) {
    let reading = stats.one_way.read();
    (summary(&distribution(&reading.reading())), reading.clocks_differ())
}

fn summary(of: &Distribution) -> Option<Times> {
    Some(Times { count: of.count, p50: of.p50?, p99: of.p99?, max: of.max? })
}

/// Drops that only what local programs send can have.
fn only_entering(reason: DropReason) -> bool {
    use DropReason::{Closed, ForeignSender, KernelReceive, Moving, NoLink, TooBig};
    matches!(reason, Closed | ForeignSender | KernelReceive | Moving | NoLink | TooBig)
}

/// Drops that only frames from the overlay can have.
fn only_leaving(reason: DropReason) -> bool {
    matches!(reason, DropReason::Late | DropReason::NoReceiver)
}

fn joins(edge: &EdgeKey, pair: &[PeerName]) -> bool {
    let ends = [&edge.lower, &edge.higher];
    pair.iter().all(|peer| ends.contains(&peer))
}

fn hop(of: Hop) -> SurveyHop {
    let (facts, missing) = match of.facts {
        Ok(facts) => (facts, None),
        Err(why) => (HopFacts::default(), Some(why)),
    };
    SurveyHop { peer: of.peer, missing, there: way(facts.there), back: way(facts.back) }
}

fn way(of: WayFacts) -> SurveyWay {
    let summary = |Times { count, p50, p99, max }| Summary { count, p50, p99, max };
    SurveyWay {
        entered: of.entered,
        received: of.received,
        sent: of.sent,
        delivered: of.delivered,
        dropped: of.dropped.into_iter().collect(),
        one_way_us: of.one_way.map(summary),
        clocks_differ: of.clocks_differ,
        inside_ns: of.inside.map(summary),
        link_usable_bps: of.link.map(|link| link.usable),
        link_free_bps: of.link.map(|link| link.free),
    }
}
