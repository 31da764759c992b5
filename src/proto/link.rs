//! One link: connected, greeting, up; what both ends agreed on.
//!
//! Knows the neighbour's configuration and the connection's state, decides whether a Hello is
//! acceptable. Does not know sessions or channels: [`super::node`] tells them when a link comes up or
//! goes down. Assumes that messages of an older connection never arrive after a newer `Connected`.

use crate::limits;
use crate::proto::view::LinkState;
use crate::proto::{DataLink, LinkConfig};
use crate::types::{Bandwidth, Incarnation, Label, LinkId, SessionId, Time};
use crate::wire::control::{self, Hello};
use crate::wire::frame;
use crate::wire::heartbeat::HeartbeatKey;

/// What a neighbour did that no honest peer does: its link is closed, nothing else happens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("protocol error: {why}")]
pub struct Misconduct {
    /// The link to close; not always the one a message just came on, since messages may be deferred.
    pub link: LinkId,
    pub why: &'static str,
}

/// What this end puts into a Hello besides what [`Link`] knows.
#[derive(Clone, Debug)]
pub struct Greeting {
    pub incarnation: Incarnation,
    pub heartbeat_label: Label,
    pub heartbeat_key: HeartbeatKey,
    pub ipv6: bool,
}

/// Both ends greeted.
#[derive(Clone, Debug)]
pub struct Established {
    /// Drawn by this end for this connection: what sessions bind their messages to.
    pub incarnation: Incarnation,
    /// The neighbour's view of the usable capacity.
    pub capacity_theirs: Bandwidth,
    /// Largest payload of a frame on this link.
    pub max_payload: u16,
    /// Largest IP packet, and how much of each is IP and UDP header.
    pub packet_bytes: u16,
    pub header_bytes: u16,
    /// Highest control version that both ends speak.
    pub version: u16,
    pub data: DataLink,
}

#[derive(Clone, Debug)]
enum State {
    Down,
    Greeting { since: Time, greeting: Greeting },
    Up(Box<Established>),
}

/// One configured link of this peer.
#[derive(Clone, Debug)]
pub struct Link {
    config: LinkConfig,
    /// What the host allows (decision 2).
    budget: Bandwidth,
    state: State,
}

impl Link {
    /// `budget` is what the host allows any of its links.
    pub fn new(config: LinkConfig, budget: Bandwidth) -> Self {
        Self { config, budget, state: State::Down }
    }

    pub fn config(&self) -> &LinkConfig {
        &self.config
    }

    pub fn state(&self) -> LinkState {
        match self.state {
            State::Down => LinkState::Down,
            State::Greeting { .. } => LinkState::Greeting,
            State::Up(_) => LinkState::Up,
        }
    }

    /// What was agreed, while the link is up.
    pub fn established(&self) -> Option<&Established> {
        match &self.state {
            State::Up(established) => Some(established),
            State::Down | State::Greeting { .. } => None,
        }
    }

    /// This end's view of the usable capacity (decision 2).
    pub fn capacity_ours(&self) -> Bandwidth {
        self.config.capacity.min(self.budget).usable()
    }

    /// The usable capacity that counts: the smaller of both ends; our own view while down.
    pub fn capacity(&self) -> Bandwidth {
        let theirs = self.established().map_or(Bandwidth::MAX, |up| up.capacity_theirs);
        self.capacity_ours().min(theirs)
    }

    /// The operator changed this end's capacity, or what its host allows.
    pub fn set_capacity(&mut self, capacity: Bandwidth, budget: Bandwidth) {
        (self.config.capacity, self.budget) = (capacity, budget);
    }

    /// The neighbour changed its end's capacity; only after its Hello.
    pub fn on_capacity(&mut self, capacity: Bandwidth) -> Result<(), Misconduct> {
        let link = self.config.link;
        match &mut self.state {
            State::Up(up) => {
                up.capacity_theirs = capacity;
                Ok(())
            }
            State::Down | State::Greeting { .. } => {
                Err(Misconduct { link, why: "a message before Hello" })
            }
        }
    }

    /// A new connection: what to say first. The caller took the older one down before.
    pub fn connect(&mut self, now: Time, greeting: Greeting, mine: MyEnd) -> Hello {
        debug_assert!(matches!(self.state, State::Down), "the older connection goes down first");
        let hello = Hello {
            versions: control::VERSIONS,
            name: mine.name,
            incarnation: greeting.incarnation,
            capacity: self.capacity_ours(),
            mtu: self.config.mtu,
            data_port: mine.data_port,
            workers: mine.workers,
            heartbeat_label: greeting.heartbeat_label,
            heartbeat_key: greeting.heartbeat_key.clone(),
            session: mine.session,
        };
        self.state = State::Greeting { since: now, greeting };
        hello
    }

