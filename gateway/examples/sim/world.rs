//! One seed: a machine with a shard and workers, the network, and peers, stepped until enough has happened; then peace.
//!
//! The machine loses its power now and then, with all connections and everything that was not synced, and starts again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use holdfast_gateway::api::HttpGate;
use holdfast_gateway::api::pipe;
use holdfast_gateway::directory::Directory;
use holdfast_gateway::metrics::ShardCounters;
use holdfast_gateway::session::{Rate, SessionRules, VerifyToken};
use holdfast_gateway::shard::{Control, Inputs, Shard, ShardRules, Shared};
use holdfast_gateway::token::{Claims, TokenError};
use holdfast_protocol::id::UserId;
use holdfast_protocol::ws::MessageLimits;
use holdfast_protocol::ws::handshake::HeadLimits;
use holdfast_reactor::sim::{Chance, Faults, Network, Random, SimDriver};
use holdfast_reactor::{Driver, DriverOptions};

use crate::cluster::{Cluster, SimBackend, TroubleCounts};
use crate::deed;
use crate::peer::{Kind, Peer};
use crate::survey::Survey;
use crate::truth::{Broken, Invariant, Truth, ensure};
use crate::verdict;
use crate::watch::Watched;

const USERS: u64 = 4;
const OUTPUT_BYTES: usize = 8 << 10;
/// The limit above is looked at once per receive, so what is asked for and not answered yet comes on top, and a page.
const MOST_UNSENT_BYTES: usize = OUTPUT_BYTES + (48 << 10);
const LINGER: Duration = Duration::from_secs(2);
/// How long books may disagree when nothing is on its way any more.
const AGREEMENT: Duration = Duration::from_secs(1);
/// 2026-01-01, as the simulated wall clock begins.
const WALL_MS: i64 = 1_767_225_600_000;

/// `USER.DEVICE` is a token: what is simulated is the shard, not the signature.
#[derive(Debug)]
struct PlainTokens;

impl VerifyToken for PlainTokens {
    fn verify(&self, token: &str, _now_seconds: u64) -> Result<Claims, TokenError> {
        let malformed = TokenError::Malformed("the simulation's tokens are USER.DEVICE");
        let (user, device) = token.split_once('.').ok_or(malformed)?;
        let user = UserId(user.parse().map_err(|_| malformed)?);
        Ok(Claims { user, device: Some(device.into()), issued_at: 0, expires_at: u64::MAX })
    }
}

/// What a power cut ends.
struct Machine {
    shard: Shard<Watched, SimBackend>,
    shared: Arc<Shared>,
    control: flume::Sender<Control>,
    counters: Arc<ShardCounters>,
}

impl Machine {
    fn start(network: &Network, cluster: &Rc<RefCell<Cluster>>) -> Self {
        let options = DriverOptions {
            receive_buffer_bytes: 2 << 10,
            receive_buffers: 4,
            connections: 64,
            send_buffer_bytes: None,
        };
        let mut driver = Watched::new(SimDriver::new(options, network), network);
        driver.listen_in_simulation();
        let (_, http_effects) = pipe::effects(driver.waker(), 1);
        let (control, control_receiver) = flume::unbounded();
        let inputs = Inputs {
            backend: SimBackend(Rc::clone(cluster)),
            http: HttpGate::closed(),
            http_effects,
            control: control_receiver,
        };
        let shared = Arc::new(Shared {
            connections: AtomicUsize::new(0),
            connection_limit: 32,
            memory_exhausted: AtomicBool::new(false),
            wall_offset_ms: AtomicI64::new(WALL_MS),
            directory: Directory::default(),
            tokens: Arc::new(PlainTokens),
        });
        let counters = Arc::new(ShardCounters::default());
        let shard = Shard::new(0, driver, inputs, rules(), Arc::clone(&shared), Arc::clone(&counters));
        Self { shard, shared, control, counters }
    }

    /// What the driver told, and frames in and out.
    fn events(&mut self) -> u64 {
        let frames = self.counters.frames_received.read() + self.counters.frames_sent.read();
        self.shard.driver().events + frames
    }
}

pub(crate) struct World {
    pub(crate) network: Network,
    machine: Machine,
    cluster: Rc<RefCell<Cluster>>,
    peers: Vec<Peer>,
    truth: Truth,
    random: Random,
    steps: u64,
    /// Events of the machine before its last power cut.
    past_events: u64,
    /// Peers that leave and stall all the time keep anything from happening.
    is_stuck: bool,
}

