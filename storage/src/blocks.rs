//! A direct conversation in which one of the two blocks the other, or did: what only its sender sees. No I/O.
//!
//! Whoever is blocked writes as before: messages get their `seq`, are accepted, and reach the sender's own devices. They
//! stand in a table of their own, `hidden`, under their sender, so that for the other one they are not there: nobody
//! needs to filter, and a reader of the conversation steps over a thousand of them as over none. A change that is hidden,
//! of a message that both see, stands under its sender and that message.
//!
//! ```text
//! blocks   conversation 16                  →  01 | crc 4 | who blocks 1 | last hidden event: seq 8 | ordinal 8
//!                                                 | last message hidden from low: seq 8 | ordinal 8 | from high: seq 8 | ordinal 8
//! hidden   conversation 16 | sender 8 | seq 8  →  01 | crc 4 | seq of its last change 8 | Entry, or nothing: both see it
//! ```
//!
//! The one invariant: an event stands in `messages` or, under its sender, in `hidden`, never in both, and both tables
//! together have every `seq` once.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use holdfast_protocol::id::{ConversationId, Seq, UserId};

use crate::engine::{Key, StoreError, Table};
use crate::layout;

/// A place in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct At {
    pub(crate) seq: Seq,
    pub(crate) ordinal: u64,
}

/// What is kept of a conversation in which somebody has ever been blocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Blocks {
    /// The user with the lower id blocks the other one.
    pub(crate) by_low: bool,
    /// And the other way round.
    pub(crate) by_high: bool,
    /// The last event that only its sender sees.
    pub(crate) last: At,
    /// The last message that the user with the lower id does not see: it counts as read when the next one comes.
    from_low: At,
    from_high: At,
}

impl Blocks {
    /// Whether this user of the conversation blocks the other one.
    pub(crate) fn is_by(&self, conversation: ConversationId, user: UserId) -> bool {
        if is_low(conversation, user) { self.by_low } else { self.by_high }
    }

    pub(crate) fn is_any(&self) -> bool {
        self.by_low || self.by_high
    }

    pub(crate) fn set(&mut self, conversation: ConversationId, by: UserId, blocks: bool) {
        *if is_low(conversation, by) { &mut self.by_low } else { &mut self.by_high } = blocks;
    }

    /// The last message that this user does not see.
    pub(crate) fn hidden_from(&self, conversation: ConversationId, user: UserId) -> At {
        if is_low(conversation, user) { self.from_low } else { self.from_high }
    }

    /// The conversation goes on with an event that only its sender sees; `counts`: it is a message.
    pub(crate) fn hide(&mut self, conversation: ConversationId, sender: UserId, at: At, counts: bool) {
        self.last = at;
        if counts {
            *if is_low(conversation, sender) { &mut self.from_high } else { &mut self.from_low } = at;
        }
    }

    /// The same where hidden events are gone, which only a record that was made before that still knows.
    pub(crate) fn of_what_is_left(self, before: &Self, floor: Seq) -> Self {
        let of = |now: At, before: At| if before.seq < floor { before } else { now };
        Self {
            last: of(self.last, before.last),
            from_low: of(self.from_low, before.from_low),
            from_high: of(self.from_high, before.from_high),
            ..self
        }
    }

    pub(crate) fn seal(&self) -> Bytes {
        layout::seal(49, |payload| {
            payload.put_u8(u8::from(self.by_low) | u8::from(self.by_high) << 1);
            for At { seq, ordinal } in [self.last, self.from_low, self.from_high] {
                payload.put_u64_le(seq.0);
                payload.put_u64_le(ordinal);
            }
        })
    }

    pub(crate) fn open(key: &[u8], value: &Bytes) -> Result<Self, StoreError> {
        let mut payload = layout::open(Table::Blocks, key, value)?;
        if payload.len() != 49 {
            return Err(layout::corrupt(Table::Blocks, key, "the value has a wrong length"));
        }
        let who = payload.get_u8();
        if who > 3 {
            return Err(layout::corrupt(Table::Blocks, key, "more than two users block each other"));
        }
        let [last, from_low, from_high] =
            std::array::from_fn(|_| At { seq: Seq(payload.get_u64_le()), ordinal: payload.get_u64_le() });
        Ok(Self { by_low: who & 1 != 0, by_high: who & 2 != 0, last, from_low, from_high })
    }
}

fn is_low(conversation: ConversationId, user: UserId) -> bool {
    conversation.users().is_some_and(|(low, _)| low == user)
}

