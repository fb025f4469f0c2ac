//! The judge: takes what was observed, in the order in which it was, and says which contracts it contradicts.
//!
//! What one frame contradicts is said at once: a stream with a hole, a `seq` that stands for two things, an inbox that
//! goes on after its user was removed. What needs to be known whole waits for [`Judge::settle`], which is called when
//! nothing is under way and every inbox was read to its head: what never arrived, and whether lists, snapshots,
//! histories and receipts said what the inboxes and logs say.
//!
//! No I/O, no clock, no randomness: the same observations give the same judgement.
//!
//! The one invariant: **what a sound server may do in any order of messages, restarts and connections is never called
//! wrong.** So an answer is compared only with what was known when its question was sent, and with what is known in
//! the end.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use holdfast_protocol::chat::{
    self, body, client_frame, entry, error_code, parse_conversation, server_frame,
};
use holdfast_protocol::id::{ConversationId, UserId};

use super::answers::{Deferred, Question};
use super::blocks::Blocks;
use super::inbox::{Entry, Inbox, Item, Misfit};
use super::log::{Event, Log, Sighting, kind_of};
use super::observation::{Device, DeviceIndex, LineNumber, Observation, What};
use super::violation::{Contract, Fact, Hole, Violation};

/// Beyond these, only the number goes on.
const VIOLATIONS_MAX: usize = 1_000;

/// Something that a device wants done, under a name of its own.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) frame: client_frame::Frame,
    pub(super) sent_ms: u64,
    sent: u32,
    refused: u32,
    refused_ms: u64,
    /// What was known of the conversation when it was sent first.
    known: u64,
    pub(super) accepted: Option<Accepted>,
    seen: Option<(ConversationId, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Accepted {
    message_id: u64,
    seq: u64,
    pub(super) at_ms: u64,
}

/// A `sync` that was sent.
#[derive(Debug, Clone, Copy)]
struct Resync {
    after: u64,
    /// A page has come that may be its answer, or the rest of an earlier one's.
    may_be_answered: bool,
}

/// What is known of one connection.
#[derive(Debug, Default)]
struct Line {
    /// The `rev` that must come next.
    next: Option<u64>,
    /// `sync`s whose first pages have not come, or not surely; the server may pass over all but the last.
    resyncs: VecDeque<Resync>,
    gap: bool,
    every_entry: bool,
    hello_cursor: Option<u64>,
    /// The last `rev` that was known of the inbox when `hello` was sent.
    hello_known: u64,
    questions: VecDeque<Question>,
    /// Questions that an `error` may have refused, or something else that has no name either.
    in_doubt: Vec<Question>,
    snapshot: Option<(u64, Vec<chat::ConversationState>)>,
    /// Marks that it was told.
    heard: HashMap<(ConversationId, u64), u64>,
}

/// What has been looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) resends: u64,
    pub(crate) acks: u64,
    pub(crate) refusals: u64,
    /// Frames with entries count each of them.
    pub(crate) entries_seen: u64,
    pub(crate) inbox_entries: u64,
    pub(crate) events: u64,
    pub(crate) connections: u64,
    pub(crate) snapshots: u64,
    pub(crate) lists: u64,
    pub(crate) histories: u64,
    pub(crate) receipts: u64,
    pub(crate) groups: u64,
    pub(crate) gaps: u64,
}

impl Counts {
    /// Whatever the server has answered: it grows for as long as there is progress.
    pub(crate) fn answers(&self) -> u64 {
        let asked = self.snapshots + self.lists + self.histories + self.receipts + self.groups;
        asked + self.acks + self.entries_seen
    }
}

/// How far somebody has read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mark {
    /// The farthest that a device of the user has ever said.
    pub(super) sent: u64,
    /// The farthest that anybody was told, and when.
    pub(super) told: u64,
    pub(super) told_ms: u64,
}

/// See the module's doc.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    pub(super) devices: Vec<Device>,
    pub(super) by_name: HashMap<(u64, String), DeviceIndex>,
    lines: HashMap<LineNumber, Line>,
    pub(crate) logs: BTreeMap<ConversationId, Log>,
    pub(crate) inboxes: BTreeMap<u64, Inbox>,
    pub(super) requests: HashMap<(DeviceIndex, String), Request>,
    /// Acknowledged, and not seen yet.
    owed: BTreeSet<(DeviceIndex, String)>,
    ids: HashMap<u64, (ConversationId, u64)>,
    pub(super) marks: HashMap<(ConversationId, u64), Mark>,
    /// How far each device has acknowledged its inbox.
    acked: HashMap<DeviceIndex, u64>,
    pub(super) deferred: Vec<Deferred>,
    pub(super) blocks: Blocks,
    violations: Vec<Violation>,
    pub(crate) counts: Counts,
}

impl Judge {
    pub(crate) fn new(devices: Vec<Device>) -> Self {
        let mut judge = Self::default();
        for device in devices {
            judge.add_device(device);
        }
        judge
    }

    pub(crate) fn add_device(&mut self, device: Device) {
        self.inboxes.entry(device.user).or_default();
        self.by_name.insert((device.user, device.name.clone()), self.devices.len());
        self.devices.push(device);
    }

    pub(crate) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    pub(crate) fn is_sound(&self) -> bool {
        self.violations.is_empty()
    }

