//! The snapshot that `doctor` judges: every limit of this process and machine that a connection can run into.
//!
//! Reading never fails as a whole: what a kernel or a container does not show is `None`, and `doctor` says that it
//! could not look. Nothing here judges, and nothing here changes a limit.

mod cgroup;

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What the machine and this process looked like at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Major and minor version of the running kernel.
    pub kernel: Option<(u32, u32)>,
    /// Processors that this process may run on.
    pub processors: u64,
    /// RLIMIT_NOFILE; `None`: unlimited.
    pub nofile: Limit,
    /// RLIMIT_MEMLOCK; `None`: unlimited.
    pub memlock: Limit,
    /// CAP_IPC_LOCK: RLIMIT_MEMLOCK does not count.
    pub may_lock_memory: bool,
    /// CAP_SYS_ADMIN: `fs.file-max` does not count.
    pub may_exceed_file_max: bool,
    /// `Seccomp:` of `/proc/self/status`: 0 none, 1 strict, 2 filter.
    pub seccomp_mode: Option<u32>,
    /// `kernel.io_uring_disabled`: 0 for all, 1 for members of a group, 2 for nobody.
    pub io_uring_disabled: Option<u32>,
    /// What came of making a ring. This crate stands below the driver and does not try: the caller puts it here.
    pub uring: UringProbe,
    /// `fs.file-max`.
    pub file_max: Option<u64>,
    /// Files that are open on this machine, the first value of `fs.file-nr`.
    pub files_open: Option<u64>,
    /// `fs.nr_open`: the highest RLIMIT_NOFILE that anybody may be given.
    pub nr_open: Option<u64>,
    /// `net.ipv4.ip_local_port_range`, both ends included.
    pub local_ports: Option<(u64, u64)>,
    /// `net.core.somaxconn`.
    pub somaxconn: Option<u64>,
    /// `net.ipv4.tcp_max_syn_backlog`.
    pub syn_backlog: Option<u64>,
    /// `net.core.netdev_max_backlog`.
    pub netdev_backlog: Option<u64>,
    /// `net.ipv4.tcp_mem`, in pages: relaxed, pressure, limit.
    pub tcp_mem_pages: Option<[u64; 3]>,
    /// `net.ipv4.tcp_ehash_entries`: buckets of the table of connections.
    pub connection_buckets: Option<u64>,
    /// Connection tracking; `None`: not loaded.
    pub conntrack: Option<Conntrack>,
    /// `/proc/meminfo`.
    pub memory: Option<MemInfo>,
    /// The tightest control group above this process that limits memory.
    pub cgroup: Option<CgroupMemory>,
    /// Time since boot that another guest ran when this one wanted to.
    pub steal: Option<CpuTime>,
}

/// A resource limit; `None`: unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// What holds now.
    pub soft: Option<u64>,
    /// What the process may raise it to by itself.
    pub hard: Option<u64>,
}

impl Limit {
    /// The hard limit as a number.
    #[must_use]
    pub fn reachable(&self) -> u64 {
        self.hard.unwrap_or(u64::MAX)
    }
}

/// What came of making a ring as the `uring` driver makes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UringProbe {
    /// Nobody tried.
    NotTried,
    /// A ring was made and closed again.
    Works,
    /// The driver cannot run here.
    Refused {
        /// What the driver says about it.
        reason: String,
    },
}

/// Connection tracking of netfilter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conntrack {
    /// Entries now. 0 under traffic: no rule asks for tracking, so nothing is counted.
    pub count: u64,
    /// The most there may be; more are dropped.
    pub max: u64,
}

/// The lines of `/proc/meminfo` that matter, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemInfo {
    /// All of it.
    pub total_bytes: u64,
    /// Pages that nobody uses.
    pub free_bytes: u64,
    /// The kernel's guess of what could be had without swapping.
    pub available_bytes: u64,
    /// Pages of files, which really can be dropped (`Active(file)` + `Inactive(file)`).
    pub file_bytes: u64,
    /// Slab that the kernel calls reclaimable, with the inodes and dentries of live sockets in it.
    pub slab_reclaimable_bytes: u64,
}

impl MemInfo {
    /// What connections can really have: free pages and droppable ones. Not `MemAvailable`, which also counts
    /// reclaimable slab, where the inodes and dentries of live sockets stand that nothing can reclaim.
    #[must_use]
    pub const fn usable_bytes(&self) -> u64 {
        self.free_bytes.saturating_add(self.file_bytes)
    }
}

