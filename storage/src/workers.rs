//! The threads: one per database, each with its queue.
//!
//! A thread takes what has arrived (bounded in number and bytes), turns its worker, and does what came out; while fsync
//! runs, the next batch arrives: that is all there is to group commit. Each thread has two queues: one from the shards,
//! and one from the other workers, which the fan-out protocol bounds, and which is served also while sends must wait.
//!
//! A panic on a worker's thread ends the process: half a store lies.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use holdfast_router::{Bell, Envelope, Link, Queue, Router, SliceId};

use crate::command::{Command, Deliver, Delivery};
use crate::directory::{Directory, Missing};
use crate::engine::StoreError;
use crate::engine::fjall::{Config, Fjall};
use crate::error::StorageError;
use crate::options::Options;
use crate::stats::{Counters, Stats};
use crate::worker::{Effects, Health, Identity, Worker};

/// A store that is open: its directory locked, its number of databases known, nothing running yet.
#[derive(Debug)]
pub struct Workers {
    options: Options,
    directory: Directory,
}

impl Workers {
    /// Opens the directory, or makes it.
    ///
    /// # Errors
    /// [`StorageError`] says which file and what to do.
    pub fn open(options: Options) -> Result<Self, StorageError> {
        options.validate()?;
        let databases = options.databases.unwrap_or_else(default_databases);
        let directory = Directory::open(&options.directory, Missing::Make(databases))?;
        Ok(Self { options, directory })
    }

    /// How many databases the directory has: how many workers there will be.
    #[must_use]
    pub fn databases(&self) -> u16 {
        self.directory.databases()
    }

    /// Starts one thread per database; `delivers[w]` becomes worker `w`'s way to the shards. Returns as soon as the
    /// databases are open; [`Running::ready`] turns true when every recorded intent has been replayed. Commands
    /// may be sent at once: they wait in the queues until then.
    ///
    /// # Errors
    /// [`StorageError`] says which database and why.
    pub fn start(mut self, delivers: Vec<Box<dyn Deliver + Send>>) -> Result<Running, StorageError> {
        let workers = self.databases();
        if delivers.len() != usize::from(workers) {
            return Err(StorageError::Deliverers { databases: workers, given: delivers.len() });
        }
        let assignment = Arc::new(self.directory.assignment().clone());
        let bells = Bell::several(workers);
        let (links, queues) = holdfast_router::links(&bells, self.options.queue_commands);
        // Per other worker: its window of entries, our confirmations of them, a greeting; twice, because a source that
        // is asked to send again forgets what is on its way. And a stop. That is half of the queue: the other half is
        // all that [`Effects::suggest`] may fill.
        let per_peer = 2 * (2 * self.options.limits.fan_out_window as usize + 1);
        let peer_commands = 2 * (per_peer * usize::from(workers) + 1);
        let (peer_links, peer_queues) = holdfast_router::links(&bells, peer_commands);
        let mut running = Running {
            router: Router::new(assignment.as_ref().clone(), links.clone()),
            shared: Arc::default(),
            links,
            peer_links,
            threads: Vec::new(),
            directory: None,
        };
        let shared: Arc<[Shared]> = (0..workers).map(|_| Shared::default()).collect();
        running.shared = Arc::clone(&shared);
        let (opened, openings) = flume::bounded(usize::from(workers));
        let inputs = delivers.into_iter().zip(queues).zip(peer_queues).zip(bells);
        for (number, (((deliver, queue), peers), bell)) in (0..).zip(inputs) {
            let identity = Identity {
                number,
                assignment: Arc::clone(&assignment),
                workers,
                limits: self.options.limits.clone(),
            };
            let config = Config {
                path: self.directory.database(number),
                cache_bytes: self.options.cache_bytes / u64::from(workers),
                reserve_bytes: self.options.reserve_bytes,
            };
            let effects = ThreadEffects {
                deliver,
                links: running.peer_links.clone(),
                slice: SliceId(0),
                epoch: assignment.epoch(),
            };
            let options = self.options.clone();
            let (opened, shared) = (opened.clone(), Arc::clone(&shared));
            let run = move || {
                let _abort = AbortOnPanic;
                let counters = Arc::clone(&shared[usize::from(number)].counters);
                let worker =
                    Fjall::open(config).and_then(|store| Worker::open_counted(identity, store, counters));
                let worker = match worker {
                    Ok(worker) => worker,
                    Err(error) => {
                        let _ = opened.send((number, Err(error)));
                        return Ok(());
                    }
                };
                let _ = opened.send((number, Ok(())));
                drop(opened);
                let shared = Arc::clone(&shared);
                Thread { worker, effects, queue, peers, bell, options, number, shared }.run()
            };
            let spawned = std::thread::Builder::new().name(format!("worker-{number}")).spawn(run);
            running
                .threads
                .push(spawned.map_err(|source| StorageError::Thread { database: number, source })?);
        }
        drop(opened);
        let mut failed = None;
        for (database, result) in &openings {
            if let Err(source) = result {
                failed.get_or_insert((database, source));
            }
        }
        if let Some((database, source)) = failed {
            return Err(StorageError::Database { database, path: self.directory.path().into(), source });
        }
        self.directory.finish()?;
        running.directory = Some(self.directory);
        Ok(running)
    }
}

