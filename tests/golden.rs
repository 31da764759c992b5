//! The bytes of every frame and control message, held against hand-made files in `tests/golden/`.
//!
//! A file has one field a line: hexadecimal bytes, then `#` and what they are. The files were put
//! together field by field from the drawings and tables of `src/wire`, with other implementations of BLAKE2s
//! and AES-GCM for the heartbeat and the sealed frame, so they prove the format and not only that the code
//! agrees with itself.
//! A file that has to change means a new format version: other peers still speak the old one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use spanway::engine::seal::{Keys, Seal};
use spanway::types::{
    Bandwidth, ChannelId, EdgeKey, Incarnation, Label, PeerName, PublicKey, Reject, ServiceName,
    SessionId, Time, TxId, Way,
};
use spanway::wire::control::{
    Accept, Ghs, Hello, LinkInfo, Manner, Message, Nack, Offer, Proof, Release, ReleaseCause,
    Reserve, Routed, RoutedBody, ServiceInfo, Start,
};
use spanway::wire::course::{Course, Step, StepKind};
use spanway::wire::facts::{Fact, Gossip, LinkFact, OriginDigest, PeerFact, Told};
use spanway::wire::frame::{self, FrameType, HEADER_BYTES, Header};
use spanway::wire::heartbeat::{Heartbeat, HeartbeatKey};
use spanway::wire::hop::{HopFacts, LinkRoom, Times, WayFacts};
use spanway::wire::measure::{Arrived, Measure, MeasureBody, Probe, Train};
use spanway::wire::proof::{
    SealTerms, claim_statement, closed_statement, finish_statement, reserve_statement, seal_terms,
};
use spanway::wire::queue::{Claim, Claimed, Queue, QueueBody, Scarce, Shortage};

const LABEL: Label = Label(0x0102_0304_0506_0708);

#[test]
fn a_data_frame_has_its_golden_bytes() {
    let header = Header {
        frame_type: FrameType::Data,
        flags: 0,
        hop_limit: 64,
        payload_length: 14,
        label: LABEL,
        sequence: 0x0a0b_0c0d_0e0f_1011,
        stamp: 3_000_000_000,
    };
    assert_frame("frame_data", &header, b"hello, overlay");
    let empty = Header { hop_limit: 1, payload_length: 0, sequence: 0, stamp: 0, ..header };
    assert_frame("frame_empty", &empty, b"");
}

#[test]
fn a_heartbeat_has_its_golden_bytes() {
    let beat =
        Heartbeat { label: LABEL, sequence: 3, heard: 2, heard_age_us: 25_000, overloaded: false };
    let golden = golden("heartbeat");
    assert_eq!(hex(&beat.emit(&key())), hex(&golden));
    let header = frame::parse(&golden).expect("the golden heartbeat is a frame");
    assert_eq!(Heartbeat::verify(&header, &golden, &key()), Some(beat));
}

/// Keys, nonce and what is authenticated are as written; the file was made by another program.
#[test]
fn a_sealed_frame_has_its_golden_bytes_and_opens() {
    let header = Header {
        frame_type: FrameType::Data,
        flags: 0,
        hop_limit: 63,
        payload_length: 14,
        label: LABEL,
        sequence: 0x1122_3344_5566_7788,
        stamp: 0x0a0b_0c0d,
    };
    let golden = golden("frame_sealed");
    let secret = |first| std::array::from_fn(|at| first + u8::try_from(at).expect("32 bytes"));
    let now = Time(1);
    let (sends, receives) = (Keys::new(secret(0), secret(32)), Keys::new(secret(32), secret(0)));
    let mut bytes = vec![0; header.frame_bytes()];
    header.emit(&mut bytes);
    bytes[HEADER_BYTES..HEADER_BYTES + 14].copy_from_slice(b"hello, overlay");
    let (head, rest) = bytes.split_at_mut(HEADER_BYTES);
    let (payload, tag) = rest.split_at_mut(14);
    Seal::with(&sends).enter(head, payload, tag, now).expect("it has keys");
    assert_eq!(hex(&bytes), hex(&golden), "what is sent");
    Seal::with(&receives).leave(&mut bytes, header.sequence, now).expect("it opens");
    assert_eq!(frame::payload(&header, &bytes), b"hello, overlay");
}

