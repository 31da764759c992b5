//! What one peer of a channel's path knows of it: the answer to ASK_HOP, for `spanway why` (A23, A28).
//!
//! Frames are counted since the channel came to the peer. Since control version 5. Nothing is decided by
//! it. Panic contract: as in [`super::control`].

use super::ParseError;
use super::codec::{Reader, Writer};
use crate::limits;
use crate::types::Bandwidth;

/// First control version that has these messages.
pub const VERSION: u16 = 5;

/// A channel at one peer of its path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HopFacts {
    /// From the asker of the channel to its service.
    pub there: WayFacts,
    /// And back.
    pub back: WayFacts,
}

/// One direction of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WayFacts {
    /// From a local program, and from a neighbour.
    pub entered: u64,
    pub received: u64,
    /// To a neighbour, and to a local program.
    pub sent: u64,
    pub delivered: u64,
    /// By the names of [`DropReason`](crate::stats::DropReason), without those of zero.
    pub dropped: Vec<(String, u64)>,
    /// Microseconds since the frames entered the overlay; above the least if the clocks of the hosts
    /// differ.
    pub one_way: Option<Times>,
    pub clocks_differ: bool,
    /// Nanoseconds inside the peer, of frames of all channels that come from the same neighbour.
    pub inside: Option<Times>,
    /// The link these frames leave by.
    pub link: Option<LinkRoom>,
}

/// A histogram in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    pub count: u64,
    pub p50: u64,
    pub p99: u64,
    pub max: u64,
}

/// One direction of a link, at its sending end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkRoom {
    pub usable: Bandwidth,
    pub free: Bandwidth,
}

impl HopFacts {
    pub(super) fn emit(&self, w: &mut Writer) {
        self.there.emit(w);
        self.back.emit(w);
    }

    pub(super) fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(Self { there: WayFacts::parse(r)?, back: WayFacts::parse(r)? })
    }
}

impl WayFacts {
    fn emit(&self, w: &mut Writer) {
        for count in [self.entered, self.received, self.sent, self.delivered] {
            w.u64(count);
        }
        w.list(&self.dropped, |w, (reason, count)| {
            w.text(reason);
            w.u64(*count);
        });
        w.bool(self.clocks_differ);
        for times in [&self.one_way, &self.inside] {
            w.option(times.as_ref(), |w, Times { count, p50, p99, max }| {
                [count, p50, p99, max].into_iter().for_each(|value| w.u64(*value));
            });
        }
        w.option(self.link.as_ref(), |w, link| {
            w.bandwidth(link.usable);
            w.bandwidth(link.free);
        });
    }

    fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let (entered, received) = (r.u64("entered")?, r.u64("received")?);
        let (sent, delivered) = (r.u64("sent")?, r.u64("delivered")?);
        let dropped = r.list(limits::DROPS_TOLD_MAX, "drops", |r| {
            Ok((r.text("drop reason")?, r.u64("drop count")?))
        })?;
        let clocks_differ = r.bool("clocks differ")?;
        let one_way = r.option("one-way times", times)?;
        let inside = r.option("times inside", times)?;
        let link = r.option("link", |r| {
            Ok(LinkRoom { usable: r.bandwidth("usable")?, free: r.bandwidth("free")? })
        })?;
        Ok(Self {
            entered,
            received,
            sent,
            delivered,
            dropped,
            one_way,
            clocks_differ,
            inside,
            link,
        })
    }
}

fn times(r: &mut Reader<'_>) -> Result<Times, ParseError> {
    let (count, p50) = (r.u64("count")?, r.u64("p50")?);
    Ok(Times { count, p50, p99: r.u64("p99")?, max: r.u64("max")? })
}

const _: () = assert!(VERSION <= super::control::VERSIONS.1);
