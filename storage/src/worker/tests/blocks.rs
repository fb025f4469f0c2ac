//! Who is blocked writes as before, and the other one does not see it.

use holdfast_protocol::chat::{Body, Content, content};
use prost::Message as _;

use super::people::block;
use super::receipts::{read_in, receipts};
use super::*;
use crate::command::{ConversationsRequest, HistoryFrom};

const PAIR: ConversationId = ConversationId::direct(UserId(1), UserId(2));

fn act(by: u64, client_id: &str, act: Act) -> (RouteKey, Command) {
    let (key, command) = send_in(PAIR, by, client_id, b"");
    let Command::Send(mut message) = command else { unreachable!("it sends") };
    message.act = act;
    (key, Command::Send(message))
}

pub(crate) fn edit(by: u64, client_id: &str, seq: u64, text: &str) -> (RouteKey, Command) {
    let content = Content { kind: Some(content::Kind::Text(text.to_owned())) };
    act(by, client_id, Act::Edit { seq: Seq(seq), content: content.encode_to_vec().into() })
}

fn delete(by: u64, client_id: &str, seq: u64) -> (RouteKey, Command) {
    act(by, client_id, Act::Delete { seq: Seq(seq) })
}

fn list(user: u64) -> (RouteKey, Command) {
    let (user, session, after) = (UserId(user), session(user, 1), ConversationId(0));
    (RouteKey::User(user), Command::Conversations(ConversationsRequest { user, session, after, limit: 9 }))
}

impl House {
    /// What a user sees of the conversation: `seq` and text of each, "-" of what was taken back; and whether it is all.
    fn seen_by(&mut self, user: u64, from: HistoryFrom, limit: u32) -> (Vec<String>, bool) {
        let request =
            HistoryRequest { user: UserId(user), session: session(user, 1), conversation: PAIR, from, limit };
        let delivered = self.run(vec![(RouteKey::Conversation(PAIR), Command::History(request))]);
        let [Delivery::History(history)] = delivered.as_slice() else { panic!("{delivered:?}") };
        (history.messages.iter().map(said).collect(), history.end)
    }

    fn all_seen_by(&mut self, user: u64) -> Vec<String> {
        let (seen, end) = self.seen_by(user, HistoryFrom::End, 200);
        assert!(end);
        assert_eq!(self.seen_by(user, HistoryFrom::After(Seq(0)), 200), (seen.clone(), true));
        // Page by page, in both directions.
        let seq = |word: &String| Seq(word.split(' ').next().unwrap().parse().unwrap());
        for limit in 1..4 {
            let (mut up, mut down) = (Vec::new(), Vec::new());
            loop {
                let from = up.last().map_or(HistoryFrom::After(Seq(0)), |last| HistoryFrom::After(seq(last)));
                let (page, end) = self.seen_by(user, from, limit);
                up.extend(page);
                if end {
                    break;
                }
            }
            loop {
                let from = down.first().map_or(HistoryFrom::End, |first| HistoryFrom::Before(seq(first)));
                let (page, end) = self.seen_by(user, from, limit);
                down.splice(0..0, page);
                if end {
                    break;
                }
            }
            assert_eq!((&up, &down), (&seen, &seen), "by pages of {limit}");
        }
        seen
    }

    /// The entries of an inbox about the conversation, from the stored bytes.
    fn inbox_of(&mut self, user: u64) -> Vec<String> {
        let pages = self.run(vec![register(user, 1, Some(0)), sync(user, 1, 0, 0)]);
        let entries = pages.iter().find_map(|delivery| match delivery {
            Delivery::Page { entries, live: true, .. } => Some(entries),
            _ => None,
        });
        entries.expect("a page").iter().map(|(_, entry)| said(entry)).collect()
    }

    fn assert_sound(&self) {
        let mut checker = crate::check::Checker::new(Arc::clone(&self.assignment), self.workers.len() as u16);
        for (number, worker) in (0..).zip(&self.workers) {
            checker.database(number, worker.store()).unwrap();
        }
        let report = checker.report();
        assert!(report.is_sound(), "{:#?}", report.problems);
    }
}

