//! The judge of request heads, RFC 9112 §2-§6.

use std::mem::MaybeUninit;

use super::fields::{Fields, Single};
use super::head::HeadError;
use super::scan::{HeadLimits, HeadScanner};

/// A request head that has one meaning.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    method: &'a str,
    target: &'a str,
    fields: Fields<'a>,
    body: BodyFraming,
    bytes: usize,
}

/// What follows the head, RFC 9112 §6.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// This many bytes; 0 also when the head says nothing.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// Judges a request head at the front of `bytes`. `Ok(None)`: it is not complete.
///
/// Each call looks at the head from its beginning. Where heads arrive in parts, ask a [`HeadScanner`] first, so that
/// the work stays linear in bytes.
///
/// # Errors
/// Answer with [`HeadError::status`] and close.
pub fn parse_request<'a>(bytes: &'a [u8], limits: &HeadLimits) -> Result<Option<RequestHead<'a>>, HeadError> {
    let Some(head_bytes) = HeadScanner::new().scan(bytes, limits)? else { return Ok(None) };
    let head = &bytes[..head_bytes];
    let header_limit = limits.headers.min(HeadLimits::HEADERS_MAX);
    let mut headers = [const { MaybeUninit::uninit() }; HeadLimits::HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(head, &mut headers[..header_limit]);
    match parsed {
        Ok(httparse::Status::Complete(consumed)) if consumed == head_bytes => {}
        // An empty request line: the blank line came first.
        Ok(_) => return Err(HeadError::RequestLine),
        Err(error) => return Err(diagnose(error, head, header_limit)),
    }
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(HeadError::RequestLine);
    };
    if version != 1 {
        return Err(HeadError::Version);
    }
    check_method(method)?;
    check_target(target)?;

    let text = std::str::from_utf8(head).expect("invariant: the scanner lets ASCII pass, nothing else");
    let fields = Fields::new(field_lines(text));
    let [host, length, encoding] = fields.singles(["host", "content-length", "transfer-encoding"]);
    check_host(host)?;
    let body = framing(length, encoding)?;
    Ok(Some(RequestHead { method, target, fields, body, bytes: head_bytes }))
}

impl<'a> RequestHead<'a> {
    /// `GET` and its like.
    #[must_use]
    pub const fn method(&self) -> &'a str {
        self.method
    }

    /// Path and query, as sent. Begins with `/`.
    #[must_use]
    pub const fn target(&self) -> &'a str {
        self.target
    }

    /// The target before the first `?`.
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.target.split_once('?').map_or(self.target, |(path, _)| path)
    }

    /// The target after the first `?`.
    #[must_use]
    pub fn query(&self) -> Option<&'a str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    /// The first header of this name, whatever its case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.fields.first(name)
    }

    /// All headers, in order: name as sent, value without the blanks around it.
    #[must_use]
    pub const fn headers(&self) -> Fields<'a> {
        self.fields
    }

    /// The length of the head: what follows begins there.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// What follows the head.
    #[must_use]
    pub const fn body(&self) -> BodyFraming {
        self.body
    }

    /// Whether the client asks for the WebSocket protocol; whether it asks properly, `upgrade` says.
    #[must_use]
    pub fn wants_upgrade(&self) -> bool {
        self.fields.list_has("upgrade", "websocket")
    }
}

/// The lines between the request line and the blank line.
pub(crate) fn field_lines(head: &str) -> &str {
    let head = head.strip_prefix("\r\n").unwrap_or(head);
    let fields = head.split_once("\r\n").map_or("", |(_request_line, fields)| fields);
    fields.strip_suffix("\r\n").unwrap_or(fields)
}

fn check_method(method: &str) -> Result<(), HeadError> {
    match method {
        "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" => Ok(()),
        "CONNECT" | "TRACE" => Err(HeadError::MethodNotAllowed),
        _ => Err(HeadError::UnknownMethod),
    }
}

