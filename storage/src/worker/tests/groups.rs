//! Groups, and what is done to messages: one behaviour at a time.

use holdfast_protocol::chat::{Body, Content, Entry, Role, body, content, entry};
use holdfast_protocol::id::GroupId;
use prost::Message as _;

use super::*;
use crate::command::{GroupChange, HistoryFrom};

pub(crate) const CREW: ConversationId = ConversationId::group(GroupId(77));

pub(crate) fn act_in(
    conversation: ConversationId,
    by: u64,
    client_id: &str,
    act: Act,
) -> (RouteKey, Command) {
    let message = SendMessage {
        sender: UserId(by),
        device: DeviceId::from_name("phone"),
        device_name: ClientId::from_slice(b"phone"),
        session: session(by, 1),
        conversation,
        client_id: ClientId::from_slice(client_id.as_bytes()),
        act,
    };
    (RouteKey::Conversation(conversation), Command::Send(Box::new(message)))
}

pub(crate) fn change(by: u64, client_id: &str, change: GroupChange) -> (RouteKey, Command) {
    act_in(CREW, by, client_id, Act::Group(change))
}

pub(crate) fn create(by: u64, others: &[u64], open_history: bool) -> (RouteKey, Command) {
    let members = others.iter().map(|&user| UserId(user)).collect();
    change(by, "create", GroupChange::Create { title: "Crew".into(), members, open_history })
}

fn text(text: &str) -> Bytes {
    Body { kind: Some(body::Kind::Text(text.into())) }.encode_to_vec().into()
}

pub(crate) fn say(by: u64, client_id: &str) -> (RouteKey, Command) {
    act_in(CREW, by, client_id, Act::Say { body: text(client_id), reply_to: None })
}

pub(crate) fn edit(by: u64, client_id: &str, seq: u64) -> (RouteKey, Command) {
    let content = Content { kind: Some(content::Kind::Text(client_id.into())) }.encode_to_vec().into();
    act_in(CREW, by, client_id, Act::Edit { seq: Seq(seq), content })
}

pub(crate) fn delete(by: u64, client_id: &str, seq: u64) -> (RouteKey, Command) {
    act_in(CREW, by, client_id, Act::Delete { seq: Seq(seq) })
}

pub(crate) fn history(by: u64, from: HistoryFrom, limit: u32) -> (RouteKey, Command) {
    let (user, session) = (UserId(by), session(by, 1));
    let request = HistoryRequest { user, session, conversation: CREW, from, limit };
    (RouteKey::Conversation(CREW), Command::History(request))
}

/// An entry in few words: its seq and what it says.
pub(super) fn told(entry: &Bytes) -> String {
    let Some(entry::Kind::Message(message)) = Entry::decode(entry.clone()).unwrap().kind else {
        panic!("empty")
    };
    let what = match message.body.and_then(|body| body.kind).unwrap() {
        body::Kind::Text(text) => text,
        body::Kind::GroupCreated(_) => "created".into(),
        body::Kind::MembersAdded(added) => format!("added {:?}", added.users),
        body::Kind::MemberRemoved(removed) => format!("removed {}", removed.user),
        body::Kind::MemberLeft(_) => format!("left {}", message.sender),
        body::Kind::Edited(edited) => format!("edited {}", edited.seq),
        body::Kind::Deleted(deleted) => format!("deleted {}", deleted.seq),
        body::Kind::RetentionSet(set) => format!("kept for {}", set.days),
        body::Kind::Expired(_) => "expired".into(),
        other => format!("{other:?}"),
    };
    let changed = message.changed_by.map_or_else(String::new, |by| format!(" (changed by {by})"));
    format!("{} {what}{changed}", message.seq)
}

/// What is in a user's inbox.
pub(super) fn inbox(house: &mut House, user: u64) -> Vec<String> {
    let mut told_all = Vec::new();
    for delivery in house.run(vec![register(user, 9, Some(0)), sync(user, 9, 0, 0)]) {
        if let Delivery::Page { entries, .. } = delivery {
            told_all.extend(entries.iter().map(|(_, entry)| told(entry)));
        }
    }
    told_all
}

