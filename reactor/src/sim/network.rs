//! The simulated network: clock, links, what is due when, and the peers' ends.

use std::cell::{Ref, RefCell, RefMut};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;

use super::fault::{Fault, FaultCounts, Faults};
use super::link::{DriverEnd, Link, Mark, PeerEnd};
use super::random::{Chance, Random};
use super::trace::{Trace, Traced};
use crate::{ConnectionId, Event, Moment};

/// What a peer finds when it looks for bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerRead {
    /// Nothing has come yet.
    Nothing,
    /// So many bytes came and were appended.
    Bytes(usize),
    /// FIN: nothing more will come.
    End,
    /// The connection was reset.
    Reset,
}

/// A network in memory with a virtual clock; a handle that the test keeps while a [`super::SimDriver`] has another.
///
/// Whatever happens follows from the seed, the faults and what the driver's owner and the peers do, in the order in
/// which they do it. Peers never block and never wait by themselves: the test looks after them between turns.
#[derive(Debug, Clone)]
pub struct Network {
    state: Rc<RefCell<State>>,
}

impl Network {
    /// A network without connections.
    #[must_use]
    pub fn new(seed: u64, faults: Faults) -> Self {
        let mut random = Random::new(seed);
        // Not 0: code that takes a moment for "never" should be caught.
        let now = Moment(1 + random.below(1 << 40));
        let state = State {
            now,
            random,
            faults,
            counts: FaultCounts::default(),
            trace: Trace::default(),
            window_bytes: 64 << 10,
            links: Vec::new(),
            over: Vec::new(),
            due: BinaryHeap::new(),
            order: 0,
            listening: false,
            backlog: VecDeque::new(),
            hosts: BTreeSet::new(),
            connecting: BTreeMap::new(),
            arrivals: VecDeque::new(),
        };
        Self { state: Rc::new(RefCell::new(state)) }
    }

    /// The virtual clock. It moves only in [`crate::Driver::turn`].
    #[must_use]
    pub fn now(&self) -> Moment {
        self.state.borrow().now
    }

    /// Bytes that a connection holds in each direction before its sender feels it (64 KiB at first).
    pub fn set_window_bytes(&self, bytes: usize) {
        self.state.borrow_mut().window_bytes = bytes.max(1);
    }

    /// Exchanges the faults, for a test with phases ("and now it all heals").
    pub fn set_faults(&self, faults: Faults) {
        self.state.borrow_mut().faults = faults;
    }

    /// The driver's machine loses its power: peers find their connections reset, and nothing listens any more until another
    /// driver does. The one that was there must not be turned again.
    pub fn cut_power(&self) {
        let mut state = self.state.borrow_mut();
        state.trace(Traced::PowerCut);
        state.stop_listening();
        for number in 0..state.links.len() as u32 {
            if state.link(number).driver_end != DriverEnd::Gone {
                state.forget_connect(number);
                state.driver_leaves(number, true);
            }
        }
    }

    /// How often each kind of fault has happened.
    #[must_use]
    pub fn fault_counts(&self) -> FaultCounts {
        self.state.borrow().counts.clone()
    }

    /// Connections that either end still holds: 0 when everything is over.
    #[must_use]
    pub fn connections(&self) -> usize {
        let state = self.state.borrow();
        state.links.len() - state.over.len()
    }

