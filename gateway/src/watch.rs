//! Looks after what no shard should have to: the process's memory, and the wall clock.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use holdfast_tuning::{ledger, probe};
use rustix::time::{ClockId, clock_gettime};

use crate::shard::Shared;

/// How often it looks. A reconnect storm brings some 20,000 connections a second, of 4 KiB each: memory cannot grow
/// by more than a few dozen MiB unseen.
const PERIOD: Duration = Duration::from_millis(250);

/// The thread that watches; see the module's doc.
#[derive(Debug)]
pub(crate) struct Watch {
    stop: flume::Sender<()>,
    thread: JoinHandle<()>,
}

impl Watch {
    pub(crate) fn start(shared: Arc<Shared>, memory_limit_bytes: u64) -> std::io::Result<Self> {
        let (stop, stopped) = flume::bounded::<()>(1);
        let body = move || {
            // The wait is for the end of the process; each time it has not come, it is time to look.
            while stopped.recv_timeout(PERIOD) == Err(flume::RecvTimeoutError::Timeout) {
                look(&shared, memory_limit_bytes);
            }
        };
        let thread = std::thread::Builder::new().name("watch".to_owned()).spawn(body)?;
        Ok(Self { stop, thread })
    }

    pub(crate) fn stop(self) {
        drop(self.stop);
        // It holds nothing that could be lost.
        let _ = self.thread.join();
    }
}

fn look(shared: &Shared, memory_limit_bytes: u64) {
    shared.wall_offset_ms.store(wall_offset_ms(), Ordering::Relaxed);
    let connections = shared.connections.load(Ordering::Relaxed) as u64;
    let kernel_bytes = connections * ledger::Waiting::MultishotPoll.connection_bytes();
    let used_bytes = resident_bytes() + kernel_bytes;
    let exhausted = used_bytes > memory_limit_bytes;
    if shared.memory_exhausted.swap(exhausted, Ordering::Relaxed) == exhausted {
        return;
    }
    if exhausted {
        tracing::warn!(
            used_bytes,
            memory_limit_bytes,
            "limits.memory is reached: new connections are refused"
        );
    } else {
        tracing::info!(used_bytes, memory_limit_bytes, "memory is below limits.memory again");
    }
}

/// Wall clock minus monotonic clock, in milliseconds.
pub(crate) fn wall_offset_ms() -> i64 {
    let ms = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec * 1000 + time.tv_nsec / 1_000_000
    };
    ms(ClockId::Realtime) - ms(ClockId::Monotonic)
}

/// Four fifths of what the machine, or the tightest control group above this process, has.
pub(crate) fn default_memory_limit_bytes() -> u64 {
    let probe = probe::probe();
    let machine = probe.memory.map_or(u64::MAX, |memory| memory.total_bytes);
    let group = probe.cgroup.map_or(u64::MAX, |group| group.limit_bytes);
    machine.min(group) / 5 * 4
}

/// Memory of this process that is really there; 0 where `/proc` is not mounted.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}
