//! Users who log in and write to each other, through whatever happens to their connections.
//!
//! A member that comes back says in `hello` which `rev` it has, and sends again what was not acked; a `gap` is
//! healed by `sync`; a refusal that names a delay is tried again after it. The books ([`Ledger`]) judge the outcome, and
//! know who talks to whom.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use holdfast_protocol::chat::close::Reconnect;
use holdfast_protocol::chat::{
    self, Ack, FrameError, ServerFrame, Sync, client_frame, error_code, server_frame,
};
use holdfast_protocol::ws::Opcode;
use holdfast_reactor::{Driver, Moment};

use super::arrivals::{Arrivals, Writers};
use super::books::ledger::{CREATION, Ledger};
use super::login::Login;
use super::presence::MessageLatencies;
use super::{Order, Scenario};
use crate::arrival::Schedule;
use crate::engine::{Ended, Fleet, Gauges, Next, Tally};
use crate::measure::latency::Latencies;
use crate::random::Random;
use crate::wire;

/// See the module's doc.
#[derive(Debug)]
pub struct Chat<L> {
    login: Login,
    first_member: u32,
    books: L,
    body_bytes: usize,
    arrivals: Arrivals,
    /// Groups are being made.
    preparing: bool,
    /// Refused messages, and when they are sent again.
    resends: BinaryHeap<Reverse<(Moment, u32, u32)>>,
    /// When the server said to come back.
    drained: HashMap<u32, Duration>,
    frame: Vec<u8>,
    report: ChatCounts,
}

/// What happened beside the messages.
#[derive(Debug, Clone, Default)]
pub struct ChatCounts {
    /// How late the generator sent what had room.
    pub lateness: Latencies,
    /// Arrivals that had to wait for room in somebody's window.
    pub held_back: u64,
    /// Arrivals that never found room.
    pub unsent: u64,
    /// `gap` frames.
    pub gaps: u64,
    /// Pages of inbox entries.
    pub pages: u64,
    /// `drain` frames.
    pub drains: u64,
    /// Times that a member came up again.
    pub reconnects: u64,
    /// `error` frames, by code.
    pub errors: Tally,
    /// Messages that are no frames of the protocol.
    pub bad_frames: u64,
    /// Frames that nobody here has asked for.
    pub unasked_frames: u64,
}

impl ChatCounts {
    /// Adds another thread's.
    pub fn merge(&mut self, other: &Self) {
        self.lateness.merge(&other.lateness);
        self.held_back += other.held_back;
        self.unsent += other.unsent;
        self.gaps += other.gaps;
        self.pages += other.pages;
        self.drains += other.drains;
        self.reconnects += other.reconnects;
        self.errors.merge(&other.errors);
        self.bad_frames += other.bad_frames;
        self.unasked_frames += other.unasked_frames;
    }
}

/// What chatting found out.
#[derive(Debug)]
pub struct ChatReport<L> {
    /// The books, to be settled with the other threads'.
    pub books: L,
    /// The rest.
    pub counts: ChatCounts,
}

/// Inbox entries after which the server is told where we are; less often, the heartbeat tells it.
const ACK_AFTER: u64 = 64;
/// … and not before so long after the last time: acks count among the control frames, of which a session has 20 in 10 s.
const ACK_PAUSE: Duration = Duration::from_secs(5);
/// How long a refused message waits at least.
const RESEND_PAUSE_MIN: Duration = Duration::from_millis(50);

impl<L: Ledger> Chat<L> {
    /// Members whose books these are.
    #[must_use]
    pub fn new(
        login: Login,
        first_member: u32,
        books: L,
        schedule: Schedule,
        body_bytes: usize,
        seed: u64,
    ) -> Self {
        Self {
            login,
            first_member,
            books,
            body_bytes,
            arrivals: Arrivals::new(schedule, Random::stream(seed, 0xc4a7 ^ u64::from(first_member))),
            preparing: false,
            resends: BinaryHeap::new(),
            drained: HashMap::new(),
            frame: Vec::new(),
            report: ChatCounts::default(),
        }
    }

    /// The books.
    pub(super) const fn books(&self) -> &L {
        &self.books
    }

    /// What was counted beside them.
    pub(super) const fn counts(&self) -> &ChatCounts {
        &self.report
    }

    /// Latencies so far; from now on they are measured anew.
    pub(super) fn take_latencies(&mut self) -> MessageLatencies {
        let counts = self.books.counts();
        MessageLatencies {
            accepted: std::mem::take(&mut counts.accepted_latency),
            delivered: std::mem::take(&mut counts.delivered_latency),
            lateness: self.arrivals.take_lateness(),
        }
    }

    /// Shows the counters; `more` is awaited beside what the books wait for.
    pub(super) fn show_with(&self, gauges: &Gauges, more: i64) {
        show_books(gauges, &self.books, self.waiting() + more);
    }

