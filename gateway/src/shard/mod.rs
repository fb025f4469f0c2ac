//! A shard: one thread that owns connections, from `accept` to the last byte.
//!
//! It is a loop, not a runtime: [`Shard::turn`] is called for ever, and everything happens in its order. No future,
//! waker or lock belongs to a connection; nothing here blocks but the driver's wait.
//!
//! Invariants:
//! - a connection is handled by the shard that accepted it, and by nobody else;
//! - every `Accepted` ends in one `Closed`, and a registered session in one `Unregister`;
//! - what a paused connection has sent is kept and handled in order once it goes on; it is at most one receive more
//!   than a request head.

mod connection;
mod drain;
mod frames;
mod head;
mod http;
mod index;
mod presence;
mod sets;
mod watches;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use holdfast_protocol::ws::handshake::HeadLimits;
use holdfast_protocol::ws::{CloseCode, Decoder, MessageLimits, Role, encode_close, encode_frame};
use holdfast_protocol::{chat::close, chat::close::ChatClose, ws::Opcode};
use holdfast_reactor::{CloseReason, ConnectionId, Driver, Event, Moment, Output, ReactorError, Timers};
use holdfast_router::Key;
use holdfast_storage::command::{Command, Delivery, SessionAddress};

use crate::api::HttpGate;
use crate::api::pipe::HttpEffects;
use crate::backend::Backend;
use crate::directory::Directory;
use crate::metrics::ShardCounters;
use crate::planted;
use crate::session::{Context, Devices, EntryJson, Outcome, Session, SessionRules, VerifyToken};

use connection::{Connection, Paused, Phase, TICK_NANOS, Table, tick_of};
pub(crate) use drain::Drain;
use watches::{Seen, Watches};

/// What a shard keeps to; from the configuration, the same for all shards.
#[derive(Debug, Clone)]
pub struct ShardRules {
    /// Of chat sessions.
    pub session: SessionRules,
    /// Of a request head.
    pub head: HeadLimits,
    /// Of WebSocket messages on `/ws`.
    pub chat_messages: MessageLimits,
    /// Of WebSocket messages on `/echo`; `None`: there is no `/echo`.
    pub echo_messages: Option<MessageLimits>,
    /// How long a request head may take.
    pub handshake: Duration,
    /// How long a `hello` may take, when the handshake brought no token.
    pub login: Duration,
    /// How long a peer may be silent, in heartbeats.
    pub silent_heartbeats: f64,
    /// How long the peer may take to finish after our FIN.
    pub linger: Duration,
    /// Bytes that an echo may hold back before its peer is not read any more.
    pub echo_output_bytes: usize,
    /// What `Retry-After` says to those who are refused, in seconds.
    pub retry_after_seconds: u32,
    /// Sites whose pages may use a cookie here.
    pub allowed_origins: Vec<String>,
}

/// What the shards of a process share; read by all, each field written as its doc says.
#[derive(Debug)]
pub struct Shared {
    /// Connections of all shards; each shard adds its own.
    pub connections: AtomicUsize,
    /// More than this are refused.
    pub connection_limit: usize,
    /// Set by the process's watch over its memory: refuse new connections.
    pub memory_exhausted: AtomicBool,
    /// Wall clock minus the drivers' clock in milliseconds; set by the watch, so that a clock step is followed.
    pub wall_offset_ms: AtomicI64,
    /// Which users are connected.
    pub directory: Directory,
    /// Checks tokens.
    pub tokens: Arc<dyn VerifyToken + Send + Sync>,
}

/// What the process tells a shard.
#[derive(Debug)]
pub enum Control {
    /// Stop accepting, tell the sessions, close them, and be done within this time.
    Drain(Duration),
    /// Be done now.
    Stop,
}

/// Where a shard's messages come from, beside its driver.
#[derive(Debug)]
pub struct Inputs<B> {
    /// The workers.
    pub backend: B,
    /// Serves what is not a WebSocket.
    pub http: HttpGate,
    /// Which HTTP connections have something to say.
    pub http_effects: HttpEffects,
    /// What the process tells.
    pub control: flume::Receiver<Control>,
}