    /// Something that frames do not show: the server has ended, or does not start.
    pub(crate) fn accuse(&mut self, contract: Contract, what: impl Into<String>, facts: Vec<Fact>) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation { contract, what: what.into(), facts, hole: None });
        }
    }

    pub(super) fn user(&self, device: DeviceIndex) -> u64 {
        self.devices[device].user
    }

    pub(super) fn who(&self, device: DeviceIndex) -> String {
        let Device { user, name } = &self.devices[device];
        format!("user {user} {name}")
    }

    pub(super) fn fact(&self, at_ms: u64, device: DeviceIndex, text: impl Into<String>) -> Fact {
        Fact { at_ms, text: format!("{}: {}", self.who(device), text.into()) }
    }

    /// Where an event was seen first.
    pub(super) fn seen(&self, event: &Event) -> Fact {
        let Sighting { at_ms, device, rev } = event.first;
        let place = if rev > 0 { format!("rev {rev}: ") } else { String::new() };
        self.fact(at_ms, device, format!("got {place}{}", describe(&event.message)))
    }

    fn seen_entry(&self, user: u64, rev: u64) -> Option<Fact> {
        let entry = self.inboxes.get(&user)?.entry(rev)?;
        let what = match entry.item {
            Item::Message { conversation, seq } => {
                match self.logs.get(&conversation).and_then(|log| log.event(seq)) {
                    Some(event) => describe(&event.message),
                    None => format!("{conversation} seq {seq}"),
                }
            }
            Item::Read { conversation, up_to, .. } => format!("read mark {conversation} up to {up_to}"),
        };
        Some(self.fact(entry.first.at_ms, entry.first.device, format!("got rev {rev}: {what}")))
    }

    /// Takes the next observation.
    pub(crate) fn observe(&mut self, observation: &Observation) {
        let Observation { at_ms, device, line, ref what } = *observation;
        match what {
            What::Sent(frame) => self.sent(at_ms, device, line, frame),
            What::Received(frame) => self.received(at_ms, device, line, frame),
            What::Ended => {
                self.lines.remove(&line);
            }
        }
    }

    fn known_seq(&self, conversation: ConversationId) -> u64 {
        self.logs.get(&conversation).map_or(0, |log| log.known)
    }

    pub(super) fn conversation(&self, device: DeviceIndex, text: &str) -> Option<ConversationId> {
        parse_conversation(text, UserId(self.user(device))).ok()
    }

    fn sent(&mut self, at_ms: u64, device: DeviceIndex, number: LineNumber, frame: &client_frame::Frame) {
        use client_frame::Frame;
        let user = self.user(device);
        let known_rev = self.inboxes.get(&user).map_or(0, |inbox| inbox.known);
        if let Some(client_id) = client_id_of(frame) {
            let known = conversation_of(frame)
                .and_then(|text| self.conversation(device, text))
                .map_or(0, |conversation| self.known_seq(conversation));
            let request = self.requests.entry((device, client_id.to_owned()));
            let request = request.or_insert_with(|| Request {
                frame: frame.clone(),
                sent_ms: at_ms,
                sent: 0,
                refused: 0,
                refused_ms: 0,
                known,
                accepted: None,
                seen: None,
            });
            request.sent += 1;
            self.counts.requests += u64::from(request.sent == 1);
            self.counts.resends += u64::from(request.sent > 1);
            return;
        }
        match frame {
            Frame::Hello(hello) => {
                self.counts.connections += 1;
                let line = self.lines.entry(number).or_default();
                line.every_entry = hello.every_entry;
                line.hello_cursor = hello.cursor;
                line.hello_known = known_rev;
            }
            Frame::Sync(sync) => {
                let line = self.lines.entry(number).or_default();
                line.resyncs.push_back(Resync { after: sync.after, may_be_answered: false });
                line.every_entry = sync.every_entry;
            }
            Frame::Block(block) => self.blocks.asked(user, block.user, true, at_ms),
            Frame::Unblock(unblock) => self.blocks.asked(user, unblock.user, false, at_ms),
            Frame::Ack(ack) => {
                let acked = self.acked.entry(device).or_default();
                *acked = ack.rev.max(*acked);
            }
            _ => {
                let Some(mut question) = Question::of(frame, at_ms, known_rev) else { return };
                if let Some(conversation) =
                    conversation_of(frame).and_then(|text| self.conversation(device, text))
                {
                    question.known_seq = self.known_seq(conversation);
                    question.conversation = Some(conversation);
                    if let Frame::Read(read) = frame {
                        let mark = self.marks.entry((conversation, user)).or_default();
                        mark.sent = mark.sent.max(read.up_to);
                    }
                    if let Some(log) = self.logs.get(&conversation) {
                        let told = log.state().members.keys().map(|&user| {
                            (
                                user,
                                self.marks
                                    .get(&(conversation, user))
                                    .map_or((0, 0), |it| (it.told, it.told_ms)),
                            )
                        });
                        question.told = told.collect();
                    }
                }
                self.lines.entry(number).or_default().questions.push_back(question);
            }
        }
    }

    fn received(&mut self, at_ms: u64, device: DeviceIndex, number: LineNumber, frame: &server_frame::Frame) {
        use server_frame::Frame;
        match frame {
            Frame::Welcome(welcome) => self.welcomed(at_ms, device, number, welcome),
            Frame::Accepted(accepted) => self.accepted(at_ms, device, accepted),
            Frame::Event(event) => {
                let Some(line) = self.lines.get_mut(&number) else { return };
                let silent = line.gap && line.resyncs.iter().all(|resync| resync.may_be_answered);
                let expected = line.next;
                line.next = Some(event.rev + 1);
                if silent {
                    let fact = self.fact(at_ms, device, format!("got rev {}", event.rev));
                    self.accuse(
                        Contract::Complete,
                        "an event came after `gap` and before `sync`",
                        vec![fact],
                    );
                } else if expected != Some(event.rev) {
                    self.broken_stream(at_ms, device, expected, event.rev, "as an event");
                }
                self.note(at_ms, device, event);
            }
            Frame::Page(page) => self.page(at_ms, device, number, page),
            Frame::Gap(gap) => {
                self.counts.gaps += 1;
                let Some(line) = self.lines.get_mut(&number) else { return };
                line.gap = true;
                let expected = line.next;
                if expected != Some(gap.from) || gap.to < gap.from {
                    self.broken_stream(at_ms, device, expected, gap.from, "as the beginning of a `gap`");
                }
            }
            Frame::Snapshot(snapshot) => self.snapshot(at_ms, device, number, snapshot),
            Frame::Error(error) => self.refused(at_ms, device, number, error),
            Frame::Receipts(receipts) => self.receipts(at_ms, device, number, receipts),
            Frame::History(_) | Frame::Conversations(_) | Frame::Group(_) => {
                let Some(line) = self.lines.get_mut(&number) else { return };
                let is_it = line.questions.front().is_some_and(|question| question.is_answered_by(frame));
                let question = if is_it { line.questions.pop_front() } else { None };
                // Perhaps the answer to one that seemed refused.
                if let Some(at) = line.in_doubt.iter().position(|question| question.is_answered_by(frame)) {
                    line.in_doubt.swap_remove(at);
                    return;
                }
                let Some(question) = question else { return };
                match frame {
                    Frame::History(_) => self.counts.histories += 1,
                    Frame::Conversations(_) => self.counts.lists += 1,
                    _ => self.counts.groups += 1,
                }
                let answer = Box::new(frame.clone());
                self.deferred.push(Deferred::Answer { at_ms, device, question, answer });
            }
            Frame::People(people) => {
                let user = self.user(device);
                for person in people.people.iter().filter(|_| people.changed) {
                    self.blocks.told(user, person.user, person.blocked, at_ms);
                }
            }
            // Nobody here watches anybody, or asks for devices.
            Frame::Drain(_) | Frame::Pong(_) | Frame::Typing(_) | Frame::Presence(_) | Frame::Devices(_) => {}
        }
    }

    fn welcomed(&mut self, at_ms: u64, device: DeviceIndex, number: LineNumber, welcome: &chat::Welcome) {
        let acked = self.acked.get(&device).copied().unwrap_or(0);
        let line = self.lines.entry(number).or_default();
        line.next = Some(welcome.cursor + 1);
        let (asked, known) = (line.hello_cursor, line.hello_known);
        let user = self.user(device);
        let chat::Welcome { cursor, head, .. } = *welcome;
        let mut facts =
            vec![self.fact(at_ms, device, format!("got `welcome` with cursor {cursor} and head {head}"))];
        if head < known {
            facts.extend(self.seen_entry(user, known));
            let what =
                format!("the inbox of user {user} reached rev {known}, and afterwards only rev {head}");
            self.accuse(Contract::Durable, what, facts);
        } else if asked.is_some_and(|asked| asked != cursor)
            || cursor > head
            || (asked.is_none() && cursor > acked)
        {
            let what = format!("`hello` named cursor {asked:?}, the device had acknowledged {acked}");
            self.accuse(Contract::Complete, what, facts);
        }
    }

    fn broken_stream(&mut self, at_ms: u64, device: DeviceIndex, expected: Option<u64>, rev: u64, how: &str) {
        let user = self.user(device);
        let mut facts = vec![self.fact(at_ms, device, format!("got rev {rev} {how}"))];
        let Some(expected) = expected else {
            return self.accuse(Contract::Alive, "an entry came before `welcome`", facts);
        };
        facts.extend(expected.checked_sub(1).and_then(|last| self.seen_entry(user, last)));
        let what = format!("rev {expected} was to come next for user {user}, and rev {rev} came");
        self.accuse(Contract::Complete, what, facts);
    }

    fn page(&mut self, at_ms: u64, device: DeviceIndex, number: LineNumber, page: &chat::Page) {
        let Some(line) = self.lines.get_mut(&number) else { return };
        let first = page.events.first().map_or(page.head + 1, |event| event.rev);
        if let Some(at) = line.resyncs.iter().position(|resync| resync.after + 1 == first) {
            if line.gap || line.next != Some(first) {
                line.resyncs.drain(..=at);
            } else {
                // What was to come next anyway, perhaps before the server has read the `sync`: then the same comes again.
                line.resyncs.drain(..at);
                line.resyncs[0].may_be_answered = true;
            }
            line.next = Some(first);
            line.gap = false;
        }
        for event in &page.events {
            let line = self.lines.entry(number).or_default();
            let expected = line.next;
            line.next = Some(event.rev + 1);
            if expected != Some(event.rev) {
                self.broken_stream(at_ms, device, expected, event.rev, "in a page");
            }
            self.note(at_ms, device, event);
        }
        let next = self.lines.get(&number).and_then(|line| line.next).unwrap_or(0);
        if page.live && page.head + 1 != next {
            let fact =
                self.fact(at_ms, device, format!("got a live page up to rev {}", next.saturating_sub(1)));
            let what = format!("a page calls itself live, with head {}, and does not reach it", page.head);
            self.accuse(Contract::Complete, what, vec![fact]);
        }
    }

    fn snapshot(&mut self, at_ms: u64, device: DeviceIndex, number: LineNumber, part: &chat::Snapshot) {
        let user = self.user(device);
        let Some(line) = self.lines.get_mut(&number) else { return };
        let (rev, every_entry) = (part.rev, line.every_entry);
        match &mut line.snapshot {
            Some((there, states)) if *there == rev && follows(states, &part.conversations) => {
                states.extend(part.conversations.iter().cloned());
            }
            other => *other = Some((rev, part.conversations.clone())),
        }
        let mut whole = None;
        if part.end {
            whole = line.snapshot.take();
            line.gap = false;
            line.next = Some(rev + 1);
        }
        let known = line.hello_known;
        if every_entry || rev < known {
            let fact = self.fact(at_ms, device, format!("got a snapshot at rev {rev}"));
            let what = if every_entry {
                "a snapshot came though every entry was asked for"
            } else {
                "a snapshot is old"
            };
            self.accuse(Contract::Complete, what, vec![fact]);
        }
        if let Some((rev, states)) = whole {
            self.counts.snapshots += 1;
            let inbox = self.inboxes.entry(user).or_default();
            inbox.known = inbox.known.max(rev);
            self.deferred.push(Deferred::Snapshot { at_ms, device, rev, states });
        }
    }

    /// An inbox entry, however it has come.
    fn note(&mut self, at_ms: u64, device: DeviceIndex, event: &chat::Event) {
        self.counts.entries_seen += 1;
        let user = self.user(device);
        let rev = event.rev;
        let first = Sighting { at_ms, device, rev };
        let item =
            match event.entry.as_ref().and_then(|entry| entry.kind.as_ref()) {
                Some(entry::Kind::Message(message)) => message
                    .conversation
                    .parse()
                    .ok()
                    .map(|conversation| Item::Message { conversation, seq: message.seq }),
                Some(entry::Kind::Read(mark)) => mark.conversation.parse().ok().map(|conversation| {
                    Item::Read { conversation, up_to: mark.up_to, ordinal: mark.ordinal }
                }),
                None => None,
            };
        let Some(item) = item.filter(|_| rev > 0) else {
            let fact = self.fact(at_ms, device, format!("got rev {rev}: {:?}", event.entry));
            return self.accuse(Contract::Alive, "an entry says nothing", vec![fact]);
        };
        if let Some(entry::Kind::Message(message)) =
            event.entry.as_ref().and_then(|entry| entry.kind.as_ref())
        {
            self.note_event(first, message);
        }
        let inbox = self.inboxes.entry(user).or_default();
        match inbox.entry(rev) {
            Some(before) if before.item == item => return,
            Some(_) => {
                let what = format!("rev {rev} of user {user} was one thing first and another later");
                let mut facts: Vec<Fact> = self.seen_entry(user, rev).into_iter().collect();
                facts.push(self.fact(at_ms, device, format!("got rev {rev}: {}", describe_entry(event))));
                return self.accuse(Contract::Ordered, what, facts);
            }
            None => {
                self.counts.inbox_entries += 1;
                inbox.insert(rev, Entry { item, first });
            }
        }
        self.advance_inbox(user);
    }

    fn advance_inbox(&mut self, user: u64) {
        while let Some((rev, misfit)) =
            self.inboxes.get_mut(&user).and_then(|inbox| inbox.advance(user, &self.logs, &self.blocks))
        {
            if let Some(misfit) = misfit {
                self.misfit(user, rev, &misfit);
            }
            let entry = self.inboxes[&user].entry(rev).copied();
            let Some(Entry { item: Item::Read { conversation, up_to, ordinal }, .. }) = entry else {
                continue;
            };
            let read = self.logs.get(&conversation).and_then(|log| log.event(up_to));
            // Where somebody was blocked, the mark moves by itself over what the user did not see.
            let moves_alone = self.blocks.is_split(conversation);
            if !moves_alone && self.marks.get(&(conversation, user)).is_none_or(|mark| mark.sent < up_to) {
                let facts = self.seen_entry(user, rev).into_iter().collect();
                let what = format!("no device of user {user} has said that it read so far");
                self.accuse(Contract::ReadMarks, what, facts);
            } else if read.is_some_and(|event| event.message.ordinal != Some(ordinal)) {
                let read = read.map(|event| self.seen(event));
                let facts = self.seen_entry(user, rev).into_iter().chain(read).collect();
                let what = format!("a mark has ordinal {ordinal}, and its message another one");
                self.accuse(Contract::ReadMarks, what, facts);
            }
        }
    }

    fn misfit(&mut self, user: u64, rev: u64, misfit: &Misfit) {
        let Some(entry) = self.inboxes[&user].entry(rev).copied() else { return };
        let mut facts: Vec<Fact> = self.seen_entry(user, rev).into_iter().collect();
        let name = match entry.item {
            Item::Message { conversation, seq } => format!("{conversation} seq {seq}"),
            Item::Read { conversation, up_to, .. } => format!("the mark {conversation} up to {up_to}"),
        };
        let (contract, other, what) = match misfit {
            &Misfit::Twice { rev: other } => (
                Contract::Once,
                other,
                format!("{name} stands twice in the inbox of user {user}: at rev {other} and at rev {rev}"),
            ),
            &Misfit::WrongWayRound { rev: other } => (
                Contract::Ordered,
                other,
                format!(
                    "{name} stands at rev {rev} of user {user}, the wrong way round with what stands at rev {other}"
                ),
            ),
            &Misfit::Hole { rev: other, from, to } => {
                let Item::Message { conversation, .. } = entry.item else { return };
                facts.extend(self.story_of(conversation, from));
                facts.extend(self.seen_entry(user, other));
                let missing = seqs(from, to);
                let what = format!("{conversation} {missing} never came to user {user}, who was in it");
                self.accuse(Contract::Durable, what, facts);
                if let Some(last) = self.violations.last_mut() {
                    last.hole = Some(Hole { user, conversation, seqs: from..=to });
                }
                return;
            }
            &Misfit::Gone { rev: other } => {
                (Contract::Visibility, other, format!("user {user} got {name} after having left {rev}"))
            }
            Misfit::NotYet => {
                (Contract::Visibility, 0, format!("user {user} got {name} without having joined"))
            }
            Misfit::Mark { what } => (Contract::ReadMarks, 0, format!("user {user} got {name}, but {what}")),
        };
        facts.extend(self.seen_entry(user, other));
        if let (Contract::Ordered, Item::Message { conversation, seq }) = (contract, entry.item) {
            // It was not lost.
            self.violations.retain(|it| {
                it.hole.as_ref().is_none_or(|hole| {
                    (hole.user, hole.conversation) != (user, conversation) || !hole.seqs.contains(&seq)
                })
            });
        }
        self.accuse(contract, what, facts);
    }

    /// What is known of an event: who sent it, what was promised, who has seen it.
    pub(super) fn story_of(&self, conversation: ConversationId, seq: u64) -> Vec<Fact> {
        let Some(event) = self.logs.get(&conversation).and_then(|log| log.event(seq)) else {
            return Vec::new();
        };
        let message = &event.message;
        let mut facts = vec![self.seen(event)];
        let Some(&device) = self.by_name.get(&(message.sender, message.device.clone())) else { return facts };
        let key = (device, message.client_id.clone());
        facts.push(self.fact_of_request(&key));
        facts.extend(self.fact_of_ack(&key));
        facts
    }

    fn fact_of_ack(&self, key: &(DeviceIndex, String)) -> Option<Fact> {
        let Accepted { message_id, seq, at_ms } = self.requests.get(key)?.accepted?;
        let text = format!("got `accepted` for clientId {} with seq {seq} and messageId {message_id}", key.1);
        Some(self.fact(at_ms, key.0, text))
    }

    /// An event of a conversation, as it was when it happened.
    fn note_event(&mut self, first: Sighting, message: &chat::Message) {
        let Ok(conversation) = message.conversation.parse::<ConversationId>() else { return };
        let log = self.logs.entry(conversation).or_insert_with(|| Log::new(conversation));
        let seq = message.seq;
        if let Some(before) = log.event(seq) {
            if before.message != *message {
                let facts = vec![
                    self.seen(&self.logs[&conversation].event(seq).expect("it is there").clone()),
                    self.seen(&Event { message: message.clone(), first }),
                ];
                let what =
                    format!("{conversation} seq {seq} is one thing to one reader and another to another");
                self.accuse(Contract::Ordered, what, facts);
            }
            return;
        }
        let event = Event { message: message.clone(), first };
        if seq == 0 || seq > log.known + 1_000_000 {
            let fact = self.seen(&event);
            return self.accuse(
                Contract::Ordered,
                format!("{conversation} has an event with seq {seq}"),
                vec![fact],
            );
        }
        self.counts.events += 1;
        log.insert(event.clone());
        let mut wrong = Vec::new();
        while let Some(judged) = log.advance() {
            if let Some(what) = judged {
                wrong.push((log.prefix, what));
            }
        }
        for (seq, what) in wrong {
            let facts =
                self.logs[&conversation].event(seq).map(|event| self.seen(event)).into_iter().collect();
            let contract = if what.contains("allowed") { Contract::Visibility } else { Contract::Ordered };
            self.accuse(contract, format!("{conversation} seq {seq}: {what}"), facts);
        }
        self.compare_with_request(conversation, &event);
        if let Some(&(there, at)) = self.ids.get(&message.message_id) {
            let other = self.logs.get(&there).and_then(|log| log.event(at)).map(|event| self.seen(event));
            let facts = other.into_iter().chain([self.seen(&event)]).collect();
            let what = format!("messageId {} stands for two messages", message.message_id);
            self.accuse(Contract::Once, what, facts);
        }
        self.ids.insert(message.message_id, (conversation, seq));
    }

    fn compare_with_request(&mut self, conversation: ConversationId, event: &Event) {
        let message = &event.message;
        let seq = message.seq;
        let key = (message.sender, message.device.clone());
        let key = self.by_name.get(&key).map(|&device| (device, message.client_id.clone()));
        let request = key.as_ref().and_then(|key| self.requests.get_mut(key));
        let (Some(key), Some(request)) = (key, request) else {
            let fact = self.seen(event);
            return self.accuse(
                Contract::Once,
                format!("nobody has sent {conversation} seq {seq}"),
                vec![fact],
            );
        };
        self.owed.remove(&key);
        let before = request.seen.replace((conversation, seq));
        let (accepted, matches) = (request.accepted, is_event_of(&request.frame, message, conversation));
        let was_refused = request.refused > 0 && request.refused >= request.sent;
        let (sent, refused_ms) = (self.fact_of_request(&key), self.requests[&key].refused_ms);
        if let Some((there, at)) = before {
            let other = self.logs.get(&there).and_then(|log| log.event(at)).map(|event| self.seen(event));
            let facts = other.into_iter().chain([sent, self.seen(event)]).collect();
            let what = format!(
                "clientId {} has happened twice: as {there} seq {at} and as {conversation} seq {seq}",
                message.client_id
            );
            self.accuse(Contract::Once, what, facts);
        } else if !matches {
            let facts = vec![sent, self.seen(event)];
            self.accuse(
                Contract::Durable,
                format!("{conversation} seq {seq} says something else than was sent"),
                facts,
            );
        } else if let Some(accepted) = accepted
            && (accepted.message_id, accepted.seq) != (message.message_id, seq)
        {
            let told = self.fact(
                accepted.at_ms,
                key.0,
                format!("got `accepted` with seq {} and messageId {}", accepted.seq, accepted.message_id),
            );
            let facts = vec![sent, told, self.seen(event)];
            self.accuse(Contract::Ordered, "a message is not where its `accepted` said".to_owned(), facts);
        } else if was_refused {
            let told = self.fact(refused_ms, key.0, format!("got `error` for clientId {}", key.1));
            let facts = vec![sent, told, self.seen(event)];
            self.accuse(Contract::Once, "what was refused has happened".to_owned(), facts);
        }
    }

    pub(super) fn fact_of_request(&self, key: &(DeviceIndex, String)) -> Fact {
        let Some(request) = self.requests.get(key) else { return self.fact(0, key.0, "sent nothing") };
        let times = if request.sent > 1 { format!(", {} times in all", request.sent) } else { String::new() };
        self.fact(request.sent_ms, key.0, format!("sent {}{times}", describe_request(&request.frame)))
    }

    fn accepted(&mut self, at_ms: u64, device: DeviceIndex, accepted: &chat::Accepted) {
        self.counts.acks += 1;
        let key = (device, accepted.client_id.clone());
        let told = Accepted { message_id: accepted.message_id, seq: accepted.seq, at_ms };
        let fact = self.fact(
            at_ms,
            device,
            format!(
                "got `accepted` for clientId {} with seq {} and messageId {}",
                key.1, told.seq, told.message_id
            ),
        );
        let Some(request) = self.requests.get_mut(&key) else {
            return self.accuse(Contract::Once, "something was accepted that nobody has sent", vec![fact]);
        };
        let before = request.accepted.replace(told);
        let (known, seen) = (request.known, request.seen);
        let conversation = match (&accepted.conversation, conversation_of(&request.frame)) {
            (Some(made), _) => made.parse().ok(),
            (None, Some(text)) => {
                let text = text.to_owned();
                self.conversation(device, &text)
            }
            (None, None) => None,
        };
        if let Some(before) = before {
            if (before.message_id, before.seq) != (told.message_id, told.seq) {
                let sent = self.fact_of_request(&key);
                let first = self.fact(
                    before.at_ms,
                    device,
                    format!("got `accepted` with seq {} and messageId {}", before.seq, before.message_id),
                );
                self.accuse(Contract::Once, "a resend got another answer", vec![sent, first, fact]);
            }
            return;
        }
        if told.seq <= known {
            let sent = self.fact_of_request(&key);
            let other =
                conversation.and_then(|it| self.logs.get(&it)?.event(known)).map(|event| self.seen(event));
            let facts = [sent, fact].into_iter().chain(other).collect();
            let what = format!("seq {} was given to what was sent after seq {known} had been seen", told.seq);
            return self.accuse(Contract::Ordered, what, facts);
        }
        if let Some(conversation) = conversation {
            let log = self.logs.entry(conversation).or_insert_with(|| Log::new(conversation));
            log.known = log.known.max(told.seq);
        }
        match seen {
            None => {
                self.owed.insert(key);
            }
            Some((there, seq)) => {
                let event = self.logs.get(&there).and_then(|log| log.event(seq)).cloned();
                if let Some(event) = event
                    && (event.message.message_id, event.message.seq) != (told.message_id, told.seq)
                {
                    let facts = vec![self.fact_of_request(&key), self.seen(&event), fact];
                    self.accuse(Contract::Ordered, "`accepted` says another place than the event", facts);
                }
            }
        }
    }

    fn refused(&mut self, at_ms: u64, device: DeviceIndex, number: LineNumber, error: &chat::Error) {
        self.counts.refusals += 1;
        if !error.client_id.is_empty() {
            if let Some(request) = self.requests.get_mut(&(device, error.client_id.clone())) {
                // What a failing disk refuses may have happened all the same.
                if !is_for_now(&error.code) {
                    request.refused += 1;
                    request.refused_ms = at_ms;
                }
                if error.code == error_code::BLOCKED {
                    self.refused_as_blocked(at_ms, device, &error.client_id);
                }
            }
            return;
        }
        let user = self.user(device);
        let known = self.lines.get(&number).map_or(0, |line| line.hello_known);
        if error.code == error_code::CURSOR_AHEAD {
            let mut facts =
                vec![self.fact(at_ms, device, format!("got `error` cursor_ahead: {}", error.message))];
            facts.extend(self.seen_entry(user, known));
            let what = format!("the inbox of user {user} had reached rev {known}, and does not any more");
            return self.accuse(Contract::Durable, what, facts);
        }
        let Some(line) = self.lines.get_mut(&number) else { return };
        let Some(question) = line.questions.pop_front() else { return };
        if error.code == error_code::UNKNOWN_CONVERSATION {
            self.deferred.push(Deferred::Unknown { at_ms, device, question });
        } else {
            line.in_doubt.push(question);
        }
    }

    fn receipts(&mut self, at_ms: u64, device: DeviceIndex, number: LineNumber, receipts: &chat::Receipts) {
        self.counts.receipts += 1;
        let me = self.user(device);
        let Ok(conversation) = receipts.conversation.parse::<ConversationId>() else { return };
        let line = self.lines.entry(number).or_default();
        // What comes unasked is never about oneself.
        let is_answer = receipts.members.iter().any(|it| it.user == me);
        let question = line
            .questions
            .front()
            .filter(|question| is_answer && question.is_about_marks(conversation))
            .cloned();
        if question.is_some() {
            line.questions.pop_front();
        }
        for &chat::MemberReceipt { user, read, delivered } in &receipts.members {
            if delivered < read {
                let fact = format!("got `receipts`: user {user} has read {conversation} up to {read}");
                let facts = vec![self.fact(at_ms, device, fact)];
                let what = format!("what user {user} has read has not arrived beyond {delivered}");
                self.accuse(Contract::ReadMarks, what, facts);
            }
            // What comes unasked goes another way, and may have been on it for longer than an answer that came before.
            let heard = match &question {
                Some(_) => 0,
                None => {
                    let heard = &mut self.lines.entry(number).or_default().heard;
                    heard.insert((conversation, user), read).unwrap_or(0)
                }
            };
            let mark = self.marks.entry((conversation, user)).or_default();
            let (sent, told) = (mark.sent, *mark);
            if read > mark.told {
                (mark.told, mark.told_ms) = (read, at_ms);
            }
            let fact = || {
                self.fact(
                    at_ms,
                    device,
                    format!("got `receipts`: user {user} has read {conversation} up to {read}"),
                )
            };
            if read > sent && !self.blocks.is_split(conversation) {
                let facts = vec![fact()];
                let what = format!("user {user} never said to have read {conversation} farther than {sent}");
                self.accuse(Contract::ReadMarks, what, facts);
                continue;
            }
            let asked = question.as_ref().and_then(|question| question.told.get(&user)).copied();
            let (before, before_ms) = match asked {
                Some(asked) if asked.0 > heard => asked,
                _ => (heard, told.told_ms.min(at_ms)),
            };
            if read < before {
                let facts = vec![
                    fact(),
                    Fact {
                        at_ms: before_ms,
                        text: format!(
                            "somebody was told that user {user} had read {conversation} up to {before}"
                        ),
                    },
                ];
                self.deferred.push(Deferred::MarkWentBack { conversation, user, facts });
            }
        }
        if let Some(question) = question {
            self.deferred.push(Deferred::Marks { at_ms, device, question, receipts: receipts.clone() });
        }
    }

    /// Whether everything that was promised has arrived, as far as can be told without looking closely.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.owed.is_empty()
            && self.inboxes.values().all(|inbox| inbox.prefix == inbox.known)
            && self.logs.values().all(|log| log.prefix == log.known && self.late(log).next().is_none())
            && self.lines.values().all(|line| line.questions.is_empty())
    }

    /// Members who do not have the last event of the log, and what the last one is that they have.
    fn late<'a>(&'a self, log: &'a Log) -> impl Iterator<Item = (u64, u64)> + 'a {
        log.state().members.iter().filter_map(|(&user, member)| {
            let inbox = self.inboxes.get(&user)?;
            let has =
                inbox.places.get(&log.conversation).map_or(0, |place| if place.gone { 0 } else { place.seq });
            let has = has.max(member.joined.saturating_sub(1));
            let is_late = has < log.prefix
                && (!self.blocks.is_split(log.conversation) || self.misses_some(log, user, has));
            is_late.then_some((user, has))
        })
    }

    /// Nothing is under way, and every inbox was read to its head: judges what had to wait for that.
    pub(crate) fn settle(&mut self) {
        for line in self.lines.values_mut() {
            line.resyncs.clear();
            line.in_doubt.clear();
        }
        let owes = !self.owed.is_empty();
        for key in std::mem::take(&mut self.owed) {
            let mut facts = vec![self.fact_of_request(&key)];
            facts.extend(self.fact_of_ack(&key));
            self.accuse(
                Contract::Durable,
                format!("clientId {} was accepted and has reached nobody", key.1),
                facts,
            );
        }
        let mut found = Vec::new();
        for (conversation, log) in &self.logs {
            // Where something that was accepted has reached nobody, that says more.
            if log.prefix < log.known && !owes {
                let next = log.prefix + 1;
                let before = log.event(log.prefix).map(|event| self.seen(event));
                let after = (next..=log.known).find_map(|seq| log.event(seq)).map(|event| self.seen(event));
                let what =
                    format!("{conversation} goes up to seq {}, and nobody has got seq {next}", log.known);
                found.push((Contract::Durable, what, before.into_iter().chain(after).collect()));
            }
            for (user, has) in self.late(log) {
                let mut facts = self.story_of(*conversation, has + 1);
                let place = self.inboxes[&user].places.get(conversation);
                facts.extend(place.and_then(|place| self.seen_entry(user, place.rev)));
                let head = self.inboxes[&user].known;
                facts.extend(self.seen_entry(user, head));
                let missing = seqs(has + 1, log.prefix);
                let what = format!(
                    "{conversation} {missing} never came to user {user}, who was in it and has everything up to rev {head}"
                );
                found.push((Contract::Durable, what, facts));
            }
        }
        for (user, inbox) in &self.inboxes {
            if inbox.prefix < inbox.known {
                let what = format!(
                    "the inbox of user {user} goes up to rev {}, and rev {} never came",
                    inbox.known,
                    inbox.prefix + 1
                );
                let facts = self.seen_entry(*user, inbox.prefix).into_iter().collect();
                found.push((Contract::Complete, what, facts));
            }
        }
        for (contract, what, facts) in found {
            self.accuse(contract, what, facts);
        }
        self.settle_blocks();
        self.settle_answers();
    }
}

