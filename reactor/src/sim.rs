//! The `sim` back end of [`crate::Driver`]: a network in memory with a seed and a virtual clock.
//!
//! A shard runs on it unchanged. The test holds the [`Network`] and plays the peers: it writes, reads, stalls,
//! resets and vanishes between turns. The network does the rest of what networks do: reorders what different
//! connections do, splits and joins reads at every byte, takes sends in part, loses connections, runs out of
//! buffers and descriptors, gives slots out again at once ([`Fault`] has the list, [`FaultCounts`] what came of it).
//!
//! [`crate::Driver::turn`] never blocks. When nothing is ready it moves the virtual clock to the next thing that
//! happens on the network or to `until`, whichever is first, and it may come back without an event: then something
//! reached a peer, and it is the test's move.
//!
//! The one invariant: everything follows from the seed and from what the owner and the peers did. No real clock, no
//! address of memory and no order of a hash table has a say, so a seed that fails fails again.

mod fault;
mod link;
mod network;
mod random;
mod trace;

use std::mem;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use rustix::io::Errno;

pub use self::fault::{Fault, FaultCounts, Faults};
pub use self::network::{Arrival, Inside, Network, PeerRead, SimPeer};
pub use self::random::{Chance, Random};

use self::link::{DriverEnd, Mark};
use self::network::{Due, State, What};
use crate::outputs::{NO_OUTPUT, Outputs, advance, unsent};
use crate::slots::Slots;
use crate::{
    BufferPool, CloseReason, ConnectionId, Driver, DriverKind, DriverOptions, Event, Moment, Output,
    ReactorError, Waker, planted,
};

/// After accepting failed: when to try again.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A driver on a [`Network`].
#[derive(Debug)]
pub struct SimDriver {
    network: Network,
    waker: Waker,
    connections: Slots<Connection>,
    outputs: Outputs,
    buffers: BufferPool,
    /// What the owner touched since the last turn.
    dirty: Vec<ConnectionId>,
    /// What is to be read.
    readable: Vec<ConnectionId>,
    /// What has room again.
    writable: Vec<ConnectionId>,
    /// No buffers before this.
    buffers_at: Moment,
    /// No accepts before this.
    accepts_at: Moment,
}

#[derive(Debug)]
struct Connection {
    link: u32,
    output: u32,
    /// The connect is under way.
    connecting: bool,
    /// It stands in `dirty`.
    dirty: bool,
    /// It stands in `readable`.
    listed: bool,
    paused: bool,
    /// FIN was reported.
    ended: bool,
    /// The last send was not taken whole.
    full: bool,
    /// The owner asked for FIN; it was sent.
    shutting: bool,
    shut: bool,
    /// The owner asked to close; with RST; the network still holds something.
    closing: bool,
    aborting: bool,
    joining: bool,
}

impl Connection {
    const fn new(link: u32, connecting: bool) -> Self {
        Self {
            link,
            output: NO_OUTPUT,
            connecting,
            dirty: false,
            listed: false,
            paused: false,
            ended: false,
            full: false,
            shutting: false,
            shut: false,
            closing: false,
            aborting: false,
            joining: false,
        }
    }

    const fn is_closing(&self) -> bool {
        self.closing || self.aborting || self.joining
    }
}

impl SimDriver {
    /// A driver on this network, which must not have another one.
    #[must_use]
    pub fn new(options: DriverOptions, network: &Network) -> Self {
        Self {
            network: network.clone(),
            waker: Waker::never_sleeps(),
            connections: Slots::new(options.connections),
            outputs: Outputs::default(),
            buffers: BufferPool::new(options.receive_buffers, options.receive_buffer_bytes),
            dirty: Vec::new(),
            readable: Vec::new(),
            writable: Vec::new(),
            buffers_at: Moment(0),
            accepts_at: Moment(0),
        }
    }

    /// Listens on the simulated network, as [`Driver::listen`] does, for owners that have no real listener.
    pub fn listen_in_simulation(&mut self) {
        self.network.state_mut().listening = true;
    }

    fn insert(&mut self, net: &mut State, connection: Connection) -> Option<ConnectionId> {
        if self.connections.has_used_slots() && net.strikes(Fault::SlotReused, net.faults.slot_reused) {
            self.connections.insert(connection)
        } else {
            self.connections.insert_rested(connection)
        }
    }

    fn mark_dirty(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.find_mut(id)
            && !mem::replace(&mut connection.dirty, true)
        {
            self.dirty.push(id);
        }
    }

