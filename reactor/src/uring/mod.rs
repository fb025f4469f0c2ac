//! The `uring` back end of [`crate::Driver`]: io_uring with direct descriptors.
//!
//! Sockets live in the rings' own file tables. `RLIMIT_NOFILE` caps each table and not their sum, so a driver makes
//! as many rings as its connections need, one when the one before it is full, and its thread waits on all of them.
//!
//! ```text
//!  accept ──▶ promised slot ──▶ multishot poll ──▶ readable ──▶ receive into a pool buffer ──▶ Received
//!                                      ▲  264 bytes                (MSG_DONTWAIT: done when submitted)
//!                                      └───────────────────────────────────┘
//!  output() ──▶ dirty ──▶ send (MSG_DONTWAIT | MSG_WAITALL, completion only if short) ──▶ buffer back in its pool
//!                             └─ short or EAGAIN ──▶ poll for room ──▶ send the rest ──▶ Drained
//!  close() ──▶ terminate: cancel the polls ──▶ join: their completions ──▶ close ──▶ Closed, slot free
//! ```
//!
//! Every completion of a pass is copied out before the first is handled. An idle connection owns one armed poll in
//! the kernel and twelve bytes here.
//!
//! The one invariant: when [`crate::Driver::turn`] has returned, the kernel holds no memory that it or we may write to.
//! Transfers complete within the call that submits them, so an output may grow, move or be freed between turns, and a
//! receive buffer is borrowed from the pool for microseconds, by connections that do have bytes.
//!
//! # What was measured
//!
//! With `examples/echo.rs` (64-byte messages, 200 connections, server and client on a CPU each at real-time priority;
//! medians of interleaved rounds, in CPU µs of the server's thread per message; 8 % are noise):
//!
//! | | ping-pong | 16 in flight |
//! |---|---|---|
//! | this driver | **4.5** | **0.30** |
//! | a bare loop: multishot receives, a provided buffer ring | 4.4 | 0.30 |
//! | the `epoll` driver | 5.1 | 0.30 |
//!
//! Spread over 25 rings of eight connections the same costs 2 to 12 % more: rings are filled one after the other.
//! A connection costs 3.9 KB + 264 bytes in the kernel while it is idle, 12 bytes here, and no wake-ups.
//!
//! **Hot connections are not moved to multishot receives.** They would save a receive's submission and a poll's
//! completion per message; the second line shows what that is worth: nothing that can be told from noise, because the
//! kernel's TCP is more than four fifths of every figure above. They would cost 608 bytes more per armed connection, a
//! buffer ring per ring with memory of its own, several receives per connection and turn (so no fairness), and a
//! second way for everything that pauses, ends or runs out of buffers. What would change our mind: traffic of one
//! connection that keeps a core busy by itself.
//!
//! Never here: `READ` on a socket (616 bytes while it waits), a parked `RECV` (872), an ordinary descriptor for a
//! connection, a ring that polls another ring.

mod accept;
mod address;
mod complete;
mod errno;
mod operation;
mod probe;
mod ring;
mod slots;
mod table;
#[cfg(test)]
mod tests;
mod turn;

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};

use self::accept::Listener;
use self::operation::DETAIL_LIMIT;
pub use self::probe::{Probe, ProbeError, probe};
use self::ring::Completion;
use self::slots::{Flags, Phase, Slots};
use self::table::Tables;
use crate::outputs::{NO_OUTPUT, Outputs};
use crate::{
    BufferPool, ConnectionId, Driver, DriverKind, DriverOptions, Event, Moment, Output, ReactorError, Waker,
};

