//! What a completion of the ring belongs to: the 64 bits io_uring carries along, as a type.
//!
//! ```text
//! | generation 24 | kind 8 | number 32 |
//! ```
//!
//! The generation tells a completion of a socket, or of a batch of sends, from one of its successor.

use crate::engine::table::SocketId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// The multishot receive of a socket.
    Receive { socket: SocketId, generation: u32 },
    /// Send `index` of a batch; only failures complete.
    Send { index: u32, generation: u32 },
    /// The poll of the wake counter.
    Wake,
    /// A cancellation; what it cancels completes on its own.
    Cancel,
    /// The switch of a socket's receive times; only failures complete.
    Times { socket: SocketId, on: bool },
}

/// Generations wrap here.
pub(super) const GENERATION_MASK: u32 = 0x00ff_ffff;

impl Op {
    pub(super) fn encode(self) -> u64 {
        let (kind, generation, number) = match self {
            Self::Receive { socket, generation } => (1, generation, socket.0),
            Self::Send { index, generation } => (2, generation, index),
            Self::Wake => (3, 0, 0),
            Self::Cancel => (4, 0, 0),
            Self::Times { socket, on } => (5, u32::from(on), socket.0),
        };
        u64::from(kind | (generation & GENERATION_MASK) << 8) << 32 | u64::from(number)
    }

    /// `None` for bits that [`Op::encode`] does not make.
    pub(super) fn decode(bits: u64) -> Option<Self> {
        let [a, b, c, d, kind, e, f, g] = bits.to_le_bytes();
        let number = u32::from_le_bytes([a, b, c, d]);
        let generation = u32::from_le_bytes([e, f, g, 0]);
        match kind {
            1 => Some(Self::Receive { socket: SocketId(number), generation }),
            2 => Some(Self::Send { index: number, generation }),
            3 => Some(Self::Wake),
            4 => Some(Self::Cancel),
            5 => Some(Self::Times { socket: SocketId(number), on: generation != 0 }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_known_again() {
        let generation = GENERATION_MASK;
        for op in [
            Op::Receive { socket: SocketId(u32::MAX), generation },
            Op::Receive { socket: SocketId(0), generation: 0 },
            Op::Send { index: 255, generation: 1 },
            Op::Wake,
            Op::Cancel,
            Op::Times { socket: SocketId(3), on: true },
            Op::Times { socket: SocketId(3), on: false },
        ] {
            assert_eq!(Op::decode(op.encode()), Some(op));
        }
        assert_eq!(Op::decode(0), None);
    }
}
