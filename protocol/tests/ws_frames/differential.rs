//! The codec against `tungstenite`, which is the strictest of the other Rust implementations.
//!
//! Both read the same stream. Items must be the same up to the end or the first error. They may differ only so:
//!
//! - *When* an error is found: we judge a header as far as it has arrived and text byte by byte, tungstenite whole
//!   frames. So a stream that we have refused is continued with zeros until tungstenite has its frame; then it must
//!   refuse too.
//! - *Which* error comes first when a frame has two: tungstenite checks the size before everything else. The class
//!   must be the same unless it says "too large" where we say "protocol".
//! - Lengths in a longer form than needed: RFC 6455 §5.2 says MUST NOT, tungstenite takes them.
//! - Close codes that may not be sent: tungstenite hands out a close with 1002 in their place; we refuse. 1014 is
//!   registered with IANA, and unknown to tungstenite.

use std::io::{self, Read, Write};

use holdfast_protocol::ws::{CloseCode, DecodeError, MessageLimits, Role};
use proptest::prelude::*;
use proptest::sample::Index;
use tungstenite::protocol::{Role as TheirRole, WebSocket, WebSocketConfig};
use tungstenite::{Error as TheirError, Message};

use crate::streams::{Seen, cuts_of, decode, hostile, sent};

const LIMIT_BYTES: usize = 400;
/// tungstenite has no limit on fragments.
const LIMITS: MessageLimits =
    MessageLimits { frame_bytes: LIMIT_BYTES as u64, message_bytes: LIMIT_BYTES as u64, fragments: u32::MAX };

/// A stream that is read in pieces and then has nothing more for now. What is written to it is kept.
struct Pipe {
    bytes: Vec<u8>,
    cuts: Vec<usize>,
    position: usize,
    written: Vec<u8>,
}

impl Pipe {
    fn new(bytes: Vec<u8>, cuts: Vec<usize>) -> Self {
        Self { bytes, cuts, position: 0, written: Vec::new() }
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let next_cut = self.cuts.iter().copied().find(|&cut| cut > self.position).unwrap_or(self.bytes.len());
        let available = &self.bytes[self.position..next_cut];
        if available.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.position += count;
        Ok(count)
    }
}

