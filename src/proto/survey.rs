//! What every peer on a channel's path knows of it, asked from one of them (`spanway why`).
//!
//! Each peer is asked by its own question along the path of the channel, so that one that is silent does
//! not hide those behind it. Who is not on the path of a channel is told nothing of it. What a peer knows is
//! its daemon's to say ([`Action::ReadHop`]).

use std::collections::BTreeMap;

use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::query::{Here, is_last, pass_on, reply, way_to};
use super::{Action, Answer, Hop, Rejection, Timer};
use crate::limits;
use crate::types::{ChannelId, PeerName, Reject, RequestId, Time};
use crate::wire::control::{Message, Routed, RoutedBody};
use crate::wire::hop::HopFacts;

/// One request, until all have answered or its time is over.
#[derive(Debug)]
struct Survey {
    deadline: Time,
    /// In the order of the path.
    hops: Vec<Hop>,
    /// Questions that have no answer yet, and which hop each asks.
    asked: BTreeMap<u64, usize>,
}

/// All surveys of one peer, and those it passes on or answers.
#[derive(Debug)]
pub struct Surveys {
    rng: ChaCha20Rng,
    surveys: BTreeMap<RequestId, Survey>,
}

impl Surveys {
    /// The numbers of questions come from `rng`: nobody off their path can answer them.
    pub fn new(rng: ChaCha20Rng) -> Self {
        Self { rng, surveys: BTreeMap::new() }
    }

    /// Asks every peer of `path`, the channel's, but this one.
    pub fn ask(
        &mut self,
        now: Time,
        request: RequestId,
        channel: &ChannelId,
        path: &[PeerName],
        here: &impl Here,
        out: &mut Vec<Action>,
    ) {
        if self.surveys.len() >= limits::QUERIES_MAX {
            let busy = Rejection::new(Reject::Busy, "too many questions are under way; try again");
            return out.push(Action::Answer { id: request, answer: Answer::Rejected(busy) });
        }
        let me = path.iter().position(|peer| peer == here.name());
        let mut survey = Survey {
            deadline: now + limits::QUERY_DEADLINE,
            hops: Vec::new(),
            asked: BTreeMap::new(),
        };
        for (at, peer) in path.iter().enumerate() {
            let known = match me {
                Some(me) if me == at => Err("this peer".to_owned()),
                Some(me) => self.question(channel, way(path, me, at), here, out).map(|id| {
                    survey.asked.insert(id, at);
                }),
                None => Err("this peer is not on the path".to_owned()),
            };
            let why = known.err().unwrap_or_else(|| "no answer in time".to_owned());
            survey.hops.push(Hop { peer: peer.clone(), facts: Err(why) });
        }
        self.surveys.insert(request, survey);
        self.finish(request, out);
    }

    /// Sends one; its number, or why it cannot be sent.
    fn question(
        &mut self,
        channel: &ChannelId,
        path: Vec<PeerName>,
        here: &impl Here,
        out: &mut Vec<Action>,
    ) -> Result<u64, String> {
        let id = self.rng.next_u64();
        let body = RoutedBody::AskHop(channel.clone());
        let link = way_to(&path[1], &body, here)?;
        let routed = Routed { id, path, position: 1, body };
        out.push(Action::Send { link, message: Message::Routed(routed) });
        Ok(id)
    }

