//! `spanway forward`: a plain UDP proxy on the engine's workers, without overlay and daemon.
//!
//! This side checks the arguments, starts the workers, prints what they count and stops them. What
//! happens to a datagram is the engine's.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::{SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::clock;
use super::interrupt::on_interrupt;
use super::screen::{CliError, Fail, Style, print, say};
use super::traffic::Reading;
use super::values::{Cpus, cpus, duration};
use crate::daemon::in_words;
use crate::engine::{BackendChoice, Engine, EngineConfig, EngineError, Event, ProxySpec};
use crate::limits::{PROXY_CLIENTS_DEFAULT, PROXY_CLIENTS_MAX};

/// How often a worker that failed is looked for.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  spanway forward --listen 0.0.0.0:5000 --to 192.0.2.7:5000
  spanway forward --listen [::]:53 --to 127.0.0.1:5353 --cpus 0,1 --json
Every client gets a socket of its own towards the server, so that answers find their way back. Ends with
Ctrl-C or SIGTERM and a summary in which every datagram is accounted for.")]
pub(super) struct ForwardArgs {
    /// Where clients send to
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// The server; a name is resolved once
    #[arg(long, value_name = "ADDRESS:PORT")]
    to: String,
    /// One pinned worker on each of these CPUs, as in 0,2-3 [default: one worker, not pinned]
    #[arg(long, value_name = "LIST", value_parser = cpus)]
    cpus: Option<Cpus>,
    /// How frames are moved: what the kernel allows, or one of two
    #[arg(long, value_name = "auto|uring|mmsg", default_value = "auto", value_parser = backend)]
    backend: BackendChoice,
    /// A client that was silent for this long in both directions is forgotten
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    idle: Duration,
    /// Datagrams of more clients than this at a time are dropped
    #[arg(long, value_name = "N", default_value_t = PROXY_CLIENTS_DEFAULT,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(PROXY_CLIENTS_MAX)))]
    clients_max: u32,
    /// Never wait for more datagrams before passing on what has come: less delay for more CPU
    #[arg(long)]
    latency: bool,
    /// How often counters are printed [default: 1s on a terminal or with --json, otherwise never]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    stats_every: Option<Duration>,
    /// Print JSON, one object a line, as README describes it
    #[arg(long)]
    json: bool,
}

pub(super) fn forward(args: &ForwardArgs) -> Result<(), CliError> {
    let server = resolve(&args.to)?;
    if leads_back(args.listen, server) {
        let text = format!(
            "--to {server} is where this proxy listens ({}): every datagram would come back to it",
            args.listen
        );
        return Err(CliError::new(Fail::Usage, text));
    }
    let started = clock::now();
    let engine = start(args, server, started)?;
    let stop = stop_flag();
    let mut shown = Shown { args, engine, started };
    shown.started(server)?;
    let ended = shown.until(&stop);
    shown.finish(ended)
}

fn start(args: &ForwardArgs, server: SocketAddr, origin: Instant) -> Result<Engine, CliError> {
    let cpus = match &args.cpus {
        Some(Cpus(cpus)) => cpus.iter().copied().map(Some).collect(),
        None => vec![None],
    };
    let (listen, latency) = (args.listen, args.latency);
    let config = EngineConfig {
        listen,
        cpus,
        backend: args.backend,
        dscp: crate::types::Dscp::default(),
        origin,
        latency,
    };
    let spec = ProxySpec { server, idle: args.idle, clients_max: args.clients_max };
    Engine::start_proxy(config, spec).map_err(|error| match error {
        EngineError::Bind { address, source } => {
            CliError::failure(format!("cannot listen on UDP {address}: {}", in_words(&source)))
        }
        EngineError::Workers { .. }
        | EngineError::Backend(_)
        | EngineError::Start { .. }
        | EngineError::Files { .. } => CliError::failure(error.to_string()),
    })
}

/// Set, and this thread woken, by the first signal.
fn stop_flag() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let (asked, printer) = (Arc::clone(&stop), thread::current());
    on_interrupt(move || {
        asked.store(true, Relaxed);
        printer.unpark();
    });
    stop
}

/// A running proxy and how it is printed.
struct Shown<'a> {
    args: &'a ForwardArgs,
    engine: Engine,
    started: Instant,
}

