//! Byte pipes between a shard, which owns the socket, and hyper, which speaks HTTP on another thread.
//!
//! ```text
//!   shard (one thread, sans-IO)                     │ a thread of the API's runtime
//!   HttpPipe::push(bytes) ──▶ inbound  (≤ 64 KiB*) ─┼─▶ hyper reads
//!   HttpPipe::advance(out) ◀─ outbound (≤ 64 KiB)  ◀┼── hyper writes
//!   HttpEffects::pop ◀────────── "look at this one" ┘
//! ```
//!
//! Both directions are bounded. Inbound: `push` takes whatever the socket brought (* so one receive may stand above
//! the limit) and says [`PipeState::Full`]; the shard then pauses the socket until [`Advance::resume_reading`].
//! Outbound: bytes stay here until the shard, which knows how much its socket can take, fetches them; while they
//! stay, hyper does not write. So neither side ever needs a queue of the other's bytes.
//!
//! The channel to the shard carries no bytes, only names of connections to look at, each at most once, so that as
//! many places as there may be pipes are always enough: sending into it never waits and never fails.
//!
//! **Way back.** A kept-alive connection may ask for a WebSocket later. Then hyper writes nothing, and
//! [`HttpPipe::into_upgrade`] gives the shard every byte from that request's head on, in order, including what was
//! pushed in the meantime: first bytes like those of a fresh connection.
//!
//! The one invariant: bytes come out of each direction in the order in which they went in, each exactly once, until
//! one side says that it is over.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker as TaskWaker};

use holdfast_reactor::Waker;

/// Inbound bytes at which the shard is asked to stop reading.
pub const INBOUND_BYTES: usize = 64 << 10;
/// Inbound bytes at which it is asked to read again.
const INBOUND_RESUME_BYTES: usize = INBOUND_BYTES / 2;
/// Outbound bytes at which hyper has to wait.
pub const OUTBOUND_BYTES: usize = 64 << 10;

const _: () = assert!(INBOUND_RESUME_BYTES < INBOUND_BYTES);

/// A channel that tells one shard which of its pipes to look at. `connections` is `http.connections`.
#[must_use]
pub fn effects(waker: Waker, connections: u32) -> (EffectSender, HttpEffects) {
    let (sender, receiver) = flume::bounded(connections as usize);
    (EffectSender { sender, waker }, HttpEffects { receiver })
}

/// The API's end of the channel to one shard.
#[derive(Debug, Clone)]
pub struct EffectSender {
    sender: flume::Sender<Arc<Pipe>>,
    waker: Waker,
}

/// The shard's end: which pipes to look at.
#[derive(Debug)]
pub struct HttpEffects {
    receiver: flume::Receiver<Arc<Pipe>>,
}

impl HttpEffects {
    /// The next connection whose [`HttpPipe::advance`] has something to say. It may be gone by now; then there is
    /// nothing to do.
    #[must_use]
    pub fn pop(&self) -> Option<u64> {
        let pipe = self.receiver.try_recv().ok()?;
        // From here on the pipe may be announced again. Only here, so that it stands in the channel at most once.
        pipe.announced.store(false, Ordering::SeqCst);
        Some(pipe.connection)
    }

    /// True when nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    /// Waits for [`Self::pop`]; `None` when the API is gone. For a test's shard, which has no driver to wait with.
    #[cfg(test)]
    pub(super) fn wait(&self) -> Option<u64> {
        let pipe = self.receiver.recv().ok()?;
        pipe.announced.store(false, Ordering::SeqCst);
        Some(pipe.connection)
    }
}

/// Whether the shard may go on reading the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum PipeState {
    /// It may.
    Open,
    /// It must not, until [`Advance::resume_reading`].
    Full,
}

/// What [`HttpPipe::advance`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Advance {
    /// The connection was paused and may be read again.
    pub resume_reading: bool,
    /// What comes next.
    pub then: Then,
}

/// What the shard does next with a connection that speaks HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Nothing, until [`HttpEffects::pop`] names it again.
    Wait,
    /// There are more bytes than there was room: call again when the output has drained.
    Drain,
    /// Everything was written: send it, then close.
    Close,
    /// Close at once: the client did not read its answer in time.
    Abort,
    /// The client asks for a WebSocket: [`HttpPipe::into_upgrade`] has its first bytes.
    Upgrade,
}