    /// Arrivals that wait for room.
    pub(super) fn waiting(&self) -> i64 {
        self.arrivals.waiting() as i64
    }

    fn say<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, frame: client_frame::Frame) -> bool {
        self.login.encode(frame, &mut self.frame);
        fleet.send(member, self.login.opcode(), &self.frame)
    }

    /// Writes a request of the books to the wire.
    fn write<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, number: u32, intended: Moment) {
        let credentials = &self.login.credentials;
        let users = |member| credentials.user(member);
        let frame = self.books.request(member, number, intended, self.body_bytes, users);
        self.say(fleet, member, frame);
    }

    fn welcome<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, welcome: &chat::Welcome) {
        if !fleet.is_opening(member) {
            self.report.bad_frames += 1;
            return;
        }
        fleet.limit_heartbeat(Duration::from_millis(u64::from(welcome.heartbeat_ms)));
        fleet.up(member);
        let place = self.books.place(member);
        if place.registered {
            self.report.reconnects += 1;
        } else {
            place.registered = true;
            place.last_rev = welcome.cursor;
            place.acked_rev = welcome.cursor;
        }
        for (number, intended) in self.books.unacked(member) {
            self.resend(fleet, member, number, intended);
        }
    }

    fn resend<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, number: u32, intended: Moment) {
        self.books.counts().resent += u64::from(number != CREATION);
        self.write(fleet, member, number, intended);
    }

    fn event<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, event: &chat::Event) {
        let credentials = &self.login.credentials;
        self.books.event(member, event, fleet.now(), |member| credentials.user(member));
        self.ack_if_many(fleet, member);
    }

    /// Takes an event or a page where it lies. False: it is to be decoded.
    fn raw<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, payload: &[u8]) -> bool {
        let credentials = &self.login.credentials;
        let users = |member| credentials.user(member);
        let Some(event) = wire::event(payload) else { return false };
        if !self.books.raw_event(member, event, fleet.now(), users) {
            return false;
        }
        self.ack_if_many(fleet, member);
        true
    }

    fn ack_if_many<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32) {
        let now = fleet.now();
        let place = self.books.place(member);
        if place.last_rev - place.acked_rev >= ACK_AFTER && now.since(place.acked_at) >= ACK_PAUSE {
            self.ack(fleet, member);
        }
    }

    fn ack<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32) {
        let rev = self.books.place(member).last_rev;
        if self.say(fleet, member, client_frame::Frame::Ack(Ack { rev })) {
            let place = self.books.place(member);
            (place.acked_rev, place.acked_at) = (rev, fleet.now());
        }
    }

    fn error<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, error: &chat::Error) {
        self.report.errors.add(&error.code);
        if fleet.is_opening(member) {
            fleet.fail(member, Ended::Scenario(format!("login: {}: {}", error.code, error.message)));
            return;
        }
        let Some(number) = self.books.number(member, &error.client_id) else { return };
        if !passes(&error.code) {
            self.books.refused(member, error);
            return;
        }
        self.books.deferred(member);
        let pause = Duration::from_millis(u64::from(error.retry_after_ms)).max(RESEND_PAUSE_MIN);
        self.resends.push(Reverse((fleet.now().after(pause), member, number)));
    }
}

/// Shows what the books say; `more` is awaited beside it.
pub(super) fn show_books(gauges: &Gauges, books: &impl Ledger, more: i64) {
    gauges.set(|gauges| &gauges.sent, books.sent());
    gauges.set(|gauges| &gauges.done, books.arrived());
    gauges.set(|gauges| &gauges.broken, u64::from(books.broken().is_some()));
    gauges.set_outstanding(books.outstanding() + more);
}

/// When a member comes back whose connection has ended; `drained`: the pause that a `drain` gave it.
pub(super) fn come_back(now: Moment, why: &Ended, drained: Option<Duration>) -> Next {
    let drained = drained.map(|pause| Next::At(now.after(pause)));
    match why {
        Ended::Closed(code, _) => match Reconnect::after_close(*code) {
            Reconnect::Never => Next::Stay,
            Reconnect::AtOnce => Next::At(now),
            Reconnect::AfterDelay => drained.unwrap_or(Next::Backoff),
        },
        _ => drained.unwrap_or(Next::Backoff),
    }
}

/// How a connection ends that brought something else than frames; without an error it came as the wrong kind of message.
pub(super) fn no_frame(error: Option<&FrameError>) -> Ended {
    let why = error.map_or_else(|| "text and binary are mixed up".to_owned(), ToString::to_string);
    Ended::Scenario(format!("a message that is no frame of the protocol: {why}"))
}

/// Whether a refusal passes: the same request may be taken later.
pub(super) fn passes(code: &str) -> bool {
    let codes = [
        error_code::RATE_LIMITED,
        error_code::OVERLOADED,
        error_code::STORAGE_FAILED,
        error_code::STORAGE_FULL,
    ];
    codes.contains(&code)
}

