//! The log of intents: the source's side ([`Outgoing`], one per target) and the target's ([`Incoming`], one per source).
//! The protocol stands in the parent module's doc.

use std::collections::VecDeque;

use holdfast_protocol::id::{ConversationId, Rev, Seq, UserId};

use super::{Effects, Health, Worker};
use crate::blocks::{Hidden, hidden_key};
use crate::command::{Arrival, Command, FanOut, OwnMark, Users};
use crate::engine::{Batch, Store, StoreError, Table, Visit};
use crate::entry::MessageEntry;
use crate::inbox::{Facts, Item};
use crate::layout::{self, Intended, Intent, RING};
use crate::planted;

/// Positions that were made within this time need not be told apart.
const MADE_TOGETHER_MS: u64 = 60_000;

/// The log for one target.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// The target is this worker: nothing ever goes through the log.
    local: bool,
    /// The last durable position.
    head: u64,
    /// The last position that the target has confirmed. Not kept on disk: the target knows it, and greets with it.
    acked: u64,
    /// The last position that was handed to the target's queue.
    sent: u64,
    /// What `acked` must reach before sends are taken.
    replay: u64,
    greeted: bool,
    /// Positions of the `FanOut`s that are on their way.
    on_the_way: VecDeque<u64>,
    /// What the present batch adds.
    intents: Vec<Intent>,
    entries: Vec<(Users, Arrival)>,
    /// Positions that are not confirmed, each standing for those up to the next, and when they were made at the earliest.
    made: VecDeque<(u64, u64)>,
    /// Entries that need not be read back: those of the last batch, or those that were refused.
    at_hand: Option<Stretch>,
}

/// Positions of a log, one after the other.
#[derive(Debug)]
struct Stretch {
    /// The one before the first.
    previous: u64,
    /// The last one.
    position: u64,
    entries: Vec<(Users, Arrival)>,
}

impl Outgoing {
    pub(super) fn open(store: &impl Store, target: u16, local: bool) -> Result<Self, StoreError> {
        let mut out = Self {
            local,
            head: 0,
            acked: 0,
            sent: 0,
            replay: 0,
            greeted: local,
            on_the_way: VecDeque::new(),
            intents: Vec::new(),
            entries: Vec::new(),
            made: VecDeque::new(),
            at_hand: None,
        };
        out.head = read_log_head(store, target)?;
        out.replay = out.head;
        Ok(out)
    }

    /// The store was opened again: a refused batch may be in it.
    pub(super) fn reload(&mut self, store: &impl Store, target: u16) -> Result<(), StoreError> {
        if !self.local {
            let before = self.head;
            self.head = read_log_head(store, target)?;
            if self.head > before {
                // Nobody knows when.
                self.made.push_back((before + 1, 0));
            }
            self.at_hand = None;
        }
        Ok(())
    }

    pub(super) fn is_replayed(&self) -> bool {
        self.greeted && self.acked >= self.replay
    }

    /// No room for another position until the target confirms.
    pub(super) fn is_full(&self) -> bool {
        !self.local && (!self.greeted || self.head - self.acked >= RING)
    }

    /// Whether what the target has not confirmed was made since then.
    pub(super) fn is_younger(&self, since_ms: u64) -> bool {
        self.made.front().is_none_or(|&(_, made_ms)| made_ms >= since_ms)
    }

    /// Positions that the target has not confirmed.
    pub(super) fn backlog(&self) -> u64 {
        self.head - self.acked
    }

    /// Something could be sent and was not taken.
    pub(super) fn is_stalled(&self, window: u64) -> bool {
        self.greeted && self.sent < self.head && (self.on_the_way.len() as u64) < window
    }

    pub(super) fn intend(&mut self, intent: Intent, arrival: Arrival) {
        self.entries.push((intent.users.clone(), arrival));
        self.intents.push(intent);
    }

    pub(super) fn stage_into(&self, target: u16, batch: &mut Batch) {
        if !self.intents.is_empty() {
            let position = self.head + 1;
            let value = layout::seal_intents(position, &self.intents);
            batch.put(Table::FanOut, layout::fan_out_key(target, position), value);
        }
    }

    pub(super) fn commit(&mut self, now_ms: u64) {
        if !self.intents.is_empty() {
            self.intents.clear();
            if self.made.back().is_none_or(|&(_, made_ms)| now_ms.abs_diff(made_ms) >= MADE_TOGETHER_MS) {
                self.made.push_back((self.head + 1, now_ms));
            }
            let entries = std::mem::take(&mut self.entries);
            // What is at hand and still to be sent comes first.
            if self.at_hand.as_ref().is_none_or(|stretch| stretch.previous != self.sent) {
                self.at_hand = Some(Stretch { previous: self.head, position: self.head + 1, entries });
            }
            self.head += 1;
        }
    }