#[test]
fn what_is_signed_has_its_golden_bytes() {
    for (file, statement) in statements() {
        assert_eq!(hex(&statement), hex(&golden(file)), "{file}");
    }
}

fn file_of_queue(body: &QueueBody) -> &'static str {
    match body {
        QueueBody::Claim(Claim { proof: Some(_), .. }) => "claim_signed",
        QueueBody::Claim(_) => "claim",
        QueueBody::Claimed(Claimed { refused: Some(_), .. }) => "claimed_refused",
        QueueBody::Claimed(Claimed { busy: None, .. }) => "claimed",
        QueueBody::Claimed(_) => "claimed_busy",
        QueueBody::Room => "room",
        QueueBody::Leave => "leave_line",
    }
}

fn statements() -> [(&'static str, Bytes); 5] {
    let sealed = messages().into_iter().find_map(|message| {
        if let Message::Reserve(reserve) = message { Some(reserve) } else { None }
            .filter(|reserve| reserve.seal.is_some())
    });
    let sealed = sealed.expect("there is one");
    let (channel, to, service) = (&tx(2).channel, &peer("tokyo"), &sealed.service);
    let (name, rate, rate_back) = (&sealed.name, sealed.rate, sealed.rate_back);
    let terms = SealTerms { channel, to, service, name, rate, rate_back };
    [
        ("statement_reserve", reserve_statement(&sealed)),
        ("statement_claim", claim_statement(&tx(2), &claim(None))),
        ("statement_finish", finish_statement(channel, 10_000)),
        ("statement_closed", closed_statement(channel)),
        ("seal_terms", seal_terms(&terms)),
    ]
}

#[test]
fn every_control_message_has_its_golden_bytes() {
    for message in messages() {
        let file = file_of(&message);
        let golden = golden(file);
        assert_eq!(hex(&message.emit()), hex(&golden), "{file}: what is sent");
        assert_eq!(Message::parse(&golden), Ok(message), "{file}: what is read");
    }
}

#[test]
fn a_probe_has_its_golden_bytes_and_is_believed() {
    let golden = golden("probe");
    let probe = Probe { label: LABEL, train: 3, position: 9, of: 200 };
    let mut bytes = vec![0; golden.len()];
    probe.emit(&key(), &mut bytes);
    assert_eq!(bytes, golden);
    let header = frame::parse(&golden).expect("a frame");
    assert_eq!(Probe::verify(&header, &golden, &key()), Some(probe));
}

#[test]
fn every_golden_file_is_held_against_the_code() {
    let frames = ["frame_data", "frame_empty", "frame_sealed", "heartbeat", "probe"];
    let others = frames.into_iter().chain(statements().map(|(file, _)| file)).map(str::to_owned);
    let held: BTreeSet<String> =
        messages().iter().map(|message| file_of(message).to_owned()).chain(others).collect();
    let listed = fs::read_dir(folder()).expect("tests/golden is there");
    let files: BTreeSet<String> = listed
        .map(|entry| entry.expect("a readable folder").path())
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    assert_eq!(files, held);
}

#[test]
fn an_unknown_optional_field_behind_any_message_is_skipped() {
    for message in messages() {
        let mut bytes = golden(file_of(&message));
        bytes.extend([0x7f, 0xff, 0, 3, 1, 2, 3]);
        assert_eq!(Message::parse(&bytes), Ok(message));
    }
}

#[test]
fn a_message_cut_at_any_byte_is_refused() {
    for message in messages() {
        let bytes = golden(file_of(&message));
        for length in 0..bytes.len() {
            let what = file_of(&message);
            // Without its optional field it is what an older version says.
            let ends =
                ["beside", "failed", "towards", "course", "sealed", "signed", "closed", "tagged"];
            let older = ends.iter().chain(&["why", "refused"]).any(|field| what.ends_with(field));
            if let Ok(message) = Message::parse(&bytes[..length]) {
                assert!(older && message.emit().len() == length, "{what} cut at {length}");
            }
        }
    }
}

/// The file of a message. No wildcard: a new message does not compile until it has a golden file,
/// and [`every_golden_file_is_held_against_the_code`] wants every file in [`messages`].
fn file_of(message: &Message) -> &'static str {
    match message {
        Message::Hello(Hello { hop_tag: true, .. }) => "hello_tagged",
        Message::Hello(Hello { session: Some(_), .. }) => "hello",
        Message::Hello(Hello { session: None, .. }) => "hello_first",
        Message::Bye(_) => "bye",
        Message::Capacity(_) => "capacity",
        Message::Start(_) => "start",
        Message::Ghs { body, .. } => match body {
            Ghs::Connect { .. } => "ghs_connect",
            Ghs::Initiate { .. } => "ghs_initiate",
            Ghs::Test { .. } => "ghs_test",
            Ghs::Accept => "ghs_accept",
            Ghs::Reject => "ghs_reject",
            Ghs::Report { best: Some(_) } => "ghs_report",
            Ghs::Report { best: None } => "ghs_report_none",
            Ghs::ChangeRoot => "ghs_change_root",
        },
        Message::Done { .. } => "done",
        Message::Members { .. } => "members",
        Message::Commit { .. } => "commit",
        Message::Reserve(Reserve { seal: Some(_), .. }) => "reserve_sealed",
        Message::Reserve(Reserve { manner: Manner::Replace, .. }) => "reserve",
        Message::Reserve(_) => "reserve_beside",
        Message::Accept(Accept { seal: Some(_), .. }) => "accept_sealed",
        Message::Accept(_) => "accept",
        Message::Nack(Nack { proof: Some(_), .. }) => "nack_closed",
        Message::Nack(Nack { towards: None, .. }) => "nack",
        Message::Nack(_) => "nack_towards",
        Message::Release(Release { why: Some(_), .. }) => "release_why",
        Message::Release(Release { proof: Some(_), .. }) => "release_closed",
        Message::Release(Release { failed: None, .. }) => "release",
        Message::Release(_) => "release_failed",
        Message::Refresh(_) => "refresh",
        Message::Finish { proof: Some(_), .. } => "finish_signed",
        Message::Finish { .. } => "finish",
        Message::FinishAck { .. } => "finish_ack",
        Message::Move { .. } => "move",
        Message::Routed(Routed { body, .. }) => match body {
            RoutedBody::AskServices => "ask_services",
            RoutedBody::Services(_) => "services",
            RoutedBody::AskLinks { course: false } => "ask_links",
            RoutedBody::AskLinks { course: true } => "ask_links_course",
            RoutedBody::Links { course: None, .. } => "links",
            RoutedBody::Links { .. } => "links_course",
            RoutedBody::Unanswered(_) => "unanswered",
            RoutedBody::AskHop(_) => "ask_hop",
            RoutedBody::Hop(_) => "hop",
        },
        Message::Queue(Queue { body, .. }) => file_of_queue(body),
        Message::Measure(Measure { body, .. }) => match body {
            MeasureBody::Ask => "measure_ask",
            MeasureBody::Ready => "measure_ready",
            MeasureBody::Refused(_) => "measure_refused",
            MeasureBody::Train(_) => "measure_train",
            MeasureBody::Sent { .. } => "measure_sent",
            MeasureBody::Count { .. } => "measure_count",
            MeasureBody::Counted { .. } => "measure_counted",
            MeasureBody::End => "measure_end",
        },
        Message::Gossip(gossip) => match gossip {
            Gossip::Facts(_) => "facts",
            Gossip::Hash { .. } => "graph_hash",
            Gossip::Summary { .. } => "graph_summary",
            Gossip::Compared { .. } => "graph_compared",
        },
    }
}

