//! Removes what has been kept for as long as it was to be: piece by piece, in the turns that others have too.
//!
//! Once in [`Limits::retention_pass_ms`] a *pass* looks at each conversation of the database: is its first event older
//! than the conversation keeps? Then its [`Floor`] rises over what is, and in the same batch all that stood there goes:
//! events, what changed them, their dedupe records once nobody may send them again. The log tells the databases that have
//! copies. A piece of a pass looks at so many conversations and removes so many events, and the next one comes
//! [`TICK_MS`] later, so that nobody's message waits for it.
//!
//! The one invariant is that of [`crate::floor`], for durable state: a piece that does not become durable has not
//! happened, and the next one begins where it began. Nothing is kept in memory of a pass but where it is.
//!
//! [`Limits::retention_pass_ms`]: crate::options::Limits::retention_pass_ms

use bytes::Bytes;
use hashbrown::HashMap;
use holdfast_protocol::id::{ConversationId, DeviceId, Seq, UserId};
use smallvec::SmallVec;

use super::{Health, Worker};
use crate::blocks::{Hidden, blocks_key, hidden_key};
use crate::command::{Arrival, Users};
use crate::engine::{Key, Store, StoreError, Table, Visit};
use crate::entry::MessageEntry;
use crate::floor::{Floor, floor_key};
use crate::group::Group;
use crate::inbox::Facts;
use crate::layout::{self, Intended, Intent};

/// Between two pieces of a pass.
const TICK_MS: u64 = 100;
/// Conversations that a piece looks at, and events that it reads to remove them.
const CONVERSATIONS_PER_PIECE: usize = 256;
const EVENTS_PER_PIECE: usize = 1_024;
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// What is younger than this is not removed: the shortest time that anything is kept for is a day.
const SURELY_KEPT_MS: u64 = DAY_MS / 2;

/// Where a worker is with it.
#[derive(Debug)]
pub(super) struct Retention {
    /// Some conversation has a floor.
    has_floors: bool,
    /// Some group has said for how long it keeps what is written in it.
    pub(super) has_groups: bool,
    /// Floors that the present batch raises, and how many events it removes.
    fresh: HashMap<ConversationId, Floor>,
    removed: u64,
    /// Where the pass goes on, and where the present batch's piece of it began.
    next: Option<Place>,
    before: Option<Option<Place>>,
    /// When the last pass began, and its last piece.
    began_ms: Option<u64>,
    piece_ms: u64,
}

/// Conversations are found by these tables, from this id on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Messages(ConversationId),
    /// Those in which perhaps everything that is left is hidden.
    Blocks(ConversationId),
    /// Those that may have a time of their own; where nothing else has one.
    Groups(ConversationId),
}

/// A record that is too old.
#[derive(Debug)]
struct Old {
    table: Table,
    key: Key,
    seq: Seq,
    /// Of an event; a record of `hidden` may as well say that one was changed.
    ordinal: Option<u64>,
    /// What has happened to the group does.
    stays: bool,
    dedupe: Option<Key>,
}

impl Retention {
    pub(super) fn open(store: &impl Store) -> Result<Self, StoreError> {
        let (from, to) = (floor_key(ConversationId(0)), floor_key(ConversationId(u128::MAX)));
        Ok(Self {
            has_floors: store.last(Table::Floors, &from, &to)?.is_some(),
            has_groups: store.get(Table::State, &layout::groups_keep_key())?.is_some(),
            fresh: HashMap::new(),
            removed: 0,
            next: None,
            before: None,
            began_ms: None,
            piece_ms: 0,
        })
    }

    /// The present batch is durable; how many events it has removed.
    pub(super) fn commit(&mut self) -> u64 {
        self.fresh.clear();
        self.before = None;
        std::mem::take(&mut self.removed)
    }

    pub(super) fn abandon(&mut self) {
        if let Some(before) = self.before {
            self.next = before;
        }
        self.commit();
    }

    /// In how many milliseconds the next piece is due.
    fn due_in_ms(&self, now_ms: u64, pass_ms: u64) -> u64 {
        // Should the clock have stepped back, it is due.
        let left = |since_ms: u64, every_ms: u64| {
            now_ms.checked_sub(since_ms).map_or(0, |waited_ms| every_ms.saturating_sub(waited_ms))
        };
        let pass = match (self.next, self.began_ms) {
            (None, Some(began_ms)) => left(began_ms, pass_ms),
            _ => 0,
        };
        // Also what could not be begun is not tried again at once.
        pass.max(left(self.piece_ms, TICK_MS))
    }
}

