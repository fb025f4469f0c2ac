//! Senders learn that their messages have arrived: when, and of what.

use super::groups::{CREW, change, create, say};
use super::receipts::{read_in, receipts};
use super::*;
use crate::command::GroupChange;

const PAIR: ConversationId = ConversationId::direct(UserId(1), UserId(2));
/// Until cursors are written down.
const SOON_MS: u64 = 2_000;

impl House {
    fn told_soon(&mut self) -> Vec<String> {
        self.wait(SOON_MS);
        words(&self.taken())
    }
}

#[test]
fn what_a_device_confirms_has_arrived() {
    for workers in [1, 2, 3] {
        let mut house = House::new(workers);
        house.run(vec![register(1, 1, None), register(2, 1, None), register(2, 2, None)]);
        house.run((0..4).map(|n| send(1, 2, &n.to_string())).collect());
        assert!(house.told_soon().is_empty(), "nobody has confirmed anything");
        house.run(vec![ack(2, 1, 3)]);
        assert_eq!(house.told_soon(), ["1.1 told: 2 has read 0, got 3"]);
        // Another device with less, and the same again: nothing new.
        house.run(vec![ack(2, 2, 2), ack(2, 1, 3)]);
        assert!(house.told_soon().is_empty());
        house.run(vec![ack(2, 2, 4)]);
        assert_eq!(house.told_soon(), ["1.1 told: 2 has read 0, got 4"], "whichever device");
        assert_eq!(words(&house.run(vec![receipts(PAIR, 1)])), ["1.1 receipts 1:0 2:0/4"]);
        // What is read has arrived.
        house.run((4..7).map(|n| send(1, 2, &n.to_string())).collect());
        let told = words(&house.run(vec![read_in(PAIR, 2, 6)]));
        assert!(told.contains(&"1.1 told: 2 has read 6".to_owned()), "{told:?}");
        // Of one's own messages nobody needs to be told.
        house.run(vec![ack(1, 1, 7)]);
        assert!(house.told_soon().is_empty());
        house.restart();
        assert_eq!(words(&house.run(vec![receipts(PAIR, 1)])), ["1.1 receipts 1:0 2:6"]);
    }
}

#[test]
fn a_group_is_told_of_each_member_and_whoever_has_left_has_no_mark() {
    for workers in [1, 2] {
        let mut house = House::new(workers);
        house.run(vec![register(1, 1, None), register(2, 1, None), register(3, 1, None)]);
        house.run(vec![create(1, &[2, 3], true), say(1, "a"), say(1, "b")]);
        house.run(vec![ack(2, 1, 3), ack(3, 1, 2)]);
        let mut told = house.told_soon();
        told.sort();
        let expected = [
            "1.1 told: 2 has read 0, got 3",
            "1.1 told: 3 has read 0, got 2",
            "2.1 told: 3 has read 0, got 2",
            "3.1 told: 2 has read 0, got 3",
        ];
        assert_eq!(told, expected);
        house.run(vec![change(1, "out", GroupChange::Remove(UserId(3)))]);
        house.run(vec![ack(3, 1, 3)]);
        house.told_soon();
        assert_eq!(words(&house.run(vec![receipts(CREW, 1)])), ["1.1 receipts 1:0 2:0/3"]);
    }
}

#[test]
fn what_was_confirmed_before_a_crash_is_told_after_it_once() {
    let mut house = House::new(2);
    house.run(vec![register(1, 1, None), register(2, 1, None)]);
    house.run(vec![send(1, 2, "a"), send(1, 2, "b")]);
    house.run(vec![ack(2, 1, 2)]);
    // Durable in the log, and on its way to nobody.
    house.keep_apart();
    house.wait(SOON_MS);
    house.taken();
    house.restart();
    house.run(vec![register(1, 1, Some(2)), register(2, 1, Some(2))]);
    assert_eq!(words(&house.run(vec![receipts(PAIR, 1)])), ["1.1 receipts 1:0 2:0/2"]);
    // Their devices are written down.
    house.wait(SOON_MS);
    let commits = house.commits();
    house.run(vec![ack(2, 1, 1)]);
    house.wait(SOON_MS);
    assert_eq!(house.commits(), commits + 1, "the cursor alone");
}

