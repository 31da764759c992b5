//! M5: a channel goes over to another path, every order of events. The machine under check is the
//! engine's own [`Merge`]; sender, paths and the worker's handful of lines around it are modelled.
//!
//! ```text
//! sender ─► path 0: FIFO, may lose, may break ─► label 0 ─┐
//!    └────► path 1: FIFO, may lose              ─► label 1 ─┴─► Merge ─► program
//! ```
//!
//! The sender goes to the next path once, at any time; each path has any delay, so frames of both
//! arrive in any mixture; the label that was left is removed at any time after that, also while frames
//! are still under way to it. Room for waiting frames is tiny, or enough. With three paths it switches
//! twice.
//!
//! Every behaviour ends (frames are few and nothing is repeated), so what must happen in the end is
//! checked where nothing more can happen.
//!
//! `cargo test --test model_merge -- --nocapture` prints the states and the time.

#![expect(clippy::disallowed_methods, reason = "says how long it took")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "states and time are for people")]
#![allow(clippy::cast_possible_truncation, reason = "small numbers made here")]

use std::collections::VecDeque;
use std::time::Instant;

use spanway::engine::merge::{Fate, Held, Merge, Via};
use stateright::{Checker as _, Model, Property};

#[derive(Clone, Copy, Debug)]
struct World {
    frames: u8,
    paths: usize,
    /// Frames that may wait.
    room: u32,
    /// Whether paths lose frames, and the first may break.
    loss: bool,
    planted: Option<Planted>,
}

/// A mistake that the checker has to find.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Planted {
    /// The faster path does not wait.
    NoWaiting,
    /// The label that was left is not told to be gone.
    NotRemoved,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// Of the sender: its next sequence and the path it uses.
    sequence: u8,
    path: usize,
    under_way: Vec<VecDeque<u8>>,
    broken: bool,
    /// The labels up to here have been removed.
    removed: usize,
    end: Ending,
    lost: u8,
    /// Arrived under a label that nobody knows any more.
    unknown: u8,
    /// A label was removed when the sender had gone on twice, and frames of the path between were still
    /// under way: nothing says that there will be any, so the third path does not wait for them.
    hasty: bool,
}

/// The end of the channel, as a worker does it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Ending {
    merge: Merge,
    held: Held<u8>,
    delivered: Vec<u8>,
    late: u8,
    overflowed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    Send,
    Switch,
    Arrive(usize),
    Lose(usize),
    Break,
    RemoveLabel,
}

impl Ending {
    fn new(room: u32) -> Self {
        let mut merge = Merge::default();
        merge.follow(Via::new(0));
        let (held, delivered) = (Held::new(room, room), Vec::new());
        Self { merge, held, delivered, late: 0, overflowed: false }
    }

    fn next(&self) -> u64 {
        self.delivered.iter().max().map_or(0, |&last| u64::from(last) + 1)
    }

    fn frame(&mut self, path: usize, sequence: u8, planted: Option<Planted>) {
        let (via, next) = (Via::new(path as u32), self.next());
        if self.merge.goes_straight(via) {
            return self.delivered.push(sequence);
        }
        if planted == Some(Planted::NoWaiting) {
            self.merge.follow(via);
        }
        match self.merge.offer(&mut self.held, via, sequence.into(), next, || Some(sequence)) {
            Fate::Leaves => {
                self.delivered.push(sequence);
                self.let_go();
            }
            Fate::Waits => {}
            Fate::Late => self.late += 1,
            Fate::NoRoom => {
                self.overflowed = true;
                self.let_go();
                self.frame(path, sequence, planted);
            }
        }
    }

    fn let_go(&mut self) {
        loop {
            let next = self.next();
            let Some(out) = self.merge.next_out(&mut self.held, next) else { return };
            if out.late {
                self.late += 1;
            } else {
                self.delivered.push(out.what);
            }
        }
    }

    /// `only`: of one label that is left.
    fn removed(&mut self, path: usize, only: Option<usize>) {
        self.merge.removed(&mut self.held, Via::new(path as u32));
        self.let_go();
        if let Some(only) = only.filter(|_| !self.merge.follows()) {
            self.merge.follow(Via::new(only as u32));
        }
    }
}

impl State {
    /// Nothing happened that may cost a frame: no loss, no removal that came too early.
    fn is_clean(&self) -> bool {
        self.lost == 0 && self.unknown == 0 && !self.end.overflowed && !self.hasty
    }

    fn accounted(&self) -> usize {
        let under_way: usize = self.under_way.iter().map(VecDeque::len).sum();
        let dropped = usize::from(self.lost + self.unknown + self.end.late);
        under_way + dropped + self.end.delivered.len() + self.end.merge.waiting() as usize
    }

    fn increases(&self) -> bool {
        self.end.delivered.is_sorted_by(|one, next| one < next)
    }
}

impl World {
    fn is_over(&self, state: &State) -> bool {
        let empty = state.under_way.iter().all(VecDeque::is_empty);
        let sent = state.sequence == self.frames && state.path + 1 == self.paths;
        empty && sent && state.removed + 1 == self.paths
    }

