//! The workers of a simulated node: real state machines on the in-memory store, without threads, on disks that fail.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use holdfast_gateway::backend::Backend;
use holdfast_reactor::sim::{Chance, Random};
use holdfast_router::{Assignment, Envelope, Key, WorkerId};
use holdfast_storage::Limits;
use holdfast_storage::check::Checker;
use holdfast_storage::command::{Command, Delivery};
use holdfast_storage::engine::memory::{Fault, Memory};
use holdfast_storage::worker::{Effects, Health, Identity, Worker};

/// Small, so that full queues and lanes happen.
const QUEUE: usize = 24;
const LANE: usize = 48;

/// What the machine and its disks do to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The power goes while nothing is being written.
    PowerCut,
    /// The power goes after a batch was written and before it was synced: it is lost, or there, or torn.
    PowerCutBeforeSync,
    /// The power goes after a batch was synced and before anybody heard of it.
    PowerCutAfterSync,
    /// fsync returns EIO. Nothing but a restart helps.
    SyncFailed,
    /// There is no room on a disk for a while.
    DiskFull,
    /// The same, and the database does not open at the first attempt afterwards.
    DiskFullAndShut,
}

impl Trouble {
    pub(crate) const ALL: [Self; 6] = [
        Self::PowerCut,
        Self::PowerCutBeforeSync,
        Self::PowerCutAfterSync,
        Self::SyncFailed,
        Self::DiskFull,
        Self::DiskFullAndShut,
    ];

