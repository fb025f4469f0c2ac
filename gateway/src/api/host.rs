//! Is this request meant for us? Against DNS rebinding and against other sites' pages.
//!
//! A page of another site can make a browser send requests to `127.0.0.1`, and by letting its own name resolve to
//! `127.0.0.1` (DNS rebinding) can even read the answers. But then `Host` carries its *name*. So endpoints that give
//! something away to whoever can reach the port take only hosts that no foreign DNS server can answer for: an IP
//! address, `localhost` (RFC 6761 §6.3), or the host of a configured origin. And when the browser says which page
//! asks (`Origin`), it must be our own or a configured one.

use axum::http::HeaderMap;
use hyper::{StatusCode, header};

use super::problem::Problem;

/// Refuses what a foreign page could have sent.
pub(super) fn check(headers: &HeaderMap, allowed_origins: &[String]) -> Result<(), Problem> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next().map(|host| host.to_str()), hosts.next()) {
        (Some(Ok(host)), None) => host.to_ascii_lowercase(),
        _ => {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "bad_host",
                "the request needs exactly one `Host`",
            ));
        }
    };
    let mut allowed_hosts = allowed_origins.iter().filter_map(|origin| authority(origin));
    if !names_an_address(&host) && !allowed_hosts.any(|allowed| allowed == host) {
        let detail = format!(
            "`Host: {host}` is neither an address, nor localhost, nor the host of one of `auth.allowed_origins`"
        );
        return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "host_not_allowed", detail));
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        let own = authority(&origin) == Some(&host);
        if !own && !allowed_origins.contains(&origin) {
            let detail =
                format!("pages of `{origin}` may not do this; `auth.allowed_origins` says which may");
            return Err(Problem::new(StatusCode::FORBIDDEN, "origin_not_allowed", detail));
        }
    }
    Ok(())
}

/// The host and port of an origin.
fn authority(origin: &str) -> Option<&str> {
    origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))
}

/// `127.0.0.1:8080`, `[::1]:8080`, `localhost`: what no DNS server is asked for.
fn names_an_address(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let name = name.strip_suffix('.').unwrap_or(name);
            name == "localhost" || name.ends_with(".localhost") || name.parse::<std::net::Ipv4Addr>().is_ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn verdict(host: &[&str], origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        for host in host {
            headers
                .append(header::HOST, HeaderValue::from_str(host).expect("a test's host is a header value"));
        }
        if let Some(origin) = origin {
            headers.insert(
                header::ORIGIN,
                HeaderValue::from_str(origin).expect("a test's origin is a header value"),
            );
        }
        check(&headers, &["https://chat.example.org".to_owned()]).is_ok()
    }

    #[test]
    fn addresses_and_localhost_are_ours_and_foreign_names_are_not() {
        for host in [
            "127.0.0.1:8080",
            "127.0.0.1",
            "[::1]:8080",
            "[::1]",
            "localhost:1",
            "a.localhost",
            "LOCALHOST",
            "10.0.0.7:80",
            "localhost.:80",
        ] {
            assert!(verdict(&[host], None), "{host}");
        }
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example:80",
            "",
            "::1",
            "[evil.example]",
            "chat.example.org.evil.example",
        ] {
            assert!(!verdict(&[host], None), "{host}");
        }
        assert!(verdict(&["chat.example.org"], None));
        assert!(!verdict(&[], None));
        assert!(!verdict(&["127.0.0.1", "127.0.0.1"], None));
    }

    #[test]
    fn only_our_own_pages_and_configured_ones_may_ask() {
        assert!(verdict(&["127.0.0.1:8080"], Some("http://127.0.0.1:8080")));
        assert!(verdict(&["127.0.0.1:8080"], Some("https://chat.example.org")));
        for origin in
            ["http://evil.example", "http://127.0.0.1:9090", "null", "http://127.0.0.1:8080.evil.example"]
        {
            assert!(!verdict(&["127.0.0.1:8080"], Some(origin)), "{origin}");
        }
    }
}
