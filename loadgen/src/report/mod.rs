//! What a run leaves behind: one JSON object (`docs/loadgen.md` explains each field), a page to look at, and a table
//! on the terminal. All three say the same.

pub mod html;
pub mod plot;
pub mod terminal;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::address::AddressPlan;
use crate::engine::{EngineReport, Tally};
use crate::measure::cpu::ThreadUse;
use crate::measure::latency::{Latencies, LatencySummary};
use crate::measure::lateness::LatenessVerdict;
use crate::measure::regression::Line;
use crate::measure::sample::{Sample, Sampler};
use crate::measure::slab::{CacheGrowth, WaitsBy};
use crate::measure::socket::SocketMemory;
use crate::outcome::Outcome;
use crate::scenario::books::Settlement;
use crate::scenario::chat::ChatCounts;
use crate::settings::{Change, Missing};

/// The version of the JSON: it changes when a field changes its meaning or goes away, not when one is added.
pub const SCHEMA: u32 = 1;

/// The whole report.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `pass` or `fail`.
    pub verdict: &'static str,
    /// Why, in one word.
    pub outcome: Outcome,
    /// The exit code.
    pub exit_code: u8,
    /// Why the run was broken off, if it was.
    pub error: Option<String>,
    /// Which mode: `hold`, `echo` …
    pub mode: &'static str,
    /// The generator's version.
    pub version: &'static str,
    /// Where the load went.
    pub url: String,
    /// When it began: milliseconds since 1970.
    pub started_unix_ms: u64,
    /// Everything random follows from it.
    pub seed: u64,
    /// Connections.
    pub connections: Connections,
    /// Messages, in modes that send some.
    pub messages: Option<Messages>,
    /// Presence, with `million --watchers`.
    pub presence: Option<PresenceReport>,
    /// The server's processor and memory, when it was named.
    pub server: Option<Server>,
    /// Latencies by what they are of, in microseconds.
    pub latency_us: BTreeMap<&'static str, LatencySummary>,
    /// How long each phase took.
    pub seconds: BTreeMap<&'static str, f64>,
    /// What was demanded, and what was measured.
    pub thresholds: Vec<Threshold>,
    /// The generator itself.
    pub generator: Generator,
    /// The machine.
    pub machine: Machine,
    /// Samples through the run.
    pub series: Vec<Sample>,
    /// (percentile, µs) of each latency, for plots.
    pub curves: BTreeMap<&'static str, Vec<(f64, f64)>>,
}

/// See [`Report::connections`].
#[derive(Debug, Clone, Default, Serialize)]
pub struct Connections {
    /// How many were wanted.
    pub target: u64,
    /// How many came up (`connect`: handshakes that went through).
    pub opened: u64,
    /// How many were up at the end of the last phase, before they were closed.
    pub held: u64,
    /// How many ended though nobody wanted it.
    pub lost: u64,
    /// Connects begun.
    pub attempts: u64,
    /// Connects and handshakes that failed; they were tried again.
    pub failed_attempts: u64,
    /// Why.
    pub failures: Tally,
    /// Why they were lost.
    pub losses: Tally,
    /// How they ended at the end.
    pub ends: Tally,
    /// Came up per second, over the ramp.
    pub opened_per_second: f64,
}

/// See [`Report::messages`].
#[derive(Debug, Clone, Default, Serialize)]
pub struct Messages {
    /// Sent, each counted once.
    pub sent: u64,
    /// Accepted by the server (`echo`: answered).
    pub acked: u64,
    /// Arrived at the receiver, each counted once (`echo`: answered).
    pub delivered: u64,
    /// Acked and never delivered (`echo`: never answered).
    pub lost: u64,
    /// Arrived again.
    pub duplicated: u64,
    /// Arrived after a later one.
    pub reordered: u64,
    /// Arrived changed.
    pub corrupted: u64,
    /// Per second, over the measured time.
    pub per_second: f64,
    /// What only chats have.
    pub chat: Option<ChatMessages>,
    /// What only chats in groups have.
    pub groups: Option<GroupMessages>,
    /// What only `sync` has.
    pub sync: Option<SyncMessages>,
    /// What only `slow-reader` has.
    pub slow: Option<SlowMessages>,
}

