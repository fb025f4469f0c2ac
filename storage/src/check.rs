//! Looks at a store that nobody has open: is everything there that was promised?
//!
//! Every value is read once and its checksum compared; `seq` and `rev` must be dense; each message must have its dedupe
//! record; each inbox must be in the order of its conversations; intents must be applied, or wait in a log without
//! holes. That *each* message is in *each* member's inbox *exactly once* is compared by sums: both sides add a 128-bit
//! hash of (user, conversation, seq, bytes) per entry, per slice of users, so that a database of any size is checked in
//! the memory of one user's conversations. In the same way the last mark of each user in each conversation must be the
//! one that the user's inbox tells of, and the list of the user's conversations what the inbox makes of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_protocol::id::{ConversationId, Seq, UserId};
use holdfast_router::{Assignment, Key as RouteKey, SLICES, SliceId};
use xxhash_rust::xxh3::xxh3_128;

use crate::directory::{Directory, Missing};
use crate::engine::fjall::{Config, Fjall, TableSize};
use crate::engine::{Store, StoreError, Table, Visit};
use crate::entry::MessageEntry;
use crate::error::StorageError;
use crate::inbox::Facts;
use crate::layout::{self, Intended, Intent};

mod blocks;
mod conversations;
mod floors;
mod inboxes;
mod logs;
#[cfg(test)]
mod tests;

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
    /// Events that were removed because they were old enough.
    pub expired: u64,
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
        self.add_hash(user, entry.conversation, entry.seq, crc32c::crc32c(bytes));
    }

    fn add_mark(&mut self, user: UserId, conversation: ConversationId, read: Seq) {
        self.add_hash(user, conversation, read, 0);
    }

    fn add_block(&mut self, by: UserId, conversation: ConversationId) {
        self.add_hash(by, conversation, Seq(0), 1);
    }

    fn add_hash(&mut self, user: UserId, conversation: ConversationId, seq: Seq, bytes: u32) {
        let mut key = [0; 36];
        key[..8].copy_from_slice(&user.0.to_le_bytes());
        key[8..24].copy_from_slice(&conversation.0.to_le_bytes());
        key[24..32].copy_from_slice(&seq.0.to_le_bytes());
        key[32..].copy_from_slice(&bytes.to_le_bytes());
        self.count += 1;
        self.hash = self.hash.wrapping_add(xxh3_128(&key));
    }
}

/// A position of a log, and its intents; with their messages, if they are about some.
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
    /// Records that lists of conversations must have, of the database that is being read.
    listings: u64,
    /// Databases to which intents go that raise floors there.
    floors_wait: Vec<bool>,
    /// What the messages say that the inboxes must hold, per slice of users.
    promised: Vec<Sum>,
    /// What the inboxes hold, and what waits in the logs for them.
    kept: Vec<Sum>,
    /// What the marks say that the inboxes must tell last, per slice of users, and what they tell.
    marks: Vec<Sum>,
    marks_told: Vec<Sum>,
    /// Slices of users for whom marks, or the ends of marks, wait in logs.
    marks_wait: Vec<bool>,
    /// Who blocks whom, as the users, the conversations and the blocked have it, and whether intents wait that say more.
    blocks: Sum,
    blocks_in_conversations: Sum,
    blocked_by: Sum,
    blocks_wait: bool,
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
            listings: 0,
            floors_wait: vec![false; usize::from(databases)],
            promised: vec![Sum::default(); usize::from(SLICES)],
            kept: vec![Sum::default(); usize::from(SLICES)],
            marks: vec![Sum::default(); usize::from(SLICES)],
            marks_told: vec![Sum::default(); usize::from(SLICES)],
            marks_wait: vec![false; usize::from(SLICES)],
            blocks: Sum::default(),
            blocks_in_conversations: Sum::default(),
            blocked_by: Sum::default(),
            blocks_wait: false,
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
        let messages = self.messages(number, store)?;
        self.copies(number, store)?;
        self.beside_the_logs(number, store)?;
        self.dedupe(number, store, messages.count, messages.expired)?;
        self.inboxes(number, store)?;
        self.cursors(number, store)?;
        self.seen(number, store)?;
        self.people(number, store)?;
        self.hidden_copies(number, store)?;
        self.floors(number, store)?;
        self.state(number, store, messages.newest)?;
        self.fan_out(number, store)
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
                for (Intent { what, users }, bytes) in intents {
                    self.report.waiting_intents += users.len() as u64;
                    match what {
                        Intended::Message { .. } => {}
                        Intended::Floor { .. } => {
                            if let Some(waits) = self.floors_wait.get_mut(usize::from(target)) {
                                *waits = true;
                            }
                            continue;
                        }
                        Intended::Delivered { .. } => continue,
                        Intended::Blocks { .. } | Intended::BlockedBy { .. } => {
                            self.blocks_wait = true;
                            continue;
                        }
                        Intended::Read(_) => {
                            for user in users {
                                self.marks_wait[slice_of(user)] = true;
                            }
                            continue;
                        }
                    }
                    if let Some(entry) = MessageEntry::decode(&bytes) {
                        let facts = Facts::of(&entry);
                        for user in users {
                            self.kept[slice_of(user)].add(user, &entry, &bytes);
                            // Whoever goes leaves no mark, and the inbox that does not know yet still tells of it.
                            self.marks_wait[slice_of(user)] |= facts.is_last_of(user);
                        }
                    }
                }
            }
        }
        for slice in SliceId::all() {
            let (promised, kept) = (self.promised[usize::from(slice.0)], self.kept[usize::from(slice.0)]);
            let database = self.assignment.owner(slice).0;
            let floors_wait = self.floors_wait.get(usize::from(database)).is_some_and(|&waits| waits);
            if promised != kept && !floors_wait {
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
        let (blocks, known) = (self.blocks, [self.blocks_in_conversations, self.blocked_by]);
        if !self.blocks_wait && known != [blocks; 2] {
            let counts = known.map(|sum| sum.count);
            let what = format!(
                "users block {} others, but {} such blocks are known to conversations and {} to the blocked",
                blocks.count, counts[0], counts[1]
            );
            self.problem(None, what);
        }
        for slice in SliceId::all() {
            let at = usize::from(slice.0);
            let (marks, told) = (self.marks[at], self.marks_told[at]);
            if marks != told && !self.marks_wait[at] {
                let database = self.assignment.owner(slice).0;
                let what = format!(
                    "the inboxes of slice {} tell of {} read marks last, and there are {}{}",
                    slice.0,
                    told.count,
                    marks.count,
                    if told.count == marks.count { ", but not the same" } else { "" },
                );
                self.problem(Some(database), what);
            }
        }
        self.report
    }
}

fn slice_of(user: UserId) -> usize {
    usize::from(RouteKey::User(user).slice().0)
}

/// The entry in a message's value; whether that is intact is looked at where it stands.
fn entry_in(sealed: &Bytes) -> Bytes {
    sealed.slice(layout::ENVELOPE_BYTES.min(sealed.len())..)
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

fn split_message_key(key: &[u8]) -> Option<(ConversationId, Seq)> {
    let (conversation, seq) = key.split_first_chunk::<16>()?;
    let seq = <[u8; 8]>::try_from(seq).ok()?;
    Some((ConversationId(u128::from_be_bytes(*conversation)), Seq(u64::from_be_bytes(seq))))
}

fn split_pair(key: &[u8]) -> Option<(u64, u64)> {
    let (one, two) = key.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*one), u64::from_be_bytes(<[u8; 8]>::try_from(two).ok()?)))
}
