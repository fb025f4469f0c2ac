//! The rings of a driver and which slots of their tables are taken.
//!
//! A ring's slots are given out either by the kernel (accepts) or by the driver (connects, because
//! [`crate::Driver::connect`] names the connection before the socket exists), never by both: the kernel would put
//! an accepted socket into a slot that the driver has promised, or the other way round.

use std::io;
use std::os::fd::AsFd;

use super::operation::{Operation, Tag};
use super::ring::Ring;
use crate::{ReactorError, Waker};

/// The most slots that a table gets, whatever RLIMIT_NOFILE allows (the kernel's own limit is 1,048,576). Closing a
/// connection means to find its armed poll in one of 256 lists of the ring, so the more a ring holds the dearer
/// each close: about 3 µs of CPU more at 5,000 connections, 6 at 19,000, and a hundred times that at a million.
pub(super) const TABLE_SLOTS_LIMIT: u32 = 1 << 16;

/// Who gives out the slots of a ring.
#[derive(Debug)]
pub(super) enum Use {
    /// Nobody so far.
    Unused,
    /// The kernel.
    Accepting,
    /// The driver: slots that were used before, and the first that never was.
    Connecting { free: Vec<u32>, fresh: u32 },
}

/// One ring and the state of its table.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) ring: Ring,
    used_by: Use,
    /// Slots that are taken.
    used: u32,
    /// Slots that accepts will take which are armed on this ring.
    promised: u32,
}

/// All rings, in the order of their connections' indices.
#[derive(Debug)]
pub(super) struct Tables {
    tables: Vec<Table>,
    slots: u32,
    limit: usize,
    waker: Waker,
}

impl Tables {
    pub(super) fn new(nofile: u32, connections: usize, waker: &Waker) -> Self {
        let connections = u64::try_from(connections).unwrap_or(u64::MAX).min(u64::from(u32::MAX) / 2);
        let slots = nofile.min(TABLE_SLOTS_LIMIT).min(connections as u32).max(1);
        // One more for a driver that both accepts and connects.
        let limit = connections.div_ceil(u64::from(slots)) as usize + 1;
        Self { tables: Vec::new(), slots, limit, waker: waker.clone() }
    }

    pub(super) fn len(&self) -> usize {
        self.tables.len()
    }

    /// Slots per ring.
    pub(super) fn slots(&self) -> u32 {
        self.slots
    }

    /// The first ring; the waker's eventfd is polled on it while it is the only one.
    pub(super) fn make_first(&mut self) -> Result<(), ReactorError> {
        self.make()?;
        self.watch_waker().map_err(|source| setup("the waker", source))
    }

    /// Arms the poll of the waker, unless the eventfd is waited for by itself.
    pub(super) fn watch_waker(&mut self) -> io::Result<()> {
        match (self.tables.as_mut_slice(), self.waker.eventfd()) {
            ([only], Some(eventfd)) => only.ring.poll_eventfd(eventfd.as_fd(), WAKE),
            _ => Ok(()),
        }
    }

    fn make(&mut self) -> Result<(), ReactorError> {
        let mut ring = Ring::new(self.slots).map_err(|(what, source)| setup(what, source))?;
        if let Some(eventfd) = self.waker.eventfd()
            && !self.tables.is_empty()
        {
            // From the second ring on, all rings and the waker share one eventfd.
            let what = "the eventfd of a ring";
            if let [only] = self.tables.as_mut_slice() {
                only.ring
                    .cancel(WAKE, Tag::of(Operation::Unwatched, 0, 0))
                    .map_err(|source| setup(what, source))?;
                only.ring.register_eventfd(eventfd.as_fd()).map_err(|source| setup(what, source))?;
            }
            ring.register_eventfd(eventfd.as_fd()).map_err(|source| setup(what, source))?;
        }
        tracing::debug!(ring = self.tables.len(), slots = self.slots, "made a ring");
        self.tables.push(Table { ring, used_by: Use::Unused, used: 0, promised: 0 });
        Ok(())
    }

