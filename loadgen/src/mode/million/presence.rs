//! What `million --watchers` does beside `million`:
//!
//! ```text
//! … messages ─ pause ─ watch ─ flapping (messages again, while members come and go) ─ quiesce ─ drain
//!                    └ memory ┘
//! ```
//!
//! A watching session costs what the server has grown by between the two ends of `watch`, both taken at rest.

use std::sync::Arc;
use std::time::Duration;

use super::{Measured, SETTLE, quiesce};
use crate::arrival::Spread;
use crate::cli::{MillionArgs, PresenceArgs};
use crate::clock;
use crate::measure::sample::Sample;
use crate::mode::setup::{SetupError, cpu_phase};
use crate::pilot::{Pilot, PilotError};
use crate::progress::Progress;
use crate::report::{PerConnection, PresenceReport, Report, Threshold, tenth, thousandth};
use crate::scenario::Order;
use crate::scenario::books::{Counts, Pairing};
use crate::scenario::presence::{
    Plan, PresenceCounts, PresenceOptions, WatchBooks, WatchedReport, away_at_least,
};
use crate::units::count;

/// How long a run may take when nothing else is said.
const TIME: Duration = Duration::from_mins(6);
const TIME_WITH_WATCHERS: Duration = Duration::from_mins(9);
/// Watches are spread over this time when no rate is given: in a burst, what is told would wait in the kernel, and count.
const WATCHED_IN: Duration = Duration::from_secs(60);
/// Watches may take so much longer than their schedule wants.
const WATCHED_WITHIN: Duration = Duration::from_secs(60);
/// How long memory is sampled once it is calm.
const SAMPLED: Duration = Duration::from_secs(2);
/// Of the changes that watchers ought to see so many have to be told one by one: what undoes each other within seconds
/// may be coalesced, but a server that tells nothing would know it right at the end too.
const SEEN_SHARE: f64 = 0.99;

/// Memory of the server before and after the watches.
#[derive(Debug, Clone, Copy)]
pub(super) struct WatchMemory {
    before: Rest,
    after: Rest,
}

/// Memory of the server when nothing happens: medians of some samples.
#[derive(Debug, Clone, Copy)]
struct Rest {
    user_bytes: f64,
    kernel_bytes: f64,
}

impl Rest {
    fn of(samples: &[Sample]) -> Option<Self> {
        let median = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied()
        };
        let servers = || samples.iter().filter_map(|sample| sample.server);
        Some(Self {
            user_bytes: median(servers().map(|server| server.rss_bytes as f64).collect())?,
            kernel_bytes: median(servers().map(|server| server.kernel_bytes()).collect())?,
        })
    }
}

impl WatchMemory {
    fn per_watcher(self, watchers: u32) -> PerConnection {
        let per = |after: f64, before: f64| tenth((after - before) / f64::from(watchers.max(1)));
        let user = per(self.after.user_bytes, self.before.user_bytes);
        let kernel = per(self.after.kernel_bytes, self.before.kernel_bytes);
        PerConnection { user, kernel, total: tenth(user + kernel) }
    }
}

pub(super) fn check(args: &MillionArgs) -> Result<(), SetupError> {
    let PresenceArgs { watchers, watched, .. } = args.presence;
    if watchers == 0 {
        return Ok(());
    }
    let connections = args.connections;
    let wrong = |text: String| Err(SetupError::Usage(text));
    if connections > WatchBooks::MEMBERS_MAX {
        return wrong(format!("--watchers goes with at most {} --connections", WatchBooks::MEMBERS_MAX));
    }
    if watchers > connections {
        return wrong(format!("--watchers {watchers} are more than --connections {connections}"));
    }
    if watched >= connections {
        return wrong(format!(
            "--watched {watched} needs more than as many --connections, not {connections}"
        ));
    }
    let (most, needed) = (flappers_max(args), flappers_at_once(args));
    if needed > f64::from(most) {
        return wrong(format!(
            "--flapping {}% of {connections} sessions needs {needed:.0} that come and go, and there are {most}: half of \
             those that do not watch; take fewer --watchers, a shorter --presence-grace, or less",
            args.presence.flapping * 100.0
        ));
    }
    Ok(())
}

