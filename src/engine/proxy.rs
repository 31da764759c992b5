//! The table of a plain UDP proxy: one server, many clients, a socket towards the server for each
//! client, so that answers find their way back.
//!
//! ```text
//! client C ──► listen socket ──► C's socket ──► server        judge(): the client's source names its socket
//! client C ◄── listen socket ◄── C's socket ◄── server        judge(): the socket names the client
//! ```
//!
//! The payload is never looked at. One look-up serves a whole super-buffer: source and socket belong to
//! the receive, not to the datagram.
//!
//! Pure: no clock, no socket. The worker makes a client's socket on its first datagram
//! ([`Judged::Newcomer`], [`Proxy::admit`]) and closes those of clients that were silent for the idle
//! time ([`Proxy::expired`]). Clients lie in a list in the order of their last use, so a sweep looks
//! only at those it takes away, and a use is a few stores. How many clients there may be is the
//! caller's to decide.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::HashMap;

use super::table::{SocketId, canonical};
use crate::stats::DropReason;
use crate::types::Time;

/// Where a received super-buffer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// From a client: to the server, out of this socket.
    Up(SocketId),
    /// From the server: to this client, out of the listen socket.
    Down(SocketAddr),
    /// From a client nobody knows: it needs a socket first.
    Newcomer,
    Drop(DropReason),
}

#[derive(Debug)]
pub struct Proxy {
    listen: SocketId,
    server: SocketAddr,
    idle: Duration,
    /// The standard hasher with its random key: clients choose their addresses, and must not be able
    /// to aim them at one bucket.
    by_source: HashMap<SocketAddr, u32>,
    /// By the number of the socket.
    by_socket: Vec<Option<u32>>,
    clients: Vec<Client>,
    free: Vec<u32>,
    /// Ends of the list by last use.
    oldest: Option<u32>,
    newest: Option<u32>,
}

#[derive(Debug)]
struct Client {
    source: SocketAddr,
    socket: SocketId,
    used: Time,
    older: Option<u32>,
    newer: Option<u32>,
}

impl Proxy {
    /// Clients come to `listen` and are answered from there.
    pub fn new(listen: SocketId, server: SocketAddr, idle: Duration) -> Self {
        Self {
            listen,
            server: canonical(server),
            idle,
            by_source: HashMap::new(),
            by_socket: Vec::new(),
            clients: Vec::new(),
            free: Vec::new(),
            oldest: None,
            newest: None,
        }
    }

    pub fn server(&self) -> SocketAddr {
        self.server
    }

    pub fn clients(&self) -> usize {
        self.by_source.len()
    }

    // --- The frame path ---

    /// Judges a super-buffer that came from `source` to `socket`; a client that is named is used.
    #[inline]
    pub fn judge(&mut self, socket: SocketId, source: SocketAddr, now: Time) -> Judged {
        if socket == self.listen {
            let Some(index) = self.client_of(source) else { return Judged::Newcomer };
            self.touch(index, now);
            return Judged::Up(self.clients[index as usize].socket);
        }
        let Some(&Some(index)) = self.by_socket.get(socket.0 as usize) else {
            return Judged::Drop(DropReason::NoReceiver);
        };
        if source != self.server {
            return Judged::Drop(DropReason::ForeignAnswer);
        }
        self.touch(index, now);
        Judged::Down(self.clients[index as usize].source)
    }

    // --- Clients come and go ---

    /// A newcomer got its socket.
    pub fn admit(&mut self, source: SocketAddr, socket: SocketId, now: Time) {
        assert!(self.client_of(source).is_none(), "a client has one socket");
        let client = Client { source, socket, used: now, older: None, newer: None };
        let index = match self.free.pop() {
            Some(index) => {
                self.clients[index as usize] = client;
                index
            }
            None => {
                self.clients.push(client);
                u32::try_from(self.clients.len() - 1).expect("fewer clients than addresses")
            }
        };
        let number = socket.0 as usize;
        if self.by_socket.len() <= number {
            self.by_socket.resize(number + 1, None);
        }
        assert!(self.by_socket[number].is_none(), "a socket has one client");
        self.by_socket[number] = Some(index);
        self.by_source.insert(source, index);
        self.link_newest(index);
    }

