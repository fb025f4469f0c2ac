//! `slow-reader`: readers read nothing for a while, and get everything afterwards.
//!
//! ```text
//! ramp ─ stall (senders send; readers only beat) ─ heal (readers read until they have everything) ─ verdict
//!      └ before                                  └ after: both ends of a time in which only readers' output waits
//!      └──── sockets, twice a second ────────────┘
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use holdfast_reactor::Moment;

use super::chat::settle;
use super::hold::{CLOSE_AT_MOST, RAMP_AT_MOST};
use super::setup::{Setup, SetupError, cpu_phase, login};
use crate::arrival::Schedule;
use crate::cli::SlowReaderArgs;
use crate::clock;
use crate::crew::Crew;
use crate::engine::EngineOptions;
use crate::measure::cpu::CpuSample;
use crate::measure::memory::ProcessMemory;
use crate::measure::metrics;
use crate::measure::socket::{End, SocketMemory, sockets};
use crate::pilot::{Pilot, catch_signals};
use crate::progress::Progress;
use crate::random::Random;
use crate::report::{Messages, Report, SlowMessages, Threshold, tenth, thousandth};
use crate::scenario::Order;
use crate::scenario::books::funnel::FunnelBooks;
use crate::scenario::chat::Chat;
use crate::scenario::slow::SlowReaders;
use crate::stamp::Stamp;
use crate::units::count;

/// Half of the server's own limit for one session, by default: chance decides which sender is next.
const SENDS_PER_SECOND: f64 = 10.0;
const SOCKETS_EVERY: Duration = Duration::from_millis(500);
/// The server's gauge.
const HELD_BACK: &str = "holdfast_output_held_back_bytes";

