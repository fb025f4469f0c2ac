//! Carries commands to the workers that own their keys.
//!
//! Here the links are bounded queues of this process. A router never blocks and never drops: a command that a full
//! queue does not take comes back to its sender, which stops reading where it came from.
//!
//! Invariant: the epochs that a router goes by only grow, and every owner of its assignment has a link.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::assignment::{Assignment, Epoch, WorkerId};
use crate::queue::Link;
use crate::slice::{Key, SLICES, SliceId};

/// A command on its way, with the version of the assignment by which it was routed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope<C> {
    /// The slice of its key.
    pub slice: SliceId,
    /// The assignment by which the sender chose the worker; a worker refuses another one than its own.
    pub epoch: Epoch,
    /// What to do.
    pub command: C,
}

/// Carries commands to the worker that owns their key; cheap to clone, one per sending thread.
#[derive(Debug)]
pub struct Router<C> {
    assignment: Arc<ArcSwap<Assignment>>,
    links: Arc<[Link<C>]>,
}

impl<C> Clone for Router<C> {
    fn clone(&self) -> Self {
        Self { assignment: Arc::clone(&self.assignment), links: Arc::clone(&self.links) }
    }
}

impl<C> Router<C> {
    /// A router over in-process links: `links[w]` leads to worker `w`.
    ///
    /// # Panics
    /// When a slice belongs to a worker without a link.
    #[must_use]
    pub fn new(assignment: Assignment, links: Vec<Link<C>>) -> Self {
        if let Some(worker) = without_link(&assignment, links.len()) {
            panic!("worker {worker} owns slices, but there are only {} links", links.len());
        }
        Self { assignment: Arc::new(ArcSwap::from_pointee(assignment)), links: links.into() }
    }

    /// Sends a command to the worker that owns its key. Never blocks.
    ///
    /// # Errors
    /// Gives the command back when the worker's queue is full, or the worker is gone.
    pub fn send(&self, key: Key, command: C) -> Result<(), RouteError<C>> {
        self.send_to_slice(key.slice(), command)
    }

    /// The worker that owns a key at the moment.
    #[must_use]
    pub fn owner(&self, key: Key) -> WorkerId {
        self.assignment.load().owner(key.slice())
    }

    /// Sends a command to the worker that owns a slice. Never blocks.
    ///
    /// # Errors
    /// Gives the command back when the worker's queue is full, or the worker is gone.
    ///
    /// # Panics
    /// When there is no such slice.
    pub fn send_to_slice(&self, slice: SliceId, command: C) -> Result<(), RouteError<C>> {
        assert!(slice.0 < SLICES, "slices are numbered 0..{SLICES}, there is no {slice}");
        let (worker, envelope) = self.address(slice, command);
        self.link(worker).try_send(envelope).map_err(|error| refused(worker, error))
    }

    /// Sends a command to the worker that owns a key, and lets it sleep: [`Self::ring`] for that worker after the last
    /// one. Never blocks.
    ///
    /// # Errors
    /// Gives the command back when the worker's queue is full, or the worker is gone.
    pub fn queue(&self, key: Key, command: C) -> Result<WorkerId, RouteError<C>> {
        let (worker, envelope) = self.address(key.slice(), command);
        self.link(worker).queue(envelope).map_err(|error| refused(worker, error))?;
        Ok(worker)
    }

    /// Wakes a worker, if it sleeps, for what was put into its queue.
    pub fn ring(&self, worker: WorkerId) {
        self.link(worker).ring();
    }

    fn address(&self, slice: SliceId, command: C) -> (WorkerId, Envelope<C>) {
        let assignment = self.assignment.load();
        (assignment.owner(slice), Envelope { slice, epoch: assignment.epoch(), command })
    }

    fn link(&self, worker: WorkerId) -> &Link<C> {
        &self.links[usize::from(worker.0)]
    }

