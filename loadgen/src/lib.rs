//! A load generator for any WebSocket server.
//!
//! It holds connections, measures echoes and handshakes, and lets pairs of users chat through a Holdfast server
//! while it keeps the books on every message: sent, acked, delivered, lost, duplicated, reordered, corrupted.
//! `docs/loadgen.md` says how each figure is measured.
//!
//! - [`engine`]: one thread, one driver, any number of connections; what a connection *does* is a [`scenario`].
//! - [`arrival`]: open-loop schedules; latency is counted from the intended moment.
//! - [`measure`]: latencies, lateness, processor time, memory (kernel included).
//! - [`check`]: a black-box checker of what the chat promises, under faults.
//! - [`mode`]: what the commands do; [`report`]: what they print and write.
//!
//! What it must never do: slow down because the server does (that would hide the server's stalls), or blame the
//! server for its own delay (it measures its own lateness, and says when *it* was the limit).
//!
//! Never here: anything of the server's crates. What it knows of Holdfast is the protocol.

#![forbid(unsafe_code)]

pub mod address;
pub mod arrival;
pub mod check;
pub mod cli;
pub mod clock;
pub mod crew;
pub mod engine;
pub mod measure;
pub mod mode;
pub mod outcome;
pub mod pilot;
pub mod progress;
pub mod random;
pub mod report;
pub mod scenario;
pub mod sequence;
pub mod server;
pub mod settings;
pub mod stamp;
pub mod target;
pub mod token;
pub mod units;
pub mod wire;