/// Deliveries handled in one turn, so that a burst of them does not keep the sockets waiting.
const DELIVERIES_PER_TURN: usize = 4096;
/// HTTP effects handled in one turn.
const HTTP_EFFECTS_PER_TURN: usize = 256;
/// How soon a full worker queue is tried again. The worker empties it in batches of an fsync each.
const STALL_RETRY: Duration = Duration::from_millis(1);
/// The coarseness of all deadlines of connections.
const TIMER_TICK: Duration = Duration::from_millis(100);

/// See the module's doc.
#[derive(Debug)]
pub struct Shard<D, B> {
    id: u16,
    driver: D,
    inputs: Inputs<B>,
    rules: ShardRules,
    shared: Arc<Shared>,
    counters: Arc<ShardCounters>,
    table: Table,
    timers: Timers,
    /// Connections whose command a full queue gave back.
    stalled: VecDeque<ConnectionId>,
    /// Connections with something that waits until their output has gone out. The driver says `Drained` only for
    /// output that the socket did not take at once, so each is looked at after the next turn.
    awaiting_output: Vec<ConnectionId>,
    /// Unregistrations that a full queue gave back; their connections are gone.
    farewells: VecDeque<(Key, Command)>,
    devices: Devices,
    entry_json: EntryJson,
    watches: Watches,
    drain: Option<Drain>,
    stopping: bool,
    now: Moment,
    more_deliveries: bool,
    /// Commands of this turn have not gone out: their worker's queue is full.
    commands_wait: bool,
    // Reused by each turn.
    events: Vec<Event>,
    deliveries: Vec<Delivery>,
    expired: Vec<u32>,
    scratch: Vec<u8>,
    told: Vec<(ConnectionId, Seen)>,
    /// Not before this, watchers are told anything more.
    next_presence: Moment,
}

impl<D: Driver, B: Backend> Shard<D, B> {
    /// A shard that owns this driver.
    #[must_use]
    pub fn new(
        id: u16,
        driver: D,
        inputs: Inputs<B>,
        rules: ShardRules,
        shared: Arc<Shared>,
        counters: Arc<ShardCounters>,
    ) -> Self {
        let now = driver.now();
        Self {
            id,
            driver,
            inputs,
            rules,
            shared,
            counters,
            table: Table::default(),
            timers: Timers::new(now, TIMER_TICK),
            stalled: VecDeque::new(),
            awaiting_output: Vec::new(),
            farewells: VecDeque::new(),
            devices: Devices::default(),
            entry_json: EntryJson::default(),
            watches: Watches::default(),
            drain: None,
            stopping: false,
            now,
            more_deliveries: false,
            commands_wait: false,
            events: Vec::new(),
            deliveries: Vec::new(),
            expired: Vec::new(),
            scratch: Vec::new(),
            told: Vec::new(),
            next_presence: now,
        }
    }

    /// Turns until the process says stop, or a drain has finished.
    ///
    /// # Errors
    /// When the driver cannot go on.
    pub fn run(&mut self) -> Result<(), ReactorError> {
        while self.turn()? {}
        Ok(())
    }

