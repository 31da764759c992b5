//! A neighbour that has its key and says what it likes: the handshake and the sealed messages of a link by
//! hand, so that every message may be a lie.
//!
//! Shares the codec of messages with the product and nothing else. Blocks, for a bounded time.

#![allow(clippy::unwrap_in_result, reason = "what cannot fail in a test stops it")]

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use snow::{HandshakeState, StatelessTransportState};
use spanway::types::{Bandwidth, Incarnation, Label, PeerName, PublicKey};
use spanway::wire::codec::Writer;
use spanway::wire::control::{Hello, Message, VERSIONS};
use spanway::wire::heartbeat::HeartbeatKey;

const PATTERN: &str = "Noise_XX_25519_ChaChaPoly_BLAKE2s";
const PATIENCE: Duration = Duration::from_secs(10);
const TAG_BYTES: usize = 16;

/// Who it says it is; the key is one that its neighbour has in a `[[link]]`, or not.
pub(crate) struct Identity {
    pub(crate) name: PeerName,
    pub(crate) key: SigningKey,
}

/// One connection of a neighbour that was let in.
pub(crate) struct Liar {
    pub(crate) stream: TcpStream,
    noise: StatelessTransportState,
    sent: u64,
    received: u64,
}

impl Identity {
    pub(crate) fn new(name: &str, secret: u8) -> Self {
        let name = PeerName::new(name).expect("a name");
        Self { name, key: SigningKey::from_bytes(&[secret; 32]) }
    }

    /// As a `[[link]]` has it.
    pub(crate) fn public_key(&self) -> PublicKey {
        PublicKey(self.key.verifying_key().to_bytes())
    }

    /// The first message of a connection, honest.
    pub(crate) fn hello(&self) -> Hello {
        Hello {
            versions: VERSIONS,
            name: self.name.clone(),
            incarnation: Incarnation(7),
            capacity: Bandwidth::from_bps(90_000_000),
            mtu: 1_500,
            data_port: 9,
            workers: 1,
            heartbeat_label: Label(0x77),
            heartbeat_key: HeartbeatKey([7; 32]),
            session: None,
            hop_tag: false,
        }
    }

    /// What `address` has to say to this identity: a connection, or why not.
    pub(crate) fn dial(&self, address: SocketAddr) -> Result<Liar, String> {
        let failed = |error: io::Error| error.to_string();
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(failed)?;
        self.shake(&mut stream).and_then(|noise| self.verdict(stream, noise))
    }

    fn shake(&self, stream: &mut TcpStream) -> Result<HandshakeState, String> {
        let failed = |error: io::Error| error.to_string();
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        let pattern = || PATTERN.parse().expect("a pattern");
        let pair = snow::Builder::new(pattern()).generate_keypair().expect("a pair");
        let builder = snow::Builder::new(pattern()).local_private_key(&pair.private);
        let mut noise = builder.and_then(snow::Builder::build_initiator).expect("built");
        let mut message = vec![0; 1_024];
        let length = noise.write_message(&greeting(None), &mut message).expect("room");
        write_piece(stream, &message[..length]).map_err(failed)?;
        let answer = read_piece(stream).map_err(failed)?;
        noise.read_message(&answer, &mut message).map_err(|error| error.to_string())?;
        let signed = [b"spanway noise 1", &pair.public[..]].concat();
        let proof = (&self.name, self.public_key(), self.key.sign(&signed).to_bytes());
        let length = noise.write_message(&greeting(Some(proof)), &mut message).expect("room");
        write_piece(stream, &message[..length]).map_err(failed)?;
        Ok(noise)
    }

    fn verdict(&self, mut stream: TcpStream, noise: HandshakeState) -> Result<Liar, String> {
        let noise = noise.into_stateless_transport_mode().expect("finished");
        let sealed = read_piece(&mut stream).map_err(|error| error.to_string())?;
        let mut verdict = vec![0; sealed.len()];
        noise.read_message(0, &sealed, &mut verdict).map_err(|error| error.to_string())?;
        if verdict[0] == 1 {
            Ok(Liar { stream, noise, sent: 0, received: 1 })
        } else {
            Err(String::from_utf8_lossy(&verdict[3..]).into_owned())
        }
    }

    /// A link that is up: greeted both ways, until its heartbeats are missed.
    pub(crate) fn link(&self, address: SocketAddr) -> Result<Liar, String> {
        let mut liar = self.dial(address)?;
        liar.say(&Message::Hello(self.hello())).map_err(|error| error.to_string())?;
        Ok(liar)
    }
}

impl Liar {
    pub(crate) fn say(&mut self, message: &Message) -> io::Result<()> {
        self.say_bytes(&message.emit())
    }

    /// Sealed as a message, whatever it is.
    pub(crate) fn say_bytes(&mut self, plain: &[u8]) -> io::Result<()> {
        let mut sealed = vec![0; plain.len() + TAG_BYTES];
        self.noise.write_message(self.sent, plain, &mut sealed).expect("room");
        self.sent += 1;
        write_piece(&mut self.stream, &sealed)
    }

    /// The next message; an error once the other end has closed.
    pub(crate) fn hear(&mut self) -> io::Result<Message> {
        let sealed = read_piece(&mut self.stream)?;
        let mut plain = vec![0; sealed.len()];
        let length = self.noise.read_message(self.received, &sealed, &mut plain);
        self.received += 1;
        let length = length.map_err(io::Error::other)?;
        Message::parse(&plain[..length]).map_err(io::Error::other)
    }

    /// Everything that still comes, until the other end closes. `None`: it has not closed in time.
    pub(crate) fn hear_all(&mut self, most: Duration) -> Option<Vec<Message>> {
        self.stream.set_read_timeout(Some(most)).expect("a time above zero");
        let mut heard = Vec::new();
        loop {
            match self.hear() {
                Ok(message) => heard.push(message),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(_) => return Some(heard),
            }
        }
    }
}

fn greeting(proof: Option<(&PeerName, PublicKey, [u8; 64])>) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.raw(b"spanway\0");
    writer.u16(1);
    writer.u16(1);
    if let Some((name, key, signature)) = proof {
        writer.peer(name);
        writer.raw(&key.0);
        writer.raw(&signature);
    }
    writer.finish().to_vec()
}

fn write_piece(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat())
}

fn read_piece(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}
