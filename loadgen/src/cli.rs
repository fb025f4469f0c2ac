//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::arrival::Spread;
use crate::check::fault::Faults;
use crate::crew::DriverChoice;
use crate::units::{parse_count, parse_duration};

const EXAMPLES: &str = "\
Examples:
  holdfast-load million
      start the server beside this binary and hold a million logged-in sessions on it, then let them chat
  holdfast-load million --watchers 100k --watched 50 --flapping 1%
      the same; then 100,000 of them watch 50 others each, while 1 % of all come and go per minute: what does a watching
      session cost, and do messages take longer?
  holdfast-load hold ws://127.0.0.1:8080/ws --connections 100k --hold 60s --login --data holdfast-data
      hold 100,000 logged-in sessions on a server that runs already
  holdfast-load hold ws://127.0.0.1:9000/ --connections 5000 --ramp 1000 --server-pid 4242
      any WebSocket server: what does it pay for a connection?
  holdfast-load echo ws://127.0.0.1:8080/echo --connections 200 --in-flight 16 --size 64 --duration 10s \\
      --server-pid 4242 --json echo.json
      processor time per message
  holdfast-load connect ws://127.0.0.1:8080/ws --connections 200 --duration 10s --data holdfast-data
      handshakes with login
  holdfast-load chat ws://127.0.0.1:8080/ws --connections 10k --rate 20000 --duration 30s --data holdfast-data
      pairs of users write to each other; nothing may be lost, doubled or out of order
  holdfast-load chat ws://127.0.0.1:8080/ws --connections 2000 --group-members 100 --rate 500 --duration 30s \\
      --data holdfast-data
      20 groups of 100 users: 500 messages/s are 50,000 deliveries/s, each of which is checked
  holdfast-load sync ws://127.0.0.1:8080/ws --connections 1000 --behind 10000 --data holdfast-data
      1,000 users come back to 10,000 entries each
  holdfast-load slow-reader ws://127.0.0.1:8080/ws --data holdfast-data --server-pid 4242
      a reader reads nothing for 10 minutes while a million messages go to it: what does the server pay?
  holdfast-load check --minutes 5 --faults kill,stop,reset,slow
      start the server beside this binary, kill it again and again under a crowd of 40 users, and check its promises

Exit codes:
  0  all is well
  1  a threshold was missed (a connection was lost, a latency was too long …)
  2  something was lost, duplicated, reordered or corrupted
  3  the generator itself was the limit: do not trust the latencies
  4  the run could not be set up, or was broken off";

const CHAT_EXAMPLES: &str = "\
Examples:
  holdfast-load chat ws://127.0.0.1:8080/ws --connections 10k --rate 20000 --duration 30s --data holdfast-data
      pairs of users write to each other
  holdfast-load chat ws://127.0.0.1:8080/ws --connections 2000 --group-members 500 --rate 100 --duration 60s \\
      --data holdfast-data --json groups.json --html groups.html
      4 groups of 500 users: 100 messages/s over all groups are 50,000 deliveries/s, senders' own events included";

const SYNC_EXAMPLES: &str = "\
Examples:
  holdfast-load sync ws://127.0.0.1:8080/ws --connections 1000 --behind 10000 --data holdfast-data
      10 groups of 100 users get 10,000 entries each; then all 1,000 log in at once with cursor 0
  holdfast-load sync ws://127.0.0.1:8080/ws --connections 5000 --behind 1000 --group-members 500 --ramp 500 \\
      --data holdfast-data --json sync.json --html sync.html
      500 come back per second

The users should be fresh ones: what an earlier run left in their inboxes is read too. Filling is bounded by the server's
limits.send_per_second for each of the --writers; raise it there, or give more writers, to fill faster.";

const SLOW_READER_EXAMPLES: &str = "\
Examples:
  holdfast-load slow-reader ws://127.0.0.1:8080/ws --data holdfast-data --server-pid 4242
      a million messages in 10 minutes to a reader that reads none of them; 167 senders keep to the server's default
      rate limit
  holdfast-load slow-reader ws://127.0.0.1:8080/ws --senders 20 --data holdfast-data --server-pid 4242 --json slow.json
      the same from 20 senders, for a server with HOLDFAST_LIMITS__SEND_PER_SECOND=1000 and
      HOLDFAST_LIMITS__SEND_BURST=1000
  holdfast-load slow-reader ws://127.0.0.1:8080/ws --readers 50 --senders 4 --messages 500k --stall 2m \\
      --data holdfast-data --server-pid 4242
      50 readers at once, 10,000 messages to each

