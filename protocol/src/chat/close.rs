//! Close codes: why the server ends a connection, and whether the client comes back.
//!
//! 1000-1015 mean what RFC 6455 §7.4.1 says. The application's range is divided so that a client of an older version
//! does the right thing with a code that it does not know: 4000-4099 do not reconnect (the same bytes would be
//! refused again), 4100-4199 reconnect after the delay (that of a `drain` frame or of an `error` frame's
//! `retryAfterMs`, else a growing one with jitter), 4200-4299 reconnect at once.

/// Whether a client comes back after a close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reconnect {
    /// It does not: somebody must change something first (sign in, fix the client).
    Never,
    /// After the delay that it was given, else after a growing one with jitter.
    AfterDelay,
    /// At once; only if that fails after a delay.
    AtOnce,
}

impl Reconnect {
    /// What a close code tells a client to do, codes of other versions and of RFC 6455 included.
    #[must_use]
    pub const fn after_close(code: u16) -> Self {
        match code {
            // Normal closure: somebody meant it. The others: the peer did not understand what was sent, and would
            // not the next time.
            1000 | 1002 | 1003 | 1007..=1010 | 4000..=4099 => Self::Never,
            4200..=4299 => Self::AtOnce,
            _ => Self::AfterDelay,
        }
    }
}

/// Why the server ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChatClose {
    /// For programs.
    pub code: u16,
    /// The reason in the close frame, and the metric's label.
    pub reason: &'static str,
    /// What the client does next; follows from the code.
    pub reconnect: Reconnect,
    /// For people.
    pub meaning: &'static str,
}

macro_rules! closes {
    ($($(#[doc = $meaning:literal])+ $name:ident = $code:literal, $reason:literal;)+) => {
        $(
            $(#[doc = $meaning])+
            pub const $name: ChatClose = ChatClose {
                code: $code,
                reason: $reason,
                reconnect: Reconnect::after_close($code),
                meaning: concat!($($meaning),+).trim_ascii(),
            };
        )+

        /// Every close code of the application's range, in ascending order.
        pub const TABLE: &[ChatClose] = &[$($name),+];
    };
}

closes! {
    /// The token is missing, malformed, or not signed by this server.
    UNAUTHORIZED = 4000, "unauthorized";
    /// The token has expired: get a new one, then reconnect.
    TOKEN_EXPIRED = 4001, "token_expired";
    /// The client broke the protocol: a frame out of order, a second `hello`, a cursor ahead of the inbox.
    PROTOCOL = 4002, "protocol";
    /// Another connection of the same device has taken over.
    REPLACED = 4003, "replaced";
    /// The user has as many devices as are allowed: remove one first.
    TOO_MANY_DEVICES = 4004, "too_many_devices";
    /// The user has shut this device out: sign in anew.
    REVOKED = 4005, "revoked";
    /// No `hello` came in time.
    HELLO_TIMEOUT = 4100, "hello_timeout";
    /// More frames than allowed, and the errors that said so did not help.
    RATE = 4101, "rate";
    /// The server has no room for the session.
    OVERLOADED = 4103, "overloaded";
    /// The server could not write durably.
    STORAGE = 4104, "storage";
    /// Nothing was heard from the client for 2.5 heartbeats.
    HEARTBEAT_TIMEOUT = 4200, "heartbeat_timeout";
}

/// The close with this code, if it is one of [`TABLE`].
#[must_use]
pub fn by_code(code: u16) -> Option<ChatClose> {
    TABLE.iter().copied().find(|close| close.code == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_its_reasons_fit_a_close_frame() {
        assert!(TABLE.is_sorted_by(|one, next| one.code < next.code));
        for close in TABLE {
            // RFC 6455 §5.5: a control frame holds 125 bytes, two of which are the code.
            assert!(close.reason.len() <= 123);
            assert!(close.reason.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
            assert_eq!(TABLE.iter().filter(|other| other.reason == close.reason).count(), 1);
            assert_eq!(by_code(close.code), Some(*close));
        }
        assert_eq!(by_code(4999), None);
    }

    #[test]
    fn the_range_decides_also_for_codes_of_later_versions() {
        for (codes, reconnect) in [
            (4000..=4099, Reconnect::Never),
            (4100..=4199, Reconnect::AfterDelay),
            (4200..=4299, Reconnect::AtOnce),
            (4300..=4999, Reconnect::AfterDelay),
            (1011..=1015, Reconnect::AfterDelay),
        ] {
            for code in codes {
                assert_eq!(Reconnect::after_close(code), reconnect, "{code}");
            }
        }
        assert_eq!(Reconnect::after_close(1001), Reconnect::AfterDelay);
        assert_eq!(Reconnect::after_close(1006), Reconnect::AfterDelay);
        assert_eq!(Reconnect::after_close(1000), Reconnect::Never);
    }
}
