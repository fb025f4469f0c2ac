//! What the epoll back end keeps per connection.

use std::num::NonZeroU16;

use rustix::fd::OwnedFd;

use crate::outputs::NO_OUTPUT;

/// One open connection. Everything that an idle one does not need is elsewhere.
#[derive(Debug)]
pub(super) struct Connection {
    /// `None`: there never was a socket (the connect failed before there was one).
    pub(super) socket: Option<OwnedFd>,
    /// Its output's number in the pool, or [`NO_OUTPUT`].
    pub(super) output: u32,
    state: NonZeroU16,
}

/// Always set: so that a free slot needs no byte of its own to say so.
const OPEN: NonZeroU16 = NonZeroU16::MIN;

const _: () = assert!(size_of::<Option<Connection>>() == 12);

/// One condition that a connection may be in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flag(u16);

impl Flag {
    /// The connect is under way.
    pub(super) const CONNECTING: Self = Self(1 << 1);
    /// It stands in the list of connections to work on before the next wait.
    pub(super) const DIRTY: Self = Self(1 << 2);
    /// The kernel said that there is something to read, and has not said since that there is not.
    pub(super) const READABLE: Self = Self(1 << 3);
    /// It stands in the list of connections to read.
    pub(super) const LISTED: Self = Self(1 << 4);
    /// The owner does not want to read.
    pub(super) const PAUSED: Self = Self(1 << 5);
    /// FIN or an error waits behind the bytes: a short read is not the end.
    pub(super) const HUNG_UP: Self = Self(1 << 6);
    /// The peer's FIN was reported.
    pub(super) const ENDED: Self = Self(1 << 7);
    /// The socket was full at the last send; EPOLLOUT comes when it no longer is.
    pub(super) const FULL: Self = Self(1 << 8);
    /// The owner asked for FIN after the output.
    pub(super) const SHUTTING: Self = Self(1 << 9);
    /// FIN was sent.
    pub(super) const SHUT: Self = Self(1 << 10);
    /// The owner asked to close.
    pub(super) const CLOSING: Self = Self(1 << 11);
    /// The owner asked to close with RST.
    pub(super) const ABORTING: Self = Self(1 << 12);
}

impl Connection {
    pub(super) const fn new(socket: Option<OwnedFd>) -> Self {
        Self { socket, output: NO_OUTPUT, state: OPEN }
    }

    pub(super) const fn has(&self, flag: Flag) -> bool {
        self.state.get() & flag.0 != 0
    }

    /// Sets a flag; says whether it was set before.
    pub(super) fn set(&mut self, flag: Flag) -> bool {
        let was_set = self.has(flag);
        self.state |= flag.0;
        was_set
    }

    pub(super) fn clear(&mut self, flag: Flag) {
        self.state = OPEN | (self.state.get() & !flag.0);
    }

    /// The owner has said its last word: no more output, no more events but `Closed`.
    pub(super) const fn is_closing(&self) -> bool {
        self.has(Flag::CLOSING) || self.has(Flag::ABORTING)
    }
}
