//! What a user relies on who blocks another one, or hides the presence, in both formats, on every driver.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests, in real time")]

mod live;

use std::time::Duration;

use holdfast_protocol::chat::{self, Format, client_frame, server_frame};
use holdfast_protocol::ws::Opcode;
use live::{Got, Live, Peer, drivers};
use serde_json::{Value, json};

/// Takes what is told until this user is there, or is not.
fn until_online(peer: &mut Peer, user: &str, online: bool) -> Value {
    loop {
        let frame = peer.json_of("presence");
        let users = frame["users"].as_array().unwrap();
        if let Some(it) = users.iter().find(|it| it["user"] == user && it["online"] == online) {
            return it.clone();
        }
    }
}

fn watch(peer: &mut Peer, user: &str) {
    peer.send(&json!({"watchPresence": {"users": [user]}}));
}

fn change(peer: &mut Peer, frame: &Value) -> Value {
    peer.send(frame);
    loop {
        let people = peer.json_of("people");
        if people["changed"] == true {
            return people;
        }
    }
}

fn texts(history: &Value) -> Vec<&str> {
    let messages = history["messages"].as_array().unwrap();
    messages.iter().map(|message| message["body"]["text"].as_str().unwrap()).collect()
}

#[test]
fn what_is_written_by_whom_one_blocks_does_not_come_and_that_one_cannot_tell() {
    for driver in drivers() {
        let live = Live::start(driver, |_| {});
        let (mut ana, _) = live.session(42, "phone");
        let (mut tablet, _) = live.session(42, "tablet");
        let (mut ben, _) = live.session(43, "phone");
        ben.say("a", "@42", "before");
        ana.json_of("event");
        let blocked = json!({"presence": "everyone", "end": false, "changed": true,
                             "people": [{"user": "43", "contact": false, "blocked": true}]});
        assert_eq!(change(&mut ana, &json!({"block": {"user": "43"}})), blocked);
        assert_eq!(tablet.json_of("people"), blocked, "on all devices");
        // Whoever is blocked asks for everything there is, and sees what was seen before.
        let mut last = 0;
        for (client_id, text) in [("b", "during"), ("c", "more")] {
            ben.say(client_id, "@42", text);
            let seq: u64 = ben.json_of("accepted")["seq"].as_str().unwrap().parse().unwrap();
            assert!(seq > last);
            last = seq;
        }
        ben.send(&json!({"edit": {"clientId": "d", "conversation": "@42", "seq": "1", "content": {"text": "other"}}}));
        ben.json_of("accepted");
        ben.send(&json!({"history": {"conversation": "@42"}}));
        let history = ben.json_of("history");
        assert_eq!(history["messages"][0]["body"]["text"], "other");
        assert_eq!(history["messages"].as_array().unwrap().len(), 4);
        ana.say("x", "@43", "no");
        assert_eq!(ana.error(), "blocked");
        ana.send(&json!({"history": {"conversation": "@43"}}));
        assert_eq!(texts(&ana.json_of("history")), ["before"]);

        let live = live.restart();
        let (mut ana, welcome) = live.session(42, "phone");
        assert_eq!(welcome["head"], "1");
        let (mut ben, _) = live.session(43, "phone");
        change(&mut ana, &json!({"unblock": {"user": "43"}}));
        ben.say("e", "@42", "after");
        loop {
            let event = ana.json_of("event");
            if event["entry"]["message"]["body"]["text"] == "after" {
                break;
            }
            assert_eq!(event["entry"]["message"]["body"]["text"], "before", "nothing of the time between");
        }
        ana.send(&json!({"history": {"conversation": "@43", "after": "0"}}));
        assert_eq!(texts(&ana.json_of("history")), ["before", "after"]);
        ana.send(&json!({"conversations": {}}));
        let listed = ana.json_of("conversations");
        assert_eq!(listed["conversations"][0]["unread"], "1", "{listed}");
    }
}

