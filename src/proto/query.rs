//! Questions to other peers, routed along a path that the asker chose, and the walk over the whole
//! component behind `spanway verify` (A10) and `spanway tree --course`.
//!
//! Neighbours pass a question on along its path; the last peer answers; the answer takes the path
//! backwards. Nobody's picture of somebody else is used: the walk asks each peer once, for its own
//! links, by a path of links that the peers on it named themselves. A question that gets no answer in
//! [`limits::QUERY_DEADLINE`] is given up, so nothing here waits for ever.

use std::collections::{BTreeMap, VecDeque};

use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::{Action, Answer, Collected, Rejection, Timer};
use crate::limits;
use crate::types::{ChannelId, LinkId, PeerName, Reject, RequestId, Time};
use crate::wire::control::{LinkInfo, Message, Routed, RoutedBody, ServiceInfo};
use crate::wire::course::Course;

/// What this peer knows of itself; lent by [`super::node`].
pub trait Here {
    fn name(&self) -> &PeerName;
    /// The link to this neighbour, if it is up.
    fn link_to(&self, neighbour: &PeerName) -> Option<LinkId>;
    /// Is the control version on the link at least this?
    fn speaks(&self, link: LinkId, version: u16) -> bool;
    fn services(&self) -> Vec<ServiceInfo>;
    /// Own links that are up, and which are branches of the committed tree.
    fn links(&self) -> Vec<LinkInfo>;
    /// What this peer did in its session.
    fn course(&self) -> Option<Course>;
    /// Does the channel end here or cross this peer, and `peer` too?
    fn is_on_path(&self, channel: &ChannelId, peer: &PeerName) -> bool;
}

/// A question of ours that is under way.
#[derive(Debug)]
struct Question {
    request: RequestId,
    path: Vec<PeerName>,
    deadline: Time,
    /// Pieces of an answer in several.
    links: Vec<LinkInfo>,
    course: Option<Course>,
    about: About,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    Services,
    Links { course: bool },
}

/// One walk over the component.
#[derive(Debug)]
struct Walk {
    deadline: Time,
    found: BTreeMap<PeerName, Found>,
    /// To be asked, nearest first.
    queue: VecDeque<(PeerName, Vec<PeerName>)>,
    asked: usize,
    /// Each peer is asked what it did in the last computation, too.
    course: bool,
    /// Steps that were told.
    steps: usize,
}

#[derive(Debug)]
enum Found {
    /// Not answered yet, or never.
    Silent,
    Answered(Vec<LinkInfo>, Option<Course>),
}

/// All questions of one peer, and those it passes on.
#[derive(Debug)]
pub struct Queries {
    rng: ChaCha20Rng,
    questions: BTreeMap<u64, Question>,
    walks: BTreeMap<RequestId, Walk>,
}

impl Queries {
    /// The numbers of questions come from `rng`: nobody off their path can answer them.
    pub fn new(rng: ChaCha20Rng) -> Self {
        Self { rng, questions: BTreeMap::new(), walks: BTreeMap::new() }
    }

    /// Asks the last peer of `path`, which begins here, for its services.
    pub fn ask_services(
        &mut self,
        now: Time,
        request: RequestId,
        path: Vec<PeerName>,
        here: &impl Here,
        out: &mut Vec<Action>,
    ) {
        if path.len() > limits::PATH_PEERS_MAX {
            let detail = format!("it is {} hops away, farther than any path goes", path.len() - 1);
            out.push(rejected(request, Reject::Unreachable, detail));
        } else if self.questions.len() >= limits::QUERIES_MAX * limits::QUESTIONS_MAX {
            out.push(busy(request));
        } else if !self.ask(now, request, path.clone(), About::Services, here, out) {
            let detail = format!("the link to {} is down", path[1]);
            out.push(rejected(request, Reject::Unreachable, detail));
        }
    }