impl<S: Store> Worker<S> {
    /// In how many milliseconds something is to be removed, if anything ever is.
    pub(super) fn retention_due_in_ms(&self, now_ms: u64) -> Option<u64> {
        let limits = &self.identity.limits;
        let is_wanted = limits.retention_ms > 0 || self.retention.has_groups;
        // Before the logs of the last start are empty, they may name what would be removed.
        let may = is_wanted && self.health == Health::Good && self.is_replayed();
        may.then(|| self.retention.due_in_ms(now_ms, limits.retention_pass_ms))
    }

    /// From where on a conversation is there, the present batch included.
    pub(super) fn floor(&self, conversation: ConversationId) -> Result<Floor, StoreError> {
        if !self.retention.has_floors {
            return Ok(Floor::default());
        }
        if let Some(&floor) = self.retention.fresh.get(&conversation) {
            return Ok(floor);
        }
        read_floor(&self.store, conversation)
    }

    /// The next piece of a pass, when it is due. The batch is empty yet, so what is there is durable.
    pub(super) fn expire_some(&mut self) {
        if self.retention_due_in_ms(self.now_ms) != Some(0) {
            return;
        }
        self.retention.piece_ms = self.now_ms;
        // What a log names is not removed before it has arrived; nor is there anything to do where a log is full.
        let arrived_ms = self.now_ms.saturating_sub(SURELY_KEPT_MS);
        if self.outgoing.iter().any(|out| out.is_full() || !out.is_younger(arrived_ms)) {
            return;
        }
        if self.retention.next.is_none() {
            self.retention.began_ms = Some(self.now_ms);
            let first = ConversationId(0);
            let has_time = self.identity.limits.retention_ms > 0;
            self.retention.next = Some(if has_time { Place::Messages(first) } else { Place::Groups(first) });
        }
        self.retention.before = Some(self.retention.next);
        let (mut conversations, mut events) = (CONVERSATIONS_PER_PIECE, EVENTS_PER_PIECE);
        while conversations > 0
            && events > 0
            && let Some(place) = self.retention.next
        {
            conversations -= 1;
            let found = match self.conversation_at(place) {
                Ok(found) => found,
                Err(error) => {
                    // The rest of the table waits for the next pass.
                    self.unreadable(&error);
                    None
                }
            };
            let Some(conversation) = found else {
                self.retention.next = place.next_table();
                continue;
            };
            let is_done = self.expire(conversation, &mut events).unwrap_or_else(|error| {
                // Of this conversation nothing goes; others are not to wait for it.
                self.unreadable(&error);
                true
            });
            self.retention.next =
                if is_done { place.behind(conversation) } else { Some(place.at(conversation)) };
        }
    }

    /// The first conversation of this place.
    fn conversation_at(&self, place: Place) -> Result<Option<ConversationId>, StoreError> {
        let (table, first) = match place {
            Place::Messages(first) => (Table::Messages, first),
            Place::Blocks(first) => (Table::Blocks, first),
            Place::Groups(first) => (Table::Groups, first),
        };
        // Longer than any key of these tables, and the first one is shorter than any behind it.
        let last = [0xff; 25];
        let mut found = None;
        self.store.scan(table, &first.0.to_be_bytes(), &last, &mut |key, _| {
            found = key.first_chunk::<16>().map(|id| ConversationId(u128::from_be_bytes(*id)));
            Visit::Enough
        })?;
        Ok(found)
    }

    /// For how long a conversation keeps what is written in it.
    fn kept_ms(&self, conversation: ConversationId) -> Result<Option<u64>, StoreError> {
        let all = Some(self.identity.limits.retention_ms).filter(|&all| all > 0);
        let of_group = match conversation.users() {
            None if self.retention.has_groups => {
                // Not through the cache of groups: those that are in it are in use.
                let key = layout::group_key(conversation);
                let group = self.store.get(Table::Groups, &key)?;
                let group = group.map(|value| Group::open(&key, &value)).transpose()?;
                group.and_then(|group| group.kept_days())
            }
            _ => None,
        };
        let of_group = of_group.map(|days| u64::from(days) * DAY_MS);
        Ok([all, of_group].into_iter().flatten().min())
    }

