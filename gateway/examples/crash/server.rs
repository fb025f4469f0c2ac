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

    /// Waits until `/readyz` says yes.
    pub(crate) fn await_ready(&self) -> io::Result<()> {
        let began = Instant::now();
        while !self.is_ready() {
            if let Some(status) = self.child.lock().expect("nobody panics with it").try_wait()? {
                return Err(io::Error::other(format!("it ended with {status} before it was ready")));
            }
            if began.elapsed() > PATIENCE {
                return Err(io::Error::other("it is not ready after a minute"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn is_ready(&self) -> bool {
        let ask = || -> io::Result<bool> {
            let mut stream = TcpStream::connect(self.address)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer.starts_with("HTTP/1.1 200"))
        };
        ask().unwrap_or(false)
    }

    pub(crate) fn kill(&self) -> io::Result<()> {
        let mut child = self.child.lock().expect("nobody panics with it");
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Kills it after this time, and counts it when it was not ready yet.
    pub(crate) fn kill_before_ready(&self, after: Duration, count: &mut u32) -> io::Result<()> {
        let began = Instant::now();
        let mut ready = false;
        while began.elapsed() < after && !ready {
            ready = self.is_ready();
        }
        self.kill()?;
        *count += u32::from(!ready);
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is dead already, except when the campaign failed.
        let _ = self.kill();
    }
}