    /// Two runs with the same hash were the same run: every event with its time and its bytes, and everything that
    /// the driver sent and the peers did, went in.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.state.borrow().trace.hash()
    }

    /// Keeps the last `lines` of the trace for [`Self::trace`]; 0, as at first, keeps none.
    pub fn keep_trace(&self, lines: usize) {
        self.state.borrow_mut().trace.keep(lines);
    }

    /// The end of the trace, a line per step: what to print when a seed has failed.
    #[must_use]
    pub fn trace(&self) -> Vec<String> {
        self.state.borrow().trace.lines()
    }

    /// A peer connects to the driver's listener; `None` when there is none.
    #[must_use]
    pub fn dial(&self) -> Option<SimPeer> {
        let mut state = self.state.borrow_mut();
        if !state.listening {
            return None;
        }
        let link = state.open_link();
        state.link(link).has_peer = true;
        let at = state.lands_at();
        state.schedule(at, link, What::Backlog);
        state.trace(Traced::Dialled { link });
        Some(SimPeer { network: self.clone(), link })
    }

    /// From now on peers wait at this address for the driver to connect; see [`Self::arrival`].
    pub fn open_host(&self, address: SocketAddr) {
        self.state.borrow_mut().hosts.insert(address);
    }

    /// The next connection that the driver made to one of the hosts.
    #[must_use]
    pub fn arrival(&self) -> Option<Arrival> {
        let (link, source, target) = self.state.borrow_mut().arrivals.pop_front()?;
        Some(Arrival { peer: SimPeer { network: self.clone(), link }, source, target })
    }

    /// What the network holds of a connection that the driver has open; `None` when it has no such connection.
    #[must_use]
    pub fn look_inside(&self, id: ConnectionId) -> Option<Inside> {
        let state = self.state.borrow();
        let link = state.links.iter().find(|link| link.driver_end == DriverEnd::Open(id))?;
        // A peer that has closed takes nothing more; the driver hears of it when RST arrives, which may be late.
        let window_bytes = if link.to_peer.reset { 0 } else { state.window_bytes };
        Some(Inside {
            arrived_bytes: link.to_driver.landed(),
            unreceived_bytes: link.to_driver.len(),
            room_bytes: window_bytes.saturating_sub(link.to_peer.len()),
            is_reset: link.to_driver.reset,
        })
    }

    pub(super) fn state(&self) -> Ref<'_, State> {
        self.state.borrow()
    }

    pub(super) fn state_mut(&self) -> RefMut<'_, State> {
        self.state.borrow_mut()
    }
}

/// What a test may know of a connection and its driver cannot: to hold the driver to what it should have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inside {
    /// Bytes that have arrived and were not received.
    pub arrived_bytes: usize,
    /// Those, and what is still on its way from the peer.
    pub unreceived_bytes: usize,
    /// Bytes that a send would be taken of.
    pub room_bytes: usize,
    /// RST has arrived.
    pub is_reset: bool,
}

/// A connection that the driver made.
#[derive(Debug)]
pub struct Arrival {
    /// The end that it arrived at.
    pub peer: SimPeer,
    /// Where it came from.
    pub source: SocketAddr,
    /// The host that it was made to.
    pub target: SocketAddr,
}

/// The other end of a connection. Dropping it closes it in an orderly way (with RST if something was left unread,
/// as the kernel does).
#[derive(Debug)]
pub struct SimPeer {
    network: Network,
    link: u32,
}

impl SimPeer {
    /// Sends bytes, as many as the window takes; 0 when it is full or the connection is gone.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        self.network.state.borrow_mut().peer_writes(self.link, bytes)
    }

    /// Appends everything that has arrived.
    pub fn read(&mut self, into: &mut Vec<u8>) -> PeerRead {
        self.network.state.borrow_mut().peer_reads(self.link, into)
    }

    /// Sends FIN behind what was written.
    pub fn shutdown(&mut self) {
        self.network.state.borrow_mut().peer_shuts(self.link);
    }

    /// Sends RST.
    pub fn reset(self) {
        self.network.state.borrow_mut().peer_leaves(self.link, PeerEnd::Closed, true);
    }

    /// Is gone without a word, like a phone in a tunnel: nothing comes from it and nothing reaches it any more.
    pub fn vanish(self) {
        self.network.state.borrow_mut().peer_leaves(self.link, PeerEnd::Vanished, false);
    }

    /// Cannot read for a while.
    pub fn stall(&mut self, time: Duration) {
        self.network.state.borrow_mut().stall(self.link, time);
    }

    /// Bytes that were written and that the driver's owner has not received.
    #[must_use]
    pub fn unreceived_bytes(&self) -> usize {
        self.network.state.borrow().links[self.link as usize].to_driver.len()
    }
}

impl Drop for SimPeer {
    fn drop(&mut self) {
        let mut state = self.network.state.borrow_mut();
        let link = state.link(self.link);
        if link.peer_end == PeerEnd::Held {
            let unread = link.to_peer.landed() > 0;
            state.peer_leaves(self.link, PeerEnd::Closed, unread);
        }
        state.link(self.link).has_peer = false;
        state.release_if_over(self.link);
    }
}

/// What is to happen at a later time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// Something lands at the driver's end.
    ToDriver,
    /// Something lands at the peer's end.
    ToPeer,
    /// There is room again for what the driver holds back.
    Room,
    /// A connection waits to be accepted.
    Backlog,
    /// A connect of the driver's is decided.
    Connect,
    /// A connection is reset from outside.
    Reset,
    /// The driver's close is over.
    Join,
    /// Nothing: the clock stops here so that somebody can look.
    Nudge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due {
    pub(super) at: Moment,
    order: u64,
    pub(super) link: u32,
    generation: u32,
    pub(super) what: What,
}

