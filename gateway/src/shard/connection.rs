//! One connection of a shard, and the table of them.
//!
//! The record is small and its size is asserted: it exists a million times. What is rare (a head that is still
//! arriving, bytes that wait for a worker) hangs off it in a box and goes away when it is over.

use std::collections::VecDeque;

use holdfast_protocol::ws::Decoder;
use holdfast_protocol::ws::handshake::HeadScanner;
use holdfast_reactor::{ConnectionId, Moment};
use holdfast_router::Key;
use holdfast_storage::command::Command;

use crate::api::pipe::HttpPipe;
use crate::session::Session;

/// A tenth of a second: how exactly the shard knows when it last heard from a peer.
pub(crate) const TICK_NANOS: u64 = 100_000_000;

/// What a connection is, at the moment.
#[derive(Debug)]
pub(crate) enum Phase {
    /// A request head is arriving.
    Head,
    /// hyper serves it.
    Http(Box<HttpPipe>),
    /// `/echo`.
    Echo,
    /// The chat protocol.
    Chat(Session),
    /// FIN is sent; what still arrives is thrown away until the peer's FIN or a deadline.
    Lingering,
    /// `Driver::close` was called; only `Closed` is still to come.
    Closing,
}

/// Why a connection is not read; it is read again when the last reason is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Paused(u8);

impl Paused {
    /// The worker has not answered the registration.
    pub(crate) const REGISTERING: Self = Self(1);
    /// A worker's queue is full and holds a command of ours back.
    pub(crate) const STALLED: Self = Self(2);
    /// The peer does not read what it asked for.
    pub(crate) const OUTPUT: Self = Self(4);
    /// hyper does not take what the peer sends.
    pub(crate) const HTTP: Self = Self(8);

    pub(crate) fn insert(&mut self, reason: Self) {
        self.0 |= reason.0;
    }

    pub(crate) fn remove(&mut self, reason: Self) {
        self.0 &= !reason.0;
    }

    pub(crate) fn contains(self, reason: Self) -> bool {
        self.0 & reason.0 != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What most connections do not have.
#[derive(Debug, Default)]
pub(crate) struct Rare {
    /// Bytes that arrived and could not be handled yet: a partial head, or what follows while paused.
    pub(crate) unread: Vec<u8>,
    /// The handshake's answer, while the worker has not said who is there.
    pub(crate) accept: Vec<u8>,
    /// Where the search for the head's end goes on.
    pub(crate) scanner: HeadScanner,
    /// Commands that a full queue gave back, in their order: one of the peer's, and perhaps the next page's.
    pub(crate) stalled: VecDeque<(Key, Command)>,
}

/// See the module's doc.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) generation: u32,
    /// When the peer was last heard from, in ticks of the driver's clock.
    pub(crate) heard_tick: u32,
    /// When it was accepted, in the same ticks.
    pub(crate) accepted_tick: u32,
    pub(crate) decoder: Decoder,
    pub(crate) rare: Option<Box<Rare>>,
    pub(crate) phase: Phase,
    pub(crate) paused: Paused,
    /// A ping is out and has not been answered by anything.
    pub(crate) probed: bool,
    /// The peer has sent FIN.
    pub(crate) ended: bool,
}

const _: () = assert!(size_of::<Connection>() <= 120);

impl Connection {
    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Frees what is rare when nothing of it is in use.
    pub(crate) fn tidy(&mut self) {
        let is_unused =
            |rare: &Rare| rare.unread.is_empty() && rare.accept.is_empty() && rare.stalled.is_empty();
        if self.rare.as_deref().is_some_and(is_unused) {
            self.rare = None;
        }
    }

    pub(crate) fn heard(&mut self, now: Moment) {
        self.heard_tick = tick_of(now);
        self.probed = false;
    }
}

/// The tick that a moment falls into; wraps after 13 years.
pub(crate) fn tick_of(now: Moment) -> u32 {
    (now.0 / TICK_NANOS) as u32
}

const CHUNK: usize = 1024;

/// Connections by slot. Grows by chunks that never move, so that a million records cost a million records, and not
/// the old and the new copy of a vector that doubles.
#[derive(Debug, Default)]
pub(crate) struct Table {
    chunks: Vec<Box<[Option<Connection>]>>,
    len: usize,
}

const _: () = assert!(size_of::<Option<Connection>>() == size_of::<Connection>());

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// One past the greatest slot that was ever used.
    pub(crate) fn slots(&self) -> u32 {
        (self.chunks.len() * CHUNK) as u32
    }

    pub(crate) fn insert(&mut self, id: ConnectionId, connection: Connection) {
        let (chunk, place) = position(id.index);
        while self.chunks.len() <= chunk {
            self.chunks.push((0..CHUNK).map(|_| None).collect());
        }
        if self.chunks[chunk][place].replace(connection).is_none() {
            self.len += 1;
        }
    }

    pub(crate) fn get(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.at(id.index).filter(|connection| connection.generation == id.generation)
    }

    /// The connection in a slot, whichever generation it has.
    pub(crate) fn at(&mut self, index: u32) -> Option<&mut Connection> {
        let (chunk, place) = position(index);
        self.chunks.get_mut(chunk)?[place].as_mut()
    }

    pub(crate) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        self.get(id)?;
        let (chunk, place) = position(id.index);
        self.len -= 1;
        self.chunks[chunk][place].take()
    }
}

fn position(index: u32) -> (usize, usize) {
    (index as usize / CHUNK, index as usize % CHUNK)
}
