//! The edge: shards, sessions, auth, the HTTP API, operations. Wires all the other crates together.
//!
//! Never here: types of a storage engine.

#![forbid(unsafe_code)]

mod alarm;
pub mod api;
pub mod backend;
pub mod banner;
pub mod cli;
pub mod config;
pub mod directory;
pub mod listener;
pub mod metrics;
pub mod planted;
pub mod serve;
pub mod session;
pub mod shard;
pub mod token;
mod watch;
