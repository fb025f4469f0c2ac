//! A conversation's log as all of its readers together have seen it, and what follows from it: who was in the group at
//! any event, what each message said after any other. Written from docs/protocol.md, not from the server's code.

use std::collections::{BTreeMap, HashMap};

use holdfast_protocol::chat::{self, Role, body, content};
use holdfast_protocol::id::ConversationId;

use super::observation::DeviceIndex;

/// Where an event was seen first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sighting {
    pub(crate) at_ms: u64,
    pub(crate) device: DeviceIndex,
    /// 0: not in an inbox, but in a history or a list.
    pub(crate) rev: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) message: chat::Message,
    pub(crate) first: Sighting,
}

/// A member at some event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) role: Role,
    pub(crate) joined: u64,
}

/// A conversation's members and title behind some event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct State {
    pub(crate) title: String,
    pub(crate) open_history: bool,
    pub(crate) retention_days: u32,
    pub(crate) members: BTreeMap<u64, Member>,
}

impl State {
    pub(crate) fn visible_from(&self, user: u64) -> Option<u64> {
        let member = self.members.get(&user)?;
        Some(if self.open_history { 1 } else { member.joined })
    }

    /// Whether its sender may do what the message says.
    fn may(&self, message: &chat::Message) -> bool {
        let role = self.members.get(&message.sender).map(|member| member.role);
        match kind_of(message) {
            Some(body::Kind::GroupCreated(_)) => message.seq == 1,
            Some(
                body::Kind::MembersAdded(_)
                | body::Kind::MemberRemoved(_)
                | body::Kind::Renamed(_)
                | body::Kind::RetentionSet(_),
            ) => role >= Some(Role::Admin),
            Some(body::Kind::RoleSet(_)) => role >= Some(Role::Owner),
            _ => role.is_some(),
        }
    }

    fn apply(&mut self, message: &chat::Message) {
        let seq = message.seq;
        let join = |members: &mut BTreeMap<u64, Member>, user, role| {
            members.entry(user).or_insert(Member { role, joined: seq });
        };
        match kind_of(message) {
            Some(body::Kind::GroupCreated(created)) => {
                self.title.clone_from(&created.title);
                self.open_history = created.open_history;
                join(&mut self.members, message.sender, Role::Owner);
                for &user in &created.members {
                    join(&mut self.members, user, Role::Member);
                }
            }
            Some(body::Kind::MembersAdded(added)) => {
                for &user in &added.users {
                    join(&mut self.members, user, Role::Member);
                }
            }
            Some(body::Kind::MemberRemoved(removed)) => {
                self.members.remove(&removed.user);
            }
            Some(body::Kind::MemberLeft(left)) => {
                self.members.remove(&message.sender);
                if let Some(heir) = left.new_owner.and_then(|heir| self.members.get_mut(&heir)) {
                    heir.role = Role::Owner;
                }
            }
            Some(body::Kind::Renamed(renamed)) => self.title.clone_from(&renamed.title),
            Some(body::Kind::RetentionSet(set)) => self.retention_days = set.days,
            Some(body::Kind::RoleSet(set)) => {
                if let Some(member) = self.members.get_mut(&set.user) {
                    member.role = Role::try_from(set.role).unwrap_or_default();
                }
            }
            _ => {}
        }
    }
}

/// See the module's doc.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) conversation: ConversationId,
    /// By `seq` - 1.
    events: Vec<Option<Event>>,
    /// So many of the first events are known without a hole.
    pub(crate) prefix: u64,
    /// The last `seq` that anybody was told of.
    pub(crate) known: u64,
    /// States behind those of the first events that changed them.
    states: Vec<(u64, State)>,
    /// Who has ever gone.
    pub(crate) gone: Vec<u64>,
    /// Changes of messages, by the message's `seq`: in order.
    changes: HashMap<u64, Vec<u64>>,
    ordinal: u64,
}

impl Log {
    pub(crate) fn new(conversation: ConversationId) -> Self {
        let mut first = State::default();
        if let Some((low, high)) = conversation.users() {
            let member = Member { role: Role::Member, joined: 1 };
            first.members.extend([(low.0, member), (high.0, member)]);
        }
        Self {
            conversation,
            events: Vec::new(),
            prefix: 0,
            known: 0,
            states: vec![(0, first)],
            gone: Vec::new(),
            changes: HashMap::new(),
            ordinal: 0,
        }
    }

    pub(crate) fn event(&self, seq: u64) -> Option<&Event> {
        self.events.get(usize::try_from(seq.checked_sub(1)?).ok()?)?.as_ref()
    }

