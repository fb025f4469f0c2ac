//! Who *owns* what: 1,024 slices of the key space, the workers that own them, and the epoch of that assignment.
//!
//! - [`Key::slice`]: which slice a conversation or a user belongs to, the same for ever (it decides where things lie
//!   on disk).
//! - [`Assignment`]: which worker owns which slice, at one [`Epoch`]; balanced to within one slice, and changed by as
//!   few moves as a change of workers allows.
//! - [`Router`]: carries a command to the owner of its key, in this process over bounded queues, and says by which
//!   epoch it was routed, so that a worker can refuse what is no longer its own.
//!
//! Invariant: at one epoch each slice has exactly one owner, and two assignments with the same epoch are equal.
//!
//! Never here: storage engines, sockets of clients.

#![forbid(unsafe_code)]

mod assignment;
mod queue;
mod router;
mod slice;

pub use assignment::{Assignment, AssignmentError, Epoch, WorkerId};
pub use queue::{Bell, Link, Queue, links};
pub use router::{Envelope, RouteError, Router, SwapError};
pub use slice::{Key, SLICES, SliceId};
