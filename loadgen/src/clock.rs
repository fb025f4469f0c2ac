//! The generator's one clock: CLOCK_MONOTONIC, the same for all its threads and drivers.
//!
//! This and the report's date are the only places that ask the system for the time.

use holdfast_reactor::Moment;
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since some moment before this process.
#[must_use]
pub fn monotonic() -> Moment {
    let now = clock_gettime(ClockId::Monotonic);
    Moment(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

/// Milliseconds since 1970, for the report's date and for tokens.
#[must_use]
pub fn unix_ms() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec as u64 * 1_000 + now.tv_nsec as u64 / 1_000_000
}
