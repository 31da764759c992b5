//! Who connects to whom: the listener for neighbours that dial, and one dialler per link.
//!
//! The end with the smaller name dials at once if it has an address of the other. The end with the
//! greater name cannot know whether the other has one, so it dials too, but only after
//! [`limits::DIAL_PATIENCE`] without a connection. Waits between attempts grow; a refusal that only a
//! person can change is retried rarely. Both directions end in [`Arrival::Joined`].
//!
//! Strangers are bounded in number and time, and the same complaint is logged once in a while only.

#![expect(clippy::disallowed_methods, reason = "how long a connection lived is told by a clock")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::daemon::addresses::Addresses;
use crate::daemon::connection::{self, Arrival, Arrivals};
use crate::daemon::contacts::Contacts;
use crate::daemon::door::{Door, Refused};
use crate::daemon::handshake::{self, Credentials, HandshakeError, Newcomer, Secured};
use crate::daemon::lane;
use crate::types::address::Reach;
use crate::types::{Dscp, LinkId, PeerName, PublicKey};
use crate::{limits, net};

/// What may become of a connection that another end made, besides what the door refuses.
const ACCEPTED: &str = "accepted";
const FAILED: &str = "failed";

/// What the listener and the diallers share.
pub(crate) struct Neighbours {
    pub(crate) credentials: Credentials,
    /// Address that connections leave from, so that neighbours see the one frames come from.
    pub(crate) listen: IpAddr,
    /// How the connections are marked.
    pub(crate) dscp: Dscp,
    pub(crate) addresses: Addresses,
    /// Where others may make this peer connect to.
    pub(crate) reach: RefCell<Reach>,
    pub(crate) known: RefCell<BTreeMap<PeerName, (LinkId, PublicKey)>>,
    /// Keys of `[trust]`.
    pub(crate) trusted: RefCell<BTreeSet<PublicKey>>,
    pub(crate) arrivals: Arrivals,
    pub(crate) contacts: Contacts,
    /// Who may begin a handshake, and what became of those who tried, by name.
    door: RefCell<Door>,
    handshakes: RefCell<BTreeMap<&'static str, u64>>,
    /// Where neighbours are, as the operator wrote.
    configured: RefCell<BTreeMap<PeerName, IpAddr>>,
    complaints: RefCell<Complaints>,
}

/// One neighbour to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dial {
    pub(crate) link: LinkId,
    pub(crate) peer: PeerName,
    pub(crate) key: PublicKey,
    pub(crate) address: SocketAddr,
    /// The other end dials first, if it can.
    pub(crate) patient: bool,
}

impl Neighbours {
    pub(crate) fn new(
        credentials: Credentials,
        (listen, dscp): (IpAddr, Dscp),
        (addresses, reach): (Addresses, Reach),
        arrivals: Arrivals,
    ) -> Self {
        let results = [ACCEPTED, FAILED, Refused::AtOnce.as_str(), Refused::Rate.as_str()];
        let handshakes = results.into_iter().map(|result| (result, 0)).collect();
        Self {
            credentials,
            listen,
            dscp,
            addresses,
            reach: RefCell::new(reach),
            known: RefCell::default(),
            trusted: RefCell::default(),
            arrivals,
            contacts: Contacts::default(),
            door: RefCell::new(Door::new(Instant::now())),
            handshakes: RefCell::new(handshakes),
            configured: RefCell::default(),
            complaints: RefCell::default(),
        }
    }

    /// Where the neighbours of the configuration are; `known` says who they are.
    pub(crate) fn expect(&self, configured: BTreeMap<PeerName, IpAddr>) {
        *self.configured.borrow_mut() = configured;
        self.tell_door();
    }

    /// Those addresses, and where neighbours were met that moved.
    fn tell_door(&self) {
        let (known, configured) = (self.known.borrow(), self.configured.borrow());
        let addresses = known.keys().flat_map(|peer| {
            let written = configured.get(peer).map(IpAddr::to_canonical);
            let learned = self.addresses.of(peer).map(|address| address.ip().to_canonical());
            written.into_iter().chain(learned.filter(|learned| Some(*learned) != written))
        });
        self.door.borrow_mut().know(addresses, Instant::now());
    }

