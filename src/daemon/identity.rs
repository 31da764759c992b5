//! The long-lived key of a peer: made once, kept in a file only its owner can read, never remade.
//!
//! The file is text: a header line, then the Ed25519 seed in 64 hexadecimal digits. Whatever is wrong
//! with it is an error that says what to do; nothing here repairs or replaces a key, because a peer
//! with a new key is a stranger to all its neighbours.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use super::store;
use crate::types::PublicKey;

/// First line of a key file; the number is the version of the format.
const HEADER: &str = "spanway-identity-1";
const SEED_BYTES: usize = 32;
/// Header, newline, digits, newline.
const FILE_BYTES: usize = HEADER.len() + 1 + 2 * SEED_BYTES + 1;

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(
        "key file {path} is missing: put the peer's key back; a new peer gets one by \
         `spanway key --new {path}`, a new overlay by `spanway init`"
    )]
    Missing { path: PathBuf },
    #[error("key file {path} is truncated: put a copy of it back (nothing was changed)")]
    Truncated { path: PathBuf },
    #[error(
        "{path} is not a Spanway key file: {why}; correct key_file, or put the key back \
         (nothing was changed)"
    )]
    WrongType { path: PathBuf, why: &'static str },
    #[error(
        "key file {path} has mode {mode:04o}, others may read it: run `chmod 600 {path}`, and make a \
         new key if somebody else could have copied it"
    )]
    Mode { path: PathBuf, mode: u32 },
    #[error("key file {path} exists already and is never overwritten: move it away first")]
    Exists { path: PathBuf },
    #[error("key file {path} cannot be {what}: {source}")]
    Io { path: PathBuf, what: &'static str, source: io::Error },
    #[error("the operating system gives no random numbers for a key: {0}")]
    Random(getrandom::Error),
}

/// A peer's key pair. Secrets are wiped from memory when it is dropped, and never shown.
#[derive(Clone)]
pub struct Identity {
    key: SigningKey,
}

impl Identity {
    /// Reads a key file.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let path_buf = || path.to_owned();
        let io = |source: io::Error| {
            if source.kind() == io::ErrorKind::NotFound {
                return IdentityError::Missing { path: path_buf() };
            }
            IdentityError::Io { path: path_buf(), what: "read", source }
        };
        // Before it is opened: opening a pipe would wait for a writer.
        let metadata = std::fs::metadata(path).map_err(io)?;
        if !metadata.is_file() {
            let why = "it is a folder, device or pipe";
            return Err(IdentityError::WrongType { path: path_buf(), why });
        }
        let file = File::open(path).map_err(io)?;
        let mode = file.metadata().map_err(io)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Mode { path: path_buf(), mode });
        }
        // Room for everything at once: a buffer that grows leaves copies of the secret behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES + 1));
        file.take(FILE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
        let seed = parse(&bytes).map_err(|wrong| match wrong {
            Wrong::Truncated => IdentityError::Truncated { path: path_buf() },
            Wrong::Type(why) => IdentityError::WrongType { path: path_buf(), why },
        })?;
        Ok(Self { key: SigningKey::from_bytes(&seed) })
    }

    /// Makes a key and its file, mode 0600. The folder must exist, the file must not.
    pub fn create(path: &Path) -> Result<Self, IdentityError> {
        let mut seed = Zeroizing::new([0; SEED_BYTES]);
        getrandom::fill(seed.as_mut_slice()).map_err(IdentityError::Random)?;
        let identity = Self { key: SigningKey::from_bytes(&seed) };
        let io = |source: io::Error| {
            if source.kind() == io::ErrorKind::AlreadyExists {
                return IdentityError::Exists { path: path.to_owned() };
            }
            IdentityError::Io { path: path.to_owned(), what: "written", source }
        };
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
        let written = file
            .write_all(&identity.file_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| store::sync_folder_of(path));
        if let Err(error) = written {
            // Ours, and worth nothing yet: a half-written key would only stop the next attempt.
            let _ = std::fs::remove_file(path);
            return Err(io(error));
        }
        Ok(identity)
    }

    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.key.verifying_key().to_bytes())
    }

    pub fn fingerprint(&self) -> String {
        self.public_key().fingerprint()
    }

    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }

    pub fn signing_key(&self) -> &SigningKey {
        &self.key
    }

    fn file_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES));
        bytes.extend_from_slice(HEADER.as_bytes());
        bytes.push(b'\n');
        for byte in self.key.as_bytes() {
            bytes.extend(
                [byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]),
            );
        }
        bytes.push(b'\n');
        bytes
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "identity {}", self.fingerprint())
    }
}

/// Did `key` sign exactly this? Strict: weak keys and other encodings of a signature are refused.
pub fn verify(key: &PublicKey, message: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(&key.0)
        .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
}

