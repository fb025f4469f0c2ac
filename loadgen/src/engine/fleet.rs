//! The members and their driver: what a scenario acts through.
//!
//! The one invariant: a slot of the driver belongs to at most one member, and an event reaches that member only if
//! it carries the generation that the member knows.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use holdfast_protocol::ws::{self, CloseCode, Opcode};
use holdfast_reactor::{ConnectionId, Driver, Moment, Output};

use super::beat::Beat;
use super::member::{Ended, Member, Phase};
use super::options::EngineOptions;
use super::report::EngineReport;
use crate::random::Random;

/// No member has this slot.
pub(crate) const NOBODY: u32 = u32::MAX;

/// A handshake under way.
#[derive(Debug)]
pub(crate) struct Opening {
    /// When the schedule wanted it.
    pub(crate) intended: Moment,
    /// When the connect was made.
    pub(crate) started: Moment,
    /// What came of the answer so far, when it came in parts.
    pub(crate) head: Vec<u8>,
}

/// What a scenario wants to happen to a member that is not connected any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing: it stays away.
    Stay,
    /// It waits for its turn in the ramp again.
    Queue,
    /// It connects again at this moment.
    At(Moment),
    /// It connects again after a pause that grows with its failures.
    Backoff,
}

/// See the module's doc.
#[derive(Debug)]
pub struct Fleet<D> {
    pub(crate) driver: D,
    pub(crate) options: EngineOptions,
    pub(crate) members: Vec<Member>,
    /// Slot of the driver → member.
    slots: Vec<u32>,
    pub(crate) openings: HashMap<u32, Opening>,
    /// Handshakes and closes that must be over by then, in order: all have the same time.
    pub(crate) deadlines: VecDeque<(Moment, ConnectionId)>,
    /// How connections end whose close handshake is complete, and the phase that it found them in.
    farewells: HashMap<u32, (Ended, Phase)>,
    /// Members that come back, and when.
    pub(crate) returns: BinaryHeap<Reverse<(Moment, u32)>>,
    /// Members that wait for their turn in the ramp.
    pub(crate) queue: VecDeque<u32>,
    pub(crate) beat: Option<Beat>,
    pub(crate) random: Random,
    pub(crate) now: Moment,
    /// Members that were ended since the scenario was last told.
    pub(crate) ended: Vec<(u32, Ended, bool)>,
    /// From now on it is no loss when connections end.
    pub(crate) is_closing: bool,
    pub(crate) report: EngineReport,
}

impl<D: Driver> Fleet<D> {
    pub(crate) fn new(driver: D, options: EngineOptions, now: Moment) -> Self {
        let count = options.members;
        let mut members = Vec::with_capacity(count as usize);
        members.resize_with(count as usize, Member::new);
        Self {
            driver,
            members,
            slots: Vec::new(),
            openings: HashMap::new(),
            deadlines: VecDeque::new(),
            farewells: HashMap::new(),
            returns: BinaryHeap::new(),
            queue: (0..count).collect(),
            beat: Beat::new(now, options.heartbeat, count),
            random: Random::stream(options.seed, 0x5eed ^ u64::from(options.first_member)),
            now,
            ended: Vec::new(),
            is_closing: false,
            report: EngineReport::default(),
            options,
        }
    }

    /// The time of this turn.
    #[must_use]
    pub const fn now(&self) -> Moment {
        self.now
    }

    /// Members of this thread.
    #[must_use]
    pub fn members(&self) -> u32 {
        self.members.len() as u32
    }

    /// The number that a member has among all threads'.
    #[must_use]
    pub const fn global(&self, member: u32) -> u32 {
        self.options.first_member + member
    }

    /// True when messages can be sent to it.
    #[must_use]
    pub fn is_up(&self, member: u32) -> bool {
        self.members[member as usize].phase == Phase::Up
    }

    /// True when it is upgraded and not up yet: it logs in.
    #[must_use]
    pub fn is_opening(&self, member: u32) -> bool {
        self.members[member as usize].phase == Phase::Opening
    }

    /// When the schedule wanted a member's connect, as long as it is not up.
    #[must_use]
    pub fn intended(&self, member: u32) -> Option<Moment> {
        self.openings.get(&member).map(|opening| opening.intended)
    }

    /// Nobody who is not connecting already will.
    pub fn stop_connecting(&mut self) {
        self.queue.clear();
        self.returns.clear();
    }

    /// Starts measuring handshakes again, after a warm-up.
    pub fn forget_handshakes(&mut self) {
        self.report.handshake.clear();
        self.report.handshake_from_intended.clear();
    }

