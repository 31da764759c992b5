//! I5, the judge of answers: every request for a channel has exactly one, in time; `open` is said when
//! every hop has the path; `never` and, in a world at rest, `no_room` and `unreachable` are said only where
//! they are true; and nobody passes a request that stands in line.
//!
//! It computes from the world's own wires and clocks: the width between two peers from the capacities that
//! wires are configured for, the order of requests from when they were asked. Of what peers say it takes
//! what they promised: "you stand in line for this link". While things change, answers are judged only by
//! wires that nothing has happened to for long enough; at rest there is no excuse.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Sim, check, rules};
use crate::limits;
use crate::proto::node::Node;
use crate::proto::view::{ChannelState, ChannelView};
use crate::proto::{Action, Answer, Choice, Event, OpenRequest, Opened, Rejection, Request, Side};
use crate::types::{
    Bandwidth, ChannelId, EdgeKey, LinkId, PeerName, Reject, RequestId, SessionId, Time,
};
use crate::wire::queue::Scarce;

/// An answer may be so late: the daemon's own work is not simulated, so this is for timers.
const LATE: Duration = Duration::from_secs(1);

/// What is known of requests for channels.
#[derive(Debug, Default)]
pub(super) struct Answers {
    asked: BTreeMap<RequestId, Wish>,
    /// When each channel was asked for.
    channels: BTreeMap<ChannelId, Time>,
    /// Where requests were told that they stand in line, and since when.
    lines: BTreeMap<ChannelId, BTreeMap<Spot, Time>>,
    /// When each session began.
    sessions: BTreeMap<SessionId, Time>,
    /// The capacity of some wire changed last then.
    configured: Time,
    wrong: Vec<String>,
}

/// A peer, and which of its links, or what of its host, is short.
type Spot = (PeerName, Scarce);

/// Somebody waits for the answer.
#[derive(Debug)]
struct Wish {
    peer: usize,
    life: u32,
    to: PeerName,
    rate: Bandwidth,
    rate_back: Bandwidth,
    /// It is answered by then.
    due: Time,
}

impl Sim {
    /// What was wrong with answers so far.
    pub fn wrong_answers(&self) -> &[String] {
        &self.judged.wrong
    }

    /// Requests that are late now.
    pub fn late_answers(&self) -> Vec<String> {
        let late = |(id, wish): (&RequestId, &Wish)| {
            let waits = self.peers[wish.peer].life == wish.life
                && self.peers[wish.peer].node.is_some()
                && self.peers[wish.peer].stopped.is_none();
            (waits && self.now > wish.due)
                .then(|| format!("{id:?} of {} has no answer", self.peers[wish.peer].name))
        };
        self.judged.asked.iter().filter_map(late).collect()
    }

    pub(super) fn note_wish(&mut self, peer: usize, id: RequestId, request: &OpenRequest) {
        let patience = if request.wait { Duration::MAX } else { limits::HOLD };
        let wish = Wish {
            peer,
            life: self.peers[peer].life,
            to: request.peer.clone(),
            rate: request.rate,
            rate_back: request.rate_back,
            due: self.now + request.deadline.min(patience) + LATE,
        };
        self.judged.asked.insert(id, wish);
    }

    /// A peer that stands still answers when it goes on.
    pub(super) fn excuse_until(&mut self, peer: usize, until: Time) {
        let own = self.judged.asked.values_mut().filter(|wish| wish.peer == peer);
        own.for_each(|wish| wish.due = wish.due.max(until + LATE));
    }

    pub(super) fn wire_changed(&mut self, wire: usize, until: Time) {
        let changed = &mut self.wires[wire].changed;
        *changed = until.max(*changed);
    }

    pub(super) fn capacity_set(&mut self, wire: usize) {
        self.wire_changed(wire, self.now);
        self.judged.configured = self.now;
    }

    /// Looks at what a peer does before it is carried out.
    #[expect(clippy::wildcard_enum_match_arm, reason = "little of it bears on answers")]
    pub(super) fn note_for_answers(&mut self, at: usize, action: &Action) {
        let now = self.now;
        match action {
            Action::OpenEnd { channel, side: Side::Source, .. } => {
                self.judged.channels.insert(channel.clone(), now);
            }
            Action::Event(Event::SessionStarted { session, .. }) => {
                self.judged.sessions.insert(session.clone(), now);
            }
            Action::LinkUp { link, .. } | Action::LinkDown { link } => {
                let (wire, _) = self.wire_of(at, *link);
                self.wire_changed(wire, now);
            }
            _ => {}
        }
    }

