//! `hold`: open, hold, and see what is lost and what it costs.

use std::time::Duration;

use super::setup::{Setup, SetupError, cpu_phase, login};
use crate::cli::HoldArgs;
use crate::clock;
use crate::crew::Crew;
use crate::pilot::{Pilot, catch_signals};
use crate::progress::Progress;
use crate::report::{Report, Threshold, thousandth};
use crate::scenario::Order;
use crate::scenario::hold::Hold;

/// Connections without `--connections`.
const CONNECTIONS: u32 = 1_000;
/// A ramp that takes longer is broken off: what is not up then never will be.
pub(super) const RAMP_AT_MOST: Duration = Duration::from_secs(3_600);
/// How long the goodbyes may take.
pub(super) const CLOSE_AT_MOST: Duration = Duration::from_secs(30);

pub(super) fn run(args: &HoldArgs) -> Result<Report, SetupError> {
    let connections = args.fleet.connections.unwrap_or(CONNECTIONS);
    let login = login(&args.login, connections)?;
    let mut setup = Setup::new(&args.url, &args.fleet, connections, connections, login.as_ref())?;
    let mut progress = Progress::new(args.output.quiet, setup.started);
    setup.announce(&mut progress, &format!("hold {connections} connections for {:?}", args.hold));
    let interrupted = catch_signals()?;
    let make = |share: &crate::engine::EngineOptions| Hold::new(login.clone(), share.first_member);
    let crew = Crew::start(setup.kind, &setup.options, setup.threads, make)?;
    let mut pilot = Pilot::new(crew, connections, progress, interrupted);
    pilot.sampler = setup.take_sampler();
    pilot.sample_now(0)?;

    let ramp_begin = clock::monotonic();
    pilot.phase("ramp", RAMP_AT_MOST, |now| now.awaited == 0)?;
    let ramp = clock::monotonic().since(ramp_begin).as_secs_f64();
    let up = pilot.snapshot().up;
    pilot.sample_now(up)?;
    let (cpu, hold) = pilot.measured_phase("hold", args.hold, setup.server_pid)?;
    let held = pilot.snapshot().up;
    pilot.order(Order::Close);
    pilot.phase("close", CLOSE_AT_MOST, |_| false)?;
    let landing = pilot.land()?;

    let total = clock::monotonic().since(setup.started).as_secs_f64();
    let mut report = setup.report("hold", &landing.engine, held, ramp, landing.sampler.as_ref());
    for (name, seconds) in [("ramp", ramp), ("hold", hold), ("total", total)] {
        report.seconds.insert(name, thousandth(seconds));
    }
    if let (Some(server), Some(cpu)) = (&mut report.server, &cpu) {
        server.cpu.insert("hold", cpu_phase(cpu, hold));
        if held > 0 && hold > 0.0 {
            let us = cpu.total_ns as f64 / 1e3 / held as f64 / hold;
            server.idle_cpu_us_per_connection_second = Some(thousandth(us));
        }
    }
    let opened = report.connections.opened as f64;
    report.thresholds = vec![
        Threshold::at_least("connections opened", Some(opened), f64::from(connections), ""),
        Threshold::at_most(
            "connections lost",
            Some(landing.engine.lost as f64),
            f64::from(args.fleet.max_lost),
            "",
        ),
    ];
    report.judge(true);
    Ok(report)
}
