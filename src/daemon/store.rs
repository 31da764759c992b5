//! The daemon's own folder: who may use it, and writing files in it so that a crash leaves the old or
//! the new content, never a mix.
//!
//! Assumes one daemon a folder; the lock makes sure of it. The lock is the kernel's and dies with the
//! process, so a crash leaves nothing to clean up.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::limits;

/// Why a state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "state_dir {path} cannot be made: {source}; make the folder above it, or change state_dir"
    )]
    Create { path: PathBuf, source: io::Error },
    #[error("state_dir {path} is not a folder: change state_dir, or move the file away")]
    NotAFolder { path: PathBuf },
    #[error("state_dir {path} has mode {mode:04o}, others may enter it: run `chmod 700 {path}`")]
    Mode { path: PathBuf, mode: u32 },
    #[error(
        "state_dir {path} is in use by {who}: stop it first (`spanway leave`), or change state_dir"
    )]
    Locked { path: PathBuf, who: String },
    #[error("state_dir {path} {why}: the daemon must be able to write there ({source})")]
    NotWritable { path: PathBuf, why: &'static str, source: io::Error },
    #[error(
        "{path} is {bytes} bytes long, a socket's path has at most {max}: choose a shorter state_dir",
        max = limits::SOCKET_PATH_BYTES_MAX
    )]
    SocketPath { path: PathBuf, bytes: usize },
}

/// The state folder of a running daemon, locked as long as this lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    socket_path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Makes the folder if it is missing, and takes it for this process.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let socket_path = socket_path(path)?;
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(StoreError::Create { path: path.to_owned(), source }),
        }
        let unusable = |source: io::Error| not_writable(path, source);
        let metadata = fs::metadata(path).map_err(unusable)?;
        if !metadata.is_dir() {
            return Err(StoreError::NotAFolder { path: path.to_owned() });
        }
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(StoreError::Mode { path: path.to_owned(), mode });
        }
        let lock = lock(path)?;
        // Said now rather than with the first thing worth keeping: may we, and is there room?
        let probe = path.join("probe");
        write_atomic(&probe, &[0; 4_096])
            .and_then(|()| fs::remove_file(&probe))
            .map_err(unusable)?;
        Ok(Self { path: path.to_owned(), socket_path, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where local clients find the daemon.
    pub fn socket_path(&self) -> &Path {
        &self.socket_path
    }

    /// A file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Where the daemon of this state folder listens for local clients, running or not.
pub fn socket_path(state_dir: &Path) -> Result<PathBuf, StoreError> {
    let path = state_dir.join("control.sock");
    let bytes = path.as_os_str().as_bytes().len();
    if bytes > limits::SOCKET_PATH_BYTES_MAX {
        return Err(StoreError::SocketPath { path, bytes });
    }
    Ok(path)
}

/// Replaces the content of `path`, or leaves it as it was: a new file beside it (mode 0600) is written,
/// synced, and renamed. One writer a path at a time; what an interrupted one left is thrown away.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, None)
}

/// The same for a file that a person wrote: it must be there and may be written, keeps its mode and, where
/// that is allowed, its owner, and a symbolic link stays one.
pub fn rewrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    let old = OpenOptions::new().write(true).open(&path)?.metadata()?;
    replace(&path, bytes, Some(&old))
}

/// Makes a file that is not there yet, whole or not at all; others may read it.
pub fn write_once(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary(path)?;
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // A link, because a rename would replace what somebody made meanwhile.
    let written = write_new(&temporary, bytes, None)
        .and_then(|()| fs::set_permissions(&temporary, Permissions::from_mode(0o644)))
        .and_then(|()| fs::hard_link(&temporary, path));
    let removed = fs::remove_file(&temporary);
    written?;
    removed?;
    sync_folder_of(path)
}

fn replace(path: &Path, bytes: &[u8], like: Option<&Metadata>) -> io::Result<()> {
    let temporary = temporary(path)?;
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = write_new(&temporary, bytes, like)
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| sync_folder_of(path));
    if written.is_err() {
        // On a full disk the rest would take room for nothing. The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Makes the names in the folder of `path` durable: a rename or a new file is lost without it.
pub(super) fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

/// `.NAME.new`, in the same folder: a rename does not cross file systems.
fn temporary(path: &Path) -> io::Result<PathBuf> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"));
    };
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(".new");
    Ok(path.with_file_name(temporary))
}

fn write_new(path: &Path, bytes: &[u8], like: Option<&Metadata>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    if let Some(old) = like {
        // Only root may give a file away.
        let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
        file.set_permissions(old.permissions())?;
    }
    file.write_all(bytes)?;
    file.sync_all()
}

/// Takes the lock of the folder and leaves our pid in it for whoever comes second.
fn lock(folder: &Path) -> Result<File, StoreError> {
    let unusable = |source: io::Error| not_writable(folder, source);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        // Not before the lock is ours: the pid in it is another's until then.
        .truncate(false)
        .mode(0o600)
        .open(folder.join("lock"))
        .map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let read = (&file).take(20).read_to_string(&mut pid);
            let pid = read.ok().and_then(|_| pid.trim().parse::<u32>().ok());
            let who = match pid {
                Some(pid) => format!("another daemon (pid {pid})"),
                None => "another daemon that is just starting".to_owned(),
            };
            return Err(StoreError::Locked { path: folder.to_owned(), who });
        }
        Err(TryLockError::Error(source)) => return Err(unusable(source)),
    }
    let pid = format!("{}\n", std::process::id());
    file.set_len(0).and_then(|()| file.write_all(pid.as_bytes())).map_err(unusable)?;
    Ok(file)
}

