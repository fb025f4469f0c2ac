//! Error codes: why a request was refused. Stable, for programs; the `error` frame's message is for people.
//!
//! The connection goes on after an `error` frame, unless a close frame follows ([`close`](super::close)).

macro_rules! codes {
    ($($(#[doc = $meaning:literal])+ $name:ident = $code:literal;)+) => {
        $(
            $(#[doc = $meaning])+
            pub const $name: &str = $code;
        )+

        /// Every code with its meaning.
        pub const TABLE: &[(&str, &str)] = &[$(($code, concat!($($meaning),+).trim_ascii())),+];
    };
}

codes! {
    /// The message is not one frame of the schema: not JSON or protobuf, an unknown or repeated field, a wrong type.
    BAD_FRAME = "bad_frame";
    /// A frame before the session is registered that is not `hello`.
    NOT_LOGGED_IN = "not_logged_in";
    /// A `hello` on a session that has said who it is.
    ALREADY_LOGGED_IN = "already_logged_in";
    /// The token is missing, malformed, or not signed by this server.
    UNAUTHORIZED = "unauthorized";
    /// The token has expired.
    TOKEN_EXPIRED = "token_expired";
    /// The device's name is not 1 to 64 of `A-Z a-z 0-9 . _ -`, or not the one that the token names.
    BAD_DEVICE = "bad_device";
    /// The user has as many devices as are allowed.
    TOO_MANY_DEVICES = "too_many_devices";
    /// The user has shut this device out since the token was made.
    DEVICE_REVOKED = "device_revoked";
    /// The user is nobody, or oneself.
    BAD_USER = "bad_user";
    /// There is no such setting.
    BAD_PRIVACY = "bad_privacy";
    /// The user has as many contacts, or has blocked as many, as are allowed.
    TOO_MANY_PEOPLE = "too_many_people";
    /// One blocks the user to whom one writes: unblock first.
    BLOCKED = "blocked";
    /// The `clientId` is not 1 to 64 bytes long.
    BAD_CLIENT_ID = "bad_client_id";
    /// The `clientId` was used so long ago that its answer is not kept any more; the message was not sent again.
    CLIENT_ID_EXPIRED = "client_id_expired";
    /// The conversation's name has none of the known forms.
    BAD_CONVERSATION = "bad_conversation";
    /// A direct conversation has two different users.
    CONVERSATION_WITH_SELF = "conversation_with_self";
    /// No such conversation, or the user is not in it.
    UNKNOWN_CONVERSATION = "unknown_conversation";
    /// The body is missing or empty.
    BAD_BODY = "bad_body";
    /// The content type is not 1 to 255 printable ASCII characters.
    BAD_CONTENT_TYPE = "bad_content_type";
    /// The media's id is not 1 to 128 of `A-Z a-z 0-9 . _ -`, or its name is longer than 255 bytes.
    BAD_MEDIA = "bad_media";
    /// A group's title is not 1 to 128 bytes long.
    BAD_TITLE = "bad_title";
    /// A list of users is empty, names one twice, or names user 0, which is nobody.
    BAD_MEMBERS = "bad_members";
    /// A role is none of member (0), admin (1) and owner (2).
    BAD_ROLE = "bad_role";
    /// A group keeps messages for 1 to 36,500 days, or (0) as long as the server keeps everything.
    BAD_RETENTION = "bad_retention";
    /// The group would have more members than are allowed.
    TOO_MANY_MEMBERS = "too_many_members";
    /// More users in `watchPresence` than a session may watch.
    TOO_MANY_WATCHED = "too_many_watched";
    /// The user's role in the conversation does not allow it, or the conversation is a direct one.
    NOT_ALLOWED = "not_allowed";
    /// There is no message with this `seq` that could be edited, taken back, answered or read.
    UNKNOWN_MESSAGE = "unknown_message";
    /// The user to be removed, or to be given a role, is not in the group.
    UNKNOWN_MEMBER = "unknown_member";
    /// All of the users are in the group already.
    ALREADY_MEMBERS = "already_members";
    /// The body has more bytes than `limits.messageBytes`.
    MESSAGE_TOO_LARGE = "message_too_large";
    /// More entries per page asked for than `limits.pageEntries`, more messages of a history than 200, or both
    /// directions at once.
    BAD_LIMIT = "bad_limit";
    /// An `ack`, a `sync` or a `hello` names a `rev` that the inbox has not reached.
    CURSOR_AHEAD = "cursor_ahead";
    /// Too many of these frames; try again after `retryAfterMs`.
    RATE_LIMITED = "rate_limited";
    /// The server has no room for the request now; try again after `retryAfterMs`.
    OVERLOADED = "overloaded";
    /// The server could not write durably; nothing was promised.
    STORAGE_FAILED = "storage_failed";
    /// The server's disk is full; nothing was promised.
    STORAGE_FULL = "storage_full";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_words_and_each_stands_once() {
        for (code, meaning) in TABLE {
            assert!(code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{code}");
            assert_eq!(TABLE.iter().filter(|(other, _)| other == code).count(), 1, "{code}");
            assert!(meaning.ends_with('.'), "{code}: {meaning}");
        }
    }
}
