//! Leads a run through its phases: watches the threads, takes the samples, shows the progress, and notices when
//! somebody dies or wants to stop.
//!
//! It sleeps on the threads' ends, and wakes ten or twenty times a second to look.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_reactor::Moment;

use crate::clock;
use crate::crew::{Crew, CrewError};
use crate::engine::{EngineReport, Snapshot};
use crate::measure::ProcError;
use crate::measure::cpu::{CpuSample, CpuUse};
use crate::measure::sample::Sampler;
use crate::progress::Progress;
use crate::scenario::Order;
use crate::server::{ServerError, ServerProcess};

/// Why a run was broken off.
#[derive(Debug, thiserror::Error)]
pub enum PilotError {
    /// Ctrl-C or SIGTERM.
    #[error("interrupted")]
    Interrupted,
    /// The generator's threads.
    #[error(transparent)]
    Crew(#[from] CrewError),
    /// The server that we started.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A process that was to be measured.
    #[error(transparent)]
    Proc(#[from] ProcError),
    /// Signals cannot be caught.
    #[error("cannot catch signals: {0}")]
    Signals(std::io::Error),
}

/// See the module's doc.
#[derive(Debug)]
pub struct Pilot<R> {
    crew: Crew<R>,
    /// Takes samples of memory and processors through the run, when there is something to sample.
    pub sampler: Option<Sampler>,
    /// What people see.
    pub progress: Progress,
    /// The server, when we started it.
    pub server: Option<ServerProcess>,
    interrupted: Arc<AtomicBool>,
    target: u64,
    last_sample: Moment,
    last_sampled_up: u64,
}

/// How a phase ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PhaseEnd {
    /// What it waited for has come.
    Reached,
    /// Its time was over.
    TimeUp,
}

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Samples are taken this often, and while the number of connections changes at each 64th of it.
const SAMPLE_PAUSE_MAX: Duration = Duration::from_millis(500);
const SAMPLE_PAUSE_MIN: Duration = Duration::from_millis(50);
const SAMPLE_STEPS: u64 = 64;

/// Sets a flag at SIGINT and SIGTERM, so that what was changed is put back and what was measured is written.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn catch_signals() -> Result<Arc<AtomicBool>, PilotError> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // A second one ends the process at once.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&flag))
            .map_err(PilotError::Signals)?;
        signal_hook::flag::register(signal, Arc::clone(&flag)).map_err(PilotError::Signals)?;
    }
    Ok(flag)
}

impl<R: Send + 'static> Pilot<R> {
    /// Leads these threads; `target` connections are wanted.
    pub fn new(crew: Crew<R>, target: u32, progress: Progress, interrupted: Arc<AtomicBool>) -> Self {
        Self {
            crew,
            sampler: None,
            progress,
            server: None,
            interrupted,
            target: u64::from(target),
            last_sample: Moment::default(),
            last_sampled_up: 0,
        }
    }

    /// Tells all threads.
    pub fn order(&mut self, order: Order) {
        self.crew.order(order);
    }

    /// What the threads show now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.crew.snapshot()
    }

    /// A phase: until `reached` says so, or so long at most.
    ///
    /// # Errors
    /// When the run cannot go on.
    pub fn phase(
        &mut self,
        name: &'static str,
        at_most: Duration,
        mut reached: impl FnMut(&Snapshot) -> bool,
    ) -> Result<PhaseEnd, PilotError> {
        let begin = clock::monotonic();
        let end = begin.after(at_most);
        self.progress.phase(name, begin, self.snapshot());
        loop {
            let now = clock::monotonic();
            let snapshot = self.snapshot();
            self.sample(now, &snapshot)?;
            // What was under way before an order reached the threads says nothing about what is under way after it.
            if self.crew.has_obeyed(&snapshot) && reached(&snapshot) {
                return Ok(PhaseEnd::Reached);
            }
            if now >= end {
                return Ok(PhaseEnd::TimeUp);
            }
            self.progress.show(now, self.target, snapshot);
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(PilotError::Interrupted);
            }
            if let Some(server) = &mut self.server {
                server.check()?;
            }
            let is_ramp = snapshot.awaited > 0 && self.sampler.is_some();
            let pause = if is_ramp { SAMPLE_PAUSE_MIN } else { LOOK_EVERY };
            let ended = self.crew.wait(end.since(now).min(pause));
            if ended && self.crew.has_ended() {
                return Ok(PhaseEnd::Reached);
            }
        }
    }

    /// A phase of fixed length; says how much processor time `pid` used in it, and how long it really took.
    ///
    /// # Errors
    /// When the run cannot go on.
    pub fn measured_phase(
        &mut self,
        name: &'static str,
        length: Duration,
        pid: Option<u32>,
    ) -> Result<(Option<CpuUse>, f64), PilotError> {
        let before = pid.map(CpuSample::of).transpose()?;
        let begin = clock::monotonic();
        self.phase(name, length, |_| false)?;
        let after = pid.map(CpuSample::of).transpose()?;
        let seconds = clock::monotonic().since(begin).as_secs_f64();
        Ok((after.zip(before).map(|(after, before)| after.since(&before)), seconds))
    }

    fn sample(&mut self, now: Moment, snapshot: &Snapshot) -> Result<(), PilotError> {
        let passed = now.since(self.last_sample);
        let moved = snapshot.up.abs_diff(self.last_sampled_up) >= (self.target / SAMPLE_STEPS).max(1);
        if passed >= SAMPLE_PAUSE_MAX || (moved && passed >= SAMPLE_PAUSE_MIN) {
            self.sample_now(snapshot.up)?;
        }
        Ok(())
    }

    /// Takes a sample out of turn.
    ///
    /// # Errors
    /// When a process that is measured is gone.
    pub fn sample_now(&mut self, connections: u64) -> Result<(), PilotError> {
        self.last_sample = clock::monotonic();
        self.last_sampled_up = connections;
        if let Some(sampler) = &mut self.sampler {
            match sampler.take(clock::monotonic(), connections) {
                Ok(()) => {}
                // If it was ours, its last words say more.
                Err(error) => match &mut self.server {
                    Some(server) => return Err(server.check().err().map_or(error.into(), Into::into)),
                    None => return Err(error.into()),
                },
            }
        }
        Ok(())
    }

    /// Ends the threads and collects what they found out.
    ///
    /// # Errors
    /// When one of them has failed.
    pub fn land(mut self) -> Result<Landing<R>, PilotError> {
        self.crew.order(Order::Stop);
        let (engine, reports) = self.crew.join()?;
        Ok(Landing { engine, reports, sampler: self.sampler, server: self.server, progress: self.progress })
    }
}

/// What is left when the threads are gone.
#[derive(Debug)]
pub struct Landing<R> {
    /// What the engines counted.
    pub engine: EngineReport,
    /// What the scenarios found out.
    pub reports: Vec<R>,
    /// The samples.
    pub sampler: Option<Sampler>,
    /// The server, when we started it.
    pub server: Option<ServerProcess>,
    /// Still to be cleared.
    pub progress: Progress,
}
