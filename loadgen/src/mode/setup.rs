//! What all modes need before the first connect: the target, the addresses, the driver, the users; and the frame of
//! the report.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use holdfast_protocol::chat::Format;
use holdfast_reactor::uring::ProbeError;
use holdfast_reactor::{DriverKind, Moment};

use crate::address::{AddressError, AddressPlan, PairLimit};
use crate::cli::{FleetArgs, FormatChoice, LatenessArgs, LoginArgs};
use crate::clock;
use crate::crew::{CrewError, DriverChoice};
use crate::engine::{EngineOptions, EngineReport, Ramp};
use crate::measure::cpu::{CpuUse, steal_and_total_ticks};
use crate::measure::latency::Latencies;
use crate::measure::lateness::LatenessRule;
use crate::measure::memory::{MachineMemory, open_files};
use crate::measure::regression::Line;
use crate::measure::sample::Sampler;
use crate::measure::slab::WaitsBy;
use crate::measure::{ProcError, latency};
use crate::outcome::Outcome;
use crate::pilot::PilotError;
use crate::progress::Progress;
use crate::report::{Connections, CpuPhase, Generator, Machine, Report, SCHEMA, thousandth};
use crate::scenario::login::{Credentials, Login};
use crate::server;
use crate::target::{Target, TargetError};
use crate::token::{Mint, TokenError};

/// Why a run did not come about, or to an end.
#[derive(Debug, thiserror::Error)]
pub(super) enum SetupError {
    /// The URL.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The addresses.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The driver.
    #[error(transparent)]
    Driver(#[from] ProbeError),
    /// The threads.
    #[error(transparent)]
    Crew(#[from] CrewError),
    /// The tokens.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Broken off.
    #[error(transparent)]
    Pilot(#[from] PilotError),
    /// `/proc`.
    #[error(transparent)]
    Proc(#[from] ProcError),
    /// Options that do not go together, or values out of range.
    #[error("{0}")]
    Usage(String),
    /// Groups could not be made.
    #[error("the groups were not made: {0}")]
    Groups(String),
    /// Inboxes could not be filled.
    #[error("the inboxes were not filled: {0}")]
    Inboxes(String),
    /// More connections than descriptors, without rings.
    #[error(
        "{connections} connections with the epoll driver need {needed} descriptors, RLIMIT_NOFILE is {present}; \
         run `ulimit -n {needed}`, or use --driver uring, which needs none per connection"
    )]
    Descriptors {
        /// How many connections.
        connections: u32,
        /// How many descriptors.
        needed: u64,
        /// How many there are.
        present: u64,
    },
    /// The system has no random numbers.
    #[error("cannot get a random seed: {0}; give one with --seed")]
    Seed(getrandom::Error),
}

/// Everything that is known before the first connect.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) target: Target,
    pub(super) kind: DriverKind,
    pub(super) threads: u32,
    pub(super) options: EngineOptions,
    pub(super) started: Moment,
    pub(super) started_unix_ms: u64,
    pub(super) server_pid: Option<u32>,
    steal_before: Option<(u64, u64)>,
    sampler: Option<Sampler>,
}

/// Local ports are asked of the system; where it does not say, these are the kernel's defaults.
const DEFAULT_PORTS: (u16, u16) = (32_768, 60_999);
/// The largest message that is taken from a server.
const MESSAGE_BYTES_MAX: u64 = 32 << 20;

impl Setup {
    /// For a server that runs already. `tuples`: how many connections the addresses must have room for, those that
    /// linger after their close included.
    pub(super) fn new(
        url: &str,
        fleet: &FleetArgs,
        connections: u32,
        tuples: u32,
        login: Option<&Login>,
    ) -> Result<Self, SetupError> {
        let target = Target::parse(url)?;
        if connections == 0 {
            return Err(SetupError::Usage("--connections must be at least 1".into()));
        }
        if fleet.ramp.is_some_and(|rate| rate.is_nan() || rate <= 0.0) {
            return Err(SetupError::Usage("--ramp must be more than 0 connects per second".into()));
        }
        let (kind, why_not) = fleet.driver.resolve()?;
        check_descriptors(kind, connections)?;
        if fleet.wait_for_kernel {
            wait_for_kernel();
        }
        let accepts = |address| server::accepts(address);
        let addresses = AddressPlan::new(tuples, target.address, &fleet.source, pair_limit(), accepts)?;
        let seed = fleet.seed.map_or_else(random_seed, Ok)?;
        let mut subprotocols = fleet.subprotocol.clone();
        if let Some(login) = login {
            subprotocols.push(login.format.subprotocol().into());
        }
        let ramp = fleet.ramp.map_or(Ramp::Flat, |rate| Ramp::Rate(rate, fleet.arrivals));
        let options = EngineOptions {
            members: connections,
            together: 2,
            first_member: 0,
            seed,
            addresses: Arc::new(addresses),
            host: target.host.as_str().into(),
            path: target.path.as_str().into(),
            subprotocols: subprotocols.into(),
            headers: fleet.header.clone().into(),
            ramp,
            in_flight_max: fleet.handshakes.max(1),
            timeout: fleet.timeout,
            attempts_max: fleet.attempts.max(1),
            heartbeat: fleet.heartbeat,
            message_bytes_max: MESSAGE_BYTES_MAX,
        };
        let started = clock::monotonic();
        let sampler = match fleet.server_pid {
            Some(pid) => {
                let mut sampler = Sampler::new(started, waits_by(kind))?;
                sampler.watch(pid);
                Some(sampler)
            }
            None => None,
        };
        let setup = Self {
            target,
            kind,
            threads: fleet.threads,
            options,
            started,
            started_unix_ms: clock::unix_ms(),
            server_pid: fleet.server_pid,
            steal_before: steal_and_total_ticks().ok(),
            sampler,
        };
        Ok(setup.with_note(why_not))
    }

