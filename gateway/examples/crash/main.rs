//! Kills a server under load, again and again, and asks whether it kept its word.
//!
//! Each round: pairs of users chat at full tilt, `kill -9` at a random moment (sometimes a second one while the
//! server is still replaying), restart, resend what was not acknowledged, then read every inbox from the beginning.
//!
//! What must hold after each round:
//! - *durable*: every acknowledged message is in both inboxes, with the `seq` and `messageId` that were acknowledged;
//! - *once*: no `clientId` stands twice in an inbox, whatever was resent;
//! - *ordered*: within a conversation `seq` rises with `rev`, without holes, and both users see the same order;
//! - *complete*: `rev` is dense from 1 to the head, and every entry that was seen before the kill still has its `rev`.
//!
//! ```text
//! cargo run -p holdfast-gateway --example crash -- --rounds 200
//! ```
//!
//! Exit code 0: all of it held. 2: something did not; the message says what. 1: the server could not be run.

#![forbid(unsafe_code)]
#![expect(clippy::disallowed_methods, reason = "a campaign measures wall time and paces itself")]

mod client;
mod ledger;
mod server;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;

use client::Talker;
use ledger::{Ledger, Violation};
use server::Server;

/// Kills a server under load and checks that it kept its word.
#[derive(Debug, Parser)]
struct Options {
    /// How often the server is killed.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// One round in this many kills the server again while it replays; 0: never.
    #[arg(long, default_value_t = 5)]
    replay_every: u32,
    /// Pairs of users that chat.
    #[arg(long, default_value_t = 8)]
    pairs: u32,
    /// Sends of one user that may wait for their answer.
    #[arg(long, default_value_t = 32)]
    in_flight: usize,
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
const ROUNDS_PER_USER: u32 = 10;

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

/// What the campaign has seen, for the closing lines.
#[derive(Default)]
struct Totals {
    kills_in_replay: u32,
    sent: u64,
    acked: u64,
    load_seconds: f64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(totals) => {
            println!(
                "{} rounds, {} kills in replay, {} sent, {} acked ({:.0} acked/s under load): \
                 0 lost, 0 duplicated, 0 inversions, cursors complete",
                options.rounds,
                totals.kills_in_replay,
                totals.sent,
                totals.acked,
                totals.acked as f64 / totals.load_seconds.max(1e-9),
            );
            println!("{} passed, 0 failed", options.rounds);
            ExitCode::SUCCESS
        }
        Err(Failure::Violation(violation)) => {
            eprintln!("violation: {violation}");
            println!("0 passed, 1 failed");
            ExitCode::from(2)
        }
        Err(Failure::Server(error)) => {
            eprintln!("the server could not be run: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Why a campaign ended early.
#[derive(Debug)]
enum Failure {
    /// A contract was broken.
    Violation(Violation),
    /// The server did not start or did not answer.
    Server(std::io::Error),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Server(error)
    }
}

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

fn run(options: &Options) -> Result<Totals, Failure> {
    let temporary = tempfile::tempdir()?;
    let data = options.data.clone().unwrap_or_else(|| temporary.path().join("data"));
    let binary = options.binary.clone().map_or_else(server::beside_this_program, Ok)?;
    let mut random = Random(options.seed);
    let mut totals = Totals::default();
    let mut ledgers = Vec::new();
    let began = Instant::now();
    let mut server = Server::start(&binary, &data)?;
    server.await_ready()?;
    for round in 1..=options.rounds {
        if (round - 1) % ROUNDS_PER_USER == 0 {
            totals.sent += ledgers.iter().map(Ledger::sent).sum::<u64>();
            let first = u64::from((round - 1) / ROUNDS_PER_USER * options.pairs);
            let pairs = first..first + u64::from(options.pairs);
            ledgers = pairs.map(|pair| Ledger::new(pair * 2 + 1, pair * 2 + 2)).collect();
        }
        let load_for = Duration::from_millis(random.between(50, 1_000));
        let acked_before: u64 = ledgers.iter().map(Ledger::acked).sum();
        load(&server, &mut ledgers, options, round, load_for, &mut totals)?;
        let acked = ledgers.iter().map(Ledger::acked).sum::<u64>() - acked_before;
        totals.acked += acked;
        server = Server::start(&binary, &data)?;
        if options.replay_every > 0 && round % options.replay_every == 0 {
            // Somewhere between the first instruction and readiness.
            server.kill_before_ready(
                Duration::from_micros(random.between(500, 20_000)),
                &mut totals.kills_in_replay,
            )?;
            server = Server::start(&binary, &data)?;
        }
        server.await_ready()?;
        for ledger in &mut ledgers {
            ledger.resend_and_verify(&server)?;
        }
        eprintln!(
            "round {round}/{}: {acked} acked in {:.2} s, all kept ({:.0} s in all)",
            options.rounds,
            load_for.as_secs_f64(),
            began.elapsed().as_secs_f64(),
        );
    }
    server.kill()?;
    totals.sent += ledgers.iter().map(Ledger::sent).sum::<u64>();
    Ok(totals)
}

/// Lets all pairs chat, and kills the server in the middle of it.
fn load(
    server: &Server,
    ledgers: &mut [Ledger],
    options: &Options,
    round: u32,
    load_for: Duration,
    totals: &mut Totals,
) -> Result<(), Failure> {
    let over = AtomicBool::new(false);
    let began = Instant::now();
    std::thread::scope(|scope| -> Result<(), Failure> {
        let mut talkers = Vec::new();
        for ledger in ledgers.iter_mut() {
            let [low, high] = ledger.sides();
            for side in [low, high] {
                let over = &over;
                let talker =
                    move || Talker::connect(server, side)?.talk(side, round, options.in_flight, over);
                talkers.push(scope.spawn(talker));
            }
        }
        // The one place where time itself is the event: the moment of the kill.
        std::thread::sleep(load_for);
        over.store(true, Ordering::Relaxed);
        totals.load_seconds += began.elapsed().as_secs_f64();
        server.kill()?;
        for talker in talkers {
            talker.join().expect("a talker does not panic")?;
        }
        Ok(())
    })
}
