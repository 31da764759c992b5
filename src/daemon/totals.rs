//! Frames of all channels there were since the daemon started: counters that never fall.
//!
//! A channel that ends leaves its counters here. Workers may still write to them until they have applied
//! its end: the last owner of a block reads it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::api::dto::FrameTotals;
use crate::daemon::views;
use crate::stats::{Books, ChannelStats, DropReason};

/// Blocks that wait for their workers before all are looked at: closing is cheap on average.
const LOOK_AT: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Totals {
    gone: Sum,
    going: Vec<Arc<ChannelStats>>,
    look_at: usize,
}

#[derive(Clone, Debug, Default)]
struct Sum {
    books: Books,
    entered_bytes: u64,
    delivered_bytes: u64,
}

impl Sum {
    fn add(&mut self, stats: &ChannelStats) {
        self.books.add(stats.books());
        self.entered_bytes += stats.bytes_in.load(Relaxed);
        self.delivered_bytes += stats.bytes_out.load(Relaxed);
    }
}

impl Totals {
    /// A channel has ended; a worker may not know yet.
    pub(crate) fn leaves(&mut self, stats: impl IntoIterator<Item = Arc<ChannelStats>>) {
        self.going.extend(stats);
        if self.going.len() > self.look_at.max(LOOK_AT) {
            self.settle();
            self.look_at = 2 * self.going.len();
        }
    }

    /// With the channels that are here, and what workers dropped that belonged to none.
    pub(crate) fn of<'a>(
        &mut self,
        here: impl Iterator<Item = &'a Arc<ChannelStats>>,
        strays: impl Iterator<Item = (DropReason, u64)>,
    ) -> FrameTotals {
        self.settle();
        let mut sum = self.gone.clone();
        self.going.iter().for_each(|stats| sum.add(stats));
        here.for_each(|stats| sum.add(stats));
        sum.books.add(Books { dropped: strays.collect(), ..Books::default() });
        let Sum { books, entered_bytes, delivered_bytes } = sum;
        FrameTotals {
            entered: books.entered,
            received: books.received,
            sent: books.sent,
            delivered: books.delivered,
            entered_bytes,
            delivered_bytes,
            dropped: views::drops(books.dropped),
        }
    }

    fn settle(&mut self) {
        let gone = &mut self.gone;
        self.going.retain(|stats| {
            let last = Arc::strong_count(stats) == 1;
            if last {
                gone.add(stats);
            }
            !last
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::bump;

    #[test]
    fn a_channel_that_ended_stays_in_the_totals_with_what_its_worker_counted_last() {
        let (mut totals, stats) = (Totals::default(), Arc::<ChannelStats>::default());
        bump(&stats.entered, 10);
        bump(&stats.bytes_in, 1_000);
        let worker = Arc::clone(&stats);
        totals.leaves([stats]);
        bump(&worker.entered, 1);
        worker.drop_frames(DropReason::Policed, 4);
        let none = || std::iter::empty();
        let first = totals.of([].iter(), none());
        assert_eq!((first.entered, first.entered_bytes), (11, 1_000));
        bump(&worker.entered, 1);
        drop(worker);
        let here = [Arc::<ChannelStats>::default()];
        bump(&here[0].entered, 5);
        let strays = [(DropReason::Policed, 1), (DropReason::Malformed, 2)];
        let last = totals.of(here.iter(), strays.into_iter());
        assert_eq!(last.entered, 17);
        assert_eq!((last.dropped["policed"], last.dropped["malformed"]), (5, 2));
        assert!(totals.going.is_empty());
    }

    #[test]
    fn blocks_whose_workers_let_go_do_not_pile_up() {
        let mut totals = Totals::default();
        for _ in 0..10 * LOOK_AT {
            totals.leaves([Arc::default()]);
        }
        assert!(totals.going.len() <= LOOK_AT + 1, "{}", totals.going.len());
    }
}
