//! What others are to a user: contacts, blocks, and who may see the user's presence.
//!
//! A block is three things that become durable one after the other: the user's worker knows it; the conversation of the
//! two knows it, and hides from then on what the blocked one writes; and the blocked one's worker knows that the user's
//! presence, and its own, pass no more. The first says by intents of its log that the others are to follow, so no crash
//! comes between them.

use holdfast_protocol::chat::Audience;
use holdfast_protocol::id::{ConversationId, UserId};
use holdfast_router::Key as RouteKey;

use super::{Effects, Pending, Worker};
use crate::blocks;
use crate::command::{
    Arrival, ChangePeople, Delivery, PeopleChange, PeopleList, PeopleRequest, Person, Refusal,
    SessionAddress, Users,
};
use crate::engine::{Store, StoreError, Table, Visit};
use crate::layout::{Intended, Intent};
use crate::people::{self, About, Regard, Settings};

impl<S: Store> Worker<S> {
    pub(super) fn decide_people(&mut self, change: &ChangePeople) {
        let &ChangePeople { user, session, change } = change;
        let pending = match self.change_people(user, change) {
            Ok(other) => Pending::PeopleChanged { user, session, other },
            Err(why) => {
                self.counters.refused.add(1);
                Pending::Answer(session, Delivery::Rejected { session, client_id: None, why })
            }
        };
        self.pending.push(pending);
    }

    /// Of whom the user's view has changed, if it is about one.
    fn change_people(&mut self, user: UserId, change: PeopleChange) -> Result<Option<UserId>, Refusal> {
        self.may_write()?;
        let before = self.settings(user).map_err(|error| self.unreadable(&error))?;
        let (other, settings) = match change {
            PeopleChange::Presence(presence) => (None, Settings { presence, ..before }),
            PeopleChange::Contact(other, contact) => {
                let regard = self.regard(user, other).map_err(|error| self.unreadable(&error))?;
                let contacts = self.counted(before.contacts, regard.contact, contact)?;
                self.set_regard(user, other, Regard { contact, ..regard });
                (Some(other), Settings { contacts, ..before })
            }
            PeopleChange::Block(other, blocked) => {
                let regard = self.regard(user, other).map_err(|error| self.unreadable(&error))?;
                let blocks = self.counted(before.blocks, regard.blocked, blocked)?;
                if regard.blocked != blocked {
                    self.tell_block(user, other, blocked)?;
                    self.set_regard(user, other, Regard { blocked, ..regard });
                }
                (Some(other), Settings { blocks, ..before })
            }
        };
        if settings != before {
            self.batch.put(Table::People, people::settings_key(user), settings.seal());
        }
        Ok(other)
    }

    /// How many there are then.
    fn counted(&self, count: u32, was: bool, is: bool) -> Result<u32, Refusal> {
        match (was, is) {
            (false, true) if count >= self.identity.limits.contacts => Err(Refusal::TooManyPeople),
            (false, true) => Ok(count + 1),
            (true, false) => Ok(count.saturating_sub(1)),
            _ => Ok(count),
        }
    }

    /// Has the conversation of the two and the other user's worker know.
    fn tell_block(&mut self, user: UserId, other: UserId, blocks: bool) -> Result<(), Refusal> {
        let conversation = ConversationId::direct(user, other);
        let here = self.identity.number;
        let keeper = self.identity.assignment.owner(RouteKey::Conversation(conversation).slice()).0;
        let owner = self.owner_of(other);
        let is_full = |target: u16| target != here && self.outgoing[usize::from(target)].is_full();
        if is_full(keeper) || is_full(owner) {
            return Err(Refusal::StorageFull);
        }
        let told = if keeper == here {
            self.set_blocks(conversation, user, blocks)
        } else {
            let what = Intended::Blocks { conversation, blocks };
            let intent = Intent { what, users: Users::from_slice(&[user]) };
            self.outgoing[usize::from(keeper)].intend(intent, Arrival::Blocks { conversation, blocks });
            Ok(())
        };
        let told = told.and_then(|()| {
            if owner == here {
                return self.set_blocked_by(conversation, other, blocks);
            }
            let what = Intended::BlockedBy { conversation, blocks };
            let intent = Intent { what, users: Users::from_slice(&[other]) };
            self.outgoing[usize::from(owner)].intend(intent, Arrival::BlockedBy { conversation, blocks });
            Ok(())
        });
        told.map_err(|error| {
            let why = self.unreadable(&error);
            // One of them may have been told, so the batch must not become durable.
            self.broken = Some(error);
            why
        })
    }

    /// The other one of this conversation blocks the user, or does not any more.
    pub(super) fn set_blocked_by(
        &mut self,
        conversation: ConversationId,
        user: UserId,
        blocks: bool,
    ) -> Result<(), StoreError> {
        let Some(by) = blocks::other_of(conversation, user) else { return Ok(()) };
        let key = people::blocked_by_key(user, by);
        let was = self.pending_or_stored(Table::People, &key)?.is_some();
        if was != blocks {
            let mut settings = self.settings(user)?;
            if blocks {
                self.batch.put(Table::People, key, people::seal_blocked_by());
                settings.blocked_by += 1;
            } else {
                self.batch.remove(Table::People, key);
                settings.blocked_by = settings.blocked_by.saturating_sub(1);
            }
            self.batch.put(Table::People, people::settings_key(user), settings.seal());
            self.pending.push(Pending::HiddenFrom(user));
        }
        Ok(())
    }

