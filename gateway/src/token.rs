//! Tokens: who a client is, for how long, signed with a key that never leaves the data directory.
//!
//! A token is a JWT (RFC 7519) in compact form, signed with HMAC-SHA-256 (`HS256`, RFC 7518 §3.2):
//! `base64url(header).base64url(claims).base64url(mac)`, no padding. Claims: `sub` (the user's id as a decimal
//! string), `dev` (the device's name; may be absent, then `hello` names it), `iat`, `exp`, and `nbf` if present.
//! Any JWT library can mint one with the 32 bytes of `token.key`.
//!
//! The one invariant: nothing of a token is believed, or even parsed as JSON, before its signature was compared in
//! constant time; and the algorithm is this module's decision, never the token's.
//!
//! Never here: clocks (time is an argument), sessions, revocation (the user's worker decides that).

mod key;
mod name;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use holdfast_protocol::id::UserId;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

pub use key::{KEY_FILE, KeyError};
pub use name::{MAX_NAME_CHARACTERS, NameError, user_of_name};

/// Bytes of the key.
pub const KEY_BYTES: usize = 32;
/// A longer token is refused before anything else: it must fit into a request head beside the rest.
pub const MAX_TOKEN_BYTES: usize = 1024;
/// How far another machine's clock may be ahead of ours.
pub const CLOCK_SKEW_SECONDS: u64 = 60;
/// Bytes of a device's name.
pub const MAX_DEVICE_BYTES: usize = 64;

/// `{"alg":"HS256","typ":"JWT"}`, as this module writes it.
const HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";
const MAC_BYTES: usize = 32;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// `sub`: who.
    pub user: UserId,
    /// `dev`: on which device; `None`: the first `hello` says.
    pub device: Option<Box<str>>,
    /// `iat`: when it was minted, in Unix seconds.
    pub issued_at: u64,
    /// `exp`: from when on it is worthless, in Unix seconds.
    pub expires_at: u64,
}

/// Why a token was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three base64url parts, or claims that are not what they must be.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// The header asks for another algorithm than HS256, or for extensions.
    #[error("the token is not signed with HS256")]
    Algorithm,
    /// Signed with another key, or changed since.
    #[error("the token's signature does not match: it was minted with another key, or changed")]
    BadSignature,
    /// Its time is over.
    #[error("the token expired at {at} (Unix seconds)")]
    Expired {
        /// `exp`
        at: u64,
    },
    /// Its time has not come.
    #[error("the token is not valid before {from} (Unix seconds)")]
    NotYetValid {
        /// `nbf`, or `iat` when that is in the future.
        from: u64,
    },
}

impl TokenError {
    /// Stable, for programs and metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Malformed(_) => "token_malformed",
            Self::Algorithm => "token_algorithm",
            Self::BadSignature => "token_bad_signature",
            Self::Expired { .. } => "token_expired",
            Self::NotYetValid { .. } => "token_not_yet_valid",
        }
    }
}

/// The key, with its HMAC state prepared. Does not print itself.
#[derive(Clone)]
pub struct TokenKey {
    mac: Hmac<Sha256>,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey(…)")
    }
}

