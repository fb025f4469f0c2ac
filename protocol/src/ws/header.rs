//! The frame header, RFC 6455 §5.2: everything in it is judged here, before a byte of payload is looked at.
//!
//! A header is judged as far as it has arrived, in the order of its bytes; so the verdict on a stream is the same
//! however it was cut, and a wrong frame is refused at its first wrong byte.

use super::error::DecodeError;
use super::{MessageLimits, Role};

/// The longest header: two bytes, a 64-bit length, a key.
pub(crate) const HEADER_BYTES_MAX: usize = 2 + 8 + 4;

/// The longest payload of a control frame, RFC 6455 §5.5.
pub(crate) const CONTROL_BYTES_MAX: usize = 125;

pub(crate) const FIN: u8 = 0x80;
pub(crate) const MASKED: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const LENGTH: u8 = 0x7f;
/// The length follows in 16 bits.
pub(crate) const LENGTH_16: u8 = 126;
/// The length follows in 64 bits.
pub(crate) const LENGTH_64: u8 = 127;

/// What a frame is, RFC 6455 §11.8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// The next fragment of the message that is open.
    Continuation = 0x0,
    /// UTF-8, or the first fragment of it.
    Text = 0x1,
    /// Bytes, or the first fragment of them.
    Binary = 0x2,
    /// The last frame of its sender.
    Close = 0x8,
    /// To be answered with a pong of the same payload.
    Ping = 0x9,
    /// The answer to a ping, or an unsolicited sign of life.
    Pong = 0xa,
}

impl Opcode {
    /// The opcode of this number; `None` for the reserved ones.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    /// The number on the wire.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self as u8
    }

    /// Whether frames of this kind may stand between the fragments of a message.
    #[must_use]
    pub const fn is_control(self) -> bool {
        self.bits() & 0x8 != 0
    }
}

/// A header that is complete and allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) fin: bool,
    pub(crate) opcode: Opcode,
    pub(crate) payload_bytes: u64,
    pub(crate) key: Option<[u8; 4]>,
    /// The length of the header itself.
    pub(crate) header_bytes: usize,
}

impl Header {
    /// The length of the whole frame. Below 2^64: a payload is below 2^63.
    pub(crate) const fn frame_bytes(&self) -> u64 {
        self.header_bytes as u64 + self.payload_bytes
    }
}

/// The message that is open while its next fragment is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenMessage {
    pub(crate) fragments: u32,
    pub(crate) bytes: u64,
}

