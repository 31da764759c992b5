//! The web API as a client with the right token sees it, over a real connection, without a daemon behind it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::LazyLock;
use std::time::Duration;

use spanway::api::http::{Bound, Http};
use spanway::config::ApiSection;

use super::bytes::Choices;

struct Site {
    listen: SocketAddr,
    token: String,
    _running: Http,
}

static SITE: LazyLock<Site> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("spanway-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a scratch folder");
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let listen = free.local_addr().expect("an address");
    drop(free);
    let token_file = folder.join("token");
    let section = ApiSection {
        listen,
        token_file: token_file.clone(),
        base_path: "/".to_owned(),
        hosts: Vec::new(),
        internal: None,
    };
    let bound = Bound::new(section).expect("a free port");
    let token = std::fs::read_to_string(token_file).expect("made").trim().to_owned();
    let running = bound.start(folder.join("nobody.sock")).expect("a thread");
    Site { listen, token, _running: running }
});

const METHODS: [&str; 5] = ["GET", "POST", "DELETE", "PUT", "OPTIONS"];
const PATHS: [&str; 16] = [
    "/api/channels",
    "/api/channels/",
    "/api/command",
    "/api/would-fit",
    "/api/links",
    "/api/links/",
    "/api/queue/",
    "/api/requests/",
    "/api/leave",
    "/api/recompute",
    "/api/reload",
    "/api/peers/",
    "/api/graph",
    "/api/ledger",
    "/",
    "",
];

/// Method, path with what the input adds to it, and a body. No error is the server's but 503: nobody is
/// behind it.
pub(crate) fn web(data: &[u8]) {
    let mut choices = Choices::new(data);
    let method = METHODS[choices.below(METHODS.len())];
    let path = PATHS[choices.below(PATHS.len())];
    let more: String = choices.piece().iter().map(|byte| escaped(*byte)).collect();
    let body = choices.piece();
    let Site { listen, token, .. } = &*SITE;
    let head = format!(
        "{method} {path}{more} HTTP/1.1\r\nHost: {listen}\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(listen).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    // It may answer and close before it has read all.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    let mut answer = [0; 12];
    if stream.read_exact(&mut answer).is_err() {
        // Refused by closing: allowed only to what is no HTTP.
        return;
    }
    let code: u16 = std::str::from_utf8(&answer[9..])
        .ok()
        .and_then(|code| code.parse().ok())
        .expect("a status");
    assert!(code < 500 || code == 503, "{code} for {head}{}", String::from_utf8_lossy(body));
}

/// Whatever a path or a query may have; the rest as a client would write it.
fn escaped(byte: u8) -> String {
    match byte {
        b'!'..=b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    }
}