impl World {
    pub(crate) fn new(seed: u64, trace: bool) -> Self {
        let mut random = Random::new(seed);
        let faults = Faults::mixture(&mut random);
        let network = Network::new(random.bits(), faults);
        if trace {
            network.keep_trace(200);
        }
        network.set_window_bytes([512, 4 << 10, 64 << 10][random.below(3) as usize]);
        let cluster = Rc::new(RefCell::new(Cluster::new(random.fork(), seed)));
        let machine = Machine::start(&network, &cluster);
        let mut peers = Vec::new();
        for user in 1..=USERS {
            for device in 0..2 {
                peers.push(Peer::new(Kind::Chat { user, device }, &mut random));
            }
        }
        peers.push(Peer::new(Kind::Echo, &mut random));
        peers.push(Peer::new(Kind::Garbage, &mut random));
        Self {
            network,
            machine,
            cluster,
            peers,
            truth: Truth::default(),
            random,
            steps: 0,
            past_events: 0,
            is_stuck: false,
        }
    }

    /// What has happened: what the driver told, frames in and out, commands and deliveries. Not turns.
    pub(crate) fn events(&mut self) -> u64 {
        self.past_events + self.machine.events() + self.cluster.borrow().messages
    }

    pub(crate) fn troubles(&self) -> TroubleCounts {
        self.cluster.borrow().troubles
    }

    pub(crate) fn run(&mut self, events: u64, faults: u64) -> Result<(), Broken> {
        while self.events() < events
            || self.network.fault_counts().total() < faults
            || self.truth.messages() < 20
            || self.troubles().power_cuts() == 0
        {
            self.step()?;
            if self.events() >= events {
                // This seed's mixture leaves too much out to prove anything.
                // And should nobody get anywhere because of that, everybody is kind.
                self.is_stuck = self.truth.messages() < 20 && self.events() >= 2 * events;
                self.network.set_faults(if self.is_stuck { Faults::HARMLESS } else { Faults::UNKIND });
                if self.troubles().power_cuts() == 0 {
                    self.cluster.borrow_mut().cut_soon();
                }
            }
            ensure(Invariant::Progress, self.steps < 200_000, || {
                let messages = self.truth.messages();
                let peers: Vec<_> = self.peers.iter().map(Peer::describe).collect();
                let cluster = self.cluster.borrow().describe(0);
                format!("nothing moves any more: {messages} messages, {peers:?}, {cluster}")
            })?;
        }
        self.make_peace()?;
        self.go_away()
    }

    fn step(&mut self) -> Result<(), Broken> {
        self.steps += 1;
        for index in 0..self.peers.len() {
            let peer = &mut self.peers[index];
            if !peer.is_connected() {
                if self.random.happens(Chance::percent(30))
                    && let Some(socket) = self.network.dial()
                {
                    peer.connect(socket, None, false);
                }
                continue;
            }
            peer.step(&mut self.truth)?;
            if self.random.happens(Chance::percent(25)) {
                peer.act(USERS, &mut self.random, &mut self.truth);
            }
            if self.is_stuck {
                continue;
            }
            if self.random.happens(Chance::per_million(4_000)) {
                peer.leave(&mut self.random);
            }
            if self.random.happens(Chance::percent(1)) {
                peer.stall(Duration::from_millis(self.random.below(3_000)));
            }
        }
        self.turn(false)
    }

    /// The machine stops, with everything that is not on its disks, and starts again.
    fn cut_power(&mut self) {
        self.past_events += self.machine.events();
        self.network.cut_power();
        self.cluster.borrow_mut().restart();
        self.machine = Machine::start(&self.network, &self.cluster);
    }

    fn turn(&mut self, eager: bool) -> Result<(), Broken> {
        if !self.step_cluster(eager) {
            self.cut_power();
            return Ok(());
        }
        ensure(Invariant::Owed, self.turn_shard()?, || "the shard stopped by itself".to_owned())
    }

    /// One turn of the shard, and a look at what it left behind.
    fn turn_shard(&mut self) -> Result<bool, Broken> {
        let goes_on =
            self.machine.shard.turn().map_err(|error| Invariant::Driver.is_broken(error.to_string()))?;
        self.machine.shard.driver().verdict(MOST_UNSENT_BYTES, LINGER)?;
        let counted = self.machine.shared.connections.load(Ordering::Relaxed);
        let open = self.machine.shard.connections();
        ensure(Invariant::Accounts, counted == open, || {
            format!("the shard has {open} connections, the process counts {counted}")
        })?;
        Ok(goes_on)
    }

