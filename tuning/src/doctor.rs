//! `holdfast doctor`: every limit that would stop a number of connections here, or make them slow, with the command
//! that sets it.
//!
//! Pure: a [`Probe`] goes in, a [`Report`] comes out, so that any machine can be judged from its snapshot.
//! The one invariant: what is enough for N connections is enough for fewer.

mod memory;
mod network;
mod process;
mod uring;

pub use crate::probe::{Probe, probe};
pub use crate::report::{Colour, Finding, Quantity, Report, SCHEMA, Severity};

use crate::demand::{self, Ends};
use crate::ledger::Waiting;

/// Judges a server's machine.
#[must_use]
pub fn examine(connections: u64, probe: &Probe) -> Report {
    examine_ends(connections, Ends::Server, probe)
}

/// Judges a machine that has one end of the connections, or both.
#[must_use]
pub fn examine_ends(connections: u64, ends: Ends, probe: &Probe) -> Report {
    let (uring_works, uring) = uring::examine(probe);
    let rings = uring_works.then(|| demand::rings(connections, probe.nofile.reachable(), probe.processors));
    let ask = Ask {
        connections,
        ends,
        rings: rings.map_or(0, |rings| rings.total),
        waiting: if uring_works { Waiting::MultishotPoll } else { Waiting::Epoll },
        uring_works,
    };
    let mut findings = vec![uring];
    process::examine(&ask, probe, &mut findings);
    memory::examine(&ask, probe, &mut findings);
    network::examine(&ask, probe, &mut findings);
    Report {
        schema: SCHEMA,
        connections,
        ends,
        verdict: findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok),
        driver: if uring_works { "uring" } else { "epoll" },
        rings,
        memory: ask.memory(),
        findings,
    }
}

/// What is asked of the machine.
struct Ask {
    connections: u64,
    ends: Ends,
    /// Rings of one process; 0 with `epoll`.
    rings: u64,
    waiting: Waiting,
    uring_works: bool,
}

impl Ask {
    fn sockets(&self) -> u64 {
        self.ends.sockets(self.connections)
    }

    fn memory(&self) -> demand::Memory {
        demand::memory(self.connections, self.ends, self.waiting, self.rings)
    }

    /// The most connections that fit into so much memory.
    fn connections_in(&self, bytes: u64) -> u64 {
        let fixed = demand::memory(0, self.ends, self.waiting, self.rings).total_bytes;
        let each = demand::memory(1, self.ends, self.waiting, 0)
            .total_bytes
            .saturating_sub(demand::memory(0, self.ends, self.waiting, 0).total_bytes);
        bytes.saturating_sub(fixed) / each.max(1)
    }
}

/// The finding about a number that must not be smaller than what is needed.
struct AtLeast {
    name: &'static str,
    unit: &'static str,
    present: Option<u64>,
    needed: u64,
    /// How bad it is when it is smaller.
    otherwise: Severity,
    why: &'static str,
    fix: Option<String>,
}

impl AtLeast {
    fn finding(self) -> Finding {
        let (severity, fix) = match self.present {
            None => (Severity::Note, None),
            Some(present) if present >= self.needed => (Severity::Ok, None),
            Some(_) => (self.otherwise, self.fix),
        };
        let why = match self.present {
            None => format!("This kernel or container does not show it. {}", self.why),
            Some(_) => self.why.to_owned(),
        };
        Finding {
            name: self.name,
            severity,
            present: Quantity::count(self.present),
            needed: Quantity::Count(self.needed),
            unit: self.unit,
            why,
            fix,
        }
    }
}

fn sysctl(key: &str, value: impl std::fmt::Display) -> Option<String> {
    Some(format!("sysctl -w {key}={value}"))
}

#[cfg(test)]
mod tests;