/// Stands for no link in what is due.
const NO_LINK: u32 = u32::MAX;

/// How long something is on its way at least and at most.
const LATENCY_NS: (u64, u64) = (5_000, 500_000);

#[derive(Debug)]
pub(super) struct State {
    pub(super) now: Moment,
    pub(super) random: Random,
    pub(super) faults: Faults,
    counts: FaultCounts,
    trace: Trace,
    pub(super) window_bytes: usize,
    links: Vec<Link>,
    /// Links that can be used again.
    over: Vec<u32>,
    due: BinaryHeap<Reverse<Due>>,
    /// What was scheduled first comes first among what is due at the same time.
    order: u64,
    pub(super) listening: bool,
    /// Connections that wait to be accepted.
    pub(super) backlog: VecDeque<u32>,
    hosts: BTreeSet<SocketAddr>,
    /// What will become of connects that are under way.
    connecting: BTreeMap<u32, Result<(SocketAddr, SocketAddr), Errno>>,
    /// Connections that the driver made and nobody has taken: link, source, target.
    arrivals: VecDeque<(u32, SocketAddr, SocketAddr)>,
}

impl State {
    // ---- chance, time, trace ----

    /// Whether this fault happens now; if so, it is counted.
    pub(super) fn strikes(&mut self, fault: Fault, chance: Chance) -> bool {
        let strikes = self.random.happens(chance);
        if strikes {
            self.counts.add(fault);
        }
        strikes
    }

    pub(super) fn count(&mut self, fault: Fault) {
        self.counts.add(fault);
    }

    /// A time up to `within`; short ones of every magnitude are as likely as long ones, because what matters to
    /// one bug happens within microseconds and to another within seconds.
    pub(super) fn some_time(&mut self, within: Duration) -> Duration {
        let most = within.as_nanos() as u64 >> self.random.below(16);
        Duration::from_nanos(self.random.between(1, most.max(1)))
    }

    fn trace(&mut self, traced: Traced) {
        self.trace.note(self.now, traced);
    }

    pub(super) fn trace_event(&mut self, event: &Event) {
        self.trace.note_event(self.now, event);
    }

    fn trace_bytes(&mut self, traced: Traced, bytes: &[u8]) {
        self.trace.note_bytes(self.now, traced, bytes);
    }

    /// When what is sent now arrives.
    pub(super) fn lands_at(&mut self) -> Moment {
        Moment(self.now.0 + self.random.between(LATENCY_NS.0, LATENCY_NS.1))
    }

    pub(super) fn schedule(&mut self, at: Moment, link: u32, what: What) {
        let generation = self.links.get(link as usize).map_or(0, |link| link.generation);
        self.order += 1;
        self.due.push(Reverse(Due { at, order: self.order, link, generation, what }));
    }

    /// Makes the clock stop at some time.
    pub(super) fn nudge(&mut self, at: Moment) {
        self.schedule(at, NO_LINK, What::Nudge);
    }

    /// When the next thing happens that is not about a connection that is long over.
    pub(super) fn next_due(&mut self) -> Option<Moment> {
        while let Some(Reverse(due)) = self.due.peek() {
            if self.concerns_someone(*due) {
                return Some(due.at);
            }
            self.due.pop();
        }
        None
    }

    /// Takes what is due by now, the earliest first.
    pub(super) fn pop_due(&mut self) -> Option<Due> {
        let at = self.next_due()?;
        if at > self.now {
            return None;
        }
        self.due.pop().map(|Reverse(due)| due)
    }

    fn concerns_someone(&self, due: Due) -> bool {
        due.link == NO_LINK || self.links[due.link as usize].generation == due.generation
    }

    // ---- links ----

    pub(super) fn open_link(&mut self) -> u32 {
        if let Some(link) = self.over.pop() {
            self.link(link).driver_end = DriverEnd::Waiting;
            return link;
        }
        self.links.push(Link::new());
        u32::try_from(self.links.len() - 1).expect("there are fewer links than memory for them")
    }

    #[inline]
    pub(super) fn link(&mut self, link: u32) -> &mut Link {
        &mut self.links[link as usize]
    }

