//! The books on groups: every message goes to all members of its sender's group, the sender included.
//!
//! Members are divided into groups of equal size, in the order of their numbers; a group's first member makes it. What
//! is checked of each delivery (one event that reaches one member's device):
//!
//! - the inbox: `rev` rises by one;
//! - the group: `seq` rises by one, from the group's first event on, for each reader;
//! - the message: what stands at a `seq` is the same for every reader and for the sender's `accepted`, its stamp and
//!   its checksum are right, and a sender's messages have `seq`s in the order in which they were sent. As each reader
//!   sees `seq`s in order, that is the order per sender and receiver too.
//!
//! The first event of a `seq` is decoded and judged; the others are compared with it by the checksum of the whole
//! encoded entry. So a delivery costs no allocation and no search: an index into the readers, one into the log.
//!
//! Memory is bounded: 128 bytes per member at most, the ring of each group, and 16 for each message that has not been
//! acked (64 per member at most).
//!
//! Sans-IO: time is an argument, and nothing here sends.

mod log;

use std::time::Duration;

use holdfast_protocol::chat::{self, Body, CreateGroup, Send, body, client_frame, entry};
use holdfast_reactor::Moment;
use prost::Message as _;

use super::ledger::{CREATION, Ledger, Place};
use super::{Counts, Settlement, outbox};
use crate::sequence::{Arrival, SequenceWindow};
use crate::stamp::{Stamp, StampError};
use crate::wire::{self, RawEvent};
use log::{Kind, Log, Slot};

/// What one member's device has seen.
#[derive(Debug, Clone, Copy, Default)]
struct Reader {
    place: Place,
    /// `seq`s of its group; 0 counts as seen.
    seqs: SequenceWindow,
    /// Of everything that it saw at its `seq`s, in whatever order: see [`Slot::mix`].
    sum: u64,
    /// Sound messages that reached it, own ones included.
    messages: u32,
    /// Own ones among them.
    own: u32,
    /// It got something that it could not make out: its sum says nothing.
    is_tainted: bool,
    /// It had no time to get everything.
    is_excused: bool,
}

/// What one member has sent.
#[derive(Debug, Clone, Copy)]
struct Sender {
    /// Accepted by the server.
    acked: SequenceWindow,
    /// Seen by anybody.
    logged: SequenceWindow,
    list: outbox::List,
    sent: u32,
    /// The latest that was seen by anybody, by `seq`.
    last_seq: u32,
    last_number: u32,
    /// It was refused something and sent it again, perhaps after later ones.
    was_deferred: bool,
}

const _: () = assert!(size_of::<Reader>() + size_of::<Sender>() <= 136);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Creation {
    Not,
    Asked,
    Made,
}

#[derive(Debug, Clone)]
struct Group {
    /// Its id, once anybody has named it.
    conversation: String,
    /// The greatest `seq` that was named.
    head: u32,
    creation: Creation,
    /// Messages that were accepted before these books were opened.
    owed: u32,
}

/// How the members of a run are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Division {
    /// The run.
    pub run: u32,
    /// Members of each group: at least 2, at most [`Division::MEMBERS_MAX`].
    pub group_members: u32,
    /// `seq`s of a group that are remembered.
    pub slots_per_group: u32,
}

impl Division {
    /// Members of a group at most: what the log can tell apart.
    pub const MEMBERS_MAX: u32 = 10_000;
    /// Memory of all rings where messages come as they are sent.
    pub const LOG_BYTES: u64 = 32 << 20;
    /// A ring's length at least: what all members of a small group may have under way is less.
    const SLOTS_MIN: u32 = 64;

    /// Rings as long as `wanted` if all of them do not take more than `log_bytes`, shorter ones otherwise.
    #[must_use]
    pub fn new(run: u32, group_members: u32, groups: u32, wanted: u32, log_bytes: u64) -> Self {
        let affordable = log_bytes / size_of::<Slot>() as u64 / u64::from(groups.max(1));
        // The power of two that is not above it.
        let affordable = 1u32 << affordable.clamp(1, 1 << 20).ilog2();
        let slots_per_group = affordable.min(wanted.next_power_of_two()).max(Self::SLOTS_MIN);
        Self { run, group_members, slots_per_group }
    }

