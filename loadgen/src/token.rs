//! Tokens that the generator mints for its own users, from the server's key: JWT, HS256, RFC 7519.
//!
//! The one invariant: the key never leaves this module, not into a report, a log or an error.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Why no token can be had.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The key file cannot be read.
    #[error(
        "cannot read the token key {path}: {source}; pass the `token.key` of the server's data directory with --token-key"
    )]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The key file is no key.
    #[error(
        "the token key {path} has {bytes} bytes, a key has exactly {KEY_BYTES}; pass the `token.key` of the server's data directory"
    )]
    WrongLength {
        /// Which file.
        path: PathBuf,
        /// How long it is.
        bytes: usize,
    },
    /// A token given by hand names no user.
    #[error(
        "the token `{start}…` names no user (its `sub` must be a number); mint one with `holdfast token --user 42 --device load`"
    )]
    NoSubject {
        /// Its first few characters, which are only the header.
        start: String,
    },
}

const KEY_BYTES: usize = 32;

/// Mints tokens for one server.
#[derive(Clone)]
pub struct Mint {
    key: Hmac<Sha256>,
    issued_at: u64,
    expires_at: u64,
    header: String,
}

impl std::fmt::Debug for Mint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Mint").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

impl Mint {
    /// A mint whose tokens are valid from `now_s` (seconds since 1970) for `lifetime_s`.
    #[must_use]
    pub fn new(key: &[u8], now_s: u64, lifetime_s: u64) -> Self {
        let key = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length (RFC 2104 §3)");
        let header = URL_SAFE_NO_PAD.encode(br#"{"alg":"HS256","typ":"JWT"}"#);
        Self { key, issued_at: now_s, expires_at: now_s + lifetime_s, header }
    }

    /// Reads the key that the server made in its data directory.
    ///
    /// # Errors
    /// When the file cannot be read or is no key.
    pub fn from_file(path: &Path, now_s: u64, lifetime_s: u64) -> Result<Self, TokenError> {
        let key = std::fs::read(path).map_err(|source| TokenError::Read { path: path.into(), source })?;
        if key.len() != KEY_BYTES {
            return Err(TokenError::WrongLength { path: path.into(), bytes: key.len() });
        }
        Ok(Self::new(&key, now_s, lifetime_s))
    }

    /// Appends a token for this user and device. Ids and device names here need no JSON escapes.
    pub fn write(&self, user: u64, device: &str, out: &mut String) {
        let start = out.len();
        out.push_str(&self.header);
        out.push('.');
        let (issued_at, expires_at) = (self.issued_at, self.expires_at);
        let claims = format!(r#"{{"sub":"{user}","dev":"{device}","iat":{issued_at},"exp":{expires_at}}}"#);
        URL_SAFE_NO_PAD.encode_string(claims, out);
        let mut mac = self.key.clone();
        mac.update(&out.as_bytes()[start..]);
        out.push('.');
        URL_SAFE_NO_PAD.encode_string(mac.finalize().into_bytes(), out);
    }
}

/// The user that a token made elsewhere names. Only read, not verified: that is the server's business.
///
/// # Errors
/// When it is no JWT or its `sub` is no number.
pub fn user_of(token: &str) -> Result<u64, TokenError> {
    #[derive(serde::Deserialize)]
    struct Claims {
        sub: String,
    }
    let user = token
        .split('.')
        .nth(1)
        .and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok())
        .and_then(|claims| serde_json::from_slice::<Claims>(&claims).ok())
        .and_then(|claims| claims.sub.parse().ok());
    user.ok_or_else(|| TokenError::NoSubject { start: token.chars().take(12).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_agrees_with_rfc_7515_appendix_a1() {
        // The key and signing input of RFC 7515 A.1, through the same primitives.
        let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let input = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let mint = Mint::new(&URL_SAFE_NO_PAD.decode(key).unwrap(), 0, 1);
        let mut mac = mint.key.clone();
        mac.update(input.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
        assert_eq!(signature, "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    }

    #[test]
    fn token_says_who_and_until_when() {
        let mut token = String::new();
        Mint::new(b"0123456789abcdef", 1_000, 60).write(42, "load", &mut token);
        let parts: Vec<&str> = token.split('.').collect();
        assert_eq!(parts.len(), 3);
        let claims = URL_SAFE_NO_PAD.decode(parts[1]).unwrap();
        assert_eq!(claims, br#"{"sub":"42","dev":"load","iat":1000,"exp":1060}"#);
        assert_eq!(user_of(&token).unwrap(), 42);
        assert!(user_of("not a token").unwrap_err().to_string().contains("holdfast token --user"));
    }

    #[test]
    fn key_file_errors_name_the_file_and_the_flag() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token.key");
        let missing = Mint::from_file(&path, 0, 1).unwrap_err().to_string();
        assert!(missing.contains("token.key") && missing.contains("--token-key"), "{missing}");
        std::fs::write(&path, b"short").unwrap();
        assert!(Mint::from_file(&path, 0, 1).unwrap_err().to_string().contains("5 bytes"));
    }
}
