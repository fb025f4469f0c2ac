//! What a number of connections needs of a machine: pure arithmetic, used by `doctor`, `plan` and the tests that
//! check the files in `tuning/sysctl` and `tuning/systemd`.
//!
//! The one invariant: every demand grows with the number of connections or stays the same, never falls.

use serde::Serialize;

use crate::ledger;

/// More slots the `uring` driver gives no file table (the kernel would take 1,048,576): to close a connection is to
/// find its poll among all that are armed on the ring.
pub const TABLE_SLOTS_MAX: u64 = 1 << 16;

/// Ordinary descriptors that a server needs beside its connections: listeners, rings, event descriptors, the files
/// of the store, HTTP.
pub const ORDINARY_DESCRIPTORS: u64 = 1_024;

/// The backlog that the server asks for, and the most that is worth asking of `somaxconn`.
pub const BACKLOG_MAX: u64 = 65_535;

/// Connections from one address to one address and port that the load generator makes at most, so that the kernel
/// finds a free port at once.
pub const TUPLES_PER_ADDRESS_MAX: u64 = 19_000;

/// Oldest kernel whose io_uring the `uring` driver can use (socket options on direct descriptors came with 6.7).
pub const KERNEL_URING: (u32, u32) = (6, 7);

/// First kernel on which one `io_uring_enter` reaps a whole batch (`min_wait_usec` came with 6.12).
pub const KERNEL_URING_BATCH: (u32, u32) = (6, 12);

/// First kernel that charges rings to RLIMIT_MEMLOCK.
pub const KERNEL_RINGS_LOCKED: (u32, u32) = (6, 14);

/// Whose connections are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ends {
    /// This machine is the server.
    Server,
    /// This machine is the load generator.
    Client,
    /// Both ends are here, over loopback.
    Both,
}

impl Ends {
    /// True when sockets of a server are here.
    #[must_use]
    pub const fn server(self) -> bool {
        matches!(self, Self::Server | Self::Both)
    }

    /// True when sockets of a load generator are here.
    #[must_use]
    pub const fn client(self) -> bool {
        matches!(self, Self::Client | Self::Both)
    }

    /// Sockets on this machine.
    #[must_use]
    pub const fn sockets(self, connections: u64) -> u64 {
        match self {
            Self::Both => connections.saturating_mul(2),
            Self::Server | Self::Client => connections,
        }
    }
}

/// Rings and their tables for a number of connections in one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rings {
    /// Slots of each ring's file table: what RLIMIT_NOFILE allows. Tables do not add up.
    pub slots_per_ring: u64,
    /// Rings of each shard.
    pub per_shard: u64,
    /// Rings of the process.
    pub total: u64,
}

/// How many rings hold `connections` under this RLIMIT_NOFILE; they are filled one after the other, to the last slot.
#[must_use]
pub const fn rings(connections: u64, nofile: u64, shards: u64) -> Rings {
    let shards = if shards == 0 { 1 } else { shards };
    let slots_per_ring = if nofile == 0 {
        1
    } else if nofile < TABLE_SLOTS_MAX {
        nofile
    } else {
        TABLE_SLOTS_MAX
    };
    let needed = connections.div_ceil(shards).div_ceil(slots_per_ring);
    let per_shard = if needed == 0 { 1 } else { needed };
    Rings { slots_per_ring, per_shard, total: per_shard.saturating_mul(shards) }
}

/// RLIMIT_NOFILE that the `uring` driver needs: no connection has an ordinary descriptor, but each ring has two
/// (itself and its event descriptor).
#[must_use]
pub const fn nofile_uring(rings: u64) -> u64 {
    ORDINARY_DESCRIPTORS + 2 * rings
}

/// RLIMIT_NOFILE that the `epoll` driver needs: a descriptor per connection.
#[must_use]
pub const fn nofile_epoll(connections: u64) -> u64 {
    connections.saturating_add(ORDINARY_DESCRIPTORS)
}

/// Locked memory that rings are charged for.
#[must_use]
pub const fn memlock_bytes(rings: u64) -> u64 {
    rings.saturating_mul(ledger::RING_LOCKED_BYTES)
}

/// `fs.file-max`: every socket is a file, on a direct descriptor too; `others` are the files that are open already.
#[must_use]
pub const fn file_max(sockets: u64, others: u64) -> u64 {
    sockets.saturating_add(others).saturating_add(ORDINARY_DESCRIPTORS)
}

/// `net.core.somaxconn` and `net.ipv4.tcp_max_syn_backlog`: enough for all of them to come at once, as after a
/// restart, up to [`BACKLOG_MAX`]. Below it SYNs are dropped and connects stall for a second.
#[must_use]
pub const fn backlog(connections: u64) -> u64 {
    if connections < BACKLOG_MAX { connections } else { BACKLOG_MAX }
}

/// `net.core.netdev_max_backlog`: as [`backlog`], for packets between interface and stack (loopback has one too).
#[must_use]
pub const fn netdev_backlog(connections: u64) -> u64 {
    backlog(connections)
}

/// The limit (third value) of `net.ipv4.tcp_mem`, in pages: every socket with queued data is charged a whole page,
/// and half of them again for bursts.
#[must_use]
pub const fn tcp_mem_pages(sockets: u64) -> u64 {
    sockets.saturating_add(sockets / 2)
}

