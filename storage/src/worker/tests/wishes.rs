//! How much a turn reads for sessions, who waits then, and for how long.

use super::conversations::{list, short_sync};
use super::groups::{CREW, act_in, create, history, say};
use super::*;
use crate::command::HistoryFrom;

const ALL: ConversationId = ConversationId(0);

fn end(by: u64) -> (RouteKey, Command) {
    history(by, HistoryFrom::End, 200)
}

/// One turn of the only worker with these commands; what was delivered.
fn turn(house: &mut House, commands: Vec<(RouteKey, Command)>) -> Vec<String> {
    let commands = commands.into_iter().map(|(key, command)| house.envelope(key.slice(), command)).collect();
    house.turn(0, commands);
    words(&house.taken())
}

/// A session's commands come from another shard.
fn on_shard(shard: u16, (key, mut command): (RouteKey, Command)) -> (RouteKey, Command) {
    match &mut command {
        Command::Register(Register { session, .. })
        | Command::Sync { session, .. }
        | Command::Unregister { session, .. } => session.shard = shard,
        Command::Conversations(request) => request.session.shard = shard,
        Command::History(request) => request.session.shard = shard,
        other => unreachable!("{other:?}"),
    }
    (key, command)
}

fn is_answer(word: &str) -> bool {
    ["page", "list", "history"].iter().any(|what| word.contains(what))
}