/// A control group's limit on memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupMemory {
    /// The file that sets the limit.
    pub file: PathBuf,
    /// The limit.
    pub limit_bytes: u64,
    /// What the group uses of it, pages of files that can be dropped left out.
    pub used_bytes: u64,
}

impl CgroupMemory {
    /// What the group may still use.
    #[must_use]
    pub const fn usable_bytes(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.used_bytes)
    }
}

/// Processor time since boot, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuTime {
    /// Taken by the hypervisor.
    pub steal_ticks: u64,
    /// Everything but idle and waiting for disks, steal included.
    pub busy_ticks: u64,
}

impl CpuTime {
    /// Stolen share of the time in which there was something to do, in tenths of a per cent.
    #[must_use]
    pub const fn steal_permille(&self) -> u64 {
        match self.steal_ticks.saturating_mul(1_000).checked_div(self.busy_ticks) {
            Some(permille) => permille,
            None => 0,
        }
    }
}

/// Looks at this process and this machine.
#[must_use]
pub fn probe() -> Probe {
    use rustix::process::{Resource, getrlimit};
    let limit = |resource| {
        let limit = getrlimit(resource);
        Limit { soft: limit.current, hard: limit.maximum }
    };
    let processors = rustix::thread::sched_getaffinity(None).map_or(1, |mask| u64::from(mask.count()).max(1));
    Machine { proc: Path::new("/proc"), sys: Path::new("/sys") }.probe(
        processors,
        limit(Resource::Nofile),
        limit(Resource::Memlock),
    )
}

/// Where the kernel shows itself; another place in tests.
struct Machine<'a> {
    proc: &'a Path,
    sys: &'a Path,
}

impl Machine<'_> {
    fn probe(&self, processors: u64, nofile: Limit, memlock: Limit) -> Probe {
        let status = self.read("self/status").unwrap_or_default();
        let capabilities = status_field(&status, "CapEff").and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let may = |bit: u32| capabilities.is_some_and(|set| set >> bit & 1 == 1);
        Probe {
            kernel: self.read("sys/kernel/osrelease").and_then(|text| kernel_version(&text)),
            processors,
            nofile,
            memlock,
            may_lock_memory: may(CAP_IPC_LOCK),
            may_exceed_file_max: may(CAP_SYS_ADMIN),
            seccomp_mode: status_field(&status, "Seccomp").and_then(|text| text.parse().ok()),
            io_uring_disabled: self.sysctl("kernel/io_uring_disabled"),
            uring: UringProbe::NotTried,
            file_max: self.sysctl("fs/file-max"),
            files_open: self.sysctls::<1>("fs/file-nr").map(|[open]| open),
            nr_open: self.sysctl("fs/nr_open"),
            local_ports: self.sysctls::<2>("net/ipv4/ip_local_port_range").map(|[low, high]| (low, high)),
            somaxconn: self.sysctl("net/core/somaxconn"),
            syn_backlog: self.sysctl("net/ipv4/tcp_max_syn_backlog"),
            netdev_backlog: self.sysctl("net/core/netdev_max_backlog"),
            tcp_mem_pages: self.sysctls("net/ipv4/tcp_mem"),
            // Below zero in a network namespace that shares the table of the first one.
            connection_buckets: self.sysctl::<i64>("net/ipv4/tcp_ehash_entries").map(i64::unsigned_abs),
            conntrack: self.conntrack(),
            memory: self.read("meminfo").and_then(|text| meminfo(&text)),
            cgroup: cgroup::tightest(self.proc, self.sys),
            steal: self.read("stat").and_then(|text| cpu_time(&text)),
        }
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.proc.join(path)).ok()
    }

    fn sysctl<T: FromStr>(&self, path: &str) -> Option<T> {
        self.read(&format!("sys/{path}"))?.trim().parse().ok()
    }

    fn sysctls<const N: usize>(&self, path: &str) -> Option<[u64; N]> {
        let text = self.read(&format!("sys/{path}"))?;
        let mut values = [0; N];
        let mut words = text.split_ascii_whitespace();
        for value in &mut values {
            *value = words.next()?.parse().ok()?;
        }
        Some(values)
    }

    fn conntrack(&self) -> Option<Conntrack> {
        Some(Conntrack {
            count: self.sysctl("net/netfilter/nf_conntrack_count")?,
            max: self.sysctl("net/netfilter/nf_conntrack_max")?,
        })
    }
}

const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;

