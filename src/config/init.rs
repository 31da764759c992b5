//! `spanway init`: a random, consistent overlay on this host, one configuration and one key a peer (A5).
//!
//! [`generate`] and [`explicit`] are pure and decide who links to whom at which capacity; [`write()`] makes
//! the keys and the files. The same seed gives the same overlay on every machine and in every version;
//! keys are never from the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::daemon::identity::{Identity, IdentityError};
use crate::limits;
use crate::types::{Bandwidth, PeerName, PublicKey};

/// Few different capacities, so that ties occur and rule A7 has to break them.
const CAPACITIES_MBIT: [u64; 5] = [10, 25, 50, 100, 1_000];

/// What a person can choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub peers: usize,
    /// Links as a share of those of the complete graph; a tree of links is there in any case.
    pub edges_percent: u8,
    pub seed: u64,
    /// Port of the first peer; the others follow `PORTS_PER_PEER` apart.
    pub listen_base: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self { peers: 10, edges_percent: 80, seed: 1, listen_base: 17_000 }
    }
}

/// A peer of the new overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerFile {
    pub name: PeerName,
    pub listen: SocketAddr,
    /// In the order of the neighbours' names.
    pub links: Vec<PeerLink>,
}

/// One end of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerLink {
    pub peer: PeerName,
    pub address: SocketAddr,
    pub capacity: Bandwidth,
}

/// Why there is no overlay.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("--peers {0}: write a number from 1 to {max}", max = limits::PEERS_MAX)]
    Peers(usize),
    #[error("--edges {0}: write a percentage from 0 to 100")]
    Percent(u8),
    #[error(
        "--listen-base {base}: {peers} peers need the ports from there to {last}; ports are from 1 to \
         65535, so choose another base or fewer peers"
    )]
    Ports { base: u16, peers: usize, last: usize },
    #[error(
        "--edges {percent} of {peers} peers gives one of them {links} links, a peer has at most {max}: \
         choose a smaller percentage or fewer peers",
        max = limits::LINKS_MAX
    )]
    Links { percent: u8, peers: usize, links: usize },
    #[error("link {one}-{other}: {why}")]
    Edge { one: usize, other: usize, why: &'static str },
    #[error(
        "{path} holds {found} already: nothing is overwritten, choose an empty folder or another --dir"
    )]
    Exists { path: PathBuf, found: String },
    #[error("{path} cannot be written: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Key(#[from] IdentityError),
}

/// A random connected overlay: a random tree, then random links until there are enough.
pub fn generate(options: &Options) -> Result<Vec<PeerFile>, InitError> {
    let Options { peers, edges_percent, seed, listen_base } = *options;
    if edges_percent > 100 {
        return Err(InitError::Percent(edges_percent));
    }
    // Before the pairs are listed: the ports bound their number.
    check_peers(peers, listen_base)?;
    let mut random = Random::new(seed);
    let mut edges = random_tree(peers, &mut random);
    let complete = peers * (peers - 1) / 2;
    let wanted = (complete * usize::from(edges_percent)).div_ceil(100);
    let taken: BTreeSet<_> = edges.iter().copied().collect();
    let mut rest: Vec<_> = (0..peers)
        .flat_map(|one| (one + 1..peers).map(move |other| (one, other)))
        .filter(|edge| !taken.contains(edge))
        .collect();
    random.shuffle(&mut rest);
    edges.extend(rest.into_iter().take(wanted.saturating_sub(taken.len())));
    let mut degrees = vec![0; peers];
    for (one, other) in &edges {
        degrees[*one] += 1;
        degrees[*other] += 1;
    }
    let links = degrees.into_iter().max().unwrap_or(0);
    if links > limits::LINKS_MAX {
        return Err(InitError::Links { percent: edges_percent, peers, links });
    }
    // Capacities are drawn last and in the order of the edges, so that they are one stream of draws.
    let edges: Vec<_> =
        edges.into_iter().map(|(one, other)| (one, other, random.capacity())).collect();
    explicit(peers, &edges, listen_base)
}

