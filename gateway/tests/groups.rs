//! What members of a group rely on: who hears what, who may do what, in both formats, over a restart.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests, in real time")]

mod live;

use holdfast_protocol::chat::{self, Format, body, entry, server_frame};
use holdfast_protocol::ws::Opcode;
use live::{Got, Live, Peer, drivers};
use serde_json::{Value, json};

/// Asks for something and takes the answer to it: `accepted`, or an `error`.
fn ask(peer: &mut Peer, request: &Value) -> Value {
    peer.send(request);
    loop {
        let frame = peer.json();
        if frame.get("accepted").is_some() || frame.get("error").is_some() {
            return frame;
        }
    }
}

fn code_of(answer: &Value) -> &str {
    answer["error"]["code"].as_str().unwrap_or("accepted")
}

/// The bodies of the next entries.
fn hears(peer: &mut Peer, count: usize) -> Vec<Value> {
    let mut bodies = Vec::new();
    while bodies.len() < count {
        let frame = peer.json();
        let events = frame["page"]["events"].as_array().cloned().unwrap_or_default();
        for event in events.iter().chain(frame.get("event")) {
            bodies.push(event["entry"]["message"]["body"].clone());
        }
    }
    bodies
}

fn create(peer: &mut Peer, members: &[&str], open_history: bool) -> String {
    let create = json!({"clientId": "new", "title": "Roof", "members": members, "openHistory": open_history});
    let answer = ask(peer, &json!({"createGroup": create}));
    answer["accepted"]["conversation"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

fn say(group: &str, client_id: &str) -> Value {
    json!({"send": {"clientId": client_id, "conversation": group, "body": {"text": client_id}}})
}

#[test]
fn members_of_both_formats_hear_the_same() {
    for driver in drivers() {
        let live = Live::start(driver, |_| ());
        let (mut ana, _) = live.session(42, "phone");
        let (mut bea, _) = live.session(43, "phone");
        let token = live.token(44, "laptop");
        let mut cat = live.upgraded("/ws", &format!("holdfast.v1.proto, bearer.{token}"));
        let group = create(&mut ana, &["43", "44"], false);
        assert_eq!(create(&mut ana, &["43", "44"], false), group, "asking again makes no second one");
        assert_eq!(code_of(&ask(&mut bea, &say(&group, "b1"))), "accepted");
        let send = chat::Send {
            client_id: "c1".to_owned(),
            conversation: group.clone(),
            body: Some(chat::Body { kind: Some(body::Kind::Text("c1".to_owned())) }),
            reply_to: Some(2),
        };
        let mut said = Vec::new();
        let frame = chat::ClientFrame { frame: Some(chat::client_frame::Frame::Send(send)) };
        chat::encode_client(Format::Protobuf, &frame, &mut said);
        let mut heard = Vec::new();
        while heard.len() < 3 {
            let Got::Binary(bytes) = cat.next() else { continue };
            match chat::decode_server(Format::Protobuf, &bytes).unwrap().frame.unwrap() {
                server_frame::Frame::Event(event) => heard.push(event.entry.unwrap()),
                server_frame::Frame::Page(page) => {
                    heard.extend(page.events.into_iter().map(|it| it.entry.unwrap()));
                }
                _ => {}
            }
            if heard.len() == 2 && !said.is_empty() {
                cat.frame(Opcode::Binary, &std::mem::take(&mut said));
            }
        }
        let kinds: Vec<body::Kind> = heard
            .into_iter()
            .map(|entry| match entry.kind.unwrap() {
                entry::Kind::Message(message) => message.body.unwrap().kind.unwrap(),
                entry::Kind::Read(read) => panic!("{read:?}"),
            })
            .collect();
        assert!(
            matches!(&kinds[0], body::Kind::GroupCreated(created) if created.members == [43, 44]),
            "{kinds:?}"
        );
        assert_eq!(kinds[1..], [body::Kind::Text("b1".into()), body::Kind::Text("c1".into())]);
        let expected = [
            json!({"groupCreated": {"title": "Roof", "members": ["43", "44"], "openHistory": false}}),
            json!({"text": "b1"}),
            json!({"text": "c1"}),
        ];
        let (mut ana_again, _) = live.session(42, "tablet");
        ana_again.send(&json!({"sync": {"after": "0"}}));
        assert_eq!(hears(&mut ana_again, 3), expected);
    }
}

#[test]
fn whoever_is_removed_hears_that_and_nothing_more() {
    for driver in drivers() {
        let live = Live::start(driver, |_| ());
        let (mut ana, _) = live.session(42, "phone");
        let (mut bea, _) = live.session(43, "phone");
        let group = create(&mut ana, &["43"], false);
        let remove = json!({"removeMember": {"clientId": "out", "conversation": group, "user": "43"}});
        assert_eq!(code_of(&ask(&mut ana, &remove)), "accepted");
        assert_eq!(code_of(&ask(&mut ana, &say(&group, "secret"))), "accepted");
        assert_eq!(hears(&mut bea, 2)[1], json!({"memberRemoved": {"user": "43"}}));
        for request in [
            say(&group, "b1"),
            json!({"history": {"conversation": group}}),
            json!({"leave": {"clientId": "b2", "conversation": group}}),
        ] {
            assert_eq!(code_of(&ask(&mut bea, &request)), "unknown_conversation", "{request}");
        }
        // What comes next in the inbox is something else.
        let other = json!({"send": {"clientId": "d1", "conversation": "@43", "body": {"text": "hi"}}});
        assert_eq!(code_of(&ask(&mut ana, &other)), "accepted");
        assert_eq!(hears(&mut bea, 1), [json!({"text": "hi"})]);
    }
}

#[test]
fn history_shows_messages_as_they_are_now_also_after_a_restart() {
    for driver in drivers() {
        let live = Live::start(driver, |_| ());
        let (mut ana, _) = live.session(42, "phone");
        let group = create(&mut ana, &["43"], false);
        for client_id in ["m2", "m3", "m4"] {
            assert_eq!(code_of(&ask(&mut ana, &say(&group, client_id))), "accepted");
        }
        let edit =
            json!({"edit": {"clientId": "e", "conversation": group, "seq": "2", "content": {"text": "new"}}});
        let delete = json!({"delete": {"clientId": "d", "conversation": group, "seq": "3"}});
        assert_eq!(code_of(&ask(&mut ana, &edit)), "accepted");
        assert_eq!(code_of(&ask(&mut ana, &delete)), "accepted");
        let live = live.restart();
        let (mut bea, _) = live.session(43, "phone");
        let mut history = |request: Value| {
            bea.send(&json!({"history": request}));
            let history = bea.json_of("history");
            let shown: Vec<Value> = history["messages"]
                .as_array()
                .unwrap()
                .iter()
                .map(|it| json!([it["seq"], it["body"], it["changedBy"]]))
                .collect();
            (shown, history["end"].as_bool().unwrap())
        };
        let (shown, end) = history(json!({"conversation": group, "after": "1", "limit": 3}));
        assert_eq!(
            shown,
            [
                json!(["2", {"text": "new"}, "5"]),
                json!(["3", {"deleted": {"seq": "3"}}, "6"]),
                json!(["4", {"text": "m4"}, null]),
            ]
        );
        assert!(!end);
        let (shown, end) = history(json!({"conversation": group, "before": "3"}));
        assert_eq!((shown.len(), end), (2, true));
    }
}

#[test]
fn each_limit_of_groups_from_both_sides() {
    for driver in drivers() {
        let live = Live::start(driver, |config| {
            config.limits.group_members = 3;
            config.limits.history_messages = 2;
        });
        let (mut ana, _) = live.session(42, "phone");
        let create = |title: &str, members: &[u64]| {
            let client_id = format!("{title}{members:?}");
            let client_id = &client_id[..client_id.len().min(64)];
            json!({"createGroup": {"clientId": client_id, "title": title, "members": members}})
        };
        let long = "x".repeat(128);
        for (request, code) in [
            (create("a", &[1, 2]), "accepted"),
            (create("a", &[1, 2, 42]), "accepted"),
            (create("a", &[1, 2, 3]), "too_many_members"),
            (create("a", &[1, 1]), "bad_members"),
            (create("a", &[0]), "bad_members"),
            (create("", &[1]), "bad_title"),
            (create(&long, &[1]), "accepted"),
            (create(&format!("{long}x"), &[1]), "bad_title"),
        ] {
            assert_eq!(code_of(&ask(&mut ana, &request)), code, "{request}");
        }
        let answer = ask(&mut ana, &create("full", &[1]));
        let group = answer["accepted"]["conversation"].as_str().unwrap();
        let add = |client_id: &str, users: &[u64]| json!({"addMembers": {"clientId": client_id, "conversation": group, "users": users}});
        for (request, code) in [
            (add("1", &[]), "bad_members"),
            (add("2", &[1]), "already_members"),
            (add("3", &[1, 2, 3]), "too_many_members"),
            (add("4", &[1, 2]), "accepted"),
            (add("5", &[3]), "too_many_members"),
            (json!({"setRole": {"clientId": "6", "conversation": group, "user": "9"}}), "unknown_member"),
            (json!({"setRole": {"clientId": "7", "conversation": group, "user": "42"}}), "not_allowed"),
            (
                json!({"setRole": {"clientId": "8", "conversation": group, "user": "1", "role": "KING"}}),
                "bad_frame",
            ),
            (json!({"rename": {"clientId": "9", "conversation": group}}), "bad_title"),
            (json!({"rename": {"conversation": group, "title": "x"}}), "bad_client_id"),
            (json!({"leave": {"clientId": "10", "conversation": "@1"}}), "not_allowed"),
            (json!({"leave": {"clientId": "11", "conversation": "g0"}}), "bad_conversation"),
            (json!({"leave": {"clientId": "12", "conversation": "g1"}}), "unknown_conversation"),
            (
                json!({"setRetention": {"clientId": "16", "conversation": group, "days": 36_501}}),
                "bad_retention",
            ),
            (json!({"setRetention": {"clientId": "17", "conversation": group, "days": 36_500}}), "accepted"),
            (json!({"setRetention": {"clientId": "18", "conversation": "@1", "days": 1}}), "not_allowed"),
            (json!({"edit": {"clientId": "13", "conversation": group, "seq": "2"}}), "bad_body"),
            (json!({"delete": {"clientId": "14", "conversation": group, "seq": "1"}}), "unknown_message"),
            (
                json!({"send": {"clientId": "15", "conversation": group, "body": {"deleted": {"seq": "1"}}}}),
                "bad_body",
            ),
            (json!({"history": {"conversation": group, "limit": 3}}), "bad_limit"),
            (json!({"history": {"conversation": group, "before": "2", "after": "1"}}), "bad_limit"),
        ] {
            assert_eq!(code_of(&ask(&mut ana, &request)), code, "{request}");
        }
        ana.send(&json!({"group": {"conversation": group}}));
        assert_eq!(ana.json_of("group")["retentionDays"], 36_500);
        ana.send(&json!({"history": {"conversation": group, "limit": 2}}));
        assert_eq!(ana.json_of("history")["messages"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn who_is_writing_is_told_to_the_others_and_what_comes_too_fast_is_dropped() {
    for driver in drivers() {
        let live = Live::start(driver, |config| {
            config.limits.send_per_second = 1;
            config.limits.send_burst = 2;
        });
        let (mut ana, _) = live.session(42, "phone");
        let (mut bea, _) = live.session(43, "phone");
        let token = live.token(43, "laptop");
        let mut laptop = live.upgraded("/ws", &format!("holdfast.v1.proto, bearer.{token}"));
        // Registered, and live.
        let Got::Binary(_) = laptop.next() else { panic!("no welcome") };
        ana.send(&json!({"typing": {"conversation": "@43"}}));
        ana.send(&json!({"typing": {"conversation": "@43", "stopped": true}}));
        let told = [bea.json_of("typing"), bea.json_of("typing")];
        assert_eq!(told[0], json!({"conversation": "42:43", "user": "42", "stopped": false}));
        assert_eq!(told[1], json!({"conversation": "42:43", "user": "42", "stopped": true}));
        let Got::Binary(bytes) = laptop.next() else { panic!("not told") };
        let expected = chat::UserTyping { conversation: "42:43".to_owned(), user: 42, stopped: false };
        let frame = chat::decode_server(Format::Protobuf, &bytes).unwrap().frame.unwrap();
        assert_eq!(frame, server_frame::Frame::Typing(expected));

        for _ in 0..50 {
            ana.send(&json!({"typing": {"conversation": "@43"}}));
        }
        ana.send(&json!({"ping": {"nonce": "1"}}));
        assert_eq!(ana.json(), json!({"pong": {"nonce": "1"}}), "not a word about those that came too fast");
        assert!(live.metric("holdfast_dropped_total") >= 40.0);

        bea.send(&json!({"typing": {"conversation": "g7"}}));
        assert_eq!(bea.error(), "unknown_conversation");
        bea.send(&json!({"typing": {"conversation": "7"}}));
        assert_eq!(bea.error(), "bad_conversation");
    }
}

#[test]
fn who_has_written_learns_that_it_has_arrived() {
    for driver in drivers() {
        let live = Live::start(driver, |_| {});
        let (mut ana, _) = live.session(42, "phone");
        let (mut bea, _) = live.session(43, "phone");
        for name in ["a", "b"] {
            assert_eq!(code_of(&ask(&mut ana, &say("@43", name))), "accepted");
            bea.json_of("event");
        }
        bea.send(&json!({"ack": {"rev": "2"}}));
        let arrived =
            json!({"conversation": "42:43", "members": [{"user": "43", "read": "0", "delivered": "2"}]});
        assert_eq!(ana.json_of("receipts"), arrived);
        // In a group, of each member; and it is kept.
        let group =
            ask(&mut ana, &json!({"createGroup": {"clientId": "g", "title": "Crew", "members": ["43"]}}));
        let group = group["accepted"]["conversation"].as_str().unwrap().to_owned();
        assert_eq!(code_of(&ask(&mut ana, &say(&group, "c"))), "accepted");
        bea.json_of("event");
        bea.json_of("event");
        bea.send(&json!({"ack": {"rev": "4"}}));
        assert_eq!(
            ana.json_of("receipts")["members"],
            json!([{"user": "43", "read": "0", "delivered": "2"}])
        );
        let live = live.restart();
        let (mut ana, _) = live.session(42, "laptop");
        ana.send(&json!({"receipts": {"conversation": group}}));
        let members = json!([
            {"user": "42", "read": "0", "delivered": "0"},
            {"user": "43", "read": "0", "delivered": "2"}
        ]);
        assert_eq!(ana.json_of("receipts")["members"], members);
    }
}

#[test]
fn how_far_somebody_has_read_is_kept_and_told_in_both_formats() {
    for driver in drivers() {
        let live = Live::start(driver, |config| config.limits.control_frames = 12);
        let (mut ana, _) = live.session(42, "phone");
        let (mut bea, _) = live.session(43, "phone");
        let token = live.token(43, "laptop");
        let mut laptop = live.upgraded("/ws", &format!("holdfast.v1.proto, bearer.{token}"));
        let Got::Binary(_) = laptop.next() else { panic!("no welcome") };
        for name in ["a", "b", "c"] {
            assert_eq!(code_of(&ask(&mut ana, &say("@43", name))), "accepted");
            let Got::Binary(_) = laptop.next() else { panic!("no event") };
        }

        bea.send(&json!({"read": {"conversation": "@42", "upTo": "2"}}));
        let mark =
            json!({"conversation": "42:43", "members": [{"user": "43", "read": "2", "delivered": "2"}]});
        assert_eq!(bea.json_of("receipts"), mark, "durable");
        assert_eq!(ana.json_of("receipts"), mark);
        let Got::Binary(bytes) = laptop.next() else { panic!("not told") };
        let read = chat::ReadMark { conversation: "42:43".to_owned(), up_to: 2, ordinal: 2 };
        let entry = Some(chat::Entry { kind: Some(entry::Kind::Read(read)) });
        let frame = chat::decode_server(Format::Protobuf, &bytes).unwrap().frame.unwrap();
        assert_eq!(frame, server_frame::Frame::Event(chat::Event { rev: 4, entry }), "an entry like others");

        bea.send(&json!({"read": {"conversation": "@42", "upTo": "1"}}));
        assert_eq!(bea.json_of("receipts"), mark, "never back");
        ana.send(&json!({"receipts": {"conversation": "@43"}}));
        let members = json!([{"user": "42", "read": "0", "delivered": "0"}, {"user": "43", "read": "2", "delivered": "2"}]);
        assert_eq!(ana.json_of("receipts"), json!({"conversation": "42:43", "members": members}));

        for (request, code) in [
            (json!({"read": {"conversation": "@42", "upTo": "4"}}), "unknown_message"),
            (json!({"read": {"conversation": "g7", "upTo": "0"}}), "unknown_conversation"),
            (json!({"receipts": {"conversation": "g7"}}), "unknown_conversation"),
            (json!({"receipts": {"conversation": "@43"}}), "conversation_with_self"),
        ] {
            bea.send(&request);
            assert_eq!(bea.error(), code, "{request}");
        }
        for _ in 0..12 {
            bea.send(&json!({"receipts": {"conversation": "@42"}}));
        }
        assert_eq!(bea.error(), "rate_limited");
    }
}

#[test]
fn lists_say_what_is_unread_and_who_is_far_behind_gets_a_snapshot() {
    for driver in drivers() {
        let live = Live::start(driver, |config| {
            config.limits.snapshot_after = 8;
            config.limits.control_frames = 100;
        });
        let (mut ana, _) = live.session(42, "phone");
        let (mut bea, _) = live.session(43, "phone");
        let group = create(&mut ana, &["43", "44"], false);
        for name in ["a", "b", "c"] {
            assert_eq!(code_of(&ask(&mut ana, &say(&group, name))), "accepted");
            assert_eq!(code_of(&ask(&mut ana, &say("@43", name))), "accepted");
        }
        bea.send(&json!({"read": {"conversation": group, "upTo": "3"}}));
        bea.json_of("receipts");
        let live = live.restart();

        let (mut bea, _) = live.session(43, "phone");
        bea.send(&json!({"conversations": {}}));
        let list = bea.json_of("conversations");
        let short = |list: &Value| -> Value {
            let it = list["conversations"].as_array().unwrap().iter();
            it.map(|it| {
                let texts: Vec<_> =
                    it["messages"].as_array().unwrap().iter().map(|it| it["body"]["text"].clone()).collect();
                json!([it["conversation"], it["title"], it["role"], it["unread"], it["read"], texts])
            })
            .collect()
        };
        let expected =
            json!([[group, "Roof", "MEMBER", "1", "3", ["c"]], ["42:43", "", "MEMBER", "3", "0", ["c"]]]);
        assert_eq!(short(&list), expected);
        assert_eq!((&list["rev"], &list["end"]), (&json!("8"), &json!(true)));
        bea.send(&json!({"conversations": {"after": group, "limit": 1}}));
        assert_eq!(short(&bea.json_of("conversations")), json!([expected[1]]));

        bea.send(&json!({"group": {"conversation": group}}));
        let members = json!([
            {"user": "42", "role": "OWNER", "joined": "1"},
            {"user": "43", "role": "MEMBER", "joined": "1"},
            {"user": "44", "role": "MEMBER", "joined": "1"},
        ]);
        let expected = json!({
            "conversation": group, "title": "Roof", "openHistory": false, "members": members, "seq": "4",
            "retentionDays": 0,
        });
        assert_eq!(bea.json_of("group"), expected);

        // One more, and a device without anything is far behind.
        assert_eq!(code_of(&ask(&mut bea, &say(&group, "d"))), "accepted");
        let token = live.token(43, "tablet");
        let mut tablet = live.upgraded("/ws", "holdfast.v1.json");
        tablet.send(&json!({"hello": {"token": token, "cursor": "0"}}));
        let snapshot = tablet.json_of("snapshot");
        assert_eq!((&snapshot["rev"], &snapshot["end"]), (&json!("9"), &json!(true)));
        let expected = json!([
            [group, "Roof", "MEMBER", "0", "3", [null, "a", "b", "c", "d"]],
            ["42:43", "", "MEMBER", "3", "0", ["a", "b", "c"]],
        ]);
        assert_eq!(short(&snapshot), expected);
        let page = tablet.json_of("page");
        assert_eq!(page, json!({"events": [], "head": "9", "live": true}));
        assert_eq!(code_of(&ask(&mut bea, &say("@42", "e"))), "accepted");
        assert_eq!(tablet.json_of("event")["rev"], json!("10"));

        // Whoever wants every entry gets every entry.
        tablet.send(&json!({"sync": {"after": "0", "everyEntry": true}}));
        let events = tablet.json_of("page")["events"].as_array().unwrap().len();
        assert_eq!(events, 10);

        // In protobuf the same.
        let token = live.token(43, "laptop");
        let mut laptop = live.upgraded("/ws", "holdfast.v1.proto");
        let hello = chat::Hello { token, cursor: Some(0), ..chat::Hello::default() };
        let mut bytes = Vec::new();
        let frame = chat::ClientFrame { frame: Some(chat::client_frame::Frame::Hello(hello)) };
        chat::encode_client(Format::Protobuf, &frame, &mut bytes);
        laptop.frame(Opcode::Binary, &bytes);
        let snapshot = loop {
            let Got::Binary(bytes) = laptop.next() else { panic!("no snapshot") };
            let frame = chat::decode_server(Format::Protobuf, &bytes).unwrap().frame.unwrap();
            if let server_frame::Frame::Snapshot(snapshot) = frame {
                break snapshot;
            }
        };
        let unread: Vec<_> = snapshot.conversations.iter().map(|it| it.unread).collect();
        assert_eq!((snapshot.rev, unread), (10, vec![0, 0]), "who answers has seen it");

        for (request, code) in [
            (json!({"conversations": {"limit": 201}}), "bad_limit"),
            (json!({"conversations": {"after": "7"}}), "bad_conversation"),
            (json!({"group": {"conversation": "g8"}}), "unknown_conversation"),
            (json!({"group": {"conversation": "@42"}}), "not_allowed"),
        ] {
            bea.send(&request);
            assert_eq!(bea.error(), code, "{request}");
        }
    }
}
