//! What the server says of itself on `/metrics`.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long the server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// More than any page has.
const PAGE_BYTES_MAX: u64 = 4 << 20;

/// Fetches the page.
///
/// # Errors
/// When nobody answers, or not with 200.
pub fn scrape(address: SocketAddr, host: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(PAGE_BYTES_MAX).read_to_string(&mut answer)?;
    if !answer.starts_with("HTTP/1.1 200") {
        let first = answer.lines().next().unwrap_or("nothing");
        return Err(io::Error::other(format!("the answer is {first:?}")));
    }
    Ok(answer)
}

/// The value of a sample without labels.
#[must_use]
pub fn value(page: &str, name: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_sample_is_found_by_its_whole_name() {
        let page = "# TYPE a gauge\na_total 3\na{code=\"x\"} 4\na 5\n";
        assert_eq!(
            (value(page, "a"), value(page, "a_total"), value(page, "b")),
            (Some(5.0), Some(3.0), None)
        );
    }

    #[test]
    fn a_server_without_metrics_is_said_so() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
        let address = listener.local_addr().expect("it is bound");
        let server = std::thread::spawn(move || {
            for answer in ["HTTP/1.1 404 Not Found\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\na 5\n"] {
                let (mut stream, _) = listener.accept().expect("it is asked");
                let mut request = [0; 1_024];
                let length = stream.read(&mut request).expect("it is asked");
                assert!(request[..length].starts_with(b"GET /metrics HTTP/1.1\r\nHost: h\r\n"));
                stream.write_all(answer.as_bytes()).expect("it listens");
            }
        });
        assert!(scrape(address, "h").expect_err("404").to_string().contains("404"));
        assert_eq!(value(&scrape(address, "h").expect("200"), "a"), Some(5.0));
        server.join().expect("it has answered");
    }
}
