//! A chat some of whose members watch others, while members come and go.
//!
//! ```text
//! Begin … Quiesce    messages, and nobody watches
//! Watch              watchers say whom they watch, at a rate of their own
//! Begin … Quiesce    messages, and members flap: close, stay away for longer than the grace, come back from their cursor
//! ```
//!
//! Both times the same members write to each other. Who flaps takes no part in it, nor does who would write to them: what
//! waits for somebody who is away says nothing about the server. Who watches does not flap, so that a change that nobody
//! saw was not told.
//!
//! Without presence it is a [`Chat`] and nothing else.

mod books;
mod plan;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use holdfast_protocol::chat::{self, Format, ServerFrame, WatchPresence, client_frame, server_frame};
use holdfast_protocol::ws::Opcode;
use holdfast_reactor::{Driver, Moment};

pub use books::{WatchBooks, WatchCounts};
pub use plan::Plan;

use super::books::Books;
use super::chat::{Chat, ChatReport};
use super::login::Login;
use super::{Order, Scenario};
use crate::arrival::{Schedule, Spread};
use crate::engine::{Ended, Fleet, Gauges, Next};
use crate::measure::latency::Latencies;
use crate::random::Random;
use crate::wire;

/// See the module's doc.
#[derive(Debug)]
pub struct Watched {
    chat: Chat<Books>,
    presence: Option<Presence>,
}

/// What it found out.
#[derive(Debug)]
pub struct WatchedReport {
    /// As of any chat; with presence, latencies are those of the messages with presence.
    pub chat: ChatReport<Books>,
    /// The rest, with presence.
    pub presence: Option<PresenceCounts>,
}

/// What was counted of presence.
#[derive(Debug, Clone, Default)]
pub struct PresenceCounts {
    /// What watchers were told.
    pub watches: WatchCounts,
    /// Members that left.
    pub flaps: u64,
    /// Members that came back.
    pub returned: u64,
    /// Flaps that were due when nobody was ready, and came later.
    pub held_back: u64,
    /// Latencies of the messages that flowed before anybody watched.
    pub before: MessageLatencies,
}

/// Latencies of the messages of one phase.
#[derive(Debug, Clone, Default)]
pub struct MessageLatencies {
    /// See [`super::books::Counts`].
    pub accepted: Latencies,
    /// See [`super::books::Counts`].
    pub delivered: Latencies,
    /// See [`super::chat::ChatCounts`].
    pub lateness: Latencies,
}

impl PresenceCounts {
    /// Adds another thread's.
    pub fn merge(&mut self, other: &Self) {
        self.watches.merge(&other.watches);
        self.flaps += other.flaps;
        self.returned += other.returned;
        self.held_back += other.held_back;
        self.before.accepted.merge(&other.before.accepted);
        self.before.delivered.merge(&other.before.delivered);
        self.before.lateness.merge(&other.before.lateness);
    }
}

/// How long a member that flaps stays away at least, and rests before it flaps again: longer than the grace, so that it is
/// told, and than it takes to be told.
#[must_use]
pub fn away_at_least(grace: Duration) -> Duration {
    grace * 2 + Duration::from_millis(500)
}

/// What one thread needs to know of presence.
#[derive(Debug, Clone)]
pub struct PresenceOptions {
    /// Who watches whom, and who flaps.
    pub plan: Arc<Plan>,
    /// The server's `limits.presence_grace`.
    pub grace: Duration,
    /// Watchers that say per second whom they watch, over all threads.
    pub watches_per_second: f64,
    /// Flaps per second, over all threads.
    pub flaps_per_second: f64,
    /// The user that member 0 is.
    pub first_user: u64,
    /// Everything random follows from it.
    pub seed: u64,
}

/// The presence part of [`Watched`].
#[derive(Debug)]
struct Presence {
    login: Login,
    plan: Arc<Plan>,
    books: WatchBooks,
    first_user: u64,
    first_member: u32,
    /// When watchers say whom they watch, and the next one who does.
    watches: Schedule,
    next_watcher: u32,
    flaps: Flaps,
    phase: Phase,
    counts: PresenceCounts,
    frame: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nobody watches.
    Before,
    /// Watchers say whom they watch, or have.
    Watching,
    /// The server ends the connections: what it says of others is not looked at.
    After,
}

/// Who comes and goes, of one thread; members by their numbers in it.
#[derive(Debug)]
struct Flaps {
    schedule: Schedule,
    is_on: bool,
    /// Flaps that were due and found nobody.
    owed: u64,
    /// Members that may flap, and from when on, the next one in front.
    ready: VecDeque<(Moment, u32)>,
    /// Members that are away, and when they come back.
    away: HashMap<u32, Moment>,
    away_at_least: Duration,
    random: Random,
}

