//! A raw TCP echo on a driver, and what it costs.
//!
//! ```text
//! cargo run --release -p holdfast-reactor --example echo -- serve   --driver uring --listen 127.0.0.1:7007
//! cargo run --release -p holdfast-reactor --example echo -- measure --driver uring --connections 200 --in-flight 1
//! ```
//!
//! `measure` runs an echo server on one CPU and a closed-loop client on another, for `--seconds` after a warm-up,
//! and prints the CPU time that the server's thread spent per message (kernel included). `hold` opens
//! `--connections`, prints what each costs in memory while it is idle (both ends) and in the server's CPU time to
//! accept, and then to close.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use holdfast_reactor::epoll::EpollDriver;
use holdfast_reactor::uring::UringDriver;
use holdfast_reactor::{ConnectionId, Driver, DriverOptions, Event, Moment, ReactorError};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

#[derive(Debug, Clone)]
struct Options {
    driver: String,
    listen: SocketAddr,
    connections: usize,
    in_flight: usize,
    size_bytes: usize,
    seconds: u64,
    table_slots: Option<u32>,
    /// `hold`: the client ends its streams first, and closes when the server has.
    polite: bool,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    let mode = arguments.next().ok_or("say `serve`, `measure` or `hold`")?;
    let mut options = Options {
        driver: "uring".to_owned(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7007)),
        connections: 200,
        in_flight: 1,
        size_bytes: 64,
        seconds: 5,
        table_slots: None,
        polite: false,
    };
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        let number = || value.parse::<usize>().map_err(|_| format!("{name} needs a number, not {value}"));
        match name.as_str() {
            "--driver" => options.driver = value,
            "--listen" => options.listen = value.parse().map_err(|_| format!("{value} is no address"))?,
            "--connections" => options.connections = number()?,
            "--in-flight" => options.in_flight = number()?.max(1),
            "--size" => options.size_bytes = number()?.max(1),
            "--seconds" => options.seconds = number()? as u64,
            "--polite" => options.polite = value == "yes",
            "--table-slots" => options.table_slots = Some(number()? as u32),
            _ => return Err(format!("{name} is not known")),
        }
    }
    match mode.as_str() {
        "serve" => serve_forever(&options),
        "measure" => measure(&options),
        "hold" => hold(&options),
        _ => Err(format!("{mode} is not known: say `serve`, `measure` or `hold`")),
    }
}

/// What the server thread tells.
#[derive(Debug, Default)]
struct Counters {
    bytes: AtomicU64,
    cpu_ns: AtomicU64,
    turns: AtomicU64,
    accepted: AtomicU64,
    closed: AtomicU64,
    stop: AtomicBool,
}

fn driver_options(options: &Options) -> DriverOptions {
    DriverOptions { connections: options.connections.max(1_000), ..DriverOptions::default() }
}

fn make_uring(options: &Options) -> Result<UringDriver, ReactorError> {
    match options.table_slots {
        Some(slots) => UringDriver::with_table_slots(driver_options(options), slots),
        None => UringDriver::new(driver_options(options)),
    }
}

fn serve_forever(options: &Options) -> Result<(), String> {
    let listener = TcpListener::bind(options.listen).map_err(|error| error.to_string())?;
    println!("echoing on {}", options.listen);
    serve_on(options, listener, &Counters::default()).map_err(|error| error.to_string())
}

fn serve_on(options: &Options, listener: TcpListener, counters: &Counters) -> Result<(), ReactorError> {
    match options.driver.as_str() {
        "epoll" => serve(EpollDriver::new(driver_options(options))?, listener, counters),
        _ => serve(make_uring(options)?, listener, counters),
    }
}