    /// Sends, shuts down and closes what the owner asked for since the last turn.
    fn work_off_dirty(&mut self, net: &mut State, events: &mut Vec<Event>) {
        let mut dirty = mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            let Some(connection) = self.connections.find_mut(id) else { continue };
            connection.dirty = false;
            let link = connection.link;
            if connection.joining {
                // Only RST can still make a difference, and it is not worth one.
            } else if connection.is_closing() {
                if connection.connecting {
                    net.forget_connect(link);
                } else if !connection.aborting {
                    self.send(net, id);
                }
                self.begin_close(net, id, events);
            } else if connection.full {
                self.outputs.hold_back_more(connection.output);
            } else if !connection.connecting {
                self.flush(net, id, events);
            }
        }
        self.dirty = dirty;
    }

    /// Lets go of the network's end; `Closed` comes now or, if the network is slow, later.
    fn begin_close(&mut self, net: &mut State, id: ConnectionId, events: &mut Vec<Event>) {
        let Some(connection) = self.connections.find_mut(id) else { return };
        let (link, aborting) = (connection.link, connection.aborting);
        if net.strikes(Fault::SlowClose, net.faults.slow_close) {
            connection.joining = true;
            let at = net.now.after(net.some_time(net.faults.slow_close_max));
            net.driver_lets_go(link, aborting);
            net.schedule(at, link, What::Join);
        } else {
            self.remove(net, id, aborting, CloseReason::Requested, events);
        }
    }

    fn remove(
        &mut self,
        net: &mut State,
        id: ConnectionId,
        with_reset: bool,
        reason: CloseReason,
        events: &mut Vec<Event>,
    ) {
        let Some(connection) = self.connections.remove(id) else { return };
        if connection.output != NO_OUTPUT {
            self.outputs.release(connection.output);
        }
        net.driver_leaves(connection.link, with_reset);
        events.push(Event::Closed(id, reason));
    }

    /// Sends what is in the output and, when all of it is gone, what was to follow it.
    fn flush(&mut self, net: &mut State, id: ConnectionId, events: &mut Vec<Event>) {
        let Some(connection) = self.connections.find(id) else { return };
        let link = connection.link;
        if connection.output != NO_OUTPUT && net.link(link).to_driver.reset {
            self.remove(net, id, true, CloseReason::Error(Errno::PIPE.into()), events);
            return;
        }
        if !self.send(net, id) {
            return;
        }
        let Some(connection) = self.connections.find_mut(id) else { return };
        if mem::take(&mut connection.full) {
            events.push(Event::Drained(id));
        }
        if connection.shutting && !mem::replace(&mut connection.shut, true) {
            net.send_to_peer(link, Mark::Fin);
        }
    }

    /// One send of what is in the output. True when nothing is left; then the connection has no output any more.
    fn send(&mut self, net: &mut State, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.find_mut(id) else { return true };
        let Some(output) = self.outputs.get_mut(connection.output) else { return true };
        if output.unsent_bytes() > 0 {
            let taken = net.send_bytes(connection.link, unsent(output));
            advance(output, taken);
            if output.unsent_bytes() > 0 {
                connection.full = true;
                self.outputs.hold_back(connection.output);
                return false;
            }
        }
        self.outputs.release(connection.output);
        connection.output = NO_OUTPUT;
        true
    }

    /// Whether there is work that needs no waiting.
    fn is_busy(&self, net: &State) -> bool {
        let can_read =
            !self.readable.is_empty() && self.buffers_at <= net.now && self.buffers.free_slots() > 0;
        let can_accept = !net.backlog.is_empty() && self.accepts_at <= net.now && !self.connections.is_full();
        can_read || can_accept || !self.writable.is_empty()
    }

    /// Moves the clock to where something happens, unless something is to be done right now.
    fn pass_time(&self, net: &mut State, until: Option<Moment>) {
        let next = net.next_due();
        let stop = match (until, next) {
            (Some(one), Some(other)) => one.min(other),
            (Some(one), None) | (None, Some(one)) => one,
            // Nothing will ever happen by itself; with a kernel, this would be a sleep until somebody else acts.
            (None, None) => return,
        };
        if stop <= net.now {
            return;
        }
        net.now = if net.strikes(Fault::SpuriousWake, net.faults.spurious_wake) {
            Moment(net.random.between(net.now.0, stop.0 - 1))
        } else {
            stop
        };
        if net.strikes(Fault::ClockJump, net.faults.clock_jump) {
            net.now = net.now.after(net.some_time(net.faults.clock_jump_max));
        }
    }

    /// Works through what is due on the network.
    fn work_off_due(&mut self, net: &mut State, events: &mut Vec<Event>) {
        while let Some(Due { link, what, .. }) = net.pop_due() {
            match what {
                What::Nudge => {}
                What::ToPeer => net.land_at_peer(link),
                What::Backlog => {
                    if net.listening && net.link(link).driver_end == DriverEnd::Waiting {
                        net.backlog.push_back(link);
                    }
                }
                What::ToDriver => {
                    net.land_at_driver(link);
                    self.list_readable(net, link);
                }
                What::Reset => {
                    net.reset(link);
                    self.list_readable(net, link);
                }
                What::Room => {
                    if let DriverEnd::Open(id) = net.link(link).driver_end
                        && !planted::ROOM_FORGOTTEN.is_planted()
                    {
                        self.writable.push(id);
                    }
                }
                What::Connect => self.connect_ended(net, link, events),
                What::Join => {
                    if let DriverEnd::Open(id) = net.link(link).driver_end {
                        let aborting =
                            self.connections.find(id).is_some_and(|connection| connection.aborting);
                        self.remove(net, id, aborting, CloseReason::Requested, events);
                    }
                }
            }
        }
    }

    fn list_readable(&mut self, net: &mut State, link: u32) {
        let DriverEnd::Open(id) = net.link(link).driver_end else { return };
        let Some(connection) = self.connections.find_mut(id) else { return };
        // A reset is noticed even where nobody reads.
        let wanted = !connection.paused || net.link(link).to_driver.reset;
        if wanted && !connection.is_closing() && !mem::replace(&mut connection.listed, true) {
            self.readable.push(id);
        }
    }

    fn connect_ended(&mut self, net: &mut State, link: u32, events: &mut Vec<Event>) {
        let DriverEnd::Open(id) = net.link(link).driver_end else { return };
        let Some(connection) = self.connections.find_mut(id).filter(|connection| !connection.is_closing())
        else {
            return;
        };
        match net.end_connect(link) {
            Ok(()) => {
                connection.connecting = false;
                events.push(Event::Connected(id));
                self.flush(net, id, events);
            }
            Err(error) => self.remove(net, id, true, CloseReason::ConnectFailed(error.into()), events),
        }
    }

    fn accept(&mut self, net: &mut State, events: &mut Vec<Event>) {
        while self.accepts_at <= net.now && !self.connections.is_full() {
            let Some(link) = net.backlog.pop_front() else { return };
            if net.strikes(Fault::AcceptFailed, net.faults.accept_failed) {
                if !planted::ACCEPT_LOST.is_planted() {
                    net.backlog.push_front(link);
                }
                self.accepts_at = net.now.after(ACCEPT_RETRY);
                net.nudge(self.accepts_at);
                events.push(Event::AcceptFailed(Errno::MFILE.into()));
                return;
            }
            let Some(id) = self.insert(net, Connection::new(link, false)) else { return };
            net.link(link).driver_end = DriverEnd::Open(id);
            events.push(Event::Accepted(id));
            // What was sent before the connection was accepted is there already.
            self.list_readable(net, link);
        }
    }

    /// One receive for every connection that has something, as far as the buffers reach.
    fn receive(&mut self, net: &mut State, events: &mut Vec<Event>) {
        if self.readable.is_empty() || self.buffers_at > net.now {
            return;
        }
        if net.strikes(Fault::NoBuffers, net.faults.no_buffers) {
            self.buffers_at = net.now.after(net.some_time(net.faults.no_buffers_max));
            net.nudge(self.buffers_at);
            if planted::READ_FORGOTTEN.is_planted() {
                self.readable.clear();
            }
            return;
        }
        let mut listed = mem::take(&mut self.readable);
        listed.retain(|id| {
            let stays = self.receive_one(net, *id, events);
            if !stays && let Some(connection) = self.connections.find_mut(*id) {
                connection.listed = false;
            }
            stays
        });
        listed.append(&mut self.readable);
        self.readable = listed;
    }

    /// One receive; says whether there is more to come.
    fn receive_one(&mut self, net: &mut State, id: ConnectionId, events: &mut Vec<Event>) -> bool {
        let Some(connection) = self.connections.find_mut(id) else { return false };
        if connection.is_closing() {
            return false;
        }
        let link = connection.link;
        let wire = &net.link(link).to_driver;
        let (landed, reset, ended) = (wire.landed(), wire.reset, wire.ended && !connection.ended);
        let landed = if planted::END_BEFORE_BYTES.is_planted() && ended { 0 } else { landed };
        if reset && (landed == 0 || connection.paused) {
            self.remove(net, id, true, CloseReason::Error(Errno::CONNRESET.into()), events);
            return false;
        }
        let paused = connection.paused && !planted::PAUSE_IGNORED.is_planted();
        if paused || (landed == 0 && !ended) {
            return false;
        }
        if net.strikes(Fault::LateRead, net.faults.late_read) {
            return true;
        }
        if landed == 0 {
            connection.ended = true;
            events.push(Event::EndOfStream(id));
            return false;
        }
        let Some(mut buffer) = self.buffers.take() else { return true };
        let mut bytes = landed.min(buffer.len());
        if bytes > 1 && net.strikes(Fault::SplitRead, net.faults.split_read) {
            // Every second time a single byte: that is where parsers break.
            let most = if net.random.below(2) == 0 { 1 } else { bytes as u64 - 1 };
            bytes = net.random.between(1, most) as usize;
        }
        buffer.truncate(bytes);
        net.link(link).to_driver.take(&mut buffer);
        events.push(Event::Received(id, buffer));
        bytes < landed || ended || reset
    }

    /// Sends on where there is room again.
    fn write_on(&mut self, net: &mut State, events: &mut Vec<Event>) {
        let mut writable = mem::take(&mut self.writable);
        for id in writable.drain(..) {
            let waits = self.connections.find(id).is_some_and(|connection| connection.full);
            if waits && !self.connections.find(id).is_some_and(Connection::is_closing) {
                self.flush(net, id, events);
            }
        }
        self.writable = writable;
    }
}

