//! Kills a server under load, again and again, and asks whether it kept its word.
//!
//! Each round: pairs of users and groups chat at full tilt, change what they have written, confirm and read, `kill -9` at a random moment, restart, resend what was not
//! acknowledged, then read every inbox from the beginning and from a cursor within; kill it again, and look over the
//! whole store. In some rounds the restarted server is killed once more while it replays.
//!
//! What must hold after each round:
//! - *durable*: every acknowledged message, edit and deletion is in all inboxes, with the `seq` and `messageId` that were
//!   acknowledged, and an acknowledged read mark in its user's;
//! - *once*: no `clientId` stands twice in an inbox, whatever was resent;
//! - *ordered*: within a conversation `seq` rises with `rev`, without holes, and all users see the same order;
//! - *complete*: `rev` is dense from 1 to the head, a cursor gets exactly what comes after it, and every entry that was
//!   seen before the kill still has its `rev`;
//! - *sound*: what `holdfast store check` looks at is as it must be.
//!
//! A killed process leaves its writes to the kernel, so on a real disk a build that forgets fsync would pass. Hence the
//! second part, on a disk that drops what was not synced at each kill (`holdfast_faultfs`); and the third, in which a
//! build that acknowledges before fsync must be caught there.
//!
//! ```text
//! cargo run -p holdfast-gateway --example crash -- --rounds 200 --faultfs-rounds 10
//! ```
//!
//! Exit code 0: all of it held. 2: something did not; the message says what. 1: the server could not be run. 77: all of
//! it held, but FUSE cannot be used here, so the parts on faultfs did not run.

#![forbid(unsafe_code)]
#![expect(clippy::disallowed_methods, reason = "a campaign measures wall time and paces itself")]

mod client;
mod ledger;
mod server;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::Parser;
use holdfast_faultfs::{Disk, Loss, MountError, Mounted};

use client::Talker;
use ledger::{Contract, Findings, Ledger, Violation};
use server::Server;

/// Kills a server under load and checks that it kept its word.
#[derive(Debug, Parser)]
struct Options {
    /// How often the server is killed under load, with its data on a real disk.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// How often with its data on a disk that drops what was not synced.
    #[arg(long, default_value_t = 0)]
    faultfs_rounds: u32,
    /// A server that acknowledges before fsync, which must be caught on that disk.
    #[arg(long)]
    planted: Option<PathBuf>,
    /// In how many attempts such a server must have been caught.
    #[arg(long, default_value_t = 3)]
    planted_rounds: u32,
    /// One round in this many kills the server again while it replays; 0: never.
    #[arg(long, default_value_t = 5)]
    replay_every: u32,
    /// Pairs of users that chat.
    #[arg(long, default_value_t = 8)]
    pairs: u32,
    /// Groups that chat.
    #[arg(long, default_value_t = 2)]
    groups: u32,
    /// Members of each.
    #[arg(long, default_value_t = 5)]
    group_members: u32,
    /// Sends of one user that may wait for their answer.
    #[arg(long, default_value_t = 8)]
    in_flight: usize,
    /// Acknowledged messages per second, under load on the real disk, below which the campaign proves too little.
    #[arg(long, default_value_t = 0)]
    least_rate: u32,
    /// Where the random moments come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The server; by default the `holdfast` beside this program's folder.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where its data goes; by default a temporary directory.
    #[arg(long)]
    data: Option<PathBuf>,
}

/// After so many rounds other users take over: every inbox is read from its beginning in each round.
const ROUNDS_PER_USER: u32 = 3;
/// After so many rounds a new store: the whole of it is looked over in each round.
const ROUNDS_PER_STORE: u32 = 6;
/// How often a kill that came too late to hit the replay is tried again.
const REPLAY_ATTEMPTS: u32 = 20;
/// On faultfs there are few rounds; every other one kills in replay.
const FAULTFS_REPLAY_EVERY: u32 = 2;
/// The part with a server that acknowledges before fsync.
const PLANTED: &str = "planted bug";
/// Exit codes.
const BROKEN: u8 = 2;
const NOT_ALL_RAN: u8 = 77;

/// Random numbers from a seed (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most - least + 1)
    }
}

