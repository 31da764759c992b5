//! Server-sent events: what happens (`/api/events`), and all that a page shows (`/api/live`).
//!
//! One task asks the daemon for everybody: it runs while somebody listens, every second and shortly after
//! something has happened, and sends what differs from the time before. A client that does not read is let
//! go; what waits for it is bounded and shared with the others.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::Extension;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use hyper::body::Frame;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::{Instant, sleep_until};

use super::App;
use super::ask::Lines;
use super::error::ApiError;
use super::openapi::Errors;
use super::serve::Busy;
use crate::api::dto::{EventLine, Request};
use crate::limits;

/// Everything a page shows, in the order of its first messages.
const SHOWN: [(&str, Request); 7] = [
    ("status", Request::Status),
    ("links", Request::Links),
    ("graph", Request::Graph),
    ("channels", Request::Channels),
    ("queue", Request::Queue),
    ("ledger", Request::Ledger),
    ("times", Request::RelayTimes),
];

/// Who listens, and what they were told last.
#[derive(Debug, Default)]
pub(super) struct Live {
    feed: Mutex<Feed>,
}

#[derive(Debug, Default)]
struct Feed {
    listeners: Vec<Listener>,
    /// The latest message of each name.
    told: BTreeMap<&'static str, Bytes>,
    running: bool,
}

#[derive(Debug)]
struct Listener {
    messages: Sender<Bytes>,
    /// Wants all that a page shows, not events only.
    page: bool,
}

/// The body of an answer that lasts.
struct Stream {
    messages: Receiver<Bytes>,
    /// A stream keeps its connection.
    _busy: Arc<Busy>,
}

/// What happens from now on: server-sent events, the data of each is one event.
#[utoipa::path(get, path = "/api/events", tag = "live",
    responses((status = 200, body = EventLine, content_type = "text/event-stream"), Errors))]
pub(super) async fn events(
    State(app): State<Arc<App>>,
    Extension(busy): Extension<Arc<Busy>>,
) -> Result<Response, ApiError> {
    listen(&app, busy, false).await
}

/// All that a page shows, now and whenever it changes: server-sent events named `status`, `links`,
/// `graph`, `channels`, `queue`, `ledger` and `times` with the JSON of the routes of that name, and `event`.
#[utoipa::path(get, path = "/api/live", tag = "live",
    responses((status = 200, body = String, content_type = "text/event-stream"), Errors))]
pub(super) async fn live(
    State(app): State<Arc<App>>,
    Extension(busy): Extension<Arc<Busy>>,
) -> Result<Response, ApiError> {
    listen(&app, busy, true).await
}

