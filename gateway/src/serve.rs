//! Puts the rooms together: workers, shards, HTTP; and takes them down in the right order.
//!
//! Start: shards make their drivers (a ring belongs to its thread) and hand out wakers; workers open the store and
//! replay; only then do the shards listen. Stop: shards drain, workers finish their queues and make them durable.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use holdfast_protocol::ws::MessageLimits;
use holdfast_protocol::ws::handshake::HeadLimits;
use holdfast_reactor::{
    Driver, DriverKind, DriverOptions, ReactorError, Waker, epoll::EpollDriver, lane, uring::UringDriver,
};
use holdfast_storage::command::{Deliver, Delivery};
use holdfast_storage::{ReadyHandle, Running, StorageError, Workers};

use crate::alarm::Alarm;
use crate::api::{ApiError, ApiState, HttpServer, Readiness, pipe};
use crate::backend::{LocalBackend, ShardLanes};
use crate::config::{Config, DriverChoice, limits, storage_options};
use crate::directory::Directory;
use crate::listener::{ListenError, listen};
use crate::metrics::{Metrics, ShardCounters, store_source};
use crate::session::{Rate, SessionRules};
use crate::shard::{Control, Inputs, Shard, ShardRules, Shared};
use crate::token::{KeyError, TokenKey};
use crate::watch::{Watch, default_memory_limit_bytes, wall_offset_ms};

/// Deliveries that may wait in the lane from one worker to one shard; beyond, sessions get a `gap`.
const LANE_DELIVERIES: usize = 16_384;
/// A shard is told to drain and to stop, each once.
const CONTROLS: usize = 4;
/// Bytes of one receive buffer, and how many a shard has.
const RECEIVE_BUFFER_BYTES: usize = 16 << 10;
const RECEIVE_BUFFERS: usize = 256;
/// Stack of a shard's thread.
const SHARD_STACK_BYTES: usize = 512 << 10;

/// Why the server cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The store.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The key that tokens are signed with.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The driver.
    #[error(transparent)]
    Reactor(#[from] ReactorError),
    /// HTTP.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A thread.
    #[error(
        "cannot start a thread: {0}; raise the limit on processes (ulimit -u, or pids.max of the control group)"
    )]
    Thread(std::io::Error),
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    description: Description,
    shared: Arc<Shared>,
    draining: Arc<AtomicBool>,
    controls: Vec<(flume::Sender<Control>, Waker)>,
    shards: Vec<JoinHandle<Result<(), ReactorError>>>,
    workers: Running,
    http: HttpServer,
    watch: Watch,
    alarm: Arc<Alarm>,
}

/// What was started, for people.
#[derive(Debug, Clone)]
pub struct Description {
    /// Where it listens.
    pub address: SocketAddr,
    /// Which back end moves the bytes.
    pub driver: DriverKind,
    /// Why it is not io_uring, when it is not by choice.
    pub driver_reason: Option<String>,
    /// Shard threads.
    pub shards: usize,
    /// Storage workers.
    pub workers: usize,
    /// Connections at which new ones are refused.
    pub connection_limit: usize,
    /// Bytes of memory at which new connections are refused.
    pub memory_limit_bytes: u64,
}