    /// The neighbour's Hello: up, or why not. The text goes to the log of this end.
    pub fn on_hello(&mut self, now: Time, hello: &Hello) -> Result<Greeted, String> {
        let (since, greeting) = match &self.state {
            State::Greeting { since, greeting } => (*since, greeting.clone()),
            State::Up(_) => return Err("protocol error: a second Hello".into()),
            State::Down => return Err("protocol error: Hello on a closed connection".into()),
        };
        let version = common_version(control::VERSIONS, hello.versions)?;
        if hello.name != self.config.peer {
            return Err(format!(
                "the other end calls itself {}, this link is configured for {}",
                hello.name, self.config.peer
            ));
        }
        check_ports(hello)?;
        if hello.mtu < limits::MTU_MIN {
            return Err(format!("protocol error: mtu {} is below {}", hello.mtu, limits::MTU_MIN));
        }
        let data = DataLink {
            incarnation: greeting.incarnation,
            port: hello.data_port,
            workers: hello.workers,
            send_label: hello.heartbeat_label,
            send_key: greeting.heartbeat_key.clone(),
            receive_label: greeting.heartbeat_label,
            receive_key: hello.heartbeat_key.clone(),
        };
        let packet_bytes = self.config.mtu.min(hello.mtu);
        self.state = State::Up(Box::new(Established {
            incarnation: greeting.incarnation,
            capacity_theirs: hello.capacity,
            max_payload: max_payload(packet_bytes, greeting.ipv6),
            packet_bytes,
            header_bytes: header_bytes(greeting.ipv6),
            version,
            data: data.clone(),
        }));
        Ok(Greeted {
            incarnation: greeting.incarnation,
            data,
            hop: now.since(since),
            session: hello.session.clone(),
        })
    }

    /// The connection is gone or given up; says whether the link was up.
    pub fn disconnect(&mut self) -> LinkState {
        let before = self.state();
        self.state = State::Down;
        before
    }

    /// When the neighbour must have greeted.
    pub fn greeting_deadline(&self) -> Option<Time> {
        match self.state {
            State::Greeting { since, .. } => Some(since + limits::HANDSHAKE_MAX),
            State::Down | State::Up(_) => None,
        }
    }
}

/// What a Hello says of this peer.
#[derive(Clone, Debug)]
pub struct MyEnd {
    pub name: crate::types::PeerName,
    pub data_port: u16,
    pub workers: u8,
    /// Highest session adopted.
    pub session: Option<SessionId>,
}

/// A link that just came up.
#[derive(Clone, Debug)]
pub struct Greeted {
    pub incarnation: Incarnation,
    pub data: DataLink,
    /// Time from our Hello to theirs: about one hop.
    pub hop: std::time::Duration,
    /// Highest session the neighbour adopted.
    pub session: Option<SessionId>,
}

/// Highest version in both ranges.
fn common_version(ours: (u16, u16), theirs: (u16, u16)) -> Result<u16, String> {
    let highest = ours.1.min(theirs.1);
    if highest >= ours.0.max(theirs.0) {
        return Ok(highest);
    }
    Err(format!(
        "no common control version: this peer speaks {} to {}, the other end {} to {}; upgrade the older one",
        ours.0, ours.1, theirs.0, theirs.1
    ))
}

fn check_ports(hello: &Hello) -> Result<(), String> {
    let workers = usize::from(hello.workers);
    let last = usize::from(hello.data_port) + workers.saturating_sub(1);
    if workers == 0 || workers > limits::WORKERS_MAX || hello.data_port == 0 || last > 65_535 {
        return Err(format!(
            "protocol error: {workers} workers from UDP port {} upwards",
            hello.data_port
        ));
    }
    Ok(())
}

/// Payload of the largest frame in one packet of `mtu` bytes.
fn max_payload(mtu: u16, ipv6: bool) -> u16 {
    let overhead = u16::try_from(frame::OVERHEAD_BYTES).expect("a header is small");
    mtu.saturating_sub(header_bytes(ipv6) + overhead)
}

