//! `/healthz`: the process lives. `/readyz`: it wants work. `/metrics`: what it has done.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use hyper::{StatusCode, header};

use super::problem::Problem;
use super::state::{ApiState, Readiness};

/// Answers as long as anything answers at all.
pub(super) async fn healthz() -> Response {
    plain("text/plain; charset=utf-8", "ok\n".to_owned())
}

/// 503 with the reasons until the store is replayed, and again while draining.
pub(super) async fn readyz(State(state): State<Arc<ApiState>>) -> Response {
    match (state.ready)() {
        Readiness::Ready => plain("text/plain; charset=utf-8", "ready\n".to_owned()),
        Readiness::NotReady(reasons) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", reasons.join("; "))
                .retry_after(1)
                .into_response()
        }
    }
}

/// Prometheus's text format, version 0.0.4.
pub(super) async fn metrics(State(state): State<Arc<ApiState>>) -> Response {
    plain("text/plain; version=0.0.4; charset=utf-8", state.metrics.render())
}

fn plain(content_type: &'static str, body: String) -> Response {
    ([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-store")], body).into_response()
}
