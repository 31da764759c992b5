//! Sealed channels in real workers: super-buffers and single datagrams, both directions, another worker, and
//! what is no frame of the other end. Ids: A20, A22.

use spanway::engine::seal::Keys;
use spanway::wire::frame::{END_TAG_BYTES, HEADER_BYTES};

use super::super_buffers::send_super;
use super::*;

/// The seals of the end that asked and of the service's.
fn seals() -> [Seal; 2] {
    let (there, back) = ([1; 32], [2; 32]);
    [Seal::with(&Keys::new(there, back)), Seal::with(&Keys::new(back, there))]
}

fn set_seal(engine: &mut Engine, worker: u8, seal: Seal) {
    engine.send(WorkerId(worker), Command::SetSeal { channel: channel(), seal });
    settle(engine);
}

/// As [`path_of`], sealed.
fn sealed_path(workers: usize, backend: BackendChoice) -> Path {
    let mut path = path_of("127.0.0.1:0", workers, backend);
    let [here, there] = seals();
    let [a, _, c] = &mut path.engines;
    set_seal(a, 0, here);
    set_seal(c, 0, there);
    path
}

mod checks {
    use super::*;

    pub(super) fn a22_sealed_streams_cross_a_relay_both_ways_byte_for_byte(backend: BackendChoice) {
        let path = sealed_path(1, backend);
        stream(&path.opener, path.at_a, &path.service, 300);
        stream(&path.service, path.at_c, &path.opener, 300);
        assert_books_balance(&path.stats, 600);
    }

    /// Header and tag lie apart from the payloads of a super-buffer.
    pub(super) fn a22_every_datagram_of_a_super_buffer_is_sealed(backend: BackendChoice) {
        let path = sealed_path(1, backend);
        let mut buffer = vec![0; 8_192];
        for (segment, datagrams) in [(4, 64_u8), (200, 33), (1_316, 40), (7_000, 9), (300, 1)] {
            let sent: Vec<Vec<u8>> = (0..datagrams)
                .map(|n| vec![n; if n + 1 == datagrams { segment - 1 } else { segment }])
                .collect();
            send_super(&path.opener, path.at_a, &sent);
            for expected in &sent {
                let (size, _) = path.service.recv_from(&mut buffer).unwrap();
                assert!(buffer[..size] == *expected, "{size} bytes of {segment}");
            }
        }
        for stats in &path.stats {
            assert_eq!(stats.drops(), []);
        }
    }

    pub(super) fn a22_what_the_other_end_did_not_seal_is_dropped_by_name(backend: BackendChoice) {
        let mut engine = engine(backend);
        let (neighbour, service) = (program(), program());
        let at = neighbour.local_addr().unwrap();
        engine.broadcast(|| Command::SetLink(link(1, true, at, 1)));
        let stats: Arc<ChannelStats> = Arc::default();
        let deliver = Deliver::To(service.local_addr().unwrap());
        add_end(&mut engine, 0, channel(), AllowedFrom::Loopback, deliver, &stats);
        add_label(&mut engine, 7, 1, Target::Local(channel()), &stats);
        set_seal(&mut engine, 0, Seal::Awaited);
        let plain = data_frame(7, 9, b"plain");
        let to = address(&engine);
        let dropped = |plain: &[u8], reason, count| {
            neighbour.send_to(plain, to).unwrap();
            wait_until("the drop", || stats.dropped(reason) == count);
        };
        dropped(&plain, DropReason::Early, 1);
        let [mut here, there] = seals();
        set_seal(&mut engine, 0, there);
        dropped(&plain, DropReason::BadSeal, 1);
        let mut sealed = data_frame(7, 9, b"sealed");
        let (header, rest) = sealed.split_at_mut(HEADER_BYTES);
        let (payload, tag) = rest.split_at_mut(rest.len() - END_TAG_BYTES);
        here.enter(header, payload, tag, spanway::types::Time(1)).unwrap();
        let mut bent = sealed.clone();
        bent[HEADER_BYTES] ^= 1;
        dropped(&bent, DropReason::BadSeal, 2);
        neighbour.send_to(&sealed, to).unwrap();
        let mut buffer = [0; 64];
        let (size, _) = service.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..size], b"sealed");
        dropped(&sealed, DropReason::Replayed, 1);
        assert_eq!((load(&stats.received), load(&stats.delivered)), (5, 1));
        assert_eq!(load(&stats.next_sequence), 2, "what is no frame moves nothing");
    }

    pub(super) fn a20_a_sealed_end_moves_to_another_worker_with_its_keys(backend: BackendChoice) {
        let mut path = sealed_path(2, backend);
        for round in 0..6_u8 {
            stream(&path.opener, path.at_a, &path.service, 50);
            let (from, to) = (WorkerId(round % 2), WorkerId(1 - round % 2));
            let ends = [(0, vec![Label(201)]), (2, vec![Label(102)])];
            for (engine, labels) in ends {
                let labels = if round == 0 { labels } else { vec![] };
                let command = Command::MoveChannel { channel: channel(), labels, end: true, to };
                path.engines[engine].send(from, command);
                settle(&mut path.engines[engine]);
            }
        }
        stream(&path.opener, path.at_a, &path.service, 50);
        assert_eq!(path.stats[2].drops(), []);
    }

    pub(super) fn a20_sealing_allocates_nothing(backend: BackendChoice) {
        let path = sealed_path(1, backend);
        stream(&path.opener, path.at_a, &path.service, 500);
        let before = WORKER_ALLOCATIONS.load(Relaxed);
        assert!(before > 0, "the counter sees the workers");
        stream(&path.opener, path.at_a, &path.service, 5_000);
        assert_eq!(WORKER_ALLOCATIONS.load(Relaxed) - before, 0);
    }
}

for_both_backends! {
    a22_sealed_streams_cross_a_relay_both_ways_byte_for_byte,
    a22_every_datagram_of_a_super_buffer_is_sealed,
    a22_what_the_other_end_did_not_seal_is_dropped_by_name,
    a20_a_sealed_end_moves_to_another_worker_with_its_keys,
    a20_sealing_allocates_nothing,
}
