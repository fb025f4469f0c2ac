//! Bugs that are here on purpose, so that the black-box checker (`holdfast-load check`) can show that it would find
//! them. With the feature `planted` (TEST ONLY, off by default) the environment variable `HOLDFAST_PLANTED` names one;
//! without the feature [`Bug::is_planted`] is the constant `false`, and no bug is in the binary.

#[cfg(all(feature = "planted", not(debug_assertions)))]
compile_error!("`planted` plants bugs on purpose: build with debug assertions, and never ship it");

/// One bug that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Every 10,000th write into an inbox is left out.
    DropsInboxWrite,
    /// Two entries of another database's log arrive the wrong way round, now and then.
    ReordersEntries,
    /// Batches are called durable before fsync has run.
    AcksBeforeFsync,
    /// After a restart the last intent that was applied is applied once more.
    ReplaysTwice,
    /// Who was removed from a group reads its history on.
    RemovedReads,
}

impl Bug {
    /// Its name in `HOLDFAST_PLANTED`.
    #[cfg(feature = "planted")]
    const fn name(self) -> &'static str {
        match self {
            Self::DropsInboxWrite => "drops-inbox-write",
            Self::ReordersEntries => "reorders-entries",
            Self::AcksBeforeFsync => "acks-before-fsync",
            Self::ReplaysTwice => "replays-twice",
            Self::RemovedReads => "removed-reads",
        }
    }

    /// Whether this process is to have it.
    #[cfg(feature = "planted")]
    pub(crate) fn is_planted(self) -> bool {
        use std::sync::OnceLock;
        static PLANTED: OnceLock<String> = OnceLock::new();
        PLANTED.get_or_init(|| std::env::var("HOLDFAST_PLANTED").unwrap_or_default()) == self.name()
    }

    /// Whether this process is to have it: never, in this build.
    #[cfg(not(feature = "planted"))]
    #[inline(always)]
    pub(crate) const fn is_planted(self) -> bool {
        false
    }

    /// True once in so many calls, if it is planted.
    pub(crate) fn strikes(self, once_in: u64) -> bool {
        use std::sync::atomic::{AtomicU64, Ordering};
        static CALLS: AtomicU64 = AtomicU64::new(0);
        self.is_planted() && CALLS.fetch_add(1, Ordering::Relaxed) % once_in == once_in - 1
    }
}
