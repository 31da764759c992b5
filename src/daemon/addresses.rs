//! Where neighbours were met last: kept in a file of the state folder, tried when the configured address
//! does not answer. A peer may move while it keeps its name and its key (A6, A27).
//!
//! A hint, never trusted: whoever answers there must have the neighbour's key. A file that cannot be
//! read is as good as none, and says so in the log.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::sync::watch;

use crate::daemon::runtime::Files;
use crate::limits;
use crate::types::{PeerName, address};

/// Name of the file in the state folder.
pub(crate) const FILE: &str = "addresses.json";

type Table = BTreeMap<PeerName, SocketAddr>;

/// The table, and the task that writes it.
pub(crate) struct Addresses {
    table: RefCell<Table>,
    changed: watch::Sender<()>,
}

impl Addresses {
    /// Reads the file, if there is one.
    pub(crate) async fn load(files: Files, path: &Path) -> Self {
        let read = files.read(path, limits::ADDRESSES_BYTES_MAX).await;
        let table = match read {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(file = %path.display(), %error, "learned addresses are not usable");
                Table::new()
            }),
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    let file = path.display();
                    tracing::warn!(%file, %error, "learned addresses cannot be read");
                }
                Table::new()
            }
        };
        Self { table: RefCell::new(table), changed: watch::Sender::new(()) }
    }

    /// Writes the table after every change, for as long as the daemon runs.
    pub(crate) fn keep(&self, files: Files, path: PathBuf) -> impl Future<Output = ()> + use<'_> {
        let mut changed = self.changed.subscribe();
        async move {
            while changed.changed().await.is_ok() {
                let bytes = serde_json::to_vec_pretty(&*self.table.borrow());
                let bytes = bytes.expect("names and addresses have text forms");
                if let Err(error) = files.write_atomic(&path, bytes).await {
                    let file = path.display();
                    tracing::warn!(%file, %error, "learned addresses are not kept");
                }
            }
        }
    }

    pub(crate) fn of(&self, peer: &PeerName) -> Option<SocketAddr> {
        self.table.borrow().get(peer).copied()
    }

    /// The neighbour was met at `address`; whether that is news.
    pub(crate) fn learn(&self, peer: &PeerName, address: SocketAddr) -> bool {
        let address = address::canonical(address);
        let news = self.table.borrow_mut().insert(peer.clone(), address) != Some(address);
        if news {
            self.changed.send_replace(());
        }
        news
    }

    /// Forgets everybody that `known` does not know.
    pub(crate) fn retain(&self, known: impl Fn(&PeerName) -> bool) {
        self.table.borrow_mut().retain(|peer, _| known(peer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::runtime::Runtime;

    #[test]
    fn a6_a27_what_was_learned_is_known_after_a_restart() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = folder.path().join(FILE);
        let name = |text| PeerName::new(text).expect("a name");
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        for uring in [true, false] {
            let runtime = Runtime::start(uring).expect("a runtime");
            let files = runtime.files();
            runtime.block_on(async {
                let learned = Addresses::load(files, &path).await;
                let keep = learned.keep(files, path.clone());
                learned.learn(&name("b"), address("[::ffff:198.18.0.7]:7000"));
                let written = async {
                    while !std::fs::read_to_string(&path).is_ok_and(|text| text.contains("198")) {
                        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                    }
                };
                tokio::select! { () = keep => {}, () = written => {} }
                let again = Addresses::load(files, &path).await;
                assert_eq!(again.of(&name("b")), Some(address("198.18.0.7:7000")));
                assert_eq!(again.of(&name("c")), None);
            });
        }
        std::fs::write(&path, "{ not json").expect("written");
        let runtime = Runtime::start(false).expect("a runtime");
        let files = runtime.files();
        let broken = runtime.block_on(Addresses::load(files, &path));
        assert_eq!(broken.of(&name("b")), None, "a broken file is as good as none");
    }
}
