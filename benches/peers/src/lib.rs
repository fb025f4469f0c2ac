//! What the echo servers in `src/bin` have in common, and the [`duel`] that measures them.
//!
//! Each peer is as small and as fast as its library lets it be: one thread pinned to one core, TCP_NODELAY, whole
//! messages echoed at any path. They exist to be measured, so nothing here limits what a peer may send.

#![forbid(unsafe_code)]

pub mod duel;

use std::io;
use std::net::{SocketAddr, TcpListener};

use clap::Parser;

/// The largest message that a peer echoes, as `/echo` does.
pub const MESSAGE_BYTES: usize = 16 << 20;

/// How a peer is started.
#[derive(Debug, Parser)]
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// The processor to run on.
    #[arg(long)]
    pub core: Option<usize>,
}

impl Options {
    /// Pins this thread and opens the listener; says on standard output where, as a line `listening on ADDR`.
    ///
    /// # Errors
    /// What the kernel says about the core or the address.
    pub fn start(&self) -> io::Result<TcpListener> {
        if let Some(core) = self.core {
            let mut cores = rustix::thread::CpuSet::new();
            cores.set(core);
            rustix::thread::sched_setaffinity(None, &cores)?;
        }
        let listener = TcpListener::bind(self.listen)?;
        // The standard library asks for a short queue; a listener may ask again.
        rustix::net::listen(&listener, 65_535)?;
        listener.set_nonblocking(true)?;
        println!("listening on {}", listener.local_addr()?);
        Ok(listener)
    }
}

/// A Tokio runtime on this thread alone.
///
/// # Errors
/// What the kernel says.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
