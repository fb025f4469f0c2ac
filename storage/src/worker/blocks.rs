//! Direct conversations in which somebody is blocked: what only its sender sees is written and read here. What it is
//! stands in [`crate::blocks`].
//!
//! Unread counts go by ordinals, and those count hidden messages too. So the first event that both see after some that
//! one of them did not see also moves that user's mark: what was written meanwhile counts as read.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_protocol::id::{ConversationId, Seq, UserId};
use smallvec::SmallVec;

use super::hot_pages::Part;
use super::inboxes::Tip;
use super::receipts::Mark;
use super::spent::LOOK_BYTES;
use super::{Worker, history};
use crate::blocks::{self, Blocks, Hidden};
use crate::command::{Arrival, OwnMark, Refusal, Users};
use crate::engine::{Store, StoreError, Table, Visit};
use crate::inbox::{Facts, Item};
use crate::layout::{self, Intended, Intent};

/// Marks that an event moves, and what they are then.
pub(super) type Overdue = SmallVec<[(UserId, OwnMark, Mark); 1]>;

impl<S: Store> Worker<S> {
    /// What is kept of a conversation in which somebody has ever been blocked, the present batch included.
    pub(super) fn blocks(&self, conversation: ConversationId) -> Result<Option<Blocks>, StoreError> {
        let key = blocks::blocks_key(conversation);
        self.pending_or_stored(Table::Blocks, &key)?.map(|value| Blocks::open(&key, &value)).transpose()
    }

    /// What stands under a sender, the present batch included.
    pub(super) fn hidden(
        &self,
        conversation: ConversationId,
        sender: UserId,
        seq: Seq,
    ) -> Result<Option<Hidden>, StoreError> {
        let key = blocks::hidden_key(conversation, sender, seq);
        self.pending_or_stored(Table::Hidden, &key)?.map(|value| Hidden::open(&key, &value)).transpose()
    }

    /// A user blocks the other one of a conversation of this database, or does not any more.
    pub(super) fn set_blocks(
        &mut self,
        conversation: ConversationId,
        by: UserId,
        blocks: bool,
    ) -> Result<(), StoreError> {
        let tip = self.tip(conversation)?;
        let mut kept = self.blocks(conversation)?.unwrap_or_default();
        kept.set(conversation, by, blocks);
        self.batch.put(Table::Blocks, blocks::blocks_key(conversation), kept.seal());
        self.tips.set(conversation, Tip { has_blocks: true, ..tip });
        Ok(())
    }

    /// Whether nothing passes between the two of a conversation of this database. Nothing is read for the others.
    pub(super) fn is_cut(&mut self, conversation: ConversationId) -> Result<bool, StoreError> {
        let blocks = match self.tips.get(conversation) {
            Some(Tip { has_blocks: false, .. }) => None,
            Some(_) => self.blocks(conversation)?,
            // The present batch, which is long to search, says nothing of it either.
            None => {
                let key = blocks::blocks_key(conversation);
                self.store.get(Table::Blocks, &key)?.map(|value| Blocks::open(&key, &value)).transpose()?
            }
        };
        Ok(blocks.is_some_and(|blocks| blocks.is_any()))
    }

    /// Writes down an event that only its sender sees. `changed`: what stands under the sender for the message that it
    /// changes.
    pub(super) fn keep_hidden(
        &mut self,
        facts: &Facts,
        sender: UserId,
        entry: Bytes,
        changed: Option<Hidden>,
    ) {
        let key = |seq| blocks::hidden_key(facts.conversation, sender, seq);
        let hidden = Hidden { change: Seq(0), entry };
        self.batch.put(Table::Hidden, key(facts.seq), hidden.seal());
        if let Some(amended) = facts.amends {
            let changed = Hidden { change: facts.seq, ..changed.unwrap_or_default() };
            self.batch.put(Table::Hidden, key(amended), changed.seal());
        }
    }

    /// The marks that the next event that both see moves.
    pub(super) fn overdue(
        &self,
        conversation: ConversationId,
        blocks: &Blocks,
    ) -> Result<Overdue, StoreError> {
        let mut overdue = Overdue::new();
        for user in conversation.users().into_iter().flat_map(|(low, high)| [low, high]) {
            let unseen = blocks.hidden_from(conversation, user);
            if unseen.seq == Seq(0) {
                continue;
            }
            let before = self.mark(conversation, user)?;
            if before.read < unseen.seq {
                let own = OwnMark { conversation, up_to: unseen.seq, ordinal: unseen.ordinal };
                let delivered = before.delivered.max(unseen.seq);
                let mark = Mark { read: unseen.seq, ordinal: Some(unseen.ordinal), delivered };
                overdue.push((user, own, mark));
            }
        }
        Ok(overdue)
    }

    /// Moves marks; the event is in the inboxes already.
    pub(super) fn catch_up(&mut self, overdue: Overdue) {
        for (user, own, mark) in overdue {
            let owner = self.owner_of(user);
            if owner == self.identity.number {
                // The event has just got its place there.
                let Some(rev) = self.revs.get(user) else { continue };
                self.append(user, holdfast_protocol::id::Rev(rev + 1), &Item::Read(own), own.entry());
            } else {
                let intent = Intent { what: Intended::Read(own), users: Users::from_slice(&[user]) };
                self.outgoing[usize::from(owner)].intend(intent, Arrival::Read(own));
            }
            self.keep_mark(own.conversation, user, mark);
        }
    }

