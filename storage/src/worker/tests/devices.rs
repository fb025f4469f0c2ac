//! A user's devices: which there are, and shutting one out.

use super::presence::unregister;
use super::*;
use crate::command::{DevicesRequest, Revoke};
use crate::device::{ALL_DEVICES, Kept};
use crate::engine::memory::Fault;

fn devices(user: u64, device: u64) -> (RouteKey, Command) {
    let request = DevicesRequest { user: UserId(user), session: session(user, device) };
    (RouteKey::User(UserId(user)), Command::Devices(request))
}

fn revoke(user: u64, by: u64, device: u64) -> (RouteKey, Command) {
    let request = DevicesRequest { user: UserId(user), session: session(user, by) };
    let name = format!("device-{device}").into();
    (
        RouteKey::User(UserId(user)),
        Command::Revoke(Box::new(Revoke { request, device: DeviceId(device), name })),
    )
}

/// A login with a token that was made at this time.
fn register_issued(user: u64, device: u64, issued_at_ms: u64) -> (RouteKey, Command) {
    let (key, mut command) = register(user, device, None);
    if let Command::Register(request) = &mut command {
        request.issued_at = issued_at_ms / 1_000;
    }
    (key, command)
}

#[test]
fn devices_are_listed_while_they_are_connected_and_once_they_have_confirmed_something() {
    let mut house = House::new(2);
    house.run(vec![register(1, 1, None), register(1, 2, None), register(2, 1, None)]);
    assert_eq!(
        words(&house.run(vec![devices(1, 2)])),
        ["1.2 devices device-1 online at 0, device-2 online current at 0"]
    );
    // Nothing has ever come to it: a device that goes leaves nothing behind.
    house.run(vec![unregister(1, 2)]);
    assert_eq!(words(&house.run(vec![devices(1, 1)])), ["1.1 devices device-1 online current at 0"]);

    house.run(vec![send(2, 1, "a")]);
    house.run(vec![ack(1, 1, 1)]);
    house.run(vec![register(1, 3, None)]);
    house.run(vec![unregister(1, 1), unregister(1, 3), register(1, 4, None)]);
    house.wait(2_000);
    house.taken();
    let all = "1.4 devices device-1 at 1, device-3 at 0, device-4 online current at 0";
    assert_eq!(words(&house.run(vec![devices(1, 4)])), [all]);
    house.restart();
    house.run(vec![register(1, 4, None)]);
    assert_eq!(words(&house.run(vec![devices(1, 4)])), [all], "after a restart");
}

#[test]
fn whoever_was_not_let_in_takes_nobodys_place() {
    let mut house = House::with(1, Limits { devices: 2, ..Limits::default() });
    house.run(vec![register(2, 1, None), send(2, 1, "a")]);
    house.run(vec![register(1, 1, None), register(1, 2, None), ack(1, 1, 1), ack(1, 2, 1)]);
    assert_eq!(words(&house.run(vec![register(1, 3, None)])), ["1.3 refused TooManyDevices"]);
    assert_eq!(words(&house.run(vec![register(1, 3, Some(9))])), ["1.3 refused CursorAhead"]);
    house.wait(2_000);
    house.run(vec![unregister(1, 2)]);
    let all = "1.1 devices device-1 online current at 1, device-2 at 1";
    assert_eq!(words(&house.run(vec![devices(1, 1)])), [all]);
}

#[test]
fn a_device_that_is_shut_out_is_closed_forgotten_and_needs_a_newer_token() {
    let mut house = House::new(2);
    house.run(vec![register(1, 1, None), register(1, 2, None), register(2, 1, None)]);
    house.run(vec![send(2, 1, "a")]);
    house.run(vec![ack(1, 1, 1), ack(1, 2, 1)]);
    house.wait(2_000);
    house.taken();
    let revoked_at = house.now_ms;
    assert_eq!(
        words(&house.run(vec![revoke(1, 1, 2)])),
        ["1.1 devices device-1 online current at 1", "1.2 revoked"]
    );
    assert_eq!(words(&house.run(vec![send(2, 1, "b")])).len(), 3, "nothing for the one that is gone");
    // Until then: also a token of the very second.
    for issued_at_ms in [0, revoked_at - 5_000, revoked_at] {
        let late = register_issued(1, 2, issued_at_ms);
        assert_eq!(words(&house.run(vec![late])), ["1.2 refused DeviceRevoked"]);
    }
    house.restart();
    assert_eq!(
        words(&house.run(vec![register(1, 2, None)])),
        ["1.2 refused DeviceRevoked"],
        "after a restart"
    );
    // Others of the user, and the same device of somebody else, are not meant.
    let answers = house.run(vec![register(1, 1, None), register(2, 2, None)]);
    assert_eq!(words(&answers), ["1.1 registered 1/2", "2.2 registered 0/2"]);
    // Back with a newer one, it starts from the beginning, and older tokens stay worthless.
    let newer = register_issued(1, 2, revoked_at + 1_000);
    assert_eq!(words(&house.run(vec![newer])), ["1.2 registered 0/2"]);
    house.run(vec![ack(1, 2, 2)]);
    house.wait(2_000);
    house.run(vec![unregister(1, 2)]);
    house.taken();
    assert_eq!(words(&house.run(vec![register(1, 2, None)])), ["1.2 refused DeviceRevoked"]);
    assert_eq!(
        words(&house.run(vec![devices(1, 1)])),
        ["1.1 devices device-1 online current at 1, device-2 at 2"]
    );
}

