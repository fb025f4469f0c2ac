//! Many sets of numbers in little memory: most have a handful of members, some have thousands.
//!
//! A set is named by 32 bits, which its owner keeps and gets anew with every change. The only member of a set stands in
//! the name itself. More of them lie side by side in a block; blocks have the sizes 2, 3, 4, 6, 8, 12, … and come from
//! pieces that never move, so that nothing is copied but one set's own members, and nothing doubles at once.
//!
//! Members have places, 0 and up; a set's owner may go through them while it changes.

/// Places in a piece of small blocks.
const PIECE: usize = 4_096;
/// Marks a place that nobody has, and the empty set.
const NOBODY: u32 = u32::MAX;
/// Marks a name that is a member.
const ALONE: u32 = 1 << 31;
const SIZE_SHIFT: u32 = 25;

/// What can be a member: numbers below this.
pub(super) const MEMBERS_MAX: u32 = NOBODY - ALONE;

/// The name of a set; worth something only to the [`Sets`] that it is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Set(u32);

/// How a set is stored.
enum Stored {
    Empty,
    Alone(u32),
    /// The block's size, as a place in `Sets::sizes`, and which of them it is.
    Block(usize, usize),
}

impl Set {
    pub(super) const EMPTY: Self = Self(NOBODY);

    fn alone(member: u32) -> Self {
        Self(member | ALONE)
    }

    fn block(size: usize, block: usize) -> Self {
        Self((size as u32) << SIZE_SHIFT | block as u32)
    }

    pub(super) fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    fn stored(self) -> Stored {
        match self.0 {
            NOBODY => Stored::Empty,
            name if name & ALONE != 0 => Stored::Alone(name & !ALONE),
            name => Stored::Block((name >> SIZE_SHIFT) as usize, (name & ((1 << SIZE_SHIFT) - 1)) as usize),
        }
    }
}

/// Members that a block of this size holds: 2, 3, 4, 6, 8, 12, …
const fn members_of(size: usize) -> usize {
    (2 + (size & 1)) << (size >> 1)
}

/// All blocks of one size.
#[derive(Debug, Default)]
struct Blocks {
    pieces: Vec<Box<[u32]>>,
    /// Blocks that were ever used.
    used: usize,
    /// The first of those that are free; each says in its first place which is the next one.
    free: Option<usize>,
}

impl Blocks {
    const fn per_piece(size: usize) -> usize {
        let blocks = PIECE / members_of(size);
        if blocks == 0 { 1 } else { blocks }
    }

    fn at(&self, size: usize, block: usize) -> &[u32] {
        let (per_piece, members) = (Self::per_piece(size), members_of(size));
        &self.pieces[block / per_piece][block % per_piece * members..][..members]
    }

    fn at_mut(&mut self, size: usize, block: usize) -> &mut [u32] {
        let (per_piece, members) = (Self::per_piece(size), members_of(size));
        &mut self.pieces[block / per_piece][block % per_piece * members..][..members]
    }

    fn take(&mut self, size: usize) -> usize {
        if let Some(block) = self.free {
            let next = self.at(size, block)[0];
            self.free = (next != NOBODY).then_some(next as usize);
            self.at_mut(size, block).fill(NOBODY);
            return block;
        }
        let block = self.used;
        if block == self.pieces.len() * Self::per_piece(size) {
            let places = Self::per_piece(size) * members_of(size);
            self.pieces.push(vec![NOBODY; places].into_boxed_slice());
        }
        self.used += 1;
        block
    }

    fn give_back(&mut self, size: usize, block: usize) {
        let next = self.free.map_or(NOBODY, |next| next as u32);
        self.at_mut(size, block)[0] = next;
        self.free = Some(block);
    }
}

/// See the module's doc.
#[derive(Debug, Default)]
pub(super) struct Sets {
    sizes: Vec<Blocks>,
}

impl Sets {
    /// How many members it has.
    pub(super) fn len(&self, set: Set) -> usize {
        match set.stored() {
            Stored::Empty => 0,
            Stored::Alone(_) => 1,
            Stored::Block(size, block) => {
                self.sizes[size].at(size, block).partition_point(|&member| member != NOBODY)
            }
        }
    }

    /// The member at a place below [`Sets::len`].
    pub(super) fn at(&self, set: Set, place: usize) -> u32 {
        match set.stored() {
            Stored::Empty => NOBODY,
            Stored::Alone(member) => member,
            Stored::Block(size, block) => self.sizes[size].at(size, block)[place],
        }
    }

    /// Where a member is.
    pub(super) fn find(&self, set: Set, member: u32) -> Option<usize> {
        match set.stored() {
            Stored::Empty => None,
            Stored::Alone(alone) => (alone == member).then_some(0),
            Stored::Block(size, block) => {
                self.sizes[size].at(size, block).iter().position(|&other| other == member)
            }
        }
    }

    /// Two members take each other's place.
    pub(super) fn swap(&mut self, set: Set, one: usize, other: usize) {
        if let Stored::Block(size, block) = set.stored() {
            self.sizes[size].at_mut(size, block).swap(one, other);
        }
    }

