//! Turns a driver until something is the case, and holds every event against the rules that apply always.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_reactor::{Buffer, CloseReason, ConnectionId, Driver as _, DriverOptions, Event, Moment};

use crate::world::{Incoming, Peer as _, World};

/// How long a body may take by the driver's clock. A driver that keeps the contract needs milliseconds; this is
/// what a broken one, or a machine that stands still, gets before the test says what was missing.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one turn may wait while a peer may have something to do.
const STEP: Duration = Duration::from_millis(2);

/// What is known about one connection.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) received: Vec<u8>,
    pub(crate) receives: usize,
    pub(crate) ends: usize,
    pub(crate) drains: usize,
    pub(crate) closed: Option<Outcome>,
    /// The owner has called `close` or `abort`, before the present turn.
    let_go: bool,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Requested,
    Error,
    ConnectFailed,
}

/// A world, and what its driver has told so far.
pub(crate) struct Harness<W: World> {
    pub(crate) world: W,
    options: DriverOptions,
    pub(crate) known: BTreeMap<ConnectionId, Known>,
    /// In the order in which they came, and taken from here by `accept`.
    accepted: Vec<ConnectionId>,
    connected: Vec<ConnectionId>,
    /// Called `connect` for, and heard nothing of yet; true when they were closed since.
    connecting: BTreeMap<ConnectionId, bool>,
    /// While set, buffers are kept instead of being given back.
    pub(crate) hoard: Option<Vec<(ConnectionId, Buffer)>>,
    log: Vec<String>,
}

impl<W: World> Harness<W> {
    pub(crate) fn new(make: impl FnOnce(DriverOptions) -> W, options: DriverOptions) -> Self {
        Self {
            world: make(options.clone()),
            options,
            known: BTreeMap::new(),
            accepted: Vec::new(),
            connected: Vec::new(),
            connecting: BTreeMap::new(),
            hoard: None,
            log: Vec::new(),
        }
    }

    pub(crate) fn driver(&mut self) -> &mut W::Driver {
        self.world.driver()
    }

    pub(crate) fn receive_buffer_bytes(&self) -> usize {
        self.options.receive_buffer_bytes
    }

    /// One turn; every event is checked and noted.
    pub(crate) fn turn(&mut self, until: Option<Moment>) {
        let mut events = Vec::new();
        let before = self.driver().now();
        self.driver().turn(until, &mut events).expect("the driver goes on");
        assert!(self.driver().now() >= before, "the clock went backwards");
        for event in events {
            self.note(event);
        }
    }

    fn note(&mut self, event: Event) {
        self.log.push(match &event {
            Event::Received(id, buffer) => format!("Received({id:?}, {} bytes)", buffer.len()),
            event => format!("{event:?}"),
        });
        match event {
            Event::Accepted(id) => {
                self.open(id);
                self.accepted.push(id);
            }
            Event::Connected(id) => {
                self.expect_connecting(id);
                self.open(id);
                self.connected.push(id);
            }
            Event::Received(id, buffer) => {
                let limit = self.options.receive_buffer_bytes;
                assert!((1..=limit).contains(&buffer.len()), "a receive of {} bytes", buffer.len());
                let known = self.alive(id);
                assert_eq!(known.ends, 0, "bytes after FIN");
                known.received.extend_from_slice(&buffer);
                known.receives += 1;
                if let Some(hoard) = &mut self.hoard {
                    hoard.push((id, buffer));
                }
            }
            Event::EndOfStream(id) => {
                let known = self.alive(id);
                known.ends += 1;
                assert_eq!(known.ends, 1, "FIN reported twice");
            }
            Event::Drained(id) => self.alive(id).drains += 1,
            Event::Closed(id, CloseReason::ConnectFailed(_)) => {
                self.expect_connecting(id);
                let known = Known { closed: Some(Outcome::ConnectFailed), ..Known::default() };
                assert!(self.known.insert(id, known).is_none(), "{id:?} failed twice");
            }
            Event::Closed(id, reason) => {
                let requested = matches!(reason, CloseReason::Requested);
                if let Some(let_go) = self.connecting.remove(&id) {
                    // Closed by its owner before anything became of it.
                    assert!(requested, "a connect fails with ConnectFailed");
                    self.open(id);
                    self.alive(id).let_go = let_go;
                }
                let known =
                    self.known.get_mut(&id).unwrap_or_else(|| panic!("{id:?} closed but never opened"));
                assert_eq!(known.closed, None, "{id:?} closed twice");
                assert!(known.let_go || !requested, "{id:?}: nobody requested that");
                known.closed = Some(if requested { Outcome::Requested } else { Outcome::Error });
            }
            Event::AcceptFailed(error) => panic!("accepting failed: {error}"),
        }
    }

    fn open(&mut self, id: ConnectionId) {
        let slot_in_use =
            self.known.iter().any(|(other, known)| other.index == id.index && known.closed.is_none());
        assert!(!slot_in_use, "{id:?}: its slot is in use");
        assert!(self.known.insert(id, Known::default()).is_none(), "{id:?} opened twice");
    }

    fn expect_connecting(&mut self, id: ConnectionId) {
        match self.connecting.remove(&id) {
            Some(let_go) => assert!(!let_go, "an event of {id:?} after close()"),
            None => panic!("{id:?} was not connecting"),
        }
    }

    /// What is known of a connection that events may come from.
    fn alive(&mut self, id: ConnectionId) -> &mut Known {
        let known =
            self.known.get_mut(&id).unwrap_or_else(|| panic!("an event of {id:?}, which was never opened"));
        assert_eq!(known.closed, None, "an event of {id:?} after Closed");
        assert!(!known.let_go, "an event of {id:?} after close()");
        known
    }

