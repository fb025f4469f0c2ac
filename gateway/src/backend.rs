//! The seam between a shard and the workers: commands go out, deliveries come in, nothing blocks.

use std::collections::VecDeque;

use holdfast_reactor::lane;
use holdfast_router::{Key, RouteError, Router, WorkerId};
use holdfast_storage::command::{Command, Deliver, Delivery};

/// How a shard reaches the workers.
pub trait Backend {
    /// Hands a command to the worker that owns the key.
    ///
    /// # Errors
    /// Gives the command back when it cannot be taken now; the shard stops reading its source and tries again.
    fn submit(&mut self, key: Key, command: Command) -> Result<(), Command>;

    /// Called once per turn, after the last submission: what was gathered goes out. False when some of it could not,
    /// and must be tried again soon.
    fn flush(&mut self) -> bool {
        true
    }

    /// Appends deliveries, at most about `most`; true when more wait.
    fn receive(&mut self, most: usize, deliveries: &mut Vec<Delivery>) -> bool;
}

/// Commands for one worker that a shard gathers in a turn at most.
const GATHERED_COMMANDS: usize = 1024;

/// Workers of this process: commands through the router, deliveries through one lane per worker.
///
/// Commands of a turn are gathered and go out together: a worker that sleeps is woken once per turn, and not by the
/// first command only to find the next one missing. Each worker's are gathered apart, so that one which is full, or
/// still replays, holds up nobody else's.
#[derive(Debug)]
pub struct LocalBackend {
    router: Router<Command>,
    /// By worker.
    gathered: Vec<Gathered>,
    lanes: Vec<lane::Receiver<Delivery>>,
    next_lane: usize,
}

#[derive(Debug, Default)]
struct Gathered {
    commands: VecDeque<(Key, Command)>,
    /// The worker's queue was full in this turn; it is asked again in the next.
    is_refused: bool,
}

impl Gathered {
    /// Sends in order, as far as the worker has room, and wakes it once; true when nothing is left.
    fn send(&mut self, router: &Router<Command>) -> bool {
        let mut asleep = None;
        while let Some((key, command)) = self.commands.pop_front() {
            match router.queue(key, command) {
                // Always the same worker, but for a new assignment in between.
                Ok(worker) => {
                    if let Some(before) = asleep.replace(worker).filter(|&before| before != worker) {
                        router.ring(before);
                    }
                }
                Err(RouteError::Full { worker, command } | RouteError::Stopped { worker, command }) => {
                    self.commands.push_front((key, command));
                    self.is_refused = true;
                    // Whoever filled the queue may not have rung yet.
                    router.ring(worker);
                    break;
                }
            }
        }
        if let Some(worker) = asleep {
            router.ring(worker);
        }
        self.commands.is_empty()
    }
}

impl LocalBackend {
    /// A backend over these lanes, one per worker.
    #[must_use]
    pub fn new(router: Router<Command>, lanes: Vec<lane::Receiver<Delivery>>) -> Self {
        Self { router, gathered: Vec::new(), lanes, next_lane: 0 }
    }
}

impl Backend for LocalBackend {
    fn submit(&mut self, key: Key, command: Command) -> Result<(), Command> {
        let WorkerId(worker) = self.router.owner(key);
        let worker = usize::from(worker);
        if self.gathered.len() <= worker {
            self.gathered.resize_with(worker + 1, Gathered::default);
        }
        let gathered = &mut self.gathered[worker];
        let is_full = |gathered: &Gathered| gathered.commands.len() >= GATHERED_COMMANDS;
        if is_full(gathered) && !gathered.is_refused {
            gathered.send(&self.router);
        }
        if is_full(gathered) {
            return Err(command);
        }
        gathered.commands.push_back((key, command));
        Ok(())
    }

    fn flush(&mut self) -> bool {
        let mut is_all = true;
        for gathered in &mut self.gathered {
            is_all &= gathered.send(&self.router);
            gathered.is_refused = false;
        }
        is_all
    }

    fn receive(&mut self, most: usize, deliveries: &mut Vec<Delivery>) -> bool {
        let most = deliveries.len() + most;
        // Starts with another lane each time, so that a busy worker does not starve the others.
        for step in 0..self.lanes.len() {
            let lane = (self.next_lane + step) % self.lanes.len();
            while deliveries.len() < most {
                let Some(delivery) = self.lanes[lane].pop() else { break };
                deliveries.push(delivery);
            }
        }
        self.next_lane = (self.next_lane + 1) % self.lanes.len().max(1);
        self.lanes.iter().any(|lane| !lane.is_empty())
    }
}

/// The workers' side: one lane per shard. Belongs to one worker.
#[derive(Debug)]
pub struct ShardLanes {
    lanes: Vec<lane::Sender<Delivery>>,
}

impl ShardLanes {
    /// `lanes[s]` leads to shard `s`.
    #[must_use]
    pub fn new(lanes: Vec<lane::Sender<Delivery>>) -> Self {
        Self { lanes }
    }
}

