//! The embedded engine: one `fjall` database, an LSM tree per table.
//!
//! What `fjall` 3.1 does, as read in its source, because the contracts rest on it:
//! - `WriteBatch::commit` writes the batch to the journal (start, items, end with an xxh3 checksum and a magic), then
//!   with `PersistMode::SyncAll` fsyncs it, and only then makes it visible in the write buffers. Any error on the way
//!   returns before that, so a batch that failed is not visible; it also poisons the database: every later write is
//!   refused.
//! - A thread in the background that fails, poisons it too, and ends: it says why to a log alone. So a commit that finds
//!   it poisoned does not know why; but the journal has all that was ever acknowledged, and opening reads it again.
//! - `PersistMode::Buffer` is only `write(2)`. There is no other fsync on the path of a commit; a background thread
//!   fsyncs the journal once more before it writes a full buffer out as a table file.
//! - Opening reads the journals again. A batch without its end is cut off. A batch whose checksum is wrong makes
//!   opening *fail*, although that is what a torn last write looks like when the disk has reordered pages; and a wrong
//!   tag *anywhere* silently cuts off all that follows. `journal` looks first and tells the two apart.
//! - Opening syncs a journal only when it cuts something off: what a killed process had written and not synced is read,
//!   and is not durable. `journal` makes it so.
//! - A new table is a directory whose entry is never synced. Most file systems keep it all the same, none promises it.
//! - A commit waits (sleeping in steps of 100 ms) when four full buffers of a table wait to be written.
//! - Opening puts all that the journals hold and the tables do not into the write buffers, however much that is, and
//!   queues compactions; buffers are written out only when the next write finds them too full, behind those. A process
//!   that is killed again and again before its background gets there has more to read, and to hold in memory, at each
//!   start (measured: a journal of 490 MB and starts of 15 s after 180 kills under load). So `open` does not hand out
//!   such a database before its buffers are written out.
//!
//! Memory: `cache_bytes` of this database are a quarter block cache and three quarters write buffers, half of them
//! active and half being written out. A commit that finds more of the latter waits until the background has caught up.
//! Values are copied into the tables' buffers although three tables get the same: with the engine's `bytes_1` feature
//! they would be shared, but then every key lies behind a pointer too, and comparing keys is most of the work (measured:
//! 21 us of CPU per message instead of 17).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use fjall::compaction::Leveled;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{Batch, Key, Store, StoreError, Table, Visit, syncs_before_ack};

mod journal;

/// Open table files per database: the process has few descriptors to spare (`ulimit -n`).
const CACHED_FILES: usize = 64;
/// fjall's least: journals above this make it write buffers out early.
const JOURNAL_BYTES: u64 = 128 * 1024 * 1024;
/// With more than one, the first spins for as long as another compacts: it passes each compaction on by putting it back
/// into the queue that it takes it from.
const BACKGROUND_THREADS: usize = 1;
/// How often to ask whether the background has written a buffer out.
const BACKGROUND_POLL: Duration = Duration::from_millis(1);
/// A database whose background fails again before so many commits is not opened once more: its disk is broken.
const COMMITS_BETWEEN_STOPS: u64 = 1_000;
/// How long a commit waits for the background, at most.
const STALL: Duration = Duration::from_secs(2);

/// How a database is opened.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its directory.
    pub path: PathBuf,
    /// Write buffers and block cache.
    pub cache_bytes: u64,
    /// Free disk space below which writes are refused.
    pub reserve_bytes: u64,
}

/// How large a table is, roughly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSize {
    /// Its name.
    pub table: &'static str,
    /// Records; those that were written more than once may count more than once.
    pub records: u64,
    /// Bytes of its files; what is only in the journal yet does not count.
    pub disk_bytes: u64,
}

/// One `fjall` database.
pub struct Fjall {
    config: Config,
    /// `None` only while it is being opened again.
    open: Option<Open>,
    state: State,
    /// Since it was opened.
    commits: u64,
    /// The disk was full, or nearly, since it was opened.
    was_low: bool,
}

struct Open {
    mark: journal::Mark,
    tables: [Keyspace; Table::ALL.len()],
    database: Database,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Takes writes.
    Good,
    /// Too little space is free, but the engine has not noticed.
    Low,
    /// The engine ran into the full disk, or its background has failed; it must be opened again.
    Stopped,
    /// No more writes.
    Failed,
}