    pub(super) fn release_if_over(&mut self, number: u32) {
        let link = &mut self.links[number as usize];
        if link.driver_end == DriverEnd::Gone && !link.has_peer {
            link.renew();
            self.over.push(number);
        }
    }

    /// Lands what is due at one end.
    pub(super) fn land_at_driver(&mut self, link: u32) {
        let keeps_bytes = self.random.below(2) == 0;
        let now = self.now;
        self.link(link).to_driver.land(now, keeps_bytes);
    }

    pub(super) fn land_at_peer(&mut self, number: u32) {
        let now = self.now;
        let link = self.link(number);
        link.to_peer.land(now, true);
        let answered = link.peer_end == PeerEnd::Closed && link.to_peer.landed() > 0 && !link.to_driver.reset;
        if answered {
            link.to_peer.cut(false);
            self.send_to_driver(number, Mark::Rst);
        }
    }

    fn send_to_driver(&mut self, link: u32, mark: Mark) {
        let mut lands_at = self.lands_at();
        if mark == Mark::Fin && self.strikes(Fault::LateFin, self.faults.late_fin) {
            lands_at = lands_at.after(self.some_time(self.faults.late_fin_max));
        }
        let at = self.link(link).to_driver.send(mark, lands_at);
        self.schedule(at, link, What::ToDriver);
    }

    /// Sends FIN or RST to the peer.
    pub(super) fn send_to_peer(&mut self, link: u32, mark: Mark) {
        let lands_at = self.lands_at();
        let at = self.link(link).to_peer.send(mark, lands_at);
        self.schedule(at, link, What::ToPeer);
    }

    /// Puts bytes on the wire to the peer, as many as there is room for; says how many.
    pub(super) fn send_bytes(&mut self, number: u32, bytes: &[u8]) -> usize {
        let window = self.window_bytes;
        if self.link(number).to_peer.reset {
            // The peer is gone and the driver will hear of it; until then the kernel takes what it is given.
            return bytes.len();
        }
        let room = window.saturating_sub(self.link(number).to_peer.len());
        let mut taken = room.min(bytes.len());
        if taken > 0 && self.strikes(Fault::ShortWrite, self.faults.short_write) {
            taken = self.random.below(taken as u64) as usize;
            let at = self.lands_at();
            self.schedule(at, number, What::Room);
        } else if taken < bytes.len() {
            self.link(number).wants_room = true;
        }
        if taken > 0 {
            let lands_at = self.lands_at();
            let at = self.link(number).to_peer.put(&bytes[..taken], lands_at);
            self.schedule(at, number, What::ToPeer);
            self.trace_bytes(Traced::Sent { link: number, bytes: taken }, &bytes[..taken]);
            if self.strikes(Fault::Stalled, self.faults.stalled) {
                let time = self.some_time(self.faults.stalled_max);
                self.stall(number, time);
            }
            self.perhaps_reset(number);
        }
        taken
    }

    fn perhaps_reset(&mut self, link: u32) {
        if self.random.happens(self.faults.reset) {
            let at = self.now.after(self.some_time(self.faults.reset_max));
            self.schedule(at, link, What::Reset);
        }
    }

    /// The driver closes its end: the peer is told, and nothing reaches the driver any more.
    pub(super) fn driver_lets_go(&mut self, number: u32, with_reset: bool) {
        let link = self.link(number);
        if std::mem::replace(&mut link.let_go, true) {
            return;
        }
        // What nobody read makes the kernel say RST instead of FIN (RFC 2525, section 2.17).
        let mark = if with_reset || link.to_driver.landed() > 0 { Mark::Rst } else { Mark::Fin };
        link.to_driver.cut(false);
        if !link.to_peer.reset && (mark == Mark::Rst || !link.to_peer.finished) {
            self.send_to_peer(number, mark);
        }
    }

    /// The driver has nothing to do with this connection any more.
    pub(super) fn driver_leaves(&mut self, number: u32, with_reset: bool) {
        self.driver_lets_go(number, with_reset);
        self.link(number).driver_end = DriverEnd::Gone;
        self.release_if_over(number);
    }

    // ---- the peer's end ----

