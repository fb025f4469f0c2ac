//! The list of a user's conversations, and snapshots: the same list as it was at one `rev`, with what happened last.
//!
//! Nothing is written per entry for it. The list at a `rev` is what the table `conversations` has, which is the list at
//! the user's *checkpoint*, and what the inbox says from there on. Checkpoints are moved on in the background, so many
//! entries per turn, whenever so many have come; whoever asks before that waits for it.
//!
//! The one invariant: **a list is a function of durable inbox entries `1..=rev`**, wherever the checkpoint is, so it may
//! move at any time, but not beyond the `rev` of a snapshot that is under way: a snapshot is sent in parts, all of the
//! same `rev`, and `sync` goes on from there.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use holdfast_protocol::chat::{self, body};
use holdfast_protocol::id::{ConversationId, Rev, Seq, UserId};
use prost::Message as _;
use smallvec::SmallVec;

use super::hot_pages::Part;
use super::spent::LOOK_BYTES;
use super::{Effects, Health, Wanted, Worker};
use crate::command::{
    ConversationList, ConversationView, ConversationsRequest, Delivery, GroupRequest, GroupView, Refusal,
    SessionAddress,
};
use crate::engine::{Store, StoreError, Table, Visit};
use crate::entry::MessageEntry;
use crate::inbox::{Facts, Item, Traits};
use crate::layout;
use crate::listing::{CHECKPOINT, Listed, read_checkpoint};
use crate::planted;
use crate::sessions::Mode;

/// Entries of a conversation that a snapshot shows, and how many bytes they may have beyond the last one.
const SNAPSHOT_MESSAGES: u64 = 20;
const SNAPSHOT_MESSAGE_BYTES: usize = 16 * 1024;
/// Conversations of one part of a snapshot.
const SNAPSHOT_CONVERSATIONS: usize = 64;
/// What a conversation counts for in a part beside its title and its messages: as much as in JSON at the most, so that a
/// part fits wherever a page does.
const VIEW_BYTES: usize = 256;
/// For how long a snapshot that nobody fetches keeps the checkpoint where it is, and for how many times
/// `limits.fold_entries` new entries any does: a client that begins one after the other must not keep it for ever.
const SNAPSHOT_PATIENCE_MS: u64 = 60_000;
const SNAPSHOT_PATIENCE_FOLDS: u64 = 16;
/// Users whose lists are known to be damaged; beyond, all are forgotten, and found out again.
const UNFOLDABLE_REMEMBERED: usize = 4_096;
/// Entries that are read at a time.
const BITE: usize = 1_024;

type Changed = BTreeMap<ConversationId, Listed>;

/// What is asked for and under way.
#[derive(Debug, Default)]
pub(super) struct Lists {
    /// Users whose checkpoint is to be moved on.
    folding: VecDeque<UserId>,
    is_folding: HashSet<UserId>,
    /// Those for whom the present batch does so.
    staged: Vec<UserId>,
    snapshots: HashMap<UserId, SmallVec<[Progress; 1]>>,
    /// Users whose checkpoint could not be moved on. Whoever asks for their lists is not to wait for that.
    unfoldable: HashSet<UserId>,
}

/// A snapshot that is sent part by part.
#[derive(Debug, Clone, Copy)]
struct Progress {
    session: SessionAddress,
    rev: Rev,
    /// The last conversation that was sent.
    after: ConversationId,
    touched_ms: u64,
}

impl Lists {
    /// The user's checkpoint is to be moved on soon.
    pub(super) fn fold_soon(&mut self, user: UserId) {
        if self.is_folding.insert(user) {
            self.folding.push_back(user);
        }
    }

    pub(super) fn is_folding(&self) -> bool {
        !self.folding.is_empty()
    }

    pub(super) fn commit(&mut self) {
        self.staged.clear();
    }

    pub(super) fn abandon(&mut self) {
        for user in std::mem::take(&mut self.staged) {
            self.fold_soon(user);
        }
    }

