//! The second listener: whether the daemon lives and is of use, and its metrics. Needs no token; metrics
//! name neighbours, so it is for loopback or a network of one's own.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::routing::get;
use serde::Serialize;
use tokio::time::timeout;

use super::App;
use super::error::{ApiError, Json};
use super::metrics::{self, Process, Snapshot};
use super::routes;
use crate::api::dto::{Request, StatusReply};

/// A control loop that does not answer within this is taken for stuck.
const ANSWER_MAX: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Health {
    /// The control loop answers.
    live: bool,
    /// There is a tree, and a link is up if there are any.
    ready: bool,
}

pub(super) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/metrics", get(exposition))
        .fallback(routes::unknown)
        .method_not_allowed_fallback(routes::not_allowed)
        .with_state(app)
}

async fn live(State(app): State<Arc<App>>) -> Json<Health> {
    let health = look(&app).await;
    Json(status(health.live), health)
}

async fn ready(State(app): State<Arc<App>>) -> Json<Health> {
    let health = look(&app).await;
    Json(status(health.ready), health)
}

async fn exposition(
    State(app): State<Arc<App>>,
) -> Result<([(HeaderName, &'static str); 1], String), ApiError> {
    let snapshot = Snapshot {
        status: app.daemon.read(&Request::Status).await?,
        links: app.daemon.read(&Request::Links).await?,
        statistics: app.daemon.read(&Request::Statistics).await?,
        times: app.daemon.read(&Request::RelayTimes).await?,
        process: process(),
    };
    let text = metrics::text(&snapshot).map_err(|error| {
        let text = format!("metrics cannot be written: {error}");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", text)
    })?;
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text))
}

/// As `/proc/self` has it.
fn process() -> Process {
    let page = rustix::param::page_size() as u64;
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).ok();
    let number = |text: &str, at: usize| text.split_whitespace().nth(at)?.parse::<u64>().ok();
    // Behind the name in parentheses, which may have spaces: user and system time are 14 and 15 of all.
    let times = read("stat").and_then(|stat| {
        let fields = stat.rsplit_once(')')?.1.to_owned();
        Some(number(&fields, 11)? + number(&fields, 12)?)
    });
    Process {
        resident_bytes: read("statm").and_then(|statm| Some(number(&statm, 1)? * page)),
        open_files: std::fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64),
        cpu_seconds: times.map(|times| times as f64 / ticks),
    }
}

async fn look(app: &App) -> Health {
    let asked = app.daemon.read::<StatusReply>(&Request::Status);
    let answer: Result<Result<_, ApiError>, _> = timeout(ANSWER_MAX, asked).await;
    match answer {
        Ok(Ok(status)) => {
            let ready = status.session.is_some() && (status.links == 0 || status.links_up > 0);
            Health { live: true, ready }
        }
        // Busy is alive; what does not answer is not.
        Ok(Err(error)) => {
            Health { live: error.status() != StatusCode::SERVICE_UNAVAILABLE, ready: false }
        }
        Err(_) => Health { live: false, ready: false },
    }
}

fn status(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
