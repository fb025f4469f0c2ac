//! `holdfast.v1.Entry` as bytes: made once per message, here, and shared by all who store or receive it.
//!
//! Written by hand because a struct of owned strings per message, only to encode it, would cost more than the rest of
//! a send; a test holds it against the schema's generated types.

use bytes::BufMut;
use holdfast_protocol::id::{ConversationId, MessageId, Seq, UserId};

/// What is written into an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MessageEntry<'a> {
    pub(crate) conversation: ConversationId,
    pub(crate) seq: Seq,
    pub(crate) message_id: MessageId,
    pub(crate) sender: UserId,
    pub(crate) client_id: &'a [u8],
    pub(crate) device: &'a [u8],
    pub(crate) time_ms: u64,
    /// A `holdfast.v1.Body`, encoded.
    pub(crate) body: &'a [u8],
    pub(crate) reply_to: Option<Seq>,
    /// Only in a history: the last edit or deletion.
    pub(crate) changed_by: Option<Seq>,
    /// How many messages the conversation has up to here; absent in what older versions have written.
    pub(crate) ordinal: Option<u64>,
}

/// A conversation's text form, on the stack.
struct ConversationText {
    bytes: [u8; 41],
    len: usize,
}

impl ConversationText {
    fn new(conversation: ConversationId) -> Self {
        use std::io::Write as _;
        let mut bytes = [0; 41];
        let mut rest = bytes.as_mut_slice();
        write!(rest, "{conversation}").expect("invariant: two u64 and a colon are at most 41 bytes");
        let len = 41 - rest.len();
        Self { bytes, len }
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl MessageEntry<'_> {
    /// Encodes it, into a buffer that `make` gets the length of.
    pub(crate) fn encode<B: BufMut>(&self, make: impl FnOnce(usize) -> B) -> B {
        let conversation = ConversationText::new(self.conversation);
        let numbers = [(2, self.seq.0), (3, self.message_id.0), (4, self.sender.0), (7, self.time_ms)];
        // Absent is the default in proto3, except for the body, whose presence is visible.
        let bytes = [(1, conversation.as_slice()), (5, self.client_id), (6, self.device)];
        let present = |(_, bytes): &&(u32, &[u8])| !bytes.is_empty();
        let message_bytes = bytes
            .iter()
            .filter(present)
            .map(|(_, bytes)| delimited_bytes(bytes.len()))
            .sum::<usize>()
            + numbers.iter().filter(|(_, n)| *n != 0).map(|(_, n)| 1 + varint_bytes(*n)).sum::<usize>()
            + delimited_bytes(self.body.len())
            + self.optional().iter().flatten().map(|&(_, number)| 1 + varint_bytes(number)).sum::<usize>();
        let mut out = make(delimited_bytes(message_bytes));
        put_head(&mut out, 1, message_bytes);
        let put_bytes = |out: &mut B, (field, bytes): (u32, &[u8])| {
            if !bytes.is_empty() {
                put_head(out, field, bytes.len());
                out.put_slice(bytes);
            }
        };
        let put_number = |out: &mut B, (field, number): (u32, u64)| {
            if number != 0 {
                put_varint(out, u64::from(field << 3));
                put_varint(out, number);
            }
        };
        let [seq, message_id, sender, time_ms] = numbers;
        let [conversation, client_id, device] = bytes;
        put_bytes(&mut out, conversation);
        put_number(&mut out, seq);
        put_number(&mut out, message_id);
        put_number(&mut out, sender);
        put_bytes(&mut out, client_id);
        put_bytes(&mut out, device);
        put_number(&mut out, time_ms);
        put_head(&mut out, 8, self.body.len());
        out.put_slice(self.body);
        for (field, number) in self.optional().into_iter().flatten() {
            put_varint(&mut out, u64::from(field << 3));
            put_varint(&mut out, number);
        }
        out
    }

    /// What the schema calls optional: it is there with its zero value too.
    fn optional(&self) -> [Option<(u32, u64)>; 3] {
        [
            self.reply_to.map(|seq| (9, seq.0)),
            self.changed_by.map(|seq| (10, seq.0)),
            self.ordinal.map(|ordinal| (11, ordinal)),
        ]
    }

    /// How many messages the conversation has up to this one. Where older versions have not counted, everything that
    /// happened counts.
    pub(crate) fn ordinal(&self) -> u64 {
        self.ordinal.unwrap_or(self.seq.0)
    }

    /// Reads what `encode` wrote.
    pub(crate) fn decode(entry: &[u8]) -> Option<MessageEntry<'_>> {
        let mut rest = entry;
        let (1, Field::Bytes(mut message)) = field(&mut rest)? else { return None };
        if !rest.is_empty() {
            return None;
        }
        let mut decoded = MessageEntry {
            conversation: ConversationId(0),
            seq: Seq(0),
            message_id: MessageId(0),
            sender: UserId(0),
            client_id: &[],
            device: &[],
            time_ms: 0,
            body: &[],
            reply_to: None,
            changed_by: None,
            ordinal: None,
        };
        while !message.is_empty() {
            match field(&mut message)? {
                (1, Field::Bytes(text)) => {
                    decoded.conversation = std::str::from_utf8(text).ok()?.parse().ok()?;
                }
                (2, Field::Number(number)) => decoded.seq = Seq(number),
                (3, Field::Number(number)) => decoded.message_id = MessageId(number),
                (4, Field::Number(number)) => decoded.sender = UserId(number),
                (5, Field::Bytes(bytes)) => decoded.client_id = bytes,
                (6, Field::Bytes(bytes)) => decoded.device = bytes,
                (7, Field::Number(number)) => decoded.time_ms = number,
                (8, Field::Bytes(bytes)) => decoded.body = bytes,
                (9, Field::Number(number)) => decoded.reply_to = Some(Seq(number)),
                (10, Field::Number(number)) => decoded.changed_by = Some(Seq(number)),
                (11, Field::Number(number)) => decoded.ordinal = Some(number),
                _ => return None,
            }
        }
        Some(decoded)
    }
}

