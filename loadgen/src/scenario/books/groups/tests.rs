//! A server in a few lines that keeps its contract, or breaks it in one place: the books must say so.

use super::*;
use proptest::prelude::*;

const RUN: u32 = 0xabc;
const MEMBERS: u32 = 5;
const GROUP: &str = "g7204981145600413698";

/// One group of five; user 100 is member 0.
struct World {
    books: GroupBooks,
    now: u64,
    seq: u64,
    revs: Vec<u64>,
    as_json: bool,
}

fn users(member: u32) -> u64 {
    100 + u64::from(member)
}

impl World {
    /// Members who know their group.
    fn new() -> Self {
        Self::with_slots(1_024)
    }

    fn with_slots(wanted: u32) -> Self {
        let mut world = Self::before_the_group(wanted);
        assert_eq!(world.books.next_creation(), Some(0));
        assert_eq!(world.books.next_creation(), None);
        world.books.accepted(0, &created(GROUP), Moment(0));
        let message = world.group_created();
        world.deliver_to_all(&message);
        assert_eq!(world.books.outstanding(), 0);
        world
    }

    fn before_the_group(wanted: u32) -> Self {
        let division = Division {
            slots_per_group: wanted,
            ..Division::new(RUN, MEMBERS, 1, wanted, Division::LOG_BYTES)
        };
        let books = GroupBooks::new(division, 0, MEMBERS, 0);
        Self { books, now: 1_000_000, seq: 0, revs: vec![0; MEMBERS as usize], as_json: false }
    }

    fn group_created(&mut self) -> chat::Message {
        let client_frame::Frame::CreateGroup(create) = self.books.request(0, CREATION, Moment(0), 0, users)
        else {
            panic!("a creation is a createGroup");
        };
        assert_eq!(create.members, [101, 102, 103, 104]);
        self.seq += 1;
        let made = chat::GroupCreated { title: create.title, members: create.members, open_history: false };
        chat::Message {
            conversation: GROUP.into(),
            seq: self.seq,
            sender: users(0),
            client_id: create.client_id,
            body: Some(Body { kind: Some(body::Kind::GroupCreated(made)) }),
            ..chat::Message::default()
        }
    }

    /// A member sends; what the server makes of it.
    fn send(&mut self, member: u32) -> chat::Message {
        let intended = Moment(self.now);
        let number = self.books.enter(member, intended);
        let client_frame::Frame::Send(send) = self.books.request(member, number, intended, 100, users) else {
            panic!("a message is a send");
        };
        assert_eq!(send.conversation, GROUP);
        self.seq += 1;
        chat::Message {
            conversation: send.conversation,
            seq: self.seq,
            message_id: self.seq,
            sender: users(member),
            client_id: send.client_id,
            body: send.body,
            ..chat::Message::default()
        }
    }

    fn accept(&mut self, message: &chat::Message) {
        self.accept_as(message, message.seq);
    }

    fn accept_as(&mut self, message: &chat::Message, seq: u64) {
        let member = (message.sender - 100) as u32;
        let client_id = message.client_id.clone();
        self.now += 1_000;
        let accepted = chat::Accepted { client_id, message_id: 1, seq, conversation: None };
        self.books.accepted(member, &accepted, Moment(self.now));
    }

    fn deliver(&mut self, to: u32, message: &chat::Message) {
        self.revs[to as usize] += 1;
        let rev = self.revs[to as usize];
        self.deliver_as(to, message, rev);
    }

    fn deliver_as(&mut self, to: u32, message: &chat::Message, rev: u64) {
        let kind = Some(entry::Kind::Message(message.clone()));
        let entry = chat::Entry { kind };
        self.now += 1_000;
        let now = Moment(self.now);
        if self.as_json {
            self.books.event(to, &chat::Event { rev, entry: Some(entry) }, now, users);
        } else {
            let bytes = entry.encode_to_vec();
            assert!(self.books.raw_event(to, RawEvent { rev, entry: &bytes }, now, users));
        }
    }

    fn deliver_to_all(&mut self, message: &chat::Message) {
        (0..MEMBERS).for_each(|member| self.deliver(member, message));
    }

    fn whole_way(&mut self, member: u32) {
        let message = self.send(member);
        self.accept(&message);
        self.deliver_to_all(&message);
    }

    fn settle(self) -> Settlement {
        GroupBooks::settle(vec![self.books])
    }
}

