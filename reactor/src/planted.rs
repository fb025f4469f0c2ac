//! Bugs that are here on purpose, so that the tests can show that they would find them.
//!
//! A check that has never failed proves little. With the feature `planted-bugs` (for tests, off by default, refused
//! in optimised builds without debug assertions) a thread can plant one bug; the simulation must then break one of
//! its invariants. Without the feature [`Bug::is_planted`] is the constant `false`, and no bug is in the binary.
//!
//! Those of the drivers, and of what drivers share, are listed here; users of this crate have lists of their own.

#[cfg(feature = "planted-bugs")]
use std::cell::Cell;

#[cfg(all(feature = "planted-bugs", not(debug_assertions)))]
compile_error!(
    "planted-bugs puts bugs into the drivers; it is for tests, and never for a build that is shipped"
);

/// One bug that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bug {
    /// Its name, unique among all lists.
    pub name: &'static str,
    /// What goes wrong.
    pub what: &'static str,
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

impl Bug {
    /// A bug with this name.
    #[must_use]
    pub const fn new(name: &'static str, what: &'static str) -> Self {
        Self { name, what }
    }

    /// Whether this thread is to have it.
    #[cfg(feature = "planted-bugs")]
    #[must_use]
    pub fn is_planted(self) -> bool {
        PLANTED.get().is_some_and(|planted| planted.name == self.name)
    }

    /// Whether this thread is to have it: never, in this build.
    #[cfg(not(feature = "planted-bugs"))]
    #[inline(always)]
    #[must_use]
    pub const fn is_planted(self) -> bool {
        false
    }
}

/// Plants a bug in everything that this thread does from now on, or takes it out again.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

macro_rules! bugs {
    ($($const:ident = $name:literal, $what:literal;)+) => {
        $(pub(crate) const $const: Bug = Bug::new($name, $what);)+

        /// All bugs of the drivers.
        pub const DRIVER: &[Bug] = &[$($const),+];
    };
}

bugs! {
    GENERATION_KEPT = "generation-kept", "a slot is given out again under the same generation";
    SHORT_SEND_FORGOTTEN = "short-send-forgotten", "what a short send left over is not sent";
    ROOM_FORGOTTEN = "room-forgotten", "output is not sent on when the socket has room again";
    READ_FORGOTTEN = "read-forgotten", "what waited for a receive buffer is not read when there are buffers again";
    END_BEFORE_BYTES = "end-before-bytes", "the end of a stream is told before its last bytes";
    PAUSE_IGNORED = "pause-ignored", "a paused connection is read";
    ACCEPT_LOST = "accept-lost", "a connection whose accept failed is not accepted later";
    DEADLINE_LATE = "deadline-late", "a deadline that is moved earlier stays where it was";
}
