//! The edge: shards, sessions, auth, the HTTP API, operations. Wires all the other crates together.
//!
//! Never here: types of a storage engine.

#![forbid(unsafe_code)]

pub mod api;
pub mod config;
pub mod metrics;
pub mod token;