    /// Workers that have said something wake the shard, at once or a little later; a turn that was woken does not
    /// move the clock, so it must not happen in every turn.
    /// False when the power has gone.
    fn step_cluster(&mut self, eager: bool) -> bool {
        let now_ms = (WALL_MS as u64) + self.network.now().0 / 1_000_000;
        let has_power = self.cluster.borrow_mut().step(now_ms, eager);
        if !self.cluster.borrow().is_idle() && self.random.happens(Chance::percent(50)) {
            self.machine.shard.driver().waker().wake();
        }
        has_power
    }

    /// No more faults: everyone reads everything, and what was accepted must be there.
    fn make_peace(&mut self) -> Result<(), Broken> {
        self.network.set_faults(Faults::HARMLESS);
        let is_sound = self.cluster.borrow_mut().heal();
        if !is_sound {
            self.cut_power();
        }
        // Disks that were full are tried again in a moment.
        let mut turns = 0;
        while !self.cluster.borrow().takes_writes() {
            self.turn(true)?;
            turns += 1;
            ensure(Invariant::Owed, turns < 50_000, || self.cluster.borrow().describe(0))?;
        }
        // A fresh reader per user: what the inbox holds from its beginning.
        let mut readers: Vec<Peer> =
            (1..=USERS).map(|user| Peer::new(Kind::Chat { user, device: 9 }, &mut self.random)).collect();
        let mut round = 0u32;
        let mut disagreed_at = None;
        // Peers stall for seconds, and heartbeats of the dead take minutes.
        let patience = self.network.now().after(Duration::from_secs(600));
        loop {
            round += 1;
            for peer in self.peers.iter_mut().chain(&mut readers) {
                if peer.is_connected() {
                    peer.step(&mut self.truth)?;
                } else if peer.comes_back()
                    && let Some(socket) = self.network.dial()
                {
                    let is_reader = matches!(peer.kind, Kind::Chat { device: 9, .. });
                    peer.connect(socket, is_reader.then_some(0), true);
                }
            }
            self.turn(true)?;
            let now = self.network.now();
            let all = || self.peers.iter().chain(&readers);
            let is_idle = self.cluster.borrow().is_idle();
            if !is_idle || !all().all(|peer| peer.is_settled(&self.truth)) {
                disagreed_at = None;
            } else {
                let (here, there) =
                    (self.machine.counters.sessions.read(), self.cluster.borrow().sessions() as u64);
                if here == there {
                    // What nobody has seen yet may still be on its way.
                    match self.truth.is_complete(&heads(&readers)) {
                        Ok(()) => break,
                        Err(broken) if now >= patience || round >= 200_000 => return Err(broken),
                        Err(_) => continue,
                    }
                }
                let since = now.since(*disagreed_at.get_or_insert(now));
                ensure(Invariant::Accounts, since < AGREEMENT, || {
                    format!("the shard has {here} sessions, the workers know of {there}")
                })?;
            }
            ensure(Invariant::Owed, round < 200_000 && now < patience, || {
                let unsettled = all().filter(|peer| !peer.is_settled(&self.truth));
                let stuck: Vec<_> = unsettled.map(Peer::describe).collect();
                format!(
                    "still waiting in round {round}, {} ms left: {stuck:?}; {}",
                    patience.since(now).as_millis(),
                    self.cluster.borrow().describe(0)
                )
            })?;
        }
        self.look_around(&mut readers)?;
        verdict::is_right(&self.truth, USERS)?;
        // What was true then.
        self.truth.histories.clear();
        self.block_and_write(&mut readers)?;
        self.peers.extend(readers);
        verdict::is_right(&self.truth, USERS)?;
        let problems = self.cluster.borrow().problems();
        ensure(Invariant::Sound, problems.is_empty(), || problems.join("; "))
    }

    /// Readers ask for lists and histories, while nothing else happens.
    fn look_around(&mut self, readers: &mut [Peer]) -> Result<(), Broken> {
        readers.iter_mut().for_each(|reader| reader.survey = Some(Survey::default()));
        let is_done = |reader: &Peer| reader.survey.as_ref().is_none_or(Survey::is_done);
        self.turn_until(readers, |readers, _| readers.iter().all(is_done))
    }

