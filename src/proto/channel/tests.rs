//! The machine alone, with exact lists of actions, and many machines in a [`super::world`].

use std::time::Duration;

use super::world::{World, bps, peer, service};
use super::*;
use crate::limits;
use crate::proto::graph::Wanted;
use crate::proto::view::ChannelState;
use crate::proto::{Choice, Entry, OpenRequest, Opened, Purpose, Refused, Sealing, Side, Target};
use crate::wire::control::{Accept, Manner, Reserve};
use crate::wire::proof;

mod allowed;
mod many;
mod opening;
mod queue;
mod sealing;

// --- One machine, exact actions ---

const PREV: LinkId = LinkId(0);
const NEXT: LinkId = LinkId(1);
const NOW: Time = Time(1_000_000);

struct Line;

impl Paths for Line {
    fn path(&self, to: &PeerName) -> Option<Vec<PeerName>> {
        (*to == peer(2)).then(|| vec![peer(0), peer(1), peer(2)])
    }

    fn knows(&self, to: &PeerName) -> bool {
        to.as_str() <= "peer-03"
    }
}

fn terms(neighbour: usize, max_payload: u16) -> Terms {
    Terms { peer: peer(neighbour), usable: bps(100), max_payload, version: proof::VERSION }
}

/// `peer-{index}` of the line peer-00, peer-01, peer-02 with its links up.
fn machine(index: usize) -> Channels {
    let services = [
        ("deliver", ServiceKind::Deliver),
        ("source", ServiceKind::Source),
        ("receive", ServiceKind::Receive),
    ];
    let services =
        services.map(|(name, kind)| ServiceConfig { name: service(name), kind, plain: true });
    let mut machine = Channels::new(peer(index), 7, [9; 32], 1, 5_000, services.to_vec());
    let mut out = Vec::new();
    if index > 0 {
        machine.link_up(NOW, PREV, terms(index - 1, 1_400), &mut out);
    }
    if index < 2 {
        machine.link_up(NOW, NEXT, terms(index + 1, 1_300), &mut out);
    }
    assert_eq!(out, []);
    machine
}

fn did(machine: &mut Channels, act: impl FnOnce(&mut Channels, &mut Vec<Action>)) -> Vec<Action> {
    let mut out = Vec::new();
    act(machine, &mut out);
    machine.tell_room(NOW, &mut out);
    machine.invariants();
    out
}

fn tx(count: u64, attempt: u32) -> TxId {
    TxId { channel: ChannelId { source: peer(0), boot: 7, count }, attempt }
}

/// As peer-00 sends it to peer-01, or with `position` 2 as peer-01 sends it to peer-02.
fn reserve(count: u64, attempt: u32, position: u8) -> Reserve {
    Reserve {
        tx: tx(count, attempt),
        service: service("deliver"),
        name: service("film"),
        path: vec![peer(0), peer(1), peer(2)],
        position,
        rate: bps(40),
        rate_back: bps(10),
        ticket: NOW.0,
        deadline_ms: 4_000,
        max_payload: 1_350,
        back_label: Label(77),
        back_port: 6_000,
        manner: Manner::Replace,
        opened: false,
        seal: None,
        proof: None,
    }
}

fn accept(count: u64, attempt: u32) -> Accept {
    Accept {
        tx: tx(count, attempt),
        label: Label(88),
        port: 7_000,
        max_payload: 1_250,
        width: bps(90),
        seal: None,
    }
}

fn release(count: u64, attempt: u32, cause: ReleaseCause, at: usize) -> Message {
    let (tx, at) = (tx(count, attempt), peer(at));
    Message::Release(Release { tx, cause, at, failed: None, why: None, proof: None })
}

/// The link between these two broke; the first says so.
fn failed(count: u64, attempt: u32, link: [usize; 2]) -> Message {
    let [at, other] = link.map(peer);
    let (tx, cause) = (tx(count, attempt), ReleaseCause::Broken);
    Message::Release(Release {
        tx,
        cause,
        at: at.clone(),
        failed: Some((at, other)),
        why: None,
        proof: None,
    })
}

fn send(link: LinkId, message: Message) -> Action {
    Action::Send { link, message }
}

fn ignored(at: usize, what: &'static str, why: &'static str) -> Action {
    Action::Event(Event::Ignored { peer: peer(at), what, why })
}

fn nack(count: u64, at: usize, reason: Reject, free: u64, detail: &str) -> Message {
    let (tx, at, free, detail) = (tx(count, 1), peer(at), bps(free), detail.to_owned());
    Message::Nack(Nack { tx, at, reason, free, detail, towards: None, proof: None })
}

/// A NACK because room is short on a link of `at`.
fn no_room(count: u64, at: usize, towards: usize, free: u64, detail: &str) -> Message {
    let nack = nack(count, at, Reject::NoRoom, free, detail);
    let Message::Nack(nack) = nack else { unreachable!() };
    Message::Nack(Nack { towards: Some(peer(towards)), ..nack })
}

fn open_request(name: &str) -> OpenRequest {
    OpenRequest {
        peer: peer(2),
        service: service("deliver"),
        name: Some(service(name)),
        rate: bps(40),
        rate_back: bps(10),
        choice: Choice::default(),
        avoid: Vec::new(),
        deadline: Duration::from_secs(5),
        wait: false,
        protect: false,
        plain: true,
    }
}

fn labels(actions: &[Action]) -> Vec<Label> {
    let label = |action: &Action| {
        if let Action::AddLabel { label, .. } = action { Some(*label) } else { None }
    };
    actions.iter().filter_map(label).collect()
}

/// A relay (peer-01) that holds channel 1, and its label for frames back.
fn relay_holding() -> (Channels, Label) {
    let mut relay = machine(1);
    let out =
        did(&mut relay, |m, out| m.message(NOW, PREV, Message::Reserve(reserve(1, 1, 1)), out));
    let label = labels(&out)[0];
    (relay, label)
}

/// A relay with channel 1 open, and its labels for frames back and forward.
fn relay_open() -> (Channels, Label, Label) {
    let (mut relay, back) = relay_holding();
    let out = did(&mut relay, |m, out| m.message(NOW, NEXT, Message::Accept(accept(1, 1)), out));
    let forward = labels(&out)[0];
    (relay, back, forward)
}

#[test]
fn a_relay_holds_both_directions_and_asks_the_next_hop() {
    let mut relay = machine(1);
    let out =
        did(&mut relay, |m, out| m.message(NOW, PREV, Message::Reserve(reserve(1, 1, 1)), out));
    let back_label = labels(&out)[0];
    let onward = Reserve {
        position: 2,
        deadline_ms: 3_950,
        max_payload: 1_300,
        back_label,
        back_port: 5_000,
        ..reserve(1, 1, 1)
    };
    let to = Target::Hop { link: PREV, label: Label(77), port: 6_000 };
    assert_eq!(
        out,
        [
            Action::AddLabel {
                channel: tx(1, 1).channel,
                label: back_label,
                from: NEXT,
                to,
                rate: bps(10),
                hop: 1,
                back: true,
            },
            send(NEXT, Message::Reserve(onward)),
        ]
    );
    assert_eq!(relay.free(PREV), Some((bps(90), bps(60))));
    assert_eq!(relay.free(NEXT), Some((bps(60), bps(90))));
}

#[test]
fn an_accept_tells_each_hop_the_next_label_and_the_smallest_width() {
    let (mut relay, _) = relay_holding();
    let out = did(&mut relay, |m, out| m.message(NOW, NEXT, Message::Accept(accept(1, 1)), out));
    let label = labels(&out)[0];
    let to = Target::Hop { link: NEXT, label: Label(88), port: 7_000 };
    let accepted = Accept { label, port: 5_000, ..accept(1, 1) };
    assert_eq!(
        out,
        [
            Action::AddLabel {
                channel: tx(1, 1).channel,
                label,
                from: PREV,
                to,
                rate: bps(40),
                hop: 1,
                back: false,
            },
            send(PREV, Message::Accept(accepted)),
        ]
    );
    let out = did(&mut relay, |m, out| m.message(NOW, NEXT, Message::Accept(accept(1, 1)), out));
    assert_eq!(out, [ignored(2, "accept", "accepted already")]);
}

