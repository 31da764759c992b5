//! Requests that wait for room (A14), in worlds of several peers.

use super::*;
use crate::wire::queue::Scarce;

const PATIENCE: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_millis(400);

/// peer-00 - peer-01 - peer-02, peer-03 beside peer-01. 80 of the 100 bit/s to peer-02 are promised, the
/// other links have room.
fn full() -> (World, RequestId) {
    let mut world = World::new(7, 4, &[(0, 1, 1_000), (1, 2, 100), (1, 3, 1_000)]);
    let holder = world.open(0, 2, "deliver", [80, 1]);
    world.run(SOON);
    world.patience = Some(PATIENCE);
    (world, holder)
}

fn channel(world: &World, id: RequestId) -> Option<ChannelId> {
    match world.answer(id) {
        Some(Answer::Open(opened)) => Some(opened.channel.clone()),
        _ => None,
    }
}

fn close(world: &mut World, at: usize, id: RequestId) {
    let channel = channel(world, id).expect("it is open");
    world.close(at, &channel);
    world.run(SOON);
}

fn reason(world: &World, id: RequestId) -> Option<Reject> {
    match world.answer(id) {
        Some(Answer::Rejected(why)) => Some(why.reason),
        _ => None,
    }
}

/// Each asks a little later than the one before it.
fn ask(world: &mut World, requests: &[(usize, u64)]) -> Vec<RequestId> {
    let ask = |&(from, rate): &(usize, u64)| {
        let id = world.open(from, 2, "deliver", [rate, 1]);
        world.run(SOON);
        id
    };
    requests.iter().map(ask).collect()
}

#[test]
fn a14_who_asked_first_is_served_first_whoever_it_was_and_however_small_the_others() {
    let (mut world, holder) = full();
    let ids = ask(&mut world, &[(0, 50), (3, 40), (0, 5)]);
    // 20 are free, so the last one would fit; but two asked before it.
    assert!(ids.iter().all(|id| world.answer(*id).is_none()), "all wait");
    close(&mut world, 0, holder);
    assert!(channel(&world, ids[0]).is_some() && channel(&world, ids[1]).is_some());
    assert!(channel(&world, ids[2]).is_some(), "50 + 40 + 5 fit");
    world.judge_rest();

    let (mut world, holder) = full();
    let ids = ask(&mut world, &[(0, 70), (3, 60), (0, 5)]);
    close(&mut world, 0, holder);
    assert!(channel(&world, ids[0]).is_some());
    assert_eq!(channel(&world, ids[2]), None, "30 are free, but the second is before it");
    close(&mut world, 0, ids[0]);
    assert!(channel(&world, ids[1]).is_some() && channel(&world, ids[2]).is_some());
    world.judge_rest();
}

#[test]
fn a14_a_request_that_does_not_wait_goes_behind_those_that_do() {
    let (mut world, holder) = full();
    let waiting = ask(&mut world, &[(3, 50)]);
    world.patience = None;
    let hasty = ask(&mut world, &[(0, 10)])[0];
    let Some(Answer::Rejected(why)) = world.answer(hasty) else { panic!("it does not wait") };
    assert_eq!(why.reason, Reject::NoRoom);
    assert!(why.detail.contains("peer-03:1:1 asked before"), "{}", why.detail);
    close(&mut world, 0, holder);
    assert!(channel(&world, waiting[0]).is_some());
    let late = ask(&mut world, &[(0, 10)])[0];
    assert!(channel(&world, late).is_some(), "nobody waits any more");
    world.judge_rest();
}

#[test]
fn a14_who_waits_is_told_its_position_and_what_blocks_it() {
    let (mut world, holder) = full();
    let ids = ask(&mut world, &[(3, 50), (0, 40)]);
    // What is known is refreshed every few seconds.
    world.run(limits::REFRESH_INTERVAL * 2);
    let waiting = world.hosts[0].machine.waiting(world.now);
    let [view] = &waiting[..] else { panic!("{waiting:?}") };
    assert_eq!((view.position, &view.path), (2, &path(1)));
    let [short] = &view.short[..] else { panic!("{view:?}") };
    assert_eq!((&short.at, &short.of), (&peer(1), &Scarce::Link(peer(2))));
    assert_eq!((short.free, short.ahead), (bps(20), 1));
    assert_eq!(short.before.as_ref().map(|id| &id.source), Some(&peer(3)));
    assert_eq!(short.holders, [channel(&world, holder).expect("it is open")]);
    assert_eq!(world.hosts[0].machine.views()[1].state, ChannelState::Queued);
    let id = view.id.clone();
    // The second gives up; nobody notices but itself.
    world.close(0, &id);
    world.run(SOON);
    assert_eq!(reason(&world, ids[1]), Some(Reject::Cancelled));
    close(&mut world, 0, holder);
    assert!(channel(&world, ids[0]).is_some());
    world.judge_rest();
}