    /// The name of a group: by it members know theirs.
    #[must_use]
    pub fn title(&self, group: u32) -> String {
        format!("load {:08x}.{group:x}", self.run)
    }

    /// The `clientId` of the request that makes a group.
    #[must_use]
    pub fn creation_id(&self, group: u32) -> String {
        format!("{:08x}.g{group:x}", self.run)
    }

    /// The `clientId` of a message: unique over runs, senders and messages.
    #[must_use]
    pub fn client_id(&self, sender: u32, number: u32) -> String {
        format!("{:08x}.{sender:x}.{number:x}", self.run)
    }

    /// The number in a `clientId`, if this sender gave it in this run.
    #[must_use]
    pub fn number_of(&self, sender: u32, client_id: &str) -> Option<u32> {
        let mut parts = client_id.split('.').map(|part| u32::from_str_radix(part, 16).ok());
        let ours = parts.next()?? == self.run && parts.next()?? == sender;
        parts.next()?.filter(|_| ours)
    }

    /// The request that makes a group. `users` says which user a member is.
    pub fn create(&self, group: u32, users: impl Fn(u32) -> u64) -> CreateGroup {
        let first = group * self.group_members;
        CreateGroup {
            client_id: self.creation_id(group),
            title: self.title(group),
            members: (first + 1..first + self.group_members).map(users).collect(),
            open_history: false,
        }
    }
}

/// Groups that are being made at the same time, by one thread.
const CREATIONS_MAX: u32 = 64;

/// The books of one thread's groups.
#[derive(Debug)]
pub struct GroupBooks {
    division: Division,
    first_member: u32,
    first_group: u32,
    readers: Vec<Reader>,
    senders: Vec<Sender>,
    groups: Vec<Group>,
    log: Log,
    outbox: outbox::Outbox,
    /// Groups from here on have not been asked for.
    next_creation: u32,
    creating: u32,
    made: u32,
    /// Members that know their group.
    told: u32,
    broken: Option<String>,
    /// See [`Counts`].
    pub counts: Counts,
}

/// What an event turned out to be, seen for itself.
enum Verdict {
    /// It stands in our group, at this place.
    Ours(Slot),
    /// Somebody else's.
    Foreign,
    /// Ours, and damaged.
    Corrupted,
    /// Ours, and not for this member or of this sender.
    Misrouted,
}

impl GroupBooks {
    /// Empty books for members `first_member` and on, whole groups. `owed` says how many messages of each group had been
    /// accepted before.
    #[must_use]
    pub fn new(division: Division, first_member: u32, members: u32, owed: u32) -> Self {
        let mut reader = Reader::default();
        // Events of a group begin with 1.
        reader.seqs.observe(0);
        let sender = Sender {
            acked: SequenceWindow::default(),
            logged: SequenceWindow::default(),
            list: outbox::List::EMPTY,
            sent: 0,
            last_seq: 0,
            last_number: 0,
            was_deferred: false,
        };
        let groups = members / division.group_members;
        let group = Group { conversation: String::new(), head: 0, creation: Creation::Not, owed };
        Self {
            division,
            first_member,
            first_group: first_member / division.group_members,
            readers: vec![reader; members as usize],
            senders: vec![sender; members as usize],
            groups: vec![group; groups as usize],
            log: Log::new(groups, division.slots_per_group),
            outbox: outbox::Outbox::default(),
            next_creation: 0,
            creating: 0,
            made: 0,
            told: 0,
            broken: None,
            counts: Counts::default(),
        }
    }

    const fn group_of(&self, member: u32) -> u32 {
        member / self.division.group_members
    }

    const fn is_owner(&self, member: u32) -> bool {
        member.is_multiple_of(self.division.group_members)
    }

    /// What has not come to this member is not to be called lost.
    pub fn excuse(&mut self, member: u32) {
        self.readers[member as usize].is_excused = true;
    }

    /// The group has this id, said somebody who may know.
    fn named(&mut self, group: u32, conversation: &str) {
        let known = &mut self.groups[group as usize].conversation;
        if known.is_empty() {
            conversation.clone_into(known);
        } else if known != conversation {
            // One group under two ids: made twice.
            self.counts.seqs_conflicting += 1;
        }
    }

