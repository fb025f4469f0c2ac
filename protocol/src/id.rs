//! Typed ids, and the Snowflake generator that makes message ids.
//!
//! Newtypes so that a `seq` is never taken for a `rev`. On the wire and on disk they are the plain numbers.

use std::fmt;

/// A user, as tokens name it. 0 names nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(pub u64);

/// One installation of a user, unique within the user: the first 8 bytes of SHA-256 of the device's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(pub u64);

/// The position of a message in its conversation, dense from 1. 0: before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Seq(pub u64);

/// The position of an entry in a user's inbox, dense from 1. 0: before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Rev(pub u64);

/// A message's Snowflake: 41 bits of milliseconds, 10 bits of worker, 12 bits of sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MessageId(pub u64);

/// A conversation. A direct one *is* its ordered pair of users (so there is no creation race and no collision);
/// a group has 0 in the high half, which is nobody's user id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConversationId(pub u128);

impl ConversationId {
    /// The direct conversation of two different users, in whichever order.
    #[must_use]
    pub const fn direct(one: UserId, other: UserId) -> Self {
        let (low, high) = if one.0 < other.0 { (one.0, other.0) } else { (other.0, one.0) };
        Self((low as u128) << 64 | high as u128)
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
            Some((low, high)) => write!(f, "{}:{}", low.0, high.0),
            None => write!(f, "g{}", self.0 as u64),
        }
    }
}
