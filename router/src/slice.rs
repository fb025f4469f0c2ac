//! The parts of the key space, and the hash that puts a key into one.
//!
//! The hash is on disk: a database holds the slices that were mapped to it when the data directory was made. So it
//! is written out here, depends on nothing, and is pinned by test vectors. It need not resist an adversary: user
//! ids are given by the operator, and a slice that many chosen keys fall into is as bad as a user with many messages.

use std::fmt;

use holdfast_protocol::id::{ConversationId, UserId};

/// Parts of the key space.
pub const SLICES: u16 = 1024;

// The slice is taken from the top bits of the hash.
const SLICE_BITS: u32 = SLICES.ilog2();
const _: () = assert!(SLICES.is_power_of_two());

/// One part of the key space: `0..SLICES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SliceId(pub u16);

impl SliceId {
    /// Every slice, in order.
    pub fn all() -> impl ExactSizeIterator<Item = Self> + Clone {
        (0..SLICES).map(Self)
    }
}

impl fmt::Display for SliceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a command is about; decides who handles it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key {
    /// A conversation's worker.
    Conversation(ConversationId),
    /// A user's worker.
    User(UserId),
}

// One seed per kind of key, so that a user and a group with the same number are not tied to the same slice. The
// first 128 bits of the fraction of the square root of 2: nothing up the sleeve.
const CONVERSATION_SEED: u64 = 0x6a09_e667_f3bc_c908;
const USER_SEED: u64 = 0xb2fb_1366_ea95_7d3e;

impl Key {
    /// The slice that this key belongs to; the same in every version, because data lies where it says.
    #[must_use]
    pub const fn slice(self) -> SliceId {
        let hash = match self {
            Self::Conversation(ConversationId(pair)) => {
                mix(mix(CONVERSATION_SEED ^ (pair >> 64) as u64) ^ pair as u64)
            }
            Self::User(UserId(user)) => mix(USER_SEED ^ user),
        };
        SliceId((hash >> (u64::BITS - SLICE_BITS)) as u16)
    }
}

/// SplitMix64: the step of its counter, then its finaliser (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number
/// Generators", OOPSLA 2014, with the constants of David Stafford's Mix13). A bijection.
pub(crate) const fn mix(input: u64) -> u64 {
    let z = input.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs of SplitMix64 from seed 0, as its authors' reference implementation gives them.
    #[test]
    fn mix_is_splitmix64() {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let outputs: Vec<u64> = (0..3u64).map(|count| mix(count.wrapping_mul(STEP))).collect();
        assert_eq!(outputs, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
    }

    /// Where things lie on disk. If this fails, change the code back, never the numbers.
    #[test]
    fn slices_never_change() {
        let users = [1, 2, 42, 43, 1_000_000, u64::MAX].map(|user| Key::User(UserId(user)).slice().0);
        assert_eq!(users, [873, 55, 693, 367, 646, 39]);
        let conversations = [
            ConversationId::direct(UserId(1), UserId(2)),
            ConversationId::direct(UserId(42), UserId(43)),
            ConversationId::direct(UserId(43), UserId(42)),
            ConversationId::direct(UserId(1), UserId(u64::MAX)),
            ConversationId(7),
        ]
        .map(|conversation| Key::Conversation(conversation).slice().0);
        assert_eq!(conversations, [413, 282, 282, 640, 238]);
    }

    /// Pearson's chi-squared over the 1,024 slices: with 1,023 degrees of freedom a uniform hash stays between 850
    /// and 1,210 but for one time in 10,000 on either side. Below is as suspicious as above.
    #[test]
    fn neighbouring_ids_spread_evenly() {
        let keys = 200_000u64;
        let spreads = [
            ("users", spread((1..=keys).map(|n| Key::User(UserId(n))))),
            ("users in steps of 4,096", spread((1..=keys).map(|n| Key::User(UserId(n << 12))))),
            ("groups", spread((1..=keys).map(|n| Key::Conversation(ConversationId(n.into()))))),
            ("one user's conversations", spread((1..=keys).map(|n| direct(n + 1, 1)))),
            ("neighbours' conversations", spread((1..=keys).map(|n| direct(n, n + 1)))),
        ];
        for (name, chi_squared) in spreads {
            assert!((850.0..1_210.0).contains(&chi_squared), "{name}: {chi_squared}");
        }
    }

    fn direct(one: u64, other: u64) -> Key {
        Key::Conversation(ConversationId::direct(UserId(one), UserId(other)))
    }

    fn spread(keys: impl Iterator<Item = Key>) -> f64 {
        let mut counts = [0u32; SLICES as usize];
        for key in keys {
            counts[usize::from(key.slice().0)] += 1;
        }
        let expected = f64::from(counts.iter().sum::<u32>()) / f64::from(SLICES);
        counts.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum()
    }
}
