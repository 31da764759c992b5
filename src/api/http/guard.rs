//! What a request has to have before anything is done for it: the right host, no other site's origin, the
//! token, JSON where it changes something, a body that ends.
//!
//! The name in `Host` is checked before the path is looked at: a page that got its own name to point at
//! this host (DNS rebinding) reads nothing, not even what needs no token. There are no cookies and no CORS
//! headers. Refusals are logged once a second at most.

use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST,
    ORIGIN, REFERRER_POLICY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::time::{Instant, timeout};

use super::error::ApiError;
use super::token::Token;
use crate::config::ApiSection;
use crate::limits;

/// Everything comes from here and nothing runs that is not a file of ours.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; \
                      object-src 'none'";
/// Characters of a stranger's text that the log repeats.
const SHOWN_CHARS: usize = 64;

/// The rules of one listener.
#[derive(Debug)]
pub(super) struct Guard {
    hosts: Vec<String>,
    port: u16,
    base_path: String,
    /// Missing: nothing here needs one.
    token: Option<Token>,
    refusals: Mutex<Refusals>,
}

/// Where a request goes that may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Passed<'g> {
    /// As the routes know the place.
    To(Uri),
    /// The client has to ask there.
    Elsewhere(&'g str),
}

#[derive(Debug, Default)]
struct Refusals {
    said: Option<Instant>,
    unsaid: u64,
}

impl Guard {
    pub(super) fn new(section: &ApiSection, listen: SocketAddr, token: Option<Token>) -> Self {
        let port = listen.port();
        let mut hosts = section.hosts.clone();
        hosts.extend(["127.0.0.1", "[::1]", "localhost"].map(|host| with_port(host, port)));
        let base_path = if token.is_some() { section.base_path.clone() } else { "/".to_owned() };
        Self { hosts, port, base_path, token, refusals: Mutex::default() }
    }

    /// Looks at all but the body; `local` is the address that the client reached.
    pub(super) fn check(&self, head: &Parts, local: SocketAddr) -> Result<Passed<'_>, ApiError> {
        let host = self.host(head, local)?;
        if let Some(origin) = head.headers.get(ORIGIN) {
            check_origin(origin, host)?;
        }
        if let Some(path) = self.lacks_slash(&head.uri) {
            return Ok(Passed::Elsewhere(path));
        }
        let uri = self.inner_uri(&head.uri)?;
        if let Some(token) = &self.token
            && uri.path().starts_with("/api/")
        {
            check_token(&head.headers, token)?;
        }
        let bodied = head.headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
            || head.headers.contains_key("transfer-encoding");
        if matches!(head.method, Method::POST | Method::PUT | Method::PATCH)
            || (head.method == Method::DELETE && bodied)
        {
            check_type(&head.headers)?;
        }
        Ok(Passed::To(uri))
    }

    /// The name by which the client calls this host, if it is one of ours.
    fn host<'h>(&self, head: &'h Parts, local: SocketAddr) -> Result<&'h str, ApiError> {
        let mut given = head.headers.get_all(HOST).iter();
        let one = given.next().and_then(|host| host.to_str().ok());
        let (Some(host), None) = (one, given.next()) else {
            return Err(forbidden("the request names no host, or more than one".to_owned()));
        };
        let small = host.to_ascii_lowercase();
        let asked = head.uri.authority().is_none_or(|authority| authority.as_str() == host);
        // A numeric address is never another site's name.
        let reached = with_port(&bracketed(local.ip().to_canonical()), self.port);
        if asked && (self.hosts.contains(&small) || small == reached) {
            return Ok(host);
        }
        Err(forbidden(format!(
            "host {:?} is none of this peer's: use {}, or add it to `[api] hosts`",
            shown(host),
            with_port("127.0.0.1", self.port)
        )))
    }

    /// The path as the routes know it, without the base path.
    fn inner_uri(&self, uri: &Uri) -> Result<Uri, ApiError> {
        let whole = uri.path_and_query().map_or("/", |path| path.as_str());
        let inner = match whole.strip_prefix(&self.base_path) {
            Some(inner) => format!("/{inner}"),
            None => return Err(ApiError::unknown("nothing is here: see `[api] base_path`")),
        };
        let wrong = || ApiError::usage("the path of the request is not one");
        let uri: Uri = inner.parse().map_err(|_| wrong())?;
        if is_text(uri.path()) { Ok(uri) } else { Err(wrong()) }
    }

    /// The base path without the slash at its end: the slash matters to relative links.
    fn lacks_slash(&self, uri: &Uri) -> Option<&str> {
        (format!("{}/", uri.path()) == self.base_path).then_some(self.base_path.as_str())
    }

    /// Notes a refusal; a line a second says how many there were.
    pub(super) fn log(&self, remote: SocketAddr, error: &ApiError) {
        let mut refusals = self.refusals.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        refusals.unsaid += 1;
        let now = Instant::now();
        if refusals.said.is_some_and(|said| now - said < limits::HTTP_LOG_INTERVAL) {
            return;
        }
        let (count, status) = (std::mem::take(&mut refusals.unsaid), error.status().as_u16());
        refusals.said = Some(now);
        drop(refusals);
        tracing::warn!(%remote, status, count, why = error.message(), "the web API refused requests");
    }
}

