//! What a chat asks of its books, whoever talks to whom.
//!
//! The books know what was sent and what is owed; the chat knows connections, refusals and time. Between them goes
//! nothing but members, numbers and frames.

use holdfast_protocol::chat::{self, client_frame};
use holdfast_reactor::Moment;

use super::{Counts, Settlement};
use crate::wire::RawEvent;

/// Where a member's device is in its inbox.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place {
    /// The last `rev` that came.
    pub last_rev: u64,
    /// The last `rev` that the server was told of.
    pub acked_rev: u64,
    /// When it was told.
    pub acked_at: Moment,
    /// A `welcome` has come: `last_rev` means something.
    pub registered: bool,
}

impl Place {
    /// An inbox's `rev`s rise by one.
    pub fn step(&mut self, rev: u64, counts: &mut Counts) {
        let expected = self.last_rev + 1;
        if rev < expected {
            counts.revs_repeated += 1;
            return;
        }
        counts.revs_missing += rev - expected;
        self.last_rev = rev;
    }
}

/// The number of the request that makes a member's group. Messages are numbered far below it.
pub const CREATION: u32 = u32::MAX;

/// See the module's doc. `users` says which user a member (of all threads') is.
pub trait Ledger: Sized + Send + 'static {
    /// True when [`Self::raw_event`] is worth calling.
    const READS_RAW: bool = false;

    /// Where a member is in its inbox.
    fn place(&mut self, member: u32) -> &mut Place;

    /// True when the member may send another message.
    fn has_room(&self, member: u32) -> bool;

    /// Enters a new message and gives its number.
    fn enter(&mut self, member: u32, intended: Moment) -> u32;

    /// The frame that a number of this member's stands for, the same however often it is asked for.
    fn request(
        &self,
        member: u32,
        number: u32,
        intended: Moment,
        body_bytes: usize,
        users: impl Fn(u32) -> u64,
    ) -> client_frame::Frame;

    /// What of this member the server has not answered, the oldest first.
    fn unacked(&self, member: u32) -> Vec<(u32, Moment)>;

    /// When what the server has not answered ought to have been sent; `None`: it has been answered.
    fn intended(&self, member: u32, number: u32) -> Option<Moment>;

    /// The number behind a `clientId`, if this member gave it in this run.
    fn number(&self, member: u32, client_id: &str) -> Option<u32>;

    /// The server accepted something.
    fn accepted(&mut self, member: u32, accepted: &chat::Accepted, now: Moment);

    /// The server refused something for now: it will be sent again, perhaps after later ones.
    fn deferred(&mut self, member: u32);

    /// The server refused something for good.
    fn refused(&mut self, member: u32, error: &chat::Error);

    /// An inbox entry came.
    fn event(&mut self, member: u32, event: &chat::Event, now: Moment, users: impl Fn(u32) -> u64);

    /// An inbox entry came, as protobuf. False: it is not taken, and has to be decoded.
    fn raw_event(
        &mut self,
        _member: u32,
        _event: RawEvent<'_>,
        _now: Moment,
        _users: impl Fn(u32) -> u64,
    ) -> bool {
        false
    }

    /// The next member that has a group to make, if there is one and not too many are being made; its request is
    /// [`CREATION`].
    fn next_creation(&mut self) -> Option<u32> {
        None
    }

    /// Why what has to stand before the first message will never stand, if so.
    fn broken(&self) -> Option<&str> {
        None
    }

    /// What was counted.
    fn counts(&mut self) -> &mut Counts;

    /// Messages sent.
    fn sent(&self) -> u64;

    /// Events that arrived, as progress and rates count them.
    fn arrived(&self) -> u64;

    /// What is still expected. May be negative for one thread; the sum over all threads is 0 when all is through.
    fn outstanding(&self) -> i64;

    /// Closes the books of all threads.
    fn settle(threads: Vec<Self>) -> Settlement;
}
