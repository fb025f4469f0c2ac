//! Listeners: each has a number of accepts armed, every one of them with a slot promised to it.
//!
//! A multishot accept would take what comes until the table is full, and then lose one connection: the kernel says
//! ENFILE *after* it has accepted. A burst is as long as the accept queue, so no margin below the table's size is
//! safe. With one accept per promised slot tables are filled to the last one, the limit of connections is exact,
//! and nothing is lost. It is not dearer: 10 µs of the server's CPU per connection, its poll included, against 14 with a
//! multishot accept (medians of four rounds of 12,000, each of which woke the server for itself).

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;

use super::UringDriver;
use super::errno::AcceptFailure;
use super::operation::{Operation, Tag};
use super::slots::Phase;
use crate::{Event, ReactorError};

/// Accepts armed per listener; so many connections are taken per pass.
const ACCEPTS_ARMED: u32 = 64;
/// But not more than this part of a ring, so that the next one is not made long before it is needed.
const TABLE_PART_ARMED: u32 = 16;
/// Pause after the system could not give a descriptor or memory for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    /// `None` when it was stopped and its accepts have ended.
    socket: Option<TcpListener>,
    stopping: bool,
    /// Accepts that are with the kernel.
    armed: u32,
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
        Ok(Self { socket: Some(socket), stopping: false, armed: 0 })
    }

    /// Ends the accepts; with `SO_REUSEPORT` nothing is hashed to this socket from now on.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
        if let Some(socket) = &self.socket {
            // ENOTCONN is the answer for a socket that was shut down before.
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        }
        if self.armed == 0 {
            self.socket = None;
        }
    }
}

impl UringDriver {
    /// Arms accepts as far as there is room.
    pub(super) fn tend_listeners(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        if self.accept_again.is_some_and(|moment| moment <= self.now) {
            self.accept_again = None;
        }
        let armed: u32 = self.listeners.iter().map(|listener| listener.armed).sum();
        let mut room = self.connections_limit.saturating_sub(self.connections + armed as usize);
        let armed_limit = ACCEPTS_ARMED.min(self.tables.slots() / TABLE_PART_ARMED).max(1);
        for (number, listener) in self.listeners.iter_mut().enumerate() {
            let Some(socket) = &listener.socket else { continue };
            if listener.stopping {
                if listener.armed == 0 {
                    listener.socket = None;
                }
                continue;
            }
            while listener.armed < armed_limit && room > 0 && self.accept_again.is_none() {
                let ring = match self.tables.promise_slot() {
                    Ok(Some(ring)) => ring,
                    Ok(None) => return Ok(()),
                    Err(error) => {
                        // No ring to be had now: as with any other shortage.
                        self.accept_again = Some(self.now.after(ACCEPT_PAUSE));
                        events.push(Event::AcceptFailed(io::Error::other(error)));
                        return Ok(());
                    }
                };
                let tag = Tag::of(Operation::Accept, number as u32, 0);
                self.tables.ring(ring).accept(socket.as_fd(), tag)?;
                listener.armed += 1;
                room -= 1;
            }
        }
        Ok(())
    }

    pub(super) fn accept_completed(
        &mut self,
        ring: usize,
        tag: Tag,
        result: i32,
        events: &mut Vec<Event>,
    ) -> io::Result<()> {
        let slot = u32::try_from(result);
        self.tables.note_accept_ended(ring, slot.is_ok());
        let Some(listener) = self.listeners.get_mut(tag.index as usize) else {
            debug_assert!(false, "an accept of no listener");
            return Ok(());
        };
        listener.armed -= 1;
        if let Ok(slot) = slot {
            return self.accepted(ring, slot, events);
        }
        match AcceptFailure::of(result) {
            AcceptFailure::Rearm => {}
            AcceptFailure::Later(errno) => {
                // Once per shortage: all that are armed run into it.
                if self.accept_again.is_none() {
                    self.accept_again = Some(self.now.after(ACCEPT_PAUSE));
                    events.push(Event::AcceptFailed(io::Error::from_raw_os_error(errno)));
                }
            }
            AcceptFailure::ListenerClosed => {
                if !listener.stopping {
                    listener.stop();
                    events.push(Event::AcceptFailed(io::Error::from_raw_os_error(-result)));
                }
            }
        }
        Ok(())
    }

    fn accepted(&mut self, ring: usize, slot: u32, events: &mut Vec<Event>) -> io::Result<()> {
        let index = self.tables.index(ring, slot);
        if self.slots.touch(index).phase == Phase::Closing {
            // The kernel gave the slot out again before it said that it had closed it.
            self.closed(index, events)?;
        }
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
    fn admit(&mut self, index: u32, events: &mut Vec<Event>) -> io::Result<()> {
        self.connections += 1;
        events.push(Event::Accepted(self.id_of(index)));
        self.arm_poll(index)
    }

    /// Shows one that had to wait, now that there is room.
    pub(super) fn admit_parked(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        if self.connections >= self.connections_limit {
            return Ok(());
        }
        let Some(index) = self.parked.pop_front() else { return Ok(()) };
        self.slots.at(index).phase = Phase::Open;
        self.admit(index, events)
    }
}