    pub(super) fn judge_answer(&mut self, at: usize, id: RequestId, answer: &Answer) {
        let Some(wish) = self.judged.asked.remove(&id) else { return };
        let mut wrong = Vec::new();
        if self.now > wish.due {
            wrong.push(format!("late, it was due at {:?}", wish.due));
        }
        if let Answer::Open(opened) = answer {
            wrong.extend(self.not_held(at, opened));
            wrong.extend(self.passed(opened));
        } else if let Answer::Rejected(why) = answer
            && why.reason == Reject::NotAllowed
            && rules::has_none(&self.peers)
        {
            wrong.push("nobody has rules".to_owned());
        } else if let Answer::Rejected(why) = answer
            && why.reason == Reject::Never
        {
            wrong.extend(self.not_never(&wish, why));
        }
        let name = &self.peers[at].name;
        let text =
            |wrong: String| format!("{id:?} of {name} at {:?}, {answer:?}: {wrong}", self.now);
        let wrong: Vec<_> = wrong.into_iter().map(text).collect();
        self.judged.wrong.extend(wrong);
    }

    /// A hop of the path that does not have it, though no fault touched it.
    fn not_held(&self, at: usize, opened: &Opened) -> Option<String> {
        let Opened { channel, path, .. } = opened;
        if self.is_touched(channel) {
            return None;
        }
        let index = |name: &PeerName| self.peers.iter().position(|peer| peer.name == *name);
        let lacks = |name: &&PeerName| {
            let node = index(name).and_then(|peer| self.node(peer));
            let views = node.map(Node::channels).unwrap_or_default();
            let has = |view: &ChannelView| {
                let held = view.id == *channel && view.reserved.contains(path);
                held && view.state == ChannelState::Open
            };
            !views.iter().any(has)
        };
        if let Some(lacking) = path[1..].iter().find(lacks) {
            return Some(format!("{lacking} has not committed it"));
        }
        let to = index(path.last()?)?;
        for (from, end) in [(at, to), (to, at)] {
            match check::follow(&self.peers, from, channel) {
                Ok(Some((out, of))) if (out, &of) == (end, channel) => {}
                other => return Some(format!("frames from {from} come out at {other:?}")),
            }
        }
        None
    }

    /// An earlier request that stood in line on a link of the path before this one was asked, and still
    /// does, with nothing having happened to its way there.
    fn passed(&self, opened: &Opened) -> Vec<String> {
        let Answers { channels, lines, .. } = &self.judged;
        let Some(asked) = channels.get(&opened.channel) else { return Vec::new() };
        let mut passed = Vec::new();
        for (earlier, spots) in lines.iter().filter(|(id, _)| **id != opened.channel) {
            for ((at, of), since) in spots {
                let crosses = match of {
                    Scarce::Link(to) => opened.path.windows(2).any(|hop| {
                        (&hop[0], &hop[1]) == (at, to) || (&hop[1], &hop[0]) == (at, to)
                    }),
                    // Each way something passes.
                    Scarce::Host(_) => opened.path.contains(at),
                };
                let before = channels.get(earlier) < Some(asked) && since < asked;
                if crosses && before && self.way_is_steady(earlier, *since) {
                    passed.push(format!("it passes {earlier} at {at}, {of}"));
                }
            }
        }
        passed
    }

    fn way_is_steady(&self, waiting: &ChannelId, since: Time) -> bool {
        let asker = self.peers.iter().find(|peer| peer.name == waiting.source);
        let node = asker.and_then(|peer| peer.node.as_ref());
        let views = node.map(|node| node.waiting(self.now)).unwrap_or_default();
        let Some(view) = views.into_iter().find(|view| view.id == *waiting) else { return false };
        let steady = |hop: &[PeerName]| {
            self.wire_between(&hop[0], &hop[1]).is_some_and(|wire| self.is_steady(wire, since))
        };
        view.path.windows(2).all(steady)
    }

    /// Remembers where the requests of a peer were told that they stand in line.
    pub(super) fn note_lines(&mut self, at: usize) {
        let views = self.peers[at].node.as_ref().map(|node| node.waiting(self.now));
        let (name, now) = (&self.peers[at].name, self.now);
        let lines = &mut self.judged.lines;
        let views = views.unwrap_or_default();
        lines.retain(|id, _| id.source != *name || views.iter().any(|view| view.id == *id));
        for view in views {
            let spots = lines.entry(view.id).or_default();
            let told =
                |spot: &Spot| view.short.iter().any(|s| (&s.at, &s.of) == (&spot.0, &spot.1));
            spots.retain(|spot, _| told(spot));
            for short in view.short {
                spots.entry((short.at, short.of)).or_insert(now);
            }
        }
    }