#[test]
fn a_hop_without_room_says_where_and_how_much_is_free() {
    let (mut relay, _) = relay_holding();
    let mut second = reserve(2, 1, 1);
    second.rate = bps(61);
    let out = did(&mut relay, |m, out| m.message(NOW, PREV, Message::Reserve(second), out));
    let detail = "61 bit/s do not fit the link to peer-02, 60 bit/s are free";
    assert_eq!(out, [send(PREV, no_room(2, 1, 2, 60, detail))]);
    let mut second = reserve(2, 1, 1);
    second.rate_back = bps(91);
    let out = did(&mut relay, |m, out| m.message(NOW, PREV, Message::Reserve(second), out));
    let detail = "91 bit/s do not fit the link to peer-00, 90 bit/s are free";
    assert_eq!(out, [send(PREV, no_room(2, 1, 0, 90, detail))]);
    assert_eq!(relay.free(NEXT), Some((bps(60), bps(90))), "nothing of it was kept");
}

#[test]
fn a12_a_link_that_becomes_too_narrow_breaks_the_youngest_channel_and_tells_both_ends() {
    let (mut relay, ..) = relay_open();
    let younger = Reserve { ticket: NOW.0 + 1, rate: bps(30), ..reserve(2, 1, 1) };
    did(&mut relay, |m, out| m.message(NOW, PREV, Message::Reserve(younger), out));
    did(&mut relay, |m, out| m.message(NOW, NEXT, Message::Accept(accept(2, 1)), out));
    let out = did(&mut relay, |m, out| m.capacity_changed(NOW, NEXT, bps(69), out));
    let broken: Vec<_> =
        out.iter().filter(|action| matches!(action, Action::Send { .. })).cloned().collect();
    let message = failed(2, 1, [1, 2]);
    assert_eq!(broken, [send(PREV, message.clone()), send(NEXT, message)]);
    assert_eq!(relay.free(NEXT), Some((bps(29), bps(59))), "the older one has what it had");
    // As wide as what is left: nothing more is broken.
    let out = did(&mut relay, |m, out| m.capacity_changed(NOW, NEXT, bps(40), out));
    assert_eq!(out, []);
}

#[test]
fn a_refusal_frees_what_was_held_and_goes_back_to_the_asker() {
    let (mut relay, label) = relay_holding();
    let refusal = nack(1, 2, Reject::NoSuchService, 0, "none");
    let out = did(&mut relay, |m, out| m.message(NOW, NEXT, refusal.clone(), out));
    assert_eq!(out, [Action::RemoveLabel { label }, send(PREV, refusal)]);
    assert_eq!(relay.free(PREV), Some((bps(100), bps(100))));
    assert_eq!(relay.views(), []);
}

#[test]
fn paths_that_do_not_fit_are_refused_by_the_hop_that_sees_it() {
    let refused = |change: fn(&mut Reserve), reason, detail: &str| {
        let mut wrong = reserve(1, 1, 1);
        change(&mut wrong);
        let out = did(&mut machine(1), |m, out| {
            m.message(NOW, PREV, Message::Reserve(wrong), out);
        });
        assert_eq!(out, [send(PREV, nack(1, 1, reason, 0, detail))]);
    };
    let no = Reject::NotAllowed;
    refused(|r| r.path.push(peer(0)), no, "the path has a loop");
    refused(|r| r.position = 2, no, "this peer is not next on the path");
    refused(|r| r.position = 0, no, "this peer is not next on the path");
    refused(|r| r.position = 9, no, "this peer is not next on the path");
    refused(|r| r.path[0] = peer(5), no, "the path came from another peer than it says");
    refused(|r| r.rate = bps(0), no, "a rate must be at least 1 bit/s");
    let far = |r: &mut Reserve| r.path = vec![peer(0), peer(1), peer(3)];
    refused(far, Reject::Unreachable, "no link to peer-03 is up");

    let mut foreign = reserve(1, 1, 1);
    foreign.tx.channel.source = peer(3);
    let out = did(&mut machine(1), |m, out| {
        m.message(NOW, PREV, Message::Reserve(foreign), out);
    });
    assert!(matches!(&out[..], [Action::Send { link: PREV, message: Message::Nack(nack) }]
        if nack.detail == "the path does not begin at the asker"));
}

#[test]
fn the_same_transaction_again_changes_nothing_at_a_hop() {
    let (mut relay, _) = relay_holding();
    let again = Message::Reserve(reserve(1, 1, 1));
    let out = did(&mut relay, |m, out| m.message(NOW, PREV, again, out));
    assert_eq!(out, [ignored(0, "reserve", "reserved already")]);
    assert_eq!(relay.free(NEXT), Some((bps(60), bps(90))));
}

#[test]
fn only_the_owner_of_a_transaction_may_act_on_it() {
    let third = LinkId(2);
    let (mut relay, ..) = relay_open();
    relay.link_up(NOW, third, terms(3, 1_400), &mut Vec::new());
    let free = relay.free(NEXT);
    let not_owner = "the channel does not use this link";
    for (what, message, why) in [
        ("release", release(1, 1, ReleaseCause::Closed, 0), not_owner),
        ("refresh", Message::Refresh(vec![tx(1, 1)]), not_owner),
        ("accept", Message::Accept(accept(1, 1)), not_owner),
        ("nack", nack(1, 2, Reject::NoRoom, 0, ""), not_owner),
        ("finish", Message::Finish { tx: tx(1, 1), frames: 3, proof: None }, not_owner),
        ("finish_ack", Message::FinishAck { tx: tx(1, 1) }, not_owner),
        ("release", release(1, 2, ReleaseCause::Closed, 0), "no such channel here"),
        ("release", release(2, 1, ReleaseCause::Closed, 0), "no such channel here"),
        ("other", Message::Bye(String::new()), "not a message of channels"),
    ] {
        let out = did(&mut relay, |m, out| m.message(NOW, third, message, out));
        assert_eq!(out, [ignored(3, what, why)]);
    }
    // The right peers, but in the wrong direction.
    let finish = Message::Finish { tx: tx(1, 1), frames: 3, proof: None };
    let out = did(&mut relay, |m, out| m.message(NOW, NEXT, finish, out));
    assert_eq!(out, [ignored(2, "finish", not_owner)]);
    let refusal = nack(1, 2, Reject::NoRoom, 0, "");
    let out = did(&mut relay, |m, out| m.message(NOW, NEXT, refusal, out));
    assert_eq!(out, [ignored(2, "nack", "accepted already")]);
    assert_eq!(relay.free(NEXT), free);
    assert_eq!(relay.views().len(), 1);
}

#[test]
fn a16_a_released_channel_is_forgotten_and_stays_so() {
    let (mut relay, back, forward) = relay_open();
    let closed = release(1, 1, ReleaseCause::Closed, 0);
    let out = did(&mut relay, |m, out| m.message(NOW, PREV, closed.clone(), out));
    let gone = [forward, back].map(|label| Action::RemoveLabel { label });
    assert_eq!(out, [gone[0].clone(), gone[1].clone(), send(NEXT, closed)]);
    assert_eq!(relay.views(), []);
    assert_eq!(relay.free(NEXT), Some((bps(100), bps(100))));
    for attempt in [1, 2] {
        let late = Message::Reserve(reserve(1, attempt, 1));
        let out = did(&mut relay, |m, out| m.message(NOW, PREV, late, out));
        assert!(matches!(&out[..], [Action::Send { message: Message::Nack(nack), .. }]
            if nack.reason == Reject::Cancelled));
    }
}

#[test]
fn a_moved_channel_may_come_back_with_its_next_attempt_only() {
    let (mut relay, ..) = relay_open();
    let moved = release(1, 1, ReleaseCause::Moved, 0);
    did(&mut relay, |m, out| m.message(NOW, PREV, moved, out));
    let late = Message::Reserve(reserve(1, 1, 1));
    let out = did(&mut relay, |m, out| m.message(NOW, PREV, late, out));
    let detail = "this attempt was released before";
    assert_eq!(out, [send(PREV, nack(1, 1, Reject::Broken, 0, detail))]);
    let next = Message::Reserve(reserve(1, 2, 1));
    let out = did(&mut relay, |m, out| m.message(NOW, PREV, next, out));
    assert!(matches!(&out[..], [Action::AddLabel { .. }, Action::Send { link: NEXT, .. }]));
}

#[test]
fn a_dead_link_frees_its_channels_and_tells_the_other_side() {
    let (mut relay, back, forward) = relay_open();
    let out = did(&mut relay, |m, out| m.link_down(NOW, NEXT, out));
    assert_eq!(
        out,
        [
            Action::RemoveLabel { label: forward },
            Action::RemoveLabel { label: back },
            send(PREV, failed(1, 1, [1, 2])),
        ]
    );
    assert_eq!(relay.free(PREV), Some((bps(100), bps(100))));
    assert_eq!(relay.free(NEXT), None);
    assert_eq!(did(&mut relay, |m, out| m.link_down(NOW, NEXT, out)), []);
}

