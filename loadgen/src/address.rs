//! Which addresses the connections use, so that a million of them find a free (source, port, destination, port).
//!
//! A pair of addresses has at most as many connections as there are local ports. So against a server that listens
//! on every loopback address the generator spreads over *destinations* 127.0.1.1, 127.0.2.1 … (nothing has to be
//! bound, the kernel picks the port knowing the destination); against a server on one loopback address over as many
//! *sources*, bound before the connect. Elsewhere it uses the source addresses that it was given.
//!
//! The one invariant: no pair is given more connections than [`PairLimit::of_ports`] allows.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::Serialize;

use holdfast_tuning::demand::TUPLES_PER_ADDRESS_MAX;

/// How many connections one pair of addresses is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PairLimit(pub u32);

impl PairLimit {
    /// At most 19,000, and at most two thirds of the local ports: the fuller the range, the longer the kernel
    /// searches it, and a retried connect needs a port beside the one that is closing.
    #[must_use]
    pub fn of_ports(low: u16, high: u16) -> Self {
        let ports = u64::from(high.saturating_sub(low)) + 1;
        Self((ports * 2 / 3).clamp(1, TUPLES_PER_ADDRESS_MAX) as u32)
    }
}

/// How the plan was found, for the person who reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// One pair of addresses is enough.
    Single,
    /// One destination address after the other.
    Destinations,
    /// One source address after the other, bound.
    Sources,
}

/// See the module's doc.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AddressPlan {
    /// What varies.
    pub pool: Pool,
    /// Where to connect from; empty: wherever the kernel likes.
    pub sources: Vec<IpAddr>,
    /// Where to connect to.
    pub targets: Vec<SocketAddr>,
    /// Most connections of one pair.
    pub pair_limit: PairLimit,
}

/// Why there is no plan.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Too many for the addresses at hand.
    #[error(
        "{connections} connections to {target} need {needed} source addresses ({limit} connections each), {given} given; \
         add addresses to an interface and name them with --source, or widen net.ipv4.ip_local_port_range"
    )]
    TooFew {
        /// How many connections.
        connections: u32,
        /// To where.
        target: SocketAddr,
        /// How many addresses they need.
        needed: u32,
        /// How many connections each address has ports for.
        limit: u32,
        /// How many addresses there are.
        given: u32,
    },
}

impl AddressPlan {
    /// Plans `connections` to `target`. `sources` as given by hand; `accepts` says whether something accepts
    /// connections on an address (it is asked once at most).
    ///
    /// # Errors
    /// When the target is on another machine and the sources do not have enough ports.
    pub fn new(
        connections: u32,
        target: SocketAddr,
        sources: &[IpAddr],
        pair_limit: PairLimit,
        accepts: impl FnOnce(SocketAddr) -> bool,
    ) -> Result<Self, AddressError> {
        let needed = connections.div_ceil(pair_limit.0).max(1);
        let given = sources.len() as u32;
        if given >= needed || (given == 0 && needed == 1) {
            let pool = if given == 0 { Pool::Single } else { Pool::Sources };
            return Ok(Self { pool, sources: sources.to_vec(), targets: vec![target], pair_limit });
        }
        let is_loopback_v4 = target.is_ipv4() && target.ip().is_loopback();
        if given > 0 || !is_loopback_v4 {
            let (limit, given) = (pair_limit.0, given.max(1));
            return Err(AddressError::TooFew { connections, target, needed, limit, given });
        }
        let addresses = (0..needed).map(loopback);
        if accepts(SocketAddr::new(loopback(0), target.port())) {
            let targets = addresses.map(|address| SocketAddr::new(address, target.port())).collect();
            return Ok(Self { pool: Pool::Destinations, sources: Vec::new(), targets, pair_limit });
        }
        Ok(Self { pool: Pool::Sources, sources: addresses.collect(), targets: vec![target], pair_limit })
    }

    /// The addresses of a member's connect: pairs in turn, so that each has its share of them.
    #[must_use]
    pub fn pair(&self, member: u32) -> (Option<SocketAddr>, SocketAddr) {
        let source = (!self.sources.is_empty())
            .then(|| SocketAddr::new(self.sources[member as usize % self.sources.len()], 0));
        (source, self.targets[member as usize % self.targets.len()])
    }

