//! Send, and have it come back: every reply is compared byte for byte.
//!
//! What a message says follows from the member and the message's number: a window of `bytes` into a table of random
//! bytes, moved by the number. So nothing is kept per message but when it was sent (or ought to have been), and a
//! reply that belongs to another message, or to another connection, shows.

use std::collections::VecDeque;

use holdfast_protocol::ws::Opcode;
use holdfast_reactor::{Driver, Moment};

use super::{Order, Scenario};
use crate::arrival::Schedule;
use crate::engine::{Ended, Fleet, Gauges, Next};
use crate::measure::latency::Latencies;
use crate::random::Random;
use crate::sequence::{Arrival, SequenceWindow};

/// How messages are sent.
#[derive(Debug, Clone)]
pub struct EchoOptions {
    /// Messages of one connection under way at most.
    pub in_flight: u32,
    /// Bytes of a message.
    pub bytes: usize,
    /// As text messages (then the bytes are ASCII).
    pub text: bool,
}

/// See the module's doc.
#[derive(Debug)]
pub struct Echo {
    options: EchoOptions,
    /// `None`: closed loop, each reply is answered with the next message.
    schedule: Option<Schedule>,
    /// Arrivals that found every window full: the server owes us replies.
    backlog: VecDeque<Moment>,
    /// Whose turn it is, in the open loop.
    turn: u32,
    lanes: Vec<Lane>,
    /// When each message under way ought to have been sent: `in_flight` for each member.
    intended: Vec<Moment>,
    pattern: Vec<u8>,
    sending: bool,
    report: EchoReport,
}

/// One connection's numbers.
#[derive(Debug, Clone, Copy, Default)]
struct Lane {
    replies: SequenceWindow,
    sent: u32,
}

/// What echoing found out.
#[derive(Debug, Clone, Default)]
pub struct EchoReport {
    /// Messages sent.
    pub sent: u64,
    /// Replies that were as they should be.
    pub replies: u64,
    /// Of them, since the last [`Order::Measure`].
    pub measured: u64,
    /// Messages that were never answered.
    pub lost: u64,
    /// Replies that had come before.
    pub duplicated: u64,
    /// Replies that came after a later one's.
    pub reordered: u64,
    /// Replies that are no message of this connection.
    pub corrupted: u64,
    /// From the intended moment (open loop) or the sending (closed loop) to the reply.
    pub latency: Latencies,
    /// How late the generator sent (open loop).
    pub lateness: Latencies,
}

impl EchoReport {
    /// Adds another thread's.
    pub fn merge(&mut self, other: &Self) {
        self.sent += other.sent;
        self.replies += other.replies;
        self.measured += other.measured;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupted += other.corrupted;
        self.latency.merge(&other.latency);
        self.lateness.merge(&other.lateness);
    }
}

/// Messages of one connection that can be told apart by where their window into the pattern begins: a prime, so
/// that steps through it visit every place.
const PLACES: u32 = 2_039;

impl Echo {
    /// More than this many messages under way on one connection could not be told apart.
    pub const IN_FLIGHT_MAX: u32 = 1_024;

    /// `members` connections; open loop with a schedule, else closed.
    #[must_use]
    pub fn new(options: EchoOptions, schedule: Option<Schedule>, members: u32, seed: u64) -> Self {
        let mut random = Random::stream(seed, 0xec40);
        let mut byte = || match (random.bits() >> 32) as u8 {
            bits if options.text => b' ' + bits % 95,
            bits => bits,
        };
        let pattern = (0..options.bytes + PLACES as usize).map(|_| byte()).collect();
        let intended = vec![Moment::default(); members as usize * options.in_flight as usize];
        let lanes = vec![Lane::default(); members as usize];
        Self {
            options,
            schedule,
            backlog: VecDeque::new(),
            turn: 0,
            lanes,
            intended,
            pattern,
            sending: false,
            report: EchoReport::default(),
        }
    }

    fn body(&self, member: u32, number: u32) -> &[u8] {
        let place = (u64::from(number) * 7 + u64::from(member) * 13) % u64::from(PLACES);
        &self.pattern[place as usize..][..self.options.bytes]
    }

    fn slot(&self, member: u32, number: u32) -> usize {
        let in_flight = self.options.in_flight;
        member as usize * in_flight as usize + (number % in_flight) as usize
    }

    fn under_way(&self, member: u32) -> u32 {
        let lane = &self.lanes[member as usize];
        (u64::from(lane.sent) - lane.replies.seen()) as u32
    }

