//! Users who write to each other, what they were promised, and whether a store kept it.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use holdfast_protocol::chat::{self, entry};
use holdfast_protocol::id::{ConversationId, DeviceId, MessageId, Rev, Seq, UserId};
use holdfast_router::{Key, RouteError};
use holdfast_storage::check::check;
use holdfast_storage::command::{
    Act, ClientId, Command, Deliver, Delivery, Refusal, Register, SendMessage, SessionAddress,
};
use holdfast_storage::{Options, Readiness, Running, StorageError, Workers};
use prost::Message as _;

/// Only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);
/// A batch spans pages.
const BODY_BYTES: usize = 1_500;
/// Users 1 to 9: their conversations and inboxes lie in both databases.
const USERS: u64 = 9;

struct Lane(flume::Sender<Delivery>);

impl Deliver for Lane {
    fn deliver(&mut self, _shard: u16, delivery: Delivery) -> Result<(), Delivery> {
        self.0.send(delivery).map_err(flume::SendError::into_inner)
    }

    fn flush(&mut self) {}
}

/// What a send was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    Accepted,
    Refused(Refusal),
}

/// A send: from whom, to whom. Its client id is its number.
#[derive(Debug, Clone, Copy)]
struct Sent {
    from: u64,
    to: u64,
}

/// What the users remember, whatever becomes of the store.
pub(crate) struct World {
    directory: PathBuf,
    sent: Vec<Sent>,
    accepted: BTreeMap<usize, (MessageId, Seq)>,
}

/// A store that runs.
pub(crate) struct Store {
    running: Running,
    deliveries: flume::Receiver<Delivery>,
    unanswered: BTreeSet<usize>,
}

impl World {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory, sent: Vec::new(), accepted: BTreeMap::new() }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn try_open(&self) -> Result<Store, StorageError> {
        let mut options =
            Options { databases: Some(2), reserve_bytes: 0, ..Options::new(self.directory.clone()) };
        options.limits.retry_ms = 5;
        let workers = Workers::open(options)?;
        let (sender, deliveries) = flume::unbounded();
        let lane = || Box::new(Lane(sender.clone())) as Box<dyn Deliver + Send>;
        let running = workers.start((0..2).map(|_| lane()).collect())?;
        Ok(Store { running, deliveries, unanswered: BTreeSet::new() })
    }

    pub(crate) fn open(&self) -> Store {
        self.try_open().unwrap_or_else(|error| panic!("the store cannot be opened: {}", with_causes(&error)))
    }

    /// Opens the store after whatever has happened to it, sends again what was not accepted, reads everything, and
    /// compares; then has its databases checked against each other.
    pub(crate) fn verify(&mut self) {
        let mut store = self.open();
        // First what was promised, so that a lost message is told as that.
        let inboxes = store.inboxes();
        for (&number, &(message_id, seq)) in &self.accepted {
            let Sent { from, to } = self.sent[number];
            for user in [from, to] {
                let found = inboxes[&user].iter().find(|message| message.client_id == number.to_string());
                let Some(found) = found else {
                    panic!("send {number} from {from} to {to} was accepted and is lost for {user}")
                };
                let found = (MessageId(found.message_id), Seq(found.seq));
                assert_eq!(found, (message_id, seq), "send {number} for {user}");
            }
        }
        for number in 0..self.sent.len() {
            store.send(self, number);
        }
        let answers = store.await_answers(self);
        assert!(answers.iter().all(|answer| *answer == Answer::Accepted), "all can be sent again");
        for user in 1..=USERS {
            let expected = self.sent.iter().filter(|sent| sent.from == user || sent.to == user).count();
            self.check_inbox(user, &store.inbox(user, expected));
        }
        store.stop().unwrap();
        let report = check(&self.directory).unwrap();
        assert!(report.is_sound(), "{:#?}", report.problems);
        assert_eq!(report.messages, self.sent.len() as u64);
    }

    /// Everything once, each conversation in one order without holes.
    fn check_inbox(&self, user: u64, inbox: &[chat::Message]) {
        let mut seqs: BTreeMap<String, u64> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for message in inbox {
            let number: usize = message.client_id.parse().unwrap();
            assert!(seen.insert(number), "user {user} has send {number} twice");
            let conversation = match self.sent[number] {
                Sent { from, to } if from < to => format!("{from}:{to}"),
                Sent { from, to } => format!("{to}:{from}"),
            };
            let seq = seqs.entry(conversation).or_default();
            *seq += 1;
            assert_eq!(message.seq, *seq, "user {user}, send {number}");
            assert_eq!(self.accepted[&number], (MessageId(message.message_id), Seq(message.seq)));
        }
    }
}

