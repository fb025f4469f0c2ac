//! The threads, on real databases: what is accepted is there after a stop, and what has not been opened is refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast_protocol::id::{ConversationId, DeviceId, Rev, Snowflake, UserId};
use holdfast_router::{Key, RouteError};
use holdfast_storage::check::{check, stats};
use holdfast_storage::command::{
    Act, ClientId, Command, Deliver, Delivery, Refusal, Register, SendMessage, SessionAddress,
};
use holdfast_storage::{Clock, Options, Readiness, Running, StorageError, Workers};

/// Long enough for a disk that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(60);

/// All lanes in one, which can be full.
struct Lane {
    deliveries: flume::Sender<Delivery>,
    full: Arc<AtomicBool>,
}

impl Deliver for Lane {
    fn deliver(&mut self, _shard: u16, delivery: Delivery) -> Result<(), Delivery> {
        if self.full.load(Ordering::Relaxed) {
            return Err(delivery);
        }
        self.deliveries.send(delivery).map_err(flume::SendError::into_inner)
    }

    fn flush(&mut self) {}
}

struct Store {
    running: Running,
    deliveries: flume::Receiver<Delivery>,
    lanes_full: Arc<AtomicBool>,
    now_ms: Arc<AtomicU64>,
}

impl Store {
    fn start(options: Options) -> Result<Self, StorageError> {
        let now_ms = Arc::new(AtomicU64::new(Snowflake::EPOCH_MS + 1_000_000));
        let clock = Arc::clone(&now_ms);
        let options = Options { clock: Clock::new(move || clock.load(Ordering::Relaxed)), ..options };
        let workers = Workers::open(options)?;
        let (sender, deliveries) = flume::unbounded();
        let lanes_full = Arc::new(AtomicBool::new(false));
        let delivers = (0..workers.databases()).map(|_| {
            let lane = Lane { deliveries: sender.clone(), full: Arc::clone(&lanes_full) };
            Box::new(lane) as Box<dyn Deliver + Send>
        });
        let delivers = delivers.collect();
        Ok(Self { running: workers.start(delivers)?, deliveries, lanes_full, now_ms })
    }

    fn submit(&self, key: Key, command: Command) {
        self.running.router().send(key, command).map_err(RouteError::into_command).expect("there is room");
    }

    fn send(&self, from: u64, to: u64, client_id: &str) {
        let conversation = ConversationId::direct(UserId(from), UserId(to));
        let message = SendMessage {
            sender: UserId(from),
            device: DeviceId::from_name("phone"),
            device_name: ClientId::from_slice(b"phone"),
            session: session(from),
            conversation,
            client_id: ClientId::from_slice(client_id.as_bytes()),
            act: Act::Say { body: Bytes::from_static(&[0x0a, 2, b'h', b'i']), reply_to: None },
        };
        self.submit(Key::Conversation(conversation), Command::Send(Box::new(message)));
    }

    fn register(&self, user: u64, cursor: Option<u64>) {
        let (user, device) = (UserId(user), DeviceId::from_name("phone"));
        let cursor = cursor.map(Rev);
        self.submit(Key::User(user), register(user, device, cursor));
    }

    fn sync(&self, user: u64, after: Rev) {
        let user = UserId(user);
        self.submit(
            Key::User(user),
            Command::Sync {
                user,
                session: session(user.0),
                after,
                limit: 0,
                every_entry: true,
                goes_on: false,
            },
        );
    }

    fn next(&self) -> Delivery {
        self.deliveries.recv_timeout(PATIENCE).expect("something is delivered")
    }