    /// Forgets the client that was silent longest, if that was the idle time; its socket is to be
    /// closed.
    pub fn expired(&mut self, now: Time) -> Option<SocketId> {
        let index = self.oldest.filter(|_| self.next_expiry().is_some_and(|at| at <= now))?;
        self.unlink(index);
        let Client { source, socket, .. } = self.clients[index as usize];
        self.by_source.remove(&source);
        self.by_socket[socket.0 as usize] = None;
        self.free.push(index);
        Some(socket)
    }

    /// When the next client expires if nothing more comes for it.
    #[inline]
    pub fn next_expiry(&self) -> Option<Time> {
        self.oldest.map(|index| self.clients[index as usize].used + self.idle)
    }

    /// A train of one client comes in many pieces: the last one used is tried before the map.
    #[inline]
    fn client_of(&self, source: SocketAddr) -> Option<u32> {
        let last = self.newest.filter(|&index| self.clients[index as usize].source == source);
        last.or_else(|| self.by_source.get(&source).copied())
    }

    // --- The list by last use ---

    #[inline]
    fn touch(&mut self, index: u32, now: Time) {
        self.clients[index as usize].used = now;
        if self.newest != Some(index) {
            self.unlink(index);
            self.link_newest(index);
        }
    }

    fn link_newest(&mut self, index: u32) {
        let older = self.newest.replace(index);
        match older {
            Some(older) => self.clients[older as usize].newer = Some(index),
            None => self.oldest = Some(index),
        }
        let client = &mut self.clients[index as usize];
        (client.older, client.newer) = (older, None);
    }