/// The one history that was delivered.
pub(super) fn shown(delivered: Vec<Delivery>) -> (Vec<String>, bool) {
    let mut shown = delivered.into_iter().filter_map(|delivery| match delivery {
        Delivery::History(history) => Some((history.messages.iter().map(told).collect(), history.end)),
        _ => None,
    });
    shown.next().expect("a history")
}

#[test]
fn every_member_gets_what_is_said_in_one_order() {
    for workers in [1, 2, 3] {
        let mut house = House::new(workers);
        house.run(vec![create(1, &[2, 3, 4, 5], false)]);
        // In one batch, and across batches.
        house.run((0..5).map(|n| say(1 + n, &format!("m{n}"))).collect());
        house.run(vec![say(2, "last")]);
        let expected = ["1 created", "2 m0", "3 m1", "4 m2", "5 m3", "6 m4", "7 last"];
        for user in 1..=5 {
            assert_eq!(inbox(&mut house, user), expected, "user {user} of {workers} workers");
        }
        house.restart();
        house.run(vec![say(3, "after")]);
        assert_eq!(inbox(&mut house, 5).last().unwrap(), "8 after");
    }
}

#[test]
fn asking_again_makes_no_second_group() {
    let mut house = House::new(2);
    let first = house.run(vec![create(1, &[2], false)]);
    house.restart();
    let again = house.run(vec![create(1, &[2], false), say(1, "a")]);
    assert_eq!(ids(&first)[0], ids(&again)[0], "the same answer");
    assert!(again.iter().any(|it| matches!(it, Delivery::Accepted { group: Some(GroupId(77)), .. })));
    // Somebody else, or another name, with an id that is taken.
    let other =
        change(3, "create", GroupChange::Create { title: "x".into(), members: vec![], open_history: true });
    assert_eq!(words(&house.run(vec![other])), ["3.1 rejected create NotAllowed"]);
}

#[test]
fn the_removal_is_the_last_that_a_removed_member_hears() {
    let mut house = House::new(3);
    house.run(vec![create(1, &[2, 3], false)]);
    // All in one batch: what comes when is decided by the order in the conversation.
    house.run(vec![
        say(2, "before"),
        change(1, "out", GroupChange::Remove(UserId(2))),
        say(1, "between"),
        say(2, "too late"),
        change(1, "in", GroupChange::Add(vec![UserId(2)])),
        say(2, "back"),
    ]);
    assert_eq!(
        inbox(&mut house, 2),
        ["1 created", "2 before", "3 removed 2", "5 added [2]", "6 back"],
        "nothing of what was said meanwhile"
    );
    assert_eq!(inbox(&mut house, 3).len(), 6);
    // History from joining on.
    let (shown, end) = shown(house.run(vec![history(2, HistoryFrom::End, 50)]));
    assert_eq!((shown, end), (vec!["5 added [2]".into(), "6 back".into()], true));
}

#[test]
fn whoever_has_left_still_gets_the_answer_that_was_lost() {
    let mut house = House::new(2);
    house.run(vec![create(1, &[2], false)]);
    let left = house.run(vec![change(2, "bye", GroupChange::Leave)]);
    assert_eq!(words(&left), ["2.1 accepted bye as 2"]);
    let again = house.run(vec![change(2, "bye", GroupChange::Leave), say(2, "a")]);
    assert_eq!(words(&again), ["2.1 accepted bye as 2", "2.1 rejected a UnknownConversation"]);
    assert_eq!(
        words(&house.run(vec![history(2, HistoryFrom::End, 10)])),
        ["2.1 rejected UnknownConversation"]
    );
}

#[test]
fn nobody_else_is_told_whether_a_group_exists() {
    let mut house = House::new(2);
    house.run(vec![create(1, &[2], false)]);
    for request in [say(7, "x"), edit(7, "x", 1), delete(7, "x", 1), change(7, "x", GroupChange::Leave)] {
        assert_eq!(words(&house.run(vec![request])), ["7.1 rejected x UnknownConversation"]);
    }
    // Of a direct conversation there are no members to change.
    let direct = ConversationId::direct(UserId(1), UserId(2));
    let leave = act_in(direct, 1, "x", Act::Group(GroupChange::Leave));
    assert_eq!(words(&house.run(vec![leave])), ["1.1 rejected x NotAllowed"]);
}

