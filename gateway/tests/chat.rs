//! What a user of the chat relies on: messages arrive, once, in order, on all devices, also over a restart.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests, in real time")]

mod live;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use live::{Live, Peer, drivers};
use serde_json::{Value, json};

fn number(value: &Value) -> u64 {
    value.as_str().map_or_else(|| value.as_u64().unwrap(), |text| text.parse().unwrap())
}

fn text_of(event: &Value) -> &str {
    event["entry"]["message"]["body"]["text"].as_str().unwrap()
}

/// Events until `count` have come, from `event` and `page` frames.
fn events(peer: &mut Peer, count: usize) -> Vec<Value> {
    let mut events = Vec::new();
    while events.len() < count {
        let frame = peer.json();
        if let Some(event) = frame.get("event") {
            events.push(event.clone());
        } else if let Some(page) = frame.get("page") {
            events.extend(page["events"].as_array().into_iter().flatten().cloned());
        }
    }
    events
}

#[test]
fn a_message_is_accepted_and_reaches_both_users() {
    for driver in drivers() {
        let live = Live::start(driver, |_| ());
        let (mut ana, _) = live.session(42, "phone");
        let (mut bea, _) = live.session(43, "laptop");
        ana.say("a1", "@43", "hello");
        // Which of the two comes first is not promised.
        let both = [ana.json(), ana.json()];
        let of = |kind: &str| both.iter().find_map(|frame| frame.get(kind)).unwrap().clone();
        let accepted = of("accepted");
        assert_eq!((accepted["clientId"].as_str().unwrap(), number(&accepted["seq"])), ("a1", 1));
        for event in [of("event"), bea.json_of("event")] {
            let message = &event["entry"]["message"];
            assert_eq!(number(&event["rev"]), 1);
            assert_eq!(text_of(&event), "hello");
            assert_eq!(message["conversation"], "42:43");
            assert_eq!(number(&message["sender"]), 42);
            assert_eq!(message["clientId"], "a1");
            assert_eq!(message["device"], "phone");
            assert_eq!(message["messageId"], accepted["messageId"]);
        }
    }
}

#[test]
fn both_formats_talk_to_each_other() {
    use holdfast_protocol::chat::{self, Format, server_frame::Frame};
    use holdfast_protocol::ws::Opcode;
    for driver in drivers() {
        let live = Live::start(driver, |_| ());
        let (mut ana, _) = live.session(42, "phone");
        let token = live.token(43, "laptop");
        let mut bea = live.upgraded("/ws", &format!("holdfast.v1.proto, bearer.{token}"));
        let next = |peer: &mut Peer| loop {
            if let live::Got::Binary(bytes) = peer.next() {
                return chat::decode_server(Format::Protobuf, &bytes).unwrap().frame.unwrap();
            }
        };
        assert!(matches!(next(&mut bea), Frame::Welcome(welcome) if welcome.user == 43));
        ana.say("a1", "@43", "hello");
        let Frame::Event(event) = next(&mut bea) else { panic!("an event was expected") };
        assert_eq!(event.rev, 1);
        let send = chat::Send {
            client_id: "b1".to_owned(),
            conversation: "42:43".to_owned(),
            body: Some(chat::Body { kind: Some(chat::body::Kind::Text("hi".to_owned())) }),
            reply_to: None,
        };
        let frame = chat::ClientFrame { frame: Some(chat::client_frame::Frame::Send(send)) };
        let mut bytes = Vec::new();
        chat::encode_client(Format::Protobuf, &frame, &mut bytes);
        bea.frame(Opcode::Binary, &bytes);
        let heard = events(&mut ana, 2);
        assert_eq!(heard.iter().map(text_of).collect::<Vec<_>>(), ["hello", "hi"]);
    }
}

