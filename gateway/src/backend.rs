//! The seam between a shard and the workers: commands go out, deliveries come in, nothing blocks.

use holdfast_reactor::lane;
use holdfast_router::{Key, RouteError, Router};
use holdfast_storage::command::{Command, Deliver, Delivery};

/// How a shard reaches the workers.
pub trait Backend {
    /// Hands a command to the worker that owns the key.
    ///
    /// # Errors
    /// Gives the command back when it cannot be taken now; the shard stops reading its source and tries again.
    fn submit(&mut self, key: Key, command: Command) -> Result<(), Command>;

    /// Appends deliveries, at most about `most`; true when more wait.
    fn receive(&mut self, most: usize, deliveries: &mut Vec<Delivery>) -> bool;
}

/// Workers of this process: commands through the router, deliveries through one lane per worker.
#[derive(Debug)]
pub struct LocalBackend {
    router: Router<Command>,
    lanes: Vec<lane::Receiver<Delivery>>,
    next_lane: usize,
}

impl LocalBackend {
    /// A backend over these lanes, one per worker.
    #[must_use]
    pub fn new(router: Router<Command>, lanes: Vec<lane::Receiver<Delivery>>) -> Self {
        Self { router, lanes, next_lane: 0 }
    }
}

impl Backend for LocalBackend {
    fn submit(&mut self, key: Key, command: Command) -> Result<(), Command> {
        match self.router.send(key, command) {
            Ok(()) => Ok(()),
            Err(RouteError::Full { command, .. } | RouteError::Stopped { command, .. }) => Err(command),
        }
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

    fn flush(&mut self) {
        for lane in &mut self.lanes {
            lane.flush();
        }
    }
}
