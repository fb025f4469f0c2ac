//! Masking, frames and handshakes.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use holdfast_benches::{HANDSHAKE, MASK, frames, text_frame};
use holdfast_protocol::ws::handshake::{HeadLimits, HeadScanner, parse_request, write_accept};
use holdfast_protocol::ws::{Decoder, MessageLimits, Opcode, Role, apply_mask, encode_frame};

fn mask(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mask");
    for bytes in [64, 1_024, 65_536] {
        let mut payload = vec![0x5a; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
            bencher.iter(|| apply_mask(black_box(&mut payload), MASK));
        });
    }
    group.finish();
}

/// Decodes all of `input`; how many messages it held.
fn decode_all(decoder: &mut Decoder, mut input: &mut [u8], limits: &MessageLimits) -> usize {
    let mut messages = 0;
    while let Ok(Some(item)) = decoder.next(&mut input, limits) {
        black_box(item);
        messages += 1;
    }
    messages
}

fn decode(criterion: &mut Criterion) {
    let limits = MessageLimits::default();
    let mut group = criterion.benchmark_group("decode");
    for (name, mut input, expected) in [
        ("1 x 64 B", frames(1, 64), 1),
        ("16 x 64 B", frames(16, 64), 16),
        ("1 x 64 KiB", frames(1, 65_536), 1),
        ("text, 4 KiB", text_frame(4_096), 1),
    ] {
        let mut decoder = Decoder::new(Role::Server);
        assert_eq!(decode_all(&mut decoder, &mut input.clone(), &limits), expected, "{name}");
        group.throughput(Throughput::Bytes(input.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| decode_all(&mut decoder, black_box(&mut input), &limits));
        });
    }
    // A message that two reads cut in the middle: the one case that copies.
    let whole = frames(1, 1_024);
    let (front, back) = whole.split_at(500);
    let (mut front, mut back) = (front.to_vec(), back.to_vec());
    group.throughput(Throughput::Bytes(whole.len() as u64));
    group.bench_function("1 KiB in two parts", |bencher| {
        let mut decoder = Decoder::new(Role::Server);
        bencher.iter(|| {
            decode_all(&mut decoder, black_box(&mut front), &limits)
                + decode_all(&mut decoder, black_box(&mut back), &limits)
        });
    });
    group.finish();
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    for (bytes, mask) in [(64, None), (64, Some(MASK)), (65_536, None), (65_536, Some(MASK))] {
        let payload = vec![0x5a; bytes];
        let mut out = Vec::with_capacity(bytes + 16);
        let name = format!("{bytes} B, {}", if mask.is_some() { "masked" } else { "not masked" });
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                encode_frame(&mut out, Opcode::Binary, black_box(&payload), mask);
                black_box(&out);
            });
        });
    }
    group.finish();
}

fn handshake(criterion: &mut Criterion) {
    let limits = HeadLimits::default();
    let mut out = Vec::with_capacity(256);
    let mut group = criterion.benchmark_group("handshake");
    group.bench_function("scan", |bencher| {
        bencher.iter(|| HeadScanner::new().scan(black_box(HANDSHAKE.as_bytes()), &limits));
    });
    group.bench_function("parse and accept", |bencher| {
        bencher.iter(|| {
            out.clear();
            let head = parse_request(black_box(HANDSHAKE.as_bytes()), &limits).ok().flatten();
            let upgrade =
                head.as_ref().and_then(|head| head.upgrade().ok()).expect("it is a proper handshake");
            write_accept(&mut out, upgrade.key, Some("holdfast.v1.json"));
            black_box(&out);
        });
    });
    group.finish();
}

criterion_group!(benches, mask, decode, encode, handshake);
criterion_main!(benches);
