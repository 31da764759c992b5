//! What happens to one datagram: the judgement, and the edit of its header in place.
//!
//! ```text
//! from a neighbour   forward()  parse ─► label ─► link (─► tag ─► seen before?) ─► rate ─► hop limit
//!                                 ─► Relay: label swapped in place, a tag of the next link
//!                                    Deliver: leave() says to whom
//! from a program     admit()    sender ─► path ─► size ─► rate ─► Enter, or Wait if the channel is shaped
//!                    enter()    header written in front, tag room behind
//! ```
//!
//! Pure: no clock, no socket, no heap; peers' mistakes are a [`DropReason`], never a panic. Nothing is
//! ever answered. Counting and sending are `worker.rs`'s.

use core::net::{IpAddr, SocketAddr};

use super::replay::Replay;
use super::shaper::Turn;
use super::table::{Account, End, EndSlot, Link, Links, Table, Way};
use super::{AllowedFrom, Deliver};
use crate::limits::HOP_LIMIT_START;
use crate::stats::DropReason;
use crate::types::{LinkId, Time};
use crate::wire::frame::{self, FrameType, Header, OVERHEAD_BYTES};

/// What a datagram from the overlay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// Names this link; its MAC is still to be checked.
    Heartbeat { link: LinkId, header: Header },
    /// Likewise.
    Probe { link: LinkId, header: Header },
    /// Of a channel, from its link.
    Frame { account: Account, from: LinkId, header: Header, verdict: Verdict },
}

/// Where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Out of the overlay here.
    Deliver(EndSlot),
    /// To the next hop; the datagram has been relabelled.
    Relay(SocketAddr),
    Drop(DropReason),
}

/// Judges a datagram that came to the worker's port, and relabels it if it is relayed. An `Err` is a
/// drop that belongs to no channel. What a foreign link sends is not paid for by the channel.
#[inline]
pub fn forward(
    datagram: &mut [u8],
    source: SocketAddr,
    table: &mut Table,
    now: Time,
) -> Result<Judged, DropReason> {
    let header = frame::parse(datagram).map_err(|_| DropReason::Malformed)?;
    let link = |table: &Table, reason| table.heartbeat_link(header.label).ok_or(reason);
    match header.frame_type {
        FrameType::Data => {}
        FrameType::Heartbeat => {
            let link = link(table, DropReason::BadHeartbeat)?;
            return Ok(Judged::Heartbeat { link, header });
        }
        FrameType::Probe => {
            let link = link(table, DropReason::BadProbe)?;
            return Ok(Judged::Probe { link, header });
        }
    }
    let (route, links) = table.look_up(header.label).ok_or(DropReason::UnknownLabel)?;
    let link = links.get(route.from).filter(|link| link.sends_from(source));
    let link = link.ok_or(DropReason::ForeignLabel)?;
    if links.have_tags() {
        check_tag(datagram, header.sequence, link, route.seen.as_deref_mut())?;
    }
    let verdict = if route.policer.admit(now, datagram.len()) {
        match route.ways.first() {
            Some(&Way::Local(end)) => Verdict::Deliver(end),
            Some(&way) => relay(datagram, header.hop_limit, way, links),
            None => Verdict::Drop(DropReason::UnknownLabel),
        }
    } else {
        Verdict::Drop(DropReason::Policed)
    };
    Ok(Judged::Frame { account: route.account, from: route.from, header, verdict })
}

/// Before anything of it counts: neither rate nor window nor sign of life is a stranger's to touch.
///
/// Called cold, or every frame without a tag would pay for the registers of those with one (an eighth more
/// instructions, `cargo xtask instructions`).
#[cold]
fn check_tag(
    datagram: &[u8],
    sequence: u64,
    from: &Link,
    seen: Option<&mut Replay>,
) -> Result<(), DropReason> {
    let Some(tags) = &from.tags else { return Ok(()) };
    let Some(seen) = seen.filter(|_| tags.receive.wrote(datagram)) else {
        return Err(DropReason::BadTag);
    };
    if !seen.is_new(sequence) {
        return Err(DropReason::Replayed);
    }
    seen.mark(sequence);
    Ok(())
}

