//! The logs of conversations, and what is kept beside them.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_protocol::chat::{self, body};
use holdfast_protocol::id::{ConversationId, MessageId, Seq, UserId};
use holdfast_router::Key as RouteKey;
use prost::Message as _;

use super::{Checker, entry_in, in_bites, slice_of, split_message_key};
use crate::blocks::{At, Blocks};
use crate::command::Users;
use crate::engine::{Store, StoreError, Table, Visit};
use crate::entry::MessageEntry;
use crate::floor::{Floor, floor_key};
use crate::group::Group;
use crate::inbox::{self, Facts};
use crate::layout::{self, Known};
use crate::worker::{dedupe_key, open_amended, open_mark, receipt_keys};

impl Checker {
    /// Every message, and every event that only its sender sees.
    pub(super) fn messages(&mut self, number: u16, store: &impl Store) -> Result<Tally, StoreError> {
        let mut log = Log::default();
        let mut tally = Tally::default();
        in_bites(store, Table::Messages, 24, |key, value| {
            let Some((at, seq)) = split_message_key(key) else {
                tally.count += 1;
                self.problem(Some(number), format!("messages has a key of {} bytes", key.len()));
                return Ok(());
            };
            if log.conversation != Some(at) {
                self.end_of_log(number, store, &mut log, &mut tally)?;
                log = self.begin_log(number, store, at)?;
            }
            while let Some((&hidden, _)) = log.hidden.first_key_value()
                && hidden < seq
            {
                self.hidden_event(number, store, &mut log, &mut tally)?;
            }
            match layout::open(Table::Messages, key, value) {
                Ok(bytes) => self.event(number, store, &mut log, &mut tally, seq, &bytes, None),
                Err(error) => {
                    tally.count += 1;
                    log.last = seq;
                    self.problem(Some(number), error.to_string());
                    Ok(())
                }
            }
        })?;
        self.end_of_log(number, store, &mut log, &mut tally)?;
        // Where everything that was ever said was hidden.
        in_bites(store, Table::Blocks, 16, |key, _| {
            let Ok(conversation) = <[u8; 16]>::try_from(key) else {
                self.problem(Some(number), format!("blocks has a key of {} bytes", key.len()));
                return Ok(());
            };
            let conversation = ConversationId(u128::from_be_bytes(conversation));
            let (from, to) =
                (layout::message_key(conversation, Seq(1)), layout::message_key(conversation, Seq(u64::MAX)));
            // Those that have a floor are looked at with it.
            if store.last(Table::Messages, &from, &to)?.is_none() && !has_floor(store, conversation)? {
                let mut log = self.begin_log(number, store, conversation)?;
                self.end_of_log(number, store, &mut log, &mut tally)?;
            }
            Ok(())
        })?;
        // Where everything is gone.
        in_bites(store, Table::Floors, 16, |key, _| {
            let Ok(conversation) = <[u8; 16]>::try_from(key) else { return Ok(()) };
            let conversation = ConversationId(u128::from_be_bytes(conversation));
            let (from, to) =
                (layout::message_key(conversation, Seq(1)), layout::message_key(conversation, Seq(u64::MAX)));
            if self.owns(number, conversation) && store.last(Table::Messages, &from, &to)?.is_none() {
                let mut log = self.begin_log(number, store, conversation)?;
                self.end_of_log(number, store, &mut log, &mut tally)?;
            }
            Ok(())
        })?;
        Ok(tally)
    }

    fn begin_log(
        &mut self,
        number: u16,
        store: &impl Store,
        conversation: ConversationId,
    ) -> Result<Log, StoreError> {
        self.report.conversations += 1;
        if self.assignment.owner(RouteKey::Conversation(conversation).slice()).0 != number {
            self.problem(Some(number), format!("conversation {conversation} belongs into another database"));
        }
        let hidden = self.hidden_in(number, store, conversation)?;
        let floor = self.floor(number, store, conversation);
        Ok(Log { conversation: Some(conversation), hidden, floor, ..Log::default() })
    }

    /// The next event, if it is one that only its sender sees.
    fn hidden_event(
        &mut self,
        number: u16,
        store: &impl Store,
        log: &mut Log,
        tally: &mut Tally,
    ) -> Result<(), StoreError> {
        let Some((seq, (sender, entry))) = log.hidden.pop_first() else { return Ok(()) };
        self.event(number, store, log, tally, seq, &entry, Some(sender))
    }

