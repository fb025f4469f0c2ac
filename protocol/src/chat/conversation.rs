//! The names that clients use for conversations.

use super::error_code;
use crate::id::{ConversationId, UserId};

/// Why a text names no conversation that a user could write to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConversationError {
    /// Not one of the forms.
    #[error(
        "`{text}` names no conversation; write `@43` for the direct one with user 43, or an id as events show it, \
         like `42:43` (the smaller number first)"
    )]
    Malformed {
        /// The beginning of what came.
        text: String,
    },
    /// A direct conversation has two different users.
    #[error("user {0} cannot have a conversation with user {0}; name another user")]
    WithOneself(UserId),
    /// Somebody else's direct conversation.
    #[error("user {user} is not in conversation {conversation}")]
    NotMember {
        /// Who asked.
        user: UserId,
        /// For what.
        conversation: ConversationId,
    },
}

impl ConversationError {
    /// The code of the `error` frame that reports it.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => error_code::BAD_CONVERSATION,
            Self::WithOneself(_) => error_code::CONVERSATION_WITH_SELF,
            Self::NotMember { .. } => error_code::UNKNOWN_CONVERSATION,
        }
    }
}

/// Reads a conversation's name as user `me` writes it: `@43`, `42:43`, or `g7` for a group.
///
/// Whether a group exists, and whether `me` is in it, its worker knows.
///
/// # Errors
/// When the text has none of these forms, or names a direct conversation that `me` cannot be in.
pub fn parse_conversation(text: &str, me: UserId) -> Result<ConversationId, ConversationError> {
    let malformed = || ConversationError::Malformed { text: text.chars().take(64).collect() };
    if let Some(other) = text.strip_prefix('@') {
        let other: UserId = other.parse().map_err(|_| malformed())?;
        if other == me {
            return Err(ConversationError::WithOneself(me));
        }
        return Ok(ConversationId::direct(me, other));
    }
    if text.split_once(':').is_some_and(|(one, other)| one == other && one.parse() == Ok(me)) {
        return Err(ConversationError::WithOneself(me));
    }
    let conversation: ConversationId = text.parse().map_err(|_| malformed())?;
    match conversation.users() {
        Some((low, high)) if me != low && me != high => {
            Err(ConversationError::NotMember { user: me, conversation })
        }
        _ => Ok(conversation),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: UserId = UserId(42);

    #[test]
    fn every_way_to_name_the_same_conversation_gives_the_same_id() {
        let direct = ConversationId::direct(ME, UserId(43));
        assert_eq!(parse_conversation("@43", ME), Ok(direct));
        assert_eq!(parse_conversation("42:43", ME), Ok(direct));
        assert_eq!(parse_conversation("42:43", UserId(43)), Ok(direct));
        assert_eq!(parse_conversation(&direct.to_string(), ME), Ok(direct));
        assert_eq!(
            parse_conversation("@18446744073709551615", ME),
            Ok(ConversationId::direct(ME, UserId(u64::MAX)))
        );
        assert_eq!(parse_conversation("g7", ME), Ok(ConversationId(7)));
        assert_eq!(ConversationId(7).to_string(), "g7");
    }

    #[test]
    fn other_texts_are_refused_by_their_own_code() {
        for text in [
            "",
            "@",
            "43",
            "@0",
            "@043",
            "@+43",
            "@ 43",
            "@43 ",
            "@-1",
            "@4.3",
            "@４３",
            "g",
            "g0",
            "g07",
            ":",
            "42:",
            ":43",
            "43:42",
            "42:43:44",
            "0:42",
            "042:43",
            "44:44",
            "@18446744073709551616",
        ] {
            let error = parse_conversation(text, ME).expect_err(text);
            assert_eq!(error.code(), error_code::BAD_CONVERSATION, "{text:?}: {error}");
        }
        for text in ["@42", "42:42"] {
            assert_eq!(parse_conversation(text, ME), Err(ConversationError::WithOneself(ME)), "{text}");
        }
        let error = parse_conversation("43:44", ME).expect_err("somebody else's");
        assert_eq!(error.code(), error_code::UNKNOWN_CONVERSATION);
        assert_eq!(error.to_string(), "user 42 is not in conversation 43:44");
    }

    #[test]
    fn an_error_repeats_no_more_than_a_line() {
        let error = parse_conversation(&"é".repeat(100_000), ME).expect_err("malformed");
        assert!(error.to_string().len() < 400);
    }
}
