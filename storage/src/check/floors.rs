//! Where conversations begin, and that nothing is left of what was before.

use holdfast_protocol::id::ConversationId;
use smallvec::SmallVec;

use super::{Checker, in_bites};
use crate::blocks::hidden_key;
use crate::engine::{Store, StoreError, Table, Visit};
use crate::entry::MessageEntry;
use crate::floor::Floor;
use crate::inbox::Facts;
use crate::layout;
use crate::worker::read_floor;

impl Checker {
    /// Where a conversation begins; if that is damaged, it is a problem, and the conversation should be whole.
    pub(super) fn floor(&mut self, number: u16, store: &impl Store, conversation: ConversationId) -> Floor {
        read_floor(store, conversation).unwrap_or_else(|error| {
            self.problem(Some(number), error.to_string());
            Floor::default()
        })
    }

    pub(super) fn floors(&mut self, number: u16, store: &impl Store) -> Result<(), StoreError> {
        in_bites(store, Table::Floors, 16, |key, value| {
            let Ok(conversation) = <[u8; 16]>::try_from(key) else {
                self.problem(Some(number), format!("floors has a key of {} bytes", key.len()));
                return Ok(());
            };
            let floor = match Floor::open(key, value) {
                Ok(floor) => floor,
                Err(error) => {
                    self.problem(Some(number), error.to_string());
                    return Ok(());
                }
            };
            let conversation = ConversationId(u128::from_be_bytes(conversation));
            if self.owns(number, conversation) {
                // Looked at with its messages, but for what only one of the two sees.
                return self.hidden_before(number, store, conversation, floor);
            }
            let (from, to) = (
                layout::message_key(conversation, Floor::default().seq),
                layout::message_key(conversation, floor.last_gone()),
            );
            let mut left = 0u64;
            store.scan(Table::Copies, &from, &to, &mut |key, value| {
                let bytes = layout::open(Table::Copies, key, &value);
                let stays = bytes.is_ok_and(|bytes| {
                    MessageEntry::decode(&bytes).is_some_and(|entry| Facts::of(&entry).is_of_group())
                });
                left += u64::from(!stays);
                Visit::More
            })?;
            if left > 0 {
                let begins = floor.seq;
                let what =
                    format!("{left} copies of {conversation} are there of before {begins}, where it begins");
                self.problem(Some(number), what);
            }
            self.hidden_before(number, store, conversation, floor)
        })
    }

    fn hidden_before(
        &mut self,
        number: u16,
        store: &impl Store,
        conversation: ConversationId,
        floor: Floor,
    ) -> Result<(), StoreError> {
        let users: SmallVec<[_; 2]> =
            conversation.users().into_iter().flat_map(|(low, high)| [low, high]).collect();
        for user in users {
            let key = |seq| hidden_key(conversation, user, seq);
            let last = store.last(Table::Hidden, &key(Floor::default().seq), &key(floor.last_gone()))?;
            if last.is_some() {
                let begins = floor.seq;
                let what = format!(
                    "something that only user {user} sees in {conversation} is there of before {begins}, where it begins"
                );
                self.problem(Some(number), what);
            }
        }
        Ok(())
    }
}