    /// `never` although some path could carry it: by wires that were there, as they are, when the
    /// session that the answer names began.
    fn not_never(&self, wish: &Wish, why: &Rejection) -> Option<String> {
        let Some(limit) = &why.explanation.limit else { return Some("it names no limit".into()) };
        let began = *self.judged.sessions.get(&limit.session)?;
        if self.judged.configured >= began {
            return None;
        }
        let asked = wish.rate.max(wish.rate_back);
        let steady: Vec<_> =
            (0..self.wires.len()).filter(|at| self.is_steady(*at, began)).collect();
        let edges: Vec<_> = steady.into_iter().map(|at| self.edge(&self.wires[at])).collect();
        let width = check::width(&edges, &self.peers[wish.peer].name, &wish.to)?;
        (width >= asked).then(|| format!("{width} are there, {asked} asked"))
    }

    /// Nothing has happened to the wire since, and it carries.
    fn is_steady(&self, wire: usize, since: Time) -> bool {
        let wire = &self.wires[wire];
        let up = |(peer, link): &(usize, LinkId)| {
            self.peers[*peer].stopped.is_none() && self.peers[*peer].data_links.contains_key(link)
        };
        !wire.cut && wire.changed < since && wire.ends.iter().all(up)
    }

    /// Started again it knows its own links only, until somebody tells it more.
    fn may_not_have_heard(&self, at: usize, of: &PeerName) -> bool {
        let peer = &self.peers[at];
        peer.life > 1 && self.wire_between(&peer.name, of).is_none()
    }

    fn wire_between(&self, one: &PeerName, other: &PeerName) -> Option<usize> {
        self.wires.iter().position(|wire| {
            let ends = wire.ends.map(|(peer, _)| &self.peers[peer].name);
            ends.contains(&one) && ends.contains(&other)
        })
    }
}