    /// One turn, in this order: submit, wait and reap; sockets; workers; HTTP; control; what was held back; timers;
    /// drain; commands. Answers go out with the next turn's submission. False when the shard is done.
    ///
    /// # Errors
    /// When the driver cannot go on.
    pub fn turn(&mut self) -> Result<bool, ReactorError> {
        let until = self.next_deadline();
        let mut events = std::mem::take(&mut self.events);
        // Those whose output goes out in this turn; who joins them from here on waits for the next.
        let awaiting_output = std::mem::take(&mut self.awaiting_output);
        self.driver.turn(until, &mut events)?;
        self.now = self.driver.now();
        self.counters.turns.add(1);
        self.counters.held_back_bytes.set(self.driver.held_back_bytes() as u64);
        // Before anything new is written: what is unsent now was refused by the socket, and brings a `Drained` later.
        for id in awaiting_output {
            if self.driver.unsent_bytes(id) == 0 {
                self.handle_drained(id);
            }
        }
        for event in events.drain(..) {
            self.handle_event(event);
        }
        self.events = events;

        let mut deliveries = std::mem::take(&mut self.deliveries);
        self.more_deliveries = self.inputs.backend.receive(DELIVERIES_PER_TURN, &mut deliveries);
        for delivery in deliveries.drain(..) {
            self.handle_delivery(delivery);
        }
        self.deliveries = deliveries;

        for _ in 0..HTTP_EFFECTS_PER_TURN {
            let Some(connection) = self.inputs.http_effects.pop() else { break };
            self.advance_http(ConnectionId::from_bits(connection));
        }
        while let Ok(control) = self.inputs.control.try_recv() {
            match control {
                Control::Drain(within) => self.begin_drain(within),
                Control::Stop => self.stopping = true,
            }
        }
        self.retry_stalled();

        let mut expired = std::mem::take(&mut self.expired);
        self.timers.expire(self.now, &mut expired);
        for index in expired.drain(..) {
            self.handle_timeout(index);
        }
        self.expired = expired;

        self.continue_presence();
        self.continue_drain();
        self.commands_wait = !self.inputs.backend.flush();
        let done = self.stopping
            || self.drain.as_ref().is_some_and(|drain| drain.is_over(self.now, self.table.len()));
        Ok(!done)
    }

    /// The driver, for tests that look at it.
    pub fn driver(&mut self) -> &mut D {
        &mut self.driver
    }

