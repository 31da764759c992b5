//! The forwarding table of one worker: what a label, a link and a channel end mean here.
//!
//! Pure: owned by one worker and changed by its commands between two batches; no clock, no socket.
//! Every look-up of the frame path is one hash look-up or an index. Commands may come in any order: a
//! label may name an end that is not there yet, an entry a link that is down; frames then drop with
//! a reason.
//!
//! Does not judge frames: that is [`super::forward`]'s.

mod moving;

use core::net::{IpAddr, SocketAddr};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::merge::{Merge, Via};
use super::replay::Replay;
use super::seal::Seal;
use super::shaper::{Policer, Shaping};
use super::{AllowedFrom, Deliver, EntrySpec, Target};
pub use moving::{MovedEnd, MovedLabel};

use crate::stats::ChannelStats;
use crate::types::{ChannelId, Label, LinkId, WorkerId};
use crate::wire::tag::HopKeys;

/// Number of a socket at the worker's back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketId(pub u32);

/// Number of a channel that has, had or will have its end at this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndSlot(u32);

/// Number of a set of counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account(u32);

/// Where a frame goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Hop { link: LinkId, label: Label, port: u16 },
    Local(EndSlot),
}

/// What a label means.
#[derive(Debug)]
pub struct Route {
    /// The only link it may come from.
    pub from: LinkId,
    /// One today; a list, so that one-to-many streams will not need a second engine.
    pub ways: Vec<Way>,
    /// No other label's.
    pub account: Account,
    pub policer: Policer,
    /// Which frames were seen, where the link has hop tags.
    pub seen: Option<Box<Replay>>,
}

/// The neighbours, by the number of their link.
#[derive(Debug, Default)]
pub struct Links {
    of: Vec<Option<Link>>,
    /// Some of them have hop tags.
    tagged: bool,
}

/// A neighbour's address.
#[derive(Debug)]
pub struct Link {
    /// Of its worker 0; the others listen on the next ports.
    address: SocketAddr,
    workers: u8,
    receive_label: Label,
    /// The link has hop tags.
    pub tags: Option<Box<HopKeys>>,
}

/// A channel end with an open socket.
#[derive(Debug)]
pub struct End {
    pub socket: SocketId,
    pub account: Account,
    pub from: AllowedFrom,
    pub deliver: Deliver,
    /// Its program takes super-buffers.
    pub gso: bool,
    pub last_sender: Option<SocketAddr>,
    pub entry: Option<Entry>,
    /// Of the last entry; stays while the channel moves, so that moving is no way to a full bucket.
    pub policer: Option<Policer>,
    /// What is above the rate waits for a moment.
    pub shaping: Option<Shaping>,
    pub seal: Seal,
    /// Of the next datagram that enters.
    pub sequence: u64,
    /// What becomes of frames over different labels.
    pub merge: Merge,
}

/// Where datagrams go that enter at an end.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub way: Way,
    pub max_payload: u16,
}

#[derive(Debug)]
struct Slot {
    channel: ChannelId,
    end: Option<End>,
    /// The labels that lead to it: one, and while the channel goes over to another path, or keeps a
    /// second one, more.
    labels: Vec<Label>,
    /// The end, and every way that leads to it.
    users: u32,
}

#[derive(Debug, Default)]
pub struct Table {
    labels: HashMap<Label, Route, BuildHasherDefault<LabelHasher>>,
    /// Labels that went over to another worker.
    passed: HashMap<Label, WorkerId, BuildHasherDefault<LabelHasher>>,
    heartbeat_labels: HashMap<Label, LinkId, BuildHasherDefault<LabelHasher>>,
    links: Links,
    slots: Vec<Option<Slot>>,
    slot_of: BTreeMap<ChannelId, EndSlot>,
    accounts: Vec<Option<Arc<ChannelStats>>>,
    free_slots: Vec<EndSlot>,
    free_accounts: Vec<Account>,
}

