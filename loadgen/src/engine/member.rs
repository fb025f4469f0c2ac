//! What the generator keeps for each of its connections, at all times: 36 bytes.
//!
//! Everything rare (a handshake's start and its partial answer, a reconnect's moment) stands in side tables for as
//! long as it is needed. Heartbeats cost nothing here: see `beat.rs`.

use std::collections::BTreeMap;
use std::io;

use holdfast_protocol::ws::handshake::ResponseError;
use holdfast_protocol::ws::{DecodeError, Decoder, Role};
use holdfast_reactor::ConnectionId;

/// Where a member is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not connected: its turn has not come, or comes again.
    Idle,
    /// The TCP connection is being made.
    Connecting,
    /// The request was sent; the answer has not come.
    Upgrading,
    /// Upgraded; the scenario has not said yet that it is up (it logs in).
    Opening,
    /// Up.
    Up,
    /// We have said Close; the server has not.
    Closing,
    /// Both have said Close: the server closes the connection, and we wait for it to (RFC 6455 §7.1.1).
    Farewell,
    /// Will not be connected again.
    Gone,
}

/// One connection's record.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) decoder: Decoder,
    /// Meaningful from `Connecting` to `Farewell`.
    pub(crate) connection: ConnectionId,
    /// Connects so far: a handshake's key follows from it.
    pub(crate) attempts: u16,
    /// Failures since it was last up: the next pause follows from it.
    pub(crate) failures: u8,
    pub(crate) phase: Phase,
}

// The budget is 300 bytes for a waiting connection, the driver's record and a chat's books included.
const _: () = assert!(size_of::<Member>() <= 32);

impl Member {
    pub(crate) const fn new() -> Self {
        Self {
            decoder: Decoder::new(Role::Client),
            connection: ConnectionId { index: u32::MAX, generation: 0 },
            attempts: 0,
            failures: 0,
            phase: Phase::Idle,
        }
    }
}

/// Why a connection ended that we did not end, or did not come about.
#[derive(Debug)]
pub enum Ended {
    /// The connect failed.
    Connect(io::Error),
    /// The connection broke.
    Broken(io::Error),
    /// The answer to the upgrade was no.
    Refused(ResponseError),
    /// The server broke RFC 6455.
    Protocol(DecodeError),
    /// Nobody answered in time.
    TimedOut(&'static str),
    /// The server said Close, with this code and reason.
    Closed(u16, String),
    /// The server hung up without saying Close.
    HungUp,
    /// We reset it.
    Reset,
    /// What the scenario got is not what it can go on with.
    Scenario(String),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "connect: {}", errno_name(error)),
            Self::Broken(error) => write!(f, "connection: {}", errno_name(error)),
            Self::Refused(error) => match error {
                ResponseError::Refused { status, .. } => write!(f, "upgrade: HTTP {status}"),
                other => write!(f, "upgrade: {other}"),
            },
            Self::Protocol(error) => write!(f, "protocol: {error}"),
            Self::TimedOut(what) => write!(f, "{what} timed out"),
            Self::Closed(code, reason) if reason.is_empty() => write!(f, "closed by the server: {code}"),
            Self::Closed(code, reason) => write!(f, "closed by the server: {code} {reason}"),
            Self::HungUp => write!(f, "the server hung up without a close frame"),
            Self::Reset => write!(f, "reset by us"),
            Self::Scenario(what) => write!(f, "{what}"),
        }
    }
}

/// Failures by what they were. A server can invent reasons, so there is a limit to how many are told apart.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Tally {
    counts: BTreeMap<String, u64>,
}

const NAMES_MAX: usize = 64;
const NAME_CHARS_MAX: usize = 120;

impl Tally {
    /// Counts one.
    pub fn add(&mut self, name: &str) {
        self.add_many(name, 1);
    }