/// Whether these go on where those have ended, in the order of their ids; else a snapshot has begun anew.
fn follows(those: &[chat::ConversationState], these: &[chat::ConversationState]) -> bool {
    let id = |state: &chat::ConversationState| state.conversation.parse::<ConversationId>().ok();
    match (those.last(), these.first()) {
        (Some(last), Some(first)) => id(last) < id(first),
        _ => true,
    }
}

/// `seq 4`, or `seq 4 to 6`.
fn seqs(from: u64, to: u64) -> String {
    if from == to { format!("seq {from}") } else { format!("seq {from} to {to}") }
}

/// The beginning of a text.
fn shortened(text: &str) -> String {
    let short: String = text.trim_end_matches(['ä', ' ']).chars().take(40).collect();
    if short == text { format!("{text:?}") } else { format!("{short:?}…") }
}

/// Refusals that say nothing about whether it has happened.
fn is_for_now(code: &str) -> bool {
    [error_code::STORAGE_FAILED, error_code::STORAGE_FULL, error_code::OVERLOADED, error_code::RATE_LIMITED]
        .contains(&code)
}

/// The name of a request, if it has one.
pub(crate) fn client_id_of(frame: &client_frame::Frame) -> Option<&str> {
    use client_frame::Frame;
    Some(match frame {
        Frame::Send(it) => &it.client_id,
        Frame::CreateGroup(it) => &it.client_id,
        Frame::AddMembers(it) => &it.client_id,
        Frame::RemoveMember(it) => &it.client_id,
        Frame::Leave(it) => &it.client_id,
        Frame::Rename(it) => &it.client_id,
        Frame::SetRole(it) => &it.client_id,
        Frame::SetRetention(it) => &it.client_id,
        Frame::Edit(it) => &it.client_id,
        Frame::Delete(it) => &it.client_id,
        _ => return None,
    })
}