/// The whole body, within its bounds.
pub(super) async fn read_body(head: &Parts, body: Body) -> Result<Bytes, ApiError> {
    let most = limits::HTTP_BODY_BYTES_MAX;
    let too_large = || {
        let text = format!("a body is at most {most} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "usage", text)
    };
    let told = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if told.and_then(|told| told.parse::<u64>().ok()).is_some_and(|told| told > most as u64) {
        return Err(too_large());
    }
    let read = async {
        let mut body = Box::pin(body);
        let mut bytes = Vec::new();
        while let Some(frame) =
            std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await
        {
            let frame = frame.map_err(|_| ApiError::usage("the body was cut off"))?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > most {
                return Err(too_large());
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.into())
    };
    timeout(limits::HTTP_REQUEST_TIME, read).await.unwrap_or_else(|_| {
        let text = format!("the body took more than {:?}", limits::HTTP_REQUEST_TIME);
        Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", text))
    })
}

/// What every answer says to a browser.
pub(super) fn harden(headers: &mut HeaderMap) {
    const FIXED: [(HeaderName, &str); 6] = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in FIXED {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

/// The answer to a request that is refused before its body was read: the connection ends with it.
pub(super) fn refusal(error: ApiError) -> Response {
    let asks = error.status() == StatusCode::UNAUTHORIZED;
    let mut response = error.into_response();
    let headers = response.headers_mut();
    headers.insert("connection", HeaderValue::from_static("close"));
    if asks {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"spanway\""));
    }
    response
}

fn check_origin(origin: &HeaderValue, host: &str) -> Result<(), ApiError> {
    let text = origin.to_str().unwrap_or_default();
    let site = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    if site.is_some_and(|site| site.eq_ignore_ascii_case(host)) {
        return Ok(());
    }
    Err(forbidden(format!("the page of {:?} may not ask here", shown(text))))
}

fn check_token(headers: &HeaderMap, token: &Token) -> Result<(), ApiError> {
    let unauthorized = |text: &str| ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", text);
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (Some(given), None) = (given.next(), given.next()) else {
        return Err(unauthorized(
            "the token is missing: send `Authorization: Bearer TOKEN`; `spanway page` prints it",
        ));
    };
    let bearer = given.as_bytes().split_at_checked(7);
    match bearer {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer ") && token.is(rest) => Ok(()),
        Some(_) | None => Err(unauthorized("the token is wrong: `spanway page` prints it")),
    }
}

fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(CONTENT_TYPE).and_then(|given| given.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let text = format!(
        "the content type is {:?}: what changes something is sent as `application/json`",
        shown(given)
    );
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "usage", text))
}

/// Whether what is written with `%` is text without control characters.
fn is_text(path: &str) -> bool {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let byte;
        (byte, rest) = match (first, behind) {
            (b'%', [high, low, behind @ ..]) => {
                let digit = |digit: u8| char::from(digit).to_digit(16);
                let (Some(high), Some(low)) = (digit(*high), digit(*low)) else { return false };
                (u8::try_from(high * 16 + low).unwrap_or_default(), behind)
            }
            (b'%', _) => return false,
            _ => (first, behind),
        };
        bytes.push(byte);
    }
    std::str::from_utf8(&bytes).is_ok_and(|text| !text.contains(char::is_control))
}

fn forbidden(text: String) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, "forbidden", text)
}

fn with_port(host: &str, port: u16) -> String {
    if port == 80 { host.to_owned() } else { format!("{host}:{port}") }
}

