//! The search against all simple paths, one by one.

use proptest::prelude::*;

use super::*;

/// A link of a small graph: two peers, free from the lower to the higher and back, capacity, payload.
type Spec = (usize, usize, u64, u64, u64, u16);

fn name(at: usize) -> PeerName {
    PeerName::new(&format!("p{at:03}")).unwrap()
}

fn bps(rate: u64) -> Bandwidth {
    Bandwidth::from_bps(rate)
}

/// Of several links between the same two peers the first counts.
fn picture(peers: usize, leaving: &[usize], links: &[Spec]) -> Picture {
    let mut ends = std::collections::BTreeMap::new();
    for (a, b, up, down, capacity, payload) in links.iter().rev() {
        let (up, down) = (*(up.min(capacity)), *(down.min(capacity)));
        ends.insert((*a, *b), (up, *capacity, *payload));
        ends.insert((*b, *a), (down, *capacity, *payload));
    }
    let keys: Vec<(usize, usize)> = ends.keys().copied().collect();
    let mut picture = Picture {
        names: (0..peers).map(name).collect(),
        relays: (0..peers).map(|at| !leaving.contains(&at)).collect(),
        hosts: vec![[u64::MAX; 2]; peers],
        first: vec![0; peers + 1],
        edges: Vec::new(),
    };
    for ((from, to), (free, capacity, max_payload)) in ends {
        let back = keys.binary_search(&(to, from)).unwrap();
        let (to, back) = (u32::try_from(to).unwrap(), u32::try_from(back).unwrap());
        picture.edges.push(Edge { to, back, capacity, free, max_payload });
        picture.first[from + 1] += 1;
    }
    for at in 1..=peers {
        picture.first[at] += picture.first[at - 1];
    }
    picture
}

/// Owned parts of a [`Wanted`].
#[derive(Clone, Debug, Default)]
struct Question {
    to: usize,
    rate: u64,
    rate_back: u64,
    max_payload: u16,
    own: Vec<usize>,
    without_links: Vec<(usize, usize)>,
    without_relays: Vec<usize>,
}

impl Question {
    fn ask(&self, picture: &Picture, from: usize) -> Option<Vec<usize>> {
        let own: Vec<PeerName> = self.own.iter().map(|at| name(*at)).collect();
        let links = self.without_links.iter().map(|(one, other)| (name(*one), name(*other)));
        let links: Vec<(PeerName, PeerName)> = links.collect();
        let relays: Vec<PeerName> = self.without_relays.iter().map(|at| name(*at)).collect();
        let wanted = Wanted {
            to: &name(self.to),
            rate: bps(self.rate),
            rate_back: bps(self.rate_back),
            max_payload: self.max_payload,
            own: &own,
            idle: false,
            without_links: &links,
            without_relays: &relays,
        };
        let path = picture.widest(&name(from), &[], &wanted)?;
        Some(path.iter().map(|peer| peer.as_str()[1..].parse().unwrap()).collect())
    }

    /// The same by trying every simple path.
    fn brute(&self, links: &[Spec], leaving: &[usize], from: usize) -> Option<Vec<usize>> {
        let mut best: Option<Score> = None;
        self.extend(links, leaving, &mut vec![from], (u64::MAX, u16::MAX), &mut best);
        best.map(|score| score.3)
    }

    fn extend(
        &self,
        links: &[Spec],
        leaving: &[usize],
        path: &mut Vec<usize>,
        (width, payload): (u64, u16),
        best: &mut Option<Score>,
    ) {
        let at = *path.last().unwrap();
        if at == self.to {
            if path.len() > 1 {
                let fits = payload >= self.max_payload;
                let score = (fits, width, std::cmp::Reverse(path.len()), path.clone());
                let better = best.as_ref().is_none_or(|best| {
                    (score.0, score.1, score.2) > (best.0, best.1, best.2)
                        || ((score.0, score.1, score.2) == (best.0, best.1, best.2)
                            && score.3 < best.3)
                });
                if better {
                    *best = Some(score);
                }
            }
            return;
        }
        if path.len() > 1 && (leaving.contains(&at) || self.without_relays.contains(&at)) {
            return;
        }
        let mut seen = Vec::new();
        for (a, b, up, down, capacity, max_payload) in links {
            let (to, out, back) = match at {
                at if at == *a => (*b, *up, *down),
                at if at == *b => (*a, *down, *up),
                _ => continue,
            };
            if path.contains(&to) || seen.contains(&to) {
                continue;
            }
            seen.push(to);
            let barred = |pair: &(usize, usize)| *pair == (at, to) || *pair == (to, at);
            if self.without_links.iter().any(barred) {
                continue;
            }
            let mut free = [out.min(*capacity), back.min(*capacity)];
            for hop in self.own.windows(2) {
                if hop == [at, to] {
                    free = [free[0] + self.rate, free[1] + self.rate_back];
                } else if hop == [to, at] {
                    free = [free[0] + self.rate_back, free[1] + self.rate];
                }
            }
            let free = free.map(|free| free.min(*capacity));
            if free[0] >= self.rate && free[1] >= self.rate_back {
                path.push(to);
                let so_far = (width.min(free[0]), payload.min(*max_payload));
                self.extend(links, leaving, path, so_far, best);
                path.pop();
            }
        }
    }
}

/// All links carry the payload, width, fewest hops, the path.
type Score = (bool, u64, std::cmp::Reverse<usize>, Vec<usize>);