    /// Turns until `done` gives something; says what came instead if it does not.
    pub(crate) fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let give_up = self.driver().now().after(PATIENCE);
        loop {
            if let Some(found) = done(self) {
                return found;
            }
            let now = self.driver().now();
            if now >= give_up {
                let recent = self.log.len().saturating_sub(40);
                panic!("waited in vain until {what}; the last events:\n{}", self.log[recent..].join("\n"));
            }
            self.turn(Some(now.after(STEP)));
        }
    }

    /// Turns a few times in which nothing in particular is to happen.
    pub(crate) fn settle(&mut self) {
        let end = self.driver().now().after(10 * STEP);
        while self.driver().now() < end {
            self.turn(Some(end));
        }
    }

    /// A peer connects and the driver accepts it.
    pub(crate) fn pair(&mut self) -> (W::Peer, ConnectionId) {
        let peer = self.world.dial().expect("the driver listens");
        let id = self.accept();
        (peer, id)
    }

    pub(crate) fn accept(&mut self) -> ConnectionId {
        self.until("a connection is accepted", |harness| {
            (!harness.accepted.is_empty()).then(|| harness.accepted.remove(0))
        })
    }

    /// Connections that were accepted and not asked for with [`Self::accept`].
    pub(crate) fn accepted_count(&self) -> usize {
        self.accepted.len()
    }

    pub(crate) fn connect(
        &mut self,
        source: Option<std::net::SocketAddr>,
        to: std::net::SocketAddr,
    ) -> ConnectionId {
        let id = self.driver().connect(source, to).expect("a slot is free");
        assert!(!self.known.contains_key(&id), "{id:?} was used before");
        assert!(self.connecting.insert(id, false).is_none(), "{id:?} is connecting already");
        id
    }

    /// Waits until the driver says that the connect has succeeded.
    pub(crate) fn connected(&mut self, id: ConnectionId) {
        self.until("the connect succeeds", |harness| harness.connected.contains(&id).then_some(()));
    }

    /// Appends to a connection's output.
    pub(crate) fn send(&mut self, id: ConnectionId, bytes: &[u8]) {
        let output = self.driver().output(id).unwrap_or_else(|| panic!("{id:?} takes output"));
        output.buffer().extend_from_slice(bytes);
    }

    pub(crate) fn close(&mut self, id: ConnectionId) {
        self.driver().close(id);
        self.let_go(id);
    }

    pub(crate) fn abort(&mut self, id: ConnectionId) {
        self.driver().abort(id);
        self.let_go(id);
    }

    fn let_go(&mut self, id: ConnectionId) {
        if let Some(known) = self.known.get_mut(&id) {
            known.let_go = true;
        }
        if let Some(let_go) = self.connecting.get_mut(&id) {
            *let_go = true;
        }
    }

    /// What is known of a connection.
    pub(crate) fn of(&self, id: ConnectionId) -> &Known {
        &self.known[&id]
    }

    pub(crate) fn is_closed(&self, id: ConnectionId) -> bool {
        self.known.get(&id).is_some_and(|known| known.closed.is_some())
    }

    pub(crate) fn closed(&mut self, id: ConnectionId) -> Outcome {
        self.until("the connection is closed", |harness| {
            harness.known.get(&id).and_then(|known| known.closed)
        })
    }

    /// Waits until this connection has brought `bytes` in all, and compares.
    pub(crate) fn receive(&mut self, id: ConnectionId, bytes: &[u8]) {
        self.until("all bytes have come", |harness| {
            (harness.of(id).received.len() >= bytes.len()).then_some(())
        });
        assert_same(&self.of(id).received, bytes);
    }

    /// Writes all of it, however often the driver has to turn for that.
    pub(crate) fn write_all(&mut self, peer: &mut W::Peer, bytes: &[u8]) {
        let mut written = 0;
        self.until("the peer has written everything", |_| {
            written += peer.write(&bytes[written..]);
            (written == bytes.len()).then_some(())
        });
    }

    /// Reads until the peer has exactly this much.
    pub(crate) fn read_exactly(&mut self, peer: &mut W::Peer, bytes: &[u8]) {
        let mut read = Vec::new();
        self.until("the peer has read everything", |_| {
            match peer.read(&mut read) {
                Incoming::Bytes | Incoming::Nothing => {}
                other => panic!("{other:?} after {} of {} bytes", read.len(), bytes.len()),
            }
            (read.len() >= bytes.len()).then_some(())
        });
        assert_same(&read, bytes);
    }

    /// Reads to the end; what came, and how it ended.
    pub(crate) fn read_to_end(&mut self, peer: &mut W::Peer) -> (Vec<u8>, Incoming) {
        let mut read = Vec::new();
        let end = self.until("the stream to the peer ends", |_| match peer.read(&mut read) {
            Incoming::Bytes | Incoming::Nothing => None,
            end => Some(end),
        });
        (read, end)
    }
}

/// Compares without printing megabytes.
pub(crate) fn assert_same(left: &[u8], right: &[u8]) {
    if left != right {
        let at = left.iter().zip(right).position(|(left, right)| left != right);
        panic!("{} bytes differ from {} bytes, first at {at:?}", left.len(), right.len());
    }
}

/// Bytes of which no two stretches are alike, so that a lost, doubled or exchanged one shows.
pub(crate) fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut pattern = Vec::with_capacity(bytes + 8);
    while pattern.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        pattern.extend_from_slice(&state.to_le_bytes());
    }
    pattern.truncate(bytes);
    pattern
}
