//! The endpoints, over real TCP sockets and through the pipe, with a shard of a few lines in the middle.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use holdfast_reactor::Waker;
use serde_json::Value as Json;

use super::pipe::{PipeState, Then};
use super::*;
use crate::metrics::Metrics;
use crate::token::TokenKey;

const NOW: u64 = 1_800_000_000;

/// A server: the API, and a shard that reads and writes blocking sockets.
struct Server {
    address: SocketAddr,
    http: HttpServer,
    tokens: Arc<TokenKey>,
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
    now: Arc<AtomicU64>,
    shard: Arc<TestShard>,
}

#[derive(Default)]
struct TestShard {
    connections: Mutex<HashMap<u64, Connection>>,
    resumed: Condvar,
    /// First bytes of connections that came back, and their sockets.
    upgraded: Mutex<Vec<(Vec<u8>, TcpStream)>>,
    came_back: Condvar,
    aborted: AtomicU64,
    /// Never fetch answers, like a socket that is full for ever.
    stuck: AtomicBool,
}

struct Connection {
    pipe: pipe::HttpPipe,
    socket: TcpStream,
    paused: bool,
}

impl TestShard {
    fn accept(self: Arc<Self>, listener: &TcpListener, gate: &HttpGate) {
        for (id, socket) in (1u64..).zip(listener.incoming()) {
            let mut socket = socket.expect("accept works");
            match gate.connect(0, id) {
                Ok(pipe) => {
                    let reading = socket.try_clone().expect("a socket can be cloned");
                    let connection = Connection { pipe, socket, paused: false };
                    self.connections.lock().expect("no panic").insert(id, connection);
                    let shard = Arc::clone(&self);
                    std::thread::spawn(move || shard.read(id, reading));
                }
                Err(busy) => {
                    let _ =
                        write!(socket, "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\r\n{busy}");
                }
            }
        }
    }

    fn read(&self, id: u64, mut socket: TcpStream) {
        let mut buffer = [0u8; 4096];
        loop {
            let bytes = socket.read(&mut buffer).unwrap_or(0);
            let mut connections = self.connections.lock().expect("no panic");
            let Some(connection) = connections.get_mut(&id) else { return };
            if bytes == 0 {
                connection.pipe.end();
                return;
            }
            if connection.pipe.push(&buffer[..bytes]) == PipeState::Full {
                connection.paused = true;
                let still_paused = |all: &mut HashMap<u64, Connection>| {
                    all.get(&id).is_some_and(|connection| connection.paused)
                };
                drop(self.resumed.wait_while(connections, still_paused).expect("no panic"));
            }
        }
    }

    fn answer(&self, effects: &pipe::HttpEffects) {
        while let Some(id) = effects.wait() {
            let mut connections = self.connections.lock().expect("no panic");
            while let Some(connection) = connections.get_mut(&id) {
                let room = if self.stuck.load(Ordering::SeqCst) { 0 } else { 1_000 };
                let mut output = Vec::new();
                let advance = connection.pipe.advance(room, &mut output);
                // A client that has left is no failure of the test.
                let _ = connection.socket.write_all(&output);
                if advance.resume_reading {
                    connection.paused = false;
                    self.resumed.notify_all();
                }
                match advance.then {
                    Then::Drain if room > 0 => continue,
                    Then::Wait | Then::Drain => break,
                    Then::Close => {
                        let _ = connection.socket.shutdown(Shutdown::Write);
                        connections.remove(&id);
                    }
                    Then::Abort => {
                        self.aborted.fetch_add(1, Ordering::SeqCst);
                        let _ = connection.socket.shutdown(Shutdown::Both);
                        connections.remove(&id);
                    }
                    Then::Upgrade => {
                        let connection = connections.remove(&id).expect("it was there a moment ago");
                        let first_bytes = connection.pipe.into_upgrade();
                        self.upgraded.lock().expect("no panic").push((first_bytes, connection.socket));
                        self.came_back.notify_all();
                    }
                }
                self.resumed.notify_all();
            }
        }
    }

