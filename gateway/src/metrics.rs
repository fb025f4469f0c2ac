//! What is counted, and how it is read.
//!
//! Each shard has a [`ShardCounters`] that only its thread writes: a plain load and store, no locked instruction, no
//! cache line shared with another shard. `/metrics` adds them up when it is asked. What others count (the store, the
//! API) and what the system knows (memory, descriptors) is added as sources of the same page.
//!
//! Never here: anything per connection or per user; labels come from small fixed tables.
//!
//! The one invariant: a counter only grows while the process lives.

mod counter;
mod exposition;
pub mod process;
mod store;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_protocol::ws::CloseCode;
use holdfast_storage::command::{Delivery, Note};

pub use counter::{ByCode, ByLabel, Counter, Gauge};
pub use exposition::Exposition;
pub use store::store_source;

macro_rules! shard_counters {
    ($($kind:ident $field:ident: $type:ty = $name:literal, $help:literal;)+) => {
        /// What one shard counts. Only its thread writes.
        #[derive(Debug, Default)]
        // Two cache lines, because the processor fetches them in pairs.
        #[repr(align(128))]
        pub struct ShardCounters {
            $(#[doc = $help] pub $field: $type,)+
        }

        fn render_shards(shards: &[Arc<ShardCounters>], page: &mut Exposition) {
            $(shard_counters!(@$kind page, $name, $help, shards, $field);)+
        }
    };
    (@counter $page:ident, $name:literal, $help:literal, $shards:ident, $field:ident) => {
        $page.counter($name, $help, $shards.iter().map(|shard| shard.$field.read()).sum());
    };
    (@gauge $page:ident, $name:literal, $help:literal, $shards:ident, $field:ident) => {
        $page.gauge($name, $help, $shards.iter().map(|shard| shard.$field.read()).sum());
    };
    (@by_code $page:ident, $name:literal, $help:literal, $shards:ident, $field:ident) => {
        let samples = counter::merge($shards.iter().map(|shard| shard.$field.read()));
        $page.counters($name, $help, "code", samples);
    };
    (@by_label $page:ident, $name:literal, $help:literal, $shards:ident, $field:ident) => {
        let samples = counter::merge($shards.iter().map(|shard| shard.$field.read()));
        $page.counters($name, $help, "code", samples);
    };
}

shard_counters! {
    gauge connections: Gauge = "holdfast_connections", "Open connections, whatever they speak.";
    counter accepted: Counter = "holdfast_connections_accepted_total", "Connections accepted.";
    counter accepts_failed: Counter = "holdfast_accept_failures_total", "Accepts that the kernel refused.";
    counter refused: Counter = "holdfast_connections_refused_total",
        "Connections answered with 503 because a limit of the process was reached.";
    counter closed: Counter = "holdfast_connections_closed_total", "Connections that have ended.";
    counter reset_by_peer: Counter = "holdfast_connections_reset_total", "Connections that ended with a socket error.";
    counter http_connections: Counter = "holdfast_http_connections_total", "Connections handed to the HTTP API.";
    counter http_refused: Counter = "holdfast_http_connections_refused_total",
        "Connections answered with 503 because as many as are allowed spoke HTTP.";
    counter handshakes: Counter = "holdfast_handshakes_total", "WebSocket handshakes completed.";
    by_code handshakes_refused: ByCode = "holdfast_handshakes_refused_total",
        "Request heads that a shard refused, by HTTP status.";
    counter handshake_timeouts: Counter = "holdfast_handshake_timeouts_total",
        "Connections closed because their request head or `hello` did not come in time.";
    gauge sessions: Gauge = "holdfast_sessions", "Registered sessions.";
    counter registered: Counter = "holdfast_sessions_registered_total", "Sessions registered.";
    counter frames_received: Counter = "holdfast_frames_received_total", "WebSocket messages and control frames received.";
    counter frames_sent: Counter = "holdfast_frames_sent_total", "WebSocket frames sent.";
    counter received_bytes: Counter = "holdfast_received_bytes_total", "Bytes received from sockets.";
    by_code websocket_closes: ByCode = "holdfast_websocket_closes_total",
        "Close frames that the server sent first, by close code.";
    counter closed_by_peer: Counter = "holdfast_websocket_closes_received_total",
        "Close frames that the client sent first.";
    by_label errors: ByLabel = "holdfast_errors_total", "`error` frames sent, by code.";
    by_label deliveries: ByLabel = "holdfast_deliveries_total", "What the workers told sessions, by kind.";
    gauge held_back_bytes: Gauge = "holdfast_output_held_back_bytes",
        "Memory of what waits in the process for sockets that are full, spare room included.";
    counter gaps: Counter = "holdfast_gaps_total", "Sessions that could not keep up and were told to sync.";
    counter dropped: Counter = "holdfast_dropped_total",
        "Notes of who is writing, has read, or is there, that a session had no room for, or said too often.";
    counter rate_limited: Counter = "holdfast_rate_limited_total", "Frames refused because they came too fast.";
    counter protocol_errors: Counter = "holdfast_protocol_errors_total", "Connections closed for breaking RFC 6455.";
    counter heartbeat_timeouts: Counter = "holdfast_heartbeat_timeouts_total",
        "Connections closed because nothing was heard from them.";
    counter probes: Counter = "holdfast_pings_sent_total", "Pings sent to connections that had fallen silent.";
    counter worker_queue_full: Counter = "holdfast_worker_queue_full_total",
        "Commands that waited because a worker's queue was full.";
    counter turns: Counter = "holdfast_shard_turns_total", "Turns of the shards' loops.";
}

impl ShardCounters {
    /// The server sent a close frame first.
    pub fn closed_with(&self, code: CloseCode) {
        self.websocket_closes.add(code.0, 1);
    }

    /// A request head was refused.
    pub fn handshake_refused(&self, status: u16) {
        self.handshakes_refused.add(status, 1);
    }

    /// A worker told a session something.
    pub fn delivery(&self, delivery: &Delivery) {
        let kind = match delivery {
            Delivery::Registered { .. } => "registered",
            Delivery::Refused { .. } => "refused",
            Delivery::Replaced { .. } => "replaced",
            Delivery::Revoked { .. } => "revoked",
            Delivery::Devices(_) => "devices",
            Delivery::People(_) => "people",
            Delivery::MayWatch { .. } => "may_watch",
            Delivery::Accepted { .. } => "accepted",
            Delivery::Rejected { .. } => "rejected",
            Delivery::Event { .. } => "event",
            Delivery::Page { .. } => "page",
            Delivery::NoPage { .. } => "no_page",
            Delivery::Snapshot(_) => "snapshot",
            Delivery::Conversations(_) => "conversations",
            Delivery::Group(_) => "group",
            Delivery::History(_) => "history",
            Delivery::Gap { .. } => "gap",
            Delivery::Receipts(_) => "receipts",
            Delivery::Presence(_) => "presence",
            Delivery::PresenceMissed => "presence_missed",
            Delivery::Note { note: Note::Typing(_), .. } => "typing",
            Delivery::Note { note: Note::Receipt(..), .. } => "receipt",
        };
        self.deliveries.add(kind, 1);
    }
}

type MetricsSource = Box<dyn Fn(&mut Exposition) + Send + Sync>;

/// Everything that is counted.
pub struct Metrics {
    shards: Vec<Arc<ShardCounters>>,
    sources: Mutex<Vec<MetricsSource>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("shards", &self.shards.len()).finish_non_exhaustive()
    }
}

impl Metrics {
    /// The counters of these shards, and those of the process.
    #[must_use]
    pub fn new(shards: Vec<Arc<ShardCounters>>) -> Self {
        Self { shards, sources: Mutex::new(vec![Box::new(process::render)]) }
    }

    /// Adds what somebody else counts: `source` is called at each scrape.
    pub fn add_source(&self, source: impl Fn(&mut Exposition) + Send + Sync + 'static) {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(source));
    }

    /// The page that Prometheus scrapes.
    #[must_use]
    pub fn render(&self) -> String {
        let mut page = Exposition::default();
        render_shards(&self.shards, &mut page);
        for source in self.sources.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            source(&mut page);
        }
        page.into_text()
    }
}

#[cfg(test)]
mod tests;
