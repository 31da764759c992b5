//! A node between an honest neighbour and one that says whatever the input says: `friend` - `me` - `liar`.
//!
//! The liar is authenticated, has greeted, hears all that it is told, and even knows the ids of a channel
//! that does not cross it. It must harm nothing but itself: no panic, no broken invariant, a bounded number
//! of actions for each message, and the channel from `me` to `friend` is as before.

use std::collections::VecDeque;
use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use spanway::proto::node::Node;
use spanway::proto::start::Signed;
use spanway::proto::{
    Action, Answer, Budgets, Choice, Input, LinkConfig, NodeConfig, OpenRequest, Recovery, Request,
    ServiceConfig, ServiceKind,
};
use spanway::types::{
    Bandwidth, ChannelId, Incarnation, LinkId, PeerName, PublicKey, RequestId, ServiceName,
    SessionId, Time, TxId,
};
use spanway::wire::control::{Hello, Manner, Message, Release, ReleaseCause, Reserve};
use spanway::wire::facts::{Fact, Gossip, LinkFact, Told};
use spanway::wire::proof::{Proof, reserve_statement};

use super::bytes::Choices;

const FRIEND: LinkId = LinkId(0);
const LIAR: LinkId = LinkId(1);
const RATE: Bandwidth = Bandwidth::from_bps(1_000_000);
const CAPACITY: Bandwidth = Bandwidth::from_bps(100_000_000);
/// Actions that one message may cause: a burst of gossip, or a channel's end.
const ACTIONS_MAX: usize = 2_000;
/// What the liar remembers of what it was told.
const HEARD_MAX: usize = 64;

fn name(text: &str) -> PeerName {
    PeerName::new(text).expect("a name")
}

fn service() -> ServiceName {
    ServiceName::new("video").expect("a name")
}