/// io_uring with direct descriptors; see the module's doc. Belongs to the thread that made it.
#[derive(Debug)]
pub struct UringDriver {
    tables: Tables,
    slots: Slots,
    outputs: Outputs,
    pool: BufferPool,
    waker: Waker,
    listeners: Vec<Listener>,
    /// When to try again after a failed accept.
    accept_again: Option<Moment>,
    /// Connections with input, in the order in which they became readable; they wait here for a buffer.
    to_read: VecDeque<u32>,
    /// Those that had more than one buffer took: their turn is the next one.
    to_read_next: Vec<u32>,
    /// Connections of which something was asked since the last turn.
    dirty: Vec<u32>,
    /// Connections that became writable again.
    writable: Vec<u32>,
    /// Connections with a send in this pass.
    sending: Vec<u32>,
    /// Outputs of connections that are closed in this pass; the kernel may read them until it ends.
    spent_outputs: Vec<u32>,
    connecting: Vec<(ConnectionId, Option<SocketAddr>, SocketAddr)>,
    /// Accepted beyond the limit, not shown yet.
    parked: VecDeque<u32>,
    connections: usize,
    connections_limit: usize,
    send_buffer_bytes: Option<Box<i32>>,
    /// Memory for completions, used again by each pass.
    completions: Vec<Completion>,
    /// Receives submitted whose completion was not handled yet; 0 between turns.
    receiving: usize,
    now: Moment,
}

impl UringDriver {
    /// A driver for the calling thread. Makes the first ring.
    ///
    /// # Errors
    /// When the kernel gives no ring: [`probe`] says why and what to do.
    pub fn new(options: DriverOptions) -> Result<Self, ReactorError> {
        let nofile = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let slots = u32::try_from(nofile.unwrap_or(u64::MAX)).unwrap_or(u32::MAX);
        Self::with_table_slots(options, slots)
    }

    /// The same with smaller file tables than `RLIMIT_NOFILE` allows: the driver then behaves on any machine as it
    /// does where that limit is low.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_table_slots(options: DriverOptions, table_slots: u32) -> Result<Self, ReactorError> {
        let out_of_range = |what, advice| {
            let source = io::Error::from(io::ErrorKind::InvalidInput);
            Err(ReactorError::Setup { what, advice, source })
        };
        if options.receive_buffers == 0 || options.receive_buffers >= DETAIL_LIMIT as usize {
            return out_of_range("receive_buffers", "give 1 to 16,777,215 buffers");
        }
        if options.receive_buffer_bytes == 0 || options.receive_buffer_bytes > i32::MAX as usize {
            return out_of_range("receive_buffer_bytes", "give 1 to 2,147,483,647 bytes");
        }
        let waker = Waker::new().map_err(|source| ReactorError::Setup {
            what: "an eventfd",
            advice: "raise RLIMIT_NOFILE",
            source,
        })?;
        let mut driver = Self {
            tables: Tables::new(table_slots, options.connections, &waker),
            slots: Slots::new(),
            outputs: Outputs::default(),
            pool: BufferPool::new(options.receive_buffers, options.receive_buffer_bytes),
            waker,
            listeners: Vec::new(),
            accept_again: None,
            to_read: VecDeque::new(),
            to_read_next: Vec::new(),
            dirty: Vec::new(),
            writable: Vec::new(),
            sending: Vec::new(),
            spent_outputs: Vec::new(),
            connecting: Vec::new(),
            parked: VecDeque::new(),
            connections: 0,
            connections_limit: options.connections,
            send_buffer_bytes: options
                .send_buffer_bytes
                .map(|bytes| Box::new(i32::try_from(bytes).unwrap_or(i32::MAX))),
            completions: Vec::new(),
            receiving: 0,
            now: turn::clock(),
        };
        driver.tables.make_first()?;
        Ok(driver)
    }

    /// Rings that exist by now.
    #[must_use]
    pub fn rings(&self) -> usize {
        self.tables.len()
    }

    /// Puts a connection on the list of those that the next turn looks at.
    fn mark_dirty(&mut self, index: u32) {
        if self.slots.at(index).flags.raise(Flags::DIRTY) {
            self.dirty.push(index);
        }
    }

    fn ask_to_end(&mut self, id: ConnectionId, how: u16) {
        let Some(slot) = self.slots.named_mut(id) else { return };
        slot.flags.set(how);
        match slot.phase {
            Phase::Connecting | Phase::Open => self.mark_dirty(id.index),
            // It ended by itself, and its owner does not know yet: it gets what it asks for.
            _ => slot.link = 0,
        }
    }

    /// The record of a connection whose owner may still ask for things.
    fn owned(&mut self, id: ConnectionId) -> Option<&mut slots::Slot> {
        let slot = self.slots.named_mut(id)?;
        let is_alive = matches!(slot.phase, Phase::Connecting | Phase::Open) && !slot.flags.is_closing();
        is_alive.then_some(slot)
    }
}