    /// Asks every peer that can be reached for its own links, and on request for its last `course`.
    pub fn collect(
        &mut self,
        now: Time,
        request: RequestId,
        course: bool,
        here: &impl Here,
        out: &mut Vec<Action>,
    ) {
        if self.walks.len() >= limits::QUERIES_MAX {
            out.push(busy(request));
            return;
        }
        let mut walk = Walk {
            deadline: now + limits::COLLECT_DEADLINE,
            found: BTreeMap::new(),
            queue: VecDeque::new(),
            asked: 0,
            course,
            steps: 0,
        };
        let own = course.then(|| here.course()).flatten();
        walk.learn(here.name().clone(), &[here.name().clone()], here.links(), own);
        self.walks.insert(request, walk);
        self.go_on(now, request, here, out);
    }

    /// A routed message from the neighbour `from`: passed on, answered, or an answer for us.
    pub fn handle(
        &mut self,
        now: Time,
        from: &PeerName,
        routed: Routed,
        here: &impl Here,
        out: &mut Vec<Action>,
    ) -> Result<(), &'static str> {
        let last = is_last(from, &routed, here)?;
        let question = matches!(routed.body, RoutedBody::AskServices | RoutedBody::AskLinks { .. });
        if !last {
            pass_on(routed, question, here, out);
        } else if question {
            answer(&routed, here, out);
        } else {
            self.on_answer(now, routed, here, out);
        }
        Ok(())
    }

    pub fn poll_timeout(&self) -> Option<(Time, Timer)> {
        let questions = self.questions.values().map(|question| question.deadline);
        let walks = self.walks.values().map(|walk| walk.deadline);
        questions.chain(walks).min().map(|at| (at, Timer::Query))
    }

    pub fn handle_timeout(&mut self, now: Time, here: &impl Here, out: &mut Vec<Action>) {
        let late: Vec<u64> = self
            .questions
            .iter()
            .filter(|(_, question)| question.deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            if let Some(question) = self.questions.remove(&id) {
                let peer = question.path.last().expect("a path has peers");
                let detail = format!("{peer} did not answer in {:?}", limits::QUERY_DEADLINE);
                self.unanswered(now, &question, Reject::Timeout, detail, here, out);
            }
        }
        let over: Vec<RequestId> =
            self.walks.iter().filter(|(_, walk)| walk.deadline <= now).map(|(id, _)| *id).collect();
        for request in over {
            self.finish_walk(request, out);
        }
    }

    /// Panics if this machine broke its own rules.
    pub fn invariants(&self) {
        for (request, walk) in &self.walks {
            let asked = self.questions.values().filter(|question| question.request == *request);
            assert_eq!(asked.count(), walk.asked, "questions of a walk");
            assert!(walk.asked <= limits::QUESTIONS_MAX);
            assert!(walk.asked > 0, "a walk that waits for nobody is over");
        }
    }

    fn ask(
        &mut self,
        now: Time,
        request: RequestId,
        path: Vec<PeerName>,
        about: About,
        here: &impl Here,
        out: &mut Vec<Action>,
    ) -> bool {
        let Some(link) = here.link_to(&path[1]) else { return false };
        let id = self.rng.next_u64();
        let body = match about {
            About::Services => RoutedBody::AskServices,
            About::Links { course } => RoutedBody::AskLinks { course },
        };
        let routed = Routed { id, path: path.clone(), position: 1, body };
        out.push(Action::Send { link, message: Message::Routed(routed) });
        let deadline = now + limits::QUERY_DEADLINE;
        let (links, course) = (Vec::new(), None);
        self.questions.insert(id, Question { request, path, deadline, links, course, about });
        true
    }

    /// An answer that reached its end here. One that fits no question of ours is too late or forged.
    fn on_answer(&mut self, now: Time, routed: Routed, here: &impl Here, out: &mut Vec<Action>) {
        let Some(question) = self.questions.get_mut(&routed.id) else { return };
        let mut there = routed.path;
        there.reverse();
        let whole = question.path == there;
        match routed.body {
            RoutedBody::Services(services) if whole && question.about == About::Services => {
                let request = question.request;
                self.questions.remove(&routed.id);
                out.push(Action::Answer { id: request, answer: Answer::Services(services) });
            }
            RoutedBody::Links { links, last, course }
                if whole && matches!(question.about, About::Links { .. }) =>
            {
                question.take(links, course);
                if question.is_too_much() {
                    let question = self.questions.remove(&routed.id).expect("found just now");
                    let why = "it names more links or steps than a peer may have".into();
                    self.unanswered(now, &question, Reject::Unreachable, why, here, out);
                    return;
                }
                if last {
                    let question = self.questions.remove(&routed.id).expect("found just now");
                    let walk = self.walks.get_mut(&question.request).expect("walks end last");
                    walk.asked -= 1;
                    let peer = question.path.last().expect("a path has peers").clone();
                    walk.learn(peer, &question.path, question.links, question.course);
                    self.go_on(now, question.request, here, out);
                }
            }
            RoutedBody::Unanswered(why) if question.path.starts_with(&there) => {
                let question = self.questions.remove(&routed.id).expect("found just now");
                self.unanswered(now, &question, Reject::Unreachable, why, here, out);
            }
            RoutedBody::Services(_)
            | RoutedBody::Links { .. }
            | RoutedBody::Unanswered(_)
            | RoutedBody::AskServices
            | RoutedBody::AskLinks { .. }
            | RoutedBody::AskHop(_)
            | RoutedBody::Hop(_) => {}
        }
    }

    fn unanswered(
        &mut self,
        now: Time,
        question: &Question,
        reason: Reject,
        detail: String,
        here: &impl Here,
        out: &mut Vec<Action>,
    ) {
        match question.about {
            About::Services => out.push(rejected(question.request, reason, detail)),
            About::Links { .. } => {
                let walk = self.walks.get_mut(&question.request).expect("walks end last");
                walk.asked -= 1;
                self.go_on(now, question.request, here, out);
            }
        }
    }

    /// Asks the next peers of a walk; answers the request when nobody is left.
    fn go_on(&mut self, now: Time, request: RequestId, here: &impl Here, out: &mut Vec<Action>) {
        while let Some(walk) = self.walks.get_mut(&request)
            && walk.asked < limits::QUESTIONS_MAX
            && let Some((_, path)) = walk.queue.pop_front()
        {
            let about = About::Links { course: walk.course };
            if self.ask(now, request, path, about, here, out) {
                self.walks.get_mut(&request).expect("it is there").asked += 1;
            }
        }
        if self.walks.get(&request).is_some_and(|walk| walk.asked == 0) {
            self.finish_walk(request, out);
        }
    }

    fn finish_walk(&mut self, request: RequestId, out: &mut Vec<Action>) {
        let Some(walk) = self.walks.remove(&request) else { return };
        self.questions.retain(|_, question| question.request != request);
        let mut collected = Collected::default();
        for (peer, found) in walk.found {
            match found {
                Found::Answered(links, course) => {
                    collected.courses.extend(course.map(|course| (peer.clone(), course)));
                    collected.peers.push((peer, links));
                }
                Found::Silent => collected.silent.push(peer),
            }
        }
        out.push(Action::Answer { id: request, answer: Answer::Links(collected) });
    }
}

