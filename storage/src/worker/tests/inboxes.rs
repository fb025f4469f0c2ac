//! What a batch leaves in inboxes, how pages are made of it, and what older versions have left there.

use holdfast_protocol::chat::{self, Entry, body, entry};
use prost::Message as _;

use super::conversations::{list, short_sync};
use super::groups::{CREW, create, edit, say};
use super::receipts::read_in;
use super::*;
use crate::check::Checker;
use crate::group::Group;

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
    assert_eq!(words(&told), ["2.1 registered 0/6", "2.1 page 1..=6 of 6, live"]);
    let Some(Delivery::Page { entries, .. }) = told.into_iter().next_back() else { panic!("no page") };
    let ordinals: Vec<_> = entries
        .into_iter()
        .map(|(_, entry)| match Entry::decode(entry).unwrap().kind.unwrap() {
            entry::Kind::Message(message) => message.ordinal,
            entry::Kind::Read(read) => Some(read.ordinal),
        })
        .collect();
    // Where nobody has counted, everything counts; the old mark is told once it is set again.
    assert_eq!(ordinals, [None, None, None, Some(2), Some(4), Some(3)]);
}

/// What the first version has left of this conversation, in which these users have done this one after the other.
fn of_the_first_version(house: &mut House, conversation: ConversationId, done: &[(u64, body::Kind)]) {
    let mut batches: Vec<Batch> = house.workers.iter().map(|_| Batch::default()).collect();
    let home = usize::from(house.assignment.owner(RouteKey::Conversation(conversation).slice()).0);
    let mut group = Group::default();
    let mut revs = std::collections::BTreeMap::<u64, u64>::new();
    for (seq, (sender, kind)) in (1..).zip(done) {
        let body = chat::Body { kind: Some(kind.clone()) }.encode_to_vec();
        let client_id = seq.to_string();
        let entry = MessageEntry {
            conversation,
            seq: Seq(seq),
            message_id: MessageId(seq),
            sender: UserId(*sender),
            client_id: client_id.as_bytes(),
            device: b"phone",
            time_ms: 5,
            body: &body,
            reply_to: None,
            changed_by: None,
            ordinal: None,
        };
        let sealed = layout::seal_entry(&entry);
        let fingerprint = layout::fingerprint(
            conversation,
            UserId(*sender),
            DeviceId::from_name("phone"),
            client_id.as_bytes(),
        );
        let known = Known { message_id: MessageId(seq), seq: Seq(seq) };
        batches[home].put(Table::Dedupe, layout::dedupe_key(&fingerprint), known.seal());
        batches[home].put(Table::Messages, layout::message_key(conversation, Seq(seq)), sealed.clone());
        let gone = group.apply(Seq(seq), UserId(*sender), kind);
        for user in group.members().iter().map(|member| member.user).chain(gone) {
            let rev = revs.entry(user.0).or_default();
            *rev += 1;
            let owner = house.owner(user.0);
            batches[owner].put(Table::Inbox, layout::inbox_key(user, Rev(*rev)), sealed.clone());
        }
    }
    batches[home].put(Table::Groups, layout::group_key(conversation), group.seal());
    batches[home].put(Table::State, layout::last_id_key(), layout::seal_numbers([done.len() as u64]));
    let mark = layout::receipt_key(conversation, UserId(2));
    batches[home].put(Table::Receipts, mark, layout::seal_numbers([4]));
    for (worker, batch) in house.workers.iter_mut().zip(batches) {
        worker.store_mut().commit(&batch).unwrap();
    }
    house.restart();
}

#[test]
fn lists_and_snapshots_are_made_of_what_the_first_version_has_written() {
    use body::Kind;
    let text = || Kind::Text("x".into());
    let done = [
        (
            1,
            Kind::GroupCreated(chat::GroupCreated {
                title: "Crew".into(),
                members: vec![2, 3, 4, 5],
                open_history: false,
            }),
        ),
        (1, text()),
        (1, Kind::Renamed(chat::Renamed { title: "Us".into() })),
        (1, text()),
        (1, Kind::RoleSet(chat::RoleSet { user: 2, role: chat::Role::Admin.into() })),
        (1, Kind::MemberRemoved(chat::MemberRemoved { user: 5 })),
        (3, text()),
    ];
    for (workers, fold_entries) in [(1, 2), (2, 2), (3, 2), (2, 1_000), (3, 1_000)] {
        let limits = Limits { fold_entries, snapshot_after: 5, ..Limits::default() };
        let mut house = House::with(workers, limits);
        of_the_first_version(&mut house, CREW, &done);
        let home = usize::from(house.assignment.owner(RouteKey::Conversation(CREW).slice()).0);
        let ask = |house: &mut House, user, snapshot| {
            let ask =
                if snapshot { short_sync(user, 1, 0, false) } else { list(user, ConversationId(0), 100) };
            let told = house.run(vec![ask]);
            let [Delivery::Conversations(part) | Delivery::Snapshot(part)] = told.as_slice() else {
                panic!("{told:?}")
            };
            let [crew] = part.conversations.as_slice() else { panic!("{part:?}") };
            crew.clone()
        };
        for user in [2, 3, 4] {
            house.run(vec![register(user, 1, Some(0))]);
            let at_home = house.owner(user) == home;
            for (snapshot, all) in [(false, 1), (true, 7)] {
                let crew = ask(&mut house, user, snapshot);
                let role = if user == 2 { chat::Role::Admin } else { chat::Role::Member };
                assert_eq!((crew.title.as_str(), crew.role, crew.gone), ("Us", role, false));
                assert_eq!(crew.messages.len(), if at_home { all } else { 0 }, "a copy is not there");
            }
            assert_eq!(ask(&mut house, user, false).read, Seq(0));
        }
        assert!(ask(&mut house, 5, false).gone);
        // The mark is told once, however it is set again.
        assert_eq!(words(&house.run(vec![read_in(CREW, 2, 3)]))[0], "2.1 receipts 2:4");
        assert_eq!(words(&house.run(vec![read_in(CREW, 2, 4)])), ["2.1 receipts 2:4"]);
        house.run(vec![say(1, "new")]);
        for (user, read, unread) in [(2, 4, 4), (3, 0, 1), (4, 0, 7)] {
            let crew = ask(&mut house, user, false);
            assert_eq!((crew.read, crew.unread, crew.messages.len()), (Seq(read), unread, 1), "user {user}");
            let shown = ask(&mut house, user, true).messages.len();
            assert_eq!(shown, if house.owner(user) == home { 8 } else { 1 });
        }
        let mut checker = Checker::new(Arc::clone(house.assignment()), workers);
        for (number, worker) in (0..).zip(&house.workers) {
            checker.database(number, worker.store()).unwrap();
        }
        let report = checker.report();
        assert!(report.is_sound(), "{:#?}", report.problems);
    }
}
