//! Signs of life, in both directions.
//!
//! The server must hear from this client once per interval; anything counts, the cheapest is an unsolicited pong,
//! which is not answered (RFC 6455 §5.5.3). Because it is not, a quiet server and a dead one look alike: after two
//! quiet intervals the beat is a ping, and when nothing comes within another interval, the server is gone.

/// A server that asks for more than one beat a second is not believed.
const INTERVAL_MS_MIN: u64 = 1_000;

#[derive(Debug)]
pub(crate) struct Heartbeat {
    interval_ms: u64,
    heard_ms: u64,
    spoke_ms: u64,
    probed_ms: Option<u64>,
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// An unsolicited pong.
    Pong,
    /// A ping, which must be answered.
    Ping,
    /// Nothing came since the ping: the connection is dead.
    Dead,
}

impl Heartbeat {
    pub(crate) fn new(interval_ms: u64, now_ms: u64) -> Self {
        Self {
            interval_ms: interval_ms.max(INTERVAL_MS_MIN),
            heard_ms: now_ms,
            spoke_ms: now_ms,
            probed_ms: None,
        }
    }

    pub(crate) const fn hear(&mut self, now_ms: u64) {
        self.heard_ms = now_ms;
        self.probed_ms = None;
    }

    pub(crate) const fn speak(&mut self, now_ms: u64) {
        self.spoke_ms = now_ms;
    }

    pub(crate) fn next_ms(&self) -> u64 {
        let beat_ms = self.spoke_ms.saturating_add(self.interval_ms);
        match self.probed_ms {
            Some(probed_ms) => beat_ms.min(probed_ms.saturating_add(self.interval_ms)),
            None => beat_ms,
        }
    }

    /// What is due at `now_ms`, if anything; it counts as done.
    pub(crate) fn due(&mut self, now_ms: u64) -> Option<Beat> {
        if self.probed_ms.is_some_and(|probed_ms| now_ms >= probed_ms.saturating_add(self.interval_ms)) {
            return Some(Beat::Dead);
        }
        if now_ms < self.spoke_ms.saturating_add(self.interval_ms) {
            return None;
        }
        self.spoke_ms = now_ms;
        if self.probed_ms.is_none() && now_ms >= self.heard_ms.saturating_add(2 * self.interval_ms) {
            self.probed_ms = Some(now_ms);
            return Some(Beat::Ping);
        }
        Some(Beat::Pong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_connection_beats_by_pongs_and_sometimes_asks() {
        let mut heartbeat = Heartbeat::new(30_000, 0);
        let mut beats = Vec::new();
        for _ in 0..6 {
            let now_ms = heartbeat.next_ms();
            let beat = heartbeat.due(now_ms).expect("it is time");
            if beat == Beat::Ping {
                heartbeat.hear(now_ms + 10);
            }
            beats.push((now_ms, beat));
        }
        let at = |seconds: u64, beat| (seconds * 1_000, beat);
        assert_eq!(
            beats,
            [
                at(30, Beat::Pong),
                at(60, Beat::Ping),
                at(90, Beat::Pong),
                at(120, Beat::Pong),
                at(150, Beat::Ping),
                at(180, Beat::Pong)
            ]
        );
    }

    #[test]
    fn what_is_sent_and_heard_anyway_saves_the_beat() {
        let mut heartbeat = Heartbeat::new(30_000, 0);
        for now_ms in (0..600_000).step_by(29_000) {
            assert_eq!(heartbeat.due(now_ms), None);
            heartbeat.speak(now_ms);
            heartbeat.hear(now_ms);
        }
    }

    #[test]
    fn an_unanswered_ping_is_the_end_even_while_this_side_speaks() {
        let mut heartbeat = Heartbeat::new(30_000, 0);
        assert_eq!(heartbeat.due(30_000), Some(Beat::Pong));
        assert_eq!(heartbeat.due(60_000), Some(Beat::Ping));
        heartbeat.speak(89_999);
        assert_eq!(heartbeat.due(89_999), None);
        assert_eq!(heartbeat.next_ms(), 90_000);
        assert_eq!(heartbeat.due(90_000), Some(Beat::Dead));
    }

    #[test]
    fn no_server_can_ask_for_a_busy_loop() {
        assert_eq!(Heartbeat::new(0, 5).next_ms(), 1_005);
        assert_eq!(Heartbeat::new(u64::MAX, 5).next_ms(), u64::MAX);
    }
}
