//! `sync`: many come back at once to inboxes that have filled up while they were away.
//!
//! ```text
//! fill (a few writers of each group; everybody else is away) ─ sync (all log in with cursor 0) ─ verdict
//! ```

use std::sync::Arc;
use std::time::Duration;

use super::chat::check_groups;
use super::hold::CLOSE_AT_MOST;
use super::setup::{Setup, SetupError, cpu_phase, login};
use crate::cli::SyncArgs;
use crate::clock;
use crate::crew::Crew;
use crate::engine::{EngineOptions, Ramp};
use crate::measure::cpu::CpuSample;
use crate::pilot::{Pilot, catch_signals};
use crate::progress::Progress;
use crate::random::Random;
use crate::report::{Messages, Report, SyncMessages, Threshold, tenth, thousandth};
use crate::scenario::Order;
use crate::scenario::books::Ledger;
use crate::scenario::books::groups::{Division, GroupBooks};
use crate::scenario::fill::{Fill, FillPlan, FillReport};
use crate::scenario::login::Login;
use crate::scenario::sync::{Catchup, SyncCounts, SyncReport};
use crate::stamp::Stamp;
use crate::units::count;

const CONNECTIONS: u32 = 1_000;
/// Entries of one inbox at most: below it numbers never run out.
const BEHIND_MAX: u32 = 50_000_000;
/// Memory for what stands at each `seq`: members of a group come to the same `seq` at different times.
const LOG_BYTES: u64 = 256 << 20;

pub(super) fn run(args: &SyncArgs) -> Result<Report, SetupError> {
    let connections = args.fleet.connections.unwrap_or(CONNECTIONS);
    check_groups(connections, args.group_members)?;
    check(args)?;
    let groups = connections / args.group_members;
    let writers = args.writers.min(args.group_members);
    let Some(login) = login(&args.login, connections)? else {
        return Err(SetupError::Usage(
            "inboxes are users', so they must log in: name the server's data directory with --data (or --token-key, \
             --token)"
                .into(),
        ));
    };
    let tuples = connections.saturating_add(groups * writers);
    let mut setup = Setup::new(&args.url, &args.fleet, connections, tuples, Some(&login))?;
    setup.options.together = args.group_members;
    let mut progress = Progress::new(args.output.quiet, setup.started);
    setup.announce(
        &mut progress,
        &format!(
            "sync: {connections} users in {groups} groups of {}, each {} entries behind",
            args.group_members,
            count(args.behind.into())
        ),
    );
    let run = Random::stream(setup.options.seed ^ setup.started_unix_ms, 0x2a).bits() as u32;
    let division = Division::new(run, args.group_members, groups, args.behind + 1, LOG_BYTES);
    let plan = FillPlan {
        division,
        writers,
        // The first entry says that there is a group.
        messages: args.behind - 1,
        body_bytes: (args.size as usize).max(Stamp::BYTES),
    };
    let interrupted = catch_signals()?;

    let filling = clock::monotonic();
    let (filled, progress) = fill(args, &setup, &login, plan, progress, Arc::clone(&interrupted))?;
    let fill_seconds = clock::monotonic().since(filling).as_secs_f64();

    let deferred: Arc<[u32]> = filled.deferred.clone().into();
    let make = |share: &EngineOptions| {
        let mut books = GroupBooks::new(division, share.first_member, share.members, plan.messages);
        let own = share.first_member..share.first_member + share.members;
        for member in deferred.iter().filter(|member| own.contains(member)) {
            books.deferred(member - share.first_member);
        }
        Catchup::new(login.clone(), share.first_member, share.members, books)
    };
    let own_before = CpuSample::of(std::process::id())?;
    let server_before = setup.server_pid.map(CpuSample::of).transpose()?;
    let begin = clock::monotonic();
    let crew = Crew::start(setup.kind, &setup.options, setup.threads, make)?;
    let mut pilot = Pilot::new(crew, connections, progress, interrupted);
    pilot.sampler = setup.take_sampler();
    pilot.sample_now(0)?;
    pilot.order(Order::Begin);
    pilot.phase("sync", args.duration, |now| now.outstanding == 0)?;
    let sync_seconds = clock::monotonic().since(begin).as_secs_f64();
    let own = CpuSample::of(std::process::id())?.since(&own_before);
    let server_after = setup.server_pid.map(CpuSample::of).transpose()?;
    let held = pilot.snapshot().up;
    pilot.sample_now(held)?;
    pilot.order(Order::Close);
    pilot.phase("close", CLOSE_AT_MOST, |_| false)?;
    let landing = pilot.land()?;

    let (books, counts) = settle(landing.reports);
    let settlement = GroupBooks::settle(books);
    let mut report = setup.report("sync", &landing.engine, held, sync_seconds, landing.sampler.as_ref());
    let total = clock::monotonic().since(setup.started).as_secs_f64();
    for (name, seconds) in [("fill", fill_seconds), ("sync", sync_seconds), ("total", total)] {
        report.seconds.insert(name, thousandth(seconds));
    }
    let per_second = |what: f64| tenth(what / sync_seconds.max(1e-9));
    let mut messages = Messages::of_chat(&settlement, &counts.chat, per_second(counts.entries as f64));
    messages.sent = filled.acked;
    messages.acked = filled.acked;
    if let Some(chat) = &mut messages.chat {
        chat.resent = filled.resent;
        chat.errors.merge(&filled.errors);
    }
    messages.sync = Some(SyncMessages {
        behind: args.behind,
        groups,
        group_members: args.group_members,
        filled: filled.acked,
        filled_per_second: tenth(filled.acked as f64 / fill_seconds.max(1e-9)),
        live: counts.live,
        entries: counts.entries,
        entries_per_second: per_second(counts.entries as f64),
        pages: counts.chat.pages,
        page_bytes: counts.page_bytes,
        page_bytes_per_second: per_second(counts.page_bytes as f64),
    });
    report.messages = Some(messages);
    report.latency("first_page", &counts.first_page);
    report.latency("live", &counts.until_live);
    let per_entry =
        |ns: u64| (counts.entries > 0).then(|| thousandth(ns as f64 / 1e3 / counts.entries as f64));
    if let (Some(server), Some((after, before))) = (&mut report.server, server_after.zip(server_before)) {
        let cpu = after.since(&before);
        server.cpu_us_per_message = per_entry(cpu.total_ns);
        // Pages are read while connections come up: what grows then is no connection's.
        (server.fit, server.bytes_per_connection, server.bytes_per_connection_at_plateau) =
            (None, None, None);
        server.cpu.insert("sync", cpu_phase(&cpu, sync_seconds));
    }
    report.generator.cpu_share = Some(thousandth(own.total_ns as f64 / 1e9 / sync_seconds.max(1e-9)));
    report.generator.cpu_us_per_message = per_entry(own.total_ns);
    report.generator.user_bytes_per_connection = None;
    report.thresholds = thresholds(args, connections, &report, &counts, landing.engine.lost);
    report.judge(settlement.is_correct());
    Ok(report)
}

