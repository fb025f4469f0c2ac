//! A server in a few lines that keeps its contract, or breaks it in one place: the books must say so.

use super::*;

const RUN: u32 = 0xabc;

/// Two members who talk to each other; user 100 is member 0.
struct World {
    books: Books,
    now: u64,
    seq: u64,
    revs: [u64; 2],
}

fn users(member: u32) -> u64 {
    100 + u64::from(member)
}

impl World {
    fn new() -> Self {
        let books = Books::new(RUN, 0, 2, Pairing::Neighbours, Arc::new(Marks::new(2)));
        Self { books, now: 1_000_000, seq: 0, revs: [0; 2] }
    }

    /// A member sends; what the server makes of it.
    fn send(&mut self, member: u32) -> chat::Message {
        let intended = Moment(self.now);
        let number = self.books.enter(member, intended);
        let mut text = String::new();
        self.books.stamp(member, number, intended).write(100, &mut text);
        self.seq += 1;
        chat::Message {
            conversation: "100:101".into(),
            seq: self.seq,
            message_id: self.seq,
            sender: users(member),
            client_id: self.books.client_id(member, number),
            body: Some(chat::Body { kind: Some(body::Kind::Text(text)) }),
            ..chat::Message::default()
        }
    }

    fn accept(&mut self, message: &chat::Message) {
        let member = (message.sender - 100) as u32;
        self.now += 1_000;
        self.books.accepted(member, &message.client_id, Moment(self.now));
    }

    fn deliver(&mut self, to: u32, message: &chat::Message) {
        self.revs[to as usize] += 1;
        let rev = self.revs[to as usize];
        self.deliver_as(to, message, rev);
    }

    fn deliver_as(&mut self, to: u32, message: &chat::Message, rev: u64) {
        let kind = Some(chat::entry::Kind::Message(message.clone()));
        let event = chat::Event { rev, entry: Some(chat::Entry { kind }) };
        self.now += 1_000;
        self.books.event(to, &event, Moment(self.now), users);
    }

    fn whole_way(&mut self, member: u32) {
        let message = self.send(member);
        self.accept(&message);
        self.deliver(0, &message);
        self.deliver(1, &message);
    }

    fn settle(self) -> Settlement {
        Books::settle(vec![self.books])
    }
}

/// Inboxes have what earlier runs have left, groups with higher numbers among it.
#[test]
fn what_is_of_another_run_says_nothing_of_this_ones_order() {
    let mut world = World::new();
    let message = world.send(0);
    let mut foreign = message.clone();
    (foreign.conversation, foreign.seq, foreign.client_id) = ("g7".into(), 7_000, "00000001.0.0".into());
    foreign.body = Some(chat::Body { kind: Some(body::Kind::Text("of another run".into())) });
    for member in [0, 1] {
        world.deliver(member, &foreign);
        world.deliver(member, &message);
    }
    world.accept(&message);
    let settlement = world.settle();
    assert!(settlement.is_correct(), "{settlement:?}");
    assert_eq!(settlement.counts.foreign, 2);
}

#[test]
fn a_server_that_keeps_its_word() {
    let mut world = World::new();
    (0..100).for_each(|turn| world.whole_way(turn % 2));
    assert_eq!(world.books.outstanding(), 0);
    let settlement = world.settle();
    assert!(settlement.is_correct(), "{settlement:?}");
    let counts = &settlement.counts;
    assert_eq!((counts.sent, counts.acked, counts.delivered, counts.own), (100, 100, 100, 100));
    assert_eq!(counts.accepted_latency.summary().max, 1.0);
    // One member's own event came before the other's.
    assert!((counts.delivered_latency.summary().max - 3.0).abs() < 0.01);
}

