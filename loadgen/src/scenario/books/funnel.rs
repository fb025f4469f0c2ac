//! Books of cohorts in which many send to one: each sender writes to the reader of its cohort, who writes to nobody.
//!
//! ```text
//!   member   0       1       2       3    4       5       6       7
//!            reader  sender  sender  sender  reader  sender  …      cohorts of `senders` + 1
//! ```
//!
//! What a sender sends is one sequence, dense from 0, in a conversation of its own with the reader. As in the
//! [books of pairs](super::Books) the server owes it one `accepted`, the sender one event and the reader one, in order;
//! each inbox's `rev`s and each conversation's `seq`s rise by one.
//!
//! Memory: 112 bytes per member, and 16 for each message that has not been acked.

use std::time::Duration;

use holdfast_protocol::chat::{self, Body, Send, body, client_frame};
use holdfast_reactor::Moment;

use super::ledger::{Ledger, Place};
use super::{Books, Counts, Outbox, Settlement, outbox};
use crate::sequence::{Arrival, SequenceWindow};
use crate::stamp::Stamp;

/// One member's page; a reader uses only its place.
#[derive(Debug, Clone, Copy)]
struct Account {
    place: Place,
    /// Last `seq` of its conversation, as the sender sees it and as the reader does.
    own_seq: u64,
    read_seq: u64,
    acked: SequenceWindow,
    echoed: SequenceWindow,
    delivered: SequenceWindow,
    sent: u32,
    /// Something was refused for a moment: what was sent again may come after later ones.
    is_deferred: bool,
    list: outbox::List,
}

/// See the module's doc. Whole cohorts.
#[derive(Debug)]
pub struct FunnelBooks {
    run: u32,
    first_member: u32,
    cohort: u32,
    accounts: Vec<Account>,
    outbox: Outbox,
    counts: Counts,
}

impl FunnelBooks {
    /// Empty books for members `first_member` and on, in cohorts of one reader and `senders` senders.
    #[must_use]
    pub fn new(run: u32, first_member: u32, members: u32, senders: u32) -> Self {
        let account = Account {
            place: Place::default(),
            own_seq: 0,
            read_seq: 0,
            acked: SequenceWindow::default(),
            echoed: SequenceWindow::default(),
            delivered: SequenceWindow::default(),
            sent: 0,
            is_deferred: false,
            list: outbox::List::EMPTY,
        };
        Self {
            run,
            first_member,
            cohort: senders + 1,
            accounts: vec![account; members as usize],
            outbox: Outbox::default(),
            counts: Counts::default(),
        }
    }

    /// True when the member reads and does not write.
    #[must_use]
    pub const fn is_reader(&self, member: u32) -> bool {
        member.is_multiple_of(self.cohort)
    }

    /// What senders are still owed: acks and their own events.
    #[must_use]
    pub fn owed_to_senders(&self) -> i64 {
        let counts = &self.counts;
        let sent = counts.sent as i64 - counts.refused.total() as i64;
        2 * sent - counts.acked as i64 - counts.own as i64
    }

    const fn reader_of(&self, member: u32) -> u32 {
        member - member % self.cohort
    }

    fn client_id(&self, member: u32, number: u32) -> String {
        format!("{:08x}.{:x}.{number:x}", self.run, self.first_member + member)
    }

    /// Who sent what came to `member`, if it may have come there; local numbers.
    fn sender_of(&self, member: u32, stamp: &Stamp) -> Option<u32> {
        let sender = stamp.sender.checked_sub(self.first_member)?;
        let exists = (sender as usize) < self.accounts.len() && !self.is_reader(sender);
        let fits = exists
            && stamp.receiver == self.first_member + self.reader_of(sender)
            && if self.is_reader(member) { self.reader_of(sender) == member } else { sender == member };
        fits.then_some(sender)
    }
}

impl Ledger for FunnelBooks {
    fn place(&mut self, member: u32) -> &mut Place {
        &mut self.accounts[member as usize].place
    }

    fn has_room(&self, member: u32) -> bool {
        let account = &self.accounts[member as usize];
        !self.is_reader(member)
            && account.sent < account.acked.next() + Books::UNDER_WAY_MAX
            && account.sent < SequenceWindow::END
    }