#[test]
fn pages_lists_and_histories_share_what_a_turn_may_read() {
    let mut house = House::with(1, Limits { turn_page_bytes: 1, ..Limits::default() });
    house.run(vec![create(1, &[2, 3], false)]);
    house.run(vec![register(1, 1, Some(0)), register(2, 1, Some(0)), register(3, 1, Some(0))]);
    let commands = vec![list(1, ALL, 0), sync(2, 1, 0, 0), end(3), sync(1, 1, 0, 0), list(2, ALL, 0)];
    let mut told = turn(&mut house, commands);
    for turns in 1..=5 {
        assert_eq!(told.len(), turns, "one per turn, in the order in which they came: {told:?}");
        assert_eq!(house.workers[0].has_work(), turns < 5);
        told.extend(turn(&mut house, vec![]));
    }
    let order: Vec<_> =
        told.iter().map(|word| word.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(order, ["1.1 list", "2.1 page", "3.1 history", "1.1 page", "2.1 list"]);
}

#[test]
fn a_session_has_few_questions_that_wait_and_is_told_of_those_that_may_not() {
    let mut house = House::with(1, Limits { turn_page_bytes: 1, ..Limits::default() });
    house.run(vec![create(1, &[2], false), register(1, 1, None), register(2, 1, None)]);
    let mut burst: Vec<_> = (0..7).map(|_| list(1, ALL, 0)).collect();
    burst.extend([end(1), list(2, ALL, 0)]);
    let told = turn(&mut house, burst);
    let refused = told.iter().filter(|word| *word == "1.1 rejected Overloaded").count();
    // One was answered at once, four wait.
    assert_eq!((refused, told.len()), (3, 4), "{told:?}");
    house.settle();
    let told = words(&house.taken());
    assert_eq!(told.iter().filter(|word| word.starts_with("1.1 list")).count(), 4, "{told:?}");
    assert_eq!(told.iter().filter(|word| word.starts_with("2.1 list")).count(), 1, "{told:?}");
    // What has been answered does not count, and what fits into one turn waits for nothing.
    assert_eq!(turn(&mut house, (0..5).map(|_| end(1)).collect()).len(), 1);
    house.settle();
    house.taken();
    let mut house = House::new(1);
    house.run(vec![create(1, &[2], false)]);
    assert_eq!(turn(&mut house, (0..20).map(|_| list(1, ALL, 0)).collect()).len(), 20);
}

#[test]
fn nothing_is_read_for_a_full_lane_and_others_do_not_wait_for_it() {
    let mut house = House::new(1);
    house.run(vec![create(1, &[2, 3], false)]);
    house.effects.full_shard = Some(1);
    // Its answer fills the lane.
    turn(&mut house, vec![on_shard(1, register(1, 1, Some(0)))]);
    let commands = vec![
        on_shard(1, list(1, ALL, 0)),
        on_shard(1, end(1)),
        on_shard(1, sync(1, 1, 0, 0)),
        list(2, ALL, 0),
    ];
    assert_eq!(turn(&mut house, commands), ["2.1 list at 1: g77:Crew 0 unread 0 read 0 shown, all"]);
    let reads = |house: &House| house.workers[0].counters.read().history_reads;
    assert_eq!(reads(&house), 0);
    assert!(!house.workers[0].has_work(), "it does not spin");
    assert!(house.workers[0].due_in_ms(house.now_ms).is_some(), "nor sleep for ever");
    assert_eq!(turn(&mut house, vec![end(3)]).len(), 1);
    house.effects.full_shard = None;
    let told = turn(&mut house, vec![]);
    assert_eq!(told.iter().filter(|word| is_answer(word)).count(), 3, "{told:?}");
    assert!(!house.workers[0].has_work());
    // The device that has logged in is written down, like a cursor.
    house.wait(2_000);
    assert_eq!(house.workers[0].due_in_ms(house.now_ms), None);
}

#[test]
fn whoever_waits_for_one_shard_does_not_wait_for_all_of_another() {
    let mut house = House::with(1, Limits { turn_page_bytes: 1, ..Limits::default() });
    house.run(vec![create(1, &(2..=60).collect::<Vec<_>>(), false)]);
    let crowd = (1..=50).flat_map(|user| (0..3).map(move |_| end(user))).collect();
    turn(&mut house, crowd);
    turn(&mut house, vec![on_shard(3, end(60))]);
    let mut turns = 0;
    while !turn(&mut house, vec![]).iter().any(|word| word.starts_with("60.1")) {
        turns += 1;
        assert!(turns < 3, "it waits for those of the other shard");
    }
    house.settle();
    assert_eq!(house.taken().len(), 150 - 2 - turns);
}

#[test]
fn of_a_session_that_is_gone_nothing_is_read() {
    for replaced in [false, true] {
        let mut house = House::with(1, Limits { turn_page_bytes: 1, ..Limits::default() });
        house.run(vec![create(1, &[2], false), register(1, 1, Some(0)), register(2, 1, None)]);
        let told = turn(&mut house, vec![end(2), list(1, ALL, 0), end(1), sync(1, 1, 0, 0), end(2)]);
        assert_eq!(told.len(), 1);
        let gone = if replaced {
            let (key, mut again) = register(1, 1, None);
            let Command::Register(request) = &mut again else { unreachable!() };
            request.session = session(1, 99);
            (key, again)
        } else {
            let (user, device) = (UserId(1), DeviceId(1));
            let gone = Command::Unregister { user, device, session: session(1, 1) };
            (RouteKey::User(UserId(1)), gone)
        };
        let mut told = house.run(vec![gone]);
        told.retain(|delivery| [Some(session(1, 1)), Some(session(2, 1))].contains(&delivery.session()));
        let told = words(&told);
        let expected: &[&str] = if replaced { &["1.1 replaced"] } else { &[] };
        assert_eq!(told[..told.len() - 1], *expected, "{told:?}");
        assert!(told.last().unwrap().starts_with("2.1 history"), "{told:?}");
        let wishes = format!("{:?}", house.workers[0].wishes);
        assert!(!house.workers[0].has_work() && wishes.contains("count: 0"), "{wishes}");
    }
}

#[test]
fn what_a_list_goes_over_counts() {
    let limits =
        Limits { fold_entries: 64, snapshot_after: 100, turn_page_bytes: 10_000, ..Limits::default() };
    let mut house = House::with(1, limits);
    house.run((2..=101).map(|other| send(other, 1, "a")).collect());
    house.run(vec![register(1, 1, Some(0))]);
    house.run(vec![send(2, 1, "b")]);
    // A snapshot under way holds the checkpoint where it is.
    let begun = words(&house.run(vec![short_sync(1, 1, 0, false)]));
    assert!(begun[0].starts_with("1.1 snapshot") && !begun[0].ends_with(", all"), "{begun:?}");
    house.run((0..900).map(|n| send(2, 1, &format!("m{n}"))).collect());
    let told = turn(&mut house, (1..=20).map(|device| device_list(1, device)).collect());
    assert_eq!(told.iter().filter(|word| is_answer(word)).count(), 1, "{told:?}");
    house.settle();
    assert_eq!(house.taken().len(), 19);
}

fn device_list(user: u64, device: u64) -> (RouteKey, Command) {
    let (key, mut command) = list(user, ALL, 1);
    if let Command::Conversations(request) = &mut command {
        request.session = session(user, device);
    }
    (key, command)
}

#[test]
fn of_large_messages_no_more_are_read_than_are_shown() {
    let limits = Limits { page_bytes: 100_000, snapshot_after: 5, ..Limits::default() };
    let mut house = House::with(1, limits);
    house.run(vec![create(1, &[2], false)]);
    let large = Bytes::from([&[0x0a, 0xe0, 0xd4, 0x03][..], &[b'x'; 60_000]].concat());
    for n in 0..30 {
        let said = Act::Say { body: large.clone(), reply_to: None };
        house.run(vec![act_in(CREW, 1, &n.to_string(), said)]);
    }
    house.run(vec![say(1, "small"), register(2, 1, Some(0))]);
    let spent = |house: &House| house.workers[0].spent.bytes();
    assert_eq!(turn(&mut house, vec![end(2)]), ["2.1 history of 2 up to 32"]);
    assert!(spent(&house) < 200_000, "{}", spent(&house));
    let after = history(2, HistoryFrom::After(Seq(1)), 200);
    assert_eq!(turn(&mut house, vec![after]), ["2.1 history of 1 up to 32"]);
    assert!(spent(&house) < 200_000, "{}", spent(&house));
    let told = turn(&mut house, vec![short_sync(2, 1, 0, false)]);
    assert_eq!(told, ["2.1 snapshot at 32: g77:Crew 31 unread 0 read 1 shown, all"]);
    assert!(spent(&house) < 100_000, "{}", spent(&house));
}

#[test]
fn lists_that_wait_to_be_written_down_come_in_the_order_in_which_they_were_asked_for() {
    let mut house = House::with(1, Limits { fold_entries: 1_000, ..Limits::default() });
    house.run((2..=41).map(|other| send(other, 1, "a")).collect());
    let few = Limits { fold_entries: 4, ..house.workers[0].identity.limits.clone() };
    let stores = house.workers.drain(..).map(|worker| worker.into_store().crash()).collect();
    house.open(stores, &few);
    assert!(turn(&mut house, vec![list(1, ALL, 1), list(1, ALL, 2), list(1, ALL, 3)]).is_empty());
    house.settle();
    let told = house.taken();
    let counts = told.iter().map(|delivery| match delivery {
        Delivery::Conversations(list) => list.conversations.len(),
        other => panic!("{other:?}"),
    });
    assert_eq!(counts.collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn a_list_that_is_being_written_down_does_not_wait_for_a_disk_that_is_full() {
    for fault in [Fault::Full, Fault::SyncFails] {
        let rarely = Limits { fold_entries: 1_000, snapshot_after: 10, ..Limits::default() };
        let mut house = House::with(1, rarely);
        house.run((0..40).map(|n| send(2, 1, &n.to_string())).collect());
        let few = Limits { fold_entries: 4, ..house.workers[0].identity.limits.clone() };
        let stores = house.workers.drain(..).map(|worker| worker.into_store().crash()).collect();
        house.open(stores, &few);
        turn(&mut house, vec![register(1, 1, Some(0))]);
        assert!(turn(&mut house, vec![list(1, ALL, 0), short_sync(1, 1, 0, false)]).is_empty());
        assert!(house.workers[0].has_work(), "it is being written down");
        house.workers[0].store_mut().arm(fault);
        let told = turn(&mut house, vec![]);
        assert_eq!(told.iter().filter(|word| word.contains("40 unread")).count(), 2, "{told:?}");
    }
}
