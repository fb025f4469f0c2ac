//! Users who write to each other, each at a device with the client library ([`holdfast_client`]) in it.
//!
//! The library does all that a program of a user's would leave to it: the handshake, `hello`, an outbox that survives
//! reconnects, the inbox without holes, heartbeats, when to come back. What happens here is the program: it says what is
//! to be written, enters in the books what comes out, and counts what the library has put right by itself.
//!
//! Never here: a frame of the protocol, a byte of WebSocket.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use holdfast_client::{Act, Client, ClientConfig, Event, Lost, Rejection};
use holdfast_protocol::chat::{self, client_frame};
use holdfast_protocol::id::{Seq, UserId};
use holdfast_protocol::ws::Opcode;
use holdfast_reactor::{Driver, Moment};

use super::arrivals::{Arrivals, Writers};
use super::books::ledger::{CREATION, Ledger};
use super::chat::{ChatCounts, ChatReport, show_books};
use super::login::Login;
use super::{Order, Scenario};
use crate::arrival::Schedule;
use crate::engine::{Ended, Fleet, Gauges, Next};
use crate::random::Random;

/// How often a device says how far it has read, at most: an ack is a control frame, of which a session has 20 in 10 s.
const ACK_INTERVAL_MS: u64 = 5_000;
/// What a refusal is called that comes from the library: the server would have refused the same.
const NOT_SENT: &str = "refused by the client library";

/// The library's source of random numbers: repeatable, as everything here, which is all right where nothing is secret.
#[derive(Debug)]
struct Seeded(Random);

impl holdfast_client::Random for Seeded {
    fn next_u64(&mut self) -> u64 {
        self.0.bits()
    }
}

/// One user's device.
#[derive(Debug)]
struct Device {
    client: Client<Seeded>,
    /// The earliest entry in the heap that will wake it.
    wakes_ms: u64,
}

/// See the module's doc.
#[derive(Debug)]
pub struct Clients<L> {
    login: Login,
    first_member: u32,
    books: L,
    body_bytes: usize,
    arrivals: Arrivals,
    /// Groups are being made.
    preparing: bool,
    devices: Vec<Option<Box<Device>>>,
    wakes: BinaryHeap<Reverse<(u64, u32)>>,
    /// What the library wants after the end of a connection.
    next: HashMap<u32, Next>,
    seed: u64,
    report: ChatCounts,
}

fn ms(moment: Moment) -> u64 {
    moment.0 / 1_000_000
}

const fn moment(ms: u64) -> Moment {
    Moment(ms.saturating_mul(1_000_000))
}

