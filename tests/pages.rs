//! Runs the commands of the pages for users as they stand there, in the order of the page: those of
//! `docs/quick-start.md`, and of the how-tos between the two hosts that it sets up.
//!
//! ```text
//!   here       a host alone: the blocks called `sh`
//!   berlin ─── oslo      two hosts with a wire: the blocks called `console`, each line behind its prompt
//! ```
//!
//! A host is a network namespace and a process namespace with one shell that stops at the first command that
//! fails. Blocks called `toml` whose first line names a file of a host are written there. Addresses of the
//! documentation (192.0.2.0/24, 198.51.100.0/24) stand for those of the wires, keys and invitations
//! of the page for the real ones.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use common::netns::{self, Namespace};
use common::overlay::SPANWAY;
use tempfile::TempDir;

const PROGRAMS: [&str; 3] = ["ip", "unshare", "ffmpeg"];
/// What a shell prints behind each command.
const MARK: &str = "-- done --";

#[test]
fn a_beginner_gets_a_stream_through_with_the_commands_of_the_quick_start_on_one_machine() {
    if netns::available_with(&PROGRAMS) {
        let mut hosts = Hosts::new(&["here"]);
        hosts.section("quick-start.md", "On one machine");
        let show = hosts.folder("here").join("show.ts");
        assert!(fs::metadata(show).is_ok_and(|file| file.len() > 500_000), "no video came");
    }
}

#[test]
fn a_beginner_gets_a_stream_through_with_the_commands_of_the_quick_start_between_two_hosts() {
    if netns::available_with(&PROGRAMS) {
        let mut hosts = Hosts::two();
        hosts.section("quick-start.md", "Between two hosts");
        hosts.section("quick-start.md", "The first channel");
        let show = hosts.folder("oslo").join("show.ts");
        assert!(fs::metadata(show).is_ok_and(|file| file.len() > 500_000), "no video came");
    }
}

#[test]
fn a_third_host_joins_with_the_commands_of_the_quick_start() {
    if netns::available_with(&PROGRAMS) {
        let mut hosts = Hosts::two();
        hosts.add("tokyo");
        let [berlin, tokyo] = ["berlin", "tokyo"].map(|name| &hosts.shells[name].namespace);
        netns::wire([(berlin, "198.18.1.1/24"), (tokyo, "198.18.1.3/24")]);
        hosts.section("quick-start.md", "Between two hosts");
        hosts.section("quick-start.md", "A new host joins");
        let made = fs::read_to_string(hosts.folder("tokyo").join("tokyo.toml"));
        assert!(made.is_ok_and(|text| text.contains("peer = \"berlin\"")), "no configuration");
    }
}

#[test]
fn ffmpeg_sends_and_receives_as_its_page_says() {
    how_to("how-to/ffmpeg.md", &PROGRAMS);
}

#[test]
fn srt_crosses_a_channel_as_its_page_says() {
    how_to("how-to/srt.md", &["ip", "unshare", "ffmpeg", "srt-live-transmit"]);
}

#[test]
fn a_game_server_is_asked_and_answers_as_its_page_says() {
    how_to("how-to/game-server.md", &["ip", "ss", "unshare", "python3"]);
}

#[test]
fn every_link_between_the_pages_leads_somewhere() {
    let mut wrong = Vec::new();
    let mut folders = vec![root().join("docs")];
    let mut pages: Vec<PathBuf> =
        ["README.md", "SECURITY.md", "CHANGELOG.md", "tools/package/README.md"]
            .map(|page| root().join(page))
            .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of pages") {
            let path = entry.expect("readable").path();
            match path.is_dir() {
                true => folders.push(path),
                false => pages.push(path),
            }
        }
    }
    for page in pages.iter().filter(|page| page.extension().is_some_and(|end| end == "md")) {
        let text = fs::read_to_string(page).expect("a page");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            let elsewhere = file.is_empty() || file.contains("://");
            if !elsewhere && !page.parent().expect("a folder").join(file).exists() {
                wrong.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty() && pages.len() > 10, "{} pages, {wrong:#?}", pages.len());
}

/// A page that begins where the quick start has two running peers.
fn how_to(page: &str, programs: &[&str]) {
    if !netns::available_with(programs) {
        return;
    }
    let mut hosts = Hosts::two();
    hosts.section("quick-start.md", "Between two hosts");
    for block in blocks(&text(page)) {
        hosts.block(&block);
    }
}

/// A fenced block: its language and its lines.
struct Block {
    language: String,
    lines: Vec<String>,
}

fn blocks(page: &str) -> Vec<Block> {
    let (mut blocks, mut open) = (Vec::new(), None::<Block>);
    for line in page.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(language), None) => {
                open = Some(Block { language: language.to_owned(), lines: Vec::new() });
            }
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some(mut block)) => {
                block.lines.push(line.to_owned());
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    blocks
}

/// The hosts of a page, each with its shell.
struct Hosts {
    shells: BTreeMap<String, Shell>,
    /// Words of the page that are others in truth: addresses and keys.
    truth: Vec<(String, String)>,
}

impl Hosts {
    fn new(names: &[&str]) -> Self {
        let shells = names.iter().map(|&name| (name.to_owned(), Shell::start(name)));
        let truth = [("192.0.2.", "198.18.0."), ("198.51.100.", "198.18.1.")];
        let truth = truth.map(|(page, real)| (page.to_owned(), real.to_owned())).to_vec();
        Self { shells: shells.collect(), truth }
    }

