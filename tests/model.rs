//! Model checking: instead of the orders of messages that seeds draw, all of them, in overlays of up to
//! four peers. The machines under check are the product's own.
//!
//! The checker is stateright. It keeps a 64-bit fingerprint of each state, so two states out of millions may
//! be mistaken for each other with a probability of about (states squared) / 2^65.
//!
//! What takes longer than CI has is `#[ignore]`d here and run by `cargo xtask long`.

#![allow(clippy::print_stdout, reason = "a check tells how many states it saw")]
#![allow(clippy::disallowed_methods, reason = "a check tells how long it took")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a world looks at a few of many messages")]
#![allow(clippy::unwrap_in_result, reason = "a model that cannot go on panics")]

#[path = "model/ghs.rs"]
mod ghs;
#[path = "model/graphs.rs"]
mod graphs;
#[path = "model/hops.rs"]
mod hops;
#[path = "model/reservations.rs"]
mod reservations;
#[path = "model/sessions.rs"]
mod sessions;
#[path = "model/wires.rs"]
mod wires;

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ghs::Tree;
use graphs::Case;
use reservations::{Contest, Event as On, Planted, Wires, Wish};
use sessions::Event::{self, Crash, Cut, Restart, Restore};
use sessions::Life;
use spanway::limits;
use stateright::{Checker, HasDiscoveries, Model, Path};
use wires::Sent;

#[test]
fn a7_a4_m1_every_order_of_deliveries_among_three_peers_ends_in_kruskals_forest() {
    let cases: Vec<_> = (1..=3).flat_map(graphs::connected_with_ties).collect();
    check("M1, n <= 3, all ties", Tree { cases, overtaking: false });
}

#[test]
fn m1_links_that_let_messages_overtake_are_found_out() {
    let cases = graphs::connected_with_ties(3);
    refute("M1, n = 3, not in order", Tree { cases, overtaking: true });
}

#[test]
fn a7_a4_m1_every_order_of_deliveries_among_four_peers_ends_in_kruskals_forest() {
    let cases = graphs::up_to_naming(4, 0..=6);
    check(&format!("M1, n = 4, {} overlays", cases.len()), Tree { cases, overtaking: false });
}

#[test]
#[ignore = "minutes: cargo xtask long"]
fn m1_every_order_of_deliveries_among_five_peers_ends_in_kruskals_forest() {
    for links in 0..=6 {
        let cases = graphs::up_to_naming(5, links..=links);
        let what = format!("M1, n = 5, {links} links, {} overlays", cases.len());
        check(&what, Tree { cases, overtaking: false });
    }
}

/// Two events and a crash with a lost counter on a chain; one event or one crash on a circle.
#[test]
fn a8_a3_m2_after_the_last_event_three_peers_agree_on_one_session_and_the_forest() {
    for script in [
        &[][..],
        &[Cut(0), Restore(0)],
        &[Cut(1), Restore(1)],
        &[Cut(0), Cut(1)],
        &[Crash(1, Sent::Arrives), Restart(1)],
        &[Crash(1, Sent::Lost), Restart(1)],
        &[Cut(0), Restore(0), Crash(0, Sent::Arrives), Restart(0)],
        &[Cut(1), Restore(1), Crash(2, Sent::Lost), Restart(2)],
    ] {
        after_first_tree("chain", chain(), script, INTERVAL);
    }
    for script in [[Cut(0)], [Cut(1)], [Cut(2)], [Crash(0, Sent::Arrives)]] {
        after_first_tree("circle", circle(), &script, INTERVAL / 2);
    }
    check("M2, chain, from the start", Life::new(chain(), &[], INTERVAL / 2).starting());
    check("M2, chain, cut at the start", Life::new(chain(), &[Cut(0)], INTERVAL).starting());
}

