//! Style as a test: what may import what, where `unsafe` and clocks may stand, how long a function
//! is, that every requirement of this part has a test and every closed list stands in the contract.
//!
//! Every check collects all it finds before it fails, one line each: `file:line: what, and what to do`.
//! Exceptions are lists in this file; an exception that is no longer needed fails, too.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use common::source::{Source, sources};
use spanway::proto::view::{ChannelState, LinkState, PeerState};
use spanway::stats::DropReason;
use spanway::types::Reject;

/// What each module may name of the crate besides itself. The rule with the longest `of` counts.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("limits", &[]),
    // Planted bugs; not there without --cfg mutants.
    ("mutant", &[]),
    ("types", &["limits"]),
    ("stats", &["types", "limits"]),
    ("wire", &["types", "limits"]),
    ("proto", &["wire", "types", "limits", "mutant"]),
    ("sim", &["proto", "engine::merge", "wire", "types", "limits", "mutant"]),
    // The pure half of the engine: the contract in engine/mod.rs, never a worker or a socket.
    ("engine::forward", ENGINE_PURE),
    ("engine::table", ENGINE_PURE),
    ("engine::merge", &["limits"]),
    ("engine::runs", ENGINE_PURE),
    ("engine::proxy", ENGINE_PURE),
    ("engine::replay", ENGINE_PURE),
    ("engine::seal", ENGINE_PURE),
    ("engine::wait", ENGINE_PURE),
    ("engine::shaper", &["types", "limits"]),
    ("engine::pool", &["wire::frame", "types", "limits"]),
    ("engine", &["net", "wire", "stats", "types", "limits"]),
    // Buffers, and the words of the engine for what a socket is.
    (
        "net",
        &[
            "engine::pool",
            "engine::runs",
            "engine::table",
            "engine::BackendChoice",
            "wire::frame",
            "stats",
            "types",
            "limits",
        ],
    ),
    ("trace", &["types", "limits"]),
    // The shapes it fills for both halves, and the identity that `init` makes.
    (
        "config",
        &[
            "proto::Budgets",
            "proto::LinkConfig",
            "proto::NodeConfig",
            "proto::policy",
            "proto::Recovery",
            "proto::ServiceConfig",
            "proto::ServiceKind",
            "engine::BackendChoice",
            "daemon::identity",
            "types",
            "limits",
        ],
    ),
    // `verify` asks the simulator's judge, which shares nothing with the machines it judges.
    (
        "daemon",
        &[
            "api",
            "config",
            "proto",
            "engine",
            "net",
            "sim::check",
            "trace",
            "wire",
            "stats",
            "types",
            "limits",
        ],
    ),
    // Sees what a daemon answers as plain values, never the machines behind it.
    ("api::dto", &["types", "limits", "stats"]),
    ("api", &["config", "stats", "types", "limits"]),
    ("cli", &["api", "config", "daemon", "wire::frame", "stats", "types", "limits"]),
    // Asks the kernel as a daemon would, before there is one.
    (
        "cli::doctor",
        &["cli", "api", "config", "daemon", "engine::BackendChoice", "net", "types", "limits"],
    ),
    // A proxy has no daemon: the command starts the engine itself.
    ("cli::forward", &["cli", "daemon::in_words", "engine", "stats", "types", "limits"]),
    ("main", &["cli", "api", "config", "daemon", "types", "limits"]),
    ("lib", &[]),
];
const ENGINE_PURE: &[&str] = &[
    "engine::Command",
    "engine::AllowedFrom",
    "engine::Deliver",
    "engine::EndSpec",
    "engine::EntrySpec",
    "engine::LinkSpec",
    "engine::Target",
    "engine::forward",
    "engine::merge",
    "engine::replay",
    "engine::seal",
    "engine::shaper",
    "engine::table",
    "wire",
    "stats",
    "types",
    "limits",
];

