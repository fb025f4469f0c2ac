//! A black-box check of what the chat promises (`docs/protocol.md`), under faults.
//!
//! ```text
//!  seed ─▶ actor ── acts ──▶ devices ── bytes ──▶ holdfast serve ◀── kill, stop, reset … ── faults ◀─ seed
//!                               │ observations: every frame sent and received, with its time
//!                               ▼
//!                             judge ──▶ violations, each with the observations that contradict each other
//! ```
//!
//! The actor, the plan of faults, the devices and the judge do no I/O and ask no clock; `crowd` and `disk` do. The
//! judge is written from the protocol's documentation and shares no code with the server.

mod actor;
mod answers;
mod blocks;
pub(crate) mod crowd;
pub(crate) mod device;
pub(crate) mod disk;
pub mod fault;
mod inbox;
pub(crate) mod judge;
mod line;
mod log;
pub(crate) mod observation;
pub(crate) mod violation;

#[cfg(test)]
mod tests;
