//! One peer of model M3: the product's own machine with its clock, and what the judges note about it that
//! its own books do not say: what its channels take of its links, and who it told that they stand in line.
//!
//! The notes are made from messages, not from the machine's claims: a place in line is known here from the
//! moment the peer says so until the request leaves, its way breaks or nobody spoke of it for a lease.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Write};
use std::hash::{Hash, Hasher};

use spanway::limits;
use spanway::proto::channel::{Channels, Paths};
use spanway::proto::{Narrowest, ServiceConfig, ServiceKind};
use spanway::types::{Bandwidth, ChannelId, LinkId, PeerName, ServiceName, SessionId, Time};
use spanway::wire::control::Message;
use spanway::wire::queue::{Queue, QueueBody, Scarce, Shortage};

use crate::graphs::name;

/// What each link carries each way, in bit/s: one request forward and some more back.
pub(crate) const USABLE: u64 = 10;

/// A peer of the chain.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) machine: Channels,
    /// A digest of all that the machine shows of itself: all but its random generator, which only
    /// chooses labels and how long waits are.
    print: u64,
    pub(crate) clock: Time,
    /// Local sockets that are being opened.
    pub(crate) opening: VecDeque<ChannelId>,
    /// A link came up, and no tree was heard of since.
    pub(crate) news: bool,
    /// Who stands in line here, by what this peer told them, and until when if they say nothing more.
    pub(crate) lines: BTreeMap<(LinkId, ChannelId), Time>,
}

impl Peer {
    pub(crate) fn new(at: usize, life: u64) -> Self {
        let mut seed = [0; 32];
        seed[0] = u8::try_from(at).expect("a short chain");
        seed[1] = u8::try_from(life).expect("few lives");
        let services =
            vec![ServiceConfig { name: service(), kind: ServiceKind::Deliver, plain: true }];
        let mut peer = Self {
            machine: Channels::new(name(at), life, seed, 1, 7_000, services),
            print: 0,
            clock: Time(1_000_000),
            opening: VecDeque::new(),
            news: false,
            lines: BTreeMap::new(),
        };
        peer.draw();
        peer
    }

    pub(crate) fn draw(&mut self) {
        let mut digest = Digest(DefaultHasher::new());
        write!(digest, "{:?}", self.machine).expect("a digest takes all");
        self.print = digest.0.finish();
    }

    /// I4: what the paths take of each link that this peer sends on is within what the link carries, and
    /// is what the ledger says, which was told how wide the links are.
    pub(crate) fn oversold(&self, at: usize, told: u64) -> Option<String> {
        // Paths of one channel that cross a link the same way count once.
        let mut shares: BTreeMap<(LinkId, ChannelId, bool), u64> = BTreeMap::new();
        for view in self.machine.views() {
            for path in &view.reserved {
                let here = path.iter().position(|peer| *peer == name(at)).expect("its own path");
                let next = path.get(here + 1).map(|next| (next, true, view.rate));
                let prev = here.checked_sub(1).map(|prev| (&path[prev], false, view.rate_back));
                for (other, there, rate) in next.into_iter().chain(prev) {
                    let link = link_between(at, position(other));
                    let share = shares.entry((link, view.id.clone(), there)).or_default();
                    *share = rate.bps().max(*share);
                }
            }
        }
        let mut sums: BTreeMap<LinkId, u64> = BTreeMap::new();
        for ((link, _, _), share) in shares {
            *sums.entry(link).or_default() += share;
        }
        for link in (0..).map(LinkId).take(at + 1) {
            let sum = sums.remove(&link).unwrap_or_default();
            let Some((free, _)) = self.machine.free(link) else { continue };
            if sum > USABLE || free.bps() != told - sum {
                return Some(format!("I4: p{at} on {link:?}: {sum} promised, {free} free"));
            }
        }
        sums.first_key_value().map(|(link, sum)| format!("I4: p{at}: {sum} on {link:?}, down"))
    }

    /// What a message that comes changes of the line here.
    pub(crate) fn note_arrival(&mut self, message: &Message) {
        match message {
            Message::Queue(Queue { tx, body: QueueBody::Leave }) => {
                self.lines.retain(|(_, channel), _| *channel != tx.channel);
            }
            Message::Queue(Queue { tx, body: QueueBody::Claim(_) }) => {
                let until = self.clock + limits::LEASE;
                let its = self.lines.iter_mut().filter(|((_, channel), _)| *channel == tx.channel);
                its.for_each(|(_, known)| *known = until);
            }
            _ => {}
        }
    }

    /// By this message the peer tells an asker where it stands in line here.
    pub(crate) fn note_promise(&mut self, at: usize, message: &Message) {
        if let Message::Queue(Queue { tx, body: QueueBody::Claimed(claimed) }) = message {
            self.stands(at, &tx.channel, &claimed.short);
        }
    }

