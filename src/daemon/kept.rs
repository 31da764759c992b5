//! Channels that are asked for again until somebody closes them here (`open --keep`, A27): after a restart
//! of the daemon, and after they ended for any other reason.
//!
//! ```text
//!  Due ─► Asked ─► Open          kept.json in the state folder: what was asked, nothing of what became
//!   ▲───────┴────────┘           of it; written before the answer is told, and when one is closed
//! ```
//!
//! [`Kept`] is told what happened and the time, and says what to ask; [`write`] has the file.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::api::dto::{self, FailureKind};
use crate::api::server::Answers;
use crate::daemon::runtime::Files;
use crate::limits;
use crate::types::{ChannelId, RequestId, Time};

/// Name of the file in the state folder.
pub(crate) const FILE: &str = "kept.json";

/// Why the file cannot be used. Nothing of it is lost: the daemon does not start.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}: it lists the channels to ask for again; mend it, or move it away")]
pub struct KeptError {
    path: String,
    why: String,
}

/// Writes what it is told until nobody can tell it anything more.
pub(crate) async fn write(files: Files, path: PathBuf, mut saves: UnboundedReceiver<Save>) {
    while let Some(Save { bytes, then }) = saves.recv().await {
        let written = files.write_atomic(&path, bytes).await;
        match (written, then) {
            (Ok(()), Some((answers, reply))) => answers.ok(&reply),
            (Ok(()), None) => {}
            (Err(error), then) => {
                let file = path.display();
                tracing::error!(%file, %error, "cannot write which channels are kept");
                if let Some((answers, reply)) = then {
                    let channel = reply.channel.unwrap_or_default();
                    let why = format!(
                        "{channel} is open, but will not outlive the daemon: {file}: {error}"
                    );
                    answers.failed(FailureKind::Failed, why);
                }
            }
        }
    }
}

/// All channels that are kept.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    entries: Vec<Entry>,
}

/// The file as it shall be from now on, and who waits until it is.
pub(crate) struct Save {
    pub(crate) bytes: Vec<u8>,
    pub(crate) then: Option<(Answers, dto::OpenReply)>,
}

#[derive(Debug)]
struct Entry {
    open: dto::Open,
    stage: Stage,
    /// Before the next time, should this one fail.
    wait: Duration,
    /// Of the last time.
    why: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Due(Time),
    Asked(RequestId),
    Open(ChannelId),
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    channels: Vec<dto::Open>,
}

impl Kept {
    /// What the file says, if there is one.
    pub(crate) async fn load(files: Files, path: &Path) -> Result<Self, KeptError> {
        match files.read(path, limits::KEPT_BYTES_MAX).await {
            Ok(bytes) => Self::parse(path, &bytes, Time::default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => {
                Err(KeptError { path: path.display().to_string(), why: error.to_string() })
            }
        }
    }

    /// All of it is due at once.
    fn parse(path: &Path, bytes: &[u8], now: Time) -> Result<Self, KeptError> {
        let wrong = |why: String| KeptError { path: path.display().to_string(), why };
        let content: Content =
            serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        let (many, most) = (content.channels.len(), limits::KEPT_MAX);
        if many > most {
            return Err(wrong(format!("{many} channels are too many: at most {most}")));
        }
        let entry = |open| Entry {
            open,
            stage: Stage::Due(now),
            wait: limits::KEPT_RETRY.0,
            why: "the daemon has just started".to_owned(),
        };
        Ok(Self { entries: content.channels.into_iter().map(entry).collect() })
    }

    /// What the file has to say.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let channels = self.entries.iter().map(|entry| entry.open.clone()).collect();
        serde_json::to_vec_pretty(&Content { channels }).expect("names and numbers")
    }

    /// One more, which is open. As many as there may be: an error.
    pub(crate) fn keep(&mut self, open: dto::Open, channel: ChannelId) {
        let (stage, wait) = (Stage::Open(channel), limits::KEPT_RETRY.0);
        self.entries.push(Entry { open, stage, wait, why: String::new() });
    }

    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= limits::KEPT_MAX
    }

    /// Somebody closes it here, by its id or its name. Whether it was kept.
    pub(crate) fn forget(&mut self, text: &str) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| {
            let named = entry.open.name.as_ref().is_some_and(|name| name.as_str() == text);
            let is = matches!(&entry.stage, Stage::Open(channel) if channel.to_string() == text);
            !(named || is)
        });
        self.entries.len() < before
    }

    /// What is to be asked for now, under these numbers.
    pub(crate) fn ask(
        &mut self,
        now: Time,
        mut id: impl FnMut() -> RequestId,
    ) -> Vec<(RequestId, dto::Open)> {
        let due = |entry: &&mut Entry| matches!(entry.stage, Stage::Due(at) if at <= now);
        let asked = self.entries.iter_mut().filter(due).map(|entry| {
            let id = id();
            entry.stage = Stage::Asked(id);
            (id, entry.open.clone())
        });
        asked.collect()
    }

    pub(crate) fn next(&self) -> Option<Time> {
        let due = |entry: &Entry| match entry.stage {
            Stage::Due(at) => Some(at),
            Stage::Asked(_) | Stage::Open(_) => None,
        };
        self.entries.iter().filter_map(due).min()
    }

    pub(crate) fn opened(&mut self, id: RequestId, channel: ChannelId) {
        if let Some(entry) = self.in_stage(&Stage::Asked(id)) {
            entry.stage = Stage::Open(channel);
            entry.wait = limits::KEPT_RETRY.0;
        }
    }

    pub(crate) fn refused(&mut self, now: Time, id: RequestId, why: &str) {
        if let Some(entry) = self.in_stage(&Stage::Asked(id)) {
            entry.stage = Stage::Due(now + entry.wait);
            entry.wait = (entry.wait * 2).min(limits::KEPT_RETRY.1);
            why.clone_into(&mut entry.why);
        }
    }

    pub(crate) fn ended(&mut self, now: Time, channel: &ChannelId, why: &str) {
        if let Some(entry) = self.in_stage(&Stage::Open(channel.clone())) {
            entry.stage = Stage::Due(now + entry.wait);
            why.clone_into(&mut entry.why);
        }
    }

    /// Those that are not open, in words.
    pub(crate) fn missing(&self) -> impl Iterator<Item = String> {
        let open = |entry: &&Entry| matches!(entry.stage, Stage::Open(_));
        self.entries.iter().filter(move |entry| !open(entry)).map(|entry| {
            let dto::Open { peer, service, name, .. } = &entry.open;
            let name = name.as_ref().map_or("a kept channel", |name| name.as_str());
            format!("{name} to {peer}/{service} is asked for again and again: {}", entry.why)
        })
    }

    fn in_stage(&mut self, stage: &Stage) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.stage == *stage)
    }
}
