//! What is old enough goes, from everywhere, and nothing else does.

use super::groups::{CREW, act_in, change, create, delete, edit, history, inbox, say, shown};
use super::people::block;
use super::receipts::read_in;
use super::*;
use crate::command::{ConversationsRequest, GroupChange, HistoryFrom};
use crate::engine::Visit;

/// So many records stand in a table, in all databases.
fn count(house: &House, table: Table) -> usize {
    let mut count = 0;
    for worker in &house.workers {
        let visit = &mut |_: &[u8], _| {
            count += 1;
            Visit::More
        };
        worker.store().scan(table, &[], &[0xff; 33], visit).unwrap();
    }
    count
}

fn expired(house: &House) -> u64 {
    house.workers.iter().map(|worker| worker.counters.read().expired).sum()
}

fn keep(by: u64, client_id: &str, days: u32) -> (RouteKey, Command) {
    change(by, client_id, GroupChange::Keep { days })
}

fn kept_for(days: u64) -> Limits {
    Limits { retention_ms: days * DAY_MS, ..Limits::default() }
}

fn direct() -> ConversationId {
    ConversationId::direct(UserId(1), UserId(2))
}

fn history_of(conversation: ConversationId, by: u64) -> (RouteKey, Command) {
    let (user, session) = (UserId(by), session(by, 1));
    let request = HistoryRequest { user, session, conversation, from: HistoryFrom::End, limit: 50 };
    (RouteKey::Conversation(conversation), Command::History(request))
}

#[test]
fn a_group_keeps_for_as_long_as_it_says_and_others_for_ever() {
    for workers in [1, 2, 3] {
        let mut house = House::new(workers);
        house.run(vec![
            create(1, &[2, 3, 4], false),
            say(2, "old"),
            edit(2, "better", 2),
            send(1, 2, "direct"),
        ]);
        house.run(vec![keep(1, "keep", 30), change(1, "out", GroupChange::Remove(UserId(4)))]);
        house.wait(20 * DAY_MS);
        house.run(vec![say(3, "young"), edit(3, "younger", 6)]);
        house.expire();
        assert_eq!(expired(&house), 0, "nothing is 30 days old");
        house.wait(11 * DAY_MS);
        house.expire();
        assert_eq!(expired(&house), 2, "a message and its edit, with {workers} workers");
        let all = ["1 created", "2 expired", "3 expired", "4 kept for 30", "5 removed 4"];
        // Of who has left the copies go too.
        assert_eq!(inbox(&mut house, 4), all);
        for user in 1..=3 {
            let of_group = inbox(&mut house, user).into_iter().filter(|it| !it.ends_with(" x"));
            assert_eq!(of_group.take(5).collect::<Vec<_>>(), all, "user {user}");
            assert_eq!(
                shown(house.run(vec![history(user, HistoryFrom::End, 50)])),
                (vec!["6 younger (changed by 7)".into(), "7 edited 6".into()], true)
            );
        }
        assert!((1..=workers.into()).contains(&count(&house, Table::Amended)), "of the young one's edit");
        assert_eq!(inbox(&mut house, 2).len(), 8, "the direct message is there");
        let (messages, _) = shown(house.run(vec![history_of(direct(), 1)]));
        assert_eq!(messages.len(), 1);
    }
}

#[test]
fn what_is_gone_cannot_be_answered_changed_or_taken_back() {
    let mut house = House::with(2, kept_for(8));
    house.run(vec![create(1, &[2], false), say(1, "old")]);
    house.wait(9 * DAY_MS);
    house.run(vec![say(1, "young")]);
    house.expire();
    let answer = |id, seq| {
        let body = Bytes::from_static(&[0x0a, 1, b'x']);
        act_in(CREW, 1, id, Act::Say { body, reply_to: Some(Seq(seq)) })
    };
    let refused = house.run(vec![answer("answer", 2), edit(1, "edit", 2), delete(1, "delete", 2)]);
    assert_eq!(
        words(&refused),
        [
            "1.1 rejected answer UnknownMessage",
            "1.1 rejected edit UnknownMessage",
            "1.1 rejected delete UnknownMessage"
        ]
    );
    assert_eq!(words(&house.run(vec![answer("after", 3)])), ["1.1 accepted after as 4"]);
}

