//! The state machine of one worker: it owns one database, and with it the conversations and users of its slices.
//!
//! Commands and the time go in; writes, and after them effects, come out. No thread, no clock, no queue is in here, so
//! the simulation runs it as it is. [`Worker::handle_batch`] is one turn:
//!
//! ```text
//! 1. retry     what waited: answers for full lanes, gap notices, a full disk, sessions in doubt
//! 2. decide    each command in order: sends, entries from other databases; everything else waits for step 4
//! 3. commit    one batch, one fsync
//! 4. release   in the order of the commands: answers, events, registrations; then pages, lists, histories; then who is there
//! 5. pump      intents to the other workers, as far as their windows allow
//! ```
//!
//! The one invariant: **nothing that carries a `seq` or `rev` of a batch leaves before step 3 has said that the batch is
//! durable.** When it says otherwise, everything that the batch put into memory is forgotten, the same commands are
//! decided once more with writing refused, and the sessions that were live are looked at again, because the batch may
//! still turn up on disk.
//!
//! # Fan-out between databases
//!
//! A conversation's database often is not its members' database. Members of the same database get their entries in the
//! batch of the message. For the others the batch holds one *intent record* per target database, at the next position
//! of the source's log for that target; both are durable together. From then on the record is what counts:
//!
//! ```text
//! source                                   target
//!   log[target]: 1 2 3 4 5 6                 applied[source] = 3
//!                      ▲   ▲                   FanOut{previous: 3, position: 5, entries of 4 and 5}
//!                  acked   sent              makes the entries *and* sets applied[source] = 5 in one batch
//!                                              FannedOut{position: 5}
//! ```
//!
//! - The target applies a `FanOut` only if its `previous` is exactly what it has applied. Older: already there, it only
//!   confirms. Newer: there is a hole, it says `FannedOut{again}` and the source goes back to what was confirmed.
//!   Entries and `applied` are durable together, so no crash, no repetition and no loss on the way gives an entry twice
//!   or not at all, and entries of one conversation keep their order.
//! - At most `fan_out_window` unconfirmed `FanOut`s are on their way from one source to one target, so the queues between
//!   workers are bounded by construction and are never full; what does not fit into the window, or was refused
//!   nevertheless, stays in the log and is read back from there. Nobody waits.
//! - The log is a ring of 4,096 positions per target. When it is full, sends are refused with `StorageFull`.
//! - Start: a target greets each source with `FannedOut{again}`, and a source sends nothing before it was greeted. Sends
//!   are taken when every position that was in the log at the start is confirmed.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use holdfast_protocol::id::{self, ConversationId, DeviceId, MessageId, Rev, Seq, Snowflake, UserId};
use holdfast_router::{Assignment, Envelope, Key as RouteKey, WorkerId};

use crate::blocks::{Blocks, blocks_key};
use crate::command::{
    ChangePeople, ClientId, Command, ConversationsRequest, Delivery, DevicesRequest, GroupRequest,
    HistoryRequest, Notice, PeopleRequest, ReceiptsRequest, Refusal, Register, SessionAddress,
};
use crate::device::Names;
use crate::engine::{Batch, Key, Store, StoreError, Table};
use crate::entry::MessageEntry;
use crate::heads::Heads;
use crate::layout::{self, Fingerprint, Known};
use crate::options::Limits;
use crate::planted;
use crate::sessions::Sessions;
use crate::stats::Counters;

mod blocks;
mod conversations;
mod cursors;
mod delivered;
mod devices;
mod fan_out;
mod groups;
mod history;
mod hot_pages;
mod inboxes;
mod lanes;
mod last_seen;
mod notes;
mod people;
mod presence;
mod receipts;
mod retention;
mod send;
mod spent;
#[cfg(test)]
pub(crate) mod tests;
mod users;
mod wishes;

use conversations::Lists;
use cursors::{CURSORS_PER_TURN, Cursors};
use delivered::Untold;
pub(crate) use fan_out::read_applied;
use fan_out::{Incoming, Outgoing};
use groups::Groups;
pub(crate) use history::open_amended;
use hot_pages::HotPages;
use inboxes::{Staged, Tip};
use lanes::Lanes;
use last_seen::LastSeen;
use presence::Changes;
use receipts::FreshMarks;
pub(crate) use receipts::{open_mark, receipt_keys};
use retention::Retention;
pub(crate) use retention::{dedupe_key, read_floor};
use spent::Spent;
use wishes::{Wish, Wishes};