#[inline]
fn relay(datagram: &mut [u8], hop_limit: u8, way: Way, links: &Links) -> Verdict {
    let Way::Hop { link, label, port } = way else {
        return Verdict::Drop(DropReason::UnknownLabel);
    };
    let Some(hop_limit) = hop_limit.checked_sub(1).filter(|&left| left > 0) else {
        return Verdict::Drop(DropReason::HopLimit);
    };
    let Some(link) = links.get(link) else {
        return Verdict::Drop(DropReason::NoLink);
    };
    frame::relabel(datagram, label, hop_limit);
    if links.have_tags() {
        write_tag(datagram, link);
    }
    Verdict::Relay(link.worker_address(port))
}

#[cold]
fn write_tag(header: &mut [u8], to: &Link) {
    match &to.tags {
        Some(tags) => tags.send.write(header),
        // The one it came with, if any, means nothing to the next hop.
        None => frame::set_hop_tag(header, [0; 16]),
    }
}

/// A datagram of a program that may enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    Enter(Way),
    /// Then, and where the end's entry leads then.
    Wait(Time),
}

/// Judges a datagram a program sent into a channel end, without looking at its content: where it goes
/// if it may enter. Remembers the sender.
#[inline]
pub fn admit(
    payload_bytes: usize,
    source: SocketAddr,
    end: &mut End,
    now: Time,
) -> Result<Admitted, DropReason> {
    if !allowed(&end.from, source) {
        return Err(DropReason::ForeignSender);
    }
    end.last_sender = Some(source);
    // From here on it is a datagram of the stream: it takes a sequence even if it is dropped, so that
    // the other end sees that something is missing.
    end.sequence += 1;
    let Some(entry) = &end.entry else {
        return Err(DropReason::Moving);
    };
    if payload_bytes > usize::from(entry.max_payload) {
        return Err(DropReason::TooBig);
    }
    let way = entry.way;
    let policer = end.policer.as_mut().expect("set with the entry");
    let frame_bytes = payload_bytes + OVERHEAD_BYTES;
    let turn = match &end.shaping {
        None if policer.admit(now, frame_bytes) => Turn::Now,
        None => Turn::Never,
        Some(shaping) => shaping.turn(policer, now, frame_bytes),
    };
    match turn {
        Turn::Now => Ok(Admitted::Enter(way)),
        Turn::At(at) => Ok(Admitted::Wait(at)),
        Turn::Never => Err(DropReason::Policed),
    }
}

/// Writes the header in front of an admitted payload and the end-to-end tag behind it, wherever they
/// lie: `header` has [`frame::HEADER_BYTES`], `tag` [`frame::END_TAG_BYTES`].
#[inline]
pub fn enter(
    header: &mut [u8],
    tag: &mut [u8],
    payload_bytes: usize,
    way: Way,
    sequence: u64,
    stamp: u32,
    table: &Table,
) -> Verdict {
    let (label, verdict) = match way {
        Way::Local(end) => (crate::types::Label(0), Verdict::Deliver(end)),
        Way::Hop { link, label, port } => match table.link(link) {
            Some(link) => (label, Verdict::Relay(link.worker_address(port))),
            None => return Verdict::Drop(DropReason::NoLink),
        },
    };
    let Ok(payload_length) = u16::try_from(payload_bytes) else {
        return Verdict::Drop(DropReason::TooBig);
    };
    let fields = Header {
        frame_type: FrameType::Data,
        flags: 0,
        hop_limit: HOP_LIMIT_START,
        payload_length,
        label,
        sequence,
        stamp,
    };
    fields.emit(header);
    tag.fill(0);
    verdict
}

/// Fills the hop tag of a frame that leaves this way, if its link has them. The last that is written: it
/// covers all of the header.
#[inline]
pub fn tag(header: &mut [u8], way: Way, table: &Table) {
    if table.links().have_tags()
        && let Way::Hop { link, .. } = way
        && let Some(link) = table.link(link)
    {
        write_tag(header, link);
    }
}

/// What of a frame leaves the overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Payload,
    /// All of it, header and tag included.
    Frame,
}

