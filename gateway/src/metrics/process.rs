//! What the system knows about this process: memory, descriptors, processor time; and the kernel's socket memory.

use std::fs;

use super::Exposition;

/// Figures of `/proc`; what cannot be read is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessFigures {
    /// Memory that is really there.
    pub resident_bytes: Option<u64>,
    /// Address space.
    pub virtual_bytes: Option<u64>,
    /// Page tables of this process.
    pub page_table_bytes: Option<u64>,
    /// Ordinary descriptors. Direct descriptors of a ring are not among them.
    pub open_descriptors: Option<u64>,
    /// The soft limit on them.
    pub descriptor_limit: Option<u64>,
    /// Processor time of all threads, user and system, in hundredths of a second.
    pub cpu_centiseconds: Option<u64>,
    /// TCP sockets of the whole machine.
    pub tcp_sockets: Option<u64>,
    /// Pages that the machine's TCP buffers take: queued data, not the sockets themselves.
    pub tcp_buffer_bytes: Option<u64>,
}

impl ProcessFigures {
    /// As of now.
    #[must_use]
    pub fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let status = text("/proc/self/status");
        let page_bytes = rustix::param::page_size() as u64;
        let kib = |key| field(&status, key).map(|kib| kib << 10);
        let (tcp_sockets, tcp_pages) = sockstat(&text("/proc/net/sockstat"));
        Self {
            resident_bytes: kib("VmRSS:"),
            virtual_bytes: kib("VmSize:"),
            page_table_bytes: kib("VmPTE:"),
            open_descriptors: fs::read_dir("/proc/self/fd")
                .ok()
                .map(|descriptors| descriptors.count() as u64),
            descriptor_limit: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
            cpu_centiseconds: cpu_centiseconds(&text("/proc/self/stat")),
            tcp_sockets,
            tcp_buffer_bytes: tcp_pages.map(|pages| pages * page_bytes),
        }
    }
}

pub(super) fn render(page: &mut Exposition) {
    let figures = ProcessFigures::read();
    let mut gauge = |name, help, value: Option<u64>| {
        if let Some(value) = value {
            page.gauge(name, help, value);
        }
    };
    gauge("process_resident_memory_bytes", "Resident memory of this process.", figures.resident_bytes);
    gauge("process_virtual_memory_bytes", "Address space of this process.", figures.virtual_bytes);
    gauge("holdfast_page_table_bytes", "Page tables of this process.", figures.page_table_bytes);
    gauge(
        "process_open_fds",
        "Ordinary descriptors of this process; direct descriptors of a ring do not count.",
        figures.open_descriptors,
    );
    gauge("process_max_fds", "The soft limit on ordinary descriptors.", figures.descriptor_limit);
    gauge("holdfast_host_tcp_sockets", "TCP sockets of the whole machine.", figures.tcp_sockets);
    gauge(
        "holdfast_host_tcp_buffer_bytes",
        "Memory of the machine's TCP buffers, without the sockets themselves.",
        figures.tcp_buffer_bytes,
    );
    if let Some(hundredths) = figures.cpu_centiseconds {
        page.family(
            "process_cpu_seconds_total",
            "Processor time of this process, user and system.",
            "counter",
        );
        page.sample(
            "process_cpu_seconds_total",
            &[],
            format_args!("{}.{:02}", hundredths / 100, hundredths % 100),
        );
    }
}

/// The number behind a key of `/proc/self/status`.
fn field(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with(key))?;
    line[key.len()..].split_whitespace().next()?.parse().ok()
}

/// User and system time in ticks of 1/100 s (USER_HZ is 100 on every architecture that we run on): fields 14 and 15,
/// counted behind the command's name, which may contain anything.
fn cpu_centiseconds(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// `TCP: inuse 27 orphan 0 tw 0 alloc 30 mem 3` → sockets, pages.
fn sockstat(text: &str) -> (Option<u64>, Option<u64>) {
    let Some(line) = text.lines().find_map(|line| line.strip_prefix("TCP: ")) else { return (None, None) };
    let words: Vec<&str> = line.split_whitespace().collect();
    let number =
        |name| words.chunks_exact(2).find(|pair| pair[0] == name).and_then(|pair| pair[1].parse().ok());
    (number("alloc"), number("mem"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read_as_they_are() {
        let status = "Name:\tholdfast\nVmPTE:\t     104 kB\nVmRSS:\t   12344 kB\n";
        assert_eq!(field(status, "VmRSS:"), Some(12_344));
        assert_eq!(field(status, "VmSwap:"), None);
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194304 90 0 0 0 123 45 0 0 20 0 1 0 99 1 2";
        assert_eq!(cpu_centiseconds(stat), Some(168));
        assert_eq!(cpu_centiseconds("nonsense"), None);
        let sockets = "sockets: used 9\nTCP: inuse 27 orphan 0 tw 0 alloc 30 mem 3\nUDP: inuse 1 mem 2\n";
        assert_eq!(sockstat(sockets), (Some(30), Some(3)));
        assert_eq!(sockstat(""), (None, None));
    }

    #[test]
    fn this_process_has_memory_and_descriptors() {
        let figures = ProcessFigures::read();
        assert!(figures.resident_bytes > Some(1 << 20), "{figures:?}");
        assert!(figures.open_descriptors >= Some(3), "{figures:?}");
        assert!(figures.cpu_centiseconds.is_some(), "{figures:?}");
    }
}
