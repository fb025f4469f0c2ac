//! What the contract's bodies need of the world around a driver: somebody to talk to.
//!
//! A body is written once, against these traits, and runs with sockets of the kernel (`kernel.rs`) and with the
//! simulated network (`simulated.rs`). Nothing here blocks: a peer that has nothing yet says so.

use std::net::SocketAddr;

use holdfast_reactor::Driver;

/// What a peer finds when it looks for bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// Nothing has come yet.
    Nothing,
    /// Bytes came and were appended.
    Bytes,
    /// FIN: nothing more will come.
    End,
    /// The connection was reset.
    Reset,
}

/// The other end of a connection. Dropping it closes it in an orderly way.
pub(crate) trait Peer {
    /// Writes as much as is taken at once; 0 when nothing is, or when the connection is gone.
    fn write(&mut self, bytes: &[u8]) -> usize;

    /// Appends what has come, up to some amount.
    fn read(&mut self, into: &mut Vec<u8>) -> Incoming;

    /// Sends FIN.
    fn shutdown(&mut self);

    /// Sends RST.
    fn reset(self);
}

/// A driver and the network that it is on.
pub(crate) trait World {
    /// The driver under test.
    type Driver: Driver;
    /// Whom it talks to.
    type Peer: Peer;

    /// More than fits into the buffers between the two: so that a peer that does not read is felt.
    const MORE_THAN_FITS_BYTES: usize;

    /// Messages that another thread sends in the tests of waking. A driver that never sleeps waits for that thread
    /// by turning, so few of them do.
    const MESSAGES_FROM_A_THREAD: usize;

    /// Whether a send is taken whole whenever there is room for it. A kernel that is short of memory does not either.
    fn takes_what_fits(&self) -> bool {
        true
    }

    /// The driver under test.
    fn driver(&mut self) -> &mut Self::Driver;

    /// Makes the driver listen.
    fn listen(&mut self);

    /// A peer connects to where the driver listens; `None` when it was refused.
    fn dial(&mut self) -> Option<Self::Peer>;

    /// An address where peers wait for the driver to connect.
    fn host(&mut self) -> SocketAddr;

    /// The next connection that has arrived at [`Self::host`], and where it came from.
    fn arrival(&mut self) -> Option<(Self::Peer, SocketAddr)>;

    /// An address where nobody listens.
    fn deserted(&mut self) -> SocketAddr;
}
