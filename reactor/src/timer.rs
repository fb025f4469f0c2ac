//! Time as a number, and the hierarchical timer wheel.
//!
//! The wheel holds one deadline per key (a connection's slot), costs O(1) to set, move and cancel, and allocates
//! nothing per connection beyond its own dense record of 16 bytes.
//!
//! Six levels of 64 buckets; a bucket of level `l` spans 64^l ticks. A deadline is filed in the finest level that
//! reaches it and moves to a finer one when its bucket's time comes. What most connections do all day is to move
//! their deadline *later* (a frame came, so they are alive): that writes one record and leaves it where it is
//! filed; the bucket finds out when its time comes. So a deadline that is moved n times before it comes due costs
//! n stores and a handful of moves between buckets, however large the table.
//!
//! The one invariant: a key is filed in a bucket that starts after the wheel's present tick and not after the key's
//! deadline. So nothing fires late, and a bucket is looked into before it can hold anything due.

use std::time::Duration;

use crate::chunks::Chunks;
use crate::planted;

/// Nanoseconds on the driver's monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// This moment plus a duration, saturating.
    #[must_use]
    pub const fn after(self, duration: Duration) -> Self {
        let nanos = duration.as_nanos();
        let nanos = if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 };
        Self(self.0.saturating_add(nanos))
    }

    /// How long ago `earlier` was; zero if it is in the future.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Bits of a tick number that one level of the wheel resolves.
const LEVEL_BITS: u32 = 6;
/// Buckets of one level: one bit each in the level's map of occupied buckets.
const LEVEL_BUCKETS: usize = 1 << LEVEL_BITS;
const LEVELS: usize = 6;
/// The bucket of deadlines that had come when they were set.
const DUE: usize = LEVELS * LEVEL_BUCKETS;
/// Not a bucket: the key has no deadline.
const UNFILED: usize = (1 << BUCKET_BITS) - 1;
const BUCKET_BITS: u32 = 9;
/// The end of a bucket's list.
const NIL: u32 = u32::MAX;
/// With it, every `Moment` has a tick number that fits beside the bucket's.
const SHORTEST_TICK_NS: u64 = 1_000;

const _: () = assert!(LEVEL_BUCKETS == u64::BITS as usize);
const _: () = assert!(DUE < UNFILED);
const _: () = assert!(u64::MAX / SHORTEST_TICK_NS < 1 << (u64::BITS - BUCKET_BITS));
const _: () = assert!(size_of::<Record>() == 16);

/// What the wheel keeps per key.
#[derive(Debug, Clone, Copy)]
struct Record {
    previous: u32,
    next: u32,
    /// The deadline's tick number, and in the low [`BUCKET_BITS`] the bucket that the key is filed in.
    deadline_and_bucket: u64,
}

impl Record {
    const BLANK: Self = Self { previous: NIL, next: NIL, deadline_and_bucket: UNFILED as u64 };

    const fn deadline(self) -> u64 {
        self.deadline_and_bucket >> BUCKET_BITS
    }

    const fn bucket(self) -> usize {
        (self.deadline_and_bucket & ((1 << BUCKET_BITS) - 1)) as usize
    }

    const fn set(&mut self, deadline: u64, bucket: usize) {
        self.deadline_and_bucket = deadline << BUCKET_BITS | bucket as u64;
    }
}

/// One deadline per key; keys are dense (connection slots).
#[derive(Debug)]
pub struct Timers {
    tick_ns: u64,
    /// The last tick that was worked through.
    tick: u64,
    count: usize,
    /// The first key of each bucket.
    heads: Box<[u32; DUE + 1]>,
    /// Per level, one bit per bucket that is not empty.
    occupied: [u64; LEVELS],
    records: Chunks<Record>,
}

impl Timers {
    /// A wheel that counts in ticks of `tick` (at least 1 µs; a shorter one is raised to it). Deadlines are rounded
    /// up to the next tick, so nothing fires early.
    #[must_use]
    pub fn new(now: Moment, tick: Duration) -> Self {
        let tick_ns = u64::try_from(tick.as_nanos()).unwrap_or(u64::MAX).max(SHORTEST_TICK_NS);
        Self {
            tick_ns,
            tick: now.0 / tick_ns,
            count: 0,
            heads: Box::new([NIL; DUE + 1]),
            occupied: [0; LEVELS],
            records: Chunks::new(),
        }
    }