The users should be fresh ones, each run with another --first-user: what an earlier run left in their inboxes is read
too. The generator must run on the server's machine, since it asks the kernel about the server's sockets.";

const CHECK_EXAMPLES: &str = "\
Examples:
  holdfast-load check --seed 7 --minutes 5 --faults all
      40 users with up to three devices each, on a disk that forgets, fails and runs full, under a server that is
      killed, stopped and disconnected
  holdfast-load check --minutes 1 --faults kill,reset
      without that disk: needs no FUSE and no root
  holdfast-load check --minutes 2 --faults none --json check.json
      a sound machine; the report for programs

Faults:
  kill   kill -9 and restart                    lost  kill -9, and what was not synced is gone
  stop   SIGSTOP for 5 s, then SIGCONT          torn  the same, and of the last writes there are pieces
  reset  connections are reset                  eio   fsync fails, then the process ends, or the machine
  slow   clients do not read for a while        full  the disk is full for a while
Those on the right need faultfs beside this binary, /dev/fuse, and the right to mount.

Exit codes: 0 all promises were kept; 2 one was broken, the smallest counter-example is printed; 4 the run could not be
set up, or was broken off.";

/// A load generator for any WebSocket server, and for chat on Holdfast.
#[derive(Debug, Parser)]
#[command(name = "holdfast-load", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub mode: Mode,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Mode {
    /// Open connections and hold them.
    Hold(HoldArgs),
    /// Send messages to an echo endpoint and compare every reply.
    Echo(EchoArgs),
    /// Connect, upgrade, log in if told, close; again and again.
    Connect(ConnectArgs),
    /// Let pairs of users, or the members of groups, write to each other, and keep the books on every message.
    Chat(ChatArgs),
    /// Let many users come back at once to inboxes that have filled up while they were away.
    Sync(SyncArgs),
    /// Let readers stop reading while others write to them, and see what the server pays and whether they get it all.
    SlowReader(SlowReaderArgs),
    /// Start the server beside this binary and show that it holds a million sessions.
    Million(MillionArgs),
    /// Start the server beside this binary, use it with many devices while faults strike, and check its promises.
    Check(CheckArgs),
    /// Be the client of Autobahn|Testsuite's fuzzing server.
    Autobahn(AutobahnArgs),
}

/// Where the report goes. `million` writes both files in any case, under names of its own when none are given.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Report")]
pub struct OutputArgs {
    /// Write the report as JSON (docs/loadgen.md explains each field).
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the report as one self-contained page with plots.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Show no progress.
    #[arg(long, short)]
    pub quiet: bool,
}

/// How connections are made.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connections")]
pub struct FleetArgs {
    /// How many.
    #[arg(long, short = 'n', value_name = "N", value_parser = parse_count)]
    pub connections: Option<u32>,
    /// Connects per second; without it as fast as the handshakes under way allow.
    #[arg(long, value_name = "PER_SECOND")]
    pub ramp: Option<f64>,
    /// How connects and messages are spread over time.
    #[arg(long, value_enum, default_value = "poisson")]
    pub arrivals: Spread,
    /// Handshakes under way at most (login included), so that a slow server is measured and not drowned.
    #[arg(long, value_name = "N", value_parser = parse_count, default_value = "512")]
    pub handshakes: u32,
    /// How long a handshake or a close may take.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
    pub timeout: Duration,
    /// Failures in a row after which a connection is given up.
    #[arg(long, value_name = "N", default_value = "8")]
    pub attempts: u32,
    /// How often each connection shows that it lives (an unsolicited pong); 0s: never.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "30s")]
    pub heartbeat: Duration,
    /// A header of the handshake, as `Name: value`. May be repeated.
    #[arg(long, value_name = "HEADER", value_parser = parse_header)]
    pub header: Vec<(String, String)>,
    /// A subprotocol to offer. May be repeated, the best liked first.
    #[arg(long, value_name = "NAME", value_parser = parse_token)]
    pub subprotocol: Vec<String>,
    /// A source address. May be repeated; on loopback the generator finds its own.
    #[arg(long, value_name = "ADDRESS")]
    pub source: Vec<IpAddr>,
    /// What moves the bytes.
    #[arg(long, value_enum, default_value = "auto")]
    pub driver: DriverChoice,
    /// Threads of the generator.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,
    /// Everything random follows from it; without it another one each time, which is printed.
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// The server's process: its processor time and memory are in the report.
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Connections that may be lost before the run counts as failed.
    #[arg(long, value_name = "N", value_parser = parse_count, default_value = "0")]
    pub max_lost: u32,
    /// Before starting, wait until the kernel has freed the sockets of an earlier run.
    #[arg(long)]
    pub wait_for_kernel: bool,
}

