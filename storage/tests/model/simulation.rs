//! A small world: workers on disks that fail, queues, lanes, and devices that write down what they are told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use holdfast_protocol::chat::{self, Audience, Role, body};
use holdfast_protocol::id::{ConversationId, DeviceId, GroupId, MessageId, Rev, Seq, Snowflake, UserId};
use holdfast_router::{Assignment, Envelope, Key, WorkerId};
use holdfast_storage::Limits;
use holdfast_storage::check::Checker;
use holdfast_storage::command::{
    Act, ChangePeople, ClientId, Command, ConversationView, ConversationsRequest, Delivery, GroupChange,
    Note, PeopleChange, ReadMark, Receipt, ReceiptsRequest, Refusal, Register, SendMessage, SessionAddress,
    Typing,
};
use holdfast_storage::engine::{Store as _, Table, Visit, memory};
use holdfast_storage::worker::{Effects, Health, Identity, Worker};
pub(crate) use memory::Fault;
use memory::Memory;
use prost::Message as _;

use crate::lists;

const USERS: u64 = 6;
const DEVICES: u64 = 3;
const SHARDS: u16 = 2;
const DAY_MS: u64 = 24 * 3_600_000;

#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A device sends a new message; `settle`: and everything that is due happens.
    Send {
        device: u8,
        to: u8,
        settle: bool,
    },
    /// A device does something in a group, or to a message.
    Act {
        device: u8,
        group: u8,
        what: u8,
        whom: u8,
    },
    /// A device is writing: to a user, or in a group.
    Typing {
        device: u8,
        to: u8,
    },
    /// A device has read what another user, or a group, has said; or asks who has.
    Read {
        device: u8,
        to: u8,
        up_to: u8,
    },
    /// A device changes or takes back a message of its user's to another user.
    Change {
        device: u8,
        to: u8,
        back: u8,
        delete: bool,
    },
    /// A device blocks a user, or does not any more; or counts it among the contacts.
    Regard {
        device: u8,
        to: u8,
        what: u8,
    },
    /// A device asks for the list of conversations.
    List {
        device: u8,
    },
    /// A device sends one of its messages again.
    SendAgain {
        device: u8,
        which: u8,
    },
    /// A device connects (again); `forgets`: without a cursor.
    Connect {
        device: u8,
        forgets: bool,
    },
    Disconnect {
        device: u8,
    },
    /// A device confirms what it has.
    Confirm {
        device: u8,
    },
    /// A device asks for entries that it has already.
    SyncAgain {
        device: u8,
        back: u8,
    },
    /// A worker takes at most so many commands.
    Turn {
        worker: u8,
        most: usize,
    },
    Wait {
        ms: u64,
    },
    ClockSteps {
        ms: i64,
    },
    EightDays,
    /// The machine stops and starts.
    Crash,
    /// A worker takes all its commands; the machine stops after so many effects.
    CrashAmongEffects {
        worker: u8,
        effects: usize,
    },
    /// The worker's next commit goes wrong.
    Fault {
        worker: u8,
        fault: Fault,
    },
    FreeSpace {
        worker: u8,
    },
    /// These shards' lanes take nothing (bit mask).
    FullLanes {
        lanes: u8,
    },
    /// The queues to these workers take nothing from other workers (bit mask).
    FullQueues {
        queues: u8,
    },
}

#[derive(Debug, Clone)]
struct Sent {
    client_id: ClientId,
    conversation: ConversationId,
    act: Act,
    accepted: Option<(MessageId, Seq)>,
    since_ms: u64,
}

#[derive(Debug)]
struct Device {
    user: UserId,
    id: DeviceId,
    number: u64,
    session: Option<SessionAddress>,
    registered: bool,
    live: bool,
    /// The last entry that it has.
    last: Rev,
    /// The last entry that it ever had.
    most: Rev,
    /// It has got a list on its present connection.
    listed: bool,
    sent: Vec<Sent>,
    /// Parts of a snapshot that is under way, and its `rev`.
    parts: Vec<ConversationView>,
    parts_rev: Rev,
}

/// What the workers' effects touch.
#[derive(Debug, Default)]
struct World {
    peers: Vec<VecDeque<Envelope<Command>>>,
    delivered: Vec<Delivery>,
    full_lanes: u8,
    full_queues: u8,
    /// After so many more effects the machine stops.
    stops_after: Option<usize>,
    stopped: bool,
}

impl World {
    fn runs(&mut self) -> bool {
        match &mut self.stops_after {
            Some(0) => self.stopped = true,
            Some(left) => *left -= 1,
            None => {}
        }
        !self.stopped
    }
}

impl Effects for World {
    fn deliver(&mut self, shard: u16, delivery: Delivery) -> Result<(), Delivery> {
        if self.full_lanes >> shard & 1 == 1 {
            return Err(delivery);
        }
        if self.runs() {
            self.delivered.push(delivery);
        }
        Ok(())
    }

    fn flush(&mut self) {}

