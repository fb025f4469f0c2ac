//! Chance, seeded: the same numbers from the same seed, on every machine and in every version of this crate.

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): one addition and two multiplications a number, any seed is good.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

/// How often something happens, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chance(u32);

impl Chance {
    /// It does not happen.
    pub const NEVER: Self = Self(0);
    /// It happens whenever it can.
    pub const ALWAYS: Self = Self(Self::WHOLE);

    const WHOLE: u32 = 1_000_000;

    /// It happens in so many cases of a million.
    #[must_use]
    pub const fn per_million(cases: u32) -> Self {
        Self(if cases > Self::WHOLE { Self::WHOLE } else { cases })
    }

    /// It happens in so many cases of a hundred.
    #[must_use]
    pub const fn percent(cases: u32) -> Self {
        Self::per_million(cases.saturating_mul(Self::WHOLE / 100))
    }

    /// So many times as often, as far as that goes.
    #[must_use]
    pub const fn times(self, factor: u32) -> Self {
        Self::per_million(self.0.saturating_mul(factor))
    }
}

impl Random {
    /// A sequence of its own for every seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// 64 random bits.
    pub const fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from 0 to `bound - 1`; 0 when `bound` is 0. (Scaled, so that large bounds favour some numbers by
    /// less than 2^-32 each: nobody here can tell.)
    pub const fn below(&mut self, bound: u64) -> u64 {
        ((self.bits() as u128 * bound as u128) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub const fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below((high - low).saturating_add(1))
    }

    /// Whether it happens this time. What cannot happen costs no number.
    pub const fn happens(&mut self, chance: Chance) -> bool {
        chance.0 != 0 && self.below(Chance::WHOLE as u64) < chance.0 as u64
    }

    /// A sequence of its own, for another part of the test.
    #[must_use]
    pub const fn fork(&mut self) -> Self {
        Self::new(self.bits())
    }

    /// Puts a list into another order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_published_one() {
        // From the reference implementation (prng.di.unimi.it/splitmix64.c) with the state 1234567.
        let mut random = Random::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| random.bits()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn every_number_in_reach_comes_and_no_other() {
        let mut random = Random::new(7);
        let mut seen = [0u32; 5];
        for _ in 0..1_000 {
            seen[random.between(10, 14) as usize - 10] += 1;
        }
        assert!(seen.iter().all(|count| (120..280).contains(count)), "{seen:?}");
        assert_eq!(random.below(0), 0);
    }

    #[test]
    fn chances_are_kept() {
        let mut random = Random::new(8);
        let hits = (0..100_000).filter(|_| random.happens(Chance::percent(3))).count();
        assert!((2_700..3_300).contains(&hits), "{hits} of 100,000 at 3 %");
        assert!((0..1_000).all(|_| random.happens(Chance::ALWAYS)));
        assert!((0..1_000).all(|_| !random.happens(Chance::NEVER)));
    }
}
