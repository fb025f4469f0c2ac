//! Presence on a shard: asks workers for whoever is watched, and tells those who watch.
//!
//! It comes after everything else of a turn, and in steps, so that it never keeps a message waiting. Whoever watches is
//! told by ticks: what changes within one is one frame.

use std::time::Duration;

use holdfast_protocol::id::UserId;
use holdfast_reactor::{ConnectionId, Driver, Moment};
use holdfast_router::Key;
use holdfast_storage::command::{Command, Delivery};

use super::Shard;
use super::watches::Seen;
use crate::backend::Backend;

/// Users for whom workers are asked in one turn.
const ASKED_PER_TURN: usize = 1_024;
/// From the end of one round of telling to the begin of the next, at least.
const TICK: Duration = Duration::from_millis(100);
/// Watchers who are told in one turn.
const TOLD_PER_TURN: usize = 4_096;

impl<D: Driver, B: Backend> Shard<D, B> {
    pub(super) fn watch(&mut self, id: ConnectionId, users: &[UserId]) {
        match self.watches.watch(id, users) {
            Some(known) if known.is_empty() => {}
            Some(known) => self.tell_presence(id, &known),
            None => self.refuse_watch(id),
        }
    }

    /// What a worker tells the shard itself.
    pub(super) fn learn_presence(&mut self, delivery: &Delivery) {
        match delivery {
            Delivery::Presence(users) => self.watches.learn(users),
            Delivery::PresenceMissed => self.watches.ask_again(),
            _ => {}
        }
    }

    /// A turn's worth of asking and telling.
    pub(super) fn continue_presence(&mut self) {
        for _ in 0..ASKED_PER_TURN {
            let Some(user) = self.watches.next_unasked() else { break };
            let ask = Command::Watch { user, shard: self.id };
            if self.inputs.backend.submit(Key::User(user), ask).is_err() {
                self.watches.could_not_ask(user);
                break;
            }
        }
        self.ask_who_may_see();
        if self.more_deliveries || self.presence_due().is_none_or(|due| self.now < due) {
            return;
        }
        let mut told = std::mem::take(&mut self.told);
        self.watches.walk(TOLD_PER_TURN, &mut told);
        // One frame for each, whatever has changed for it.
        told.sort_by_key(|(id, _)| id.index);
        let mut users = Vec::new();
        for of_one in told.chunk_by(|(one, _), (other, _)| one == other) {
            users.clear();
            users.extend(of_one.iter().map(|&(_, seen)| seen));
            self.tell_presence(of_one[0].0, &users);
        }
        told.clear();
        self.told = told;
        if !self.watches.has_changes() {
            self.next_presence = self.now.after(TICK);
        }
    }

    /// When watchers are to be told something; `None`: there is nothing to tell.
    pub(super) fn presence_due(&self) -> Option<Moment> {
        (self.watches.has_changes() && !self.watches.has_doubts()).then_some(self.next_presence)
    }

    /// Asks for connections that watch somebody who hides from some.
    fn ask_who_may_see(&mut self) {
        for _ in 0..ASKED_PER_TURN {
            let Some((id, user)) = self.watches.next_doubt() else { break };
            let watcher = self.with_session(id, |session, _| session.identity());
            let Some((watcher, _)) = watcher.flatten() else { continue };
            let session = self.address(id);
            let ask = Command::MayWatch { user, watcher, session };
            if self.inputs.backend.submit(Key::User(user), ask).is_err() {
                self.watches.could_not_doubt(id, user);
                break;
            }
        }
    }

    /// A worker says whether a connection may see a user.
    pub(super) fn learn_sight(&mut self, id: ConnectionId, user: UserId, may: bool) {
        if let Some(seen) = self.watches.may(id, user, may) {
            self.tell_presence(id, &[seen]);
        }
    }

    fn refuse_watch(&mut self, id: ConnectionId) {
        self.with_session(id, |session, context| session.refuse_watch(context));
    }

    fn tell_presence(&mut self, id: ConnectionId, users: &[Seen]) {
        let has_room = self.with_session(id, |session, context| session.write_presence(users, context));
        if has_room == Some(false) {
            self.watches.owe(id);
            self.awaiting_output.push(id);
        }
    }

    /// The output of a connection has gone out: what it had no room for follows.
    pub(super) fn tell_owed_presence(&mut self, id: ConnectionId) {
        let owed = self.watches.take_owed(id);
        if !owed.is_empty() {
            self.tell_presence(id, &owed);
        }
    }
}
