use super::*;
use crate::command::GroupChange;
use crate::engine::memory::Memory;
use crate::engine::{Batch, Key};
use crate::options::Limits;
use crate::worker::tests::blocks;
use crate::worker::tests::groups::{self, create, delete, edit, say};
use crate::worker::tests::people::{block, contact};
use crate::worker::tests::presence::unregister;
use crate::worker::tests::receipts::read_in;
use crate::worker::tests::{DAY_MS, House, register, send};
use holdfast_protocol::id::{DeviceId, Rev};

/// Three users' conversations, a group of them among these, on two databases, everything applied.
fn house() -> House {
    let mut house = House::with(2, Limits { fold_entries: 5, ..Limits::default() });
    for n in 0..6 {
        house.run(vec![send(1, 2, &n.to_string()), send(2, 1, &n.to_string()), send(1, 3, &n.to_string())]);
    }
    house.run(vec![create(1, &[2, 3], false), say(2, "a"), edit(2, "e", 2)]);
    house.run(vec![groups::change(1, "out", GroupChange::Remove(UserId(3))), say(1, "b")]);
    house.run(vec![groups::change(1, "in", GroupChange::Add(vec![UserId(3)])), delete(1, "d", 5)]);
    house.run(vec![register(1, 1, None), unregister(1, 1)]);
    house.wait(1_000);
    house
        .run(vec![read_in(groups::CREW, 3, 6), read_in(ConversationId::direct(UserId(1), UserId(2)), 1, 12)]);
    // What only user 2 sees: a message, and a change of one that both see.
    house.run(vec![block(1, 2, true), contact(1, 3, true)]);
    house.run(vec![send(2, 1, "hidden"), blocks::edit(2, "hidden edit", 2, "other")]);
    house
}

fn report(house: &House) -> Report {
    let mut checker = Checker::new(Arc::clone(house.assignment()), 2);
    for (number, worker) in (0..).zip(&house.workers) {
        checker.database(number, worker.store()).unwrap();
    }
    checker.report()
}

/// Everything in a table, and whose it is.
fn all(house: &House, table: Table) -> Vec<(usize, Key, Bytes)> {
    let mut found = Vec::new();
    for (number, worker) in house.workers.iter().enumerate() {
        let collect = &mut |key: &[u8], value| {
            found.push((number, Key::from_slice(key), value));
            Visit::More
        };
        worker.store().scan(table, &[], &[0xff; 24], collect).unwrap();
    }
    found
}

fn change(house: &mut House, number: usize, write: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::default();
    write(&mut batch);
    let store: &mut Memory = house.workers[number].store_mut();
    store.commit(&batch).unwrap();
}

#[test]
fn a_sound_store_is_sound() {
    let report = report(&house());
    assert!(report.is_sound(), "{:#?}", report.problems);
    assert_eq!((report.messages, report.entries, report.conversations, report.users), (27, 60, 3, 3));
}

/// The same nine days later, with what was written then; the house keeps everything for eight.
fn old_house() -> House {
    let mut house = house();
    house.keep(8 * DAY_MS);
    house.wait(9 * DAY_MS);
    house.expire();
    house.run(vec![send(3, 1, "new"), say(1, "new"), send(2, 1, "new")]);
    house
}

#[test]
fn a_store_of_which_much_is_gone_is_sound_and_what_is_left_over_is_noticed() {
    let now = report(&old_house());
    assert!(now.is_sound(), "{:#?}", now.problems);
    assert_eq!((now.expired, now.messages), (24, 6), "of the group what has happened to it is left");
    for table in [Table::Floors, Table::Messages, Table::Copies, Table::Hidden, Table::Inbox] {
        for at in 0..all(&old_house(), table).len() {
            let mut house = old_house();
            let (number, key, _) = all(&house, table).swap_remove(at);
            change(&mut house, number, |batch| batch.remove(table, key));
            assert!(!report(&house).is_sound(), "{} record {at}", table.name());
        }
    }
    for table in [Table::Messages, Table::Copies, Table::Hidden, Table::Amended] {
        let before = all(&house(), table);
        for (number, key, value) in before {
            let mut house = old_house();
            if all(&house, table).iter().any(|(_, there, _)| *there == key) {
                continue;
            }
            change(&mut house, number, |batch| batch.put(table, key, value));
            assert!(!report(&house).is_sound(), "something of {} has come back", table.name());
        }
    }
}

