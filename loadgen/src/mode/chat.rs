//! `chat`: pairs of users write to each other through a server that runs already.

use std::sync::Arc;

use super::hold::{CLOSE_AT_MOST, RAMP_AT_MOST};
use super::setup::{Setup, SetupError, cpu_phase, lateness_rule, login};
use crate::arrival::Schedule;
use crate::cli::ChatArgs;
use crate::clock;
use crate::crew::Crew;
use crate::engine::EngineOptions;
use crate::measure::cpu::CpuSample;
use crate::pilot::{Pilot, catch_signals};
use crate::progress::Progress;
use crate::random::Random;
use crate::report::{Messages, Report, Threshold, thousandth};
use crate::scenario::Order;
use crate::scenario::books::{Books, Marks, Pairing, Settlement};
use crate::scenario::chat::{Chat, ChatCounts, ChatReport};
use crate::stamp::Stamp;

const CONNECTIONS: u32 = 1_000;
/// The server's own limit, by default, for one session.
const SENDS_PER_SECOND_MAX: f64 = 20.0;

pub(super) fn run(args: &ChatArgs) -> Result<Report, SetupError> {
    let connections = args.fleet.connections.unwrap_or(CONNECTIONS);
    if connections < 2 || connections % 2 == 1 {
        return Err(SetupError::Usage(format!(
            "--connections {connections}: pairs chat, so it must be even"
        )));
    }
    if args.rate.is_nan() || args.rate <= 0.0 {
        return Err(SetupError::Usage("--rate must be more than 0 messages per second".into()));
    }
    let Some(login) = login(&args.login, connections)? else {
        return Err(SetupError::Usage(
            "users chat, so they must log in: name the server's data directory with --data (or --token-key, --token)"
                .into(),
        ));
    };
    let mut setup = Setup::new(&args.url, &args.fleet, connections, connections, Some(&login))?;
    let mut progress = Progress::new(args.output.quiet, setup.started);
    let (rate, duration) = (args.rate, args.duration);
    setup.announce(
        &mut progress,
        &format!("chat: {connections} users, {rate} messages/s in all, for {duration:?}"),
    );
    if rate / f64::from(connections) > SENDS_PER_SECOND_MAX / 2.0 {
        progress.say(&format!(
            "  note       {:.1} messages/s for each user; Holdfast allows {SENDS_PER_SECOND_MAX} by default, with a burst \
             of 100: more connections make it less",
            rate / f64::from(connections)
        ));
    }
    let interrupted = catch_signals()?;
    let marks = Arc::new(Marks::new(connections));
    let (seed, spread) = (setup.options.seed, args.fleet.arrivals);
    let run = Random::stream(seed ^ setup.started_unix_ms, 0x2a).bits() as u32;
    let body_bytes = (args.size as usize).max(Stamp::BYTES);
    let make = |share: &EngineOptions| {
        let books =
            Books::new(run, share.first_member, share.members, Pairing::Neighbours, Arc::clone(&marks));
        let part = f64::from(share.members) / f64::from(connections);
        let random = Random::stream(seed, 0xc4a8 ^ u64::from(share.first_member));
        let schedule = Schedule::new(spread, rate * part, clock::monotonic(), random);
        Chat::new(login.clone(), share.first_member, books, schedule, body_bytes, seed)
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
    let own_before = CpuSample::of(std::process::id())?;
    let done_before = pilot.snapshot().done;
    let (cpu, load) = pilot.measured_phase("messages", args.duration, setup.server_pid)?;
    let done = pilot.snapshot().done - done_before;
    let own = CpuSample::of(std::process::id())?.since(&own_before);
    pilot.order(Order::Quiesce);
    let quiesce_begin = clock::monotonic();
    pilot.phase("quiesce", args.quiesce, |now| now.outstanding == 0)?;
    let quiesce = clock::monotonic().since(quiesce_begin).as_secs_f64();
    let held = pilot.snapshot().up;
    pilot.order(Order::Close);
    pilot.phase("close", CLOSE_AT_MOST, |_| false)?;
    let landing = pilot.land()?;

    let (settlement, counts) = settle(landing.reports);
    let total = clock::monotonic().since(setup.started).as_secs_f64();
    let mut report = setup.report("chat", &landing.engine, held, ramp, landing.sampler.as_ref());
    for (name, seconds) in [("ramp", ramp), ("messages", load), ("quiesce", quiesce), ("total", total)] {
        report.seconds.insert(name, thousandth(seconds));
    }
    let per_second = done as f64 / load.max(1e-9);
    report.messages = Some(Messages::of_chat(&settlement, &counts, per_second));
    report.latency("accepted", &settlement.counts.accepted_latency);
    report.latency("delivered", &settlement.counts.delivered_latency);
    if let (Some(server), Some(cpu)) = (&mut report.server, &cpu) {
        server.cpu.insert("messages", cpu_phase(cpu, load));
        server.cpu_us_per_message = (done > 0).then(|| thousandth(cpu.total_ns as f64 / 1e3 / done as f64));
    }
    report.generator.cpu_share = Some(thousandth(own.total_ns as f64 / 1e9 / load.max(1e-9)));
    let rule = lateness_rule(&args.lateness);
    report.generator.lateness = Some(rule.judge(&counts.lateness, &settlement.counts.accepted_latency));
    let accepted = settlement.counts.accepted_latency.summary();
    let delivered = settlement.counts.delivered_latency.summary();
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
        Threshold::at_least(
            "delivered per second",
            Some(per_second),
            args.fleet.arrivals.fewest(rate * load) / load.max(1e-9) * args.min_rate_share,
            "per second",
        ),
        Threshold::at_most("messages never acked", Some(settlement.unacked as f64), 0.0, ""),
        Threshold::at_most("messages refused", Some(settlement.counts.refused.total() as f64), 0.0, ""),
    ];
    let bounds = [
        ("p99 accepted", args.max_accepted_p99, accepted.p99),
        ("p99 delivered", args.max_delivered_p99, delivered.p99),
    ];
    for (name, limit, p99) in bounds {
        if let Some(limit) = limit {
            report.thresholds.push(Threshold::at_most(name, Some(p99), limit.as_secs_f64() * 1e6, "us"));
        }
    }
    report.judge(settlement.is_correct());
    Ok(report)
}

/// Closes the books of all threads.
pub(super) fn settle(reports: Vec<ChatReport>) -> (Settlement, ChatCounts) {
    let mut counts = ChatCounts::default();
    let mut books = Vec::new();
    for report in reports {
        counts.merge(&report.counts);
        books.push(report.books);
    }
    (Books::settle(books), counts)
}