fn specs(peers: usize) -> impl Strategy<Value = Vec<Spec>> {
    let link = (0..peers, 0..peers, 0..8_u64, 0..8_u64, 1..8_u64, 0..3_u16);
    let link = link.prop_filter_map("a link with itself", |(a, b, up, down, capacity, payload)| {
        (a < b).then_some((a, b, up, down, capacity, payload * 500 + 400))
    });
    proptest::collection::vec(link, 0..14)
}

fn questions(peers: usize) -> impl Strategy<Value = Question> {
    let peer = move || 0..peers;
    let some = move || proptest::collection::vec(0..peers, 0..2);
    let pairs = proptest::collection::vec((peer(), peer()), 0..3);
    let own = Just((0..peers).collect::<Vec<usize>>()).prop_shuffle();
    let parts = (peer(), 0..6_u64, 0..3_u64, 0..3_u16, own, 0..peers, pairs, some());
    parts.prop_map(|(to, rate, rate_back, payload, mut own, keep, without_links, relays)| {
        own.truncate(keep);
        Question {
            to,
            rate,
            rate_back,
            max_payload: payload * 500 + 400,
            own,
            without_links,
            without_relays: relays,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a11_the_widest_path_is_that_of_trying_all_of_them(
        links in specs(6),
        question in questions(6),
        from in 0..6_usize,
        leaving in proptest::collection::vec(0..6_usize, 0..2),
    ) {
        let picture = picture(6, &leaving, &links);
        let brute = question.brute(&links, &leaving, from);
        prop_assert_eq!(question.ask(&picture, from), brute);
    }
}

fn link(a: usize, b: usize, free: u64) -> Spec {
    (a, b, free, free, 100, 1_400)
}

#[test]
fn a_path_has_at_most_64_peers_even_if_a_longer_one_is_wider() {
    let end = limits::PATH_PEERS_MAX;
    let mut links: Vec<Spec> = (0..end).map(|at| link(at, at + 1, 50)).collect();
    let question = Question { to: end, rate: 10, ..Question::default() };
    assert_eq!(question.ask(&picture(end + 1, &[], &links), 0), None, "65 peers");
    // Two short cuts: the wider one is taken.
    links.extend([link(0, 5, 20), link(0, 2, 30)]);
    let path = question.ask(&picture(end + 1, &[], &links), 0).unwrap();
    assert_eq!((path.len(), &path[..2]), (end, &[0, 2][..]));
}

#[test]
fn a_peer_that_leaves_does_not_relay_but_may_be_the_end_and_the_start() {
    let links = [link(0, 1, 50), link(1, 2, 50)];
    let to = |to| Question { to, rate: 10, ..Question::default() };
    assert_eq!(to(2).ask(&picture(3, &[1], &links), 0), None);
    assert_eq!(to(1).ask(&picture(3, &[1], &links), 0), Some(vec![0, 1]));
    assert_eq!(to(2).ask(&picture(3, &[1], &links), 1), Some(vec![1, 2]));
}

#[test]
fn a12_a_host_whose_links_are_full_together_relays_nothing_more() {
    // 0 - 1 - 2 is wider than 0 - 3 - 2 but for what the host of 1 may send: 30, 15 of which it does.
    let around = [(0, 3, 50, 50, 50, 1_400), (2, 3, 50, 50, 50, 1_400)];
    let links = [(0, 1, 90, 90, 100, 1_400), (1, 2, 95, 100, 100, 1_400)];
    let mut picture = picture(4, &[], &[links, around].concat());
    picture.hosts[1] = [30, u64::MAX];
    let widest = |rate, rate_back| {
        Question { to: 2, rate, rate_back, ..Question::default() }.ask(&picture, 0)
    };
    assert_eq!(widest(10, 1), Some(vec![0, 3, 2]), "50 instead of 15");
    let without = |rate, rate_back| {
        let without_relays = vec![3];
        Question { to: 2, rate, rate_back, without_relays, ..Question::default() }.ask(&picture, 0)
    };
    assert_eq!(without(14, 1), Some(vec![0, 1, 2]));
    assert_eq!(without(14, 2), None, "it sends both ways");
    let narrow = picture.narrowest(&[], &[name(0), name(1), name(2)]).unwrap();
    assert_eq!((narrow.free, narrow.by_free), (bps(15), (name(1), name(2))));
    assert_eq!(narrow.capacity, bps(100));
    // What its own channel has there is not short.
    let (own, without_relays) = (vec![0, 1, 2], vec![3]);
    let again = Question { to: 2, rate: 20, own, without_relays, ..Question::default() };
    assert_eq!(again.ask(&picture, 0), Some(vec![0, 1, 2]));
}

#[test]
fn what_the_own_ledger_says_counts_more_than_what_was_told() {
    let picture = picture(3, &[], &[link(0, 1, 50), link(1, 2, 50), link(0, 2, 40)]);
    let wanted = |near: &[(PeerName, Bandwidth)]| {
        let wanted = Wanted {
            to: &name(2),
            rate: bps(10),
            rate_back: bps(0),
            max_payload: 0,
            own: &[],
            idle: false,
            without_links: &[],
            without_relays: &[],
        };
        picture.widest(&name(0), near, &wanted).map(|path| path.len())
    };
    assert_eq!(wanted(&[]), Some(3));
    assert_eq!(wanted(&[(name(1), bps(20))]), Some(2));
}
