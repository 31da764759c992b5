//! Requests for a channel that are asked again under the same idempotency key get the same answer, and one
//! reservation.
//!
//! ```text
//!  new ─► waiting ─► answered ─► forgotten        a key is known for [`limits::IDEMPOTENCY_KEPT`] after its
//!                                                 answer, in the memory of this daemon only
//! ```
//!
//! What was refused before anybody was asked (a wrong value, a local port in use) is not an answer: the
//! next request under the key is tried.

use std::collections::BTreeMap;

use crate::api::dto;
use crate::api::server::Answers;
use crate::limits;
use crate::types::{Reject, Time};

/// The keys of a daemon.
#[derive(Debug, Default)]
pub(crate) struct Idempotency {
    keys: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    asked: dto::Open,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Clients besides the first.
    Waiting(Vec<(u64, Answers)>),
    Answered(Time, Box<dto::OpenReply>),
}

/// What a request under a key is.
#[derive(Debug)]
pub(crate) enum Seen {
    /// The first one, or there is no key: ask, with these answers.
    New(Answers),
    /// Asked before: its answer comes, or came, to this client too.
    Again,
    /// It cannot be taken, in words.
    Wrong(Answers, dto::Failure),
}

impl Idempotency {
    /// `client` asks `open`.
    pub(crate) fn look(
        &mut self,
        now: Time,
        client: u64,
        open: &dto::Open,
        answers: Answers,
    ) -> Seen {
        let Some(key) = &open.idempotency_key else { return Seen::New(answers) };
        if let Err(why) = check(key) {
            return Seen::Wrong(answers, wrong(why));
        }
        self.forget(now);
        let Some(entry) = self.keys.get_mut(key) else {
            let most = limits::IDEMPOTENCY_KEYS_MAX;
            if self.keys.len() < most {
                return Seen::New(answers);
            }
            let why = format!(
                "{most} idempotency keys are known already: ask without, or in a few minutes"
            );
            return Seen::Wrong(answers, busy(why));
        };
        if entry.asked != *open {
            let why = format!("idempotency key {key} was used for another request: take a new one");
            return Seen::Wrong(answers, wrong(why));
        }
        match &mut entry.stage {
            Stage::Answered(_, reply) => answers.ok(&**reply),
            Stage::Waiting(clients) if clients.len() >= limits::IDEMPOTENCY_CLIENTS_MAX => {
                let why = format!("{} clients wait for idempotency key {key}", clients.len());
                return Seen::Wrong(answers, busy(why));
            }
            Stage::Waiting(clients) => clients.push((client, answers)),
        }
        Seen::Again
    }

    /// A new one was asked of the overlay.
    pub(crate) fn asked(&mut self, open: &dto::Open) {
        if let Some(key) = &open.idempotency_key {
            let entry = Entry { asked: open.clone(), stage: Stage::Waiting(Vec::new()) };
            self.keys.insert(key.clone(), entry);
        }
    }

    /// The one answer: who waits for it besides the first client.
    pub(crate) fn answered(
        &mut self,
        now: Time,
        key: Option<&str>,
        reply: &dto::OpenReply,
    ) -> Vec<Answers> {
        let Some(entry) = key.and_then(|key| self.keys.get_mut(key)) else { return Vec::new() };
        let answered = Stage::Answered(now, Box::new(reply.clone()));
        match std::mem::replace(&mut entry.stage, answered) {
            Stage::Waiting(clients) => clients.into_iter().map(|(_, answers)| answers).collect(),
            Stage::Answered(..) => Vec::new(),
        }
    }

    /// Clients that wait for the answer besides the first.
    pub(crate) fn waiting(&self, key: Option<&str>) -> impl Iterator<Item = &(u64, Answers)> {
        let entry = key.and_then(|key| self.keys.get(key));
        let clients = entry.map(|entry| match &entry.stage {
            Stage::Waiting(clients) => clients.as_slice(),
            Stage::Answered(..) => &[],
        });
        clients.unwrap_or_default().iter()
    }

    /// This client went away.
    pub(crate) fn gone(&mut self, client: u64) {
        for entry in self.keys.values_mut() {
            if let Stage::Waiting(clients) = &mut entry.stage {
                clients.retain(|(waiting, _)| *waiting != client);
            }
        }
    }

    fn forget(&mut self, now: Time) {
        self.keys.retain(|_, entry| match entry.stage {
            Stage::Answered(at, _) => now < at + limits::IDEMPOTENCY_KEPT,
            Stage::Waiting(_) => true,
        });
    }
}

fn check(key: &str) -> Result<(), String> {
    let most = limits::IDEMPOTENCY_KEY_BYTES_MAX;
    if key.is_empty() || key.len() > most || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "an idempotency key is 1 to {most} visible ASCII characters, as a UUID is"
        ));
    }
    Ok(())
}