#[test]
fn a_message_that_was_never_acked_is_not_lost() {
    let mut world = World::new();
    world.send(0);
    let unacked: Vec<u32> = world.books.unacked(0).map(|(number, _)| number).collect();
    assert_eq!(unacked, [0]);
    assert_eq!(world.books.outstanding(), 3);
    let settlement = world.settle();
    assert!(settlement.is_correct());
    assert_eq!((settlement.unacked, settlement.lost), (1, 0));
}

#[test]
fn an_acked_message_that_does_not_arrive_is_lost() {
    let mut world = World::new();
    world.whole_way(0);
    let message = world.send(0);
    world.accept(&message);
    world.deliver(0, &message);
    assert_eq!(world.books.outstanding(), 1);
    let settlement = world.settle();
    assert_eq!((settlement.lost, settlement.own_lost), (1, 0));
    assert!(!settlement.is_correct());
}

#[test]
fn the_senders_own_event_is_owed_too() {
    let mut world = World::new();
    let message = world.send(0);
    world.accept(&message);
    world.deliver(1, &message);
    let settlement = world.settle();
    assert_eq!((settlement.lost, settlement.own_lost), (0, 1));
}

#[test]
fn an_event_that_comes_twice() {
    let mut world = World::new();
    let message = world.send(0);
    world.accept(&message);
    world.deliver(0, &message);
    world.deliver(1, &message);
    world.deliver(1, &message);
    let settlement = world.settle();
    assert_eq!((settlement.counts.duplicated, settlement.counts.delivered), (1, 1));
}

#[test]
fn events_in_the_wrong_order() {
    let mut world = World::new();
    world.whole_way(0);
    let (first, second) = (world.send(0), world.send(0));
    for message in [&first, &second] {
        world.accept(message);
        world.deliver(0, message);
    }
    world.deliver(1, &second);
    world.deliver(1, &first);
    let settlement = world.settle();
    assert_eq!(settlement.counts.reordered, 1);
    assert_eq!((settlement.lost, settlement.counts.duplicated), (0, 0));
}

#[test]
fn a_server_that_numbers_in_another_order_than_it_was_sent() {
    let mut world = World::new();
    let (mut first, mut second) = (world.send(0), world.send(0));
    std::mem::swap(&mut first.seq, &mut second.seq);
    for message in [&second, &first] {
        world.accept(message);
        world.deliver(0, message);
        world.deliver(1, message);
    }
    assert_eq!(world.settle().counts.reordered, 2, "at both readers");
}

#[test]
fn a_refusal_explains_another_order() {
    let mut world = World::new();
    let (mut first, mut second) = (world.send(0), world.send(0));
    std::mem::swap(&mut first.seq, &mut second.seq);
    world.books.deferred(0);
    for message in [&second, &first] {
        world.accept(message);
        world.deliver(0, message);
        world.deliver(1, message);
    }
    let settlement = world.settle();
    assert!(settlement.is_correct(), "{settlement:?}");
    assert_eq!(settlement.counts.resequenced, 2);
}

#[test]
fn holes_and_repetitions_in_the_servers_own_numbers() {
    let mut world = World::new();
    world.whole_way(0);
    let mut message = world.send(0);
    message.seq += 2;
    world.accept(&message);
    world.deliver_as(0, &message, 2);
    world.deliver_as(1, &message, 5);
    let mut settlement = world.settle();
    assert_eq!((settlement.counts.seqs_missing, settlement.counts.revs_missing), (4, 3));
    settlement.counts.seqs_missing = 0;
    assert!(!settlement.is_correct(), "missing revs alone are enough");

    let mut world = World::new();
    world.whole_way(0);
    let message = world.send(0);
    world.accept(&message);
    world.deliver(0, &message);
    world.deliver_as(1, &message, 1);
    assert_eq!(world.settle().counts.revs_repeated, 1);
}

