//! The shard on a simulated network, with simulated workers, for as many seeds as one likes.
//!
//! Each seed is one world: a shard on [`SimDriver`], two workers on the in-memory store, and a handful of peers that
//! chat, echo, stall, vanish, reset, half-close and send garbage, while the network does what networks do. Nothing is
//! random but by the seed, so a seed that fails fails again: `--seed N --trace` shows its last steps.
//!
//! What must hold at every step, and at the end when the faults stop and everyone reads everything:
//! - every byte that a server sends is RFC 6455; echoes come back whole, in order, once;
//! - on one connection `rev` rises by exactly one, from the cursor or the last `sync`, over pages and events;
//! - a `rev` of a user, and a `seq` of a conversation, means the same message for ever;
//! - what was accepted is in both inboxes, once, with that `seq` and `messageId`;
//! - output that waits for a peer stays within the limit; after a drain no connection, session or command is left.
//!
//! ```text
//! cargo run -p holdfast-gateway --example sim -- --seeds 1000
//! ```
//!
//! Exit code 0: all invariants held. 2: one did not; its seed is printed.

#![forbid(unsafe_code)]

mod cluster;
mod peer;
mod truth;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;
use holdfast_reactor::sim::FaultCounts;

use world::World;

/// Runs the shard on the simulated network.
#[derive(Debug, Parser)]
struct Options {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Run this seed alone, twice, and compare.
    #[arg(long)]
    seed: Option<u64>,
    /// With `--seed`: print the last steps.
    #[arg(long)]
    trace: bool,
}

/// What one seed has seen.
struct Run {
    events: u64,
    hash: u64,
    faults: FaultCounts,
    trace: Vec<String>,
    failure: Option<String>,
}

/// Fewer events than this prove nothing: the world goes on until it has seen them.
const EVENTS_PER_SEED: u64 = 2_000;
/// Likewise.
const FAULTS_PER_SEED: u64 = 5;

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(seed) = options.seed {
        return replay(seed, options.trace);
    }
    // The message of a failed assertion is printed with its seed, below.
    std::panic::set_hook(Box::new(|_| ()));
    let mut faults = FaultCounts::default();
    let (mut events, mut weakest) = (0u64, u64::MAX);
    for seed in options.first..options.first + options.seeds {
        let run = run(seed, false);
        if let Some(failure) = run.failure {
            eprintln!("seed {seed}: {failure}\nreplay it: sim --seed {seed} --trace");
            println!("{} passed, 1 failed", seed - options.first);
            return ExitCode::from(2);
        }
        events += run.events;
        weakest = weakest.min(run.faults.total());
        faults.merge(&run.faults);
        if (seed - options.first + 1) % 1_000 == 0 {
            eprintln!("{} seeds, {events} events", seed - options.first + 1);
        }
    }
    println!(
        "{} seeds, {events} events (at least {EVENTS_PER_SEED} each), {} faults (at least {weakest} each):",
        options.seeds,
        faults.total()
    );
    for (fault, count) in faults.iter() {
        println!("  {count:>10}  {fault:?}");
    }
    println!("{} passed, 0 failed", options.seeds);
    ExitCode::SUCCESS
}

fn replay(seed: u64, trace: bool) -> ExitCode {
    let (one, two) = (run(seed, trace), run(seed, false));
    if trace {
        for line in &one.trace {
            println!("{line}");
        }
    }
    println!("seed {seed}: {} events, trace hash {:016x}", one.events, one.hash);
    assert_eq!((one.hash, one.events), (two.hash, two.events), "a seed must replay exactly");
    match one.failure {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            eprintln!("seed {seed}: {failure}");
            ExitCode::from(2)
        }
    }
}

fn run(seed: u64, trace: bool) -> Run {
    let mut world = World::new(seed, trace);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run(EVENTS_PER_SEED, FAULTS_PER_SEED)));
    let failure = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(broken)) => Some(broken.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Some(format!("panic: {}", text.unwrap_or_default()))
        }
    };
    Run {
        events: world.events(),
        hash: world.network.trace_hash(),
        faults: world.network.fault_counts(),
        trace: world.network.trace(),
        failure,
    }
}
