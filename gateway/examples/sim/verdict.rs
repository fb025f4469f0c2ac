//! At the end, when everybody has seen everything: who must have got what, what lists and histories must have said.
//!
//! All of it is worked out from the conversations' logs and the users' inboxes as the peers saw them, by other means than
//! the server's: what is unread is a set here, and who is in a group comes out of its events one after the other.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_protocol::chat::{self, body, content, entry};
use holdfast_protocol::id::ConversationId;

use crate::truth::{Broken, Invariant, Truth, ensure};

/// Everything that can be said at the end.
pub(crate) fn is_right(truth: &Truth, users: u64) -> Result<(), Broken> {
    visibility(truth, users)?;
    marks(truth)?;
    lists(truth)?;
    histories(truth)
}

fn kind_of(message: &chat::Message) -> Option<&body::Kind> {
    message.body.as_ref().and_then(|body| body.kind.as_ref())
}

/// The log of each conversation.
fn logs(truth: &Truth) -> BTreeMap<&str, Vec<&chat::Message>> {
    let mut logs: BTreeMap<&str, Vec<&chat::Message>> = BTreeMap::new();
    for ((conversation, _), message) in &truth.log {
        logs.entry(conversation).or_default().push(message);
    }
    logs
}

fn users_of(conversation: &str) -> Option<(u64, u64)> {
    let users = conversation.parse::<ConversationId>().ok()?.users()?;
    Some((users.0.0, users.1.0))
}

/// Who must get an event, which may change who is in the group.
fn recipients(members: &mut BTreeSet<u64>, message: &chat::Message) -> BTreeSet<u64> {
    let mut get = members.clone();
    match kind_of(message) {
        Some(body::Kind::GroupCreated(created)) => {
            members.insert(message.sender);
            members.extend(&created.members);
            get.clone_from(members);
        }
        Some(body::Kind::MembersAdded(added)) => {
            members.extend(&added.users);
            get.clone_from(members);
        }
        Some(body::Kind::MemberRemoved(removed)) => {
            members.remove(&removed.user);
        }
        Some(body::Kind::MemberLeft(_)) => {
            members.remove(&message.sender);
        }
        _ => {}
    }
    get
}

/// Each event is in the inboxes of those who were in the conversation when it happened, and in no other.
fn visibility(truth: &Truth, users: u64) -> Result<(), Broken> {
    let mut got: BTreeMap<(u64, &str), Vec<u64>> = BTreeMap::new();
    for ((user, _), entry) in &truth.inbox {
        if let Some(entry::Kind::Message(message)) = &entry.kind {
            got.entry((*user, &message.conversation)).or_default().push(message.seq);
        }
    }
    for (conversation, log) in logs(truth) {
        let mut members: BTreeSet<u64> =
            users_of(conversation).into_iter().flat_map(|(low, high)| [low, high]).collect();
        let mut expected: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let mut ordinal = 0;
        for message in log {
            ordinal += u64::from(matches!(kind_of(message), Some(body::Kind::Text(_))));
            ensure(Invariant::OneStory, message.ordinal == Some(ordinal), || {
                format!("{message:?} is message {ordinal} of its conversation")
            })?;
            for user in recipients(&mut members, message) {
                // While somebody was blocked, perhaps: then only its sender has it, or both.
                let is_hidden = truth.blocked.contains(conversation)
                    && user != message.sender
                    && !got.get(&(user, conversation)).is_some_and(|got| got.contains(&message.seq));
                if !is_hidden {
                    expected.entry(user).or_default().push(message.seq);
                }
            }
        }
        for user in 1..=users {
            let (got, expected) = (got.get(&(user, conversation)), expected.get(&user));
            ensure(Invariant::Visible, got == expected, || {
                format!("user {user} has {got:?} of {conversation}, and should have {expected:?}")
            })?;
        }
    }
    Ok(())
}

