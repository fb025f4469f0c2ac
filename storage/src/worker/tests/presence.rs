//! Who is there, and who is told.

use super::*;
use crate::command::LAST_SEEN_STEP_MS;
use crate::engine::memory::Fault;

fn step(ms: u64) -> u64 {
    ms - ms % LAST_SEEN_STEP_MS
}

const TICK_MS: u64 = 100;
const GRACE_MS: u64 = 10_000;

fn watch(user: u64) -> (RouteKey, Command) {
    (RouteKey::User(UserId(user)), Command::Watch { user: UserId(user), shard: 0 })
}

fn away(user: u64, device: u64, away: bool) -> (RouteKey, Command) {
    let (user, session) = (UserId(user), session(user, device));
    (RouteKey::User(user), Command::Away { user, session, away })
}

pub(crate) fn unregister(user: u64, device: u64) -> (RouteKey, Command) {
    let (user, session) = (UserId(user), session(user, device));
    (RouteKey::User(user), Command::Unregister { user, device: DeviceId(device), session })
}

impl House {
    /// What shards are told within this time.
    fn told_within(&mut self, ms: u64) -> Vec<String> {
        self.wait(ms);
        words(&self.taken())
    }
}

#[test]
fn a_shard_that_has_asked_is_told_of_whoever_comes_goes_or_is_away() {
    let mut house = House::new(1);
    assert!(house.run(vec![watch(1)]).is_empty(), "changes wait for a tick");
    assert_eq!(house.told_within(TICK_MS), ["presence 1 Offline { last_seen_ms: None }"]);

    house.run(vec![register(1, 1, None), register(2, 1, None)]);
    assert_eq!(house.told_within(TICK_MS), ["presence 1 Online; 2 Online"], "of anybody who comes");
    // Away when nobody is at any device.
    house.run(vec![register(1, 2, None), away(1, 1, true)]);
    assert_eq!(house.told_within(TICK_MS), ["presence 1 Online"]);
    house.run(vec![away(1, 2, true)]);
    assert_eq!(house.told_within(TICK_MS), ["presence 1 Away"]);
    house.run(vec![away(1, 2, true), away(9, 1, true)]);
    assert!(house.told_within(TICK_MS).is_empty(), "nothing has changed");
    // The device at which somebody is goes, and the one at which nobody is stays.
    house.run(vec![away(1, 2, false)]);
    assert_eq!(house.told_within(TICK_MS), ["presence 1 Online"]);
    house.run(vec![unregister(1, 2)]);
    assert_eq!(house.told_within(TICK_MS), ["presence 1 Away"]);
    // A device that comes anew is not away.
    house.run(vec![unregister(1, 1), register(1, 1, None)]);
    assert_eq!(house.told_within(TICK_MS), ["presence 1 Online"]);
}

#[test]
fn who_comes_back_within_the_grace_was_never_gone() {
    let mut house = House::new(1);
    house.run(vec![watch(1), register(1, 1, None)]);
    assert_eq!(house.told_within(TICK_MS), ["presence 1 Online"]);
    let first_left = step(house.now_ms);
    house.run(vec![unregister(1, 1)]);
    assert!(house.told_within(GRACE_MS - 1).is_empty());
    house.run(vec![watch(1)]);
    assert_eq!(
        house.told_within(TICK_MS),
        ["presence 1 Offline { last_seen_ms: Some(FIRST) }".replace("FIRST", &first_left.to_string())]
    );

    house.run(vec![register(1, 1, None)]);
    house.told_within(TICK_MS);
    house.run(vec![unregister(1, 1)]);
    house.wait(GRACE_MS / 2);
    house.run(vec![register(1, 1, None)]);
    house.wait(GRACE_MS / 4);
    let left = step(house.now_ms);
    house.run(vec![unregister(1, 1)]);
    house.taken();
    // The grace of the first absence ends, and ends nothing.
    assert!(house.told_within(GRACE_MS / 2).is_empty());
    let told = [house.told_within(GRACE_MS / 2), house.told_within(TICK_MS)].concat();
    assert_eq!(told, [format!("presence 1 Offline {{ last_seen_ms: Some({left}) }}")]);
}

#[test]
fn nobody_is_told_who_has_not_asked() {
    let mut house = House::new(1);
    house.run(vec![register(1, 1, None), unregister(1, 1)]);
    assert!(house.told_within(GRACE_MS + TICK_MS).is_empty());
}

#[test]
fn when_somebody_was_there_last_outlives_a_restart_and_a_failed_write() {
    for workers in [1, 3] {
        let mut house = House::new(workers);
        house.run(vec![register(1, 1, None)]);
        let left = step(house.now_ms);
        house.store_of(1).arm(Fault::Full);
        house.run(vec![unregister(1, 1)]);
        house.wait(1_000);
        // Written down with the first batch that succeeds.
        house.store_of(1).free_space();
        house.wait(1_000);
        house.wait(1_000);
        house.restart();
        house.run(vec![watch(1)]);
        let told = house.told_within(TICK_MS);
        assert_eq!(told, [format!("presence 1 Offline {{ last_seen_ms: Some({left}) }}")]);
    }
}

#[test]
fn a_shard_without_room_misses_some_and_is_told_so() {
    let mut house = House::new(1);
    house.run(vec![watch(1)]);
    house.told_within(TICK_MS);
    house.effects.no_offers = true;
    for _ in 0..70 {
        house.run(vec![watch(1)]);
        assert!(house.told_within(TICK_MS).is_empty());
    }
    house.run(vec![register(2, 1, None)]);
    house.effects.no_offers = false;
    let told = [house.told_within(TICK_MS), house.told_within(TICK_MS)].concat();
    assert_eq!(told[0], "presence missed");
    assert_eq!(told.last().unwrap(), "presence 2 Online");
    // Messages have had all the room that there was.
    assert!(told.len() <= 70, "{told:?}");
}

#[test]
fn a_crowd_is_told_of_in_portions() {
    let mut house = House::new(1);
    house.run(vec![watch(1)]);
    house.told_within(TICK_MS);
    house.run((1..=5_000).map(|user| register(user, 1, None)).collect());
    let users = |told: Vec<Delivery>| -> Vec<usize> {
        let count = |it: &Delivery| {
            matches!(it, Delivery::Presence(_)).then(|| match it {
                Delivery::Presence(users) => users.len(),
                _ => 0,
            })
        };
        told.iter().filter_map(count).collect()
    };
    house.taken();
    house.wait(TICK_MS);
    assert_eq!(users(house.taken()), [4_096]);
    house.wait(TICK_MS);
    assert_eq!(users(house.taken()), [904]);
}

#[test]
fn a_clock_that_steps_back_keeps_nobody_waiting() {
    let mut house = House::new(1);
    house.run(vec![watch(1), register(1, 1, None)]);
    house.told_within(TICK_MS);
    house.run(vec![unregister(1, 1)]);
    house.now_ms -= 3_600_000;
    assert!(house.workers[0].due_in_ms(house.now_ms).is_some_and(|due| due <= TICK_MS));
    let told = [house.told_within(0), house.told_within(TICK_MS)].concat();
    assert!(told.iter().any(|it| it.starts_with("presence 1 Offline")), "{told:?}");
}
