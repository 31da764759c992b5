//! Where two paths of a channel come together: which frames leave at its end now, which wait, and which
//! come too late.
//!
//! ```text
//! over the old label   7 8 9           ┐
//!                                      ├─► 7 8 9 10 11 12 13
//! over the new label   10 11 12 13 ... ┘
//!                      └─ wait until 9 has left, or the old label is removed, or there is no more room
//! ```
//!
//! An end has one *current* label, over which the last frame came that left; before any did, it is the
//! one added first. Its frames leave as they come. A frame over another label leaves if it is the next
//! one, and its label becomes the current one; if frames are missing in front of it, it waits; if later
//! ones have left already, it is late. Nothing but the frames decides: no mark in them, no clock.
//!
//! Assumes that a sender goes from one path to the next between two frames and not back to a label it
//! left, and that each path keeps the order, but for a few frames. If it does not, frames may be late,
//! but what leaves over different labels is never doubled or put out of order.
//!
//! Pure. Does not hold bytes: a waiting frame is a `T` of the caller's.

use crate::limits::MERGE_REORDERED_MAX;

/// A label that leads to the end, by a number no other label there has at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Via(u32);

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// At once; then [`Merge::next_out`] may have more.
    Leaves,
    Waits,
    /// Dropped: later ones have left, or it waits already.
    Late,
    /// No room to wait: everything of [`Merge::next_out`] leaves, then it is offered again.
    NoRoom,
}

/// A frame whose waiting is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Out<T> {
    pub sequence: u64,
    pub what: T,
    /// Dropped after all: later ones have left.
    pub late: bool,
}

/// One end's half: which label is current, and which frames of [`Held`] are its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Merge {
    /// [`Via::NONE`]: the next frame to come decides.
    current: Via,
    /// `current` while nothing waits, so that the frame path has one thing to compare.
    straight: Via,
    /// First and last of those that wait, lowest sequence first.
    first: u32,
    last: u32,
    waiting: u32,
}

/// The waiting frames of many ends. Everything is allocated when it is made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Held<T> {
    /// Those from here on have never been used.
    nodes: Vec<Node<T>>,
    free: u32,
    max: u32,
    each_max: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node<T> {
    sequence: u64,
    /// [`Via::NONE`]: its label has been removed.
    via: Via,
    before: u32,
    behind: u32,
    what: Option<T>,
}

/// No frame: the end of a list.
const END: u32 = u32::MAX;

impl Via {
    const NONE: Self = Self(u32::MAX);

    /// `number` is below `u32::MAX`.
    #[inline]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }
}

impl Default for Merge {
    fn default() -> Self {
        Self { current: Via::NONE, straight: Via::NONE, first: END, last: END, waiting: 0 }
    }
}

impl Merge {
    /// Whether frames over `via` leave at once and change nothing. If not, they are to be offered.
    #[inline]
    pub fn goes_straight(&self, via: Via) -> bool {
        self.straight == via
    }

    pub fn is_current(&self, via: Via) -> bool {
        self.current == via
    }

    /// Whether there is a current label.
    pub fn follows(&self) -> bool {
        self.current != Via::NONE
    }

    /// A frame has come. `next` is one more than the highest sequence that left; `keep` puts the frame
    /// where it can wait, if there is room.
    pub fn offer<T>(
        &mut self,
        held: &mut Held<T>,
        via: Via,
        sequence: u64,
        next: u64,
        keep: impl FnOnce() -> Option<T>,
    ) -> Fate {
        if self.current == via {
            return Fate::Leaves;
        }
        if sequence < next {
            return Fate::Late;
        }
        if self.current != Via::NONE && sequence > next {
            return self.hold(held, via, sequence, keep);
        }
        self.follow(via);
        Fate::Leaves
    }

    /// The next frame whose waiting is over. To be asked until there is none whenever a frame left that
    /// was offered, and after every other change.
    pub fn next_out<T>(&mut self, held: &mut Held<T>, next: u64) -> Option<Out<T>> {
        let node = held.nodes.get(self.first as usize)?;
        let (sequence, via) = (node.sequence, node.via);
        let waits = sequence > next && self.current != via && self.current != Via::NONE;
        if waits {
            return None;
        }
        let what = self.unlink(held);
        let late = sequence < next;
        // While everything leaves there is no current label; then it is the last one's.
        if !late && (self.current != Via::NONE || self.waiting == 0) {
            self.current = via;
        }
        self.settle();
        Some(Out { sequence, what, late })
    }

