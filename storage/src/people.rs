//! What users are to each other: whom a user counts among the contacts or has blocked, and who may see the user's
//! presence. No I/O.
//!
//! ```text
//! key    user 8 | what 1 | other 8
//! what   0: the user's own settings, of other 0   →  01 | crc 4 | who sees presence 1 | contacts 4 | blocks 4 | blocked by 4
//!        1: how the user sees the other           →  01 | crc 4 | 1: a contact, 2: blocked
//!        2: the other blocks the user             →  01 | crc 4
//! ```
//!
//! Numbers of people stand in the user's own settings, so that for most users one look says that nothing is hidden from
//! anybody. That somebody blocks a user is written down with that user too, because a worker can only look into its own
//! database; no list shows it.

use bytes::{Buf as _, BufMut as _, Bytes};
use holdfast_protocol::chat::Audience;
use holdfast_protocol::id::UserId;

use crate::engine::{Key, StoreError, Table};
use crate::layout;

const SETTINGS: u8 = 0;
const PERSON: u8 = 1;
const BLOCKED_BY: u8 = 2;

const CONTACT: u8 = 1;
const BLOCKED: u8 = 2;

/// A user's own settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Settings {
    /// Who may see the user's presence.
    pub(crate) presence: Audience,
    /// How many contacts there are.
    pub(crate) contacts: u32,
    /// How many the user blocks.
    pub(crate) blocks: u32,
    /// How many block the user.
    pub(crate) blocked_by: u32,
}

impl Settings {
    /// Whether the user's presence may be hidden from somebody.
    pub(crate) fn is_restricted(&self) -> bool {
        self.presence != Audience::Everyone || self.blocks > 0 || self.blocked_by > 0
    }

    pub(crate) fn seal(&self) -> Bytes {
        layout::seal(13, |payload| {
            payload.put_u8(self.presence as u8);
            payload.put_u32_le(self.contacts);
            payload.put_u32_le(self.blocks);
            payload.put_u32_le(self.blocked_by);
        })
    }

    pub(crate) fn open(key: &[u8], value: &Bytes) -> Result<Self, StoreError> {
        let mut payload = layout::open(Table::People, key, value)?;
        if payload.len() != 13 {
            return Err(layout::corrupt(Table::People, key, "the value has a wrong length"));
        }
        let presence = match payload.get_u8() {
            0 => Audience::Everyone,
            1 => Audience::Contacts,
            2 => Audience::Nobody,
            _ => {
                return Err(layout::corrupt(
                    Table::People,
                    key,
                    "it has an audience that this program does not know",
                ));
            }
        };
        let (contacts, blocks) = (payload.get_u32_le(), payload.get_u32_le());
        Ok(Self { presence, contacts, blocks, blocked_by: payload.get_u32_le() })
    }
}

/// How a user sees another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Regard {
    pub(crate) contact: bool,
    pub(crate) blocked: bool,
}

impl Regard {
    /// `None`: there is nothing to be kept.
    pub(crate) fn seal(self) -> Option<Bytes> {
        let flags = if self.contact { CONTACT } else { 0 } | if self.blocked { BLOCKED } else { 0 };
        (flags != 0).then(|| layout::seal(1, |payload| payload.put_u8(flags)))
    }

    pub(crate) fn open(key: &[u8], value: &Bytes) -> Result<Self, StoreError> {
        match layout::open(Table::People, key, value)?.as_ref() {
            &[flags @ 1..=3] => Ok(Self { contact: flags & CONTACT != 0, blocked: flags & BLOCKED != 0 }),
            _ => Err(layout::corrupt(Table::People, key, "it is nothing that a user can be to another")),
        }
    }
}

pub(crate) fn settings_key(user: UserId) -> Key {
    key(user, SETTINGS, UserId(0))
}

pub(crate) fn regard_key(user: UserId, other: UserId) -> Key {
    key(user, PERSON, other)
}

pub(crate) fn blocked_by_key(user: UserId, by: UserId) -> Key {
    key(user, BLOCKED_BY, by)
}

/// The value that says that somebody blocks a user.
pub(crate) fn seal_blocked_by() -> Bytes {
    layout::seal(0, |_| {})
}

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    Settings(Settings),
    Regard(UserId, Regard),
    BlockedBy(UserId),
}

/// A record whose kind nobody knows in advance: for the check of a store.
pub(crate) fn open(key: &[u8], value: &Bytes) -> Result<(UserId, About), StoreError> {
    let wrong = || layout::corrupt(Table::People, key, "the key is none of this table");
    let (user, rest) = key.split_first_chunk::<8>().ok_or_else(wrong)?;
    let (&what, other) = rest.split_first().ok_or_else(wrong)?;
    let other = UserId(u64::from_be_bytes(other.try_into().map_err(|_| wrong())?));
    let about = match what {
        SETTINGS if other == UserId(0) => About::Settings(Settings::open(key, value)?),
        PERSON => About::Regard(other, Regard::open(key, value)?),
        BLOCKED_BY if layout::open(Table::People, key, value)?.is_empty() => About::BlockedBy(other),
        _ => return Err(wrong()),
    };
    Ok((UserId(u64::from_be_bytes(*user)), about))
}

fn key(user: UserId, what: u8, other: UserId) -> Key {
    let mut key = Key::from_slice(&user.0.to_be_bytes());
    key.push(what);
    key.extend_from_slice(&other.0.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_damage_is_noticed() {
        let (me, other) = (UserId(7), UserId(1 << 40));
        let settings = Settings { presence: Audience::Contacts, contacts: 1, blocks: 2, blocked_by: 3 };
        let regard = Regard { contact: true, blocked: false };
        let records = [
            (settings_key(me), settings.seal(), About::Settings(settings)),
            (regard_key(me, other), regard.seal().unwrap(), About::Regard(other, regard)),
            (blocked_by_key(me, other), seal_blocked_by(), About::BlockedBy(other)),
        ];
        for (key, value, about) in records {
            assert!(!key.spilled());
            assert_eq!(open(&key, &value).unwrap(), (me, about));
            for at in 0..value.len() {
                let mut bytes = value.to_vec();
                bytes[at] ^= 0x40;
                assert!(open(&key, &bytes.into()).is_err(), "byte {at}");
            }
            assert!(open(&key[1..], &value).is_err());
        }
        assert_eq!(Regard::default().seal(), None);
    }

    #[test]
    fn most_users_hide_nothing_from_anybody() {
        let free = Settings { contacts: 9, ..Settings::default() };
        assert!(!free.is_restricted());
        assert!(Settings { presence: Audience::Nobody, ..free }.is_restricted());
        assert!(Settings { blocks: 1, ..free }.is_restricted());
        assert!(Settings { blocked_by: 1, ..free }.is_restricted());
    }
}
