//! Messages to frames, RFC 6455 §5.2: the shortest length form, always.

use super::close::{CloseCode, fitting};
use super::header::{CONTROL_BYTES_MAX, FIN, HEADER_BYTES_MAX, LENGTH_16, LENGTH_64, MASKED, Opcode};
use super::mask::{apply_mask, extend_masked};

/// The length of the header of a frame with a payload of `payload_bytes`.
#[must_use]
pub const fn header_bytes(payload_bytes: u64, masked: bool) -> usize {
    let length = match payload_bytes {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    };
    if masked { length + 4 } else { length }
}

/// Appends a frame header. With a `mask`, the payload that follows must have been masked with it.
///
/// # Panics
/// When the payload has 2^63 bytes or more, which no slice can have.
#[inline]
pub fn encode_header(
    out: &mut Vec<u8>,
    fin: bool,
    opcode: Opcode,
    payload_bytes: u64,
    mask: Option<[u8; 4]>,
) {
    assert!(payload_bytes >> 63 == 0, "a WebSocket payload has less than 2^63 bytes");
    let first = opcode.bits() | if fin { FIN } else { 0 };
    let masked = if mask.is_some() { MASKED } else { 0 };
    // Arrays of fixed length: each becomes one store, where a slice of variable length would be a call.
    match payload_bytes {
        0..=125 => out.extend_from_slice(&[first, masked | payload_bytes as u8]),
        126..=0xffff => {
            let [high, low] = (payload_bytes as u16).to_be_bytes();
            out.extend_from_slice(&[first, masked | LENGTH_16, high, low]);
        }
        _ => {
            out.extend_from_slice(&[first, masked | LENGTH_64]);
            out.extend_from_slice(&payload_bytes.to_be_bytes());
        }
    }
    if let Some(key) = mask {
        out.extend_from_slice(&key);
    }
}

/// Appends a whole message or control frame, masked while it is copied.
#[inline]
pub fn encode_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) {
    debug_assert!(
        !opcode.is_control() || payload.len() <= CONTROL_BYTES_MAX,
        "a control frame carries at most 125 bytes, not {}",
        payload.len()
    );
    out.reserve(HEADER_BYTES_MAX + payload.len());
    encode_header(out, true, opcode, payload.len() as u64, mask);
    match mask {
        Some(key) => extend_masked(out, payload, key),
        None => out.extend_from_slice(payload),
    }
}

/// Appends a close frame. A reason longer than 123 bytes is cut between characters. A code that may not be sent
/// (such as [`CloseCode::NO_STATUS`]) makes a frame without a body.
pub fn encode_close(out: &mut Vec<u8>, code: CloseCode, reason: &str, mask: Option<[u8; 4]>) {
    if !code.is_valid_on_wire() {
        return encode_frame(out, Opcode::Close, &[], mask);
    }
    let reason = fitting(reason);
    encode_header(out, true, Opcode::Close, 2 + reason.len() as u64, mask);
    let start = out.len();
    out.extend_from_slice(&code.0.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
    if let Some(key) = mask {
        apply_mask(&mut out[start..], key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
        let mut out = Vec::new();
        encode_frame(&mut out, opcode, payload, mask);
        out
    }

    /// The examples of RFC 6455 §5.7.
    #[test]
    fn writes_the_examples_of_the_rfc() {
        assert_eq!(encoded(Opcode::Text, b"Hello", None), b"\x81\x05Hello");
        let masked = encoded(Opcode::Text, b"Hello", Some([0x37, 0xfa, 0x21, 0x3d]));
        assert_eq!(masked, [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
        let mut fragments = Vec::new();
        encode_header(&mut fragments, false, Opcode::Text, 3, None);
        fragments.extend_from_slice(b"Hel");
        encode_header(&mut fragments, true, Opcode::Continuation, 2, None);
        fragments.extend_from_slice(b"lo");
        assert_eq!(fragments, b"\x01\x03Hel\x80\x02lo");
        assert_eq!(encoded(Opcode::Binary, &[0; 256], None)[..4], [0x82, 0x7e, 0x01, 0x00]);
        assert_eq!(encoded(Opcode::Binary, &[0; 65_536], None)[..10], [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn the_shortest_form_at_every_edge() {
        for payload_bytes in [0, 1, 125, 126, 65_535, 65_536, 1 << 62] {
            for mask in [None, Some([1, 2, 3, 4])] {
                let mut out = Vec::new();
                encode_header(&mut out, true, Opcode::Binary, payload_bytes, mask);
                assert_eq!(out.len(), header_bytes(payload_bytes, mask.is_some()), "{payload_bytes} bytes");
            }
        }
    }

    #[test]
    fn close_frames_say_what_they_may() {
        let mut out = Vec::new();
        encode_close(&mut out, CloseCode::SERVICE_RESTART, "back soon", None);
        assert_eq!(out, b"\x88\x0b\x03\xf4back soon");
        out.clear();
        encode_close(&mut out, CloseCode::NO_STATUS, "ignored", None);
        assert_eq!(out, b"\x88\x00");
        out.clear();
        encode_close(&mut out, CloseCode::NORMAL, &"x".repeat(500), Some([0; 4]));
        assert_eq!(out.len(), 2 + 4 + 125);
    }
}
