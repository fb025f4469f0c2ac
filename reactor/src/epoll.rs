//! The `epoll` back end of [`crate::Driver`]: non-blocking sockets, for where io_uring is blocked.
//!
//! Edge-triggered, every socket registered once for everything when it is made: after that a message costs one
//! `recv` and one `send`, and its share of one `epoll_wait`. The price is that this side remembers what the kernel
//! said: `Flag::READABLE` stays set until a read came back short, `Flag::FULL` until EPOLLOUT.
//!
//! A connection gets one receive per turn, whatever it has sent; what is left is read in the next turn, so no peer
//! can keep the others waiting.
//!
//! The one invariant: a connection that is readable and not paused stands in the list of those to read, or the
//! kernel owes an edge for it. Nothing is held by the kernel between turns, so closing needs no *join*.

mod connection;
mod socket;

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;
use std::{io, mem};

use rustix::event::{Timespec, epoll};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags, sockopt};

use self::connection::{Connection, Flag};
use crate::outputs::{NO_OUTPUT, Outputs, advance, unsent};
use crate::slots::Slots;
use crate::{
    BufferPool, CloseReason, ConnectionId, Driver, DriverKind, DriverOptions, Event, Moment, Output,
    ReactorError, Waker,
};

/// Events taken from the kernel at once.
const READY_MAX: usize = 1024;
/// Connections accepted from one listener per turn, so that a storm of them does not starve those that are in.
const ACCEPTS_PER_TURN_MAX: usize = 256;
/// After the kernel refused to accept for want of descriptors or memory: when to ask again, unless a connection
/// closes earlier.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Stands for the waker among what the kernel reports.
const WAKER: ConnectionId = ConnectionId { index: u32::MAX, generation: u32::MAX };
/// Stands for the listeners; the generation is the listener's number.
const LISTENER_INDEX: u32 = u32::MAX - 1;

const _: () = assert!(Slots::<Connection>::BYTES_PER_CONNECTION == 16);

/// Non-blocking sockets on one epoll instance; belongs to one thread.
#[derive(Debug)]
pub struct EpollDriver {
    epoll: OwnedFd,
    waker: Waker,
    options: DriverOptions,
    now: Moment,

    listeners: Vec<TcpListener>,
    /// Whether the kernel tells about the listeners: not while nothing can be accepted.
    listeners_armed: bool,
    /// Set after accepting failed.
    accept_retry_at: Option<Moment>,

    connections: Slots<Connection>,
    outputs: Outputs,
    buffers: BufferPool,
    /// What the owner touched since the last turn.
    dirty: Vec<ConnectionId>,
    /// What is to be read, the longest waiting first.
    readable: Vec<ConnectionId>,
    /// Connects that the kernel refused at once.
    refused: Vec<(ConnectionId, io::Error)>,

    // Scratch space, empty between turns.
    ready: Ready,
    still_readable: Vec<ConnectionId>,
}

