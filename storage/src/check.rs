//! Looks at a store that nobody has open: is everything there that was promised?
//!
//! Every value is read once and its checksum compared; `seq` and `rev` must be dense; each message must have its dedupe
//! record; each inbox must be in the order of its conversations; intents must be applied, or wait in a log without
//! holes. That *each* message is in *each* member's inbox *exactly once* is compared by sums: both sides add a 128-bit
//! hash of (user, conversation, seq, bytes) per entry, per slice of users, so that a database of any size is checked in
//! the memory of one user's conversations.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use holdfast_protocol::chat::{self, body};
use holdfast_protocol::id::{ConversationId, DeviceId, MessageId, Rev, Seq, UserId};
use holdfast_router::{Assignment, Key as RouteKey, SLICES, SliceId};
use prost::Message as _;
use xxhash_rust::xxh3::xxh3_128;

use crate::command::Users;
use crate::directory::{Directory, Missing};
use crate::engine::fjall::{Config, Fjall, TableSize};
use crate::engine::{Store, StoreError, Table, Visit};
use crate::entry::MessageEntry;
use crate::error::StorageError;
use crate::group::Group;
use crate::layout::{self, Intent, Known, RING};
use crate::worker::{open_amended, open_receipt, receipt_keys};

/// Problems that are kept in full; more are counted.
const MOST_PROBLEMS: usize = 100;
/// Memory for reading: nobody else needs it then.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// In which database, if it is in one.
    pub database: Option<u16>,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.database {
            Some(database) => write!(f, "db-{database:02}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Databases that were read.
    pub databases: u16,
    /// Messages.
    pub messages: u64,
    /// Conversations with messages.
    pub conversations: u64,
    /// Entries of inboxes.
    pub entries: u64,
    /// Users with entries.
    pub users: u64,
    /// Device cursors.
    pub cursors: u64,
    /// Intents that are recorded and not applied yet: they are when the store is started.
    pub waiting_intents: u64,
    /// The first problems.
    pub problems: Vec<Problem>,
    /// How many problems there are.
    pub problem_count: u64,
}

impl Report {
    /// True when everything is as it must be.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.problem_count == 0
    }
}

/// Reads a whole store and says what is wrong with it.
///
/// # Errors
/// When it cannot be opened: not there, in use, or not readable at all.
pub fn check(directory: &Path) -> Result<Report, StorageError> {
    let directory = Directory::open(directory, Missing::Refuse)?;
    let mut checker = Checker::new(Arc::new(directory.assignment().clone()), directory.databases());
    for number in 0..directory.databases() {
        let failed =
            |source| StorageError::Database { database: number, path: directory.path().into(), source };
        let store = open(&directory, number).map_err(failed)?;
        checker.database(number, &store).map_err(failed)?;
    }
    Ok(checker.report())
}

/// What a database holds, roughly and quickly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseSize {
    /// Which.
    pub database: u16,
    /// Its tables, in the order of [`Table::ALL`].
    pub tables: Vec<TableSize>,
    /// Its journals.
    pub journal_bytes: u64,
}

/// How large a store is, without reading it.
///
/// # Errors
/// When it cannot be opened: not there, in use, or not readable at all.
pub fn stats(directory: &Path) -> Result<Vec<DatabaseSize>, StorageError> {
    let directory = Directory::open(directory, Missing::Refuse)?;
    let mut sizes = Vec::new();
    for database in 0..directory.databases() {
        let failed = |source| StorageError::Database { database, path: directory.path().into(), source };
        let store = open(&directory, database).map_err(failed)?;
        let (tables, journal_bytes) = store.sizes().map_err(failed)?;
        sizes.push(DatabaseSize { database, tables, journal_bytes });
    }
    Ok(sizes)
}

fn open(directory: &Directory, database: u16) -> Result<Fjall, StoreError> {
    Fjall::open(Config { path: directory.database(database), cache_bytes: CACHE_BYTES, reserve_bytes: 0 })
}