    /// The next connection that came back, with its first bytes.
    fn upgraded(&self) -> (Vec<u8>, TcpStream) {
        let none = |upgraded: &mut Vec<(Vec<u8>, TcpStream)>| upgraded.is_empty();
        let mut upgraded =
            self.came_back.wait_while(self.upgraded.lock().expect("no panic"), none).expect("no panic");
        upgraded.remove(0)
    }
}

impl Server {
    fn start() -> Self {
        Self::with(|_config| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let mut config = Config { listen: address, ..Config::default() };
        change(&mut config);
        let tokens = Arc::new(TokenKey::from_bytes(&[3; 32]));
        let metrics = Arc::new(Metrics::new(vec![Arc::default()]));
        let ready = Arc::new(AtomicBool::new(false));
        let is_ready = Arc::clone(&ready);
        let mut state = ApiState::new(
            Arc::new(config.clone()),
            address,
            Arc::clone(&metrics),
            Arc::clone(&tokens),
            move || match is_ready.load(Ordering::SeqCst) {
                true => Readiness::Ready,
                false => Readiness::NotReady(vec!["replaying".to_owned(), "draining".to_owned()]),
            },
        );
        let now = Arc::new(AtomicU64::new(NOW));
        let clock = Arc::clone(&now);
        state.now_seconds = Arc::new(move || clock.load(Ordering::SeqCst));
        let (sender, effects) = pipe::effects(Waker::never_sleeps(), config.http.connections);
        let http = HttpServer::start(&config, state, vec![sender]).expect("threads are to be had");
        let shard = Arc::new(TestShard::default());
        let (accepting, gate) = (Arc::clone(&shard), http.gate());
        std::thread::spawn(move || accepting.accept(&listener, &gate));
        let answering = Arc::clone(&shard);
        std::thread::spawn(move || answering.answer(&effects));
        Self { address, http, tokens, metrics, ready, now, shard }
    }

    fn connect(&self) -> Client {
        let socket = TcpStream::connect(self.address).expect("the server listens");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout can be set");
        Client { reader: BufReader::new(socket) }
    }

    /// One request on a connection of its own.
    fn ask(&self, request: &str) -> Answer {
        let mut client = self.connect();
        client.send(request);
        client.answer()
    }

    fn get(&self, target: &str) -> Answer {
        self.ask(&format!("GET {target} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address))
    }

    fn post_guest(&self, body: &str) -> Answer {
        self.ask(
            &self.guest_request(
                &format!("Host: {}\r\nContent-Type: application/json\r\n", self.address),
                body,
            ),
        )
    }

    fn guest_request(&self, headers: &str, body: &str) -> String {
        format!("POST /v1/guest HTTP/1.1\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
    }
}

struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    fn send(&mut self, text: &str) {
        self.reader.get_mut().write_all(text.as_bytes()).expect("the server reads");
    }

    fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    fn answer_to(&mut self, method: &str) -> Answer {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("an answer comes");
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status: u16 = status.unwrap_or_else(|| panic!("not a status line: {line:?}"));
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line).expect("headers come");
            let line = line.trim_end();
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0u8; if method == "HEAD" || status == 304 { 0 } else { length }];
        self.reader.read_exact(&mut body).expect("the body comes");
        Answer { status, headers, body }
    }

    /// Everything until the server closes.
    fn rest(mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest).expect("the server closes");
        rest
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of a problem, after a look at its form.
    fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
        problem["code"].as_str().expect("a problem has a code").to_owned()
    }
}