    /// A block that everybody knows of lets nothing through, and one that was taken back everything.
    fn block_and_write(&mut self, readers: &mut [Peer]) -> Result<(), Broken> {
        let (ana, ben) = (1, 2);
        self.truth.blocked.insert(deed::name_of(&format!("@{ben}"), ana));
        readers[0].block(ben, true);
        readers[1].block(ana, false);
        let both_know = |blocks| {
            move |readers: &[Peer], _: &Truth| {
                readers[0].knows_block(ben, blocks) && readers[1].knows_block(ana, false)
            }
        };
        self.turn_until(readers, both_know(true))?;
        let before = readers[0].reached();
        let written = ["one", "two", "three"].map(|text| readers[1].write_to(ana, text, &mut self.truth));
        let is_settled = |readers: &[Peer], truth: &Truth| readers.iter().all(|it| it.is_settled(truth));
        self.turn_until(readers, |readers, truth| {
            is_settled(readers, truth) && written.iter().all(|name| truth.has(ben, ben, name))
        })?;
        let after = readers[0].reached();
        ensure(Invariant::Visible, before == after, || {
            format!("user {ana} blocks user {ben}, and went on from rev {before} to {after}")
        })?;
        readers[0].block(ben, false);
        self.turn_until(readers, both_know(false))?;
        let name = readers[1].write_to(ana, "four", &mut self.truth);
        self.turn_until(readers, |readers, truth| {
            is_settled(readers, truth) && truth.has(ana, ben, &name) && truth.has(ben, ben, &name)
        })
    }

    /// Goes on until it is so, and nothing is on its way.
    fn turn_until(
        &mut self,
        readers: &mut [Peer],
        is_so: impl Fn(&[Peer], &Truth) -> bool,
    ) -> Result<(), Broken> {
        let mut round = 0;
        loop {
            for peer in self.peers.iter_mut().chain(&mut *readers) {
                peer.step(&mut self.truth)?;
            }
            self.turn(true)?;
            if self.cluster.borrow().is_idle() && is_so(readers, &self.truth) {
                return Ok(());
            }
            round += 1;
            ensure(Invariant::Owed, round < 50_000, || {
                format!("in vain: {:?}", readers.iter().map(Peer::describe).collect::<Vec<_>>())
            })?;
        }
    }

    /// The shard drains, and nothing is left.
    fn go_away(&mut self) -> Result<(), Broken> {
        // Whoever is told must be able to hear it.
        self.machine
            .control
            .send(Control::Drain(Duration::from_secs(5)))
            .expect("the shard holds the other end");
        self.peers.iter_mut().for_each(Peer::may_be_ended);
        let mut turns = 0;
        loop {
            for peer in &mut self.peers {
                peer.step(&mut self.truth)?;
            }
            self.step_cluster(true);
            if !self.turn_shard()? {
                break;
            }
            turns += 1;
            ensure(Invariant::Deadlines, turns < 50_000, || "the drain does not end".to_owned())?;
        }
        self.step_cluster(true);
        let left = [
            ("connections in the shard", self.machine.shard.connections()),
            ("connections counted", self.machine.shared.connections.load(Ordering::Relaxed)),
            ("users in the directory", self.machine.shared.directory.users()),
            ("sessions counted", self.machine.counters.sessions.read() as usize),
            ("sessions with the workers", self.cluster.borrow().sessions()),
        ];
        ensure(Invariant::Empty, left.iter().all(|(_, count)| *count == 0), || format!("{left:?}"))
    }
}

/// The head of each reader's inbox.
fn heads(readers: &[Peer]) -> BTreeMap<u64, u64> {
    let head = |peer: &Peer| match peer.kind {
        Kind::Chat { user, .. } => Some((user, peer.head_rev)),
        _ => None,
    };
    readers.iter().filter_map(head).collect()
}

fn rules() -> ShardRules {
    let generous = Rate::new(100_000, Duration::from_secs(1), 100_000);
    ShardRules {
        session: SessionRules {
            heartbeat: Duration::from_secs(30),
            send: generous,
            send_per_second: 100_000,
            control: generous,
            body_bytes: 4 << 10,
            output_bytes: OUTPUT_BYTES,
            page_entries: 7,
            group_members: 500,
            history_messages: 200,
            watched_users: 500,
        },
        head: HeadLimits::default(),
        chat_messages: MessageLimits { frame_bytes: 16 << 10, message_bytes: 16 << 10, fragments: 16 },
        echo_messages: Some(MessageLimits { frame_bytes: 16 << 10, message_bytes: 16 << 10, fragments: 16 }),
        handshake: Duration::from_secs(10),
        login: Duration::from_secs(10),
        silent_heartbeats: 2.5,
        linger: LINGER,
        echo_output_bytes: OUTPUT_BYTES,
        retry_after_seconds: 1,
        allowed_origins: Vec::new(),
    }
}
