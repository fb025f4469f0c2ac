//! The books on every message of a chat: what was sent, acked, delivered, and what went wrong on the way.
//!
//! Every member sends to one other member, its *receiver*; what it sends there is one sequence, dense from 0. A
//! server that keeps its contract gives the sender one `accepted` for each, the sender one `event` of its own, and
//! the receiver one `event`, all in order. Beside the stamps the books check what the server itself promises: an
//! inbox's `rev`s and a conversation's `seq`s rise by exactly one.
//!
//! Groups have [books of their own](groups), and so have [many who send to one](funnel).
//!
//! Memory is bounded: 112 bytes per member, and 16 for each message that has not been acked (64 per member at most).
//!
//! Sans-IO: time is an argument, and nothing here sends.

pub mod funnel;
pub mod groups;
pub mod ledger;
mod outbox;
mod pairing;

use std::sync::Arc;
use std::time::Duration;

use holdfast_protocol::chat::{self, Body, Send, body, client_frame};
use holdfast_reactor::Moment;

pub use ledger::{Ledger, Place};
pub use outbox::Outbox;
pub use pairing::{Marks, Pairing};

use crate::engine::Tally;
use crate::measure::latency::Latencies;
use crate::sequence::{Arrival, SequenceWindow};
use crate::stamp::{Stamp, StampError};

/// One member's page in the books.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    /// Where its device is in its inbox.
    place: Place,
    /// Last `seq` in the conversation that it sends to.
    sent_seq: u64,
    /// Last `seq` in the conversation that it receives from, when that is another one.
    received_seq: u64,
    /// Own messages that the server accepted.
    acked: SequenceWindow,
    /// Own messages that came back as events.
    echoed: SequenceWindow,
    /// Messages to it that came as events.
    delivered: SequenceWindow,
    /// Own messages that were sent.
    sent: u32,
    /// First and last message that has not been acked.
    list: outbox::List,
}

const _: () = assert!(size_of::<Account>() <= 112);

/// What was counted.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Messages sent (each once, however often it was sent again).
    pub sent: u64,
    /// Messages that the server accepted.
    pub acked: u64,
    /// Messages that reached their receiver (each once).
    pub delivered: u64,
    /// Own messages that came back to their sender as events (each once).
    pub own: u64,
    /// Events that had come before.
    pub duplicated: u64,
    /// Events that came after a later one's.
    pub reordered: u64,
    /// The same, of senders that had been refused and had to send again: not the server's fault.
    pub resequenced: u64,
    /// Bodies that are not as they were sent.
    pub corrupted: u64,
    /// Messages that came to somebody who was not meant.
    pub misrouted: u64,
    /// Messages of somebody else: an earlier run's, for example.
    pub foreign: u64,
    /// `rev`s that came again.
    pub revs_repeated: u64,
    /// `rev`s that were left out.
    pub revs_missing: u64,
    /// `seq`s that were left out.
    pub seqs_missing: u64,
    /// `seq`s that stand for one thing here and for another there.
    pub seqs_conflicting: u64,
    /// Acks of messages that had been acked: the answer to sending them again.
    pub acks_repeated: u64,
    /// Messages that were sent again, after a refusal or on a new connection.
    pub resent: u64,
    /// Messages that the server refused for good, by code.
    pub refused: Tally,
    /// From the intended moment to `accepted`.
    pub accepted_latency: Latencies,
    /// From the intended moment to the receiver's event.
    pub delivered_latency: Latencies,
}

impl Counts {
    /// The stamp that a message of this run carries; a message without one is counted as foreign, or as corrupted when
    /// its `clientId` says that it is of this run.
    fn stamp_of(&mut self, message: &chat::Message, run: u32) -> Option<Stamp> {
        let text = match message.body.as_ref().and_then(|body| body.kind.as_ref()) {
            Some(body::Kind::Text(text)) => text.as_bytes(),
            _ => &[],
        };
        let is_ours = message.client_id.starts_with(&format!("{run:08x}."));
        match Stamp::parse(text) {
            Ok(stamp) if stamp.run == run => return Some(stamp),
            Ok(_) | Err(StampError::Foreign) if !is_ours => self.foreign += 1,
            Ok(_) | Err(_) => self.corrupted += 1,
        }
        None
    }
}