    fn send(&mut self, worker: u16, command: Command) -> Result<(), Command> {
        if self.full_queues >> worker & 1 == 1 {
            return Err(command);
        }
        if self.runs() {
            let slice = holdfast_router::SliceId(0);
            self.peers[usize::from(worker)].push_back(Envelope {
                slice,
                epoch: holdfast_router::Epoch(1),
                command,
            });
        }
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct Simulation {
    assignment: Arc<Assignment>,
    limits: Limits,
    workers: Vec<Worker<Memory>>,
    queues: Vec<VecDeque<Envelope<Command>>>,
    world: World,
    devices: Vec<Device>,
    now_ms: u64,
    /// The latest that it has ever been.
    latest_ms: u64,
    connections: u64,
    /// A crash that is still to come: at which commit, or after which effect.
    planned: Option<(Option<Fault>, usize)>,
    crashes: usize,

    /// Whose session this is, or was.
    owners: BTreeMap<SessionAddress, usize>,
    /// What somebody was told of an inbox.
    seen: BTreeMap<(UserId, Rev), Bytes>,
    /// What somebody was told of a message.
    accepted: BTreeMap<(ConversationId, Seq), (MessageId, ClientId)>,
    /// How far somebody was told that somebody has read.
    marks: BTreeMap<(ConversationId, UserId), Seq>,
    /// The same, at the last crash.
    kept_marks: BTreeMap<(ConversationId, UserId), Seq>,
    /// The same, by session; answers and what comes unasked, which goes another way, each by themselves.
    heard_marks: BTreeMap<(SessionAddress, bool, ConversationId, UserId), Seq>,
    /// In the end every device gets every entry.
    settling: bool,
    /// Groups may say for how long they keep messages.
    groups_keep: bool,
    /// Direct conversations in which somebody has blocked the other one, perhaps.
    blocked: BTreeSet<ConversationId>,
    /// Snapshots and beginnings of lists that somebody was told, of that `rev`, and whether that was all.
    lists: Vec<(UserId, Rev, Vec<ConversationView>, bool)>,
}

impl Simulation {
    pub(crate) fn new(databases: u16, seed: u64) -> Self {
        let workers: Vec<WorkerId> = (0..databases).map(WorkerId).collect();
        let limits = Limits {
            page_entries: 5,
            devices: 2,
            cached_heads: 4,
            fan_out_window: 2,
            fold_entries: 1 + seed % 7,
            snapshot_after: 6,
            page_bytes: 400 + seed as usize % 4_000,
            // Hardly ever more than one wish per turn, or all of them.
            turn_page_bytes: if seed.is_multiple_of(2) { 300 } else { 1 << 20 },
            // In every sixth world everything goes in the end, in every third groups may say so for themselves.
            retention_ms: if seed.is_multiple_of(6) { 9 * DAY_MS } else { 0 },
            ..Limits::default()
        };
        let mut simulation = Self {
            assignment: Arc::new(Assignment::new(&workers)),
            limits,
            workers: Vec::new(),
            queues: (0..databases).map(|_| VecDeque::new()).collect(),
            world: World { peers: (0..databases).map(|_| VecDeque::new()).collect(), ..World::default() },
            devices: Vec::new(),
            now_ms: Snowflake::EPOCH_MS + 1_000_000_000,
            latest_ms: 0,
            connections: 0,
            planned: None,
            crashes: 0,
            owners: BTreeMap::new(),
            seen: BTreeMap::new(),
            accepted: BTreeMap::new(),
            marks: BTreeMap::new(),
            kept_marks: BTreeMap::new(),
            heard_marks: BTreeMap::new(),
            settling: false,
            groups_keep: seed.is_multiple_of(3),
            blocked: BTreeSet::new(),
            lists: Vec::new(),
        };
        for user in 1..=USERS {
            for device in 1..=DEVICES {
                simulation.devices.push(Device {
                    user: UserId(user),
                    id: DeviceId::from_name(&format!("device-{device}")),
                    number: device,
                    session: None,
                    registered: false,
                    live: false,
                    last: Rev(0),
                    most: Rev(0),
                    listed: false,
                    sent: Vec::new(),
                    parts: Vec::new(),
                    parts_rev: Rev(0),
                });
            }
        }
        for database in 0..databases {
            let store = Memory::new(seed ^ u64::from(database) << 32);
            let worker = simulation.open(database, store);
            simulation.workers.push(worker);
        }
        for device in 0..simulation.devices.len() {
            simulation.connect(device, false);
        }
        simulation.run_until_idle();
        simulation
    }

    fn open(&self, number: u16, store: Memory) -> Worker<Memory> {
        let identity = Identity {
            number,
            assignment: Arc::clone(&self.assignment),
            workers: self.queues.len() as u16,
            limits: self.limits.clone(),
        };
        Worker::open(identity, store).expect("the memory engine reads what it wrote")
    }

    pub(crate) fn crashes(&self) -> usize {
        self.crashes
    }

    /// Plans one crash: at the `point`th commit from now on, or after the `point`th effect.
    pub(crate) fn crash_at(&mut self, fault: Option<Fault>, point: usize) {
        self.planned = Some((fault, point));
    }

    pub(crate) fn hold_queues_between_workers(&mut self) {
        self.world.full_queues = 0xff;
    }

    pub(crate) fn release_queues_between_workers(&mut self) {
        self.world.full_queues = 0;
    }

    /// Intents that are recorded and not applied.
    pub(crate) fn intents_waiting(&self) -> u64 {
        let mut checker = Checker::new(Arc::clone(&self.assignment), self.queues.len() as u16);
        for (database, worker) in (0..).zip(&self.workers) {
            checker.database(database, worker.store()).expect("the memory engine can be read");
        }
        checker.report().waiting_intents
    }

    pub(crate) fn step(&mut self, step: Step) {
        match step {
            Step::Send { device, to, settle } => {
                self.send_new(usize::from(device), to);
                if settle {
                    self.run_until_idle();
                }
            }
            Step::Act { device, group, what, whom } => self.act(usize::from(device), group, what, whom),
            Step::Typing { device, to } => self.typing(usize::from(device), to),
            Step::Read { device, to, up_to } => self.read(usize::from(device), to, up_to),
            Step::List { device } => self.list(usize::from(device)),
            Step::Change { device, to, back, delete } => {
                self.change(usize::from(device), to, back, delete);
            }
            Step::Regard { device, to, what } => self.regard(usize::from(device), to, what),
            Step::SendAgain { device, which } => {
                let device = usize::from(device) % self.devices.len();
                if !self.devices[device].sent.is_empty() {
                    let which = usize::from(which) % self.devices[device].sent.len();
                    self.submit_message(device, which);
                }
            }
            Step::Connect { device, forgets } => {
                let device = usize::from(device) % self.devices.len();
                self.connect(device, forgets);
            }
            Step::Disconnect { device } => {
                let device = usize::from(device) % self.devices.len();
                self.disconnect(device);
            }
            Step::Confirm { device } => {
                let device = &self.devices[usize::from(device) % self.devices.len()];
                if let (Some(session), true) = (device.session, device.registered) {
                    let (user, device, rev) = (device.user, device.id, device.last);
                    self.submit(Key::User(user), Command::Ack { user, device, session, rev });
                }
            }
            Step::SyncAgain { device, back } => {
                let device = usize::from(device) % self.devices.len();
                let it = &mut self.devices[device];
                if it.live {
                    // As a client that has lost what it had: it is not live until a page says so.
                    it.live = false;
                    it.last = Rev(it.last.0.saturating_sub(u64::from(back) % 8));
                    self.sync(device);
                }
            }
            Step::Turn { worker, most } => {
                let worker = usize::from(worker) % self.workers.len();
                self.turn(worker, most);
            }
            Step::Wait { ms } => self.now_ms += ms,
            Step::ClockSteps { ms } => self.now_ms = self.now_ms.saturating_add_signed(ms),
            Step::EightDays => {
                self.now_ms += 8 * DAY_MS;
                if self.groups_keep {
                    // What somebody has sent eight days ago does not arrive now.
                    for queue in &mut self.queues {
                        queue.retain(|envelope| !matches!(envelope.command, Command::Send(_)));
                    }
                }
            }
            Step::Crash => self.crash(),
            Step::CrashAmongEffects { worker, effects } => {
                let worker = usize::from(worker) % self.workers.len();
                self.world.stops_after = Some(effects);
                self.turn(worker, usize::MAX);
                self.crash();
            }
            Step::Fault { worker, fault } => {
                let worker = usize::from(worker) % self.workers.len();
                self.workers[worker].store_mut().arm(fault);
            }
            Step::FreeSpace { worker } => {
                let worker = usize::from(worker) % self.workers.len();
                self.workers[worker].store_mut().free_space();
            }
            Step::FullLanes { lanes } => self.world.full_lanes = lanes,
            Step::FullQueues { queues } => self.world.full_queues = queues,
        }
    }

    fn send_new(&mut self, device: usize, to: u8) {
        let device = device % self.devices.len();
        let sender = self.devices[device].user;
        let other = UserId(1 + (sender.0 + u64::from(to) % (USERS - 1)) % USERS);
        let number = self.devices[device].sent.len();
        let text = format!("{}/{}/{number}", sender, self.devices[device].number);
        self.submit_new(device, ConversationId::direct(sender, other), say(text));
    }

    fn change(&mut self, device: usize, to: u8, back: u8, delete: bool) {
        let device = device % self.devices.len();
        let sender = self.devices[device].user;
        let other = self.other(sender, to);
        let conversation = ConversationId::direct(sender, other);
        let heads = self.accepted.range((conversation, Seq(0))..=(conversation, Seq(u64::MAX)));
        let head = heads.last().map_or(0, |(&(_, seq), _)| seq.0);
        let seq = Seq(head.saturating_sub(u64::from(back) % 5));
        let number = self.devices[device].sent.len();
        let text = chat::content::Kind::Text(format!("edit {number}"));
        let content = chat::Content { kind: Some(text) }.encode_to_vec().into();
        let act = if delete { Act::Delete { seq } } else { Act::Edit { seq, content } };
        self.submit_new(device, conversation, act);
    }

    fn regard(&mut self, device: usize, to: u8, what: u8) {
        let it = &self.devices[device % self.devices.len()];
        let (Some(session), user) = (it.session, it.user) else { return };
        let other = self.other(user, to);
        let change = match what % 8 {
            0 => PeopleChange::Contact(other, what > 127),
            1 => PeopleChange::Presence(Audience::Contacts),
            what => {
                self.blocked.insert(ConversationId::direct(user, other));
                PeopleChange::Block(other, what < 5)
            }
        };
        self.submit(Key::User(user), Command::ChangePeople(ChangePeople { user, session, change }));
    }

    /// Somebody else, of few, so that they meet again.
    fn other(&self, user: UserId, to: u8) -> UserId {
        UserId(1 + (user.0 + u64::from(to) % 2) % USERS)
    }

    fn typing(&mut self, device: usize, to: u8) {
        let Some((user, session, conversation)) = self.whose(device, to) else { return };
        let typing = Typing { user, conversation, stopped: to.is_multiple_of(2) };
        self.submit(Key::Conversation(conversation), Command::Typing { typing, session });
    }

    fn read(&mut self, device: usize, to: u8, up_to: u8) {
        let Some((user, session, conversation)) = self.whose(device, to) else { return };
        let command = if up_to.is_multiple_of(4) {
            Command::Receipts(ReceiptsRequest { user, session, conversation })
        } else {
            let mark = ReadMark { user, conversation, up_to: Seq(u64::from(up_to) % 12) };
            Command::Read { mark, session }
        };
        self.submit(Key::Conversation(conversation), command);
    }

    /// A device's session, and a conversation with another user or of a group.
    fn whose(&self, device: usize, to: u8) -> Option<(UserId, SessionAddress, ConversationId)> {
        let device = &self.devices[device % self.devices.len()];
        let (session, user) = (device.session?, device.user);
        let conversation = match u64::from(to) % (USERS + 2) {
            other if UserId(other) == user => return None,
            group if group == 0 || group > USERS => ConversationId::group(GroupId(1 + group % 2)),
            other => ConversationId::direct(user, UserId(other)),
        };
        Some((user, session, conversation))
    }

    fn act(&mut self, device: usize, group: u8, what: u8, whom: u8) {
        let device = device % self.devices.len();
        let sender = self.devices[device].user;
        let conversation = ConversationId::group(GroupId(1 + u64::from(group % 2)));
        let number = self.devices[device].sent.len();
        let user = UserId(1 + u64::from(whom) % USERS);
        // The last messages, most likely.
        let heads = self.accepted.range((conversation, Seq(0))..=(conversation, Seq(u64::MAX)));
        let head = heads.last().map_or(0, |(&(_, seq), _)| seq.0);
        let seq = Seq(head.saturating_sub(u64::from(whom) % 4));
        let act = match what % 12 {
            0 => Act::Group(GroupChange::Create {
                title: format!("group {number}"),
                members: (1..=1 + u64::from(whom) % USERS).map(UserId).collect(),
                open_history: whom.is_multiple_of(2),
            }),
            1 => Act::Group(GroupChange::Add(vec![user])),
            2 => Act::Group(GroupChange::Remove(user)),
            3 => Act::Group(GroupChange::Leave),
            4 => Act::Group(GroupChange::Rename(format!("again {number}"))),
            5 => Act::Group(GroupChange::SetRole(
                user,
                [Role::Member, Role::Admin, Role::Owner][usize::from(whom % 3)],
            )),
            6 => {
                let text = chat::content::Kind::Text(format!("edit {number}"));
                let content = chat::Content { kind: Some(text) }.encode_to_vec().into();
                Act::Edit { seq, content }
            }
            7 => Act::Delete { seq },
            8 if self.groups_keep => {
                Act::Group(GroupChange::Keep { days: [0, 1, 12][usize::from(whom % 3)] })
            }
            _ => say(format!("{sender}/{}/{number} to all", self.devices[device].number)),
        };
        self.submit_new(device, conversation, act);
    }

    fn submit_new(&mut self, device: usize, conversation: ConversationId, act: Act) {
        let number = self.devices[device].sent.len();
        self.devices[device].sent.push(Sent {
            client_id: ClientId::from_slice(format!("c{number}").as_bytes()),
            conversation,
            act,
            accepted: None,
            since_ms: self.now_ms,
        });
        self.submit_message(device, number);
    }

    fn submit_message(&mut self, device: usize, which: usize) {
        let Device { user, id, session: Some(session), ref sent, .. } = self.devices[device] else { return };
        let Sent { client_id, conversation, act, since_ms, .. } = sent[which].clone();
        if self.groups_keep && self.now_ms.saturating_sub(since_ms) > 3 * DAY_MS {
            // As clients must: what was sent that long ago may not be known any more.
            return;
        }
        let message = SendMessage {
            sender: user,
            device: id,
            device_name: ClientId::from_slice(name_of(id).as_bytes()),
            session,
            conversation,
            client_id,
            act,
        };
        self.submit(Key::Conversation(conversation), Command::Send(Box::new(message)));
    }

    fn submit(&mut self, key: Key, command: Command) {
        let slice = key.slice();
        let worker = usize::from(self.assignment.owner(slice).0);
        self.queues[worker].push_back(Envelope { slice, epoch: self.assignment.epoch(), command });
    }

    fn connect(&mut self, device: usize, forgets: bool) {
        self.connections += 1;
        let shard = (self.connections % u64::from(SHARDS)) as u16;
        let session = SessionAddress { shard, connection: self.connections };
        self.owners.insert(session, device);
        let it = &mut self.devices[device];
        it.session = Some(session);
        it.registered = false;
        it.live = false;
        it.listed = false;
        it.parts.clear();
        let (user, device) = (it.user, it.id);
        let cursor = (!forgets).then_some(it.last);
        self.submit(
            Key::User(user),
            Command::Register(Register {
                user,
                device,
                device_name: "phone".into(),
                issued_at: 0,
                session,
                accepted_tick: 0,
                cursor,
            }),
        );
    }

    fn disconnect(&mut self, device: usize) {
        let it = &mut self.devices[device];
        if let Some(session) = it.session.take() {
            let (user, device) = (it.user, it.id);
            self.submit(Key::User(user), Command::Unregister { user, device, session });
        }
    }

    fn sync(&mut self, device: usize) {
        let it = &self.devices[device];
        if let Some(session) = it.session {
            let (user, after) = (it.user, it.last);
            // The first device of each user gets every entry; the others may get snapshots.
            let every_entry = it.number == 1 || self.settling;
            let goes_on = !it.parts.is_empty();
            self.submit(
                Key::User(user),
                Command::Sync { user, session, after, limit: 0, every_entry, goes_on },
            );
        }
    }

    fn list(&mut self, device: usize) {
        let device = &self.devices[device % self.devices.len()];
        let Some(session) = device.session else { return };
        let user = device.user;
        let request = ConversationsRequest { user, session, after: ConversationId(0), limit: 100 };
        self.submit(Key::User(user), Command::Conversations(request));
    }

    fn turn(&mut self, worker: usize, most: usize) {
        let mut commands: Vec<_> = self.world.peers[worker].drain(..).collect();
        if self.workers[worker].is_replayed() {
            let most = most.min(self.queues[worker].len());
            commands.extend(self.queues[worker].drain(..most));
        }
        match &mut self.planned {
            Some((None, effects)) if self.world.stops_after.is_none() => {
                self.world.stops_after = Some(*effects);
            }
            Some((Some(fault), 0)) => {
                self.workers[worker].store_mut().arm(*fault);
                self.planned = None;
            }
            Some((Some(_), _)) | Some((None, _)) | None => {}
        }
        let commits = self.workers[worker].store().commits();
        self.latest_ms = self.latest_ms.max(self.now_ms);
        self.workers[worker].handle_batch(self.now_ms, &mut commands, &mut self.world);
        if let Some((Some(_), left)) = &mut self.planned
            && self.workers[worker].store().commits() > commits
        {
            *left = left.saturating_sub(1);
        }
        self.receive();
        if self.world.stopped || self.workers[worker].store().has_crashed() {
            self.planned = None;
            self.crash();
        }
    }

    fn crash(&mut self) {
        self.crashes += 1;
        self.kept_marks.clone_from(&self.marks);
        let stores: Vec<Memory> = self.workers.drain(..).map(Worker::into_store).collect();
        for queue in self.queues.iter_mut().chain(&mut self.world.peers) {
            queue.clear();
        }
        self.world.delivered.clear();
        self.world.stops_after = None;
        self.world.stopped = false;
        for (number, store) in (0..).zip(stores) {
            let worker = self.open(number, store.crash());
            self.workers.push(worker);
        }
        for device in 0..self.devices.len() {
            self.connect(device, false);
        }
    }

    /// Devices take in what was delivered, and answer.
    fn receive(&mut self) {
        for delivery in std::mem::take(&mut self.world.delivered) {
            self.note(&delivery);
            let session = address_of(&delivery);
            for it in &mut self.devices {
                it.most = it.most.max(it.last);
            }
            let Some(device) = self.devices.iter().position(|it| it.session == Some(session)) else {
                continue;
            };
            let it = &mut self.devices[device];
            match delivery {
                Delivery::Registered { cursor, head, .. } => {
                    assert!(!it.registered, "registered once");
                    it.registered = true;
                    assert!(cursor <= it.most, "what the server kept is not more than the device has had");
                    assert!(head >= it.most, "the device has seen {:?}, the head is {head:?}", it.most);
                    it.last = cursor;
                    it.live = cursor == head;
                    if !it.live {
                        self.sync(device);
                    }
                }
                Delivery::Refused { why, .. } => {
                    // Nobody comes in while a database is closed.
                    assert!(matches!(why, Refusal::TooManyDevices | Refusal::StorageFailed), "{why:?}");
                    it.session = None;
                }
                Delivery::Replaced { .. } => it.session = None,
                Delivery::Revoked { .. } | Delivery::Devices(_) | Delivery::MayWatch { .. } => {
                    unreachable!("nobody asks for that");
                }
                Delivery::People(list) => assert!(list.changed, "nobody has asked for all"),
                Delivery::Event { rev, .. } => {
                    // Events that were on their way when it asked for a page again.
                    if it.live {
                        assert_eq!(rev, it.last.next(), "{it:?}");
                        it.last = rev;
                    }
                }
                Delivery::Page { entries, head, live, .. } => {
                    assert!(it.parts.is_empty(), "a snapshot ends before pages go on");
                    for (rev, _) in &entries {
                        assert_eq!(*rev, it.last.next(), "{it:?}");
                        it.last = *rev;
                    }
                    assert_eq!(live, it.last == head);
                    it.live = live;
                    if !live {
                        self.sync(device);
                    }
                }
                Delivery::Note { note: Note::Typing(typing), .. } => {
                    assert_ne!(typing.user, it.user, "nobody is told of oneself");
                    if let Some((low, high)) = typing.conversation.users() {
                        let both = [typing.user, it.user];
                        assert!(both.contains(&low) && both.contains(&high), "{typing:?} for {it:?}");
                    }
                }
                Delivery::Note { note: Note::Receipt(_, mark), .. } => {
                    assert_ne!(mark.user, it.user, "of one's own marks the inbox tells");
                }
                // What they say was written down.
                Delivery::Receipts(_) => {}
                Delivery::Gap { from, to, .. } => {
                    if it.live {
                        assert_eq!(from, it.last.next());
                        assert!(to >= from, "a gap has at least one entry");
                        it.live = false;
                        self.sync(device);
                    }
                }
                Delivery::Accepted { client_id, message_id, seq, .. } => {
                    let sent =
                        it.sent.iter_mut().find(|sent| sent.client_id == client_id).expect("it sent that");
                    if let Some(before) = sent.accepted {
                        assert_eq!(before, (message_id, seq), "the same answer for ever");
                    }
                    sent.accepted = Some((message_id, seq));
                }
                Delivery::Rejected { client_id: Some(client_id), why, .. } => {
                    let sent = it.sent.iter().find(|sent| sent.client_id == client_id).expect("it sent that");
                    match why {
                        Refusal::StorageFailed | Refusal::StorageFull => {}
                        Refusal::ClientIdExpired => {
                            if let Some((message_id, _)) = sent.accepted {
                                let age_ms = self.now_ms.saturating_sub(message_id.timestamp_ms());
                                assert!(age_ms > 7 * DAY_MS, "{age_ms} ms is not old");
                            }
                        }
                        Refusal::Blocked => {
                            assert!(self.blocked.contains(&sent.conversation), "{sent:?}");
                            assert_eq!(sent.accepted, None, "what was accepted is not refused later");
                        }
                        Refusal::NotAllowed | Refusal::UnknownMessage
                            if matches!(sent.act, Act::Edit { .. } | Act::Delete { .. }) =>
                        {
                            assert_eq!(sent.accepted, None, "what was accepted is not refused later");
                        }
                        Refusal::NotAllowed
                        | Refusal::UnknownConversation
                        | Refusal::UnknownMember
                        | Refusal::UnknownMessage
                        | Refusal::AlreadyMembers => {
                            assert!(sent.conversation.users().is_none(), "{why:?}: {sent:?}");
                            assert_eq!(sent.accepted, None, "what was accepted is not refused later");
                        }
                        other => panic!("{other:?}"),
                    }
                }
                // Writing or reading in a group that one is not in, reading what nobody has said, a disk that fails, too
                // many questions.
                Delivery::Rejected {
                    client_id: None,
                    why:
                        Refusal::UnknownConversation
                        | Refusal::UnknownMessage
                        | Refusal::StorageFailed
                        | Refusal::StorageFull
                        | Refusal::Overloaded,
                    ..
                } => {}
                Delivery::Rejected { client_id: None, why, .. } => panic!("{why:?}"),
                Delivery::Snapshot(part) => {
                    assert!(it.number > 1, "{it:?} wants every entry");
                    if it.parts_rev != part.rev {
                        it.parts.clear();
                    }
                    it.parts_rev = part.rev;
                    it.parts.extend(part.conversations);
                    if part.end {
                        assert!(part.rev >= it.last);
                        it.last = part.rev;
                        let parts = std::mem::take(&mut it.parts);
                        self.lists.push((it.user, part.rev, parts, true));
                    }
                    self.sync(device);
                }
                Delivery::Conversations(list) => {
                    let is_whole = list.end;
                    it.listed = true;
                    self.lists.push((it.user, list.rev, list.conversations, is_whole));
                }
                Delivery::Group(_) => panic!("nobody has asked for one"),
                // While its database is closed; it comes back by another connection.
                Delivery::NoPage { why: Refusal::StorageFailed, .. } => self.disconnect(device),
                Delivery::NoPage { why, .. } => panic!("no page: {why:?}"),
                Delivery::History(_) => panic!("nobody has asked for one"),
                Delivery::Presence(_) | Delivery::PresenceMissed => panic!("no shard has asked"),
            }
        }
    }

    /// Marks of direct conversations, in which everybody stays. An answer may wait for its lane while others are told
    /// more; but no session hears less than it has heard, and nobody less than anybody had heard before a crash.
    fn note_mark(
        &mut self,
        session: SessionAddress,
        is_answer: bool,
        conversation: ConversationId,
        mark: Receipt,
    ) {
        let Receipt { user, read, delivered } = mark;
        let Some((low, high)) = conversation.users() else { return };
        assert!(
            delivered >= read,
            "{user} has read {conversation} up to {read}, it has arrived up to {delivered}"
        );
        assert!(user == low || user == high, "{user} has read {conversation}");
        let kept = self.kept_marks.get(&(conversation, user)).copied().unwrap_or_default();
        let heard = self.heard_marks.entry((session, is_answer, conversation, user)).or_default();
        let before = kept.max(*heard);
        assert!(read >= before, "{user} had read {conversation} up to {before}, now {read}");
        *heard = read;
        let told = self.marks.entry((conversation, user)).or_default();
        *told = read.max(*told);
    }

    /// Writes down what was said, whoever heard it.
    fn note(&mut self, delivery: &Delivery) {
        let it = &self.devices[self.owners[&address_of(delivery)]];
        let user = it.user;
        match delivery {
            Delivery::Event { rev, entry, .. } => self.note_entry(user, *rev, entry),
            Delivery::Page { entries, .. } => {
                for (rev, entry) in entries {
                    self.note_entry(user, *rev, entry);
                }
            }
            Delivery::Accepted { client_id, message_id, seq, .. } => {
                let sent = it.sent.iter().find(|sent| sent.client_id == *client_id).expect("it sent that");
                let told = (*message_id, client_id.clone());
                let before = self.accepted.insert((sent.conversation, *seq), told.clone());
                assert!(before.is_none_or(|before| before == told), "one seq, one message");
            }
            Delivery::Note { note: Note::Receipt(conversation, mark), .. } => {
                self.note_mark(address_of(delivery), false, *conversation, *mark);
            }
            Delivery::Receipts(receipts) => {
                for &mark in &receipts.members {
                    self.note_mark(receipts.session, true, receipts.conversation, mark);
                }
            }
            _ => {}
        }
    }

    fn note_entry(&mut self, user: UserId, rev: Rev, entry: &Bytes) {
        let before = self.seen.get(&(user, rev));
        let is_expired = before.is_some() && before != Some(entry) && expired(entry).is_some();
        if is_expired {
            let before = before.and_then(message_of).expect("only messages expire");
            self.assert_old(&before);
            return;
        }
        // A page may have waited for its lane while others were told that it is gone.
        if let Some(before) = before.and_then(expired) {
            let now = message_of(entry).expect("only messages expire");
            assert_eq!(
                (before.conversation, before.seq, before.ordinal),
                (now.conversation, now.seq, now.ordinal)
            );
        } else {
            assert!(
                before.is_none_or(|before| before == entry),
                "{user:?} {rev:?} was something else before"
            );
        }
        self.seen.insert((user, rev), entry.clone());
    }

    /// A message is old enough to be gone.
    fn assert_old(&self, message: &chat::Message) {
        let conversation: ConversationId = message.conversation.parse().expect("a conversation");
        let of_group = (self.groups_keep && conversation.users().is_none()).then_some(DAY_MS);
        let all = Some(self.limits.retention_ms).filter(|&all| all > 0);
        let kept_ms = [of_group, all].into_iter().flatten().min().expect("something is kept for a time only");
        let age_ms = self.latest_ms.saturating_sub(MessageId(message.message_id).timestamp_ms());
        assert!(age_ms >= kept_ms, "{message:?} is gone, {age_ms} ms old");
        let kind = kind_of(message);
        assert!(
            matches!(kind, body::Kind::Text(_) | body::Kind::Edited(_) | body::Kind::Deleted(_)),
            "{kind:?} is never gone"
        );
    }

    /// Lets everything happen that is due, without faults of its own.
    fn run_until_idle(&mut self) {
        for _ in 0..2_000 {
            for worker in 0..self.workers.len() {
                self.turn(worker, usize::MAX);
            }
            let queued = self.queues.iter().chain(&self.world.peers).any(|queue| !queue.is_empty());
            if queued || self.workers.iter().any(Worker::has_work) {
                continue;
            }
            match self.workers.iter().filter_map(|worker| worker.due_in_ms(self.now_ms)).min() {
                // What comes only every hour is not waited for.
                Some(ms) if self.is_sound() && ms < 600_000 => self.now_ms += ms.max(1),
                _ => return,
            }
        }
        assert!(!self.is_sound(), "a sound system comes to rest");
    }

    fn is_sound(&self) -> bool {
        self.world.full_lanes == 0
            && self.world.full_queues == 0
            && self.workers.iter().all(|worker| worker.health() == Health::Good)
    }

    /// Repairs everything, lets every device get what it misses, and compares.
    pub(crate) fn settle_and_check(&mut self) {
        self.planned = None;
        self.settling = true;
        self.world.full_lanes = 0;
        self.world.full_queues = 0;
        for worker in &mut self.workers {
            worker.store_mut().free_space();
        }
        self.step(Step::Crash);
        // One device of each user at a time: more than the limit would be refused.
        for wanted in 1..=DEVICES {
            for device in 0..self.devices.len() {
                self.disconnect(device);
            }
            self.run_until_idle();
            for device in 0..self.devices.len() {
                if self.devices[device].number == wanted {
                    self.connect(device, false);
                    for which in 0..self.devices[device].sent.len() {
                        if self.devices[device].sent[which].accepted.is_none() {
                            self.submit_message(device, which);
                        }
                    }
                }
            }
            for device in 0..self.devices.len() {
                if self.devices[device].number == wanted {
                    self.list(device);
                }
            }
            self.run_until_idle();
            assert!(self.is_sound(), "{:?}", self.workers.iter().map(Worker::health).collect::<Vec<_>>());
            for it in self.devices.iter().filter(|it| it.number == wanted) {
                assert!(it.live, "{it:?} is live in the end");
                assert!(it.listed, "{it:?} has got the list that it asked for");
            }
        }
        self.check_inboxes();
        let mut checker = Checker::new(Arc::clone(&self.assignment), self.queues.len() as u16);
        for (database, worker) in (0..).zip(&self.workers) {
            checker.database(database, worker.store()).expect("the memory engine can be read");
        }
        let report = checker.report();
        assert!(report.problems.is_empty(), "{:#?}", report.problems);
        assert_eq!(report.waiting_intents, 0);
        if self.limits.retention_ms > 0 {
            self.check_all_goes();
        }
    }

    /// When nobody writes any more, nothing is left in the end but what has happened to groups.
    fn check_all_goes(&mut self) {
        self.now_ms = self.now_ms.max(self.latest_ms) + 30 * DAY_MS;
        self.run_until_idle();
        let mut checker = Checker::new(Arc::clone(&self.assignment), self.queues.len() as u16);
        for (database, worker) in (0..).zip(&self.workers) {
            let store = worker.store();
            checker.database(database, store).expect("the memory engine can be read");
            for table in [Table::Messages, Table::Copies] {
                let visit = &mut |_: &[u8], value: Bytes| {
                    let message = message_of(&value.slice(5..)).expect("messages are messages");
                    let kind = kind_of(&message);
                    let stays =
                        !matches!(kind, body::Kind::Text(_) | body::Kind::Edited(_) | body::Kind::Deleted(_));
                    assert!(stays, "{message:?} is still in {table:?}");
                    Visit::More
                };
                store.scan(table, &[], &[0xff; 25], visit).expect("the memory engine can be read");
            }
            for table in [Table::Hidden, Table::Amended] {
                let left = store.last(table, &[], &[0xff; 33]).expect("the memory engine can be read");
                assert!(left.is_none(), "{left:?} is still in {table:?}");
            }
        }
        let report = checker.report();
        assert!(report.problems.is_empty(), "{:#?}", report.problems);
    }

    /// Each inbox, as devices saw it, against what devices sent and what they were told.
    fn check_inboxes(&self) {
        // Somebody gets each event, so all inboxes together are the logs of all conversations.
        let mut logs: BTreeMap<ConversationId, BTreeMap<Seq, chat::Message>> = BTreeMap::new();
        let mut got: BTreeMap<(UserId, ConversationId), Vec<Seq>> = BTreeMap::new();
        let mut reads: Vec<(UserId, chat::ReadMark)> = Vec::new();
        for user in (1..=USERS).map(UserId) {
            let head =
                self.devices.iter().filter(|it| it.user == user).map(|it| it.last).max().unwrap_or_default();
            assert!(!self.seen.contains_key(&(user, head.next())), "nobody saw more than there is");
            for rev in (1..=head.0).map(Rev) {
                let entry = self.seen.get(&(user, rev)).expect("every device has everything");
                let entry = chat::Entry::decode(entry.as_ref()).expect("an entry");
                let message = match entry.kind {
                    Some(chat::entry::Kind::Message(message)) => message,
                    Some(chat::entry::Kind::Read(mark)) => {
                        reads.push((user, mark));
                        continue;
                    }
                    None => panic!("{user:?} {rev:?} is empty"),
                };
                let conversation: ConversationId = message.conversation.parse().expect("a conversation");
                let seq = Seq(message.seq);
                got.entry((user, conversation)).or_default().push(seq);
                let log = logs.entry(conversation).or_default();
                let is_expired = |message: &chat::Message| matches!(kind_of(message), body::Kind::Expired(_));
                match log.get(&seq) {
                    Some(before) if is_expired(&message) => {
                        assert_eq!(before.ordinal, message.ordinal, "the same for everybody");
                    }
                    before => {
                        let same = before.is_none_or(|before| is_expired(before) || *before == message);
                        assert!(same, "the same for everybody");
                        log.insert(seq, message);
                    }
                }
            }
        }
        for (&conversation, log) in &logs {
            let mut members: BTreeSet<UserId> =
                conversation.users().into_iter().flat_map(|(a, b)| [a, b]).collect();
            let mut expected: BTreeMap<UserId, Vec<Seq>> = BTreeMap::new();
            let mut once = BTreeSet::new();
            let mut last = Seq(0);
            let mut ordinal = 0;
            for (&seq, message) in log {
                assert_eq!(seq, last.next(), "without holes");
                last = seq;
                if matches!(kind_of(message), body::Kind::Expired(_)) {
                    let was = ordinal..=ordinal + 1;
                    ordinal = message.ordinal.expect("it tells");
                    assert!(was.contains(&ordinal), "{message:?}");
                    if let Some((message_id, _)) = self.accepted.get(&(conversation, seq)) {
                        let body = Some(chat::Body { kind: Some(body::Kind::Text(String::new())) });
                        self.assert_old(&chat::Message { message_id: message_id.0, body, ..message.clone() });
                    }
                    self.expect(conversation, seq, message, &members, &got, &mut expected);
                    continue;
                }
                ordinal += u64::from(matches!(kind_of(message), body::Kind::Text(_)));
                assert_eq!(message.ordinal, Some(ordinal), "{message:?}");
                let name = (message.sender, message.device.clone(), message.client_id.clone());
                assert!(once.insert(name), "{message:?} twice");
                self.check_sent(conversation, seq, message);
                let users = recipients(&mut members, message);
                self.expect(conversation, seq, message, &users, &got, &mut expected);
            }
            for user in (1..=USERS).map(UserId) {
                let got = got.get(&(user, conversation));
                assert_eq!(got, expected.get(&user), "user {user} in {conversation}");
            }
        }
        self.check_reads(&logs, &reads);
        self.check_lists();
        for place in self.accepted.keys() {
            let log = logs.get(&place.0);
            assert!(log.is_some_and(|log| log.contains_key(&place.1)), "{place:?} was confirmed and is lost");
        }
        let mut places: BTreeMap<MessageId, (ConversationId, Seq)> = BTreeMap::new();
        for (&place, (message_id, _)) in &self.accepted {
            assert_eq!(places.insert(*message_id, place), None, "one id, one message");
        }
    }

    /// These users must have got this.
    fn expect(
        &self,
        conversation: ConversationId,
        seq: Seq,
        message: &chat::Message,
        users: &BTreeSet<UserId>,
        got: &BTreeMap<(UserId, ConversationId), Vec<Seq>>,
        expected: &mut BTreeMap<UserId, Vec<Seq>>,
    ) {
        for &user in users {
            // What was written while somebody was blocked: its sender has it in any case.
            let is_hidden = self.blocked.contains(&conversation)
                && user.0 != message.sender
                && !got.get(&(user, conversation)).is_some_and(|got| got.contains(&seq));
            if !is_hidden {
                expected.entry(user).or_default().push(seq);
            }
        }
    }

    /// Every list that somebody was told, from whatever moment, against the entries up to that moment.
    fn check_lists(&self) {
        for (user, rev, told, is_whole) in &self.lists {
            let entries = (1..=rev.0).map(|rev| {
                let entry = &self.seen[&(*user, Rev(rev))];
                (Rev(rev), chat::Entry::decode(entry.as_ref()).expect("an entry"))
            });
            lists::compare(*user, told, *is_whole, &lists::expected(*user, entries));
        }
    }

    /// What inboxes tell of their users' own marks: what was read is there, and of direct conversations, in which
    /// everybody stays, nothing is missing and nothing goes back.
    fn check_reads(
        &self,
        logs: &BTreeMap<ConversationId, BTreeMap<Seq, chat::Message>>,
        reads: &[(UserId, chat::ReadMark)],
    ) {
        let mut last: BTreeMap<(ConversationId, UserId), Seq> = BTreeMap::new();
        for (user, mark) in reads {
            let conversation: ConversationId = mark.conversation.parse().expect("a conversation");
            let read = logs.get(&conversation).and_then(|log| log.get(&Seq(mark.up_to)));
            assert_eq!(read.and_then(|message| message.ordinal), Some(mark.ordinal), "{mark:?}");
            let before = last.insert((conversation, *user), Seq(mark.up_to)).unwrap_or_default();
            assert!(conversation.users().is_none() || Seq(mark.up_to) > before, "{mark:?} after {before}");
        }
        for (&(conversation, user), &told) in &self.marks {
            let last = last.get(&(conversation, user)).copied().unwrap_or_default();
            assert!(last >= told, "{user} was told of {told} in {conversation}, the inbox of {last}");
        }
    }

    /// An event is what its sender sent, and what its sender was told of it.
    fn check_sent(&self, conversation: ConversationId, seq: Seq, message: &chat::Message) {
        let sent =
            self.devices.iter().filter(|it| it.user.0 == message.sender && name_of(it.id) == message.device);
        let sent = sent
            .flat_map(|it| &it.sent)
            .find(|sent| sent.client_id.as_slice() == message.client_id.as_bytes());
        let sent = sent.expect("somebody sent it");
        assert_eq!(sent.conversation, conversation);
        assert!(is_event_of(&sent.act, message), "{message:?} came of {:?}", sent.act);
        let id = MessageId(message.message_id);
        if let Some(told) = sent.accepted {
            assert_eq!(told, (id, seq));
        }
        if let Some((told, _)) = self.accepted.get(&(conversation, seq)) {
            assert_eq!(*told, id);
        }
    }
}

fn message_of(entry: &Bytes) -> Option<chat::Message> {
    match chat::Entry::decode(entry.as_ref()).expect("an entry").kind {
        Some(chat::entry::Kind::Message(message)) => Some(message),
        _ => None,
    }
}

/// The message, if it says that it is gone.
fn expired(entry: &Bytes) -> Option<chat::Message> {
    message_of(entry).filter(|message| matches!(kind_of(message), body::Kind::Expired(_)))
}

fn kind_of(message: &chat::Message) -> &body::Kind {
    message.body.as_ref().and_then(|body| body.kind.as_ref()).expect("every event has a body")
}

fn say(text: String) -> Act {
    let body = chat::Body { kind: Some(body::Kind::Text(text)) };
    Act::Say { body: body.encode_to_vec().into(), reply_to: None }
}

/// Who must get an event, which may change who is in the group.
fn recipients(members: &mut BTreeSet<UserId>, message: &chat::Message) -> BTreeSet<UserId> {
    let kind = kind_of(message);
    let sender = UserId(message.sender);
    let mut get = members.clone();
    match kind {
        body::Kind::GroupCreated(created) => {
            members.insert(sender);
            members.extend(created.members.iter().map(|&user| UserId(user)));
            get.clone_from(members);
        }
        body::Kind::MembersAdded(added) => {
            members.extend(added.users.iter().map(|&user| UserId(user)));
            get.clone_from(members);
        }
        body::Kind::MemberRemoved(removed) => {
            assert!(members.remove(&UserId(removed.user)), "who is removed was in it: {message:?}");
        }
        body::Kind::MemberLeft(_) => assert!(members.remove(&sender), "who leaves was in it: {message:?}"),
        _ => {}
    }
    assert!(get.contains(&sender), "whoever acts is in the conversation: {message:?}");
    get
}

fn is_event_of(act: &Act, message: &chat::Message) -> bool {
    let body = message.body.as_ref().expect("every event has a body");
    let kind = body.kind.as_ref().expect("every body says something");
    match (act, kind) {
        (Act::Say { body: said, .. }, _) => *said == body.encode_to_vec(),
        (Act::Edit { seq, content }, body::Kind::Edited(edited)) => {
            edited.seq == seq.0 && edited.content.as_ref().is_some_and(|it| it.encode_to_vec() == *content)
        }
        (Act::Delete { seq }, body::Kind::Deleted(deleted)) => deleted.seq == seq.0,
        (Act::Group(change), kind) => match (change, kind) {
            (GroupChange::Create { title, .. }, body::Kind::GroupCreated(created)) => created.title == *title,
            (GroupChange::Add(users), body::Kind::MembersAdded(added)) => {
                added.users.iter().all(|&user| users.contains(&UserId(user)))
            }
            (GroupChange::Remove(user), body::Kind::MemberRemoved(removed)) => removed.user == user.0,
            (GroupChange::Rename(title), body::Kind::Renamed(renamed)) => renamed.title == *title,
            (GroupChange::SetRole(user, role), body::Kind::RoleSet(set)) => {
                set.user == user.0 && set.role == i32::from(*role)
            }
            (GroupChange::Keep { days }, body::Kind::RetentionSet(set)) => set.days == *days,
            (GroupChange::Leave, body::Kind::MemberLeft(_)) => true,
            _ => false,
        },
        _ => false,
    }
}

fn name_of(device: DeviceId) -> String {
    (1..=DEVICES)
        .map(|number| format!("device-{number}"))
        .find(|name| DeviceId::from_name(name) == device)
        .expect("one of ours")
}

fn address_of(delivery: &Delivery) -> SessionAddress {
    delivery.session().expect("no shard has asked for presence")
}
