//! Not faster than the server takes: a bucket of tokens, filled as `welcome` says.
//!
//! A message that the server refuses for its rate has lost its place in the order, so the client keeps a tenth of the
//! burst in reserve, for what the network squeezes together.

/// A message costs this much, so that whole numbers can count parts of one.
const PART: u64 = 1_000;

#[derive(Debug)]
pub(crate) struct Pace {
    /// Messages per second, which is parts per millisecond; 0: as fast as you like.
    per_second: u64,
    capacity: u64,
    available: u64,
    filled_ms: u64,
    not_before_ms: u64,
}

impl Pace {
    pub(crate) fn new(per_second: u32, burst: u32, now_ms: u64) -> Self {
        let burst = u64::from(burst);
        let capacity = (burst - burst / 10).max(1) * PART;
        Self {
            per_second: per_second.into(),
            capacity,
            available: capacity,
            filled_ms: now_ms,
            not_before_ms: 0,
        }
    }

    /// The server said so: nothing before then.
    pub(crate) fn pause_until(&mut self, at_ms: u64) {
        self.not_before_ms = self.not_before_ms.max(at_ms);
        self.available = self.available.min(PART);
    }

    /// Takes what one message costs, if it may go now.
    pub(crate) fn take(&mut self, now_ms: u64) -> bool {
        if self.next_ms(now_ms) > now_ms {
            return false;
        }
        if self.per_second > 0 {
            self.available -= PART;
        }
        true
    }

    /// When the next message may go.
    pub(crate) fn next_ms(&mut self, now_ms: u64) -> u64 {
        if self.per_second == 0 {
            return self.not_before_ms.max(now_ms);
        }
        let filled = now_ms.saturating_sub(self.filled_ms).saturating_mul(self.per_second);
        self.available = self.available.saturating_add(filled).min(self.capacity);
        self.filled_ms = self.filled_ms.max(now_ms);
        let missing = PART.saturating_sub(self.available);
        self.not_before_ms.max(now_ms.saturating_add(missing.div_ceil(self.per_second)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burst(pace: &mut Pace, now_ms: u64) -> usize {
        (0..1_000).take_while(|_| pace.take(now_ms)).count()
    }

    #[test]
    fn a_burst_then_the_rate() {
        let mut pace = Pace::new(20, 100, 0);
        assert_eq!(burst(&mut pace, 0), 90);
        assert_eq!(pace.next_ms(0), 50);
        assert!(!pace.take(49));
        assert!(pace.take(50));
        let in_a_second = (51..=1_050).filter(|now_ms| pace.take(*now_ms)).count();
        assert_eq!(in_a_second, 20);
        assert_eq!(burst(&mut pace, 1_000_000), 90);
    }

    #[test]
    fn a_pause_holds_and_a_server_without_limits_is_not_waited_for() {
        let mut pace = Pace::new(20, 100, 0);
        pace.pause_until(700);
        assert_eq!((pace.next_ms(0), pace.take(699), pace.take(700)), (700, false, true));
        let mut free = Pace::new(0, 0, 0);
        assert_eq!(burst(&mut free, 0), 1_000);
        free.pause_until(u64::MAX);
        assert!(!free.take(1 << 60));
        // One at a time, when the burst says so.
        let mut slow = Pace::new(1, 1, 0);
        assert_eq!((burst(&mut slow, 0), slow.next_ms(0)), (1, 1_000));
    }
}
