//! Frames to whole messages.
//!
//! A message that lies whole in the input is unmasked where it lies and lent out: no copy, no allocation. Only when
//! the input ends in the middle of something is that something copied into a box, which goes away with it.

use super::close::{CloseFrame, parse_close};
use super::error::DecodeError;
use super::header::{self, Header, Opcode};
use super::mask::apply_mask;
use super::partial::{Partial, Whole, take_front};
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
            match header::parse(input, self.role, None, limits) {
                Ok(Some(header)) if header.fin && header.frame_bytes() <= input.len() as u64 => {
                    return self.lend(&header, take_front(input, header.frame_bytes()));
                }
                Ok(_) if input.is_empty() => return Ok(None),
                Ok(_) => {}
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

    /// The hot path: a message in one frame, or a control frame, all of it in the input.
    #[inline]
    fn lend<'a>(&mut self, header: &Header, frame: &'a mut [u8]) -> Result<Option<Item<'a>>, DecodeError> {
        let payload = &mut frame[header.header_bytes..];
        if let Some(key) = header.key {
            apply_mask(payload, key);
        }
        match header.opcode {
            Opcode::Binary => Ok(Some(Item::Binary(payload))),
            Opcode::Text => match simdutf8::basic::from_utf8(payload) {
                Ok(text) => Ok(Some(Item::Text(text))),
                Err(_) => {
                    self.is_ended = true;
                    Err(DecodeError::TextNotUtf8)
                }
            },
            Opcode::Ping => Ok(Some(Item::Ping(payload))),
            Opcode::Pong => Ok(Some(Item::Pong(payload))),
            Opcode::Close => {
                // Whatever it says, nothing after it counts.
                self.is_ended = true;
                parse_close(payload).map(|close| Some(Item::Close(close)))
            }
            Opcode::Continuation => unreachable!("no message is open, so a continuation was refused"),
        }
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
        self.is_ended = whole == Whole::Control(Opcode::Close);
        let partial = self.partial.as_ref().expect("invariant: it was advanced a moment ago");
        partial.item(whole).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::super::close::CloseCode;
    use super::super::encode::{encode_close, encode_frame, encode_header};
    use super::*;

    const LIMITS: MessageLimits =
        MessageLimits { frame_bytes: 1 << 20, message_bytes: 1 << 20, fragments: 64 };
    const KEY: Option<[u8; 4]> = Some([0x37, 0xfa, 0x21, 0x3d]);

    fn frame(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_header(&mut out, fin, opcode, payload.len() as u64, KEY);
        let start = out.len();
        out.extend_from_slice(payload);
        apply_mask(&mut out[start..], KEY.unwrap());
        out
    }

    /// What comes out of `pieces`, as text; ends with the error if there is one.
    fn items<'a>(decoder: &mut Decoder, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let mut seen = Vec::new();
        for piece in pieces {
            let mut bytes = piece.to_vec();
            let mut input = bytes.as_mut_slice();
            loop {
                match decoder.next(&mut input, &LIMITS) {
                    Ok(Some(item)) => seen.push(format!("{item:?}")),
                    Ok(None) => break,
                    Err(error) => {
                        seen.push(format!("{error:?}"));
                        break;
                    }
                }
            }
        }
        seen
    }

    #[test]
    fn a_whole_message_is_lent_where_it_lies() {
        let mut bytes = [frame(true, Opcode::Binary, b"one"), frame(true, Opcode::Text, b"two")].concat();
        let range = bytes.as_ptr_range();
        let mut input = bytes.as_mut_slice();
        let mut decoder = Decoder::new(Role::Server);
        match decoder.next(&mut input, &LIMITS) {
            Ok(Some(Item::Binary(payload))) => {
                assert_eq!(payload, b"one");
                assert!(range.contains(&payload.as_ptr()));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(decoder.next(&mut input, &LIMITS), Ok(Some(Item::Text("two"))));
        assert_eq!(decoder.next(&mut input, &LIMITS), Ok(None));
        assert_eq!(decoder.held_bytes(), 0);
    }

    #[test]
    fn control_frames_come_through_between_fragments() {
        // The cut is in the middle of the ü.
        let (front, back) = "zwei Türen".as_bytes().split_at(7);
        let bytes = [
            frame(false, Opcode::Text, front),
            frame(true, Opcode::Ping, b"?"),
            frame(false, Opcode::Continuation, b""),
            frame(true, Opcode::Pong, b"!"),
            frame(true, Opcode::Continuation, back),
            frame(true, Opcode::Binary, b"next"),
        ]
        .concat();
        let expected = ["Ping([63])", "Pong([33])", "Text(\"zwei Türen\")", "Binary([110, 101, 120, 116])"];
        assert_eq!(items(&mut Decoder::new(Role::Server), [bytes.as_slice()]), expected);
        let mut decoder = Decoder::new(Role::Server);
        assert_eq!(items(&mut decoder, bytes.chunks(1)), expected);
        assert!(decoder.is_between_messages());
    }

    #[test]
    fn memory_is_taken_for_what_arrives_and_given_back() {
        let mut decoder = Decoder::new(Role::Server);
        let whole = frame(true, Opcode::Binary, &[7; 300_000]);
        let (first, rest) = whole.split_at(1_000);
        assert!(items(&mut decoder, [first]).is_empty());
        assert!(!decoder.is_between_messages());
        assert!(decoder.held_bytes() < 1_500, "{} bytes are held for 1,000", decoder.held_bytes());
        let mut peak = 0;
        for piece in rest.chunks(1_000) {
            let mut bytes = piece.to_vec();
            let mut input = bytes.as_mut_slice();
            let is_whole = decoder.next(&mut input, &LIMITS).unwrap().is_some();
            peak = peak.max(decoder.held_bytes());
            assert_eq!(is_whole, decoder.is_between_messages());
        }
        // Never more than the frame declares, whatever doubling would have taken.
        assert!(peak < 300_500, "{peak} bytes are held for 300,000");
        assert!(items(&mut decoder, [b"".as_slice()]).is_empty());
        assert_eq!(decoder.held_bytes(), 0);
    }

    #[test]
    fn nothing_after_a_close_frame_counts() {
        let mut close = Vec::new();
        encode_close(&mut close, CloseCode::GOING_AWAY, "tab closed", KEY);
        let close_item = "Close(Some(CloseFrame { code: CloseCode(1001), reason: \"tab closed\" }))";
        for after in [frame(true, Opcode::Text, b"late"), vec![0xff; 40]] {
            let bytes = [frame(false, Opcode::Text, b"half"), close.clone(), after].concat();
            for size in [1, 7, bytes.len()] {
                let mut decoder = Decoder::new(Role::Server);
                assert_eq!(items(&mut decoder, bytes.chunks(size)), [close_item]);
                assert!(decoder.is_ended());
                assert_eq!(decoder.held_bytes(), 0);
            }
        }
    }

    #[test]
    fn nothing_after_an_error_counts() {
        let bytes = [vec![0x83, 0x80, 0, 0, 0, 0], frame(true, Opcode::Text, b"late")].concat();
        for size in [1, 3, bytes.len()] {
            let mut decoder = Decoder::new(Role::Server);
            assert_eq!(items(&mut decoder, bytes.chunks(size)), ["ReservedOpcode(3)"]);
        }
    }

    #[test]
    fn text_that_cannot_be_utf8_fails_in_the_middle_of_a_frame() {
        let mut decoder = Decoder::new(Role::Server);
        let whole = frame(true, Opcode::Text, b"ok \xf4\x90 and much more");
        let wrong = 6 + 4;
        assert!(items(&mut decoder, [&whole[..wrong]]).is_empty());
        assert_eq!(items(&mut decoder, [&whole[wrong..=wrong]]), ["TextNotUtf8"]);
        assert_eq!(items(&mut Decoder::new(Role::Server), [whole.as_slice()]), ["TextNotUtf8"]);
    }

    #[test]
    fn a_client_reads_unmasked_frames() {
        let mut bytes = Vec::new();
        encode_frame(&mut bytes, Opcode::Text, b"hi", None);
        encode_close(&mut bytes, CloseCode::NORMAL, "", None);
        for size in [1, bytes.len()] {
            let seen = items(&mut Decoder::new(Role::Client), bytes.chunks(size));
            assert_eq!(seen[0], "Text(\"hi\")");
            assert_eq!(seen.len(), 2);
        }
    }

    #[test]
    fn many_tiny_fragments_stop_at_the_limit() {
        let mut decoder = Decoder::new(Role::Server);
        let first = frame(false, Opcode::Binary, b"");
        let next = frame(false, Opcode::Continuation, b"");
        assert!(items(&mut decoder, [first.as_slice()]).is_empty());
        assert!(items(&mut decoder, std::iter::repeat_n(next.as_slice(), 63)).is_empty());
        assert_eq!(items(&mut decoder, [next.as_slice()]), ["TooManyFragments { limit: 64 }"]);
        assert_eq!(decoder.held_bytes(), 0);
    }
}