impl Deliver for ShardLanes {
    fn deliver(&mut self, shard: u16, delivery: Delivery) -> Result<(), Delivery> {
        match self.lanes.get_mut(usize::from(shard)) {
            Some(lane) if !lane.is_abandoned() => lane.push(delivery),
            // The shard has stopped, so its sessions are gone and nobody waits for this.
            _ => Ok(()),
        }
    }

    fn offer(&mut self, shard: u16, delivery: Delivery) -> bool {
        match self.lanes.get(usize::from(shard)) {
            Some(lane) => lane.is_half_free() && self.deliver(shard, delivery).is_ok(),
            // A shard that there is not: nobody waits.
            None => true,
        }
    }

    fn flush(&mut self) {
        for lane in &mut self.lanes {
            lane.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_protocol::id::{DeviceId, UserId};
    use holdfast_reactor::Waker;
    use holdfast_router::{Assignment, Bell, Queue, links};
    use holdfast_storage::command::SessionAddress;

    use super::*;

    const WORKERS: u16 = 2;

    fn backend(queue_commands: usize) -> (LocalBackend, Vec<Queue<Command>>) {
        let (links, queues) = links(&Bell::several(WORKERS), queue_commands);
        let workers: Vec<_> = (0..WORKERS).map(WorkerId).collect();
        let assignment = Assignment::new(&workers);
        (LocalBackend::new(Router::new(assignment, links), Vec::new()), queues)
    }

    fn unregister(user: u64, connection: u64) -> (Key, Command) {
        let (user, session) = (UserId(user), SessionAddress { shard: 0, connection });
        (Key::User(user), Command::Unregister { user, device: DeviceId(1), session })
    }

    fn connections(queue: &Queue<Command>) -> Vec<u64> {
        let connection = |command| match command {
            Command::Unregister { session, .. } => session.connection,
            other => panic!("{other:?}"),
        };
        queue.drain().map(|envelope| connection(envelope.command)).collect()
    }

    #[test]
    fn commands_go_out_together_and_in_order() {
        let (mut backend, queues) = backend(8);
        for connection in 0..4 {
            let (key, command) = unregister(42, connection);
            backend.submit(key, command).unwrap();
        }
        assert!(queues.iter().all(|queue| queue.is_empty()));
        assert!(backend.flush());
        let all: Vec<Vec<u64>> = queues.iter().map(connections).collect();
        assert!(all.contains(&vec![0, 1, 2, 3]), "{all:?}");
    }

    #[test]
    fn a_full_worker_holds_up_its_own_commands_alone_and_keeps_their_order() {
        let (mut backend, queues) = backend(1);
        let of = |worker: u16| {
            (1..).find(|&user| backend.router.owner(Key::User(UserId(user))).0 == worker).unwrap()
        };
        let (one, other) = (of(0), of(1));
        for (user, connection) in [(one, 0), (one, 1), (other, 2), (one, 3)] {
            let (key, command) = unregister(user, connection);
            backend.submit(key, command).unwrap();
        }
        assert!(!backend.flush());
        assert_eq!(connections(&queues[1]), [2]);
        let mut arrived = Vec::new();
        for _ in 0..3 {
            arrived.extend(connections(&queues[0]));
            backend.flush();
        }
        arrived.extend(connections(&queues[0]));
        assert_eq!(arrived, [0, 1, 3]);
    }

    #[test]
    fn what_may_be_lost_leaves_half_of_the_lane_to_what_may_not() {
        let (sender, mut receiver) = lane::lane(4, Waker::never_sleeps());
        let mut lanes = ShardLanes::new(vec![sender]);
        let replaced = |connection| {
            let session = SessionAddress { shard: 0, connection };
            Delivery::Replaced { session }
        };
        let taken = (0..9).filter(|&connection| lanes.offer(0, replaced(connection))).count();
        assert_eq!(taken, 3);
        assert!(lanes.deliver(0, replaced(10)).is_ok());
        let arrived =
            std::iter::from_fn(|| receiver.pop()).map(|it| it.session().map(|it| it.connection).unwrap());
        assert_eq!(arrived.collect::<Vec<_>>(), [0, 1, 2, 10]);
        // A shard that there is not: nobody waits.
        lanes.offer(1, replaced(11));
    }

    #[test]
    fn what_is_gathered_has_a_limit() {
        let (mut backend, _queues) = backend(1);
        let owner = |backend: &LocalBackend, user| backend.router.owner(Key::User(UserId(user)));
        let taken = (0..10_000).take_while(|&connection| {
            let (key, command) = unregister(42, connection);
            backend.submit(key, command).is_ok()
        });
        assert_eq!(taken.count(), GATHERED_COMMANDS + 1);
        let elsewhere = (1..).find(|&user| owner(&backend, user) != owner(&backend, 42)).unwrap();
        let (key, command) = unregister(elsewhere, 1);
        backend.submit(key, command).expect("a full worker holds up its own commands alone");
    }
}
