//! How a channel is to recover: the ways that are compared, and whether the daemon at hand knows them.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::world::{Folder, knows};
use crate::perf::failure::{Failure, Outcome};
use crate::perf::net::run;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Variant {
    /// Each channel by itself: what Spanway does unless told otherwise.
    Channels,
    /// The same with a second path that is installed already.
    Protect,
    /// All is torn down and computed again.
    Everything,
}

impl Variant {
    pub(crate) const ALL: [Self; 3] = [Self::Channels, Self::Protect, Self::Everything];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Channels => "channels",
            Self::Protect => "protect",
            Self::Everything => "everything",
        }
    }

    /// For the configuration of every peer.
    pub(crate) fn section(self) -> &'static str {
        match self {
            Self::Channels | Self::Protect => "",
            Self::Everything => "\n[recovery]\nmode = \"everything\"\n",
        }
    }

    /// For `spanway open`.
    pub(crate) fn options(self) -> &'static [&'static str] {
        match self {
            Self::Channels | Self::Everything => &[],
            Self::Protect => &["--protect"],
        }
    }

    /// Whether this daemon can do it.
    pub(crate) fn is_known(self, spanway: &Path) -> Outcome<bool> {
        match self {
            Self::Channels => Ok(true),
            Self::Protect => Ok(knows(spanway, "open", "--protect")),
            Self::Everything => {
                let own = format!("spanway-recovery-{}-check", std::process::id());
                let folder = Folder::new(std::env::temp_dir().join(own))?;
                let file = folder.0.join("p.toml");
                let program = spanway.display().to_string();
                run(&[&program, "key", "--new", &folder.0.join("p.key").display().to_string()])?;
                let text = format!("name = \"p\"\nlisten = \"127.0.0.1:7000\"\n{}", self.section());
                fs::write(&file, text).map_err(Failure::of(file.display()))?;
                let file = file.display().to_string();
                Ok(run(&[&program, "config", "check", "--config", &file]).is_ok())
            }
        }
    }
}
