//! `chat`: pairs of users, or the members of groups, write to each other through a server that runs already.

use std::sync::Arc;
use std::time::Duration;

use super::hold::{CLOSE_AT_MOST, RAMP_AT_MOST};
use super::setup::{Setup, SetupError, cpu_phase, lateness_rule, login};
use crate::arrival::Schedule;
use crate::cli::{ChatArgs, ClientChoice};
use crate::clock;
use crate::crew::Crew;
use crate::engine::{EngineOptions, Tally};
use crate::measure::cpu::CpuSample;
use crate::pilot::{Landing, PhaseEnd, Pilot, catch_signals};
use crate::progress::Progress;
use crate::random::Random;
use crate::report::{GroupMessages, Messages, Report, Threshold, thousandth};
use crate::scenario::books::groups::{Division, GroupBooks};
use crate::scenario::books::{Books, Ledger, Marks, Pairing, Settlement};
use crate::scenario::chat::{Chat, ChatCounts, ChatReport};
use crate::scenario::clients::Clients;
use crate::scenario::login::Login;
use crate::scenario::{Order, Scenario};
use crate::stamp::Stamp;

const CONNECTIONS: u32 = 1_000;
/// The server's own limit, by default, for one session.
const SENDS_PER_SECOND_MAX: f64 = 20.0;
/// Until all groups are made and all members know theirs.
const GROUPS_AT_MOST: Duration = Duration::from_secs(120);
/// `seq`s of a group that are remembered, where memory allows it.
const SEQS_REMEMBERED: u32 = 16_384;

pub(super) fn run(args: &ChatArgs) -> Result<Report, SetupError> {
    let connections = args.fleet.connections.unwrap_or(CONNECTIONS);
    match args.group_members {
        Some(group_members) => check_groups(connections, group_members)?,
        None if connections < 2 || connections % 2 == 1 => {
            return Err(SetupError::Usage(format!(
                "--connections {connections}: pairs chat, so it must be even"
            )));
        }
        None => {}
    }
    if args.rate.is_nan() || args.rate <= 0.0 {
        return Err(SetupError::Usage("--rate must be more than 0 messages per second".into()));
    }
    let is_library = args.client == ClientChoice::Library;
    if is_library && let Some((name, _)) = args.fleet.header.first() {
        return Err(SetupError::Usage(format!(
            "--header {name}: the client library sends no headers of others; use --client frames"
        )));
    }
    let mut setup = set_up(args, connections)?;
    if is_library {
        // It has its own.
        setup.options.heartbeat = Duration::ZERO;
    }
    let run = Random::stream(setup.options.seed ^ setup.started_unix_ms, 0x2a).bits() as u32;
    match args.group_members {
        None => {
            let marks = Arc::new(Marks::new(connections));
            let books = |share: &EngineOptions| {
                Books::new(run, share.first_member, share.members, Pairing::Neighbours, Arc::clone(&marks))
            };
            match args.client {
                ClientChoice::Library => lead(args, setup, 1, books, Clients::new),
                ClientChoice::Frames => lead(args, setup, 1, books, Chat::new),
            }
        }
        Some(group_members) => {
            setup.options.together = group_members;
            let division = Division::new(
                run,
                group_members,
                connections / group_members,
                SEQS_REMEMBERED,
                Division::LOG_BYTES,
            );
            let books =
                |share: &EngineOptions| GroupBooks::new(division, share.first_member, share.members, 0);
            match args.client {
                ClientChoice::Library => lead(args, setup, group_members, books, Clients::new),
                ClientChoice::Frames => lead(args, setup, group_members, books, Chat::new),
            }
        }
    }
}

/// Whether so many users can be divided into groups of so many.
pub(super) fn check_groups(connections: u32, group_members: u32) -> Result<(), SetupError> {
    if !(2..=Division::MEMBERS_MAX).contains(&group_members) {
        return Err(SetupError::Usage(format!(
            "--group-members {group_members}: a group here has 2 to {} members; the server's limit is \
             limits.group_members, 500 by default",
            Division::MEMBERS_MAX
        )));
    }
    let rest = connections % group_members;
    if connections < group_members || rest > 0 {
        let fewer = connections - rest;
        let more = fewer.saturating_add(group_members);
        let or_fewer = if fewer > 0 { format!("{fewer} or ") } else { String::new() };
        return Err(SetupError::Usage(format!(
            "--connections {connections}: with --group-members {group_members} each user is in exactly one group, and \
             {rest} would be left over; use --connections {or_fewer}{more}"
        )));
    }
    Ok(())
}

fn set_up(args: &ChatArgs, connections: u32) -> Result<Setup, SetupError> {
    let login = login(&args.login, connections)?;
    Setup::new(&args.url, &args.fleet, connections, connections, login.as_ref())
}

