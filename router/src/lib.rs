//! Who *owns* what: 1,024 slices of the key space, the workers that own them, and the epoch of that assignment.
//!
//! Never here: storage engines, sockets of clients.

#![forbid(unsafe_code)]

use std::sync::Arc;

use holdfast_protocol::id::{ConversationId, UserId};

/// Parts of the key space.
pub const SLICES: u16 = 1024;

/// One part of the key space: `0..SLICES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SliceId(pub u16);

/// A worker: a thread that owns slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u16);

/// The version of an assignment of slices to workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// What a command is about; decides who handles it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key {
    /// A conversation's worker.
    Conversation(ConversationId),
    /// A user's worker.
    User(UserId),
}

impl Key {
    /// The slice that this key belongs to; stable over versions (it is on disk).
    #[must_use]
    pub fn slice(self) -> SliceId {
        todo!()
    }
}

/// A command on its way, with the version of the assignment by which it was routed.
#[derive(Debug)]
pub struct Envelope<C> {
    /// The slice of its key.
    pub slice: SliceId,
    /// The assignment by which the sender chose the worker; a worker refuses another one than its own.
    pub epoch: Epoch,
    /// What to do.
    pub command: C,
}

/// Who owns which slice, at one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    epoch: Epoch,
    owners: Box<[WorkerId]>,
}

impl Assignment {
    /// The first assignment, at epoch 1.
    #[must_use]
    pub fn new(_workers: &[WorkerId]) -> Self {
        todo!()
    }

    /// The next assignment when workers came or went: sticky, capped, at the next epoch.
    #[must_use]
    pub fn rebalance(&self, _workers: &[WorkerId]) -> Self {
        todo!()
    }

    /// Its version.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Who owns a slice.
    #[must_use]
    pub fn owner(&self, slice: SliceId) -> WorkerId {
        self.owners[usize::from(slice.0)]
    }
}

/// Carries commands to the worker that owns their key; cheap to clone, one per sending thread.
#[derive(Debug)]
pub struct Router<C> {
    assignment: Arc<arc_swap::ArcSwap<Assignment>>,
    links: Arc<[flume::Sender<Envelope<C>>]>,
}

impl<C> Clone for Router<C> {
    fn clone(&self) -> Self {
        Self { assignment: Arc::clone(&self.assignment), links: Arc::clone(&self.links) }
    }
}

impl<C> Router<C> {
    /// A router over in-process links: `links[w]` leads to worker `w`.
    #[must_use]
    pub fn new(assignment: Assignment, links: Vec<flume::Sender<Envelope<C>>>) -> Self {
        Self { assignment: Arc::new(arc_swap::ArcSwap::from_pointee(assignment)), links: links.into() }
    }

    /// Sends a command to the worker that owns its key. Never blocks.
    ///
    /// # Errors
    /// Gives the command back when the worker's queue is full, or the worker is gone.
    pub fn send(&self, _key: Key, _command: C) -> Result<(), RouteError<C>> {
        todo!()
    }
}

/// Why a command was not taken; it comes back.
#[derive(Debug, thiserror::Error)]
pub enum RouteError<C> {
    /// The worker's queue is full: stop reading where the command came from, and try again later.
    #[error("the queue of worker {worker:?} is full")]
    Full {
        /// Whose queue.
        worker: WorkerId,
        /// The command.
        command: C,
    },
    /// The worker has stopped.
    #[error("worker {worker:?} has stopped")]
    Stopped {
        /// Which.
        worker: WorkerId,
        /// The command.
        command: C,
    },
}
