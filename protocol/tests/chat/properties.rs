//! What must hold for any frame and for any bytes.

use std::sync::LazyLock;

use holdfast_protocol::chat::{
    ClientFrame, Entry, Event, Format, Page, ServerFrame, decode_client, decode_server, encode_client,
    encode_server, entry_json, event_bytes, page_bytes, server_frame, write_event, write_page,
};
use holdfast_protocol::id::Rev;
use proptest::prelude::*;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};

use crate::frames;

fn encoded_client(format: Format, frame: &ClientFrame) -> Vec<u8> {
    let mut out = Vec::new();
    encode_client(format, frame, &mut out);
    out
}

fn encoded_server(format: Format, frame: &ServerFrame) -> Vec<u8> {
    let mut out = Vec::new();
    encode_server(format, frame, &mut out);
    out
}

/// An entry as it is kept for receivers of one format.
fn prepared(format: Format, entry: &Entry) -> Vec<u8> {
    let protobuf = entry.encode_to_vec();
    match format {
        Format::Protobuf => protobuf,
        Format::Json => {
            let mut json = Vec::new();
            entry_json(&protobuf, &mut json).expect("an entry");
            json
        }
    }
}

/// What prost-reflect, which knows the schema only from its text, writes for a protobuf-encoded message.
fn reference_json(
    message: &MessageDescriptor,
    protobuf: &[u8],
    skip_default_fields: bool,
) -> serde_json::Value {
    let dynamic = DynamicMessage::decode(message.clone(), protobuf).expect("a message of the schema");
    let options = SerializeOptions::new().skip_default_fields(skip_default_fields);
    dynamic.serialize_with_options(serde_json::value::Serializer, &options).expect("the schema maps to JSON")
}