    /// The next event; `only`: who alone sees it.
    #[expect(clippy::too_many_arguments, reason = "what is read, and where it is added up")]
    fn event(
        &mut self,
        number: u16,
        store: &impl Store,
        log: &mut Log,
        tally: &mut Tally,
        seq: Seq,
        bytes: &Bytes,
        only: Option<UserId>,
    ) -> Result<(), StoreError> {
        let Some(at) = log.conversation else { return Ok(()) };
        tally.count += 1;
        log.reach(seq);
        let is_whole = seq >= log.floor.seq;
        if is_whole && seq != log.last.next() {
            let last = log.last;
            self.problem(Some(number), format!("conversation {at} has seq {seq} after {last}"));
        }
        log.last = seq;
        self.report.messages += 1;
        let Some(entry) = MessageEntry::decode(bytes) else {
            self.problem(Some(number), format!("message {seq} of {at} is no entry"));
            return Ok(());
        };
        if (entry.conversation, entry.seq) != (at, seq) {
            let (says, which) = (entry.conversation, entry.seq);
            self.problem(Some(number), format!("message {seq} of {at} says that it is {which} of {says}"));
        }
        if entry.message_id <= log.last_id {
            self.problem(Some(number), format!("message {seq} of {at} has an id not above the one before"));
        }
        log.last_id = entry.message_id;
        let counts = inbox::says_something(entry.body);
        let ordinal = log.ordinal + u64::from(counts);
        if !is_whole && !Facts::of(&entry).is_of_group() {
            let floor = log.floor.seq;
            let what = format!("message {seq} of {at} is still there, though it begins at {floor}");
            self.problem(Some(number), what);
        }
        if is_whole && entry.ordinal.is_some_and(|says| says != ordinal) {
            let says = entry.ordinal();
            let what = format!("message {seq} of {at} says that it is number {says}, but it is {ordinal}");
            self.problem(Some(number), what);
        }
        log.ordinal = entry.ordinal();
        tally.newest = tally.newest.max(log.last_id);
        match log.recipients(&entry, only) {
            Ok(users) => {
                for user in users {
                    self.promised[slice_of(user)].add(user, &entry, bytes);
                }
            }
            Err(what) => self.problem(Some(number), format!("message {seq} of {at} {what}")),
        }
        if let Some(sender) = only {
            if entry.sender != sender {
                self.problem(Some(number), format!("message {seq} of {at} is hidden under somebody else"));
            }
            let last = At { seq, ordinal: log.ordinal };
            log.blocks.get_or_insert_default().hide(at, sender, last, counts);
        }
        self.has_dedupe(number, store, &entry)
    }

    /// What is kept beside a conversation's log must be what the log says.
    fn end_of_log(
        &mut self,
        number: u16,
        store: &impl Store,
        log: &mut Log,
        tally: &mut Tally,
    ) -> Result<(), StoreError> {
        let Some(conversation) = log.conversation else { return Ok(()) };
        while !log.hidden.is_empty() {
            self.hidden_event(number, store, log, tally)?;
        }
        log.reach(log.floor.seq);
        self.report.expired += log.expired();
        tally.expired += log.expired();
        // What was changed is not there any more.
        let floor = log.floor.seq;
        log.amended.retain(|&seq, _| seq >= floor);
        log.own_changes.retain(|&(_, seq), _| seq >= floor);
        self.end_of_blocks(number, store, conversation, log.blocks, &log.own_changes, floor)?;
        let log = &*log;
        if conversation.users().is_none() {
            self.groups += 1;
            let key = layout::group_key(conversation);
            let kept = store.get(Table::Groups, &key)?.map(|value| Group::open(&key, &value)).transpose();
            match kept {
                Ok(Some(kept)) if kept == log.group => {}
                Ok(_) => {
                    self.problem(
                        Some(number),
                        format!("group {conversation} is not what its events make of it"),
                    );
                }
                Err(error) => self.problem(Some(number), error.to_string()),
            }
        }
        self.changes(number, store, conversation, &log.amended)?;
        self.marks(number, store, conversation, log)
    }

