//! Planted bugs: each must be found by an invariant, in few seeds, and again by the same seed in the same way.
//!
//! A panic of the code under test is not counted as found: the next seed is tried until an invariant speaks.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use holdfast_gateway::planted::SHARD;
use holdfast_reactor::planted::{self as reactor, DRIVER};
use holdfast_storage::planted::{self as storage, STORE};

use crate::run::{Failure, Run, run};
use crate::truth::Broken;

/// A bug, wherever it is planted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Planted {
    /// In the driver.
    Driver(reactor::Bug),
    /// In the shard or its sessions.
    Shard(reactor::Bug),
    /// In a worker or its store.
    Store(storage::Bug),
}

impl Planted {
    fn all() -> Vec<Self> {
        let driver = DRIVER.iter().copied().map(Self::Driver);
        let shard = SHARD.iter().copied().map(Self::Shard);
        driver.chain(shard).chain(STORE.iter().copied().map(Self::Store)).collect()
    }

    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Driver(bug) => ("driver", bug.name, bug.what),
            Self::Shard(bug) => ("shard", bug.name, bug.what),
            Self::Store(bug) => ("store", bug.name, bug.what),
        }
    }
}

/// Plants a bug in everything that this thread does, or takes it out again.
pub(crate) fn plant(bug: Option<Planted>) {
    reactor::plant(match bug {
        Some(Planted::Driver(bug) | Planted::Shard(bug)) => Some(bug),
        _ => None,
    });
    storage::plant(match bug {
        Some(Planted::Store(bug)) => Some(bug),
        _ => None,
    });
}

/// Runs a seed with a bug.
fn run_with(bug: Planted, seed: u64) -> Run {
    plant(Some(bug));
    let run = run(seed, false);
    plant(None);
    run
}

/// The bug of this name.
pub(crate) fn by_name(name: &str) -> Option<Planted> {
    Planted::all().into_iter().find(|bug| bug.names().1 == name)
}

/// Looks for every bug, at most so many seeds each; false when one was not found.
pub(crate) fn run_mutations(seeds: u64, threads: u64) -> bool {
    let bugs = Planted::all();
    println!("{:<6} {:<26} {:>6} {:>7}  invariant that it broke", "where", "planted bug", "seed", "events");
    let (next, found) = (AtomicUsize::new(0), Mutex::new(0));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (place, name, what) = bug.names();
                    let verdict = look_for(*bug, seeds);
                    // Holding it, so that lines do not mix.
                    let mut found = found.lock().expect("no thread panics while it holds the count");
                    match verdict {
                        Ok((seed, events, broken)) => {
                            *found += 1;
                            println!("{place:<6} {name:<26} {seed:>6} {events:>7}  {}", broken.invariant);
                        }
                        Err(why) => println!("{place:<6} {name:<26} NOT FOUND: {why} ({what})"),
                    }
                }
            });
        }
    });
    let found = found.into_inner().expect("no thread panics while it holds the count");
    println!(
        "{} bugs planted, {found} found; each seed failed twice in the same way, and passed without its bug",
        bugs.len()
    );
    found == bugs.len()
}

/// The first seed that finds the bug, after how many events, and how.
fn look_for(bug: Planted, seeds: u64) -> Result<(u64, u64, Broken), String> {
    let mut panics = 0;
    for seed in 1..=seeds {
        let one = run_with(bug, seed);
        let broken = match &one.failure {
            None => continue,
            Some(Failure::Other(_)) => {
                panics += 1;
                continue;
            }
            Some(Failure::Broken(broken)) => broken.clone(),
        };
        if run_with(bug, seed).fingerprint() != one.fingerprint() {
            return Err(format!("seed {seed} fails in another way when it is run again"));
        }
        if let Some(failure) = run(seed, false).failure {
            return Err(format!("seed {seed} fails without it: {failure}"));
        }
        return Ok((seed, one.events, broken));
    }
    Err(format!("{seeds} seeds passed, {panics} of them with a panic"))
}