    /// Sets or moves the deadline of `key`.
    pub fn set(&mut self, key: u32, deadline: Moment) {
        let deadline = deadline.0.div_ceil(self.tick_ns);
        let tick = self.tick;
        let record = self.records.find_or_insert_with(key, || Record::BLANK);
        let bucket = record.bucket();
        if bucket == UNFILED {
            self.count += 1;
        } else if bucket != DUE
            && (bucket_start(bucket, tick) <= deadline || planted::DEADLINE_LATE.is_planted())
        {
            record.set(deadline, bucket);
            return;
        } else {
            self.unlink(key);
        }
        self.file(key, deadline);
    }

    /// Forgets the deadline of `key`, if it has one.
    pub fn cancel(&mut self, key: u32) {
        if self.records.find(key).is_some_and(|record| record.bucket() != UNFILED) {
            self.unlink(key);
            self.records[key] = Record::BLANK;
            self.count -= 1;
        }
    }

    /// When to call [`Self::expire`] next: a moment not later than the earliest deadline (rounded up to its tick);
    /// `None` when there is none. May be earlier, because a coarse bucket has to be looked into or because a
    /// deadline was moved later: at most once per level for each bucket, never once per tick.
    #[must_use]
    pub fn next(&self) -> Option<Moment> {
        if self.heads[DUE] != NIL {
            return Some(Moment(self.tick.saturating_mul(self.tick_ns)));
        }
        self.next_start().map(|tick| Moment(tick.saturating_mul(self.tick_ns)))
    }

    /// Moves to `now` and appends the keys whose deadline has come, each once; they have no deadline afterwards.
    pub fn expire(&mut self, now: Moment, expired: &mut Vec<u32>) {
        let now_tick = now.0 / self.tick_ns;
        self.empty_bucket(DUE, now_tick, expired);
        while let Some(start) = self.next_start().filter(|start| *start <= now_tick) {
            self.tick = start;
            for level in 0..LEVELS {
                let shift = LEVEL_BITS * level as u32;
                if start & ((1 << shift) - 1) != 0 {
                    break;
                }
                let index = (start >> shift) as usize % LEVEL_BUCKETS;
                if self.occupied[level] & 1 << index != 0 {
                    self.empty_bucket(level * LEVEL_BUCKETS + index, now_tick, expired);
                }
            }
        }
        self.tick = self.tick.max(now_tick);
    }

    /// Keys that have a deadline.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// True when no key has a deadline.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tick at which the first bucket that is not empty starts.
    fn next_start(&self) -> Option<u64> {
        (0..LEVELS)
            .filter(|level| self.occupied[*level] != 0)
            .map(|level| {
                let shift = LEVEL_BITS * level as u32;
                let present = self.tick >> shift;
                // The present bucket of a level is empty (see `file`), so the first bit found is 1 or more away.
                let ahead = self.occupied[level].rotate_right((present % LEVEL_BUCKETS as u64) as u32);
                (present + u64::from(ahead.trailing_zeros())) << shift
            })
            .min()
    }

    /// Takes all keys out of a bucket: due ones are appended to `expired`, others filed anew.
    fn empty_bucket(&mut self, bucket: usize, now_tick: u64, expired: &mut Vec<u32>) {
        let mut key = std::mem::replace(&mut self.heads[bucket], NIL);
        if bucket != DUE {
            self.occupied[bucket / LEVEL_BUCKETS] &= !(1 << (bucket % LEVEL_BUCKETS));
        }
        while key != NIL {
            let record = &mut self.records[key];
            let next = record.next;
            let deadline = record.deadline();
            // A deadline in `DUE` had come when it was set, whatever `now` the caller has.
            if deadline <= now_tick || bucket == DUE {
                *record = Record::BLANK;
                self.count -= 1;
                expired.push(key);
            } else {
                self.file(key, deadline);
            }
            key = next;
        }
    }

    /// Links a key that is in no bucket into the one where its deadline belongs as seen from the present tick.
    fn file(&mut self, key: u32, deadline: u64) {
        let bucket = self.bucket_for(deadline);
        let head = std::mem::replace(&mut self.heads[bucket], key);
        if head != NIL {
            self.records[head].previous = key;
        }
        let record = &mut self.records[key];
        record.previous = NIL;
        record.next = head;
        record.set(deadline, bucket);
        if bucket != DUE {
            self.occupied[bucket / LEVEL_BUCKETS] |= 1 << (bucket % LEVEL_BUCKETS);
        }
    }

