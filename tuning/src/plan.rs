//! `holdfast plan`: capacity on paper, for a machine that is not there yet.
//!
//! Pure arithmetic over the ledger; what a machine really offers is `doctor`'s business.

use std::fmt::Write as _;

use serde::Serialize;

use crate::demand::{self, Ends, Memory, Rings};
use crate::ledger::{self, Waiting};
use crate::units;

/// What is planned for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Wish {
    /// Connections on one machine.
    pub connections: u64,
    /// RLIMIT_NOFILE there.
    pub nofile: u64,
    /// Shards: processors for the edge.
    pub shards: u64,
}

/// What it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// What was asked.
    pub wish: Wish,
    /// Rings and their tables, with the `uring` driver.
    pub rings: Rings,
    /// The server's memory with the `uring` driver.
    pub uring_memory: Memory,
    /// The server's memory with the `epoll` driver, which needs `epoll_nofile` descriptors.
    pub epoll_memory: Memory,
    /// RLIMIT_NOFILE that the `epoll` driver needs.
    pub epoll_nofile: u64,
    /// RLIMIT_MEMLOCK that the rings need without CAP_IPC_LOCK.
    pub memlock_bytes: u64,
    /// `fs.file-max`, on top of what other processes have open.
    pub file_max: u64,
    /// The third value of `net.ipv4.tcp_mem`.
    pub tcp_mem_pages: u64,
    /// `net.core.somaxconn` and `net.ipv4.tcp_max_syn_backlog`.
    pub backlog: u64,
    /// Addresses that a load generator needs for as many connections, with 64,512 ports on each.
    pub client_addresses: u64,
}

/// Plans a machine.
#[must_use]
pub fn plan(wish: Wish) -> Plan {
    let Wish { connections, nofile, shards } = wish;
    let rings = demand::rings(connections, nofile, shards);
    Plan {
        wish,
        rings,
        uring_memory: demand::memory(connections, Ends::Server, Waiting::MultishotPoll, rings.total),
        epoll_memory: demand::memory(connections, Ends::Server, Waiting::Epoll, 0),
        epoll_nofile: demand::nofile_epoll(connections),
        memlock_bytes: demand::memlock_bytes(rings.total),
        file_max: demand::file_max(connections, 0),
        tcp_mem_pages: demand::tcp_mem_pages(connections),
        backlog: demand::backlog(connections),
        client_addresses: demand::client_addresses(connections, demand::BACKLOG_MAX - 1_023),
    }
}

impl Plan {
    /// The text for people.
    #[must_use]
    pub fn render(&self) -> String {
        let Wish { connections, nofile, shards } = self.wish;
        let mut out = format!(
            "{} connections on {} shard{}, RLIMIT_NOFILE {}\n\nmemory, by the ledger, server side\n",
            units::count(connections),
            units::count(shards),
            if shards == 1 { "" } else { "s" },
            units::count(nofile),
        );
        let mut line = |what: &str, value: String, remark: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{}", format!("  {what:32} {value:>12}  {remark}").trim_end());
        };
        for item in ledger::KERNEL_SOCKET {
            line(item.what, units::count(item.bytes), "B per connection, kernel");
        }
        let poll = Waiting::MultishotPoll.bytes();
        line("multishot poll", units::count(poll), "B per connection, kernel (epoll: 216)");
        let session = units::count(ledger::USER_SESSION_BUDGET_BYTES);
        line("session", session, "B per connection, user space, at most");
        line("rings", units::bytes(self.uring_memory.rings_bytes), "");
        line(
            "server and store caches",
            units::bytes(ledger::SERVER_BASE_BYTES + ledger::STORE_CACHE_BYTES),
            "",
        );
        line("total, uring", units::bytes(self.uring_memory.total_bytes), "");
        line("total, epoll", units::bytes(self.epoll_memory.total_bytes), "");
        let rings = format!(
            "of {} slots, {} per shard",
            units::count(self.rings.slots_per_ring),
            self.rings.per_shard
        );
        out.push_str("\nlimits\n");
        let mut line = |what: &str, value: String, remark: &str| {
            let _ = writeln!(out, "{}", format!("  {what:32} {value:>12}  {remark}").trim_end());
        };
        line("rings", units::count(self.rings.total), &rings);
        line("RLIMIT_MEMLOCK", units::bytes(self.memlock_bytes), "without CAP_IPC_LOCK, since Linux 6.14");
        line("RLIMIT_NOFILE with epoll", units::count(self.epoll_nofile), "");
        line("fs.file-max", units::count(self.file_max), "and what else is open");
        line("net.ipv4.tcp_mem", units::count(self.tcp_mem_pages), "pages, third value");
        line("net.core.somaxconn", units::count(self.backlog), "and net.ipv4.tcp_max_syn_backlog");
        line("client addresses", units::count(self.client_addresses), "for a load generator as large");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_on_two_processors_under_20_000_descriptors() {
        let plan = plan(Wish { connections: 1_000_000, nofile: 20_000, shards: 2 });
        assert_eq!(plan.rings.total, 50);
        assert_eq!(plan.client_addresses, 53);
        assert_eq!(plan.uring_memory.kernel_bytes, 4_179_000_000);
        assert!(plan.epoll_memory.kernel_bytes < plan.uring_memory.kernel_bytes);
        let text = plan.render();
        for part in ["1,000,000 connections on 2 shards", "50  of 20,000 slots, 25 per shard", "2,520"] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
    }

    #[test]
    fn no_connections_need_no_sockets() {
        let plan = plan(Wish { connections: 0, nofile: 1_024, shards: 1 });
        assert_eq!(plan.uring_memory.kernel_bytes, 0);
        assert_eq!(plan.rings.total, 1);
    }
}
