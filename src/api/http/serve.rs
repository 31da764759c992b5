//! Listeners and connections: bounded in number and in time, so that those who send nothing, or send it
//! slowly, do not keep out those who do.
//!
//! A connection is busy from its complete request until the answer is made (or its stream ends). When all
//! places are taken, the one that has been longest without being busy is closed for the new one: a thousand
//! slow clients close each other, and an honest one needs its place for a moment only.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, StatusCode};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::error::ApiError;
use super::guard::{self, Guard, Passed};
use crate::limits;

/// How often it is looked whether all requests are answered when the daemon stops.
const STOP_LOOK: Duration = Duration::from_millis(10);

/// What one listener serves.
pub(super) struct Site {
    guard: Guard,
    router: Router,
    places: Arc<Places>,
}

/// Who is connected.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: Mutex<BTreeMap<u64, Place>>,
}

#[derive(Debug)]
struct Place {
    task: AbortHandle,
    /// Complete requests that are not answered yet.
    busy: u32,
    /// Since it came, or was busy last.
    since: Instant,
}

/// While this lives, the connection is not closed for another one.
#[derive(Debug)]
pub(super) struct Busy {
    places: Arc<Places>,
    number: u64,
}

/// Gives the place back, however the connection ends.
struct Leaves(Arc<Places>, u64);

impl Site {
    pub(super) fn new(guard: Guard, router: Router) -> Self {
        Self { guard, router, places: Arc::default() }
    }

    pub(super) fn places(&self) -> Arc<Places> {
        Arc::clone(&self.places)
    }

    async fn answer(
        &self,
        number: u64,
        (remote, local): (SocketAddr, SocketAddr),
        request: Request<Incoming>,
    ) -> Response {
        let mut response = match self.try_answer(number, local, request).await {
            Ok(response) => response,
            Err(error) => {
                self.guard.log(remote, &error);
                guard::refusal(error)
            }
        };
        guard::harden(response.headers_mut());
        response
    }

    async fn try_answer(
        &self,
        number: u64,
        local: SocketAddr,
        request: Request<Incoming>,
    ) -> Result<Response, ApiError> {
        let (mut head, body) = request.into_parts();
        match self.guard.check(&head, local)? {
            Passed::To(uri) => head.uri = uri,
            Passed::Elsewhere(path) => return Ok(redirect(path)),
        }
        let body = guard::read_body(&head, Body::new(body)).await?;
        let busy = Arc::new(Busy::new(&self.places, number));
        head.extensions.insert(Arc::clone(&busy));
        let routes = TowerToHyperService::new(self.router.clone());
        let answered = routes.call(Request::from_parts(head, Body::from(body))).await;
        drop(busy);
        match answered {
            Ok(response) => Ok(response),
            Err(never) => match never {},
        }
    }
}

/// Takes connections for as long as the runtime lives.
#[expect(clippy::infinite_loop, reason = "its task ends with the runtime")]
pub(super) async fn serve(listener: TcpListener, site: Site) {
    let site = Arc::new(site);
    let mut number = 0;
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors: some connection has to end first.
                tracing::warn!(%error, "the web API cannot accept a connection");
                sleep(limits::HTTP_LIVE_SETTLE).await;
                continue;
            }
        };
        if !site.places.make_room() {
            // A short text into an empty socket buffer: it fits, or the client is gone.
            let _ = stream.try_write(
                b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\
                Content-Length: 0\r\n\r\n",
            );
            continue;
        }
        number += 1;
        let leaves = Leaves(Arc::clone(&site.places), number);
        let task = tokio::spawn(connection(Arc::clone(&site), number, stream, remote, leaves));
        site.places.enter(number, task.abort_handle());
    }
}

async fn connection(
    site: Arc<Site>,
    number: u64,
    stream: TcpStream,
    remote: SocketAddr,
    leaves: Leaves,
) {
    let _leaves = leaves;
    let Ok(local) = stream.local_addr() else { return };
    // Answers are whole: nothing is gained by holding back their ends.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let site = Arc::clone(&site);
        async move {
            Ok::<_, std::convert::Infallible>(site.answer(number, (remote, local), request).await)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HTTP_REQUEST_TIME)
        .max_buf_size(limits::HTTP_HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%remote, %error, "a connection of the web API ended");
    }
}

fn redirect(path: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    let path = HeaderValue::from_str(path).expect("a configured path is plain");
    response.headers_mut().insert("location", path);
    response
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Place>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until every request that came is answered.
    pub(super) async fn answered(&self) {
        while self.lock().values().any(|place| place.busy > 0) {
            sleep(STOP_LOOK).await;
        }
        // What was answered last is written in the turn behind this one.
        sleep(STOP_LOOK).await;
    }

    /// Whether another one may come; closes the one that is idle longest if need be.
    fn make_room(&self) -> bool {
        let mut taken = self.lock();
        if taken.len() < limits::HTTP_CONNECTIONS_MAX {
            return true;
        }
        let idle = taken.iter().filter(|(_, place)| place.busy == 0);
        let Some(oldest) = idle.min_by_key(|(_, place)| place.since).map(|(number, _)| *number)
        else {
            return false;
        };
        if let Some(place) = taken.remove(&oldest) {
            place.task.abort();
        }
        true
    }

    fn enter(&self, number: u64, task: AbortHandle) {
        let place = Place { task, busy: 0, since: Instant::now() };
        // On this one thread its task has not run yet.
        self.lock().insert(number, place);
    }
}

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl Busy {
    fn new(places: &Arc<Places>, number: u64) -> Self {
        if let Some(place) = places.lock().get_mut(&number) {
            place.busy += 1;
        }
        Self { places: Arc::clone(places), number }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(place) = self.places.lock().get_mut(&self.number) {
            place.busy -= 1;
            place.since = Instant::now();
        }
    }
}