    /// The finest bucket that reaches `deadline` and starts after the present tick.
    fn bucket_for(&self, deadline: u64) -> usize {
        if deadline <= self.tick {
            return DUE;
        }
        // A level reaches 63 buckets ahead: the 64th would be the present one again.
        const FARTHEST: u64 = LEVEL_BUCKETS as u64 - 1;
        for level in 0..LEVELS {
            let shift = LEVEL_BITS * level as u32;
            let number = deadline >> shift;
            if number - (self.tick >> shift) <= FARTHEST {
                return level * LEVEL_BUCKETS + (number % LEVEL_BUCKETS as u64) as usize;
            }
        }
        // Beyond the horizon: as far out as there is a bucket, and looked at again from there.
        let number = (self.tick >> (LEVEL_BITS * (LEVELS as u32 - 1))) + FARTHEST;
        (LEVELS - 1) * LEVEL_BUCKETS + (number % LEVEL_BUCKETS as u64) as usize
    }

    /// Takes a filed key out of its bucket's list; its record still says which bucket that was.
    fn unlink(&mut self, key: u32) {
        let record = self.records[key];
        if record.next != NIL {
            self.records[record.next].previous = record.previous;
        }
        if record.previous != NIL {
            self.records[record.previous].next = record.next;
            return;
        }
        let bucket = record.bucket();
        self.heads[bucket] = record.next;
        if record.next == NIL && bucket != DUE {
            self.occupied[bucket / LEVEL_BUCKETS] &= !(1 << (bucket % LEVEL_BUCKETS));
        }
    }
}

