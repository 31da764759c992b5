//! Why a channel is slow, or loses frames: what can be read from two surveys of its path.
//!
//! Pure. A frame that one peer had sent at the first survey has arrived at the next one by the second, or is
//! lost: what is in flight is never taken for a loss. Peers count since the channel came to them, so that is
//! only so while the path has not changed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::dto::{LostRow, Summary, SurveyHop, SurveyReply, SurveyWay, WhyReply};
use crate::types::PeerName;

/// Between the two surveys: longer than frames are under way in an overlay that works.
pub const BETWEEN: Duration = Duration::from_millis(500);

/// What two surveys of the same channel tell, the later one last.
pub fn why(first: &SurveyReply, second: SurveyReply) -> WhyReply {
    let mut findings = vec![path(&second)];
    let mut lost = Vec::new();
    let stays = first.path == second.path && moves(&second) == Some(0);
    for (name, way) in [("there", there as WayOf), ("back", back)] {
        let (before, after) = (hops(first, name), hops(&second, name));
        let links = if stays { losses(&before, &after, way) } else { Vec::new() };
        findings.extend(way_findings(name, &after, way, &links));
        lost.extend(links);
    }
    if let (false, Some(count)) = (stays, moves(&second)) {
        findings.push(format!(
            "the path has changed ({count} times since it was opened), and peers count since the channel came to \
             them: what was lost between them cannot be told"
        ));
    } else if !stays {
        let asker = second.path.first().map(PeerName::as_str).unwrap_or_default();
        findings.push(format!(
            "what was lost between peers can only be told at {asker}, which asked for the channel"
        ));
    }
    findings.extend(second.hops.iter().filter_map(|hop| {
        let why = hop.missing.as_ref()?;
        Some(format!("{} did not tell: {why}", hop.peer))
    }));
    WhyReply { findings, lost, survey: second }
}

type WayOf = fn(&SurveyHop) -> &SurveyWay;

fn there(hop: &SurveyHop) -> &SurveyWay {
    &hop.there
}

fn back(hop: &SurveyHop) -> &SurveyWay {
    &hop.back
}

fn moves(survey: &SurveyReply) -> Option<u32> {
    survey.story.as_ref().map(|story| story.moves)
}

/// Those that told, in the order in which frames pass them.
fn hops<'a>(survey: &'a SurveyReply, name: &str) -> Vec<&'a SurveyHop> {
    let told = survey.hops.iter().filter(|hop| hop.missing.is_none());
    if name == "there" { told.collect() } else { told.rev().collect() }
}

/// Which path, and why that.
fn path(survey: &SurveyReply) -> String {
    let peers: Vec<&str> = survey.path.iter().map(PeerName::as_str).collect();
    let mut text = match peers.is_empty() {
        true => format!("the channel is {} and has no path at the moment", survey.state),
        false => format!("it takes {}", peers.join(" > ")),
    };
    match survey.tree {
        _ if peers.is_empty() => {}
        true => text.push_str(", the spanning tree's path"),
        false => text.push_str(", which is not the spanning tree's path"),
    }
    let Some(story) = &survey.story else { return text };
    if story.moves > 0 {
        let because = story.moved_because.as_deref().unwrap_or("it was asked to");
        text.push_str(&format!("; it has moved, the last time because {because}"));
    } else if let Some(refused) = story.refused.first() {
        let refused_path: Vec<&str> = refused.path.iter().map(PeerName::as_str).collect();
        let refused_path = refused_path.join(" > ");
        text.push_str(&format!("; {refused_path} was tried first and refused {}", refused.why));
    }
    if let Some(waited) = story.waited_ms {
        text.push_str(&format!("; it waited {waited} ms for room"));
    }
    text
}

