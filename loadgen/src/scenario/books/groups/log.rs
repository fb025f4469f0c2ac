//! What stands at which `seq` of a group: a ring per group, all in one slab.
//!
//! The first who sees a `seq` (an event of any member, or the sender's `accepted`) writes it down; everybody else is
//! compared with it. A reader who is further behind than a ring is long finds its place taken by a later `seq`: its
//! events are then judged by their stamps alone, and the sums in the books still find another order.

use crate::random::Random;

/// What a `seq` turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Named by an `accepted`; no event has shown it yet.
    Promised,
    /// A message in its sender's order.
    Sound,
    /// A message whose number and `seq` are not in the same order as its sender's others.
    Reordered,
    /// The same, of a sender who had been refused and had to send again.
    Resequenced,
    /// A message that another `seq` has already.
    Doubled,
    /// No message: what happened to the group itself.
    Plain,
}

/// One `seq`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    /// What it adds to the sum of each reader: the same for all readers who saw the same at the same place.
    pub(super) mix: u64,
    /// When the schedule wanted it sent.
    pub(super) intended_ns: u64,
    /// 0: nothing stands here.
    pub(super) seq: u32,
    /// Checksum of the encoded entry, if `has_print`.
    pub(super) print: u32,
    /// The message's number among its sender's.
    pub(super) number: u32,
    /// Who sent it: the place in the group.
    pub(super) sender: u16,
    pub(super) kind: Kind,
    pub(super) has_print: bool,
}

// Two of them in a line of the cache.
const _: () = assert!(size_of::<Slot>() == 32);

impl Slot {
    const EMPTY: Self = Self {
        mix: 0,
        intended_ns: 0,
        seq: 0,
        print: 0,
        number: 0,
        sender: u16::MAX,
        kind: Kind::Plain,
        has_print: false,
    };

    /// Something at a `seq`; without a print.
    pub(super) fn new(seq: u32, sender: u16, number: u32, intended_ns: u64, kind: Kind) -> Self {
        let what = u64::from(sender) << 32 | u64::from(number);
        let mix = Random::stream(u64::from(seq), what).bits();
        Self { mix, intended_ns, seq, number, sender, kind, ..Self::EMPTY }
    }

    /// True when both say that the same stands at the same place.
    pub(super) const fn agrees(&self, other: &Self) -> bool {
        self.mix == other.mix && self.seq == other.seq
    }
}

/// See the module's doc.
#[derive(Debug)]
pub(super) struct Log {
    slots: Vec<Slot>,
    /// Slots of one group, less one; a power of two less one.
    mask: u32,
}

impl Log {
    pub(super) fn new(groups: u32, slots_per_group: u32) -> Self {
        let slots = slots_per_group.next_power_of_two();
        Self { slots: vec![Slot::EMPTY; groups as usize * slots as usize], mask: slots - 1 }
    }

    pub(super) fn slot(&mut self, group: u32, seq: u32) -> &mut Slot {
        let index = group as usize * (self.mask as usize + 1) + (seq & self.mask) as usize;
        &mut self.slots[index]
    }
}