    /// A place in the log, when a message is known to stand there.
    fn promise(&mut self, group: u32, promised: Slot) {
        let slot = self.log.slot(group, promised.seq);
        if slot.seq == promised.seq {
            self.counts.seqs_conflicting += u64::from(!slot.agrees(&promised));
        } else if slot.seq < promised.seq {
            *slot = promised;
        }
        let head = &mut self.groups[group as usize].head;
        *head = promised.seq.max(*head);
    }

    /// A delivery that is like one seen before, or judged by now.
    fn arrive(&mut self, member: u32, slot: Slot, now: Moment) {
        let place_in_group = (member % self.division.group_members) as u16;
        let reader = &mut self.readers[member as usize];
        let arrival = reader.seqs.observe(slot.seq);
        if arrival == Arrival::Duplicate {
            self.counts.duplicated += 1;
            return;
        }
        reader.sum = reader.sum.wrapping_add(slot.mix);
        match slot.kind {
            Kind::Sound | Kind::Promised if arrival != Arrival::Late => {}
            Kind::Sound | Kind::Promised | Kind::Reordered => self.counts.reordered += 1,
            Kind::Resequenced => self.counts.resequenced += 1,
            Kind::Doubled => {
                self.counts.duplicated += 1;
                return;
            }
            Kind::Plain => {
                self.told += u32::from(slot.seq == 1);
                return;
            }
        }
        reader.messages += 1;
        if slot.sender == place_in_group {
            reader.own += 1;
            self.counts.own += 1;
        } else {
            self.counts.delivered += 1;
            let latency = now.0.saturating_sub(slot.intended_ns);
            self.counts.delivered_latency.record(Duration::from_nanos(latency));
        }
    }

    /// A delivery that is not known by its checksum: the first of its `seq`, or one that differs.
    fn examine(
        &mut self,
        member: u32,
        message: &chat::Message,
        print: Option<u32>,
        now: Moment,
        users: impl Fn(u32) -> u64,
    ) {
        let group = self.group_of(member);
        let mut found = match self.judge(member, message, users) {
            Verdict::Ours(slot) => slot,
            Verdict::Foreign => {
                self.counts.foreign += 1;
                return;
            }
            Verdict::Corrupted => {
                self.counts.corrupted += 1;
                self.pass_over(member, message);
                return;
            }
            Verdict::Misrouted => {
                self.counts.misrouted += 1;
                self.pass_over(member, message);
                return;
            }
        };
        found.print = print.unwrap_or_default();
        found.has_print = print.is_some();
        let head = &mut self.groups[group as usize].head;
        *head = found.seq.max(*head);
        let present = *self.log.slot(group, found.seq);
        let is_known = present.seq == found.seq;
        if is_known && !present.agrees(&found) {
            self.counts.seqs_conflicting += 1;
            self.pass_over(member, message);
            return;
        }
        if is_known && present.kind != Kind::Promised {
            // The same message in other bytes: in a page of JSON, say.
            found.kind = present.kind;
        } else {
            found.kind = self.enter_in_log(group, &found, present.seq > found.seq);
            let slot = self.log.slot(group, found.seq);
            if slot.seq <= found.seq {
                *slot = found;
            }
        }
        self.arrive(member, found, now);
    }

    /// The place of what is not to be counted as delivered has come, all the same.
    fn pass_over(&mut self, member: u32, message: &chat::Message) {
        let group = &self.groups[self.group_of(member) as usize];
        if message.conversation == group.conversation
            && let Ok(seq) = u32::try_from(message.seq)
        {
            let reader = &mut self.readers[member as usize];
            reader.seqs.observe(seq);
            reader.is_tainted = true;
        }
    }

