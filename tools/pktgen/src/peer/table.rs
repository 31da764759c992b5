//! What labels, links and channel ends mean at this peer, and what a datagram from a neighbour is.
//!
//! Pure: changed by commands, asked per frame. It does on purpose not share the engine's table: who
//! measures a relay must not make its mistakes. A peer that generates or counts has one link and
//! relays for nobody, so a label leads to an end here or nowhere.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use spanway::engine::replay::Replay;
use spanway::engine::seal::Seal;
use spanway::engine::table::canonical;
use spanway::engine::{EntrySpec, LinkSpec, Target};
use spanway::stats::{ChannelStats, DropReason};
use spanway::types::{ChannelId, Label, LinkId};
use spanway::wire::frame::{self, FrameType, Header};
use spanway::wire::tag::HopKeys;

/// A channel that ends here: its place, and how often the place was used. The default is nobody's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EndId {
    place: u32,
    uses: u32,
}

impl EndId {
    /// Small, and of no other end that is open.
    pub(super) fn index(self) -> usize {
        self.place as usize
    }
}

/// A channel end.
#[derive(Debug)]
pub(super) struct End {
    pub(super) channel: ChannelId,
    pub(super) stats: Arc<ChannelStats>,
    /// None while the channel has no path.
    pub(super) way: Option<Way>,
    /// Of the next frame that enters here.
    pub(super) sequence: u64,
    pub(super) seal: Seal,
}

/// Where frames that enter at an end go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) link: LinkId,
    pub(super) label: Label,
    pub(super) port: u16,
    pub(super) max_payload: u16,
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// Names this link; its MAC is still to be checked.
    Heartbeat(LinkId, Header),
    /// For this end, over this link.
    Frame(EndId, LinkId, Header),
}

#[derive(Debug)]
struct Link {
    address: SocketAddr,
    workers: u8,
    receive_label: Label,
    tags: Option<HopKeys>,
}

#[derive(Debug)]
struct Route {
    from: LinkId,
    /// What came with this label, where its link has hop tags.
    seen: RefCell<Replay>,
    /// None: it leads on to another peer.
    to: Option<ChannelId>,
    /// Where that channel's end was found last; tells by itself that it has become another's.
    end: Cell<EndId>,
}

#[derive(Debug, Default)]
struct Place {
    uses: u32,
    end: Option<End>,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    links: BTreeMap<LinkId, Link>,
    heartbeats: HashMap<Label, LinkId>,
    labels: HashMap<Label, Route>,
    ends: HashMap<ChannelId, EndId>,
    places: Vec<Place>,
    free: Vec<u32>,
    /// Ends that have a path.
    ways: usize,
}

impl Table {
    // --- Frames ---

    pub(super) fn judge(&self, datagram: &[u8], source: SocketAddr) -> Result<Judged, DropReason> {
        let header = frame::parse(datagram).map_err(|_| DropReason::Malformed)?;
        if header.frame_type == FrameType::Heartbeat {
            let link = self.heartbeats.get(&header.label).ok_or(DropReason::BadHeartbeat)?;
            return Ok(Judged::Heartbeat(*link, header));
        }
        let route = self.labels.get(&header.label).ok_or(DropReason::UnknownLabel)?;
        let link = self.links.get(&route.from).filter(|link| link.sends_from(source));
        let link = link.ok_or(DropReason::ForeignLabel)?;
        if let Some(tags) = &link.tags {
            if !tags.receive.wrote(datagram) {
                return Err(DropReason::BadTag);
            }
            let mut seen = route.seen.borrow_mut();
            if !seen.is_new(header.sequence) {
                return Err(DropReason::Replayed);
            }
            seen.mark(header.sequence);
        }
        let to = route.to.as_ref().ok_or(DropReason::NoLink)?;
        if self.end(route.end.get()).is_none() {
            route.end.set(self.end_of(to).ok_or(DropReason::UnknownLabel)?);
        }
        Ok(Judged::Frame(route.end.get(), route.from, header))
    }

