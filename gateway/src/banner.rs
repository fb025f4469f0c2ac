//! What was started, in a few lines for people: where to click, what it runs on, how much it holds, what to try.

use std::fmt::Write as _;
use std::path::Path;

use holdfast_reactor::DriverKind;
use holdfast_tuning::demand::{self, Ends};
use holdfast_tuning::ledger::Waiting;

use crate::config::{Config, show_bytes};
use crate::serve::Description;

/// The banner of a server that has started.
#[must_use]
pub fn banner(config: &Config, started: &Description, colour: bool) -> String {
    let nofile = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    Facts {
        address: started.address,
        data: &config.data,
        driver: started.driver,
        driver_reason: started.driver_reason.as_deref(),
        shards: started.shards as u64,
        workers: started.workers as u64,
        connections: started.connection_limit as u64,
        memory_bytes: started.memory_limit_bytes,
        nofile: nofile.unwrap_or(u64::MAX),
        guests: config.guests_enabled(),
        bench_endpoints: config.bench_endpoints,
    }
    .render(colour)
}

/// What the banner says, before it is text.
struct Facts<'a> {
    address: std::net::SocketAddr,
    data: &'a Path,
    driver: DriverKind,
    driver_reason: Option<&'a str>,
    shards: u64,
    workers: u64,
    connections: u64,
    memory_bytes: u64,
    nofile: u64,
    guests: bool,
    bench_endpoints: bool,
}

impl Facts<'_> {
    fn render(&self, colour: bool) -> String {
        let (strong, link, faint, plain) =
            if colour { ("\x1b[1m", "\x1b[1;36m", "\x1b[2m", "\x1b[0m") } else { ("", "", "", "") };
        let mut text = format!("\n  {strong}Holdfast {}{plain} is serving\n\n", env!("CARGO_PKG_VERSION"));
        let mut line = |what: &str, value: &str| {
            // Writing to a string fails never.
            let _ = writeln!(text, "  {faint}{what:8}{plain}{value}");
        };
        line("open", &format!("{link}{}{plain}", self.url()));
        line("data", &self.data.display().to_string());
        line("driver", &self.driver());
        line("holds", &self.holds());
        if self.bench_endpoints {
            line("echo", "/echo is on: no login, no rate limits; for benches only");
        }
        let advice = if self.guests {
            "Open that page in two tabs, come in under two names, and chat."
        } else {
            "Guests are off here. `holdfast token --user 42 --device laptop` prints a token to come in with."
        };
        let _ = write!(
            text,
            "\n  {advice}\n  {faint}Ctrl-C drains and stops; `holdfast --help` shows the rest.{plain}\n\n"
        );
        text
    }

    /// What a browser on this machine can open.
    fn url(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        format!("http://{address}/")
    }

    fn driver(&self) -> String {
        let threads = format!("{}, {}", plural(self.shards, "shard"), plural(self.workers, "storage worker"));
        match self.driver {
            DriverKind::Uring => {
                let rings = demand::rings(self.connections, self.nofile, self.shards);
                let slots = thousands(rings.slots_per_ring);
                let per_shard = plural(rings.per_shard, "ring");
                format!(
                    "io_uring; {threads}; up to {per_shard} × {slots} slots per shard, made as they are needed"
                )
            }
            _ => match self.driver_reason {
                Some(reason) => format!("epoll, because io_uring is not to be had: {reason}; {threads}"),
                None => format!("epoll; {threads}"),
            },
        }
    }

    /// How many connections fit, and what is in the way of more.
    fn holds(&self) -> String {
        let waiting = match self.driver {
            DriverKind::Uring => Waiting::MultishotPoll,
            _ => Waiting::Epoll,
        };
        let total = |connections| demand::memory(connections, Ends::Server, waiting, 0).total_bytes;
        let each = total(1_000_000).saturating_sub(total(0)) / 1_000_000;
        let by_memory = self.memory_bytes.saturating_sub(total(0)) / each.max(1);
        let mut bounds = vec![(self.connections, "limits.connections".to_owned())];
        bounds.push((
            by_memory,
            format!("{} of memory at {} bytes each", show_gib(self.memory_bytes), thousands(each)),
        ));
        if self.driver != DriverKind::Uring {
            bounds.push((
                self.nofile.saturating_sub(demand::nofile_epoll(0)),
                "RLIMIT_NOFILE (ulimit -n)".to_owned(),
            ));
        }
        let (most, because) =
            bounds.into_iter().min_by_key(|(most, _)| *most).expect("there are at least two bounds");
        format!("up to {} connections, by {because}", thousands(most))
    }
}

fn plural(count: u64, what: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {what}{ending}")
}

/// `1000000` → `1,000,000`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn show_gib(bytes: u64) -> String {
    match bytes >> 30 {
        0 => show_bytes(bytes),
        _ => {
            let tenths = (bytes * 10) >> 30;
            format!("{}.{} GiB", tenths / 10, tenths % 10)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts<'static> {
        Facts {
            address: "127.0.0.1:8080".parse().expect("an address"),
            data: Path::new("./holdfast-data"),
            driver: DriverKind::Uring,
            driver_reason: None,
            shards: 2,
            workers: 2,
            connections: 2_000_000,
            memory_bytes: 20 << 30,
            nofile: 20_000,
            guests: true,
            bench_endpoints: false,
        }
    }

    #[test]
    fn a_newcomer_reads_where_to_click_and_what_to_try() {
        let text = facts().render(false);
        assert!(text.contains("open    http://127.0.0.1:8080/"), "{text}");
        assert!(text.contains("× 20,000 slots"), "{text}");
        assert!(text.contains("up to 2,000,000 connections, by limits.connections"), "{text}");
        assert!(text.contains("two tabs"), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
        assert!(facts().render(true).contains("\x1b[1;36mhttp://127.0.0.1:8080/\x1b[0m"));
    }

    #[test]
    fn the_least_bound_is_named() {
        let memory = Facts { memory_bytes: 2 << 30, ..facts() }.render(false);
        assert!(memory.contains("by 2.0 GiB of memory"), "{memory}");
        let epoll =
            Facts { driver: DriverKind::Epoll, driver_reason: Some("EPERM"), ..facts() }.render(false);
        assert!(epoll.contains("by RLIMIT_NOFILE"), "{epoll}");
        assert!(epoll.contains("io_uring is not to be had: EPERM"), "{epoll}");
    }

    #[test]
    fn everywhere_is_shown_as_here_and_guests_off_as_a_token() {
        let open =
            Facts { address: "[::]:80".parse().expect("an address"), guests: false, ..facts() }.render(false);
        assert!(open.contains("http://[::1]:80/"), "{open}");
        assert!(open.contains("holdfast token"), "{open}");
    }

    #[test]
    fn numbers_are_grouped_by_three() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
    }
}
