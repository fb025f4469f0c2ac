//! What the fields of a client's frames may hold, so that servers and clients agree.
//!
//! Decoding checks shapes; this checks values. Limits that a server may configure are arguments.

use super::{Body, body, error_code};

/// Bytes of a `clientId`, at least 1.
pub const CLIENT_ID_BYTES_MAX: usize = 64;
/// Characters of a device's name, at least 1.
pub const DEVICE_BYTES_MAX: usize = 64;
/// Characters of a content type, at least 1.
pub const CONTENT_TYPE_BYTES_MAX: usize = 255;
/// Bytes of a body, unless the server's `welcome` says otherwise.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Entries of a page, unless the server's `welcome` says otherwise.
pub const PAGE_ENTRIES_MAX: u32 = 1_000;

/// Why a field's value is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// Empty or too long.
    #[error("a clientId has 1 to {CLIENT_ID_BYTES_MAX} bytes, this one has {bytes}")]
    ClientId {
        /// Its length.
        bytes: usize,
    },
    /// Empty, too long, or with another character.
    #[error(
        "a device's name is 1 to {DEVICE_BYTES_MAX} of A-Z a-z 0-9 . _ -, this one has {bytes} bytes{}",
        other(*.first_other)
    )]
    Device {
        /// Its length.
        bytes: usize,
        /// The first character that is not allowed.
        first_other: Option<char>,
    },
    /// No body, a body without a kind, or a text without a character.
    #[error("a message needs a body: a text that is not empty, or custom data with its content type")]
    EmptyBody,
    /// More than the session allows.
    #[error("a body has at most {max} bytes, this one has {bytes}")]
    BodyTooLarge {
        /// Its length.
        bytes: usize,
        /// What is allowed.
        max: usize,
    },
    /// Empty, too long, or not printable ASCII.
    #[error(
        "a content type is 1 to {CONTENT_TYPE_BYTES_MAX} printable ASCII characters, this one has {bytes} bytes{}",
        other(*.first_other)
    )]
    ContentType {
        /// Its length.
        bytes: usize,
        /// The first character that is not allowed.
        first_other: Option<char>,
    },
    /// More entries per page than the session allows.
    #[error("a page has at most {max} entries, {limit} were asked for")]
    PageLimit {
        /// What was asked for.
        limit: u32,
        /// What is allowed.
        max: u32,
    },
}

impl LimitError {
    /// The code of the `error` frame that reports it.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::ClientId { .. } => error_code::BAD_CLIENT_ID,
            Self::Device { .. } => error_code::BAD_DEVICE,
            Self::EmptyBody => error_code::BAD_BODY,
            Self::BodyTooLarge { .. } => error_code::MESSAGE_TOO_LARGE,
            Self::ContentType { .. } => error_code::BAD_CONTENT_TYPE,
            Self::PageLimit { .. } => error_code::BAD_LIMIT,
        }
    }
}

/// Checks a `clientId`.
///
/// # Errors
/// When it is empty or longer than [`CLIENT_ID_BYTES_MAX`].
pub fn check_client_id(client_id: &str) -> Result<(), LimitError> {
    match client_id.len() {
        1..=CLIENT_ID_BYTES_MAX => Ok(()),
        bytes => Err(LimitError::ClientId { bytes }),
    }
}

/// Checks a device's name.
///
/// # Errors
/// When it is empty, longer than [`DEVICE_BYTES_MAX`], or has a character that is not allowed.
pub fn check_device(name: &str) -> Result<(), LimitError> {
    let first_other = name.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-'));
    match name.len() {
        1..=DEVICE_BYTES_MAX if first_other.is_none() => Ok(()),
        bytes => Err(LimitError::Device { bytes, first_other }),
    }
}

/// Checks what a message says. `bytes_max` is the session's limit, [`BODY_BYTES_MAX`] by default.
///
/// # Errors
/// When there is nothing in it, its content type is not one, or it is too large.
pub fn check_body(body: Option<&Body>, bytes_max: usize) -> Result<(), LimitError> {
    let kind = body.and_then(|body| body.kind.as_ref()).ok_or(LimitError::EmptyBody)?;
    let bytes = match kind {
        body::Kind::Text(text) if text.is_empty() => return Err(LimitError::EmptyBody),
        body::Kind::Text(text) => text.len(),
        body::Kind::Custom(custom) => {
            check_content_type(&custom.content_type)?;
            custom.data.len()
        }
    };
    if bytes > bytes_max {
        return Err(LimitError::BodyTooLarge { bytes, max: bytes_max });
    }
    Ok(())
}