/// What somebody was told that a user has read, the user's own inbox tells too.
fn marks(truth: &Truth) -> Result<(), Broken> {
    let mut last: BTreeMap<(&str, u64), u64> = BTreeMap::new();
    for ((user, rev), entry) in &truth.inbox {
        let Some(entry::Kind::Read(mark)) = &entry.kind else { continue };
        let at = (mark.conversation.clone(), mark.up_to);
        let ordinal = truth.log.get(&at).and_then(|message| message.ordinal);
        ensure(Invariant::OneStory, ordinal == Some(mark.ordinal), || {
            format!("rev {rev} of user {user} is {mark:?}, and that message is number {ordinal:?}")
        })?;
        let before = last.insert((&mark.conversation, *user), mark.up_to).unwrap_or_default();
        let is_direct = users_of(&mark.conversation).is_some();
        ensure(Invariant::OneStory, !is_direct || mark.up_to > before, || {
            format!("rev {rev} of user {user} is {mark:?} after {before}")
        })?;
    }
    for ((conversation, user), told) in &truth.read {
        let last = last.get(&(conversation.as_str(), *user)).copied().unwrap_or_default();
        ensure(Invariant::Complete, last >= *told, || {
            format!("user {user} has read {conversation} up to {told}, but the inbox only says {last}")
        })?;
    }
    Ok(())
}

/// A conversation as it is for a user.
#[derive(Debug, Default, PartialEq, Eq)]
struct Listed {
    unread: BTreeSet<u64>,
    read: u64,
    gone: bool,
    rev: u64,
    title: String,
    has_begun: bool,
}

impl Listed {
    fn take(&mut self, user: u64, message: &chat::Message) {
        let is_own = message.sender == user;
        match kind_of(message) {
            Some(body::Kind::Text(_)) if !is_own => {
                self.unread.insert(message.seq);
            }
            Some(body::Kind::GroupCreated(created)) => self.title.clone_from(&created.title),
            Some(body::Kind::MembersAdded(added)) => self.title.clone_from(&added.title),
            Some(body::Kind::Renamed(renamed)) => self.title.clone_from(&renamed.title),
            Some(body::Kind::MemberRemoved(removed)) => self.gone = removed.user == user,
            Some(body::Kind::MemberLeft(_)) => self.gone = is_own,
            _ => {}
        }
        if is_own {
            self.unread.clear();
        }
    }
}

/// The list at a `rev`.
fn list_at(truth: &Truth, user: u64, rev: u64) -> BTreeMap<u128, Listed> {
    let mut all: BTreeMap<u128, Listed> = BTreeMap::new();
    let id_of = |text: &str| text.parse::<ConversationId>().map_or(0, |id| id.0);
    for ((_, rev), entry) in truth.inbox.range((user, 1)..=(user, rev)) {
        match &entry.kind {
            Some(entry::Kind::Read(mark)) => {
                let it = all.entry(id_of(&mark.conversation)).or_default();
                it.read = mark.up_to;
                it.unread.retain(|&seq| seq > mark.up_to);
                it.rev = *rev;
            }
            Some(entry::Kind::Message(message)) => {
                let it = all.entry(id_of(&message.conversation)).or_default();
                if !it.has_begun || it.gone {
                    *it = Listed { has_begun: true, ..Listed::default() };
                }
                it.rev = *rev;
                it.take(user, message);
            }
            None => {}
        }
    }
    all
}

fn lists(truth: &Truth) -> Result<(), Broken> {
    for (user, rev, told) in &truth.lists {
        let expected = list_at(truth, *user, *rev);
        let ids: Vec<u128> =
            told.iter().map(|it| it.conversation.parse::<ConversationId>().map_or(0, |id| id.0)).collect();
        ensure(Invariant::Listed, ids.iter().eq(expected.keys()), || {
            format!("user {user} was told of {ids:?} at rev {rev}, not of {:?}", expected.keys())
        })?;
        for (told, it) in told.iter().zip(expected.values()) {
            let is = (told.unread, told.read, told.gone, told.rev, told.title.as_str());
            let must = (it.unread.len() as u64, it.read, it.gone, it.rev, it.title.as_str());
            ensure(Invariant::Listed, is == must, || {
                format!("{} for user {user} at rev {rev}: {is:?}, not {must:?}, {it:?}", told.conversation)
            })?;
        }
    }
    Ok(())
}