impl Store {
    /// So many new sends, between all pairs of users in turn.
    pub(crate) fn send_some(&mut self, world: &mut World, count: usize) {
        for _ in 0..count {
            let number = world.sent.len() as u64;
            let from = 1 + number % USERS;
            let to = 1 + (from + number / USERS % (USERS - 1)) % USERS;
            world.sent.push(Sent { from, to });
            self.send(world, number as usize);
        }
    }

    /// One send in a conversation of which everything lies in one database.
    pub(crate) fn send_to_one_database(&mut self, world: &mut World) {
        let assignment = self.running.router().assignment().clone();
        let owner = |key: Key| assignment.owner(key.slice());
        let pairs = (1..=USERS).flat_map(|from| (1..from).map(move |to| Sent { from, to }));
        let mut pairs = pairs.filter(|&Sent { from, to }| {
            let conversation = ConversationId::direct(UserId(from), UserId(to));
            let owners = [Key::User(UserId(from)), Key::User(UserId(to)), Key::Conversation(conversation)];
            owners.map(owner) == [owner(Key::Conversation(conversation)); 3]
        });
        world.sent.push(pairs.next().expect("36 pairs: some lies in one of two databases"));
        self.send(world, world.sent.len() - 1);
    }

    pub(crate) fn send_unaccepted_again(&mut self, world: &mut World) {
        for number in 0..world.sent.len() {
            if !world.accepted.contains_key(&number) {
                self.send(world, number);
            }
        }
    }

    fn send(&mut self, world: &World, number: usize) {
        let Sent { from, to } = world.sent[number];
        let conversation = ConversationId::direct(UserId(from), UserId(to));
        let body =
            chat::Body { kind: Some(chat::body::Kind::Text(format!("message {number:.<BODY_BYTES$}"))) };
        let message = SendMessage {
            sender: UserId(from),
            device: DeviceId::from_name("phone"),
            device_name: ClientId::from_slice(b"phone"),
            session: session(from),
            conversation,
            client_id: ClientId::from_slice(number.to_string().as_bytes()),
            act: Act::Say { body: body.encode_to_vec().into(), reply_to: None },
        };
        self.submit(Key::Conversation(conversation), Command::Send(Box::new(message)));
        self.unanswered.insert(number);
    }

    fn submit(&self, key: Key, command: Command) {
        self.running.router().send(key, command).map_err(RouteError::into_command).expect("there is room");
    }

    fn next(&self) -> Delivery {
        self.deliveries.recv_timeout(PATIENCE).expect("something is delivered")
    }

