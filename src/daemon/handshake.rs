//! The handshake of a link's TCP connection: Noise XX, and in its payloads who each end is.
//!
//! ```text
//! dialler                                                     answerer
//!   hello: magic, versions                          ──────►    e
//!   e, ee, s, es                                    ◄──────    hello, name, key, signature
//!   s, se: hello, name, key, signature, invitation  ──────►    checks them
//!   checked already                                 ◄──────    verdict: accepted, or why not
//! ```
//!
//! The Noise static key is made when the daemon starts; the identity (Ed25519) signs it. The dialler knows
//! whom it dials. The answerer admits whom it has a `[[link]]` to, whom it trusts, and whoever shows an
//! invitation, which only a newcomer does. The verdict makes both ends know the outcome, so a refused dialler
//! waits long instead of trying on.
//!
//! Assumes a byte stream with limits on time set by the caller. Does no cryptography of its own.

use std::io;

use snow::{HandshakeState, StatelessTransportState};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use crate::daemon::identity::{self, Identity};
use crate::types::{LinkId, PeerName, PublicKey};
use crate::wire::ParseError;
use crate::wire::codec::{Reader, Writer};
use crate::wire::tag::HopKeys;

/// Handshake versions this build speaks: (lowest, highest).
pub(crate) const VERSIONS: (u16, u16) = (1, 1);
/// First bytes of every payload: tells a stranger's bytes from another version's.
const MAGIC: [u8; 8] = *b"spanway\0";
const PATTERN: &str = "Noise_XX_25519_ChaChaPoly_BLAKE2s";
/// What the signature over a Noise key begins with, so that it can be mistaken for nothing else.
const SIGNED: &[u8] = b"spanway noise 1";
/// Largest handshake message: keys and tags take 96 bytes, the payload about 190, a verdict its text.
pub(crate) const MESSAGE_BYTES_MAX: usize = 2_048;
/// Tag of the optional field that has an invitation.
const INVITATION: u16 = 1;
/// Tag of a Noise message.
pub(crate) const TAG_BYTES: usize = 16;

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the other end closed the connection in the middle of the handshake")]
    Cut,
    #[error("no handshake within {} s", crate::limits::HANDSHAKE_MAX.as_secs())]
    Timeout,
    #[error("a handshake message of {0} bytes; {MESSAGE_BYTES_MAX} are allowed")]
    Length(usize),
    #[error("the other end does not speak Spanway's handshake")]
    NotSpanway,
    #[error(
        "the other end speaks handshake versions {}-{}, this one {}-{}: update the older one",
        .0.0, .0.1, VERSIONS.0, VERSIONS.1
    )]
    Version((u16, u16)),
    #[error("Noise refused the message: {0}")]
    Noise(#[from] snow::Error),
    #[error("{0}")]
    Parse(#[from] ParseError),
    #[error("peer {0} did not prove that its key is its own: the signature is wrong")]
    Signature(PeerName),
    #[error(
        "peer {name} (key {got}) is no [[link]] of this peer and not in [trust]: add its key, or remove the other end's link",
        got = .key.fingerprint()
    )]
    UnknownPeer { name: PeerName, key: PublicKey },
    #[error(
        "peer {got} answered where {expected} was expected: correct the address of its [[link]]"
    )]
    WrongName { expected: PeerName, got: PeerName },
    #[error(
        "peer {name} has another key than its [[link]] says: expected {}, got {}",
        .expected.fingerprint(), .got.fingerprint()
    )]
    WrongKey { name: PeerName, expected: PublicKey, got: PublicKey },
    #[error("peer {name} (key {got}) is not admitted: {why}", got = .key.fingerprint())]
    NotAdmitted { name: PeerName, key: PublicKey, why: String },
    #[error("the other end refused this peer: {0}")]
    Refused(String),
}

