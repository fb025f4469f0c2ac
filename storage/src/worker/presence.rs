//! Who is there, for shards whose sessions watch somebody.
//!
//! A user is there while a session of theirs is registered, and for a grace after the last one has gone, so that a phone
//! between two networks does not blink; away while nobody is at any of the devices.
//!
//! A worker knows shards, not watchers: a shard that has asked for somebody is told of every user of this worker whose
//! presence changes, and finds out itself who of its sessions cares. So a change costs the same whether nobody watches
//! or a hundred thousand do, and an ask leaves nothing behind here.
//!
//! It must never cost a message. Changes wait for a tick, where each user stands once and as it is then; they go only
//! through lanes that are half free; and a shard that has no room for long is told that it has missed some, and asks
//! again. When a user was seen last is written down like a cursor: late, and many at once.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use holdfast_protocol::id::UserId;

use super::{Effects, Worker};
use crate::command::{Delivery, Hides, LAST_SEEN_STEP_MS, Presence, SessionAddress, UserPresence};
use crate::engine::Store;

/// Users that one delivery tells of.
const USERS_PER_TICK: usize = 4_096;
/// Ticks that wait for a shard before it has missed some.
const TICKS_OWED: usize = 64;
/// Users that are gone and not said to be; whoever goes beyond that has no grace.
const LEAVING_USERS: usize = 65_536;

/// What is to be told, and to whom.
#[derive(Debug, Default)]
pub(super) struct Changes {
    shards: Vec<Told>,
    /// Whoever the next tick tells of.
    changed: HashSet<UserId>,
    /// Those of them who may be hidden from others than before.
    hidden: HashSet<UserId>,
    /// When the first of them changed.
    since_ms: u64,
    /// Users without a session whose grace is not over.
    leaving: HashMap<UserId, Leaving>,
    /// The same, in the order in which they went; some have come back.
    left: VecDeque<(UserId, u64)>,
}

#[derive(Debug)]
struct Told {
    shard: u16,
    owed: VecDeque<Arc<[UserPresence]>>,
    /// It could not be told for so long that it has to ask again.
    missed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Leaving {
    since_ms: u64,
    was_away: bool,
}

impl Changes {
    /// False as long as nobody has asked for anybody: then nothing is kept.
    fn is_wanted(&self) -> bool {
        !self.shards.is_empty()
    }

    fn note(&mut self, user: UserId, now_ms: u64) {
        if self.changed.is_empty() {
            self.since_ms = now_ms;
        }
        self.changed.insert(user);
    }

    /// In how many milliseconds there is something to do.
    pub(super) fn due_in_ms(&self, now_ms: u64, tick_ms: u64, grace_ms: u64, retry_ms: u64) -> Option<u64> {
        let tick = (!self.changed.is_empty()).then(|| left_ms(self.since_ms, now_ms, tick_ms));
        let grace = self.left.front().map(|&(_, since_ms)| left_ms(since_ms, now_ms, grace_ms));
        let owes = self.shards.iter().any(|told| told.missed || !told.owed.is_empty());
        [tick, grace, owes.then_some(retry_ms)].into_iter().flatten().min()
    }
}

/// What is left of a wait. Should the clock have stepped back, nothing.
fn left_ms(since_ms: u64, now_ms: u64, wait_ms: u64) -> u64 {
    wait_ms.saturating_sub(now_ms.checked_sub(since_ms).unwrap_or(u64::MAX))
}

impl<S: Store> Worker<S> {
    /// A shard wants to know about a user, and from now on about whoever changes.
    pub(super) fn watch(&mut self, user: UserId, shard: u16) {
        if self.changes.shards.iter().all(|told| told.shard != shard) {
            self.changes.shards.push(Told { shard, owed: VecDeque::new(), missed: false });
        }
        self.changes.note(user, self.now_ms);
    }

    /// A session has been registered, or says something else about who is at it.
    pub(super) fn presence_changed(&mut self, user: UserId) {
        if self.changes.is_wanted() {
            self.changes.leaving.remove(&user);
            self.changes.note(user, self.now_ms);
        }
    }

    /// Nobody is at a device, or somebody is again.
    pub(super) fn set_away(&mut self, user: UserId, session: SessionAddress, away: bool) {
        let Some(index) = self.sessions.find(user, session) else { return };
        let before = std::mem::replace(&mut self.sessions.at_mut(index).away, away);
        if before != away {
            self.presence_changed(user);
        }
    }