fn created(conversation: &str) -> chat::Accepted {
    let client_id = format!("{RUN:08x}.g0");
    chat::Accepted { client_id, message_id: 1, seq: 1, conversation: Some(conversation.into()) }
}

fn damage(message: &chat::Message, change: impl Fn(&mut String)) -> chat::Message {
    let mut message = message.clone();
    if let Some(Body { kind: Some(body::Kind::Text(text)) }) = &mut message.body {
        change(text);
    }
    message
}

#[test]
fn a_server_that_keeps_its_word() {
    for as_json in [false, true] {
        let mut world = World::new();
        world.as_json = as_json;
        (0..200).for_each(|turn| world.whole_way(turn % MEMBERS));
        assert_eq!(world.books.outstanding(), 0);
        assert_eq!(world.books.arrived(), 1_000);
        let settlement = world.settle();
        assert!(settlement.is_correct(), "{settlement:?}");
        let counts = &settlement.counts;
        assert_eq!((counts.sent, counts.acked, counts.delivered, counts.own), (200, 200, 800, 200));
        assert_eq!(counts.delivered_latency.count(), 800);
    }
}

#[test]
fn nobody_writes_before_the_group_is_there() {
    let mut world = World::before_the_group(64);
    assert!(!world.books.has_room(0) && world.books.unacked(0).is_empty());
    assert_eq!(world.books.outstanding(), 6, "a group to be made, and five who know nothing of it");
    world.books.next_creation();
    assert_eq!(world.books.unacked(0), [(CREATION, Moment(0))], "it is sent again after a reconnect");
    let message = world.group_created();
    world.deliver(1, &message);
    assert!(!world.books.has_room(1), "not accepted yet");
    world.books.accepted(0, &created(GROUP), Moment(1));
    assert!(world.books.has_room(1) && world.books.unacked(0).is_empty());
    world.books.accepted(0, &created(GROUP), Moment(1));
    assert_eq!((world.books.counts.acks_repeated, world.books.outstanding()), (1, 4));
}

#[test]
fn a_group_that_is_refused_is_said_with_the_servers_words() {
    let mut world = World::before_the_group(64);
    world.books.next_creation();
    let error = chat::Error {
        code: "too_many_members".into(),
        message: "at most 4".into(),
        retry_after_ms: 0,
        client_id: created(GROUP).client_id,
    };
    world.books.refused(0, &error);
    let text = world.books.broken().expect("it is broken");
    assert!(text.contains("5 members") && text.contains("too_many_members: at most 4"), "{text}");
}

#[test]
fn a_group_that_was_made_twice() {
    let mut world = World::new();
    world.books.accepted(0, &created("g8"), Moment(0));
    assert_eq!(world.settle().counts.seqs_conflicting, 1);
}

#[test]
fn a_delivery_that_one_member_never_gets() {
    for (missing, lost, own_lost) in [(3, 1, 0), (1, 0, 1)] {
        let mut world = World::new();
        world.whole_way(0);
        let message = world.send(1);
        world.accept(&message);
        (0..MEMBERS).filter(|member| *member != missing).for_each(|member| world.deliver(member, &message));
        assert_eq!(world.books.outstanding(), 1);
        let settlement = world.settle();
        assert_eq!((settlement.lost, settlement.own_lost), (lost, own_lost));
        assert_eq!(settlement.counts.seqs_missing, 1);
        assert_eq!(settlement.counts.seqs_conflicting, 0);
        assert!(!settlement.is_correct());
    }
}

#[test]
fn a_message_that_was_acked_and_reaches_nobody() {
    let mut world = World::new();
    let message = world.send(1);
    world.accept(&message);
    let settlement = world.settle();
    assert_eq!((settlement.lost, settlement.own_lost, settlement.unacked), (4, 1, 0));
}

#[test]
fn a_message_that_was_never_acked_is_not_lost() {
    let mut world = World::new();
    world.send(1);
    let settlement = world.settle();
    assert!(settlement.is_correct());
    assert_eq!((settlement.unacked, settlement.lost), (1, 0));
}

#[test]
fn a_delivery_that_comes_twice() {
    let mut world = World::new();
    let message = world.send(0);
    world.accept(&message);
    world.deliver_to_all(&message);
    world.deliver(2, &message);
    let settlement = world.settle();
    assert_eq!((settlement.counts.duplicated, settlement.counts.delivered), (1, 4));
}

