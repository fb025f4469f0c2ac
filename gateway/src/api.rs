//! The HTTP API, beside the shards: hyper and axum on a small runtime of their own, fed through byte pipes.
//!
//! The page, health, metrics and guests are served here. A request's way: the shard that owns the socket reads its
//! head; what is no WebSocket goes through a [`pipe`] to hyper on one of this runtime's threads; the answer comes
//! back through the same pipe. Sockets never come here, shards never wait for what happens here.
//!
//! Never here: sessions, and anything that waits for longer than a request may take. Long polls and event streams
//! are a kind of session, on the shard.
//!
//! The one invariant: every answer that is not a success is `application/problem+json` (RFC 9457) with a stable
//! `code`, also those that hyper's routing makes.

mod connection;
mod guest;
mod health;
mod host;
mod page;
pub mod pipe;
mod problem;
mod routes;
mod state;

use std::sync::Arc;

use crate::config::Config;

use self::connection::Serving;
use self::pipe::{EffectSender, HttpPipe, Permits, Pipe};
pub use self::state::{ApiState, Readiness};

/// Why the API could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No threads.
    #[error(
        "cannot start the threads of the HTTP API: {0}; raise the limit on processes (ulimit -u, pids.max)"
    )]
    Threads(std::io::Error),
}

/// The running API.
#[derive(Debug)]
pub struct HttpServer {
    runtime: tokio::runtime::Runtime,
    gate: HttpGate,
}

impl HttpServer {
    /// Starts the API's threads. `shards` are the senders that [`pipe::effects`] made, in the order of the shards.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn start(config: &Config, state: ApiState, shards: Vec<EffectSender>) -> Result<Self, ApiError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(usize::from(config.http.threads))
            // Nothing here blocks but a look at /proc.
            .max_blocking_threads(1)
            .thread_name("http")
            .enable_all()
            .build()
            .map_err(ApiError::Threads)?;
        let inner = GateInner {
            runtime: runtime.handle().clone(),
            shards,
            permits: Permits::new(config.http.connections),
            limit: config.http.connections,
            draining: tokio::sync::watch::Sender::new(false),
            serving: Arc::new(Serving::new(config, routes::router(Arc::new(state)))),
        };
        Ok(Self { runtime, gate: HttpGate { inner: Some(Arc::new(inner)) } })
    }

    /// What shards need to hand connections over; one clone for each.
    #[must_use]
    pub fn gate(&self) -> HttpGate {
        self.gate.clone()
    }

    /// The runtime that the API runs on, for what else needs one (signals).
    #[must_use]
    pub fn runtime(&self) -> &tokio::runtime::Handle {
        self.runtime.handle()
    }

    /// Answers what has begun, and closes every connection that is between two requests.
    pub fn drain(&self) {
        if let Some(inner) = &self.gate.inner {
            inner.draining.send_replace(true);
        }
    }

    /// Ends the API. What is not answered by now never will be.
    pub fn stop(self) {
        self.runtime.shutdown_background();
    }
}

/// Hands connections that speak plain HTTP over to the API.
#[derive(Debug, Clone)]
pub struct HttpGate {
    inner: Option<Arc<GateInner>>,
}

#[derive(Debug)]
struct GateInner {
    runtime: tokio::runtime::Handle,
    shards: Vec<EffectSender>,
    permits: Arc<Permits>,
    limit: u32,
    draining: tokio::sync::watch::Sender<bool>,
    serving: Arc<Serving>,
}

/// The API takes no more connections now: answer 503 with `Retry-After`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{limit} connections speak plain HTTP already (http.connections)")]
pub struct Busy {
    /// `http.connections`; 0 when there is no API at all.
    pub limit: u32,
}

impl HttpGate {
    /// A gate that is always busy: for a shard that runs without an API.
    #[must_use]
    pub fn closed() -> Self {
        Self { inner: None }
    }

    /// A pipe for this connection of this shard; push the request head and what came behind it next.
    ///
    /// # Errors
    /// [`Busy`] when as many connections as are allowed speak HTTP already.
    pub fn connect(&self, shard: u16, connection: u64) -> Result<HttpPipe, Busy> {
        let inner = self.inner.as_ref().ok_or(Busy { limit: 0 })?;
        let permit = inner.permits.take().ok_or(Busy { limit: inner.limit })?;
        let port = inner.shards[usize::from(shard)].clone();
        let (pipe, hypers_end) = Pipe::new(connection, port, permit);
        let serving = Arc::clone(&inner.serving);
        inner.runtime.spawn(serving.serve(hypers_end, inner.draining.subscribe()));
        Ok(pipe)
    }

    /// Connections that speak HTTP now.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.inner.as_ref().map_or(0, |inner| inner.limit.saturating_sub(inner.permits.free()))
    }
}

#[cfg(test)]
mod tests;