fn messages() -> Vec<Message> {
    let mut messages = vec![
        Message::Hello(hello()),
        Message::Hello(hello_first()),
        Message::Hello(hello_tagged()),
        Message::Bye("leave".to_owned()),
        Message::Capacity(Bandwidth::from_bps(47_500_000)),
        Message::Start(Start {
            session: session(),
            capacity: Bandwidth::from_bps(95_000_000),
            initiator_key: PublicKey([0xaa; 32]),
            signature: [0xbb; 64],
        }),
        Message::Done { session: session() },
        Message::Members { session: session(), edges: edges(), last: true },
        Message::Commit { session: session(), peers: 3, edges: edges(), last: false },
    ];
    messages.extend(ghs().map(|body| Message::Ghs { session: session(), body }));
    messages.extend(reservations());
    messages.extend(queue());
    messages.extend(routed());
    messages.extend(measures());
    messages.extend(gossip());
    messages
}

fn gossip() -> [Message; 4] {
    let peer_fact = PeerFact {
        origin: peer("berlin"),
        key: PublicKey([0xaa; 32]),
        version: 7,
        leaving: false,
        egress: Some(Bandwidth::from_bps(1_000_000_000)),
        ingress: None,
        signature: [0xbb; 64],
    };
    let link_fact = LinkFact {
        origin: peer("berlin"),
        neighbour: peer("oslo"),
        neighbour_key: PublicKey([0xcc; 32]),
        version: 8,
        up: true,
        capacity: Bandwidth::from_bps(95_000_000),
        free_out: Bandwidth::from_bps(75_000_000),
        max_payload: 1_408,
        signature: [0xdd; 64],
    };
    let entry = |name, digest, newest| OriginDigest { origin: peer(name), digest, newest };
    [
        Gossip::Facts(vec![
            Told { age_ms: 1_500, fact: Fact::Peer(peer_fact) },
            Told { age_ms: 250, fact: Fact::Link(link_fact) },
        ]),
        Gossip::Hash { digest: 0x0123_4567_89ab_cdef },
        Gossip::Summary {
            after: Some(peer("berlin")),
            origins: vec![
                entry("oslo", 0x1111_2222_3333_4444, 9),
                entry("tokyo", 0x5555_6666_7777_8888, 10),
            ],
            last: true,
        },
        Gossip::Compared { up_to: Some(peer("oslo")) },
    ]
    .map(Message::Gossip)
}

