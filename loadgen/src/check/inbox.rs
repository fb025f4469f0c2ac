//! A user's inbox as all of its devices together have seen it, and the list of conversations that it folds to.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use holdfast_protocol::chat::{self, Role, body};
use holdfast_protocol::id::ConversationId;

use super::blocks::Blocks;
use super::log::{Log, Sighting, joins, kind_of, parts, says_something};

/// An entry, without what the log says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Item {
    Message { conversation: ConversationId, seq: u64 },
    Read { conversation: ConversationId, up_to: u64, ordinal: u64 },
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) item: Item,
    pub(crate) first: Sighting,
}

/// The last event of a conversation in an inbox.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) seq: u64,
    pub(crate) rev: u64,
    /// The user has gone with it.
    pub(crate) gone: bool,
}

/// A conversation as the list has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) rev: u64,
    /// The first event since the user came into it for the last time, and the last one.
    pub(crate) since: u64,
    pub(crate) seq: u64,
    pub(crate) said: u64,
    pub(crate) read: u64,
    pub(crate) gone: bool,
    pub(crate) title: String,
    pub(crate) role: Role,
    unread: BTreeSet<u64>,
}

impl Listed {
    pub(crate) fn unread(&self) -> u64 {
        self.unread.len() as u64
    }

    fn take(&mut self, user: u64, rev: u64, message: &chat::Message) {
        if self.since == 0 || self.gone {
            *self = Self { since: message.seq, ..Self::default() };
        }
        (self.rev, self.seq) = (rev, message.seq);
        let is_own = message.sender == user;
        if says_something(message) {
            self.said = message.seq;
            if !is_own {
                self.unread.insert(message.seq);
            }
        }
        match kind_of(message) {
            Some(body::Kind::GroupCreated(created)) => {
                self.title.clone_from(&created.title);
                self.role = if is_own { Role::Owner } else { Role::Member };
            }
            Some(body::Kind::MembersAdded(added)) => {
                self.title.clone_from(&added.title);
                if added.users.contains(&user) {
                    self.role = Role::Member;
                }
            }
            Some(body::Kind::Renamed(renamed)) => self.title.clone_from(&renamed.title),
            Some(body::Kind::RoleSet(set)) if set.user == user => {
                self.role = Role::try_from(set.role).unwrap_or_default();
            }
            Some(body::Kind::MemberLeft(left)) if left.new_owner == Some(user) => self.role = Role::Owner,
            _ => {}
        }
        if is_own {
            // Who answers has seen it.
            self.unread.clear();
        }
        self.gone = parts(message, user);
    }

    fn read(&mut self, rev: u64, up_to: u64) {
        self.rev = rev;
        self.read = up_to;
        self.unread = self.unread.split_off(&(up_to + 1));
    }
}

/// What an entry does not fit to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// The same event stands at this earlier `rev`.
    Twice { rev: u64 },
    /// An event that comes before it in the conversation stands behind it, or the other way round.
    WrongWayRound { rev: u64 },
    /// Events between this one and the one at that `rev` are not there.
    Hole { rev: u64, from: u64, to: u64 },
    /// The user was not in the conversation any more, since that `rev`.
    Gone { rev: u64 },
    /// The user was not in it yet.
    NotYet,
    /// A mark of a conversation that the user has nothing of, one that goes back, or another ordinal.
    Mark { what: String },
}

/// See the module's doc.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// By `rev` - 1.
    entries: Vec<Option<Entry>>,
    /// So many of the first entries are known without a hole.
    pub(crate) prefix: u64,
    /// The last `rev` that anybody was told of.
    pub(crate) known: u64,
    pub(crate) places: BTreeMap<ConversationId, Place>,
    /// Marks that stand in it.
    pub(crate) reads: HashSet<(ConversationId, u64)>,
    /// The list behind the first `folded` entries.
    pub(crate) list: BTreeMap<ConversationId, Listed>,
    folded: u64,
    last_read: BTreeMap<ConversationId, u64>,
}

