//! Answers of the web API: values, and errors as `{"error": {"kind", "message"}}` with their status.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::api::dto::{Failure, FailureKind, OpenReply};
use crate::types::Reject;

/// What an answer with an error says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct ErrorReply {
    error: ErrorBody,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
struct ErrorBody {
    /// `usage`, `unauthorized`, `forbidden`, `unknown`, `rejected`, `failed`, `busy` or `timeout`.
    kind: String,
    /// What is wrong and what to do.
    message: String,
    /// Why the overlay said no.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reject>,
    /// The overlay's whole answer, where a channel was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<Box<OpenReply>>,
}

/// Why a request is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    status: StatusCode,
    body: ErrorBody,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, kind: &str, message: impl Into<String>) -> Self {
        let (kind, message) = (kind.to_owned(), message.into());
        Self { status, body: ErrorBody { kind, message, reason: None, answer: None } }
    }

    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "usage", message)
    }

    pub(super) fn unknown(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown", message)
    }

    /// All places are taken, or the daemon stops.
    pub(super) fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
    }

    pub(super) fn timeout(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", message)
    }

    /// The overlay's no to a request for a channel.
    pub(super) fn refused(answer: OpenReply) -> Self {
        let status = status_of(answer.reason);
        let kind = kind_of(status);
        let mut error = Self::new(status, kind, answer.detail.clone());
        error.body.reason = answer.reason;
        error.body.answer = Some(Box::new(answer));
        error
    }

    /// The overlay's answer, if this is its no.
    pub(super) fn into_answer(self) -> Result<OpenReply, Self> {
        match self.body.answer {
            Some(answer) => Ok(*answer),
            None => Err(self),
        }
    }

    pub(super) fn reason(&self) -> Option<Reject> {
        self.body.reason
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn message(&self) -> &str {
        &self.body.message
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let status = match failure.kind {
            FailureKind::Usage => StatusCode::BAD_REQUEST,
            FailureKind::Unknown => StatusCode::NOT_FOUND,
            // The request was fine, the state of the daemon is not.
            FailureKind::Failed | FailureKind::Rejected | FailureKind::Timeout => {
                status_of(failure.reason)
            }
        };
        let kind = match failure.kind {
            FailureKind::Usage => "usage",
            FailureKind::Failed if status == StatusCode::CONFLICT => "failed",
            FailureKind::Failed
            | FailureKind::Unknown
            | FailureKind::Rejected
            | FailureKind::Timeout => kind_of(status),
        };
        let mut error = Self::new(status, kind, failure.message);
        error.body.reason = failure.reason;
        error
    }
}

fn status_of(reason: Option<Reject>) -> StatusCode {
    match reason {
        Some(Reject::NoSuchPeer | Reject::NoSuchService) => StatusCode::NOT_FOUND,
        Some(Reject::Timeout) => StatusCode::GATEWAY_TIMEOUT,
        Some(Reject::Busy | Reject::ShuttingDown) => StatusCode::SERVICE_UNAVAILABLE,
        Some(
            Reject::ServiceBusy
            | Reject::Unreachable
            | Reject::Never
            | Reject::NoRoom
            | Reject::Duplicate
            | Reject::NotAllowed
            | Reject::Cancelled
            | Reject::Broken,
        )
        | None => StatusCode::CONFLICT,
    }
}

fn kind_of(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "unknown",
        StatusCode::GATEWAY_TIMEOUT => "timeout",
        StatusCode::SERVICE_UNAVAILABLE => "busy",
        _ => "rejected",
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Json(self.status, ErrorReply { error: self.body }).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// A value as JSON.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) StatusCode, pub(super) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        let text = serde_json::to_vec(&self.1).expect("answers have text keys only");
        json(self.0, text)
    }
}

/// The daemon's own JSON, unread.
#[derive(Debug)]
pub(super) struct Raw(pub(super) Box<RawValue>);

impl IntoResponse for Raw {
    fn into_response(self) -> Response {
        json(StatusCode::OK, String::from(Box::<str>::from(self.0)).into_bytes())
    }
}

fn json(status: StatusCode, text: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