    fn unlink(&mut self, index: u32) {
        let client = &self.clients[index as usize];
        let (older, newer) = (client.older, client.newer);
        match older {
            Some(older) => self.clients[older as usize].newer = newer,
            None => self.oldest = newer,
        }
        match newer {
            Some(newer) => self.clients[newer as usize].older = older,
            None => self.newest = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const LISTEN: SocketId = SocketId(0);
    const IDLE: Duration = Duration::from_secs(10);

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn server() -> SocketAddr {
        address("10.0.0.9:53")
    }

    fn client(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], 1_000 + number))
    }

    fn proxy() -> Proxy {
        Proxy::new(LISTEN, server(), IDLE)
    }

    #[test]
    fn a_clients_datagrams_go_out_of_its_own_socket_and_answers_back_to_it() {
        let mut proxy = proxy();
        for number in 1..=100 {
            let now = Time(u64::from(number));
            assert_eq!(proxy.judge(LISTEN, client(number), now), Judged::Newcomer);
            proxy.admit(client(number), SocketId(u32::from(number)), now);
        }
        for number in (1..=100).rev() {
            let socket = SocketId(u32::from(number));
            assert_eq!(proxy.judge(LISTEN, client(number), Time(200)), Judged::Up(socket));
            let back = proxy.judge(socket, server(), Time(200));
            assert_eq!(back, Judged::Down(client(number)));
        }
    }

    #[test]
    fn answers_from_elsewhere_are_foreign_and_keep_nobody_alive() {
        let mut proxy = proxy();
        proxy.admit(client(1), SocketId(1), Time(0));
        for source in ["10.0.0.9:54", "10.0.0.8:53", "[::1]:53"] {
            let judged = proxy.judge(SocketId(1), address(source), Time(5_000_000));
            assert_eq!(judged, Judged::Drop(DropReason::ForeignAnswer), "{source}");
        }
        assert_eq!(proxy.next_expiry(), Some(Time(0) + IDLE));
        let judged = proxy.judge(SocketId(7), server(), Time(0));
        assert_eq!(judged, Judged::Drop(DropReason::NoReceiver));
    }

    #[test]
    fn the_server_may_be_written_as_a_mapped_address() {
        let mut proxy = Proxy::new(LISTEN, address("[::ffff:10.0.0.9]:53"), IDLE);
        proxy.admit(client(1), SocketId(1), Time(0));
        assert_eq!(proxy.judge(SocketId(1), server(), Time(1)), Judged::Down(client(1)));
    }

    #[test]
    fn silence_in_both_directions_ends_a_client_and_a_returning_one_is_new() {
        let mut proxy = proxy();
        proxy.admit(client(1), SocketId(1), Time(0));
        proxy.admit(client(2), SocketId(2), Time(1));
        // Only the server speaks to client 1.
        proxy.judge(SocketId(1), server(), Time(9_000_000));
        assert_eq!(proxy.expired(Time(9_999_999)), None);
        assert_eq!(proxy.expired(Time(10_000_001)), Some(SocketId(2)));
        assert_eq!(proxy.expired(Time(10_000_001)), None);
        assert_eq!(proxy.clients(), 1);
        assert_eq!(proxy.judge(LISTEN, client(2), Time(10_000_002)), Judged::Newcomer);
        proxy.admit(client(2), SocketId(2), Time(10_000_002));
        assert_eq!(proxy.expired(Time(19_000_000)), Some(SocketId(1)));
        assert_eq!(proxy.next_expiry(), Some(Time(20_000_002)));
    }

    #[test]
    fn nothing_grows_with_clients_that_come_and_go() {
        let mut proxy = proxy();
        for round in 0..1_000u64 {
            let now = Time(round * 20_000_000);
            while proxy.expired(now).is_some() {}
            for number in 1..=3u16 {
                let source = client(number + u16::try_from(round).unwrap());
                proxy.admit(source, SocketId(u32::from(number)), now);
            }
        }
        assert_eq!((proxy.clients.len(), proxy.by_socket.len(), proxy.clients()), (3, 4, 3));
    }

    /// The same with a map and a look at everybody.
    #[derive(Default)]
    struct Model {
        clients: BTreeMap<SocketAddr, (SocketId, Time)>,
    }

    impl Model {
        fn expired(&mut self, now: Time) -> Vec<u32> {
            let is_old = |used: Time| used + IDLE <= now;
            let old = self.clients.values().filter(|(_, used)| is_old(*used));
            let mut old: Vec<u32> = old.map(|(socket, _)| socket.0).collect();
            self.clients.retain(|_, (_, used)| !is_old(*used));
            old.sort_unstable();
            old
        }

        fn next_expiry(&self) -> Option<Time> {
            self.clients.values().map(|(_, used)| *used + IDLE).min()
        }

        /// What the proxy must answer, and the use noted.
        fn judge(&mut self, number: u16, from_server: bool, now: Time) -> Judged {
            match self.clients.get_mut(&client(number)) {
                None if from_server => Judged::Drop(DropReason::NoReceiver),
                None => {
                    self.clients.insert(client(number), (socket(number), now));
                    Judged::Newcomer
                }
                Some((socket, used)) => {
                    *used = now;
                    if from_server { Judged::Down(client(number)) } else { Judged::Up(*socket) }
                }
            }
        }
    }

    fn socket(number: u16) -> SocketId {
        SocketId(u32::from(number) + 1)
    }

    proptest! {
        #[test]
        fn it_does_what_a_plain_map_would(
            steps in prop::collection::vec((0u8..4, 0u16..6, 0u64..4_000_000), 1..300)
        ) {
            let (mut proxy, mut model) = (proxy(), Model::default());
            let mut now = Time(0);
            for (kind, number, pause) in steps {
                now = Time(now.0 + pause);
                if kind == 0 {
                    let mut gone: Vec<u32> =
                        std::iter::from_fn(|| proxy.expired(now)).map(|socket| socket.0).collect();
                    gone.sort_unstable();
                    prop_assert_eq!(gone, model.expired(now));
                } else {
                    let from_server = kind == 1;
                    let judged = match from_server {
                        true => proxy.judge(socket(number), server(), now),
                        false => proxy.judge(LISTEN, client(number), now),
                    };
                    prop_assert_eq!(judged, model.judge(number, from_server, now));
                    if judged == Judged::Newcomer {
                        proxy.admit(client(number), socket(number), now);
                    }
                }
                prop_assert_eq!(proxy.next_expiry(), model.next_expiry());
                prop_assert_eq!(proxy.clients(), model.clients.len());
            }
        }
    }
}
