//! The server under test, as a process of its own.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use holdfast_gateway::token::{Claims, TokenKey, unix_now_seconds};
use holdfast_protocol::id::UserId;

/// How long a start or an answer may take before the campaign gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `holdfast serve`.
pub(crate) struct Server {
    child: Mutex<Child>,
    address: SocketAddr,
    data: PathBuf,
}

/// `target/PROFILE/holdfast`, when this is `target/PROFILE/examples/crash`.
pub(crate) fn beside_this_program() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program.parent().and_then(Path::parent);
    let binary = folder.map(|folder| folder.join("holdfast")).filter(|binary| binary.exists());
    binary.ok_or_else(|| {
        io::Error::other("no `holdfast` beside this program; build it, or name it with --binary")
    })
}

impl Server {
    pub(crate) fn start(binary: &Path, data: &Path) -> io::Result<Self> {
        // Free now, and nobody else here asks for ports.
        let address = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        let child = Command::new(binary)
            .arg("serve")
            .args(["--listen", &address.to_string()])
            .arg("--data")
            .arg(data)
            .env("HOLDFAST_LIMITS__SEND_PER_SECOND", "100000")
            .env("HOLDFAST_LIMITS__SEND_BURST", "100000")
            .env("HOLDFAST_LIMITS__CONTROL_FRAMES", "100000")
            .env("HOLDFAST_LOG__FILTER", "warn")
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { child: Mutex::new(child), address, data: data.to_owned() })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn token(&self, user: u64) -> io::Result<String> {
        let key = TokenKey::load_or_create(&self.data).map_err(io::Error::other)?;
        let now = unix_now_seconds();
        let device = Some("crash".into());
        Ok(key.mint(&Claims { user: UserId(user), device, issued_at: now, expires_at: now + 86_400 }))
    }

    /// Asks until the answer is yes; the process must live meanwhile.
    fn await_that(&self, otherwise: &str, yes: impl Fn(&Self) -> bool) -> io::Result<()> {
        let began = Instant::now();
        while !yes(self) {
            if let Some(status) = self.child.lock().expect("nobody panics with it").try_wait()? {
                return Err(io::Error::other(format!("{otherwise}, and ended with {status}")));
            }
            if began.elapsed() > PATIENCE {
                return Err(io::Error::other(format!("{otherwise} after {} s", PATIENCE.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// What `/readyz` says.
    fn is_ready(&self) -> bool {
        self.ask_readiness().and_then(says_ready).unwrap_or(false)
    }

    /// Asks `/readyz`; the listener is there before the store is open, the answer comes only after.
    fn ask_readiness(&self) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        Ok(stream)
    }

    pub(crate) fn kill(&self) -> io::Result<()> {
        let mut child = self.child.lock().expect("nobody panics with it");
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Whether this process has the store open: its lock file says so before anything of it is read.
    fn has_store(&self) -> bool {
        let process = self.child.lock().expect("nobody panics with it").id();
        let holder = std::fs::read_to_string(self.data.join("store/LOCK")).unwrap_or_default();
        holder.trim() == process.to_string()
    }

    /// Kills it `after` it has begun to open the store; says whether it was not ready then, so that it died while it
    /// replayed.
    pub(crate) fn kill_in_replay(&self, after: Duration) -> io::Result<bool> {
        self.await_that("it has not opened its store", Self::has_store)?;
        let asked = self.ask_readiness();
        std::thread::sleep(after);
        let in_replay = match asked {
            // Not even its listener is there.
            Err(_) => true,
            Ok(stream) => {
                stream.set_nonblocking(true)?;
                let silent =
                    stream.peek(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
                // Once it has answered it answers at once: still in replay, or ready by now.
                silent || !self.is_ready()
            }
        };
        self.kill()?;
        Ok(in_replay)
    }

    /// Waits until it is ready; how long it took from where it began to open the store.
    pub(crate) fn await_replay(&self) -> io::Result<Duration> {
        self.await_that("it has not opened its store", Self::has_store)?;
        let opened = Instant::now();
        self.await_that("it is not ready", Self::is_ready)?;
        Ok(opened.elapsed())
    }
}

/// Whether the answer to `/readyz` is a yes.
fn says_ready(mut stream: TcpStream) -> io::Result<bool> {
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 200"))
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is dead already, except when the campaign failed.
        let _ = self.kill();
    }
}
