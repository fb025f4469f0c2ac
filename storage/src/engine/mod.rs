//! The seam under a worker: an ordered map per table, written in batches that are durable when they return.
//!
//! Two implementations, one contract (`contract.rs` runs on both):
//! - [`fjall`]: the embedded engine, on disk;
//! - [`memory`]: the same in memory, with faults, for tests and the simulation.
//!
//! The one invariant: **when [`Store::commit`] says `Ok`, every write of the batch survives a crash; when it says
//! anything else, none of them is visible.** After an error the batch may still turn up when the store is opened again
//! (its bytes were on their way), so whoever got the error must not assume that it is gone.

use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::planted;

#[cfg(test)]
mod contract;
pub mod fjall;
pub mod memory;

/// False only in the build that tests must catch: it says "durable" before fsync has run.
pub(crate) fn syncs_before_ack() -> bool {
    !cfg!(feature = "planted-ack-before-fsync") && !planted::ACKS_BEFORE_FSYNC.is_planted()
}

/// A table of the store; what its keys and values are stands in `crate::layout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// (conversation, seq) → entry.
    Messages,
    /// (fingerprint of conversation, sender, device and client id) → (message id, seq).
    Dedupe,
    /// (user, rev) → which messages, and how far the user has read.
    Inbox,
    /// (target database, slot) → which messages for which users.
    FanOut,
    /// (user, device) → the last `rev` that the device has confirmed.
    Cursors,
    /// What the database knows about itself.
    State,
    /// conversation → who is in the group, at the conversation's head.
    Groups,
    /// (conversation, seq of a message) → (seq of its last edit or deletion).
    Amended,
    /// (conversation, user) → (seq of the last message that the user has read).
    Receipts,
    /// (conversation, seq) → entry; of conversations of other databases.
    Copies,
    /// (user, conversation) → the conversation as it is for the user, at the user's checkpoint.
    Conversations,
    /// user → when the user was there last.
    Seen,
    /// user, and another one → what they are to each other; see `crate::people`.
    People,
    /// conversation → who of the two blocks the other; see `crate::blocks`.
    Blocks,
    /// (conversation, sender, seq) → an entry that only its sender sees.
    Hidden,
    /// conversation → the first event that is there; see `crate::floor`.
    Floors,
}

impl Table {
    /// All tables, in the order of their numbers.
    pub const ALL: [Self; 16] = [
        Self::Messages,
        Self::Dedupe,
        Self::Inbox,
        Self::FanOut,
        Self::Cursors,
        Self::State,
        Self::Groups,
        Self::Amended,
        Self::Receipts,
        Self::Copies,
        Self::Conversations,
        Self::Seen,
        Self::People,
        Self::Blocks,
        Self::Hidden,
        Self::Floors,
    ];

    /// Its name on disk.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Dedupe => "dedupe",
            Self::Inbox => "inbox",
            Self::FanOut => "fan-out",
            Self::Cursors => "cursors",
            Self::State => "state",
            Self::Groups => "groups",
            Self::Amended => "amended",
            Self::Receipts => "receipts",
            Self::Copies => "copies",
            Self::Conversations => "conversations",
            Self::Seen => "seen",
            Self::People => "people",
            Self::Blocks => "blocks",
            Self::Hidden => "hidden",
            Self::Floors => "floors",
        }
    }
}

/// A key; but for those of `hidden` none of ours is longer than 24 bytes, so none needs the heap.
pub type Key = SmallVec<[u8; 24]>;

/// One change of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// In which table.
    pub table: Table,
    /// Which key.
    pub key: Key,
    /// Its new value; `None` removes it.
    pub value: Option<Bytes>,
}

/// Changes that become durable together or not at all. Of two changes of one key the later counts.
#[derive(Debug, Default)]
pub struct Batch {
    writes: Vec<Write>,
}

impl Batch {
    /// Sets a value.
    pub fn put(&mut self, table: Table, key: Key, value: Bytes) {
        self.writes.push(Write { table, key, value: Some(value) });
    }

