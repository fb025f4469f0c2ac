//! Contenders as processes on one core, and measurements of them by the load generator on another.

use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::CpuSet;

use super::{Contender, Discipline};

/// Connections of every discipline.
const CONNECTIONS: u32 = 200;
/// Bytes of a message.
const MESSAGE_BYTES: u32 = 64;
/// Messages under way per connection, in [`Discipline::Pipelined`].
const IN_FLIGHT: u32 = 16;

/// Where things are and what runs where.
#[derive(Debug, Clone)]
pub struct Ring {
    /// The directory of `holdfast`, `holdfast-load` and the peers.
    pub binaries: PathBuf,
    /// A directory for data and reports.
    pub work: PathBuf,
    /// The servers' processor.
    pub server_core: usize,
    /// The load generator's processor.
    pub load_core: usize,
    /// How long one measurement takes.
    pub seconds: u32,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum ContestError {
    /// A program could not be started.
    #[error("cannot start {}: {source}; build it with: cargo build --release --workspace --bins", program.display())]
    Start {
        /// Which.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A server ended before it said where it listens.
    #[error("{contender} ended before it listened; run {} by hand to see why", program.display())]
    NotListening {
        /// Which server.
        contender: Contender,
        /// Its program.
        program: PathBuf,
    },
    /// The load generator was not content.
    #[error("{contender}, {discipline}: holdfast-load ended with {status}: {message}")]
    Load {
        /// Which server was measured.
        contender: Contender,
        /// At what.
        discipline: Discipline,
        /// Its exit status.
        status: ExitStatus,
        /// What it said.
        message: String,
    },
    /// The report lacks what was asked for.
    #[error("{contender}, {discipline}: the report of holdfast-load has no {field}")]
    Report {
        /// Which server was measured.
        contender: Contender,
        /// At what.
        discipline: Discipline,
        /// The missing field.
        field: &'static str,
    },
    /// A file, or the affinity of a thread.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    contender: Contender,
    process: Child,
    address: String,
    data: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have gone already; then there is nothing to stop.
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let _ = self.process.wait();
    }
}

impl Ring {
    /// Starts a server and waits until it listens.
    ///
    /// # Errors
    /// When its program is missing, or ends.
    pub fn start(&self, contender: Contender) -> Result<Server, ContestError> {
        let data = self.work.join(format!("{contender:?}"));
        let (program, arguments): (&str, Vec<String>) = match contender {
            Contender::HoldfastUring => ("holdfast", holdfast_arguments("uring", &data)),
            Contender::HoldfastEpoll => ("holdfast", holdfast_arguments("epoll", &data)),
            Contender::Fastwebsockets => ("peer-fastwebsockets", Vec::new()),
            Contender::Tungstenite => ("peer-tungstenite", Vec::new()),
            Contender::TokioUring => ("peer-tokio-uring", Vec::new()),
        };
        let program = self.binaries.join(program);
        let mut command = Command::new(&program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut process = spawn_on(self.server_core, &mut command, &program)?;
        let output = process.stdout.take().expect("standard output was piped above");
        let mut lines = BufReader::new(output).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| address_in(&line));
        // Whoever stops reading a pipe ends its writer at the next line.
        std::thread::spawn(move || lines.for_each(drop));
        let is_listening = address.is_some();
        let server = Server { contender, process, address: address.unwrap_or_default(), data };
        if is_listening { Ok(server) } else { Err(ContestError::NotListening { contender, program }) }
    }

    /// Measures a server once: processor microseconds per message or handshake.
    ///
    /// # Errors
    /// When the load generator fails, finds wrong replies, or was itself the limit.
    pub fn measure(&self, server: &Server, discipline: Discipline) -> Result<f64, ContestError> {
        let contender = server.contender;
        let report = self.work.join("report.json");
        let program = self.binaries.join("holdfast-load");
        let mut command = Command::new(&program);
        command
            .args(self.load_arguments(server, discipline))
            .arg("--json")
            .arg(&report)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let output = spawn_on(self.load_core, &mut command, &program)?
            .wait_with_output()
            .map_err(|source| ContestError::Io { what: "waiting for holdfast-load".to_owned(), source })?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(ContestError::Load { contender, discipline, status: output.status, message });
        }
        let text = std::fs::read(&report)
            .map_err(|source| ContestError::Io { what: format!("reading {}", report.display()), source })?;
        let pointer = match discipline {
            Discipline::PingPong | Discipline::Pipelined => "/server/cpu_us_per_message",
            Discipline::Handshake => "/server/cpu_us_per_handshake",
        };
        serde_json::from_slice::<serde_json::Value>(&text)
            .ok()
            .and_then(|json| json.pointer(pointer)?.as_f64())
            .ok_or(ContestError::Report { contender, discipline, field: pointer })
    }

    fn load_arguments(&self, server: &Server, discipline: Discipline) -> Vec<String> {
        let mut arguments: Vec<String> = Vec::new();
        let mut push = |words: &[&str]| arguments.extend(words.iter().map(|&word| word.to_owned()));
        let address = &server.address;
        match discipline {
            Discipline::PingPong | Discipline::Pipelined => {
                let in_flight = if discipline == Discipline::Pipelined { IN_FLIGHT } else { 1 };
                push(&["echo", &format!("ws://{address}/echo")]);
                push(&["--in-flight", &in_flight.to_string(), "--size", &MESSAGE_BYTES.to_string()]);
            }
            Discipline::Handshake if server.contender.is_holdfast() => {
                push(&["connect", &format!("ws://{address}/ws")]);
                push(&["--data", &server.data.to_string_lossy()]);
            }
            Discipline::Handshake => push(&["connect", &format!("ws://{address}/")]),
        }
        push(&["--connections", &CONNECTIONS.to_string(), "--duration", &format!("{}s", self.seconds)]);
        push(&["--server-pid", &server.process.id().to_string()]);
        arguments
    }
}

fn holdfast_arguments(driver: &str, data: &Path) -> Vec<String> {
    let data = data.to_string_lossy();
    [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--shards",
        "1",
        "--driver",
        driver,
        "--bench-endpoints",
        "--data",
        &data,
    ]
    .map(str::to_owned)
    .to_vec()
}

/// `listening on 127.0.0.1:4711` or `open http://127.0.0.1:4711/` → `127.0.0.1:4711`.
fn address_in(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("listening on ").or_else(|| line.split_once("http://"))?;
    let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':')).unwrap_or(rest.len());
    Some(rest[..end].to_owned())
}

/// A child inherits the affinity of the thread that makes it.
fn spawn_on(core: usize, command: &mut Command, program: &Path) -> Result<Child, ContestError> {
    let affinity = |source: rustix::io::Errno| ContestError::Io {
        what: format!("running on processor {core}"),
        source: source.into(),
    };
    let before = rustix::thread::sched_getaffinity(None).map_err(affinity)?;
    let mut cores = CpuSet::new();
    cores.set(core);
    rustix::thread::sched_setaffinity(None, &cores).map_err(affinity)?;
    let child = command.spawn();
    rustix::thread::sched_setaffinity(None, &before).map_err(affinity)?;
    child.map_err(|source| ContestError::Start { program: program.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_say_where_one_listens_are_understood() {
        for (line, address) in [
            ("listening on 127.0.0.1:4711", Some("127.0.0.1:4711")),
            ("  open    http://127.0.0.1:8080/", Some("127.0.0.1:8080")),
            ("", None),
            ("Holdfast is serving", None),
        ] {
            assert_eq!(address_in(line).as_deref(), address, "{line:?}");
        }
    }
}
