//! A driver under watch: what it tells, and what it ought to have done, held against its contract at every turn.
//!
//! The shard sees a driver like any other. Beside it this one keeps what a test may know: which connections are open,
//! what their owner asked for, and what the network holds for them.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use holdfast_reactor::sim::{Network, SimDriver};
use holdfast_reactor::{
    CloseReason, ConnectionId, Driver, DriverKind, Event, Moment, Output, ReactorError, Waker,
};

use crate::truth::{Broken, Invariant, ensure};

/// So much waiting time is nobody's fault: late reads and missing buffers come in rows.
const PATIENCE: Duration = Duration::from_secs(3);
/// What one turn adds to a waiting time at most: a clock that jumps is not a driver that sleeps.
const LONGEST_TURN: Duration = Duration::from_millis(100);

/// See the module's doc.
#[derive(Debug)]
pub(crate) struct Watched {
    driver: SimDriver,
    network: Network,
    /// By slot.
    open: BTreeMap<u32, Open>,
    /// The last generation of each slot.
    generations: BTreeMap<u32, u32>,
    broken: Option<Broken>,
    turned: Moment,
    pub(crate) events: u64,
}

#[derive(Debug)]
struct Open {
    id: ConnectionId,
    paused: bool,
    ended: bool,
    /// The owner has asked to close.
    let_go: bool,
    /// When the owner asked for FIN.
    shut_at: Option<Moment>,
    received: bool,
    unsent_bytes: usize,
    /// How long there has been something to read, and nothing was; and the same for sending.
    unread_for: Duration,
    unsent_for: Duration,
    /// How long it has been paused, and not for the sake of a slow peer.
    paused_for: Duration,
}

impl Watched {
    pub(crate) fn new(driver: SimDriver, network: &Network) -> Self {
        let turned = driver.now();
        Self {
            driver,
            network: network.clone(),
            open: BTreeMap::new(),
            generations: BTreeMap::new(),
            broken: None,
            turned,
            events: 0,
        }
    }

    pub(crate) fn listen_in_simulation(&mut self) {
        self.driver.listen_in_simulation();
    }

    /// What was broken in the turns so far; and what the owner has left undone: no more than so much output may wait
    /// for a peer, and a connection that was shut down must be closed after so long.
    pub(crate) fn verdict(&mut self, most_unsent_bytes: usize, linger: Duration) -> Result<(), Broken> {
        if let Some(broken) = self.broken.take() {
            return Err(broken);
        }
        let now = self.driver.now();
        for open in self.open.values().filter(|open| !open.let_go) {
            let unsent_bytes = self.driver.unsent_bytes(open.id);
            ensure(Invariant::Bounded, unsent_bytes <= most_unsent_bytes, || {
                format!("{unsent_bytes} bytes wait for the peer of {:?}", open.id)
            })?;
            // Deadlines are kept to a tick of 100 ms.
            let late = open.shut_at.filter(|at| now > at.after(linger + Duration::from_millis(200)));
            ensure(Invariant::Deadlines, late.is_none(), || {
                format!("{:?} was shut down and lingers on", open.id)
            })?;
        }
        Ok(())
    }

    fn open(&mut self, id: ConnectionId) -> Option<&mut Open> {
        self.open.get_mut(&id.index).filter(|open| open.id == id)
    }

    /// Takes an event of a connection that is open and not let go of.
    fn note(&mut self, event: &Event) -> Result<(), Broken> {
        let rule = Invariant::Driver;
        match event {
            &Event::Accepted(id) => {
                let fresh = self.generations.insert(id.index, id.generation) < Some(id.generation);
                ensure(rule, fresh, || format!("{id:?} was given out before"))?;
                let before = self.open.insert(id.index, Open::new(id));
                ensure(rule, before.is_none(), || format!("{id:?} was accepted into a slot in use"))
            }
            Event::Received(id, _) => {
                let open = self.live(*id)?;
                ensure(rule, !open.paused, || format!("{id:?} was read while paused"))?;
                ensure(rule, !open.ended, || format!("bytes of {id:?} came after its end"))?;
                let again = std::mem::replace(&mut open.received, true);
                ensure(rule, !again, || format!("{id:?} was read twice in a turn"))
            }
            &Event::EndOfStream(id) => {
                let inside = self.network.look_inside(id);
                let open = self.live(id)?;
                let again = std::mem::replace(&mut open.ended, true);
                ensure(rule, !again, || format!("the end of {id:?} came twice"))?;
                let left = inside.map_or(0, |inside| inside.unreceived_bytes);
                ensure(rule, left == 0, || {
                    format!("the end of {id:?} came before the last {left} bytes that its peer sent")
                })
            }
            &Event::Drained(id) => {
                let unsent = self.driver.unsent_bytes(id);
                self.live(id)?;
                ensure(rule, unsent == 0, || format!("{id:?} has drained but for {unsent} bytes"))
            }
            Event::Closed(id, reason) => {
                let open = self.open(*id).map(|open| open.let_go);
                let asked = matches!(reason, CloseReason::Requested);
                ensure(rule, open == Some(asked), || format!("{id:?} has closed: {reason:?}, {open:?}"))?;
                self.open.remove(&id.index);
                Ok(())
            }
            Event::AcceptFailed(_) => Ok(()),
            Event::Connected(id) => Err(rule.is_broken(format!("nobody asked for {id:?} to be connected"))),
        }
    }