/// The first tick of a bucket, as seen from the present tick: between 1 and 63 buckets ahead.
fn bucket_start(bucket: usize, tick: u64) -> u64 {
    let shift = LEVEL_BITS * (bucket / LEVEL_BUCKETS) as u32;
    let present = tick >> shift;
    let ahead = (bucket as u64).wrapping_sub(present) % LEVEL_BUCKETS as u64;
    (present + ahead) << shift
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const TICK: Duration = Duration::from_millis(1);

    fn ms(milliseconds: u64) -> Moment {
        Moment(milliseconds * 1_000_000)
    }

    /// Runs the wheel as its owner does, from wake-up to wake-up, and says how many wake-ups it took.
    fn run_until(timers: &mut Timers, end: Moment, mut at: impl FnMut(Moment, &[u32], &mut Timers)) -> usize {
        let mut wakes = 0;
        let mut expired = Vec::new();
        while let Some(next) = timers.next().filter(|next| *next <= end) {
            wakes += 1;
            expired.clear();
            timers.expire(next, &mut expired);
            at(next, &expired, timers);
        }
        wakes
    }

    #[test]
    fn a_deadline_is_rounded_up_to_its_tick_and_fires_once() {
        let mut timers = Timers::new(ms(5), TICK);
        timers.set(7, Moment(9_000_001));
        assert_eq!((timers.len(), timers.next()), (1, Some(ms(10))));
        let mut expired = Vec::new();
        timers.expire(Moment(9_999_999), &mut expired);
        assert_eq!(expired, []);
        timers.expire(ms(10), &mut expired);
        assert_eq!(expired, [7]);
        timers.expire(ms(1_000_000), &mut expired);
        assert_eq!((expired.len(), timers.next(), timers.is_empty()), (1, None, true));
    }

    #[test]
    fn a_deadline_in_the_past_is_due_at_once_even_if_time_stands_still() {
        let mut timers = Timers::new(ms(50), TICK);
        timers.set(1, ms(20));
        timers.set(2, ms(50));
        assert!(timers.next().is_some_and(|next| next <= ms(50)));
        let mut expired = Vec::new();
        timers.expire(ms(50), &mut expired);
        expired.sort_unstable();
        assert_eq!(expired, [1, 2]);
    }

    #[test]
    fn a_due_deadline_can_be_moved_or_cancelled_before_it_is_taken() {
        let mut timers = Timers::new(ms(50), TICK);
        timers.set(1, ms(20));
        timers.set(2, ms(20));
        timers.set(1, ms(60));
        timers.cancel(2);
        let mut expired = Vec::new();
        timers.expire(ms(59), &mut expired);
        assert_eq!(expired, []);
        timers.expire(ms(60), &mut expired);
        assert_eq!(expired, [1]);
    }

    #[test]
    fn the_far_end_of_time_is_a_deadline_like_any_other() {
        let mut timers = Timers::new(Moment(0), Duration::ZERO);
        timers.set(0, Moment(u64::MAX));
        let mut expired = Vec::new();
        timers.expire(Moment(u64::MAX / 2), &mut expired);
        assert_eq!(expired, []);
        assert!(timers.next().is_some());
        timers.expire(Moment(u64::MAX), &mut expired);
        assert_eq!(
            (expired.as_slice(), timers.len()),
            (&[] as &[u32], 1),
            "rounded up: after the last moment"
        );
    }

    #[test]
    fn one_far_deadline_costs_a_wake_up_per_level_at_most() {
        let mut timers = Timers::new(ms(12_345), TICK);
        timers.set(0, ms(12_345 + 3_600_000));
        let mut fired_at = None;
        let wakes = run_until(&mut timers, ms(u32::MAX.into()), |now, expired, _| {
            if !expired.is_empty() {
                fired_at = Some(now);
            }
        });
        assert_eq!(fired_at, Some(ms(12_345 + 3_600_000)));
        assert!(wakes <= LEVELS, "{wakes} wake-ups");
    }

    #[test]
    fn a_million_quiet_keys_wake_their_owner_per_bucket_not_per_tick() {
        const KEYS: u32 = if cfg!(miri) { 100 } else { 1_000_000 };
        let mut timers = Timers::new(ms(0), TICK);
        for key in 0..KEYS {
            // All logged in within one second, each with 75 s to live.
            timers.set(key, ms(75_000 + u64::from(key) % 1_000));
        }
        // Nothing is due for 74 s. At 30 s and 60 s everybody beats, in one second again.
        let mut wakes = run_until(&mut timers, ms(30_000), |_, expired, _| assert!(expired.is_empty()));
        for key in 0..KEYS {
            timers.set(key, ms(105_000 + u64::from(key) % 1_000));
        }
        wakes += run_until(&mut timers, ms(60_000), |_, expired, _| assert!(expired.is_empty()));
        for key in 0..KEYS {
            timers.set(key, ms(135_000 + u64::from(key) % 1_000));
        }
        wakes += run_until(&mut timers, ms(134_999), |_, expired, _| assert!(expired.is_empty()));
        assert!(wakes <= 2 * 135_000 / 64, "{wakes} wake-ups in 135,000 ticks with nothing due");
        let mut fired = 0;
        run_until(&mut timers, ms(136_000), |_, expired, _| fired += expired.len());
        assert_eq!((fired, timers.len()), (KEYS as usize, 0));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Set {
            key: u32,
            ahead_ns: u64,
        },
        Cancel {
            key: u32,
        },
        Advance {
            by_ns: u64,
        },
        /// To the wake-up that the wheel asks for.
        Next,
    }

    fn distance() -> impl Strategy<Value = u64> {
        // Every level, and beyond the last.
        (0u32..58, any::<u64>()).prop_map(|(bits, random)| random & ((1 << bits) - 1))
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = prop_oneof![0u32..20, 0u32..5_000, Just(3_000_000)];
        prop_oneof![
            4 => (key.clone(), distance()).prop_map(|(key, ahead_ns)| Step::Set { key, ahead_ns }),
            1 => key.prop_map(|key| Step::Cancel { key }),
            2 => distance().prop_map(|by_ns| Step::Advance { by_ns }),
            3 => Just(Step::Next),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 4 } else { 1_000 }, failure_persistence: None, ..ProptestConfig::default()
        })]
        #[test]
        fn the_wheel_agrees_with_a_sorted_map(
            tick_ns in 1_000u64..3_000_000,
            start in 0u64..1 << 40,
            steps in prop::collection::vec(step(), 1..200),
        ) {
            let mut now = Moment(start);
            let mut timers = Timers::new(now, Duration::from_nanos(tick_ns));
            // Key → the tick at which it is to fire.
            let mut model = BTreeMap::<u32, u64>::new();
            for step in steps {
                match step {
                    Step::Set { key, ahead_ns } => {
                        let deadline = Moment(now.0.saturating_add(ahead_ns));
                        timers.set(key, deadline);
                        model.insert(key, deadline.0.div_ceil(tick_ns));
                    }
                    Step::Cancel { key } => {
                        timers.cancel(key);
                        model.remove(&key);
                    }
                    Step::Advance { by_ns } => now = Moment(now.0.saturating_add(by_ns)),
                    Step::Next => now = timers.next().map_or(now, |next| now.max(next)),
                }
                if matches!(step, Step::Advance { .. } | Step::Next) {
                    let mut expired = Vec::new();
                    timers.expire(now, &mut expired);
                    expired.sort_unstable();
                    let due = model.iter().filter(|(_, tick)| **tick <= now.0 / tick_ns);
                    let due: Vec<u32> = due.map(|(key, _)| *key).collect();
                    model.retain(|_, tick| *tick > now.0 / tick_ns);
                    prop_assert_eq!(expired, due);
                }
                prop_assert_eq!(timers.len(), model.len());
                let earliest = model.values().min().map(|tick| tick.saturating_mul(tick_ns));
                let next = timers.next().map(|next| next.0);
                prop_assert_eq!(next.is_some(), earliest.is_some());
                prop_assert!(next <= earliest, "wakes at {:?}, too late for {:?}", next, earliest);
            }
        }
    }
}
