//! The conversation's side of what somebody does in it: is it a resend, may they, which `seq`, for whom.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_protocol::chat::{self, Role, body};
use holdfast_protocol::id::{ConversationId, Rev, Seq, Snowflake, UserId};
use prost::Message as _;
use smallvec::SmallVec;

use super::blocks::Overdue;
use super::{Health, Pending, Tip, Worker, history};
use crate::blocks::{At, Blocks, Hidden, blocks_key};
use crate::command::{Act, Arrival, Delivery, Refusal, SendMessage, Users};
use crate::engine::{Key, Store, StoreError, Table};
use crate::entry::MessageEntry;
use crate::group::{Group, GroupChange};
use crate::inbox::{self, Facts};
use crate::layout::{self, Intended, Intent, Known};
use crate::planted;

/// 2090: later than any right clock, earlier than the end of the ids.
const LATEST_MS: u64 = Snowflake::EPOCH_MS + (64 * 365 * 24 * 3_600_000);

/// An act that is allowed, and what it does.
struct Event {
    body: Bytes,
    reply_to: Option<Seq>,
    recipients: Users,
    /// The group, if it becomes another one.
    group: Option<Group>,
    /// Who is not in it any more.
    gone: Option<UserId>,
}

/// What a block does to an act.
enum Veil {
    /// There never was one.
    None,
    /// Only the sender sees it, with what stands under the sender for the message that it changes.
    Hides(Option<Hidden>),
    /// Both see it, and these marks are moved for it.
    Lifts(Overdue),
}

/// Who gets an event, by where their inboxes are.
pub(super) struct Recipients {
    pub(super) here: SmallVec<[(UserId, Rev); 2]>,
    pub(super) elsewhere: SmallVec<[(u16, Users); 2]>,
}

impl<S: Store> Worker<S> {
    pub(super) fn decide_send(&mut self, message: &SendMessage) {
        let session = message.session;
        let answer = match self.take(message) {
            Ok(known) => Delivery::Accepted {
                session,
                client_id: message.client_id.clone(),
                message_id: known.message_id,
                seq: known.seq,
                group: match message.act {
                    Act::Group(GroupChange::Create { .. }) => message.conversation.group_id(),
                    _ => None,
                },
            },
            Err(why) => {
                self.counters.refused.add(1);
                Delivery::Rejected { session, client_id: Some(message.client_id.clone()), why }
            }
        };
        self.pending.push(Pending::Answer(session, answer));
    }