#[test]
fn a_resend_gets_the_same_answer_and_nobody_sees_it_twice() {
    for driver in drivers() {
        let live = Live::start(driver, |_| ());
        let (mut ana, _) = live.session(42, "phone");
        let (mut bea, _) = live.session(43, "laptop");
        for _ in 0..3 {
            ana.say("a1", "@43", "once");
        }
        ana.say("a2", "@43", "last");
        let first = ana.json_of("accepted");
        assert_eq!(ana.json_of("accepted"), first);
        assert_eq!(ana.json_of("accepted"), first);
        let heard = events(&mut bea, 2);
        assert_eq!(heard.iter().map(text_of).collect::<Vec<_>>(), ["once", "last"]);
    }
}

#[test]
fn what_happened_while_away_comes_in_pages_and_then_live() {
    for driver in drivers() {
        let live = Live::start(driver, |config| {
            config.limits.page_entries = 10;
            config.limits.send_burst = 1_000;
        });
        let (mut ana, _) = live.session(42, "phone");
        for n in 0..35 {
            ana.say(&format!("a{n}"), "@43", &n.to_string());
        }
        for _ in 0..35 {
            ana.json_of("accepted");
        }
        let (mut bea, welcome) = live.session(43, "laptop");
        assert_eq!((number(&welcome["cursor"]), number(&welcome["head"])), (0, 35));
        let heard = events(&mut bea, 35);
        ana.say("live", "@43", "live");
        let last = events(&mut bea, 1);
        let revs: Vec<u64> = heard.iter().chain(&last).map(|event| number(&event["rev"])).collect();
        assert_eq!(revs, (1..=36).collect::<Vec<u64>>());
        assert_eq!(text_of(&last[0]), "live");

        // What is acknowledged is not sent again.
        bea.send(&json!({"ack": {"rev": "30"}}));
        bea.send(&json!({"ping": {"nonce": "1"}}));
        bea.json_of("pong");
        drop(bea);
        let (mut bea, welcome) = live.session(43, "laptop");
        assert_eq!(number(&welcome["cursor"]), 30);
        let again = events(&mut bea, 6);
        assert_eq!(number(&again[0]["rev"]), 31);
    }
}

#[test]
fn acked_messages_survive_a_restart_and_order_goes_on() {
    for driver in drivers() {
        let live = Live::start(driver, |_| ());
        let (mut ana, _) = live.session(42, "phone");
        for n in 0..20 {
            ana.say(&format!("a{n}"), "@43", &n.to_string());
        }
        let before: Vec<Value> = (0..20).map(|_| ana.json_of("accepted")).collect();
        let live = live.restart();
        let (mut ana, _) = live.session(42, "phone");
        let (mut bea, _) = live.session(43, "laptop");
        let heard = events(&mut bea, 20);
        for (n, event) in heard.iter().enumerate() {
            assert_eq!(text_of(event), n.to_string());
            assert_eq!(event["entry"]["message"]["messageId"], before[n]["messageId"]);
        }
        ana.say("a3", "@43", "3");
        assert_eq!(ana.json_of("accepted"), before[3], "the resend of an old message");
        ana.say("new", "@43", "new");
        let accepted = ana.json_of("accepted");
        assert_eq!(number(&accepted["seq"]), 21);
        assert!(number(&accepted["messageId"]) > number(&before[19]["messageId"]));
        assert_eq!(number(&events(&mut bea, 1)[0]["rev"]), 21);
    }
}

#[test]
fn a_second_connection_of_a_device_takes_over() {
    for driver in drivers() {
        let live = Live::start(driver, |_| ());
        let (mut first, _) = live.session(42, "phone");
        let (mut second, _) = live.session(42, "phone");
        assert_eq!(first.close_code(), 4003);
        second.say("a1", "@43", "still here");
        second.json_of("accepted");
    }
}

#[test]
fn a_server_that_goes_away_says_when_to_come_back() {
    for driver in drivers() {
        let live = Live::start(driver, |_| ());
        let mut peers: Vec<_> = (0..20).map(|n| live.session(100 + n, "phone").0).collect();
        peers[0].say("a1", "@101", "goodbye");
        peers[0].json_of("accepted");
        let stopping = std::thread::spawn(move || live.stop(Duration::from_secs(2)));
        let mut delays_ms = BTreeSet::new();
        for peer in &mut peers {
            delays_ms.insert(peer.json_of("drain")["afterMs"].as_u64().unwrap());
            assert_eq!(peer.close_code(), 1012);
        }
        let is_spread = delays_ms.len() >= 10 && delays_ms.iter().all(|ms| (1_000..3_000).contains(ms));
        assert!(is_spread, "each of a shard has a moment of its own: {delays_ms:?}");
        drop(peers);
        stopping.join().unwrap();
    }
}