/// The conversation that a frame is about.
pub(crate) fn conversation_of(frame: &client_frame::Frame) -> Option<&str> {
    use client_frame::Frame;
    Some(match frame {
        Frame::Send(it) => &it.conversation,
        Frame::AddMembers(it) => &it.conversation,
        Frame::RemoveMember(it) => &it.conversation,
        Frame::Leave(it) => &it.conversation,
        Frame::Rename(it) => &it.conversation,
        Frame::SetRole(it) => &it.conversation,
        Frame::SetRetention(it) => &it.conversation,
        Frame::Edit(it) => &it.conversation,
        Frame::Delete(it) => &it.conversation,
        Frame::History(it) => &it.conversation,
        Frame::Read(it) => &it.conversation,
        Frame::Receipts(it) => &it.conversation,
        Frame::Group(it) => &it.conversation,
        Frame::Typing(it) => &it.conversation,
        _ => return None,
    })
}

fn is_event_of(frame: &client_frame::Frame, message: &chat::Message, conversation: ConversationId) -> bool {
    use client_frame::Frame;
    let Some(kind) = kind_of(message) else { return false };
    let is_there = conversation_of(frame)
        .is_none_or(|text| parse_conversation(text, UserId(message.sender)) == Ok(conversation));
    let is_same = match (frame, kind) {
        (Frame::Send(sent), _) => sent.body == message.body && sent.reply_to == message.reply_to,
        (Frame::CreateGroup(sent), body::Kind::GroupCreated(made)) => {
            // In whichever order.
            let members: BTreeSet<u64> =
                sent.members.iter().copied().filter(|&it| it != message.sender).collect();
            let told: BTreeSet<u64> = made.members.iter().copied().collect();
            (&sent.title, members, sent.open_history) == (&made.title, told, made.open_history)
        }
        (Frame::AddMembers(sent), body::Kind::MembersAdded(added)) => {
            !added.users.is_empty() && added.users.iter().all(|user| sent.users.contains(user))
        }
        (Frame::RemoveMember(sent), body::Kind::MemberRemoved(removed)) => sent.user == removed.user,
        (Frame::Leave(_), body::Kind::MemberLeft(_)) => true,
        (Frame::Rename(sent), body::Kind::Renamed(renamed)) => sent.title == renamed.title,
        (Frame::SetRetention(sent), body::Kind::RetentionSet(set)) => sent.days == set.days,
        (Frame::SetRole(sent), body::Kind::RoleSet(set)) => (sent.user, sent.role) == (set.user, set.role),
        (Frame::Edit(sent), body::Kind::Edited(edited)) => {
            sent.seq == edited.seq && sent.content == edited.content
        }
        (Frame::Delete(sent), body::Kind::Deleted(deleted)) => sent.seq == deleted.seq,
        _ => false,
    };
    is_there && is_same
}

/// An event in a few words.
pub(super) fn describe(message: &chat::Message) -> String {
    let chat::Message { conversation, seq, sender, device, client_id, .. } = message;
    let what = match kind_of(message) {
        Some(body::Kind::Text(text)) => shortened(text),
        Some(other) => format!("{other:?}"),
        None => "nothing".into(),
    };
    let changed = message.changed_by.map(|by| format!(", changed by {by}")).unwrap_or_default();
    format!("{conversation} seq {seq} by user {sender} {device}, clientId {client_id}{changed}: {what}")
}

fn describe_entry(event: &chat::Event) -> String {
    match event.entry.as_ref().and_then(|entry| entry.kind.as_ref()) {
        Some(entry::Kind::Message(message)) => describe(message),
        other => format!("{other:?}"),
    }
}

pub(super) fn describe_request(frame: &client_frame::Frame) -> String {
    match frame {
        client_frame::Frame::Send(send) => {
            let text = match send.body.as_ref().and_then(|body| body.kind.as_ref()) {
                Some(body::Kind::Text(text)) => shortened(text),
                other => format!("{other:?}"),
            };
            format!("`send` to {}, clientId {}: {text}", send.conversation, send.client_id)
        }
        other => format!("{other:?}"),
    }
}
