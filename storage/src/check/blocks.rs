//! Blocks, and what only its sender sees; contacts and settings of users.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_protocol::id::{ConversationId, Seq, UserId};
use holdfast_router::Key as RouteKey;

use super::{Checker, in_bites};
use crate::blocks::{self, Blocks, Hidden};
use crate::engine::{Store, StoreError, Table, Visit};
use crate::entry::MessageEntry;
use crate::floor::Floor;
use crate::inbox::Facts;
use crate::people::{self, About, Settings};

impl Checker {
    /// An event that only this user sees.
    pub(super) fn hidden_entry(
        &self,
        store: &impl Store,
        conversation: ConversationId,
        sender: UserId,
        seq: Seq,
    ) -> Result<Option<Bytes>, StoreError> {
        let key = blocks::hidden_key(conversation, sender, seq);
        let Some(value) = store.get(Table::Hidden, &key)? else { return Ok(None) };
        Ok(Hidden::open(&key, &value).ok().map(|hidden| hidden.entry).filter(|entry| !entry.is_empty()))
    }

    /// The events of a conversation that only their senders see.
    pub(super) fn hidden_in(
        &mut self,
        number: u16,
        store: &impl Store,
        conversation: ConversationId,
    ) -> Result<BTreeMap<Seq, (UserId, Bytes)>, StoreError> {
        let mut hidden = BTreeMap::new();
        self.of_conversation(number, store, conversation, |sender, seq, record| {
            if !record.entry.is_empty() {
                hidden.insert(seq, (sender, record.entry));
            }
        })?;
        Ok(hidden)
    }

    fn of_conversation(
        &mut self,
        number: u16,
        store: &impl Store,
        conversation: ConversationId,
        mut each: impl FnMut(UserId, Seq, Hidden),
    ) -> Result<(), StoreError> {
        if conversation.users().is_none() {
            return Ok(());
        }
        let mut damaged = Vec::new();
        let (from, to) = (
            blocks::hidden_key(conversation, UserId(0), Seq(0)),
            blocks::hidden_key(conversation, UserId(u64::MAX), Seq(u64::MAX)),
        );
        store.scan(Table::Hidden, &from, &to, &mut |key, value| {
            match (blocks::split_hidden_key(key), Hidden::open(key, &value)) {
                (Some((_, sender, seq)), Ok(record)) => each(sender, seq, record),
                (_, Err(error)) => damaged.push(error.to_string()),
                (None, _) => damaged.push(format!("hidden has a key of {} bytes", key.len())),
            }
            Visit::More
        })?;
        damaged.into_iter().for_each(|what| self.problem(Some(number), what));
        Ok(())
    }

    /// What is kept of blocks must be what the events make of it, and so must be what is kept of changes.
    pub(super) fn end_of_blocks(
        &mut self,
        number: u16,
        store: &impl Store,
        conversation: ConversationId,
        made: Option<Blocks>,
        own_changes: &BTreeMap<(UserId, Seq), Seq>,
        floor: Seq,
    ) -> Result<(), StoreError> {
        let Some((low, high)) = conversation.users() else { return Ok(()) };
        let mut kept_changes = BTreeMap::new();
        self.of_conversation(number, store, conversation, |sender, seq, record| {
            if record.change > Seq(0) {
                kept_changes.insert((sender, seq), record.change);
            }
        })?;
        self.own_changes(number, conversation, own_changes, &kept_changes);
        let key = blocks::blocks_key(conversation);
        let kept = match store.get(Table::Blocks, &key)?.map(|value| Blocks::open(&key, &value)).transpose() {
            Ok(kept) => kept,
            Err(error) => {
                self.problem(Some(number), error.to_string());
                return Ok(());
            }
        };
        if let Some(Blocks { by_low, by_high, .. }) = kept {
            for (user, blocks) in [(low, by_low), (high, by_high)] {
                if blocks {
                    self.blocks_in_conversations.add_block(user, conversation);
                }
            }
            let mut made = made.unwrap_or_default();
            (made.by_low, made.by_high) = (by_low, by_high);
            if kept.is_some_and(|kept| made.of_what_is_left(&kept, floor) == kept) {
                return Ok(());
            }
        } else if made.is_none() {
            return Ok(());
        }
        self.problem(
            Some(number),
            format!("what is kept of blocks in {conversation} is not what its events make"),
        );
        Ok(())
    }