/// `6.18.44-something` → (6, 18).
fn kernel_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn meminfo(text: &str) -> Option<MemInfo> {
    let bytes = |name| {
        let kib: u64 = status_field(text, name)?.strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1_024)
    };
    Some(MemInfo {
        total_bytes: bytes("MemTotal")?,
        free_bytes: bytes("MemFree")?,
        available_bytes: bytes("MemAvailable")?,
        file_bytes: bytes("Active(file)")?.saturating_add(bytes("Inactive(file)")?),
        slab_reclaimable_bytes: bytes("SReclaimable")?,
    })
}

/// The first line of `/proc/stat`: user nice system idle iowait irq softirq steal …
fn cpu_time(text: &str) -> Option<CpuTime> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks = line.split_ascii_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>().ok()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks[..] else { return None };
    Some(CpuTime { steal_ticks: steal, busy_ticks: user + nice + system + irq + softirq + steal })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_looked_at() {
        let probe = probe();
        assert!(probe.kernel.is_some_and(|(major, _)| major >= 4), "{:?}", probe.kernel);
        assert!(probe.processors >= 1);
        assert!(probe.memory.is_some_and(|memory| memory.total_bytes > 0));
        assert_eq!(probe.uring, UringProbe::NotTried);
    }

    #[test]
    fn a_machine_that_shows_nothing_is_a_probe_of_nones() {
        let empty = tempfile::tempdir().expect("a temporary directory can be made");
        let machine = Machine { proc: empty.path(), sys: empty.path() };
        let unlimited = Limit { soft: None, hard: None };
        let probe = machine.probe(1, unlimited, unlimited);
        assert_eq!(probe.kernel, None);
        assert_eq!(probe.memory, None);
        assert_eq!(probe.conntrack, None);
        assert_eq!(probe.cgroup, None);
        assert!(!probe.may_lock_memory);
    }

    #[test]
    fn files_of_a_machine_are_read() {
        let root = tempfile::tempdir().expect("a temporary directory can be made");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("below the root")).expect("can be made");
            fs::write(path, text).expect("can be written");
        };
        write("sys/kernel/osrelease", "6.18.44-fc-v657\n");
        write("self/status", "Name:\tx\nCapEff:\t0000000000204000\nSeccomp:\t2\nSeccomp_filters:\t1\n");
        write("sys/kernel/io_uring_disabled", "2\n");
        write("sys/fs/file-nr", "384\t0\t2466177\n");
        write("sys/net/ipv4/ip_local_port_range", "32768\t60999\n");
        write("sys/net/ipv4/tcp_mem", "287901\t383868\t575802\n");
        write("sys/net/netfilter/nf_conntrack_count", "7\n");
        write("sys/net/netfilter/nf_conntrack_max", "262144\n");
        write(
            "meminfo",
            "MemTotal: 4 kB\nMemFree: 3 kB\nMemAvailable: 2 kB\nActive(file): 1 kB\nInactive(file): 5 kB\nSReclaimable: 6 kB\n",
        );
        write("stat", "cpu  50 1 4 252145 615 0 5 40 0 0\ncpu0 1 1 1 1\n");

        let limit = Limit { soft: Some(1_024), hard: Some(20_000) };
        let probe = Machine { proc: root.path(), sys: root.path() }.probe(2, limit, limit);
        assert_eq!(probe.kernel, Some((6, 18)));
        assert!(probe.may_lock_memory && probe.may_exceed_file_max);
        assert_eq!(probe.seccomp_mode, Some(2));
        assert_eq!(probe.io_uring_disabled, Some(2));
        assert_eq!(probe.files_open, Some(384));
        assert_eq!(probe.local_ports, Some((32_768, 60_999)));
        assert_eq!(probe.tcp_mem_pages, Some([287_901, 383_868, 575_802]));
        assert_eq!(probe.conntrack, Some(Conntrack { count: 7, max: 262_144 }));
        assert_eq!(probe.memory.map(|memory| memory.usable_bytes()), Some(9 * 1_024));
        assert_eq!(probe.steal, Some(CpuTime { steal_ticks: 40, busy_ticks: 100 }));
        assert_eq!(probe.steal.map(|steal| steal.steal_permille()), Some(400));
    }

    #[test]
    fn kernel_versions_of_distributions_parse() {
        for (text, version) in [
            ("6.18.44-fc-v657\n", Some((6, 18))),
            ("6.1.0-28-amd64", Some((6, 1))),
            ("5.15.167.4-microsoft-standard-WSL2", Some((5, 15))),
            ("7.0-rc1", Some((7, 0))),
            ("", None),
            ("linux", None),
        ] {
            assert_eq!(kernel_version(text), version, "{text:?}");
        }
    }
}