fn losses(first: &[&SurveyHop], second: &[&SurveyHop], way: WayOf) -> Vec<LostRow> {
    let pairs = first.iter().zip(second.iter().skip(1));
    let row = |(from, to): (&&SurveyHop, &&SurveyHop)| {
        let sent = way(from).sent;
        let frames = sent.saturating_sub(way(to).received);
        let (from, to) = (from.peer.clone(), to.peer.clone());
        (frames > 0).then_some(LostRow { from, to, frames, of: sent })
    };
    // A peer that did not tell would make its neighbours look like neighbours.
    let all = first.len() == second.len();
    pairs.filter_map(row).filter(|_| all).collect()
}

/// Drops and losses first, then where the time goes.
fn way_findings(name: &str, hops: &[&SurveyHop], way: WayOf, lost: &[LostRow]) -> Vec<String> {
    let (Some(entry), Some(exit)) = (hops.first(), hops.last()) else { return Vec::new() };
    let entered = way(entry).entered;
    if entered == 0 && hops.iter().all(|hop| way(hop).received == 0) {
        return vec![format!("{name}: nothing was sent")];
    }
    let mut findings = Vec::new();
    for hop in hops {
        let dropped: u64 = way(hop).dropped.values().sum();
        if dropped > 0 {
            let of = way(hop).entered + way(hop).received;
            let share = share(dropped, of);
            let reasons = reasons(&way(hop).dropped);
            findings.push(format!(
                "{name}: {} dropped {dropped} of {of} frames{share}: {reasons}",
                hop.peer
            ));
        }
    }
    findings.extend(lost.iter().map(|LostRow { from, to, frames, of }| {
        let share = share(*frames, *of);
        format!("{name}: {frames} of {of} frames{share} were lost on the link {from} > {to}")
    }));
    if findings.is_empty() {
        findings.push(format!(
            "{name}: no frame was dropped{}: {entered} entered, {} were delivered",
            if lost.is_empty() { "" } else { " by a peer" },
            way(exit).delivered
        ));
    }
    findings.extend(times(name, hops, way));
    findings.extend(narrow(name, hops, way));
    findings
}

fn share(part: u64, of: u64) -> String {
    match of {
        0 => String::new(),
        of => format!(" ({:.1} %)", part as f64 * 100.0 / of as f64),
    }
}

fn reasons(dropped: &BTreeMap<String, u64>) -> String {
    let mut dropped: Vec<_> = dropped.iter().collect();
    dropped.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let texts = dropped.iter().map(|(reason, count)| match hint(reason) {
        Some(hint) => format!("{count} as {reason} ({hint})"),
        None => format!("{count} as {reason}"),
    });
    texts.collect::<Vec<_>>().join(", ")
}

/// What to do about the drops that people meet.
fn hint(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "policed" => "more was sent than was asked for: send less, ask for more, or use --shape",
        "too_big" => "datagrams above the channel's largest payload: see `spanway channels`",
        "kernel_receive" => "the socket's buffer was full: see `spanway doctor`",
        "socket_full" => "the interface could not take them at once",
        "moving" => "the path was being replaced: --protect keeps a second one",
        "bad_seal" => "the other end did not send it so: a peer on the way changes frames",
        "replayed" => "it came before: a peer on the way, or the network, repeats frames",
        "no_receiver" => "nobody has sent from there yet, so nobody is known to deliver to",
        "foreign_sender" => "sent from an address that may not: see --from",
        _ => return None,
    })
}

/// A part of the way and its median time.
struct Part {
    place: String,
    nanos: u64,
}

/// Where the median frame spends its time.
fn times(name: &str, hops: &[&SurveyHop], way: WayOf) -> Option<String> {
    let whole = way(hops.last()?).one_way_us?;
    if hops.iter().any(|hop| way(hop).clocks_differ) {
        let inside = parts_inside(hops, way);
        let slowest = inside.iter().max_by_key(|part| part.nanos)?;
        return Some(format!(
            "{name}: the clocks of the hosts differ, so only the time inside peers is known: longest {}, {} (p50)",
            slowest.place,
            time(slowest.nanos)
        ));
    }
    let slowest = parts(hops, way).into_iter().max_by_key(|part| part.nanos)?;
    Some(format!(
        "{name}: frames take {} (p50), {} (p99); most of the median, {}, {}",
        time(whole.p50 * 1_000),
        time(whole.p99 * 1_000),
        time(slowest.nanos),
        slowest.place
    ))
}

