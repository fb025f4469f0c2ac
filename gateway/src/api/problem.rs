//! Errors as RFC 9457 says: `application/problem+json` with a stable `code` for programs and a `detail` for people.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use hyper::{StatusCode, header};

/// An answer that says what was wrong.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    retry_after_seconds: Option<u32>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), retry_after_seconds: None }
    }

    pub(super) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // RFC 9457 §4.2.1: without a `type`, the title is the status's own phrase.
        let body = serde_json::json!({
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, header::HeaderValue::from(seconds));
        }
        response
    }
}

/// The request was not answered in time.
pub(super) fn timeout(patience: Duration) -> Response {
    let detail = format!("no answer within {} ms", patience.as_millis());
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", detail).retry_after(1).into_response()
}