#[test]
fn health_is_there_at_once_and_readiness_when_it_is() {
    let server = Server::start();
    let health = server.get("/healthz");
    assert_eq!((health.status, health.body.as_slice()), (200, b"ok\n".as_slice()));
    let unready = server.get("/readyz");
    assert_eq!((unready.status, unready.problem().as_str()), (503, "not_ready"));
    assert_eq!(unready.json()["detail"], "replaying; draining");
    assert_eq!(unready.header("retry-after"), "1");
    server.ready.store(true, Ordering::SeqCst);
    assert_eq!(server.get("/readyz").status, 200);
}

#[test]
fn metrics_are_prometheus_text() {
    let server = Server::start();
    server.metrics.add_source(|page| page.counter("holdfast_test_total", "A test.", 5));
    let metrics = server.get("/metrics");
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let text = String::from_utf8(metrics.body).expect("metrics are text");
    assert!(text.contains("# TYPE holdfast_connections gauge\nholdfast_connections 0\n"), "{text}");
    assert!(text.contains("\nholdfast_test_total 5\n"), "{text}");
}

#[test]
fn the_page_is_guarded_and_cached_by_its_content() {
    let server = Server::start();
    for &(path, content_type, _) in page::FILES {
        let page = server.get(path);
        assert_eq!((page.status, page.header("content-type")), (200, content_type), "{path}");
        assert_eq!(page.header("x-content-type-options"), "nosniff");
        let policy = page.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(
            policy.contains(&format!("connect-src 'self' ws://{0} wss://{0};", server.address)),
            "{policy}"
        );
        let etag = page.header("etag").to_owned();
        let again = |tags: &str| {
            server.ask(&format!(
                "GET {path} HTTP/1.1\r\nHost: {}\r\nIf-None-Match: {tags}\r\n\r\n",
                server.address
            ))
        };
        assert_eq!(again(&format!("\"x\", W/{etag}")).status, 304);
        assert_eq!(again("\"x\"").status, 200);
        let mut client = server.connect();
        client.send(&format!("HEAD {path} HTTP/1.1\r\nHost: {}\r\n\r\n", server.address));
        let head = client.answer_to("HEAD");
        assert_eq!((head.status, head.header("content-length")), (200, page.body.len().to_string().as_str()));
    }
    let odd = server.ask("GET / HTTP/1.1\r\nHost: a;script-src *\r\n\r\n");
    assert!(odd.header("content-security-policy").contains("connect-src 'self'; base-uri"), "{odd:?}");
}

/// A file of the page that is not served would be a page that does not start.
#[test]
fn every_file_of_the_page_is_served_as_what_it_is() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../web");
    let mut there: Vec<String> = std::fs::read_dir(folder)
        .expect("the page lies beside this crate")
        .map(|file| file.expect("it can be listed").file_name().into_string().expect("names are ASCII"))
        .collect();
    there.sort();
    let mut served: Vec<&str> = page::FILES.iter().map(|&(_, _, file)| file).collect();
    served.sort_unstable();
    assert_eq!(served, there);
    for &(path, content_type, file) in page::FILES {
        assert_eq!(path.trim_start_matches('/'), if file == "index.html" { "" } else { file });
        let kind = match file.rsplit_once('.') {
            Some((_, "html")) => "text/html; charset=utf-8",
            Some((_, "js")) => "text/javascript; charset=utf-8",
            Some((_, "css")) => "text/css; charset=utf-8",
            Some((_, "svg")) => "image/svg+xml",
            _ => panic!("{file}: a kind of file that this test does not know"),
        };
        assert_eq!(content_type, kind, "{file}");
    }
}