    /// `None` once the end is closed.
    pub(super) fn end(&self, id: EndId) -> Option<&End> {
        let place = self.places.get(id.place as usize)?;
        place.end.as_ref().filter(|_| place.uses == id.uses)
    }

    pub(super) fn end_mut(&mut self, id: EndId) -> Option<&mut End> {
        let place = self.places.get_mut(id.place as usize)?;
        place.end.as_mut().filter(|_| place.uses == id.uses)
    }

    pub(super) fn end_of(&self, channel: &ChannelId) -> Option<EndId> {
        self.ends.get(channel).copied()
    }

    /// Where a worker of the neighbour listens.
    pub(super) fn address(&self, way: Way) -> Option<SocketAddr> {
        let link = self.links.get(&way.link)?;
        Some(SocketAddr::new(link.address.ip(), way.port))
    }

    /// Fills the hop tag of a header that leaves this way, if its link has them.
    pub(super) fn tag(&self, way: Way, header: &mut [u8]) {
        let tags = self.links.get(&way.link).and_then(|link| link.tags.as_ref());
        if let Some(tags) = tags {
            tags.send.write(header);
        }
    }

    // --- Commands ---

    pub(super) fn set_link(&mut self, spec: &LinkSpec) {
        self.remove_link(spec.link);
        self.heartbeats.insert(spec.receive_label, spec.link);
        let link = Link {
            address: canonical(spec.address),
            workers: spec.workers,
            receive_label: spec.receive_label,
            tags: spec.tags.clone(),
        };
        self.links.insert(spec.link, link);
    }

    /// Whether it was there.
    pub(super) fn remove_link(&mut self, link: LinkId) -> bool {
        let Some(old) = self.links.remove(&link) else { return false };
        self.heartbeats.remove(&old.receive_label);
        true
    }

    /// The neighbour sends from there now.
    pub(super) fn move_link(&mut self, link: LinkId, address: SocketAddr) {
        if let Some(link) = self.links.get_mut(&link) {
            link.address = canonical(address);
        }
    }

    pub(super) fn add_label(&mut self, label: Label, from: LinkId, to: Target) {
        let to = match to {
            Target::Local(channel) => Some(channel),
            Target::Hop { .. } => None,
        };
        self.labels
            .insert(label, Route { from, seen: RefCell::default(), to, end: Cell::default() });
    }

    pub(super) fn remove_label(&mut self, label: Label) {
        self.labels.remove(&label);
    }

    pub(super) fn add_end(
        &mut self,
        channel: ChannelId,
        seal: Seal,
        stats: Arc<ChannelStats>,
    ) -> EndId {
        self.remove_end(&channel);
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            u32::try_from(self.places.len() - 1).expect("fewer ends than limits::CHANNELS_MAX")
        });
        let slot = &mut self.places[place as usize];
        slot.uses += 1;
        let id = EndId { place, uses: slot.uses };
        slot.end = Some(End { channel: channel.clone(), stats, way: None, sequence: 0, seal });
        self.ends.insert(channel, id);
        id
    }

    pub(super) fn set_seal(&mut self, channel: &ChannelId, seal: Seal) {
        if let Some(end) = self.end_of(channel).and_then(|id| self.end_mut(id)) {
            end.seal = seal;
        }
    }

    pub(super) fn remove_end(&mut self, channel: &ChannelId) -> Option<EndId> {
        let id = self.ends.remove(channel)?;
        let end = self.places[id.place as usize].end.take();
        self.ways -= usize::from(end.is_some_and(|end| end.way.is_some()));
        self.free.push(id.place);
        Some(id)
    }

    pub(super) fn set_entry(&mut self, channel: &ChannelId, to: Option<EntrySpec>) {
        let Some(end) = self.end_of(channel).and_then(|id| self.end_mut(id)) else { return };
        let before = usize::from(end.way.is_some());
        end.way = to.and_then(|entry| match entry.to {
            Target::Hop { link, label, port } => {
                Some(Way { link, label, port, max_payload: entry.max_payload })
            }
            // A channel leads to another peer.
            Target::Local(_) => None,
        });
        let after = usize::from(end.way.is_some());
        self.ways = self.ways + after - before;
    }

    pub(super) fn ends(&self) -> usize {
        self.ends.len()
    }

    /// Ends that have a path.
    pub(super) fn ways(&self) -> usize {
        self.ways
    }

    /// Each channel with how many numbers its frames have taken.
    pub(super) fn sequences(&self) -> Vec<(ChannelId, u64)> {
        self.open().map(|end| (end.channel.clone(), end.sequence)).collect()
    }

    fn open(&self) -> impl Iterator<Item = &End> {
        self.places.iter().filter_map(|place| place.end.as_ref())
    }
}