    fn of(fault: Fault) -> Self {
        match fault {
            Fault::CrashBeforeSync => Self::PowerCutBeforeSync,
            Fault::CrashAfterSync => Self::PowerCutAfterSync,
            Fault::SyncFails => Self::SyncFailed,
            Fault::Full => Self::DiskFull,
            Fault::FullAndShut => Self::DiskFullAndShut,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// How often each kind has happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TroubleCounts([u64; Trouble::ALL.len()]);

impl TroubleCounts {
    fn add(&mut self, trouble: Trouble) {
        self.0[trouble as usize] += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count += more);
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(crate) fn power_cuts(&self) -> u64 {
        self.0[..=Trouble::PowerCutAfterSync as usize].iter().sum()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Trouble, u64)> + '_ {
        Trouble::ALL.into_iter().zip(self.0)
    }
}

/// The workers, and what is on its way to and from them.
pub(crate) struct Cluster {
    assignment: Arc<Assignment>,
    limits: Limits,
    workers: Vec<Worker<Memory>>,
    /// What is going to go wrong with each worker's next batch.
    armed: Vec<Option<Fault>>,
    wires: Wires,
    random: Random,
    /// Queues that say that they are full for no reason of their own.
    pub(crate) moody: Chance,
    /// Commands that workers have handled, and deliveries that the shard has.
    pub(crate) messages: u64,
    pub(crate) troubles: TroubleCounts,
    /// How often something goes wrong, per turn of a worker that has something to do.
    pub(crate) unlucky: Chance,
    /// How often still, lest nobody ever gets anywhere.
    misfortunes_left: u64,
    /// The power goes at the end of this step.
    is_cut: bool,
}

struct Wires {
    assignment: Arc<Assignment>,
    queues: Vec<VecDeque<Envelope<Command>>>,
    lane: VecDeque<Delivery>,
}

impl Cluster {
    pub(crate) fn new(mut random: Random, seed: u64) -> Self {
        let count = 1 + random.below(3) as u16;
        let ids: Vec<WorkerId> = (0..count).map(WorkerId).collect();
        let assignment = Arc::new(Assignment::new(&ids));
        let limits = Limits {
            page_entries: 7,
            page_bytes: 16 << 10,
            retry_ms: 20,
            fan_out_window: 2,
            fold_entries: 1 + random.below(7),
            snapshot_after: [12, 40, 10_000][random.below(3) as usize],
            // Hardly ever more than one wish per turn, or all of them.
            turn_page_bytes: [300, 1 << 20][random.below(2) as usize],
            ..Limits::default()
        };
        let queues = (0..count).map(|_| VecDeque::new()).collect();
        let wires = Wires { assignment: Arc::clone(&assignment), queues, lane: VecDeque::new() };
        let unlucky = Chance::per_million([2_000, 7_000, 20_000][random.below(3) as usize]);
        let misfortunes_left = 2 + random.below(10);
        let mut cluster = Self {
            assignment,
            limits,
            workers: Vec::new(),
            armed: vec![None; usize::from(count)],
            wires,
            random,
            moody: Chance::percent(2),
            messages: 0,
            troubles: TroubleCounts::default(),
            unlucky,
            misfortunes_left,
            is_cut: false,
        };
        cluster.open((0..count).map(|number| Memory::new(seed ^ u64::from(number))).collect());
        cluster
    }

    fn open(&mut self, stores: Vec<Memory>) {
        self.workers = (0..)
            .zip(stores)
            .map(|(number, store)| {
                let identity = Identity {
                    number,
                    assignment: Arc::clone(&self.assignment),
                    workers: self.armed.len() as u16,
                    limits: self.limits.clone(),
                };
                Worker::open(identity, store).expect("the engine in memory reads what it wrote")
            })
            .collect();
    }

    /// Lets each worker take a turn, or not, as the seed has it. False when the power has gone.
    pub(crate) fn step(&mut self, now_ms: u64, eager: bool) -> bool {
        for number in 0..self.workers.len() {
            if !eager && self.random.happens(Chance::percent(40)) {
                continue;
            }
            // Where nothing happens nothing goes wrong either: peers that wait for long must get on at some time.
            let has_work = !self.wires.queues[number].is_empty();
            if has_work && self.misfortunes_left > 0 && self.random.happens(self.unlucky) {
                self.misfortunes_left -= 1;
                self.misfortune(number);
            }
            let worker = &mut self.workers[number];
            // Shards wait until it has replayed; other workers do not.
            let waiting = self.wires.queues[number].len() as u64;
            let take = if eager { waiting } else { self.random.below(waiting + 1) } as usize;
            let mut commands: Vec<_> = self.wires.queues[number].drain(..take).collect();
            self.messages += commands.len() as u64;
            let before = worker.health();
            worker.handle_batch(now_ms, &mut commands, &mut self.wires);
            if worker.store().has_crashed() {
                self.troubles.add(self.armed[number].map_or(Trouble::PowerCut, Trouble::of));
                return false;
            }
            if before == Health::Good
                && worker.health() != Health::Good
                && let Some(fault) = self.armed[number].take()
            {
                self.troubles.add(Trouble::of(fault));
            }
            if worker.health() == Health::Full && self.random.happens(Chance::percent(4)) {
                worker.store_mut().free_space();
            }
            // Whoever runs it notices, and starts it again.
            if worker.health() == Health::Failed && self.random.happens(Chance::percent(2)) {
                self.troubles.add(Trouble::PowerCut);
                return false;
            }
        }
        if std::mem::take(&mut self.is_cut) {
            self.troubles.add(Trouble::PowerCut);
            return false;
        }
        true
    }

    fn misfortune(&mut self, number: usize) {
        let fault = match self.random.below(9) {
            0 => {
                self.is_cut = true;
                return;
            }
            1 | 2 => Fault::CrashBeforeSync,
            3 | 4 => Fault::CrashAfterSync,
            5 => Fault::SyncFails,
            6 | 7 => Fault::Full,
            _ => Fault::FullAndShut,
        };
        self.armed[number] = Some(fault);
        self.workers[number].store_mut().arm(fault);
    }

    /// The power goes at the end of the next step, should it not have gone yet.
    pub(crate) fn cut_soon(&mut self) {
        self.is_cut = true;
    }

    /// The machine has stopped, and starts again with what its disks have kept.
    pub(crate) fn restart(&mut self) {
        let stores = self.workers.drain(..).map(|worker| worker.into_store().crash()).collect();
        self.armed.fill(None);
        self.is_cut = false;
        self.wires.queues.iter_mut().for_each(VecDeque::clear);
        self.wires.lane.clear();
        self.open(stores);
    }

    /// From here on disks are sound. False when one has failed so that only a restart helps.
    pub(crate) fn heal(&mut self) -> bool {
        self.moody = Chance::NEVER;
        self.unlucky = Chance::NEVER;
        self.is_cut = false;
        // What was armed and has not struck is forgotten with a restart.
        let is_armed = self.armed.iter().any(Option::is_some);
        self.workers.iter_mut().for_each(|worker| worker.store_mut().free_space());
        !is_armed && self.workers.iter().all(|worker| worker.health() != Health::Failed)
    }

    /// Whether every worker does its work.
    pub(crate) fn takes_writes(&self) -> bool {
        self.workers.iter().all(|worker| worker.health() == Health::Good && worker.is_replayed())
    }

    /// What is wrong with the databases.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut checker = Checker::new(Arc::clone(&self.assignment), self.workers.len() as u16);
        for (number, worker) in (0..).zip(&self.workers) {
            checker.database(number, worker.store()).expect("the engine in memory can be read");
        }
        let report = checker.report();
        let mut problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
        if report.waiting_intents > 0 {
            problems.push(format!("{} intents wait", report.waiting_intents));
        }
        problems
    }

    /// What waits where, for the message of a failure.
    pub(crate) fn describe(&self, now_ms: u64) -> String {
        let queues: Vec<usize> = self.wires.queues.iter().map(VecDeque::len).collect();
        let due: Vec<_> = self
            .workers
            .iter()
            .map(|worker| (worker.health(), worker.has_work(), worker.due_in_ms(now_ms)))
            .collect();
        format!(
            "queues {queues:?}, lane {}, workers (health, work, due in ms) {due:?}",
            self.wires.lane.len()
        )
    }

    /// Sessions that the workers know of.
    pub(crate) fn sessions(&self) -> usize {
        self.workers.iter().map(Worker::sessions).sum()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.wires.lane.is_empty()
            && self.wires.queues.iter().all(VecDeque::is_empty)
            && self.workers.iter().all(|worker| worker.health() == Health::Good && !worker.has_work())
    }
}

impl Effects for Wires {
    fn deliver(&mut self, _shard: u16, delivery: Delivery) -> Result<(), Delivery> {
        if self.lane.len() >= LANE {
            return Err(delivery);
        }
        self.lane.push_back(delivery);
        Ok(())
    }

