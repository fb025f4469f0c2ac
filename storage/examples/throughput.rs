//! How many direct messages per second the store takes and delivers, and what one costs.
//!
//! `cargo run --release -p holdfast-storage --example throughput -- [--seconds 5] [--pairs 1000] [--in-flight 2000]
//! [--body 64] [--databases 2] [--registrations 0] [--directory DIR]`
//!
//! One thread plays all shards: it sends for random pairs, `in-flight` messages at a time, and takes the answers and
//! events. Its own CPU time is measured apart. Without a directory the data lies in a temporary one.

#![allow(clippy::disallowed_methods, reason = "a measurement needs a clock")]
#![allow(clippy::print_stdout, reason = "that is what it is for")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_protocol::id::{ConversationId, DeviceId, Rev, UserId};
use holdfast_router::{Key, RouteError, Router};
use holdfast_storage::command::{
    Act, ClientId, Command, Deliver, Delivery, Register, SendMessage, SessionAddress,
};
use holdfast_storage::{BUCKETS_US, Options, Workers};
use rustix::time::{ClockId, clock_gettime};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Lane(flume::Sender<Delivery>);

impl Deliver for Lane {
    fn deliver(&mut self, _shard: u16, delivery: Delivery) -> Result<(), Delivery> {
        self.0.try_send(delivery).map_err(flume::TrySendError::into_inner)
    }

    fn flush(&mut self) {}
}

#[derive(Debug)]
struct Arguments {
    seconds: u64,
    pairs: u64,
    in_flight: u64,
    body: usize,
    databases: u16,
    registrations: u64,
    directory: Option<PathBuf>,
}

impl Arguments {
    fn parse() -> Self {
        let mut arguments = Self {
            seconds: 5,
            pairs: 1_000,
            in_flight: 2_000,
            body: 64,
            databases: 2,
            registrations: 0,
            directory: None,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let value = words.next().unwrap_or_default();
            let number =
                || value.parse::<u64>().unwrap_or_else(|_| panic!("{word} needs a number, not {value:?}"));
            match word.as_str() {
                "--seconds" => arguments.seconds = number(),
                "--pairs" => arguments.pairs = number(),
                "--in-flight" => arguments.in_flight = number(),
                "--body" => arguments.body = number() as usize,
                "--databases" => arguments.databases = number() as u16,
                "--registrations" => arguments.registrations = number(),
                "--directory" => arguments.directory = Some(value.into()),
                other => panic!("there is no {other}"),
            }
        }
        arguments
    }
}

fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// CPU time of the threads so far, by name.
fn threads() -> BTreeMap<String, Duration> {
    let mut used: BTreeMap<String, Duration> = BTreeMap::new();
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return used };
    for task in tasks.flatten() {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let ran_ns = read("schedstat").split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
        *used.entry(read("comm").trim().to_owned()).or_default() += Duration::from_nanos(ran_ns);
    }
    used
}

/// splitmix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn session(user: u64) -> SessionAddress {
    SessionAddress { shard: 0, connection: user }
}

fn register(user: u64, cursor: Option<Rev>) -> Command {
    let (device, session) = (DeviceId(1), session(user));
    Command::Register(Register {
        user: UserId(user),
        device,
        device_name: "phone".into(),
        issued_at: 0,
        session,
        accepted_tick: 0,
        cursor,
    })
}

