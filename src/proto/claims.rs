//! Who waits for room on the links of this peer, and in which order (A14; decision 5 of the
//! control-plane specification).
//!
//! ```text
//!  link, our direction │ 1st    2nd    3rd        a place: ticket, then channel
//!  ────────────────────┼─────────────────────
//!  to berlin           │ a 8    c 3    b 20       whoever asks later than a place gets nothing here
//!  to oslo             │ b 20
//! ```
//!
//! A request stands in line on every link of its path that was short when it was asked for there, and for
//! what the host may carry in all if that was short, and keeps its place until it is answered. Pure: it
//! is told what is free and sends nothing.

use std::collections::BTreeMap;

use crate::types::{Bandwidth, ChannelId, LinkId, PeerName, Time, Way};

/// The order of arrival: logical time, then who asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub ticket: u64,
    pub channel: ChannelId,
}

/// What a request may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spot {
    /// The direction in which this peer sends.
    Link(LinkId),
    Host(Way),
}

/// A request that waits, as a peer on its path knows it.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Which of the request's paths this is.
    pub number: u32,
    pub place: Place,
    /// Towards the asker; none at the asker itself.
    pub prev: Option<LinkId>,
    /// Towards the destination; none there, or where the way ends.
    pub next: Option<LinkId>,
    /// Forgotten then, unless its asker says again that it waits.
    pub until: Time,
}

/// Who waits for room on one spot.
#[derive(Clone, Debug, Default)]
struct Line {
    places: BTreeMap<Place, Bandwidth>,
    /// The first in line, if it was told that there is room, and there still is.
    told: Option<Place>,
}

/// All claims at one peer.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    claims: BTreeMap<ChannelId, Claim>,
    /// Not empty, each of them.
    lines: BTreeMap<Spot, Line>,
}

impl Claims {
    pub fn get(&self, channel: &ChannelId) -> Option<&Claim> {
        self.claims.get(channel)
    }

    /// All of them, whoever asked.
    pub fn count(&self) -> usize {
        self.claims.len()
    }

    pub fn of_asker(&self, asker: &PeerName) -> usize {
        let first = ChannelId { source: asker.clone(), boot: 0, count: 0 };
        self.claims.range(first..).take_while(|(id, _)| id.source == *asker).count()
    }

    /// A new claim, or news of a known one. Its places on links it no longer uses are given up.
    pub fn note(&mut self, claim: Claim) {
        let uses = |link| [claim.prev, claim.next].contains(&Some(link));
        self.give_up(&claim.place, |spot| matches!(spot, Spot::Link(link) if !uses(link)));
        self.claims.insert(claim.place.channel.clone(), claim);
    }

    fn give_up(&mut self, place: &Place, on: impl Fn(Spot) -> bool) {
        self.lines.retain(|spot, line| {
            if on(*spot) {
                line.places.remove(place);
            }
            !line.places.is_empty()
        });
    }

    /// Takes a place in the line of a spot, for this much.
    pub fn wait(&mut self, spot: Spot, place: &Place, rate: Bandwidth) {
        self.lines.entry(spot).or_default().places.insert(place.clone(), rate);
    }

    /// For how much it stands in line there.
    pub fn waits(&self, spot: Spot, place: &Place) -> Option<Bandwidth> {
        self.lines.get(&spot).and_then(|line| line.places.get(place)).copied()
    }

    /// How many stand before this place in the line of a spot, and the last of them.
    pub fn before(&self, spot: Spot, place: &Place) -> (usize, Option<&ChannelId>) {
        let Some(line) = self.lines.get(&spot) else { return (0, None) };
        let mut before = line.places.range(..place).map(|(place, _)| &place.channel);
        let last = before.next_back();
        (before.count() + usize::from(last.is_some()), last)
    }

    /// The first in line of each spot, where there is room for it and it was not told yet. Who was told
    /// is told again after it was not the first, or there was no room: another link of its path may
    /// keep it from trying for long. `free`: what there is for this channel, with what it holds itself;
    /// without that it would be told again by its own attempt that failed further on, and again.
    pub fn admitted(&mut self, free: impl Fn(Spot, &ChannelId) -> Bandwidth) -> Vec<ChannelId> {
        let mut admitted = Vec::new();
        for (spot, line) in &mut self.lines {
            let (first, rate) = line.places.iter().next().expect("lines are not empty");
            let first = Some(first).filter(|first| *rate <= free(*spot, &first.channel));
            if line.told.as_ref() != first {
                line.told = first.cloned();
                admitted.extend(first.map(|place| place.channel.clone()));
            }
        }
        admitted
    }

    /// The request has its answer, or nobody waits for it any more.
    pub fn remove(&mut self, channel: &ChannelId) -> Option<Claim> {
        let claim = self.claims.remove(channel)?;
        self.give_up(&claim.place, |_| true);
        Some(claim)
    }

    /// Claims that came over a link, and those that go on over it.
    pub fn over(&self, link: LinkId) -> (Vec<ChannelId>, Vec<ChannelId>) {
        let of = |side: fn(&Claim) -> Option<LinkId>| {
            let there = self.claims.values().filter(|claim| side(claim) == Some(link));
            there.map(|claim| claim.place.channel.clone()).collect()
        };
        (of(|claim| claim.prev), of(|claim| claim.next))
    }

