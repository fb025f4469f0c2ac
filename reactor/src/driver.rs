//! The seam between bytes and their meaning: what every back end does for the thread that owns it.
//!
//! A driver is turned, never called back: [`Driver::turn`] submits what was asked for, waits, and copies what
//! happened into a list of [`Event`]s; the owner then works through the list. So no borrow of the driver is
//! alive while the owner decides, and the order of events is there to be printed, replayed and simulated.
//!
//! The one invariant: what was lent to the kernel is freed by its completion. Closing is three steps:
//! *terminate* (the owner calls [`Driver::close`]), *join* (the driver waits for what the kernel still holds),
//! *close* ([`Event::Closed`], after which the slot may be used again under a new generation).

use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::{Buffer, Moment, Waker};

/// The name of a connection within its driver: a slot that is used again, and a generation that is not.
///
/// `index` is dense from 0 (rings are filled one after the other), so the owner may use it to index a slab.
/// Events of an older generation never reach the owner; commands for an older generation do nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// The slot: ring number × slots per ring + slot in the ring's file table.
    pub index: u32,
    /// How often the slot was used before.
    pub generation: u32,
}

impl ConnectionId {
    /// Both halves in one number, for channels between threads.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    /// The inverse of [`Self::to_bits`].
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self { index: bits as u32, generation: (bits >> 32) as u32 }
    }
}

/// Which back end moves the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DriverKind {
    /// io_uring with direct descriptors.
    Uring,
    /// epoll and non-blocking sockets.
    Epoll,
    /// The simulated network.
    Sim,
}

/// What happened to a connection since the last turn.
#[derive(Debug)]
pub enum Event {
    /// A listener accepted a connection; it is being read from now on.
    Accepted(ConnectionId),
    /// A connect of ours succeeded; it is being read from now on.
    Connected(ConnectionId),
    /// Bytes arrived. Dropping the buffer gives it back to the pool. Who keeps it beyond the turn takes it from all
    /// connections of the driver: a peer must not be able to make that happen without limit.
    Received(ConnectionId, Buffer),
    /// The peer will send nothing more (FIN); sending is still possible.
    EndOfStream(ConnectionId),
    /// Output that had been held back by a full socket has all gone to the kernel
    /// (not sent for output that went out at once: an idle connection costs no events).
    Drained(ConnectionId),
    /// The connection is gone: the last event of this id. Sent exactly once per `Accepted` or successful
    /// [`Driver::connect`], whoever closed.
    Closed(ConnectionId, CloseReason),
    /// The listener cannot accept (ENFILE, ENOBUFS …); the driver goes on trying by itself.
    AcceptFailed(io::Error),
}

/// Why a connection ended.
#[derive(Debug)]
pub enum CloseReason {
    /// [`Driver::close`] or [`Driver::abort`] was called and has finished.
    Requested,
    /// The peer reset the connection, or another socket error; the driver has closed it. A reset ends a paused
    /// connection too, and what was not read is lost. Who calls [`Driver::close`] before hearing of it gets
    /// `Requested`.
    Error(io::Error),
    /// A connect of ours failed.
    ConnectFailed(io::Error),
}

/// What a back end needs to know when it is made.
#[derive(Debug, Clone)]
pub struct DriverOptions {
    /// Bytes of one receive buffer. One receive brings at most this much.
    pub receive_buffer_bytes: usize,
    /// Receive buffers in the driver's pool; when all are lent, connections wait to be read (ENOBUFS).
    pub receive_buffers: usize,
    /// Connections that this driver may hold; more are not accepted until one closes. Exact, whatever comes at once.
    pub connections: usize,
    /// SO_SNDBUF for accepted and connected sockets, in bytes; `None` leaves the kernel's own.
    pub send_buffer_bytes: Option<usize>,
}

impl Default for DriverOptions {
    fn default() -> Self {
        Self {
            receive_buffer_bytes: 16 << 10,
            receive_buffers: 512,
            connections: 2_000_000,
            send_buffer_bytes: None,
        }
    }
}