impl TokenKey {
    /// A key from its bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        let mac = Hmac::new_from_slice(bytes).expect("HMAC takes keys of any length");
        Self { mac }
    }

    /// Signs.
    ///
    /// # Panics
    /// When the device's name is not one that [`is_device_name`] accepts: the caller checks what people typed.
    #[must_use]
    pub fn mint(&self, claims: &Claims) -> String {
        assert!(
            claims.device.as_deref().is_none_or(is_device_name),
            "device names are checked by the caller"
        );
        let wire = WireClaims {
            sub: claims.user.0.to_string().into(),
            dev: claims.device.as_deref().map(Into::into),
            iat: claims.issued_at,
            exp: claims.expires_at,
            nbf: None,
        };
        let claims = serde_json::to_vec(&wire).expect("strings and numbers always have a JSON form");
        let mut token = String::with_capacity(HEADER.len() + claims.len() * 4 / 3 + 48);
        token.push_str(HEADER);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let mac = self.mac.clone().chain_update(token.as_bytes()).finalize();
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(mac.as_bytes(), &mut token);
        token
    }

    /// Checks signature and times, and returns what the token says.
    ///
    /// # Errors
    /// In this order: malformed parts, algorithm, signature, claims, times.
    pub fn verify(&self, token: &str, now_unix_seconds: u64) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Malformed("longer than 1,024 bytes"));
        }
        let (signed, signature) =
            token.rsplit_once('.').ok_or(TokenError::Malformed("it has no signature"))?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed("it has no claims"))?;
        if header != HEADER {
            check_header(header)?;
        }
        let mut mac = [0u8; MAC_BYTES];
        match URL_SAFE_NO_PAD.decode_slice(signature, &mut mac) {
            Ok(MAC_BYTES) => {}
            _ => return Err(TokenError::Malformed("its signature is not 32 bytes in base64url")),
        }
        // `verify` compares in constant time.
        let expected = self.mac.clone().chain_update(signed.as_bytes());
        expected.verify((&mac).into()).map_err(|_| TokenError::BadSignature)?;

        let mut buffer = [0u8; MAX_TOKEN_BYTES];
        let bytes = URL_SAFE_NO_PAD
            .decode_slice(claims, &mut buffer)
            .map_err(|_| TokenError::Malformed("its claims are not base64url"))?;
        let wire: WireClaims<'_> = serde_json::from_slice(&buffer[..bytes]).map_err(|_| {
            TokenError::Malformed("its claims are not sub (text), iat, exp (numbers), dev (text)")
        })?;
        wire.into_claims(now_unix_seconds)
    }
}

/// Whether this may name a device: 1 to 64 of `[A-Za-z0-9._-]`.
#[must_use]
pub fn is_device_name(name: &str) -> bool {
    (1..=MAX_DEVICE_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Seconds since 1970: the one place in the edge that asks the wall clock for tokens.
#[must_use]
pub fn unix_now_seconds() -> u64 {
    #[allow(
        clippy::disallowed_methods,
        reason = "the wall clock enters here, and is an argument from here on"
    )]
    let now = std::time::SystemTime::now();
    // Before 1970 every token is from the future, which is the safe side.
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A header that another library wrote: the same two members in another form.
fn check_header(header: &str) -> Result<(), TokenError> {
    #[derive(Deserialize)]
    struct Header<'a> {
        #[serde(borrow)]
        alg: std::borrow::Cow<'a, str>,
        #[serde(borrow, default)]
        typ: Option<std::borrow::Cow<'a, str>>,
        /// RFC 7515 §4.1.11: extensions that must be understood; we understand none.
        #[serde(default)]
        crit: Option<serde::de::IgnoredAny>,
    }
    let bytes =
        URL_SAFE_NO_PAD.decode(header).map_err(|_| TokenError::Malformed("its header is not base64url"))?;
    let header: Header<'_> = serde_json::from_slice(&bytes)
        .map_err(|_| TokenError::Malformed("its header is not a JOSE header"))?;
    let is_jwt = header.typ.is_none_or(|typ| typ.eq_ignore_ascii_case("JWT"));
    if header.alg == "HS256" && is_jwt && header.crit.is_none() { Ok(()) } else { Err(TokenError::Algorithm) }
}

#[derive(Serialize, Deserialize)]
struct WireClaims<'a> {
    #[serde(borrow)]
    sub: std::borrow::Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    dev: Option<std::borrow::Cow<'a, str>>,
    iat: u64,
    exp: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
}

impl WireClaims<'_> {
    fn into_claims(self, now: u64) -> Result<Claims, TokenError> {
        let user = parse_user(&self.sub).ok_or(TokenError::Malformed("`sub` is not a user id"))?;
        if !self.dev.as_deref().is_none_or(is_device_name) {
            return Err(TokenError::Malformed("`dev` is not 1 to 64 of [A-Za-z0-9._-]"));
        }
        if self.exp <= now {
            return Err(TokenError::Expired { at: self.exp });
        }
        let from = self.nbf.unwrap_or(0).max(self.iat);
        if from > now.saturating_add(CLOCK_SKEW_SECONDS) {
            return Err(TokenError::NotYetValid { from });
        }
        let device = self.dev.map(|name| name.into_owned().into_boxed_str());
        Ok(Claims { user, device, issued_at: self.iat, expires_at: self.exp })
    }
}

/// A user id in the one form that it has: decimal, no sign, no leading zero, not 0.
#[must_use]
pub fn parse_user(text: &str) -> Option<UserId> {
    let canonical =
        !text.is_empty() && !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    if canonical { text.parse().ok().map(UserId) } else { None }
}

#[cfg(test)]
mod tests;
