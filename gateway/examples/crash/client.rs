//! One user's connection: blocking, pipelined, and honest about what it has seen.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_protocol::chat::{self, Format, client_frame, server_frame};
use holdfast_protocol::ws::handshake::{ClientRequest, client_key, parse_response, write_request};
use holdfast_protocol::ws::{Decoder, Item, MessageLimits, Opcode, Role, encode_frame};

use super::Random;
use super::ledger::Side;
use super::server::Server;

const LIMITS: MessageLimits = MessageLimits { frame_bytes: 1 << 20, message_bytes: 1 << 20, fragments: 64 };
const MASK: [u8; 4] = [0x5a, 0x17, 0xc3, 0x88];
/// How long the server may say nothing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A logged-in connection.
pub(crate) struct Talker {
    is_live: bool,
    stream: TcpStream,
    decoder: Decoder,
    unread: Vec<u8>,
    /// Frames that were decoded and not looked at.
    frames: VecDeque<server_frame::Frame>,
}

impl Talker {
    /// Connects and logs in; what comes after `cursor` follows.
    pub(crate) fn connect(server: &Server, side: &Side, cursor: u64) -> io::Result<Self> {
        let mut stream = TcpStream::connect(server.address())?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let key = client_key([7; 16]);
        let offered = [Format::Protobuf.subprotocol()];
        let mut bytes = Vec::new();
        let request = ClientRequest {
            host: "localhost",
            target: "/ws",
            key: key.as_str(),
            subprotocols: &offered,
            headers: &[],
        };
        write_request(&mut bytes, &request);
        stream.write_all(&bytes)?;
        let mut unread = Vec::new();
        loop {
            let mut buffer = [0u8; 4096];
            let count = read(&mut stream, &mut buffer)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            unread.extend_from_slice(&buffer[..count]);
            if let Some(response) =
                parse_response(&unread, key.as_str(), &offered).map_err(io::Error::other)?
            {
                let used = response.bytes;
                unread.drain(..used);
                break;
            }
        }
        let decoder = Decoder::new(Role::Client);
        let mut talker = Self { is_live: false, stream, decoder, unread, frames: VecDeque::new() };
        let hello = chat::Hello {
            token: server.token(side.user())?,
            device: String::new(),
            cursor: Some(cursor),
            every_entry: true,
        };
        talker.send(&[client_frame::Frame::Hello(hello)])?;
        match talker.next()? {
            server_frame::Frame::Welcome(welcome) => {
                talker.is_live = welcome.cursor == welcome.head;
                Ok(talker)
            }
            other => Err(io::Error::other(format!("welcome was expected, not {other:?}"))),
        }
    }

    /// Whether it had everything when it logged in: then no page follows.
    pub(crate) fn is_live(&self) -> bool {
        self.is_live
    }

    /// Waits for so long at most from now on.
    pub(crate) fn be_patient_for(&self, patience: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(patience))
    }

    pub(crate) fn send(&mut self, frames: &[client_frame::Frame]) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut payload = Vec::new();
        for frame in frames {
            payload.clear();
            let frame = chat::ClientFrame { frame: Some(frame.clone()) };
            chat::encode_client(Format::Protobuf, &frame, &mut payload);
            encode_frame(&mut bytes, Opcode::Binary, &payload, Some(MASK));
        }
        self.stream.write_all(&bytes)
    }

    /// The next frame.
    pub(crate) fn next(&mut self) -> io::Result<server_frame::Frame> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Ok(frame);
            }
            let mut bytes = std::mem::take(&mut self.unread);
            if bytes.is_empty() {
                let mut buffer = vec![0u8; 65_536];
                let count = read(&mut self.stream, &mut buffer)?;
                if count == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                buffer.truncate(count);
                bytes = buffer;
            }
            let mut input = bytes.as_mut_slice();
            while let Some(item) = self.decoder.next(&mut input, &LIMITS).map_err(io::Error::other)? {
                match item {
                    Item::Binary(payload) => {
                        let frame =
                            chat::decode_server(Format::Protobuf, payload).map_err(io::Error::other)?;
                        self.frames.extend(frame.frame);
                    }
                    Item::Close(_) => return Err(io::ErrorKind::ConnectionAborted.into()),
                    _ => {}
                }
            }
        }
    }

    /// Chats until the server is killed, keeping `in_flight` sends unanswered; writes everything into the side.
    pub(crate) fn talk(
        mut self,
        side: &mut Side,
        round: u32,
        in_flight: usize,
        over: &AtomicBool,
        mut random: Random,
    ) -> io::Result<()> {
        let talked = self.talk_on(side, round, in_flight, over, &mut random);
        match talked {
            // The kill shows as the end of the stream or a reset, whichever comes first.
            Err(error) if over.load(Ordering::Relaxed) || is_gone(&error) => Ok(()),
            other => other,
        }
    }

    fn talk_on(
        &mut self,
        side: &mut Side,
        round: u32,
        in_flight: usize,
        over: &AtomicBool,
        random: &mut Random,
    ) -> io::Result<()> {
        let mut unanswered = 0;
        loop {
            if unanswered <= in_flight / 2 && !over.load(Ordering::Relaxed) {
                let mut batch: Vec<_> =
                    (unanswered..in_flight).map(|_| side.next_act(round, random)).collect();
                unanswered += batch.len();
                batch.extend(side.confirmation(random));
                self.send(&batch)?;
            }
            let frame = self.next()?;
            if let server_frame::Frame::Accepted(_) | server_frame::Frame::Error(_) = &frame {
                unanswered -= 1;
            }
            side.see(frame);
        }
    }
}

/// One read. With a timeout the kernel restarts none that a signal interrupted.
fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let what = "the server has said nothing for as long as it may";
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            done => return done,
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, UnexpectedEof};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionRefused | ConnectionReset | UnexpectedEof
    )
}