    /// Appends a message or control frame; it goes out with the next turn. False when the member is not connected.
    pub fn send(&mut self, member: u32, opcode: Opcode, payload: &[u8]) -> bool {
        let Member { connection, phase, .. } = self.members[member as usize];
        if !matches!(phase, Phase::Opening | Phase::Up) {
            return false;
        }
        let Some(output) = self.driver.output(connection) else { return false };
        ws::encode_frame(output.buffer(), opcode, payload, Some(self.random.mask()));
        true
    }

    /// Where to append bytes for a member's connection, for scenarios that [speak bytes](crate::scenario::Scenario::SPEAKS_BYTES);
    /// they go out with the next turn. `None`: it is not connected.
    pub fn output(&mut self, member: u32) -> Option<&mut Vec<u8>> {
        let Member { connection, phase, .. } = self.members[member as usize];
        let is_connected = matches!(phase, Phase::Opening | Phase::Up);
        is_connected.then(|| self.driver.output(connection).map(Output::buffer)).flatten()
    }

    /// `Host` of all handshakes.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.options.host
    }

    /// The request target of the URL.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.options.path
    }

    /// How long a handshake may take, login included.
    #[must_use]
    pub fn handshake_ms(&self) -> u64 {
        self.options.timeout.as_millis() as u64
    }

    /// Receives nothing more from a member's connection: the kernel's buffers fill, its window closes, and what the
    /// server sends waits at the server.
    pub fn stop_reading(&mut self, member: u32) {
        if self.is_up(member) {
            self.driver.pause(self.members[member as usize].connection);
        }
    }

    /// Receives again.
    pub fn read_again(&mut self, member: u32) {
        if self.is_up(member) {
            self.driver.resume(self.members[member as usize].connection);
        }
    }

    /// Says that the member is through its handshake and login: it counts as connected from now on.
    pub fn up(&mut self, member: u32) {
        let record = &mut self.members[member as usize];
        debug_assert_eq!(record.phase, Phase::Opening, "a member comes up once per connection");
        record.phase = Phase::Up;
        record.failures = 0;
        if let Some(opening) = self.openings.remove(&member) {
            self.report.handshake.record(self.now.since(opening.started));
            self.report.handshake_from_intended.record(self.now.since(opening.intended));
        }
        self.report.opened += 1;
        self.report.up += 1;
    }

    /// Ends a member's connection on our side: says Close and waits for the server's, or resets at once.
    pub fn finish(&mut self, member: u32, politely: bool) {
        let Member { connection, phase, .. } = self.members[member as usize];
        match phase {
            Phase::Connecting | Phase::Upgrading | Phase::Opening | Phase::Up | Phase::Closing => {}
            Phase::Farewell | Phase::Idle | Phase::Gone => return,
        }
        if phase == Phase::Up {
            self.report.up -= 1;
        }
        self.openings.remove(&member);
        let polite = politely && matches!(phase, Phase::Opening | Phase::Up);
        if polite && let Some(output) = self.driver.output(connection) {
            ws::encode_close(output.buffer(), CloseCode::NORMAL, "", Some(self.random.mask()));
            self.members[member as usize].phase = Phase::Closing;
            self.deadlines.push_back((self.now.after(self.options.timeout), connection));
            return;
        }
        self.driver.abort(connection);
        self.report.ends.add("reset by us");
        self.detach(member, Phase::Idle);
        self.ended.push((member, Ended::Reset, phase == Phase::Up));
    }

    /// The server must hear from its clients at least this often.
    pub fn limit_heartbeat(&mut self, interval: Duration) {
        let now = self.now;
        if let Some(beat) = &mut self.beat {
            beat.shorten(interval, now);
        }
    }

    /// Ends a member's connection because of something that ought not to have happened.
    pub fn fail(&mut self, member: u32, why: Ended) {
        let Member { connection, phase, .. } = self.members[member as usize];
        if matches!(phase, Phase::Idle | Phase::Gone) {
            return;
        }
        // What was queued (the answer to a Close) goes out if the socket takes it.
        self.driver.close(connection);
        self.end(member, why);
    }

    /// The close handshake is complete. The server closes the connection; one that does not in time is reset.
    pub(crate) fn bid_farewell(&mut self, member: u32, why: Ended) {
        self.book_end(member, &why);
        let record = &mut self.members[member as usize];
        let before = std::mem::replace(&mut record.phase, Phase::Farewell);
        self.deadlines.push_back((self.now.after(self.options.timeout), record.connection));
        self.farewells.insert(member, (why, before));
    }

    /// Takes note that a member's connection is over, on whoever's wish, and queues it for the scenario.
    pub(crate) fn end(&mut self, member: u32, why: Ended) {
        let phase = self.members[member as usize].phase;
        if matches!(phase, Phase::Idle | Phase::Gone) {
            return;
        }
        // How the connection goes after its last words is no news.
        let (why, phase) = self.farewells.remove(&member).unwrap_or_else(|| {
            self.book_end(member, &why);
            (why, phase)
        });
        self.detach(member, Phase::Idle);
        self.ended.push((member, why, matches!(phase, Phase::Up | Phase::Closing)));
    }

    /// Counts the end of a member's connection as what it is.
    fn book_end(&mut self, member: u32, why: &Ended) {
        self.openings.remove(&member);
        match self.members[member as usize].phase {
            Phase::Up => {
                self.report.up -= 1;
                if self.is_closing {
                    self.report.ends.add(&why.to_string());
                } else {
                    self.report.lost += 1;
                    self.report.losses.add(&why.to_string());
                }
            }
            Phase::Closing => self.report.ends.add("closed by us"),
            Phase::Connecting | Phase::Upgrading | Phase::Opening => {
                let record = &mut self.members[member as usize];
                record.failures = record.failures.saturating_add(1);
                self.report.failed_attempts += 1;
                self.report.failures.add(&why.to_string());
            }
            Phase::Farewell | Phase::Idle | Phase::Gone => {}
        }
    }

    fn detach(&mut self, member: u32, phase: Phase) {
        let record = &mut self.members[member as usize];
        record.phase = phase;
        record.decoder = Member::new().decoder;
        if let Some(slot) = self.slots.get_mut(record.connection.index as usize) {
            *slot = NOBODY;
        }
    }

    /// The member that this event is about, unless it is about a connection that is history.
    pub(crate) fn member_of(&self, connection: ConnectionId) -> Option<u32> {
        let member = *self.slots.get(connection.index as usize)?;
        (member != NOBODY && self.members[member as usize].connection == connection).then_some(member)
    }

    /// Begins a member's connect.
    pub(crate) fn connect(&mut self, member: u32, intended: Moment) {
        let attempts = self.members[member as usize].attempts;
        let (source, target) =
            self.options.addresses.pair(self.global(member).wrapping_add(u32::from(attempts)));
        self.report.attempts += 1;
        self.members[member as usize].attempts = attempts.wrapping_add(1);
        match self.driver.connect(source, target) {
            Ok(connection) => {
                let index = connection.index as usize;
                if self.slots.len() <= index {
                    self.slots.resize(index + 1, NOBODY);
                }
                self.slots[index] = member;
                let record = &mut self.members[member as usize];
                record.connection = connection;
                record.phase = Phase::Connecting;
                self.openings.insert(member, Opening { intended, started: self.now, head: Vec::new() });
                self.deadlines.push_back((self.now.after(self.options.timeout), connection));
            }
            Err(error) => {
                let record = &mut self.members[member as usize];
                record.failures = record.failures.saturating_add(1);
                self.report.failed_attempts += 1;
                self.report.failures.add(&format!("connect: {error}"));
                self.ended.push((member, Ended::Scenario(error.to_string()), false));
            }
        }
    }

    /// Does what the scenario wants with a member that is not connected.
    pub(crate) fn schedule(&mut self, member: u32, next: Next) {
        let failures = self.members[member as usize].failures;
        let given_up = u32::from(failures) >= self.options.attempts_max;
        let at = match next {
            _ if given_up || self.is_closing => None,
            Next::Stay => None,
            Next::Queue => {
                self.queue.push_back(member);
                return;
            }
            Next::At(moment) => Some(moment),
            Next::Backoff => {
                // 250 ms, doubled with each failure up to 8 s, and up to half of it more so that crowds disperse.
                let pause_ms = 250u32 << failures.saturating_sub(1).min(5);
                let jitter_ms = self.random.below(pause_ms / 2);
                Some(self.now.after(Duration::from_millis(u64::from(pause_ms + jitter_ms))))
            }
        };
        match at {
            Some(moment) => self.returns.push(Reverse((moment, member))),
            None => self.members[member as usize].phase = Phase::Gone,
        }
    }

    /// Connects that may be begun now without having more than the allowed number under way.
    pub(crate) fn room(&self) -> bool {
        self.openings.len() < self.options.in_flight_max as usize
    }
}
