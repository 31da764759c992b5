//! Channels that are asked for again until somebody closes them here (`open --keep`, A27): after a restart
//! of the daemon, and after they ended for any other reason.
//!
//! ```text
//!  Due ─► Asked ─► Open          kept.json in the state folder: what was asked, nothing of what became
//!   ▲───────┴────────┘           of it; written before the answer is told, and when one is closed
//! ```
//!
//! [`Kept`] is told what happened and the time, and says what to ask; [`write()`] has the file.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::api::dto::{self, FailureKind};
use crate::api::server::Answers;
use crate::daemon::runtime::Files;
use crate::limits;
use crate::types::{ChannelId, PeerName, RequestId, ServiceName, Time};

/// Name of the file in the state folder.
pub(crate) const FILE: &str = "kept.json";

/// Writes what it is told until nobody can tell it anything more.
pub(crate) async fn write(files: Files, path: PathBuf, mut saves: UnboundedReceiver<Save>) {
    while let Some(Save { mut bytes, then }) = saves.recv().await {
        let mut told = vec![then];
        while let Ok(newer) = saves.try_recv() {
            bytes = newer.bytes;
            told.push(newer.then);
        }
        let written = files.write_atomic(&path, bytes).await;
        let why = written.err().map(|error| {
            let file = path.display();
            tracing::error!(%file, %error, "cannot write which channels are kept");
            format!("{file}: {error}")
        });
        for then in told {
            then.tell(why.as_deref());
        }
    }
}

/// Who waits until the disk has it.
pub(crate) enum Then {
    Opened(Vec<Answers>, Box<dto::OpenReply>),
    Closed(Answers),
}

impl Then {
    fn tell(self, why: Option<&str>) {
        match (self, why) {
            (Self::Opened(all, reply), None) => all.iter().for_each(|answers| answers.ok(&reply)),
            (Self::Opened(all, reply), Some(why)) => {
                all.iter().for_each(|answers| not_kept(answers, &reply, why));
            }
            (Self::Closed(answers), None) => answers.ok(&()),
            (Self::Closed(answers), Some(why)) => {
                let text = format!("it is closed, but a restart asks for it again: {why}");
                answers.failed(FailureKind::Failed, text);
            }
        }
    }
}

/// It is open, but will not be asked for again.
pub(crate) fn not_kept(answers: &Answers, reply: &dto::OpenReply, why: &str) {
    let channel = reply.channel.as_deref().unwrap_or_default();
    let text = format!("channel {channel} is open, but will not outlive the daemon: {why}");
    answers.failed(FailureKind::Failed, text);
}

/// All channels that are kept.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    entries: Vec<Entry>,
}

/// The file as it shall be from now on.
pub(crate) struct Save {
    pub(crate) bytes: Vec<u8>,
    pub(crate) then: Then,
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

impl Entry {
    fn channel(&self) -> Option<&ChannelId> {
        match &self.stage {
            Stage::Open(channel) => Some(channel),
            Stage::Due(_) | Stage::Asked(_) => None,
        }
    }