/// What a turn does to the world; it is called only after the turn's batch is durable.
pub trait Effects {
    /// Puts a delivery into the lane of a shard.
    ///
    /// # Errors
    /// Gives it back when the lane is full.
    fn deliver(&mut self, shard: u16, delivery: Delivery) -> Result<(), Delivery>;

    /// Puts something into the lane of a shard that may as well be lost: where lanes can be full, only while half of
    /// it is free. False when it was lost.
    fn offer(&mut self, shard: u16, delivery: Delivery) -> bool {
        self.deliver(shard, delivery).is_ok()
    }

    /// Wakes the shards that something was delivered to.
    fn flush(&mut self);

    /// Sends a command to another worker.
    ///
    /// # Errors
    /// Gives it back when its queue is full, or it has stopped.
    fn send(&mut self, worker: u16, command: Command) -> Result<(), Command>;

    /// Sends a command that may as well be lost: where queues can be full, only while half of it is free.
    fn suggest(&mut self, worker: u16, command: Command) {
        let _ = self.send(worker, command);
    }
}

/// Which worker this is, and under which rules it works.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its number: that of its database.
    pub number: u16,
    /// Which worker owns which slice; workers `0..workers`.
    pub assignment: Arc<Assignment>,
    /// How many workers there are.
    pub workers: u16,
    /// Its limits.
    pub limits: Limits,
}

/// Whether a worker takes writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Good,
    /// The disk is full; it tries again.
    Full,
    /// A durable write failed, or the databases contradict each other. It takes no more writes.
    Failed,
}

/// The state machine of one worker.
#[derive(Debug)]
pub struct Worker<S> {
    identity: Identity,
    store: S,
    counters: Arc<Counters>,
    health: Health,
    now_ms: u64,
    /// When the full disk, or full lanes, were tried last.
    retried_ms: u64,

    ids: Snowflake,
    /// The last id that was given out, in this batch included.
    last_id: Option<MessageId>,
    tips: Heads<ConversationId, Tip>,
    revs: Heads<UserId, u64>,
    groups: Groups,
    hot_pages: HotPages,
    /// Messages of the present batch.
    fresh: HashMap<Fingerprint, Known>,
    fresh_marks: FreshMarks,

    batch: Batch,
    /// Something could be read only in part while the present batch was made: it must not become durable.
    broken: Option<StoreError>,
    /// Inbox records that the present batch is going to have.
    staged: Staged,
    pending: Vec<Pending>,
    messages: u64,
    entries: u64,

    outgoing: Vec<Outgoing>,
    incoming: Vec<Incoming>,

    sessions: Sessions,
    cursors: Cursors,
    undelivered: Untold,
    retention: Retention,
    names: Names,
    last_seen: LastSeen,
    changes: Changes,
    lists: Lists,
    lanes: Lanes,
    /// Sessions that missed entries and have not been told.
    untold: VecDeque<(UserId, SessionAddress)>,
    /// Records of `sessions` that are still to be looked at after a failed batch: `0..in_doubt`.
    in_doubt: u32,
    wishes: Wishes,
    /// What the present turn has read for sessions.
    spent: Spent,
    /// What the present turn tells the users of other workers, by worker.
    notes: Vec<Vec<Notice>>,
}

/// A page that a session asked for.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    user: UserId,
    after: Rev,
    limit: u32,
    every_entry: bool,
    goes_on: bool,
}

