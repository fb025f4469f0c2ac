//! Typed ids, and the [`Snowflake`] generator that makes message ids.
//!
//! Newtypes so that a `seq` is never taken for a `rev`. On the wire and on disk they are the plain numbers; as text each
//! has exactly one spelling, so that text may serve as a key.

mod conversation;
mod snowflake;

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use thiserror::Error;

pub use conversation::{ConversationId, GroupId};
pub use snowflake::{Snowflake, WorkerId};

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

/// A message's Snowflake: 41 bits of milliseconds, 10 bits of worker, 12 bits of sequence. Made by [`Snowflake`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MessageId(pub u64);

impl DeviceId {
    /// The id of the device of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        let digest = Sha256::digest(name.as_bytes());
        let (first, _) = digest.split_first_chunk::<8>().expect("invariant: SHA-256 has 32 bytes");
        Self(u64::from_be_bytes(*first))
    }
}

impl Seq {
    /// The position after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Rev {
    /// The position after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Why a text is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IdError {
    /// Not the canonical spelling of a number.
    #[error("an id is a decimal number below 2^64 without sign or leading zeros, such as `42`")]
    Number,
    /// 0 where it names nobody.
    #[error("user 0 is nobody; users start at 1")]
    NoUser,
    /// Not 16 lower-case hexadecimal digits.
    #[error("a device's id is 16 lower-case hexadecimal digits")]
    Device,
    /// Neither kind of conversation.
    #[error("a conversation is `42:43` (two users, the smaller first) or `g7` (a group)")]
    Conversation,
}

/// A number with one spelling: no sign, no leading zeros.
fn parse_number(text: &str) -> Result<u64, IdError> {
    let is_canonical = text == "0" || text.starts_with(|first: char| matches!(first, '1'..='9'));
    if !is_canonical {
        return Err(IdError::Number);
    }
    text.parse().map_err(|_: ParseIntError| IdError::Number)
}

/// Text form of ids that are plain decimal numbers.
macro_rules! decimal {
    ($($id:ty),+) => {$(
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $id {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_number(text).map(Self)
            }
        }
    )+};
}

decimal!(Seq, Rev, MessageId);

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for UserId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        match parse_number(text)? {
            0 => Err(IdError::NoUser),
            user => Ok(Self(user)),
        }
    }
}

/// 16 hexadecimal digits: it is a digest, nobody counts in it.
impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for DeviceId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let is_canonical =
            text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_canonical {
            return Err(IdError::Device);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| IdError::Device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_spelling() {
        assert_eq!("42".parse(), Ok(UserId(42)));
        assert_eq!("18446744073709551615".parse(), Ok(MessageId(u64::MAX)));
        assert_eq!("0".parse(), Ok(Rev(0)));
        for wrong in ["", "+1", "-1", "01", "00", " 1", "1 ", "1_0", "0x1", "18446744073709551616", "١"] {
            assert_eq!(wrong.parse::<Seq>(), Err(IdError::Number), "{wrong:?}");
        }
        assert_eq!("0".parse::<UserId>(), Err(IdError::NoUser));
        assert_eq!(Rev(7).next().to_string(), "8");
    }

    #[test]
    fn a_device_is_the_digest_of_its_name() {
        // printf phone | sha256sum
        assert_eq!(DeviceId::from_name("phone").to_string(), "45569da57f4b7bf4");
        assert_eq!("00000000000000ff".parse(), Ok(DeviceId(255)));
        for wrong in ["", "ff", "00000000000000FF", "+0000000000000ff", "000000000000000ff"] {
            assert_eq!(wrong.parse::<DeviceId>(), Err(IdError::Device), "{wrong:?}");
        }
    }
}
