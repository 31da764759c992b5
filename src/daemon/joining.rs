//! The newcomer's side of an invitation: dials the inviter, shows it, hears the verdict.
//!
//! No daemon runs for that: who was admitted is trusted by its key from then on, and its daemon
//! dials as every other does. The invitation is shown to nobody but the peer whose key signed it.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use tokio::time::timeout;

use crate::daemon::handshake::{self, Credentials, HandshakeError};
use crate::daemon::identity::Identity;
use crate::daemon::invitation::Signed;
use crate::daemon::{connection, in_words, neighbours};
use crate::limits;
use crate::types::address::{Kind, Reach, Why};
use crate::types::{Dscp, PeerName};

/// Why a newcomer was not admitted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    /// By the inviter itself: trying again is of no use.
    #[error("{inviter} refused: {why}")]
    Refused { inviter: PeerName, why: String },
    #[error(
        "{inviter} was not reached, and has seen no invitation; try again, or ask for one with another \
         --address:\n{all}", all = .tried.join("\n")
    )]
    NotReached { inviter: PeerName, tried: Vec<String> },
    /// The verdict was lost.
    #[error(
        "{inviter} did not say whether it has accepted this peer: run the same command again:\n{all}",
        all = .tried.join("\n")
    )]
    Undecided { inviter: PeerName, tried: Vec<String> },
    #[error("this host cannot begin: {0}")]
    Here(String),
}

/// Shows the invitation at each of its addresses until one of them answers; the one that did.
pub(crate) fn present(
    identity: &Identity,
    name: &PeerName,
    listen: SocketAddr,
    invitation: &Signed,
    mut dials: impl FnMut(SocketAddr),
) -> Result<SocketAddr, JoinError> {
    let here = |error: &dyn std::error::Error| JoinError::Here(error.to_string());
    let me = Credentials::new(name.clone(), identity).map_err(|error| here(&error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| here(&error))?;
    let inviter = invitation.invitation.inviter.clone();
    let told = &invitation.invitation.addresses;
    // Who joins a private overlay has chosen to; this host and its wire are nobody's to name.
    let reach = Reach::new(listen, listen.port()..=listen.port(), told.iter().copied());
    let (mut tried, mut undecided) = (Vec::new(), false);
    for &address in told {
        let address = match reach.check(address) {
            Ok(address) => address,
            Err(refusal) => {
                tried.push(format!("  {refusal}{}", advice(refusal.why)));
                continue;
            }
        };
        dials(address);
        let dialled = show(&me, listen.ip(), address, invitation);
        let bounded = async { timeout(TIME_MAX, dialled).await };
        match runtime.block_on(bounded).unwrap_or(Err(HandshakeError::Timeout)) {
            Ok(()) => return Ok(address),
            Err(HandshakeError::Refused(why)) => return Err(JoinError::Refused { inviter, why }),
            Err(error) => {
                undecided |= may_have_seen(&error);
                let why = if let HandshakeError::Io(error) = &error {
                    in_words(error)
                } else {
                    error.to_string()
                };
                tried.push(format!("  {address}: {why}"));
            }
        }
    }
    Err(match undecided {
        true => JoinError::Undecided { inviter, tried },
        false => JoinError::NotReached { inviter, tried },
    })
}

/// Who tries two peers on one host learns how; an invitation alone leads nobody to this host.
fn advice(why: Why) -> &'static str {
    match why {
        Why::Kind(Kind::Loopback) => {
            "; if that peer runs on this very host, add --listen 127.0.0.1:PORT with a port that is free"
        }
        Why::Kind(_) | Why::NoPort | Why::Own => "",
    }
}

/// The invitation leaves with the last message, once the other end has proved who it is.
fn may_have_seen(error: &HandshakeError) -> bool {
    match error {
        HandshakeError::Io(error) => error.kind() != io::ErrorKind::ConnectionRefused,
        HandshakeError::Cut
        | HandshakeError::Timeout
        | HandshakeError::Length(_)
        | HandshakeError::Noise(_)
        | HandshakeError::Parse(_)
        | HandshakeError::Refused(_) => true,
        HandshakeError::NotSpanway
        | HandshakeError::Version(_)
        | HandshakeError::Signature(_)
        | HandshakeError::UnknownPeer { .. }
        | HandshakeError::WrongName { .. }
        | HandshakeError::WrongKey { .. }
        | HandshakeError::NotAdmitted { .. } => false,
    }
}

/// For the connection, the handshake, and the inviter's disk.
const TIME_MAX: Duration =
    Duration::from_secs(limits::HANDSHAKE_MAX.as_secs() + limits::CONNECTION_SETTLED.as_secs());

async fn show(
    me: &Credentials,
    from: IpAddr,
    to: SocketAddr,
    invitation: &Signed,
) -> Result<(), HandshakeError> {
    let mut stream = neighbours::connect(from, Dscp::default(), to).await?;
    connection::prepare(&stream, Dscp::default())?;
    let inviter = (&invitation.invitation.inviter, invitation.invitation.key);
    let shown = Some(invitation.bytes());
    handshake::dial_with(&mut stream, me, inviter, shown).await.map(drop)
}

/// Whether a daemon could listen there: said before anybody is told of it.
pub(crate) fn can_listen(listen: SocketAddr) -> Result<(), String> {
    let tcp = TcpListener::bind(listen).map(drop);
    let bound = tcp.and_then(|()| UdpSocket::bind(listen).map(drop));
    bound.map_err(|error| format!("cannot listen on {listen}: {}", in_words(&error)))
}
