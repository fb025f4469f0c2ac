//! Answers, judged when everything around them is known: histories, lists, snapshots, members of groups, receipts.
//!
//! An answer may be as old as its question and as new as its arrival. So it is compared with what was known when the
//! question was sent (it must not be older) and with the logs and inboxes as they turned out (it must be one of their
//! states).

use std::collections::BTreeMap;

use holdfast_protocol::chat::{self, Role, client_frame, server_frame};
use holdfast_protocol::id::ConversationId;

use super::inbox::{Inbox, Listed};
use super::judge::{Judge, describe};
use super::log::{Log, Member, parts};
use super::observation::DeviceIndex;
use super::violation::{Contract, Fact};

/// Entries of a conversation that a snapshot shows at most, as docs/protocol.md says.
const SNAPSHOT_MESSAGES: u64 = 20;
/// What a `limit` of 0 means.
const HISTORY_MESSAGES: u32 = 50;
const LIST_CONVERSATIONS: u32 = 100;

/// A request that has an answer and no name.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) frame: client_frame::Frame,
    pub(super) at_ms: u64,
    pub(super) conversation: Option<ConversationId>,
    /// What was known of the inbox and of the conversation when it was asked.
    pub(super) known_rev: u64,
    pub(super) known_seq: u64,
    /// Marks that somebody had been told then, and when.
    pub(super) told: BTreeMap<u64, (u64, u64)>,
}

impl Question {
    pub(super) fn of(frame: &client_frame::Frame, at_ms: u64, known_rev: u64) -> Option<Self> {
        use client_frame::Frame;
        let is_one = matches!(
            frame,
            Frame::History(_)
                | Frame::Conversations(_)
                | Frame::Group(_)
                | Frame::Receipts(_)
                | Frame::Read(_)
        );
        let (frame, told) = (frame.clone(), BTreeMap::new());
        is_one.then_some(Self { frame, at_ms, conversation: None, known_rev, known_seq: 0, told })
    }

    pub(super) fn is_answered_by(&self, answer: &server_frame::Frame) -> bool {
        let is_named = |text: &str| text.parse().is_ok_and(|it| self.conversation == Some(it));
        match (&self.frame, answer) {
            (client_frame::Frame::History(_), server_frame::Frame::History(it)) => is_named(&it.conversation),
            (client_frame::Frame::Group(_), server_frame::Frame::Group(it)) => is_named(&it.conversation),
            (client_frame::Frame::Conversations(_), server_frame::Frame::Conversations(_)) => true,
            _ => false,
        }
    }

    pub(super) fn is_about_marks(&self, conversation: ConversationId) -> bool {
        let is_it = matches!(self.frame, client_frame::Frame::Read(_) | client_frame::Frame::Receipts(_));
        is_it && self.conversation == Some(conversation)
    }
}

/// Something to be judged when everything is known.
#[derive(Debug)]
pub(super) enum Deferred {
    /// A history, a list, or a group.
    Answer { at_ms: u64, device: DeviceIndex, question: Question, answer: Box<server_frame::Frame> },
    /// All parts of a snapshot.
    Snapshot { at_ms: u64, device: DeviceIndex, rev: u64, states: Vec<chat::ConversationState> },
    /// A question about a conversation was refused: the user is not in it.
    Unknown { at_ms: u64, device: DeviceIndex, question: Question },
    /// The answer to `receipts` or `read`.
    Marks { at_ms: u64, device: DeviceIndex, question: Question, receipts: chat::Receipts },
    /// A mark is smaller than it was, which is right only if its user has left meanwhile.
    MarkWentBack { conversation: ConversationId, user: u64, facts: Vec<Fact> },
}

/// A list of conversations as it was told.
struct Told<'a> {
    at_ms: u64,
    device: DeviceIndex,
    rev: u64,
    states: &'a [chat::ConversationState],
    /// Behind which conversation it begins; whether it says that there are no further ones; how many it may have.
    after: Option<ConversationId>,
    end: bool,
    limit: usize,
    is_snapshot: bool,
    known_rev: u64,
}

