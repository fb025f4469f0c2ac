//! What can be observed from outside: frames that went out and came in, on which connection, and when.

use holdfast_protocol::chat::{client_frame, server_frame};

/// A device of the run, by its place in the list of all.
pub(crate) type DeviceIndex = usize;
/// A connection of the run; each is new.
pub(crate) type LineNumber = u32;

/// A device as the judge knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    /// Whose it is.
    pub(crate) user: u64,
    /// Its name, by which messages tell it from the user's others.
    pub(crate) name: String,
}

/// One observation.
#[derive(Debug, Clone)]
pub(crate) struct Observation {
    /// Milliseconds since the run began.
    pub(crate) at_ms: u64,
    /// Who saw it.
    pub(crate) device: DeviceIndex,
    /// On which of its connections.
    pub(crate) line: LineNumber,
    /// What.
    pub(crate) what: What,
}

/// See [`Observation`].
#[derive(Debug, Clone)]
pub(crate) enum What {
    /// A frame was handed to the kernel, or is about to be: it may arrive.
    Sent(client_frame::Frame),
    /// A frame came.
    Received(server_frame::Frame),
    /// The connection is gone.
    Ended,
}
