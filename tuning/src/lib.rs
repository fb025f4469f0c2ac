//! The kernel and process limits that a number of connections needs: probed, explained, planned.
//!
//! - [`ledger`]: what one connection costs, byte by byte, kernel included.
//! - [`demand`]: what a number of connections needs of a machine.
//! - [`probe`]: what this machine and this process offer.
//! - [`doctor`]: the difference, each with the command that closes it.
//! - [`plan`]: capacity on paper, for a machine that is not there yet.
//!
//! Beside the crate stand files to copy, which its tests hold against the same numbers: `sysctl/`, `systemd/`,
//! `seccomp/`.
//!
//! Never here: sessions, chat, sockets. Nothing here changes a limit; it says how.

#![forbid(unsafe_code)]

pub mod demand;
pub mod doctor;
pub mod ledger;
pub mod plan;
pub mod probe;
mod report;
mod units;
