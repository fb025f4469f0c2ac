//! What an idle connection costs the generator itself, driver and all: at most 300 bytes of its process.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::net::{SocketAddr, TcpListener};
use std::thread;

use holdfast_protocol::ws::handshake::{HeadLimits, parse_request, write_accept};
use holdfast_reactor::epoll::EpollDriver;
use holdfast_reactor::{Driver, DriverOptions, Event};

use support::{DRIVERS, load};

/// Upgrades everybody and says nothing more. It ends with the test's process.
fn silent_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut driver =
            EpollDriver::new(DriverOptions { connections: 6_000, ..Default::default() }).unwrap();
        driver.listen(listener).unwrap();
        let mut events = Vec::new();
        loop {
            driver.turn(None, &mut events).unwrap();
            for event in events.drain(..) {
                match event {
                    Event::Received(connection, bytes) => {
                        // Close frames at the end do not parse as a request.
                        let Ok(Some(head)) = parse_request(&bytes, &HeadLimits::default()) else {
                            driver.close(connection);
                            continue;
                        };
                        let upgrade = head.upgrade().unwrap();
                        if let Some(output) = driver.output(connection) {
                            write_accept(output.buffer(), upgrade.key, None);
                        }
                    }
                    Event::EndOfStream(connection) => driver.close(connection),
                    _ => {}
                }
            }
        }
    });
    address
}

#[test]
fn an_idle_connection_costs_at_most_300_bytes() {
    let url = format!("ws://{}/", silent_server());
    let pid = std::process::id().to_string();
    for driver in DRIVERS {
        let rss_bytes = |connections: &str| {
            let words = [
                "hold",
                &url,
                "-n",
                connections,
                "--hold",
                "600ms",
                "--handshakes",
                "64",
                "--heartbeat",
                "0s",
            ];
            let words: Vec<&str> =
                words.into_iter().chain(["--server-pid", &pid, "--timeout", "60s"]).collect();
            let run = load(driver, &words).expect(0);
            let samples = run.json["series"].as_array().unwrap();
            let held: u64 = connections.parse().unwrap();
            let full = samples.iter().filter(|sample| sample["connections"].as_u64() == Some(held));
            full.map(|sample| sample["generator_rss_bytes"].as_u64().unwrap()).next_back().unwrap() as f64
        };
        let (few, many) = (rss_bytes("500"), rss_bytes("4500"));
        let each = (many - few) / 4_000.0;
        assert!(each <= 300.0, "{each:.0} bytes per idle connection on {driver}");
        println!("{each:.0} bytes per idle connection on {driver}");
    }
}
