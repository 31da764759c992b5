//! What is done to the overlay, one kind of fault at a time, each with the proof that it struck.

use std::collections::BTreeSet;
use std::time::Duration;

use super::common::overlay::Link;
use super::common::program::{output, pass};
use super::random::Random;
use super::world::{Path_, World, state};

const TABLE: &str = "nemesis";
/// Between the restarts of a rolling restart: the neighbours have noticed.
const ROLL: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    KillRelay,
    KillLeader,
    KillEnd,
    Stop,
    Flap,
    OneWay,
    ThreeKills,
    RollingRestart,
    AddressChange,
}

pub(crate) const KINDS: [Kind; 9] = [
    Kind::KillRelay,
    Kind::KillLeader,
    Kind::KillEnd,
    Kind::Stop,
    Kind::Flap,
    Kind::OneWay,
    Kind::ThreeKills,
    Kind::RollingRestart,
    Kind::AddressChange,
];

/// Something that has been done.
#[derive(Debug)]
pub(crate) struct Strike {
    pub(crate) kind: Kind,
    pub(crate) what: String,
    /// How it is known to have struck.
    pub(crate) proof: String,
    /// How long it lasts.
    pub(crate) hold: Duration,
    /// Struck as a whole.
    pub(crate) peers: BTreeSet<String>,
    pub(crate) link: Option<Link>,
    /// Those of `peers` that have forgotten everything.
    pub(crate) restarted: BTreeSet<String>,
}

impl Strike {
    fn new(kind: Kind, peers: &[String]) -> Self {
        Self {
            kind,
            what: format!("{kind:?} {}", peers.join(" ")),
            proof: String::new(),
            hold: Duration::from_millis(1_500),
            peers: peers.iter().cloned().collect(),
            link: None,
            restarted: BTreeSet::new(),
        }
    }

    fn of_link(kind: Kind, link: &Link) -> Self {
        let ends = link.ends.each_ref().map(|end| end.0.clone());
        let mut strike = Self::new(kind, &ends);
        strike.peers.clear();
        strike.link = Some(link.clone());
        strike
    }

    /// Whether a path goes over what was struck.
    pub(crate) fn is_on(&self, path: &[String]) -> bool {
        let link = |pair: &[String]| self.is_link(&pair[0], &pair[1]);
        path.iter().any(|peer| self.peers.contains(peer)) || path.windows(2).any(link)
    }

    pub(crate) fn is_link(&self, one: &str, other: &str) -> bool {
        self.link.as_ref().is_some_and(|link| {
            let ends = link.ends.each_ref().map(|end| end.0.as_str());
            ends == [one, other] || ends == [other, one]
        })
    }

    /// Panics unless it did what it is called.
    pub(crate) fn prove(&mut self, world: &World) {
        match self.kind {
            Kind::OneWay => {
                let (peer, _) = &self.link.as_ref().expect("it is about a link").ends[0];
                let count = dropped(world, peer);
                assert!(count > 0, "{}: nothing was dropped", self.what);
                self.proof = format!("{count} packets dropped");
            }
            Kind::Stop => {
                let peer = self.peers.first().expect("it is about a peer");
                assert_eq!(state(world.process(peer)), Some('T'), "{} does not stand", self.what);
                self.proof = "stood still until the end".to_owned();
            }
            Kind::KillRelay
            | Kind::KillLeader
            | Kind::KillEnd
            | Kind::Flap
            | Kind::ThreeKills
            | Kind::RollingRestart
            | Kind::AddressChange => {
                assert!(!self.proof.is_empty(), "{}: nothing shows that it struck", self.what)
            }
        }
    }
}

/// Does it. `paths` are those of the channels now.
pub(crate) fn strike(
    world: &mut World,
    random: &mut Random,
    kind: Kind,
    paths: &[Path_],
) -> Strike {
    match kind {
        Kind::KillRelay => kill(world, kind, &[relay(world, random, paths)]),
        Kind::KillLeader => kill(world, kind, &[world.leader()]),
        Kind::KillEnd => {
            let channel = random.of(&world.channels);
            let ends = [channel.source.clone(), channel.destination.clone()];
            kill(world, kind, &[random.of(&ends).clone()])
        }
        Kind::ThreeKills => {
            let mut names = world.names();
            random.shuffle(&mut names);
            kill(world, kind, &names[..3])
        }
        Kind::Stop => stop(world, random, paths),
        Kind::Flap => flap(world, &used_link(world, random, paths)),
        Kind::OneWay => one_way(world, &used_link(world, random, paths)),
        Kind::RollingRestart => roll(world),
        Kind::AddressChange => change_addresses(world, &relay(world, random, paths)),
    }
}

/// Undoes what is not undone yet.
pub(crate) fn heal(world: &mut World, strike: &Strike) {
    match strike.kind {
        Kind::KillRelay | Kind::KillLeader | Kind::KillEnd | Kind::ThreeKills => {
            strike.peers.iter().for_each(|peer| world.run(peer));
        }
        Kind::Stop => strike.peers.iter().for_each(|peer| world.overlay.thaw(peer)),
        Kind::OneWay => {
            let (peer, _) = &strike.link.as_ref().expect("it is about a link").ends[0];
            run(world, peer, &["nft", "delete", "table", "inet", TABLE]);
        }
        Kind::Flap | Kind::RollingRestart | Kind::AddressChange => {}
    }
}