fn flaps_per_second(args: &MillionArgs) -> f64 {
    args.presence.flapping * f64::from(args.connections) / 60.0
}

fn watches_per_second(args: &PresenceArgs) -> f64 {
    args.watch_rate.unwrap_or(f64::from(args.watchers) / WATCHED_IN.as_secs_f64())
}

/// The others write to each other.
fn flappers_max(args: &MillionArgs) -> u32 {
    (args.connections - args.presence.watchers) / 2
}

/// Members that are away or rest at any time, with room for chance.
fn flappers_at_once(args: &MillionArgs) -> f64 {
    // Away for one and a half times the least on average, and resting as long as the least.
    let seconds = away_at_least(args.presence.presence_grace).as_secs_f64() * 2.5;
    let mean = flaps_per_second(args) * seconds;
    if mean > 0.0 { (mean + 4.0 * mean.sqrt()).ceil() } else { 0.0 }
}

/// One for each flap of the run, where there are so many, so that each member flaps once.
fn flappers(args: &MillionArgs) -> u32 {
    let expected = flaps_per_second(args) * args.duration.as_secs_f64();
    let wanted = expected + 4.0 * expected.sqrt();
    (wanted.max(flappers_at_once(args)).ceil() as u32).min(flappers_max(args))
}

pub(super) fn options(
    args: &MillionArgs,
    first_user: u64,
    pairing: &Pairing,
    seed: u64,
) -> Option<PresenceOptions> {
    let PresenceArgs { watchers, watched, .. } = args.presence;
    let plan = || Plan::new(args.connections, watchers, watched, flappers(args), pairing.clone(), seed);
    (watchers > 0).then(|| PresenceOptions {
        plan: Arc::new(plan()),
        grace: args.presence.presence_grace,
        watches_per_second: watches_per_second(&args.presence),
        flaps_per_second: flaps_per_second(args),
        first_user,
        seed,
    })
}

/// What the server is told beside its arguments.
pub(super) fn environment(args: &PresenceArgs) -> Vec<(String, String)> {
    let grace = format!("{}ms", args.presence_grace.as_millis());
    let grace = ("HOLDFAST_LIMITS__PRESENCE_GRACE".to_owned(), grace);
    if args.watchers > 0 { vec![grace] } else { Vec::new() }
}

pub(super) fn announce(args: &MillionArgs, progress: &mut Progress) {
    let PresenceArgs { watchers, watched, flapping, .. } = args.presence;
    if watchers == 0 {
        return;
    }
    progress.say(&format!(
        "  presence   {} sessions watch {} others each, {} % of all leave per minute",
        count(watchers.into()),
        count(watched.into()),
        flapping * 100.0
    ));
    for (name, value) in environment(&args.presence) {
        progress.say(&format!("  setting    {name}={value}"));
    }
}

pub(super) fn time_limit(args: &MillionArgs) -> Duration {
    args.max_time.unwrap_or(if args.presence.watchers > 0 { TIME_WITH_WATCHERS } else { TIME })
}

/// What watching may add to the server's side in all.
pub(super) fn allowed_bytes(args: &PresenceArgs) -> f64 {
    f64::from(args.watchers) * args.max_watcher_bytes
}