    /// What became of connections that others made here, by name; since the start.
    pub(crate) fn handshakes(&self) -> BTreeMap<String, u64> {
        let counts = self.handshakes.borrow();
        counts.iter().map(|(result, count)| ((*result).to_owned(), *count)).collect()
    }

    fn count(&self, result: &'static str) {
        *self.handshakes.borrow_mut().entry(result).or_default() += 1;
    }

    /// A neighbour was met at `address`: a hint for the next time, if it is one that others may name.
    pub(crate) fn learn(&self, peer: &PeerName, address: SocketAddr) {
        match self.reach.borrow().check(address) {
            Ok(address) => {
                if self.addresses.learn(peer, address) {
                    self.tell_door();
                }
            }
            Err(refused) => tracing::debug!(%peer, %refused, "not remembered"),
        }
    }

    /// Takes connections of neighbours that dial, for as long as the daemon runs.
    #[expect(clippy::infinite_loop, reason = "its task is aborted when the daemon stops")]
    pub(crate) async fn accept(self: Rc<Self>, listener: TcpListener) {
        loop {
            let (stream, remote) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, or a connection that died in the backlog.
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(limits::REDIAL.0).await;
                    continue;
                }
            };
            let knocked = self.door.borrow_mut().knock(remote.ip(), Instant::now());
            let guest = match knocked {
                Ok(guest) => guest,
                Err(refused) => {
                    self.refuse(&stream, remote, refused);
                    continue;
                }
            };
            let this = Rc::clone(&self);
            lane::spawn(async move {
                this.answer(stream, remote).await;
                this.door.borrow_mut().done(guest);
            });
        }
    }

    /// Without a word, and without a trace: a reset leaves nothing in the kernel's tables.
    fn refuse(&self, stream: &TcpStream, remote: SocketAddr, refused: Refused) {
        // A stream that is gone already needs none.
        let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        let result = refused.as_str();
        self.count(result);
        self.complain(result, || {
            let so_far = self.handshakes.borrow()[result];
            tracing::warn!(%remote, result, so_far, "too many connections; not answered");
        });
    }

    async fn answer(&self, mut stream: TcpStream, remote: SocketAddr) {
        let admit = async |newcomer| self.admit(newcomer).await;
        let answered = async {
            connection::prepare(&stream, self.dscp)?;
            handshake::answer(&mut stream, &self.credentials, admit).await
        };
        let result = timeout(limits::HANDSHAKE_MAX, answered).await;
        match result.unwrap_or(Err(HandshakeError::Timeout)) {
            Ok((link, secured)) => {
                if let Some(peer) = self.name_of(link) {
                    self.contacts.met(&peer, remote, false);
                }
                self.count(ACCEPTED);
                let joined = Arrival::Joined { link, stream, secured, remote };
                // An error means that the daemon stops.
                let _ = self.arrivals.send(joined).await;
            }
            Err(error) => {
                self.count(FAILED);
                self.complain_of(&error, remote);
            }
        }
    }

    /// The link of who dials. The control loop is asked only for those that it may give one: strangers
    /// cost it nothing.
    async fn admit(&self, newcomer: Newcomer) -> Result<LinkId, HandshakeError> {
        let known = self.known.borrow().get(&newcomer.name).copied();
        let is_known = known.is_some_and(|(_, key)| key == newcomer.key);
        let trusted = self.trusted.borrow().contains(&newcomer.key);
        if is_known || !(trusted || newcomer.invitation.is_some()) {
            return handshake::judge(newcomer, known);
        }
        let (name, key) = (newcomer.name.clone(), newcomer.key);
        let (answer, answered) = oneshot::channel();
        // An error means that the daemon stops: so does this task.
        let _ = self.arrivals.send(Arrival::Asks { newcomer, answer }).await;
        let stops = || Err("it stops".to_owned());
        let admitted = answered.await.unwrap_or_else(|_| stops());
        admitted.map_err(|why| HandshakeError::NotAdmitted { name, key, why })
    }

    fn name_of(&self, link: LinkId) -> Option<PeerName> {
        let known = self.known.borrow();
        known.iter().find(|(_, (id, _))| *id == link).map(|(peer, _)| peer.clone())
    }

    /// Starts dialling one neighbour whenever `connected` says that it has no connection.
    pub(crate) fn dial(
        self: &Rc<Self>,
        dial: Dial,
        connected: watch::Receiver<bool>,
    ) -> AbortHandle {
        let this = Rc::clone(self);
        lane::spawn(async move { this.keep(dial, connected).await }).abort_handle()
    }

    async fn keep(&self, dial: Dial, mut connected: watch::Receiver<bool>) {
        let mut backoff = Backoff::new(dial.patient);
        let mut attempts: u32 = 0;
        loop {
            if connected.wait_for(|connected| !connected).await.is_err() {
                return;
            }
            let address = self.address_of(&dial, attempts);
            attempts = attempts.wrapping_add(1);
            let attempt = async {
                sleep(backoff.wait()).await;
                self.attempt(&dial, address).await
            };
            let attempted = tokio::select! {
                attempted = attempt => Some(attempted),
                _ = connected.wait_for(|connected| *connected) => None,
            };
            let Some(attempted) = attempted else {
                // The neighbour was faster.
                backoff.lived(live(&mut connected).await);
                continue;
            };
            match attempted {
                Ok((stream, remote, secured)) => {
                    let link = dial.link;
                    self.contacts.met(&dial.peer, remote, true);
                    let joined = Arrival::Joined { link, stream, secured, remote };
                    if self.arrivals.send(joined).await.is_err() {
                        return;
                    }
                    let taken = connected.wait_for(|connected| *connected);
                    let taken = timeout(limits::REDIAL.1, taken).await.is_ok();
                    backoff.lived(if taken { live(&mut connected).await } else { Duration::ZERO });
                }
                Err(error) => {
                    backoff.failed(&error);
                    self.contacts.failed(&dial.peer, &format!("{address}: {error}"));
                    self.complain(&format!("dial {}", dial.peer), || {
                        tracing::warn!(peer = %dial.peer, %address, %error, "link not connected");
                    });
                }
            }
        }
    }

    /// The configured address, and every second time the one where the neighbour was met last. That one
    /// comes out of a file, which may be older than the configuration, or another's work.
    fn address_of(&self, dial: &Dial, attempts: u32) -> SocketAddr {
        let learned = self.addresses.of(&dial.peer).filter(|_| attempts % 2 == 1);
        let allowed = learned.and_then(|learned| self.reach.borrow().check(learned).ok());
        allowed.unwrap_or(dial.address)
    }

    async fn attempt(
        &self,
        dial: &Dial,
        address: SocketAddr,
    ) -> Result<(TcpStream, SocketAddr, Secured), HandshakeError> {
        let dialled = async {
            let mut stream = connect(self.listen, self.dscp, address).await?;
            connection::prepare(&stream, self.dscp)?;
            let key = dial.key;
            let secured = handshake::dial(&mut stream, &self.credentials, &dial.peer, key).await?;
            let remote = stream.peer_addr()?;
            Ok((stream, remote, secured))
        };
        timeout(limits::HANDSHAKE_MAX, dialled).await.unwrap_or(Err(HandshakeError::Timeout))
    }

    fn complain_of(&self, error: &HandshakeError, remote: SocketAddr) {
        // Keys of the table are bounded: configured names, and one for all strangers.
        let about = match error {
            HandshakeError::WrongKey { name, .. } | HandshakeError::Signature(name)
                if self.known.borrow().contains_key(name) =>
            {
                self.contacts.failed(name, &format!("{remote}: {error}"));
                format!("key {name}")
            }
            HandshakeError::UnknownPeer { .. } => "unknown peer".to_owned(),
            HandshakeError::NotAdmitted { .. } => "newcomer".to_owned(),
            HandshakeError::Io(_)
            | HandshakeError::Cut
            | HandshakeError::Timeout
            | HandshakeError::Length(_)
            | HandshakeError::NotSpanway
            | HandshakeError::Version(_)
            | HandshakeError::Noise(_)
            | HandshakeError::Parse(_)
            | HandshakeError::Signature(_)
            | HandshakeError::WrongName { .. }
            | HandshakeError::WrongKey { .. }
            | HandshakeError::Refused(_) => "stranger".to_owned(),
        };
        self.complain(&about, || tracing::warn!(%remote, %error, "handshake refused"));
    }

    fn complain(&self, about: &str, log: impl FnOnce()) {
        if self.complaints.borrow_mut().is_due(about) {
            log();
        }
    }
}