    pub(super) fn abandon(&mut self) {
        self.intents.clear();
        self.entries.clear();
    }

    /// What comes after `sent`.
    fn next_stretch(
        &mut self,
        store: &impl Store,
        target: u16,
        most_bytes: usize,
    ) -> Result<Stretch, StoreError> {
        if let Some(stretch) = self.at_hand.take()
            && stretch.previous == self.sent
        {
            return Ok(stretch);
        }
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut position = self.sent;
        while position < self.head && bytes < most_bytes {
            position += 1;
            for intent in read_intents(store, target, position)? {
                let arrival = match intent.what {
                    Intended::Message { conversation, seq } => {
                        let arrival = read_intended(store, conversation, seq, &intent.users)?;
                        if let Arrival::Message(message) | Arrival::Hidden(message) = &arrival {
                            bytes += message.len();
                        }
                        arrival
                    }
                    Intended::Blocks { conversation, blocks } => {
                        bytes += size_of::<Arrival>();
                        Arrival::Blocks { conversation, blocks }
                    }
                    Intended::BlockedBy { conversation, blocks } => {
                        bytes += size_of::<Arrival>();
                        Arrival::BlockedBy { conversation, blocks }
                    }
                    Intended::Read(mark) => {
                        bytes += size_of::<OwnMark>();
                        Arrival::Read(mark)
                    }
                    Intended::Floor { conversation, seq } => {
                        bytes += size_of::<Arrival>();
                        Arrival::Floor { conversation, seq }
                    }
                    Intended::Delivered { conversation, seq } => {
                        bytes += size_of::<Arrival>();
                        Arrival::Delivered { conversation, seq }
                    }
                };
                entries.push((intent.users, arrival));
            }
        }
        Ok(Stretch { previous: self.sent, position, entries })
    }
}

/// The last position in the log for a target.
fn read_log_head(store: &impl Store, target: u16) -> Result<u64, StoreError> {
    let mut head = 0;
    let mut failed = None;
    let (from, to) = (layout::fan_out_key(target, 0), layout::fan_out_key(target, RING - 1));
    store.scan(Table::FanOut, &from, &to, &mut |key, value| match layout::open_intents(key, &value) {
        Ok((position, _)) => {
            head = head.max(position);
            Visit::More
        }
        Err(error) => {
            failed = Some(error);
            Visit::Enough
        }
    })?;
    failed.map_or(Ok(head), Err)
}

/// What a position of the log for a target says.
fn read_intents(store: &impl Store, target: u16, position: u64) -> Result<Vec<Intent>, StoreError> {
    let key = layout::fan_out_key(target, position);
    let value = store.get(Table::FanOut, &key)?;
    let value =
        value.ok_or_else(|| layout::corrupt(Table::FanOut, &key, "a position is missing from the log"))?;
    match layout::open_intents(&key, &value)? {
        (found, intents) if found == position => Ok(intents),
        _ => Err(layout::corrupt(Table::FanOut, &key, "the slot holds another position")),
    }
}

/// The message that an intent names, as it is stored.
fn read_intended(
    store: &impl Store,
    conversation: ConversationId,
    seq: Seq,
    users: &[UserId],
) -> Result<Arrival, StoreError> {
    let key = layout::message_key(conversation, seq);
    if let Some(sealed) = store.get(Table::Messages, &key)? {
        layout::open(Table::Messages, &key, &sealed)?;
        return Ok(Arrival::Message(sealed));
    }
    // Then only the one whom it is for sees it.
    if let &[user] = users {
        let key = hidden_key(conversation, user, seq);
        if let Some(value) = store.get(Table::Hidden, &key)? {
            return Hidden::open(&key, &value).map(|hidden| Arrival::Hidden(hidden.entry));
        }
    }
    Err(layout::corrupt(Table::Messages, &key, "an intent names it, but it is not there"))
}

/// The planted bug: entries the wrong way round.
fn reordered(fan_out: &FanOut) -> Option<FanOut> {
    if fan_out.entries.len() < 2 || !planted::REORDERS_ENTRIES.strikes(100) {
        return None;
    }
    let &FanOut { source, position, previous, .. } = fan_out;
    Some(FanOut { source, position, previous, entries: fan_out.entries.iter().rev().cloned().collect() })
}

