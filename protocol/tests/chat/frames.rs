//! Any frame of the schema, for property tests, and the schema itself.

use bytes::Bytes;
use holdfast_protocol::chat::{
    Accepted, Ack, Body, ClientFrame, Custom, Drain, Entry, Error, Event, Gap, Hello, Limits, Message, Page,
    Ping, Pong, Send, ServerFrame, Sync, Welcome, body, client_frame, entry, server_frame,
};
use proptest::prelude::*;
use prost_reflect::DescriptorPool;

/// The schema as its own compiler reads it.
pub(crate) fn schema() -> DescriptorPool {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    let descriptors = protox::compile(["holdfast/v1/chat.proto"], [folder]).expect("the schema compiles");
    DescriptorPool::from_file_descriptor_set(descriptors).expect("the schema is complete")
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-zA-Z0-9@:._-]{0,24}",
        1 => any::<String>(),
        // What JSON must escape, and what lies outside the basic plane.
        1 => "[\u{0}-\u{1f}\"\\\\/\u{7f}\u{2028}\u{ffff}\u{1f600}é]{0,12}",
    ]
}

/// All lengths of a varint and of decimals, and the numbers around 2^53 that a double cannot tell apart.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(u64::MAX),
        (0u64..4).prop_map(|n| (1 << 53) + n),
        (0u32..64, any::<u64>()).prop_map(|(shift, n)| n >> shift),
    ]
}

fn small() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(u32::MAX), (0u32..32, any::<u32>()).prop_map(|(shift, n)| n >> shift)]
}

fn body() -> impl Strategy<Value = Body> {
    let data = prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    let kind = prop_oneof![
        text().prop_map(body::Kind::Text),
        (text(), data).prop_map(|(content_type, data)| body::Kind::Custom(Custom { content_type, data })),
    ];
    prop::option::of(kind).prop_map(|kind| Body { kind })
}

pub(crate) fn entry() -> impl Strategy<Value = Entry> {
    let message = (text(), number(), number(), number(), text(), text(), number(), prop::option::of(body()))
        .prop_map(|(conversation, seq, message_id, sender, client_id, device, time_ms, body)| Message {
            conversation,
            seq,
            message_id,
            sender,
            client_id,
            device,
            time_ms,
            body,
        });
    prop::option::of(message).prop_map(|message| Entry { kind: message.map(entry::Kind::Message) })
}

fn event() -> impl Strategy<Value = Event> {
    (number(), prop::option::of(entry())).prop_map(|(rev, entry)| Event { rev, entry })
}

pub(crate) fn client_frame() -> impl Strategy<Value = ClientFrame> {
    use client_frame::Frame;
    prop_oneof![
        (text(), text(), prop::option::of(number()))
            .prop_map(|(token, device, cursor)| Frame::Hello(Hello { token, device, cursor })),
        (text(), text(), prop::option::of(body()))
            .prop_map(|(client_id, conversation, body)| Frame::Send(Send { client_id, conversation, body })),
        number().prop_map(|rev| Frame::Ack(Ack { rev })),
        (number(), small()).prop_map(|(after, limit)| Frame::Sync(Sync { after, limit })),
        number().prop_map(|nonce| Frame::Ping(Ping { nonce })),
    ]
    .prop_map(|frame| ClientFrame { frame: Some(frame) })
}

pub(crate) fn server_frame() -> impl Strategy<Value = ServerFrame> {
    use server_frame::Frame;
    let limits = (small(), small(), small(), small()).prop_map(
        |(message_bytes, page_entries, send_per_second, send_burst)| Limits {
            message_bytes,
            page_entries,
            send_per_second,
            send_burst,
        },
    );
    let welcome =
        (number(), number(), text(), small(), number(), number(), prop::option::of(limits), number())
            .prop_map(|(session, user, device, heartbeat_ms, cursor, head, limits, server_time_ms)| {
                Welcome { session, user, device, heartbeat_ms, cursor, head, limits, server_time_ms }
            });
    prop_oneof![
        welcome.prop_map(Frame::Welcome),
        (text(), number(), number()).prop_map(|(client_id, message_id, seq)| Frame::Accepted(Accepted {
            client_id,
            message_id,
            seq
        })),
        event().prop_map(Frame::Event),
        (prop::collection::vec(event(), 0..4), number(), any::<bool>())
            .prop_map(|(events, head, live)| Frame::Page(Page { events, head, live })),
        (number(), number(), text()).prop_map(|(from, to, why)| Frame::Gap(Gap { from, to, why })),
        (small(), text()).prop_map(|(after_ms, to)| Frame::Drain(Drain { after_ms, to })),
        (text(), text(), small(), text()).prop_map(|(code, message, retry_after_ms, client_id)| {
            Frame::Error(Error { code, message, retry_after_ms, client_id })
        }),
        number().prop_map(|nonce| Frame::Pong(Pong { nonce })),
    ]
    .prop_map(|frame| ServerFrame { frame: Some(frame) })
}