impl HandshakeError {
    /// A person has to change something first: trying again soon is of no use.
    pub(crate) fn is_lasting(&self) -> bool {
        matches!(
            self,
            Self::NotSpanway
                | Self::Version(_)
                | Self::Signature(_)
                | Self::UnknownPeer { .. }
                | Self::WrongName { .. }
                | Self::WrongKey { .. }
                | Self::NotAdmitted { .. }
                | Self::Refused(_)
        )
    }
}

/// This peer's side of every handshake: its Noise key of this run, and its identity's signature.
pub(crate) struct Credentials {
    noise_key: Zeroizing<Vec<u8>>,
    proof: Proof,
}

/// Who dials, and has proved its key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Newcomer {
    pub(crate) name: PeerName,
    pub(crate) key: PublicKey,
    /// Secret: not to be shown.
    pub(crate) invitation: Option<Vec<u8>>,
}

/// Who an end says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Proof {
    name: PeerName,
    key: PublicKey,
    signature: [u8; 64],
}

/// A link's connection after the handshake: the ciphers and the count of messages each way.
pub(crate) struct Secured {
    pub(crate) noise: StatelessTransportState,
    /// Keys of the hop tags of frames, for as long as this connection lives.
    pub(crate) hop_keys: HopKeys,
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

impl Secured {
    /// `sent` and `received` of the messages of this handshake that were sealed already.
    fn new(
        mut finished: HandshakeState,
        (sent, received): (u64, u64),
    ) -> Result<Self, HandshakeError> {
        let split = finished.dangerously_get_raw_split();
        let (there, back) = (Zeroizing::new(split.0), Zeroizing::new(split.1));
        // The initiator sends with the first one.
        let hop_keys = match finished.is_initiator() {
            true => HopKeys::derive(&there, &back),
            false => HopKeys::derive(&back, &there),
        };
        Ok(Self { noise: finished.into_stateless_transport_mode()?, hop_keys, sent, received })
    }
}

impl Credentials {
    pub(crate) fn new(name: PeerName, identity: &Identity) -> Result<Self, HandshakeError> {
        let pair = snow::Builder::new(pattern()).generate_keypair()?;
        let signature = identity.sign(&signed_text(&pair.public));
        let proof = Proof { name, key: identity.public_key(), signature };
        Ok(Self { noise_key: Zeroizing::new(pair.private), proof })
    }

    fn builder(&self) -> Result<snow::Builder<'_>, snow::Error> {
        snow::Builder::new(pattern()).local_private_key(&self.noise_key)
    }
}

/// The dialler's part; the other end has to be `name` with `key`.
pub(crate) async fn dial<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    me: &Credentials,
    name: &PeerName,
    key: PublicKey,
) -> Result<Secured, HandshakeError> {
    dial_with(stream, me, (name, key), None).await
}

/// The same with an invitation, which only who was checked before gets to see.
pub(crate) async fn dial_with<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    me: &Credentials,
    (name, key): (&PeerName, PublicKey),
    invitation: Option<&[u8]>,
) -> Result<Secured, HandshakeError> {
    let mut noise = me.builder()?.build_initiator()?;
    send(stream, &mut noise, &hello(None)).await?;
    let payload = receive(stream, &mut noise).await?;
    let (proof, _) = check(&payload, &noise)?;
    if proof.name != *name {
        return Err(HandshakeError::WrongName { expected: name.clone(), got: proof.name });
    }
    if proof.key != key {
        return Err(HandshakeError::WrongKey { name: proof.name, expected: key, got: proof.key });
    }
    send(stream, &mut noise, &last_hello(&me.proof, invitation)).await?;
    let secured = Secured::new(noise, (0, 1))?;
    let sealed = read_piece(stream).await?;
    let mut verdict = vec![0; sealed.len()];
    let length = secured.noise.read_message(0, &sealed, &mut verdict)?;
    let mut reader = Reader::new(&verdict[..length]);
    if reader.bool("verdict")? {
        Ok(secured)
    } else {
        Err(HandshakeError::Refused(reader.text("verdict")?))
    }
}

