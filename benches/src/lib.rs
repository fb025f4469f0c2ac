//! Inputs of the benches in `benches/`: the bytes that the hot kernels see all day.
//!
//! `cargo bench -p holdfast-benches` runs them; one of them with `--bench ws`. What is measured against other
//! servers, over real sockets, stands in `peers/`.

#![forbid(unsafe_code)]

use holdfast_protocol::chat::{Body, ClientFrame, Entry, Message, Send, body, client_frame, entry};
use holdfast_protocol::ws::{Opcode, encode_frame};

/// A browser's handshake, as Chromium sends it to a page's own server.
pub const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\n\
    Host: chat.example.org\r\n\
    Connection: Upgrade\r\n\
    Pragma: no-cache\r\n\
    Cache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/148.0.0.0 Safari/537.36\r\n\
    Upgrade: websocket\r\n\
    Origin: https://chat.example.org\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
    Sec-WebSocket-Protocol: holdfast.v1.json, bearer.eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiJ9.c2lnbmF0dXJl\r\n\r\n";

/// A key that changes the payload.
pub const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// `count` masked frames of `bytes` each, as one receive brings them.
///
/// Binary, so that decoding them in place again and again (which masks them and unmasks them in turns) stays valid.
#[must_use]
pub fn frames(count: usize, bytes: usize) -> Vec<u8> {
    let payload = vec![0x5a; bytes];
    let mut out = Vec::new();
    for _ in 0..count {
        encode_frame(&mut out, Opcode::Binary, &payload, Some(MASK));
    }
    out
}

/// A masked text frame of `bytes`, with a key that leaves the text as it is, for the same reason.
#[must_use]
pub fn text_frame(bytes: usize) -> Vec<u8> {
    let text: String = "naïve 你好 🇺🇳 ".chars().cycle().take(bytes / 2).collect();
    let mut out = Vec::new();
    encode_frame(&mut out, Opcode::Text, text.as_bytes(), Some([0; 4]));
    out
}

/// What people say.
const TEXT: &str = "are you coming tonight? we start at eight, bring what you like";

/// A message on its way to the server.
#[must_use]
pub fn send() -> ClientFrame {
    ClientFrame {
        frame: Some(client_frame::Frame::Send(Send {
            client_id: "01J9ZC4W6T5N8Q3R".to_owned(),
            conversation: "@43".to_owned(),
            body: Some(Body { kind: Some(body::Kind::Text(TEXT.to_owned())) }),
            reply_to: None,
        })),
    }
}

/// The same message as an inbox entry.
#[must_use]
pub fn entry() -> Entry {
    Entry {
        kind: Some(entry::Kind::Message(Message {
            conversation: "42:43".to_owned(),
            seq: 7_391,
            message_id: 7_123_456_789_012_345_678,
            sender: 42,
            client_id: "01J9ZC4W6T5N8Q3R".to_owned(),
            device: "phone".to_owned(),
            time_ms: 1_790_000_000_000,
            body: Some(Body { kind: Some(body::Kind::Text(TEXT.to_owned())) }),
            reply_to: None,
            changed_by: None,
            ordinal: Some(7_391),
        })),
    }
}
