//! Guests: a token for a mere name. Only where nobody else can reach the port, or where the operator wants it so.
//!
//! `POST /v1/guest {"name":"ana"}` → who that is, and a token for it. `GET /v1/guest/ana` → who that is.
//! `GET /v1/guest?user=…` → the name under which that user last came in, if it is still known.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use hyper::{StatusCode, header};
use serde::{Deserialize, Serialize};

use super::host;
use super::problem::Problem;
use super::state::ApiState;
use crate::token::{Claims, is_device_name, parse_user, user_of_name};

/// Names that are remembered for `GET /v1/guest?user=…`.
const REMEMBERED_NAMES: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GuestRequest {
    name: String,
    /// The device that the token is for; without it `hello` says.
    #[serde(default)]
    device: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GuestAnswer<'a> {
    user: String,
    name: &'a str,
    token: String,
    /// Unix seconds, as text: like every 64-bit number of the protocol.
    expires_at: String,
}

#[derive(Serialize)]
struct NameAnswer<'a> {
    user: String,
    name: &'a str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UserQuery {
    user: String,
}

/// What the guest endpoints remember.
#[derive(Debug, Default)]
pub(super) struct Guests {
    inner: Mutex<Remembered>,
}

#[derive(Debug, Default)]
struct Remembered {
    /// The second that is being counted, and the tokens given in it.
    second: u64,
    given: u32,
    names: HashMap<u64, String>,
    /// Oldest first.
    order: VecDeque<u64>,
}

impl Guests {
    /// Counts a token against the second's share.
    fn admit(&self, now_seconds: u64, per_second: u32) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.second != now_seconds {
            inner.second = now_seconds;
            inner.given = 0;
        }
        let admitted = inner.given < per_second;
        inner.given += u32::from(admitted);
        admitted
    }

    fn remember(&self, user: u64, name: &str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.names.insert(user, name.to_owned()).is_none() {
            inner.order.push_back(user);
        }
        if inner.order.len() > REMEMBERED_NAMES
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.names.remove(&oldest);
        }
    }

    fn name_of(&self, user: u64) -> Option<String> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).names.get(&user).cloned()
    }
}

/// `POST /v1/guest`
pub(super) async fn create(
    State(state): State<Arc<ApiState>>,
    headers: HeaderMap,
    body: Result<Json<GuestRequest>, JsonRejection>,
) -> Result<Response, Problem> {
    host::check(&headers, &state.config.auth.allowed_origins)?;
    let Json(request) = body.map_err(|rejection| bad_body(&rejection, &state))?;
    let name = request.name.trim();
    let user = user_of_name(name).map_err(bad_name)?;
    if !request.device.as_deref().is_none_or(is_device_name) {
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "bad_device",
            "a device is 1 to 64 of [A-Za-z0-9._-]",
        ));
    }
    let now = (state.now_seconds)();
    if !state.guests.admit(now, state.config.auth.guests_per_second) {
        let detail = format!("more than {} guests in one second", state.config.auth.guests_per_second);
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail).retry_after(1));
    }
    let expires_at = now.saturating_add(state.config.auth.token_lifetime.as_secs());
    let device = request.device.map(String::into_boxed_str);
    let token = state.tokens.mint(&Claims { user, device, issued_at: now, expires_at });
    state.guests.remember(user.0, name);
    let answer = GuestAnswer { user: user.0.to_string(), name, token, expires_at: expires_at.to_string() };
    Ok(unstored(Json(answer).into_response()))
}

/// `GET /v1/guest/{name}`
pub(super) async fn look_up(name: Result<Path<String>, PathRejection>) -> Result<Response, Problem> {
    let Path(name) = name.map_err(|rejection| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "bad_name",
            format!("the name in the path: {}", rejection.body_text()),
        )
    })?;
    let user = user_of_name(&name).map_err(bad_name)?;
    Ok(unstored(Json(NameAnswer { user: user.0.to_string(), name: name.trim() }).into_response()))
}

/// `GET /v1/guest?user=…`
pub(super) async fn name_of_user(
    State(state): State<Arc<ApiState>>,
    query: Result<Query<UserQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let bad_query =
        || Problem::new(StatusCode::BAD_REQUEST, "bad_query", "the query is `?user=` and a user's id");
    let Ok(Query(query)) = query else { return Err(bad_query()) };
    let user = parse_user(&query.user).ok_or_else(bad_query)?;
    match state.guests.name_of(user.0) {
        Some(name) => Ok(unstored(Json(NameAnswer { user: query.user, name: &name }).into_response())),
        None => Err(Problem::new(
            StatusCode::NOT_FOUND,
            "unknown_guest",
            "no guest with this id came in since the start",
        )),
    }
}

fn unstored(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

fn bad_name(error: crate::token::NameError) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_name", error.to_string())
}

fn bad_body(rejection: &JsonRejection, state: &ApiState) -> Problem {
    match rejection.status() {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "the body must be `Content-Type: application/json`",
        ),
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("a body has at most {} bytes", state.config.http.request_body_bytes),
        ),
        status => Problem::new(status, "bad_body", rejection.body_text()),
    }
}
