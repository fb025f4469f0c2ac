//! Lists of conversations, snapshots, and who is in a group.

use holdfast_protocol::chat::Role;
use holdfast_protocol::id::GroupId;

use super::groups::{CREW, act_in, change, create, edit, say};
use super::receipts::read_in;
use super::*;
use crate::command::{ConversationList, ConversationsRequest, GroupChange, GroupRequest};
use crate::listing::read_checkpoint;

const PAIR: ConversationId = ConversationId::direct(UserId(1), UserId(2));

pub(crate) fn list(user: u64, after: ConversationId, limit: u32) -> (RouteKey, Command) {
    let request = ConversationsRequest { user: UserId(user), session: session(user, 1), after, limit };
    (RouteKey::User(UserId(user)), Command::Conversations(request))
}

pub(crate) fn short_sync(user: u64, device: u64, after: u64, goes_on: bool) -> (RouteKey, Command) {
    let (session, after) = (session(user, device), Rev(after));
    let sync = Command::Sync { user: UserId(user), session, after, limit: 0, every_entry: false, goes_on };
    (RouteKey::User(UserId(user)), sync)
}

fn listed(house: &mut House, user: u64) -> Vec<String> {
    words(&house.run(vec![list(user, ConversationId(0), 100)]))
}

fn limits(fold_entries: u64, snapshot_after: u64) -> Limits {
    Limits { fold_entries, snapshot_after, ..Limits::default() }
}

#[test]
fn a_list_says_what_is_unread_wherever_the_checkpoint_is() {
    for (workers, fold_entries) in [(1, 1), (2, 1), (1, 3), (3, 4), (2, 1_000)] {
        let mut house = House::with(workers, limits(fold_entries, 1_000));
        assert_eq!(listed(&mut house, 2), ["2.1 list at 0: , all"]);
        house.run((0..5).map(|n| send(1, 2, &n.to_string())).collect());
        house.run(vec![
            send(2, 3, "a"),
            create(1, &[2, 3], false),
            say(1, "b"),
            say(3, "c"),
            edit(1, "e", 2),
        ]);
        house.run(vec![read_in(PAIR, 2, 3), read_in(CREW, 2, 2)]);
        let expected = ["2.1 list at 12: \
            g77:Crew 1 unread 2 read 1 shown; 1:2: 2 unread 3 read 1 shown; 2:3: 0 unread 0 read 1 shown, all"];
        assert_eq!(listed(&mut house, 2), expected, "{workers} workers, folded every {fold_entries}");
        house.restart();
        assert_eq!(listed(&mut house, 2), expected, "after a restart");
        house.run(vec![send(2, 1, "answer"), change(1, "out", GroupChange::Remove(UserId(2))), say(3, "d")]);
        let expected = ["2.1 list at 14: \
            g77:Crew 1 unread 2 read 1 shown gone; 1:2: 0 unread 3 read 1 shown; 2:3: 0 unread 0 read 1 shown, all"];
        assert_eq!(listed(&mut house, 2), expected, "who answers has seen it, who is gone hears no more");
    }
}

#[test]
fn a_list_comes_in_parts() {
    for fold_entries in [2, 1_000] {
        let mut house = House::with(2, limits(fold_entries, 1_000));
        house.run((2..=8).map(|other| send(other, 1, "x")).collect());
        let mut found = Vec::new();
        let mut after = ConversationId(0);
        loop {
            let delivered = house.run(vec![list(1, after, 3)]);
            let [Delivery::Conversations(part)] = delivered.as_slice() else { panic!("{delivered:?}") };
            found.extend(part.conversations.iter().map(|it| it.conversation));
            after = *found.last().unwrap();
            assert!(part.conversations.len() <= 3);
            if part.end {
                break;
            }
        }
        let all: Vec<_> = (2..=8).map(|other| ConversationId::direct(UserId(1), UserId(other))).collect();
        assert_eq!(found, all);
    }
}