    /// Adds a member that is not in it, at the last place.
    pub(super) fn insert(&mut self, set: Set, member: u32) -> Set {
        debug_assert!(member < MEMBERS_MAX);
        match set.stored() {
            Stored::Empty => Set::alone(member),
            Stored::Alone(first) => self.store(0, &[first, member]),
            Stored::Block(size, block) => {
                let len = self.len(set);
                if len < members_of(size) {
                    self.sizes[size].at_mut(size, block)[len] = member;
                    return set;
                }
                let set = self.moved(size, block, size + 1);
                self.insert(set, member)
            }
        }
    }

    /// Takes a member out; the last one takes its place.
    pub(super) fn remove(&mut self, set: Set, place: usize) -> Set {
        let Stored::Block(size, block) = set.stored() else { return Set::EMPTY };
        let last = self.len(set) - 1;
        let members = self.sizes[size].at_mut(size, block);
        members[place] = members[last];
        members[last] = NOBODY;
        if last == 1 {
            let alone = members[0];
            self.sizes[size].give_back(size, block);
            return Set::alone(alone);
        }
        // Not as soon as it fits: who comes and goes is not to be copied each time.
        match size.checked_sub(2) {
            Some(smaller) if last < members_of(smaller) => self.moved(size, block, smaller),
            _ => set,
        }
    }

    fn moved(&mut self, from: usize, block: usize, to: usize) -> Set {
        let members = self.sizes[from].at(from, block);
        let members: Vec<u32> = members.iter().copied().take_while(|&member| member != NOBODY).collect();
        self.sizes[from].give_back(from, block);
        self.store(to, &members)
    }

    fn store(&mut self, size: usize, members: &[u32]) -> Set {
        if self.sizes.len() <= size {
            self.sizes.resize_with(size + 1, Blocks::default);
        }
        let block = self.sizes[size].take(size);
        self.sizes[size].at_mut(size, block)[..members.len()].copy_from_slice(members);
        Set::block(size, block)
    }

    /// Bytes that it takes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.sizes.iter().flat_map(|blocks| &blocks.pieces).map(|piece| size_of_val(&**piece)).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(sets: &Sets, set: Set) -> Vec<u32> {
        (0..sets.len(set)).map(|place| sets.at(set, place)).collect()
    }

    #[test]
    fn sizes_grow_by_a_third_or_a_half() {
        assert_eq!((0..8).map(members_of).collect::<Vec<_>>(), [2, 3, 4, 6, 8, 12, 16, 24]);
    }

    #[test]
    fn a_million_members_and_back_to_none() {
        let mut sets = Sets::default();
        let mut set = Set::EMPTY;
        for member in 0..1_000_000 {
            set = sets.insert(set, member);
        }
        assert_eq!(sets.len(set), 1_000_000);
        assert_eq!(sets.find(set, 777_777), Some(777_777));
        for left in (0..1_000_000).rev() {
            set = sets.remove(set, left);
        }
        assert!(set.is_empty());
    }

    #[test]
    fn blocks_that_are_given_back_are_used_again() {
        let mut sets = Sets::default();
        let mut bytes = Vec::new();
        for _ in 0..3 {
            let all: Vec<Set> = (0..10_000)
                .map(|_| (0..5).fold(Set::EMPTY, |set, member| sets.insert(set, member)))
                .collect();
            bytes.push(sets.bytes());
            for mut set in all {
                while !set.is_empty() {
                    set = sets.remove(set, 0);
                }
            }
        }
        assert_eq!(bytes, [bytes[0]; 3]);
    }

    proptest! {
        /// Several sets are what vectors would be.
        #[test]
        fn they_are_what_vectors_are(steps in prop::collection::vec((0..4usize, 0..3u8, any::<prop::sample::Index>()), 0..300)) {
            let mut sets = Sets::default();
            let mut all = [Set::EMPTY; 4];
            let mut vectors: [Vec<u32>; 4] = Default::default();
            for (member, (which, what, index)) in (0..).zip(steps) {
                let (set, vector) = (&mut all[which], &mut vectors[which]);
                if what == 0 && !vector.is_empty() {
                    let place = index.index(vector.len());
                    prop_assert_eq!(sets.find(*set, vector[place]), Some(place));
                    *set = sets.remove(*set, place);
                    let gone = vector.swap_remove(place);
                    prop_assert_eq!(sets.find(*set, gone), None);
                } else if what == 1 && vector.len() > 1 {
                    let (one, other) = (index.index(vector.len()), vector.len() - 1);
                    sets.swap(*set, one, other);
                    vector.swap(one, other);
                } else {
                    *set = sets.insert(*set, member);
                    vector.push(member);
                }
                for (set, vector) in all.iter().zip(&vectors) {
                    prop_assert_eq!(&members(&sets, *set), vector);
                    prop_assert_eq!(set.is_empty(), vector.is_empty());
                }
            }
        }
    }
}