impl Shown<'_> {
    fn started(&self, server: SocketAddr) -> Result<(), CliError> {
        let (backend, why) = self.engine.backend();
        let workers = self.engine.workers();
        let listen = workers.first().map_or(self.args.listen, |worker| worker.address);
        if self.args.json {
            let workers = workers.iter().map(
                |worker| json!({ "cpu": worker.cpu, "receive_buffer_bytes": worker.receive_buffer }),
            );
            let line = json!({
                "event": "started", "listen": listen, "to": server, "backend": backend,
                "backend_reason": why, "clients_max": self.args.clients_max,
                "idle_ms": u64::try_from(self.args.idle.as_millis()).unwrap_or(u64::MAX),
                "workers": workers.collect::<Vec<_>>(),
            });
            return print(|out, _| writeln!(out, "{line}"));
        }
        let count = workers.len();
        let workers = if count == 1 { "1 worker".to_owned() } else { format!("{count} workers") };
        say(&format!("forwarding {listen} to {server}: {workers}, back end {backend} ({why})"));
        Ok(())
    }

    /// Until the flag is set or a worker could not go on, which is said.
    fn until(&mut self, stop: &AtomicBool) -> Result<(), CliError> {
        let live = !self.args.json && io::stderr().is_terminal();
        let default = (self.args.json || live).then_some(Duration::from_secs(1));
        let every = self.args.stats_every.or(default);
        let (mut events, mut before) = (Vec::new(), self.reading());
        let mut due = every.map(|every| self.started + every);
        while !stop.load(Relaxed) {
            let wait = due.map_or(LOOK, |due| due.saturating_duration_since(clock::now()));
            thread::park_timeout(wait.min(LOOK));
            self.engine.poll_events(&mut events);
            for event in events.drain(..) {
                if let Event::Failed(text) = event {
                    return Err(CliError::failure(format!("the proxy had to stop: {text}")));
                }
            }
            if let (Some(at), Some(every)) = (due, every)
                && at <= clock::now()
            {
                let reading = self.reading();
                self.tell(&reading, &before, live)?;
                before = reading;
                // A printer that was held up does not print the missed lines at once.
                due = Some((at + every).max(clock::now()));
            }
        }
        Ok(())
    }

    fn tell(&self, reading: &Reading, before: &Reading, live: bool) -> Result<(), CliError> {
        if self.args.json {
            let line = reading.json_since(before).map_err(cannot_print)?;
            return print(|out, _| writeln!(out, "{line}"));
        }
        let line = reading.line_since(before, Style::of(&io::stderr()));
        if live {
            // Over the last one; there is nobody left to tell if that fails.
            let _ = write!(io::stderr().lock(), "\r{line}\x1b[K");
        } else {
            say(&line);
        }
        Ok(())
    }

    /// Stops the workers and says what there was.
    fn finish(mut self, ended: Result<(), CliError>) -> Result<(), CliError> {
        self.engine.stop();
        let reading = self.reading();
        if !self.args.json && io::stderr().is_terminal() {
            say("");
        }
        let printed = if self.args.json {
            let line = reading.json_summary().map_err(cannot_print)?;
            print(|out, _| writeln!(out, "{line}"))
        } else {
            print(|out, style| reading.write_summary(out, style))
        };
        ended.and(printed)
    }

    fn reading(&self) -> Reading {
        let workers = self.engine.workers().iter();
        let stats = workers.filter_map(|worker| Some((&*worker.stats, worker.proxy.as_deref()?)));
        Reading::of(self.started.elapsed(), stats)
    }
}

fn cannot_print(error: serde_json::Error) -> CliError {
    CliError::failure(format!("the counters cannot be printed: {error}"))
}

/// The server's address: as written, or what its name means now.
fn resolve(text: &str) -> Result<SocketAddr, CliError> {
    let usage = |why: String| CliError::new(Fail::Usage, format!("--to {text}: {why}"));
    let form = "write ADDRESS:PORT or NAME:PORT, as in 192.0.2.7:5000";
    let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_none() {
        return Err(usage(form.to_owned()));
    }
    let address = match text.to_socket_addrs() {
        Ok(mut addresses) => addresses.next().ok_or_else(|| usage("has no address".to_owned()))?,
        Err(error) => {
            let text = format!("--to {text}: cannot be resolved ({error}); {form}");
            return Err(CliError::failure(text));
        }
    };
    if address.port() == 0 || address.ip().is_unspecified() {
        return Err(usage(format!("nothing can be sent there; {form}")));
    }
    Ok(address)
}

/// Whether what goes to `to` comes in at `listen`.
fn leads_back(listen: SocketAddr, to: SocketAddr) -> bool {
    let (listen_ip, to_ip) = (listen.ip().to_canonical(), to.ip().to_canonical());
    // Only an address of this host can be bound.
    let own = || UdpSocket::bind((to_ip, 0)).is_ok();
    listen.port() == to.port() && (listen_ip == to_ip || (listen_ip.is_unspecified() && own()))
}

fn backend(text: &str) -> Result<BackendChoice, String> {
    match text {
        "auto" => Ok(BackendChoice::Auto),
        "uring" => Ok(BackendChoice::Uring),
        "mmsg" => Ok(BackendChoice::Mmsg),
        _ => Err(format!("{text:?} is no back end: auto, uring and mmsg are")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_server_is_an_address_or_a_name_with_a_port() {
        assert_eq!(resolve("192.0.2.7:5000").expect("an address"), address("192.0.2.7:5000"));
        assert_eq!(resolve("[2001:db8::7]:53").expect("an address"), address("[2001:db8::7]:53"));
        assert!(resolve("localhost:53").expect("a name").ip().is_loopback());
        for text in ["", "localhost", "192.0.2.7", "192.0.2.7:", "192.0.2.7:0", "0.0.0.0:5", ":5x"]
        {
            let error = resolve(text).expect_err(text);
            assert!(error.text.contains(text) && error.text.contains("NAME:PORT"), "{error:?}");
        }
    }

    #[test]
    fn a_proxy_that_would_talk_to_itself_is_known() {
        for (listen, to) in [
            ("127.0.0.1:53", "127.0.0.1:53"),
            ("0.0.0.0:53", "127.0.0.1:53"),
            ("[::]:53", "127.0.0.1:53"),
            ("[::]:53", "[::ffff:127.0.0.1]:53"),
            ("0.0.0.0:53", "127.9.9.9:53"),
        ] {
            assert!(leads_back(address(listen), address(to)), "{listen} {to}");
        }
        for (listen, to) in [
            ("127.0.0.1:53", "127.0.0.1:54"),
            ("127.0.0.1:53", "127.0.0.2:53"),
            ("0.0.0.0:53", "192.0.2.7:53"),
        ] {
            assert!(!leads_back(address(listen), address(to)), "{listen} {to}");
        }
    }
}
