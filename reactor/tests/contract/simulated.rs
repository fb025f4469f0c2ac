//! The world of the simulated network, with every fault that a correct user of a driver does not notice.

use std::net::{Ipv4Addr, SocketAddr};

use holdfast_reactor::DriverOptions;
use holdfast_reactor::sim::{Chance, Faults, Network, PeerRead, SimDriver, SimPeer};

use crate::world::{Incoming, Peer, World};

/// A driver on a simulated network.
pub(crate) struct Simulated {
    driver: SimDriver,
    network: Network,
    takes_what_fits: bool,
}

impl Simulated {
    pub(crate) fn new(options: DriverOptions, seed: u64, faults: Faults) -> Self {
        let takes_what_fits = faults.short_write == Chance::NEVER;
        let network = Network::new(seed, faults);
        Self { driver: SimDriver::new(options, &network), network, takes_what_fits }
    }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

impl World for Simulated {
    type Driver = SimDriver;
    type Peer = SimPeer;

    const MORE_THAN_FITS_BYTES: usize = 1 << 20;

    const MESSAGES_FROM_A_THREAD: usize = 5;

    fn takes_what_fits(&self) -> bool {
        self.takes_what_fits
    }

    fn driver(&mut self) -> &mut SimDriver {
        &mut self.driver
    }

    fn listen(&mut self) {
        self.driver.listen_in_simulation();
    }

    fn dial(&mut self) -> Option<SimPeer> {
        self.network.dial()
    }

    fn host(&mut self) -> SocketAddr {
        self.network.open_host(address(80));
        address(80)
    }

    fn arrival(&mut self) -> Option<(SimPeer, SocketAddr)> {
        self.network.arrival().map(|arrival| (arrival.peer, arrival.source))
    }

    fn deserted(&mut self) -> SocketAddr {
        address(81)
    }
}

impl Peer for SimPeer {
    fn write(&mut self, bytes: &[u8]) -> usize {
        Self::write(self, bytes)
    }

    fn read(&mut self, into: &mut Vec<u8>) -> Incoming {
        match Self::read(self, into) {
            PeerRead::Nothing => Incoming::Nothing,
            PeerRead::Bytes(_) => Incoming::Bytes,
            PeerRead::End => Incoming::End,
            PeerRead::Reset => Incoming::Reset,
        }
    }

    fn shutdown(&mut self) {
        Self::shutdown(self);
    }

    fn reset(self) {
        Self::reset(self);
    }
}
