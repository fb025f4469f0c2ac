//! Going away politely: sessions are told when to come back, then closed at an even pace.
//!
//! The first half of the time goes to `drain` frames, the next three eighths to close frames (1012, service
//! restart), and the rest to the peers' answers; whoever is left then is cut off by the end of the process.

use std::time::Duration;

use holdfast_protocol::ws::CloseCode;
use holdfast_reactor::{ConnectionId, Driver, Moment};

use super::connection::{Connection, Phase};
use super::{Shard, context_of};
use crate::backend::Backend;

/// How often a drain takes a step.
const STEP: Duration = Duration::from_millis(20);

/// How far a drain is.
#[derive(Debug)]
pub(crate) struct Drain {
    began: Moment,
    within: Duration,
    /// The next slot that gets a `drain` frame, and the next that is closed.
    told: u32,
    closed: u32,
}

impl Drain {
    pub(super) fn is_over(&self, now: Moment, connections: usize) -> bool {
        connections == 0 || now.since(self.began) >= self.within
    }

    pub(super) fn next_step(&self, now: Moment) -> Moment {
        now.after(STEP).min(self.began.after(self.within))
    }

    fn tell_by(&self) -> Duration {
        self.within / 2
    }

    fn close_by(&self) -> Duration {
        self.within * 7 / 8
    }
}

/// The slot up to which work that began at `start` and must be done by `end` should be.
fn due(slots: u32, elapsed: Duration, start: Duration, end: Duration) -> u32 {
    if elapsed >= end {
        return slots;
    }
    let part = elapsed.saturating_sub(start).as_secs_f64() / (end - start).as_secs_f64().max(1e-9);
    (f64::from(slots) * part) as u32
}

impl<D: Driver, B: Backend> Shard<D, B> {
    pub(super) fn begin_drain(&mut self, within: Duration) {
        if self.drain.is_none() {
            self.driver.stop_listening();
            self.drain = Some(Drain { began: self.now, within, told: 0, closed: 0 });
        }
    }

    pub(super) fn continue_drain(&mut self) {
        let Some(drain) = &self.drain else { return };
        let elapsed = self.now.since(drain.began);
        let slots = self.table.slots();
        let (told, closed) = (drain.told, drain.closed);
        let tell_to = due(slots, elapsed, Duration::ZERO, drain.tell_by());
        let close_to = due(slots, elapsed, drain.tell_by(), drain.close_by()).min(tell_to);
        let within = drain.within;
        for index in told..tell_to {
            self.tell(index, within);
        }
        for index in closed..close_to {
            self.dismiss(index);
        }
        if let Some(drain) = &mut self.drain {
            drain.told = told.max(tell_to);
            drain.closed = closed.max(close_to);
        }
    }

    fn tell(&mut self, index: u32, within: Duration) {
        let Some(connection) = self.table.at(index) else { return };
        let id = ConnectionId { index, generation: connection.generation };
        if !matches!(connection.phase, Phase::Chat(_)) {
            return;
        }
        self.release_accept(id);
        // Everyone gets a moment of their own, spread over as long as the drain takes, so that they do not all
        // come back at once.
        let spread_ms = within.as_millis().clamp(1, 600_000) as u32;
        let after_ms = spread_ms / 2 + index.wrapping_mul(2_654_435_761) % spread_ms;
        if let Some(Connection { phase: Phase::Chat(session), accepted_tick, .. }) = self.table.get(id)
            && let Some(output) = self.driver.output(id)
        {
            let mut context = context_of(
                self.now,
                &self.rules,
                &self.shared,
                &self.counters,
                *accepted_tick,
                output,
                &mut self.scratch,
            );
            session.write_drain(after_ms, &mut context);
        }
    }

    fn dismiss(&mut self, index: u32) {
        let Some(connection) = self.table.at(index) else { return };
        let id = ConnectionId { index, generation: connection.generation };
        match &connection.phase {
            Phase::Chat(_) | Phase::Echo => {
                self.close_websocket(id, CloseCode::SERVICE_RESTART, "the server is restarting");
            }
            Phase::Head => self.close_flushed(id),
            // hyper finishes its request; the deadline ends it.
            Phase::Http(_) | Phase::Lingering | Phase::Closing => {}
        }
    }
}