fn said(entry: &Bytes) -> String {
    use holdfast_protocol::chat::{Entry, body, entry};
    match Entry::decode(entry.clone()).unwrap().kind.unwrap() {
        entry::Kind::Read(mark) => format!("read {}", mark.up_to),
        entry::Kind::Message(message) => {
            let text = match message.body.and_then(|body: Body| body.kind).unwrap() {
                body::Kind::Text(text) => text,
                body::Kind::Edited(edited) => format!("edits {}", edited.seq),
                body::Kind::Deleted(deleted) if deleted.seq == message.seq => "-".to_owned(),
                body::Kind::Deleted(deleted) => format!("deletes {}", deleted.seq),
                other => format!("{other:?}"),
            };
            format!("{} {text}", message.seq)
        }
    }
}

#[test]
fn who_is_blocked_cannot_tell_and_the_other_one_sees_nothing() {
    for workers in [1, 2, 3, 4] {
        let mut house = House::new(workers);
        house.run(vec![register(1, 1, None), register(2, 1, None), register(2, 2, None)]);
        house.run(vec![send(1, 2, "a"), send(2, 1, "b")]);
        let told = house.run(vec![block(1, 2, true)]);
        assert_eq!(words(&told), ["1.1 changed for everyone: 2 blocked"], "nobody else is told");

        let told = words(&house.run(vec![send(2, 1, "c"), send(2, 1, "d")]));
        assert!(told.iter().all(|word| word.starts_with("2.")), "{told:?}");
        let mut told: Vec<_> = told.iter().map(String::as_str).collect();
        told.sort_unstable();
        let all = [
            "2.1 accepted c as 3",
            "2.1 accepted d as 4",
            "2.1 event 3",
            "2.1 event 4",
            "2.2 event 3",
            "2.2 event 4",
        ];
        assert_eq!(told, all);
        // A resend gets its answer; the one who blocks is told to unblock first.
        assert_eq!(words(&house.run(vec![send(2, 1, "c")])), ["2.1 accepted c as 3"]);
        assert_eq!(words(&house.run(vec![send(1, 2, "x")])), ["1.1 rejected x Blocked"]);
        house.assert_sound();
        for restarts in 0..2 {
            assert_eq!(house.all_seen_by(1), ["1 x", "2 x"]);
            assert_eq!(house.all_seen_by(2), ["1 x", "2 x", "3 x", "4 x"]);
            assert_eq!(house.inbox_of(1), ["1 x", "2 x"]);
            assert_eq!(house.inbox_of(2), ["1 x", "2 x", "3 x", "4 x"]);
            if restarts == 0 {
                house.restart();
            }
        }
        house.run(vec![block(1, 2, false)]);
        house.run(vec![send(2, 1, "e"), send(1, 2, "f")]);
        assert_eq!(house.all_seen_by(1), ["1 x", "2 x", "5 x", "6 x"], "what was hidden stays so");
        assert_eq!(house.all_seen_by(2), ["1 x", "2 x", "3 x", "4 x", "5 x", "6 x"]);
        house.assert_sound();
    }
}

#[test]
fn what_was_hidden_counts_as_read_once_the_next_message_comes() {
    for workers in [1, 2, 3] {
        let mut house = House::new(workers);
        house.run(vec![send(2, 1, "a"), send(2, 1, "b")]);
        house.run(vec![block(1, 2, true)]);
        house.run(vec![send(2, 1, "c"), send(2, 1, "d")]);
        house.run(vec![register(1, 1, Some(0)), register(2, 1, Some(0))]);
        let seen = words(&house.run(vec![list(1)]));
        assert_eq!(seen, ["1.1 list at 2: 1:2: 2 unread 0 read 1 shown, all"]);
        house.run(vec![block(1, 2, false)]);
        house.run(vec![send(2, 1, "e"), send(2, 1, "f")]);
        house.taken();
        let seen = words(&house.run(vec![list(1)]));
        assert_eq!(seen, ["1.1 list at 5: 1:2: 2 unread 4 read 1 shown, all"]);
        assert_eq!(house.inbox_of(1), ["1 x", "2 x", "5 x", "read 4", "6 x"]);
        house.run(vec![read_in(PAIR, 1, 6)]);
        let seen = words(&house.run(vec![list(1)]));
        assert!(seen[0].contains("0 unread 6 read"), "{seen:?}");
        house.assert_sound();
    }
}

