//! The threads of a run: each has its own driver, its own members and its own engine.
//!
//! Members are numbered through all threads, and each thread has a stretch of them, of such a length that those who
//! share books (pairs, groups) are in the same one.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use holdfast_reactor::epoll::EpollDriver;
use holdfast_reactor::uring::{self, ProbeError, UringDriver};
use holdfast_reactor::{Driver, DriverKind, DriverOptions, ReactorError, Waker};

use crate::engine::{Engine, EngineOptions, EngineReport, Gauges, Ramp, Snapshot};
use crate::scenario::{Order, Scenario};

/// Which driver to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum DriverChoice {
    /// io_uring, or epoll where that is not to be had.
    Auto,
    /// io_uring; without it the run fails and says why.
    Uring,
    /// epoll.
    Epoll,
}

impl DriverChoice {
    /// What this machine gives; with `Auto` also why it is not io_uring.
    ///
    /// # Errors
    /// When io_uring was asked for by name and is not to be had.
    pub fn resolve(self) -> Result<(DriverKind, Option<String>), ProbeError> {
        match (self, uring::probe()) {
            (Self::Epoll, _) => Ok((DriverKind::Epoll, None)),
            (Self::Uring | Self::Auto, Ok(_)) => Ok((DriverKind::Uring, None)),
            (Self::Uring, Err(error)) => Err(error),
            (Self::Auto, Err(error)) => Ok((DriverKind::Epoll, Some(error.to_string()))),
        }
    }
}

/// Receive buffers of each thread: what one pass over readable connections takes; none is held by an idle one.
const RECEIVE_BUFFERS: usize = 256;
const RECEIVE_BUFFER_BYTES: usize = 16 << 10;

/// Niceness that the threads ask for; only the superuser gets it.
const NICE: i32 = -10;

/// Why the threads are not there, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum CrewError {
    /// A driver.
    #[error(transparent)]
    Driver(#[from] ReactorError),
    /// A thread.
    #[error("cannot start a thread: {0}; raise the limit on processes (ulimit -u)")]
    Thread(std::io::Error),
    /// A bug.
    #[error("a thread of the generator panicked: that is a bug in the generator")]
    Panicked,
}

type Outcome<R> = Result<(EngineReport, R), CrewError>;

/// See the module's doc. `R` is what the scenario reports.
#[derive(Debug)]
pub struct Crew<R> {
    threads: Vec<JoinHandle<Outcome<R>>>,
    orders: Vec<(Sender<Order>, Waker)>,
    orders_given: u64,
    gauges: Vec<Arc<Gauges>>,
    /// A thread has ended: its number.
    ended: Receiver<()>,
    ended_count: usize,
}

/// Tells the coordinator when a thread ends, however it does.
struct EndSignal(Sender<()>);

impl Drop for EndSignal {
    fn drop(&mut self) {
        // The coordinator may be gone.
        let _ = self.0.send(());
    }
}

impl<R: Send + 'static> Crew<R> {
    /// Starts `threads` threads that share `options.members` among them; `make` makes each one's scenario.
    ///
    /// # Errors
    /// When a thread or its driver cannot be made; what was started is stopped.
    pub fn start<S>(
        kind: DriverKind,
        options: &EngineOptions,
        threads: u32,
        make: impl Fn(&EngineOptions) -> S,
    ) -> Result<Self, CrewError>
    where
        S: Scenario<Report = R> + Send + 'static,
    {
        let (end_sender, ended) = channel();
        let mut crew = Self {
            threads: Vec::new(),
            orders: Vec::new(),
            orders_given: 0,
            gauges: Vec::new(),
            ended,
            ended_count: 0,
        };
        for share in shares(options, threads) {
            let scenario = make(&share);
            let (order_sender, order_receiver) = channel();
            let (ready_sender, ready) = channel();
            let gauges = Arc::new(Gauges::default());
            // Until the thread says otherwise; none awaited would look like a ramp that is over.
            gauges.awaited.store(u64::from(share.members), std::sync::atomic::Ordering::Relaxed);
            let end = EndSignal(end_sender.clone());
            let thread_gauges = Arc::clone(&gauges);
            let work = move || {
                let _end = end;
                let driver_options = DriverOptions {
                    receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
                    receive_buffers: RECEIVE_BUFFERS,
                    // Those that are being closed hold a slot for a little longer.
                    connections: share.members as usize + share.in_flight_max as usize + 1_024,
                    send_buffer_bytes: None,
                };
                let nice = raise_priority();
                let (mut engine, report) = match kind {
                    DriverKind::Epoll | DriverKind::Sim => {
                        let driver = ready_or(EpollDriver::new(driver_options), &ready_sender)?;
                        Engine::new(driver, scenario, share, order_receiver, thread_gauges).run()?
                    }
                    DriverKind::Uring => {
                        let driver = ready_or(UringDriver::new(driver_options), &ready_sender)?;
                        Engine::new(driver, scenario, share, order_receiver, thread_gauges).run()?
                    }
                };
                engine.nice = nice;
                Ok((engine, report))
            };
            let name = format!("load-{}", crew.threads.len());
            crew.threads.push(std::thread::Builder::new().name(name).spawn(work).map_err(CrewError::Thread)?);
            // A driver belongs to its thread, so only the thread can make it and say how that went.
            let Ok(waker) = ready.recv() else {
                return Err(crew.join().err().unwrap_or(CrewError::Panicked));
            };
            crew.orders.push((order_sender, waker));
            crew.gauges.push(gauges);
        }
        Ok(crew)
    }

    /// Tells all threads.
    pub fn order(&mut self, order: Order) {
        self.orders_given += 1;
        for (sender, waker) in &self.orders {
            // A thread that has ended needs no orders.
            let _ = sender.send(order);
            waker.wake();
        }
    }

    /// The sum of what all threads show.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(self.gauges.iter().map(AsRef::as_ref))
    }

    /// True when every thread had carried out all orders when it was looked at: what the gauges say is not from before.
    #[must_use]
    pub fn has_obeyed(&self, snapshot: &Snapshot) -> bool {
        snapshot.orders >= self.orders_given
    }

    /// Waits until a thread ends, or so long. True when one has ended by now.
    pub fn wait(&mut self, timeout: Duration) -> bool {
        match self.ended.recv_timeout(timeout) {
            Ok(()) => self.ended_count += 1,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        while self.ended.try_recv().is_ok() {
            self.ended_count += 1;
        }
        self.ended_count > 0
    }

    /// True when all threads have ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended_count >= self.threads.len()
    }

    /// Waits for all threads and collects what they report.
    ///
    /// # Errors
    /// The first thing that went wrong in any of them.
    pub fn join(self) -> Result<(EngineReport, Vec<R>), CrewError> {
        // Engines stop when nobody can order them any more.
        for (sender, waker) in self.orders {
            drop(sender);
            waker.wake();
        }
        let mut sum = EngineReport::default();
        let mut reports = Vec::new();
        let mut first_error = None;
        for thread in self.threads {
            match thread.join().unwrap_or(Err(CrewError::Panicked)) {
                Ok((engine, report)) => {
                    sum.merge(&engine);
                    reports.push(report);
                }
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok((sum, reports)), Err)
    }
}