impl Table {
    // --- The frame path ---

    #[inline]
    pub fn route(&self, label: Label) -> Option<&Route> {
        self.labels.get(&label)
    }

    /// What `label` means, to be judged and paid for, and the links it may name.
    #[inline]
    pub fn look_up(&mut self, label: Label) -> Option<(&mut Route, &Links)> {
        Some((self.labels.get_mut(&label)?, &self.links))
    }

    #[inline]
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// The link whose heartbeats carry `label`.
    #[inline]
    pub fn heartbeat_link(&self, label: Label) -> Option<LinkId> {
        self.heartbeat_labels.get(&label).copied()
    }

    #[inline]
    pub fn link(&self, link: LinkId) -> Option<&Link> {
        self.links.get(link)
    }

    /// Whether any link's frames may come from `source`. Not for every frame: looks at all links.
    pub fn is_neighbour(&self, source: SocketAddr) -> bool {
        self.links.of.iter().flatten().any(|link| link.sends_from(source))
    }

    #[inline]
    pub fn end(&self, slot: EndSlot) -> Option<&End> {
        self.slots.get(slot.0 as usize)?.as_ref()?.end.as_ref()
    }

    #[inline]
    pub fn end_mut(&mut self, slot: EndSlot) -> Option<&mut End> {
        self.slots.get_mut(slot.0 as usize)?.as_mut()?.end.as_mut()
    }

    pub fn merge_mut(&mut self, slot: EndSlot) -> Option<&mut Merge> {
        self.end_mut(slot).map(|end| &mut end.merge)
    }

    /// One more than the highest sequence that left at the end.
    pub fn next_sequence(&self, end: &End) -> u64 {
        self.stats(end.account).next_sequence.load(std::sync::atomic::Ordering::Relaxed)
    }

    #[inline]
    pub fn stats(&self, account: Account) -> &ChannelStats {
        self.accounts[account.0 as usize].as_ref().expect("routes and ends keep their account")
    }

    // --- Commands ---

    /// With `tags`, labels that were given to the link before it had any bring `bad_tag` only: nobody knows
    /// what came with them.
    pub fn set_link(
        &mut self,
        link: LinkId,
        address: SocketAddr,
        workers: u8,
        receive: Label,
        tags: Option<HopKeys>,
    ) {
        self.remove_link(link);
        let index = usize::from(link.0);
        let links = &mut self.links.of;
        if links.len() <= index {
            links.resize_with(index + 1, || None);
        }
        let address = canonical(address);
        links[index] =
            Some(Link { address, workers, receive_label: receive, tags: tags.map(Box::new) });
        self.links.note_tags();
        self.heartbeat_labels.insert(receive, link);
    }

    /// Frames go to the new address from now on.
    pub fn move_link(&mut self, link: LinkId, address: SocketAddr) {
        if let Some(Some(link)) = self.links.of.get_mut(usize::from(link.0)) {
            link.address = canonical(address);
        }
    }

    pub fn remove_link(&mut self, link: LinkId) {
        let old = self.links.of.get_mut(usize::from(link.0)).and_then(Option::take);
        if let Some(old) = old {
            self.heartbeat_labels.remove(&old.receive_label);
            self.links.note_tags();
        }
    }

    /// `policer` is full unless the label had the same promise before. Whether another label leads to
    /// the same end.
    pub fn add_label(
        &mut self,
        label: Label,
        from: LinkId,
        to: Target,
        policer: Policer,
        stats: Arc<ChannelStats>,
    ) -> bool {
        let policer = policer.in_place_of(self.route(label).map(|route| route.policer));
        // The new way before the old one goes: one that stays the same keeps its slot.
        let way = self.way(to);
        self.remove_label(label);
        let account = self.open_account(stats);
        let tagged = self.links.get(from).is_none_or(|link| link.tags.is_some());
        let seen = tagged.then(Box::default);
        let route = Route { from, ways: vec![way], account, policer, seen };
        let another = self.insert_label(label, route);
        if !another {
            self.follow(label);
        }
        another
    }