/// What one part of the campaign has seen.
#[derive(Default)]
struct Totals {
    rounds: u32,
    kills: u32,
    kills_in_replay: u32,
    sent: u64,
    acked: u64,
    load_seconds: f64,
    stores_checked: u32,
    entries_checked: u64,
    findings: Findings,
}

impl Totals {
    fn rate(&self) -> f64 {
        self.acked as f64 / self.load_seconds.max(1e-9)
    }

    fn broken(&self, contract: Contract) -> usize {
        self.findings.violations.iter().filter(|violation| violation.contract == contract).count()
    }

    fn held(&self) -> bool {
        self.findings.violations.is_empty()
    }
}

/// A part of the campaign: which server, where its data lies, and what becomes of it at a kill.
struct Part<'a> {
    name: &'static str,
    binary: &'a Path,
    rounds: u32,
    /// One round in this many kills in replay; 0: never.
    replay_every: u32,
    data: PathBuf,
    /// `None`: a real disk, which keeps what the kernel has.
    disk: Option<Disk>,
    /// Whether the disk always drops everything that was not synced, or pieces of it in every other round.
    drops_all: bool,
}

impl Part<'_> {
    /// The machine stops too.
    fn lose(&self, round: u32, random: &mut Random) {
        let Some(disk) = &self.disk else { return };
        let some = Loss::Some { seed: random.next() };
        disk.crash(if self.drops_all || round % 2 == 1 { Loss::All } else { some });
    }
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("the server could not be run: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> std::io::Result<u8> {
    let temporary = tempfile::tempdir()?;
    let data = options.data.clone().unwrap_or_else(|| temporary.path().join("data"));
    let binary = options.binary.clone().map_or_else(server::beside_this_program, Ok)?;
    let mut random = Random(options.seed);

    let (rounds, replay_every) = (options.rounds, options.replay_every);
    let real =
        Part { name: "real disk", binary: &binary, rounds, replay_every, data, disk: None, drops_all: false };
    let mut columns = vec![(real.name, campaign(&real, options, &mut random)?)];
    let mut broken = !columns[0].1.held();
    let mut not_run = None;
    let mut caught = None;
    let replay_every = replay_every.min(FAULTFS_REPLAY_EVERY);
    if options.faultfs_rounds > 0 && !broken {
        let (name, rounds, drops_all) = ("faultfs", options.faultfs_rounds, false);
        match on_faultfs(|data, disk| {
            let binary = binary.as_path();
            let part = Part { name, binary, rounds, replay_every, data, disk: Some(disk), drops_all };
            campaign(&part, options, &mut random)
        }) {
            Ok(totals) => {
                let totals = totals?;
                broken |= !totals.held();
                columns.push((name, totals));
            }
            Err(error) => not_run = Some(error.to_string()),
        }
    }
    if let Some(binary) = options.planted.as_deref().filter(|_| !broken && not_run.is_none()) {
        // A round on a new disk each time. It may end otherwise: such a build can lose so much that its databases
        // contradict each other, and refuses to start. What must be told is that messages were lost.
        let (name, rounds, replay_every, drops_all) = (PLANTED, 1, 0, true);
        for _ in 0..options.planted_rounds {
            let outcome = on_faultfs(|data, disk| {
                let part = Part { name, binary, rounds, replay_every, data, disk: Some(disk), drops_all };
                campaign(&part, options, &mut random)
            });
            match outcome {
                Ok(Ok(totals)) => {
                    caught = Some(totals.broken(Contract::Durable) > 0);
                    columns.push((name, totals));
                }
                Ok(Err(error)) => {
                    eprintln!("{name}: {error}");
                    caught = Some(false);
                }
                Err(error) => not_run = Some(error.to_string()),
            }
            if caught != Some(false) {
                break;
            }
        }
    }

    for (name, totals) in &columns {
        for violation in totals.findings.violations.iter().take(5) {
            eprintln!("{name}: {violation}");
        }
    }
    print!("{}", table(&columns));
    match caught {
        Some(caught) => println!("planted bug caught  {}", if caught { "yes" } else { "NO" }),
        None => println!("planted bug caught  not tried"),
    }
    let too_little = too_little(&columns[0].1, options);
    if let Some(why) = &too_little {
        println!("{why}");
    }
    if broken || too_little.is_some() || caught == Some(false) {
        println!("0 passed, 1 failed");
        return Ok(BROKEN);
    }
    println!("1 passed, 0 failed");
    Ok(match not_run {
        None => 0,
        Some(why) => {
            println!("NOT TESTED on faultfs: {why}");
            NOT_ALL_RAN
        }
    })
}

