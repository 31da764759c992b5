//! An invitation: one line of text with which one newcomer joins at the peer that signed it.
//!
//! ```text
//!  spanway1-  base64url( inviter, its key, addresses, name?, capacity, expiry, id ‖ signature ‖ checksum )
//! ```
//!
//! The number in front is the version of all that follows. The checksum tells a text that was not copied
//! whole from one that somebody has changed. The id is the secret: 128 random bits that the inviter takes
//! once; whoever has the text may join, so it is shown to no log. Pure but for the randomness of a new one;
//! when it expires the inviter judges, by the clock that made it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use blake2::{Blake2s256, Digest as _};

use crate::daemon::identity::{self, Identity};
use crate::limits;
use crate::types::{Bandwidth, PeerName, PublicKey};
use crate::wire::ParseError;
use crate::wire::codec::{Reader, Writer};

const PREFIX: &str = "spanway1-";
/// What the signature begins with, so that it can be mistaken for nothing else.
const SIGNED: &[u8] = b"spanway invitation 1";
const CHECKSUM_BYTES: usize = 4;

/// What the inviter promises.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    pub inviter: PeerName,
    pub key: PublicKey,
    /// Where it listens, best first.
    pub addresses: Vec<SocketAddr>,
    /// What the newcomer has to call itself; any name that is free without it.
    pub name: Option<PeerName>,
    /// Of the link between the two, each way.
    pub capacity: Bandwidth,
    /// Seconds since 1970, by the inviter's clock.
    pub expires: u64,
    id: [u8; 16],
}

/// An invitation as it travels: signed.
#[derive(Clone, PartialEq, Eq)]
pub struct Signed {
    pub invitation: Invitation,
    bytes: Vec<u8>,
}

/// Why a text is no invitation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvitationError {
    #[error("this is no invitation: it begins with {PREFIX}, as `spanway invite` printed it")]
    NoInvitation,
    #[error(
        "this invitation was made by another version ({0:?}; this one reads {PREFIX}): update the older of both"
    )]
    Version(String),
    #[error("the invitation was not copied as it was printed: copy the whole line again")]
    Mistyped,
    #[error(
        "the invitation was changed after {0} had signed it: do not use it, ask for another one"
    )]
    Forged(PeerName),
    #[error("the invitation cannot be read: {0}")]
    Parse(#[from] ParseError),
}

impl Invitation {
    /// A new one, with an id that nobody can guess.
    pub fn new(
        (inviter, key): (PeerName, PublicKey),
        addresses: Vec<SocketAddr>,
        name: Option<PeerName>,
        capacity: Bandwidth,
        expires: u64,
    ) -> Result<Self, getrandom::Error> {
        let mut id = [0; 16];
        getrandom::fill(&mut id)?;
        Ok(Self { inviter, key, addresses, name, capacity, expires, id })
    }

    /// What its inviter remembers it by: no way leads back to the id.
    pub fn id_hash(&self) -> [u8; 32] {
        Blake2s256::digest(self.id).into()
    }

    /// Signs it; `identity` is that of the inviter.
    pub fn sign(self, identity: &Identity) -> Signed {
        let mut bytes = self.emit();
        let signature = identity.sign(&[SIGNED, &bytes].concat());
        bytes.extend_from_slice(&signature);
        Signed { invitation: self, bytes }
    }

    fn emit(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.peer(&self.inviter);
        w.raw(&self.key.0);
        w.list(&self.addresses, |w, address| {
            match address.ip() {
                IpAddr::V4(ip) => {
                    w.u8(4);
                    w.raw(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    w.u8(6);
                    w.raw(&ip.octets());
                }
            }
            w.u16(address.port());
        });
        w.option(self.name.as_ref(), Writer::peer);
        w.bandwidth(self.capacity);
        w.u64(self.expires);
        w.raw(&self.id);
        w.finish().to_vec()
    }

    fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut r = Reader::new(bytes);
        let invitation = Self {
            inviter: r.peer("inviter")?,
            key: PublicKey(r.array("inviter's key")?),
            addresses: r.list(limits::INVITATION_ADDRESSES_MAX, "addresses", address)?,
            name: r.option("name", |r| r.peer("name"))?,
            capacity: r.bandwidth("capacity")?,
            expires: r.u64("expiry")?,
            id: r.array("id")?,
        };
        r.end()?;
        Ok(invitation)
    }
}