#[test]
fn idle_sessions_cause_no_turns() {
    for driver in drivers() {
        let live = Live::start(driver, |_| ());
        let mut held: Vec<_> = (0..50).map(|n| live.session(100 + n, "phone").0).collect();
        let before = live.metric("holdfast_shard_turns_total");
        held[0].stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let nothing = held[0].read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(nothing, Err(std::io::ErrorKind::WouldBlock), "nobody says anything");
        // What is left are those that asking takes.
        let turns = live.metric("holdfast_shard_turns_total") - before;
        assert!(turns <= 60.0, "{turns} turns in a second");
    }
}

#[test]
fn a_login_that_arrives_late_on_an_abandoned_connection_takes_nothing_over() {
    for driver in drivers() {
        let live = Live::start(driver, |_| ());
        let mut abandoned = live.upgraded("/ws", "holdfast.v1.json");
        let accepted = Instant::now();
        // Connections are told apart by tenths of a second.
        live::eventually("the next one is younger", || accepted.elapsed() > Duration::from_millis(200));
        let (mut phone, _) = live.session(42, "phone");
        abandoned.send(&json!({"hello": {"token": live.token(42, "phone"), "device": "phone"}}));
        assert_eq!(abandoned.close_code(), 4003);
        phone.say("a1", "@43", "still here");
        assert_eq!(text_of(&phone.json_of("event")), "still here");
    }
}

#[test]
fn an_old_connection_that_upgrades_late_is_as_good_as_a_new_one() {
    for driver in drivers() {
        let live = Live::start(driver, |_| ());
        // As a proxy does that keeps its connections alive.
        let mut kept = live.connect();
        kept.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(kept.answer().0, 200);
        let accepted = Instant::now();
        live::eventually("the next one is younger", || accepted.elapsed() > Duration::from_millis(200));
        let (mut first, _) = live.session(42, "phone");
        kept.skip_body();
        let subprotocols = format!("holdfast.v1.json, bearer.{}", live.token(42, "phone"));
        kept.write(live::upgrade_request("/ws", &subprotocols, "").as_bytes());
        assert_eq!(kept.answer().0, 101);
        kept.json_of("welcome");
        assert_eq!(first.close_code(), 4003);
    }
}

#[test]
fn a_slow_reader_gets_a_gap_and_then_everything_by_sync() {
    for driver in drivers() {
        let live = Live::start(driver, |config| {
            config.limits.kernel_send_buffer_bytes = 4 << 10;
            config.limits.send_burst = 10_000;
            config.limits.send_per_second = 10_000;
        });
        let (mut ana, _) = live.session(42, "phone");
        let (mut bea, _) = live.session(43, "laptop");
        // More than the kernel's buffers and the session's budget together.
        let text = "x".repeat(32 << 10);
        let count = 400u64;
        for n in 0..count {
            ana.say(&format!("a{n}"), "@43", &text);
            ana.json_of("accepted");
        }
        let mut next = 1;
        loop {
            let frame = bea.json();
            let page = frame.get("page").map(|page| page["events"].as_array().unwrap().clone());
            let events =
                page.or_else(|| frame.get("event").map(|event| vec![event.clone()])).unwrap_or_default();
            for event in events {
                assert_eq!(number(&event["rev"]), next, "no hole and nothing twice");
                next += 1;
            }
            if let Some(gap) = frame.get("gap") {
                assert_eq!(number(&gap["from"]), next, "a gap begins after what was sent");
                bea.send(&json!({"sync": {"after": (next - 1).to_string()}}));
            }
            if next == count + 1 {
                break;
            }
        }
        assert!(live.metric("holdfast_gaps_total") >= 1.0);
    }
}