#[test]
fn a16_a_relay_passes_on_what_it_was_refreshed_on_and_lets_the_rest_run_out() {
    let (mut relay, back, forward) = relay_open();
    let end = NOW + limits::LEASE;
    let mut now = NOW;
    // The source refreshes, the service end does not.
    for _ in 0..5 {
        now = now + limits::REFRESH_INTERVAL;
        let refresh = Message::Refresh(vec![tx(1, 1)]);
        assert_eq!(did(&mut relay, |m, out| m.message(now, PREV, refresh.clone(), out)), []);
        let pass = now + limits::REFRESH_PASS;
        assert_eq!(relay.poll_timeout(), Some((pass, Timer::Refresh)));
        let out = did(&mut relay, |m, out| m.handle_timeout(pass, &Line, out));
        assert_eq!(out, [send(NEXT, refresh)], "to the service end, nothing to the source");
    }
    assert_eq!(relay.poll_timeout(), Some((end, Timer::Lease)));
    let out = did(&mut relay, |m, out| m.handle_timeout(end, &Line, out));
    let expired = release(1, 1, ReleaseCause::Expired, 1);
    assert_eq!(
        out,
        [
            Action::RemoveLabel { label: forward },
            Action::RemoveLabel { label: back },
            send(PREV, expired.clone()),
            send(NEXT, expired),
        ]
    );
    assert_eq!(relay.poll_timeout(), None);
}

#[test]
fn a16_a_peer_keeps_its_own_channels_alive_and_not_those_that_cross_it() {
    struct FromTheMiddle;
    impl Paths for FromTheMiddle {
        fn path(&self, _: &PeerName) -> Option<Vec<PeerName>> {
            Some(vec![peer(1), peer(2)])
        }
        fn knows(&self, _: &PeerName) -> bool {
            true
        }
    }
    let (mut relay, ..) = relay_open();
    let own = TxId { channel: ChannelId { source: peer(1), ..tx(1, 1).channel }, attempt: 1 };
    let request = open_request("own");
    did(&mut relay, |m, out| m.open(NOW, RequestId(1), request, &FromTheMiddle, out));
    did(&mut relay, |m, out| m.end_opened(NOW, &own.channel, Ok(None), &FromTheMiddle, out));
    let accept = Accept { tx: own.clone(), ..accept(1, 1) };
    did(&mut relay, |m, out| m.message(NOW, NEXT, Message::Accept(accept), out));
    let mut refreshes = 0;
    while let Some((at, timer @ (Timer::Refresh | Timer::Second))) = relay.poll_timeout() {
        let out = did(&mut relay, |m, out| m.handle_timeout(at, &FromTheMiddle, out));
        if timer == Timer::Second {
            assert_eq!(out, []);
            continue;
        }
        assert_eq!(out, [send(NEXT, Message::Refresh(vec![own.clone()]))]);
        refreshes += 1;
    }
    assert!((3..=11).contains(&refreshes), "every 1 to 3 s of a lease: {refreshes}");
}

#[test]
fn a_hold_without_an_answer_runs_out_and_names_the_silent_peer() {
    let (mut relay, label) = relay_holding();
    let end = NOW + Duration::from_millis(4_000);
    assert_eq!(relay.poll_timeout(), Some((end, Timer::Lease)));
    let out = did(&mut relay, |m, out| m.handle_timeout(end, &Line, out));
    assert_eq!(
        out,
        [
            Action::RemoveLabel { label },
            send(PREV, nack(1, 1, Reject::Timeout, 0, "no answer from peer-02")),
            send(NEXT, release(1, 1, ReleaseCause::Expired, 1)),
        ]
    );
}

/// A source (peer-00) that has sent RESERVE for its first channel, and its label.
fn source_reserving() -> (Channels, Label) {
    let mut source = machine(0);
    let id = tx(1, 0).channel;
    let out =
        did(&mut source, |m, out| m.open(NOW, RequestId(1), open_request("film"), &Line, out));
    let (channel, side, worker) = (id.clone(), Side::Source, WorkerId(0));
    let name = service("deliver");
    assert_eq!(
        out,
        [Action::OpenEnd { channel, side, service: name, worker, sealing: Sealing::Plain }]
    );
    let out = did(&mut source, |m, out| m.end_opened(NOW, &id, Ok(None), &Line, out));
    let label = labels(&out)[0];
    let expected = Reserve {
        deadline_ms: 4_950,
        max_payload: 1_300,
        back_label: label,
        back_port: 5_000,
        ..reserve(1, 1, 1)
    };
    let to = Target::Local;
    let add =
        Action::AddLabel { channel: id, label, from: NEXT, to, rate: bps(10), hop: 2, back: true };
    assert_eq!(out, [add, send(NEXT, Message::Reserve(expected))]);
    (source, label)
}

fn source_open() -> (Channels, Label) {
    let (mut source, label) = source_reserving();
    let accept = Message::Accept(accept(1, 1));
    let out = did(&mut source, |m, out| m.message(NOW, NEXT, accept, out));
    let (channel, path) = (tx(1, 1).channel, vec![peer(0), peer(1), peer(2)]);
    let to = Target::Hop { link: NEXT, label: Label(88), port: 7_000 };
    let entry = Entry { to, rate: bps(40), max_payload: 1_250 };
    let opened = Opened {
        channel: channel.clone(),
        path: path.clone(),
        width: bps(90),
        max_payload: 1_250,
        sealed: None,
        explanation: Box::default(),
    };
    assert_eq!(
        out,
        [
            Action::SetEntry { channel: channel.clone(), to: Some(entry) },
            Action::Answer { id: RequestId(1), answer: Answer::Open(opened) },
            Action::Event(Event::ChannelOpen { channel, path }),
        ]
    );
    (source, label)
}

#[test]
fn a11_an_accepted_channel_is_answered_with_its_path_and_width() {
    let (source, _) = source_open();
    assert_eq!(source.views()[0].state, ChannelState::Open);
    assert_eq!(source.free(NEXT), Some((bps(60), bps(90))));
}

#[test]
fn a11_what_cannot_be_asked_for_is_rejected_at_once() {
    let (mut source, _) = source_open();
    let mut rejects = |change: fn(&mut OpenRequest), reason: Reject, detail: &str| {
        let mut request = open_request("other");
        change(&mut request);
        let out = did(&mut source, |m, out| m.open(NOW, RequestId(2), request, &Line, out));
        assert_eq!(out, [rejected(RequestId(2), reason, detail.to_owned())]);
    };
    let same = |r: &mut OpenRequest| r.name = Some(service("film"));
    rejects(same, Reject::Duplicate, "peer-00:7:1 has the name film already");
    let own = "source and destination are both peer-00";
    rejects(|r| r.peer = peer(0), Reject::Duplicate, own);
    let nobody = "no peer peer-09 is known; `spanway peers` lists them";
    rejects(|r| r.peer = peer(9), Reject::NoSuchPeer, nobody);
    rejects(|r| r.peer = peer(3), Reject::Unreachable, "no path leads to peer-03 now");
}

#[test]
fn a11_a_refusal_reaches_the_asker_with_hop_and_free_capacity() {
    let (mut source, label) = source_reserving();
    let short = nack(1, 1, Reject::NoRoom, 7, "7 bit/s are free");
    let out = did(&mut source, |m, out| m.message(NOW, NEXT, short, out));
    assert_eq!(out, [Action::RemoveLabel { label }]);
    // There is no other path.
    let out = did(&mut source, |m, out| m.handle_timeout(NOW, &Line, out));
    let detail = "at peer-01: 7 bit/s are free".to_owned();
    let mut why = Rejection::new(Reject::NoRoom, detail.clone());
    why.explanation.refused.push(Refused { path: path(1), why: detail });
    let answer = Answer::Rejected(why);
    assert_eq!(
        out,
        [
            Action::CloseEnd { channel: tx(1, 1).channel },
            Action::Answer { id: RequestId(1), answer },
        ]
    );
    assert_eq!(source.views(), []);
    assert_eq!(source.poll_timeout(), None);
}

#[test]
fn a11_the_deadline_answers_when_nobody_else_does() {
    let (mut source, label) = source_reserving();
    let end = NOW + limits::OPEN_DEADLINE;
    assert_eq!(source.poll_timeout(), Some((end, Timer::Request)));
    let out = did(&mut source, |m, out| m.handle_timeout(end, &Line, out));
    let detail = "no answer from peer-01".to_owned();
    assert_eq!(
        out,
        [
            Action::RemoveLabel { label },
            send(NEXT, release(1, 1, ReleaseCause::Closed, 0)),
            Action::CloseEnd { channel: tx(1, 1).channel },
            rejected(RequestId(1), Reject::Timeout, detail),
        ]
    );
    // What comes too late is not believed.
    let late = Message::Accept(accept(1, 1));
    let out = did(&mut source, |m, out| m.message(end, NEXT, late, out));
    assert_eq!(out, [ignored(1, "accept", "no such channel here")]);
}

