//! When each user was there last.
//!
//! It need not be durable at once: should it be lost, the user was seen earlier. So it waits in memory for a second, and
//! goes with a batch then.

use std::collections::BTreeMap;

use holdfast_protocol::id::UserId;

use crate::engine::{Batch, Store, StoreError, Table};
use crate::layout;

/// Those that are not on disk yet, in milliseconds since 1970.
#[derive(Debug, Default)]
pub(super) struct LastSeen {
    dirty: BTreeMap<UserId, u64>,
    /// Those that are in the present batch.
    flushing: BTreeMap<UserId, u64>,
    since_ms: u64,
}

impl LastSeen {
    /// The user has just gone. Beyond `most` that the disk does not take, it is forgotten.
    pub(super) fn set(&mut self, user: UserId, now_ms: u64, most: usize) {
        if self.dirty.is_empty() {
            self.since_ms = now_ms;
        }
        if self.dirty.len() < most.saturating_mul(2) || self.dirty.contains_key(&user) {
            self.dirty.insert(user, now_ms);
        }
    }

    /// When the user was there last, if ever.
    pub(super) fn get(&self, store: &impl Store, user: UserId) -> Result<Option<u64>, StoreError> {
        if let Some(&seen_ms) = self.dirty.get(&user).or_else(|| self.flushing.get(&user)) {
            return Ok(Some(seen_ms));
        }
        let key = layout::seen_key(user);
        let Some(value) = store.get(Table::Seen, &key)? else { return Ok(None) };
        let [seen_ms] = layout::open_numbers(Table::Seen, &key, &value)?;
        Ok(Some(seen_ms))
    }

    /// In how many milliseconds they must be written.
    pub(super) fn due_in_ms(&self, now_ms: u64, delay_ms: u64, most: usize) -> Option<u64> {
        if self.dirty.is_empty() {
            return None;
        }
        if self.dirty.len() >= most {
            return Some(0);
        }
        // Should the clock have stepped back, they are due.
        let waited_ms = now_ms.checked_sub(self.since_ms).unwrap_or(u64::MAX);
        Some(delay_ms.saturating_sub(waited_ms))
    }

    /// Puts all of them into the batch.
    pub(super) fn flush(&mut self, batch: &mut Batch) {
        self.flushing = std::mem::take(&mut self.dirty);
        for (&user, &seen_ms) in &self.flushing {
            batch.put(Table::Seen, layout::seen_key(user), layout::seal_numbers([seen_ms]));
        }
    }

    pub(super) fn commit(&mut self) {
        self.flushing.clear();
    }

    /// The batch is not durable: they wait again, unless the user has been there since.
    pub(super) fn abandon(&mut self) {
        for (user, seen_ms) in std::mem::take(&mut self.flushing) {
            self.dirty.entry(user).or_insert(seen_ms);
        }
    }
}
