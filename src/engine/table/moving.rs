//! Labels and channel ends that go over to another worker's table, with all they have.
//!
//! What leads to a local end is named by its channel on the way: numbers of slots and accounts mean
//! something in one table only. The table that was left remembers where the frames of a label go now.

use std::sync::Arc;

use super::{Account, End, EndSlot, Route, SocketId, Table, Way};
use crate::engine::Target;
use crate::engine::merge::Merge;
use crate::stats::ChannelStats;
use crate::types::{ChannelId, Label, WorkerId};

/// A label between two tables.
#[derive(Debug)]
pub struct MovedLabel {
    label: Label,
    route: Route,
    ways: Vec<Target>,
    stats: Arc<ChannelStats>,
    /// The end that moves with it took its frames as they came.
    current: bool,
}

/// A channel end between two tables, but for its socket.
#[derive(Debug)]
pub struct MovedEnd {
    channel: ChannelId,
    end: End,
    entry: Option<Target>,
    stats: Arc<ChannelStats>,
}

impl Table {
    /// The worker that frames with this label are to be passed to, if it is not this one.
    #[inline]
    pub fn passed_to(&self, label: Label) -> Option<WorkerId> {
        self.passed.get(&label).copied()
    }

    /// Takes a label out; its frames are to be passed to `worker` from now on. Before the end it leads to.
    pub fn take_label(&mut self, label: Label, worker: WorkerId) -> Option<MovedLabel> {
        let current = self
            .leads_to(label)
            .is_some_and(|(slot, via)| self.end(slot).is_some_and(|end| end.merge.is_current(via)));
        let mut route = self.take_route(label)?;
        self.passed.insert(label, worker);
        let ways = std::mem::take(&mut route.ways);
        let targets = ways.iter().map(|&way| self.target(way)).collect();
        ways.into_iter().for_each(|way| self.drop_way(way));
        let stats = self.take_account(route.account);
        Some(MovedLabel { label, route, ways: targets, stats, current })
    }

    /// Behind the end it leads to. Whether another label leads to the same end.
    pub fn put_label(&mut self, moved: MovedLabel) -> bool {
        let MovedLabel { label, route, ways, stats, current } = moved;
        self.remove_label(label);
        let ways = ways.into_iter().map(|target| self.way(target)).collect();
        let account = self.open_account(stats);
        let another = self.insert_label(label, Route { ways, account, ..route });
        if current {
            self.follow(label);
        }
        another
    }

    /// The socket of the channel's end.
    pub fn end_socket(&self, channel: &ChannelId) -> Option<SocketId> {
        let slot = *self.slot_of.get(channel)?;
        self.end(slot).map(|end| end.socket)
    }

    /// Takes an end out, at which nothing waits. The caller takes its socket.
    pub fn take_end(&mut self, channel: &ChannelId) -> Option<MovedEnd> {
        let slot = *self.slot_of.get(channel)?;
        let end = self.slots[slot.0 as usize].as_mut()?.end.take()?;
        let entry = end.entry.as_ref().map(|entry| self.target(entry.way));
        if let Some(entry) = &end.entry {
            self.drop_way(entry.way);
        }
        self.drop_way(Way::Local(slot));
        let stats = self.take_account(end.account);
        Some(MovedEnd { channel: channel.clone(), end, entry, stats })
    }

    /// The end has the number `socket` at this worker.
    pub fn put_end(&mut self, moved: MovedEnd, socket: SocketId) -> EndSlot {
        let MovedEnd { channel, mut end, entry, stats } = moved;
        let slot = self.reserve_end(&channel);
        end.socket = socket;
        end.account = self.open_account(stats);
        // Labels have other numbers here; theirs that was current comes behind.
        end.merge = Merge::default();
        let way = entry.map(|target| self.way(target));
        if let (Some(entry), Some(way)) = (&mut end.entry, way) {
            entry.way = way;
        }
        let held = self.slots[slot.0 as usize].as_mut().expect("just reserved");
        assert!(held.end.is_none(), "a channel has one end here");
        held.end = Some(end);
        held.users += 1;
        slot
    }

    fn target(&self, way: Way) -> Target {
        match way {
            Way::Hop { link, label, port } => Target::Hop { link, label, port },
            Way::Local(slot) => Target::Local(self.slot(slot).channel.clone()),
        }
    }