/// One per core that this process may use, 2 to 16.
fn default_databases() -> u16 {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    cores.clamp(2, 16) as u16
}

/// Workers that run. Dropping it stops them as [`Running::stop`] does.
pub struct Running {
    router: Router<Command>,
    shared: Arc<[Shared]>,
    links: Vec<Link<Command>>,
    peer_links: Vec<Link<Command>>,
    threads: Vec<JoinHandle<Result<(), StoreError>>>,
    /// Locked until the last thread has stopped.
    directory: Option<Directory>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("workers", &self.threads.len()).finish_non_exhaustive()
    }
}

/// What a worker's thread lets others see.
#[derive(Debug, Default)]
struct Shared {
    counters: Arc<Counters>,
    readiness: AtomicU8,
}

/// Whether the store does its work; a cheap copy for `/readyz`.
#[derive(Debug, Clone)]
pub struct ReadyHandle {
    shared: Arc<[Shared]>,
}

/// Whether the store does its work, from bad to good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readiness {
    /// A durable write failed: sends are refused until the process is restarted.
    Failed,
    /// Intents from before the last stop are being applied; no new send is taken yet.
    Replaying,
    /// A disk is full: sends are refused, reads go on; it recovers by itself.
    Full,
    /// Yes.
    Ready,
}

impl Readiness {
    const ALL: [Self; 4] = [Self::Replaying, Self::Ready, Self::Full, Self::Failed];

    fn number(self) -> u8 {
        Self::ALL.iter().position(|&one| one == self).map_or(0, |at| at as u8)
    }
}

impl ReadyHandle {
    /// The worst of all workers.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let of = |shared: &Shared| Readiness::ALL[usize::from(shared.readiness.load(Ordering::Acquire))];
        self.shared.iter().map(of).min().unwrap_or(Readiness::Replaying)
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
        ReadyHandle { shared: Arc::clone(&self.shared) }
    }

    /// What the workers have done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats_handle().stats()
    }

    /// A handle to the same that can be asked from any thread.
    #[must_use]
    pub fn stats_handle(&self) -> StatsHandle {
        StatsHandle { shared: Arc::clone(&self.shared), links: self.links.clone() }
    }

    /// Finishes what is in the queues, makes it durable, and waits for the threads.
    ///
    /// # Errors
    /// When the last write of a database failed.
    pub fn stop(mut self) -> Result<(), StorageError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), StorageError> {
        for link in &self.peer_links {
            let epoch = self.router.assignment().epoch();
            // A thread that has stopped already does not take it.
            let _ = link.send(Envelope { slice: SliceId(0), epoch, command: Command::Stop });
        }
        let mut failed = None;
        for (number, thread) in (0..).zip(self.threads.drain(..)) {
            // A panic has ended the process already.
            if let Ok(Err(source)) = thread.join() {
                failed.get_or_insert((number, source));
            }
        }
        match (failed, self.directory.take()) {
            (Some((database, source)), directory) => {
                let path = directory.map_or_else(Default::default, |directory| directory.path().into());
                Err(StorageError::Database { database, path, source })
            }
            (None, _) => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.join() {
            tracing::error!(%error, "stopping the store");
        }
    }
}

/// Reads the workers' counters.
#[derive(Debug, Clone)]
pub struct StatsHandle {
    shared: Arc<[Shared]>,
    links: Vec<Link<Command>>,
}

impl StatsHandle {
    /// What the workers have done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let of = |(shared, link): (&Shared, &Link<Command>)| {
            let mut stats = shared.counters.read();
            stats.queued = link.len() as u64;
            stats
        };
        Stats { workers: self.shared.iter().zip(&self.links).map(of).collect() }
    }
}

struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

struct ThreadEffects {
    deliver: Box<dyn Deliver + Send>,
    links: Vec<Link<Command>>,
    slice: SliceId,
    epoch: holdfast_router::Epoch,
}

