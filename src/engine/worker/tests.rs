//! Zero copy: what is sent lies where it was received, on both back ends.

use std::net::{SocketAddr, UdpSocket};

use super::*;
use crate::engine::pool::Pool;
use crate::engine::seal::Seal;
use crate::engine::{AllowedFrom, BackendChoice, EntrySpec, LinkSpec, Target};
use crate::net::traced::{self, Place};
use crate::types::address::Reach;
use crate::types::{Bandwidth, Label, LinkId, PeerName, WorkerId};
use crate::wire::frame::{END_TAG_BYTES, FrameType, HEADER_BYTES, Header, OVERHEAD_BYTES};
use crate::wire::heartbeat::HeartbeatKey;

const PAYLOAD: usize = 300;

/// A worker on the thread of the test, with one neighbour, a label to relay and a channel end.
struct Rig {
    worker: Worker,
    neighbour: UdpSocket,
    program: UdpSocket,
    worker_address: SocketAddr,
    end_address: SocketAddr,
}

fn channel() -> ChannelId {
    ChannelId { source: PeerName::new("peer-1").unwrap(), boot: 1, count: 1 }
}

fn rig(backend: net::Backend) -> Rig {
    let bind = || UdpSocket::bind("127.0.0.1:0").unwrap();
    let (own, neighbour, program, socket) = (bind(), bind(), bind(), bind());
    let worker_address = own.local_addr().unwrap();
    let end_address = socket.local_addr().unwrap();
    let shared = Arc::new(Shared::new(Arc::new(EventFd::new().unwrap())).unwrap());
    let (pool, mut free) = Pool::new(64).unwrap();
    let headers = free.pop().unwrap();
    let mut net = Net::open(backend, &shared.wake, pool, free).unwrap();
    net.add_socket(own.into()).unwrap();
    let there = neighbour.local_addr().unwrap();
    let key = HeartbeatKey([1; 32]);
    let spec = LinkSpec {
        link: LinkId(1),
        address: there,
        workers: 1,
        send_label: Label(1),
        send_key: key.clone(),
        receive_label: Label(2),
        receive_key: key,
        interval: Duration::from_secs(1),
        missed_max: 100,
        tags: None,
        reach: Reach::new(worker_address, 1..=1, []),
        pulse: Arc::default(),
    };
    let stats = Arc::default();
    let hop = Target::Hop { link: LinkId(1), label: Label(9), port: there.port() };
    let entry = EntrySpec { to: hop.clone(), rate: Bandwidth::MAX, max_payload: 1_000 };
    let label = |label, to| Command::AddLabel {
        label: Label(label),
        from: LinkId(1),
        to,
        rate: Bandwidth::MAX,
        hop: 1,
        stats: Arc::clone(&stats),
    };
    let end = EndSpec {
        channel: channel(),
        socket,
        from: AllowedFrom::Loopback,
        deliver: Deliver::To(program.local_addr().unwrap()),
        gso: true,
        shape: false,
        seal: Seal::Plain,
        stats: Arc::clone(&stats),
    };
    let commands = [
        Command::SetLink(Arc::new(spec)),
        label(5, hop),
        label(6, Target::Local(channel())),
        Command::AddEnd(end),
        Command::SetEntry { channel: channel(), to: Some(entry) },
    ];
    for command in commands {
        shared.commands.push(command).unwrap();
    }
    let rings = Arc::new(WorkerRings::new([Arc::clone(&shared.wake)]));
    let place = (WorkerId(0), rings);
    let mut worker = Worker::new(place, net, headers, shared, Arc::default(), test_clock());
    // Heartbeats would be counted as sends.
    worker.liveness = None;
    worker.shared.wake.notify();
    worker.turn().unwrap();
    Rig { worker, neighbour, program, worker_address, end_address }
}

#[expect(clippy::disallowed_methods, reason = "the origin of a worker's time")]
fn test_clock() -> Instant {
    Instant::now()
}

fn frame(label: u64) -> Vec<u8> {
    let header = Header {
        frame_type: FrameType::Data,
        flags: 0,
        hop_limit: 9,
        payload_length: PAYLOAD.try_into().unwrap(),
        label: Label(label),
        sequence: 1,
        stamp: 0,
    };
    let mut bytes = vec![7; header.frame_bytes()];
    header.emit(&mut bytes);
    bytes
}

impl Rig {
    /// Where the kernel wrote and from where it was told to send, for `bytes` sent once.
    fn pass(&mut self, from: &UdpSocket, to: SocketAddr, bytes: &[u8]) -> (Place, Vec<Place>) {
        traced::clear();
        from.send_to(bytes, to).unwrap();
        while traced::sent().is_empty() {
            self.worker.turn().unwrap();
        }
        let received = traced::received();
        assert_eq!(received.len(), 1, "one receive brought it");
        (received[0], traced::sent())
    }
}

