//! What a user does beside sending messages, and what a program asks.

use holdfast_client::{Act, Answer, Event, Question};
use holdfast_protocol::chat::{Content, Format, Role, content, error_code};
use holdfast_protocol::id::{Seq, UserId};

use crate::world::World;

fn acts() -> Vec<Act> {
    let conversation = "g9".to_owned();
    let content = Content { kind: Some(content::Kind::Text("other".into())) };
    vec![
        Act::CreateGroup { title: "Roof".into(), members: vec![UserId(43)], open_history: true },
        Act::AddMembers { conversation: conversation.clone(), users: vec![UserId(44)] },
        Act::SetRole { conversation: conversation.clone(), user: UserId(44), role: Role::Admin },
        Act::Rename { conversation: conversation.clone(), title: "Cellar".into() },
        Act::SetRetention { conversation: conversation.clone(), days: 90 },
        Act::Edit { conversation: conversation.clone(), seq: Seq(1), content },
        Act::Delete { conversation: conversation.clone(), seq: Seq(1) },
        Act::RemoveMember { conversation: conversation.clone(), user: UserId(44) },
        Act::Leave { conversation },
    ]
}

fn accepted(world: &mut World) -> Vec<(String, Option<String>)> {
    let accepted = world.take_events().into_iter().filter_map(|event| match event {
        Event::Accepted { client_id, conversation, .. } => Some((client_id, conversation)),
        _ => None,
    });
    accepted.collect()
}

fn answers(world: &mut World) -> Vec<String> {
    let answers = world.take_events().into_iter().filter_map(|event| match event {
        Event::Answered(Answer::Group(group)) => Some(group.conversation),
        Event::Answered(Answer::Receipts(receipts)) => Some(format!("read {}", receipts.members[0].read)),
        Event::Refused(rejection) => Some(rejection.code),
        _ => None,
    });
    answers.collect()
}

fn group(name: &str) -> Question {
    Question::Group { conversation: name.into() }
}

#[test]
fn every_act_is_accepted_once_also_when_its_answer_was_lost() {
    for format in Format::ALL {
        let mut world = World::new(format, 1);
        world.settle();
        world.server.loses_answers = true;
        let names: Vec<_> = acts().into_iter().map(|act| world.client.act(act).expect("room")).collect();
        world.settle();
        assert_eq!(accepted(&mut world), []);
        assert_eq!(world.server.acts, names);
        world.server.loses_answers = false;
        world.cut();
        world.advance(2_000);
        assert_eq!(world.server.acts, [names.clone(), names.clone()].concat(), "under the same names");
        let mut expected: Vec<_> = names.into_iter().map(|name| (name, None)).collect();
        expected[0].1 = Some("g9".into());
        assert_eq!(accepted(&mut world), expected);
        assert_eq!(world.client.outbox_len(), 0);
    }
}

#[test]
fn what_no_server_would_take_is_refused_at_once() {
    let mut world = World::new(Format::Protobuf, 2);
    let conversation = || "g9".to_owned();
    for wrong in [
        Act::CreateGroup { title: String::new(), members: vec![], open_history: false },
        Act::AddMembers { conversation: conversation(), users: vec![] },
        Act::Rename { conversation: conversation(), title: "x".repeat(129) },
        Act::SetRetention { conversation: conversation(), days: 36_501 },
        Act::Edit { conversation: conversation(), seq: Seq(1), content: Content::default() },
    ] {
        assert!(world.client.act(wrong.clone()).is_err(), "{wrong:?}");
    }
    assert_eq!(world.client.outbox_len(), 0);
}

#[test]
fn questions_are_answered_in_order_and_asked_again_after_a_reconnect() {
    let mut world = World::new(Format::Json, 3);
    world.client.ask(group("g1")).expect("room");
    world.client.ask(Question::Read { conversation: "42:43".into(), up_to: Seq(7) }).expect("room");
    world.client.ask(group("g2")).expect("room");
    world.settle();
    assert_eq!(answers(&mut world), ["g1", "read 7", "g2"]);

    world.server.loses_answers = true;
    world.client.ask(group("g3")).expect("room");
    world.settle();
    assert_eq!((world.server.questions, answers(&mut world)), (4, vec![]));
    world.server.loses_answers = false;
    world.cut();
    world.advance(2_000);
    assert_eq!((world.server.questions, answers(&mut world)), (5, vec!["g3".to_owned()]));
}

#[test]
fn a_question_that_may_pass_later_is_asked_later_and_another_one_is_over() {
    let mut world = World::new(Format::Protobuf, 4);
    world.settle();
    world.server.refuses_questions = Some((error_code::RATE_LIMITED, 3_000));
    world.client.ask(group("g1")).expect("room");
    world.settle();
    assert_eq!((world.server.questions, answers(&mut world)), (1, vec![]), "the program need not know");
    world.server.refuses_questions = Some((error_code::UNKNOWN_CONVERSATION, 0));
    world.advance(2_900);
    assert_eq!(world.server.questions, 1);
    world.advance(200);
    assert_eq!((world.server.questions, answers(&mut world)), (2, vec!["unknown_conversation".to_owned()]));
    world.advance(60_000);
    assert_eq!(world.server.questions, 2);
}

#[test]
fn who_is_writing_is_said_while_there_is_a_connection() {
    let mut world = World::new(Format::Protobuf, 5);
    world.client.typing("@43", false);
    world.settle();
    assert_eq!(world.server.typing, [false; 0], "nobody hears it later");
    world.client.typing("@43", false);
    world.client.typing("@43", true);
    world.settle();
    assert_eq!(world.server.typing, [false, true]);
}

#[test]
fn each_connection_is_told_whom_the_program_watches_and_that_nobody_is_there() {
    for format in [Format::Json, Format::Protobuf] {
        let mut world = World::new(format, 6);
        assert!(world.client.watch_presence(&[43, 43]).is_err(), "twice");
        world.client.watch_presence(&[44, 43]).expect("good");
        world.client.set_away(true);
        world.settle();
        assert_eq!(world.server.watched, [[43, 44]]);
        let told: Vec<u64> = world
            .take_events()
            .into_iter()
            .filter_map(|event| match event {
                Event::Presence(presence) => Some(presence.users),
                _ => None,
            })
            .flatten()
            .map(|it| it.user)
            .collect();
        assert_eq!(told, [43, 44]);
        world.advance(1_000);
        assert_eq!(world.server.away, [true]);

        // What changes faster than it may be told is told as it is in the end.
        for user in 50..60 {
            world.client.watch_presence(&[user]).expect("good");
        }
        world.client.set_away(false);
        world.advance(5_000);
        assert_eq!((world.server.watched.last(), world.server.watched.len()), (Some(&vec![59]), 2));
        assert_eq!(world.server.away, [true, false]);

        world.cut();
        world.advance(60_000);
        assert_eq!((world.server.watched.last(), world.server.watched.len()), (Some(&vec![59]), 3));
        assert_eq!(world.server.away, [true, false], "a new connection is not away");
    }
}