/// Exactly these links between peers counted from 0; several components are allowed.
pub fn explicit(
    peers: usize,
    edges: &[(usize, usize, Bandwidth)],
    listen_base: u16,
) -> Result<Vec<PeerFile>, InitError> {
    check_peers(peers, listen_base)?;
    let mut links: Vec<BTreeMap<usize, Bandwidth>> = vec![BTreeMap::new(); peers];
    for &(one, other, capacity) in edges {
        let wrong = |why| InitError::Edge { one, other, why };
        if one >= peers || other >= peers {
            return Err(wrong("there is no such peer; they are counted from 0"));
        }
        if one == other {
            return Err(wrong("a peer has no link to itself"));
        }
        if capacity.usable() == Bandwidth::ZERO || capacity > Bandwidth::MAX {
            return Err(wrong("no link has that capacity"));
        }
        if links[one].insert(other, capacity).is_some() {
            return Err(wrong("is there twice"));
        }
        links[other].insert(one, capacity);
        if links[one].len().max(links[other].len()) > limits::LINKS_MAX {
            return Err(wrong("is one too many for a peer"));
        }
    }
    let digits = peers.to_string().len().max(2);
    let name = |index: usize| {
        PeerName::new(&format!("peer-{:0digits$}", index + 1)).expect("letters, a dash and digits")
    };
    let listen = |index: usize| {
        let port = usize::from(listen_base) + index * usize::from(limits::PORTS_PER_PEER);
        let port = u16::try_from(port).expect("check_peers: every port fits");
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
    };
    let link = |(&other, &capacity): (&usize, &Bandwidth)| PeerLink {
        peer: name(other),
        address: listen(other),
        capacity,
    };
    let file = |(index, links): (usize, &BTreeMap<usize, Bandwidth>)| PeerFile {
        name: name(index),
        listen: listen(index),
        links: links.iter().map(link).collect(),
    };
    Ok(links.iter().enumerate().map(file).collect())
}

/// Makes NAME.key and NAME.toml for each peer in `folder`, which is made if it is missing. All or
/// nothing: what exists is never overwritten, and what was made before an error is taken away again.
/// Returns the configuration files.
pub fn write(folder: &Path, peers: &[PeerFile]) -> Result<Vec<PathBuf>, InitError> {
    let made = make_empty(folder)?;
    let mut written = Vec::with_capacity(2 * peers.len());
    let result = write_files(folder, peers, &mut written);
    if result.is_err() {
        // Only what this call made; the first error is the one to tell.
        for path in written {
            let _ = fs::remove_file(path);
        }
        if made {
            let _ = fs::remove_dir(folder);
        }
    }
    result
}

impl PeerFile {
    /// The text of its configuration; `keys` has the public key of every neighbour.
    pub fn config_text(&self, keys: &BTreeMap<PeerName, PublicKey>) -> String {
        let Self { name, listen, links } = self;
        let deliver = self.example_address();
        let [api, internal] = self.api_addresses();
        let mut text = format!(
            "# A peer of an overlay on this host, made by `spanway init`.\n\
             # Start it with `spanway run --config {name}.toml`.\n\
             name = \"{name}\"\n\
             listen = \"{listen}\"\n\
             state_dir = \"{name}.state\"\n\
             key_file = \"{name}.key\"\n\
             \n\
             # Frames of `spanway open {name}/video --bandwidth RATE` go to this address, answers back.\n\
             [service.video]\n\
             deliver = \"{deliver}\"\n\
             \n\
             # Taken by `spanway recv inbox --config {name}.toml`.\n\
             [service.inbox]\n\
             \n\
             # `spanway page --config {name}.toml` prints the address to open.\n\
             [api]\n\
             listen = \"{api}\"\n\
             internal = \"{internal}\"\n"
        );
        for PeerLink { peer, address, capacity } in links {
            let key = keys.get(peer).expect("keys are made for all peers before the files");
            let capacity = exact(*capacity);
            write!(
                text,
                "\n[[link]]\npeer = \"{peer}\"\naddress = \"{address}\"\ncapacity = \"{capacity}\"\n\
                 key = \"{key}\"\n"
            )
            .expect("writing to a text does not fail");
        }
        text
    }

    /// Web API, and metrics with health: the two ports before [`Self::example_address`].
    fn api_addresses(&self) -> [SocketAddr; 2] {
        let last = self.example_address();
        [1, 2].map(|before| SocketAddr::new(last.ip(), last.port() - before))
    }

