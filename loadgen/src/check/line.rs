//! One connection, sans-IO: the handshake, then frames to bytes and bytes to frames.

use holdfast_protocol::chat::{self, ClientFrame, Format, client_frame, server_frame};
use holdfast_protocol::ws::handshake::{ClientKey, ClientRequest, client_key, parse_response, write_request};
use holdfast_protocol::ws::{Decoder, Item, MessageLimits, Opcode, Role, encode_frame};

use crate::random::Random;

/// More than any frame of a server that keeps to its limits.
const LIMITS: MessageLimits = MessageLimits { frame_bytes: 4 << 20, message_bytes: 4 << 20, fragments: 64 };

/// What has come.
#[derive(Debug)]
pub(super) enum Got {
    /// The handshake is over: frames may be sent.
    Open,
    Frame(Box<server_frame::Frame>),
    /// The server's close frame.
    Closed,
    /// Bytes that no server may send.
    Nonsense(String),
}

/// See the module's doc.
#[derive(Debug)]
pub(super) struct Line {
    format: Format,
    random: Random,
    /// While the handshake is under way.
    key: Option<ClientKey>,
    head: Vec<u8>,
    decoder: Decoder,
    payload: Vec<u8>,
    /// Bytes for the socket.
    pub(super) out: Vec<u8>,
}

impl Line {
    pub(super) fn new(format: Format, host: &str, mut random: Random) -> Self {
        let key = client_key(random.bytes16());
        let mut out = Vec::new();
        let subprotocols = [format.subprotocol()];
        let request = ClientRequest {
            host,
            target: "/ws",
            key: key.as_str(),
            subprotocols: &subprotocols,
            headers: &[],
        };
        write_request(&mut out, &request);
        let decoder = Decoder::new(Role::Client);
        Self { format, random, key: Some(key), head: Vec::new(), decoder, payload: Vec::new(), out }
    }

    pub(super) fn is_open(&self) -> bool {
        self.key.is_none()
    }

    pub(super) fn send(&mut self, frame: &client_frame::Frame) {
        let frame = ClientFrame { frame: Some(frame.clone()) };
        self.payload.clear();
        chat::encode_client(self.format, &frame, &mut self.payload);
        let opcode = match self.format {
            Format::Json => Opcode::Text,
            Format::Protobuf => Opcode::Binary,
        };
        encode_frame(&mut self.out, opcode, &self.payload, Some(self.random.mask()));
    }

    /// A sign of life that needs no answer.
    pub(super) fn beat(&mut self) {
        encode_frame(&mut self.out, Opcode::Pong, b"", Some(self.random.mask()));
    }

    pub(super) fn take(&mut self, bytes: &mut [u8], got: &mut Vec<Got>) {
        let mut rest;
        let mut input: &mut [u8] = bytes;
        if let Some(key) = &self.key {
            self.head.extend_from_slice(input);
            match parse_response(&self.head, key.as_str(), &[self.format.subprotocol()]) {
                Ok(None) => return,
                Ok(Some(response)) => {
                    let used = response.bytes;
                    rest = self.head.split_off(used);
                    self.key = None;
                    self.head = Vec::new();
                    got.push(Got::Open);
                    input = &mut rest;
                }
                // Refused for now: the server is starting, or full.
                Err(_) => return got.push(Got::Closed),
            }
        }
        loop {
            match self.decoder.next(&mut input, &LIMITS) {
                Ok(None) => return,
                Ok(Some(Item::Text(text))) => {
                    let frame = chat::decode_server(self.format, text.as_bytes());
                    got.push(match frame {
                        Ok(frame) if self.format == Format::Json => from_frame(frame),
                        Ok(_) => Got::Nonsense("a text message on a binary connection".into()),
                        Err(error) => Got::Nonsense(error.to_string()),
                    });
                }
                Ok(Some(Item::Binary(bytes))) => {
                    let frame = chat::decode_server(self.format, bytes);
                    got.push(match frame {
                        Ok(frame) if self.format == Format::Protobuf => from_frame(frame),
                        Ok(_) => Got::Nonsense("a binary message on a text connection".into()),
                        Err(error) => Got::Nonsense(error.to_string()),
                    });
                }
                Ok(Some(Item::Ping(payload))) => {
                    encode_frame(&mut self.out, Opcode::Pong, payload, Some(self.random.mask()));
                }
                Ok(Some(Item::Pong(_))) => {}
                Ok(Some(Item::Close(_))) => return got.push(Got::Closed),
                Err(error) => return got.push(Got::Nonsense(error.to_string())),
            }
        }
    }
}

fn from_frame(frame: chat::ServerFrame) -> Got {
    frame.frame.map_or_else(|| Got::Nonsense("an empty frame".into()), |frame| Got::Frame(Box::new(frame)))
}
