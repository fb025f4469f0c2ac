//! How far members have read: what is kept, who is told, and when.

use super::groups::{CREW, change, create, say};
use super::*;
use crate::command::{GroupChange, ReadMark, ReceiptsRequest};

const PAIR: ConversationId = ConversationId::direct(UserId(1), UserId(2));

pub(crate) fn read_in(conversation: ConversationId, by: u64, up_to: u64) -> (RouteKey, Command) {
    let mark = ReadMark { user: UserId(by), conversation, up_to: Seq(up_to) };
    (RouteKey::Conversation(conversation), Command::Read { mark, session: session(by, 1) })
}

pub(crate) fn receipts(conversation: ConversationId, by: u64) -> (RouteKey, Command) {
    let request = ReceiptsRequest { user: UserId(by), session: session(by, 1), conversation };
    (RouteKey::Conversation(conversation), Command::Receipts(request))
}

#[test]
fn a_mark_is_durable_before_it_is_told_and_outlives_a_crash() {
    for workers in [1, 2, 3] {
        let mut house = House::new(workers);
        house.run((0..9).map(|n| send(1, 2, &n.to_string())).collect());
        house.run(vec![register(1, 1, Some(9)), register(2, 1, Some(9)), register(2, 2, Some(9))]);
        let told = house.run(vec![read_in(PAIR, 2, 7)]);
        let mut told = words(&told);
        told.sort();
        let all = ["1.1 told: 2 has read 7", "2.1 event 10", "2.1 receipts 2:7", "2.2 event 10"];
        assert_eq!(told, all, "one's own devices learn of it from the inbox");
        house.restart();
        assert_eq!(words(&house.run(vec![receipts(PAIR, 1)])), ["1.1 receipts 1:0 2:7"]);
    }
}

#[test]
fn a_mark_never_goes_back_also_within_one_batch() {
    let mut house = House::new(2);
    house.run((0..9).map(|n| send(1, 2, &n.to_string())).collect());
    let told = house.run(vec![read_in(PAIR, 2, 3), read_in(PAIR, 2, 8), read_in(PAIR, 2, 5)]);
    assert_eq!(words(&told), ["2.1 receipts 2:3", "2.1 receipts 2:8", "2.1 receipts 2:8"]);
    let commits = house.commits();
    let told = house.run(vec![read_in(PAIR, 2, 8), read_in(PAIR, 2, 0)]);
    assert_eq!(words(&told), ["2.1 receipts 2:8", "2.1 receipts 2:8"]);
    assert_eq!(house.commits(), commits, "nothing new, nothing written");
    let page = house.run(vec![register(2, 1, Some(9)), sync(2, 1, 9, 0)]);
    assert_eq!(words(&page), ["2.1 registered 9/11", "2.1 page 10..=11 of 11, live"], "two steps");
}

#[test]
fn what_is_not_there_cannot_be_read() {
    let mut house = House::new(1);
    house.run(vec![send(1, 2, "a"), create(1, &[2], false)]);
    let told = house.run(vec![
        read_in(PAIR, 1, 2),
        read_in(PAIR, 3, 1),
        read_in(CREW, 3, 1),
        receipts(CREW, 4),
        receipts(ConversationId::direct(UserId(4), UserId(5)), 6),
    ]);
    assert_eq!(
        words(&told),
        [
            "1.1 rejected UnknownMessage",
            "3.1 rejected UnknownConversation",
            "3.1 rejected UnknownConversation",
            "4.1 rejected UnknownConversation",
            "6.1 rejected UnknownConversation",
        ]
    );
    // The message of this very batch is there.
    let told = words(&house.run(vec![say(2, "b"), read_in(CREW, 1, 2)]));
    assert!(told.contains(&"1.1 receipts 1:2".to_owned()), "{told:?}");
}

#[test]
fn whoever_leaves_a_group_leaves_no_mark() {
    for workers in [1, 2] {
        let mut house = House::new(workers);
        house.run(vec![create(1, &[2, 3], true), say(1, "a")]);
        house.run(vec![read_in(CREW, 2, 2), read_in(CREW, 3, 1)]);
        let out = change(1, "out", GroupChange::Remove(UserId(2)));
        // In the batch of the removal, before and after it.
        let told = words(&house.run(vec![read_in(CREW, 2, 2), out, read_in(CREW, 2, 2), receipts(CREW, 1)]));
        assert!(told.contains(&"2.1 rejected UnknownConversation".to_owned()), "{told:?}");
        assert!(told.contains(&"1.1 receipts 1:0 3:1".to_owned()), "{told:?}");
        let again = vec![change(1, "in", GroupChange::Add(vec![UserId(2)])), read_in(CREW, 2, 1)];
        let told = words(&house.run(again));
        assert!(told.contains(&"2.1 receipts 2:1".to_owned()), "it begins again: {told:?}");
    }
}

#[test]
fn in_a_large_group_others_ask() {
    for (others, is_told) in [(31, true), (32, false)] {
        let mut house = House::new(2);
        let members: Vec<u64> = (2..2 + others).collect();
        house.run(vec![create(1, &members, false)]);
        house.run(vec![register(1, 1, Some(1)), register(1, 2, Some(1)), register(2, 1, Some(1))]);
        let told = words(&house.run(vec![read_in(CREW, 1, 1)]));
        let own = ["1.1 receipts 1:1", "1.1 event 2", "1.2 event 2"].map(str::to_owned);
        assert!(own.iter().all(|word| told.contains(word)), "{told:?}");
        assert_eq!(told.contains(&"2.1 told: 1 has read 1".to_owned()), is_told, "{others} others");
    }
}

#[test]
fn a_mark_of_a_batch_that_failed_was_never_set() {
    let mut house = House::new(1);
    house.run(vec![send(1, 2, "a"), send(1, 2, "b")]);
    house.run(vec![read_in(PAIR, 2, 1)]);
    house.run(vec![register(1, 1, Some(2))]);
    house.workers[0].store_mut().arm(Fault::SyncFails);
    let told = house.run(vec![read_in(PAIR, 2, 2), receipts(PAIR, 2)]);
    assert_eq!(words(&told), ["2.1 rejected StorageFailed", "2.1 receipts 1:0 2:1"], "and nobody is told");
}
