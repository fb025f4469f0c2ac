//! What is *kept*: the workers that own conversations and users, and the engines under them.
//!
//! Never here: HTTP, WebSocket.

#![forbid(unsafe_code)]

pub mod command;
pub mod engine;
mod error;
mod options;
mod stats;
mod workers;

pub use error::StorageError;
pub use options::{Clock, Limits, Options};
pub use stats::{BUCKETS_US, Durations, Stats, WorkerStats};
pub use workers::{Readiness, ReadyHandle, Running, Workers};
