//! `Sec-WebSocket-Key` and `Sec-WebSocket-Accept`, RFC 6455 §4.1 and §4.2.2.

use std::fmt;
use std::ops::Deref;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// 16 bytes in base64.
pub(crate) const KEY_BYTES: usize = 24;

/// A client's nonce, as it stands in `Sec-WebSocket-Key`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClientKey([u8; KEY_BYTES]);

impl ClientKey {
    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("invariant: base64 is ASCII")
    }
}

impl Deref for ClientKey {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientKey").field(&self.as_str()).finish()
    }
}

/// The key that says these random bytes.
#[must_use]
pub fn client_key(random: [u8; 16]) -> ClientKey {
    let mut key = [0; KEY_BYTES];
    let written = STANDARD.encode_slice(random, &mut key);
    debug_assert_eq!(written, Ok(KEY_BYTES));
    ClientKey(key)
}

/// What the server must answer to `key`.
#[must_use]
pub fn accept_value(key: &str) -> [u8; 28] {
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut accept = [0; 28];
    let written = STANDARD.encode_slice(digest, &mut accept);
    debug_assert_eq!(written, Ok(28));
    accept
}

/// Whether `key` is 16 bytes in canonical base64.
pub(crate) fn is_key(key: &str) -> bool {
    // The decoder asks for room for whole groups of three.
    let mut nonce = [0; 18];
    key.len() == KEY_BYTES && STANDARD.decode_slice(key, &mut nonce) == Ok(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_the_example_of_the_rfc() {
        assert_eq!(&accept_value("dGhlIHNhbXBsZSBub25jZQ=="), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(&*client_key(*b"the sample nonce"), "dGhlIHNhbXBsZSBub25jZQ==");
    }

    #[test]
    fn keys_are_16_bytes_of_canonical_base64() {
        assert!(is_key("dGhlIHNhbXBsZSBub25jZQ=="));
        for wrong in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25jZQ=",
            "dGhlIHNhbXBsZSBub25jZWE=",
            "dGhlIHNhbXBsZSBub25jZR==",
            "dGhlIHNhbXBsZSBub25j!Q==",
        ] {
            assert!(!is_key(wrong), "{wrong}");
        }
    }
}
