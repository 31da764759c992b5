//! One-way latency of each hop of the demo's channel, from what the daemons count.
//!
//! All daemons run on one machine, so their clocks agree. A daemon counts since the channel reached
//! it; differences of two readings are what happened in between.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::world::World;
use crate::api::dto::{Latency, Request};
use crate::cli::read::{histogram, millis};
use crate::cli::screen::Style;
use crate::types::PeerName;

#[derive(Debug, Default)]
pub(super) struct Latencies {
    hops: BTreeMap<PeerName, Hop>,
}

#[derive(Debug)]
struct Hop {
    last: BTreeMap<u64, u32>,
    total: Histogram<u64>,
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
    pub(super) fn poll(
        &mut self,
        world: &World,
        channel: &str,
        path: &[PeerName],
        style: Style,
    ) -> Vec<String> {
        let mut lines = vec![style.dim("        one-way latency, ms      p50      p99    p99.9")];
        for (index, name) in path.iter().enumerate().skip(1) {
            let request = Request::Latency { channel: channel.to_owned() };
            // A peer that is being killed, or a path that is just moving: the row stays empty.
            let reply = world
                .peer(name)
                .filter(|peer| peer.runs())
                .and_then(|peer| peer.daemon.ask::<Latency>(&request).ok());
            let new = reply.map(|reply| self.on_reading(name, &reply.buckets));
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

    fn on_reading(&mut self, peer: &PeerName, buckets: &[(u64, u32)]) -> Histogram<u64> {
        let hop = self
            .hops
            .entry(peer.clone())
            .or_insert_with(|| Hop { last: BTreeMap::new(), total: histogram(&[]) });
        let new: Vec<(u64, u32)> = buckets
            .iter()
            .map(|&(upper, count)| {
                let last = hop.last.insert(upper, count).unwrap_or(0);
                (upper, count.wrapping_sub(last))
            })
            .collect();
        let new = histogram(&new);
        // Both have the same bounds, so the sum cannot fail.
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

    #[test]
    fn counts_may_wrap() {
        let mut latencies = Latencies::default();
        let peer = PeerName::new("b").expect("a name");
        latencies.on_reading(&peer, &[(100, u32::MAX)]);
        assert_eq!(latencies.on_reading(&peer, &[(100, 2)]).len(), 3);
    }
}
