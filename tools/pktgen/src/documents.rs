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
use crate::peer::{GenReport, SinkReport};

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
    #[serde(rename = "gen_peer")]
    GenPeer(Box<GenReport>),
    #[serde(rename = "sink_peer")]
    SinkPeer(Box<SinkReport>),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::check::FlowTotals;
    use crate::latency::Latency;
    use crate::ndr::Load;
    use crate::search::{Found, Goal, Limit, Step};

    fn documents() -> [Document; 4] {
        let mut latency = Latency::new();
        latency.record(1, 2);
        let latency = latency.summary();
        let flows = vec![FlowTotals::default()];
        let collected = Collected {
            latency: latency.clone(),
            kernel_drops: Some(0),
            flows,
            ..Collected::default()
        };
        let step = Step { offered: Some(1.0), sink_drops: Some(0), latency, ..Step::default() };
        let goal = Goal { loss_percent: 0.0, p99_max_ns: 1 };
        [
            Document::Gen(GenDocument {
                version: VERSION,
                to: String::new(),
                trial: 1,
                rate_asked: String::new(),
                size: String::new(),
                flows: 1,
                burst: 1,
                gso: true,
                seed: 1,
                sent: Sent { gso_refused: Some(String::new()), ..Sent::default() },
                echo: Some(Answered::default()),
            }),
            Document::Sink(SinkDocument { version: VERSION, listen: String::new(), collected }),
            Document::Echo(EchoDocument {
                version: VERSION,
                listen: String::new(),
                echoed: Echoed::default(),
            }),
            Document::Ndr(Ndr {
                version: VERSION,
                to: String::new(),
                size: String::new(),
                mean_bytes: 1.0,
                flows: 1,
                burst: 1,
                gso: true,
                step_s: 1.0,
                found: vec![Found { goal, rate: Some(1.0), limit: Limit::Device }],
                loads: vec![Load { percent: 10, step: step.clone() }],
                steps: vec![step],
            }),
        ]
    }

    fn names(value: &Value, into: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    into.insert(name.clone());
                    names(value, into);
                }
            }
            Value::Array(values) => values.iter().for_each(|value| names(value, into)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_field_of_every_document_stands_in_the_readme() {
        let readme = include_str!("../README.md");
        let words: BTreeSet<&str> =
            readme.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect();
        for document in documents() {
            let mut fields = BTreeSet::new();
            names(&serde_json::to_value(document).expect("JSON"), &mut fields);
            for field in fields {
                assert!(words.contains(field.as_str()), "{field} is not in README.md");
            }
        }
    }

    #[test]
    fn what_is_printed_is_read_back() {
        for document in documents() {
            let text = serde_json::to_string(&document).expect("JSON");
            assert_eq!(serde_json::from_str::<Document>(&text).expect(&text), document);
        }
    }
}
