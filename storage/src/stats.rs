//! Counters of the workers: one writer each, relaxed, merged when somebody looks.

use std::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds of the buckets of [`Durations`], in microseconds; the last bucket has none.
pub const BUCKETS_US: [u64; 14] =
    [100, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 125_000, 250_000, 500_000, 1_000_000];

/// A histogram of durations, as Prometheus wants it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Durations {
    /// How many fell into each bucket of [`BUCKETS_US`] (not cumulated); the last counts what is longer.
    pub buckets: [u64; BUCKETS_US.len() + 1],
    /// How many there were.
    pub count: u64,
    /// Their sum, in microseconds.
    pub sum_us: u64,
}

/// What one worker has done since it was started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkerStats {
    /// Commands that wait in its queue.
    pub queued: u64,
    /// Turns that had something to do.
    pub turns: u64,
    /// Commands taken.
    pub commands: u64,
    /// Batches made durable.
    pub commits: u64,
    /// How long they took, from the first byte written to the return of fsync.
    pub commit: Durations,
    /// Batches that could not be made durable.
    pub failed_commits: u64,
    /// Messages made durable.
    pub messages: u64,
    /// Sends that were answered from an earlier one.
    pub duplicates: u64,
    /// Requests refused.
    pub refused: u64,
    /// Inbox entries made durable.
    pub entries: u64,
    /// Events handed to shards.
    pub events: u64,
    /// Pages handed to shards.
    pub pages: u64,
    /// Parts of conversations that were read from the store; others were at hand.
    pub history_reads: u64,
    /// Times that something was damaged and a user's list of conversations could not be written down.
    pub failed_folds: u64,
    /// Events that were removed because they were old enough.
    pub expired: u64,
    /// Sessions that lost their live place because a lane was full.
    pub gaps: u64,
    /// Sessions registered now.
    pub sessions: u64,
    /// Answers that wait for room in a shard's lane.
    pub waiting_answers: u64,
    /// Fan-out batches that other workers have not confirmed.
    pub fan_out_backlog: u64,
    /// Bytes of the engine's write buffers and block cache.
    pub engine_bytes: u64,
}

/// What all workers have done since they were started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// One per worker.
    pub workers: Vec<WorkerStats>,
}

impl Stats {
    /// The sum over all workers of one number.
    pub fn sum(&self, number: impl Fn(&WorkerStats) -> u64) -> u64 {
        self.workers.iter().map(number).sum()
    }

    /// The commit times of all workers.
    #[must_use]
    pub fn commit(&self) -> Durations {
        let mut all = Durations::default();
        for worker in &self.workers {
            for (sum, bucket) in all.buckets.iter_mut().zip(worker.commit.buckets) {
                *sum += bucket;
            }
            all.count += worker.commit.count;
            all.sum_us += worker.commit.sum_us;
        }
        all
    }
}

macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        /// A worker's counters, shared with whoever looks. Only the worker writes.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
            buckets: [AtomicU64; BUCKETS_US.len() + 1],
            commit_count: AtomicU64,
            commit_sum_us: AtomicU64,
        }

        impl Counters {
            pub(crate) fn read(&self) -> WorkerStats {
                let mut commit = Durations::default();
                for (bucket, counter) in commit.buckets.iter_mut().zip(&self.buckets) {
                    *bucket = counter.load(Ordering::Relaxed);
                }
                commit.count = self.commit_count.load(Ordering::Relaxed);
                commit.sum_us = self.commit_sum_us.load(Ordering::Relaxed);
                WorkerStats { queued: 0, commit, $($name: self.$name.0.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters!(
    turns,
    commands,
    commits,
    failed_commits,
    messages,
    duplicates,
    refused,
    entries,
    events,
    pages,
    history_reads,
    failed_folds,
    expired,
    gaps,
    sessions,
    waiting_answers,
    fan_out_backlog,
    engine_bytes,
);

/// A number that one thread writes and any may read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Returns what it was before.
    pub(crate) fn add(&self, more: u64) -> u64 {
        // One writer: a plain load and store, no locked instruction.
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(before.wrapping_add(more), Ordering::Relaxed);
        before
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

impl Counters {
    pub(crate) fn committed(&self, took_us: u64) {
        let bucket = BUCKETS_US.partition_point(|&bound| bound < took_us);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.commit_count.fetch_add(1, Ordering::Relaxed);
        self.commit_sum_us.fetch_add(took_us, Ordering::Relaxed);
    }
}
