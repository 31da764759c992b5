//! Requests for channels that stand in line: the web API stays their asker until the final answer, and
//! keeps the last answers to be fetched.
//!
//! The page that asked may be closed; who wants the place back says `DELETE /api/queue/{id}`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::ask::{Lines, shape};
use crate::api::dto::{OpenReply, QueueRow};
use crate::limits;

/// Final answers, the latest last.
#[derive(Debug, Default)]
pub(super) struct Requests {
    answers: Mutex<VecDeque<(String, OpenReply)>>,
}

/// What became of a request so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct RequestReply {
    /// `queued` or `answered`.
    state: String,
    /// Its place in line.
    queue: Option<QueueRow>,
    answer: Option<OpenReply>,
}

impl RequestReply {
    pub(super) fn queued(row: QueueRow) -> Self {
        Self { state: "queued".to_owned(), queue: Some(row), answer: None }
    }

    pub(super) fn answered(answer: OpenReply) -> Self {
        Self { state: "answered".to_owned(), queue: None, answer: Some(answer) }
    }
}

impl Requests {
    pub(super) fn answer(&self, id: &str) -> Option<OpenReply> {
        let answers = self.lock();
        answers.iter().rev().find(|(of, _)| of == id).map(|(_, answer)| answer.clone())
    }

    fn keep(&self, id: String, answer: OpenReply) {
        let mut answers = self.lock();
        if answers.len() >= limits::HTTP_ANSWERS_MAX {
            answers.pop_front();
        }
        answers.push_back((id, answer));
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(String, OpenReply)>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the final answer, whoever has gone meanwhile.
pub(super) fn wait(app: &Arc<App>, id: String, mut lines: Lines) {
    let app = Arc::clone(app);
    tokio::spawn(async move {
        // Without an answer the daemon has stopped, and this ends with it.
        if let Ok(Some(line)) = lines.next().await
            && let Ok(answer) = shape(&line)
        {
            app.requests.keep(id, answer);
        }
    });
}
