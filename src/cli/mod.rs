//! The command line: arguments in, one request to a daemon (or a daemon itself) behind, words and an
//! exit code out.
//!
//! | file | commands |
//! | --- | --- |
//! | [`setup`] | `run`, `init`, `key`, `config` |
//! | [`read`] | `status`, `peers`, `links`, `tree`, `channels`, `services`, `verify` |
//! | [`events`] | `events` |
//! | [`page`] | `page` |
//! | [`graph`] | `graph` |
//! | [`course`] | `tree --course` |
//! | [`latency`] | `latency` |
//! | [`ledger`] | `channels --ledger` |
//! | [`statistics`] | `statistics` |
//! | [`link`] | `link add`, `link remove` |
//! | [`allow`] | `allow` |
//! | [`invite`], [`join`] | `invite`, `invitations`, `join` |
//! | [`open`] | `open`, `close`, `reload`, `recompute`, `leave` |
//! | [`send`], [`recv`] | `send`, `recv` |
//! | [`watch`] | `open --watch`, and what `send` says meanwhile |
//! | [`why`] | `why` |
//! | [`forward`] | `forward` |
//! | [`doctor`] | `doctor` |
//! | [`top`] | `top` |
//! | [`manual`] | `completions`, `man` |
//! | [`demo`] | `demo` |
//!
//! [`screen`] holds what they share: the error with its exit code, standard output, colours;
//! [`table`], [`drawing`] and [`traffic`] the shapes of text. Nothing here decides anything about the
//! overlay.

mod allow;
mod clock;
mod course;
mod demo;
mod doctor;
mod drawing;
mod events;
mod fit;
#[cfg(test)]
mod fixtures;
mod forward;
mod graph;
mod interrupt;
mod invite;
mod join;
mod latency;
mod ledger;
mod link;
mod manual;
mod measure;
mod open;
mod page;
mod progress;
mod queue;
mod read;
mod recv;
mod reorder;
mod screen;
mod send;
mod setup;
mod statistics;
mod table;
mod top;
mod traffic;
mod values;
mod watch;
mod why;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::api::dto::{self, PathChoice};
use crate::config::values::address;
use crate::limits;
use crate::types::{Bandwidth, PeerName, ServiceName};
use screen::{CliError, Fail};
use values::{BackRate, Destination, duration, path_choice, percent};

const EXAMPLES: &str = "\
Examples:
  spanway demo                                    see it work, nothing to prepare
  spanway init --peers 5 --seed 1 --dir overlay   write five configurations
  spanway run --config overlay/peer-01.toml       run one of the peers
  spanway tree --config overlay/peer-01.toml      what that peer knows
  spanway open peer-03/video --bandwidth 20Mbit/s --config overlay/peer-01.toml

Exit codes: 0 ok, 1 failure, 2 usage, 3 rejected, 4 queued or timed out.";

/// Runs the command this process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

/// The whole command line as its parser has it, for pages that are made from it.
pub fn command() -> clap::Command {
    Cli::command()
}

