//! The conversation's side of a message: is the sender a member, is it a resend, which `seq`, for whom.

use holdfast_protocol::id::{Seq, Snowflake, UserId};

use super::{Health, Pending, Worker};
use crate::command::{Delivery, Refusal, SendMessage};
use crate::engine::{Store, StoreError, Table};
use crate::entry::MessageEntry;
use crate::layout::{self, Intent, Known};

/// 2090: later than any right clock, earlier than the end of the ids.
const LATEST_MS: u64 = Snowflake::EPOCH_MS + (64 * 365 * 24 * 3_600_000);

impl<S: Store> Worker<S> {
    pub(super) fn decide_send(&mut self, message: &SendMessage) {
        let session = message.session;
        let answer = match self.take(message) {
            Ok(known) => Delivery::Accepted {
                session,
                client_id: message.client_id.clone(),
                message_id: known.message_id,
                seq: known.seq,
            },
            Err(why) => {
                self.counters.refused.add(1);
                Delivery::Rejected { session, client_id: Some(message.client_id.clone()), why }
            }
        };
        self.pending.push(Pending::Answer(session, answer));
    }

    fn take(&mut self, message: &SendMessage) -> Result<Known, Refusal> {
        let members = match message.conversation.users() {
            Some((low, high)) if low < high && (message.sender == low || message.sender == high) => {
                [low, high]
            }
            _ => return Err(Refusal::UnknownConversation),
        };
        let SendMessage { conversation, sender, device, client_id, .. } = message;
        let fingerprint = layout::fingerprint(*conversation, *sender, *device, client_id);
        if let Some(&known) = self.fresh.get(&fingerprint) {
            self.counters.duplicates.add(1);
            return Ok(known);
        }
        let last = self.last_seq(message.conversation).map_err(|error| self.unreadable(&error))?;
        let dedupe_key = layout::dedupe_key(&fingerprint);
        if last > Seq(0) {
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
        match self.health {
            Health::Good => {}
            Health::Full => return Err(Refusal::StorageFull),
            Health::Failed => return Err(Refusal::StorageFailed),
        }
        if members.iter().any(|&member| self.outgoing[usize::from(self.owner_of(member))].is_full()) {
            return Err(Refusal::StorageFull);
        }
        // The heads of local members are read before anything is changed: what cannot be read must not half happen.
        let mut revs = [None; 2];
        for (rev, &member) in revs.iter_mut().zip(&members) {
            if self.owner_of(member) == self.identity.number {
                *rev = Some(self.head(member).map_err(|error| self.unreadable(&error))?.next());
            }
        }

        let message_id = self.ids.next(self.now_ms.min(LATEST_MS));
        self.last_id = Some(message_id);
        let known = Known { message_id, seq: last.next() };
        let entry = MessageEntry {
            conversation: message.conversation,
            seq: known.seq,
            message_id,
            sender: message.sender,
            client_id: &message.client_id,
            device: &message.device_name,
            time_ms: message_id.timestamp_ms(),
            body: &message.body,
        };
        let sealed = layout::seal_entry(&entry);
        self.batch.put(Table::Messages, layout::message_key(message.conversation, known.seq), sealed.clone());
        self.batch.put(Table::Dedupe, dedupe_key, known.seal());
        self.fresh.insert(fingerprint, known);
        self.seqs.set(message.conversation, known.seq.0);
        self.messages += 1;
        for (rev, user) in revs.into_iter().zip(members) {
            match rev {
                Some(rev) => self.append(user, rev, sealed.clone()),
                None => {
                    let intent = Intent { conversation: message.conversation, seq: known.seq, user };
                    let target = usize::from(self.owner_of(user));
                    self.outgoing[target].intend(intent, sealed.clone());
                }
            }
        }
        Ok(known)
    }

    /// Puts an entry into a user's inbox.
    pub(super) fn append(&mut self, user: UserId, rev: holdfast_protocol::id::Rev, sealed: bytes::Bytes) {
        let entry = layout::entry_of(&sealed);
        self.batch.put(Table::Inbox, layout::inbox_key(user, rev), sealed);
        self.revs.set(user, rev.0);
        self.entries += 1;
        self.pending.push(Pending::Event { user, rev, entry });
    }

    /// One thing cannot be read: this request is refused, others may go on.
    pub(super) fn unreadable(&self, error: &StoreError) -> Refusal {
        tracing::error!(worker = self.identity.number, %error, "a request is refused");
        Refusal::StorageFailed
    }
}
