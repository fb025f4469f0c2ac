//! Contacts, blocks, and who may see whose presence.

use holdfast_protocol::chat::Audience;

use super::*;
use crate::command::{PeopleChange, PeopleRequest};

fn change(user: u64, change: PeopleChange) -> (RouteKey, Command) {
    let (user, session) = (UserId(user), session(user, 1));
    (RouteKey::User(user), Command::ChangePeople(ChangePeople { user, session, change }))
}

pub(crate) fn block(user: u64, other: u64, blocks: bool) -> (RouteKey, Command) {
    change(user, PeopleChange::Block(UserId(other), blocks))
}

pub(crate) fn contact(user: u64, other: u64, is_one: bool) -> (RouteKey, Command) {
    change(user, PeopleChange::Contact(UserId(other), is_one))
}

fn people(user: u64, after: u64, limit: u32) -> (RouteKey, Command) {
    let (user, session) = (UserId(user), session(user, 1));
    (RouteKey::User(user), Command::People(PeopleRequest { user, session, after: UserId(after), limit }))
}

fn may_watch(watcher: u64, user: u64) -> (RouteKey, Command) {
    let (user, session) = (UserId(user), session(watcher, 1));
    (RouteKey::User(user), Command::MayWatch { user, watcher: UserId(watcher), session })
}

#[test]
fn all_devices_learn_of_a_change_and_lists_outlive_a_restart() {
    for workers in [1, 3] {
        let mut house = House::new(workers);
        house.run(vec![register(1, 1, None), register(1, 2, None), register(2, 1, None)]);
        let told = house.run(vec![contact(1, 3, true), block(1, 3, true)]);
        // Each is told as it is once both are durable.
        let both =
            ["1.1 changed for everyone: 3 contact blocked", "1.2 changed for everyone: 3 contact blocked"];
        assert_eq!(words(&told), [both[0], both[0], both[1], both[1]]);
        house.run(vec![
            contact(1, 2, true),
            block(1, 9, true),
            change(1, PeopleChange::Presence(Audience::Contacts)),
        ]);
        house.restart();
        assert_eq!(
            words(&house.run(vec![people(1, 0, 10)])),
            ["1.1 people for contacts: 2 contact, 3 contact blocked, 9 blocked, all"]
        );
        assert_eq!(
            words(&house.run(vec![people(1, 0, 2)])),
            ["1.1 people for contacts: 2 contact, 3 contact blocked"]
        );
        assert_eq!(words(&house.run(vec![people(1, 3, 2)])), ["1.1 people for contacts: 9 blocked, all"]);
        house.run(vec![contact(1, 3, false), block(1, 3, false), block(1, 9, false), block(1, 9, false)]);
        assert_eq!(words(&house.run(vec![people(1, 0, 10)])), ["1.1 people for contacts: 2 contact, all"]);
        // Who is blocked learns of it nowhere.
        assert_eq!(words(&house.run(vec![people(9, 0, 10)])), ["9.1 people for everyone:, all"]);
    }
}

#[test]
fn there_are_only_so_many() {
    let mut house = House::with(1, Limits { contacts: 2, ..Limits::default() });
    let told = house.run(vec![block(1, 2, true), block(1, 3, true), block(1, 4, true), block(1, 3, true)]);
    assert_eq!(words(&told), ["1.1 rejected TooManyPeople"]);
    assert!(house.run(vec![contact(1, 2, true), contact(1, 4, true)]).is_empty());
    assert_eq!(words(&house.run(vec![contact(1, 5, true)])), ["1.1 rejected TooManyPeople"]);
    assert!(house.run(vec![block(1, 2, false), block(1, 4, true)]).is_empty(), "room for another one");
}

