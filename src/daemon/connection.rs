//! One secured TCP connection of a link: control messages out of a bounded queue, and in.
//!
//! Each message is one Noise transport message behind its length (u16, big-endian). A length that is
//! zero or too large, a message that is cut, does not decrypt or does not parse ends this connection
//! and nothing else; the reason goes to the control loop. The queue is bounded in bytes
//! ([`limits::SEND_QUEUE_BYTES_MAX`]): a neighbour that does not read loses its link.
//!
//! Two tasks on the control thread per connection, a reader and a writer. The reader stops for as long as
//! the neighbour has used more than its share of the thread. Knows nothing of what the messages mean.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use snow::StatelessTransportState;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{sleep, timeout};

use crate::daemon::handshake::{Newcomer, Secured, TAG_BYTES};
use crate::daemon::lane;
use crate::daemon::share::Share;
use crate::types::{Dscp, LinkId};
use crate::wire::control::{Message, VERSIONS};
use crate::wire::tag::HopKeys;
use crate::{limits, net};

/// Largest and smallest length prefix: a message has at least its type.
const SEALED_BYTES: std::ops::RangeInclusive<usize> =
    TAG_BYTES + 2..=limits::MESSAGE_BYTES_MAX + TAG_BYTES;
/// One write to the kernel takes about this much of the queue.
const WRITE_BYTES: usize = 64 << 10;

/// What the connections tell the control loop.
pub(crate) enum Arrival {
    /// A neighbour was authenticated on this stream.
    Joined {
        link: LinkId,
        stream: TcpStream,
        secured: Secured,
        remote: SocketAddr,
    },
    Message {
        link: LinkId,
        number: u64,
        message: Message,
        /// When it had been read from the connection.
        read: Instant,
        /// One of the places that the messages of this connection have in the ring.
        place: OwnedSemaphorePermit,
    },
    Ended {
        link: LinkId,
        number: u64,
        why: String,
    },
    /// Somebody without a link has proved its key: may it have one? Otherwise why not.
    Asks {
        newcomer: Newcomer,
        answer: oneshot::Sender<Result<LinkId, String>>,
    },
}

/// The ring into the control loop; full = the neighbour's TCP waits.
pub(crate) type Arrivals = mpsc::Sender<Arrival>;

/// A connection in use.
pub(crate) struct Connection {
    /// Counts the connections of this run: messages of a replaced one are told by it.
    pub(crate) number: u64,
    pub(crate) remote: SocketAddr,
    pub(crate) hop_keys: HopKeys,
    /// What its messages cost the control thread.
    pub(crate) share: Rc<RefCell<Share>>,
    queue: SendQueue,
    reader: AbortHandle,
    writer: JoinHandle<()>,
}

/// The way to send on a connection, also while it is being closed.
#[derive(Clone)]
pub(crate) struct SendQueue {
    messages: mpsc::UnboundedSender<Bytes>,
    waiting_bytes: Rc<Cell<usize>>,
}

/// The neighbour does not read: more than the bound waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {} KiB wait to be sent: the neighbour does not read", limits::SEND_QUEUE_BYTES_MAX >> 10)]
pub(crate) struct QueueFull;

impl SendQueue {
    pub(crate) fn send(&self, message: Bytes) -> Result<(), QueueFull> {
        let waiting = self.waiting_bytes.get() + message.len();
        if waiting > limits::SEND_QUEUE_BYTES_MAX {
            return Err(QueueFull);
        }
        self.waiting_bytes.set(waiting);
        // A writer that ended has told the control loop why; what is sent meanwhile is lost with it.
        let _ = self.messages.send(message);
        Ok(())
    }
}