pub(super) fn run(args: &SlowReaderArgs) -> Result<Report, SetupError> {
    let senders = check(args)?;
    let cohort = senders + 1;
    let connections = args.readers.checked_mul(cohort).ok_or_else(|| {
        SetupError::Usage(format!("{} readers with {senders} senders each are too many", args.readers))
    })?;
    let Some(login) = login(&args.login, connections)? else {
        return Err(SetupError::Usage(
            "readers and senders are users, so they must log in: name the server's data directory with --data (or \
             --token-key, --token)"
                .into(),
        ));
    };
    let mut setup = Setup::new(&args.url, &args.fleet, connections, connections, Some(&login))?;
    setup.options.together = cohort;
    let mut progress = Progress::new(args.output.quiet, setup.started);
    setup.announce(
        &mut progress,
        &format!(
            "slow-reader: {} messages from {senders} senders to each of {} reader(s), who read nothing for {:?}",
            count(args.messages.into()),
            args.readers,
            args.stall
        ),
    );
    let interrupted = catch_signals()?;
    let run = Random::stream(setup.options.seed ^ setup.started_unix_ms, 0x2a).bits() as u32;
    let (seed, spread) = (setup.options.seed, args.fleet.arrivals);
    let rate = f64::from(args.messages) / args.stall.as_secs_f64();
    let body_bytes = (args.size as usize).max(Stamp::BYTES);
    let make = |share: &EngineOptions| {
        let books = FunnelBooks::new(run, share.first_member, share.members, senders);
        let messages = |members: u32| u64::from(args.messages) * u64::from(members) / u64::from(connections);
        let own = messages(share.first_member + share.members) - messages(share.first_member);
        let part = own as f64 / f64::from(args.messages);
        let random = Random::stream(seed, 0xc4a8 ^ u64::from(share.first_member));
        let schedule = Schedule::new(spread, rate * part, clock::monotonic(), random).at_most(own);
        SlowReaders::new(Chat::new(login.clone(), share.first_member, books, schedule, body_bytes, seed))
    };
    let ramp_begin = clock::monotonic();
    let crew = Crew::start(setup.kind, &setup.options, setup.threads, make)?;
    let mut pilot = Pilot::new(crew, connections, progress, interrupted);
    pilot.sampler = setup.take_sampler();
    pilot.sample_now(0)?;
    pilot.phase("ramp", RAMP_AT_MOST, |now| now.awaited == 0)?;
    let ramp = clock::monotonic().since(ramp_begin).as_secs_f64();
    let up = pilot.snapshot().up;
    pilot.sample_now(up)?;

    let server = setup.target.address;
    let mut eyes = Eyes::new(server, setup.target.host.clone());
    let before = eyes.held_back_bytes();
    let rss = |pid: Option<u32>| pid.map(ProcessMemory::of).transpose();
    let rss_before = rss(setup.server_pid)?;
    let own_before = CpuSample::of(std::process::id())?;
    let server_before = setup.server_pid.map(CpuSample::of).transpose()?;
    let stall_begin = clock::monotonic();
    pilot.order(Order::Begin);
    pilot.phase("stall", args.stall + args.quiesce, |now| {
        let present = clock::monotonic();
        eyes.look(present);
        let is_over = present.since(stall_begin) >= args.stall;
        is_over && now.sent >= u64::from(args.messages) && now.outstanding == 0
    })?;
    // Senders have everything by now: what still waits in the server waits for readers.
    let after = eyes.held_back_bytes();
    let in_sockets = eyes.waiting_bytes();
    let stall = clock::monotonic().since(stall_begin).as_secs_f64();
    let rss_after = rss(setup.server_pid)?;
    let own = CpuSample::of(std::process::id())?.since(&own_before);
    let server_after = setup.server_pid.map(CpuSample::of).transpose()?;

    let heal_begin = clock::monotonic();
    pilot.order(Order::Quiesce);
    pilot.order(Order::Read);
    pilot.phase("heal", args.heal_within, |now| now.outstanding == 0)?;
    let heal = clock::monotonic().since(heal_begin).as_secs_f64();
    let held = pilot.snapshot().up;
    pilot.sample_now(held)?;
    pilot.order(Order::Close);
    pilot.phase("close", CLOSE_AT_MOST, |_| false)?;
    let landing = pilot.land()?;

    let waited_bytes = landing.reports.iter().map(|report| report.waited_bytes).sum::<u64>();
    let (settlement, counts) = settle(landing.reports.into_iter().map(|report| report.chat).collect());
    let mut report = setup.report("slow-reader", &landing.engine, held, ramp, landing.sampler.as_ref());
    let total = clock::monotonic().since(setup.started).as_secs_f64();
    for (name, seconds) in [("ramp", ramp), ("stall", stall), ("heal", heal), ("total", total)] {
        report.seconds.insert(name, thousandth(seconds));
    }
    let per_second = settlement.counts.acked as f64 / stall.max(1e-9);
    let mut messages = Messages::of_chat(&settlement, &counts, per_second);
    let readers = f64::from(args.readers);
    let slow = SlowMessages {
        readers: args.readers,
        senders,
        stall_seconds: thousandth(stall),
        heal_seconds: thousandth(heal),
        user_bytes: after.zip(before).map(|(after, before)| tenth((after - before).max(0.0) / readers)),
        kernel_bytes: eyes.greatest.map(|socket| socket.total_bytes()),
        socket: eyes.greatest,
        samples: eyes.samples,
        waited_bytes,
        waited_in_process_bytes: in_sockets.map(|bytes| waited_bytes as i64 - bytes as i64),
        rss_growth_bytes: rss_after
            .zip(rss_before)
            .map(|(after, before)| after.rss_bytes as i64 - before.rss_bytes as i64),
    };
    messages.slow = Some(slow.clone());
    report.messages = Some(messages);
    report.latency("accepted", &settlement.counts.accepted_latency);
    report.latency("delivered", &settlement.counts.delivered_latency);
    let per_message = |ns: u64| {
        let acked = settlement.counts.acked;
        (acked > 0).then(|| thousandth(ns as f64 / 1e3 / acked as f64))
    };
    if let (Some(server), Some((after, before))) = (&mut report.server, server_after.zip(server_before)) {
        let cpu = after.since(&before);
        server.cpu_us_per_message = per_message(cpu.total_ns);
        // So few connections say nothing about what one costs that does nothing.
        (server.fit, server.bytes_per_connection, server.bytes_per_connection_at_plateau) =
            (None, None, None);
        server.cpu.insert("stall", cpu_phase(&cpu, stall));
    }
    report.generator.cpu_share = Some(thousandth(own.total_ns as f64 / 1e9 / stall.max(1e-9)));
    report.generator.cpu_us_per_message = per_message(own.total_ns);
    report.generator.user_bytes_per_connection = None;
    let wanted = f64::from(args.messages);
    let opened = report.connections.opened as f64;
    report.thresholds = vec![
        Threshold::at_least("connections opened", Some(opened), f64::from(connections), ""),
        Threshold::at_most(
            "connections lost",
            Some(landing.engine.lost as f64),
            f64::from(args.fleet.max_lost),
            "",
        ),
        Threshold::at_least("messages acked", Some(settlement.counts.acked as f64), wanted, ""),
        Threshold::at_least("messages read", Some(settlement.counts.delivered as f64), wanted, ""),
        Threshold::at_least("readers that fell behind (gaps)", Some(counts.gaps as f64), readers, ""),
        Threshold::at_most("user bytes of a reader", slow.user_bytes, args.max_user_bytes, "bytes"),
        Threshold::at_most(
            "kernel bytes of a reader",
            slow.kernel_bytes.map(|bytes| bytes as f64),
            args.max_kernel_bytes,
            "bytes",
        ),
    ];
    report.judge(settlement.is_correct());
    Ok(report)
}