#[test]
fn a_message_that_was_numbered_twice() {
    let mut world = World::new();
    let mut message = world.send(0);
    world.accept(&message);
    world.deliver_to_all(&message);
    message.seq += 1;
    world.deliver_to_all(&message);
    let settlement = world.settle();
    assert_eq!((settlement.counts.duplicated, settlement.lost), (5, 0), "at each member");
}

#[test]
fn one_reader_who_gets_two_in_the_wrong_order() {
    let mut world = World::new();
    let (first, second) = (world.send(0), world.send(1));
    for message in [&first, &second] {
        world.accept(message);
        (0..4).for_each(|member| world.deliver(member, message));
    }
    world.deliver(4, &second);
    world.deliver(4, &first);
    let settlement = world.settle();
    assert_eq!(settlement.counts.reordered, 1);
    assert_eq!((settlement.lost, settlement.counts.duplicated, settlement.counts.seqs_missing), (0, 0, 0));
}

#[test]
fn a_server_that_numbers_in_another_order_than_it_was_sent() {
    for (deferred, counted) in [(false, (5, 0)), (true, (0, 5))] {
        let mut world = World::new();
        let (mut first, mut second) = (world.send(0), world.send(0));
        std::mem::swap(&mut first.seq, &mut second.seq);
        if deferred {
            world.books.deferred(0);
        }
        for message in [&second, &first] {
            world.accept(message);
            world.deliver_to_all(message);
        }
        let counts = world.settle().counts;
        assert_eq!((counts.reordered, counts.resequenced), counted, "at each reader");
    }
}

#[test]
fn one_reader_who_sees_two_messages_under_each_others_seq() {
    for (slots, found) in [(1_024, 2), (2, 1)] {
        let mut world = World::with_slots(slots);
        let messages: Vec<chat::Message> = (0..10).map(|turn| world.send(turn % MEMBERS)).collect();
        for message in &messages {
            world.accept(message);
            (0..4).for_each(|member| world.deliver(member, message));
        }
        let mut swapped = messages;
        swapped.swap(3, 4);
        (swapped[3].seq, swapped[4].seq) = (swapped[4].seq, swapped[3].seq);
        for message in &swapped {
            world.deliver(4, message);
        }
        // With a ring of two the reader is too far behind to be compared, and its sum tells.
        assert_eq!(world.settle().counts.seqs_conflicting, found, "with {slots} slots");
    }
}

#[test]
fn an_ack_that_names_another_seq_than_the_event() {
    for ack_first in [true, false] {
        let mut world = World::new();
        let message = world.send(0);
        world.whole_way(1);
        if ack_first {
            world.accept_as(&message, message.seq + 1);
        }
        world.deliver_to_all(&message);
        if !ack_first {
            world.accept_as(&message, message.seq + 1);
        }
        let settlement = world.settle();
        assert!(settlement.counts.seqs_conflicting >= 1 && !settlement.is_correct());
    }
}

#[test]
fn holes_and_repetitions_in_the_servers_own_numbers() {
    let mut world = World::new();
    world.whole_way(0);
    let mut message = world.send(0);
    message.seq += 2;
    world.accept(&message);
    world.revs[3] += 3;
    world.deliver_to_all(&message);
    let mut settlement = world.settle();
    assert_eq!((settlement.counts.seqs_missing, settlement.counts.revs_missing), (10, 3));
    settlement.counts.seqs_missing = 0;
    assert!(!settlement.is_correct(), "missing revs alone are enough");

    let mut world = World::new();
    let message = world.send(0);
    world.accept(&message);
    world.deliver_to_all(&message);
    world.deliver_as(3, &message, 2);
    let counts = world.settle().counts;
    assert_eq!((counts.revs_repeated, counts.duplicated), (1, 1));
}

#[test]
fn a_body_that_was_altered_or_cut_or_emptied() {
    for change in [
        |text: &mut String| text.replace_range(70..71, "#"),
        |text: &mut String| text.truncate(90),
        String::clear,
        |text: &mut String| text.replace_range(0..4, "????"),
    ] {
        // For one reader, who is the first or the last.
        for unlucky in [0, 4] {
            let mut world = World::new();
            let message = world.send(1);
            world.accept(&message);
            for member in 0..MEMBERS {
                let damaged = damage(&message, change);
                world.deliver(member, if member == unlucky { &damaged } else { &message });
            }
            world.whole_way(2);
            let settlement = world.settle();
            assert_eq!((settlement.counts.corrupted, settlement.lost), (1, 1));
            assert_eq!((settlement.counts.seqs_missing, settlement.counts.seqs_conflicting), (0, 0));
        }
    }
}

