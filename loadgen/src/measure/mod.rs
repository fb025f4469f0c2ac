//! What is measured: latencies, lateness, and processors and memory as the kernel tells them.
//!
//! Readers of `/proc` are thin; what they parse is plain functions of text with the tests beside them.
//!
//! Never here: the load's own connections.

pub mod cpu;
pub mod latency;
pub mod lateness;
pub mod memory;
pub mod metrics;
pub mod regression;
pub mod sample;
pub mod slab;
pub mod socket;

use std::path::{Path, PathBuf};

/// A file of `/proc` that cannot be read or understood.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}{}", advice(source))]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// It does not look as expected.
    #[error("{path} has no `{field}`; is this a Linux 5.4 or later with CONFIG_SCHED_INFO?")]
    Field {
        /// Which file.
        path: PathBuf,
        /// What was looked for.
        field: &'static str,
    },
}

fn advice(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::NotFound => " (has the process ended?)",
        std::io::ErrorKind::PermissionDenied => " (run as root, or as the owner of the process)",
        _ => "",
    }
}

fn read(path: impl AsRef<Path>) -> Result<String, ProcError> {
    let path = path.as_ref();
    std::fs::read_to_string(path).map_err(|source| ProcError::Read { path: path.into(), source })
}

/// The value of a line `name:   123 kB`, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