    /// A request of this peer itself was told where it stands; its answer may have come with that.
    pub(crate) fn note_own_place(&mut self, at: usize, channel: &ChannelId) {
        let waiting = self.machine.waiting(self.clock);
        if let Some(view) = waiting.into_iter().find(|view| view.id == *channel) {
            self.stands(at, channel, &view.short);
        }
    }

    /// Those of this peer's requests that no longer wait have no place.
    pub(crate) fn forget_answered(&mut self, at: usize) {
        let waiting = self.machine.waiting(self.clock);
        let waits = |channel: &ChannelId| waiting.iter().any(|view| view.id == *channel);
        self.lines.retain(|(_, channel), _| channel.source != name(at) || waits(channel));
    }

    fn stands(&mut self, at: usize, channel: &ChannelId, short: &[Shortage]) {
        self.lines.retain(|(_, other), _| other != channel);
        for short in short.iter().filter(|short| short.at == name(at)) {
            let Scarce::Link(far) = &short.of else { panic!("hosts have no budgets here") };
            let link = link_between(at, position(far));
            self.lines.insert((link, channel.clone()), self.clock + limits::LEASE);
        }
    }

    /// Who came over the link has no place any more, and nobody has one on it.
    pub(crate) fn forget_lines_over(&mut self, at: usize, link: LinkId) {
        self.lines.retain(|(on, channel), _| {
            let source = position(&channel.source);
            let came = source != at && link_between(at, towards(at, source)) == link;
            *on != link && !came
        });
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { machine, clock, opening, news, lines, .. } = self;
        let views = machine.views();
        let mut shown = f.debug_struct("Peer");
        shown.field("clock", clock).field("opening", opening).field("news", news);
        shown.field("lines", lines).field("channels", &views).finish()
    }
}

impl PartialEq for Peer {
    fn eq(&self, other: &Self) -> bool {
        self.outline() == other.outline()
    }
}

impl Eq for Peer {}

impl Hash for Peer {
    fn hash<H: Hasher>(&self, into: &mut H) {
        self.outline().hash(into);
    }
}

impl Peer {
    fn outline(&self) -> impl Hash + PartialEq + '_ {
        (self.print, self.clock, &self.opening, self.news, &self.lines)
    }
}

/// The way along the chain, as every peer has always known it.
pub(crate) struct Chain {
    pub(crate) me: usize,
    pub(crate) peers: usize,
}

impl Paths for Chain {
    fn path(&self, to: &PeerName) -> Option<Vec<PeerName>> {
        let to = position(to);
        let last = std::iter::once(name(to));
        Some(steps_of(self.me, to).map(|(at, _)| name(at)).chain(last).collect())
    }

    fn narrowest(&self, path: &[PeerName]) -> Option<Narrowest> {
        let [usable, free] = [Bandwidth::from_bps(USABLE); 2];
        let link = (path.first()?.clone(), path.get(1)?.clone());
        let (by_capacity, by_free) = (link.clone(), link);
        Some(Narrowest { capacity: usable, by_capacity, free, by_free, free_back: free })
    }

    fn session(&self) -> Option<SessionId> {
        Some(SessionId { counter: 1, initiator: name(0) })
    }

    fn knows(&self, peer: &PeerName) -> bool {
        position(peer) < self.peers
    }
}

/// The request that this message tells its place in line.
pub(crate) fn told_of_line(message: &Message) -> Option<&ChannelId> {
    match message {
        Message::Queue(Queue { tx, body: QueueBody::Claimed(_) }) => Some(&tx.channel),
        _ => None,
    }
}

/// Hashes what is written to it.
struct Digest(DefaultHasher);

impl Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

pub(crate) fn service() -> ServiceName {
    ServiceName::new("tv").expect("a name")
}

/// Where in the chain the peer is.
pub(crate) fn position(peer: &PeerName) -> usize {
    peer.as_str()[1..].parse().expect("a peer of the chain")
}

/// The next one on the way.
pub(crate) fn towards(at: usize, to: usize) -> usize {
    if to > at { at + 1 } else { at - 1 }
}

/// The hops of a way.
pub(crate) fn steps_of(from: usize, to: usize) -> impl Iterator<Item = (usize, usize)> {
    let next = move |at: &usize| (*at != to).then(|| towards(*at, to));
    let way = std::iter::successors(Some(from), next);
    way.take_while(move |at| *at != to).map(move |at| (at, towards(at, to)))
}

pub(crate) fn link_between(one: usize, other: usize) -> LinkId {
    assert_eq!(one.abs_diff(other), 1, "neighbours");
    LinkId(u16::try_from(one.min(other)).expect("a short chain"))
}