#[test]
fn a_device_shuts_itself_out_and_hears_nothing_more() {
    let mut house = House::new(1);
    house.run(vec![register(1, 1, None)]);
    assert_eq!(words(&house.run(vec![revoke(1, 1, 1)])), ["1.1 revoked"]);
    assert_eq!(house.workers[0].sessions(), 0);
    assert_eq!(words(&house.run(vec![register(1, 1, None)])), ["1.1 refused DeviceRevoked"]);
}

#[test]
fn what_a_device_confirms_in_the_turn_that_shuts_it_out_does_not_bring_it_back() {
    let mut house = House::new(1);
    house.run(vec![register(1, 1, None), register(1, 2, None), register(2, 1, None)]);
    house.run(vec![send(2, 1, "a")]);
    house.run(vec![ack(1, 2, 1), revoke(1, 1, 2), ack(1, 2, 1)]);
    house.wait(5_000);
    house.taken();
    assert_eq!(words(&house.run(vec![register(1, 2, None)])), ["1.2 refused DeviceRevoked"]);
    assert_eq!(words(&house.run(vec![devices(1, 1)])), ["1.1 devices device-1 online current at 0"]);
}

#[test]
fn what_cannot_be_written_is_refused_and_shuts_nobody_out() {
    let mut house = House::new(1);
    house.run(vec![register(1, 1, None), register(1, 2, None)]);
    house.store_of(1).arm(Fault::Full);
    assert_eq!(words(&house.run(vec![revoke(1, 1, 2)])), ["1.1 rejected StorageFull"]);
    assert_eq!(house.workers[0].sessions(), 2);
}

#[test]
fn more_than_can_be_remembered_make_all_older_tokens_worthless() {
    let mut house = House::new(1);
    house.run(vec![register(1, 1, None)]);
    let began_ms = house.now_ms;
    for device in 2..=258 {
        house.wait(1_000);
        house.run(vec![revoke(1, 1, device)]);
    }
    house.taken();
    let records = house.records_of(1);
    assert_eq!(records.len(), 257, "256 devices, and one record for all others");
    assert!(records.contains_key(&ALL_DEVICES));
    for (device, issued_at_ms, expected) in [
        // The one that gave way, and one that nobody has heard of, with tokens of then.
        (2, began_ms, "1.2 refused DeviceRevoked"),
        (300, began_ms, "1.300 refused DeviceRevoked"),
        (300, began_ms + 60_000, "1.300 registered 0/0"),
        (3, began_ms + 600_000, "1.3 registered 0/0"),
    ] {
        assert_eq!(words(&house.run(vec![register_issued(1, device, issued_at_ms)])), [expected]);
    }
}

impl House {
    fn records_of(&mut self, user: u64) -> std::collections::BTreeMap<DeviceId, Kept> {
        let mut records = std::collections::BTreeMap::new();
        let (from, to) = (
            crate::layout::cursor_key(UserId(user), DeviceId(0)),
            crate::layout::cursor_key(UserId(user), DeviceId(u64::MAX)),
        );
        let mut read = |key: &[u8], value: bytes::Bytes| {
            let device = DeviceId(crate::layout::key_number(Table::Cursors, key).unwrap());
            records.insert(device, Kept::open(key, &value).unwrap());
            crate::engine::Visit::More
        };
        self.store_of(user).scan(Table::Cursors, &from, &to, &mut read).unwrap();
        records
    }
}