    /// One line for the printed plan.
    #[must_use]
    pub fn describe(&self) -> String {
        let limit = self.pair_limit.0;
        match self.pool {
            Pool::Single => format!("one pair of addresses, to {}", self.targets[0]),
            Pool::Destinations => {
                let (first, last) = (self.targets[0], self.targets[self.targets.len() - 1]);
                let count = self.targets.len();
                format!("{count} destination addresses {first} to {last}, at most {limit} connections each")
            }
            Pool::Sources => {
                let (first, last) = (self.sources[0], self.sources[self.sources.len() - 1]);
                let (count, target) = (self.sources.len(), self.targets[0]);
                format!(
                    "{count} source addresses {first} to {last}, at most {limit} connections each, to {target}"
                )
            }
        }
    }
}

/// 127.0.1.1, 127.0.2.1 … 127.0.254.1, 127.1.1.1 …
fn loopback(index: u32) -> IpAddr {
    let (second, third) = (index / 254, index % 254 + 1);
    IpAddr::V4(Ipv4Addr::new(127, second as u8, third as u8, 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const TARGET: &str = "127.0.0.1:8080";
    const DEFAULT_PORTS: (u16, u16) = (32_768, 60_999);

    fn plan(connections: u32, accepts: bool) -> AddressPlan {
        let limit = PairLimit::of_ports(1_024, 65_535);
        AddressPlan::new(connections, TARGET.parse().unwrap(), &[], limit, |probed| {
            assert_eq!(probed.to_string(), "127.0.1.1:8080");
            accepts
        })
        .unwrap()
    }

    #[test]
    fn few_connections_need_no_pool() {
        let plan = plan(19_000, true);
        assert_eq!(plan.pool, Pool::Single);
        assert_eq!(plan.pair(7), (None, TARGET.parse().unwrap()));
    }

    #[test]
    fn a_million_take_53_destinations_or_as_many_sources() {
        let destinations = plan(1_000_000, true);
        assert_eq!((destinations.pool, destinations.targets.len()), (Pool::Destinations, 53));
        assert_eq!(destinations.pair(0), (None, "127.0.1.1:8080".parse().unwrap()));
        assert_eq!(destinations.pair(52), (None, "127.0.53.1:8080".parse().unwrap()));
        let sources = plan(1_000_000, false);
        assert_eq!((sources.pool, sources.sources.len()), (Pool::Sources, 53));
        assert_eq!(sources.pair(53), (Some("127.0.1.1:0".parse().unwrap()), TARGET.parse().unwrap()));
    }

    #[test]
    fn no_pair_gets_more_than_its_limit() {
        for connections in [19_001, 100_000, 1_000_000, 6_000_000] {
            for accepts in [true, false] {
                let plan = plan(connections, accepts);
                let mut per_pair = BTreeMap::<_, u32>::new();
                (0..connections).for_each(|member| *per_pair.entry(plan.pair(member)).or_default() += 1);
                assert!(per_pair.values().all(|&count| count <= plan.pair_limit.0), "{connections}");
            }
        }
    }

    #[test]
    fn a_narrow_port_range_means_more_addresses() {
        assert_eq!(PairLimit::of_ports(DEFAULT_PORTS.0, DEFAULT_PORTS.1), PairLimit(18_821));
        assert_eq!(PairLimit::of_ports(50_000, 50_999), PairLimit(666));
        assert_eq!(PairLimit::of_ports(1, 1), PairLimit(1));
        assert_eq!(PairLimit::of_ports(2, 1), PairLimit(1));
    }

    #[test]
    fn another_machine_needs_sources_by_hand() {
        let target = "192.0.2.1:80".parse().unwrap();
        let none = |_| unreachable!("only loopback is probed");
        let error = AddressPlan::new(50_000, target, &[], PairLimit(19_000), none).unwrap_err();
        assert!(error.to_string().contains("need 3 source addresses"), "{error}");
        let sources: Vec<IpAddr> =
            ["192.0.2.2", "192.0.2.3", "192.0.2.4"].map(|a| a.parse().unwrap()).to_vec();
        let plan = AddressPlan::new(50_000, target, &sources, PairLimit(19_000), none).unwrap();
        assert_eq!(plan.pair(4), (Some("192.0.2.3:0".parse().unwrap()), target));
    }

    #[test]
    fn addresses_stay_in_127_and_differ() {
        let addresses: std::collections::BTreeSet<IpAddr> = (0..10_000).map(loopback).collect();
        assert_eq!(addresses.len(), 10_000);
        assert!(addresses.iter().all(IpAddr::is_loopback));
    }
}