#[test]
fn a_local_socket_that_cannot_be_had_is_an_answer() {
    let mut source = machine(0);
    did(&mut source, |m, out| m.open(NOW, RequestId(1), open_request("film"), &Line, out));
    let busy = Err(Rejection::new(Reject::Busy, "127.0.0.1:5004 is in use"));
    let id = tx(1, 1).channel;
    let out = did(&mut source, |m, out| m.end_opened(NOW, &id, busy, &Line, out));
    let detail = "127.0.0.1:5004 is in use".to_owned();
    assert_eq!(out, [rejected(RequestId(1), Reject::Busy, detail)]);
    assert_eq!(source.views(), []);
}

#[test]
fn a17_a_broken_channel_keeps_its_socket_and_tries_again() {
    let (mut source, label) = source_open();
    let id = tx(1, 1).channel;
    let broken = release(1, 1, ReleaseCause::Broken, 1);
    let out = did(&mut source, |m, out| m.message(NOW, NEXT, broken, out));
    let why = "the path broke at peer-01".to_owned();
    assert_eq!(
        out,
        [
            Action::RemoveLabel { label },
            Action::Event(Event::ChannelMoving { channel: id.clone(), why }),
            Action::SetEntry { channel: id, to: None },
        ]
    );
    assert_eq!(source.poll_timeout(), Some((NOW, Timer::Move)), "it tries again at once");
    let stale = Message::Accept(accept(1, 1));
    let out = did(&mut source, |m, out| m.message(NOW, NEXT, stale, out));
    assert_eq!(out, [ignored(1, "accept", STALE)]);

    let out = did(&mut source, |m, out| m.tree_committed(NOW, &Line, out));
    assert!(matches!(&out[..],
        [Action::AddLabel { .. }, Action::Event(Event::ChannelTrying { .. }),
         Action::Send { link: NEXT, message: Message::Reserve(r) }]
            if r.tx == tx(1, 2)));
    let again = Message::Accept(accept(1, 2));
    let later = NOW + Duration::from_millis(7);
    let out = did(&mut source, |m, out| m.message(later, NEXT, again, out));
    let [Action::SetEntry { to: Some(_), .. }, Action::Event(moved)] = &out[..] else {
        panic!("{out:?}");
    };
    let Event::ChannelMoved { took, seamless: false, .. } = moved else { panic!("{moved:?}") };
    assert_eq!(*took, Duration::from_millis(7));
}

/// The line's other way round: peer-00, peer-03, peer-02 over a second link of peer-00.
struct Square;

const BESIDE: LinkId = LinkId(2);

impl Paths for Square {
    fn path(&self, to: &PeerName) -> Option<Vec<PeerName>> {
        Line.path(to)
    }

    fn widest(&self, wanted: &Wanted<'_>) -> Option<Vec<PeerName>> {
        let free = |way: &Vec<PeerName>| {
            let barred = |hop: &[PeerName]| {
                wanted.without_links.iter().any(|(a, b)| hop.contains(a) && hop.contains(b))
            };
            !wanted.without_relays.contains(&way[1]) && !way.windows(2).any(barred)
        };
        let ways = [1, 3].map(|relay| vec![peer(0), peer(relay), peer(2)]);
        ways.into_iter().find(free)
    }

    fn knows(&self, _: &PeerName) -> bool {
        true
    }
}

/// A channel of peer-00 that is open over peer-01, with a link to peer-03 beside.
fn source_open_in_square(protect: bool) -> (Channels, Label) {
    let mut source = machine(0);
    did(&mut source, |m, out| m.link_up(NOW, BESIDE, terms(3, 1_350), out));
    let request = OpenRequest { protect, ..open_request("film") };
    let channel = tx(1, 1).channel;
    did(&mut source, |m, out| m.open(NOW, RequestId(1), request, &Square, out));
    let out = did(&mut source, |m, out| m.end_opened(NOW, &channel, Ok(None), &Square, out));
    let label = labels(&out)[0];
    let accepted = Message::Accept(accept(1, 1));
    did(&mut source, |m, out| m.message(NOW, NEXT, accepted, out));
    (source, label)
}

fn path(relay: usize) -> Vec<PeerName> {
    vec![peer(0), peer(relay), peer(2)]
}

#[test]
fn a2_a_channel_is_opened_around_a_relay_that_leaves() {
    struct Leaving(Square);
    impl Paths for Leaving {
        fn path(&self, to: &PeerName) -> Option<Vec<PeerName>> {
            self.0.path(to)
        }
        // As the picture has it: who leaves carries nothing new.
        fn widest(&self, wanted: &Wanted<'_>) -> Option<Vec<PeerName>> {
            self.0.widest(&Wanted { without_relays: &[peer(1)], ..*wanted })
        }
        fn leaves(&self, who: &PeerName) -> bool {
            *who == peer(1)
        }
        fn knows(&self, _: &PeerName) -> bool {
            true
        }
    }
    let mut source = machine(0);
    did(&mut source, |m, out| m.link_up(NOW, BESIDE, terms(3, 1_350), out));
    let (request, paths) = (open_request("film"), Leaving(Square));
    did(&mut source, |m, out| m.open(NOW, RequestId(1), request, &paths, out));
    let channel = tx(1, 1).channel;
    let out = did(&mut source, |m, out| m.end_opened(NOW, &channel, Ok(None), &paths, out));
    let Some(Action::Send { link: BESIDE, message: Message::Reserve(reserve) }) = out.last() else {
        panic!("{out:?}")
    };
    assert_eq!(reserve.path, path(3));
}