    /// What is kept of changed messages must be their last changes.
    pub(super) fn changes(
        &mut self,
        number: u16,
        store: &impl Store,
        conversation: ConversationId,
        amended: &BTreeMap<Seq, Seq>,
    ) -> Result<(), StoreError> {
        for (&seq, &by) in amended {
            self.amended += 1;
            let key = layout::message_key(conversation, seq);
            let kept = store.get(Table::Amended, &key)?.map(|value| open_amended(&key, &value)).transpose();
            match kept {
                Ok(kept) if kept == Some(by) => {}
                Ok(_) => self.problem(
                    Some(number),
                    format!("message {seq} of {conversation} was changed by {by}, which is not known of it"),
                ),
                Err(error) => self.problem(Some(number), error.to_string()),
            }
        }
        Ok(())
    }

    /// Only who is in a conversation has a mark in it, and none is beyond its end.
    fn marks(
        &mut self,
        number: u16,
        store: &impl Store,
        conversation: ConversationId,
        log: &Log,
    ) -> Result<(), StoreError> {
        let is_in = |user: UserId| match conversation.users() {
            Some((low, high)) => user == low || user == high,
            None => log.group.member(user).is_some(),
        };
        let (from, to) = receipt_keys(conversation);
        let mut ordinals = Vec::new();
        store.scan(Table::Receipts, &from, &to, &mut |key, value| {
            self.receipts += 1;
            let user = layout::key_number(Table::Receipts, key).map(UserId);
            match user.and_then(|user| Ok((user, open_mark(key, &value)?))) {
                Ok((user, mark)) if is_in(user) && mark.delivered <= log.last => {
                    if let Some(ordinal) = mark.ordinal {
                        self.marks[slice_of(user)].add_mark(user, conversation, mark.read);
                        ordinals.push((user, mark.read, ordinal));
                    }
                }
                Ok((user, mark)) => {
                    let (last, delivered) = (log.last, mark.delivered);
                    let what = format!(
                        "user {user} has got {conversation} up to {delivered}, and either is not in it or it ends at {last}"
                    );
                    self.problem(Some(number), what);
                }
                Err(error) => self.problem(Some(number), error.to_string()),
            }
            Visit::More
        })?;
        for (user, read, says) in ordinals {
            if read < log.floor.last_gone() {
                // Nobody knows any more.
                continue;
            }
            let key = layout::message_key(conversation, read);
            let mut message = store.get(Table::Messages, &key)?.map(|sealed| entry_in(&sealed));
            // What came when a block had ended counts as read, though the user has not seen it.
            for sender in conversation.users().into_iter().flat_map(|(low, high)| [low, high]) {
                if message.is_none() {
                    message = self.hidden_entry(store, conversation, sender, read)?;
                }
            }
            let mut ordinal =
                message.as_ref().and_then(|bytes| MessageEntry::decode(bytes)).map(|it| it.ordinal());
            if read == log.floor.last_gone() {
                ordinal = Some(log.floor.ordinal);
            }
            if ordinal != Some(says) {
                let what =
                    format!("user {user} has read {conversation} up to {read}, which is not number {says}");
                self.problem(Some(number), what);
            }
        }
        Ok(())
    }

    /// No records without what they are about.
    pub(super) fn beside_the_logs(&mut self, number: u16, store: &impl Store) -> Result<(), StoreError> {
        for (table, key_bytes, known) in [
            (Table::Groups, 16, std::mem::take(&mut self.groups)),
            (Table::Amended, 24, std::mem::take(&mut self.amended)),
            (Table::Receipts, 24, std::mem::take(&mut self.receipts)),
        ] {
            let mut count = 0u64;
            in_bites(store, table, key_bytes, |_, _| {
                count += 1;
                Ok(())
            })?;
            if count != known {
                let name = table.name();
                self.problem(Some(number), format!("{name} has {count} records, the messages make {known}"));
            }
        }
        Ok(())
    }

