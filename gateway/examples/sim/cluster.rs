//! The workers of a simulated node: real state machines on the in-memory store, without threads.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use holdfast_gateway::backend::Backend;
use holdfast_reactor::sim::{Chance, Random};
use holdfast_router::{Assignment, Envelope, Key, WorkerId};
use holdfast_storage::Limits;
use holdfast_storage::command::{Command, Delivery};
use holdfast_storage::engine::memory::Memory;
use holdfast_storage::worker::{Effects, Identity, Worker};

const WORKERS: u16 = 2;
/// Small, so that full queues and lanes happen.
const QUEUE: usize = 24;
const LANE: usize = 48;

/// The workers, and what is on its way to and from them.
pub(crate) struct Cluster {
    assignment: Arc<Assignment>,
    workers: Vec<Worker<Memory>>,
    wires: Wires,
    random: Random,
    /// Queues that say that they are full for no reason of their own.
    pub(crate) moody: Chance,
    /// Commands that workers have handled, and deliveries that the shard has.
    pub(crate) messages: u64,
}

struct Wires {
    assignment: Arc<Assignment>,
    queues: Vec<VecDeque<Envelope<Command>>>,
    lane: VecDeque<Delivery>,
}

impl Cluster {
    pub(crate) fn new(random: Random, seed: u64) -> Self {
        let ids: Vec<WorkerId> = (0..WORKERS).map(WorkerId).collect();
        let assignment = Arc::new(Assignment::new(&ids));
        let workers = (0..WORKERS)
            .map(|number| {
                let identity = Identity {
                    number,
                    assignment: Arc::clone(&assignment),
                    workers: WORKERS,
                    limits: Limits { page_entries: 7, retry_ms: 20, ..Limits::default() },
                };
                let store = Memory::new(seed ^ u64::from(number));
                Worker::open(identity, store).expect("an empty store can be read")
            })
            .collect();
        let queues = (0..WORKERS).map(|_| VecDeque::new()).collect();
        let wires = Wires { assignment: Arc::clone(&assignment), queues, lane: VecDeque::new() };
        Self { assignment, workers, wires, random, moody: Chance::percent(2), messages: 0 }
    }

    /// Lets each worker take a turn, or not, as the seed has it.
    pub(crate) fn step(&mut self, now_ms: u64, eager: bool) {
        for number in 0..self.workers.len() {
            if !eager && self.random.happens(Chance::percent(40)) {
                continue;
            }
            let waiting = self.wires.queues[number].len() as u64;
            let take = if eager { waiting } else { self.random.below(waiting + 1) } as usize;
            let mut commands: Vec<_> = self.wires.queues[number].drain(..take).collect();
            self.messages += commands.len() as u64;
            self.workers[number].handle_batch(now_ms, &mut commands, &mut self.wires);
        }
    }

    /// What waits where, for the message of a failure.
    pub(crate) fn describe(&self, now_ms: u64) -> String {
        let queues: Vec<usize> = self.wires.queues.iter().map(VecDeque::len).collect();
        let due: Vec<_> =
            self.workers.iter().map(|worker| (worker.has_work(), worker.due_in_ms(now_ms))).collect();
        format!("queues {queues:?}, lane {}, workers (work, due in ms) {due:?}", self.wires.lane.len())
    }

    /// Sessions that the workers know of.
    pub(crate) fn sessions(&self) -> usize {
        self.workers.iter().map(Worker::sessions).sum()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.wires.lane.is_empty()
            && self.wires.queues.iter().all(VecDeque::is_empty)
            && self.workers.iter().all(|worker| !worker.has_work())
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
        if queue.len() >= QUEUE || cluster.random.happens(cluster.moody) {
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
