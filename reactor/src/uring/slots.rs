//! What the driver knows about a connection: twelve bytes, in chunks that are never copied.
//!
//! The index of a slot is ring × table slots + slot in the ring's file table, so the kernel's own allocation keeps
//! this table dense.

use crate::ConnectionId;
use crate::chunks::Chunks;
use crate::outputs::NO_OUTPUT;

/// Where a connection stands between its first and its last event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// No connection.
    Free,
    /// Accepted by the kernel while the driver was full: not shown to the owner until another one closes.
    Parked,
    /// A connect of ours is on its way.
    Connecting,
    /// Open.
    Open,
    /// Terminated: waits for what the kernel still holds.
    Joining,
    /// Nothing is with the kernel any more but the close itself.
    Closing,
}

/// One connection. `link` is the number of its output while it is [`Phase::Connecting`] or [`Phase::Open`], and the
/// errno it ended with afterwards (0: its owner asked).
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) generation: u32,
    pub(super) link: u32,
    pub(super) flags: Flags,
    pub(super) phase: Phase,
    /// Operations whose completion is still to come.
    pub(super) in_kernel: u8,
}

// 300 bytes of user space per connection is what everything together may cost.
const _: () = assert!(size_of::<Slot>() == 12);

impl Slot {
    const BLANK: Self =
        Self { generation: 0, link: NO_OUTPUT, flags: Flags(0), phase: Phase::Free, in_kernel: 0 };

    /// Starts a life of the slot.
    pub(super) fn occupy(&mut self, phase: Phase) {
        debug_assert!(self.phase == Phase::Free && self.in_kernel == 0, "an occupied slot is not given out");
        *self = Self { generation: self.generation, phase, ..Self::BLANK };
    }

    /// Ends it: the old name finds nothing from now on.
    pub(super) fn vacate(&mut self) {
        debug_assert!(self.in_kernel == 0, "nothing is closed before its completions have come");
        *self = Self { generation: self.generation.wrapping_add(1), ..Self::BLANK };
    }

    /// The number of the output, if there is one.
    pub(super) fn output(&self) -> Option<u32> {
        (matches!(self.phase, Phase::Connecting | Phase::Open) && self.link != NO_OUTPUT).then_some(self.link)
    }
}

/// What is going on with a connection, and what its owner wants.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Flags(u16);

impl Flags {
    /// The multishot poll for input is armed.
    pub(super) const POLL_ARMED: u16 = 1 << 0;
    /// The poll for room in the send buffer is armed.
    pub(super) const WRITABLE_ARMED: u16 = 1 << 1;
    /// It stands in the queue of those that are to be read.
    pub(super) const QUEUED_TO_READ: u16 = 1 << 2;
    /// Its owner wants no more input for now.
    pub(super) const PAUSED: u16 = 1 << 3;
    /// FIN has arrived.
    pub(super) const END_OF_STREAM: u16 = 1 << 4;
    /// It stands in the list of those that the next turn looks at.
    pub(super) const DIRTY: u16 = 1 << 5;
    /// A send was submitted in this pass.
    pub(super) const SENDING: u16 = 1 << 6;
    /// The socket is full; output waits for room.
    pub(super) const BLOCKED: u16 = 1 << 7;
    /// Output was blocked and has not all gone since.
    pub(super) const HELD_BACK: u16 = 1 << 8;
    /// FIN is to follow the output.
    pub(super) const SHUTDOWN_WANTED: u16 = 1 << 9;
    /// FIN was submitted.
    pub(super) const SHUTDOWN_SENT: u16 = 1 << 10;
    /// Close after one more attempt to send.
    pub(super) const CLOSE_WANTED: u16 = 1 << 11;
    /// Close with RST.
    pub(super) const ABORTED: u16 = 1 << 12;
    /// It ended before it was connected.
    pub(super) const CONNECT_FAILED: u16 = 1 << 13;
    /// The poll said that the end is near (FIN or an error); it will not say so again, so read until it comes.
    pub(super) const HUNG_UP: u16 = 1 << 14;
    /// The poll said that the socket has an error.
    pub(super) const ERRED: u16 = 1 << 15;

    pub(super) const fn has(self, flag: u16) -> bool {
        self.0 & flag != 0
    }

    pub(super) fn set(&mut self, flag: u16) {
        self.0 |= flag;
    }

    pub(super) fn clear(&mut self, flag: u16) {
        self.0 &= !flag;
    }

    /// Sets the flag; false when it was set already.
    pub(super) fn raise(&mut self, flag: u16) -> bool {
        let fresh = !self.has(flag);
        self.set(flag);
        fresh
    }

    /// Clears the flag; true when it was set.
    pub(super) fn take(&mut self, flag: u16) -> bool {
        let was = self.has(flag);
        self.clear(flag);
        was
    }

    /// True when the owner will get no other event than `Closed`, and may append no more.
    pub(super) const fn is_closing(self) -> bool {
        self.has(Self::CLOSE_WANTED | Self::ABORTED)
    }
}

/// All slots of a driver.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Chunks<Slot>,
}

impl Slots {
    pub(super) const fn new() -> Self {
        Self { slots: Chunks::new() }
    }

    /// The slot that the kernel or the driver has given out just now.
    pub(super) fn touch(&mut self, index: u32) -> &mut Slot {
        self.slots.find_or_insert_with(index, || Slot::BLANK)
    }

    /// The slot of an index that the driver itself keeps.
    #[inline]
    pub(super) fn at(&mut self, index: u32) -> &mut Slot {
        &mut self.slots[index]
    }

    pub(super) fn find(&self, index: u32) -> Option<&Slot> {
        self.slots.find(index)
    }

    /// The connection that an owner names, unless that is over.
    #[inline]
    pub(super) fn named(&self, id: ConnectionId) -> Option<&Slot> {
        self.slots.find(id.index).filter(|slot| slot.is_named(id))
    }

    /// The same for writing.
    #[inline]
    pub(super) fn named_mut(&mut self, id: ConnectionId) -> Option<&mut Slot> {
        self.slots.find_mut(id.index).filter(|slot| slot.is_named(id))
    }
}

impl Slot {
    fn is_named(&self, id: ConnectionId) -> bool {
        self.generation == id.generation && !matches!(self.phase, Phase::Free | Phase::Parked)
    }
}