    /// The session is gone.
    pub(super) fn forget(&mut self, user: UserId, session: SessionAddress) {
        if let Some(snapshots) = self.snapshots.get_mut(&user) {
            snapshots.retain(|it| it.session != session);
            if snapshots.is_empty() {
                self.snapshots.remove(&user);
            }
        }
    }

    /// True while somebody fetches a snapshot of this user's. One that nobody has gone on with for long holds nothing, and
    /// still goes on if the checkpoint has not passed it meanwhile: a second one of the same `rev` could not be told from
    /// it.
    fn is_held(&self, user: UserId, now_ms: u64) -> bool {
        let is_fetched = |it: &Progress| now_ms.saturating_sub(it.touched_ms) <= SNAPSHOT_PATIENCE_MS;
        self.snapshots.get(&user).is_some_and(|snapshots| snapshots.iter().any(is_fetched))
    }

    fn progress(&self, user: UserId, session: SessionAddress) -> Option<Progress> {
        self.snapshots.get(&user)?.iter().find(|it| it.session == session).copied()
    }
}

impl<S: Store> Worker<S> {
    /// Moves checkpoints on, as far as one turn may. The batch is empty yet, so what is there is durable.
    pub(super) fn fold_some(&mut self) {
        let mut budget = self.identity.limits.fold_entries;
        while budget > 0 && self.health == Health::Good {
            let Some(user) = self.lists.folding.pop_front() else { return };
            self.lists.is_folding.remove(&user);
            let folded = match self.is_held(user) {
                // The snapshot's end, or the next entries, remind of it.
                Ok(true) => Ok(0),
                Ok(false) => self.fold(user, budget),
                Err(error) => Err(error),
            };
            match folded {
                Ok(entries) => {
                    self.lists.unfoldable.remove(&user);
                    budget -= entries.min(budget);
                }
                Err(error) => {
                    // What it has read before it came to that is enough for a turn.
                    budget = 0;
                    self.cannot_fold(user, &error);
                }
            }
            if !self.lists.is_folding.contains(&user) {
                self.wishes.folded(user);
            }
        }
    }

    /// Something of one user's cannot be read: nobody else is to notice. The user's next entries are reason to try again.
    fn cannot_fold(&mut self, user: UserId, error: &StoreError) {
        self.counters.failed_folds.add(1);
        if self.lists.unfoldable.len() >= UNFOLDABLE_REMEMBERED {
            self.lists.unfoldable.clear();
        }
        if self.lists.unfoldable.insert(user) {
            let worker = self.identity.number;
            tracing::error!(worker, %user, %error, "the user's list of conversations cannot be made");
        }
    }

    /// Moves a user's checkpoint on by at most so many entries; by how many it was.
    fn fold(&mut self, user: UserId, most: u64) -> Result<u64, StoreError> {
        let (from, head) = (read_checkpoint(&self.store, user)?, self.head(user)?);
        let to = head.min(Rev(from.0 + most));
        if to <= from {
            return Ok(0);
        }
        for (conversation, listed) in self.replay(user, from, to)? {
            self.batch.put(Table::Conversations, layout::listing_key(user, conversation), listed.seal());
        }
        let checkpoint = layout::listing_key(user, CHECKPOINT);
        self.batch.put(Table::Conversations, checkpoint, layout::seal_numbers([to.0]));
        self.lists.staged.push(user);
        if head.0 - to.0 > self.identity.limits.fold_entries {
            self.lists.fold_soon(user);
        }
        Ok(to.0 - from.0)
    }

    /// What entries `from + 1..=to` make of the list, where they change it; `from` is the checkpoint.
    fn replay(&self, user: UserId, from: Rev, to: Rev) -> Result<Changed, StoreError> {
        let mut changed = Changed::new();
        let mut after = from;
        while after < to {
            for (rev, item) in self.read_items(user, after, to, BITE)? {
                after = rev;
                self.apply(user, rev, item, &mut changed)?;
            }
        }
        Ok(changed)
    }