    /// A message about a hop from the neighbour `from`: passed on, answered, or an answer for us.
    pub fn handle(
        &mut self,
        from: &PeerName,
        routed: Routed,
        here: &impl Here,
        out: &mut Vec<Action>,
    ) -> Result<(), &'static str> {
        let last = is_last(from, &routed, here)?;
        let question = matches!(routed.body, RoutedBody::AskHop(_));
        if !last {
            pass_on(routed, question, here, out);
        } else if !question {
            self.on_answer(routed, out);
        } else if is_of_both(&routed, here) {
            out.push(Action::ReadHop { question: Box::new(routed) });
        } else {
            unknown(&routed, here, out);
        }
        Ok(())
    }

    /// The daemon's answer to [`Action::ReadHop`].
    pub fn read(
        &self,
        question: &Routed,
        facts: Option<HopFacts>,
        here: &impl Here,
        out: &mut Vec<Action>,
    ) {
        match facts {
            Some(facts) => reply(question, RoutedBody::Hop(Box::new(facts)), here, out),
            None => unknown(question, here, out),
        }
    }

    /// Is a question with this number under way?
    pub fn waits_for(&self, id: u64) -> bool {
        self.surveys.values().any(|survey| survey.asked.contains_key(&id))
    }

    pub fn poll_timeout(&self) -> Option<(Time, Timer)> {
        self.surveys.values().map(|survey| (survey.deadline, Timer::Query)).min()
    }

    pub fn handle_timeout(&mut self, now: Time, out: &mut Vec<Action>) {
        let over = self.surveys.iter_mut().filter(|(_, survey)| survey.deadline <= now);
        let over = over.map(|(request, survey)| {
            survey.asked.clear();
            *request
        });
        for request in over.collect::<Vec<_>>() {
            self.finish(request, out);
        }
    }

    /// One that fits no question of ours is too late or forged.
    fn on_answer(&mut self, routed: Routed, out: &mut Vec<Action>) {
        let asked = |survey: &Survey| survey.asked.contains_key(&routed.id);
        let found = self.surveys.iter_mut().find(|(_, survey)| asked(survey));
        let Some((&request, survey)) = found else { return };
        let at = survey.asked[&routed.id];
        let id = routed.id;
        let Some(facts) = answer_of(routed, &survey.hops[at].peer) else { return };
        survey.asked.remove(&id);
        survey.hops[at].facts = facts;
        self.finish(request, out);
    }

    fn finish(&mut self, request: RequestId, out: &mut Vec<Action>) {
        if self.surveys.get(&request).is_some_and(|survey| survey.asked.is_empty())
            && let Some(survey) = self.surveys.remove(&request)
        {
            out.push(Action::Answer { id: request, answer: Answer::Hops(survey.hops) });
        }
    }
}

/// Who asks and who is asked are on the path of the channel.
fn is_of_both(question: &Routed, here: &impl Here) -> bool {
    let RoutedBody::AskHop(channel) = &question.body else { return false };
    here.is_on_path(channel, &question.path[0])
}

/// What an answer says; any peer on the way may say that it goes no further.
fn answer_of(routed: Routed, asked: &PeerName) -> Option<Result<HopFacts, String>> {
    let by_asked = routed.path.first() == Some(asked);
    if let RoutedBody::Unanswered(why) = routed.body {
        return Some(Err(why));
    }
    let RoutedBody::Hop(facts) = routed.body else { return None };
    by_asked.then_some(Ok(*facts))
}

/// From one position of the path to another, in either direction.
fn way(path: &[PeerName], from: usize, to: usize) -> Vec<PeerName> {
    match from < to {
        true => path[from..=to].to_vec(),
        false => path[to..=from].iter().rev().cloned().collect(),
    }
}

