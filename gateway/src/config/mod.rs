//! Configuration: what an operator may decide, where each value came from, and what is refused.
//!
//! Four layers, later ones win: built-in defaults, `holdfast.toml`, environment (`HOLDFAST_SECTION__KEY`), flags.
//! Every layer goes through the same table of settings ([`setting::SETTINGS`]), so that a value is parsed, bounded
//! and named in errors in the same way wherever it stands.
//!
//! The one invariant: a [`Config`] that [`Effective::resolve`] returned holds only values inside their stated
//! ranges, and limits that fit each other. Nothing else in the gateway checks them again.
//!
//! Never here: the effect of a setting.

mod error;
mod layers;
pub mod limits;
mod setting;
mod storage;
mod value;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use error::{ConfigError, ConfigErrors};
pub use layers::{DEFAULT_FILE, Effective, FILE_VARIABLE, FileText, Inputs, Override, Source};
pub use limits::Limits;
pub use setting::{SETTINGS, Setting};
pub use storage::storage_options;
pub use value::{parse_duration, show_bytes, show_duration};

/// Everything that can be configured, typed and in range.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where to listen: everything (WebSocket, API, page) is on this one port.
    pub listen: SocketAddr,
    /// The data directory: databases, token key.
    pub data: PathBuf,
    /// Shard threads; `None`: one per CPU of the affinity mask.
    pub shards: Option<u16>,
    /// Which driver moves the bytes.
    pub driver: DriverChoice,
    /// Serve `/echo`, which has no login and no rate limits.
    pub bench_endpoints: bool,
    /// What one peer, one user and the whole process may take.
    pub limits: Limits,
    /// How often clients must be heard from.
    pub heartbeat: Heartbeat,
    /// How the server goes away.
    pub drain: Drain,
    /// Who may come in.
    pub auth: Auth,
    /// The HTTP API beside the shards.
    pub http: Http,
    /// The store.
    pub storage: Storage,
    /// What is logged.
    pub log: Log,
}

/// Which driver moves the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverChoice {
    /// io_uring where the kernel allows it, else epoll; the banner says which and why.
    Auto,
    /// io_uring, or the start fails with the reason.
    Uring,
    /// epoll.
    Epoll,
}

/// `[heartbeat]`
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heartbeat {
    /// How often a client must send something; told in `welcome`.
    pub interval: Duration,
    /// A connection that was silent for this many intervals is closed.
    pub silence_factor: f64,
}

impl Heartbeat {
    /// After this much silence a connection is closed.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.interval.mul_f64(self.silence_factor)
    }
}

/// `[drain]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// From SIGTERM to exit, at most; connections are told and closed evenly over it.
    pub timeout: Duration,
}

/// `[auth]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Whether `POST /v1/guest` gives a token for a mere name.
    pub guests: Guests,
    /// Guest tokens given per second, over all clients.
    pub guests_per_second: u32,
    /// Origins (`https://chat.example.org`) that browsers may connect from, besides the server's own.
    pub allowed_origins: Vec<String>,
    /// How long a token is valid that `holdfast token` or the guest endpoint mints.
    pub token_lifetime: Duration,
}

/// When guests are let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guests {
    /// Only while listening on a loopback address: nobody else can reach the endpoint.
    Auto,
    /// Always. Anybody who reaches the port can be anybody.
    On,
    /// Never.
    Off,
}

/// `[http]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http {
    /// Threads of the API's own runtime.
    pub threads: u16,
    /// Connections that speak plain HTTP at the same time; more get 503 with `Retry-After`.
    pub connections: u32,
    /// Bytes of a request's body.
    pub request_body_bytes: u64,
    /// From the arrival of a request's head to the end of its answer; also how long an answer may wait for a
    /// client that does not read.
    pub request_timeout: Duration,
    /// How long a kept-alive connection may take to bring its next complete request head.
    pub idle_timeout: Duration,
}

/// `[storage]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storage {
    /// Databases of a new data directory; `None`: chosen when it is made. An existing one keeps its number.
    pub databases: Option<u16>,
    /// Memory for caches of the store, all databases together.
    pub cache_bytes: u64,
    /// How far apart a worker's fsyncs are at least: more of it costs less processor time and more latency.
    pub commit_interval: Duration,
    /// For how many days messages are kept; `None`: for ever. At least one more than those for which a client id is known.
    pub retention_days: Option<u16>,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// As `tracing-subscriber`'s `EnvFilter` reads it: `info`, `holdfast_gateway=debug,warn` …
    pub filter: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            data: PathBuf::from("./holdfast-data"),
            shards: None,
            driver: DriverChoice::Auto,
            bench_endpoints: false,
            limits: Limits::default(),
            heartbeat: Heartbeat { interval: Duration::from_secs(30), silence_factor: 2.5 },
            drain: Drain { timeout: Duration::from_secs(5) },
            auth: Auth {
                guests: Guests::Auto,
                guests_per_second: 20,
                allowed_origins: Vec::new(),
                token_lifetime: Duration::from_secs(30 * 86_400),
            },
            http: Http {
                threads: 1,
                connections: 512,
                request_body_bytes: 64 << 10,
                request_timeout: Duration::from_secs(30),
                idle_timeout: Duration::from_secs(60),
            },
            storage: Storage {
                databases: None,
                cache_bytes: 64 << 20,
                commit_interval: Duration::from_millis(3),
                retention_days: None,
            },
            log: Log { filter: "info".to_owned() },
        }
    }
}

impl Config {
    /// Whether a mere name is enough to come in.
    #[must_use]
    pub fn guests_enabled(&self) -> bool {
        match self.auth.guests {
            Guests::Auto => self.listen.ip().is_loopback(),
            Guests::On => true,
            Guests::Off => false,
        }
    }
}
