//! The routes that change something, but for the JSON commands.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::App;
use super::ask::shape;
use super::error::{ApiError, Json, Raw};
use super::openapi::Errors;
use super::routes::peer_of;
use super::{body, requests};
use crate::api::dto::{
    AddLink, ChannelRow, FitReply, InvitationRow, Invite, InviteReply, LinkReply, LinkRow, Open,
    OpenReply, QueueRow, Request, WouldFit,
};
use crate::limits;
use crate::types::{PeerName, Reject};

/// What was done, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Done {
    done: String,
}

/// How long to wait for the channels that cross this peer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Leave {
    timeout_ms: u64,
}

/// What came of a request for a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    Open(OpenReply),
    /// Its final answer will be kept.
    Queued(QueueRow),
}

/// Asks for a channel: 201 it is open, 202 it stands in line.
#[utoipa::path(post, path = "/api/channels", tag = "channels", request_body = Open,
    params(("Idempotency-Key" = Option<String>, Header, description = "As `idempotency_key`")),
    responses(
        (status = 201, body = OpenReply, headers(("location" = String))),
        (status = 202, body = QueueRow, headers(("location" = String))),
        Errors))]
pub(super) async fn open(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let mut open: Open = body::parse(&body)?;
    if let Some(key) = headers.get("idempotency-key") {
        let key =
            key.to_str().map_err(|_| ApiError::usage("Idempotency-Key: visible ASCII only"))?;
        if open.idempotency_key.replace(key.to_owned()).is_some_and(|other| other != key) {
            let text = "Idempotency-Key and `idempotency_key` differ: one of them is enough";
            return Err(ApiError::usage(text));
        }
    }
    let answer = ask_to_open(&app, open).await?;
    let (place, mut response) = match answer {
        Opened::Open(reply) => {
            let id = reply.channel.clone().unwrap_or_default();
            (format!("channels/{id}"), Json(StatusCode::CREATED, reply).into_response())
        }
        Opened::Queued(row) => {
            (format!("requests/{}", row.id), Json(StatusCode::ACCEPTED, row).into_response())
        }
    };
    // Relative, so that a base path needs no care. Ids have no characters that a header could not.
    if let Ok(place) = HeaderValue::from_str(&place) {
        response.headers_mut().insert("location", place);
    }
    Ok(response)
}

/// The overlay's no is an error.
pub(super) async fn ask_to_open(app: &Arc<App>, open: Open) -> Result<Opened, ApiError> {
    let deadline = Duration::from_millis(open.deadline_ms).min(limits::OPEN_DEADLINE_MAX);
    if !open.wait {
        let answer = app.daemon.ask_for(deadline, &Request::Open(open)).await?;
        return decided(shape(&answer)?);
    }
    let mut lines = app.daemon.stand(&Request::OpenTold(open)).await?;
    let Some(first) = lines.next().await? else {
        return Err(ApiError::busy("the daemon stops"));
    };
    // The two lines have no field in common that both need.
    if let Ok(row) = shape::<QueueRow>(&first) {
        requests::wait(app, row.id.clone(), lines);
        return Ok(Opened::Queued(row));
    }
    decided(shape(&first)?)
}

fn decided(reply: OpenReply) -> Result<Opened, ApiError> {
    if reply.outcome == "open" { Ok(Opened::Open(reply)) } else { Err(ApiError::refused(reply)) }
}

/// Whether a channel would be opened now, later or never; reserves nothing.
#[utoipa::path(post, path = "/api/would-fit", tag = "channels", request_body = WouldFit,
    responses((status = 200, body = FitReply), Errors))]
pub(super) async fn would_fit(State(app): State<Arc<App>>, body: Bytes) -> Result<Raw, ApiError> {
    let asked = body::parse(&body)?;
    app.daemon.ask_for(limits::OPEN_DEADLINE, &Request::WouldFit(asked)).await.map(Raw)
}

/// Closes a channel that ends here.
#[utoipa::path(delete, path = "/api/channels/{id}", tag = "channels",
    params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = Done), Errors))]
pub(super) async fn close(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<Done>, ApiError> {
    close_channel(&app, &id).await?;
    Ok(done(format!("closed {id}")))
}

pub(super) async fn close_channel(app: &App, id: &str) -> Result<(), ApiError> {
    let Err(error) = app.daemon.ask(&Request::Close { channel: id.to_owned() }).await else {
        return Ok(());
    };
    if error.reason() != Some(Reject::NotAllowed) {
        return Err(error);
    }
    // Does it only cross this peer, or is it not here at all?
    let rows: Vec<ChannelRow> = app.daemon.read(&Request::Channels).await?;
    if rows.iter().any(|row| row.id == id) {
        return Err(error);
    }
    Err(ApiError::unknown(format!("no channel {id} ends here")))
}

/// Gives up a place in line; its asker is told that it was cancelled.
#[utoipa::path(delete, path = "/api/queue/{id}", tag = "channels",
    params(("id" = String, Path, description = "As the queue has it")),
    responses((status = 200, body = Done), Errors))]
pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<Done>, ApiError> {
    let rows: Vec<QueueRow> = app.daemon.read(&Request::Queue).await?;
    if !rows.iter().any(|row| row.id == id) {
        return Err(ApiError::unknown("no such request stands in line here"));
    }
    close_channel(&app, &id).await?;
    Ok(done(format!("{id} stands in line no more")))
}

/// Gains a link, now and after a restart: it is written into the configuration file. The neighbour needs one
/// to this peer.
#[utoipa::path(post, path = "/api/links", tag = "peer", request_body = AddLink,
    responses((status = 200, body = LinkReply), Errors))]
pub(super) async fn add_link(State(app): State<Arc<App>>, body: Bytes) -> Result<Raw, ApiError> {
    app.daemon.ask(&Request::AddLink(body::parse(&body)?)).await.map(Raw)
}

/// Drops a link, now and after a restart.
#[utoipa::path(delete, path = "/api/links/{peer}", tag = "peer",
    params(("peer" = PeerName, Path, description = "The neighbour")),
    responses((status = 200, body = LinkReply), Errors))]
pub(super) async fn remove_link(
    State(app): State<Arc<App>>,
    Path(peer): Path<String>,
) -> Result<Json<LinkReply>, ApiError> {
    drop_link(&app, peer_of(&peer)?).await.map(|reply| Json(StatusCode::OK, reply))
}

pub(super) async fn drop_link(app: &App, peer: PeerName) -> Result<LinkReply, ApiError> {
    let removed = app.daemon.read(&Request::RemoveLink { peer: peer.clone() }).await;
    let Err(error) = removed else { return removed };
    let rows: Vec<LinkRow> = app.daemon.read(&Request::Links).await?;
    if rows.iter().any(|row| row.peer == peer) {
        return Err(error);
    }
    Err(ApiError::unknown(error.message()))
}

/// An invitation with which one newcomer joins. The answer has a secret.
#[utoipa::path(post, path = "/api/invitations", tag = "peer", request_body = Invite,
    responses((status = 201, body = InviteReply), Errors))]
pub(super) async fn invite(
    State(app): State<Arc<App>>,
    body: Bytes,
) -> Result<Json<InviteReply>, ApiError> {
    let reply = app.daemon.read(&Request::Invite(body::parse(&body)?)).await?;
    Ok(Json(StatusCode::CREATED, reply))
}

/// Makes an invitation void.
#[utoipa::path(delete, path = "/api/invitations/{id}", tag = "peer",
    params(("id" = String, Path, description = "As it was told when it was made")),
    responses((status = 200, body = InvitationRow), Errors))]
pub(super) async fn revoke(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<InvitationRow>, ApiError> {
    let row = app.daemon.read(&Request::Revoke { id }).await?;
    Ok(Json(StatusCode::OK, row))
}

/// Starts a new computation of the tree.
#[utoipa::path(post, path = "/api/recompute", tag = "peer",
    responses((status = 200, body = Done), Errors))]
pub(super) async fn recompute(State(app): State<Arc<App>>) -> Result<Json<Done>, ApiError> {
    app.daemon.ask(&Request::Recompute).await?;
    Ok(done("a new computation of the tree has started".to_owned()))
}

/// Takes over the configuration file: all of it, or nothing on a mistake.
#[utoipa::path(post, path = "/api/reload", tag = "peer",
    responses((status = 200, body = Done), Errors))]
pub(super) async fn reload(State(app): State<Arc<App>>) -> Result<Json<Done>, ApiError> {
    app.daemon.ask(&Request::Reload).await?;
    Ok(done("the new configuration is in use".to_owned()))
}

/// Leaves the overlay once the channels that cross this peer have moved; the daemon stops.
#[utoipa::path(post, path = "/api/leave", tag = "peer", request_body = Leave,
    responses((status = 200, body = Done), Errors))]
pub(super) async fn leave(
    State(app): State<Arc<App>>,
    body: Bytes,
) -> Result<Json<Done>, ApiError> {
    let Leave { timeout_ms } = body::parse(&body)?;
    let deadline = Duration::from_millis(timeout_ms).min(limits::OPEN_DEADLINE_MAX);
    app.daemon.ask_for(deadline, &Request::Leave { timeout_ms }).await?;
    Ok(done("the peer has left the overlay, its daemon stops".to_owned()))
}

pub(super) fn done(done: String) -> Json<Done> {
    Json(StatusCode::OK, Done { done })
}