impl Link {
    fn sends_from(&self, source: SocketAddr) -> bool {
        let first = u32::from(self.address.port());
        let ports = first..first + u32::from(self.workers.max(1));
        source.ip() == self.address.ip() && ports.contains(&u32::from(source.port()))
    }
}

#[cfg(test)]
pub(crate) mod samples {
    use std::time::Duration;

    use spanway::types::PeerName;
    use spanway::types::address::Reach;
    use spanway::wire::heartbeat::HeartbeatKey;

    use super::*;

    pub(crate) const LINK: LinkId = LinkId(0);

    pub(crate) fn channel(count: u64) -> ChannelId {
        ChannelId { source: PeerName::new("a").expect("a name"), boot: 1, count }
    }

    /// A table with one link, to a neighbour with two workers.
    pub(crate) fn table() -> Table {
        table_with(false)
    }

    pub(crate) fn table_with(tagged: bool) -> Table {
        let mut table = Table::default();
        table.set_link(&LinkSpec {
            link: LINK,
            address: "127.0.0.1:7000".parse().expect("an address"),
            workers: 2,
            send_label: Label(1),
            send_key: HeartbeatKey([1; 32]),
            receive_label: Label(2),
            receive_key: HeartbeatKey([2; 32]),
            interval: Duration::from_millis(25),
            missed_max: 5,
            tags: tagged.then(|| HopKeys::derive(&[1; 32], &[2; 32])),
            reach: Reach::new(([127, 0, 0, 1], 1).into(), 1..=1, []),
            pulse: Arc::default(),
        });
        table
    }
}

#[cfg(test)]
mod tests {
    use spanway::types::Bandwidth;

    use super::samples::{LINK, channel, table, table_with};
    use super::*;

    fn datagram(label: u64, frame_type: FrameType) -> Vec<u8> {
        let header = Header {
            frame_type,
            flags: 0,
            hop_limit: 3,
            payload_length: 50,
            label: Label(label),
            sequence: 7,
            stamp: 0,
        };
        let mut bytes = vec![0; header.frame_bytes()];
        header.emit(&mut bytes);
        bytes
    }

    fn judge(table: &Table, label: u64, port: u16) -> Result<Option<EndId>, DropReason> {
        let source = SocketAddr::from(([127, 0, 0, 1], port));
        table.judge(&datagram(label, FrameType::Data), source).map(|judged| match judged {
            Judged::Frame(end, LINK, _) => Some(end),
            Judged::Frame(..) | Judged::Heartbeat(..) => None,
        })
    }

    #[test]
    fn a_label_is_believed_from_the_ports_of_its_link_only() {
        let mut table = table();
        let end = table.add_end(channel(1), Seal::Plain, Arc::default());
        table.add_label(Label(9), LINK, Target::Local(channel(1)));
        assert_eq!(judge(&table, 9, 7_000), Ok(Some(end)));
        assert_eq!(judge(&table, 9, 7_001), Ok(Some(end)));
        assert_eq!(judge(&table, 9, 7_002), Err(DropReason::ForeignLabel));
        assert_eq!(judge(&table, 8, 7_000), Err(DropReason::UnknownLabel));
        table.remove_link(LINK);
        assert_eq!(judge(&table, 9, 7_000), Err(DropReason::ForeignLabel));
    }