/// To whom a frame leaves the overlay at `end`, and which part of it.
#[inline]
pub fn leave(end: &End) -> Result<(SocketAddr, Part), DropReason> {
    match (&end.deliver, end.last_sender) {
        (&Deliver::To(to), _) | (Deliver::LastSender, Some(to)) => Ok((to, Part::Payload)),
        (Deliver::Framed(to), _) => Ok((*to, Part::Frame)),
        (Deliver::LastSender, None) => Err(DropReason::NoReceiver),
    }
}

fn allowed(from: &AllowedFrom, source: SocketAddr) -> bool {
    match from {
        AllowedFrom::Loopback => source.ip().is_loopback(),
        AllowedFrom::Prefix(prefix, bits) => {
            source.ip().is_loopback() || in_prefix(source.ip(), *prefix, *bits)
        }
        AllowedFrom::Only(address) => source == *address,
    }
}

fn in_prefix(ip: IpAddr, prefix: IpAddr, bits: u8) -> bool {
    let shift = |width: u32| width.saturating_sub(u32::from(bits));
    match (ip, prefix) {
        (IpAddr::V4(ip), IpAddr::V4(prefix)) => {
            let differ = ip.to_bits() ^ prefix.to_bits();
            differ.checked_shr(shift(32)).unwrap_or(0) == 0
        }
        (IpAddr::V6(ip), IpAddr::V6(prefix)) => {
            let differ = ip.to_bits() ^ prefix.to_bits();
            differ.checked_shr(shift(128)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::shaper::Policer;
    use crate::engine::table::SocketId;
    use crate::engine::{EntrySpec, Target};
    use crate::types::{Bandwidth, ChannelId, Label, PeerName};
    use crate::wire::frame::{END_TAG_BYTES, HEADER_BYTES, OVERHEAD_BYTES};
    use crate::wire::heartbeat::{Heartbeat, HeartbeatKey};
    use crate::wire::measure::Probe;
    use crate::wire::tag::HopKeys;

    const IN: LinkId = LinkId(0);
    const OUT: LinkId = LinkId(1);
    /// 64 KiB of burst at the entry, as much again one hop behind it.
    const RATE: Bandwidth = Bandwidth::from_bps(64_000);
    const NOW: Time = Time(1_000_000);

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn neighbour() -> SocketAddr {
        address("10.0.0.1:4000")
    }

    fn channel() -> ChannelId {
        ChannelId { source: PeerName::new("peer-1").unwrap(), boot: 1, count: 1 }
    }

    /// Label 1 is relayed to link 1 as label 2, label 3 is local.
    fn table() -> Table {
        let mut table = Table::default();
        table.set_link(IN, neighbour(), 2, Label(100), None);
        table.set_link(OUT, address("10.0.0.2:5000"), 1, Label(200), None);
        let hop = Target::Hop { link: OUT, label: Label(2), port: 5_003 };
        let policer = Policer::at_hop(RATE, 1);
        table.add_label(Label(1), IN, hop, policer, Arc::default());
        table.add_label(Label(3), IN, Target::Local(channel()), policer, Arc::default());
        table
    }

    fn frame(label: u64, hop_limit: u8) -> Vec<u8> {
        let header = Header {
            frame_type: FrameType::Data,
            flags: 0,
            hop_limit,
            payload_length: 5,
            label: Label(label),
            sequence: 7,
            stamp: 8,
        };
        let mut bytes = vec![9; header.frame_bytes()];
        header.emit(&mut bytes);
        bytes
    }

    fn verdict(judged: Result<Judged, DropReason>) -> Result<Verdict, DropReason> {
        judged.map(|judged| match judged {
            Judged::Frame { verdict, .. } => verdict,
            Judged::Heartbeat { .. } | Judged::Probe { .. } => panic!("of a link"),
        })
    }

    fn end(table: &mut Table, from: AllowedFrom, deliver: Deliver) -> EndSlot {
        let slot = table.reserve_end(&channel());
        table.open_end(slot, SocketId(1), from, deliver, false, Arc::default());
        slot
    }

    #[test]
    fn a_frame_is_relabelled_in_place_and_only_there() {
        let mut table = table();
        let mut bytes = frame(1, 64);
        let to = verdict(forward(&mut bytes, neighbour(), &mut table, NOW));
        assert_eq!(to, Ok(Verdict::Relay(address("10.0.0.2:5003"))));
        assert_eq!(bytes, frame(2, 63));
    }

    fn tags(link: u8) -> HopKeys {
        HopKeys::derive(&[link; 32], &[link + 1; 32])
    }

    /// The neighbour's end of it.
    fn other_end(link: u8) -> HopKeys {
        HopKeys::derive(&[link + 1; 32], &[link; 32])
    }

    /// As [`table`], the links with these tags.
    fn tagged_table(from: Option<HopKeys>, to: Option<HopKeys>) -> Table {
        let mut table = Table::default();
        table.set_link(IN, neighbour(), 2, Label(100), from);
        table.set_link(OUT, address("10.0.0.2:5000"), 1, Label(200), to);
        let hop = Target::Hop { link: OUT, label: Label(2), port: 5_003 };
        table.add_label(Label(1), IN, hop, Policer::at_hop(RATE, 1), Arc::default());
        table
    }

    fn tagged_frame(sequence: u64) -> Vec<u8> {
        let mut bytes = frame(1, 64);
        let header = Header { sequence, ..frame::parse(&bytes).unwrap() };
        header.emit(&mut bytes);
        other_end(1).send.write(&mut bytes);
        bytes
    }

    #[test]
    fn a_tagged_frame_is_checked_where_it_comes_and_tagged_again_where_it_leaves() {
        let mut table = tagged_table(Some(tags(1)), Some(tags(3)));
        let mut bytes = tagged_frame(7);
        let to = verdict(forward(&mut bytes, neighbour(), &mut table, NOW));
        assert_eq!(to, Ok(Verdict::Relay(address("10.0.0.2:5003"))));
        assert!(other_end(3).receive.wrote(&bytes), "the next hop believes it");
        frame::set_hop_tag(&mut bytes, [0; 16]);
        assert_eq!(bytes, frame(2, 63), "nothing else differs");
    }

    /// Row 26 of the bad inputs: wrong tag, replay, counter far ahead.
    #[test]
    fn row_26_what_the_neighbour_did_not_send_or_sent_before_moves_nothing() {
        let mut table = tagged_table(Some(tags(1)), None);
        let mut judge = |bytes: &[u8]| {
            let before = table.route(Label(1)).unwrap().policer;
            let judged = verdict(forward(&mut bytes.to_vec(), neighbour(), &mut table, NOW));
            (judged, before == table.route(Label(1)).unwrap().policer)
        };
        let refused = |reason| (Err(reason), true);
        // Far ahead, without the key: the window stays where it is.
        let mut ahead = tagged_frame(u64::MAX - 1);
        frame::set_hop_tag(&mut ahead, [7; 16]);
        assert_eq!(judge(&ahead), refused(DropReason::BadTag));
        assert_eq!(judge(&frame(1, 64)), refused(DropReason::BadTag), "no tag");
        let (first, paid) = (judge(&tagged_frame(7)), judge(&tagged_frame(8)));
        assert!(matches!(first, (Ok(Verdict::Relay(_)), false)), "{first:?}");
        assert!(matches!(paid, (Ok(Verdict::Relay(_)), false)), "{paid:?}");
        assert_eq!(judge(&tagged_frame(7)), refused(DropReason::Replayed));
        // Late, but for the first time.
        assert!(matches!(judge(&tagged_frame(3)), (Ok(Verdict::Relay(_)), false)));
        for byte in [1, 2, 8, 15, 16, 23, 24, 31, 32, 47] {
            let mut changed = tagged_frame(9);
            changed[byte] ^= 1;
            let (judged, same) = judge(&changed);
            let reason = judged.unwrap_err();
            assert!(matches!(reason, DropReason::BadTag | DropReason::UnknownLabel), "{byte}");
            assert!(same, "{byte}");
        }
    }

    #[test]
    fn a_tag_means_nothing_on_the_next_link_without() {
        let mut table = tagged_table(Some(tags(1)), None);
        let mut bytes = tagged_frame(7);
        assert!(forward(&mut bytes, neighbour(), &mut table, NOW).is_ok());
        assert_eq!(frame::hop_tag(&bytes), [0; 16]);
        // And the other way round it gets one.
        let mut table = tagged_table(None, Some(tags(3)));
        let mut bytes = frame(1, 64);
        assert!(forward(&mut bytes, neighbour(), &mut table, NOW).is_ok());
        assert!(other_end(3).receive.wrote(&bytes));
    }

    #[test]
    fn only_tagged_links_cost_memory_and_a_new_connection_has_new_tags() {
        let seen = |table: &Table| table.route(Label(1)).unwrap().seen.is_some();
        assert!(!seen(&tagged_table(None, Some(tags(3)))));
        let mut table = tagged_table(Some(tags(1)), None);
        assert!(seen(&table));
        table.set_link(IN, neighbour(), 2, Label(100), Some(tags(5)));
        let judged = verdict(forward(&mut tagged_frame(7), neighbour(), &mut table, NOW));
        assert_eq!(judged, Err(DropReason::BadTag));
        // A label from before there were tags has no window: it is not believed either.
        let mut table = tagged_table(None, None);
        table.set_link(IN, neighbour(), 2, Label(100), Some(tags(1)));
        let judged = verdict(forward(&mut tagged_frame(7), neighbour(), &mut table, NOW));
        assert_eq!(judged, Err(DropReason::BadTag));
    }

    #[test]
    fn what_enters_over_a_tagged_link_has_a_tag() {
        let table = tagged_table(None, Some(tags(3)));
        let way = Way::Hop { link: OUT, label: Label(2), port: 1 };
        let (mut header, mut tag) = ([0xaa; HEADER_BYTES], [0xaa; END_TAG_BYTES]);
        enter(&mut header, &mut tag, 5, way, 4, 5, &table);
        // A seal fills the epoch, which the tag of the hop covers, too.
        frame::set_epoch(&mut header, 7);
        super::tag(&mut header, way, &table);
        assert!(other_end(3).receive.wrote(&header));
    }

    #[test]
    fn a_frame_whose_hops_are_used_up_is_dropped() {
        let mut table = table();
        for (hop_limit, passes) in [(2, true), (1, false), (0, false)] {
            let mut bytes = frame(1, hop_limit);
            let verdict = verdict(forward(&mut bytes, neighbour(), &mut table, NOW)).unwrap();
            assert_eq!(verdict != Verdict::Drop(DropReason::HopLimit), passes, "{hop_limit}");
        }
    }

    #[test]
    fn a22_a_label_is_worth_nothing_on_another_link() {
        let mut table = table();
        for source in ["10.0.0.2:4000", "10.0.0.1:3999", "10.0.0.1:4002", "[::1]:4000"] {
            let judged = forward(&mut frame(1, 64), address(source), &mut table, NOW);
            assert_eq!(judged, Err(DropReason::ForeignLabel), "{source}");
        }
        assert!(forward(&mut frame(1, 64), address("10.0.0.1:4001"), &mut table, NOW).is_ok());
    }

    #[test]
    fn a22_a_label_nobody_gave_out_reaches_nobody() {
        let mut table = table();
        let unknown = Err(DropReason::UnknownLabel);
        assert_eq!(forward(&mut frame(2, 64), neighbour(), &mut table, NOW), unknown);
        assert_eq!(forward(&mut frame(100, 64), neighbour(), &mut table, NOW), unknown);
        table.remove_label(Label(1));
        assert_eq!(forward(&mut frame(1, 64), neighbour(), &mut table, NOW), unknown);
    }

    #[test]
    fn a_hop_without_a_link_is_named() {
        let mut table = table();
        table.remove_link(OUT);
        let judged = verdict(forward(&mut frame(1, 64), neighbour(), &mut table, NOW));
        assert_eq!(judged, Ok(Verdict::Drop(DropReason::NoLink)));
        table.remove_link(IN);
        let judged = forward(&mut frame(1, 64), neighbour(), &mut table, NOW);
        assert_eq!(judged, Err(DropReason::ForeignLabel));
    }

    #[test]
    fn a_probe_names_its_link_and_an_unknown_one_is_dropped() {
        let mut table = table();
        let probe = |label| {
            let mut bytes = [0; 100];
            let probe = Probe { label: Label(label), train: 1, position: 0, of: 20 };
            probe.emit(&HeartbeatKey([0; 32]), &mut bytes);
            bytes
        };
        // From anywhere: its MAC says whose it is.
        let judged = forward(&mut probe(200), address("192.0.2.9:5"), &mut table, NOW);
        assert!(matches!(judged, Ok(Judged::Probe { link: OUT, .. })), "{judged:?}");
        let judged = forward(&mut probe(9), neighbour(), &mut table, NOW);
        assert_eq!(judged, Err(DropReason::BadProbe));
    }

    #[test]
    fn a_heartbeat_names_its_link_and_an_unknown_one_is_dropped() {
        let mut table = table();
        let beat = |label| {
            let beat = Heartbeat {
                label: Label(label),
                sequence: 1,
                heard: 0,
                heard_age_us: 0,
                overloaded: false,
            };
            beat.emit(&HeartbeatKey([0; 32]))
        };
        let judged = forward(&mut beat(200), address("1.2.3.4:5"), &mut table, NOW);
        assert!(matches!(judged, Ok(Judged::Heartbeat { link: OUT, .. })), "{judged:?}");
        let judged = forward(&mut beat(1), neighbour(), &mut table, NOW);
        assert_eq!(judged, Err(DropReason::BadHeartbeat));
    }

    #[test]
    fn what_enters_leaves_as_it_came() {
        let mut table = table();
        let slot = end(&mut table, AllowedFrom::Loopback, Deliver::LastSender);
        let source = address("127.0.0.1:9");
        let hop = Target::Hop { link: OUT, label: Label(2), port: 1 };
        let entry = EntrySpec { to: hop, rate: RATE, max_payload: 100 };
        table.set_entry(&channel(), Some(entry));
        let Ok(Admitted::Enter(way)) = admit(5, source, table.end_mut(slot).unwrap(), NOW) else {
            panic!("it may enter")
        };
        let mut bytes = vec![0xaa; OVERHEAD_BYTES + 5];
        bytes[HEADER_BYTES..HEADER_BYTES + 5].copy_from_slice(b"hello");
        let (header, rest) = bytes.split_at_mut(HEADER_BYTES);
        let verdict = enter(header, &mut rest[5..], 5, way, 4, 5, &table);
        assert_eq!(verdict, Verdict::Relay(address("10.0.0.2:1")));
        let header = frame::parse(&bytes).unwrap();
        assert_eq!((header.label, header.sequence, header.stamp), (Label(2), 4, 5));
        assert_eq!(header.hop_limit, HOP_LIMIT_START);
        assert_eq!(bytes[HEADER_BYTES + 5..], [0; END_TAG_BYTES]);
        assert_eq!(frame::payload(&header, &bytes), b"hello");
        assert_eq!(leave(table.end(slot).unwrap()), Ok((source, Part::Payload)));
        table.set_deliver(&channel(), Deliver::Framed(source));
        assert_eq!(leave(table.end(slot).unwrap()), Ok((source, Part::Frame)));
    }

    #[test]
    fn what_may_not_enter_is_named_and_leaves_a_gap_if_it_was_the_streams() {
        let mut table = table();
        let slot = end(&mut table, AllowedFrom::Loopback, Deliver::LastSender);
        let end = |table: &mut Table, bytes, source: &str| {
            let end = table.end_mut(slot).unwrap();
            (admit(bytes, address(source), end, NOW), end.sequence)
        };
        assert_eq!(leave(table.end(slot).unwrap()), Err(DropReason::NoReceiver));
        assert_eq!(end(&mut table, 5, "10.9.9.9:1"), (Err(DropReason::ForeignSender), 0));
        assert_eq!(end(&mut table, 5, "127.0.0.1:1"), (Err(DropReason::Moving), 1));
        let hop = Target::Hop { link: LinkId(9), label: Label(2), port: 1 };
        let entry = EntrySpec { to: hop, rate: RATE, max_payload: 100 };
        table.set_entry(&channel(), Some(entry));
        assert_eq!(end(&mut table, 101, "127.0.0.1:1"), (Err(DropReason::TooBig), 2));
        let (way, sequence) = end(&mut table, 100, "127.0.0.1:1");
        assert_eq!(sequence, 3);
        let Ok(Admitted::Enter(way)) = way else { panic!("it may enter") };
        let (mut header, mut tag) = ([0; HEADER_BYTES], [0; END_TAG_BYTES]);
        let verdict = enter(&mut header, &mut tag, 0, way, 2, 0, &table);
        assert_eq!(verdict, Verdict::Drop(DropReason::NoLink));
    }

    #[test]
    fn a20_what_is_above_the_rate_is_policed_at_a_hop_and_foreigners_take_nothing() {
        let mut table = table();
        // 128 KiB in packets of 5 + 64 + 28 bytes.
        let fits = (128 << 10) / 97;
        for _ in 0..2 * fits {
            let foreign = forward(&mut frame(1, 64), address("10.9.9.9:1"), &mut table, NOW);
            assert_eq!(foreign, Err(DropReason::ForeignLabel));
        }
        let mut relayed = |now| {
            let judged = forward(&mut frame(1, 64), neighbour(), &mut table, now);
            verdict(judged).unwrap() != Verdict::Drop(DropReason::Policed)
        };
        assert_eq!((0..2 * fits).filter(|_| relayed(NOW)).count(), fits);
        // A second at 64 kbit/s and 2 % are 8,160 bytes.
        let later = NOW + core::time::Duration::from_secs(1);
        assert_eq!((0..fits).filter(|_| relayed(later)).count(), 8_160 / 97);
    }

    #[test]
    fn a20_what_is_above_the_rate_is_policed_at_the_entry_and_leaves_a_gap() {
        let mut table = table();
        let slot = end(&mut table, AllowedFrom::Loopback, Deliver::LastSender);
        let to = Target::Hop { link: OUT, label: Label(2), port: 1 };
        let entry = EntrySpec { to, rate: RATE, max_payload: 1_316 };
        table.set_entry(&channel(), Some(entry.clone()));
        let send = |table: &mut Table| {
            let end = table.end_mut(slot).unwrap();
            let admitted = admit(1_316, address("127.0.0.1:1"), end, NOW);
            (admitted.err(), end.sequence)
        };
        // 64 KiB in packets of 1,316 + 64 + 28 bytes.
        for sequence in 1..=46 {
            assert_eq!(send(&mut table), (None, sequence));
        }
        assert_eq!(send(&mut table), (Some(DropReason::Policed), 47));
        // Moving to another path fills nothing.
        table.set_entry(&channel(), None);
        assert_eq!(send(&mut table), (Some(DropReason::Moving), 48));
        table.set_entry(&channel(), Some(entry));
        assert_eq!(send(&mut table), (Some(DropReason::Policed), 49));
    }

    #[test]
    fn senders_are_allowed_by_address() {
        let prefix = |text: &str, bits| AllowedFrom::Prefix(text.parse().unwrap(), bits);
        let cases = [
            (AllowedFrom::Loopback, "127.9.9.9:1", true),
            (AllowedFrom::Loopback, "[::1]:1", true),
            (AllowedFrom::Loopback, "192.168.1.1:1", false),
            (prefix("192.168.1.0", 24), "192.168.1.77:1", true),
            (prefix("192.168.1.0", 24), "192.168.2.77:1", false),
            (prefix("192.168.1.0", 24), "127.0.0.1:1", true),
            (prefix("192.168.1.7", 32), "192.168.1.6:1", false),
            (prefix("0.0.0.0", 0), "8.8.8.8:1", true),
            (prefix("0.0.0.0", 0), "[fe80::1]:1", false),
            (prefix("fd00::", 8), "[fd12::1]:1", true),
            (prefix("fd00::", 8), "[fe12::1]:1", false),
            (AllowedFrom::Only(address("127.0.0.1:5")), "127.0.0.1:5", true),
            (AllowedFrom::Only(address("127.0.0.1:5")), "127.0.0.1:6", false),
        ];
        for (from, source, expected) in cases {
            assert_eq!(allowed(&from, address(source)), expected, "{from:?} {source}");
        }
    }
}
