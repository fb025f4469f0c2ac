//! The judge of upgrades, RFC 6455 §4.2.1.

use thiserror::Error;

use super::fields::{Single, is_token, list};
use super::key::is_key;
use super::request::{BodyFraming, RequestHead};

/// The most subprotocols that a client may offer; Holdfast's own clients offer two.
pub const PROTOCOLS_MAX: usize = 16;

/// A proper request for the WebSocket protocol.
#[derive(Debug, Clone, Copy)]
pub struct Upgrade<'a> {
    /// The nonce, for [`write_accept`](super::write_accept).
    pub key: &'a str,
    head: RequestHead<'a>,
}

/// Why a request is no proper upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// No `Upgrade: websocket`.
    #[error("this address speaks WebSocket; send `Upgrade: websocket`")]
    NotUpgrade,
    /// RFC 6455 §4.1, 2.
    #[error("a WebSocket handshake is a GET request")]
    MethodNotGet,
    /// RFC 6455 §4.1, 6.
    #[error("the Connection header does not have the token `Upgrade`; some proxy may have removed it")]
    ConnectionHeader,
    /// RFC 6455 §4.1, 9.
    #[error("there is no Sec-WebSocket-Version header; send 13")]
    VersionMissing,
    /// RFC 6455 §4.4.
    #[error("this version of the WebSocket protocol is not spoken here; use Sec-WebSocket-Version 13")]
    VersionUnsupported,
    /// RFC 6455 §4.1, 7.
    #[error("there is no Sec-WebSocket-Key header; send one")]
    KeyMissing,
    /// RFC 6455 §4.1, 7.
    #[error("Sec-WebSocket-Key must be 16 bytes in base64")]
    Key,
    /// A field that may stand once stands twice: the ends of a proxy chain might each believe another one.
    #[error("there is more than one {0} header; send one")]
    Duplicate(&'static str),
    /// Frames begin where the head ends.
    #[error("a WebSocket handshake has no body; remove Content-Length and Transfer-Encoding")]
    Body,
    /// RFC 6455 §4.1, 10.
    #[error("Sec-WebSocket-Protocol must be a list of tokens, each of them once")]
    Protocols,
    /// More than [`PROTOCOLS_MAX`].
    #[error("Sec-WebSocket-Protocol offers more than {PROTOCOLS_MAX} subprotocols; offer fewer")]
    TooManyProtocols,
}

impl HandshakeError {
    /// The status of the answer. With 426, [`write_refusal`](super::write_refusal) says which version is spoken; with
    /// 405, which method.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::MethodNotGet => 405,
            Self::NotUpgrade | Self::VersionUnsupported => 426,
            Self::ConnectionHeader
            | Self::VersionMissing
            | Self::KeyMissing
            | Self::Key
            | Self::Duplicate(_)
            | Self::Body
            | Self::Protocols
            | Self::TooManyProtocols => 400,
        }
    }
}

impl<'a> RequestHead<'a> {
    /// The upgrade that this head asks for.
    ///
    /// # Errors
    /// Answer with [`HandshakeError::status`] and close.
    pub fn upgrade(&self) -> Result<Upgrade<'a>, HandshakeError> {
        let fields = self.headers();
        if !self.wants_upgrade() {
            return Err(HandshakeError::NotUpgrade);
        }
        if self.method() != "GET" {
            return Err(HandshakeError::MethodNotGet);
        }
        if !fields.list_has("connection", "upgrade") {
            return Err(HandshakeError::ConnectionHeader);
        }
        let [version, key, origin, authorization, cookie] = fields.singles([
            "sec-websocket-version",
            "sec-websocket-key",
            "origin",
            "authorization",
            "cookie",
        ]);
        match version {
            Single::Missing => return Err(HandshakeError::VersionMissing),
            Single::Several => return Err(HandshakeError::Duplicate("Sec-WebSocket-Version")),
            Single::One("13") => {}
            Single::One(_) => return Err(HandshakeError::VersionUnsupported),
        }
        let key = match key {
            Single::Missing => return Err(HandshakeError::KeyMissing),
            Single::Several => return Err(HandshakeError::Duplicate("Sec-WebSocket-Key")),
            Single::One(key) if is_key(key) => key,
            Single::One(_) => return Err(HandshakeError::Key),
        };
        for (field, name) in [(origin, "Origin"), (authorization, "Authorization"), (cookie, "Cookie")] {
            if field == Single::Several {
                return Err(HandshakeError::Duplicate(name));
            }
        }
        if self.body() != BodyFraming::Length(0) {
            return Err(HandshakeError::Body);
        }
        let upgrade = Upgrade { key, head: *self };
        upgrade.check_protocols()?;
        Ok(upgrade)
    }
}

impl<'a> Upgrade<'a> {
    /// The whole head.
    #[must_use]
    pub const fn head(&self) -> &RequestHead<'a> {
        &self.head
    }

    /// The target before the first `?`.
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.head.path()
    }

    /// The subprotocols that the client offers, the one it likes best first.
    pub fn protocols(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.head.headers().all("sec-websocket-protocol").flat_map(list)
    }

    /// The page that a browser opened the connection from.
    #[must_use]
    pub fn origin(&self) -> Option<&'a str> {
        self.head.header("origin")
    }

    /// The `Authorization` header.
    #[must_use]
    pub fn authorization(&self) -> Option<&'a str> {
        self.head.header("authorization")
    }

    /// The `Cookie` header.
    #[must_use]
    pub fn cookie(&self) -> Option<&'a str> {
        self.head.header("cookie")
    }

    fn check_protocols(&self) -> Result<(), HandshakeError> {
        let mut seen: [&str; PROTOCOLS_MAX] = [""; PROTOCOLS_MAX];
        for (count, protocol) in self.protocols().enumerate() {
            if count == PROTOCOLS_MAX {
                return Err(HandshakeError::TooManyProtocols);
            }
            if !is_token(protocol) || seen[..count].contains(&protocol) {
                return Err(HandshakeError::Protocols);
            }
            seen[count] = protocol;
        }
        Ok(())
    }
}
