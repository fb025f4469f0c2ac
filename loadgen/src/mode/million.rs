//! `million`: the whole claim in one command.
//!
//! ```text
//! settings ─ server ─ ramp ─ settle ─ hold (heartbeats alone) ─ messages ─ quiesce ─ drain ─ verdict
//!                     └ memory is sampled ┘└ idle processor time ┘
//! ```
//!
//! With `--watchers` messages flow twice, see [`presence`].
//!
//! Load goes to 127.0.0.0/8 and nowhere else.

mod presence;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_protocol::chat::Format;
use holdfast_reactor::DriverKind;

use super::chat::settle;
use super::hold::RAMP_AT_MOST;
use super::setup::{
    Setup, SetupError, TOKEN_LIFETIME, check_descriptors, cpu_phase, driver, lateness_rule, listen_address,
    pair_limit, random_seed, url_of, waits_by,
};
use crate::address::AddressPlan;
use crate::arrival::{Schedule, Spread};
use crate::cli::MillionArgs;
use crate::clock;
use crate::crew::Crew;
use crate::engine::{EngineOptions, Ramp, Snapshot};
use crate::measure::memory::open_files;
use crate::measure::sample::Sampler;
use crate::pilot::{Landing, Pilot, PilotError, catch_signals};
use crate::progress::Progress;
use crate::random::Random;
use crate::report::{Messages, Report, Threshold, thousandth};
use crate::scenario::Order;
use crate::scenario::books::{Books, Marks, Pairing};
use crate::scenario::chat::Chat;
use crate::scenario::login::{Credentials, Login};
use crate::scenario::presence::{PresenceCounts, Watched, WatchedReport};
use crate::server::{self, ServerOptions, ServerProcess};
use crate::settings::{Missing, Settings};
use crate::stamp::Stamp;
use crate::target::Target;
use crate::token::Mint;
use crate::units::count;

/// After the ramp, until memory that handshakes had used is given back and the counters have calmed down.
const SETTLE: Duration = Duration::from_secs(3);
/// How long the server is given to tell everybody, close everybody, and hear their answers: with both ends on two
/// processors the default of 5 s is not enough for a million.
const DRAIN: Duration = Duration::from_secs(30);
/// Until the last connection is gone.
const DRAIN_AT_MOST: Duration = Duration::from_secs(60);
/// The first user.
const FIRST_USER: u64 = 1_000_000;
/// Open files of other processes, below which the kernel has freed an earlier run's sockets.
const FILES_AT_REST: u64 = 20_000;

/// How long each phase took.
#[derive(Debug, Default)]
struct Times {
    setup: f64,
    ramp: f64,
    settle: f64,
    hold: f64,
    messages: f64,
    /// With presence only: until the messages are through and memory is calm, the watches, messages again.
    pause: f64,
    watch: f64,
    flapping: f64,
    quiesce: f64,
    drain: f64,
}