#[test]
#[ignore = "minutes: cargo xtask long"]
fn m2_after_more_events_three_peers_agree_on_one_session_and_the_forest() {
    let loss = [Crash(1, Sent::Lost), Restart(1)];
    after_first_tree("chain", chain(), &[Cut(0), Restore(0), loss[0], loss[1]], INTERVAL);
    after_first_tree("chain", chain(), &[loss[0], loss[1], Cut(0), Restore(0)], INTERVAL);
    after_first_tree("chain", chain(), &loss, INTERVAL / 2);
    let loss = [Crash(2, Sent::Arrives), Restart(2)];
    after_first_tree("chain", chain(), &[loss[0], loss[1], Cut(0), Restore(0)], INTERVAL);
    for link in 0..3 {
        after_first_tree("circle", circle(), &[Cut(link), Restore(link)], INTERVAL);
    }
    for peer in 0..3 {
        let script = [Crash(peer, Sent::Arrives), Restart(peer)];
        after_first_tree("circle", circle(), &script, INTERVAL);
    }
    check("M2, circle, from the start", Life::new(circle(), &[], INTERVAL).starting());
}

/// The reduction loses nothing: with and without it worlds end in the same states.
#[test]
fn m2_orders_that_are_skipped_end_where_others_end() {
    for (overlay, script) in
        [(chain(), vec![Cut(0), Cut(1)]), (circle(), vec![Crash(0, Sent::Lost)])]
    {
        let life = Life::new(overlay, &script, INTERVAL);
        let all = ends(life.clone().in_all_orders(), Life::is_over);
        let some = ends(life, Life::is_over);
        println!("{} states in all orders, {} without those skipped", all.0, some.0);
        assert!(some.0 < all.0);
        assert!(!all.1.is_empty() && all.1 == some.1);
    }
}

#[test]
fn m2_messages_that_arrive_on_a_later_connection_are_found_out() {
    let life = Life::new(chain(), &[Cut(1), Cut(0), Restore(0)], INTERVAL);
    refute("M2, chain, leftovers", life.with_leftovers());
}

/// Two hops: every wish with every script, then one timer of each peer at any time where little else
/// happens, then wires that lose or double a message.
#[test]
fn a12_a14_a11_m3_reservations_of_two_requests_over_two_hops() {
    for (what, contest) in rivals(2) {
        for script in TROUBLES {
            check(&format!("M3, {what}, {script:?}"), contest.clone().with_script(script));
        }
        for script in QUIET {
            let contest = contest.clone().with_script(script);
            for wires in [Wires::Losing, Wires::Doubling] {
                let what = format!("M3, {what}, {script:?}, {wires:?}");
                check(&what, contest.clone().over(wires));
            }
        }
        check(&format!("M3, {what}, a timer of each"), contest.with_ticks(1));
    }
}

#[test]
#[ignore = "minutes: cargo xtask long"]
fn m3_reservations_of_two_requests_over_three_hops() {
    for (what, contest) in rivals(3) {
        for script in TROUBLES {
            let what = format!("M3, 3 hops, {what}, {script:?}");
            check(&what, contest.clone().with_script(script));
        }
        let what = format!("M3, 3 hops, {what}, a timer of each");
        check(&what, contest.with_ticks(1));
    }
    for (what, contest) in rivals(2) {
        for script in TROUBLES {
            let what = format!("M3, {what}, {script:?}, a timer of each");
            check(&what, contest.clone().with_script(script).with_ticks(1));
        }
    }
}

#[test]
fn m3_orders_that_are_skipped_end_where_others_end() {
    let script = [On::Cut(1), On::Close(0), On::Restore(1)];
    for (what, contest) in rivals(2) {
        let contest = contest.with_script(&script);
        let all = ends(contest.clone().in_all_orders(), Contest::is_over);
        let some = ends(contest, Contest::is_over);
        println!("{what}: {} states in all orders, {} without those skipped", all.0, some.0);
        assert!(some.0 < all.0);
        assert!(!all.1.is_empty() && all.1 == some.1);
    }
}

#[test]
fn m3_planted_bugs_are_found_out() {
    let rivals: Vec<_> = rivals(2).map(|(_, contest)| contest).collect();
    let [same, _, _, _, queue] = &rivals[..] else { unreachable!("five of them") };
    refute("M3, ends that disagree on a capacity", same.clone().with(Planted::WiderLinks));
    let jumping = queue.clone().with_script(&[On::Close(0)]).with(Planted::Jumping);
    refute("M3, a request that says that it waits behind nobody", jumping);
    let lost = same.clone().with_script(&[On::Close(0)]).over(Wires::Losing);
    refute("M3, a message lost on a connection that stays", lost.with(Planted::NoLeases));
}

