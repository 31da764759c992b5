//! The conversation of a measurement, message by message; whole ones run in `tests/measure.rs`.

use rand_core::SeedableRng;

use super::*;

const LINK: LinkId = LinkId(4);
const REQUEST: RequestId = RequestId(9);
const T: Time = Time(1_000_000);
const RTT: Option<Duration> = Some(Duration::from_millis(2));

fn facts(version: u16) -> Facts {
    let configured = Bandwidth::from_bps(100_000_000);
    Facts {
        peer: PeerName::new("b").unwrap(),
        version,
        configured,
        usable: configured.usable(),
        packet_bytes: 1_500,
        header_bytes: 28,
        reserved_out: Bandwidth::ZERO,
        reserved_back: Bandwidth::ZERO,
    }
}

fn machine() -> Measurements {
    Measurements::new(ChaCha20Rng::from_seed([3; 32]))
}

fn wanted(max: Option<u64>) -> MeasureRequest {
    MeasureRequest {
        peer: PeerName::new("b").unwrap(),
        max: max.map(Bandwidth::from_bps),
        duration: limits::MEASURE_MAX,
    }
}

fn ask(machine: &mut Measurements, now: Time) -> Vec<Action> {
    let mut out = Vec::new();
    machine.ask(now, REQUEST, &wanted(None), LINK, facts(2), &mut out);
    machine.invariants();
    out
}

fn hear(machine: &mut Measurements, now: Time, id: u64, body: MeasureBody) -> Vec<Action> {
    let mut out = Vec::new();
    machine.message(now, LINK, Measure { id, body }, facts(2), &mut out);
    machine.invariants();
    out
}

fn rejection(out: &[Action]) -> (Reject, &str) {
    for action in out {
        if let Action::Answer { id: REQUEST, answer: Answer::Rejected(rejection) } = action {
            return (rejection.reason, &rejection.detail);
        }
    }
    panic!("no rejection: {out:?}")
}

/// The id of a measurement that was asked for, from its Ask.
fn id_of(out: &[Action]) -> u64 {
    match out {
        [
            Action::CountProbes { link: LINK, on: true },
            Action::Send {
                message: Message::Measure(Measure { id, body: MeasureBody::Ask }), ..
            },
        ] => *id,
        other => panic!("{other:?}"),
    }
}

fn said(action: &Action) -> &MeasureBody {
    let Action::Send { message: Message::Measure(Measure { body, .. }), .. } = action else {
        panic!("{action:?}")
    };
    body
}

fn sent(number: u32, frames: u32) -> Sent {
    Sent { number, frames, took: limits::TRAIN_SPAN }
}

#[test]
fn a_neighbour_of_an_older_version_is_told_apart() {
    let mut out = Vec::new();
    machine().ask(T, REQUEST, &wanted(None), LINK, facts(1), &mut out);
    let (reason, detail) = rejection(&out);
    assert_eq!(reason, Reject::NotAllowed);
    assert!(detail.contains("speaks control version 1, measuring needs 2"), "{detail}");
    assert_eq!(out.len(), 1);
}

#[test]
fn a_link_is_measured_by_one_at_a_time() {
    let mut asker = machine();
    ask(&mut asker, T);
    assert_eq!(rejection(&ask(&mut asker, T)).0, Reject::Busy);
    // The neighbour wants to measure too.
    let out = hear(&mut asker, T, 77, MeasureBody::Ask);
    assert!(matches!(said(&out[0]), MeasureBody::Refused(why) if why.contains("already")));
    // And the other way round.
    let mut neighbour = machine();
    hear(&mut neighbour, T, 1, MeasureBody::Ask);
    assert_eq!(rejection(&ask(&mut neighbour, T)).0, Reject::Busy);
    let out = hear(&mut neighbour, T, 2, MeasureBody::Ask);
    assert!(matches!(said(&out[0]), MeasureBody::Refused(_)));
}

#[test]
fn no_rate_far_above_the_configured_one_is_tried() {
    let mut out = Vec::new();
    machine().ask(T, REQUEST, &wanted(Some(1_600_000_001)), LINK, facts(2), &mut out);
    let (reason, detail) = rejection(&out);
    assert_eq!(reason, Reject::NotAllowed);
    assert!(detail.contains("at most 1.6 Gbit/s"), "{detail}");
}

#[test]
fn a_neighbour_that_does_not_answer_or_does_not_want_to_ends_it() {
    let mut asker = machine();
    ask(&mut asker, T);
    let (due, timer) = asker.poll_timeout().unwrap();
    assert_eq!((due, timer), (T + limits::MEASURE_GRACE, Timer::Measure));
    let mut out = Vec::new();
    asker.handle_timeout(due, &mut out);
    assert_eq!(rejection(&out).0, Reject::Timeout);
    assert_eq!(asker.poll_timeout(), None);

    let id = id_of(&ask(&mut asker, T));
    let out = hear(&mut asker, T, id, MeasureBody::Refused("no time".to_owned()));
    assert_eq!(rejection(&out), (Reject::NotAllowed, "b: no time"));
    assert_eq!(said(&out[1]), &MeasureBody::End);
    assert_eq!(out[2], Action::CountProbes { link: LINK, on: false });
}