impl Connection {
    /// Starts the two tasks of a connection that was authenticated as `link`.
    pub(crate) fn start(
        number: u64,
        link: LinkId,
        stream: TcpStream,
        remote: SocketAddr,
        secured: Secured,
        arrivals: &Arrivals,
    ) -> Self {
        let (messages, queued) = mpsc::unbounded_channel();
        let waiting_bytes = Rc::new(Cell::new(0));
        let queue = SendQueue { messages, waiting_bytes: Rc::clone(&waiting_bytes) };
        let noise = Rc::new(secured.noise);
        let (read_half, write_half) = stream.into_split();
        let share = Rc::new(RefCell::new(Share::new(now())));
        let places = Arc::new(Semaphore::new(limits::ARRIVALS_PER_LINK_MAX));
        let mut reader = Reader {
            // Many small messages are read at once.
            half: BufReader::new(read_half),
            noise: Rc::clone(&noise),
            received: secured.received,
            share: Rc::clone(&share),
        };
        let mut writer =
            Writer { half: write_half, noise, sent: secured.sent, queued, waiting_bytes };
        let told = arrivals.clone();
        let reader = lane::spawn(async move {
            let why = loop {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                match reader.message().await {
                    Ok((message, read)) => {
                        let arrival = Arrival::Message { link, number, message, read, place };
                        if told.send(arrival).await.is_err() {
                            return;
                        }
                    }
                    Err(why) => break why,
                }
            };
            let _ = told.send(Arrival::Ended { link, number, why }).await;
        });
        let told = arrivals.clone();
        let writer = lane::spawn(async move {
            if let Err(error) = writer.run().await {
                let why = format!("writing failed: {error}");
                let _ = told.send(Arrival::Ended { link, number, why }).await;
            }
        });
        let (reader, hop_keys) = (reader.abort_handle(), secured.hop_keys);
        Self { number, remote, hop_keys, share, queue, reader, writer }
    }

    pub(crate) fn queue(&self) -> SendQueue {
        self.queue.clone()
    }

    /// Sends what waits, waits until the neighbour has read it and closed its end, and closes; all within
    /// `bound`.
    pub(crate) fn close(self, bound: Duration) -> JoinHandle<()> {
        let Self { queue, reader, mut writer, .. } = self;
        drop(queue);
        lane::spawn(async move {
            if timeout(bound, &mut writer).await.is_err() {
                writer.abort();
            }
            reader.abort();
        })
    }

    /// Reads no more from now on; `close` still has to be called.
    pub(crate) fn stop_reading(&self) {
        self.reader.abort();
    }
}

/// Options of every link's socket: small messages leave at once and marked, a dead neighbour shows in a
/// second.
pub(crate) fn prepare(stream: &TcpStream, dscp: Dscp) -> io::Result<()> {
    stream.set_nodelay(true)?;
    net::mark::mark(stream.as_fd(), dscp)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(Duration::from_secs(1)))?;
    let second = Duration::from_secs(1);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(second).with_interval(second).with_retries(3),
    )
}

struct Reader {
    half: BufReader<OwnedReadHalf>,
    noise: Rc<StatelessTransportState>,
    received: u64,
    share: Rc<RefCell<Share>>,
}

impl Reader {
    /// The next message, or in words why there is none; not before the neighbour may have it read.
    async fn message(&mut self) -> Result<(Message, Instant), String> {
        let wait = self.share.borrow_mut().wait(now());
        if !wait.is_zero() {
            sleep(wait).await;
        }
        let mut length = [0; 2];
        match self.half.read_exact(&mut length).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err("the neighbour closed the connection".to_owned());
            }
            Err(error) => return Err(format!("reading failed: {error}")),
        }
        let length = usize::from(u16::from_be_bytes(length));
        if !SEALED_BYTES.contains(&length) {
            return Err(format!(
                "a message of {length} bytes; {} to {} are allowed",
                SEALED_BYTES.start(),
                SEALED_BYTES.end()
            ));
        }
        let mut sealed = vec![0; length];
        match timeout(limits::MESSAGE_REST_MAX, self.half.read_exact(&mut sealed)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return Err(format!("a message of {length} bytes was cut")),
        }
        let read = now();
        let mut bytes = vec![0; length];
        let length = self
            .noise
            .read_message(self.received, &sealed, &mut bytes)
            .map_err(|_| "a message did not decrypt".to_owned())?;
        self.received += 1;
        let message = Message::parse(&bytes[..length]).map_err(|error| {
            format!(
                "a message was not understood: {error}; this peer speaks control versions {}-{}",
                VERSIONS.0, VERSIONS.1
            )
        })?;
        let done = now();
        self.share.borrow_mut().charge_message(done, done.saturating_duration_since(read));
        Ok((message, read))
    }
}

