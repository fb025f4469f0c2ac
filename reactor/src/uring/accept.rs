//! Listeners: each has at most one multishot accept, armed on the ring that has room.

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::time::Duration;

use io_uring::cqueue;
use rustix::net::sockopt;

use super::UringDriver;
use super::errno::AcceptFailure;
use super::operation::{Operation, Tag};
use super::slots::Phase;
use crate::{Event, ReactorError};

/// Pause after the system could not give a descriptor or memory for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    /// `None` when it was stopped and its accept has ended.
    socket: Option<TcpListener>,
    stopping: bool,
    /// The ring on which it accepts.
    armed: Option<usize>,
    /// The accept was told to end, and has not yet.
    cancelled: bool,
}

impl Listener {
    /// Accepted sockets inherit what is set here, which costs nothing per connection.
    pub(super) fn new(socket: TcpListener, send_buffer_bytes: Option<i32>) -> Result<Self, ReactorError> {
        let refused = |source: rustix::io::Errno| ReactorError::Setup {
            what: "a listener",
            advice: "give a TCP socket that listens",
            source: source.into(),
        };
        sockopt::set_tcp_nodelay(&socket, true).map_err(refused)?;
        if let Some(bytes) = send_buffer_bytes {
            sockopt::set_socket_send_buffer_size(&socket, bytes as usize).map_err(refused)?;
        }
        Ok(Self { socket: Some(socket), stopping: false, armed: None, cancelled: false })
    }

    /// Ends the accept; with `SO_REUSEPORT` nothing is hashed to this socket from now on.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
        if let Some(socket) = &self.socket {
            // ENOTCONN is the answer for a socket that was shut down before.
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        }
        if self.armed.is_none() {
            self.socket = None;
        }
    }
}

impl UringDriver {
    /// Arms accepts where there is room, moves them on from rings that are full.
    pub(super) fn tend_listeners(&mut self, events: &mut Vec<Event>) -> std::io::Result<()> {
        if self.accept_again.is_some_and(|moment| moment <= self.now) {
            self.accept_again = None;
        }
        let may_accept = self.accept_again.is_none() && self.connections < self.connections_limit;
        for (number, listener) in self.listeners.iter_mut().enumerate() {
            let Some(socket) = &listener.socket else { continue };
            let tag = Tag::of(Operation::Accept, number as u32, 0);
            match listener.armed {
                Some(ring) => {
                    let leave = !may_accept || self.tables.is_full(ring);
                    if leave && !listener.cancelled && !listener.stopping {
                        self.tables.ring(ring).cancel(tag, Tag::of(Operation::Unwatched, 0, 0))?;
                        listener.cancelled = true;
                    }
                }
                None if listener.stopping => listener.socket = None,
                None if may_accept => {
                    let ring = match self.tables.accepting(None) {
                        Ok(ring) => ring,
                        Err(error) => {
                            // No ring to be had now: as with any other shortage.
                            self.accept_again = Some(self.now.after(ACCEPT_PAUSE));
                            events.push(Event::AcceptFailed(std::io::Error::other(error)));
                            return Ok(());
                        }
                    };
                    let Some(ring) = ring else { continue };
                    self.tables.ring(ring).accept(socket.as_fd(), tag)?;
                    listener.armed = Some(ring);
                }
                None => {}
            }
        }
        Ok(())
    }

    pub(super) fn accept_completed(
        &mut self,
        ring: usize,
        tag: Tag,
        result: i32,
        flags: u32,
        events: &mut Vec<Event>,
    ) -> std::io::Result<()> {
        if !cqueue::more(flags)
            && let Some(listener) = self.listeners.get_mut(tag.index as usize)
        {
            listener.armed = None;
            listener.cancelled = false;
        }
        if let Ok(slot) = u32::try_from(result) {
            return self.accepted(ring, slot, events);
        }
        match AcceptFailure::of(result) {
            AcceptFailure::Rearm => {}
            // More came at once than the rest of the table could take; the next ring is armed.
            AcceptFailure::NoDescriptor if self.tables.is_exhausted(ring) => {
                tracing::warn!(ring, "a connection was lost: its ring was full");
            }
            AcceptFailure::NoDescriptor => self.accept_failed(libc::ENFILE, events),
            AcceptFailure::Later(errno) => self.accept_failed(errno, events),
            AcceptFailure::ListenerClosed => {
                if let Some(listener) = self.listeners.get_mut(tag.index as usize)
                    && !listener.stopping
                {
                    listener.stop();
                    events.push(Event::AcceptFailed(std::io::Error::from_raw_os_error(-result)));
                }
            }
        }
        Ok(())
    }

    fn accept_failed(&mut self, errno: i32, events: &mut Vec<Event>) {
        self.accept_again = Some(self.now.after(ACCEPT_PAUSE));
        events.push(Event::AcceptFailed(std::io::Error::from_raw_os_error(errno)));
    }

    fn accepted(&mut self, ring: usize, slot: u32, events: &mut Vec<Event>) -> std::io::Result<()> {
        let index = self.tables.index(ring, slot);
        if self.slots.touch(index).phase == Phase::Closing {
            // The kernel gave the slot out again before it said that it had closed it.
            self.closed(index, events)?;
        }
        self.tables.note_accepted(ring);
        let is_full = self.connections >= self.connections_limit;
        let slot = self.slots.touch(index);
        if is_full {
            slot.occupy(Phase::Parked);
            self.parked.push_back(index);
            return Ok(());
        }
        slot.occupy(Phase::Open);
        self.admit(index, events)
    }

    /// Shows a connection to the owner.
    fn admit(&mut self, index: u32, events: &mut Vec<Event>) -> std::io::Result<()> {
        self.connections += 1;
        events.push(Event::Accepted(self.id_of(index)));
        self.arm_poll(index)
    }

    /// Shows one that had to wait, now that there is room.
    pub(super) fn admit_parked(&mut self, events: &mut Vec<Event>) -> std::io::Result<()> {
        if self.connections >= self.connections_limit {
            return Ok(());
        }
        let Some(index) = self.parked.pop_front() else { return Ok(()) };
        self.slots.at(index).phase = Phase::Open;
        self.admit(index, events)
    }
}
