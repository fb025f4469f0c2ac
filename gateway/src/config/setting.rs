//! The table of settings: key, meaning, domain, field. Parsing, printing and the documentation follow from it.

use std::time::Duration;

use serde_json::Value as Json;

use super::Config;
use super::value::{
    Address, Bytes, Count, DRIVERS, Directory, Domain, Factor, GUESTS, LogFilter, Or, Origins, SmallCount,
    Span, Switch,
};

/// One setting. Made only by the table below.
#[derive(Debug)]
pub struct Setting {
    /// `section.key`, or `key` alone for the five that stand before all sections.
    pub key: &'static str,
    /// What it decides, in one sentence.
    pub help: &'static str,
    apply: fn(&mut Config, &str) -> Result<(), String>,
    show: fn(&Config) -> String,
    json: fn(&Config) -> Json,
    allowed: fn() -> String,
}

impl Setting {
    /// The setting with this key.
    #[must_use]
    pub fn find(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// The variable that sets it: `limits.memory` is `HOLDFAST_LIMITS__MEMORY`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("HOLDFAST_{}", self.key.replace('.', "__").to_ascii_uppercase())
    }

    /// The value in force, as one could write it.
    #[must_use]
    pub fn show(&self, config: &Config) -> String {
        (self.show)(config)
    }

    /// The value in force, for programs: sizes in bytes, durations as text.
    #[must_use]
    pub fn json(&self, config: &Config) -> Json {
        (self.json)(config)
    }

    /// The range in words.
    #[must_use]
    pub fn allowed(&self) -> String {
        (self.allowed)()
    }

    /// Sets the value, or says what is wrong with it.
    pub(super) fn apply(&self, config: &mut Config, text: &str) -> Result<(), String> {
        (self.apply)(config, text)
    }
}

macro_rules! setting {
    ($key:literal, $($field:ident).+, $domain:expr, $help:literal) => {
        Setting {
            key: $key,
            help: $help,
            apply: |config, text| {
                config.$($field).+ = $domain.parse(text)?;
                Ok(())
            },
            show: |config| $domain.show(&config.$($field).+),
            json: |config| $domain.json(&config.$($field).+),
            allowed: || $domain.allowed(),
        }
    };
}

const fn seconds(min: u64, max: u64) -> Span {
    Span { min: Duration::from_secs(min), max: Duration::from_secs(max) }
}