#[test]
fn each_record_that_is_gone_is_missed() {
    for table in [
        Table::Messages,
        Table::Dedupe,
        Table::Inbox,
        Table::Groups,
        Table::Amended,
        Table::Receipts,
        Table::Copies,
        Table::Conversations,
        Table::People,
        Table::Blocks,
        Table::Hidden,
    ] {
        let count = all(&house(), table).len();
        for at in 0..count {
            let mut house = house();
            let (number, key, _) = all(&house, table).swap_remove(at);
            change(&mut house, number, |batch| batch.remove(table, key));
            assert!(!report(&house).is_sound(), "{} record {at}", table.name());
        }
    }
}

#[test]
fn each_byte_that_has_changed_is_noticed() {
    for table in Table::ALL.into_iter().filter(|&table| table != Table::Cursors && table != Table::State) {
        let house = if table == Table::Floors { old_house } else { house };
        let house_now = house();
        let (_, _, value) = all(&house_now, table).swap_remove(0);
        for at in 0..value.len() {
            let mut house = house();
            let (number, key, value) = all(&house, table).swap_remove(0);
            let mut bytes = value.to_vec();
            bytes[at] ^= 0x10;
            change(&mut house, number, |batch| batch.put(table, key, bytes.into()));
            assert!(!report(&house).is_sound(), "{} byte {at}", table.name());
        }
    }
}

#[test]
fn a_value_that_was_cut_short_is_noticed_wherever_it_is() {
    // Also where intents wait for their messages.
    let house = || {
        let mut house = house();
        house.keep_apart();
        house.run(vec![say(1, "waits"), read_in(groups::CREW, 1, 2)]);
        house.run((4..12).map(|other| send(1, other, "waits")).collect());
        house
    };
    let sound = report(&house());
    assert!(sound.is_sound() && sound.waiting_intents > 4, "{:#?}", sound.problems);
    for table in Table::ALL.into_iter().filter(|&table| table != Table::Cursors && table != Table::State) {
        for at in 0..all(&house(), table).len() {
            for bytes in [0, 1, 4, 5] {
                let mut house = house();
                let (number, key, value) = all(&house, table).swap_remove(at);
                if value.len() == bytes {
                    continue;
                }
                change(&mut house, number, |batch| batch.put(table, key, value.slice(..bytes)));
                assert!(!report(&house).is_sound(), "{bytes} bytes of {} record {at}", table.name());
            }
        }
    }
}

#[test]
fn an_entry_in_place_of_another_is_noticed_though_the_numbers_fit() {
    let mut house = house();
    let inbox = all(&house, Table::Inbox);
    let (number, key, _) = inbox[0].clone();
    // Another message of the same inbox takes its place, whole and with a right checksum.
    let (_, _, other) = inbox[1].clone();
    change(&mut house, number, |batch| batch.put(Table::Inbox, key, other));
    assert!(!report(&house).is_sound());
}

#[test]
fn an_item_that_says_something_else_than_its_message_is_noticed() {
    let inbox = all(&house(), Table::Inbox);
    let mut changed = 0;
    for (number, key, value) in inbox {
        let items = crate::inbox::open(&key, &value).unwrap();
        for at in 0..items.len() {
            let mut pack = crate::inbox::Pack::new();
            for (which, item) in items.iter().enumerate() {
                let mut item = item.clone();
                if let (true, crate::inbox::Item::Message { ordinal, .. }) = (which == at, &mut item) {
                    *ordinal += 1;
                    changed += 1;
                }
                pack.push(&item);
            }
            let sealed = pack.seal();
            if sealed != value {
                let mut house = house();
                change(&mut house, number, |batch| batch.put(Table::Inbox, key.clone(), sealed));
                assert!(!report(&house).is_sound(), "item {at} of {key:?}");
            }
        }
    }
    assert_eq!(changed, 58);
}