impl Judge {
    /// Judges what has waited, in the order of its `rev` where that matters.
    pub(super) fn settle_answers(&mut self) {
        let mut deferred = std::mem::take(&mut self.deferred);
        deferred.sort_by_key(|it| match it {
            Deferred::Answer { answer, .. } => match answer.as_ref() {
                server_frame::Frame::Conversations(list) => list.rev,
                _ => 0,
            },
            Deferred::Snapshot { rev, .. } => *rev,
            _ => 0,
        });
        for it in deferred {
            match it {
                Deferred::Answer { at_ms, device, question, answer } => match answer.as_ref() {
                    server_frame::Frame::History(history) => {
                        self.judge_history(at_ms, device, &question, history);
                    }
                    server_frame::Frame::Group(group) => self.judge_group(at_ms, device, &question, group),
                    server_frame::Frame::Conversations(list) => {
                        let client_frame::Frame::Conversations(asked) = &question.frame else { continue };
                        let limit = if asked.limit == 0 { LIST_CONVERSATIONS } else { asked.limit };
                        self.judge_list(&Told {
                            at_ms,
                            device,
                            rev: list.rev,
                            states: &list.conversations,
                            after: asked.after.parse().ok(),
                            end: list.end,
                            limit: limit as usize,
                            is_snapshot: false,
                            known_rev: question.known_rev,
                        });
                    }
                    _ => {}
                },
                Deferred::Snapshot { at_ms, device, rev, states } => self.judge_list(&Told {
                    at_ms,
                    device,
                    rev,
                    states: &states,
                    after: None,
                    end: true,
                    limit: usize::MAX,
                    is_snapshot: true,
                    known_rev: 0,
                }),
                Deferred::Unknown { at_ms, device, question } => self.judge_refusal(at_ms, device, &question),
                Deferred::Marks { at_ms, device, question, receipts } => {
                    self.judge_marks(at_ms, device, &question, &receipts);
                }
                Deferred::MarkWentBack { conversation, user, facts } => {
                    // Who leaves loses the mark.
                    if self.logs.get(&conversation).is_none_or(|log| !log.gone.contains(&user)) {
                        let what = format!("the mark of user {user} in {conversation} has gone back");
                        self.accuse(Contract::ReadMarks, what, facts);
                    }
                }
            }
        }
    }

    fn asked(&self, device: DeviceIndex, question: &Question) -> Fact {
        self.fact(question.at_ms, device, format!("asked {:?}", question.frame))
    }