#[derive(Debug, Parser)]
#[command(
    name = "spanway",
    version,
    about = "Guaranteed-rate channels for live UDP streams over an overlay of Linux hosts",
    after_help = EXAMPLES,
    disable_help_subcommand = true,
    infer_long_args = false
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start an overlay on this machine, stream over it, kill a relay, show what happens
    Demo(demo::DemoArgs),
    /// Run the daemon of one peer
    Run(RunArgs),
    /// Write the configurations of a random overlay
    Init(InitArgs),
    /// Print the public key of a peer, or make a key file
    Key(KeyArgs),
    /// Check a configuration file, print a commented one or its schema
    Config {
        #[command(subcommand)]
        action: ConfigAction,
    },
    /// Ask for a channel to a service of another peer
    Open(OpenArgs),
    /// Say whether a channel would be opened now, later or never, without reserving anything
    WouldFit(FitArgs),
    /// Close a channel, by its id or name
    Close(ChannelArgs),
    /// List the requests of this peer that wait for room, and what each waits for
    Queue(Target),
    /// List the channels that end here or cross this peer
    Channels(ChannelsArgs),
    /// List the peers this one knows
    Peers(Target),
    /// List the links of this peer
    Links(Target),
    /// Give this peer a link more or less, now and in its configuration file
    Link {
        #[command(subcommand)]
        action: LinkAction,
    },
    /// Show the rules for channels of others, and what others have by them
    Allow(Target),
    /// Print an invitation with which one newcomer joins the overlay at this peer
    Invite(InviteArgs),
    /// List the invitations that are known here, or revoke one
    Invitations(InvitationsArgs),
    /// Join an overlay with an invitation: make a key and a configuration, and run the daemon
    Join(JoinArgs),
    /// Draw the spanning tree
    Tree(TreeArgs),
    /// Show the whole overlay as this peer knows it: every peer, every link, what is free
    Graph(GraphArgs),
    /// Show how the daemon is doing
    Status(Target),
    /// Show what was counted: recoveries and their gaps, answers, computations, messages
    Statistics(Target),
    /// Look for trouble on this host, in the configuration and with the neighbours, and say what to do
    Doctor(Target),
    /// Watch channels, links and drops on the whole terminal
    Top(TopArgs),
    /// List the services of a peer
    Services(ServicesArgs),
    /// Check the tree against an independent computation
    Verify(Target),
    /// Find out what the link to a neighbour carries, and what to configure
    Measure(MeasureArgs),
    /// Read the configuration file again: all of it, or nothing on a mistake
    Reload(Target),
    /// Start a new computation of the tree
    Recompute(Target),
    /// Print the address of this peer's web pages, with the token they ask for
    Page(Target),
    /// Show what happens, as it happens
    Events(EventsArgs),
    /// Show how long frames are inside this peer, or on their way in a channel
    Latency(LatencyArgs),
    /// Say where a channel is slow, and where its frames are dropped or lost: every peer of its path is asked
    Why(ChannelArgs),
    /// Stream standard input to a service, at the rate of its channel
    Send(SendArgs),
    /// Write the stream that comes for a service to standard output
    Recv(RecvArgs),
    /// Relay plain UDP between clients and one server; no overlay, no daemon
    Forward(forward::ForwardArgs),
    /// Leave the overlay once its channels have moved, and stop the daemon
    Leave(LeaveArgs),
    /// Print what a shell needs to complete commands and options
    Completions(CompletionsArgs),
    /// Print the manual page, or write one a command
    Man(ManArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(spanway completions bash)
  spanway completions fish > ~/.config/fish/completions/spanway.fish")]
struct CompletionsArgs {
    /// For which shell
    shell: manual::KnownShell,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  spanway man | man -l -
  spanway man ~/.local/share/man/man1")]
struct ManArgs {
    /// Where a page for each command goes [default: the program's own to standard output]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Which daemon, and how to print.
#[derive(Clone, Debug, Args)]
struct Target {
    /// The daemon's configuration file: it says where the daemon listens
    #[arg(long, value_name = "FILE", env = "SPANWAY_CONFIG")]
    config: Option<PathBuf>,
    /// Print JSON, as README describes it
    #[arg(long)]
    json: bool,
    /// Print whole lines: nothing is shortened to fit 80 columns
    #[arg(long, conflicts_with = "json")]
    wide: bool,
}

#[derive(Debug, Args)]
struct TopArgs {
    /// The daemon's configuration file: it says where the daemon listens
    #[arg(long, value_name = "FILE", env = "SPANWAY_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The peer's configuration file
    #[arg(long, value_name = "FILE", env = "SPANWAY_CONFIG")]
    config: Option<PathBuf>,
    /// Log more: every connection and what the machines think
    #[arg(long, short, conflicts_with = "quiet")]
    verbose: bool,
    /// Log only what a person should look at
    #[arg(long, short)]
    quiet: bool,
    /// Never wait for more frames before passing on what has come: less delay for more CPU
    #[arg(long)]
    latency: bool,
    /// Stop when standard input closes: a parent that dies takes the daemon with it
    #[arg(long, hide = true)]
    while_stdin: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  spanway init --peers 10 --edges 80 --seed 7 --dir overlay
Writes overlay/peer-01.toml to peer-10.toml and a key file for each; all on 127.0.0.1.")]
struct InitArgs {
    /// How many peers
    #[arg(long, value_name = "N", default_value_t = 10)]
    peers: usize,
    /// Percent of all possible links; the overlay is connected in any case
    #[arg(long, value_name = "PERCENT", default_value = "80", value_parser = percent)]
    edges: u8,
    /// The same seed gives the same links and capacities (keys are always new)
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Where the files go
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Port of the first peer; the others follow 16 apart
    #[arg(long, value_name = "PORT", default_value_t = 17_000,
          value_parser = clap::value_parser!(u16).range(1..))]
    listen_base: u16,
}

#[derive(Debug, Args)]
struct KeyArgs {
    #[command(flatten)]
    target: Target,
    /// Make a new key in this file; it must not exist
    #[arg(long, value_name = "FILE")]
    new: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum ConfigAction {
    /// Check a configuration file without starting anything
    Check(CheckArgs),
    /// Print a configuration file with every key explained
    PrintDefault,
    /// Print the JSON Schema of configuration files, for editors
    Schema,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// Show every key with the value that holds, and whether it is the file's or the default
    #[arg(long)]
    show: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Subcommand)]
enum LinkAction {
    /// Add a link to a neighbour; its operator must do the same there
    Add(LinkAddArgs),
    /// Remove a link: channels that cross it move
    Remove {
        /// The neighbour
        peer: PeerName,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  spanway link add peer-09 --key KEY --capacity 50Mbit/s --address 192.0.2.9:7000
`spanway key` on the neighbour's host prints its KEY.")]
struct LinkAddArgs {
    /// The neighbour's name
    peer: PeerName,
    /// Its public key, 64 hexadecimal digits
    #[arg(long)]
    key: String,
    /// What the link carries, each way
    #[arg(long, value_name = "RATE", allow_hyphen_values = true)]
    capacity: Bandwidth,
    /// Where it listens [default: only the neighbour dials]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    address: Option<SocketAddr>,
    /// Largest IP packet that the way there carries [default: 1500]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u16>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  spanway invite --name oslo --capacity 50Mbit/s
  spanway invite --expires 10m --address 203.0.113.7:7000
Standard output has the invitation and nothing else. Whoever has it may join, once: treat it as a password.")]
struct InviteArgs {
    /// What the newcomer has to call itself [default: any name that is free]
    #[arg(long)]
    name: Option<PeerName>,
    /// What the link to it carries, each way [default: `[trust] capacity`]
    #[arg(long, value_name = "RATE", allow_hyphen_values = true)]
    capacity: Option<Bandwidth>,
    /// How long it is good, 10s to 720h [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    expires: Option<Duration>,
    /// Where the newcomer shall dial; may be given several times [default: where this peer listens]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    address: Vec<SocketAddr>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
struct InvitationsArgs {
    /// Make this one void, by its id
    #[arg(long, value_name = "ID")]
    revoke: Option<String>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  spanway join spanway1-AAZiZXJsaW4...
  ssh berlin spanway invite | spanway join - --name oslo --dir /etc/spanway
Makes NAME.toml and NAME.key; a configuration that is there already gains the link. Whatever ends it early, the
same command again goes on.")]
struct JoinArgs {
    /// The invitation; `-` reads it from standard input, where no list of processes shows it
    token: String,
    /// What this peer is called, unique in the overlay [default: as the invitation says, or the
    /// name of the host]
    #[arg(long)]
    name: Option<PeerName>,
    /// Where it listens: TCP and UDP, others must reach it there [default: 0.0.0.0:7000]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    listen: Option<SocketAddr>,
    /// What the link carries, each way, if that is less than the invitation says
    #[arg(long, value_name = "RATE", allow_hyphen_values = true)]
    capacity: Option<Bandwidth>,
    /// Where the files go [default: this folder]
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    dir: Option<PathBuf>,
    /// The configuration file to make, or one that is there and gains the link
    #[arg(long, value_name = "FILE", env = "SPANWAY_CONFIG")]
    config: Option<PathBuf>,
    /// Join and end: the daemon is started otherwise
    #[arg(long)]
    no_run: bool,
    /// Stop when standard input closes: a parent that dies takes the daemon with it
    #[arg(long, hide = true)]
    while_stdin: bool,
    /// Log more: every connection and what the machines think
    #[arg(long, short)]
    verbose: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  spanway open peer-03/video --bandwidth 20Mbit/s
  spanway open peer-03/game --bandwidth 5Mbit/s --bandwidth-back same --listen 127.0.0.1:5000
  spanway open peer-03/video --bandwidth 20Mbit/s --path peer-02,peer-03
Programs then send their datagrams to the printed address.")]
struct OpenArgs {
    /// The service, as PEER/SERVICE
    destination: Destination,
    #[command(flatten)]
    rates: Rates,
    /// A name to use instead of the channel's id
    #[arg(long)]
    name: Option<ServiceName>,
    /// Where local programs send to [default: a free port on loopback]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where datagrams that come back go [default: to the last local sender]
    #[arg(long, value_name = "ADDRESS:PORT")]
    deliver: Option<SocketAddr>,
    /// Who besides this host may send to --listen, as ADDRESS/BITS
    #[arg(long, value_name = "PREFIX")]
    from: Option<String>,
    #[command(flatten)]
    way: Way,
    /// Say what was tried, who refused and how much one path can carry at most
    #[arg(long)]
    explain: bool,
    /// Wait this long for the final answer (30s without a value) [default: 5s]
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true,
          default_missing_value = "30s", value_parser = duration)]
    wait: Option<Duration>,
    /// Keep a second path reserved: if the first breaks, frames take it at once
    #[arg(long)]
    protect: bool,
    /// Let what is above the bandwidth wait for up to 50 ms before it is dropped
    #[arg(long)]
    shape: bool,
    /// Ask for it again after a restart of the daemon, and whenever it ends otherwise than by `spanway close`
    /// here
    #[arg(long)]
    keep: bool,
    /// Do not seal it, for programs that encrypt by themselves: every relay can read and change what is sent
    #[arg(long)]
    plain: bool,
    /// The same request under the same key gets the same answer and one reservation, for ten minutes after it
    /// was answered; it stands in line until its deadline even if this command ends
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Stay, and say what happens to the channel: within a second what is dropped and the rate to use.
    /// Ctrl-C ends this command and leaves the channel open
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    target: Target,
}

/// Which paths may be tried.
#[derive(Debug, Args)]
struct Way {
    /// `tree`, `widest`, or one path: the peers behind this one in order, the destination last [default: the
    /// tree's where it has room, the widest otherwise]
    #[arg(long, value_name = "tree|widest|PEER,...", value_parser = path_choice, default_value = "tree-then-widest", hide_default_value = true)]
    path: PathChoice,
    /// Peers that no path may cross, now or after a failure
    #[arg(long, value_name = "PEER,...", value_delimiter = ',')]
    avoid: Vec<PeerName>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  spanway would-fit peer-03 --bandwidth 20Mbit/s
Exit codes: 0 now, 4 later, 3 never.")]
struct FitArgs {
    /// The peer that the channel would lead to
    peer: PeerName,
    #[command(flatten)]
    rates: Rates,
    #[command(flatten)]
    way: Way,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
struct LeaveArgs {
    /// Wait at most this long for channels that cross this peer to move
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Go at once: channels that cross this peer break, and move then
    #[arg(long, conflicts_with = "timeout")]
    now: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
struct Rates {
    /// Bandwidth to reserve, with its unit, as in 20Mbit/s; it counts whole IP packets
    #[arg(long, value_name = "RATE", allow_hyphen_values = true)]
    bandwidth: Bandwidth,
    /// The same for the way back, or `same` [default: 2 %, at least 64 kbit/s]
    #[arg(long, value_name = "RATE|same", allow_hyphen_values = true)]
    bandwidth_back: Option<BackRate>,
    /// Reserve nothing for the way back: what is sent there is dropped
    #[arg(long, conflicts_with = "bandwidth_back")]
    one_way: bool,
}

impl Rates {
    /// Bandwidth for the way back, if it was given.
    fn back(&self) -> Option<Bandwidth> {
        let given = self.bandwidth_back.map(|back| back.rate(self.bandwidth));
        given.or_else(|| self.one_way.then_some(Bandwidth::ZERO))
    }
}

#[derive(Debug, Args)]
struct TreeArgs {
    /// How the last computation went: what each peer did, step by step
    #[arg(long)]
    course: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
struct ChannelsArgs {
    /// Where every frame went: entered and received = sent, delivered and dropped, or exit code 1
    #[arg(long)]
    ledger: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
struct ChannelArgs {
    /// The channel's id or name, as `spanway channels` lists it
    channel: String,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  spanway latency                                 time inside this peer, by lane, hop and worker
  spanway latency film                            one-way times of a channel, from its entry to here
  spanway latency film --watch 10 --hgrm film.hgrm
Times of a channel are shown as variation if the clocks of the two hosts differ.")]
struct LatencyArgs {
    /// The channel's id or name [default: this peer's own work]
    channel: Option<String>,
    /// Count with three digits for so many seconds, then show that
    #[arg(long, value_name = "SECONDS", requires = "channel",
          value_parser = clap::value_parser!(u32).range(1..=WATCH_SECONDS_MAX))]
    watch: Option<u32>,
    /// Write the percentiles for HdrHistogram's plotter: in ms of a channel, in us of this peer
    #[arg(long, value_name = "FILE")]
    hgrm: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

/// As a bound of an argument.
const WATCH_SECONDS_MAX: i64 = limits::WATCH_MAX.as_secs().cast_signed();

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  spanway graph --dot | dot -Tsvg > overlay.svg")]
struct GraphArgs {
    /// Print it for Graphviz
    #[arg(long, conflicts_with = "json")]
    dot: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  spanway events --follow                         also over a restart of the daemon
  spanway events --channel film
  spanway events --kind link_up,link_down --json")]
struct EventsArgs {
    /// Wait for the daemon when it stops, and go on when it is back
    #[arg(long)]
    follow: bool,
    /// Only what happens to this channel, by its id or name
    #[arg(long, value_name = "CHANNEL")]
    channel: Option<String>,
    /// Only events of these kinds
    #[arg(long, value_name = "KIND,...", value_delimiter = ',', value_parser = dto::EVENTS)]
    kind: Vec<String>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
struct ServicesArgs {
    /// Whose services
    peer: PeerName,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  spanway send peer-03/inbox --bandwidth 20Mbit/s < film.ts
Ends when the other end knows that the stream is over. Exit code 1 if frames were lost on this host.")]
struct SendArgs {
    /// The service, as PEER/SERVICE
    destination: Destination,
    #[command(flatten)]
    rates: Rates,
    /// Bytes of each datagram
    #[arg(long, value_name = "BYTES", default_value_t = 1316,
          value_parser = clap::value_parser!(u16).range(1..))]
    size: u16,
    /// Let what is above the bandwidth wait for up to 50 ms before it is dropped
    #[arg(long)]
    shape: bool,
    /// Do not seal it: every relay can read and change what is sent
    #[arg(long)]
    plain: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  spanway recv inbox > film.ts
Ends with the stream. Exit code 1 and the missing ranges on standard error if something is missing.")]
struct RecvArgs {
    /// A service of this peer that has neither `deliver` nor `listen`
    service: ServiceName,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  spanway measure peer-02
Sends trains of probes at rising rates there and back. Frames go first, but where the link is slower
than configured, channels that use it may lose some meanwhile.")]
struct MeasureArgs {
    /// A neighbour
    peer: PeerName,
    /// At most this long, 1s to 5s
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    duration: Duration,
    /// Try no higher rate, as in 200Mbit/s [default: four times the configured capacity]
    #[arg(long, value_name = "RATE", allow_hyphen_values = true)]
    max: Option<Bandwidth>,
    #[command(flatten)]
    target: Target,
}

fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Demo(args) => demo::demo(&args),
        Command::Run(args) => setup::run(args),
        Command::Init(args) => setup::init(&args),
        Command::Key(args) => setup::key(&args),
        Command::Config { action: ConfigAction::Check(args) } => setup::check(&args),
        Command::Config { action: ConfigAction::PrintDefault } => setup::print_default(),
        Command::Config { action: ConfigAction::Schema } => setup::schema(),
        Command::Open(args) => open::open(args),
        Command::WouldFit(args) => fit::would_fit(args),
        Command::Queue(target) => queue::queue(&target),
        Command::Close(args) => open::close(&args),
        Command::Why(args) => why::why(&args),
        Command::Measure(args) => measure::measure(&args),
        Command::Reload(target) => open::reload(&target),
        Command::Recompute(target) => open::recompute(&target),
        Command::Leave(args) => open::leave(&args),
        Command::Channels(args) if args.ledger => ledger::ledger(&args.target),
        Command::Channels(args) => read::channels(&args.target),
        Command::Peers(target) => read::peers(&target),
        Command::Links(target) => read::links(&target),
        Command::Link { action } => link::link(action),
        Command::Allow(target) => allow::allow(&target),
        Command::Invite(args) => invite::invite(args),
        Command::Invitations(args) => invite::invitations(args),
        Command::Join(args) => join::join(args),
        Command::Tree(args) if args.course => course::course(&args.target),
        Command::Tree(args) => read::tree(&args.target),
        Command::Graph(args) => graph::graph(&args),
        Command::Status(target) => read::status(&target),
        Command::Statistics(target) => statistics::statistics(&target),
        Command::Doctor(target) => doctor::doctor(&target),
        Command::Top(args) => top::top(&args),
        Command::Services(args) => read::services(args),
        Command::Verify(target) => read::verify(&target),
        Command::Page(target) => page::page(&target),
        Command::Events(args) => events::events(&args),
        Command::Latency(args) => latency::latency(args),
        Command::Send(args) => send::send(args),
        Command::Recv(args) => recv::recv(args),
        Command::Forward(args) => forward::forward(&args),
        Command::Completions(args) => manual::completions(args.shell),
        Command::Man(args) => manual::man(&args),
    }
}

impl Target {
    /// The configuration file, or what to do without one.
    fn config_file(&self) -> Result<&PathBuf, CliError> {
        self.config.as_ref().ok_or_else(needs_config)
    }
}

fn needs_config() -> CliError {
    CliError::new(
        Fail::Usage,
        "which peer? Add --config FILE with its configuration file, or set SPANWAY_CONFIG \
         (`spanway init --dir overlay` writes some, `spanway demo` needs none)",
    )
}

/// Time to wait for an answer that takes up to `deadline` in the overlay.
fn answer_time(deadline: Duration) -> Duration {
    deadline + limits::CLIENT_ANSWER_MAX
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    /// Every command that ends in an answer has it as JSON. The others print a program's text or bytes,
    /// a file in a form of its own, or draw.
    #[test]
    fn every_command_that_tells_something_has_json() {
        const WITHOUT: [&str; 8] = [
            "run",
            "join",
            "init",
            "top",
            "completions",
            "man",
            "config print-default",
            "config schema",
        ];
        fn walk(command: &clap::Command, path: &str, found: &mut Vec<String>) {
            for command in command.get_subcommands() {
                let path = format!("{path} {}", command.get_name()).trim_start().to_owned();
                let json = command.get_arguments().any(|arg| arg.get_long() == Some("json"));
                if !command.has_subcommands() && !json {
                    found.push(path.clone());
                }
                walk(command, &path, found);
            }
        }
        let mut without = Vec::new();
        walk(&Cli::command(), "", &mut without);
        let mut expected = WITHOUT.map(str::to_owned);
        without.sort();
        expected.sort();
        assert_eq!(without, expected);
    }

    #[test]
    fn wait_takes_a_time_only_behind_an_equals_sign() {
        let wait = |args: &[&str]| {
            let fixed = ["spanway", "open", "b/video", "--bandwidth", "1Mbit/s"];
            let cli = Cli::try_parse_from(fixed.iter().chain(args)).expect("parsed");
            let Command::Open(open) = cli.command else { panic!("not open") };
            open.wait
        };
        assert_eq!(wait(&[]), None);
        assert_eq!(wait(&["--wait"]), Some(Duration::from_secs(30)));
        assert_eq!(wait(&["--wait=500ms"]), Some(Duration::from_millis(500)));
    }

    #[test]
    fn a_rate_without_a_unit_shows_the_accepted_form() {
        for rate in ["10", "-5", "1e99", "NaN", "0 kbit/s"] {
            let args = ["spanway", "open", "b/video", "--bandwidth", rate];
            let error = Cli::try_parse_from(args).expect_err(rate);
            assert_eq!(error.exit_code(), 2, "{rate}");
            assert!(error.to_string().contains("bit/s"), "{error}");
        }
    }
}
