//! `spanway demo`: a ring of daemons on this machine, a stream over it, a relay killed on the way.
//!
//! [`world`] runs the daemons, [`stream`] moves the frames by the code of `send` and `recv`, [`meter`]
//! judges when they came, [`latency`] asks each hop, [`picture`] and [`board`] show it, [`summary`]
//! says how it went. Needs no privileges, no configuration and no network but loopback.

mod board;
mod latency;
mod meter;
mod pattern;
mod picture;
mod stream;
mod summary;
mod world;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;

use super::open::path_text;
use super::screen::{CliError, Fail, print, shell_word, to_json};
use super::send::about;
use super::values::duration;
use super::{clock, interrupt};
use crate::api::dto::EdgeRow;
use crate::types::{Bandwidth, PeerName};
use board::Board;
use latency::Latencies;
use picture::Ring;
use stream::{Half, Streaming};
use summary::{Kill, Summary};
use world::{INTERRUPTED, Plan, World, check_interrupt};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  spanway demo
  spanway demo --bandwidth 100Mbit/s --duration 30s
  spanway demo --input film.ts --output copy.ts --no-kill
  spanway demo --keep-running
Exit code 1 if the stream stood still for more than a second or lost frames at any other time.")]
pub(super) struct DemoArgs {
    /// Peers of the ring
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(4..=32))]
    peers: u8,
    /// Bandwidth of the channel; the links follow it
    #[arg(long, value_name = "RATE", default_value = "20 Mbit/s", allow_hyphen_values = true)]
    bandwidth: Bandwidth,
    /// How long to stream, if there is no --input
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Stream this file (`-`: standard input) instead of numbered, checked payloads
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Write what arrives to this file (`-`: standard output)
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Kill no relay
    #[arg(long)]
    no_kill: bool,
    /// Leave the overlay running at the end, to look around; Ctrl-C ends it
    #[arg(long)]
    keep_running: bool,
    /// Print the summary as JSON; the rest goes to standard error
    #[arg(long)]
    json: bool,
}

pub(super) fn demo(args: &DemoArgs) -> Result<(), CliError> {
    let output_is_stdout = args.output.as_deref() == Some(Path::new("-"));
    if args.json && output_is_stdout {
        let text = "--json and --output - both want standard output: write the stream to a file";
        return Err(CliError::new(Fail::Usage, text));
    }
    interrupt::on_interrupt(|| INTERRUPTED.store(true, Ordering::Relaxed));
    let plan = Plan { peers: usize::from(args.peers), bandwidth: args.bandwidth };
    let board = Board::new(args.json || output_is_stdout);
    let mut show = Show::start(args, plan, board)?;
    let summary = show.stream()?;
    let text = summary.text(show.board.style);
    show.board.lines(&text);
    if args.json {
        let json = to_json(&summary.json())?;
        print(|out, _| writeln!(out, "{json}"))?;
    }
    if args.keep_running {
        show.keep_running()?;
    }
    if summary.problems().is_empty() { Ok(()) } else { Err(CliError::said(Fail::Failure)) }
}

/// How often the demo looks at what happens.
const TICK: Duration = Duration::from_millis(20);
const SECOND: Duration = Duration::from_secs(1);

/// One run of the demo.
struct Show<'a> {
    args: &'a DemoArgs,
    plan: Plan,
    world: World,
    board: Board,
    tree: Vec<EdgeRow>,
    dead: Option<PeerName>,
}

impl<'a> Show<'a> {
    /// Starts the overlay and waits for its tree.
    fn start(args: &'a DemoArgs, plan: Plan, mut board: Board) -> Result<Self, CliError> {
        let style = board.style;
        board.line(&style.bold(&format!("A ring of {} peers on this machine", plan.peers)));
        board.line("Each is a process of its own and knows only its two neighbours.");
        board.line("");
        let start = clock::now();
        let mut world = World::start(plan)?;
        let tree = world.wait_for_tree(plan)?;
        let mut show = Self { args, plan, world, board, tree, dead: None };
        show.board.line(&format!(
            "After {} ms they agree on the maximum spanning tree:",
            start.elapsed().as_millis()
        ));
        show.picture(&[]);
        Ok(show)
    }

