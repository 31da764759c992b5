//! A request until it is answered: which paths are tried, and what the answer says (A11, A13).

use super::*;
use crate::proto::{Fit, FitRequest, Limit, Narrowest, Refused};
use crate::types::SessionId;

/// [`Square`] with capacities: every link can carry 100 bit/s, those over peer-01 have 30 free.
pub(super) struct Known;

impl Paths for Known {
    fn path(&self, to: &PeerName) -> Option<Vec<PeerName>> {
        Square.path(to)
    }

    fn widest(&self, wanted: &Wanted<'_>) -> Option<Vec<PeerName>> {
        let fits = |path: &Vec<PeerName>| {
            let narrow = self.narrowest(path).expect("a path of the square");
            let free = if wanted.idle { narrow.capacity } else { narrow.free };
            wanted.rate <= free && wanted.rate_back <= free
        };
        // peer-03 has more room.
        let around = Wanted { without_relays: &[peer(1)], ..*wanted };
        let both = [&around, wanted].map(|wanted| Square.widest(wanted));
        let allowed = |path: &Vec<PeerName>| !wanted.without_relays.contains(&path[1]);
        both.into_iter().flatten().filter(allowed).find(fits)
    }

    fn narrowest(&self, path: &[PeerName]) -> Option<Narrowest> {
        let free = if path[1] == peer(1) { 30 } else { 100 };
        let link = (path[0].clone(), path[1].clone());
        Some(Narrowest {
            capacity: bps(100),
            by_capacity: link.clone(),
            free: bps(free),
            by_free: link,
            free_back: bps(free),
        })
    }

    fn session(&self) -> Option<SessionId> {
        Some(SessionId { counter: 4, initiator: peer(2) })
    }

    fn knows(&self, _: &PeerName) -> bool {
        true
    }
}

fn limit() -> Limit {
    let session = Known.session().expect("there is one");
    Limit { width: bps(100), link: (peer(0), peer(1)), session }
}

/// peer-00 with links to peer-01 and peer-03, and a request that waits for its first answer.
pub(super) fn asked(request: OpenRequest) -> (Channels, Vec<Action>) {
    let mut source = machine(0);
    did(&mut source, |m, out| m.link_up(NOW, BESIDE, terms(3, 1_350), out));
    let channel = tx(1, 1).channel;
    did(&mut source, |m, out| m.open(NOW, RequestId(1), request, &Known, out));
    let out = did(&mut source, |m, out| m.end_opened(NOW, &channel, Ok(None), &Known, out));
    (source, out)
}

/// The path of the RESERVE among these, and its number.
pub(super) fn reserved(actions: &[Action]) -> Option<(Vec<PeerName>, u32)> {
    actions.iter().find_map(|action| {
        let Action::Send { message: Message::Reserve(r), .. } = action else { return None };
        Some((r.path.clone(), r.tx.attempt))
    })
}

pub(super) fn rejection(actions: &[Action]) -> Option<Rejection> {
    actions.iter().find_map(|action| {
        let Action::Answer { answer: Answer::Rejected(rejection), .. } = action else {
            return None;
        };
        Some(rejection.clone())
    })
}

/// What peer-00 does about a refusal that came over `link`.
pub(super) fn refused(source: &mut Channels, link: LinkId, nack: Nack) -> Vec<Action> {
    did(source, |m, out| m.message(NOW, link, Message::Nack(nack), out));
    did(source, |m, out| m.handle_timeout(NOW, &Known, out))
}

fn short(attempt: u32, at: usize, towards: usize) -> Nack {
    let detail = "30 bit/s are free".to_owned();
    Nack { at: peer(at), towards: Some(peer(towards)), detail, free: bps(30), ..refusal(attempt) }
}

#[test]
fn a13_a_full_tree_path_is_left_for_the_widest_and_the_answer_says_so() {
    let (mut source, out) = asked(open_request("film"));
    assert_eq!(reserved(&out), Some((path(1), 1)));
    let out = refused(&mut source, NEXT, short(1, 1, 2));
    assert_eq!(reserved(&out), Some((path(3), 2)));
    let accept = Message::Accept(accept(1, 2));
    let out = did(&mut source, |m, out| m.message(NOW, BESIDE, accept, out));
    let opened = out.iter().find_map(|action| {
        let Action::Answer { answer: Answer::Open(opened), .. } = action else { return None };
        Some(opened.clone())
    });
    let opened = opened.expect("an answer");
    assert_eq!(opened.path, path(3));
    let why = "at peer-01: 30 bit/s are free".to_owned();
    assert_eq!(opened.explanation.refused, [Refused { path: path(1), why }]);
    assert_eq!(opened.explanation.limit, Some(limit()));
}

#[test]
fn a13_when_every_path_is_refused_the_answer_names_them_in_order() {
    let (mut source, _) = asked(open_request("film"));
    refused(&mut source, NEXT, short(1, 1, 2));
    // The way back is short: only the link that the refusal names is left out.
    let out = refused(&mut source, BESIDE, short(2, 2, 3));
    let rejection = rejection(&out).expect("no path is left");
    assert_eq!(rejection.reason, Reject::NoRoom);
    let tried: Vec<_> = rejection.explanation.refused.iter().map(|r| r.path.clone()).collect();
    assert_eq!(tried, [path(1), path(3)]);
    assert_eq!(source.views(), []);
}