/// Buckets of the kernel's table of connections, a power of two: two connections each. Every packet looks its own up, and
/// each other one in its bucket is memory that no cache holds.
#[must_use]
pub const fn connection_buckets(sockets: u64) -> u64 {
    if sockets < 2 { 1 } else { (sockets / 2).next_power_of_two() }
}

/// Destination addresses that a load generator needs from one source address, when `ports` local ports are free.
#[must_use]
pub const fn client_addresses(connections: u64, ports: u64) -> u64 {
    let tuples = if ports < TUPLES_PER_ADDRESS_MAX { ports } else { TUPLES_PER_ADDRESS_MAX };
    let tuples = if tuples == 0 { 1 } else { tuples };
    connections.div_ceil(tuples)
}

/// Memory on this machine, by who keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Sockets and how they wait.
    pub kernel_bytes: u64,
    /// Rings.
    pub rings_bytes: u64,
    /// Processes: what each connection may cost, and what they need without any.
    pub user_bytes: u64,
    /// The sum.
    pub total_bytes: u64,
}

/// Memory for `connections`, by the ledger.
#[must_use]
pub const fn memory(connections: u64, ends: Ends, waiting: ledger::Waiting, rings: u64) -> Memory {
    let sockets = ends.sockets(connections);
    let kernel_bytes = sockets.saturating_mul(waiting.connection_bytes());
    let processes = if matches!(ends, Ends::Both) { 2 } else { 1 };
    let rings_bytes = rings.saturating_mul(processes).saturating_mul(ledger::RING_BYTES);
    let mut user_bytes = 0u64;
    if ends.server() {
        user_bytes = user_bytes
            .saturating_add(connections.saturating_mul(ledger::USER_SESSION_BUDGET_BYTES))
            .saturating_add(ledger::SERVER_BASE_BYTES + ledger::STORE_CACHE_BYTES);
    }
    if ends.client() {
        user_bytes = user_bytes
            .saturating_add(connections.saturating_mul(ledger::USER_LOAD_BUDGET_BYTES))
            .saturating_add(ledger::SERVER_BASE_BYTES);
    }
    let total_bytes = kernel_bytes.saturating_add(rings_bytes).saturating_add(user_bytes);
    Memory { kernel_bytes, rings_bytes, user_bytes, total_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Waiting;

    #[test]
    fn a_million_under_20_000_descriptors_take_50_rings() {
        assert_eq!(rings(1_000_000, 20_000, 1), Rings { slots_per_ring: 20_000, per_shard: 50, total: 50 });
        assert_eq!(rings(1_000_000, 20_000, 2), Rings { slots_per_ring: 20_000, per_shard: 25, total: 50 });
    }

    #[test]
    fn a_large_limit_gives_tables_as_large_as_the_driver_makes_them() {
        assert_eq!(rings(1_000_000, 2_000_000, 2), Rings { slots_per_ring: 65_536, per_shard: 8, total: 16 });
        assert_eq!(rings(1_000_000, u64::MAX, 64).total, 64);
    }

    #[test]
    fn tables_that_are_planned_hold_what_was_asked() {
        for connections in [0, 1, 999, 19_000, 19_001, 1_000_000, 12_000_000] {
            for nofile in [1, 256, 1_024, 20_000, 1 << 20, u64::MAX] {
                for shards in [1, 2, 7, 64] {
                    let rings = rings(connections, nofile, shards);
                    let slots = rings.total * rings.slots_per_ring;
                    assert!(
                        slots >= connections,
                        "{connections}, nofile {nofile}, {shards} shards: {rings:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn degenerate_limits_do_not_divide_by_zero() {
        assert_eq!(rings(10, 0, 0).total, 10);
        assert_eq!(client_addresses(10, 0), 10);
    }

    #[test]
    fn demands_never_fall_as_connections_rise() {
        let steps = [0, 1, 10, 1_000, 65_534, 65_535, 65_536, 1_000_000, 2_000_000, u64::MAX / 2, u64::MAX];
        for pair in steps.windows(2) {
            let (fewer, more) = (pair[0], pair[1]);
            assert!(rings(fewer, 20_000, 2).total <= rings(more, 20_000, 2).total);
            assert!(nofile_epoll(fewer) <= nofile_epoll(more));
            assert!(file_max(fewer, 400) <= file_max(more, 400));
            assert!(backlog(fewer) <= backlog(more));
            assert!(tcp_mem_pages(fewer) <= tcp_mem_pages(more));
            assert!(client_addresses(fewer, 28_232) <= client_addresses(more, 28_232));
            for ends in [Ends::Server, Ends::Client, Ends::Both] {
                assert!(
                    memory(fewer, ends, Waiting::MultishotPoll, 1).total_bytes
                        <= memory(more, ends, Waiting::MultishotPoll, 1).total_bytes
                );
            }
        }
    }

    #[test]
    fn the_server_side_of_a_million_stays_in_its_budget() {
        let rings = rings(1_000_000, 20_000, 2);
        let memory = memory(1_000_000, Ends::Server, Waiting::MultishotPoll, rings.total);
        assert!(memory.total_bytes <= ledger::MILLION_BUDGET_BYTES, "{memory:?}");
    }
}