#[test]
fn an_entry_too_many_and_a_cursor_beyond_the_head_are_noticed() {
    let mut house = house();
    let (number, key, value) = all(&house, Table::Inbox).pop().unwrap();
    let (user, rev) = split_pair(&key).unwrap();
    change(&mut house, number, |batch| {
        batch.put(Table::Inbox, layout::inbox_key(UserId(user), Rev(rev + 1)), value);
    });
    assert!(!report(&house).is_sound());
    let mut house = self::house();
    change(&mut house, number, |batch| {
        let cursor = layout::cursor_key(UserId(user), DeviceId(1));
        batch.put(Table::Cursors, cursor, layout::seal_numbers([rev + 1, 0]));
    });
    let report = report(&house);
    assert_eq!(report.problem_count, 1, "{:#?}", report.problems);
    assert!(report.problems[0].to_string().contains("has confirmed"), "{:#?}", report.problems);
}

#[test]
fn a_mark_beyond_the_end_of_somebody_else_or_of_nothing_is_noticed() {
    let pair = ConversationId::direct(UserId(1), UserId(2));
    let nothing = ConversationId::direct(UserId(8), UserId(9));
    for (conversation, user, read) in
        [(pair, 2, 15), (pair, 3, 1), (groups::CREW, 9, 1), (groups::CREW, 1, 8), (nothing, 8, 1)]
    {
        let mut house = house();
        let slice = RouteKey::Conversation(conversation).slice();
        let owner = usize::from(house.assignment().owner(slice).0);
        change(&mut house, owner, |batch| {
            let key = layout::receipt_key(conversation, UserId(user));
            batch.put(Table::Receipts, key, layout::seal_numbers([read]));
        });
        assert!(!report(&house).is_sound(), "{conversation}: {user} has read {read}");
    }
}

#[test]
fn a_mark_of_someone_whose_removal_is_under_way_is_no_problem() {
    let mut waited = 0;
    for user in [2, 3] {
        let mut house = house();
        house.run(vec![read_in(groups::CREW, user, 6)]);
        house.keep_apart();
        house.run(vec![groups::change(1, "gone", GroupChange::Remove(UserId(user)))]);
        let report = report(&house);
        assert!(report.is_sound(), "{:#?}", report.problems);
        waited += report.waiting_intents;
    }
    assert!(waited > 0, "one of the inboxes is in the other database");
}

#[test]
fn logs_that_contradict_each_other_are_noticed() {
    let applied = house();
    let states: Vec<_> =
        all(&applied, Table::State).into_iter().filter(|(_, key, _)| key.starts_with(b"a")).collect();
    assert!(!states.is_empty(), "something went between the databases");
    for (number, key, value) in states {
        let [position] = layout::open_numbers(Table::State, &key, &value).unwrap();
        // Less: those intents would be applied a second time. More: intents to come would not be applied.
        for wrong in [position - 1, position + 1] {
            let mut house = house();
            let (key, value) = (key.clone(), layout::seal_numbers([wrong]));
            change(&mut house, number, |batch| batch.put(Table::State, key, value));
            assert!(!report(&house).is_sound(), "{wrong} instead of {position}");
        }
    }
    for (number, key, _) in all(&applied, Table::FanOut) {
        let mut house = house();
        let is_last = all(&house, Table::FanOut).iter().all(|(at, other, _)| *at != number || *other <= key);
        let is_first = all(&house, Table::FanOut).iter().all(|(at, other, _)| *at != number || *other >= key);
        change(&mut house, number, |batch| batch.remove(Table::FanOut, key));
        // The oldest may have been written over.
        assert!(!report(&house).is_sound() || (is_first && !is_last));
    }
}
