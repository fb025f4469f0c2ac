//! Who blocks whom, as far as devices have asked and were told, and what follows for what is written meanwhile.
//!
//! A block is durable when it is answered, and reaches the conversation of the two a moment later; a fault may stretch
//! the moment. So there are times in which it certainly holds, times in which it certainly does not, and times of which
//! nobody outside can say.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_protocol::chat::{self, body};
use holdfast_protocol::id::{ConversationId, UserId};

use super::judge::{Judge, conversation_of};
use super::log::{Log, kind_of};
use super::observation::DeviceIndex;
use super::violation::Contract;

/// So long after its answer a block has arrived wherever it must, and so long after the end of a fault too.
const ARRIVES_WITHIN_MS: u64 = 3_000;
const CALM_AFTER_MS: u64 = 2_000;
/// A request whose answer never came may still take effect within this time.
const LINGERS_MS: u64 = 20_000;

/// See the module's doc.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    /// (who blocks, whom) → when that was asked for, and whether to block or not any more.
    asked: BTreeMap<(u64, u64), Vec<(u64, bool)>>,
    /// The same, when somebody was told.
    told: BTreeMap<(u64, u64), Vec<(u64, bool)>>,
    /// Direct conversations in which somebody has ever asked for a block.
    split: BTreeSet<ConversationId>,
    /// Faults that may keep it from arriving: from when to when.
    disturbances: Vec<(u64, u64)>,
}

impl Blocks {
    pub(crate) fn asked(&mut self, user: u64, other: u64, blocks: bool, at_ms: u64) {
        self.split.insert(ConversationId::direct(UserId(user), UserId(other)));
        self.asked.entry((user, other)).or_default().push((at_ms, blocks));
    }

    pub(crate) fn told(&mut self, user: u64, other: u64, blocks: bool, at_ms: u64) {
        self.told.entry((user, other)).or_default().push((at_ms, blocks));
    }

    /// Something goes wrong at the server from `from_ms` to `to_ms`.
    pub(crate) fn disturbed(&mut self, from_ms: u64, to_ms: u64) {
        self.disturbances.push((from_ms, to_ms));
    }

    /// Whether one of the two may not see everything of a conversation.
    pub(crate) fn is_split(&self, conversation: ConversationId) -> bool {
        self.split.contains(&conversation)
    }

    pub(crate) fn split(&self) -> impl Iterator<Item = ConversationId> + '_ {
        self.split.iter().copied()
    }

    /// Whether a user may have blocked another one by then.
    pub(crate) fn may_have_blocked(&self, user: u64, other: u64, by_ms: u64) -> bool {
        self.asked
            .get(&(user, other))
            .is_some_and(|asked| asked.iter().any(|&(at_ms, blocks)| blocks && at_ms <= by_ms))
    }

    /// Whether a user certainly blocked another one, or certainly did not, all of that time; `None`: nobody can say.
    pub(crate) fn certain(&self, user: u64, other: u64, from_ms: u64, to_ms: u64) -> Option<bool> {
        let none = Vec::new();
        let asked = self.asked.get(&(user, other)).unwrap_or(&none);
        if !asked.iter().any(|&(at_ms, blocks)| blocks && at_ms <= to_ms) {
            return Some(false);
        }
        let told = self.told.get(&(user, other))?;
        let &(told_ms, blocks) = told.iter().rev().find(|(at_ms, _)| at_ms + ARRIVES_WITHIN_MS <= from_ms)?;
        let is_calm = !self
            .disturbances
            .iter()
            .any(|&(begin_ms, end_ms)| begin_ms <= from_ms && end_ms + CALM_AFTER_MS > from_ms);
        // Nothing else was asked for that may have come in between, or told since.
        let from = told_ms.saturating_sub(LINGERS_MS);
        let is_alone = asked.iter().all(|&(at_ms, it)| it == blocks || at_ms > to_ms || at_ms < from);
        (is_calm && is_alone).then_some(blocks)
    }
}

impl Judge {
    /// Something goes wrong at the server from `from_ms` to `to_ms`.
    pub(crate) fn disturbed(&mut self, from_ms: u64, to_ms: u64) {
        self.blocks.disturbed(from_ms, to_ms);
    }

    /// Only who blocks the other one is told to unblock first.
    pub(super) fn refused_as_blocked(&mut self, at_ms: u64, device: DeviceIndex, client_id: &str) {
        let key = (device, client_id.to_owned());
        let user = self.user(device);
        let text = self.requests.get(&key).and_then(|request| conversation_of(&request.frame));
        let text = text.unwrap_or_default().to_owned();
        let other = self.conversation(device, &text).and_then(|it| other_of(it, user));
        if other.is_none_or(|other| !self.blocks.may_have_blocked(user, other, at_ms)) {
            let facts = vec![self.fact_of_request(&key), self.fact(at_ms, device, "got `error` blocked")];
            self.accuse(Contract::Visibility, format!("user {user} has blocked nobody there"), facts);
        }
    }

