//! The routes that look, and the table of all. Each answers what the daemon says, unread: the same JSON as
//! that of the command's `--json`.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode, Uri};
use axum::routing::{delete, get, post};

use super::App;
use super::ask::shape;
use super::error::{ApiError, Json, Raw};
use super::openapi::Errors;
use super::requests::RequestReply;
use super::{changes, commands, live, openapi, web};
use crate::api::dto::{
    AllowReply, ChannelRow, Course, GraphReply, InvitationRow, Latency, LedgerReply, LinkRow,
    PeerRow, QueueRow, RelayTimes, Request, ServiceRow, StatisticsReply, StatusReply, TreeReply,
    VerifyReply, WhyReply,
};
use crate::api::why;
use crate::limits;
use crate::types::PeerName;

type Answer = Result<Raw, ApiError>;

/// All routes.
pub(super) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/api/status", get(status))
        .route("/api/peers", get(peers))
        .route("/api/peers/{peer}/services", get(services))
        .route("/api/links", get(links).post(changes::add_link))
        .route("/api/links/{peer}", delete(changes::remove_link))
        .route("/api/tree", get(tree))
        .route("/api/computation", get(computation))
        .route("/api/graph", get(graph))
        .route("/api/verify", get(verify))
        .route("/api/channels", get(channels).post(changes::open))
        .route("/api/channels/{id}", get(channel).delete(changes::close))
        .route("/api/channels/{id}/latency", get(latency))
        .route("/api/channels/{id}/why", get(why))
        .route("/api/would-fit", post(changes::would_fit))
        .route("/api/requests/{id}", get(request))
        .route("/api/queue", get(queue))
        .route("/api/queue/{id}", delete(changes::cancel))
        .route("/api/ledger", get(ledger))
        .route("/api/times", get(times))
        .route("/api/statistics", get(statistics))
        .route("/api/allow", get(allow))
        .route("/api/invitations", get(invitations).post(changes::invite))
        .route("/api/invitations/{id}", delete(changes::revoke))
        .route("/api/recompute", post(changes::recompute))
        .route("/api/reload", post(changes::reload))
        .route("/api/leave", post(changes::leave))
        .route("/api/command", post(commands::command))
        .route("/api/events", get(live::events))
        .route("/api/live", get(live::live))
        .route("/api/openapi.json", get(openapi::document))
        .merge(web::router())
        .fallback(unknown)
        .method_not_allowed_fallback(not_allowed)
        .with_state(app)
}

/// How the daemon is doing.
#[utoipa::path(get, path = "/api/status", tag = "look",
    responses((status = 200, body = StatusReply), Errors))]
pub(super) async fn status(State(app): State<Arc<App>>) -> Answer {
    app.daemon.ask(&Request::Status).await.map(Raw)
}

/// The peers this one knows.
#[utoipa::path(get, path = "/api/peers", tag = "look",
    responses((status = 200, body = Vec<PeerRow>), Errors))]
pub(super) async fn peers(State(app): State<Arc<App>>) -> Answer {
    app.daemon.ask(&Request::Peers).await.map(Raw)
}

/// The services of a peer.
#[utoipa::path(get, path = "/api/peers/{peer}/services", tag = "look",
    params(("peer" = PeerName, Path, description = "Whose services")),
    responses((status = 200, body = Vec<ServiceRow>), Errors))]
pub(super) async fn services(State(app): State<Arc<App>>, Path(peer): Path<String>) -> Answer {
    let peer = peer_of(&peer)?;
    app.daemon.ask_for(limits::OPEN_DEADLINE, &Request::Services { peer }).await.map(Raw)
}

/// The links of this peer.
#[utoipa::path(get, path = "/api/links", tag = "look",
    responses((status = 200, body = Vec<LinkRow>), Errors))]
pub(super) async fn links(State(app): State<Arc<App>>) -> Answer {
    app.daemon.ask(&Request::Links).await.map(Raw)
}

/// The rules of `[[allow]]`, and what they let in.
#[utoipa::path(get, path = "/api/allow", tag = "look",
    responses((status = 200, body = AllowReply), Errors))]
pub(super) async fn allow(State(app): State<Arc<App>>) -> Answer {
    app.daemon.ask(&Request::Allow).await.map(Raw)
}

/// The invitations that have not expired; what was secret in them is not known here.
#[utoipa::path(get, path = "/api/invitations", tag = "look",
    responses((status = 200, body = Vec<InvitationRow>), Errors))]
pub(super) async fn invitations(State(app): State<Arc<App>>) -> Answer {
    app.daemon.ask(&Request::Invitations).await.map(Raw)
}

/// The spanning tree.
#[utoipa::path(get, path = "/api/tree", tag = "look",
    responses((status = 200, body = TreeReply), Errors))]
pub(super) async fn tree(State(app): State<Arc<App>>) -> Answer {
    app.daemon.ask(&Request::Tree).await.map(Raw)
}

/// What each peer did in the last tree computation, by its name.
#[utoipa::path(get, path = "/api/computation", tag = "look",
    responses((status = 200, body = BTreeMap<String, Course>), Errors))]
pub(super) async fn computation(State(app): State<Arc<App>>) -> Answer {
    app.daemon.ask_for(limits::OPEN_DEADLINE, &Request::Computation { all: true }).await.map(Raw)
}

/// The whole overlay as this peer knows it.
#[utoipa::path(get, path = "/api/graph", tag = "look",
    responses((status = 200, body = GraphReply), Errors))]
