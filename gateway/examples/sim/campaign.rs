//! Many seeds, on all cores: each thread takes the next one.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_reactor::sim::{Fault, FaultCounts};

use crate::cluster::TroubleCounts;
use crate::run::{EVENTS_PER_SEED, FAULTS_PER_SEED, Failure, run};

/// So many seeds must have met every kind of fault.
const ALL_FAULTS_AFTER: u64 = 100;
/// One of so many seeds is run once more, to see that it is the same run.
const REPLAYED_OF: u64 = 250;

/// What the seeds have seen together.
#[derive(Debug)]
struct Tally {
    seeds: u64,
    events: u64,
    fewest_events: u64,
    fewest_faults: u64,
    replayed: u64,
    /// Of all traces, in whichever order they were made.
    hash: u64,
    faults: FaultCounts,
    troubles: TroubleCounts,
    /// The lowest seed that failed.
    failed: Option<(u64, Failure)>,
}

impl Tally {
    fn new() -> Self {
        Self {
            seeds: 0,
            events: 0,
            fewest_events: u64::MAX,
            fewest_faults: u64::MAX,
            replayed: 0,
            hash: 0,
            faults: FaultCounts::default(),
            troubles: TroubleCounts::default(),
            failed: None,
        }
    }

    fn fail(&mut self, seed: u64, failure: Failure) {
        if self.failed.as_ref().is_none_or(|(known, _)| seed < *known) {
            self.failed = Some((seed, failure));
        }
    }
}

/// Runs the seeds and prints what they saw; false when one has failed.
pub(crate) fn run_seeds(first: u64, seeds: u64, threads: u64) -> bool {
    let next = AtomicU64::new(first);
    let tally = Mutex::new(Tally::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(&next, first, first.saturating_add(seeds), &tally));
        }
    });
    report(&tally.into_inner().expect("no thread panics while it holds the tally"))
}

fn work(next: &AtomicU64, first: u64, end: u64, tally: &Mutex<Tally>) {
    let progress_every = ((end - first) / 20).clamp(100, 5_000);
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let one = run(seed, false);
        let replay = (seed - first).is_multiple_of(REPLAYED_OF).then(|| run(seed, false));
        let mut tally = tally.lock().expect("no thread panics while it holds the tally");
        if let Some(replay) = replay {
            tally.replayed += 1;
            if replay.fingerprint() != one.fingerprint() {
                tally.fail(seed, Failure::Other("the same seed gave another run".to_owned()));
            }
        }
        tally.seeds += 1;
        tally.events += one.events;
        tally.fewest_events = tally.fewest_events.min(one.events);
        tally.fewest_faults = tally.fewest_faults.min(one.faults.total() + one.troubles.total());
        tally.hash = tally.hash.wrapping_add(one.hash);
        tally.faults.merge(&one.faults);
        tally.troubles.merge(&one.troubles);
        if let Some(failure) = one.failure {
            tally.fail(seed, failure);
        }
        if tally.seeds.is_multiple_of(progress_every) {
            eprintln!("{} seeds, {} events", tally.seeds, tally.events);
        }
        if tally.failed.is_some() {
            // Lower seeds are under way on other threads; no higher one need begin.
            next.store(end, Ordering::Relaxed);
        }
    }
}

fn report(tally: &Tally) -> bool {
    if let Some((seed, failure)) = &tally.failed {
        println!("seed {seed}: {failure}\nreplay it: sim --seed {seed} --trace");
        println!("{} passed, 1 failed", tally.seeds.saturating_sub(1));
        return false;
    }
    let Tally { seeds, events, replayed, hash, .. } = tally;
    println!("{seeds} seeds, {replayed} of them twice with the same trace; all traces: {hash:016x}");
    println!("{events} events, at least {} per seed ({EVENTS_PER_SEED} wanted)", tally.fewest_events);
    let faults = tally.faults.total() + tally.troubles.total();
    println!("{faults} faults, at least {} per seed ({FAULTS_PER_SEED} wanted):", tally.fewest_faults);
    let mut all_met = true;
    // A shard connects to nobody.
    for (fault, count) in tally.faults.iter().filter(|(fault, _)| *fault != Fault::ConnectFailed) {
        println!("  {count:>12}  {fault:?}");
        all_met &= count > 0;
    }
    for (trouble, count) in tally.troubles.iter() {
        println!("  {count:>12}  {trouble}");
        all_met &= count > 0;
    }
    if !all_met && *seeds >= ALL_FAULTS_AFTER {
        println!("a kind of fault was never met, so these seeds prove nothing about it");
        return false;
    }
    println!("{seeds} passed, 0 failed");
    true
}
