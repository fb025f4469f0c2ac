//! The engine in memory, with the faults of a disk: what the simulation and the model tests run on.
//!
//! It behaves like a database with a journal: a batch is written, then synced, then visible. What was written but
//! not synced when the machine stops is lost, or there, or torn; a torn batch is found by its checksum and discarded
//! whole. Everything follows from the seed.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::{Batch, Key, Store, StoreError, Table, Visit, Write, syncs_before_ack};

/// What shall go wrong with the next commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The machine stops after the batch was written and before it was synced.
    CrashBeforeSync,
    /// The machine stops after the batch was synced and before anybody heard of it.
    CrashAfterSync,
    /// fsync returns EIO.
    SyncFails,
    /// The disk is full, from now until [`Memory::free_space`].
    Full,
    /// The same, and then the database does not open at the first attempt: until the second nothing can be read.
    FullAndShut,
}

type Tables = [BTreeMap<Key, Bytes>; Table::ALL.len()];

/// The engine in memory.
#[derive(Debug, Default)]
pub struct Memory {
    /// What reads see.
    visible: Tables,
    /// What a crash leaves.
    durable: Tables,
    /// Batches that were written and not synced, encoded.
    unsynced: Vec<u8>,
    fault: Option<Fault>,
    full: bool,
    /// The database will not open at the next attempt, or has not opened at the last.
    jams: bool,
    shut: bool,
    /// A batch that was refused for want of space and is on the disk nevertheless.
    late: Vec<Write>,
    poisoned: bool,
    crashed: bool,
    random: u64,
    commits: u64,
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { random: seed, ..Self::default() }
    }

    /// Lets the next commit go wrong.
    pub fn arm(&mut self, fault: Fault) {
        self.fault = Some(fault);
    }

    /// There is room on the disk again.
    pub fn free_space(&mut self) {
        self.full = false;
    }

    /// Batches that were committed.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.commits
    }

    /// True when the machine has stopped in the middle of a commit, and [`Memory::crash`] is what comes next.
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        self.crashed
    }

    /// The machine stops and starts again: what was synced is there, and of the rest what the disk happened to keep.
    #[must_use]
    pub fn crash(mut self) -> Self {
        let kept = match self.next_random() % 4 {
            0 => 0,
            1 => self.unsynced.len(),
            _ => self.next_random() as usize % (self.unsynced.len() + 1),
        };
        self.unsynced.truncate(kept);
        if kept > 0 && self.next_random().is_multiple_of(4) {
            // The disk wrote the pages in another order: one in the middle is missing.
            let hole = self.next_random() as usize % kept;
            for byte in &mut self.unsynced[hole..kept.min(hole + 16)] {
                *byte = 0;
            }
        }
        let mut rest = self.unsynced.as_slice();
        while let Some((writes, after)) = decode(rest) {
            apply(&mut self.durable, &writes);
            rest = after;
        }
        let visible = self.durable.clone();
        Self { visible, durable: self.durable, random: self.random, commits: self.commits, ..Self::default() }
    }

    fn is_open(&self, table: Table) -> Result<(), StoreError> {
        if self.shut {
            return Err(StoreError::Read { table: table.name(), cause: "the database is closed".to_owned() });
        }
        Ok(())
    }

    /// splitmix64.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Store for Memory {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.is_open(table)?;
        Ok(self.visible[table as usize].get(key).cloned())
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), StoreError> {
        self.is_open(table)?;
        for (key, value) in self.visible[table as usize].range(Key::from_slice(from)..=Key::from_slice(to)) {
            if visit(key, value.clone()) == Visit::Enough {
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
        self.is_open(table)?;
        for (key, value) in
            self.visible[table as usize].range(Key::from_slice(from)..=Key::from_slice(to)).rev()
        {
            if visit(key, value.clone()) == Visit::Enough {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<(Key, Bytes)>, StoreError> {
        self.is_open(table)?;
        let mut range = self.visible[table as usize].range(Key::from_slice(from)..=Key::from_slice(to));
        Ok(range.next_back().map(|(key, value)| (key.clone(), value.clone())))
    }

    fn commit(&mut self, batch: &Batch) -> Result<Duration, StoreError> {
        if self.poisoned {
            return Err(StoreError::Failed { doing: "an earlier write", cause: "EIO".to_owned() });
        }
        let fault = self.fault.take();
        if matches!(fault, Some(Fault::Full | Fault::FullAndShut)) {
            self.full = true;
            self.jams = fault == Some(Fault::FullAndShut);
            if self.next_random().is_multiple_of(2) {
                self.late = batch.writes().to_vec();
            }
        }
        if self.full {
            return Err(StoreError::Full { free_bytes: 0, reserve_bytes: 0 });
        }
        if batch.is_empty() {
            self.fault = fault;
            return Ok(Duration::ZERO);
        }
        encode(batch.writes(), &mut self.unsynced);
        match fault {
            Some(Fault::CrashBeforeSync) => {
                self.crashed = true;
                return Err(StoreError::Crashed);
            }
            Some(Fault::SyncFails) => {
                self.poisoned = true;
                return Err(StoreError::Failed { doing: "fsync", cause: "EIO".to_owned() });
            }
            _ => {}
        }
        if syncs_before_ack() {
            self.unsynced.clear();
            apply(&mut self.durable, batch.writes());
        }
        apply(&mut self.visible, batch.writes());
        self.commits += 1;
        if fault == Some(Fault::CrashAfterSync) {
            self.crashed = true;
            return Err(StoreError::Crashed);
        }
        Ok(Duration::ZERO)
    }

    fn recover(&mut self) -> Result<(), StoreError> {
        if self.full {
            return Err(StoreError::Full { free_bytes: 0, reserve_bytes: 0 });
        }
        self.shut = std::mem::take(&mut self.jams);
        if self.shut {
            return Err(StoreError::Full { free_bytes: 0, reserve_bytes: 0 });
        }
        let late = std::mem::take(&mut self.late);
        apply(&mut self.durable, &late);
        apply(&mut self.visible, &late);
        Ok(())
    }

    fn memory_bytes(&self) -> u64 {
        0
    }
}

fn apply(tables: &mut Tables, writes: &[Write]) {
    for write in writes {
        let table = &mut tables[write.table as usize];
        match &write.value {
            Some(value) => {
                table.insert(write.key.clone(), value.clone());
            }
            None => {
                table.remove(&write.key);
            }
        }
    }
}

/// `crc32c of the rest | bytes of the rest | n × (table | key length | key | 0 or 1 + value length | value)`.
fn encode(writes: &[Write], out: &mut Vec<u8>) {
    let mut body = Vec::new();
    for write in writes {
        body.push(write.table as u8);
        body.push(write.key.len() as u8);
        body.extend_from_slice(&write.key);
        match &write.value {
            None => body.extend_from_slice(&0u32.to_le_bytes()),
            Some(value) => {
                body.extend_from_slice(&(value.len() as u32 + 1).to_le_bytes());
                body.extend_from_slice(value);
            }
        }
    }
    let mut sized = (body.len() as u32).to_le_bytes().to_vec();
    sized.extend_from_slice(&body);
    out.extend_from_slice(&crc32c::crc32c(&sized).to_le_bytes());
    out.extend_from_slice(&sized);
}

/// The first batch, and what follows it; `None` when it is not whole.
fn decode(bytes: &[u8]) -> Option<(Vec<Write>, &[u8])> {
    let (crc, rest) = bytes.split_first_chunk::<4>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len) as usize;
    let sized = bytes.get(4..8 + len)?;
    if crc32c::crc32c(sized) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (mut body, after) = rest.split_at(len);
    let mut writes = Vec::new();
    while let [table, key_len, rest @ ..] = body {
        let (key, rest) = rest.split_at_checked(usize::from(*key_len))?;
        let (value_len, rest) = rest.split_first_chunk::<4>()?;
        let (value, rest) = match u32::from_le_bytes(*value_len) {
            0 => (None, rest),
            len => {
                let (value, rest) = rest.split_at_checked(len as usize - 1)?;
                (Some(Bytes::copy_from_slice(value)), rest)
            }
        };
        writes.push(Write { table: *Table::ALL.get(usize::from(*table))?, key: Key::from_slice(key), value });
        body = rest;
    }
    Some((writes, after))
}