/// From the end of the first messages to the quiesce.
pub(super) fn lead(
    args: &MillionArgs,
    pilot: &mut Pilot<WatchedReport>,
    measured: &mut Measured,
    pid: Option<u32>,
) -> Result<(), PilotError> {
    measured.times.pause = quiesce(args, pilot, "pause", |now| now.outstanding == 0)?;
    let (before, seconds) = rest(pilot, "pause")?;
    measured.times.pause += seconds;

    pilot.order(Order::Watch);
    let begin = clock::monotonic();
    let wanted = f64::from(args.presence.watchers) / watches_per_second(&args.presence);
    let at_most = Duration::from_secs_f64(wanted * 1.5) + WATCHED_WITHIN;
    pilot.phase("watch", at_most, |now| now.outstanding == 0)?;
    measured.times.watch = clock::monotonic().since(begin).as_secs_f64();
    let (after, seconds) = rest(pilot, "watch")?;
    measured.times.watch += seconds;
    measured.watches = before.zip(after).map(|(before, after)| WatchMemory { before, after });

    pilot.order(Order::Begin);
    let (cpu, flapping) = pilot.measured_phase("flapping", args.duration, pid)?;
    measured.times.flapping = flapping;
    if let Some(cpu) = &cpu {
        measured.cpu.push(("flapping", cpu_phase(cpu, flapping)));
    }
    // Who is away comes back, and everybody who watches hears of it.
    let all = u64::from(args.connections);
    let is_through = |now: &crate::engine::Snapshot| now.outstanding == 0 && now.up >= all;
    measured.times.quiesce = quiesce(args, pilot, "quiesce", is_through)?;
    Ok(())
}

/// Lets memory come to rest, and says how much it is.
fn rest(pilot: &mut Pilot<WatchedReport>, name: &'static str) -> Result<(Option<Rest>, f64), PilotError> {
    let taken = |pilot: &Pilot<WatchedReport>| pilot.sampler.as_ref().map_or(0, |it| it.samples().len());
    let (_, settled) = pilot.measured_phase(name, SETTLE, None)?;
    let first = taken(pilot);
    let (_, sampled) = pilot.measured_phase(name, SAMPLED, None)?;
    let samples = pilot.sampler.as_ref().map_or(&[][..], |sampler| &sampler.samples()[first..]);
    Ok((Rest::of(samples), settled + sampled))
}

/// Writes into the report what was found out. `after`: the books on the messages that flowed while members flapped.
pub(super) fn note(
    args: &MillionArgs,
    report: &mut Report,
    measured: &Measured,
    found: &PresenceCounts,
    after: &Counts,
) {
    report.latency("accepted", &found.before.accepted);
    report.latency("delivered", &found.before.delivered);
    report.latency("accepted_with_presence", &after.accepted_latency);
    report.latency("delivered_with_presence", &after.delivered_latency);
    report.latency("presence_offline", &found.watches.offline_latency);
    report.latency("presence_online", &found.watches.online_latency);
    let p99 =
        |name| report.latency_us.get(name).filter(|summary| summary.count > 0).map(|summary| summary.p99);
    let factor = p99("delivered_with_presence").zip(p99("delivered")).map(|(with, without)| with / without);
    let watches = &found.watches;
    report.presence = Some(PresenceReport {
        watchers: args.presence.watchers,
        watched: args.presence.watched,
        grace_ms: args.presence.presence_grace.as_millis() as u64,
        flapping_per_minute: args.presence.flapping,
        bytes_per_watcher: measured.watches.map(|memory| memory.per_watcher(args.presence.watchers)),
        delivered_p99_factor: factor.map(thousandth),
        watching: watches.watching,
        flaps: found.flaps,
        flaps_held_back: found.held_back,
        returned: found.returned,
        frames: watches.frames,
        told: watches.told,
        repeated: watches.repeated,
        expected: watches.expected,
        seen: watches.seen,
        coalesced: watches.coalesced(),
        misrouted: watches.misrouted,
        invented: watches.invented,
        stale: watches.stale,
        untold: watches.untold,
    });
    // Members that come back came up before: they say nothing about the ramp.
    let first = report.connections.opened.saturating_sub(found.returned);
    if measured.times.ramp > 0.0 {
        report.connections.opened_per_second = tenth(first as f64 / measured.times.ramp);
    }
}