#[test]
fn a_body_that_was_altered_or_cut_or_emptied() {
    for damage in [
        |text: &mut String| text.replace_range(70..71, "#"),
        |text: &mut String| text.truncate(90),
        String::clear,
        |text: &mut String| text.replace_range(0..4, "????"),
    ] {
        let mut world = World::new();
        let mut message = world.send(0);
        world.accept(&message);
        world.deliver(0, &message);
        if let Some(chat::Body { kind: Some(body::Kind::Text(text)) }) = &mut message.body {
            damage(text);
        }
        world.deliver(1, &message);
        let settlement = world.settle();
        assert_eq!((settlement.counts.corrupted, settlement.lost), (1, 1));
    }
}

#[test]
fn a_message_for_somebody_else() {
    let mut world = World::new();
    world.books = Books::new(RUN, 0, 4, Pairing::Neighbours, Arc::new(Marks::new(4)));
    world.revs = [0; 2];
    let message = world.send(2);
    world.deliver(0, &message);
    assert_eq!(world.books.counts.misrouted, 1);
    let mut forged = world.send(1);
    forged.sender = users(3);
    world.deliver(0, &forged);
    assert_eq!(world.books.counts.misrouted, 2);
}

#[test]
fn an_ack_of_what_was_never_sent_and_one_that_comes_again() {
    let mut world = World::new();
    world.books.accepted(0, "00000abc.0.7", Moment(0));
    world.books.accepted(0, "00000abc.1.0", Moment(0));
    world.books.accepted(0, "nonsense", Moment(0));
    assert_eq!(world.books.counts.misrouted, 3);
    let message = world.send(0);
    world.accept(&message);
    world.accept(&message);
    assert_eq!((world.books.counts.acked, world.books.counts.acks_repeated), (1, 1));
}

#[test]
fn what_an_earlier_run_left_behind_is_nobodys_fault() {
    let mut world = World::new();
    let mut message = world.send(0);
    let mut text = String::new();
    Stamp { run: 1, ..world.books.stamp(0, 0, Moment(5)) }.write(100, &mut text);
    message.body = Some(chat::Body { kind: Some(body::Kind::Text(text)) });
    message.client_id = "00000001.0.0".into();
    world.deliver(1, &message);
    message.body = Some(chat::Body { kind: Some(body::Kind::Text("hello".into())) });
    message.seq += 1;
    world.deliver(1, &message);
    assert_eq!(world.books.counts.foreign, 2);
    assert!(world.settle().is_correct());
}

#[test]
fn a_member_waits_when_64_are_unacked() {
    let mut world = World::new();
    let messages: Vec<chat::Message> = (0..64).map(|_| world.send(0)).collect();
    assert!(!world.books.has_room(0) && world.books.has_room(1));
    world.accept(&messages[1]);
    assert!(!world.books.has_room(0), "the oldest is still missing");
    world.accept(&messages[0]);
    assert!(world.books.has_room(0));
}

#[test]
fn a_refused_message_is_neither_expected_nor_lost() {
    let mut world = World::new();
    let message = world.send(0);
    world.books.refused(0, &message.client_id, "message_too_large");
    assert_eq!(world.books.outstanding(), 0);
    let settlement = world.settle();
    assert_eq!((settlement.unacked, settlement.lost), (0, 0));
    assert_eq!(settlement.counts.refused.total(), 1);
}

#[test]
fn books_of_two_threads_are_settled_together() {
    let marks = Arc::new(Marks::new(4));
    let pairing = Pairing::Cycle(Arc::from([2, 3, 1, 0]));
    let mut threads: Vec<Books> =
        [2, 0].map(|first| Books::new(RUN, first, 2, pairing.clone(), Arc::clone(&marks))).into();
    // Member 0 of the second thread sends to member 2, of the first.
    let number = threads[1].enter(0, Moment(1));
    let client_id = threads[1].client_id(0, number);
    threads[1].accepted(0, &client_id, Moment(2));
    assert_eq!(threads.iter().map(Books::outstanding).sum::<i64>(), 2);
    let settlement = Books::settle(threads);
    assert_eq!((settlement.lost, settlement.own_lost), (1, 1));
}
