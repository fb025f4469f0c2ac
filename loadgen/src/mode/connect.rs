//! `connect`: handshakes, again and again.

use std::time::Duration;

use super::hold::CLOSE_AT_MOST;
use super::setup::{Setup, SetupError, cpu_phase, login};
use crate::cli::ConnectArgs;
use crate::clock;
use crate::crew::Crew;
use crate::engine::{EngineOptions, Ramp};
use crate::measure::cpu::CpuSample;
use crate::pilot::{Pilot, catch_signals};
use crate::progress::Progress;
use crate::report::{Report, Threshold, tenth, thousandth};
use crate::scenario::Order;
use crate::scenario::connect::{Close, Connect};

const CONNECTIONS: u32 = 200;
/// Connections that linger in TIME_WAIT (for a minute) and still occupy their ports: room for 20,000 handshakes a
/// second.
const LINGERING: u32 = 20_000 * 60;

pub(super) fn run(args: &ConnectArgs) -> Result<Report, SetupError> {
    let connections = args.fleet.connections.unwrap_or(CONNECTIONS);
    let login = login(&args.login, connections)?;
    let rate = args.rate.or(args.fleet.ramp);
    if rate.is_some_and(|rate| rate.is_nan() || rate <= 0.0) {
        return Err(SetupError::Usage("--rate must be more than 0 handshakes per second".into()));
    }
    let mut fleet = args.fleet.clone();
    fleet.ramp = rate;
    fleet.heartbeat = Duration::ZERO;
    fleet.handshakes = connections;
    let is_loopback = crate::target::Target::parse(&args.url)?.address.ip().is_loopback();
    // Elsewhere nobody can conjure up addresses; what lingers is then counted as EADDRNOTAVAIL.
    let tuples = if is_loopback && fleet.source.is_empty() && !args.reset { LINGERING } else { connections };
    let mut setup = Setup::new(&args.url, &fleet, connections, tuples, login.as_ref())?;
    setup.options.ramp = rate.map_or(Ramp::Flat, |rate| Ramp::Rate(rate, fleet.arrivals));
    let mut progress = Progress::new(args.output.quiet, setup.started);
    let how = rate.map_or_else(|| "as many as go".to_owned(), |rate| format!("{rate}/s"));
    let duration = args.duration;
    setup.announce(
        &mut progress,
        &format!("handshakes on {connections} connections, {how}, for {duration:?}"),
    );
    let interrupted = catch_signals()?;
    let close = if args.reset { Close::Reset } else { Close::Politely };
    let make = |share: &EngineOptions| Connect::new(login.clone(), share.first_member, close);
    let crew = Crew::start(setup.kind, &setup.options, setup.threads, make)?;
    let mut pilot = Pilot::new(crew, connections, progress, interrupted);

    let (_, warmup) = pilot.measured_phase("warmup", args.warmup, None)?;
    pilot.order(Order::Measure);
    let before = setup.server_pid.map(CpuSample::of).transpose()?;
    let own_before = CpuSample::of(std::process::id())?;
    let done_before = pilot.snapshot().opened;
    let begin = clock::monotonic();
    let enough = args.repeat.map(u64::from);
    pilot.phase("load", args.duration, |now| {
        enough.is_some_and(|enough| now.opened - done_before >= enough)
    })?;
    let done = pilot.snapshot().opened - done_before;
    let load = clock::monotonic().since(begin).as_secs_f64();
    let cpu = setup
        .server_pid
        .map(CpuSample::of)
        .transpose()?
        .zip(before)
        .map(|(after, before)| after.since(&before));
    let own = CpuSample::of(std::process::id())?.since(&own_before);
    pilot.order(Order::Quiesce);
    pilot.phase("quiesce", args.fleet.timeout, |now| now.awaited == 0)?;
    pilot.order(Order::Close);
    pilot.phase("close", CLOSE_AT_MOST, |_| false)?;
    let landing = pilot.land()?;

    let total = clock::monotonic().since(setup.started).as_secs_f64();
    let mut report = setup.report("connect", &landing.engine, 0, load, None);
    for (name, seconds) in [("warmup", warmup), ("load", load), ("total", total)] {
        report.seconds.insert(name, thousandth(seconds));
    }
    report.connections.opened_per_second = tenth(done as f64 / load.max(1e-9));
    if let (Some(server), Some(cpu)) = (&mut report.server, &cpu) {
        server.cpu.insert("load", cpu_phase(cpu, load));
        server.cpu_us_per_handshake = (done > 0).then(|| thousandth(cpu.total_ns as f64 / 1e3 / done as f64));
    }
    report.generator.cpu_share = Some(thousandth(own.total_ns as f64 / 1e9 / load.max(1e-9)));
    report.thresholds = vec![
        Threshold::at_least("handshakes", Some(done as f64), 1.0, ""),
        Threshold::at_most(
            "failed attempts",
            Some(landing.engine.failed_attempts as f64),
            f64::from(args.fleet.max_lost),
            "",
        ),
    ];
    report.judge(true);
    Ok(report)
}
