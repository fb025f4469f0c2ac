//! Message ids that sort by time.
//!
//! ```text
//!  63 62                                        22 21       12 11         0
//! +--+--------------------------------------------+-----------+------------+
//! | 0| milliseconds since 2026-01-01T00:00:00Z     |  worker   |  sequence  |
//! +--+--------------------------------------------+-----------+------------+
//!                       41 (to the year 2095)           10           12
//! ```
//!
//! The invariant: every id is greater than the one before it, whatever the clock does, and also than the last one of
//! the process before this one. What gives way is the timestamp, which may run ahead of the clock:
//!
//! - More than 4,096 ids in a millisecond: the next ones are taken from the milliseconds to come. The lead grows only
//!   while more than 4,096,000 ids per second are made, by one millisecond per 4,096 ids too many, and shrinks as soon
//!   as fewer are.
//! - The clock steps back (or the process restarts with such a clock): ids go on from the last one, so the lead is the
//!   step plus the above, until the clock has caught up.
//!
//! - The clock says a time before 2026 or after 2095: it is not believed, and ids go on from the last one.
//!
//! [`Snowflake::lead_ms`] says how much it is. An id is a name and an order, not a clock.

use super::MessageId;

const WORKER_BITS: u32 = 10;
const SEQUENCE_BITS: u32 = 12;
const TIME_BITS: u32 = 41;
const TIME_SHIFT: u32 = WORKER_BITS + SEQUENCE_BITS;
const SEQUENCE_MAX: u64 = (1 << SEQUENCE_BITS) - 1;
const TIME_MAX_MS: u64 = (1 << TIME_BITS) - 1;

// The sign bit stays clear: databases and languages without unsigned numbers keep the order.
const _: () = assert!(TIME_BITS + WORKER_BITS + SEQUENCE_BITS == 63);

/// Who makes ids: below [`WorkerId::COUNT`], and no two generators at a time have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(u16);

impl WorkerId {
    /// How many there are.
    pub const COUNT: u16 = 1 << WORKER_BITS;

    /// The worker of this number, if there is one.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number < Self::COUNT { Some(Self(number)) } else { None }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// Makes message ids. Knows no clock: the caller says what time it is.
#[derive(Debug, Clone)]
pub struct Snowflake {
    worker: WorkerId,
    /// Milliseconds since the epoch, and how many ids were made in them.
    time_ms: u64,
    sequence: u64,
}

impl Snowflake {
    /// 2026-01-01T00:00:00Z, in milliseconds since 1970: where the ids' time begins.
    pub const EPOCH_MS: u64 = 1_767_225_600_000;

    /// A generator whose ids are greater than `last_issued`: the last id that may have left a process before this one
    /// under the same worker, read back from where it was made durable. `None`: there was none.
    #[must_use]
    pub const fn new(worker: WorkerId, last_issued: Option<MessageId>) -> Self {
        let time_ms = match last_issued {
            // Not one more sequence number but the next millisecond: greater also if the last id has other worker bits.
            Some(last) => last.time_ms() + 1,
            // Not 0, or worker 0 would call its first message 0, should its clock be before 2026: that is no name.
            None => 1,
        };
        Self { worker, time_ms, sequence: 0 }
    }

    /// The next id. `now_ms`: milliseconds since 1970, by whatever clock; it may stand still or step back.
    ///
    /// # Panics
    /// When 41 bits of milliseconds are used up, since two messages would get the same name. No clock can bring that
    /// about, only a `last_issued` that no generator has issued before 2095.
    pub fn next(&mut self, now_ms: u64) -> MessageId {
        let clock_ms = clock_ms(now_ms);
        if clock_ms > self.time_ms {
            self.time_ms = clock_ms;
            self.sequence = 0;
        } else if self.sequence > SEQUENCE_MAX {
            self.time_ms += 1;
            self.sequence = 0;
        }
        assert!(
            self.time_ms <= TIME_MAX_MS,
            "message ids are used up: the last one that was issued is of 2095"
        );
        let id = self.time_ms << TIME_SHIFT | u64::from(self.worker.0) << SEQUENCE_BITS | self.sequence;
        self.sequence += 1;
        MessageId(id)
    }