/// Origin-form only. Absolute-form would be a second place that names a host.
fn check_target(target: &str) -> Result<(), HeadError> {
    if target.starts_with('/') && !target.contains('#') { Ok(()) } else { Err(HeadError::Target) }
}

fn check_host(host: Single<'_>) -> Result<(), HeadError> {
    match host {
        Single::Missing => Err(HeadError::HostMissing),
        Single::Several => Err(HeadError::HostDuplicate),
        Single::One(host) if is_host(host) => Ok(()),
        Single::One(_) => Err(HeadError::Host),
    }
}

/// `uri-host [":" port]`, RFC 9110 §7.2. An empty one is allowed there, but nobody could mean this server by it.
fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(literal) => match literal.split_once(']') {
            Some((address, rest)) => {
                let is_address =
                    address.bytes().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte));
                match rest.strip_prefix(':') {
                    _ if !is_address => return false,
                    Some(port) => (address, port),
                    None if rest.is_empty() => (address, ""),
                    None => return false,
                }
            }
            None => return false,
        },
        None => {
            let (name, port) = host.split_once(':').unwrap_or((host, ""));
            // The unreserved, percent-encoded and sub-delims of RFC 3986 §3.2.2; no user info.
            let is_name =
                name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(&byte));
            if !is_name {
                return false;
            }
            (name, port)
        }
    };
    !name.is_empty() && (port.is_empty() || port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn framing(length: Single<'_>, encoding: Single<'_>) -> Result<BodyFraming, HeadError> {
    match (length, encoding) {
        (Single::One(_) | Single::Several, Single::One(_) | Single::Several) => {
            Err(HeadError::LengthAndEncoding)
        }
        (Single::Several, Single::Missing) => Err(HeadError::LengthDuplicate),
        (Single::One(digits), Single::Missing) => parse_length(digits).map(BodyFraming::Length),
        (Single::Missing, Single::Missing) => Ok(BodyFraming::Length(0)),
        (Single::Missing, Single::One(coding)) if coding.eq_ignore_ascii_case("chunked") => {
            Ok(BodyFraming::Chunked)
        }
        (Single::Missing, Single::One(_) | Single::Several) => Err(HeadError::Encoding),
    }
}

/// Digits only: `+5`, `5, 5` and ` 5` are read differently by different parsers.
fn parse_length(digits: &str) -> Result<u64, HeadError> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HeadError::Length);
    }
    match digits.parse::<u64>() {
        Ok(length) if length >> 63 == 0 => Ok(length),
        _ => Err(HeadError::Length),
    }
}

/// Says more about a refusal than the parser does. Off the hot path: the head is lost anyway.
fn diagnose(error: httparse::Error, head: &[u8], header_limit: usize) -> HeadError {
    let text = std::str::from_utf8(head).expect("invariant: the scanner lets ASCII pass, nothing else");
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooManyHeaders { limit: header_limit },
        httparse::Error::Version => {
            let line = text.trim_start().split("\r\n").next().unwrap_or("");
            let parts: Option<[&str; 3]> = line.split(' ').collect::<Vec<_>>().try_into().ok();
            let version = parts.and_then(|[_, _, version]| version.strip_prefix("HTTP/"));
            match version.map(str::as_bytes) {
                Some([major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit() => {
                    HeadError::Version
                }
                _ => HeadError::RequestLine,
            }
        }
        httparse::Error::HeaderName | httparse::Error::HeaderValue => {
            let lines = field_lines(text).split("\r\n");
            for line in lines.filter(|line| !line.is_empty()) {
                if line.starts_with([' ', '\t']) {
                    return HeadError::FoldedHeader;
                }
                let name = line.split(':').next().unwrap_or("");
                if name.len() < line.len() && name.ends_with([' ', '\t']) {
                    return HeadError::BlankBeforeColon;
                }
            }
            HeadError::HeaderName
        }
        httparse::Error::NewLine | httparse::Error::Status | httparse::Error::Token => HeadError::RequestLine,
    }
}
