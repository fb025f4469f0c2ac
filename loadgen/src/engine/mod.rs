//! One thread, one driver, any number of connections: from the connect over the upgrade to the close.
//!
//! It never waits for the server: arrivals come from a schedule, and what is due is sent. The one brake is the
//! number of handshakes under way, and what waits for it is measured from its intended moment.
//!
//! What it never does: know what the messages mean. That is the [`Scenario`]'s business.

mod beat;
mod fleet;
mod handshake;
mod member;
mod options;
mod report;

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

use holdfast_protocol::ws::{self, Item, MessageLimits, Opcode};
use holdfast_reactor::{Buffer, CloseReason, ConnectionId, Driver, Event, Moment, ReactorError};

pub use fleet::{Fleet, Next};
pub use member::{Ended, Tally};
pub use options::{EngineOptions, Ramp};
pub use report::{EngineReport, Gauges, Snapshot};

use crate::arrival::Schedule;
use crate::clock;
use crate::random::Random;
use crate::scenario::{Order, Scenario};
use member::{Member, Phase};

/// See the module's doc.
#[derive(Debug)]
pub struct Engine<D, S> {
    fleet: Fleet<D>,
    scenario: S,
    /// `None`: flat out.
    ramp: Option<Schedule>,
    /// Our clock less the driver's, in nanoseconds.
    clock_ahead_ns: u64,
    orders: Receiver<Order>,
    orders_done: u64,
    gauges: Arc<Gauges>,
    /// Members that still have to be closed, after [`Order::Close`].
    to_close: std::ops::Range<u32>,
    limits: MessageLimits,
    events: Vec<Event>,
}

/// Members that one turn closes at most: the server's answers must be read too.
const CLOSES_PER_TURN: u32 = 256;

/// Heartbeats that one turn sends at most. One send of a million sessions costs some 30 µs on loopback, where it runs
/// the receiver's side too: after a stall of the machine, what is due would make a turn of 50 ms, and every message
/// would wait behind it.
const BEATS_PER_TURN: u32 = 64;

/// Frames of one message from the server: the longest message of Autobahn|Testsuite has 65,537.
const FRAGMENTS_MAX: u32 = 100_000;

impl<D: Driver, S: Scenario> Engine<D, S> {
    /// An engine that begins to connect with its first turn.
    pub fn new(
        driver: D,
        scenario: S,
        options: EngineOptions,
        orders: Receiver<Order>,
        gauges: Arc<Gauges>,
    ) -> Self {
        let now = clock::monotonic();
        let ramp = match options.ramp {
            Ramp::Rate(per_second, spread) => {
                let random = Random::stream(options.seed, 0xa221 ^ u64::from(options.first_member));
                Some(Schedule::new(spread, per_second, now, random))
            }
            Ramp::Flat => None,
        };
        let bytes = options.message_bytes_max;
        let limits = MessageLimits { frame_bytes: bytes, message_bytes: bytes, fragments: FRAGMENTS_MAX };
        let fleet = Fleet::new(driver, options, now);
        Self {
            fleet,
            scenario,
            ramp,
            clock_ahead_ns: 0,
            orders,
            orders_done: 0,
            gauges,
            to_close: 0..0,
            limits,
            events: Vec::new(),
        }
    }

    /// Turns until it is told to stop or, after [`Order::Close`], until all connections are closed.
    ///
    /// # Errors
    /// When the driver cannot go on.
    pub fn run(mut self) -> Result<(EngineReport, S::Report), ReactorError> {
        // A turn that does not wait, to learn the driver's clock: it may count from another moment than ours.
        self.fleet.driver.turn(Some(Moment(0)), &mut self.events)?;
        self.clock_ahead_ns = clock::monotonic().0.wrapping_sub(self.fleet.driver.now().0);
        while self.turn()? {}
        Ok((self.fleet.report, self.scenario.into_report()))
    }

    /// One turn: wait and reap; work through the events; orders; what has timed out; who comes back; the ramp; the
    /// scenario's sends; heartbeats; show the counters. False when it is over.
    fn turn(&mut self) -> Result<bool, ReactorError> {
        let until = self.until();
        let mut events = std::mem::take(&mut self.events);
        self.fleet.driver.turn(until, &mut events)?;
        self.fleet.now = clock::monotonic();
        self.fleet.report.turns += 1;
        for event in events.drain(..) {
            self.handle(event);
        }
        self.events = events;
        if !self.obey() {
            return Ok(false);
        }
        // Decoding a large batch takes time: what is due is judged by the present, not by when the batch came.
        self.fleet.now = clock::monotonic();
        self.time_out();
        self.connect_due();
        self.scenario.turn(&mut self.fleet);
        self.beat();
        self.close_some();
        self.tell_ended();
        self.show();
        Ok(!(self.fleet.is_closing && self.to_close.is_empty() && self.fleet.driver.connections() == 0))
    }