/// What prost-reflect reads from JSON, as protobuf.
fn reference_protobuf(message: &MessageDescriptor, json: &[u8]) -> Vec<u8> {
    let mut json = serde_json::Deserializer::from_slice(json);
    DynamicMessage::deserialize(message.clone(), &mut json).expect("JSON of the schema").encode_to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_decoded_frame_is_the_encoded_one(
        client in frames::client_frame(),
        server in frames::server_frame(),
    ) {
        for format in Format::ALL {
            prop_assert_eq!(&decode_client(format, &encoded_client(format, &client)).expect("own frame"), &client);
            prop_assert_eq!(&decode_server(format, &encoded_server(format, &server)).expect("own frame"), &server);
        }
    }

    #[test]
    fn encoding_appends(client in frames::client_frame(), server in frames::server_frame()) {
        for format in Format::ALL {
            let mut out = b"before".to_vec();
            encode_client(format, &client, &mut out);
            encode_server(format, &server, &mut out);
            let expected =
                [b"before".to_vec(), encoded_client(format, &client), encoded_server(format, &server)].concat();
            prop_assert_eq!(out, expected);
        }
    }

    #[test]
    fn the_json_is_protobufs_own_mapping(
        client in frames::client_frame(),
        server in frames::server_frame(),
    ) {
        static SCHEMA: LazyLock<DescriptorPool> = LazyLock::new(frames::schema);
        let message = |name| SCHEMA.get_message_by_name(name).expect("a message of the schema");
        for (descriptor, json, protobuf) in [
            (
                message("holdfast.v1.ClientFrame"),
                encoded_client(Format::Json, &client),
                encoded_client(Format::Protobuf, &client),
            ),
            (
                message("holdfast.v1.ServerFrame"),
                encoded_server(Format::Json, &server),
                encoded_server(Format::Protobuf, &server),
            ),
        ] {
            let ours: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
            prop_assert_eq!(ours, reference_json(&descriptor, &protobuf, false));
            prop_assert_eq!(reference_protobuf(&descriptor, &json), protobuf);
        }
        // The mapping's shorter form, without zero values, means the same.
        let short = reference_json(
            &message("holdfast.v1.ServerFrame"),
            &encoded_server(Format::Protobuf, &server),
            true,
        );
        prop_assert_eq!(decode_server(Format::Json, short.to_string().as_bytes()).expect("short form"), server);
    }

    #[test]
    fn a_spliced_event_is_the_whole_frame(rev: u64, shift in 0u32..64, entry in frames::entry()) {
        for rev in [rev >> shift, 0, u64::MAX] {
            for format in Format::ALL {
                let spliced_entry = prepared(format, &entry);
                let mut spliced = b"header".to_vec();
                write_event(format, Rev(rev), &spliced_entry, &mut spliced);
                let event = Event { rev, entry: Some(entry.clone()) };
                let whole = ServerFrame { frame: Some(server_frame::Frame::Event(event)) };
                prop_assert_eq!(&spliced[6..], &encoded_server(format, &whole)[..]);
                prop_assert_eq!(spliced.len() - 6, event_bytes(format, Rev(rev), spliced_entry.len()));
            }
        }
    }

    #[test]
    fn a_spliced_page_is_the_whole_frame(
        entries in prop::collection::vec((any::<u64>(), 0u32..64, frames::entry()), 0..6),
        head: u64,
        live: bool,
    ) {
        let entries: Vec<(u64, Entry)> =
            entries.into_iter().map(|(rev, shift, entry)| (rev >> shift, entry)).collect();
        for head in [head, 0] {
            for format in Format::ALL {
                let prepared: Vec<(Rev, Vec<u8>)> =
                    entries.iter().map(|(rev, entry)| (Rev(*rev), prepared(format, entry))).collect();
                let slices = prepared.iter().map(|(rev, entry)| (*rev, &entry[..]));
                let mut spliced = b"header".to_vec();
                write_page(format, slices.clone(), Rev(head), live, &mut spliced);
                let events =
                    entries.iter().map(|(rev, entry)| Event { rev: *rev, entry: Some(entry.clone()) }).collect();
                let whole = ServerFrame { frame: Some(server_frame::Frame::Page(Page { events, head, live })) };
                prop_assert_eq!(&spliced[6..], &encoded_server(format, &whole)[..]);
                prop_assert_eq!(spliced.len() - 6, page_bytes(format, slices, Rev(head), live));
            }
        }
    }

    #[test]
    fn any_bytes_give_a_frame_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        decode_all(&bytes);
    }

    /// Bytes that are nearly a frame get further into the decoders than bytes at random.
    #[test]
    fn damaged_frames_give_a_frame_or_an_error(
        client in frames::client_frame(),
        server in frames::server_frame(),
        position: prop::sample::Index,
        byte: u8,
        cut: prop::sample::Index,
    ) {
        for format in Format::ALL {
            for mut bytes in [encoded_client(format, &client), encoded_server(format, &server)] {
                decode_all(&bytes[..cut.index(bytes.len())]);
                *position.get_mut(&mut bytes) = byte;
                decode_all(&bytes);
            }
        }
    }
}

/// Decodes in every way; what is accepted must mean the same when it is written and read again.
fn decode_all(bytes: &[u8]) {
    for format in Format::ALL {
        match decode_client(format, bytes) {
            Ok(frame) => {
                let again = encoded_client(format, &frame);
                assert_eq!(decode_client(format, &again).expect("own frame"), frame);
            }
            Err(error) => assert!(error.to_string().len() < 1_200, "{error}"),
        }
        match decode_server(format, bytes) {
            Ok(frame) => {
                let again = encoded_server(format, &frame);
                assert_eq!(decode_server(format, &again).expect("own frame"), frame);
            }
            Err(error) => assert!(error.to_string().len() < 1_200, "{error}"),
        }
    }
    let mut out = b"before".to_vec();
    if entry_json(bytes, &mut out).is_err() {
        assert_eq!(out, b"before");
    }
}
