//! Heartbeats, spread evenly over the interval, at no cost in memory and none in timers.
//!
//! Member k of n is due at k/n of every interval. So one position that goes round the table, at the speed of one
//! round per interval, finds exactly those that are due; how many they are follows from the clock.

use std::time::Duration;

use holdfast_reactor::Moment;

/// The position; see the module's doc.
#[derive(Debug)]
pub(crate) struct Beat {
    start: Moment,
    interval_ns: u64,
    members: u64,
    /// Members passed since `start`.
    passed: u64,
    /// Not before: many small wake-ups cost more than they spread.
    not_before: Moment,
}

/// Members that are due within one of these are sent for together.
const TICK: Duration = Duration::from_millis(1);

impl Beat {
    /// `None` when there is no heartbeat or nobody to send it.
    pub(crate) fn new(start: Moment, interval: Duration, members: u32) -> Option<Self> {
        let interval_ns = interval.as_nanos() as u64;
        (interval_ns > 0 && members > 0).then_some(Self {
            start,
            interval_ns,
            members: u64::from(members),
            passed: 0,
            not_before: start,
        })
    }

    /// When the next member is due.
    pub(crate) fn next(&self) -> Moment {
        self.not_before.max(self.moment_of(self.passed))
    }

    /// The next member that is due, and since when. Call until `None`.
    pub(crate) fn due(&mut self, now: Moment) -> Option<(u32, Moment)> {
        let moment = self.moment_of(self.passed);
        if moment > now || self.not_before > now {
            // Only the end of a batch sets the next tick.
            if self.not_before <= now {
                self.not_before = now.after(TICK);
            }
            return None;
        }
        let member = (self.passed % self.members) as u32;
        self.passed += 1;
        Some((member, moment))
    }

    /// The server wants to hear from us more often: nobody's next beat is later than it was.
    pub(crate) fn shorten(&mut self, interval: Duration, now: Moment) {
        let interval_ns = interval.as_nanos() as u64;
        if interval_ns > 0 && interval_ns < self.interval_ns {
            let member = self.passed % self.members;
            self.interval_ns = interval_ns;
            self.start = now;
            self.not_before = now;
            self.passed = 0;
            // Go on with the one whose turn it was, now.
            self.start = Moment(now.0.saturating_sub(self.moment_of(member).0 - self.start.0));
            self.passed = member;
        }
    }

    fn moment_of(&self, passed: u64) -> Moment {
        let offset = u128::from(passed) * u128::from(self.interval_ns) / u128::from(self.members);
        Moment(self.start.0.saturating_add(offset as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn everybody_beats_once_per_interval_and_evenly() {
        let mut beat = Beat::new(Moment(0), Duration::from_secs(30), 3_000).unwrap();
        let mut last = BTreeMap::<u32, u64>::new();
        let mut now = Moment(0);
        let mut most_per_wake = 0;
        while now.0 < 90 * SECOND {
            let mut batch = 0;
            while let Some((member, due)) = beat.due(now) {
                assert!(now.since(due) <= TICK, "late by {:?}", now.since(due));
                if let Some(previous) = last.insert(member, now.0) {
                    let gap = now.0 - previous;
                    assert!(gap.abs_diff(30 * SECOND) <= 2_000_000, "member {member} after {gap} ns");
                }
                batch += 1;
            }
            most_per_wake = most_per_wake.max(batch);
            assert!(beat.next() > now);
            now = beat.next();
        }
        assert_eq!(last.len(), 3_000);
        assert!(most_per_wake <= 2, "3,000 in 30 s are one in 10 ms, not {most_per_wake} at once");
    }

    #[test]
    fn a_million_wake_the_thread_at_most_a_thousand_times_a_second() {
        let mut beat = Beat::new(Moment(0), Duration::from_secs(30), 1_000_000).unwrap();
        let (mut now, mut wakes, mut beats) = (Moment(0), 0, 0);
        while now.0 < SECOND {
            while beat.due(now).is_some() {
                beats += 1;
            }
            wakes += 1;
            now = beat.next();
        }
        assert!((900..=1_001).contains(&wakes), "{wakes} wake-ups");
        assert!((33_000..33_500).contains(&beats), "{beats} beats");
    }

    #[test]
    fn a_stall_is_made_up_for_and_counted_as_late() {
        let mut beat = Beat::new(Moment(0), Duration::from_secs(10), 10).unwrap();
        let due: Vec<_> = std::iter::from_fn(|| beat.due(Moment(3 * SECOND))).collect();
        assert_eq!(
            due,
            [(0, Moment(0)), (1, Moment(SECOND)), (2, Moment(2 * SECOND)), (3, Moment(3 * SECOND))]
        );
    }

    #[test]
    fn a_shorter_interval_lets_nobody_wait_longer() {
        let mut beat = Beat::new(Moment(0), Duration::from_secs(30), 30).unwrap();
        while beat.due(Moment(10 * SECOND)).is_some() {}
        beat.shorten(Duration::from_secs(15), Moment(10 * SECOND));
        assert_eq!(beat.due(Moment(10 * SECOND)).map(|(member, _)| member), Some(11));
        assert_eq!(beat.next(), Moment(10 * SECOND + SECOND / 2));
        beat.shorten(Duration::from_secs(60), Moment(10 * SECOND));
        assert_eq!(beat.interval_ns, 15 * SECOND, "never longer");
    }

    #[test]
    fn nobody_needs_no_beat() {
        assert!(Beat::new(Moment(0), Duration::ZERO, 5).is_none());
        assert!(Beat::new(Moment(0), Duration::from_secs(1), 0).is_none());
    }
}
