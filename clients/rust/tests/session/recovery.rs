//! When something goes wrong, one thing at a time.

use holdfast_client::{Event, Lost};
use holdfast_protocol::chat::{self, Drain, Format, close, error_code, server_frame::Frame};
use holdfast_protocol::id::Rev;
use holdfast_protocol::ws::handshake::ResponseError;
use holdfast_protocol::ws::{self, CloseCode, Opcode};

use crate::server::TOKEN;
use crate::world::{World, text};

/// A world in which the session has lasted long enough to count as a success.
fn stable(seed: u64) -> World {
    let mut world = World::new(Format::Protobuf, seed);
    world.advance_to(20_000);
    world.take_events();
    world.connects.clear();
    world
}

fn lost_until(world: &mut World) -> u64 {
    world
        .take_events()
        .into_iter()
        .find_map(|event| match event {
            Event::Lost { reconnect_at_ms, .. } => Some(reconnect_at_ms),
            _ => None,
        })
        .expect("the connection was lost")
}

#[test]
fn messages_whose_answers_were_lost_are_sent_again_and_accepted_once() {
    let mut world = stable(1);
    world.server.loses_answers = true;
    let sent: Vec<_> =
        (0..5).map(|n| world.client.send("@43", text(&n.to_string())).expect("room")).collect();
    world.settle();
    assert_eq!((world.server.accepted.len(), world.client.outbox_len()), (5, 5));
    world.server.loses_answers = false;
    world.cut();
    world.advance(2_000);
    assert_eq!((world.server.accepted.len(), world.client.outbox_len()), (5, 0));
    let accepted: Vec<_> = world
        .take_events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Accepted { client_id, seq, .. } => Some((client_id, seq.0)),
            _ => None,
        })
        .collect();
    assert_eq!(accepted, sent.into_iter().zip(1..).collect::<Vec<_>>());
    assert_eq!(world.entries, world.inbox());
    assert_eq!(world.server.hellos.last().expect("it came back").cursor, Some(0));
}