fn parts_inside(hops: &[&SurveyHop], way: WayOf) -> Vec<Part> {
    let part = |hop: &&SurveyHop| {
        let Summary { p50, .. } = way(hop).inside_ns?;
        Some(Part { place: format!("inside {}", hop.peer), nanos: p50 })
    };
    hops.iter().filter_map(part).collect()
}

/// Inside each peer, and between them: what is left of the difference of their one-way times.
fn parts(hops: &[&SurveyHop], way: WayOf) -> Vec<Part> {
    let mut parts = parts_inside(hops, way);
    let arrived = |hop: &SurveyHop| way(hop).one_way_us.map_or(0, |times| times.p50 * 1_000);
    for pair in hops.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let inside = way(from).inside_ns.map_or(0, |times| times.p50);
        let nanos = arrived(to).saturating_sub(arrived(from)).saturating_sub(inside);
        parts.push(Part { place: format!("between {} and {}", from.peer, to.peer), nanos });
    }
    parts
}

fn time(nanos: u64) -> String {
    match nanos {
        nanos if nanos >= 1_000_000 => format!("{:.1} ms", nanos as f64 / 1e6),
        nanos => format!("{:.0} us", nanos as f64 / 1e3),
    }
}

/// The link with the least room for more.
fn narrow(name: &str, hops: &[&SurveyHop], way: WayOf) -> Option<String> {
    let links = hops.windows(2).filter_map(|pair| {
        let (free, usable) = (way(pair[0]).link_free_bps?, way(pair[0]).link_usable_bps?);
        Some((free, usable, &pair[0].peer, &pair[1].peer))
    });
    let (free, usable, from, to) = links.min_by_key(|(free, ..)| *free)?;
    Some(format!("{name}: least room for more on {from} > {to}, {free} of {usable}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::dto::{RefusedPath, Story};
    use crate::types::{Bandwidth, ServiceName};

    fn name(text: &str) -> PeerName {
        PeerName::new(text).expect("a name")
    }

    fn summary(p50: u64) -> Option<Summary> {
        Some(Summary { count: 100, p50, p99: 2 * p50, max: 3 * p50 })
    }

    /// a > b > c, one way, 100 frames.
    fn survey() -> SurveyReply {
        let way = |entered, received, sent, delivered| SurveyWay {
            entered,
            received,
            sent,
            delivered,
            ..SurveyWay::default()
        };
        let hop = |peer: &str, there| SurveyHop {
            peer: name(peer),
            missing: None,
            there,
            back: SurveyWay::default(),
        };
        let service = ServiceName::new("video").expect("a name");
        SurveyReply {
            channel: "a:1:1".to_owned(),
            name: service.clone(),
            peer: name("c"),
            service,
            role: "source".to_owned(),
            state: "open".to_owned(),
            path: ["a", "b", "c"].map(name).into(),
            tree: true,
            bandwidth_bps: Bandwidth::from_bps(1_000_000),
            bandwidth_back_bps: Bandwidth::ZERO,
            story: Some(Story::default()),
            hops: vec![
                hop("a", way(100, 0, 100, 0)),
                hop("b", way(0, 100, 100, 0)),
                hop("c", way(0, 100, 0, 100)),
            ],
        }
    }

    fn has(reply: &WhyReply, words: &str) -> bool {
        reply.findings.iter().any(|text| text.contains(words))
    }

    #[test]
    fn a_channel_that_loses_nothing_is_said_to_and_a_silent_direction_too() {
        let reply = why(&survey(), survey());
        assert_eq!(
            reply.findings,
            [
                "it takes a > b > c, the spanning tree's path",
                "there: no frame was dropped: 100 entered, 100 were delivered",
                "back: nothing was sent",
            ]
        );
        assert_eq!(reply.lost, []);
    }

    #[test]
    fn what_is_in_flight_between_the_surveys_is_no_loss_and_what_is_missing_later_is() {
        let (mut first, mut second) = (survey(), survey());
        first.hops[1].there.received = 60;
        assert_eq!(why(&first, second.clone()).lost, []);
        second.hops[1].there.received = 90;
        let reply = why(&first, second);
        let row = LostRow { from: name("a"), to: name("b"), frames: 10, of: 100 };
        assert_eq!(reply.lost, [row]);
        assert!(has(&reply, "10 of 100 frames (10.0 %) were lost on the link a > b"), "{reply:?}");
    }

    #[test]
    fn drops_are_told_with_the_peer_the_reason_and_what_to_do() {
        let mut second = survey();
        second.hops[0].there.dropped.insert("policed".to_owned(), 40);
        second.hops[0].there.dropped.insert("too_big".to_owned(), 1);
        let reply = why(&survey(), second);
        assert!(
            has(&reply, "a dropped 41 of 100 frames (41.0 %): 40 as policed (more"),
            "{reply:?}"
        );
        assert!(has(&reply, "1 as too_big"), "{reply:?}");
    }

    #[test]
    fn a_path_that_changed_or_a_peer_that_is_silent_makes_nothing_up() {
        let mut second = survey();
        second.hops[1].there.received = 1;
        if let Some(story) = &mut second.story {
            (story.moves, story.moved_because) = (2, Some("the link to d is down".to_owned()));
        }
        let reply = why(&survey(), second);
        assert_eq!(reply.lost, []);
        assert!(has(&reply, "because the link to d is down"), "{reply:?}");
        assert!(has(&reply, "2 times") && has(&reply, "cannot be told"), "{reply:?}");

        let mut second = survey();
        second.hops[1] =
            SurveyHop { missing: Some("too old".to_owned()), ..second.hops[1].clone() };
        let reply = why(&survey(), second);
        assert_eq!(reply.lost, []);
        assert!(has(&reply, "b did not tell: too old"), "{reply:?}");

        let second = SurveyReply { story: None, ..survey() };
        assert!(has(&why(&survey(), second), "can only be told at a"));
    }

    #[test]
    fn the_slowest_part_is_named_and_where_clocks_differ_only_what_one_host_measured() {
        let mut second = survey();
        second.hops[1].there.one_way_us = summary(100);
        second.hops[1].there.inside_ns = summary(30_000);
        second.hops[2].there.one_way_us = summary(900);
        let reply = why(&survey(), second.clone());
        assert!(has(&reply, "take 900 us (p50), 1.8 ms (p99)"), "{reply:?}");
        assert!(has(&reply, "770 us, between b and c"), "{reply:?}");
        second.hops[2].there.clocks_differ = true;
        let reply = why(&survey(), second);
        assert!(has(&reply, "clocks") && has(&reply, "longest inside b, 30 us"), "{reply:?}");
    }

    #[test]
    fn why_it_is_not_the_trees_path_is_said_by_who_asked() {
        let refused =
            RefusedPath { path: vec![name("a"), name("c")], why: "at a: full".to_owned() };
        let story = Some(Story { refused: vec![refused], waited_ms: Some(7), ..Story::default() });
        let reply = why(&survey(), SurveyReply { tree: false, story, ..survey() });
        let text = &reply.findings[0];
        assert!(
            text.contains("not the spanning tree's") && text.contains("a > c was tried first"),
            "{text}"
        );
        assert!(text.contains("refused at a: full") && text.contains("waited 7 ms"), "{text}");
    }
}