    /// The last of the peer's ports, which no worker uses: a program can listen there at once.
    pub fn example_address(&self) -> SocketAddr {
        SocketAddr::new(self.listen.ip(), self.listen.port() + (limits::PORTS_PER_PEER - 1))
    }
}

/// The shown form where it says everything, else bit/s: a file must not round a capacity.
fn exact(rate: Bandwidth) -> String {
    let shown = rate.to_string();
    if shown.parse() == Ok(rate) { shown } else { format!("{} bit/s", rate.bps()) }
}

fn check_peers(peers: usize, base: u16) -> Result<(), InitError> {
    if peers == 0 || peers > limits::PEERS_MAX {
        return Err(InitError::Peers(peers));
    }
    let last = usize::from(base) + peers * usize::from(limits::PORTS_PER_PEER) - 1;
    if base == 0 || last > usize::from(u16::MAX) {
        return Err(InitError::Ports { base, peers, last });
    }
    Ok(())
}

/// Each peer of a shuffled row is tied to a random one before it.
fn random_tree(peers: usize, random: &mut Random) -> Vec<(usize, usize)> {
    let mut row: Vec<usize> = (0..peers).collect();
    random.shuffle(&mut row);
    let tie = |at: usize| {
        let (one, other) = (row[at], row[random.below(at)]);
        (one.min(other), one.max(other))
    };
    (1..peers).map(tie).collect()
}

/// `true` if the folder was not there. Its files must not look like those of an overlay.
fn make_empty(folder: &Path) -> Result<bool, InitError> {
    let io = |source| InitError::Io { path: folder.to_owned(), source };
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io(error)),
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let name = PathBuf::from(entry.map_err(io)?.file_name());
        if name.extension().is_some_and(|ending| ending == "toml" || ending == "key") {
            found.push(name.display().to_string());
        }
    }
    match found.into_iter().min() {
        None => Ok(false),
        Some(found) => Err(InitError::Exists { path: folder.to_owned(), found }),
    }
}

fn write_files(
    folder: &Path,
    peers: &[PeerFile],
    written: &mut Vec<PathBuf>,
) -> Result<Vec<PathBuf>, InitError> {
    let mut keys = BTreeMap::new();
    for peer in peers {
        let path = folder.join(format!("{}.key", peer.name));
        let identity = Identity::create(&path)?;
        written.push(path);
        keys.insert(peer.name.clone(), identity.public_key());
    }
    let mut configs = Vec::with_capacity(peers.len());
    for peer in peers {
        let path = folder.join(format!("{}.toml", peer.name));
        let io = |source| InitError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(io)?;
        written.push(path.clone());
        file.write_all(peer.config_text(&keys).as_bytes()).map_err(io)?;
        configs.push(path);
    }
    Ok(configs)
}

/// Draws from the seed. Written out here, because the overlay of a seed must not change with a library.
struct Random(ChaCha8Rng);

impl Random {
    fn new(seed: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        Self(ChaCha8Rng::from_seed(key))
    }

