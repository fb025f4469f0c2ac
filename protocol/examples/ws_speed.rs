//! How fast the WebSocket codec is on this machine: masking in GB/s, frames in ns.
//!
//! `cargo run --release -p holdfast-protocol --example ws_speed [PART OF A NAME]`
//!
//! A quick look while working on the codec; what CI compares are the instruction counts in `benches/`.

#![allow(clippy::disallowed_methods, reason = "it measures time")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use holdfast_protocol::ws::handshake::{HeadLimits, parse_request, write_accept};
use holdfast_protocol::ws::{
    Decoder, Item, MessageLimits, Opcode, Role, apply_mask, encode_frame, encode_header, header_bytes,
};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const LIMITS: MessageLimits =
    MessageLimits { frame_bytes: 16 << 20, message_bytes: 16 << 20, fragments: 65_536 };

/// Whether the command line asks for this one.
fn is_wanted(name: &str) -> bool {
    std::env::args().nth(1).is_none_or(|part| name.contains(&part))
}

/// The best of several rounds: what the code can do when nothing disturbs it.
fn nanoseconds_per(count: usize, mut work: impl FnMut()) -> f64 {
    let mut best = Duration::MAX;
    for _ in 0..200 {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed());
    }
    best.as_nanos() as f64 / count as f64
}

/// `count` frames of `payload_bytes`, as a client sends them.
fn frames(count: usize, opcode: Opcode, payload_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..count {
        encode_frame(&mut bytes, opcode, &vec![b'x'; payload_bytes], Some(KEY));
    }
    bytes
}

/// Decodes a copy of `wire` again and again; the copy is part of the time, as the kernel's copy is of a receive.
fn decode(name: &str, wire: &[u8], frames: usize, chunk_bytes: usize, echo: bool) {
    if !is_wanted(name) {
        return;
    }
    let mut buffer = wire.to_vec();
    let mut out = Vec::with_capacity(wire.len() * 2);
    let rounds = (1 << 20) / wire.len().max(1) + 1;
    let nanoseconds = nanoseconds_per(rounds * frames, || {
        for _ in 0..rounds {
            buffer.copy_from_slice(wire);
            let mut decoder = Decoder::new(Role::Server);
            out.clear();
            for chunk in buffer.chunks_mut(chunk_bytes) {
                let mut input = black_box(chunk);
                while let Some(item) = decoder.next(&mut input, &LIMITS).expect("proper frames") {
                    // Not the item itself: that would measure a copy of it through memory.
                    let (opcode, payload) = match item {
                        Item::Binary(bytes) => (Opcode::Binary, bytes),
                        Item::Text(text) => (Opcode::Text, text.as_bytes()),
                        Item::Ping(bytes) | Item::Pong(bytes) => (Opcode::Pong, bytes),
                        Item::Close(_) => (Opcode::Close, [].as_slice()),
                    };
                    if echo {
                        encode_frame(&mut out, opcode, payload, None);
                    } else {
                        black_box(payload);
                    }
                }
            }
            black_box(&out);
        }
    });
    let gigabytes = wire.len() as f64 / frames as f64 / nanoseconds;
    println!("{name:<58} {nanoseconds:>10.1} ns per frame {gigabytes:>7.2} GB/s");
}

fn main() {
    for bytes in [64, 1 << 10, 64 << 10, 16 << 20] {
        mask(bytes);
    }
    for (name, opcode) in [("binary", Opcode::Binary), ("text", Opcode::Text)] {
        let wire = frames(16, opcode, 64);
        decode(&format!("decode 16 × 64 bytes, {name}"), &wire, 16, wire.len(), false);
        decode(&format!("decode and echo 16 × 64 bytes, {name}"), &wire, 16, wire.len(), true);
        let wire = frames(1, opcode, 64);
        decode(&format!("decode and echo 1 × 64 bytes, {name}"), &wire, 1, wire.len(), true);
        let wire = frames(1_000, opcode, 64);
        decode(&format!("decode 1,000 × 64 bytes in reads of 16 KiB, {name}"), &wire, 1_000, 16 << 10, false);
        let wire = frames(1, opcode, 16 << 20);
        decode(&format!("decode 16 MiB whole, {name}"), &wire, 1, wire.len(), false);
        decode(&format!("decode 16 MiB in reads of 16 KiB, {name}"), &wire, 1, 16 << 10, false);
        let wire = fragments(65_536, opcode, 256);
        decode(&format!("decode 16 MiB in 65,536 fragments, {name}"), &wire, 65_536, 16 << 10, false);
    }
    let wire = frames(16, Opcode::Pong, 0);
    decode("decode 16 empty pongs (heartbeats)", &wire, 16, wire.len(), false);
    encode();
    handshake();
}

/// One message in `count` fragments of `payload_bytes`.
fn fragments(count: usize, opcode: Opcode, payload_bytes: usize) -> Vec<u8> {
    let mut wire = Vec::new();
    for index in 0..count {
        let opcode = if index == 0 { opcode } else { Opcode::Continuation };
        encode_header(&mut wire, index + 1 == count, opcode, payload_bytes as u64, Some(KEY));
        let start = wire.len();
        wire.resize(start + payload_bytes, b'x');
        apply_mask(&mut wire[start..], KEY);
    }
    wire
}

fn mask(bytes: usize) {
    let name = format!("mask {bytes} bytes in place");
    if !is_wanted(&name) {
        return;
    }
    let mut payload = vec![0x5a; bytes];
    let rounds = (4 << 20) / bytes + 1;
    let nanoseconds = nanoseconds_per(rounds * bytes, || {
        for _ in 0..rounds {
            apply_mask(black_box(&mut payload), KEY);
        }
    });
    println!("{name:<58} {:>34.2} GB/s", 1.0 / nanoseconds);
}

fn encode() {
    let name = "encode 16 × 64 bytes";
    if !is_wanted(name) {
        return;
    }
    let mut out = Vec::with_capacity(16 * (64 + header_bytes(64, false)));
    let payload = [b'x'; 64];
    let nanoseconds = nanoseconds_per(16_000, || {
        for _ in 0..1_000 {
            out.clear();
            for _ in 0..16 {
                encode_frame(black_box(&mut out), Opcode::Binary, black_box(&payload), None);
            }
        }
    });
    println!("{name:<58} {nanoseconds:>10.1} ns per frame");
}

fn handshake() {
    let name = "judge an upgrade and write the answer";
    if !is_wanted(name) {
        return;
    }
    let head = b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Protocol: holdfast.v1.proto\r\nAuthorization: Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiJ9.abc\r\n\r\n";
    let mut out = Vec::new();
    let nanoseconds = nanoseconds_per(1_000, || {
        for _ in 0..1_000 {
            let head = parse_request(black_box(head), &HeadLimits::default());
            let upgrade = head.expect("a proper head").expect("a whole one").upgrade().expect("an upgrade");
            out.clear();
            write_accept(&mut out, upgrade.key, upgrade.protocols().next());
            black_box(&out);
        }
    });
    println!("{name:<58} {nanoseconds:>10.1} ns");
}