    /// Whether the other one of two certainly blocked the sender of this event when it was decided.
    fn is_certainly_hidden(&self, log: &Log, seq: u64, from: u64) -> Option<bool> {
        let message = &log.event(seq)?.message;
        let device = *self.by_name.get(&(message.sender, message.device.clone()))?;
        let request = self.requests.get(&(device, message.client_id.clone()))?;
        let first_seen_ms = log.event(seq)?.first.at_ms;
        let decided_ms = request.accepted.map_or(first_seen_ms, |it| it.at_ms.min(first_seen_ms));
        self.blocks.certain(from, message.sender, request.sent_ms, decided_ms)
    }

    /// Whether a user lacks an event behind this one that is certainly not hidden from the user.
    pub(super) fn misses_some(&self, log: &Log, user: u64, has: u64) -> bool {
        (has + 1..=log.prefix).any(|seq| {
            let Some(event) = log.event(seq) else { return false };
            event.message.sender == user
                || (amends(&event.message).is_none()
                    && self.is_certainly_hidden(log, seq, user) == Some(false))
        })
    }

    /// What is certainly hidden has not come, and what is certainly not hidden has.
    pub(super) fn settle_blocks(&mut self) {
        let mut found = Vec::new();
        for conversation in self.blocks.split() {
            let Some(log) = self.logs.get(&conversation) else { continue };
            let Some((low, high)) = conversation.users() else { continue };
            for user in [low.0, high.0] {
                let Some(inbox) = self.inboxes.get(&user) else { continue };
                let has: BTreeSet<u64> = inbox.seqs_of(conversation).into_iter().collect();
                for seq in 1..=log.prefix {
                    let Some(event) = log.event(seq) else { continue };
                    let is_own = event.message.sender == user;
                    // A change of what is hidden is hidden too.
                    let changed = amends(&event.message);
                    let changes_hidden = changed.is_some_and(|seq| !has.contains(&seq));
                    let hidden = match self.is_certainly_hidden(log, seq, user) {
                        _ if is_own => Some(false),
                        _ if changes_hidden => Some(true),
                        hidden => hidden,
                    };
                    let what = match (hidden, has.contains(&seq)) {
                        (Some(true), true) => "came to user",
                        (Some(false), false) => "never came to user",
                        _ => continue,
                    };
                    let why =
                        if hidden == Some(true) { "who blocked its sender" } else { "who blocked nobody" };
                    let what = format!("{conversation} seq {seq} {what} {user}, {why}");
                    found.push((what, conversation, seq));
                }
            }
        }
        for (what, conversation, seq) in found {
            let facts = self.story_of(conversation, seq);
            self.accuse(Contract::Visibility, what, facts);
        }
    }

    /// The events of a conversation that a user sees, where not everybody sees everything.
    pub(super) fn visible_to(&self, user: u64, conversation: ConversationId) -> Option<Vec<u64>> {
        let is_split = self.blocks.is_split(conversation);
        is_split.then(|| self.inboxes.get(&user).map_or(Vec::new(), |inbox| inbox.seqs_of(conversation)))
    }
}

/// The message that this one changes.
fn amends(message: &chat::Message) -> Option<u64> {
    match kind_of(message)? {
        body::Kind::Edited(edited) => Some(edited.seq),
        body::Kind::Deleted(deleted) => Some(deleted.seq),
        _ => None,
    }
}

/// The other one of two.
fn other_of(conversation: ConversationId, user: u64) -> Option<u64> {
    let (low, high) = conversation.users()?;
    Some(if low.0 == user { high.0 } else { low.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_certain_a_while_after_its_answer_and_until_somebody_asks_otherwise() {
        let mut blocks = Blocks::default();
        assert_eq!(blocks.certain(1, 2, 100, 200), Some(false), "nobody has asked");
        blocks.asked(1, 2, true, 100_000);
        assert_eq!(blocks.certain(1, 2, 90_000, 99_999), Some(false));
        assert_eq!(blocks.certain(1, 2, 90_000, 100_000), None);
        blocks.told(1, 2, true, 100_100);
        assert_eq!(blocks.certain(1, 2, 103_000, 106_000), None);
        assert_eq!(blocks.certain(1, 2, 103_100, 106_000), Some(true));
        assert_eq!(blocks.certain(2, 1, 103_100, 106_000), Some(false), "not the other way round");
        blocks.disturbed(110_000, 112_000);
        assert_eq!(blocks.certain(1, 2, 111_000, 111_000), None);
        assert_eq!(blocks.certain(1, 2, 113_000, 113_000), None);
        assert_eq!(blocks.certain(1, 2, 114_000, 114_000), Some(true));
        blocks.asked(1, 2, false, 150_000);
        assert_eq!(blocks.certain(1, 2, 140_000, 149_999), Some(true));
        assert_eq!(blocks.certain(1, 2, 140_000, 150_000), None);
        blocks.told(1, 2, false, 150_050);
        assert_eq!(blocks.certain(1, 2, 156_000, 157_000), Some(false));
        // One that was asked for shortly before may come late.
        blocks.asked(1, 2, true, 160_000);
        blocks.asked(1, 2, false, 161_000);
        blocks.told(1, 2, false, 161_100);
        assert_eq!(blocks.certain(1, 2, 170_000, 171_000), None);
        assert!(blocks.is_split(ConversationId::direct(UserId(2), UserId(1))));
        assert!(blocks.may_have_blocked(1, 2, 100_000) && !blocks.may_have_blocked(2, 1, 900_000));
    }
}