/// Waits until the connection is gone; how long it lived.
async fn live(connected: &mut watch::Receiver<bool>) -> Duration {
    let since = Instant::now();
    // An error means that the daemon stops or the link was removed; the caller notices too.
    let _ = connected.wait_for(|connected| !connected).await;
    since.elapsed()
}

pub(super) async fn connect(from: IpAddr, dscp: Dscp, to: SocketAddr) -> io::Result<TcpStream> {
    let reachable = from.is_ipv4() == to.is_ipv4() || (from.is_unspecified() && from.is_ipv6());
    if !reachable {
        // Frames leave from the port this peer listens on, and that cannot send there.
        let text = format!("this peer listens on {from}, which cannot reach {to}");
        return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text));
    }
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Before the first packet leaves.
    net::mark::mark(socket.as_fd(), dscp)?;
    if !from.is_unspecified() {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    let stream = socket.connect(to).await?;
    if stream.local_addr()? == stream.peer_addr()? {
        // On one host an unused port may be given to the very connection that dials it.
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

/// Waits between attempts: growing, with jitter, reset by a connection that lived.
struct Backoff {
    patient: bool,
    wait: Duration,
}

impl Backoff {
    fn new(patient: bool) -> Self {
        Self { patient, wait: Duration::ZERO }
    }

    /// The next wait, spread over 0.5 to 1.5 of its length.
    fn wait(&self) -> Duration {
        let least = if self.patient { limits::DIAL_PATIENCE } else { Duration::ZERO };
        let spread = getrandom::u32().unwrap_or(u32::MAX / 2);
        self.wait.max(least).mul_f64(0.5 + f64::from(spread) / f64::from(u32::MAX))
    }

    fn lived(&mut self, lived: Duration) {
        if lived >= limits::CONNECTION_SETTLED {
            self.wait = limits::REDIAL.0;
        } else {
            self.grow();
        }
    }

    fn failed(&mut self, error: &HandshakeError) {
        if error.is_lasting() {
            self.wait = limits::REDIAL_REFUSED;
        } else {
            self.grow();
        }
    }

    fn grow(&mut self) {
        self.wait = (self.wait * 2).clamp(limits::REDIAL.0, limits::REDIAL.1);
    }
}

/// When which complaint was logged last.
#[derive(Default)]
struct Complaints(BTreeMap<String, Instant>);

impl Complaints {
    fn is_due(&mut self, about: &str) -> bool {
        let now = Instant::now();
        let due = self.0.get(about).is_none_or(|last| now - *last >= limits::COMPLAINT_INTERVAL);
        if due {
            self.0.insert(about.to_owned(), now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_bound_and_are_reset_by_a_connection_that_lived() {
        let mut backoff = Backoff::new(false);
        assert_eq!(backoff.wait(), Duration::ZERO, "the first attempt is at once");
        for _ in 0..20 {
            backoff.failed(&HandshakeError::Cut);
        }
        assert_eq!(backoff.wait, limits::REDIAL.1);
        assert!(backoff.wait() <= limits::REDIAL.1.mul_f64(1.5));
        backoff.lived(Duration::from_millis(3));
        assert_eq!(backoff.wait, limits::REDIAL.1, "a short life is no success");
        backoff.lived(limits::CONNECTION_SETTLED);
        assert_eq!(backoff.wait, limits::REDIAL.0);
        backoff.failed(&HandshakeError::Refused("no".to_owned()));
        assert_eq!(backoff.wait, limits::REDIAL_REFUSED);
    }
}
