//! What a server answers to a handshake, RFC 6455 §4.2.2.

use std::io::Write as _;

use super::fields::is_token;
use super::key::accept_value;

/// Appends the answer that opens the connection. `subprotocol`: one of those that the client offered.
///
/// # Panics
/// When `subprotocol` is no token, which none that passed [`RequestHead::upgrade`](super::RequestHead::upgrade) is.
pub fn write_accept(out: &mut Vec<u8>, key: &str, subprotocol: Option<&str>) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
    );
    out.extend_from_slice(&accept_value(key));
    if let Some(subprotocol) = subprotocol {
        assert!(is_token(subprotocol), "a subprotocol is a token, not {subprotocol:?}");
        out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        out.extend_from_slice(subprotocol.as_bytes());
    }
    out.extend_from_slice(b"\r\n\r\n");
}

/// Appends an answer that refuses a request; the connection is to be closed after it. 401 names the scheme that is
/// wanted, 405 the method that is allowed, 426 the protocol and version.
pub fn write_refusal(out: &mut Vec<u8>, status: u16, retry_after_seconds: Option<u32>, body: &str) {
    let reason = reason_phrase(status);
    write(out, format_args!("HTTP/1.1 {status} {reason}\r\n"));
    match status {
        401 => write(out, format_args!("WWW-Authenticate: Bearer\r\n")),
        405 => write(out, format_args!("Allow: GET\r\n")),
        426 => write(out, format_args!("Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n")),
        _ => {}
    }
    if let Some(seconds) = retry_after_seconds {
        write(out, format_args!("Retry-After: {seconds}\r\n"));
    }
    // RFC 9110 §7.8: whoever sends Upgrade says so in Connection.
    let connection = if status == 426 { "Upgrade, close" } else { "close" };
    write(
        out,
        format_args!(
            "Connection: {connection}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    );
}

fn write(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("invariant: writing to a Vec does not fail");
}

/// The words for a status, RFC 9110 §15; `Error` for one that Holdfast does not use.
#[must_use]
pub const fn reason_phrase(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_as_the_rfc_does() {
        let mut out = Vec::new();
        write_accept(&mut out, "dGhlIHNhbXBsZSBub25jZQ==", Some("chat"));
        let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn refuses_with_what_helps() {
        let refusal = |status, retry| {
            let mut out = Vec::new();
            write_refusal(&mut out, status, retry, "no\n");
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            refusal(503, Some(7)),
            "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nConnection: close\r\n\
             Content-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r\n\r\nno\n"
        );
        assert!(refusal(426, None).contains("\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"));
        assert!(refusal(405, None).contains("\r\nAllow: GET\r\n"));
        assert!(refusal(401, None).contains("\r\nWWW-Authenticate: Bearer\r\n"));
    }
}