fn measures() -> [Message; 8] {
    let rate = Bandwidth::from_bps(50_000_000);
    [
        MeasureBody::Ask,
        MeasureBody::Ready,
        MeasureBody::Refused("busy".to_owned()),
        MeasureBody::Train(Train { number: 3, frames: 200, frame_bytes: 1_472, rate }),
        MeasureBody::Sent { number: 3, frames: 200, took_us: 48_000 },
        MeasureBody::Count { number: 3 },
        MeasureBody::Counted {
            number: 3,
            arrived: Arrived { frames: 199, tail_frames: 148, tail_us: 35_800 },
        },
        MeasureBody::End,
    ]
    .map(|body| Message::Measure(Measure { id: 0x5152_5354_5556_5758, body }))
}

fn hello() -> Hello {
    Hello {
        versions: (1, 1),
        name: peer("berlin"),
        incarnation: Incarnation(0x1122_3344_5566_7788),
        capacity: Bandwidth::from_bps(95_000_000),
        mtu: 1_500,
        data_port: 7_000,
        workers: 2,
        heartbeat_label: LABEL,
        heartbeat_key: key(),
        session: Some(session()),
        hop_tag: false,
    }
}

/// Wants hop tags: version 6.
fn hello_tagged() -> Hello {
    Hello { versions: (1, 6), hop_tag: true, ..hello() }
}

fn hello_first() -> Hello {
    Hello {
        name: peer("oslo"),
        incarnation: Incarnation(1),
        capacity: Bandwidth::from_bps(9_500_000),
        mtu: 1_280,
        data_port: 7_016,
        workers: 1,
        session: None,
        ..hello()
    }
}

fn ghs() -> [Ghs; 8] {
    let fragment = edges()[0].clone();
    [
        Ghs::Connect { level: 3 },
        Ghs::Initiate { level: 4, fragment: fragment.clone(), find: true },
        Ghs::Test { level: 4, fragment },
        Ghs::Accept,
        Ghs::Reject,
        Ghs::Report { best: Some(edges()[1].clone()) },
        Ghs::Report { best: None },
        Ghs::ChangeRoot,
    ]
}

