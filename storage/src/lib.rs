//! What is *kept*: the workers that own conversations and users, and the engines under them.
//!
//! Never here: HTTP, WebSocket.

#![forbid(unsafe_code)]

mod blocks;
pub mod check;
pub mod command;
mod device;
mod directory;
pub mod engine;
mod entry;
mod error;
mod floor;
mod group;
mod heads;
mod inbox;
mod layout;
mod listing;
mod options;
mod people;
pub mod planted;
mod sessions;
mod stats;
pub mod worker;
mod workers;

pub use directory::make_directory;
pub use error::StorageError;
pub use layout::new_group;
pub use options::{Clock, Limits, Options};
pub use stats::{BUCKETS_US, Durations, Stats, WorkerStats};
pub use workers::{Readiness, ReadyHandle, Running, StatsHandle, Workers};
