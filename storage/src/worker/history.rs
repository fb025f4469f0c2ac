//! A part of a conversation, as it is now: messages with what later edits and deletions have made of them.

use bytes::Bytes;
use holdfast_protocol::chat::{self, body, content};
use holdfast_protocol::id::{ConversationId, Seq, UserId};
use prost::Message as _;

use super::hot_pages::Part;
use super::spent::LOOK_BYTES;
use super::{Effects, Worker};
use crate::command::{Delivery, History, HistoryFrom, HistoryRequest, Refusal};
use crate::engine::{Store, StoreError, Table, Visit};
use crate::entry::MessageEntry;
use crate::layout;
use crate::planted;

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
        let floor = self.floor(conversation).map_err(|error| self.unreadable(&error))?;
        let visible_from = visible_from.max(floor.seq);
        let tip = self.tip(conversation).map_err(|error| self.unreadable(&error))?;
        let head = tip.seq;
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
        let forward = matches!(from, HistoryFrom::After(_));
        if tip.has_blocks {
            // Not every `seq` is there for everybody, so the limit counts messages.
            let (first, last) = if forward { (first, head) } else { (visible_from, last) };
            let part = Part { conversation, first, last, backward: !forward };
            let read = if first <= last {
                self.read_split(Table::Messages, part, user, most as usize, page_bytes)
            } else {
                Ok((Vec::new(), true))
            };
            let (messages, end) = read.map_err(|error| self.unreadable(&error))?;
            return Ok(Delivery::History(Box::new(History { session, conversation, messages, head, end })));
        }
        let messages = if first <= last {
            let part = Part { conversation, first, last, backward: !forward };
            self.hot_messages(part, head, page_bytes).map_err(|error| self.unreadable(&error))?
        } else {
            Vec::new()
        };
        // Should they have been too many bytes, those that are furthest from where it began are missing.
        let all = first > last || messages.len() as u64 == last.0 - first.0 + 1;
        let end = all && if forward { last >= head } else { first <= visible_from };
        Ok(Delivery::History(Box::new(History { session, conversation, messages, head, end })))
    }

    /// The messages of a part as entries, with what changes up to `known_changes` have made of them; those that were
    /// changed later are left out, and of copies those that the first version had not made. As many as fit into so many
    /// bytes, the nearest to where it begins, but for the first of them, which always fits.
    pub(super) fn read_messages(
        &self,
        table: Table,
        part: Part,
        known_changes: Seq,
        most_bytes: usize,
    ) -> Result<Vec<Bytes>, StoreError> {
        let Part { conversation, first, last, backward } = part;
        let (from, to) = (layout::message_key(conversation, first), layout::message_key(conversation, last));
        let mut amended = Vec::new();
        let mut failed = None;
        self.store.scan(Table::Amended, &from, &to, &mut |key, value| {
            self.spent.add(value.len());
            let read = layout::key_number(Table::Amended, key)
                .and_then(|seq| Ok((Seq(seq), open_amended(key, &value)?)));
            keep(read, &mut amended, &mut failed)
        })?;
        self.spent.add(2 * LOOK_BYTES);
        let is_whole = table == Table::Messages;
        let (mut messages, mut bytes, mut visited, mut is_full) = (Vec::new(), 0, 0, false);
        let visit = &mut |key: &[u8], value: Bytes| {
            self.spent.add(value.len());
            let is_next = layout::key_number(table, key).and_then(|seq| {
                let next = if backward { last.0 - visited } else { first.0 + visited };
                if seq == next || !is_whole {
                    Ok(Seq(seq))
                } else {
                    Err(layout::corrupt(table, key, "it follows a hole"))
                }
            });
            visited += 1;
            let read = is_next.and_then(|seq| {
                let message = layout::open(table, key, &value)?;
                match amended.binary_search_by_key(&seq, |&(seq, _)| seq).map(|at| amended[at].1) {
                    Ok(_) if planted::EDIT_FORGOTTEN.is_planted() => Ok(Some(message)),
                    Ok(by) if by > known_changes => Ok(None),
                    Ok(by) => self.amend(table, conversation, seq, by, &message, None).map(Some),
                    Err(_) => Ok(Some(message)),
                }
            });
            match read {
                Ok(None) => Visit::More,
                Ok(Some(message)) => {
                    // What was read counts too, not only what has become of it.
                    bytes += message.len().max(value.len() - layout::ENVELOPE_BYTES);
                    if !messages.is_empty() && bytes > most_bytes {
                        is_full = true;
                        return Visit::Enough;
                    }
                    messages.push(message);
                    Visit::More
                }
                Err(error) => {
                    failed = Some(error);
                    Visit::Enough
                }
            }
        };
        if backward {
            self.store.scan_back(table, &from, &to, visit)?;
            messages.reverse();
        } else {
            self.store.scan(table, &from, &to, visit)?;
        }
        if let Some(error) = failed {
            return Err(error);
        }
        if is_whole && !is_full && visited != last.0 - first.0 + 1 {
            return Err(layout::corrupt(table, &from, "a message after it is missing"));
        }
        Ok(messages)
    }

    /// A message with what its last edit or deletion says, which may be one that only this reader sees.
    pub(super) fn amend(
        &self,
        table: Table,
        conversation: ConversationId,
        seq: Seq,
        by: Seq,
        message: &Bytes,
        reader: Option<UserId>,
    ) -> Result<Bytes, StoreError> {
        let key = layout::message_key(conversation, seq);
        let corrupt = |what| layout::corrupt(Table::Amended, &key, what);
        let change_key = layout::message_key(conversation, by);
        let change = self.store.get(table, &change_key)?;
        self.spent.add(LOOK_BYTES + change.as_ref().map_or(0, Bytes::len));
        let change = match (change, reader) {
            (Some(change), _) => Some(layout::open(table, &change_key, &change)?),
            (None, Some(reader)) => self.hidden(conversation, reader, by)?.map(|hidden| hidden.entry),
            (None, None) => None,
        };
        let change = change.ok_or_else(|| corrupt("the change that it names is not there"))?;
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