impl Inbox {
    pub(crate) fn entry(&self, rev: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(rev.checked_sub(1)?).ok()?)?.as_ref()
    }

    /// Writes down an entry that nobody has seen before.
    pub(crate) fn insert(&mut self, rev: u64, entry: Entry) {
        let index = rev as usize - 1;
        if self.entries.len() <= index {
            self.entries.resize_with(index + 1, || None);
        }
        self.known = self.known.max(rev);
        self.entries[index] = Some(entry);
    }

    /// Goes on by one entry if the next one is known; what is wrong with it, if something is.
    pub(crate) fn advance(
        &mut self,
        user: u64,
        logs: &BTreeMap<ConversationId, Log>,
        blocks: &Blocks,
    ) -> Option<(u64, Option<Misfit>)> {
        let entry = (*self.entries.get(self.prefix as usize)?)?;
        self.prefix += 1;
        let rev = self.prefix;
        let misfit = match entry.item {
            Item::Message { conversation, seq } => {
                let event = logs.get(&conversation).and_then(|log| log.event(seq));
                let (joins, gone) = event.map_or((false, false), |event| {
                    (joins(&event.message, user), parts(&event.message, user))
                });
                let before = self.places.get(&conversation).copied();
                let misfit = self.fit(conversation, seq, joins, before);
                // What only the other one of two sees is not there.
                let misfit = misfit.filter(|misfit| {
                    !(matches!(misfit, Misfit::Hole { .. }) && blocks.is_split(conversation))
                });
                if before.is_none_or(|before| before.seq < seq) {
                    self.places.insert(conversation, Place { seq, rev, gone });
                }
                if joins {
                    self.last_read.remove(&conversation);
                }
                misfit
            }
            Item::Read { conversation, up_to, .. } => {
                self.reads.insert((conversation, up_to));
                let last = self.last_read.insert(conversation, up_to).unwrap_or(0);
                if !self.places.contains_key(&conversation) {
                    Some(Misfit::Mark { what: "nothing of the conversation stands before it".into() })
                } else if up_to <= last {
                    Some(Misfit::Mark { what: format!("the mark before it was {last}") })
                } else {
                    None
                }
            }
        };
        Some((rev, misfit))
    }

    fn fit(
        &self,
        conversation: ConversationId,
        seq: u64,
        joins: bool,
        before: Option<Place>,
    ) -> Option<Misfit> {
        let Some(before) = before else {
            let begins = joins || (conversation.users().is_some() && seq == 1);
            if begins {
                return None;
            }
            return Some(match (conversation.users(), self.find(conversation, 1..seq)) {
                (Some(_), Some(rev)) => Misfit::WrongWayRound { rev },
                (Some(_), None) => Misfit::Hole { rev: 0, from: 1, to: seq - 1 },
                (None, Some(rev)) => Misfit::WrongWayRound { rev },
                (None, None) => Misfit::NotYet,
            });
        };
        if seq <= before.seq {
            let earlier = self.find_below(conversation, seq, self.prefix);
            return Some(match earlier {
                Some(rev) => Misfit::Twice { rev },
                None => Misfit::WrongWayRound { rev: before.rev },
            });
        }
        if before.gone {
            return (!joins).then_some(Misfit::Gone { rev: before.rev });
        }
        if seq > before.seq + 1 {
            let missing = before.seq + 1..seq;
            return Some(match self.find(conversation, missing) {
                Some(rev) => Misfit::WrongWayRound { rev },
                None => Misfit::Hole { rev: before.rev, from: before.seq + 1, to: seq - 1 },
            });
        }
        None
    }

    /// The events of a conversation that stand in the prefix, in their order.
    pub(crate) fn seqs_of(&self, wanted: ConversationId) -> Vec<u64> {
        let entries = self.entries.iter().take(self.prefix as usize).flatten();
        entries
            .filter_map(|entry| match entry.item {
                Item::Message { conversation, seq } if conversation == wanted => Some(seq),
                _ => None,
            })
            .collect()
    }

    /// Where one of these events stands behind the prefix.
    fn find(&self, conversation: ConversationId, seqs: std::ops::Range<u64>) -> Option<u64> {
        (self.prefix + 1..=self.entries.len() as u64).find(|&rev| {
            matches!(self.entry(rev), Some(Entry { item: Item::Message { conversation: there, seq }, .. })
                if *there == conversation && seqs.contains(seq))
        })
    }

    fn find_below(&self, conversation: ConversationId, wanted: u64, end: u64) -> Option<u64> {
        (1..end).find(|&rev| {
            matches!(self.entry(rev), Some(Entry { item: Item::Message { conversation: there, seq }, .. })
                if *there == conversation && *seq == wanted)
        })
    }

    /// Moves the list on to this `rev`, which is in the prefix and not below where the list is; false if it cannot.
    pub(crate) fn fold_to(&mut self, user: u64, rev: u64, logs: &BTreeMap<ConversationId, Log>) -> bool {
        if rev < self.folded || rev > self.prefix {
            return false;
        }
        while self.folded < rev {
            self.folded += 1;
            let Some(entry) = self.entry(self.folded).copied() else { continue };
            match entry.item {
                Item::Message { conversation, seq } => {
                    let Some(event) = logs.get(&conversation).and_then(|log| log.event(seq)) else {
                        continue;
                    };
                    let listed = self.list.entry(conversation).or_default();
                    listed.take(user, self.folded, &event.message);
                }
                Item::Read { conversation, up_to, .. } => {
                    let rev = self.folded;
                    self.list.entry(conversation).or_default().read(rev, up_to);
                }
            }
        }
        true
    }
}