    fn has_dedupe(
        &mut self,
        number: u16,
        store: &impl Store,
        entry: &MessageEntry<'_>,
    ) -> Result<(), StoreError> {
        let key = dedupe_key(entry);
        let known = match store.get(Table::Dedupe, &key)? {
            Some(value) => Known::open(&key, &value).ok(),
            None => None,
        };
        if known != Some(Known { message_id: entry.message_id, seq: entry.seq }) {
            let (seq, at) = (entry.seq, entry.conversation);
            self.problem(Some(number), format!("message {seq} of {at} is not known by its client id"));
        }
        Ok(())
    }

    pub(super) fn dedupe(
        &mut self,
        number: u16,
        store: &impl Store,
        messages: u64,
        expired: u64,
    ) -> Result<(), StoreError> {
        let (mut count, mut damaged) = (0u64, 0u64);
        in_bites(store, Table::Dedupe, 16, |key, value| {
            count += 1;
            damaged += u64::from(Known::open(key, value).is_err());
            Ok(())
        })?;
        if damaged > 0 {
            self.problem(Some(number), format!("{damaged} dedupe records are damaged"));
        }
        // Of what is gone those may be there that somebody might still send again.
        if !(messages..=messages + expired).contains(&count) {
            self.problem(Some(number), format!("there are {messages} messages, but {count} dedupe records"));
        }
        Ok(())
    }
}

/// A conversation, as far as its log has been read.
#[derive(Debug, Default)]
pub(super) struct Log {
    conversation: Option<ConversationId>,
    last: Seq,
    last_id: MessageId,
    /// Messages up to here.
    ordinal: u64,
    /// Nobody's, if it is a direct one.
    group: Group,
    /// Where it begins, and how many events before it are still there.
    floor: Floor,
    left: u64,
    /// Message → its last change.
    amended: BTreeMap<Seq, Seq>,
    /// Events that only their senders see, as far as they are still to come.
    hidden: BTreeMap<Seq, (UserId, Bytes)>,
    /// What they make of the record of blocks.
    blocks: Option<Blocks>,
    /// (sender, message) → the last change of it that only the sender sees.
    own_changes: BTreeMap<(UserId, Seq), Seq>,
}

/// What the messages of a database add up to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// How many there are.
    pub(super) count: u64,
    /// How many there were, that are gone.
    pub(super) expired: u64,
    /// The newest id.
    pub(super) newest: MessageId,
}

impl Log {
    /// The next event is this one. What is before the floor need not be there, and is counted by it.
    fn reach(&mut self, seq: Seq) {
        if seq < self.floor.seq {
            self.left += 1;
        } else if self.last < self.floor.last_gone() {
            (self.last, self.ordinal) = (self.floor.last_gone(), self.floor.ordinal);
        }
    }

    /// Events that are gone.
    fn expired(&self) -> u64 {
        self.floor.last_gone().0.saturating_sub(self.left)
    }

    /// Who gets this event, the next one; or what is wrong with it. `only`: who alone sees it.
    fn recipients(&mut self, entry: &MessageEntry<'_>, only: Option<UserId>) -> Result<Users, &'static str> {
        let body = chat::Body::decode(entry.body).ok().and_then(|body| body.kind);
        if let Some(
            body::Kind::Edited(chat::Edited { seq, .. }) | body::Kind::Deleted(chat::Deleted { seq }),
        ) = body
        {
            if seq >= entry.seq.0 {
                return Err("changes a message that comes after it");
            }
            match only {
                Some(sender) => self.own_changes.insert((sender, Seq(seq)), entry.seq),
                None => self.amended.insert(Seq(seq), entry.seq),
            };
        }
        if let Some(sender) = only {
            return Ok(Users::from_slice(&[sender]));
        }
        if let Some((low, high)) = entry.conversation.users() {
            return Ok(Users::from_slice(&[low, high]));
        }
        let kind = body.ok_or("has no body")?;
        if matches!(kind, body::Kind::GroupCreated(_)) == self.group.exists() {
            return Err("is not where a group begins");
        }
        if self.group.exists() && self.group.member(entry.sender).is_none() {
            return Err("is by somebody who was not in the group");
        }
        let gone = self.group.apply(entry.seq, entry.sender, &kind);
        Ok(self.group.members().iter().map(|member| member.user).chain(gone).collect())
    }
}

fn has_floor(store: &impl Store, conversation: ConversationId) -> Result<bool, StoreError> {
    Ok(store.get(Table::Floors, &floor_key(conversation))?.is_some())
}