/// Order-independent sum of what is in the inboxes of one slice's users.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    count: u64,
    hash: u128,
}

impl Sum {
    fn add(&mut self, user: UserId, entry: &MessageEntry<'_>, bytes: &[u8]) {
        let mut key = [0; 36];
        key[..8].copy_from_slice(&user.0.to_le_bytes());
        key[8..24].copy_from_slice(&entry.conversation.0.to_le_bytes());
        key[24..32].copy_from_slice(&entry.seq.0.to_le_bytes());
        key[32..].copy_from_slice(&crc32c::crc32c(bytes).to_le_bytes());
        self.count += 1;
        self.hash = self.hash.wrapping_add(xxh3_128(&key));
    }
}

/// A position of a log, and its intents with their messages.
type Position = (u64, Vec<(Intent, Bytes)>);

/// Checks the databases of one store, one after the other, on whatever engine.
#[derive(Debug)]
pub struct Checker {
    assignment: Arc<Assignment>,
    databases: u16,
    report: Report,
    /// Groups, changed messages, and read marks, of the database that is being read.
    groups: u64,
    amended: u64,
    receipts: u64,
    /// What the messages say that the inboxes must hold, per slice of users.
    promised: Vec<Sum>,
    /// What the inboxes hold, and what waits in the logs for them.
    kept: Vec<Sum>,
    /// (source, target) → what the target has applied.
    applied: BTreeMap<(u16, u16), u64>,
    /// (source, target) → the source's log, positions ascending; the messages as they will be in the inbox.
    logs: BTreeMap<(u16, u16), Vec<Position>>,
}

impl Checker {
    /// A check of a store with so many databases.
    #[must_use]
    pub fn new(assignment: Arc<Assignment>, databases: u16) -> Self {
        Self {
            assignment,
            databases,
            report: Report { databases, ..Report::default() },
            groups: 0,
            amended: 0,
            receipts: 0,
            promised: vec![Sum::default(); usize::from(SLICES)],
            kept: vec![Sum::default(); usize::from(SLICES)],
            applied: BTreeMap::new(),
            logs: BTreeMap::new(),
        }
    }

    fn problem(&mut self, database: Option<u16>, what: String) {
        self.report.problem_count += 1;
        if self.report.problems.len() < MOST_PROBLEMS {
            self.report.problems.push(Problem { database, what });
        }
    }

    /// Reads one database.
    ///
    /// # Errors
    /// When it cannot be read at all; what can be read and is wrong becomes a problem.
    pub fn database(&mut self, number: u16, store: &impl Store) -> Result<(), StoreError> {
        let (messages, newest) = self.messages(number, store)?;
        self.beside_the_logs(number, store)?;
        self.dedupe(number, store, messages)?;
        self.inboxes(number, store)?;
        self.cursors(number, store)?;
        self.state(number, store, newest)?;
        self.fan_out(number, store)
    }

