//! What every store promises; each body runs on each engine.

use std::path::Path;

use bytes::Bytes;

use super::fjall::{Config, Fjall};
use super::memory::{Fault, Memory};
use super::{Batch, Key, Store, StoreError, Table, Visit};

fn key(bytes: &[u8]) -> Key {
    Key::from_slice(bytes)
}

fn put(store: &mut impl Store, writes: &[(Table, &[u8], &[u8])]) {
    let mut batch = Batch::default();
    for (table, at, value) in writes {
        batch.put(*table, key(at), Bytes::copy_from_slice(value));
    }
    store.commit(&batch).unwrap();
}

fn all(store: &impl Store, table: Table, from: &[u8], to: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    store
        .scan(table, from, to, &mut |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            Visit::More
        })
        .unwrap();
    found
}

fn reads_what_was_written(mut store: impl Store) {
    assert_eq!(store.get(Table::Inbox, b"a").unwrap(), None);
    put(&mut store, &[(Table::Inbox, b"a", b"1"), (Table::Messages, b"a", b"2"), (Table::Inbox, b"b", b"")]);
    assert_eq!(store.get(Table::Inbox, b"a").unwrap().as_deref(), Some(b"1".as_slice()));
    assert_eq!(store.get(Table::Messages, b"a").unwrap().as_deref(), Some(b"2".as_slice()));
    assert_eq!(store.get(Table::Inbox, b"b").unwrap().as_deref(), Some(b"".as_slice()));
    assert_eq!(store.get(Table::Dedupe, b"a").unwrap(), None);
}

fn the_later_change_of_a_batch_counts(mut store: impl Store) {
    put(&mut store, &[(Table::State, b"a", b"0"), (Table::State, b"b", b"0")]);
    let mut batch = Batch::default();
    batch.put(Table::State, key(b"a"), Bytes::from_static(b"1"));
    batch.put(Table::State, key(b"a"), Bytes::from_static(b"2"));
    batch.put(Table::State, key(b"b"), Bytes::from_static(b"1"));
    batch.remove(Table::State, key(b"b"));
    store.commit(&batch).unwrap();
    assert_eq!(store.get(Table::State, b"a").unwrap().as_deref(), Some(b"2".as_slice()));
    assert_eq!(store.get(Table::State, b"b").unwrap(), None);
}

fn scans_are_ordered_inclusive_and_stop(mut store: impl Store) {
    let keys: [&[u8]; 6] = [&[1, 0], &[1, 1], &[1, 0xff], &[2, 0], &[0, 0xff], &[1, 1, 0]];
    for at in keys {
        put(&mut store, &[(Table::Inbox, at, at)]);
    }
    let found = all(&store, Table::Inbox, &[1, 0], &[1, 0xff]);
    let expected: [&[u8]; 4] = [&[1, 0], &[1, 1], &[1, 1, 0], &[1, 0xff]];
    assert_eq!(found.iter().map(|(key, _)| key.as_slice()).collect::<Vec<_>>(), expected);
    let mut visited = 0;
    let stop = &mut |_: &[u8], _| {
        visited += 1;
        if visited == 2 { Visit::Enough } else { Visit::More }
    };
    store.scan(Table::Inbox, &[0], &[3], stop).unwrap();
    assert_eq!(visited, 2);
    let mut back = Vec::new();
    let three = &mut |key: &[u8], value: Bytes| {
        assert_eq!(key, value);
        back.push(key.to_vec());
        if back.len() == 3 { Visit::Enough } else { Visit::More }
    };
    store.scan_back(Table::Inbox, &[1, 0], &[1, 0xff], three).unwrap();
    assert_eq!(back, [&[1, 0xff][..], &[1, 1, 0], &[1, 1]]);
    let last = store.last(Table::Inbox, &[1, 0], &[1, 0xff]).unwrap();
    assert_eq!(last, Some((key(&[1, 0xff]), Bytes::from_static(&[1, 0xff]))));
    assert_eq!(store.last(Table::Inbox, &[3], &[4]).unwrap(), None);
    assert!(all(&store, Table::Messages, &[0], &[9]).is_empty());
}

fn an_empty_batch_is_nothing(mut store: impl Store) {
    store.commit(&Batch::default()).unwrap();
    assert!(all(&store, Table::Inbox, &[0], &[255]).is_empty());
}

/// `reopen` closes the store properly and opens it again.
fn survives<S: Store>(mut store: S, reopen: impl Fn(S) -> S) {
    let value = vec![7u8; 70_000];
    for round in 0..20u8 {
        put(&mut store, &[(Table::Messages, &[round], &value), (Table::Inbox, &[round], &[round])]);
        if round % 7 == 0 {
            let mut batch = Batch::default();
            batch.remove(Table::Inbox, key(&[round]));
            store.commit(&batch).unwrap();
            store = reopen(store);
        }
    }
    let store = reopen(store);
    assert_eq!(all(&store, Table::Messages, &[0], &[255]).len(), 20);
    let inbox = all(&store, Table::Inbox, &[0], &[255]);
    assert_eq!(inbox.len(), 17);
    assert!(inbox.iter().all(|(key, value)| key == value && key[0] % 7 != 0));
}