fn wrong(message: String) -> dto::Failure {
    dto::Failure { kind: dto::FailureKind::Usage, message, reason: None }
}

fn busy(message: String) -> dto::Failure {
    dto::Failure { kind: dto::FailureKind::Failed, message, reason: Some(Reject::Busy) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn open(key: &str, service: &str) -> dto::Open {
        let text = format!(
            r#"{{"peer":"b","service":"{service}","bandwidth_bps":5000000,"bandwidth_back_bps":null,
               "name":null,"listen":null,"deliver":null,"from":null,"deadline_ms":5000,
               "idempotency_key":"{key}"}}"#
        );
        serde_json::from_str(&text).expect("a request")
    }

    fn reply(channel: &str) -> dto::OpenReply {
        let text = format!(
            r#"{{"outcome":"open","reason":null,"detail":"","channel":"{channel}","path":[],
               "width_bps":1,"max_payload_bytes":1,"listen":null,"payload_1316_bps":1,
               "payload_200_bps":1,"refused":[],"waited_ms":null,"limit":null}}"#
        );
        serde_json::from_str(&text).expect("a reply")
    }

    /// Asks; the lines that this client has afterwards, or why it was refused.
    fn look(keys: &mut Idempotency, now: Time, client: u64, open: &dto::Open) -> Asked {
        let (answers, lines) = Answers::of_test();
        match keys.look(now, client, open, answers) {
            Seen::New(answers) => {
                keys.asked(open);
                drop(answers);
                Asked::New
            }
            Seen::Again => Asked::Again(Box::new(lines)),
            Seen::Wrong(_, failure) => Asked::Wrong(failure.message),
        }
    }

    enum Asked {
        New,
        Again(Box<dyn Fn() -> Vec<String>>),
        Wrong(String),
    }

    #[test]
    fn a_request_under_a_known_key_gets_the_answer_of_the_first_before_and_after_it_came() {
        let mut keys = Idempotency::default();
        let (now, asked) = (Time::default(), open("k", "video"));
        assert!(matches!(look(&mut keys, now, 1, &asked), Asked::New));
        let Asked::Again(second) = look(&mut keys, now, 2, &asked) else { panic!("a repeat") };
        let Asked::Again(third) = look(&mut keys, now, 3, &asked) else { panic!("a repeat") };
        assert_eq!(second().len(), 0);
        keys.gone(3);
        let told = keys.answered(now, Some("k"), &reply("a:1:1"));
        told.iter().for_each(|answers| answers.ok(&reply("a:1:1")));
        assert_eq!((told.len(), second().len(), third().len()), (1, 1, 0));
        let Asked::Again(late) = look(&mut keys, now, 4, &asked) else { panic!("a repeat") };
        assert_eq!(late(), second());

        let end = now + limits::IDEMPOTENCY_KEPT;
        let before = Time(end.0 - 1);
        assert!(matches!(look(&mut keys, before, 5, &asked), Asked::Again(_)));
        assert!(matches!(look(&mut keys, end, 6, &asked), Asked::New));
    }

    #[test]
    fn a_key_of_another_request_or_that_is_none_is_refused_in_words() {
        let mut keys = Idempotency::default();
        let now = Time::default();
        assert!(matches!(look(&mut keys, now, 1, &open("k", "video")), Asked::New));
        let long = "x".repeat(limits::IDEMPOTENCY_KEY_BYTES_MAX + 1);
        for (key, service, words) in [
            ("k", "audio", "another request"),
            ("", "video", "1 to 128"),
            ("a b", "video", "1 to 128"),
            (&long, "video", "1 to 128"),
        ] {
            match look(&mut keys, now, 2, &open(key, service)) {
                Asked::Wrong(why) => assert!(why.contains(words), "{why}"),
                Asked::New | Asked::Again(_) => panic!("{key} was taken"),
            }
        }
    }

    #[test]
    fn keys_and_the_clients_of_each_are_bounded_and_room_comes_with_time() {
        let mut keys = Idempotency::default();
        let (now, later) = (Time::default(), Time::default() + Duration::from_secs(601));
        for number in 0..limits::IDEMPOTENCY_KEYS_MAX {
            let asked = open(&number.to_string(), "video");
            assert!(matches!(look(&mut keys, now, 1, &asked), Asked::New));
        }
        let more = open("more", "video");
        assert!(matches!(look(&mut keys, now, 1, &more), Asked::Wrong(_)));
        for client in 0..limits::IDEMPOTENCY_CLIENTS_MAX as u64 {
            assert!(matches!(look(&mut keys, now, client, &open("7", "video")), Asked::Again(_)));
        }
        assert!(matches!(look(&mut keys, now, 99, &open("7", "video")), Asked::Wrong(_)));
        keys.answered(now, Some("3"), &reply("a:1:1"));
        assert!(matches!(look(&mut keys, later, 1, &more), Asked::New));
    }
}
