//! A chat in a terminal: how a program drives the client. Lines that are typed are sent, entries are printed.
//!
//! `cargo run -p holdfast-client --example talk -- 127.0.0.1:8080 "$(holdfast token --user 42 --device laptop)" @43`

use std::io::{BufRead as _, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use holdfast_client::{Client, ClientConfig, Event};
use holdfast_protocol::chat::{Body, body, entry};
use holdfast_protocol::id::Rev;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, token, conversation] = arguments.as_slice() else {
        return Err("usage: talk HOST:PORT TOKEN CONVERSATION".into());
    };
    let config = ClientConfig { cursor: Some(Rev(0)), ..ClientConfig::new(host, token) };
    let random = std::fs::File::open("/dev/urandom")?;
    let mut client = Client::new(config, move || next_u64(&random), now_ms())?;

    let (typed, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if typed.send(line).is_err() {
                break;
            }
        }
    });

    let mut transport: Option<TcpStream> = None;
    loop {
        for line in lines.try_iter().filter(|line| !line.is_empty()) {
            client.send(conversation, Body { kind: Some(body::Kind::Text(line)) })?;
        }
        let mut bytes = Vec::new();
        while client.poll_transmit(now_ms(), &mut bytes) {}
        if let Some(stream) = &mut transport
            && stream.write_all(&bytes).is_err()
        {
            transport = None;
            client.handle_disconnected(now_ms());
        }
        while let Some(event) = client.poll_event() {
            match event {
                Event::Connect { .. } => match TcpStream::connect(host) {
                    Ok(stream) => {
                        transport = Some(stream);
                        client.handle_connected(now_ms());
                    }
                    Err(_) => client.handle_disconnected(now_ms()),
                },
                Event::Disconnect => transport = None,
                Event::Entry { rev, entry } => {
                    if let Some(entry::Kind::Message(message)) = entry.kind
                        && let Some(body::Kind::Text(text)) = message.body.and_then(|body| body.kind)
                    {
                        println!("{} #{} from {}: {text}", message.conversation, message.seq, message.sender);
                    }
                    client.ack(rev)?;
                }
                Event::Ended { why } => return Err(why.into()),
                Event::Rejected { rejection, .. } | Event::Refused(rejection) => {
                    eprintln!("refused: {}: {}", rejection.code, rejection.message);
                }
                other => eprintln!("{other:?}"),
            }
        }

        // A real program sleeps on the transport, its own requests and `poll_timeout` at once.
        let wait_ms = client.poll_timeout().map_or(50, |at_ms| at_ms.saturating_sub(now_ms()).clamp(1, 50));
        match &mut transport {
            Some(stream) => {
                stream.set_read_timeout(Some(Duration::from_millis(wait_ms)))?;
                let mut buffer = [0; 4096];
                match stream.read(&mut buffer) {
                    Ok(count) if count > 0 => client.handle_bytes(now_ms(), &mut buffer[..count]),
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    _ => {
                        transport = None;
                        client.handle_disconnected(now_ms());
                    }
                }
            }
            None => std::thread::park_timeout(Duration::from_millis(wait_ms)),
        }
        client.handle_timeout(now_ms());
    }
}

fn next_u64(mut random: &std::fs::File) -> u64 {
    let mut bytes = [0; 8];
    random.read_exact(&mut bytes).expect("the kernel gives random bytes without end");
    u64::from_le_bytes(bytes)
}

#[allow(clippy::disallowed_methods, reason = "the edge of the program is where time comes from")]
fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
