//! Workers and `fjall` on a disk that forgets what was not synced, fails fsync and runs full.
//!
//! The disk is `holdfast_faultfs`, mounted. It can stop the machine at any sync that anybody makes, so these tests walk
//! through the life of a store and pull the plug at each: while the store is made, under load, while it is opened
//! again. Whatever was promised before must be there afterwards, and the store must be whole.
//!
//! A build that acknowledges before fsync (feature `planted-ack-before-fsync`) must fail here.

mod world;

use std::collections::HashSet;

use holdfast_faultfs::{Disk, Loss, Mounted};
use holdfast_storage::Readiness;
use holdfast_storage::command::Refusal;
use world::{Answer, World};

/// One life of a store that ends when the power goes: before the sync that comes after `syncs` others, or when all its
/// sends are answered. Says whether it was the sync.
fn live_and_lose_power(disk: &Disk, world: &mut World, syncs: u64, loss: Loss) -> bool {
    disk.cut_power_after(syncs, loss);
    // A store that could not be made or opened promised nothing new.
    let store = world.try_open().map(|mut store| {
        for _ in 0..5 {
            store.send_some(world, 12);
            store.await_answers(world);
        }
        store
    });
    let at_a_sync = !disk.has_power();
    if !at_a_sync {
        disk.cut_power(loss);
    }
    // The threads must end, whatever they say about the disk.
    if let Ok(store) = store {
        let _ = store.stop();
    }
    disk.restore_power();
    world.verify();
    at_a_sync
}

/// Pulls the plug at every `step`th sync that opening a store and writing to it makes, always the same store.
fn pull_the_plug_under_load(step: usize, loss: impl Fn(u64) -> Loss) {
    let disk = Disk::new();
    let Some(mounted) = Mounted::for_test(&disk) else { return };
    let mut world = World::new(mounted.path().join("store"));
    world.verify();
    let cuts =
        (0..).step_by(step).take_while(|&syncs| live_and_lose_power(&disk, &mut world, syncs, loss(syncs)));
    let cuts = cuts.count();
    assert!(cuts > 10, "the plug was pulled only {cuts} times");
}

#[test]
#[cfg_attr(feature = "planted-ack-before-fsync", should_panic(expected = "was accepted and is lost"))]
fn what_was_accepted_survives_a_machine_that_stops_at_any_sync() {
    pull_the_plug_under_load(5, |_| Loss::All);
}

#[test]
#[cfg_attr(
    feature = "planted-ack-before-fsync",
    ignore = "the planted bug loses them, the test above shows it"
)]
fn a_torn_end_is_cut_off_wherever_it_was_torn() {
    pull_the_plug_under_load(5, |seed| Loss::Some { seed });
}

#[test]
#[cfg_attr(
    feature = "planted-ack-before-fsync",
    ignore = "the planted bug loses them, the test above shows it"
)]
fn a_store_that_was_only_half_made_is_made() {
    let disk = Disk::new();
    let Some(mounted) = Mounted::for_test(&disk) else { return };
    let mut cuts = 0;
    for syncs in (0..).step_by(13) {
        let loss = if syncs % 2 == 0 { Loss::All } else { Loss::Some { seed: syncs } };
        let mut world = World::new(mounted.path().join(format!("store-{syncs}")));
        if !live_and_lose_power(&disk, &mut world, syncs, loss) {
            break;
        }
        cuts += 1;
        std::fs::remove_dir_all(world.directory()).unwrap();
    }
    assert!(cuts > 10, "the plug was pulled only {cuts} times");
}

/// The process is killed between write and fsync, starts again, reads what is in the page cache and answers from it;
/// then the machine stops. What was answered must have become durable in between.
#[test]
#[cfg_attr(
    feature = "planted-ack-before-fsync",
    ignore = "the planted bug loses them, the test above shows it"
)]
fn what_a_restart_finds_unsynced_is_made_durable_before_it_counts() {
    let disk = Disk::new();
    let Some(mounted) = Mounted::for_test(&disk) else { return };
    let mut found = 0;
    // A journal that was never opened again ends in zeros, which opening cuts off; afterwards it does not.
    for openings_before in 0..3 {
        let mut world = World::new(mounted.path().join(format!("store-{openings_before}")));
        for _ in 0..openings_before {
            let mut store = world.open();
            store.send_some(&mut world, 5);
            store.await_answers(&mut world);
            store.stop().unwrap();
        }
        let mut store = world.open();
        // The failing sync stands for the kill: it leaves a whole batch that was never synced, and clean pages besides.
        disk.fail_syncs(u32::MAX);
        store.send_some(&mut world, 5);
        store.await_answers(&mut world);
        let _ = store.stop();
        disk.heal();
        let mut store = world.open();
        found += store.unpromised(&world);
        store.send_unaccepted_again(&mut world);
        store.await_answers(&mut world);
        disk.cut_power(Loss::All);
        let _ = store.stop();
        disk.restore_power();
        world.verify();
    }
    assert!(found >= 3, "no batch was found that had not been synced");
}

#[test]
#[cfg_attr(feature = "planted-ack-before-fsync", ignore = "the planted bug hides the failure")]
fn a_failed_fsync_ends_all_promises_until_a_restart() {
    let disk = Disk::new();
    let Some(mounted) = Mounted::for_test(&disk) else { return };
    let mut world = World::new(mounted.path().join("store"));
    let mut store = world.open();
    // Nothing is on its way to the other database, so the sync that fails is that of the next send.
    for _ in 0..20 {
        store.send_to_one_database(&mut world);
        assert_eq!(store.await_answers(&mut world), [Answer::Accepted]);
    }
    disk.fail_syncs(1);
    store.send_to_one_database(&mut world);
    assert_eq!(store.await_answers(&mut world), [Answer::Refused(Refusal::StorageFailed)]);
    store.await_readiness(Readiness::Failed);
    // The disk works again, but nobody knows what is on it.
    assert_eq!(disk.usage().failed_syncs, 1);
    store.send_to_one_database(&mut world);
    assert_eq!(store.await_answers(&mut world), [Answer::Refused(Refusal::StorageFailed)]);
    assert_eq!(store.readiness(), Readiness::Failed);
    let _ = store.stop();
    disk.crash(Loss::All);
    world.verify();
}

#[test]
#[cfg_attr(feature = "planted-ack-before-fsync", ignore = "the planted bug loses what the crash takes")]
fn a_full_disk_refuses_until_there_is_room_and_loses_nothing() {
    let disk = Disk::new();
    let Some(mounted) = Mounted::for_test(&disk) else { return };
    let mut world = World::new(mounted.path().join("store"));
    let mut store = world.open();
    for bytes_left in [0, 4096, 20_000, 100_000] {
        store.send_some(&mut world, 20);
        assert!(store.await_answers(&mut world).iter().all(|answer| *answer == Answer::Accepted));
        disk.fill(bytes_left);
        let mut answers = HashSet::new();
        while !answers.contains(&Answer::Refused(Refusal::StorageFull)) {
            store.send_some(&mut world, 50);
            answers.extend(store.await_answers(&mut world));
        }
        let expected = [Answer::Accepted, Answer::Refused(Refusal::StorageFull)];
        assert!(answers.iter().all(|answer| expected.contains(answer)), "{answers:?}");
        store.await_readiness(Readiness::Full);
        disk.heal();
        store.await_readiness(Readiness::Ready);
        store.send_unaccepted_again(&mut world);
        assert!(store.await_answers(&mut world).iter().all(|answer| *answer == Answer::Accepted));
    }
    disk.cut_power(Loss::All);
    let _ = store.stop();
    disk.restore_power();
    world.verify();
}