impl<L: Ledger> Clients<L> {
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
            devices: Vec::new(),
            wakes: BinaryHeap::new(),
            next: HashMap::new(),
            seed,
            report: ChatCounts::default(),
        }
    }

    fn device(&mut self, member: u32) -> Option<&mut Device> {
        self.devices.get_mut(member as usize)?.as_deref_mut()
    }

    /// Makes a member's device, with what it has to say already.
    fn make<D: Driver>(&mut self, fleet: &Fleet<D>, member: u32) {
        let mut token = String::new();
        self.login.credentials.write(self.first_member + member, &mut token);
        let config = ClientConfig {
            target: fleet.target().to_owned(),
            format: self.login.format,
            connect_timeout_ms: fleet.handshake_ms(),
            ack_interval_ms: ACK_INTERVAL_MS,
            ..ClientConfig::new(fleet.host(), token)
        };
        let random = Seeded(Random::stream(self.seed ^ 0xc11e, u64::from(self.first_member + member)));
        let client = Client::new(config, random, ms(fleet.now()))
            .expect("invariant: host, path and time are those that a handshake was planned with");
        if self.devices.len() <= member as usize {
            self.devices.resize_with(fleet.members() as usize, || None);
        }
        self.devices[member as usize] = Some(Box::new(Device { client, wakes_ms: u64::MAX }));
        for (number, intended) in self.books.unacked(member) {
            self.write(member, number, intended);
        }
    }

    /// Puts a request of the books into the outbox of a device that there is.
    fn write(&mut self, member: u32, number: u32, intended: Moment) {
        let credentials = &self.login.credentials;
        let users = |member| credentials.user(member);
        let (client_id, act) = act_of(self.books.request(member, number, intended, self.body_bytes, users));
        let Some(device) = self.device(member) else { return };
        if let Err(error) = device.client.act_as(client_id.clone(), act) {
            let refused = chat::Error {
                code: NOT_SENT.into(),
                message: error.to_string(),
                client_id,
                retry_after_ms: 0,
            };
            self.books.refused(member, &refused);
        }
    }

    /// After every call into a member's client: sends what it has to send, does what it wants, and takes note of when it
    /// wants to be woken.
    fn drive<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32) {
        let now = fleet.now();
        let Some(mut device) = self.devices.get_mut(member as usize).and_then(Option::take) else { return };
        let mut ended = None;
        loop {
            if let Some(output) = fleet.output(member) {
                while device.client.poll_transmit(ms(now), output) {}
            }
            let Some(event) = device.client.poll_event() else { break };
            match event {
                Event::Disconnect => ended = Some(Ended::Reset),
                Event::Lost { why, reconnect_at_ms } => {
                    self.lose(member, why, Next::At(moment(reconnect_at_ms)), &mut ended);
                }
                Event::Ended { why } => self.lose(member, why, Next::Stay, &mut ended),
                event => self.happened(fleet, member, &mut device.client, event),
            }
        }
        // Without a connection, the engine says when there is one again. What is due now is not for this turn, which it
        // would never leave.
        let wanted_ms = device.client.poll_timeout().filter(|_| fleet.output(member).is_some());
        if let Some(at_ms) = wanted_ms.map(|at_ms| at_ms.max(ms(now) + 1))
            && at_ms < device.wakes_ms
        {
            device.wakes_ms = at_ms;
            self.wakes.push(Reverse((at_ms, member)));
        }
        self.devices[member as usize] = Some(device);
        match ended {
            // Both have said Close now; the server closes the connection.
            Some(why @ Ended::Closed(..)) => fleet.bid_farewell(member, why),
            Some(why) => fleet.fail(member, why),
            None => {}
        }
    }

    /// The client has given its connection up, or found it gone: `ended` says whether it is to be closed.
    fn lose(&mut self, member: u32, why: Lost, next: Next, ended: &mut Option<Ended>) {
        self.report.bad_frames += u64::from(matches!(why, Lost::Protocol(_)));
        self.next.insert(member, next);
        if let Some(ended) = ended {
            *ended = match why {
                Lost::Closed { code, reason } => Ended::Closed(code, reason),
                Lost::Handshake(error) => Ended::Refused(error),
                Lost::WebSocket(error) => Ended::Protocol(error),
                other => Ended::Scenario(other.to_string()),
            };
        }
    }

    fn happened<D: Driver>(
        &mut self,
        fleet: &mut Fleet<D>,
        member: u32,
        client: &mut Client<Seeded>,
        event: Event,
    ) {
        let now = fleet.now();
        let credentials = &self.login.credentials;
        match event {
            Event::Welcomed { .. } => {
                fleet.up(member);
                let place = self.books.place(member);
                self.report.reconnects += u64::from(std::mem::replace(&mut place.registered, true));
            }
            Event::Entry { rev, entry } => {
                let place = self.books.place(member);
                if place.last_rev == 0 {
                    // What came before the first one, nobody here has asked for.
                    place.last_rev = rev.0 - 1;
                }
                let event = chat::Event { rev: rev.0, entry: Some(entry) };
                self.books.event(member, &event, now, |member| credentials.user(member));
                client.ack(rev).expect("invariant: an entry that has come out can be acknowledged");
            }
            Event::Accepted { client_id, message_id, seq, conversation } => {
                let accepted =
                    chat::Accepted { client_id, message_id: message_id.0, seq: seq.0, conversation };
                self.books.accepted(member, &accepted, now);
            }
            Event::Rejected { client_id, rejection: Rejection { code, message } } => {
                self.report.errors.add(&code);
                let refused = chat::Error { code, message, client_id, retry_after_ms: 0 };
                self.books.refused(member, &refused);
            }
            Event::Delayed { rejection, .. } => {
                self.report.errors.add(&rejection.code);
                self.books.deferred(member);
            }
            Event::Refused(rejection) => self.report.errors.add(&rejection.code),
            Event::Answered(_)
            | Event::Receipts(_)
            | Event::People(_)
            | Event::Typing(_)
            | Event::Presence(_) => {
                self.report.unasked_frames += 1;
            }
            // The engine connects when `closed` says so; where to, the command line has said.
            Event::Connect { .. } | Event::Live { .. } => {}
            Event::Disconnect | Event::Lost { .. } | Event::Ended { .. } => {}
        }
    }
}