/// The server: everything that one receive brought is answered with one send.
fn serve<D: Driver>(mut driver: D, listener: TcpListener, counters: &Counters) -> Result<(), ReactorError> {
    driver.listen(listener)?;
    let mut events = Vec::new();
    while !counters.stop.load(Ordering::Relaxed) {
        let until = driver.now().after(Duration::from_millis(100));
        driver.turn(Some(until), &mut events)?;
        let (mut bytes, mut accepted, mut closed) = (0, 0, 0);
        for event in events.drain(..) {
            match event {
                Event::Received(id, buffer) => {
                    bytes += buffer.len() as u64;
                    if let Some(output) = driver.output(id) {
                        output.buffer().extend_from_slice(&buffer);
                    }
                }
                Event::EndOfStream(id) => driver.close(id),
                Event::AcceptFailed(error) => eprintln!("echo: cannot accept: {error}"),
                Event::Accepted(_) => accepted += 1,
                Event::Closed(..) => closed += 1,
                Event::Connected(_) | Event::Drained(_) => {}
            }
        }
        counters.accepted.fetch_add(accepted, Ordering::Relaxed);
        counters.closed.fetch_add(closed, Ordering::Relaxed);
        counters.bytes.fetch_add(bytes, Ordering::Relaxed);
        counters.turns.fetch_add(1, Ordering::Relaxed);
        counters.cpu_ns.store(nanoseconds(ClockId::ThreadCPUTime), Ordering::Relaxed);
    }
    Ok(())
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn pin(cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    // On a machine with one CPU the figures are worse, and that is all.
    let _ = sched_setaffinity(None, &cpus);
}

/// A server on a thread and CPU of its own.
struct Server {
    target: SocketAddr,
    counters: Arc<Counters>,
    thread: thread::JoinHandle<Result<(), String>>,
}

impl Server {
    fn start(options: &Options) -> Result<Self, String> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(|error| error.to_string())?;
        let port = listener.local_addr().map_err(|error| error.to_string())?.port();
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        // A longer accept queue than the 128 of std.
        rustix::net::listen(&listener, 4096).map_err(|error| error.to_string())?;
        let counters = Arc::new(Counters::default());
        let thread = {
            let (options, counters) = (options.clone(), Arc::clone(&counters));
            thread::spawn(move || {
                pin(0);
                serve_on(&options, listener, &counters).map_err(|error| error.to_string())
            })
        };
        Ok(Self { target, counters, thread })
    }

    fn stop(self) -> Result<(), String> {
        self.counters.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the server panicked".to_owned())?
    }
}

fn measure(options: &Options) -> Result<(), String> {
    let server = Server::start(options)?;
    pin(1);
    let measured = client(options, server.target, &server.counters);
    server.stop()?;
    let (messages, cpu_ns, turns, seconds) = measured?;
    println!(
        "driver={} connections={} in_flight={} bytes={}: {:.3} CPU us/message, {:.0} messages/s, {:.1} messages/turn",
        options.driver,
        options.connections,
        options.in_flight,
        options.size_bytes,
        cpu_ns as f64 / 1e3 / messages as f64,
        messages as f64 / seconds,
        messages as f64 / turns.max(1) as f64,
    );
    Ok(())
}

/// Keeps `in_flight` messages on the way in each connection. Says messages, CPU ns, turns, seconds.
fn client(
    options: &Options,
    target: SocketAddr,
    counters: &Counters,
) -> Result<(u64, u64, u64, f64), String> {
    let describe = |error: ReactorError| error.to_string();
    let mut driver = UringDriver::new(driver_options(options)).map_err(describe)?;
    let mut events = Vec::new();
    for _ in 0..options.connections {
        driver.connect(None, target).map_err(describe)?;
    }
    let message = vec![0x5a; options.size_bytes];
    let mut connected = 0;
    let mut begin = None;
    let mut received: Vec<usize> = Vec::new();
    let warm_up = driver.now().after(Duration::from_secs(1));
    let end = warm_up.after(Duration::from_secs(options.seconds));
    let mark = |now: Moment| {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (now, load(&counters.bytes), load(&counters.cpu_ns), load(&counters.turns))
    };
    loop {
        driver.turn(Some(end), &mut events).map_err(describe)?;
        for event in events.drain(..) {
            match event {
                Event::Connected(id) => {
                    connected += 1;
                    for _ in 0..options.in_flight {
                        append(&mut driver, id, &message);
                    }
                }
                Event::Received(id, buffer) => {
                    let index = id.index as usize;
                    if received.len() <= index {
                        received.resize(index + 1, 0);
                    }
                    received[index] += buffer.len();
                    while received[index] >= message.len() {
                        received[index] -= message.len();
                        append(&mut driver, id, &message);
                    }
                }
                Event::Closed(_, reason) => return Err(format!("a connection was closed: {reason:?}")),
                _ => {}
            }
        }
        let now = driver.now();
        if begin.is_none() && now >= warm_up {
            if connected < options.connections {
                return Err(format!("only {connected} connections after a second"));
            }
            begin = Some(mark(now));
        }
        if let Some(begin) = begin
            && now >= end
        {
            let end = mark(now);
            let messages = (end.1 - begin.1) / options.size_bytes as u64;
            let seconds = end.0.since(begin.0).as_secs_f64();
            return Ok((messages, end.2 - begin.2, end.3 - begin.3, seconds));
        }
    }
}

fn append(driver: &mut UringDriver, id: ConnectionId, message: &[u8]) {
    if let Some(output) = driver.output(id) {
        output.buffer().extend_from_slice(message);
    }
}