    /// Whether a conversation has events that this user sees alone, or does not see, as far as this database knows.
    pub(super) fn is_split(
        &self,
        table: Table,
        conversation: ConversationId,
        user: UserId,
    ) -> Result<bool, StoreError> {
        if conversation.users().is_none() {
            return Ok(false);
        }
        self.spent.add(LOOK_BYTES);
        if table == Table::Messages {
            return Ok(self.store.get(Table::Blocks, &blocks::blocks_key(conversation))?.is_some());
        }
        let key = |seq| blocks::hidden_key(conversation, user, Seq(seq));
        Ok(self.store.last(Table::Hidden, &key(0), &key(u64::MAX))?.is_some())
    }

    /// What a user sees of a part of such a conversation, as it is now: at most so many messages, as many as fit into so
    /// many bytes, those that are nearest to where it begins; and whether these are all.
    pub(super) fn read_split(
        &self,
        table: Table,
        part: Part,
        reader: UserId,
        most: usize,
        most_bytes: usize,
    ) -> Result<(Vec<Bytes>, bool), StoreError> {
        let Part { conversation, first, last, backward } = part;
        let mut events: BTreeMap<Seq, (Bytes, Seq)> = BTreeMap::new();
        let mut is_all = true;
        let (mut near, mut far) = (first, last);
        // Those of both first: they say how far the own ones are to be looked for.
        let keys = (layout::message_key(conversation, first), layout::message_key(conversation, last));
        let mut bytes = 0;
        self.scan_from_end(table, &keys.0, &keys.1, backward, |key, value| {
            if events.len() == most || bytes > most_bytes {
                is_all = false;
                return Ok(Visit::Enough);
            }
            let seq = Seq(layout::key_number(table, key)?);
            bytes += value.len();
            events.insert(seq, (layout::open(table, key, &value)?, Seq(0)));
            Ok(Visit::More)
        })?;
        if !is_all {
            if backward {
                near = events.keys().next().copied().unwrap_or(first);
            } else {
                far = events.keys().next_back().copied().unwrap_or(last);
            }
        }
        let keys =
            (blocks::hidden_key(conversation, reader, near), blocks::hidden_key(conversation, reader, far));
        let (mut own, mut bytes) = (0, 0);
        let mut cut = None;
        self.scan_from_end(Table::Hidden, &keys.0, &keys.1, backward, |key, value| {
            let seq = Seq(layout::key_number(Table::Hidden, key)?);
            let Hidden { change, entry } = Hidden::open(key, &value)?;
            if entry.is_empty() {
                if let Some((_, changed_by)) = events.get_mut(&seq) {
                    *changed_by = change;
                }
                return Ok(Visit::More);
            }
            if own == most || bytes > most_bytes {
                is_all = false;
                cut = Some(seq);
                return Ok(Visit::Enough);
            }
            own += 1;
            bytes += value.len();
            events.insert(seq, (entry, change));
            Ok(Visit::More)
        })?;
        // Where there were too many own ones, those of both behind them are not next either.
        if let Some(cut) = cut {
            events.retain(|&seq, _| if backward { seq > cut } else { seq < cut });
        }
        let keys = (layout::message_key(conversation, near), layout::message_key(conversation, far));
        self.scan_from_end(Table::Amended, &keys.0, &keys.1, false, |key, value| {
            let seq = Seq(layout::key_number(Table::Amended, key)?);
            if let Some((_, changed_by)) = events.get_mut(&seq) {
                *changed_by = history::open_amended(key, &value)?.max(*changed_by);
            }
            Ok(Visit::More)
        })?;
        let mut messages = Vec::new();
        let mut bytes = 0;
        let mut events: Vec<_> = events.into_iter().collect();
        if backward {
            events.reverse();
        }
        for (seq, (entry, changed_by)) in events {
            let message = if changed_by > Seq(0) {
                self.amend(table, conversation, seq, changed_by, &entry, Some(reader))?
            } else {
                entry
            };
            bytes += message.len();
            if messages.len() == most || (!messages.is_empty() && bytes > most_bytes) {
                is_all = false;
                break;
            }
            messages.push(message);
        }
        if backward {
            messages.reverse();
        }
        Ok((messages, is_all))
    }

    /// Visits a part of a table from one of its ends.
    fn scan_from_end(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        backward: bool,
        mut visit: impl FnMut(&[u8], Bytes) -> Result<Visit, StoreError>,
    ) -> Result<(), StoreError> {
        let mut failed = None;
        self.spent.add(LOOK_BYTES);
        let visit = &mut |key: &[u8], value: Bytes| {
            self.spent.add(value.len());
            visit(key, value).unwrap_or_else(|error| {
                failed = Some(error);
                Visit::Enough
            })
        };
        if backward {
            self.store.scan_back(table, from, to, visit)?;
        } else {
            self.store.scan(table, from, to, visit)?;
        }
        failed.map_or(Ok(()), Err)
    }

    /// Whether somebody may write into a conversation of two, and whether the other one sees it.
    pub(super) fn judge_block(
        &self,
        conversation: ConversationId,
        blocks: &Blocks,
        sender: UserId,
        is_deletion: bool,
    ) -> Result<bool, Refusal> {
        if blocks.is_by(conversation, sender) && !is_deletion {
            return Err(Refusal::Blocked);
        }
        let other = blocks::other_of(conversation, sender);
        Ok(other.is_some_and(|other| blocks.is_by(conversation, other)))
    }
}