/// See [`Report::presence`].
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PresenceReport {
    /// Sessions that were to watch.
    pub watchers: u32,
    /// Members that each of them watches.
    pub watched: u32,
    /// The server's `limits.presence_grace`.
    pub grace_ms: u64,
    /// The share of all members that was to leave within a minute.
    pub flapping_per_minute: f64,
    /// Memory that the server took for a watching session beside that of any session.
    pub bytes_per_watcher: Option<PerConnection>,
    /// p99 of `delivered_with_presence` by p99 of `delivered`.
    pub delivered_p99_factor: Option<f64>,
    /// Sessions that said whom they watch.
    pub watching: u64,
    /// Members that left.
    pub flaps: u64,
    /// Of these: later than they were due, since nobody was ready.
    pub flaps_held_back: u64,
    /// Members that came back.
    pub returned: u64,
    /// `presence` frames.
    pub frames: u64,
    /// Users in them.
    pub told: u64,
    /// Of these: no news.
    pub repeated: u64,
    /// Changes that watchers ought to see: two for each flap and watcher of the member.
    pub expected: u64,
    /// Changes that watchers saw.
    pub seen: u64,
    /// The others: nobody was told, and at the end everybody knew how it is (or it is among the `stale`).
    pub coalesced: u64,
    /// Told of somebody who is not watched, or to somebody who does not watch.
    pub misrouted: u64,
    /// Told of what was not so.
    pub invented: u64,
    /// Contacts of whom a watcher believed at the end what is not so.
    pub stale: u64,
    /// Contacts of whom a watcher was never told.
    pub untold: u64,
}

/// See [`Messages::slow`].
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SlowMessages {
    /// Readers that stopped reading.
    pub readers: u32,
    /// Senders of each.
    pub senders: u32,
    /// How long nothing was read.
    pub stall_seconds: f64,
    /// From reading again until every reader had everything.
    pub heal_seconds: f64,
    /// Memory of what waits for one reader in the server's process, spare room included.
    pub user_bytes: Option<f64>,
    /// Kernel memory of the server's end of the costliest connection, at its greatest.
    pub kernel_bytes: Option<u64>,
    /// The parts of it.
    pub socket: Option<SocketMemory>,
    /// How often sockets were looked at.
    pub samples: u64,
    /// Bytes that all readers got from reading again up to their `gap`.
    pub waited_bytes: u64,
    /// Of these, what was in no socket at the end of the stall: the check on `user_bytes`, from outside.
    pub waited_in_process_bytes: Option<i64>,
    /// Growth of the server's resident memory over the stall, the store's included.
    pub rss_growth_bytes: Option<i64>,
}

/// See [`Messages::sync`].
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SyncMessages {
    /// Entries that each inbox got while its user was away.
    pub behind: u32,
    /// How many groups.
    pub groups: u32,
    /// Members of each.
    pub group_members: u32,
    /// Messages that were written to fill the inboxes.
    pub filled: u64,
    /// The same per second, over the filling.
    pub filled_per_second: f64,
    /// Members that reached the head of their inbox.
    pub live: u64,
    /// Inbox entries that came.
    pub entries: u64,
    /// The same per second, from the first connect until the last member was at the head.
    pub entries_per_second: f64,
    /// Pages.
    pub pages: u64,
    /// Their bytes, as frames of the protocol.
    pub page_bytes: u64,
    /// The same per second.
    pub page_bytes_per_second: f64,
}

/// See [`Messages::groups`].
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct GroupMessages {
    /// How many groups.
    pub count: u64,
    /// Members of each.
    pub members: u32,
    /// Events of messages that reached a member's device, senders' own included.
    pub deliveries: u64,
    /// The same per second, over the measured time.
    pub deliveries_per_second: f64,
}