    #[test]
    fn a_frame_for_a_closed_end_or_another_peer_is_dropped_by_name() {
        let mut table = table();
        let first = table.add_end(channel(1), Seal::Plain, Arc::default());
        table.add_label(Label(9), LINK, Target::Local(channel(1)));
        assert_eq!(table.remove_end(&channel(1)), Some(first));
        assert_eq!(judge(&table, 9, 7_000), Err(DropReason::UnknownLabel));
        let next = table.add_end(channel(2), Seal::Plain, Arc::default());
        assert_eq!(next.place, first.place, "places are used again");
        assert!(table.end(first).is_none() && table.end(next).is_some());
        let onward = Target::Hop { link: LINK, label: Label(4), port: 7_000 };
        table.add_label(Label(10), LINK, onward);
        assert_eq!(judge(&table, 10, 7_000), Err(DropReason::NoLink));
    }

    #[test]
    fn a_tagged_link_is_believed_with_its_tag_and_once() {
        let mut table = table_with(true);
        let end = table.add_end(channel(1), Seal::Plain, Arc::default());
        table.add_label(Label(9), LINK, Target::Local(channel(1)));
        assert_eq!(judge(&table, 9, 7_000), Err(DropReason::BadTag));
        let mut bytes = datagram(9, FrameType::Data);
        HopKeys::derive(&[2; 32], &[1; 32]).send.write(&mut bytes);
        let source = SocketAddr::from(([127, 0, 0, 1], 7_000));
        assert!(matches!(table.judge(&bytes, source), Ok(Judged::Frame(id, ..)) if id == end));
        assert_eq!(table.judge(&bytes, source), Err(DropReason::Replayed));
        let way = Way { link: LINK, label: Label(3), port: 7_000, max_payload: 100 };
        table.tag(way, &mut bytes);
        assert!(HopKeys::derive(&[2; 32], &[1; 32]).receive.wrote(&bytes), "for the neighbour");
    }

    #[test]
    fn heartbeats_name_their_link_and_nothing_else_is_one() {
        let table = table();
        let source = SocketAddr::from(([127, 0, 0, 1], 7_000));
        let beat = |label| table.judge(&datagram(label, FrameType::Heartbeat), source);
        assert!(matches!(beat(2), Ok(Judged::Heartbeat(LINK, _))));
        assert_eq!(beat(3), Err(DropReason::BadHeartbeat));
        assert_eq!(table.judge(&[0; 10], source), Err(DropReason::Malformed));
    }

    #[test]
    fn an_entry_follows_its_channel() {
        let mut table = table();
        let end = table.add_end(channel(1), Seal::Plain, Arc::default());
        let to = Target::Hop { link: LINK, label: Label(4), port: 7_001 };
        let entry = EntrySpec { to, rate: Bandwidth::ZERO, max_payload: 900 };
        table.set_entry(&channel(1), Some(entry));
        let way = table.end(end).and_then(|end| end.way).expect("a way");
        assert_eq!(table.address(way), Some(SocketAddr::from(([127, 0, 0, 1], 7_001))));
        table.move_link(LINK, "[::ffff:127.0.0.2]:8000".parse().expect("an address"));
        assert_eq!(table.address(way), Some(SocketAddr::from(([127, 0, 0, 2], 7_001))));
        assert_eq!((table.ways(), table.ends()), (1, 1));
        table.set_entry(&channel(1), None);
        assert_eq!((table.ways(), table.ends()), (0, 1));
        assert_eq!(table.end(end).and_then(|end| end.way), None);
    }
}