/// Whether the options make sense; how many senders each reader has.
fn check(args: &SlowReaderArgs) -> Result<u32, SetupError> {
    let usage = |text: &str| Err(SetupError::Usage(text.to_owned()));
    if args.fleet.connections.is_some() {
        return usage("--connections follows from --readers and --senders; leave it out");
    }
    if args.readers == 0 || args.senders == Some(0) {
        return usage("--readers and --senders must be at least 1");
    }
    if args.messages < args.readers {
        return usage("--messages must be at least one for each reader");
    }
    if args.stall.is_zero() {
        return usage("--stall must be more than 0");
    }
    if args.fleet.heartbeat.is_zero() {
        return usage(
            "--heartbeat 0s: a reader that neither reads nor shows that it lives is closed, as it ought to be",
        );
    }
    let rate = f64::from(args.messages) / args.stall.as_secs_f64() / f64::from(args.readers);
    Ok(args.senders.unwrap_or((rate / SENDS_PER_SECOND).ceil().max(1.0) as u32))
}

/// Looks at the server from outside.
struct Eyes {
    server: SocketAddr,
    host: String,
    looked: Option<Moment>,
    /// The server's end that took most so far.
    greatest: Option<SocketMemory>,
    samples: u64,
}

impl Eyes {
    const fn new(server: SocketAddr, host: String) -> Self {
        Self { server, host, looked: None, greatest: None, samples: 0 }
    }

    /// Memory that full sockets hold back in the server; `None`: it does not say.
    fn held_back_bytes(&self) -> Option<f64> {
        metrics::value(&metrics::scrape(self.server, &self.host).ok()?, HELD_BACK)
    }

    /// Looks at the server's sockets, if it is time.
    fn look(&mut self, now: Moment) {
        if self.looked.is_some_and(|looked| now.since(looked) < SOCKETS_EVERY) {
            return;
        }
        self.looked = Some(now);
        let found = sockets(End::Local, self.server.port()).unwrap_or_default();
        self.samples += u64::from(!found.is_empty());
        self.greatest = found.into_iter().chain(self.greatest).max_by_key(SocketMemory::total_bytes);
    }

    /// What both ends of all connections have in their sockets, on its way to the clients.
    fn waiting_bytes(&mut self) -> Option<u64> {
        self.looked = None;
        self.look(clock::monotonic());
        let near = sockets(End::Local, self.server.port()).ok()?;
        let far = sockets(End::Remote, self.server.port()).ok()?;
        (!near.is_empty() && !far.is_empty()).then(|| {
            near.iter().map(|socket| socket.unacked_bytes).sum::<u64>()
                + far.iter().map(|socket| socket.unread_bytes).sum::<u64>()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Mode};
    use clap::Parser;

    fn senders(more: &[&str]) -> Result<u32, String> {
        let words = ["holdfast-load", "slow-reader", "ws://x/"].iter().chain(more);
        match Cli::try_parse_from(words).expect("it is understood").mode {
            Mode::SlowReader(args) => check(&args).map_err(|error| error.to_string()),
            _ => unreachable!("it is `slow-reader`"),
        }
    }

    #[test]
    fn senders_keep_to_the_servers_limit() {
        assert_eq!(senders(&[]), Ok(167));
        assert_eq!(senders(&["--readers", "10"]), Ok(17));
        assert_eq!(senders(&["--senders", "20"]), Ok(20));
        assert_eq!(senders(&["--messages", "10"]), Ok(1));
    }

    #[test]
    fn what_cannot_be_is_said() {
        for (more, why) in [
            (["--connections", "5"], "--connections"),
            (["--readers", "0"], "at least 1"),
            (["--messages", "0"], "--messages"),
            (["--heartbeat", "0s"], "closed, as it ought to be"),
        ] {
            let error = senders(&more).expect_err(why);
            assert!(error.contains(why), "{error}");
        }
    }
}