    fn take(&mut self, message: &SendMessage) -> Result<Known, Refusal> {
        let &SendMessage { conversation, sender, device, ref client_id, .. } = message;
        if let Some((low, high)) = conversation.users()
            && (low >= high || (sender != low && sender != high))
        {
            return Err(Refusal::UnknownConversation);
        }
        // A resend first: whoever has left a group meanwhile still gets the answer that was lost.
        let fingerprint = layout::fingerprint(conversation, sender, device, client_id);
        if let Some(&known) = self.fresh.get(&fingerprint) {
            self.counters.duplicates.add(1);
            return Ok(known);
        }
        let tip = self.tip(conversation).map_err(|error| self.unreadable(&error))?;
        let last = tip.seq;
        let dedupe_key = layout::dedupe_key(&fingerprint);
        if last > Seq(0) && !planted::DEDUPE_FORGOTTEN.is_planted() {
            let value =
                self.store.get(Table::Dedupe, &dedupe_key).map_err(|error| self.unreadable(&error))?;
            if let Some(value) = value {
                let known = Known::open(&dedupe_key, &value).map_err(|error| self.unreadable(&error))?;
                self.counters.duplicates.add(1);
                let age_ms = self.now_ms.saturating_sub(known.message_id.timestamp_ms());
                let expired = age_ms > self.identity.limits.client_id_ms;
                return if expired { Err(Refusal::ClientIdExpired) } else { Ok(known) };
            }
        }
        self.may_write()?;
        let blocks = if tip.has_blocks { self.blocks(conversation) } else { Ok(None) };
        let mut blocks = blocks.map_err(|error| self.unreadable(&error))?;
        let mut event = self.judge(message, last, blocks.is_some())?;
        let veil = self.veil(message, blocks.as_mut())?;
        if let Veil::Hides(_) = veil {
            event.recipients = Users::from_slice(&[sender]);
        }
        // The heads of local members are read before anything is changed: what cannot be read must not half happen.
        let Recipients { here, elsewhere } = self.locate(&event.recipients)?;

        let message_id = self.ids.next(self.now_ms.min(LATEST_MS));
        self.last_id = Some(message_id);
        let known = Known { message_id, seq: last.next() };
        let seq = known.seq;
        let counts = inbox::says_something(&event.body);
        let entry = MessageEntry {
            conversation,
            seq,
            message_id,
            sender,
            client_id,
            device: &message.device_name,
            time_ms: message_id.timestamp_ms(),
            body: &event.body,
            reply_to: event.reply_to,
            changed_by: None,
            ordinal: Some(tip.ordinal + u64::from(counts)),
        };
        let sealed = layout::seal_entry(&entry);
        let facts = Facts::of(&entry);
        let bytes = layout::entry_of(&sealed);
        let hides = matches!(veil, Veil::Hides(_));
        let mut overdue = Overdue::new();
        match veil {
            Veil::None => {
                self.batch.put(Table::Messages, layout::message_key(conversation, seq), sealed.clone());
            }
            Veil::Lifts(marks) => {
                overdue = marks;
                self.batch.put(Table::Messages, layout::message_key(conversation, seq), sealed.clone());
            }
            Veil::Hides(changed) => {
                self.keep_hidden(&facts, sender, bytes.clone(), changed);
                if let Some(blocks) = &mut blocks {
                    blocks.hide(conversation, sender, At { seq, ordinal: facts.ordinal }, counts);
                    self.batch.put(Table::Blocks, blocks_key(conversation), blocks.seal());
                }
            }
        }
        self.batch.put(Table::Dedupe, dedupe_key, known.seal());
        self.fresh.insert(fingerprint, known);
        self.tips.set(conversation, Tip { seq, ordinal: facts.ordinal, has_blocks: tip.has_blocks });
        self.messages += 1;
        if let Some(amended) = facts.amends
            && !hides
        {
            let key = layout::message_key(conversation, amended);
            self.batch.put(Table::Amended, key, layout::seal_numbers([seq.0]));
        }
        if let Some(group) = event.group {
            self.batch.put(Table::Groups, layout::group_key(conversation), group.seal());
            if group.kept_days().is_some() && !self.retention.has_groups {
                self.batch.put(Table::State, layout::groups_keep_key(), layout::seal_numbers([1]));
                self.retention.has_groups = true;
            }
            self.groups.set(conversation, group);
        }
        if let Some(gone) = event.gone {
            self.remove_mark(conversation, gone);
        }
        for (user, rev) in here {
            self.append(user, rev, &facts.item_for(user), bytes.clone());
        }
        for (target, users) in elsewhere {
            let intent = Intent { what: Intended::Message { conversation, seq }, users };
            let arrival =
                if hides { Arrival::Hidden(bytes.clone()) } else { Arrival::Message(sealed.clone()) };
            self.outgoing[usize::from(target)].intend(intent, arrival);
        }
        self.catch_up(overdue);
        Ok(known)
    }

    /// What a block, or one that was taken back, does to this act.
    fn veil(&self, message: &SendMessage, blocks: Option<&mut Blocks>) -> Result<Veil, Refusal> {
        let Some(blocks) = blocks else { return Ok(Veil::None) };
        let &SendMessage { conversation, sender, .. } = message;
        let changed = match message.act {
            Act::Edit { seq, .. } | Act::Delete { seq } => {
                self.hidden(conversation, sender, seq).map_err(|error| self.unreadable(&error))?
            }
            _ => None,
        };
        let is_deletion = matches!(message.act, Act::Delete { .. });
        let is_cut = self.judge_block(conversation, blocks, sender, is_deletion)?;
        // What changes something that the other one does not see is not for that one either.
        let is_cut = is_cut && !planted::BLOCKED_WRITES_THROUGH.strikes(20);
        if is_cut || changed.as_ref().is_some_and(|changed| !changed.entry.is_empty()) {
            return Ok(Veil::Hides(changed));
        }
        let overdue = self.overdue(conversation, blocks).map_err(|error| self.unreadable(&error))?;
        Ok(Veil::Lifts(overdue))
    }