impl Driver for UringDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::Uring
    }

    fn now(&self) -> Moment {
        self.now
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn listen(&mut self, listener: TcpListener) -> Result<(), ReactorError> {
        let bytes = self.send_buffer_bytes.as_deref().copied();
        self.listeners.push(Listener::new(listener, bytes)?);
        Ok(())
    }

    fn stop_listening(&mut self) {
        for listener in &mut self.listeners {
            listener.stop();
        }
    }

    fn connect(
        &mut self,
        source: Option<SocketAddr>,
        target: SocketAddr,
    ) -> Result<ConnectionId, ReactorError> {
        if self.connections >= self.connections_limit {
            return Err(ReactorError::Full { slots: self.connections_limit });
        }
        let index = self.tables.allocate()?;
        let slot = self.slots.touch(index);
        slot.occupy(Phase::Connecting);
        let id = ConnectionId { index, generation: slot.generation };
        self.connections += 1;
        self.connecting.push((id, source, target));
        Ok(id)
    }

    fn output(&mut self, connection: ConnectionId) -> Option<&mut Output> {
        let slot = self.slots.named_mut(connection)?;
        let is_open = matches!(slot.phase, Phase::Connecting | Phase::Open);
        if !is_open || slot.flags.is_closing() || slot.flags.has(Flags::SHUTDOWN_WANTED) {
            return None;
        }
        if slot.link == NO_OUTPUT {
            slot.link = self.outputs.acquire();
        }
        if slot.flags.raise(Flags::DIRTY) {
            self.dirty.push(connection.index);
        }
        self.outputs.get_mut(slot.link)
    }

    fn unsent_bytes(&self, connection: ConnectionId) -> usize {
        let output = self.slots.named(connection).and_then(|slot| slot.output());
        output.and_then(|number| self.outputs.get(number)).map_or(0, Output::unsent_bytes)
    }

    fn held_back_bytes(&self) -> usize {
        self.outputs.held_back_bytes()
    }

    fn pause(&mut self, connection: ConnectionId) {
        if let Some(slot) = self.owned(connection) {
            slot.flags.set(Flags::PAUSED);
        }
    }

    fn resume(&mut self, connection: ConnectionId) {
        let Some(slot) = self.owned(connection) else { return };
        // What became readable meanwhile was not noted: look once.
        if slot.flags.take(Flags::PAUSED) && slot.phase == Phase::Open {
            self.queue_to_read(connection.index);
        }
    }

    fn shutdown(&mut self, connection: ConnectionId) {
        let Some(slot) = self.owned(connection) else { return };
        if slot.flags.raise(Flags::SHUTDOWN_WANTED) {
            self.mark_dirty(connection.index);
        }
    }

    fn close(&mut self, connection: ConnectionId) {
        self.ask_to_end(connection, Flags::CLOSE_WANTED);
    }

    fn abort(&mut self, connection: ConnectionId) {
        // An orderly close may still be on its way: this one is stronger.
        self.ask_to_end(connection, Flags::ABORTED);
    }

    fn connections(&self) -> usize {
        self.connections
    }

    fn turn(&mut self, until: Option<Moment>, events: &mut Vec<Event>) -> Result<(), ReactorError> {
        self.run_turn(until, events).map_err(|source| ReactorError::Broken {
            driver: DriverKind::Uring,
            what: "io_uring_enter",
            source,
        })
    }
}

impl Drop for UringDriver {
    fn drop(&mut self) {
        self.stop_listening();
        if self.receiving > 0 {
            // Only after a ring has failed in the middle of a turn. The kernel may still write into the pool.
            std::mem::forget(self.pool.clone());
        }
    }
}
