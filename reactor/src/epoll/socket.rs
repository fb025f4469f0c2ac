//! The system calls of the epoll back end that are more than one call.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::{DriverOptions, Moment};

/// The kernel's monotonic clock.
pub(super) fn monotonic_now() -> Moment {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Moment(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// What accepted sockets inherit from their listener, so that accepting costs no further call for it.
pub(super) fn prepare_listener(listener: impl AsFd, options: &DriverOptions) -> Result<(), Errno> {
    rustix::io::ioctl_fionbio(&listener, true)?;
    set_options(&listener, options)
}

/// Frames are written whole, so waiting for more to fill a segment (Nagle, RFC 896) only adds delay.
fn set_options(socket: impl AsFd, options: &DriverOptions) -> Result<(), Errno> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    if let Some(bytes) = options.send_buffer_bytes {
        sockopt::set_socket_send_buffer_size(&socket, bytes)?;
    }
    Ok(())
}

/// A socket that has begun to connect.
pub(super) fn begin_connect(
    source: Option<SocketAddr>,
    target: SocketAddr,
    options: &DriverOptions,
) -> io::Result<OwnedFd> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    set_options(&socket, options)?;
    if let Some(source) = source {
        if source.port() == 0 {
            choose_port_at_connect(&socket)?;
        }
        rustix::net::bind(&socket, &source)?;
    }
    match rustix::net::connect(&socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// Leaves the port to `connect`, which knows the target: so a port serves once per target and not once per source
/// address (IP_BIND_ADDRESS_NO_PORT, Linux 4.2).
fn choose_port_at_connect(socket: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is the `c_int` `on`, which outlives the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes closing `socket` reset the connection.
pub(super) fn reset_on_close(socket: impl AsFd) {
    // Fails only for what is not a socket; then closing it still frees the descriptor.
    let _ = sockopt::set_socket_linger(socket, Some(std::time::Duration::ZERO));
}

/// Whether a failed accept says something about that one connection, not about the listener (accept(2), "Error
/// handling"): the next one may succeed at once.
pub(super) const fn is_about_one_connection(error: Errno) -> bool {
    matches!(
        error,
        Errno::CONNABORTED
            | Errno::INTR
            | Errno::NETDOWN
            | Errno::PROTO
            | Errno::NOPROTOOPT
            | Errno::HOSTDOWN
            | Errno::NONET
            | Errno::HOSTUNREACH
            | Errno::OPNOTSUPP
            | Errno::NETUNREACH
            | Errno::PERM
    )
}