fn identity(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn key(number: u8) -> PublicKey {
    PublicKey(identity(number).verifying_key().to_bytes())
}

fn node(number: u8, text: &str, links: &[(LinkId, &str, u8)]) -> Node {
    let link = |(link, peer, number): &(LinkId, &str, u8)| LinkConfig {
        link: *link,
        peer: name(peer),
        key: key(*number),
        capacity: CAPACITY,
        mtu: 1_500,
        hop_tag: false,
    };
    let config = NodeConfig {
        name: name(text),
        links: links.iter().map(link).collect(),
        services: vec![ServiceConfig { name: service(), kind: ServiceKind::Deliver, plain: true }],
        data_port: 7_000,
        workers: 1,
        recovery: Recovery::default(),
        budgets: Budgets::default(),
        allow: Vec::new(),
    };
    Node::new(config, identity(number), [number; 32], Time::default())
}

struct World {
    now: Time,
    me: Node,
    friend: Node,
    /// Between the two honest ones: true is from `me`.
    wire: VecDeque<(bool, Message)>,
    /// What the liar was told.
    heard: VecDeque<Message>,
    greeting: Option<Hello>,
    open: Option<ChannelId>,
}

impl World {
    fn new() -> Self {
        let me = node(1, "me", &[(FRIEND, "friend", 2), (LIAR, "liar", 3)]);
        let friend = node(2, "friend", &[(FRIEND, "me", 1)]);
        let mut world = Self {
            now: Time::default(),
            me,
            friend,
            wire: VecDeque::new(),
            heard: VecDeque::new(),
            greeting: None,
            open: None,
        };
        // Both ends are connected before either hears the other.
        let (mut mine, connected) = (Vec::new(), Input::Connected { link: FRIEND, ipv6: false });
        world.me.handle(world.now, connected.clone(), &mut mine);
        world.of_me(mine);
        world.tell_friend(connected);
        world.greet();
        world.pass(Duration::from_secs(5));
        let open = OpenRequest {
            peer: name("friend"),
            service: service(),
            name: None,
            rate: RATE,
            rate_back: RATE,
            choice: Choice::default(),
            avoid: Vec::new(),
            deadline: Duration::from_secs(30),
            wait: false,
            protect: false,
            plain: true,
        };
        world.tell_me(Input::Request { id: RequestId(1), request: Request::Open(open) });
        world.pass(Duration::from_secs(1));
        assert!(world.open.is_some(), "the honest channel is open");
        world
    }

    /// The liar connects and greets as an honest peer would.
    fn greet(&mut self) {
        self.tell_me(Input::Connected { link: LIAR, ipv6: false });
        if let Some(hello) = self.greeting.clone() {
            let hello = Hello {
                name: name("liar"),
                incarnation: Incarnation(hello.incarnation.0 ^ 1),
                ..hello
            };
            self.say(Message::Hello(hello));
        }
    }

    fn say(&mut self, message: Message) {
        self.tell_me(Input::Message { link: LIAR, message });
    }

    fn tell_me(&mut self, input: Input) {
        let mut out = Vec::new();
        self.me.handle(self.now, input, &mut out);
        self.me.invariants();
        assert!(out.len() <= ACTIONS_MAX, "{} actions", out.len());
        self.of_me(out);
        self.settle();
    }

    fn tell_friend(&mut self, input: Input) {
        let mut out = Vec::new();
        self.friend.handle(self.now, input, &mut out);
        self.of_friend(out);
        self.settle();
    }

    fn of_me(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send { link: FRIEND, message } => self.wire.push_back((true, message)),
                Action::Send { message, .. } => {
                    if let Message::Hello(hello) = &message {
                        self.greeting = Some(hello.clone());
                    }
                    self.heard.push_back(message);
                    self.heard.truncate(HEARD_MAX);
                }
                Action::OpenEnd { channel, .. } => {
                    let input = Input::EndOpened { channel, result: Ok(None) };
                    let mut out = Vec::new();
                    self.me.handle(self.now, input, &mut out);
                    self.of_me(out);
                }
                Action::Answer { answer: Answer::Open(opened), .. } => {
                    self.open = Some(opened.channel)
                }
                Action::CloseLink { link, why } => {
                    assert!(link == LIAR, "the honest link is closed: {why}");
                }
                _ => {}
            }
        }
    }

    fn of_friend(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send { message, .. } => self.wire.push_back((false, message)),
                Action::OpenEnd { channel, .. } => {
                    let input = Input::EndOpened { channel, result: Ok(None) };
                    let mut out = Vec::new();
                    self.friend.handle(self.now, input, &mut out);
                    self.of_friend(out);
                }
                Action::CloseLink { why, .. } => panic!("the honest link is closed: {why}"),
                _ => {}
            }
        }
    }

    /// The honest two talk until they have nothing to say.
    fn settle(&mut self) {
        for _ in 0..10 * ACTIONS_MAX {
            let Some((from_me, message)) = self.wire.pop_front() else { return };
            let input = Input::Message { link: FRIEND, message };
            let mut out = Vec::new();
            if from_me {
                self.friend.handle(self.now, input, &mut out);
                self.of_friend(out);
            } else {
                self.me.handle(self.now, input, &mut out);
                self.me.invariants();
                self.of_me(out);
            }
        }
        panic!("the honest two do not stop talking");
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let due = [self.me.poll_timeout(), self.friend.poll_timeout()];
            let next = due.iter().flatten().map(|(at, _)| *at).min();
            let Some(next) = next.filter(|next| *next <= until) else { break };
            self.now = self.now.max(next);
            let mut out = Vec::new();
            self.me.handle_timeout(self.now, &mut out);
            self.me.invariants();
            self.of_me(out);
            let mut out = Vec::new();
            self.friend.handle_timeout(self.now, &mut out);
            self.of_friend(out);
            self.settle();
        }
        self.now = until;
    }

    fn channel(&self) -> ChannelId {
        self.open.clone().expect("opened at the start")
    }
}

/// Of the honest channel, of one that crosses `me`, or of one that the liar makes up.
fn tx(choices: &mut Choices<'_>, world: &World) -> TxId {
    let channel = match choices.below(3) {
        0 => world.channel(),
        1 => ChannelId { source: name("liar"), boot: 1, count: choices.below(3) as u64 },
        _ => ChannelId { source: name("friend"), boot: choices.u64(), count: 1 },
    };
    TxId { channel, attempt: choices.below(3) as u32 }
}