    fn messages(&mut self, number: u16, store: &impl Store) -> Result<(u64, MessageId), StoreError> {
        let mut log = Log::default();
        let mut newest = MessageId(0);
        let mut count = 0;
        in_bites(store, Table::Messages, 24, |key, value| {
            count += 1;
            let Some((at, seq)) = split_message_key(key) else {
                self.problem(Some(number), format!("messages has a key of {} bytes", key.len()));
                return Ok(());
            };
            if log.conversation != Some(at) {
                let before = std::mem::replace(&mut log, Log { conversation: Some(at), ..Log::default() });
                self.end_of_log(number, store, &before)?;
                self.report.conversations += 1;
                if self.assignment.owner(RouteKey::Conversation(at).slice()).0 != number {
                    self.problem(Some(number), format!("conversation {at} belongs into another database"));
                }
            }
            if seq != log.last.next() {
                let last = log.last;
                self.problem(Some(number), format!("conversation {at} has seq {seq} after {last}"));
            }
            log.last = seq;
            self.report.messages += 1;
            let bytes = match layout::open(Table::Messages, key, value) {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.problem(Some(number), error.to_string());
                    return Ok(());
                }
            };
            let Some(entry) = MessageEntry::decode(&bytes) else {
                self.problem(Some(number), format!("message {seq} of {at} is no entry"));
                return Ok(());
            };
            if (entry.conversation, entry.seq) != (at, seq) {
                let (says, which) = (entry.conversation, entry.seq);
                self.problem(
                    Some(number),
                    format!("message {seq} of {at} says that it is {which} of {says}"),
                );
            }
            if entry.message_id <= log.last_id {
                self.problem(
                    Some(number),
                    format!("message {seq} of {at} has an id not above the one before"),
                );
            }
            log.last_id = entry.message_id;
            newest = newest.max(log.last_id);
            match log.recipients(&entry) {
                Ok(users) => {
                    for user in users {
                        let slice = RouteKey::User(user).slice();
                        self.promised[usize::from(slice.0)].add(user, &entry, &bytes);
                    }
                }
                Err(what) => self.problem(Some(number), format!("message {seq} of {at} {what}")),
            }
            self.has_dedupe(number, store, &entry)
        })?;
        self.end_of_log(number, store, &log)?;
        Ok((count, newest))
    }

    /// What is kept beside a conversation's log must be what the log says.
    fn end_of_log(&mut self, number: u16, store: &impl Store, log: &Log) -> Result<(), StoreError> {
        let Some(conversation) = log.conversation else { return Ok(()) };
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
        for (&seq, &by) in &log.amended {
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
        self.marks(number, store, conversation, log)
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
        store.scan(Table::Receipts, &from, &to, &mut |key, value| {
            self.receipts += 1;
            let user = layout::key_number(Table::Receipts, key).map(UserId);
            match user.and_then(|user| Ok((user, open_receipt(key, &value)?))) {
                Ok((user, read)) if is_in(user) && read <= log.last => {}
                Ok((user, read)) => {
                    let last = log.last;
                    let what = format!(
                        "user {user} has read {conversation} up to {read}, and either is not in it or it ends at {last}"
                    );
                    self.problem(Some(number), what);
                }
                Err(error) => self.problem(Some(number), error.to_string()),
            }
            Visit::More
        })
    }

    /// No records without what they are about.
    fn beside_the_logs(&mut self, number: u16, store: &impl Store) -> Result<(), StoreError> {
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
        let device = DeviceId::from_name(&String::from_utf8_lossy(entry.device));
        let fingerprint = layout::fingerprint(entry.conversation, entry.sender, device, entry.client_id);
        let key = layout::dedupe_key(&fingerprint);
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

    fn dedupe(&mut self, number: u16, store: &impl Store, messages: u64) -> Result<(), StoreError> {
        let (mut count, mut damaged) = (0u64, 0u64);
        in_bites(store, Table::Dedupe, 16, |key, value| {
            count += 1;
            damaged += u64::from(Known::open(key, value).is_err());
            Ok(())
        })?;
        if damaged > 0 {
            self.problem(Some(number), format!("{damaged} dedupe records are damaged"));
        }
        if count != messages {
            self.problem(Some(number), format!("there are {messages} messages, but {count} dedupe records"));
        }
        Ok(())
    }

    fn inboxes(&mut self, number: u16, store: &impl Store) -> Result<(), StoreError> {
        let mut user = UserId(0);
        let mut last = Rev(0);
        let mut seqs: HashMap<ConversationId, Seq> = HashMap::new();
        in_bites(store, Table::Inbox, 16, |key, value| {
            let Some((at, rev)) = split_pair(key) else {
                self.problem(Some(number), format!("inbox has a key of {} bytes", key.len()));
                return Ok(());
            };
            let (at, rev) = (UserId(at), Rev(rev));
            if at != user {
                user = at;
                last = Rev(0);
                seqs.clear();
                self.report.users += 1;
                if self.assignment.owner(RouteKey::User(at).slice()).0 != number {
                    self.problem(
                        Some(number),
                        format!("the inbox of user {at} belongs into another database"),
                    );
                }
            }
            if rev != last.next() {
                self.problem(Some(number), format!("the inbox of user {at} has rev {rev} after {last}"));
            }
            last = rev;
            self.report.entries += 1;
            let bytes = match layout::open(Table::Inbox, key, value) {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.problem(Some(number), error.to_string());
                    return Ok(());
                }
            };
            let Some(entry) = MessageEntry::decode(&bytes) else {
                self.problem(Some(number), format!("entry {rev} of user {at} is no entry"));
                return Ok(());
            };
            let before = seqs.insert(entry.conversation, entry.seq).unwrap_or_default();
            if entry.seq != before.next() && !(entry.seq > before && begins_for(&entry, at)) {
                let (conversation, seq) = (entry.conversation, entry.seq);
                let what = format!("entry {rev} of user {at} is {seq} of {conversation} after {before}");
                self.problem(Some(number), what);
            }
            let slice = RouteKey::User(at).slice();
            self.kept[usize::from(slice.0)].add(at, &entry, &bytes);
            Ok(())
        })
    }

    fn cursors(&mut self, number: u16, store: &impl Store) -> Result<(), StoreError> {
        in_bites(store, Table::Cursors, 16, |key, value| {
            self.report.cursors += 1;
            match (split_pair(key), layout::open_numbers::<2>(Table::Cursors, key, value)) {
                (Some((user, device)), Ok([rev, _])) => {
                    let (user, device) = (UserId(user), DeviceId(device));
                    let (from, to) =
                        (layout::inbox_key(user, Rev(1)), layout::inbox_key(user, Rev(u64::MAX)));
                    let head = match store.last(Table::Inbox, &from, &to)? {
                        Some((key, _)) => layout::key_number(Table::Inbox, &key)?,
                        None => 0,
                    };
                    if rev > head {
                        let what =
                            format!("device {device} of user {user} has confirmed {rev}, the head is {head}");
                        self.problem(Some(number), what);
                    }
                }
                (_, Err(error)) => self.problem(Some(number), error.to_string()),
                (None, _) => self.problem(Some(number), format!("cursors has a key of {} bytes", key.len())),
            }
            Ok(())
        })
    }

    fn state(&mut self, number: u16, store: &impl Store, newest: MessageId) -> Result<(), StoreError> {
        let key = layout::last_id_key();
        let last = match store.get(Table::State, &key)? {
            Some(value) => layout::open_numbers::<1>(Table::State, &key, &value)?[0],
            None => 0,
        };
        if newest.0 > last {
            self.problem(Some(number), format!("the last id is {last}, but there is a message {newest}"));
        }
        for source in 0..self.databases {
            self.applied.insert((source, number), crate::worker::read_applied(store, source)?);
        }
        Ok(())
    }

    fn fan_out(&mut self, number: u16, store: &impl Store) -> Result<(), StoreError> {
        for target in 0..self.databases {
            let mut log = Vec::new();
            let mut damaged = Vec::new();
            let (from, to) = (layout::fan_out_key(target, 0), layout::fan_out_key(target, RING - 1));
            store.scan(Table::FanOut, &from, &to, &mut |key, value| {
                match layout::open_intents(key, &value) {
                    Ok((position, intents)) => log.push((position, intents)),
                    Err(error) => damaged.push(error),
                }
                Visit::More
            })?;
            for error in damaged {
                self.problem(Some(number), error.to_string());
            }
            log.sort_unstable_by_key(|&(position, _)| position);
            if log.windows(2).any(|pair| pair[0].0 + 1 != pair[1].0) {
                self.problem(Some(number), format!("the log for database {target} has a hole"));
            }
            let mut resolved = Vec::new();
            for (position, intents) in log {
                let mut found = Vec::new();
                for intent in intents {
                    let key = layout::message_key(intent.conversation, intent.seq);
                    match store.get(Table::Messages, &key)? {
                        Some(sealed) => found.push((intent, sealed)),
                        None => {
                            let Intent { conversation, seq, .. } = intent;
                            let what = format!(
                                "an intent names message {seq} of {conversation}, which is not there"
                            );
                            self.problem(Some(number), what);
                        }
                    }
                }
                resolved.push((position, found));
            }
            self.logs.insert((number, target), resolved);
        }
        Ok(())
    }

    /// What was found, once every database has been read.
    #[must_use]
    pub fn report(mut self) -> Report {
        for ((source, target), log) in std::mem::take(&mut self.logs) {
            let applied = self.applied.get(&(source, target)).copied().unwrap_or_default();
            let first = log.first().map_or(1, |&(position, _)| position);
            let head = log.last().map_or(0, |&(position, _)| position);
            if applied > head || applied + 1 < first {
                let what = format!(
                    "database {target} has applied position {applied} of the log of database {source}, which holds {first} to {head}"
                );
                self.problem(None, what);
            }
            for (position, intents) in log {
                if position <= applied {
                    continue;
                }
                for (Intent { users, .. }, sealed) in intents {
                    self.report.waiting_intents += users.len() as u64;
                    let bytes = layout::entry_of(&sealed);
                    if let Some(entry) = MessageEntry::decode(&bytes) {
                        for user in users {
                            self.kept[usize::from(RouteKey::User(user).slice().0)].add(user, &entry, &bytes);
                        }
                    }
                }
            }
        }
        for slice in SliceId::all() {
            let (promised, kept) = (self.promised[usize::from(slice.0)], self.kept[usize::from(slice.0)]);
            if promised != kept {
                let database = self.assignment.owner(slice).0;
                let what = format!(
                    "the inboxes of slice {}: the messages promise {} entries, {} are there or under way{}",
                    slice.0,
                    promised.count,
                    kept.count,
                    if promised.count == kept.count { ", but not the same" } else { "" },
                );
                self.problem(Some(database), what);
            }
        }
        self.report
    }
}