/// The shard's end of one connection's pipe. Dropping it says that the client is gone.
#[derive(Debug)]
pub struct HttpPipe {
    pipe: Arc<Pipe>,
}

impl HttpPipe {
    /// Hands over bytes that arrived. All are taken.
    pub fn push(&mut self, bytes: &[u8]) -> PipeState {
        let mut state = self.pipe.lock();
        state.inbound.extend(bytes);
        let full = state.inbound.len() >= INBOUND_BYTES;
        state.reading_paused |= full;
        let reader = state.reader.take();
        drop(state);
        wake(reader);
        if full { PipeState::Full } else { PipeState::Open }
    }

    /// Says that the client will send nothing more.
    pub fn end(&mut self) {
        let mut state = self.pipe.lock();
        state.inbound_ended = true;
        let reader = state.reader.take();
        drop(state);
        wake(reader);
    }

    /// Moves at most `room_bytes` of the answer to the end of `output`, and says what comes next. To be called when
    /// [`HttpEffects::pop`] names the connection, and after [`Then::Drain`] when the output has drained. With nothing
    /// unsent the room is at least [`OUTBOUND_BYTES`]; then [`Then::Drain`] means that a drained event will come.
    pub fn advance(&mut self, room_bytes: usize, output: &mut Vec<u8>) -> Advance {
        let mut state = self.pipe.lock();
        let bytes = state.outbound.len().min(room_bytes);
        output.extend(state.outbound.drain(..bytes));
        let writer = if bytes > 0 { state.writer.take() } else { None };
        let resume_reading = state.reading_paused && state.inbound.len() <= INBOUND_RESUME_BYTES;
        state.reading_paused &= !resume_reading;
        let then = match &state.end {
            Some(End::Aborted) => Then::Abort,
            _ if !state.outbound.is_empty() => Then::Drain,
            Some(End::Finished) => Then::Close,
            Some(End::Upgrade(_)) => Then::Upgrade,
            None => Then::Wait,
        };
        drop(state);
        wake(writer);
        Advance { resume_reading, then }
    }

    /// After [`Then::Upgrade`]: the head of the upgrade request and everything that came behind it. The connection is
    /// read again from here on, if it was paused.
    #[must_use]
    pub fn into_upgrade(self) -> Vec<u8> {
        let mut state = self.pipe.lock();
        let mut bytes = match state.end.take() {
            Some(End::Upgrade(bytes)) => bytes,
            other => {
                state.end = other;
                Vec::new()
            }
        };
        // What the shard pushed while the request was on its way back.
        bytes.extend(state.inbound.drain(..));
        bytes
    }
}

impl Drop for HttpPipe {
    fn drop(&mut self) {
        let mut state = self.pipe.lock();
        state.gone = true;
        state.inbound = VecDeque::new();
        state.outbound = VecDeque::new();
        let (reader, writer) = (state.reader.take(), state.writer.take());
        drop(state);
        wake(reader);
        wake(writer);
    }
}

/// What both ends share; hyper's end works on it directly.
pub struct Pipe {
    connection: u64,
    port: EffectSender,
    /// Whether the pipe stands in the channel to its shard.
    announced: AtomicBool,
    state: Mutex<State>,
    /// Given back when both ends have let go and the channel names this pipe no more.
    _permit: Permit,
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipe").field("connection", &self.connection).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    /// From the client, for hyper.
    inbound: VecDeque<u8>,
    /// The client will send nothing more.
    inbound_ended: bool,
    /// The shard was told to stop reading.
    reading_paused: bool,
    /// From hyper, for the client.
    outbound: VecDeque<u8>,
    /// How hyper is done.
    end: Option<End>,
    /// The shard has let go.
    gone: bool,
    /// Hyper waits for inbound bytes.
    reader: Option<TaskWaker>,
    /// Hyper waits for outbound room, or for outbound bytes to be fetched.
    writer: Option<TaskWaker>,
}

#[derive(Debug)]
enum End {
    Finished,
    Aborted,
    /// The head of an upgrade request, and what hyper had read behind it.
    Upgrade(Vec<u8>),
}

/// Why the pipe's other end cannot be read or written any more: the shard has let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

