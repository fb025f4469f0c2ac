//! Frames of the chat protocol, in both formats, and what is written once per receiver.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use holdfast_benches::{entry, send};
use holdfast_protocol::chat::{
    Event, Format, ServerFrame, decode_client, encode_client, encode_server, entry_json, server_frame,
    write_event,
};
use holdfast_protocol::id::Rev;
use prost::Message as _;

const FORMATS: [(Format, &str); 2] = [(Format::Json, "JSON"), (Format::Protobuf, "protobuf")];
const REV: Rev = Rev(12_345);

/// The entry alone, in a format: what is made once, however many receive it.
fn entry_in(format: Format) -> Vec<u8> {
    let protobuf = entry().encode_to_vec();
    match format {
        Format::Protobuf => protobuf,
        Format::Json => {
            let mut json = Vec::new();
            entry_json(&protobuf, &mut json).expect("what was encoded decodes");
            json
        }
    }
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode send");
    for (format, name) in FORMATS {
        let mut bytes = Vec::new();
        encode_client(format, &send(), &mut bytes);
        assert_eq!(decode_client(format, &bytes).expect("what was encoded decodes"), send());
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| decode_client(format, black_box(&bytes))));
    }
    group.finish();
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("event");
    let whole =
        ServerFrame { frame: Some(server_frame::Frame::Event(Event { rev: REV.0, entry: Some(entry()) })) };
    for (format, name) in FORMATS {
        let mut out = Vec::with_capacity(1_024);
        group.bench_function(format!("{name}, from the struct"), |bencher| {
            bencher.iter(|| {
                out.clear();
                encode_server(format, black_box(&whole), &mut out);
                black_box(&out);
            });
        });
        let entry = entry_in(format);
        group.bench_function(format!("{name}, rev before a shared entry"), |bencher| {
            bencher.iter(|| {
                out.clear();
                write_event(format, black_box(REV), &entry, &mut out);
                black_box(&out);
            });
        });
    }
    let protobuf = entry_in(Format::Protobuf);
    let mut out = Vec::with_capacity(1_024);
    group.bench_function("entry to JSON, once", |bencher| {
        bencher.iter(|| {
            out.clear();
            entry_json(black_box(&protobuf), &mut out)
        });
    });
    group.finish();
}

criterion_group!(benches, decode, encode);
criterion_main!(benches);