    /// Frames come over `via` from now on.
    pub fn follow(&mut self, via: Via) {
        self.current = via;
        self.settle();
    }

    /// Whatever waits is to leave.
    pub fn stop_waiting(&mut self) {
        self.follow(Via::NONE);
    }

    /// The label is gone: nothing can come over it any more. What came over it may leave when it is the
    /// next.
    pub fn removed<T>(&mut self, held: &mut Held<T>, via: Via) {
        if self.current == via {
            self.stop_waiting();
        }
        let mut at = self.first;
        while let Some(node) = held.nodes.get_mut(at as usize) {
            if node.via == via {
                node.via = Via::NONE;
            }
            at = node.behind;
        }
    }

    /// Frames that wait.
    pub fn waiting(&self) -> u32 {
        self.waiting
    }

    fn hold<T>(
        &mut self,
        held: &mut Held<T>,
        via: Via,
        sequence: u64,
        keep: impl FnOnce() -> Option<T>,
    ) -> Fate {
        let Some(before) = self.place(held, sequence) else { return Fate::Late };
        let room = self.waiting < held.each_max && held.has_room();
        let Some(what) = room.then(keep).flatten() else {
            self.stop_waiting();
            return Fate::NoRoom;
        };
        let behind = match held.nodes.get(before as usize) {
            Some(node) => node.behind,
            None => self.first,
        };
        let at = held.put(Node { sequence, via, before, behind, what: Some(what) });
        match held.nodes.get_mut(before as usize) {
            Some(node) => node.behind = at,
            None => self.first = at,
        }
        match held.nodes.get_mut(behind as usize) {
            Some(node) => node.before = at,
            None => self.last = at,
        }
        self.waiting += 1;
        self.settle();
        Fate::Waits
    }

    /// Behind which of the waiting frames this one belongs ([`END`]: behind none). `None` if it waits
    /// already, or if there are too many in front of which it belongs.
    fn place<T>(&self, held: &Held<T>, sequence: u64) -> Option<u32> {
        let mut at = self.last;
        for _ in 0..=MERGE_REORDERED_MAX {
            match held.nodes.get(at as usize) {
                Some(node) if node.sequence == sequence => return None,
                Some(node) if node.sequence > sequence => at = node.before,
                Some(_) | None => return Some(at),
            }
        }
        None
    }

    /// Takes the first out.
    fn unlink<T>(&mut self, held: &mut Held<T>) -> T {
        let (behind, what) = held.take(self.first);
        self.first = behind;
        match held.nodes.get_mut(behind as usize) {
            Some(node) => node.before = END,
            None => self.last = END,
        }
        self.waiting -= 1;
        what
    }

    fn settle(&mut self) {
        self.straight = if self.waiting == 0 { self.current } else { Via::NONE };
    }
}

impl<T> Held<T> {
    /// Room for `max` frames, of one end at most `each_max` of them.
    pub fn new(max: u32, each_max: u32) -> Self {
        Self { nodes: Vec::with_capacity(max as usize), free: END, max, each_max }
    }

    fn has_room(&self) -> bool {
        self.free != END || self.nodes.len() < self.max as usize
    }

    /// The caller knows that there is room.
    fn put(&mut self, node: Node<T>) -> u32 {
        if let Some(free) = self.nodes.get_mut(self.free as usize) {
            let at = self.free;
            self.free = free.behind;
            *free = node;
            return at;
        }
        self.nodes.push(node);
        u32::try_from(self.nodes.len() - 1).expect("at most `max`")
    }

