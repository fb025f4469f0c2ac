//! Frames to whole messages.
//!
//! A message that lies whole in the input is unmasked where it lies and lent out: no copy, no allocation. Only when
//! the input ends in the middle of something is that something copied into a box, which goes away with it.

use super::close::CloseFrame;
use super::error::DecodeError;
use super::header::{self, Opcode};
use super::mask::apply_mask;
use super::partial::{Partial, Whole, control_item, take_front};
use super::{MessageLimits, Role};

/// Something whole that the peer sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// Wants a pong with the same payload.
    Ping(&'a [u8]),
    /// The answer to a ping, or an unsolicited sign of life.
    Pong(&'a [u8]),
    /// The peer's last frame; `None`: it gives no reason.
    Close(Option<CloseFrame<'a>>),
}

/// The reading half of one connection.
///
/// Whatever comes after a [`Item::Close`] or an error is discarded, as RFC 6455 §1.4 says: a closed connection has
/// nothing more to say, and a stream that has lost its frame boundaries cannot.
#[derive(Debug)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
    role: Role,
    is_ended: bool,
}

// Every connection has one: a byte here is a megabyte at a million.
const _: () = assert!(size_of::<Decoder>() <= 24);

impl Decoder {
    /// A decoder at the first byte after the handshake.
    #[must_use]
    pub const fn new(role: Role) -> Self {
        Self { partial: None, role, is_ended: false }
    }

    /// Takes the next whole thing off the front of `input`, unmasking in place.
    ///
    /// `Ok(None)`: all of `input` is consumed and more is needed; what was partial is remembered here. Call until
    /// then, also because the memory of a message that came in parts is given back by the call after it.
    ///
    /// # Errors
    /// The peer broke RFC 6455 or a limit: say [`DecodeError::close_code`] and close.
    #[inline]
    pub fn next<'b, 'a: 'b>(
        &'b mut self,
        input: &mut &'a mut [u8],
        limits: &MessageLimits,
    ) -> Result<Option<Item<'b>>, DecodeError> {
        if self.partial.is_none() && !self.is_ended {
            match whole_message(self.role, input, limits) {
                Ok(Some(item)) => {
                    self.is_ended = matches!(item, Item::Close(_));
                    return Ok(Some(item));
                }
                Ok(None) if input.is_empty() => return Ok(None),
                Ok(None) => {}
                Err(error) => {
                    self.is_ended = true;
                    return Err(error);
                }
            }
        }
        self.resume(input, limits)
    }

    /// Whether nothing is partial: no header, frame or message is waiting for more bytes.
    #[must_use]
    pub fn is_between_messages(&self) -> bool {
        self.partial.as_ref().is_none_or(|partial| partial.is_over())
    }

    /// Whether a close frame or an error has ended the stream.
    #[must_use]
    pub const fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// The heap that this decoder holds, for memory accounts. 0 while nothing is partial.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.held_bytes())
    }

    /// The way of everything that is not whole in one input.
    #[inline(never)]
    fn resume<'b, 'a: 'b>(
        &'b mut self,
        input: &mut &'a mut [u8],
        limits: &MessageLimits,
    ) -> Result<Option<Item<'b>>, DecodeError> {
        if self.is_ended {
            self.partial = None;
            *input = &mut [];
            return Ok(None);
        }
        if let Some(partial) = &mut self.partial
            && partial.release()
        {
            self.partial = None;
            return self.next(input, limits);
        }
        let whole = match self.partial.get_or_insert_default().advance(self.role, input, limits) {
            Ok(Some(whole)) => whole,
            Ok(None) => return Ok(None),
            Err(error) => {
                self.partial = None;
                self.is_ended = true;
                return Err(error);
            }
        };
        // Whatever a close frame says, nothing after it counts.
        self.is_ended = whole == Whole::Control(Opcode::Close);
        let partial = self.partial.as_ref().expect("invariant: it was advanced a moment ago");
        partial.item(whole).map(Some)
    }
}

/// The hot path: a message in one frame, or a control frame, all of it in `input`. `Ok(None)`: something else, or
/// nothing, is there, and `input` is untouched.
#[inline]
fn whole_message<'a>(
    role: Role,
    input: &mut &'a mut [u8],
    limits: &MessageLimits,
) -> Result<Option<Item<'a>>, DecodeError> {
    let Some(header) = header::parse(input, role, None, limits)? else { return Ok(None) };
    let frame_bytes = header.header_bytes as u64 + header.payload_bytes;
    if !header.fin || frame_bytes > input.len() as u64 {
        return Ok(None);
    }
    let payload = &mut take_front(input, frame_bytes)[header.header_bytes..];
    if let Some(key) = header.key {
        apply_mask(payload, key);
    }
    match header.opcode {
        Opcode::Text => match simdutf8::basic::from_utf8(payload) {
            Ok(text) => Ok(Some(Item::Text(text))),
            Err(_) => Err(DecodeError::TextNotUtf8),
        },
        Opcode::Binary => Ok(Some(Item::Binary(payload))),
        control => control_item(control, payload).map(Some),
    }
}