/// No clock, no socket, no thread, no system randomness, no hash order: same input, same output.
const PURE: &[&str] = &[
    "types",
    "limits",
    "wire",
    "proto",
    "sim",
    "engine::forward",
    "engine::merge",
    "engine::proxy",
    "engine::replay",
    "engine::runs",
    "engine::seal",
    "engine::shaper",
    "engine::table",
    "engine::wait",
    "engine::worker::inside",
];
const IMPURE_WORDS: &[&str] = &[
    "Instant",
    "SystemTime",
    "UNIX_EPOCH",
    "UdpSocket",
    "TcpStream",
    "TcpListener",
    "UnixStream",
    "thread",
    "tokio",
    "tokio_uring",
    "socket2",
    "io_uring",
    "libc",
    "getrandom",
    "crossbeam",
    "parking_lot",
    "Mutex",
    "RwLock",
    "tracing",
    "println",
    "eprintln",
    "RandomState",
];
/// The control plane knows neighbours by their link and peers by their name, never an address.
const NO_ADDRESSES: &[&str] = &["proto", "sim"];

/// The test of the engine counts allocations with an allocator of its own; the yardstick is outside the
/// package, has its own system calls and shares nothing with the engine it is the bar for.
const UNSAFE_ALLOWED: &[&str] = &[
    "src/engine/pool.rs",
    "src/net/",
    "perf/yardstick/src/net.rs",
    "tests/engine.rs",
    "tests/engine/",
];
/// Where a thread queue may be called by its library's name.
const MPSC_ALLOWED: &[&str] = &["src/daemon/", "src/api/http/live.rs"];

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 800;
/// `cargo fmt` keeps code below 100 columns; comments, which it does not wrap, may run a little longer.
const LINE_WIDTH_MAX: usize = 110;
/// `(file, function, lines)`: may shrink, may not grow, and goes when it is short enough.
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[];
/// `(file, lines without tests)`, in the same way.
const LONG_FILES: &[(&str, usize)] = &[];

/// Requirements of the first part; each is named by a test that fails without it.
const REQUIREMENTS: &[u32] =
    &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 17, 19, 20, 22, 23, 26, 27, 28];

const TOP_LEVEL: &[&str] = &[
    ".cargo",
    ".ci",
    ".config",
    ".git",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "SECURITY.md",
    "benches",
    "clippy.toml",
    "deny.toml",
    "docs",
    "perf",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "src",
    "tests",
    "tools",
];

#[test]
fn every_module_imports_only_what_its_layer_may() {
    let mut wrong = Vec::new();
    for source in production() {
        let Some(module) = source.module() else { continue };
        let rule = MAY_IMPORT.iter().filter(|(of, _)| within(&module, of));
        let Some((of, may)) = rule.max_by_key(|(of, _)| of.len()) else {
            wrong.push(format!("{}: no rule in MAY_IMPORT for module {module}", source.path));
            continue;
        };
        for (line, path) in source.crate_paths() {
            let own = within(&path, of) || own_folder(&module, &path);
            let pure = PURE.iter().any(|pure| within(&module, pure) && pure.contains("::"));
            let allowed = may.iter().any(|may| within(&path, may)) || (own && !pure);
            if !allowed && !within(&path, &module) && is_module_path(&path) {
                wrong.push(format!(
                    "{}:{line}: {module} may not use {path} (see MAY_IMPORT)",
                    source.path
                ));
            }
        }
    }
    assert_none(wrong);
}

#[test]
fn the_two_halves_never_import_each_other() {
    let mut wrong = Vec::new();
    for source in production() {
        let module = source.module().unwrap_or_default();
        for (line, path) in source.crate_paths() {
            for (one, other) in [("proto", "engine"), ("engine", "proto"), ("proto", "stats")] {
                if within(&module, one) && within(&path, other) {
                    wrong.push(format!("{}:{line}: {one} names {path}", source.path));
                }
            }
        }
    }
    assert_none(wrong);
}

#[test]
fn pure_modules_reach_no_clock_socket_thread_or_system_randomness() {
    let mut wrong = Vec::new();
    for source in production() {
        let Some(module) = source.module() else { continue };
        if !PURE.iter().any(|pure| within(&module, pure)) {
            continue;
        }
        let addresses = NO_ADDRESSES.iter().any(|of| within(&module, of));
        for (line, code) in source.production_lines() {
            for word in IMPURE_WORDS.iter().filter(|word| has_word(code, word)) {
                wrong.push(format!("{}:{line}: `{word}` in a pure module", source.path));
            }
            if addresses && has_word(code, "net") && code.contains("std::net") {
                wrong.push(format!("{}:{line}: an address in {module}", source.path));
            }
        }
    }
    assert_none(wrong);
}

