//! The token of the web API: 256 random bits in a file that only its owner may read.
//!
//! Compared in constant time; never logged. Whoever has it may do here what the owner of the local socket
//! may do there.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use subtle::ConstantTimeEq;

use crate::limits;

/// As text: hexadecimal digits.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("the token {path} cannot be read: {source}", path = .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the token {path} cannot be made: {source}", path = .path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error(
        "others may read the token {path} (mode {mode:04o}): run `chmod 600 {path}`",
        path = .path.display()
    )]
    Open { path: PathBuf, mode: u32 },
    #[error(
        "{path} is no token of {digits} hexadecimal digits: remove it, the daemon makes a new one",
        path = .path.display(), digits = limits::HTTP_TOKEN_CHARS
    )]
    Malformed { path: PathBuf },
}

impl Token {
    /// Reads the file.
    pub fn load(path: &Path) -> Result<Self, TokenError> {
        let path = path.to_owned();
        match Self::read(&path) {
            Ok(read) => read,
            Err(source) => Err(TokenError::Read { path, source }),
        }
    }

    /// Reads the file, or makes it.
    pub fn load_or_make(path: &Path) -> Result<Self, TokenError> {
        match Self::load(path) {
            Err(TokenError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Self::make(path)
                    .map_err(|source| TokenError::Make { path: path.to_owned(), source })
            }
            loaded => loaded,
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// In a time that does not tell how much of it is right.
    pub(super) fn is(&self, given: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(given).into()
    }

    fn read(path: &Path) -> io::Result<Result<Self, TokenError>> {
        let file = File::open(path)?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Ok(Err(TokenError::Open { path: path.to_owned(), mode }));
        }
        let mut bytes = Vec::new();
        file.take(limits::HTTP_TOKEN_CHARS as u64 + 2).read_to_end(&mut bytes)?;
        let digits = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let whole = digits.len() == limits::HTTP_TOKEN_CHARS;
        match std::str::from_utf8(digits) {
            Ok(text) if whole && digits.iter().all(u8::is_ascii_hexdigit) => {
                Ok(Ok(Self(text.to_owned())))
            }
            Ok(_) | Err(_) => Ok(Err(TokenError::Malformed { path: path.to_owned() })),
        }
    }

    fn make(path: &Path) -> io::Result<Self> {
        let mut secret = [0; limits::HTTP_TOKEN_CHARS / 2];
        getrandom::fill(&mut secret).map_err(io::Error::other)?;
        let text: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(format!("{text}\n").as_bytes()).and_then(|()| file.sync_all()).inspect_err(
            |_| {
                // Half a token would be refused at every start; the first error is the one to tell.
                let _ = std::fs::remove_file(path);
            },
        )?;
        Ok(Self(text))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_token_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.token");
        let made = Token::load_or_make(&path).expect("made");
        assert_eq!(Token::load_or_make(&path).expect("read"), made);
        assert_eq!(made.as_str().len(), 64);
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(made.is(made.as_str().as_bytes()));
        assert!(!made.is(&made.as_str().as_bytes()[..63]));
        let other = Token::load_or_make(&folder.path().join("b.token")).expect("made");
        assert_ne!(other, made, "random");
        assert!(!format!("{made:?}").contains(made.as_str()), "never in a log");
    }

    #[test]
    fn a_token_others_could_read_or_that_is_none_is_refused_and_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.token");
        fs::write(&path, "abc\n").expect("written");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).expect("set");
        let error = Token::load_or_make(&path).expect_err("refused").to_string();
        assert!(error.contains("0640") && error.contains("chmod 600"), "{error}");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("set");
        let error = Token::load_or_make(&path).expect_err("refused").to_string();
        assert!(error.contains("64 hexadecimal"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("there"), "abc\n");
        let nowhere = folder.path().join("none/a.token");
        assert!(matches!(Token::load_or_make(&nowhere), Err(TokenError::Make { .. })));
    }
}
