//! What a person can get wrong in the files a daemon starts from, and what Spanway answers: one table
//! for the configuration file, one for the key file, and the state folder with real second processes.
//!
//! Rows of the list of bad inputs: 2 (ports), 3 (rates), 4 (UTF-8, syntax, reload), 5 (unknown keys),
//! 6 (key file), 7 (read-only or full folder), 8 (second daemon).

#![allow(
    clippy::print_stdout,
    reason = "a skipped part of a test says so; children answer on stdout"
)]

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use spanway::config::schema::schema;
use spanway::config::settings::{Origin, settings};
use spanway::config::{CONFIG_TEMPLATE, Config, LinkIds, ServiceAddress};
use spanway::daemon::identity::Identity;
use spanway::daemon::store::{StateDir, write_atomic};
use spanway::engine::BackendChoice;
use spanway::proto::ServiceKind;
use spanway::types::{Bandwidth, LinkId, PeerName};

/// The least a file needs; what a row adds begins in line 3.
const HEAD: &str = "name = \"peer-01\"\nlisten = \"127.0.0.1:7000\"\n";
/// Two keys of the right shape.
const K2: &str = "0202020202020202020202020202020202020202020202020202020202020202";
const K3: &str = "0303030303030303030303030303030303030303030303030303030303030303";

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("dir/peer-01.toml"), text).map_err(|error| error.to_string())
}

/// A `[[link]]` of four lines: header, peer, capacity, key.
fn link(peer: &str, key: &str) -> String {
    format!("[[link]]\npeer = \"{peer}\"\ncapacity = \"10 Mbit/s\"\nkey = \"{key}\"\n")
}

fn name(text: &str) -> PeerName {
    PeerName::new(text).expect(text)
}

/// Text behind `HEAD`, place and key of the error, and a piece of what it says.
type Row = (String, &'static str, &'static str);

/// Each row's error is one line that begins with the place and the key and says what to write.
fn judge(head: &str, rows: &[Row]) {
    for (text, place, fragment) in rows {
        let error = parse(&format!("{head}{text}")).expect_err(text);
        let begin = format!("dir/peer-01.toml:{place}: ");
        assert!(error.starts_with(&begin), "{text}\n  expected {begin}\n  got      {error}");
        assert!(error.contains(fragment), "{text}\n  expected {fragment}\n  got      {error}");
        assert!(!error.contains('\n'), "one line: {error}");
    }
}

fn row(text: &str, place: &'static str, fragment: &'static str) -> Row {
    (text.to_owned(), place, fragment)
}

/// A link whose third line is `line`.
fn link_row(line: &str, place: &'static str, fragment: &'static str) -> Row {
    let text = format!("[[link]]\npeer = \"peer-02\"\n{line}\nkey = \"{K2}\"\n");
    (text, place, fragment)
}

#[test]
fn bad_input_2_ports_and_addresses_that_are_none() {
    let range = "a number from 1 to 65535";
    judge(
        "name = \"peer-01\"\n",
        &[
            row("listen = \"127.0.0.1:0\"", "2:10: listen", range),
            row("listen = \"127.0.0.1:70000\"", "2:10: listen", range),
            row("listen = \"127.0.0.1:abc\"", "2:10: listen", range),
            row("listen = \"127.0.0.1:-1\"", "2:10: listen", range),
            row("listen = \"127.0.0.1\"", "2:10: listen", "has no port"),
            row("listen = \"::1\"", "2:10: listen", "needs brackets and a port"),
            row("listen = \"localhost:7000\"", "2:10: listen", "names are not resolved"),
            row("listen = 7000", "2:10: listen", "7000 is no text"),
            row("listen = \"224.0.0.1:7000\"", "2:10: listen", "no address of a host"),
            row(
                "listen = \"1.2.3.4:65535\"\nengine.cpus = [1, 2]",
                "2:10: listen",
                "at most 65534",
            ),
        ],
    );
    judge(
        "name = \"peer-01\"\nlisten = \"0.0.0.0:7000\"\n",
        &[
            link_row("address = \"127.0.0.1:7000\"", "5:11: link.address", "this peer's own"),
            row("[service.a]\ndeliver = \"127.0.0.1:7000\"", "4:11: service.a.deliver", "own"),
            row("[service.a]\nlisten = \"127.0.0.1:7000\"", "4:10: service.a.listen", "own"),
        ],
    );
    judge(
        HEAD,
        &[
            link_row("address = \"10.0.0.2:0\"", "5:11: link.address", range),
            row(
                "[service.a]\ndeliver = \"10.0.0.9:7000\"\n[service.b]\ndeliver = \"0.0.0.0:5\"",
                "6:11: service.b.deliver",
                "no address to send to",
            ),
            link_row("address = \"0.0.0.0:7000\"", "5:11: link.address", "no address of a host"),
            link_row("address = \"127.0.0.1:7000\"", "5:11: link.address", "this peer's own"),
            row("[service.a]\ndeliver = \"1.2.3.4:0\"", "4:11: service.a.deliver", range),
            row(
                "[service.a]\ndeliver = \"127.0.0.1:7000\"",
                "4:11: service.a.deliver",
                "own (port 7000",
            ),
            row(
                "[service.a]\nlisten = \"127.0.0.1:7000\"",
                "4:10: service.a.listen",
                "own (port 7000",
            ),
            row(
                "[engine]\ncpus = [1, 2]\n[service.a]\nlisten = \"127.0.0.1:7001\"",
                "6:10: service.a.listen",
                "own (ports 7000 to 7001",
            ),
            row(
                "[service.a]\nlisten = \"127.0.0.1:5000\"\n[service.b]\nlisten = \"127.0.0.1:5000\"",
                "6:10: service.b.listen",
                "in line 4 already",
            ),
        ],
    );
}

