//! Close codes and the body of a close frame, RFC 6455 §5.5.1 and §7.4.

use std::fmt;

use super::error::DecodeError;
use super::header::CONTROL_BYTES_MAX;

/// Why a connection ends: the number in a close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// The purpose is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// The endpoint goes away: a server stops, a page is left.
    pub const GOING_AWAY: Self = Self(1001);
    /// The peer broke RFC 6455.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// A kind of data that the endpoint does not take.
    pub const UNSUPPORTED_DATA: Self = Self(1003);
    /// The close frame had no code. Never on the wire.
    pub const NO_STATUS: Self = Self(1005);
    /// The connection ended without a close frame. Never on the wire.
    pub const ABNORMAL: Self = Self(1006);
    /// Data that does not fit its type: text that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// A rule of the endpoint's own was broken.
    pub const POLICY_VIOLATION: Self = Self(1008);
    /// A message larger than the endpoint takes.
    pub const MESSAGE_TOO_BIG: Self = Self(1009);
    /// The client wanted an extension that the server did not negotiate.
    pub const MANDATORY_EXTENSION: Self = Self(1010);
    /// The server met a condition that it did not expect.
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// The server restarts; come back.
    pub const SERVICE_RESTART: Self = Self(1012);
    /// The server is overloaded; come back later.
    pub const TRY_AGAIN_LATER: Self = Self(1013);
    /// A gateway got an invalid answer from its upstream.
    pub const BAD_GATEWAY: Self = Self(1014);
    /// The TLS handshake failed. Never on the wire.
    pub const TLS_HANDSHAKE: Self = Self(1015);

    /// Whether the number may stand in a close frame: registered with IANA for that, or in the ranges for libraries
    /// (3000-3999) and applications (4000-4999). RFC 6455 §7.4.1, §7.4.2.
    #[must_use]
    pub const fn is_valid_on_wire(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The body of a close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseFrame<'a> {
    /// Why.
    pub code: CloseCode,
    /// Words for the log, at most [`REASON_BYTES_MAX`] bytes.
    pub reason: &'a str,
}

/// The longest reason: what a control frame holds, less the code.
pub const REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;

/// Reads the unmasked payload of a close frame.
pub(crate) fn parse_close(payload: &[u8]) -> Result<Option<CloseFrame<'_>>, DecodeError> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        // RFC 6455 §5.5.1: if there is a body, its first two bytes are the code.
        return if payload.is_empty() { Ok(None) } else { Err(DecodeError::CloseOneByte) };
    };
    let code = CloseCode(u16::from_be_bytes(*code));
    if !code.is_valid_on_wire() {
        return Err(DecodeError::CloseCode(code));
    }
    let reason = std::str::from_utf8(reason).map_err(|_| DecodeError::CloseReason)?;
    Ok(Some(CloseFrame { code, reason }))
}

/// `reason`, cut to what fits into a close frame without splitting a character.
pub(crate) fn fitting(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_takes_registered_and_private_codes_only() {
        let valid: Vec<u16> = (0..=u16::MAX).filter(|code| CloseCode(*code).is_valid_on_wire()).collect();
        let expected: Vec<u16> = (1000..=1003).chain(1007..=1014).chain(3000..=4999).collect();
        assert_eq!(valid, expected);
    }

    #[test]
    fn bodies_are_checked() {
        assert_eq!(parse_close(b""), Ok(None));
        assert_eq!(parse_close(&[3]), Err(DecodeError::CloseOneByte));
        assert_eq!(parse_close(&[3, 0xe8]), Ok(Some(CloseFrame { code: CloseCode::NORMAL, reason: "" })));
        assert_eq!(parse_close(&[3, 0xed]), Err(DecodeError::CloseCode(CloseCode::NO_STATUS)));
        assert_eq!(parse_close(&[3, 0xe8, 0xc3, 0x28]), Err(DecodeError::CloseReason));
        // A sequence that is merely cut off is just as wrong: nothing follows.
        assert_eq!(parse_close(&[3, 0xe8, 0xc3]), Err(DecodeError::CloseReason));
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        assert_eq!(fitting("bye"), "bye");
        assert_eq!(fitting(&"a".repeat(200)).len(), 123);
        assert_eq!(fitting(&"ü".repeat(100)).len(), 122);
    }
}
