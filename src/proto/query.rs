//! Questions to other peers, routed along a path that the asker chose, and the walk over the whole
//! component behind `spanway verify` (A10).
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
use crate::types::{LinkId, PeerName, Reject, RequestId, Time};
use crate::wire::control::{LinkInfo, Message, Routed, RoutedBody, ServiceInfo};

/// What this peer knows of itself; lent by [`super::node`].
pub trait Here {
    fn name(&self) -> &PeerName;
    /// The link to this neighbour, if it is up.
    fn link_to(&self, neighbour: &PeerName) -> Option<LinkId>;
    fn services(&self) -> Vec<ServiceInfo>;
    /// Own links that are up, and which are branches of the committed tree.
    fn links(&self) -> Vec<LinkInfo>;
}

/// A question of ours that is under way.
#[derive(Debug)]
struct Question {
    request: RequestId,
    path: Vec<PeerName>,
    deadline: Time,
    /// Pieces of an answer in several.
    links: Vec<LinkInfo>,
    about: About,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    Services,
    Links,
}

/// One walk over the component.
#[derive(Debug)]
struct Walk {
    deadline: Time,
    found: BTreeMap<PeerName, Found>,
    /// To be asked, nearest first.
    queue: VecDeque<(PeerName, Vec<PeerName>)>,
    asked: usize,
}

#[derive(Debug)]
enum Found {
    /// Not answered yet, or never.
    Silent,
    Answered(Vec<LinkInfo>),
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

    /// Asks every peer that can be reached for its own links.
    pub fn collect(
        &mut self,
        now: Time,
        request: RequestId,
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
        };
        walk.learn(here.name().clone(), &[here.name().clone()], here.links());
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
        let position = usize::from(routed.position);
        let expected = position.checked_sub(1).and_then(|before| routed.path.get(before));
        if routed.path.get(position) != Some(here.name()) || expected != Some(from) {
            return Err("a routed message that is not on its path");
        }
        let question = matches!(routed.body, RoutedBody::AskServices | RoutedBody::AskLinks);
        if position + 1 < routed.path.len() {
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
            About::Links => RoutedBody::AskLinks,
        };
        let routed = Routed { id, path: path.clone(), position: 1, body };
        out.push(Action::Send { link, message: Message::Routed(routed) });
        let deadline = now + limits::QUERY_DEADLINE;
        self.questions.insert(id, Question { request, path, deadline, links: Vec::new(), about });
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
            RoutedBody::Links { links, last } if whole && question.about == About::Links => {
                question.links.extend(links);
                if question.links.len() > limits::LINKS_MAX {
                    let question = self.questions.remove(&routed.id).expect("found just now");
                    let why = "it names more links than a peer may have".into();
                    self.unanswered(now, &question, Reject::Unreachable, why, here, out);
                    return;
                }
                if last {
                    let question = self.questions.remove(&routed.id).expect("found just now");
                    let walk = self.walks.get_mut(&question.request).expect("walks end last");
                    walk.asked -= 1;
                    let peer = question.path.last().expect("a path has peers").clone();
                    walk.learn(peer, &question.path, question.links);
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
            | RoutedBody::AskLinks => {}
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
            About::Links => {
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
            if self.ask(now, request, path, About::Links, here, out) {
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
                Found::Answered(links) => collected.peers.push((peer, links)),
                Found::Silent => collected.silent.push(peer),
            }
        }
        out.push(Action::Answer { id: request, answer: Answer::Links(collected) });
    }
}

impl Walk {
    /// `peer`, reached by `path`, named its links: whoever is new is asked next.
    fn learn(&mut self, peer: PeerName, path: &[PeerName], links: Vec<LinkInfo>) {
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
        self.found.insert(peer, Found::Answered(links));
    }
}

/// Towards the next peer of the path. A question that cannot go on is answered; an answer that
/// cannot is lost, and the asker's deadline tells it.
fn pass_on(mut routed: Routed, question: bool, here: &impl Here, out: &mut Vec<Action>) {
    let next = &routed.path[usize::from(routed.position) + 1];
    if let Some(link) = here.link_to(next) {
        routed.position += 1;
        out.push(Action::Send { link, message: Message::Routed(routed) });
    } else if question {
        let why = format!("{} has no link to {next} that is up", here.name());
        reply(&routed, RoutedBody::Unanswered(why), here, out);
    }
}

fn answer(routed: &Routed, here: &impl Here, out: &mut Vec<Action>) {
    if routed.body == RoutedBody::AskServices {
        reply(routed, RoutedBody::Services(here.services()), here, out);
        return;
    }
    let links = here.links();
    let count = links.len().div_ceil(limits::LINKS_PER_PIECE).max(1);
    for piece in 0..count {
        let from = piece * limits::LINKS_PER_PIECE;
        let to = (from + limits::LINKS_PER_PIECE).min(links.len());
        let body = RoutedBody::Links { links: links[from..to].to_vec(), last: piece + 1 == count };
        reply(routed, body, here, out);
    }
}

/// Back to the asker, over the peers that the question came by.
fn reply(routed: &Routed, body: RoutedBody, here: &impl Here, out: &mut Vec<Action>) {
    let mut path = routed.path[..=usize::from(routed.position)].to_vec();
    path.reverse();
    if let Some(link) = here.link_to(&path[1]) {
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
    use crate::types::Bandwidth;

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
        let question = routed("a b c", 1, RoutedBody::AskLinks);
        queries().handle(T, &name("a"), question, &here, &mut out).unwrap();
        assert_eq!(*sent(&out), routed("a b c", 2, RoutedBody::AskLinks));
        let (last, mut answer) = (peer("c", "b"), Vec::new());
        queries().handle(T, &name("b"), sent(&out).clone(), &last, &mut answer).unwrap();
        let body = RoutedBody::Links { links: last.links(), last: true };
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
            let question = routed("a b c", position, RoutedBody::AskLinks);
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
        assert!(forge(id, "c b a", 2, RoutedBody::Links { links: vec![], last: true }).is_empty());
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
        queries.collect(T, RequestId(1), &here, &mut out);
        assert_eq!(out.len(), 2);
        queries.invariants();
        let Action::Send { message: Message::Routed(question), .. } = &out[0] else { panic!() };
        let links = peer("b", "a d").links();
        let body = RoutedBody::Links { links: links.clone(), last: true };
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
        };
        let answer = Answer::Links(collected);
        assert_eq!(out, [Action::Answer { id: RequestId(1), answer }]);
        assert_eq!(queries.poll_timeout(), None);
    }
}