    /// The assignment that commands are routed by at the moment.
    #[must_use]
    pub fn assignment(&self) -> Arc<Assignment> {
        self.assignment.load_full()
    }

    /// Routes by another assignment from now on, in this router and all its clones. Commands that are on their way
    /// carry the epoch that they were routed by; their worker decides.
    ///
    /// # Errors
    /// When its epoch is not greater than the present one, or it names a worker that has no link.
    pub fn swap(&self, next: Assignment) -> Result<(), SwapError> {
        if let Some(worker) = without_link(&next, self.links.len()) {
            return Err(SwapError::NoLink { worker, links: self.links.len() });
        }
        let next = Arc::new(next);
        let mut refused = None;
        // Two may swap at the same time: the greater epoch must win whoever comes last.
        self.assignment.rcu(|present| {
            if next.epoch() > present.epoch() {
                refused = None;
                Arc::clone(&next)
            } else {
                refused = Some(SwapError::OldEpoch { epoch: next.epoch(), present: present.epoch() });
                Arc::clone(present)
            }
        });
        refused.map_or(Ok(()), Err)
    }
}

fn refused<C>(worker: WorkerId, error: flume::TrySendError<Envelope<C>>) -> RouteError<C> {
    match error {
        flume::TrySendError::Full(Envelope { command, .. }) => RouteError::Full { worker, command },
        flume::TrySendError::Disconnected(Envelope { command, .. }) => {
            RouteError::Stopped { worker, command }
        }
    }
}

/// The first owner that there is no link to.
fn without_link(assignment: &Assignment, links: usize) -> Option<WorkerId> {
    assignment.owners().iter().copied().find(|worker| usize::from(worker.0) >= links)
}

/// Why a command was not taken; it comes back.
#[derive(Debug, thiserror::Error)]
pub enum RouteError<C> {
    /// The worker's queue is full: stop reading where the command came from, and try again later.
    #[error("the queue of worker {worker} is full")]
    Full {
        /// Whose queue.
        worker: WorkerId,
        /// The command.
        command: C,
    },
    /// The worker has stopped.
    #[error("worker {worker} has stopped")]
    Stopped {
        /// Which.
        worker: WorkerId,
        /// The command.
        command: C,
    },
}

impl<C> RouteError<C> {
    /// The command that was not taken.
    pub fn into_command(self) -> C {
        match self {
            Self::Full { command, .. } | Self::Stopped { command, .. } => command,
        }
    }
}

/// Why an assignment was not taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SwapError {
    /// It is older than what is known already, or as old.
    #[error("the assignment has epoch {epoch}, but the router already goes by epoch {present}")]
    OldEpoch {
        /// The one that was offered.
        epoch: Epoch,
        /// The one that stays.
        present: Epoch,
    },
    /// It gives slices to a worker that cannot be reached.
    #[error("the assignment gives slices to worker {worker}, but there are only {links} links")]
    NoLink {
        /// The first such worker.
        worker: WorkerId,
        /// How many links there are.
        links: usize,
    },
}

#[cfg(test)]
mod tests {
    use holdfast_protocol::id::UserId;

    use super::*;
    use crate::queue::{Bell, Queue, links};

    fn queues<C>(workers: u16, queue_commands: usize) -> (Vec<Link<C>>, Vec<Queue<C>>) {
        links(&Bell::several(workers), queue_commands)
    }

    fn workers(count: u16) -> Vec<WorkerId> {
        (0..count).map(WorkerId).collect()
    }

    fn key(user: u64) -> Key {
        Key::User(UserId(user))
    }