/// The answerer's part; `admit` tells the link of who dials, or why it has none.
pub(crate) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    me: &Credentials,
    admit: impl AsyncFnOnce(Newcomer) -> Result<LinkId, HandshakeError>,
) -> Result<(LinkId, Secured), HandshakeError> {
    let mut noise = me.builder()?.build_responder()?;
    let payload = receive(stream, &mut noise).await?;
    let spoken = parse_hello(&mut Reader::new(&payload));
    if let Err(error @ HandshakeError::NotSpanway) = spoken {
        // Strangers get no answer at all.
        return Err(error);
    }
    // Another version does: it shall be able to name both.
    send(stream, &mut noise, &hello(Some(&me.proof))).await?;
    spoken?;
    let payload = receive(stream, &mut noise).await?;
    let judged = match check(&payload, &noise) {
        Ok((Proof { name, key, .. }, invitation)) => {
            admit(Newcomer { name, key, invitation }).await
        }
        Err(wrong) => Err(wrong),
    };
    let secured = Secured::new(noise, (1, 0))?;
    let mut verdict = Writer::new();
    verdict.bool(judged.is_ok());
    verdict.text(&judged.as_ref().err().map(told).unwrap_or_default());
    let verdict = verdict.finish();
    let mut sealed = vec![0; verdict.len() + TAG_BYTES];
    secured.noise.write_message(0, &verdict, &mut sealed)?;
    write_piece(stream, &sealed).await?;
    Ok((judged?, secured))
}

/// Admits who has a link that is known by its name.
pub(crate) fn judge(
    newcomer: Newcomer,
    known: Option<(LinkId, PublicKey)>,
) -> Result<LinkId, HandshakeError> {
    let Newcomer { name, key, .. } = newcomer;
    match known {
        None => Err(HandshakeError::UnknownPeer { name, key }),
        Some((_, expected)) if expected != key => {
            Err(HandshakeError::WrongKey { name, expected, got: key })
        }
        Some((link, _)) => Ok(link),
    }
}

/// What a refused dialler is told: nothing that it does not know already.
fn told(error: &HandshakeError) -> String {
    match error {
        HandshakeError::UnknownPeer { name, .. } => {
            format!("it has no [[link]] to {name} and does not trust its key")
        }
        HandshakeError::NotAdmitted { why, .. } => why.clone(),
        HandshakeError::WrongKey { name, got, .. } => {
            format!("its [[link]] to {name} has another key than {}", got.fingerprint())
        }
        HandshakeError::Version(_) | HandshakeError::Signature(_) => error.to_string(),
        HandshakeError::Io(_)
        | HandshakeError::Cut
        | HandshakeError::Timeout
        | HandshakeError::Length(_)
        | HandshakeError::NotSpanway
        | HandshakeError::Noise(_)
        | HandshakeError::Parse(_)
        | HandshakeError::WrongName { .. }
        | HandshakeError::Refused(_) => "the handshake is not valid".to_owned(),
    }
}

/// Reads the other end's proof, and its invitation if it shows one, and checks that its identity signed the
/// Noise key in use.
fn check(
    payload: &[u8],
    noise: &HandshakeState,
) -> Result<(Proof, Option<Vec<u8>>), HandshakeError> {
    let mut reader = Reader::new(payload);
    parse_hello(&mut reader)?;
    let proof = Proof {
        name: reader.peer("peer name")?,
        key: PublicKey(reader.array("peer key")?),
        signature: reader.array("peer signature")?,
    };
    let all = |r: &mut Reader<'_>| r.take(r.remaining(), "invitation").map(<[u8]>::to_vec);
    let invitation = reader.optional_field(INVITATION, "invitation", all)?;
    reader.end()?;
    let noise_key = noise.get_remote_static().unwrap_or_default();
    if !identity::verify(&proof.key, &signed_text(noise_key), &proof.signature) {
        return Err(HandshakeError::Signature(proof.name));
    }
    Ok((proof, invitation))
}