    /// Writes an event down, which nobody has seen before.
    pub(crate) fn insert(&mut self, event: Event) {
        let index = event.message.seq.saturating_sub(1) as usize;
        if self.events.len() <= index {
            self.events.resize_with(index + 1, || None);
        }
        self.known = self.known.max(event.message.seq);
        self.events[index] = Some(event);
    }

    /// Goes on by one event, if the next one is known; what is wrong with it, if something is.
    pub(crate) fn advance(&mut self) -> Option<Option<String>> {
        let seq = self.prefix + 1;
        let event = self.events.get(self.prefix as usize)?.as_ref()?;
        self.prefix = seq;
        let message = &event.message;
        let kind = kind_of(message);
        self.ordinal += u64::from(says_something(message));
        let is_wrong = message.ordinal != Some(self.ordinal);
        let mut wrong =
            is_wrong.then(|| format!("its ordinal is {:?}, not {}", message.ordinal, self.ordinal));
        if !self.states.last().expect("there is one before the first event").1.may(message) {
            wrong = Some(format!("user {} was not allowed to do that", message.sender));
        }
        match kind {
            Some(body::Kind::Edited(chat::Edited { seq: changed, .. }))
            | Some(body::Kind::Deleted(chat::Deleted { seq: changed })) => {
                self.changes.entry(*changed).or_default().push(seq);
            }
            Some(body::Kind::MemberRemoved(removed)) => self.gone.push(removed.user),
            Some(body::Kind::MemberLeft(_)) => self.gone.push(message.sender),
            _ => {}
        }
        let mut state = self.state().clone();
        state.apply(message);
        if state != *self.state() {
            self.states.push((seq, state));
        }
        Some(wrong)
    }

    /// Behind the last event of the known prefix.
    pub(crate) fn state(&self) -> &State {
        &self.states.last().expect("there is one before the first event").1
    }

    /// Behind the event with this `seq`, which is in the known prefix.
    pub(crate) fn state_at(&self, seq: u64) -> &State {
        let after = self.states.partition_point(|(from, _)| *from <= seq);
        &self.states[after - 1].1
    }

    /// All states that it had while `seq` was the last event, or a later one.
    pub(crate) fn states_from(&self, seq: u64) -> impl Iterator<Item = &State> {
        let after = self.states.partition_point(|(from, _)| *from <= seq);
        self.states[after - 1..].iter().map(|(_, state)| state)
    }

    /// The changes of a message, in order.
    pub(crate) fn changes_of(&self, seq: u64) -> &[u64] {
        self.changes.get(&seq).map_or(&[], Vec::as_slice)
    }

    /// A message as it is behind one of its changes; `None` as the change: as it was sent.
    pub(crate) fn as_changed(&self, seq: u64, by: Option<u64>) -> Option<chat::Message> {
        let mut message = self.event(seq)?.message.clone();
        let Some(by) = by else { return Some(message) };
        let kind = match kind_of(&self.event(by)?.message)? {
            body::Kind::Deleted(deleted) => body::Kind::Deleted(*deleted),
            body::Kind::Edited(edited) => match edited.content.clone()?.kind? {
                content::Kind::Text(text) => body::Kind::Text(text),
                content::Kind::Custom(custom) => body::Kind::Custom(custom),
                content::Kind::Media(media) => body::Kind::Media(media),
            },
            _ => return None,
        };
        message.body = Some(chat::Body { kind: Some(kind) });
        message.changed_by = Some(by);
        Some(message)
    }
}

pub(crate) fn kind_of(message: &chat::Message) -> Option<&body::Kind> {
    message.body.as_ref()?.kind.as_ref()
}

/// Whether it is what somebody has said, rather than what has happened.
pub(crate) fn says_something(message: &chat::Message) -> bool {
    matches!(kind_of(message), Some(body::Kind::Text(_) | body::Kind::Custom(_) | body::Kind::Media(_)))
}

/// Whether this event brings the user into the conversation.
pub(crate) fn joins(message: &chat::Message, user: u64) -> bool {
    match kind_of(message) {
        Some(body::Kind::GroupCreated(created)) => message.sender == user || created.members.contains(&user),
        Some(body::Kind::MembersAdded(added)) => added.users.contains(&user),
        _ => false,
    }
}

/// Whether this event is the last that the user gets.
pub(crate) fn parts(message: &chat::Message, user: u64) -> bool {
    match kind_of(message) {
        Some(body::Kind::MemberRemoved(removed)) => removed.user == user,
        Some(body::Kind::MemberLeft(_)) => message.sender == user,
        _ => false,
    }
}
