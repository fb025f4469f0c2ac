//! What is told to those who are live and have room: who is writing, who has read on.
//!
//! It must never cost a message: it goes only through lanes and queues that are half free, a worker tells another so
//! much per turn, and what does not fit is dropped. The conversation's worker decides by the members as the turn's
//! commands leave them, in their order: who is removed before hears nothing.

use holdfast_protocol::id::{ConversationId, UserId};
use smallvec::SmallVec;

use super::{Effects, Pending, Worker};
use crate::command::{Command, Delivery, Note, Notice, Refusal, SessionAddress, Typing, Users};
use crate::engine::Store;
use crate::sessions::Mode;

/// What one turn tells another worker at most.
const NOTES_PER_TURN: usize = 256;

impl<S: Store> Worker<S> {
    pub(super) fn decide_typing(&mut self, typing: Typing, session: SessionAddress) {
        match self.members_of(typing.conversation, typing.user) {
            // Nobody waits for it.
            Ok(_)
                if typing.conversation.users().is_some()
                    && self.is_cut(typing.conversation).unwrap_or(true) => {}
            Ok(mut users) => {
                users.retain(|user| *user != typing.user);
                self.notify(Note::Typing(typing), Some(session), users);
            }
            Err(why) => {
                self.counters.refused.add(1);
                let rejected = Delivery::Rejected { session, client_id: None, why };
                self.pending.push(Pending::Answer(session, rejected));
            }
        }
    }

    /// Everybody in a conversation that this user is in.
    pub(super) fn members_of(
        &mut self,
        conversation: ConversationId,
        user: UserId,
    ) -> Result<Users, Refusal> {
        if let Some((low, high)) = conversation.users() {
            let is_in = low < high && (user == low || user == high);
            return if is_in {
                Ok(Users::from_slice(&[low, high]))
            } else {
                Err(Refusal::UnknownConversation)
            };
        }
        let group = self.group(conversation).map_err(|error| self.unreadable(&error))?;
        group.member(user).ok_or(Refusal::UnknownConversation)?;
        Ok(group.members().iter().map(|member| member.user).collect())
    }

    /// Tells these users once the turn's batch is durable.
    pub(super) fn notify(&mut self, note: Note, by: Option<SessionAddress>, users: Users) {
        let mut by_owner: SmallVec<[(u16, Users); 2]> = SmallVec::new();
        for user in users {
            let owner = self.owner_of(user);
            match by_owner.iter_mut().find(|(it, _)| *it == owner) {
                Some((_, users)) => users.push(user),
                None => by_owner.push((owner, Users::from_slice(&[user]))),
            }
        }
        for (owner, users) in by_owner {
            let there = &mut self.notes[usize::from(owner)];
            let notice = Notice { note, by, users };
            if owner == self.identity.number {
                self.pending.push(Pending::Notice(notice));
            } else if there.len() < NOTES_PER_TURN {
                there.push(notice);
            }
        }
    }

    pub(super) fn tell(&mut self, notice: &Notice, effects: &mut impl Effects) {
        let &Notice { note, by, ref users } = notice;
        for &user in users {
            for index in self.sessions.of(user) {
                let session = self.sessions.at(index);
                let address = session.address();
                if session.mode == Mode::Live && Some(address) != by && !self.lanes.is_full(address.shard) {
                    effects.offer(address.shard, Delivery::Note { session: address, note });
                }
            }
        }
    }

    pub(super) fn suggest_notes(&mut self, effects: &mut impl Effects) {
        for (worker, notes) in (0..).zip(&mut self.notes) {
            if !notes.is_empty() {
                effects.suggest(worker, Command::Notes(std::mem::take(notes)));
            }
        }
    }
}