    /// When the next thing is due that no event announces.
    fn until(&self) -> Option<Moment> {
        let fleet = &self.fleet;
        let ramp = match &self.ramp {
            _ if fleet.queue.is_empty() || !fleet.room() => None,
            None => Some(fleet.now),
            Some(schedule) => Some(schedule.next()),
        };
        let returns = fleet.returns.peek().filter(|_| fleet.room()).map(|Reverse((moment, _))| *moment);
        let closing = (!self.to_close.is_empty()).then_some(fleet.now);
        let deadline = fleet.deadlines.front().map(|(moment, _)| *moment);
        let beat = fleet.beat.as_ref().filter(|_| fleet.report.up > 0).map(|beat| beat.next());
        [ramp, returns, closing, deadline, beat, self.scenario.next()]
            .into_iter()
            .flatten()
            .min()
            .map(|moment| Moment(moment.0.wrapping_sub(self.clock_ahead_ns)))
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Connected(connection) => {
                if let Some(member) = self.fleet.member_of(connection) {
                    if S::SPEAKS_BYTES {
                        self.fleet.members[member as usize].phase = Phase::Opening;
                        self.scenario.connected(&mut self.fleet, member);
                    } else {
                        self.request(member);
                    }
                }
            }
            Event::Received(connection, buffer) => self.received(connection, buffer),
            Event::EndOfStream(connection) => {
                if let Some(member) = self.fleet.member_of(connection) {
                    self.fleet.fail(member, Ended::HungUp);
                }
            }
            Event::Closed(connection, why) => {
                if let Some(member) = self.fleet.member_of(connection) {
                    let ended = match why {
                        CloseReason::ConnectFailed(error) => Ended::Connect(error),
                        CloseReason::Error(error) => Ended::Broken(error),
                        // We close only what we have ended before; so this is the driver's own doing.
                        CloseReason::Requested => Ended::HungUp,
                    };
                    self.fleet.end(member, ended);
                }
            }
            // Output that was held back has gone: nobody here waits for that. We do not listen.
            Event::Drained(_) | Event::Accepted(_) | Event::AcceptFailed(_) => {}
        }
        self.tell_ended();
    }

    fn received(&mut self, connection: ConnectionId, mut buffer: Buffer) {
        let Some(member) = self.fleet.member_of(connection) else { return };
        self.fleet.report.received_bytes += buffer.len() as u64;
        match self.fleet.members[member as usize].phase {
            Phase::Opening | Phase::Up | Phase::Closing if S::SPEAKS_BYTES => {
                self.scenario.bytes(&mut self.fleet, member, &mut buffer);
            }
            Phase::Upgrading => self.answer(member, &mut buffer),
            Phase::Opening | Phase::Up | Phase::Closing => self.frames(member, &mut buffer),
            Phase::Connecting | Phase::Farewell | Phase::Idle | Phase::Gone => {}
        }
    }

    /// Decodes what came and hands each message to the scenario.
    fn frames(&mut self, member: u32, mut input: &mut [u8]) {
        // The decoder is taken out so that the scenario may do what it likes with the fleet.
        let fresh = Member::new().decoder;
        let mut decoder = std::mem::replace(&mut self.fleet.members[member as usize].decoder, fresh);
        let connection = self.fleet.members[member as usize].connection;
        loop {
            let ended = match decoder.next(&mut input, &self.limits) {
                Ok(Some(item)) => self.item(member, item),
                Ok(None) => break,
                Err(error) => {
                    self.say_close(connection, error.close_code());
                    Some(Ended::Protocol(error))
                }
            };
            if let Some(ended) = ended {
                self.fleet.fail(member, ended);
            }
            // The scenario, or the item, may have ended this connection.
            if self.fleet.member_of(connection) != Some(member) {
                return;
            }
        }
        self.fleet.members[member as usize].decoder = decoder;
    }

    fn item(&mut self, member: u32, item: Item<'_>) -> Option<Ended> {
        match item {
            Item::Text(text) => {
                self.scenario.message(&mut self.fleet, member, Opcode::Text, text.as_bytes());
                None
            }
            Item::Binary(bytes) => {
                self.scenario.message(&mut self.fleet, member, Opcode::Binary, bytes);
                None
            }
            Item::Ping(payload) => {
                self.fleet.report.pings += 1;
                self.fleet.send(member, Opcode::Pong, payload);
                None
            }
            Item::Pong(_) => None,
            Item::Close(frame) => {
                let connection = self.fleet.members[member as usize].connection;
                let code = frame.map_or(ws::CloseCode::NO_STATUS, |frame| frame.code);
                let is_answer = self.fleet.members[member as usize].phase == Phase::Closing;
                if !is_answer {
                    // RFC 6455 §5.5.1: the answer echoes the code.
                    self.say_close(connection, code);
                }
                let reason = frame.map_or("", |frame| frame.reason).to_owned();
                self.fleet.bid_farewell(member, Ended::Closed(code.0, reason));
                None
            }
        }
    }

    fn say_close(&mut self, connection: ConnectionId, code: ws::CloseCode) {
        if let Some(output) = self.fleet.driver.output(connection) {
            ws::encode_close(output.buffer(), code, "", Some(self.fleet.random.mask()));
        }
    }

    /// Does what the coordinator has ordered. False: stop at once.
    fn obey(&mut self) -> bool {
        loop {
            match self.orders.try_recv() {
                // A coordinator that is gone has nobody to tell what we find.
                Ok(Order::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
                Ok(order) => {
                    self.fleet.now = clock::monotonic();
                    match order {
                        Order::ExpectClose => self.fleet.is_closing = true,
                        Order::Close => {
                            self.fleet.is_closing = true;
                            self.fleet.stop_connecting();
                            self.to_close = 0..self.fleet.members();
                        }
                        _ => {}
                    }
                    self.scenario.order(&mut self.fleet, order);
                    self.orders_done += 1;
                }
            }
        }
    }

    fn time_out(&mut self) {
        while let Some((moment, connection)) = self.fleet.deadlines.front().copied() {
            let member = self.fleet.member_of(connection);
            let phase = member.map(|member| self.fleet.members[member as usize].phase);
            // What has come up, or is gone, has met its deadline.
            if matches!(phase, None | Some(Phase::Up)) {
                self.fleet.deadlines.pop_front();
                continue;
            }
            if moment > self.fleet.now {
                break;
            }
            self.fleet.deadlines.pop_front();
            if let (Some(member), Some(phase)) = (member, phase) {
                let what = match phase {
                    Phase::Connecting => "connect",
                    Phase::Upgrading => "upgrade",
                    Phase::Opening => "login",
                    _ => "close",
                };
                self.fleet.driver.abort(connection);
                self.fleet.end(member, Ended::TimedOut(what));
            }
        }
        self.tell_ended();
    }

    /// Connects those who come back, and those whose arrival is due, while there is room.
    fn connect_due(&mut self) {
        while self.fleet.room()
            && let Some(Reverse((moment, member))) = self.fleet.returns.peek().copied()
            && moment <= self.fleet.now
        {
            self.fleet.returns.pop();
            self.fleet.connect(member, moment);
        }
        while self.fleet.room() && !self.fleet.queue.is_empty() {
            let now = self.fleet.now;
            let intended = match &mut self.ramp {
                None => Some(now),
                Some(schedule) => schedule.due(now),
            };
            let Some(intended) = intended else { break };
            if let Some(member) = self.fleet.queue.pop_front() {
                self.fleet.connect(member, intended);
            }
        }
    }

    fn beat(&mut self) {
        let Some(mut beat) = self.fleet.beat.take() else { return };
        // What is left is due at once: the next turn will not wait.
        for _ in 0..BEATS_PER_TURN {
            let Some((member, due)) = beat.due(self.fleet.now) else { break };
            if self.fleet.is_up(member) {
                self.scenario.beat(&mut self.fleet, member);
                self.fleet.report.beats += 1;
                self.fleet.report.beat_lateness.record(self.fleet.now.since(due));
            }
        }
        self.fleet.beat = Some(beat);
    }

    fn close_some(&mut self) {
        for member in self.to_close.by_ref().take(CLOSES_PER_TURN as usize) {
            self.fleet.finish(member, true);
        }
    }

    /// Tells the scenario who is gone, until nobody is.
    fn tell_ended(&mut self) {
        while let Some((member, why, was_up)) = self.fleet.ended.pop() {
            let next = self.scenario.closed(&mut self.fleet, member, &why, was_up);
            self.fleet.schedule(member, next);
        }
    }

    fn show(&self) {
        let report = &self.fleet.report;
        let awaited = self.fleet.queue.len() + self.fleet.returns.len() + self.fleet.openings.len();
        // First what the scenario waits for: who sees that nobody is awaited any more sees that too.
        self.scenario.show(&self.gauges);
        self.gauges.set(|gauges| &gauges.up, report.up);
        self.gauges.set(|gauges| &gauges.opened, report.opened);
        self.gauges.set(|gauges| &gauges.failed, report.failed_attempts);
        self.gauges.set(|gauges| &gauges.lost, report.lost);
        self.gauges.set(|gauges| &gauges.awaited, awaited as u64);
        self.gauges.set(|gauges| &gauges.orders, self.orders_done);
    }
}
