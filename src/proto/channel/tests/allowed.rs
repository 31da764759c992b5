//! `[[allow]]` at the peers of a path: what is refused there, what its asker does about it, and
//! what other rules do to what is open.

use super::opening::{Known, asked, refused, rejection, reserved};
use super::*;
use crate::proto::policy::{Limit, Rule, Which, Who};

fn named(who: &[usize]) -> Rule {
    let who = who.iter().map(|at| Who::Name(peer(*at)));
    Rule { peers: who.collect(), ..Rule::default() }
}

fn through(who: &[usize]) -> Rule {
    Rule { through: true, ..named(who) }
}

fn rules(machine: &mut Channels, rules: &[Rule]) -> Vec<Action> {
    did(machine, |m, out| m.set_rules(NOW, rules, |_| None, out))
}

fn hears(machine: &mut Channels, reserve: Reserve) -> Vec<Action> {
    did(machine, |m, out| m.message(NOW, PREV, Message::Reserve(reserve), out))
}

fn nack_of(actions: &[Action]) -> Option<&Nack> {
    actions.iter().find_map(|action| {
        let Action::Send { message: Message::Nack(nack), .. } = action else { return None };
        Some(nack)
    })
}

#[test]
fn a11_a_relay_refuses_what_its_rules_do_not_allow_before_anything_is_held() {
    let mut relay = machine(1);
    rules(&mut relay, &[through(&[3])]);
    let out = hears(&mut relay, reserve(1, 1, 1));
    let nack = nack_of(&out).expect("refused");
    assert_eq!((&nack.at, nack.reason), (&peer(1), Reject::NotAllowed));
    assert_eq!(nack.detail, "no [[allow]] here lets channels of peer-00 cross this peer");
    assert_eq!(relay.free(NEXT), Some((bps(100), bps(100))));
    assert_eq!(relay.policy().refused(Limit::NoRule), 1);
    // What is asked for here is nobody's to forbid, and no rule is asked.
    rules(&mut relay, &[through(&[0])]);
    assert_eq!(nack_of(&hears(&mut relay, reserve(1, 2, 1))), None);
    assert_eq!(relay.policy().uses()[0].peers[&peer(0)].channels, 1);
}

#[test]
fn a11_a_service_refuses_by_its_name_and_by_what_its_asker_has() {
    let mut end = machine(2);
    let to = vec![Which::Service(service("deliver"))];
    let one = Rule { to, channels: Some(1), ..named(&[0]) };
    rules(&mut end, std::slice::from_ref(&one));
    assert_eq!(nack_of(&hears(&mut end, reserve(1, 1, 2))), None);
    let channel = tx(1, 1).channel;
    did(&mut end, |m, out| m.end_opened(NOW, &channel, Ok(None), &Line, out));
    let out = hears(&mut end, reserve(2, 1, 2));
    let words = "rule 1 of [[allow]] lets peer-00 have 1 channels at a time, and it has them";
    assert_eq!(nack_of(&out).map(|nack| nack.detail.as_str()), Some(words));
    // A later path of the first one is no second channel.
    assert_eq!(nack_of(&hears(&mut end, reserve(1, 2, 2))), None);
    let closed = release(1, 2, ReleaseCause::Closed, 0);
    did(&mut end, |m, out| m.message(NOW, PREV, closed, out));
    assert_eq!(nack_of(&hears(&mut end, reserve(2, 2, 2))), None, "there is room for it again");
    let inbox = Reserve { service: service("receive"), ..reserve(3, 1, 2) };
    let out = hears(&mut end, inbox);
    let words = "no [[allow]] here lets peer-00 open channels to receive";
    assert_eq!(nack_of(&out).map(|nack| nack.detail.as_str()), Some(words));
}

fn forbidden(attempt: u32, at: usize) -> Nack {
    Nack { at: peer(at), reason: Reject::NotAllowed, ..refusal(attempt) }
}

#[test]
fn a13_an_asker_goes_around_a_relay_that_forbids_it_and_takes_the_far_ends_word() {
    let (mut source, _) = asked(open_request("film"));
    let out = refused(&mut source, NEXT, forbidden(1, 1));
    assert_eq!(reserved(&out), Some((path(3), 2)));
    let out = refused(&mut source, BESIDE, forbidden(2, 3));
    assert_eq!(rejection(&out).map(|why| why.reason), Some(Reject::NotAllowed));
    // The far end itself, and somebody who is not on the path at all.
    for at in [2, 3] {
        let (mut source, _) = asked(open_request("film"));
        let nack = Message::Nack(forbidden(1, at));
        let out = did(&mut source, |m, out| m.message(NOW, NEXT, nack, out));
        assert_eq!(rejection(&out).map(|why| why.reason), Some(Reject::NotAllowed), "{at}");
    }
}

