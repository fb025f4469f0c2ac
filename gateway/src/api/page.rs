//! The chat page: a few small files inside the binary.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::{StatusCode, header};
use sha2::{Digest as _, Sha256};

use super::state::ApiState;

/// One file of the page.
struct Asset {
    content_type: &'static str,
    bytes: &'static [u8],
    /// A strong validator (RFC 9110 §8.8.3): a hash of the content.
    etag: String,
}

impl Asset {
    fn new(content_type: &'static str, bytes: &'static [u8]) -> Self {
        let hash = Sha256::digest(bytes);
        Self { content_type, bytes, etag: format!("\"{}\"", URL_SAFE_NO_PAD.encode(&hash[..12])) }
    }
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! files {
    ($($path:literal => $content_type:ident $file:literal),* $(,)?) => {
        /// Where each file of `web/` is served, and as what.
        #[cfg(test)]
        pub(super) const FILES: &[(&str, &str, &str)] = &[$(($path, $content_type, $file)),*];

        pub(super) fn routes() -> Router<Arc<ApiState>> {
            Router::new()$(.route($path, get(|headers: HeaderMap| async move {
                static ASSET: LazyLock<Asset> =
                    LazyLock::new(|| Asset::new($content_type, include_bytes!(concat!("../../../web/", $file))));
                serve(&ASSET, &headers)
            })))*
        }
    };
}

files! {
    "/api.js" => SCRIPT "api.js",
    "/chat.css" => STYLE "chat.css",
    "/chat.js" => SCRIPT "chat.js",
    "/composer.js" => SCRIPT "composer.js",
    "/devices.js" => SCRIPT "devices.js",
    "/dialog.js" => SCRIPT "dialog.js",
    "/diary.js" => SCRIPT "diary.js",
    "/disk.js" => SCRIPT "disk.js",
    "/dom.js" => SCRIPT "dom.js",
    "/holdfast-client.js" => SCRIPT "holdfast-client.js",
    "/icon.svg" => SVG "icon.svg",
    "/identity.js" => SCRIPT "identity.js",
    "/" => HTML "index.html",
    "/link.js" => SCRIPT "link.js",
    "/list.js" => SCRIPT "list.js",
    "/members.js" => SCRIPT "members.js",
    "/menu.js" => SCRIPT "menu.js",
    "/message.js" => SCRIPT "message.js",
    "/new-group.js" => SCRIPT "new-group.js",
    "/page.js" => SCRIPT "page.js",
    "/people.js" => SCRIPT "people.js",
    "/person.js" => SCRIPT "person.js",
    "/readers.js" => SCRIPT "readers.js",
    "/rows.js" => SCRIPT "rows.js",
    "/settings.js" => SCRIPT "settings.js",
    "/thread.js" => SCRIPT "thread.js",
    "/words.js" => SCRIPT "words.js",
}

fn serve(asset: &Asset, request: &HeaderMap) -> Response {
    let known = request.get_all(header::IF_NONE_MATCH).iter().any(|value| has_etag(value, &asset.etag));
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut response = asset.bytes.into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
        response
    };
    let headers = response.headers_mut();
    let etag = HeaderValue::from_str(&asset.etag).expect("base64url in quotes is a header value");
    headers.insert(header::ETAG, etag);
    // Ask each time: the binary may have been replaced.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::CONTENT_SECURITY_POLICY, policy(request));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response
}

/// RFC 9110 §13.1.2: a list of entity tags, compared weakly, or `*`.
fn has_etag(value: &HeaderValue, etag: &str) -> bool {
    let Ok(value) = value.to_str() else { return false };
    value
        .split(',')
        .map(str::trim)
        .any(|candidate| candidate == "*" || candidate.trim_start_matches("W/") == etag)
}

/// Nothing but our own files runs, and nothing is sent elsewhere. Some browsers do not count `ws:` to the same host
/// as `'self'`, so it is named.
fn policy(request: &HeaderMap) -> HeaderValue {
    let host =
        request.get(header::HOST).and_then(|host| host.to_str().ok()).filter(|host| is_plain_host(host));
    let sockets = host.map_or_else(String::new, |host| format!(" ws://{host} wss://{host}"));
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'{sockets}; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).expect("a plain host is visible ASCII")
}

fn is_plain_host(host: &str) -> bool {
    !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
}
