//! What is wrong with an MPEG transport stream: packets by PID and breaks of their continuity
//! counters (ISO/IEC 13818-1, 2.4.3). A captured stream without a break lost nothing on its way.

use std::collections::BTreeMap;

const PACKET_BYTES: usize = 188;
const SYNC: u8 = 0x47;
/// Packets of this PID are filling and have no counter.
const NULL_PID: u16 = 0x1fff;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) packets: BTreeMap<u16, u64>,
    /// Packets whose counter is not the one after their predecessor's.
    pub(crate) breaks: u64,
    /// Packets that do not begin with the sync byte, and bytes behind the last whole packet.
    pub(crate) out_of_sync: u64,
}

pub(crate) fn inspect(stream: &[u8]) -> Report {
    let mut report = Report::default();
    let mut last: BTreeMap<u16, u8> = BTreeMap::new();
    let packets = stream.chunks_exact(PACKET_BYTES);
    report.out_of_sync += packets.remainder().len() as u64;
    for packet in packets {
        if packet[0] != SYNC {
            report.out_of_sync += 1;
            continue;
        }
        let pid = u16::from_be_bytes([packet[1] & 0x1f, packet[2]]);
        *report.packets.entry(pid).or_default() += 1;
        let (has_adaptation, has_payload) = (packet[3] & 0x20 != 0, packet[3] & 0x10 != 0);
        let discontinuity = has_adaptation && packet[4] > 0 && packet[5] & 0x80 != 0;
        let counter = packet[3] & 0x0f;
        if pid == NULL_PID || !has_payload {
            continue;
        }
        let follows = last.insert(pid, counter).is_none_or(|last| (last + 1) & 0x0f == counter);
        report.breaks += u64::from(!follows && !discontinuity);
    }
    report
}

#[test]
fn a_missing_packet_breaks_the_counter_of_its_pid_only() {
    let packet = |pid: u8, counter: u8| {
        let mut packet = vec![0xff; PACKET_BYTES];
        packet[..4].copy_from_slice(&[SYNC, 0, pid, 0x10 | counter]);
        packet
    };
    let stream: Vec<Vec<u8>> =
        (0..40_u8).flat_map(|n| [packet(1, n & 0xf), packet(2, n & 0xf)]).collect();
    assert_eq!(inspect(&stream.concat()).breaks, 0);
    let mut cut = stream;
    cut.remove(20);
    let report = inspect(&cut.concat());
    assert_eq!((report.breaks, report.out_of_sync), (1, 0));
    assert_eq!(report.packets, BTreeMap::from([(1, 39), (2, 40)]));
}