    /// Connections that this shard holds.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.table.len()
    }

    fn next_deadline(&self) -> Option<Moment> {
        if self.more_deliveries || !self.awaiting_output.is_empty() || !self.inputs.http_effects.is_empty() {
            return Some(Moment(0));
        }
        let mut next = self.timers.next();
        let mut at_most = |moment: Moment| next = Some(next.map_or(moment, |known| known.min(moment)));
        if let Some(due) = self.presence_due() {
            at_most(due);
        }
        let wait = self.commands_wait || self.watches.has_unasked() || self.watches.has_doubts();
        if wait || !self.stalled.is_empty() || !self.farewells.is_empty() {
            at_most(self.now.after(STALL_RETRY));
        }
        if let Some(drain) = &self.drain {
            at_most(drain.next_step(self.now));
        }
        next
    }

    fn address(&self, id: ConnectionId) -> SessionAddress {
        SessionAddress { shard: self.id, connection: id.to_bits() }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Accepted(id) => self.handle_accepted(id),
            Event::Received(id, mut buffer) => {
                self.counters.received_bytes.add(buffer.len() as u64);
                self.handle_bytes(id, &mut buffer);
            }
            Event::EndOfStream(id) => self.handle_end_of_stream(id),
            Event::Drained(id) => self.handle_drained(id),
            Event::Closed(id, reason) => self.handle_closed(id, &reason),
            Event::AcceptFailed(error) => {
                self.counters.accepts_failed.add(1);
                tracing::debug!(shard = self.id, %error, "a connection could not be accepted");
            }
            // A gateway's shard connects to nobody.
            Event::Connected(_) => {}
        }
    }

    fn handle_accepted(&mut self, id: ConnectionId) {
        self.counters.accepted.add(1);
        let open = self.shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let connection = Connection {
            generation: id.generation,
            heard_tick: tick_of(self.now),
            accepted_tick: tick_of(self.now),
            decoder: Decoder::new(Role::Server),
            rare: None,
            phase: Phase::Head,
            paused: Paused::default(),
            probed: false,
            ended: false,
        };
        self.table.insert(id, connection);
        self.counters.connections.set(self.table.len() as u64);
        // A little beyond the limit a request still gets a 503; far beyond, nothing.
        let with_answer = self.shared.connection_limit + self.shared.connection_limit / 64 + 64;
        if open > with_answer {
            self.counters.refused.add(1);
            self.close_now(id);
            return;
        }
        self.timers.set(id.index, self.now.after(self.rules.handshake));
    }

    /// True when a new WebSocket must be refused.
    fn is_full(&self) -> bool {
        self.shared.connections.load(Ordering::Relaxed) > self.shared.connection_limit
            || self.shared.memory_exhausted.load(Ordering::Relaxed)
            || self.drain.is_some()
    }

    /// Bytes of a peer, in the receive buffer: handled in place where they are whole.
    fn handle_bytes(&mut self, id: ConnectionId, bytes: &mut [u8]) {
        let Some(connection) = self.table.get(id) else { return };
        connection.heard(self.now);
        if !connection.paused.is_empty() {
            // At most one receive was under way when the driver was told to pause.
            connection.rare().unread.extend_from_slice(bytes);
            return;
        }
        self.process(id, bytes);
    }

    /// Handles bytes according to the connection's phase; keeps what has to wait.
    fn process(&mut self, id: ConnectionId, bytes: &mut [u8]) {
        let Some(connection) = self.table.get(id) else { return };
        match connection.phase {
            Phase::Head => self.process_head(id, bytes),
            Phase::Http(_) => self.process_http(id, bytes),
            Phase::Echo | Phase::Chat(_) => self.process_frames(id, bytes),
            Phase::Lingering | Phase::Closing => {}
        }
    }

    /// Handles what arrived while the connection was paused, then reads it again.
    fn go_on(&mut self, id: ConnectionId, reason: Paused) {
        let Some(connection) = self.table.get(id) else { return };
        if !connection.paused.contains(reason) {
            return;
        }
        connection.paused.remove(reason);
        if !connection.paused.is_empty() {
            return;
        }
        let mut unread =
            connection.rare.as_mut().map(|rare| std::mem::take(&mut rare.unread)).unwrap_or_default();
        if !unread.is_empty() {
            self.process(id, &mut unread);
        }
        let Some(connection) = self.table.get(id) else { return };
        connection.tidy();
        if !connection.paused.is_empty() {
            return;
        }
        if reason != Paused::STALLED || !planted::RESUME_FORGOTTEN.is_planted() {
            self.driver.resume(id);
        }
        if connection.ended {
            self.handle_end_of_stream(id);
        }
    }

    fn pause(&mut self, id: ConnectionId, reason: Paused) {
        let Some(connection) = self.table.get(id) else { return };
        if connection.paused.is_empty() {
            self.driver.pause(id);
        }
        connection.paused.insert(reason);
    }

    fn handle_end_of_stream(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get(id) else { return };
        connection.ended = true;
        if !connection.paused.is_empty() {
            // What came before the FIN is handled first; `go_on` comes back here.
            return;
        }
        match &mut connection.phase {
            Phase::Http(pipe) => pipe.end(),
            // Without a close frame the peer is simply gone (RFC 6455 §7.1.5: code 1006 on its side).
            Phase::Head | Phase::Echo | Phase::Chat(_) | Phase::Lingering => self.close_flushed(id),
            Phase::Closing => {}
        }
    }

    fn handle_drained(&mut self, id: ConnectionId) {
        let address = self.address(id);
        let Some(connection) = self.table.get(id) else { return };
        match &connection.phase {
            Phase::Echo => self.go_on(id, Paused::OUTPUT),
            Phase::Http(_) => self.advance_http(id),
            Phase::Chat(_) => {
                let outcome =
                    self.with_session(id, |session, context| session.handle_drained(address, context));
                let outcome = outcome.unwrap_or(Outcome::Nothing);
                self.carry_out(id, outcome);
                self.tell_owed_presence(id);
                self.go_on(id, Paused::OUTPUT);
            }
            Phase::Head | Phase::Lingering | Phase::Closing => {}
        }
    }

    /// Lets the session of a connection, if there still is one, say something.
    fn with_session<T>(
        &mut self,
        id: ConnectionId,
        act: impl FnOnce(&mut Session, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let connection = self.table.get(id)?;
        let Phase::Chat(session) = &mut connection.phase else { return None };
        let output = self.driver.output(id)?;
        let mut context = context_of(
            self.now,
            &self.rules,
            &self.shared,
            &self.counters,
            connection.accepted_tick,
            output,
            &mut self.scratch,
        );
        Some(act(session, &mut context))
    }

    fn handle_closed(&mut self, id: ConnectionId, reason: &CloseReason) {
        let address = self.address(id);
        let Some(connection) = self.table.remove(id) else { return };
        self.timers.cancel(id.index);
        if matches!(reason, CloseReason::Requested) || !planted::ADMISSION_KEPT.is_planted() {
            self.shared.connections.fetch_sub(1, Ordering::Relaxed);
        }
        self.counters.connections.set(self.table.len() as u64);
        self.counters.closed.add(1);
        if let CloseReason::Error(_) = reason {
            self.counters.reset_by_peer.add(1);
        }
        self.forget_session(&connection.phase, address, id);
    }

    /// Tells worker and directory that the session of this phase, if it was one, is gone.
    fn forget_session(&mut self, phase: &Phase, address: SessionAddress, id: ConnectionId) {
        let Phase::Chat(session) = phase else { return };
        self.watches.forget(id.index);
        if session.is_registered()
            && let Some((user, _)) = session.identity()
        {
            self.shared.directory.remove(user, self.id, id.index);
            self.counters.sessions.sub(1);
        }
        if let Some(device) = session.device() {
            self.devices.release(device);
        }
        if let Some((key, command)) = session.farewell(address)
            && let Err(command) = self.inputs.backend.submit(key, command)
            && !planted::FAREWELL_LOST.is_planted()
        {
            self.farewells.push_back((key, command));
        }
    }

    fn handle_delivery(&mut self, delivery: Delivery) {
        let Some(address) = delivery.session() else {
            self.counters.delivery(&delivery);
            return self.learn_presence(&delivery);
        };
        let mut id = ConnectionId::from_bits(address.connection);
        if planted::LATE_ANSWER_TAKEN.is_planted() {
            id.generation = self.table.at(id.index).map_or(0, |next| next.generation);
        }
        // A late answer to a session that is gone: its generation tells.
        let Some(connection) = self.table.get(id) else { return };
        let Phase::Chat(session) = &mut connection.phase else { return };
        self.counters.delivery(&delivery);
        if let Delivery::MayWatch { user, may, .. } = delivery {
            return self.learn_sight(id, user, may);
        }
        let was_registered = session.is_registered();
        let outcome = match self.driver.output(id) {
            Some(output) => {
                // The handshake's answer may still be held back for this one; see `hold_accept`.
                if let Some(rare) = &mut connection.rare {
                    output.buffer().append(&mut rare.accept);
                }
                let mut context = context_of(
                    self.now,
                    &self.rules,
                    &self.shared,
                    &self.counters,
                    connection.accepted_tick,
                    output,
                    &mut self.scratch,
                );
                session.handle_delivery(delivery, address, &mut self.entry_json, &mut context)
            }
            None => return,
        };
        let registered_now = !was_registered && session.is_registered();
        if session.waits_for_room() {
            self.awaiting_output.push(id);
        }
        if registered_now && let Some((user, _)) = session.identity() {
            self.shared.directory.insert(user, self.id, id.index);
            self.counters.sessions.add(1);
            self.counters.registered.add(1);
            let deadline = self.liveness_deadline(id);
            self.timers.set(id.index, deadline);
        }
        self.carry_out(id, outcome);
        if registered_now {
            self.go_on(id, Paused::REGISTERING);
        }
    }

    /// Does what a session decided. True when the connection's next bytes may be handled at once.
    fn carry_out(&mut self, id: ConnectionId, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Nothing => true,
            Outcome::Submit(key, command) => self.submit(id, key, command),
            Outcome::Watch(users) => {
                self.watch(id, &users);
                true
            }
            Outcome::Close(code, reason) => {
                self.close_websocket(id, code, reason);
                false
            }
        }
    }

    /// Hands a command to its worker; false when the connection's next bytes must wait.
    fn submit(&mut self, id: ConnectionId, key: Key, command: Command) -> bool {
        let registers = matches!(command, Command::Register(_));
        if registers {
            self.pause(id, Paused::REGISTERING);
        }
        let Some(connection) = self.table.get(id) else { return false };
        // Behind what is held back already, or it would overtake it.
        let taken = if connection.paused.contains(Paused::STALLED) {
            Err(command)
        } else {
            self.inputs.backend.submit(key, command)
        };
        let Err(command) = taken else { return !registers };
        self.counters.worker_queue_full.add(1);
        connection.rare().stalled.push_back((key, command));
        if !connection.paused.contains(Paused::STALLED) {
            self.stalled.push_back(id);
            self.pause(id, Paused::STALLED);
        }
        false
    }

    fn retry_stalled(&mut self) {
        while let Some((key, command)) = self.farewells.pop_front() {
            if let Err(command) = self.inputs.backend.submit(key, command) {
                self.farewells.push_front((key, command));
                break;
            }
        }
        // Each once: those that are refused again go to the back, behind those whose worker has room.
        for _ in 0..self.stalled.len() {
            let Some(id) = self.stalled.pop_front() else { break };
            if self.retry(id) {
                self.go_on(id, Paused::STALLED);
            } else {
                self.stalled.push_back(id);
            }
        }
    }

    /// Submits what a connection holds back; true when nothing is left, or nobody.
    fn retry(&mut self, id: ConnectionId) -> bool {
        let Some(connection) = self.table.get(id) else { return true };
        let Some(rare) = &mut connection.rare else { return true };
        while let Some((key, command)) = rare.stalled.pop_front() {
            if let Err(command) = self.inputs.backend.submit(key, command) {
                rare.stalled.push_front((key, command));
                return false;
            }
        }
        true
    }

    fn handle_timeout(&mut self, index: u32) {
        let Some(connection) = self.table.at(index) else { return };
        let id = ConnectionId { index, generation: connection.generation };
        match &connection.phase {
            Phase::Head => {
                self.counters.handshake_timeouts.add(1);
                if connection.rare.is_some() {
                    self.refuse(id, 408, None, "the request head did not arrive in time");
                } else {
                    self.close_now(id);
                }
            }
            Phase::Chat(session) if session.identity().is_none() => {
                self.close_chat(id, close::HELLO_TIMEOUT);
            }
            Phase::Chat(session)
                if session
                    .expires_seconds()
                    .is_some_and(|end| wall_ms(&self.shared, self.now) / 1000 >= end) =>
            {
                self.close_chat(id, close::TOKEN_EXPIRED);
            }
            Phase::Chat(_) | Phase::Echo => self.check_liveness(id),
            Phase::Lingering => self.close_flushed(id),
            Phase::Http(_) | Phase::Closing => {}
        }
    }

    /// Only what arrives from the client counts as life. A silent one is asked once, then closed.
    fn check_liveness(&mut self, id: ConnectionId) {
        let heartbeat = self.rules.session.heartbeat;
        let Some(connection) = self.table.get(id) else { return };
        let heard = Moment(u64::from(connection.heard_tick) * TICK_NANOS);
        let silent = self.now.since(heard);
        if silent >= heartbeat.mul_f64(self.rules.silent_heartbeats) {
            self.counters.heartbeat_timeouts.add(1);
            match connection.phase {
                Phase::Chat(_) => self.close_chat(id, close::HEARTBEAT_TIMEOUT),
                _ => self.close_websocket(id, CloseCode::GOING_AWAY, "heartbeat timeout"),
            }
            return;
        }
        if silent >= probe_after(heartbeat) && !connection.probed {
            connection.probed = true;
            self.counters.probes.add(1);
            self.release_accept(id);
            if let Some(output) = self.driver.output(id) {
                encode_frame(output.buffer(), Opcode::Ping, b"", None);
            }
        }
        let deadline = self.liveness_deadline(id);
        self.timers.set(id.index, deadline);
    }

    /// When the connection must be looked at: the probe, the end of patience, or the end of its token.
    fn liveness_deadline(&mut self, id: ConnectionId) -> Moment {
        let heartbeat = self.rules.session.heartbeat;
        let patience = heartbeat.mul_f64(self.rules.silent_heartbeats);
        let now = self.now;
        let Some(connection) = self.table.get(id) else { return now };
        let heard = Moment(u64::from(connection.heard_tick) * TICK_NANOS);
        let mut deadline = heard.after(if connection.probed { patience } else { probe_after(heartbeat) });
        if let Phase::Chat(session) = &connection.phase
            && let Some(expires) = session.expires_seconds()
        {
            let left_ms = (expires * 1000).saturating_sub(wall_ms(&self.shared, now));
            deadline = deadline.min(now.after(Duration::from_millis(left_ms)));
        }
        // Ticks are coarse: never in the past, or the wheel would be turned for nothing.
        deadline.max(now.after(TIMER_TICK))
    }

    /// Closes a chat session: close frame, FIN, and a while for the peer to answer.
    fn close_chat(&mut self, id: ConnectionId, why: ChatClose) {
        self.close_websocket(id, CloseCode(why.code), why.reason);
    }

    fn close_websocket(&mut self, id: ConnectionId, code: CloseCode, reason: &str) {
        self.counters.closed_with(code);
        self.release_accept(id);
        if let Some(output) = self.driver.output(id) {
            encode_close(output.buffer(), code, reason, None);
        }
        self.linger(id);
    }

    /// FIN after what is in the output; then waits for the peer's, so that a reset does not overtake our last words.
    fn linger(&mut self, id: ConnectionId) {
        let address = self.address(id);
        let Some(connection) = self.table.get(id) else { return };
        let was_paused = !connection.paused.is_empty();
        let ended = connection.ended;
        connection.rare = None;
        connection.paused = Paused::default();
        let phase = std::mem::replace(&mut connection.phase, Phase::Lingering);
        self.forget_session(&phase, address, id);
        self.driver.shutdown(id);
        if ended {
            self.close_flushed(id);
            return;
        }
        if was_paused {
            self.driver.resume(id);
        }
        self.timers.set(id.index, self.now.after(self.rules.linger));
    }

    /// Closes once the output has gone out.
    fn close_flushed(&mut self, id: ConnectionId) {
        let address = self.address(id);
        let Some(connection) = self.table.get(id) else { return };
        connection.rare = None;
        connection.paused = Paused::default();
        let phase = std::mem::replace(&mut connection.phase, Phase::Closing);
        self.forget_session(&phase, address, id);
        self.timers.cancel(id.index);
        self.driver.close(id);
    }

    fn close_now(&mut self, id: ConnectionId) {
        if let Some(connection) = self.table.get(id) {
            connection.rare = None;
        }
        self.timers.cancel(id.index);
        self.driver.abort(id);
    }
}

/// What a session is told with each call.
fn context_of<'a>(
    now: Moment,
    rules: &'a ShardRules,
    shared: &'a Shared,
    counters: &'a ShardCounters,
    accepted_tick: u32,
    output: &'a mut Output,
    scratch: &'a mut Vec<u8>,
) -> Context<'a> {
    Context {
        now,
        wall_ms: wall_ms(shared, now),
        rules: &rules.session,
        tokens: &*shared.tokens,
        accepted_tick,
        counters,
        unsent_bytes: output.unsent_bytes(),
        out: output.buffer(),
        scratch,
    }
}

fn probe_after(heartbeat: Duration) -> Duration {
    heartbeat.mul_f64(1.5)
}

fn wall_ms(shared: &Shared, now: Moment) -> u64 {
    let monotonic_ms = (now.0 / 1_000_000) as i64;
    (monotonic_ms + shared.wall_offset_ms.load(Ordering::Relaxed)).max(0) as u64
}