/// What is known of one source.
#[derive(Debug)]
pub(super) struct Incoming {
    local: bool,
    /// The last position that was applied, durably.
    applied: u64,
    /// The same with the present batch.
    applying: u64,
    /// It is to be told what was applied…
    owed: bool,
    /// …and to send everything after it once more.
    again: bool,
}

impl Incoming {
    pub(super) fn open(store: &impl Store, source: u16, local: bool) -> Result<Self, StoreError> {
        let mut incoming = Self { local, applied: 0, applying: 0, owed: false, again: false };
        incoming.reload(store, source)?;
        Ok(incoming)
    }

    /// Reads from the store what was applied, and greets the source with it.
    pub(super) fn reload(&mut self, store: &impl Store, source: u16) -> Result<(), StoreError> {
        if !self.local {
            self.applied = read_applied(store, source)?;
            if planted::REPLAYS_TWICE.is_planted() {
                self.applied = self.applied.saturating_sub(1);
            }
            self.applying = self.applied;
            self.owed = true;
            self.again = true;
        }
        Ok(())
    }

    pub(super) fn owes_word(&self) -> bool {
        self.owed
    }

    pub(super) fn stage_into(&self, source: u16, batch: &mut Batch) {
        if self.applying != self.applied {
            batch.put(Table::State, layout::applied_key(source), layout::seal_numbers([self.applying]));
        }
    }

    pub(super) fn commit(&mut self) {
        self.applied = self.applying;
    }

    pub(super) fn abandon(&mut self) {
        self.applying = self.applied;
        self.owed = false;
        self.again = false;
    }
}

/// The last position of a source's log that has been applied here.
pub(crate) fn read_applied(store: &impl Store, source: u16) -> Result<u64, StoreError> {
    let key = layout::applied_key(source);
    match store.get(Table::State, &key)? {
        None => Ok(0),
        Some(value) => layout::open_numbers(Table::State, &key, &value).map(|[applied]| applied),
    }
}

impl<S: Store> Worker<S> {
    /// Entries of another database's log for users of this one.
    pub(super) fn decide_fan_out(&mut self, fan_out: &FanOut) {
        if self.health != Health::Good {
            // Nothing can be applied. When that changes, the sources are greeted anew.
            return;
        }
        let reordered = reordered(fan_out);
        let fan_out = reordered.as_ref().unwrap_or(fan_out);
        let source = usize::from(fan_out.source);
        let Some(incoming) = self.incoming.get_mut(source) else { return };
        if fan_out.position <= incoming.applying {
            incoming.owed = true;
            return;
        }
        if fan_out.previous != incoming.applying {
            incoming.owed = true;
            incoming.again = true;
            return;
        }
        // All heads first: either the whole position is applied or nothing of it.
        let for_inboxes = |entry: &&(Users, Arrival)| {
            matches!(entry.1, Arrival::Message(_) | Arrival::Hidden(_) | Arrival::Read(_))
        };
        let users =
            || fan_out.entries.iter().filter(for_inboxes).flat_map(|(users, _)| users.iter().copied());
        let mut revs: Vec<Rev> = Vec::with_capacity(fan_out.entries.len());
        for user in users() {
            match self.head(user) {
                Ok(head) => {
                    self.revs.set(user, head.next().0);
                    revs.push(head.next());
                }
                Err(error) => {
                    // The last one first, so that a user's first one is what stays.
                    for (user, rev) in users().zip(revs).collect::<Vec<_>>().into_iter().rev() {
                        self.revs.set(user, rev.0 - 1);
                    }
                    return self.fail(&error);
                }
            }
        }
        let mut revs = revs.into_iter();
        for (users, arrival) in &fan_out.entries {
            if let Err(error) = self.arrive(users, revs.by_ref(), arrival) {
                // Half of it is in the batch.
                self.broken = Some(error);
                return;
            }
        }
        self.incoming[source].applying = fan_out.position;
        self.incoming[source].owed = true;
    }