    /// Opens the channel, streams, kills a relay on the way.
    fn stream(&mut self) -> Result<Summary, CliError> {
        let destination = self.world.names()[self.plan.destination()].clone();
        let start = clock::now();
        let streaming = Streaming::start(self.args, self.plan, &self.world)?;
        let path = streaming.path.clone();
        self.board.line(&format!(
            "A channel of {} to {destination}, opened in {} ms, crosses {} relays:",
            self.args.bandwidth,
            start.elapsed().as_millis(),
            path.len().saturating_sub(2)
        ));
        self.picture(&path);
        self.board.line(if self.args.no_kill {
            "The stream runs."
        } else {
            "The stream runs; half-way, one of the relays will be killed."
        });
        let mut watch = Watch::new(&streaming);
        watch.latencies.poll(&self.world, &streaming.entry.channel, &path, self.board.style);
        self.watch(&streaming, &mut watch)?;
        self.board.keep();
        if watch.kill.is_none() && !self.args.no_kill {
            self.board.line("The stream was over before a relay could be killed.");
        }
        self.board.line("");
        let (kill, path_after) = (watch.kill, watch.path);
        let latencies = watch.latencies;
        streaming.finish(kill, path_after, latencies)
    }

    /// Looks at the stream until it is over.
    fn watch(&mut self, streaming: &Streaming, watch: &mut Watch) -> Result<(), CliError> {
        while !streaming.is_over() {
            clock::sleep(TICK);
            check_interrupt()?;
            self.world.check_children()?;
            let now = streaming.elapsed();
            if now >= watch.next {
                watch.next += SECOND;
                self.progress(streaming, watch);
            }
            let due = !self.args.no_kill && watch.kill.is_none();
            if due && watch.half.is_reached(streaming) {
                self.kill(streaming, watch)?;
            }
            if watch.kill.is_some() && !watch.resumed {
                self.look_for_stream(streaming, watch);
            }
        }
        Ok(())
    }

    fn kill(&mut self, streaming: &Streaming, watch: &mut Watch) -> Result<(), CliError> {
        // The channel may have moved before, if the machine held a daemon up for too long.
        let path = streaming.current_path(&self.world);
        let Some([_, relays @ .., _]) = path.as_deref() else { return Ok(()) };
        let Some(victim) = relays.get(relays.len() / 2).cloned() else { return Ok(()) };
        let at = self.world.kill(&victim)?;
        let at = streaming.since_start(at);
        self.dead = Some(victim.clone());
        let style = self.board.style;
        self.board.keep();
        self.board.line("");
        self.board.line(&format!(
            "{} {victim}, {:.1} s after the start (SIGKILL: not a word to anybody)",
            style.red("Killed"),
            at.as_secs_f64()
        ));
        watch.kill = Some(Kill { peer: victim, at });
        Ok(())
    }

    /// Says when frames come again, and which way.
    fn look_for_stream(&mut self, streaming: &Streaming, watch: &mut Watch) {
        let Some(kill) = &watch.kill else { return };
        let moved_at = match watch.moved_at {
            Some(at) => at,
            None => {
                let path = streaming.current_path(&self.world);
                let Some(path) = path.filter(|path| !path.contains(&kill.peer)) else { return };
                watch.path = path;
                *watch.moved_at.insert(streaming.elapsed())
            }
        };
        let Some(gap) = streaming.gap(kill.at, moved_at) else { return };
        let path = watch.path.clone();
        watch.resumed = true;
        if let Some(tree) = self.world.agreed_tree() {
            self.tree = tree;
        }
        let style = self.board.style;
        self.board.keep();
        self.board.line(&format!(
            "{} {} ms later the stream runs on, by itself, over another path:",
            style.green("Moved"),
            gap.as_millis()
        ));
        self.picture(&path);
    }