#[test]
fn a14_the_deadline_is_the_end_of_the_wait() {
    let (mut world, _) = full();
    let ids = ask(&mut world, &[(3, 50)]);
    world.run(PATIENCE);
    let Some(Answer::Rejected(why)) = world.answer(ids[0]) else { panic!("its time is up") };
    assert_eq!(why.reason, Reject::Timeout);
    let words =
        "at peer-01, the link to peer-02 has 20 bit/s free and 0 requests in line before this one";
    assert_eq!(why.detail, words);
    world.judge_rest();
}

#[test]
fn a14_a_dead_asker_keeps_nobody_waiting() {
    let (mut world, holder) = full();
    ask(&mut world, &[(3, 90)]);
    let second = ask(&mut world, &[(0, 15)])[0];
    assert_eq!(world.answer(second), None, "it stands behind");
    world.crash(3);
    world.run(limits::LEASE * 2);
    assert!(channel(&world, second).is_some());
    close(&mut world, 0, holder);
    world.restart(3);
    world.heal();
    world.run(SOON);
    world.judge_rest();
}

#[test]
fn a14_a_request_that_waits_outlives_the_link_it_waits_for() {
    let (mut world, holder) = full();
    let waits = ask(&mut world, &[(3, 50)])[0];
    let link = world.wire_between(&peer(1), &peer(2));
    world.cut(link);
    world.run(Duration::from_secs(3));
    assert_eq!(world.answer(waits), None);
    assert_eq!(world.hosts[3].machine.waiting(world.now).len(), 1);
    world.mend(link);
    world.run(limits::REFRESH_INTERVAL * 2);
    // Whichever came first has the link; the other one comes when it goes.
    if channel(&world, waits).is_none() {
        close(&mut world, 0, holder);
    }
    assert!(channel(&world, waits).is_some(), "{:?}", world.answer(waits));
}

#[test]
fn a14_room_on_one_of_two_full_links_is_not_tried_again_and_again() {
    let mut world = World::new(7, 3, &[(0, 1, 100), (1, 2, 100)]);
    let holders = [world.open(0, 1, "deliver", [80, 1]), world.open(1, 2, "deliver", [80, 1])];
    world.run(SOON);
    world.patience = Some(PATIENCE);
    let waits = ask(&mut world, &[(0, 50)])[0];
    close(&mut world, 0, holders[0]);
    let tried = |world: &World| {
        let tries = |event: &&Event| matches!(event, Event::ChannelTrying { .. });
        world.hosts[0].events.iter().filter(tries).count()
    };
    let before = tried(&world);
    world.run(PATIENCE / 2);
    let turns = usize::try_from(PATIENCE.as_secs() / limits::REFRESH_INTERVAL.as_secs());
    assert!(tried(&world) <= before + turns.expect("a few"), "{before}, {}", tried(&world));
    close(&mut world, 1, holders[1]);
    assert!(channel(&world, waits).is_some());
    world.judge_rest();
}

/// Found by model M3: its own attempt, refused further on, gave back what it had held on the link on which
/// it stood in line, and that looked like news of room.
#[test]
fn a14_room_that_an_attempt_itself_gave_back_is_no_news() {
    let mut world = World::new(7, 3, &[(0, 1, 100), (1, 2, 100)]);
    let both = world.open(0, 2, "deliver", [80, 1]);
    world.run(SOON);
    let further_on = world.open(1, 2, "deliver", [15, 1]);
    world.run(SOON);
    world.patience = Some(PATIENCE);
    let waits = ask(&mut world, &[(0, 90)])[0];
    close(&mut world, 0, both);
    let id = world.hosts[0].machine.waiting(world.now)[0].id.clone();
    let touched = |world: &World| world.hosts[1].touched.get(&id).copied().unwrap_or(0);
    world.run(limits::REFRESH_INTERVAL);
    let before = touched(&world);
    world.run(limits::REFRESH_INTERVAL * 4);
    assert!(touched(&world) <= before + 2 * 8, "tried {} times more", touched(&world) - before);
    close(&mut world, 1, further_on);
    assert!(channel(&world, waits).is_some());
    world.judge_rest();
}

