//! What all peers together have learnt, and whether it fits together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use holdfast_protocol::chat::{self, client_frame, entry};

use crate::deed;

/// What must hold, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Invariant {
    Driver,
    Progress,
    Deadlines,
    Bounded,
    Wire,
    Echo,
    Dense,
    OneStory,
    Answers,
    Courtesy,
    Owed,
    Complete,
    Visible,
    Listed,
    Remembered,
    Sound,
    Accounts,
    Empty,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Driver => "the driver keeps its contract",
            Self::Progress => "what can be read is read, what can be sent is sent",
            Self::Deadlines => "deadlines are kept",
            Self::Bounded => "what waits for a peer stays within its limit",
            Self::Wire => "what the server sends is RFC 6455 and the chat protocol",
            Self::Echo => "echoes come back whole, in order, once",
            Self::Dense => "rev rises by one",
            Self::OneStory => "a rev, a seq and an id mean the same message to everyone, for ever",
            Self::Answers => "every send is answered once",
            Self::Courtesy => "an honest peer is not refused and not thrown out",
            Self::Owed => "once the faults are over, everyone gets what they are owed",
            Self::Complete => "what was accepted stands in the conversation for ever",
            Self::Visible => "everybody gets the events that are theirs to see, once, and no others",
            Self::Listed => "lists and snapshots say what the inbox says",
            Self::Remembered => "a history shows messages as they are now, as far as one may see them",
            Self::Sound => "the databases are as they must be",
            Self::Accounts => "the books of shard, workers and process agree",
            Self::Empty => "after a drain nothing is left",
        })
    }
}

impl Invariant {
    pub(crate) fn is_broken(self, how: String) -> Broken {
        Broken { invariant: self, how }
    }
}

/// An invariant that was broken, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) invariant: Invariant,
    pub(crate) how: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not so: {}. {}", self.invariant, self.how)
    }
}

/// Says what is wrong, when it is.
pub(crate) fn ensure(invariant: Invariant, holds: bool, how: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(invariant.is_broken(how())) }
}

/// See the module's doc.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    /// (user, rev) → the entry.
    pub(crate) inbox: BTreeMap<(u64, u64), chat::Entry>,
    /// (conversation, seq) → the event.
    pub(crate) log: BTreeMap<(String, u64), chat::Message>,
    /// (sender, clientId) → where its event stands.
    once: BTreeMap<(u64, String), (String, u64)>,
    /// (reader, sender, clientId) → where it stands in the reader's inbox.
    place: BTreeMap<(u64, u64, String), u64>,
    /// (sender, clientId) → what was sent.
    pub(crate) sent: BTreeMap<(u64, String), client_frame::Frame>,
    /// (sender, clientId) → (messageId, seq).
    accepted: BTreeMap<(u64, String), (u64, u64)>,
    /// Groups that somebody has heard of.
    pub(crate) groups: Vec<String>,
    /// Direct conversations in which somebody has, perhaps, blocked the other one at some time.
    pub(crate) blocked: BTreeSet<String>,
    /// (conversation, user) → how far somebody was told that the user has read; of direct conversations.
    pub(crate) read: BTreeMap<(String, u64), u64>,
    /// Lists and snapshots that somebody was told: whose, of which `rev`, and what.
    pub(crate) lists: Vec<(u64, u64, Vec<chat::ConversationState>)>,
    /// Histories, from their beginnings: whose, of which conversation, and what.
    pub(crate) histories: Vec<(u64, String, Vec<chat::Message>)>,
    /// Whose question for which conversation's history was refused.
    pub(crate) refused_histories: Vec<(u64, String)>,
}