/// What happens once the batch is durable, in the order of the commands.
#[derive(Debug)]
enum Pending {
    Answer(SessionAddress, Delivery),
    Event {
        user: UserId,
        rev: Rev,
        entry: Bytes,
    },
    Register(Register),
    Unregister {
        user: UserId,
        session: SessionAddress,
    },
    Sync {
        session: SessionAddress,
        wanted: Wanted,
    },
    History(HistoryRequest),
    Ack {
        user: UserId,
        device: DeviceId,
        session: SessionAddress,
        rev: Rev,
    },
    Receipts(ReceiptsRequest),
    Conversations(ConversationsRequest),
    Group(GroupRequest),
    Watch {
        user: UserId,
        shard: u16,
    },
    Away {
        user: UserId,
        session: SessionAddress,
        away: bool,
    },
    Notice(Notice),
    Devices(DevicesRequest),
    Revoked {
        device: DeviceId,
        request: DevicesRequest,
    },
    People(PeopleRequest),
    /// What others are to the user, or who may see the user, has changed, as this session asked; of one other, if it is
    /// about one.
    PeopleChanged {
        user: UserId,
        session: SessionAddress,
        other: Option<UserId>,
    },
    /// Who may see the user has changed, and the user is not to know.
    HiddenFrom(UserId),
    MayWatch {
        user: UserId,
        watcher: UserId,
        session: SessionAddress,
    },
}