pub(super) fn thresholds(args: &MillionArgs, report: &Report, found: &PresenceCounts) -> Vec<Threshold> {
    let presence = report.presence.as_ref();
    let user = presence.and_then(|presence| presence.bytes_per_watcher).map(|per| per.user);
    let factor = presence.and_then(|presence| presence.delivered_p99_factor);
    let watches = &found.watches;
    let flaps = Spread::Poisson.fewest(flaps_per_second(args) * args.duration.as_secs_f64()).floor();
    let seen = (watches.expected as f64 * SEEN_SHARE).floor();
    let wrong = watches.misrouted + watches.invented + watches.stale + watches.untold;
    let watchers = f64::from(args.presence.watchers);
    vec![
        Threshold::at_most(
            "server, process, more per watching session",
            user,
            args.presence.max_watcher_bytes,
            "B",
        ),
        Threshold::at_most(
            "p99 delivered, with presence by without",
            factor,
            args.presence.max_presence_factor,
            "×",
        ),
        Threshold::at_least("sessions that watch", Some(watches.watching as f64), watchers, ""),
        Threshold::at_least("members that left", Some(found.flaps as f64), flaps, ""),
        Threshold::at_least("changes of presence seen", Some(watches.seen as f64), seen, ""),
        Threshold::at_most("presence that is not so", Some(wrong as f64), 0.0, ""),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Mode};
    use crate::measure::sample::ServerSample;
    use clap::Parser;

    fn args(words: &str) -> MillionArgs {
        let words = format!("holdfast-load million {words}");
        match Cli::try_parse_from(words.split_whitespace()).unwrap().mode {
            Mode::Million(args) => args,
            _ => unreachable!("it is `million`"),
        }
    }

    #[test]
    fn the_claim_needs_a_hundredth_of_the_members_to_flap() {
        let args = args("--watchers 100000 --watched 50 --flapping 1%");
        assert!(check(&args).is_ok());
        assert_eq!(flappers(&args), 10_400, "10,000 are expected in a minute, chance may want 400 more");
        assert_eq!(watches_per_second(&args.presence), 100_000.0 / 60.0);
        assert_eq!(time_limit(&args), TIME_WITH_WATCHERS);
        assert_eq!(allowed_bytes(&args.presence), 1.2e8);
        let environment = environment(&args.presence);
        assert_eq!(environment, [("HOLDFAST_LIMITS__PRESENCE_GRACE".to_owned(), "1000ms".to_owned())]);
    }

    #[test]
    fn without_watchers_nothing_is_set_and_nothing_is_wrong() {
        let args = args("-n 2 --watched 50 --flapping 9999%");
        assert!(check(&args).is_ok() && environment(&args.presence).is_empty());
        assert!(options(&args, 1, &Pairing::cycle(2, 1), 1).is_none());
        assert_eq!((time_limit(&args), allowed_bytes(&args.presence)), (TIME, 0.0));
    }

    #[test]
    fn what_does_not_go_together_is_said() {
        for (words, part) in [
            ("-n 100 --watchers 101", "--watchers 101 are more than --connections 100"),
            ("-n 50 --watchers 10", "--watched 50 needs more"),
            ("-n 200 --watchers 200 --flapping 1%", "needs 3 that come and go, and there are 0"),
            ("-n 200 --watchers 40 --flapping 2000%", "a shorter --presence-grace"),
        ] {
            let text = check(&args(words)).unwrap_err().to_string();
            assert!(text.contains(part), "`{part}` in {text}");
        }
        assert!(check(&args("-n 200 --watchers 200 --flapping 0%")).is_ok());
    }

    #[test]
    fn a_watching_session_costs_what_the_server_has_grown_by() {
        let sample = |rss_bytes: u64| Sample {
            seconds: 0.0,
            connections: 1_000,
            server: Some(ServerSample {
                rss_bytes,
                page_table_bytes: 1_000,
                slab_bytes: rss_bytes as f64 / 100.0,
                other_bytes: 0.0,
                cpu_ns: 0,
            }),
            generator_rss_bytes: 0,
            generator_cpu_ns: 0,
            kernel_growth_bytes: 0,
        };
        let rest = |samples: [u64; 3]| Rest::of(&samples.map(sample)).unwrap();
        let memory = WatchMemory {
            // One sample in which something else happened says nothing.
            before: rest([1_000_000, 9_000_000, 1_000_000]),
            after: rest([1_100_000, 1_100_000, 0]),
        };
        assert_eq!(memory.per_watcher(100), PerConnection { user: 1_000.0, kernel: 10.0, total: 1_010.0 });
        assert!(Rest::of(&[]).is_none());
    }
}
