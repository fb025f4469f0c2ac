//! A rate limit in eight bytes: the generic cell rate algorithm.
//!
//! Instead of counting tokens it keeps the moment at which the bucket would be full again, so nothing has to be
//! refilled and an idle session costs no work.

use std::time::Duration;

use holdfast_reactor::Moment;

/// How much is allowed: `burst` at once, and one more each `interval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The time that pays for one.
    pub interval: Duration,
    /// How many may come at once.
    pub burst: u32,
}

impl Rate {
    /// `count` per `period`, with a burst of `burst`.
    #[must_use]
    pub fn new(count: u32, period: Duration, burst: u32) -> Self {
        Self { interval: period / count.max(1), burst: burst.max(1) }
    }
}

/// What one session has used of a [`Rate`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent(Moment);

impl Spent {
    /// Takes one, or says how long to wait until one is there.
    ///
    /// # Errors
    /// The time after which the same call would succeed.
    pub fn take(&mut self, rate: Rate, now: Moment) -> Result<(), Duration> {
        let theoretical = self.0.max(now);
        let tolerance = rate.interval * (rate.burst - 1);
        let ahead = theoretical.since(now);
        if ahead > tolerance {
            return Err(ahead - tolerance);
        }
        self.0 = theoretical.after(rate.interval);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment(ms * 1_000_000)
    }

    #[test]
    fn a_burst_passes_and_one_more_does_not() {
        let rate = Rate::new(20, Duration::from_secs(1), 100);
        let mut spent = Spent::default();
        for _ in 0..100 {
            assert!(spent.take(rate, at(5_000)).is_ok());
        }
        assert_eq!(spent.take(rate, at(5_000)), Err(Duration::from_millis(50)));
        assert!(spent.take(rate, at(5_050)).is_ok());
        assert!(spent.take(rate, at(5_050)).is_err());
    }

    #[test]
    fn the_sustained_rate_passes_for_ever() {
        let rate = Rate::new(20, Duration::from_secs(1), 1);
        let mut spent = Spent::default();
        for step in 0..10_000 {
            assert!(spent.take(rate, at(step * 50)).is_ok(), "step {step}");
        }
    }

    #[test]
    fn silence_earns_no_more_than_the_burst() {
        let rate = Rate::new(20, Duration::from_secs(1), 3);
        let mut spent = Spent::default();
        let taken = (0..10).filter(|_| spent.take(rate, at(1_000_000)).is_ok()).count();
        assert_eq!(taken, 3);
    }
}