#[test]
fn changes_are_hidden_like_messages_and_so_are_changes_of_what_is_hidden() {
    for workers in [1, 2, 3] {
        let mut house = House::new(workers);
        house.run(vec![send(2, 1, "a"), send(2, 1, "b"), send(1, 2, "c")]);
        house.run(vec![block(1, 2, true)]);
        house.run(vec![edit(2, "d", 1, "other"), delete(2, "e", 2), send(2, 1, "f")]);
        house.run(vec![edit(2, "g", 6, "hidden"), edit(2, "h", 1, "again")]);
        let here =
            ["1 again", "2 -", "3 x", "4 edits 1", "5 deletes 2", "6 hidden", "7 edits 6", "8 edits 1"];
        assert_eq!(house.all_seen_by(1), ["1 x", "2 x", "3 x"]);
        assert_eq!(house.all_seen_by(2), here);
        // What is gone for its author cannot be changed; what one does not see cannot be answered for.
        let refused = house.run(vec![
            edit(2, "i", 2, "late"),
            edit(1, "j", 3, "mine"),
            edit(1, "jj", 6, "hidden"),
            delete(1, "k", 6),
        ]);
        assert_eq!(
            words(&refused),
            [
                "1.1 rejected j Blocked",
                "1.1 rejected jj UnknownMessage",
                "1.1 rejected k UnknownMessage",
                "2.1 rejected i UnknownMessage"
            ]
        );
        // Who blocks may still take back what was written before.
        house.run(vec![delete(1, "l", 3)]);
        assert_eq!(house.all_seen_by(1), ["1 x", "2 x", "3 -", "9 deletes 3"]);
        house.restart();
        house.run(vec![block(1, 2, false)]);
        house.run(vec![edit(2, "m", 6, "still hidden")]);
        assert_eq!(house.all_seen_by(1), ["1 x", "2 x", "3 -", "9 deletes 3"]);
        house.run(vec![edit(2, "n", 1, "seen")]);
        assert_eq!(house.all_seen_by(1), ["1 seen", "2 x", "3 -", "9 deletes 3", "11 edits 1"]);
        assert_eq!(house.all_seen_by(2)[..2], ["1 seen", "2 -"]);
        assert_eq!(house.all_seen_by(2)[5], "6 still hidden");
        house.assert_sound();
    }
}

#[test]
fn what_one_does_not_see_cannot_be_read() {
    let mut house = House::new(2);
    house.run(vec![send(2, 1, "a")]);
    house.run(vec![block(1, 2, true)]);
    house.run(vec![send(2, 1, "b")]);
    assert_eq!(words(&house.run(vec![read_in(PAIR, 1, 2)])), ["1.1 rejected UnknownMessage"]);
    assert_eq!(words(&house.run(vec![read_in(PAIR, 1, 1)])), ["1.1 receipts 1:1"], "and nobody is told");
    assert_eq!(words(&house.run(vec![read_in(PAIR, 2, 2)])), ["2.1 receipts 2:2"]);
    assert_eq!(words(&house.run(vec![receipts(PAIR, 2)])), ["2.1 receipts 1:1 2:2"]);
}