    fn judge_history(
        &mut self,
        at_ms: u64,
        device: DeviceIndex,
        question: &Question,
        history: &chat::History,
    ) {
        let (Some(conversation), client_frame::Frame::History(asked)) =
            (question.conversation, &question.frame)
        else {
            return;
        };
        let user = self.user(device);
        let seqs: Vec<u64> = history.messages.iter().map(|message| message.seq).collect();
        let answered = self.fact(
            at_ms,
            device,
            format!("got `history` of {conversation}, head {}, seqs {}", history.head, ranges(&seqs)),
        );
        let mut facts = vec![self.asked(device, question), answered];
        let none = Log::new(conversation);
        let log = self.logs.get(&conversation).unwrap_or(&none);
        if history.head < question.known_seq || history.head > log.prefix {
            facts.extend(log.event(question.known_seq).map(|event| self.seen(event)));
            let what = format!("a history ends at seq {}, the log at {}", history.head, log.prefix);
            let contract =
                if history.head < question.known_seq { Contract::Durable } else { Contract::Ordered };
            return self.accuse(contract, what, facts);
        }
        let Some(visible_from) = log.state_at(history.head).visible_from(user) else {
            facts.extend(self.inboxes[&user].places.get(&conversation).and_then(|place| {
                let event = log.event(place.seq)?;
                Some(self.seen(event))
            }));
            let what = format!("user {user} reads {conversation} without being in it");
            return self.accuse(Contract::Visibility, what, facts);
        };
        let most = u64::from(if asked.limit == 0 { HISTORY_MESSAGES } else { asked.limit });
        let forward = asked.after.is_some();
        let (first, last) = match asked.after {
            Some(after) => {
                let first = (after + 1).max(visible_from);
                (first, (first + most - 1).min(history.head))
            }
            None => {
                let last =
                    asked.before.map_or(history.head, |before| before.saturating_sub(1).min(history.head));
                ((last + 1).saturating_sub(most).max(visible_from), last)
            }
        };
        let visible = self.visible_to(user, conversation);
        let wanted: Vec<u64> = match &visible {
            None => (first..=last).collect(),
            Some(visible) => {
                let visible = &visible[..visible.partition_point(|&seq| seq <= history.head)];
                match asked.after {
                    Some(after) => {
                        let behind = visible.iter().copied().filter(|&seq| seq > after);
                        behind.take(most as usize).collect()
                    }
                    None => {
                        let before = asked.before.unwrap_or(u64::MAX);
                        let end = visible.partition_point(|&seq| seq < before);
                        visible[end.saturating_sub(most as usize)..end].to_vec()
                    }
                }
            }
        };
        let is_last = match &visible {
            None => {
                if forward {
                    last >= history.head
                } else {
                    first <= visible_from
                }
            }
            Some(visible) => {
                let edge = if forward { wanted.last() } else { wanted.first() };
                let further = |&&seq: &&u64| match edge {
                    Some(&edge) if forward => seq > edge && seq <= history.head,
                    Some(&edge) => seq < edge,
                    None => false,
                };
                !visible.iter().any(|seq| further(&seq))
            }
        };
        // What is too much for one answer is left out at the far end.
        let fits = if forward { wanted.starts_with(&seqs) } else { wanted.ends_with(&seqs) };
        let is_whole = seqs.len() == wanted.len();
        let end = is_whole && is_last;
        if !fits || (seqs.is_empty() && !wanted.is_empty()) || history.end != end {
            let is_too_early = seqs.first().is_some_and(|&seq| seq < visible_from);
            let contract = if is_too_early { Contract::Visibility } else { Contract::Durable };
            let missing = wanted.iter().find(|seq| !seqs.contains(seq)).and_then(|&seq| log.event(seq));
            facts.extend(missing.map(|event| self.seen(event)));
            let what = format!(
                "a history has seqs {} with end {}, where {} with end {end} are to be seen",
                ranges(&seqs),
                history.end,
                ranges(&wanted)
            );
            return self.accuse(contract, what, facts);
        }
        for message in &history.messages {
            let is_seen = |by: &u64| visible.as_ref().is_none_or(|visible| visible.binary_search(by).is_ok());
            let changes: Vec<u64> = log.changes_of(message.seq).iter().copied().filter(is_seen).collect();
            let by = changes[..changes.partition_point(|&by| by <= history.head)].last().copied();
            if log.as_changed(message.seq, by).as_ref() != Some(message) {
                let change = by.unwrap_or(message.seq);
                facts.extend(log.event(message.seq).map(|event| self.seen(event)));
                facts.extend(log.event(change).map(|event| self.seen(event)));
                facts.push(self.fact(at_ms, device, format!("got in the history: {}", describe(message))));
                let what =
                    format!("a history tells {conversation} seq {} otherwise than its log", message.seq);
                return self.accuse(Contract::Durable, what, facts);
            }
        }
    }

    fn judge_group(
        &mut self,
        at_ms: u64,
        device: DeviceIndex,
        question: &Question,
        group: &chat::GroupState,
    ) {
        let Some(conversation) = question.conversation else { return };
        let user = self.user(device);
        let answered = self.fact(at_ms, device, format!("got {group:?}"));
        let facts = vec![self.asked(device, question), answered];
        let none = Log::new(conversation);
        let log = self.logs.get(&conversation).unwrap_or(&none);
        if group.seq < question.known_seq || group.seq > log.prefix {
            let what = format!("a group is told as of seq {}, the log goes up to {}", group.seq, log.prefix);
            return self.accuse(Contract::Ordered, what, facts);
        }
        let state = log.state_at(group.seq);
        let told: BTreeMap<u64, Member> = group
            .members
            .iter()
            .map(|it| {
                (it.user, Member { role: Role::try_from(it.role).unwrap_or_default(), joined: it.joined })
            })
            .collect();
        if !state.members.contains_key(&user) {
            let what = format!("user {user} is told of group {conversation} without being in it");
            self.accuse(Contract::Visibility, what, facts);
        } else if (&told, &group.title, group.open_history, group.retention_days)
            != (&state.members, &state.title, state.open_history, state.retention_days)
        {
            let what = format!(
                "group {conversation} is told otherwise than its log at seq {}: {state:?}",
                group.seq
            );
            self.accuse(Contract::Complete, what, facts);
        }
    }