fn varint_bytes(number: u64) -> usize {
    // 7 bits a byte.
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

/// Of a field with a number below 16: tag, length, and as many bytes.
fn delimited_bytes(len: usize) -> usize {
    1 + varint_bytes(len as u64) + len
}

fn put_head(out: &mut impl BufMut, field: u32, len: usize) {
    put_varint(out, u64::from(field << 3 | 2));
    put_varint(out, len as u64);
}

pub(crate) fn put_varint(out: &mut impl BufMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Field<'a>)> {
    let tag = varint(rest)?;
    let field = match tag & 7 {
        0 => Field::Number(varint(rest)?),
        2 => {
            let len = usize::try_from(varint(rest)?).ok()?;
            let (bytes, after) = rest.split_at_checked(len)?;
            *rest = after;
            Field::Bytes(bytes)
        }
        _ => return None,
    };
    Some((tag >> 3, field))
}

pub(crate) fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_of_varints() {
        for (number, bytes) in [(0, 1), (1, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (u64::MAX, 10)]
        {
            let mut out = Vec::new();
            put_varint(&mut out, number);
            assert_eq!((varint_bytes(number), out.len()), (bytes, bytes), "{number}");
            assert_eq!(varint(&mut out.as_slice()), Some(number));
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_comes_back(
            users in (1u64.., 1u64..).prop_filter("two users", |(one, other)| one != other),
            numbers in any::<[u64; 4]>(),
            client_id in "[a-z0-9-]{0,64}",
            device in "[a-z]{0,64}",
            body in proptest::collection::vec(any::<u8>(), 0..300),
            optional in any::<[Option<u64>; 3]>(),
        ) {
            let [seq, message_id, sender, time_ms] = numbers;
            let entry = MessageEntry {
                conversation: ConversationId::direct(UserId(users.0), UserId(users.1)),
                seq: Seq(seq),
                message_id: MessageId(message_id),
                sender: UserId(sender),
                client_id: client_id.as_bytes(),
                device: device.as_bytes(),
                time_ms,
                body: &body,
                reply_to: optional[0].map(Seq),
                changed_by: optional[1].map(Seq),
                ordinal: optional[2],
            };
            let mut announced = 0;
            let bytes = entry.encode(|len| { announced = len; Vec::new() });
            prop_assert_eq!(announced, bytes.len());
            prop_assert_eq!(MessageEntry::decode(&bytes), Some(entry));
        }

        #[test]
        fn any_bytes_decode_or_not_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = MessageEntry::decode(&bytes);
        }
    }
}
