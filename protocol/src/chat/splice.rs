//! Frames for many receivers: the entry is encoded once per format, header and `rev` are written per receiver.
//!
//! What these functions write is byte for byte what [`encode_server`](super::encode_server) makes of the whole
//! frame (a property test says so), and the `_bytes` functions know its length beforehand, so that the WebSocket
//! header can be written first and nothing is moved.

use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::Format;
use crate::id::Rev;

// Field numbers of the schema; tests compare with the generated types.
const FRAME_EVENT: u32 = 3;
const FRAME_PAGE: u32 = 4;
const EVENT_REV: u32 = 1;
const EVENT_ENTRY: u32 = 2;
const PAGE_EVENTS: u32 = 1;
const PAGE_HEAD: u32 = 2;
const PAGE_LIVE: u32 = 3;

/// The key of a field with a number up to 15.
const KEY_BYTES: usize = 1;

/// Appends the frame `event` to `out`. `entry` is a protobuf-encoded `Entry`, or for [`Format::Json`] what
/// [`entry_json`](super::entry_json) made of it.
pub fn write_event(format: Format, rev: Rev, entry: &[u8], out: &mut Vec<u8>) {
    out.reserve(event_bytes(format, rev, entry.len()));
    match format {
        Format::Json => {
            out.extend_from_slice(b"{\"event\":");
            write_event_json(rev, entry, out);
            out.push(b'}');
        }
        Format::Protobuf => {
            write_length(FRAME_EVENT, event_body_bytes(rev, entry.len()), out);
            write_event_body(rev, entry, out);
        }
    }
}

/// What [`write_event`] appends, in bytes.
#[must_use]
pub fn event_bytes(format: Format, rev: Rev, entry_bytes: usize) -> usize {
    match format {
        Format::Json => "{\"event\":}".len() + event_json_bytes(rev, entry_bytes),
        Format::Protobuf => length_delimited_bytes(event_body_bytes(rev, entry_bytes)),
    }
}

/// Appends the frame `page` to `out`; the entries are encoded as for [`write_event`].
pub fn write_page<'a>(
    format: Format,
    entries: impl Iterator<Item = (Rev, &'a [u8])> + Clone,
    head: Rev,
    live: bool,
    out: &mut Vec<u8>,
) {
    match format {
        Format::Json => {
            out.extend_from_slice(b"{\"page\":{\"events\":[");
            for (index, (rev, entry)) in entries.enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_event_json(rev, entry, out);
            }
            out.extend_from_slice(b"],\"head\":\"");
            write_decimal(head.0, out);
            out.extend_from_slice(b"\",\"live\":");
            out.extend_from_slice(if live { b"true" } else { b"false" });
            out.extend_from_slice(b"}}");
        }
        Format::Protobuf => {
            write_length(FRAME_PAGE, page_body_bytes(entries.clone(), head, live), out);
            for (rev, entry) in entries {
                write_length(PAGE_EVENTS, event_body_bytes(rev, entry.len()), out);
                write_event_body(rev, entry, out);
            }
            write_number(PAGE_HEAD, head.0, out);
            write_number(PAGE_LIVE, u64::from(live), out);
        }
    }
}

/// What [`write_page`] appends, in bytes.
#[must_use]
pub fn page_bytes<'a>(
    format: Format,
    entries: impl Iterator<Item = (Rev, &'a [u8])>,
    head: Rev,
    live: bool,
) -> usize {
    match format {
        Format::Json => {
            let (count, events) = entries.fold((0usize, 0), |(count, bytes), (rev, entry)| {
                (count + 1, bytes + event_json_bytes(rev, entry.len()))
            });
            let live = if live { "true".len() } else { "false".len() };
            "{\"page\":{\"events\":[],\"head\":\"\",\"live\":}}".len()
                + events
                + count.saturating_sub(1)
                + decimal_bytes(head.0)
                + live
        }
        Format::Protobuf => length_delimited_bytes(page_body_bytes(entries, head, live)),
    }
}

fn write_event_json(rev: Rev, entry: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"rev\":\"");
    write_decimal(rev.0, out);
    out.extend_from_slice(b"\",\"entry\":");
    out.extend_from_slice(entry);
    out.push(b'}');
}

fn event_json_bytes(rev: Rev, entry_bytes: usize) -> usize {
    "{\"rev\":\"\",\"entry\":}".len() + decimal_bytes(rev.0) + entry_bytes
}

fn write_event_body(rev: Rev, entry: &[u8], out: &mut Vec<u8>) {
    write_number(EVENT_REV, rev.0, out);
    write_length(EVENT_ENTRY, entry.len(), out);
    out.extend_from_slice(entry);
}

fn event_body_bytes(rev: Rev, entry_bytes: usize) -> usize {
    number_bytes(rev.0) + length_delimited_bytes(entry_bytes)
}

fn page_body_bytes<'a>(entries: impl Iterator<Item = (Rev, &'a [u8])>, head: Rev, live: bool) -> usize {
    let events: usize =
        entries.map(|(rev, entry)| length_delimited_bytes(event_body_bytes(rev, entry.len()))).sum();
    events + number_bytes(head.0) + number_bytes(u64::from(live))
}

fn write_length(field: u32, bytes: usize, out: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(bytes as u64, out);
}

const fn length_delimited_bytes(bytes: usize) -> usize {
    KEY_BYTES + encoded_len_varint(bytes as u64) + bytes
}

/// A number field; protobuf leaves the zero value out.
fn write_number(field: u32, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        encode_key(field, WireType::Varint, out);
        encode_varint(value, out);
    }
}

const fn number_bytes(value: u64) -> usize {
    if value == 0 { 0 } else { KEY_BYTES + encoded_len_varint(value) }
}

fn write_decimal(value: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut rest = value;
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

const fn decimal_bytes(value: u64) -> usize {
    match value.checked_ilog10() {
        Some(log) => log as usize + 1,
        None => 1,
    }
}