    /// The ring and slot behind an index.
    #[inline]
    pub(super) fn locate(&mut self, index: u32) -> (&mut Ring, u32) {
        let table = &mut self.tables[(index / self.slots) as usize];
        (&mut table.ring, index % self.slots)
    }

    /// The index of a slot.
    pub(super) fn index(&self, ring: usize, slot: u32) -> u32 {
        ring as u32 * self.slots + slot
    }

    pub(super) fn rings(&mut self) -> impl Iterator<Item = &mut Ring> {
        self.tables.iter_mut().map(|table| &mut table.ring)
    }

    pub(super) fn ring(&mut self, ring: usize) -> &mut Ring {
        &mut self.tables[ring].ring
    }

    /// Notes that an accept has ended, with a slot or without.
    pub(super) fn note_accept_ended(&mut self, ring: usize, took_slot: bool) {
        let table = &mut self.tables[ring];
        table.promised -= 1;
        table.used += u32::from(took_slot);
    }

    /// Takes a slot back.
    pub(super) fn free(&mut self, index: u32) {
        let table = &mut self.tables[(index / self.slots) as usize];
        table.used -= 1;
        if let Use::Connecting { free, .. } = &mut table.used_by {
            free.push(index % self.slots);
        }
    }

    /// Gives out a slot for a connect.
    pub(super) fn allocate(&mut self) -> Result<u32, ReactorError> {
        let slots = self.slots;
        let has_room = |table: &Table| match table.used_by {
            Use::Accepting => false,
            Use::Unused | Use::Connecting { .. } => table.used < slots,
        };
        let ring = match self.tables.iter().position(has_room) {
            Some(ring) => ring,
            None => {
                self.make_if_allowed()?.ok_or(ReactorError::Full { slots: self.limit * slots as usize })?
            }
        };
        let table = &mut self.tables[ring];
        if let Use::Unused = table.used_by {
            table.used_by = Use::Connecting { free: Vec::new(), fresh: 0 };
        }
        let Use::Connecting { free, fresh } = &mut table.used_by else {
            unreachable!("an accepting ring has no room for connects")
        };
        let slot = free.pop().unwrap_or_else(|| {
            *fresh += 1;
            *fresh - 1
        });
        table.used += 1;
        Ok(self.index(ring, slot))
    }

    /// The first ring with a slot that is neither taken nor promised, so that rings are filled one after the other;
    /// promises it to the caller's accept. `None` when all are full.
    ///
    /// (An accept for which there is no slot loses its connection: the kernel answers ENFILE after accepting.)
    pub(super) fn promise_slot(&mut self) -> Result<Option<usize>, ReactorError> {
        let slots = self.slots;
        let has_room = |table: &Table| match table.used_by {
            Use::Connecting { .. } => false,
            Use::Unused | Use::Accepting => table.used + table.promised < slots,
        };
        let ring = match self.tables.iter().position(has_room) {
            Some(ring) => Some(ring),
            None => self.make_if_allowed()?,
        };
        if let Some(ring) = ring {
            let table = &mut self.tables[ring];
            table.used_by = Use::Accepting;
            table.promised += 1;
        }
        Ok(ring)
    }

    /// Slots that are taken, in all rings.
    #[cfg(test)]
    pub(super) fn used(&self) -> u32 {
        self.tables.iter().map(|table| table.used).sum()
    }

    fn make_if_allowed(&mut self) -> Result<Option<usize>, ReactorError> {
        if self.tables.len() >= self.limit {
            return Ok(None);
        }
        self.make()?;
        Ok(Some(self.tables.len() - 1))
    }
}

const WAKE: Tag = Tag::of(Operation::Wake, 0, 0);

fn setup(what: &'static str, source: io::Error) -> ReactorError {
    let advice = super::probe::advice(&source);
    ReactorError::Setup { what, advice, source }
}