impl<L: Ledger, D: Driver> Writers<D> for Chat<L> {
    fn arrivals(&mut self) -> &mut Arrivals {
        &mut self.arrivals
    }

    fn has_room(&self, member: u32) -> bool {
        self.books.has_room(member)
    }

    fn write_new(&mut self, fleet: &mut Fleet<D>, member: u32, intended: Moment) {
        let number = self.books.enter(member, intended);
        self.write(fleet, member, number, intended);
    }
}

impl<L: Ledger> Scenario for Chat<L> {
    type Report = ChatReport<L>;

    fn authorize(&mut self, member: u32, token: &mut String) {
        // Who comes back names its cursor too, which only `hello` can.
        if !self.login.by_hello && !self.books.place(member).registered {
            self.login.credentials.write(self.first_member + member, token);
        }
    }

    fn opened<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32) {
        let place = self.books.place(member);
        let cursor = place.registered.then_some(place.last_rev);
        if self.login.by_hello || cursor.is_some() {
            self.login.hello(self.first_member + member, cursor, &mut self.frame);
            fleet.send(member, self.login.opcode(), &self.frame);
        }
    }

    fn message<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, opcode: Opcode, payload: &[u8]) {
        if L::READS_RAW && opcode == Opcode::Binary && self.raw(fleet, member, payload) {
            return;
        }
        let frame = (opcode == self.login.opcode()).then(|| chat::decode_server(self.login.format, payload));
        let frame = match frame {
            Some(Ok(ServerFrame { frame: Some(frame) })) => frame,
            // Of a later version of the protocol, and not asked for.
            Some(Ok(_) | Err(FrameError::Missing { .. })) => {
                self.report.unasked_frames += 1;
                return;
            }
            refused => {
                self.report.bad_frames += 1;
                fleet.fail(member, no_frame(refused.and_then(Result::err).as_ref()));
                return;
            }
        };
        match frame {
            server_frame::Frame::Welcome(welcome) => self.welcome(fleet, member, &welcome),
            server_frame::Frame::Accepted(accepted) => {
                self.books.accepted(member, &accepted, fleet.now());
            }
            server_frame::Frame::Event(event) => self.event(fleet, member, &event),
            server_frame::Frame::Page(page) => {
                self.report.pages += 1;
                page.events.iter().for_each(|event| self.event(fleet, member, event));
            }
            server_frame::Frame::Gap(_) => {
                self.report.gaps += 1;
                let after = self.books.place(member).last_rev;
                self.say(
                    fleet,
                    member,
                    client_frame::Frame::Sync(Sync { after, limit: 0, every_entry: true }),
                );
            }
            server_frame::Frame::Drain(drain) => {
                self.report.drains += 1;
                self.drained.insert(member, Duration::from_millis(u64::from(drain.after_ms)));
            }
            server_frame::Frame::Error(error) => self.error(fleet, member, &error),
            // Nobody asks for anything else here.
            _ => self.report.unasked_frames += 1,
        }
    }

    fn closed<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, why: &Ended, _was_up: bool) -> Next {
        come_back(fleet.now(), why, self.drained.remove(&member))
    }

    fn order<D: Driver>(&mut self, fleet: &mut Fleet<D>, order: Order) {
        match order {
            Order::Prepare => self.preparing = true,
            Order::Begin => self.arrivals.begin(fleet.now()),
            Order::Quiesce => self.arrivals.end(),
            _ => {}
        }
    }

    fn turn<D: Driver>(&mut self, fleet: &mut Fleet<D>) {
        let now = fleet.now();
        while self.preparing
            && let Some(owner) = self.books.next_creation()
        {
            // One that is not up sends it when it comes up.
            self.write(fleet, owner, CREATION, now);
        }
        while let Some(Reverse((moment, member, number))) = self.resends.peek().copied()
            && moment <= now
        {
            self.resends.pop();
            // It may have been acked meanwhile, or sent again on a new connection.
            if let Some(intended) = self.books.intended(member, number) {
                self.resend(fleet, member, number, intended);
            }
        }
        self.pour(fleet);
    }

    fn next(&self) -> Option<Moment> {
        let resend = self.resends.peek().map(|Reverse((moment, _, _))| *moment);
        self.arrivals.next().into_iter().chain(resend).min()
    }

    fn beat<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32) {
        let place = self.books.place(member);
        if place.last_rev > place.acked_rev {
            self.ack(fleet, member);
        } else {
            fleet.send(member, Opcode::Pong, &[]);
        }
    }

    fn show(&self, gauges: &Gauges) {
        self.show_with(gauges, 0);
    }

    fn into_report(mut self) -> ChatReport<L> {
        self.arrivals.note(&mut self.report);
        ChatReport { books: self.books, counts: self.report }
    }
}