/// That of a dialler, with what it was given to show.
fn last_hello(proof: &Proof, invitation: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = hello(Some(proof));
    if let Some(invitation) = invitation {
        let mut writer = Writer::new();
        writer.optional_field(INVITATION, |w| w.raw(invitation));
        bytes.extend_from_slice(&writer.finish());
    }
    bytes
}

/// Magic, versions and, where the receiver may know it, who the sender is.
fn hello(proof: Option<&Proof>) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.raw(&MAGIC);
    writer.u16(VERSIONS.0);
    writer.u16(VERSIONS.1);
    if let Some(proof) = proof {
        writer.peer(&proof.name);
        writer.raw(&proof.key.0);
        writer.raw(&proof.signature);
    }
    writer.finish().to_vec()
}

fn parse_hello(reader: &mut Reader<'_>) -> Result<(), HandshakeError> {
    if reader.array("magic").ok() != Some(MAGIC) {
        return Err(HandshakeError::NotSpanway);
    }
    let versions = (reader.u16("handshake version")?, reader.u16("handshake version")?);
    if versions.0 > VERSIONS.1 || versions.1 < VERSIONS.0 {
        return Err(HandshakeError::Version(versions));
    }
    Ok(())
}

fn pattern() -> snow::params::NoiseParams {
    PATTERN.parse().expect("the pattern is a constant that snow knows")
}

fn signed_text(noise_key: &[u8]) -> Vec<u8> {
    [SIGNED, noise_key].concat()
}

async fn send<S: AsyncWrite + Unpin>(
    stream: &mut S,
    noise: &mut HandshakeState,
    payload: &[u8],
) -> Result<(), HandshakeError> {
    let mut message = vec![0; MESSAGE_BYTES_MAX];
    let length = noise.write_message(payload, &mut message)?;
    write_piece(stream, &message[..length]).await
}

async fn receive<S: AsyncRead + Unpin>(
    stream: &mut S,
    noise: &mut HandshakeState,
) -> Result<Vec<u8>, HandshakeError> {
    let message = read_piece(stream).await?;
    let mut payload = vec![0; MESSAGE_BYTES_MAX];
    let length = noise.read_message(&message, &mut payload)?;
    payload.truncate(length);
    Ok(payload)
}

async fn write_piece<S: AsyncWrite + Unpin>(
    stream: &mut S,
    bytes: &[u8],
) -> Result<(), HandshakeError> {
    let length = u16::try_from(bytes.len()).map_err(|_| HandshakeError::Length(bytes.len()))?;
    let piece = [&length.to_be_bytes(), bytes].concat();
    stream.write_all(&piece).await?;
    Ok(())
}

async fn read_piece<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Vec<u8>, HandshakeError> {
    let mut length = [0; 2];
    read_exact(stream, &mut length).await?;
    let length = usize::from(u16::from_be_bytes(length));
    if !(TAG_BYTES..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(HandshakeError::Length(length));
    }
    let mut bytes = vec![0; length];
    read_exact(stream, &mut bytes).await?;
    Ok(bytes)
}