impl Question {
    /// A piece of the answer.
    fn take(&mut self, links: Vec<LinkInfo>, course: Option<Course>) {
        self.links.extend(links);
        match (&mut self.course, course) {
            (Some(begun), Some(piece)) => begun.steps.extend(piece.steps),
            (begun @ None, piece) => *begun = piece,
            (Some(_), None) => {}
        }
    }

    fn is_too_much(&self) -> bool {
        let steps = self.course.as_ref().map_or(0, |course| course.steps.len());
        self.links.len() > limits::LINKS_MAX || steps > limits::COURSE_STEPS_MAX
    }
}

impl Walk {
    /// `peer`, reached by `path`, named its links: whoever is new is asked next.
    fn learn(
        &mut self,
        peer: PeerName,
        path: &[PeerName],
        links: Vec<LinkInfo>,
        course: Option<Course>,
    ) {
        for info in &links {
            let full = self.found.len() >= limits::PEERS_MAX;
            if info.peer == peer || full || self.found.contains_key(&info.peer) {
                continue;
            }
            self.found.insert(info.peer.clone(), Found::Silent);
            if path.len() < limits::PATH_PEERS_MAX {
                let path = path.iter().chain([&info.peer]).cloned().collect();
                self.queue.push_back((info.peer.clone(), path));
            }
        }
        self.steps += course.as_ref().map_or(0, |course| course.steps.len());
        let course = course.filter(|_| self.course && self.steps <= limits::COURSES_STEPS_MAX);
        self.found.insert(peer, Found::Answered(links, course));
    }
}