/// Who logs in.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Login")]
pub struct LoginArgs {
    /// Log in (implied by the options that say how).
    #[arg(long)]
    pub login: bool,
    /// The server's data directory, with the key that tokens are minted from.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["token_key", "token"])]
    pub data: Option<PathBuf>,
    /// The key itself.
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_key: Option<PathBuf>,
    /// A token made elsewhere, one for each connection. May be repeated.
    #[arg(long, value_name = "TOKEN")]
    pub token: Vec<String>,
    /// The first user's number; the others follow.
    #[arg(long, value_name = "ID", default_value = "1000000")]
    pub first_user: u64,
    /// How frames are written.
    #[arg(long, value_enum, default_value = "proto")]
    pub format: FormatChoice,
    /// Say who is there by the first frame rather than in the handshake.
    #[arg(long)]
    pub hello: bool,
}

impl LoginArgs {
    /// True when members log in.
    #[must_use]
    pub fn wanted(&self) -> bool {
        self.login || self.hello || self.data.is_some() || self.token_key.is_some() || !self.token.is_empty()
    }
}

/// How frames are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatChoice {
    /// Protobuf in binary messages.
    Proto,
    /// JSON in text messages.
    Json,
}

/// What a chat's members are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ClientChoice {
    /// The client library, `holdfast-client`.
    Library,
    /// The generator's own, leaner: frames without an outbox.
    Frames,
}

/// When the generator itself is the limit.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Honesty")]
pub struct LatenessArgs {
    /// p99 lateness of the generator's own sends up to this is always fine.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "1ms")]
    pub lateness: Duration,
    /// Beyond it, p99 lateness may be this share of the measured p99 latency.
    #[arg(long, value_name = "SHARE", default_value = "0.1")]
    pub lateness_share: f64,
}