fn header_bytes(ipv6: bool) -> u16 {
    if ipv6 { 40 + 8 } else { 20 + 8 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::types::{PeerName, PublicKey, WorkerId};

    const T: Time = Time(1_000);

    fn name(text: &str) -> PeerName {
        PeerName::new(text).unwrap()
    }

    fn link() -> Link {
        let config = LinkConfig {
            link: LinkId(3),
            peer: name("b"),
            key: PublicKey([0; 32]),
            capacity: Bandwidth::from_bps(100_000_000),
            mtu: 1_500,
        };
        Link::new(config, Bandwidth::MAX)
    }

    fn greeting(ipv6: bool) -> Greeting {
        Greeting {
            incarnation: Incarnation(7),
            heartbeat_label: Label::new(WorkerId(0), 9),
            heartbeat_key: HeartbeatKey([1; 32]),
            ipv6,
        }
    }

    fn my_end() -> MyEnd {
        MyEnd { name: name("a"), data_port: 7_000, workers: 2, session: None }
    }

    fn hello() -> Hello {
        Hello {
            versions: control::VERSIONS,
            name: name("b"),
            incarnation: Incarnation(8),
            capacity: Bandwidth::from_bps(50_000_000),
            mtu: 1_400,
            data_port: 7_100,
            workers: 1,
            heartbeat_label: Label::new(WorkerId(0), 10),
            heartbeat_key: HeartbeatKey([2; 32]),
            session: None,
        }
    }

    fn greeting_link(ipv6: bool) -> Link {
        let mut link = link();
        let said = link.connect(T, greeting(ipv6), my_end());
        assert_eq!((said.name.as_str(), said.incarnation), ("a", Incarnation(7)));
        assert_eq!(said.capacity.bps(), 95_000_000);
        link
    }

    #[test]
    fn a1_both_ends_use_the_smaller_capacity_and_mtu() {
        for (ipv6, payload) in [(false, 1_400 - 28 - 64), (true, 1_400 - 48 - 64)] {
            let mut link = greeting_link(ipv6);
            assert_eq!(link.state(), LinkState::Greeting);
            let greeted = link.on_hello(T + Duration::from_millis(4), &hello()).unwrap();
            assert_eq!(greeted.hop, Duration::from_millis(4));
            assert_eq!(greeted.data.send_label, hello().heartbeat_label);
            assert_eq!(greeted.data.receive_key, hello().heartbeat_key);
            assert_eq!(link.capacity().bps(), 50_000_000);
            assert_eq!(link.established().unwrap().max_payload, payload);
            link.on_capacity(Bandwidth::from_bps(10)).unwrap();
            assert_eq!(link.capacity().bps(), 10);
        }
    }

    /// Decision 2: what the host allows bounds each of its links, before the control share.
    #[test]
    fn a17_no_link_carries_more_than_its_host_may() {
        let mut link = link();
        link.set_capacity(Bandwidth::from_bps(100_000_000), Bandwidth::from_bps(40_000_000));
        assert_eq!(link.capacity_ours().bps(), 38_000_000);
        link.set_capacity(Bandwidth::from_bps(20_000_000), Bandwidth::from_bps(40_000_000));
        assert_eq!(link.capacity_ours().bps(), 19_000_000);
    }

    #[test]
    fn a_hello_that_no_peer_of_ours_would_say_closes_the_link() {
        type Spoil = fn(&mut Hello);
        let cases: [(&str, Spoil); 5] = [
            ("speaks 1 to 6, the other end 7 to 9", |h| h.versions = (7, 9)),
            ("calls itself c", |h| h.name = name("c")),
            ("mtu 100", |h| h.mtu = 100),
            ("0 workers", |h| h.workers = 0),
            ("UDP port 0", |h| h.data_port = 0),
        ];
        for (text, spoil) in cases {
            let mut hello = hello();
            spoil(&mut hello);
            let error = greeting_link(false).on_hello(T, &hello).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_second_hello_and_a_message_before_hello_are_protocol_errors() {
        let mut link = greeting_link(false);
        assert!(link.on_capacity(Bandwidth::ZERO).is_err());
        link.on_hello(T, &hello()).unwrap();
        assert!(link.on_hello(T, &hello()).unwrap_err().contains("second Hello"));
    }

    #[test]
    fn version_n_talks_to_n_minus_1() {
        assert_eq!(common_version((1, 2), (1, 1)), Ok(1));
        assert_eq!(common_version((1, 2), (2, 3)), Ok(2));
        assert!(common_version((2, 2), (1, 1)).is_err());
    }
}
