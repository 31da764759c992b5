//! Who may begin a handshake: how many strangers at once and a second, from one network and in all.
//!
//! Asked when a connection was accepted, before anything is read or computed. A network is a /24 or a /56:
//! whoever has one address there can have all of them. The addresses where neighbours are configured or were
//! met have rooms of their own: whatever strangers do beside them, neighbours come in, each as often as
//! there are neighbours at that address. All that is remembered is bounded; what is remembered of a network
//! is forgotten when it says nothing any more.
//!
//! Pure: times come with the calls. Does not close connections.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::limits;

/// Why a connection was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Refused {
    /// Too many handshakes at the same time, of its network or of all strangers.
    AtOnce,
    /// Too many a second, likewise.
    Rate,
}

impl Refused {
    /// The name in JSON and metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::AtOnce => "refused_at_once",
            Self::Rate => "refused_rate",
        }
    }
}

/// A handshake that was let in, to be given back with [`Door::done`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guest {
    network: IpAddr,
    known: bool,
}

/// A bucket of handshakes, and how many are open.
#[derive(Clone, Copy, Debug)]
struct Room {
    /// Thousandths of a handshake.
    tokens: u64,
    at: Instant,
    open: usize,
}

#[derive(Debug)]
pub(crate) struct Door {
    /// Networks of strangers: at most [`limits::HANDSHAKE_NETWORKS_MAX`].
    strangers: BTreeMap<IpAddr, Room>,
    all_strangers: Room,
    /// By address, as many as there are links; and how many neighbours are at each.
    known: BTreeMap<IpAddr, (Room, u32)>,
    swept: Instant,
}

impl Room {
    fn full(tokens: u32, now: Instant) -> Self {
        Self { tokens: u64::from(tokens) * 1_000, at: now, open: 0 }
    }

    /// `rate` a second, as many as a second's at once.
    fn refill(&mut self, rate: u32, now: Instant) {
        let ms = u64::try_from(now.saturating_duration_since(self.at).as_millis());
        let more = ms.unwrap_or(u64::MAX).saturating_mul(u64::from(rate));
        if more > 0 {
            self.tokens = self.tokens.saturating_add(more).min(u64::from(rate) * 1_000);
            self.at = now;
        }
    }

    fn has_token(&self) -> bool {
        self.tokens >= 1_000
    }

    fn enter(&mut self) {
        self.tokens -= 1_000;
        self.open += 1;
    }

    fn is_forgettable(&self, now: Instant) -> bool {
        // By then it is full again, as a new one.
        self.open == 0 && now.saturating_duration_since(self.at) >= Duration::from_secs(1)
    }
}

impl Door {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            strangers: BTreeMap::new(),
            all_strangers: Room::full(limits::HANDSHAKES_PER_SECOND, now),
            known: BTreeMap::new(),
            swept: now,
        }
    }

    /// The addresses of neighbours, each as often as there are neighbours.
    pub(crate) fn know(&mut self, addresses: impl IntoIterator<Item = IpAddr>, now: Instant) {
        let mut known = BTreeMap::<IpAddr, (Room, u32)>::new();
        for address in addresses {
            let address = address.to_canonical();
            let room = || {
                let before = self.known.get(&address).map(|(room, _)| *room);
                before.unwrap_or_else(|| Room::full(0, now))
            };
            known.entry(address).or_insert_with(|| (room(), 0)).1 += 1;
        }
        for (address, (room, neighbours)) in &mut known {
            if !self.known.contains_key(address) {
                *room = Room::full(known_rate(*neighbours), now);
            }
        }
        self.known = known;
    }

    /// Somebody connected from `address`.
    pub(crate) fn knock(&mut self, address: IpAddr, now: Instant) -> Result<Guest, Refused> {
        let address = address.to_canonical();
        if let Some((room, neighbours)) = self.known.get_mut(&address) {
            room.refill(known_rate(*neighbours), now);
            let most = *neighbours as usize * limits::HALF_OPEN_PER_NEIGHBOUR_MAX;
            check(room, most)?;
            room.enter();
            return Ok(Guest { network: address, known: true });
        }
        self.all_strangers.refill(limits::HANDSHAKES_PER_SECOND, now);
        check(&self.all_strangers, limits::HALF_OPEN_MAX)?;
        let network = network(address);
        self.make_room(network, now)?;
        let fresh = || Room::full(limits::HANDSHAKES_PER_NETWORK, now);
        let room = self.strangers.entry(network).or_insert_with(fresh);
        room.refill(limits::HANDSHAKES_PER_NETWORK, now);
        check(room, limits::HALF_OPEN_PER_NETWORK_MAX)?;
        room.enter();
        self.all_strangers.enter();
        Ok(Guest { network, known: false })
    }

    /// Its handshake is over, whatever came of it.
    pub(crate) fn done(&mut self, guest: Guest) {
        let room = if guest.known {
            self.known.get_mut(&guest.network).map(|(room, _)| room)
        } else {
            self.all_strangers.open = self.all_strangers.open.saturating_sub(1);
            self.strangers.get_mut(&guest.network)
        };
        // An address that is known no more has taken its room with it.
        if let Some(room) = room {
            room.open = room.open.saturating_sub(1);
        }
    }

    /// A place for one more network, if there are as many as may be.
    fn make_room(&mut self, network: IpAddr, now: Instant) -> Result<(), Refused> {
        let full = self.strangers.len() >= limits::HANDSHAKE_NETWORKS_MAX;
        if !full || self.strangers.contains_key(&network) {
            return Ok(());
        }
        // Looking at all of them is not for everybody who knocks.
        if now.saturating_duration_since(self.swept) >= Duration::from_millis(100) {
            self.swept = now;
            self.strangers.retain(|_, room| !room.is_forgettable(now));
        }
        if self.strangers.len() < limits::HANDSHAKE_NETWORKS_MAX {
            Ok(())
        } else {
            Err(Refused::Rate)
        }
    }
}