impl Watched {
    /// These members' chat, with presence or without; `members` of them from `first_member` on.
    #[must_use]
    pub fn new(
        chat: Chat<Books>,
        login: Login,
        presence: Option<&PresenceOptions>,
        first_member: u32,
        members: u32,
    ) -> Self {
        let presence = presence.map(|options| Presence::new(login, options, first_member, members));
        Self { chat, presence }
    }
}

impl Presence {
    fn new(login: Login, options: &PresenceOptions, first_member: u32, members: u32) -> Self {
        let plan = Arc::clone(&options.plan);
        let books = WatchBooks::new(Arc::clone(&plan), options.grace, first_member, members);
        let stream = |number: u64| Random::stream(options.seed, number ^ u64::from(first_member));
        let watchers = books.watchers();
        let part = f64::from(watchers.end - watchers.start) / f64::from(plan.watchers().max(1));
        let watches =
            Schedule::new(Spread::Poisson, options.watches_per_second * part, Moment(0), stream(0x3a7c));
        let mut random = stream(0xf1a5);
        let mut ready: Vec<(Moment, u32)> =
            plan.flappers(first_member, members).map(|member| (Moment(0), member - first_member)).collect();
        for last in (1..ready.len()).rev() {
            ready.swap(last, random.below(last as u32 + 1) as usize);
        }
        let part = ready.len() as f64 / f64::from(plan.flapper_count().max(1));
        let flaps = Flaps {
            schedule: Schedule::new(
                Spread::Poisson,
                options.flaps_per_second * part,
                Moment(0),
                stream(0xf1a6),
            ),
            is_on: false,
            owed: 0,
            ready: ready.into(),
            away: HashMap::new(),
            away_at_least: away_at_least(options.grace),
            random,
        };
        Self {
            login,
            next_watcher: watchers.start,
            plan,
            books,
            first_user: options.first_user,
            first_member,
            watches,
            flaps,
            phase: Phase::Before,
            counts: PresenceCounts::default(),
            frame: Vec::new(),
        }
    }

    /// Says whom a watcher watches.
    fn watch<D: Driver>(&mut self, fleet: &mut Fleet<D>, watcher: u32) {
        let member = self.plan.member(watcher) - self.first_member;
        if !fleet.is_up(member) {
            // It says it when it is up again.
            return;
        }
        self.books.asks(watcher);
        let users =
            self.books.contacts(watcher).map(|contact| self.first_user + u64::from(contact)).collect();
        let frame = client_frame::Frame::WatchPresence(WatchPresence { users });
        self.login.encode(frame, &mut self.frame);
        fleet.send(member, self.login.opcode(), &self.frame);
    }

    /// A `presence` frame came.
    fn told<D: Driver>(&mut self, fleet: &Fleet<D>, member: u32, presence: &chat::Presence) {
        if self.phase == Phase::After {
            return;
        }
        self.books.counts.frames += 1;
        let Some(watcher) = self.plan.watcher(self.first_member + member) else {
            self.books.counts.misrouted += presence.users.len() as u64;
            return;
        };
        for user in &presence.users {
            let contact =
                user.user.checked_sub(self.first_user).and_then(|number| u32::try_from(number).ok());
            self.books.told(watcher, contact, user.online, fleet.now());
            // Nobody here says that nobody is at a device.
            self.books.counts.invented += u64::from(user.away);
        }
    }

    fn came_up<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32) {
        if self.flaps.away.remove(&member).is_some() {
            self.counts.returned += 1;
            self.flaps.ready.push_back((fleet.now().after(self.flaps.away_at_least), member));
        }
        if let Some(watcher) = self.plan.watcher(self.first_member + member)
            && watcher < self.next_watcher
        {
            self.watch(fleet, watcher);
        }
    }

    fn turn<D: Driver>(&mut self, fleet: &mut Fleet<D>) {
        let now = fleet.now();
        while self.phase == Phase::Watching
            && self.next_watcher < self.books.watchers().end
            && self.watches.due(now).is_some()
        {
            let watcher = self.next_watcher;
            self.next_watcher += 1;
            self.books.counts.watching += 1;
            self.watch(fleet, watcher);
        }
        if !self.flaps.is_on {
            return;
        }
        loop {
            while self.flaps.owed > 0 && self.flaps.is_ready(now) {
                self.flap(fleet);
            }
            if self.flaps.schedule.due(now).is_none() {
                return;
            }
            self.flaps.owed += 1;
            self.counts.held_back += u64::from(!self.flaps.is_ready(now));
        }
    }

    /// The next member leaves.
    fn flap<D: Driver>(&mut self, fleet: &mut Fleet<D>) {
        let now = fleet.now();
        let Some((_, member)) = self.flaps.ready.pop_front() else { return };
        if !fleet.is_up(member) {
            // Its connection was lost: another one flaps instead.
            return;
        }
        self.flaps.owed -= 1;
        let at_least = self.flaps.away_at_least;
        let more = at_least.mul_f64(f64::from(self.flaps.random.below(1_000)) / 1_000.0);
        self.flaps.away.insert(member, now.after(at_least + more));
        self.counts.flaps += 1;
        let watchers = self.plan.leaves(self.first_member + member, now);
        self.books.counts.expected += 2 * u64::from(watchers);
        let politely = self.flaps.random.below(2) == 0;
        fleet.finish(member, politely);
    }

    fn next(&self) -> Option<Moment> {
        let is_watching = self.phase == Phase::Watching && self.next_watcher < self.books.watchers().end;
        let watch = is_watching.then(|| self.watches.next());
        let flap = self.flaps.is_on.then(|| self.flaps.schedule.next());
        let owed = (self.flaps.is_on && self.flaps.owed > 0).then(|| self.flaps.ready.front()).flatten();
        let moments = watch.into_iter().chain(flap).chain(owed.map(|(moment, _)| *moment));
        moments.filter(|moment| *moment < Moment(u64::MAX)).min()
    }

    /// What watchers still have to see. One thread alone may be below zero: members of another one flapped.
    fn outstanding(&self) -> i64 {
        if self.phase == Phase::Before {
            return 0;
        }
        let counts = &self.books.counts;
        counts.expected as i64 - counts.seen as i64 + self.books.not_online() as i64
    }
}

