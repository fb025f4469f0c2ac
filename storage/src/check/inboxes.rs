//! Inboxes: dense, in the order of their conversations, naming what is there.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use holdfast_protocol::chat::{self, body};
use holdfast_protocol::id::{ConversationId, DeviceId, Rev, Seq, UserId};
use holdfast_router::Key as RouteKey;
use prost::Message as _;

use super::{Checker, entry_in, in_bites, slice_of, split_message_key, split_pair};
use crate::device::Kept;
use crate::engine::{Store, StoreError, Table};
use crate::entry::MessageEntry;
use crate::floor::Floor;
use crate::inbox::{self, Facts, Item, OwnMark, Traits};
use crate::layout;
use crate::listing::{Listed, read_checkpoint};

impl Checker {
    /// Messages of other databases' conversations, for users of this one.
    pub(super) fn copies(&mut self, number: u16, store: &impl Store) -> Result<(), StoreError> {
        let mut conversation = None;
        let mut floor = Floor::default();
        let mut amended = BTreeMap::new();
        in_bites(store, Table::Copies, 24, |key, value| {
            let Some((at, seq)) = split_message_key(key) else {
                self.problem(Some(number), format!("copies has a key of {} bytes", key.len()));
                return Ok(());
            };
            if conversation != Some(at) {
                if let Some(before) = conversation.replace(at) {
                    self.changes(number, store, before, &std::mem::take(&mut amended))?;
                }
                if self.owns(number, at) {
                    self.problem(Some(number), format!("there are copies of {at} beside it"));
                }
                floor = self.floor(number, store, at);
            }
            match layout::open(Table::Copies, key, value) {
                Err(error) => self.problem(Some(number), error.to_string()),
                Ok(bytes) => match MessageEntry::decode(&bytes) {
                    Some(entry) if (entry.conversation, entry.seq) == (at, seq) => {
                        let amends = Facts::of(&entry).amends.filter(|&amends| amends >= floor.seq);
                        amended.extend(amends.map(|amends| (amends, seq)));
                    }
                    _ => self.problem(Some(number), format!("the copy of {seq} of {at} is not of it")),
                },
            }
            Ok(())
        })?;
        match conversation {
            Some(last) => self.changes(number, store, last, &amended),
            None => Ok(()),
        }
    }

    pub(super) fn owns(&self, number: u16, conversation: ConversationId) -> bool {
        self.assignment.owner(RouteKey::Conversation(conversation).slice()).0 == number
    }

    pub(super) fn inboxes(&mut self, number: u16, store: &impl Store) -> Result<(), StoreError> {
        let mut inbox = Inbox::new(UserId(0));
        in_bites(store, Table::Inbox, 16, |key, value| {
            let Some((user, last)) = split_pair(key) else {
                self.problem(Some(number), format!("inbox has a key of {} bytes", key.len()));
                return Ok(());
            };
            let (user, last) = (UserId(user), Rev(last));
            if user != inbox.user {
                self.end_of_inbox(number, store, &inbox)?;
                inbox = Inbox::new(user);
                match read_checkpoint(store, user) {
                    Ok(checkpoint) => inbox.checkpoint = checkpoint,
                    Err(error) => self.problem(Some(number), error.to_string()),
                }
                self.report.users += 1;
                if self.assignment.owner(RouteKey::User(user).slice()).0 != number {
                    let what = format!("the inbox of user {user} belongs into another database");
                    self.problem(Some(number), what);
                }
            }
            let items = match inbox::open(key, value) {
                Ok(items) => items,
                Err(error) => {
                    self.problem(Some(number), error.to_string());
                    inbox.last = last;
                    return Ok(());
                }
            };
            let before = inbox.last;
            if before.0 + items.len() as u64 != last.0 || (before == Rev(0) && items.len() > 1) {
                let count = items.len();
                let what =
                    format!("the inbox of user {user} has {count} entries up to rev {last} after {before}");
                self.problem(Some(number), what);
            }
            let first = (last.0 + 1).saturating_sub(items.len() as u64);
            for (rev, item) in (first..).map(Rev).zip(items) {
                self.report.entries += 1;
                self.item(number, store, &mut inbox, rev, item)?;
            }
            inbox.last = last;
            Ok(())
        })?;
        self.end_of_inbox(number, store, &inbox)?;
        let (mut count, known) = (0u64, std::mem::take(&mut self.listings));
        in_bites(store, Table::Conversations, 24, |_, _| {
            count += 1;
            Ok(())
        })?;
        if count != known {
            self.problem(
                Some(number),
                format!("lists of conversations have {count} records, the inboxes make {known}"),
            );
        }
        Ok(())
    }