fn memory() -> Memory {
    Memory::new(1)
}

fn fjall(directory: &Path) -> Fjall {
    Fjall::open(Config { path: directory.into(), cache_bytes: 16 << 20, reserve_bytes: 0 }).unwrap()
}

macro_rules! contract {
    ($($body:ident),* $(,)?) => {
        mod on_memory {
            $(#[test] fn $body() { super::$body(super::memory()); })*
        }
        mod on_fjall {
            $(#[test] fn $body() {
                let directory = tempfile::tempdir().unwrap();
                super::$body(super::fjall(&directory.path().join("db")));
            })*
        }
    };
}

contract!(
    reads_what_was_written,
    the_later_change_of_a_batch_counts,
    scans_are_ordered_inclusive_and_stop,
    an_empty_batch_is_nothing,
);

#[test]
#[cfg_attr(feature = "planted-ack-before-fsync", ignore = "the planted bug loses them")]
fn a_crash_of_the_simulated_machine_keeps_what_was_committed() {
    survives(memory(), Memory::crash);
}

#[test]
fn fjall_keeps_what_was_committed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    survives(fjall(&path), |store| {
        drop(store);
        fjall(&path)
    });
}

#[test]
#[cfg_attr(feature = "planted-ack-before-fsync", ignore = "the planted bug hides the failure")]
fn a_failed_sync_shows_nothing_and_poisons() {
    let mut store = memory();
    put(&mut store, &[(Table::Inbox, b"a", b"1")]);
    store.arm(Fault::SyncFails);
    let mut batch = Batch::default();
    batch.put(Table::Inbox, key(b"b"), Bytes::from_static(b"2"));
    assert!(matches!(store.commit(&batch), Err(StoreError::Failed { doing: "fsync", .. })));
    assert_eq!(store.get(Table::Inbox, b"b").unwrap(), None);
    assert!(matches!(store.commit(&batch), Err(StoreError::Failed { .. })), "and for ever");
    assert_eq!(store.get(Table::Inbox, b"a").unwrap().as_deref(), Some(b"1".as_slice()), "reads go on");
}

#[test]
fn a_full_disk_refuses_until_there_is_room() {
    let mut store = memory();
    store.arm(Fault::Full);
    let mut batch = Batch::default();
    batch.put(Table::Inbox, key(b"a"), Bytes::from_static(b"1"));
    assert!(matches!(store.commit(&batch), Err(StoreError::Full { .. })));
    assert!(matches!(store.recover(), Err(StoreError::Full { .. })));
    assert_eq!(store.get(Table::Inbox, b"a").unwrap(), None);
    store.free_space();
    store.recover().unwrap();
    // The refused batch may be there by now; writing it again does no harm.
    store.commit(&batch).unwrap();
    assert_eq!(store.get(Table::Inbox, b"a").unwrap().as_deref(), Some(b"1".as_slice()));
}

#[test]
fn fjall_keeps_the_reserve_free() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let mut store = fjall(&path);
    put(&mut store, &[(Table::Inbox, b"a", b"1")]);
    drop(store);
    // More than any disk has: the reserve is always touched.
    let mut store = Fjall::open(Config { path, cache_bytes: 16 << 20, reserve_bytes: 1 << 60 }).unwrap();
    let mut batch = Batch::default();
    batch.put(Table::Inbox, key(b"b"), Bytes::from_static(b"2"));
    let error = store.commit(&batch).unwrap_err();
    assert!(matches!(error, StoreError::Full { reserve_bytes, .. } if reserve_bytes == 1 << 60));
    assert!(matches!(store.recover(), Err(StoreError::Full { .. })));
    assert_eq!(store.get(Table::Inbox, b"a").unwrap().as_deref(), Some(b"1".as_slice()), "reads go on");
    assert_eq!(store.get(Table::Inbox, b"b").unwrap(), None);
}

#[test]
fn the_simulated_disk_loses_keeps_and_tears_an_unsynced_batch() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..200 {
        let mut store = Memory::new(seed);
        put(&mut store, &[(Table::Inbox, b"a", b"1")]);
        store.arm(Fault::CrashBeforeSync);
        let mut batch = Batch::default();
        for item in 0..10u8 {
            batch.put(Table::Inbox, key(&[b'b', item]), Bytes::from_static(b"2"));
        }
        assert!(matches!(store.commit(&batch), Err(StoreError::Crashed)));
        let store = store.crash();
        match all(&store, Table::Inbox, b"b", b"c").len() {
            0 => lost += 1,
            10 => kept += 1,
            some => panic!("{some} of 10 writes of one batch are there"),
        }
    }
    assert!(lost > 50 && kept > 20, "lost {lost}, kept {kept}");
}