/// Towards the next peer of the path. A question that cannot go on is answered; an answer that
/// cannot is lost, and the asker's deadline tells it.
/// Whether a message from this neighbour ends here; refused if it does not belong here at all.
pub(super) fn is_last(
    from: &PeerName,
    routed: &Routed,
    here: &impl Here,
) -> Result<bool, &'static str> {
    let position = usize::from(routed.position);
    let before = position.checked_sub(1).and_then(|before| routed.path.get(before));
    if routed.path.get(position) != Some(here.name()) || before != Some(from) {
        return Err("a routed message that is not on its path");
    }
    Ok(position + 1 == routed.path.len())
}

pub(super) fn pass_on(mut routed: Routed, question: bool, here: &impl Here, out: &mut Vec<Action>) {
    let next = &routed.path[usize::from(routed.position) + 1];
    match way_to(next, &routed.body, here) {
        Ok(link) => {
            routed.position += 1;
            out.push(Action::Send { link, message: Message::Routed(routed) });
        }
        Err(why) if question => reply(&routed, RoutedBody::Unanswered(why), here, out),
        Err(_) => {}
    }
}

/// The link to a neighbour that is up and whose other end understands this.
pub(super) fn way_to(
    next: &PeerName,
    body: &RoutedBody,
    here: &impl Here,
) -> Result<LinkId, String> {
    let link = here.link_to(next);
    let link = link.ok_or_else(|| format!("{} has no link to {next} that is up", here.name()))?;
    match here.speaks(link, body.version()) {
        true => Ok(link),
        false => Err(format!("{next} runs an older version, which cannot tell")),
    }
}

fn answer(routed: &Routed, here: &impl Here, out: &mut Vec<Action>) {
    let RoutedBody::AskLinks { course } = routed.body else {
        reply(routed, RoutedBody::Services(here.services()), here, out);
        return;
    };
    let (links, course) = (here.links(), course.then(|| here.course()).flatten());
    let steps = course.as_ref().map_or(&[][..], |course| &course.steps);
    let pieces = links.len().div_ceil(limits::LINKS_PER_PIECE);
    let pieces = pieces.max(steps.len().div_ceil(limits::STEPS_PER_PIECE)).max(1);
    for piece in 0..pieces {
        let course = course.as_ref().map(|course| Course {
            session: course.session.clone(),
            complete: course.complete,
            steps: nth(steps, piece, limits::STEPS_PER_PIECE),
        });
        let links = nth(&links, piece, limits::LINKS_PER_PIECE);
        let body = RoutedBody::Links { links, last: piece + 1 == pieces, course };
        reply(routed, body, here, out);
    }
}

/// One piece of a list; empty behind its end.
fn nth<T: Clone>(items: &[T], piece: usize, size: usize) -> Vec<T> {
    items.chunks(size).nth(piece).map(<[T]>::to_vec).unwrap_or_default()
}

/// Back to the asker, over the peers that the question came by.
pub(super) fn reply(routed: &Routed, body: RoutedBody, here: &impl Here, out: &mut Vec<Action>) {
    let mut path = routed.path[..=usize::from(routed.position)].to_vec();
    path.reverse();
    if let Ok(link) = way_to(&path[1], &body, here) {
        let message = Message::Routed(Routed { id: routed.id, path, position: 1, body });
        out.push(Action::Send { link, message });
    }
}

fn rejected(id: RequestId, reason: Reject, detail: String) -> Action {
    Action::Answer { id, answer: Answer::Rejected(Rejection::new(reason, detail)) }
}

