//! Time as a number, and the hierarchical timer wheel.
//!
//! The wheel holds one deadline per key (a connection's slot), costs O(1) to set, move and cancel, and allocates
//! nothing per connection beyond its own dense record.

use std::time::Duration;

/// Nanoseconds on the driver's monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// This moment plus a duration, saturating.
    #[must_use]
    pub const fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.as_nanos() as u64))
    }

    /// How long ago `earlier` was; zero if it is in the future.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// One deadline per key; keys are dense (connection slots).
#[derive(Debug)]
pub struct Timers {}

impl Timers {
    /// A wheel that counts in ticks of `tick`; deadlines are rounded up to the next tick, never early.
    #[must_use]
    pub fn new(_now: Moment, _tick: Duration) -> Self {
        todo!()
    }

    /// Sets or moves the deadline of `key`.
    pub fn set(&mut self, _key: u32, _deadline: Moment) {
        todo!()
    }

    /// Forgets the deadline of `key`, if it has one.
    pub fn cancel(&mut self, _key: u32) {
        todo!()
    }

    /// A moment not later than the earliest deadline; `None` when there is none. May be earlier than the earliest
    /// deadline (a coarser wheel has to be looked into), never later.
    #[must_use]
    pub fn next(&self) -> Option<Moment> {
        todo!()
    }

    /// Moves to `now` and appends the keys whose deadline has come, each once; they have no deadline afterwards.
    pub fn expire(&mut self, _now: Moment, _expired: &mut Vec<u32>) {
        todo!()
    }

    /// Keys that have a deadline.
    #[must_use]
    pub fn len(&self) -> usize {
        todo!()
    }

    /// True when no key has a deadline.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
