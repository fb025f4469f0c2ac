//! What an errno of a completion means to the driver: the one place where they are told apart.
//!
//! Results are the kernel's: negative errno, else a count or a slot.

/// What becomes of a receive, a send or a poll that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TransferFailure {
    /// Nothing there, or no room: wait for readiness.
    WouldBlock,
    /// Try again as it is.
    Retry,
    /// The connection is over, for this errno.
    Fatal(i32),
}

impl TransferFailure {
    pub(super) const fn of(result: i32) -> Self {
        match -result {
            libc::EAGAIN => Self::WouldBlock,
            libc::EINTR => Self::Retry,
            errno => Self::Fatal(errno),
        }
    }
}

/// What becomes of an accept that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AcceptFailure {
    /// One connection was gone before it was accepted: arm it again.
    Rearm,
    /// The listener was shut down.
    ListenerClosed,
    /// Out of something: try again later.
    Later(i32),
}

impl AcceptFailure {
    pub(super) const fn of(result: i32) -> Self {
        match -result {
            // accept(2): errors that are pending on the new connection are to be treated like EAGAIN.
            libc::ECANCELED
            | libc::EAGAIN
            | libc::EINTR
            | libc::ECONNABORTED
            | libc::EPROTO
            | libc::ENOPROTOOPT
            | libc::ENETDOWN
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::EOPNOTSUPP
            | libc::ENETUNREACH => Self::Rearm,
            libc::EINVAL | libc::EBADF => Self::ListenerClosed,
            errno => Self::Later(errno),
        }
    }
}

/// What becomes of a call of `io_uring_enter` that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EnterFailure {
    /// A signal or the deadline ended the wait.
    WaitEnded,
    /// The kernel is short of memory or wants its completions reaped: reap, then enter again.
    ReapAndRetry,
    /// The ring is unusable.
    Fatal,
}

impl EnterFailure {
    pub(super) fn of(error: &std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EINTR | libc::ETIME) => Self::WaitEnded,
            Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => Self::ReapAndRetry,
            _ => Self::Fatal,
        }
    }
}