    /// The first event of a `seq`: is it in its sender's order? `is_overtaken`: the ring has gone on, so it may well
    /// have been seen before.
    fn enter_in_log(&mut self, group: u32, found: &Slot, is_overtaken: bool) -> Kind {
        if found.kind == Kind::Plain {
            return Kind::Plain;
        }
        let sender = group * self.division.group_members + u32::from(found.sender);
        let sender = &mut self.senders[sender as usize];
        if is_overtaken && sender.logged.contains(found.number) {
            return Kind::Sound;
        }
        if sender.logged.observe(found.number) == Arrival::Duplicate {
            return Kind::Doubled;
        }
        let is_first = sender.last_seq == 0;
        let in_order = (found.seq > sender.last_seq) == (found.number > sender.last_number);
        if found.seq > sender.last_seq {
            (sender.last_seq, sender.last_number) = (found.seq, found.number);
        }
        match (is_first || in_order, sender.was_deferred) {
            (true, _) => Kind::Sound,
            (false, true) => Kind::Resequenced,
            (false, false) => Kind::Reordered,
        }
    }

    /// What a message says of itself, and whether that can be.
    fn judge(&mut self, member: u32, message: &chat::Message, users: impl Fn(u32) -> u64) -> Verdict {
        let local = self.group_of(member);
        let group = self.first_group + local;
        let first = group * self.division.group_members;
        let is_ours = self.is_of_this_run(&message.client_id);
        let kind = message.body.as_ref().and_then(|body| body.kind.as_ref());
        if let Some(body::Kind::GroupCreated(created)) = kind
            && created.title == self.division.title(group)
            && message.sender == users(first)
        {
            self.named(local, &message.conversation);
        }
        if message.conversation != self.groups[local as usize].conversation {
            return if is_ours { Verdict::Misrouted } else { Verdict::Foreign };
        }
        let Some(seq) = u32::try_from(message.seq).ok().filter(|seq| (1..SequenceWindow::END).contains(seq))
        else {
            return Verdict::Corrupted;
        };
        let text = match kind {
            Some(body::Kind::Text(text)) => text.as_bytes(),
            None => &[],
            // What happened to the group: made by nobody but the server.
            Some(_) => return Verdict::Ours(Slot::new(seq, u16::MAX, 0, 0, Kind::Plain)),
        };
        let stamp = match Stamp::parse(text) {
            Ok(stamp) if stamp.run == self.division.run => stamp,
            Ok(_) | Err(StampError::Foreign) if !is_ours => {
                return Verdict::Ours(Slot::new(seq, u16::MAX, 0, 0, Kind::Plain));
            }
            Ok(_) | Err(_) => return Verdict::Corrupted,
        };
        let place = stamp.sender.wrapping_sub(first);
        if place >= self.division.group_members
            || stamp.receiver != group
            || message.sender != users(stamp.sender)
            || message.client_id != self.division.client_id(stamp.sender, stamp.sequence)
        {
            return Verdict::Misrouted;
        }
        Verdict::Ours(Slot::new(seq, place as u16, stamp.sequence, stamp.intended_ns, Kind::Sound))
    }

    fn is_of_this_run(&self, client_id: &str) -> bool {
        client_id
            .split_once('.')
            .is_some_and(|(run, _)| u32::from_str_radix(run, 16) == Ok(self.division.run))
    }

    /// Closes one thread's books.
    fn close(&mut self, settlement: &mut Settlement) {
        let size = self.division.group_members as usize;
        for (index, group) in self.groups.iter().enumerate() {
            let members = index * size..(index + 1) * size;
            let (readers, senders) = (&self.readers[members.clone()], &self.senders[members]);
            // What was acked and has reached nobody, by sender and in all; what has reached anybody.
            let unseen: Vec<u64> =
                senders.iter().map(|sender| sender.acked.missing_from(&sender.logged)).collect();
            let logged: u64 = senders.iter().map(|sender| sender.logged.seen()).sum();
            let all = (logged + unseen.iter().sum::<u64>()).max(u64::from(group.owed));
            for ((reader, sender), unseen) in readers.iter().zip(senders).zip(unseen) {
                if reader.is_excused {
                    continue;
                }
                let own = sender.logged.seen() + unseen;
                settlement.own_lost += own.saturating_sub(u64::from(reader.own));
                let others = u64::from(reader.messages - reader.own);
                settlement.lost += (all - own).saturating_sub(others);
                settlement.counts.seqs_missing +=
                    (u64::from(group.head) + 1).saturating_sub(reader.seqs.seen());
            }
            // Who saw everything must have seen the same.
            let whole =
                |reader: &&Reader| !reader.is_tainted && reader.seqs.seen() == u64::from(group.head) + 1;
            let mut sums = readers.iter().filter(whole).map(|reader| reader.sum);
            if let Some(first) = sums.next() {
                settlement.counts.seqs_conflicting += sums.filter(|sum| *sum != first).count() as u64;
            }
        }
        settlement.unacked += self.outbox.len() as u64;
    }
}

