//! Messages that are due, and what becomes of those for which nobody has room.

use std::collections::VecDeque;

use holdfast_reactor::{Driver, Moment};

use super::chat::ChatCounts;
use crate::arrival::Schedule;
use crate::engine::Fleet;
use crate::measure::latency::Latencies;
use crate::random::Random;

/// Arrivals that wait for room at most; beyond, they are counted as unsent.
const BACKLOG_MAX: usize = 1 << 20;

/// Members that are looked at for one arrival before it has to wait.
const TRIES: u32 = 16;

/// Who writes the messages that are due.
pub(super) trait Writers<D: Driver> {
    fn arrivals(&mut self) -> &mut Arrivals;

    /// Whether a member may write another one.
    fn has_room(&self, member: u32) -> bool;

    /// A member that is up and has room writes one.
    fn write_new(&mut self, fleet: &mut Fleet<D>, member: u32, intended: Moment);

    /// Gives an arrival to a random member that is up and has room; false: nobody has.
    fn place(&mut self, fleet: &mut Fleet<D>, intended: Moment) -> bool {
        for _ in 0..TRIES {
            let member = self.arrivals().random.below(fleet.members());
            if fleet.is_up(member) && self.has_room(member) {
                self.write_new(fleet, member, intended);
                return true;
            }
        }
        false
    }

    /// Once per turn: places those that wait, then those that are due.
    fn pour(&mut self, fleet: &mut Fleet<D>) {
        let now = fleet.now();
        while let Some(intended) = self.arrivals().oldest()
            && self.place(fleet, intended)
        {
            self.arrivals().placed_oldest();
        }
        while let Some(intended) = self.arrivals().due(now) {
            if self.arrivals().waiting() == 0 && self.place(fleet, intended) {
                self.arrivals().sent(intended, now);
            } else {
                self.arrivals().hold_back(intended);
            }
        }
    }
}

/// An open loop of messages.
#[derive(Debug)]
pub(super) struct Arrivals {
    schedule: Schedule,
    /// Who is asked.
    random: Random,
    /// Those that found nobody with room: the server owes us acks.
    waiting: VecDeque<Moment>,
    is_on: bool,
    lateness: Latencies,
    held_back: u64,
    unsent: u64,
}

impl Arrivals {
    pub(super) fn new(schedule: Schedule, random: Random) -> Self {
        Self {
            schedule,
            random,
            waiting: VecDeque::new(),
            is_on: false,
            lateness: Latencies::default(),
            held_back: 0,
            unsent: 0,
        }
    }

    /// From now on.
    pub(super) fn begin(&mut self, now: Moment) {
        self.is_on = true;
        self.schedule.restart(now);
    }

    /// Nothing new.
    pub(super) fn end(&mut self) {
        self.is_on = false;
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Moment> {
        self.is_on.then(|| self.schedule.next()).filter(|moment| *moment < Moment(u64::MAX))
    }

    /// How many wait for room.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The one that has waited longest.
    fn oldest(&self) -> Option<Moment> {
        self.waiting.front().copied()
    }

    /// It waits no longer.
    fn placed_oldest(&mut self) {
        self.waiting.pop_front();
    }

    /// One whose moment has come.
    fn due(&mut self, now: Moment) -> Option<Moment> {
        if self.is_on { self.schedule.due(now) } else { None }
    }

    /// It was sent at once, or as soon as the generator came to it.
    fn sent(&mut self, intended: Moment, now: Moment) {
        self.lateness.record(now.since(intended));
    }

    /// Nobody has room for it.
    fn hold_back(&mut self, intended: Moment) {
        if self.waiting.len() < BACKLOG_MAX {
            self.held_back += 1;
            self.waiting.push_back(intended);
        } else {
            self.unsent += 1;
        }
    }

    /// How late it was so far; from now on that is measured anew.
    pub(super) fn take_lateness(&mut self) -> Latencies {
        std::mem::take(&mut self.lateness)
    }

    /// Writes into the counts what became of them.
    pub(super) fn note(&self, counts: &mut ChatCounts) {
        counts.lateness.merge(&self.lateness);
        counts.held_back += self.held_back;
        counts.unsent += self.unsent + self.waiting.len() as u64;
    }
}
