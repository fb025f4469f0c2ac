//! How far a conversation has arrived at each of its members, and how far they have read it: one mark each, kept with the
//! conversation, which never goes back while its user is in it.
//!
//! To others a mark is state, not an entry of their inboxes: a group of 500 would write 250,000 entries per message. It
//! is durable before anybody hears of it; the asking session gets an answer, others are told if they have room, and
//! whoever was not told asks. The user's own devices learn of what was read from the user's inbox, like of everything
//! else. What has arrived follows from what devices confirm ([`super::delivered`]).

use bytes::{BufMut as _, Bytes, BytesMut};
use hashbrown::HashMap;
use holdfast_protocol::id::{ConversationId, Seq, UserId};

use super::send::Recipients;
use super::{Effects, Pending, Worker};
use crate::blocks::Hidden;
use crate::command::{
    Arrival, Delivery, Note, OwnMark, ReadMark, Receipt, Receipts, ReceiptsRequest, Refusal, SessionAddress,
    Users,
};
use crate::engine::{Key, Store, StoreError, Table, Visit};
use crate::entry::MessageEntry;
use crate::inbox::Item;
use crate::layout::{self, Intended, Intent};
use crate::planted;

/// In conversations of more members than these, others are not told but on request: each of them reading each message
/// would make as many notes as their number squared.
const MEMBERS_TOLD: usize = 32;

/// Version byte of marks: also how many numbers they have.
const MARK_VERSION: u8 = 3;
/// Instead of an ordinal: the user's inbox does not tell of the mark.
const UNTOLD: u64 = u64::MAX;

/// Marks that the present batch sets; `None`: the user has gone.
pub(super) type FreshMarks = HashMap<(ConversationId, UserId), Option<Mark>>;

/// What is kept of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    /// The last message read.
    pub(crate) read: Seq,
    /// Its ordinal, as the user's inbox tells it; of marks that the first version has set, it does not.
    pub(crate) ordinal: Option<u64>,
    /// The last message that has arrived, or the one read if that is later.
    pub(crate) delivered: Seq,
}

impl Mark {
    fn of(self, user: UserId) -> Receipt {
        Receipt { user, read: self.read, delivered: self.delivered }
    }
}

impl<S: Store> Worker<S> {
    pub(super) fn decide_read(&mut self, mark: ReadMark, session: SessionAddress) {
        let ReadMark { user, conversation, .. } = mark;
        let answer = match self.read_on(mark, session) {
            Ok(mark) => {
                let members = vec![mark.of(user)];
                Delivery::Receipts(Box::new(Receipts { session, conversation, members }))
            }
            Err(why) => {
                self.counters.refused.add(1);
                Delivery::Rejected { session, client_id: None, why }
            }
        };
        self.pending.push(Pending::Answer(session, answer));
    }

    /// Moves a mark, never back. Where it is then.
    fn read_on(&mut self, mark: ReadMark, by: SessionAddress) -> Result<Mark, Refusal> {
        let ReadMark { user, conversation, up_to } = mark;
        let members = self.members_of(conversation, user)?;
        let tip = self.tip(conversation).map_err(|error| self.unreadable(&error))?;
        if up_to > tip.seq {
            return Err(Refusal::UnknownMessage);
        }
        let before = self.mark(conversation, user).map_err(|error| self.unreadable(&error))?;
        let is_told = before.read == Seq(0) || before.ordinal.is_some();
        if up_to <= before.read && is_told {
            return Ok(before);
        }
        self.may_write()?;
        let floor = self.floor(conversation).map_err(|error| self.unreadable(&error))?;
        let mut up_to = up_to.max(before.read);
        if up_to <= floor.last_gone() {
            // Of what is not there any more nobody knows how much it was, but for all of it, and where somebody was
            // blocked the last of it may be what the user has not seen.
            if tip.has_blocks {
                return Ok(before);
            }
            up_to = floor.last_gone();
        }
        let ordinal = if up_to == tip.seq && !tip.has_blocks {
            tip.ordinal
        } else if up_to == floor.last_gone() {
            floor.ordinal
        } else {
            let ordinal = self.ordinal_of(conversation, up_to, tip.has_blocks.then_some(user));
            ordinal.map_err(|error| self.unreadable(&error))?.ok_or(Refusal::UnknownMessage)?
        };
        let own = OwnMark { conversation, up_to, ordinal };
        let Recipients { here, elsewhere } = self.locate(&Users::from_slice(&[user]))?;
        let mark = Mark { read: up_to, ordinal: Some(ordinal), delivered: before.delivered.max(up_to) };
        for (user, rev) in here {
            if planted::MARK_UNTOLD.is_planted() {
                continue;
            }
            self.append(user, rev, &Item::Read(own), own.entry());
        }
        for (target, users) in elsewhere {
            let intent = Intent { what: Intended::Read(own), users };
            self.outgoing[usize::from(target)].intend(intent, Arrival::Read(own));
        }
        self.set_mark(conversation, user, mark, members, Some(by));
        Ok(mark)
    }