    /// Removes a key.
    pub fn remove(&mut self, table: Table, key: Key) {
        self.writes.push(Write { table, key, value: None });
    }

    /// The changes, oldest first.
    #[must_use]
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// Forgets all changes.
    pub fn clear(&mut self) {
        self.writes.clear();
    }

    /// True when nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

/// Goes on with a scan, or ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visit {
    /// The next one, please.
    More,
    /// Enough.
    Enough,
}

/// Why a store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full; nothing of the batch is visible. [`Store::recover`] tells when writes are taken again.
    #[error(
        "the disk is full: {free_bytes} bytes are free and {reserve_bytes} are kept in reserve; free some space"
    )]
    Full {
        /// Free bytes, as the file system says.
        free_bytes: u64,
        /// Free bytes that are kept in reserve.
        reserve_bytes: u64,
    },
    /// The engine's own work in the background has failed; nothing of the batch is visible. [`Store::recover`] opens the
    /// database again.
    #[error(
        "the database's work in the background has failed, as it does on a full disk; it is opened again, and what was promised is in its journal"
    )]
    Stopped,
    /// A write or its fsync failed. What is on disk is not known any more, so this store takes no more writes: the
    /// process must be started again (a second fsync may succeed without having written anything).
    #[error("{doing} failed, no more writes are taken until the process is started again: {cause}")]
    Failed {
        /// What was tried.
        doing: &'static str,
        /// What the engine said.
        cause: String,
    },
    /// Something could not be read.
    #[error("reading {table} failed: {cause}")]
    Read {
        /// From which table.
        table: &'static str,
        /// What the engine said.
        cause: String,
    },
    /// What was read is not what was written.
    #[error("{table} is damaged at key {key}: {what}")]
    Corrupt {
        /// In which table.
        table: &'static str,
        /// The key, in hex.
        key: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A database's journal is damaged before its end.
    #[error(
        "the journal {path} is damaged at byte {position} and intact batches follow; restore the database from a backup"
    )]
    Journal {
        /// The journal's file.
        path: std::path::PathBuf,
        /// Where the damage begins.
        position: u64,
    },
    /// The engine could not be opened.
    #[error("opening {path}: {cause}")]
    Open {
        /// The database's directory.
        path: std::path::PathBuf,
        /// What the engine said.
        cause: String,
    },
    /// Two databases contradict each other.
    #[error("{what}; the databases are not of the same moment: restore all of them from one backup")]
    Inconsistent {
        /// How.
        what: String,
    },
    /// The simulated machine has stopped in the middle of a batch; only the memory engine says this.
    #[error("the simulated machine stopped in the middle of a batch")]
    Crashed,
}

/// An ordered map per table.
pub trait Store {
    /// The value of a key.
    ///
    /// # Errors
    /// When it cannot be read.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Visits the keys `from..=to` in their order.
    ///
    /// # Errors
    /// When one cannot be read.
    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), StoreError>;

    /// Visits the keys `from..=to` from the last one back.
    ///
    /// # Errors
    /// When one cannot be read.
    fn scan_back(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), StoreError>;

    /// The last key of `from..=to`.
    ///
    /// # Errors
    /// When it cannot be read.
    fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<(Key, Bytes)>, StoreError>;

    /// Writes a batch; durable when this returns `Ok`, and then it says how long that took.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Stopped`], or [`StoreError::Failed`] from then on for ever. Nothing of the
    /// batch is visible then.
    fn commit(&mut self, batch: &Batch) -> Result<Duration, StoreError>;

    /// After [`StoreError::Full`] or [`StoreError::Stopped`]: tries to take writes again. A batch that was refused may
    /// turn up now.
    ///
    /// # Errors
    /// As `commit`.
    fn recover(&mut self) -> Result<(), StoreError>;

    /// Bytes of memory in write buffers and caches.
    fn memory_bytes(&self) -> u64;
}