fn reserve(choices: &mut Choices<'_>, world: &World) -> Message {
    let peers = ["liar", "me", "friend", "nobody"];
    let path = (0..choices.below(6)).map(|_| name(peers[choices.below(peers.len())])).collect();
    let straight = vec![name("liar"), name("me"), name("friend")];
    let mut reserve = Reserve {
        tx: tx(choices, world),
        service: service(),
        name: service(),
        path: if choices.below(2) == 0 { straight } else { path },
        position: choices.below(4) as u8,
        rate: Bandwidth::from_bps(choices.u64() >> choices.below(64)),
        rate_back: Bandwidth::from_bps(choices.u64() >> choices.below(64)),
        ticket: choices.u64(),
        deadline_ms: choices.u16().into(),
        max_payload: choices.u16(),
        back_label: spanway::types::Label(choices.u64()),
        back_port: choices.u16(),
        manner: [Manner::Replace, Manner::Beside, Manner::Standby][choices.below(3)],
        opened: choices.below(2) == 0,
        seal: None,
        proof: None,
    };
    // Sometimes without, which is refused at the door.
    if choices.below(4) > 0 {
        let signature = identity(3).sign(&reserve_statement(&reserve)).to_bytes();
        reserve.proof = Some(Proof { key: key(3), signature });
    }
    Message::Reserve(reserve)
}

fn facts(choices: &mut Choices<'_>) -> Message {
    let mut told = Vec::new();
    for _ in 0..choices.below(40) {
        let peers = ["liar", "me", "friend", "x", "y"];
        let mut fact = LinkFact {
            origin: name(peers[choices.below(peers.len())]),
            neighbour: name(peers[choices.below(peers.len())]),
            neighbour_key: key(choices.below(4) as u8),
            version: choices.u8().into(),
            up: choices.below(2) == 0,
            capacity: Bandwidth::from_bps(choices.u64()),
            free_out: Bandwidth::from_bps(choices.u64()),
            max_payload: choices.u16(),
            signature: [0; 64],
        };
        fact.signature = identity(3).sign(&Fact::Link(fact.clone()).signed_bytes()).to_bytes();
        told.push(Told { age_ms: choices.u16().into(), fact: Fact::Link(fact) });
    }
    Message::Gossip(Gossip::Facts(told))
}

/// Something it was told, said back with a few bytes changed.
fn echo(choices: &mut Choices<'_>, world: &World) -> Option<Message> {
    let said = world.heard.get(choices.below(world.heard.len().max(1)))?;
    let mut bytes = said.emit().to_vec();
    for _ in 0..choices.below(4) {
        let at = usize::from(choices.u16()) % bytes.len();
        bytes[at] = choices.u8();
    }
    Message::parse(&bytes).ok()
}

/// One step of the liar.
fn step(choices: &mut Choices<'_>, world: &mut World) {
    match choices.below(8) {
        0 => {
            if let Ok(message) = Message::parse(choices.piece()) {
                world.say(message);
            }
        }
        1 | 2 => {
            if let Some(message) = echo(choices, world) {
                world.say(message);
            }
        }
        3 => {
            let session =
                SessionId { counter: choices.u64() >> choices.below(64), initiator: name("liar") };
            let start = Signed::sign(session, &identity(3)).start(CAPACITY);
            world.say(Message::Start(start));
        }
        4 => {
            let message = facts(choices);
            world.say(message);
        }
        5 => {
            let message = reserve(choices, world);
            world.say(message);
        }
        6 => {
            let tx = tx(choices, world);
            let at = name("friend");
            world.say(match choices.below(5) {
                0 => Message::Release(Release {
                    tx,
                    cause: ReleaseCause::Closed,
                    at,
                    failed: None,
                    why: None,
                    proof: None,
                }),
                1 => Message::Refresh(vec![tx]),
                2 => Message::Finish { tx, frames: choices.u64(), proof: None },
                3 => Message::Move { tx, at },
                _ => Message::FinishAck { tx },
            });
        }
        _ if choices.below(4) == 0 => {
            world.tell_me(Input::Disconnected { link: LIAR, why: "it went".to_owned() });
            world.greet();
        }
        _ => world.pass(Duration::from_millis(4 * u64::from(choices.u8()))),
    }
}

pub(crate) fn liar(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut world = World::new();
    let before = world.me.path_of(&world.channel());
    let mut steps = 0;
    while !choices.is_empty() && steps < 64 {
        step(&mut choices, &mut world);
        steps += 1;
    }
    world.tell_me(Input::Disconnected { link: LIAR, why: "the end".to_owned() });
    world.pass(Duration::from_secs(30));
    assert_eq!(world.me.path_of(&world.channel()), before, "others' channels are as before");
    assert!(!world.me.computing(), "the tree is at rest");
}