/// The other one of the two.
pub(crate) fn other_of(conversation: ConversationId, user: UserId) -> Option<UserId> {
    let (low, high) = conversation.users()?;
    Some(if user == low { high } else { low })
}

/// What stands under its sender.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Hidden {
    /// Its last change; 0: none.
    pub(crate) change: Seq,
    /// A `holdfast.v1.Entry`; empty if it is a message that both see, with a change that only the sender sees.
    pub(crate) entry: Bytes,
}

impl Hidden {
    pub(crate) fn seal(&self) -> Bytes {
        let mut value = BytesMut::with_capacity(layout::ENVELOPE_BYTES + 8 + self.entry.len());
        value.put_bytes(0, layout::ENVELOPE_BYTES);
        value.put_u64_le(self.change.0);
        value.put_slice(&self.entry);
        layout::sign(layout::VALUE_VERSION, &mut value);
        value.freeze()
    }

    pub(crate) fn open(key: &[u8], value: &Bytes) -> Result<Self, StoreError> {
        let mut payload = layout::open(Table::Hidden, key, value)?;
        if payload.len() < 8 {
            return Err(layout::corrupt(Table::Hidden, key, "the value is too short"));
        }
        let change = Seq(payload.get_u64_le());
        Ok(Self { change, entry: payload })
    }
}

pub(crate) fn blocks_key(conversation: ConversationId) -> Key {
    Key::from_slice(&conversation.0.to_be_bytes())
}

pub(crate) fn hidden_key(conversation: ConversationId, sender: UserId, seq: Seq) -> Key {
    let mut key = Key::from_slice(&conversation.0.to_be_bytes());
    key.extend_from_slice(&sender.0.to_be_bytes());
    key.extend_from_slice(&seq.0.to_be_bytes());
    key
}

/// Conversation, sender and `seq` of a key.
pub(crate) fn split_hidden_key(key: &[u8]) -> Option<(ConversationId, UserId, Seq)> {
    let (conversation, rest) = key.split_first_chunk::<16>()?;
    let (sender, seq) = rest.split_first_chunk::<8>()?;
    let seq = <[u8; 8]>::try_from(seq).ok()?;
    Some((
        ConversationId(u128::from_be_bytes(*conversation)),
        UserId(u64::from_be_bytes(*sender)),
        Seq(u64::from_be_bytes(seq)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: UserId = UserId(3);
    const HIGH: UserId = UserId(4);

    fn conversation() -> ConversationId {
        ConversationId::direct(HIGH, LOW)
    }

    #[test]
    fn each_of_the_two_has_an_own_block_and_messages_are_hidden_from_the_other_one() {
        let mut blocks = Blocks::default();
        blocks.set(conversation(), HIGH, true);
        assert!(blocks.is_by(conversation(), HIGH) && !blocks.is_by(conversation(), LOW) && blocks.is_any());
        let (message, edit) = (At { seq: Seq(5), ordinal: 4 }, At { seq: Seq(6), ordinal: 4 });
        blocks.hide(conversation(), LOW, message, true);
        blocks.hide(conversation(), LOW, edit, false);
        assert_eq!(blocks.hidden_from(conversation(), HIGH), message);
        assert_eq!(blocks.hidden_from(conversation(), LOW), At::default());
        assert_eq!(blocks.last, edit);
        blocks.set(conversation(), HIGH, false);
        assert!(!blocks.is_any());
        assert_eq!(other_of(conversation(), LOW), Some(HIGH));
        assert_eq!(other_of(conversation(), HIGH), Some(LOW));
    }

    #[test]
    fn records_come_back_and_damage_is_noticed() {
        let mut blocks = Blocks { by_low: true, ..Blocks::default() };
        blocks.hide(conversation(), LOW, At { seq: Seq(5), ordinal: 4 }, true);
        let sealed = blocks.seal();
        assert_eq!(Blocks::open(b"k", &sealed).unwrap(), blocks);
        let hidden = Hidden { change: Seq(9), entry: Bytes::from_static(b"entry") };
        assert_eq!(Hidden::open(b"k", &hidden.seal()).unwrap(), hidden);
        let key = hidden_key(conversation(), LOW, Seq(7));
        assert_eq!(split_hidden_key(&key), Some((conversation(), LOW, Seq(7))));
        for value in [sealed, hidden.seal()] {
            for at in 0..value.len() {
                let mut bytes = value.to_vec();
                bytes[at] ^= 0x40;
                let bytes = Bytes::from(bytes);
                assert!(Blocks::open(b"k", &bytes).is_err() && Hidden::open(b"k", &bytes).is_err());
            }
        }
    }
}