    fn check(&self) -> impl stateright::Checker<Self> {
        let begin = Instant::now();
        let checker = self.checker().threads(1).spawn_bfs().join();
        println!(
            "{} frames, {} paths, room for {}, {} loss, planted {:?}: {} states, {} of them unique, {:?}",
            self.frames,
            self.paths,
            self.room,
            if self.loss { "with" } else { "without" },
            self.planted,
            checker.state_count(),
            checker.unique_state_count(),
            begin.elapsed()
        );
        checker
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            sequence: 0,
            path: 0,
            under_way: vec![VecDeque::new(); self.paths],
            broken: false,
            removed: 0,
            end: Ending::new(self.room),
            lost: 0,
            unknown: 0,
            hasty: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.sequence < self.frames {
            actions.push(Action::Send);
        }
        if state.path + 1 < self.paths {
            actions.push(Action::Switch);
        }
        for path in 0..self.paths {
            if !state.under_way[path].is_empty() {
                actions.push(Action::Arrive(path));
                if self.loss {
                    actions.push(Action::Lose(path));
                }
            }
        }
        if self.loss && !state.broken {
            actions.push(Action::Break);
        }
        if state.removed < state.path {
            actions.push(Action::RemoveLabel);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Send if state.broken && state.path == 0 => {
                state.lost += 1;
                state.sequence += 1;
            }
            Action::Send => {
                state.under_way[state.path].push_back(state.sequence);
                state.sequence += 1;
            }
            Action::Switch => state.path += 1,
            Action::Arrive(path) => {
                let sequence = state.under_way[path].pop_front()?;
                if path < state.removed {
                    state.unknown += 1;
                } else {
                    state.end.frame(path, sequence, self.planted);
                }
            }
            Action::Lose(path) => {
                state.under_way[path].pop_front()?;
                state.lost += 1;
            }
            Action::Break => {
                state.broken = true;
                state.lost += state.under_way[0].len() as u8;
                state.under_way[0].clear();
            }
            Action::RemoveLabel => {
                if self.planted != Some(Planted::NotRemoved) {
                    // A label is added before its path is used.
                    let only = (state.removed + 1 == state.path).then_some(state.path);
                    state.end.removed(state.removed, only);
                }
                state.removed += 1;
                let between = state.removed;
                state.hasty |= between < state.path && !state.under_way[between].is_empty();
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nothing is doubled or out of order", |_, state: &State| {
                state.increases()
            }),
            Property::always("every frame is in one place", |_, state: &State| {
                state.accounted() == usize::from(state.sequence)
            }),
            Property::always("a frame is late only if there was no room", |_, state: &State| {
                state.end.late == 0 || state.end.overflowed || state.hasty
            }),
            Property::always(
                "no more frames wait than there is room for",
                |world, state: &State| state.end.merge.waiting() <= world.room,
            ),
            Property::always("in the end nothing waits", |world, state: &State| {
                !world.is_over(state) || state.end.merge.waiting() == 0
            }),
            Property::always("without loss all arrives", |world, state: &State| {
                let all = state.end.delivered.len() == usize::from(world.frames);
                !world.is_over(state) || !state.is_clean() || all
            }),
            Property::sometimes("frames wait", |_, state: &State| state.end.merge.waiting() > 0),
            Property::sometimes("the label is removed too early", |_, state: &State| {
                state.unknown > 0 && state.end.delivered.len() > 1
            }),
        ]
    }
}

#[test]
fn a17_m5_two_paths_are_put_together_whatever_happens() {
    for (frames, room, loss) in [(8, 8, false), (8, 3, false), (7, 7, true), (7, 2, true)] {
        let world = World { frames, paths: 2, room, loss, planted: None };
        let checker = world.check();
        checker.assert_properties();
        assert!(checker.unique_state_count() > 1_000, "the world moves");
    }
}

#[test]
fn a17_m5_so_are_three() {
    for (frames, room, loss) in [(6, 6, false), (6, 2, false), (4, 4, true), (4, 1, true)] {
        let world = World { frames, paths: 3, room, loss, planted: None };
        world.check().assert_properties();
    }
}

#[test]
fn a17_m5_a_tiny_room_overflows_and_frames_are_late_by_name() {
    // What the properties allow for does happen.
    let world = World { frames: 6, paths: 2, room: 1, loss: false, planted: None };
    let states = world.checker().threads(1).spawn_bfs().join();
    states.assert_properties();
    let mut ends = std::collections::BTreeSet::new();
    let mut stack = world.init_states();
    let mut seen = std::collections::HashSet::new();
    while let Some(state) = stack.pop() {
        if !seen.insert(state.clone()) {
            continue;
        }
        if world.is_over(&state) {
            ends.insert((state.end.overflowed, state.end.late > 0, state.end.delivered.len() == 6));
        }
        let mut actions = Vec::new();
        world.actions(&state, &mut actions);
        stack.extend(actions.into_iter().filter_map(|action| world.next_state(&state, action)));
    }
    assert!(ends.contains(&(true, true, false)), "{ends:?}");
    assert!(ends.contains(&(false, false, true)), "{ends:?}");
    assert_eq!(seen.len(), states.unique_state_count(), "the checker has seen everything");
}

#[test]
fn a17_m5_planted_mistakes_are_found() {
    let find = |planted, property| {
        let world = World { frames: 4, paths: 2, room: 4, loss: true, planted: Some(planted) };
        let checker = world.check();
        let path = checker.discovery(property).expect("a counterexample");
        println!("{property}: {:?}", path.clone().into_actions());
        path.into_states().pop().unwrap()
    };
    let state = find(Planted::NoWaiting, "nothing is doubled or out of order");
    assert!(!state.increases());
    let state = find(Planted::NotRemoved, "in the end nothing waits");
    assert!(state.end.merge.waiting() > 0);
}