/// Checks the entries per page that a `sync` asks for and gives the number to use: 0 means as many as allowed.
///
/// # Errors
/// When it is more than `max`.
pub fn check_page_limit(limit: u32, max: u32) -> Result<u32, LimitError> {
    match limit {
        0 => Ok(max),
        limit if limit <= max => Ok(limit),
        limit => Err(LimitError::PageLimit { limit, max }),
    }
}

fn check_content_type(content_type: &str) -> Result<(), LimitError> {
    let first_other = content_type.chars().find(|c| !matches!(c, ' '..='~'));
    match content_type.len() {
        1..=CONTENT_TYPE_BYTES_MAX if first_other.is_none() => Ok(()),
        bytes => Err(LimitError::ContentType { bytes, first_other }),
    }
}

fn other(character: Option<char>) -> String {
    character.map_or_else(String::new, |character| format!(" and a {character:?}"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::chat::Custom;

    fn text(bytes: usize) -> Body {
        Body { kind: Some(body::Kind::Text("x".repeat(bytes))) }
    }

    fn custom(content_type: &str, bytes: usize) -> Body {
        let data = Bytes::from(vec![0; bytes]);
        Body { kind: Some(body::Kind::Custom(Custom { content_type: content_type.to_owned(), data })) }
    }

    fn code<T>(checked: Result<T, LimitError>) -> Option<&'static str> {
        checked.err().map(|error| error.code())
    }

    #[test]
    fn client_ids_from_both_sides() {
        for (bytes, refused) in [(0, true), (1, false), (64, false), (65, true)] {
            assert_eq!(check_client_id(&"x".repeat(bytes)).is_err(), refused, "{bytes} bytes");
        }
        // Bytes, not characters.
        assert!(check_client_id(&"é".repeat(32)).is_ok());
        assert_eq!(code(check_client_id(&"é".repeat(33))), Some(error_code::BAD_CLIENT_ID));
    }

    #[test]
    fn device_names_from_both_sides() {
        for (bytes, refused) in [(0, true), (1, false), (64, false), (65, true)] {
            assert_eq!(check_device(&"x".repeat(bytes)).is_err(), refused, "{bytes} bytes");
        }
        assert!(check_device("Work-Phone_2.0").is_ok());
        for name in ["my phone", "phone/1", "téléphone", "a\n", "a\0"] {
            assert_eq!(code(check_device(name)), Some(error_code::BAD_DEVICE), "{name:?}");
        }
        assert_eq!(
            check_device("my phone").expect_err("a space").to_string(),
            "a device's name is 1 to 64 of A-Z a-z 0-9 . _ -, this one has 8 bytes and a ' '"
        );
    }

    #[test]
    fn bodies_from_both_sides() {
        assert!(check_body(Some(&text(1)), 100).is_ok());
        assert!(check_body(Some(&text(100)), 100).is_ok());
        assert_eq!(code(check_body(Some(&text(101)), 100)), Some(error_code::MESSAGE_TOO_LARGE));
        assert_eq!(code(check_body(Some(&text(0)), 100)), Some(error_code::BAD_BODY));
        assert_eq!(code(check_body(Some(&Body { kind: None }), 100)), Some(error_code::BAD_BODY));
        assert_eq!(code(check_body(None, 100)), Some(error_code::BAD_BODY));
        assert!(check_body(Some(&custom("a/b", 0)), 100).is_ok());
        assert!(check_body(Some(&custom("a/b", 100)), 100).is_ok());
        assert_eq!(code(check_body(Some(&custom("a/b", 101)), 100)), Some(error_code::MESSAGE_TOO_LARGE));
    }

    #[test]
    fn content_types_from_both_sides() {
        for (bytes, refused) in [(0, true), (1, false), (255, false), (256, true)] {
            let body = custom(&"x".repeat(bytes), 1);
            assert_eq!(check_body(Some(&body), 100).is_err(), refused, "{bytes} bytes");
        }
        for content_type in ["text/é", "text/\n", "a\u{7f}"] {
            let checked = check_body(Some(&custom(content_type, 1)), 100);
            assert_eq!(code(checked), Some(error_code::BAD_CONTENT_TYPE), "{content_type:?}");
        }
    }

    #[test]
    fn page_limits_from_both_sides() {
        for (limit, used) in [(0, Ok(1_000)), (1, Ok(1)), (1_000, Ok(1_000))] {
            assert_eq!(check_page_limit(limit, PAGE_ENTRIES_MAX), used);
        }
        assert_eq!(code(check_page_limit(1_001, PAGE_ENTRIES_MAX)), Some(error_code::BAD_LIMIT));
    }
}