impl std::fmt::Debug for Fjall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fjall").field("path", &self.config.path).field("state", &self.state).finish()
    }
}

impl Fjall {
    /// Opens the database, or makes it.
    ///
    /// # Errors
    /// [`StoreError::Open`], or [`StoreError::Journal`] when data that was durable has been damaged.
    pub fn open(config: Config) -> Result<Self, StoreError> {
        let open = Open::new(&config)?;
        Ok(Self { config, open: Some(open), state: State::Good, commits: 0, was_low: false })
    }

    /// How large the tables are, roughly, and the bytes of the journals.
    ///
    /// # Errors
    /// When the engine cannot tell.
    pub fn sizes(&self) -> Result<(Vec<TableSize>, u64), StoreError> {
        let mut sizes = Vec::new();
        for table in Table::ALL {
            let keyspace = self.table(table)?;
            let (records, disk_bytes) = (keyspace.approximate_len() as u64, keyspace.disk_space());
            sizes.push(TableSize { table: table.name(), records, disk_bytes });
        }
        let journals = self.open.as_ref().map_or(Ok(0), |open| open.database.journal_disk_space());
        let read = |error| StoreError::Read { table: "the journals", cause: explain(&error) };
        Ok((sizes, journals.map_err(read)?))
    }

    fn table(&self, table: Table) -> Result<&Keyspace, StoreError> {
        match &self.open {
            Some(open) => Ok(&open.tables[table as usize]),
            None => Err(StoreError::Read { table: table.name(), cause: "the database is closed".to_owned() }),
        }
    }

    fn free_bytes(&self) -> u64 {
        free_bytes(&self.config.path)
    }

    fn full(&self) -> StoreError {
        StoreError::Full { free_bytes: self.free_bytes(), reserve_bytes: self.config.reserve_bytes }
    }

    fn failed(&mut self, error: &fjall::Error) -> StoreError {
        if is_full(error) {
            self.state = State::Stopped;
            return self.full();
        }
        // The background has failed, most likely on a full disk, which may have room again by now. All that was promised
        // is in the journal.
        let is_low = self.free_bytes() < self.config.reserve_bytes.max(1 << 20);
        if matches!(error, fjall::Error::Poisoned)
            && (is_low || self.was_low || self.commits >= COMMITS_BETWEEN_STOPS)
        {
            self.state = State::Stopped;
            return if is_low { self.full() } else { StoreError::Stopped };
        }
        self.state = State::Failed;
        StoreError::Failed { doing: "a durable write", cause: explain(error) }
    }

    /// Holds a commit back while the write buffers exceed their share.
    fn wait_for_background(&self, open: &Open) {
        let most = write_buffer_bytes(&self.config) / 2;
        // Counted in whole buffers: should the engine's own sum of bytes ever drift, every commit would wait.
        let sealed = || {
            let tables = Table::ALL.iter().zip(&open.tables);
            tables
                .map(|(&table, it)| it.sealed_memtable_count() as u64 * buffer_bytes(table, &self.config))
                .sum::<u64>()
        };
        let started = now();
        while sealed() > most && started.elapsed() < STALL {
            // The engine has no event for "a buffer has been written out"; it polls itself.
            std::thread::park_timeout(BACKGROUND_POLL);
        }
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "how long an fsync took is a measurement; no decision depends on it"
)]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

