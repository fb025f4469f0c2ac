//! Members who were away come back: each logs in with the cursor that it had, and reads its inbox page by page up to the
//! head.
//!
//! Every entry is judged by the [`GroupBooks`]: each `rev` once, in order, without a hole; each `seq` of the group;
//! each message whole and the same for all. A member whose connection ends on the way goes on from where it was, and
//! its time runs on.
//!
//! Never here: an `ack`. The server's cursor stays where it was, so that the same inboxes can be read again.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use holdfast_protocol::chat::{
    self, Format, FrameError, ServerFrame, Sync as SyncRequest, client_frame, server_frame,
};
use holdfast_protocol::ws::Opcode;
use holdfast_reactor::{Driver, Moment};

use super::Scenario;
use super::books::Ledger;
use super::books::groups::GroupBooks;
use super::chat::{ChatCounts, come_back, no_frame};
use super::login::Login;
use crate::engine::{Ended, Fleet, Gauges, Next};
use crate::measure::latency::Latencies;
use crate::wire;

/// How far a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No page has come.
    Away,
    /// Pages come.
    Reading,
    /// It is at the head.
    Live,
}

#[derive(Debug, Clone, Copy)]
struct Comeback {
    /// When the schedule wanted it to connect.
    intended: Moment,
    stage: Stage,
}

/// See the module's doc.
#[derive(Debug)]
pub struct Catchup {
    login: Login,
    first_member: u32,
    books: GroupBooks,
    members: Vec<Comeback>,
    live: u64,
    /// Requests that were refused for a moment, and when they are made again.
    resends: BinaryHeap<Reverse<(Moment, u32)>>,
    drained: HashMap<u32, Duration>,
    frame: Vec<u8>,
    counts: SyncCounts,
}

/// What was counted.
#[derive(Debug, Clone, Default)]
pub struct SyncCounts {
    /// What happened beside the entries.
    pub chat: ChatCounts,
    /// Inbox entries that came.
    pub entries: u64,
    /// Bytes of all pages, as frames of the protocol.
    pub page_bytes: u64,
    /// Members that have reached the head.
    pub live: u64,
    /// From the intended moment of the connect to the first page.
    pub first_page: Latencies,
    /// From the intended moment of the connect to the page that is live.
    pub until_live: Latencies,
}

impl SyncCounts {
    /// Adds another thread's.
    pub fn merge(&mut self, other: &Self) {
        self.chat.merge(&other.chat);
        self.entries += other.entries;
        self.page_bytes += other.page_bytes;
        self.live += other.live;
        self.first_page.merge(&other.first_page);
        self.until_live.merge(&other.until_live);
    }
}

/// What coming back found out.
#[derive(Debug)]
pub struct SyncReport {
    /// The books, to be settled with the other threads'.
    pub books: GroupBooks,
    /// The rest.
    pub counts: SyncCounts,
}

/// How long a refused request waits at least.
const RESEND_PAUSE_MIN: Duration = Duration::from_millis(50);

impl Catchup {
    /// Members whose books these are.
    #[must_use]
    pub fn new(login: Login, first_member: u32, members: u32, books: GroupBooks) -> Self {
        Self {
            login,
            first_member,
            books,
            members: vec![Comeback { intended: Moment(0), stage: Stage::Away }; members as usize],
            live: 0,
            resends: BinaryHeap::new(),
            drained: HashMap::new(),
            frame: Vec::new(),
            counts: SyncCounts::default(),
        }
    }

    fn ask<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32) {
        let after = self.books.place(member).last_rev;
        self.login.encode(
            client_frame::Frame::Sync(SyncRequest { after, limit: 0, every_entry: true }),
            &mut self.frame,
        );
        fleet.send(member, self.login.opcode(), &self.frame);
    }

    fn welcome<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, welcome: &chat::Welcome) {
        if !fleet.is_opening(member) {
            self.counts.chat.bad_frames += 1;
            return;
        }
        fleet.limit_heartbeat(Duration::from_millis(u64::from(welcome.heartbeat_ms)));
        fleet.up(member);
        let place = self.books.place(member);
        if std::mem::replace(&mut place.registered, true) {
            self.counts.chat.reconnects += 1;
        }
        // Nothing is missing: no page comes.
        if place.last_rev == welcome.head {
            self.reached(fleet.now(), member, welcome.head);
        }
    }

    /// A page is through.
    fn turned(&mut self, now: Moment, member: u32, head: u64, live: bool, bytes: usize) {
        self.counts.chat.pages += 1;
        self.counts.page_bytes += bytes as u64;
        let comeback = &mut self.members[member as usize];
        if comeback.stage == Stage::Away {
            comeback.stage = Stage::Reading;
            self.counts.first_page.record(now.since(comeback.intended));
        }
        if live {
            self.reached(now, member, head);
        }
    }

    fn reached(&mut self, now: Moment, member: u32, head: u64) {
        let last_rev = self.books.place(member).last_rev;
        // A page that says it is at the head, and is not.
        self.books.counts.revs_missing += head.saturating_sub(last_rev);
        let comeback = &mut self.members[member as usize];
        if std::mem::replace(&mut comeback.stage, Stage::Live) != Stage::Live {
            self.live += 1;
            self.counts.until_live.record(now.since(comeback.intended));
        }
    }

    /// Takes a page or an event where it lies. False: it is to be decoded.
    fn raw(&mut self, now: Moment, member: u32, payload: &[u8]) -> bool {
        let credentials = &self.login.credentials;
        let users = |member| credentials.user(member);
        if let Some(page) = wire::page(payload) {
            for event in page.events() {
                self.counts.entries += 1;
                if !self.books.raw_event(member, event, now, users) {
                    // Half of a page is worse than none: what follows is out of order.
                    self.books.counts.corrupted += 1;
                }
            }
            self.turned(now, member, page.head, page.live, payload.len());
            return true;
        }
        let Some(event) = wire::event(payload) else { return false };
        self.counts.entries += 1;
        self.books.raw_event(member, event, now, users)
    }

    fn event(&mut self, now: Moment, member: u32, event: &chat::Event) {
        let credentials = &self.login.credentials;
        self.counts.entries += 1;
        self.books.event(member, event, now, |member| credentials.user(member));
    }
}