    /// A number smaller than `bound`; the bias of the remainder is below 2^-40 for any overlay.
    fn below(&mut self, bound: usize) -> usize {
        let number = self.0.next_u64() % bound as u64;
        usize::try_from(number).expect("smaller than a usize")
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last + 1);
            items.swap(last, other);
        }
    }

    fn capacity(&mut self) -> Bandwidth {
        Bandwidth::from_bps(CAPACITIES_MBIT[self.below(CAPACITIES_MBIT.len())] * 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::config::{Config, ServiceAddress};

    fn overlay(peers: usize, edges_percent: u8, seed: u64) -> Vec<PeerFile> {
        generate(&Options { peers, edges_percent, seed, ..Options::default() }).expect("overlay")
    }

    /// Peers that can be reached from the first one.
    fn reached(files: &[PeerFile]) -> usize {
        let links: BTreeMap<_, _> = files.iter().map(|file| (&file.name, &file.links)).collect();
        let mut seen = BTreeSet::from([&files[0].name]);
        let mut open = vec![&files[0].name];
        while let Some(name) = open.pop() {
            open.extend(links[name].iter().map(|link| &link.peer).filter(|p| seen.insert(p)));
        }
        seen.len()
    }

    #[test]
    fn a5_every_overlay_is_connected_consistent_and_has_the_wanted_links() {
        let mut capacities = BTreeSet::new();
        for seed in 0..300 {
            let peers = 1 + usize::try_from(seed).expect("small") % 24;
            let percent = [0, 20, 50, 80, 100][usize::try_from(seed / 24).expect("small") % 5];
            let files = overlay(peers, percent, seed);
            assert_eq!(files.len(), peers);
            assert_eq!(reached(&files), peers, "seed {seed}: connected");
            let mut ends = BTreeMap::new();
            for file in &files {
                for link in &file.links {
                    let pair = (file.name.clone(), link.peer.clone());
                    assert_eq!(ends.insert(pair, link.capacity), None, "one link to a peer");
                    let other = files.iter().find(|other| other.name == link.peer).expect("exists");
                    assert_eq!(other.listen, link.address, "seed {seed}: it listens there");
                    capacities.insert(link.capacity.bps() / 1_000_000);
                }
            }
            for ((one, other), capacity) in &ends {
                let back = ends.get(&(other.clone(), one.clone()));
                assert_eq!(back, Some(capacity), "seed {seed}: both ends agree");
                assert_ne!(one, other);
            }
            let wanted = (peers * (peers - 1) / 2 * usize::from(percent)).div_ceil(100);
            assert_eq!(ends.len() / 2, wanted.max(peers - 1), "seed {seed}: number of links");
        }
        assert_eq!(capacities, BTreeSet::from(CAPACITIES_MBIT), "every capacity occurs");
    }

    #[test]
    fn a5_the_defaults_are_ten_peers_and_eighty_percent() {
        let files = generate(&Options::default()).expect("overlay");
        assert_eq!(files.len(), 10);
        assert_eq!(files.iter().map(|file| file.links.len()).sum::<usize>(), 2 * 36);
        let names: Vec<_> = files.iter().map(|file| file.name.to_string()).collect();
        assert_eq!((names[0].as_str(), names[9].as_str()), ("peer-01", "peer-10"));
        assert_eq!(files[9].listen.to_string(), "127.0.0.1:17144");
        assert_eq!(overlay(100, 2, 1)[0].name.as_str(), "peer-001");
    }

    #[test]
    fn a5_a_seed_is_an_overlay_and_another_seed_another() {
        assert_eq!(overlay(10, 80, 7), overlay(10, 80, 7));
        assert_ne!(overlay(10, 80, 7), overlay(10, 80, 8));
        // Golden: seeds in bug reports must mean the same overlay for ever.
        let edges = |file: &PeerFile| {
            let edge = |link: &PeerLink| format!("{}-{} {}", file.name, link.peer, link.capacity);
            file.links.iter().filter(|link| link.peer > file.name).map(edge).collect::<Vec<_>>()
        };
        let text: Vec<_> = overlay(4, 80, 42).iter().flat_map(edges).collect();
        let golden = [
            "peer-01-peer-02 1 Gbit/s",
            "peer-01-peer-03 10 Mbit/s",
            "peer-01-peer-04 10 Mbit/s",
            "peer-02-peer-03 1 Gbit/s",
            "peer-02-peer-04 25 Mbit/s",
        ];
        assert_eq!(text, golden);
    }

    #[test]
    fn a5_what_cannot_be_an_overlay_is_refused_with_the_allowed_range() {
        let error = |peers, edges_percent, listen_base| {
            let options = Options { peers, edges_percent, seed: 1, listen_base };
            generate(&options).expect_err("refused").to_string()
        };
        assert!(error(0, 80, 17_000).contains("from 1 to 10000"));
        assert!(error(10_001, 1, 17_000).contains("from 1 to 10000"));
        assert!(error(10, 101, 17_000).contains("from 0 to 100"));
        assert!(error(10, 80, 0).contains("from 1 to 65535"));
        assert!(error(10, 80, 65_400).contains("to 65559"), "{}", error(10, 80, 65_400));
        assert!(error(2_000, 80, 1_024).contains("at most 1024"), "{}", error(2_000, 80, 1_024));
        let last = Options { peers: 2, listen_base: 65_504, ..Options::default() };
        assert!(generate(&last).is_ok(), "the last port is a port");
    }

    #[test]
    fn a5_given_links_are_taken_as_they_are_or_refused() {
        let mbit = |n: u64| Bandwidth::from_bps(n * 1_000_000);
        let ring = explicit(3, &[(0, 1, mbit(10)), (1, 2, mbit(20)), (2, 0, mbit(30))], 17_000);
        let ring = ring.expect("ring");
        assert_eq!(exact(Bandwidth::from_bps(26_315_789)), "26315789 bit/s");
        assert_eq!(exact(mbit(25)), "25 Mbit/s");
        let ends: Vec<_> = ring[2].links.iter().map(|l| (l.peer.as_str(), l.capacity)).collect();
        assert_eq!(ends, [("peer-01", mbit(30)), ("peer-02", mbit(20))]);
        for edges in [
            &[(0, 3, mbit(10))][..],
            &[(1, 1, mbit(10))],
            &[(0, 1, Bandwidth::ZERO)],
            &[(0, 1, mbit(10)), (1, 0, mbit(10))],
        ] {
            let error = explicit(3, edges, 17_000).expect_err("refused");
            assert!(matches!(error, InitError::Edge { .. }), "{error}");
        }
    }

    #[test]
    fn a5_the_files_are_valid_agree_about_keys_and_only_owners_read_the_secret_ones() {
        let folder = tempfile::tempdir().expect("scratch folder");
        let folder = folder.path().join("overlay");
        let files = overlay(10, 80, 3);
        let paths = write(&folder, &files).expect("write");
        let configs: Vec<_> = paths.iter().map(|path| Config::load(path).expect("valid")).collect();
        let key = |config: &Config| Identity::load(&config.key_file).expect("key").public_key();
        let keys: BTreeMap<_, _> =
            configs.iter().map(|config| (config.name.clone(), key(config))).collect();
        assert_eq!(keys.values().collect::<BTreeSet<_>>().len(), 10, "each has its own key");
        for (config, file) in configs.iter().zip(&files) {
            assert_eq!((&config.name, config.listen), (&file.name, file.listen));
            assert_eq!(config.links.len(), file.links.len());
            assert!(config.links.iter().all(|link| link.key == keys[&link.peer]));
            assert!(config.links.iter().all(|link| link.address.is_some()));
            assert_eq!(config.engine_workers(), [None], "one worker each");
            let kinds: Vec<_> =
                config.services.iter().map(|s| (s.name.as_str(), s.kind.clone())).collect();
            let video = ServiceAddress::Deliver(file.example_address());
            assert_eq!(kinds, [("video", video), ("inbox", ServiceAddress::Receive)]);
            let mode = fs::metadata(&config.key_file).expect("metadata").mode() & 0o777;
            assert_eq!(mode, 0o600);
        }
    }

    #[test]
    fn a5_nothing_is_ever_overwritten_and_a_failure_leaves_nothing() {
        let folder = tempfile::tempdir().expect("scratch folder");
        let folder = folder.path();
        write(folder, &overlay(3, 80, 1)).expect("first");
        let list = || {
            let read = |entry: io::Result<fs::DirEntry>| {
                let path = entry.expect("entry").path();
                let content = fs::read(&path).unwrap_or_default();
                (path, content)
            };
            fs::read_dir(folder).expect("list").map(read).collect::<BTreeMap<_, _>>()
        };
        let before = list();
        let error = write(folder, &overlay(12, 80, 2)).expect_err("refused").to_string();
        assert!(error.contains("peer-01.key") && error.contains("--dir"), "{error}");
        assert_eq!(list(), before);
        for path in before.keys() {
            fs::remove_file(path).expect("remove");
        }
        // The last file has the name of the first: what was made before it goes again.
        let mut files = overlay(3, 80, 1);
        files[2].name = files[0].name.clone();
        assert!(write(folder, &files).is_err());
        assert_eq!(list(), BTreeMap::new());
        assert!(write(&folder.join("none/overlay"), &files).is_err(), "the parent must exist");
    }
}
