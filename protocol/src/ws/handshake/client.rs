//! The client's side of the handshake, RFC 6455 §4.1.

use thiserror::Error;

use super::fields::{Fields, Single, is_token};
use super::head::HeadError;
use super::key::accept_value;
use super::scan::{HeadLimits, HeadScanner};

/// What a client asks for.
#[derive(Debug, Clone, Copy)]
pub struct ClientRequest<'a> {
    /// `host` or `host:port`.
    pub host: &'a str,
    /// Path and query; begins with `/`.
    pub target: &'a str,
    /// From [`client_key`](super::client_key).
    pub key: &'a str,
    /// Offered, the best liked first.
    pub subprotocols: &'a [&'a str],
    /// Further headers: name and value.
    pub headers: &'a [(&'a str, &'a str)],
}

/// Appends the request.
///
/// # Panics
/// When a part of it would break the head: it comes from the program, not from a peer.
pub fn write_request(out: &mut Vec<u8>, request: &ClientRequest<'_>) {
    let ClientRequest { host, target, key, subprotocols, headers } = *request;
    let is_visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    assert!(target.starts_with('/') && is_visible(target), "a target is a path, not {target:?}");
    assert!(!host.is_empty() && is_visible(host), "a host is a name and a port, not {host:?}");
    let mut put = |parts: &[&str]| parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    put(&["GET ", target, " HTTP/1.1\r\nHost: ", host]);
    put(&[
        "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ",
        key,
    ]);
    for (index, subprotocol) in subprotocols.iter().enumerate() {
        assert!(is_token(subprotocol), "a subprotocol is a token, not {subprotocol:?}");
        put(&[if index == 0 { "\r\nSec-WebSocket-Protocol: " } else { ", " }, subprotocol]);
    }
    for (name, value) in headers {
        assert!(is_token(name), "a header name is a token, not {name:?}");
        assert!(
            value.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')),
            "a header value has no control bytes"
        );
        put(&["\r\n", name, ": ", value]);
    }
    put(&["\r\n\r\n"]);
}

/// An answer that opens the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// The length of the head: frames begin there.
    pub bytes: usize,
    /// The one that the server chose of those offered.
    pub subprotocol: Option<&'a str>,
}

/// Why an answer does not open the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ResponseError {
    /// The answer is no head.
    #[error("the server's answer is not HTTP/1.1: {0}")]
    Head(HeadError),
    /// The answer is not a status line and headers.
    #[error("the server's answer is not HTTP/1.1; is it a WebSocket server?")]
    Malformed,
    /// The server said something other than 101.
    #[error("the server refuses the connection with status {status}")]
    Refused {
        /// 503 and its like.
        status: u16,
        /// When to come again, if the server said.
        retry_after_seconds: Option<u32>,
    },
    /// RFC 6455 §4.1, 2 and 3.
    #[error("the server's 101 lacks `Upgrade: websocket` or `Connection: Upgrade`")]
    NotUpgraded,
    /// RFC 6455 §4.1, 4.
    #[error("Sec-WebSocket-Accept is missing or does not match the key; some cache may have answered")]
    Accept,
    /// RFC 6455 §4.1, 5.
    #[error("the server chose an extension though none was offered")]
    Extension,
    /// RFC 6455 §4.1, 6.
    #[error("the server chose a subprotocol that was not offered")]
    Subprotocol,
}

/// What an answer may cost; there is no reason for a server to say more.
const LIMITS: HeadLimits = HeadLimits { head_bytes: 16 * 1024, headers: 64 };

/// Judges the answer at the front of `bytes`. `Ok(None)`: it is not complete.
///
/// # Errors
/// The connection is not open: close it.
pub fn parse_response<'a>(
    bytes: &'a [u8],
    key: &str,
    offered: &[&str],
) -> Result<Option<Response<'a>>, ResponseError> {
    let Some(head_bytes) = HeadScanner::new().scan(bytes, &LIMITS).map_err(ResponseError::Head)? else {
        return Ok(None);
    };
    let head = &bytes[..head_bytes];
    let mut headers = [httparse::EMPTY_HEADER; LIMITS.headers];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(head) {
        Ok(httparse::Status::Complete(consumed)) if consumed == head_bytes => {}
        _ => return Err(ResponseError::Malformed),
    }
    let (Some(1), Some(status)) = (response.version, response.code) else {
        return Err(ResponseError::Malformed);
    };
    let text = std::str::from_utf8(head).expect("invariant: the scanner lets ASCII pass, nothing else");
    let fields = Fields::new(super::request::field_lines(text));
    if status != 101 {
        let retry_after_seconds = fields.first("retry-after").and_then(|seconds| seconds.parse().ok());
        return Err(ResponseError::Refused { status, retry_after_seconds });
    }
    if !fields.list_has("upgrade", "websocket") || !fields.list_has("connection", "upgrade") {
        return Err(ResponseError::NotUpgraded);
    }
    let expected = accept_value(key);
    let [accept, subprotocol] = fields.singles(["sec-websocket-accept", "sec-websocket-protocol"]);
    match accept {
        Single::One(accept) if accept.as_bytes() == expected => {}
        _ => return Err(ResponseError::Accept),
    }
    if fields.first("sec-websocket-extensions").is_some() {
        return Err(ResponseError::Extension);
    }
    let subprotocol = match subprotocol {
        Single::Missing => None,
        Single::One(chosen) if offered.contains(&chosen) => Some(chosen),
        _ => return Err(ResponseError::Subprotocol),
    };
    Ok(Some(Response { bytes: head_bytes, subprotocol }))
}
