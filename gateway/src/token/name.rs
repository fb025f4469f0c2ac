//! Names for guests: every name is somebody, always the same one, without a table.
//!
//! A name of decimal digits alone is that user id, below 2^63. Any other name is the user id whose top bit is set and
//! whose other 63 bits are the first 63 bits behind the top one of SHA-256 over the lower-cased name in UTF-8. So
//! the two kinds never meet, and two names meet with a probability of 1 in 9 × 10^18.

use holdfast_protocol::id::UserId;
use sha2::{Digest as _, Sha256};

/// Characters of a name.
pub const MAX_NAME_CHARACTERS: usize = 32;

const TOP_BIT: u64 = 1 << 63;

/// Why a name names nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or too much.
    #[error("a name has 1 to 32 characters, this one has {0}")]
    Length(usize),
    /// Line breaks and the like.
    #[error("a name has no control characters")]
    ControlCharacter,
    /// A number that is nobody's.
    #[error("a name of digits is a user id, 1 to 9223372036854775807")]
    Number,
}

/// Who this name is; white space around it does not count.
///
/// # Errors
/// When the name is empty, too long, has control characters, or is a number out of range.
pub fn user_of_name(name: &str) -> Result<UserId, NameError> {
    let name = name.trim();
    let characters = name.chars().count();
    if !(1..=MAX_NAME_CHARACTERS).contains(&characters) {
        return Err(NameError::Length(characters));
    }
    if name.chars().any(char::is_control) {
        return Err(NameError::ControlCharacter);
    }
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        return match name.parse() {
            Ok(id) if (1..TOP_BIT).contains(&id) => Ok(UserId(id)),
            _ => Err(NameError::Number),
        };
    }
    let hash = Sha256::digest(name.to_lowercase().as_bytes());
    let (prefix, _) = hash.split_first_chunk::<8>().expect("SHA-256 has 32 bytes");
    Ok(UserId(u64::from_be_bytes(*prefix) | TOP_BIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_itself_and_a_name_has_the_top_bit() {
        assert_eq!(user_of_name("42"), Ok(UserId(42)));
        assert_eq!(user_of_name(" 42 "), Ok(UserId(42)));
        assert_eq!(user_of_name("9223372036854775807"), Ok(UserId(TOP_BIT - 1)));
        // Independently: printf ana | sha256sum → 24d4b96f58da6d4a…, with the top bit set.
        assert_eq!(user_of_name("ana"), Ok(UserId(0x24d4_b96f_58da_6d4a | TOP_BIT)));
        assert_eq!(user_of_name("Ana"), user_of_name("ana"));
        assert_eq!(user_of_name("ÅSA"), user_of_name("åsa"));
        assert_ne!(user_of_name("ana"), user_of_name("anna"));
    }

    #[test]
    fn what_is_no_name_says_why() {
        assert_eq!(user_of_name(""), Err(NameError::Length(0)));
        assert_eq!(user_of_name("   "), Err(NameError::Length(0)));
        assert_eq!(user_of_name(&"é".repeat(32)).map(|_| ()), Ok(()));
        assert_eq!(user_of_name(&"é".repeat(33)), Err(NameError::Length(33)));
        assert_eq!(user_of_name("a\nb"), Err(NameError::ControlCharacter));
        for number in ["0", "000", "9223372036854775808", "99999999999999999999999"] {
            assert_eq!(user_of_name(number), Err(NameError::Number), "{number}");
        }
    }
}
