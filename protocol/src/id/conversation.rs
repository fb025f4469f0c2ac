//! What a conversation is called.

use std::fmt;
use std::str::FromStr;

use super::{IdError, UserId, parse_number};

/// A conversation. A direct one *is* its ordered pair of users (so there is no creation race and no collision);
/// a group has 0 in the high half, which is nobody's user id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConversationId(pub u128);

/// A group's number; 0 names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u64);

impl ConversationId {
    /// The direct conversation of two different users, in whichever order.
    #[must_use]
    pub const fn direct(one: UserId, other: UserId) -> Self {
        let (low, high) = if one.0 < other.0 { (one.0, other.0) } else { (other.0, one.0) };
        Self((low as u128) << 64 | high as u128)
    }

    /// The conversation of a group.
    #[must_use]
    pub const fn group(group: GroupId) -> Self {
        Self(group.0 as u128)
    }

    /// The group that it is; `None` for a direct conversation.
    #[must_use]
    pub const fn group_id(self) -> Option<GroupId> {
        match (self.0 >> 64) as u64 {
            0 => Some(GroupId(self.0 as u64)),
            _ => None,
        }
    }

    /// The two users of a direct conversation, smaller first; `None` for a group.
    #[must_use]
    pub const fn users(self) -> Option<(UserId, UserId)> {
        match (self.0 >> 64) as u64 {
            0 => None,
            low => Some((UserId(low), UserId(self.0 as u64))),
        }
    }
}

/// `42:43` for a direct conversation, `g7` for a group.
impl fmt::Display for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.users() {
            Some((low, high)) => write!(f, "{low}:{high}"),
            None => write!(f, "g{}", self.0 as u64),
        }
    }
}

impl FromStr for ConversationId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if let Some(group) = text.strip_prefix('g') {
            return match parse_number(group) {
                Ok(0) | Err(_) => Err(IdError::Conversation),
                Ok(group) => Ok(Self::group(GroupId(group))),
            };
        }
        let (low, high) = text.split_once(':').ok_or(IdError::Conversation)?;
        match (parse_number(low), parse_number(high)) {
            (Ok(low), Ok(high)) if 0 < low && low < high => Ok(Self::direct(UserId(low), UserId(high))),
            _ => Err(IdError::Conversation),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_users_mean_the_same_conversation() {
        let conversation = ConversationId::direct(UserId(43), UserId(42));
        assert_eq!(conversation, ConversationId::direct(UserId(42), UserId(43)));
        assert_eq!(conversation.users(), Some((UserId(42), UserId(43))));
        let group = ConversationId::group(GroupId(7));
        assert_eq!((group.users(), group.group_id()), (None, Some(GroupId(7))));
        assert_eq!(conversation.group_id(), None);
    }

    #[test]
    fn text_and_back() {
        for text in ["42:43", "1:18446744073709551615", "g7", "g18446744073709551615"] {
            assert_eq!(text.parse::<ConversationId>().unwrap().to_string(), text);
        }
        for wrong in
            ["", ":", "42", "43:42", "42:42", "0:1", "42:043", "42:43:44", "g", "g0", "g07", "G7", "@43"]
        {
            assert_eq!(wrong.parse::<ConversationId>(), Err(IdError::Conversation), "{wrong:?}");
        }
    }
}