#[test]
fn whoever_is_far_behind_gets_a_snapshot_of_one_moment_and_what_follows_it() {
    for workers in [1, 2] {
        let mut house = House::with(workers, limits(7, 20));
        let others = 2..=150u64;
        house.run(others.clone().map(|other| send(other, 1, "a")).collect());
        house.run(vec![register(1, 1, Some(0)), register(2, 1, None)]);
        let mut parts: Vec<ConversationList> = Vec::new();
        let mut goes_on = false;
        while parts.last().is_none_or(|part| !part.end) {
            let delivered = house.run(vec![short_sync(1, 1, 0, goes_on)]);
            goes_on = true;
            for delivery in delivered {
                match delivery {
                    Delivery::Snapshot(part) => parts.push(*part),
                    other => panic!("{other:?}"),
                }
            }
            // What happens meanwhile is not in it.
            house.run(vec![send(2, 1, &format!("meanwhile {}", parts.len()))]);
        }
        assert!(parts.len() > 1 && parts.iter().all(|part| part.rev == Rev(149)), "{parts:?}");
        let all: Vec<_> = parts.iter().flat_map(|part| &part.conversations).collect();
        assert_eq!(all.len(), 149);
        assert!(all.iter().all(|it| it.unread == 1 && it.messages.len() == 1), "{all:?}");
        let rest = words(&house.run(vec![short_sync(1, 1, 149, true)]));
        let last = 149 + parts.len();
        assert_eq!(rest, [format!("1.1 page 150..={last} of {last}, live")]);
        let told = words(&house.run(vec![send(2, 1, "live")]));
        assert!(told.contains(&format!("1.1 event {}", last + 1)), "{told:?}");
    }
}

#[test]
fn a_snapshot_that_was_left_alone_for_long_goes_on_or_is_another_one() {
    for (meanwhile, rev, first) in [(0, 169, false), (20, 189, true)] {
        let mut house = House::with(1, limits(7, 20));
        house.run((2..=150u64).map(|other| send(other, 1, "a")).collect());
        house.run(vec![register(1, 1, Some(0))]);
        house.run(vec![short_sync(1, 1, 0, false)]);
        // Behind the checkpoint, which waits for whoever fetches it.
        house.run((0..20).map(|n| send(2, 1, &format!("before {n}"))).collect());
        let begun = house.run(vec![short_sync(1, 1, 0, false)]);
        let [Delivery::Snapshot(begun)] = &begun[..] else { panic!("{begun:?}") };
        house.wait(600_000);
        // Whoever looks at the list now moves it on.
        listed(&mut house, 1);
        house.run((0..meanwhile).map(|n| send(2, 1, &format!("meanwhile {n}"))).collect());
        let next = house.run(vec![short_sync(1, 1, 0, true)]);
        let [Delivery::Snapshot(next)] = &next[..] else { panic!("{next:?}") };
        assert_eq!(next.rev, Rev(rev));
        let is_first = next.conversations[0].conversation == begun.conversations[0].conversation;
        assert_eq!(is_first, first, "one `rev`, one snapshot");
    }
}

#[test]
fn snapshots_that_are_begun_again_and_again_hold_up_nothing_for_ever() {
    let mut house = House::with(1, limits(2, 20));
    house.run((2..=100u64).map(|other| send(other, 1, "a")).collect());
    house.run(vec![register(1, 1, Some(0))]);
    for round in 0..40 {
        let begun = house.run(vec![short_sync(1, 1, 0, false)]);
        assert!(matches!(&begun[..], [Delivery::Snapshot(part)] if !part.end), "{begun:?}");
        house.run((0..2).map(|n| send(2, 1, &format!("{round}.{n}"))).collect());
        let checkpoint = read_checkpoint(house.workers[0].store(), UserId(1)).unwrap();
        let head = 99 + 2 * (round + 1);
        assert!(head - checkpoint.0 <= 2 * 16 + 4, "{checkpoint} of {head}");
    }
    // While it is fetched, it stays.
    let mut parts = 0;
    let mut delivered = house.run(vec![short_sync(1, 1, 0, false)]);
    while let [Delivery::Snapshot(part)] = &delivered[..] {
        parts += 1;
        assert_eq!(part.rev, Rev(179));
        if part.end {
            break;
        }
        house.run(vec![send(2, 1, &format!("meanwhile {parts}"))]);
        delivered = house.run(vec![short_sync(1, 1, 0, true)]);
    }
    assert_eq!(parts, 2);
}