/// What the last edit or deletion among these makes of each message.
fn as_they_are<'a>(events: impl Iterator<Item = &'a chat::Message> + Clone) -> Vec<chat::Message> {
    let mut changes: BTreeMap<u64, (u64, body::Kind)> = BTreeMap::new();
    for event in events.clone() {
        match kind_of(event) {
            Some(body::Kind::Edited(edited)) => {
                let says = edited.content.as_ref().and_then(|content| content.kind.clone());
                if let Some(content::Kind::Text(text)) = says {
                    changes.insert(edited.seq, (event.seq, body::Kind::Text(text)));
                }
            }
            Some(body::Kind::Deleted(deleted)) => {
                let kind = body::Kind::Deleted(chat::Deleted { seq: deleted.seq });
                changes.insert(deleted.seq, (event.seq, kind));
            }
            _ => {}
        }
    }
    let amended = |event: &chat::Message| match changes.get(&event.seq) {
        Some((by, kind)) => chat::Message {
            body: Some(chat::Body { kind: Some(kind.clone()) }),
            changed_by: Some(*by),
            ..event.clone()
        },
        None => event.clone(),
    };
    events.map(amended).collect()
}

/// From where a member may read; `None`: the user is not in the group.
fn visible_from(log: &[&chat::Message], user: u64) -> Option<u64> {
    let mut members = BTreeSet::new();
    let mut joined = None;
    let mut is_open = false;
    for message in log {
        let was_in = members.contains(&user);
        recipients(&mut members, message);
        if let Some(body::Kind::GroupCreated(created)) = kind_of(message) {
            is_open = created.open_history;
        }
        if !was_in && members.contains(&user) {
            joined = Some(message.seq);
        }
    }
    let joined = joined.filter(|_| members.contains(&user))?;
    Some(if is_open { 1 } else { joined })
}

fn histories(truth: &Truth) -> Result<(), Broken> {
    let logs = logs(truth);
    for (user, conversation) in &truth.refused_histories {
        let log = logs.get(conversation.as_str()).map_or(&[][..], Vec::as_slice);
        let may_read = users_of(conversation).is_some() || visible_from(log, *user).is_some();
        ensure(Invariant::Remembered, !may_read, || {
            format!("user {user} is in {conversation}, and may not read it")
        })?;
    }
    for (user, conversation, told) in &truth.histories {
        let log = logs.get(conversation.as_str()).map_or(&[][..], Vec::as_slice);
        let expected = match users_of(conversation) {
            // What is in the user's inbox: the rest is hidden.
            Some(_) => {
                let inbox = truth.inbox.range((*user, 0)..=(*user, u64::MAX));
                let own = inbox.filter_map(|(_, entry)| match &entry.kind {
                    Some(entry::Kind::Message(message)) if message.conversation == *conversation => {
                        Some(message)
                    }
                    _ => None,
                });
                as_they_are(own)
            }
            None => {
                let Some(from) = visible_from(log, *user) else {
                    let how = format!("user {user} is not in {conversation}, and was told {told:?}");
                    return Err(Invariant::Remembered.is_broken(how));
                };
                let mut all = as_they_are(log.iter().copied());
                all.retain(|message| message.seq >= from);
                all
            }
        };
        let seqs = |messages: &[chat::Message]| -> Vec<(u64, Option<u64>)> {
            messages.iter().map(|message| (message.seq, message.changed_by)).collect()
        };
        ensure(Invariant::Remembered, *told == expected, || {
            format!(
                "user {user} was told {:?} of {conversation} (seq, changed by), not {:?}",
                seqs(told),
                seqs(&expected)
            )
        })?;
    }
    Ok(())
}