#[test]
fn a12_a14_what_a_host_carries_in_all_is_promised_and_waited_for_like_a_link() {
    let mut world = World::new(7, 5, &[(0, 1, 900), (1, 2, 900), (1, 3, 900), (1, 4, 900)]);
    world.egress(1, 100);
    let first = world.open(0, 2, "deliver", [80, 1]);
    world.run(SOON);
    assert!(channel(&world, first).is_some());
    let hasty = world.open(3, 4, "deliver", [19, 1]);
    world.run(SOON);
    let Some(Answer::Rejected(why)) = world.answer(hasty) else { panic!("81 + 20 > 100") };
    assert!(
        why.detail.contains("20 bit/s do not fit the egress of this host, 19 bit/s"),
        "{}",
        why.detail
    );
    world.patience = Some(PATIENCE);
    let ids = [(3, 4, 60), (0, 2, 10)].map(|(from, to, rate)| {
        let id = world.open(from, to, "deliver", [rate, 1]);
        world.run(SOON);
        id
    });
    let waits = world.hosts[3].machine.waiting(world.now);
    let short = &waits[0].short[0];
    assert_eq!((&short.at, &short.of), (&peer(1), &Scarce::Host(Way::Egress)));
    assert_eq!((short.asked, short.ahead), (bps(61), 0), "there and back");
    assert_eq!(world.hosts[0].machine.waiting(world.now)[0].position, 2, "on another link");
    close(&mut world, 0, first);
    assert!(ids.iter().all(|id| channel(&world, *id).is_some()));
    // Less than is promised: the youngest goes.
    world.egress(1, 65);
    world.run(SOON);
    let open = |world: &World, id| channel(world, id).is_some_and(|id| world.is_open(&id));
    assert_eq!(ids.map(|id| open(&world, id)), [true, false]);
}

#[test]
fn a14_what_waits_on_the_way_back_waits_in_the_same_line() {
    let mut world = World::new(7, 3, &[(0, 1, 100), (1, 2, 100)]);
    let holder = world.open(0, 2, "deliver", [1, 80]);
    world.run(SOON);
    world.patience = Some(PATIENCE);
    let back = world.open(0, 2, "deliver", [1, 50]);
    world.run(SOON);
    let forth = world.open(2, 0, "deliver", [10, 1]);
    world.run(SOON);
    assert_eq!((world.answer(back), world.answer(forth)), (None, None));
    world.run(limits::REFRESH_INTERVAL * 2);
    let waiting = world.hosts[0].machine.waiting(world.now);
    let short: Vec<_> = waiting[0].short.iter().map(|s| (&s.at, s.of.clone())).collect();
    let expected = [(&peer(1), Scarce::Link(peer(0))), (&peer(2), Scarce::Link(peer(1)))];
    assert_eq!(short, expected, "each once");
    close(&mut world, 0, holder);
    assert!(channel(&world, back).is_some() && channel(&world, forth).is_some());
    world.judge_rest();
}

#[test]
fn a14_one_asker_has_so_many_requests_in_line_and_no_more() {
    let (mut world, _) = full();
    let one = |_| world.open(0, 2, "deliver", [30, 1]);
    let ids: Vec<_> = (0..=limits::WAITING_PER_ASKER).map(one).collect();
    world.run(SOON);
    let busy = ids.iter().filter(|id| reason(&world, **id) == Some(Reject::Busy));
    assert_eq!(busy.count(), 1);
    world.run(PATIENCE);
    assert!(ids.iter().all(|id| reason(&world, *id).is_some()));
    world.judge_rest();
}

#[test]
fn a14_an_earlier_request_may_take_another_path() {
    // A ring; the tree of this world is the shortest way, and the other one is what is left.
    let mut world = World::new(7, 3, &[(0, 1, 60), (1, 2, 60), (0, 2, 60)]);
    let direct = world.open(0, 2, "deliver", [60, 1]);
    world.run(SOON);
    let around = world.open(0, 2, "deliver", [60, 1]);
    world.run(SOON);
    let paths = [direct, around].map(|id| match world.answer(id) {
        Some(Answer::Open(opened)) => opened.path.clone(),
        other => panic!("{other:?}"),
    });
    assert_eq!(paths, [vec![peer(0), peer(2)], path(1)]);
    world.patience = Some(PATIENCE);
    let waits = ask(&mut world, &[(0, 50)])[0];
    assert_eq!(world.answer(waits), None);
    close(&mut world, 0, around);
    world.run(limits::REFRESH_INTERVAL * 2);
    let Some(Answer::Open(opened)) = world.answer(waits) else { panic!("there is room") };
    assert_eq!(opened.path, path(1));
    world.judge_rest();
}
