//! What is done to the overlay, the proof that it struck, and how it is undone.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::plan::name;
use super::stream::{now, wait_while};
use super::world::{World, interface};
use crate::perf::failure::{Failure, Outcome};
use crate::perf::net::{output, run};
use crate::perf::process::{Interrupt, Running};

/// A daemon that was asked to leave has gone by then.
const LEAVE_MAX: Duration = Duration::from_secs(15);
const SIGKILL: i32 = 9;
const TABLE: &str = "spanway-strike";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    /// SIGKILL of a relay.
    Kill,
    /// A link that silently drops everything, both ways.
    Blackhole,
    /// A relay is asked to leave.
    Leave,
    /// SIGKILL of a relay beside channels that do not cross it.
    Bystander,
    /// Full load, and nothing dies.
    Alarm,
}

impl Event {
    pub(crate) const ALL: [Self; 5] =
        [Self::Kill, Self::Blackhole, Self::Leave, Self::Bystander, Self::Alarm];

    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Kill => "kill -9 of a relay",
            Self::Blackhole => "silent black hole",
            Self::Leave => "planned leave of a relay",
            Self::Bystander => "channels beside a killed relay",
            Self::Alarm => "full load, nothing dies",
        }
    }
}

/// Something that has happened to the world.
#[derive(Debug)]
pub(crate) enum Strike {
    Killed { peer: usize },
    BlackHole { link: usize, namespaces: [String; 2] },
    Leaving { peer: usize, daemon: Running },
}

impl Strike {
    /// Strikes on this path; `turn` chooses where, so that every place has its share.
    pub(crate) fn on(
        world: &mut World,
        event: Event,
        path: &[usize],
        turn: usize,
    ) -> Outcome<Self> {
        let relays = path.get(1..path.len().saturating_sub(1)).unwrap_or_default();
        if relays.is_empty() {
            return Err(Failure::new("the path has no relay"));
        }
        let relay = relays[turn % relays.len()];
        match event {
            Event::Kill | Event::Bystander | Event::Alarm => Self::kill(world, relay),
            Event::Leave => {
                let daemon = world.take_daemon(relay)?;
                daemon.terminate()?;
                Ok(Self::Leaving { peer: relay, daemon })
            }
            Event::Blackhole => {
                let hop = turn % (path.len() - 1);
                let link = world.plan.link(path[hop], path[hop + 1]);
                let link = link.ok_or_else(|| Failure::new("the path leaves the overlay"))?;
                let ends = world.plan.links[link].ends;
                let namespaces = ends.map(|end| world.namespace(end).to_owned());
                black_hole(&namespaces, &interface(link))?;
                Ok(Self::BlackHole { link, namespaces })
            }
        }
    }

    fn kill(world: &mut World, peer: usize) -> Outcome<Self> {
        let status = world.take_daemon(peer)?.kill()?;
        if status.signal() == Some(SIGKILL) {
            return Ok(Self::Killed { peer });
        }
        Err(Failure::new(format!("{} was not killed but {status}", name(peer))))
    }

    /// In words.
    pub(crate) fn what(&self, world: &World) -> String {
        match self {
            Self::Killed { peer } => format!("killed {}", name(*peer)),
            Self::Leaving { peer, .. } => format!("{} leaves", name(*peer)),
            Self::BlackHole { link, .. } => {
                let [one, other] = world.plan.links[*link].ends.map(name);
                format!("black hole between {one} and {other}")
            }
        }
    }

    /// Waits until it is over, where it takes time, and says how it is known to have struck.
    pub(crate) fn prove(&mut self, interrupt: &Interrupt) -> Outcome<String> {
        match self {
            Self::Killed { .. } => Ok("gone by signal 9".to_owned()),
            Self::BlackHole { namespaces, .. } => {
                let dropped = namespaces.iter().map(|namespace| dropped(namespace));
                let dropped = dropped.collect::<Outcome<Vec<u64>>>()?;
                if dropped.contains(&0) {
                    return Err(Failure::new(format!(
                        "the black hole dropped {dropped:?} packets"
                    )));
                }
                Ok(format!("dropped {} and {} packets", dropped[0], dropped[1]))
            }
            Self::Leaving { daemon, peer } => {
                let start = now();
                wait_while(interrupt, LEAVE_MAX, || Ok(!daemon.ended()?))?;
                let status = daemon.status()?;
                let Some(status) = status.filter(|status| status.success()) else {
                    return Err(daemon.failure(&format!("asked to leave, it said {status:?}")));
                };
                let took = (now() - start) / 1_000_000;
                Ok(format!("{} left after {took} ms: {status}", name(*peer)))
            }
        }
    }

    pub(crate) fn heal(self, world: &mut World) -> Outcome<()> {
        match self {
            Self::Killed { peer } | Self::Leaving { peer, .. } => world.start_daemon(peer),
            Self::BlackHole { namespaces, .. } => {
                namespaces.iter().try_for_each(|namespace| pass_input(namespace))
            }
        }
    }
}

/// Drops, from now on, all that arrives at these two ends of a link, as nearly at once as can be. At the
/// receivers, so that senders see no error: a rule on the way out is one.
pub(crate) fn black_hole(namespaces: &[String; 2], interface: &str) -> Outcome<()> {
    let rules = format!(
        "table inet {TABLE} {{ chain arriving {{ type filter hook prerouting priority raw; \
         iifname \"{interface}\" counter drop; }}; }}"
    );
    let start = |namespace: &String| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, "nft", &rules]).stderr(Stdio::inherit());
        command.spawn().map_err(Failure::of("nft"))
    };
    let mut started = [start(&namespaces[0])?, start(&namespaces[1])?];
    for child in &mut started {
        let status = child.wait().map_err(Failure::of("nft"))?;
        if !status.success() {
            return Err(Failure::new(format!("nft {rules}: {status}")));
        }
    }
    Ok(())
}

pub(crate) fn pass_input(namespace: &str) -> Outcome<()> {
    run(&["ip", "netns", "exec", namespace, "nft", "delete", "table", "inet", TABLE])
}

/// Packets that [`black_hole`] dropped in this namespace.
pub(crate) fn dropped(namespace: &str) -> Outcome<u64> {
    let rules = output(&["ip", "netns", "exec", namespace, "nft", "list", "table", "inet", TABLE])?;
    let words: Vec<&str> = rules.split_whitespace().collect();
    let count = words.windows(2).find(|pair| pair[0] == "packets").and_then(|p| p[1].parse().ok());
    count.ok_or_else(|| Failure::new(format!("no counter in {rules:?}")))
}
