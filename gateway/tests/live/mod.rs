//! A server in this process, and a peer that can send whatever it likes.
//!
//! The peer is a blocking socket with a deadline on every read: a test that waits for something that does not come
//! fails and says for what.

#![allow(dead_code, reason = "each test binary uses another part")]
#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use holdfast_gateway::config::{Config, DriverChoice};
use holdfast_gateway::serve::Server;
use holdfast_gateway::token::{Claims, TokenKey, unix_now_seconds};
use holdfast_protocol::id::UserId;
use holdfast_protocol::ws::{Decoder, Item, MessageLimits, Opcode, Role, encode_frame};
use serde_json::{Value, json};

/// Far above what anything here takes; only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(20);
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const LIMITS: MessageLimits =
    MessageLimits { frame_bytes: 64 << 20, message_bytes: 64 << 20, fragments: 100_000 };

/// Both back ends that this machine has. Where io_uring is blocked that must not look like success: it fails in CI.
pub fn drivers() -> Vec<DriverChoice> {
    match holdfast_reactor::uring::probe() {
        Ok(_) => vec![DriverChoice::Epoll, DriverChoice::Uring],
        Err(error) => {
            let complaint = format!("NOT TESTED on io_uring: {error}");
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{complaint}");
            eprintln!("{complaint}");
            vec![DriverChoice::Epoll]
        }
    }
}

/// A running server with a data directory of its own.
pub struct Live {
    server: Option<Server>,
    pub config: Config,
    pub address: SocketAddr,
    pub keys: TokenKey,
    directory: tempfile::TempDir,
}

impl Live {
    pub fn start(driver: DriverChoice, tweak: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config { driver, data: directory.path().join("data"), ..Config::default() };
        config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.shards = Some(2);
        config.storage.databases = Some(2);
        config.drain.timeout = Duration::from_millis(200);
        tweak(&mut config);
        Self::open(config, directory)
    }

    fn open(config: Config, directory: tempfile::TempDir) -> Self {
        let server = Server::start(&config).unwrap();
        let address = server.description().address;
        let keys = TokenKey::load_or_create(&config.data).unwrap();
        Self { server: Some(server), config, address, keys, directory }
    }

    /// Stops and starts again on the same data and the same port.
    pub fn restart(mut self) -> Self {
        self.server.take().unwrap().stop(Duration::from_millis(200)).unwrap();
        let mut config = self.config.clone();
        config.listen = self.address;
        let directory = std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap());
        Self::open(config, directory)
    }

    /// Stops, politely, and waits for the end.
    pub fn stop(mut self, within: Duration) {
        self.server.take().unwrap().stop(within).unwrap();
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    pub fn token(&self, user: u64, device: &str) -> String {
        self.token_until(user, device, unix_now_seconds() + 3600)
    }

    pub fn token_until(&self, user: u64, device: &str, expires_at: u64) -> String {
        let device = Some(device.into());
        self.keys.mint(&Claims { user: UserId(user), device, issued_at: 1, expires_at })
    }

    pub fn connect(&self) -> Peer {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Peer { stream, unread: Vec::new(), decoder: Decoder::new(Role::Client) }
    }

    /// A WebSocket on this path with these subprotocols.
    pub fn upgraded(&self, path: &str, subprotocols: &str) -> Peer {
        let mut peer = self.connect();
        peer.write(upgrade_request(path, subprotocols, "").as_bytes());
        let (status, head) = peer.answer();
        assert_eq!(status, 101, "{head}");
        peer
    }

    /// A JSON session that has been welcomed; the welcome.
    pub fn session(&self, user: u64, device: &str) -> (Peer, Value) {
        let token = self.token(user, device);
        let mut peer = self.upgraded("/ws", &format!("holdfast.v1.json, bearer.{token}"));
        let welcome = peer.json();
        assert!(welcome.get("welcome").is_some(), "{welcome}");
        (peer, welcome["welcome"].clone())
    }

    /// One sample of `/metrics`, 0 if it is not there.
    pub fn metric(&self, name: &str) -> f64 {
        let mut peer = self.connect();
        peer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let mut text = String::new();
        peer.stream.read_to_string(&mut text).unwrap();
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// Asks until a sample has this value.
    pub fn await_metric(&self, name: &str, value: f64) {
        eventually(&format!("{name} becomes {value}"), || (self.metric(name) - value).abs() < 0.5);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop(Duration::from_millis(100)).unwrap();
        }
    }
}

/// Tries until it is so.
#[allow(clippy::disallowed_methods, reason = "the test's patience is real time")]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
    }
}