enum Wrong {
    Truncated,
    Type(&'static str),
}

/// The seed of a key file's text.
fn parse(bytes: &[u8]) -> Result<Zeroizing<[u8; SEED_BYTES]>, Wrong> {
    let first = HEADER.as_bytes();
    if bytes.len() < first.len() && first.starts_with(bytes) {
        return Err(Wrong::Truncated);
    }
    let Some(rest) = bytes.strip_prefix(first) else {
        return Err(Wrong::Type("its first line is not that of one"));
    };
    let Some(rest) = rest.strip_prefix(b"\n") else {
        let wrong = Wrong::Type("its first line is of another version");
        return Err(if rest.is_empty() { Wrong::Truncated } else { wrong });
    };
    let digits = rest.strip_suffix(b"\n").unwrap_or(rest);
    if !digits.iter().all(u8::is_ascii_hexdigit) || digits.len() > 2 * SEED_BYTES {
        return Err(Wrong::Type("its second line is not 64 hexadecimal digits"));
    }
    if digits.len() < 2 * SEED_BYTES {
        return Err(Wrong::Truncated);
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => digit - b'0',
        letter => (letter | 0x20) - b'a' + 10,
    };
    let mut seed = Zeroizing::new([0; SEED_BYTES]);
    for (byte, pair) in seed.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0]) << 4 | value(pair[1]);
    }
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("scratch folder")
    }

    #[test]
    fn a_key_survives_its_file_and_only_its_owner_can_read_it() {
        let folder = folder();
        let path = folder.path().join("a.key");
        let made = Identity::create(&path).expect("create");
        let loaded = Identity::load(&path).expect("load");
        assert_eq!(made.public_key(), loaded.public_key());
        assert_eq!(std::fs::metadata(&path).expect("metadata").mode() & 0o777, 0o600);
        assert_eq!(std::fs::read(&path).expect("read").len(), FILE_BYTES);
        let other = Identity::create(&folder.path().join("b.key")).expect("create");
        assert_ne!(made.public_key(), other.public_key());
    }

    #[test]
    fn a_key_file_is_never_overwritten() {
        let folder = folder();
        let path = folder.path().join("a.key");
        std::fs::write(&path, "mine").expect("write");
        let error = Identity::create(&path).expect_err("exists");
        assert!(matches!(error, IdentityError::Exists { .. }), "{error}");
        assert_eq!(std::fs::read(&path).expect("read"), b"mine");
    }

    #[test]
    fn a_missing_folder_is_not_made() {
        let folder = folder();
        let error = Identity::create(&folder.path().join("none/a.key")).expect_err("no folder");
        assert!(matches!(error, IdentityError::Io { .. }), "{error}");
        assert!(!folder.path().join("none").exists());
    }

    #[test]
    fn every_cut_of_a_key_file_is_an_error_and_no_cut_is_a_key() {
        let folder = folder();
        let path = folder.path().join("a.key");
        let whole = Identity::create(&path).expect("create").file_bytes();
        // The last newline may be missing; everything else must be there.
        for length in 0..FILE_BYTES - 1 {
            std::fs::write(&path, &whole[..length]).expect("write");
            let error = Identity::load(&path).expect_err("truncated");
            assert!(matches!(error, IdentityError::Truncated { .. }), "{length}: {error}");
            assert_eq!(std::fs::read(&path).expect("read"), whole[..length], "left as it was");
        }
        std::fs::write(&path, &whole[..FILE_BYTES - 1]).expect("write");
        assert!(Identity::load(&path).is_ok());
    }

    #[test]
    fn signatures_are_bound_to_key_and_message() {
        let folder = folder();
        let identity = Identity::create(&folder.path().join("a.key")).expect("create");
        let other = Identity::create(&folder.path().join("b.key")).expect("create");
        let signature = identity.sign(b"hello");
        assert!(verify(&identity.public_key(), b"hello", &signature));
        assert!(!verify(&identity.public_key(), b"hellp", &signature));
        assert!(!verify(&other.public_key(), b"hello", &signature));
        let mut bent = signature;
        bent[40] ^= 1;
        assert!(!verify(&identity.public_key(), b"hello", &bent));
        // A point of small order: every signature under it would verify without strictness.
        let mut weak = [0; 32];
        weak[0] = 1;
        assert!(!verify(&PublicKey(weak), b"hello", &signature));
    }

    #[test]
    fn secrets_are_not_shown() {
        let folder = folder();
        let path = folder.path().join("a.key");
        let identity = Identity::create(&path).expect("create");
        let text = std::fs::read_to_string(&path).expect("read");
        let secret = text.lines().nth(1).expect("second line");
        let shown = format!("{identity:?}");
        assert!(!shown.contains(&secret[..8]), "{shown}");
        assert_eq!(shown, format!("identity {}", identity.fingerprint()));
    }

    #[test]
    fn a_key_others_may_read_is_refused_with_the_mode_and_the_cure() {
        let folder = folder();
        let path = folder.path().join("a.key");
        Identity::create(&path).expect("create");
        for mode in [0o644, 0o640, 0o604, 0o620] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod");
            let error = Identity::load(&path).expect_err("mode").to_string();
            assert!(error.contains(&format!("{mode:04o}")), "{error}");
            assert!(error.contains("chmod 600"), "{error}");
        }
    }
}
