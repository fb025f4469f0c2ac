//! `echo`: messages there and back, every reply compared.

use std::time::Duration;

use super::hold::{CLOSE_AT_MOST, RAMP_AT_MOST};
use super::setup::{Setup, SetupError, cpu_phase, lateness_rule};
use crate::arrival::Schedule;
use crate::cli::EchoArgs;
use crate::clock;
use crate::crew::Crew;
use crate::engine::EngineOptions;
use crate::measure::cpu::CpuSample;
use crate::pilot::{Pilot, catch_signals};
use crate::progress::Progress;
use crate::random::Random;
use crate::report::{Messages, Report, Threshold, tenth, thousandth};
use crate::scenario::Order;
use crate::scenario::echo::{Echo, EchoOptions, EchoReport};

const CONNECTIONS: u32 = 200;
/// How long the last replies may take.
const QUIESCE_AT_MOST: Duration = Duration::from_secs(10);

pub(super) fn run(args: &EchoArgs) -> Result<Report, SetupError> {
    let connections = args.fleet.connections.unwrap_or(CONNECTIONS);
    if args.size == 0 || args.size > 16 << 20 {
        return Err(SetupError::Usage(format!("--size {} is not from 1 to 16,777,216 bytes", args.size)));
    }
    if args.rate.is_some_and(|rate| rate.is_nan() || rate <= 0.0) {
        return Err(SetupError::Usage("--rate must be more than 0 messages per second".into()));
    }
    let mut setup = Setup::new(&args.url, &args.fleet, connections, connections, None)?;
    let mut progress = Progress::new(args.output.quiet, setup.started);
    let how = args.rate.map_or_else(
        || format!("{} in flight on each", args.in_flight),
        |rate| format!("{rate} messages/s in all, at most {} in flight on each", args.in_flight),
    );
    let (size, duration) = (args.size, args.duration);
    setup.announce(
        &mut progress,
        &format!("echo {size} bytes on {connections} connections, {how}, for {duration:?}"),
    );
    let interrupted = catch_signals()?;
    let (seed, spread, rate) = (setup.options.seed, args.fleet.arrivals, args.rate);
    let options = EchoOptions { in_flight: args.in_flight, bytes: args.size as usize, text: args.text };
    let make = |share: &EngineOptions| {
        let schedule = rate.map(|rate| {
            let part = f64::from(share.members) / f64::from(connections);
            let random = Random::stream(seed, 0xec11 ^ u64::from(share.first_member));
            Schedule::new(spread, rate * part, clock::monotonic(), random)
        });
        Echo::new(options.clone(), schedule, share.members, seed)
    };
    let crew = Crew::start(setup.kind, &setup.options, setup.threads, make)?;
    let mut pilot = Pilot::new(crew, connections, progress, interrupted);
    pilot.sampler = setup.take_sampler();
    pilot.sample_now(0)?;

    let ramp_begin = clock::monotonic();
    pilot.phase("ramp", RAMP_AT_MOST, |now| now.awaited == 0)?;
    let ramp = clock::monotonic().since(ramp_begin).as_secs_f64();
    let up = pilot.snapshot().up;
    pilot.sample_now(up)?;
    pilot.order(Order::Begin);
    let (_, warmup) = pilot.measured_phase("warmup", args.warmup, None)?;
    pilot.order(Order::Measure);
    // Messages and processor time are read at the same two moments.
    let own_before = CpuSample::of(std::process::id())?;
    let done_before = pilot.snapshot().sent;
    let (cpu, load) = pilot.measured_phase("load", args.duration, setup.server_pid)?;
    let done = pilot.snapshot().sent - done_before;
    let own = CpuSample::of(std::process::id())?.since(&own_before);
    pilot.order(Order::Quiesce);
    pilot.phase("quiesce", QUIESCE_AT_MOST, |now| now.outstanding <= 0)?;
    let held = pilot.snapshot().up;
    pilot.order(Order::Close);
    pilot.phase("close", CLOSE_AT_MOST, |_| false)?;
    let landing = pilot.land()?;

    let mut sum = EchoReport::default();
    landing.reports.iter().for_each(|part| sum.merge(part));
    let total = clock::monotonic().since(setup.started).as_secs_f64();
    let mut report = setup.report("echo", &landing.engine, held, ramp, landing.sampler.as_ref());
    for (name, seconds) in [("ramp", ramp), ("warmup", warmup), ("load", load), ("total", total)] {
        report.seconds.insert(name, thousandth(seconds));
    }
    report.latency("echo", &sum.latency);
    report.messages = Some(Messages {
        sent: sum.sent,
        acked: sum.replies,
        delivered: sum.replies,
        lost: sum.lost,
        duplicated: sum.duplicated,
        reordered: sum.reordered,
        corrupted: sum.corrupted,
        per_second: tenth(done as f64 / load.max(1e-9)),
        chat: None,
        groups: None,
        sync: None,
        slow: None,
    });
    if let (Some(server), Some(cpu)) = (&mut report.server, &cpu) {
        server.cpu.insert("load", cpu_phase(cpu, load));
        server.cpu_us_per_message = (done > 0).then(|| thousandth(cpu.total_ns as f64 / 1e3 / done as f64));
    }
    report.generator.cpu_share = Some(thousandth(own.total_ns as f64 / 1e9 / load.max(1e-9)));
    report.generator.cpu_us_per_message =
        (done > 0).then(|| thousandth(own.total_ns as f64 / 1e3 / done as f64));
    if args.rate.is_some() {
        report.generator.lateness = Some(lateness_rule(&args.lateness).judge(&sum.lateness, &sum.latency));
    }
    report.thresholds = vec![
        Threshold::at_least(
            "connections opened",
            Some(report.connections.opened as f64),
            f64::from(connections),
            "",
        ),
        Threshold::at_most(
            "connections lost",
            Some(landing.engine.lost as f64),
            f64::from(args.fleet.max_lost),
            "",
        ),
        Threshold::at_least("messages measured", Some(sum.measured as f64), 1.0, ""),
    ];
    if let Some(limit) = args.max_p99 {
        let p99 = sum.latency.summary().p99;
        report.thresholds.push(Threshold::at_most("p99 echo", Some(p99), limit.as_secs_f64() * 1e6, "us"));
    }
    report.judge(sum.lost + sum.duplicated + sum.reordered + sum.corrupted == 0);
    Ok(report)
}
