//! What a store is started with, and the range of each number.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::StorageError;

/// Wall-clock milliseconds since the Unix epoch. It may step; whoever reads it copes.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    /// A clock that asks `now_ms`.
    pub fn new(now_ms: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now_ms))
    }

    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::new(|| {
            #[allow(clippy::disallowed_methods, reason = "the one place where workers get the time from")]
            let now = std::time::SystemTime::now();
            now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
        })
    }

    /// Milliseconds since the Unix epoch, now.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// Limits of one worker; all of them are reached by tests from both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Sessions that a user may have at a time, one per device; also the device cursors kept per user.
    pub devices: u16,
    /// Members of a group.
    pub group_members: u16,
    /// Contacts of a user; also users that one can block.
    pub contacts: u32,
    /// Messages of one answer to a history request.
    pub history_messages: u32,
    /// Entries per page.
    pub page_entries: u32,
    /// Bytes of entries per page; a page has at least one entry.
    pub page_bytes: usize,
    /// Bytes that one turn reads for pages, lists and histories; what is beyond waits for the next turn.
    pub turn_page_bytes: usize,
    /// For how long the answer to a `clientId` is given again.
    pub client_id_ms: u64,
    /// For how long what is written is kept; 0: for ever. At least as long as `client_id_ms`.
    pub retention_ms: u64,
    /// How often each conversation is looked at for what is older.
    pub retention_pass_ms: u64,
    /// Conversations, and users, whose head is kept in memory.
    pub cached_heads: usize,
    /// Fan-out batches on their way to one other worker, not yet confirmed.
    pub fan_out_window: u64,
    /// Bytes of entries in one fan-out batch read back from the log.
    pub fan_out_bytes: usize,
    /// Entries that a device may be behind and still gets all of them; beyond, a snapshot.
    pub snapshot_after: u64,
    /// New entries of a user after which the list of conversations is written down up to them; as many are looked at in
    /// one turn.
    pub fold_entries: u64,
    /// For how long a device's cursor may be in memory only.
    pub cursor_delay_ms: u64,
    /// Cursors in memory before they are written ahead of that time.
    pub dirty_cursors: usize,
    /// For how long a user is still there after the last device has gone.
    pub presence_grace_ms: u64,
    /// For how long changes of presence are gathered before they are told.
    pub presence_tick_ms: u64,
    /// How soon something that could not be done is tried again: a full disk, a full lane.
    pub retry_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            devices: 10,
            group_members: 500,
            contacts: 5_000,
            history_messages: 200,
            page_entries: 1_000,
            page_bytes: 128 * 1024,
            turn_page_bytes: 2 * 1024 * 1024,
            client_id_ms: 7 * 24 * 60 * 60 * 1000,
            retention_ms: 0,
            retention_pass_ms: 60 * 60 * 1000,
            cached_heads: 32_768,
            fan_out_window: 8,
            fan_out_bytes: 1024 * 1024,
            snapshot_after: 10_000,
            fold_entries: 4_096,
            cursor_delay_ms: 1_000,
            dirty_cursors: 65_536,
            presence_grace_ms: 10_000,
            presence_tick_ms: 100,
            retry_ms: 100,
        }
    }
}

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// The store's own directory; made when it does not exist.
    pub directory: PathBuf,
    /// How many databases a *new* directory gets, 1 to 64; `None`: one per available core, 2 to 16.
    /// An existing directory keeps the number that it was made with.
    pub databases: Option<u16>,
    /// Write buffers and block caches of all databases together.
    pub cache_bytes: u64,
    /// Free disk space below which writes are refused, so that the engine itself never runs into a full disk.
    pub reserve_bytes: u64,
    /// Commands that wait for one worker.
    pub queue_commands: usize,
    /// Commands that one worker takes per turn.
    pub batch_commands: usize,
    /// Bytes of message bodies that one worker takes per turn.
    pub batch_bytes: usize,
    /// Turns of one worker, and with them fsyncs, are at least so far apart; at most 100 ms.
    pub commit_interval: Duration,
    /// Limits of one worker.
    pub limits: Limits,
    /// Where the workers get the time from.
    pub clock: Clock,
}

impl Options {
    /// The defaults, for a store in this directory.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            databases: None,
            cache_bytes: 64 * 1024 * 1024,
            reserve_bytes: 256 * 1024 * 1024,
            queue_commands: 8_192,
            batch_commands: 4_096,
            batch_bytes: 4 * 1024 * 1024,
            commit_interval: Duration::from_millis(3),
            limits: Limits::default(),
            clock: Clock::system(),
        }
    }

    /// Refuses a value out of its range; the error names the key, the value and what is allowed.
    ///
    /// # Errors
    /// [`StorageError::Option`].
    pub fn validate(&self) -> Result<(), StorageError> {
        let limits = &self.limits;
        let ranges: [(&'static str, u64, u64, u64); 23] = [
            ("databases", u64::from(self.databases.unwrap_or(2)), 1, 64),
            ("cache_bytes", self.cache_bytes, 16 << 20, 1 << 40),
            ("reserve_bytes", self.reserve_bytes, 0, 1 << 50),
            ("queue_commands", self.queue_commands as u64, 16, 1 << 20),
            ("batch_commands", self.batch_commands as u64, 1, 1 << 16),
            ("batch_bytes", self.batch_bytes as u64, 1, 64 << 20),
            ("commit_interval (ms)", self.commit_interval.as_millis() as u64, 0, 100),
            ("limits.devices", u64::from(limits.devices), 1, 1_000),
            ("limits.group_members", u64::from(limits.group_members), 1, 10_000),
            ("limits.history_messages", u64::from(limits.history_messages), 1, 1_000),
            ("limits.page_entries", u64::from(limits.page_entries), 1, 10_000),
            ("limits.page_bytes", limits.page_bytes as u64, 1, 16 << 20),
            ("limits.turn_page_bytes", limits.turn_page_bytes as u64, 1, 256 << 20),
            ("limits.client_id_ms", limits.client_id_ms, 1_000, 10 * 365 * 24 * 3_600_000),
            ("limits.retention_pass_ms", limits.retention_pass_ms, 1, 30 * 24 * 3_600_000),
            ("limits.cached_heads", limits.cached_heads as u64, 16, 1 << 26),
            ("limits.fan_out_window", limits.fan_out_window, 1, 1_024),
            ("limits.fan_out_bytes", limits.fan_out_bytes as u64, 1, 64 << 20),
            ("limits.snapshot_after", limits.snapshot_after, 1, 1 << 40),
            ("limits.fold_entries", limits.fold_entries, 1, 65_536),
            ("limits.presence_grace_ms", limits.presence_grace_ms, 0, 600_000),
            ("limits.presence_tick_ms", limits.presence_tick_ms, 1, 60_000),
            ("limits.retry_ms", limits.retry_ms, 1, 60_000),
        ];
        for (key, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                return Err(StorageError::Option { key, value, least, most });
            }
        }
        // What may be sent again must be known as long as that.
        let (key, value, least) = ("limits.retention_ms", limits.retention_ms, limits.client_id_ms);
        if value > 0 && value < least {
            return Err(StorageError::Option { key, value, least, most: u64::MAX });
        }
        Ok(())
    }
}
