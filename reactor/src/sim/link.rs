//! One simulated TCP connection: two wires, and who holds their ends.

use std::collections::VecDeque;

use crate::{ConnectionId, Moment};

/// One direction of a connection: bytes in order, of which some are still on their way.
#[derive(Debug, Default)]
pub(super) struct Wire {
    /// What was put in and not taken out.
    bytes: VecDeque<u8>,
    /// How many of `bytes` have landed.
    landed: usize,
    /// What is on its way, in order, with the time at which it lands.
    flight: VecDeque<(Moment, Mark)>,
    /// FIN was put in: no more bytes.
    pub(super) finished: bool,
    /// FIN has landed: nothing follows what is in `bytes`.
    pub(super) ended: bool,
    /// RST has landed.
    pub(super) reset: bool,
}

/// What travels along a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Bytes(usize),
    Fin,
    Rst,
}

impl Wire {
    /// Bytes that wait to be taken out, landed or not: what fills the receiver's window and the sender's buffer.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that can be taken out now.
    pub(super) const fn landed(&self) -> usize {
        self.landed
    }

    /// Puts bytes in; says when they land, which is not before what was put in earlier.
    pub(super) fn put(&mut self, bytes: &[u8], lands_at: Moment) -> Moment {
        debug_assert!(!self.finished, "bytes after FIN");
        self.bytes.extend(bytes);
        self.send(Mark::Bytes(bytes.len()), lands_at)
    }

    /// Puts FIN or RST behind what was put in earlier; says when it lands.
    pub(super) fn send(&mut self, mark: Mark, lands_at: Moment) -> Moment {
        let lands_at = self.flight.back().map_or(lands_at, |(last, _)| lands_at.max(*last));
        self.finished |= !matches!(mark, Mark::Bytes(_));
        self.flight.push_back((lands_at, mark));
        lands_at
    }

    /// Lands what is due. When RST lands, what was not read yet may be lost with it.
    pub(super) fn land(&mut self, now: Moment, reset_keeps_bytes: bool) {
        while let Some((_, mark)) = self.flight.pop_front_if(|(lands_at, _)| *lands_at <= now) {
            match mark {
                Mark::Bytes(count) => self.landed += count,
                Mark::Fin => self.ended = true,
                Mark::Rst => self.cut(reset_keeps_bytes),
            }
        }
    }

    /// Resets this direction here and now.
    pub(super) fn cut(&mut self, keeps_bytes: bool) {
        self.reset = true;
        self.finished = true;
        self.flight.clear();
        let kept = if keeps_bytes { self.landed } else { 0 };
        self.bytes.truncate(kept);
        self.landed = kept;
    }

    /// Takes out landed bytes.
    pub(super) fn take(&mut self, into: &mut [u8]) {
        debug_assert!(into.len() <= self.landed, "bytes that have not landed");
        let (front, back) = self.bytes.as_slices();
        let of_front = front.len().min(into.len());
        into[..of_front].copy_from_slice(&front[..of_front]);
        let of_back = into.len() - of_front;
        into[of_front..].copy_from_slice(&back[..of_back]);
        self.bytes.drain(..into.len());
        self.landed -= into.len();
    }

    /// Forgets everything, keeping the memory for the next connection.
    fn clear(&mut self) {
        self.bytes.clear();
        self.flight.clear();
        (self.landed, self.finished, self.ended, self.reset) = (0, false, false, false);
    }
}

/// Who holds the driver's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DriverEnd {
    /// Nobody yet: the connection waits to be accepted.
    Waiting,
    Open(ConnectionId),
    Gone,
}

/// Who holds the peer's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PeerEnd {
    /// The test does.
    Held,
    /// Closed: whatever arrives there is answered with RST.
    Closed,
    /// Gone without a word: whatever arrives there disappears.
    Vanished,
}

/// One connection as the network sees it.
#[derive(Debug)]
pub(super) struct Link {
    /// How often this record was used before, so that what was due for its predecessor is not taken for its own.
    pub(super) generation: u32,
    pub(super) driver_end: DriverEnd,
    /// The driver has closed its end, though it may not have said so yet.
    pub(super) let_go: bool,
    pub(super) peer_end: PeerEnd,
    /// The test has a handle for the peer's end, or may still get one.
    pub(super) has_peer: bool,
    pub(super) to_driver: Wire,
    pub(super) to_peer: Wire,
    /// The driver waits for room in `to_peer`.
    pub(super) wants_room: bool,
    /// The peer cannot read until then.
    pub(super) stalled_until: Moment,
}

impl Link {
    pub(super) fn new() -> Self {
        Self {
            generation: 0,
            driver_end: DriverEnd::Waiting,
            let_go: false,
            peer_end: PeerEnd::Held,
            has_peer: false,
            to_driver: Wire::default(),
            to_peer: Wire::default(),
            wants_room: false,
            stalled_until: Moment(0),
        }
    }

    /// Makes the record fit for the next connection.
    pub(super) fn renew(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.driver_end = DriverEnd::Gone;
        self.let_go = false;
        self.peer_end = PeerEnd::Held;
        self.has_peer = false;
        self.to_driver.clear();
        self.to_peer.clear();
        self.wants_room = false;
        self.stalled_until = Moment(0);
    }
}
