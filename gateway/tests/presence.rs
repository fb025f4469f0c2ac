//! What those who watch somebody rely on, in both formats, on every driver.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests, in real time")]

mod live;

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_protocol::chat::{self, Format, server_frame};
use holdfast_protocol::ws::Opcode;
use live::{Got, Live, Peer, drivers};
use serde_json::{Value, json};

fn watch(peer: &mut Peer, users: &[u64]) {
    let users: Vec<String> = users.iter().map(u64::to_string).collect();
    peer.send(&json!({"watchPresence": {"users": users}}));
}

/// The next so many users that the peer is told of, in however many frames.
fn told(peer: &mut Peer, count: usize) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    while all.len() < count {
        for user in peer.json_of("presence")["users"].as_array().unwrap() {
            all.insert(user["user"].as_str().unwrap().to_owned(), user.clone());
        }
    }
    all
}

/// Takes what is told until this user is like that.
fn until(peer: &mut Peer, user: &str, is: impl Fn(&Value) -> bool) -> Value {
    loop {
        let frame = peer.json_of("presence");
        let found = frame["users"].as_array().unwrap().iter().find(|it| it["user"] == user && is(it));
        if let Some(found) = found {
            return found.clone();
        }
    }
}

#[test]
fn who_watches_is_told_of_whoever_comes_goes_or_is_away() {
    for driver in drivers() {
        let live = Live::start(driver, |config| config.limits.presence_grace = Duration::ZERO);
        let (mut ana, _) = live.session(42, "phone");
        let (mut bea, _) = live.session(43, "phone");
        watch(&mut ana, &[43, 44]);
        let first = told(&mut ana, 2);
        assert_eq!(first["43"], json!({"user": "43", "online": true, "away": false}));
        assert_eq!(first["44"], json!({"user": "44", "online": false, "away": false}), "never seen");

        bea.send(&json!({"setAway": {"away": true}}));
        assert_eq!(until(&mut ana, "43", |it| it["away"] == true)["online"], true);
        let (mut laptop, _) = live.session(43, "laptop");
        until(&mut ana, "43", |it| it["away"] == false);
        laptop.send(&json!({"setAway": {"away": true}}));
        until(&mut ana, "43", |it| it["away"] == true);
        drop((bea, laptop));
        let gone = until(&mut ana, "43", |it| it["online"] == false);
        let seen_ms: u64 = gone["lastSeenMs"].as_str().unwrap().parse().unwrap();
        assert!(seen_ms > 1_700_000_000_000, "{gone}");

        // Another list takes the place of the first; in the other format.
        let token = live.token(45, "phone");
        let mut cat = live.upgraded("/ws", &format!("holdfast.v1.proto, bearer.{token}"));
        let Got::Binary(_) = cat.next() else { panic!("no welcome") };
        for users in [vec![42], vec![43]] {
            let watch = chat::ClientFrame {
                frame: Some(chat::client_frame::Frame::WatchPresence(chat::WatchPresence { users })),
            };
            let mut bytes = Vec::new();
            chat::encode_client(Format::Protobuf, &watch, &mut bytes);
            cat.frame(Opcode::Binary, &bytes);
        }
        let users = loop {
            let Got::Binary(bytes) = cat.next() else { panic!("not told") };
            let Some(server_frame::Frame::Presence(presence)) =
                chat::decode_server(Format::Protobuf, &bytes).unwrap().frame
            else {
                panic!("something else")
            };
            if presence.users.iter().all(|it| it.user == 43) {
                break presence.users;
            }
        };
        let offline =
            chat::UserPresence { user: 43, online: false, away: false, last_seen_ms: Some(seen_ms) };
        assert_eq!(users, [offline]);

        // It outlives a restart.
        let live = live.restart();
        let (mut ana, _) = live.session(42, "phone");
        watch(&mut ana, &[43]);
        assert_eq!(told(&mut ana, 1)["43"]["lastSeenMs"], seen_ms.to_string());
    }
}

#[test]
fn a_short_break_is_none() {
    for driver in drivers() {
        let live = Live::start(driver, |config| config.limits.presence_grace = Duration::from_secs(600));
        let (mut ana, _) = live.session(42, "phone");
        let (bea, _) = live.session(43, "phone");
        watch(&mut ana, &[43]);
        told(&mut ana, 1);
        drop(bea);
        while live.metric("holdfast_sessions") > 1.0 {
            std::thread::yield_now();
        }
        let (mut bea, _) = live.session(43, "phone");
        bea.send(&json!({"setAway": {"away": true}}));
        let next = ana.json_of("presence");
        assert_eq!(next["users"], json!([{"user": "43", "online": true, "away": true}]), "nothing before");
    }
}

#[test]
fn what_may_be_watched_has_limits() {
    for driver in drivers() {
        let live = Live::start(driver, |config| config.limits.watched_users = 3);
        let (mut ana, _) = live.session(42, "phone");
        for (users, code) in [
            (vec!["1", "2", "3", "4"], "too_many_watched"),
            (vec!["1", "1"], "bad_members"),
            (vec!["0"], "bad_members"),
        ] {
            ana.send(&json!({"watchPresence": {"users": users}}));
            assert_eq!(ana.error(), code, "{users:?}");
        }
        watch(&mut ana, &[1, 2, 3]);
        assert_eq!(told(&mut ana, 3).len(), 3);
        // Nobody any more: not a word about who comes.
        watch(&mut ana, &[]);
        let (_one, _) = live.session(1, "phone");
        ana.send(&json!({"ping": {"nonce": "1"}}));
        assert_eq!(ana.json(), json!({"pong": {"nonce": "1"}}));
    }
}

#[test]
fn a_crowd_that_watches_one_is_told_and_the_one_may_be_among_it() {
    for driver in drivers() {
        let live = Live::start(driver, |config| {
            config.limits.presence_grace = Duration::ZERO;
            config.shards = Some(2);
        });
        let mut crowd: Vec<Peer> = (100..130).map(|user| live.session(user, "phone").0).collect();
        for peer in &mut crowd {
            watch(peer, &[7, 100]);
            assert_eq!(told(peer, 2)["100"]["online"], true);
        }
        let (seven, _) = live.session(7, "phone");
        for peer in &mut crowd {
            until(peer, "7", |it| it["online"] == true);
        }
        drop(seven);
        for peer in &mut crowd {
            until(peer, "7", |it| it["online"] == false);
        }
    }
}