fn not_writable(folder: &Path, source: io::Error) -> StoreError {
    let texts = [
        (io::ErrorKind::ReadOnlyFilesystem, "is on a read-only file system"),
        (io::ErrorKind::PermissionDenied, "is read-only for this user"),
        (io::ErrorKind::StorageFull, "is on a full file system"),
        (io::ErrorKind::QuotaExceeded, "is on a file system with no room left for this user"),
    ];
    let known = texts.iter().find(|(kind, _)| *kind == source.kind());
    let why = known.map_or("cannot be used", |(_, text)| text);
    StoreError::NotWritable { path: folder.to_owned(), why, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("scratch folder")
    }

    #[test]
    fn a27_a_file_has_its_old_content_or_its_new_one() {
        let folder = folder();
        let path = folder.path().join("state.json");
        write_atomic(&path, b"old").expect("write");
        // A write that was interrupted left this behind; the file is untouched by it.
        let left = folder.path().join(".state.json.new");
        fs::write(&left, b"ne").expect("write");
        assert_eq!(fs::read(&path).expect("read"), b"old");
        write_atomic(&path, b"new").expect("write");
        assert_eq!(fs::read(&path).expect("read"), b"new");
        assert!(!left.exists(), "what was left is gone");
        assert_eq!(fs::metadata(&path).expect("metadata").mode() & 0o777, 0o600);
    }

    #[test]
    fn a27_a_write_that_fails_changes_nothing_and_leaves_nothing() {
        let folder = folder();
        let path = folder.path().join("taken");
        fs::create_dir(&path).expect("folder");
        assert!(write_atomic(&path, b"new").is_err(), "a folder has that name");
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1);
        assert!(write_atomic(Path::new("/"), b"new").is_err());
    }

    #[test]
    fn a_file_that_is_there_is_never_written_over() {
        let folder = folder();
        let path = folder.path().join("new.toml");
        write_once(&path, b"one").expect("write");
        let error = write_once(&path, b"two").expect_err("it is there");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).expect("read"), b"one");
        assert_eq!(fs::metadata(&path).expect("metadata").mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1);
    }

    #[test]
    fn a_persons_file_keeps_its_mode_and_its_place() {
        let folder = folder();
        let (path, link) = (folder.path().join("a.toml"), folder.path().join("link.toml"));
        fs::write(&path, b"old").expect("write");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("chmod");
        std::os::unix::fs::symlink(&path, &link).expect("link");
        rewrite(&link, b"new").expect("write");
        assert_eq!(fs::read(&path).expect("read"), b"new");
        assert_eq!(fs::metadata(&path).expect("metadata").mode() & 0o777, 0o644);
        assert!(link.is_symlink());
        assert!(rewrite(&folder.path().join("none.toml"), b"new").is_err(), "there is none");
    }

    #[test]
    fn a_temporary_file_is_never_written_through_a_link() {
        let folder = folder();
        let victim = folder.path().join("victim");
        fs::write(&victim, b"precious").expect("write");
        let left = folder.path().join(".state.new");
        std::os::unix::fs::symlink(&victim, left).expect("link");
        write_atomic(&folder.path().join("state"), b"new").expect("write");
        assert_eq!(fs::read(&victim).expect("read"), b"precious");
    }

    #[test]
    fn a_state_folder_is_made_private_and_holds_the_pid() {
        let folder = folder();
        let path = folder.path().join("peer.state");
        let state = StateDir::open(&path).expect("open");
        assert_eq!(fs::metadata(&path).expect("metadata").mode() & 0o777, 0o700);
        let pid = fs::read_to_string(path.join("lock")).expect("read");
        assert_eq!(pid.trim(), std::process::id().to_string());
        assert_eq!(state.socket_path(), path.join("control.sock"));
        assert_eq!(fs::read_dir(&path).expect("list").count(), 1, "only the lock is there");
    }

    #[test]
    fn the_lock_ends_with_its_owner() {
        let folder = folder();
        let path = folder.path().join("peer.state");
        drop(StateDir::open(&path).expect("open"));
        StateDir::open(&path).expect("open again");
    }

    #[test]
    fn a_folder_others_may_enter_is_refused_with_the_cure() {
        let folder = folder();
        let path = folder.path().join("peer.state");
        fs::create_dir(&path).expect("folder");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("chmod");
        let error = StateDir::open(&path).expect_err("mode").to_string();
        assert!(error.contains("0755") && error.contains("chmod 700"), "{error}");
    }

    #[test]
    fn a_file_or_a_missing_parent_is_no_state_folder() {
        let folder = folder();
        let file = folder.path().join("file");
        fs::write(&file, b"").expect("write");
        assert!(matches!(StateDir::open(&file), Err(StoreError::NotAFolder { .. })));
        let below = folder.path().join("none/peer.state");
        assert!(matches!(StateDir::open(&below), Err(StoreError::Create { .. })));
    }

    #[test]
    fn a_socket_path_that_the_kernel_would_cut_is_refused() {
        let fits = "x".repeat(limits::SOCKET_PATH_BYTES_MAX - "/control.sock".len());
        assert!(socket_path(Path::new(&fits)).is_ok());
        let error = socket_path(Path::new(&format!("{fits}x"))).expect_err("too long").to_string();
        assert!(error.contains("108 bytes") && error.contains("at most 107"), "{error}");
    }

    #[test]
    fn a_full_or_read_only_file_system_is_named() {
        for (code, text) in [
            (libc::EROFS, "read-only file system"),
            (libc::EACCES, "read-only for this user"),
            (libc::ENOSPC, "full file system"),
        ] {
            let error = not_writable(Path::new("s"), io::Error::from_raw_os_error(code));
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