    /// The block of one second.
    fn progress(&mut self, streaming: &Streaming, watch: &mut Watch) {
        let now = streaming.elapsed();
        let taken = streaming.taken();
        let rate = streaming.rate(&watch.taken, &taken, now.saturating_sub(watch.taken_at));
        (watch.taken, watch.taken_at) = (taken, now);
        let style = self.board.style;
        let settled = watch.kill.is_none() || watch.resumed;
        let path = streaming.current_path(&self.world).filter(|path| *path != watch.path);
        if let Some(path) = path.filter(|_| settled) {
            // Not our doing: the machine held a daemon up for so long that its link seemed dead.
            self.board.keep();
            self.board.line(&format!("Moved by itself to {}", path_text(&path, 20)));
            watch.path = path;
        }
        let lost = streaming.lost_so_far();
        let lost = format!("{lost} {} lost", if lost == 1 { "frame" } else { "frames" });
        let title = format!("{:>4} s  {:>12}  {lost}", now.as_secs(), about(rate));
        let mut lines = vec![style.bold(&title)];
        let path = watch.path.clone();
        lines.extend(watch.latencies.poll(&self.world, &streaming.entry.channel, &path, style));
        self.board.block(&lines);
    }

    fn picture(&mut self, path: &[PeerName]) {
        let peers = self.world.names();
        let ring = Ring {
            peers: &peers,
            destination: self.plan.destination(),
            tree: &self.tree,
            path,
            dead: self.dead.as_ref(),
        };
        let lines = ring.lines(self.board.style);
        self.board.line("");
        self.board.lines(&lines);
        self.board.line("");
    }

    /// Tells how to look around and waits for Ctrl-C.
    fn keep_running(&mut self) -> Result<(), CliError> {
        let program =
            std::env::current_exe().map_or_else(|_| "spanway".to_owned(), |path| shell_word(&path));
        let folder = shell_word(&self.world.folder);
        let names = self.world.names();
        let (first, last) = (&names[0], &names[self.plan.destination()]);
        let mut lines = vec![
            String::new(),
            "The overlay keeps running. In another terminal:".to_owned(),
            format!("  cd {folder}"),
            format!("  alias spanway={program}"),
            format!("  spanway tree --config {first}.toml"),
            format!("  spanway peers --config {first}.toml"),
            format!("  spanway recv inbox --config {last}.toml > copy &"),
            format!(
                "  spanway send {last}/inbox --bandwidth 10Mbit/s --config {first}.toml < FILE"
            ),
        ];
        for peer in self.world.peers.iter().filter(|peer| !peer.runs()) {
            lines.push(format!("  spanway run --config {}.toml   # brings it back", peer.name));
        }
        lines.push(format!("Ctrl-C ends it and removes {folder}"));
        self.board.lines(&lines);
        while !INTERRUPTED.load(Ordering::Relaxed) {
            clock::sleep(TICK);
            self.world.check_children()?;
        }
        Ok(())
    }
}

/// What has been seen of the stream.
struct Watch {
    half: Half,
    kill: Option<Kill>,
    /// When the channel was seen on another path, and whether the stream was seen on it.
    moved_at: Option<Duration>,
    resumed: bool,
    path: Vec<PeerName>,
    latencies: Latencies,
    taken: stream::Taken,
    taken_at: Duration,
    next: Duration,
}

impl Watch {
    fn new(streaming: &Streaming) -> Self {
        Self {
            half: streaming.half,
            kill: None,
            moved_at: None,
            resumed: false,
            path: streaming.path.clone(),
            latencies: Latencies::default(),
            taken: stream::Taken::default(),
            taken_at: Duration::ZERO,
            next: SECOND,
        }
    }
}