    /// Whether anything can be promised.
    pub(super) fn may_write(&self) -> Result<(), Refusal> {
        match self.health {
            Health::Good => Ok(()),
            Health::Full => Err(Refusal::StorageFull),
            Health::Failed => Err(Refusal::StorageFailed),
        }
    }

    /// Whether somebody may do what they want, and what it is as an event.
    fn judge(&mut self, message: &SendMessage, last: Seq, is_split: bool) -> Result<Event, Refusal> {
        let &SendMessage { conversation, sender, .. } = message;
        let group = match conversation.users() {
            Some(_) => None,
            None => Some(self.group(conversation).map_err(|error| self.unreadable(&error))?),
        };
        if let Act::Group(change) = &message.act {
            let Some(group) = group else { return Err(Refusal::NotAllowed) };
            return self.judge_change(&group, message, change, last.next());
        }
        let mut visible_from = visible_from(group.as_deref(), sender)?;
        if !matches!(message.act, Act::Say { reply_to: None, .. }) {
            let floor = self.floor(conversation).map_err(|error| self.unreadable(&error))?;
            visible_from = visible_from.max(floor.seq);
        }
        let recipients = match (conversation.users(), &group) {
            (Some((low, high)), _) => Users::from_slice(&[low, high]),
            (None, group) => {
                group.iter().flat_map(|group| group.members()).map(|member| member.user).collect()
            }
        };
        let is_there = |seq: Seq| (visible_from..=last).contains(&seq);
        let event = Event { body: Bytes::new(), reply_to: None, recipients, group: None, gone: None };
        match &message.act {
            Act::Say { body, reply_to } => match *reply_to {
                Some(seq) if !is_there(seq) => Err(Refusal::UnknownMessage),
                reply_to => Ok(Event { body: body.clone(), reply_to, ..event }),
            },
            &Act::Edit { seq, .. } | &Act::Delete { seq } => {
                if !is_there(seq) {
                    return Err(Refusal::UnknownMessage);
                }
                let author = self.author_of(conversation, seq, is_split.then_some(sender))?;
                let kind = match &message.act {
                    Act::Edit { content, .. } => {
                        let content = chat::Content::decode(content.clone()).unwrap_or_default();
                        body::Kind::Edited(chat::Edited { seq: seq.0, content: Some(content) })
                    }
                    _ => body::Kind::Deleted(chat::Deleted { seq: seq.0 }),
                };
                let moderates = matches!(kind, body::Kind::Deleted(_))
                    && group
                        .as_ref()
                        .and_then(|group| group.member(sender))
                        .is_some_and(|member| member.role >= Role::Admin);
                if author != sender && !moderates {
                    return Err(Refusal::NotAllowed);
                }
                Ok(Event { body: encode(kind), ..event })
            }
            Act::Group(_) => unreachable!("judged above"),
        }
    }

    fn judge_change(
        &self,
        group: &Arc<Group>,
        message: &SendMessage,
        change: &GroupChange,
        seq: Seq,
    ) -> Result<Event, Refusal> {
        let most = usize::from(self.identity.limits.group_members);
        let kind = group.decide(message.sender, change, most)?;
        let mut after = Group::clone(group);
        let gone = after.apply(seq, message.sender, &kind);
        let mut recipients: Users = after.members().iter().map(|member| member.user).collect();
        if let Some(gone) = gone {
            // In the order of their ids, like all the others.
            let at = recipients.partition_point(|&user| user < gone);
            recipients.insert(at, gone);
        }
        Ok(Event { body: encode(kind), reply_to: None, recipients, group: Some(after), gone })
    }