impl Driver for SimDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::Sim
    }

    fn now(&self) -> Moment {
        self.network.state().now
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn listen(&mut self, _listener: TcpListener) -> Result<(), ReactorError> {
        self.listen_in_simulation();
        Ok(())
    }

    fn stop_listening(&mut self) {
        self.network.state_mut().stop_listening();
    }

    fn connect(
        &mut self,
        source: Option<SocketAddr>,
        target: SocketAddr,
    ) -> Result<ConnectionId, ReactorError> {
        let network = self.network.clone();
        let mut net = network.state_mut();
        if self.connections.is_full() {
            return Err(ReactorError::Full { slots: self.connections.capacity() });
        }
        let link = net.open_link();
        let id = self
            .insert(&mut net, Connection::new(link, true))
            .expect("invariant: a slot is free, it was looked at above");
        net.link(link).driver_end = DriverEnd::Open(id);
        net.begin_connect(link, source, target);
        Ok(id)
    }

    fn output(&mut self, id: ConnectionId) -> Option<&mut Output> {
        let connection = self.connections.find_mut(id)?;
        if connection.is_closing() || connection.shutting {
            return None;
        }
        if connection.output == NO_OUTPUT {
            connection.output = self.outputs.acquire();
        }
        let output = connection.output;
        self.mark_dirty(id);
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
            connection.paused = true;
        }
    }

    fn resume(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.find_mut(id)
            && mem::take(&mut connection.paused)
        {
            let link = connection.link;
            let network = self.network.clone();
            let mut net = network.state_mut();
            self.list_readable(&mut net, link);
        }
    }

    fn shutdown(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.find_mut(id)
            && !mem::replace(&mut connection.shutting, true)
        {
            self.mark_dirty(id);
        }
    }

    fn close(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.find_mut(id) {
            connection.closing = true;
            self.mark_dirty(id);
        }
    }

    fn abort(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.find_mut(id) {
            connection.aborting = true;
            self.mark_dirty(id);
        }
    }

    fn connections(&self) -> usize {
        self.connections.len()
    }

    fn turn(&mut self, until: Option<Moment>, events: &mut Vec<Event>) -> Result<(), ReactorError> {
        let network = self.network.clone();
        let net: &mut State = &mut network.state_mut();
        let before = events.len();
        self.work_off_dirty(net, events);
        if events.len() == before && !self.is_busy(net) && !self.waker.is_notified() {
            self.pass_time(net, until);
        }
        self.waker.awake();
        self.work_off_due(net, events);
        let several = self.readable.len() + self.writable.len() + net.backlog.len() > 1;
        if several && net.strikes(Fault::Reordered, net.faults.reordered) {
            net.random.shuffle(&mut self.readable);
            net.random.shuffle(&mut self.writable);
            self.receive(net, events);
            self.write_on(net, events);
            self.accept(net, events);
        } else {
            self.accept(net, events);
            self.write_on(net, events);
            self.receive(net, events);
        }
        for event in &events[before..] {
            net.trace_event(event);
        }
        Ok(())
    }
}
