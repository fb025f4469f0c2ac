//! Is it the server that is slow, or the one who asks?
//!
//! Lateness is how long after its intended moment the generator itself handed a message to the driver. It is part
//! of every latency that is measured from the intended moment; when it is no longer small against them, the run
//! says more about the generator than about the server and must not be believed.

use serde::Serialize;

use super::latency::{Latencies, LatencySummary};

/// When lateness disqualifies a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LatenessRule {
    /// p99 lateness up to this many µs is always fine.
    pub allowed_us: f64,
    /// Beyond that, p99 lateness may be this share of the measured p99 latency.
    pub allowed_share: f64,
}

impl Default for LatenessRule {
    fn default() -> Self {
        Self { allowed_us: 1_000.0, allowed_share: 0.10 }
    }
}

/// What the rule says about a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LatenessVerdict {
    /// True when the generator was the limit.
    pub limited: bool,
    /// The largest p99 lateness, in µs, that the rule would have let pass.
    pub allowed_p99_us: f64,
    /// What was measured, in µs.
    pub lateness_us: LatencySummary,
}

impl LatenessRule {
    /// Judges the lateness of a run whose latencies these are.
    #[must_use]
    pub fn judge(&self, lateness: &Latencies, latencies: &Latencies) -> LatenessVerdict {
        let lateness_us = lateness.summary();
        let allowed_p99_us = self.allowed_us.max(self.allowed_share * latencies.summary().p99);
        LatenessVerdict { limited: lateness_us.p99 > allowed_p99_us, allowed_p99_us, lateness_us }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn of(us: u64) -> Latencies {
        let mut latencies = Latencies::default();
        (0..1_000).for_each(|_| latencies.record(Duration::from_micros(us)));
        latencies
    }

    #[test]
    fn a_millisecond_or_a_tenth_of_the_measured_p99_is_fine() {
        let rule = LatenessRule::default();
        assert!(!rule.judge(&of(999), &of(1_500)).limited, "within a millisecond");
        assert!(rule.judge(&of(1_100), &of(1_500)).limited, "beyond it");
        assert!(!rule.judge(&of(1_900), &of(20_000)).limited, "within a tenth of 20 ms");
        assert!(rule.judge(&of(2_100), &of(20_000)).limited, "beyond it");
    }

    #[test]
    fn one_in_a_hundred_late_is_not_p99() {
        let mut lateness = of(10);
        (0..5).for_each(|_| lateness.record(Duration::from_secs(1)));
        assert!(!LatenessRule::default().judge(&lateness, &of(100)).limited);
    }
}