    fn item(
        &mut self,
        number: u16,
        store: &impl Store,
        inbox: &mut Inbox,
        rev: Rev,
        item: Item,
    ) -> Result<(), StoreError> {
        let user = inbox.user;
        let bytes = match &item {
            Item::Read(mark) => {
                if let Err(what) = inbox.read(mark) {
                    self.problem(Some(number), format!("entry {rev} of user {user} {what}"));
                }
                inbox.list(mark.conversation, rev, &item, None);
                return Ok(());
            }
            Item::Whole(bytes) => Some(bytes.clone()),
            &Item::Message { conversation, seq, .. } => {
                let table = if self.owns(number, conversation) { Table::Messages } else { Table::Copies };
                match store.get(table, &layout::message_key(conversation, seq))? {
                    Some(sealed) => Some(entry_in(&sealed)),
                    None => self.hidden_entry(store, conversation, user, seq)?,
                }
            }
        };
        let Some(bytes) = bytes else {
            if let &Item::Message { conversation, seq, .. } = &item
                && seq < self.floor(number, store, conversation).seq
            {
                if let Err(what) = inbox.expired(conversation, seq) {
                    self.problem(Some(number), format!("entry {rev} of user {user} {what}"));
                }
                inbox.list(conversation, rev, &item, None);
                return Ok(());
            }
            self.problem(
                Some(number),
                format!("entry {rev} of user {user} names a message that is not there"),
            );
            return Ok(());
        };
        let Some(entry) = MessageEntry::decode(&bytes) else {
            self.problem(Some(number), format!("entry {rev} of user {user} is no entry"));
            return Ok(());
        };
        let is = Facts::of(&entry).item_for(user);
        if !matches!(item, Item::Whole(_)) && item != is {
            let what = format!("entry {rev} of user {user} is {item:?}, but the message says {is:?}");
            self.problem(Some(number), what);
        }
        if let Err(what) = inbox.message(&entry, &is) {
            self.problem(Some(number), format!("entry {rev} of user {user} {what}"));
        }
        let is_gone = matches!(item, Item::Whole(_))
            && !Facts::of(&entry).is_of_group()
            && entry.seq < self.floor(number, store, entry.conversation).seq;
        if !is_gone {
            self.kept[slice_of(user)].add(user, &entry, &bytes);
        }
        let event = chat::Body::decode(entry.body).ok().and_then(|body| body.kind);
        inbox.list(entry.conversation, rev, &is, event.as_ref());
        Ok(())
    }

    fn end_of_inbox(&mut self, number: u16, store: &impl Store, inbox: &Inbox) -> Result<(), StoreError> {
        let user = inbox.user;
        for (&conversation, place) in &inbox.places {
            if place.read > Seq(0) {
                self.marks_told[slice_of(user)].add_mark(user, conversation, place.read);
            }
        }
        if inbox.checkpoint > inbox.last {
            let (checkpoint, last) = (inbox.checkpoint, inbox.last);
            let what = format!("the list of user {user} goes up to rev {checkpoint}, the inbox up to {last}");
            self.problem(Some(number), what);
        }
        self.listings += inbox.listed.len() as u64 + u64::from(inbox.checkpoint > Rev(0));
        for (&conversation, listed) in &inbox.listed {
            let key = layout::listing_key(user, conversation);
            let kept = store.get(Table::Conversations, &key)?.map(|value| Listed::open(&key, &value));
            match kept.transpose() {
                Ok(kept) if kept.as_ref() == Some(listed) => {}
                Ok(kept) => {
                    let what =
                        format!("user {user} has {conversation} as {kept:?}, the inbox makes {listed:?}");
                    self.problem(Some(number), what);
                }
                Err(error) => self.problem(Some(number), error.to_string()),
            }
        }
        Ok(())
    }