/// Through all phases. `group_members`: 1 stands for pairs.
fn lead<L: Ledger, S: Scenario<Report = ChatReport<L>> + Send + 'static>(
    args: &ChatArgs,
    mut setup: Setup,
    group_members: u32,
    make_books: impl Fn(&EngineOptions) -> L,
    make_members: impl Fn(Login, u32, L, Schedule, usize, u64) -> S,
) -> Result<Report, SetupError> {
    let connections = setup.options.members;
    let is_groups = group_members > 1;
    let Some(login) = login(&args.login, connections)? else {
        return Err(SetupError::Usage(
            "users chat, so they must log in: name the server's data directory with --data (or --token-key, --token)"
                .into(),
        ));
    };
    let mut progress = Progress::new(args.output.quiet, setup.started);
    let (rate, duration) = (args.rate, args.duration);
    let who = if is_groups {
        format!("{connections} users in {} groups of {group_members}", connections / group_members)
    } else {
        format!("{connections} users")
    };
    setup.announce(&mut progress, &format!("chat: {who}, {rate} messages/s in all, for {duration:?}"));
    if rate / f64::from(connections) > SENDS_PER_SECOND_MAX / 2.0 {
        progress.say(&format!(
            "  note       {:.1} messages/s for each user; Holdfast allows {SENDS_PER_SECOND_MAX} by default, with a burst \
             of 100: more connections make it less",
            rate / f64::from(connections)
        ));
    }
    let interrupted = catch_signals()?;
    let (seed, spread) = (setup.options.seed, args.fleet.arrivals);
    let body_bytes = (args.size as usize).max(Stamp::BYTES);
    let make = |share: &EngineOptions| {
        let books = make_books(share);
        let part = f64::from(share.members) / f64::from(connections);
        let random = Random::stream(seed, 0xc4a8 ^ u64::from(share.first_member));
        let schedule = Schedule::new(spread, rate * part, clock::monotonic(), random);
        make_members(login.clone(), share.first_member, books, schedule, body_bytes, seed)
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
    let mut making = None;
    if is_groups {
        let begin = clock::monotonic();
        pilot.order(Order::Prepare);
        let end = pilot.phase("groups", GROUPS_AT_MOST, |now| now.outstanding == 0 || now.broken > 0)?;
        let snapshot = pilot.snapshot();
        if end == PhaseEnd::TimeUp || snapshot.outstanding != 0 {
            let landing = pilot.land()?;
            return Err(not_made(&landing, connections / group_members, snapshot.outstanding));
        }
        making = Some(clock::monotonic().since(begin).as_secs_f64());
    }
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
    if let Some(making) = making {
        report.seconds.insert("groups", thousandth(making));
    }
    let mut messages = Messages::of_chat(&settlement, &counts, per_second);
    messages.groups = is_groups.then(|| GroupMessages {
        count: u64::from(connections / group_members),
        members: group_members,
        deliveries: settlement.counts.delivered + settlement.counts.own,
        deliveries_per_second: messages.per_second,
    });
    report.messages = Some(messages);
    report.latency("accepted", &settlement.counts.accepted_latency);
    report.latency("delivered", &settlement.counts.delivered_latency);
    if let (Some(server), Some(cpu)) = (&mut report.server, &cpu) {
        server.cpu.insert("messages", cpu_phase(cpu, load));
        server.cpu_us_per_message = (done > 0).then(|| thousandth(cpu.total_ns as f64 / 1e3 / done as f64));
    }
    report.generator.cpu_share = Some(thousandth(own.total_ns as f64 / 1e9 / load.max(1e-9)));
    report.generator.cpu_us_per_message =
        (done > 0).then(|| thousandth(own.total_ns as f64 / 1e3 / done as f64));
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
            args.fleet.arrivals.fewest(rate * load) / load.max(1e-9)
                * f64::from(group_members)
                * args.min_rate_share,
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

/// What is said when groups could not be made.
fn not_made<L: Ledger>(landing: &Landing<ChatReport<L>>, groups: u32, outstanding: i64) -> SetupError {
    if let Some(why) = landing.reports.iter().find_map(|report| report.books.broken()) {
        return SetupError::Groups(why.to_owned());
    }
    let mut errors = Tally::default();
    landing.reports.iter().for_each(|report| errors.merge(&report.counts.errors));
    let mut ends = landing.engine.failures.clone();
    ends.merge(&landing.engine.losses);
    SetupError::Groups(format!(
        "{outstanding} answers and events of the making of {groups} groups are missing after {GROUPS_AT_MOST:?}; errors \
         that the server sent: {}; connections that ended: {}",
        errors.list(),
        ends.list()
    ))
}

/// Closes the books of all threads.
pub(super) fn settle<L: Ledger>(reports: Vec<ChatReport<L>>) -> (Settlement, ChatCounts) {
    let mut counts = ChatCounts::default();
    let mut books = Vec::new();
    for report in reports {
        counts.merge(&report.counts);
        books.push(report.books);
    }
    (L::settle(books), counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_would_be_left_over_is_said() {
        assert!(check_groups(2_000, 500).is_ok());
        let text = check_groups(2_050, 100).unwrap_err().to_string();
        assert!(text.contains("50 would be left over") && text.contains("2000 or 2100"), "{text}");
        let text = check_groups(40, 100).unwrap_err().to_string();
        assert!(text.contains("--connections 100") && !text.contains("0 or"), "{text}");
        for wrong in [0, 1, 10_001] {
            let text = check_groups(20_000, wrong).unwrap_err().to_string();
            assert!(text.contains(&format!("--group-members {wrong}")), "{text}");
        }
    }
}
