//! A stand-in for the web API below a base path: the real files of the pages, and whatever a test wants
//! the daemon to say. For texts and numbers that no honest daemon has.
//!
//! Assumes one browser that behaves; bounds nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::common::program::pass;

/// As behind a proxy.
const BASE: &str = "/below/a/proxy/";
pub(crate) const TOKEN: &str = "0123456789abcdef";
const BEAT: Duration = Duration::from_secs(1);

/// What it says: answers of routes by their path, and messages of the live stream in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Says {
    pub(crate) routes: BTreeMap<String, Value>,
    pub(crate) live: Vec<(String, Value)>,
}

/// Serves until it is dropped.
pub(crate) struct StandIn {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    said: Mutex<Arc<Said>>,
    /// Answers nobody: as a daemon that is gone.
    silent: AtomicBool,
    over: AtomicBool,
}

/// As it goes out: the live stream once as bytes, however often it is told.
struct Said {
    routes: BTreeMap<String, Value>,
    live: Vec<u8>,
}

impl From<Says> for Said {
    fn from(says: Says) -> Self {
        let message = |(name, value): &(String, Value)| format!("event: {name}\ndata: {value}\n\n");
        Self {
            live: says.live.iter().map(message).collect::<String>().into_bytes(),
            routes: says.routes,
        }
    }
}

impl StandIn {
    pub(crate) fn start(says: Says) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("its address");
        let (silent, over) = (AtomicBool::new(false), AtomicBool::new(false));
        let shared = Arc::new(Shared { said: Mutex::new(Arc::new(says.into())), silent, over });
        let for_all = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if for_all.over.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(stream), shared) = (stream, Arc::clone(&for_all)) else { continue };
                // A browser that has gone is no failure of ours.
                thread::spawn(move || drop(serve(stream, &shared)));
            }
        });
        Self { address, shared }
    }

    /// The address of a page, with the token.
    pub(crate) fn page(&self, page: &str) -> String {
        format!("{}#token={TOKEN}", self.page_without_token(page))
    }

    pub(crate) fn page_without_token(&self, page: &str) -> String {
        format!("http://{}{BASE}{page}", self.address)
    }

    pub(crate) fn says(&self, says: Says) {
        let said = Arc::new(says.into());
        *self.shared.said.lock().unwrap_or_else(PoisonError::into_inner) = said;
    }

    pub(crate) fn silent(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::Relaxed);
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        // Wakes who accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn now(&self) -> Arc<Said> {
        Arc::clone(&self.said.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn ends(&self) -> bool {
        self.silent.load(Ordering::Relaxed) || self.over.load(Ordering::Relaxed)
    }
}

/// One request, one answer.
fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut length, mut allowed) = (0, false);
    loop {
        line.clear();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        let lower = line.to_ascii_lowercase();
        length =
            lower.strip_prefix("content-length:").map_or(length, |n| n.trim().parse().unwrap_or(0));
        allowed |= lower.trim() == format!("authorization: bearer {TOKEN}");
    }
    reader.take(length).read_to_end(&mut Vec::new())?;
    if shared.ends() {
        return Ok(());
    }
    let Some(path) = path.strip_prefix(BASE) else {
        return answer(&mut stream, 404, "text/plain", b"");
    };
    match path.strip_prefix("api/") {
        Some(_) if !allowed => answer(&mut stream, 401, "application/json", b"{}"),
        Some("live") => live(&mut stream, shared),
        Some(route) => match shared.now().routes.get(route) {
            Some(value) => {
                answer(&mut stream, 200, "application/json", value.to_string().as_bytes())
            }
            None => answer(&mut stream, 404, "application/json", b"{}"),
        },
        None => match file(path) {
            Some((kind, content)) => answer(&mut stream, 200, kind, &content),
            None => answer(&mut stream, 404, "text/plain", b""),
        },
    }
}

fn live(stream: &mut TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n",
    )?;
    while !shared.ends() {
        stream.write_all(&shared.now().live)?;
        pass(BEAT);
    }
    Ok(())
}

/// With the policy of the daemon: what it forbids has to be forbidden here too.
fn answer(stream: &mut TcpStream, status: u16, kind: &str, body: &[u8]) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status} -\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\
         Content-Security-Policy: default-src 'self'; frame-ancestors 'none'\r\n\r\n",
        body.len()
    )?;
    stream.write_all(body)
}

fn file(path: &str) -> Option<(&'static str, Vec<u8>)> {
    let web = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api/web");
    let file: PathBuf = match path {
        "" => web.join("index.html"),
        "peer" => web.join("peer.html"),
        _ => match path.strip_prefix("static/vendor/") {
            Some(name) => web.join("vendor").join(name),
            None => web.join(path),
        },
    };
    let kind = match file.extension()?.to_str()? {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        _ => "image/svg+xml",
    };
    Some((kind, fs::read(file).ok()?))
}