#[test]
fn presence_is_for_whom_the_user_says_and_never_for_the_blocked() {
    for workers in [1, 3] {
        let mut house = House::new(workers);
        house.run(vec![contact(1, 2, true)]);
        let seen_by = |house: &mut House| {
            let told = house.run(vec![may_watch(1, 1), may_watch(2, 1), may_watch(3, 1)]);
            let told = words(&told);
            [1, 2, 3].map(|watcher| told.contains(&format!("{watcher}.1 may watch 1")))
        };
        assert_eq!(seen_by(&mut house), [true, true, true]);
        house.run(vec![change(1, PeopleChange::Presence(Audience::Contacts))]);
        assert_eq!(seen_by(&mut house), [true, true, false]);
        house.run(vec![change(1, PeopleChange::Presence(Audience::Nobody))]);
        assert_eq!(seen_by(&mut house), [true, false, false]);
        house.run(vec![change(1, PeopleChange::Presence(Audience::Everyone)), block(1, 2, true)]);
        assert_eq!(seen_by(&mut house), [true, false, true], "blocked, though a contact");
        house.run(vec![block(1, 2, false), block(3, 1, true)]);
        assert_eq!(seen_by(&mut house), [true, true, false], "nor does it pass the other way");
        house.restart();
        assert_eq!(seen_by(&mut house), [true, true, false]);
        house.run(vec![block(3, 1, false)]);
        assert_eq!(seen_by(&mut house), [true, true, true]);
    }
}

#[test]
fn shards_are_told_that_watchers_are_to_be_asked_for() {
    for workers in [1, 3] {
        let mut house = House::new(workers);
        let watch =
            |user: u64| (RouteKey::User(UserId(user)), Command::Watch { user: UserId(user), shard: 0 });
        house.run(vec![watch(1), watch(2)]);
        house.wait(100);
        house.taken();
        let told = |house: &mut House| {
            house.wait(100);
            let mut told = words(&house.taken()).join(" ").replace("presence ", "").replace("; ", " ");
            // Which worker tells first does not matter.
            if let Some(at) = told.find("1 Off").filter(|&at| at > 0) {
                told = format!("{} {}", &told[at..], told[..at].trim_end());
            }
            told.replace(" Offline { last_seen_ms: None }", "")
        };
        house.run(vec![block(1, 2, true)]);
        assert_eq!(told(&mut house), "1 to others 2 to others", "both of them");
        house.run(vec![watch(1)]);
        assert_eq!(told(&mut house), "1 to some");
        house.run(vec![block(1, 2, false)]);
        assert_eq!(told(&mut house), "1 to others 2 to others");
        house.run(vec![watch(2)]);
        assert_eq!(told(&mut house), "2");
    }
}

#[test]
fn a_block_is_known_everywhere_or_nowhere_after_a_failed_write() {
    for workers in [1, 3] {
        for fault in [Fault::Full, Fault::SyncFails] {
            let mut house = House::new(workers);
            house.store_of(1).arm(fault);
            let told = words(&house.run(vec![block(1, 2, true)]));
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].starts_with("1.1 rejected Storage"), "{told:?}");
            house.store_of(1).free_space();
            house.wait(1_000);
            house.restart();
            house.run(vec![send(2, 1, "a")]);
            let known = words(&house.run(vec![people(1, 0, 9), may_watch(2, 1), register(1, 1, Some(0))]));
            // What was refused may be on disk all the same; then the conversation and the other one know too.
            let is_blocked = known.iter().any(|word| word.contains("2 blocked"));
            assert_eq!(known.contains(&"2.1 may not watch 1".to_owned()), is_blocked, "{known:?}");
            assert_eq!(known.contains(&"1.1 registered 0/0".to_owned()), is_blocked, "{known:?}");
        }
    }
}

#[test]
fn while_nothing_can_be_written_nothing_is_promised() {
    let mut house = House::new(1);
    house.store_of(1).arm(Fault::Full);
    let told = house.run(vec![
        block(1, 2, true),
        contact(1, 2, true),
        change(1, PeopleChange::Presence(Audience::Nobody)),
    ]);
    assert_eq!(words(&told), ["1.1 rejected StorageFull"; 3]);
    assert_eq!(words(&house.run(vec![people(1, 0, 9)])), ["1.1 people for everyone:, all"]);
}