/// A generator that waits for the processor measures its own waiting, so its threads go first where they may: the
/// same machine often runs the server too. Says which priority it has now.
fn raise_priority() -> i32 {
    rustix::process::nice(NICE).or_else(|_| rustix::process::getpriority_process(None)).unwrap_or(0)
}

fn ready_or<D: Driver>(driver: Result<D, ReactorError>, ready: &Sender<Waker>) -> Result<D, ReactorError> {
    let driver = driver?;
    // The coordinator waits for this and nothing else.
    let _ = ready.send(driver.waker());
    Ok(driver)
}

/// Splits the members into stretches, and the rates with them.
fn shares(options: &EngineOptions, threads: u32) -> Vec<EngineOptions> {
    let threads = threads.clamp(1, options.members.max(1));
    let each = options.members.div_ceil(threads).next_multiple_of(options.together.max(1));
    let mut shares = Vec::new();
    let mut first = 0;
    while first < options.members || shares.is_empty() {
        let members = each.min(options.members - first);
        let part = f64::from(members) / f64::from(options.members.max(1));
        let ramp = match options.ramp {
            Ramp::Rate(per_second, spread) => Ramp::Rate(per_second * part, spread),
            Ramp::Flat => Ramp::Flat,
        };
        let in_flight_max = ((f64::from(options.in_flight_max) * part).ceil() as u32).max(1);
        let first_member = options.first_member + first;
        shares.push(EngineOptions { members, first_member, ramp, in_flight_max, ..options.clone() });
        first += each;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{AddressPlan, PairLimit};
    use crate::arrival::Spread;

    fn options(members: u32) -> EngineOptions {
        let target = "127.0.0.1:1".parse().unwrap();
        let addresses = AddressPlan::new(members, target, &[], PairLimit(u32::MAX), |_| false).unwrap();
        EngineOptions {
            members,
            together: 2,
            first_member: 0,
            seed: 1,
            addresses: Arc::new(addresses),
            host: "h".into(),
            path: "/".into(),
            subprotocols: Arc::new([]),
            headers: Arc::new([]),
            ramp: Ramp::Rate(100.0, Spread::Constant),
            in_flight_max: 10,
            timeout: Duration::from_secs(1),
            attempts_max: 3,
            heartbeat: Duration::ZERO,
            message_bytes_max: 1 << 16,
        }
    }

    #[test]
    fn groups_stay_together() {
        let shares = shares(&EngineOptions { together: 300, ..options(1_200) }, 3);
        let stretches: Vec<(u32, u32)> =
            shares.iter().map(|share| (share.first_member, share.members)).collect();
        assert_eq!(stretches, [(0, 600), (600, 600)]);
    }

    #[test]
    fn shares_are_even_and_complete() {
        for (members, threads) in [(1, 1), (1, 4), (7, 2), (1_000_000, 3), (10, 10), (0, 1)] {
            let shares = shares(&options(members), threads);
            assert!(shares.len() <= threads as usize);
            let mut next = 0;
            for share in &shares {
                assert_eq!(share.first_member, next);
                assert_eq!(share.first_member % 2, 0, "pairs stay together");
                next += share.members;
            }
            assert_eq!(next, members);
            if members > 0 {
                let rate: f64 = shares
                    .iter()
                    .map(|share| match share.ramp {
                        Ramp::Rate(rate, _) => rate,
                        Ramp::Flat => 0.0,
                    })
                    .sum();
                assert!((rate - 100.0).abs() < 1e-6);
            }
        }
    }
}
