//! The frame decoder: no panic, and two ways to cut the same bytes give the same items and the same error.
#![no_main]

use holdfast_protocol::ws::{Decoder, DecodeError, MessageLimits, Role};
use libfuzzer_sys::fuzz_target;

/// So small that the fuzzer reaches them.
const LIMITS: MessageLimits = MessageLimits { frame_bytes: 300, message_bytes: 400, fragments: 5 };

/// Items as text, and the error. `next_bytes`: how long the next read is.
fn decode(role: Role, bytes: &[u8], mut next_bytes: impl FnMut() -> usize) -> (Vec<String>, Option<DecodeError>, bool) {
    let mut decoder = Decoder::new(role);
    let mut items = Vec::new();
    let mut error = None;
    let mut rest = bytes;
    while !rest.is_empty() {
        let (read, later) = rest.split_at(next_bytes().clamp(1, rest.len()));
        rest = later;
        // Memory of its own for each read: nothing may be taken from the one before.
        let mut read = read.to_vec();
        let mut input = read.as_mut_slice();
        loop {
            match decoder.next(&mut input, &LIMITS) {
                Ok(Some(item)) => {
                    assert!(error.is_none(), "an item after an error");
                    items.push(format!("{item:?}"));
                }
                Ok(None) => break,
                Err(first) => assert!(error.replace(first).is_none(), "an error after an error"),
            }
        }
        assert!(input.is_empty(), "all of the input is consumed when more is needed");
        // What is held has arrived: never what a header merely declares.
        assert!(decoder.held_bytes() <= 512 + 2 * (bytes.len() - rest.len()), "{} bytes held", decoder.held_bytes());
    }
    (items, error, decoder.is_between_messages())
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
