//! The ends of sequences: of `seq`s per conversation, of `rev`s per user; in memory as far as they fit.
//!
//! The one invariant: **a number that was given to something in the present batch is never given again**, whatever the
//! cache forgets: numbers of the present batch stand apart until it is known to be durable, and all is forgotten when
//! it is not.

use std::hash::Hash;

use hashbrown::HashMap;

/// A bounded cache of heads, with those of the present batch on top.
///
/// Two generations: when the young one is full it becomes the old one, and the old one is dropped. What is used moves
/// to the young one, so that at least `most / 2` of the last used are there.
#[derive(Debug)]
pub(crate) struct Heads<K, V> {
    fresh: HashMap<K, V>,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    most: usize,
}

impl<K: Hash + Eq + Copy, V: Copy> Heads<K, V> {
    /// Keeps at most `most` heads, those of the present batch not counted.
    pub(crate) fn new(most: usize) -> Self {
        Self { fresh: HashMap::new(), young: HashMap::new(), old: HashMap::new(), most: most.max(2) }
    }

    /// The head, if it is known here.
    pub(crate) fn get(&mut self, key: K) -> Option<V> {
        if let Some(&head) = self.fresh.get(&key) {
            return Some(head);
        }
        self.durable(key)
    }

    /// The head as it was before the present batch, if it is known here.
    fn durable(&mut self, key: K) -> Option<V> {
        if let Some(&head) = self.young.get(&key) {
            return Some(head);
        }
        let head = self.old.remove(&key)?;
        self.keep(key, head);
        Some(head)
    }

    /// The head in the present batch.
    pub(crate) fn set(&mut self, key: K, head: V) {
        self.fresh.insert(key, head);
    }

    /// Remembers a head that was read from the store.
    pub(crate) fn keep(&mut self, key: K, head: V) {
        if self.young.len() >= self.most / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, head);
    }

    /// The present batch is durable.
    pub(crate) fn commit(&mut self) {
        let mut fresh = std::mem::take(&mut self.fresh);
        for (key, head) in fresh.drain() {
            // The other generation must not answer with an older head later.
            self.old.remove(&key);
            self.keep(key, head);
        }
        self.fresh = fresh;
    }

    /// The present batch is not durable, or perhaps it is: only the store knows.
    pub(crate) fn forget(&mut self) {
        self.fresh.clear();
        self.young.clear();
        self.old.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_present_batch_is_never_forgotten() {
        let mut heads = Heads::new(4);
        for key in 0..100 {
            heads.set(key, key + 1);
        }
        assert!((0..100).all(|key| heads.get(key) == Some(key + 1)));
        heads.commit();
        assert!((0..100).filter(|&key| heads.get(key).is_some()).count() <= 4);
    }

    #[test]
    fn an_older_head_never_comes_back() {
        let mut heads = Heads::new(8);
        heads.keep(1, 10);
        for key in 100..104 {
            heads.keep(key, 0);
        }
        // 1 is in the old generation now.
        heads.set(1, 11);
        heads.commit();
        for key in 200..300 {
            assert!(matches!(heads.get(1), Some(11)));
            heads.keep(key, 0);
        }
    }

    #[test]
    fn a_failed_batch_is_forgotten_with_all_before() {
        let mut heads = Heads::new(8);
        heads.keep(1, 10);
        heads.set(1, 11);
        heads.forget();
        assert_eq!(heads.get(1), None);
    }

    #[test]
    fn what_is_used_stays() {
        let mut heads = Heads::new(100);
        heads.keep(0, 7);
        for key in 1..10_000 {
            heads.keep(key, key);
            assert_eq!(heads.get(0), Some(7));
        }
        assert!(heads.young.len() + heads.old.len() <= 100);
    }
}
