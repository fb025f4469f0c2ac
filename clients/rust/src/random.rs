//! Where random numbers come from.

/// A source of random numbers: for masking keys, the handshake's key, names of messages, and jitter.
///
/// In production it must be unpredictable, as RFC 6455 §10.3 demands of masking keys; in a test, a seed.
pub trait Random {
    /// 64 random bits.
    fn next_u64(&mut self) -> u64;
}

impl<F: FnMut() -> u64> Random for F {
    fn next_u64(&mut self) -> u64 {
        self()
    }
}

/// A masking key for the next frame.
pub(crate) fn masking_key(random: &mut impl Random) -> [u8; 4] {
    let [a, b, c, d, ..] = random.next_u64().to_le_bytes();
    [a, b, c, d]
}

/// A number from 0 to `max`, both included.
pub(crate) fn up_to(random: &mut impl Random, max: u64) -> u64 {
    // The high half of the product: as good as a modulo without its bias towards small numbers.
    ((u128::from(random.next_u64()) * (u128::from(max) + 1)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_to_reaches_both_ends_and_not_beyond() {
        assert_eq!(up_to(&mut || 0, 9), 0);
        assert_eq!(up_to(&mut || u64::MAX, 9), 9);
        assert_eq!(up_to(&mut || u64::MAX, 0), 0);
        assert_eq!(up_to(&mut || u64::MAX, u64::MAX), u64::MAX);
        assert_eq!(up_to(&mut || 1 << 63, 9), 5);
    }
}
