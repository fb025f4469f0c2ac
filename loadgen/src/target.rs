//! Where the load goes: a `ws://` URL (RFC 6455 §3) and what it resolves to.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// A WebSocket endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// As given, for reports.
    pub url: String,
    /// The value of the `Host` header.
    pub host: String,
    /// Path and query: the request target.
    pub path: String,
    /// Where to connect.
    pub address: SocketAddr,
}

/// Why a URL is no target.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// TLS.
    #[error(
        "`{0}`: wss:// is not supported yet; point the generator at the plain port (ws://) behind the TLS end"
    )]
    Tls(String),
    /// Another scheme, or none.
    #[error("`{0}` is no WebSocket URL; it begins with ws://, for example ws://127.0.0.1:8080/ws")]
    Scheme(String),
    /// Something that a WebSocket URL does not have.
    #[error("`{url}`: {what}; a WebSocket URL is ws://host[:port]/path[?query]")]
    Malformed {
        /// As given.
        url: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// No address for the host.
    #[error("cannot resolve `{host}`: {why}")]
    Unresolved {
        /// The name.
        host: String,
        /// The resolver's answer.
        why: String,
    },
}

impl Target {
    /// Parses a URL and resolves its host (IPv4 before IPv6).
    ///
    /// # Errors
    /// When it is no `ws://` URL or its host has no address.
    pub fn parse(url: &str) -> Result<Self, TargetError> {
        let lower = url.get(..6).unwrap_or(url).to_ascii_lowercase();
        if lower.starts_with("wss://") {
            return Err(TargetError::Tls(url.into()));
        }
        if !lower.starts_with("ws://") {
            return Err(TargetError::Scheme(url.into()));
        }
        let malformed = |what| TargetError::Malformed { url: url.into(), what };
        let rest = &url[5..];
        if rest.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(malformed("it contains a space or a control character"));
        }
        if rest.contains('#') {
            return Err(malformed("it has a fragment"));
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err(malformed("it has a user name; use --header 'Authorization: …'"));
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let (host, port) = split_port(authority).map_err(malformed)?;
        if host.is_empty() {
            return Err(malformed("it has no host"));
        }
        let address = resolve(host, port)?;
        Ok(Self { url: url.into(), host: authority.into(), path, address })
    }
}

fn split_port(authority: &str) -> Result<(&str, u16), &'static str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("its IPv6 address is not closed with `]`")?;
            (host, after.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        None => 80,
        Some(port) => port.parse().ok().filter(|&port| port != 0).ok_or("its port is not from 1 to 65535")?,
    };
    Ok((host, port))
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr, TargetError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, port));
    }
    let unresolved = |why: String| TargetError::Unresolved { host: host.into(), why };
    let mut addresses: Vec<SocketAddr> =
        (host, port).to_socket_addrs().map_err(|error| unresolved(error.to_string()))?.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses.first().copied().ok_or_else(|| unresolved("the name has no address".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_url() {
        let check = |url: &str, host: &str, path: &str, address: &str| {
            let target = Target::parse(url).unwrap();
            assert_eq!((target.host.as_str(), target.path.as_str()), (host, path), "{url}");
            assert_eq!(target.address, address.parse().unwrap(), "{url}");
        };
        check("ws://127.0.0.1:8080/ws", "127.0.0.1:8080", "/ws", "127.0.0.1:8080");
        check("WS://127.0.0.1", "127.0.0.1", "/", "127.0.0.1:80");
        check("ws://[::1]:9/a/b?c=d", "[::1]:9", "/a/b?c=d", "[::1]:9");
        check("ws://127.0.0.1?c", "127.0.0.1", "/?c", "127.0.0.1:80");
    }

    #[test]
    fn errors_say_what_to_do() {
        let error = |url: &str| Target::parse(url).unwrap_err().to_string();
        assert!(error("wss://example.org/").contains("wss:// is not supported yet"));
        assert!(error("http://example.org/").contains("begins with ws://"));
        assert!(error("é").contains("begins with ws://"));
        assert!(error("ws:///path").contains("no host"));
        assert!(error("ws://host:0/").contains("port"));
        assert!(error("ws://host:99999/").contains("port"));
        assert!(error("ws://[::1/").contains("not closed"));
        assert!(error("ws://a b/").contains("space"));
        assert!(error("ws://a/#x").contains("fragment"));
        assert!(error("ws://user@a/").contains("--header"));
        assert!(error("ws://does-not-exist.invalid/").contains("does-not-exist.invalid"));
    }
}