    /// The conversation has arrived at a user up to this message, as the user's database says: it is there, since it was
    /// durable before anybody had it.
    pub(super) fn delivered(&mut self, user: UserId, conversation: ConversationId, seq: Seq) {
        // Whoever has left meanwhile has no mark any more.
        let Ok(members) = self.members_of(conversation, user) else { return };
        match self.mark(conversation, user) {
            Ok(mark) if seq > mark.delivered => {
                self.set_mark(conversation, user, Mark { delivered: seq, ..mark }, members, None);
            }
            Ok(_) => {}
            Err(error) => {
                // Nobody waits for it, and the next one says the same.
                self.unreadable(&error);
            }
        }
    }

    fn set_mark(
        &mut self,
        conversation: ConversationId,
        user: UserId,
        mark: Mark,
        members: Users,
        by: Option<SessionAddress>,
    ) {
        self.keep_mark(conversation, user, mark);
        // Who reads is there: that is not to be seen by whoever is blocked.
        let is_cut = conversation.users().is_some() && self.is_cut(conversation).unwrap_or(true);
        if members.len() <= MEMBERS_TOLD && !is_cut {
            let others = members.into_iter().filter(|&member| member != user).collect();
            self.notify(Note::Receipt(conversation, mark.of(user)), by, others);
        }
    }

    pub(super) fn keep_mark(&mut self, conversation: ConversationId, user: UserId, mark: Mark) {
        self.batch.put(Table::Receipts, layout::receipt_key(conversation, user), seal_mark(&mark));
        self.fresh_marks.insert((conversation, user), Some(mark));
    }

    /// How many messages a conversation has up to one of its events; `None`: it is not one that this reader sees, where
    /// there are such.
    fn ordinal_of(
        &self,
        conversation: ConversationId,
        seq: Seq,
        reader: Option<UserId>,
    ) -> Result<Option<u64>, StoreError> {
        let key = layout::message_key(conversation, seq);
        let corrupt = |what| layout::corrupt(Table::Messages, &key, what);
        // Most are not of this batch, which is long to search.
        let sealed = match self.store.get(Table::Messages, &key)? {
            Some(sealed) => Some(sealed),
            None => self.pending_or_stored(Table::Messages, &key)?,
        };
        let bytes = match (sealed, reader) {
            (Some(sealed), _) => layout::open(Table::Messages, &key, &sealed)?,
            (None, Some(reader)) => match self.hidden(conversation, reader, seq)? {
                Some(Hidden { entry, .. }) if !entry.is_empty() => entry,
                _ => return Ok(None),
            },
            (None, None) => return Err(corrupt("it is missing")),
        };
        let entry = MessageEntry::decode(&bytes).ok_or_else(|| corrupt("it is no entry"))?;
        Ok(Some(entry.ordinal()))
    }

    /// Whoever leaves a group leaves no mark.
    pub(super) fn remove_mark(&mut self, conversation: ConversationId, user: UserId) {
        self.batch.remove(Table::Receipts, layout::receipt_key(conversation, user));
        self.fresh_marks.insert((conversation, user), None);
    }