    fn send<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, intended: Moment) -> bool {
        let lane = self.lanes[member as usize];
        // A number's slot is free when the message before it in that slot has been answered.
        if self.under_way(member) >= self.options.in_flight
            || lane.sent >= lane.replies.next() + self.options.in_flight
            || lane.sent >= SequenceWindow::END
        {
            return false;
        }
        let opcode = if self.options.text { Opcode::Text } else { Opcode::Binary };
        if !fleet.send(member, opcode, self.body(member, lane.sent)) {
            return false;
        }
        let slot = self.slot(member, lane.sent);
        self.intended[slot] = intended;
        self.lanes[member as usize].sent += 1;
        self.report.sent += 1;
        true
    }

    /// Which message of this connection a reply belongs to.
    fn identify(&self, member: u32, payload: &[u8]) -> Option<u32> {
        let lane = &self.lanes[member as usize];
        let next = lane.replies.next();
        if next < lane.sent && payload == self.body(member, next) {
            return Some(next);
        }
        let later = next.saturating_add(1)..lane.sent;
        let earlier = next.saturating_sub(self.options.in_flight.max(64))..next;
        later.chain(earlier.rev()).find(|&number| payload == self.body(member, number))
    }

    fn fill<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32) {
        let now = fleet.now();
        while self.send(fleet, member, now) {}
    }

    /// Gives an arrival to the next member that has room for it.
    fn place<D: Driver>(&mut self, fleet: &mut Fleet<D>, intended: Moment) -> bool {
        let members = fleet.members();
        for _ in 0..members {
            let member = self.turn % members;
            self.turn = (self.turn + 1) % members;
            if self.send(fleet, member, intended) {
                return true;
            }
        }
        false
    }
}

/// Arrivals that wait for the server at most; beyond, the oldest ones are all the report needs.
const BACKLOG_MAX: usize = 1 << 20;

impl Scenario for Echo {
    type Report = EchoReport;

    fn opened<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32) {
        fleet.up(member);
        if self.sending && self.schedule.is_none() {
            self.fill(fleet, member);
        }
    }

    fn message<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, opcode: Opcode, payload: &[u8]) {
        let is_right_kind = (opcode == Opcode::Text) == self.options.text;
        let Some(number) = self.identify(member, payload).filter(|_| is_right_kind) else {
            self.report.corrupted += 1;
            // It stands for the reply that was due, or the window would stay full for ever.
            let lane = &mut self.lanes[member as usize];
            if lane.replies.next() < lane.sent {
                lane.replies.observe(lane.replies.next());
            }
            return;
        };
        match self.lanes[member as usize].replies.observe(number) {
            Arrival::InOrder | Arrival::Ahead => {}
            Arrival::Late => self.report.reordered += 1,
            Arrival::Duplicate => {
                self.report.duplicated += 1;
                return;
            }
        }
        self.report.replies += 1;
        self.report.measured += 1;
        let intended = self.intended[self.slot(member, number)];
        self.report.latency.record(fleet.now().since(intended));
        if self.sending && self.schedule.is_none() {
            let now = fleet.now();
            self.send(fleet, member, now);
        }
    }

    fn closed<D: Driver>(&mut self, _fleet: &mut Fleet<D>, _member: u32, _why: &Ended, was_up: bool) -> Next {
        if was_up { Next::Stay } else { Next::Backoff }
    }

    fn order<D: Driver>(&mut self, fleet: &mut Fleet<D>, order: Order) {
        match order {
            Order::Begin => {
                self.sending = true;
                match &mut self.schedule {
                    Some(schedule) => schedule.restart(fleet.now()),
                    None => (0..fleet.members()).for_each(|member| self.fill(fleet, member)),
                }
            }
            Order::Measure => {
                self.report.latency.clear();
                self.report.lateness.clear();
                self.report.measured = 0;
            }
            Order::Quiesce => self.sending = false,
            Order::Close => {
                self.report.lost =
                    (0..fleet.members()).map(|member| u64::from(self.under_way(member))).sum::<u64>();
            }
            Order::Prepare | Order::Watch | Order::Read | Order::ExpectClose | Order::Stop => {}
        }
    }

    fn turn<D: Driver>(&mut self, fleet: &mut Fleet<D>) {
        if !self.sending {
            return;
        }
        let now = fleet.now();
        while let Some(intended) = self.backlog.front().copied()
            && self.place(fleet, intended)
        {
            self.backlog.pop_front();
        }
        while let Some(intended) = self.schedule.as_mut().and_then(|schedule| schedule.due(now)) {
            if self.backlog.is_empty() && self.place(fleet, intended) {
                self.report.lateness.record(now.since(intended));
            } else if self.backlog.len() < BACKLOG_MAX {
                self.backlog.push_back(intended);
            }
        }
    }

    fn next(&self) -> Option<Moment> {
        self.schedule.as_ref().filter(|_| self.sending).map(Schedule::next)
    }

    fn show(&self, gauges: &Gauges) {
        gauges.set(|gauges| &gauges.sent, self.report.sent);
        gauges.set(|gauges| &gauges.done, self.report.measured);
        let answered: u64 = self.report.replies + self.report.corrupted;
        gauges.set_outstanding(self.report.sent as i64 - answered as i64);
    }

    fn into_report(self) -> EchoReport {
        self.report
    }
}