    pub fn remove_label(&mut self, label: Label) {
        self.passed.remove(&label);
        if let Some(route) = self.take_route(label) {
            route.ways.into_iter().for_each(|way| self.drop_way(way));
            self.close_account(route.account);
        }
    }

    /// An end with one label takes its frames as they come.
    pub fn follow_only(&mut self, slot: EndSlot) {
        if let Some(Some(Slot { end: Some(end), labels, .. })) = self.slots.get(slot.0 as usize)
            && let &[only] = &labels[..]
            && !end.merge.follows()
        {
            self.follow(only);
        }
    }

    /// The end to which the label leads takes its frames as they come.
    fn follow(&mut self, label: Label) {
        if let Some((slot, via)) = self.leads_to(label)
            && let Some(merge) = self.merge_mut(slot)
        {
            merge.follow(via);
        }
    }

    /// The end to which the label leads, and by which number the end knows the label.
    pub fn leads_to(&self, label: Label) -> Option<(EndSlot, Via)> {
        let route = self.route(label)?;
        let Some(&Way::Local(slot)) = route.ways.first() else { return None };
        Some((slot, route.account.via()))
    }

    /// The number of the channel's end, for [`Table::open_end`].
    pub fn reserve_end(&mut self, channel: &ChannelId) -> EndSlot {
        if let Some(&slot) = self.slot_of.get(channel) {
            return slot;
        }
        let labels = Vec::new();
        let fresh = Some(Slot { channel: channel.clone(), end: None, labels, users: 0 });
        let slot = match self.free_slots.pop() {
            Some(slot) => {
                self.slots[slot.0 as usize] = fresh;
                slot
            }
            None => {
                self.slots.push(fresh);
                EndSlot(number(self.slots.len() - 1))
            }
        };
        self.slot_of.insert(channel.clone(), slot);
        slot
    }

    /// The end of the channel is `socket` from now on. The caller closed an earlier one.
    pub fn open_end(
        &mut self,
        slot: EndSlot,
        socket: SocketId,
        from: AllowedFrom,
        deliver: Deliver,
        gso: bool,
        stats: Arc<ChannelStats>,
    ) {
        let from = match from {
            AllowedFrom::Only(address) => AllowedFrom::Only(canonical(address)),
            AllowedFrom::Prefix(ip, bits) => AllowedFrom::Prefix(ip.to_canonical(), bits),
            AllowedFrom::Loopback => AllowedFrom::Loopback,
        };
        let sequence = stats.entry_sequence.load(std::sync::atomic::Ordering::Relaxed);
        let account = self.open_account(stats);
        let last_sender = None;
        let (entry, policer, merge) = (None, None, Merge::default());
        let end = End {
            socket,
            account,
            from,
            deliver,
            gso,
            last_sender,
            entry,
            policer,
            shaping: None,
            seal: Seal::Plain,
            sequence,
            merge,
        };
        let opened = self.slots[slot.0 as usize].as_mut().expect("reserved before it is opened");
        assert!(opened.end.is_none(), "closed before it is opened again");
        opened.end = Some(end);
        opened.users += 1;
        if let Some(&first) = opened.labels.first() {
            self.follow(first);
        }
    }

    /// From now on what is above the end's rate waits for a moment.
    pub fn shape(&mut self, slot: EndSlot) {
        if let Some(end) = self.end_mut(slot) {
            end.shaping = Some(Shaping::default());
        }
    }

    /// Frames of the end are sealed, or not, from now on.
    pub fn set_seal(&mut self, channel: &ChannelId, seal: Seal) {
        let slot = self.end_slot(channel);
        if let Some(end) = slot.and_then(|slot| self.end_mut(slot)) {
            end.seal = seal;
        }
    }