async fn read_exact<S: AsyncRead + Unpin>(
    stream: &mut S,
    bytes: &mut [u8],
) -> Result<(), HandshakeError> {
    match stream.read_exact(bytes).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(HandshakeError::Cut),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::DuplexStream;

    use super::*;

    fn name(text: &str) -> PeerName {
        PeerName::new(text).expect(text)
    }

    /// An identity as a peer has it: from a key file.
    fn identity() -> Identity {
        let folder = tempfile::tempdir().expect("a scratch folder");
        Identity::create(&folder.path().join("key")).expect("a key")
    }

    struct Both {
        dialled: Result<Secured, HandshakeError>,
        answered: Result<(LinkId, Secured), HandshakeError>,
    }

    /// `a` dials `b`; each end knows the other by the key that is given.
    fn shake(a: &Identity, b: &Identity, key_of_b: PublicKey, key_of_a: PublicKey) -> Both {
        let (me, other) = (credentials("a", a), credentials("b", b));
        run(async {
            let (mut here, mut there) = tokio::io::duplex(4_096);
            let known = async |newcomer: Newcomer| {
                let known = (newcomer.name == name("a")).then_some((LinkId(7), key_of_a));
                judge(newcomer, known)
            };
            let dialling = async {
                let dialled = dial(&mut here, &me, &name("b"), key_of_b).await;
                drop(here);
                dialled
            };
            let answering = async {
                let answered = answer(&mut there, &other, known).await;
                drop(there);
                answered
            };
            let (dialled, answered) = tokio::join!(dialling, answering);
            Both { dialled, answered }
        })
    }

    async fn nobody(newcomer: Newcomer) -> Result<LinkId, HandshakeError> {
        judge(newcomer, None)
    }

    fn credentials(text: &str, identity: &Identity) -> Credentials {
        Credentials::new(name(text), identity).expect("credentials")
    }

    fn run<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(future)
    }

    #[test]
    fn two_neighbours_with_the_right_keys_read_each_other() {
        let (a, b) = (identity(), identity());
        let both = shake(&a, &b, b.public_key(), a.public_key());
        let here = both.dialled.expect("accepted");
        let (link, there) = both.answered.expect("accepted");
        assert_eq!(link, LinkId(7));
        assert_eq!(here.hop_keys.send, there.hop_keys.receive);
        assert_eq!(here.hop_keys.receive, there.hop_keys.send);
        assert_ne!(here.hop_keys.send, here.hop_keys.receive, "each direction has its own");
        let again = shake(&a, &b, b.public_key(), a.public_key()).dialled.expect("accepted");
        assert_ne!(here.hop_keys.send, again.hop_keys.send, "and each connection");
        let mut sealed = [0; 5 + TAG_BYTES];
        let mut text = [0; 5 + TAG_BYTES];
        here.noise.write_message(here.sent, b"hello", &mut sealed).expect("sealed");
        let length = there.noise.read_message(there.received, &sealed, &mut text).expect("read");
        assert_eq!(&text[..length], b"hello");
        there.noise.write_message(there.sent, b"hello", &mut sealed).expect("sealed");
        assert!(here.noise.read_message(here.received, &sealed, &mut text).is_ok());
    }

    #[test]
    fn a_wrong_key_is_refused_with_both_fingerprints_by_whoever_sees_it() {
        let (a, b, other) = (identity(), identity(), identity());
        let both = shake(&a, &b, other.public_key(), a.public_key());
        let error = both.dialled.err().expect("refused");
        assert!(error.is_lasting());
        let text = error.to_string();
        assert!(text.contains(&other.fingerprint()) && text.contains(&b.fingerprint()), "{text}");
        assert!(matches!(both.answered, Err(HandshakeError::Cut)));

        let both = shake(&a, &b, b.public_key(), other.public_key());
        let text = both.answered.err().expect("refused").to_string();
        assert!(text.contains(&other.fingerprint()) && text.contains(&a.fingerprint()), "{text}");
        let told = both.dialled.err().expect("refused");
        assert!(told.is_lasting());
        let text = told.to_string();
        assert!(text.contains(&a.fingerprint()) && !text.contains(&other.fingerprint()), "{text}");
    }

    #[test]
    fn a_key_that_did_not_sign_the_noise_key_is_no_proof() {
        let (a, b) = (identity(), identity());
        let mut forged = credentials("a", &identity());
        forged.proof.key = a.public_key();
        let other = credentials("b", &b);
        let known = async |newcomer: Newcomer| judge(newcomer, Some((LinkId(0), a.public_key())));
        let answered = run(async {
            let (mut here, mut there) = tokio::io::duplex(4_096);
            let (peer, key) = (name("b"), b.public_key());
            let dialling = dial(&mut here, &forged, &peer, key);
            tokio::join!(dialling, answer(&mut there, &other, known)).1
        });
        assert!(matches!(answered, Err(HandshakeError::Signature(peer)) if peer == name("a")));
    }

    #[test]
    fn another_peer_at_the_address_is_refused_by_its_name() {
        let (a, b) = (credentials("a", &identity()), credentials("b", &identity()));
        let dialled = run(async {
            let (mut here, mut there) = tokio::io::duplex(4_096);
            let (peer, key) = (name("c"), b.proof.key);
            let dialling = async {
                let dialled = dial(&mut here, &a, &peer, key).await;
                drop(here);
                dialled
            };
            tokio::join!(dialling, answer(&mut there, &b, nobody)).0
        });
        assert!(matches!(dialled, Err(HandshakeError::WrongName { got, .. }) if got == name("b")));
    }

    #[test]
    fn an_invitation_is_shown_to_who_was_meant_and_a_long_one_fits() {
        for invitation in [None, Some(vec![7; 1_400])] {
            let (a, b) = (identity(), identity());
            let (me, other) = (credentials("a", &a), credentials("b", &b));
            let shown = run(async {
                let (mut here, mut there) = tokio::io::duplex(4_096);
                let (peer, key) = (name("b"), b.public_key());
                let mut shown = None;
                let admit = async |newcomer: Newcomer| {
                    let (name, key) = (newcomer.name.clone(), newcomer.key);
                    shown = Some(newcomer);
                    Err(HandshakeError::NotAdmitted { name, key, why: "it has expired".into() })
                };
                let dialling = dial_with(&mut here, &me, (&peer, key), invitation.as_deref());
                let (dialled, answered) = tokio::join!(dialling, answer(&mut there, &other, admit));
                let said = dialled.err().expect("refused");
                assert!(said.is_lasting() && said.to_string().contains("it has expired"), "{said}");
                assert!(answered.is_err());
                shown.expect("it was asked")
            });
            assert_eq!((shown.name, shown.key), (name("a"), a.public_key()));
            assert_eq!(shown.invitation, invitation);
        }
    }

    /// Sends `piece` as the first message and returns what the answerer says and what it sent.
    fn first_message(piece: &[u8]) -> (HandshakeError, Vec<u8>) {
        let b = credentials("b", &identity());
        run(async {
            let (mut here, mut there): (DuplexStream, DuplexStream) = tokio::io::duplex(4_096);
            here.write_all(piece).await.expect("written");
            here.shutdown().await.expect("shut down");
            let error = answer(&mut there, &b, nobody).await.err().expect("refused");
            drop(there);
            let mut answer = Vec::new();
            here.read_to_end(&mut answer).await.expect("read");
            (error, answer)
        })
    }

    #[test]
    fn a_stranger_gets_no_answer() {
        for (piece, expected) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "18245 bytes"),
            (&[0, 0], "0 bytes"),
            (&[0xff, 0xff, 1, 2, 3], "65535 bytes"),
            (&[0, 40, 1, 2, 3], "in the middle"),
            (&[&[0, 40][..], &[7; 40]].concat(), "does not speak"),
        ] {
            let (error, answer) = first_message(piece);
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(answer, b"", "{piece:?} was answered");
        }
    }

    #[test]
    fn another_version_is_refused_naming_both() {
        let mut noise = snow::Builder::new(pattern()).local_private_key(&[1; 32]).expect("a key");
        noise = noise.prologue(&[]).expect("none");
        let mut noise = noise.build_initiator().expect("built");
        let mut payload = hello(None);
        payload[MAGIC.len()..].copy_from_slice(&[0, 8, 0, 9]);
        let mut message = vec![0; MESSAGE_BYTES_MAX];
        let length = noise.write_message(&payload, &mut message).expect("written");
        let length_bytes = u16::try_from(length).expect("short").to_be_bytes();
        let (error, answer) = first_message(&[&length_bytes, &message[..length]].concat());
        let text = error.to_string();
        assert!(text.contains("versions 8-9") && text.contains("this one 1-1"), "{text}");
        assert!(!answer.is_empty(), "the other end is told our version");
    }
}