impl Server {
    /// Starts everything; returns when connections are accepted.
    ///
    /// # Errors
    /// When something that is needed cannot be had; nothing is left running then.
    pub fn start(config: &Config) -> Result<Self, ServeError> {
        let tokens = Arc::new(TokenKey::load_or_create(&config.data)?);
        let shard_count = config.shards.map_or_else(available_cpus, usize::from);
        let listeners = listen(
            config.listen,
            shard_count,
            usize::try_from(config.limits.kernel_send_buffer_bytes).unwrap_or(usize::MAX),
        )?;
        let address = listeners[0]
            .local_addr()
            .map_err(|source| ListenError::Refused { address: config.listen, source })?;
        let (driver, driver_reason) = choose_driver(config.driver)?;
        let memory_limit_bytes = config.limits.memory_bytes.unwrap_or_else(default_memory_limit_bytes);
        let shared = Arc::new(Shared {
            connections: AtomicUsize::new(0),
            connection_limit: config.limits.connections as usize,
            memory_exhausted: AtomicBool::new(false),
            wall_offset_ms: AtomicI64::new(wall_offset_ms()),
            directory: Directory::default(),
            tokens: Arc::clone(&tokens) as _,
        });
        let counters: Vec<Arc<ShardCounters>> = (0..shard_count).map(|_| Arc::default()).collect();

        let alarm = Arc::default();
        let starting = spawn_shards(config, driver, &shared, &counters, &alarm)?;
        let wakers: Vec<Waker> = starting.iter().map(|shard| shard.waker.clone()).collect();

        let workers = Workers::open(storage_options(config))?;
        let worker_count = usize::from(workers.databases());
        let (delivers, lanes) = lanes(worker_count, &wakers);
        let workers = workers.start(delivers)?;

        let draining = Arc::new(AtomicBool::new(false));
        let metrics = Arc::new(Metrics::new(counters));
        metrics.add_source(store_source(workers.stats_handle()));
        let readiness = readiness(workers.ready_handle(), Arc::clone(&draining));
        let state = ApiState::new(Arc::new(config.clone()), address, metrics, tokens, readiness);
        let (effect_senders, effect_receivers): (Vec<_>, Vec<_>) =
            wakers.iter().map(|waker| pipe::effects(waker.clone(), config.http.connections)).unzip();
        let http = HttpServer::start(config, state, effect_senders)?;

        let mut controls = Vec::new();
        let mut shards = Vec::new();
        let inputs = lanes.into_iter().zip(effect_receivers).zip(listeners);
        for (starting, ((lanes, http_effects), listener)) in starting.into_iter().zip(inputs) {
            let (control, control_receiver) = flume::bounded(CONTROLS);
            let inputs = Inputs {
                backend: LocalBackend::new(workers.router(), lanes),
                http: http.gate(),
                http_effects,
                control: control_receiver,
            };
            // The shard's thread waits for this; if it has died, joining it says why.
            let _ = starting.go.send((inputs, listener));
            controls.push((control, starting.waker));
            shards.push(starting.thread);
        }
        let watch = Watch::start(Arc::clone(&shared), memory_limit_bytes).map_err(ServeError::Thread)?;
        let description = Description {
            address,
            driver,
            driver_reason,
            shards: shard_count,
            workers: worker_count,
            connection_limit: config.limits.connections as usize,
            memory_limit_bytes,
        };
        Ok(Self { description, shared, draining, controls, shards, workers, http, watch, alarm })
    }

    /// What was started.
    #[must_use]
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// What the shards share.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What to do when a shard cannot go on; [`Self::stop`] says why then.
    pub fn on_failure(&self, call: impl Fn() + Send + Sync + 'static) {
        self.alarm.on_raised(call);
    }

    /// Stops politely: readiness goes first, sessions are told and closed within this time, then everything that was
    /// accepted is durable and the threads are gone.
    ///
    /// # Errors
    /// When a shard's driver had failed.
    pub fn stop(self, within: Duration) -> Result<(), ServeError> {
        self.draining.store(true, Ordering::Release);
        self.http.drain();
        for (control, waker) in &self.controls {
            // A shard that has stopped already does not listen.
            let _ = control.send(Control::Drain(within));
            waker.wake();
        }
        let mut outcome = Ok(());
        for shard in self.shards {
            // A panic on a shard aborts the process, so joining cannot find one.
            if let Ok(Err(error)) = shard.join() {
                outcome = Err(error.into());
            }
        }
        self.http.stop();
        self.watch.stop();
        self.workers.stop()?;
        outcome
    }
}

/// A shard whose driver exists, and which waits for its inputs.
struct Starting {
    waker: Waker,
    go: flume::Sender<(Inputs<LocalBackend>, TcpListener)>,
    thread: JoinHandle<Result<(), ReactorError>>,
}