/// `hold`.
#[derive(Debug, Args)]
pub struct HoldArgs {
    /// The endpoint, as ws://host:port/path
    pub url: String,
    /// How long to hold them.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "120s")]
    pub hold: Duration,
    /// Connections.
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// Login.
    #[command(flatten)]
    pub login: LoginArgs,
    /// Report.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `echo`.
#[derive(Debug, Args)]
pub struct EchoArgs {
    /// The endpoint, as ws://host:port/path
    pub url: String,
    /// Messages of each connection under way at most.
    #[arg(long, value_name = "K", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub in_flight: u32,
    /// Bytes of a message.
    #[arg(long, value_name = "BYTES", default_value = "64", value_parser = parse_count)]
    pub size: u32,
    /// How long to measure.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
    pub duration: Duration,
    /// How long to run before that.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "1s")]
    pub warmup: Duration,
    /// Messages per second in all, open loop; without it each reply is answered with the next message.
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// Send text rather than binary messages.
    #[arg(long)]
    pub text: bool,
    /// The p99 latency that is demanded.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub max_p99: Option<Duration>,
    /// Connections.
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// Honesty.
    #[command(flatten)]
    pub lateness: LatenessArgs,
    /// Report.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `connect`.
#[derive(Debug, Args)]
pub struct ConnectArgs {
    /// The endpoint, as ws://host:port/path
    pub url: String,
    /// Handshakes per second, open loop; without it as many as go (the same as --ramp).
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// How long to measure.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
    pub duration: Duration,
    /// How long to run before that.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "1s")]
    pub warmup: Duration,
    /// Stop after so many handshakes, though the time is not over.
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub repeat: Option<u32>,
    /// End each connection with a reset rather than with close frames.
    #[arg(long)]
    pub reset: bool,
    /// Connections.
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// Login.
    #[command(flatten)]
    pub login: LoginArgs,
    /// Report.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `chat`.
#[derive(Debug, Args)]
#[command(after_help = CHAT_EXAMPLES)]
pub struct ChatArgs {
    /// The endpoint, as ws://host:port/path
    pub url: String,
    /// Divide the users into groups of so many (--connections must be a multiple of it) instead of pairs; each message
    /// is delivered to all of them. The server's limit is limits.group_members, 500 by default.
    #[arg(long, value_name = "G", value_parser = parse_count)]
    pub group_members: Option<u32>,
    /// Messages per second in all, over all pairs or groups.
    #[arg(long, value_name = "PER_SECOND", default_value = "1000")]
    pub rate: f64,
    /// What users write with: the client library, as programs do, with its outbox, its pace and its heartbeats; or
    /// frames as they are, which costs the generator less.
    #[arg(long, value_name = "WHAT", value_enum, default_value = "library")]
    pub client: ClientChoice,
    /// How long to send.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "30s")]
    pub duration: Duration,
    /// How long to wait afterwards for what is under way.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "30s")]
    pub quiesce: Duration,
    /// Bytes of a message's text (at least 60: the stamp).
    #[arg(long, value_name = "BYTES", default_value = "128", value_parser = parse_count)]
    pub size: u32,
    /// The p99 from the intended moment to `accepted` that is demanded.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub max_accepted_p99: Option<Duration>,
    /// The p99 from the intended moment to the receiver's event that is demanded.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub max_delivered_p99: Option<Duration>,
    /// The share of the wanted rate that must be acked and delivered, beside what chance takes from Poisson arrivals.
    #[arg(long, value_name = "SHARE", default_value = "0.98")]
    pub min_rate_share: f64,
    /// Connections.
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// Login.
    #[command(flatten)]
    pub login: LoginArgs,
    /// Honesty.
    #[command(flatten)]
    pub lateness: LatenessArgs,
    /// Report.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `sync`.
#[derive(Debug, Args)]
#[command(after_help = SYNC_EXAMPLES)]
pub struct SyncArgs {
    /// The endpoint, as ws://host:port/path
    pub url: String,
    /// Entries that each inbox gets while its user is away.
    #[arg(long, value_name = "B", value_parser = parse_count, default_value = "10000")]
    pub behind: u32,
    /// Users of each group; --connections must be a multiple of it.
    #[arg(long, value_name = "G", value_parser = parse_count, default_value = "100")]
    pub group_members: u32,
    /// Members of each group that write to fill the inboxes, at most; the others are away.
    #[arg(long, value_name = "N", value_parser = parse_count, default_value = "20")]
    pub writers: u32,
    /// How long filling may take.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "15m")]
    pub fill_within: Duration,
    /// How long it may take until all are at the head.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "2m")]
    pub duration: Duration,
    /// Bytes of a message's text (at least 60: the stamp).
    #[arg(long, value_name = "BYTES", default_value = "128", value_parser = parse_count)]
    pub size: u32,
    /// The p99 from the intended moment of a connect to the first page that is demanded.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub max_first_page_p99: Option<Duration>,
    /// The p99 from the intended moment of a connect to the head of the inbox that is demanded.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub max_live_p99: Option<Duration>,
    /// Entries per second, over all, that are demanded.
    #[arg(long, value_name = "PER_SECOND")]
    pub min_entries_per_second: Option<f64>,
    /// Connections.
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// Login.
    #[command(flatten)]
    pub login: LoginArgs,
    /// Report.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `slow-reader`.
#[derive(Debug, Args)]
#[command(after_help = SLOW_READER_EXAMPLES)]
pub struct SlowReaderArgs {
    /// The endpoint, as ws://host:port/path
    pub url: String,
    /// Readers that stop reading.
    #[arg(long, value_name = "N", value_parser = parse_count, default_value = "1")]
    pub readers: u32,
    /// Senders to each of them; without it as many as keep to half of the server's default rate limit.
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub senders: Option<u32>,
    /// Messages in all, evenly spread over the stall.
    #[arg(long, value_name = "N", value_parser = parse_count, default_value = "1000000")]
    pub messages: u32,
    /// How long nothing is read.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10m")]
    pub stall: Duration,
    /// How long to wait at the end of the stall for what is owed to the senders.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "60s")]
    pub quiesce: Duration,
    /// How long it may take until readers that read again have everything.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "5m")]
    pub heal_within: Duration,
    /// Bytes of a message's text (at least 60: the stamp).
    #[arg(long, value_name = "BYTES", default_value = "128", value_parser = parse_count)]
    pub size: u32,
    /// Demanded: memory of one reader in the server's process, at most.
    #[arg(long, value_name = "BYTES", default_value = "307200")]
    pub max_user_bytes: f64,
    /// Demanded: memory of one reader in the kernel, on the server's side, at most.
    #[arg(long, value_name = "BYTES", default_value = "524288")]
    pub max_kernel_bytes: f64,
    /// Connections; --connections follows from --readers and --senders.
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// Login.
    #[command(flatten)]
    pub login: LoginArgs,
    /// Report.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `million`.
#[derive(Debug, Args)]
pub struct MillionArgs {
    /// How many sessions.
    #[arg(long, short = 'n', value_name = "N", value_parser = parse_count, default_value = "1000000")]
    pub connections: u32,
    /// Connects per second that are tried; the handshakes under way limit it to what goes.
    #[arg(long, value_name = "PER_SECOND", default_value = "50000")]
    pub ramp: f64,
    /// Handshakes under way at most, login included.
    #[arg(long, value_name = "N", value_parser = parse_count, default_value = "1024")]
    pub handshakes: u32,
    /// How long to hold them with heartbeats alone: whole heartbeats, so that each member beats equally often.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "60s")]
    pub hold: Duration,
    /// How often each member shows that it lives.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "30s")]
    pub heartbeat: Duration,
    /// Messages per second, between random pairs.
    #[arg(long, value_name = "PER_SECOND", default_value = "5000")]
    pub rate: f64,
    /// How long they flow.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "60s")]
    pub duration: Duration,
    /// How long to wait afterwards for what is under way.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "30s")]
    pub quiesce: Duration,
    /// Bytes of a message's text.
    #[arg(long, value_name = "BYTES", default_value = "128", value_parser = parse_count)]
    pub size: u32,
    /// The server; without it the `holdfast` beside this binary.
    #[arg(long, value_name = "FILE")]
    pub server: Option<PathBuf>,
    /// Where the server keeps its data for the run; without it a directory that goes away afterwards.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// A further argument for the server. May be repeated: --server-arg=--shards --server-arg=1
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    pub server_arg: Vec<String>,
    /// Let the server listen on 127.0.0.1 alone; the generator then binds source addresses.
    #[arg(long)]
    pub one_address: bool,
    /// What moves the generator's bytes.
    #[arg(long, value_enum, default_value = "auto")]
    pub driver: DriverChoice,
    /// Threads of the generator; without it one for every two processors, and at least two, since one alone logs in
    /// more slowly than two shards could.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: Option<u32>,
    /// Everything random follows from it.
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// Do not raise kernel settings.
    #[arg(long)]
    pub keep_settings: bool,
    /// Demanded: bytes of a session in the server's process, at most.
    #[arg(long, value_name = "BYTES", default_value = "300")]
    pub max_user_bytes: f64,
    /// Demanded: bytes of the server's side per session in all, kernel included and everything that is not per
    /// session spread over them, at most.
    #[arg(long, value_name = "BYTES", default_value = "4600")]
    pub max_total_bytes: f64,
    /// Demanded: µs of the server's processor time per idle session and second, at most.
    #[arg(long, value_name = "US", default_value = "0.8")]
    pub max_idle_cpu: f64,
    /// Demanded: sessions that come up per second over the ramp, at least.
    #[arg(long, value_name = "PER_SECOND", default_value = "15000")]
    pub min_ramp: f64,
    /// Demanded: length of the whole run, at most; without it 6m, and 9m with --watchers.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub max_time: Option<Duration>,
    /// Presence.
    #[command(flatten)]
    pub presence: PresenceArgs,
    /// Honesty.
    #[command(flatten)]
    pub lateness: LatenessArgs,
    /// Report.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Who watches whom, and who comes and goes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Presence")]
pub struct PresenceArgs {
    /// Sessions that watch others, after the messages; then messages flow again, while members come and go.
    #[arg(long, value_name = "N", value_parser = parse_count, default_value = "0")]
    pub watchers: u32,
    /// How many others each of them watches: half of them near it in the chat's pairing, half anybody.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024), default_value = "50")]
    pub watched: u32,
    /// The share of all users that leave within a minute, and come back.
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent, default_value = "1%")]
    pub flapping: f64,
    /// Watchers that say per second whom they watch; without it as many as come to an end in 60 s.
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate)]
    pub watch_rate: Option<f64>,
    /// The server's limits.presence_grace for this run: who flaps stays away for longer, so that it is told.
    #[arg(long, value_name = "TIME", value_parser = parse_grace, default_value = "1s")]
    pub presence_grace: Duration,
    /// Demanded: bytes more in the server's process for a session that watches, at most.
    #[arg(long, value_name = "BYTES", default_value = "1200")]
    pub max_watcher_bytes: f64,
    /// Demanded: p99 of deliveries while members come and go and are watched, at most so many times that of before.
    #[arg(long, value_name = "TIMES", default_value = "1.5")]
    pub max_presence_factor: f64,
}

impl MillionArgs {
    /// Where the reports go: under names of their own, in the current directory, when none were given.
    #[must_use]
    pub fn reports(&self) -> OutputArgs {
        let or_own = |path: &Option<PathBuf>, own: &str| path.clone().or_else(|| Some(own.into()));
        OutputArgs {
            json: or_own(&self.output.json, "holdfast-million.json"),
            html: or_own(&self.output.html, "holdfast-million.html"),
            quiet: self.output.quiet,
        }
    }
}

/// `check`.
#[derive(Debug, Args)]
#[command(after_help = CHECK_EXAMPLES)]
pub struct CheckArgs {
    /// Everything that is chosen follows from it (not what the machine makes of it); without it another one each time,
    /// which is printed.
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// For how long the crowd acts, the pauses in which everything is compared included.
    #[arg(long, value_name = "MINUTES", default_value = "5", value_parser = parse_minutes)]
    pub minutes: f64,
    /// Which faults strike: all, none, or some of kill, stop, reset, slow, lost, torn, eio, full with commas between.
    #[arg(long, value_name = "FAULTS", default_value = "kill,stop,reset,slow", value_parser = Faults::parse)]
    pub faults: Faults,
    /// Users; each has one to three devices.
    #[arg(long, value_name = "N", default_value = "40", value_parser = clap::value_parser!(u32).range(4..=500))]
    pub users: u32,
    /// Acts per second, over all devices.
    #[arg(long, value_name = "PER_SECOND", default_value = "1200", value_parser = parse_rate)]
    pub rate: f64,
    /// The server; without it the `holdfast` beside this binary.
    #[arg(long, value_name = "FILE")]
    pub server: Option<PathBuf>,
    /// The disk that fails; without it the `faultfs` beside this binary.
    #[arg(long, value_name = "FILE")]
    pub faultfs: Option<PathBuf>,
    /// Where the server keeps its data, in a directory that is new; without it one that goes away afterwards. With a
    /// disk that fails the data goes away with it.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// A further argument for the server. May be repeated: --server-arg=--shards --server-arg=1
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    pub server_arg: Vec<String>,
    /// Write every observation into this file, one a line.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Write the report as JSON (docs/loadgen.md explains each field).
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Show no progress.
    #[arg(long, short)]
    pub quiet: bool,
}

/// `autobahn`.
#[derive(Debug, Args)]
pub struct AutobahnArgs {
    /// The fuzzing server, as ws://127.0.0.1:9001
    pub url: String,
    /// The name in the suite's report.
    #[arg(long, value_name = "NAME", default_value = "holdfast-load", value_parser = parse_token)]
    pub agent: String,
    /// What moves the bytes.
    #[arg(long, value_enum, default_value = "auto")]
    pub driver: DriverChoice,
}

fn parse_minutes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(minutes) if minutes > 0.0 && minutes <= 100_000.0 => Ok(minutes),
        _ => Err(format!("`{text}` is no number of minutes above 0")),
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (1.0..=1_000_000.0).contains(&rate) => Ok(rate),
        _ => Err(format!("`{text}` is no number from 1 to 1,000,000")),
    }
}

/// `1%` → 0.01.
fn parse_percent(text: &str) -> Result<f64, String> {
    match text.strip_suffix('%').map(str::parse::<f64>) {
        Some(Ok(percent)) if (0.0..=10_000.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err(format!("`{text}` is no share from 0% to 10000%; write for example 1% or 0.5%")),
    }
}

/// What the server takes as a grace, in whole milliseconds.
fn parse_grace(text: &str) -> Result<Duration, String> {
    let grace = parse_duration(text)?;
    if grace > Duration::from_secs(600) || grace.subsec_nanos() % 1_000_000 != 0 {
        return Err(format!("`{text}` is no grace: the server takes 0s to 10m, in whole milliseconds"));
    }
    Ok(grace)
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a header is `Name: value`")?;
    let name = parse_token(name.trim_end())?;
    let value = value.trim();
    let taken = ["host", "upgrade", "connection", "content-length", "transfer-encoding"];
    let lower = name.to_ascii_lowercase();
    if lower.starts_with("sec-websocket-") || taken.contains(&lower.as_str()) {
        return Err(format!("`{name}` is the handshake's own; there are options for what may be chosen"));
    }
    if !value.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
        return Err(format!("the value of `{name}` has characters that a header cannot carry"));
    }
    Ok((name, value.to_owned()))
}

/// RFC 9110 §5.6.2.
fn parse_token(text: &str) -> Result<String, String> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_token) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is no name: letters, digits and !#$%&'*+-.^_`|~ only"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_example_of_the_help_is_understood() {
        let joined = [EXAMPLES, CHAT_EXAMPLES, SYNC_EXAMPLES, SLOW_READER_EXAMPLES, CHECK_EXAMPLES]
            .join("\n")
            .replace("\\\n", " ");
        let examples: Vec<&str> =
            joined.lines().map(str::trim).filter(|line| line.starts_with("holdfast-load ")).collect();
        assert!(examples.len() >= 6);
        for example in examples {
            if let Err(error) = Cli::try_parse_from(example.split_whitespace()) {
                panic!("`{example}`: {error}");
            }
        }
    }

    #[test]
    fn shares_have_a_percent_sign() {
        assert_eq!(parse_percent("1%"), Ok(0.01));
        assert_eq!(parse_percent("0.5%"), Ok(0.005));
        for wrong in ["", "%", "1", "-1%", "10001%", "NaN%", "1 %"] {
            assert!(parse_percent(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn graces_are_what_the_server_takes() {
        assert_eq!(parse_grace("250ms"), Ok(Duration::from_millis(250)));
        for wrong in ["11m", "1us", "soon"] {
            assert!(parse_grace(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn headers() {
        assert_eq!(parse_header("X-Key:  a b "), Ok(("X-Key".into(), "a b".into())));
        for wrong in ["X", "X y: z", ": z", "Host: a", "sec-websocket-key: a", "X: é"] {
            assert!(parse_header(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn login_is_implied_by_how() {
        let login = |more: &[&str]| {
            let words = ["holdfast-load", "hold", "ws://x/"].iter().chain(more);
            match Cli::try_parse_from(words).unwrap().mode {
                Mode::Hold(args) => args.login.wanted(),
                _ => unreachable!("it is `hold`"),
            }
        };
        assert!(!login(&[]));
        assert!(login(&["--data", "d"]));
        assert!(login(&["--token", "t"]));
    }
}