impl Counts {
    fn merge(&mut self, other: &Self) {
        self.sent += other.sent;
        self.acked += other.acked;
        self.delivered += other.delivered;
        self.own += other.own;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.resequenced += other.resequenced;
        self.corrupted += other.corrupted;
        self.misrouted += other.misrouted;
        self.foreign += other.foreign;
        self.revs_repeated += other.revs_repeated;
        self.revs_missing += other.revs_missing;
        self.seqs_missing += other.seqs_missing;
        self.seqs_conflicting += other.seqs_conflicting;
        self.acks_repeated += other.acks_repeated;
        self.resent += other.resent;
        self.refused.merge(&other.refused);
        self.accepted_latency.merge(&other.accepted_latency);
        self.delivered_latency.merge(&other.delivered_latency);
    }
}

/// The books of one thread's members.
#[derive(Debug)]
pub struct Books {
    run: u32,
    first_member: u32,
    pairing: Pairing,
    marks: Arc<Marks>,
    /// Members that send nothing.
    silent: Arc<Marks>,
    accounts: Vec<Account>,
    outbox: Outbox,
    /// See [`Counts`].
    pub counts: Counts,
}

/// All threads' books, closed.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The sum of what was counted.
    pub counts: Counts,
    /// Messages that were acked and never reached their receiver.
    pub lost: u64,
    /// Messages that were acked and never came back to their sender as events.
    pub own_lost: u64,
    /// Messages that were never acked.
    pub unacked: u64,
}

impl Settlement {
    /// True when the server kept its word: messages that it never acked may be missing, nothing else.
    #[must_use]
    pub const fn is_correct(&self) -> bool {
        let counts = &self.counts;
        let wrong = self.lost
            + self.own_lost
            + counts.duplicated
            + counts.reordered
            + counts.corrupted
            + counts.misrouted
            + counts.revs_repeated
            + counts.revs_missing
            + counts.seqs_missing
            + counts.seqs_conflicting;
        wrong == 0
    }
}

impl Books {
    /// Messages of one member that may wait for their ack: what the windows can tell apart.
    pub const UNDER_WAY_MAX: u32 = SequenceWindow::REACH;

    /// Empty books for members `first_member` and on, of one run among many.
    #[must_use]
    pub fn new(run: u32, first_member: u32, members: u32, pairing: Pairing, marks: Arc<Marks>) -> Self {
        let account = Account {
            place: Place::default(),
            sent_seq: 0,
            received_seq: 0,
            acked: SequenceWindow::default(),
            echoed: SequenceWindow::default(),
            delivered: SequenceWindow::default(),
            sent: 0,
            list: outbox::List::EMPTY,
        };
        Self {
            run,
            first_member,
            pairing,
            marks,
            silent: Arc::new(Marks::new(0)),
            accounts: vec![account; members as usize],
            outbox: Outbox::default(),
            counts: Counts::default(),
        }
    }

    /// The same books, in which these members (of all threads') send nothing.
    #[must_use]
    pub fn with_silent(self, silent: Arc<Marks>) -> Self {
        Self { silent, ..self }
    }

    /// The member that this one sends to.
    #[must_use]
    pub fn receiver(&self, member: u32) -> u32 {
        self.pairing.receiver(self.first_member + member)
    }

    /// True when the member may send another message.
    #[must_use]
    pub fn has_room(&self, member: u32) -> bool {
        let account = &self.accounts[member as usize];
        account.sent < account.acked.next() + Self::UNDER_WAY_MAX
            && account.sent < SequenceWindow::END
            && !self.silent.is_set(self.first_member + member)
    }

    /// Enters a new message and gives its number.
    pub fn enter(&mut self, member: u32, intended: Moment) -> u32 {
        let account = &mut self.accounts[member as usize];
        let number = account.sent;
        account.sent += 1;
        self.outbox.push(&mut account.list, number, intended);
        self.counts.sent += 1;
        number
    }

    /// The stamp of a message of this member's.
    #[must_use]
    pub fn stamp(&self, member: u32, number: u32, intended: Moment) -> Stamp {
        let sender = self.first_member + member;
        let receiver = self.pairing.receiver(sender);
        Stamp { run: self.run, sender, receiver, sequence: number, intended_ns: intended.0 }
    }