/// See [`Messages::chat`].
#[derive(Debug, Clone, Default, Serialize)]
pub struct ChatMessages {
    /// Sent and never acked.
    pub unacked: u64,
    /// Own messages that came back to their sender as events.
    pub own: u64,
    /// Own messages that were acked and did not.
    pub own_lost: u64,
    /// Sent again after a refusal or a reconnect.
    pub resent: u64,
    /// Acks that came again.
    pub acks_repeated: u64,
    /// Arrived after a later one because the server had refused it before.
    pub resequenced: u64,
    /// Arrived at somebody who was not meant.
    pub misrouted: u64,
    /// Of another run.
    pub foreign: u64,
    /// Inbox numbers that came again.
    pub revs_repeated: u64,
    /// Inbox numbers that were left out.
    pub revs_missing: u64,
    /// Conversation numbers that were left out.
    pub seqs_missing: u64,
    /// Conversation numbers that stand for one thing here and for another there.
    pub seqs_conflicting: u64,
    /// Frames that nobody had asked for, and that are unknown here.
    pub unasked_frames: u64,
    /// Due and held back because the server owed acks.
    pub held_back: u64,
    /// Due and never sent.
    pub unsent: u64,
    /// `gap` frames.
    pub gaps: u64,
    /// Pages of inbox entries.
    pub pages: u64,
    /// `drain` frames.
    pub drains: u64,
    /// Members that came up again.
    pub reconnects: u64,
    /// Messages refused for good, by code.
    pub refused: Tally,
    /// `error` frames, by code.
    pub errors: Tally,
}

/// See [`Report::server`].
#[derive(Debug, Clone, Default, Serialize)]
pub struct Server {
    /// Its process.
    pub pid: u32,
    /// Memory of one connection: the slope of the line through the samples of the ramp.
    pub bytes_per_connection: Option<PerConnection>,
    /// The same as (end of the ramp − begin) / connections: what a table's last doubling costs shows here.
    pub bytes_per_connection_at_plateau: Option<PerConnection>,
    /// The lines.
    pub fit: Option<Fit>,
    /// All its memory at the greatest number of connections, kernel included.
    pub total_bytes: Option<f64>,
    /// The parts of it.
    pub memory: Option<MemoryParts>,
    /// The slab caches that grew most.
    pub caches: Vec<CacheGrowth>,
    /// Processor time per connection and second while nothing but heartbeats came.
    pub idle_cpu_us_per_connection_second: Option<f64>,
    /// Processor time per message.
    pub cpu_us_per_message: Option<f64>,
    /// Processor time per handshake.
    pub cpu_us_per_handshake: Option<f64>,
    /// Settings that it was given in its environment.
    pub environment: BTreeMap<String, String>,
    /// Processor time by phase and thread name.
    pub cpu: BTreeMap<&'static str, CpuPhase>,
}

/// Bytes of one connection on the server's side.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PerConnection {
    /// In its process.
    pub user: f64,
    /// In the kernel.
    pub kernel: f64,
    /// Both.
    pub total: f64,
}

/// See [`Server::fit`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Fit {
    /// In its process.
    pub user: Line,
    /// In the kernel.
    pub kernel: Line,
    /// Both.
    pub total: Line,
}

/// See [`Server::memory`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MemoryParts {
    /// Resident memory of the process.
    pub rss_bytes: u64,
    /// Its page tables.
    pub page_table_bytes: u64,
    /// Its share of the slabs' growth.
    pub slab_bytes: f64,
    /// Its half of the growth that no slab explains.
    pub other_bytes: f64,
    /// How the share was found: `caches`, or `half` where slabinfo may not be read.
    pub method: &'static str,
    /// How it was found to wait for bytes.
    pub waits: WaitsBy,
    /// The check: growth of all kernel memory of the machine, both ends.
    pub machine_kernel_growth_bytes: i64,
}

/// Processor time in one phase.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CpuPhase {
    /// How long the phase was.
    pub seconds: f64,
    /// All threads together, in microseconds.
    pub total_us: f64,
    /// By thread name.
    pub threads: Vec<ThreadUse>,
}

/// One demand.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Threshold {
    /// What is demanded.
    pub name: &'static str,
    /// What was measured; `None`: it could not be.
    pub measured: Option<f64>,
    /// What is allowed.
    pub limit: f64,
    /// True: at most `limit`; false: at least.
    pub at_most: bool,
    /// What the numbers count.
    pub unit: &'static str,
    /// Whether it is met. What could not be measured is not met.
    pub pass: bool,
}

impl Threshold {
    /// Not more than `limit`.
    #[must_use]
    pub fn at_most(name: &'static str, measured: Option<f64>, limit: f64, unit: &'static str) -> Self {
        let pass = measured.is_some_and(|measured| measured <= limit);
        Self { name, measured, limit, at_most: true, unit, pass }
    }

