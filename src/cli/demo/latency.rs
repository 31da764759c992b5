//! One-way latency of each hop of the demo's channel, from what the daemons count.
//!
//! All daemons run on one machine, so their clocks agree. Each is asked to watch the channel; differences
//! of two readings of a watch are what happened in between.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::world::World;
use crate::cli::latency::{Watch, histogram};
use crate::cli::screen::Style;
use crate::cli::values::millis;
use crate::limits;
use crate::types::PeerName;

#[derive(Debug, Default)]
pub(super) struct Latencies {
    hops: BTreeMap<PeerName, Hop>,
}

#[derive(Debug)]
struct Hop {
    /// None while the channel does not reach it, or before it was asked.
    watch: Option<Watch>,
    last: BTreeMap<u64, u64>,
    total: Histogram<u64>,
}

impl Default for Hop {
    fn default() -> Self {
        let total = Histogram::new_with_max(limits::WATCH_MAX.as_secs() * 1_000_000, 3)
            .expect("constants that the crate accepts");
        Self { watch: None, last: BTreeMap::new(), total }
    }
}

/// p50, p99 and p99.9 in microseconds, from the entry to `peer`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HopLatency {
    pub(super) peer: PeerName,
    pub(super) frames: u64,
    pub(super) us: [u64; 3],
}

impl Latencies {
    /// Asks every peer behind the entry and gives a row for each: what happened since the last time.
    /// The first time begins the watches.
    pub(super) fn poll(
        &mut self,
        world: &World,
        channel: &str,
        path: &[PeerName],
        style: Style,
    ) -> Vec<String> {
        let mut lines = vec![style.dim("        one-way latency, ms      p50      p99    p99.9")];
        for (index, name) in path.iter().enumerate().skip(1) {
            let new = self.read(world, channel, name);
            let cells = match new.filter(|new| !new.is_empty()) {
                Some(new) => quantiles(&new).map(millis),
                None => ["-", "-", "-"].map(str::to_owned),
            };
            let hop = format!("hop {index} to {name}");
            let [p50, p99, p999] = cells;
            lines.push(format!("        {hop:<21}{p50:>8} {p99:>8} {p999:>8}"));
        }
        lines
    }

    /// Everything that was read of the peers of `path`.
    pub(super) fn totals(&self, path: &[PeerName]) -> Vec<HopLatency> {
        let hop = |peer: &PeerName| {
            let total = &self.hops.get(peer)?.total;
            Some(HopLatency { peer: peer.clone(), frames: total.len(), us: quantiles(total) })
        };
        path.iter().skip(1).filter_map(hop).collect()
    }

    /// What is new of a peer; nothing if it is being killed, or if the path is just moving.
    fn read(&mut self, world: &World, channel: &str, name: &PeerName) -> Option<Histogram<u64>> {
        let daemon = &world.peer(name).filter(|peer| peer.runs())?.daemon;
        let hop = self.hops.entry(name.clone()).or_default();
        if hop.watch.is_none() {
            let seconds = u32::try_from(limits::WATCH_MAX.as_secs()).unwrap_or(u32::MAX);
            hop.watch = Some(Watch::begin(daemon, channel, seconds).ok()?);
            hop.last.clear();
        }
        match hop.watch.as_ref().map(|watch| watch.read(daemon)) {
            Some(Ok(reply)) => Some(self.on_reading(name, &reply.one_way_us.buckets)),
            Some(Err(_)) | None => {
                hop.watch = None;
                None
            }
        }
    }

    fn on_reading(&mut self, peer: &PeerName, buckets: &[(u64, u64)]) -> Histogram<u64> {
        let hop = self.hops.entry(peer.clone()).or_default();
        let new: Vec<(u64, u64)> = buckets
            .iter()
            .map(|&(upper, count)| {
                let last = hop.last.insert(upper, count).unwrap_or(0);
                (upper, count.saturating_sub(last))
            })
            .collect();
        let new = histogram(&new);
        // Nothing on one machine takes longer than the bound, so the sum cannot fail.
        let _ = hop.total.add(&new);
        new
    }
}

fn quantiles(histogram: &Histogram<u64>) -> [u64; 3] {
    [50.0, 99.0, 99.9].map(|percentile| histogram.value_at_percentile(percentile))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a23_a_reading_is_the_difference_to_the_one_before() {
        let mut latencies = Latencies::default();
        let peer = PeerName::new("b").expect("a name");
        assert_eq!(latencies.on_reading(&peer, &[(100, 10), (200, 0)]).len(), 10);
        let second = latencies.on_reading(&peer, &[(100, 10), (200, 5)]);
        assert_eq!((second.len(), second.value_at_percentile(50.0)), (5, 200));
        let path = [PeerName::new("a").expect("a name"), peer];
        let totals = latencies.totals(&path);
        assert_eq!(totals.len(), 1);
        assert_eq!((totals[0].frames, totals[0].us[0]), (15, 100));
    }
}