    fn two() -> Self {
        let hosts = Self::new(&["berlin", "oslo"]);
        let [berlin, oslo] = ["berlin", "oslo"].map(|name| &hosts.shells[name].namespace);
        netns::wire([(berlin, "198.18.0.1/24"), (oslo, "198.18.0.2/24")]);
        hosts
    }

    fn add(&mut self, name: &str) {
        self.shells.insert(name.to_owned(), Shell::start(name));
    }

    fn folder(&self, host: &str) -> PathBuf {
        self.shells[host].folder.path().to_owned()
    }

    fn section(&mut self, page: &str, heading: &str) {
        let text = text(page);
        let heading = format!("## {heading}\n");
        let section = text.split_once(&heading).unwrap_or_else(|| panic!("{page}: no {heading}")).1;
        let blocks = blocks(section.split("\n## ").next().unwrap_or_default());
        assert!(!blocks.is_empty(), "{page}: {heading} shows nothing");
        blocks.iter().for_each(|block| self.block(block));
    }

    fn block(&mut self, block: &Block) {
        match block.language.as_str() {
            "sh" => drop(self.run("here", &block.lines.join("\n"))),
            "console" => self.dialogue(&block.lines),
            "toml" => self.file(&block.lines),
            // Pictures, and what is shown only.
            _ => {}
        }
    }

    fn run(&mut self, host: &str, command: &str) -> Vec<String> {
        let command = self.in_truth(command);
        let shell = self.shells.get_mut(host).unwrap_or_else(|| panic!("nobody is {host}"));
        shell.run(&command)
    }

    /// `host$ command`, and behind it what it prints, or the beginning of that.
    fn dialogue(&mut self, lines: &[String]) {
        let mut lines = lines.iter().peekable();
        while let Some(line) = lines.next() {
            let prompt = line.split_once("$ ").filter(|(host, _)| self.shells.contains_key(*host));
            let (host, command) = prompt.unwrap_or_else(|| panic!("no prompt of a host: {line}"));
            let mut expected = Vec::new();
            while let Some(line) = lines.next_if(|line| !line.contains("$ ")) {
                expected.push(line);
            }
            let printed = self.run(host, command);
            if command.contains("key --new") || command.contains("spanway invite") {
                let words =
                    |lines: &[String]| lines.join(" ").split(' ').map(str::to_owned).collect();
                let page: Vec<String> =
                    expected.iter().flat_map(|line| line.split(' ')).map(str::to_owned).collect();
                let real: Vec<String> = words(&printed);
                assert_eq!(page.len(), real.len(), "{command} printed {printed:?}");
                self.truth.extend(page.into_iter().zip(real).filter(|(page, real)| page != real));
            }
            for (expected, printed) in expected.iter().zip(&printed) {
                assert_eq!(*printed, self.in_truth(expected), "{command}");
            }
            assert!(printed.len() >= expected.len(), "{command} printed only {printed:?}");
        }
    }

    /// `# HOST.toml` at the top: this is the file. `# added to HOST.toml`: its end.
    fn file(&self, lines: &[String]) {
        let Some(title) = lines.first().and_then(|line| line.strip_prefix("# ")) else { return };
        let (added, name) =
            title.strip_prefix("added to ").map_or((false, title), |name| (true, name));
        let Some(shell) = self.shells.get(name.trim_end_matches(".toml")) else { return };
        let path = shell.folder.path().join(name);
        let file =
            OpenOptions::new().create(true).write(true).append(added).truncate(!added).open(path);
        let text = self.in_truth(&lines.join("\n"));
        writeln!(file.expect("the folder of a host"), "\n{text}").expect("written");
    }

    fn in_truth(&self, text: &str) -> String {
        let replace = |text: String, (page, real): &(String, String)| text.replace(page, real);
        self.truth.iter().fold(text.to_owned(), replace)
    }
}

/// A shell in a host of its own; everything that it started ends with it.
struct Shell {
    name: String,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    folder: TempDir,
    namespace: Namespace,
}

impl Shell {
    fn start(name: &str) -> Self {
        let namespace = Namespace::new();
        let folder = tempfile::tempdir().expect("a scratch folder");
        let log = fs::File::create(folder.path().join("shell.log")).expect("a file");
        let mut command = namespace.command("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["timeout", "120", "bash", "-e"]).current_dir(folder.path());
        let program = Path::new(SPANWAY).parent().expect("a folder").to_owned();
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", program.display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().expect("a shell");
        let input = child.stdin.take().expect("a pipe was asked for");
        let output = BufReader::new(child.stdout.take().expect("a pipe was asked for"));
        Self { name: name.to_owned(), child, input, output, folder, namespace }
    }

    /// The lines that the command prints; a shell that ends before has met one that failed.
    fn run(&mut self, command: &str) -> Vec<String> {
        // Programs in the background would read the next commands.
        let lines = format!("{{ {command}\n}} < /dev/null\necho '{MARK}'\n");
        let sent = self.input.write_all(lines.as_bytes()).and_then(|()| self.input.flush());
        let mut printed = Vec::new();
        let mut line = String::new();
        while self.output.read_line(&mut line).expect("programs print UTF-8") > 0 {
            let whole = std::mem::take(&mut line);
            if whole.trim_end() == MARK {
                return printed;
            }
            printed.push(whole.trim_end().to_owned());
        }
        let log = fs::read_to_string(self.folder.path().join("shell.log")).unwrap_or_default();
        let printed = printed.join("\n");
        panic!("{}$ {command}\nfailed ({sent:?}):\n{printed}\n{log}", self.name);
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // The first process of its namespace dies with it, and that one takes all others along.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn text(page: &str) -> String {
    fs::read_to_string(root().join("docs").join(page)).unwrap_or_else(|e| panic!("{page}: {e}"))
}
