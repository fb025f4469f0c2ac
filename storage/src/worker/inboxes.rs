//! What goes into inboxes, and what comes out: one record per user and batch, and pages of whole entries.

use bytes::Bytes;
use hashbrown::HashMap;
use holdfast_protocol::id::{ConversationId, Rev, Seq, UserId};
use holdfast_router::Key as RouteKey;

use super::spent::ITEM_BYTES;
use super::{Pending, Worker};
use crate::blocks::Hidden;
use crate::engine::{Batch, Store, StoreError, Table, Visit};
use crate::entry::MessageEntry;
use crate::floor;
use crate::inbox::{Facts, Item, Pack, Record};
use crate::layout;

/// Entries of a page.
pub(super) type Entries = Vec<(Rev, Bytes)>;

/// Records that the present batch makes.
#[derive(Debug, Default)]
pub(super) struct Staged {
    /// In the order of their users' first entries, so that equal turns write equal batches.
    packs: Vec<Staging>,
    of: HashMap<UserId, usize>,
}

#[derive(Debug)]
struct Staging {
    user: UserId,
    /// The `rev` of its last item.
    last: Rev,
    pack: Pack,
}

impl Staged {
    fn push(&mut self, user: UserId, rev: Rev, item: &Item) {
        let Self { packs, of } = self;
        let fresh = |packs: &mut Vec<Staging>| {
            packs.push(Staging { user, last: rev, pack: Pack::new() });
            packs.len() - 1
        };
        let at = *of.entry(user).or_insert_with(|| fresh(packs));
        // The first entry of all stands alone: see `layout`.
        let at = if packs[at].pack.is_full() || packs[at].last == Rev(1) && rev > Rev(1) {
            let at = fresh(packs);
            of.insert(user, at);
            at
        } else {
            at
        };
        packs[at].pack.push(item);
        packs[at].last = rev;
    }

    pub(super) fn stage_into(&mut self, batch: &mut Batch) {
        self.of.clear();
        for Staging { user, last, pack } in self.packs.drain(..) {
            batch.put(Table::Inbox, layout::inbox_key(user, last), pack.seal());
        }
    }

    pub(super) fn abandon(&mut self) {
        self.of.clear();
        self.packs.clear();
    }
}

impl<S: Store> Worker<S> {
    /// Puts an entry into a user's inbox.
    pub(super) fn append(&mut self, user: UserId, rev: Rev, item: &Item, entry: Bytes) {
        self.staged.push(user, rev, item);
        self.revs.set(user, rev.0);
        self.entries += 1;
        if rev.0.is_multiple_of(self.identity.limits.fold_entries) {
            self.lists.fold_soon(user);
        }
        self.pending.push(Pending::Event { user, rev, entry });
    }

    /// Entries `after + 1..=head`, as far as they fit into a page.
    pub(super) fn read_page(
        &self,
        user: UserId,
        after: Rev,
        head: Rev,
        limit: u32,
    ) -> Result<Entries, StoreError> {
        let limits = &self.identity.limits;
        let most = if limit == 0 { limits.page_entries } else { limit.min(limits.page_entries) } as usize;
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (rev, item) in self.read_items(user, after, head, most)? {
            let entry = self.whole(user, rev, item)?;
            self.spent.add(entry.len());
            if !entries.is_empty() && bytes + entry.len() > limits.page_bytes {
                break;
            }
            bytes += entry.len();
            entries.push((rev, entry));
        }
        Ok(entries)
    }