#[test]
fn pure_modules_never_depend_on_the_order_of_a_hash_map() {
    const WALKS: &[&str] =
        &[".iter()", ".iter_mut()", ".keys()", ".values()", ".values_mut()", ".drain()", ".into_"];
    let mut wrong = Vec::new();
    for source in production() {
        let Some(module) = source.module() else { continue };
        if !PURE.iter().any(|pure| within(&module, pure)) {
            continue;
        }
        let hashed: BTreeSet<&str> =
            source.production_lines().filter_map(|(_, code)| hashed_name(code)).collect();
        for (line, code) in source.production_lines() {
            for name in hashed.iter().filter(|name| has_word(code, name)) {
                let walked = WALKS.iter().any(|walk| code.contains(&format!("{name}{walk}")));
                let looped = code.contains(" in ") && has_word(after(code, " in "), name);
                if walked || (looped && code.trim_start().starts_with("for ")) {
                    wrong.push(format!("{}:{line}: `{name}` has no order", source.path));
                }
            }
        }
    }
    assert_none(wrong);
}

#[test]
fn unsafe_stands_only_next_to_the_kernel() {
    let mut wrong = Vec::new();
    for source in everything() {
        if UNSAFE_ALLOWED.iter().any(|allowed| source.path.starts_with(allowed)) {
            continue;
        }
        for (line, code) in source.lines().filter(|(_, code)| has_word(code, "unsafe")) {
            wrong.push(format!("{}:{line}: {}", source.path, code.trim()));
        }
        for (line, code) in source.lines() {
            if code.contains("unsafe_code") && !code.contains("deny(unsafe_code)") {
                wrong.push(format!("{}:{line}: {}", source.path, code.trim()));
            }
        }
    }
    assert_none(wrong);
}

#[test]
fn every_file_says_first_what_it_is() {
    let headless = everything().into_iter().filter(|source| {
        // Files that may be unsafe say that even before.
        let attribute = |line: &&String| !line.starts_with("//!");
        let unsafe_file = source.raw.first().is_some_and(|first| first.starts_with("#![allow("));
        let lines = source.raw.iter();
        let mut lines = lines.skip_while(move |line| unsafe_file && attribute(line));
        let first = lines.next();
        first.is_none_or(|first| !first.starts_with("//! ") || first.len() < 20)
    });
    assert_none(headless.map(|source| format!("{}: begin with `//! ...`", source.path)).collect());
}

#[test]
fn nothing_unfinished_is_left_behind() {
    // In pieces, so that this file does not find itself.
    let macros = [concat!("to", "do!"), concat!("unimplement", "ed!"), concat!("db", "g!")];
    let notes =
        [concat!("FIX", "ME"), concat!("XX", "X"), concat!("TO", "DO"), concat!("HA", "CK")];
    let mut wrong = Vec::new();
    for source in everything() {
        for (line, code) in source.lines() {
            for word in macros.iter().filter(|word| code.contains(*word)) {
                wrong.push(format!("{}:{line}: {word}", source.path));
            }
        }
        for (line, raw) in (1..).zip(&source.raw) {
            for word in notes.iter().filter(|word| has_word(raw, word)) {
                wrong.push(format!("{}:{line}: {word}", source.path));
            }
        }
        if source.raw.iter().any(|line| line.trim() == concat!("//! ", "stub")) {
            wrong.push(format!("{}: a stub", source.path));
        }
    }
    assert_none(wrong);
}

#[test]
fn the_word_channel_means_a_reserved_path_only() {
    let mut wrong = Vec::new();
    for source in everything() {
        let allowed = MPSC_ALLOWED.iter().any(|allowed| source.path.starts_with(allowed));
        for (line, code) in source.lines() {
            let queue = has_word(code, "mpsc") || has_word(code, "sync_channel");
            let other = ["crossbeam::channel", "crossbeam_channel", "broadcast::channel"];
            if (queue && !allowed) || other.iter().any(|other| code.contains(other)) {
                wrong.push(format!("{}:{line}: a queue between threads is a ring", source.path));
            }
        }
    }
    assert_none(wrong);
}