#[test]
fn messages_of_an_hour_without_a_network_go_out_in_order() {
    let mut world = World::new(Format::Protobuf, 2);
    world.is_reachable = false;
    for n in 0..80 {
        world.advance(45_000);
        world.client.send("@43", text(&n.to_string())).expect("room");
    }
    // Full jitter below a bound that reaches a minute: no storm, no sleep of an hour.
    assert!((60..600).contains(&world.connects.len()), "{}", world.connects.len());
    world.is_reachable = true;
    world.client.reconnect(world.now_ms, None);
    world.settle();
    assert_eq!(world.entries, (0..80).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_gap_is_closed_by_a_sync_from_the_cursor() {
    let mut world = stable(3);
    world.server.deliver("one");
    world.settle();
    world.server.gap();
    for _ in 0..10 {
        world.server.deliver("while away");
    }
    world.settle();
    assert_eq!(world.server.syncs, [1]);
    assert_eq!(world.entries, world.inbox());
    assert!(matches!(world.take_events()[..], [Event::Live { rev: Rev(11) }]));
    let counters = world.client.counters();
    assert_eq!((counters.gaps, counters.holes, counters.entries_repeated), (1, 0, 0));
    assert!(counters.pages >= 1);
}

#[test]
fn a_hole_is_noticed_without_being_told() {
    let mut world = stable(4);
    world.server.lose_event("never sent");
    world.settle();
    assert_eq!(world.entries.len(), 0);
    world.server.deliver("sent");
    world.settle();
    assert_eq!(world.server.syncs, [0]);
    assert_eq!(world.entries, ["never sent", "sent"]);
    assert_eq!(world.client.counters().holes, 1);
}

#[test]
fn an_entry_that_comes_again_is_dropped_and_counted() {
    let mut world = stable(4);
    world.server.deliver("one");
    world.settle();
    world.server.write(Frame::Event(chat::Event { rev: 1, entry: None }));
    world.settle();
    assert_eq!(world.entries, ["one"]);
    assert_eq!((world.client.counters().entries_repeated, world.server.syncs.len()), (1, 0));
}

#[test]
fn a_server_that_believes_in_another_cursor_is_corrected() {
    for (believed, has) in [(4, 10), (9, 10), (10, 10)] {
        let mut world = World::new(Format::Protobuf, 5);
        for _ in 0..has {
            world.server.deliver("an entry");
        }
        world.server.insists_on_cursor = Some(believed);
        world.settle();
        assert_eq!(world.server.syncs, [0], "believed {believed}");
        assert_eq!(world.entries.len(), has);
        assert_eq!(world.connects.len(), 1);
    }
}

#[test]
fn a_server_whose_pages_never_fit_is_left_after_a_while() {
    let mut world = World::new(Format::Protobuf, 6);
    world.server.insists_on_cursor = Some(5);
    world.server.ignores_syncs = true;
    for _ in 0..10 {
        world.server.deliver("an entry");
    }
    world.advance_to(14_999);
    assert!(matches!(world.take_events()[..], [Event::Welcomed { .. }]));
    world.advance_to(15_000);
    assert!(matches!(world.take_events()[..], [Event::Lost { why: Lost::Protocol(_), .. }, ..]));
    assert_eq!(world.server.syncs, [0]);
    world.server.ignores_syncs = false;
    world.advance(2_000);
    assert_eq!(world.entries, world.inbox());
}

#[test]
fn what_comes_twice_comes_out_once() {
    let mut world = stable(16);
    for n in 0..10 {
        world.server.deliver(&n.to_string());
    }
    world.settle();
    for believed in [0, 3, 9] {
        world.server.insists_on_cursor = Some(believed);
        world.cut();
        world.advance(60_000);
        assert_eq!(world.entries, world.inbox());
        assert_eq!(world.client.cursor(), Some(Rev(10)));
    }
    assert_eq!(world.connects.len(), 3);
}

#[test]
fn a_sync_that_is_not_answered_ends_the_connection() {
    let mut world = stable(17);
    world.server.ignores_syncs = true;
    world.server.gap();
    world.server.deliver("while away");
    world.advance(14_999);
    assert!(world.take_events().is_empty());
    world.advance(1);
    assert!(matches!(world.take_events()[..], [Event::Lost { why: Lost::Protocol(_), .. }]));
    world.advance(2_000);
    assert_eq!(world.entries, ["while away"]);
}

#[test]
fn a_delay_that_the_server_gives_is_kept() {
    // A time of its own, exactly; the session ends some time before it.
    let mut world = stable(7);
    let to = "wss://other.example/ws".to_owned();
    world.server.write(Frame::Drain(Drain { after_ms: 5_000, to: to.clone() }));
    world.settle();
    let at_ms = world.now_ms + 5_000;
    world.advance(1_000);
    world.server.close_with(CloseCode::SERVICE_RESTART, "service restart");
    world.settle();
    assert_eq!(lost_until(&mut world), at_ms);
    world.advance_to(at_ms);
    assert_eq!(world.connects, [(at_ms, Some(to))]);
    // Only that once.
    world.cut();
    world.advance(2_000);
    assert_eq!(world.connects[1].1, None);

    // The same time for everybody: not before it, and drawn at random after it.
    let mut world = World::new(Format::Protobuf, 8);
    world.server.refuses = Some((503, Some(7)));
    world.settle();
    let at_ms = lost_until(&mut world);
    assert!((7_000..=8_000).contains(&at_ms), "{at_ms}");
    world.server.refuses = None;
    world.advance_to(at_ms);
    assert!(matches!(world.take_events()[..], [Event::Welcomed { .. }, Event::Live { .. }]));
}

#[test]
fn the_range_of_the_close_code_decides() {
    for close in close::TABLE {
        let mut world = stable(9);
        let at_ms = world.now_ms;
        world.server.close(*close);
        world.settle();
        let reconnects_at_ms = world.take_events().into_iter().find_map(|event| match event {
            Event::Lost { why: Lost::Closed { code, .. }, reconnect_at_ms } if code == close.code => {
                Some(Some(reconnect_at_ms))
            }
            Event::Ended { why: Lost::Closed { code, reason } } if code == close.code => {
                assert_eq!(reason, close.reason);
                Some(None)
            }
            _ => None,
        });
        let reconnects_at_ms = reconnects_at_ms.expect("the connection is gone");
        match close.reconnect {
            close::Reconnect::Never => assert_eq!(reconnects_at_ms, None, "{close:?}"),
            close::Reconnect::AtOnce => assert_eq!(reconnects_at_ms, Some(at_ms), "{close:?}"),
            close::Reconnect::AfterDelay => {
                let delay_ms = reconnects_at_ms.expect("it comes back") - at_ms;
                assert!((1..=1_000).contains(&delay_ms), "{close:?}: {delay_ms}");
            }
        }
    }
}

#[test]
fn statuses_of_the_handshake_decide_as_well() {
    for (status, comes_back) in [(400, false), (401, false), (403, false), (404, false), (426, false)]
        .into_iter()
        .chain([(408, true), (429, true), (500, true), (502, true), (503, true), (302, true)])
    {
        let mut world = World::new(Format::Protobuf, 10);
        world.server.refuses = Some((status, None));
        world.settle();
        let is_lost = match &world.take_events()[..] {
            [Event::Lost { why, .. }] => (true, why.clone()),
            [Event::Ended { why }] => (false, why.clone()),
            other => panic!("{status}: {other:?}"),
        };
        let refused = Lost::Handshake(ResponseError::Refused { status, retry_after_seconds: None });
        assert_eq!(is_lost, (comes_back, refused));
    }
}

#[test]
fn a_refused_token_is_the_end_until_there_is_another_one() {
    let config = holdfast_client::ClientConfig::new("chat.example", "bad");
    let mut world = World::with_config(config, 11);
    world.client.send("@43", text("patience")).expect("room");
    world.advance_to(3_600_000);
    assert!(matches!(
        &world.take_events()[..],
        [Event::Refused(refusal), Event::Ended { why: Lost::Closed { code: 4000, .. } }]
            if refusal.code == error_code::UNAUTHORIZED
    ));
    assert_eq!(world.connects.len(), 1);
    world.client.reconnect(world.now_ms, Some(TOKEN.into()));
    world.settle();
    assert_eq!(world.entries, ["patience"]);
}

#[test]
fn a_dead_server_is_noticed_and_left() {
    let mut world = stable(12);
    world.server.is_silent = true;
    let dead_ms = world.now_ms;
    while world.events.is_empty() {
        let next_ms = world.client.poll_timeout().expect("it does not wait for ever");
        world.advance_to(next_ms);
    }
    assert!(matches!(world.events[0], Event::Lost { why: Lost::Silent, .. }));
    assert!((60_000..=95_000).contains(&(world.now_ms - dead_ms)), "{}", world.now_ms - dead_ms);
    world.server.is_silent = false;
    world.advance(1);
    assert!(matches!(world.events[1..], [Event::Welcomed { .. }, Event::Live { .. }]));
}

#[test]
fn a_server_that_never_welcomes_is_left() {
    let mut world = World::new(Format::Protobuf, 13);
    world.server.is_silent = true;
    world.advance_to(15_000);
    assert!(matches!(world.take_events()[..], [Event::Lost { why: Lost::ConnectTimeout, .. }]));
}

#[test]
fn a_rate_limit_delays_and_a_refusal_is_final() {
    let mut world = stable(14);
    world.server.refuses_sends = Some((error_code::RATE_LIMITED, 700));
    world.client.send("@43", text("patience")).expect("room");
    world.advance(699);
    assert_eq!((world.server.accepted.len(), world.client.outbox_len()), (0, 1));
    assert!(matches!(
        &world.take_events()[..],
        [Event::Delayed { rejection, .. }] if rejection.code == error_code::RATE_LIMITED
    ));
    world.server.refuses_sends = None;
    world.advance(1);
    assert_eq!(world.entries, ["patience"]);
    assert_eq!(world.client.counters().written_again, 1);
    world.take_events();

    world.server.refuses_sends = Some((error_code::UNKNOWN_CONVERSATION, 0));
    let client_id = world.client.send("@99", text("hello?")).expect("room");
    world.settle();
    assert!(matches!(
        &world.take_events()[..],
        [Event::Rejected { client_id: rejected, rejection }]
            if *rejected == client_id && rejection.code == error_code::UNKNOWN_CONVERSATION
    ));
    assert_eq!(world.client.outbox_len(), 0);

    // What a server with a full disk does not take, it takes when there is room, or the next one does.
    world.server.refuses_sends = Some((error_code::STORAGE_FULL, 0));
    world.client.send("@43", text("later")).expect("room");
    world.advance(60_000);
    assert_eq!((world.server.accepted.len(), world.client.outbox_len()), (1, 1));
    world.server.refuses_sends = None;
    world.advance(2_000);
    assert_eq!(world.entries, ["patience", "later"]);
}

#[test]
fn a_server_that_breaks_the_rules_is_left() {
    type Breach = fn(&mut Vec<u8>);
    let masked: Breach = |out| ws::encode_frame(out, Opcode::Binary, b"", Some([1; 4]));
    let text_frame: Breach = |out| ws::encode_frame(out, Opcode::Text, b"", None);
    let garbage: Breach = |out| ws::encode_frame(out, Opcode::Binary, b"\xff", None);
    let huge: Breach = |out| ws::encode_header(out, true, Opcode::Binary, 1 << 62, None);
    for breach in [masked, text_frame, garbage, huge] {
        let mut world = stable(15);
        world.server.write_raw(breach);
        world.settle();
        assert!(matches!(
            world.take_events()[..],
            [Event::Lost { why: Lost::WebSocket(_) | Lost::Protocol(_), .. }]
        ));
        world.advance(2_000);
        assert!(world.server.is_connected(), "it comes back");
    }
    // A frame of a later version is none of that: field 99, empty.
    let mut world = stable(15);
    world.server.write_message(&[0x9a, 0x06, 0x00]);
    world.settle();
    assert!(world.take_events().is_empty());
    assert!(world.server.is_connected());
}