    fn enter(&mut self, member: u32, intended: Moment) -> u32 {
        let account = &mut self.accounts[member as usize];
        let number = account.sent;
        account.sent += 1;
        self.outbox.push(&mut account.list, number, intended);
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
        let stamp = Stamp {
            run: self.run,
            sender: self.first_member + member,
            receiver: self.first_member + self.reader_of(member),
            sequence: number,
            intended_ns: intended.0,
        };
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
        self.outbox.iter(self.accounts[member as usize].list).collect()
    }

    fn intended(&self, member: u32, number: u32) -> Option<Moment> {
        let mut unacked = self.outbox.iter(self.accounts[member as usize].list);
        unacked.find(|(unacked, _)| *unacked == number).map(|(_, intended)| intended)
    }

    fn number(&self, member: u32, client_id: &str) -> Option<u32> {
        let mut parts = client_id.split('.').map(|part| u32::from_str_radix(part, 16).ok());
        let is_ours = parts.next()?? == self.run && parts.next()?? == self.first_member + member;
        parts.next()?.filter(|_| is_ours)
    }

    fn accepted(&mut self, member: u32, accepted: &chat::Accepted, now: Moment) {
        let Some(number) = self.number(member, &accepted.client_id) else {
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

    fn deferred(&mut self, member: u32) {
        self.accounts[member as usize].is_deferred = true;
    }

    fn refused(&mut self, member: u32, error: &chat::Error) {
        self.deferred(member);
        if let Some(number) = self.number(member, &error.client_id) {
            self.outbox.remove(&mut self.accounts[member as usize].list, number);
        }
        self.counts.refused.add(&error.code);
    }

    fn event(&mut self, member: u32, event: &chat::Event, now: Moment, users: impl Fn(u32) -> u64) {
        self.accounts[member as usize].place.step(event.rev, &mut self.counts);
        let kind = event.entry.as_ref().and_then(|entry| entry.kind.as_ref());
        let Some(chat::entry::Kind::Message(message)) = kind else {
            self.counts.foreign += 1;
            return;
        };
        let Some(stamp) = self.counts.stamp_of(message, self.run) else { return };
        let sender = self.sender_of(member, &stamp).filter(|_| message.sender == users(stamp.sender));
        let Some(sender) = sender else {
            self.counts.misrouted += 1;
            return;
        };
        let is_own = sender == member;
        let account = &mut self.accounts[sender as usize];
        let (last_seq, window) = if is_own {
            (&mut account.own_seq, &mut account.echoed)
        } else {
            (&mut account.read_seq, &mut account.delivered)
        };
        let seq_went_back = *last_seq >= message.seq;
        if *last_seq == 0 {
            // What was there before this run is not ours to count.
            *last_seq = message.seq;
        } else if !seq_went_back {
            self.counts.seqs_missing += message.seq - *last_seq - 1;
            *last_seq = message.seq;
        }
        let arrival = window.observe(stamp.sequence);
        if arrival == Arrival::Duplicate {
            self.counts.duplicated += 1;
            return;
        }
        if arrival == Arrival::Late && account.is_deferred {
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
        let sent = self.counts.sent as i64 - self.counts.refused.total() as i64;
        self.owed_to_senders() + sent - self.counts.delivered as i64
    }

    fn settle(threads: Vec<Self>) -> Settlement {
        let mut counts = Counts::default();
        let (mut lost, mut own_lost, mut unacked) = (0, 0, 0);
        for books in &threads {
            counts.merge(&books.counts);
            unacked += books.outbox.len() as u64;
            for account in &books.accounts {
                lost += account.acked.missing_from(&account.delivered);
                own_lost += account.acked.missing_from(&account.echoed);
            }
        }
        Settlement { counts, lost, own_lost, unacked }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: u32 = 0xabc;
    /// Two cohorts of a reader and two senders: member 7 is the first, its user 107.
    const FIRST: u32 = 7;

    fn users(member: u32) -> u64 {
        100 + u64::from(member)
    }

    struct World {
        books: FunnelBooks,
        revs: [u64; 6],
        seqs: [u64; 6],
    }

    impl World {
        fn new() -> Self {
            Self { books: FunnelBooks::new(RUN, FIRST, 6, 2), revs: [0; 6], seqs: [0; 6] }
        }

        /// A sender sends, and is told that it is accepted.
        fn send(&mut self, sender: u32) -> chat::Message {
            let number = self.books.enter(sender, Moment(5));
            let frame = self.books.request(sender, number, Moment(5), 80, users);
            let client_frame::Frame::Send(send) = frame else { panic!("it sends") };
            let accepted = chat::Accepted { client_id: send.client_id.clone(), ..chat::Accepted::default() };
            self.books.accepted(sender, &accepted, Moment(9));
            self.seqs[sender as usize] += 1;
            assert_eq!(send.conversation, format!("@{}", users(FIRST + self.books.reader_of(sender))));
            chat::Message {
                seq: self.seqs[sender as usize],
                sender: users(FIRST + sender),
                client_id: send.client_id,
                body: send.body,
                ..chat::Message::default()
            }
        }

        fn deliver(&mut self, to: u32, message: &chat::Message) {
            self.revs[to as usize] += 1;
            let kind = Some(chat::entry::Kind::Message(message.clone()));
            let event = chat::Event { rev: self.revs[to as usize], entry: Some(chat::Entry { kind }) };
            self.books.event(to, &event, Moment(20), users);
        }

        fn settle(self) -> Settlement {
            FunnelBooks::settle(vec![self.books])
        }
    }

    #[test]
    fn many_send_to_one_and_all_of_it_is_owed() {
        let mut world = World::new();
        for sender in [1, 2, 4, 1, 5, 1] {
            let message = world.send(sender);
            world.deliver(sender, &message);
            assert_eq!(world.books.owed_to_senders(), 0);
            assert_eq!(world.books.outstanding(), 1);
            world.deliver(world.books.reader_of(sender), &message);
            assert_eq!(world.books.outstanding(), 0);
        }
        let settlement = world.settle();
        assert!(settlement.is_correct(), "{settlement:?}");
        assert_eq!((settlement.counts.delivered, settlement.counts.own), (6, 6));
    }

    #[test]
    fn readers_do_not_write_and_senders_have_a_window() {
        let mut world = World::new();
        assert!(!world.books.has_room(0) && !world.books.has_room(3) && world.books.has_room(1));
        (0..Books::UNDER_WAY_MAX).for_each(|_| _ = world.books.enter(1, Moment(1)));
        assert!(!world.books.has_room(1) && world.books.has_room(2));
    }

    #[test]
    fn whatever_is_wrong_is_called_by_its_name() {
        type Wrong = fn(&mut World, &[chat::Message]);
        type Count = fn(&Settlement) -> u64;
        let cases: [(&str, Wrong, Count); 6] = [
            ("lost", |world, m| world.deliver(0, &m[0]), |s| s.lost),
            (
                "duplicated",
                |world, m| [0, 0, 1].iter().for_each(|&i| world.deliver(0, &m[i])),
                |s| s.counts.duplicated,
            ),
            (
                "reordered",
                |world, m| [1, 0].iter().for_each(|&i| world.deliver(0, &m[i])),
                |s| s.counts.reordered,
            ),
            ("misrouted", |world, m| m.iter().for_each(|m| world.deliver(3, m)), |s| s.counts.misrouted),
            (
                "seqs missing",
                |world, m| {
                    let later = chat::Message { seq: 3, ..m[1].clone() };
                    [m[0].clone(), later].iter().for_each(|m| world.deliver(0, m));
                },
                |s| s.counts.seqs_missing,
            ),
            (
                "corrupted",
                |world, m| {
                    let body = Some(chat::Body { kind: Some(body::Kind::Text("hl1:x".into())) });
                    world.deliver(0, &m[0]);
                    world.deliver(0, &chat::Message { body, ..m[1].clone() });
                },
                |s| s.counts.corrupted,
            ),
        ];
        for (name, wrong, count) in cases {
            let mut world = World::new();
            let messages = [world.send(1), world.send(1)];
            messages.iter().for_each(|message| world.deliver(1, message));
            wrong(&mut world, &messages);
            let settlement = world.settle();
            assert!(count(&settlement) > 0 && !settlement.is_correct(), "{name}: {settlement:?}");
        }
    }

    #[test]
    fn who_was_refused_for_a_moment_may_come_later() {
        let mut world = World::new();
        let messages = [world.send(1), world.send(1)];
        world.books.deferred(1);
        for to in [0, 1] {
            // The server numbers them in the order in which it took them.
            world.deliver(to, &chat::Message { seq: 1, ..messages[1].clone() });
            world.deliver(to, &chat::Message { seq: 2, ..messages[0].clone() });
        }
        let settlement = world.settle();
        assert!(settlement.is_correct(), "{settlement:?}");
        assert_eq!(settlement.counts.resequenced, 2);
    }
}
