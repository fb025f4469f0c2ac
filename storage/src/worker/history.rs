//! A part of a conversation, as it is now: messages with what later edits and deletions have made of them.

use bytes::Bytes;
use holdfast_protocol::chat::{self, body, content};
use holdfast_protocol::id::{ConversationId, Seq};
use prost::Message as _;

use super::hot_pages::Part;
use super::{Effects, Worker};
use crate::command::{Delivery, History, HistoryFrom, HistoryRequest, Refusal};
use crate::engine::{Store, StoreError, Table, Visit};
use crate::entry::MessageEntry;
use crate::layout;

impl<S: Store> Worker<S> {
    pub(super) fn history(&mut self, request: &HistoryRequest, effects: &mut impl Effects) {
        let session = request.session;
        let delivery = self.read_history(request).unwrap_or_else(|why| {
            self.counters.refused.add(1);
            Delivery::Rejected { session, client_id: None, why }
        });
        self.lanes.answer(session.shard, delivery, effects);
    }

    fn read_history(&mut self, request: &HistoryRequest) -> Result<Delivery, Refusal> {
        let &HistoryRequest { user, session, conversation, from, limit } = request;
        let visible_from = self.visible_from(conversation, user)?;
        let head = self.tip(conversation).map_err(|error| self.unreadable(&error))?.seq;
        let (most, page_bytes) = (self.identity.limits.history_messages, self.identity.limits.page_bytes);
        let most = u64::from(limit.clamp(1, most));
        let (first, last) = match from {
            HistoryFrom::After(seq) => {
                let first = Seq(seq.0.saturating_add(1)).max(visible_from);
                (first, Seq(first.0.saturating_add(most - 1).min(head.0)))
            }
            HistoryFrom::Before(_) | HistoryFrom::End => {
                let last = match from {
                    HistoryFrom::Before(seq) => Seq(seq.0.saturating_sub(1)).min(head),
                    _ => head,
                };
                (Seq((last.0 + 1).saturating_sub(most)).max(visible_from), last)
            }
        };
        let mut messages = if first <= last {
            let part = Part { conversation, first, last };
            self.hot_messages(part, head).map_err(|error| self.unreadable(&error))?
        } else {
            Vec::new()
        };
        // Should they be too many bytes, those that are furthest from where it began go, but for the nearest.
        let forward = matches!(from, HistoryFrom::After(_));
        let mut bytes = 0;
        let near: Box<dyn Iterator<Item = &Bytes>> =
            if forward { Box::new(messages.iter()) } else { Box::new(messages.iter().rev()) };
        let fit = near
            .take_while(|message| {
                let first = bytes == 0;
                bytes += message.len();
                first || bytes <= page_bytes
            })
            .count();
        let all = fit == messages.len();
        if forward {
            messages.truncate(fit);
        } else {
            messages.drain(..messages.len() - fit);
        }
        let end = all && if forward { last >= head } else { first <= visible_from };
        Ok(Delivery::History(Box::new(History { session, conversation, messages, head, end })))
    }

    /// Messages `first..=last` as entries, with what changes up to `known_changes` have made of them. Those that were
    /// changed later are left out.
    pub(super) fn read_messages(
        &self,
        table: Table,
        conversation: ConversationId,
        first: Seq,
        last: Seq,
        known_changes: Seq,
    ) -> Result<Vec<Bytes>, StoreError> {
        let (from, to) = (layout::message_key(conversation, first), layout::message_key(conversation, last));
        let mut amended = Vec::new();
        let mut messages: Vec<Bytes> = Vec::new();
        let mut failed = None;
        self.store.scan(Table::Amended, &from, &to, &mut |key, value| {
            let read = layout::key_number(Table::Amended, key)
                .and_then(|seq| Ok((Seq(seq), open_amended(key, &value)?)));
            keep(read, &mut amended, &mut failed)
        })?;
        self.store.scan(table, &from, &to, &mut |key, value| {
            keep(layout::open(table, key, &value), &mut messages, &mut failed)
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        let expected = (last.0 - first.0 + 1) as usize;
        if messages.len() != expected {
            return Err(layout::corrupt(table, &from, "a message after it is missing"));
        }
        // From the end, so that what is left out moves nothing that is still to be looked at.
        for (seq, by) in amended.into_iter().rev() {
            let at = (seq.0 - first.0) as usize;
            if by > known_changes {
                messages.remove(at);
            } else {
                messages[at] = self.amend(table, conversation, seq, by, &messages[at])?;
            }
        }
        Ok(messages)
    }

    /// A message with what its last edit or deletion says.
    fn amend(
        &self,
        table: Table,
        conversation: ConversationId,
        seq: Seq,
        by: Seq,
        message: &Bytes,
    ) -> Result<Bytes, StoreError> {
        let key = layout::message_key(conversation, seq);
        let corrupt = |what| layout::corrupt(Table::Amended, &key, what);
        let change_key = layout::message_key(conversation, by);
        let change = self.store.get(table, &change_key)?;
        let change = change.ok_or_else(|| corrupt("the change that it names is not there"))?;
        let change = layout::open(table, &change_key, &change)?;
        let change = MessageEntry::decode(&change).and_then(|change| chat::Body::decode(change.body).ok());
        let kind = match change.and_then(|change| change.kind) {
            Some(body::Kind::Deleted(deleted)) if deleted.seq == seq.0 => body::Kind::Deleted(deleted),
            Some(body::Kind::Edited(edited)) if edited.seq == seq.0 => {
                match edited.content.and_then(|content| content.kind) {
                    Some(content::Kind::Text(text)) => body::Kind::Text(text),
                    Some(content::Kind::Custom(custom)) => body::Kind::Custom(custom),
                    Some(content::Kind::Media(media)) => body::Kind::Media(media),
                    None => return Err(corrupt("the edit that it names says nothing")),
                }
            }
            _ => return Err(corrupt("what it names is no change of it")),
        };
        let body = chat::Body { kind: Some(kind) }.encode_to_vec();
        let message = MessageEntry::decode(message).ok_or_else(|| corrupt("the message is no entry"))?;
        let amended = MessageEntry { body: &body, changed_by: Some(by), ..message };
        Ok(amended.encode(Vec::with_capacity).into())
    }
}

/// The last change of a message.
pub(crate) fn open_amended(key: &[u8], value: &Bytes) -> Result<Seq, StoreError> {
    layout::open_numbers(Table::Amended, key, value).map(|[seq]| Seq(seq))
}

fn keep<T>(read: Result<T, StoreError>, kept: &mut Vec<T>, failed: &mut Option<StoreError>) -> Visit {
    match read {
        Ok(item) => {
            kept.push(item);
            Visit::More
        }
        Err(error) => {
            *failed = Some(error);
            Visit::Enough
        }
    }
}