    fn take_account(&mut self, account: Account) -> Arc<ChannelStats> {
        let stats = self.accounts[account.0 as usize].take();
        self.free_accounts.push(account);
        stats.expect("routes and ends keep their account")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::shaper::Policer;
    use crate::engine::{AllowedFrom, Deliver, EntrySpec};
    use crate::types::{Bandwidth, LinkId, PeerName};

    fn channel() -> ChannelId {
        ChannelId { source: PeerName::new("peer-1").unwrap(), boot: 1, count: 7 }
    }

    fn policer() -> Policer {
        Policer::at_hop(Bandwidth::from_bps(1_000_000), 1)
    }

    #[test]
    fn a20_a_channel_takes_all_it_has_to_another_table() {
        let (mut old, mut new) = (Table::default(), Table::default());
        let stats = Arc::new(ChannelStats::default());
        let slot = old.reserve_end(&channel());
        let (from, deliver) = (AllowedFrom::Loopback, Deliver::LastSender);
        old.open_end(slot, SocketId(3), from, deliver, true, Arc::clone(&stats));
        let hop = Target::Hop { link: LinkId(1), label: Label(6), port: 9 };
        let entry = EntrySpec { to: hop, rate: Bandwidth::ZERO, max_payload: 99 };
        old.set_entry(&channel(), Some(entry));
        let end = old.end_mut(slot).unwrap();
        (end.sequence, end.last_sender) = (41, "127.0.0.1:5".parse().ok());
        old.add_label(Label(5), LinkId(2), Target::Local(channel()), policer(), Arc::clone(&stats));

        assert_eq!(old.end_socket(&channel()), Some(SocketId(3)));
        let (_, via) = old.leads_to(Label(5)).unwrap();
        old.merge_mut(slot).unwrap().follow(via);
        assert_eq!(old.labels_of(&channel()), [Label(5)]);
        let label = old.take_label(Label(5), WorkerId(1)).unwrap();
        let end = old.take_end(&channel()).unwrap();
        assert_eq!((old.labels(), old.passed_to(Label(5))), (0, Some(WorkerId(1))));
        assert!(old.slot_of.is_empty() && old.accounts.iter().all(Option::is_none));

        // Numbers are other ones there.
        new.open_account(Arc::default());
        let slot = new.put_end(end, SocketId(8));
        assert!(!new.put_label(label));
        let (_, via) = new.leads_to(Label(5)).unwrap();
        assert!(new.end(slot).unwrap().merge.goes_straight(via), "as it was");
        let route = new.route(Label(5)).unwrap();
        assert_eq!((route.from, &route.ways[..]), (LinkId(2), &[Way::Local(slot)][..]));
        let end = new.end(slot).unwrap();
        assert_eq!((end.socket, end.sequence, end.gso), (SocketId(8), 41, true));
        assert_eq!(end.last_sender, "127.0.0.1:5".parse().ok());
        let entry = end.entry.as_ref().unwrap();
        assert_eq!(entry.way, Way::Hop { link: LinkId(1), label: Label(6), port: 9 });
        assert_eq!(Arc::strong_count(&stats), 3);

        old.remove_label(Label(5));
        assert_eq!(old.passed_to(Label(5)), None);
        assert_eq!(new.close_end(&channel()), Some(SocketId(8)));
        new.remove_label(Label(5));
        assert!(new.slot_of.is_empty() && new.accounts.iter().skip(1).all(Option::is_none));
        assert_eq!(Arc::strong_count(&stats), 1);
    }

    #[test]
    fn a_channel_that_comes_back_is_not_passed_on_any_more() {
        let (mut old, mut new) = (Table::default(), Table::default());
        let hop = Target::Hop { link: LinkId(1), label: Label(6), port: 9 };
        old.add_label(Label(5), LinkId(2), hop, policer(), Arc::default());
        new.put_label(old.take_label(Label(5), WorkerId(1)).unwrap());
        old.put_label(new.take_label(Label(5), WorkerId(0)).unwrap());
        assert!(old.route(Label(5)).is_some() && old.passed_to(Label(5)).is_none());
        assert_eq!(new.passed_to(Label(5)), Some(WorkerId(0)));
    }
}