#[test]
fn what_is_not_there_and_what_is_not_taken_are_told_apart() {
    let server = Server::start();
    for target in ["/nothing", "/v1", "/v1/guests", "/healthz/", "/%00", "//"] {
        let missing = server.get(target);
        assert_eq!((missing.status, missing.problem().as_str()), (404, "not_found"), "{target}");
    }
    for (method, target, allow) in
        [("POST", "/healthz", "GET,HEAD"), ("DELETE", "/v1/guest", "GET,HEAD,POST"), ("PUT", "/", "GET,HEAD")]
    {
        let answer =
            server.ask(&format!("{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (405, "method_not_allowed"),
            "{method} {target}"
        );
        let mut allowed: Vec<&str> = answer.header("allow").split(',').collect();
        allowed.sort_unstable();
        assert_eq!(allowed.join(","), allow, "{method} {target}");
    }
    let plain = server.get("/ws");
    assert_eq!((plain.status, plain.problem().as_str()), (426, "upgrade_required"));
    assert_eq!((plain.header("upgrade"), plain.header("sec-websocket-version")), ("websocket", "13"));
}

#[test]
fn a_name_becomes_a_user_with_a_token() {
    let server = Server::start();
    let guest = server.post_guest(r#"{"name":" Ana ","device":"tab-1"}"#);
    assert_eq!((guest.status, guest.header("cache-control")), (200, "no-store"), "{guest:?}");
    let answer = guest.json();
    assert_eq!(answer["name"], "Ana");
    let user = answer["user"].as_str().expect("ids are text").to_owned();
    let claims =
        server.tokens.verify(answer["token"].as_str().expect("a token is text"), NOW).expect("it is ours");
    assert_eq!(claims.user.0.to_string(), user);
    assert_eq!(claims.device.as_deref(), Some("tab-1"));
    assert_eq!(claims.expires_at, NOW + 30 * 86_400);
    assert_eq!(answer["expiresAt"], claims.expires_at.to_string());

    let looked_up = server.get("/v1/guest/ana");
    assert_eq!((looked_up.status, looked_up.json()["user"].as_str()), (200, Some(user.as_str())));
    assert_eq!(server.get("/v1/guest/42").json()["user"], "42");
    assert_eq!(server.get("/v1/guest/%C3%85sa").status, 200);
    assert_eq!(server.get(&format!("/v1/guest?user={user}")).json()["name"], "Ana");
    assert_eq!(server.get("/v1/guest?user=43").problem(), "unknown_guest");
}

#[test]
fn what_no_guest_may_do_is_refused_by_name() {
    let server = Server::start();
    let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(33));
    for (body, status, code) in [
        ("", 400, "bad_body"),
        ("{", 400, "bad_body"),
        ("{}", 422, "bad_body"),
        (r#"{"name":"a","admin":true}"#, 422, "bad_body"),
        (r#"{"name":""}"#, 422, "bad_name"),
        (r#"{"name":"0"}"#, 422, "bad_name"),
        (long.as_str(), 422, "bad_name"),
        (r#"{"name":"a","device":"a b"}"#, 422, "bad_device"),
    ] {
        let answer = server.post_guest(body);
        assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{body}");
    }
    let ours = format!("Host: {}\r\n", server.address);
    let json = "Content-Type: application/json\r\n";
    for (headers, status, code) in [
        (ours.clone(), 415, "unsupported_media_type"),
        (format!("{ours}Content-Type: text/plain\r\n"), 415, "unsupported_media_type"),
        (format!("Host: evil.example\r\n{json}"), 421, "host_not_allowed"),
        (format!("{ours}{json}Origin: http://evil.example\r\n"), 403, "origin_not_allowed"),
    ] {
        let answer = server.ask(&server.guest_request(&headers, r#"{"name":"a"}"#));
        assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{headers}");
    }
    for target in ["/v1/guest?user=0", "/v1/guest?user=x", "/v1/guest?users=1", "/v1/guest"] {
        assert_eq!(server.get(target).problem(), "bad_query", "{target}");
    }
    assert_eq!(server.get("/v1/guest/%ff").problem(), "bad_name");
    assert_eq!(server.get("/v1/guest/0").problem(), "bad_name");
}

#[test]
fn a_body_may_be_as_long_as_allowed_and_no_longer() {
    let server = Server::with(|config| config.http.request_body_bytes = 2_048);
    let padded = |bytes: usize| {
        let body = r#"{"name":"a"}"#;
        format!("{}{body}", " ".repeat(bytes - body.len()))
    };
    assert_eq!(server.post_guest(&padded(2_048)).status, 200);
    let answer = server.post_guest(&padded(2_049));
    assert_eq!((answer.status, answer.problem().as_str()), (413, "body_too_large"));
}

#[test]
fn guests_come_one_after_another() {
    let server = Server::with(|config| config.auth.guests_per_second = 2);
    assert_eq!(server.post_guest(r#"{"name":"a"}"#).status, 200);
    assert_eq!(server.post_guest(r#"{"name":"b"}"#).status, 200);
    let third = server.post_guest(r#"{"name":"c"}"#);
    assert_eq!(
        (third.status, third.problem().as_str(), third.header("retry-after")),
        (429, "rate_limited", "1")
    );
    server.now.fetch_add(1, Ordering::SeqCst);
    assert_eq!(server.post_guest(r#"{"name":"c"}"#).status, 200);
}

#[test]
fn without_guests_there_is_no_such_endpoint() {
    let server = Server::with(|config| config.auth.guests = crate::config::Guests::Off);
    assert_eq!(server.post_guest(r#"{"name":"a"}"#).problem(), "not_found");
    assert_eq!(server.get("/v1/guest/ana").problem(), "not_found");
}

#[test]
fn one_connection_carries_many_requests_however_they_are_cut() {
    let server = Server::start();
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", server.address);
    let mut client = server.connect();
    client.send(&request.repeat(20));
    for _ in 0..20 {
        assert_eq!(client.answer().status, 200);
    }
    for byte in request.bytes() {
        client.send(std::str::from_utf8(&[byte]).expect("the request is ASCII"));
    }
    assert_eq!(client.answer().status, 200);
    client.send(&request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
    assert_eq!(client.answer().status, 200);
    assert_eq!(client.rest(), b"");
}

#[test]
fn a_client_that_says_it_will_send_no_more_still_gets_its_answer() {
    let server = Server::start();
    let mut client = server.connect();
    client.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    client.reader.get_ref().shutdown(Shutdown::Write).expect("it is open");
    assert_eq!(client.answer().status, 200);
    assert_eq!(client.rest(), b"");
}

#[test]
fn an_upgrade_on_a_kept_alive_connection_goes_back_to_the_shard_and_nothing_is_written_for_it() {
    let server = Server::start();
    let mut client = server.connect();
    let health = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let upgrade = "GET /ws?a=b%20c HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Protocol: holdfast.v1.json\r\nSec-WebSocket-Protocol: bearer.x.y.z\r\n\r\n";
    // In one piece, so that hyper has read everything before it has written anything.
    client.send(&format!("{health}{health}{upgrade}\x01\x02behind"));
    assert_eq!(client.answer().status, 200);
    assert_eq!(client.answer().status, 200);
    let (first_bytes, mut socket) = server.shard.upgraded();
    let (head, behind) = first_bytes.split_at(first_bytes.len() - 8);
    assert_eq!(behind, b"\x01\x02behind");
    let head = std::str::from_utf8(head).expect("a head is text");
    let mut sent: Vec<String> = upgrade.lines().map(str::to_ascii_lowercase).collect();
    let mut got: Vec<String> = head.lines().map(str::to_ascii_lowercase).collect();
    assert_eq!(got[0], sent[0]);
    sent.sort_unstable();
    got.sort_unstable();
    assert_eq!(got, sent);
    let protocols: Vec<usize> =
        ["holdfast.v1.json", "bearer.x.y.z"].iter().filter_map(|name| head.find(name)).collect();
    assert!(protocols.len() == 2 && protocols[0] < protocols[1], "{head}");
    // What the client reads next is the shard's.
    socket.write_all(b"from the shard").expect("the client reads");
    socket.shutdown(Shutdown::Both).expect("it is open");
    assert_eq!(client.rest(), b"from the shard");
}

#[test]
fn upgrades_that_are_not_the_shards_are_answered_here() {
    let server = Server::start();
    let upgrade = |target: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    };
    let mut client = server.connect();
    client.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    client.send(&upgrade("/healthz"));
    assert_eq!(client.answer().status, 200, "RFC 9110 §7.8: an upgrade may be ignored");
    client.send(&upgrade("/echo"));
    assert_eq!(client.answer().problem(), "not_found");
    // The first request of a connection comes from the shard: giving it back could go on for ever.
    assert_eq!(server.ask(&upgrade("/ws")).problem(), "upgrade_required");
}

#[test]
fn a_connection_too_many_is_refused_and_a_place_comes_back() {
    let server = Server::with(|config| config.http.connections = 1);
    let mut first = server.connect();
    first.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(first.answer().status, 200);
    assert_eq!(server.http.gate().connections(), 1);
    let mut second = server.connect();
    assert_eq!(second.answer().status, 503);
    first.send("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(first.answer().status, 200);
    assert_eq!(first.rest(), b"");
    // The place is free a moment after the last byte; until then the answer is an honest 503.
    let statuses = std::iter::repeat_with(|| server.get("/healthz").status);
    assert!(statuses.take(1_000).any(|status| status == 200));
}

#[test]
fn a_silent_connection_is_closed_after_the_idle_timeout() {
    let server = Server::with(|config| config.http.idle_timeout = Duration::from_millis(150));
    let mut client = server.connect();
    client.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    client.send("GET /hea");
    let rest = String::from_utf8(client.rest()).expect("text");
    assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 408"), "{rest}");
}

#[test]
fn a_client_that_does_not_fetch_its_answer_is_dropped() {
    let server = Server::with(|config| config.http.request_timeout = Duration::from_millis(150));
    // More than a pipe holds, and less: hyper waits in two different places.
    for padding in [4 * pipe::OUTBOUND_BYTES, 10] {
        server.metrics.add_source(move |page| page.gauge("holdfast_padding", &"x".repeat(padding), 1));
        server.shard.stuck.store(true, Ordering::SeqCst);
        let before = server.shard.aborted.load(Ordering::SeqCst);
        let mut client = server.connect();
        client.send("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert_eq!(client.rest(), b"");
        assert_eq!(server.shard.aborted.load(Ordering::SeqCst), before + 1);
        server.shard.stuck.store(false, Ordering::SeqCst);
    }
}

#[test]
fn a_long_answer_comes_whole_through_a_narrow_pipe() {
    let server = Server::start();
    server.metrics.add_source(|page| page.gauge("holdfast_padding", &"x".repeat(1 << 20), 1));
    let answer = server.get("/metrics");
    assert!(answer.body.len() > 1 << 20);
    assert!(answer.body.ends_with(b"\nholdfast_padding 1\n"));
}

#[test]
fn draining_closes_what_is_between_two_requests() {
    let server = Server::start();
    let mut client = server.connect();
    client.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    server.http.drain();
    assert_eq!(client.rest(), b"");
    let mut late = server.connect();
    late.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    let answer = late.answer();
    assert_eq!((answer.status, answer.header("connection")), (200, "close"));
    assert_eq!(late.rest(), b"");
}

#[test]
fn a_broken_request_on_a_kept_alive_connection_is_refused_and_ends_it() {
    let server = Server::start();
    for (broken, status) in [
        ("GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n".to_owned(), "400"),
        (format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "x".repeat(9 << 10)), "431"),
        (format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(65)), "431"),
    ] {
        let mut client = server.connect();
        client.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(client.answer().status, 200);
        client.send(&broken);
        let rest = String::from_utf8(client.rest()).expect("text");
        assert!(rest.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {rest}");
    }
}
