//! Every key of a configuration with the value that holds, and whether the file says so or nobody:
//! `spanway config check --show`.
//!
//! Values are as a file has them. Reads nothing: the text is what the configuration came from.

use serde::Serialize;
use serde_json::{Value, json};
use toml::Table;

use super::{ApiSection, Config, Link, Service, ServiceAddress, Trusted};
use crate::engine::BackendChoice;
use crate::proto::Recovery;
use crate::proto::policy::Rule;

/// One key. Those of links and services have the neighbour's or the service's name in the middle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    pub key: String,
    /// `null` where nothing is set and nothing is the default.
    pub value: Value,
    pub from: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    File,
    Default,
}

impl Origin {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Default => "default",
        }
    }
}

/// All keys, in the order of the commented template.
pub fn settings(config: &Config, text: &str) -> Vec<Setting> {
    // It was parsed before: a file that has changed meanwhile may be no TOML any more.
    let file: Table = text.parse().unwrap_or_default();
    let mut all = Settings::default();
    let root = Some(&file);
    all.push(root, "", "name", json!(config.name));
    all.push(root, "", "listen", json!(config.listen));
    all.push(root, "", "state_dir", json!(config.state_dir.to_string_lossy()));
    all.push(root, "", "key_file", json!(config.key_file.to_string_lossy()));
    for of in &config.links {
        all.link(&file, of);
    }
    for of in &config.services {
        all.service(&file, of);
    }
    for (number, rule) in config.allow.iter().enumerate() {
        all.rule(&file, number, rule);
    }
    all.sections(&file, config);
    all.0
}

#[derive(Default)]
struct Settings(Vec<Setting>);

impl Settings {
    fn push(&mut self, table: Option<&Table>, prefix: &str, key: &str, value: Value) {
        let written = table.is_some_and(|table| table.contains_key(key));
        let from = if written { Origin::File } else { Origin::Default };
        self.0.push(Setting { key: format!("{prefix}{key}"), value, from });
    }

    fn link(&mut self, file: &Table, link: &Link) {
        let links = file.get("link").and_then(toml::Value::as_array).into_iter().flatten();
        let mut tables = links.filter_map(toml::Value::as_table);
        let peer = |table: &&Table| {
            table.get("peer").and_then(toml::Value::as_str) == Some(link.peer.as_str())
        };
        let table = tables.find(peer);
        let prefix = format!("link.{}.", link.peer);
        self.push(table, &prefix, "peer", json!(link.peer));
        self.push(table, &prefix, "address", json!(link.address));
        self.push(table, &prefix, "capacity", json!(link.capacity.to_string()));
        self.push(table, &prefix, "key", json!(link.key.to_string()));
        self.push(table, &prefix, "mtu", json!(link.mtu));
        self.push(table, &prefix, "hop_tag", json!(link.hop_tag));
    }

    fn service(&mut self, file: &Table, service: &Service) {
        let table = section(file, "service").and_then(|all| section(all, service.name.as_str()));
        let prefix = format!("service.{}.", service.name);
        let (deliver, listen) = match service.kind {
            ServiceAddress::Deliver(address) => (Some(address), None),
            ServiceAddress::Listen(address) => (None, Some(address)),
            ServiceAddress::Receive => (None, None),
        };
        let from = service.from.map(|(address, bits)| format!("{address}/{bits}"));
        self.push(table, &prefix, "deliver", json!(deliver));
        self.push(table, &prefix, "listen", json!(listen));
        self.push(table, &prefix, "from", json!(from));
        self.push(table, &prefix, "shape", json!(service.shape));
        self.push(table, &prefix, "plain", json!(service.plain));
    }

    fn rule(&mut self, file: &Table, number: usize, rule: &Rule) {
        let rules = file.get("allow").and_then(toml::Value::as_array);
        let table = rules.and_then(|rules| rules.get(number)?.as_table());
        let prefix = format!("allow.{}.", number + 1);
        let texts = |all: Vec<String>| json!(all);
        let rate = |rate: Option<crate::types::Bandwidth>| json!(rate.map(|r| r.to_string()));
        for (key, value) in [
            ("peers", texts(rule.peers.iter().map(ToString::to_string).collect())),
            ("to", texts(rule.to.iter().map(ToString::to_string).collect())),
            ("through", json!(rule.through)),
            ("rate", rate(rule.rate)),
            ("total", rate(rule.total)),
            ("channels", json!(rule.channels)),
            ("requests", json!(rule.requests)),
            ("everybody", rate(rule.everybody)),
        ] {
            self.push(table, &prefix, key, value);
        }
    }

    fn sections(&mut self, file: &Table, config: &Config) {
        let Config { engine, host, control, .. } = config;
        let backend = match engine.backend {
            BackendChoice::Auto => "auto",
            BackendChoice::Uring => "uring",
            BackendChoice::Mmsg => "mmsg",
        };
        let mode = match config.recovery {
            Recovery::Channels => "channels",
            Recovery::Everything => "everything",
        };
        let rate = |rate: Option<crate::types::Bandwidth>| rate.map(|rate| rate.to_string());
        let trusted: Vec<Value> = config.trust.peers.iter().map(trusted).collect();
        for (name, keys) in [
            (
                "engine",
                vec![
                    ("cpus", json!(engine.cpus)),
                    ("backend", json!(backend)),
                    ("dscp", json!(engine.dscp.number())),
                    ("latency", json!(engine.latency)),
                    ("hop_tag", json!(engine.hop_tag)),
                ],
            ),
            (
                "host",
                vec![("egress", json!(rate(host.egress))), ("ingress", json!(rate(host.ingress)))],
            ),
            (
                "control",
                vec![
                    ("heartbeat", json!(format!("{:?}", control.heartbeat))),
                    ("heartbeats_missed", json!(control.heartbeats_missed)),
                    ("cpus", json!(control.cpus)),
                    ("dscp", json!(control.dscp.number())),
                ],
            ),
            ("recovery", vec![("mode", json!(mode))]),
            ("api", config.api.as_ref().map(api).unwrap_or_default()),
            ("security", vec![("seccomp", json!(config.seccomp))]),
            (
                "trust",
                vec![
                    ("peers", json!(trusted)),
                    ("capacity", json!(config.trust.capacity.to_string())),
                ],
            ),
        ] {
            let (table, prefix) = (section(file, name), format!("{name}."));
            for (key, value) in keys {
                self.push(table, &prefix, key, value);
            }
        }
    }
}

fn trusted(of: &Trusted) -> Value {
    match (&of.name, of.capacity) {
        (None, None) => json!(of.key.to_string()),
        (name, capacity) => {
            let mut table = serde_json::Map::new();
            table.insert("key".to_owned(), json!(of.key.to_string()));
            table.extend(name.as_ref().map(|name| ("name".to_owned(), json!(name))));
            table.extend(capacity.map(|rate| ("capacity".to_owned(), json!(rate.to_string()))));
            Value::Object(table)
        }
    }
}

fn api(of: &ApiSection) -> Vec<(&'static str, Value)> {
    vec![
        ("listen", json!(of.listen)),
        ("token_file", json!(of.token_file.to_string_lossy())),
        ("base_path", json!(of.base_path)),
        ("hosts", json!(of.hosts)),
        ("internal", json!(of.internal)),
    ]
}

fn section<'t>(table: &'t Table, key: &str) -> Option<&'t Table> {
    table.get(key).and_then(toml::Value::as_table)
}