impl Pipe {
    pub(super) fn new(connection: u64, port: EffectSender, permit: Permit) -> (HttpPipe, Arc<Self>) {
        let pipe = Arc::new(Self {
            connection,
            port,
            announced: AtomicBool::new(false),
            state: Mutex::default(),
            _permit: permit,
        });
        (HttpPipe { pipe: Arc::clone(&pipe) }, pipe)
    }

    /// Bytes from the client, at most `limit`, given to `take` in up to two pieces; 0: it will send nothing more.
    pub(super) fn poll_read(
        self: &Arc<Self>,
        context: &mut Context<'_>,
        limit: usize,
        mut take: impl FnMut(&[u8]),
    ) -> Poll<Result<usize, Gone>> {
        let mut state = self.lock();
        if state.gone {
            return Poll::Ready(Err(Gone));
        }
        if state.inbound.is_empty() {
            if state.inbound_ended {
                return Poll::Ready(Ok(0));
            }
            state.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let (first, second) = state.inbound.as_slices();
        let from_first = first.len().min(limit);
        let from_second = second.len().min(limit - from_first);
        take(&first[..from_first]);
        take(&second[..from_second]);
        let bytes = from_first + from_second;
        state.inbound.drain(..bytes);
        if state.inbound.is_empty() {
            // A connection between two requests holds no buffer.
            state.inbound = VecDeque::new();
        }
        let resume = state.reading_paused && state.inbound.len() <= INBOUND_RESUME_BYTES;
        drop(state);
        if resume {
            self.announce();
        }
        Poll::Ready(Ok(bytes))
    }

    /// Takes as many bytes for the client as there is room for, at least one.
    pub(super) fn poll_write(
        self: &Arc<Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, Gone>> {
        let mut state = self.lock();
        if state.gone {
            return Poll::Ready(Err(Gone));
        }
        let room = OUTBOUND_BYTES - state.outbound.len();
        if room == 0 && !bytes.is_empty() {
            state.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let taken = bytes.len().min(room);
        state.outbound.extend(&bytes[..taken]);
        drop(state);
        self.announce();
        Poll::Ready(Ok(taken))
    }

    /// Ready when the shard has fetched everything.
    pub(super) fn poll_fetched(&self, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        let mut state = self.lock();
        if state.gone {
            return Poll::Ready(Err(Gone));
        }
        if state.outbound.is_empty() {
            // A connection between two requests holds no buffer.
            state.outbound = VecDeque::new();
            return Poll::Ready(Ok(()));
        }
        state.writer = Some(context.waker().clone());
        Poll::Pending
    }

    /// Hyper is done; the connection closes when everything is fetched.
    pub(super) fn finish(self: &Arc<Self>) {
        self.end(End::Finished);
    }

    /// The connection closes at once.
    pub(super) fn abort(self: &Arc<Self>) {
        self.end(End::Aborted);
    }

    /// Gives the connection back: `bytes` are the head of an upgrade request and what was read behind it.
    pub(super) fn hand_back(self: &Arc<Self>, bytes: Vec<u8>) {
        self.end(End::Upgrade(bytes));
    }

    fn end(self: &Arc<Self>, end: End) {
        self.lock().end = Some(end);
        self.announce();
    }

    /// Makes the shard look at this pipe.
    fn announce(self: &Arc<Self>) {
        if self.announced.swap(true, Ordering::SeqCst) {
            return;
        }
        // Never full: see the module's doc. Disconnected: the shard has stopped, and nobody looks any more.
        let _ = self.port.sender.try_send(Arc::clone(self));
        self.port.waker.wake();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between lock and unlock can panic but an allocation; and then the process ends.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn wake(waker: Option<TaskWaker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The places for connections that speak HTTP.
#[derive(Debug)]
pub(super) struct Permits {
    free: AtomicU32,
}

impl Permits {
    pub(super) fn new(connections: u32) -> Arc<Self> {
        Arc::new(Self { free: AtomicU32::new(connections) })
    }

    /// A place, if there is one.
    pub(super) fn take(self: &Arc<Self>) -> Option<Permit> {
        let taken = self.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, |free| free.checked_sub(1));
        taken.is_ok().then(|| Permit(Arc::clone(self)))
    }

    pub(super) fn free(&self) -> u32 {
        self.free.load(Ordering::Acquire)
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct Permit(Arc<Permits>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests;