/// What was measured on the way, beside what the threads report.
#[derive(Debug, Default)]
struct Measured {
    times: Times,
    held: u64,
    idle_us: Option<f64>,
    cpu: Vec<(&'static str, crate::report::CpuPhase)>,
    cpu_us_per_message: Option<f64>,
    delivered_per_second: f64,
    /// Memory before anybody watched, and when all who should do.
    watches: Option<presence::WatchMemory>,
}

pub(super) fn run(args: &MillionArgs) -> Result<Report, SetupError> {
    check(args)?;
    let interrupted = catch_signals()?;
    let started = clock::monotonic();
    let started_unix_ms = clock::unix_ms();
    let mut progress = Progress::new(args.output.quiet, started);
    let kind = driver(args.driver)?;
    check_descriptors(kind, args.connections)?;
    if open_files()? > FILES_AT_REST {
        progress.say("waiting for the kernel to free the sockets of an earlier run");
        super::setup::wait_for_kernel();
    }
    let (settings, missing) = raise(args, &mut progress);

    let sampler = Sampler::new(started, waits_by(kind))?;
    let temporary = TemporaryData::new(args)?;
    let keep_waiting = || !interrupted.load(Ordering::Relaxed);
    let server =
        ServerProcess::start(&server_options(args, &temporary), keep_waiting).map_err(PilotError::from)?;
    let mut setup = set_up(args, kind, &server, started, started_unix_ms, sampler)?;
    setup.announce(&mut progress, &format!("hold {} sessions", count(args.connections.into())));
    presence::announce(args, &mut progress);
    progress.say(&format!("  server     {}, process {}", server.address, server.pid()));

    let crew = start_crew(args, &setup, &server)?;
    let mut pilot = Pilot::new(crew, args.connections, progress, interrupted);
    if let Some(mut sampler) = setup.take_sampler() {
        sampler.watch(server.pid());
        pilot.sampler = Some(sampler);
    }
    pilot.server = Some(server);

    let mut measured = Measured::default();
    measured.times.setup = clock::monotonic().since(started).as_secs_f64();
    let error = lead(args, &mut pilot, &mut measured).err();
    let mut landing = pilot.land()?;
    let stopped = landing.server.as_mut().map(ServerProcess::wait).transpose();
    let stopped = stopped.map_err(|error| error.to_string()).and_then(|status| match status {
        Some(status) if !status.success() => Err(format!("the server did not end well: {status}")),
        _ => Ok(()),
    });
    let error = error.map(|error| error.to_string()).or_else(|| stopped.err());
    let mut report = judge(args, &setup, measured, landing, error);
    report.machine.raised = settings.as_ref().map(|settings| settings.changed().to_vec()).unwrap_or_default();
    report.machine.not_raised = missing;
    if let Some(mut settings) = settings {
        for change in settings.restore() {
            eprintln!("could not put {} back to {}", change.name, change.before);
        }
    }
    Ok(report)
}

fn check(args: &MillionArgs) -> Result<(), SetupError> {
    let wrong = |text: &str| Err(SetupError::Usage(text.to_owned()));
    if args.connections < 2 {
        return wrong("--connections must be at least 2: they write to each other");
    }
    for (name, rate) in [("--ramp", args.ramp), ("--rate", args.rate)] {
        if rate.is_nan() || rate <= 0.0 {
            return wrong(&format!("{name} must be more than 0 per second"));
        }
    }
    presence::check(args)
}

fn raise(args: &MillionArgs, progress: &mut Progress) -> (Option<Settings>, Vec<Missing>) {
    if args.keep_settings {
        return (None, Vec::new());
    }
    let (settings, missing) = Settings::raise(u64::from(args.connections));
    for change in settings.changed() {
        progress.say(&format!(
            "raised {} from {} to {} (put back at the end)",
            change.name, change.before, change.now
        ));
    }
    for missing in &missing {
        progress.say(&format!(
            "{} is {} and may not be raised; run: {}",
            missing.name, missing.present, missing.command
        ));
    }
    (Some(settings), missing)
}

fn server_options(args: &MillionArgs, temporary: &TemporaryData) -> ServerOptions {
    let mut arguments =
        vec!["--connections".to_owned(), (args.connections + args.connections / 50 + 1_000).to_string()];
    arguments.extend(args.server_arg.iter().cloned());
    ServerOptions {
        binary: args.server.clone(),
        data: temporary.path.clone(),
        listen: listen_address(args.one_address),
        arguments,
        environment: presence::environment(&args.presence),
        drain: DRAIN,
    }
}

fn set_up(
    args: &MillionArgs,
    kind: DriverKind,
    server: &ServerProcess,
    started: holdfast_reactor::Moment,
    started_unix_ms: u64,
    sampler: Sampler,
) -> Result<Setup, SetupError> {
    let seed = args.seed.map_or_else(random_seed, Ok)?;
    let address = server.loopback();
    let accepts = |address| server::accepts(address);
    let addresses = AddressPlan::new(args.connections, address, &[], pair_limit(), accepts)?;
    let target = Target::parse(&url_of(address, "/ws"))?;
    let options = EngineOptions {
        members: args.connections,
        together: 2,
        first_member: 0,
        seed,
        addresses: Arc::new(addresses),
        host: target.host.as_str().into(),
        path: target.path.as_str().into(),
        subprotocols: Arc::new([Format::Protobuf.subprotocol().to_owned()]),
        headers: Arc::new([]),
        ramp: Ramp::Rate(args.ramp, Spread::Poisson),
        in_flight_max: args.handshakes.max(1),
        timeout: Duration::from_secs(30),
        attempts_max: 8,
        heartbeat: args.heartbeat,
        message_bytes_max: 1 << 20,
    };
    let (threads, pid) = (args.threads.unwrap_or_else(generator_threads), server.pid());
    Ok(Setup::for_own_server(target, kind, threads, options, started, started_unix_ms, pid, sampler))
}

/// One thread for every two processors, since the server needs the rest; at least two, since on two processors one logs
/// in half as many sessions per second as two do.
fn generator_threads() -> u32 {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(processors / 2).unwrap_or(256).clamp(2, 256)
}

fn start_crew(
    args: &MillionArgs,
    setup: &Setup,
    server: &ServerProcess,
) -> Result<Crew<WatchedReport>, SetupError> {
    let connections = args.connections;
    let mint = Mint::from_file(&server.token_key(), clock::unix_ms() / 1_000, TOKEN_LIFETIME.as_secs())?;
    let credentials = Credentials::Mint { mint, first_user: FIRST_USER };
    let login = Login { credentials, format: Format::Protobuf, by_hello: false };
    let seed = setup.options.seed;
    let pairing = Pairing::cycle(connections, seed);
    let marks = Arc::new(Marks::new(connections));
    let run = Random::stream(seed ^ setup.started_unix_ms, 0x2a).bits() as u32;
    let presence = presence::options(args, FIRST_USER, &pairing, seed);
    let silent = presence.as_ref().map_or_else(|| Marks::new(0), |presence| presence.plan.silent());
    let silent = Arc::new(silent);
    let body_bytes = (args.size as usize).max(Stamp::BYTES);
    let make = |share: &EngineOptions| {
        let books = Books::new(run, share.first_member, share.members, pairing.clone(), Arc::clone(&marks))
            .with_silent(Arc::clone(&silent));
        let part = f64::from(share.members) / f64::from(connections);
        let random = Random::stream(seed, 0xc4a8 ^ u64::from(share.first_member));
        let schedule = Schedule::new(Spread::Poisson, args.rate * part, clock::monotonic(), random);
        let chat = Chat::new(login.clone(), share.first_member, books, schedule, body_bytes, seed);
        Watched::new(chat, login.clone(), presence.as_ref(), share.first_member, share.members)
    };
    Ok(Crew::start(setup.kind, &setup.options, setup.threads, make)?)
}

/// Through all phases; what was measured stands in `measured` also when it is broken off.
fn lead(
    args: &MillionArgs,
    pilot: &mut Pilot<WatchedReport>,
    measured: &mut Measured,
) -> Result<(), PilotError> {
    let pid = pilot.server.as_ref().map(ServerProcess::pid);
    pilot.sample_now(0)?;
    let begin = clock::monotonic();
    let ramp = pilot.phase("ramp", RAMP_AT_MOST, |now| now.awaited == 0);
    measured.times.ramp = clock::monotonic().since(begin).as_secs_f64();
    measured.held = pilot.snapshot().up;
    ramp?;
    let up = pilot.snapshot().up;
    pilot.sample_now(up)?;
    (_, measured.times.settle) = pilot.measured_phase("settle", SETTLE, None)?;

    let (cpu, hold) = pilot.measured_phase("hold", args.hold, pid)?;
    measured.times.hold = hold;
    measured.held = pilot.snapshot().up;
    if let Some(cpu) = &cpu {
        measured.cpu.push(("hold", cpu_phase(cpu, hold)));
        if measured.held > 0 && hold > 0.0 {
            measured.idle_us = Some(cpu.total_ns as f64 / 1e3 / measured.held as f64 / hold);
        }
    }

    pilot.order(Order::Begin);
    let done_before = pilot.snapshot().done;
    let (cpu, messages) = pilot.measured_phase("messages", args.duration, pid)?;
    let done = pilot.snapshot().done - done_before;
    measured.times.messages = messages;
    measured.delivered_per_second = done as f64 / messages.max(1e-9);
    if let Some(cpu) = &cpu {
        measured.cpu.push(("messages", cpu_phase(cpu, messages)));
        measured.cpu_us_per_message = (done > 0).then(|| cpu.total_ns as f64 / 1e3 / done as f64);
    }
    if args.presence.watchers > 0 {
        presence::lead(args, pilot, measured, pid)?;
    } else {
        measured.times.quiesce = quiesce(args, pilot, "quiesce", |now| now.outstanding == 0)?;
    }
    measured.held = pilot.snapshot().up;

    // The server is told to go, as an operator tells it; it must say goodbye to everybody.
    pilot.order(Order::ExpectClose);
    let begin = clock::monotonic();
    pilot.sampler = pilot.sampler.take().map(Sampler::finished);
    if let Some(mut server) = pilot.server.take() {
        server.terminate()?;
        let drained = pilot.phase("drain", DRAIN_AT_MOST, |now| now.up == 0);
        pilot.server = Some(server);
        drained?;
    }
    measured.times.drain = clock::monotonic().since(begin).as_secs_f64();
    Ok(())
}

/// Sends nothing new, and waits for what is under way. Says how long that took.
fn quiesce(
    args: &MillionArgs,
    pilot: &mut Pilot<WatchedReport>,
    name: &'static str,
    is_through: impl FnMut(&Snapshot) -> bool,
) -> Result<f64, PilotError> {
    pilot.order(Order::Quiesce);
    let begin = clock::monotonic();
    pilot.phase(name, args.quiesce, is_through)?;
    Ok(clock::monotonic().since(begin).as_secs_f64())
}

fn judge(
    args: &MillionArgs,
    setup: &Setup,
    measured: Measured,
    landing: Landing<WatchedReport>,
    error: Option<String>,
) -> Report {
    let Landing { engine, reports, sampler, .. } = landing;
    let mut chats = Vec::new();
    let mut watched: Option<PresenceCounts> = None;
    for report in reports {
        chats.push(report.chat);
        if let Some(counts) = report.presence {
            watched.get_or_insert_default().merge(&counts);
        }
    }
    let (settlement, counts) = settle(chats);
    let total = clock::monotonic().since(setup.started);
    let times = &measured.times;
    let mut report = setup.report("million", &engine, measured.held, times.ramp, sampler.as_ref());
    let seconds = [
        ("setup", times.setup),
        ("ramp", times.ramp),
        ("settle", times.settle),
        ("hold", times.hold),
        ("messages", times.messages),
        ("quiesce", times.quiesce),
        ("drain", times.drain),
        ("total", total.as_secs_f64()),
    ];
    report.seconds.extend(seconds.map(|(name, seconds)| (name, thousandth(seconds))));
    if watched.is_some() {
        let seconds = [("pause", times.pause), ("watch", times.watch), ("flapping", times.flapping)];
        report.seconds.extend(seconds.map(|(name, seconds)| (name, thousandth(seconds))));
    }
    report.messages = Some(Messages::of_chat(&settlement, &counts, measured.delivered_per_second));
    let rule = lateness_rule(&args.lateness);
    let last = rule.judge(&counts.lateness, &settlement.counts.accepted_latency);
    match &watched {
        None => {
            report.latency("accepted", &settlement.counts.accepted_latency);
            report.latency("delivered", &settlement.counts.delivered_latency);
            report.generator.lateness = Some(last);
        }
        Some(watched) => {
            presence::note(args, &mut report, &measured, watched, &settlement.counts);
            let first = rule.judge(&watched.before.lateness, &watched.before.accepted);
            report.generator.lateness = Some(if first.limited { first } else { last });
        }
    }
    if let Some(server) = &mut report.server {
        server.environment = presence::environment(&args.presence).into_iter().collect();
        server.idle_cpu_us_per_connection_second = measured.idle_us.map(thousandth);
        server.cpu_us_per_message = measured.cpu_us_per_message.map(thousandth);
        server.cpu.extend(measured.cpu);
    }

    let target = f64::from(args.connections);
    let server = report.server.as_ref();
    let user = server.and_then(|server| server.bytes_per_connection).map(|per| per.user);
    let total_bytes = server.and_then(|server| server.total_bytes);
    let idle = server.and_then(|server| server.idle_cpu_us_per_connection_second);
    let expected = Spread::Poisson.fewest(args.rate * (times.messages + times.flapping)) * 0.98;
    let books = &settlement.counts;
    report.thresholds = vec![
        Threshold::at_least("sessions opened", Some(report.connections.opened as f64), target, ""),
        Threshold::at_least("sessions held", Some(report.connections.held as f64), target, ""),
        Threshold::at_most("sessions lost", Some(engine.lost as f64), 0.0, ""),
        Threshold::at_most("server, process, per session", user, args.max_user_bytes, "B"),
        Threshold::at_most(
            "server side in all",
            total_bytes,
            total_limit(args.max_total_bytes, target) + presence::allowed_bytes(&args.presence),
            "bytes",
        ),
        Threshold::at_most("idle processor time per session and second", idle, args.max_idle_cpu, "µs"),
        Threshold::at_least("messages delivered", Some(books.delivered as f64), expected.floor(), ""),
        Threshold::at_most("messages never acked", Some(settlement.unacked as f64), 0.0, ""),
        Threshold::at_most("messages refused", Some(books.refused.total() as f64), 0.0, ""),
        Threshold::at_most("messages lost", Some((settlement.lost + settlement.own_lost) as f64), 0.0, ""),
        Threshold::at_most("messages duplicated", Some(books.duplicated as f64), 0.0, ""),
        Threshold::at_most("messages reordered", Some(books.reordered as f64), 0.0, ""),
        Threshold::at_least("sessions told before the end", Some(counts.drains as f64), target, ""),
        Threshold::at_most(
            "whole run",
            Some(total.as_secs_f64() * 1e6),
            presence::time_limit(args).as_secs_f64() * 1e6,
            "us",
        ),
    ];
    // A ramp of a moment says little about a rate.
    if times.ramp >= 1.0 {
        let per_second = Some(report.connections.opened_per_second);
        let least = args.min_ramp.min(args.ramp * 0.95);
        report.thresholds.push(Threshold::at_least(
            "sessions opened per second",
            per_second,
            least,
            "per second",
        ));
    }
    let is_presence_correct = watched.as_ref().is_none_or(|watched| watched.watches.is_correct());
    if let Some(watched) = &watched {
        report.thresholds.extend(presence::thresholds(args, &report, watched));
    }
    report.judge(settlement.is_correct() && is_presence_correct);
    if let Some(error) = error {
        report.broken_off(error);
    }
    report
}

/// What the server's side may have in all: so many bytes for each of a million sessions. 100 MB of them are for the
/// process itself, which does not get smaller when there are fewer sessions.
fn total_limit(bytes_per_session: f64, sessions: f64) -> f64 {
    const PROCESS_BYTES: f64 = 1e8;
    (bytes_per_session - PROCESS_BYTES / 1e6) * sessions + PROCESS_BYTES
}

/// The data directory of a run, which goes away with it unless it was named.
#[derive(Debug)]
struct TemporaryData {
    path: std::path::PathBuf,
    is_ours: bool,
}

impl TemporaryData {
    fn new(args: &MillionArgs) -> Result<Self, SetupError> {
        if let Some(path) = &args.data {
            return Ok(Self { path: path.clone(), is_ours: false });
        }
        let name = format!("holdfast-million-{}-{:08x}", std::process::id(), random_seed()? as u32);
        Ok(Self { path: std::env::temp_dir().join(name), is_ours: true })
    }
}

impl Drop for TemporaryData {
    fn drop(&mut self) {
        if self.is_ours {
            // If it cannot be removed, whoever looks after the temporary directory will.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_sessions_have_4600_bytes_each_and_fewer_have_room_for_the_process() {
        assert_eq!(total_limit(4_600.0, 1e6), 4.6e9);
        assert_eq!(total_limit(4_600.0, 1_000.0), 104_500_000.0);
    }
}