    fn live(&mut self, id: ConnectionId) -> Result<&mut Open, Broken> {
        self.open(id)
            .filter(|open| !open.let_go)
            .ok_or_else(|| Invariant::Driver.is_broken(format!("an event of {id:?}, which is not open")))
    }

    /// Whatever can move must move before long.
    fn check_progress(&mut self) -> Result<(), Broken> {
        let now = self.driver.now();
        let passed = now.since(std::mem::replace(&mut self.turned, now)).min(LONGEST_TURN);
        for open in self.open.values_mut() {
            let received = std::mem::take(&mut open.received);
            let Some(inside) = self.network.look_inside(open.id).filter(|_| !open.let_go) else { continue };
            let readable = inside.is_reset || (inside.arrived_bytes > 0 && !open.paused);
            open.unread_for = if readable && !received { open.unread_for + passed } else { Duration::ZERO };
            ensure(Invariant::Progress, open.unread_for < PATIENCE, || {
                format!("{:?} is not read: {inside:?}", open.id)
            })?;
            let unsent_bytes = self.driver.unsent_bytes(open.id);
            let moved = std::mem::replace(&mut open.unsent_bytes, unsent_bytes) != unsent_bytes;
            let sendable = unsent_bytes > 0 && inside.room_bytes > 0;
            open.unsent_for = if sendable && !moved { open.unsent_for + passed } else { Duration::ZERO };
            ensure(Invariant::Progress, open.unsent_for < PATIENCE, || {
                format!("{unsent_bytes} bytes of {:?} are not sent: {inside:?}", open.id)
            })?;
            let waits = open.paused && unsent_bytes == 0;
            open.paused_for = if waits { open.paused_for + passed } else { Duration::ZERO };
            ensure(Invariant::Progress, open.paused_for < PATIENCE, || {
                format!("{:?} is paused and nothing is in its way: {inside:?}", open.id)
            })?;
        }
        Ok(())
    }
}

impl Open {
    fn new(id: ConnectionId) -> Self {
        Self {
            id,
            paused: false,
            ended: false,
            let_go: false,
            shut_at: None,
            received: false,
            unsent_bytes: 0,
            unread_for: Duration::ZERO,
            unsent_for: Duration::ZERO,
            paused_for: Duration::ZERO,
        }
    }
}

impl Driver for Watched {
    fn kind(&self) -> DriverKind {
        self.driver.kind()
    }

    fn now(&self) -> Moment {
        self.driver.now()
    }

    fn waker(&self) -> Waker {
        self.driver.waker()
    }

    fn listen(&mut self, listener: TcpListener) -> Result<(), ReactorError> {
        self.driver.listen(listener)
    }

    fn stop_listening(&mut self) {
        self.driver.stop_listening();
    }

    fn connect(
        &mut self,
        source: Option<SocketAddr>,
        target: SocketAddr,
    ) -> Result<ConnectionId, ReactorError> {
        self.driver.connect(source, target)
    }

    fn output(&mut self, connection: ConnectionId) -> Option<&mut Output> {
        self.driver.output(connection)
    }

    fn unsent_bytes(&self, connection: ConnectionId) -> usize {
        self.driver.unsent_bytes(connection)
    }

    fn held_back_bytes(&self) -> usize {
        self.driver.held_back_bytes()
    }

    fn pause(&mut self, connection: ConnectionId) {
        if let Some(open) = self.open(connection) {
            open.paused = true;
        }
        self.driver.pause(connection);
    }

    fn resume(&mut self, connection: ConnectionId) {
        if let Some(open) = self.open(connection) {
            open.paused = false;
        }
        self.driver.resume(connection);
    }

    fn shutdown(&mut self, connection: ConnectionId) {
        let now = self.driver.now();
        if let Some(open) = self.open(connection) {
            open.shut_at.get_or_insert(now);
        }
        self.driver.shutdown(connection);
    }

    fn close(&mut self, connection: ConnectionId) {
        if let Some(open) = self.open(connection) {
            open.let_go = true;
        }
        self.driver.close(connection);
    }

    fn abort(&mut self, connection: ConnectionId) {
        if let Some(open) = self.open(connection) {
            open.let_go = true;
        }
        self.driver.abort(connection);
    }

    fn connections(&self) -> usize {
        self.driver.connections()
    }

    fn turn(&mut self, until: Option<Moment>, events: &mut Vec<Event>) -> Result<(), ReactorError> {
        let before = events.len();
        self.driver.turn(until, events)?;
        self.events += (events.len() - before) as u64;
        for event in &events[before..] {
            if let Err(broken) = self.note(event) {
                self.broken.get_or_insert(broken);
            }
        }
        if let Err(broken) = self.check_progress() {
            self.broken.get_or_insert(broken);
        }
        Ok(())
    }
}