#[test]
fn only_the_author_edits_and_only_author_or_admin_deletes() {
    let mut house = House::new(2);
    house.run(vec![create(1, &[2, 3], false), say(2, "a"), say(2, "b")]);
    for (request, answer) in [
        (edit(3, "e1", 2), "3.1 rejected e1 NotAllowed"),
        (edit(1, "e2", 2), "1.1 rejected e2 NotAllowed"),
        (delete(3, "d1", 2), "3.1 rejected d1 NotAllowed"),
        (edit(2, "e3", 1), "2.1 rejected e3 UnknownMessage"),
        (edit(2, "e4", 9), "2.1 rejected e4 UnknownMessage"),
        (edit(2, "e5", 0), "2.1 rejected e5 UnknownMessage"),
        (edit(2, "e6", 2), "2.1 accepted e6 as 4"),
        (delete(1, "d2", 3), "1.1 accepted d2 as 5"),
        (edit(2, "e7", 3), "2.1 rejected e7 UnknownMessage"),
        (delete(2, "d3", 3), "2.1 rejected d3 UnknownMessage"),
        (edit(2, "e8", 4), "2.1 rejected e8 UnknownMessage"),
    ] {
        assert_eq!(words(&house.run(vec![request])), [answer]);
    }
    assert_eq!(inbox(&mut house, 3), ["1 created", "2 a", "3 b", "4 edited 2", "5 deleted 3"]);
}

#[test]
fn a_message_can_be_changed_in_the_batch_that_it_comes_in() {
    let mut house = House::new(2);
    house.run(vec![create(1, &[2], false)]);
    let delivered = house.run(vec![say(2, "a"), edit(2, "e", 2), delete(2, "d", 2), edit(2, "f", 2)]);
    assert_eq!(words(&delivered).last().unwrap(), "2.1 rejected f UnknownMessage");
    house.restart();
    let (shown, _) = shown(house.run(vec![history(1, HistoryFrom::End, 50)]));
    assert_eq!(shown, ["1 created", "2 deleted 2 (changed by 4)", "3 edited 2", "4 deleted 2"]);
}

#[test]
fn answers_name_a_message_that_is_there() {
    let mut house = House::new(1);
    house.run(vec![create(1, &[2], false), say(1, "a")]);
    house.run(vec![change(1, "in", GroupChange::Add(vec![UserId(3)]))]);
    let reply = |by, client_id: &str, to| {
        act_in(CREW, by, client_id, Act::Say { body: text("re"), reply_to: Some(Seq(to)) })
    };
    for (request, answer) in [
        (reply(2, "r1", 2), "2.1 accepted r1 as 4"),
        (reply(2, "r2", 9), "2.1 rejected r2 UnknownMessage"),
        (reply(2, "r3", 0), "2.1 rejected r3 UnknownMessage"),
        (reply(3, "r4", 2), "3.1 rejected r4 UnknownMessage"),
    ] {
        assert_eq!(words(&house.run(vec![request])), [answer]);
    }
}

#[test]
fn history_goes_both_ways_and_says_where_it_ends() {
    let mut house = House::new(2);
    house.run(vec![create(1, &[2], false)]);
    house.run((2..=10).map(|n| say(1, &n.to_string())).collect());
    house.run(vec![edit(1, "new", 4)]);
    let mut ask = |from, limit| {
        let (told, end) = shown(house.run(vec![history(2, from, limit)]));
        let seqs: Vec<u64> = told.iter().map(|it| it.split(' ').next().unwrap().parse().unwrap()).collect();
        (seqs, end)
    };
    assert_eq!(ask(HistoryFrom::End, 3), (vec![9, 10, 11], false));
    assert_eq!(ask(HistoryFrom::Before(Seq(9)), 3), (vec![6, 7, 8], false));
    assert_eq!(ask(HistoryFrom::Before(Seq(3)), 3), (vec![1, 2], true));
    assert_eq!(ask(HistoryFrom::Before(Seq(1)), 3), (vec![], true));
    assert_eq!(ask(HistoryFrom::Before(Seq(0)), 3), (vec![], true));
    assert_eq!(ask(HistoryFrom::Before(Seq(u64::MAX)), 2), (vec![10, 11], false));
    assert_eq!(ask(HistoryFrom::After(Seq(0)), 2), (vec![1, 2], false));
    assert_eq!(ask(HistoryFrom::After(Seq(9)), 2), (vec![10, 11], true));
    assert_eq!(ask(HistoryFrom::After(Seq(11)), 2), (vec![], true));
    assert_eq!(ask(HistoryFrom::After(Seq(u64::MAX)), 2), (vec![], true));
    let (told, _) = shown(house.run(vec![history(2, HistoryFrom::After(Seq(3)), 1)]));
    assert_eq!(told, ["4 new (changed by 11)"]);
}