#[test]
fn a_snapshot_shows_what_happened_last_as_it_is_now() {
    for workers in [1, 2, 3] {
        let mut house = House::with(workers, limits(5, 10));
        house.run(vec![create(1, &[2, 3], false)]);
        house.run((0..40).map(|n| say(1, &n.to_string())).collect());
        house.run(vec![edit(1, "edited", 30)]);
        house.run(vec![change(1, "out", GroupChange::Remove(UserId(3))), edit(1, "later", 35)]);
        for (user, shown, head) in [(2, 20, 44), (3, 19, 43)] {
            house.run(vec![register(user, 1, Some(0))]);
            let delivered = house.run(vec![short_sync(user, 1, 0, false)]);
            let [Delivery::Snapshot(part)] = delivered.as_slice() else { panic!("{delivered:?}") };
            let [crew] = part.conversations.as_slice() else { panic!("{part:?}") };
            assert_eq!((part.rev, crew.messages.len(), crew.gone), (Rev(head), shown, user == 3));
            let changed: Vec<_> = crew
                .messages
                .iter()
                .map(|entry| MessageEntry::decode(&entry[..]).unwrap())
                .filter_map(|entry| Some((entry.seq.0, entry.changed_by?.0)))
                .collect();
            // Whoever was removed does not hear of the later change, nor what it has made of the message.
            let expected = if user == 2 { vec![(30, 42), (35, 44)] } else { vec![(30, 42)] };
            assert_eq!(changed, expected, "user {user} of {workers} workers");
        }
    }
}

#[test]
fn a_snapshot_under_way_says_nothing_that_was_changed_behind_ones_back() {
    for workers in [1, 2, 3] {
        for comes_back in [false, true] {
            // One conversation per part.
            let mut house = House::with(workers, Limits { page_bytes: 1, ..limits(5, 10) });
            let create_first =
                GroupChange::Create { title: "First".into(), members: vec![UserId(2)], open_history: false };
            let first = ConversationId::group(GroupId(1));
            house.run(vec![act_in(first, 1, "first", Act::Group(create_first)), create(1, &[2, 3], false)]);
            house.run((0..20).map(|n| say(1, &n.to_string())).collect());
            house.run(vec![edit(1, "before", 20), register(2, 1, Some(0))]);
            let begun = house.run(vec![short_sync(2, 1, 0, false)]);
            assert!(matches!(&begun[..], [Delivery::Snapshot(part)] if !part.end), "{begun:?}");
            house.run(vec![change(1, "out", GroupChange::Remove(UserId(2))), edit(1, "secret", 21)]);
            if comes_back {
                house.run(vec![change(1, "in", GroupChange::Add(vec![UserId(2)]))]);
            }
            let rest = house.run(vec![short_sync(2, 1, 0, true)]);
            let [Delivery::Snapshot(part)] = rest.as_slice() else { panic!("{rest:?}") };
            let [crew] = part.conversations.as_slice() else { panic!("{part:?}") };
            assert_eq!((crew.conversation, part.rev, crew.gone), (CREW, Rev(23), false));
            let shown: Vec<_> =
                crew.messages.iter().map(|entry| MessageEntry::decode(&entry[..]).unwrap()).collect();
            let changed: Vec<_> =
                shown.iter().filter_map(|entry| Some((entry.seq.0, entry.changed_by?.0))).collect();
            assert_eq!(changed, [(20, 22)], "what was changed before is known");
            // Where nobody else has it, the database does not hear of the change at all.
            assert!((19..=20).contains(&shown.len()), "what was changed afterwards is left out at most");
            assert!(workers > 1 || shown.len() == 19);
        }
    }
}