/// Judges the header at the front of `bytes`, or the part of it that is there. `Ok(None)`: right so far, not complete.
#[inline]
pub(crate) fn parse(
    bytes: &[u8],
    role: Role,
    open: Option<OpenMessage>,
    limits: &MessageLimits,
) -> Result<Option<Header>, DecodeError> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    if first & RESERVED != 0 {
        return Err(DecodeError::ReservedBits((first & RESERVED) >> 4));
    }
    let Some(opcode) = Opcode::from_bits(first & OPCODE) else {
        return Err(DecodeError::ReservedOpcode(first & OPCODE));
    };
    let fin = first & FIN != 0;
    if opcode.is_control() {
        if !fin {
            return Err(DecodeError::FragmentedControl(opcode.bits()));
        }
    } else {
        match (opcode, open) {
            (Opcode::Continuation, None) => return Err(DecodeError::UnexpectedContinuation),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(DecodeError::ExpectedContinuation),
            _ => {}
        }
        if open.map_or(0, |open| open.fragments) >= limits.fragments {
            return Err(DecodeError::TooManyFragments { limit: limits.fragments });
        }
    }

    let Some(&second) = bytes.get(1) else { return Ok(None) };
    let masked = second & MASKED != 0;
    match role {
        Role::Server if !masked => return Err(DecodeError::Unmasked),
        Role::Client if masked => return Err(DecodeError::Masked),
        _ => {}
    }
    let length = second & LENGTH;
    if opcode.is_control() && usize::from(length) > CONTROL_BYTES_MAX {
        return Err(DecodeError::ControlTooLong(length));
    }

    let (payload_bytes, length_end) = match length {
        LENGTH_16 => {
            let Some(field) = bytes[2..].first_chunk::<2>() else { return Ok(None) };
            let declared = u64::from(u16::from_be_bytes(*field));
            if declared < u64::from(LENGTH_16) {
                return Err(DecodeError::LengthNotMinimal(declared));
            }
            (declared, 4)
        }
        LENGTH_64 => {
            let Some(field) = bytes[2..].first_chunk::<8>() else { return Ok(None) };
            let declared = u64::from_be_bytes(*field);
            if declared >> 63 != 0 {
                return Err(DecodeError::LengthTopBit(declared));
            }
            if declared <= u64::from(u16::MAX) {
                return Err(DecodeError::LengthNotMinimal(declared));
            }
            (declared, 10)
        }
        short => (u64::from(short), 2),
    };
    if !opcode.is_control() {
        if payload_bytes > limits.frame_bytes {
            return Err(DecodeError::FrameTooLarge { declared: payload_bytes, limit: limits.frame_bytes });
        }
        let message_bytes = open.map_or(0, |open| open.bytes).saturating_add(payload_bytes);
        if message_bytes > limits.message_bytes {
            return Err(DecodeError::MessageTooLarge {
                declared: message_bytes,
                limit: limits.message_bytes,
            });
        }
    }

    if !masked {
        return Ok(Some(Header { fin, opcode, payload_bytes, key: None, header_bytes: length_end }));
    }
    let Some(key) = bytes[length_end..].first_chunk::<4>() else { return Ok(None) };
    Ok(Some(Header { fin, opcode, payload_bytes, key: Some(*key), header_bytes: length_end + 4 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: MessageLimits =
        MessageLimits { frame_bytes: 1 << 20, message_bytes: 1 << 20, fragments: 4 };

    fn server(bytes: &[u8]) -> Result<Option<Header>, DecodeError> {
        parse(bytes, Role::Server, None, &LIMITS)
    }

    #[test]
    fn reads_the_three_length_forms() {
        let short = server(&[0x82, 0x85, 1, 2, 3, 4]).unwrap().unwrap();
        assert_eq!((short.payload_bytes, short.key, short.header_bytes), (5, Some([1, 2, 3, 4]), 6));
        let medium = server(&[0x01, 0xfe, 0x01, 0x00, 1, 2, 3, 4]).unwrap().unwrap();
        assert_eq!((medium.payload_bytes, medium.fin, medium.header_bytes), (256, false, 8));
        let long = server(&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4]).unwrap().unwrap();
        assert_eq!((long.payload_bytes, long.header_bytes), (65_536, 14));
        let unmasked = parse(&[0x8a, 0x00], Role::Client, None, &LIMITS).unwrap().unwrap();
        assert_eq!((unmasked.opcode, unmasked.key, unmasked.header_bytes), (Opcode::Pong, None, 2));
    }

    #[test]
    fn every_reserved_opcode_and_bit_is_refused_at_the_first_byte() {
        for first in 0..=u8::MAX {
            let verdict = server(&[first]);
            let reserved = first & 0x70 != 0;
            let opcode = first & 0x0f;
            let expected = if reserved {
                Err(DecodeError::ReservedBits((first & 0x70) >> 4))
            } else if matches!(opcode, 3..=7 | 11..=15) {
                Err(DecodeError::ReservedOpcode(opcode))
            } else if opcode >= 8 && first & 0x80 == 0 {
                Err(DecodeError::FragmentedControl(opcode))
            } else if opcode == 0 {
                Err(DecodeError::UnexpectedContinuation)
            } else {
                Ok(None)
            };
            assert_eq!(verdict, expected, "first byte {first:#04x}");
        }
    }

    #[test]
    fn lengths_are_minimal_and_below_two_to_the_63() {
        assert_eq!(server(&[0x82, 0xfe, 0, 125]), Err(DecodeError::LengthNotMinimal(125)));
        assert_eq!(
            server(&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 255, 255]),
            Err(DecodeError::LengthNotMinimal(65_535))
        );
        let huge = [0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(server(&huge), Err(DecodeError::LengthTopBit(1 << 63)));
        let large = [0x82, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255];
        let error = DecodeError::FrameTooLarge { declared: u64::MAX >> 1, limit: 1 << 20 };
        assert_eq!(server(&large), Err(error));
    }

    #[test]
    fn control_frames_are_short() {
        assert_eq!(server(&[0x89, 0xfe]), Err(DecodeError::ControlTooLong(126)));
        assert_eq!(server(&[0x88, 0xff]), Err(DecodeError::ControlTooLong(127)));
        assert_eq!(server(&[0x89, 0xfd]), Ok(None));
    }

    #[test]
    fn each_role_insists_on_its_masking() {
        assert_eq!(server(&[0x82, 0x00]), Err(DecodeError::Unmasked));
        assert_eq!(parse(&[0x82, 0x80], Role::Client, None, &LIMITS), Err(DecodeError::Masked));
    }

    #[test]
    fn limits_hold_from_both_sides() {
        let limits = MessageLimits { frame_bytes: 10, message_bytes: 15, fragments: 2 };
        let frame = |bytes: u8, open| parse(&[0x80, 0x80 | bytes, 0, 0, 0, 0], Role::Server, open, &limits);
        let open = Some(OpenMessage { fragments: 1, bytes: 5 });
        assert!(frame(10, open).unwrap().is_some());
        assert_eq!(frame(11, open), Err(DecodeError::FrameTooLarge { declared: 11, limit: 10 }));
        let fuller = Some(OpenMessage { fragments: 1, bytes: 6 });
        assert_eq!(frame(10, fuller), Err(DecodeError::MessageTooLarge { declared: 16, limit: 15 }));
        let full = Some(OpenMessage { fragments: 2, bytes: 0 });
        assert_eq!(frame(0, full), Err(DecodeError::TooManyFragments { limit: 2 }));
        // Control frames are outside of the limits on messages.
        let tiny = MessageLimits { frame_bytes: 0, message_bytes: 0, fragments: 0 };
        assert!(parse(&[0x89, 0xfd, 0, 0, 0, 0], Role::Server, full, &tiny).unwrap().is_some());
    }
}