    /// The `clientId` of a message of this member's: unique over runs, senders and messages.
    #[must_use]
    pub fn client_id(&self, member: u32, number: u32) -> String {
        format!("{:08x}.{:x}.{number:x}", self.run, self.first_member + member)
    }

    /// The number in a `clientId` that this member gave in this run.
    fn number_of(&self, member: u32, client_id: &str) -> Option<u32> {
        let mut parts = client_id.split('.').map(|part| u32::from_str_radix(part, 16).ok());
        let ours = parts.next()?? == self.run && parts.next()?? == self.first_member + member;
        parts.next()?.filter(|_| ours)
    }

    /// Messages of this member that have not been acked, the oldest first.
    pub fn unacked(&self, member: u32) -> impl Iterator<Item = (u32, Moment)> + '_ {
        self.outbox.iter(self.accounts[member as usize].list)
    }

    /// When a message that has not been acked ought to have been sent.
    #[must_use]
    pub fn intended(&self, member: u32, number: u32) -> Option<Moment> {
        self.unacked(member).find(|(unacked, _)| *unacked == number).map(|(_, intended)| intended)
    }

    /// The server accepted a message.
    pub fn accepted(&mut self, member: u32, client_id: &str, now: Moment) {
        let Some(number) = self.number_of(member, client_id) else {
            self.counts.misrouted += 1;
            return;
        };
        let account = &mut self.accounts[member as usize];
        match self.outbox.remove(&mut account.list, number) {
            Some(intended) => {
                account.acked.observe(number);
                self.counts.acked += 1;
                self.counts.accepted_latency.record(now.since(intended));
            }
            None if account.acked.contains(number) => self.counts.acks_repeated += 1,
            // An ack of something that was never sent.
            None => self.counts.misrouted += 1,
        }
    }

    /// The server refused a message for now: it will be sent again, perhaps after later ones.
    pub fn deferred(&mut self, member: u32) {
        self.marks.set(self.first_member + member);
    }

    /// The server refused a message for good.
    pub fn refused(&mut self, member: u32, client_id: &str, code: &str) {
        self.marks.set(self.first_member + member);
        if let Some(number) = self.number_of(member, client_id) {
            self.outbox.remove(&mut self.accounts[member as usize].list, number);
        }
        self.counts.refused.add(code);
    }

    /// The number of a message of this member's that the server named.
    #[must_use]
    pub fn number(&self, member: u32, client_id: &str) -> Option<u32> {
        self.number_of(member, client_id)
    }

    /// An inbox entry came. `users` says which user a member is.
    pub fn event(&mut self, member: u32, event: &chat::Event, now: Moment, users: impl Fn(u32) -> u64) {
        self.accounts[member as usize].place.step(event.rev, &mut self.counts);
        let kind = event.entry.as_ref().and_then(|entry| entry.kind.as_ref());
        let Some(chat::entry::Kind::Message(message)) = kind else {
            self.counts.foreign += 1;
            return;
        };
        let me = self.first_member + member;
        let is_own = message.sender == users(me);
        let foreign_before = self.counts.foreign;
        let stamp = self.counts.stamp_of(message, self.run);
        // What another run has left may be of any conversation.
        let is_foreign = self.counts.foreign > foreign_before;
        let seq_went_back = !is_foreign && self.check_seq(member, is_own, message.seq);
        let Some(stamp) = stamp else { return };
        let is_for_us = if is_own { stamp.sender == me } else { stamp.receiver == me };
        if !is_for_us
            || stamp.receiver != self.pairing.receiver(stamp.sender)
            || message.sender != users(stamp.sender)
        {
            self.counts.misrouted += 1;
            return;
        }
        let account = &mut self.accounts[member as usize];
        let window = if is_own { &mut account.echoed } else { &mut account.delivered };
        let arrival = window.observe(stamp.sequence);
        if arrival == Arrival::Duplicate {
            self.counts.duplicated += 1;
            return;
        }
        if arrival == Arrival::Late && self.marks.is_set(stamp.sender) {
            self.counts.resequenced += 1;
        } else if arrival == Arrival::Late || seq_went_back {
            self.counts.reordered += 1;
        }
        if is_own {
            self.counts.own += 1;
        } else {
            self.counts.delivered += 1;
            let latency = now.0.saturating_sub(stamp.intended_ns);
            self.counts.delivered_latency.record(Duration::from_nanos(latency));
        }
    }

    /// A conversation's `seq`s rise by one, from the first one that is seen on. True when it went back.
    fn check_seq(&mut self, member: u32, is_own: bool, seq: u64) -> bool {
        let me = self.first_member + member;
        let is_mutual = self.pairing.receiver(self.pairing.receiver(me)) == me;
        let account = &mut self.accounts[member as usize];
        let last = if is_own || is_mutual { &mut account.sent_seq } else { &mut account.received_seq };
        if *last == 0 {
            *last = seq;
            return false;
        }
        if seq <= *last {
            return true;
        }
        self.counts.seqs_missing += seq - *last - 1;
        *last = seq;
        false
    }

    /// What is still expected: acks, own events and deliveries. May be negative for one thread: its members receive
    /// what another thread's have sent. The sum over all threads is 0 when everything is through.
    #[must_use]
    pub fn outstanding(&self) -> i64 {
        let counts = &self.counts;
        let sent = counts.sent as i64 - counts.refused.total() as i64;
        3 * sent - counts.acked as i64 - counts.own as i64 - counts.delivered as i64
    }

    /// Closes the books of all threads: what was acked must have arrived.
    #[must_use]
    pub fn settle(mut threads: Vec<Self>) -> Settlement {
        threads.sort_by_key(|books| books.first_member);
        let accounts: Vec<&Account> = threads.iter().flat_map(|books| &books.accounts).collect();
        let (mut lost, mut own_lost, mut unacked) = (0, 0, 0);
        for books in &threads {
            for (sender, account) in (books.first_member..).zip(&books.accounts) {
                let receiver = accounts[books.pairing.receiver(sender) as usize];
                lost += account.acked.missing_from(&receiver.delivered);
                own_lost += account.acked.missing_from(&account.echoed);
            }
            unacked += books.outbox.len() as u64;
        }
        let mut counts = Counts::default();
        threads.iter().for_each(|books| counts.merge(&books.counts));
        Settlement { counts, lost, own_lost, unacked }
    }
}

