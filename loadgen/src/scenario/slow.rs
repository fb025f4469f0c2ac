//! Readers that stop reading while others write to them, and read again later.
//!
//! A [`Chat`] with books of [cohorts](FunnelBooks), between three orders: at [`Order::Begin`] the senders begin, and no
//! byte is received any more on the readers' connections; they go on to show that they live. At [`Order::Read`] they
//! read again, and a `gap` is healed as everywhere.
//!
//! The one invariant: between the two orders a reader sends nothing but its heartbeat.

use holdfast_protocol::ws::Opcode;
use holdfast_reactor::{Driver, Moment};

use super::books::funnel::FunnelBooks;
use super::chat::{Chat, ChatReport};
use super::{Order, Scenario};
use crate::engine::{Ended, Fleet, Gauges, Next};

/// See the module's doc.
#[derive(Debug)]
pub struct SlowReaders {
    chat: Chat<FunnelBooks>,
    is_stalled: bool,
    /// By member: has been told to read again, and has not come to its `gap`.
    has_no_gap_yet: Vec<bool>,
    waited_bytes: u64,
}

/// What it found out.
#[derive(Debug)]
pub struct SlowReport {
    /// As of any chat.
    pub chat: ChatReport<FunnelBooks>,
    /// Bytes of WebSocket frames that readers got from reading again up to their `gap`: what had waited for them.
    pub waited_bytes: u64,
}

impl SlowReaders {
    /// The chat's members, some of whom read.
    #[must_use]
    pub const fn new(chat: Chat<FunnelBooks>) -> Self {
        Self { chat, is_stalled: false, has_no_gap_yet: Vec::new(), waited_bytes: 0 }
    }

    fn is_reader(&self, member: u32) -> bool {
        self.chat.books().is_reader(member)
    }

    fn stall<D: Driver>(&mut self, fleet: &mut Fleet<D>) {
        self.is_stalled = true;
        for member in (0..fleet.members()).filter(|member| self.is_reader(*member)) {
            fleet.stop_reading(member);
        }
    }

    fn read_again<D: Driver>(&mut self, fleet: &mut Fleet<D>) {
        self.is_stalled = false;
        self.has_no_gap_yet = (0..fleet.members()).map(|member| self.is_reader(member)).collect();
        for member in (0..fleet.members()).filter(|member| self.is_reader(*member)) {
            fleet.read_again(member);
        }
    }
}

/// Bytes of an unmasked frame with this payload (RFC 6455 §5.2).
const fn frame_bytes(payload_bytes: usize) -> u64 {
    let header = match payload_bytes {
        0..126 => 2,
        126..65_536 => 4,
        _ => 10,
    };
    payload_bytes as u64 + header
}

impl Scenario for SlowReaders {
    type Report = SlowReport;

    fn authorize(&mut self, member: u32, token: &mut String) {
        self.chat.authorize(member, token);
    }

    fn opened<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32) {
        self.chat.opened(fleet, member);
    }

    fn message<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, opcode: Opcode, payload: &[u8]) {
        let gaps = self.chat.counts().gaps;
        self.chat.message(fleet, member, opcode, payload);
        if self.is_stalled && self.is_reader(member) && fleet.is_up(member) {
            // It lost its connection, and has just come back.
            fleet.stop_reading(member);
        }
        if self.has_no_gap_yet.get(member as usize).copied().unwrap_or(false) {
            if self.chat.counts().gaps > gaps {
                self.has_no_gap_yet[member as usize] = false;
            } else {
                self.waited_bytes += frame_bytes(payload.len());
            }
        }
    }

    fn closed<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, why: &Ended, was_up: bool) -> Next {
        self.chat.closed(fleet, member, why, was_up)
    }

    fn order<D: Driver>(&mut self, fleet: &mut Fleet<D>, order: Order) {
        match order {
            Order::Begin => self.stall(fleet),
            Order::Read => self.read_again(fleet),
            _ => {}
        }
        self.chat.order(fleet, order);
    }

    fn turn<D: Driver>(&mut self, fleet: &mut Fleet<D>) {
        self.chat.turn(fleet);
    }

    fn next(&self) -> Option<Moment> {
        self.chat.next()
    }

    fn beat<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32) {
        if self.is_stalled && self.is_reader(member) {
            fleet.send(member, Opcode::Pong, &[]);
        } else {
            self.chat.beat(fleet, member);
        }
    }

    fn show(&self, gauges: &Gauges) {
        self.chat.show(gauges);
        if self.is_stalled {
            // Nobody waits for readers that do not read.
            gauges.set_outstanding(self.chat.books().owed_to_senders() + self.chat.waiting());
        }
    }

    fn into_report(self) -> SlowReport {
        SlowReport { chat: self.chat.into_report(), waited_bytes: self.waited_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_shortest_header() {
        assert_eq!([0, 125, 126, 65_535, 65_536].map(frame_bytes), [2, 127, 130, 65_539, 65_546]);
    }
}