/// Sends, and takes deliveries while the queue is full.
fn submit(router: &Router<Command>, key: Key, mut command: Command, mut meanwhile: impl FnMut()) {
    while let Err(error) = router.send(key, command) {
        if let RouteError::Stopped { worker, .. } = &error {
            panic!("worker {worker} has stopped");
        }
        command = error.into_command();
        meanwhile();
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let temporary = tempfile::tempdir()?;
    let directory = arguments.directory.clone().unwrap_or_else(|| temporary.path().join("store"));
    let options = Options { databases: Some(arguments.databases), ..Options::new(directory) };
    let workers = Workers::open(options)?;
    let (lane, deliveries) = flume::bounded(1 << 20);
    let delivers = (0..workers.databases()).map(|_| Box::new(Lane(lane.clone())) as Box<dyn Deliver + Send>);
    let delivers = delivers.collect();
    let running = workers.start(delivers)?;
    let router = running.router();

    if arguments.registrations > 0 {
        let (started, used) = (Instant::now(), cpu(ClockId::ProcessCPUTime) - cpu(ClockId::ThreadCPUTime));
        let mut answered = 0;
        for user in 0..arguments.registrations {
            let user = 1_000_000_000 + user;
            let register = register(user, None);
            submit(&router, Key::User(UserId(user)), register, || {
                answered += deliveries.try_iter().count() as u64;
            });
        }
        while answered < arguments.registrations {
            deliveries.recv()?;
            answered += 1;
        }
        let took = started.elapsed();
        let used = cpu(ClockId::ProcessCPUTime) - cpu(ClockId::ThreadCPUTime) - used;
        println!(
            "registrations: {:.0}/s, {:.2} us of worker CPU each",
            answered as f64 / took.as_secs_f64(),
            used.as_secs_f64() * 1e6 / answered as f64
        );
    }

    for user in 1..=2 * arguments.pairs {
        submit(&router, Key::User(UserId(user)), register(user, None), || {});
    }
    let mut registered = 0;
    while registered < 2 * arguments.pairs {
        if let Delivery::Registered { session, cursor, head } = deliveries.recv()? {
            if cursor < head {
                // An old directory: this one starts at the head.
                let user = session.connection;
                submit(&router, Key::User(UserId(user)), register(user, Some(head)), || {});
            } else {
                registered += 1;
            }
        }
    }
    println!("{} users are live in {} databases", 2 * arguments.pairs, arguments.databases);

    let body = {
        let text = "x".repeat(arguments.body);
        let mut body = vec![0x0a];
        let mut len = text.len();
        while len >= 0x80 {
            body.push(len as u8 | 0x80);
            len >>= 7;
        }
        body.push(len as u8);
        body.extend_from_slice(text.as_bytes());
        Bytes::from(body)
    };
    let mut state = 7;
    let (mut sent, mut accepted, mut events, mut refused) = (0u64, 0u64, 0u64, 0u64);
    let mut started_at = Vec::new();
    let run = std::process::id();
    let started = Instant::now();
    let (process, own) = (cpu(ClockId::ProcessCPUTime), cpu(ClockId::ThreadCPUTime));
    let mut latencies = Vec::new();
    let deadline = started + Duration::from_secs(arguments.seconds);
    loop {
        let over = Instant::now() >= deadline;
        if over && accepted + refused == sent && events >= 2 * accepted {
            break;
        }
        while !over && sent - accepted - refused < arguments.in_flight {
            let pair = random(&mut state) % arguments.pairs;
            let (mut sender, mut other) = (UserId(2 * pair + 1), UserId(2 * pair + 2));
            if random(&mut state).is_multiple_of(2) {
                std::mem::swap(&mut sender, &mut other);
            }
            let conversation = ConversationId::direct(sender, other);
            let message = SendMessage {
                sender,
                device: DeviceId(1),
                device_name: ClientId::from_slice(b"phone"),
                session: session(sender.0),
                conversation,
                client_id: ClientId::from_slice(format!("{run}-{sent}").as_bytes()),
                act: Act::Say { body: body.clone(), reply_to: None },
            };
            started_at.push(Instant::now());
            sent += 1;
            let mut command = Command::Send(Box::new(message));
            while let Err(error) = router.send(Key::Conversation(conversation), command) {
                command = error.into_command();
                std::thread::yield_now();
            }
        }
        let Ok(first) = deliveries.recv_timeout(Duration::from_secs(5)) else {
            println!("stuck: sent {sent}, accepted {accepted}, events {events}");
            break;
        };
        for delivery in std::iter::once(first).chain(deliveries.try_iter()) {
            match delivery {
                Delivery::Accepted { client_id, .. } => {
                    accepted += 1;
                    let number = client_id.split(|&byte| byte == b'-').nth(1).unwrap_or_default();
                    let number: usize = std::str::from_utf8(number)?.parse()?;
                    latencies.push(started_at[number].elapsed());
                }
                Delivery::Event { rev, .. } if rev > Rev(0) => events += 1,
                Delivery::Rejected { .. } => refused += 1,
                Delivery::Gap { .. } => println!("a gap: this thread is too slow"),
                _ => {}
            }
        }
    }
    let took = started.elapsed();
    let own = cpu(ClockId::ThreadCPUTime) - own;
    let process = cpu(ClockId::ProcessCPUTime) - process;
    latencies.sort_unstable();
    let at =
        |share: f64| latencies.get((latencies.len() as f64 * share) as usize).copied().unwrap_or_default();
    println!(
        "{:.0} messages/s accepted and delivered twice ({accepted} in {:.1} s, {refused} refused)",
        accepted as f64 / took.as_secs_f64(),
        took.as_secs_f64()
    );
    println!(
        "CPU per message: {:.1} us in workers and engine, {:.1} us in this thread",
        (process - own).as_secs_f64() * 1e6 / accepted as f64,
        own.as_secs_f64() * 1e6 / accepted as f64
    );
    for (name, used) in threads() {
        println!("  {name:<16} {:.1} us", used.as_secs_f64() * 1e6 / accepted as f64);
    }
    println!("accepted after: p50 {:?}, p99 {:?}, max {:?}", at(0.5), at(0.99), at(0.999_999));
    let stats = running.stats();
    let commit = stats.commit();
    let percentile = |share: f64| {
        let wanted = (commit.count as f64 * share) as u64;
        let mut seen = 0;
        let bucket = commit.buckets.iter().position(|count| {
            seen += count;
            seen > wanted
        });
        bucket.and_then(|bucket| BUCKETS_US.get(bucket)).copied()
    };
    println!(
        "commits: {} of {:.1} messages, mean {} us, p50 below {:?} us, p99 below {:?} us",
        commit.count,
        stats.sum(|worker| worker.messages) as f64 / commit.count.max(1) as f64,
        commit.sum_us / commit.count.max(1),
        percentile(0.5),
        percentile(0.99)
    );
    println!("engine: {} MiB in write buffers and caches", stats.sum(|worker| worker.engine_bytes) >> 20);
    running.stop()?;
    if let Some(directory) = &arguments.directory {
        println!("kept in {}", directory.display());
    }
    Ok(())
}