    fn is_open(&self) -> bool {
        self.channel().is_some()
    }
}

impl Kept {
    /// What the file says, if there is one; otherwise why it cannot be used.
    pub(crate) async fn load(files: Files, path: &Path) -> Result<Self, String> {
        match files.read(path, limits::KEPT_BYTES_MAX).await {
            Ok(bytes) => Self::parse(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// All of it is due at once.
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let content: Content = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let (many, most) = (content.channels.len(), limits::KEPT_MAX);
        if many > most {
            return Err(format!("{many} channels are too many: at most {most}"));
        }
        let entry = |open| Entry {
            open,
            stage: Stage::Due(Time::default()),
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

    /// One more, which is open: it takes the place of one of its name that is not. An error if there are
    /// as many as there may be.
    pub(crate) fn keep(&mut self, open: dto::Open, channel: ChannelId) -> Result<(), String> {
        self.entries.retain(|entry| entry.is_open() || entry.open.name != open.name);
        let most = limits::KEPT_MAX;
        if self.entries.len() >= most {
            return Err(format!("{most} channels are kept already, and no more may be"));
        }
        let deadline_ms = limits::KEPT_DEADLINE_MS;
        let open = dto::Open { wait: true, deadline_ms, idempotency_key: None, ..open };
        let (stage, wait) = (Stage::Open(channel), limits::KEPT_RETRY.0);
        self.entries.push(Entry { open, stage, wait, why: String::new() });
        Ok(())
    }

    /// Somebody closes it here. Whether it was kept.
    pub(crate) fn forget(&mut self, channel: &ChannelId) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.channel() != Some(channel));
        self.entries.len() < before
    }

    /// The same for those of this name that are not open.
    pub(crate) fn forget_named(&mut self, name: &str) -> bool {
        let before = self.entries.len();
        let is = |entry: &Entry| entry.open.name.as_ref().is_some_and(|own| own.as_str() == name);
        self.entries.retain(|entry| entry.is_open() || !is(entry));
        self.entries.len() < before
    }

    /// The same for one that is being asked for, if there is any.
    pub(crate) fn forget_asked(
        &mut self,
        of: impl FnOnce() -> Option<(PeerName, ServiceName)>,
    ) -> bool {
        let is_asked = |entry: &Entry| matches!(entry.stage, Stage::Asked(_));
        let Some((peer, name)) = self.entries.iter().any(is_asked).then(of).flatten() else {
            return false;
        };
        let before = self.entries.len();
        let is = |entry: &Entry| entry.open.peer == peer && entry.open.name.as_ref() == Some(&name);
        self.entries.retain(|entry| !(is_asked(entry) && is(entry)));
        self.entries.len() < before
    }

    /// Those that are open.
    pub(crate) fn open(&self) -> BTreeSet<&ChannelId> {
        self.entries.iter().filter_map(Entry::channel).collect()
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
        self.entries.iter().filter(|entry| !entry.is_open()).map(|entry| {
            let dto::Open { peer, service, name, .. } = &entry.open;
            let name = name.as_ref().map_or("-", |name| name.as_str());
            format!(
                "kept channel {name} to {peer}/{service} is asked for until it is open or closed: {}",
                entry.why
            )
        })
    }

    fn in_stage(&mut self, stage: &Stage) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.stage == *stage)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    use rand_chacha::ChaCha8Rng;
    use rand_core::{Rng as _, SeedableRng as _};

    use super::*;
    use crate::daemon::runtime::Runtime;
    use crate::types::Bandwidth;

    fn open(name: &str) -> dto::Open {
        let text = format!(
            r#"{{"peer":"b","service":"video","bandwidth_bps":5000000,"bandwidth_back_bps":null,
               "name":"{name}","listen":null,"deliver":null,"from":null,"deadline_ms":5000}}"#
        );
        serde_json::from_str(&text).expect("a request")
    }

    fn channel(number: u64) -> ChannelId {
        format!("a:00000000000000{number:02x}:1").parse().expect("an id")
    }

    fn at(seconds: u64) -> Time {
        Time::default() + Duration::from_secs(seconds)
    }

    fn asked(kept: &mut Kept, now: Time) -> Vec<u64> {
        let mut number = 100;
        let mut id = || {
            number += 1;
            RequestId(number)
        };
        kept.ask(now, &mut id).into_iter().map(|(id, _)| id.0).collect()
    }

    #[test]
    fn a27_what_is_kept_is_due_after_a_restart_and_whenever_it_ended_but_not_once_closed() {
        let mut before = Kept::default();
        before.keep(open("one"), channel(1)).expect("room");
        before.keep(open("two"), channel(2)).expect("room");
        assert!(before.forget(&channel(2)) && !before.forget(&channel(2)));

        let mut kept = Kept::parse(&before.bytes()).expect("what was written");
        assert_eq!(asked(&mut kept, at(0)), [101]);
        assert_eq!((asked(&mut kept, at(0)).len(), kept.next()), (0, None));
        // No room: again after one second, then two.
        kept.refused(at(60), RequestId(101), "no room");
        assert_eq!(kept.next(), Some(at(61)));
        assert!(kept.missing().next().is_some_and(|text| text.contains("one to b/video")));
        assert_eq!(asked(&mut kept, at(61)), [101]);
        kept.refused(at(61), RequestId(101), "no room");
        assert_eq!(asked(&mut kept, at(62)), [0; 0]);
        assert_eq!(asked(&mut kept, at(63)), [101]);
        kept.opened(RequestId(101), channel(3));
        assert_eq!((kept.next(), kept.missing().count()), (None, 0));
        // The far end closed it, and the waits begin anew.
        kept.ended(at(70), &channel(3), "closed by b");
        assert_eq!(kept.next(), Some(at(71)));
        assert!(!kept.forget_named("two") && kept.forget_named("one"));
        assert_eq!(
            (kept.next(), Kept::parse(&kept.bytes()).expect("empty").entries.len()),
            (None, 0)
        );
    }

    #[test]
    fn what_is_kept_waits_for_room_has_no_key_and_is_no_more_than_may_be() {
        let mut kept = Kept::default();
        let keyed = dto::Open { idempotency_key: Some("k".to_owned()), ..open("one") };
        kept.keep(keyed, channel(1)).expect("room");
        kept.ended(at(0), &channel(1), "gone");
        kept.keep(open("one"), channel(2)).expect("it takes the place of the other");
        let text = String::from_utf8(kept.bytes()).expect("JSON");
        assert_eq!(text.matches("\"peer\"").count(), 1, "{text}");
        assert!(text.contains("\"wait\": true") && !text.contains("idempotency"), "{text}");
        for number in 1..limits::KEPT_MAX {
            kept.keep(open(&format!("n{number}")), channel(3)).expect("room");
        }
        assert!(kept.keep(open("more"), channel(4)).is_err());
        assert_eq!(Kept::parse(&kept.bytes()).map(|kept| kept.entries.len()), Ok(limits::KEPT_MAX));
    }