    /// A mark as it is, the present batch included.
    pub(super) fn mark(&self, conversation: ConversationId, user: UserId) -> Result<Mark, StoreError> {
        if let Some(fresh) = self.fresh_marks.get(&(conversation, user)) {
            return Ok(fresh.unwrap_or_default());
        }
        let key = layout::receipt_key(conversation, user);
        let value = self.store.get(Table::Receipts, &key)?;
        value.map_or(Ok(Mark::default()), |value| open_mark(&key, &value))
    }

    pub(super) fn receipts(&mut self, request: &ReceiptsRequest, effects: &mut impl Effects) {
        let session = request.session;
        let delivery = self.read_receipts(request).unwrap_or_else(|why| {
            self.counters.refused.add(1);
            Delivery::Rejected { session, client_id: None, why }
        });
        self.lanes.answer(session.shard, delivery, effects);
    }

    fn read_receipts(&mut self, request: &ReceiptsRequest) -> Result<Delivery, Refusal> {
        let &ReceiptsRequest { user, session, conversation } = request;
        let mut members = self.members_of(conversation, user)?;
        members.sort_unstable();
        let marks = self.marks(conversation).map_err(|error| self.unreadable(&error))?;
        let members = members
            .into_iter()
            .map(|user| {
                let mark = marks.binary_search_by_key(&user, |&(user, _)| user).map(|at| marks[at].1);
                mark.unwrap_or_default().of(user)
            })
            .collect();
        Ok(Delivery::Receipts(Box::new(Receipts { session, conversation, members })))
    }

    /// All marks of a conversation, in the order of their users.
    fn marks(&self, conversation: ConversationId) -> Result<Vec<(UserId, Mark)>, StoreError> {
        let (from, to) = receipt_keys(conversation);
        let mut marks = Vec::new();
        let mut failed = None;
        self.store.scan(Table::Receipts, &from, &to, &mut |key, value| {
            let user = layout::key_number(Table::Receipts, key);
            match user.and_then(|user| Ok((UserId(user), open_mark(key, &value)?))) {
                Ok(mark) => {
                    marks.push(mark);
                    Visit::More
                }
                Err(error) => {
                    failed = Some(error);
                    Visit::Enough
                }
            }
        })?;
        failed.map_or(Ok(marks), Err)
    }
}

/// The first and the last key that a mark of this conversation can have.
pub(crate) fn receipt_keys(conversation: ConversationId) -> (Key, Key) {
    let key = |user| layout::receipt_key(conversation, UserId(user));
    (key(0), key(u64::MAX))
}

fn seal_mark(mark: &Mark) -> Bytes {
    let mut value = BytesMut::with_capacity(layout::ENVELOPE_BYTES + 24);
    value.put_bytes(0, layout::ENVELOPE_BYTES);
    value.put_u64_le(mark.read.0);
    value.put_u64_le(mark.ordinal.unwrap_or(UNTOLD));
    value.put_u64_le(mark.delivered.0);
    layout::sign(MARK_VERSION, &mut value);
    value.freeze()
}

/// The first version had no ordinal, and no entry in the user's inbox; the second did not know what has arrived.
pub(crate) fn open_mark(key: &[u8], value: &Bytes) -> Result<Mark, StoreError> {
    let (version, payload) = layout::open_version(Table::Receipts, key, value, MARK_VERSION)?;
    let (numbers, rest) = payload.as_chunks::<8>();
    let number = |at: usize| numbers.get(at).map(|number| u64::from_le_bytes(*number));
    let (Some(read), true) = (number(0), numbers.len() == usize::from(version) && rest.is_empty()) else {
        return Err(layout::corrupt(Table::Receipts, key, "the value has a wrong length"));
    };
    let read = Seq(read);
    let ordinal = number(1).filter(|&ordinal| ordinal != UNTOLD && read > Seq(0));
    let delivered = number(2).map_or(read, |delivered| Seq(delivered).max(read));
    Ok(Mark { read, ordinal, delivered })
}