fn a_payload_is_sent_from_where_it_was_received(choice: BackendChoice) {
    let backend = match net::probe(choice) {
        Ok((backend, _)) => backend,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    let mut rig = rig(backend);
    let (neighbour, program) =
        (rig.neighbour.try_clone().unwrap(), rig.program.try_clone().unwrap());
    let (at_worker, at_end) = (rig.worker_address, rig.end_address);
    // Relayed: the very bytes.
    let (received, sent) = rig.pass(&neighbour, at_worker, &frame(5));
    assert_eq!(sent, [received]);
    // Delivered: the same without header and tag.
    let (received, sent) = rig.pass(&neighbour, at_worker, &frame(6));
    assert_eq!(received.bytes, PAYLOAD + OVERHEAD_BYTES);
    assert_eq!(sent, [Place { address: received.address + HEADER_BYTES, bytes: PAYLOAD }]);
    // Entered: the same with a header in front and a tag behind.
    let (received, sent) = rig.pass(&program, at_end, &[3; PAYLOAD]);
    let (address, bytes) = (received.address - HEADER_BYTES, PAYLOAD + OVERHEAD_BYTES);
    assert_eq!(sent, [Place { address, bytes }]);
    // A super-buffer is relayed untouched: one piece.
    traced::cut(&neighbour, PAYLOAD + OVERHEAD_BYTES);
    let frames: Vec<u8> = (0..10).flat_map(|_| frame(5)).collect();
    let (received, sent) = rig.pass(&neighbour, at_worker, &frames);
    assert_eq!((sent, received.bytes), (vec![received], frames.len()));
    // A super-buffer that enters: headers and tags from elsewhere, every payload where it was.
    traced::cut(&program, PAYLOAD);
    let (received, sent) = rig.pass(&program, at_end, &[4; 10 * PAYLOAD]);
    let payloads: Vec<Place> = sent.iter().skip(1).step_by(2).copied().collect();
    let expected =
        (0..10).map(|n| Place { address: received.address + n * PAYLOAD, bytes: PAYLOAD });
    assert_eq!(payloads, expected.collect::<Vec<_>>());
    let others: usize = sent.iter().step_by(2).map(|place| place.bytes).sum();
    assert_eq!((sent.len(), others), (21, 10 * (HEADER_BYTES + END_TAG_BYTES)));
}

#[test]
fn a20_a_payload_is_sent_from_where_it_was_received_uring() {
    a_payload_is_sent_from_where_it_was_received(BackendChoice::Uring);
}

#[test]
fn a20_a_payload_is_sent_from_where_it_was_received_mmsg() {
    a_payload_is_sent_from_where_it_was_received(BackendChoice::Mmsg);
}

#[test]
fn a_tagged_link_believes_sealed_frames_also_after_a_change_of_keys() {
    use crate::engine::forward;
    use crate::engine::seal::Keys;
    use crate::engine::table::{SocketId, Table, Way};
    use crate::limits::SEAL_KEY_LIFE;
    use crate::wire::tag::HopKeys;

    let (mut table, link) = (Table::default(), LinkId(1));
    let tags = HopKeys::derive(&[1; 32], &[2; 32]);
    table.set_link(link, "10.0.0.2:5000".parse().unwrap(), 1, Label(2), Some(tags));
    let slot = table.reserve_end(&channel());
    let stats = Arc::default();
    let deliver = Deliver::LastSender;
    table.open_end(slot, SocketId(1), AllowedFrom::Loopback, deliver, false, stats);
    let keys = Keys::new([3; 32], [4; 32]);
    table.end_mut(slot).unwrap().seal = Seal::with(&keys);
    let way = Way::Hop { link, label: Label(9), port: 5_000 };
    let far = HopKeys::derive(&[2; 32], &[1; 32]);
    let mut epochs = Vec::new();
    for (sequence, now) in [(1, Time(1)), (2, Time(2) + SEAL_KEY_LIFE)] {
        let (mut header, mut body, mut tag) = ([0; HEADER_BYTES], [7; 20], [0; END_TAG_BYTES]);
        let entered = forward::enter(&mut header, &mut tag, 20, way, sequence, 5, &table);
        let parts = [&mut header[..], &mut body[..], &mut tag[..]];
        let verdict = batch::seal(&mut table, (slot, way), entered, parts, now);
        assert!(matches!(verdict, forward::Verdict::Relay(_)), "{verdict:?}");
        assert!(far.receive.wrote(&header), "the next hop believes frame {sequence}");
        assert_ne!(body, [7; 20]);
        epochs.push(crate::wire::frame::epoch(&header));
    }
    assert_eq!(epochs, [0, 1]);
}