/// Bytes on their way out of one connection: appended by the owner, sent by the driver at its next turn, in order,
/// at most one send in flight. What the socket does not take at once stays here until it does.
#[derive(Debug, Default)]
pub struct Output {
    /// Bytes that the socket has not taken yet, from `sent` on.
    pub(crate) bytes: Vec<u8>,
    /// How much of `bytes` has gone to the kernel.
    pub(crate) sent: usize,
    /// How much of it stands in [`Driver::held_back_bytes`].
    pub(crate) counted: usize,
}

impl Output {
    /// The buffer to append frames to. What stands in it already must not be touched.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Bytes that wait for the socket: what the slow-consumer limit is compared with.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.bytes.len() - self.sent
    }
}

/// What a thread asks of the network. See the module's doc for the rules; `tests/contract.rs` has them as tests.
pub trait Driver {
    /// Which back end this is.
    fn kind(&self) -> DriverKind;

    /// The time as of the end of the last [`Self::turn`]'s wait (the virtual clock, in the simulation).
    fn now(&self) -> Moment;

    /// Wakes this driver from its wait, from any thread.
    fn waker(&self) -> Waker;

    /// Accepts from this listener (already bound and listening) from the next turn on.
    ///
    /// # Errors
    /// When the kernel refuses the listener.
    fn listen(&mut self, listener: TcpListener) -> Result<(), ReactorError>;

    /// Stops accepting, and shuts the listeners down so that nothing is hashed to them any more.
    fn stop_listening(&mut self);

    /// Begins to connect. The outcome is `Connected` or `Closed(ConnectFailed)`.
    ///
    /// # Errors
    /// When no slot is free.
    fn connect(
        &mut self,
        source: Option<SocketAddr>,
        target: SocketAddr,
    ) -> Result<ConnectionId, ReactorError>;

    /// The output of a connection, to append to; sent at the next turn. `None` when the connection is gone or was
    /// told to shut down or close.
    fn output(&mut self, connection: ConnectionId) -> Option<&mut Output>;

    /// Bytes that the socket has not taken yet; 0 for a connection that is gone.
    fn unsent_bytes(&self, connection: ConnectionId) -> usize;

    /// Memory of all outputs that a full socket holds back, spare room included, as of the last turn. Each of them
    /// takes at most 40 KiB more than what waits in it, once it was appended to while the socket was full.
    fn held_back_bytes(&self) -> usize;

    /// Stops reading this connection: back-pressure reaches the peer through its window. A `Received` that is
    /// already in the list of events still comes.
    fn pause(&mut self, connection: ConnectionId);

    /// Reads again.
    fn resume(&mut self, connection: ConnectionId);

    /// Sends what is in the output, then FIN. Reading goes on.
    fn shutdown(&mut self, connection: ConnectionId);

    /// Sends what is in the output if the socket takes it, then closes. `Closed(Requested)` follows.
    /// After this call no other event of the connection comes.
    fn close(&mut self, connection: ConnectionId);

    /// Closes at once, output dropped, with RST. `Closed(Requested)` follows; no other event comes.
    fn abort(&mut self, connection: ConnectionId);

    /// Connections that are open or being opened or closed.
    fn connections(&self) -> usize;

    /// Submits what was asked for; waits until something happened, the waker was used, or `until` has come
    /// (`None`: no limit); appends what happened. An `until` in the past means: do not wait. It may come back with
    /// nothing to tell. A connection is received from at most once per turn.
    ///
    /// # Errors
    /// Only when the driver itself cannot go on; the owner must stop. What goes wrong with one connection is an event.
    fn turn(&mut self, until: Option<Moment>, events: &mut Vec<Event>) -> Result<(), ReactorError>;
}

/// What can go wrong with a driver as a whole.
#[derive(Debug, thiserror::Error)]
pub enum ReactorError {
    /// The kernel refused to set the driver up.
    #[error("cannot set up {what}: {source}; {advice}")]
    Setup {
        /// Which step failed.
        what: &'static str,
        /// What a person can do about it.
        advice: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused to go on.
    #[error("the {driver:?} driver cannot go on: {what}: {source}")]
    Broken {
        /// Which back end.
        driver: DriverKind,
        /// Which step failed.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Every slot is taken.
    #[error("all {slots} connection slots are taken; raise `connections` or RLIMIT_NOFILE")]
    Full {
        /// How many there are.
        slots: usize,
    },
}