fn check(args: &SyncArgs) -> Result<(), SetupError> {
    if !(2..=BEHIND_MAX).contains(&args.behind) {
        return Err(SetupError::Usage(format!(
            "--behind {}: an inbox gets 2 to {} entries, of which the first says that the group was made",
            args.behind,
            count(BEHIND_MAX.into())
        )));
    }
    if args.writers == 0 {
        return Err(SetupError::Usage("--writers 0: at least one member of each group must write".into()));
    }
    Ok(())
}

/// Lets the writers of all groups write, and goes away.
fn fill(
    args: &SyncArgs,
    setup: &Setup,
    login: &Login,
    plan: FillPlan,
    progress: Progress,
    interrupted: Arc<std::sync::atomic::AtomicBool>,
) -> Result<(FillReport, Progress), SetupError> {
    let groups = setup.options.members / plan.division.group_members;
    let writers = groups * plan.writers;
    let options =
        EngineOptions { members: writers, together: plan.writers, ramp: Ramp::Flat, ..setup.options.clone() };
    let make = |share: &EngineOptions| Fill::new(login.clone(), plan, share.first_member, share.members);
    let crew = Crew::start(setup.kind, &options, setup.threads, make)?;
    let mut pilot = Pilot::new(crew, writers, progress, interrupted);
    // What the threads show before they have begun says nothing.
    pilot.order(Order::Begin);
    pilot.phase("fill", args.fill_within, |now| now.outstanding == 0 || now.broken > 0)?;
    let missing = pilot.snapshot().outstanding;
    if missing == 0 {
        pilot.order(Order::Close);
        pilot.phase("close", CLOSE_AT_MOST, |_| false)?;
    }
    let landing = pilot.land()?;
    let mut filled = FillReport::default();
    for report in landing.reports {
        filled.acked += report.acked;
        filled.resent += report.resent;
        filled.deferred.extend(report.deferred);
        filled.errors.merge(&report.errors);
        filled.broken = filled.broken.or(report.broken);
    }
    if let Some(why) = filled.broken {
        return Err(SetupError::Inboxes(why));
    }
    if missing != 0 {
        return Err(SetupError::Inboxes(too_slow(args.fill_within, &filled, missing, &landing.engine)));
    }
    Ok((filled, landing.progress))
}

fn too_slow(
    within: Duration,
    filled: &FillReport,
    missing: i64,
    engine: &crate::engine::EngineReport,
) -> String {
    let mut ends = engine.failures.clone();
    ends.merge(&engine.losses);
    format!(
        "{} messages were accepted in {within:?}, and {missing} are missing; errors that the server sent: {}; \
         connections that ended: {}; give it more time with --fill-within, more writers with --writers, or raise \
         limits.send_per_second and limits.send_burst of the server",
        count(filled.acked),
        filled.errors.list(),
        ends.list()
    )
}

fn settle(reports: Vec<SyncReport>) -> (Vec<GroupBooks>, SyncCounts) {
    let mut counts = SyncCounts::default();
    let mut books = Vec::new();
    for report in reports {
        counts.merge(&report.counts);
        books.push(report.books);
    }
    (books, counts)
}

fn thresholds(
    args: &SyncArgs,
    connections: u32,
    report: &Report,
    counts: &SyncCounts,
    lost: u64,
) -> Vec<Threshold> {
    let members = f64::from(connections);
    let opened = report.connections.opened as f64;
    let entries = members * f64::from(args.behind);
    let mut thresholds = vec![
        Threshold::at_least("connections opened", Some(opened), members, ""),
        Threshold::at_most("connections lost", Some(lost as f64), f64::from(args.fleet.max_lost), ""),
        Threshold::at_least("members at the head", Some(counts.live as f64), members, ""),
        Threshold::at_least("inbox entries", Some(counts.entries as f64), entries, ""),
    ];
    if let Some(least) = args.min_entries_per_second {
        let measured = report.messages.as_ref().map(|messages| messages.per_second);
        thresholds.push(Threshold::at_least("entries per second", measured, least, "per second"));
    }
    let bounds = [
        ("p99 first page", args.max_first_page_p99, &counts.first_page),
        ("p99 live", args.max_live_p99, &counts.until_live),
    ];
    for (name, limit, latencies) in bounds {
        if let Some(limit) = limit {
            let p99 = latencies.summary().p99;
            thresholds.push(Threshold::at_most(name, Some(p99), limit.as_secs_f64() * 1e6, "us"));
        }
    }
    thresholds
}
