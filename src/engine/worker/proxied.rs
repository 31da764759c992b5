//! A worker that is a plain UDP proxy: every receive goes one way as it is, by one look-up.
//!
//! The only place of a worker's turn that makes or closes sockets: a new client gets one on its first
//! datagram, which already goes out of it; a client that was silent for the idle time loses it between
//! two batches. Both directions have an account of the table, so the books are those of a channel.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Worker;
use super::batch::damage;
use crate::engine::ProxySpec;
use crate::engine::proxy::{Judged, Proxy};
use crate::engine::runs::{Note, Piece, Train};
use crate::engine::table::{Account, SocketId, Table};
use crate::limits::PROXY_EXPIRED_PER_TURN;
use crate::net::{self, Received, WORKER_SOCKET};
use crate::stats::{DropReason, ProxyStats, bump};
use crate::types::Time;

/// What a worker of a proxy has besides.
#[derive(Debug)]
pub(in crate::engine) struct Proxied {
    table: Proxy,
    room: Room,
    stats: Arc<ProxyStats>,
    to_server: Account,
    to_clients: Account,
}

/// Places for clients, shared by the workers of a proxy; only clients that come and go touch it.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Room(Arc<AtomicU32>);

impl Room {
    pub(in crate::engine) fn new(clients: u32) -> Self {
        Self(Arc::new(AtomicU32::new(clients)))
    }

    fn take(&self) -> bool {
        let less = |places: u32| places.checked_sub(1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn give_back(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Proxied {
    /// Opens its accounts in `table`.
    pub(in crate::engine) fn new(
        spec: &ProxySpec,
        room: Room,
        stats: Arc<ProxyStats>,
        table: &mut Table,
    ) -> Self {
        Self {
            table: Proxy::new(WORKER_SOCKET, spec.server, spec.idle),
            room,
            to_server: table.open_account(Arc::clone(&stats.to_server)),
            to_clients: table.open_account(Arc::clone(&stats.to_clients)),
            stats,
        }
    }

    /// When a client may have to go.
    pub(super) fn next_expiry(&self) -> Option<Time> {
        self.table.next_expiry()
    }

    /// Whose books a datagram at this socket belongs to.
    pub(super) fn account(&self, socket: SocketId) -> Account {
        if socket == WORKER_SOCKET { self.to_server } else { self.to_clients }
    }
}

impl Worker {
    pub(super) fn on_proxied(&mut self, received: Received) -> io::Result<()> {
        let Some(proxied) = &mut self.proxied else { return Ok(()) };
        let account = proxied.account(received.socket);
        let (datagrams, bytes) = (received.datagrams() as u64, received.buffer.len());
        let stats = self.table.stats(account);
        bump(&stats.entered, datagrams);
        bump(&stats.bytes_in, bytes as u64);
        let judged = match damage(&received) {
            Some(reason) => Judged::Drop(reason),
            None => proxied.table.judge(received.socket, received.source, self.now),
        };
        let (socket, to) = match judged {
            Judged::Up(socket) => (socket, proxied.table.server()),
            Judged::Down(client) => (WORKER_SOCKET, client),
            Judged::Newcomer => match self.admit(received.source) {
                Ok(sent_to) => sent_to,
                Err(reason) => return self.drop_received(received, account, reason),
            },
            Judged::Drop(reason) => return self.drop_received(received, account, reason),
        };
        let segment = received.segment;
        let buffer = self.outbox.hold(received.buffer);
        let note = Note { account, delivered: Some(0) };
        let mut train = Train { socket, to, piece: Piece::new(buffer, 0..bytes), segment, note };
        while self.outbox.push_train(&mut train).is_err() {
            self.submit()?;
        }
        Ok(())
    }

    fn drop_received(
        &mut self,
        received: Received,
        account: Account,
        reason: DropReason,
    ) -> io::Result<()> {
        self.table.stats(account).drop_frames(reason, received.datagrams() as u64);
        self.net.release(received.buffer);
        Ok(())
    }

    /// Makes the newcomer's socket; that and where its datagrams go.
    #[cold]
    fn admit(&mut self, source: SocketAddr) -> Result<(SocketId, SocketAddr), DropReason> {
        let Some(proxied) = &mut self.proxied else { return Err(DropReason::NoReceiver) };
        if !proxied.room.take() {
            return Err(DropReason::ClientLimit);
        }
        let server = proxied.table.server();
        let socket = net::open_towards(server).and_then(|socket| {
            // A smaller buffer than asked for still works.
            let _ = net::enlarge_receive_buffer(socket.as_fd());
            self.net.add_socket(socket.into())
        });
        let Ok(socket) = socket else {
            proxied.room.give_back();
            return Err(DropReason::ClientSocket);
        };
        proxied.table.admit(source, socket, self.now);
        bump(&proxied.stats.admitted, 1);
        Ok((socket, server))
    }

    /// Closes the sockets of some clients that were silent for the idle time; the batch is over.
    pub(super) fn let_clients_go(&mut self) {
        let Some(proxied) = &mut self.proxied else { return };
        for _ in 0..PROXY_EXPIRED_PER_TURN {
            let Some(socket) = proxied.table.expired(self.now) else { break };
            self.net.remove_socket(socket);
            self.outbox.forget(socket);
            proxied.room.give_back();
            bump(&proxied.stats.expired, 1);
        }
    }
}
