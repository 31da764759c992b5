//! The configuration as a JSON Schema, for editors and other programs: `spanway config schema`.
//!
//! What a schema can say; rules between keys are the parser's alone. `tests/config.rs` compares the
//! keys of both. TOML's tables are objects here, `[[link]]` is an array of them.

use serde_json::{Map, Value, json};

use crate::limits;

/// Draft 2020-12.
pub fn schema() -> Value {
    let properties = [
        ("name", name("This peer, unique in the overlay; names break ties in the tree")),
        ("listen", address("Control TCP, and the UDP port of worker 0; worker i has PORT + i")),
        ("state_dir", path("Lock and local socket; relative to this file [default: NAME.state]")),
        ("key_file", path("The identity, mode 0600; relative to this file [default: NAME.key]")),
        ("link", list("A neighbour each", link(), limits::LINKS_MAX)),
        ("service", services()),
        ("engine", engine()),
        ("host", host()),
        ("control", control()),
        ("recovery", recovery()),
        ("api", api()),
        ("security", security()),
        ("trust", trust()),
        ("allow", list("Who may open channels, in this order", allow(), limits::RULES_MAX)),
    ];
    let mut schema = table("Configuration of one Spanway peer", properties, &["name", "listen"]);
    let fixed = [
        ("$schema", json!("https://json-schema.org/draft/2020-12/schema")),
        ("title", json!("spanway")),
    ];
    let root = schema.as_object_mut().expect("a table is an object");
    root.extend(fixed.map(|(key, value)| (key.to_owned(), value)));
    schema
}

fn link() -> Value {
    let mtu = number("Largest IP packet of the wire", limits::MTU_MIN.into(), u16::MAX.into());
    let properties = [
        ("peer", name("The neighbour")),
        ("address", address("Where it listens; may be missing at one end")),
        ("capacity", rate("Of the wire, each way; the smaller of both ends counts")),
        ("key", key("The neighbour's public key")),
        ("mtu", with_default(mtu, json!(limits::MTU_DEFAULT))),
        (
            "hop_tag",
            flag_of("Every frame of the link proves who sent it [default: that of engine]"),
        ),
    ];
    table("A neighbour", properties, &["peer", "capacity", "key"])
}

fn services() -> Value {
    let properties = [
        ("deliver", address("Frames go to this address, its answers go back")),
        ("listen", address("A local source speaks first here; one channel at a time")),
        (
            "from",
            json!({
                "description": "Who besides this host may send to `listen`, as ADDRESS/BITS",
                "type": "string",
            }),
        ),
        ("shape", flag("What its program sends above the bandwidth waits before it is dropped")),
        ("plain", flag("It takes channels that their askers did not have sealed, too")),
    ];
    let service = table("A service that others open channels to", properties, &[]);
    json!({
        "description": "Services by name",
        "type": "object",
        "propertyNames": { "pattern": NAME_PATTERN },
        "maxProperties": limits::SERVICES_MAX,
        "additionalProperties": service,
    })
}

fn engine() -> Value {
    let workers = limits::WORKERS_MAX.min(usize::from(limits::PORTS_PER_PEER));
    let backend = json!({
        "description": "How frames go to and from the kernel",
        "enum": ["auto", "uring", "mmsg"],
        "default": "auto",
    });
    let properties = [
        ("cpus", cpus("One pinned worker each; none is one worker, not pinned", workers)),
        ("backend", backend),
        ("dscp", dscp("How frames and heartbeats are marked for routers")),
        ("latency", flag("Never wait for more frames before passing on what has come")),
        ("hop_tag", flag("Every frame of every link proves which neighbour sent it")),
    ];
    table("The workers", properties, &[])
}

fn host() -> Value {
    let properties = [
        ("egress", rate("What the host sends over all links together [default: no limit]")),
        ("ingress", rate("What the host receives over all links together [default: no limit]")),
    ];
    table("What the links of the host carry together", properties, &[])
}

fn control() -> Value {
    let (least, most) = limits::HEARTBEATS_MISSED_RANGE;
    let missed = number("That many missed in a row and a link is dead", least.into(), most.into());
    let heartbeat = json!({
        "description": format!("Between two signs of life on a link, {:?} to {:?}",
            limits::HEARTBEAT_RANGE.0, limits::HEARTBEAT_RANGE.1),
        "type": "string",
        "pattern": r"^\s*[0-9]+(\.[0-9]*)?\s*(us|ms|s|min)\s*$",
        "default": format!("{:?}", limits::HEARTBEAT_INTERVAL),
    });
    let host_cpus = usize::try_from(limits::CPU_NUMBER_MAX).unwrap_or(usize::MAX);
    let properties = [
        ("heartbeat", heartbeat),
        ("heartbeats_missed", with_default(missed, json!(limits::HEARTBEATS_MISSED_MAX))),
        (
            "cpus",
            cpus("Where the control thread runs; none is every CPU without worker", host_cpus),
        ),
        ("dscp", dscp("How connections between neighbours are marked")),
    ];
    table("Between neighbours", properties, &[])
}

