//! What devices confirm, told to the conversations: that is how senders learn that their messages have arrived.
//!
//! A cursor is a place in the user's inbox; a sender wants to know a place in the conversation. When cursors are written
//! down, at most once a second and user, the inbox is gone over from where this was done last, and each conversation is
//! told of the last message of others in it: an intent in the fan-out log, in the batch that moves that place on. So
//! nothing is lost by a crash and nothing is told twice, and a user with much to confirm costs a piece per turn.

use std::collections::BTreeMap;

use holdfast_protocol::id::{ConversationId, Rev, Seq, UserId};
use holdfast_router::Key as RouteKey;

use super::{Worker, cursors};
use crate::command::{Arrival, Users};
use crate::device::ALL_DEVICES;
use crate::engine::{Store, StoreError, Table};
use crate::inbox::{Item, Traits};
use crate::layout::{self, Intended, Intent};

/// Entries that one turn goes over.
const ITEMS_PER_TURN: usize = 4_096;
/// What a user counts for beside them: what has to be looked up for anybody at all takes longer than some entries.
const ITEMS_PER_USER: usize = 64;

/// Users whose devices have confirmed more than conversations have been told.
#[derive(Debug, Default)]
pub(super) struct Untold {
    /// Up to where.
    users: BTreeMap<UserId, Rev>,
    /// What the present batch has taken out of it.
    telling: Vec<(UserId, Rev)>,
    /// A log has no room: later.
    is_stuck: bool,
}

impl Untold {
    pub(super) fn confirmed(&mut self, user: UserId, rev: Rev) {
        let up_to = self.users.entry(user).or_default();
        *up_to = rev.max(*up_to);
    }

    /// More can be done at once.
    pub(super) fn goes_on(&self) -> bool {
        !self.users.is_empty() && !self.is_stuck
    }

    /// More can be done when there is room.
    pub(super) fn waits(&self) -> bool {
        !self.users.is_empty() && self.is_stuck
    }

    pub(super) fn commit(&mut self) {
        self.telling.clear();
    }

    /// The batch is not durable: all of them again.
    pub(super) fn abandon(&mut self) {
        for (user, rev) in std::mem::take(&mut self.telling) {
            self.confirmed(user, rev);
        }
    }
}

impl<S: Store> Worker<S> {
    /// Adds to the present batch what its users' conversations are to be told, as far as a turn goes.
    pub(super) fn tell_delivered(&mut self) {
        self.undelivered.is_stuck = false;
        let mut left = ITEMS_PER_TURN;
        let mut later = Vec::new();
        while left > 0
            && let Some((user, up_to)) = self.undelivered.users.pop_first()
        {
            if self.outgoing.iter().any(super::Outgoing::is_full) {
                self.undelivered.is_stuck = true;
                later.push((user, up_to));
                break;
            }
            match self.tell_delivered_to(user, up_to, left) {
                Ok((done, gone_over)) => {
                    left = left.saturating_sub(gone_over + ITEMS_PER_USER);
                    self.undelivered.telling.push((user, up_to));
                    if done < up_to {
                        later.push((user, up_to));
                    }
                }
                Err(error) => {
                    // An inbox that cannot be read is looked at again when more of it is confirmed.
                    self.unreadable(&error);
                }
            }
        }
        for (user, up_to) in later {
            self.undelivered.confirmed(user, up_to);
        }
    }

    /// For one user: up to where it is told then, and how many entries that took.
    fn tell_delivered_to(
        &mut self,
        user: UserId,
        up_to: Rev,
        most: usize,
    ) -> Result<(Rev, usize), StoreError> {
        let key = layout::cursor_key(user, ALL_DEVICES);
        if self.cursors.has_written(&key) {
            // The present batch says something else in this record.
            return Ok((Rev(0), 0));
        }
        let mut all = cursors::read(&self.store, &key)?.unwrap_or_default();
        let up_to = up_to.min(self.head(user)?);
        if up_to <= all.cursor {
            return Ok((up_to, 0));
        }
        let items = self.read_items(user, all.cursor, up_to, most)?;
        let mut arrived: BTreeMap<ConversationId, Seq> = BTreeMap::new();
        for (_, item) in &items {
            if let &Item::Message { conversation, seq, traits, .. } = item
                && traits.has(Traits::COUNTS)
                && !traits.has(Traits::OWN)
            {
                let last = arrived.entry(conversation).or_default();
                *last = seq.max(*last);
            }
        }
        for (conversation, seq) in arrived {
            let owner = self.identity.assignment.owner(RouteKey::Conversation(conversation).slice()).0;
            if owner == self.identity.number {
                self.delivered(user, conversation, seq);
            } else {
                let what = Intended::Delivered { conversation, seq };
                let intent = Intent { what, users: Users::from_slice(&[user]) };
                let arrival = Arrival::Delivered { conversation, seq };
                self.outgoing[usize::from(owner)].intend(intent, arrival);
            }
        }
        all.cursor = items.last().map_or(up_to, |&(rev, _)| rev);
        let done = all.cursor;
        self.batch.put(Table::Cursors, key, all.seal());
        Ok((done, items.len()))
    }
}
