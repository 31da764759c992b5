//! One trial: one relay, freshly started on its CPU, under four loads: a fixed rate for the CPU of a
//! frame, a blast, the search for the highest rate without loss, half of that rate for the latency.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::candidates::{Candidate, Job};
use super::failure::{Failure, Outcome};
use super::load::Ends;
use super::net::{Network, run};
use super::plan::{Kind, Scenario};
use super::process::{Interrupt, Place, Running};
use super::record::{Settings, Trial};
use super::search::{Criterion, Effort, highest};
use super::turn;

/// The relay has one CPU for itself, generator and sink share the other.
pub(crate) const RELAY_CPU: u32 = 0;
pub(crate) const LOAD_CPU: u32 = 1;

/// RFC 2544 has none; real links lose that much anyway, and one hiccup of a virtual machine does not
/// end a search. The latency keeps queues from hiding an overload.
const CRITERION: Criterion = Criterion { loss_max: 0.001, p99_us_max: 50_000.0 };
const RESOLUTION: f64 = 0.03;
/// Before anything counts: relays make a session, caches and ARP get warm.
const WARM_UP: (f64, Duration) = (2_000.0, Duration::from_millis(150));
/// So often, until something arrives.
const WARM_UPS: u32 = 10;
/// Ports of trials begin here; each trial has its own, because a socket of io_uring outlives its
/// process for a moment.
const FIRST_PORT: u16 = 20_000;
const PORTS: u32 = 10_000;

/// What all trials of a scenario share.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) settings: &'a Settings,
    pub(crate) network: &'a Network,
    pub(crate) pktgen: &'a Path,
    pub(crate) folder: &'a Path,
    pub(crate) interrupt: &'a Interrupt,
}

impl Stage<'_> {
    /// `count` numbers the trials of a run; `note` is told which part begins.
    pub(crate) fn trial(
        &self,
        candidate: &Candidate,
        round: u32,
        count: u32,
        mut note: impl FnMut(&str),
    ) -> Outcome<Trial> {
        let (job, ends) = self.places(candidate, count)?;
        let mut relay = self.start(candidate, &job)?;
        let ms = Duration::from_millis;
        let settings = self.settings;
        if candidate.kind == Kind::Coturn {
            self.bind_turn(&ends)?;
        }
        note("warm-up");
        warm_up(&ends, relay.as_mut())?;
        note("fixed rate");
        let rate = Some(settings.fixed_rate);
        let fixed = ends.run(relay.as_ref(), rate, ms(settings.fixed_ms))?;
        note("blast");
        let blast = ends.run(relay.as_ref(), None, ms(settings.blast_ms))?;
        let effort = Effort { probes_max: settings.probes_max, resolution: RESOLUTION };
        let highest = highest(blast.delivered_rate, CRITERION, effort, |rate| {
            note(&format!("search {:.0} k/s", rate / 1e3));
            let load = ends.run(relay.as_ref(), Some(rate), ms(settings.probe_ms))?;
            Ok::<_, Failure>(load.probe(rate))
        })?;
        note("latency");
        let half = (highest.rate > 0.0)
            .then(|| ends.run(relay.as_ref(), Some(highest.rate / 2.0), ms(settings.latency_ms)))
            .transpose()?;
        if let Some(relay) = &mut relay
            && relay.ended()?
        {
            return Err(relay.failure("ended during the trial"));
        }
        Ok(Trial { candidate: candidate.name.clone(), round, fixed, blast, highest, half })
    }

    /// Addresses of a trial.
    pub(crate) fn places(&self, candidate: &Candidate, count: u32) -> Outcome<(Job<'_>, Ends<'_>)> {
        let offset = u16::try_from(count % PORTS).map_err(Failure::of("a port"))?;
        let port = FIRST_PORT + offset;
        let network = self.network;
        let sink = SocketAddr::new(network.sink_ip, port + 20_000);
        let listen = SocketAddr::new(network.relay_ip, port);
        let from = SocketAddr::new(network.source_ip, port + 10_000);
        let (out, cpu) = (network.relay_out_ip, RELAY_CPU);
        let job = Job { listen, to: sink, out, cpu, folder: self.folder };
        let ends = Ends {
            pktgen: self.pktgen,
            network,
            scenario: self.scenario,
            relay_cpu: RELAY_CPU,
            load_cpu: LOAD_CPU,
            to: if candidate.kind == Kind::Kernel { sink } else { listen },
            from,
            sink,
            prefix: (candidate.kind == Kind::Coturn).then(|| turn::prefix(self.scenario.size)),
            overlay: candidate.kind.is_overlay().then(|| job.overlay()),
            folder: self.folder,
            interrupt: self.interrupt,
        };
        Ok((job, ends))
    }

    /// In the generator's namespace, so by a process of its own: this program once more.
    fn bind_turn(&self, ends: &Ends<'_>) -> Outcome<()> {
        let own = std::env::current_exe().map_err(Failure::of("this program"))?;
        let [own, from, server, peer] = [
            own.display().to_string(),
            ends.from.to_string(),
            ends.to.to_string(),
            ends.sink.to_string(),
        ];
        let namespace = self.network.source();
        let words =
            ["ip", "netns", "exec", namespace, &own, "perf", "turn-bind", &from, &server, &peer];
        run(&words)
    }

    pub(crate) fn start(&self, candidate: &Candidate, job: &Job<'_>) -> Outcome<Option<Running>> {
        let Some(what) = candidate.prepare(job, self.network)? else { return Ok(None) };
        let place = Place { namespace: self.network.relay().to_owned(), cpu: RELAY_CPU, nice: 0 };
        let mut relay = place.start(&what, &self.folder.join("relay"))?;
        relay.wait_for_socket(job.listen, self.interrupt)?;
        Ok(Some(relay))
    }
}

/// Until frames arrive; a relay that lets nothing through is a failure, not a rate of 0.
fn warm_up(ends: &Ends<'_>, mut relay: Option<&mut Running>) -> Outcome<()> {
    for _ in 0..WARM_UPS {
        if ends.run(relay.as_deref(), Some(WARM_UP.0), WARM_UP.1)?.delivered > 0 {
            return Ok(());
        }
        if let Some(relay) = relay.as_mut()
            && relay.ended()?
        {
            break;
        }
    }
    let nothing = "nothing that is sent to it arrives at the sink";
    Err(relay.map_or_else(|| Failure::new(nothing), |relay| relay.failure(nothing)))
}
