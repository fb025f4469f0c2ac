//! What each device has confirmed.
//!
//! A cursor need not be durable at once: should one be lost, its device gets entries again that it has, and knows by
//! their `rev`. So cursors wait in memory for a second, where the next one of the device takes the place of the last,
//! and go with a batch then.

use std::collections::BTreeMap;

use holdfast_protocol::id::{DeviceId, Rev, UserId};

use crate::engine::{Batch, Key, Store, StoreError, Table, Visit};
use crate::layout;

/// Cursors that are not on disk yet.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    dirty: BTreeMap<(u64, u64), Rev>,
    /// Those that are in the present batch.
    flushing: BTreeMap<(u64, u64), Rev>,
    since_ms: u64,
}

impl Cursors {
    /// Moves a cursor, never back.
    pub(super) fn set(&mut self, user: UserId, device: DeviceId, rev: Rev, now_ms: u64) {
        if self.dirty.is_empty() {
            self.since_ms = now_ms;
        }
        let cursor = self.dirty.entry((user.0, device.0)).or_default();
        *cursor = rev.max(*cursor);
    }

    /// How many are not on disk yet.
    pub(super) fn len(&self) -> usize {
        self.dirty.len()
    }

    /// A device's cursor.
    pub(super) fn get(&self, store: &impl Store, user: UserId, device: DeviceId) -> Result<Rev, StoreError> {
        let dirty = self.dirty.get(&(user.0, device.0)).copied().unwrap_or_default();
        Ok(read(store, &layout::cursor_key(user, device))?.map_or(dirty, |(rev, _)| rev.max(dirty)))
    }

    /// In how many milliseconds cursors must be written.
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

    /// Puts all cursors into the batch. A user keeps at most `most_devices`: beyond that, the one that was moved the
    /// longest time ago is forgotten (its device would be sent everything again).
    pub(super) fn flush(
        &mut self,
        store: &impl Store,
        most_devices: u16,
        batch: &mut Batch,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        self.flushing = std::mem::take(&mut self.dirty);
        // New devices per user, so that several new ones in one batch are counted together.
        let mut user_now = None;
        let mut kept: Vec<(u64, Key)> = Vec::new();
        for (&(user, device), &rev) in &self.flushing {
            let (user, device) = (UserId(user), DeviceId(device));
            let key = layout::cursor_key(user, device);
            let before = read(store, &key)?;
            if before.is_none() {
                if user_now != Some(user) {
                    user_now = Some(user);
                    kept = of_user(store, user)?;
                }
                if kept.len() >= usize::from(most_devices)
                    && let Some(oldest) = (0..kept.len()).min_by_key(|&at| kept[at].0)
                {
                    let (_, oldest) = kept.swap_remove(oldest);
                    batch.remove(Table::Cursors, oldest);
                }
                kept.push((now_ms, key.clone()));
            }
            let rev = before.map_or(rev, |(before, _)| before.max(rev));
            batch.put(Table::Cursors, key, layout::seal_numbers([rev.0, now_ms]));
        }
        Ok(())
    }

    pub(super) fn commit(&mut self) {
        self.flushing.clear();
    }

    /// The batch is not durable: they wait again.
    pub(super) fn abandon(&mut self) {
        for (device, rev) in std::mem::take(&mut self.flushing) {
            let cursor = self.dirty.entry(device).or_default();
            *cursor = rev.max(*cursor);
        }
    }
}

fn read(store: &impl Store, key: &[u8]) -> Result<Option<(Rev, u64)>, StoreError> {
    let Some(value) = store.get(Table::Cursors, key)? else { return Ok(None) };
    let [rev, moved_ms] = layout::open_numbers(Table::Cursors, key, &value)?;
    Ok(Some((Rev(rev), moved_ms)))
}

/// When each cursor of a user was moved last.
fn of_user(store: &impl Store, user: UserId) -> Result<Vec<(u64, Key)>, StoreError> {
    let mut found = Ok(Vec::new());
    let (from, to) = (layout::cursor_key(user, DeviceId(0)), layout::cursor_key(user, DeviceId(u64::MAX)));
    store.scan(Table::Cursors, &from, &to, &mut |key, value| match (
        layout::open_numbers(Table::Cursors, key, &value),
        &mut found,
    ) {
        (Ok([_, moved_ms]), Ok(found)) => {
            found.push((moved_ms, Key::from_slice(key)));
            Visit::More
        }
        (Err(error), found) => {
            *found = Err(error);
            Visit::Enough
        }
        (Ok(_), Err(_)) => Visit::Enough,
    })?;
    found
}
