//! Who sends to whom.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::random::Random;

/// Every member has one receiver, and every member is the receiver of one.
#[derive(Debug, Clone)]
pub enum Pairing {
    /// 0 and 1 talk to each other, 2 and 3, and so on.
    Neighbours,
    /// A random member to a random other one: one random cycle through all of them.
    Cycle(Arc<[u32]>),
}

impl Pairing {
    /// A random cycle through `members` (at least 2), the same for the same seed.
    ///
    /// Sattolo's algorithm: uniform over all cycles, so nobody is its own receiver.
    #[must_use]
    pub fn cycle(members: u32, seed: u64) -> Self {
        let mut random = Random::stream(seed, 0xc9c1e);
        let mut receivers: Vec<u32> = (0..members).collect();
        for last in (1..members).rev() {
            receivers.swap(last as usize, random.below(last) as usize);
        }
        Self::Cycle(receivers.into())
    }

    /// The receiver of a member's messages; a member that does not exist sends to itself.
    #[must_use]
    pub fn receiver(&self, member: u32) -> u32 {
        match self {
            Self::Neighbours => member ^ 1,
            Self::Cycle(receivers) => receivers.get(member as usize).copied().unwrap_or(member),
        }
    }
}

/// One bit per member, shared by all threads.
#[derive(Debug)]
pub struct Marks {
    words: Box<[AtomicU64]>,
}

impl Marks {
    /// None set.
    #[must_use]
    pub fn new(members: u32) -> Self {
        Self { words: (0..members.div_ceil(64)).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Sets a member's.
    pub fn set(&self, member: u32) {
        if let Some(word) = self.words.get(member as usize / 64) {
            word.fetch_or(1 << (member % 64), Ordering::Relaxed);
        }
    }

    /// True when a member's is set.
    #[must_use]
    pub fn is_set(&self, member: u32) -> bool {
        let word = self.words.get(member as usize / 64);
        word.is_some_and(|word| word.load(Ordering::Relaxed) >> (member % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_talk_to_each_other() {
        assert_eq!([0, 1, 6, 7].map(|member| Pairing::Neighbours.receiver(member)), [1, 0, 7, 6]);
    }

    #[test]
    fn a_cycle_visits_everybody_once() {
        for members in [2, 3, 1_000] {
            let pairing = Pairing::cycle(members, 5);
            let mut seen = vec![false; members as usize];
            let mut member = 0;
            for _ in 0..members {
                assert!(!std::mem::replace(&mut seen[member as usize], true), "{members}: {member} twice");
                member = pairing.receiver(member);
            }
            assert_eq!(member, 0);
        }
        assert_eq!(Pairing::cycle(2, 5).receiver(99), 99);
    }

    #[test]
    fn marks() {
        let marks = Marks::new(100);
        marks.set(64);
        marks.set(1_000);
        assert!(marks.is_set(64) && !marks.is_set(63) && !marks.is_set(65) && !marks.is_set(1_000));
    }
}
