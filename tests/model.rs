//! Model checking: instead of the orders of messages that seeds draw, all of them, in overlays of up to
//! four peers. The machines under check are the product's own.
//!
//! The checker is stateright. It keeps a 64-bit fingerprint of each state, so two states out of millions may
//! be mistaken for each other with a probability of about (states squared) / 2^65.
//!
//! What takes longer than CI has is `#[ignore]`d here and run by `cargo xtask long`.

#![allow(clippy::print_stdout, reason = "a check tells how many states it saw")]
#![allow(clippy::disallowed_methods, reason = "a check tells how long it took")]

#[path = "model/ghs.rs"]
mod ghs;
#[path = "model/graphs.rs"]
mod graphs;
#[path = "model/sessions.rs"]
mod sessions;

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ghs::Tree;
use graphs::Case;
use sessions::Event::{self, Crash, Cut, Restart, Restore};
use sessions::{Life, Sent, Step, World};
use spanway::limits;
use stateright::{Checker, HasDiscoveries, Model, Path};

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
    let ends = |life: Life| {
        let ends = Arc::new(Mutex::new(HashSet::new()));
        let (seen, judge) = (Arc::clone(&ends), life.clone());
        let visit = move |path: Path<World, Step>| {
            if judge.is_over(path.last_state()) {
                seen.lock().expect("no visit panics").insert(path.last_state().clone());
            }
        };
        let checker = life.checker().visitor(visit).spawn_dfs().join();
        let ends = std::mem::take(&mut *ends.lock().expect("no visit panics"));
        (checker.unique_state_count(), ends)
    };
    for (overlay, script) in
        [(chain(), vec![Cut(0), Cut(1)]), (circle(), vec![Crash(0, Sent::Lost)])]
    {
        let life = Life::new(overlay, &script, INTERVAL);
        let (all, some) = (ends(life.clone().in_all_orders()), ends(life));
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