impl<S: Store> Worker<S> {
    /// Reads what the worker must know from its database.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn open(identity: Identity, store: S) -> Result<Self, StoreError> {
        Self::open_counted(identity, store, Arc::default())
    }

    pub(crate) fn open_counted(
        identity: Identity,
        store: S,
        counters: Arc<Counters>,
    ) -> Result<Self, StoreError> {
        let key = layout::last_id_key();
        let last_id = match store.get(Table::State, &key)? {
            None => None,
            Some(value) => {
                let [id] = layout::open_numbers(Table::State, &key, &value)?;
                Some(MessageId(id))
            }
        };
        let number = id::WorkerId::new(identity.number)
            .expect("invariant: options allow at most 64 databases, ids have room for 1,024 workers");
        let mut outgoing = Vec::new();
        let mut incoming = Vec::new();
        for other in 0..identity.workers {
            outgoing.push(Outgoing::open(&store, other, other == identity.number)?);
            incoming.push(Incoming::open(&store, other, other == identity.number)?);
        }
        let retention = Retention::open(&store)?;
        let heads = identity.limits.cached_heads;
        let workers = identity.workers;
        Ok(Self {
            identity,
            store,
            counters,
            health: Health::Good,
            now_ms: 0,
            retried_ms: 0,
            ids: Snowflake::new(number, last_id),
            last_id,
            tips: Heads::new(heads),
            revs: Heads::new(heads),
            groups: Groups::default(),
            hot_pages: HotPages::default(),
            fresh: HashMap::new(),
            fresh_marks: FreshMarks::new(),
            batch: Batch::default(),
            broken: None,
            staged: Staged::default(),
            pending: Vec::new(),
            messages: 0,
            entries: 0,
            outgoing,
            incoming,
            sessions: Sessions::default(),
            cursors: Cursors::default(),
            undelivered: Untold::default(),
            retention,
            names: Names::default(),
            last_seen: LastSeen::default(),
            changes: Changes::default(),
            lists: Lists::default(),
            lanes: Lanes::default(),
            untold: VecDeque::new(),
            in_doubt: 0,
            wishes: Wishes::default(),
            spent: Spent::default(),
            notes: vec![Vec::new(); usize::from(workers)],
        })
    }

    /// One turn: see the module's doc. Empties `commands`. `now_ms`: the wall clock, which may step.
    pub fn handle_batch(
        &mut self,
        now_ms: u64,
        commands: &mut Vec<Envelope<Command>>,
        effects: &mut impl Effects,
    ) {
        self.now_ms = now_ms;
        if self.counters.turns.add(1).is_multiple_of(64) {
            self.counters.engine_bytes.set(self.store.memory_bytes());
        }
        self.counters.commands.add(commands.len() as u64);
        self.retry(effects);
        self.fold_some();
        self.expire_some();
        self.decide_all(commands);
        match self.commit() {
            Ok(()) => {}
            Err(StoreError::Crashed) => return,
            Err(error) => {
                self.abandon(&error);
                self.decide_all(commands);
            }
        }
        commands.clear();
        self.release(effects);
        self.pump(effects);
        effects.flush();
        self.publish();
    }

    /// Makes what is only in memory durable; the last thing before a worker stops.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(&mut self, now_ms: u64) -> Result<(), StoreError> {
        self.now_ms = now_ms;
        if self.health != Health::Good {
            // Nothing was promised that is not durable already.
            return Ok(());
        }
        let (store, batch, devices) = (&self.store, &mut self.batch, self.identity.limits.devices);
        self.cursors.flush(usize::MAX, store, devices, batch, now_ms, &mut self.undelivered)?;
        self.last_seen.flush(&mut self.batch);
        self.commit()
    }

    /// True when every intent that was in the log at the start has been applied: sends may be taken.
    #[must_use]
    pub fn is_replayed(&self) -> bool {
        self.outgoing.iter().all(Outgoing::is_replayed)
    }

    /// Whether it takes writes.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health
    }

    /// True when the next turn has something to do even without commands.
    #[must_use]
    pub fn has_work(&self) -> bool {
        (self.in_doubt > 0 && self.health != Health::Full)
            || (self.lists.is_folding() && self.health == Health::Good)
            || (self.undelivered.goes_on() && self.health == Health::Good)
            || self.wishes.shards().any(|shard| !self.lanes.is_full(shard))
    }

    /// In how many milliseconds the next turn is due, should no command come before.
    #[must_use]
    pub fn due_in_ms(&self, now_ms: u64) -> Option<u64> {
        let limits = &self.identity.limits;
        let greetings = self.incoming.iter().any(Incoming::owes_word);
        let stalled = self.outgoing.iter().any(|out| out.is_stalled(limits.fan_out_window));
        let retry = self.health == Health::Full
            || self.lanes.is_waiting()
            || !self.untold.is_empty()
            || greetings
            || stalled
            || self.undelivered.waits();
        let cursors = match self.health {
            Health::Good => self.cursors.due_in_ms(now_ms, limits.cursor_delay_ms, limits.dirty_cursors),
            // They wait for the disk, and `retry` asks it.
            Health::Full | Health::Failed => None,
        };
        let last_seen = match self.health {
            Health::Good => self.last_seen.due_in_ms(now_ms, limits.cursor_delay_ms, limits.dirty_cursors),
            Health::Full | Health::Failed => None,
        };
        let presence = self.changes.due_in_ms(
            now_ms,
            limits.presence_tick_ms,
            limits.presence_grace_ms,
            limits.retry_ms,
        );
        let retry = retry.then_some(limits.retry_ms);
        let retention = self.retention_due_in_ms(now_ms);
        [retry, cursors, last_seen, presence, retention].into_iter().flatten().min()
    }

    /// How many sessions are registered.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// The store under it.
    #[must_use]
    pub fn store(&self) -> &S {
        &self.store
    }

    /// The store under it, to let things go wrong.
    pub fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    /// Gives the store back.
    #[must_use]
    pub fn into_store(self) -> S {
        self.store
    }

    fn decide_all(&mut self, commands: &[Envelope<Command>]) {
        for envelope in commands {
            self.decide(envelope);
        }
    }

    /// True when the slice is this worker's, by the sender's assignment and by ours.
    fn owns(&self, envelope: &Envelope<Command>) -> bool {
        let assignment = &self.identity.assignment;
        envelope.epoch == assignment.epoch()
            && assignment.owner(envelope.slice) == WorkerId(self.identity.number)
    }

    fn decide(&mut self, envelope: &Envelope<Command>) {
        let owned = self.owns(envelope);
        let moved = |session: SessionAddress, client_id: Option<ClientId>| {
            Pending::Answer(session, Delivery::Rejected { session, client_id, why: Refusal::WrongEpoch })
        };
        let pending = match &envelope.command {
            // Between workers: these name their databases themselves.
            Command::FanOut(fan_out) => return self.decide_fan_out(fan_out),
            &Command::FannedOut { target, position, again } => {
                return self.confirmed(target, position, again);
            }
            Command::Stop => return,
            Command::Notes(notes) => {
                self.pending.extend(notes.iter().cloned().map(Pending::Notice));
                return;
            }
            // Nobody waits for it.
            Command::Typing { .. }
            | Command::Watch { .. }
            | Command::MayWatch { .. }
            | Command::Away { .. }
                if !owned =>
            {
                return;
            }
            &Command::MayWatch { user, watcher, session } => Pending::MayWatch { user, watcher, session },
            &Command::Watch { user, shard } => Pending::Watch { user, shard },
            &Command::Away { user, session, away } => Pending::Away { user, session, away },
            &Command::Typing { typing, session } => return self.decide_typing(typing, session),
            &Command::Read { mark, session } if owned => return self.decide_read(mark, session),
            Command::Send(message) if owned => return self.decide_send(message),
            Command::Send(message) => moved(message.session, Some(message.client_id.clone())),
            Command::Revoke(revoke) if owned => return self.decide_revoke(revoke),
            Command::Revoke(revoke) => moved(revoke.request.session, None),
            Command::ChangePeople(change) if owned => return self.decide_people(change),
            &Command::Register(Register { session, .. }) if !owned => {
                Pending::Answer(session, Delivery::Refused { session, why: Refusal::WrongEpoch })
            }
            &Command::Sync { session, .. } if !owned => {
                Pending::Answer(session, Delivery::NoPage { session, why: Refusal::WrongEpoch })
            }
            &Command::Ack { session, .. } if !owned => moved(session, None),
            &Command::History(HistoryRequest { session, .. })
            | &Command::Receipts(ReceiptsRequest { session, .. })
            | &Command::Conversations(ConversationsRequest { session, .. })
            | &Command::Group(GroupRequest { session, .. })
            | &Command::Devices(DevicesRequest { session, .. })
            | &Command::People(PeopleRequest { session, .. })
            | &Command::ChangePeople(ChangePeople { session, .. })
                if !owned =>
            {
                moved(session, None)
            }
            &Command::Read { session, .. } => moved(session, None),
            &Command::History(request) => Pending::History(request),
            &Command::Receipts(request) => Pending::Receipts(request),
            &Command::Conversations(request) => Pending::Conversations(request),
            &Command::Group(request) => Pending::Group(request),
            &Command::Devices(request) => Pending::Devices(request),
            &Command::People(request) => Pending::People(request),
            Command::ChangePeople(_) => unreachable!("decided above, owned or not"),
            Command::Register(request) => Pending::Register(request.clone()),
            // Whoever owns the user now has no such session, so an unregistration may be wrong here without harm.
            &Command::Unregister { user, device: _, session } => Pending::Unregister { user, session },
            &Command::Sync { user, session, after, limit, every_entry, goes_on } => {
                Pending::Sync { session, wanted: Wanted { user, after, limit, every_entry, goes_on } }
            }
            &Command::Ack { user, device, session, rev } => Pending::Ack { user, device, session, rev },
        };
        self.pending.push(pending);
    }

    /// Makes the batch durable.
    fn commit(&mut self) -> Result<(), StoreError> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        let limits = &self.identity.limits;
        if self.health == Health::Good
            && self.cursors.due_in_ms(self.now_ms, limits.cursor_delay_ms, limits.dirty_cursors) == Some(0)
        {
            let (store, batch) = (&self.store, &mut self.batch);
            self.cursors.flush(
                CURSORS_PER_TURN,
                store,
                limits.devices,
                batch,
                self.now_ms,
                &mut self.undelivered,
            )?;
        }
        if self.health == Health::Good {
            self.tell_delivered();
        }
        let limits = &self.identity.limits;
        if self.health == Health::Good
            && self.last_seen.due_in_ms(self.now_ms, limits.cursor_delay_ms, limits.dirty_cursors) == Some(0)
        {
            self.last_seen.flush(&mut self.batch);
        }
        self.staged.stage_into(&mut self.batch);
        for (target, out) in (0..).zip(&self.outgoing) {
            out.stage_into(target, &mut self.batch);
        }
        for (source, incoming) in (0..).zip(&self.incoming) {
            incoming.stage_into(source, &mut self.batch);
        }
        if self.messages > 0
            && let Some(last) = self.last_id
        {
            self.batch.put(Table::State, layout::last_id_key(), layout::seal_numbers([last.0]));
        }
        if !self.batch.is_empty() {
            let took = self.store.commit(&self.batch)?;
            self.counters.commits.add(1);
            self.counters.committed(took.as_micros() as u64);
            self.counters.messages.add(self.messages);
            self.counters.entries.add(self.entries);
        }
        self.batch.clear();
        self.fresh.clear();
        self.fresh_marks.clear();
        self.messages = 0;
        self.entries = 0;
        self.tips.commit();
        self.revs.commit();
        self.groups.commit();
        self.cursors.commit();
        self.undelivered.commit();
        self.counters.expired.add(self.retention.commit());
        self.last_seen.commit();
        self.lists.commit();
        let now_ms = self.now_ms;
        self.outgoing.iter_mut().for_each(|out| out.commit(now_ms));
        self.incoming.iter_mut().for_each(Incoming::commit);
        Ok(())
    }

    /// The batch is not durable, or nobody knows.
    fn abandon(&mut self, error: &StoreError) {
        self.counters.failed_commits.add(1);
        let worker = self.identity.number;
        match error {
            StoreError::Full { .. } | StoreError::Stopped => {
                tracing::warn!(worker, %error, "sends are refused for now");
                self.health = Health::Full;
                self.retried_ms = self.now_ms;
            }
            _ => {
                tracing::error!(worker, %error, "sends are refused from now on");
                self.health = Health::Failed;
            }
        }
        self.batch.clear();
        self.broken = None;
        self.staged.abandon();
        self.pending.clear();
        self.notes.iter_mut().for_each(Vec::clear);
        self.fresh.clear();
        self.fresh_marks.clear();
        self.messages = 0;
        self.entries = 0;
        self.tips.forget();
        if planted::REVS_KEPT.is_planted() {
            self.revs.commit();
        } else {
            self.revs.forget();
        }
        self.groups.forget();
        self.hot_pages.forget();
        self.cursors.abandon();
        self.undelivered.abandon();
        self.retention.abandon();
        self.last_seen.abandon();
        self.lists.abandon();
        self.outgoing.iter_mut().for_each(Outgoing::abandon);
        self.incoming.iter_mut().for_each(Incoming::abandon);
        self.sessions.doubt_all();
    }

    /// Something is wrong that no retry mends.
    fn fail(&mut self, error: &StoreError) {
        if self.health != Health::Failed {
            tracing::error!(worker = self.identity.number, %error, "sends are refused from now on");
            self.health = Health::Failed;
        }
    }

    fn retry(&mut self, effects: &mut impl Effects) {
        if self.health == Health::Full {
            let waited_ms = self.now_ms.checked_sub(self.retried_ms).unwrap_or(u64::MAX);
            if waited_ms >= self.identity.limits.retry_ms {
                self.retried_ms = self.now_ms;
                match self.store.recover() {
                    Ok(()) => self.recovered(),
                    Err(StoreError::Full { .. } | StoreError::Stopped) => {}
                    Err(error) => self.fail(&error),
                }
            }
        }
        self.lanes.retry(effects);
        self.resolve_doubts();
        self.tell_gaps(effects);
        self.greet(effects);
    }

    /// The store takes writes again, and it may hold a batch that was refused.
    fn recovered(&mut self) {
        tracing::info!(worker = self.identity.number, "sends are taken again");
        let reopened =
            (0..).zip(&mut self.outgoing).try_for_each(|(target, out)| out.reload(&self.store, target));
        let reopened = reopened.and_then(|()| {
            (0..).zip(&mut self.incoming).try_for_each(|(source, it)| it.reload(&self.store, source))
        });
        match reopened {
            Ok(()) => {
                self.health = Health::Good;
                self.tips.forget();
                if !planted::REVS_KEPT.is_planted() {
                    self.revs.forget();
                }
                self.groups.forget();
                self.hot_pages.forget();
                self.in_doubt = self.sessions.doubt_all();
            }
            Err(error) => self.fail(&error),
        }
    }

    fn release(&mut self, effects: &mut impl Effects) {
        let mut pending = std::mem::take(&mut self.pending);
        for pending in pending.drain(..) {
            match pending {
                Pending::Answer(session, delivery) => self.lanes.answer(session.shard, delivery, effects),
                Pending::Event { user, rev, entry } => self.hand_out(user, rev, &entry, effects),
                Pending::Register(request) => self.register(&request, effects),
                Pending::Unregister { user, session } => self.unregister(user, session),
                Pending::Sync { session, wanted } => self.wishes.want_page(session, wanted),
                Pending::History(request) => self.wishes.want(Wish::History(request)),
                Pending::Ack { user, device, session, rev } => self.ack(user, device, session, rev, effects),
                Pending::Receipts(request) => self.receipts(&request, effects),
                Pending::Conversations(request) => self.wishes.want(Wish::List(request)),
                Pending::Group(request) => self.show_group(&request, effects),
                Pending::Watch { user, shard } => self.watch(user, shard),
                Pending::Away { user, session, away } => self.set_away(user, session, away),
                Pending::Notice(notice) => self.tell(&notice, effects),
                Pending::Devices(request) => self.list_devices(&request, effects),
                Pending::Revoked { device, request } => self.revoked(device, &request, effects),
                Pending::People(request) => self.list_people(&request, effects),
                Pending::PeopleChanged { user, session, other } => {
                    self.people_changed(user, session, other, effects);
                }
                Pending::HiddenFrom(user) => self.hidden_from_others(user),
                Pending::MayWatch { user, watcher, session } => {
                    self.tell_may_watch(user, watcher, session, effects);
                }
            }
        }
        self.suggest_notes(effects);
        self.pending = pending;
        self.grant_wishes(effects);
        self.tell_presence(effects);
    }

    fn publish(&self) {
        self.counters.sessions.set(self.sessions.len() as u64);
        self.counters.waiting_answers.set(self.lanes.waiting() as u64);
        self.counters.fan_out_backlog.set(self.outgoing.iter().map(Outgoing::backlog).sum());
    }

    /// The last `rev` of a user, the present batch included.
    fn head(&mut self, user: UserId) -> Result<Rev, StoreError> {
        if let Some(head) = self.revs.get(user) {
            return Ok(Rev(head));
        }
        if let Some(head) = self.sessions.live_head(user) {
            return Ok(head);
        }
        let first = layout::inbox_key(user, Rev(1));
        let last = layout::inbox_key(user, Rev(u64::MAX));
        let Some((key, _)) = read_last(&self.store, Table::Inbox, &first, &last)? else {
            return Ok(Rev(0));
        };
        let head = layout::key_number(Table::Inbox, &key)?;
        self.revs.keep(user, head);
        Ok(Rev(head))
    }

    /// The end of a conversation's log, the present batch included.
    fn tip(&mut self, conversation: ConversationId) -> Result<Tip, StoreError> {
        if let Some(tip) = self.tips.get(conversation) {
            return Ok(tip);
        }
        let first = layout::message_key(conversation, Seq(1));
        let last = layout::message_key(conversation, Seq(u64::MAX));
        let floor = self.floor(conversation)?;
        // What the present batch says of it would be in `tips`.
        let blocks_key = blocks_key(conversation);
        let blocks = match conversation.users() {
            Some(_) => self.store.get(Table::Blocks, &blocks_key)?,
            None => None,
        };
        let blocks = blocks.map(|value| Blocks::open(&blocks_key, &value)).transpose()?;
        let found = if blocks.is_some() || floor.seq > Seq(1) {
            self.store.last(Table::Messages, &first, &last)?
        } else {
            read_last(&self.store, Table::Messages, &first, &last)?
        };
        let hidden = blocks.map(|blocks| blocks.last).unwrap_or_default();
        let has_blocks = blocks.is_some();
        let apart = Tip { seq: hidden.seq, ordinal: hidden.ordinal, has_blocks };
        // All of it may be gone.
        let apart = match floor.last_gone() {
            seq if seq > apart.seq => Tip { seq, ordinal: floor.ordinal, has_blocks },
            _ => apart,
        };
        let Some((key, value)) = found else {
            return Ok(apart);
        };
        let bytes = layout::open(Table::Messages, &key, &value)?;
        let entry = MessageEntry::decode(&bytes)
            .ok_or_else(|| layout::corrupt(Table::Messages, &key, "it is no entry"))?;
        let seq = Seq(layout::key_number(Table::Messages, &key)?);
        let tip = Tip { seq, ordinal: entry.ordinal(), has_blocks };
        let tip = if apart.seq > tip.seq { apart } else { tip };
        self.tips.keep(conversation, tip);
        Ok(tip)
    }

    fn owner_of(&self, user: UserId) -> u16 {
        self.identity.assignment.owner(RouteKey::User(user).slice()).0
    }
}

/// The last record of `first..=last`, if there is one. Sequences begin with a record at 1, so without the first there is
/// none, and that is a question which the engine's filters answer without reading.
fn read_last(
    store: &impl Store,
    table: Table,
    first: &[u8],
    last: &[u8],
) -> Result<Option<(Key, Bytes)>, StoreError> {
    if store.get(table, first)?.is_none() {
        return Ok(None);
    }
    store.last(table, first, last)
}
