//! What an engine counts, while it runs (for the progress line) and in the end.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::member::Tally;
use crate::measure::latency::Latencies;

/// What one thread's engine counted.
#[derive(Debug, Clone, Default)]
pub struct EngineReport {
    /// Niceness that the threads ran with; the least favoured one's.
    pub nice: i32,
    /// Connects begun.
    pub attempts: u64,
    /// Connects and handshakes that failed (and were tried again, up to a limit).
    pub failed_attempts: u64,
    /// Why.
    pub failures: Tally,
    /// Times that a member came up.
    pub opened: u64,
    /// Members that are up.
    pub up: u64,
    /// Connections that were up and ended though neither we nor the plan wanted it.
    pub lost: u64,
    /// Why.
    pub losses: Tally,
    /// How connections ended when they were meant to.
    pub ends: Tally,
    /// Heartbeats sent.
    pub beats: u64,
    /// Pings of the server that were answered.
    pub pings: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// From the connect to the end of the handshake, login included.
    pub handshake: Latencies,
    /// The same from the intended moment of the connect.
    pub handshake_from_intended: Latencies,
    /// How late heartbeats went out.
    pub beat_lateness: Latencies,
    /// Turns of the driver.
    pub turns: u64,
}

impl EngineReport {
    /// Adds another thread's.
    pub fn merge(&mut self, other: &Self) {
        self.nice = if self.attempts == 0 { other.nice } else { self.nice.max(other.nice) };
        self.attempts += other.attempts;
        self.failed_attempts += other.failed_attempts;
        self.failures.merge(&other.failures);
        self.opened += other.opened;
        self.up += other.up;
        self.lost += other.lost;
        self.losses.merge(&other.losses);
        self.ends.merge(&other.ends);
        self.beats += other.beats;
        self.pings += other.pings;
        self.received_bytes += other.received_bytes;
        self.handshake.merge(&other.handshake);
        self.handshake_from_intended.merge(&other.handshake_from_intended);
        self.beat_lateness.merge(&other.beat_lateness);
        self.turns += other.turns;
    }
}

/// What a thread shows of itself while it runs: written by it alone, once per turn.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Members that are up.
    pub up: AtomicU64,
    /// Times that a member came up.
    pub opened: AtomicU64,
    /// Connects and handshakes that failed.
    pub failed: AtomicU64,
    /// Connections lost.
    pub lost: AtomicU64,
    /// Members that still have to come up (not given up yet).
    pub awaited: AtomicU64,
    /// Messages sent.
    pub sent: AtomicU64,
    /// Messages that came back or through: echoes, deliveries, handshakes.
    pub done: AtomicU64,
    /// What the scenario still waits for. One thread alone may be below zero: it received what another had sent.
    pub outstanding: AtomicI64,
    /// Not 0 when the scenario cannot come to what it was meant to do, and says in its report why.
    pub broken: AtomicU64,
    /// Orders that were carried out before the other gauges were written.
    pub orders: AtomicU64,
}

impl Gauges {
    pub(crate) fn set_outstanding(&self, value: i64) {
        self.outstanding.store(value, Ordering::Release);
    }

    pub(crate) fn set(&self, gauge: fn(&Self) -> &AtomicU64, value: u64) {
        gauge(self).store(value, Ordering::Release);
    }
}

/// The sum of all threads' gauges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// See [`Gauges`].
    pub up: u64,
    /// See [`Gauges`].
    pub opened: u64,
    /// See [`Gauges`].
    pub failed: u64,
    /// See [`Gauges`].
    pub lost: u64,
    /// See [`Gauges`].
    pub awaited: u64,
    /// See [`Gauges`].
    pub sent: u64,
    /// See [`Gauges`].
    pub done: u64,
    /// See [`Gauges`].
    pub outstanding: i64,
    /// See [`Gauges`].
    pub broken: u64,
    /// Orders that every thread has carried out. Before all have, nothing that was ordered can be said to be over.
    pub orders: u64,
}

impl Snapshot {
    /// Reads and adds up.
    pub fn of<'a>(threads: impl IntoIterator<Item = &'a Gauges>) -> Self {
        let mut sum = Self { orders: u64::MAX, ..Self::default() };
        for gauges in threads {
            let read = |gauge: &AtomicU64| gauge.load(Ordering::Acquire);
            // The opposite order of writing: see `Engine::show`.
            sum.orders = sum.orders.min(read(&gauges.orders));
            sum.awaited += read(&gauges.awaited);
            sum.lost += read(&gauges.lost);
            sum.failed += read(&gauges.failed);
            sum.opened += read(&gauges.opened);
            sum.up += read(&gauges.up);
            sum.sent += read(&gauges.sent);
            sum.broken += read(&gauges.broken);
            sum.done += read(&gauges.done);
            sum.outstanding += gauges.outstanding.load(Ordering::Acquire);
        }
        sum
    }
}