#[test]
fn bad_input_3_rates_that_are_none() {
    let form = "\"25 Mbit/s\"";
    judge(
        HEAD,
        &[
            link_row("capacity = \"10\"", "5:12: link.capacity", "\"10\" has no unit"),
            link_row("capacity = 10", "5:12: link.capacity", "\"10\" has no unit"),
            link_row("capacity = \"-5 Mbit/s\"", "5:12: link.capacity", form),
            link_row("capacity = -5", "5:12: link.capacity", form),
            link_row("capacity = \"1e99 bit/s\"", "5:12: link.capacity", "unknown unit"),
            link_row("capacity = 1e99", "5:12: link.capacity", "unknown unit"),
            link_row("capacity = nan", "5:12: link.capacity", form),
            link_row("capacity = \"0 Mbit/s\"", "5:12: link.capacity", "is zero"),
            link_row("capacity = \"11 Tbit/s\"", "5:12: link.capacity", "unknown unit"),
            link_row("capacity = \"99999 Gbit/s\"", "5:12: link.capacity", "too large"),
            link_row(
                "capacity = \"64 kbit/s\"",
                "5:12: link.capacity",
                "leaves nothing for channels",
            ),
            link_row("capacity = true", "5:12: link.capacity", form),
            link_row("capacity = [\"1 Mbit/s\"]", "5:12: link.capacity", form),
            row("[host]\negress = \"10\"", "4:10: host.egress", "has no unit"),
            row("[host]\ningress = \"fast\"", "4:11: host.ingress", form),
        ],
    );
}

#[test]
fn bad_input_4_text_that_is_not_toml() {
    judge(
        HEAD,
        &[
            row("[[link]\n", "3:8: this is not TOML", "expected `]`"),
            row("state_dir = \"a\nb\"", "3:15: this is not TOML", "invalid basic string"),
            row("state_dir\n", "3:10: this is not TOML", "expected `=`"),
            row("\u{e4}\u{e4} = 1\n", "3:1: this is not TOML", "unquoted key"),
            row("name = \"again\"\n", "3:1: name", "twice"),
            row("[engine]\n[engine]\n", "4:2: engine", "twice"),
            row(&format!("x = {}", "[".repeat(20_000)), "3:85: this is not TOML", "recurs"),
        ],
    );
}

#[test]
fn bad_input_4_a_file_that_is_not_text_or_not_there() {
    let folder = tempfile::tempdir().expect("scratch folder");
    let path = folder.path().join("peer-01.toml");
    let load = || Config::load(&path).expect_err("bad file").to_string();
    assert!(load().contains("peer-01.toml: cannot be read: No such file"), "{}", load());
    fs::write(&path, b"name = \"a\"\n# caf\xc3\xa9 \xff\n").expect("write");
    assert!(load().contains("peer-01.toml:2:8: is not UTF-8"), "{}", load());
    fs::write(&path, vec![b'#'; (1 << 20) + 1]).expect("write");
    assert!(load().contains("larger than 1048576 bytes"), "{}", load());
    fs::write(&path, HEAD).expect("write");
    assert_eq!(Config::load(&path).expect("good file").key_file, folder.path().join("peer-01.key"));
}

#[test]
fn bad_input_4_a_reload_that_changes_what_cannot_change_is_refused_whole() {
    let text = format!("{HEAD}{}", link("peer-02", K2));
    let running = parse(&text).expect("valid");
    assert_eq!(running.reload(&running), Ok(()));
    for (from, to, key) in [
        ("name = \"peer-01\"", "name = \"peer-09\"", "name"),
        ("127.0.0.1:7000", "127.0.0.1:7100", "listen"),
        ("[[link]]", "state_dir = \"x\"\n[[link]]", "state_dir"),
        ("[[link]]", "key_file = \"x\"\n[[link]]", "key_file"),
        ("[[link]]", "[engine]\ncpus = [0]\n[[link]]", "engine.cpus"),
        ("[[link]]", "[engine]\nbackend = \"mmsg\"\n[[link]]", "engine.backend"),
        ("[[link]]", "[engine]\nlatency = true\n[[link]]", "engine.latency"),
    ] {
        let new = parse(&text.replace(from, to)).expect("valid");
        let error = running.reload(&new).expect_err(key).to_string();
        assert!(error.starts_with(&format!("dir/peer-01.toml: {key}: cannot change")), "{error}");
    }
    let other =
        text.replace("10 Mbit/s", "20 Mbit/s") + "[service.x]\n[control]\nheartbeat = \"1s\"\n";
    let other = format!("{other}[engine]\nhop_tag = true\n");
    assert_eq!(running.reload(&parse(&other).expect("valid")), Ok(()));
}

#[test]
fn bad_input_5_unknown_keys_are_errors_that_name_the_nearest() {
    judge(
        HEAD,
        &[
            row("listn = 1", "3:1: listn", "did you mean `listen`?"),
            row("links = []", "3:1: links", "did you mean `link`?"),
            row("colour = \"red\"", "3:1: colour", "allowed here: name, listen"),
            link_row("capasity = \"1 Mbit/s\"", "5:1: link.capasity", "did you mean `capacity`?"),
            link_row("Capacity = \"1 Mbit/s\"", "5:1: link.Capacity", "did you mean `capacity`?"),
            row("[service.video]\ndelivery = 1", "4:1: service.video.delivery", "`deliver`?"),
            row("[engine]\ncpu = [0]", "4:1: engine.cpu", "did you mean `cpus`?"),
            row("[host]\negres = 1", "4:1: host.egres", "did you mean `egress`?"),
            row(
                "[control]\nheartbeat_missed = 1",
                "4:1: control.heartbeat_missed",
                "`heartbeats_missed`?",
            ),
            row("[trust]\npeer = []", "4:1: trust.peer", "did you mean `peers`?"),
            row("\"\\u001b[31m\\n\" = 1", "3:1: \\u{1b}[31m\\n", "allowed here"),
        ],
    );
}

