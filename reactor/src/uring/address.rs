//! Socket addresses as the kernel reads them.

use std::mem;
use std::net::SocketAddr;

/// A `sockaddr_in` or `sockaddr_in6`.
#[derive(Clone, Copy)]
pub(super) enum RawAddress {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
}

impl RawAddress {
    /// `AF_INET` or `AF_INET6`.
    pub(super) const fn family(&self) -> i32 {
        match self {
            Self::V4(_) => libc::AF_INET,
            Self::V6(_) => libc::AF_INET6,
        }
    }

    /// True for an IPv4 address without a port.
    pub(super) const fn is_any_port_of_v4(&self) -> bool {
        matches!(self, Self::V4(address) if address.sin_port == 0)
    }

    /// Where it stands and how long it is; valid as long as `self` does not move.
    pub(super) const fn parts(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        match self {
            Self::V4(address) => {
                (std::ptr::from_ref(address).cast(), mem::size_of::<libc::sockaddr_in>() as libc::socklen_t)
            }
            Self::V6(address) => {
                (std::ptr::from_ref(address).cast(), mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t)
            }
        }
    }
}

impl From<SocketAddr> for RawAddress {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => Self::V4(libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(address) => Self::V6(libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            }),
        }
    }
}