    #[test]
    fn the_largest_file_of_kept_channels_can_be_read_again() {
        let name = |at: usize| {
            let text = format!("{at:0>63}");
            (PeerName::new(&text).expect("a name"), ServiceName::new(&text).expect("a name"))
        };
        let path = (0..limits::PATH_PEERS_MAX).map(|at| name(at).0).collect();
        let avoid = (0..limits::AVOID_MAX).map(|at| name(at).0).collect();
        let (peer, service) = name(0);
        let bandwidth_bps = Bandwidth::MAX;
        let path = dto::PathChoice::Given(path);
        let longest = dto::Open { peer, service, bandwidth_bps, path, avoid, ..open("x") };
        let bytes = serde_json::to_vec_pretty(&longest).expect("JSON").len();
        // Two levels of indentation more in the file, for each line.
        let lines = limits::PATH_PEERS_MAX + limits::AVOID_MAX + 20;
        assert!((bytes + 4 * lines) * limits::KEPT_MAX < limits::KEPT_BYTES_MAX, "{bytes}");
    }

    #[test]
    fn a_file_that_is_none_is_refused_in_words() {
        for (text, words) in [
            ("", "EOF"),
            ("{\"channels\":[{\"peer\":\"b\"}]}", "service"),
            ("{\"channels\":[],\"more\":1}", "more"),
        ] {
            let why = Kept::parse(text.as_bytes()).map(|_| ()).expect_err(text);
            assert!(why.contains(words), "{why}");
        }
    }

    // --- kill -9 at any moment ---

    const WRITER: &str = "daemon::kept::tests::writes_until_it_is_killed";
    const FOLDER: &str = "SPANWAY_TEST_KEPT";

    /// The two contents: of different lengths, and more than one page.
    fn contents() -> [Vec<u8>; 2] {
        [7, 40].map(|many| {
            let mut kept = Kept::default();
            for number in 0..many {
                kept.keep(open(&format!("n{number}")), channel(1)).expect("room");
            }
            kept.bytes()
        })
    }

    #[test]
    #[ignore = "the process that the next test kills"]
    fn writes_until_it_is_killed() {
        let Some(folder) = std::env::var_os(FOLDER) else { return };
        let runtime = Runtime::start(std::env::var_os("SPANWAY_TEST_PLAIN").is_none());
        let runtime = runtime.expect("a runtime");
        let files = runtime.files();
        runtime.block_on(async {
            loop {
                for bytes in contents() {
                    let path = Path::new(&folder).join(FILE);
                    files.write_atomic(&path, bytes).await.expect("written");
                    io::Write::write_all(&mut io::stdout(), b"+\n").expect("told");
                }
            }
        });
    }

    #[expect(clippy::disallowed_methods, reason = "a moment in the life of another process")]
    fn pause(time: Duration) {
        std::thread::sleep(time);
    }

    #[test]
    fn a27_kill_9_at_1000_random_points_leaves_the_old_or_the_new_file() {
        let mut random = ChaCha8Rng::seed_from_u64(27);
        let contents = contents();
        let mut seen = [0, 0];
        for round in 0..1_000 {
            let folder = tempfile::tempdir().expect("a scratch folder");
            let mut command = Command::new(std::env::current_exe().expect("this test"));
            command.args(["--exact", WRITER, "--ignored", "--nocapture"]);
            command.env(FOLDER, folder.path()).stdout(Stdio::piped()).stderr(Stdio::null());
            if round % 2 == 0 {
                command.env("SPANWAY_TEST_PLAIN", "1");
            }
            let mut writer = command.spawn().expect("started");
            let told = BufReader::new(writer.stdout.take().expect("piped"));
            let first = told.lines().map_while(Result::ok).find(|line| line.ends_with('+'));
            assert!(first.is_some(), "round {round}: nothing was written");
            pause(Duration::from_micros(u64::from(random.next_u32() % 4_000)));
            writer.kill().expect("it runs");
            writer.wait().expect("it ended");
            let bytes = std::fs::read(folder.path().join(FILE)).expect("there is a file");
            let which = contents.iter().position(|content| *content == bytes);
            seen[which.unwrap_or_else(|| panic!("round {round}: {} bytes", bytes.len()))] += 1;
            Kept::parse(&bytes).expect("the daemon starts on it");
        }
        assert!(seen.iter().all(|&count| count > 50), "{seen:?}");
    }
}