fn unknown(question: &Routed, here: &impl Here, out: &mut Vec<Action>) {
    let why = format!("{} knows no such channel of {}", here.name(), question.path[0]);
    reply(question, RoutedBody::Unanswered(why), here, out);
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng;

    use super::*;
    use crate::types::LinkId;
    use crate::wire::control::{LinkInfo, ServiceInfo};
    use crate::wire::course::Course;
    use crate::wire::hop;

    /// On the path a b c, with links to its neighbours there.
    struct Peer {
        at: usize,
        version: u16,
    }

    impl Here for Peer {
        fn name(&self) -> &PeerName {
            static NAMES: std::sync::OnceLock<Vec<PeerName>> = std::sync::OnceLock::new();
            &NAMES.get_or_init(path)[self.at]
        }

        fn link_to(&self, neighbour: &PeerName) -> Option<LinkId> {
            let at = path().iter().position(|peer| peer == neighbour)?;
            (at.abs_diff(self.at) == 1).then(|| LinkId(u16::try_from(at).expect("few")))
        }

        fn speaks(&self, _: LinkId, version: u16) -> bool {
            version <= self.version
        }

        fn services(&self) -> Vec<ServiceInfo> {
            Vec::new()
        }

        fn links(&self) -> Vec<LinkInfo> {
            Vec::new()
        }

        fn course(&self) -> Option<Course> {
            None
        }

        fn is_on_path(&self, of: &ChannelId, peer: &PeerName) -> bool {
            *of == channel() && path().contains(peer)
        }
    }

    fn path() -> Vec<PeerName> {
        ["a", "b", "c"].map(|name| PeerName::new(name).expect("a name")).into()
    }

    fn channel() -> ChannelId {
        ChannelId { source: path()[0].clone(), boot: 1, count: 1 }
    }

    fn peer(at: usize) -> (Peer, Surveys) {
        let rng = ChaCha20Rng::from_seed([u8::try_from(at).expect("few"); 32]);
        (Peer { at, version: hop::VERSION }, Surveys::new(rng))
    }

    fn sent(out: &mut Vec<Action>) -> Vec<(LinkId, Routed)> {
        let sent = out.drain(..).map(|action| {
            let Action::Send { link, message: Message::Routed(routed) } = action else {
                panic!("{action:?}")
            };
            (link, routed)
        });
        sent.collect()
    }

    fn hops(out: &[Action]) -> Vec<(String, bool)> {
        match out {
            [Action::Answer { id: RequestId(1), answer: Answer::Hops(hops) }] => {
                hops.iter().map(|hop| (hop.peer.to_string(), hop.facts.is_ok())).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn told(of: &[(&str, bool)]) -> Vec<(String, bool)> {
        of.iter().map(|(name, ok)| ((*name).to_owned(), *ok)).collect()
    }

    /// What `b` and `c` do with a question, until there is an answer for `a`.
    fn answer(question: Routed) -> Routed {
        let (b, mut surveys) = peer(1);
        let mut out = Vec::new();
        surveys.handle(&path()[0], question, &b, &mut out).expect("on its path");
        let [action] = &out[..] else { panic!("{out:?}") };
        let (at, question) = if let Action::ReadHop { question } = action {
            (1, (**question).clone())
        } else {
            let Action::Send { message: Message::Routed(passed), .. } = action else {
                panic!("{action:?}")
            };
            let (c, mut surveys) = peer(2);
            let mut out = Vec::new();
            surveys.handle(&path()[1], passed.clone(), &c, &mut out).expect("on its path");
            let [Action::ReadHop { question }] = &out[..] else { panic!("{out:?}") };
            (2, (**question).clone())
        };
        let (here, surveys) = peer(at);
        let mut out = Vec::new();
        surveys.read(&question, Some(HopFacts::default()), &here, &mut out);
        let mut answer = sent(&mut out).remove(0).1;
        // `b` passes it on as it is.
        answer.position = u8::try_from(at).expect("few");
        answer
    }

    #[test]
    fn every_peer_of_the_path_is_asked_and_answers_itself() {
        let ((a, mut surveys), mut out) = (peer(0), Vec::new());
        surveys.ask(Time(0), RequestId(1), &channel(), &path(), &a, &mut out);
        let questions = sent(&mut out);
        assert_eq!(questions.len(), 2);
        for (_, question) in questions {
            surveys.handle(&path()[1], answer(question), &a, &mut out).expect("on its path");
        }
        assert_eq!(hops(&out), told(&[("a", false), ("b", true), ("c", true)]));
        assert_eq!(surveys.poll_timeout(), None);
    }

    #[test]
    fn a_silent_peer_costs_its_own_answer_only_and_forged_ones_nothing() {
        let ((a, mut surveys), mut out) = (peer(0), Vec::new());
        surveys.ask(Time(0), RequestId(1), &channel(), &path(), &a, &mut out);
        let questions = sent(&mut out);
        let good = answer(questions[1].1.clone());
        let forged = Routed { id: good.id ^ 1, ..good.clone() };
        surveys.handle(&path()[1], forged, &a, &mut out).expect("on its path");
        surveys.handle(&path()[1], good.clone(), &a, &mut out).expect("on its path");
        surveys.handle(&path()[1], good, &a, &mut out).expect("on its path");
        assert_eq!(out, []);
        let (deadline, _) = surveys.poll_timeout().expect("it waits");
        surveys.handle_timeout(deadline, &mut out);
        assert_eq!(hops(&out), told(&[("a", false), ("b", false), ("c", true)]));
    }

    #[test]
    fn who_is_not_on_the_path_or_speaks_an_older_version_is_told_so() {
        let ((c, mut surveys), mut out) = (peer(2), Vec::new());
        let stranger = ChannelId { boot: 2, ..channel() };
        let ask = |body| Routed { id: 7, path: path(), position: 2, body };
        surveys.handle(&path()[1], ask(RoutedBody::AskHop(stranger)), &c, &mut out).expect("taken");
        let answers = sent(&mut out);
        assert!(
            matches!(&answers[0].1.body, RoutedBody::Unanswered(why) if why.contains("no such"))
        );

        let old = Peer { at: 0, version: hop::VERSION - 1 };
        surveys.ask(Time(0), RequestId(1), &channel(), &path(), &old, &mut out);
        assert_eq!(hops(&out), told(&[("a", false), ("b", false), ("c", false)]));
        let wrong = Routed { position: 1, ..ask(RoutedBody::AskHop(channel())) };
        assert!(surveys.handle(&path()[1], wrong, &c, &mut Vec::new()).is_err());
    }
}
