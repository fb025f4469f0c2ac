//! What a batch leaves in inboxes, how pages are made of it, and what older versions have left there.

use holdfast_protocol::chat::{Entry, entry};
use prost::Message as _;

use super::groups::{create, edit, say};
use super::receipts::read_in;
use super::*;

const PAIR: ConversationId = ConversationId::direct(UserId(1), UserId(2));

fn records(house: &House, table: Table) -> usize {
    let mut count = 0;
    for worker in &house.workers {
        let visit = &mut |_: &[u8], _| {
            count += 1;
            crate::engine::Visit::More
        };
        worker.store().scan(table, &[], &[0xff; 24], visit).unwrap();
    }
    count
}

#[test]
fn one_batch_is_one_record_per_member_and_one_copy_per_database() {
    for workers in [1, 2, 3] {
        let mut house = House::new(workers);
        let members: Vec<u64> = (2..=40).collect();
        house.run(vec![create(1, &members, false)]);
        assert_eq!(records(&house, Table::Inbox), 40);
        house.run((0..50).map(|n| say(1 + n % 40, &n.to_string())).collect());
        assert_eq!(records(&house, Table::Inbox), 80);
        assert_eq!(records(&house, Table::Copies), 51 * (usize::from(workers) - 1));
    }
}

#[test]
fn pages_of_any_size_from_anywhere_give_each_entry_once() {
    for workers in [1, 2] {
        let mut house = House::new(workers);
        house.run(vec![create(1, &[2, 3], false), send(1, 2, "a")]);
        house.run((0..6).map(|n| say(2, &n.to_string())).collect());
        house.run(vec![send(2, 1, "b"), say(1, "x"), read_in(PAIR, 2, 1), edit(2, "e", 3), send(1, 2, "c")]);
        house.run((6..9).map(|n| say(2, &n.to_string())).collect());
        let mut all: Vec<(Rev, Bytes)> = Vec::new();
        for limit in 1..20 {
            for begin in 0..16 {
                let mut got: Vec<(Rev, Bytes)> = Vec::new();
                let mut after = begin;
                let mut delivered = house.run(vec![register(2, 7, Some(0)), sync(2, 7, after, limit)]);
                loop {
                    let page = delivered.into_iter().find_map(|delivery| match delivery {
                        Delivery::Page { entries, live, .. } => Some((entries, live)),
                        _ => None,
                    });
                    let (entries, live) = page.expect("a page");
                    assert!(entries.len() <= limit as usize);
                    got.extend(entries);
                    if live {
                        break;
                    }
                    after = got.last().expect("a page that is not the last has something").0.0;
                    delivered = house.run(vec![sync(2, 7, after, limit)]);
                }
                assert!(got.iter().map(|(rev, _)| rev.0).eq(begin + 1..=16), "{limit} from {begin}");
                if all.is_empty() {
                    all = got;
                } else {
                    assert_eq!(got, all[begin as usize..], "{limit} from {begin}");
                }
            }
        }
    }
}

#[test]
fn a_turn_counts_what_it_goes_over_to_find_an_entry() {
    let mut house = House::with(1, Limits { turn_page_bytes: 1 << 20, ..Limits::default() });
    house.run(vec![create(1, &[2], false)]);
    // One record.
    house.run((0..20_000).map(|n| say(1, &n.to_string())).collect());
    house.run((1..=10).map(|device| register(2, device, Some(0))).collect());
    let per_turn = |house: &mut House, after: u64| {
        let syncs = (1..=10).map(|device| sync(2, device, after, 1));
        let syncs = syncs.map(|(key, command)| house.envelope(key.slice(), command)).collect();
        house.turn(0, syncs);
        let told = house.taken().len();
        house.settle();
        house.taken();
        told
    };
    assert_eq!((per_turn(&mut house, 1), per_turn(&mut house, 20_000)), (10, 2));
}

#[test]
fn what_an_older_version_has_written_is_read_and_goes_on() {
    let mut house = House::new(1);
    let mut batch = Batch::default();
    for seq in 1..=3 {
        let old = MessageEntry {
            conversation: PAIR,
            seq: Seq(seq),
            message_id: MessageId(seq),
            sender: UserId(1),
            client_id: b"old",
            device: b"phone",
            time_ms: 5,
            body: &[0x0a, 1, b'x'],
            reply_to: None,
            changed_by: None,
            ordinal: None,
        };
        let sealed = layout::seal_entry(&old);
        batch.put(Table::Messages, layout::message_key(PAIR, Seq(seq)), sealed.clone());
        for user in [1, 2] {
            batch.put(Table::Inbox, layout::inbox_key(UserId(user), Rev(seq)), sealed.clone());
        }
    }
    // A mark without an ordinal.
    batch.put(Table::Receipts, layout::receipt_key(PAIR, UserId(2)), layout::seal_numbers([2]));
    house.store_of(1).commit(&batch).unwrap();

    let told = house.run(vec![read_in(PAIR, 2, 1), send(2, 1, "new"), read_in(PAIR, 2, 3)]);
    assert_eq!(words(&told), ["2.1 receipts 2:2", "2.1 accepted new as 4", "2.1 receipts 2:3"]);
    let told = house.run(vec![register(2, 1, Some(0)), sync(2, 1, 0, 0)]);
    assert_eq!(words(&told), ["2.1 registered 0/5", "2.1 page 1..=5 of 5, live"]);
    let Some(Delivery::Page { entries, .. }) = told.into_iter().next_back() else { panic!("no page") };
    let ordinals: Vec<_> = entries
        .into_iter()
        .map(|(_, entry)| match Entry::decode(entry).unwrap().kind.unwrap() {
            entry::Kind::Message(message) => message.ordinal,
            entry::Kind::Read(read) => Some(read.ordinal),
        })
        .collect();
    // Where nobody has counted, everything counts.
    assert_eq!(ordinals, [None, None, None, Some(4), Some(3)]);
}