fn spawn_shards(
    config: &Config,
    kind: DriverKind,
    shared: &Arc<Shared>,
    counters: &[Arc<ShardCounters>],
    alarm: &Arc<Alarm>,
) -> Result<Vec<Starting>, ServeError> {
    let rules = rules(config);
    let cpus = affinity();
    let options = DriverOptions {
        receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
        receive_buffers: RECEIVE_BUFFERS,
        // Those beyond the limit get their 503 before they go.
        connections: config.limits.connections as usize + config.limits.connections as usize / 64 + 128,
        send_buffer_bytes: None,
    };
    let mut starting = Vec::new();
    for (index, counters) in counters.iter().enumerate() {
        let (go, inputs) = flume::bounded(1);
        let (say, made) = flume::bounded(1);
        let (rules, shared, counters) = (rules.clone(), Arc::clone(shared), Arc::clone(counters));
        let (options, alarm) = (options.clone(), Arc::clone(alarm));
        let cpu = (counters_fit(&cpus, config)).then(|| cpus[index % cpus.len()]);
        let body = move || {
            if let Some(cpu) = cpu {
                pin(cpu);
            }
            let id = index as u16;
            let ended = match kind {
                DriverKind::Uring => {
                    let driver = UringDriver::new(options);
                    run_shard(id, driver, &say, &inputs, rules, shared, counters)
                }
                _ => run_shard(id, EpollDriver::new(options), &say, &inputs, rules, shared, counters),
            };
            if let Err(error) = &ended {
                tracing::error!(shard = id, %error, "a shard cannot go on");
                alarm.raise();
            }
            ended
        };
        let thread = std::thread::Builder::new()
            .name(format!("shard-{index}"))
            .stack_size(SHARD_STACK_BYTES)
            .spawn(move || abort_on_panic(body))
            .map_err(ServeError::Thread)?;
        match made.recv() {
            Ok(waker) => starting.push(Starting { waker, go, thread }),
            // The driver could not be made: the thread has ended and says why.
            Err(_) => match thread.join() {
                Ok(Err(error)) => return Err(error.into()),
                _ => unreachable!("a shard ends before it has a driver only with an error"),
            },
        }
    }
    Ok(starting)
}

fn run_shard<D: Driver>(
    id: u16,
    driver: Result<D, ReactorError>,
    say: &flume::Sender<Waker>,
    inputs: &flume::Receiver<(Inputs<LocalBackend>, TcpListener)>,
    rules: ShardRules,
    shared: Arc<Shared>,
    counters: Arc<ShardCounters>,
) -> Result<(), ReactorError> {
    let mut driver = driver?;
    // Whoever started us waits for it; if not, the process is going down and `inputs` will say so.
    let _ = say.send(driver.waker());
    let Ok((inputs, listener)) = inputs.recv() else { return Ok(()) };
    driver.listen(listener)?;
    Shard::new(id, driver, inputs, rules, shared, counters).run()
}

/// A half-dead server lies: a panic on a shard ends the process, in every build profile.
fn abort_on_panic<T>(body: impl FnOnce() -> T) -> T {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        Ok(value) => value,
        Err(_) => std::process::abort(),
    }
}

/// The shards' ends of the lanes: by shard, then by worker.
type LaneReceivers = Vec<Vec<lane::Receiver<Delivery>>>;

/// One lane from each worker to each shard: the workers' ends by worker, the shards' ends by shard.
fn lanes(workers: usize, shards: &[Waker]) -> (Vec<Box<dyn Deliver + Send>>, LaneReceivers) {
    let mut receivers: LaneReceivers = shards.iter().map(|_| Vec::new()).collect();
    let mut delivers: Vec<Box<dyn Deliver + Send>> = Vec::new();
    for _ in 0..workers {
        let mut senders = Vec::new();
        for (waker, receivers) in shards.iter().zip(&mut receivers) {
            let (sender, receiver) = lane::lane(LANE_DELIVERIES, waker.clone());
            senders.push(sender);
            receivers.push(receiver);
        }
        delivers.push(Box::new(ShardLanes::new(senders)));
    }
    (delivers, receivers)
}

