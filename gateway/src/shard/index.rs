//! A hash table of numbers that does not grow all at once.
//!
//! An ordinary table doubles: just after that, half of it is empty, and while it does, everybody waits until all of it
//! has moved, which for a million entries takes as long as ten thousand messages. This one has 64 parts whose shares
//! of the entries differ, from one to almost two of the smallest, so that at any time some have just doubled and others
//! are about to: it is never much emptier than the mean, and no step moves more than a part.

use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashTable};

/// Its parts.
const PARTS: u32 = 64;

/// See the module's doc. What a number stands for, and its key, is known to whoever has the table.
#[derive(Debug)]
pub(super) struct Index {
    parts: Box<[HashTable<u32>]>,
    hasher: DefaultHashBuilder,
}

impl Default for Index {
    fn default() -> Self {
        Self { parts: (0..PARTS).map(|_| HashTable::new()).collect(), hasher: DefaultHashBuilder::default() }
    }
}

impl Index {
    /// The number whose key this is.
    pub(super) fn find(&self, key: u64, key_of: impl Fn(u32) -> u64) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.parts[part(hash)].find(hash, |&number| key_of(number) == key).copied()
    }

    /// Adds a number whose key is not in it.
    pub(super) fn insert(&mut self, key: u64, number: u32, key_of: impl Fn(u32) -> u64) {
        let Self { parts, hasher } = self;
        let hash = hasher.hash_one(key);
        parts[part(hash)].insert_unique(hash, number, |&number| hasher.hash_one(key_of(number)));
    }

    /// Takes a number out.
    pub(super) fn remove(&mut self, key: u64, number: u32) {
        let hash = self.hasher.hash_one(key);
        if let Ok(entry) = self.parts[part(hash)].find_entry(hash, |&other| other == number) {
            entry.remove();
        }
    }

    /// Nothing is in it.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.parts.iter().all(HashTable::is_empty)
    }

    /// Bytes that it takes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.parts.iter().map(HashTable::allocation_size).sum()
    }
}

/// Where a hash belongs: the part n has a share of 2^(n/64) - 2^((n-1)/64). Of the hash, it takes bits that the tables
/// look at last.
fn part(hash: u64) -> usize {
    let share = f64::from((hash >> 20) as u32) / f64::from(u32::MAX);
    ((1.0 + share).log2() * f64::from(PARTS)).min(f64::from(PARTS - 1)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_found_until_it_is_taken_out() {
        let mut index = Index::default();
        let keys: Vec<u64> = (0..10_000).map(|n| n * 977).collect();
        let key_of = |number: u32| keys[number as usize];
        for (number, &key) in (0..).zip(&keys) {
            assert_eq!(index.find(key, key_of), None);
            index.insert(key, number, key_of);
        }
        for (number, &key) in (0..).zip(&keys).filter(|(number, _)| number % 3 == 0) {
            index.remove(key, number);
        }
        for (number, &key) in (0..).zip(&keys) {
            assert_eq!(index.find(key, key_of), (number % 3 != 0).then_some(number));
        }
    }

    /// An ordinary table has 5.7 bytes a number at best and 11.4 just after it has doubled.
    #[test]
    fn it_is_about_as_full_whatever_is_in_it() {
        let mut index = Index::default();
        let key_of = u64::from;
        let mut least = f64::MAX;
        let mut most = 0f64;
        for number in 0..1_200_000u32 {
            index.insert(number.into(), number, key_of);
            if number >= 500_000 && number % 10_000 == 0 {
                let each = index.bytes() as f64 / f64::from(number + 1);
                (least, most) = (least.min(each), most.max(each));
            }
        }
        assert!(least > 5.0 && most < 9.0, "{least} to {most} bytes each");
    }
}
