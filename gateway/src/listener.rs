//! Listening sockets: one per shard on the same address, so that the kernel spreads connections over the shards.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use rustix::net::{self, AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

/// Connections that may wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;
/// How often, and how many times, an address that is in use is tried again. The kernel takes the rings of a killed process
/// apart after the process is gone, and with them its listeners; whoever starts it again at once must not fail over it.
const RETRY_EVERY: Duration = Duration::from_millis(20);
const RETRIES: u32 = 150;

/// Why nobody can listen there.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else does.
    #[error("{address} is in use by another process; stop it, or choose another address with --listen")]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// The kernel refused.
    #[error("cannot listen on {address}: {source}; choose an address of this machine with --listen")]
    Refused {
        /// The address.
        address: SocketAddr,
        /// Its answer.
        source: std::io::Error,
    },
}

/// Opens `count` listeners on one address; port 0 becomes one free port for all of them.
///
/// # Errors
/// When the address is not ours, or taken and stays so for 3 s.
pub fn listen(
    address: SocketAddr,
    count: usize,
    send_buffer_bytes: usize,
) -> Result<Vec<TcpListener>, ListenError> {
    listen_trying(address, count, send_buffer_bytes, RETRIES)
}

fn listen_trying(
    address: SocketAddr,
    count: usize,
    send_buffer_bytes: usize,
    mut retries: u32,
) -> Result<Vec<TcpListener>, ListenError> {
    // Without SO_REUSEPORT first: with it, a second server would silently share the port.
    let probe = loop {
        match open(address, false, send_buffer_bytes) {
            Err(ListenError::InUse { .. }) if retries > 0 => {
                retries -= 1;
                std::thread::park_timeout(RETRY_EVERY);
            }
            opened => break opened?,
        }
    };
    let address = probe.local_addr().map_err(|source| ListenError::Refused { address, source })?;
    drop(probe);
    (0..count).map(|_| open(address, true, send_buffer_bytes)).collect()
}

fn open(address: SocketAddr, share: bool, send_buffer_bytes: usize) -> Result<TcpListener, ListenError> {
    let refused = |errno: rustix::io::Errno| match errno {
        rustix::io::Errno::ADDRINUSE => ListenError::InUse { address },
        errno => ListenError::Refused { address, source: errno.into() },
    };
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP)).map_err(refused)?;
    sockopt::set_socket_reuseaddr(&socket, true).map_err(refused)?;
    if share {
        sockopt::set_socket_reuseport(&socket, true).map_err(refused)?;
    }
    // Accepted sockets inherit both.
    sockopt::set_tcp_nodelay(&socket, true).map_err(refused)?;
    sockopt::set_socket_send_buffer_size(&socket, send_buffer_bytes).map_err(refused)?;
    net::bind(&socket, &address).map_err(refused)?;
    net::listen(&socket, BACKLOG).map_err(refused)?;
    Ok(TcpListener::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_a_port_and_others_do_not_get_it() {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let listeners = listen(free, 3, 64 << 10).expect("loopback has a free port");
        let address = listeners[0].local_addr().expect("a listener has an address");
        assert!(listeners.iter().all(|listener| listener.local_addr().expect("as above") == address));
        // The kernel doubles what it is told, for its own bookkeeping; accepted sockets inherit it.
        for listener in &listeners {
            let size = sockopt::socket_send_buffer_size(listener).expect("a socket has a size");
            assert_eq!(size, 2 * (64 << 10));
        }
        let again = listen_trying(address, 1, 64 << 10, 1);
        assert!(matches!(again, Err(ListenError::InUse { .. })), "{again:?}");
    }

    #[test]
    fn the_address_of_a_process_that_is_being_taken_apart_is_waited_for() {
        let before =
            listen(SocketAddr::from(([127, 0, 0, 1], 0)), 2, 64 << 10).expect("loopback has a free port");
        let address = before[0].local_addr().expect("a listener has an address");
        let next = std::thread::spawn(move || listen(address, 2, 64 << 10));
        drop(before);
        next.join().expect("it does not panic").expect("the address is free soon");
    }
}
