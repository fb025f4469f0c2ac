//! What the API knows of the rest of the server: injected, so that tests can run it alone.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::token::{TokenKey, unix_now_seconds};

use super::guest::Guests;

/// What the API's endpoints work on.
#[derive(Clone)]
pub struct ApiState {
    /// The configuration in force.
    pub config: Arc<Config>,
    /// Where the server listens: with port 0 in the configuration, the port that it got.
    pub address: SocketAddr,
    /// Whether new work is welcome; asked at each `/readyz`.
    pub ready: Arc<dyn Fn() -> Readiness + Send + Sync>,
    /// The wall clock, in Unix seconds.
    pub now_seconds: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Everything that is counted.
    pub metrics: Arc<Metrics>,
    /// Signs guests' tokens.
    pub tokens: Arc<TokenKey>,
    pub(super) guests: Arc<Guests>,
}

impl ApiState {
    /// The state of a server that listens at this address.
    #[must_use]
    pub fn new(
        config: Arc<Config>,
        address: SocketAddr,
        metrics: Arc<Metrics>,
        tokens: Arc<TokenKey>,
        ready: impl Fn() -> Readiness + Send + Sync + 'static,
    ) -> Self {
        Self {
            config,
            address,
            ready: Arc::new(ready),
            now_seconds: Arc::new(unix_now_seconds),
            metrics,
            tokens,
            guests: Arc::default(),
        }
    }
}

impl fmt::Debug for ApiState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiState").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Whether the server wants work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It does.
    Ready,
    /// It does not: why, for people.
    NotReady(Vec<String>),
}
