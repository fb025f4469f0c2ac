//! How bytes *move*: one [`Driver`] trait with three back ends, and what a thread that owns a driver needs
//! beside it (buffers, timers, lanes from other threads).
//!
//! - [`uring`]: io_uring with direct descriptors; the fast path, as many rings as `RLIMIT_NOFILE` demands.
//! - [`epoll`]: where io_uring is blocked (containers' default seccomp profiles).
//! - [`sim`]: a network in memory with a seed and a virtual clock, which loses no chance to be unkind.
//!
//! All three pass one contract suite (`tests/contract.rs`).
//!
//! Never here: WebSocket, HTTP, chat. A driver moves bytes and does not know what they mean.
//!
//! This is the only crate of the workspace that may say `unsafe`.

pub mod buffer;
mod chunks;
pub mod driver;
pub mod epoll;
pub mod lane;
mod outputs;
pub mod planted;
pub mod sim;
mod slots;
pub mod timer;
pub mod uring;
pub mod wake;

pub use buffer::{Buffer, BufferPool};
pub use driver::{CloseReason, ConnectionId, Driver, DriverKind, DriverOptions, Event, Output, ReactorError};
pub use timer::{Moment, Timers};
pub use wake::Waker;