    fn flush(&mut self) {}

    fn send(&mut self, worker: u16, command: Command) -> Result<(), Command> {
        let queue = &mut self.queues[usize::from(worker)];
        if queue.len() >= 2 * QUEUE {
            return Err(command);
        }
        // Between workers the slice is not looked at; the epoch is.
        let slice = holdfast_router::SliceId(0);
        queue.push_back(Envelope { slice, epoch: self.assignment.epoch(), command });
        Ok(())
    }
}

/// The shard's side.
#[derive(Clone)]
pub(crate) struct SimBackend(pub(crate) Rc<RefCell<Cluster>>);

impl Backend for SimBackend {
    fn submit(&mut self, key: Key, command: Command) -> Result<(), Command> {
        let mut cluster = self.0.borrow_mut();
        let cluster = &mut *cluster;
        let slice = key.slice();
        let owner = usize::from(cluster.assignment.owner(slice).0);
        let queue = &mut cluster.wires.queues[owner];
        let replays = !cluster.workers[owner].is_replayed();
        if replays || queue.len() >= QUEUE || cluster.random.happens(cluster.moody) {
            return Err(command);
        }
        queue.push_back(Envelope { slice, epoch: cluster.assignment.epoch(), command });
        Ok(())
    }

    fn receive(&mut self, most: usize, deliveries: &mut Vec<Delivery>) -> bool {
        let cluster = &mut *self.0.borrow_mut();
        let lane = &mut cluster.wires.lane;
        let count = most.min(lane.len());
        cluster.messages += count as u64;
        deliveries.extend(lane.drain(..count));
        !lane.is_empty()
    }
}