#[test]
fn a_thousand_readers_of_one_page_cost_one_read() {
    let mut house = House::new(1);
    house.run(vec![create(1, &[2, 3], false), say(1, "a"), say(2, "b")]);
    let reads = |house: &House| house.workers[0].counters.read().history_reads;
    let crowd = || (0..1_000).map(|n| history(1 + n % 3, HistoryFrom::End, 10)).collect();
    let told = words(&house.run(crowd()));
    assert_eq!((told.len(), reads(&house)), (1_000, 1));
    assert!(told.iter().all(|word| word.ends_with(" history of 3 up to 3, all")), "{:?}", told.first());
    house.run(crowd());
    assert_eq!(reads(&house), 1, "it is still at hand");
    // What changes an old message changes the page.
    house.run(vec![edit(1, "e", 2)]);
    let (told, _) = shown(house.run(vec![history(3, HistoryFrom::After(Seq(1)), 1)]));
    assert_eq!(told, ["2 e (changed by 4)"]);
    house.run(vec![delete(1, "d", 2)]);
    let (told, _) = shown(house.run(vec![history(3, HistoryFrom::After(Seq(1)), 1)]));
    assert_eq!(told, ["2 deleted 2 (changed by 5)"]);
}

#[test]
fn history_keeps_to_its_bytes_but_gives_one_at_least() {
    let limits = Limits { page_bytes: 250, ..Limits::default() };
    let mut house = House::with(1, limits);
    house.run(vec![create(1, &[2], false)]);
    let long = "x".repeat(100);
    for n in 0..4 {
        let said = Act::Say { body: text(&long), reply_to: None };
        house.run(vec![act_in(CREW, 1, &n.to_string(), said)]);
    }
    let mut count = |from| {
        let (told, end) = shown(house.run(vec![history(2, from, 50)]));
        (told.first().cloned().unwrap(), told.len(), end)
    };
    assert_eq!(count(HistoryFrom::End), (format!("5 {long}"), 1, false));
    assert_eq!(count(HistoryFrom::After(Seq(1))), (format!("2 {long}"), 1, false));
}

#[test]
fn a_change_that_is_not_durable_has_not_happened() {
    for fault in [Fault::SyncFails, Fault::Full] {
        let mut house = House::new(1);
        house.run(vec![create(1, &[2], false)]);
        house.workers[0].store_mut().arm(fault);
        let out = house.run(vec![change(1, "out", GroupChange::Remove(UserId(2)))]);
        assert!(words(&out)[0].contains("rejected out Storage"), "{fault:?}");
        // Still a member: may look.
        let (shown, _) = shown(house.run(vec![history(2, HistoryFrom::End, 50)]));
        assert_eq!(shown, ["1 created"], "{fault:?}");
    }
}

#[test]
fn roles_count_at_once() {
    let mut house = House::new(2);
    house.run(vec![create(1, &[2, 3], false)]);
    let delivered = house.run(vec![
        change(2, "no", GroupChange::Rename("Us".into())),
        change(1, "up", GroupChange::SetRole(UserId(2), Role::Admin)),
        change(2, "yes", GroupChange::Rename("Us".into())),
    ]);
    assert_eq!(
        words(&delivered),
        ["1.1 accepted up as 2", "2.1 rejected no NotAllowed", "2.1 accepted yes as 3"]
    );
}