    /// Raises a conversation's floor over what is too old, as far as a piece goes; false: there is more.
    fn expire(&mut self, conversation: ConversationId, events: &mut usize) -> Result<bool, StoreError> {
        let Some(kept_ms) = self.kept_ms(conversation)? else { return Ok(true) };
        let oldest_ms = self.now_ms.saturating_sub(kept_ms);
        let before = self.floor(conversation)?;
        let mut old = Vec::new();
        let key = |seq| layout::message_key(conversation, seq);
        let mut end = self.too_old(Table::Messages, &key, before.seq, oldest_ms, &mut old)?;
        if end.begins == Some(before.seq) {
            return Ok(true);
        }
        if conversation.users().is_some()
            && self.store.get(Table::Blocks, &blocks_key(conversation))?.is_some()
        {
            for user in users_of(conversation) {
                let key = |seq| hidden_key(conversation, user, seq);
                end = end.or(self.too_old(Table::Hidden, &key, before.seq, oldest_ms, &mut old)?);
            }
        }
        *events = events.saturating_sub(old.len());
        if old.is_empty() {
            return Ok(true);
        }
        let seq = end.begins.unwrap_or(Seq(u64::MAX)).min(self.tip(conversation)?.seq.next());
        if seq <= before.seq {
            return Ok(true);
        }
        old.retain(|record| record.seq < seq);
        let last = old.iter().filter(|record| record.ordinal.is_some()).max_by_key(|record| record.seq);
        let ordinal = last.and_then(|last| last.ordinal).unwrap_or(before.ordinal);
        // The last thing that may fail: from here on all of it is in the batch, or nothing.
        self.raise_floor(conversation, before, Floor { seq, ordinal })?;
        self.remove(old);
        self.tell_floor(conversation, seq);
        Ok(!end.is_cut)
    }

    /// Collects what is too old in one table, as much as one piece removes.
    fn too_old(
        &self,
        table: Table,
        key: &dyn Fn(Seq) -> Key,
        first: Seq,
        oldest_ms: u64,
        old: &mut Vec<Old>,
    ) -> Result<End, StoreError> {
        let mut end = End::default();
        let mut failed = None;
        let most = old.len() + EVENTS_PER_PIECE;
        self.store.scan(table, &key(first), &key(Seq(u64::MAX)), &mut |key, value| match self
            .old_record(table, key, &value, oldest_ms)
        {
            Ok((_, Some(record))) if old.len() < most => {
                old.push(record);
                Visit::More
            }
            Ok((seq, record)) => {
                end = End { begins: Some(seq), is_cut: record.is_some() };
                Visit::Enough
            }
            Err(error) => {
                failed = Some(error);
                Visit::Enough
            }
        })?;
        failed.map_or(Ok(end), Err)
    }

    /// What a record is about, and what it is if it is too old.
    fn old_record(
        &self,
        table: Table,
        key: &[u8],
        value: &Bytes,
        oldest_ms: u64,
    ) -> Result<(Seq, Option<Old>), StoreError> {
        let seq = Seq(layout::key_number(table, key)?);
        let bytes = match table {
            Table::Hidden => Hidden::open(key, value)?.entry,
            _ => layout::open(table, key, value)?,
        };
        let mut old =
            Old { table, key: Key::from_slice(key), seq, ordinal: None, stays: false, dedupe: None };
        if bytes.is_empty() {
            // A change of a message that both see goes when that does.
            return Ok((seq, Some(old)));
        }
        let entry =
            MessageEntry::decode(&bytes).ok_or_else(|| layout::corrupt(table, key, "it is no entry"))?;
        let since_ms = entry.message_id.timestamp_ms();
        if since_ms >= oldest_ms {
            return Ok((seq, None));
        }
        old.ordinal = Some(entry.ordinal());
        old.stays = Facts::of(&entry).is_of_group();
        let may_come_again = self.now_ms.saturating_sub(since_ms) <= self.identity.limits.client_id_ms;
        if !old.stays && !may_come_again {
            old.dedupe = Some(dedupe_key(&entry));
        }
        Ok((seq, Some(old)))
    }

    fn remove(&mut self, old: Vec<Old>) {
        for record in old.into_iter().filter(|record| !record.stays) {
            self.retention.removed += u64::from(record.ordinal.is_some());
            self.batch.remove(record.table, record.key);
            if let Some(dedupe) = record.dedupe {
                self.batch.remove(Table::Dedupe, dedupe);
            }
        }
    }

    /// Writes a floor down, and removes what is kept of changes of what is before it.
    fn raise_floor(
        &mut self,
        conversation: ConversationId,
        before: Floor,
        floor: Floor,
    ) -> Result<(), StoreError> {
        let (from, to) = (
            layout::message_key(conversation, before.seq),
            layout::message_key(conversation, floor.last_gone()),
        );
        let mut amended = Vec::new();
        self.store.scan(Table::Amended, &from, &to, &mut |key, _| {
            amended.push(Key::from_slice(key));
            Visit::More
        })?;
        for key in amended {
            self.batch.remove(Table::Amended, key);
        }
        self.batch.put(Table::Floors, floor_key(conversation), floor.seal());
        self.retention.fresh.insert(conversation, floor);
        self.retention.has_floors = true;
        Ok(())
    }

