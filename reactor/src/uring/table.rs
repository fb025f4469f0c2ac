//! The rings of a driver and which slots of their tables are taken.
//!
//! A ring's slots are given out either by the kernel (accepts) or by the driver (connects, because
//! [`crate::Driver::connect`] names the connection before the socket exists), never by both: the kernel would put
//! an accepted socket into a slot that the driver has promised, or the other way round.

use std::io;
use std::os::fd::AsFd;

use super::operation::{Operation, Tag};
use super::ring::{Ring, TABLE_SLOTS_LIMIT};
use crate::{ReactorError, Waker};

/// An accepting ring is left at this part of its slots: accepting into a full table loses the connection.
const FULL_PERCENT: u32 = 95;
/// A ring that was full accepts again from here on.
const ROOM_PERCENT: u32 = 85;
const _: () = assert!(ROOM_PERCENT < FULL_PERCENT && FULL_PERCENT < 100);

/// A table is not made smaller than this, so that a burst finds room above [`FULL_PERCENT`].
const TABLE_SLOTS_MIN: u32 = 64;

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
    used: u32,
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
        let needed = (connections * 100 / u64::from(FULL_PERCENT) + 1).max(u64::from(TABLE_SLOTS_MIN));
        let slots = nofile.min(TABLE_SLOTS_LIMIT).min(needed as u32).max(1);
        // One more for a driver that both accepts and connects.
        let limit = needed.div_ceil(u64::from(slots)) as usize + 1;
        Self { tables: Vec::new(), slots, limit, waker: waker.clone() }
    }

    pub(super) fn len(&self) -> usize {
        self.tables.len()
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
        self.tables.push(Table { ring, used_by: Use::Unused, used: 0 });
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

    /// Notes that the kernel gave out a slot.
    pub(super) fn note_accepted(&mut self, ring: usize) {
        self.tables[ring].used += 1;
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

    /// The ring that is to accept; `None` when all are full. A ring that accepts already keeps on until it is full.
    pub(super) fn accepting(&mut self, present: Option<usize>) -> Result<Option<usize>, ReactorError> {
        if let Some(ring) = present
            && !self.is_full(ring)
        {
            return Ok(Some(ring));
        }
        let room = u64::from(self.slots) * u64::from(ROOM_PERCENT) / 100;
        let has_room = |table: &Table| match table.used_by {
            Use::Connecting { .. } => false,
            Use::Unused | Use::Accepting => u64::from(table.used) < room.max(1),
        };
        let ring = match self.tables.iter().position(has_room) {
            Some(ring) => Some(ring),
            None => self.make_if_allowed()?,
        };
        if let Some(ring) = ring {
            self.tables[ring].used_by = Use::Accepting;
        }
        Ok(ring)
    }

    /// True when an accepting ring is to be left.
    pub(super) fn is_full(&self, ring: usize) -> bool {
        u64::from(self.tables[ring].used) >= u64::from(self.slots) * u64::from(FULL_PERCENT) / 100
    }

    /// True when every slot of the table is taken.
    pub(super) fn is_exhausted(&self, ring: usize) -> bool {
        self.tables[ring].used >= self.slots
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
