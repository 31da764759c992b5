//! The JSON that commands print with `--json` and `report` reads: one object with `kind` and `version`.
//!
//! Fields may be added within a version; none changes its meaning or goes. Times are nanoseconds where a
//! name ends in `_ns`, seconds where it ends in `_s`; rates are per second; bytes and bits are of UDP
//! payload.

use serde::{Deserialize, Serialize};

use crate::collect::Collected;
use crate::echo::{Answered, Echoed};
use crate::generate::Sent;
use crate::ndr::Ndr;

/// Of all documents.
pub const VERSION: u32 = 1;

/// Anything a command prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Document {
    Gen(GenDocument),
    Sink(SinkDocument),
    Echo(EchoDocument),
    Ndr(Ndr),
}

/// `gen --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenDocument {
    pub version: u32,
    pub to: String,
    pub trial: u32,
    pub rate_asked: String,
    pub size: String,
    pub flows: u16,
    pub burst: usize,
    pub gso: bool,
    pub seed: u64,
    #[serde(flatten)]
    pub sent: Sent,
    /// With `--expect-echo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub echo: Option<Answered>,
}

/// `sink --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SinkDocument {
    pub version: u32,
    pub listen: String,
    #[serde(flatten)]
    pub collected: Collected,
}

/// `echo --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EchoDocument {
    pub version: u32,
    pub listen: String,
    #[serde(flatten)]
    pub echoed: Echoed,
}
