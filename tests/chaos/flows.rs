//! The programs at both ends of all channels: one thread sends for all of them, one receives, and both
//! write down what they did. Sockets live in the namespaces of their peers.

#![expect(clippy::disallowed_methods, reason = "these tests live in real time")]

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::random::{parse, payload};

/// Between two datagrams of a channel.
const SPACING: Duration = Duration::from_millis(10);
/// How often the receiver looks.
const LOOK: Duration = Duration::from_millis(2);

/// One life of a channel, from its opening to its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Life {
    /// By number.
    pub(crate) sent: Vec<Instant>,
    /// Numbers in the order of arrival.
    pub(crate) got: Vec<usize>,
}

#[derive(Debug)]
pub(crate) struct Flows {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// By channel; none while it has no entry.
    entries: Mutex<Vec<Option<UdpSocket>>>,
    /// By channel.
    lives: Mutex<Vec<Vec<Life>>>,
    wrong: Mutex<Vec<String>>,
}

impl Flows {
    /// Receives for each channel at the socket of the same number.
    pub(crate) fn start(receivers: Vec<UdpSocket>) -> Self {
        let shared = Arc::new(Shared::default());
        lock(&shared.entries).resize_with(receivers.len(), || None);
        lock(&shared.lives).resize_with(receivers.len(), Vec::new);
        let (sender, receiver) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![
            thread::spawn(move || send(&sender)),
            thread::spawn(move || receive(&receivers, &receiver)),
        ];
        Self { shared, threads }
    }

    /// From now on sends into this socket: a new life of the channel begins.
    pub(crate) fn begin(&self, channel: usize, entry: UdpSocket) {
        lock(&self.shared.lives)[channel].push(Life::default());
        lock(&self.shared.entries)[channel] = Some(entry);
    }

    pub(crate) fn pause(&self, channel: usize) {
        lock(&self.shared.entries)[channel] = None;
    }

    /// Everything so far, by channel.
    pub(crate) fn lives(&self) -> Vec<Vec<Life>> {
        lock(&self.shared.lives).clone()
    }

    /// Whether something has arrived that was sent after this, by the last life of the channel.
    pub(crate) fn has_carried(&self, channel: usize, since: Instant) -> bool {
        let lives = lock(&self.shared.lives);
        let Some(life) = lives[channel].last() else { return false };
        life.got.last().and_then(|&number| life.sent.get(number)).is_some_and(|&sent| sent > since)
    }

    /// What arrived where it should not have, or not as it was sent.
    pub(crate) fn wrong(&self) -> Vec<String> {
        lock(&self.shared.wrong).clone()
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "a thread of the flows panicked");
        }
    }
}

fn send(shared: &Shared) {
    let mut due = Instant::now();
    while !shared.stop.load(Ordering::Relaxed) {
        for (channel, entry) in lock(&shared.entries).iter().enumerate() {
            let Some(entry) = entry else { continue };
            let mut lives = lock(&shared.lives);
            let at = lives[channel].len() - 1;
            let life = &mut lives[channel][at];
            // Refused (the entry is gone): told, not lost; the next one takes its number.
            let sent = Instant::now();
            if entry.send(&payload(channel, at, life.sent.len())).is_ok() {
                life.sent.push(sent);
            }
        }
        due += SPACING;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

fn receive(receivers: &[UdpSocket], shared: &Shared) {
    let mut bytes = [0; 2_048];
    while !shared.stop.load(Ordering::Relaxed) {
        for (channel, socket) in receivers.iter().enumerate() {
            while let Ok(length) = socket.recv(&mut bytes) {
                take(channel, &bytes[..length], shared);
            }
        }
        thread::sleep(LOOK);
    }
}

fn take(channel: usize, bytes: &[u8], shared: &Shared) {
    let wrong = |what: String| {
        lock(&shared.wrong).push(format!("at the receiver of c{channel:02}: {what}"))
    };
    match parse(bytes) {
        Some([of, life, number]) if of == channel => {
            let mut lives = lock(&shared.lives);
            match lives[channel].get_mut(life).filter(|life| number <= life.sent.len()) {
                // It may be here before the sender has written down that it was sent.
                Some(life) => life.got.push(number),
                None => wrong(format!("number {number} of life {life} was never sent")),
            }
        }
        Some([of, ..]) => wrong(format!("a datagram of c{of:02}")),
        None => wrong(format!("{} bytes that nobody sent", bytes.len())),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panicked with it")
}
