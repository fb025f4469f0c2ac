//! What an engine is told when it is made.

use std::sync::Arc;
use std::time::Duration;

use crate::address::AddressPlan;
use crate::arrival::Spread;

/// How the members are connected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ramp {
    /// At this rate per second, open loop.
    Rate(f64, Spread),
    /// As fast as the limit of handshakes under way allows: each that is through makes room for the next.
    Flat,
}

/// See the module's doc. One per thread; what is large is shared.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Members of this thread.
    pub members: u32,
    /// So many neighbours, from a multiple of it on, are in the same thread.
    pub together: u32,
    /// The number of its first one among all threads'.
    pub first_member: u32,
    /// Everything random follows from it.
    pub seed: u64,
    /// Which addresses.
    pub addresses: Arc<AddressPlan>,
    /// `Host`.
    pub host: Arc<str>,
    /// The request target.
    pub path: Arc<str>,
    /// Offered, the best liked first.
    pub subprotocols: Arc<[String]>,
    /// Further headers.
    pub headers: Arc<[(String, String)]>,
    /// How they are connected.
    pub ramp: Ramp,
    /// Handshakes under way at most, login included: a slow server is measured, not drowned.
    pub in_flight_max: u32,
    /// How long a handshake or a close may take.
    pub timeout: Duration,
    /// Failures in a row after which a member is given up.
    pub attempts_max: u32,
    /// How often each member says that it lives; zero: never.
    pub heartbeat: Duration,
    /// What one message from the server may cost.
    pub message_bytes_max: u64,
}