    /// The way on is gone: it waits for the asker to say where to go.
    pub fn cut(&mut self, channel: &ChannelId) {
        let Some(claim) = self.claims.get_mut(channel) else { return };
        claim.next = None;
        let claim = claim.clone();
        self.note(claim);
    }

    pub fn expired(&self, now: Time) -> Vec<ChannelId> {
        let late = self.claims.values().filter(|claim| claim.until <= now);
        late.map(|claim| claim.place.channel.clone()).collect()
    }

    pub fn next_until(&self) -> Option<Time> {
        self.claims.values().map(|claim| claim.until).min()
    }

    /// Panics if a place belongs to no claim, or to a link that the claim does not use.
    pub fn invariants(&self) {
        for (spot, line) in &self.lines {
            assert!(!line.places.is_empty(), "a14: an empty line");
            for place in line.places.keys() {
                let claim = self.claims.get(&place.channel).expect("a14: a place without a claim");
                let uses = |link| [claim.prev, claim.next].contains(&Some(link));
                let there = !matches!(spot, Spot::Link(link) if !uses(*link));
                assert!(
                    there && claim.place == *place,
                    "a14: {place:?} waits at {spot:?}: {claim:?}"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(ticket: u64, count: u64) -> Place {
        let source = PeerName::new("a").expect("a name");
        Place { ticket, channel: ChannelId { source, boot: 1, count } }
    }

    fn claim(ticket: u64, count: u64, prev: Option<u16>, next: Option<u16>) -> Claim {
        let (prev, next) = (prev.map(LinkId), next.map(LinkId));
        Claim { number: 1, place: place(ticket, count), prev, next, until: Time(100) }
    }

    fn bps(rate: u64) -> Bandwidth {
        Bandwidth::from_bps(rate)
    }

    const LINK: Spot = Spot::Link(LinkId(1));

    /// Requests 1 (8 bit/s), 2 (3) and 3 (20), in the order of their tickets.
    fn line() -> Claims {
        let mut claims = Claims::default();
        for (ticket, count, rate) in [(30, 3, 20), (10, 1, 8), (20, 2, 3)] {
            claims.note(claim(ticket, count, Some(0), Some(1)));
            claims.wait(LINK, &place(ticket, count), bps(rate));
        }
        claims.invariants();
        claims
    }

    #[test]
    fn a14_tickets_make_the_order_not_the_time_of_the_message() {
        let claims = line();
        assert_eq!(claims.before(LINK, &place(10, 1)), (0, None));
        assert_eq!(claims.before(LINK, &place(20, 2)), (1, Some(&place(10, 1).channel)));
        assert_eq!(claims.before(LINK, &place(25, 9)), (2, Some(&place(20, 2).channel)));
        assert_eq!(claims.before(Spot::Link(LinkId(0)), &place(25, 9)), (0, None));
    }

    #[test]
    fn a14_only_the_first_in_line_is_told_and_only_once() {
        let mut claims = line();
        assert_eq!(claims.admitted(|_, _| bps(7)), [], "the second would fit, and is not first");
        assert_eq!(claims.admitted(|_, _| bps(8)), [place(10, 1).channel]);
        assert_eq!(claims.admitted(|_, _| bps(9)), []);
        claims.note(claim(10, 1, Some(0), Some(1)));
        assert_eq!(claims.admitted(|_, _| bps(9)), [], "it says that it waits for another link");
        assert_eq!(claims.admitted(|_, _| bps(7)), [], "somebody took the room");
        assert_eq!(claims.admitted(|_, _| bps(9)), [place(10, 1).channel]);
        assert!(claims.remove(&place(10, 1).channel).is_some());
        assert_eq!(claims.admitted(|_, _| bps(9)), [place(20, 2).channel]);
        claims.invariants();
    }

    #[test]
    fn a_claim_on_another_path_gives_its_old_places_up() {
        let mut claims = line();
        claims.note(claim(10, 1, Some(0), Some(2)));
        claims.invariants();
        assert_eq!(claims.waits(LINK, &place(10, 1)), None);
        claims.cut(&place(20, 2).channel);
        claims.invariants();
        assert_eq!(claims.before(LINK, &place(99, 9)), (1, Some(&place(30, 3).channel)));
        assert_eq!(claims.over(LinkId(0)).0.len(), 3);
    }

    #[test]
    fn a14_a_place_for_what_the_host_carries_outlives_the_links() {
        let mut claims = line();
        let egress = Spot::Host(Way::Egress);
        claims.wait(egress, &place(10, 1), bps(8));
        claims.cut(&place(10, 1).channel);
        claims.invariants();
        assert_eq!(claims.waits(egress, &place(10, 1)), Some(bps(8)));
        claims.remove(&place(10, 1).channel);
        assert_eq!(claims.waits(egress, &place(10, 1)), None);
    }

    #[test]
    fn nobody_waits_longer_than_its_asker() {
        let claims = line();
        assert_eq!(claims.next_until(), Some(Time(100)));
        assert_eq!(claims.expired(Time(99)), []);
        assert_eq!(claims.expired(Time(100)).len(), 3);
        assert_eq!(claims.of_asker(&PeerName::new("a").expect("a name")), 3);
        assert_eq!(claims.of_asker(&PeerName::new("b").expect("a name")), 0);
    }
}
