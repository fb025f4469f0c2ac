//! What all peers together have learnt, and whether it fits together.

use std::collections::BTreeMap;
use std::fmt;

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
            Self::Complete => "what was accepted stands in both inboxes",
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

/// One message, as an entry shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) conversation: String,
    pub(crate) seq: u64,
    pub(crate) message_id: u64,
    pub(crate) sender: u64,
    pub(crate) client_id: String,
    pub(crate) text: String,
}

/// See the module's doc.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    /// (user, rev) → the message.
    inbox: BTreeMap<(u64, u64), Seen>,
    /// (conversation, seq) → the message.
    order: BTreeMap<(String, u64), Seen>,
    /// (reader, sender, clientId) → where it stands in the reader's inbox.
    once: BTreeMap<(u64, u64, String), u64>,
    /// (sender, clientId) → what was sent.
    pub(crate) sent: BTreeMap<(u64, String), String>,
    /// (sender, clientId) → (messageId, seq).
    accepted: BTreeMap<(u64, String), (u64, u64)>,
}

impl Truth {
    pub(crate) fn sees(&mut self, user: u64, rev: u64, seen: Seen) -> Result<(), Broken> {
        let rule = Invariant::OneStory;
        let name = (seen.sender, seen.client_id.clone());
        let sent = self.sent.get(&name);
        ensure(rule, sent == Some(&seen.text), || {
            format!("user {user} sees {seen:?}, but sent was {sent:?}")
        })?;
        ensure(rule, is_between(&seen.text, user), || format!("user {user} sees {seen:?}"))?;
        let known = self.inbox.entry((user, rev)).or_insert_with(|| seen.clone());
        ensure(rule, *known == seen, || format!("rev {rev} of user {user} was {known:?} and is {seen:?}"))?;
        let known = self.order.entry((seen.conversation.clone(), seen.seq)).or_insert_with(|| seen.clone());
        ensure(rule, *known == seen, || {
            format!("seq {} of {} was {known:?} and is {seen:?}", seen.seq, seen.conversation)
        })?;
        let place = *self.once.entry((user, seen.sender, seen.client_id.clone())).or_insert(rev);
        ensure(rule, place == rev, || format!("user {user} has {name:?} at rev {place} and at rev {rev}"))?;
        let accepted = self.accepted.get(&name).copied().unwrap_or((seen.message_id, seen.seq));
        ensure(rule, accepted == (seen.message_id, seen.seq), || {
            format!("{name:?} was accepted as {accepted:?} and is {seen:?}")
        })
    }

    pub(crate) fn accepts(
        &mut self,
        sender: u64,
        client_id: &str,
        message_id: u64,
        seq: u64,
    ) -> Result<(), Broken> {
        let name = (sender, client_id.to_owned());
        ensure(Invariant::OneStory, self.sent.contains_key(&name), || {
            format!("{name:?} was accepted and never sent")
        })?;
        let known = *self.accepted.entry(name.clone()).or_insert((message_id, seq));
        ensure(Invariant::OneStory, known == (message_id, seq), || {
            format!("{name:?} was accepted as {known:?} and as {:?}", (message_id, seq))
        })
    }

    /// The last `rev` that anybody has seen of this user.
    pub(crate) fn head(&self, user: u64) -> u64 {
        self.inbox.range((user, 0)..=(user, u64::MAX)).next_back().map_or(0, |(&(_, rev), _)| rev)
    }

    /// After everyone has read everything: each accepted message stands in both inboxes, and nothing is missing.
    pub(crate) fn is_complete(&self, heads: &BTreeMap<u64, u64>) -> Result<(), Broken> {
        for (user, head) in heads {
            for rev in 1..=*head {
                ensure(Invariant::Complete, self.inbox.contains_key(&(*user, rev)), || {
                    format!("user {user} never saw rev {rev} of {head}")
                })?;
            }
        }
        for (sender, client_id) in self.accepted.keys() {
            let reads = |user: &&u64| self.once.contains_key(&(**user, *sender, client_id.clone()));
            let readers = heads.keys().filter(reads).count();
            ensure(Invariant::Complete, readers == 2, || {
                format!("{client_id} of user {sender} was accepted and stands in {readers} inboxes")
            })?;
        }
        let mut last: Option<(&str, u64)> = None;
        for (conversation, seq) in self.order.keys() {
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
        self.order.len()
    }
}

/// Whether a text, which begins with `sender>receiver `, is between this user and somebody.
fn is_between(text: &str, user: u64) -> bool {
    let names = text.split(' ').next().and_then(|names| names.split_once('>'));
    let user = user.to_string();
    names.is_some_and(|(sender, receiver)| sender == user || receiver == user)
}