#[test]
fn missing_keys_are_named_with_a_line_that_would_do() {
    judge(
        "",
        &[
            row("", "1:1: name", "write name = "),
            row("name = \"a\"", "1:1: listen", "write listen = "),
        ],
    );
    judge(
        HEAD,
        &[
            row("[[link]]\ncapacity = \"1 Mbit/s\"", "3:1: link.peer", "write peer = "),
            row("\n[[link]]\npeer = \"b\"", "4:1: link.capacity", "write capacity = \"25 Mbit/s\""),
            row("[[link]]\npeer = \"b\"\ncapacity = \"1 Mbit/s\"", "3:1: link.key", "write key = "),
        ],
    );
}

#[test]
fn names_links_and_services_that_contradict_each_other() {
    let two = |second: &str, line: &str| format!("{}[[link]]\n{second}{line}", link("peer-02", K2));
    judge(
        "listen = \"127.0.0.1:7000\"\n",
        &[
            row("name = \"a/b\"", "2:8: name", "is not a name"),
            row("name = \"\"", "2:8: name", "is not a name"),
            row("name = 7", "2:8: name", "7 is no text"),
        ],
    );
    let address = "address = \"10.0.0.2:7000\"\n";
    judge(
        HEAD,
        &[
            row(&link("peer-01", K2), "4:8: link.peer", "is this peer itself"),
            row(&link("peer 2", K2), "4:8: link.peer", "is not a name"),
            (two("peer = \"peer-02\"", ""), "8:8: link.peer", "in line 4 already"),
            (
                format!("{}{}", link("peer-02", K2), link("peer-03", K2)),
                "10:7: link.key",
                "in line 6 already",
            ),
            (
                format!("{}{address}{}{address}", link("peer-02", K2), link("peer-03", K3)),
                "12:11: link.address",
                "in line 7 already",
            ),
            row(&link("peer-02", "abcd"), "6:7: link.key", "64 hexadecimal digits"),
            row(&link("peer-02", &"x".repeat(64)), "6:7: link.key", "64 hexadecimal digits"),
            link_row("mtu = 1279", "3:1: link.capacity", "is missing"),
            row(&format!("{}mtu = 1279", link("b", K2)), "7:7: link.mtu", "from 1280 to 65535"),
            row(&format!("{}mtu = \"1500\"", link("b", K2)), "7:7: link.mtu", "without quotes"),
            row("[link]\npeer = \"b\"", "3:1: link", "write [[link]]"),
            row("link = 3", "3:8: link", "write [[link]]"),
            row("service = 3", "3:11: service", "write [service.NAME]"),
            row("service.video = 3", "3:17: service.video", "write [service.NAME]"),
            row("[service.\"a b\"]", "3:10: service.a b", "is not a name"),
            row(
                "[service.a]\ndeliver = \"1.2.3.4:5\"\nlisten = \"127.0.0.1:5\"",
                "5:10: service.a.listen",
                "no place beside deliver",
            ),
            row("[service.a]\nlisten = \"0.0.0.0:5\"", "4:10: service.a.listen", "add from = "),
            row(
                "[service.a]\nlisten = \"0.0.0.0:5\"\nfrom = \"x\"",
                "5:8: service.a.from",
                "ADDRESS/BITS",
            ),
            row("[service.a]\nfrom = \"10.0.0.0/8\"", "4:8: service.a.from", "remove it"),
            row("[service.a]\nshape = true", "4:9: service.a.shape", "remove it"),
            row(
                "[service.a]\nlisten = \"[::1]:5\"\nshape = 1",
                "5:9: service.a.shape",
                "true or false",
            ),
            row("engine = 1", "3:10: engine", "write [engine]"),
        ],
    );
}

#[test]
fn engine_and_control_keys_out_of_range() {
    let many = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>().join(", ");
    judge(
        HEAD,
        &[
            row("[engine]\ncpus = 2", "4:8: engine.cpus", "is no list"),
            row("[engine]\ncpus = [1, 1]", "4:12: engine.cpus", "names CPU 1 twice"),
            row("[engine]\ncpus = [-1]", "4:9: engine.cpus", "-1 does not fit"),
            row("[engine]\ncpus = [\"1\"]", "4:9: engine.cpus", "without quotes"),
            row("[engine]\ncpus = [1024]", "4:9: engine.cpus", "from 0 to 1023"),
            row(
                &format!("[engine]\ncpus = [{}]", many(17)),
                "4:63: engine.cpus",
                "at most 16 workers",
            ),
            row("[engine]\nbackend = \"dpdk\"", "4:11: engine.backend", "\"uring\" or \"mmsg\""),
            row("[engine]\nlatency = 1", "4:11: engine.latency", "write true or false"),
            row("[engine]\nlatency = \"true\"", "4:11: engine.latency", "without quotes"),
            row("[engine]\nhop_tag = 1", "4:11: engine.hop_tag", "write true or false"),
            row("[control]\nheartbeat = 25", "4:13: control.heartbeat", "\"25\" has no unit"),
            row("[control]\nheartbeat = \"25\"", "4:13: control.heartbeat", "\"25\" has no unit"),
            row("[control]\nheartbeat = \"4ms\"", "4:13: control.heartbeat", "5ms to 10s"),
            row("[control]\nheartbeat = \"11s\"", "4:13: control.heartbeat", "5ms to 10s"),
            row(
                "[control]\nheartbeats_missed = 1",
                "4:21: control.heartbeats_missed",
                "from 2 to 100",
            ),
        ],
    );
}

