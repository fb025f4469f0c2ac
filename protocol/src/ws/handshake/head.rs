//! What can be wrong with a request head, and the status that says so.

use thiserror::Error;

/// Why a request head is refused. The connection is closed after the answer: where the next head would begin is not
/// certain any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HeadError {
    /// RFC 9112 §2.2.
    #[error("a line of the request head ends in LF alone; end lines with CR LF")]
    BareLineFeed,
    /// RFC 9112 §2.2.
    #[error("the request head has a CR without LF; end lines with CR LF")]
    BareCarriageReturn,
    /// NUL and its like, RFC 9110 §5.5.
    #[error(
        "the request head has the control byte {0:#04x}; only visible ASCII, blanks and CR LF are allowed"
    )]
    ControlByte(u8),
    /// Outside of ASCII, RFC 9110 §5.5.
    #[error("the request head has the byte {0:#04x}, which is not ASCII; percent-encode it")]
    NotAscii(u8),
    /// The first byte of a TLS record.
    #[error("this port speaks plain HTTP, and the request begins like TLS; use http:// or ws://")]
    LooksLikeTls,
    /// Not `method SP target SP version`.
    #[error("the request line is malformed; send `METHOD /path HTTP/1.1`")]
    RequestLine,
    /// Not a method that this server knows.
    #[error("the method is not known here; use GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS")]
    UnknownMethod,
    /// Known, and never allowed.
    #[error("the methods CONNECT and TRACE are not allowed here")]
    MethodNotAllowed,
    /// RFC 9112 §3.2: only origin-form is taken.
    #[error("the request target must be a path that begins with `/`, without scheme, host or fragment")]
    Target,
    /// The request line alone fills the head.
    #[error("the request line is longer than {limit} bytes; shorten the target")]
    TargetTooLong {
        /// What is allowed.
        limit: usize,
    },
    /// HTTP/1.0, HTTP/2 with prior knowledge, or a version of fancy.
    #[error("only HTTP/1.1 is spoken here")]
    Version,
    /// Larger than [`HeadLimits::head_bytes`](super::HeadLimits::head_bytes).
    #[error("the request head is larger than {limit} bytes; send fewer or shorter headers")]
    HeadTooLarge {
        /// What is allowed.
        limit: usize,
    },
    /// More than [`HeadLimits::headers`](super::HeadLimits::headers).
    #[error("the request has more than {limit} headers; send fewer")]
    TooManyHeaders {
        /// What is allowed.
        limit: usize,
    },
    /// RFC 9112 §5.2: a line that begins with a blank continues the one before; deprecated, and read differently by
    /// different parsers.
    #[error("a header is folded over two lines; send it on one")]
    FoldedHeader,
    /// RFC 9112 §5.1: between field name and colon.
    #[error("there is a blank before the colon of a header; remove it")]
    BlankBeforeColon,
    /// Not a token, or no colon.
    #[error("a header name is malformed; use `name: value` with letters, digits and dashes in the name")]
    HeaderName,
    /// RFC 9112 §3.2.
    #[error("there is no Host header; send exactly one")]
    HostMissing,
    /// RFC 9112 §3.2.
    #[error("there is more than one Host header; send exactly one")]
    HostDuplicate,
    /// RFC 9112 §3.2.
    #[error("the Host header is no host and optional port")]
    Host,
    /// RFC 9112 §6.3: the classic of request smuggling.
    #[error("there are both Content-Length and Transfer-Encoding; send one")]
    LengthAndEncoding,
    /// RFC 9112 §6.3, also when they agree.
    #[error("there is more than one Content-Length; send one")]
    LengthDuplicate,
    /// RFC 9110 §8.6.
    #[error("Content-Length must be digits, and less than 2^63")]
    Length,
    /// RFC 9112 §6.1.
    #[error("Transfer-Encoding must be `chunked` and nothing else")]
    Encoding,
}

impl HeadError {
    /// The status of the answer.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::MethodNotAllowed => 405,
            Self::TargetTooLong { .. } => 414,
            Self::HeadTooLarge { .. } | Self::TooManyHeaders { .. } => 431,
            Self::UnknownMethod | Self::Encoding => 501,
            Self::Version => 505,
            Self::BareLineFeed
            | Self::BareCarriageReturn
            | Self::ControlByte(_)
            | Self::NotAscii(_)
            | Self::LooksLikeTls
            | Self::RequestLine
            | Self::Target
            | Self::FoldedHeader
            | Self::BlankBeforeColon
            | Self::HeaderName
            | Self::HostMissing
            | Self::HostDuplicate
            | Self::Host
            | Self::LengthAndEncoding
            | Self::LengthDuplicate
            | Self::Length => 400,
        }
    }
}
