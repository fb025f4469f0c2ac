//! What a client is told once.

use holdfast_protocol::chat::{Format, LimitError, check_device};
use holdfast_protocol::id::Rev;

/// Who the client is, where it connects to, and how much it may keep.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// `host` or `host:port`, for the handshake's `Host`.
    pub host: String,
    /// Path and query of the endpoint.
    pub target: String,
    /// How frames are written.
    pub format: Format,
    /// Who the user is.
    pub token: String,
    /// The device's name; empty when the token names it.
    pub device: String,
    /// The last `rev` that this device has; `None`: a new device, which goes by what the server knows.
    pub cursor: Option<Rev>,
    /// From the transport's being asked for to `welcome`.
    pub connect_timeout_ms: u64,
    /// The first reconnect comes after at most this; each failure doubles it.
    pub backoff_first_ms: u64,
    /// It doubles up to here.
    pub backoff_max_ms: u64,
    /// At most one `ack` in this time: they are cheap to leave out, the last one counts.
    pub ack_interval_ms: u64,
    /// Messages that may wait for their `accepted`.
    pub outbox_messages: usize,
    /// Bytes that they may have together.
    pub outbox_bytes: usize,
}

impl ClientConfig {
    /// With everything but the essentials at its default.
    #[must_use]
    pub fn new(host: impl Into<String>, token: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            target: "/ws".to_owned(),
            format: Format::Protobuf,
            token: token.into(),
            device: String::new(),
            cursor: None,
            connect_timeout_ms: 15_000,
            backoff_first_ms: 1_000,
            backoff_max_ms: 60_000,
            ack_interval_ms: 1_000,
            outbox_messages: 1_000,
            outbox_bytes: 4 << 20,
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let is_visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if self.host.is_empty() || !is_visible(&self.host) {
            return Err(ConfigError::Host(self.host.clone()));
        }
        if !self.target.starts_with('/') || !is_visible(&self.target) {
            return Err(ConfigError::Target(self.target.clone()));
        }
        if !self.device.is_empty() {
            check_device(&self.device)?;
        }
        let range = 1..=3_600_000;
        for (name, value_ms) in [
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("backoff_first_ms", self.backoff_first_ms),
            ("backoff_max_ms", self.backoff_max_ms),
            ("ack_interval_ms", self.ack_interval_ms),
        ] {
            if !range.contains(&value_ms) {
                return Err(ConfigError::Time { name, value_ms });
            }
        }
        Ok(())
    }
}

/// Why there can be no such client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It would break the head of the handshake.
    #[error("`host` is a name or an address, with a port if it is not the scheme's, not {0:?}")]
    Host(String),
    /// It would break the head of the handshake.
    #[error("`target` is a path that begins with `/`, in visible ASCII characters, not {0:?}")]
    Target(String),
    /// The server would refuse it.
    #[error(transparent)]
    Device(#[from] LimitError),
    /// Out of range.
    #[error("`{name}` is 1 to 3,600,000 ms, not {value_ms}")]
    Time {
        /// Which.
        name: &'static str,
        /// What it is.
        value_ms: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_break_the_handshake_is_refused() {
        let good = || ClientConfig::new("chat.example:443", "t");
        assert_eq!(good().check(), Ok(()));
        for host in ["", "a b", "a\r\nX: y", "é"] {
            let config = ClientConfig { host: host.into(), ..good() };
            assert_eq!(config.check(), Err(ConfigError::Host(host.into())));
        }
        for target in ["", "ws", "/w s", "/ws\r\n"] {
            let config = ClientConfig { target: target.into(), ..good() };
            assert_eq!(config.check(), Err(ConfigError::Target(target.into())));
        }
        let device = ClientConfig { device: "my phone".into(), ..good() };
        assert!(matches!(device.check(), Err(ConfigError::Device(_))));
        let never = ClientConfig { backoff_first_ms: 0, ..good() };
        assert_eq!(
            never.check().expect_err("out of range").to_string(),
            "`backoff_first_ms` is 1 to 3,600,000 ms, not 0"
        );
    }
}