#[test]
fn trust_and_rules_that_name_nobody_or_say_nothing() {
    judge(
        HEAD,
        &[
            row("[trust]\npeers = [\"abc\"]", "4:10: trust.peers", "64 hexadecimal digits"),
            row("[trust]\npeers = [7]", "4:10: trust.peers", "a table as in { key"),
            row("[trust]\npeers = [{}]", "4:10: trust.peers.key", "is missing"),
            row("[trust]\npeers = [{ kee = 1 }]", "4:12: trust.peers.kee", "did you mean `key`?"),
            row(
                &format!("[trust]\npeers = [\"{K2}\", {{ key = \"{K2}\" }}]"),
                "4:86: trust.peers.key",
                "line 4 already",
            ),
            row(
                &format!("[trust]\npeers = [{{ key = \"{K2}\", name = \"peer-01\" }}]"),
                "4:93: trust.peers.name",
                "this peer itself",
            ),
            row(
                &format!("{}[trust]\npeers = [{{ key = \"{K3}\", name = \"b\" }}]", link("b", K2)),
                "8:93: trust.peers.name",
                "a [[link]] with another key",
            ),
            row(
                &format!("[trust]\npeers = [{{ key = \"{K2}\", capacity = \"9 kbit/s\" }}]"),
                "4:97: trust.peers.capacity",
                "leaves nothing",
            ),
            row("[trust]\ncapacity = \"10\"", "4:12: trust.capacity", "has no unit"),
            row("[[allow]]\nto = [\"video\"]", "3:1: allow.peers", "is missing: write peers = "),
            row("[[allow]]\npeers = []", "4:9: allow.peers", "which fits nobody"),
            row("[[allow]]\npeers = [\"a b\"]", "4:10: allow.peers", "is not a name"),
            row(
                &format!("[[allow]]\npeers = [\"{}\"]", "g".repeat(64)),
                "4:10: allow.peers",
                "is not a public key",
            ),
            row("[[allow]]\npeers = [\"*\"]", "3:1: allow", "allows nothing: write to = "),
            row("[[allow]]\npeers = [\"*\"]\nto = \"video\"", "5:6: allow.to", "is no list"),
            row("[[allow]]\npeers = [\"*\"]\nthrough = 1", "5:11: allow.through", "true or false"),
            row(
                "[[allow]]\npeers = [\"*\"]\nthrough = true\nrate = \"5\"",
                "6:8: allow.rate",
                "has no unit",
            ),
            row(
                "[[allow]]\npeers = [\"*\"]\nthrough = true\nchannels = -1",
                "6:12: allow.channels",
                "a whole number from 0",
            ),
            row(
                "[[allow]]\npeers = [\"*\"]\nthrough = true\nrate = \"5 Mbit/s\"\ntotal = \"4 Mbit/s\"",
                "7:9: allow.total",
                "less than the 5 Mbit/s of one channel",
            ),
            row("[[allow]]\npears = []", "4:1: allow.pears", "did you mean `peers`?"),
            row("[allow]\npeers = []", "3:1: allow", "is a list of tables: write [[allow]]"),
        ],
    );
}

#[test]
fn more_links_or_services_than_a_peer_may_have() {
    let key = |i: usize| format!("{i:064x}");
    let links = |n: usize| (0..n).map(|i| link(&format!("n{i}"), &key(i))).collect::<String>();
    assert_eq!(
        parse(&format!("{HEAD}{}", links(1_024))).expect("as many as allowed").links.len(),
        1_024
    );
    let services = |n: usize| (0..n).map(|i| format!("[service.s{i}]\n")).collect::<String>();
    assert_eq!(parse(&format!("{HEAD}{}", services(128))).expect("allowed").services.len(), 128);
    judge(
        HEAD,
        &[
            (links(1_025), "4099:1: link", "at most 1024 links"),
            (services(129), "131:10: service.s128", "at most 128 services"),
        ],
    );
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = parse(HEAD).expect("the least file");
    assert_eq!(config.name, name("peer-01"));
    assert_eq!(config.listen, "127.0.0.1:7000".parse::<SocketAddr>().expect("address"));
    assert_eq!(config.state_dir, PathBuf::from("dir/peer-01.state"));
    assert_eq!(config.key_file, PathBuf::from("dir/peer-01.key"));
    assert!(config.links.is_empty() && config.services.is_empty() && config.trust.peers.is_empty());
    assert_eq!(config.engine.backend, BackendChoice::Auto);
    assert!(!config.engine.latency && !config.engine.hop_tag);
    assert_eq!(config.engine_workers(), [None]);
    assert_eq!(config.control.heartbeat, Duration::from_millis(25));
    assert_eq!(config.control.heartbeats_missed, 5);
    assert_eq!((config.host.egress, config.host.ingress), (None, None));
    let config = parse(&format!("{HEAD}{}", link("peer-02", K2))).expect("one link");
    assert_eq!((config.links[0].mtu, config.links[0].address), (1_500, None));
    assert_eq!(config.links[0].hop_tag, None);
    let config = parse(&format!("{HEAD}{}[engine]\nhop_tag = true\n", link("peer-02", K2)));
    assert!(
        config.expect("a link").node_config().links[0].hop_tag,
        "of all links that say nothing"
    );
}

