//! The `holdfast` that lies beside our own binary: started on a free port with a data directory of its own, watched,
//! and stopped the way an operator stops it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::clock;

/// Why there is no server, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// It does not lie there.
    #[error(
        "no server at {0}; build both with `cargo build --release -p holdfast-gateway -p holdfast-loadgen`, \
         or name one with --server"
    )]
    Missing(PathBuf),
    /// The system does not start it.
    #[error("cannot start {path}: {source}")]
    Start {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Its data directory or log cannot be made.
    #[error("cannot make {path}: {source}; name another place with --data")]
    Directory {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// It ended by itself.
    #[error("the server ended ({status}); its last words:\n{}", indented(log))]
    Died {
        /// How.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// It does not become ready.
    #[error("the server is not ready after {} s; its last words:\n{}", waited.as_secs(), indented(log))]
    NotReady {
        /// How long we waited.
        waited: Duration,
        /// The end of its log.
        log: String,
    },
    /// It does not end when told to.
    #[error("the server did not end within {} s of SIGTERM; it was killed", .0.as_secs())]
    DoesNotEnd(Duration),
    /// No port, or the system does not let us ask.
    #[error("cannot look after the server: {0}")]
    System(#[from] std::io::Error),
}

fn indented(log: &str) -> String {
    if log.is_empty() {
        "    (nothing)".into()
    } else {
        log.lines().map(|line| format!("    {line}\n")).collect()
    }
}

/// What to start.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The binary; `None`: the one beside ours.
    pub binary: Option<PathBuf>,
    /// The data directory; it is made.
    pub data: PathBuf,
    /// The interface to listen on.
    pub listen: Ipv4Addr,
    /// Further arguments of `serve`.
    pub arguments: Vec<String>,
    /// Settings in its environment, beside our own environment: name and value.
    pub environment: Vec<(String, String)>,
    /// How long it may take to drain.
    pub drain: Duration,
}

/// A running server; ends with this value.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    log: PathBuf,
    data: PathBuf,
    ended: bool,
}

const READY_WITHIN: Duration = Duration::from_secs(30);
/// Longer than the server's own `drain.timeout` and its last fsync.
const ENDS_WITHIN: Duration = Duration::from_secs(60);
/// The end of a log that is shown when something is wrong.
const LAST_WORDS_BYTES: u64 = 4_096;

impl ServerProcess {
    /// Starts it, and waits until it is ready. `keep_waiting` is asked now and then.
    ///
    /// # Errors
    /// When it is not there, does not start, ends, or does not become ready in time.
    pub fn start(options: &ServerOptions, keep_waiting: impl Fn() -> bool) -> Result<Self, ServerError> {
        let binary = match &options.binary {
            Some(binary) => binary.clone(),
            None => std::env::current_exe()?.with_file_name("holdfast"),
        };
        if !binary.exists() {
            return Err(ServerError::Missing(binary));
        }
        let directory = |path: &Path| {
            let path = path.to_owned();
            |source| ServerError::Directory { path, source }
        };
        std::fs::create_dir_all(&options.data).map_err(directory(&options.data))?;
        let log = options.data.join("server.log");
        let output = File::create(&log).map_err(directory(&log))?;
        let address = SocketAddr::new(options.listen.into(), free_port(options.listen)?);
        let child = Command::new(&binary)
            .arg("serve")
            .arg("--listen")
            .arg(address.to_string())
            .arg("--data")
            .arg(options.data.join("store"))
            .args(&options.arguments)
            .envs(options.environment.iter().map(|(name, value)| (name, value)))
            .env("HOLDFAST_DRAIN__TIMEOUT", format!("{}s", options.drain.as_secs()))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .map_err(|source| ServerError::Start { path: binary.clone(), source })?;
        let data = options.data.clone();
        let mut server = Self { child, address, log, data, ended: false };
        server.wait_ready(keep_waiting)?;
        Ok(server)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The key that its tokens are signed with.
    #[must_use]
    pub fn token_key(&self) -> PathBuf {
        self.data.join("store").join("token.key")
    }

    /// Where connections are made to: loopback, whatever it listens on.
    #[must_use]
    pub fn loopback(&self) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.address.port())
    }

    /// Looks whether it still runs.
    ///
    /// # Errors
    /// When it has ended, with the end of its log.
    pub fn check(&mut self) -> Result<(), ServerError> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                self.ended = true;
                Err(ServerError::Died { status, log: self.last_words() })
            }
        }
    }

    fn wait_ready(&mut self, keep_waiting: impl Fn() -> bool) -> Result<(), ServerError> {
        let begin = clock::monotonic();
        loop {
            self.check()?;
            if is_ready(self.loopback()) {
                return Ok(());
            }
            let waited = clock::monotonic().since(begin);
            if waited > READY_WITHIN || !keep_waiting() {
                return Err(ServerError::NotReady { waited, log: self.last_words() });
            }
            // There is no event for "another process listens": ask again soon.
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Asks it to drain and end (SIGTERM); does not wait.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn terminate(&mut self) -> Result<(), ServerError> {
        let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) else { return Ok(()) };
        if !self.ended {
            kill_process(pid, Signal::TERM).map_err(std::io::Error::from)?;
        }
        Ok(())
    }

    /// Ends it at once (SIGKILL), and waits until the system has taken it away.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn kill(&mut self) -> Result<(), ServerError> {
        if !self.ended {
            self.child.kill()?;
            self.child.wait()?;
            self.ended = true;
        }
        Ok(())
    }

    /// Stops its threads where they are (SIGSTOP), or lets them go on (SIGCONT).
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn suspend(&mut self, stopped: bool) -> Result<(), ServerError> {
        let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) else { return Ok(()) };
        let signal = if stopped { Signal::STOP } else { Signal::CONT };
        if !self.ended {
            kill_process(pid, signal).map_err(std::io::Error::from)?;
        }
        Ok(())
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// When it takes too long (it is killed then).
    pub fn wait(&mut self) -> Result<ExitStatus, ServerError> {
        let begin = clock::monotonic();
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.ended = true;
                return Ok(status);
            }
            if clock::monotonic().since(begin) > ENDS_WITHIN {
                self.child.kill()?;
                self.child.wait()?;
                self.ended = true;
                return Err(ServerError::DoesNotEnd(ENDS_WITHIN));
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// The end of its log.
    #[must_use]
    pub fn last_words(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS_BYTES)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        read().unwrap_or_default()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if !self.ended {
            // It is ours alone, with data that nobody wants: there is nothing to drain for.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A port that nobody listens on now.
fn free_port(address: Ipv4Addr) -> std::io::Result<u16> {
    Ok(TcpListener::bind((address, 0))?.local_addr()?.port())
}

/// True when `GET /readyz` is answered with 200.
fn is_ready(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(
            format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
        )?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        Ok(&answer == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

/// True when something accepts connections there.
#[must_use]
pub fn accepts(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn script(directory: &Path, text: &str) -> PathBuf {
        let path = directory.join("holdfast");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn options(directory: &Path, binary: PathBuf) -> ServerOptions {
        let data = directory.join("data");
        ServerOptions {
            binary: Some(binary),
            data,
            listen: Ipv4Addr::LOCALHOST,
            arguments: vec![],
            environment: vec![],
            drain: Duration::from_secs(5),
        }
    }

    #[test]
    fn a_server_that_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let error = ServerProcess::start(&options(directory.path(), "/no/such".into()), || true).unwrap_err();
        assert!(error.to_string().contains("cargo build --release"), "{error}");
    }

    #[test]
    fn a_server_that_dies_is_quoted() {
        let directory = tempfile::tempdir().unwrap();
        let binary = script(directory.path(), "echo cannot open the store >&2; exit 3");
        let error =
            ServerProcess::start(&options(directory.path(), binary), || true).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("cannot open the store"), "{error}");
    }

    #[test]
    fn a_server_that_never_gets_ready_is_not_waited_for_against_ones_will() {
        let directory = tempfile::tempdir().unwrap();
        let binary = script(directory.path(), "echo starting; exec sleep 60");
        let begin = clock::monotonic();
        let interrupted = || clock::monotonic().since(begin) < Duration::from_millis(300);
        let error = ServerProcess::start(&options(directory.path(), binary), interrupted).unwrap_err();
        assert!(matches!(&error, ServerError::NotReady { log, .. } if log == "starting"), "{error}");
    }
}
