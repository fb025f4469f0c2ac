//! When things ought to happen: an open-loop schedule, fixed before the server has had a say.
//!
//! Latency is counted from the *intended* moment that this schedule gives, so a server that stalls for two
//! seconds is charged for everything that should have happened in them (no coordinated omission).

use holdfast_reactor::Moment;

use crate::random::Random;

/// How arrivals are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Spread {
    /// Every gap the same.
    Constant,
    /// Independent arrivals: exponential gaps, bursts and lulls as real crowds make them.
    Poisson,
}

impl Spread {
    /// The fewest arrivals that chance explains where so many are expected: four standard deviations below.
    #[must_use]
    pub fn fewest(self, expected: f64) -> f64 {
        match self {
            Self::Constant => expected,
            Self::Poisson => (expected - 4.0 * expected.sqrt()).max(0.0),
        }
    }
}

/// The intended moments of one stream of arrivals.
#[derive(Debug)]
pub struct Schedule {
    spread: Spread,
    start: Moment,
    gap_ns: f64,
    /// Constant: arrivals handed out. The k-th moment is computed from k, so rounding never adds up.
    index: u64,
    /// Arrivals in all, from the start.
    arrivals_max: u64,
    /// Poisson: nanoseconds from `start` to the next arrival.
    offset_ns: f64,
    random: Random,
}

impl Schedule {
    /// Arrivals at `per_second` on average, the first one gap after `start` (on average).
    ///
    /// A rate of zero or below never arrives.
    #[must_use]
    pub fn new(spread: Spread, per_second: f64, start: Moment, random: Random) -> Self {
        let gap_ns = if per_second > 0.0 { 1e9 / per_second } else { f64::INFINITY };
        let mut schedule =
            Self { spread, start, gap_ns, index: 0, arrivals_max: u64::MAX, offset_ns: 0.0, random };
        schedule.advance();
        schedule
    }

    /// So many arrivals, and none after them.
    #[must_use]
    pub fn at_most(mut self, arrivals: u64) -> Self {
        self.arrivals_max = arrivals;
        self
    }

    /// Begins again at `start`: what came before was not meant to happen yet.
    pub fn restart(&mut self, start: Moment) {
        self.start = start;
        self.index = 0;
        self.offset_ns = 0.0;
        self.advance();
    }

    /// The next arrival that has not been handed out.
    #[must_use]
    pub fn next(&self) -> Moment {
        if self.index > self.arrivals_max {
            return Moment(u64::MAX);
        }
        // A float beyond the range saturates: an arrival that never comes.
        Moment(self.start.0.saturating_add(self.offset_ns as u64))
    }

    /// Hands out the next arrival if its moment has come. Call until `None`.
    pub fn due(&mut self, now: Moment) -> Option<Moment> {
        let next = self.next();
        if next > now || next == Moment(u64::MAX) {
            return None;
        }
        self.advance();
        Some(next)
    }

    fn advance(&mut self) {
        self.index += 1;
        match self.spread {
            Spread::Constant => self.offset_ns = self.index as f64 * self.gap_ns,
            Spread::Poisson => self.offset_ns += self.gap_ns * self.random.exponential(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(spread: Spread, per_second: f64, until: Moment) -> Vec<u64> {
        let mut schedule = Schedule::new(spread, per_second, Moment(1_000), Random::new(3));
        std::iter::from_fn(|| schedule.due(until)).map(|moment| moment.0).collect()
    }

    #[test]
    fn constant_arrivals_do_not_drift() {
        // 3 per second has no finite gap in nanoseconds.
        let moments = arrivals(Spread::Constant, 3.0, Moment(1_000 + 1_000_000_000_000));
        assert_eq!(moments.len(), 3_000);
        assert_eq!(moments[2], 1_000_001_000);
        assert_eq!(moments[2_999], 1_000_000_001_000);
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread() {
        let moments = arrivals(Spread::Poisson, 1_000.0, Moment(100_000_000_000));
        assert!((99_000..101_000).contains(&moments.len()), "{} arrivals in 100 s", moments.len());
        let gaps: Vec<f64> = moments.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((deviation / mean - 1.0).abs() < 0.03, "a Poisson gap deviates by its mean, got {deviation}");
        assert!(moments.is_sorted());
    }

    #[test]
    fn a_stall_hands_out_everything_that_was_due_in_it() {
        let mut schedule = Schedule::new(Spread::Constant, 100.0, Moment(0), Random::new(0));
        assert_eq!(schedule.due(Moment(9_999_999)), None);
        let due: Vec<Moment> = std::iter::from_fn(|| schedule.due(Moment(2_000_000_000))).collect();
        assert_eq!(due.len(), 200);
        assert_eq!(due[0], Moment(10_000_000), "the intended moment, not the late one");
    }

    #[test]
    fn a_number_of_arrivals_is_not_exceeded() {
        for spread in [Spread::Constant, Spread::Poisson] {
            let mut schedule = Schedule::new(spread, 1_000.0, Moment(0), Random::new(4)).at_most(10);
            for start in [0, 7] {
                schedule.restart(Moment(start));
                let late = Moment(1 << 50);
                assert_eq!(std::iter::from_fn(|| schedule.due(late)).count(), 10);
                assert_eq!(schedule.next(), Moment(u64::MAX), "never again");
            }
        }
    }

    #[test]
    fn a_rate_of_zero_never_arrives() {
        assert!(arrivals(Spread::Poisson, 0.0, Moment(u64::MAX)).is_empty());
        assert!(arrivals(Spread::Constant, 0.0, Moment(u64::MAX)).is_empty());
    }
}