    /// How far the ids' time runs ahead of the clock.
    #[must_use]
    pub const fn lead_ms(&self, now_ms: u64) -> u64 {
        self.time_ms.saturating_sub(clock_ms(now_ms))
    }
}

/// The time of ids at a time of the clock; 0 if that is beyond belief.
const fn clock_ms(now_ms: u64) -> u64 {
    match now_ms.saturating_sub(Snowflake::EPOCH_MS) {
        credible @ 0..=TIME_MAX_MS => credible,
        _ => 0,
    }
}

impl MessageId {
    /// When it was made, in milliseconds since 1970; ahead of the clock by [`Snowflake::lead_ms`] at that time.
    #[must_use]
    pub const fn timestamp_ms(self) -> u64 {
        Snowflake::EPOCH_MS + self.time_ms()
    }

    /// Who made it.
    #[must_use]
    pub const fn worker(self) -> WorkerId {
        WorkerId((self.0 >> SEQUENCE_BITS) as u16 & (WorkerId::COUNT - 1))
    }

    const fn time_ms(self) -> u64 {
        self.0 >> TIME_SHIFT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKER: WorkerId = WorkerId(5);
    const NOW_MS: u64 = Snowflake::EPOCH_MS + 1_000_000;

    #[test]
    fn an_id_says_when_and_where() {
        let id = Snowflake::new(WORKER, None).next(NOW_MS);
        assert_eq!(id.timestamp_ms(), NOW_MS);
        assert_eq!(id.worker(), WORKER);
        assert_eq!(id.0, 1_000_000 << 22 | 5 << 12);
    }

    #[test]
    fn no_message_is_called_0_whatever_the_clock_says() {
        for now_ms in [0, Snowflake::EPOCH_MS - 1, Snowflake::EPOCH_MS, u64::MAX] {
            let id = Snowflake::new(WorkerId(0), None).next(now_ms);
            assert!(id > MessageId(0), "{id:?} at {now_ms}");
        }
    }

    #[test]
    fn a_full_millisecond_flows_over_into_the_next() {
        let mut ids = Snowflake::new(WORKER, None);
        let all: Vec<MessageId> = (0..10_000).map(|_| ids.next(NOW_MS)).collect();
        assert!(all.is_sorted_by(|before, after| before < after));
        let count_at = |ms| all.iter().filter(|id| id.timestamp_ms() == NOW_MS + ms).count();
        assert_eq!([count_at(0), count_at(1), count_at(2)], [4096, 4096, 10_000 - 2 * 4096]);
        assert_eq!(ids.lead_ms(NOW_MS), 2);
        assert_eq!(ids.next(NOW_MS + 3).timestamp_ms(), NOW_MS + 3);
        assert_eq!(ids.lead_ms(NOW_MS + 3), 0);
    }

    #[test]
    fn a_clock_that_steps_back_does_not_take_ids_back() {
        let mut ids = Snowflake::new(WORKER, None);
        let before = ids.next(NOW_MS);
        let after = ids.next(NOW_MS - 60_000);
        assert!(after > before);
        assert_eq!(ids.lead_ms(NOW_MS - 60_000), 60_000);
        assert!(ids.next(0) > after);
        assert_eq!(ids.next(NOW_MS + 1).timestamp_ms(), NOW_MS + 1);
    }

    #[test]
    fn a_restart_goes_on_after_the_last_id() {
        let mut ids = Snowflake::new(WORKER, None);
        let last = (0..100).map(|_| ids.next(NOW_MS)).last();
        for worker in [0, 4, 5, 6, 1023] {
            let mut restarted = Snowflake::new(WorkerId(worker), last);
            assert!(Some(restarted.next(NOW_MS - 5_000)) > last, "worker {worker}");
        }
    }

    #[test]
    fn workers_are_ten_bits() {
        assert_eq!(WorkerId::new(1023).map(WorkerId::number), Some(1023));
        assert_eq!(WorkerId::new(1024), None);
        assert_eq!(Snowflake::new(WorkerId(1023), None).next(NOW_MS).worker(), WorkerId(1023));
    }

    #[test]
    fn a_clock_beyond_belief_changes_nothing() {
        let mut ids = Snowflake::new(WORKER, None);
        let before = ids.next(NOW_MS);
        let after = ids.next(u64::MAX);
        assert!(after > before);
        assert_eq!(after.timestamp_ms(), NOW_MS);
    }

    #[test]
    #[should_panic(expected = "used up")]
    fn ids_that_are_used_up_are_not_given_twice() {
        Snowflake::new(WORKER, Some(MessageId(u64::MAX >> 1))).next(NOW_MS);
    }
}