/// Every setting, in the order in which `holdfast config` prints them.
pub static SETTINGS: &[Setting] = &[
    setting!("listen", listen, Address, "Where to listen; everything is on this one port."),
    setting!("data", data, Directory, "The data directory; made when it is not there."),
    setting!(
        "shards",
        shards,
        Or("auto", SmallCount { min: 1, max: 256 }),
        "Shard threads; auto: one per CPU that the process may use."
    ),
    setting!(
        "driver",
        driver,
        DRIVERS,
        "What moves the bytes; auto: io_uring where it is allowed, else epoll."
    ),
    setting!(
        "bench_endpoints",
        bench_endpoints,
        Switch,
        "Serve /echo, which has no login and no rate limits."
    ),
    setting!(
        "limits.connections",
        limits.connections,
        Count { min: 1, max: 16_000_000 },
        "Connections of the whole process; beyond, 503 with Retry-After."
    ),
    setting!(
        "limits.memory",
        limits.memory_bytes,
        Or("auto", Bytes { min: 64 << 20, max: 1 << 44 }),
        "Memory of the process with the kernel's share; beyond, new connections get 503. auto: 4/5 of what there is."
    ),
    setting!(
        "limits.request_head",
        limits.request_head_bytes,
        Bytes { min: 1 << 10, max: 64 << 10 },
        "Bytes of a request head; beyond, 431."
    ),
    setting!(
        "limits.request_headers",
        limits.request_headers,
        Count { min: 16, max: 256 },
        "Header lines of a request head; beyond, 431."
    ),
    setting!(
        "limits.handshake_timeout",
        limits.handshake_timeout,
        Span { min: Duration::from_millis(100), max: Duration::from_secs(120) },
        "From the TCP connection to the end of the request head."
    ),
    setting!(
        "limits.login_timeout",
        limits.login_timeout,
        Span { min: Duration::from_millis(100), max: Duration::from_secs(120) },
        "From the handshake to the first `hello`, when the handshake brought no token."
    ),
    setting!(
        "limits.message_body",
        limits.message_body_bytes,
        Bytes { min: 1, max: 8 << 20 },
        "Bytes of one message's body; beyond, `message_too_large`."
    ),
    setting!(
        "limits.frame",
        limits.frame_bytes,
        Bytes { min: 1 << 10, max: 16 << 20 },
        "Bytes of one WebSocket frame; beyond, close code 1009."
    ),
    setting!(
        "limits.message",
        limits.message_bytes,
        Bytes { min: 1 << 10, max: 16 << 20 },
        "Bytes of one WebSocket message; beyond, close code 1009."
    ),
    setting!(
        "limits.fragments",
        limits.fragments,
        Count { min: 1, max: 65_536 },
        "Fragments of one WebSocket message; beyond, close code 1008."
    ),
    setting!(
        "limits.output",
        limits.output_bytes,
        Bytes { min: 4 << 10, max: 64 << 20 },
        "Bytes that may wait for one session's socket; beyond, `gap`."
    ),
    setting!(
        "limits.kernel_send_buffer",
        limits.kernel_send_buffer_bytes,
        Bytes { min: 4 << 10, max: 64 << 20 },
        "The kernel's send buffer of each connection; it takes twice as much, and a segment."
    ),
    setting!(
        "limits.page_entries",
        limits.page_entries,
        Count { min: 1, max: 10_000 },
        "Entries of one inbox page."
    ),
    setting!(
        "limits.page",
        limits.page_bytes,
        Bytes { min: 1 << 10, max: 16 << 20 },
        "Bytes of one inbox page."
    ),
    setting!(
        "limits.group_members",
        limits.group_members,
        Count { min: 2, max: 10_000 },
        "Members of one group."
    ),
    setting!(
        "limits.contacts",
        limits.contacts,
        Count { min: 1, max: 1_000_000 },
        "Contacts of one user; also users that one can block."
    ),
    setting!(
        "limits.history_messages",
        limits.history_messages,
        Count { min: 1, max: 1_000 },
        "Messages of one answer to `history`."
    ),
    setting!(
        "limits.snapshot_after",
        limits.snapshot_after,
        Count { min: 1, max: 1_000_000_000 },
        "Inbox entries that a device may be behind and still gets all of them; beyond, a `snapshot`, unless it asks for every entry."
    ),
    setting!(
        "limits.watched_users",
        limits.watched_users,
        Count { min: 1, max: 1_024 },
        "Users whose presence one session watches; beyond, too_many_watched."
    ),
    setting!(
        "limits.presence_grace",
        limits.presence_grace,
        Span { min: Duration::ZERO, max: Duration::from_secs(600) },
        "For how long a user is still online after the last device has gone, so that a short break is none."
    ),
    setting!(
        "limits.send_per_second",
        limits.send_per_second,
        Count { min: 1, max: 100_000 },
        "Messages per second and session, sustained; beyond, `rate_limited`."
    ),
    setting!(
        "limits.send_burst",
        limits.send_burst,
        Count { min: 1, max: 1_000_000 },
        "Messages that a session may send at once."
    ),
    setting!(
        "limits.control_frames",
        limits.control_frames,
        Count { min: 2, max: 100_000 },
        "Pings, pongs and requests other than `send` per `limits.control_window`; beyond, a request gets `rate_limited`, a \
         ping or pong close code 4101."
    ),
    setting!(
        "limits.control_window",
        limits.control_window,
        seconds(1, 3_600),
        "The window in which control frames are counted."
    ),
    setting!(
        "limits.devices",
        limits.devices,
        Count { min: 1, max: 1_000 },
        "Devices of one user; beyond, `too_many_devices`."
    ),
    setting!(
        "heartbeat.interval",
        heartbeat.interval,
        Span { min: Duration::from_millis(100), max: Duration::from_secs(3_600) },
        "How often a client must send something; told in `welcome`."
    ),
    setting!(
        "heartbeat.silence_factor",
        heartbeat.silence_factor,
        Factor { min: 1.1, max: 100.0 },
        "Silent for this many intervals: closed."
    ),
    setting!(
        "drain.timeout",
        drain.timeout,
        seconds(0, 3_600),
        "From SIGTERM to exit, at most; connections are told and closed evenly over it."
    ),
    setting!(
        "auth.guests",
        auth.guests,
        GUESTS,
        "Whether a mere name gets a token; auto: only while listening on a loopback address."
    ),
    setting!(
        "auth.guests_per_second",
        auth.guests_per_second,
        Count { min: 1, max: 100_000 },
        "Guest tokens per second, over all clients; beyond, 429."
    ),
    setting!(
        "auth.allowed_origins",
        auth.allowed_origins,
        Origins,
        "Origins that browsers may connect from, besides the server's own."
    ),
    setting!(
        "auth.token_lifetime",
        auth.token_lifetime,
        seconds(1, 10 * 366 * 86_400),
        "How long tokens are valid that this server mints."
    ),
    setting!("http.threads", http.threads, SmallCount { min: 1, max: 16 }, "Threads of the HTTP API."),
    setting!(
        "http.connections",
        http.connections,
        Count { min: 1, max: 65_536 },
        "Connections that speak plain HTTP at the same time; beyond, 503 with Retry-After."
    ),
    setting!(
        "http.request_body",
        http.request_body_bytes,
        Bytes { min: 1 << 10, max: 16 << 20 },
        "Bytes of a request's body; beyond, 413."
    ),
    setting!(
        "http.request_timeout",
        http.request_timeout,
        Span { min: Duration::from_millis(100), max: Duration::from_secs(600) },
        "From the head of a request to the end of its answer."
    ),
    setting!(
        "http.idle_timeout",
        http.idle_timeout,
        Span { min: Duration::from_millis(100), max: Duration::from_secs(3_600) },
        "How long a kept-alive connection may take to bring its next request."
    ),
    setting!(
        "storage.databases",
        storage.databases,
        Or("auto", SmallCount { min: 1, max: 64 }),
        "Databases of a new data directory; an existing one keeps its number."
    ),
    setting!(
        "storage.cache",
        storage.cache_bytes,
        Bytes { min: 16 << 20, max: 1 << 40 },
        "Memory for the store's caches, all databases together."
    ),
    setting!(
        "storage.commit_interval",
        storage.commit_interval,
        Span { min: Duration::ZERO, max: Duration::from_millis(100) },
        "How far apart a worker's fsyncs are at least; what comes in between shares one."
    ),
    setting!(
        "storage.retention_days",
        storage.retention_days,
        Or("forever", SmallCount { min: 8, max: 36_500 }),
        "For how long messages are kept; a group may say less for itself."
    ),
    setting!("log.filter", log.filter, LogFilter, "What is logged."),
];