#[test]
fn every_key_of_the_contract_is_taken() {
    let text = format!(
        "name = 'peer-01'\nlisten = '[::1]:7000'\nstate_dir = '/var/lib/spanway'\n\
         key_file = 'keys/a.key'\n\
         [[link]]\npeer = 'peer-02'\naddress = '[2001:db8::2]:7000'\ncapacity = '2.5 Gbit/s'\n\
         key = '{K2}'\nmtu = 9000\nhop_tag = false\n\
         [service.video]\ndeliver = '127.0.0.1:5004'\n\
         [service.camera]\nlisten = '0.0.0.0:5006'\nfrom = '192.168.0.0/16'\nshape = true\n\
         [service.inbox]\n\
         [engine]\ncpus = [3, 1]\nbackend = 'uring'\nlatency = true\nhop_tag = true\n\
         [host]\negress = '1 Gbit/s'\n\
         ingress = '2 Gbit/s'\n[control]\nheartbeat = '1s'\nheartbeats_missed = 3\n\
         [trust]\npeers = ['{K3}', {{ key = '{K2}', name = 'peer-02', capacity = '5 Mbit/s' }}]\n\
         capacity = '9 Mbit/s'\n"
    );
    let config = parse(&text).expect("valid");
    assert_eq!(config.listen.to_string(), "[::1]:7000");
    assert_eq!(config.state_dir, PathBuf::from("/var/lib/spanway"));
    assert_eq!(config.key_file, PathBuf::from("dir/keys/a.key"));
    let link = &config.links[0];
    assert_eq!((link.capacity, link.mtu), (Bandwidth::from_bps(2_500_000_000), 9_000));
    assert_eq!(link.address.expect("address").to_string(), "[2001:db8::2]:7000");
    assert_eq!(link.key.to_string(), K2);
    assert_eq!(config.engine.backend, BackendChoice::Uring);
    assert!(config.engine.latency && config.engine.hop_tag);
    assert_eq!(link.hop_tag, Some(false));
    assert!(!config.node_config().links[0].hop_tag, "the link's own word counts");
    assert_eq!(config.engine_workers(), [Some(3), Some(1)]);
    assert_eq!(config.host.ingress, Some(Bandwidth::from_bps(2_000_000_000)));
    assert_eq!(config.control.heartbeat, Duration::from_secs(1));
    let trusted = |key: &str, peer: &str| {
        let key = key.parse().expect("a key");
        config.trust.link(&key, &name(peer)).map(|link| link.capacity.bps())
    };
    assert_eq!(trusted(K3, "peer-09"), Some(9_000_000));
    assert_eq!(trusted(K2, "peer-02"), Some(5_000_000));
    assert_eq!(trusted(K2, "peer-09"), None, "it has to call itself peer-02");
    assert_eq!(trusted(&"7".repeat(64), "peer-02"), None);
    let node = config.node_config();
    assert_eq!((node.data_port, node.workers), (7_000, 2));
    let kinds: Vec<_> = node.services.iter().map(|s| (s.name.as_str(), s.kind)).collect();
    let expected = [
        ("video", ServiceKind::Deliver),
        ("camera", ServiceKind::Source),
        ("inbox", ServiceKind::Receive),
    ];
    assert_eq!(kinds, expected);
    assert_eq!(config.services[1].from.map(|(_, bits)| bits), Some(16));
    assert_eq!(config.services.iter().map(|s| s.shape).collect::<Vec<_>>(), [false, true, false]);
    assert!(matches!(config.services[2].kind, ServiceAddress::Receive));
}

#[test]
fn link_ids_are_positions_and_hold_over_reloads() {
    let with = |peers: &[&str]| {
        let key = |peer: &str| format!("{:0>64}", peer.trim_start_matches("peer-"));
        let links = peers.iter().map(|peer| link(peer, &key(peer))).collect::<String>();
        parse(&format!("{HEAD}{links}")).expect("valid")
    };
    let id = |ids: &LinkIds, peer: &str| ids.id(&name(peer)).map(|LinkId(id)| id);
    let first = with(&["peer-03", "peer-02"]);
    assert_eq!(first.node_config().links[1].link, LinkId(1));
    let ids = LinkIds::default().after(&first).expect("ids");
    let second = with(&["peer-04", "peer-02"]);
    let ids = ids.after(&second).expect("ids");
    let expected = [Some(0), Some(1), Some(2), None];
    assert_eq!(["peer-03", "peer-02", "peer-04", "peer-05"].map(|p| id(&ids, p)), expected);
    let links = second.node_config_after(&ids).links;
    assert_eq!([links[0].link, links[1].link], [LinkId(2), LinkId(1)]);
    let ids = ids.after(&first).expect("ids");
    assert_eq!(id(&ids, "peer-03"), Some(0), "a link that comes back keeps its id");
}

#[test]
fn the_commented_template_is_a_valid_file_and_its_comments_show_the_defaults() {
    let config = parse(CONFIG_TEMPLATE).expect("valid");
    // Every commented key made real: nothing but the two host budgets, `from`, `hop_tag` and the
    // limits of the rule may change.
    let real: String = CONFIG_TEMPLATE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => rest,
            _ => line,
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let mut all = parse(&real).expect("valid with every key");
    assert!(all.host.egress.take().is_some() && all.host.ingress.take().is_some());
    assert!(all.services.iter_mut().any(|service| service.from.take().is_some()));
    assert!(all.api.as_mut().and_then(|api| api.internal.take()).is_some());
    let rule = &mut all.allow[0];
    assert!([&mut rule.rate, &mut rule.total, &mut rule.everybody].iter().all(|r| r.is_some()));
    (rule.rate, rule.total, rule.everybody) = (None, None, None);
    assert!(rule.channels.take().is_some() && rule.requests.take().is_some());
    // What the section `engine` says of all links, said of this one.
    assert_eq!(all.links.iter_mut().find_map(|link| link.hop_tag.take()), Some(false));
    assert_eq!(all, config);
}