fn busy(id: RequestId) -> Action {
    rejected(id, Reject::Busy, "too many questions are under way; try again".into())
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng;

    use super::*;
    use crate::types::{Bandwidth, SessionId};
    use crate::wire::course::{Step, StepKind};

    struct Peer {
        name: PeerName,
        up: Vec<PeerName>,
    }

    impl Here for Peer {
        fn name(&self) -> &PeerName {
            &self.name
        }

        fn link_to(&self, neighbour: &PeerName) -> Option<LinkId> {
            let at = self.up.iter().position(|peer| peer == neighbour)?;
            Some(LinkId(u16::try_from(at).unwrap()))
        }

        fn speaks(&self, _: LinkId, version: u16) -> bool {
            version <= 4
        }

        fn is_on_path(&self, _: &ChannelId, _: &PeerName) -> bool {
            false
        }

        fn services(&self) -> Vec<ServiceInfo> {
            Vec::new()
        }

        fn links(&self) -> Vec<LinkInfo> {
            let info = |peer: &PeerName| LinkInfo {
                peer: peer.clone(),
                capacity: Bandwidth::ZERO,
                branch: true,
            };
            self.up.iter().map(info).collect()
        }

        fn course(&self) -> Option<Course> {
            let step = |at_us| Step {
                at_us,
                what: StepKind::Woke,
                level: 0,
                fragment: None,
                neighbour: None,
            };
            let session = SessionId { counter: 1, initiator: name("a") };
            let most = u32::try_from(limits::COURSE_STEPS_MAX).unwrap();
            Some(Course { session, complete: true, steps: (0..most).map(step).collect() })
        }
    }

    const T: Time = Time(0);

    fn name(text: &str) -> PeerName {
        PeerName::new(text).unwrap()
    }

    fn path(names: &str) -> Vec<PeerName> {
        names.split(' ').map(name).collect()
    }

    fn peer(text: &str, up: &str) -> Peer {
        Peer { name: name(text), up: path(up) }
    }

    fn queries() -> Queries {
        Queries::new(ChaCha20Rng::from_seed([1; 32]))
    }

    fn routed(names: &str, position: u8, body: RoutedBody) -> Routed {
        Routed { id: 7, path: path(names), position, body }
    }

    fn sent(out: &[Action]) -> &Routed {
        match out {
            [Action::Send { message: Message::Routed(routed), .. }] => routed,
            other => panic!("one routed message expected: {other:?}"),
        }
    }

    #[test]
    fn a_question_goes_along_its_path_and_its_answer_back() {
        let (here, mut out) = (peer("b", "a c"), Vec::new());
        let question = routed("a b c", 1, RoutedBody::AskLinks { course: false });
        queries().handle(T, &name("a"), question, &here, &mut out).unwrap();
        assert_eq!(*sent(&out), routed("a b c", 2, RoutedBody::AskLinks { course: false }));
        let (last, mut answer) = (peer("c", "b"), Vec::new());
        queries().handle(T, &name("b"), sent(&out).clone(), &last, &mut answer).unwrap();
        let body = RoutedBody::Links { links: last.links(), last: true, course: None };
        assert_eq!(*sent(&answer), routed("c b a", 1, body));
    }

    #[test]
    fn a_peer_on_the_way_whose_next_link_is_down_answers_itself() {
        let (here, mut out) = (peer("b", "a"), Vec::new());
        let question = routed("a b c d", 1, RoutedBody::AskServices);
        queries().handle(T, &name("a"), question, &here, &mut out).unwrap();
        assert_eq!(sent(&out).path, path("b a"));
        assert!(matches!(sent(&out).body, RoutedBody::Unanswered(_)));
    }

    #[test]
    fn a_routed_message_that_is_not_on_its_path_is_a_protocol_error() {
        let here = peer("b", "a c");
        for (from, position) in [("c", 1), ("a", 2), ("a", 9)] {
            let question = routed("a b c", position, RoutedBody::AskLinks { course: false });
            let result = queries().handle(T, &name(from), question, &here, &mut Vec::new());
            assert!(result.is_err(), "{from} {position}");
        }
    }

    #[test]
    fn an_answer_counts_only_with_its_number_and_from_the_asked_peer() {
        let (here, mut queries, mut out) = (peer("a", "b"), queries(), Vec::new());
        queries.ask_services(T, RequestId(1), path("a b c"), &here, &mut out);
        let id = sent(&out).id;
        out.clear();
        let services = || RoutedBody::Services(Vec::new());
        let mut forge = |id, names: &str, position, body| {
            let answer = Routed { id, ..routed(names, position, body) };
            let mut out = Vec::new();
            queries.handle(T, &name("b"), answer, &here, &mut out).unwrap();
            out
        };
        assert!(forge(id ^ 1, "c b a", 2, services()).is_empty());
        assert!(forge(id, "b a", 1, services()).is_empty());
        assert!(
            forge(id, "c b a", 2, RoutedBody::Links { links: vec![], last: true, course: None })
                .is_empty()
        );
        let answer = Answer::Services(Vec::new());
        assert_eq!(
            forge(id, "c b a", 2, services()),
            [Action::Answer { id: RequestId(1), answer }]
        );
        assert!(forge(id, "c b a", 2, services()).is_empty(), "one answer a question");
    }

    #[test]
    fn a10_a_silent_peer_is_listed_and_does_not_hold_the_walk_up() {
        let (here, mut queries, mut out) = (peer("a", "b c"), queries(), Vec::new());
        queries.collect(T, RequestId(1), false, &here, &mut out);
        assert_eq!(out.len(), 2);
        queries.invariants();
        let Action::Send { message: Message::Routed(question), .. } = &out[0] else { panic!() };
        let links = peer("b", "a d").links();
        let body = RoutedBody::Links { links: links.clone(), last: true, course: None };
        let answer = Routed { id: question.id, ..routed("b a", 1, body) };
        out.clear();
        queries.handle(T, &name("b"), answer, &here, &mut out).unwrap();
        assert_eq!(sent(&out).path, path("a b d"), "whom b names is asked by b's path");
        let (at, _) = queries.poll_timeout().unwrap();
        out.clear();
        queries.handle_timeout(at, &here, &mut out);
        let collected = Collected {
            peers: vec![(name("a"), here.links()), (name("b"), links)],
            silent: vec![name("c"), name("d")],
            courses: Vec::new(),
        };
        let answer = Answer::Links(collected);
        assert_eq!(out, [Action::Answer { id: RequestId(1), answer }]);
        assert_eq!(queries.poll_timeout(), None);
    }

    #[test]
    fn a24_steps_come_in_pieces_and_an_older_peer_has_none() {
        let (here, mut queries, mut out) = (peer("a", "b c"), queries(), Vec::new());
        queries.collect(T, RequestId(1), true, &here, &mut out);
        let ids = out.iter().map(|action| {
            let Action::Send { message: Message::Routed(asked), .. } = action else {
                panic!("{action:?}")
            };
            assert_eq!(asked.body, RoutedBody::AskLinks { course: true });
            asked.id
        });
        let ids: Vec<u64> = ids.collect();
        let (told, mut pieces) = (peer("b", "a"), Vec::new());
        let question =
            Routed { id: ids[0], ..routed("a b", 1, RoutedBody::AskLinks { course: true }) };
        queries.handle(T, &name("a"), question, &told, &mut pieces).unwrap();
        assert_eq!(pieces.len(), limits::COURSE_STEPS_MAX.div_ceil(limits::STEPS_PER_PIECE));
        out.clear();
        for piece in pieces {
            let Action::Send { message: Message::Routed(piece), .. } = piece else { panic!() };
            assert!(Message::Routed(piece.clone()).emit().len() <= limits::MESSAGE_BYTES_MAX);
            queries.handle(T, &name("b"), piece, &here, &mut out).unwrap();
        }
        let body = RoutedBody::Links { links: peer("c", "a").links(), last: true, course: None };
        let old = Routed { id: ids[1], ..routed("c a", 1, body) };
        queries.handle(T, &name("c"), old, &here, &mut out).unwrap();
        let [Action::Answer { answer: Answer::Links(collected), .. }] = &out[..] else { panic!() };
        assert_eq!((collected.peers.len(), collected.silent.len()), (3, 0));
        let course = here.course().unwrap();
        assert_eq!(collected.courses, ["a", "b"].map(|peer| (name(peer), course.clone())));
    }
}