impl Effects for ThreadEffects {
    fn deliver(&mut self, shard: u16, delivery: Delivery) -> Result<(), Delivery> {
        self.deliver.deliver(shard, delivery)
    }

    fn offer(&mut self, shard: u16, delivery: Delivery) -> bool {
        self.deliver.offer(shard, delivery)
    }

    fn flush(&mut self) {
        self.deliver.flush();
    }

    fn send(&mut self, worker: u16, command: Command) -> Result<(), Command> {
        let Some(link) = self.links.get(usize::from(worker)) else { return Err(command) };
        let envelope = Envelope { slice: self.slice, epoch: self.epoch, command };
        link.try_send(envelope).map_err(|error| error.into_inner().command)
    }

    fn suggest(&mut self, worker: u16, command: Command) {
        if self.links.get(usize::from(worker)).is_some_and(Link::is_half_free) {
            // It has just become full: nobody waits for this.
            let _ = self.send(worker, command);
        }
    }
}

struct Thread {
    worker: Worker<Fjall>,
    effects: ThreadEffects,
    /// From the shards.
    queue: Queue<Command>,
    peers: Queue<Command>,
    /// Rung by both.
    bell: Arc<Bell>,
    options: Options,
    number: u16,
    shared: Arc<[Shared]>,
}

impl Thread {
    fn run(mut self) -> Result<(), StoreError> {
        let mut commands = Vec::new();
        let mut began = now();
        // The first turn greets the other workers.
        self.turn(&mut commands);
        loop {
            if !self.worker.has_work() {
                self.wait();
            }
            self.pace(began);
            began = now();
            self.take(&mut commands);
            let stop = commands.iter().any(|envelope| matches!(envelope.command, Command::Stop));
            self.turn(&mut commands);
            if stop {
                return self.finish(&mut commands);
            }
        }
    }

    fn turn(&mut self, commands: &mut Vec<Envelope<Command>>) {
        self.worker.handle_batch(self.options.clock.now_ms(), commands, &mut self.effects);
        let readiness = match self.worker.health() {
            Health::Failed => Readiness::Failed,
            Health::Full => Readiness::Full,
            Health::Good if self.worker.is_replayed() => Readiness::Ready,
            Health::Good => Readiness::Replaying,
        };
        self.shared[usize::from(self.number)].readiness.store(readiness.number(), Ordering::Release);
    }

    /// Waits for a command, or until something is due.
    fn wait(&self) {
        let due = self.worker.due_in_ms(self.options.clock.now_ms()).map(Duration::from_millis);
        let takes_sends = self.worker.is_replayed();
        self.bell.wait(due, || self.peers.is_empty() && (!takes_sends || self.queue.is_empty()));
    }

    /// Turns are at least `commit_interval` apart: what arrives meanwhile shares one fsync, and those who are told of it
    /// are woken once. What is more than one turn takes does not wait.
    #[allow(clippy::disallowed_methods, reason = "what it would be woken for is what is to be gathered")]
    fn pace(&self, began: Instant) {
        let left = self.options.commit_interval.saturating_sub(now().duration_since(began));
        if !left.is_zero() && self.queue.len() < self.options.batch_commands {
            std::thread::sleep(left);
        }
    }

    /// Takes what has arrived, as much as one turn may.
    fn take(&self, commands: &mut Vec<Envelope<Command>>) {
        commands.extend(self.peers.drain());
        if !self.worker.is_replayed() {
            return;
        }
        let most = commands.len() + self.options.batch_commands;
        let mut bytes: usize = commands.iter().map(body_bytes).sum();
        while commands.len() < most && bytes < self.options.batch_bytes {
            let Some(envelope) = self.queue.pop() else { break };
            bytes += body_bytes(&envelope);
            commands.push(envelope);
        }
    }

    fn finish(&mut self, commands: &mut Vec<Envelope<Command>>) -> Result<(), StoreError> {
        // What was in the queue when the stop came; nobody sends any more, or has no claim to be heard.
        let mut left = self.queue.len();
        while left > 0 && self.worker.is_replayed() {
            self.take(commands);
            if commands.is_empty() {
                break;
            }
            left = left.saturating_sub(commands.len());
            self.turn(commands);
        }
        self.worker.finish(self.options.clock.now_ms())
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "it paces the thread; what a worker decides does not depend on it"
)]
fn now() -> Instant {
    Instant::now()
}

fn body_bytes(envelope: &Envelope<Command>) -> usize {
    match &envelope.command {
        Command::Send(message) => message.act.bytes(),
        _ => 0,
    }
}
