//! What a connection *does* once it is up: small state machines over the [`Fleet`].
//!
//! A scenario decides, the engine acts: it is told what came, and says what to send, when it wants its next turn,
//! and what becomes of a member whose connection has ended. It knows no socket and no clock.

mod arrivals;
pub mod autobahn;
pub mod books;
pub mod chat;
pub mod clients;
pub mod connect;
pub mod echo;
pub mod fill;
pub mod hold;
pub mod login;
pub mod presence;
pub mod slow;
pub mod sync;

use holdfast_protocol::ws::Opcode;
use holdfast_reactor::{Driver, Moment};

use crate::engine::{Ended, Fleet, Gauges, Next};

/// What the coordinator tells the engines, in this order; each may be left out. After `Watch` it may begin again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// All are up: do what has to be done before the first message.
    Prepare,
    /// All are up: begin with the messages.
    Begin,
    /// The warm-up is over: forget what was measured so far.
    Measure,
    /// Send nothing new; wait for what is under way.
    Quiesce,
    /// Who watches others says so now.
    Watch,
    /// Who had stopped reading reads again.
    Read,
    /// Connections are about to be closed by the server: that is no loss.
    ExpectClose,
    /// Close all connections.
    Close,
    /// Stop at once.
    Stop,
}

/// See the module's doc.
pub trait Scenario {
    /// What it found out, for the report.
    type Report: Send + 'static;

    /// Appends the token for this member's handshake to `token`, if it logs in that way.
    fn authorize(&mut self, _member: u32, _token: &mut String) {}

    /// The request target of this member's handshake, when it is not that of the URL.
    fn path(&self, _member: u32) -> Option<String> {
        None
    }

    /// True for a scenario whose members speak WebSocket themselves: it hears of [connections](Self::connected) and
    /// [bytes](Self::bytes) instead of upgrades and messages, and writes to [`Fleet::output`].
    const SPEAKS_BYTES: bool = false;

    /// A member's TCP connection stands. It must be brought [up](Fleet::up) now or later.
    fn connected<D: Driver>(&mut self, _fleet: &mut Fleet<D>, _member: u32) {}

    /// A member got bytes.
    fn bytes<D: Driver>(&mut self, _fleet: &mut Fleet<D>, _member: u32, _bytes: &mut [u8]) {}

    /// A member's connection is upgraded. It must be brought [up](Fleet::up) now or later.
    fn opened<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32);

    /// A member got a whole message.
    fn message<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, opcode: Opcode, payload: &[u8]);

    /// A member's connection has ended; `was_up` says whether it had come up.
    fn closed<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32, why: &Ended, was_up: bool) -> Next;

    /// An order came.
    fn order<D: Driver>(&mut self, _fleet: &mut Fleet<D>, _order: Order) {}

    /// Once per turn, after all events: send what is due.
    fn turn<D: Driver>(&mut self, _fleet: &mut Fleet<D>) {}

    /// When it wants its next turn though nothing may have happened.
    fn next(&self) -> Option<Moment> {
        None
    }

    /// A member is due to show that it lives: by an unsolicited pong (RFC 6455 §5.5.3), which needs no answer,
    /// unless the scenario has something to say anyway.
    fn beat<D: Driver>(&mut self, fleet: &mut Fleet<D>, member: u32) {
        fleet.send(member, Opcode::Pong, &[]);
    }

    /// Shows its counters.
    fn show(&self, gauges: &Gauges);

    /// Says what it found out.
    fn into_report(self) -> Self::Report;
}