#[test]
fn a_link_that_goes_down_ends_it_at_both_ends() {
    let mut asker = machine();
    ask(&mut asker, T);
    let mut out = Vec::new();
    asker.link_down(LINK, &mut out);
    assert_eq!(rejection(&out).0, Reject::Broken);
    let mut neighbour = machine();
    hear(&mut neighbour, T, 1, MeasureBody::Ask);
    neighbour.link_down(LINK, &mut out);
    assert_eq!(neighbour.poll_timeout(), None);
    assert_eq!(out.len(), 1, "there is nobody to tell");
}

#[test]
fn a_train_leaves_settles_and_is_counted_before_the_next() {
    let mut asker = machine();
    let id = id_of(&ask(&mut asker, T));
    let out = hear(&mut asker, T, id, MeasureBody::Ready);
    let [Action::SendTrain { link: LINK, train, header_bytes: 28 }] = out[..] else {
        panic!("{out:?}");
    };
    assert_eq!((train.number, train.rate.bps()), (1, 12_500_000));
    assert_eq!(hear(&mut asker, T, id, MeasureBody::Ready), [], "said once");
    let mut out = Vec::new();
    asker.train_sent(T, LINK, sent(2, train.frames), RTT, &mut out);
    assert_eq!(asker.poll_timeout().unwrap().0, T + limits::MEASURE_MAX / 2, "another train's");
    asker.train_sent(T, LINK, sent(1, train.frames), RTT, &mut out);
    let (due, _) = asker.poll_timeout().unwrap();
    assert_eq!(due, T + limits::TRAIN_SPAN);
    asker.handle_timeout(due, &mut out);
    assert_eq!(said(&out[0]), &MeasureBody::Count { number: 1 });
    let all = Arrived { frames: train.frames, tail_frames: 0, tail_us: 0 };
    let early = hear(&mut asker, due, id, MeasureBody::Counted { number: 5, arrived: all });
    assert_eq!(early, []);
    let out = hear(&mut asker, due, id, MeasureBody::Counted { number: 1, arrived: all });
    let [Action::SendTrain { train, .. }] = &out[..] else { panic!("{out:?}") };
    assert_eq!((train.number, train.rate.bps() > 20_000_000), (2, true));
}

#[test]
fn the_neighbour_sends_what_is_asked_within_its_own_configuration() {
    let mut neighbour = machine();
    let out = hear(&mut neighbour, T, 5, MeasureBody::Ask);
    assert_eq!(out[0], Action::CountProbes { link: LINK, on: true });
    assert_eq!(said(&out[1]), &MeasureBody::Ready);
    let rate = |bps| Bandwidth::from_bps(bps);
    let train = Train { number: 3, frames: 40, frame_bytes: 1_472, rate: rate(1_600_000_000) };
    for wrong in
        [Train { rate: rate(1_600_000_001), ..train }, Train { frame_bytes: 1_473, ..train }]
    {
        let out = hear(&mut neighbour, T, 5, MeasureBody::Train(wrong));
        assert!(matches!(said(&out[0]), MeasureBody::Refused(_)), "{out:?}");
    }
    let out = hear(&mut neighbour, T, 5, MeasureBody::Train(train));
    assert_eq!(out, [Action::SendTrain { link: LINK, train, header_bytes: 28 }]);
    let out = hear(&mut neighbour, T, 5, MeasureBody::Train(train));
    assert!(matches!(said(&out[0]), MeasureBody::Refused(why) if why.contains("already")));
    let mut out = Vec::new();
    neighbour.train_sent(T, LINK, sent(3, 40), RTT, &mut out);
    let took_us = 40_000;
    assert_eq!(said(&out[0]), &MeasureBody::Sent { number: 3, frames: 40, took_us });
    assert_eq!(
        hear(&mut neighbour, T, 5, MeasureBody::Count { number: 3 }),
        [Action::CountTrain { link: LINK, number: 3 }]
    );
    assert_eq!(hear(&mut neighbour, T, 6, MeasureBody::Count { number: 3 }), [], "another id");
    let out = hear(&mut neighbour, T, 5, MeasureBody::End);
    assert_eq!(out, [Action::CountProbes { link: LINK, on: false }]);
}

#[test]
fn a_neighbour_whose_asker_vanished_forgets_it_in_time() {
    let mut neighbour = machine();
    hear(&mut neighbour, T, 5, MeasureBody::Ask);
    let (due, _) = neighbour.poll_timeout().unwrap();
    assert_eq!(due, T + limits::MEASURE_MAX + limits::MEASURE_GRACE);
    let mut out = Vec::new();
    neighbour.handle_timeout(due, &mut out);
    assert_eq!(out, [Action::CountProbes { link: LINK, on: false }]);
    assert_eq!(neighbour.poll_timeout(), None);
}

#[test]
fn a_train_is_never_a_handful_of_probes_nor_more_than_the_bound() {
    for configured in [64_001, 1_000_000, 1_000_000_000, Bandwidth::MAX.bps()] {
        let configured = Bandwidth::from_bps(configured);
        let mut asker = machine();
        let mut out = Vec::new();
        let facts = Facts { configured, ..facts(2) };
        asker.ask(T, REQUEST, &wanted(None), LINK, facts, &mut out);
        let id = id_of(&out);
        let out = hear(&mut asker, T, id, MeasureBody::Ready);
        let [Action::SendTrain { train, .. }] = out[..] else { panic!("{out:?}") };
        assert!(train.frames >= limits::TRAIN_FRAMES_MIN, "{train:?}");
        assert!(train.frames <= limits::TRAIN_FRAMES_MAX, "{train:?}");
        assert!(limits::PROBE_BYTES.contains(&train.frame_bytes), "{train:?}");
    }
}