fn kill(world: &mut World, kind: Kind, peers: &[String]) -> Strike {
    let mut strike = Strike::new(kind, peers);
    let processes: Vec<u32> = peers.iter().map(|peer| world.process(peer)).collect();
    peers.iter().for_each(|peer| world.overlay.kill(peer));
    let left = processes.iter().filter(|&&process| state(process).is_some()).count();
    assert_eq!(left, 0, "{}: still there", strike.what);
    strike.proof = format!("processes {processes:?} are gone");
    strike.restarted.clone_from(&strike.peers);
    strike
}

fn stop(world: &World, random: &mut Random, paths: &[Path_]) -> Strike {
    let mut strike = Strike::new(Kind::Stop, &[relay(world, random, paths)]);
    strike.hold = Duration::from_millis(1_000 + 500 * random.below(9) as u64);
    strike.what += &format!(" for {:?}", strike.hold);
    strike.peers.iter().for_each(|peer| world.overlay.freeze(peer));
    strike
}

fn flap(world: &World, link: &Link) -> Strike {
    const TIMES: usize = 3;
    let mut strike = Strike::of_link(Kind::Flap, link);
    let (peer, interface) = &link.ends[0];
    for _ in 0..TIMES {
        run(world, peer, &["ip", "link", "set", interface, "down"]);
        let shown = run(world, peer, &["ip", "-oneline", "link", "show", interface]);
        assert!(shown.contains("state DOWN"), "{}: {shown}", strike.what);
        pass(Duration::from_millis(250));
        run(world, peer, &["ip", "link", "set", interface, "up"]);
        pass(Duration::from_millis(250));
    }
    strike.proof = format!("{interface} was down {TIMES} times");
    strike
}

/// At the receiver, so that the sender sees no error.
fn one_way(world: &World, link: &Link) -> Strike {
    let strike = Strike::of_link(Kind::OneWay, link);
    let (peer, interface) = &link.ends[0];
    let chain = "type filter hook prerouting priority raw;";
    let rule = format!("iifname \"{interface}\" counter drop;");
    let rules = format!("table inet {TABLE} {{ chain arriving {{ {chain} {rule} }}; }}");
    run(world, peer, &["nft", &rules]);
    strike
}

fn roll(world: &mut World) -> Strike {
    let names = world.names();
    let mut strike = Strike::new(Kind::RollingRestart, &names);
    for peer in &names {
        world.overlay.terminate(peer);
        // It has to end with 0.
        world.overlay.ended(peer);
        pass(ROLL);
        world.run(peer);
    }
    strike.proof = format!("{} daemons ended with 0", names.len());
    strike.restarted.clone_from(&strike.peers);
    strike
}

/// Every interface gets another address and loses the one that the neighbours know.
fn change_addresses(world: &World, peer: &str) -> Strike {
    let mut strike = Strike::new(Kind::AddressChange, &[peer.to_owned()]);
    let ends = world.overlay.links.iter().flat_map(|link| &link.ends);
    for (_, interface) in ends.filter(|end| end.0 == peer) {
        let shown = run(world, peer, &["ip", "-oneline", "-4", "address", "show", interface]);
        let mut words = shown.split_whitespace().skip_while(|&word| word != "inet");
        let old = words.nth(1).expect("it has an address").to_owned();
        let (net, host) = old.trim_end_matches("/24").rsplit_once('.').expect("four numbers");
        // There and, the next time, back again.
        let host: u8 = host.parse().expect("a number");
        let new = format!("{net}.{}/24", if host < 100 { host + 100 } else { host - 100 });
        run(world, peer, &["ip", "address", "delete", &old, "dev", interface]);
        run(world, peer, &["ip", "address", "add", &new, "dev", interface]);
        let shown = run(world, peer, &["ip", "-oneline", "-4", "address", "show", interface]);
        assert!(shown.contains(&new) && !shown.contains(&old), "{}: {shown}", strike.what);
        strike.proof += &format!("{old} is now {new}; ");
    }
    strike
}

fn dropped(world: &World, peer: &str) -> u64 {
    let rules = run(world, peer, &["nft", "list", "table", "inet", TABLE]);
    let words: Vec<&str> = rules.split_whitespace().collect();
    let count = words.windows(2).find(|pair| pair[0] == "packets").map(|pair| pair[1]);
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no counter: {rules}"))
}

/// A relay of some channel.
fn relay(world: &World, random: &mut Random, paths: &[Path_]) -> String {
    let relays: Vec<&String> =
        paths.iter().flat_map(|path| path.iter().skip(1).rev().skip(1)).collect();
    if relays.is_empty() {
        random.of(&world.names()).clone()
    } else {
        (*random.of(&relays)).clone()
    }
}

/// A link of some channel, either way round.
fn used_link(world: &World, random: &mut Random, paths: &[Path_]) -> Link {
    let used = |link: &&Link| {
        let [one, other] = link.ends.each_ref().map(|end| &end.0);
        let is = |pair: &[String]| {
            (&pair[0], &pair[1]) == (one, other) || (&pair[1], &pair[0]) == (one, other)
        };
        paths.iter().any(|path| path.windows(2).any(is))
    };
    let links: Vec<&Link> = world.overlay.links.iter().filter(used).collect();
    let mut link = (*random.of(&links)).clone();
    random.shuffle(&mut link.ends);
    link
}

/// Runs a command on the host of a peer.
fn run(world: &World, peer: &str, words: &[&str]) -> String {
    output(world.overlay.peer(peer).command(words[0]).args(&words[1..]))
}