    /// The end is gone; labels that lead to it stay until they are removed. Returns its socket.
    pub fn close_end(&mut self, channel: &ChannelId) -> Option<SocketId> {
        let slot = *self.slot_of.get(channel)?;
        let end = self.slots[slot.0 as usize].as_mut()?.end.take()?;
        self.close_account(end.account);
        if let Some(entry) = end.entry {
            self.drop_way(entry.way);
        }
        self.drop_way(Way::Local(slot));
        Some(end.socket)
    }

    /// The socket through which it will leave. Nothing happens if the channel has no end here (any
    /// more).
    pub fn set_deliver(&mut self, channel: &ChannelId, deliver: Deliver) -> Option<SocketId> {
        let slot = *self.slot_of.get(channel)?;
        let end = self.end_mut(slot)?;
        end.deliver = deliver;
        Some(end.socket)
    }

    /// Nothing happens if the channel has no end here (any more).
    pub fn set_entry(&mut self, channel: &ChannelId, to: Option<EntrySpec>) {
        let Some(slot) = self.slot_of.get(channel).copied() else { return };
        if self.end(slot).is_none() {
            return;
        }
        let shaped = self.end(slot).is_some_and(|end| end.shaping.is_some());
        let policer = if shaped { Policer::at_shaped_entry } else { Policer::at_entry };
        let policer = to.as_ref().map(|to| policer(to.rate));
        let entry = to.map(|to| Entry { way: self.way(to.to), max_payload: to.max_payload });
        let end = self.end_mut(slot).expect("looked at above");
        if let Some(policer) = policer {
            end.policer = Some(policer.in_place_of(end.policer));
        }
        if let Some(old) = std::mem::replace(&mut end.entry, entry) {
            self.drop_way(old.way);
        }
    }

    pub fn labels(&self) -> usize {
        self.labels.len()
    }

    /// The end of the channel, if one is here or expected.
    pub fn end_slot(&self, channel: &ChannelId) -> Option<EndSlot> {
        self.slot_of.get(channel).copied()
    }

    /// The labels that lead to the channel's end.
    pub fn labels_of(&self, channel: &ChannelId) -> &[Label] {
        self.end_slot(channel).map_or(&[], |slot| &self.slot(slot).labels)
    }

    /// Whether another label leads to the same end.
    fn insert_label(&mut self, label: Label, route: Route) -> bool {
        let mut another = false;
        for &way in &route.ways {
            let Way::Local(slot) = way else { continue };
            let labels = &mut self.slot_mut(slot).labels;
            another |= !labels.is_empty();
            labels.push(label);
        }
        self.labels.insert(label, route);
        another
    }

    /// The route, whose ways and account the caller gives back.
    fn take_route(&mut self, label: Label) -> Option<Route> {
        let route = self.labels.remove(&label)?;
        for &way in &route.ways {
            let Way::Local(slot) = way else { continue };
            self.slot_mut(slot).labels.retain(|&other| other != label);
        }
        Some(route)
    }

    fn slot(&self, slot: EndSlot) -> &Slot {
        self.slots[slot.0 as usize].as_ref().expect("a way keeps its slot")
    }

    fn slot_mut(&mut self, slot: EndSlot) -> &mut Slot {
        self.slots[slot.0 as usize].as_mut().expect("a way keeps its slot")
    }

    fn way(&mut self, target: Target) -> Way {
        match target {
            Target::Hop { link, label, port } => Way::Hop { link, label, port },
            Target::Local(channel) => {
                let slot = self.reserve_end(&channel);
                self.slot_mut(slot).users += 1;
                Way::Local(slot)
            }
        }
    }

    fn drop_way(&mut self, way: Way) {
        let Way::Local(slot) = way else { return };
        let used = self.slot_mut(slot);
        used.users -= 1;
        if used.users == 0 {
            let unused = self.slots[slot.0 as usize].take().expect("used until now");
            self.slot_of.remove(&unused.channel);
            self.free_slots.push(slot);
        }
    }

