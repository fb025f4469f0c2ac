//! Who is writing: who is told, and what it must never cost.

use super::groups::{CREW, change, create};
use super::*;
use crate::command::{GroupChange, Typing};

fn typing_in(conversation: ConversationId, by: u64, stopped: bool) -> (RouteKey, Command) {
    let typing = Typing { user: UserId(by), conversation, stopped };
    (RouteKey::Conversation(conversation), Command::Typing { typing, session: session(by, 1) })
}

fn typing(by: u64, to: u64) -> (RouteKey, Command) {
    typing_in(ConversationId::direct(UserId(by), UserId(to)), by, false)
}

#[test]
fn the_others_who_are_live_are_told_and_nothing_is_written() {
    for workers in [1, 2, 3] {
        let mut house = House::new(workers);
        house.run(vec![create(1, &[2, 3, 4], false)]);
        house.run(vec![
            register(1, 1, None),
            register(1, 2, Some(1)),
            register(2, 1, Some(1)),
            register(2, 2, Some(1)),
            register(3, 1, Some(1)),
            // Still to be sent a page.
            register(4, 1, Some(0)),
        ]);
        let commits = house.commits();
        let told = house.run(vec![typing_in(CREW, 1, false)]);
        assert_eq!(words(&told), ["2.1 typing: 1 is", "2.2 typing: 1 is", "3.1 typing: 1 is"]);
        let told = house.run(vec![typing_in(CREW, 3, true), typing(1, 3)]);
        assert_eq!(
            words(&told),
            ["1.2 typing: 3 stops", "2.1 typing: 3 stops", "2.2 typing: 3 stops", "3.1 typing: 1 is"]
        );
        assert_eq!(house.commits(), commits, "nobody keeps it");
    }
}

#[test]
fn who_is_not_in_a_conversation_neither_tells_nor_is_told() {
    for workers in [1, 2, 3] {
        let mut house = House::new(workers);
        house.run(vec![create(1, &[2, 3], false)]);
        house.run((1..=3).map(|user| register(user, 1, Some(1))).collect());
        let stranger = ConversationId::direct(UserId(1), UserId(2));
        let refused = house.run(vec![typing_in(CREW, 9, false), typing_in(stranger, 3, false)]);
        let no = ["3.1 rejected UnknownConversation", "9.1 rejected UnknownConversation"];
        assert_eq!(words(&refused), no);
        // In one turn, in the order of the commands: before the removal, and after it.
        let out = change(1, "out", GroupChange::Remove(UserId(3)));
        let told = words(&house.run(vec![typing_in(CREW, 1, false), out, typing_in(CREW, 1, true)]));
        assert!(told.contains(&"2.1 typing: 1 stops".to_owned()), "{told:?}");
        let third: Vec<_> = told.iter().filter(|word| word.starts_with("3.1")).collect();
        assert_eq!(third, ["3.1 typing: 1 is", "3.1 event 2"], "{workers} workers");
    }
}

#[test]
fn it_is_dropped_where_there_is_no_room_and_costs_nobody_an_event() {
    let mut house = House::new(1);
    house.run(vec![register(1, 1, None), register(2, 1, None)]);
    house.effects.lane_full = true;
    assert!(house.run(vec![typing(1, 2)]).is_empty());
    house.effects.lane_full = false;
    house.wait(1_000);
    let told = house.run(vec![send(1, 2, "a")]);
    assert_eq!(
        words(&told),
        ["1.1 event 1", "1.1 accepted a as 1", "2.1 event 1"],
        "no gap, and no more of it"
    );
}

#[test]
fn a_turn_whose_batch_fails_tells_it_once() {
    let mut house = House::new(2);
    // Another worker has the user than has the conversation.
    let worker_of = |to: u64| RouteKey::Conversation(ConversationId::direct(UserId(1), UserId(to))).slice();
    let is_elsewhere =
        |house: &House, to| usize::from(house.assignment().owner(worker_of(to)).0) != house.owner(to);
    let to = (2..).find(|&to| is_elsewhere(&house, to)).unwrap();
    house.run(vec![register(to, 1, None)]);
    for worker in &mut house.workers {
        worker.store_mut().arm(Fault::SyncFails);
    }
    let told = words(&house.run(vec![send(1, to, "a"), typing(1, to)]));
    assert_eq!(told, ["1.1 rejected a StorageFailed".to_owned(), format!("{to}.1 typing: 1 is")]);
}