impl Ledger for Books {
    fn place(&mut self, member: u32) -> &mut Place {
        &mut self.accounts[member as usize].place
    }

    fn has_room(&self, member: u32) -> bool {
        self.has_room(member)
    }

    fn enter(&mut self, member: u32, intended: Moment) -> u32 {
        self.enter(member, intended)
    }

    fn request(
        &self,
        member: u32,
        number: u32,
        intended: Moment,
        body_bytes: usize,
        users: impl Fn(u32) -> u64,
    ) -> client_frame::Frame {
        let stamp = self.stamp(member, number, intended);
        let mut text = String::new();
        stamp.write(body_bytes, &mut text);
        client_frame::Frame::Send(Send {
            client_id: self.client_id(member, number),
            conversation: format!("@{}", users(stamp.receiver)),
            body: Some(Body { kind: Some(body::Kind::Text(text)) }),
            reply_to: None,
        })
    }

    fn unacked(&self, member: u32) -> Vec<(u32, Moment)> {
        self.unacked(member).collect()
    }

    fn intended(&self, member: u32, number: u32) -> Option<Moment> {
        self.intended(member, number)
    }

    fn number(&self, member: u32, client_id: &str) -> Option<u32> {
        self.number(member, client_id)
    }

    fn accepted(&mut self, member: u32, accepted: &chat::Accepted, now: Moment) {
        self.accepted(member, &accepted.client_id, now);
    }

    fn deferred(&mut self, member: u32) {
        self.deferred(member);
    }

    fn refused(&mut self, member: u32, error: &chat::Error) {
        self.refused(member, &error.client_id, &error.code);
    }

    fn event(&mut self, member: u32, event: &chat::Event, now: Moment, users: impl Fn(u32) -> u64) {
        self.event(member, event, now, users);
    }

    fn counts(&mut self) -> &mut Counts {
        &mut self.counts
    }

    fn sent(&self) -> u64 {
        self.counts.sent
    }

    fn arrived(&self) -> u64 {
        self.counts.delivered
    }

    fn outstanding(&self) -> i64 {
        self.outstanding()
    }

    fn settle(threads: Vec<Self>) -> Settlement {
        Self::settle(threads)
    }
}

#[cfg(test)]
mod tests;