pub(super) async fn graph(State(app): State<Arc<App>>) -> Answer {
    app.daemon.ask(&Request::Graph).await.map(Raw)
}

/// The tree against an independent computation.
#[utoipa::path(get, path = "/api/verify", tag = "look",
    responses((status = 200, body = VerifyReply), Errors))]
pub(super) async fn verify(State(app): State<Arc<App>>) -> Answer {
    app.daemon.ask_for(limits::OPEN_DEADLINE, &Request::Verify).await.map(Raw)
}

/// The channels that end here or cross this peer.
#[utoipa::path(get, path = "/api/channels", tag = "channels",
    responses((status = 200, body = Vec<ChannelRow>), Errors))]
pub(super) async fn channels(State(app): State<Arc<App>>) -> Answer {
    app.daemon.ask(&Request::Channels).await.map(Raw)
}

/// One of them, by id or name.
#[utoipa::path(get, path = "/api/channels/{id}", tag = "channels",
    params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = ChannelRow), Errors))]
pub(super) async fn channel(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<ChannelRow>, ApiError> {
    let mut rows: Vec<ChannelRow> = app.daemon.read(&Request::Channels).await?;
    let mut found: Vec<_> = rows.extract_if(.., |row| row.id == id).collect();
    if found.is_empty() {
        let named = |row: &ChannelRow| row.name.as_str() == id && row.role != "relay";
        found = rows.into_iter().filter(named).collect();
    }
    match (found.pop(), found.is_empty()) {
        (Some(row), true) => Ok(Json(StatusCode::OK, row)),
        (Some(_), false) => {
            let text = "several channels have that name here: take the id";
            Err(ApiError::new(StatusCode::CONFLICT, "failed", text))
        }
        (None, _) => Err(ApiError::unknown("no channel of that id or name is here")),
    }
}

/// One-way times of a channel, counted since it came here.
#[utoipa::path(get, path = "/api/channels/{id}/latency", tag = "channels",
    params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = Latency), Errors))]
pub(super) async fn latency(State(app): State<Arc<App>>, Path(channel): Path<String>) -> Answer {
    app.daemon.ask(&Request::Latency { channel, watch: None }).await.map(Raw)
}

/// Where a channel is slow, and where its frames are dropped or lost. Takes as long as two looks at its path.
#[utoipa::path(get, path = "/api/channels/{id}/why", tag = "channels",
    params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = WhyReply), Errors))]
pub(super) async fn why(
    State(app): State<Arc<App>>,
    Path(channel): Path<String>,
) -> Result<Json<WhyReply>, ApiError> {
    let request = Request::Survey { channel };
    let first = app.daemon.read(&request).await?;
    tokio::time::sleep(why::BETWEEN).await;
    Ok(Json(StatusCode::OK, why::why(&first, app.daemon.read(&request).await?)))
}

/// What became of a request that stood in line.
#[utoipa::path(get, path = "/api/requests/{id}", tag = "channels",
    params(("id" = String, Path, description = "As the 202 answer has it")),
    responses((status = 200, body = RequestReply), Errors))]
pub(super) async fn request(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<RequestReply>, ApiError> {
    if let Some(answer) = app.requests.answer(&id) {
        return Ok(Json(StatusCode::OK, RequestReply::answered(answer)));
    }
    let rows: Vec<QueueRow> = shape(&app.daemon.ask(&Request::Queue).await?)?;
    let row = rows.into_iter().find(|row| row.id == id).map(RequestReply::queued);
    // It may have been answered since the look before.
    let reply = row.or_else(|| app.requests.answer(&id).map(RequestReply::answered));
    match reply {
        Some(reply) => Ok(Json(StatusCode::OK, reply)),
        None => Err(ApiError::unknown("no such request stands or stood in line here")),
    }
}

/// The requests of this peer that wait for room, and what each waits for.
#[utoipa::path(get, path = "/api/queue", tag = "channels",
    responses((status = 200, body = Vec<QueueRow>), Errors))]
pub(super) async fn queue(State(app): State<Arc<App>>) -> Answer {
    app.daemon.ask(&Request::Queue).await.map(Raw)
}

/// Where every frame of this peer is.
#[utoipa::path(get, path = "/api/ledger", tag = "look",
    responses((status = 200, body = LedgerReply), Errors))]
pub(super) async fn ledger(State(app): State<Arc<App>>) -> Answer {
    app.daemon.ask(&Request::Ledger).await.map(Raw)
}

/// How long frames and messages are inside this peer.
#[utoipa::path(get, path = "/api/times", tag = "look",
    responses((status = 200, body = RelayTimes), Errors))]
pub(super) async fn times(State(app): State<Arc<App>>) -> Answer {
    app.daemon.ask(&Request::RelayTimes).await.map(Raw)
}

/// What the control lane counted since this peer started.
#[utoipa::path(get, path = "/api/statistics", tag = "look",
    responses((status = 200, body = StatisticsReply), Errors))]
pub(super) async fn statistics(State(app): State<Arc<App>>) -> Answer {
    app.daemon.ask(&Request::Statistics).await.map(Raw)
}

/// A peer that a path names.
pub(super) fn peer_of(text: &str) -> Result<PeerName, ApiError> {
    PeerName::new(text).map_err(|error| ApiError::usage(format!("the peer of the path: {error}")))
}

pub(super) async fn unknown(uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(64).collect();
    ApiError::unknown(format!("nothing is at {path:?}: `api/openapi.json` lists what is"))
}

pub(super) async fn not_allowed(method: Method, uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(64).collect();
    let text = format!("{method} is not possible at {path:?}");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "usage", text)
}