    /// Not less than `limit`.
    #[must_use]
    pub fn at_least(name: &'static str, measured: Option<f64>, limit: f64, unit: &'static str) -> Self {
        let pass = measured.is_some_and(|measured| measured >= limit);
        Self { name, measured, limit, at_most: false, unit, pass }
    }
}

/// See [`Report::generator`].
#[derive(Debug, Clone, Serialize)]
pub struct Generator {
    /// Which driver moved the bytes.
    pub driver: &'static str,
    /// Threads.
    pub threads: u32,
    /// Their niceness: below 0 they go before the server, should both want one processor.
    pub nice: i32,
    /// Which addresses were used.
    pub addresses: AddressPlan,
    /// Whether it was the limit.
    pub lateness: Option<LatenessVerdict>,
    /// Lateness of heartbeats, in microseconds.
    pub heartbeat_lateness_us: Option<LatencySummary>,
    /// Processor time in the measured phase, as a share of one processor.
    pub cpu_share: Option<f64>,
    /// Processor time of the generator per message.
    pub cpu_us_per_message: Option<f64>,
    /// Its own resident memory per connection, by regression.
    pub user_bytes_per_connection: Option<f64>,
    /// Heartbeats sent.
    pub heartbeats: u64,
    /// Bytes received.
    pub received_bytes: u64,
}

/// See [`Report::machine`].
#[derive(Debug, Clone, Default, Serialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub processors: usize,
    /// Memory.
    pub memory_bytes: u64,
    /// Kernel release.
    pub kernel: String,
    /// Share of all processor time that the hypervisor gave to others during the run.
    pub steal_share: Option<f64>,
    /// Settings that were raised for the run, and put back.
    pub raised: Vec<Change>,
    /// Settings that ought to have been raised and could not.
    pub not_raised: Vec<Missing>,
}

/// A report cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}: {source}")]
pub struct WriteError {
    path: PathBuf,
    source: std::io::Error,
}

/// Rounded to a tenth, as reports show figures.
#[must_use]
pub fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Rounded to a thousandth.
#[must_use]
pub fn thousandth(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

impl Report {
    /// Sets the verdict from everything that is known by now.
    pub fn judge(&mut self, correct: bool) {
        let limited = self.generator.lateness.is_some_and(|lateness| lateness.limited);
        let met = self.thresholds.iter().all(|threshold| threshold.pass);
        self.outcome = Outcome::of(correct, limited, met);
        self.verdict = self.outcome.verdict();
        self.exit_code = self.outcome.exit_code();
    }

    /// The run was broken off. What is missing then may still have been under way, so nothing is called lost.
    pub fn broken_off(&mut self, error: String) {
        self.outcome = Outcome::Setup;
        self.verdict = self.outcome.verdict();
        self.exit_code = self.outcome.exit_code();
        self.error = Some(error);
    }

    /// Notes a latency.
    pub fn latency(&mut self, name: &'static str, latencies: &Latencies) {
        self.latency_us.insert(name, latencies.summary());
        self.curves.insert(name, latencies.curve());
    }

    /// Writes the JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_json(&self, path: &Path) -> Result<(), WriteError> {
        let text =
            serde_json::to_string_pretty(self).expect("a report has only string keys and plain values");
        std::fs::write(path, text + "\n").map_err(|source| WriteError { path: path.into(), source })
    }

    /// Writes the page.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_html(&self, path: &Path) -> Result<(), WriteError> {
        std::fs::write(path, html::render(self)).map_err(|source| WriteError { path: path.into(), source })
    }
}

impl Connections {
    /// What an engine counted.
    #[must_use]
    pub fn of(engine: &EngineReport, target: u64, held: u64, ramp_seconds: f64) -> Self {
        Self {
            target,
            opened: engine.opened,
            held,
            lost: engine.lost,
            attempts: engine.attempts,
            failed_attempts: engine.failed_attempts,
            failures: engine.failures.clone(),
            losses: engine.losses.clone(),
            ends: engine.ends.clone(),
            opened_per_second: if ramp_seconds > 0.0 {
                tenth(engine.opened as f64 / ramp_seconds)
            } else {
                0.0
            },
        }
    }
}

