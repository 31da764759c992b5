//! The description of the web API, made from the code.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response as Described, ResponseBuilder};
use utoipa::{IntoResponses, Modify, OpenApi};

use super::error::{ErrorReply, Json};
use super::{changes, commands, live, routes};
use crate::api::dto;

/// The answers that every route may give instead of its own.
pub(super) struct Errors;

/// Their status and what it means.
const ERRORS: [(&str, &str); 11] = [
    ("400", "The request is wrong; the message says where."),
    ("401", "The token is missing or wrong."),
    ("403", "Host or origin is not one of this peer's."),
    ("404", "Nothing has that id or name."),
    ("405", "The method is not possible here."),
    ("408", "The body took too long."),
    ("409", "It could not be done, or the overlay said no."),
    ("413", "The body is too large."),
    ("415", "The body is not `application/json`."),
    ("503", "All places are taken, or the daemon stops: try again."),
    ("504", "No answer came in time."),
];

impl IntoResponses for Errors {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        let error = |text: &str| {
            let schema = Ref::from_schema_name("ErrorReply");
            let content = ContentBuilder::new().schema(Some(schema)).build();
            ResponseBuilder::new().description(text).content("application/json", content).build()
        };
        ERRORS.iter().map(|(status, text)| ((*status).to_owned(), error(text).into())).collect()
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Spanway",
        description = "One peer of an overlay: its channels, links and the overlay as it sees it.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    paths(
        routes::status,
        routes::peers,
        routes::services,
        routes::links,
        routes::allow,
        routes::invitations,
        routes::tree,
        routes::computation,
        routes::graph,
        routes::verify,
        routes::channels,
        routes::channel,
        routes::latency,
        routes::why,
        routes::request,
        routes::queue,
        routes::ledger,
        routes::times,
        routes::statistics,
        changes::open,
        changes::close,
        changes::would_fit,
        changes::cancel,
        changes::add_link,
        changes::remove_link,
        changes::invite,
        changes::revoke,
        changes::recompute,
        changes::reload,
        changes::leave,
        commands::command,
        live::events,
        live::live,
        document,
    ),
    components(schemas(ErrorReply, dto::EventLine)),
    modifiers(&Token),
    security(("token" = []))
)]
struct Description;

struct Token;

impl Modify for Token {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme("token", bearer);
    }
}

/// This description.
#[utoipa::path(get, path = "/api/openapi.json", tag = "look",
    responses((status = 200, body = serde_json::Value), Errors))]
pub(super) async fn document() -> Response {
    Json(StatusCode::OK, Description::openapi()).into_response()
}