    /// The whole inbox of a user.
    fn inbox(&self, user: u64) -> Vec<(Rev, Bytes)> {
        self.register(user, Some(0));
        let mut inbox = Vec::new();
        loop {
            match self.next() {
                Delivery::Registered { .. } => self.sync(user, Rev(0)),
                Delivery::Page { entries, live, .. } => {
                    inbox.extend(entries);
                    if live {
                        return inbox;
                    }
                    self.sync(user, inbox.last().expect("a page that is not the last has entries").0);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

fn session(user: u64) -> SessionAddress {
    SessionAddress { shard: 0, connection: user }
}

fn register(user: UserId, device: DeviceId, cursor: Option<Rev>) -> Command {
    Command::Register(Register {
        user,
        device,
        device_name: "phone".into(),
        issued_at: 0,
        session: session(user.0),
        accepted_tick: 0,
        cursor,
    })
}

fn options(directory: &tempfile::TempDir, databases: u16) -> Options {
    Options { databases: Some(databases), reserve_bytes: 0, ..Options::new(directory.path().join("store")) }
}

#[test]
fn what_was_accepted_is_there_after_a_stop_and_in_whichever_directory_it_was_put() {
    for databases in [1, 3] {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::start(options(&directory, databases)).unwrap();
        let mut accepted = BTreeMap::new();
        for n in 0..300u64 {
            store.send(1 + n % 7, 8 + n % 5, &n.to_string());
        }
        while accepted.len() < 300 {
            if let Delivery::Accepted { session, client_id, message_id, seq, .. } = store.next() {
                let before = accepted.insert((session, client_id), (message_id, seq));
                assert_eq!(before, None, "one answer each");
            }
        }
        store.running.stop().unwrap();

        // With another number of databases: the directory keeps its own.
        let store = Store::start(options(&directory, databases + 1)).unwrap();
        let mut entries = 0;
        for user in 1..=12 {
            let inbox = store.inbox(user);
            assert!(inbox.iter().zip(1..).all(|((rev, _), expected)| rev.0 == expected));
            entries += inbox.len();
        }
        assert_eq!(entries, 600);
        store.send(1, 8, "0");
        let Delivery::Accepted { message_id, seq, .. } = store.next() else { panic!("a resend is answered") };
        assert_eq!(accepted.get(&(session(1), ClientId::from_slice(b"0"))), Some(&(message_id, seq)));
        store.running.stop().unwrap();

        let report = check(&directory.path().join("store")).unwrap();
        assert!(report.is_sound(), "{:#?}", report.problems);
        assert_eq!((report.messages, report.entries, report.databases), (300, 600, databases));
        assert_eq!((report.conversations, report.users, report.waiting_intents), (35, 12, 0));
        assert_eq!(stats(&directory.path().join("store")).unwrap().len(), usize::from(databases));
    }
}

#[test]
fn a_store_becomes_ready_and_a_second_opener_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::start(options(&directory, 2)).unwrap();
    store.send(1, 2, "a");
    assert!(matches!(store.next(), Delivery::Accepted { .. }), "sends are taken only when it is ready");
    assert_eq!(store.running.ready_handle().readiness(), Readiness::Ready);
    assert!(store.running.ready());
    let error = Workers::open(options(&directory, 2)).unwrap_err();
    assert!(matches!(error, StorageError::InUse { .. }), "{error}");
    assert!(matches!(check(&directory.path().join("store")), Err(StorageError::InUse { .. })));
    let total = store.running.stats();
    assert_eq!((total.sum(|worker| worker.messages), total.sum(|worker| worker.commits) > 0), (1, true));
    assert_eq!(total.commit().count, total.sum(|worker| worker.commits));
    drop(store);
    Store::start(options(&directory, 2)).unwrap();
}

#[test]
fn options_out_of_range_name_themselves() {
    let directory = tempfile::tempdir().unwrap();
    for databases in [0, 65] {
        let error = Workers::open(options(&directory, databases)).unwrap_err();
        assert_eq!(error.to_string(), format!("storage option databases is {databases}; it must be 1 to 64"));
    }
    let workers = Workers::open(options(&directory, 2)).unwrap();
    let error = workers.start(Vec::new()).unwrap_err();
    assert!(matches!(error, StorageError::Deliverers { databases: 2, given: 0 }), "{error}");
    assert!(matches!(check(&directory.path().join("elsewhere")), Err(StorageError::NoStore { .. })));
}

#[test]
fn a_reserve_that_is_not_there_refuses_sends_and_reads_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::start(options(&directory, 1)).unwrap();
    store.send(1, 2, "a");
    assert!(matches!(store.next(), Delivery::Accepted { .. }));
    store.running.stop().unwrap();
    let options = Options { reserve_bytes: 1 << 50, ..options(&directory, 1) };
    let store = Store::start(options).unwrap();
    store.send(1, 2, "b");
    let refused = store.next();
    assert!(matches!(refused, Delivery::Rejected { why: Refusal::StorageFull, .. }), "{refused:?}");
    // Readiness follows at the end of the turn that refused.
    while store.running.ready_handle().readiness() != Readiness::Full {
        std::thread::yield_now();
    }
    assert_eq!(store.inbox(2).len(), 1);
    store.running.stop().unwrap();
}

#[test]
fn a_lane_that_was_full_is_tried_again_without_another_command() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::start(options(&directory, 2)).unwrap();
    store.register(2, None);
    assert!(matches!(store.next(), Delivery::Registered { .. }));
    store.lanes_full.store(true, Ordering::Relaxed);
    store.send(1, 2, "a");
    // Wait until it has been tried: the entry is durable and the session is marked.
    while store.running.stats().sum(|worker| worker.gaps) == 0 {
        std::thread::yield_now();
    }
    store.lanes_full.store(false, Ordering::Relaxed);
    let mut told = [store.next(), store.next()].map(|delivery| match delivery {
        Delivery::Accepted { .. } => "accepted",
        Delivery::Gap { from: Rev(1), to: Rev(1), .. } => "gap",
        other => panic!("{other:?}"),
    });
    told.sort_unstable();
    assert_eq!(told, ["accepted", "gap"]);
    store.sync(2, Rev(0));
    assert!(matches!(store.next(), Delivery::Page { live: true, .. }));
    store.running.stop().unwrap();
}

#[test]
fn a_full_queue_gives_commands_back_and_none_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::start(Options { queue_commands: 16, ..options(&directory, 2) }).unwrap();
    let router = store.running.router();
    let (mut refused, total) = (0, 2_000);
    for n in 0..total {
        let user = UserId(n + 1);
        while let Err(error) = router.send(Key::User(user), register(user, DeviceId(1), None)) {
            assert!(matches!(error, RouteError::Full { .. }));
            refused += 1;
            std::thread::yield_now();
        }
    }
    let mut users: Vec<u64> = (0..total)
        .map(|_| match store.next() {
            Delivery::Registered { session, .. } => session.connection,
            other => panic!("{other:?}"),
        })
        .collect();
    users.sort_unstable();
    assert!(users.iter().copied().eq(1..=total), "each once");
    assert!(refused > 0, "16 places were too few at some time");
    // A turn publishes what it has counted behind what it delivers.
    let stats = store.running.stats_handle();
    store.running.stop().unwrap();
    assert_eq!(stats.stats().sum(|worker| worker.sessions), total);
}

#[test]
fn cursors_are_written_by_the_clock_and_at_a_stop() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::start(options(&directory, 1)).unwrap();
    store.send(1, 2, "a");
    store.send(1, 2, "b");
    assert!(matches!(store.next(), Delivery::Accepted { .. }));
    assert!(matches!(store.next(), Delivery::Accepted { .. }));
    let confirm = |store: &Store, rev| {
        store.register(2, Some(2));
        assert!(matches!(store.next(), Delivery::Registered { .. }));
        let (user, device) = (UserId(2), DeviceId::from_name("phone"));
        store.submit(Key::User(user), Command::Ack { user, device, session: session(2), rev: Rev(rev) });
    };
    let kept = |store: &Store| {
        store.register(2, None);
        match store.next() {
            Delivery::Registered { cursor, .. } => cursor.0,
            other => panic!("{other:?}"),
        }
    };
    let commits = store.running.stats().sum(|worker| worker.commits);
    confirm(&store, 1);
    while store.running.stats().sum(|worker| worker.commits) == commits {
        store.now_ms.fetch_add(1, Ordering::Relaxed);
        std::thread::yield_now();
    }
    store.running.stop().unwrap();
    let store = Store::start(options(&directory, 1)).unwrap();
    assert_eq!(kept(&store), 1);
    confirm(&store, 2);
    store.running.stop().unwrap();
    let store = Store::start(options(&directory, 1)).unwrap();
    assert_eq!(kept(&store), 2);
    store.running.stop().unwrap();
}
