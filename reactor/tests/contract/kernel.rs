//! The world of the kernel's own sockets, on 127.0.0.0/8.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use holdfast_reactor::Driver;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::world::{Incoming, Peer, World};

/// A driver of the kernel's sockets.
pub(crate) struct Kernel<D> {
    driver: D,
    address: Option<SocketAddr>,
    host: Option<TcpListener>,
    /// Bound, so that nobody else gets the port, but not listening.
    deserted: Option<rustix::fd::OwnedFd>,
}

impl<D: Driver> Kernel<D> {
    pub(crate) fn new(driver: D) -> Self {
        Self { driver, address: None, host: None, deserted: None }
    }
}

fn bound_socket() -> (rustix::fd::OwnedFd, SocketAddr) {
    let flags = SocketFlags::CLOEXEC;
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).expect("a socket");
    rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port of 127.0.0.1");
    let address = rustix::net::getsockname(&socket).expect("the port's number");
    (socket, address.try_into().expect("an internet address"))
}

/// With room for a thousand that come at once; the standard library's own has 128.
fn listener() -> TcpListener {
    let (socket, _) = bound_socket();
    rustix::net::listen(&socket, 4096).expect("listening");
    TcpListener::from(socket)
}

impl<D: Driver> World for Kernel<D> {
    type Driver = D;
    type Peer = KernelPeer;

    // The receiver's buffer grows to `tcp_rmem`'s maximum, 6 MiB unless somebody has raised it.
    const MORE_THAN_FITS_BYTES: usize = 24 << 20;

    const MESSAGES_FROM_A_THREAD: usize = 300;

    fn driver(&mut self) -> &mut D {
        &mut self.driver
    }

    fn listen(&mut self) {
        let listener = listener();
        self.address = Some(listener.local_addr().expect("a bound listener has an address"));
        self.driver.listen(listener).expect("the driver takes a listener");
    }

    fn dial(&mut self) -> Option<KernelPeer> {
        // The kernel shakes hands before anybody accepts, so this does not wait for the driver.
        match TcpStream::connect(self.address.expect("the body calls `listen` first")) {
            Ok(stream) => Some(KernelPeer::new(stream)),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => None,
            Err(error) => panic!("cannot connect: {error}"),
        }
    }

    fn host(&mut self) -> SocketAddr {
        let host = self.host.get_or_insert_with(|| {
            let host = listener();
            host.set_nonblocking(true).expect("a listener can be made non-blocking");
            host
        });
        host.local_addr().expect("a bound listener has an address")
    }

    fn arrival(&mut self) -> Option<(KernelPeer, SocketAddr)> {
        match self.host.as_ref()?.accept() {
            Ok((stream, from)) => Some((KernelPeer::new(stream), from)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("cannot accept: {error}"),
        }
    }

    fn deserted(&mut self) -> SocketAddr {
        let (socket, address) = bound_socket();
        self.deserted = Some(socket);
        address
    }
}

/// The other end, as a socket of the standard library.
pub(crate) struct KernelPeer {
    stream: TcpStream,
}

impl KernelPeer {
    fn new(stream: TcpStream) -> Self {
        stream.set_nonblocking(true).expect("a stream can be made non-blocking");
        stream.set_nodelay(true).expect("a stream takes TCP_NODELAY");
        Self { stream }
    }
}

impl Peer for KernelPeer {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.stream.write(bytes).unwrap_or(0)
    }

    fn read(&mut self, into: &mut Vec<u8>) -> Incoming {
        let mut chunk = [0; 64 << 10];
        match self.stream.read(&mut chunk) {
            Ok(0) => Incoming::End,
            Ok(bytes) => {
                into.extend_from_slice(&chunk[..bytes]);
                Incoming::Bytes
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Incoming::Nothing,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Incoming::Reset,
            Err(error) => panic!("the peer cannot read: {error}"),
        }
    }

    fn shutdown(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("an open stream can be shut down");
    }

    fn reset(self) {
        sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).expect("a stream takes SO_LINGER");
    }
}