#[test]
fn a13_the_choice_of_paths_is_the_askers() {
    let of = |choice, avoid: &[usize]| {
        let avoid = avoid.iter().copied().map(peer).collect();
        OpenRequest { choice, avoid, ..open_request("film") }
    };
    let first = |request| reserved(&asked(request).1).map(|(path, _)| path);
    assert_eq!(first(of(Choice::Tree, &[])), Some(path(1)));
    assert_eq!(first(of(Choice::Widest, &[])), Some(path(3)));
    assert_eq!(first(of(Choice::TreeThenWidest, &[])), Some(path(1)));
    assert_eq!(first(of(Choice::TreeThenWidest, &[1])), Some(path(3)));
    // Only the tree: its refusal is the answer.
    let (mut source, _) = asked(of(Choice::Tree, &[]));
    let out = refused(&mut source, NEXT, short(1, 1, 2));
    assert_eq!(rejection(&out).map(|why| why.reason), Some(Reject::NoRoom));
    let (mut source, _) = asked(of(Choice::Given(vec![peer(1), peer(2)]), &[]));
    let out = refused(&mut source, NEXT, short(1, 1, 2));
    assert_eq!(rejection(&out).map(|why| why.reason), Some(Reject::NoRoom));
}

#[test]
fn a13_a_picture_without_room_is_no_room_and_not_the_lack_of_a_path() {
    let of = |choice| OpenRequest { choice, avoid: vec![peer(3)], ..open_request("film") };
    let (source, out) = asked(of(Choice::Widest));
    assert_eq!(reserved(&out), None, "30 bit/s are free over peer-01");
    assert_eq!(rejection(&out).map(|why| why.reason), Some(Reject::NoRoom));
    assert_eq!(source.views(), []);
    let (source, out) = asked(OpenRequest { wait: true, ..of(Choice::Widest) });
    assert_eq!(rejection(&out), None);
    assert_eq!(source.views()[0].state, ChannelState::Queued);
}

#[test]
fn a13_a_link_that_goes_down_under_a_request_costs_it_one_attempt() {
    let (mut source, _) = asked(open_request("film"));
    did(&mut source, |m, out| m.link_down(NOW, NEXT, out));
    let out = did(&mut source, |m, out| m.handle_timeout(NOW, &Known, out));
    assert_eq!(reserved(&out), Some((path(3), 2)));
}

#[test]
fn a11_more_than_any_path_can_carry_is_never() {
    for (rate, rate_back) in [(101, 10), (40, 101)] {
        let mut source = machine(0);
        let request =
            OpenRequest { rate: bps(rate), rate_back: bps(rate_back), ..open_request("film") };
        let out = did(&mut source, |m, out| m.open(NOW, RequestId(1), request, &Known, out));
        let rejection = rejection(&out).expect("it is said at once");
        assert_eq!(rejection.reason, Reject::Never);
        assert_eq!(
            rejection.detail,
            "101 bit/s do not fit any path to peer-02, ever: the widest carries 100 bit/s, at \
             peer-00 - peer-01, says the tree of 4@peer-02"
        );
        assert_eq!(rejection.explanation.limit, Some(limit()));
    }
}

#[test]
fn a14_would_fit_says_now_later_or_never_and_reserves_nothing() {
    let source = machine(0);
    let fit = |rate, choice| {
        let (rate, rate_back, avoid) = (bps(rate), bps(1), Vec::new());
        let request = FitRequest { peer: peer(2), rate, rate_back, choice, avoid };
        source.would_fit(&request, &Known)
    };
    let answer = |rate, choice| fit(rate, choice).map(|Fit { fits, path, .. }| (fits, path));
    assert_eq!(answer(30, Choice::TreeThenWidest), Ok((true, path(1))));
    assert_eq!(answer(31, Choice::TreeThenWidest), Ok((true, path(3))));
    assert_eq!(answer(31, Choice::Tree), Ok((false, path(1))));
    assert_eq!(answer(31, Choice::Given(vec![peer(1), peer(2)])), Ok((false, path(1))));
    let never = fit(101, Choice::TreeThenWidest).expect_err("more than a link has");
    assert_eq!(never.reason, Reject::Never);
    assert_eq!(source.free(NEXT), Some((bps(100), bps(100))));
}

#[test]
fn who_is_to_be_avoided_cannot_be_an_end_or_on_the_path_that_is_given() {
    let rejects = |choice, avoid: usize, detail: &str| {
        let mut source = machine(0);
        let request = OpenRequest { choice, avoid: vec![peer(avoid)], ..open_request("film") };
        let out = did(&mut source, |m, out| m.open(NOW, RequestId(1), request, &Known, out));
        assert_eq!(out, [rejected(RequestId(1), Reject::NotAllowed, detail.to_owned())]);
    };
    rejects(Choice::Tree, 2, "peer-02 is an end of the channel and cannot be avoided");
    rejects(Choice::Widest, 0, "peer-00 is an end of the channel and cannot be avoided");
    let given = Choice::Given(vec![peer(1), peer(2)]);
    rejects(given, 1, "the path crosses a peer to be avoided");
}
