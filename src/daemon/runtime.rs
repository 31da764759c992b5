//! What the control lane runs on: tokio-uring where io_uring is allowed, plain tokio otherwise.
//!
//! The only file that names tokio-uring (unmaintained; replacing it is a change of this file). Both
//! runtimes are one thread with tokio's sockets, timers and `spawn_local`; the difference is who does
//! the file I/O. Frames never come here.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::LocalSet;

/// Longest time the start-up probe may take: a ring that answers no no-op is of no use.
const PROBE_MAX: Duration = Duration::from_secs(1);
/// Submission entries: file I/O of one daemon is a handful of operations.
const RING_ENTRIES: u32 = 64;

/// The runtime of the control lane.
pub(crate) enum Runtime {
    Uring(tokio_uring::Runtime),
    Plain { tokio: tokio::runtime::Runtime, local: LocalSet },
}

/// File operations on the runtime that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Files {
    Uring,
    Plain,
}

impl Runtime {
    /// Starts on io_uring if `uring` and the kernel allow it; the log says why if not.
    pub(crate) fn start(uring: bool) -> io::Result<Self> {
        if !uring {
            return Self::plain();
        }
        match Self::uring() {
            Ok(runtime) => Ok(runtime),
            Err(error) => {
                tracing::warn!(
                    %error,
                    "control lane runs without io_uring; is kernel.io_uring_disabled set, or a \
                     seccomp filter?"
                );
                Self::plain()
            }
        }
    }

    fn uring() -> io::Result<Self> {
        let mut builder = tokio_uring::builder();
        builder.entries(RING_ENTRIES);
        let runtime = tokio_uring::Runtime::new(&builder)?;
        let probe = async { tokio::time::timeout(PROBE_MAX, tokio_uring::no_op()).await };
        runtime.block_on(probe).map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(Self::Uring(runtime))
    }

    fn plain() -> io::Result<Self> {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self::Plain { tokio, local: LocalSet::new() })
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Uring(_) => "tokio-uring",
            Self::Plain { .. } => "tokio",
        }
    }

    pub(crate) fn files(&self) -> Files {
        match self {
            Self::Uring(_) => Files::Uring,
            Self::Plain { .. } => Files::Plain,
        }
    }

    /// Runs `future` on this thread until it is done; tasks it spawned stop with the runtime.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        match self {
            Self::Uring(runtime) => runtime.block_on(future),
            Self::Plain { tokio, local } => local.block_on(tokio, future),
        }
    }
}

impl Files {
    /// The whole of a small file; more than `bytes_max` is an error.
    pub(crate) async fn read(self, path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
        let bytes = match self {
            Self::Uring => read_uring(path, bytes_max).await?,
            Self::Plain => tokio::fs::read(path).await?,
        };
        if bytes.len() > bytes_max {
            return Err(io::Error::other(format!("{} is over {bytes_max} bytes", path.display())));
        }
        Ok(bytes)
    }

    /// Replaces a file by `bytes`: old content or new, never a mix (write, fsync, rename).
    pub(crate) async fn write_atomic(self, path: &Path, bytes: Vec<u8>) -> io::Result<()> {
        match self {
            Self::Uring => write_uring(path, bytes).await,
            Self::Plain => {
                let path = path.to_owned();
                let write = move || super::store::write_atomic(&path, &bytes);
                tokio::task::spawn_blocking(write).await.map_err(io::Error::other)?
            }
        }
    }
}

async fn read_uring(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let file = tokio_uring::fs::File::open(path).await?;
    let mut bytes = Vec::new();
    while bytes.len() <= bytes_max {
        let (read, piece) = file.read_at(Vec::with_capacity(4_096), bytes.len() as u64).await;
        match read? {
            0 => break,
            count => bytes.extend_from_slice(&piece[..count]),
        }
    }
    file.close().await?;
    Ok(bytes)
}

async fn write_uring(path: &Path, bytes: Vec<u8>) -> io::Result<()> {
    let draft = draft_of(path);
    let file = tokio_uring::fs::File::create(&draft).await?;
    let written = file.write_all_at(bytes, 0).await.0;
    let synced = match written {
        Ok(()) => file.sync_all().await,
        Err(error) => Err(error),
    };
    file.close().await?;
    synced?;
    tokio_uring::fs::rename(&draft, path).await?;
    if let Some(folder) = path.parent() {
        let folder = tokio_uring::fs::File::open(folder).await?;
        folder.sync_all().await?;
        folder.close().await?;
    }
    Ok(())
}

fn draft_of(path: &Path) -> PathBuf {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".part");
    PathBuf::from(draft)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(runtime: &Runtime) {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = folder.path().join("addresses.json");
        let files = runtime.files();
        runtime.block_on(async {
            for content in ["first", "a second, longer one", "x"] {
                files.write_atomic(&path, content.into()).await.expect("written");
                assert_eq!(files.read(&path, 100).await.expect("read"), content.as_bytes());
            }
            files.write_atomic(&path, vec![7; 10_000]).await.expect("written");
            assert_eq!(files.read(&path, 10_000).await.expect("read").len(), 10_000);
            assert!(files.read(&path, 9_999).await.is_err());
        });
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 1, "a draft stayed");
    }

    #[test]
    fn a27_state_files_are_replaced_whole_on_either_runtime() {
        let plain = Runtime::start(false).expect("a runtime");
        assert_eq!(plain.kind(), "tokio");
        round_trip(&plain);
        drop(plain);
        round_trip(&Runtime::start(true).expect("a runtime"));
    }

    #[test]
    fn tasks_sockets_and_timers_work_on_either_runtime() {
        for uring in [false, true] {
            let runtime = Runtime::start(uring).expect("a runtime");
            let answer = runtime.block_on(async {
                let task = tokio::task::spawn_local(async {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    tokio::net::UdpSocket::bind("127.0.0.1:0").await.is_ok()
                });
                task.await.expect("no panic")
            });
            assert!(answer);
        }
    }
}