/// In a world at rest with true pictures: asks for a channel and judges whether the answer is the right
/// one. `of_width`: by how many per mille of what the widest path can carry.
pub(super) fn judge_at_rest(
    sim: &mut Sim,
    from: usize,
    to: usize,
    of_width: u64,
) -> Result<(), String> {
    let (_, links) = sim.truth();
    let [one, other] = [from, to].map(|peer| sim.peers[peer].name.clone());
    let services = &sim.peers[to].config.services;
    let Some(service) = services.first().map(|service| service.name.clone()) else { return Ok(()) };
    let width = check::width(&links, &one, &other);
    let most = width.unwrap_or(Bandwidth::from_bps(1_000_000)).bps();
    let rate = Bandwidth::from_bps((most / 1_000 * of_width).max(limits::BANDWIDTH_BACK_BPS_MIN));
    let request = OpenRequest {
        peer: other.clone(),
        service,
        name: None,
        rate,
        rate_back: Bandwidth::from_bps(limits::BANDWIDTH_BACK_BPS_MIN),
        choice: Choice::default(),
        avoid: Vec::new(),
        deadline: limits::OPEN_DEADLINE,
        wait: false,
        protect: false,
        plain: false,
    };
    let roomy =
        |edge: &&EdgeKey| check::room(sim, edge) >= rate.bps() + check::untold(edge.capacity);
    let roomy: Vec<_> = links.iter().filter(roomy).cloned().collect();
    let room = check::width(&roomy, &one, &other).is_some();
    let id = sim.request(from, Request::Open(request));
    sim.run_until(sim.now + limits::OPEN_DEADLINE + LATE);
    let fits = width.is_some_and(|width| rate <= width);
    let unheard = sim.may_not_have_heard(from, &other);
    let right = match sim.answer(id) {
        Some(Answer::Open(_)) => fits,
        Some(Answer::Rejected(why)) => {
            let never = why.reason == Reject::Never && width.is_some() && !fits;
            let nowhere = width.is_none()
                && (why.reason == Reject::Unreachable
                    || why.reason == Reject::NoSuchPeer && unheard);
            let full = why.reason == Reject::NoRoom && fits && !room;
            never || nowhere || full
        }
        _ => false,
    };
    if right {
        return Ok(());
    }
    let answer = sim.answer(id);
    let picture = sim.node(from).map(|node| node.graph_view(sim.now));
    let question = format!("{one} asks {other} for {rate}, W is {width:?}, room {room}");
    Err(format!("{question}: {answer:?}; its picture: {picture:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Explanation, Limit, ServiceConfig, ServiceKind};
    use crate::sim::{Fault, Plan};
    use crate::types::ServiceName;

    fn mbit(rate: u64) -> Bandwidth {
        Bandwidth::from_bps(rate * 1_000_000)
    }

    fn name(at: usize) -> PeerName {
        PeerName::new(&format!("p{at}")).expect("a name")
    }

    /// p0 - p1 - p2 with a tree, of 100 and 10 Mbit/s.
    fn chain() -> Sim {
        let service = ServiceName::new("tv").expect("a name");
        let plan = Plan {
            peers: (0..3).map(name).collect(),
            links: vec![(0, 1, mbit(100)), (1, 2, mbit(10))],
            services: vec![ServiceConfig {
                name: service,
                kind: ServiceKind::Deliver,
                plain: true,
            }],
            ..Plan::default()
        };
        let mut sim = Sim::new(1, &plan);
        (0..3).for_each(|peer| sim.strike(Fault::Start(peer)));
        sim.run_until(Time(2_000_000));
        sim
    }

    fn request(rate: Bandwidth) -> OpenRequest {
        OpenRequest {
            peer: name(2),
            service: ServiceName::new("tv").expect("a name"),
            name: None,
            rate,
            rate_back: mbit(1),
            choice: Choice::default(),
            avoid: Vec::new(),
            deadline: limits::OPEN_DEADLINE,
            wait: false,
            protect: false,
            plain: false,
        }
    }

    fn judged(sim: &mut Sim, rate: Bandwidth, answer: &Answer) -> Vec<String> {
        let id = RequestId(u64::MAX);
        sim.note_wish(0, id, &request(rate));
        sim.judge_answer(0, id, answer);
        std::mem::take(&mut sim.judged.wrong)
    }

    #[test]
    fn i5_never_is_judged_by_the_wires_and_not_by_what_the_answer_says() {
        let mut sim = chain();
        let session = sim.commits().last().expect("a tree").2.clone();
        let limit = Limit { width: mbit(1), link: (name(1), name(2)), session };
        let explanation = Box::new(Explanation { limit: Some(limit), ..Explanation::default() });
        let mut why = Rejection::new(Reject::Never, "no");
        why.explanation = explanation;
        let never = Answer::Rejected(why);
        assert_eq!(judged(&mut sim, mbit(10), &never), Vec::<String>::new(), "9.5 are usable");
        let wrong = judged(&mut sim, mbit(9), &never);
        assert!(wrong[0].ends_with("9.5 Mbit/s are there, 9 Mbit/s asked"), "{wrong:?}");
        // What happened since the session began excuses it.
        sim.strike(Fault::CapacityAtOneEnd(1, mbit(20)));
        sim.run_until(sim.now);
        assert_eq!(judged(&mut sim, mbit(9), &never), Vec::<String>::new());
    }

    #[test]
    fn i5_open_is_wrong_while_a_hop_has_not_the_path() {
        let mut sim = chain();
        let id = sim.request(0, Request::Open(request(mbit(3))));
        sim.run_until(Time(3_000_000));
        let Some(Answer::Open(opened)) = sim.answer(id).cloned() else { panic!("there is room") };
        assert_eq!(sim.wrong_answers(), Vec::<String>::new());
        let again = Answer::Open(opened);
        assert_eq!(judged(&mut sim, mbit(3), &again), Vec::<String>::new());
        sim.peers[1].labels.clear();
        let wrong = judged(&mut sim, mbit(3), &again);
        assert!(wrong[0].contains("come out at Ok(None)"), "{wrong:?}");
        sim.peers[1].node = None;
        let wrong = judged(&mut sim, mbit(3), &again);
        assert!(wrong[0].contains("p1 has not committed it"), "{wrong:?}");
    }

    #[test]
    fn i5_an_answer_that_does_not_come_is_late() {
        let mut sim = chain();
        sim.note_wish(0, RequestId(u64::MAX), &request(mbit(3)));
        sim.run_until(sim.now + limits::OPEN_DEADLINE + LATE);
        assert_eq!(sim.late_answers(), Vec::<String>::new());
        sim.run_until(sim.now + LATE);
        assert_eq!(sim.late_answers().len(), 1);
    }
}
