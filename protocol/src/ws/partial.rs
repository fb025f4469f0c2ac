//! What has to be remembered when the bytes ran out in the middle: half a header, half a frame, half a message.
//!
//! Memory is taken for bytes that have arrived, doubling at most, and never beyond what the last frame declares.

use super::close::parse_close;
use super::decode::Item;
use super::error::DecodeError;
use super::header::{self, CONTROL_BYTES_MAX, HEADER_BYTES_MAX, Header, Opcode, OpenMessage};
use super::mask::{apply_mask, rotate_key};
use super::text::{NotUtf8, Text};
use super::{MessageLimits, Role};

/// A stream of frames that is not between messages.
#[derive(Debug, Default)]
pub(crate) struct Partial {
    header: HeaderBytes,
    frame: Option<Frame>,
    message: Option<Message>,
    control: ControlBytes,
    /// The message has been handed out, which borrowed it; it goes at the next turn.
    is_delivered: bool,
}

/// The part of a header that has arrived.
#[derive(Debug, Default)]
struct HeaderBytes {
    bytes: [u8; HEADER_BYTES_MAX],
    count: u8,
}

/// A frame whose header is complete.
#[derive(Debug)]
struct Frame {
    fin: bool,
    opcode: Opcode,
    remaining_bytes: u64,
    /// In phase with the next byte.
    key: Option<[u8; 4]>,
}

/// The payload of a control frame so far.
#[derive(Debug)]
struct ControlBytes {
    bytes: [u8; CONTROL_BYTES_MAX],
    count: u8,
}

impl Default for ControlBytes {
    fn default() -> Self {
        Self { bytes: [0; CONTROL_BYTES_MAX], count: 0 }
    }
}

/// A data message so far.
#[derive(Debug)]
struct Message {
    fragments: u32,
    /// The payloads of its frames, as their headers declare them.
    bytes: u64,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Text(Text),
    Binary(Vec<u8>),
}

/// What has become whole; [`Partial::item`] shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whole {
    Message,
    Control(Opcode),
}

impl Partial {
    /// Reads on until something is whole (`Some`) or `input` is used up.
    pub(crate) fn advance(
        &mut self,
        role: Role,
        input: &mut &mut [u8],
        limits: &MessageLimits,
    ) -> Result<Option<Whole>, DecodeError> {
        loop {
            if self.frame.is_none() {
                let Some(header) = self.read_header(role, input, limits)? else { return Ok(None) };
                self.begin(&header);
            }
            if let Some(whole) = self.read_payload(input)? {
                return Ok(Some(whole));
            }
            if input.is_empty() {
                return Ok(None);
            }
        }
    }

