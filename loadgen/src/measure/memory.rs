//! Memory of a process and of the whole machine, as the kernel counts it.

use serde::Serialize;

use super::{ProcError, kilobytes, read};

/// What one process occupies: `/proc/PID/smaps_rollup` and `status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ProcessMemory {
    /// Everything resident: heap, stacks, mapped rings, program text.
    pub rss_bytes: u64,
    /// Of it: private anonymous memory (heap, stacks).
    pub anonymous_bytes: u64,
    /// Of it: shared memory.
    pub shmem_bytes: u64,
    /// Page tables (kernel memory, but this process's).
    pub page_table_bytes: u64,
}

impl ProcessMemory {
    /// Reads what `pid` occupies now. Walks its page tables: a few ms per GB.
    ///
    /// # Errors
    /// When the process is gone or may not be looked at.
    pub fn of(pid: u32) -> Result<Self, ProcError> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let rollup = read(&path)?;
        let status_path = format!("/proc/{pid}/status");
        let status = read(&status_path)?;
        let missing = |path: &str, field| ProcError::Field { path: path.into(), field };
        Ok(Self {
            rss_bytes: kilobytes(&rollup, "Rss").ok_or_else(|| missing(&path, "Rss"))?,
            anonymous_bytes: kilobytes(&rollup, "Anonymous").ok_or_else(|| missing(&path, "Anonymous"))?,
            shmem_bytes: kilobytes(&rollup, "Pss_Shmem").unwrap_or(0),
            page_table_bytes: kilobytes(&status, "VmPTE").ok_or_else(|| missing(&status_path, "VmPTE"))?,
        })
    }
}

/// What the machine's memory is used for: `/proc/meminfo`, and `/proc/zoneinfo` for free pages that it does not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MachineMemory {
    /// Nobody uses it. `MemFree` leaves out the pages that each processor keeps at hand; after a burst of work these are
    /// hundreds of megabytes, which come back over a minute.
    pub free_bytes: u64,
    /// Files' contents that could be read again, and shared memory.
    pub page_cache_bytes: u64,
    /// Processes' private memory.
    pub anonymous_bytes: u64,
    /// Slab caches.
    pub slab_bytes: u64,
    /// Page tables of all processes.
    pub page_table_bytes: u64,
    /// Everything there is.
    pub total_bytes: u64,
}

impl MachineMemory {
    /// Reads it.
    ///
    /// # Errors
    /// When `/proc/meminfo` is not what it is on every Linux.
    pub fn now() -> Result<Self, ProcError> {
        let path = "/proc/meminfo";
        let mut memory =
            Self::parse(&read(path)?).ok_or(ProcError::Field { path: path.into(), field: "MemFree" })?;
        let pages = pages_at_hand(&read("/proc/zoneinfo")?);
        memory.free_bytes += pages * rustix::param::page_size() as u64;
        Ok(memory)
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name| kilobytes(text, name);
        Some(Self {
            free_bytes: field("MemFree")?,
            page_cache_bytes: field("Buffers")? + field("Cached")? + field("SwapCached").unwrap_or(0),
            anonymous_bytes: field("AnonPages")?,
            slab_bytes: field("Slab")?,
            page_table_bytes: field("PageTables")?,
            total_bytes: field("MemTotal")?,
        })
    }

    /// What the kernel has for itself: all that is neither free, nor page cache, nor processes' own. Beside slab
    /// and page tables that is what no line of `meminfo` shows: rings, file tables, pages of packets.
    #[must_use]
    pub const fn kernel_bytes(&self) -> u64 {
        self.total_bytes.saturating_sub(self.free_bytes + self.page_cache_bytes + self.anonymous_bytes)
    }
}

/// Free pages on the lists of all processors.
fn pages_at_hand(zoneinfo: &str) -> u64 {
    let counts = zoneinfo.lines().filter_map(|line| line.trim_start().strip_prefix("count:"));
    counts.filter_map(|count| count.trim().parse::<u64>().ok()).sum()
}

/// Open files of the whole machine (`/proc/sys/fs/file-nr`): sockets on direct descriptors count too.
///
/// # Errors
/// When the file cannot be read.
pub fn open_files() -> Result<u64, ProcError> {
    let path = "/proc/sys/fs/file-nr";
    let text = read(path)?;
    let first = text.split_ascii_whitespace().next().and_then(|first| first.parse().ok());
    first.ok_or(ProcError::Field { path: path.into(), field: "open files" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_has_what_nobody_else_has() {
        let text = "MemTotal:       1000 kB\nMemFree:         400 kB\nBuffers:          10 kB\nCached:          190 kB\n\
                    SwapCached:        0 kB\nAnonPages:       100 kB\nSlab:            200 kB\nPageTables:       20 kB\n";
        let memory = MachineMemory::parse(text).unwrap();
        assert_eq!(memory.kernel_bytes(), 300 * 1024);
        assert_eq!(memory.slab_bytes, 200 * 1024);
        assert_eq!(MachineMemory::parse("MemTotal: 1 kB"), None);
    }

    #[test]
    fn free_pages_of_all_processors_and_zones_are_added_up() {
        let zoneinfo = "Node 0, zone   Normal\n  pages free     3694686\n  pagesets\n    cpu: 0\n              count:    10702\n\
                        high:     10804\n    cpu: 1\n              count:    8948\n";
        assert_eq!(pages_at_hand(zoneinfo), 19_650);
        assert_eq!(pages_at_hand(""), 0);
    }

    #[test]
    fn this_process_and_this_machine() {
        let memory = ProcessMemory::of(std::process::id()).unwrap();
        assert!(memory.rss_bytes >= memory.anonymous_bytes && memory.anonymous_bytes > 0, "{memory:?}");
        assert!(memory.page_table_bytes > 0);
        let machine = MachineMemory::now().unwrap();
        assert!(machine.kernel_bytes() >= machine.slab_bytes, "{machine:?}");
        assert!(open_files().unwrap() > 0);
    }
}
