//! An echo server on `tungstenite`, a thread for each connection, that can be told to do one thing wrong.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket, accept_hdr};

/// What goes wrong, once, at this message of the first connection (counted from 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The reply is left out.
    Drop(u64),
    /// The reply comes twice.
    Double(u64),
    /// The reply comes after the next one.
    Swap(u64),
    /// One byte of the reply is another.
    Corrupt(u64),
    /// The server says Close instead.
    Close(u64),
    /// The server hangs up instead.
    HangUp(u64),
    /// The server does nothing for so many ms.
    Stall(u64, u64),
    /// The upgrade is refused, with 503.
    Refuse,
}

/// A running server; it ends with the test's process.
#[derive(Debug)]
pub struct EchoServer {
    /// Where it listens.
    pub address: SocketAddr,
    /// Pongs that nobody had asked for.
    pub pongs: Arc<AtomicU64>,
    /// Close handshakes after which the client left without waiting for the server to hang up.
    pub early_ends: Arc<AtomicU64>,
}

impl EchoServer {
    /// Listens on 127.0.0.1.
    pub fn start(fault: Fault) -> Self {
        Self::start_on("127.0.0.1:0", fault)
    }

    /// Listens there.
    pub fn start_on(address: &str, fault: Fault) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let pongs = Arc::new(AtomicU64::new(0));
        let early_ends = Arc::new(AtomicU64::new(0));
        let counters = (Arc::clone(&pongs), Arc::clone(&early_ends));
        thread::spawn(move || {
            for (index, stream) in listener.incoming().flatten().enumerate() {
                let fault = if index == 0 || fault == Fault::Refuse { fault } else { Fault::None };
                let (pongs, early_ends) = counters.clone();
                thread::Builder::new()
                    .stack_size(256 << 10)
                    .spawn(move || {
                        // A connection that the client ends is no error of this server's.
                        let _ = serve(stream, fault, &pongs, &early_ends);
                    })
                    .expect("a thread");
            }
        });
        Self { address, pongs, early_ends }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("ws://{}/", self.address)
    }
}

#[expect(clippy::result_large_err, reason = "tungstenite's signature")]
fn handshake(request: &Request, mut response: Response, fault: Fault) -> Result<Response, ErrorResponse> {
    if fault == Fault::Refuse {
        let mut refusal = ErrorResponse::new(Some("full".into()));
        *refusal.status_mut() = tungstenite::http::StatusCode::SERVICE_UNAVAILABLE;
        return Err(refusal);
    }
    // What the client offers first is what it gets.
    if let Some(offered) = request.headers().get("sec-websocket-protocol") {
        let first = offered.to_str().unwrap_or_default().split(',').next().unwrap_or_default().to_owned();
        response.headers_mut().insert("sec-websocket-protocol", first.parse().expect("a token"));
    }
    if request.uri().path() == "/guarded" && request.headers().get("x-key").is_none_or(|key| key != "secret")
    {
        let mut refusal = ErrorResponse::new(None);
        *refusal.status_mut() = tungstenite::http::StatusCode::FORBIDDEN;
        return Err(refusal);
    }
    Ok(response)
}

#[expect(clippy::result_large_err, reason = "tungstenite's signature")]
fn serve(
    stream: TcpStream,
    fault: Fault,
    pongs: &AtomicU64,
    early_ends: &AtomicU64,
) -> tungstenite::Result<()> {
    stream.set_nodelay(true)?;
    let accepted =
        accept_hdr(stream, |request: &Request, response: Response| handshake(request, response, fault));
    let Ok(mut socket) = accepted else { return Ok(()) };
    let mut number = 0;
    let mut held: Option<Message> = None;
    loop {
        let message = socket.read()?;
        match message {
            Message::Text(_) | Message::Binary(_) => {}
            Message::Pong(_) => {
                pongs.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            _ => continue,
        }
        let this = number;
        number += 1;
        if answer(&mut socket, message, this, fault, &mut held)? {
            if matches!(fault, Fault::Close(_)) {
                let mut stream = socket.get_ref();
                stream.set_read_timeout(Some(Duration::from_millis(200)))?;
                // Nothing to read for so long is what a client owes a server that has yet to hang up.
                if stream.read(&mut [0]).map_err(|error| error.kind()) != Err(std::io::ErrorKind::WouldBlock)
                {
                    early_ends.fetch_add(1, Ordering::Relaxed);
                }
            }
            return Ok(());
        }
    }
}

/// True: the connection is over.
fn answer(
    socket: &mut WebSocket<TcpStream>,
    message: Message,
    number: u64,
    fault: Fault,
    held: &mut Option<Message>,
) -> tungstenite::Result<bool> {
    match fault {
        Fault::Drop(at) if at == number => return Ok(false),
        Fault::Double(at) if at == number => socket.send(message.clone())?,
        Fault::Swap(at) if at == number => {
            *held = Some(message);
            return Ok(false);
        }
        Fault::Corrupt(at) if at == number => {
            let mut bytes = message.into_data().to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
            socket.send(Message::binary(bytes))?;
            return Ok(false);
        }
        Fault::Close(at) if at == number => {
            let frame = CloseFrame { code: CloseCode::Policy, reason: "go away".into() };
            socket.close(Some(frame))?;
            // Until the client's answer.
            while socket.read().is_ok() {}
            return Ok(true);
        }
        Fault::HangUp(at) if at == number => return Ok(true),
        Fault::Stall(at, ms) if at == number => thread::park_timeout(Duration::from_millis(ms)),
        _ => {}
    }
    socket.send(message)?;
    if let Some(held) = held.take() {
        socket.send(held)?;
    }
    Ok(false)
}