impl Messages {
    /// What a chat's books and counters say.
    #[must_use]
    pub fn of_chat(settlement: &Settlement, counts: &ChatCounts, per_second: f64) -> Self {
        let books = &settlement.counts;
        Self {
            sent: books.sent,
            acked: books.acked,
            delivered: books.delivered,
            lost: settlement.lost,
            duplicated: books.duplicated,
            reordered: books.reordered,
            corrupted: books.corrupted,
            per_second: tenth(per_second),
            chat: Some(ChatMessages {
                unacked: settlement.unacked,
                own: books.own,
                own_lost: settlement.own_lost,
                resent: books.resent,
                acks_repeated: books.acks_repeated,
                resequenced: books.resequenced,
                misrouted: books.misrouted,
                foreign: books.foreign,
                revs_repeated: books.revs_repeated,
                revs_missing: books.revs_missing,
                seqs_missing: books.seqs_missing,
                seqs_conflicting: books.seqs_conflicting,
                unasked_frames: counts.unasked_frames,
                held_back: counts.held_back,
                unsent: counts.unsent,
                gaps: counts.gaps,
                pages: counts.pages,
                drains: counts.drains,
                reconnects: counts.reconnects,
                refused: books.refused.clone(),
                errors: counts.errors.clone(),
            }),
            groups: None,
            sync: None,
            slow: None,
        }
    }
}

impl Server {
    /// What a run's samples say about memory.
    pub fn memory_from(&mut self, sampler: &Sampler) {
        self.memory_of(sampler.samples());
        self.caches = sampler.caches().to_vec();
        if let Some(memory) = &mut self.memory {
            memory.method = if sampler.sees_slabs() { "caches" } else { "half" };
            memory.waits = sampler.waits().0;
        }
    }

    /// Memory of a connection, fitted over the ramp and at its end; memory in all, at its greatest.
    fn memory_of(&mut self, samples: &[Sample]) {
        let samples: Vec<&Sample> = samples.iter().filter(|sample| sample.server.is_some()).collect();
        let Some(greatest) = samples.iter().map(|sample| sample.connections).max() else { return };
        // The ramp: up to the first sample with all connections; what comes after is messages and closing.
        let end =
            samples.iter().position(|sample| sample.connections == greatest).map_or(0, |index| index + 1);
        let ramp = &samples[..end];
        let line = |value: fn(&crate::measure::sample::ServerSample) -> f64| {
            let points: Vec<(f64, f64)> = ramp
                .iter()
                .filter_map(|sample| Some((sample.connections as f64, value(sample.server.as_ref()?))))
                .collect();
            Line::fit(&points)
        };
        let lines = (
            line(|server| server.rss_bytes as f64),
            line(crate::measure::sample::ServerSample::kernel_bytes),
            line(crate::measure::sample::ServerSample::total_bytes),
        );
        if let (Some(user), Some(kernel), Some(total)) = lines {
            self.fit = Some(Fit { user, kernel, total });
            self.bytes_per_connection = Some(PerConnection {
                user: tenth(user.slope),
                kernel: tenth(kernel.slope),
                total: tenth(total.slope),
            });
        }
        // The plateau: the last sample with all connections is the one before messages or the end.
        let (Some(first), Some(last)) = (ramp.first(), ramp.last()) else { return };
        let (Some(before), Some(after)) = (first.server, last.server) else { return };
        let grown = (last.connections - first.connections.min(last.connections)) as f64;
        if grown > 0.0 {
            let per = |later: f64, earlier: f64| tenth((later - earlier) / grown);
            self.bytes_per_connection_at_plateau = Some(PerConnection {
                user: per(after.rss_bytes as f64, before.rss_bytes as f64),
                kernel: per(after.kernel_bytes(), before.kernel_bytes()),
                total: per(after.total_bytes(), before.total_bytes()),
            });
        }
        let most = samples.iter().filter_map(|sample| sample.server.map(|server| (sample, server)));
        if let Some((sample, server)) =
            most.max_by(|one, other| one.1.charged_bytes().total_cmp(&other.1.charged_bytes()))
        {
            self.total_bytes = Some(server.charged_bytes().round());
            self.memory = Some(MemoryParts {
                rss_bytes: server.rss_bytes,
                page_table_bytes: server.page_table_bytes,
                slab_bytes: server.slab_bytes.round(),
                other_bytes: server.other_bytes.round(),
                method: "half",
                waits: WaitsBy::Unknown,
                machine_kernel_growth_bytes: sample.kernel_growth_bytes,
            });
        }
    }
}

#[cfg(test)]
mod tests;