    /// A set of counters, kept until it is closed.
    pub fn open_account(&mut self, stats: Arc<ChannelStats>) -> Account {
        match self.free_accounts.pop() {
            Some(account) => {
                self.accounts[account.0 as usize] = Some(stats);
                account
            }
            None => {
                self.accounts.push(Some(stats));
                Account(number(self.accounts.len() - 1))
            }
        }
    }

    fn close_account(&mut self, account: Account) {
        self.accounts[account.0 as usize] = None;
        self.free_accounts.push(account);
    }
}

impl Account {
    /// As the number of the label that has it.
    #[inline]
    pub fn via(self) -> Via {
        Via::new(self.0)
    }
}

impl Links {
    #[inline]
    pub fn get(&self, link: LinkId) -> Option<&Link> {
        self.of.get(usize::from(link.0))?.as_ref()
    }

    /// Whether any has hop tags.
    #[inline]
    pub fn have_tags(&self) -> bool {
        self.tagged
    }

    fn note_tags(&mut self) {
        self.tagged = self.of.iter().flatten().any(|link| link.tags.is_some());
    }
}

impl Link {
    /// Whether a datagram from `source` may be one of its workers'.
    #[inline]
    pub fn sends_from(&self, source: SocketAddr) -> bool {
        let first = u32::from(self.address.port());
        let ports = first..first + u32::from(self.workers.max(1));
        source.ip() == self.address.ip() && ports.contains(&u32::from(source.port()))
    }

    /// Where its worker with this port is.
    #[inline]
    pub fn worker_address(&self, port: u16) -> SocketAddr {
        let mut address = self.address;
        address.set_port(port);
        address
    }
}

/// IPv4-mapped IPv6 addresses, as a dual-stack socket reports them, as IPv4.
#[inline]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) if address.is_ipv6() => SocketAddr::new(IpAddr::V4(ip), address.port()),
        IpAddr::V4(_) | IpAddr::V6(_) => address,
    }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).expect("fewer than 2^32 channels")
}

/// Labels are random and ours, so nobody can aim at a bucket. One multiplication spreads the random
/// bits over the top ones, which the map uses too; the top byte of a label is the worker's, the same
/// for all.
#[derive(Debug, Default)]
pub struct LabelHasher(u64);

