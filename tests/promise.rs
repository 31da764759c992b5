//! Replays the worked example of `docs/bandwidth.md`: each command is run by the peer whose prompt it has,
//! and what it prints is compared with the page. Ids, ports and times are not.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use common::overlay::{Overlay, Plan};
use common::program::wait_for;

const SOON: Duration = Duration::from_secs(10);

fn overlay() -> Overlay {
    Plan::new(&["berlin", "oslo", "paris", "rome"])
        .link("oslo", "berlin", "10 Mbit/s")
        .link("berlin", "rome", "10 Mbit/s")
        .link("berlin", "paris", "10 Mbit/s")
        .link("oslo", "rome", "9 Mbit/s")
        .section("rome", "[service.video]\ndeliver = \"127.0.0.1:9\"\n")
        .on_loopback()
}

/// The ```console blocks of the page, a line each.
fn blocks(page: &str) -> Vec<Vec<&str>> {
    let mut parts = page.split("```console\n");
    parts.next();
    parts.map(|part| part.split("```").next().unwrap_or_default().lines().collect()).collect()
}

/// A line without what is another every time: boots of channels, ports, sessions, keys, seconds.
fn plain(line: &str) -> String {
    let plain = |word: &str| {
        let end = word.trim_end_matches([',', ';']).len();
        let (bare, mark) = word.split_at(end);
        let parts: Vec<&str> = bare.split(':').collect();
        match &parts[..] {
            [peer, _, count] if count.parse::<u64>().is_ok() => format!("{peer}:ID:{count}{mark}"),
            ["127.0.0.1", _] => format!("ADDRESS{mark}"),
            _ if bare.contains('@') => {
                format!("SESSION{}", if bare.ends_with(')') { ")" } else { "" })
            }
            _ if is_fingerprint(bare) => format!("KEY{mark}"),
            _ if bare.parse::<u64>().is_ok() => format!("N{mark}"),
            _ => word.to_owned(),
        }
    };
    // Indentation is part of what a person sees.
    let blank = line.len() - line.trim_start().len();
    let words: Vec<_> = line.split_whitespace().map(plain).collect();
    format!("{}{}", &line[..blank], words.join(" "))
}

/// Four times four hexadecimal digits.
fn is_fingerprint(word: &str) -> bool {
    let parts: Vec<&str> = word.split('-').collect();
    let hex = |part: &&str| part.len() == 4 && part.chars().all(|digit| digit.is_ascii_hexdigit());
    parts.len() == 4 && parts.iter().all(hex)
}

fn same(command: &str, expected: &[&str], output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let printed: Vec<_> = text.lines().map(plain).collect();
    let expected: Vec<_> = expected.iter().map(|line| plain(line)).collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(printed, expected, "{command} printed:\n{text}{errors}");
}

#[test]
fn a12_a13_a14_the_example_of_the_page_is_what_happens() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/bandwidth.md");
    let page = fs::read_to_string(page).expect("the page is there");
    let overlay = overlay();
    let mut waiting: BTreeMap<String, Child> = BTreeMap::new();
    let mut run = 0;
    for block in blocks(&page) {
        let mut lines = &block[..];
        while let [first, rest @ ..] = lines {
            let until = rest.iter().position(|line| line.contains("$ spanway"));
            let (expected, next) = rest.split_at(until.unwrap_or(rest.len()));
            lines = next;
            run += 1;
            let Some((peer, command)) = first.split_once("$ spanway ") else {
                let child = waiting.remove(*first).unwrap_or_else(|| panic!("nobody is {first}"));
                same(first, expected, &child.wait_with_output().expect("our own child"));
                continue;
            };
            let peer = overlay.peer(peer);
            let words: Vec<&str> = command.trim_end_matches(" &").split(' ').collect();
            let mut client = peer.client(&words);
            if !command.ends_with('&') {
                same(command, expected, &client.output().expect("spanway starts"));
                continue;
            }
            let name = words.iter().skip_while(|word| **word != "--name").nth(1).expect("a name");
            client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let child = client.spawn().expect("spanway starts");
            wait_for("a place in line", SOON, || {
                let rows = peer.ask(&["queue"]);
                rows.as_array()?.iter().any(|row| row["name"] == **name).then_some(())
            });
            waiting.insert(format!("{}, {name}", peer.name), child);
        }
    }
    assert!(
        waiting.is_empty() && run >= 9,
        "{run} commands, {} answers are missing",
        waiting.len()
    );
}