#[test]
fn presence_is_hidden_from_whom_the_user_says_and_shown_again() {
    for driver in drivers() {
        let live = Live::start(driver, |config| {
            config.limits.presence_grace = Duration::ZERO;
            config.shards = Some(2);
        });
        let (mut ana, _) = live.session(42, "phone");
        // Enough of them to be on both shards.
        let mut crowd: Vec<Peer> = (0..6).map(|n| live.session(43, &format!("phone-{n}")).0).collect();
        let (mut stranger, _) = live.session(44, "phone");
        for peer in crowd.iter_mut().chain([&mut stranger]) {
            watch(peer, "42");
            until_online(peer, "42", true);
        }
        change(&mut ana, &json!({"setContact": {"user": "43", "contact": true}}));
        let people = change(&mut ana, &json!({"setPrivacy": {"presence": "contacts"}}));
        assert_eq!((&people["presence"], &people["people"]), (&json!("contacts"), &json!([])));
        let gone = until_online(&mut stranger, "42", false);
        assert_eq!(gone.get("lastSeenMs"), None, "nor when it was");
        change(&mut ana, &json!({"block": {"user": "43"}}));
        for peer in &mut crowd {
            assert_eq!(until_online(peer, "42", false).get("lastSeenMs"), None);
        }
        watch(&mut ana, "43");
        assert_eq!(until_online(&mut ana, "43", false).get("lastSeenMs"), None, "nor the other way");
        change(&mut ana, &json!({"unblock": {"user": "43"}}));
        for peer in &mut crowd {
            until_online(peer, "42", true);
        }
        until_online(&mut ana, "43", true);
        // Who comes later is asked for too.
        let (mut late, _) = live.session(44, "tablet");
        watch(&mut late, "42");
        until_online(&mut late, "42", false);
        change(&mut ana, &json!({"setPrivacy": {"presence": "everyone"}}));
        for peer in [&mut late, &mut stranger] {
            until_online(peer, "42", true);
        }
        change(&mut ana, &json!({"setPrivacy": {"presence": "nobody"}}));
        for peer in crowd.iter_mut().chain([&mut late]) {
            until_online(peer, "42", false);
        }
    }
}

#[test]
fn people_are_listed_in_both_formats_and_what_is_wrong_is_refused() {
    for driver in drivers() {
        let live = Live::start(driver, |config| config.limits.contacts = 3);
        let (mut ana, _) = live.session(42, "phone");
        for user in [44, 45, 46] {
            change(&mut ana, &json!({"setContact": {"user": user, "contact": true}}));
        }
        for (frame, code) in [
            (json!({"setContact": {"user": "47", "contact": true}}), "too_many_people"),
            (json!({"block": {"user": "42"}}), "bad_user"),
            (json!({"unblock": {"user": "0"}}), "bad_user"),
            (json!({"setPrivacy": {"presence": "friends"}}), "bad_privacy"),
            (json!({"setPrivacy": {}}), "bad_privacy"),
            (json!({"people": {"limit": 1001}}), "bad_limit"),
        ] {
            ana.send(&frame);
            assert_eq!(ana.error(), code, "{frame}");
        }
        let live = live.restart();
        let token = live.token(42, "tablet");
        let mut tablet = live.upgraded("/ws", &format!("holdfast.v1.proto, bearer.{token}"));
        let mut found = Vec::new();
        loop {
            let after = found.last().copied().unwrap_or_default();
            let people = client_frame::Frame::People(chat::PeopleRequest { after, limit: 2 });
            let mut bytes = Vec::new();
            let frame = chat::ClientFrame { frame: Some(people) };
            chat::encode_client(Format::Protobuf, &frame, &mut bytes);
            tablet.frame(Opcode::Binary, &bytes);
            let people = loop {
                let Got::Binary(bytes) = tablet.next() else { panic!("not told") };
                let frame = chat::decode_server(Format::Protobuf, &bytes).unwrap().frame;
                if let Some(server_frame::Frame::People(people)) = frame {
                    break people;
                }
            };
            assert!(!people.changed && people.people.iter().all(|it| it.contact && !it.blocked));
            found.extend(people.people.iter().map(|it| it.user));
            if people.end {
                break;
            }
        }
        assert_eq!(found, [44, 45, 46]);
    }
}
