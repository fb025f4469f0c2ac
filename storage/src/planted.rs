//! Bugs that are here on purpose, so that those who look for bugs can show that they would find them: the black-box
//! checker (`holdfast-load check`) and the simulation. With the feature `planted` (TEST ONLY, off by default) the
//! environment variable `HOLDFAST_PLANTED` names one for the whole process, or `plant` one for a thread; without the
//! feature `Bug::is_planted` is the constant `false`, and no bug is in the binary.

#[cfg(all(feature = "planted", not(debug_assertions)))]
compile_error!("`planted` plants bugs on purpose: build with debug assertions, and never ship it");

/// One bug that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bug {
    /// Its name in `HOLDFAST_PLANTED`.
    pub name: &'static str,
    /// What goes wrong.
    pub what: &'static str,
}

macro_rules! bugs {
    ($($const:ident = $name:literal, $what:literal;)+) => {
        $(pub(crate) const $const: Bug = Bug { name: $name, what: $what };)+

        /// All of them.
        pub const STORE: &[Bug] = &[$($const),+];
    };
}

bugs! {
    DROPS_INBOX_WRITE = "drops-inbox-write", "now and then a write into an inbox is left out";
    REORDERS_ENTRIES = "reorders-entries", "two entries of another database's log arrive the wrong way round, now and then";
    ACKS_BEFORE_FSYNC = "acks-before-fsync", "batches are called durable before fsync has run";
    REPLAYS_TWICE = "replays-twice", "after a restart the last intent that was applied is applied once more";
    REMOVED_READS = "removed-reads", "who was removed from a group reads its history on";
    LATECOMER_READS = "latecomer-reads", "who joins a group reads what was written before, though the group says no";
    DEDUPE_FORGOTTEN = "dedupe-forgotten", "what was sent in an earlier batch is taken for new when it is sent again";
    REVS_KEPT = "revs-kept", "numbers that a failed batch has given out are taken for given";
    GAP_FORGOTTEN = "gap-forgotten", "a session that a full lane cost an entry is not told";
    SNAPSHOT_CUT = "snapshot-cut", "a snapshot leaves its last conversation out";
    CURSOR_AHEAD = "cursor-ahead", "whoever names no cursor is taken to have everything";
    EDIT_FORGOTTEN = "edit-forgotten", "a history shows edited messages as they were";
    BLOCKED_WRITES_THROUGH = "blocked-writes-through", "now and then what a blocked user writes comes to the other one too";
    MARK_UNTOLD = "mark-untold", "a user's devices do not learn what was read on another one";
    INTENTS_FORGOTTEN = "intents-forgotten", "what had not reached other databases before a restart never does";
}

#[cfg(feature = "planted")]
mod thread {
    use std::cell::Cell;

    thread_local! {
        pub(super) static PLANTED: Cell<Option<&'static str>> = const { Cell::new(None) };
        pub(super) static CALLS: Cell<u64> = const { Cell::new(0) };
    }
}

/// Plants a bug in everything that this thread does from now on, or takes it out again.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    thread::PLANTED.set(bug.map(|bug| bug.name));
    thread::CALLS.set(0);
}

/// How rarely what happens "now and then" does in a thread that has planted a bug: its worlds are small.
#[cfg(feature = "planted")]
const THREAD_ONCE_IN: u64 = 25;

impl Bug {
    /// Whether this thread, or this process, is to have it.
    #[cfg(feature = "planted")]
    pub(crate) fn is_planted(self) -> bool {
        use std::sync::OnceLock;
        static PLANTED: OnceLock<String> = OnceLock::new();
        thread::PLANTED.get() == Some(self.name)
            || PLANTED.get_or_init(|| std::env::var("HOLDFAST_PLANTED").unwrap_or_default()) == self.name
    }

    /// Whether this process is to have it: never, in this build.
    #[cfg(not(feature = "planted"))]
    #[inline(always)]
    pub(crate) const fn is_planted(self) -> bool {
        false
    }

    /// True once in so many calls, if it is planted.
    #[cfg(feature = "planted")]
    pub(crate) fn strikes(self, once_in: u64) -> bool {
        use std::sync::atomic::{AtomicU64, Ordering};
        static CALLS: AtomicU64 = AtomicU64::new(0);
        if !self.is_planted() {
            return false;
        }
        if thread::PLANTED.get().is_some() {
            let calls = thread::CALLS.get();
            thread::CALLS.set(calls + 1);
            return calls % THREAD_ONCE_IN == THREAD_ONCE_IN - 1;
        }
        CALLS.fetch_add(1, Ordering::Relaxed) % once_in == once_in - 1
    }

    /// True once in so many calls, if it is planted: never, in this build.
    #[cfg(not(feature = "planted"))]
    #[inline(always)]
    pub(crate) const fn strikes(self, _once_in: u64) -> bool {
        false
    }
}
