//! Samples of the server and the generator through a run, and what they say about one connection.
//!
//! How the server's memory is counted, when both ends are on this machine:
//!
//! ```text
//! user    resident memory of the server's process (smaps_rollup: Rss, program text and mapped rings included)
//! kernel  its page tables (status: VmPTE)
//!         + its share of the growth of the slab caches (slab.rs)
//!         + half of the growth that no cache explains (rings' tables, packets): MemTotal - MemFree - free pages on
//!           the processors' lists (zoneinfo) - page cache - anonymous memory - Slab - PageTables
//! ```
//!
//! `MemAvailable` is not looked at: it counts inode and dentry slabs as reclaimable though live sockets pin them.
//! Growth is counted from a baseline taken before the server was started, or before the first connection.

use holdfast_reactor::Moment;
use serde::Serialize;

use super::ProcError;
use super::cpu::CpuSample;
use super::memory::{MachineMemory, ProcessMemory};
use super::slab::{CacheGrowth, Slabs, WaitsBy};

/// Takes samples; see the module's doc.
#[derive(Debug)]
pub struct Sampler {
    server: Option<u32>,
    generator: u32,
    server_waits: WaitsBy,
    generator_waits: WaitsBy,
    start: Moment,
    baseline: MachineMemory,
    /// `None`: slabinfo may not be read; the growth of all slabs is halved instead.
    baseline_slabs: Option<Slabs>,
    samples: Vec<Sample>,
    caches: Vec<CacheGrowth>,
    is_finished: bool,
}

/// One row of the series.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sample {
    /// Seconds since the run began.
    pub seconds: f64,
    /// Connections that are up.
    pub connections: u64,
    /// The server; `None` when it was not named.
    pub server: Option<ServerSample>,
    /// Resident memory of the generator.
    pub generator_rss_bytes: u64,
    /// Processor time of the generator so far, in nanoseconds.
    pub generator_cpu_ns: u64,
    /// Kernel memory of the whole machine beyond the baseline, both ends.
    pub kernel_growth_bytes: i64,
}

/// The server's part of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ServerSample {
    /// Resident memory.
    pub rss_bytes: u64,
    /// Page tables.
    pub page_table_bytes: u64,
    /// Its share of the slabs' growth.
    pub slab_bytes: f64,
    /// Its half of the growth that no slab explains (may be below zero: counters are not read at one instant).
    pub other_bytes: f64,
    /// Processor time so far, in nanoseconds.
    pub cpu_ns: u64,
}

impl ServerSample {
    /// Kernel memory on the server's side.
    #[must_use]
    pub fn kernel_bytes(&self) -> f64 {
        self.page_table_bytes as f64 + self.slab_bytes + self.other_bytes
    }

    /// All told.
    #[must_use]
    pub fn total_bytes(&self) -> f64 {
        self.rss_bytes as f64 + self.kernel_bytes()
    }

    /// All told, where what others on the machine gave back meanwhile is not set off against what the server took.
    #[must_use]
    pub fn charged_bytes(&self) -> f64 {
        let growth = self.slab_bytes.max(0.0) + self.other_bytes.max(0.0);
        self.rss_bytes as f64 + self.page_table_bytes as f64 + growth
    }
}

impl Sampler {
    /// Takes the baseline.
    ///
    /// # Errors
    /// When `/proc/meminfo` cannot be read.
    pub fn new(start: Moment, generator_waits: WaitsBy) -> Result<Self, ProcError> {
        Ok(Self {
            server: None,
            generator: std::process::id(),
            server_waits: WaitsBy::Unknown,
            generator_waits,
            start,
            baseline: MachineMemory::now()?,
            baseline_slabs: Slabs::now().ok(),
            samples: Vec::new(),
            caches: Vec::new(),
            is_finished: false,
        })
    }

    /// Names the server's process.
    pub fn watch(&mut self, server: u32) {
        self.server = Some(server);
        self.server_waits = WaitsBy::of(server);
    }

    /// True when the kernel lets us see its caches one by one.
    #[must_use]
    pub fn sees_slabs(&self) -> bool {
        self.baseline_slabs.is_some()
    }

    /// Takes a sample.
    ///
    /// # Errors
    /// When a process is gone: the server most likely died.
    pub fn take(&mut self, now: Moment, connections: u64) -> Result<(), ProcError> {
        if self.is_finished {
            return Ok(());
        }
        let machine = MachineMemory::now()?;
        let slabs = self.baseline_slabs.as_ref().and_then(|_| Slabs::now().ok());
        let server = self.server.map(|pid| self.server_sample(pid, &machine, slabs.as_ref())).transpose()?;
        let sample = Sample {
            seconds: now.since(self.start).as_secs_f64(),
            connections,
            server,
            generator_rss_bytes: ProcessMemory::of(self.generator)?.rss_bytes,
            generator_cpu_ns: CpuSample::of(self.generator)?.total_ns(),
            kernel_growth_bytes: machine.kernel_bytes() as i64 - self.baseline.kernel_bytes() as i64,
        };
        self.samples.push(sample);
        Ok(())
    }

    fn server_sample(
        &mut self,
        pid: u32,
        machine: &MachineMemory,
        slabs: Option<&Slabs>,
    ) -> Result<ServerSample, ProcError> {
        let memory = ProcessMemory::of(pid)?;
        let slab_growth = machine.slab_bytes as f64 - self.baseline.slab_bytes as f64;
        let slab_bytes = match (slabs, &self.baseline_slabs) {
            (Some(slabs), Some(baseline)) => {
                self.caches = slabs.growth(baseline, self.server_waits, self.generator_waits);
                self.caches.iter().map(|cache| cache.server_bytes).sum()
            }
            _ => slab_growth / 2.0,
        };
        let kernel_growth = machine.kernel_bytes() as f64 - self.baseline.kernel_bytes() as f64;
        let page_table_growth = machine.page_table_bytes as f64 - self.baseline.page_table_bytes as f64;
        Ok(ServerSample {
            rss_bytes: memory.rss_bytes,
            page_table_bytes: memory.page_table_bytes,
            slab_bytes,
            other_bytes: (kernel_growth - slab_growth - page_table_growth) / 2.0,
            cpu_ns: CpuSample::of(pid)?.total_ns(),
        })
    }

    /// Takes no more samples of the server: it is about to go.
    #[must_use]
    pub fn finished(mut self) -> Self {
        self.is_finished = true;
        self
    }

    /// All samples so far.
    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The caches that grew most up to the last sample, for the report.
    #[must_use]
    pub fn caches(&self) -> &[CacheGrowth] {
        &self.caches[..self.caches.len().min(20)]
    }

    /// How both ends were found to wait: server, generator.
    #[must_use]
    pub const fn waits(&self) -> (WaitsBy, WaitsBy) {
        (self.server_waits, self.generator_waits)
    }
}