fn bracketed(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn guard(base_path: &str) -> (Guard, String) {
        let folder = tempfile::tempdir().expect("a folder");
        let token = Token::load_or_make(&folder.path().join("t")).expect("made");
        let listen = "127.0.0.1:7080".parse().expect("an address");
        let section = ApiSection {
            listen,
            token_file: folder.path().join("t"),
            base_path: base_path.to_owned(),
            hosts: vec!["relay.example".to_owned()],
            internal: None,
        };
        let text = token.as_str().to_owned();
        (Guard::new(&section, listen, Some(token)), text)
    }

    fn status(guard: &Guard, method: &str, uri: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).expect("a request").into_parts();
        let local = "127.0.0.1:7080".parse().expect("an address");
        match guard.check(&head, local) {
            Ok(Passed::To(_)) => 200,
            Ok(Passed::Elsewhere(path)) => {
                assert_eq!(path, guard.base_path);
                308
            }
            Err(error) => error.status().as_u16(),
        }
    }

    #[test]
    fn a26_only_our_own_names_our_own_pages_and_the_token_get_in() {
        let (guard, token) = guard("/");
        let bearer = format!("Bearer {token}");
        let ok = ("authorization", bearer.as_str());
        let here = ("host", "127.0.0.1:7080");
        let wrong = format!("Bearer {}", "0".repeat(64));
        for (uri, headers, expected) in [
            ("/api/status", vec![here, ok], 200),
            ("/api/status", vec![("host", "localhost:7080"), ok], 200),
            ("/api/status", vec![("host", "LOCALHOST:7080"), ok], 200),
            ("/api/status", vec![("host", "[::1]:7080"), ok], 200),
            ("/api/status", vec![("host", "relay.example"), ok], 200),
            ("/api/status", vec![here, ok, ("origin", "http://127.0.0.1:7080")], 200),
            ("/", vec![here], 200),
            ("/api/status", vec![here], 401),
            ("/api/status", vec![here, ("authorization", &wrong)], 401),
            ("/api/status", vec![here, ("authorization", &token)], 401),
            ("/api/status", vec![here, ok, ok], 401),
            ("/api/status", vec![ok], 403),
            ("/", vec![("host", "evil.example")], 403),
            ("/", vec![("host", "evil.example:7080")], 403),
            ("/", vec![("host", "127.0.0.1")], 403),
            ("/", vec![("host", "127.0.0.1:7081")], 403),
            ("/", vec![("host", "relay.example:7080")], 403),
            ("/", vec![("host", "127.0.0.1:7080.evil.example")], 403),
            ("/", vec![here, here], 403),
            ("http://evil.example/", vec![here], 403),
            ("/api/status", vec![here, ok, ("origin", "http://evil.example")], 403),
            ("/api/status", vec![here, ok, ("origin", "http://localhost:7080")], 403),
            ("/api/status", vec![here, ok, ("origin", "null")], 403),
        ] {
            assert_eq!(status(&guard, "GET", uri, &headers), expected, "{uri} {headers:?}");
        }
    }

    #[test]
    fn what_changes_something_comes_as_json() {
        let (guard, token) = guard("/");
        let bearer = format!("Bearer {token}");
        let of = |method, kind: Option<&str>| {
            let mut headers = vec![("host", "127.0.0.1:7080"), ("authorization", bearer.as_str())];
            headers.extend(kind.map(|kind| ("content-type", kind)));
            status(&guard, method, "/api/channels", &headers)
        };
        assert_eq!(of("POST", Some("application/json")), 200);
        assert_eq!(of("POST", Some("Application/JSON; charset=utf-8")), 200);
        assert_eq!(of("DELETE", None), 200);
        for kind in
            [None, Some("text/plain"), Some("application/jsonp"), Some("multipart/form-data")]
        {
            assert_eq!(of("POST", kind), 415, "{kind:?}");
        }
    }

    #[test]
    fn a_base_path_is_taken_off_and_anything_else_is_unknown() {
        let (guard, _) = guard("/spanway/");
        let here = [("host", "127.0.0.1:7080")];
        assert_eq!(status(&guard, "GET", "/spanway/", &here), 200);
        assert_eq!(status(&guard, "GET", "/spanway/peer?x=1", &here), 200);
        assert_eq!(status(&guard, "GET", "/spanway/api/status", &here), 401);
        assert_eq!(status(&guard, "GET", "/api/status", &here), 404);
        assert_eq!(status(&guard, "GET", "/spanwayapi/status", &here), 404);
        for path in ["/spanway/%zz", "/spanway/%", "/spanway/%ff", "/spanway/%00", "/spanway/a%0ab"]
        {
            assert_eq!(status(&guard, "GET", path, &here), 400, "{path}");
        }
        assert_eq!(status(&guard, "GET", "/spanway", &here), 308);
        assert_eq!(status(&guard, "GET", "/spanway", &[("host", "evil.example")]), 403);
    }
}