impl Signed {
    /// What an inviter is shown.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Reads what [`Self::bytes`] gave, and checks the signature.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvitationError> {
        let (body, signature) = bytes.split_last_chunk().ok_or(InvitationError::Mistyped)?;
        let invitation = Invitation::parse(body)?;
        if !identity::verify(&invitation.key, &[SIGNED, body].concat(), signature) {
            return Err(InvitationError::Forged(invitation.inviter));
        }
        Ok(Self { invitation, bytes: bytes.to_vec() })
    }

    /// The line that a person copies.
    pub fn text(&self) -> String {
        let sum = checksum(&self.bytes);
        format!("{PREFIX}{}", BASE64.encode([&self.bytes[..], &sum].concat()))
    }

    /// Reads such a line. Blanks and line ends in it are a terminal's.
    pub fn from_text(text: &str) -> Result<Self, InvitationError> {
        let line: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let Some(rest) = line.strip_prefix(PREFIX) else {
            let version = line.split_once('-').map(|(version, _)| version);
            let number = version.and_then(|version| version.strip_prefix("spanway"));
            let number = number.filter(|n| n.len() < 5 && n.parse::<u16>().is_ok());
            return Err(number.map_or(InvitationError::NoInvitation, |number| {
                InvitationError::Version(format!("spanway{number}-"))
            }));
        };
        if rest.len() > limits::INVITATION_CHARS_MAX {
            return Err(InvitationError::Mistyped);
        }
        let all = BASE64.decode(rest).map_err(|_| InvitationError::Mistyped)?;
        let at = all.len().checked_sub(CHECKSUM_BYTES).ok_or(InvitationError::Mistyped)?;
        let (bytes, sum) = all.split_at(at);
        if checksum(bytes) != sum {
            return Err(InvitationError::Mistyped);
        }
        Self::from_bytes(bytes)
    }
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invitation of {} until {}", self.inviter, self.expires)
    }
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.invitation.fmt(f)
    }
}