#[test]
fn a_batch_that_failed_tells_nobody_and_the_next_one_does() {
    let mut house = House::new(1);
    house.run(vec![register(1, 1, None), register(2, 1, None)]);
    house.run(vec![send(1, 2, "a")]);
    house.run(vec![ack(2, 1, 1)]);
    house.workers[0].store_mut().arm(Fault::Full);
    assert!(house.told_soon().is_empty());
    house.workers[0].store_mut().free_space();
    let mut told = Vec::new();
    for _ in 0..3 {
        told.extend(house.told_soon());
    }
    assert_eq!(told, ["1.1 told: 2 has read 0, got 1"]);
}

#[test]
fn whoever_confirms_very_much_at_once_costs_a_piece_per_turn() {
    let limits = Limits { snapshot_after: 100_000, ..Limits::default() };
    let mut house = House::with(2, limits);
    house.run(vec![register(1, 1, None)]);
    for batch in 0..10 {
        house.run((0..1_000).map(|n| send(1, 2, &format!("{batch}-{n}"))).collect());
    }
    house.taken();
    house.run(vec![register(2, 1, Some(10_000)), ack(2, 1, 10_000)]);
    house.taken();
    house.now_ms += SOON_MS;
    let owner = house.owner(2);
    house.turn(owner, vec![]);
    assert!(house.workers[owner].has_work(), "4,096 entries are gone over in a turn");
    house.settle();
    let told = words(&house.taken());
    assert_eq!(told.last().map(String::as_str), Some("1.1 told: 2 has read 0, got 10000"), "{told:?}");
}

#[test]
fn a_mark_of_the_first_version_stays_one_of_which_the_inbox_does_not_tell() {
    let mut house = House::new(1);
    house.run(vec![register(1, 1, None), register(2, 1, None)]);
    house.run(vec![send(1, 2, "a"), send(1, 2, "b")]);
    let mut batch = Batch::default();
    batch.put(Table::Receipts, layout::receipt_key(PAIR, UserId(2)), layout::seal_numbers([1]));
    house.store_of(2).commit(&batch).unwrap();
    house.run(vec![ack(2, 1, 2)]);
    assert_eq!(house.told_soon(), ["1.1 told: 2 has read 1, got 2"]);
    // The same again: now the inbox learns of it.
    let told = words(&house.run(vec![read_in(PAIR, 2, 1)]));
    assert!(told.contains(&"2.1 event 3".to_owned()), "{told:?}");
    assert!(told.contains(&"2.1 receipts 2:1/2".to_owned()), "{told:?}");
}

#[test]
fn very_many_users_are_written_down_a_piece_per_turn() {
    const CROWD: u64 = 1_000;
    let mut house = House::new(1);
    house.run((2..2 + CROWD).map(|user| send(1, user, "hi")).collect());
    house.run((2..2 + CROWD).map(|user| register(user, 1, None)).collect());
    house.run((2..2 + CROWD).map(|user| ack(user, 1, 1)).collect());
    house.now_ms += SOON_MS;
    let written = |house: &mut House| {
        let mut cursors = 0;
        let (from, to) =
            (layout::cursor_key(UserId(0), DeviceId(1)), layout::cursor_key(UserId(u64::MAX), DeviceId(1)));
        house
            .store_of(1)
            .scan(Table::Cursors, &from, &to, &mut |key, _| {
                cursors += u64::from(key.ends_with(&1u64.to_be_bytes()));
                crate::engine::Visit::More
            })
            .unwrap();
        cursors
    };
    let mut before = 0;
    for _ in 0..3 {
        house.turn(0, vec![]);
        let now = written(&mut house);
        assert!(now > before && now - before < CROWD / 4, "{before}, then {now}");
        assert!(house.workers[0].due_in_ms(house.now_ms) == Some(0) || house.workers[0].has_work());
        before = now;
    }
    house.settle();
    while house.workers[0].due_in_ms(house.now_ms) == Some(0) {
        house.settle();
    }
    assert_eq!(written(&mut house), CROWD, "and nobody is left out");
    assert!(!house.workers[0].has_work());
    assert_eq!(
        words(&house.run(vec![receipts(ConversationId::direct(UserId(1), UserId(999)), 1)])),
        ["1.1 receipts 1:0 999:0/1"]
    );
}