impl EpollDriver {
    /// A driver without connections.
    ///
    /// # Errors
    /// When the kernel gives no epoll instance or eventfd.
    pub fn new(options: DriverOptions) -> Result<Self, ReactorError> {
        let setup = |what, source: Errno| ReactorError::Setup {
            what,
            advice: "the process or the machine is out of descriptors; raise RLIMIT_NOFILE or fs.file-max",
            source: source.into(),
        };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| setup("an epoll instance", e))?;
        let waker = Waker::new().map_err(|source| ReactorError::Setup {
            what: "an eventfd",
            advice: "the process or the machine is out of descriptors; raise RLIMIT_NOFILE or fs.file-max",
            source,
        })?;
        let eventfd = waker.eventfd().expect("invariant: a waker that sleeps in the kernel has an eventfd");
        // Edge-triggered, so that it need not be read: every write is an edge, and 2^64 of them do not happen.
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, eventfd, data(WAKER), flags).map_err(|e| setup("waiting for the eventfd", e))?;
        Ok(Self {
            epoll,
            waker,
            now: socket::monotonic_now(),
            listeners: Vec::new(),
            listeners_armed: false,
            accept_retry_at: None,
            connections: Slots::new(options.connections),
            outputs: Outputs::default(),
            buffers: BufferPool::new(options.receive_buffers, options.receive_buffer_bytes),
            dirty: Vec::new(),
            readable: Vec::new(),
            refused: Vec::new(),
            ready: Ready(Vec::with_capacity(READY_MAX)),
            still_readable: Vec::new(),
            options,
        })
    }

    fn broken(what: &'static str, source: Errno) -> ReactorError {
        ReactorError::Broken { driver: DriverKind::Epoll, what, source: source.into() }
    }

    /// Puts a connection on the list of those to work on before the next wait.
    fn mark_dirty(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.find_mut(id)
            && !connection.set(Flag::DIRTY)
        {
            self.dirty.push(id);
        }
    }

    /// Puts a connection on the list of those to read.
    fn list_readable(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.find_mut(id)
            && !connection.has(Flag::PAUSED)
            && !connection.set(Flag::LISTED)
        {
            self.readable.push(id);
        }
    }

    /// Sends, shuts down and closes what the owner asked for since the last turn.
    fn work_off_dirty(&mut self, events: &mut Vec<Event>) {
        for (id, error) in mem::take(&mut self.refused) {
            // Closed by the owner meanwhile: then that is what it hears.
            if self.connections.find(id).is_some_and(|connection| !connection.is_closing()) {
                self.remove(id, CloseReason::ConnectFailed(error), events);
            }
        }
        let mut dirty = mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            let Some(connection) = self.connections.find_mut(id) else { continue };
            connection.clear(Flag::DIRTY);
            if connection.has(Flag::ABORTING) {
                if let Some(socket) = &connection.socket {
                    socket::reset_on_close(socket);
                }
                self.remove(id, CloseReason::Requested, events);
            } else if connection.has(Flag::CLOSING) {
                // What goes wrong now is of no interest to anybody.
                if !connection.has(Flag::CONNECTING) {
                    let _ = self.send(id);
                }
                self.remove(id, CloseReason::Requested, events);
            } else if connection.has(Flag::FULL) {
                self.outputs.hold_back_more(connection.output);
            } else if !connection.has(Flag::CONNECTING) {
                self.flush(id, events);
            }
        }
        // Work of the next turn is put where this turn's was.
        debug_assert!(self.dirty.is_empty(), "only the owner makes connections dirty");
        self.dirty = dirty;
    }

    /// Sends what is in the output and, when all of it is gone, what was to follow it.
    fn flush(&mut self, id: ConnectionId, events: &mut Vec<Event>) {
        match self.send(id) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                self.remove(id, CloseReason::Error(error.into()), events);
                return;
            }
        }
        let Some(connection) = self.connections.find_mut(id) else { return };
        if connection.has(Flag::FULL) {
            connection.clear(Flag::FULL);
            events.push(Event::Drained(id));
        }
        if connection.has(Flag::SHUTTING)
            && !connection.set(Flag::SHUT)
            && let Some(socket) = &connection.socket
        {
            // ENOTCONN: the peer reset; the read side reports it.
            let _ = rustix::net::shutdown(socket, Shutdown::Write);
        }
    }

    /// One send of what is in the output. True when nothing is left; then the connection has no output any more.
    fn send(&mut self, id: ConnectionId) -> Result<bool, Errno> {
        let Some(connection) = self.connections.find_mut(id) else { return Ok(true) };
        let (Some(output), Some(socket)) = (self.outputs.get_mut(connection.output), &connection.socket)
        else {
            return Ok(true);
        };
        while !unsent(output).is_empty() {
            match rustix::net::send(socket, unsent(output), SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(bytes) => {
                    advance(output, bytes);
                    // A short send means that the socket is full, and that EPOLLOUT will come.
                    if output.unsent_bytes() > 0 {
                        connection.set(Flag::FULL);
                        self.outputs.hold_back(connection.output);
                        return Ok(false);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    connection.set(Flag::FULL);
                    self.outputs.hold_back(connection.output);
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        self.outputs.release(connection.output);
        connection.output = NO_OUTPUT;
        Ok(true)
    }

    /// Closes the socket, frees the slot and says so.
    fn remove(&mut self, id: ConnectionId, reason: CloseReason, events: &mut Vec<Event>) {
        let Some(connection) = self.connections.remove(id) else { return };
        if connection.output != NO_OUTPUT {
            self.outputs.release(connection.output);
        }
        // A descriptor is free again.
        self.accept_retry_at = None;
        events.push(Event::Closed(id, reason));
    }

    /// Asks the kernel to tell about the listeners exactly while something can be accepted.
    fn arm_listeners(&mut self) -> Result<(), ReactorError> {
        if self.accept_retry_at.is_some_and(|at| at <= self.now) {
            self.accept_retry_at = None;
        }
        let wanted = !self.connections.is_full() && self.accept_retry_at.is_none();
        if wanted == self.listeners_armed {
            return Ok(());
        }
        for (number, listener) in self.listeners.iter().enumerate() {
            if wanted {
                watch_listener(&self.epoll, listener, number)
            } else {
                epoll::delete(&self.epoll, listener)
            }
            .map_err(|error| Self::broken("watching a listener", error))?;
        }
        self.listeners_armed = wanted;
        Ok(())
    }

    /// How long the kernel may keep us: `None` for as long as nothing happens.
    fn patience(&self, until: Option<Moment>) -> Option<Duration> {
        let until = match (until, self.accept_retry_at) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        until.map(|until| until.since(socket::monotonic_now()))
    }

    /// Waits for the kernel to report something.
    fn wait(&mut self, patience: Option<Duration>) -> Result<(), ReactorError> {
        let timeout = patience.map(|patience| Timespec {
            // Above this rustix would use `epoll_pwait2`, which Linux before 5.11 does not have.
            tv_sec: patience.as_secs().min(1_000_000) as i64,
            tv_nsec: patience.subsec_nanos().into(),
        });
        self.ready.0.clear();
        let space = rustix::buffer::spare_capacity(&mut self.ready.0);
        match epoll::wait(&self.epoll, space, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(Self::broken("waiting for events", error)),
        }
    }

    /// Works through what the kernel reported. Reading is only noted; it comes after everything else.
    fn dispatch(&mut self, events: &mut Vec<Event>) {
        let ready = mem::take(&mut self.ready);
        for event in &ready.0 {
            let (id, flags) = (ConnectionId::from_bits(event.data.u64()), event.flags);
            match id {
                WAKER => {}
                ConnectionId { index: LISTENER_INDEX, generation } => {
                    self.accept(generation as usize, events);
                }
                _ => self.connection_ready(id, flags, events),
            }
        }
        self.ready = ready;
    }

    fn connection_ready(&mut self, id: ConnectionId, flags: epoll::EventFlags, events: &mut Vec<Event>) {
        use epoll::EventFlags as On;
        let Some(connection) = self.connections.find_mut(id) else { return };
        if connection.has(Flag::CONNECTING) {
            let socket = connection.socket.as_ref().expect("invariant: what the kernel reports has a socket");
            if let Err(error) = sockopt::socket_error(socket).unwrap_or_else(Err) {
                self.remove(id, CloseReason::ConnectFailed(error.into()), events);
                return;
            }
            connection.clear(Flag::CONNECTING);
            events.push(Event::Connected(id));
            self.flush(id, events);
        }
        if flags.contains(On::OUT) && self.connections.find(id).is_some_and(|c| c.has(Flag::FULL)) {
            self.flush(id, events);
        }
        let Some(connection) = self.connections.find_mut(id) else { return };
        if flags.intersects(On::RDHUP | On::HUP | On::ERR) {
            connection.set(Flag::HUNG_UP);
            // Nobody is going to read this one, so that is not how the error will be found.
            if flags.contains(On::ERR)
                && (connection.has(Flag::PAUSED) || connection.has(Flag::ENDED))
                && let Some(socket) = &connection.socket
                && let Err(error) = sockopt::socket_error(socket).unwrap_or_else(Err)
            {
                self.remove(id, CloseReason::Error(error.into()), events);
                return;
            }
        }
        if flags.intersects(On::IN | On::RDHUP | On::HUP | On::ERR) && !connection.has(Flag::ENDED) {
            connection.set(Flag::READABLE);
            self.list_readable(id);
        }
    }

    fn accept(&mut self, number: usize, events: &mut Vec<Event>) {
        for _ in 0..ACCEPTS_PER_TURN_MAX {
            let Some(listener) = self.listeners.get(number).filter(|_| !self.connections.is_full()) else {
                return;
            };
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let accepted = rustix::net::accept_with(listener, flags)
                .and_then(|socket| watch_connection(&self.epoll, socket, &mut self.connections));
            match accepted {
                Ok(Some(id)) => events.push(Event::Accepted(id)),
                Ok(None) | Err(Errno::AGAIN) => return,
                Err(error) if socket::is_about_one_connection(error) => {}
                Err(error) => {
                    self.accept_retry_at = Some(self.now.after(ACCEPT_RETRY));
                    events.push(Event::AcceptFailed(error.into()));
                    return;
                }
            }
        }
    }

    /// One receive for every connection on the list, as far as the buffers reach.
    fn receive(&mut self, events: &mut Vec<Event>) {
        let mut listed = mem::take(&mut self.readable);
        let mut served = 0;
        for id in &listed {
            if self.buffers.free_slots() == 0 {
                break;
            }
            served += 1;
            let Some(connection) = self.connections.find_mut(*id) else { continue };
            connection.clear(Flag::LISTED);
            if connection.has(Flag::PAUSED) || connection.is_closing() {
                continue;
            }
            self.receive_one(*id, events);
            if let Some(connection) = self.connections.find_mut(*id)
                && connection.has(Flag::READABLE)
            {
                connection.set(Flag::LISTED);
                self.still_readable.push(*id);
            }
        }
        listed.drain(..served);
        listed.append(&mut self.still_readable);
        debug_assert!(self.readable.is_empty(), "receiving lists nothing");
        self.readable = listed;
    }

    fn receive_one(&mut self, id: ConnectionId, events: &mut Vec<Event>) {
        let Some(connection) = self.connections.find_mut(id) else { return };
        let (Some(socket), Some(mut buffer)) = (&connection.socket, self.buffers.take()) else { return };
        match rustix::net::recv(socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => {
                connection.clear(Flag::READABLE);
                connection.set(Flag::ENDED);
                events.push(Event::EndOfStream(id));
            }
            Ok((bytes, _)) => {
                if bytes < buffer.len() && !connection.has(Flag::HUNG_UP) {
                    connection.clear(Flag::READABLE);
                }
                buffer.truncate(bytes);
                events.push(Event::Received(id, buffer));
            }
            Err(Errno::AGAIN) => connection.clear(Flag::READABLE),
            Err(Errno::INTR) => {}
            Err(error) => self.remove(id, CloseReason::Error(error.into()), events),
        }
    }
}

impl Driver for EpollDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::Epoll
    }

    fn now(&self) -> Moment {
        self.now
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn listen(&mut self, listener: TcpListener) -> Result<(), ReactorError> {
        let refuse = |error| Self::broken("taking over a listener", error);
        socket::prepare_listener(&listener, &self.options).map_err(refuse)?;
        if self.listeners_armed {
            watch_listener(&self.epoll, &listener, self.listeners.len()).map_err(refuse)?;
        }
        self.listeners.push(listener);
        Ok(())
    }

    fn stop_listening(&mut self) {
        for listener in self.listeners.drain(..) {
            // Another process or thread may hold the same listener; closing alone would leave it listening.
            let _ = rustix::net::shutdown(&listener, Shutdown::Both);
        }
        self.accept_retry_at = None;
    }

    fn connect(
        &mut self,
        source: Option<SocketAddr>,
        target: SocketAddr,
    ) -> Result<ConnectionId, ReactorError> {
        let full = ReactorError::Full { slots: self.connections.capacity() };
        if self.connections.is_full() {
            return Err(full);
        }
        let begun = socket::begin_connect(source, target, &self.options).and_then(|socket| {
            let watched = watch_connection(&self.epoll, socket, &mut self.connections)?;
            Ok(watched.expect("invariant: a slot is free, it was looked at above"))
        });
        let (id, error) = match begun {
            Ok(id) => (id, None),
            Err(error) => (self.connections.insert(Connection::new(None)).ok_or(full)?, Some(error)),
        };
        if let Some(connection) = self.connections.find_mut(id) {
            connection.set(Flag::CONNECTING);
        }
        self.refused.extend(error.map(|error| (id, error)));
        Ok(id)
    }

    fn output(&mut self, id: ConnectionId) -> Option<&mut Output> {
        let connection = self.connections.find_mut(id)?;
        if connection.is_closing() || connection.has(Flag::SHUTTING) {
            return None;
        }
        if connection.output == NO_OUTPUT {
            connection.output = self.outputs.acquire();
        }
        let output = connection.output;
        if !connection.set(Flag::DIRTY) {
            self.dirty.push(id);
        }
        self.outputs.get_mut(output)
    }

    fn unsent_bytes(&self, id: ConnectionId) -> usize {
        let output = self.connections.find(id).and_then(|connection| self.outputs.get(connection.output));
        output.map_or(0, Output::unsent_bytes)
    }

    fn held_back_bytes(&self) -> usize {
        self.outputs.held_back_bytes()
    }

    fn pause(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.find_mut(id) {
            connection.set(Flag::PAUSED);
        }
    }

    fn resume(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.find_mut(id) {
            connection.clear(Flag::PAUSED);
            if connection.has(Flag::READABLE) {
                self.list_readable(id);
            }
        }
    }

    fn shutdown(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.find_mut(id)
            && !connection.set(Flag::SHUTTING)
        {
            self.mark_dirty(id);
        }
    }

    fn close(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.find_mut(id) {
            connection.set(Flag::CLOSING);
            self.mark_dirty(id);
        }
    }

    fn abort(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.find_mut(id) {
            connection.set(Flag::ABORTING);
            self.mark_dirty(id);
        }
    }

    fn connections(&self) -> usize {
        self.connections.len()
    }

    fn turn(&mut self, until: Option<Moment>, events: &mut Vec<Event>) -> Result<(), ReactorError> {
        let before = events.len();
        self.work_off_dirty(events);
        self.arm_listeners()?;
        // Only this thread gives buffers back, so waiting with none at hand does not miss their return.
        let can_receive = !self.readable.is_empty() && self.buffers.free_slots() > 0;
        let patience =
            if events.len() > before || can_receive { Some(Duration::ZERO) } else { self.patience(until) };
        let may_sleep = patience != Some(Duration::ZERO) && self.waker.try_sleep();
        let waited = self.wait(if may_sleep { patience } else { Some(Duration::ZERO) });
        self.waker.awake();
        self.now = socket::monotonic_now();
        waited?;
        self.dispatch(events);
        self.receive(events);
        Ok(())
    }
}

/// What the kernel reported.
#[derive(Default)]
struct Ready(Vec<epoll::Event>);

impl std::fmt::Debug for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ready({} events)", self.0.len())
    }
}

