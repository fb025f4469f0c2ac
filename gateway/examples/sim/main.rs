//! The whole chat on a simulated machine and network, for as many seeds as one likes.
//!
//! Each seed is one world: a shard on [`SimDriver`], workers on the in-memory store, and a handful of users with several
//! devices each, who chat with each other and in groups, edit, delete, read, block, echo, stall, vanish, reset, half-close
//! and send garbage, while the network does what networks do, disks fill up and fail, and the power goes. Nothing is random
//! but by the seed, so a seed that fails fails again: `--seed N --trace` shows its last steps.
//!
//! What must hold at every step, and at the end when the faults stop and everyone reads everything, has names:
//! [`truth::Invariant`]. Peers hold the server to the protocol (`peer`), all peers together to one truth (`truth`), who must
//! have got what is worked out at the end (`verdict`), the driver is watched from both sides (`watch`), and the databases
//! are looked over.
//!
//! A test that never fails proves little. With the feature `planted-bugs`, `--mutations` plants one bug after the other
//! in driver, shard and store, and each must break an invariant within so many seeds.
//!
//! ```text
//! cargo run -p holdfast-gateway --example sim -- --seeds 1000
//! cargo run -p holdfast-gateway --example sim --features planted-bugs -- --mutations
//! ```
//!
//! Exit code 0: all invariants held, or all bugs were found. 1: not so; the seed is printed. 2: wrong arguments.

#![forbid(unsafe_code)]

mod campaign;
mod cluster;
mod deed;
#[cfg(feature = "planted-bugs")]
mod mutations;
mod peer;
mod run;
mod survey;
mod truth;
mod verdict;
mod watch;
mod world;

use std::process::ExitCode;

use clap::Parser;

use run::{keep_panics, run};

/// A world is mostly small allocations, and 100,000 worlds are made.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs the shard on the simulated network.
#[derive(Debug, Parser)]
struct Options {
    /// How many seeds to run; with `--mutations`, at most so many per bug.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// How many threads; one per core, if not given.
    #[arg(long)]
    threads: Option<u64>,
    /// Run this seed alone, twice, and compare.
    #[arg(long)]
    seed: Option<u64>,
    /// With `--seed`: print the last steps.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Plant one bug after the other, and look whether it is found.
    #[cfg(feature = "planted-bugs")]
    #[arg(long)]
    mutations: bool,
    /// With `--seed`: plant this bug.
    #[cfg(feature = "planted-bugs")]
    #[arg(long, requires = "seed", value_parser = parse_bug)]
    plant: Option<mutations::Planted>,
}

#[cfg(feature = "planted-bugs")]
fn parse_bug(name: &str) -> Result<mutations::Planted, String> {
    mutations::by_name(name).ok_or_else(|| "no bug has this name; `--mutations` lists them".to_owned())
}

fn main() -> ExitCode {
    let options = Options::parse();
    keep_panics();
    let threads = options
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |it| it.get() as u64));
    #[cfg(feature = "planted-bugs")]
    if options.mutations {
        return exit_code(mutations::run_mutations(options.seeds, threads));
    }
    #[cfg(feature = "planted-bugs")]
    mutations::plant(options.plant);
    exit_code(match options.seed {
        Some(seed) => replay(seed, options.trace),
        None => campaign::run_seeds(options.first, options.seeds, threads),
    })
}

fn exit_code(passed: bool) -> ExitCode {
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a seed twice; true when it passed, and both times in the same way.
fn replay(seed: u64, trace: bool) -> bool {
    let (one, two) = (run(seed, trace), run(seed, false));
    for line in &one.trace {
        println!("{line}");
    }
    println!(
        "seed {seed}: {} events, {} faults, trace hash {:016x}",
        one.events,
        one.faults.total(),
        one.hash
    );
    if let Some(failure) = &one.failure {
        println!("seed {seed}: {failure}");
    }
    let same = one.fingerprint() == two.fingerprint();
    if !same {
        println!("seed {seed}: not the same the second time: {:016x}, {:?}", two.hash, two.failure);
    }
    same && one.failure.is_none()
}
