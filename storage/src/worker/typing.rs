//! Who is writing: told to those who are live and have room, kept by nobody.
//!
//! It must never cost a message: it goes only through lanes and queues that are half free, a worker tells another about
//! so many per turn, and what does not fit is dropped. The conversation's worker decides by the members as the turn's
//! commands leave them, in their order: who is removed before hears nothing.

use smallvec::SmallVec;

use super::{Effects, Pending, Worker};
use crate::command::{Command, Delivery, Refusal, SessionAddress, Typing, Users};
use crate::engine::Store;
use crate::sessions::Mode;

/// What one turn tells another worker at most.
const TYPISTS_PER_TURN: usize = 256;

impl<S: Store> Worker<S> {
    pub(super) fn decide_typing(&mut self, typing: Typing, session: SessionAddress) {
        match self.readers(&typing) {
            Ok(users) => {
                let mut by_owner: SmallVec<[(u16, Users); 2]> = SmallVec::new();
                for user in users {
                    let owner = self.owner_of(user);
                    match by_owner.iter_mut().find(|(it, _)| *it == owner) {
                        Some((_, users)) => users.push(user),
                        None => by_owner.push((owner, Users::from_slice(&[user]))),
                    }
                }
                for (owner, users) in by_owner {
                    let there = &mut self.typists[usize::from(owner)];
                    if owner == self.identity.number {
                        self.pending.push(Pending::Typing { typing, users });
                    } else if there.len() < TYPISTS_PER_TURN {
                        there.push((typing, users));
                    }
                }
            }
            Err(why) => {
                self.counters.refused.add(1);
                let rejected = Delivery::Rejected { session, client_id: None, why };
                self.pending.push(Pending::Answer(session, rejected));
            }
        }
    }

    /// Everybody in the conversation but the one who writes.
    fn readers(&mut self, typing: &Typing) -> Result<Users, Refusal> {
        let &Typing { user, conversation, .. } = typing;
        if let Some((low, high)) = conversation.users() {
            return match (low < high, user == low, user == high) {
                (true, true, _) => Ok(Users::from_slice(&[high])),
                (true, _, true) => Ok(Users::from_slice(&[low])),
                _ => Err(Refusal::UnknownConversation),
            };
        }
        let group = self.group(conversation).map_err(|error| self.unreadable(&error))?;
        group.member(user).ok_or(Refusal::UnknownConversation)?;
        Ok(group.members().iter().map(|member| member.user).filter(|&member| member != user).collect())
    }

    pub(super) fn tell_typing(&mut self, typing: Typing, users: &Users, effects: &mut impl Effects) {
        for &user in users {
            for index in self.sessions.of(user) {
                let session = self.sessions.at(index);
                let address = session.address();
                if session.mode == Mode::Live && !self.lanes.is_full(address.shard) {
                    effects.offer(address.shard, Delivery::Typing { session: address, typing });
                }
            }
        }
    }

    pub(super) fn suggest_typists(&mut self, effects: &mut impl Effects) {
        for (worker, typists) in (0..).zip(&mut self.typists) {
            if !typists.is_empty() {
                effects.suggest(worker, Command::Typists(std::mem::take(typists)));
            }
        }
    }
}
