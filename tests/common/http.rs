//! A plain HTTP client: what is sent is what the test wrote, so that wrong things can be said, too.

#![expect(clippy::disallowed_methods, reason = "these tests live in real time")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than any answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The web API of a peer.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

/// Server-sent events as they come.
#[derive(Debug)]
pub(crate) struct Events {
    reader: BufReader<TcpStream>,
}

impl Site {
    /// As `spanway page --json` prints it.
    pub(crate) fn of(printed: &Value) -> Self {
        let page = printed["page"].as_str().expect("an address");
        let address = page.trim_start_matches("http://").split('/').next().expect("an address");
        let token = printed["token"].as_str().expect("a token").to_owned();
        Self { address: address.parse().expect("numbers"), token }
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.send("GET", path, None)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Response {
        self.send("POST", path, Some(&body.to_string()))
    }

    pub(crate) fn delete(&self, path: &str) -> Response {
        self.send("DELETE", path, None)
    }

    /// With everything right about it but what the caller chooses.
    pub(crate) fn send(&self, method: &str, path: &str, body: Option<&str>) -> Response {
        self.send_with(method, path, &[], body)
    }

    pub(crate) fn send_with(
        &self,
        method: &str,
        path: &str,
        headers: &[&str],
        body: Option<&str>,
    ) -> Response {
        let mut text = self.head(method, path);
        for header in headers {
            text.push_str(&format!("{header}\r\n"));
        }
        if let Some(body) = body {
            text.push_str("Content-Type: application/json\r\n");
            text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        } else {
            text.push_str("\r\n");
        }
        self.raw(text.as_bytes())
    }

    /// Request line, host, token, and the wish that the connection ends behind the answer.
    pub(crate) fn head(&self, method: &str, path: &str) -> String {
        let Self { address, token } = self;
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
             Connection: close\r\n"
        )
    }

    /// These bytes, and whatever comes back until the other side closes.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Response {
        let mut stream = self.connect();
        // The answer may come, and the connection close, before everything is written.
        let _ = stream.write_all(bytes);
        read_response(&mut stream)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the port is open");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time above zero");
        stream
    }

    /// A stream of events; panics if there is none.
    pub(crate) fn events(&self, path: &str) -> Events {
        let mut stream = self.connect();
        let request = format!("{}\r\n", self.head("GET", path));
        stream.write_all(request.as_bytes()).expect("written");
        let mut reader = BufReader::new(stream);
        let head = read_head(&mut reader).expect("a head");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("text/event-stream"), "{head}");
        Events { reader }
    }
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| {
            panic!("{e}: {} {}", self.head, String::from_utf8_lossy(&self.body))
        })
    }

    /// The JSON of an answer with this status.
    pub(crate) fn expect(&self, status: u16) -> Value {
        let body = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{} {body}", self.head);
        self.json()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.head.lines().filter_map(|line| line.split_once(": "));
        found.filter(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

impl Events {
    /// The next event: its name, if it has one, and its data.
    pub(crate) fn next(&mut self) -> (String, Value) {
        let (mut name, mut data) = (String::new(), None);
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line).expect("the stream goes on");
            assert!(!line.is_empty(), "the stream has ended");
            let line = line.trim_end();
            if let Some(text) = line.strip_prefix("event: ") {
                name = text.to_owned();
            } else if let Some(text) = line.strip_prefix("data: ") {
                data = Some(serde_json::from_str(text).expect("JSON"));
            } else if let (true, Some(data)) = (line.is_empty(), data.take()) {
                return (name, data);
            }
            // Everything else is a comment, or the size of a chunk.
        }
    }

    /// The first event that `found` makes something of.
    pub(crate) fn find<T>(&mut self, what: &str, found: impl Fn(&str, &Value) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            let (name, data) = self.next();
            if let Some(found) = found(&name, &data) {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "{what} did not come");
        }
    }
}

/// Whatever comes until the other side closes; status 0 if that is nothing.
pub(crate) fn read_response(stream: &mut TcpStream) -> Response {
    let mut reader = BufReader::new(stream);
    let Ok(head) = read_head(&mut reader) else {
        return Response { status: 0, head: String::new(), body: Vec::new() };
    };
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let mut body = Vec::new();
    // A reset behind the answer is an end, too.
    let _ = reader.read_to_end(&mut body);
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        body = without_chunks(&body);
    }
    Response { status, head, body }
}

fn read_head(reader: &mut impl BufRead) -> io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

fn without_chunks(mut bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") {
        let size = std::str::from_utf8(&bytes[..end]).ok();
        let Some(size) = size.and_then(|size| usize::from_str_radix(size, 16).ok()) else { break };
        let chunk = &bytes[end + 2..];
        whole.extend_from_slice(&chunk[..size.min(chunk.len())]);
        bytes = chunk.get(size + 2..).unwrap_or_default();
    }
    whole
}