    fn judge_refusal(&mut self, at_ms: u64, device: DeviceIndex, question: &Question) {
        let Some(conversation) = question.conversation else { return };
        let user = self.user(device);
        let Some(log) = self.logs.get(&conversation) else { return };
        let was_always = question.known_seq > 0
            && log.states_from(question.known_seq).all(|state| state.members.contains_key(&user));
        if was_always {
            let told = self.fact(at_ms, device, "got `error` unknown_conversation");
            let facts = vec![self.asked(device, question), told];
            let what = format!("user {user} is in {conversation}, and is told to be not");
            self.accuse(Contract::Complete, what, facts);
        }
    }

    fn judge_marks(
        &mut self,
        at_ms: u64,
        device: DeviceIndex,
        question: &Question,
        receipts: &chat::Receipts,
    ) {
        let Some(conversation) = question.conversation else { return };
        let user = self.user(device);
        let answered = self.fact(at_ms, device, format!("got {receipts:?}"));
        let facts = vec![self.asked(device, question), answered];
        let members: Vec<u64> = receipts.members.iter().map(|it| it.user).collect();
        if let client_frame::Frame::Read(read) = &question.frame {
            let told = receipts.members.first().map_or(0, |it| it.read);
            let is_there =
                self.inboxes.get(&user).is_some_and(|inbox| inbox.reads.contains(&(conversation, told)));
            if members != [user] || told < read.up_to {
                self.accuse(Contract::ReadMarks, "`read` was answered with another mark", facts);
            } else if told > 0 && !is_there {
                let what = format!(
                    "the mark of user {user} in {conversation}, up to {told}, never came to the inbox"
                );
                self.accuse(Contract::ReadMarks, what, facts);
            }
            return;
        }
        let Some(log) = self.logs.get(&conversation) else { return };
        let mut states = log.states_from(question.known_seq);
        let were_so = states.any(|state| state.members.keys().copied().eq(members.iter().copied()));
        drop(states);
        if !were_so {
            let what = format!("{conversation} never had these members while the question was under way");
            self.accuse(Contract::ReadMarks, what, facts);
        }
    }

    /// A list or a snapshot against the fold of the inbox at its `rev`.
    fn judge_list(&mut self, told: &Told<'_>) {
        let user = self.user(told.device);
        let &Told { at_ms, device, rev, states, end, is_snapshot, .. } = told;
        let name = if is_snapshot { "snapshot" } else { "list" };
        let answered = self.fact(at_ms, device, format!("got a {name} at rev {rev}"));
        let Some(mut inbox) = self.inboxes.remove(&user) else { return };
        let folds = inbox.fold_to(user, rev, &self.logs);
        if rev < told.known_rev || rev > inbox.prefix {
            let what =
                format!("a {name} of user {user} is as of rev {rev}, the inbox goes to {}", inbox.prefix);
            self.inboxes.insert(user, inbox);
            return self.accuse(Contract::Complete, what, vec![answered]);
        }
        let mut found = None;
        if folds {
            let wanted: Vec<(ConversationId, &Listed)> = inbox
                .list
                .iter()
                .filter(|(id, _)| told.after.is_none_or(|after| **id > after))
                .map(|(&id, listed)| (id, listed))
                .collect();
            let is_all = states.len() == wanted.len();
            if states.len() > wanted.len()
                || end != is_all
                || (states.is_empty() && !wanted.is_empty())
                || states.len() > told.limit
            {
                found = Some(format!(
                    "a {name} of user {user} has {} conversations with end {end}, the inbox at rev {rev} has {}",
                    states.len(),
                    wanted.len()
                ));
            }
            for (state, (conversation, listed)) in states.iter().zip(&wanted) {
                if found.is_some() {
                    break;
                }
                found = self.wrong_state(user, &inbox, *conversation, state, listed, is_snapshot).map(|what| {
                    format!("a {name} of user {user} at rev {rev} tells {conversation} otherwise than the inbox: {what}")
                });
            }
        }
        let place = |listed: &Listed| inbox.entry(listed.rev).map(|entry| entry.first);
        let last = inbox.list.values().max_by_key(|listed| listed.rev).and_then(place);
        let facts = last.map(|first| {
            self.fact(first.at_ms, first.device, format!("got rev {}, the last one that counts", first.rev))
        });
        self.inboxes.insert(user, inbox);
        if let Some(what) = found {
            self.accuse(Contract::Complete, what, facts.into_iter().chain([answered]).collect());
        }
    }