impl Scenario for Catchup {
    type Report = SyncReport;

    fn opened<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32) {
        let place = *self.books.place(member);
        if !place.registered
            && let Some(intended) = fleet.intended(member)
        {
            self.members[member as usize].intended = intended;
        }
        // Only a `hello` can name a cursor.
        self.login.hello(self.first_member + member, Some(place.last_rev), &mut self.frame);
        fleet.send(member, self.login.opcode(), &self.frame);
    }

    fn message<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, opcode: Opcode, payload: &[u8]) {
        let now = fleet.now();
        let is_proto = self.login.format == Format::Protobuf;
        if is_proto && opcode == Opcode::Binary && self.raw(now, member, payload) {
            return;
        }
        let frame = (opcode == self.login.opcode()).then(|| chat::decode_server(self.login.format, payload));
        let frame = match frame {
            Some(Ok(ServerFrame { frame: Some(frame) })) => frame,
            // Of a later version of the protocol, and not asked for.
            Some(Ok(_) | Err(FrameError::Missing { .. })) => {
                self.counts.chat.unasked_frames += 1;
                return;
            }
            refused => {
                self.counts.chat.bad_frames += 1;
                fleet.fail(member, no_frame(refused.and_then(Result::err).as_ref()));
                return;
            }
        };
        match frame {
            server_frame::Frame::Welcome(welcome) => self.welcome(fleet, member, &welcome),
            server_frame::Frame::Event(event) => self.event(now, member, &event),
            server_frame::Frame::Page(page) => {
                page.events.iter().for_each(|event| self.event(now, member, event));
                self.turned(now, member, page.head, page.live, payload.len());
            }
            server_frame::Frame::Gap(_) => {
                self.counts.chat.gaps += 1;
                self.ask(fleet, member);
            }
            server_frame::Frame::Drain(drain) => {
                self.counts.chat.drains += 1;
                self.drained.insert(member, Duration::from_millis(u64::from(drain.after_ms)));
            }
            server_frame::Frame::Error(error) => {
                self.counts.chat.errors.add(&error.code);
                if fleet.is_opening(member) {
                    fleet.fail(member, Ended::Scenario(format!("login: {}: {}", error.code, error.message)));
                } else if self.members[member as usize].stage != Stage::Live {
                    let pause = Duration::from_millis(u64::from(error.retry_after_ms)).max(RESEND_PAUSE_MIN);
                    self.resends.push(Reverse((now.after(pause), member)));
                }
            }
            // Nobody asks for anything else here.
            _ => self.counts.chat.unasked_frames += 1,
        }
    }

    fn closed<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, why: &Ended, _was_up: bool) -> Next {
        come_back(fleet.now(), why, self.drained.remove(&member))
    }

    fn turn<D: Driver>(&mut self, fleet: &mut Fleet<D>) {
        while let Some(Reverse((moment, member))) = self.resends.peek().copied()
            && moment <= fleet.now()
        {
            self.resends.pop();
            if fleet.is_up(member) && self.members[member as usize].stage != Stage::Live {
                self.ask(fleet, member);
            }
        }
    }

    fn next(&self) -> Option<Moment> {
        self.resends.peek().map(|Reverse((moment, _))| *moment)
    }

    fn show(&self, gauges: &Gauges) {
        gauges.set(|gauges| &gauges.done, self.counts.entries);
        gauges.set_outstanding(self.members.len() as i64 - self.live as i64);
    }

    fn into_report(mut self) -> SyncReport {
        self.counts.live = self.live;
        for (member, comeback) in (0..).zip(&self.members) {
            // Who had no time to read everything is too slow, not wrong.
            if comeback.stage != Stage::Live {
                self.books.excuse(member);
            }
        }
        SyncReport { books: self.books, counts: self.counts }
    }
}