impl Ledger for GroupBooks {
    const READS_RAW: bool = true;

    fn place(&mut self, member: u32) -> &mut Place {
        &mut self.readers[member as usize].place
    }

    fn has_room(&self, member: u32) -> bool {
        let sender = &self.senders[member as usize];
        sender.sent < sender.acked.next() + SequenceWindow::REACH
            && sender.sent < SequenceWindow::END
            && self.groups[self.group_of(member) as usize].creation == Creation::Made
    }

    fn enter(&mut self, member: u32, intended: Moment) -> u32 {
        let sender = &mut self.senders[member as usize];
        let number = sender.sent;
        sender.sent += 1;
        self.outbox.push(&mut sender.list, number, intended);
        self.counts.sent += 1;
        number
    }

    fn request(
        &self,
        member: u32,
        number: u32,
        intended: Moment,
        body_bytes: usize,
        users: impl Fn(u32) -> u64,
    ) -> client_frame::Frame {
        let local = self.group_of(member);
        let group = self.first_group + local;
        if number == CREATION {
            return client_frame::Frame::CreateGroup(self.division.create(group, users));
        }
        let sender = self.first_member + member;
        let stamp = Stamp {
            run: self.division.run,
            sender,
            receiver: group,
            sequence: number,
            intended_ns: intended.0,
        };
        let mut text = String::new();
        stamp.write(body_bytes, &mut text);
        client_frame::Frame::Send(Send {
            client_id: self.division.client_id(sender, number),
            conversation: self.groups[local as usize].conversation.clone(),
            body: Some(Body { kind: Some(body::Kind::Text(text)) }),
            reply_to: None,
        })
    }

    fn unacked(&self, member: u32) -> Vec<(u32, Moment)> {
        let creation = self.intended(member, CREATION).map(|moment| (CREATION, moment));
        creation.into_iter().chain(self.outbox.iter(self.senders[member as usize].list)).collect()
    }

    fn intended(&self, member: u32, number: u32) -> Option<Moment> {
        if number == CREATION {
            let group = &self.groups[self.group_of(member) as usize];
            let is_asked = self.is_owner(member) && group.creation == Creation::Asked;
            return is_asked.then_some(Moment(0));
        }
        let list = self.senders[member as usize].list;
        self.outbox.iter(list).find(|(unacked, _)| *unacked == number).map(|(_, intended)| intended)
    }

    fn number(&self, member: u32, client_id: &str) -> Option<u32> {
        let group = self.first_group + self.group_of(member);
        if self.is_owner(member) && client_id == self.division.creation_id(group) {
            return Some(CREATION);
        }
        self.division.number_of(self.first_member + member, client_id)
    }

    fn accepted(&mut self, member: u32, accepted: &chat::Accepted, now: Moment) {
        let group = self.group_of(member);
        let Some(number) = self.number(member, &accepted.client_id) else {
            self.counts.misrouted += 1;
            return;
        };
        if number == CREATION {
            match &accepted.conversation {
                Some(conversation) => self.named(group, conversation),
                None => {
                    self.broken = Some(
                        "the server accepted a createGroup and did not say which conversation it made".into(),
                    );
                }
            }
            let creation = &mut self.groups[group as usize].creation;
            match std::mem::replace(creation, Creation::Made) {
                Creation::Made => self.counts.acks_repeated += 1,
                Creation::Not | Creation::Asked => {
                    self.creating = self.creating.saturating_sub(1);
                    self.made += 1;
                }
            }
            return;
        }
        let sender = &mut self.senders[member as usize];
        match self.outbox.remove(&mut sender.list, number) {
            Some(intended) => {
                sender.acked.observe(number);
                self.counts.acked += 1;
                self.counts.accepted_latency.record(now.since(intended));
                let place = (member % self.division.group_members) as u16;
                match u32::try_from(accepted.seq) {
                    Ok(seq) if (1..SequenceWindow::END).contains(&seq) => {
                        self.promise(group, Slot::new(seq, place, number, intended.0, Kind::Promised));
                    }
                    _ => self.counts.seqs_conflicting += 1,
                }
            }
            None if sender.acked.contains(number) => self.counts.acks_repeated += 1,
            // An ack of something that was never sent.
            None => self.counts.misrouted += 1,
        }
    }