#[test]
fn two_who_block_each_other_have_a_conversation_that_only_holds_what_was() {
    let mut house = House::new(3);
    house.run(vec![block(1, 2, true)]);
    house.run(vec![send(2, 1, "a")]);
    house.run(vec![block(2, 1, true)]);
    let told = words(&house.run(vec![send(1, 2, "b"), send(2, 1, "c")]));
    assert_eq!(told, ["1.1 rejected b Blocked", "2.1 rejected c Blocked"]);
    house.run(vec![block(1, 2, false)]);
    house.run(vec![send(1, 2, "d")]);
    assert_eq!(house.all_seen_by(1), ["2 x"]);
    assert_eq!(house.all_seen_by(2), ["1 x"]);
    house.run(vec![block(2, 1, false)]);
    house.run(vec![send(1, 2, "e")]);
    assert_eq!(house.all_seen_by(1), ["2 x", "3 x"]);
    assert_eq!(house.all_seen_by(2), ["1 x", "3 x"]);
    house.assert_sound();
}

#[test]
fn whoever_is_blocked_is_not_heard_writing() {
    let mut house = House::new(2);
    house.run(vec![register(1, 1, None), register(2, 1, None)]);
    let typing = |by: u64| {
        let typing = crate::command::Typing { user: UserId(by), conversation: PAIR, stopped: false };
        (RouteKey::Conversation(PAIR), Command::Typing { typing, session: session(by, 1) })
    };
    assert_eq!(words(&house.run(vec![typing(2)])), ["1.1 typing: 2 is"]);
    house.run(vec![block(1, 2, true)]);
    assert!(house.run(vec![typing(2), typing(1)]).is_empty());
    house.run(vec![block(1, 2, false)]);
    assert_eq!(words(&house.run(vec![typing(2)])), ["1.1 typing: 2 is"]);
}

#[test]
fn a_thousand_hidden_messages_are_stepped_over() {
    let mut house = House::new(1);
    house.run(vec![send(2, 1, "first"), block(1, 2, true)]);
    house.run((0..1_000).map(|n| send(2, 1, &n.to_string())).collect());
    house.run(vec![block(1, 2, false), send(2, 1, "last")]);
    assert_eq!(house.seen_by(1, HistoryFrom::End, 2), (vec!["1 x".into(), "1002 x".into()], true));
    assert_eq!(house.seen_by(2, HistoryFrom::End, 2), (vec!["1001 x".into(), "1002 x".into()], false));
}

#[test]
fn pages_that_are_cut_by_their_bytes_have_no_holes() {
    for page_bytes in (150..1_500).step_by(50) {
        let mut house = House::with(2, Limits { page_bytes, ..Limits::default() });
        house.run((0..6).map(|n| send_in(PAIR, 2, &format!("a{n}"), &[0x0a, 1, b'a'])).collect());
        house.run(vec![block(1, 2, true)]);
        house.run((0..12).map(|n| send_in(PAIR, 2, &format!("h{n}"), &[0x0a, 1, b'h'])).collect());
        house.run(vec![block(1, 2, false)]);
        house.run((0..6).map(|n| send_in(PAIR, 1, &format!("b{n}"), &[0x0a, 1, b'b'])).collect());
        for (user, expected) in [(2, (1..=24).collect()), (1, (1..=6).chain(19..=24).collect::<Vec<u64>>())] {
            let seqs = |page: Vec<String>| -> Vec<u64> {
                page.iter().map(|word| word.split(' ').next().unwrap().parse().unwrap()).collect()
            };
            let (mut up, mut down) = (Vec::new(), Vec::new());
            loop {
                let after = Seq(up.last().copied().unwrap_or(0));
                let (page, end) = house.seen_by(user, HistoryFrom::After(after), 200);
                up.extend(seqs(page));
                if end {
                    break;
                }
            }
            loop {
                let before = down.first().map_or(HistoryFrom::End, |&first| HistoryFrom::Before(Seq(first)));
                let (page, end) = house.seen_by(user, before, 200);
                down.splice(0..0, seqs(page));
                if end {
                    break;
                }
            }
            assert_eq!((&up, &down), (&expected, &expected), "user {user}, pages of {page_bytes} bytes");
        }
    }
}