#[test]
fn what_does_not_belong_here() {
    let mut world = World::new();
    let message = world.send(1);
    world.accept(&message);
    let forged = chat::Message { sender: users(3), ..message.clone() };
    world.deliver(0, &forged);
    let elsewhere = chat::Message { conversation: "g8".into(), ..message.clone() };
    world.deliver(2, &elsewhere);
    assert_eq!(world.books.counts.misrouted, 2);
    let foreign = chat::Message { conversation: "g8".into(), client_id: "1".into(), ..message };
    world.deliver(3, &foreign);
    // An entry of a kind that is to come.
    world.revs[4] += 1;
    let event = RawEvent { rev: world.revs[4], entry: &[0x7a, 0x02, 0x08, 0x01] };
    assert!(world.books.raw_event(4, event, Moment(0), users));
    assert_eq!(world.books.counts.foreign, 2);
    assert_eq!(world.books.counts.revs_missing, 0, "it has its place in the inbox");
}

#[test]
fn an_ack_of_what_was_never_sent_and_one_that_comes_again() {
    let mut world = World::new();
    for client_id in ["00000abc.0.7", "00000abc.1.0", "nonsense", "00000abc.g1"] {
        let accepted = chat::Accepted { client_id: client_id.into(), seq: 9, ..chat::Accepted::default() };
        world.books.accepted(0, &accepted, Moment(0));
    }
    assert_eq!(world.books.counts.misrouted, 4);
    let message = world.send(0);
    world.accept(&message);
    world.accept(&message);
    assert_eq!((world.books.counts.acked, world.books.counts.acks_repeated), (1, 1));
}

#[test]
fn a_refused_message_is_neither_expected_nor_lost() {
    let mut world = World::new();
    let message = world.send(0);
    let (code, client_id) = ("message_too_large".to_owned(), message.client_id);
    world.books.refused(0, &chat::Error { code, client_id, ..chat::Error::default() });
    assert_eq!(world.books.outstanding(), 0);
    let settlement = world.settle();
    assert_eq!((settlement.unacked, settlement.lost, settlement.counts.refused.total()), (0, 0, 1));
}

#[test]
fn what_was_accepted_before_the_books_were_opened_is_owed() {
    let mut world = World::new();
    world.books.groups[0].owed = 3;
    (0..2).for_each(|_| world.whole_way(0));
    world.books.excuse(3);
    assert_eq!(world.settle().lost, 4, "at all but the one who had no time");
}

#[test]
fn rings_take_no_more_memory_than_they_may() {
    for (groups, wanted) in [(1, 16_384), (200, 16_384), (10_000, 16_384), (40, 300)] {
        let slots = u64::from(Division::new(RUN, 2, groups, wanted, Division::LOG_BYTES).slots_per_group);
        assert!(slots >= 64 && slots.is_power_of_two() && slots <= u64::from(wanted.next_power_of_two()));
        assert!(slots == 64 || u64::from(groups) * slots * 32 <= Division::LOG_BYTES);
    }
}

proptest! {
    /// However readers run ahead of each other and of the acks, with whatever ring: an honest server passes.
    #[test]
    fn an_honest_server_passes_in_any_interleaving(
        steps in prop::collection::vec((0u32..=MEMBERS, 0u32..MEMBERS), 1..300),
        slots in prop_oneof![Just(2u32), Just(8), Just(1_024)],
    ) {
        let mut world = World::with_slots(slots);
        let mut sent: Vec<chat::Message> = Vec::new();
        let mut read = [0usize; MEMBERS as usize];
        let mut acked = 0;
        for (what, member) in steps {
            if what == MEMBERS && world.books.has_room(member) {
                let message = world.send(member);
                sent.push(message);
            } else if what == 0 && acked < sent.len() {
                world.accept(&sent[acked]);
                acked += 1;
            } else if let Some(message) = sent.get(read[member as usize]) {
                world.deliver(member, &message.clone());
                read[member as usize] += 1;
            }
        }
        for message in &sent[acked..] {
            world.accept(message);
        }
        for member in 0..MEMBERS {
            for message in &sent[read[member as usize]..] {
                world.deliver(member, message);
            }
        }
        prop_assert_eq!(world.books.outstanding(), 0);
        let settlement = world.settle();
        prop_assert!(settlement.is_correct(), "{:?}", settlement);
        prop_assert_eq!(settlement.counts.delivered as usize, 4 * sent.len());
    }
}
