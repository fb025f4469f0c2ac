//! When all is well.

use holdfast_client::{Event, SendError};
use holdfast_protocol::chat::{Format, LimitError};
use holdfast_protocol::id::{Rev, Seq, UserId};

use crate::server::HEARTBEAT_MS;
use crate::world::{World, text};

#[test]
fn it_logs_in_sends_and_receives_in_both_formats() {
    for format in Format::ALL {
        let mut world = World::new(format, 1);
        world.server.deliver("before");
        world.settle();
        assert!(matches!(
            &world.take_events()[..],
            [Event::Welcomed { user: UserId(42), device, head: Rev(1) }, Event::Live { rev: Rev(1) }]
                if device == "phone"
        ));
        let client_id = world.client.send("@43", text("mine")).expect("there is room");
        world.server.deliver("theirs");
        world.settle();
        assert!(matches!(
            &world.take_events()[..],
            [Event::Accepted { client_id: accepted, seq: Seq(1), .. }] if *accepted == client_id
        ));
        assert_eq!(world.entries, ["before", "theirs", "mine"]);
        assert_eq!(world.entries, world.inbox());
        assert_eq!(world.client.outbox_len(), 0);
    }
}

#[test]
fn it_takes_what_it_missed_in_pages() {
    for missed in [1, 2, 3, 4, 10] {
        let mut world = World::new(Format::Protobuf, missed);
        for n in 0..missed {
            world.server.deliver(&format!("{n}"));
        }
        world.settle();
        assert_eq!(world.entries, world.inbox());
        assert_eq!(world.client.cursor(), Some(Rev(missed)));
        assert_eq!(world.server.syncs, [0; 0], "the server pages unasked");
    }
}

#[test]
fn a_quiet_connection_beats_and_nothing_else() {
    let mut world = World::new(Format::Protobuf, 3);
    world.settle();
    let minutes = 30;
    let mut beats = 0;
    while world.now_ms < minutes * 60_000 {
        let next_ms = world.client.poll_timeout().expect("there is a next beat");
        world.advance_to(next_ms);
        beats += 1;
        assert_eq!(world.server.heard_ms, world.now_ms, "each wake-up is a beat");
    }
    assert_eq!(beats, minutes * 60_000 / u64::from(HEARTBEAT_MS));
    // Of three intervals without a word from the server one ends with a question.
    assert_eq!(world.server.pings + world.server.pongs.len(), beats as usize);
    assert_eq!(world.server.pings, beats as usize / 2);
    assert_eq!(world.connects.len(), 1);
}

#[test]
fn it_answers_the_last_ping() {
    let mut world = World::new(Format::Protobuf, 4);
    world.settle();
    for payload in [&b"first"[..], b"last"] {
        world.server.write_raw(|out| {
            holdfast_protocol::ws::encode_frame(out, holdfast_protocol::ws::Opcode::Ping, payload, None);
        });
    }
    world.settle();
    assert_eq!(world.server.pongs.last().map(Vec::as_slice), Some(&b"last"[..]));
    assert!(world.server.pongs.len() <= 2);
}

#[test]
fn acks_are_told_now_and_then_and_the_last_one_counts() {
    let mut world = World::new(Format::Protobuf, 5);
    world.settle();
    for rev in 1..=50 {
        world.server.deliver("one");
        world.advance(100);
        world.client.ack(Rev(rev)).expect("it has come");
    }
    world.advance(2_000);
    assert_eq!(world.server.acks.last().map(|(_, rev)| *rev), Some(50));
    assert!(world.server.acks.windows(2).all(|acks| acks[1].0 - acks[0].0 >= 1_000 && acks[1].1 > acks[0].1));
    assert!((5..=8).contains(&world.server.acks.len()), "{:?}", world.server.acks);
    let error = world.client.ack(Rev(51)).expect_err("it has not come");
    assert_eq!(error.to_string(), "entries up to 50 have come, so 51 cannot be acknowledged");
}

#[test]
fn it_sends_no_faster_than_the_server_takes_and_keeps_the_order() {
    let mut world = World::new(Format::Protobuf, 6);
    world.settle();
    for n in 0..300 {
        world.client.send("@43", text(&n.to_string())).expect("there is room");
    }
    world.settle();
    assert_eq!(world.server.accepted.len(), 90);
    world.advance(1_000);
    assert_eq!(world.server.accepted.len(), 110);
    world.advance(10_000);
    assert_eq!(world.server.accepted.len(), 300);
    assert_eq!(world.entries, (0..300).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn what_the_server_would_refuse_does_not_enter_the_outbox() {
    let mut world = World::new(Format::Protobuf, 7);
    world.server.limits.message_bytes = 10;
    world.settle();
    assert!(world.client.send("@43", text("0123456789")).is_ok());
    let error = world.client.send("@43", text("0123456789a")).expect_err("too large");
    assert_eq!(error, SendError::Limit(LimitError::BodyTooLarge { bytes: 11, max: 10 }));
    world.client.send_as("mine", "@43", text("a")).expect("a name of its own");
    let error = world.client.send_as("mine", "@44", text("b")).expect_err("the name is taken");
    assert_eq!(error, SendError::Duplicate("mine".into()));
}

#[test]
fn close_says_goodbye_and_stays_away() {
    let mut world = World::new(Format::Json, 8);
    world.settle();
    world.take_events();
    world.client.close(world.now_ms);
    world.settle();
    assert!(matches!(&world.take_events()[..], [Event::Ended { why: holdfast_client::Lost::Local }]));
    assert!(!world.server.is_connected());
    assert_eq!(world.client.poll_timeout(), None);
    world.client.reconnect(world.now_ms, None);
    world.settle();
    assert!(matches!(&world.take_events()[..], [Event::Welcomed { .. }, Event::Live { .. }]));
}
