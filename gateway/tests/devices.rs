//! What a user relies on who has lost a phone, in both formats, on every driver.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests, in real time")]

mod live;

use holdfast_gateway::token::{Claims, unix_now_seconds};
use holdfast_protocol::chat::{self, Format, client_frame, server_frame};
use holdfast_protocol::id::UserId;
use holdfast_protocol::ws::Opcode;
use live::{Got, Live, Peer, drivers};
use serde_json::json;

fn names(peer: &mut Peer) -> Vec<String> {
    let frame = peer.json_of("devices");
    let devices = frame["devices"].as_array().unwrap();
    devices.iter().map(|it| it["device"].as_str().unwrap().to_owned()).collect()
}

/// A login with a token that was made then.
fn log_in(live: &Live, user: u64, device: &str, issued_at: u64) -> Peer {
    let (user, device) = (UserId(user), Some(device.into()));
    let token = live.keys.mint(&Claims { user, device, issued_at, expires_at: issued_at + 36_000 });
    live.upgraded("/ws", &format!("holdfast.v1.json, bearer.{token}"))
}

#[test]
fn a_device_that_is_shut_out_is_closed_at_once_and_stays_out() {
    for driver in drivers() {
        let live = Live::start(driver, |_| {});
        let began = unix_now_seconds();
        let (mut phone, _) = live.session(42, "phone");
        // Enough of them to be on both shards.
        let mut lost: Vec<Peer> = (0..6).map(|n| live.session(42, &format!("lost-{n}")).0).collect();
        phone.send(&json!({"devices": {}}));
        let listed = phone.json_of("devices");
        assert_eq!(listed["devices"].as_array().unwrap().len(), 7);
        assert_eq!(
            listed["devices"][6],
            json!({"device": "phone", "online": true, "current": true, "cursor": "0"})
        );
        for (n, peer) in lost.iter_mut().enumerate() {
            phone.send(&json!({"revokeDevice": {"device": format!("lost-{n}")}}));
            assert_eq!(names(&mut phone).len(), 6 - n);
            assert_eq!(peer.close_code(), 4005);
        }
        let live = live.restart();
        for issued_at in [began - 3_600, began] {
            let mut late = log_in(&live, 42, "lost-0", issued_at);
            assert_eq!(late.error(), "device_revoked");
            assert_eq!(late.close_code(), 4005);
        }
        // As far ahead of our clock as a token may be.
        let mut back = log_in(&live, 42, "lost-0", unix_now_seconds() + 30);
        assert_eq!(back.json()["welcome"]["cursor"], "0");
        let (mut phone, _) = live.session(42, "phone");
        phone.send(&json!({"devices": {}}));
        assert_eq!(names(&mut phone), ["lost-0", "phone"]);
        // Itself: that is how a program logs out for good.
        phone.send(&json!({"revokeDevice": {"device": "phone"}}));
        assert_eq!(phone.close_code(), 4005);
        live.await_metric("holdfast_sessions", 1.0);
    }
}

#[test]
fn a_device_that_has_said_what_it_has_is_listed_when_it_is_gone() {
    for driver in drivers() {
        let live = Live::start(driver, |_| {});
        let (mut phone, _) = live.session(42, "phone");
        let (mut ben, _) = live.session(43, "phone");
        ben.say("a", "@42", "hi");
        phone.json_of("event");
        phone.send(&json!({"ack": {"rev": "1"}}));
        // Answered behind the ack.
        phone.send(&json!({"devices": {}}));
        assert_eq!(phone.json_of("devices")["devices"][0]["cursor"], "1");
        drop(phone);
        live.await_metric("holdfast_sessions", 1.0);
        let live = live.restart();
        let token = live.token(42, "tablet");
        let mut tablet = live.upgraded("/ws", &format!("holdfast.v1.proto, bearer.{token}"));
        let devices = client_frame::Frame::Devices(chat::DevicesRequest {});
        let mut bytes = Vec::new();
        let frame = chat::ClientFrame { frame: Some(devices) };
        chat::encode_client(Format::Protobuf, &frame, &mut bytes);
        tablet.frame(Opcode::Binary, &bytes);
        let devices = loop {
            let Got::Binary(bytes) = tablet.next() else { panic!("not told") };
            if let Some(server_frame::Frame::Devices(devices)) =
                chat::decode_server(Format::Protobuf, &bytes).unwrap().frame
            {
                break devices.devices;
            }
        };
        let [gone, here] = devices.as_slice() else { panic!("{devices:?}") };
        assert_eq!(
            (gone.device.as_str(), gone.online, gone.current, gone.cursor),
            ("phone", false, false, 1)
        );
        let seen_ms = gone.last_seen_ms.unwrap();
        assert!(seen_ms > 1_700_000_000_000 && seen_ms.is_multiple_of(10_000), "{seen_ms}");
        assert_eq!((here.device.as_str(), here.online, here.current), ("tablet", true, true));
    }
}

#[test]
fn names_that_no_device_has_are_refused() {
    for driver in drivers() {
        let live = Live::start(driver, |_| {});
        let began = unix_now_seconds();
        let (mut phone, _) = live.session(42, "phone");
        for name in ["", "with space", &"x".repeat(65)] {
            phone.send(&json!({"revokeDevice": {"device": name}}));
            assert_eq!(phone.error(), "bad_device");
        }
        phone.send(&json!({"devices": {"all": true}}));
        assert_eq!(phone.error(), "bad_frame");
        // One that is not known may have a token all the same.
        phone.send(&json!({"revokeDevice": {"device": "never-seen"}}));
        assert_eq!(names(&mut phone), ["phone"]);
        let mut never = log_in(&live, 42, "never-seen", began);
        assert_eq!(never.error(), "device_revoked");
    }
}