    /// An item as an entry.
    fn whole(&self, user: UserId, rev: Rev, item: Item) -> Result<Bytes, StoreError> {
        match item {
            Item::Whole(entry) => {
                let Some(of) = MessageEntry::decode(&entry) else { return Ok(entry) };
                let (conversation, seq, ordinal) = (of.conversation, of.seq, of.ordinal());
                let is_gone = seq < self.floor(conversation)?.seq && !Facts::of(&of).is_of_group();
                Ok(if is_gone { floor::expired(conversation, seq, ordinal) } else { entry })
            }
            Item::Read(mark) => Ok(mark.entry()),
            Item::Message { conversation, seq, ordinal, .. } => {
                let table = self.table_of(conversation);
                let key = layout::message_key(conversation, seq);
                if let Some(sealed) = self.store.get(table, &key)? {
                    return layout::open(table, &key, &sealed);
                }
                match self.hidden(conversation, user, seq)? {
                    Some(Hidden { entry, .. }) if !entry.is_empty() => Ok(entry),
                    _ if seq < self.floor(conversation)?.seq => {
                        Ok(floor::expired(conversation, seq, ordinal))
                    }
                    _ => {
                        let inbox_key = layout::inbox_key(user, rev);
                        Err(layout::corrupt(
                            Table::Inbox,
                            &inbox_key,
                            "the message that it names is not there",
                        ))
                    }
                }
            }
        }
    }

    /// The first of the items `after + 1..=to` of an inbox that goes on to there at least: at most `most`, and at least
    /// one.
    pub(super) fn read_items(
        &self,
        user: UserId,
        after: Rev,
        to: Rev,
        most: usize,
    ) -> Result<Vec<(Rev, Item)>, StoreError> {
        let mut items: Vec<(Rev, Item)> = Vec::new();
        if after >= to {
            return Ok(items);
        }
        let most = most.clamp(1, usize::try_from(to.0 - after.0).unwrap_or(usize::MAX));
        // A record's key is the `rev` of its last item: the first key from here on is that of the record to begin with.
        let (from, end) = (layout::inbox_key(user, after.next()), layout::inbox_key(user, Rev(u64::MAX)));
        if most == 1
            && let Some(value) = self.store.get(Table::Inbox, &from)?
        {
            // It ends a record: no need to search.
            let record = Record::open(&from, &value)?;
            let skipped = usize::from(record.count) - 1;
            self.spent.add(ITEM_BYTES * (skipped + 1));
            return Ok(record.items(skipped, 1)?.into_iter().map(|item| (after.next(), item)).collect());
        }
        let mut failed = None;
        self.store.scan(Table::Inbox, &from, &end, &mut |key, value| {
            let read = Record::open(key, &value)
                .and_then(|record| Ok((layout::key_number(Table::Inbox, key)?, record)));
            let (last, record) = match read {
                Ok(read) => read,
                Err(error) => {
                    failed = Some(error);
                    return Visit::Enough;
                }
            };
            let next = after.0 + 1 + items.len() as u64;
            let first = (last + 1).checked_sub(record.count.into());
            let Some(first) = first.filter(|&first| first <= next) else {
                failed = Some(layout::corrupt(Table::Inbox, key, "an entry before it is missing"));
                return Visit::Enough;
            };
            let skipped = (next - first) as usize;
            match record.items(skipped, most - items.len()) {
                Ok(wanted) => {
                    self.spent.add(ITEM_BYTES * (skipped + wanted.len()));
                    items.extend((next..).map(Rev).zip(wanted));
                }
                Err(error) => {
                    failed = Some(error);
                    return Visit::Enough;
                }
            }
            if items.len() >= most { Visit::Enough } else { Visit::More }
        })?;
        match failed {
            Some(error) => Err(error),
            None if items.is_empty() => Err(layout::corrupt(Table::Inbox, &from, "the entry is missing")),
            None => Ok(items),
        }
    }

    /// Where this database has the messages of a conversation.
    pub(super) fn table_of(&self, conversation: ConversationId) -> Table {
        let owner = self.identity.assignment.owner(RouteKey::Conversation(conversation).slice());
        if owner.0 == self.identity.number { Table::Messages } else { Table::Copies }
    }
}

/// The end of a conversation's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tip {
    pub(super) seq: Seq,
    /// How many messages there are up to it.
    pub(super) ordinal: u64,
    /// One of the two has blocked the other one, perhaps not any more.
    pub(super) has_blocks: bool,
}