async fn listen(app: &Arc<App>, busy: Arc<Busy>, page: bool) -> Result<Response, ApiError> {
    let (sender, messages) = mpsc::channel(limits::HTTP_STREAM_MESSAGES_MAX);
    let start = {
        let mut feed = app.live.lock();
        feed.listeners.retain(|listener| !listener.messages.is_closed());
        if feed.listeners.len() >= limits::HTTP_STREAMS_MAX {
            let most = limits::HTTP_STREAMS_MAX;
            return Err(ApiError::busy(format!("{most} clients follow events already")));
        }
        // What the others know already. There is room: the channel is new.
        let _ = sender.try_send(Bytes::from_static(b": spanway\n\n"));
        if page {
            for message in SHOWN.iter().filter_map(|(name, _)| feed.told.get(name)) {
                let _ = sender.try_send(message.clone());
            }
        }
        feed.listeners.push(Listener { messages: sender, page });
        !std::mem::replace(&mut feed.running, true)
    };
    if start {
        match app.daemon.lines(&Request::Events).await {
            Ok(lines) => drop(tokio::spawn(follow(Arc::clone(app), lines))),
            Err(error) => {
                app.live.lock().end();
                return Err(error);
            }
        }
    }
    let mut response = Response::new(Body::new(Stream { messages, _busy: busy }));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A proxy must not hold it back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// Until nobody listens or the daemon stops.
async fn follow(app: Arc<App>, mut happened: Lines) {
    let mut next = Instant::now();
    while app.live.lock().is_wanted() {
        tokio::select! {
            line = happened.next() => {
                let Ok(Some(line)) = line else { break };
                app.live.lock().send_event(line.get());
                next = next.min(Instant::now() + limits::HTTP_LIVE_SETTLE);
            }
            () = sleep_until(next) => {
                let start = Instant::now();
                if app.live.lock().has_pages() {
                    // Whoever has taken all places gives one back; a daemon that stops ends the events.
                    let _ = look(&app).await;
                }
                let took = start.elapsed();
                next = start + limits::HTTP_LIVE_INTERVAL.max(took * limits::HTTP_LIVE_SHARE);
            }
        }
    }
    app.live.lock().end();
}

/// Asks for everything, one after the other: a page is one client of the daemon.
async fn look(app: &App) -> Result<(), ApiError> {
    for (name, request) in &SHOWN {
        let value = app.daemon.ask(request).await?;
        app.live.lock().send(name, value.get());
    }
    Ok(())
}

impl Live {
    fn lock(&self) -> MutexGuard<'_, Feed> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feed {
    fn is_wanted(&mut self) -> bool {
        self.listeners.retain(|listener| !listener.messages.is_closed());
        !self.listeners.is_empty()
    }

    fn has_pages(&self) -> bool {
        self.listeners.iter().any(|listener| listener.page)
    }

    fn send(&mut self, name: &'static str, json: &str) {
        let message = message(Some(name), json);
        if self.told.get(name) == Some(&message) {
            return;
        }
        self.listeners.retain(|to| !to.page || to.messages.try_send(message.clone()).is_ok());
        self.told.insert(name, message);
    }

    fn send_event(&mut self, json: &str) {
        let (of_page, plain) = (message(Some("event"), json), message(None, json));
        self.listeners.retain(|to| {
            let message = if to.page { &of_page } else { &plain };
            to.messages.try_send(message.clone()).is_ok()
        });
    }

    /// Nobody is told anything any more: streams end.
    fn end(&mut self) {
        *self = Self::default();
    }
}

/// `json` has no line breaks: it is a line of the daemon.
fn message(name: Option<&str>, json: &str) -> Bytes {
    match name {
        Some(name) => format!("event: {name}\ndata: {json}\n\n").into(),
        None => format!("data: {json}\n\n").into(),
    }
}

impl HttpBody for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.messages.poll_recv(context).map(|message| message.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(feed: &mut Feed, page: bool) -> Receiver<Bytes> {
        let (messages, receiver) = mpsc::channel(limits::HTTP_STREAM_MESSAGES_MAX);
        feed.listeners.push(Listener { messages, page });
        receiver
    }

    #[test]
    fn only_what_changed_is_sent_and_events_go_to_all() {
        let mut feed = Feed::default();
        let (mut page, mut events) = (listener(&mut feed, true), listener(&mut feed, false));
        feed.send("queue", "[]");
        feed.send("queue", "[]");
        feed.send_event("{\"event\":\"link_up\"}");
        assert_eq!(page.try_recv().expect("queue"), "event: queue\ndata: []\n\n");
        assert_eq!(
            page.try_recv().expect("event"),
            "event: event\ndata: {\"event\":\"link_up\"}\n\n"
        );
        assert!(page.try_recv().is_err());
        assert_eq!(events.try_recv().expect("event"), "data: {\"event\":\"link_up\"}\n\n");
        assert!(events.try_recv().is_err());
    }

    #[test]
    fn a_client_that_does_not_read_is_let_go_and_the_others_stay() {
        let mut feed = Feed::default();
        let (slow, mut quick) = (listener(&mut feed, false), listener(&mut feed, false));
        for _ in 0..limits::HTTP_STREAM_MESSAGES_MAX + 1 {
            feed.send_event("{}");
            quick.try_recv().expect("each");
        }
        assert_eq!(feed.listeners.len(), 1);
        drop((slow, quick));
        assert!(!feed.is_wanted());
    }
}