    /// A session has gone; `was_away`: nobody was at it.
    pub(super) fn presence_of_one_less(&mut self, user: UserId, was_away: bool) {
        if self.sessions.of(user).next().is_some() {
            self.presence_changed(user);
            return;
        }
        let now_ms = self.now_ms;
        self.last_seen.set(user, now_ms, self.identity.limits.dirty_cursors);
        if !self.changes.is_wanted() {
            return;
        }
        if self.changes.left.len() >= LEAVING_USERS {
            self.changes.note(user, now_ms);
            return;
        }
        self.changes.leaving.insert(user, Leaving { since_ms: now_ms, was_away });
        self.changes.left.push_back((user, now_ms));
    }

    /// Tells the shards what has changed, when the tick is over and where there is room.
    pub(super) fn tell_presence(&mut self, effects: &mut impl Effects) {
        if !self.changes.is_wanted() {
            return;
        }
        self.end_graces();
        if !self.changes.changed.is_empty()
            && left_ms(self.changes.since_ms, self.now_ms, self.identity.limits.presence_tick_ms) == 0
        {
            self.gather();
        }
        for told in &mut self.changes.shards {
            if self.lanes.is_full(told.shard) {
                continue;
            }
            if told.missed {
                told.missed = !effects.offer(told.shard, Delivery::PresenceMissed);
            }
            while !told.missed
                && let Some(users) = told.owed.front()
                && effects.offer(told.shard, Delivery::Presence(Arc::clone(users)))
            {
                told.owed.pop_front();
            }
        }
    }

    fn end_graces(&mut self) {
        let grace_ms = self.identity.limits.presence_grace_ms;
        while let Some(&(user, since_ms)) = self.changes.left.front()
            && left_ms(since_ms, self.now_ms, grace_ms) == 0
        {
            self.changes.left.pop_front();
            // Back, or back and gone again: then a later entry ends its grace.
            if self.changes.leaving.get(&user).is_some_and(|leaving| leaving.since_ms == since_ms) {
                self.changes.leaving.remove(&user);
                self.changes.note(user, self.now_ms);
            }
        }
    }

    /// Looks how it is with those who have changed; more than fit wait for the next tick.
    fn gather(&mut self) {
        let mut users: Vec<UserId> = self.changes.changed.iter().take(USERS_PER_TICK).copied().collect();
        // The same run tells them in the same order, whatever the set's.
        users.sort_unstable();
        let told: Vec<_> = users.iter().map(|&user| self.told_of(user)).collect();
        for user in &users {
            self.changes.changed.remove(user);
        }
        if self.changes.changed.is_empty() {
            // Once everybody is asked for it is as large as that.
            self.changes.changed.shrink_to(USERS_PER_TICK);
        }
        self.changes.since_ms = self.now_ms;
        let told: Arc<[UserPresence]> = told.into();
        for shard in &mut self.changes.shards {
            if shard.owed.len() < TICKS_OWED {
                shard.owed.push_back(Arc::clone(&told));
            } else {
                shard.owed.clear();
                shard.missed = true;
            }
        }
    }

    fn told_of(&mut self, user: UserId) -> UserPresence {
        let hides = if self.changes.hidden.remove(&user) {
            Hides::FromOthers
        } else if self.is_restricted(user) {
            Hides::FromSome
        } else {
            Hides::FromNobody
        };
        UserPresence { user, presence: self.presence(user), hides }
    }

    /// The user may be hidden from others than before.
    pub(super) fn hidden_from_others(&mut self, user: UserId) {
        if self.changes.is_wanted() {
            self.changes.hidden.insert(user);
            self.changes.note(user, self.now_ms);
        }
    }

    fn presence(&mut self, user: UserId) -> Presence {
        let mut devices = self.sessions.of(user).map(|index| self.sessions.at(index).away).peekable();
        let is_away = match (devices.peek(), self.changes.leaving.get(&user)) {
            (Some(_), _) => devices.all(|away| away),
            (None, Some(leaving)) => leaving.was_away,
            (None, None) => {
                drop(devices);
                // What cannot be read is counted and logged, and presence does without it.
                let last_seen_ms = match self.last_seen.get(&self.store, user) {
                    Ok(last_seen_ms) => last_seen_ms,
                    Err(error) => {
                        self.unreadable(&error);
                        None
                    }
                };
                let step = |ms: u64| ms - ms % LAST_SEEN_STEP_MS;
                return Presence::Offline { last_seen_ms: last_seen_ms.map(step) };
            }
        };
        if is_away { Presence::Away } else { Presence::Online }
    }
}