#[test]
fn functions_files_and_lines_are_short() {
    let (mut wrong, mut functions, mut files) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    for source in everything() {
        for (line, name, lines) in functions_of(&source) {
            if lines > FUNCTION_LINES_MAX {
                functions.insert((source.path.clone(), name), (line, lines));
            }
        }
        if source.production > FILE_LINES_MAX {
            files.insert(source.path.clone(), source.production);
        }
        for (line, width) in (1..).zip(&source.widths) {
            let is_table = source.raw[line - 1].starts_with("//! |");
            if *width > LINE_WIDTH_MAX && !is_table {
                wrong.push(format!("{}:{line}: {width} columns", source.path));
            }
        }
    }
    for &(file, name, max) in LONG_FUNCTIONS {
        match functions.remove(&(file.to_owned(), name.to_owned())) {
            Some((line, lines)) if lines > max => wrong.push(format!("{file}:{line}: {name} grew")),
            Some(_) => {}
            None => wrong.push(format!("{file}: {name} needs no exception any more")),
        }
    }
    for &(file, max) in LONG_FILES {
        match files.remove(file) {
            Some(lines) if lines > max => wrong.push(format!("{file}: grew to {lines} lines")),
            Some(_) => {}
            None => wrong.push(format!("{file}: needs no exception any more")),
        }
    }
    let long = |((path, name), (line, lines))| format!("{path}:{line}: {name} has {lines} lines");
    wrong.extend(functions.into_iter().map(long));
    wrong.extend(files.into_iter().map(|(path, lines)| format!("{path}: {lines} lines")));
    assert_none(wrong);
}

#[test]
fn every_requirement_of_this_part_is_named_by_a_test() {
    let mut tests: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for source in everything() {
        for name in tests_of(&source) {
            for id in requirements_of(&name) {
                tests.entry(id).or_default().push(format!("{}::{name}", source.path));
            }
        }
    }
    let missing: Vec<String> = REQUIREMENTS
        .iter()
        .filter(|id| !tests.contains_key(id))
        .map(|id| format!("A{id}: no test is called a{id}_..."))
        .collect();
    let have: Vec<String> =
        tests.iter().map(|(id, names)| format!("A{id} {}", names.len())).collect();
    assert!(
        missing.is_empty(),
        "{} of {} requirements have no test:\n  {}\ntests by requirement: {}",
        missing.len(),
        REQUIREMENTS.len(),
        missing.join("\n  "),
        have.join(", ")
    );
}