impl Open {
    fn new(config: &Config) -> Result<Self, StoreError> {
        let failed =
            |error: &fjall::Error| StoreError::Open { path: config.path.clone(), cause: explain(error) };
        let sync = || {
            let failed =
                |error: io::Error| StoreError::Open { path: config.path.clone(), cause: error.to_string() };
            sync_directories(&config.path).map_err(failed)
        };
        let mark = journal::Mark::load_or_create(&config.path)
            .map_err(|error| StoreError::Open { path: config.path.clone(), cause: error.to_string() })?;
        journal::settle(&config.path, &mark)?;
        // What a killed process had renamed or removed without syncing is about to be relied upon.
        sync()?;
        let database = Database::builder(&config.path)
            .cache_size(config.cache_bytes / 4)
            .max_cached_files(Some(CACHED_FILES))
            .max_journaling_size(JOURNAL_BYTES)
            .worker_threads(BACKGROUND_THREADS)
            // Nothing is written behind our back: `commit` names the durability of each batch.
            .manual_journal_persist(true)
            .open()
            .map_err(|error| failed(&error))?;
        let mut tables = Vec::with_capacity(Table::ALL.len());
        for table in Table::ALL {
            let keyspace = database.keyspace(table.name(), || keyspace_options(table, config));
            tables.push(keyspace.map_err(|error| failed(&error))?);
        }
        // A new table's own entry is what `fjall` does not sync: without it the table would be gone after a crash, and
        // made again, empty.
        sync()?;
        let tables = tables.try_into().unwrap_or_else(|_| unreachable!("one keyspace per table was opened"));
        let open = Self { mark, tables, database };
        open.write_out_recovered(config).map_err(|error| failed(&error))?;
        Ok(open)
    }

    /// Writes out what the journals have put into the buffers, should it be more than buffers may hold: what was too much
    /// for one life of the process must not be left to the next.
    fn write_out_recovered(&self, config: &Config) -> fjall::Result<()> {
        let recovered_bytes = self.database.write_buffer_size();
        // A full disk is for the commits to tell; until then there is much to read from.
        if recovered_bytes <= write_buffer_bytes(config) / 2
            || free_bytes(&config.path) < config.reserve_bytes
        {
            return Ok(());
        }
        tracing::info!(recovered_bytes, path = %config.path.display(), "writing out what the journals held");
        for table in &self.tables {
            table.rotate_memtable()?;
        }
        while self.tables.iter().any(|table| table.sealed_memtable_count() > 0) {
            // It fails when the background has.
            self.database.persist(PersistMode::Buffer)?;
            std::thread::park_timeout(BACKGROUND_POLL);
        }
        Ok(())
    }
}

/// Syncs a directory and all below it, the lowest first; none is fine.
fn sync_directories(directory: &Path) -> io::Result<()> {
    let listing = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        listing => listing?,
    };
    for entry in listing {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_directories(&entry.path())?;
        }
    }
    File::open(directory)?.sync_all()
}

/// Free bytes on a path's file system. When that cannot be told, there is no reason to refuse anything.
fn free_bytes(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// All write buffers: those that are written to, and those that are being written out.
fn write_buffer_bytes(config: &Config) -> u64 {
    config.cache_bytes / 4 * 3
}

/// When the write buffer of a table is full.
fn buffer_bytes(table: Table, config: &Config) -> u64 {
    let share = match table {
        Table::Messages => 26,
        Table::Copies => 22,
        Table::Inbox => 15,
        Table::Dedupe => 14,
        Table::Cursors => 7,
        Table::FanOut => 4,
        Table::State => 2,
        Table::Receipts => 2,
        Table::Groups
        | Table::Amended
        | Table::Conversations
        | Table::Seen
        | Table::People
        | Table::Blocks
        | Table::Hidden
        | Table::Floors => 1,
    };
    (write_buffer_bytes(config) / 2 / 100 * share).max(64 * 1024)
}

fn keyspace_options(table: Table, config: &Config) -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(buffer_bytes(table, config))
        .manual_journal_persist(true)
        // Twice the default: half as many rewrites of the first level, and the filters keep point reads cheap.
        .compaction_strategy(std::sync::Arc::new(
            Leveled::default().with_l0_threshold(8).with_table_target_size(16 << 20),
        ))
}