#[test]
fn a_conversation_of_which_nothing_is_left_goes_on_where_it_was() {
    for workers in [1, 2, 3] {
        let mut house = House::with(workers, kept_for(8));
        house.run((0..5).map(|n| send(1, 2, &n.to_string())).collect());
        house.wait(9 * DAY_MS);
        house.expire();
        assert_eq!((count(&house, Table::Messages), count(&house, Table::Copies)), (0, 0));
        assert_eq!(count(&house, Table::Dedupe), 0);
        assert_eq!(shown(house.run(vec![history_of(direct(), 2)])), (vec![], true));
        house.restart();
        assert_eq!(words(&house.run(vec![send(2, 1, "next")])), ["2.1 accepted next as 6"]);
        let told = inbox(&mut house, 1);
        assert_eq!(told[..5], ["1 expired", "2 expired", "3 expired", "4 expired", "5 expired"]);
        assert_eq!(told.len(), 6);
        // It counts on, too: `next` is the sixth message.
        let (session, user) = (session(1, 1), UserId(1));
        let list = ConversationsRequest { user, session, after: ConversationId(0), limit: 10 };
        let list =
            |house: &mut House| words(&house.run(vec![(RouteKey::User(user), Command::Conversations(list))]));
        assert_eq!(list(&mut house), ["1.1 list at 6: 1:2: 1 unread 0 read 1 shown, all"]);
        house.run(vec![read_in(direct(), 1, 6)]);
        assert_eq!(list(&mut house), ["1.1 list at 7: 1:2: 0 unread 6 read 1 shown, all"]);
    }
}

#[test]
fn what_is_unread_and_gone_is_unread_until_it_is_read() {
    let mut house = House::with(2, kept_for(8));
    house.run((0..3).map(|n| send(2, 1, &n.to_string())).collect());
    house.wait(9 * DAY_MS);
    house.expire();
    house.run(vec![send(2, 1, "young")]);
    let (session, user) = (session(1, 1), UserId(1));
    let list = ConversationsRequest { user, session, after: ConversationId(0), limit: 10 };
    let list =
        |house: &mut House| words(&house.run(vec![(RouteKey::User(user), Command::Conversations(list))]));
    assert_eq!(list(&mut house), ["1.1 list at 4: 1:2: 4 unread 0 read 1 shown, all"]);
    // Whoever has read one of those that are gone has read all of them.
    house.run(vec![read_in(direct(), 1, 2)]);
    assert_eq!(list(&mut house), ["1.1 list at 5: 1:2: 1 unread 3 read 1 shown, all"]);
}

#[test]
fn a_resend_is_known_for_as_long_as_anybody_may_send_again() {
    let mut house = House::new(1);
    house.run(vec![create(1, &[2], false), keep(1, "keep", 1)]);
    let first = ids(&house.run(vec![say(1, "a")]));
    house.wait(2 * DAY_MS);
    house.expire();
    assert_eq!(expired(&house), 1);
    assert_eq!(ids(&house.run(vec![say(1, "a")])), first, "gone, and still known");
}

#[test]
fn much_goes_piece_by_piece_and_a_restart_in_between_loses_nothing() {
    let mut house = House::with(2, kept_for(8));
    for batch in 0..30 {
        house.run((0..100).map(|n| send(1, 2, &format!("{batch}/{n}"))).collect());
    }
    house.wait(9 * DAY_MS);
    let mut left = vec![count(&house, Table::Messages)];
    assert!(left[0] > 0, "the first piece is not all");
    while let Some(&last) = left.last()
        && last > 0
    {
        if left.len() == 1 {
            house.restart();
        } else {
            house.wait(100);
        }
        left.push(count(&house, Table::Messages));
    }
    assert!(left.windows(2).all(|pair| (1..=1_024).contains(&(pair[0] - pair[1]))), "{left:?}");
    assert_eq!(count(&house, Table::Copies), 0);
    assert_eq!(count(&house, Table::Dedupe), 0);
}

