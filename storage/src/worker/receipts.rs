//! How far the members of a conversation have read: one mark each, kept with the conversation, which never goes back
//! while its user is in it.
//!
//! A mark is state, not an entry of anybody's inbox: a group of 500 would write 250,000 entries per message. It is
//! durable before anybody hears of it; the asking session gets an answer, others are told if they have room, and
//! whoever was not told asks.

use bytes::Bytes;
use hashbrown::HashMap;
use holdfast_protocol::id::{ConversationId, Seq, UserId};

use super::{Effects, Pending, Worker};
use crate::command::{Delivery, Note, ReadMark, Receipts, ReceiptsRequest, Refusal, SessionAddress, Users};
use crate::engine::{Key, Store, StoreError, Table, Visit};
use crate::layout;

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
        if up_to > self.last_seq(conversation).map_err(|error| self.unreadable(&error))? {
            return Err(Refusal::UnknownMessage);
        }
        let before = self.read_mark(conversation, user).map_err(|error| self.unreadable(&error))?;
        if up_to <= before {
            return Ok(before);
        }
        self.may_write()?;
        let key = layout::receipt_key(conversation, user);
        self.batch.put(Table::Receipts, key, layout::seal_numbers([up_to.0]));
        self.fresh_marks.insert((conversation, user), Some(up_to));
        let told = if members.len() <= MEMBERS_TOLD { members } else { Users::from_slice(&[user]) };
        self.notify(Note::Read(mark), by, told);
        Ok(up_to)
    }

    /// Whoever leaves a group leaves no mark.
    pub(super) fn remove_mark(&mut self, conversation: ConversationId, user: UserId) {
        self.batch.remove(Table::Receipts, layout::receipt_key(conversation, user));
        self.fresh_marks.insert((conversation, user), None);
    }

    /// A mark as it is, the present batch included.
    fn read_mark(&self, conversation: ConversationId, user: UserId) -> Result<Seq, StoreError> {
        if let Some(fresh) = self.fresh_marks.get(&(conversation, user)) {
            return Ok(fresh.unwrap_or_default());
        }
        let key = layout::receipt_key(conversation, user);
        self.store.get(Table::Receipts, &key)?.map_or(Ok(Seq(0)), |value| open_receipt(&key, &value))
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
            match user.and_then(|user| Ok((UserId(user), open_receipt(key, &value)?))) {
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

/// How far somebody has read.
pub(crate) fn open_receipt(key: &[u8], value: &Bytes) -> Result<Seq, StoreError> {
    layout::open_numbers(Table::Receipts, key, value).map(|[seq]| Seq(seq))
}