    /// Tells the databases that may have copies.
    fn tell_floor(&mut self, conversation: ConversationId, seq: Seq) {
        let targets: SmallVec<[u16; 2]> = match conversation.users() {
            Some((low, high)) => {
                let mut owners = SmallVec::from([self.owner_of(low), self.owner_of(high)]);
                owners.dedup();
                owners
            }
            // Whoever has left it has the copies still.
            None => (0..self.identity.workers).collect(),
        };
        for target in targets.into_iter().filter(|&target| target != self.identity.number) {
            let intent = Intent { what: Intended::Floor { conversation, seq }, users: Users::new() };
            self.outgoing[usize::from(target)].intend(intent, Arrival::Floor { conversation, seq });
        }
    }

    /// A conversation of another database begins here now: copies of what is before it go.
    pub(super) fn floor_rises(&mut self, conversation: ConversationId, seq: Seq) -> Result<(), StoreError> {
        let before = self.floor(conversation)?;
        if seq <= before.seq {
            return Ok(());
        }
        let floor = Floor { seq, ordinal: 0 };
        let range = |table, key: &dyn Fn(Seq) -> Key| (table, key(before.seq), key(floor.last_gone()));
        let mut ranges: SmallVec<[(Table, Key, Key); 3]> = SmallVec::new();
        ranges.push(range(Table::Copies, &|seq| layout::message_key(conversation, seq)));
        for user in users_of(conversation) {
            ranges.push(range(Table::Hidden, &|seq| hidden_key(conversation, user, seq)));
        }
        let mut gone: Vec<(Table, Key)> = Vec::new();
        for (table, from, to) in &ranges {
            let mut failed = None;
            self.store.scan(*table, from, to, &mut |key, value| match stays(*table, key, &value) {
                Ok(true) => Visit::More,
                Ok(false) => {
                    gone.push((*table, Key::from_slice(key)));
                    Visit::More
                }
                Err(error) => {
                    failed = Some(error);
                    Visit::Enough
                }
            })?;
            if let Some(error) = failed {
                return Err(error);
            }
        }
        for (table, key) in gone {
            self.batch.remove(table, key);
        }
        self.raise_floor(conversation, before, floor)
    }
}

/// Whether a copy stays when the conversation's floor rises over it.
fn stays(table: Table, key: &[u8], value: &Bytes) -> Result<bool, StoreError> {
    if table != Table::Copies {
        return Ok(false);
    }
    let bytes = layout::open(table, key, value)?;
    Ok(MessageEntry::decode(&bytes).is_some_and(|entry| Facts::of(&entry).is_of_group()))
}

/// Where what is too old ends.
#[derive(Debug, Clone, Copy, Default)]
struct End {
    /// The first record that is left, if there is one.
    begins: Option<Seq>,
    /// It is too old as well, but one too many.
    is_cut: bool,
}

impl End {
    fn or(self, other: Self) -> Self {
        Self {
            begins: [self.begins, other.begins].into_iter().flatten().min(),
            is_cut: self.is_cut || other.is_cut,
        }
    }
}

impl Place {
    fn at(self, conversation: ConversationId) -> Self {
        match self {
            Self::Messages(_) => Self::Messages(conversation),
            Self::Blocks(_) => Self::Blocks(conversation),
            Self::Groups(_) => Self::Groups(conversation),
        }
    }

    /// Where it goes on behind a conversation.
    fn behind(self, conversation: ConversationId) -> Option<Self> {
        match conversation.0.checked_add(1) {
            Some(next) => Some(self.at(ConversationId(next))),
            None => self.next_table(),
        }
    }

    fn next_table(self) -> Option<Self> {
        match self {
            Self::Messages(_) => Some(Self::Blocks(ConversationId(0))),
            Self::Blocks(_) | Self::Groups(_) => None,
        }
    }
}

/// The two of a direct conversation.
fn users_of(conversation: ConversationId) -> SmallVec<[UserId; 2]> {
    conversation.users().into_iter().flat_map(|(low, high)| [low, high]).collect()
}

/// A conversation's floor.
pub(crate) fn read_floor(store: &impl Store, conversation: ConversationId) -> Result<Floor, StoreError> {
    let key = floor_key(conversation);
    store.get(Table::Floors, &key)?.map_or(Ok(Floor::default()), |value| Floor::open(&key, &value))
}

/// Under which key it is known that an event is there.
pub(crate) fn dedupe_key(entry: &MessageEntry<'_>) -> Key {
    let device = DeviceId::from_name(&String::from_utf8_lossy(entry.device));
    let fingerprint = layout::fingerprint(entry.conversation, entry.sender, device, entry.client_id);
    layout::dedupe_key(&fingerprint)
}