    /// A user's own settings, the present batch included.
    fn settings(&self, user: UserId) -> Result<Settings, StoreError> {
        let key = people::settings_key(user);
        let value = self.pending_or_stored(Table::People, &key)?;
        value.map_or(Ok(Settings::default()), |value| Settings::open(&key, &value))
    }

    fn regard(&self, user: UserId, other: UserId) -> Result<Regard, StoreError> {
        let key = people::regard_key(user, other);
        let value = self.pending_or_stored(Table::People, &key)?;
        value.map_or(Ok(Regard::default()), |value| Regard::open(&key, &value))
    }

    fn set_regard(&mut self, user: UserId, other: UserId, regard: Regard) {
        let key = people::regard_key(user, other);
        match regard.seal() {
            Some(value) => self.batch.put(Table::People, key, value),
            None => self.batch.remove(Table::People, key),
        }
    }

    /// It is durable: all of the user's sessions learn of it, and whoever watches the user.
    pub(super) fn people_changed(
        &mut self,
        user: UserId,
        by: SessionAddress,
        other: Option<UserId>,
        effects: &mut impl Effects,
    ) {
        self.hidden_from_others(user);
        let read = self.settings(user).and_then(|settings| {
            let regard = other.map(|other| self.regard(user, other)).transpose()?;
            Ok((settings.presence, regard))
        });
        let (presence, regard) = match read {
            Ok(read) => read,
            Err(error) => {
                // They can ask.
                self.unreadable(&error);
                return;
            }
        };
        let people: Vec<Person> =
            other.zip(regard).map(|(user, regard)| person(user, regard)).into_iter().collect();
        let sessions: Vec<SessionAddress> =
            self.sessions.of(user).map(|index| self.sessions.at(index).address()).collect();
        for session in sessions {
            let asked = session == by;
            if !asked && self.lanes.is_full(session.shard) {
                continue;
            }
            let list =
                PeopleList { session, presence, people: people.clone(), end: false, changed: true, asked };
            self.lanes.answer(session.shard, Delivery::People(Box::new(list)), effects);
        }
    }

    pub(super) fn list_people(&mut self, request: &PeopleRequest, effects: &mut impl Effects) {
        let session = request.session;
        let delivery = match self.people(request) {
            Ok(list) => Delivery::People(Box::new(list)),
            Err(error) => {
                let why = self.unreadable(&error);
                self.counters.refused.add(1);
                Delivery::Rejected { session, client_id: None, why }
            }
        };
        self.lanes.answer(session.shard, delivery, effects);
    }

    fn people(&self, request: &PeopleRequest) -> Result<PeopleList, StoreError> {
        let &PeopleRequest { user, session, after, limit } = request;
        let presence = self.settings(user)?.presence;
        let most = limit.max(1) as usize;
        let mut people = Vec::new();
        let mut end = true;
        let mut failed = None;
        let (from, to) = (
            people::regard_key(user, UserId(after.0.saturating_add(1))),
            people::regard_key(user, UserId(u64::MAX)),
        );
        self.store.scan(Table::People, &from, &to, &mut |key, value| match people::open(key, &value) {
            Ok(_) if people.len() == most => {
                end = false;
                Visit::Enough
            }
            Ok((_, About::Regard(other, regard))) => {
                people.push(person(other, regard));
                Visit::More
            }
            Ok(_) => Visit::More,
            Err(error) => {
                failed = Some(error);
                Visit::Enough
            }
        })?;
        failed.map_or(Ok(PeopleList { session, presence, people, end, changed: false, asked: true }), Err)
    }

    /// Whether a user's presence may be hidden from somebody.
    pub(super) fn is_restricted(&self, user: UserId) -> bool {
        let key = people::settings_key(user);
        let read = self.store.get(Table::People, &key);
        let read = read.and_then(|value| value.map(|value| Settings::open(&key, &value)).transpose());
        match read {
            Ok(settings) => settings.is_some_and(|settings| settings.is_restricted()),
            Err(error) => {
                // Then whoever watches is asked for, and not told.
                self.unreadable(&error);
                true
            }
        }
    }

    pub(super) fn tell_may_watch(
        &mut self,
        user: UserId,
        watcher: UserId,
        session: SessionAddress,
        effects: &mut impl Effects,
    ) {
        let may = self.may_watch(user, watcher).unwrap_or_else(|error| {
            self.unreadable(&error);
            false
        });
        self.lanes.answer(session.shard, Delivery::MayWatch { session, user, may }, effects);
    }

    fn may_watch(&self, user: UserId, watcher: UserId) -> Result<bool, StoreError> {
        if user == watcher {
            return Ok(true);
        }
        let regard = self.regard(user, watcher)?;
        let is_blocked = regard.blocked
            || self.store.get(Table::People, &people::blocked_by_key(user, watcher))?.is_some();
        Ok(!is_blocked
            && match self.settings(user)?.presence {
                Audience::Everyone => true,
                Audience::Contacts => regard.contact,
                Audience::Nobody => false,
            })
    }
}

fn person(user: UserId, regard: Regard) -> Person {
    Person { user, contact: regard.contact, blocked: regard.blocked }
}