    /// Waits until every send has its answer, and writes down what was promised.
    pub(crate) fn await_answers(&mut self, world: &mut World) -> Vec<Answer> {
        let number = |client_id: &ClientId| -> usize {
            std::str::from_utf8(client_id)
                .ok()
                .and_then(|text| text.parse().ok())
                .expect("we number our sends")
        };
        let mut answers = Vec::new();
        while !self.unanswered.is_empty() {
            let delivery = match self.deliveries.recv_timeout(Duration::from_millis(50)) {
                Ok(delivery) => delivery,
                // A worker that waits for the intents of one that failed takes no sends, and promises nothing.
                Err(_) if self.readiness() == Readiness::Failed => {
                    self.unanswered.clear();
                    break;
                }
                Err(_) => self.next(),
            };
            let (number, answer) = match delivery {
                Delivery::Accepted { client_id, message_id, seq, .. } => {
                    let number = number(&client_id);
                    let before = world.accepted.insert(number, (message_id, seq));
                    assert!(before.is_none_or(|before| before == (message_id, seq)), "send {number} changed");
                    (number, Answer::Accepted)
                }
                Delivery::Rejected { client_id: Some(client_id), why, .. } => {
                    (number(&client_id), Answer::Refused(why))
                }
                // Sessions that read their inboxes are live.
                Delivery::Event { .. } | Delivery::Replaced { .. } => continue,
                other => panic!("{other:?}"),
            };
            assert!(self.unanswered.remove(&number), "send {number} was answered twice");
            answers.push(answer);
        }
        answers
    }

    /// All inboxes, once everything that is recorded has been applied.
    fn inboxes(&mut self) -> BTreeMap<u64, Vec<chat::Message>> {
        self.await_readiness(Readiness::Ready);
        (1..=USERS).map(|user| (user, self.inbox(user, 0))).collect()
    }

    /// Messages that somebody can read and nobody was promised.
    pub(crate) fn unpromised(&mut self, world: &World) -> usize {
        let numbers =
            self.inboxes().into_values().flatten().map(|message| message.client_id.parse::<usize>().unwrap());
        numbers.filter(|number| !world.accepted.contains_key(number)).collect::<BTreeSet<_>>().len()
    }

    /// The messages of a user's inbox, at least so many; `rev` has no holes.
    fn inbox(&mut self, user: u64, at_least: usize) -> Vec<chat::Message> {
        let (device, mine, key) = (DeviceId::from_name("phone"), session(user), Key::User(UserId(user)));
        let user = UserId(user);
        let request = Register {
            user,
            device,
            device_name: "phone".into(),
            issued_at: 0,
            session: mine,
            accepted_tick: 0,
            cursor: Some(Rev(0)),
        };
        self.submit(key, Command::Register(request));
        let mut inbox: Vec<chat::Message> = Vec::new();
        let mut is_live = false;
        while !is_live || inbox.len() < at_least {
            let entries = match self.next() {
                Delivery::Registered { .. } => Vec::new(),
                Delivery::Page { entries, live, .. } => {
                    is_live = live;
                    entries
                }
                Delivery::Event { session, rev, entry } if is_live && session == mine => vec![(rev, entry)],
                // For a session that has read its inbox before.
                Delivery::Event { .. } | Delivery::Replaced { .. } => continue,
                other => panic!("{other:?}"),
            };
            for (rev, bytes) in entries {
                assert_eq!(rev.0, inbox.len() as u64 + 1, "user {user}");
                inbox.push(message(&bytes));
            }
            if !is_live {
                let after = Rev(inbox.len() as u64);
                self.submit(
                    key,
                    Command::Sync { user, session: mine, after, limit: 0, every_entry: true, goes_on: false },
                );
            }
        }
        inbox
    }

    pub(crate) fn readiness(&self) -> Readiness {
        self.running.ready_handle().readiness()
    }

    pub(crate) fn await_readiness(&self, wanted: Readiness) {
        while self.readiness() != wanted {
            std::thread::yield_now();
        }
    }

    pub(crate) fn stop(self) -> Result<(), StorageError> {
        self.running.stop()
    }
}

fn session(user: u64) -> SessionAddress {
    SessionAddress { shard: 0, connection: user }
}

fn message(bytes: &Bytes) -> chat::Message {
    let entry = chat::Entry::decode(bytes.clone()).expect("entries are protobuf");
    match entry.kind {
        Some(entry::Kind::Message(message)) => message,
        other => panic!("{other:?} is no message"),
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