/// Whether new work is welcome, in words.
fn readiness(
    store: ReadyHandle,
    draining: Arc<AtomicBool>,
) -> impl Fn() -> Readiness + Send + Sync + 'static {
    move || {
        let mut reasons = Vec::new();
        if draining.load(Ordering::Acquire) {
            reasons.push("the server is going away".to_owned());
        }
        let store = match store.readiness() {
            holdfast_storage::Readiness::Ready => None,
            holdfast_storage::Readiness::Replaying => Some("the store is replaying its log"),
            holdfast_storage::Readiness::Full => Some("the disk is full"),
            holdfast_storage::Readiness::Failed => Some("a durable write has failed; restart"),
        };
        reasons.extend(store.map(str::to_owned));
        if reasons.is_empty() { Readiness::Ready } else { Readiness::NotReady(reasons) }
    }
}

/// What the configuration says, in the words of the shards.
fn rules(config: &Config) -> ShardRules {
    let limits = &config.limits;
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    ShardRules {
        session: SessionRules {
            heartbeat: config.heartbeat.interval,
            send: Rate::new(limits.send_per_second, Duration::from_secs(1), limits.send_burst),
            send_per_second: limits.send_per_second,
            control: Rate::new(limits.control_frames, limits.control_window, limits.control_frames),
            body_bytes: u32::try_from(limits.message_body_bytes).unwrap_or(u32::MAX),
            output_bytes: bytes(limits.output_bytes),
            page_entries: limits.page_entries,
            group_members: limits.group_members,
            history_messages: limits.history_messages,
            watched_users: limits.watched_users,
        },
        head: HeadLimits {
            head_bytes: bytes(limits.request_head_bytes),
            headers: limits.request_headers as usize,
        },
        chat_messages: MessageLimits {
            frame_bytes: limits.frame_bytes,
            message_bytes: limits.message_bytes,
            fragments: limits.fragments,
        },
        echo_messages: config.bench_endpoints.then_some(MessageLimits {
            frame_bytes: limits::BENCH_MESSAGE_BYTES,
            message_bytes: limits::BENCH_MESSAGE_BYTES,
            fragments: limits::BENCH_FRAGMENTS,
        }),
        handshake: limits.handshake_timeout,
        login: limits.login_timeout,
        silent_heartbeats: config.heartbeat.silence_factor,
        linger: Duration::from_secs(2),
        echo_output_bytes: bytes(limits.output_bytes),
        retry_after_seconds: 5,
        allowed_origins: config.auth.allowed_origins.clone(),
    }
}

/// io_uring unless it is blocked here; the reason goes into the banner and the log.
fn choose_driver(choice: DriverChoice) -> Result<(DriverKind, Option<String>), ServeError> {
    match choice {
        DriverChoice::Epoll => Ok((DriverKind::Epoll, None)),
        // A failure explains itself when the shard makes its driver.
        DriverChoice::Uring => Ok((DriverKind::Uring, None)),
        DriverChoice::Auto => match holdfast_reactor::uring::probe() {
            Ok(_) => Ok((DriverKind::Uring, None)),
            Err(error) => {
                tracing::warn!(%error, "io_uring is not available, using epoll");
                Ok((DriverKind::Epoll, Some(error.to_string())))
            }
        },
    }
}

/// CPUs that this process may use, in order.
fn affinity() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect(),
        Err(_) => Vec::new(),
    }
}

fn available_cpus() -> usize {
    affinity().len().max(1)
}

/// Shards are pinned only when each has a CPU of its own.
fn counters_fit(cpus: &[usize], config: &Config) -> bool {
    let shards = config.shards.map_or(cpus.len(), usize::from);
    !cpus.is_empty() && shards <= cpus.len()
}

fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(cpu, %error, "a shard could not be pinned");
    }
}