/// Visits a whole table, with nothing of it held open while something is visited.
fn in_bites(
    store: &impl Store,
    table: Table,
    key_bytes: usize,
    mut visit: impl FnMut(&[u8], &Bytes) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    const BITE: usize = 1_000;
    let mut from = vec![0; key_bytes];
    let to = vec![0xff; key_bytes];
    let mut bite: Vec<(Vec<u8>, Bytes)> = Vec::with_capacity(BITE);
    loop {
        bite.clear();
        store.scan(table, &from, &to, &mut |key, value| {
            bite.push((key.to_vec(), value));
            if bite.len() == BITE { Visit::Enough } else { Visit::More }
        })?;
        for (key, value) in &bite {
            visit(key, value)?;
        }
        match bite.last() {
            Some((key, _)) if bite.len() == BITE => {
                // The next key there can be.
                from.clone_from(key);
                from.push(0);
            }
            _ => return Ok(()),
        }
    }
}

/// A conversation, as far as its log has been read.
#[derive(Debug, Default)]
struct Log {
    conversation: Option<ConversationId>,
    last: Seq,
    last_id: MessageId,
    /// Nobody's, if it is a direct one.
    group: Group,
    /// Message → its last change.
    amended: BTreeMap<Seq, Seq>,
}

impl Log {
    /// Who gets this event, the next one; or what is wrong with it.
    fn recipients(&mut self, entry: &MessageEntry<'_>) -> Result<Users, &'static str> {
        let body = chat::Body::decode(entry.body).ok().and_then(|body| body.kind);
        if let Some(
            body::Kind::Edited(chat::Edited { seq, .. }) | body::Kind::Deleted(chat::Deleted { seq }),
        ) = body
        {
            if seq >= entry.seq.0 {
                return Err("changes a message that comes after it");
            }
            self.amended.insert(Seq(seq), entry.seq);
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

/// Whether a user's part of a group's log begins (again) with this event.
fn begins_for(entry: &MessageEntry<'_>, user: UserId) -> bool {
    match chat::Body::decode(entry.body).ok().and_then(|body| body.kind) {
        Some(body::Kind::MembersAdded(added)) => added.users.contains(&user.0),
        _ => false,
    }
}

fn split_message_key(key: &[u8]) -> Option<(ConversationId, Seq)> {
    let (conversation, seq) = key.split_first_chunk::<16>()?;
    let seq = <[u8; 8]>::try_from(seq).ok()?;
    Some((ConversationId(u128::from_be_bytes(*conversation)), Seq(u64::from_be_bytes(seq))))
}

fn split_pair(key: &[u8]) -> Option<(u64, u64)> {
    let (one, two) = key.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*one), u64::from_be_bytes(<[u8; 8]>::try_from(two).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::GroupChange;
    use crate::engine::memory::Memory;
    use crate::engine::{Batch, Key};
    use crate::worker::tests::groups::{self, create, delete, edit, say};
    use crate::worker::tests::receipts::read_in;
    use crate::worker::tests::{House, send};

    /// Three users' conversations, a group of them among these, on two databases, everything applied.
    fn house() -> House {
        let mut house = House::new(2);
        for n in 0..6 {
            house.run(vec![
                send(1, 2, &n.to_string()),
                send(2, 1, &n.to_string()),
                send(1, 3, &n.to_string()),
            ]);
        }
        house.run(vec![create(1, &[2, 3], false), say(2, "a"), edit(2, "e", 2)]);
        house.run(vec![groups::change(1, "out", GroupChange::Remove(UserId(3))), say(1, "b")]);
        house.run(vec![groups::change(1, "in", GroupChange::Add(vec![UserId(3)])), delete(1, "d", 5)]);
        house.run(vec![
            read_in(groups::CREW, 3, 6),
            read_in(ConversationId::direct(UserId(1), UserId(2)), 1, 12),
        ]);
        house
    }

    fn report(house: &House) -> Report {
        let mut checker = Checker::new(Arc::clone(house.assignment()), 2);
        for (number, worker) in (0..).zip(&house.workers) {
            checker.database(number, worker.store()).unwrap();
        }
        checker.report()
    }

    /// Everything in a table, and whose it is.
    fn all(house: &House, table: Table) -> Vec<(usize, Key, Bytes)> {
        let mut found = Vec::new();
        for (number, worker) in house.workers.iter().enumerate() {
            let collect = &mut |key: &[u8], value| {
                found.push((number, Key::from_slice(key), value));
                Visit::More
            };
            worker.store().scan(table, &[], &[0xff; 24], collect).unwrap();
        }
        found
    }

    fn change(house: &mut House, number: usize, write: impl FnOnce(&mut Batch)) {
        let mut batch = Batch::default();
        write(&mut batch);
        let store: &mut Memory = house.workers[number].store_mut();
        store.commit(&batch).unwrap();
    }

    #[test]
    fn a_sound_store_is_sound() {
        let report = report(&house());
        assert!(report.is_sound(), "{:#?}", report.problems);
        assert_eq!((report.messages, report.entries, report.conversations, report.users), (25, 56, 3, 3));
    }

    #[test]
    fn each_record_that_is_gone_is_missed() {
        for table in [Table::Messages, Table::Dedupe, Table::Inbox, Table::Groups, Table::Amended] {
            let count = all(&house(), table).len();
            for at in 0..count {
                let mut house = house();
                let (number, key, _) = all(&house, table).swap_remove(at);
                change(&mut house, number, |batch| batch.remove(table, key));
                assert!(!report(&house).is_sound(), "{} record {at}", table.name());
            }
        }
    }

    #[test]
    fn each_byte_that_has_changed_is_noticed() {
        for table in Table::ALL.into_iter().filter(|&table| table != Table::Cursors && table != Table::State)
        {
            let house_now = house();
            let (_, _, value) = all(&house_now, table).swap_remove(0);
            for at in 0..value.len() {
                let mut house = house();
                let (number, key, value) = all(&house, table).swap_remove(0);
                let mut bytes = value.to_vec();
                bytes[at] ^= 0x10;
                change(&mut house, number, |batch| batch.put(table, key, bytes.into()));
                assert!(!report(&house).is_sound(), "{} byte {at}", table.name());
            }
        }
    }

    #[test]
    fn an_entry_in_place_of_another_is_noticed_though_the_numbers_fit() {
        let mut house = house();
        let inbox = all(&house, Table::Inbox);
        let (number, key, _) = inbox[0].clone();
        // Another message of the same inbox takes its place, whole and with a right checksum.
        let (_, _, other) = inbox[1].clone();
        change(&mut house, number, |batch| batch.put(Table::Inbox, key, other));
        assert!(!report(&house).is_sound());
    }

    #[test]
    fn an_entry_too_many_and_a_cursor_beyond_the_head_are_noticed() {
        let mut house = house();
        let (number, key, value) = all(&house, Table::Inbox).pop().unwrap();
        let (user, rev) = split_pair(&key).unwrap();
        change(&mut house, number, |batch| {
            batch.put(Table::Inbox, layout::inbox_key(UserId(user), Rev(rev + 1)), value);
        });
        assert!(!report(&house).is_sound());
        let mut house = self::house();
        change(&mut house, number, |batch| {
            let cursor = layout::cursor_key(UserId(user), DeviceId(1));
            batch.put(Table::Cursors, cursor, layout::seal_numbers([rev + 1, 0]));
        });
        let report = report(&house);
        assert_eq!(report.problem_count, 1, "{:#?}", report.problems);
        assert!(report.problems[0].to_string().contains("has confirmed"), "{:#?}", report.problems);
    }

    #[test]
    fn a_mark_beyond_the_end_of_somebody_else_or_of_nothing_is_noticed() {
        let pair = ConversationId::direct(UserId(1), UserId(2));
        let nothing = ConversationId::direct(UserId(8), UserId(9));
        for (conversation, user, read) in
            [(pair, 2, 13), (pair, 3, 1), (groups::CREW, 9, 1), (groups::CREW, 1, 8), (nothing, 8, 1)]
        {
            let mut house = house();
            let slice = RouteKey::Conversation(conversation).slice();
            let owner = usize::from(house.assignment().owner(slice).0);
            change(&mut house, owner, |batch| {
                let key = layout::receipt_key(conversation, UserId(user));
                batch.put(Table::Receipts, key, layout::seal_numbers([read]));
            });
            assert!(!report(&house).is_sound(), "{conversation}: {user} has read {read}");
        }
    }

    #[test]
    fn logs_that_contradict_each_other_are_noticed() {
        let applied = house();
        let states: Vec<_> =
            all(&applied, Table::State).into_iter().filter(|(_, key, _)| key.starts_with(b"a")).collect();
        assert!(!states.is_empty(), "something went between the databases");
        for (number, key, value) in states {
            let [position] = layout::open_numbers(Table::State, &key, &value).unwrap();
            // Less: those intents would be applied a second time. More: intents to come would not be applied.
            for wrong in [position - 1, position + 1] {
                let mut house = house();
                let (key, value) = (key.clone(), layout::seal_numbers([wrong]));
                change(&mut house, number, |batch| batch.put(Table::State, key, value));
                assert!(!report(&house).is_sound(), "{wrong} instead of {position}");
            }
        }
        for (number, key, _) in all(&applied, Table::FanOut) {
            let mut house = house();
            let is_last =
                all(&house, Table::FanOut).iter().all(|(at, other, _)| *at != number || *other <= key);
            let is_first =
                all(&house, Table::FanOut).iter().all(|(at, other, _)| *at != number || *other >= key);
            change(&mut house, number, |batch| batch.remove(Table::FanOut, key));
            // The oldest may have been written over.
            assert!(!report(&house).is_sound() || (is_first && !is_last));
        }
    }
}
