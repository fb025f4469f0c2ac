//! What all peers together have learnt, and whether it fits together.

use std::collections::BTreeMap;
use std::fmt;

/// An invariant that was broken.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Says what is wrong, when it is.
pub(crate) fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken(what())) }
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
    /// (sender, clientId) → where it stands, in each user's inbox.
    once: BTreeMap<(u64, u64, String), u64>,
    /// (sender, clientId) → what was sent.
    pub(crate) sent: BTreeMap<(u64, String), String>,
    /// (sender, clientId) → (messageId, seq).
    accepted: BTreeMap<(u64, String), (u64, u64)>,
}

impl Truth {
    pub(crate) fn sees(&mut self, user: u64, rev: u64, seen: Seen) -> Result<(), Broken> {
        let name = (seen.sender, seen.client_id.clone());
        let sent = self.sent.get(&name);
        ensure(sent == Some(&seen.text), || format!("user {user} sees {seen:?}, but sent was {sent:?}"))?;
        let known = self.inbox.entry((user, rev)).or_insert_with(|| seen.clone());
        ensure(*known == seen, || format!("rev {rev} of user {user} was {known:?} and is {seen:?}"))?;
        let known = self.order.entry((seen.conversation.clone(), seen.seq)).or_insert_with(|| seen.clone());
        ensure(*known == seen, || {
            format!("seq {} of {} was {known:?} and is {seen:?}", seen.seq, seen.conversation)
        })?;
        let place = *self.once.entry((user, seen.sender, seen.client_id.clone())).or_insert(rev);
        ensure(place == rev, || format!("user {user} has {name:?} at rev {place} and at rev {rev}"))?;
        let accepted = self.accepted.get(&name).copied().unwrap_or((seen.message_id, seen.seq));
        ensure(accepted == (seen.message_id, seen.seq), || {
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
        ensure(self.sent.contains_key(&name), || format!("{name:?} was accepted and never sent"))?;
        let known = *self.accepted.entry(name.clone()).or_insert((message_id, seq));
        ensure(known == (message_id, seq), || {
            format!("{name:?} was accepted as {known:?} and as {:?}", (message_id, seq))
        })
    }

    /// After everyone has read everything: each accepted message stands in both inboxes, and nothing is missing.
    pub(crate) fn is_complete(&self, heads: &BTreeMap<u64, u64>) -> Result<(), Broken> {
        for (user, head) in heads {
            for rev in 1..=*head {
                ensure(self.inbox.contains_key(&(*user, rev)), || {
                    format!("user {user} never saw rev {rev} of {head}")
                })?;
            }
        }
        for (sender, client_id) in self.accepted.keys() {
            let readers = self.once.keys().filter(|(_, by, id)| by == sender && id == client_id).count();
            ensure(readers == 2, || {
                format!("{client_id} of user {sender} was accepted and stands in {readers} inboxes")
            })?;
        }
        let mut last: Option<(&str, u64)> = None;
        for (conversation, seq) in self.order.keys() {
            let expected = match last {
                Some((known, seq)) if known == conversation => seq + 1,
                _ => 1,
            };
            ensure(*seq == expected, || {
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