/// A request that upgrades; `headers` are whole lines.
pub fn upgrade_request(path: &str, subprotocols: &str, headers: &str) -> String {
    let protocols = if subprotocols.is_empty() {
        String::new()
    } else {
        format!("Sec-WebSocket-Protocol: {subprotocols}\r\n")
    };
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocols}{headers}\r\n"
    )
}

/// What a server sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Got {
    Text(String),
    Binary(Vec<u8>),
    Ping,
    Pong(Vec<u8>),
    Close(u16, String),
    /// FIN without, or after, a close frame.
    End,
    /// RST.
    Reset,
}

/// A client that does what the test says, right or wrong.
pub struct Peer {
    pub stream: TcpStream,
    unread: Vec<u8>,
    decoder: Decoder,
}

impl Peer {
    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn frame(&mut self, opcode: Opcode, payload: &[u8]) {
        let mut bytes = Vec::new();
        encode_frame(&mut bytes, opcode, payload, Some(MASK));
        self.write(&bytes);
    }

    pub fn send(&mut self, frame: &Value) {
        self.frame(Opcode::Text, frame.to_string().as_bytes());
    }

    pub fn say(&mut self, client_id: &str, to: &str, text: &str) {
        self.send(&json!({"send": {"clientId": client_id, "conversation": to, "body": {"text": text}}}));
    }

    /// One read. With a timeout the kernel restarts none that something interrupted, such as the rings of a server
    /// in this same process.
    pub fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    /// An HTTP answer's status and head; the body, if any, stays unread.
    pub fn answer(&mut self) -> (u16, String) {
        loop {
            if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<u8> = self.unread.drain(..end + 4).collect();
                let head = String::from_utf8(head).unwrap();
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                return (status, head);
            }
            let mut buffer = [0u8; 4096];
            let count = self.read(&mut buffer).expect("the server answers");
            assert!(
                count > 0,
                "the server closed without an answer; so far: {:?}",
                String::from_utf8_lossy(&self.unread)
            );
            self.unread.extend_from_slice(&buffer[..count]);
        }
    }

    /// Forgets what is left of an HTTP answer, which has arrived whole.
    pub fn skip_body(&mut self) {
        self.unread.clear();
    }

    /// The next thing that arrives.
    pub fn next(&mut self) -> Got {
        loop {
            if !self.unread.is_empty() {
                let mut bytes = std::mem::take(&mut self.unread);
                let mut input = bytes.as_mut_slice();
                let item = self.decoder.next(&mut input, &LIMITS).expect("the server keeps to RFC 6455");
                let got = item.map(|item| match item {
                    Item::Text(text) => Got::Text(text.to_owned()),
                    Item::Binary(payload) => Got::Binary(payload.to_vec()),
                    Item::Ping(_) => Got::Ping,
                    Item::Pong(payload) => Got::Pong(payload.to_vec()),
                    Item::Close(Some(frame)) => Got::Close(frame.code.0, frame.reason.to_owned()),
                    Item::Close(None) => Got::Close(1005, String::new()),
                });
                self.unread = input.to_vec();
                if let Some(got) = got {
                    return got;
                }
            }
            let mut buffer = [0u8; 65_536];
            match self.read(&mut buffer) {
                Ok(0) => return Got::End,
                Ok(count) => self.unread.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Got::Reset,
                Err(error) => panic!("waited for something that did not come: {error}"),
            }
        }
    }

    /// The next text message as JSON; pings and pongs are passed over.
    pub fn json(&mut self) -> Value {
        loop {
            match self.next() {
                Got::Text(text) => return serde_json::from_str(&text).unwrap(),
                Got::Ping | Got::Pong(_) => {}
                other => panic!("a text message was expected, not {other:?}"),
            }
        }
    }

    /// The next JSON frame that has this key; others are passed over.
    pub fn json_of(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.json();
            if let Some(inner) = frame.get(kind) {
                return inner.clone();
            }
        }
    }

    /// The code of the next `error` frame.
    pub fn error(&mut self) -> String {
        self.json_of("error")["code"].as_str().unwrap().to_owned()
    }

    /// The close frame's code; what comes before is passed over.
    pub fn close_code(&mut self) -> u16 {
        loop {
            match self.next() {
                Got::Close(code, _) => return code,
                Got::End | Got::Reset => panic!("the connection ended without a close frame"),
                _ => {}
            }
        }
    }

    /// Waits for the end of the connection, whatever comes before.
    pub fn end(&mut self) -> Got {
        loop {
            if let got @ (Got::End | Got::Reset) = self.next() {
                return got;
            }
        }
    }

    /// Ends with RST.
    pub fn reset(self) {
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).unwrap();
        drop(self.stream);
    }
}