impl Write for Pipe {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.written.extend_from_slice(buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Protocol,
    TooLarge,
    NotUtf8,
}

fn their_socket(role: Role, pipe: Pipe, limit_bytes: usize) -> WebSocket<Pipe> {
    let config = WebSocketConfig::default()
        .max_frame_size(Some(limit_bytes))
        .max_message_size(Some(limit_bytes))
        .read_buffer_size(64);
    let role = match role {
        Role::Server => TheirRole::Server,
        Role::Client => TheirRole::Client,
    };
    WebSocket::from_raw_socket(pipe, role, Some(config))
}

/// What tungstenite makes of a stream: items, and the error if there is one.
fn their_outcome(role: Role, bytes: Vec<u8>, cuts: Vec<usize>) -> (Vec<Seen>, Option<Class>) {
    let mut socket = their_socket(role, Pipe::new(bytes, cuts), LIMIT_BYTES);
    let mut items = Vec::new();
    loop {
        let error = match socket.read() {
            Ok(Message::Text(text)) => {
                items.push(Seen::Text(text.as_str().to_owned()));
                continue;
            }
            Ok(Message::Binary(bytes)) => {
                items.push(Seen::Binary(bytes.to_vec()));
                continue;
            }
            Ok(Message::Ping(bytes)) => {
                items.push(Seen::Ping(bytes.to_vec()));
                continue;
            }
            Ok(Message::Pong(bytes)) => {
                items.push(Seen::Pong(bytes.to_vec()));
                continue;
            }
            Ok(Message::Close(close)) => {
                let close = close.map(|close| (close.code.into(), close.reason.as_str().to_owned()));
                items.push(Seen::Close(close));
                // What follows a close frame is discarded by us, and an error there.
                return (items, None);
            }
            Ok(Message::Frame(_)) => unreachable!("never read"),
            Err(error) => error,
        };
        let class = match error {
            TheirError::Io(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            TheirError::Protocol(_) => Some(Class::Protocol),
            TheirError::Capacity(_) => Some(Class::TooLarge),
            TheirError::Utf8(_) => Some(Class::NotUtf8),
            other => panic!("tungstenite says {other:?}"),
        };
        return (items, class);
    }
}

fn our_class(error: DecodeError) -> Class {
    match error.close_code() {
        CloseCode::PROTOCOL_ERROR => Class::Protocol,
        CloseCode::MESSAGE_TOO_BIG => Class::TooLarge,
        CloseCode::INVALID_PAYLOAD => Class::NotUtf8,
        other => panic!("close code {other} for {error}"),
    }
}

/// Checks that both make the same of the stream, but for the differences that the module doc lists.
fn compare(role: Role, bytes: &[u8], cuts: Vec<usize>) -> Result<(), TestCaseError> {
    let ours = decode(role, bytes, &cuts, &LIMITS);
    let mut padded = bytes.to_vec();
    if ours.error.is_some() {
        padded.resize(bytes.len() + 16 + LIMIT_BYTES, 0);
    }
    let (their_items, their_error) = their_outcome(role, padded, cuts);
    let violation = Some(Seen::Close(Some((1002, "Protocol violation".to_owned()))));
    match ours.error {
        None => {
            if let Some(Seen::Close(Some((1014, _)))) = ours.items.last() {
                prop_assert_eq!(their_items.last(), violation.as_ref());
                prop_assert_eq!(&their_items[..their_items.len() - 1], &ours.items[..ours.items.len() - 1]);
            } else {
                prop_assert_eq!(&their_items, &ours.items);
            }
            prop_assert_eq!(their_error, None);
        }
        Some(DecodeError::LengthNotMinimal(_)) => {
            prop_assert!(their_items.starts_with(&ours.items));
        }
        // The same, if a control frame declares a few bytes in 16 or 64 bits; then its body may be wrong besides.
        Some(DecodeError::ControlTooLong(_)) => {
            prop_assert!(their_items.starts_with(&ours.items));
            prop_assert!(their_items.len() > ours.items.len() || their_error.is_some());
        }
        // A reason that is not UTF-8 is found there before the code is looked at.
        Some(DecodeError::CloseCode(_)) if their_error == Some(Class::NotUtf8) => {
            prop_assert_eq!(&their_items, &ours.items);
        }
        Some(DecodeError::CloseCode(_)) => {
            prop_assert_eq!(their_items.last(), violation.as_ref());
            prop_assert_eq!(&their_items[..their_items.len() - 1], &ours.items[..]);
        }
        Some(error) => {
            prop_assert_eq!(&their_items, &ours.items);
            let ours = our_class(error);
            let agree =
                their_error == Some(ours) || ours == Class::Protocol && their_error == Some(Class::TooLarge);
            prop_assert!(agree, "we say {:?}, they say {:?}", error, their_error);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 12, ..ProptestConfig::default() })]

    #[test]
    fn both_make_the_same_of_hostile_streams(
        (role, bytes) in prop_oneof![
            hostile(true).prop_map(|bytes| (Role::Server, bytes)),
            hostile(false).prop_map(|bytes| (Role::Client, bytes)),
        ],
        cuts in prop::collection::vec(any::<Index>(), 0..6),
    ) {
        let cuts = cuts_of(bytes.len(), &cuts);
        compare(role, &bytes, cuts)?;
    }
}

proptest! {
    /// They read what we write.
    #[test]
    fn tungstenite_reads_our_frames(messages in prop::collection::vec(sent(), 1..6), to_server in any::<bool>()) {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for message in &messages {
            message.write(to_server, &mut bytes, &mut expected);
        }
        let role = if to_server { Role::Server } else { Role::Client };
        let mut socket = their_socket(role, Pipe::new(bytes, Vec::new()), 1 << 20);
        for seen in expected {
            let theirs = match socket.read().unwrap() {
                Message::Text(text) => Seen::Text(text.as_str().to_owned()),
                Message::Binary(bytes) => Seen::Binary(bytes.to_vec()),
                Message::Ping(bytes) => Seen::Ping(bytes.to_vec()),
                Message::Pong(bytes) => Seen::Pong(bytes.to_vec()),
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(theirs, seen);
        }
    }

    /// We read what they write.
    #[test]
    fn we_read_tungstenites_frames(messages in prop::collection::vec(sent(), 1..6), from_client in any::<bool>()) {
        let (their_role, our_role) =
            if from_client { (Role::Client, Role::Server) } else { (Role::Server, Role::Client) };
        let mut socket = their_socket(their_role, Pipe::new(Vec::new(), Vec::new()), 1 << 20);
        let expected: Vec<Seen> = messages.into_iter().map(|message| message.seen).collect();
        for seen in &expected {
            let message = match seen.clone() {
                Seen::Text(text) => Message::text(text),
                Seen::Binary(bytes) => Message::binary(bytes),
                Seen::Ping(bytes) => Message::Ping(bytes.into()),
                Seen::Pong(bytes) => Message::Pong(bytes.into()),
                Seen::Close(_) => unreachable!("not generated here"),
            };
            socket.send(message).unwrap();
            socket.flush().unwrap();
        }
        let roomy = MessageLimits { frame_bytes: 1 << 20, message_bytes: 1 << 20, fragments: 64 };
        let ours = decode(our_role, &socket.get_ref().written, &[], &roomy);
        prop_assert_eq!(ours.error, None);
        prop_assert_eq!(ours.items, expected);
    }
}