    fn peer_writes(&mut self, number: u32, bytes: &[u8]) -> usize {
        let window = self.window_bytes;
        let link = self.link(number);
        if link.let_go {
            // Bytes to a socket that is gone are answered with RST.
            if !link.to_peer.reset {
                self.send_to_peer(number, Mark::Rst);
            }
            return 0;
        }
        if link.to_driver.finished {
            return 0;
        }
        let taken = window.saturating_sub(link.to_driver.len()).min(bytes.len());
        if taken > 0 {
            let lands_at = self.lands_at();
            let at = self.link(number).to_driver.put(&bytes[..taken], lands_at);
            self.schedule(at, number, What::ToDriver);
            self.trace_bytes(Traced::PeerWrote { link: number, bytes: taken }, &bytes[..taken]);
            self.perhaps_reset(number);
        }
        taken
    }

    fn peer_reads(&mut self, number: u32, into: &mut Vec<u8>) -> PeerRead {
        let now = self.now;
        let link = self.link(number);
        if link.stalled_until > now && !link.to_peer.reset {
            return PeerRead::Nothing;
        }
        let landed = link.to_peer.landed();
        if landed > 0 {
            let start = into.len();
            into.resize(start + landed, 0);
            link.to_peer.take(&mut into[start..]);
            if std::mem::take(&mut link.wants_room) {
                let at = self.lands_at();
                self.schedule(at, number, What::Room);
            }
            self.trace(Traced::PeerRead { link: number, bytes: landed });
            return PeerRead::Bytes(landed);
        }
        if link.to_peer.reset {
            PeerRead::Reset
        } else if link.to_peer.ended {
            PeerRead::End
        } else {
            PeerRead::Nothing
        }
    }

    fn peer_shuts(&mut self, link: u32) {
        if !self.link(link).to_driver.finished {
            self.trace(Traced::PeerShut { link });
            self.send_to_driver(link, Mark::Fin);
        }
    }

    fn peer_leaves(&mut self, number: u32, end: PeerEnd, with_reset: bool) {
        self.trace(Traced::PeerLeft { link: number, with_reset });
        self.link(number).peer_end = end;
        if end == PeerEnd::Closed && !self.link(number).to_driver.reset {
            if with_reset {
                self.send_to_driver(number, Mark::Rst);
            } else {
                self.peer_shuts(number);
            }
        }
    }

    fn stall(&mut self, number: u32, time: Duration) {
        let until = self.now.after(time);
        let link = self.link(number);
        link.stalled_until = link.stalled_until.max(until);
        self.nudge(until);
    }

    // ---- connects of the driver ----

    /// Begins a connect, whose outcome comes with [`What::Connect`].
    pub(super) fn begin_connect(&mut self, link: u32, source: Option<SocketAddr>, target: SocketAddr) {
        let source = source.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let outcome = if !source.ip().is_loopback() {
            Err(Errno::ADDRNOTAVAIL)
        } else if !self.hosts.contains(&target) {
            Err(Errno::CONNREFUSED)
        } else if self.strikes(Fault::ConnectFailed, self.faults.connect_failed) {
            Err(Errno::TIMEDOUT)
        } else if source.port() == 0 {
            Ok((SocketAddr::new(source.ip(), self.random.between(1024, 65535) as u16), target))
        } else {
            Ok((source, target))
        };
        self.connecting.insert(link, outcome);
        let at = self.lands_at();
        self.schedule(at, link, What::Connect);
    }

    /// What became of a connect; if it succeeded, a peer has it now.
    pub(super) fn end_connect(&mut self, link: u32) -> Result<(), Errno> {
        let (source, target) = self.connecting.remove(&link).unwrap_or(Err(Errno::CONNRESET))?;
        self.link(link).has_peer = true;
        self.arrivals.push_back((link, source, target));
        Ok(())
    }

    /// The driver has closed a connect that was under way.
    pub(super) fn forget_connect(&mut self, link: u32) {
        self.connecting.remove(&link);
    }

    /// Resets a connection from outside.
    pub(super) fn reset(&mut self, number: u32) {
        if matches!(self.link(number).driver_end, DriverEnd::Open(_)) && !self.link(number).to_driver.reset {
            self.count(Fault::Reset);
            let keeps_bytes = self.random.below(2) == 0;
            let link = self.link(number);
            link.to_driver.cut(keeps_bytes);
            link.to_peer.cut(keeps_bytes);
        }
    }

    /// Takes down the listener; who waits there is reset.
    pub(super) fn stop_listening(&mut self) {
        self.listening = false;
        self.backlog.clear();
        for number in 0..self.links.len() as u32 {
            let link = self.link(number);
            if link.driver_end == DriverEnd::Waiting {
                self.driver_leaves(number, true);
            }
        }
    }
}