impl Hasher for LabelHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(self.0 ^ u64::from(byte)));
    }

    #[inline]
    fn write_u64(&mut self, label: u64) {
        self.0 = label.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Bandwidth, PeerName, Time};

    fn channel(count: u64) -> ChannelId {
        ChannelId { source: PeerName::new("peer-1").unwrap(), boot: 1, count }
    }

    fn stats() -> Arc<ChannelStats> {
        Arc::default()
    }

    fn full() -> Policer {
        Policer::at_hop(Bandwidth::from_bps(64_000), 1)
    }

    fn hop(label: u64) -> Target {
        Target::Hop { link: LinkId(1), label: Label(label), port: 9 }
    }

    fn open(table: &mut Table, channel: &ChannelId, socket: u32) -> EndSlot {
        let slot = table.reserve_end(channel);
        let socket = SocketId(socket);
        table.open_end(slot, socket, AllowedFrom::Loopback, Deliver::LastSender, false, stats());
        slot
    }

    #[test]
    fn a_label_may_come_before_the_end_it_leads_to() {
        let mut table = Table::default();
        table.add_label(Label(7), LinkId(1), Target::Local(channel(1)), full(), stats());
        let Way::Local(slot) = table.route(Label(7)).unwrap().ways[0] else { panic!() };
        assert!(table.end(slot).is_none());
        assert_eq!(open(&mut table, &channel(1), 3), slot);
        assert_eq!(table.end(slot).unwrap().socket, SocketId(3));
        assert_eq!(table.close_end(&channel(1)), Some(SocketId(3)));
        assert!(table.end(slot).is_none());
        assert_eq!(table.close_end(&channel(1)), None);
    }

    #[test]
    fn nothing_is_left_of_channels_that_were_closed() {
        let mut table = Table::default();
        for count in 0..100 {
            open(&mut table, &channel(count), 1);
            let to = Target::Local(channel(count));
            table.add_label(Label(count + 1), LinkId(1), to, full(), stats());
            table.add_label(Label(count + 1_000), LinkId(1), hop(5), full(), stats());
            let entry = EntrySpec { to: hop(6), rate: Bandwidth::ZERO, max_payload: 9 };
            table.set_entry(&channel(count), Some(entry));
            table.remove_label(Label(count + 1));
            table.remove_label(Label(count + 1_000));
            table.close_end(&channel(count));
        }
        assert_eq!(table.labels(), 0);
        assert_eq!((table.slots.len(), table.accounts.len()), (1, 3));
        assert!(table.slot_of.is_empty() && table.slots[0].is_none());
        assert!(table.accounts.iter().all(Option::is_none));
    }

    #[test]
    fn a_label_told_again_keeps_what_is_left_in_its_bucket() {
        let mut table = Table::default();
        let add = |table: &mut Table, policer| {
            table.add_label(Label(7), LinkId(1), hop(5), policer, stats());
        };
        add(&mut table, full());
        assert!(table.look_up(Label(7)).unwrap().0.policer.admit(Time(1), 1_000));
        let left = table.route(Label(7)).unwrap().policer;
        assert_ne!(left, full());
        add(&mut table, full());
        assert_eq!(table.route(Label(7)).unwrap().policer, left);
        let other = Policer::at_hop(Bandwidth::from_bps(128_000), 1);
        add(&mut table, other);
        assert_eq!(table.route(Label(7)).unwrap().policer, other);
    }

    #[test]
    fn a_second_link_of_the_same_number_replaces_the_first() {
        let mut table = Table::default();
        let address: SocketAddr = "127.0.0.1:10".parse().unwrap();
        table.set_link(LinkId(2), address, 2, Label(1), None);
        table.set_link(LinkId(2), address, 2, Label(2), None);
        assert_eq!(table.heartbeat_link(Label(1)), None);
        assert_eq!(table.heartbeat_link(Label(2)), Some(LinkId(2)));
        table.remove_link(LinkId(2));
        assert_eq!(table.heartbeat_link(Label(2)), None);
        assert!(table.link(LinkId(2)).is_none() && table.link(LinkId(60_000)).is_none());
    }

    #[test]
    fn frames_may_come_from_the_ports_of_the_neighbours_workers_only() {
        let mut table = Table::default();
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        table.set_link(LinkId(0), address("[::ffff:127.0.0.1]:65534"), 2, Label(1), None);
        let link = table.link(LinkId(0)).unwrap();
        assert!(link.sends_from(address("127.0.0.1:65534")));
        assert!(link.sends_from(address("127.0.0.1:65535")));
        assert!(!link.sends_from(address("127.0.0.1:65533")));
        assert!(!link.sends_from(address("127.0.0.2:65534")));
        assert_eq!(link.worker_address(7), address("127.0.0.1:7"));
    }

    #[test]
    fn labels_of_one_worker_spread_over_the_buckets() {
        let mut low = std::collections::BTreeSet::new();
        let mut high = std::collections::BTreeSet::new();
        for random in 0..128u64 {
            let mut hasher = LabelHasher::default();
            hasher.write_u64(3 << 56 | (random * 0x0001_2345_6789_abcd) & 0x00ff_ffff_ffff_ffff);
            low.insert(hasher.finish() & 127);
            high.insert(hasher.finish() >> 57);
        }
        assert!(low.len() > 64 && high.len() > 48, "{} {}", low.len(), high.len());
    }
}
