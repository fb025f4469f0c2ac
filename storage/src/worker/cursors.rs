//! What each device has confirmed.
//!
//! A cursor need not be durable at once: should one be lost, its device gets entries again that it has, and knows by
//! their `rev`. So cursors wait in memory for a second, where the next one of the device takes the place of the last,
//! and go with a batch then, so many per turn that nobody's message waits for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_protocol::id::{DeviceId, Rev, UserId};

use super::delivered::Untold;
use crate::device::{ALL_DEVICES, Kept};
use crate::engine::{Batch, Key, Store, StoreError, Table, Visit};
use crate::layout;

/// Cursors that one turn writes. Each is looked up first.
pub(super) const CURSORS_PER_TURN: usize = 128;

/// Cursors that are not on disk yet.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    dirty: BTreeMap<(u64, u64), Moved>,
    /// Where the next turn goes on, so that everybody has a turn.
    next: (u64, u64),
    /// Those that are in the present batch.
    flushing: BTreeMap<(u64, u64), Moved>,
    since_ms: u64,
    /// Records that the present batch has written for a reason of their own: none of them gives way.
    written: Vec<Key>,
}

/// How far a device is, and what people know it by.
#[derive(Debug, Clone)]
struct Moved {
    rev: Rev,
    name: Arc<str>,
}

impl Cursors {
    /// Moves a cursor, never back.
    pub(super) fn set(&mut self, user: UserId, device: DeviceId, name: &Arc<str>, rev: Rev, now_ms: u64) {
        if self.dirty.is_empty() {
            self.since_ms = now_ms;
        }
        let name = Arc::clone(name);
        raise(&mut self.dirty, (user.0, device.0), Moved { rev, name });
    }

    /// How many are not on disk yet.
    pub(super) fn len(&self) -> usize {
        self.dirty.len()
    }

    /// A device's cursor, where its record is this.
    pub(super) fn of(&self, user: UserId, device: DeviceId, kept: Option<&Kept>) -> Rev {
        let dirty = self.dirty.get(&(user.0, device.0)).map_or(Rev(0), |moved| moved.rev);
        kept.map_or(dirty, |kept| kept.cursor.max(dirty))
    }

    /// The device starts from the beginning.
    pub(super) fn forget(&mut self, user: UserId, device: DeviceId) {
        self.dirty.remove(&(user.0, device.0));
    }

    /// The present batch has written this record.
    pub(super) fn wrote(&mut self, key: Key) {
        self.written.push(key);
    }

    /// Whether the present batch has written this record.
    pub(super) fn has_written(&self, key: &[u8]) -> bool {
        self.written.iter().any(|written| **written == *key)
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

    /// Puts at most so many cursors into the batch. A user keeps at most `most_devices`: beyond that, the one that was
    /// moved the longest time ago is forgotten (its device would be sent everything again).
    pub(super) fn flush(
        &mut self,
        most: usize,
        store: &impl Store,
        most_devices: u16,
        batch: &mut Batch,
        now_ms: u64,
        untold: &mut Untold,
    ) -> Result<(), StoreError> {
        self.take(most);
        // Current devices per user, so that several new ones in one batch are counted together.
        let mut user_now = None;
        let mut current: Vec<(Key, Kept)> = Vec::new();
        for (&(user, device), moved) in &self.flushing {
            let (user, device) = (UserId(user), DeviceId(device));
            untold.confirmed(user, moved.rev);
            let key = layout::cursor_key(user, device);
            let before = read(store, &key)?;
            let mut kept = before.clone().unwrap_or_default();
            kept.cursor = kept.cursor.max(moved.rev);
            kept.moved_ms = now_ms.max(1);
            if !moved.name.is_empty() {
                kept.name = Box::from(&*moved.name);
            }
            if before.is_none_or(|before| !before.is_current()) {
                if user_now != Some(user) {
                    user_now = Some(user);
                    current = of_user(store, user)?;
                    let all = layout::cursor_key(user, ALL_DEVICES);
                    current.retain(|(key, kept)| {
                        *key != all && kept.is_current() && !self.written.contains(key)
                    });
                }
                if current.len() >= usize::from(most_devices)
                    && let Some(oldest) = (0..current.len()).min_by_key(|&at| current[at].1.moved_ms)
                {
                    let (oldest, left) = current.swap_remove(oldest);
                    if left.revoked_ms == 0 {
                        batch.remove(Table::Cursors, oldest);
                    } else {
                        // Its older tokens stay worthless.
                        batch.put(Table::Cursors, oldest, left.without_cursor().seal());
                    }
                }
                current.push((key.clone(), kept.clone()));
            }
            batch.put(Table::Cursors, key, kept.seal());
        }
        Ok(())
    }

    /// Chooses whose turn it is.
    fn take(&mut self, most: usize) {
        if self.dirty.len() <= most {
            self.flushing = std::mem::take(&mut self.dirty);
            return;
        }
        let from = self.next;
        let around = self.dirty.range(from..).chain(self.dirty.range(..from));
        let devices: Vec<(u64, u64)> = around.map(|(&device, _)| device).take(most + 1).collect();
        for device in &devices[..most] {
            if let Some(moved) = self.dirty.remove(device) {
                self.flushing.insert(*device, moved);
            }
        }
        self.next = devices[most];
    }

    pub(super) fn commit(&mut self) {
        self.flushing.clear();
        self.written.clear();
    }

    /// The batch is not durable: they wait again.
    pub(super) fn abandon(&mut self) {
        self.written.clear();
        for (device, moved) in std::mem::take(&mut self.flushing) {
            raise(&mut self.dirty, device, moved);
        }
    }
}

fn raise(cursors: &mut BTreeMap<(u64, u64), Moved>, device: (u64, u64), moved: Moved) {
    let cursor = cursors.entry(device).or_insert_with(|| moved.clone());
    cursor.rev = cursor.rev.max(moved.rev);
}

/// A device's record.
pub(super) fn read(store: &impl Store, key: &[u8]) -> Result<Option<Kept>, StoreError> {
    store.get(Table::Cursors, key)?.map(|value| Kept::open(key, &value)).transpose()
}

/// All records of a user, in the order of the devices' ids.
pub(super) fn of_user(store: &impl Store, user: UserId) -> Result<Vec<(Key, Kept)>, StoreError> {
    let mut found = Ok(Vec::new());
    let (from, to) = (layout::cursor_key(user, DeviceId(0)), layout::cursor_key(user, DeviceId(u64::MAX)));
    store.scan(
        Table::Cursors,
        &from,
        &to,
        &mut |key, value| match (Kept::open(key, &value), &mut found) {
            (Ok(kept), Ok(found)) => {
                found.push((Key::from_slice(key), kept));
                Visit::More
            }
            (Err(error), found) => {
                *found = Err(error);
                Visit::Enough
            }
            (Ok(_), Err(_)) => Visit::Enough,
        },
    )?;
    found
}