/// The keys that the parser itself says are allowed in the tables `[header]` or `[[header]]`.
fn allowed(header: &str) -> Vec<String> {
    let error = parse(&format!("{HEAD}{header}\nno_such_key_at_all = 1\n")).expect_err(header);
    let keys = error.split_once("allowed here: ").unwrap_or_else(|| panic!("{error}")).1;
    let mut keys: Vec<String> = keys.split(", ").map(str::to_owned).collect();
    keys.sort();
    keys
}

fn properties(table: &Value) -> Vec<String> {
    table["properties"].as_object().expect("a table").keys().cloned().collect()
}

/// The tables below `root`: their header in a file, and their schema.
fn tables_of(root: &Value) -> Vec<(String, Value)> {
    let tables = root["properties"].as_object().expect("a table").iter();
    let table = |(key, schema): (&String, &Value)| match schema["type"].as_str() {
        Some("array") => Some((format!("[[{key}]]"), schema["items"].clone())),
        Some("object") if schema["properties"].is_object() => {
            Some((format!("[{key}]"), schema.clone()))
        }
        Some("object") => Some((format!("[{key}.some]"), schema["additionalProperties"].clone())),
        _ => None,
    };
    tables.filter_map(table).collect()
}

#[test]
fn the_schema_has_the_keys_of_the_parser_and_no_other() {
    let schema = schema();
    assert_eq!(allowed(""), properties(&schema));
    let tables = tables_of(&schema);
    assert!(tables.len() >= 7, "{tables:?}");
    for (header, table) in tables {
        assert_eq!(allowed(&header), properties(&table), "{header}");
        assert_eq!(table["additionalProperties"], false, "{header}");
    }
}

/// Where `value` is not what `schema` says; of the words of JSON Schema those that ours uses.
fn violations(schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let is = |kind: &str| match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        other => panic!("{at}: no such type: {other}"),
    };
    let kinds = &schema["type"];
    let one = kinds.as_str().map(|_| vec![kinds.clone()]);
    let kinds = one.or_else(|| kinds.as_array().cloned()).unwrap_or_default();
    if !kinds.is_empty() && !kinds.iter().any(|kind| is(kind.as_str().expect("text"))) {
        wrong.push(format!("{at}: {value} is none of {kinds:?}"));
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        wrong.push(format!("{at}: {value} is none of {}", schema["enum"]));
    }
    let number = value.as_f64().unwrap_or_default();
    if value.is_number()
        && (schema["minimum"].as_f64().is_some_and(|least| number < least)
            || schema["maximum"].as_f64().is_some_and(|most| number > most))
    {
        wrong.push(format!("{at}: {number} is out of range"));
    }
    for item in value.as_array().into_iter().flatten() {
        wrong.extend(violations(&schema["items"], item, &format!("{at}[]")));
    }
    for (key, inner) in value.as_object().into_iter().flatten() {
        let at = format!("{at}.{key}");
        match (&schema["properties"][key], &schema["additionalProperties"]) {
            (Value::Null, Value::Bool(false)) => wrong.push(format!("{at}: no such key")),
            (Value::Null, other) => wrong.extend(violations(other, inner, &at)),
            (property, _) => wrong.extend(violations(property, inner, &at)),
        }
    }
    let has = |key: &&Value| value.get(key.as_str().expect("text")).is_none();
    let missing = schema["required"].as_array().into_iter().flatten().filter(has);
    wrong.extend(missing.map(|key| format!("{at}: {key} is missing")));
    wrong
}

#[test]
fn the_template_is_what_the_schema_asks_for_and_what_is_none_is_found() {
    let json = |text: &str| {
        serde_json::to_value(text.parse::<toml::Table>().expect("TOML")).expect("JSON")
    };
    let template = json(CONFIG_TEMPLATE);
    assert_eq!(violations(&schema(), &template, ""), Vec::<String>::new());
    for (text, expected) in [
        ("name = 1", "name: 1 is none of"),
        ("nome = \"a\"", ".nome: no such key"),
        ("[engine]\nbackend = \"fast\"", "engine.backend"),
        ("[control]\nheartbeats_missed = 1", "out of range"),
        ("[[link]]\npeer = \"b\"", "capacity"),
        ("[service.a]\nshape = 3", "service.a.shape"),
    ] {
        let wrong = violations(&schema(), &json(text), "").join("; ");
        assert!(wrong.contains(expected), "{text}: {wrong}");
    }
}

#[test]
fn every_key_has_an_effective_value_that_says_where_it_comes_from() {
    let config = parse(CONFIG_TEMPLATE).expect("valid");
    let all = settings(&config, CONFIG_TEMPLATE);
    let of = |key: &str| all.iter().find(|one| one.key == key).unwrap_or_else(|| panic!("{key}"));
    assert_eq!(
        (of("link.peer-02.mtu").value.clone(), of("link.peer-02.mtu").from),
        (json!(1500), Origin::Default)
    );
    assert_eq!(
        (of("listen").value.clone(), of("listen").from),
        (json!("127.0.0.1:7000"), Origin::File)
    );
    assert_eq!(of("service.video.listen").value, Value::Null);
    assert_eq!(of("control.heartbeat").value, json!("25ms"));
    let schema = schema();
    let mut keys: Vec<String> = properties(&schema);
    for (header, table) in tables_of(&schema) {
        let (name, named) = match header.trim_matches(['[', ']']) {
            "link" => ("link", "link.peer-02"),
            "service.some" => ("service", "service.camera"),
            "allow" => ("allow", "allow.1"),
            plain => (plain, plain),
        };
        keys.retain(|key| key != name);
        keys.extend(properties(&table).iter().map(|key| format!("{named}.{key}")));
    }
    assert!(keys.iter().all(|key| of(key).key == *key));
    let others = all.iter().filter(|one| !keys.contains(&one.key));
    let named = |key: &str| key.starts_with("service.") || key.starts_with("link.");
    assert_eq!(others.filter(|one| !named(&one.key)).count(), 0);
}