    pub(super) fn seen(&mut self, number: u16, store: &impl Store) -> Result<(), StoreError> {
        in_bites(store, Table::Seen, 8, |key, value| {
            if key.len() != 8 {
                self.problem(Some(number), format!("seen has a key of {} bytes", key.len()));
            }
            if let Err(error) = layout::open_numbers::<1>(Table::Seen, key, value) {
                self.problem(Some(number), error.to_string());
            }
            Ok(())
        })
    }

    pub(super) fn cursors(&mut self, number: u16, store: &impl Store) -> Result<(), StoreError> {
        in_bites(store, Table::Cursors, 16, |key, value| {
            self.report.cursors += 1;
            match (split_pair(key), Kept::open(key, value)) {
                (Some((user, device)), Ok(Kept { cursor: Rev(rev), .. })) => {
                    let (user, device) = (UserId(user), DeviceId(device));
                    let (from, to) =
                        (layout::inbox_key(user, Rev(1)), layout::inbox_key(user, Rev(u64::MAX)));
                    let head = match store.last(Table::Inbox, &from, &to)? {
                        Some((key, _)) => layout::key_number(Table::Inbox, &key)?,
                        None => 0,
                    };
                    if rev > head {
                        let what =
                            format!("device {device} of user {user} has confirmed {rev}, the head is {head}");
                        self.problem(Some(number), what);
                    }
                }
                (_, Err(error)) => self.problem(Some(number), error.to_string()),
                (None, _) => self.problem(Some(number), format!("cursors has a key of {} bytes", key.len())),
            }
            Ok(())
        })
    }
}

/// Whether a user's part of a group's log begins (again) with this event.
fn begins_for(entry: &MessageEntry<'_>, user: UserId) -> bool {
    match chat::Body::decode(entry.body).ok().and_then(|body| body.kind) {
        Some(body::Kind::MembersAdded(added)) => added.users.contains(&user.0),
        _ => false,
    }
}

/// An inbox, as far as it has been read.
#[derive(Debug)]
struct Inbox {
    user: UserId,
    last: Rev,
    places: HashMap<ConversationId, Place>,
    /// Up to where the list of conversations is written down, and what it must be.
    checkpoint: Rev,
    listed: HashMap<ConversationId, Listed>,
}

/// Where a user is in a conversation.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    seq: Seq,
    read: Seq,
}

impl Inbox {
    fn new(user: UserId) -> Self {
        Self { user, last: Rev(0), places: HashMap::new(), checkpoint: Rev(0), listed: HashMap::new() }
    }

    /// The next entry is this message, which is this item; or what is wrong with that.
    fn message(&mut self, entry: &MessageEntry<'_>, is: &Item) -> Result<(), String> {
        let place = self.places.entry(entry.conversation).or_default();
        let before = std::mem::replace(&mut place.seq, entry.seq);
        if let Item::Message { traits, .. } = is
            && traits.has(Traits::GONE)
        {
            // Whoever goes leaves no mark.
            place.read = Seq(0);
        }
        // In a direct conversation there may be what only the other one sees; sums tell whether everything else is there.
        let may_skip = entry.conversation.users().is_some() || begins_for(entry, self.user);
        if entry.seq != before.next() && !(entry.seq > before && may_skip) {
            return Err(format!("is {} of {} after {before}", entry.seq, entry.conversation));
        }
        Ok(())
    }

    /// The next entry is a message that is gone.
    fn expired(&mut self, conversation: ConversationId, seq: Seq) -> Result<(), String> {
        let place = self.places.entry(conversation).or_default();
        let before = std::mem::replace(&mut place.seq, seq);
        if seq != before.next() && !(seq > before && conversation.users().is_some()) {
            return Err(format!("is {seq} of {conversation} after {before}, and gone"));
        }
        Ok(())
    }

    fn list(&mut self, conversation: ConversationId, rev: Rev, item: &Item, event: Option<&body::Kind>) {
        if rev <= self.checkpoint {
            self.listed.entry(conversation).or_default().apply(self.user, rev, item, event);
        }
    }

    /// The next entry is this mark.
    fn read(&mut self, mark: &OwnMark) -> Result<(), String> {
        let &OwnMark { conversation, up_to, .. } = mark;
        let place = self.places.entry(conversation).or_default();
        let before = std::mem::replace(&mut place.read, up_to);
        if up_to <= before || up_to > place.seq {
            let last = place.seq;
            return Err(format!(
                "is a mark at {up_to} of {conversation} after {before}, and {last} is the last"
            ));
        }
        Ok(())
    }
}
