//! The table of a driver's connections: dense slots, used again under a new generation.
//!
//! The one invariant: an id finds its record from the moment it was given out until it was removed, and never again.

use std::collections::VecDeque;

use crate::chunks::Chunks;
use crate::{ConnectionId, planted};

/// Records of `T`, one per open connection.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    entries: Chunks<Entry<T>>,
    /// Slots that were used before, the last freed at the back.
    free: VecDeque<u32>,
    /// Slots below this one have been used.
    fresh: u32,
    /// How many records there may be.
    capacity: u32,
    count: u32,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    record: Option<T>,
}

impl<T> Slots<T> {
    /// What one connection costs here.
    pub(crate) const BYTES_PER_CONNECTION: usize = size_of::<Entry<T>>();

    /// A table for at most `capacity` connections.
    pub(crate) fn new(capacity: usize) -> Self {
        // The topmost indices are left to those who need names for what is not a connection.
        let capacity = u32::try_from(capacity).unwrap_or(u32::MAX).min(u32::MAX - 16);
        Self { entries: Chunks::new(), free: VecDeque::new(), fresh: 0, capacity, count: 0 }
    }

    pub(crate) const fn len(&self) -> usize {
        self.count as usize
    }

    pub(crate) const fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Whether a slot that was used before is free, so that it matters which one is given out.
    pub(crate) fn has_used_slots(&self) -> bool {
        !self.free.is_empty()
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.count >= self.capacity
    }

    /// Gives out the slot that was freed last, or `None` when all are taken.
    pub(crate) fn insert(&mut self, record: T) -> Option<ConnectionId> {
        if self.is_full() {
            return None;
        }
        let used = self.free.pop_back();
        Some(self.put(used, record))
    }

    /// Gives out the slot that was freed longest ago, or `None` when all are taken.
    pub(crate) fn insert_rested(&mut self, record: T) -> Option<ConnectionId> {
        if self.is_full() {
            return None;
        }
        let used = self.free.pop_front();
        Some(self.put(used, record))
    }

    fn put(&mut self, used: Option<u32>, record: T) -> ConnectionId {
        let index = used.unwrap_or_else(|| {
            self.fresh += 1;
            self.fresh - 1
        });
        let entry = self.entries.find_or_insert_with(index, || Entry { generation: 0, record: None });
        debug_assert!(entry.record.is_none(), "a free slot holds nothing");
        entry.record = Some(record);
        self.count += 1;
        ConnectionId { index, generation: entry.generation }
    }

    #[inline]
    pub(crate) fn find(&self, id: ConnectionId) -> Option<&T> {
        let entry = self.entries.find(id.index)?;
        if entry.generation == id.generation { entry.record.as_ref() } else { None }
    }

    #[inline]
    pub(crate) fn find_mut(&mut self, id: ConnectionId) -> Option<&mut T> {
        let entry = self.entries.find_mut(id.index)?;
        if entry.generation == id.generation { entry.record.as_mut() } else { None }
    }

    /// Takes the record out; the slot may be given out again, under a new generation.
    pub(crate) fn remove(&mut self, id: ConnectionId) -> Option<T> {
        let entry = self.entries.find_mut(id.index).filter(|entry| entry.generation == id.generation)?;
        let record = entry.record.take()?;
        entry.generation = entry.generation.wrapping_add(u32::from(!planted::GENERATION_KEPT.is_planted()));
        self.free.push_back(id.index);
        self.count -= 1;
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_used_again_under_a_new_generation_and_the_old_name_finds_nothing() {
        let mut slots = Slots::new(2);
        let first = slots.insert("first").expect("the table is empty");
        let second = slots.insert("second").expect("there are two slots");
        assert_eq!((slots.insert("third"), slots.is_full()), (None, true));
        assert_eq!(slots.remove(first), Some("first"));
        assert_eq!(slots.find(first), None);
        assert_eq!(slots.remove(first), None);
        let third = slots.insert("third").expect("a slot is free");
        assert_eq!(third, ConnectionId { index: first.index, generation: first.generation + 1 });
        assert_eq!(slots.find(first), None);
        assert_eq!(slots.find_mut(first), None);
        assert_eq!((slots.find(second), slots.find(third)), (Some(&"second"), Some(&"third")));
        assert_eq!(slots.len(), 2);
    }
}