#[test]
fn a_path_that_the_asker_names_is_tried_as_it_is() {
    let open = |path: &[usize]| {
        let mut source = machine(0);
        did(&mut source, |m, out| m.link_up(NOW, BESIDE, terms(3, 1_350), out));
        let choice = Choice::Given(path.iter().copied().map(peer).collect());
        let request = OpenRequest { choice, ..open_request("film") };
        let out = did(&mut source, |m, out| m.open(NOW, RequestId(1), request, &Square, out));
        if let Some(Action::Answer { answer: Answer::Rejected(rejection), .. }) = out.last() {
            return Err((rejection.reason, rejection.detail.clone()));
        }
        let id = tx(1, 1).channel;
        let out = did(&mut source, |m, out| m.end_opened(NOW, &id, Ok(None), &Square, out));
        match out.last() {
            Some(Action::Send { message: Message::Reserve(r), .. }) => Ok(r.path.clone()),
            Some(Action::Answer { answer: Answer::Rejected(rejection), .. }) => {
                Err((rejection.reason, rejection.detail.clone()))
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(open(&[3, 2]), Ok(path(3)));
    let wrong = |detail: &str| Err((Reject::NotAllowed, detail.to_owned()));
    assert_eq!(open(&[3]), wrong("the path does not end at peer-02"));
    assert_eq!(open(&[1, 0, 2]), wrong("the path goes through a peer twice"));
    let away = Err((Reject::Unreachable, "the link to peer-04 is down".to_owned()));
    assert_eq!(open(&[4, 2]), away);
}

#[test]
fn a17_a_broken_channel_goes_round_the_failure_without_a_tree() {
    let (mut source, _) = source_open_in_square(false);
    let broken = failed(1, 1, [1, 2]);
    did(&mut source, |m, out| m.message(NOW, NEXT, broken, out));
    let out = did(&mut source, |m, out| m.handle_timeout(NOW, &Square, out));
    let [Action::AddLabel { .. }, Action::Event(trying), Action::Send { link: BESIDE, message }] =
        &out[..]
    else {
        panic!("{out:?}")
    };
    let channel = tx(1, 1).channel;
    let purpose = Purpose::Use;
    assert_eq!(*trying, Event::ChannelTrying { channel, path: path(3), purpose });
    let Message::Reserve(reserve) = message else { panic!("{message:?}") };
    assert_eq!((&reserve.path, reserve.manner), (&path(3), Manner::Replace));
    // Refused there as well: both ways are known to be shut, so it waits for better times.
    let nack = Nack { at: peer(3), ..refusal(2) };
    let out = did(&mut source, |m, out| m.message(NOW, BESIDE, Message::Nack(nack), out));
    assert_eq!(labels(&out), []);
    did(&mut source, |m, out| m.handle_timeout(NOW, &Square, out));
    let (at, timer) = source.poll_timeout().expect("it tries again");
    assert!(timer == Timer::Move && at >= NOW + limits::MOVE_RETRY.0, "{at:?} {timer:?}");
}

fn refusal(attempt: u32) -> Nack {
    let (reason, detail) = (Reject::NoRoom, String::new());
    Nack {
        tx: tx(1, attempt),
        at: peer(1),
        reason,
        free: bps(0),
        detail,
        towards: None,
        proof: None,
    }
}

#[test]
fn a2_a_channel_leaves_a_relay_that_leaves_before_its_path_breaks() {
    let (mut source, old_label) = source_open_in_square(false);
    let ask = Message::Move { tx: tx(1, 1), at: peer(1) };
    did(&mut source, |m, out| m.message(NOW, NEXT, ask, out));
    let out = did(&mut source, |m, out| m.handle_timeout(NOW, &Square, out));
    let Some(Action::Send { link: BESIDE, message: Message::Reserve(reserve) }) = out.last() else {
        panic!("{out:?}")
    };
    assert_eq!((&reserve.path, reserve.manner), (&path(3), Manner::Beside));
    assert_eq!(source.views()[0].state, ChannelState::Open);
    assert_eq!(source.views()[0].reserved, [path(1), path(3)]);

    let later = NOW + Duration::from_millis(80);
    let accepted = Message::Accept(accept(1, 2));
    let out = did(&mut source, |m, out| m.message(later, BESIDE, accepted, out));
    let [Action::SetEntry { to: Some(entry), .. }, Action::Event(moved)] = &out[..] else {
        panic!("{out:?}");
    };
    assert_eq!(entry.to, Target::Hop { link: BESIDE, label: Label(88), port: 7_000 });
    let Event::ChannelMoved { seamless: true, smaller_payload: None, path: now, .. } = moved else {
        panic!("{moved:?}")
    };
    assert_eq!(*now, path(3));
    // What is under way on the old path still arrives: it is given back after twice the round trip.
    let drained = later + Duration::from_millis(160);
    let early = drained - Duration::from_millis(1);
    let out = did(&mut source, |m, out| m.handle_timeout(early, &Square, out));
    assert_eq!(out, []);
    let out = did(&mut source, |m, out| m.handle_timeout(drained, &Square, out));
    let moved = release(1, 1, ReleaseCause::Moved, 0);
    assert_eq!(out, [Action::RemoveLabel { label: old_label }, send(NEXT, moved)]);
    assert_eq!(source.views()[0].reserved, [path(3)]);
}

#[test]
fn a2_a_channel_stays_on_its_path_when_there_is_no_other() {
    let (mut source, _) = source_open();
    let ask = Message::Move { tx: tx(1, 1), at: peer(1) };
    did(&mut source, |m, out| m.message(NOW, NEXT, ask, out));
    assert_eq!(did(&mut source, |m, out| m.handle_timeout(NOW, &Line, out)), []);
    assert_eq!(source.views()[0].state, ChannelState::Open);
    assert!(source.poll_timeout().is_some_and(|(at, _)| at > NOW));
}

/// With a standby path over peer-03.
fn source_protected() -> Channels {
    let (mut source, _) = source_open_in_square(true);
    let out = did(&mut source, |m, out| m.handle_timeout(NOW, &Square, out));
    let Some(Action::Send { link: BESIDE, message: Message::Reserve(reserve) }) = out.last() else {
        panic!("{out:?}")
    };
    assert_eq!((&reserve.path, reserve.manner), (&path(3), Manner::Standby));
    let accepted = Message::Accept(accept(1, 2));
    let out = did(&mut source, |m, out| m.message(NOW, BESIDE, accepted, out));
    let channel = tx(1, 1).channel;
    let protected = Event::ChannelProtected { channel, path: path(3) };
    assert_eq!(out, [Action::Event(protected)], "frames stay where they are");
    assert_eq!(source.views()[0].standby, Some(path(3)));
    source
}

#[test]
fn a17_a_protected_channel_goes_over_in_one_step() {
    let mut source = source_protected();
    let out = did(&mut source, |m, out| m.message(NOW, NEXT, failed(1, 1, [1, 2]), out));
    let [Action::RemoveLabel { .. }, Action::Event(Event::ChannelMoving { .. }), entry, moved] =
        &out[..]
    else {
        panic!("{out:?}")
    };
    let Action::SetEntry { to: Some(entry), .. } = entry else { panic!("{entry:?}") };
    assert_eq!(entry.to, Target::Hop { link: BESIDE, label: Label(88), port: 7_000 });
    assert!(
        matches!(moved, Action::Event(Event::ChannelMoved { path: now, .. }) if *now == path(3))
    );
    let view = &source.views()[0];
    assert_eq!((view.state, &view.path, &view.standby), (ChannelState::Open, &path(3), &None));
    // It wants another one to stand by, and asks for it in a while.
    let (at, timer) = source.poll_timeout().expect("a lease at least");
    assert!(at > NOW, "{timer:?}");
}

#[test]
fn a17_a_standby_path_that_breaks_is_replaced_and_frames_do_not_notice() {
    let mut source = source_protected();
    let out = did(&mut source, |m, out| m.message(NOW, BESIDE, failed(1, 2, [3, 2]), out));
    assert!(matches!(&out[..], [Action::RemoveLabel { .. }]), "{out:?}");
    let (at, later) = (NOW + limits::PROTECT_RETRY / 2, NOW + limits::PROTECT_RETRY * 3 / 2);
    let mut reserved = Vec::new();
    while let Some((at, _)) = source.poll_timeout().filter(|(at, _)| *at <= later) {
        reserved.extend(did(&mut source, |m, out| m.handle_timeout(at, &Square, out)));
    }
    let asked = |action: &Action| {
        matches!(action, Action::Send { link: BESIDE, message: Message::Reserve(r) }
            if r.manner == Manner::Standby)
    };
    assert!(reserved.iter().any(asked), "from {at:?} on: {reserved:?}");
    assert!(!reserved.iter().any(|action| matches!(action, Action::SetEntry { .. })));
}

#[test]
fn a17_torn_down_channels_wait_for_the_tree_of_the_session() {
    let (mut source, label) = source_open_in_square(false);
    did(&mut source, |m, out| m.tear_down(NOW, out));
    assert_eq!(source.views()[0].state, ChannelState::Open, "only if it is configured");
    source.set_recovery(Recovery::Everything);
    let out = did(&mut source, |m, out| m.tear_down(NOW, out));
    let moved = release(1, 1, ReleaseCause::Moved, 0);
    assert_eq!(out[..2], [Action::RemoveLabel { label }, send(NEXT, moved)]);
    assert!(matches!(out.last(), Some(Action::SetEntry { to: None, .. })));
    let later = NOW + limits::SECOND_WAIT;
    assert_eq!(did(&mut source, |m, out| m.handle_timeout(later, &Square, out)), []);
    let out = did(&mut source, |m, out| m.tree_committed(later, &Square, out));
    assert!(matches!(out.last(), Some(Action::Send { link: NEXT, message: Message::Reserve(_) })));
}

#[test]
fn a17_without_any_path_the_asker_is_told_in_the_end() {
    struct Nowhere;
    impl Paths for Nowhere {
        fn path(&self, _: &PeerName) -> Option<Vec<PeerName>> {
            None
        }
        fn knows(&self, _: &PeerName) -> bool {
            true
        }
    }
    let (mut source, _) = source_open();
    did(&mut source, |m, out| m.link_down(NOW, NEXT, out));
    let mut out = Vec::new();
    while let Some((at, _)) = source.poll_timeout() {
        assert!(out.is_empty() && at <= NOW + limits::MOVE_DEADLINE);
        out = did(&mut source, |m, out| m.handle_timeout(at, &Nowhere, out));
    }
    let channel = tx(1, 1).channel;
    assert!(matches!(&out[..],
        [Action::CloseEnd { .. }, Action::Event(Event::ChannelClosed { channel: closed, reason, .. })]
            if *closed == channel && *reason == Some(Reject::Broken)));
}

#[test]
fn a_stream_that_ended_is_told_until_it_is_known() {
    let (mut source, _) = source_open();
    let id = tx(1, 1).channel;
    let finish = || send(NEXT, Message::Finish { tx: tx(1, 1), frames: 9, proof: None });
    let out = did(&mut source, |m, out| m.finish(NOW, RequestId(2), &id, 9, out));
    assert_eq!(out, [finish()]);
    let again = NOW + limits::FINISH_RETRY;
    assert_eq!(source.poll_timeout(), Some((again, Timer::Finish)));
    assert_eq!(did(&mut source, |m, out| m.handle_timeout(again, &Line, out)), [finish()]);
    let ack = Message::FinishAck { tx: tx(1, 1) };
    let out = did(&mut source, |m, out| m.message(again, NEXT, ack.clone(), out));
    assert_eq!(out, [Action::Answer { id: RequestId(2), answer: Answer::Finished }]);
    let out = did(&mut source, |m, out| m.message(again, NEXT, ack, out));
    assert_eq!(out, [ignored(1, "finish_ack", "the far end knew already")]);
}

#[test]
fn a16_a_close_releases_the_path_and_answers() {
    let (mut source, label) = source_open();
    let id = tx(1, 1).channel;
    let out = did(&mut source, |m, out| m.close(NOW, RequestId(2), &id, out));
    let why = "closed at peer-00".to_owned();
    let closed = Event::ChannelClosed { channel: id.clone(), reason: None, why };
    assert_eq!(
        out,
        [
            Action::RemoveLabel { label },
            send(NEXT, release(1, 1, ReleaseCause::Closed, 0)),
            Action::CloseEnd { channel: id.clone() },
            Action::Event(closed),
            Action::Answer { id: RequestId(2), answer: Answer::Closed },
        ]
    );
    let out = did(&mut source, |m, out| m.close(NOW, RequestId(3), &id, out));
    assert!(matches!(&out[..], [Action::Answer { answer: Answer::Rejected(no), .. }]
        if no.reason == Reject::NotAllowed));
    let (mut relay, ..) = relay_open();
    let out = did(&mut relay, |m, out| m.close(NOW, RequestId(4), &id, out));
    let detail = "peer-00:7:1 only crosses this peer; close it at peer-00 or peer-02".to_owned();
    assert_eq!(out, [rejected(RequestId(4), Reject::NotAllowed, detail)]);
}

/// The service end (peer-02) with channel 1 attached over `attempt`, and its label.
fn served(attempt: u32) -> (Channels, Label) {
    let mut machine = machine(2);
    let asked = Message::Reserve(reserve(1, attempt, 2));
    let id = tx(1, 1).channel;
    let out = did(&mut machine, |m, out| m.message(NOW, PREV, asked, out));
    let (channel, side, worker) = (id.clone(), Side::Service, WorkerId(0));
    let name = service("deliver");
    assert_eq!(
        out,
        [Action::OpenEnd { channel, side, service: name, worker, sealing: Sealing::Plain }]
    );
    let out = did(&mut machine, |m, out| m.end_opened(NOW, &id, Ok(None), &Line, out));
    let label = labels(&out)[0];
    assert_eq!(out, attached(attempt, label));
    (machine, label)
}

fn attached(attempt: u32, label: Label) -> [Action; 4] {
    let channel = tx(1, 1).channel;
    let to = Target::Hop { link: PREV, label: Label(77), port: 6_000 };
    let entry = Entry { to, rate: bps(10), max_payload: 1_350 };
    let accept = Accept {
        tx: tx(1, attempt),
        label,
        port: 5_000,
        max_payload: 1_350,
        width: Bandwidth::MAX,
        seal: None,
    };
    let path = vec![peer(0), peer(1), peer(2)];
    [
        Action::AddLabel {
            channel: channel.clone(),
            label,
            from: PREV,
            to: Target::Local,
            rate: bps(40),
            hop: 2,
            back: false,
        },
        Action::SetEntry { channel: channel.clone(), to: Some(entry) },
        send(PREV, Message::Accept(accept)),
        Action::Event(Event::ChannelOpen { channel, path }),
    ]
}

#[test]
fn a_service_opens_its_socket_before_it_accepts() {
    let (machine, _) = served(1);
    assert_eq!(machine.free(PREV), Some((bps(90), bps(60))));
    let mut busy = self::machine(2);
    did(&mut busy, |m, out| m.message(NOW, PREV, Message::Reserve(reserve(1, 1, 2)), out));
    let result = Err(Rejection::new(Reject::Busy, "port in use"));
    let id = tx(1, 1).channel;
    let out = did(&mut busy, |m, out| m.end_opened(NOW, &id, result, &Line, out));
    assert_eq!(out, [send(PREV, nack(1, 2, Reject::Busy, 0, "port in use"))]);
    assert_eq!(busy.views(), []);
}

#[test]
fn services_take_what_their_kind_allows() {
    let mut machine = machine(2);
    let ask = |machine: &mut Channels, count, name: &str| {
        let mut asked = reserve(count, 1, 2);
        asked.service = service(name);
        asked.rate = bps(1);
        let out = did(machine, |m, out| m.message(NOW, PREV, Message::Reserve(asked), out));
        match &out[..] {
            [Action::OpenEnd { .. }] => None,
            [Action::Send { message: Message::Nack(nack), .. }] => Some(nack.reason),
            _ => panic!("neither taken nor refused: {out:?}"),
        }
    };
    assert_eq!(ask(&mut machine, 1, "radio"), Some(Reject::NoSuchService));
    assert_eq!(ask(&mut machine, 2, "deliver"), None);
    assert_eq!(ask(&mut machine, 3, "deliver"), None);
    assert_eq!(ask(&mut machine, 4, "source"), None);
    assert_eq!(ask(&mut machine, 5, "source"), Some(Reject::ServiceBusy));
    assert_eq!(ask(&mut machine, 6, "receive"), Some(Reject::ServiceBusy));
    did(&mut machine, |m, out| m.receiving(NOW, &service("receive"), true, out));
    assert_eq!(ask(&mut machine, 7, "receive"), None);
    assert_eq!(ask(&mut machine, 8, "receive"), Some(Reject::ServiceBusy));
    let busy: Vec<_> = machine.services().into_iter().map(|s| (s.source, s.busy)).collect();
    assert_eq!(busy, [(false, false), (true, true), (false, true)]);
    let out = did(&mut machine, |m, out| m.receiving(NOW, &service("receive"), false, out));
    assert_eq!(
        out,
        [
            send(PREV, release(7, 1, ReleaseCause::Closed, 2)),
            Action::CloseEnd { channel: tx(7, 1).channel },
        ]
    );
}

#[test]
fn a17_a_later_attempt_uses_the_same_socket() {
    let (mut machine, label) = served(1);
    let again = Message::Reserve(reserve(1, 2, 2));
    let out = did(&mut machine, |m, out| m.message(NOW, PREV, again, out));
    let (old, new) = out.split_at(2);
    let moved = release(1, 1, ReleaseCause::Moved, 2);
    assert_eq!(old, [Action::RemoveLabel { label }, send(PREV, moved)]);
    let mut again = attached(2, labels(new)[0]);
    again[3] = moved_to(false);
    assert_eq!(new, again);
    let late = Message::Reserve(reserve(1, 1, 2));
    let out = did(&mut machine, |m, out| m.message(NOW, PREV, late, out));
    assert!(matches!(&out[..], [Action::Send { message: Message::Nack(_), .. }]));
    let stale = release(1, 1, ReleaseCause::Closed, 0);
    let out = did(&mut machine, |m, out| m.message(NOW, PREV, stale, out));
    assert_eq!(out, [ignored(1, "release", STALE)]);
}

fn moved_to(seamless: bool) -> Action {
    let (channel, took) = (tx(1, 1).channel, Duration::ZERO);
    let path = vec![peer(0), peer(1), peer(2)];
    Action::Event(Event::ChannelMoved { channel, path, took, seamless, smaller_payload: None })
}

#[test]
fn a17_a_path_set_up_beside_takes_over_and_the_old_one_stays_until_it_is_released() {
    let (mut machine, old) = served(1);
    let beside = Message::Reserve(Reserve { manner: Manner::Beside, ..reserve(1, 2, 2) });
    let out = did(&mut machine, |m, out| m.message(NOW, PREV, beside, out));
    let mut expected = attached(2, labels(&out)[0]);
    expected[3] = moved_to(true);
    assert_eq!(out, expected);
    assert_eq!(machine.free(PREV), Some((bps(90), bps(60))), "common links count once");
    let out = did(&mut machine, |m, out| {
        m.message(NOW, PREV, release(1, 1, ReleaseCause::Moved, 0), out);
    });
    assert_eq!(out, [Action::RemoveLabel { label: old }]);
}

#[test]
fn a17_a_standby_path_waits_at_the_service_end_until_the_other_breaks() {
    let (mut machine, old) = served(1);
    let standby = Message::Reserve(Reserve { manner: Manner::Standby, ..reserve(1, 2, 2) });
    let out = did(&mut machine, |m, out| m.message(NOW, PREV, standby, out));
    assert!(!out.iter().any(|action| matches!(action, Action::SetEntry { .. })), "{out:?}");
    let out = did(&mut machine, |m, out| m.message(NOW, PREV, failed(1, 1, [1, 0]), out));
    let [Action::RemoveLabel { label }, Action::SetEntry { to: Some(_), .. }, Action::Event(event)] =
        &out[..]
    else {
        panic!("{out:?}")
    };
    assert_eq!(*label, old);
    assert!(matches!(event, Event::ChannelMoved { seamless: false, .. }), "{event:?}");
    assert_eq!(machine.views()[0].state, ChannelState::Open);
}

#[test]
fn paths_that_pile_up_at_a_service_end_are_given_back_and_never_the_one_in_use() {
    let (mut machine, _) = served(1);
    let mut given_back = 0;
    for attempt in 2..=9 {
        let standby = Reserve { manner: Manner::Standby, ..reserve(1, attempt, 2) };
        let out = did(&mut machine, |m, out| m.message(NOW, PREV, Message::Reserve(standby), out));
        given_back += out.iter().filter(|a| matches!(a, Action::RemoveLabel { .. })).count();
        assert!(machine.views()[0].reserved.len() <= limits::ATTEMPTS_MAX);
    }
    assert_eq!(given_back, 9 - limits::ATTEMPTS_MAX);
}

#[test]
fn a2_a_relay_that_leaves_asks_the_asker_and_takes_nothing_new() {
    let (mut relay, ..) = relay_open();
    let out = did(&mut relay, |m, out| m.drain(out));
    assert_eq!(out, [send(PREV, Message::Move { tx: tx(1, 1), at: peer(1) })]);
    assert_eq!(relay.crossing(), 1);
    let other = Message::Move { tx: tx(1, 1), at: peer(2) };
    let out = did(&mut relay, |m, out| m.message(NOW, NEXT, other.clone(), out));
    assert_eq!(out, [send(PREV, other.clone())], "passed on towards the asker");
    let out = did(&mut relay, |m, out| m.message(NOW, PREV, other, out));
    assert_eq!(out, [ignored(0, "move", NOT_OWNER)]);
    let new = Message::Reserve(reserve(2, 1, 1));
    let out = did(&mut relay, |m, out| m.message(NOW, PREV, new, out));
    assert!(matches!(&out[..], [Action::Send { message: Message::Nack(n), .. }]
        if n.reason == Reject::ShuttingDown));
    did(&mut relay, |m, out| m.message(NOW, PREV, release(1, 1, ReleaseCause::Moved, 0), out));
    assert_eq!(relay.crossing(), 0);
}

#[test]
fn a17_a_service_end_gives_up_alone_when_nobody_comes_back() {
    let (mut machine, label) = served(1);
    let id = tx(1, 1).channel;
    let broken = release(1, 1, ReleaseCause::Broken, 1);
    let out = did(&mut machine, |m, out| m.message(NOW, PREV, broken, out));
    let why = "the path broke at peer-01".to_owned();
    assert_eq!(
        out,
        [
            Action::RemoveLabel { label },
            Action::SetEntry { channel: id.clone(), to: None },
            Action::Event(Event::ChannelMoving { channel: id, why }),
        ]
    );
    assert_eq!(machine.free(PREV), Some((bps(100), bps(100))));
    // The refresh timer may ring once more for nothing.
    let end = NOW + limits::LEASE;
    let mut out = Vec::new();
    while let Some((at, _)) = machine.poll_timeout() {
        assert!(out.is_empty() && at <= end);
        out = did(&mut machine, |m, out| m.handle_timeout(at, &Line, out));
    }
    assert!(matches!(
        &out[..],
        [
            Action::CloseEnd { .. },
            Action::Event(Event::ChannelClosed { reason: Some(Reject::Broken), .. })
        ]
    ));
    // Whoever was moving too slowly learns that it is over.
    let late = Message::Reserve(reserve(1, 2, 2));
    let out = did(&mut machine, |m, out| m.message(end, PREV, late, out));
    assert!(matches!(&out[..], [Action::Send { message: Message::Nack(nack), .. }]
        if nack.reason == Reject::Cancelled));
}

#[test]
fn the_end_of_a_stream_is_reported_once_and_acknowledged_each_time() {
    let (mut machine, _) = served(1);
    let finish = || Message::Finish { tx: tx(1, 1), frames: 9, proof: None };
    let ack = send(PREV, Message::FinishAck { tx: tx(1, 1) });
    let event = Event::StreamFinished { channel: tx(1, 1).channel, frames: 9 };
    let out = did(&mut machine, |m, out| m.message(NOW, PREV, finish(), out));
    assert_eq!(out, [Action::Event(event), ack.clone()]);
    let out = did(&mut machine, |m, out| m.message(NOW, PREV, finish(), out));
    assert_eq!(out, [ack]);
}

#[test]
fn a_service_for_one_is_free_again_when_its_user_has_restarted() {
    let mut machine = machine(2);
    let mut asked = reserve(1, 1, 2);
    asked.service = service("source");
    did(&mut machine, |m, out| m.message(NOW, PREV, Message::Reserve(asked.clone()), out));
    did(&mut machine, |m, out| m.end_opened(NOW, &tx(1, 1).channel, Ok(None), &Line, out));
    did(&mut machine, |m, out| {
        m.message(NOW, PREV, release(1, 1, ReleaseCause::Broken, 1), out);
    });
    asked.tx.channel.boot += 1;
    let out = did(&mut machine, |m, out| m.message(NOW, PREV, Message::Reserve(asked), out));
    assert!(matches!(
        &out[..],
        [
            Action::CloseEnd { .. },
            Action::Event(Event::ChannelClosed { .. }),
            Action::OpenEnd { .. },
        ]
    ));
}

#[test]
fn a2_a_peer_that_leaves_closes_its_ends_and_breaks_what_crosses() {
    let (mut relay, back, forward) = relay_open();
    let out = did(&mut relay, |m, out| m.leave(NOW, out));
    let broken = release(1, 1, ReleaseCause::Broken, 1);
    assert_eq!(
        out,
        [
            Action::RemoveLabel { label: forward },
            Action::RemoveLabel { label: back },
            send(PREV, broken.clone()),
            send(NEXT, broken),
        ]
    );
    let out =
        did(&mut relay, |m, out| m.message(NOW, PREV, Message::Reserve(reserve(2, 1, 1)), out));
    let detail = "this peer leaves the overlay";
    assert_eq!(out, [send(PREV, nack(2, 1, Reject::ShuttingDown, 0, detail))]);

    let (mut source, label) = source_reserving();
    let out = did(&mut source, |m, out| m.leave(NOW, out));
    let why = "peer-00 leaves".to_owned();
    assert_eq!(
        out,
        [
            Action::RemoveLabel { label },
            send(NEXT, release(1, 1, ReleaseCause::Closed, 0)),
            Action::CloseEnd { channel: tx(1, 1).channel },
            rejected(RequestId(1), Reject::ShuttingDown, why),
        ]
    );
}

// --- Many machines in a seeded world ---

/// Draws what happens to a world: opens, closes and finishes, and with `faults` cuts and crashes.
fn stir(world: &mut World, steps: u64, faults: bool) {
    for _ in 0..steps {
        let hosts = world.hosts.len();
        match world.dice.below(if faults { 16 } else { 12 }) {
            0..=8 => {
                let (from, to) = (world.dice.index(hosts), world.dice.index(hosts));
                let name = ["deliver", "deliver", "source", "radio"][world.dice.index(4)];
                let rates = [1 + world.dice.below(40), 1 + world.dice.below(15)];
                if world.hosts[from].alive {
                    let protect = world.dice.below(3) == 0;
                    world.open_protected(from, to, name, rates, protect);
                }
            }
            9..=11 => {
                let ends: Vec<_> = world.views().filter(|(_, v)| v.side.is_some()).collect();
                if !ends.is_empty() {
                    let (at, view) = ends[world.dice.index(ends.len())].clone();
                    match world.dice.below(3) {
                        0 => world.finish(at, &view.id, 5),
                        _ => world.close(at, &view.id),
                    };
                }
            }
            12..=14 => {
                let wire = world.dice.index(world.wires.len());
                if world.wires[wire].cut { world.mend(wire) } else { world.cut(wire) }
            }
            _ => {
                let host = world.dice.index(hosts);
                match (world.hosts[host].alive, world.dice.below(3)) {
                    (true, 0) => world.drain(host),
                    (true, _) => world.crash(host),
                    (false, _) => world.restart(host),
                }
            }
        }
        let pause = [1, 10, 50, 300, 2_000][world.dice.index(5)];
        let pause = world.dice.below(pause) + 1;
        world.run(Duration::from_millis(pause));
    }
}

/// Prints the seed when the test panics.
fn shown(seed: u64) -> impl Drop {
    struct Shown(u64);
    impl Drop for Shown {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("seed {}", self.0);
            }
        }
    }
    Shown(seed)
}

#[test]
fn a12_no_link_is_ever_oversold_and_a16_closed_channels_leave_nothing() {
    let mut opened = 0;
    for seed in 0..150 {
        let _shown = shown(seed);
        let mut world = World::random(seed);
        stir(&mut world, 40, false);
        world.run(Duration::from_secs(6));
        world.judge_rest();
        opened += world.views().filter(|(_, view)| view.side == Some(Side::Source)).count();
        let mut ends: Vec<_> = world.views().filter(|(_, view)| view.side.is_some()).collect();
        ends.dedup_by(|a, b| a.1.id == b.1.id);
        for (at, view) in ends {
            if world.views().any(|(other, v)| other == at && v.id == view.id) {
                world.close(at, &view.id);
            }
        }
        world.run(Duration::from_secs(1));
        assert_eq!(world.views().count(), 0, "a16: everything is closed");
        for host in &world.hosts {
            host.machine.links.values().for_each(|n| assert!(n.ledger.is_empty(), "a16"));
        }
    }
    assert!(opened > 300, "the worlds open too little to prove anything: {opened}");
}

#[test]
fn a11_and_a16_crashes_and_cuts_leave_no_request_unanswered_and_nothing_reserved() {
    let (mut moved, mut open) = (0, 0);
    for seed in 1_000..1_150 {
        let _shown = shown(seed);
        let mut world = World::random(seed);
        stir(&mut world, 50, true);
        world.heal();
        world.run(limits::LEASE + limits::MOVE_DEADLINE + limits::HOLD);
        world.judge_rest();
        let events = || world.hosts.iter().flat_map(|host| &host.events);
        moved += events().filter(|e| matches!(e, Event::ChannelMoving { .. })).count();
        open += world.views().filter(|(_, view)| view.side == Some(Side::Source)).count();
    }
    assert!(moved > 100 && open > 50, "too little happened: {moved} moved, {open} open");
}

#[test]
fn a17_channels_that_crossed_the_cut_move_and_others_see_no_action() {
    let (mut moved, mut untouched) = (0, 0);
    for seed in 0..100 {
        let _shown = shown(seed);
        // A ring with a chord: any one link may go, and there is room for everything.
        let edges: Vec<_> =
            (0..6).map(|a| (a, (a + 1) % 6, 1_000)).chain([(0, 3, 1_000)]).collect();
        let mut world = World::new(seed, 6, &edges);
        for _ in 0..8 {
            let (from, to) = (world.dice.index(6), world.dice.index(6));
            if from != to {
                world.open(from, to, "deliver", [20, 5]);
            }
        }
        world.run(Duration::from_secs(1));
        let before: Vec<_> = world.views().collect();
        let touched: Vec<_> = world.hosts.iter().map(|host| host.touched.clone()).collect();
        let wire = world.dice.index(7);
        world.cut(wire);
        world.run(Duration::from_secs(2));
        for (at, view) in before.iter().filter(|(_, view)| view.side == Some(Side::Source)) {
            let crosses =
                view.path.windows(2).any(|hop| world.wire_between(&hop[0], &hop[1]) == wire);
            assert!(world.is_open(&view.id), "a17: {view:?}");
            if crosses {
                moved += 1;
                let new = world.views().find(|(at2, v)| at2 == at && v.id == view.id);
                assert_ne!(new.map(|(_, v)| v.path), Some(view.path.clone()));
            } else {
                untouched += 1;
                for (host, touched) in world.hosts.iter().zip(&touched) {
                    assert_eq!(host.touched.get(&view.id), touched.get(&view.id), "a17");
                }
            }
        }
        world.judge_rest();
    }
    assert!(moved > 50 && untouched > 200, "{moved} moved, {untouched} did not");
}

#[test]
fn a2_channels_leave_a_relay_that_leaves_and_there_is_a_way_at_every_moment() {
    let mut moved = 0;
    for seed in 0..100 {
        let _shown = shown(seed);
        let edges: Vec<_> =
            (0..6).map(|a| (a, (a + 1) % 6, 1_000)).chain([(0, 3, 1_000)]).collect();
        let mut world = World::new(seed, 6, &edges);
        for _ in 0..8 {
            let (from, to) = (world.dice.index(6), world.dice.index(6));
            if from != to {
                let protect = world.dice.below(3) == 0;
                world.open_protected(from, to, "deliver", [20, 5], protect);
            }
        }
        world.run(Duration::from_secs(3));
        let relay = world.dice.index(6);
        let ends: Vec<_> = world.views().filter(|(_, view)| view.side.is_some()).collect();
        moved += world.hosts[relay].machine.crossing();
        world.drain(relay);
        for _ in 0..2_000 {
            world.run(Duration::from_millis(1));
            for (at, view) in &ends {
                assert!(world.follow(*at, &view.id).is_some(), "a2: {view:?} has no way");
            }
        }
        assert_eq!(world.hosts[relay].machine.crossing(), 0, "a2: somebody stayed");
    }
    assert!(moved > 100, "{moved} moved");
}

#[test]
fn a15_two_peers_keep_channels_in_both_directions_at_the_same_time() {
    let mut world = World::new(3, 3, &[(0, 1, 100), (1, 2, 100)]);
    let asked = [(0, 2), (2, 0), (0, 2)].map(|(from, to)| world.open(from, to, "deliver", [40, 5]));
    world.run(Duration::from_secs(1));
    for id in asked {
        assert!(matches!(world.answer(id), Some(Answer::Open(_))), "{:?}", world.answer(id));
    }
    world.judge_rest();
    // 85 of 100 are promised from peer-00 to peer-01, and 50 back.
    let id = world.open(0, 2, "deliver", [40, 5]);
    world.run(Duration::from_secs(1));
    assert!(matches!(world.answer(id), Some(Answer::Rejected(no)) if no.reason == Reject::NoRoom));
}

#[test]
fn a16_a_peer_that_stops_without_a_word_is_forgotten_within_one_lease() {
    for (seed, end) in [(1, 0), (2, 3)] {
        let _shown = shown(seed);
        let mut world = World::new(seed, 4, &[(0, 1, 100), (1, 2, 100), (2, 3, 100)]);
        let id = world.open(0, 3, "deliver", [40, 5]);
        // Refreshes carry it over several leases.
        world.run(limits::LEASE * 5);
        assert!(matches!(world.answer(id), Some(Answer::Open(_))));
        world.judge_rest();
        world.hosts[end].frozen = true;
        world.run(limits::LEASE + Duration::from_secs(1));
        let kept = world.views().filter(|(_, view)| view.state == ChannelState::Open).count();
        assert_eq!(kept, 0, "a16: nothing stays committed");
        world.run(limits::MOVE_DEADLINE);
        assert_eq!(world.views().count(), 0, "a16: both ends gave up");
    }
}

#[test]
fn a17_refreshes_outlast_every_path_of_the_greatest_length() {
    let edges: Vec<_> = (1..limits::PATH_PEERS_MAX).map(|a| (a - 1, a, 100)).collect();
    let mut world = World::new(5, limits::PATH_PEERS_MAX, &edges);
    world.judged = false;
    let id = world.open(0, limits::PATH_PEERS_MAX - 1, "deliver", [40, 5]);
    world.run(limits::LEASE * 6);
    assert!(matches!(world.answer(id), Some(Answer::Open(_))));
    world.judge_rest();
    let moving = |event: &Event| matches!(event, Event::ChannelMoving { .. });
    assert!(!world.hosts.iter().flat_map(|host| &host.events).any(moving));
}

#[test]
fn a_finished_stream_is_acknowledged_although_its_path_breaks() {
    for seed in 0..20 {
        let _shown = shown(seed);
        let mut world = World::new(seed, 4, &[(0, 1, 99), (1, 3, 99), (0, 2, 99), (2, 3, 99)]);
        let id = world.open(0, 3, "deliver", [40, 5]);
        world.run(Duration::from_millis(300));
        let Some(Answer::Open(opened)) = world.answer(id).cloned() else { panic!("it opens") };
        let finished = world.finish(0, &opened.channel, 5);
        let wire = world.wire_between(&opened.path[0], &opened.path[1]);
        world.cut(wire);
        world.run(Duration::from_secs(2));
        assert_eq!(world.answer(finished), Some(&Answer::Finished));
        let told = |event: &&Event| matches!(event, Event::StreamFinished { frames: 5, .. });
        assert_eq!(world.hosts[3].events.iter().filter(told).count(), 1);
    }
}