    /// For a server that we have just started.
    #[expect(clippy::too_many_arguments, reason = "each is a decision of `million` alone")]
    pub(super) fn for_own_server(
        target: Target,
        kind: DriverKind,
        threads: u32,
        options: EngineOptions,
        started: Moment,
        started_unix_ms: u64,
        server_pid: u32,
        sampler: Sampler,
    ) -> Self {
        Self {
            target,
            kind,
            threads,
            options,
            started,
            started_unix_ms,
            server_pid: Some(server_pid),
            steal_before: steal_and_total_ticks().ok(),
            sampler: Some(sampler),
        }
    }

    fn with_note(self, why_not_uring: Option<String>) -> Self {
        if let Some(why) = why_not_uring {
            eprintln!("driver epoll, since io_uring is not to be had: {why}");
        }
        self
    }

    /// The sampler, for the pilot.
    pub(super) fn take_sampler(&mut self) -> Option<Sampler> {
        self.sampler.take()
    }

    /// Says what is about to happen.
    pub(super) fn announce(&self, progress: &mut Progress, what: &str) {
        progress.say(&format!(
            "{what}\n  to         {}\n  addresses  {}\n  driver     {}, {} thread(s), seed {}",
            self.target.url,
            self.options.addresses.describe(),
            driver_name(self.kind),
            self.threads,
            self.options.seed
        ));
    }

    /// A report with what is known by now; the verdict stays open.
    pub(super) fn report(
        &self,
        mode: &'static str,
        engine: &EngineReport,
        held: u64,
        ramp_seconds: f64,
        sampler: Option<&Sampler>,
    ) -> Report {
        let mut report = Report {
            schema: SCHEMA,
            verdict: Outcome::Ok.verdict(),
            outcome: Outcome::Ok,
            exit_code: 0,
            error: None,
            mode,
            version: env!("CARGO_PKG_VERSION"),
            url: self.target.url.clone(),
            started_unix_ms: self.started_unix_ms,
            seed: self.options.seed,
            connections: Connections::of(engine, u64::from(self.options.members), held, ramp_seconds),
            messages: None,
            presence: None,
            server: self.server_pid.map(|pid| crate::report::Server { pid, ..Default::default() }),
            latency_us: BTreeMap::new(),
            seconds: BTreeMap::new(),
            thresholds: Vec::new(),
            generator: Generator {
                driver: driver_name(self.kind),
                threads: self.threads,
                nice: engine.nice,
                addresses: self.options.addresses.as_ref().clone(),
                lateness: None,
                heartbeat_lateness_us: summary_of_some(&engine.beat_lateness),
                cpu_share: None,
                cpu_us_per_message: None,
                user_bytes_per_connection: sampler.and_then(generator_bytes),
                heartbeats: engine.beats,
                received_bytes: engine.received_bytes,
            },
            machine: self.machine(),
            series: sampler.map(|sampler| sampler.samples().to_vec()).unwrap_or_default(),
            curves: BTreeMap::new(),
        };
        report.latency("handshake", &engine.handshake);
        report.latency("handshake_from_intended", &engine.handshake_from_intended);
        if let (Some(server), Some(sampler)) = (&mut report.server, sampler) {
            server.memory_from(sampler);
        }
        report
    }

    fn machine(&self) -> Machine {
        let after = steal_and_total_ticks().ok();
        let steal_share = self.steal_before.zip(after).and_then(|(before, after)| {
            let total = after.1.saturating_sub(before.1);
            (total > 0).then(|| thousandth(after.0.saturating_sub(before.0) as f64 / total as f64))
        });
        Machine {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: MachineMemory::now().map_or(0, |memory| memory.total_bytes),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            steal_share,
            raised: Vec::new(),
            not_raised: Vec::new(),
        }
    }
}

fn summary_of_some(latencies: &Latencies) -> Option<latency::LatencySummary> {
    (latencies.count() > 0).then(|| latencies.summary())
}

fn generator_bytes(sampler: &Sampler) -> Option<f64> {
    let samples = sampler.samples();
    let greatest = samples.iter().map(|sample| sample.connections).max()?;
    let end = samples.iter().position(|sample| sample.connections == greatest)?;
    let points: Vec<(f64, f64)> = samples[..=end]
        .iter()
        .map(|sample| (sample.connections as f64, sample.generator_rss_bytes as f64))
        .collect();
    Line::fit(&points).map(|line| crate::report::tenth(line.slope))
}

/// Processor time of a phase, for the report.
pub(super) fn cpu_phase(cpu: &CpuUse, seconds: f64) -> CpuPhase {
    CpuPhase {
        seconds: thousandth(seconds),
        total_us: cpu.total_ns as f64 / 1e3,
        threads: cpu.threads.clone(),
    }
}

pub(super) fn lateness_rule(args: &LatenessArgs) -> LatenessRule {
    LatenessRule { allowed_us: args.lateness.as_secs_f64() * 1e6, allowed_share: args.lateness_share }
}

pub(super) const fn driver_name(kind: DriverKind) -> &'static str {
    match kind {
        DriverKind::Uring => "uring",
        DriverKind::Epoll => "epoll",
        DriverKind::Sim => "sim",
    }
}