/// Why the part on the real disk proves less than it should.
fn too_little(real: &Totals, options: &Options) -> Option<String> {
    let kills = options.rounds.checked_div(options.replay_every * 2).unwrap_or(0);
    if real.kills_in_replay < kills {
        let hit = real.kills_in_replay;
        return Some(format!("only {hit} kills hit a replay, {kills} are asked for"));
    }
    let least = options.least_rate;
    (real.rate() < f64::from(least)).then(|| format!("{:.0} acked/s, {least} are asked for", real.rate()))
}

/// One column per part.
fn table(columns: &[(&str, Totals)]) -> String {
    let mut text = String::new();
    let mut row = |name: &str, cell: &dyn Fn(&Totals) -> String| {
        let _ = write!(text, "{name:<18}");
        for (_, totals) in columns {
            let _ = write!(text, "{:>14}", cell(totals));
        }
        text.push('\n');
    };
    row("rounds", &|totals| totals.rounds.to_string());
    row("kills", &|totals| totals.kills.to_string());
    row("  during replay", &|totals| totals.kills_in_replay.to_string());
    row("messages sent", &|totals| totals.sent.to_string());
    row("  acknowledged", &|totals| totals.acked.to_string());
    row("  per second", &|totals| format!("{:.0}", totals.rate()));
    row("lost, per inbox", &|totals| totals.broken(Contract::Durable).to_string());
    row("duplicates", &|totals| totals.broken(Contract::Once).to_string());
    row("inversions", &|totals| totals.broken(Contract::Ordered).to_string());
    row("incomplete cursors", &|totals| totals.broken(Contract::Complete).to_string());
    row("cursors checked", &|totals| totals.findings.cursors.to_string());
    row("stores checked", &|totals| totals.stores_checked.to_string());
    row("  their entries", &|totals| totals.entries_checked.to_string());
    row("problems in them", &|totals| totals.broken(Contract::Sound).to_string());
    let names: String = columns.iter().map(|(name, _)| format!("{name:>14}")).collect();
    format!("{:<18}{names}\n{text}", "")
}

/// Runs something on a new disk that forgets, given a directory on it.
fn on_faultfs<T>(run: impl FnOnce(PathBuf, Disk) -> T) -> Result<T, MountError> {
    let disk = Disk::new();
    let mounted = Mounted::new(&disk)?;
    Ok(run(mounted.path().join("data"), disk))
}

/// All rounds of a part; ends early after one in which something was found.
fn campaign(part: &Part<'_>, options: &Options, random: &mut Random) -> std::io::Result<Totals> {
    let &Part { name, binary, rounds, replay_every, .. } = part;
    let mut totals = Totals::default();
    if rounds == 0 {
        return Ok(totals);
    }
    let mut ledgers = Vec::new();
    let began = Instant::now();
    let mut data = part.data.join("1");
    let mut server = Server::start(binary, &data)?;
    let mut replay = server.await_replay()?;
    for round in 1..=rounds {
        if round > 1 && (round - 1) % ROUNDS_PER_STORE == 0 {
            server.kill()?;
            std::fs::remove_dir_all(&data)?;
            data = part.data.join(round.to_string());
            server = Server::start(binary, &data)?;
            replay = server.await_replay()?;
        }
        if (round - 1) % ROUNDS_PER_USER == 0 {
            totals.sent += ledgers.iter().map(Ledger::sent).sum::<u64>();
            ledgers = ledgers_of(options, round);
        }
        for ledger in &mut ledgers {
            ledger.begin(&server)?;
        }
        // A build that does not sync gets no time to have the engine sync for it, when a write buffer is full.
        let most_ms = if part.drops_all { 150 } else { 1_000 };
        let load_for = Duration::from_millis(random.between(50, most_ms));
        let acked_before: u64 = ledgers.iter().map(Ledger::acked).sum();
        load(&server, &mut ledgers, options, round, load_for, random, &mut totals)?;
        part.lose(round, random);
        let acked = ledgers.iter().map(Ledger::acked).sum::<u64>() - acked_before;
        totals.acked += acked;
        server = Server::start(binary, &data)?;
        if replay_every > 0 && round % replay_every == 0 {
            // A replay that follows a replay is shorter: each attempt aims earlier than the one that came too late.
            for attempt in 0..REPLAY_ATTEMPTS {
                let after = random.between(0, replay.as_micros() as u64 >> attempt);
                let hit = server.kill_in_replay(Duration::from_micros(after))?;
                part.lose(round, random);
                totals.kills += 1;
                totals.kills_in_replay += u32::from(hit);
                server = Server::start(binary, &data)?;
                if hit {
                    break;
                }
            }
        }
        replay = server.await_replay()?;
        for ledger in &mut ledgers {
            ledger.resend_and_verify(&server, random, &mut totals.findings)?;
        }
        if totals.held() {
            server.kill()?;
            totals.kills += 1;
            look_over(&data, &mut totals)?;
            server = Server::start(binary, &data)?;
            replay = server.await_replay()?;
        }
        totals.rounds = round;
        eprintln!(
            "{name}, round {round}/{rounds}: {acked} acked in {:.2} s, {} ({:.0} s in all)",
            load_for.as_secs_f64(),
            if totals.held() { "all kept" } else { "NOT ALL KEPT" },
            began.elapsed().as_secs_f64(),
        );
        if !totals.held() {
            totals.findings.violations.sort_by_key(|violation| violation.contract);
            break;
        }
    }
    server.kill()?;
    totals.sent += ledgers.iter().map(Ledger::sent).sum::<u64>();
    Ok(totals)
}