/// What the machine spends, in bytes: memory that is not free, of which kernel slabs; and this process's RSS.
fn memory_bytes() -> Result<(u64, u64, u64), String> {
    let read = |path: &str| std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let number =
            line.and_then(|line| line.split_whitespace().nth(1)).and_then(|number| number.parse().ok());
        number.map(|kilobytes: u64| kilobytes << 10).ok_or_else(|| format!("no {name}"))
    };
    let (machine, process) = (read("/proc/meminfo")?, read("/proc/self/status")?);
    let used = field(&machine, "MemTotal:")? - field(&machine, "MemFree:")?;
    Ok((used, field(&machine, "Slab:")?, field(&process, "VmRSS:")?))
}

/// Opens connections, leaves them idle, closes them.
fn hold(options: &Options) -> Result<(), String> {
    let describe = |error: ReactorError| error.to_string();
    let server = Server::start(options)?;
    pin(1);
    let count = options.connections;
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let mut driver = UringDriver::new(driver_options(options)).map_err(describe)?;
    let mut events = Vec::new();
    let (_, slab, rss) = memory_bytes()?;
    let (begin, cpu) = (nanoseconds(ClockId::Monotonic), load(&server.counters.cpu_ns));
    let (mut asked, mut ids) = (0, Vec::with_capacity(count));
    while ids.len() < count {
        // A bounded number on the way, or the accept queue overflows and SYNs are lost for a second.
        while asked < count && asked - ids.len() < 512 {
            // 19,000 ports of each destination address.
            let address = Ipv4Addr::new(127, 0, (asked / 19_000) as u8, 1);
            driver.connect(None, (address, server.target.port()).into()).map_err(describe)?;
            asked += 1;
        }
        driver.turn(None, &mut events).map_err(describe)?;
        for event in events.drain(..) {
            match event {
                Event::Connected(id) => ids.push(id),
                Event::Closed(_, reason) => return Err(format!("a connection was closed: {reason:?}")),
                _ => {}
            }
        }
    }
    while load(&server.counters.accepted) < count as u64 {
        let soon = driver.now().after(Duration::from_millis(1));
        driver.turn(Some(soon), &mut events).map_err(describe)?;
    }
    let seconds = (nanoseconds(ClockId::Monotonic) - begin) as f64 / 1e9;
    let accept_cpu = load(&server.counters.cpu_ns) - cpu;
    let (_, slab_held, rss_held) = memory_bytes()?;
    let each = |bytes: u64| bytes as f64 / count as f64;
    println!(
        "{count} connections in {seconds:.2} s: accepting {:.2} CPU us each; both ends idle: {:.0} bytes of slab, \
         {:.0} of RSS each",
        each(accept_cpu) / 1e3,
        each(slab_held.saturating_sub(slab)),
        each(rss_held.saturating_sub(rss)),
    );

    let (turns, cpu) = (load(&server.counters.turns), load(&server.counters.cpu_ns));
    let end = driver.now().after(Duration::from_secs(options.seconds));
    while driver.now() < end {
        driver.turn(Some(end), &mut events).map_err(describe)?;
    }
    println!(
        "idle for {} s: {} turns of the server (it asks for ten a second), {} CPU us in all",
        options.seconds,
        load(&server.counters.turns) - turns,
        (load(&server.counters.cpu_ns) - cpu) / 1_000,
    );

    let (begin, cpu, mut closed) = (nanoseconds(ClockId::Monotonic), load(&server.counters.cpu_ns), 0);
    let client_cpu = nanoseconds(ClockId::ThreadCPUTime);
    let process_cpu = nanoseconds(ClockId::ProcessCPUTime);
    for id in ids {
        if options.polite { driver.shutdown(id) } else { driver.close(id) }
    }
    while closed < count || load(&server.counters.closed) < count as u64 {
        let soon = driver.now().after(Duration::from_millis(1));
        driver.turn(Some(soon), &mut events).map_err(describe)?;
        for event in events.drain(..) {
            match event {
                Event::Closed(..) => closed += 1,
                Event::EndOfStream(id) => driver.close(id),
                _ => {}
            }
        }
    }
    println!(
        "closed in {:.2} s: {:.2} CPU us each for the server, {:.2} for the client, {:.2} for the process",
        (nanoseconds(ClockId::Monotonic) - begin) as f64 / 1e9,
        each(load(&server.counters.cpu_ns) - cpu) / 1e3,
        each(nanoseconds(ClockId::ThreadCPUTime) - client_cpu) / 1e3,
        each(nanoseconds(ClockId::ProcessCPUTime) - process_cpu) / 1e3,
    );
    server.stop()
}