    fn deferred(&mut self, member: u32) {
        self.senders[member as usize].was_deferred = true;
    }

    fn refused(&mut self, member: u32, error: &chat::Error) {
        self.deferred(member);
        match self.number(member, &error.client_id) {
            Some(CREATION) => {
                self.broken = Some(format!(
                    "the server refused to make a group of {} members: {}: {}",
                    self.division.group_members, error.code, error.message
                ));
            }
            Some(number) => {
                self.outbox.remove(&mut self.senders[member as usize].list, number);
                self.counts.refused.add(&error.code);
            }
            None => self.counts.refused.add(&error.code),
        }
    }

    fn event(&mut self, member: u32, event: &chat::Event, now: Moment, users: impl Fn(u32) -> u64) {
        self.readers[member as usize].place.step(event.rev, &mut self.counts);
        match event.entry.as_ref().and_then(|entry| entry.kind.as_ref()) {
            Some(entry::Kind::Message(message)) => self.examine(member, message, None, now, users),
            // It has its place in the inbox, and is nothing that was sent here.
            _ => self.counts.foreign += 1,
        }
    }

    fn raw_event(
        &mut self,
        member: u32,
        event: RawEvent<'_>,
        now: Moment,
        users: impl Fn(u32) -> u64,
    ) -> bool {
        let print = crc32c::crc32c(event.entry);
        if let Some(seq) = wire::seq(event.entry).and_then(|seq| u32::try_from(seq).ok()) {
            let slot = *self.log.slot(self.group_of(member), seq);
            if slot.seq == seq && slot.has_print && slot.print == print {
                self.readers[member as usize].place.step(event.rev, &mut self.counts);
                self.arrive(member, slot, now);
                return true;
            }
        }
        let Ok(entry) = chat::Entry::decode(event.entry) else { return false };
        self.readers[member as usize].place.step(event.rev, &mut self.counts);
        match entry.kind {
            Some(entry::Kind::Message(message)) => self.examine(member, &message, Some(print), now, users),
            _ => self.counts.foreign += 1,
        }
        true
    }

    fn next_creation(&mut self) -> Option<u32> {
        if self.creating >= CREATIONS_MAX || self.next_creation as usize >= self.groups.len() {
            return None;
        }
        let group = self.next_creation;
        self.next_creation += 1;
        self.creating += 1;
        self.groups[group as usize].creation = Creation::Asked;
        Some(group * self.division.group_members)
    }

    fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    fn counts(&mut self) -> &mut Counts {
        &mut self.counts
    }

    fn sent(&self) -> u64 {
        self.counts.sent
    }

    fn arrived(&self) -> u64 {
        self.counts.delivered + self.counts.own
    }

    fn outstanding(&self) -> i64 {
        let counts = &self.counts;
        let unmade = (self.groups.len() as i64 - i64::from(self.made))
            + (self.readers.len() as i64 - i64::from(self.told));
        let sent = counts.sent as i64 - counts.refused.total() as i64;
        let owed = sent * (i64::from(self.division.group_members) + 1);
        unmade + owed - counts.acked as i64 - counts.own as i64 - counts.delivered as i64
    }

    fn settle(threads: Vec<Self>) -> Settlement {
        let mut settlement = Settlement { counts: Counts::default(), lost: 0, own_lost: 0, unacked: 0 };
        for mut books in threads {
            settlement.counts.merge(&books.counts);
            books.close(&mut settlement);
        }
        settlement
    }
}

#[cfg(test)]
mod tests;