/// The users of the next rounds.
fn ledgers_of(options: &Options, round: u32) -> Vec<Ledger> {
    let each = u64::from(options.pairs * 2 + options.groups * options.group_members);
    let first = u64::from((round - 1) / ROUNDS_PER_USER) * each + 1;
    let pairs = (0..u64::from(options.pairs)).map(|pair| first + 2 * pair);
    let groups_from = first + 2 * u64::from(options.pairs);
    let members = u64::from(options.group_members);
    let groups = (0..u64::from(options.groups)).map(|group| groups_from + group * members);
    pairs
        .map(|low| Ledger::pair(low, low + 1))
        .chain(groups.map(|first| Ledger::group(first..first + members)))
        .collect()
}

/// What `holdfast store check` says of a store that nobody has open.
fn look_over(data: &Path, totals: &mut Totals) -> std::io::Result<()> {
    let report = holdfast_storage::check::check(&data.join("store")).map_err(std::io::Error::other)?;
    totals.stores_checked += 1;
    totals.entries_checked += report.entries;
    for problem in report.problems {
        totals.findings.violations.push(Violation::of(Contract::Sound, problem.to_string()));
    }
    Ok(())
}

/// Lets all pairs and groups chat, and kills the server in the middle of it.
fn load(
    server: &Server,
    ledgers: &mut [Ledger],
    options: &Options,
    round: u32,
    load_for: Duration,
    random: &mut Random,
    totals: &mut Totals,
) -> std::io::Result<()> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| -> std::io::Result<()> {
        let (connected, connections) = mpsc::channel();
        let mut talkers = Vec::new();
        for ledger in ledgers.iter_mut() {
            for side in ledger.sides() {
                let (over, connected, random) = (&over, connected.clone(), Random(random.next()));
                talkers.push(scope.spawn(move || {
                    let talker = Talker::connect(server, side, side.head())
                        .map_err(|error| ledger::doing("connects", side, &error))?;
                    // Nobody listens any more when another one could not connect.
                    let _ = connected.send(());
                    talker
                        .talk(side, round, options.in_flight, over, random)
                        .map_err(|error| ledger::doing("chats", side, &error))
                }));
            }
        }
        drop(connected);
        let all_connected = connections.iter().take(talkers.len()).count() == talkers.len();
        let began = Instant::now();
        if all_connected {
            // The one place where time itself is the event: the moment of the kill.
            std::thread::sleep(load_for);
        }
        over.store(true, Ordering::Relaxed);
        totals.load_seconds += began.elapsed().as_secs_f64();
        server.kill()?;
        totals.kills += 1;
        for talker in talkers {
            talker.join().expect("a talker does not panic")?;
        }
        Ok(())
    })
}