    fn add_many(&mut self, name: &str, count: u64) {
        if let Some(known) = self.counts.get_mut(name) {
            *known += count;
            return;
        }
        let name = if self.counts.len() < NAMES_MAX {
            name.chars().take(NAME_CHARS_MAX).collect()
        } else {
            "other".to_owned()
        };
        *self.counts.entry(name).or_default() += count;
    }

    /// Adds another thread's.
    pub fn merge(&mut self, other: &Self) {
        other.counts.iter().for_each(|(name, count)| self.add_many(name, *count));
    }

    /// Names and counts, the names in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counts.iter().map(|(name, count)| (name.as_str(), *count))
    }

    /// `3 × this, 1 × that`, or `none`.
    #[must_use]
    pub fn list(&self) -> String {
        if self.counts.is_empty() {
            return "none".to_owned();
        }
        let each: Vec<String> = self.iter().map(|(name, count)| format!("{count} × {name}")).collect();
        each.join(", ")
    }

    /// All together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }
}

/// `ECONNREFUSED` and its like, which people search for; the system's sentence for what is not in the list.
#[must_use]
pub(crate) fn errno_name(error: &io::Error) -> String {
    use rustix::io::Errno;
    const NAMES: &[(Errno, &str)] = &[
        (Errno::CONNREFUSED, "ECONNREFUSED"),
        (Errno::CONNRESET, "ECONNRESET"),
        (Errno::CONNABORTED, "ECONNABORTED"),
        (Errno::TIMEDOUT, "ETIMEDOUT"),
        (Errno::ADDRNOTAVAIL, "EADDRNOTAVAIL (no free port for this pair of addresses)"),
        (Errno::ADDRINUSE, "EADDRINUSE"),
        (Errno::HOSTUNREACH, "EHOSTUNREACH"),
        (Errno::NETUNREACH, "ENETUNREACH"),
        (Errno::NETDOWN, "ENETDOWN"),
        (Errno::PIPE, "EPIPE"),
        (Errno::MFILE, "EMFILE"),
        (Errno::NFILE, "ENFILE (fs.file-max, or a ring's file table, is full)"),
        (Errno::NOBUFS, "ENOBUFS"),
        (Errno::NOMEM, "ENOMEM"),
        (Errno::PERM, "EPERM"),
        (Errno::ACCESS, "EACCES"),
        (Errno::INVAL, "EINVAL"),
        (Errno::CANCELED, "ECANCELED"),
        (Errno::INTR, "EINTR"),
    ];
    match Errno::from_io_error(error) {
        Some(errno) => NAMES
            .iter()
            .find(|(known, _)| *known == errno)
            .map_or_else(|| format!("errno {}", errno.raw_os_error()), |(_, name)| (*name).to_owned()),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_names_that_people_search_for() {
        let refused = io::Error::from_raw_os_error(rustix::io::Errno::CONNREFUSED.raw_os_error());
        assert_eq!(Ended::Connect(refused).to_string(), "connect: ECONNREFUSED");
        assert_eq!(errno_name(&io::Error::from_raw_os_error(4_000)), "errno 4000");
        assert_eq!(errno_name(&io::Error::other("odd")), "odd");
        assert_eq!(Ended::Closed(4003, "replaced".into()).to_string(), "closed by the server: 4003 replaced");
    }

    #[test]
    fn a_server_that_invents_reasons_fills_no_memory() {
        let mut tally = Tally::default();
        assert_eq!(tally.list(), "none");
        tally.add("a");
        tally.add("b");
        assert_eq!(tally.list(), "1 × a, 1 × b");
        let mut tally = Tally::default();
        (0..1_000).for_each(|number| tally.add(&format!("reason {number}")));
        tally.add(&"x".repeat(1_000));
        assert_eq!(tally.total(), 1_001);
        assert_eq!(tally.iter().count(), NAMES_MAX + 1);
        assert!(tally.iter().all(|(name, _)| name.len() <= NAME_CHARS_MAX));
    }
}
