//! Thousands of channels at one peer: what has to be done for all of them is done some at a time, so that
//! neighbours and local clients have their turns in between.

use super::*;

/// peer-00 with so many open channels.
fn with_open(count: usize) -> Channels {
    let mut machine = machine(0);
    let mut out = Vec::new();
    let usable = bps(1_000_000);
    machine.link_up(NOW, NEXT, Terms { usable, ..terms(1, 1_300) }, &mut out);
    for number in 1..=count as u64 {
        let (rate, rate_back) = (bps(1), bps(1));
        let request = OpenRequest { name: None, rate, rate_back, ..open_request("any") };
        machine.open(NOW, RequestId(number), request, &Line, &mut out);
        machine.end_opened(NOW, &tx(number, 1).channel, Ok(None), &Line, &mut out);
        machine.message(NOW, NEXT, Message::Accept(accept(number, 1)), &mut out);
    }
    machine.invariants();
    assert_eq!(machine.views().iter().filter(|v| v.state == ChannelState::Open).count(), count);
    machine
}

/// The next thing it does of itself, and when.
fn next(machine: &mut Channels) -> (Time, Timer, Vec<Action>) {
    let (at, timer) = machine.poll_timeout().expect("it has channels");
    (at, timer, did(machine, |m, out| m.handle_timeout(at, &Line, out)))
}

#[test]
fn a16_many_leases_are_refreshed_some_at_a_time_and_none_is_left_out() {
    let count = 2 * limits::REFRESH_AT_ONCE + 3;
    let mut machine = with_open(count);
    let mut last = NOW;
    for _ in 0..2 {
        let mut refreshed = BTreeSet::new();
        let mut turns = 0;
        while refreshed.len() < count {
            let (at, timer, out) = next(&mut machine);
            if timer != Timer::Refresh {
                continue;
            }
            let mut txs = Vec::new();
            for action in out {
                let Action::Send { link: NEXT, message: Message::Refresh(some) } = action else {
                    panic!("{action:?}");
                };
                txs.extend(some);
            }
            assert!(txs.len() <= limits::REFRESH_AT_ONCE, "{} at once", txs.len());
            assert!(txs.into_iter().all(|tx| refreshed.insert(tx)), "one twice in a round");
            assert!(turns == 0 || at == last + limits::REFRESH_PAUSE);
            assert!(at.since(last) <= limits::REFRESH_INTERVAL * 3 / 2);
            (last, turns) = (at, turns + 1);
        }
        assert_eq!(turns, 3);
    }
}

#[test]
fn second_paths_of_many_are_looked_for_with_pauses_and_again_if_something_changed_meanwhile() {
    let mut machine = with_open(2 * limits::SECONDS_PER_TURN + 1);
    let looks = |machine: &mut Channels, changed: bool| {
        let mut times = Vec::new();
        while let Some((at, Timer::Second)) = machine.poll_timeout() {
            did(machine, |m, out| m.handle_timeout(at, &Line, out));
            times.push(at);
            if changed && times.len() == 2 {
                machine.picture_changed(at);
            }
        }
        times
    };
    let once = looks(&mut machine, false);
    let first = NOW + limits::SECOND_WAIT;
    let turns = |from| [from, from + limits::SECOND_PAUSE, from + limits::SECOND_PAUSE * 2];
    assert_eq!(once, turns(first));
    machine.picture_changed(once[2]);
    let first = once[2] + limits::SECOND_WAIT;
    let again = turns(first)[2] + limits::SECOND_WAIT;
    assert_eq!(looks(&mut machine, true), [turns(first), turns(again)].concat());
}
