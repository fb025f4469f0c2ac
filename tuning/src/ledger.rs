//! The byte ledger: what one connection costs, kernel included, as constants with their sums.
//!
//! The kernel's half was measured with slab deltas on Linux 6.18 (x86-64) with a million sockets; it is exact there
//! and a few per cent off elsewhere, so it is for planning. What a server really costs is measured by
//! `holdfast-load million`. The user-space half is a budget: what the code promises, asserted where the records are
//! defined and measured by the same command.
//!
//! The one invariant: [`KERNEL_SOCKET_BYTES`] is the sum of [`KERNEL_SOCKET`], checked at compile time.

/// One line of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// The slab, or what the bytes are for.
    pub what: &'static str,
    /// Bytes per connection, slab overhead included.
    pub bytes: u64,
}

/// What the kernel keeps for one idle TCP connection (one end) on a direct descriptor.
pub const KERNEL_SOCKET: [Line; 8] = [
    Line { what: "TCP (struct tcp_sock)", bytes: 2_520 },
    Line { what: "sock_inode_cache", bytes: 862 },
    Line { what: "dentry", bytes: 198 },
    Line { what: "file (struct file)", bytes: 195 },
    Line { what: "direct-descriptor node", bytes: 32 },
    Line { what: "LSM blob", bytes: 56 },
    Line { what: "memcg vectors", bytes: 39 },
    Line { what: "slot in the ring's file table", bytes: 13 },
];

/// The sum of [`KERNEL_SOCKET`].
pub const KERNEL_SOCKET_BYTES: u64 = 3_915;

/// How an idle connection waits for bytes, which costs the kernel more or less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Waiting {
    /// An `epoll` registration.
    Epoll,
    /// A multishot `POLL_ADD` on a direct descriptor: what the `uring` driver does with an idle connection.
    MultishotPoll,
    /// A parked one-shot `READ`.
    Read,
    /// A parked `RECV` of any kind: what the `uring` driver does with a hot connection.
    Receive,
}

impl Waiting {
    /// Kernel bytes on top of [`KERNEL_SOCKET_BYTES`].
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Epoll => 216,
            Self::MultishotPoll => 264,
            Self::Read => 616,
            Self::Receive => 872,
        }
    }

    /// What the kernel keeps for one idle connection that waits like this.
    #[must_use]
    pub const fn connection_bytes(self) -> u64 {
        KERNEL_SOCKET_BYTES + self.bytes()
    }
}

/// What one unread small message costs while it waits in the socket's queue.
pub const KERNEL_UNREAD_MESSAGE_BYTES: u64 = 1_088;

/// User-space bytes per idle, logged-in connection that the server promises not to exceed: record in the shard's
/// slab, timer, directory entries of user and device, registration with the user's worker.
pub const USER_SESSION_BUDGET_BYTES: u64 = 300;

/// User-space bytes per idle connection that the load generator promises not to exceed.
pub const USER_LOAD_BUDGET_BYTES: u64 = 300;

/// What the server needs before the first connection comes: code, allocator arenas, receive pools, runtime threads.
pub const SERVER_BASE_BYTES: u64 = 36 << 20;

/// The store's caches in the profile of a million idle connections.
pub const STORE_CACHE_BYTES: u64 = 64 << 20;

/// Submission entries of each ring.
pub const RING_SUBMISSION_ENTRIES: u32 = 256;

/// Completion entries of each ring.
pub const RING_COMPLETION_ENTRIES: u32 = 8_192;

/// Kernel memory of one ring with [`RING_SUBMISSION_ENTRIES`] and [`RING_COMPLETION_ENTRIES`], without its file
/// table (that one is in the ledger, per slot).
pub const RING_BYTES: u64 = 242_000;

/// What one such ring is charged against RLIMIT_MEMLOCK since Linux 6.14 for a process without CAP_IPC_LOCK: 37 pages
/// (measured: 55 rings under 8 MiB), rounded up.
pub const RING_LOCKED_BYTES: u64 = 40 * PAGE_BYTES;

/// A page of memory, in which `tcp_mem` and locked memory are counted.
pub const PAGE_BYTES: u64 = 4_096;

/// Budget for a million idle, logged-in connections on the server's side, kernel included.
pub const MILLION_BUDGET_BYTES: u64 = 4_600_000_000;

const fn sum(lines: &[Line]) -> u64 {
    let mut total = 0;
    let mut index = 0;
    while index < lines.len() {
        total += lines[index].bytes;
        index += 1;
    }
    total
}

const _: () = assert!(sum(&KERNEL_SOCKET) == KERNEL_SOCKET_BYTES);
const _: () = assert!(
    1_000_000 * (Waiting::MultishotPoll.connection_bytes() + USER_SESSION_BUDGET_BYTES)
        + 50 * RING_BYTES
        + SERVER_BASE_BYTES
        + STORE_CACHE_BYTES
        <= MILLION_BUDGET_BYTES,
    "the parts of the budget for a million exceed the whole"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_on_multishot_poll_cost_the_kernel_4_18_gb() {
        let bytes = 1_000_000 * Waiting::MultishotPoll.connection_bytes();
        assert_eq!(bytes, 4_179_000_000);
    }

    #[test]
    fn poll_is_the_cheapest_way_to_wait_on_a_ring() {
        for dearer in [Waiting::Read, Waiting::Receive] {
            assert!(Waiting::MultishotPoll.bytes() < dearer.bytes(), "{dearer:?}");
        }
    }
}