    #[test]
    fn a_command_reaches_the_owner_of_its_key_and_says_by_which_epoch() {
        let (senders, receivers) = queues(4, 1_000);
        let router = Router::new(Assignment::new(&workers(4)), senders);
        for user in 1..=1_000 {
            router.clone().send(key(user), user).expect("there is room");
        }
        let mut received = 0;
        for (worker, receiver) in receivers.iter().enumerate() {
            for envelope in receiver.drain() {
                assert_eq!(envelope.slice, key(envelope.command).slice());
                assert_eq!(usize::from(router.assignment().owner(envelope.slice).0), worker);
                assert_eq!(envelope.epoch, Epoch(1));
                received += 1;
            }
        }
        assert_eq!(received, 1_000);
    }

    #[test]
    fn a_full_queue_gives_the_command_back_and_takes_it_later() {
        let (senders, receivers) = queues(1, 2);
        let router = Router::new(Assignment::new(&workers(1)), senders);
        assert!(router.send(key(1), "one").is_ok());
        assert!(router.send(key(1), "two").is_ok());
        let error = router.send(key(1), "three").expect_err("there is room for two");
        assert!(matches!(error, RouteError::Full { worker: WorkerId(0), .. }));
        assert_eq!(error.to_string(), "the queue of worker 0 is full");
        assert_eq!(receivers[0].pop().expect("queued").command, "one");
        assert!(router.send(key(1), error.into_command()).is_ok());
        assert_eq!(
            receivers[0].drain().map(|envelope| envelope.command).collect::<Vec<_>>(),
            ["two", "three"]
        );
    }

    #[test]
    fn a_stopped_worker_gives_the_command_back() {
        let (senders, receivers) = queues(1, 2);
        let router = Router::new(Assignment::new(&workers(1)), senders);
        drop(receivers);
        let error = router.send(key(1), "one").expect_err("nobody receives");
        assert!(matches!(error, RouteError::Stopped { worker: WorkerId(0), command: "one" }));
    }

    #[test]
    fn a_swap_holds_for_all_clones_and_never_goes_back() {
        let (senders, receivers) = queues(2, 10);
        let first = Assignment::new(&workers(1));
        let router = Router::new(first.clone(), senders);
        let clone = router.clone();
        let second = first.rebalance(&[WorkerId(1)]);
        assert_eq!(router.swap(second.clone()), Ok(()));
        clone.send(key(1), ()).expect("there is room");
        assert_eq!(receivers[1].pop().expect("sent").epoch, Epoch(2));

        for old in [first, second.clone()] {
            let (epoch, present) = (old.epoch(), Epoch(2));
            assert_eq!(router.swap(old), Err(SwapError::OldEpoch { epoch, present }));
        }
        let unreachable = second.rebalance(&workers(3));
        assert_eq!(router.swap(unreachable), Err(SwapError::NoLink { worker: WorkerId(2), links: 2 }));
        assert_eq!(*router.assignment(), second);
    }

    #[test]
    fn of_swaps_at_the_same_time_the_greatest_epoch_stays() {
        let mut assignments = vec![Assignment::new(&workers(2))];
        for count in [1, 2].into_iter().cycle().take(200) {
            let last: &Assignment = assignments.last().expect("there is a first");
            assignments.push(last.rebalance(&workers(count)));
        }
        let (senders, _receivers) = queues::<()>(2, 1);
        let router = Router::new(assignments[0].clone(), senders);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (router, assignments) = (router.clone(), &assignments);
                scope.spawn(move || {
                    let mut seen = router.assignment().epoch();
                    for next in assignments.iter().skip(1 + thread).step_by(4) {
                        let _ = router.swap(next.clone());
                        let now = router.assignment().epoch();
                        assert!(now >= seen && now >= next.epoch());
                        seen = now;
                    }
                });
            }
        });
        assert_eq!(router.assignment().epoch(), Epoch(201));
    }

    #[test]
    #[should_panic(expected = "worker 1 owns slices, but there are only 1 links")]
    fn an_owner_without_a_link_is_an_error_of_the_program() {
        let (senders, _receivers) = queues::<()>(1, 1);
        let _ = Router::new(Assignment::new(&workers(2)), senders);
    }
}