impl Flaps {
    fn is_ready(&self, now: Moment) -> bool {
        self.ready.front().is_some_and(|(moment, _)| *moment <= now)
    }
}

impl Scenario for Watched {
    type Report = WatchedReport;

    fn authorize(&mut self, member: u32, token: &mut String) {
        self.chat.authorize(member, token);
    }

    fn opened<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32) {
        if let Some(presence) = &self.presence
            && presence.flaps.away.contains_key(&member)
        {
            presence.plan.returns(presence.first_member + member, fleet.now());
        }
        self.chat.opened(fleet, member);
    }

    fn message<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, opcode: Opcode, payload: &[u8]) {
        let Some(presence) = &mut self.presence else {
            return self.chat.message(fleet, member, opcode, payload);
        };
        if opcode == Opcode::Binary
            && wire::is_presence(payload)
            && let Ok(ServerFrame { frame: Some(server_frame::Frame::Presence(frame)) }) =
                chat::decode_server(Format::Protobuf, payload)
        {
            return presence.told(fleet, member, &frame);
        }
        let was_opening = fleet.is_opening(member);
        self.chat.message(fleet, member, opcode, payload);
        if was_opening && fleet.is_up(member) {
            presence.came_up(fleet, member);
        }
    }

    fn closed<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, why: &Ended, was_up: bool) -> Next {
        if let Some(presence) = &mut self.presence
            && was_up
        {
            if let Some(moment) = presence.flaps.away.get(&member) {
                return Next::At(*moment);
            }
            // What the server ends at its own end is no loss.
            if presence.phase != Phase::After {
                presence.plan.disturb(presence.first_member + member);
            }
        }
        self.chat.closed(fleet, member, why, was_up)
    }

    fn order<D: Driver>(&mut self, fleet: &mut Fleet<D>, order: Order) {
        if let Some(presence) = &mut self.presence {
            let now = fleet.now();
            match order {
                Order::Watch => {
                    presence.phase = Phase::Watching;
                    presence.watches.restart(now);
                    presence.counts.before = self.chat.take_latencies();
                }
                Order::Begin if presence.phase == Phase::Watching => {
                    presence.flaps.is_on = true;
                    presence.flaps.schedule.restart(now);
                }
                Order::Quiesce => presence.flaps.is_on = false,
                Order::ExpectClose => {
                    presence.books.close();
                    presence.phase = Phase::After;
                }
                _ => {}
            }
        }
        self.chat.order(fleet, order);
    }

    fn turn<D: Driver>(&mut self, fleet: &mut Fleet<D>) {
        self.chat.turn(fleet);
        if let Some(presence) = &mut self.presence {
            presence.turn(fleet);
        }
    }

    fn next(&self) -> Option<Moment> {
        let presence = self.presence.as_ref().and_then(Presence::next);
        self.chat.next().into_iter().chain(presence).min()
    }

    fn beat<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32) {
        self.chat.beat(fleet, member);
    }

    fn show(&self, gauges: &Gauges) {
        let presence = self.presence.as_ref().map_or(0, Presence::outstanding);
        self.chat.show_with(gauges, presence);
    }

    fn into_report(self) -> WatchedReport {
        let presence = self.presence.map(|presence| {
            let mut counts = presence.counts;
            counts.watches = presence.books.counts;
            counts
        });
        WatchedReport { chat: self.chat.into_report(), presence }
    }
}