fn address(r: &mut Reader<'_>) -> Result<SocketAddr, ParseError> {
    let ip = match r.u8("address")? {
        4 => Ipv4Addr::from(r.array::<4>("address")?).into(),
        6 => Ipv6Addr::from(r.array::<16>("address")?).into(),
        _ => return Err(r.error("address")),
    };
    Ok(SocketAddr::new(ip, r.u16("port")?))
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest: [u8; 32] = Blake2s256::digest(bytes).into();
    *digest.first_chunk().expect("it is longer")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity() -> Identity {
        let folder = tempfile::tempdir().expect("a scratch folder");
        Identity::create(&folder.path().join("key")).expect("a key")
    }

    fn name(text: &str) -> PeerName {
        PeerName::new(text).expect(text)
    }

    fn signed(identity: &Identity) -> Signed {
        let addresses = ["192.0.2.1:7000", "[2001:db8::1]:7000"];
        let addresses = addresses.map(|address| address.parse().expect("an address")).to_vec();
        let (me, capacity) =
            ((name("berlin"), identity.public_key()), Bandwidth::from_bps(50_000_000));
        let of = Invitation::new(me, addresses, Some(name("oslo")), capacity, 1_800_000_000);
        of.expect("randomness").sign(identity)
    }

    #[test]
    fn an_invitation_is_one_line_that_reads_back_as_it_was() {
        let identity = identity();
        let of = signed(&identity);
        let text = of.text();
        assert!(text.starts_with("spanway1-") && !text.contains(char::is_whitespace), "{text}");
        assert_eq!(Signed::from_text(&text), Ok(of.clone()));
        let wrapped = format!("  {}\n{}\r\n", &text[..40], &text[40..]);
        assert_eq!(Signed::from_text(&wrapped), Ok(of.clone()));
        assert_eq!(Signed::from_bytes(of.bytes()), Ok(of.clone()));
        let other = signed(&identity);
        assert_ne!(of.invitation.id_hash(), other.invitation.id_hash());
    }

    #[test]
    fn its_secret_is_not_shown() {
        let signed = signed(&identity());
        let shown = format!("{signed:?} {:?}", signed.invitation);
        assert!(shown.contains("berlin") && shown.len() < 100, "{shown}");
    }

    #[test]
    fn every_letter_that_is_changed_is_told_as_mistyped() {
        let text = signed(&identity()).text();
        for at in PREFIX.len()..text.len() {
            for by in ["A", "b", "-", "=", "é"] {
                let changed = format!("{}{by}{}", &text[..at], &text[at + 1..]);
                if changed != text {
                    assert_eq!(Signed::from_text(&changed), Err(InvitationError::Mistyped));
                }
            }
            let less = format!("{}{}", &text[..at], &text[at + 1..]);
            assert_eq!(Signed::from_text(&less), Err(InvitationError::Mistyped), "{at}");
        }
    }

    #[test]
    fn every_byte_that_is_changed_breaks_the_signature_whatever_the_checksum_says() {
        let signed = signed(&identity());
        for at in 0..signed.bytes.len() {
            for bit in 0..8 {
                let mut bytes = signed.bytes.clone();
                bytes[at] ^= 1 << bit;
                let sum = checksum(&bytes);
                let text = format!("{PREFIX}{}", BASE64.encode([&bytes[..], &sum].concat()));
                let error = Signed::from_text(&text).expect_err("changed");
                assert!(
                    matches!(error, InvitationError::Forged(_) | InvitationError::Parse(_)),
                    "{at}: {error}"
                );
            }
        }
        let mut other = signed.clone();
        other.invitation.key = identity().public_key();
        let forged = [&other.invitation.emit()[..], &signed.bytes[signed.bytes.len() - 64..]];
        let error = Signed::from_bytes(&forged.concat()).expect_err("not theirs");
        assert_eq!(error, InvitationError::Forged(name("berlin")));
    }

    #[test]
    fn what_is_no_invitation_is_told_from_what_another_version_made() {
        for (text, expected) in [
            ("", "this is no invitation"),
            ("berlin", "this is no invitation"),
            ("spanway-abc", "this is no invitation"),
            ("spanway2-abc", "another version (\"spanway2-\""),
            ("spanway1-", "not copied"),
            ("spanway1-AAAA", "not copied"),
        ] {
            let error = Signed::from_text(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let long = format!("{PREFIX}{}", "A".repeat(limits::INVITATION_CHARS_MAX + 1));
        assert_eq!(Signed::from_text(&long), Err(InvitationError::Mistyped));
    }

    #[test]
    fn the_longest_invitation_fits_into_a_line_and_a_handshake() {
        let identity = identity();
        let long = name(&"n".repeat(limits::NAME_BYTES_MAX));
        let address: SocketAddr = "[2001:db8::1]:7000".parse().expect("an address");
        let addresses = vec![address; limits::INVITATION_ADDRESSES_MAX];
        let me = (long.clone(), identity.public_key());
        let of = Invitation::new(me, addresses, Some(long), Bandwidth::MAX, u64::MAX);
        let signed = of.expect("randomness").sign(&identity);
        assert!(signed.text().len() <= PREFIX.len() + limits::INVITATION_CHARS_MAX);
        assert_eq!(Signed::from_text(&signed.text()), Ok(signed.clone()));
        // The rest of the message: keys, tags, and who the newcomer is.
        let room = crate::daemon::handshake::MESSAGE_BYTES_MAX - 96 - 190;
        assert!(signed.bytes().len() < room, "{}", signed.bytes().len());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,80}", bytes in any::<Vec<u8>>()) {
            prop_assert!(Signed::from_text(&text).is_err());
            let prefixed = format!("{PREFIX}{text}");
            prop_assert!(Signed::from_text(&prefixed).is_err());
            let sum = checksum(&bytes);
            let whole = BASE64.encode([&bytes[..], &sum].concat());
            let whole = format!("{PREFIX}{whole}");
            prop_assert!(Signed::from_text(&whole).is_err());
        }
    }
}
