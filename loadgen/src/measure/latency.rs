//! Latencies from intended moments, in HDR histograms.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// One distribution of durations: three significant digits from 1 ns to an hour; longer ones count as an hour.
#[derive(Debug, Clone)]
pub struct Latencies {
    histogram: Histogram<u64>,
}

const LONGEST_NS: u64 = 3_600_000_000_000;

impl Default for Latencies {
    fn default() -> Self {
        let histogram =
            Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are constants and valid");
        Self { histogram }
    }
}

impl Latencies {
    /// Takes note of one.
    pub fn record(&mut self, latency: Duration) {
        self.histogram.saturating_record(latency.as_nanos().min(u128::from(LONGEST_NS)) as u64);
    }

    /// Adds another thread's.
    pub fn merge(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("all histograms here have the same bounds");
    }

    /// Starts again, after a warm-up.
    pub fn clear(&mut self) {
        self.histogram.reset();
    }

    /// How many were noted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The figures that reports show.
    #[must_use]
    pub fn summary(&self) -> LatencySummary {
        let us = |ns: u64| (ns as f64 / 100.0).round() / 10.0;
        let at = |quantile| us(self.histogram.value_at_quantile(quantile));
        LatencySummary {
            count: self.count(),
            min: if self.count() == 0 { 0.0 } else { us(self.histogram.min()) },
            mean: us(self.histogram.mean() as u64),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: us(self.histogram.max()),
        }
    }

    /// (share of all in %, µs) along the distribution, for plots: denser towards the tail.
    #[must_use]
    pub fn curve(&self) -> Vec<(f64, f64)> {
        if self.count() == 0 {
            return Vec::new();
        }
        let points = self.histogram.iter_quantiles(4);
        points
            .map(|step| (step.quantile_iterated_to() * 100.0, step.value_iterated_to() as f64 / 1_000.0))
            .collect()
    }
}

/// Microseconds, to a tenth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LatencySummary {
    /// How many were measured.
    pub count: u64,
    /// The shortest.
    pub min: f64,
    /// The mean.
    pub mean: f64,
    /// Half were at most this.
    pub p50: f64,
    /// 90 % were at most this.
    pub p90: f64,
    /// 99 % were at most this.
    pub p99: f64,
    /// 99.9 % were at most this.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_is_in_microseconds() {
        let mut latencies = Latencies::default();
        (1..=1_000).for_each(|ms| latencies.record(Duration::from_millis(ms)));
        let summary = latencies.summary();
        assert_eq!(summary.count, 1_000);
        assert!((summary.p50 / 500_000.0 - 1.0).abs() < 0.002, "{summary:?}");
        assert!((summary.p99 / 990_000.0 - 1.0).abs() < 0.002, "{summary:?}");
        assert!((summary.max / 1_000_000.0 - 1.0).abs() < 0.002, "{summary:?}");
    }

    #[test]
    fn nothing_measured_is_zero_and_too_long_is_the_longest() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.summary().p99, 0.0);
        assert!(latencies.curve().is_empty());
        latencies.record(Duration::from_secs(1_000_000));
        assert!(latencies.summary().max >= 3_599_000_000.0);
    }

    #[test]
    fn merging_adds_counts() {
        let (mut one, mut other) = (Latencies::default(), Latencies::default());
        one.record(Duration::from_micros(10));
        other.record(Duration::from_micros(30));
        one.merge(&other);
        assert_eq!((one.count(), one.summary().max), (2, 30.0));
        one.clear();
        assert_eq!(one.count(), 0);
    }
}
