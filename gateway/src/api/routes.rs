//! Which path leads where.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::Uri;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use hyper::{Method, StatusCode};

use super::problem::Problem;
use super::state::ApiState;
use super::{guest, health, page};

pub(super) fn router(state: Arc<ApiState>) -> Router {
    let body_bytes = usize::try_from(state.config.http.request_body_bytes).unwrap_or(usize::MAX);
    let mut router = Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .route("/ws", get(websocket_only))
        .merge(page::routes());
    if state.config.guests_enabled() {
        router = router
            .route("/v1/guest", post(guest::create).get(guest::name_of_user))
            .route("/v1/guest/{name}", get(guest::look_up));
    }
    router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(body_bytes))
        .with_state(state)
}

async fn not_found(uri: Uri) -> Response {
    Problem::new(StatusCode::NOT_FOUND, "not_found", format!("there is nothing at {}", uri.path()))
        .into_response()
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let detail = format!("{} does not take {method}; the `Allow` header says what it takes", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).into_response()
}

/// A kept-alive connection asks for `/ws` without asking for a WebSocket. (A fresh one the shard answers itself.)
async fn websocket_only() -> Response {
    let problem = Problem::new(
        StatusCode::UPGRADE_REQUIRED,
        "upgrade_required",
        "/ws speaks WebSocket only (RFC 6455)",
    );
    let mut response = problem.into_response();
    let headers = response.headers_mut();
    headers.insert(hyper::header::UPGRADE, hyper::header::HeaderValue::from_static("websocket"));
    headers.insert(hyper::header::SEC_WEBSOCKET_VERSION, hyper::header::HeaderValue::from_static("13"));
    response
}