/// What stands for `id` in what the kernel reports.
fn data(id: ConnectionId) -> epoll::EventData {
    epoll::EventData::new_u64(id.to_bits())
}

/// Level-triggered: what was not accepted in one turn is reported again. Exclusive: several threads may wait for
/// the same listener, and only one needs to wake (Linux 4.5).
fn watch_listener(epoll: &OwnedFd, listener: &TcpListener, number: usize) -> Result<(), Errno> {
    let id = ConnectionId { index: LISTENER_INDEX, generation: number as u32 };
    epoll::add(epoll, listener, data(id), epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE)
}

/// Gives a socket a slot and has the kernel report everything about it from now on; `None` when no slot is free.
fn watch_connection(
    epoll: &OwnedFd,
    socket: OwnedFd,
    connections: &mut Slots<Connection>,
) -> Result<Option<ConnectionId>, Errno> {
    use epoll::EventFlags as On;
    let Some(id) = connections.insert(Connection::new(Some(socket))) else { return Ok(None) };
    let socket = connections.find(id).and_then(|connection| connection.socket.as_ref());
    let socket = socket.expect("invariant: it was put there two lines above").as_fd();
    if let Err(error) = epoll::add(epoll, socket, data(id), On::IN | On::OUT | On::RDHUP | On::ET) {
        connections.remove(id);
        return Err(error);
    }
    Ok(Some(id))
}