    /// Shows what [`advance`](Self::advance) said is whole.
    pub(crate) fn item(&self, whole: Whole) -> Result<Item<'_>, DecodeError> {
        match (whole, &self.message) {
            (Whole::Control(Opcode::Ping), _) => Ok(Item::Ping(self.control.as_slice())),
            (Whole::Control(Opcode::Pong), _) => Ok(Item::Pong(self.control.as_slice())),
            (Whole::Control(_), _) => parse_close(self.control.as_slice()).map(Item::Close),
            (Whole::Message, Some(Message { body: Body::Text(text), .. })) => Ok(Item::Text(text.as_str())),
            (Whole::Message, Some(Message { body: Body::Binary(bytes), .. })) => Ok(Item::Binary(bytes)),
            (Whole::Message, None) => unreachable!("a message that is whole is kept until it is released"),
        }
    }

    /// Forgets the message that was handed out. Whether nothing is left to remember.
    pub(crate) fn release(&mut self) -> bool {
        if std::mem::take(&mut self.is_delivered) {
            self.message = None;
        }
        self.is_over()
    }

    /// Nothing is partial: no byte of a header, frame or message is waiting for more.
    pub(crate) fn is_over(&self) -> bool {
        self.header.count == 0 && self.frame.is_none() && (self.message.is_none() || self.is_delivered)
    }

    /// The heap that this holds, itself included.
    pub(crate) fn held_bytes(&self) -> usize {
        let body = match &self.message {
            Some(Message { body: Body::Text(text), .. }) => text.capacity(),
            Some(Message { body: Body::Binary(bytes), .. }) => bytes.capacity(),
            None => 0,
        };
        size_of::<Self>() + body
    }

    /// Completes the header, byte by byte in the worst case: at most 14 of them, each judged as it comes.
    fn read_header(
        &mut self,
        role: Role,
        input: &mut &mut [u8],
        limits: &MessageLimits,
    ) -> Result<Option<Header>, DecodeError> {
        let open = self.message.as_ref().map(Message::as_open);
        let known = usize::from(self.header.count);
        let room = &mut self.header.bytes[known..];
        let copied = room.len().min(input.len());
        room[..copied].copy_from_slice(&input[..copied]);
        let count = known + copied;

        let Some(header) = header::parse(&self.header.bytes[..count], role, open, limits)? else {
            // Not complete, so all of `input` went into it: a header that has its 14 bytes is.
            self.header.count = count as u8;
            take_front(input, copied as u64);
            return Ok(None);
        };
        self.header.count = 0;
        take_front(input, (header.header_bytes - known) as u64);
        Ok(Some(header))
    }

    fn begin(&mut self, header: &Header) {
        let Header { fin, opcode, payload_bytes, key, .. } = *header;
        self.frame = Some(Frame { fin, opcode, remaining_bytes: payload_bytes, key });
        let body = match opcode {
            Opcode::Close | Opcode::Ping | Opcode::Pong => {
                self.control.count = 0;
                return;
            }
            Opcode::Continuation => None,
            Opcode::Text => Some(Body::Text(Text::default())),
            Opcode::Binary => Some(Body::Binary(Vec::new())),
        };
        if let Some(body) = body {
            self.message = Some(Message { fragments: 0, bytes: 0, body });
        }
        let message =
            self.message.as_mut().expect("invariant: a continuation was allowed, so a message is open");
        message.fragments += 1;
        // Within the limit on messages, so this saturates only where there is none.
        message.bytes = message.bytes.saturating_add(payload_bytes);
    }

    /// Takes what is there of the frame's payload.
    fn read_payload(&mut self, input: &mut &mut [u8]) -> Result<Option<Whole>, DecodeError> {
        let frame = self.frame.as_mut().expect("invariant: payload is read after its header");
        let chunk = take_front(input, frame.remaining_bytes);
        if let Some(key) = frame.key {
            apply_mask(chunk, key);
            frame.key = Some(rotate_key(key, chunk.len()));
        }
        let is_control = frame.opcode.is_control();
        if is_control {
            self.control.push(chunk);
        } else {
            let message = self.message.as_mut().expect("invariant: a data frame belongs to an open message");
            message.body.push(chunk, frame.fin.then_some(frame.remaining_bytes))?;
        }
        frame.remaining_bytes -= chunk.len() as u64;
        if frame.remaining_bytes > 0 {
            return Ok(None);
        }

        let Frame { fin, opcode, .. } = *frame;
        self.frame = None;
        if is_control {
            return Ok(Some(Whole::Control(opcode)));
        }
        if !fin {
            return Ok(None);
        }
        if let Some(Message { body: Body::Text(text), .. }) = &self.message {
            text.finish().map_err(|NotUtf8| DecodeError::TextNotUtf8)?;
        }
        self.is_delivered = true;
        Ok(Some(Whole::Message))
    }
}

impl ControlBytes {
    fn push(&mut self, chunk: &[u8]) {
        let start = usize::from(self.count);
        self.bytes[start..start + chunk.len()].copy_from_slice(chunk);
        self.count += chunk.len() as u8;
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.count)]
    }
}

impl Message {
    fn as_open(&self) -> OpenMessage {
        OpenMessage { fragments: self.fragments, bytes: self.bytes }
    }
}

impl Body {
    /// Appends unmasked payload. `last`: in a final frame, the bytes that are still to come, `chunk` included.
    fn push(&mut self, chunk: &[u8], last: Option<u64>) -> Result<(), DecodeError> {
        match self {
            Self::Text(text) => {
                text.reserve_exact(growth(text.held_bytes(), text.capacity(), chunk.len(), last));
                text.push(chunk).map_err(|NotUtf8| DecodeError::TextNotUtf8)
            }
            Self::Binary(bytes) => {
                bytes.reserve_exact(growth(bytes.len(), bytes.capacity(), chunk.len(), last));
                bytes.extend_from_slice(chunk);
                Ok(())
            }
        }
    }
}

/// How many bytes to have room for: `chunk`, and as many again as are held so that copying stays linear, but not more
/// than the final frame (if this is it) declares.
fn growth(held: usize, capacity: usize, chunk: usize, last: Option<u64>) -> usize {
    if capacity.saturating_sub(held) >= chunk {
        return 0;
    }
    let last = last.map_or(usize::MAX, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    chunk.max(held.min(last))
}

/// Takes at most `bytes` off the front of `input`.
#[inline]
pub(crate) fn take_front<'a>(input: &mut &'a mut [u8], bytes: u64) -> &'a mut [u8] {
    let count = usize::try_from(bytes).map_or(input.len(), |bytes| bytes.min(input.len()));
    let (front, rest) = std::mem::take(input).split_at_mut(count);
    *input = rest;
    front
}