#[test]
fn the_top_level_has_only_what_the_layout_allows() {
    let entries = fs::read_dir(root()).expect("the repository is readable");
    let ignored = text(".gitignore");
    let ignored: Vec<&str> = ignored.lines().map(|line| line.trim_start_matches('/')).collect();
    let names = entries.map(|entry| entry.expect("readable").file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    let strange = names.filter(|name| !TOP_LEVEL.contains(&name.as_str()));
    let strange = strange.filter(|name| !ignored.contains(&name.as_str()));
    assert_none(strange.map(|name| format!("{name}: not in TOP_LEVEL")).collect());
}

#[test]
fn every_dependency_says_why_it_is_there() {
    let mut wrong = Vec::new();
    let manifests = [
        "Cargo.toml",
        "perf/yardstick/Cargo.toml",
        "tools/pktgen/Cargo.toml",
        "tools/xtask/Cargo.toml",
    ];
    for manifest in manifests {
        if !root().join(manifest).exists() {
            continue;
        }
        let (text, mut inside, mut family) = (text(manifest), false, None);
        for (line, content) in (1..).zip(text.lines()) {
            if content.starts_with('[') {
                inside = content.contains("dependencies");
            }
            let stem = content.split(['-', '_', ' ', '=']).next().unwrap_or_default();
            if content.starts_with('#') {
                family = Some("");
            } else if !inside || !content.contains('=') {
                family = None;
            } else if family.is_some_and(|family| family.is_empty() || family == stem) {
                // One comment may stand for serde and serde_json.
                family = Some(stem);
            } else {
                wrong.push(format!("{manifest}:{line}: say above it why: {content}"));
            }
        }
    }
    assert_none(wrong);
}

#[test]
fn the_contract_has_every_state_and_reason_of_the_closed_lists_and_no_other() {
    let contract = text("docs/reference/contract.md");
    let names = |list: &[&'static str]| list.to_vec();
    let lists = [
        ("Drop reasons", DropReason::ALL.iter().map(|reason| reason.as_str()).collect()),
        ("Reasons of a rejection", Reject::ALL.iter().map(|reason| reason.as_str()).collect()),
        ("States of a peer", names(&PEER_STATES.map(PeerState::as_str))),
        ("States of a link", names(&LINK_STATES.map(LinkState::as_str))),
        ("States of a channel", names(&CHANNEL_STATES.map(ChannelState::as_str))),
    ];
    let mut wrong = Vec::new();
    for (heading, expected) in lists {
        let listed = table_below(&contract, heading);
        let expected: Vec<String> = expected.iter().map(|name: &&str| (*name).to_owned()).collect();
        if listed != expected {
            wrong
                .push(format!("contract.md, table {heading:?}: {listed:?} should be {expected:?}"));
        }
    }
    for reason in DropReason::ALL {
        if !contract.contains(reason.sentence()) {
            wrong.push(format!("contract.md lacks the sentence {:?}", reason.sentence()));
        }
    }
    assert_none(wrong);
}

#[test]
fn documents_name_only_files_that_exist() {
    let mut wrong = Vec::new();
    for document in [
        "README.md",
        "ARCHITECTURE.md",
        "SECURITY.md",
        "CHANGELOG.md",
        ".ci/README.md",
        "docs/troubleshooting.md",
        "tools/package/README.md",
    ] {
        for (line, content) in (1..).zip(text(document).lines()) {
            for quoted in content.split('`').skip(1).step_by(2) {
                let folder = ["src/", "tests/", "tools/", "benches/", "perf/", ".ci/"];
                let is_path = folder.iter().any(|folder| quoted.starts_with(folder))
                    && !quoted.contains([' ', '*', '{', '<']);
                if is_path && !root().join(quoted).exists() {
                    wrong.push(format!("{document}:{line}: there is no {quoted}"));
                }
            }
        }
    }
    assert_none(wrong);
}

#[test]
fn the_scanner_tells_code_from_comments_strings_and_tests() {
    let text = "//! Head\nuse crate::{a::{B, c::D}, e};\nlet s = \"// no\\\" unsafe\"; // crate::x\n\
                let r = r#\"unsafe \" \"#; let c = '\"'; fn f<'a>() { super::g() }\n\
                #[cfg(test)]\nmod tests {\n    use crate::late;\n}\n";
    let source = Source::new("src/p/q.rs".to_owned(), text);
    let paths: Vec<String> = source.crate_paths().into_iter().map(|(_, path)| path).collect();
    assert_eq!(paths, ["a::B", "a::c::D", "e", "p::g"]);
    assert!(!source.code.concat().contains("unsafe"));
    assert_eq!(source.production, 4);
    assert_eq!(functions_of(&source), [(4, "f".to_owned(), 1)]);
}

const PEER_STATES: [PeerState; 3] =
    [PeerState::Myself, PeerState::Reachable, PeerState::Unreachable];
const LINK_STATES: [LinkState; 3] = [LinkState::Down, LinkState::Greeting, LinkState::Up];
const CHANNEL_STATES: [ChannelState; 4] =
    [ChannelState::Opening, ChannelState::Queued, ChannelState::Open, ChannelState::Moving];

/// Does not compile when a state is added, until its array above has it.
const _: fn(PeerState, LinkState, ChannelState) = |peer, link, channel| {
    match peer {
        PeerState::Myself | PeerState::Reachable | PeerState::Unreachable => {}
    }
    match link {
        LinkState::Down | LinkState::Greeting | LinkState::Up => {}
    }
    match channel {
        ChannelState::Opening
        | ChannelState::Queued
        | ChannelState::Open
        | ChannelState::Moving => {}
    }
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn text(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

fn production() -> Vec<Source> {
    sources(&root(), &["src"])
}

fn everything() -> Vec<Source> {
    sources(&root(), &["src", "tests", "benches", "tools", "perf"])
}

fn assert_none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{} found:\n  {}", wrong.len(), wrong.join("\n  "));
}

/// `proto::view::X` is within `proto` and `proto::view`, `protocol` is not.
fn within(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Below the same top-level folder: `daemon::store` and `daemon::identity`.
fn own_folder(module: &str, path: &str) -> bool {
    let top = module.split("::").next().unwrap_or(module);
    within(path, top)
}

/// Paths of macros and of items at the root of the crate are no imports of a module.
fn is_module_path(path: &str) -> bool {
    path.chars().next().is_some_and(char::is_lowercase)
}

fn has_word(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}

fn after<'a>(code: &'a str, mark: &str) -> &'a str {
    code.split_once(mark).map_or("", |(_, rest)| rest)
}

/// The field or variable that a line declares to be a hash map or set.
fn hashed_name(code: &str) -> Option<&str> {
    let at = code.find("HashMap<").or_else(|| code.find("HashSet<"));
    let at = at.or_else(|| code.find("HashMap::")).or_else(|| code.find("HashSet::"))?;
    let declared = code[..at].trim_end().trim_end_matches([':', '=', '&']).trim_end();
    let name = declared.rsplit([' ', '(', ',']).next()?;
    (!name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_')).then_some(name)
}

/// Line, name and number of lines of every function with a body.
fn functions_of(source: &Source) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    for (line, code) in source.lines() {
        let Some(name) = function_name(code) else { continue };
        if let Some(last) = body_end(&source.code, line - 1) {
            found.push((line, name.to_owned(), last + 2 - line));
        }
    }
    found
}

fn function_name(code: &str) -> Option<&str> {
    let at = code.find("fn ").filter(|&at| at == 0 || code[..at].ends_with(' '))?;
    let rest = &code[at + 3..];
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
    (end > 0).then(|| &rest[..end])
}

/// Index of the line with the brace that closes the function which begins on line `first`.
fn body_end(code: &[String], first: usize) -> Option<usize> {
    let (mut braces, mut brackets) = (0_i32, 0_i32);
    let start = code[first].find("fn ").unwrap_or(0);
    for (index, line) in code.iter().enumerate().skip(first) {
        let line = if index == first { &line[start..] } else { line };
        for character in line.chars() {
            match character {
                '(' | '[' => brackets += 1,
                ')' | ']' => brackets -= 1,
                ';' if braces == 0 && brackets == 0 => return None,
                '{' => braces += 1,
                '}' => {
                    braces -= 1;
                    if braces == 0 {
                        return Some(index);
                    }
                }
                _ => {}
            }
        }
    }
    None
}

/// Names of the functions that a test runner calls; ignored ones prove nothing.
fn tests_of(source: &Source) -> Vec<String> {
    let (mut names, mut is_test, mut ignored) = (Vec::new(), false, false);
    for (_, code) in source.lines() {
        let code = code.trim();
        if code.starts_with("#[test]") || code.starts_with("#[tokio::test") {
            is_test = true;
        } else if code.starts_with("#[ignore") {
            ignored = true;
        } else if let Some(name) = function_name(code) {
            if is_test && !ignored {
                names.push(name.to_owned());
            }
            (is_test, ignored) = (false, false);
        }
    }
    names
}

/// The ids that a name begins with: 12 and 16 for `a12_a16_what_was_held_is_given_back`.
fn requirements_of(name: &str) -> Vec<u32> {
    let ids = name.split('_').map_while(|part| part.strip_prefix('a')?.parse().ok());
    ids.collect()
}

/// The names in backquotes in the first column of the table below a heading.
fn table_below(document: &str, heading: &str) -> Vec<String> {
    let lines = document.lines().skip_while(|line| line.trim_start_matches('#').trim() != heading);
    let section = lines.skip(1).take_while(|line| !line.starts_with('#'));
    let rows = section.filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    rows.map(str::to_owned).collect()
}

/// Used by the checks of folders that may not exist yet.
#[test]
fn the_folders_that_are_checked_exist() {
    for folder in ["src", "tests", "tools"] {
        assert!(Path::new(&root()).join(folder).is_dir(), "{folder}");
    }
}
