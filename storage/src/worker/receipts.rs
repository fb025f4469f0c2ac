//! How far the members of a conversation have read: one mark each, kept with the conversation, which never goes back
//! while its user is in it.
//!
//! To others a mark is state, not an entry of their inboxes: a group of 500 would write 250,000 entries per message. It
//! is durable before anybody hears of it; the asking session gets an answer, others are told if they have room, and
//! whoever was not told asks. The user's own devices learn of it from the user's inbox, like of everything else.

use bytes::{BufMut as _, Bytes, BytesMut};
use hashbrown::HashMap;
use holdfast_protocol::id::{ConversationId, Seq, UserId};

use super::send::Recipients;
use super::{Effects, Pending, Worker};
use crate::command::{
    Arrival, Delivery, Note, OwnMark, ReadMark, Receipts, ReceiptsRequest, Refusal, SessionAddress, Users,
};
use crate::engine::{Key, Store, StoreError, Table, Visit};
use crate::entry::MessageEntry;
use crate::inbox::Item;
use crate::layout::{self, Intended, Intent};

/// In conversations of more members than these, others are not told but on request: each of them reading each message
/// would make as many notes as their number squared.
const MEMBERS_TOLD: usize = 32;

/// Marks that the present batch sets; `None`: the user has gone.
pub(super) type FreshMarks = HashMap<(ConversationId, UserId), Option<Seq>>;

impl<S: Store> Worker<S> {
    pub(super) fn decide_read(&mut self, mark: ReadMark, session: SessionAddress) {
        let ReadMark { user, conversation, .. } = mark;
        let answer = match self.read_on(mark, session) {
            Ok(read) => {
                let read = vec![(user, read)];
                Delivery::Receipts(Box::new(Receipts { session, conversation, read }))
            }
            Err(why) => {
                self.counters.refused.add(1);
                Delivery::Rejected { session, client_id: None, why }
            }
        };
        self.pending.push(Pending::Answer(session, answer));
    }

    /// Moves a mark, never back. Where it is then.
    fn read_on(&mut self, mark: ReadMark, by: SessionAddress) -> Result<Seq, Refusal> {
        let ReadMark { user, conversation, up_to } = mark;
        let members = self.members_of(conversation, user)?;
        let tip = self.tip(conversation).map_err(|error| self.unreadable(&error))?;
        if up_to > tip.seq {
            return Err(Refusal::UnknownMessage);
        }
        let (before, is_told) =
            self.read_mark(conversation, user).map_err(|error| self.unreadable(&error))?;
        if up_to <= before && is_told {
            return Ok(before);
        }
        self.may_write()?;
        let up_to = up_to.max(before);
        let mark = ReadMark { up_to, ..mark };
        let ordinal = if up_to == tip.seq {
            tip.ordinal
        } else {
            self.ordinal_of(conversation, up_to).map_err(|error| self.unreadable(&error))?
        };
        let own = OwnMark { conversation, up_to, ordinal };
        let Recipients { here, elsewhere } = self.locate(&Users::from_slice(&[user]))?;
        self.batch.put(Table::Receipts, layout::receipt_key(conversation, user), seal_receipt(&own));
        self.fresh_marks.insert((conversation, user), Some(up_to));
        for (user, rev) in here {
            self.append(user, rev, &Item::Read(own), own.entry());
        }
        for (target, users) in elsewhere {
            let intent = Intent { what: Intended::Read(own), users };
            self.outgoing[usize::from(target)].intend(intent, Arrival::Read(own));
        }
        if members.len() <= MEMBERS_TOLD {
            let others = members.into_iter().filter(|&member| member != user).collect();
            self.notify(Note::Read(mark), by, others);
        }
        Ok(up_to)
    }

    /// How many messages a conversation has up to one of its events.
    fn ordinal_of(&self, conversation: ConversationId, seq: Seq) -> Result<u64, StoreError> {
        let key = layout::message_key(conversation, seq);
        let corrupt = |what| layout::corrupt(Table::Messages, &key, what);
        // Most are not of this batch, which is long to search.
        let sealed = match self.store.get(Table::Messages, &key)? {
            Some(sealed) => Some(sealed),
            None => self.pending_or_stored(Table::Messages, &key)?,
        };
        let bytes = layout::open(Table::Messages, &key, &sealed.ok_or_else(|| corrupt("it is missing"))?)?;
        let entry = MessageEntry::decode(&bytes).ok_or_else(|| corrupt("it is no entry"))?;
        Ok(entry.ordinal())
    }

    /// Whoever leaves a group leaves no mark.
    pub(super) fn remove_mark(&mut self, conversation: ConversationId, user: UserId) {
        self.batch.remove(Table::Receipts, layout::receipt_key(conversation, user));
        self.fresh_marks.insert((conversation, user), None);
    }

    /// A mark as it is, the present batch included, and whether the user's inbox tells of it: of those that the first
    /// version has set, it does not.
    fn read_mark(&self, conversation: ConversationId, user: UserId) -> Result<(Seq, bool), StoreError> {
        if let Some(fresh) = self.fresh_marks.get(&(conversation, user)) {
            return Ok((fresh.unwrap_or_default(), true));
        }
        let key = layout::receipt_key(conversation, user);
        match self.store.get(Table::Receipts, &key)? {
            Some(value) => open_receipt(&key, &value).map(|(seq, ordinal)| (seq, ordinal.is_some())),
            None => Ok((Seq(0), true)),
        }
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
        let read = members
            .into_iter()
            .map(|user| {
                let mark = marks.binary_search_by_key(&user, |&(user, _)| user).map(|at| marks[at].1);
                (user, mark.unwrap_or_default())
            })
            .collect();
        Ok(Delivery::Receipts(Box::new(Receipts { session, conversation, read })))
    }

    /// All marks of a conversation, in the order of their users.
    fn marks(&self, conversation: ConversationId) -> Result<Vec<(UserId, Seq)>, StoreError> {
        let (from, to) = receipt_keys(conversation);
        let mut marks = Vec::new();
        let mut failed = None;
        self.store.scan(Table::Receipts, &from, &to, &mut |key, value| {
            let user = layout::key_number(Table::Receipts, key);
            match user.and_then(|user| Ok((UserId(user), open_receipt(key, &value)?.0))) {
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

fn seal_receipt(mark: &OwnMark) -> Bytes {
    let mut value = BytesMut::with_capacity(layout::ENVELOPE_BYTES + 16);
    value.put_bytes(0, layout::ENVELOPE_BYTES);
    value.put_u64_le(mark.up_to.0);
    value.put_u64_le(mark.ordinal);
    layout::sign(layout::PACKED_VERSION, &mut value);
    value.freeze()
}

/// How far somebody has read, and the ordinal of that message; the first version had none, and no entry in the user's
/// inbox.
pub(crate) fn open_receipt(key: &[u8], value: &Bytes) -> Result<(Seq, Option<u64>), StoreError> {
    let (version, payload) = layout::open_version(Table::Receipts, key, value, layout::PACKED_VERSION)?;
    let (numbers, rest) = payload.as_chunks::<8>();
    match (version, numbers) {
        (layout::VALUE_VERSION, [seq]) if rest.is_empty() => Ok((Seq(u64::from_le_bytes(*seq)), None)),
        (layout::PACKED_VERSION, [seq, ordinal]) if rest.is_empty() => {
            Ok((Seq(u64::from_le_bytes(*seq)), Some(u64::from_le_bytes(*ordinal))))
        }
        _ => Err(layout::corrupt(Table::Receipts, key, "the value has a wrong length")),
    }
}