#[test]
fn a_piece_that_is_not_durable_has_not_happened() {
    let mut house = House::with(1, kept_for(8));
    house.run((0..3).map(|n| send(1, 2, &n.to_string())).collect());
    house.store_of(1).arm(Fault::Full);
    house.wait(9 * DAY_MS);
    assert_eq!(count(&house, Table::Messages), 3);
    assert_eq!(shown(house.run(vec![history_of(direct(), 2)])).0.len(), 3);
    house.store_of(1).free_space();
    house.wait(100);
    house.expire();
    assert_eq!(count(&house, Table::Messages), 0);
}

#[test]
fn what_has_not_arrived_is_not_removed() {
    let mut house = House::with(2, kept_for(8));
    let other = (2..).find(|&user| house.owner(user) != house.owner(1)).unwrap();
    house.run(vec![register(other, 1, None), register(1, 1, None)]);
    house.keep_apart();
    house.run(vec![send(1, other, "waits")]);
    house.wait(9 * DAY_MS);
    house.wait(100);
    house.wait(100);
    assert_eq!(count(&house, Table::Messages), 1, "the log names it");
    house.effects.queues_full = false;
    house.wait(100);
    assert_eq!(inbox(&mut house, 1).len(), 1);
    assert_eq!(inbox(&mut house, other).len(), 1);
    house.expire();
    assert_eq!((count(&house, Table::Messages), count(&house, Table::Copies)), (0, 0));
    assert_eq!(inbox(&mut house, other), ["1 expired"]);
}

#[test]
fn what_only_its_sender_sees_goes_as_well() {
    for workers in [1, 2, 3] {
        let mut house = House::with(workers, kept_for(8));
        house.run(vec![send(1, 2, "a"), send(2, 1, "b")]);
        house.run(vec![block(1, 2, true)]);
        house.run(vec![send(2, 1, "hidden")]);
        house.run(vec![super::blocks::edit(2, "hidden edit", 2, "other")]);
        assert!(count(&house, Table::Hidden) > 0);
        house.wait(9 * DAY_MS);
        house.expire();
        for table in [Table::Messages, Table::Copies, Table::Hidden, Table::Amended] {
            assert_eq!(count(&house, table), 0, "{table:?} with {workers} workers");
        }
        house.run(vec![block(1, 2, false)]);
        assert_eq!(words(&house.run(vec![send(2, 1, "seen")])), ["2.1 accepted seen as 5"]);
        let page = words(&house.run(vec![register(1, 9, Some(0)), sync(1, 9, 0, 0)]));
        assert_eq!(page[1], "1.9 page 1..=4 of 4, live", "two that are gone, one that is there, and a mark");
    }
}

#[test]
fn where_everything_is_kept_nobody_is_woken_for_it() {
    let mut house = House::new(2);
    house.run(vec![create(1, &[2], false), say(1, "a")]);
    house.wait(1_000);
    assert!(house.workers.iter().all(|worker| worker.due_in_ms(house.now_ms).is_none()));
    house.run(vec![keep(1, "keep", 10)]);
    house.expire();
    let due: Vec<_> = house.workers.iter().filter_map(|worker| worker.due_in_ms(house.now_ms)).collect();
    assert!(due.len() == 1 && due[0] > 3_000_000, "{due:?}: the group's, once an hour");
}

#[test]
fn what_cannot_be_begun_is_not_tried_without_a_pause() {
    let mut house = House::with(2, kept_for(8));
    let other = (2..).find(|&user| house.owner(user) != house.owner(1)).unwrap();
    house.keep_apart();
    house.run(vec![send(1, other, "waits")]);
    house.wait(9 * DAY_MS);
    let due = house.workers.iter().filter_map(|worker| worker.retention_due_in_ms(house.now_ms));
    assert!(due.clone().all(|ms| ms > 0), "{:?}", due.collect::<Vec<_>>());
}
