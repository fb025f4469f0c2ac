//! The server's protobuf frames, read where they lie: an event that goes to five hundred members is decoded once, and
//! recognised four hundred and ninety-nine times.
//!
//! Everything here answers `None` for what is not plainly the frame that was asked for; the caller then decodes it with
//! the schema's own decoder, which says what is wrong. So nothing is judged here, and unknown fields are skipped as
//! protobuf wants it.
//!
//! Never here: an allocation, or an index that bytes of the server's choice could push out of range.

/// A field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value<'a> {
    /// A varint.
    Number(u64),
    /// A string, bytes, or a message.
    Bytes(&'a [u8]),
    /// Four or eight bytes: the schema has no such field.
    Fixed,
}

/// Takes one varint from the front.
#[inline]
fn number(bytes: &mut &[u8]) -> Option<u64> {
    // Keys, and the lengths of what is short.
    if let [byte @ 0..0x80, rest @ ..] = *bytes {
        *bytes = rest;
        return Some(u64::from(*byte));
    }
    long_number(bytes)
}

fn long_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index as u32).min(63);
        if byte < 0x80 {
            // The tenth byte holds one bit.
            if index == 9 && byte > 1 {
                return None;
            }
            *bytes = &bytes[index + 1..];
            return Some(value);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], count: u64) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(count).ok()?)?;
    *bytes = rest;
    Some(taken)
}

/// Takes one field from the front.
#[inline]
fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let key = number(bytes)?;
    let value = match key & 7 {
        0 => Value::Number(number(bytes)?),
        1 => take(bytes, 8).map(|_| Value::Fixed)?,
        2 => {
            let count = number(bytes)?;
            Value::Bytes(take(bytes, count)?)
        }
        5 => take(bytes, 4).map(|_| Value::Fixed)?,
        _ => return None,
    };
    Some((key >> 3, value))
}

// Field numbers of the schema; a test compares with the generated types.
const FRAME_EVENT: u64 = 3;
const FRAME_PAGE: u64 = 4;
const FRAME_PRESENCE: u64 = 15;

/// The only field of a message, if it is this one.
fn only(mut bytes: &[u8], wanted: u64) -> Option<&[u8]> {
    match field(&mut bytes)? {
        (number, Value::Bytes(inner)) if number == wanted && bytes.is_empty() => Some(inner),
        _ => None,
    }
}

/// An inbox entry, encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawEvent<'a> {
    /// Its number in the inbox.
    pub rev: u64,
    /// The `Entry`.
    pub entry: &'a [u8],
}

/// The entry of an `event` frame.
#[must_use]
pub fn event(frame: &[u8]) -> Option<RawEvent<'_>> {
    event_body(only(frame, FRAME_EVENT)?)
}

fn event_body(mut bytes: &[u8]) -> Option<RawEvent<'_>> {
    let (mut rev, mut entry) = (0, None);
    while !bytes.is_empty() {
        match field(&mut bytes)? {
            (1, Value::Number(number)) => rev = number,
            // Two of them would have to be merged.
            (2, Value::Bytes(inner)) if entry.is_none() => entry = Some(inner),
            (1 | 2, _) => return None,
            _ => {}
        }
    }
    Some(RawEvent { rev, entry: entry? })
}

/// True for a `presence` frame.
#[must_use]
pub fn is_presence(frame: &[u8]) -> bool {
    only(frame, FRAME_PRESENCE).is_some()
}

/// A `page` frame, whose entries have not been looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawPage<'a> {
    bytes: &'a [u8],
    /// The last `rev` of the inbox when the page was read.
    pub head: u64,
    /// Events follow live.
    pub live: bool,
}

/// A page, if every entry of it can be read.
#[must_use]
pub fn page(frame: &[u8]) -> Option<RawPage<'_>> {
    let body = only(frame, FRAME_PAGE)?;
    let (mut bytes, mut head, mut live) = (body, 0, false);
    while !bytes.is_empty() {
        match field(&mut bytes)? {
            (1, Value::Bytes(inner)) => {
                event_body(inner)?;
            }
            (2, Value::Number(number)) => head = number,
            (3, Value::Number(number)) => live = number != 0,
            (1..=3, _) => return None,
            _ => {}
        }
    }
    Some(RawPage { bytes: body, head, live })
}

impl<'a> RawPage<'a> {
    /// The entries, in the order in which they stand.
    pub fn events(&self) -> impl Iterator<Item = RawEvent<'a>> + use<'a> {
        let mut bytes = self.bytes;
        std::iter::from_fn(move || {
            while !bytes.is_empty() {
                if let (1, Value::Bytes(inner)) = field(&mut bytes)? {
                    return event_body(inner);
                }
            }
            None
        })
    }
}