impl Store for Fjall {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.table(table)?.get(key).map_err(|error| read_failed(table, &error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), StoreError> {
        for guard in self.table(table)?.range(from..=to) {
            let (key, value) = guard.into_inner().map_err(|error| read_failed(table, &error))?;
            if visit(&key, Bytes::copy_from_slice(&value)) == Visit::Enough {
                break;
            }
        }
        Ok(())
    }

    fn scan_back(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), StoreError> {
        for guard in self.table(table)?.range(from..=to).rev() {
            let (key, value) = guard.into_inner().map_err(|error| read_failed(table, &error))?;
            if visit(&key, Bytes::copy_from_slice(&value)) == Visit::Enough {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<(Key, Bytes)>, StoreError> {
        let Some(guard) = self.table(table)?.range(from..=to).next_back() else { return Ok(None) };
        let (key, value) = guard.into_inner().map_err(|error| read_failed(table, &error))?;
        Ok(Some((Key::from_slice(&key), Bytes::copy_from_slice(&value))))
    }

    fn commit(&mut self, batch: &Batch) -> Result<Duration, StoreError> {
        match self.state {
            State::Good => {}
            State::Low | State::Stopped => return Err(self.full()),
            State::Failed => {
                let cause = "an earlier write has failed".to_owned();
                return Err(StoreError::Failed { doing: "a durable write", cause });
            }
        }
        if batch.is_empty() {
            return Ok(Duration::ZERO);
        }
        if self.free_bytes() < self.config.reserve_bytes {
            self.state = State::Low;
            self.was_low = true;
            return Err(self.full());
        }
        let Some(open) = &self.open else { return Err(self.full()) };
        self.wait_for_background(open);
        let started = now();
        let mode = if syncs_before_ack() { PersistMode::SyncAll } else { PersistMode::Buffer };
        let mut writes =
            fjall::OwnedWriteBatch::with_capacity(open.database.clone(), batch.writes().len() + 1)
                .durability(Some(mode));
        for write in batch.writes() {
            let table = &open.tables[write.table as usize];
            match &write.value {
                Some(value) => writes.insert(table, write.key.as_slice(), value.as_ref()),
                None => writes.remove(table, write.key.as_slice()),
            }
        }
        let (key, value) = open.mark.record();
        writes.insert(&open.tables[Table::State as usize], key, value);
        writes.commit().map_err(|error| self.failed(&error))?;
        self.commits += 1;
        Ok(started.elapsed())
    }

    fn recover(&mut self) -> Result<(), StoreError> {
        match self.state {
            State::Good => return Ok(()),
            State::Failed => {
                let cause = "an earlier write has failed".to_owned();
                return Err(StoreError::Failed { doing: "a durable write", cause });
            }
            State::Low | State::Stopped => {}
        }
        if self.free_bytes() < self.config.reserve_bytes || !can_write(&self.config.path) {
            return Err(self.full());
        }
        // While commits were refused, the background may have run into the full disk.
        let is_poisoned = |open: &Open| open.database.persist(PersistMode::Buffer).is_err();
        if self.state == State::Stopped || self.open.as_ref().is_none_or(is_poisoned) {
            // The engine is poisoned. All that was promised is in its journal: open it again.
            // Should that fail, it is tried again; until then there is nothing to read from.
            self.state = State::Stopped;
            self.open = None;
            match Open::new(&self.config) {
                Ok(open) => {
                    (self.open, self.commits, self.was_low) = (Some(open), 0, false);
                }
                Err(error @ StoreError::Open { .. }) => {
                    tracing::warn!(%error, "the database does not open yet");
                    return Err(self.full());
                }
                Err(error) => return Err(error),
            }
        }
        self.state = State::Good;
        Ok(())
    }

    fn memory_bytes(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.database.write_buffer_size() + open.database.cache_size())
    }
}

/// Writes a megabyte and removes it again: opening a database only to run into the full disk again is dear.
fn can_write(path: &Path) -> bool {
    use std::io::Write as _;
    let probe = path.join("PROBE");
    let wrote = File::create(&probe).and_then(|mut file| {
        file.write_all(&vec![0; 1 << 20])?;
        file.sync_all()
    });
    std::fs::remove_file(&probe).is_ok() && wrote.is_ok()
}

fn io_error(error: &fjall::Error) -> Option<&io::Error> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error);
        }
        source = error.source();
    }
    None
}

fn is_full(error: &fjall::Error) -> bool {
    io_error(error).is_some_and(|error| {
        matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    })
}

