//! Random numbers from a seed: cheap, repeatable, and not for secrets.
//!
//! A run prints its seed; the same seed gives the same arrivals, the same pairs and the same masks. RFC 6455 §5.3
//! wants masks that a *script in a browser* cannot foresee; a load generator has no such script, so a seeded
//! generator is enough here (and would not be in a client library).

/// SplitMix64 (Steele, Lea, Flood 2014): one add and two multiplications per number.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A sequence that follows from `seed` alone.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// An independent sequence for one purpose (`stream`) of the same seed.
    #[must_use]
    pub const fn stream(seed: u64, stream: u64) -> Self {
        Self { state: mix(seed ^ mix(stream.wrapping_add(1))) }
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A number below `bound`, as good as uniform for bounds up to 2^32; 0 for a bound of 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        // Multiply and shift instead of a division: the bias is below bound / 2^32.
        ((u64::from(self.bits() as u32) * u64::from(bound)) >> 32) as u32
    }

    /// A frame mask.
    pub fn mask(&mut self) -> [u8; 4] {
        (self.bits() as u32).to_ne_bytes()
    }

    /// Exponentially distributed with mean 1: the gap between two arrivals of a Poisson process of rate 1.
    pub fn exponential(&mut self) -> f64 {
        // 53 bits, moved by half a step so that the logarithm never sees 0.
        let uniform = ((self.bits() >> 11) as f64 + 0.5) * (1.0 / (1u64 << 53) as f64);
        -uniform.ln()
    }

    /// Sixteen random bytes, as a handshake's key wants them.
    pub fn bytes16(&mut self) -> [u8; 16] {
        (u128::from(self.bits()) << 64 | u128::from(self.bits())).to_ne_bytes()
    }
}

const fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_numbers_other_stream_other_numbers() {
        let mut one = Random::stream(7, 1);
        let mut again = Random::stream(7, 1);
        let mut other = Random::stream(7, 2);
        let numbers: Vec<u64> = (0..8).map(|_| one.bits()).collect();
        assert_eq!(numbers, (0..8).map(|_| again.bits()).collect::<Vec<_>>());
        assert_ne!(numbers, (0..8).map(|_| other.bits()).collect::<Vec<_>>());
    }

    #[test]
    fn below_stays_below_and_reaches_every_value() {
        let mut random = Random::new(1);
        let mut seen = [0u32; 10];
        for _ in 0..10_000 {
            seen[random.below(10) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| (800..1_200).contains(&count)), "not uniform: {seen:?}");
        assert_eq!(random.below(0), 0);
        assert_eq!(random.below(1), 0);
    }

    #[test]
    fn exponential_has_mean_one_and_variance_one() {
        let mut random = Random::new(2);
        let samples: Vec<f64> = (0..100_000).map(|_| random.exponential()).collect();
        let mean = samples.iter().sum::<f64>() / samples.len() as f64;
        let variance = samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / samples.len() as f64;
        assert!((mean - 1.0).abs() < 0.02, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.05, "variance {variance}");
        assert!(samples.iter().all(|x| x.is_finite() && *x >= 0.0));
    }
}