    /// The frame, and which one is behind it.
    fn take(&mut self, at: u32) -> (u32, T) {
        let free = Node { sequence: 0, via: Via::NONE, before: END, behind: self.free, what: None };
        let node = std::mem::replace(&mut self.nodes[at as usize], free);
        self.free = at;
        (node.behind, node.what.expect("a frame of the list"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use proptest::prelude::*;

    use super::*;

    const OLD: Via = Via::new(0);
    const NEW: Via = Via::new(1);

    /// One end, as a worker does it.
    struct Ending {
        merge: Merge,
        held: Held<u64>,
        next: u64,
        delivered: Vec<u64>,
        late: Vec<u64>,
    }

    impl Ending {
        fn new(max: u32) -> Self {
            let (merge, held) = (Merge::default(), Held::new(max, max));
            Self { merge, held, next: 0, delivered: Vec::new(), late: Vec::new() }
        }

        fn frame(&mut self, via: Via, sequence: u64) {
            if self.merge.goes_straight(via) {
                return self.deliver(sequence);
            }
            match self.merge.offer(&mut self.held, via, sequence, self.next, || Some(sequence)) {
                Fate::Leaves => {
                    self.deliver(sequence);
                    self.let_go();
                }
                Fate::Waits => {}
                Fate::Late => self.late.push(sequence),
                Fate::NoRoom => {
                    self.let_go();
                    self.frame(via, sequence);
                }
            }
        }

        fn removed(&mut self, via: Via) {
            self.merge.removed(&mut self.held, via);
            self.let_go();
        }

        fn let_go(&mut self) {
            while let Some(out) = self.merge.next_out(&mut self.held, self.next) {
                assert_eq!(out.what, out.sequence);
                if out.late {
                    self.late.push(out.sequence);
                } else {
                    self.deliver(out.sequence);
                }
            }
        }

        fn deliver(&mut self, sequence: u64) {
            self.next = self.next.max(sequence + 1);
            self.delivered.push(sequence);
        }
    }

    #[test]
    fn a_faster_path_waits_for_the_slower_one() {
        let mut end = Ending::new(16);
        [0, 1].into_iter().for_each(|sequence| end.frame(OLD, sequence));
        [4, 5].into_iter().for_each(|sequence| end.frame(NEW, sequence));
        assert_eq!((&end.delivered[..], end.merge.waiting()), (&[0, 1][..], 2));
        end.frame(OLD, 2);
        assert!(!end.merge.goes_straight(OLD), "something waits for what comes over it");
        end.frame(OLD, 3);
        assert_eq!(end.delivered, [0, 1, 2, 3, 4, 5]);
        assert!(end.merge.goes_straight(NEW) && !end.merge.goes_straight(OLD));
        end.removed(OLD);
        end.frame(NEW, 6);
        assert_eq!((end.delivered.len(), end.late.len()), (7, 0));
    }

    #[test]
    fn a_label_that_is_removed_is_not_waited_for() {
        let mut end = Ending::new(16);
        end.frame(OLD, 0);
        [3, 4].into_iter().for_each(|sequence| end.frame(NEW, sequence));
        end.removed(OLD);
        end.frame(NEW, 7);
        assert_eq!(end.delivered, [0, 3, 4, 7]);
        assert!(end.merge.goes_straight(NEW), "a loss on the only path is a loss");
        // The next path waits for this one, whatever its number.
        end.frame(OLD, 9);
        end.frame(NEW, 8);
        assert_eq!(end.delivered, [0, 3, 4, 7, 8, 9]);
    }

    #[test]
    fn without_room_nobody_waits_and_the_old_path_is_late() {
        let mut end = Ending::new(3);
        end.frame(OLD, 0);
        [2, 3, 4, 5].into_iter().for_each(|sequence| end.frame(NEW, sequence));
        assert_eq!(end.delivered, [0, 2, 3, 4, 5]);
        end.frame(OLD, 1);
        end.frame(NEW, 6);
        assert_eq!((end.delivered.last(), &end.late[..]), (Some(&6), &[1][..]));
    }

    #[test]
    fn what_came_over_a_label_that_is_gone_leaves_when_it_is_the_next() {
        let mut end = Ending::new(16);
        end.frame(OLD, 0);
        [2, 3].into_iter().for_each(|sequence| end.frame(NEW, sequence));
        end.removed(NEW);
        assert_eq!(end.delivered, [0]);
        // Another label with its number has nothing to do with it.
        end.frame(NEW, 6);
        end.frame(OLD, 1);
        assert_eq!(end.delivered, [0, 1, 2, 3, 6]);
    }

    #[test]
    fn a_label_that_carries_nothing_changes_nothing() {
        let mut end = Ending::new(16);
        // A loss and a frame out of order on one path are that path's.
        for sequence in [0, 1, 5, 4, 9] {
            end.frame(OLD, sequence);
        }
        end.removed(NEW);
        assert_eq!(end.delivered, [0, 1, 5, 4, 9]);
        assert!(end.merge.goes_straight(OLD));
    }

    #[test]
    fn one_end_cannot_have_all_the_room() {
        let mut held = Held::new(4, 3);
        let mut ends = [Merge::default(), Merge::default()];
        ends.iter_mut().for_each(|merge| merge.follow(OLD));
        let mut offer =
            |end: usize, sequence| ends[end].offer(&mut held, NEW, sequence, 0, || Some(sequence));
        assert_eq!([5, 6, 7].map(|sequence| offer(0, sequence)), [Fate::Waits; 3]);
        assert_eq!((offer(1, 5), offer(0, 8)), (Fate::Waits, Fate::NoRoom));
        assert_eq!(offer(1, 6), Fate::NoRoom, "the room of all is full");
        let [first, second] = &mut ends;
        let out = |merge: &mut Merge, held: &mut Held<u64>| {
            std::iter::from_fn(|| merge.next_out(held, 0)).map(|out| out.what).collect::<Vec<_>>()
        };
        assert_eq!(out(first, &mut held), [5, 6, 7]);
        assert_eq!(out(second, &mut held), [5]);
        assert_eq!(held.nodes.len(), 4);
    }

    #[test]
    fn the_search_for_a_place_is_short() {
        let mut end = Ending::new(1_000);
        end.frame(OLD, 0);
        let far = 200 + u64::from(MERGE_REORDERED_MAX);
        (200..far + 1).for_each(|sequence| end.frame(NEW, sequence));
        end.frame(NEW, 200);
        assert_eq!(end.late, [200], "it waits already");
        // In front of all of them is one place too far.
        end.frame(NEW, 100);
        assert_eq!(end.late, [200, 100]);
        let mut end = Ending::new(1_000);
        end.frame(OLD, 0);
        (200..far).rev().for_each(|sequence| end.frame(NEW, sequence));
        end.removed(OLD);
        assert_eq!(end.delivered[1..], (200..far).collect::<Vec<_>>());
    }

    /// The rule, word by word, for frames that may come in any order.
    struct Oracle {
        current: Option<Via>,
        waits: BTreeMap<u64, Option<Via>>,
        max: usize,
        next: u64,
        delivered: Vec<u64>,
        late: Vec<u64>,
    }

    impl Oracle {
        fn new(max: u32) -> Self {
            let (delivered, late, max) = (Vec::new(), Vec::new(), max as usize);
            Self { current: None, waits: BTreeMap::new(), max, next: 0, delivered, late }
        }

        fn frame(&mut self, via: Via, sequence: u64) {
            let current = self.current == Some(via);
            let useless = sequence < self.next || self.waits.contains_key(&sequence);
            if !current && useless {
                return self.late.push(sequence);
            }
            if !current && self.current.is_some() && sequence > self.next {
                if self.waits.len() < self.max {
                    self.waits.insert(sequence, Some(via));
                    return;
                }
                self.current = None;
                self.let_go();
                return self.frame(via, sequence);
            }
            self.current = Some(via);
            self.deliver(sequence);
            self.let_go();
        }

        fn removed(&mut self, via: Via) {
            self.current = self.current.filter(|&current| current != via);
            for waits in self.waits.values_mut() {
                *waits = waits.filter(|&waits| waits != via);
            }
            self.let_go();
        }

        fn let_go(&mut self) {
            while let Some((&sequence, &via)) = self.waits.first_key_value() {
                let own = via.is_some() && via == self.current;
                if sequence > self.next && !own && self.current.is_some() {
                    return;
                }
                self.waits.pop_first();
                if sequence < self.next {
                    self.late.push(sequence);
                } else {
                    if self.current.is_some() || self.waits.is_empty() {
                        self.current = via;
                    }
                    self.deliver(sequence);
                }
            }
        }

        fn deliver(&mut self, sequence: u64) {
            self.next = self.next.max(sequence + 1);
            self.delivered.push(sequence);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Frame(u32, u64),
        Removed(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let frame = (0..3u32, 0..40u64).prop_map(|(via, sequence)| Step::Frame(via, sequence));
        let step = prop_oneof![12 => frame, 1 => (0..3u32).prop_map(Step::Removed)];
        prop::collection::vec(step, 0..120)
    }

    /// A stream that goes from one path to the other, and how the two arrive.
    #[derive(Clone, Debug)]
    struct Switch {
        frames: u64,
        at: u64,
        lost: Vec<bool>,
        /// Whose frame comes next, if both have some under way.
        order: Vec<bool>,
        /// After so many of them the old label is removed.
        removed: usize,
        room: u32,
    }

    fn switches(lost: f64) -> impl Strategy<Value = Switch> {
        let order = prop_oneof![
            prop::collection::vec(any::<bool>(), 240),
            (0.0..1.0f64).prop_flat_map(|p| prop::collection::vec(prop::bool::weighted(p), 240)),
        ];
        let lost = prop::collection::vec(prop::bool::weighted(lost), 120);
        (0..120u64, 0..120u64, lost, order, 0..240usize, 0..60u32).prop_map(
            |(frames, at, lost, order, removed, room)| {
                let at = at.min(frames);
                Switch { frames, at, lost, order, removed, room }
            },
        )
    }

    /// Lets the frames arrive and returns how many came before their label was removed.
    fn run(switch: &Switch, end: &mut Ending) -> (usize, bool) {
        let arrives = |sequence: &u64| !switch.lost[usize::try_from(*sequence).unwrap()];
        let mut old: VecDeque<u64> = (0..switch.at).filter(arrives).collect();
        let mut new: VecDeque<u64> = (switch.at..switch.frames).filter(arrives).collect();
        let (mut came, mut removed, mut steps) = (0, false, 0);
        while !(old.is_empty() && new.is_empty()) {
            if steps >= switch.removed && !removed {
                end.removed(OLD);
                removed = true;
            }
            let from_old = new.is_empty() || !old.is_empty() && switch.order[steps];
            steps += 1;
            match (from_old, removed) {
                // Nobody knows the label any more.
                (true, true) => drop(old.pop_front()),
                (true, false) => {
                    end.frame(OLD, old.pop_front().unwrap());
                    came += 1;
                }
                (false, _) => {
                    end.frame(NEW, new.pop_front().unwrap());
                    came += 1;
                }
            }
        }
        (came, removed)
    }

    fn increases(delivered: &[u64]) -> bool {
        delivered.is_sorted_by(|one, next| one < next)
    }

    proptest! {
        #[test]
        fn a17_whatever_comes_is_judged_as_the_words_say(steps in steps(), max in 0..20u32) {
            let (mut end, mut oracle) = (Ending::new(max), Oracle::new(max));
            for step in steps {
                match step {
                    Step::Frame(via, sequence) => {
                        end.frame(Via::new(via), sequence);
                        oracle.frame(Via::new(via), sequence);
                    }
                    Step::Removed(via) => {
                        end.removed(Via::new(via));
                        oracle.removed(Via::new(via));
                    }
                }
                prop_assert_eq!(&end.delivered, &oracle.delivered);
                prop_assert_eq!(&end.late, &oracle.late);
                prop_assert_eq!(end.merge.waiting() as usize, oracle.waits.len());
            }
        }

        #[test]
        fn a17_two_paths_with_loss_are_put_together_in_order(switch in switches(0.1)) {
            let mut end = Ending::new(switch.room);
            end.merge.follow(OLD);
            let (came, removed) = run(&switch, &mut end);
            prop_assert!(increases(&end.delivered), "{:?}", end.delivered);
            let waiting = end.merge.waiting() as usize;
            prop_assert_eq!(came, end.delivered.len() + end.late.len() + waiting);
            if !removed {
                end.removed(OLD);
            }
            prop_assert_eq!(end.merge.waiting(), 0);
            prop_assert!(increases(&end.delivered), "{:?}", end.delivered);
            prop_assert_eq!(came, end.delivered.len() + end.late.len());
            let outran = |late: &u64| *late < switch.at && switch.room < 60;
            prop_assert!(end.late.iter().all(outran), "{:?}", end.late);
        }

        #[test]
        fn a17_two_paths_without_loss_are_put_together_completely(
            switch in switches(0.0).prop_map(|switch| Switch { removed: 240, room: 120, ..switch })
        ) {
            let mut end = Ending::new(switch.room);
            end.merge.follow(OLD);
            run(&switch, &mut end);
            prop_assert_eq!(end.delivered, (0..switch.frames).collect::<Vec<_>>());
            prop_assert_eq!((end.late.len(), end.merge.waiting()), (0, 0));
        }
    }
}
