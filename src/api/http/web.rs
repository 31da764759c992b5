//! The files of the pages, inside the program: nothing is read from the disk and nothing is built.
//!
//! A page holds no secret; what it shows it asks for with the token.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use axum::routing::get;

use super::App;

/// `(path, content type, content)`
const FILES: &[(&str, &str, &[u8])] =
    &[("/", "text/html; charset=utf-8", include_bytes!("../web/index.html"))];

pub(super) fn router() -> Router<Arc<App>> {
    FILES.iter().fold(Router::new(), |router, &(path, kind, content)| {
        router.route(path, get(move || async move { file(kind, content) }))
    })
}

fn file(kind: &'static str, content: &'static [u8]) -> Response {
    let mut response = Response::new(Body::from(content));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    // Another version of the daemon has other files at the same place.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
