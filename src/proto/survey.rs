//! What every peer on a channel's path knows of it, asked from one of them (`spanway why`).
//!
//! Each peer is asked by its own question along the path of the channel, so that one that is silent does
//! not hide those behind it. Who is not on the path of a channel is told nothing of it. Like [`super::query`],
//! whose messages these are; what a peer knows is its daemon's to say ([`Action::ReadHop`]).

use std::collections::BTreeMap;

use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::query::{Here, pass_on, reply, way_to};
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
        let position = usize::from(routed.position);
        let expected = position.checked_sub(1).and_then(|before| routed.path.get(before));
        if routed.path.get(position) != Some(here.name()) || expected != Some(from) {
            return Err("a routed message that is not on its path");
        }
        let question = matches!(routed.body, RoutedBody::AskHop(_));
        match &routed.body {
            _ if position + 1 < routed.path.len() => pass_on(routed, question, here, out),
            RoutedBody::AskHop(channel) if here.is_on_path(channel, &routed.path[0]) => {
                out.push(Action::ReadHop { question: Box::new(routed) });
            }
            RoutedBody::AskHop(_) => unknown(&routed, here, out),
            _ => self.on_answer(routed, out),
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
        let facts = match routed.body {
            RoutedBody::Hop(facts) if routed.path.first() == Some(&survey.hops[at].peer) => {
                Ok(*facts)
            }
            // Any peer on the way may say that it goes no further.
            RoutedBody::Unanswered(why) => Err(why),
            _ => return,
        };
        survey.asked.remove(&routed.id);
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
