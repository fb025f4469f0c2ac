//! What the kernel's slab caches hold (`/proc/slabinfo`), and whose it is when both ends of every connection are on
//! this machine.
//!
//! A connection over loopback has one socket at each end, and the kernel makes the same objects for both (TCP,
//! `sock_inode_cache`, dentry, file, security). So growth of a cache is halved, except of the caches of *waiting*:
//! an `io_kiocb` belongs to who waits by io_uring, an `eventpoll_epi` to who waits by epoll, and only when both
//! ends wait the same way is that growth halved too. (SLUB merges caches of equal shape, so a cache's name may be
//! another's: the sum is exact, the names are not.)

use std::collections::BTreeMap;

use serde::Serialize;

use super::{ProcError, read};

/// How one end of the connections waits for bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitsBy {
    /// Requests in a ring.
    Uring,
    /// Items in an epoll set.
    Epoll,
    /// Neither was found among its descriptors.
    Unknown,
}

impl WaitsBy {
    /// Finds out how a process waits, by its descriptors.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return Self::Unknown };
        let links = entries.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let mut found = Self::Unknown;
        for link in links {
            match link.to_str() {
                // A server with rings may have an epoll set for its HTTP; the connections are in the rings.
                Some("anon_inode:[io_uring]") => return Self::Uring,
                Some("anon_inode:[eventpoll]") => found = Self::Epoll,
                _ => {}
            }
        }
        found
    }
}

/// Bytes in each cache at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slabs {
    caches: BTreeMap<String, u64>,
}

/// Growth of one cache.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CacheGrowth {
    /// As the kernel calls it (or one that it merged it with).
    pub name: String,
    /// Bytes more than at the start, both ends.
    pub bytes: i64,
    /// The server's share of them.
    pub server_bytes: f64,
}

impl Slabs {
    /// Reads the caches.
    ///
    /// # Errors
    /// Only root may.
    pub fn now() -> Result<Self, ProcError> {
        let path = "/proc/slabinfo";
        Self::parse(&read(path)?).ok_or(ProcError::Field { path: path.into(), field: "pagesperslab" })
    }

    /// `name active_objs num_objs objsize objperslab pagesperslab : tunables … : slabdata active_slabs num_slabs …`
    fn parse(text: &str) -> Option<Self> {
        let mut caches = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with("slabinfo") && !line.starts_with('#')) {
            let mut parts = line.split(" : ");
            let mut head = parts.next()?.split_ascii_whitespace();
            let name = head.next()?;
            let pages_per_slab: u64 = head.nth(4)?.parse().ok()?;
            let slabs: u64 = parts.nth(1)?.split_ascii_whitespace().nth(2)?.parse().ok()?;
            caches.insert(name.to_owned(), slabs * pages_per_slab * 4096);
        }
        (!caches.is_empty()).then_some(Self { caches })
    }

    /// All caches together.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.caches.values().sum()
    }

    /// What grew or shrank since an earlier moment, and the server's share; the greatest first.
    #[must_use]
    pub fn growth(&self, earlier: &Self, server: WaitsBy, generator: WaitsBy) -> Vec<CacheGrowth> {
        let mut growth: Vec<CacheGrowth> = self
            .caches
            .iter()
            .map(|(name, &bytes)| {
                let before = earlier.caches.get(name).copied().unwrap_or(0);
                let bytes = bytes as i64 - before as i64;
                let server_bytes = bytes as f64 * server_share(name, server, generator);
                CacheGrowth { name: name.clone(), bytes, server_bytes }
            })
            .filter(|cache| cache.bytes != 0)
            .collect();
        growth.sort_by(|one, other| {
            other.bytes.abs().cmp(&one.bytes.abs()).then_with(|| one.name.cmp(&other.name))
        });
        growth
    }
}

fn server_share(cache: &str, server: WaitsBy, generator: WaitsBy) -> f64 {
    let owners = match cache {
        "io_kiocb" => WaitsBy::Uring,
        "eventpoll_epi" | "eventpoll_pwq" | "ep_head" => WaitsBy::Epoll,
        _ => return 0.5,
    };
    match (server == owners, generator == owners) {
        (true, false) => 1.0,
        (false, true) => 0.0,
        _ => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "\
slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>
io_kiocb               0      0    256   16    1 : tunables    0    0    0 : slabdata      0      0      0
TCP                   26     26   2368   13    8 : tunables    0    0    0 : slabdata      2      2      0
dentry             50106  50106    192   21    1 : tunables    0    0    0 : slabdata   2386   2386      0
";

    fn after() -> Slabs {
        let text = BEFORE
            .replace("slabdata      0      0", "slabdata      4      5")
            .replace("slabdata      2      2", "slabdata     10     12");
        Slabs::parse(&text).unwrap()
    }

    #[test]
    fn bytes_are_whole_slabs() {
        let slabs = Slabs::parse(BEFORE).unwrap();
        assert_eq!(slabs.caches["TCP"], 2 * 8 * 4096);
        assert_eq!(slabs.total_bytes(), (2 * 8 + 2386) * 4096);
        assert_eq!(Slabs::parse("garbage"), None);
    }

    #[test]
    fn sockets_are_shared_and_waiting_belongs_to_who_waits() {
        let before = Slabs::parse(BEFORE).unwrap();
        let share = |server, generator| {
            let growth = after().growth(&before, server, generator);
            assert_eq!(growth.len(), 2, "dentry did not change");
            assert_eq!((growth[0].name.as_str(), growth[0].bytes), ("TCP", 10 * 8 * 4096));
            assert_eq!(growth[0].server_bytes, 5.0 * 8.0 * 4096.0);
            growth[1].server_bytes / (5.0 * 4096.0)
        };
        assert_eq!(share(WaitsBy::Uring, WaitsBy::Uring), 0.5);
        assert_eq!(share(WaitsBy::Uring, WaitsBy::Epoll), 1.0);
        assert_eq!(share(WaitsBy::Epoll, WaitsBy::Uring), 0.0);
        assert_eq!(share(WaitsBy::Unknown, WaitsBy::Epoll), 0.5);
    }
}