#[expect(clippy::disallowed_methods, reason = "where the time of a message in the relay begins")]
fn now() -> Instant {
    Instant::now()
}

struct Writer {
    half: OwnedWriteHalf,
    noise: Rc<StatelessTransportState>,
    sent: u64,
    queued: mpsc::UnboundedReceiver<Bytes>,
    waiting_bytes: Rc<Cell<usize>>,
}

impl Writer {
    /// Until the queue's last sender is gone and the neighbour has taken all of it.
    async fn run(&mut self) -> io::Result<()> {
        let mut out = Vec::with_capacity(WRITE_BYTES);
        while let Some(message) = self.queued.recv().await {
            let mut taken = message.len();
            self.seal(&message, &mut out)?;
            while out.len() < WRITE_BYTES {
                let Ok(message) = self.queued.try_recv() else { break };
                taken += message.len();
                self.seal(&message, &mut out)?;
            }
            self.half.write_all(&out).await?;
            self.waiting_bytes.set(self.waiting_bytes.get() - taken);
            out.clear();
        }
        self.half.shutdown().await?;
        // Closed with unread bytes in it, the socket would throw away what the neighbour has not read.
        let (stream, mut thrown_away) = (self.half.as_ref(), [0; 4_096]);
        loop {
            stream.readable().await?;
            match stream.try_read(&mut thrown_away) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn seal(&mut self, message: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let length = message.len() + TAG_BYTES;
        assert!(SEALED_BYTES.contains(&length), "messages are bounded by their codec");
        let start = out.len() + 2;
        out.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        out.resize(start + length, 0);
        self.noise
            .write_message(self.sent, message, &mut out[start..])
            .map_err(io::Error::other)?;
        self.sent += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::time::Duration;

    use tokio::net::TcpListener;
    use tokio::task::LocalSet;

    use super::*;
    use crate::types::Bandwidth;

    const MOMENT: Duration = Duration::from_secs(10);

    fn run<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        LocalSet::new().block_on(&runtime.expect("a runtime"), future)
    }

    /// Two ends of one secured stream, without the handshake's proofs.
    async fn pair() -> ((TcpStream, Secured), (TcpStream, Secured)) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (one, other) = tokio::join!(TcpStream::connect(address), listener.accept());
        let pattern = || "Noise_NN_25519_ChaChaPoly_BLAKE2s".parse().expect("a pattern");
        let mut a = snow::Builder::new(pattern()).build_initiator().expect("built");
        let mut b = snow::Builder::new(pattern()).build_responder().expect("built");
        let (mut message, mut payload) = ([0; 200], [0; 200]);
        let length = a.write_message(&[], &mut message).expect("written");
        b.read_message(&message[..length], &mut payload).expect("read");
        let length = b.write_message(&[], &mut message).expect("written");
        a.read_message(&message[..length], &mut payload).expect("read");
        let secured = |noise: snow::HandshakeState| Secured {
            noise: noise.into_stateless_transport_mode().expect("finished"),
            hop_keys: HopKeys::derive(&[1; 32], &[2; 32]),
            sent: 0,
            received: 0,
        };
        ((one.expect("connected"), secured(a)), (other.expect("accepted").0, secured(b)))
    }

    fn start(
        number: u64,
        (stream, secured): (TcpStream, Secured),
    ) -> (Connection, mpsc::Receiver<Arrival>) {
        let (arrivals, arrived) = mpsc::channel(limits::ARRIVALS_MAX);
        let remote = stream.peer_addr().expect("connected");
        let connection = Connection::start(number, LinkId(1), stream, remote, secured, &arrivals);
        (connection, arrived)
    }

    fn message(at: u64) -> Message {
        Message::Capacity(Bandwidth::from_bps(at + 1))
    }

    async fn next(arrived: &mut mpsc::Receiver<Arrival>) -> Result<Message, String> {
        match timeout(MOMENT, arrived.recv()).await.expect("in time").expect("an arrival") {
            Arrival::Message { link: LinkId(1), number: 5, message, .. } => Ok(message),
            Arrival::Ended { link: LinkId(1), number: 5, why } => Err(why),
            Arrival::Message { .. }
            | Arrival::Ended { .. }
            | Arrival::Joined { .. }
            | Arrival::Asks { .. } => panic!("of another connection"),
        }
    }

    #[test]
    fn messages_arrive_whole_and_in_order_and_the_last_before_the_end() {
        run(async {
            let (here, there) = pair().await;
            let (here, _) = start(4, here);
            let (_there, mut arrived) = start(5, there);
            let count = 3_000;
            (0..count).for_each(|at| here.queue().send(message(at).emit()).expect("room"));
            here.queue().send(Message::Bye("that was all".to_owned()).emit()).expect("room");
            let closed = here.close(limits::CONNECTION_DRAIN_MAX);
            for at in 0..count {
                assert_eq!(next(&mut arrived).await, Ok(message(at)));
            }
            assert_eq!(next(&mut arrived).await, Ok(Message::Bye("that was all".to_owned())));
            let end = next(&mut arrived).await.expect_err("the end");
            assert!(end.contains("closed the connection"), "{end}");
            closed.await.expect("no panic");
        });
    }

    #[test]
    fn a_neighbour_that_does_not_read_fills_a_bounded_queue() {
        run(async {
            let (here, _there) = pair().await;
            let (here, _) = start(4, here);
            let bye = Message::Bye("x".repeat(1_000)).emit();
            let mut taken = 0;
            while here.queue().send(bye.clone()).is_ok() {
                taken += bye.len();
                assert!(taken <= limits::SEND_QUEUE_BYTES_MAX, "it grows without bound");
            }
            assert!(taken > limits::SEND_QUEUE_BYTES_MAX - bye.len());
        });
    }

    /// What a connection says when its neighbour sends these bytes and goes.
    fn end_of(bytes: impl FnOnce(&Secured) -> Vec<u8>) -> String {
        run(async {
            let ((mut stream, secured), there) = pair().await;
            let (_there, mut arrived) = start(5, there);
            stream.write_all(&bytes(&secured)).await.expect("written");
            stream.shutdown().await.expect("shut down");
            loop {
                if let Err(why) = next(&mut arrived).await {
                    break why;
                }
            }
        })
    }

    fn sealed(secured: &Secured, plain: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; plain.len() + TAG_BYTES];
        secured.noise.write_message(0, plain, &mut bytes).expect("sealed");
        let length = u16::try_from(bytes.len()).expect("short");
        [&length.to_be_bytes(), &bytes[..]].concat()
    }

    #[test]
    fn bad_bytes_end_the_connection_with_what_was_wrong() {
        assert!(end_of(|_| vec![0, 0]).contains("0 bytes"));
        assert!(end_of(|_| vec![0xff; 4]).contains("65535 bytes"));
        assert!(end_of(|_| vec![0, 100, 1, 2, 3]).contains("was cut"));
        assert!(end_of(|_| vec![0, 20].into_iter().chain([9; 20]).collect()).contains("decrypt"));
        let unknown = end_of(|secured| sealed(secured, &[0xee, 0xee]));
        assert!(unknown.contains("message type") && unknown.contains("versions 1-6"), "{unknown}");
        let changed = end_of(|secured| {
            let mut bytes = sealed(secured, &message(1).emit());
            bytes[7] ^= 1;
            bytes
        });
        assert!(changed.contains("decrypt"), "{changed}");
    }

    #[test]
    fn a_message_is_not_taken_twice() {
        let again = end_of(|secured| sealed(secured, &message(1).emit()).repeat(2));
        assert!(again.contains("decrypt"), "{again}");
    }
}