fn reservations() -> [Message; 17] {
    let reserve = |manner| {
        Message::Reserve(Reserve {
            tx: tx(2),
            service: service("video"),
            name: service("show"),
            path: path(),
            position: 1,
            rate: Bandwidth::from_bps(20_000_000),
            rate_back: Bandwidth::from_bps(400_000),
            ticket: 41,
            deadline_ms: 4_500,
            max_payload: 1_408,
            back_label: LABEL,
            back_port: 7_001,
            manner,
            opened: manner == Manner::Beside,
            seal: None,
            proof: None,
        })
    };
    let Message::Reserve(plain) = reserve(Manner::Replace) else { unreachable!("just made") };
    let offer = Offer { key: identity(0x20), message: bytes(0xa0, 48) };
    let sealed = Reserve { seal: Some(offer), proof: Some(proof()), ..plain };
    let release = |failed, why: Option<&str>| {
        let (tx, cause, at) = (tx(2), ReleaseCause::Broken, peer("oslo"));
        let why = why.map(str::to_owned);
        Message::Release(Release { tx, cause, at, failed, why, proof: None })
    };
    let (cause, at) = (ReleaseCause::Closed, peer("berlin"));
    let closed = Release { tx: tx(2), cause, at, failed: None, why: None, proof: Some(proof()) };
    let accept = |seal| {
        Message::Accept(Accept {
            tx: tx(2),
            label: LABEL,
            port: 7_017,
            max_payload: 1_408,
            width: Bandwidth::from_bps(47_500_000),
            seal,
        })
    };
    [
        reserve(Manner::Replace),
        reserve(Manner::Beside),
        Message::Reserve(sealed),
        release(None, None),
        release(Some((peer("oslo"), peer("berlin"))), None),
        release(None, Some("no [[allow]] here")),
        Message::Release(closed),
        Message::Move { tx: tx(2), at: peer("oslo") },
        accept(None),
        accept(Some(bytes(0xc0, 48))),
        nack(None),
        nack(Some(peer("berlin"))),
        Message::Nack(cancelled()),
        Message::Refresh(vec![tx(2), tx(3)]),
        Message::Finish { tx: tx(2), frames: 10_000, proof: None },
        Message::Finish { tx: tx(2), frames: 10_000, proof: Some(proof()) },
        Message::FinishAck { tx: tx(2) },
    ]
}

fn nack(towards: Option<PeerName>) -> Message {
    Message::Nack(Nack {
        tx: tx(2),
        at: peer("oslo"),
        reason: Reject::NoRoom,
        free: Bandwidth::from_bps(1_000_000),
        detail: "1 Mbit/s is free".to_owned(),
        towards,
        proof: None,
    })
}

fn cancelled() -> Nack {
    Nack {
        tx: tx(2),
        at: peer("tokyo"),
        reason: Reject::Cancelled,
        free: Bandwidth::ZERO,
        detail: "closed".to_owned(),
        towards: None,
        proof: Some(proof()),
    }
}

fn proof() -> Proof {
    let signature = std::array::from_fn(|at| 0x80 + u8::try_from(at).expect("64 bytes"));
    Proof { key: identity(0x60), signature }
}

/// So many bytes that count up from `first`.
fn bytes(first: u8, count: u8) -> Bytes {
    (0..count).map(|at| first + at).collect()
}

fn identity(first: u8) -> PublicKey {
    PublicKey(std::array::from_fn(|at| first + u8::try_from(at).expect("32 bytes")))
}

fn queue() -> [Message; 7] {
    let channel = |count| ChannelId { count, ..tx(2).channel };
    let rate = Bandwidth::from_bps;
    let free = rate(1_000_000);
    let rate = rate(20_000_000);
    let link = Shortage {
        at: peer("oslo"),
        of: Scarce::Link(peer("tokyo")),
        asked: rate,
        free,
        ahead: 2,
        before: Some(channel(8)),
        holders: vec![channel(3)],
    };
    let host = Shortage { of: Scarce::Host(Way::Egress), ..link.clone() };
    [
        QueueBody::Claim(claim(None)),
        QueueBody::Claim(claim(Some(proof()))),
        QueueBody::Claimed(Claimed { short: vec![link, host], ..Claimed::default() }),
        QueueBody::Claimed(Claimed { busy: Some(peer("oslo")), ..Claimed::default() }),
        QueueBody::Claimed(Claimed {
            busy: Some(peer("oslo")),
            refused: Some("no [[allow]] here".to_owned()),
            ..Claimed::default()
        }),
        QueueBody::Room,
        QueueBody::Leave,
    ]
    .map(|body| Message::Queue(Queue { tx: tx(2), body }))
}

fn claim(proof: Option<Proof>) -> Claim {
    let (rate, rate_back) = (Bandwidth::from_bps(20_000_000), Bandwidth::from_bps(400_000));
    Claim { path: path(), position: 1, rate, rate_back, ticket: 17, proof }
}