    /// Copies of events that only their senders see, of other databases' conversations.
    pub(super) fn hidden_copies(&mut self, number: u16, store: &impl Store) -> Result<(), StoreError> {
        let mut of = ConversationId(0);
        let mut floor = Floor::default();
        let (mut made, mut kept) = (BTreeMap::new(), BTreeMap::new());
        in_bites(store, Table::Hidden, 32, |key, value| {
            let Some((conversation, sender, seq)) = blocks::split_hidden_key(key) else {
                self.problem(Some(number), format!("hidden has a key of {} bytes", key.len()));
                return Ok(());
            };
            if self.assignment.owner(RouteKey::Conversation(conversation).slice()).0 == number {
                // Looked at with its conversation, and that there is one shows in the number of dedupe records.
                return Ok(());
            }
            if conversation != of {
                self.own_changes(number, of, &made, &kept);
                (of, made, kept) = (conversation, BTreeMap::new(), BTreeMap::new());
                floor = self.floor(number, store, conversation);
            }
            match Hidden::open(key, value) {
                Err(error) => self.problem(Some(number), error.to_string()),
                Ok(record) => {
                    if record.change > Seq(0) {
                        kept.insert((sender, seq), record.change);
                    }
                    if record.entry.is_empty() {
                        return Ok(());
                    }
                    let entry = MessageEntry::decode(&record.entry);
                    if let Some(amends) = entry.as_ref().and_then(|entry| Facts::of(entry).amends)
                        && amends >= floor.seq
                    {
                        made.insert((sender, amends), seq);
                    }
                    let is_of = entry.is_some_and(|entry| {
                        (entry.conversation, entry.sender, entry.seq) == (conversation, sender, seq)
                    });
                    if !is_of || self.assignment.owner(RouteKey::User(sender).slice()).0 != number {
                        let what = format!("the hidden copy of {seq} of {conversation} is not of it");
                        self.problem(Some(number), what);
                    }
                }
            }
            Ok(())
        })?;
        self.own_changes(number, of, &made, &kept);
        Ok(())
    }

    /// What is kept of changes that only their senders see must be what the events make of it.
    fn own_changes(
        &mut self,
        number: u16,
        conversation: ConversationId,
        made: &BTreeMap<(UserId, Seq), Seq>,
        kept: &BTreeMap<(UserId, Seq), Seq>,
    ) {
        if made != kept {
            let what =
                format!("changes of {conversation} that only their senders see are not those that are kept");
            self.problem(Some(number), what);
        }
    }

    /// The numbers in a user's settings must be those of the records.
    pub(super) fn people(&mut self, number: u16, store: &impl Store) -> Result<(), StoreError> {
        let mut of = UserId(0);
        let (mut says, mut counted) = (Settings::default(), Settings::default());
        in_bites(store, Table::People, 17, |key, value| {
            let (user, about) = match people::open(key, value) {
                Ok(record) => record,
                Err(error) => {
                    self.problem(Some(number), error.to_string());
                    return Ok(());
                }
            };
            if user != of {
                self.end_of_people(number, of, says, counted);
                (of, says, counted) = (user, Settings::default(), Settings::default());
            }
            match about {
                About::Settings(settings) => {
                    says = settings;
                    counted.presence = settings.presence;
                }
                About::Regard(other, regard) => {
                    counted.contacts += u32::from(regard.contact);
                    counted.blocks += u32::from(regard.blocked);
                    if regard.blocked {
                        self.blocks.add_block(user, ConversationId::direct(user, other));
                    }
                }
                About::BlockedBy(by) => {
                    counted.blocked_by += 1;
                    self.blocked_by.add_block(by, ConversationId::direct(user, by));
                }
            }
            Ok(())
        })?;
        self.end_of_people(number, of, says, counted);
        Ok(())
    }

    fn end_of_people(&mut self, number: u16, user: UserId, says: Settings, counted: Settings) {
        if says != counted {
            let what = format!("the settings of user {user} say {says:?}, the records make {counted:?}");
            self.problem(Some(number), what);
        }
    }
}