/// The `seq` of the message in an encoded `Entry`; the fields behind it are not looked at.
#[must_use]
pub fn seq(entry: &[u8]) -> Option<u64> {
    let mut bytes = only(entry, 1)?;
    while !bytes.is_empty() {
        if let (2, value) = field(&mut bytes)? {
            return match value {
                Value::Number(number) => Some(number),
                _ => None,
            };
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_protocol::chat::{self, Format, ServerFrame, body, entry, server_frame};
    use proptest::prelude::*;

    fn message(seq: u64, text: &str) -> chat::Entry {
        let message = chat::Message {
            conversation: "g7".into(),
            seq,
            message_id: 1 << 60,
            sender: 42,
            client_id: "a".into(),
            device: "load".into(),
            time_ms: 1,
            body: Some(chat::Body { kind: Some(body::Kind::Text(text.into())) }),
            ..chat::Message::default()
        };
        chat::Entry { kind: Some(entry::Kind::Message(message)) }
    }

    fn encode(frame: server_frame::Frame) -> Vec<u8> {
        let mut bytes = Vec::new();
        chat::encode_server(Format::Protobuf, &ServerFrame { frame: Some(frame) }, &mut bytes);
        bytes
    }

    fn events(seqs: &[(u64, u64)]) -> Vec<chat::Event> {
        seqs.iter().map(|&(rev, seq)| chat::Event { rev, entry: Some(message(seq, "hi")) }).collect()
    }

    proptest! {
        #[test]
        fn agrees_with_the_schema(seqs in prop::collection::vec((1u64.., 1u64..), 1..20), head: u64, live: bool) {
            let list = events(&seqs);
            let page = chat::Page { events: list.clone(), head, live };
            let bytes = encode(server_frame::Frame::Page(page));
            let raw = super::page(&bytes).expect("a page");
            prop_assert_eq!((raw.head, raw.live), (head, live));
            let read: Vec<(u64, u64)> =
                raw.events().map(|event| (event.rev, seq(event.entry).expect("a message"))).collect();
            prop_assert_eq!(&read, &seqs);
            prop_assert_eq!(event(&bytes), None, "a page is no event");

            let bytes = encode(server_frame::Frame::Event(list[0].clone()));
            let raw = event(&bytes).expect("an event");
            prop_assert_eq!((raw.rev, seq(raw.entry)), (seqs[0].0, Some(seqs[0].1)));
            prop_assert!(super::page(&bytes).is_none());
        }

        /// Bytes of the server's choice are refused or read, never followed out of range.
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64), cut in 0usize..400) {
            let _ = (event(&bytes), seq(&bytes));
            if let Some(page) = page(&bytes) {
                let _ = page.events().count();
            }
            let whole = encode(server_frame::Frame::Page(chat::Page {
                events: events(&[(1, 2), (3, 1 << 40)]),
                head: 9,
                live: true,
            }));
            let cut = &whole[..cut.min(whole.len() - 1)];
            prop_assert!(page(cut).is_none() && event(cut).is_none());
        }
    }

    #[test]
    fn presence_is_told_from_other_frames() {
        assert!(is_presence(&encode(server_frame::Frame::Presence(chat::Presence::default()))));
        let users = vec![chat::UserPresence { user: 7, online: true, ..Default::default() }; 50];
        assert!(is_presence(&encode(server_frame::Frame::Presence(chat::Presence { users }))));
        assert!(!is_presence(&encode(server_frame::Frame::Event(events(&[(1, 1)])[0].clone()))));
        assert!(!is_presence(&encode(server_frame::Frame::Devices(chat::Devices::default()))));
        assert!(!is_presence(&[]));
    }

    #[test]
    fn what_is_no_message_has_no_seq() {
        // An entry of a kind that is to come: field 2.
        assert_eq!(seq(&[0x12, 0x02, 0x08, 0x01]), None);
        assert_eq!(seq(&[]), None);
        let bytes = [0x1a, 0x08, 0x08, 0x07, 0x12, 0x04, 0x12, 0x02, 0x08, 0x01];
        assert_eq!(event(&bytes), Some(RawEvent { rev: 7, entry: &bytes[6..] }));
    }

    #[test]
    fn varints_longer_than_64_bits_are_refused() {
        let mut longest: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(number(&mut longest), Some(u64::MAX));
        let mut too_long: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert_eq!(number(&mut too_long), None);
    }
}
