//! The second listener: whether the daemon lives and is of use. Needs no token and tells no names.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use serde::Serialize;
use tokio::time::timeout;

use super::App;
use super::error::{ApiError, Json};
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
