//! When to reconnect.
//!
//! What the server said counts first: a close code that means "do not", a delay of a `drain` frame or of
//! `Retry-After`. Else the delay is drawn from zero to a bound that doubles with each failure ("full jitter"), so that
//! clients that were cut off together do not come back together.

use holdfast_protocol::chat::close::Reconnect;

use crate::random::{Random, up_to};

/// A connection that lasted this long was a success: the next failure is the first again.
const STABLE_MS: u64 = 10_000;

#[derive(Debug)]
pub(crate) struct Backoff {
    first_ms: u64,
    max_ms: u64,
    failures: u32,
    /// When the server wants to see this client again.
    not_before: Option<Hint>,
}

#[derive(Debug, Clone, Copy)]
enum Hint {
    /// A time of this client's own.
    At(u64),
    /// A time that others were given as well.
    Shared(u64),
}

impl Backoff {
    pub(crate) const fn new(first_ms: u64, max_ms: u64) -> Self {
        Self { first_ms, max_ms, failures: 0, not_before: None }
    }

    /// `drain` gave this client a time of its own.
    pub(crate) const fn come_back_at(&mut self, at_ms: u64) {
        self.not_before = Some(Hint::At(at_ms));
    }

    /// An error or `Retry-After` said when; perhaps the same to a million others.
    pub(crate) const fn not_before(&mut self, at_ms: u64) {
        if !matches!(self.not_before, Some(Hint::At(_))) {
            self.not_before = Some(Hint::Shared(at_ms));
        }
    }

    /// When to connect again, after a connection that was welcomed `lasted_ms` ago, if it was; `None`: never.
    pub(crate) fn next(
        &mut self,
        now_ms: u64,
        lasted_ms: Option<u64>,
        reconnect: Reconnect,
        random: &mut impl Random,
    ) -> Option<u64> {
        if lasted_ms.is_some_and(|lasted| lasted >= STABLE_MS) {
            self.failures = 0;
        }
        let is_first = self.failures == 0;
        let bound_ms = self.first_ms.saturating_mul(1 << self.failures.min(32)).min(self.max_ms);
        self.failures = self.failures.saturating_add(1);
        let jitter_ms = up_to(random, bound_ms);
        match (reconnect, self.not_before.take()) {
            (Reconnect::Never, _) => None,
            (_, Some(Hint::At(at_ms))) if at_ms > now_ms => Some(at_ms),
            (_, Some(Hint::Shared(at_ms))) if at_ms > now_ms => Some(at_ms.saturating_add(jitter_ms)),
            (Reconnect::AtOnce, _) if is_first => Some(now_ms),
            _ => Some(now_ms.saturating_add(jitter_ms)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATEST: fn() -> u64 = || u64::MAX;

    fn backoff() -> Backoff {
        Backoff::new(1_000, 60_000)
    }

    #[test]
    fn the_bound_doubles_up_to_its_maximum_and_starts_again_after_a_success() {
        let mut backoff = backoff();
        let delays: Vec<_> =
            (0..8).map(|_| backoff.next(0, None, Reconnect::AfterDelay, &mut { LATEST })).collect();
        assert_eq!(delays, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000].map(Some));
        let short = Some(STABLE_MS - 1);
        assert_eq!(backoff.next(5, short, Reconnect::AfterDelay, &mut { LATEST }), Some(60_005));
        assert_eq!(backoff.next(5, Some(STABLE_MS), Reconnect::AfterDelay, &mut { LATEST }), Some(1_005));
        assert_eq!(backoff.next(5, None, Reconnect::AfterDelay, &mut || 0), Some(5));
        for _ in 0..100 {
            let next = backoff.next(u64::MAX - 5, None, Reconnect::AfterDelay, &mut { LATEST });
            assert_eq!(next, Some(u64::MAX));
        }
    }

    #[test]
    fn what_the_server_said_counts_first() {
        let mut backoff = backoff();
        backoff.not_before(7_000);
        assert_eq!(backoff.next(100, None, Reconnect::AfterDelay, &mut { LATEST }), Some(8_000));
        // A time of its own is kept exactly, whatever else is said; once.
        backoff.come_back_at(9_000);
        backoff.not_before(50_000);
        assert_eq!(backoff.next(100, None, Reconnect::AtOnce, &mut { LATEST }), Some(9_000));
        assert_eq!(backoff.next(100, None, Reconnect::AfterDelay, &mut { LATEST }), Some(4_100));
        backoff.come_back_at(50);
        assert_eq!(backoff.next(100, None, Reconnect::AfterDelay, &mut || 0), Some(100));
        assert_eq!(backoff.next(100, None, Reconnect::Never, &mut { LATEST }), None);
    }

    #[test]
    fn at_once_is_believed_once() {
        let mut backoff = backoff();
        assert_eq!(backoff.next(100, Some(STABLE_MS), Reconnect::AtOnce, &mut { LATEST }), Some(100));
        assert_eq!(backoff.next(100, Some(5), Reconnect::AtOnce, &mut { LATEST }), Some(2_100));
    }
}