#[test]
fn a14_a_request_waits_on_a_path_that_is_allowed() {
    let (mut source, _) = asked(OpenRequest { wait: true, ..open_request("film") });
    refused(&mut source, NEXT, forbidden(1, 1));
    let full = Nack { at: peer(3), reason: Reject::NoRoom, ..refusal(2) };
    refused(&mut source, BESIDE, Nack { towards: Some(peer(2)), ..full });
    let waiting = source.waiting(NOW);
    assert_eq!(waiting.iter().map(|view| view.path.clone()).collect::<Vec<_>>(), [path(3)]);
    // It comes to nothing there, too, and is not asked for again and again.
    let claim = crate::wire::queue::Claimed {
        busy: Some(peer(3)),
        refused: Some("lets nobody wait".to_owned()),
        ..Default::default()
    };
    let tx = TxId { attempt: 1, ..tx(1, 1) };
    let body = crate::wire::queue::QueueBody::Claimed(claim);
    let message = Message::Queue(crate::wire::queue::Queue { tx, body });
    let before = did(&mut source, |m, out| m.link_down(NOW, NEXT, out));
    assert_eq!(rejection(&before), None);
    did(&mut source, |m, out| m.message(NOW, BESIDE, message, out));
    let out = did(&mut source, |m, out| m.handle_timeout(NOW, &Known, out));
    let why = rejection(&out);
    assert_eq!(why.map(|why| why.reason), Some(Reject::NotAllowed), "{out:?}");
}

#[test]
fn other_rules_end_what_they_do_not_let_in_the_youngest_first_and_leave_the_rest() {
    let (mut relay, ..) = relay_open();
    let other = Reserve { ticket: NOW.0 + 5, rate: bps(20), ..reserve(2, 1, 1) };
    hears(&mut relay, other);
    assert_eq!(relay.crossing(), 2);
    // Nothing changes for whom the rules allow as much.
    assert_eq!(rules(&mut relay, &[Rule { total: Some(bps(60)), ..through(&[0]) }]), []);
    let out = rules(&mut relay, &[Rule { total: Some(bps(59)), ..through(&[0]) }]);
    let ended = |out: &[Action]| {
        let release = |action: &Action| {
            let Action::Send { message: Message::Release(release), .. } = action else {
                return None;
            };
            Some(release.clone())
        };
        out.iter().filter_map(release).collect::<Vec<_>>()
    };
    let releases = ended(&out);
    assert_eq!(releases.len(), 2, "both sides know: {out:?}");
    assert!(releases.iter().all(|release| release.tx == tx(2, 1)), "the younger one");
    let why = releases[0].why.as_deref().expect("words");
    assert!(why.contains("have 59 bit/s together, of which 19 bit/s are left"), "{why}");
    assert_eq!(relay.crossing(), 1);
    rules(&mut relay, &[through(&[3])]);
    assert_eq!(relay.crossing(), 0);
    assert_eq!(rules(&mut relay, &[]), [], "nobody is asked any more");

    let mut end = machine(2);
    hears(&mut end, reserve(1, 1, 2));
    let channel = tx(1, 1).channel;
    did(&mut end, |m, out| m.end_opened(NOW, &channel, Ok(None), &Line, out));
    let out = rules(&mut end, &[Rule { to: vec![Which::Any], ..named(&[3]) }]);
    let why = "no [[allow]] here lets peer-00 open channels to deliver".to_owned();
    let (channel, reason) = (tx(1, 1).channel, Some(Reject::NotAllowed));
    let event = Event::ChannelClosed { channel, reason, why: why.clone() };
    assert_eq!(out.last(), Some(&Action::Event(event)));
    assert_eq!(ended(&out)[0].why, Some(why));
}

#[test]
fn what_the_far_end_does_not_allow_any_more_ends_at_its_asker_with_the_words() {
    let (mut source, _) = asked(open_request("film"));
    did(&mut source, |m, out| m.message(NOW, NEXT, Message::Accept(accept(1, 1)), out));
    let Message::Release(closed) = release(1, 1, ReleaseCause::Closed, 2) else { unreachable!() };
    let closed = Release { why: Some("no [[allow]] here".to_owned()), ..closed };
    let out = did(&mut source, |m, out| m.message(NOW, NEXT, Message::Release(closed), out));
    let (channel, reason) = (tx(1, 1).channel, Some(Reject::NotAllowed));
    let why = "closed at peer-02: no [[allow]] here".to_owned();
    assert_eq!(out.last(), Some(&Action::Event(Event::ChannelClosed { channel, reason, why })));
}