    /// Who wrote a message that can be edited or taken back; `reader`: who looks, where not everybody sees everything.
    fn author_of(
        &self,
        conversation: ConversationId,
        seq: Seq,
        reader: Option<UserId>,
    ) -> Result<UserId, Refusal> {
        let read = || -> Result<Option<UserId>, StoreError> {
            let key = layout::message_key(conversation, seq);
            let own = match reader {
                Some(reader) => self.hidden(conversation, reader, seq)?,
                None => None,
            };
            let entry = match (self.pending_or_stored(Table::Messages, &key)?, &own) {
                (Some(sealed), _) => layout::open(Table::Messages, &key, &sealed)?,
                (None, Some(own)) if !own.entry.is_empty() => own.entry.clone(),
                _ => return Ok(None),
            };
            let entry = MessageEntry::decode(&entry)
                .ok_or_else(|| layout::corrupt(Table::Messages, &key, "it is no entry"))?;
            if !inbox::says_something(entry.body) {
                return Ok(None);
            }
            let by = self.pending_or_stored(Table::Amended, &key)?;
            let by = by.map(|by| history::open_amended(&key, &by)).transpose()?;
            let by = by.max(own.map(|own| own.change).filter(|&change| change > Seq(0)));
            let Some(by) = by else { return Ok(Some(entry.sender)) };
            let by_key = layout::message_key(conversation, by);
            let change = match (self.pending_or_stored(Table::Messages, &by_key)?, reader) {
                (Some(sealed), _) => Some(layout::open(Table::Messages, &by_key, &sealed)?),
                (None, Some(reader)) => self.hidden(conversation, reader, by)?.map(|hidden| hidden.entry),
                (None, None) => None,
            };
            let Some(change) = change else {
                return Err(layout::corrupt(Table::Amended, &key, "the change that it names is not there"));
            };
            let change =
                MessageEntry::decode(&change).and_then(|change| chat::Body::decode(change.body).ok());
            let is_gone = matches!(change.and_then(|body| body.kind), Some(body::Kind::Deleted(_)));
            Ok((!is_gone).then_some(entry.sender))
        };
        read().map_err(|error| self.unreadable(&error))?.ok_or(Refusal::UnknownMessage)
    }

    /// A value as the present batch leaves it.
    pub(super) fn pending_or_stored(&self, table: Table, key: &Key) -> Result<Option<Bytes>, StoreError> {
        let pending =
            self.batch.writes().iter().rev().find(|write| write.table == table && write.key == *key);
        match pending {
            Some(write) => Ok(write.value.clone()),
            None => self.store.get(table, key),
        }
    }

    /// Where the inboxes of these users are, and what is next in those of this database.
    pub(super) fn locate(&mut self, users: &Users) -> Result<Recipients, Refusal> {
        let mut recipients = Recipients { here: SmallVec::new(), elsewhere: SmallVec::new() };
        for &user in users {
            if planted::DROPS_INBOX_WRITE.strikes(10_000) {
                continue;
            }
            let owner = self.owner_of(user);
            if owner == self.identity.number {
                let head = self.head(user).map_err(|error| self.unreadable(&error))?;
                recipients.here.push((user, head.next()));
                continue;
            }
            match recipients.elsewhere.iter_mut().find(|(target, _)| *target == owner) {
                Some((_, users)) => users.push(user),
                None if self.outgoing[usize::from(owner)].is_full() => return Err(Refusal::StorageFull),
                None => recipients.elsewhere.push((owner, Users::from_slice(&[user]))),
            }
        }
        Ok(recipients)
    }

    /// The first event of a conversation that a user may read.
    pub(super) fn visible_from(
        &mut self,
        conversation: ConversationId,
        user: UserId,
    ) -> Result<Seq, Refusal> {
        match conversation.users() {
            Some((low, high)) if low < high && (user == low || user == high) => Ok(Seq(1)),
            Some(_) => Err(Refusal::UnknownConversation),
            None => {
                let group = self.group(conversation).map_err(|error| self.unreadable(&error))?;
                if planted::REMOVED_READS.is_planted() && group.exists() && group.member(user).is_none() {
                    return Ok(Seq(1));
                }
                visible_from(Some(&group), user)
            }
        }
    }

    /// One thing cannot be read: this request is refused, others may go on.
    pub(super) fn unreadable(&self, error: &StoreError) -> Refusal {
        tracing::error!(worker = self.identity.number, %error, "a request is refused");
        Refusal::StorageFailed
    }
}

/// From where a member may read; a direct conversation has no group, and its two users read all of it.
fn visible_from(group: Option<&Group>, user: UserId) -> Result<Seq, Refusal> {
    let Some(group) = group else { return Ok(Seq(1)) };
    let member = group.member(user).ok_or(Refusal::UnknownConversation)?;
    if planted::LATECOMER_READS.is_planted() {
        return Ok(Seq(1));
    }
    Ok(group.visible_from(member))
}

fn encode(kind: body::Kind) -> Bytes {
    chat::Body { kind: Some(kind) }.encode_to_vec().into()
}