impl Truth {
    pub(crate) fn sees(&mut self, user: u64, rev: u64, entry: &chat::Entry) -> Result<(), Broken> {
        let rule = Invariant::OneStory;
        let known = self.inbox.entry((user, rev)).or_insert_with(|| entry.clone());
        ensure(rule, known == entry, || format!("rev {rev} of user {user} was {known:?} and is {entry:?}"))?;
        let Some(entry::Kind::Message(message)) = &entry.kind else { return Ok(()) };
        let name = (message.sender, message.client_id.clone());
        let sent = self.sent.get(&name);
        ensure(rule, sent.is_some_and(|sent| deed::is_event_of(sent, message)), || {
            format!("user {user} sees {message:?}, but sent was {sent:?}")
        })?;
        let at = (message.conversation.clone(), message.seq);
        if !self.log.contains_key(&at) && at.0.starts_with('g') && !self.groups.contains(&at.0) {
            self.groups.push(at.0.clone());
        }
        let known = self.log.entry(at.clone()).or_insert_with(|| message.clone());
        ensure(rule, known == message, || format!("{at:?} was {known:?} and is {message:?}"))?;
        let known = self.once.entry(name.clone()).or_insert_with(|| at.clone());
        ensure(rule, *known == at, || format!("{name:?} stands at {known:?} and at {at:?}"))?;
        let place = *self.place.entry((user, name.0, name.1.clone())).or_insert(rev);
        ensure(rule, place == rev, || format!("user {user} has {name:?} at rev {place} and at rev {rev}"))?;
        let is = (message.message_id, message.seq);
        let accepted = self.accepted.get(&name).copied().unwrap_or(is);
        ensure(rule, accepted == is, || format!("{name:?} was accepted as {accepted:?} and is {message:?}"))
    }

    pub(crate) fn accepts(&mut self, sender: u64, accepted: &chat::Accepted) -> Result<(), Broken> {
        let name = (sender, accepted.client_id.clone());
        ensure(Invariant::OneStory, self.sent.contains_key(&name), || {
            format!("{name:?} was accepted and never sent")
        })?;
        if let Some(group) = &accepted.conversation
            && !self.groups.contains(group)
        {
            self.groups.push(group.clone());
        }
        let is = (accepted.message_id, accepted.seq);
        let known = *self.accepted.entry(name.clone()).or_insert(is);
        ensure(Invariant::OneStory, known == is, || {
            format!("{name:?} was accepted as {known:?} and as {is:?}")
        })
    }

    /// What was accepted is not refused later.
    pub(crate) fn refuses(&self, sender: u64, client_id: &str, code: &str) -> Result<(), Broken> {
        let accepted = self.accepted.get(&(sender, client_id.to_owned()));
        ensure(Invariant::OneStory, accepted.is_none(), || {
            format!("{client_id} of user {sender} was accepted as {accepted:?} and then refused: {code}")
        })
    }

    /// Somebody is told how far a user has read a direct conversation.
    pub(crate) fn reads(&mut self, conversation: &str, user: u64, read: u64) {
        let told = self.read.entry((conversation.to_owned(), user)).or_default();
        *told = read.max(*told);
    }

    /// Whether a user has seen what somebody sent under that name.
    pub(crate) fn has(&self, user: u64, sender: u64, client_id: &str) -> bool {
        self.place.contains_key(&(user, sender, client_id.to_owned()))
    }

    /// The last `rev` that anybody has seen of this user.
    pub(crate) fn head(&self, user: u64) -> u64 {
        self.inbox.range((user, 0)..=(user, u64::MAX)).next_back().map_or(0, |(&(_, rev), _)| rev)
    }

    /// The last event of a conversation that anybody has seen.
    pub(crate) fn last_seq(&self, conversation: &str) -> u64 {
        let (from, to) = ((conversation.to_owned(), 0), (conversation.to_owned(), u64::MAX));
        self.log.range(from..=to).next_back().map_or(0, |((_, seq), _)| *seq)
    }

    /// After everyone has read everything: nothing is missing in the inboxes, and each accepted event is there.
    pub(crate) fn is_complete(&self, heads: &BTreeMap<u64, u64>) -> Result<(), Broken> {
        for (user, head) in heads {
            for rev in 1..=*head {
                ensure(Invariant::Complete, self.inbox.contains_key(&(*user, rev)), || {
                    format!("user {user} never saw rev {rev} of {head}")
                })?;
            }
            let seen = self.head(*user);
            ensure(Invariant::Complete, seen <= *head, || {
                format!("user {user} saw rev {seen}, and {head} is the last now")
            })?;
        }
        for name in self.accepted.keys() {
            ensure(Invariant::Complete, self.once.contains_key(name), || {
                format!("{name:?} was accepted and stands nowhere")
            })?;
        }
        let mut last: Option<(&str, u64)> = None;
        for (conversation, seq) in self.log.keys() {
            let expected = match last {
                Some((known, seq)) if known == conversation => seq + 1,
                _ => 1,
            };
            ensure(Invariant::OneStory, *seq == expected, || {
                format!("seq {seq} of {conversation} stands where {expected} should")
            })?;
            last = Some((conversation, *seq));
        }
        Ok(())
    }

    pub(crate) fn messages(&self) -> usize {
        self.log.len()
    }
}