fn check(room: &Room, open_max: usize) -> Result<(), Refused> {
    if room.open >= open_max {
        Err(Refused::AtOnce)
    } else if !room.has_token() {
        Err(Refused::Rate)
    } else {
        Ok(())
    }
}

fn known_rate(neighbours: u32) -> u32 {
    neighbours.saturating_mul(limits::HANDSHAKES_PER_NETWORK)
}

/// What one customer of a provider has: a /24, a /56.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            IpAddr::from([a, b, c, 0])
        }
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << (128 - 56))).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[expect(clippy::disallowed_methods, reason = "an origin for times that the test makes")]
    fn start() -> Instant {
        Instant::now()
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// How many of so many handshakes, each over at once, begin.
    fn begun(door: &mut Door, from: &str, knocks: usize, now: Instant) -> usize {
        let mut knock = || door.knock(ip(from), now).map(|guest| door.done(guest)).is_ok();
        (0..knocks).filter(|_| knock()).count()
    }

    #[test]
    fn one_network_begins_so_many_a_second_and_the_others_notice_nothing() {
        let now = start();
        let mut door = Door::new(now);
        let most = limits::HANDSHAKES_PER_NETWORK as usize;
        assert_eq!(begun(&mut door, "203.0.113.1", 1_000, now), most);
        assert_eq!(begun(&mut door, "203.0.113.200", 1_000, now), 0, "the same network");
        assert_eq!(begun(&mut door, "::ffff:203.0.113.9", 1_000, now), 0, "in other clothes");
        assert_eq!(begun(&mut door, "203.0.114.1", 5, now), 5);
        assert_eq!(begun(&mut door, "203.0.113.1", 1_000, now + ms(500)), most / 2);
        assert_eq!(begun(&mut door, "203.0.113.1", 1_000, now + ms(60_500)), most, "no more saved");
        assert_eq!(begun(&mut door, "2001:db8:0:100::1", 1_000, now), most);
        assert_eq!(begun(&mut door, "2001:db8:0:1ff::1", 1_000, now), 0, "the same /56");
        assert_eq!(begun(&mut door, "2001:db8:0:200::1", 1, now), 1);
    }

    #[test]
    fn who_says_nothing_takes_the_places_of_his_own_network_only() {
        let now = start();
        let mut door = Door::new(now);
        let guests: Vec<_> = (0..limits::HALF_OPEN_PER_NETWORK_MAX)
            .map(|_| door.knock(ip("203.0.113.1"), now).expect("a place"))
            .collect();
        assert_eq!(door.knock(ip("203.0.113.2"), now), Err(Refused::AtOnce));
        assert!(door.knock(ip("203.0.114.2"), now).is_ok());
        door.done(guests[0]);
        assert!(door.knock(ip("203.0.113.2"), now).is_ok());
    }

    #[test]
    fn a_neighbour_behind_the_network_of_strangers_comes_in() {
        let now = start();
        let mut door = Door::new(now);
        door.know([ip("203.0.113.7"), ip("::ffff:203.0.113.7")], now);
        begun(&mut door, "203.0.113.1", 1_000, now);
        let most = 2 * limits::HANDSHAKES_PER_NETWORK as usize;
        assert_eq!(begun(&mut door, "203.0.113.7", 1_000, now), most, "two neighbours");
        // A reload is no way to a full bucket.
        door.know([ip("203.0.113.7")], now);
        assert_eq!(begun(&mut door, "203.0.113.7", 1_000, now), 0);
        door.know([], now);
        assert_eq!(begun(&mut door, "203.0.113.7", 1_000, now), 0, "one of the network again");
    }

    #[test]
    fn sixty_peers_of_one_host_dial_at_once() {
        let now = start();
        let mut door = Door::new(now);
        door.know((0..59).map(|_| ip("127.0.0.1")), now);
        for _ in 0..59 {
            door.knock(ip("127.0.0.1"), now).expect("all are expected");
        }
    }

    #[test]
    fn many_networks_together_are_bounded_in_number_time_and_memory() {
        let now = start();
        let mut door = Door::new(now);
        door.know([ip("10.0.0.1")], now);
        let from = |number: u32| {
            let [a, b, c, d] = number.to_be_bytes();
            IpAddr::from([0x20, 1, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
        };
        let (mut begun, mut guests) = (0, Vec::new());
        for number in 0..100_000 {
            // 10,000 a second.
            let now = now + Duration::from_micros(u64::from(number) * 100);
            let guest = door.knock(from(number << 8), now);
            begun += usize::from(guest.is_ok());
            guests.extend(guest.ok());
            if guests.len() > 100 {
                door.done(guests.remove(0));
            }
            assert!(door.strangers.len() <= limits::HANDSHAKE_NETWORKS_MAX);
        }
        let seconds = 10 + 1;
        assert!(begun <= seconds * limits::HANDSHAKES_PER_SECOND as usize, "{begun}");
        assert!(begun > seconds * limits::HANDSHAKES_PER_SECOND as usize / 2, "{begun}");
        assert!(door.knock(ip("10.0.0.1"), now + ms(10_000)).is_ok(), "a neighbour");
        guests.drain(..).for_each(|guest| door.done(guest));
        let held: Vec<_> = (0..300)
            .filter_map(|number| door.knock(from(number << 8), now + ms(60_000)).ok())
            .collect();
        assert_eq!(held.len(), limits::HALF_OPEN_MAX);
        assert!(door.knock(ip("10.0.0.1"), now + ms(60_000)).is_ok(), "a neighbour");
    }
}