fn recovery() -> Value {
    let mode = json!({
        "description": "`channels`: what crossed a failure moves; `everything`: each new tree closes \
                        every path",
        "enum": ["channels", "everything"],
        "default": "channels",
    });
    table("What a failure does to channels asked for here", [("mode", mode)], &[])
}

fn api() -> Value {
    let host = json!({ "description": "A name without port", "type": "string", "minLength": 1 });
    let hosts =
        list("Further names that requests may call this host by", host, limits::HTTP_HOSTS_MAX);
    let properties = [
        ("listen", address("REST and pages")),
        ("token_file", path("Mode 0600, made at the first start [default: NAME.token]")),
        ("base_path", with_default(path("In front of all paths"), json!("/"))),
        ("hosts", with_default(hosts, json!([]))),
        ("internal", address("Metrics and health, without a token [default: none]")),
    ];
    table("Web API; without this section there is none", properties, &["listen"])
}

fn security() -> Value {
    let seccomp = flag("Forbid the running daemon every system call that it has no use for");
    table("What the daemon denies itself", [("seccomp", seccomp)], &[])
}

fn trust() -> Value {
    let entry = [
        ("key", key("Its public key")),
        ("name", name("It has to call itself so [default: any name that is free]")),
        ("capacity", rate("What the link to it carries, each way")),
    ];
    let entry = json!({
        "anyOf": [key("A public key"), table("A key with more", entry, &["key"])]
    });
    let peers = list("Who may dial without a [[link]] here", entry, limits::PEERS_MAX);
    let capacity = rate("Of links to peers whose entry says nothing");
    let default = json!(super::trust::CAPACITY_DEFAULT.to_string());
    let properties =
        [("peers", with_default(peers, json!([]))), ("capacity", with_default(capacity, default))];
    table("Peers that need no [[link]]", properties, &[])
}

fn allow() -> Value {
    let who =
        json!({ "description": "A name, a public key, or `*` for everybody", "type": "string" });
    let which = json!({ "description": "A service here, or `*` for all", "type": "string" });
    let number = |words: &str, most: usize| number(words, 0, most as u64);
    let properties = [
        ("peers", list("Whose channels it is about", who, limits::RULE_NAMES_MAX)),
        ("to", list("Services here that it lets them open", which, limits::RULE_NAMES_MAX)),
        ("through", flag("It lets them cross this peer")),
        ("rate", rate("Most of one channel, each way [default: no limit]")),
        ("total", rate("Most of all channels of one peer together [default: no limit]")),
        (
            "channels",
            number("Most channels of one peer at a time [default: no limit]", limits::CHANNELS_MAX),
        ),
        (
            "requests",
            number(
                "Most requests of one peer that wait here [default: no limit]",
                limits::WAITING_PER_ASKER,
            ),
        ),
        ("everybody", rate("Most of all channels of all of them together [default: no limit]")),
    ];
    table("A rule; the first that fits a request decides", properties, &["peers"])
}

const NAME_PATTERN: &str = "^[A-Za-z0-9._-]{1,63}$";
const _: () = assert!(limits::NAME_BYTES_MAX == 63);

fn name(words: &str) -> Value {
    json!({ "description": words, "type": "string", "pattern": NAME_PATTERN })
}

fn address(words: &str) -> Value {
    json!({ "description": words, "type": "string", "pattern": r"^(\[.+\]|[0-9.]+):[0-9]{1,5}$" })
}

fn path(words: &str) -> Value {
    json!({ "description": words, "type": "string", "minLength": 1 })
}

fn rate(words: &str) -> Value {
    json!({
        "description": words,
        "type": "string",
        "pattern": r"^\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*[kMG]?(bit|B)/s\s*$",
    })
}

fn key(words: &str) -> Value {
    json!({ "description": words, "type": "string", "pattern": "^[0-9A-Fa-f]{64}$" })
}

fn flag(words: &str) -> Value {
    json!({ "description": words, "type": "boolean", "default": false })
}

fn flag_of(words: &str) -> Value {
    json!({ "description": words, "type": "boolean" })
}

fn number(words: &str, least: u64, most: u64) -> Value {
    json!({ "description": words, "type": "integer", "minimum": least, "maximum": most })
}

fn cpus(words: &str, most: usize) -> Value {
    let cpu = number("A CPU's number", 0, limits::CPU_NUMBER_MAX);
    with_default(list(words, cpu, most), json!([]))
}

fn dscp(words: &str) -> Value {
    json!({
        "description": words,
        "type": ["string", "integer"],
        "minimum": 0,
        "maximum": 63,
        "default": "CS0",
    })
}

fn list(words: &str, items: Value, most: usize) -> Value {
    json!({ "description": words, "type": "array", "items": items, "maxItems": most })
}

/// An object with these keys and no other.
fn table<const N: usize>(words: &str, properties: [(&str, Value); N], required: &[&str]) -> Value {
    let properties = properties.into_iter().map(|(key, value)| (key.to_owned(), value));
    json!({
        "description": words,
        "type": "object",
        "properties": properties.collect::<Map<String, Value>>(),
        "required": required,
        "additionalProperties": false,
    })
}

fn with_default(mut schema: Value, default: Value) -> Value {
    schema.as_object_mut().expect("a schema is an object").insert("default".to_owned(), default);
    schema
}