fn explain(error: &fjall::Error) -> String {
    io_error(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn read_failed(table: Table, error: &fjall::Error) -> StoreError {
    StoreError::Read { table: table.name(), cause: explain(error) }
}

#[cfg(test)]
mod tests {
    use fjall::AbstractTree as _;
    use holdfast_faultfs::{Disk, Mounted};

    use super::*;

    fn put(store: &mut Fjall, number: u8) -> Result<(), StoreError> {
        let mut write = Batch::default();
        write.put(Table::Messages, Key::from_slice(&[number]), vec![number; 5_000].into());
        store.commit(&write).map(drop)
    }

    /// Makes the background write everything out, and waits until it has failed at that.
    fn let_the_background_fail(store: &Fjall) {
        let open = store.open.as_ref().unwrap();
        for table in &open.tables {
            table.rotate_memtable().unwrap();
        }
        while open.database.persist(PersistMode::Buffer).is_ok() {
            std::thread::park_timeout(BACKGROUND_POLL);
        }
    }

    /// The disk is full while the background works, and has room again before anybody writes, or after a write was
    /// refused: either way the store goes on.
    #[test]
    fn a_background_that_has_run_into_a_full_disk_is_started_again() {
        for somebody_writes_meanwhile in [false, true] {
            let disk = Disk::new();
            let Some(mounted) = Mounted::for_test(&disk) else { return };
            let config = Config { reserve_bytes: 1 << 20, ..config(&mounted.path().join("store"), 16 << 20) };
            let mut store = Fjall::open(config).unwrap();
            for number in 0..100 {
                put(&mut store, number).unwrap();
            }
            store.commits = COMMITS_BETWEEN_STOPS;
            disk.fill(0);
            let_the_background_fail(&store);
            if somebody_writes_meanwhile {
                assert!(matches!(put(&mut store, 100), Err(StoreError::Full { .. })));
                assert!(matches!(store.recover(), Err(StoreError::Full { .. })));
            }
            disk.heal();
            if !somebody_writes_meanwhile {
                assert!(matches!(put(&mut store, 100), Err(StoreError::Stopped)));
            }
            store.recover().unwrap();
            for number in 100..110 {
                put(&mut store, number).unwrap();
            }
            for number in 0..110 {
                assert_eq!(store.get(Table::Messages, &[number]).unwrap().unwrap(), vec![number; 5_000]);
            }
        }
    }

    #[test]
    fn a_background_that_fails_again_and_again_is_left_alone() {
        let disk = Disk::new();
        let Some(mounted) = Mounted::for_test(&disk) else { return };
        let mut store = Fjall::open(config(&mounted.path().join("store"), 16 << 20)).unwrap();
        put(&mut store, 0).unwrap();
        disk.fail_syncs(1);
        let_the_background_fail(&store);
        disk.heal();
        assert!(matches!(put(&mut store, 1), Err(StoreError::Failed { .. })));
        assert!(matches!(store.recover(), Err(StoreError::Failed { .. })));
        assert_eq!(store.get(Table::Messages, &[0]).unwrap().unwrap(), vec![0; 5_000], "reads go on");
    }

    fn config(path: &Path, cache_bytes: u64) -> Config {
        Config { path: path.into(), cache_bytes, reserve_bytes: 0 }
    }

    /// What a killed process leaves behind.
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &to);
            } else {
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
    }

    #[test]
    fn what_a_kill_left_in_the_journal_does_not_stay_in_the_buffers() {
        let directory = tempfile::tempdir().unwrap();
        let (alive, killed) = (directory.path().join("alive"), directory.path().join("killed"));
        let mut store = Fjall::open(config(&alive, 64 << 20)).unwrap();
        for number in 0..80u8 {
            let mut write = Batch::default();
            write.put(Table::Messages, Key::from_slice(&[number]), vec![number; 50_000].into());
            store.commit(&write).unwrap();
        }
        copy(&alive, &killed);
        drop(store);
        // Four megabytes; these buffers may hold one and a half.
        let store = Fjall::open(config(&killed, 4 << 20)).unwrap();
        let open = store.open.as_ref().unwrap();
        for (table, name) in open.tables.iter().zip(Table::ALL) {
            assert_eq!(table.sealed_memtable_count(), 0, "{name:?}");
            assert_eq!(table.tree.active_memtable().size(), 0, "{name:?}");
        }
        for number in 0..80u8 {
            let value = store.get(Table::Messages, &[number]).unwrap().unwrap();
            assert_eq!(value, vec![number; 50_000]);
        }
    }
}
