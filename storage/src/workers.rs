//! The threads: one per database, each with its queue.

use holdfast_router::Router;

use crate::command::{Command, Deliver};
use crate::error::StorageError;
use crate::options::Options;
use crate::stats::Stats;

/// A store that is open: its directory locked, its number of databases known, nothing running yet.
#[derive(Debug)]
pub struct Workers {
    databases: u16,
}

impl Workers {
    /// Opens the directory, or makes it.
    ///
    /// # Errors
    /// [`StorageError`] says which file and what to do.
    pub fn open(options: Options) -> Result<Self, StorageError> {
        options.validate()?;
        todo!()
    }

    /// How many databases the directory has: how many workers there will be.
    #[must_use]
    pub fn databases(&self) -> u16 {
        self.databases
    }

    /// Starts one thread per database; `delivers[w]` becomes worker `w`'s way to the shards. Returns as soon as the
    /// databases are open; [`Running::ready`] turns true when every recorded intent has been replayed. Commands
    /// may be sent at once: they wait in the queues until then.
    ///
    /// # Errors
    /// [`StorageError`] says which database and why.
    pub fn start(self, delivers: Vec<Box<dyn Deliver + Send>>) -> Result<Running, StorageError> {
        let _ = delivers;
        todo!()
    }
}

/// Workers that run. Dropping it without [`Running::stop`] stops them too, and waits.
#[derive(Debug)]
pub struct Running {
    router: Router<Command>,
}

/// Whether the store does its work; a cheap copy for `/readyz`.
#[derive(Debug, Clone)]
pub struct ReadyHandle {}

/// Whether the store does its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Yes.
    Ready,
    /// Intents from before the last stop are being applied; no new send is taken yet.
    Replaying,
    /// A disk is full: sends are refused, reads go on; it recovers by itself.
    Full,
    /// A durable write failed: sends are refused until the process is restarted.
    Failed,
}

impl ReadyHandle {
    /// The worst of all workers.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        todo!()
    }
}

impl Running {
    /// A way to send commands to the workers; clone it, one per sending thread.
    #[must_use]
    pub fn router(&self) -> Router<Command> {
        self.router.clone()
    }

    /// True when new sends are taken and kept.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.ready_handle().readiness() == Readiness::Ready
    }

    /// A handle that outlives this and can be asked from any thread.
    #[must_use]
    pub fn ready_handle(&self) -> ReadyHandle {
        todo!()
    }

    /// What the workers have done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        todo!()
    }

    /// Finishes what is in the queues, makes it durable, and waits for the threads.
    ///
    /// # Errors
    /// When the last write of a database failed.
    pub fn stop(self) -> Result<(), StorageError> {
        todo!()
    }
}
