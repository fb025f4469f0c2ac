//! Processor time of a process, by thread, in nanoseconds: `/proc/PID/task/*/schedstat`.
//!
//! Threads of io_uring's kernel workers are among a process's tasks and are counted. What threads that ended
//! between two samples had used stands only in the process's own clock (10 ms steps): it is added when it shows.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::{ProcError, read};

/// What the threads of a process had used at one moment.
#[derive(Debug, Clone, Default)]
pub struct CpuSample {
    threads: BTreeMap<u32, (String, u64)>,
    /// The whole process, ended threads too, in steps of 10 ms.
    process_ns: u64,
}

/// What a process used between two samples.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CpuUse {
    /// All threads together, in nanoseconds.
    pub total_ns: u64,
    /// Each name's threads together, the greatest first.
    pub threads: Vec<ThreadUse>,
}

/// The threads of one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ThreadUse {
    /// The name that they gave themselves.
    pub name: String,
    /// What they used, in nanoseconds.
    pub ns: u64,
}

/// USER_HZ is 100 on every Linux that Rust runs on: it is part of the ABI.
const TICK_NS: u64 = 10_000_000;

impl CpuSample {
    /// Reads what the threads of `pid` have used so far.
    ///
    /// # Errors
    /// When the process is gone or may not be looked at.
    pub fn of(pid: u32) -> Result<Self, ProcError> {
        let root = PathBuf::from(format!("/proc/{pid}"));
        let stat = root.join("stat");
        let process_ns =
            process_ns(&read(&stat)?).ok_or(ProcError::Field { path: stat, field: "utime and stime" })?;
        let tasks = root.join("task");
        let entries = std::fs::read_dir(&tasks).map_err(|source| ProcError::Read { path: tasks, source })?;
        let mut threads = BTreeMap::new();
        for entry in entries.flatten() {
            let Some(tid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A thread may end between the listing and the reading.
            let Ok(schedstat) = read(entry.path().join("schedstat")) else { continue };
            let Some(ns) = schedstat.split_ascii_whitespace().next().and_then(|ns| ns.parse().ok()) else {
                continue;
            };
            let name = read(entry.path().join("comm")).unwrap_or_default().trim_end().to_owned();
            threads.insert(tid, (name, ns));
        }
        Ok(Self { threads, process_ns })
    }

    /// What was used since an earlier sample.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> CpuUse {
        let mut by_name = BTreeMap::<String, u64>::new();
        for (tid, (name, ns)) in &self.threads {
            let before = earlier.threads.get(tid).map_or(0, |(_, ns)| *ns);
            *by_name.entry(name.clone()).or_default() += ns.saturating_sub(before);
        }
        let running: u64 = by_name.values().sum();
        let process = self.process_ns.saturating_sub(earlier.process_ns);
        // Both ends of the coarse interval may be a step off.
        let ended = process.saturating_sub(running + 2 * TICK_NS);
        if ended > 0 {
            by_name.insert("(ended)".into(), ended);
        }
        let mut threads: Vec<ThreadUse> =
            by_name.into_iter().filter(|(_, ns)| *ns > 0).map(|(name, ns)| ThreadUse { name, ns }).collect();
        threads.sort_by(|one, other| other.ns.cmp(&one.ns).then_with(|| one.name.cmp(&other.name)));
        CpuUse { total_ns: running + ended, threads }
    }

    /// Nanoseconds of all threads so far.
    #[must_use]
    pub fn total_ns(&self) -> u64 {
        self.threads.values().map(|(_, ns)| ns).sum()
    }
}

/// utime + stime of `/proc/PID/stat`, fields 14 and 15; the name before them may contain anything, `)` too.
fn process_ns(stat: &str) -> Option<u64> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().skip(11);
    let utime: u64 = fields.next()?.parse().ok()?;
    let stime: u64 = fields.next()?.parse().ok()?;
    Some((utime + stime) * TICK_NS)
}

/// Processor time that a hypervisor took from this machine so far, and all that passed, in clock ticks of all
/// processors: when the share is high, measurements of others on the same host are in ours.
///
/// # Errors
/// When `/proc/stat` cannot be read.
pub fn steal_and_total_ticks() -> Result<(u64, u64), ProcError> {
    let path = "/proc/stat";
    steal(&read(path)?).ok_or(ProcError::Field { path: path.into(), field: "cpu" })
}

fn steal(stat: &str) -> Option<(u64, u64)> {
    let fields: Vec<u64> = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_ascii_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guest time after it is in user already.
    Some((*fields.get(7)?, fields.iter().take(8).sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_after_a_name_with_brackets() {
        let stat = "42 (a) b) c) S 1 2 3 4 5 6 7 8 9 10 700 30 0 0 20 0 1 0";
        assert_eq!(process_ns(stat), Some(7_300_000_000));
        assert_eq!(process_ns("nonsense"), None);
    }

    #[test]
    fn steal_is_the_eighth_field() {
        assert_eq!(steal("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 …"), Some((8, 36)));
        assert_eq!(steal("cpu  1 2"), None);
    }

    #[test]
    fn difference_of_samples_is_by_name() {
        let sample = |threads: &[(u32, &str, u64)], process_ns| CpuSample {
            threads: threads.iter().map(|&(tid, name, ns)| (tid, (name.to_owned(), ns))).collect(),
            process_ns,
        };
        let earlier = sample(&[(1, "shard", 100), (2, "shard", 50), (3, "http", 5)], 0);
        let later = sample(&[(1, "shard", 160), (2, "shard", 90), (4, "http", 7)], 10_000_000);
        let used = later.since(&earlier);
        assert_eq!(used.total_ns, 107);
        assert_eq!(
            used.threads,
            [ThreadUse { name: "shard".into(), ns: 100 }, ThreadUse { name: "http".into(), ns: 7 }]
        );
        let ended = sample(&[(1, "shard", 160)], 500_000_000).since(&earlier);
        assert_eq!(ended.threads[0], ThreadUse { name: "(ended)".into(), ns: 480_000_000 - 60 });
    }

    #[test]
    fn own_use_grows_with_work() {
        let before = CpuSample::of(std::process::id()).unwrap();
        let mut random = crate::random::Random::new(1);
        let start = crate::clock::monotonic();
        let mut sum = 0u64;
        while crate::clock::monotonic().since(start).as_millis() < 20 {
            sum = sum.wrapping_add(random.bits());
        }
        let used = CpuSample::of(std::process::id()).unwrap().since(&before);
        assert!(used.total_ns > 1_000_000, "20 ms of work ({sum}) show as {used:?}");
        assert!(CpuSample::of(u32::MAX).unwrap_err().to_string().contains("has the process ended?"));
    }
}
