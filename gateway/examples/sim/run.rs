//! One seed from beginning to end, and what came of it.

use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use holdfast_reactor::sim::FaultCounts;

use crate::cluster::TroubleCounts;
use crate::truth::Broken;
use crate::world::World;

/// Fewer events than this prove nothing: the world goes on until it has seen them.
pub(crate) const EVENTS_PER_SEED: u64 = 2_000;
/// Likewise.
pub(crate) const FAULTS_PER_SEED: u64 = 5;

/// What one seed has seen.
pub(crate) struct Run {
    pub(crate) events: u64,
    pub(crate) hash: u64,
    pub(crate) faults: FaultCounts,
    pub(crate) troubles: TroubleCounts,
    pub(crate) trace: Vec<String>,
    pub(crate) failure: Option<Failure>,
}

/// How a seed failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// An invariant did not hold.
    Broken(Broken),
    /// A panic, or a run that proves nothing.
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(broken) => broken.fmt(f),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl Run {
    /// Two runs that agree in this were the same run.
    pub(crate) fn fingerprint(&self) -> (u64, u64, Option<&Failure>) {
        (self.hash, self.events, self.failure.as_ref())
    }
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A panic is a failure of its seed and is told with it, not where it happens.
pub(crate) fn keep_panics() {
    std::panic::set_hook(Box::new(|panic| LAST_PANIC.set(panic.to_string())));
}

/// Runs a seed; with the last steps of its trace, if wanted.
pub(crate) fn run(seed: u64, trace: bool) -> Run {
    let mut world = World::new(seed, trace);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run(EVENTS_PER_SEED, FAULTS_PER_SEED)));
    let mut failure = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(broken)) => Some(Failure::Broken(broken)),
        Err(_) => Some(Failure::Other(LAST_PANIC.take())),
    };
    let (events, faults, troubles) = (world.events(), world.network.fault_counts(), world.troubles());
    if failure.is_none() && (events < EVENTS_PER_SEED || faults.total() < FAULTS_PER_SEED) {
        failure = Some(Failure::Other(format!("only {events} events and {} faults", faults.total())));
    }
    Run { events, hash: world.network.trace_hash(), faults, troubles, trace: world.network.trace(), failure }
}