    fn wrong_state(
        &self,
        user: u64,
        inbox: &Inbox,
        conversation: ConversationId,
        state: &chat::ConversationState,
        listed: &Listed,
        is_snapshot: bool,
    ) -> Option<String> {
        let is = (
            state.conversation.as_str(),
            state.rev,
            state.unread,
            state.read,
            state.title.as_str(),
            Role::try_from(state.role).unwrap_or_default(),
            state.gone,
        );
        let name = conversation.to_string();
        let must = (
            name.as_str(),
            listed.rev,
            listed.unread(),
            listed.read,
            listed.title.as_str(),
            listed.role,
            listed.gone,
        );
        if is != must {
            return Some(format!(
                "(conversation, rev, unread, read, title, role, gone) is {is:?} and must be {must:?}"
            ));
        }
        let log = self.logs.get(&conversation)?;
        let seqs: Vec<u64> = state.messages.iter().map(|message| message.seq).collect();
        let mut wanted: Vec<u64> = if is_snapshot {
            (listed.seq.saturating_sub(SNAPSHOT_MESSAGES - 1).max(listed.since)..=listed.seq).collect()
        } else {
            (listed.said > 0).then_some(listed.said).into_iter().collect()
        };
        let visible = self.blocks.is_split(conversation).then(|| inbox.seqs_of(conversation));
        if let Some(visible) = &visible {
            wanted.retain(|seq| visible.binary_search(seq).is_ok());
        }
        // What was changed after the user had gone is left out, also when that was after the `rev` and before the answer;
        // whether it was yet, only the server knows.
        let later = (listed.seq + 1..).map_while(|seq| log.event(seq));
        let went = if listed.gone {
            Some(listed.seq)
        } else {
            later.into_iter().find(|event| parts(&event.message, user)).map(|event| event.message.seq)
        };
        if let Some(went) = went {
            let is_kept = |seq: &u64| seqs.contains(seq) || log.changes_of(*seq).iter().all(|&by| by <= went);
            wanted.retain(is_kept);
        }
        if !wanted.ends_with(&seqs)
            || (seqs.is_empty() && !wanted.is_empty())
            || (!is_snapshot && seqs != wanted)
        {
            return Some(format!("it shows seqs {} and must show {}", ranges(&seqs), ranges(&wanted)));
        }
        for message in &state.messages {
            // As it was when it was told: at the `rev`, or a little later.
            let is_seen = |by: &u64| visible.as_ref().is_none_or(|visible| visible.binary_search(by).is_ok());
            let changes: Vec<u64> = log.changes_of(message.seq).iter().copied().filter(is_seen).collect();
            let by_then = changes.partition_point(|&by| by <= listed.seq);
            let is_known = match message.changed_by {
                None => by_then == 0,
                Some(by) => {
                    changes.contains(&by) && changes[..by_then].last().is_none_or(|&least| by >= least)
                }
            };
            let is_later = listed.gone && message.changed_by.is_some_and(|by| by > listed.seq);
            if !is_known
                || is_later
                || log.as_changed(message.seq, message.changed_by).as_ref() != Some(message)
            {
                return Some(format!("it shows {}", describe(message)));
            }
        }
        None
    }
}

/// `1-5, 7`: the numbers in a few words.
fn ranges(seqs: &[u64]) -> String {
    let mut text = String::new();
    let mut rest = seqs;
    while let Some(&first) = rest.first() {
        let length = rest.iter().zip(first..).take_while(|(seq, wanted)| **seq == *wanted).count();
        if !text.is_empty() {
            text.push_str(", ");
        }
        text += &first.to_string();
        if length > 1 {
            text += &format!("-{}", first + length as u64 - 1);
        }
        rest = &rest[length..];
    }
    if text.is_empty() { "none".into() } else { text }
}