fn routed() -> [Message; 9] {
    let link = |name, bps, branch| LinkInfo {
        peer: peer(name),
        capacity: Bandwidth::from_bps(bps),
        branch,
    };
    let links = vec![link("berlin", 95_000_000, true), link("tokyo", 9_500_000, false)];
    let services = vec![
        ServiceInfo { name: service("video"), source: false, busy: true },
        ServiceInfo { name: service("camera"), source: true, busy: false },
    ];
    [
        (2, RoutedBody::AskServices),
        (1, RoutedBody::Services(services)),
        (2, RoutedBody::AskLinks { course: false }),
        (2, RoutedBody::AskLinks { course: true }),
        (1, RoutedBody::Links { links, last: true, course: None }),
        (1, RoutedBody::Links { links: Vec::new(), last: false, course: Some(course()) }),
        (1, RoutedBody::Unanswered("no link to tokyo".to_owned())),
        (2, RoutedBody::AskHop(tx(1).channel)),
        (1, RoutedBody::Hop(Box::new(hop()))),
    ]
    .map(|(position, body)| Message::Routed(Routed { id: 77, path: path(), position, body }))
}

fn hop() -> HopFacts {
    let there = WayFacts {
        entered: 0,
        received: 1_000,
        sent: 990,
        delivered: 0,
        dropped: vec![("policed".to_owned(), 10)],
        one_way: Some(Times { count: 1_000, p50: 150, p99: 900, max: 1_200 }),
        clocks_differ: false,
        inside: None,
        link: Some(LinkRoom {
            usable: Bandwidth::from_bps(95_000_000),
            free: Bandwidth::from_bps(9_500_000),
        }),
    };
    HopFacts { there, back: WayFacts { clocks_differ: true, ..WayFacts::default() } }
}

fn course() -> Course {
    let step = |at_us, what, level| Step { at_us, what, level, fragment: None, neighbour: None };
    let absorbed = Step {
        fragment: edges().into_iter().next(),
        neighbour: Some(peer("oslo")),
        ..step(1_000, StepKind::Absorbed, 1)
    };
    let steps = vec![step(5, StepKind::Woke, 0), absorbed];
    Course { session: session(), complete: true, steps }
}

fn assert_frame(file: &str, header: &Header, payload: &[u8]) {
    let golden = golden(file);
    let mut bytes = vec![0; header.frame_bytes()];
    header.emit(&mut bytes);
    bytes[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(payload);
    assert_eq!(hex(&bytes), hex(&golden), "{file}: what is sent");
    assert_eq!(frame::parse(&golden), Ok(*header), "{file}: what is read");
    assert_eq!(frame::payload(header, &golden), payload, "{file}: the payload");
}

fn peer(name: &str) -> PeerName {
    PeerName::new(name).expect("a name")
}

fn service(name: &str) -> ServiceName {
    ServiceName::new(name).expect("a name")
}

fn session() -> SessionId {
    SessionId { counter: 7, initiator: peer("berlin") }
}

fn tx(attempt: u32) -> TxId {
    TxId { channel: ChannelId { source: peer("berlin"), boot: 0x1f3c, count: 9 }, attempt }
}

fn path() -> Vec<PeerName> {
    ["berlin", "oslo", "tokyo"].map(peer).to_vec()
}

fn edges() -> Vec<EdgeKey> {
    let edge = |bps, one, other| EdgeKey::new(Bandwidth::from_bps(bps), peer(one), peer(other));
    vec![edge(95_000_000, "oslo", "berlin"), edge(9_500_000, "oslo", "tokyo")]
}

/// 40 41 .. 5f.
fn key() -> HeartbeatKey {
    HeartbeatKey(std::array::from_fn(|at| 0x40 + u8::try_from(at).expect("32 bytes")))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn golden(file: &str) -> Vec<u8> {
    let path = folder().join(file).with_extension("txt");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let fields = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    fields
        .flat_map(str::split_whitespace)
        .map(|byte| u8::from_str_radix(byte, 16).unwrap_or_else(|e| panic!("{byte:?}: {e}")))
        .collect()
}

/// Sixteen bytes a line, so that a failed comparison can be read.
fn hex(bytes: &[u8]) -> Vec<String> {
    let line =
        |chunk: &[u8]| chunk.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
    bytes.chunks(16).map(line).collect()
}