#[test]
fn bad_input_2_5_the_web_api_has_ports_paths_and_names_of_its_own() {
    let api = |line: &str| format!("[api]\nlisten = \"127.0.0.1:7080\"\n{line}");
    judge(
        HEAD,
        &[
            row("[api]\n", "3:1: api.listen", "listen = \"127.0.0.1:7080\""),
            row("[api]\nlisten = \"127.0.0.1:0\"", "4:10: api.listen", "from 1 to 65535"),
            row("[api]\nlisten = \"127.0.0.1:7000\"", "4:10: api.listen", "port 7000"),
            row("[api]\nlisten = \"0.0.0.0:7000\"", "4:10: api.listen", "another port"),
            row("[api]\nlisten = \"239.1.1.1:7080\"", "4:10: api.listen", "no address of a host"),
            (api("internal = \"0.0.0.0:7080\""), "5:12: api.internal", "line 4 already"),
            (api("internal = \"127.0.0.1:7000\""), "5:12: api.internal", "port 7000"),
            (api("interal = \"127.0.0.1:7081\""), "5:1: api.interal", "did you mean `internal`?"),
            (api("base_path = \"spanway\""), "5:13: api.base_path", "\"/spanway/\""),
            (api("base_path = \"/a//b\""), "5:13: api.base_path", "\"/spanway/\""),
            (api("base_path = \"/../x\""), "5:13: api.base_path", "\"/spanway/\""),
            (api("base_path = \"/a b\""), "5:13: api.base_path", "\"/spanway/\""),
            (api("token_file = \"\""), "5:14: api.token_file", "is no path"),
            (api("token_file = \"peer-01.key\""), "5:14: api.token_file", "a file of its own"),
            (api("hosts = [\"http://x\"]"), "5:10: api.hosts", "as a browser sends it"),
            (api("hosts = \"x\""), "5:9: api.hosts", "is no list"),
        ],
    );
    assert_eq!(parse(HEAD).expect("valid").api, None);
    let config =
        parse(&format!("{HEAD}{}", api("base_path = \"/a/b\"\nhosts = [\"X.example:8443\"]")));
    let api = config.expect("valid").api.expect("a section");
    assert_eq!(api.token_file, Path::new("dir/peer-01.token"));
    assert_eq!((api.base_path.as_str(), api.internal), ("/a/b/", None));
    assert_eq!(api.hosts, ["x.example:8443"]);
}

#[test]
fn bad_input_6_a_key_file_that_is_none_says_which_and_stays_as_it_is() {
    let folder = tempfile::tempdir().expect("scratch folder");
    let path = folder.path().join("peer-01.key");
    let load = || Identity::load(&path).expect_err("bad key file").to_string();
    assert!(load().contains("is missing") && load().contains("spanway"), "{}", load());
    assert!(!path.exists(), "not made silently");
    let put = |content: &[u8], mode: u32| {
        fs::write(&path, content).expect("write");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod");
    };
    let seed = "00".repeat(32);
    let rows: [(Vec<u8>, u32, &str); 8] = [
        (b"".to_vec(), 0o600, "is truncated"),
        (b"spanway-identity-1\n0011".to_vec(), 0o600, "is truncated"),
        (b"-----BEGIN PRIVATE KEY-----\n".to_vec(), 0o600, "first line"),
        (b"\xff\xfe\x00\x01".to_vec(), 0o600, "first line"),
        (format!("spanway-identity-2\n{seed}\n").into_bytes(), 0o600, "first line"),
        (
            format!("spanway-identity-1\n{}\n", "zz".repeat(32)).into_bytes(),
            0o600,
            "64 hexadecimal",
        ),
        (format!("spanway-identity-1\n{seed}00\n").into_bytes(), 0o600, "64 hexadecimal"),
        (format!("spanway-identity-1\n{seed}\n").into_bytes(), 0o644, "mode 0644"),
    ];
    for (content, mode, fragment) in rows {
        put(&content, mode);
        let error = load();
        assert!(error.contains(fragment), "expected {fragment}, got {error}");
        assert!(error.contains("peer-01.key"), "{error}");
        assert!(!error.contains(&seed[..8]), "no secret in {error}");
        assert_eq!(fs::read(&path).expect("read"), content, "left as it was");
        assert!(Identity::create(&path).is_err(), "never overwritten");
        assert_eq!(fs::read(&path).expect("read"), content, "left as it was");
    }
    fs::remove_file(&path).expect("remove");
    fs::create_dir(&path).expect("folder");
    assert!(load().contains("folder, device or pipe"), "{}", load());
    put_good_key(folder.path());
}

fn put_good_key(folder: &Path) {
    let path = folder.join("good.key");
    let made = Identity::create(&path).expect("create");
    assert_eq!(made.public_key(), Identity::load(&path).expect("load").public_key());
}

/// Not a test of its own: what a second process does in the tests below, told by `SPANWAY_TEST_DIR`.
#[test]
fn child_opens_a_state_folder() {
    if let Some(path) = std::env::var_os("SPANWAY_TEST_DIR") {
        match StateDir::open(Path::new(&path)) {
            Ok(_) => println!("OPENED"),
            Err(error) => println!("REFUSED {error}"),
        }
    }
}