#[test]
fn every_entry_comes_to_whoever_wants_every_entry() {
    let mut house = House::with(2, limits(7, 20));
    house.run((0..50).map(|n| send(2, 1, &n.to_string())).collect());
    house.run(vec![register(1, 1, Some(0))]);
    assert_eq!(words(&house.run(vec![sync(1, 1, 0, 0)])), ["1.1 page 1..=50 of 50, live"]);
    house.run(vec![register(1, 2, Some(30))]);
    assert_eq!(
        words(&house.run(vec![short_sync(1, 2, 30, false)])),
        ["1.2 page 31..=50 of 50, live"],
        "near"
    );
}

#[test]
fn a_checkpoint_of_a_batch_that_failed_is_tried_again() {
    let mut house = House::with(1, limits(4, 1_000));
    house.run((0..3).map(|n| send(2, 1, &n.to_string())).collect());
    house.run(vec![send(2, 1, "fourth")]);
    house.workers[0].store_mut().arm(Fault::Full);
    house.run((5..30).map(|n| send(2, 1, &n.to_string())).collect());
    house.workers[0].store_mut().free_space();
    house.wait(1_000);
    house.run((5..30).map(|n| send(2, 1, &n.to_string())).collect());
    assert_eq!(listed(&mut house, 1), ["1.1 list at 29: 1:2: 29 unread 0 read 1 shown, all"]);
}

#[test]
fn a_damaged_inbox_costs_its_user_the_list_and_nobody_else_anything() {
    let mut house = House::with(1, limits(4, 1_000));
    house.run(vec![send(2, 1, "first")]);
    house.run(vec![send(2, 1, "second"), send(2, 3, "a")]);
    let mut damage = Batch::default();
    let key = layout::inbox_key(UserId(1), Rev(2));
    let sealed = house.store_of(1).get(Table::Inbox, &key).unwrap().unwrap();
    damage.put(Table::Inbox, key, sealed.slice(..sealed.len() - 1));
    house.store_of(1).commit(&damage).unwrap();
    for round in 0..3 {
        // Enough for several attempts to write the list down.
        house.run((0..30).map(|n| send(2, 1, &format!("{round}.{n}"))).collect());
        assert_eq!(house.workers[0].health(), Health::Good);
        assert_eq!(listed(&mut house, 1), ["1.1 rejected StorageFailed"]);
        house.run(vec![register(1, 2, Some(2))]);
        let snapshot = words(&house.run(vec![short_sync(1, 2, 2, false)]));
        assert!(snapshot[0].starts_with("1.2 page 3..="), "what is not damaged is there: {snapshot:?}");
        let others = listed(&mut house, 3);
        assert_eq!(others, ["3.1 list at 1: 2:3: 1 unread 0 read 1 shown, all"]);
        house.restart();
    }
    assert!(house.workers[0].counters.read().failed_folds == 0, "nothing is tried before there is a reason");
    // It was repaired.
    let mut repair = Batch::default();
    repair.put(Table::Inbox, layout::inbox_key(UserId(1), Rev(2)), sealed);
    house.run((0..8).map(|n| send(2, 1, &format!("again {n}"))).collect());
    assert!(house.workers[0].counters.read().failed_folds > 0);
    house.store_of(1).commit(&repair).unwrap();
    house.run((0..8).map(|n| send(2, 1, &format!("repaired {n}"))).collect());
    assert_eq!(listed(&mut house, 1), ["1.1 list at 108: 1:2: 108 unread 0 read 1 shown, all"]);
}

#[test]
fn members_see_who_is_in_a_group_and_others_do_not() {
    let mut house = House::new(2);
    house.run(vec![create(1, &[2, 3], false)]);
    house.run(vec![change(1, "role", GroupChange::SetRole(UserId(3), Role::Admin))]);
    let ask = |user: u64, conversation| {
        let request = GroupRequest { user: UserId(user), session: session(user, 1), conversation };
        (RouteKey::Conversation(conversation), Command::Group(request))
    };
    assert_eq!(
        words(&house.run(vec![ask(2, CREW)])),
        ["2.1 group Crew at 2: 1 Owner 1; 2 Member 1; 3 Admin 1"]
    );
    assert_eq!(words(&house.run(vec![ask(4, CREW)])), ["4.1 rejected UnknownConversation"]);
    assert_eq!(words(&house.run(vec![ask(1, PAIR)])), ["1.1 rejected NotAllowed"]);
}