    fn apply(&self, user: UserId, rev: Rev, item: Item, changed: &mut Changed) -> Result<(), StoreError> {
        let (item, event) = match item {
            Item::Whole(entry) => {
                let entry = MessageEntry::decode(&entry).ok_or_else(|| {
                    layout::corrupt(Table::Inbox, &layout::inbox_key(user, rev), "it is no entry")
                })?;
                let item = Facts::of(&entry).item_for(user);
                (item, chat::Body::decode(entry.body).ok().and_then(|body| body.kind))
            }
            Item::Message { conversation, seq, traits, .. } if traits.has(Traits::GROUP) => {
                let event = self.event(conversation, seq)?;
                (item, event)
            }
            item => (item, None),
        };
        let conversation = match &item {
            Item::Message { conversation, .. } => *conversation,
            Item::Read(mark) => mark.conversation,
            Item::Whole(_) => unreachable!("made an item of above"),
        };
        let listed = match changed.entry(conversation) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let key = layout::listing_key(user, conversation);
                let value = self.store.get(Table::Conversations, &key)?;
                self.spent.add(LOOK_BYTES + value.as_ref().map_or(0, Bytes::len));
                let listed = value.map_or(Ok(Listed::default()), |value| Listed::open(&key, &value))?;
                entry.insert(listed)
            }
        };
        listed.apply(user, rev, &item, event.as_ref());
        Ok(())
    }

    /// What an event of a conversation says.
    fn event(&self, conversation: ConversationId, seq: Seq) -> Result<Option<body::Kind>, StoreError> {
        let (table, key) = (self.table_of(conversation), layout::message_key(conversation, seq));
        let Some(sealed) = self.store.get(table, &key)? else { return Ok(None) };
        self.spent.add(LOOK_BYTES + sealed.len());
        let bytes = layout::open(table, &key, &sealed)?;
        let body = MessageEntry::decode(&bytes).and_then(|entry| chat::Body::decode(entry.body).ok());
        Ok(body.and_then(|body| body.kind))
    }

    /// Whether so few entries follow the user's checkpoint that they are looked at in one go. While nothing can be
    /// written, it stays where it is, and no entries are added. Where it cannot be moved on, whoever looks finds out why.
    pub(super) fn is_near(&mut self, user: UserId) -> Result<bool, StoreError> {
        Ok(self.health != Health::Good
            || self.lists.unfoldable.contains(&user)
            || self.behind(user)? <= 2 * self.identity.limits.fold_entries
            || self.is_held(user)?)
    }

    /// Entries that follow the user's checkpoint.
    fn behind(&mut self, user: UserId) -> Result<u64, StoreError> {
        Ok(self.head(user)?.0.saturating_sub(read_checkpoint(&self.store, user)?.0))
    }

    /// Whether the checkpoint stays where it is for the sake of a snapshot.
    fn is_held(&mut self, user: UserId) -> Result<bool, StoreError> {
        let most = SNAPSHOT_PATIENCE_FOLDS * self.identity.limits.fold_entries;
        Ok(self.lists.is_held(user, self.now_ms) && self.behind(user)? <= most)
    }

    pub(super) fn list(&mut self, request: &ConversationsRequest) -> Result<Delivery, StoreError> {
        let &ConversationsRequest { user, session, after, limit } = request;
        let rev = self.head(user)?;
        let changed = self.replay(user, read_checkpoint(&self.store, user)?, rev)?;
        let most = limit.max(1) as usize;
        let listed = self.listed_after(user, after, most + 1, &changed)?;
        let (conversations, end) = self.views(listed, most, |conversation, listed| {
            if listed.said > Seq(0) {
                self.shown(user, conversation, listed, None, (listed.said, listed.said))
            } else {
                Ok(Vec::new())
            }
        })?;
        Ok(Delivery::Conversations(Box::new(ConversationList { session, conversations, rev, end })))
    }

    /// At most so many of these conversations, as many as fit into a page and as a turn may read messages for; and
    /// whether these are all.
    fn views(
        &self,
        listed: Vec<(ConversationId, Listed)>,
        most: usize,
        shown: impl Fn(ConversationId, &Listed) -> Result<Vec<Bytes>, StoreError>,
    ) -> Result<(Vec<ConversationView>, bool), StoreError> {
        let limits = &self.identity.limits;
        let most_spent = self.spent.bytes().saturating_add(limits.turn_page_bytes);
        let mut views: Vec<ConversationView> = Vec::new();
        let mut bytes = 0;
        for (conversation, listed) in listed {
            if views.len() == most || (!views.is_empty() && self.spent.bytes() > most_spent) {
                return Ok((views, false));
            }
            let messages = shown(conversation, &listed)?;
            let more = VIEW_BYTES + listed.title.len() + messages.iter().map(Bytes::len).sum::<usize>();
            if !views.is_empty() && bytes + more > limits.page_bytes {
                return Ok((views, false));
            }
            bytes += more;
            views.push(view(conversation, listed, messages));
        }
        Ok((views, true))
    }

    /// The first conversations behind `after`, in the order of their ids.
    fn listed_after(
        &self,
        user: UserId,
        after: ConversationId,
        most: usize,
        changed: &Changed,
    ) -> Result<Vec<(ConversationId, Listed)>, StoreError> {
        let Some(first) = after.0.checked_add(1).map(ConversationId) else { return Ok(Vec::new()) };
        let mut found = Changed::new();
        let mut failed = None;
        let (from, to) =
            (layout::listing_key(user, first), layout::listing_key(user, ConversationId(u128::MAX)));
        self.spent.add(LOOK_BYTES);
        self.store.scan(Table::Conversations, &from, &to, &mut |key, value| {
            self.spent.add(value.len());
            let conversation = key.last_chunk::<16>().map(|id| ConversationId(u128::from_be_bytes(*id)));
            match (conversation, Listed::open(key, &value)) {
                (Some(conversation), Ok(listed)) => {
                    found.insert(conversation, listed);
                    if found.len() == most { Visit::Enough } else { Visit::More }
                }
                (_, read) => {
                    let short = layout::corrupt(Table::Conversations, key, "the key is too short");
                    failed = Some(read.err().unwrap_or(short));
                    Visit::Enough
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        found.extend(changed.range(first..).take(most).map(|(&id, listed)| (id, listed.clone())));
        Ok(found.into_iter().take(most).collect())
    }

    /// Entries `first..=last` of a conversation as they are now, as far as this user may know, and the last of them if
    /// they are too many bytes; `went`: with what event the user has gone since the list was made.
    fn shown(
        &self,
        user: UserId,
        conversation: ConversationId,
        listed: &Listed,
        went: Option<Seq>,
        (first, last): (Seq, Seq),
    ) -> Result<Vec<Bytes>, StoreError> {
        let first = first.max(self.floor(conversation)?.seq);
        if first > last {
            return Ok(Vec::new());
        }
        let known_changes = if listed.gone { listed.seq } else { went.unwrap_or(Seq(u64::MAX)) };
        let (part, table) = (Part { conversation, first, last, backward: true }, self.table_of(conversation));
        if self.is_split(table, conversation, user)? {
            let most = SNAPSHOT_MESSAGES as usize;
            return Ok(self.read_split(table, part, user, most, SNAPSHOT_MESSAGE_BYTES)?.0);
        }
        self.read_messages(table, part, known_changes, SNAPSHOT_MESSAGE_BYTES)
    }

    /// From which conversations entries `from + 1..=to` tell that the user has gone, and with what event for the first
    /// time. Whoever has come back since does not know what happened in between.
    fn gone_in(&self, user: UserId, from: Rev, to: Rev) -> Result<HashMap<ConversationId, Seq>, StoreError> {
        let mut gone = HashMap::new();
        let mut after = from;
        while after < to {
            for (rev, item) in self.read_items(user, after, to, BITE)? {
                after = rev;
                if let Item::Message { conversation, seq, traits, .. } = item
                    && traits.has(Traits::GONE)
                {
                    gone.entry(conversation).or_insert(seq);
                }
            }
        }
        Ok(gone)
    }

    /// Instead of a page: a part of a snapshot. `None`: not yet.
    pub(super) fn serve_snapshot(
        &mut self,
        session: SessionAddress,
        wanted: Wanted,
    ) -> Result<Option<Delivery>, Refusal> {
        let user = wanted.user;
        let checkpoint = read_checkpoint(&self.store, user).map_err(|error| self.unreadable(&error))?;
        let under_way = self.lists.progress(user, session);
        let head = self.head(user).map_err(|error| self.unreadable(&error))?;
        let progress = match under_way.filter(|it| wanted.goes_on && it.rev >= checkpoint) {
            Some(progress) => progress,
            None => {
                if !self.is_near(user).map_err(|error| self.unreadable(&error))? {
                    return Ok(None);
                }
                Progress { session, rev: head, after: CHECKPOINT, touched_ms: self.now_ms }
            }
        };
        let part = self.snapshot_part(user, checkpoint, head, progress);
        let (conversations, end) = part.map_err(|error| self.unreadable(&error))?;
        self.lists.forget(user, session);
        let rev = progress.rev;
        if end {
            if let Some(index) = self.sessions.find(user, session) {
                let record = self.sessions.at_mut(index);
                record.last = rev;
                record.mode = Mode::Paging;
            }
            self.lists.fold_soon(user);
        } else {
            let after = conversations.last().map_or(progress.after, |last| last.conversation);
            let progress = Progress { after, touched_ms: self.now_ms, ..progress };
            self.lists.snapshots.entry(user).or_default().push(progress);
        }
        let list = ConversationList { session, conversations, rev, end };
        Ok(Some(Delivery::Snapshot(Box::new(list))))
    }

    fn snapshot_part(
        &self,
        user: UserId,
        checkpoint: Rev,
        head: Rev,
        progress: Progress,
    ) -> Result<(Vec<ConversationView>, bool), StoreError> {
        // Entries are shown as they are now: that may be more than whoever was removed meanwhile has got.
        let gone = self.gone_in(user, progress.rev, head)?;
        let changed = self.replay(user, checkpoint, progress.rev)?;
        let mut listed = self.listed_after(user, progress.after, SNAPSHOT_CONVERSATIONS + 1, &changed)?;
        if planted::SNAPSHOT_CUT.is_planted() {
            listed.pop();
        }
        self.views(listed, SNAPSHOT_CONVERSATIONS, |conversation, listed| {
            let first = Seq(listed.seq.0.saturating_sub(SNAPSHOT_MESSAGES - 1)).max(listed.since);
            let went = gone.get(&conversation).copied();
            self.shown(user, conversation, listed, went, (first, listed.seq))
        })
    }

    pub(super) fn show_group(&mut self, request: &GroupRequest, effects: &mut impl Effects) {
        let session = request.session;
        let delivery = self.view_group(request).unwrap_or_else(|why| {
            self.counters.refused.add(1);
            Delivery::Rejected { session, client_id: None, why }
        });
        self.lanes.answer(session.shard, delivery, effects);
    }

    fn view_group(&mut self, request: &GroupRequest) -> Result<Delivery, Refusal> {
        let &GroupRequest { user, session, conversation } = request;
        if conversation.users().is_some() {
            return Err(Refusal::NotAllowed);
        }
        let group = self.group(conversation).map_err(|error| self.unreadable(&error))?;
        group.member(user).ok_or(Refusal::UnknownConversation)?;
        let seq = self.tip(conversation).map_err(|error| self.unreadable(&error))?.seq;
        let members = group.members().iter().map(|it| (it.user, it.role, it.joined)).collect();
        let (title, open_history) = (group.title().to_owned(), group.is_open_history());
        let retention_days = group.kept_days().unwrap_or_default();
        let view = GroupView { session, conversation, title, open_history, members, seq, retention_days };
        Ok(Delivery::Group(Box::new(view)))
    }
}

fn view(conversation: ConversationId, listed: Listed, messages: Vec<Bytes>) -> ConversationView {
    let unread = listed.unread();
    let Listed { rev, read, gone, role, title, .. } = listed;
    ConversationView { conversation, rev, unread, read, gone, role, title, messages }
}