fn child(wrapper: Option<(&str, &str)>, state_dir: &Path) -> Command {
    let test = std::env::current_exe().expect("this program");
    let arguments = ["child_opens_a_state_folder", "--exact", "--nocapture"];
    let mut command = match wrapper {
        None => Command::new(&test),
        Some((program, script)) => {
            let mut command = Command::new(program);
            command.args(["-m", "sh", "-c", script, "sh"]).arg(&test);
            command
        }
    };
    command.args(arguments).env("SPANWAY_TEST_DIR", state_dir);
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn bad_input_8_a_second_daemon_is_told_the_pid_of_the_first_and_disturbs_nothing() {
    let folder = tempfile::tempdir().expect("scratch folder");
    let path = folder.path().join("peer-01.state");
    let first = StateDir::open(&path).expect("first");
    write_atomic(&first.file("kept"), b"kept").expect("write");
    let pid = format!("(pid {})", std::process::id());
    let second = said(&child(None, &path).output().expect("run"));
    assert!(second.contains("REFUSED") && second.contains(&pid), "{second}");
    let error = StateDir::open(&path).expect_err("in the same process").to_string();
    assert!(error.contains(&pid) && error.contains("state_dir"), "{error}");
    assert_eq!(fs::read(first.file("kept")).expect("read"), b"kept");
    drop(first);
    let third = said(&child(None, &path).output().expect("run"));
    assert!(third.contains("OPENED"), "{third}");
    StateDir::open(&path).expect("the pid of a daemon that is gone locks nothing");
}

#[test]
fn bad_input_7_a_state_folder_that_cannot_be_written_is_said_at_once() {
    let folder = tempfile::tempdir().expect("scratch folder");
    let state = folder.path().join("peer-01.state");
    drop(StateDir::open(&state).expect("open"));
    let read_only = || fs::set_permissions(&state, Permissions::from_mode(0o500)).expect("chmod");
    read_only();
    if fs::write(state.join("x"), b"").is_err() {
        let error = StateDir::open(&state).expect_err("read-only").to_string();
        assert!(error.contains("read-only for this user"), "{error}");
        return;
    }
    // Root writes anywhere, so others try it: another user, then real file systems in a mount
    // namespace of the child's own.
    fs::remove_file(state.join("x")).expect("remove");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("chmod");
    let nobody = 65_534;
    for path in [state.clone(), state.join("lock")] {
        std::os::unix::fs::chown(path, Some(nobody), Some(nobody)).expect("chown");
    }
    match child(None, &state).uid(nobody).gid(nobody).output() {
        Ok(output) if said(&output).contains("REFUSED") => {
            assert!(said(&output).contains("read-only for this user"), "{}", said(&output));
        }
        other => println!("SKIPPED: another user cannot run this test program: {other:?}"),
    }
    let mount = |options: &str, then: &str| {
        let target = state.display();
        format!("mount -t tmpfs -o mode=700,{options} none {target} && {then} exec \"$@\"")
    };
    let full = format!("(head -c 1M /dev/zero > {}/fill; true) 2>/dev/null;", state.display());
    for (script, fragment) in
        [(mount("ro", ""), "read-only file system"), (mount("size=64k", &full), "full file system")]
    {
        match child(Some(("unshare", &script)), &state).output() {
            Ok(output) if said(&output).contains("REFUSED") => {
                assert!(said(&output).contains(fragment), "{}", said(&output));
            }
            Ok(output) if said(&output).contains("OPENED") => {
                panic!("{fragment} was not noticed: {}", said(&output));
            }
            other => println!("SKIPPED: no mount namespaces here: {other:?}"),
        }
    }
}

/// Not a test of its own: writes a file over and over until it is killed.
#[test]
fn child_writes_for_ever() {
    let Some(path) = std::env::var_os("SPANWAY_TEST_FILE") else { return };
    for turn in (b'a'..=b'z').cycle() {
        write_atomic(Path::new(&path), &vec![turn; 100_000]).expect("write");
        println!("WROTE");
    }
}

#[test]
fn a27_a_writer_killed_at_any_moment_leaves_the_old_content_or_the_new() {
    let folder = tempfile::tempdir().expect("scratch folder");
    let path = folder.path().join("state.json");
    write_atomic(&path, &vec![b'0'; 100_000]).expect("write");
    for round in 0..20 {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["child_writes_for_ever", "--exact", "--nocapture"])
            .env("SPANWAY_TEST_FILE", &path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("child");
        // Kept open until the child is dead: it must die of the kill, not of a closed pipe.
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let wrote =
            lines.by_ref().filter(|line| line.as_ref().is_ok_and(|line| line.contains("WROTE")));
        assert_eq!(wrote.take(1 + round % 3).count(), 1 + round % 3, "it writes");
        // A different part of a write each round; whichever it hits, the content must be whole.
        pause(Duration::from_micros(97 * round as u64));
        child.kill().expect("kill");
        assert_eq!(child.wait().expect("wait").signal(), Some(9));
        let content = fs::read(&path).expect("read");
        let whole = content.len() == 100_000 && content.iter().all(|byte| *byte == content[0]);
        assert!(whole, "round {round}: {} bytes", content.len());
    }
    write_atomic(&path, b"next").expect("what a killed writer left is in nobody's way");
    assert_eq!(fs::read(&path).expect("read"), b"next");
    assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1, "and is gone");
}

#[expect(clippy::disallowed_methods, reason = "the moment of the kill is what the test draws")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