    /// Something for these users, at these places of their inboxes.
    fn arrive(
        &mut self,
        users: &[UserId],
        revs: impl Iterator<Item = Rev>,
        arrival: &Arrival,
    ) -> Result<(), StoreError> {
        match arrival {
            Arrival::Message(sealed) => {
                let bytes = layout::entry_of(sealed);
                let Some(entry) = MessageEntry::decode(&bytes) else {
                    debug_assert!(
                        false,
                        "invariant: the source has made it, and checked it if it was on disk"
                    );
                    return Ok(());
                };
                let facts = Facts::of(&entry);
                let key = layout::message_key(facts.conversation, facts.seq);
                self.batch.put(Table::Copies, key, sealed.clone());
                if let Some(amended) = facts.amends {
                    let key = layout::message_key(facts.conversation, amended);
                    self.batch.put(Table::Amended, key, layout::seal_numbers([facts.seq.0]));
                }
                for (&user, rev) in users.iter().zip(revs) {
                    self.append(user, rev, &facts.item_for(user), bytes.clone());
                }
            }
            Arrival::Hidden(bytes) => {
                let Some(entry) = MessageEntry::decode(bytes) else {
                    debug_assert!(
                        false,
                        "invariant: the source has made it, and checked it if it was on disk"
                    );
                    return Ok(());
                };
                let facts = Facts::of(&entry);
                let changed = match facts.amends {
                    Some(seq) => self.hidden(facts.conversation, entry.sender, seq)?,
                    None => None,
                };
                self.keep_hidden(&facts, entry.sender, bytes.clone(), changed);
                for (&user, rev) in users.iter().zip(revs) {
                    self.append(user, rev, &facts.item_for(user), bytes.clone());
                }
            }
            &Arrival::Blocks { conversation, blocks } => {
                for &user in users {
                    self.set_blocks(conversation, user, blocks)?;
                }
            }
            &Arrival::BlockedBy { conversation, blocks } => {
                for &user in users {
                    self.set_blocked_by(conversation, user, blocks)?;
                }
            }
            &Arrival::Floor { conversation, seq } => self.floor_rises(conversation, seq)?,
            &Arrival::Delivered { conversation, seq } => {
                for &user in users {
                    self.delivered(user, conversation, seq);
                }
            }
            Arrival::Read(mark) => {
                let bytes = mark.entry();
                for (&user, rev) in users.iter().zip(revs) {
                    self.append(user, rev, &Item::Read(*mark), bytes.clone());
                }
            }
        }
        Ok(())
    }

    /// A target has made everything up to `position` durable.
    pub(super) fn confirmed(&mut self, target: u16, position: u64, again: bool) {
        let Some(out) = self.outgoing.get_mut(usize::from(target)) else { return };
        if position > out.head {
            let (worker, head) = (self.identity.number, out.head);
            let what = format!(
                "database {target} has applied position {position} of the log of database {worker}, which ends at {head}"
            );
            self.fail(&StoreError::Inconsistent { what });
            return;
        }
        out.acked = out.acked.max(position);
        while out.made.get(1).map_or(out.head, |&(next, _)| next - 1) <= out.acked && !out.made.is_empty() {
            out.made.pop_front();
        }
        if again && planted::INTENTS_FORGOTTEN.is_planted() {
            out.acked = out.head;
        }
        out.sent = if again { out.acked } else { out.sent.max(out.acked) };
        out.greeted = true;
        if again {
            out.on_the_way.clear();
        }
        while out.on_the_way.front().is_some_and(|&sent| sent <= out.acked) {
            out.on_the_way.pop_front();
        }
    }

    /// Hands what is in the logs to the targets, as far as their windows allow.
    pub(super) fn pump(&mut self, effects: &mut impl Effects) {
        let limits = &self.identity.limits;
        for target in 0..self.identity.workers {
            let out = &mut self.outgoing[usize::from(target)];
            while out.is_stalled(limits.fan_out_window) {
                let next = out.next_stretch(&self.store, target, limits.fan_out_bytes);
                let Stretch { previous, position, entries } = match next {
                    Ok(stretch) => stretch,
                    // The database may be closed until it opens again; what is in the log stays there.
                    Err(_) if self.health == Health::Full => break,
                    Err(error) => {
                        self.fail(&error);
                        return;
                    }
                };
                let fan_out = FanOut { source: self.identity.number, position, previous, entries };
                match effects.send(target, Command::FanOut(Box::new(fan_out))) {
                    Ok(()) => {
                        out.sent = position;
                        out.on_the_way.push_back(position);
                    }
                    Err(refused) => {
                        if let Command::FanOut(fan_out) = refused {
                            let FanOut { position, previous, entries, .. } = *fan_out;
                            out.at_hand = Some(Stretch { previous, position, entries });
                        }
                        break;
                    }
                }
            }
        }
        self.greet(effects);
    }

    /// Tells the sources what has been applied.
    pub(super) fn greet(&mut self, effects: &mut impl Effects) {
        for (source, incoming) in (0..).zip(&mut self.incoming) {
            if incoming.owed {
                let (position, again) = (incoming.applied, incoming.again);
                let word = Command::FannedOut { target: self.identity.number, position, again };
                if effects.send(source, word).is_ok() {
                    incoming.owed = false;
                    incoming.again = false;
                }
            }
        }
    }
}
