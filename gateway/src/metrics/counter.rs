//! Numbers with one writer and any number of readers.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A number that only grows. One thread adds, any may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds. Only the counter's own thread may call this: two writers would lose counts (never corrupt anything).
    #[inline]
    pub fn add(&self, more: u64) {
        // A plain load and store: a locked instruction would cost twenty times as much.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// The number so far.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down. One thread writes, any may read.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Replaces it.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Raises it.
    #[inline]
    pub fn add(&self, more: u64) {
        self.set(self.read().wrapping_add(more));
    }

    /// Lowers it, never below 0.
    #[inline]
    pub fn sub(&self, less: u64) {
        self.set(self.read().saturating_sub(less));
    }

    /// The number now.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Different codes that a [`ByCode`] tells apart; more are counted together.
const CODES: usize = 48;
/// Different labels that a [`ByLabel`] tells apart; more are counted together.
const LABELS: usize = 32;
/// What the rest is called.
const REST: &str = "other";

/// A counter per number (a status, a close code). One thread adds, any may read.
#[derive(Debug)]
pub struct ByCode {
    /// 0: free. Filled from the front, never emptied.
    codes: [AtomicU32; CODES],
    counts: [Counter; CODES],
    rest: Counter,
}

impl Default for ByCode {
    fn default() -> Self {
        let codes = std::array::from_fn(|_| AtomicU32::default());
        Self { codes, counts: std::array::from_fn(|_| Counter::default()), rest: Counter::default() }
    }
}

impl ByCode {
    /// Adds to the counter of this code.
    pub fn add(&self, code: u16, more: u64) {
        let wanted = u32::from(code);
        for (known, count) in self.codes.iter().zip(&self.counts) {
            let known_code = known.load(Ordering::Relaxed);
            if known_code == wanted || known_code == 0 {
                count.add(more);
                // After the count, so that a reader that sees the code sees a count.
                known.store(wanted, Ordering::Release);
                return;
            }
        }
        self.rest.add(more);
    }

    /// All counters that are not 0.
    #[must_use]
    pub fn read(&self) -> Vec<(String, u64)> {
        let known = self.codes.iter().zip(&self.counts);
        let known = known.map(|(code, count)| (code.load(Ordering::Acquire), count.read()));
        let mut counts: Vec<(String, u64)> =
            known.take_while(|(code, _)| *code != 0).map(|(code, count)| (code.to_string(), count)).collect();
        if self.rest.read() > 0 {
            counts.push((REST.to_owned(), self.rest.read()));
        }
        counts
    }
}

/// A counter per label of a fixed set. One thread adds, any may read.
#[derive(Debug)]
pub struct ByLabel {
    labels: [OnceLock<&'static str>; LABELS],
    counts: [Counter; LABELS],
    rest: Counter,
}

impl Default for ByLabel {
    fn default() -> Self {
        let labels = std::array::from_fn(|_| OnceLock::new());
        Self { labels, counts: std::array::from_fn(|_| Counter::default()), rest: Counter::default() }
    }
}

impl ByLabel {
    /// Adds to the counter of this label.
    pub fn add(&self, label: &'static str, more: u64) {
        for (known, count) in self.labels.iter().zip(&self.counts) {
            if *known.get_or_init(|| label) == label {
                count.add(more);
                return;
            }
        }
        self.rest.add(more);
    }

    /// All counters.
    #[must_use]
    pub fn read(&self) -> Vec<(String, u64)> {
        let known = self.labels.iter().zip(&self.counts);
        let mut counts: Vec<(String, u64)> =
            known.map_while(|(label, count)| Some((label.get()?.to_string(), count.read()))).collect();
        if self.rest.read() > 0 {
            counts.push((REST.to_owned(), self.rest.read()));
        }
        counts
    }
}

/// Adds up the same counters of several shards, in the order of their labels.
pub(super) fn merge(shards: impl Iterator<Item = Vec<(String, u64)>>) -> Vec<(String, u64)> {
    let mut sums = BTreeMap::<String, u64>::new();
    for (label, count) in shards.flatten() {
        *sums.entry(label).or_default() += count;
    }
    sums.into_iter().collect()
}