pub(super) const fn waits_by(kind: DriverKind) -> WaitsBy {
    match kind {
        DriverKind::Uring => WaitsBy::Uring,
        DriverKind::Epoll => WaitsBy::Epoll,
        DriverKind::Sim => WaitsBy::Unknown,
    }
}

/// What the generator and its driver cannot do without: a descriptor per connection, unless they are in rings.
pub(super) fn check_descriptors(kind: DriverKind, connections: u32) -> Result<(), SetupError> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let present = limit.unwrap_or(u64::MAX);
    let needed = u64::from(connections) + 128;
    if kind == DriverKind::Epoll && needed > present {
        return Err(SetupError::Descriptors { connections, needed, present });
    }
    Ok(())
}

pub(super) fn pair_limit() -> PairLimit {
    let ports = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok().and_then(|text| {
        let mut numbers = text.split_ascii_whitespace().map(|number| number.parse::<u16>().ok());
        Some((numbers.next()??, numbers.next()??))
    });
    let (low, high) = ports.unwrap_or(DEFAULT_PORTS);
    PairLimit::of_ports(low, high)
}

pub(super) fn random_seed() -> Result<u64, SetupError> {
    getrandom::u64().map_err(SetupError::Seed)
}

/// Who logs in, by the options; `None`: nobody.
pub(super) fn login(args: &LoginArgs, connections: u32) -> Result<Option<Login>, SetupError> {
    if !args.wanted() {
        return Ok(None);
    }
    let key = args.token_key.clone().or_else(|| args.data.as_ref().map(|data| data.join("token.key")));
    let credentials = match key {
        Some(path) => {
            let mint = Mint::from_file(&path, clock::unix_ms() / 1_000, TOKEN_LIFETIME.as_secs())?;
            Credentials::Mint { mint, first_user: args.first_user }
        }
        None if args.token.is_empty() => {
            return Err(SetupError::Usage(
                "to log in, name the server's data directory (--data), its key (--token-key), or tokens (--token)"
                    .into(),
            ));
        }
        None => Credentials::given(args.token.iter().cloned())?,
    };
    if credentials.members().is_some_and(|tokens| tokens < connections as usize) {
        return Err(SetupError::Usage(format!(
            "{connections} connections need as many tokens, {} given: two sessions of one device replace each other",
            args.token.len()
        )));
    }
    Ok(Some(Login { credentials, format: format(args.format), by_hello: args.hello }))
}

pub(super) const fn format(choice: FormatChoice) -> Format {
    match choice {
        FormatChoice::Proto => Format::Protobuf,
        FormatChoice::Json => Format::Json,
    }
}

/// Longer than any run.
pub(super) const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3_600);

/// Open files that have nothing to do with load; below it nothing lingers.
const FILES_AT_REST: u64 = 20_000;
const KERNEL_WITHIN: Duration = Duration::from_secs(120);

/// Waits until the kernel has freed the sockets of an earlier run: it takes it half a minute for a million. There
/// is no event for that, so it is looked at now and then.
pub(super) fn wait_for_kernel() {
    let begin = clock::monotonic();
    let mut before = u64::MAX;
    while clock::monotonic().since(begin) < KERNEL_WITHIN {
        let Ok(files) = open_files() else { return };
        // What somebody else holds open does not go away.
        if files < FILES_AT_REST
            || (files >= before && clock::monotonic().since(begin) > Duration::from_secs(5))
        {
            return;
        }
        before = files;
        std::thread::park_timeout(Duration::from_millis(500));
    }
}

/// Every loopback address, or the first alone.
pub(super) const fn listen_address(one_address: bool) -> Ipv4Addr {
    if one_address { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED }
}

/// `ws://` and an address.
pub(super) fn url_of(address: SocketAddr, path: &str) -> String {
    format!("ws://{address}{path}")
}

/// The driver, by the option.
pub(super) fn driver(choice: DriverChoice) -> Result<DriverKind, SetupError> {
    let (kind, why_not) = choice.resolve()?;
    if let Some(why) = why_not {
        eprintln!("driver epoll, since io_uring is not to be had: {why}");
    }
    Ok(kind)
}