/// What the books ask for, as the library wants it.
fn act_of(frame: client_frame::Frame) -> (String, Act) {
    match frame {
        client_frame::Frame::Send(chat::Send { client_id, conversation, body, reply_to }) => {
            let body = body.unwrap_or_default();
            (client_id, Act::Send { conversation, body, reply_to: reply_to.map(Seq) })
        }
        client_frame::Frame::CreateGroup(chat::CreateGroup { client_id, title, members, open_history }) => {
            let members = members.into_iter().map(UserId).collect();
            (client_id, Act::CreateGroup { title, members, open_history })
        }
        other => unreachable!("the books ask for messages and groups, not for {other:?}"),
    }
}

impl<L: Ledger, D: Driver> Writers<D> for Clients<L> {
    fn arrivals(&mut self) -> &mut Arrivals {
        &mut self.arrivals
    }

    fn has_room(&self, member: u32) -> bool {
        self.books.has_room(member)
    }

    fn write_new(&mut self, fleet: &mut Fleet<D>, member: u32, intended: Moment) {
        let number = self.books.enter(member, intended);
        self.write(member, number, intended);
        self.drive(fleet, member);
    }
}

impl<L: Ledger> Scenario for Clients<L> {
    const SPEAKS_BYTES: bool = true;

    type Report = ChatReport<L>;

    fn connected<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32) {
        let now_ms = ms(fleet.now());
        match self.device(member) {
            // It has waited for this moment, or for an earlier one.
            Some(device) => device.client.reconnect(now_ms, None),
            None => self.make(fleet, member),
        }
        if let Some(device) = self.device(member) {
            device.client.handle_connected(now_ms);
        }
        self.drive(fleet, member);
    }

    fn bytes<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, bytes: &mut [u8]) {
        let now_ms = ms(fleet.now());
        if let Some(device) = self.device(member) {
            device.client.handle_bytes(now_ms, bytes);
            self.drive(fleet, member);
        }
    }

    fn opened<D: Driver>(&mut self, _fleet: &mut Fleet<D>, _member: u32) {}

    fn message<D: Driver>(&mut self, _: &mut Fleet<D>, _member: u32, _: Opcode, _payload: &[u8]) {}

    fn closed<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, _why: &Ended, _was_up: bool) -> Next {
        if let Some(next) = self.next.remove(&member) {
            return next;
        }
        let now_ms = ms(fleet.now());
        let Some(device) = self.device(member) else { return Next::Backoff };
        // A connect that has failed: the client had been waiting for its moment, and hears that it came.
        device.client.reconnect(now_ms, None);
        device.client.handle_disconnected(now_ms);
        self.drive(fleet, member);
        self.next.remove(&member).unwrap_or(Next::Backoff)
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
        while let Some(&Reverse((at_ms, member))) = self.wakes.peek()
            && at_ms <= ms(now)
        {
            self.wakes.pop();
            if let Some(device) = self.device(member).filter(|device| device.wakes_ms == at_ms) {
                device.wakes_ms = u64::MAX;
                device.client.handle_timeout(ms(now));
                self.drive(fleet, member);
            }
        }
        while self.preparing
            && let Some(owner) = self.books.next_creation()
        {
            // A device that is still to be made finds it in the books.
            self.write(owner, CREATION, now);
            self.drive(fleet, owner);
        }
        self.pour(fleet);
    }

    fn next(&self) -> Option<Moment> {
        let wake = self.wakes.peek().map(|Reverse((at_ms, _))| moment(*at_ms));
        self.arrivals.next().into_iter().chain(wake).min()
    }

    /// The library sends its own.
    fn beat<D: Driver>(&mut self, _fleet: &mut Fleet<D>, _member: u32) {}

    fn show(&self, gauges: &Gauges) {
        show_books(gauges, &self.books, self.arrivals.waiting() as i64);
    }

    fn into_report(mut self) -> ChatReport<L> {
        self.arrivals.note(&mut self.report);
        for device in self.devices.iter().flatten() {
            let done = device.client.counters();
            self.report.gaps += done.gaps;
            self.report.pages += done.pages;
            self.report.drains += done.drains;
            let counts = self.books.counts();
            counts.resent += done.written_again;
            counts.revs_repeated += done.entries_repeated;
            counts.revs_missing += done.holes;
        }
        ChatReport { books: self.books, counts: self.report }
    }
}