/// Who competes: the first and the last peer of the chain, or one in the middle, for the same direction
/// or for both; at once, or in line behind a channel that has all the room.
fn rivals(hops: usize) -> impl Iterator<Item = (&'static str, Contest)> {
    let wish = |from, to, back, waits| Wish { from, to, back, waits };
    let far = hops;
    let contests = [
        ("one direction", vec![wish(0, far, 1, false), wish(1, far, 1, false)], 0),
        ("both directions", vec![wish(0, far, 6, false), wish(far, 0, 6, false)], 0),
        ("both, in line", vec![wish(0, far, 6, true), wish(far, 0, 6, true)], 0),
        (
            "behind a channel of one link",
            vec![wish(1, far, 1, false), wish(0, far, 1, true), wish(1, far, 1, true)],
            1,
        ),
        (
            "behind a channel of all links",
            vec![wish(0, far, 6, false), wish(0, far, 1, true), wish(far, 0, 1, true)],
            1,
        ),
    ];
    let contest = move |wishes: &[Wish], open| Contest::new(hops + 1, wishes).with_open(open);
    contests.into_iter().map(move |(what, wishes, open)| (what, contest(&wishes, open)))
}

const QUIET: [&[On]; 2] = [&[], &[On::Close(0)]];

const TROUBLES: [&[On]; 12] = [
    QUIET[0],
    QUIET[1],
    &[On::Close(0), On::Close(1)],
    &[On::Withdraw(1), On::Close(0)],
    &[On::Cut(0), On::Restore(0)],
    &[On::Cut(1), On::Restore(1)],
    &[On::Cut(1), On::Close(0), On::Restore(1)],
    &[On::Close(0), On::Cut(1), On::Restore(1)],
    &[On::Crash(1, Sent::Arrives), On::Restart(1)],
    &[On::Crash(1, Sent::Lost), On::Restart(1), On::Close(0)],
    &[On::Sleep(1), On::Close(0)],
    &[On::Sleep(0)],
];

/// What sessions of one initiator are apart; how much time passes at once decides which of them are
/// recent together.
const INTERVAL: Duration = limits::SESSION_INTERVAL_MIN;

fn after_first_tree(overlay: &str, case: Case, script: &[Event], pass: Duration) {
    check(&format!("M2, {overlay}, {script:?}, {pass:?}"), Life::new(case, script, pass));
}

/// p0 - p1 - p2, equal capacities.
fn chain() -> Case {
    Case::new(3, &[(0, 1, 1), (1, 2, 1)])
}

fn circle() -> Case {
    Case::new(3, &[(0, 1, 1), (1, 2, 1), (0, 2, 1)])
}

/// The number of states, and those in which nothing can happen any more.
fn ends<M>(model: M, is_over: fn(&M, &M::State) -> bool) -> (usize, HashSet<M::State>)
where
    M: Model + Clone + Send + Sync + 'static,
    M::State: Clone + Debug + Eq + Hash + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let ends = Arc::new(Mutex::new(HashSet::new()));
    let (seen, judge) = (Arc::clone(&ends), model.clone());
    let visit = move |path: Path<M::State, M::Action>| {
        if is_over(&judge, path.last_state()) {
            seen.lock().expect("no visit panics").insert(path.last_state().clone());
        }
    };
    let checker = model.checker().visitor(visit).spawn_dfs().join();
    let ends = std::mem::take(&mut *ends.lock().expect("no visit panics"));
    (checker.unique_state_count(), ends)
}

/// Every state is visited and every property holds.
fn check<M>(what: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let started = Instant::now();
    let checker = model.checker().threads(threads()).finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_dfs().join();
    report(what, &checker, started.elapsed());
    checker.assert_properties();
}

/// Some property does not hold: the planted bug has a counterexample, which is printed.
fn refute<M>(what: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let started = Instant::now();
    let checker = model.checker().threads(threads()).finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_dfs().join();
    report(what, &checker, started.elapsed());
    let fails = |name: &&str| checker.discovery_classification(name).to_string() != "example";
    let found = checker.discoveries();
    let property = found.keys().copied().find(fails).expect("the planted bug goes unnoticed");
    let path = found[property].clone();
    println!("  not so: {property:?}, after {:?}", path.into_actions());
}

fn report<M: Model>(what: &str, checker: &impl Checker<M>, took: Duration) {
    println!(
        "{what}: {} states, {} steps, at most {} deep, {took:.1?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth()
    );
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
