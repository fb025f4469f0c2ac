//! From where on a conversation is still there: what is before its *floor* has been kept for as long as it was to be. No
//! I/O.
//!
//! ```text
//! floors   conversation 16  →  01 | crc 4 | seq of the first event that is there 8 | messages before it 8
//! ```
//!
//! In the conversation's own database the floor is what its worker has decided, and is durable with the removal of what
//! is before it; other databases learn of it through the fan-out log, and remove their copies with it.
//!
//! The one invariant: **of what is before the floor nothing is there but what has happened to the group itself, and from
//! the floor on everything is.** Who was in a group when is what all its readers' rights follow from, and the lists of its
//! members are made of it.

use bytes::Bytes;
use holdfast_protocol::chat::{self, body};
use holdfast_protocol::id::{ConversationId, MessageId, Seq, UserId};
use prost::Message as _;

use crate::engine::{Key, StoreError, Table};
use crate::entry::MessageEntry;
use crate::layout;

/// Where a conversation begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Floor {
    /// The first event that is there, or will be.
    pub(crate) seq: Seq,
    /// How many messages there were before it; of another database's conversation this is not known, and 0.
    pub(crate) ordinal: u64,
}

impl Default for Floor {
    /// Of a conversation that is whole.
    fn default() -> Self {
        Self { seq: Seq(1), ordinal: 0 }
    }
}

impl Floor {
    pub(crate) fn seal(self) -> Bytes {
        layout::seal_numbers([self.seq.0, self.ordinal])
    }

    pub(crate) fn open(key: &[u8], value: &Bytes) -> Result<Self, StoreError> {
        let [seq, ordinal] = layout::open_numbers(Table::Floors, key, value)?;
        Ok(Self { seq: Seq(seq), ordinal })
    }

    /// The last event that is not there any more; 0: there is none.
    pub(crate) fn last_gone(self) -> Seq {
        Seq(self.seq.0.saturating_sub(1))
    }
}

pub(crate) fn floor_key(conversation: ConversationId) -> Key {
    Key::from_slice(&conversation.0.to_be_bytes())
}

/// What stands in an inbox in place of an entry that is gone.
pub(crate) fn expired(conversation: ConversationId, seq: Seq, ordinal: u64) -> Bytes {
    let body = chat::Body { kind: Some(body::Kind::Expired(chat::Expired {})) }.encode_to_vec();
    let entry = MessageEntry {
        conversation,
        seq,
        message_id: MessageId(0),
        sender: UserId(0),
        client_id: b"",
        device: b"",
        time_ms: 0,
        body: &body,
        reply_to: None,
        changed_by: None,
        ordinal: Some(ordinal),
    };
    entry.encode(Vec::with_capacity).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_record_comes_back_and_damage_is_noticed() {
        let floor = Floor { seq: Seq(300), ordinal: 280 };
        let sealed = floor.seal();
        assert_eq!(Floor::open(b"k", &sealed).unwrap(), floor);
        for at in 0..sealed.len() {
            let mut bytes = sealed.to_vec();
            bytes[at] ^= 4;
            assert!(Floor::open(b"k", &bytes.into()).is_err(), "byte {at}");
        }
        assert_eq!((floor.last_gone(), Floor::default().last_gone()), (Seq(299), Seq(0)));
    }

    #[test]
    fn what_is_gone_says_where_it_was_and_nothing_else() {
        let conversation = ConversationId::direct(UserId(1), UserId(2));
        let bytes = expired(conversation, Seq(7), 5);
        let entry = MessageEntry::decode(&bytes).unwrap();
        assert_eq!((entry.conversation, entry.seq, entry.ordinal()), (conversation, Seq(7), 5));
        assert_eq!((entry.message_id, entry.sender), (MessageId(0), UserId(0)));
        let body = chat::Body::decode(entry.body).unwrap();
        assert!(matches!(body.kind, Some(body::Kind::Expired(_))));
    }
}
