//! The frame decoder: no panic, and two ways to cut the same bytes give the same items and the same error.
#![no_main]

use holdfast_protocol::ws::{DecodeError, Decoder, Item, MessageLimits, Role};
use libfuzzer_sys::fuzz_target;

/// So small that the fuzzer reaches them.
const LIMITS: MessageLimits = MessageLimits { frame_bytes: 300, message_bytes: 400, fragments: 5 };

/// What a decoder says about a stream.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// One after the other: kind, length, payload.
    items: Vec<u8>,
    error: Option<DecodeError>,
    is_between_messages: bool,
}

fn record(items: &mut Vec<u8>, item: &Item<'_>) {
    let (kind, payload) = match item {
        Item::Text(text) => (b't', text.as_bytes()),
        Item::Binary(bytes) => (b'b', *bytes),
        Item::Ping(bytes) => (b'?', *bytes),
        Item::Pong(bytes) => (b'!', *bytes),
        Item::Close(None) => (b'c', [].as_slice()),
        Item::Close(Some(close)) => {
            items.extend_from_slice(&close.code.0.to_be_bytes());
            (b'C', close.reason.as_bytes())
        }
    };
    items.push(kind);
    items.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    items.extend_from_slice(payload);
}

/// `read_bytes`: how long the next read is.
fn decode(role: Role, bytes: &[u8], mut read_bytes: impl FnMut() -> usize) -> Outcome {
    let mut decoder = Decoder::new(role);
    let mut items = Vec::new();
    let mut error = None;
    let mut bytes = bytes.to_vec();
    let mut start = 0;
    while start < bytes.len() {
        let end = start + read_bytes().clamp(1, bytes.len() - start);
        let mut input = &mut bytes[start..end];
        start = end;
        loop {
            match decoder.next(&mut input, &LIMITS) {
                Ok(Some(item)) => {
                    assert!(error.is_none(), "an item after an error");
                    record(&mut items, &item);
                }
                Ok(None) => break,
                Err(first) => assert!(error.replace(first).is_none(), "an error after an error"),
            }
        }
        assert!(input.is_empty(), "all of the input is consumed when more is needed");
        // What is held has arrived: never what a header merely declares.
        assert!(decoder.held_bytes() <= 512 + 2 * end, "{} bytes held of {end}", decoder.held_bytes());
    }
    Outcome { items, error, is_between_messages: decoder.is_between_messages() }
}

fuzz_target!(|data: &[u8]| {
    let Some((&[flags, a, b, c], bytes)) = data.split_first_chunk::<4>() else { return };
    let role = if flags & 1 == 0 { Role::Server } else { Role::Client };
    let whole = decode(role, bytes, || usize::MAX);
    assert_eq!(decode(role, bytes, || 1), whole);
    // Lengths of reads that the fuzzer chooses, over and over.
    let mut reads = [a, b, c].map(usize::from).into_iter().cycle();
    assert_eq!(decode(role, bytes, || reads.next().unwrap_or(1)), whole);
});
