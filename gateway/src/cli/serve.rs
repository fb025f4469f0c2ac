//! `holdfast serve`: from the configuration to the banner, and from a signal to the exit.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use tracing_subscriber::EnvFilter;

use super::{ConfigFlags, Exit, Failure, print};
use crate::banner;
use crate::serve::Server;

pub(super) fn run(flags: &ConfigFlags) -> Result<Exit, Failure> {
    let effective = flags.resolve()?;
    let config = &effective.config;
    start_log(&config.log.filter);
    decline_huge_pages();
    // Before any thread exists, so that no signal finds nobody.
    let signals = Signals::register().map_err(|error| Failure::new(Exit::Setup, &error))?;
    let server = Server::start(config).map_err(|error| Failure::new(Exit::Setup, &error))?;
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    print(&banner::banner(config, server.description(), colour))?;
    let alarm = signals.alarm().map_err(|error| Failure::new(Exit::Setup, &error))?;
    server.on_failure(move || alarm.ring());
    match signals.wait().map_err(|error| Failure::new(Exit::Failed, &error))? {
        0 => tracing::error!("stopping, since a part of the server has failed"),
        signal => {
            tracing::info!(signal, within = ?config.drain.timeout, "draining; a second signal ends at once");
        }
    }
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            if let Ok(second) = signals.wait() {
                // As a shell counts a process that a signal has ended.
                std::process::exit(128 + i32::from(second));
            }
        })
        .map_err(|error| Failure::new(Exit::Failed, &error))?;
    server.stop(config.drain.timeout).map_err(|error| Failure::new(Exit::Failed, &error))?;
    Ok(Exit::Ok)
}

/// Huge pages would hold memory for what is not there yet: docs/decisions/010. Before anything large is allocated.
fn decline_huge_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "the kernel gives this process huge pages where it can");
    }
}

/// Log lines go to standard error, so that standard output is the banner's alone.
fn start_log(filter: &str) {
    let filter = EnvFilter::try_new(filter).expect("the configuration has tried the filter");
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

/// The signals that ask the process to go. A handler may do next to nothing, so it stores which signal it was and
/// writes a byte into a socket; whoever waits reads the other end.
struct Signals {
    arrivals: UnixStream,
    handlers_end: UnixStream,
    latest: Arc<AtomicUsize>,
}

impl Signals {
    fn register() -> std::io::Result<Self> {
        let (arrivals, handlers_end) = UnixStream::pair()?;
        let latest = Arc::new(AtomicUsize::new(0));
        for signal in [SIGTERM, SIGINT] {
            // In this order: who reads the byte finds the number. Signal numbers are small and positive.
            signal_hook::flag::register_usize(signal, Arc::clone(&latest), signal as usize)?;
            signal_hook::low_level::pipe::register(signal, handlers_end.try_clone()?)?;
        }
        Ok(Self { arrivals, handlers_end, latest })
    }

    /// Ends a wait without a signal.
    fn alarm(&self) -> std::io::Result<SignalAlarm> {
        self.handlers_end.try_clone().map(SignalAlarm)
    }

    /// Waits for the next signal and returns its number; 0 for an alarm.
    fn wait(&self) -> std::io::Result<u8> {
        let mut byte = [0u8; 1];
        (&self.arrivals).read_exact(&mut byte)?;
        Ok(u8::try_from(self.latest.load(Ordering::SeqCst)).unwrap_or(0))
    }
}

/// See [`Signals::alarm`].
struct SignalAlarm(UnixStream);

impl SignalAlarm {
    fn ring(&self) {
        // The socket is full only of bytes that wake the waiter too.
        let _ = (&self.0).write(&[0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_signal_is_seen_once_and_by_its_number() {
        let signals = Signals::register().expect("handlers can be installed");
        for signal in [SIGTERM, SIGINT] {
            signal_hook::low_level::raise(signal).expect("a process may signal itself");
            assert_eq!(signals.wait().expect("the socket is open"), signal as u8);
        }
        signals.latest.store(0, Ordering::SeqCst);
        signals.alarm().expect("a socket can be shared").ring();
        assert_eq!(signals.wait().expect("the socket is open"), 0);
        signals.arrivals.set_nonblocking(true).expect("a socket can be made non-blocking");
        assert_eq!(signals.wait().map_err(|error| error.kind()), Err(std::io::ErrorKind::WouldBlock));
    }
}
